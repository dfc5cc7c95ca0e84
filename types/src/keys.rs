//! Layout of the key space (a contract between all tiers).
//!
//! ```text
//! t{table_id}_r{handle}                      a row
//! t{table_id}_i{index_id}{columns}           an entry of a unique index
//! t{table_id}_i{index_id}{columns}{handle}   an entry of any other index, and of a
//!                                            unique one where a column is NULL
//! m…                                         metadata
//! ```
//!
//! Ids are memcomparable `i64`s. An integer handle is a memcomparable `i64`: bare
//! in a row key, a key column (flag byte first) in an index key. A common handle
//! is its memcomparable columns; it is never eight bytes long ([`Handle::common`]),
//! so the length tells the two apart.
//!
//! The value of an index entry holds the handle if the key does not, and the
//! columns that cannot be read back from the key ([`encode_index_value`]).

use crate::codec::{self, decode_i64, encode_i64, flag};
use crate::datum::DatumRef;
use crate::error::{Result, TypeError};
use crate::field_type::FieldType;
use crate::ids::{Handle, IndexId, TableId};

/// First byte of every table key.
pub const TABLE_PREFIX: u8 = b't';
/// First byte of every metadata key.
pub const META_PREFIX: u8 = b'm';
/// Separates the table id from a handle.
pub const ROW_SEPARATOR: &[u8; 2] = b"_r";
/// Separates the table id from an index id.
pub const INDEX_SEPARATOR: &[u8; 2] = b"_i";

/// Bytes of `t{table_id}_r` and `t{table_id}_i`.
const PREFIX_LEN: usize = 1 + 8 + 2;
/// Bytes of an integer handle in a row key.
const INT_HANDLE_LEN: usize = 8;

const CORRUPTED: TypeError = TypeError::Corrupted("table key");

impl Handle {
    /// A handle of memcomparable columns, one byte longer if it could be taken for
    /// an integer handle.
    pub fn common(mut columns: Vec<u8>) -> Handle {
        if columns.len() == INT_HANDLE_LEN {
            columns.push(0);
        }
        Handle::Common(columns)
    }

    /// The handle a row key ends in.
    pub fn from_key_part(part: &[u8]) -> Result<Handle> {
        if part.len() == INT_HANDLE_LEN {
            let mut part = part;
            return Ok(Handle::Int(decode_i64(&mut part)?));
        }
        if part.is_empty() { Err(CORRUPTED) } else { Ok(Handle::Common(part.to_vec())) }
    }
}

/// `t{table_id}`: everything of a table lies between this and its [`prefix_next`].
pub fn table_prefix(table: TableId) -> Vec<u8> {
    let mut key = Vec::with_capacity(PREFIX_LEN);
    key.push(TABLE_PREFIX);
    encode_i64(&mut key, table.0);
    key
}

/// `t{table_id}_r`
pub fn row_prefix(table: TableId) -> Vec<u8> {
    let mut key = Vec::with_capacity(PREFIX_LEN + INT_HANDLE_LEN);
    write_prefix(&mut key, table, ROW_SEPARATOR);
    key
}

/// `t{table_id}_i{index_id}`
pub fn index_prefix(table: TableId, index: IndexId) -> Vec<u8> {
    let mut key = Vec::with_capacity(64);
    write_prefix(&mut key, table, INDEX_SEPARATOR);
    encode_i64(&mut key, index.0);
    key
}

fn write_prefix(key: &mut Vec<u8>, table: TableId, separator: &[u8; 2]) {
    key.push(TABLE_PREFIX);
    encode_i64(key, table.0);
    key.extend_from_slice(separator);
}

/// Key of a row.
pub fn encode_row_key(table: TableId, handle: &Handle) -> Vec<u8> {
    let mut key = Vec::new();
    encode_row_key_to(&mut key, table, handle);
    key
}

/// Appends the key of a row.
pub fn encode_row_key_to(key: &mut Vec<u8>, table: TableId, handle: &Handle) {
    match handle {
        Handle::Int(handle) => {
            key.reserve(PREFIX_LEN + INT_HANDLE_LEN);
            write_prefix(key, table, ROW_SEPARATOR);
            encode_i64(key, *handle);
        }
        Handle::Common(columns) => {
            debug_assert_ne!(columns.len(), INT_HANDLE_LEN, "made by Handle::common");
            key.reserve(PREFIX_LEN + columns.len());
            write_prefix(key, table, ROW_SEPARATOR);
            key.extend_from_slice(columns);
        }
    }
}

/// Key of an index entry. `handle` is given for indexes that are not unique, and
/// for unique ones where a column is NULL.
pub fn encode_index_key<'a>(
    table: TableId,
    index: IndexId,
    columns: impl IntoIterator<Item = (DatumRef<'a>, &'a FieldType)>,
    handle: Option<&Handle>,
) -> Vec<u8> {
    let mut key = index_prefix(table, index);
    codec::encode_key(&mut key, columns);
    if let Some(handle) = handle {
        append_index_handle(&mut key, handle);
    }
    key
}

