//! Applies committed entries: entries and an engine in, one write batch and results out.
//!
//! **Flow.** The Raft thread hands over [`ApplyTask`]s; one round of apply turns all that
//! wait into one engine write (data and apply states together, WAL unsynced), answers the
//! callers, and reports to the Raft thread what changed.
//!
//! **Invariants**
//! - Deterministic: every replica takes the same decision on the same entry; a command
//!   that no longer fits the region's epoch changes nothing anywhere.
//! - Each entry is applied exactly once: the apply state is in the same batch.
//! - Keys outside of the region's range are never written.
//! - A region whose next entry needs another one that a Raft snapshot is being installed
//!   for stands still until that one is back; nothing else of the store waits with it.
//!
//! **Concurrency.** Owned by the apply thread.

mod conf_change;
mod merge;
mod peer;
mod split;
mod task;

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use cairn_engine::{KvEngine, RaftLog, WriteBatch};
use cairn_proto::meta;
use cairn_types::sabotage::{Bug, planted};
use raft::eraftpb::{Entry, EntryType};

pub use conf_change::{change_region, is_joint, raft_change};
pub use split::split_regions;
pub use task::{ApplyReport, ApplyTask, Callback, CommittedEntries, InflightBytes, Outcome};

use peer::ApplyPeer;

use super::command::{self, Command, CompactLogCommand};
use super::error::{RaftStoreError, RegionError};
use super::ids::{RegionEpoch, epoch_of};
use super::metrics::{RaftMetrics, add};
use super::peer::storage::Engines;
use super::state::{self, MergeState, PeerState, RegionLocalState};
use crate::mvcc::dead_ranges::DeadRanges;

/// A batch is written once it holds this much, also within a round.
const BATCH_BYTES_MAX: usize = 8 * 1024 * 1024;

/// What became of an entry.
enum Step {
    /// It is applied.
    Done,
    /// It needs a region that apply let go of: to be tried again when it is back.
    Waits {
        /// The region.
        region_id: u64,
        /// The entry's caller.
        callback: Callback,
    },
}

/// Applies entries of all regions of a store.
pub struct Applier {
    store_id: u64,
    engine: Arc<dyn KvEngine>,
    log: Arc<dyn RaftLog>,
    metrics: Arc<RaftMetrics>,
    peers: HashMap<u64, ApplyPeer>,
    /// Region that is away, and a region that stands still until it is back.
    waits: Vec<(u64, u64)>,
    /// Told of every write, so that scans do not jump over new rows.
    dead: Option<Arc<DeadRanges>>,
    batch: WriteBatch,
    /// Logs begin or end with this round: what was applied must be durable.
    must_sync: bool,
    /// Answered once the batch is written.
    done: Vec<Callback>,
}

impl Applier {
    /// An applier without regions.
    pub fn new(store_id: u64, engines: Engines, metrics: Arc<RaftMetrics>) -> Applier {
        Applier {
            store_id,
            engine: engines.kv,
            log: engines.log,
            metrics,
            peers: HashMap::new(),
            waits: Vec::new(),
            dead: None,
            batch: WriteBatch::new(),
            must_sync: false,
            done: Vec::new(),
        }
    }

    /// Keeps the ranges of deleted rows true.
    pub fn with_dead_ranges(mut self, dead: Arc<DeadRanges>) -> Applier {
        self.dead = Some(dead);
        self
    }

    /// One round: does all tasks and answers what the Raft thread must know.
    pub fn run(&mut self, tasks: Vec<ApplyTask>) -> Result<Vec<ApplyReport>, RaftStoreError> {
        let mut reports = Vec::with_capacity(tasks.len());
        for task in tasks {
            match task {
                ApplyTask::Register { peer_id, region, state, merge } => {
                    let region_id = region.id;
                    let peer = ApplyPeer::new(peer_id, region, state, merge);
                    if let Some(dead) = &self.dead {
                        // A Raft snapshot may have brought rows; nobody scans before this.
                        drop(dead.begin_range(&peer.data_start, &peer.data_end));
                    }
                    self.peers.insert(region_id, peer);
                }
                ApplyTask::Entries(committed) => reports.extend(self.apply(committed)?),
                ApplyTask::Pause { region_id } => {
                    self.flush()?;
                    self.let_go(region_id);
                    reports.push(ApplyReport::Paused { region_id });
                }
                ApplyTask::Destroy { peer_id, region, epoch, merged_into } => {
                    self.flush()?;
                    let region_id = region.id;
                    self.destroy(peer_id, region, epoch, merged_into)?;
                    reports.push(ApplyReport::Destroyed { region_id });
                }
            }
            self.resume(&mut reports)?;
            if self.batch.size_bytes() >= BATCH_BYTES_MAX {
                self.flush()?;
            }
        }
        self.flush()?;
        if std::mem::take(&mut self.must_sync) {
            self.engine.sync_wal()?;
        }
        Ok(reports)
    }

