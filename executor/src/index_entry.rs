//! Index entries as pairs: how writers make them and scans read them.
//!
//! | entry | key after `t{table}_i{index}` | value |
//! |---|---|---|
//! | unique, no column NULL | columns | handle, columns the key cannot give back |
//! | any other | columns, handle | columns the key cannot give back |
//!
//! A column whose key bytes do not give back its value (text by a collation with
//! sort keys) is stored once more in the value, as a row of [`cairn_types::row`]
//! by column id; so are such columns of a common handle. The bytes themselves are
//! laid out by [`cairn_types::keys`].

use cairn_types::codec::key_is_restorable;
use cairn_types::keys::{
    decode_index_key, decode_index_value, encode_index_key, encode_index_value,
};
use cairn_types::row::RowEncoder;
use cairn_types::{ColumnId, DatumRef, FieldType, Handle, IndexId, TableId};

use crate::error::Result;

/// A column value of an index entry.
#[derive(Clone, Debug)]
pub struct EntryColumn<'a> {
    /// Its id in the table.
    pub id: ColumnId,
    /// Its value (of a prefix index: the prefix).
    pub value: DatumRef<'a>,
    /// Its type.
    pub ty: &'a FieldType,
}

/// An index as its entries need to know it.
#[derive(Clone, Copy, Debug)]
pub struct EntryIndex {
    /// The table (or partition).
    pub table: TableId,
    /// The index.
    pub index: IndexId,
    /// UNIQUE.
    pub unique: bool,
}

/// Key and value of the entry of a row. `columns` are the index's, in its order;
/// `handle_columns` those of a common handle (none for integer handles).
pub fn encode_index_entry(
    index: EntryIndex,
    columns: &[EntryColumn<'_>],
    handle: &Handle,
    handle_columns: &[EntryColumn<'_>],
) -> Result<(Vec<u8>, Vec<u8>)> {
    let distinct = index.unique && columns.iter().all(|column| !column.value.is_null());
    let key_columns = columns.iter().map(|column| (column.value.clone(), column.ty));
    let in_key = (!distinct).then_some(handle);
    let key = encode_index_key(index.table, index.index, key_columns, in_key);

    let mut row = RowEncoder::new();
    let mut kept: Vec<ColumnId> = Vec::new();
    for column in columns.iter().chain(handle_columns) {
        let lost = !key_is_restorable(column.ty) && !column.value.is_null();
        if lost && !kept.contains(&column.id) {
            row.push(column.id, column.value.clone())?;
            kept.push(column.id);
        }
    }
    let row = (!kept.is_empty()).then(|| row.finish());
    let value = encode_index_value(distinct.then_some(handle), row.as_deref());
    Ok((key, value))
}

/// Handle of the row an entry belongs to. `columns` is the number of columns of
/// the index.
pub fn decode_entry_handle(
    key: &[u8],
    value: &[u8],
    columns: usize,
    int_handle: bool,
) -> Result<Handle> {
    if let Some(handle) = decode_index_value(value)?.handle {
        return Ok(handle);
    }
    let handle = decode_index_key(key)?.handle(columns, int_handle)?;
    handle.ok_or(crate::error::ExecError::Corrupted("an index entry without a handle"))
}
