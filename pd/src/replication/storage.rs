//! Raft's view of the durable log.

use std::sync::Arc;

use cairn_engine::{EngineError, LogBatch, RaftLocalState, RaftLog};
use raft::eraftpb::{Entry, Snapshot};
use raft::{GetEntriesContext, RaftState, Storage, StorageError};

use super::GROUP_ID;
use super::shared::Shared;
use super::snapshot::Position;

/// The log of one member, beginning behind its snapshot.
pub struct LogStorage {
    log: Arc<dyn RaftLog>,
    shared: Arc<Shared>,
    snapshot: Position,
    /// Last entry applied to the state of `shared`.
    applied: Position,
    /// Last entry written, whose term Raft asks for most.
    last: Option<Position>,
}

impl LogStorage {
    /// The log behind a snapshot, whose state `shared` holds. Heals what a crash left
    /// between the snapshot's file and the log.
    pub fn open(
        log: Arc<dyn RaftLog>,
        shared: Arc<Shared>,
        snapshot: Position,
    ) -> Result<LogStorage, EngineError> {
        let storage = LogStorage { log, shared, snapshot, applied: snapshot, last: None };
        storage.heal()?;
        Ok(storage)
    }

    /// A snapshot of the leader is written before the log that it replaces is cut.
    fn heal(&self) -> Result<(), EngineError> {
        let Position { index, term } = self.snapshot;
        let fits = match self.log.bounds(GROUP_ID) {
            None => self.local_state()?.last_index >= index,
            Some((first, _)) if first > index + 1 => {
                return Err(EngineError::Corrupted("the log begins behind its snapshot"));
            }
            Some((_, last)) if last < index => false,
            Some((first, _)) if first == index + 1 => true,
            Some(_) => {
                let held = self.log.entries(GROUP_ID, index, index + 1, u64::MAX)?;
                held.first().is_some_and(|entry| entry.term == term)
            }
        };
        if fits || index == 0 {
            return Ok(());
        }
        let mut local = self.local_state()?;
        if local.hard_state.term < term {
            // Nobody was voted for in that term: votes are synced first.
            local.hard_state.term = term;
            local.hard_state.vote = 0;
        }
        local.hard_state.commit = index;
        local.last_index = index;
        let mut batch = LogBatch::new();
        batch.clean(GROUP_ID);
        batch.put_state(GROUP_ID, local);
        self.log.write(batch, true)
    }

    /// What the log remembers of term, vote and commit index.
    pub fn local_state(&self) -> Result<RaftLocalState, EngineError> {
        Ok(self.log.state(GROUP_ID)?.unwrap_or_default())
    }

    /// Entries up to the position are applied.
    pub fn set_applied(&mut self, at: Position) {
        self.applied = at;
    }

    /// The log anew behind a snapshot of the leader.
    pub fn restart_at(&mut self, at: Position) {
        (self.snapshot, self.applied, self.last) = (at, at, None);
    }

    /// An entry is about to be written.
    pub fn note_last(&mut self, index: u64, term: u64) {
        self.last = Some(Position { index, term });
    }

    /// The snapshot now covers everything up to the position.
    pub fn cut(&mut self, at: Position) {
        self.snapshot = at;
    }

    fn bounds(&self) -> (u64, u64) {
        let (_, last) = self.log.bounds(GROUP_ID).unwrap_or((0, 0));
        (self.snapshot.index + 1, last.max(self.snapshot.index))
    }
}

fn raft_error(error: EngineError) -> raft::Error {
    match error {
        EngineError::Compacted { .. } => raft::Error::Store(StorageError::Compacted),
        EngineError::Unavailable { .. } => raft::Error::Store(StorageError::Unavailable),
        other => raft::Error::Store(StorageError::Other(Box::new(other))),
    }
}

impl Storage for LogStorage {
    fn initial_state(&self) -> raft::Result<RaftState> {
        let mut hard_state = self.local_state().map_err(raft_error)?.hard_state;
        let (_, last) = self.bounds();
        hard_state.commit = hard_state.commit.clamp(self.snapshot.index, last);
        let conf_state = self.shared.state().read().members.conf_state();
        Ok(RaftState { hard_state, conf_state })
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low <= self.snapshot.index {
            return Err(raft::Error::Store(StorageError::Compacted));
        }
        if low >= high {
            return Ok(Vec::new());
        }
        let max_bytes = max_size.into().unwrap_or(u64::MAX);
        self.log.entries(GROUP_ID, low, high, max_bytes).map_err(raft_error)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        for known in [Some(self.snapshot), self.last].into_iter().flatten() {
            if known.index == index {
                return Ok(known.term);
            }
        }
        let (first, last) = self.bounds();
        if index < first {
            return Err(raft::Error::Store(StorageError::Compacted));
        }
        if index > last {
            return Err(raft::Error::Store(StorageError::Unavailable));
        }
        let entries = self.log.entries(GROUP_ID, index, index + 1, u64::MAX);
        let entries = entries.map_err(raft_error)?;
        let entry = entries.first().ok_or(raft::Error::Store(StorageError::Unavailable))?;
        Ok(entry.term)
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.bounds().0)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.bounds().1)
    }

    /// The state as it is, for a member that is far behind.
    fn snapshot(&self, request_index: u64, _to: u64) -> raft::Result<Snapshot> {
        if self.applied.index < request_index.max(1) {
            return Err(raft::Error::Store(StorageError::SnapshotTemporarilyUnavailable));
        }
        let mut snapshot = Snapshot::default();
        let state = self.shared.state().read();
        let metadata = snapshot.mut_metadata();
        metadata.index = self.applied.index;
        metadata.term = self.applied.term;
        metadata.set_conf_state(state.members.conf_state());
        snapshot.data = state.encode().into();
        Ok(snapshot)
    }
}