    fn flush(&mut self) -> Result<(), RaftStoreError> {
        if !self.batch.is_empty() {
            let batch = std::mem::take(&mut self.batch);
            let begun = self.dead.as_ref().map(|dead| dead.begin_write(&batch));
            add(&self.metrics.applied_bytes, batch.size_bytes() as u64);
            self.engine.write(batch, false)?;
            drop(begun);
            add(&self.metrics.apply_batches, 1);
        }
        for callback in self.done.drain(..) {
            callback.finish(Vec::new());
        }
        Ok(())
    }

    /// Forgets a region; entries that wait with it are answered.
    fn let_go(&mut self, region_id: u64) -> Option<ApplyPeer> {
        let mut peer = self.peers.remove(&region_id)?;
        self.abandon_waiting(&mut peer);
        Some(peer)
    }

    /// The region goes no further: those who wait for its entries are answered.
    fn abandon_waiting(&mut self, peer: &mut ApplyPeer) {
        self.waits.retain(|(_, waiting)| *waiting != peer.region.id);
        for committed in std::mem::take(&mut peer.waiting) {
            for (_, callback) in committed.callbacks {
                callback.fail(RegionError::StaleCommand);
            }
        }
    }

    /// Whoever waited for a region that is here now, registered or split off, goes on.
    fn resume(&mut self, reports: &mut Vec<ApplyReport>) -> Result<(), RaftStoreError> {
        while let Some(at) = self.waits.iter().position(|(away, _)| self.peers.contains_key(away)) {
            let (_, waiting_id) = self.waits.remove(at);
            let Some(peer) = self.peers.get_mut(&waiting_id) else { continue };
            for committed in std::mem::take(&mut peer.waiting) {
                reports.extend(self.apply(committed)?);
            }
        }
        Ok(())
    }

    fn apply(
        &mut self,
        committed: CommittedEntries,
    ) -> Result<Option<ApplyReport>, RaftStoreError> {
        let region_id = committed.region_id;
        let Some(mut peer) = self.peers.remove(&region_id) else {
            for (_, callback) in committed.callbacks {
                callback.fail(RegionError::StaleCommand);
            }
            return Ok(None);
        };
        if !peer.waiting.is_empty() {
            peer.waiting.push_back(committed);
            self.peers.insert(region_id, peer);
            return Ok(None);
        }
        add(&self.metrics.applied_entries, committed.entries.len() as u64);
        let (bytes_before, keys_before) = (self.batch.size_bytes(), self.batch.len());
        let outcome = self.apply_entries(&mut peer, committed);
        state::put_apply_state(&mut self.batch, region_id, &peer.state);
        let report = ApplyReport::Applied {
            region_id,
            state: peer.state.clone(),
            written_bytes: self.batch.size_bytes().saturating_sub(bytes_before) as u64,
            written_keys: self.batch.len().saturating_sub(keys_before) as u64,
            outcomes: std::mem::take(&mut peer.outcomes),
        };
        self.peers.insert(region_id, peer);
        outcome.map(|()| Some(report))
    }

    fn apply_entries(
        &mut self,
        peer: &mut ApplyPeer,
        committed: CommittedEntries,
    ) -> Result<(), RaftStoreError> {
        let CommittedEntries { region_id, entries, callbacks } = committed;
        let mut callbacks = callbacks.into_iter().peekable();
        let mut entries = entries.into_iter();
        while let Some(entry) = entries.next() {
            let callback = callbacks
                .next_if(|(index, _)| *index == entry.index)
                .map(|(_, callback)| callback)
                .unwrap_or_default();
            if entry.index <= peer.state.applied_index {
                // Replayed after a restart, or applied ahead for a merge: what became of
                // it is not known here.
                callback.fail(RegionError::StaleCommand);
                continue;
            }
            let index = entry.index;
            match self.apply_entry(peer, &entry, callback)? {
                Step::Done => {}
                Step::Waits { region_id: away, callback } => {
                    self.waits.push((away, region_id));
                    let callbacks = std::iter::once((index, callback)).chain(callbacks).collect();
                    let entries = std::iter::once(entry).chain(entries).collect();
                    peer.waiting.push_back(CommittedEntries { region_id, entries, callbacks });
                    break;
                }
            }
        }
        Ok(())
    }

