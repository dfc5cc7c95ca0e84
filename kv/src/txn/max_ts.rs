//! The highest timestamp this store has read at, and the keys that one-phase and
//! async commits are about to write or lock: together they let a store choose a commit
//! timestamp, or a bound below it, without asking PD.
//!
//! A one-phase commit at `commit_ts` must not change what a reader at
//! `read_ts >= commit_ts` has already seen. So it commits above `max_ts`. An async commit will
//! commit at the largest `min_commit_ts` of its locks, which nobody can change once they
//! stand, so each of them must lie above `max_ts` when its lock becomes visible. A reader
//! that comes between that choice and the apply finds the key in the table here:
//!
//! ```text
//! writer: enter keys into the table -> read max_ts -> replicate, apply -> leave
//! reader: raise max_ts -> look into the table -> take the engine snapshot
//! ```
//!
//! Either the writer sees the raised `max_ts`, or the reader sees the table's
//! entry, or the entry is gone and the snapshot holds the commit or the lock (both sides use
//! sequentially consistent atomics or the table's lock).
//!
//! **Leadership**: reads of earlier leaders are unknown here. Before the first
//! choice of a term in a region, `max_ts` is raised to a fresh timestamp
//! of PD's, which lies above all of them: an old leader's lease has run out before
//! a new leader serves. What an old leader chose and replicated, the new one has applied
//! before it serves: its readers meet the locks themselves.
//!
//! **Merges**: a region that absorbed another one knows nothing of the reads of that
//! one's leader. Its version has grown, and `max_ts` is raised again before the first
//! choice at that version: the other leader stopped serving before.
//!
//! **Followers**: a follower's read is announced to the leader first ([`ReadGuard`]), which
//! takes part for it: it raises `max_ts`, looks into the table, and only then says up to
//! where the follower must have applied.
//!
//! **Closed timestamps** ([`crate::raftstore`]) are reads in advance: `max_ts` is raised to what
//! shall be closed, and who is in the table by then lowers it.
//!
//! Reads of the newest version (`TimeStamp::MAX`) take no part: a commit that is
//! not applied yet is not acknowledged yet, and an async commit happens no earlier than its last
//! lock is applied, so either answer is linearizable. They do not pass an async commit's lock
//! that is applied ([`crate::mvcc::Lock::blocks_read`]).

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use bytes::Bytes;
use cairn_proto::kv;
use cairn_types::TimeStamp;
use cairn_types::sabotage::{Bug, planted};
use dashmap::DashMap;
use parking_lot::RwLock;

use crate::raftstore::{ReadGuard, RegionSnapshot, ReplicaRead, epoch_of};

/// `max_ts` and the in-memory locks of a store.
#[derive(Default)]
pub struct MaxTs {
    max_ts: AtomicU64,
    /// Entries in `pending`: readers pass by when there are none.
    pending_count: AtomicUsize,
    pending: RwLock<BTreeMap<Bytes, Pending>>,
    /// Region id to the term and the version whose start `max_ts` covers.
    synced: DashMap<u64, (u64, u64)>,
}

#[derive(Clone, Debug)]
struct Pending {
    start_ts: TimeStamp,
    primary: Bytes,
    ttl_ms: u64,
    /// The earliest the commit can be at. Zero while the writer is still choosing.
    min_commit_ts: TimeStamp,
    use_async_commit: bool,
}

/// The keys of a commit that is being replicated; leaves the table when dropped.
pub struct PendingGuard {
    owner: Arc<MaxTs>,
    keys: Vec<Bytes>,
}

impl MaxTs {
    /// Notes a read at `ts`; before the table is looked at and before the engine
    /// snapshot is taken.
    pub fn observe(&self, ts: TimeStamp) {
        if planted(Bug::OnePcIgnoresReads) {
            return;
        }
        if !ts.is_max() && self.max_ts.load(Ordering::SeqCst) < ts.0 {
            self.max_ts.fetch_max(ts.0, Ordering::SeqCst);
        }
    }

    /// The highest timestamp read at.
    pub fn get(&self) -> TimeStamp {
        TimeStamp(self.max_ts.load(Ordering::SeqCst))
    }

