//! What Raft reads of a peer's past: log entries, hard state, membership.
//!
//! **Data.** Entries live in the [`RaftLog`]; those not yet applied are also kept in memory,
//! because every one of them is read once more when it is committed. Where the log
//! begins is part of the apply state in the data engine.
//!
//! **Concurrency.** Owned by the Raft thread.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::{Arc, Weak};

use cairn_engine::{EngineError, EngineSnapshot, KvEngine, RaftLocalState, RaftLog};
use cairn_proto::meta;
use prost::Message;
use raft::eraftpb::{ConfState, Entry, HardState, Snapshot};
use raft::{GetEntriesContext, RaftState, Storage, StorageError};

use crate::raftstore::apply::is_joint;
use crate::raftstore::config::{RAFT_INIT_LOG_INDEX, RAFT_INIT_LOG_TERM};
use crate::raftstore::error::RaftStoreError;
use crate::raftstore::snapshot::SharedFiles;
use crate::raftstore::state::{self, ApplyState, PeerState};

/// Entries kept in memory per region, in bytes; slow followers read the log.
const CACHE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// The engines of a store.
#[derive(Clone)]
pub struct Engines {
    /// Data and apply states.
    pub kv: Arc<dyn KvEngine>,
    /// Entries and hard states.
    pub log: Arc<dyn RaftLog>,
}

/// What a Raft snapshot is made of: the view, and the files once somebody built them.
#[derive(Clone)]
pub struct SnapshotSource {
    index: u64,
    /// The engine's view.
    pub view: Arc<dyn EngineSnapshot>,
    /// Files of the view, shared between receivers.
    pub shared: Arc<SharedFiles>,
}

/// The last Raft snapshot handed out. A receiver that asks while another one still gets
/// it is given the same.
struct RecentSnapshot {
    snapshot: Snapshot,
    view: Weak<dyn EngineSnapshot>,
    shared: Weak<SharedFiles>,
}

/// A peer's storage.
pub struct PeerStorage {
    region_id: u64,
    engines: Engines,
    region: Arc<meta::Region>,
    hard_state: HardState,
    last_index: u64,
    last_term: u64,
    apply_state: ApplyState,
    cache: VecDeque<Entry>,
    cache_bytes: usize,
    /// Behind the Raft snapshots handed out in this round.
    handed_out: RefCell<Vec<SnapshotSource>>,
    recent: RefCell<Option<RecentSnapshot>>,
}

impl PeerStorage {
    /// Loads a peer that has a range, healing what a crash left between the engines.
    pub fn load(
        engines: Engines,
        region: Arc<meta::Region>,
        apply_state: ApplyState,
    ) -> Result<PeerStorage, RaftStoreError> {
        let region_id = region.id;
        let mut local = engines.log.state(region_id)?.unwrap_or_default();
        let mut bounds = engines.log.bounds(region_id);
        if log_is_obsolete(&engines, region_id, bounds, &apply_state)? {
            let mut batch = cairn_engine::LogBatch::new();
            batch.clean(region_id);
            batch.put_state(region_id, local.clone());
            engines.log.write(batch, true)?;
            bounds = None;
        }
        let last_index = bounds.map_or(apply_state.truncated_index, |(_, last)| last);
        let last_term = if last_index == apply_state.truncated_index {
            apply_state.truncated_term
        } else {
            let entries = engines.log.entries(region_id, last_index, last_index + 1, u64::MAX)?;
            entries.first().map(|entry| entry.term).ok_or(RaftStoreError::Corrupted("raft log"))?
        };
        if last_index < apply_state.applied_index {
            return Err(RaftStoreError::Corrupted("raft log ends before the applied index"));
        }
        if local.hard_state.term < last_term {
            // The snapshot was installed, its hard state not yet written.
            local.hard_state.term = last_term;
            local.hard_state.vote = 0;
        }
        local.hard_state.commit =
            local.hard_state.commit.max(apply_state.applied_index).min(last_index);
        Ok(PeerStorage {
            region_id,
            engines,
            region,
            hard_state: local.hard_state,
            last_index,
            last_term,
            apply_state,
            cache: VecDeque::new(),
            cache_bytes: 0,
            handed_out: RefCell::new(Vec::new()),
            recent: RefCell::new(None),
        })
    }

    /// A peer that has nothing yet and waits for a Raft snapshot; a vote it gave is kept.
    pub fn uninitialized(engines: Engines, region_id: u64) -> Result<PeerStorage, RaftStoreError> {
        let mut hard_state = engines.log.state(region_id)?.unwrap_or_default().hard_state;
        hard_state.commit = 0;
        Ok(PeerStorage {
            region_id,
            engines,
            region: Arc::new(meta::Region { id: region_id, ..meta::Region::default() }),
            hard_state,
            last_index: 0,
            last_term: 0,
            apply_state: ApplyState::default(),
            cache: VecDeque::new(),
            cache_bytes: 0,
            handed_out: RefCell::new(Vec::new()),
            recent: RefCell::new(None),
        })
    }

