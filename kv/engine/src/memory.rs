//! The in-memory twin of RocksDB: every version of a key, by sequence number.
//!
//! **Data.** One ordered map per column family from (key, newest sequence first)
//! to a value or a deletion. A batch gets one sequence number, so it is atomic; a
//! snapshot is a number, so it is cheap. Versions that no snapshot, and no crash,
//! can bring back are dropped when a newer one is written over them.
//!
//! **Crashes.** [`MemoryEngine::crash`] forgets what was not synced, as a
//! machine that loses power does; tests use it to show what survives.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::RwLock;

use crate::garbage::{FilterSlot, GarbageFilter};
use crate::sorted_file::{self, FilePlan, SortedFile};
use crate::{
    Cf, EngineError, EngineIterator, EngineSnapshot, IterOptions, KvEngine, Result, WriteBatch,
    WriteOp, version_prefix,
};

/// Newest version of a key first.
type VersionedKey = (Bytes, Reverse<u64>);

#[derive(Default)]
struct State {
    maps: [BTreeMap<VersionedKey, Option<Bytes>>; 3],
    /// Sequence number of the newest batch.
    sequence: u64,
    /// Sequence number of the newest durable batch.
    synced_sequence: u64,
    /// Live snapshots: sequence number → how many.
    snapshots: BTreeMap<u64, usize>,
    /// Bytes of keys and values of all versions.
    size_bytes: u64,
    /// How often a write or `sync_wal` had to reach the disk.
    sync_count: u64,
}

/// An engine that lives in memory. Clones share one engine.
#[derive(Clone, Default)]
pub struct MemoryEngine {
    state: Arc<RwLock<State>>,
    garbage: FilterSlot,
}

impl MemoryEngine {
    /// An empty engine.
    pub fn new() -> MemoryEngine {
        MemoryEngine::default()
    }

    /// Loses every write that was not synced.
    pub fn crash(&self) {
        self.crash_keeping(0);
    }

    /// As [`MemoryEngine::crash`], but the first `writes` since the last sync had reached
    /// the disk.
    pub fn crash_keeping(&self, writes: u64) {
        let mut state = self.state.write();
        let kept = state.sequence.min(state.synced_sequence.saturating_add(writes));
        for map in &mut state.maps {
            map.retain(|(_, Reverse(sequence)), _| *sequence <= kept);
        }
        state.sequence = kept;
        state.synced_sequence = kept;
    }

    /// Writes since the last sync.
    pub fn unsynced_writes(&self) -> u64 {
        let state = self.state.read();
        state.sequence - state.synced_sequence
    }

    /// How many syncs were paid for.
    pub fn sync_count(&self) -> u64 {
        self.state.read().sync_count
    }
}

impl State {
    /// The value of `key` as of `sequence`.
    fn get(&self, cf: Cf, key: &Bytes, sequence: u64) -> Option<&Bytes> {
        let from = (key.clone(), Reverse(sequence));
        let (found, value) = self.maps[cf.to_u8() as usize].range(from..).next()?;
        if found.0 == key { value.as_ref() } else { None }
    }

    fn set(&mut self, cf: Cf, key: Bytes, value: Option<Bytes>) {
        // The oldest state that anybody can still ask for.
        let horizon = self
            .snapshots
            .keys()
            .next()
            .copied()
            .unwrap_or(self.sequence)
            .min(self.synced_sequence);
        let sequence = self.sequence;
        let map = &mut self.maps[cf.to_u8() as usize];
        self.size_bytes += (key.len() + value.as_ref().map_or(0, Bytes::len)) as u64;
        map.insert((key.clone(), Reverse(sequence)), value);
        let obsolete: Vec<VersionedKey> = map
            .range((key.clone(), Reverse(horizon))..=(key, Reverse(0)))
            .skip(1)
            .map(|(versioned, _)| versioned.clone())
            .collect();
        for versioned in obsolete {
            let bytes = versioned.0.len();
            if let Some(value) = map.remove(&versioned) {
                let freed = bytes + value.map_or(0, |value| value.len());
                self.size_bytes = self.size_bytes.saturating_sub(freed as u64);
            }
        }
    }

    fn live_keys(&self, cf: Cf, start: &Bytes, end: &Bytes) -> Vec<Bytes> {
        let mut keys = Vec::new();
        let mut last: Option<&Bytes> = None;
        if start >= end {
            return keys;
        }
        let bounds = (start.clone(), Reverse(u64::MAX))..(end.clone(), Reverse(u64::MAX));
        for ((key, _), value) in self.maps[cf.to_u8() as usize].range(bounds) {
            if last != Some(key) {
                last = Some(key);
                if value.is_some() {
                    keys.push(key.clone());
                }
            }
        }
        keys
    }

