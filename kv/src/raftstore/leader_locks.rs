//! Locks that only a region's leader knows: neither in the log nor in the engine.
//!
//! A pessimistic lock says nothing about data. While its leader lives it keeps others away as
//! well from memory as from disk, and costs neither a round of Raft nor a sync. So commands may
//! leave such locks here, as pairs of CF lock, and look here before they look into the engine.
//!
//! **What is promised.** Nothing of it is durable: a leader that dies takes its locks along. Whoever
//! commits must not rest on a lock alone (`txn/prewrite.rs` looks for newer commits when a lock is
//! gone). What is planned loses few: before leadership is handed over and before the
//! region's range changes, [`LeaderLocks::close`] puts the locks into the log, but for those
//! whose change is just then on its way there.
//!
//! **Order.** A command on a key holds its latch, takes a view of the region, reads the lock here or,
//! if there is none, in the view, and then settles its changes. In between only the Raft thread
//! touches the entry, and that never changes the lock it stands for:
//!
//! ```text
//! Memory  ── settle(replicated change) ──► Leaving ── finish ──► gone, the engine has what is true
//!    └────── close ──► Logged ── settle(any change) ──► replicated ── finish ──► gone
//! ```
//! - An entry that a proposal under way replaces (`Leaving`) is not put into the log behind it.
//! - One that is in the log (`Logged`) stays visible until a change of it is applied: a view may be
//!   older than the log's entry.
//! - A change that was refused (`Leaving` → `Memory`) changed nothing; after one of unknown fate
//!   the engine tells.
//!
//! **A table belongs to one term and one version of the region.** The Raft thread moves it on as it
//! learns of a new one, and what was in it is gone: put into the log of a later version, a lock would
//! come back that had stopped guarding. A view of an older point is refused.
//!
//! The idea and its bounds are TiKV's (`pessimistic-txn.in-memory`).

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use cairn_engine::{Cf, WriteBatch, WriteOp};
use parking_lot::Mutex;

use super::clock::MonotonicTime;
use super::error::RegionError;
use super::ids::epoch_of;
use super::{RegionId, RegionSnapshot};

/// Keys and values of a region's table: what one entry of the log can carry at a hand-over.
const REGION_BYTES_MAX: usize = 512 << 10;
/// Keys and values of all tables of a store.
const STORE_BYTES_MAX: usize = 64 << 20;
/// What an entry takes beside its key and value.
const ENTRY_BYTES: usize = 128;
/// How long nothing new comes in behind [`LeaderLocks::close`]. What it prepared for is mostly over
/// in milliseconds; if it never happens, the region goes on with its table.
const CLOSED_FOR: Duration = Duration::from_secs(2);

/// A store's share of memory for the tables of its regions.
#[derive(Clone, Debug, Default)]
pub struct LockMemory(Arc<AtomicUsize>);

/// The locks of one region that only its leader knows, by their engine keys.
#[derive(Debug, Default)]
pub struct LeaderLocks(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    point: Point,
    /// Until then changes are replicated.
    closed_until: MonotonicTime,
    entries: BTreeMap<Bytes, Entry>,
    bytes: usize,
}

/// A leadership, and a shape of the region within it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Point {
    term: u64,
    version: u64,
}

#[derive(Debug)]
struct Entry {
    value: Bytes,
    place: Place,
    share: Share,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Nowhere else.
    Memory,
    /// A proposal under way replaces or removes it.
    Leaving,
    /// In the log too, or about to be.
    Logged,
}

/// Bytes of a store's memory, given back when dropped.
#[derive(Debug)]
struct Share {
    memory: LockMemory,
    bytes: usize,
}

/// What became of a proposal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replicated {
    /// It is applied.
    Done,
    /// It was certainly not proposed, or had no effect.
    Refused,
    /// Nobody knows yet.
    Unknown,
}

/// What becomes of a command's changes.
#[derive(Debug, PartialEq, Eq)]
pub enum Settled {
    /// They are in force; there is nothing to replicate.
    InMemory,
    /// They take effect by replicating this (which may be nothing); then
    /// [`LeaderLocks::finish`] must be called.
    Replicate(WriteBatch),
}