    /// Applies one entry and notes that it is, with what the Raft thread must know of it.
    fn apply_entry(
        &mut self,
        peer: &mut ApplyPeer,
        entry: &Entry,
        callback: Callback,
    ) -> Result<Step, RaftStoreError> {
        let step = match entry.get_entry_type() {
            EntryType::EntryNormal if entry.data.is_empty() => Step::Done,
            EntryType::EntryNormal => match command::decode(entry.data.clone()) {
                Ok(command) => self.apply_command(peer, entry.index, command, callback)?,
                Err(error) => {
                    tracing::error!(region = peer.region.id, index = entry.index, %error, "entry");
                    callback.fail(RegionError::StaleCommand);
                    Step::Done
                }
            },
            EntryType::EntryConfChangeV2 => {
                let outcome = self.apply_conf_change(peer, entry, callback);
                peer.outcomes.extend(outcome);
                Step::Done
            }
            EntryType::EntryConfChange => {
                // The older form, which no version of this store proposes.
                tracing::error!(region = peer.region.id, index = entry.index, "membership change");
                callback.fail(RegionError::StaleCommand);
                Step::Done
            }
        };
        if matches!(step, Step::Done) {
            peer.state.applied_index = entry.index;
            peer.state.applied_term = entry.term;
        }
        Ok(step)
    }

    fn apply_command(
        &mut self,
        peer: &mut ApplyPeer,
        index: u64,
        command: Command,
        callback: Callback,
    ) -> Result<Step, RaftStoreError> {
        let outcome = match command {
            Command::Write { epoch, batch } => {
                self.apply_write(peer, epoch, batch, callback);
                None
            }
            Command::Split(split) => self.apply_split(peer, &split, callback)?,
            Command::CompactLog(compact) => {
                apply_compact_log(peer, &compact);
                self.done.push(callback);
                None
            }
            Command::PrepareMerge(prepare) => {
                self.apply_prepare_merge(peer, index, prepare, callback)
            }
            Command::RollbackMerge(rollback) => {
                self.apply_rollback_merge(peer, &rollback, callback)
            }
            Command::CommitMerge(commit) => {
                return self.apply_commit_merge(peer, &commit, callback);
            }
        };
        peer.outcomes.extend(outcome);
        Ok(Step::Done)
    }

    fn apply_write(
        &mut self,
        peer: &ApplyPeer,
        epoch: RegionEpoch,
        batch: WriteBatch,
        callback: Callback,
    ) {
        if planted(Bug::ApplyIgnoresEpoch) {
            self.batch.append(batch);
            self.done.push(callback);
        } else if epoch.version != epoch_of(&peer.region).version {
            callback.fail(peer.epoch_mismatch());
        } else if !batch.ops().iter().all(|op| peer.holds(op)) {
            callback.fail(RegionError::KeyNotInRegion {
                key: Bytes::new(),
                region_id: super::RegionId(peer.region.id),
            });
        } else {
            self.batch.append(batch);
            self.done.push(callback);
        }
    }

    /// Removes a peer: data, apply state; a tombstone stays.
    fn destroy(
        &mut self,
        peer_id: u64,
        region: meta::Region,
        epoch: RegionEpoch,
        merged_into: Option<MergeState>,
    ) -> Result<(), RaftStoreError> {
        self.let_go(region.id);
        // Its range as of what was applied, not as of what the Raft thread knows.
        let view = self.engine.snapshot();
        let had = state::load_region_state(view.as_ref(), region.id)?
            .filter(|local| [PeerState::Normal, PeerState::Merging].contains(&local.state()));
        let applied = state::load_apply_state(view.as_ref(), region.id)?;
        let had = had.and_then(|local| local.region);
        let mut batch = WriteBatch::new();
        if let Some(had) = &had {
            super::snapshot::delete_region_data(&mut batch, had);
        }
        let tombstone = RegionLocalState {
            state: PeerState::Tombstone.into(),
            peer_id,
            merged_into,
            applied_epoch: had.and_then(|had| had.epoch),
            installed_epoch: applied.and_then(|applied| applied.installed_epoch),
            region: Some(meta::Region { epoch: Some(epoch.into()), ..region }),
            merge: None,
        };
        state::put_tombstone(&mut batch, &tombstone);
        Ok(self.engine.write(batch, true)?)
    }
}

fn apply_compact_log(peer: &mut ApplyPeer, compact: &CompactLogCommand) {
    let state = &mut peer.state;
    // A source's log is kept until the merge is decided: others may need its entries.
    let fits = compact.index > state.truncated_index && compact.index <= state.applied_index;
    if fits && peer.merge.is_none() {
        state.truncated_index = compact.index;
        state.truncated_term = compact.term;
    }
}
