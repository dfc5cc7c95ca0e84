//! Rows and index entries of a table: values to keys and bytes, and back.
//!
//! | entry | key | value |
//! |---|---|---|
//! | row | `t{table}_r{handle}` | row format: all columns that the key does not give back |
//! | unique index, no NULL | `t{table}_i{index}{columns}` | handle, columns the key cannot give back |
//! | other index | `t{table}_i{index}{columns}{handle}` | columns the key cannot give back |
//!
//! The decoders in the stores (`cairn-executor`'s scans) read the same layout.

use std::borrow::Cow;

use bytes::Bytes;
use cairn_executor::index_entry::{EntryColumn, EntryIndex, encode_index_entry};
use cairn_planner::catalog::{ColumnDefault, ColumnInfo, IndexInfo, TableInfo};
use cairn_planner::plan::{PointAccess, PointColumn};
use cairn_types::row::{RowEncoder, RowView};
use cairn_types::{
    CastContext, Chunk, Datum, DatumRef, FieldType, Handle, TimeZone, TypeCode, TypeError, codec,
    keys, row, text,
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

/// The handle in the value of a unique entry.
pub fn handle_of_unique_entry(table: &TableInfo, value: &[u8]) -> Result<Handle> {
    let value = keys::decode_index_value(value).map_err(|error| damaged(table, &error))?;
    value.handle.ok_or_else(|| damaged(table, &TypeError::Corrupted("unique entry without handle")))
}

/// Whether the row's key gives a column back.
pub fn is_in_key(table: &TableInfo, offset: usize) -> bool {
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
pub fn index_part<'a>(
    value: &'a Datum,
    ty: &FieldType,
    prefix_length: Option<u32>,
) -> DatumRef<'a> {
    let (Some(length), Datum::Bytes(bytes)) = (prefix_length, value) else { return value.as_ref() };
    DatumRef::Bytes(text::prefix(bytes, length as usize, ty.is_binary_string()))
}

/// The entry of a row in an index.
pub fn index_entry(
    table: &TableInfo,
    index: &IndexInfo,
    values: &[Datum],
    handle: &Handle,
) -> Result<IndexEntry> {
    let column = |offset: usize, prefix_length| {
        let info = &table.columns[offset];
        let value = index_part(&values[offset], &info.ty, prefix_length);
        EntryColumn { id: info.id, value, ty: &info.ty }
    };
    let columns: Vec<EntryColumn<'_>> =
        index.columns.iter().map(|part| column(part.offset, part.prefix_length)).collect();
    let handle_columns: Vec<EntryColumn<'_>> =
        table.common_handle_columns().into_iter().map(|offset| column(offset, None)).collect();
    // NULLs are never equal: such entries hold the handle in their key.
    let distinct = index.unique && columns.iter().all(|column| !column.value.is_null());
    let entry = EntryIndex { table: table.id, index: index.id, unique: index.unique };
    let (key, value) = encode_index_entry(entry, &columns, handle, &handle_columns)?;
    Ok(IndexEntry { key: key.into(), value: value.into(), distinct })
}

/// Brings TIMESTAMPs of a row (all columns by offset) from the session's time zone into
/// UTC, the form rows and entries have.
pub fn to_stored<'a>(table: &TableInfo, values: &'a [Datum], zone: &TimeZone) -> Cow<'a, [Datum]> {
    convert_timestamps(table, values, zone, &TimeZone::utc())
}

/// A handle's column in the form rows have; see [`to_stored`].
pub fn handle_part_to_stored<'a>(
    column: &ColumnInfo,
    value: &'a Datum,
    zone: &TimeZone,
) -> Cow<'a, Datum> {
    if column.ty.code != TypeCode::Timestamp {
        return Cow::Borrowed(value);
    }
    let mut converted = value.clone();
    convert_timestamp(&mut converted, zone, &TimeZone::utc());
    Cow::Owned(converted)
}

/// The opposite of [`to_stored`].
pub fn to_session(table: &TableInfo, values: Vec<Datum>, zone: &TimeZone) -> Vec<Datum> {
    convert_timestamps(table, &values, &TimeZone::utc(), zone).into_owned()
}

