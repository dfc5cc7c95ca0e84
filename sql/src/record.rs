//! Rows and index entries of a table: values to keys and bytes, and back.
//!
//! | entry | key | value |
//! |---|---|---|
//! | row | `t{table}_r{handle}` | row format: all columns that the key does not give back |
//! | unique index, no NULL | `t{table}_i{index}{columns}` | handle, columns the key cannot give back |
//! | other index | `t{table}_i{index}{columns}{handle}` | columns the key cannot give back |
//!
//! The decoders in the stores (`cairn-executor`'s scans) read the same layout.

use bytes::Bytes;
use cairn_planner::catalog::{ColumnDefault, ColumnInfo, IndexInfo, TableInfo};
use cairn_planner::plan::{PointAccess, PointColumn};
use cairn_types::row::{RowEncoder, RowView};
use cairn_types::{
    CastContext, Chunk, Datum, DatumRef, FieldType, Handle, TypeError, codec, keys, row,
};

use crate::error::{Result, SqlError};
use crate::protocol::resultset::RowWriter;

/// Bytes of stored data that do not decode.
pub fn damaged(table: &TableInfo, error: &TypeError) -> SqlError {
    SqlError::DamagedSchema(format!("row of table '{}' does not decode: {error}", table.name))
}

/// An index entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexEntry {
    /// Its key.
    pub key: Bytes,
    /// Its value.
    pub value: Bytes,
    /// No other row may have this key.
    pub distinct: bool,
}

/// Where a point read finds its row.
#[derive(Clone, Debug)]
pub enum KeyLookup {
    /// No row can have this key.
    None,
    /// By its handle.
    Handle(Handle),
    /// By the entry of a unique index.
    Unique(Vec<u8>),
}

/// The handle of a row with these values (all columns of the table by offset); `None` for
/// tables with hidden row ids.
pub fn handle_of_row(table: &TableInfo, values: &[Datum]) -> Result<Option<Handle>> {
    if let Some(offset) = table.handle_column() {
        return match &values[offset] {
            Datum::Int(value) => Ok(Some(Handle::Int(*value))),
            Datum::UInt(value) => Ok(Some(Handle::Int(*value as i64))),
            _ => Err(damaged(table, &TypeError::Corrupted("integer handle"))),
        };
    }
    let columns = table.common_handle_columns();
    if columns.is_empty() {
        return Ok(None);
    }
    let parts = columns.iter().map(|offset| (&values[*offset], &table.columns[*offset].ty));
    Ok(Some(common_handle(parts)))
}

/// The handle of a clustered key of these values.
pub fn common_handle<'a>(parts: impl Iterator<Item = (&'a Datum, &'a FieldType)>) -> Handle {
    let mut bytes = Vec::new();
    for (value, ty) in parts {
        codec::encode_datum_key(&mut bytes, &value.as_ref(), ty);
    }
    Handle::common(bytes)
}

/// Where the row with these key values is found: of the clustered key, or of `index`.
pub fn lookup_key(table: &TableInfo, index: Option<&IndexInfo>, values: &[Datum]) -> KeyLookup {
    if let Some(index) = index.filter(|index| table.has_entries(index)) {
        let columns = index.columns.iter().zip(values);
        let parts = columns.map(|(part, value)| (value.as_ref(), &table.columns[part.offset].ty));
        return KeyLookup::Unique(keys::encode_index_key(table.id, index.id, parts, None));
    }
    if table.pk_is_handle {
        return match values.first() {
            Some(Datum::Int(value)) => KeyLookup::Handle(Handle::Int(*value)),
            Some(Datum::UInt(value)) => i64::try_from(*value)
                .map_or(KeyLookup::None, |value| KeyLookup::Handle(Handle::Int(value))),
            _ => KeyLookup::None,
        };
    }
    let columns = table.common_handle_columns();
    if columns.is_empty() {
        // Only `_tidb_rowid` can be meant.
        return match values.first() {
            Some(Datum::Int(value)) => KeyLookup::Handle(Handle::Int(*value)),
            _ => KeyLookup::None,
        };
    }
    let parts =
        columns.iter().zip(values).map(|(offset, value)| (value, &table.columns[*offset].ty));
    KeyLookup::Handle(common_handle(parts))
}

/// The handle in the value of a unique entry.
pub fn handle_of_unique_entry(table: &TableInfo, value: &[u8]) -> Result<Handle> {
    let value = keys::decode_index_value(value).map_err(|error| damaged(table, &error))?;
    value.handle.ok_or_else(|| damaged(table, &TypeError::Corrupted("unique entry without handle")))
}

/// Whether the row's key gives a column back.
fn is_in_key(table: &TableInfo, offset: usize) -> bool {
    table.handle_column() == Some(offset)
        || (table.common_handle
            && table.common_handle_columns().contains(&offset)
            && codec::key_is_restorable(&table.columns[offset].ty))
}