    /// Observes a read of one key and answers the pending commit it must wait for.
    pub fn enter_read(
        &self,
        raw_key: &[u8],
        read_ts: TimeStamp,
        resolved: &[u64],
    ) -> Result<(), Box<kv::LockInfo>> {
        self.observe(read_ts);
        if read_ts.is_max() || self.pending_count.load(Ordering::SeqCst) == 0 {
            return Ok(());
        }
        let pending = self.pending.read();
        match pending.get_key_value(raw_key) {
            Some((key, entry)) if entry.blocks(read_ts, resolved) => Err(entry.to_info(key)),
            _ => Ok(()),
        }
    }

    /// As [`MaxTs::enter_read`], for a range; an empty `end` is unbounded.
    pub fn enter_scan(
        &self,
        start: &[u8],
        end: &[u8],
        read_ts: TimeStamp,
        resolved: &[u64],
    ) -> Result<(), Box<kv::LockInfo>> {
        self.observe(read_ts);
        if read_ts.is_max() || self.pending_count.load(Ordering::SeqCst) == 0 {
            return Ok(());
        }
        if !end.is_empty() && start >= end {
            return Ok(());
        }
        let upper = if end.is_empty() { Bound::Unbounded } else { Bound::Excluded(end) };
        let pending = self.pending.read();
        let range = pending.range::<[u8], _>((Bound::Included(start), upper));
        for (key, entry) in range {
            if entry.blocks(read_ts, resolved) {
                return Err(entry.to_info(key));
            }
        }
        Ok(())
    }

    /// Every pending commit that a read at `read_ts` must wait for, by key: for
    /// readers that do not know their keys beforehand.
    pub fn pending_for(&self, read_ts: TimeStamp, resolved: &[u64]) -> Vec<kv::LockInfo> {
        if read_ts.is_max() || self.pending_count.load(Ordering::SeqCst) == 0 {
            return Vec::new();
        }
        let pending = self.pending.read();
        let blocking = pending.iter().filter(|(_, entry)| entry.blocks(read_ts, resolved));
        blocking.map(|(key, entry)| *entry.to_info(key)).collect()
    }

    /// As [`MaxTs::enter_scan`], but answers every pending commit that the read must wait
    /// for, by key.
    pub fn enter_range(
        &self,
        start: &[u8],
        end: &[u8],
        read_ts: TimeStamp,
        resolved: &[u64],
    ) -> Vec<kv::LockInfo> {
        self.observe(read_ts);
        let mut locks = self.pending_for(read_ts, resolved);
        locks.retain(|lock| lock.key >= start && (end.is_empty() || lock.key < end));
        locks
    }

    /// Whether `max_ts` covers the reads of all that was the region before the view's term
    /// and version.
    pub fn is_synced(&self, view: &RegionSnapshot) -> bool {
        self.synced.get(&view.region.id).is_some_and(|synced| *synced == point_of(view))
    }

    /// Notes that `pd_ts`, fetched after the view was taken, covers all of that.
    pub fn sync(&self, view: &RegionSnapshot, pd_ts: TimeStamp) {
        self.observe(pd_ts);
        self.synced.insert(view.region.id, point_of(view));
    }

    /// Enters a prewrite's keys and chooses the commit timestamp of its one-phase commit, or
    /// the `min_commit_ts` of its async commit. The caller holds the keys' latches.
    pub fn begin(self: &Arc<Self>, request: &kv::PrewriteRequest) -> (PendingGuard, TimeStamp) {
        let keys: Vec<Bytes> = request.mutations.iter().map(|m| m.key.clone()).collect();
        let start_ts = TimeStamp(request.start_ts);
        let entry = Pending {
            start_ts,
            primary: request.primary.clone(),
            ttl_ms: request.lock_ttl_ms,
            min_commit_ts: TimeStamp::ZERO,
            use_async_commit: request.use_async_commit,
        };
        self.pending_count.fetch_add(1, Ordering::SeqCst);
        {
            let mut pending = self.pending.write();
            for key in &keys {
                pending.insert(key.clone(), entry.clone());
            }
        }
        // A pessimistic transaction has read at for_update_ts, and may have seen a commit there.
        let own_reads = start_ts.max(TimeStamp(request.for_update_ts));
        let floor = TimeStamp(request.min_commit_ts).max(own_reads.next());
        let is_blind = !request.try_one_pc && planted(Bug::AsyncCommitIgnoresReads);
        let others_reads = if is_blind { TimeStamp::ZERO } else { self.get() };
        let min_commit_ts = others_reads.next().max(floor);
        {
            let mut pending = self.pending.write();
            for key in &keys {
                if let Some(entry) = pending.get_mut(key) {
                    entry.min_commit_ts = min_commit_ts;
                }
            }
        }
        (PendingGuard { owner: Arc::clone(self), keys }, min_commit_ts)
    }
}