/// Appends the handle to an index key.
pub fn append_index_handle(key: &mut Vec<u8>, handle: &Handle) {
    match handle {
        Handle::Int(handle) => {
            key.push(flag::INT);
            encode_i64(key, *handle);
        }
        Handle::Common(columns) => key.extend_from_slice(columns),
    }
}

/// Table and handle of a row key.
pub fn decode_row_key(key: &[u8]) -> Result<(TableId, Handle)> {
    let (table, rest) = split_table_key(key)?;
    let part = rest.strip_prefix(ROW_SEPARATOR).ok_or(CORRUPTED)?;
    Ok((table, Handle::from_key_part(part)?))
}

/// Parts of an index key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexKey<'a> {
    /// The table.
    pub table: TableId,
    /// The index.
    pub index: IndexId,
    /// The columns, and the handle if the key holds it.
    pub columns: &'a [u8],
}

impl<'a> IndexKey<'a> {
    /// Splits after `count` columns: column bytes, and what follows (empty, or the
    /// handle).
    pub fn split_columns(&self, count: usize) -> Result<(&'a [u8], &'a [u8])> {
        let mut at = 0;
        for _ in 0..count {
            at += codec::skip_datum_key(&self.columns[at..])?;
        }
        Ok(self.columns.split_at(at))
    }

    /// The handle after `count` columns; `None` if the key holds none.
    pub fn handle(&self, count: usize, is_int: bool) -> Result<Option<Handle>> {
        let (_, rest) = self.split_columns(count)?;
        match rest.split_first() {
            None => Ok(None),
            Some((&flag::INT, mut rest)) if is_int => {
                let handle = decode_i64(&mut rest)?;
                if rest.is_empty() { Ok(Some(Handle::Int(handle))) } else { Err(CORRUPTED) }
            }
            Some(_) if is_int => Err(CORRUPTED),
            Some(_) => Ok(Some(Handle::Common(rest.to_vec()))),
        }
    }
}

/// Takes an index key apart.
pub fn decode_index_key(key: &[u8]) -> Result<IndexKey<'_>> {
    let (table, rest) = split_table_key(key)?;
    let mut rest = rest.strip_prefix(INDEX_SEPARATOR).ok_or(CORRUPTED)?;
    let index = IndexId(decode_i64(&mut rest)?);
    Ok(IndexKey { table, index, columns: rest })
}

/// Table id of any table key.
pub fn decode_table_id(key: &[u8]) -> Result<TableId> {
    split_table_key(key).map(|(table, _)| table)
}

fn split_table_key(key: &[u8]) -> Result<(TableId, &[u8])> {
    let mut rest = key.strip_prefix(&[TABLE_PREFIX]).ok_or(CORRUPTED)?;
    let table = TableId(decode_i64(&mut rest)?);
    Ok((table, rest))
}

/// Whether a key is a row's.
pub fn is_row_key(key: &[u8]) -> bool {
    key.first() == Some(&TABLE_PREFIX) && key.get(9..PREFIX_LEN) == Some(ROW_SEPARATOR)
}

/// Whether a key is an index entry's.
pub fn is_index_key(key: &[u8]) -> bool {
    key.first() == Some(&TABLE_PREFIX) && key.get(9..PREFIX_LEN) == Some(INDEX_SEPARATOR)
}

/// Everything of a table: rows and indexes.
pub fn table_range(table: TableId) -> (Vec<u8>, Vec<u8>) {
    let start = table_prefix(table);
    let end = prefix_next(&start);
    (start, end)
}

/// All rows of a table.
pub fn row_range(table: TableId) -> (Vec<u8>, Vec<u8>) {
    let start = row_prefix(table);
    let end = prefix_next(&start);
    (start, end)
}

/// All entries of an index.
pub fn index_range(table: TableId, index: IndexId) -> (Vec<u8>, Vec<u8>) {
    let start = index_prefix(table, index);
    let end = prefix_next(&start);
    (start, end)
}

/// The smallest key above every key with this prefix; empty (no bound) if there
/// is none.
pub fn prefix_next(prefix: &[u8]) -> Vec<u8> {
    match prefix.iter().rposition(|byte| *byte != 0xFF) {
        Some(at) => {
            let mut next = prefix[..=at].to_vec();
            next[at] += 1;
            next
        }
        None => Vec::new(),
    }
}

/// The smallest key above this one.
pub fn key_next(key: &[u8]) -> Vec<u8> {
    let mut next = Vec::with_capacity(key.len() + 1);
    next.extend_from_slice(key);
    next.push(0);
    next
}

const VALUE_VERSION: u8 = 1;
const VALUE_INT_HANDLE: u8 = 1;
const VALUE_COMMON_HANDLE: u8 = 2;
const VALUE_COLUMNS: u8 = 4;

/// Value of an index entry, taken apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IndexValue<'a> {
    /// The handle, if the key does not hold it.
    pub handle: Option<Handle>,
    /// A row ([`crate::row`]) of the columns the key cannot give back.
    pub columns: Option<&'a [u8]>,
}