impl LockMemory {
    /// Bytes in use.
    pub fn used(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    fn share(&self, bytes: usize) -> Option<Share> {
        let before = self.0.fetch_add(bytes, Ordering::Relaxed);
        // Gives the bytes back if they are too many.
        let share = Share { memory: self.clone(), bytes };
        (before + bytes <= STORE_BYTES_MAX).then_some(share)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.memory.0.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl LeaderLocks {
    /// The locks on these engine keys that the view's leader knows.
    pub fn of_keys<K: AsRef<[u8]>>(
        &self,
        view: &RegionSnapshot,
        keys: impl Iterator<Item = K>,
    ) -> Result<BTreeMap<Bytes, Bytes>, RegionError> {
        let table = self.0.lock();
        if !table.is_of(view)? || table.entries.is_empty() {
            return Ok(BTreeMap::new());
        }
        let found = keys.filter_map(|key| table.entries.get_key_value(key.as_ref()));
        Ok(found.map(|(key, entry)| (key.clone(), entry.value.clone())).collect())
    }

    /// The locks in a range of engine keys that the view's leader knows.
    pub fn of_range(
        &self,
        view: &RegionSnapshot,
        start: &[u8],
        end: &[u8],
    ) -> Result<BTreeMap<Bytes, Bytes>, RegionError> {
        let table = self.0.lock();
        if !table.is_of(view)? || start >= end {
            return Ok(BTreeMap::new());
        }
        let range = table.entries.range::<[u8], _>((Bound::Included(start), Bound::Excluded(end)));
        Ok(range.map(|(key, entry)| (key.clone(), entry.value.clone())).collect())
    }

    /// Takes a command's changes. `may_stay`: they are nothing but locks that need not be
    /// durable, on keys without a lock in the engine. The caller holds the latches of all keys
    /// with changes in CF lock.
    pub fn settle(
        &self,
        view: &RegionSnapshot,
        batch: WriteBatch,
        may_stay: bool,
        memory: &LockMemory,
        now: MonotonicTime,
    ) -> Result<Settled, RegionError> {
        let mut table = self.0.lock();
        let is_of_view = table.is_of(view)?;
        if may_stay {
            table.move_to(Point::of(view));
            if let Some(changes) = table.changes_in_memory(&batch, memory, now) {
                changes.into_iter().for_each(|(key, entry)| table.set(key, entry));
                return Ok(Settled::InMemory);
            }
        }
        if table.entries.is_empty() || !is_of_view {
            return Ok(Settled::Replicate(batch));
        }
        Ok(Settled::Replicate(table.let_go(batch)))
    }

    /// Ends what [`LeaderLocks::settle`] began for these engine keys.
    pub fn finish<K: AsRef<[u8]>>(&self, keys: impl Iterator<Item = K>, outcome: Replicated) {
        let mut table = self.0.lock();
        if table.entries.is_empty() {
            return;
        }
        for key in keys {
            let key = key.as_ref();
            let Some(entry) = table.entries.get_mut(key) else { continue };
            match (entry.place, outcome) {
                (Place::Leaving, Replicated::Refused) => entry.place = Place::Memory,
                (Place::Leaving, Replicated::Done | Replicated::Unknown)
                | (Place::Logged, Replicated::Done) => table.remove(key),
                (Place::Memory, _) | (Place::Logged, Replicated::Refused | Replicated::Unknown) => {
                }
            }
        }
    }

    /// The locks of this leadership and version for the log, before either changes; `None` if
    /// there are none.
    pub fn close(&self, term: u64, version: u64, now: MonotonicTime) -> Option<WriteBatch> {
        let mut table = self.0.lock();
        table.move_to(Point { term, version });
        table.closed_until = now.plus(CLOSED_FOR);
        let mut batch = WriteBatch::new();
        for (key, entry) in &mut table.entries {
            if entry.place == Place::Memory {
                entry.place = Place::Logged;
                batch.put(Cf::Lock, key.clone(), entry.value.clone());
            }
        }
        (!batch.is_empty()).then_some(batch)
    }

    /// The region is of another version from here on.
    pub fn begin_version(&self, term: u64, version: u64) {
        let mut table = self.0.lock();
        table.move_to(Point { term, version });
        table.closed_until = MonotonicTime::default();
    }

    /// The peer no longer leads in `term`, nor in any before.
    pub fn end_term(&self, term: u64) {
        self.0.lock().move_to(Point { term, version: u64::MAX });
    }
}

impl Point {
    fn of(view: &RegionSnapshot) -> Point {
        Point { term: view.term, version: epoch_of(&view.region).version }
    }
}

impl Table {
    /// Goes on to a later point, without the locks of the one before.
    fn move_to(&mut self, point: Point) {
        if point > self.point {
            *self = Table { point, closed_until: self.closed_until, ..Table::default() };
        }
    }

    /// Whether what is in the table counts for the view; an error if the view is out of date.
    fn is_of(&self, view: &RegionSnapshot) -> Result<bool, RegionError> {
        let seen = Point::of(view);
        if seen < self.point {
            let region_id = RegionId(view.region.id);
            return Err(RegionError::NotLeader { region_id, leader: None });
        }
        Ok(seen == self.point)
    }

    /// The batch as changes of the table; `None`: it touches a lock that is or may soon be in
    /// the engine, there is no room, or nothing new may come in.
    fn changes_in_memory(
        &self,
        batch: &WriteBatch,
        memory: &LockMemory,
        now: MonotonicTime,
    ) -> Option<Vec<(Bytes, Option<Entry>)>> {
        let mut bytes = self.bytes;
        let change = |op: &WriteOp| {
            let is_here = |key| self.entries.get(key).map(|entry| entry.place == Place::Memory);
            match op {
                WriteOp::Put { key, value, .. } => {
                    let size = key.len() + value.len() + ENTRY_BYTES;
                    bytes += size;
                    let has_room = bytes <= REGION_BYTES_MAX && now >= self.closed_until;
                    if !has_room || is_here(key) == Some(false) {
                        return None;
                    }
                    let share = memory.share(size)?;
                    let entry = Entry { value: value.clone(), place: Place::Memory, share };
                    Some((key.clone(), Some(entry)))
                }
                WriteOp::Delete { key, .. } => {
                    (is_here(key) == Some(true)).then(|| (key.clone(), None))
                }
                WriteOp::DeleteRange { .. } => None,
            }
        };
        batch.ops().iter().map(change).collect()
    }

    fn set(&mut self, key: Bytes, entry: Option<Entry>) {
        self.remove(&key);
        if let Some(entry) = entry {
            self.bytes += entry.share.bytes;
            self.entries.insert(key, entry);
        }
    }

    /// Marks what the batch replaces; answers the batch without removals of what the engine does
    /// not have.
    fn let_go(&mut self, mut batch: WriteBatch) -> WriteBatch {
        batch.retain(|op| {
            let (key, is_delete) = match op {
                WriteOp::Put { cf: Cf::Lock, key, .. } => (key, false),
                WriteOp::Delete { cf: Cf::Lock, key } => (key, true),
                _ => return true,
            };
            match self.entries.get_mut(key) {
                Some(entry) if entry.place == Place::Memory => {
                    entry.place = Place::Leaving;
                    !is_delete
                }
                _ => true,
            }
        });
        batch
    }

    fn remove(&mut self, key: &[u8]) {
        if let Some(entry) = self.entries.remove(key) {
            self.bytes -= entry.share.bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use cairn_engine::{KvEngine, MemoryEngine};
    use cairn_proto::meta;

    use super::*;

    const NOW: MonotonicTime = MonotonicTime(0);

    fn view(term: u64, version: u64) -> RegionSnapshot {
        let epoch = Some(meta::RegionEpoch { conf_ver: 1, version });
        RegionSnapshot {
            region: Arc::new(meta::Region { id: 1, epoch, ..Default::default() }),
            term,
            engine: MemoryEngine::new().snapshot(),
            load: Arc::default(),
            locks: Arc::default(),
            is_live: false,
        }
    }

    fn put(key: &'static str, value: &'static str) -> WriteBatch {
        let mut batch = WriteBatch::new();
        batch.put(Cf::Lock, key, value);
        batch
    }

    fn delete(key: &'static str) -> WriteBatch {
        let mut batch = WriteBatch::new();
        batch.delete(Cf::Lock, key);
        batch
    }

    fn commit(key: &'static str) -> WriteBatch {
        let mut batch = delete(key);
        batch.put(Cf::Write, key, "record");
        batch
    }

    /// What the table knows, as `key=value`.
    fn shown(locks: &LeaderLocks, view: &RegionSnapshot) -> Vec<String> {
        let found = locks.of_range(view, b"", b"~").unwrap();
        let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
        found.iter().map(|(key, value)| format!("{}={}", text(key), text(value))).collect()
    }

    #[test]
    fn changes_stay_in_memory_until_one_must_last() {
        let (locks, memory, view) = (LeaderLocks::default(), LockMemory::default(), view(5, 1));
        let settle = |batch, may_stay| locks.settle(&view, batch, may_stay, &memory, NOW).unwrap();
        assert_eq!(settle(put("a", "1"), true), Settled::InMemory);
        assert_eq!(settle(put("a", "2"), true), Settled::InMemory);
        assert_eq!(settle(put("b", "1"), true), Settled::InMemory);
        assert_eq!(settle(delete("b"), true), Settled::InMemory);
        assert_eq!(shown(&locks, &view), ["a=2"]);
        // The engine has no lock to remove.
        let mut record = WriteBatch::new();
        record.put(Cf::Write, "a", "record");
        assert_eq!(settle(commit("a"), false), Settled::Replicate(record));
        locks.finish([b"a"].into_iter(), Replicated::Done);
        assert_eq!(shown(&locks, &view), [""; 0]);
        assert_eq!(memory.used(), 0);
        assert_eq!(settle(delete("c"), true), Settled::Replicate(delete("c")));
    }

    #[test]
    fn a_proposal_under_way_is_not_overtaken_by_its_old_lock() {
        let (locks, memory, view) = (LeaderLocks::default(), LockMemory::default(), view(5, 1));
        let settle = |batch, may_stay| locks.settle(&view, batch, may_stay, &memory, NOW).unwrap();
        settle(put("a", "1"), true);
        settle(put("b", "1"), true);
        settle(put("a", "prewritten"), false);
        assert_eq!(locks.close(5, 1, NOW), Some(put("b", "1")));
        // Refused: the lock is what it was. Of unknown fate: nobody knows but the engine.
        locks.finish([b"a"].into_iter(), Replicated::Refused);
        assert_eq!(shown(&locks, &view), ["a=1", "b=1"]);
        settle(put("a", "prewritten"), false);
        locks.finish([b"a"].into_iter(), Replicated::Unknown);
        assert_eq!(shown(&locks, &view), ["b=1"]);
        // What is in the log may not be applied yet, and no later change is there.
        settle(put("b", "prewritten"), false);
        locks.finish([b"b"].into_iter(), Replicated::Refused);
        locks.finish([b"b"].into_iter(), Replicated::Unknown);
        assert_eq!(shown(&locks, &view), ["b=1"]);
    }

    #[test]
    fn what_was_logged_is_removed_there_too() {
        let (locks, memory, view) = (LeaderLocks::default(), LockMemory::default(), view(5, 1));
        let settle = |batch, now| locks.settle(&view, batch, true, &memory, now).unwrap();
        settle(put("a", "1"), NOW);
        assert_eq!(locks.close(5, 1, NOW), Some(put("a", "1")));
        assert_eq!(settle(put("b", "1"), NOW), Settled::Replicate(put("b", "1")));
        let later = NOW.plus(CLOSED_FOR);
        assert_eq!(settle(put("b", "1"), later), Settled::InMemory);
        assert_eq!(settle(put("a", "2"), later), Settled::Replicate(put("a", "2")));
        assert_eq!(settle(delete("a"), later), Settled::Replicate(delete("a")));
        locks.finish([b"a"].into_iter(), Replicated::Done);
        assert_eq!(shown(&locks, &view), ["b=1"]);
    }

    #[test]
    fn a_lock_of_an_earlier_version_or_term_is_never_logged() {
        let (locks, memory) = (LeaderLocks::default(), LockMemory::default());
        locks.settle(&view(5, 1), put("a", "1"), true, &memory, NOW).unwrap();
        locks.begin_version(5, 2);
        assert_eq!(locks.close(5, 2, NOW), None);
        assert!(locks.settle(&view(5, 1), put("a", "1"), true, &memory, NOW).is_err());
        locks.begin_version(5, 3);
        locks.settle(&view(5, 3), put("a", "1"), true, &memory, NOW).unwrap();
        assert_eq!(locks.close(6, 3, NOW), None);
        // Also what comes in first behind it has to last.
        let settled = locks.settle(&view(6, 3), put("a", "1"), true, &memory, NOW).unwrap();
        assert_eq!(settled, Settled::Replicate(put("a", "1")));
        assert_eq!(memory.used(), 0);
    }

    #[test]
    fn another_term_or_version_begins_with_nothing() {
        let (locks, memory) = (LeaderLocks::default(), LockMemory::default());
        locks.settle(&view(5, 1), put("a", "1"), true, &memory, NOW).unwrap();
        assert_eq!(shown(&locks, &view(5, 2)), [""; 0]);
        locks.settle(&view(5, 2), put("b", "1"), true, &memory, NOW).unwrap();
        assert!(locks.of_range(&view(5, 1), b"", b"~").is_err());
        locks.end_term(5);
        assert!(locks.settle(&view(5, 2), delete("b"), true, &memory, NOW).is_err());
        assert_eq!(shown(&locks, &view(6, 2)), [""; 0]);
        assert_eq!(memory.used(), 0);
    }

    #[test]
    fn memory_is_bounded() {
        let (locks, memory, view) = (LeaderLocks::default(), LockMemory::default(), view(5, 1));
        let mut count = 0;
        loop {
            let mut batch = WriteBatch::new();
            batch.put(Cf::Lock, format!("key {count:03}"), vec![0; 1024]);
            match locks.settle(&view, batch, true, &memory, NOW).unwrap() {
                Settled::InMemory => count += 1,
                Settled::Replicate(_) => break,
            }
        }
        assert_eq!(count, REGION_BYTES_MAX / (1024 + 7 + ENTRY_BYTES));
        assert!(memory.used() <= REGION_BYTES_MAX);
    }
}
