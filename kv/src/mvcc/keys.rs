//! Keys of the multi-version layer.
//!
//! **Data** (all big endian, so that byte order is key order)
//!
//! | CF | key |
//! | --- | --- |
//! | lock | `z` memcomparable(raw) |
//! | write | `z` memcomparable(raw) `!commit_ts` |
//! | default | `z` memcomparable(raw) `!start_ts` |
//!
//! The inverted timestamp sorts newer versions first, so one seek to
//! `(key, read_ts)` lands on the version a reader wants. The memcomparable form
//! (groups of eight bytes, each followed by `0xff - padding`) makes no encoded
//! key a prefix of another, so that a timestamp never mixes with a longer key.
//!
//! "Raw key" is what regions and requests speak; "user key" here is the encoded
//! form with its `z` and without a timestamp. `crate::keys` has the same encoding
//! for region bounds; here it works on buffers that stay on the stack.

use cairn_types::TimeStamp;
use smallvec::SmallVec;

use super::MvccError;
pub use crate::keys::{DATA_END, DATA_PREFIX};

/// Bytes of an encoded timestamp.
pub const TS_LEN: usize = 8;
/// Longest raw key a request may carry: an index entry over long columns fits,
/// a runaway key does not.
pub const RAW_KEY_BYTES_MAX: usize = 16 * 1024;

const GROUP: usize = 8;
const MARKER: u8 = 0xff;

/// An encoded key; rows' and most index entries' keys need no heap.
pub type KeyBuf = SmallVec<[u8; 64]>;

/// Encodes a raw key into a fresh buffer with room for a timestamp.
pub fn user_key(raw: &[u8]) -> KeyBuf {
    let mut buf = KeyBuf::with_capacity(1 + (raw.len() / GROUP + 1) * (GROUP + 1) + TS_LEN);
    encode_user_key(raw, &mut buf);
    buf
}

/// Appends `z` and the memcomparable form of `raw`.
pub fn encode_user_key(raw: &[u8], buf: &mut KeyBuf) {
    buf.push(DATA_PREFIX);
    let mut chunks = raw.chunks_exact(GROUP);
    for chunk in &mut chunks {
        buf.extend_from_slice(chunk);
        buf.push(MARKER);
    }
    let rest = chunks.remainder();
    let mut group = [0u8; GROUP + 1];
    group[..rest.len()].copy_from_slice(rest);
    group[GROUP] = MARKER - (GROUP - rest.len()) as u8;
    buf.extend_from_slice(&group);
}

/// Appends an inverted timestamp, making a key of CF write or default.
pub fn append_ts(buf: &mut KeyBuf, ts: TimeStamp) {
    buf.extend_from_slice(&(!ts.0).to_be_bytes());
}

/// `(user key, ts)` as one key of CF write or default.
pub fn versioned_key(user_key: &[u8], ts: TimeStamp) -> KeyBuf {
    let mut buf = KeyBuf::with_capacity(user_key.len() + TS_LEN);
    buf.extend_from_slice(user_key);
    append_ts(&mut buf, ts);
    buf
}

/// Splits a key of CF write or default into user key and timestamp.
pub fn split_ts(key: &[u8]) -> Result<(&[u8], TimeStamp), MvccError> {
    match key.split_last_chunk::<TS_LEN>() {
        Some((user_key, ts)) => Ok((user_key, TimeStamp(!u64::from_be_bytes(*ts)))),
        None => Err(MvccError::corrupt("versioned key shorter than its timestamp")),
    }
}

/// Decodes a user key, replacing the contents of `raw`.
pub fn decode_user_key(user_key: &[u8], raw: &mut Vec<u8>) -> Result<(), MvccError> {
    raw.clear();
    let Some((&DATA_PREFIX, mut rest)) = user_key.split_first() else {
        return Err(MvccError::corrupt("data key without its prefix"));
    };
    while let Some((group, tail)) = rest.split_first_chunk::<{ GROUP + 1 }>() {
        rest = tail;
        if group[GROUP] == MARKER {
            raw.extend_from_slice(&group[..GROUP]);
            continue;
        }
        let padding = usize::from(MARKER - group[GROUP]);
        if padding > GROUP || !rest.is_empty() {
            return Err(MvccError::corrupt("bad group marker in a data key"));
        }
        let (bytes, zeros) = group[..GROUP].split_at(GROUP - padding);
        if zeros.iter().any(|&byte| byte != 0) {
            return Err(MvccError::corrupt("bad padding in a data key"));
        }
        raw.extend_from_slice(bytes);
        return Ok(());
    }
    Err(MvccError::corrupt("data key ends inside a group"))
}

/// Bounds of a raw range `[start, end)` in the lock CF, and, since versions
/// of a key sort after it and before the next key, in the other two as well.
/// An empty `end` is the end of the data space.
pub fn range_bounds(start: &[u8], end: &[u8]) -> (KeyBuf, KeyBuf) {
    let lower = if start.is_empty() { KeyBuf::from_slice(&[DATA_PREFIX]) } else { user_key(start) };
    let upper = if end.is_empty() { KeyBuf::from_slice(DATA_END) } else { user_key(end) };
    (lower, upper)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn encoding_keeps_order_and_decodes(
            a in proptest::collection::vec(any::<u8>(), 0..40),
            b in proptest::collection::vec(any::<u8>(), 0..40),
        ) {
            let (encoded_a, encoded_b) = (user_key(&a), user_key(&b));
            prop_assert_eq!(encoded_a.cmp(&encoded_b), a.cmp(&b));
            prop_assert_eq!(&encoded_a[..], crate::keys::data_key(&a));
            let mut raw = Vec::new();
            decode_user_key(&encoded_a, &mut raw).unwrap();
            prop_assert_eq!(raw, a);
        }

        #[test]
        fn decoding_random_bytes_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = decode_user_key(&bytes, &mut Vec::new());
            let _ = split_ts(&bytes);
        }
    }

    #[test]
    fn newer_versions_sort_first() {
        let key = user_key(b"k");
        let (newer, older) = (versioned_key(&key, TimeStamp(9)), versioned_key(&key, TimeStamp(3)));
        assert!(newer < older);
        assert_eq!(split_ts(&newer).unwrap(), (&key[..], TimeStamp(9)));
        // The next key in raw order follows every version of this one.
        assert!(versioned_key(&key, TimeStamp::ZERO) < user_key(b"k\0"));
    }
}
