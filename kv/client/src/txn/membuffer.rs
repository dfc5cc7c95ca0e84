//! The writes of a transaction before it commits.
//!
//! An ordered map from key to what shall become of it, with an undo log, so that
//! a failed statement leaves no trace: [`MemBuffer::checkpoint`] before it,
//! [`MemBuffer::rollback_to`] or [`MemBuffer::release`] behind it. Checkpoints
//! nest (statements within savepoints).
//!
//! **Invariants.** `size_bytes` is the sum of keys that are written or locked, and of their
//! values, and never exceeds the limit. Without an open checkpoint the undo log is empty.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;
use cairn_proto::kv::Assertion;

use crate::error::KvError;
use crate::region_cache::KeyRange;

/// What shall become of a key.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum BufferedValue {
    /// Nothing is written; the entry only carries flags.
    #[default]
    Untouched,
    /// It keeps this value, which need not be what the read view shows below. Nothing is written.
    Unchanged(Bytes),
    /// It gets the value.
    Put(Bytes),
    /// It is removed.
    Delete,
}

/// What commit must see to besides writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct KeyFlags {
    /// The key must not exist when the transaction commits.
    pub presume_not_exists: bool,
    /// The key is locked against other writers even when nothing is written.
    pub locked: bool,
    /// What the first change knew of the key.
    pub assertion: Assertion,
}

/// One entry of the buffer.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Entry {
    /// What shall become of the key.
    pub value: BufferedValue,
    /// What else commit must see to.
    pub flags: KeyFlags,
}

impl Entry {
    fn size_bytes(&self, key: &Bytes) -> u64 {
        let value_bytes = match &self.value {
            // What users may write is limited by what they write.
            BufferedValue::Unchanged(_) => return 0,
            BufferedValue::Put(value) => value.len(),
            BufferedValue::Untouched | BufferedValue::Delete => 0,
        };
        (key.len() + value_bytes) as u64
    }
}

/// A point to which a buffer can be brought back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a checkpoint is either rolled back to or released"]
pub struct Checkpoint {
    undo_len: usize,
    depth: usize,
}

/// Limits of a buffer.
#[derive(Clone, Copy, Debug)]
pub struct BufferLimits {
    /// Bytes of all keys and values.
    pub size_bytes_max: u64,
    /// Bytes of one key with its value.
    pub entry_bytes_max: u64,
}

/// An ordered buffer of writes.
#[derive(Debug)]
pub struct MemBuffer {
    entries: BTreeMap<Bytes, Entry>,
    undo: Vec<(Bytes, Option<Entry>)>,
    depth: usize,
    size_bytes: u64,
    limits: BufferLimits,
}

impl MemBuffer {
    /// An empty buffer.
    pub fn new(limits: BufferLimits) -> MemBuffer {
        MemBuffer { entries: BTreeMap::new(), undo: Vec::new(), depth: 0, size_bytes: 0, limits }
    }

    /// The entry of a key.
    pub fn get(&self, key: &[u8]) -> Option<&Entry> {
        self.entries.get(key)
    }

    /// Writes a value.
    pub fn set(&mut self, key: Bytes, value: Bytes) -> Result<(), KvError> {
        self.set_asserting(key, value, Assertion::None)
    }

    /// Writes a value, and says what the writer knows of the key. What is true before the
    /// transaction only its first change of the key can know.
    pub fn set_asserting(
        &mut self,
        key: Bytes,
        value: Bytes,
        assertion: Assertion,
    ) -> Result<(), KvError> {
        let flags = self.asserting(&key, assertion);
        self.put(key, Entry { value: BufferedValue::Put(value), flags })
    }

    /// Writes a value to a key that must not exist at commit, unless this
    /// transaction removed it itself: then the key's earlier state decides.
    pub fn insert(&mut self, key: Bytes, value: Bytes) -> Result<(), KvError> {
        let mut flags = self.flags(&key);
        let deleted_here = self.get(&key).is_some_and(|entry| entry.value == BufferedValue::Delete);
        flags.presume_not_exists |= !deleted_here;
        self.put(key, Entry { value: BufferedValue::Put(value), flags })
    }

