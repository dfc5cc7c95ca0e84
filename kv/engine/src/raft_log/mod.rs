//! Raft entries and hard states of all groups of a store.
//!
//! One round of the Raft thread gathers every ready group into one [`LogBatch`] and
//! pays one sync for it.
//!
//! **Invariants.** A group's entries have no holes. Appending at an index drops what
//! the group held from there on. Reads outside the group's bounds are errors, never
//! panics. A batch is atomic and takes effect in the order it was filled.

mod file;
mod memory;
mod watched;

use raft::eraftpb::{Entry, HardState};

pub use file::{RaftEngineLog, RaftEngineOptions};
pub use memory::MemoryRaftLog;
pub use watched::{LogWatcher, WatchedLog};

use crate::{EngineError, Result};

/// What a peer must remember beside its entries.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RaftLocalState {
    /// Term, vote and commit index.
    pub hard_state: HardState,
    /// Index of the last entry, also when none is left to see it by.
    pub last_index: u64,
}

impl RaftLocalState {
    const ENCODED_BYTES: usize = 32;

    /// Fixed little-endian form.
    pub fn encode(&self) -> Vec<u8> {
        let fields =
            [self.hard_state.term, self.hard_state.vote, self.hard_state.commit, self.last_index];
        fields.iter().flat_map(|field| field.to_le_bytes()).collect()
    }

    /// Reads what [`RaftLocalState::encode`] wrote.
    pub fn decode(bytes: &[u8]) -> Result<RaftLocalState> {
        if bytes.len() != RaftLocalState::ENCODED_BYTES {
            return Err(EngineError::Corrupted("raft state: length"));
        }
        let field = |position: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[position * 8..position * 8 + 8]);
            u64::from_le_bytes(word)
        };
        let mut state = RaftLocalState { last_index: field(3), ..RaftLocalState::default() };
        state.hard_state.term = field(0);
        state.hard_state.vote = field(1);
        state.hard_state.commit = field(2);
        Ok(state)
    }
}

/// One change of one group.
#[derive(Clone, Debug, PartialEq)]
pub enum LogOp {
    /// Appends entries, replacing what the group holds from the first one's index on.
    Append(Vec<Entry>),
    /// Sets the group's state.
    State(RaftLocalState),
    /// Drops entries below the index.
    CompactTo(u64),
    /// Forgets the group: entries and state.
    Clean,
}

/// Changes of many groups that become durable together, in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LogBatch {
    ops: Vec<(u64, LogOp)>,
}

impl LogBatch {
    /// An empty batch.
    pub fn new() -> LogBatch {
        LogBatch::default()
    }

    /// Appends entries to a group.
    pub fn append(&mut self, region_id: u64, entries: Vec<Entry>) {
        if !entries.is_empty() {
            self.ops.push((region_id, LogOp::Append(entries)));
        }
    }

    /// Sets a group's state.
    pub fn put_state(&mut self, region_id: u64, state: RaftLocalState) {
        self.ops.push((region_id, LogOp::State(state)));
    }

    /// Drops a group's entries below `index`.
    pub fn compact_to(&mut self, region_id: u64, index: u64) {
        self.ops.push((region_id, LogOp::CompactTo(index)));
    }

    /// Forgets a group.
    pub fn clean(&mut self, region_id: u64) {
        self.ops.push((region_id, LogOp::Clean));
    }

    /// Whether it would change nothing.
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// The changes, in order.
    pub fn ops(&self) -> &[(u64, LogOp)] {
        &self.ops
    }
}

/// Durable entries and states of many Raft groups.
pub trait RaftLog: Send + Sync + 'static {
    /// Groups that have a state or entries.
    fn regions(&self) -> Result<Vec<u64>>;

    /// State of a group.
    fn state(&self, region_id: u64) -> Result<Option<RaftLocalState>>;

    /// First and last index held, or `None` if the group has no entries.
    fn bounds(&self, region_id: u64) -> Option<(u64, u64)>;

    /// Entries of `[low, high)`, fewer if they exceed `max_bytes`, but at least one.
    fn entries(&self, region_id: u64, low: u64, high: u64, max_bytes: u64) -> Result<Vec<Entry>>;

    /// Applies the batch; with `sync` it is durable on return.
    fn write(&self, batch: LogBatch, sync: bool) -> Result<()>;

    /// Frees disk space of dropped entries; answers the groups whose old entries
    /// stand in the way and that should compact further.
    fn purge(&self) -> Result<Vec<u64>>;

    /// How many syncs were paid for.
    fn sync_count(&self) -> u64;
}

/// Refuses ranges that a group does not hold.
fn check_range(region_id: u64, bounds: Option<(u64, u64)>, low: u64, high: u64) -> Result<()> {
    let (first_index, last_index) = bounds.unwrap_or((u64::MAX, 0));
    if bounds.is_none() || high > last_index + 1 {
        return Err(EngineError::Unavailable { region_id, last_index });
    }
    if low < first_index {
        return Err(EngineError::Compacted { region_id, first_index });
    }
    Ok(())
}

/// The bounds a group has after an operation, or why it may not be done.
fn next_bounds(
    region_id: u64,
    bounds: Option<(u64, u64)>,
    op: &LogOp,
) -> Result<Option<(u64, u64)>> {
    match op {
        LogOp::State(_) => Ok(bounds),
        LogOp::Clean => Ok(None),
        LogOp::CompactTo(index) => Ok(bounds.and_then(|(first, last)| {
            let first = first.max(*index);
            (first <= last).then_some((first, last))
        })),
        LogOp::Append(entries) => {
            let Some(index) = entries.first().map(|entry| entry.index) else { return Ok(bounds) };
            let in_order = entries
                .iter()
                .enumerate()
                .all(|(position, entry)| entry.index == index + position as u64);
            if !in_order {
                return Err(EngineError::Hole { region_id, index });
            }
            let last = index + entries.len() as u64 - 1;
            match bounds {
                None => Ok(Some((index, last))),
                Some((first, _)) if index < first => {
                    Err(EngineError::Compacted { region_id, first_index: first })
                }
                Some((_, old_last)) if index > old_last + 1 => {
                    Err(EngineError::Hole { region_id, index })
                }
                Some((first, _)) => Ok(Some((first, last))),
            }
        }
    }
}
