//! Hash tables of the operators: groups of an aggregation, rows of a join.
//!
//! Both work on keys that [`keys::KeyBatch`] made of a chunk's key columns: plain
//! 64-bit integers where there is one fixed-width key column, byte strings
//! otherwise. Two rows have the same key bytes exactly if SQL holds their keys
//! equal (text by its collation, decimals whatever their scale, -0 and 0).
//!
//! Hashing is seeded with a constant, so that a run repeats itself; a client that
//! crafts colliding keys slows down its own statement only.

pub mod groups;
pub mod join;
pub mod keys;

/// Mixes a 64-bit key: multiply, then fold the high half down (the low bits of a
/// product depend on the low bits of the key only).
#[inline]
pub(crate) fn hash_int(key: u64) -> u64 {
    let product = u128::from(key ^ 0x9E37_79B9_7F4A_7C15) * 0xD1B5_4A32_D192_ED03_u128;
    (product as u64) ^ ((product >> 64) as u64)
}

/// Hashes key bytes.
#[inline]
pub(crate) fn hash_bytes(key: &[u8]) -> u64 {
    use std::hash::{BuildHasher, Hasher};
    let mut hasher = foldhash::fast::FixedState::with_seed(0x0C41_126E).build_hasher();
    hasher.write(key);
    hasher.finish()
}