/// Value of an index entry: `version, parts, [handle], [row of columns]`.
pub fn encode_index_value(handle: Option<&Handle>, columns: Option<&[u8]>) -> Vec<u8> {
    let mut value = vec![VALUE_VERSION, 0];
    match handle {
        Some(Handle::Int(handle)) => {
            value[1] |= VALUE_INT_HANDLE;
            value.extend_from_slice(&handle.to_le_bytes());
        }
        Some(Handle::Common(handle)) => {
            value[1] |= VALUE_COMMON_HANDLE;
            value.extend_from_slice(&(handle.len() as u32).to_le_bytes());
            value.extend_from_slice(handle);
        }
        None => {}
    }
    if let Some(columns) = columns {
        value[1] |= VALUE_COLUMNS;
        value.extend_from_slice(columns);
    }
    value
}

/// Takes the value of an index entry apart.
pub fn decode_index_value(value: &[u8]) -> Result<IndexValue<'_>> {
    const CORRUPTED: TypeError = TypeError::Corrupted("index value");
    let (head, mut rest) = value.split_first_chunk::<2>().ok_or(CORRUPTED)?;
    let [version, parts] = *head;
    if version != VALUE_VERSION || parts > 7 {
        return Err(CORRUPTED);
    }
    let handle = match parts & (VALUE_INT_HANDLE | VALUE_COMMON_HANDLE) {
        0 => None,
        VALUE_INT_HANDLE => {
            let (bytes, tail) = rest.split_first_chunk::<8>().ok_or(CORRUPTED)?;
            rest = tail;
            Some(Handle::Int(i64::from_le_bytes(*bytes)))
        }
        VALUE_COMMON_HANDLE => {
            let (len, tail) = rest.split_first_chunk::<4>().ok_or(CORRUPTED)?;
            let len = u32::from_le_bytes(*len) as usize;
            let (bytes, tail) = tail.split_at_checked(len).ok_or(CORRUPTED)?;
            rest = tail;
            Some(Handle::Common(bytes.to_vec()))
        }
        _ => return Err(CORRUPTED),
    };
    let columns = (parts & VALUE_COLUMNS != 0).then_some(rest);
    if columns.is_none() && !rest.is_empty() {
        return Err(CORRUPTED);
    }
    Ok(IndexValue { handle, columns })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn row_keys() {
        let key = encode_row_key(TableId(1), &Handle::Int(-2));
        assert_eq!(key, b"t\x80\0\0\0\0\0\0\x01_r\x7f\xff\xff\xff\xff\xff\xff\xfe");
        assert_eq!(decode_row_key(&key).unwrap(), (TableId(1), Handle::Int(-2)));
        assert!(is_row_key(&key) && !is_index_key(&key));
        let common = Handle::common(vec![1; 8]);
        let key = encode_row_key(TableId(7), &common);
        assert_eq!(decode_row_key(&key).unwrap(), (TableId(7), common));
        let (start, end) = table_range(TableId(7));
        assert!(start < key && key < end);
    }

    #[test]
    fn index_keys() {
        let int = FieldType::bigint();
        let text = FieldType::varchar(10);
        let columns = [(DatumRef::Int(5), &int), (DatumRef::Bytes(b"abc"), &text)];
        let key = encode_index_key(TableId(1), IndexId(2), columns.clone(), Some(&Handle::Int(9)));
        let parts = decode_index_key(&key).unwrap();
        assert_eq!((parts.table, parts.index), (TableId(1), IndexId(2)));
        assert_eq!(parts.handle(2, true).unwrap(), Some(Handle::Int(9)));
        let key = encode_index_key(TableId(1), IndexId(2), columns, None);
        assert_eq!(decode_index_key(&key).unwrap().handle(2, true).unwrap(), None);
        assert!(decode_row_key(&key).is_err());
    }

    #[test]
    fn prefixes() {
        assert_eq!(prefix_next(b"a\xff"), b"b");
        assert_eq!(prefix_next(b"\xff"), b"");
        assert_eq!(key_next(b"a"), b"a\0");
    }

    #[test]
    fn index_values() {
        for handle in [None, Some(Handle::Int(3)), Some(Handle::Common(b"abc".to_vec()))] {
            for columns in [None, Some(&b"row"[..])] {
                let value = encode_index_value(handle.as_ref(), columns);
                let parts = decode_index_value(&value).unwrap();
                assert_eq!(parts, IndexValue { handle: handle.clone(), columns });
            }
        }
    }

    proptest! {
        #[test]
        fn decoders_take_any_bytes(mut key: Vec<u8>, prefix: bool, count in 0usize..4) {
            if prefix {
                key.splice(0..0, index_prefix(TableId(1), IndexId(1)));
            }
            let _ = decode_row_key(&key);
            let _ = decode_table_id(&key);
            let _ = decode_index_value(&key);
            if let Ok(parts) = decode_index_key(&key) {
                let _ = parts.handle(count, true);
                let _ = parts.handle(count, false);
            }
        }
    }
}
