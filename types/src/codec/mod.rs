//! Memcomparable encodings: bytes whose plain order is the order of the values.
//!
//! One codec serves the store's keys and the executor's sort, group and join keys.
//!
//! | value | bytes |
//! |---|---|
//! | `i64` | big endian, sign bit flipped |
//! | `u64` | big endian (`_desc`: all bits flipped) |
//! | `f64` | big endian bits; negative: all flipped, else the sign bit |
//! | bytes | groups of 8, zero-padded, each with a marker `0xFF - padding` |
//! | decimal | sign, exponent, digit pairs, 0; see [`encode_decimal`] |
//!
//! A datum is a flag byte and one of these ([`encode_datum_key`]); flags order
//! NULL before everything. Every encoding knows its own end, so columns follow
//! one another without separators, and no key is a prefix of another's column.
//!
//! **Sources.** TiKV `codec` (group format of bytes), MyRocks record format.

mod datum;
mod number;

pub use datum::{
    decode_datum_key, encode_datum_key, encode_key, flag, key_is_restorable, skip_datum_key,
};
pub use number::{
    decode_decimal, decode_f64, decode_i64, decode_u64, decode_u64_desc, encode_decimal,
    encode_f64, encode_i64, encode_u64, encode_u64_desc,
};

use crate::error::{Result, TypeError};

pub(crate) const CORRUPTED: TypeError = TypeError::Corrupted("key");

/// Bytes of a group.
const GROUP: usize = 8;
/// Marker of a full group.
const MARKER_FULL: u8 = 0xFF;

/// Appends bytes in groups of eight.
pub fn encode_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.reserve((bytes.len() / GROUP + 1) * (GROUP + 1));
    let mut groups = bytes.chunks_exact(GROUP);
    for group in &mut groups {
        out.extend_from_slice(group);
        out.push(MARKER_FULL);
    }
    let rest = groups.remainder();
    let padding = GROUP - rest.len();
    out.extend_from_slice(rest);
    out.extend_from_slice(&[0; GROUP][..padding]);
    out.push(MARKER_FULL - padding as u8);
}

/// Encodes in place what `out` holds from `start` on, as [`encode_bytes`] would.
pub(crate) fn encode_tail(out: &mut Vec<u8>, start: usize) {
    let len = out.len() - start;
    let last = len / GROUP;
    out.resize(start + encoded_bytes_len(len), 0);
    // From the back, so that no group overwrites one that has yet to move.
    for group in (0..=last).rev() {
        let from = start + group * GROUP;
        let to = start + group * (GROUP + 1);
        let size = if group == last { len % GROUP } else { GROUP };
        out.copy_within(from..from + size, to);
        out[to + size..to + GROUP].fill(0);
        out[to + GROUP] = MARKER_FULL - (GROUP - size) as u8;
    }
}

/// Length of bytes once encoded.
pub fn encoded_bytes_len(len: usize) -> usize {
    (len / GROUP + 1) * (GROUP + 1)
}

/// Reads bytes written by [`encode_bytes`], advancing `input`.
pub fn decode_bytes(input: &mut &[u8], out: &mut Vec<u8>) -> Result<()> {
    loop {
        let (group, rest) = input.split_at_checked(GROUP + 1).ok_or(CORRUPTED)?;
        *input = rest;
        let padding = usize::from(MARKER_FULL - group[GROUP]);
        if padding > GROUP || group[GROUP - padding..GROUP].iter().any(|byte| *byte != 0) {
            return Err(CORRUPTED);
        }
        out.extend_from_slice(&group[..GROUP - padding]);
        if padding > 0 {
            return Ok(());
        }
    }
}

/// Passes over bytes written by [`encode_bytes`].
fn skip_bytes(input: &mut &[u8]) -> Result<()> {
    loop {
        let (group, rest) = input.split_at_checked(GROUP + 1).ok_or(CORRUPTED)?;
        *input = rest;
        if group[GROUP] != MARKER_FULL {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests;