impl ReadGuard for MaxTs {
    fn enter(&self, read: &ReplicaRead) -> Vec<kv::LockInfo> {
        self.enter_range(&read.start, &read.end, TimeStamp(read.read_ts), &read.resolved)
    }

    fn close(&self, start: &[u8], end: &[u8], ts: TimeStamp) -> TimeStamp {
        self.observe(ts);
        if self.pending_count.load(Ordering::SeqCst) == 0 {
            return ts;
        }
        let upper = if end.is_empty() { Bound::Unbounded } else { Bound::Excluded(end) };
        let pending = self.pending.read();
        let range = pending.range::<[u8], _>((Bound::Included(start), upper));
        // Who still chooses will be above its own start.
        let earliest = range.map(|(_, entry)| entry.min_commit_ts.max(entry.start_ts.next()));
        earliest.map(TimeStamp::prev).fold(ts, TimeStamp::min)
    }
}

fn point_of(view: &RegionSnapshot) -> (u64, u64) {
    (view.term, epoch_of(&view.region).version)
}

impl Pending {
    fn blocks(&self, read_ts: TimeStamp, resolved: &[u64]) -> bool {
        self.start_ts <= read_ts
            && self.min_commit_ts <= read_ts
            && !resolved.contains(&self.start_ts.0)
    }

    fn to_info(&self, key: &Bytes) -> Box<kv::LockInfo> {
        Box::new(kv::LockInfo {
            key: key.clone(),
            primary: self.primary.clone(),
            start_ts: self.start_ts.0,
            ttl_ms: self.ttl_ms,
            min_commit_ts: self.min_commit_ts.0,
            use_async_commit: self.use_async_commit,
            ..kv::LockInfo::default()
        })
    }
}

impl Drop for PendingGuard {
    fn drop(&mut self) {
        let mut pending = self.owner.pending.write();
        for key in &self.keys {
            pending.remove(key);
        }
        drop(pending);
        self.owner.pending_count.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_pc_commits_above_reads_and_blocks_later_ones() {
        let max_ts = Arc::new(MaxTs::default());
        max_ts.enter_read(b"a", TimeStamp(50), &[]).unwrap();
        let request = kv::PrewriteRequest {
            mutations: vec![kv::Mutation { key: "k".into(), ..Default::default() }],
            start_ts: 20,
            ..Default::default()
        };
        let (guard, commit_ts) = max_ts.begin(&request);
        assert_eq!(commit_ts, TimeStamp(51));
        assert!(max_ts.enter_read(b"k", TimeStamp(50), &[]).is_ok());
        assert!(max_ts.enter_read(b"k", TimeStamp(51), &[]).is_err());
        assert!(max_ts.enter_read(b"k", TimeStamp(51), &[20]).is_ok());
        assert!(max_ts.enter_read(b"other", TimeStamp(51), &[]).is_ok());
        assert!(max_ts.enter_scan(b"a", b"", TimeStamp(60), &[]).is_err());
        assert!(max_ts.enter_scan(b"a", b"k", TimeStamp(60), &[]).is_ok());
        let locks = max_ts.enter_range(b"a", b"", TimeStamp(60), &[]);
        assert_eq!(locks.len(), 1);
        assert_eq!(max_ts.enter_range(b"a", b"k", TimeStamp(60), &[]), []);
        assert!(max_ts.enter_read(b"k", TimeStamp::MAX, &[]).is_ok());
        // What is under way cannot be closed over, in its range.
        assert_eq!(max_ts.close(b"a", b"", TimeStamp(55)), TimeStamp(50));
        assert_eq!(max_ts.close(b"a", b"k", TimeStamp(55)), TimeStamp(55));
        drop(guard);
        assert_eq!(max_ts.close(b"a", b"", TimeStamp(55)), TimeStamp(55));
        assert!(max_ts.enter_read(b"k", TimeStamp(51), &[]).is_ok());
        assert_eq!(max_ts.get(), TimeStamp(60));
        // What comes later is above what was closed.
        assert_eq!(max_ts.close(b"", b"", TimeStamp(80)), TimeStamp(80));
        assert_eq!(max_ts.begin(&request).1, TimeStamp(81));
    }
}
