//! How many different values there are, in bounded memory.
//!
//! **Algorithm.** Wegman's adaptive sampling, which TiDB calls FM sketch: of the hashes seen, those
//! that end in `level` zero bits are kept; when they are too many, the level rises by one and half
//! of them go. The number of different values is about `kept * 2^level`: exact up to
//! [`SKETCH_HASHES_MAX`] values, then with a standard error of `1.2 / sqrt(SKETCH_HASHES_MAX)`, 2 %.
//! Sketches of parts merge into the sketch of the whole.
//!
//! Source: Ph. Flajolet, "On Adaptive Sampling", Computing 43 (1990).

use hashbrown::HashSet;

/// Hashes that a sketch keeps at most: 32 KiB on the wire.
pub const SKETCH_HASHES_MAX: usize = 4_096;
/// Bytes of a hash in the set, with its share of free places.
const HASH_BYTES: usize = 16;

/// A sketch of different values.
#[derive(Clone, Debug, Default)]
pub struct DistinctSketch {
    level: u32,
    /// The hashes are random numbers: they need no other hash.
    hashes: HashSet<u64, foldhash::fast::FixedState>,
}

impl DistinctSketch {
    /// The sketch that another process has made.
    pub fn from_parts(level: u32, hashes: impl IntoIterator<Item = u64>) -> DistinctSketch {
        let mut sketch = DistinctSketch { level: level.min(u64::BITS - 1), ..Default::default() };
        hashes.into_iter().for_each(|hash| sketch.insert(hash));
        sketch
    }

    /// Hashes end in so many zero bits, those of [`DistinctSketch::hashes`].
    pub fn level(&self) -> u32 {
        self.level
    }

    /// The hashes that are kept, in any order.
    pub fn hashes(&self) -> impl Iterator<Item = u64> {
        self.hashes.iter().copied()
    }

    /// Adds a value by its hash.
    #[inline]
    pub fn insert(&mut self, hash: u64) {
        if !is_kept(hash, self.level) {
            return;
        }
        self.hashes.insert(hash);
        while self.hashes.len() > SKETCH_HASHES_MAX && self.level < u64::BITS - 1 {
            self.raise(self.level + 1);
        }
    }

    /// Adds what another sketch has seen.
    pub fn merge(&mut self, other: &DistinctSketch) {
        if other.level > self.level {
            self.raise(other.level);
        }
        other.hashes.iter().for_each(|hash| self.insert(*hash));
    }

    /// About how many different values were added.
    pub fn estimate(&self) -> f64 {
        self.hashes.len() as f64 * 2f64.powi(self.level as i32)
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.hashes.capacity() * HASH_BYTES
    }

    fn raise(&mut self, level: u32) {
        self.level = level;
        self.hashes.retain(|hash| is_kept(*hash, level));
    }
}

fn is_kept(hash: u64, level: u32) -> bool {
    hash.trailing_zeros() >= level
}

/// Hash of nothing.
pub const HASH_START: u64 = 0x9e37_79b9_7f4a_7c15;
const MULTIPLIER: u64 = 0xd6e8_feb8_6659_fd93;

/// A hash that is the same on all nodes and in all versions: they merge what others have made.
pub fn hash_bytes(start: u64, bytes: &[u8]) -> u64 {
    let mut hash = start ^ (bytes.len() as u64).wrapping_mul(MULTIPLIER);
    for chunk in bytes.chunks(8) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        hash = combine(hash, u64::from_le_bytes(word));
    }
    mix(hash)
}

/// The hash of a sequence, from that of its beginning and its next member.
#[inline]
pub fn combine(hash: u64, next: u64) -> u64 {
    let product = u128::from(hash ^ next ^ HASH_START) * u128::from(MULTIPLIER);
    (product as u64 ^ (product >> 64) as u64).wrapping_add(next.rotate_left(29))
}

/// Spreads every bit over all others (the end of MurmurHash3).
#[inline]
pub fn mix(mut hash: u64) -> u64 {
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

/// Random numbers from a seed (SplitMix64).
#[derive(Clone, Debug)]
pub struct Weights {
    state: u64,
}

impl Weights {
    /// The sequence of a seed.
    pub fn new(seed: u64) -> Weights {
        Weights { state: seed }
    }

    /// The next one.
    #[inline]
    pub fn draw(&mut self) -> u64 {
        self.state = self.state.wrapping_add(HASH_START);
        mix(self.state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sketch(values: std::ops::Range<u64>) -> DistinctSketch {
        let mut sketch = DistinctSketch::default();
        values.for_each(|value| sketch.insert(hash_bytes(HASH_START, &value.to_be_bytes())));
        sketch
    }

    #[test]
    fn few_values_are_counted_and_many_are_estimated() {
        assert_eq!(sketch(0..0).estimate(), 0.0);
        assert_eq!(sketch(0..4_096).estimate(), 4_096.0);
        for values in [10_000, 100_000, 1_000_000] {
            let error = sketch(0..values).estimate() / values as f64 - 1.0;
            assert!(error.abs() < 0.06, "{values}: off by {error}");
            assert!(sketch(0..values).hashes().count() <= SKETCH_HASHES_MAX);
        }
    }

    #[test]
    fn sketches_of_parts_merge_into_that_of_the_whole() {
        for (left, right) in [(0..100, 50..200), (0..60_000, 30_000..100_000), (0..9, 0..50_000)] {
            let whole = sketch(0..right.end);
            for (mut to, from) in [
                (sketch(left.clone()), sketch(right.clone())),
                (sketch(right.clone()), sketch(left.clone())),
            ] {
                to.merge(&DistinctSketch::from_parts(from.level(), from.hashes()));
                assert_eq!(to.estimate(), whole.estimate(), "{left:?} and {right:?}");
            }
        }
    }
}
