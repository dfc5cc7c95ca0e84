//! The in-memory twin of the Raft log, with a crash that loses unsynced batches.

use std::collections::{BTreeMap, HashMap, VecDeque};

use parking_lot::Mutex;
use raft::eraftpb::Entry;

use super::{LogBatch, LogOp, RaftLocalState, RaftLog, check_range, next_bounds};
use crate::Result;

#[derive(Clone, Default)]
struct Group {
    state: Option<RaftLocalState>,
    entries: VecDeque<Entry>,
}

impl Group {
    fn bounds(&self) -> Option<(u64, u64)> {
        Some((self.entries.front()?.index, self.entries.back()?.index))
    }

    fn apply(&mut self, op: LogOp) {
        match op {
            LogOp::Append(entries) => {
                let first = entries.first().map_or(u64::MAX, |entry| entry.index);
                while self.entries.back().is_some_and(|entry| entry.index >= first) {
                    self.entries.pop_back();
                }
                self.entries.extend(entries);
            }
            LogOp::State(state) => self.state = Some(state),
            LogOp::CompactTo(index) => {
                while self.entries.front().is_some_and(|entry| entry.index < index) {
                    self.entries.pop_front();
                }
            }
            LogOp::Clean => *self = Group::default(),
        }
    }
}

#[derive(Default)]
struct Inner {
    groups: BTreeMap<u64, Group>,
    /// What groups changed since the last sync looked like at that sync.
    before_unsynced: HashMap<u64, Group>,
    /// Batches since the last sync.
    unsynced: Vec<LogBatch>,
    sync_count: u64,
}

/// A Raft log that lives in memory.
#[derive(Default)]
pub struct MemoryRaftLog {
    inner: Mutex<Inner>,
}

impl MemoryRaftLog {
    /// An empty log.
    pub fn new() -> MemoryRaftLog {
        MemoryRaftLog::default()
    }

    /// Loses every batch since the last sync.
    pub fn crash(&self) {
        self.crash_keeping(0);
    }

    /// As [`MemoryRaftLog::crash`], but the first `batches` since then had reached the disk.
    pub fn crash_keeping(&self, batches: usize) {
        let mut inner = self.inner.lock();
        let before = std::mem::take(&mut inner.before_unsynced);
        inner.groups.extend(before);
        for batch in std::mem::take(&mut inner.unsynced).into_iter().take(batches) {
            for (region_id, op) in batch.ops {
                inner.groups.entry(region_id).or_default().apply(op);
            }
        }
    }

    /// Batches since the last sync.
    pub fn unsynced_batches(&self) -> usize {
        self.inner.lock().unsynced.len()
    }
}

impl RaftLog for MemoryRaftLog {
    fn regions(&self) -> Result<Vec<u64>> {
        let inner = self.inner.lock();
        let used = |group: &Group| group.state.is_some() || !group.entries.is_empty();
        Ok(inner.groups.iter().filter(|(_, group)| used(group)).map(|(id, _)| *id).collect())
    }

    fn state(&self, region_id: u64) -> Result<Option<RaftLocalState>> {
        Ok(self.inner.lock().groups.get(&region_id).and_then(|group| group.state.clone()))
    }

    fn bounds(&self, region_id: u64) -> Option<(u64, u64)> {
        self.inner.lock().groups.get(&region_id)?.bounds()
    }

    fn entries(&self, region_id: u64, low: u64, high: u64, max_bytes: u64) -> Result<Vec<Entry>> {
        if low >= high {
            return Ok(Vec::new());
        }
        let inner = self.inner.lock();
        let group = inner.groups.get(&region_id);
        let bounds = group.and_then(Group::bounds);
        check_range(region_id, bounds, low, high)?;
        let (Some(group), Some((first, _))) = (group, bounds) else { return Ok(Vec::new()) };
        let mut entries = Vec::new();
        let mut bytes = 0;
        for entry in group.entries.range((low - first) as usize..(high - first) as usize) {
            bytes += u64::from(protobuf::Message::compute_size(entry));
            if bytes > max_bytes && !entries.is_empty() {
                break;
            }
            entries.push(entry.clone());
        }
        Ok(entries)
    }

    fn write(&self, batch: LogBatch, sync: bool) -> Result<()> {
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        let mut bounds: HashMap<u64, Option<(u64, u64)>> = HashMap::new();
        for (region_id, op) in batch.ops() {
            let now = bounds
                .get(region_id)
                .copied()
                .unwrap_or_else(|| inner.groups.get(region_id).and_then(Group::bounds));
            bounds.insert(*region_id, next_bounds(*region_id, now, op)?);
        }
        if !sync {
            inner.unsynced.push(batch.clone());
        }
        for (region_id, op) in batch.ops {
            let group = inner.groups.entry(region_id).or_default();
            if !sync {
                inner.before_unsynced.entry(region_id).or_insert_with(|| group.clone());
            }
            group.apply(op);
        }
        if sync {
            inner.before_unsynced.clear();
            inner.unsynced.clear();
            inner.sync_count += 1;
        }
        Ok(())
    }

    fn purge(&self) -> Result<Vec<u64>> {
        Ok(Vec::new())
    }

    fn sync_count(&self) -> u64 {
        self.inner.lock().sync_count
    }
}