/// The stored value of a row: `values` are all columns of the table by offset.
pub fn encode_row_value(
    table: &TableInfo,
    values: &[Datum],
    encoder: &mut RowEncoder,
) -> Result<Bytes> {
    encoder.clear();
    for (offset, column) in table.writable_columns() {
        if !is_in_key(table, offset) {
            encoder
                .push(column.id, values[offset].as_ref())
                .map_err(|error| damaged(table, &error))?;
        }
    }
    Ok(encoder.finish().into())
}

/// The value of an indexed column as it stands in the index: cut to its prefix.
fn index_part<'a>(value: &'a Datum, ty: &FieldType, prefix_length: Option<u32>) -> DatumRef<'a> {
    let (Some(length), Datum::Bytes(bytes)) = (prefix_length, value) else { return value.as_ref() };
    let length = length as usize;
    let end = if ty.is_binary_string() {
        length.min(bytes.len())
    } else {
        match std::str::from_utf8(bytes) {
            Ok(text) => text.char_indices().nth(length).map_or(bytes.len(), |(at, _)| at),
            Err(_) => length.min(bytes.len()),
        }
    };
    DatumRef::Bytes(&bytes[..end])
}

/// The entry of a row in an index.
pub fn index_entry(
    table: &TableInfo,
    index: &IndexInfo,
    values: &[Datum],
    handle: &Handle,
) -> Result<IndexEntry> {
    let parts: Vec<(DatumRef<'_>, &FieldType)> = index
        .columns
        .iter()
        .map(|part| {
            let ty = &table.columns[part.offset].ty;
            (index_part(&values[part.offset], ty, part.prefix_length), ty)
        })
        .collect();
    let has_null = parts.iter().any(|(value, _)| value.is_null());
    // NULLs are never equal: such entries need the handle to be told apart.
    let distinct = index.unique && !has_null;
    let in_key = if distinct { None } else { Some(handle) };
    let key = keys::encode_index_key(table.id, index.id, parts.iter().cloned(), in_key);
    let mut encoder = RowEncoder::new();
    let mut stored = false;
    for (part, (value, ty)) in index.columns.iter().zip(&parts) {
        if !codec::key_is_restorable(ty) && !value.is_null() {
            encoder
                .push(table.columns[part.offset].id, value.clone())
                .map_err(|error| damaged(table, &error))?;
            stored = true;
        }
    }
    let columns = stored.then(|| encoder.finish());
    let in_value = if distinct { Some(handle) } else { None };
    let value = keys::encode_index_value(in_value, columns.as_deref());
    Ok(IndexEntry { key: key.into(), value: value.into(), distinct })
}

/// The default of a column as a value; expressions are the planner's business.
pub fn constant_default(column: &ColumnInfo, default: Option<&ColumnDefault>) -> Datum {
    let (bytes, from) = match default {
        Some(ColumnDefault::Literal(text)) => (text.as_bytes().to_vec(), FieldType::string()),
        Some(ColumnDefault::Bytes(bytes)) => {
            (bytes.clone(), FieldType::varbinary(bytes.len() as u32))
        }
        _ => return Datum::Null,
    };
    let mut context = CastContext::default();
    cairn_types::cast_datum(&Datum::Bytes(bytes), &from, &column.ty, &mut context)
        .unwrap_or(Datum::Null)
}

/// All columns of a stored row, by offset.
pub fn decode_row(table: &TableInfo, handle: &Handle, value: &[u8]) -> Result<Vec<Datum>> {
    let view = RowView::parse(value).map_err(|error| damaged(table, &error))?;
    (0..table.columns.len())
        .map(|offset| match stored_column(table, offset, &view, handle)? {
            Stored::Bytes(bytes) => row::decode_value(bytes, &table.columns[offset].ty)
                .map_err(|error| damaged(table, &error)),
            Stored::Value(value) => Ok(value),
        })
        .collect()
}

enum Stored<'a> {
    Bytes(&'a [u8]),
    Value(Datum),
}

/// One column of a stored row: its bytes, or its value when it is not stored.
fn stored_column<'a>(
    table: &TableInfo,
    offset: usize,
    view: &RowView<'a>,
    handle: &Handle,
) -> Result<Stored<'a>> {
    let column = &table.columns[offset];
    if table.handle_column() == Some(offset)
        && let Handle::Int(value) = handle
    {
        return Ok(Stored::Value(if column.ty.unsigned {
            Datum::UInt(*value as u64)
        } else {
            Datum::Int(*value)
        }));
    }
    match view.get(column.id) {
        Some(Some(bytes)) => Ok(Stored::Bytes(bytes)),
        Some(None) => Ok(Stored::Value(Datum::Null)),
        None => {
            let part = table.common_handle_columns().iter().position(|other| *other == offset);
            match (part, handle) {
                (Some(part), Handle::Common(bytes)) => {
                    handle_part(table, bytes, part, &column.ty).map(Stored::Value)
                }
                _ => Ok(Stored::Value(constant_default(column, column.origin_default.as_ref()))),
            }
        }
    }
}

