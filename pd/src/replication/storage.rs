//! Raft's view of the durable log.

use std::sync::Arc;

use cairn_engine::{EngineError, RaftLocalState, RaftLog};
use raft::eraftpb::{ConfState, Entry, Snapshot};
use raft::{GetEntriesContext, RaftState, Storage, StorageError};

use super::snapshot_file::Position;

/// The log of one group, beginning behind the snapshot file.
pub(super) struct LogStorage {
    log: Arc<dyn RaftLog>,
    group_id: u64,
    member_id: u64,
    snapshot: Position,
    /// Last entry written, whose term Raft asks for most.
    last: Option<Position>,
}

impl LogStorage {
    pub fn new(
        log: Arc<dyn RaftLog>,
        group_id: u64,
        member_id: u64,
        snapshot: Position,
    ) -> LogStorage {
        LogStorage { log, group_id, member_id, snapshot, last: None }
    }

    /// What the log remembers of term, vote and commit index.
    pub fn local_state(&self) -> Result<RaftLocalState, EngineError> {
        Ok(self.log.state(self.group_id)?.unwrap_or_default())
    }

    /// An entry is about to be written.
    pub fn note_last(&mut self, index: u64, term: u64) {
        self.last = Some(Position { index, term });
    }

    /// The snapshot file now covers everything up to the position.
    pub fn cut(&mut self, at: Position) {
        self.snapshot = at;
    }

    fn bounds(&self) -> (u64, u64) {
        let (_, last) = self.log.bounds(self.group_id).unwrap_or((0, 0));
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
        let mut conf_state = ConfState::default();
        conf_state.voters.push(self.member_id);
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
        self.log.entries(self.group_id, low, high, max_bytes).map_err(raft_error)
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
        let entries = self.log.entries(self.group_id, index, index + 1, u64::MAX);
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

    /// There is no other member that could need one.
    fn snapshot(&self, _request_index: u64, _to: u64) -> raft::Result<Snapshot> {
        Err(raft::Error::Store(StorageError::SnapshotTemporarilyUnavailable))
    }
}
