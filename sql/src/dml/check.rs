//! What is about to be written, decoded once more: whether the row says what was meant, and whether
//! each entry that is put or removed is that of the row.
//!
//! Reads decode by the same functions, so that what passes here is found there. An error of the SQL tier
//! (columns mixed up, a value in a form that is not stored) thus ends the statement before anything of it
//! is written. What an entry's key does not give back is compared where the value keeps it.
//!
//! **Cost.** A pass over the bytes of the row and of the entries; text in keys that give it back, and
//! handles of more than one integer, are copied.
//!
//! The idea, its errors (8138 to 8140) and its switch (`tidb_enable_mutation_checker`) are TiDB's. That keys
//! exist which should is checked at prewrite (`tidb_txn_assertion_level`).

use std::borrow::Cow;

use cairn_planner::catalog::{ColumnInfo, IndexInfo, TableInfo};
use cairn_types::keys::{self, IndexKey};
use cairn_types::row::{self, RowView};
use cairn_types::{Datum, DatumRef, FieldType, Handle, MysqlError, codec, errno};

use crate::error::{Result, SqlError};
use crate::record::{self, IndexEntry, damaged};

/// Whether key and value are those of a row: `row` are all columns of the table by offset.
pub fn row(
    table: &TableInfo,
    handle: &Handle,
    row: &[Datum],
    key: &[u8],
    value: &[u8],
) -> Result<()> {
    let named = keys::decode_row_key(key).map_err(|error| damaged(table, &error))?;
    let of_row = match table.pk_is_handle {
        true => record::handle_of_row(table, row)?,
        false => None,
    };
    let is_handle = |other: &Handle| other == handle;
    if named.0 != table.id || !is_handle(&named.1) || !of_row.as_ref().is_none_or(is_handle) {
        return Err(wrong_value(table, of_row.as_ref().unwrap_or(handle), &named.1));
    }
    let view = RowView::parse(value).map_err(|error| damaged(table, &error))?;
    for (offset, column) in table.writable_columns() {
        let meant = row[offset].as_ref();
        let found = match view.get(column.id) {
            Some(Some(bytes)) => {
                row::decode_value_ref(bytes, &column.ty).map_err(|error| damaged(table, &error))?
            }
            Some(None) => DatumRef::Null,
            None if record::is_in_key(table, offset) => continue,
            None => return Err(wrong_value(table, &shown(&meant, &column.ty), &"nothing")),
        };
        if found != meant {
            let (meant, found) = (shown(&meant, &column.ty), shown(&found, &column.ty));
            return Err(wrong_value(table, &meant, &found));
        }
    }
    Ok(())
}

/// Whether an entry that is put or removed is that of the row.
pub fn entry(
    table: &TableInfo,
    index: &IndexInfo,
    handle: &Handle,
    row: &[Datum],
    entry: &IndexEntry,
) -> Result<()> {
    let corrupt = |error| damaged(table, &error);
    let key = keys::decode_index_key(&entry.key).map_err(corrupt)?;
    let value = keys::decode_index_value(&entry.value).map_err(corrupt)?;
    if key.table != table.id || key.index != index.id {
        return Err(wrong_handle(table, index, &"of another index", handle));
    }
    let kept = value.columns.map(RowView::parse).transpose().map_err(corrupt)?;
    let mut rest = key.columns;
    for part in &index.columns {
        let column = &table.columns[part.offset];
        let meant = record::index_part(&row[part.offset], &column.ty, part.prefix_length);
        if meant.is_null() || codec::key_is_restorable(&column.ty) {
            let found = codec::decode_datum_key(&mut rest, &column.ty).map_err(corrupt)?;
            if !is_same(&found.as_ref(), &meant, &column.ty) {
                return Err(wrong_part(table, index, column, &found.as_ref(), &meant));
            }
            continue;
        }
        rest = &rest[codec::skip_datum_key(rest).map_err(corrupt)?..];
        let found = match kept.as_ref().and_then(|kept| kept.get(column.id)) {
            Some(Some(bytes)) => row::decode_value_ref(bytes, &column.ty).map_err(corrupt)?,
            Some(None) | None => DatumRef::Null,
        };
        if found != meant {
            return Err(wrong_part(table, index, column, &found, &meant));
        }
    }
    let is_int = matches!(handle, Handle::Int(_));
    let in_key = IndexKey { columns: rest, ..key }.handle(0, is_int).map_err(corrupt)?;
    match (in_key, value.handle) {
        (Some(named), None) | (None, Some(named)) if named == *handle => Ok(()),
        (Some(named), _) | (None, Some(named)) => Err(wrong_handle(table, index, &named, handle)),
        (None, None) => Err(wrong_handle(table, index, &"none", handle)),
    }
}