    /// Whether the peer has a range.
    pub fn is_initialized(&self) -> bool {
        self.apply_state.applied_index > 0
    }

    /// The region as of the last entry that apply reported.
    pub fn region(&self) -> &Arc<meta::Region> {
        &self.region
    }

    /// The region changed.
    pub fn set_region(&mut self, region: Arc<meta::Region>) {
        self.region = region;
    }

    /// How far apply reported.
    pub fn apply_state(&self) -> &ApplyState {
        &self.apply_state
    }

    /// Gives memory back that only traffic needs.
    pub fn shrink(&mut self) {
        self.cache.shrink_to_fit();
        self.handed_out.get_mut().shrink_to_fit();
    }

    /// Apply reported progress.
    pub fn set_apply_state(&mut self, apply_state: ApplyState) {
        let applied = apply_state.applied_index;
        self.apply_state = apply_state;
        while self.cache.front().is_some_and(|entry| entry.index <= applied) {
            self.pop_cached();
        }
    }

    /// Hard state as it will be written with the next batch.
    pub fn hard_state(&self) -> &HardState {
        &self.hard_state
    }

    /// Takes over a new hard state.
    pub fn set_hard_state(&mut self, hard_state: HardState) {
        self.hard_state = hard_state;
    }

    /// Takes over a new commit index.
    pub fn set_commit(&mut self, commit_index: u64) {
        self.hard_state.commit = commit_index;
    }

    /// What belongs beside the entries in the log.
    pub fn local_state(&self) -> RaftLocalState {
        RaftLocalState { hard_state: self.hard_state.clone(), last_index: self.last_index }
    }

    /// Entries are being written to the log: remember them.
    pub fn on_append(&mut self, entries: &[Entry]) {
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else { return };
        while self.cache.back().is_some_and(|entry| entry.index >= first.index) {
            if let Some(entry) = self.cache.pop_back() {
                self.cache_bytes = self.cache_bytes.saturating_sub(cached_bytes(&entry));
            }
        }
        if self.cache.back().is_some_and(|entry| entry.index + 1 != first.index) {
            self.cache.clear();
            self.cache_bytes = 0;
        }
        self.last_index = last.index;
        self.last_term = last.term;
        for entry in entries {
            self.cache_bytes += cached_bytes(entry);
            self.cache.push_back(entry.clone());
        }
        while self.cache_bytes > CACHE_BYTES_MAX && self.cache.len() > 1 {
            self.pop_cached();
        }
    }

    /// A Raft snapshot replaced everything.
    pub fn on_installed(&mut self, region: Arc<meta::Region>, apply_state: ApplyState) {
        self.region = region;
        self.last_index = apply_state.truncated_index;
        self.last_term = apply_state.truncated_term;
        self.apply_state = apply_state;
        self.cache.clear();
        self.cache_bytes = 0;
    }

    /// What the Raft snapshot of that index is made of.
    pub fn handed_out(&self, index: u64) -> Option<SnapshotSource> {
        let handed_out = self.handed_out.borrow();
        handed_out.iter().find(|source| source.index == index).cloned()
    }

    /// Every message that carries a snapshot has its view now.
    pub fn forget_handed_out(&self) {
        self.handed_out.borrow_mut().clear();
    }

    fn pop_cached(&mut self) {
        if let Some(entry) = self.cache.pop_front() {
            self.cache_bytes = self.cache_bytes.saturating_sub(cached_bytes(&entry));
        }
    }

    /// The snapshot that another receiver is getting, if it still serves.
    fn recent_snapshot(&self, request_index: u64) -> Option<Snapshot> {
        let recent = self.recent.borrow();
        let recent = recent.as_ref()?;
        let metadata = recent.snapshot.get_metadata();
        // What follows it must still be in the log, and the members must be the same.
        let serves = metadata.index >= request_index.max(self.apply_state.truncated_index)
            && *metadata.get_conf_state() == conf_state(&self.region)
            && recent.snapshot.data == self.region.encode_to_vec();
        let (view, shared) = (recent.view.upgrade()?, recent.shared.upgrade()?);
        serves.then(|| {
            let source = SnapshotSource { index: metadata.index, view, shared };
            self.handed_out.borrow_mut().push(source);
            recent.snapshot.clone()
        })
    }

    fn make_snapshot(&self, request_index: u64) -> Result<Snapshot, RaftStoreError> {
        if let Some(recent) = self.recent_snapshot(request_index) {
            return Ok(recent);
        }
        let view = self.engines.kv.snapshot();
        let region = state::load_region_state(view.as_ref(), self.region_id)?
            .filter(|local| local.state == PeerState::Normal as i32)
            .and_then(|local| local.region)
            .ok_or(RaftStoreError::Corrupted("region state is missing"))?;
        let applied = state::load_apply_state(view.as_ref(), self.region_id)?
            .filter(|applied| applied.applied_index >= request_index.max(1))
            .ok_or(RaftStoreError::Raft("apply lags behind".to_owned()))?;
        let mut snapshot = Snapshot::default();
        let metadata = snapshot.mut_metadata();
        metadata.index = applied.applied_index;
        metadata.term = applied.applied_term;
        metadata.set_conf_state(conf_state(&region));
        snapshot.data = region.encode_to_vec().into();
        let index = applied.applied_index;
        let source = SnapshotSource { index, view, shared: Arc::default() };
        *self.recent.borrow_mut() = Some(RecentSnapshot {
            snapshot: snapshot.clone(),
            view: Arc::downgrade(&source.view),
            shared: Arc::downgrade(&source.shared),
        });
        self.handed_out.borrow_mut().push(source);
        Ok(snapshot)
    }
}