    /// First live entry in key order within the bounds, as of `sequence`.
    fn first_from(
        &self,
        cf: Cf,
        from: Bound<Bytes>,
        upper: Option<&Bytes>,
        sequence: u64,
    ) -> Option<(Bytes, Bytes)> {
        let map = &self.maps[cf.to_u8() as usize];
        let mut from = match from {
            Bound::Included(key) => Bound::Included((key, Reverse(u64::MAX))),
            Bound::Excluded(key) => Bound::Excluded((key, Reverse(0))),
            Bound::Unbounded => Bound::Unbounded,
        };
        loop {
            let ((key, Reverse(version)), value) = map.range((from, Bound::Unbounded)).next()?;
            if upper.is_some_and(|upper| key >= upper) {
                return None;
            }
            if *version > sequence {
                from = Bound::Included((key.clone(), Reverse(sequence)));
                continue;
            }
            if let Some(value) = value {
                return Some((key.clone(), value.clone()));
            }
            from = Bound::Excluded((key.clone(), Reverse(0)));
        }
    }

    /// Last live entry in key order within the bounds, as of `sequence`.
    fn last_to(
        &self,
        cf: Cf,
        to: Bound<Bytes>,
        lower: Option<&Bytes>,
        sequence: u64,
    ) -> Option<(Bytes, Bytes)> {
        let map = &self.maps[cf.to_u8() as usize];
        let mut to = match to {
            Bound::Included(key) => Bound::Included((key, Reverse(0))),
            Bound::Excluded(key) => Bound::Excluded((key, Reverse(u64::MAX))),
            Bound::Unbounded => Bound::Unbounded,
        };
        loop {
            let ((key, _), _) = map.range((Bound::Unbounded, to)).next_back()?;
            if lower.is_some_and(|lower| key < lower) {
                return None;
            }
            if let Some(value) = self.get(cf, key, sequence) {
                return Some((key.clone(), value.clone()));
            }
            to = Bound::Excluded((key.clone(), Reverse(u64::MAX)));
        }
    }
}

impl KvEngine for MemoryEngine {
    fn snapshot(&self) -> Arc<dyn EngineSnapshot> {
        let mut state = self.state.write();
        let sequence = state.sequence;
        *state.snapshots.entry(sequence).or_default() += 1;
        Arc::new(MemorySnapshot {
            inner: Arc::new(SnapshotInner { state: self.state.clone(), sequence }),
        })
    }

    fn write(&self, batch: WriteBatch, sync: bool) -> Result<()> {
        let mut state = self.state.write();
        state.sequence += 1;
        for op in batch.into_ops() {
            match op {
                WriteOp::Put { cf, key, value } => state.set(cf, key, Some(value)),
                WriteOp::Delete { cf, key } => state.set(cf, key, None),
                WriteOp::DeleteRange { cf, start, end } => {
                    for key in state.live_keys(cf, &start, &end) {
                        state.set(cf, key, None);
                    }
                }
            }
        }
        if sync {
            state.synced_sequence = state.sequence;
            state.sync_count += 1;
        }
        Ok(())
    }

    fn get(&self, cf: Cf, key: &[u8]) -> Result<Option<Bytes>> {
        let state = self.state.read();
        Ok(state.get(cf, &Bytes::copy_from_slice(key), state.sequence).cloned())
    }

    fn sync_wal(&self) -> Result<()> {
        let mut state = self.state.write();
        state.synced_sequence = state.sequence;
        state.sync_count += 1;
        Ok(())
    }

    fn approximate_size(&self, start: &[u8], end: &[u8]) -> u64 {
        let state = self.state.read();
        let bounds = || {
            let start = (Bytes::copy_from_slice(start), Reverse(u64::MAX));
            let end = (Bytes::copy_from_slice(end), Reverse(u64::MAX));
            (Bound::Included(start), Bound::Excluded(end))
        };
        if start >= end {
            return 0;
        }
        let size = |map: &BTreeMap<VersionedKey, Option<Bytes>>| {
            map.range(bounds())
                .map(|((key, _), value)| (key.len() + value.as_ref().map_or(0, Bytes::len)) as u64)
                .sum::<u64>()
        };
        state.maps.iter().map(size).sum()
    }

    fn delete_files_in_range(&self, _start: &[u8], _end: &[u8]) -> Result<()> {
        Ok(())
    }

    fn flush(&self) -> Result<()> {
        self.sync_wal()
    }

    fn disk_usage(&self) -> u64 {
        self.state.read().size_bytes
    }

    fn sequence(&self) -> u64 {
        self.state.read().sequence
    }

    fn write_file(
        &self,
        cf: Cf,
        plan: &mut FilePlan<'_>,
        entries: &mut dyn EngineIterator,
    ) -> Result<Option<SortedFile>> {
        sorted_file::write_plain(cf, plan, entries)
    }

    fn ingest(&self, cf: Cf, files: &[PathBuf]) -> Result<()> {
        let mut all = WriteBatch::new();
        for file in files {
            all.append(sorted_file::read_plain(cf, file)?);
        }
        self.write(all, true)
    }