/// Blanks at the end say nothing where the collation pads, and keys leave them out.
fn is_same(found: &DatumRef<'_>, meant: &DatumRef<'_>, ty: &FieldType) -> bool {
    match (found, meant) {
        (DatumRef::Bytes(found), DatumRef::Bytes(meant)) if ty.collation.pad_space() => {
            without_blanks(found) == without_blanks(meant)
        }
        _ => found == meant,
    }
}

fn without_blanks(text: &[u8]) -> &[u8] {
    let end = text.iter().rposition(|byte| *byte != b' ').map_or(0, |at| at + 1);
    &text[..end]
}

fn shown(value: &DatumRef<'_>, ty: &FieldType) -> Cow<'static, str> {
    if value.is_null() {
        return "NULL".into();
    }
    let mut text = Vec::new();
    cairn_types::write_text(&mut text, value.clone(), ty);
    String::from_utf8_lossy(&text).into_owned().into()
}

/// Error 8138.
fn wrong_value(
    table: &TableInfo,
    meant: &dyn std::fmt::Display,
    found: &dyn std::fmt::Display,
) -> SqlError {
    let args: [&dyn std::fmt::Display; 3] = [&table.name, meant, found];
    SqlError::Mysql(MysqlError::with_args(errno::ER_INCONSISTENT_ROW_VALUE, &args))
}

/// Error 8139.
fn wrong_handle(
    table: &TableInfo,
    index: &IndexInfo,
    named: &dyn std::fmt::Display,
    handle: &Handle,
) -> SqlError {
    let args: [&dyn std::fmt::Display; 4] = [&table.name, &index.name, named, handle];
    SqlError::Mysql(MysqlError::with_args(errno::ER_INCONSISTENT_HANDLE, &args))
}

/// Error 8140.
fn wrong_part(
    table: &TableInfo,
    index: &IndexInfo,
    column: &ColumnInfo,
    found: &DatumRef<'_>,
    meant: &DatumRef<'_>,
) -> SqlError {
    let (found, meant) = (shown(found, &column.ty), shown(meant, &column.ty));
    let args: [&dyn std::fmt::Display; 5] =
        [&table.name, &index.name, &column.name, &found, &meant];
    SqlError::Mysql(MysqlError::with_args(errno::ER_INCONSISTENT_INDEXED_VALUE, &args))
}

#[cfg(test)]
mod tests {
    use cairn_planner::catalog::{IndexColumn, SchemaState};
    use cairn_types::IndexId;
    use cairn_types::row::RowEncoder;

    use super::*;

    /// `t (id BIGINT PRIMARY KEY, n BIGINT, s VARCHAR, b VARBINARY, KEY (n, s), UNIQUE KEY (b))`, or
    /// with `b` as the handle.
    fn table(common_handle: bool) -> TableInfo {
        let mut table = TableInfo::new(7, "t");
        let types = [
            ("id", FieldType::bigint()),
            ("n", FieldType::bigint()),
            ("s", FieldType::string()),
            ("b", FieldType::varbinary(20)),
        ];
        for (id, (name, ty)) in (1..).zip(types) {
            table.columns.push(ColumnInfo::new(id, name, ty));
        }
        let index = |id, name: &str, offsets: &[usize], unique, primary| IndexInfo {
            id: IndexId(id),
            name: name.into(),
            columns: offsets
                .iter()
                .map(|offset| IndexColumn { offset: *offset, prefix_length: None })
                .collect(),
            unique,
            primary,
            invisible: false,
            comment: String::new(),
            state: SchemaState::Public,
        };
        table.indices.push(index(1, "PRIMARY", &[if common_handle { 3 } else { 0 }], true, true));
        table.indices.push(index(2, "by_n", &[1, 2], false, false));
        table.indices.push(index(3, "by_b", &[3], true, false));
        (table.pk_is_handle, table.common_handle) = (!common_handle, common_handle);
        table
    }

    fn values(id: i64, n: Option<i64>, s: &str, b: &str) -> Vec<Datum> {
        vec![Datum::Int(id), n.into(), s.into(), b.into()]
    }

    fn code(outcome: Result<()>) -> u16 {
        outcome.map_or_else(|error| error.to_mysql().code, |()| 0)
    }

    #[test]
    fn a_row_says_what_was_meant() {
        for common_handle in [false, true] {
            let table = table(common_handle);
            let meant = values(1, None, "Übung", "b");
            let handle_of = |row: &[Datum]| record::handle_of_row(&table, row).unwrap().unwrap();
            let handle = handle_of(&meant);
            let key = keys::encode_row_key(table.id, &handle);
            let mut encoder = RowEncoder::new();
            let mut look = |written: &[Datum], key: &[u8]| {
                let value = record::encode_row_value(&table, written, &mut encoder).unwrap();
                code(row(&table, &handle, &meant, key, &value))
            };
            assert_eq!(look(&meant, &key), 0);
            assert_eq!(look(&values(1, Some(0), "Übung", "b"), &key), 8138);
            assert_eq!(look(&values(1, None, "Übung ", "b"), &key), 8138);
            let other = keys::encode_row_key(table.id, &handle_of(&values(2, None, "", "c")));
            assert_eq!(look(&meant, &other), 8138);
        }
    }

    #[test]
    fn an_entry_is_that_of_its_row() {
        for common_handle in [false, true] {
            let table = table(common_handle);
            let handle_of = |row: &[Datum]| record::handle_of_row(&table, row).unwrap().unwrap();
            let meant = values(1, Some(5), "One", "b");
            let handle = handle_of(&meant);
            let entry_of = |at: usize, row: &[Datum], handle: &Handle| {
                record::index_entry(&table, &table.indices[at], row, handle).unwrap()
            };
            let look = |at: usize, row: &[Datum], handle: &Handle| {
                let index = &table.indices[at];
                code(entry(&table, index, &handle_of(&meant), &meant, &entry_of(at, row, handle)))
            };
            for at in [1, 2] {
                assert_eq!(look(at, &meant, &handle), 0);
            }
            let nulls = values(1, None, "One", "b");
            let null_entry = entry_of(1, &nulls, &handle);
            assert_eq!(code(entry(&table, &table.indices[1], &handle, &nulls, &null_entry)), 0);
            assert_eq!(look(1, &nulls, &handle), 8140);
            assert_eq!(look(1, &values(1, Some(6), "One", "b"), &handle), 8140);
            // Equal to the collation.
            assert_eq!(look(1, &values(1, Some(5), "ONE", "b"), &handle), 8140);
            assert_eq!(look(2, &values(1, Some(5), "One", "c"), &handle), 8140);
            let other = handle_of(&values(9, None, "", "z"));
            assert_eq!(look(1, &meant, &other), 8139);
            assert_eq!(look(2, &meant, &other), 8139);
            let wrong_index = entry_of(2, &meant, &handle);
            assert_eq!(code(entry(&table, &table.indices[1], &handle, &meant, &wrong_index)), 8139);
        }
    }
}
