//! The seam below the scans: an ordered source of key-value pairs.
//!
//! The store implements it over its MVCC reader, the SQL node over a
//! transaction's view (snapshot and own writes), tests over a `BTreeMap`
//! ([`crate::testing::MemorySource`]). Keys are raw keys (`t…_r…`, `t…_i…`);
//! versions, locks, regions and networks are the source's business.

use async_trait::async_trait;
use bytes::Bytes;

use crate::error::Result;

/// Keys from `start` up to but not including `end`; an empty end is +infinity.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct KeyRange {
    /// First key.
    pub start: Bytes,
    /// First key after the range.
    pub end: Bytes,
}

impl KeyRange {
    /// The range `[start, end)`.
    pub fn new(start: impl Into<Bytes>, end: impl Into<Bytes>) -> KeyRange {
        KeyRange { start: start.into(), end: end.into() }
    }

    /// The range that holds one key only.
    pub fn point(key: &[u8]) -> KeyRange {
        let mut end = Vec::with_capacity(key.len() + 1);
        end.extend_from_slice(key);
        end.push(0);
        KeyRange { start: Bytes::copy_from_slice(key), end: end.into() }
    }

    /// Whether the range holds exactly the key `start`.
    pub fn is_point(&self) -> bool {
        self.end.len() == self.start.len() + 1
            && self.end.last() == Some(&0)
            && self.end.starts_with(&self.start)
    }

    /// Whether `key` lies in the range.
    pub fn contains(&self, key: &[u8]) -> bool {
        self.start.as_ref() <= key && (self.end.is_empty() || key < self.end.as_ref())
    }
}

impl From<KeyRange> for cairn_proto::kv::KeyRange {
    fn from(range: KeyRange) -> Self {
        cairn_proto::kv::KeyRange { start: range.start, end: range.end }
    }
}

impl From<cairn_proto::kv::KeyRange> for KeyRange {
    fn from(range: cairn_proto::kv::KeyRange) -> Self {
        KeyRange { start: range.start, end: range.end }
    }
}

/// What a point read found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RowRead {
    /// The value.
    Found(Bytes),
    /// No such key (at this time).
    Missing,
    /// This source does not lead the key's region: someone else must read it.
    /// Only a store's source answers so.
    Remote,
}

/// Ordered key-value pairs at one point in time.
#[async_trait]
pub trait KvSource: Send + Sync {
    /// Starts a scan of `range`, backwards if `desc`.
    async fn scan(&self, range: KeyRange, desc: bool) -> Result<Box<dyn KvScan>>;

    /// Reads single keys; the answers are in the order of `keys`.
    async fn batch_get(&self, keys: &[Bytes]) -> Result<Vec<RowRead>>;
}

/// A running scan. Dropping it ends it.
#[async_trait]
pub trait KvScan: Send {
    /// Appends up to `limit` pairs to `out`, which may hold pairs already. `false`: drained, no pair will follow (some may still have been added by
    /// this call). `true` with no pair added is allowed.
    async fn next_batch(&mut self, out: &mut KvBatch, limit: usize) -> Result<bool>;
}

/// Key-value pairs in two byte buffers, made to be reused.
#[derive(Clone, Debug, Default)]
pub struct KvBatch {
    keys: Vec<u8>,
    key_ends: Vec<usize>,
    values: Vec<u8>,
    value_ends: Vec<usize>,
}

impl KvBatch {
    /// An empty batch.
    pub fn new() -> KvBatch {
        KvBatch::default()
    }

    /// Removes the pairs and keeps the buffers.
    pub fn clear(&mut self) {
        self.keys.clear();
        self.key_ends.clear();
        self.values.clear();
        self.value_ends.clear();
    }

    /// Appends a pair.
    #[inline]
    pub fn push(&mut self, key: &[u8], value: &[u8]) {
        self.keys.extend_from_slice(key);
        self.key_ends.push(self.keys.len());
        self.values.extend_from_slice(value);
        self.value_ends.push(self.values.len());
    }

    /// Number of pairs.
    #[inline]
    pub fn len(&self) -> usize {
        self.key_ends.len()
    }

    /// Whether there is no pair.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.key_ends.is_empty()
    }

    /// Bytes of all keys and values.
    #[inline]
    pub fn size_bytes(&self) -> usize {
        self.keys.len() + self.values.len()
    }

    /// Key of pair `index`.
    #[inline]
    pub fn key(&self, index: usize) -> &[u8] {
        let start = if index == 0 { 0 } else { self.key_ends[index - 1] };
        &self.keys[start..self.key_ends[index]]
    }

    /// Value of pair `index`.
    #[inline]
    pub fn value(&self, index: usize) -> &[u8] {
        let start = if index == 0 { 0 } else { self.value_ends[index - 1] };
        &self.values[start..self.value_ends[index]]
    }

    /// The pairs in order.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        (0..self.len()).map(|index| (self.key(index), self.value(index)))
    }

    /// Bytes of all keys and values.
    pub fn bytes(&self) -> usize {
        self.keys.len() + self.values.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_hand_back_what_was_pushed() {
        let mut batch = KvBatch::new();
        batch.push(b"a", b"");
        batch.push(b"bc", b"value");
        let pairs: Vec<_> = batch.iter().collect();
        assert_eq!(pairs, [(&b"a"[..], &b""[..]), (b"bc", b"value")]);
        batch.clear();
        assert!(batch.is_empty());
    }

    #[test]
    fn point_ranges_hold_their_key_only() {
        let range = KeyRange::point(b"k");
        assert!(range.is_point() && range.contains(b"k"));
        assert!(!range.contains(b"k\0") && !range.contains(b"l"));
        assert!(KeyRange::new(&b"a"[..], &b""[..]).contains(b"zzz"));
    }
}
