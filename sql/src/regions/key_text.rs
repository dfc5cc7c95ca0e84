//! Borders of regions as people read them, in TiDB's form.
//!
//! | key | text |
//! |---|---|
//! | where a table begins | `t_41_` |
//! | where its rows begin | `t_41_r` |
//! | a row by integer handle, by clustered key | `t_41_r_1000`, `t_41_r_03800000…` |
//! | an index entry | `t_41_i_1_03800000…` |
//! | anything else | hex |
//!
//! A border is wherever somebody cut, so any bytes must have a text.

use cairn_types::codec::decode_i64;
use cairn_types::keys::{INDEX_SEPARATOR, ROW_SEPARATOR, TABLE_PREFIX};

/// Bytes in hex.
pub fn hex(key: &[u8]) -> String {
    key.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A key as text; `int_handles` tells whether rows of its table have integer handles.
pub fn key_text(key: &[u8], int_handles: bool) -> String {
    table_key_text(key, int_handles).unwrap_or_else(|| hex(key))
}

fn table_key_text(key: &[u8], int_handles: bool) -> Option<String> {
    let mut rest = key.strip_prefix(&[TABLE_PREFIX])?;
    let table = decode_i64(&mut rest).ok()?;
    if let Some(handle) = rest.strip_prefix(ROW_SEPARATOR) {
        let mut bytes = handle;
        return Some(match handle.len() {
            0 => format!("t_{table}_r"),
            8 if int_handles => format!("t_{table}_r_{}", decode_i64(&mut bytes).ok()?),
            _ => format!("t_{table}_r_{}", hex(handle)),
        });
    }
    if let Some(mut entry) = rest.strip_prefix(INDEX_SEPARATOR)
        && let Ok(index) = decode_i64(&mut entry)
    {
        return Some(format!("t_{table}_i_{index}_{}", hex(entry)));
    }
    Some(format!("t_{table}_{}", hex(rest)))
}

#[cfg(test)]
mod tests {
    use cairn_types::{DatumRef, FieldType, Handle, IndexId, TableId, keys};

    use super::*;

    #[test]
    fn every_key_has_a_text() {
        let table = TableId(41);
        let int = FieldType::bigint();
        let shown = |key: &[u8]| key_text(key, true);
        assert_eq!(shown(b""), "");
        assert_eq!(shown(b"m\x01"), "6d01");
        assert_eq!(shown(b"t\x80"), "7480");
        assert_eq!(shown(&keys::table_prefix(table)), "t_41_");
        assert_eq!(shown(&keys::row_prefix(table)), "t_41_r");
        for handle in [-5, 0, 1_000] {
            let key = keys::encode_row_key(table, &Handle::Int(handle));
            assert_eq!(shown(&key), format!("t_41_r_{handle}"));
        }
        let key = keys::encode_row_key(table, &Handle::Common(vec![1, 0xAB]));
        assert_eq!(shown(&key), "t_41_r_01ab");
        let eight = keys::encode_row_key(table, &Handle::Int(0));
        assert_eq!(key_text(&eight, false), "t_41_r_8000000000000000");
        let parts = [(DatumRef::Int(1), &int)];
        let key = keys::encode_index_key(table, IndexId(2), parts, None);
        assert_eq!(shown(&key), "t_41_i_2_038000000000000001");
        assert_eq!(shown(&keys::index_prefix(table, IndexId(2))), "t_41_i_2_");
        assert_eq!(shown(&key[..12]), "t_41_5f6980");
    }
}