fn handle_part(table: &TableInfo, handle: &[u8], part: usize, ty: &FieldType) -> Result<Datum> {
    let damaged = |error: TypeError| damaged(table, &error);
    let mut rest = handle;
    for _ in 0..part {
        let length = codec::skip_datum_key(rest).map_err(damaged)?;
        rest = &rest[length..];
    }
    codec::decode_datum_key(&mut rest, ty).map_err(damaged)
}

/// Writes the output columns of a point read straight into a packet.
pub fn write_row(
    access: &PointAccess,
    handle: &Handle,
    value: &[u8],
    writer: &mut RowWriter,
    out: &mut Vec<u8>,
) -> Result<()> {
    let table = &access.table;
    let view = RowView::parse(value).map_err(|error| damaged(table, &error))?;
    for column in &access.columns {
        match column {
            PointColumn::Handle => write_handle(handle, writer, out),
            PointColumn::Column(offset) => {
                let ty = &table.columns[*offset].ty;
                match stored_column(table, *offset, &view, handle)? {
                    Stored::Bytes(bytes) => {
                        let value = row::decode_value_ref(bytes, ty)
                            .map_err(|error| damaged(table, &error))?;
                        writer.value(out, value, ty);
                    }
                    Stored::Value(value) => writer.value(out, value.as_ref(), ty),
                }
            }
        }
    }
    Ok(())
}

fn write_handle(handle: &Handle, writer: &mut RowWriter, out: &mut Vec<u8>) {
    match handle {
        Handle::Int(value) => writer.value(out, DatumRef::Int(*value), &FieldType::bigint()),
        Handle::Common(_) => writer.null(out),
    }
}

/// Types of a point read's output.
fn point_types(access: &PointAccess) -> Vec<FieldType> {
    let columns = access.columns.iter();
    columns
        .map(|column| match column {
            PointColumn::Handle => FieldType::bigint(),
            PointColumn::Column(offset) => access.table.columns[*offset].ty.clone(),
        })
        .collect()
}

/// An empty chunk for rows of a point read.
pub fn point_chunk(access: &PointAccess) -> Chunk {
    Chunk::new(&point_types(access), 1)
}

/// Appends a row to [`point_chunk`].
pub fn append_point_row(
    access: &PointAccess,
    handle: &Handle,
    value: &[u8],
    chunk: &mut Chunk,
) -> Result<()> {
    let table = &access.table;
    let view = RowView::parse(value).map_err(|error| damaged(table, &error))?;
    let mut values = Vec::with_capacity(access.columns.len());
    for column in &access.columns {
        values.push(match column {
            PointColumn::Handle => match handle {
                Handle::Int(value) => Datum::Int(*value),
                Handle::Common(_) => Datum::Null,
            },
            PointColumn::Column(offset) => match stored_column(table, *offset, &view, handle)? {
                Stored::Bytes(bytes) => row::decode_value(bytes, &table.columns[*offset].ty)
                    .map_err(|error| damaged(table, &error))?,
                Stored::Value(value) => value,
            },
        });
    }
    chunk.push_row(&values);
    Ok(())
}

/// The values of an index's columns as error 1062 prints them.
pub fn describe_values(table: &TableInfo, index: &IndexInfo, row: &[Datum]) -> String {
    let parts = index.columns.iter().map(|part| {
        let ty = &table.columns[part.offset].ty;
        let mut text = Vec::new();
        match index_part(&row[part.offset], ty, part.prefix_length) {
            DatumRef::Null => text.extend_from_slice(b"NULL"),
            value => cairn_types::write_text(&mut text, value, ty),
        }
        String::from_utf8_lossy(&text).into_owned()
    });
    parts.collect::<Vec<_>>().join("-")
}

/// The same from a key alone, for duplicates found at COMMIT: what the key does not give
/// back is shown as it sorts.
pub fn describe_key(table: &TableInfo, index: &IndexInfo, key: &[u8]) -> String {
    if let Ok((_, Handle::Int(value))) = keys::decode_row_key(key) {
        return value.to_string();
    }
    let columns = match (keys::decode_index_key(key), keys::decode_row_key(key)) {
        (Ok(index_key), _) => index_key.columns.to_vec(),
        (_, Ok((_, Handle::Common(bytes)))) => bytes,
        _ => return "?".to_owned(),
    };
    let mut rest = columns.as_slice();
    let parts = index.columns.iter().map(|part| {
        let ty = &table.columns[part.offset].ty;
        let start = rest;
        match codec::decode_datum_key(&mut rest, ty) {
            Ok(value) => {
                let mut text = Vec::new();
                cairn_types::write_text(&mut text, value.as_ref(), ty);
                String::from_utf8_lossy(&text).into_owned()
            }
            Err(_) => {
                let length = codec::skip_datum_key(start).unwrap_or(start.len());
                let (shown, tail) = start.split_at(length);
                rest = tail;
                cairn_types::text::escape_bytes(shown)
            }
        }
    });
    parts.collect::<Vec<_>>().join("-")
}