    /// Removes a key. A key that was inserted here and must not have existed
    /// before keeps that demand.
    pub fn delete(&mut self, key: Bytes) -> Result<(), KvError> {
        self.delete_asserting(key, Assertion::None)
    }

    /// Removes a key, and says what the writer knows of it.
    pub fn delete_asserting(&mut self, key: Bytes, assertion: Assertion) -> Result<(), KvError> {
        let flags = self.asserting(&key, assertion);
        self.put(key, Entry { value: BufferedValue::Delete, flags })
    }

    /// Notes a value that a key keeps. What the transaction did to the key itself goes before.
    pub fn note(&mut self, key: Bytes, value: Bytes) -> Result<(), KvError> {
        if self.get(&key).is_some_and(|entry| entry.value != BufferedValue::Untouched) {
            return Ok(());
        }
        let flags = self.flags(&key);
        self.put(key, Entry { value: BufferedValue::Unchanged(value), flags })
    }

    /// Marks a key as locked.
    pub fn lock(&mut self, key: Bytes) -> Result<(), KvError> {
        let mut entry = self.get(&key).cloned().unwrap_or_default();
        entry.flags.locked = true;
        self.put(key, entry)
    }

    fn asserting(&self, key: &[u8], assertion: Assertion) -> KeyFlags {
        match self.get(key) {
            None => KeyFlags { assertion, ..KeyFlags::default() },
            Some(entry) => match entry.value {
                BufferedValue::Put(_) | BufferedValue::Delete => entry.flags,
                BufferedValue::Untouched | BufferedValue::Unchanged(_) => {
                    KeyFlags { assertion, ..entry.flags }
                }
            },
        }
    }

    fn flags(&self, key: &[u8]) -> KeyFlags {
        self.get(key).map(|entry| entry.flags).unwrap_or_default()
    }

    fn put(&mut self, key: Bytes, entry: Entry) -> Result<(), KvError> {
        let entry_bytes = entry.size_bytes(&key);
        let BufferLimits { size_bytes_max, entry_bytes_max } = self.limits;
        if entry_bytes > entry_bytes_max {
            return Err(KvError::EntryTooLarge {
                size_bytes: entry_bytes,
                limit_bytes: entry_bytes_max,
            });
        }
        let replaced_bytes = self.get(&key).map_or(0, |old| old.size_bytes(&key));
        let size_bytes = self.size_bytes - replaced_bytes + entry_bytes;
        if size_bytes > size_bytes_max && entry_bytes > replaced_bytes {
            return Err(KvError::TxnTooLarge { size_bytes });
        }
        self.size_bytes = size_bytes;
        let old = self.entries.insert(key.clone(), entry);
        if self.depth > 0 {
            self.undo.push((key, old));
        }
        Ok(())
    }

    /// Opens a checkpoint.
    pub fn checkpoint(&mut self) -> Checkpoint {
        self.depth += 1;
        Checkpoint { undo_len: self.undo.len(), depth: self.depth }
    }

    /// Undoes everything since the checkpoint and closes it, with those opened
    /// after it.
    pub fn rollback_to(&mut self, checkpoint: Checkpoint) {
        while self.undo.len() > checkpoint.undo_len {
            let Some((key, old)) = self.undo.pop() else { break };
            let new_bytes = self.entries.get(&key).map_or(0, |entry| entry.size_bytes(&key));
            let old_bytes = old.as_ref().map_or(0, |entry| entry.size_bytes(&key));
            self.size_bytes = self.size_bytes - new_bytes + old_bytes;
            match old {
                Some(entry) => self.entries.insert(key, entry),
                None => self.entries.remove(&key),
            };
        }
        self.close(checkpoint);
    }

    /// Keeps everything since the checkpoint and closes it, with those opened
    /// after it.
    pub fn release(&mut self, checkpoint: Checkpoint) {
        self.close(checkpoint);
    }