/// Whether the log's entries were overtaken by an installed Raft snapshot.
fn log_is_obsolete(
    engines: &Engines,
    region_id: u64,
    bounds: Option<(u64, u64)>,
    apply_state: &ApplyState,
) -> Result<bool, RaftStoreError> {
    let Some((first, last)) = bounds else { return Ok(false) };
    let truncated = apply_state.truncated_index;
    if last < truncated || first > truncated + 1 {
        return Ok(true);
    }
    if first > truncated {
        return Ok(false);
    }
    let entries = engines.log.entries(region_id, truncated, truncated + 1, u64::MAX)?;
    Ok(entries.first().is_none_or(|entry| entry.term != apply_state.truncated_term))
}

fn cached_bytes(entry: &Entry) -> usize {
    const ENTRY_BYTES: usize = size_of::<Entry>();
    ENTRY_BYTES + entry.data.len() + entry.context.len()
}

/// Raft's membership of a region; joint if the roles of its peers say so.
pub fn conf_state(region: &meta::Region) -> ConfState {
    let joint = is_joint(region);
    let mut conf_state = ConfState::default();
    for peer in &region.peers {
        match peer.role() {
            meta::PeerRole::Learner => conf_state.learners.push(peer.id),
            meta::PeerRole::Voter => {
                conf_state.voters.push(peer.id);
                if joint {
                    conf_state.voters_outgoing.push(peer.id);
                }
            }
            meta::PeerRole::IncomingVoter => conf_state.voters.push(peer.id),
            meta::PeerRole::DemotingVoter => {
                conf_state.voters_outgoing.push(peer.id);
                conf_state.learners_next.push(peer.id);
            }
        }
    }
    conf_state
}

/// Hard state of a region that starts with [`ApplyState::initial`].
pub fn initial_hard_state() -> HardState {
    HardState { term: RAFT_INIT_LOG_TERM, commit: RAFT_INIT_LOG_INDEX, ..HardState::default() }
}

fn storage_error(error: EngineError) -> raft::Error {
    match error {
        EngineError::Compacted { .. } => raft::Error::Store(StorageError::Compacted),
        EngineError::Unavailable { .. } => raft::Error::Store(StorageError::Unavailable),
        error => raft::Error::Store(StorageError::Other(Box::new(error))),
    }
}

impl Storage for PeerStorage {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState::new(self.hard_state.clone(), conf_state(&self.region)))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low <= self.apply_state.truncated_index {
            return Err(raft::Error::Store(StorageError::Compacted));
        }
        if high > self.last_index + 1 {
            return Err(raft::Error::Store(StorageError::Unavailable));
        }
        let max_size = max_size.into().unwrap_or(u64::MAX);
        let cached_first = self.cache.front().map_or(u64::MAX, |entry| entry.index);
        if low < cached_first {
            let log = &self.engines.log;
            return log.entries(self.region_id, low, high, max_size).map_err(storage_error);
        }
        let mut entries = Vec::new();
        let mut bytes = 0u64;
        let range = (low - cached_first) as usize..(high - cached_first) as usize;
        for entry in self.cache.range(range) {
            bytes += cached_bytes(entry) as u64;
            if bytes > max_size && !entries.is_empty() {
                break;
            }
            entries.push(entry.clone());
        }
        Ok(entries)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index == self.apply_state.truncated_index {
            return Ok(self.apply_state.truncated_term);
        }
        if index < self.apply_state.truncated_index {
            return Err(raft::Error::Store(StorageError::Compacted));
        }
        if index > self.last_index {
            return Err(raft::Error::Store(StorageError::Unavailable));
        }
        if index == self.last_index || self.last_term == self.apply_state.truncated_term {
            return Ok(self.last_term);
        }
        if let Some(first) = self.cache.front().map(|entry| entry.index)
            && index >= first
        {
            return Ok(self.cache[(index - first) as usize].term);
        }
        let log = &self.engines.log;
        let entries =
            log.entries(self.region_id, index, index + 1, u64::MAX).map_err(storage_error)?;
        Ok(entries.first().map_or(0, |entry| entry.term))
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.apply_state.truncated_index + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last_index)
    }

    fn snapshot(&self, request_index: u64, _to: u64) -> raft::Result<Snapshot> {
        self.make_snapshot(request_index).map_err(|error| {
            tracing::debug!(region = self.region_id, %error, "no raft snapshot now");
            raft::Error::Store(StorageError::SnapshotTemporarilyUnavailable)
        })
    }
}