    fn compact_range(&self, start: &[u8], end: &[u8]) -> Result<()> {
        let Some(mut run) = self.garbage.begin() else { return Ok(()) };
        let mut state = self.state.write();
        let (start, end) = (Bytes::copy_from_slice(start), Bytes::copy_from_slice(end));
        let sequence = state.sequence;
        let garbage: Vec<Bytes> = state
            .live_keys(Cf::Write, &start, &end)
            .into_iter()
            .filter(|key| {
                let value = state.get(Cf::Write, key, sequence);
                value.is_some_and(|value| run.is_garbage(key, value))
            })
            .collect();
        state.sequence += 1;
        for key in garbage {
            state.set(Cf::Write, key, None);
        }
        Ok(())
    }

    fn set_garbage_filter(&self, filter: Arc<dyn GarbageFilter>) {
        self.garbage.set(filter);
    }
}

struct SnapshotInner {
    state: Arc<RwLock<State>>,
    sequence: u64,
}

impl Drop for SnapshotInner {
    fn drop(&mut self) {
        let mut state = self.state.write();
        if let Some(count) = state.snapshots.get_mut(&self.sequence) {
            *count -= 1;
            if *count == 0 {
                state.snapshots.remove(&self.sequence);
            }
        }
    }
}

struct MemorySnapshot {
    inner: Arc<SnapshotInner>,
}

impl EngineSnapshot for MemorySnapshot {
    fn sequence(&self) -> u64 {
        self.inner.sequence
    }

    fn get(&self, cf: Cf, key: &[u8]) -> Result<Option<Bytes>> {
        let state = self.inner.state.read();
        Ok(state.get(cf, &Bytes::copy_from_slice(key), self.inner.sequence).cloned())
    }

    fn iter(&self, cf: Cf, options: IterOptions) -> Box<dyn EngineIterator + Send> {
        Box::new(MemoryIterator {
            snapshot: self.inner.clone(),
            cf,
            options,
            prefix: None,
            entry: None,
        })
    }
}

struct MemoryIterator {
    snapshot: Arc<SnapshotInner>,
    cf: Cf,
    options: IterOptions,
    /// What the sought key's prefix is, when only that prefix may be shown.
    prefix: Option<Bytes>,
    entry: Option<(Bytes, Bytes)>,
}

impl MemoryIterator {
    fn forward(&mut self, from: Bound<Bytes>) -> Result<bool> {
        let state = self.snapshot.state.read();
        let upper = self.options.upper.as_ref();
        self.entry = state.first_from(self.cf, from, upper, self.snapshot.sequence);
        if let (Some(prefix), Some((key, _))) = (&self.prefix, &self.entry)
            && version_prefix(key) != Some(prefix)
        {
            self.entry = None;
        }
        Ok(self.entry.is_some())
    }

    fn backward(&mut self, to: Bound<Bytes>) -> Result<bool> {
        if self.options.prefix_same_as_start {
            return Err(EngineError::Unsupported("walking back within a prefix"));
        }
        let state = self.snapshot.state.read();
        let lower = self.options.lower.as_ref();
        self.entry = state.last_to(self.cf, to, lower, self.snapshot.sequence);
        Ok(self.entry.is_some())
    }

    fn lower_bound(&self) -> Bound<Bytes> {
        self.options.lower.clone().map_or(Bound::Unbounded, Bound::Included)
    }

    fn upper_bound(&self) -> Bound<Bytes> {
        self.options.upper.clone().map_or(Bound::Unbounded, Bound::Excluded)
    }
}

impl EngineIterator for MemoryIterator {
    fn seek(&mut self, key: &[u8]) -> Result<bool> {
        if self.options.prefix_same_as_start {
            self.prefix = version_prefix(key).map(Bytes::copy_from_slice);
        }
        match &self.options.lower {
            Some(lower) if lower.as_ref() > key => self.forward(self.lower_bound()),
            _ => self.forward(Bound::Included(Bytes::copy_from_slice(key))),
        }
    }

    fn seek_for_prev(&mut self, key: &[u8]) -> Result<bool> {
        match &self.options.upper {
            Some(upper) if upper.as_ref() <= key => self.backward(self.upper_bound()),
            _ => self.backward(Bound::Included(Bytes::copy_from_slice(key))),
        }
    }

    fn seek_to_first(&mut self) -> Result<bool> {
        if self.options.prefix_same_as_start {
            return Err(EngineError::Unsupported("first entry of an unknown prefix"));
        }
        self.forward(self.lower_bound())
    }

    fn seek_to_last(&mut self) -> Result<bool> {
        self.backward(self.upper_bound())
    }

    fn next(&mut self) -> Result<bool> {
        match self.entry.take() {
            Some((key, _)) => self.forward(Bound::Excluded(key)),
            None => Ok(false),
        }
    }

    fn prev(&mut self) -> Result<bool> {
        match self.entry.take() {
            Some((key, _)) => self.backward(Bound::Excluded(key)),
            None => Ok(false),
        }
    }

    fn valid(&self) -> bool {
        self.entry.is_some()
    }

    fn key(&self) -> &[u8] {
        self.entry.as_ref().map_or(&[], |(key, _)| key)
    }

    fn value(&self) -> &[u8] {
        self.entry.as_ref().map_or(&[], |(_, value)| value)
    }
}