    fn close(&mut self, checkpoint: Checkpoint) {
        self.depth = self.depth.min(checkpoint.depth.saturating_sub(1));
        if self.depth == 0 {
            self.undo.clear();
        }
    }

    /// Entries of a range in key order, or from its end.
    pub fn range(
        &self,
        range: &KeyRange,
    ) -> impl DoubleEndedIterator<Item = (&Bytes, &Entry)> + use<'_> {
        let start = if range.is_empty() { range.end.clone() } else { range.start.clone() };
        let end = match &range.end {
            end if end.is_empty() => Bound::Unbounded,
            end => Bound::Excluded(end.clone()),
        };
        // An inverted range would make the map panic; it becomes [end, end).
        let bounds = if range.is_empty() {
            (Bound::Included(start.clone()), Bound::Excluded(start))
        } else {
            (Bound::Included(start), end)
        };
        self.entries.range(bounds)
    }

    /// Every entry in key order.
    pub fn iter(&self) -> impl Iterator<Item = (&Bytes, &Entry)> {
        self.entries.iter()
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Bytes of keys written or locked, and of their values.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn buffer() -> MemBuffer {
        MemBuffer::new(BufferLimits { size_bytes_max: 1 << 20, entry_bytes_max: 1 << 10 })
    }

    #[derive(Clone, Debug)]
    enum Step {
        Set(u8, u8),
        Insert(u8, u8),
        Delete(u8),
        Note(u8, u8),
        Lock(u8),
        Checkpoint,
        Rollback,
        Release,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..12u8, 0..9u8).prop_map(|(key, len)| Step::Set(key, len)),
            2 => (0..12u8, 0..9u8).prop_map(|(key, len)| Step::Insert(key, len)),
            3 => (0..12u8).prop_map(Step::Delete),
            2 => (0..12u8, 0..9u8).prop_map(|(key, len)| Step::Note(key, len)),
            1 => (0..12u8).prop_map(Step::Lock),
            2 => Just(Step::Checkpoint),
            1 => Just(Step::Rollback),
            1 => Just(Step::Release),
        ]
    }

    proptest! {
        /// Against a model that copies the whole map at every checkpoint.
        #[test]
        fn staging_equals_copies(steps in proptest::collection::vec(step(), 0..80)) {
            let mut buffer = buffer();
            let mut open = Vec::new();
            for step in steps {
                let key = |key: u8| Bytes::from(vec![b'k', key]);
                match step {
                    Step::Set(k, len) => {
                        buffer.set(key(k), Bytes::from(vec![0; len as usize])).expect("small");
                    }
                    Step::Insert(k, len) => {
                        buffer.insert(key(k), Bytes::from(vec![1; len as usize])).expect("small");
                    }
                    Step::Delete(k) => buffer.delete(key(k)).expect("small"),
                    Step::Note(k, len) => {
                        buffer.note(key(k), Bytes::from(vec![2; len as usize])).expect("small");
                    }
                    Step::Lock(k) => buffer.lock(key(k)).expect("small"),
                    Step::Checkpoint => {
                        open.push((buffer.entries.clone(), buffer.checkpoint()));
                    }
                    Step::Rollback => if let Some((copy, checkpoint)) = open.pop() {
                        buffer.rollback_to(checkpoint);
                        prop_assert_eq!(&buffer.entries, &copy);
                    },
                    Step::Release => if let Some((_, checkpoint)) = open.pop() {
                        buffer.release(checkpoint);
                    },
                }
                let size: u64 = buffer.iter().map(|(key, entry)| entry.size_bytes(key)).sum();
                prop_assert_eq!(size, buffer.size_bytes());
                prop_assert_eq!(buffer.depth, open.len());
                prop_assert!(!open.is_empty() || buffer.undo.is_empty());
            }
        }
    }

    #[test]
    fn limits_name_themselves() {
        let limits = BufferLimits { size_bytes_max: 20, entry_bytes_max: 10 };
        let mut buffer = MemBuffer::new(limits);
        let value = |len: usize| Bytes::from(vec![0; len]);
        assert_eq!(
            buffer.set("k".into(), value(10)),
            Err(KvError::EntryTooLarge { size_bytes: 11, limit_bytes: 10 })
        );
        buffer.set("a".into(), value(9)).expect("fits");
        buffer.set("b".into(), value(9)).expect("fits");
        assert_eq!(buffer.set("c".into(), value(1)), Err(KvError::TxnTooLarge { size_bytes: 22 }));
        buffer.set("a".into(), value(7)).expect("shrinks");
        buffer.set("c".into(), value(1)).expect("fits now");
    }

    #[test]
    fn insert_after_own_delete_presumes_nothing() {
        let mut buffer = buffer();
        buffer.delete("k".into()).expect("small");
        buffer.insert("k".into(), "v".into()).expect("small");
        assert!(!buffer.flags(b"k").presume_not_exists);
        buffer.insert("n".into(), "v".into()).expect("small");
        buffer.delete("n".into()).expect("small");
        assert!(buffer.flags(b"n").presume_not_exists);
    }

    #[test]
    fn the_first_change_says_what_was_there() {
        let mut buffer = buffer();
        let assertion = |buffer: &MemBuffer| buffer.flags(b"k").assertion;
        buffer.lock("k".into()).expect("small");
        let statement = buffer.checkpoint();
        buffer.delete_asserting("k".into(), Assertion::Exist).expect("small");
        buffer.set_asserting("k".into(), "v".into(), Assertion::NotExist).expect("small");
        assert_eq!(assertion(&buffer), Assertion::Exist);
        buffer.rollback_to(statement);
        assert_eq!(assertion(&buffer), Assertion::None);
        buffer.set("k".into(), "v".into()).expect("small");
        buffer.delete_asserting("k".into(), Assertion::Exist).expect("small");
        assert_eq!(assertion(&buffer), Assertion::None);
    }

    #[test]
    fn notes_give_way_to_writes_and_cost_nothing() {
        let mut buffer = MemBuffer::new(BufferLimits { size_bytes_max: 2, entry_bytes_max: 2 });
        let value = |buffer: &MemBuffer| buffer.get(b"k").map(|entry| entry.value.clone());
        buffer.note("k".into(), "as it is".into()).expect("unlimited");
        assert_eq!(value(&buffer), Some(BufferedValue::Unchanged("as it is".into())));
        assert_eq!(buffer.size_bytes(), 0);
        let statement = buffer.checkpoint();
        buffer.set("k".into(), "v".into()).expect("fits");
        buffer.note("k".into(), "as it is".into()).expect("unlimited");
        assert_eq!(value(&buffer), Some(BufferedValue::Put("v".into())));
        buffer.delete("k".into()).expect("fits");
        buffer.note("k".into(), "as it is".into()).expect("unlimited");
        assert_eq!(value(&buffer), Some(BufferedValue::Delete));
        buffer.rollback_to(statement);
        assert_eq!(value(&buffer), Some(BufferedValue::Unchanged("as it is".into())));
        assert_eq!(buffer.size_bytes(), 0);
    }

    #[test]
    fn ranges_go_both_ways() {
        let mut buffer = buffer();
        for key in ["a", "b", "c", "d"] {
            buffer.set(key.into(), "v".into()).expect("small");
        }
        let keys = |range: KeyRange| -> Vec<Bytes> {
            buffer.range(&range).map(|(key, _)| key.clone()).collect()
        };
        assert_eq!(keys(KeyRange::new("b", "d")), ["b", "c"]);
        assert_eq!(keys(KeyRange::new("c", "")), ["c", "d"]);
        assert!(keys(KeyRange::new("d", "b")).is_empty());
        let last = buffer.range(&KeyRange::default()).next_back().map(|(key, _)| key.clone());
        assert_eq!(last, Some("d".into()));
    }
}