fn convert_timestamps<'a>(
    table: &TableInfo,
    values: &'a [Datum],
    from: &TimeZone,
    to: &TimeZone,
) -> Cow<'a, [Datum]> {
    let is_timestamp = |column: &ColumnInfo| column.ty.code == TypeCode::Timestamp;
    if from == to || !table.columns.iter().any(is_timestamp) {
        return Cow::Borrowed(values);
    }
    let mut converted = values.to_vec();
    for (column, value) in table.columns.iter().zip(&mut converted) {
        if is_timestamp(column) {
            convert_timestamp(value, from, to);
        }
    }
    Cow::Owned(converted)
}

/// Converts one TIMESTAMP; what does not convert (a zero date) stays as it is.
fn convert_timestamp(value: &mut Datum, from: &TimeZone, to: &TimeZone) {
    if let Datum::Time(time) = value
        && let Some(other) = time.to_zone(from, to)
    {
        *time = other;
    }
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
    zone: &TimeZone,
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
                        let mut value = row::decode_value_ref(bytes, ty)
                            .map_err(|error| damaged(table, &error))?;
                        if let DatumRef::Time(time) = &mut value
                            && ty.code == TypeCode::Timestamp
                        {
                            *time = time.to_zone(&TimeZone::utc(), zone).unwrap_or(*time);
                        }
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

/// The values of a point read's row.
pub fn point_row(
    access: &PointAccess,
    handle: &Handle,
    value: &[u8],
    zone: &TimeZone,
) -> Result<Vec<Datum>> {
    let table = &access.table;
    let view = RowView::parse(value).map_err(|error| damaged(table, &error))?;
    let mut values = Vec::with_capacity(access.columns.len());
    for column in &access.columns {
        values.push(match column {
            PointColumn::Handle => match handle {
                Handle::Int(value) => Datum::Int(*value),
                Handle::Common(_) => Datum::Null,
            },
            PointColumn::Column(offset) => {
                let ty = &table.columns[*offset].ty;
                let mut value = match stored_column(table, *offset, &view, handle)? {
                    Stored::Bytes(bytes) => {
                        row::decode_value(bytes, ty).map_err(|error| damaged(table, &error))?
                    }
                    Stored::Value(value) => value,
                };
                if ty.code == TypeCode::Timestamp {
                    convert_timestamp(&mut value, &TimeZone::utc(), zone);
                }
                value
            }
        });
    }
    Ok(values)
}

/// The values of an index's columns as error 1062 prints them.
pub fn describe_values(table: &TableInfo, index: &IndexInfo, row: &[Datum]) -> String {
    let parts = index.columns.iter().map(|part| {
        let ty = &table.columns[part.offset].ty;
        describe_value(index_part(&row[part.offset], ty, part.prefix_length), ty)
    });
    parts.collect::<Vec<_>>().join("-")
}

fn describe_value(value: DatumRef<'_>, ty: &FieldType) -> String {
    if value.is_null() {
        return "NULL".to_owned();
    }
    let mut text = Vec::new();
    cairn_types::write_text(&mut text, value, ty);
    String::from_utf8_lossy(&text).into_owned()
}

/// The same from a key alone, for duplicates found at COMMIT: what the key does not give
/// back is shown as it sorts.
pub fn describe_key(table: &TableInfo, index: &IndexInfo, key: &[u8]) -> String {
    let values = key_values(table, index, key);
    if values.is_empty() { "?".to_owned() } else { values.join("-") }
}

/// The values of an index's columns that a key of it, or of a row, gives back; none of a key that
/// does not decode.
pub fn key_values(table: &TableInfo, index: &IndexInfo, key: &[u8]) -> Vec<String> {
    if let Ok((_, Handle::Int(value))) = keys::decode_row_key(key) {
        return vec![value.to_string()];
    }
    let columns = match (keys::decode_index_key(key), keys::decode_row_key(key)) {
        (Ok(index_key), _) => index_key.columns.to_vec(),
        (_, Ok((_, Handle::Common(bytes)))) => bytes,
        _ => return Vec::new(),
    };
    let mut rest = columns.as_slice();
    let parts = index.columns.iter().map(|part| {
        let ty = &table.columns[part.offset].ty;
        let start = rest;
        match codec::decode_datum_key(&mut rest, ty) {
            Ok(value) => describe_value(value.as_ref(), ty),
            Err(_) => {
                let length = codec::skip_datum_key(start).unwrap_or(start.len());
                let (shown, tail) = start.split_at(length);
                rest = tail;
                cairn_types::text::escape_bytes(shown)
            }
        }
    });
    parts.collect()
}
