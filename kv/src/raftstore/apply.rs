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
//!
//! **Concurrency.** Owned by the apply thread.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use cairn_engine::{KvEngine, WriteBatch, WriteOp};
use cairn_proto::meta;
use prost::Message as _;
use raft::eraftpb::{ConfChange, Entry, EntryType};

use super::command::{
    self, Command, CompactLogCommand, ConfChangeCommand, ConfChangeKind, SplitCommand,
};
use super::error::{RaftStoreError, RegionError};
use super::ids::{RegionEpoch, epoch_of};
use super::metrics::{RaftMetrics, add};
use super::state::{self, ApplyState, PeerState, find_peer, find_peer_on_store};
use crate::keys;

/// A batch is written once it holds this much, also within a round.
const BATCH_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Bytes of a proposal counted against the store's bound until it is answered.
pub struct InflightBytes {
    counter: Arc<AtomicU64>,
    bytes: u64,
}

impl InflightBytes {
    /// Counts `bytes` if the bound allows.
    pub fn acquire(counter: &Arc<AtomicU64>, bytes: u64, max: u64) -> Option<InflightBytes> {
        let before = counter.fetch_add(bytes, Ordering::Relaxed);
        let inflight = InflightBytes { counter: counter.clone(), bytes };
        // One proposal may always go, however large.
        (before == 0 || before + bytes <= max).then_some(inflight)
    }
}

impl Drop for InflightBytes {
    fn drop(&mut self) {
        self.counter.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Who waits for a proposal.
#[derive(Default)]
pub enum Callback {
    /// Nobody.
    #[default]
    None,
    /// A write's caller.
    Write(tokio::sync::oneshot::Sender<Result<(), RegionError>>, InflightBytes),
    /// Somebody who wants the regions that come of it.
    Regions(tokio::sync::oneshot::Sender<Result<Vec<meta::Region>, RegionError>>),
}

impl Callback {
    /// Answers with an error. The caller may have gone away.
    pub fn fail(self, error: RegionError) {
        match self {
            Callback::None => {}
            Callback::Write(answer, _) => drop(answer.send(Err(error))),
            Callback::Regions(answer) => drop(answer.send(Err(error))),
        }
    }

    /// Answers that it is done; `regions` are those that came of it.
    pub fn finish(self, regions: Vec<meta::Region>) {
        match self {
            Callback::None => {}
            Callback::Write(answer, _) => drop(answer.send(Ok(()))),
            Callback::Regions(answer) => drop(answer.send(Ok(regions))),
        }
    }
}

/// Entries of one region, with those who wait for them.
pub struct CommittedEntries {
    /// The region.
    pub region_id: u64,
    /// In order of index.
    pub entries: Vec<Entry>,
    /// Index of an entry and its caller, in order.
    pub callbacks: Vec<(u64, Callback)>,
}

/// Work for apply.
pub enum ApplyTask {
    /// From now on entries of this region may come.
    Register {
        /// This store's peer.
        peer_id: u64,
        /// The region.
        region: Arc<meta::Region>,
        /// How far it is applied.
        state: ApplyState,
    },
    /// Applies entries.
    Entries(CommittedEntries),
    /// Lets go of the region: somebody else is about to write its data and state.
    Pause {
        /// The region.
        region_id: u64,
    },
    /// Removes a peer and its data, and leaves a tombstone.
    Destroy {
        /// This store's peer.
        peer_id: u64,
        /// The region it had (only its id if it had no data).
        region: meta::Region,
        /// Epoch below which the peer must not come back.
        epoch: RegionEpoch,
    },
    /// Makes applied data durable, so that the logs up to these indexes can go.
    SyncWal(Vec<(u64, u64)>),
}

/// A change the Raft thread must know of.
pub enum Outcome {
    /// The region was split; parent first, then the new ones. Which of them live here.
    Split {
        /// In key order.
        regions: Vec<meta::Region>,
        /// Ids of new regions that this store created.
        created: Vec<u64>,
        /// Who asked for it.
        callback: Callback,
    },
    /// Membership changed.
    ConfChange {
        /// For Raft.
        change: ConfChange,
        /// The region after the change.
        region: meta::Region,
        /// Who asked for it.
        callback: Callback,
    },
}

/// What apply tells the Raft thread.
pub enum ApplyReport {
    /// Entries were applied.
    Applied {
        /// The region.
        region_id: u64,
        /// How far.
        state: ApplyState,
        /// Bytes written to the engine.
        written_bytes: u64,
        /// In order.
        outcomes: Vec<Outcome>,
    },
    /// Apply no longer writes to the region.
    Paused {
        /// The region.
        region_id: u64,
    },
    /// A peer is gone.
    Destroyed {
        /// The region.
        region_id: u64,
    },
    /// Logs up to these indexes may be compacted.
    WalSynced(Vec<(u64, u64)>),
}

/// One region, as apply sees it.
struct ApplyPeer {
    peer_id: u64,
    region: Arc<meta::Region>,
    data_start: Vec<u8>,
    data_end: Vec<u8>,
    state: ApplyState,
}

impl ApplyPeer {
    fn new(peer_id: u64, region: Arc<meta::Region>, state: ApplyState) -> ApplyPeer {
        let (data_start, data_end) = keys::region_data_range(&region);
        ApplyPeer { peer_id, region, data_start, data_end, state }
    }

    fn set_region(&mut self, region: Arc<meta::Region>) {
        (self.data_start, self.data_end) = keys::region_data_range(&region);
        self.region = region;
    }

    fn holds(&self, op: &WriteOp) -> bool {
        let within = |key: &Bytes| {
            key.as_ref() >= self.data_start.as_slice() && key.as_ref() < self.data_end.as_slice()
        };
        match op {
            WriteOp::Put { key, .. } | WriteOp::Delete { key, .. } => within(key),
            WriteOp::DeleteRange { start, end, .. } => {
                start >= end || (within(start) && end.as_ref() <= self.data_end.as_slice())
            }
        }
    }

    fn epoch_mismatch(&self) -> RegionError {
        RegionError::EpochNotMatch { current_regions: vec![(*self.region).clone()] }
    }
}

/// Applies entries of all regions of a store.
pub struct Applier {
    store_id: u64,
    engine: Arc<dyn KvEngine>,
    metrics: Arc<RaftMetrics>,
    peers: HashMap<u64, ApplyPeer>,
    batch: WriteBatch,
    /// Answered once the batch is written.
    done: Vec<Callback>,
}

impl Applier {
    /// An applier without regions.
    pub fn new(store_id: u64, engine: Arc<dyn KvEngine>, metrics: Arc<RaftMetrics>) -> Applier {
        Applier {
            store_id,
            engine,
            metrics,
            peers: HashMap::new(),
            batch: WriteBatch::new(),
            done: Vec::new(),
        }
    }

    /// One round: does all tasks and answers what the Raft thread must know.
    pub fn run(&mut self, tasks: Vec<ApplyTask>) -> Result<Vec<ApplyReport>, RaftStoreError> {
        let mut reports = Vec::with_capacity(tasks.len());
        for task in tasks {
            match task {
                ApplyTask::Register { peer_id, region, state } => {
                    self.peers.insert(region.id, ApplyPeer::new(peer_id, region, state));
                }
                ApplyTask::Entries(committed) => reports.extend(self.apply(committed)?),
                ApplyTask::Pause { region_id } => {
                    self.flush()?;
                    self.peers.remove(&region_id);
                    reports.push(ApplyReport::Paused { region_id });
                }
                ApplyTask::Destroy { peer_id, region, epoch } => {
                    self.flush()?;
                    let region_id = region.id;
                    self.destroy(peer_id, region, epoch)?;
                    reports.push(ApplyReport::Destroyed { region_id });
                }
                ApplyTask::SyncWal(indexes) => {
                    self.flush()?;
                    self.engine.sync_wal()?;
                    reports.push(ApplyReport::WalSynced(indexes));
                }
            }
            if self.batch.size_bytes() >= BATCH_BYTES_MAX {
                self.flush()?;
            }
        }
        self.flush()?;
        Ok(reports)
    }

    fn flush(&mut self) -> Result<(), RaftStoreError> {
        if !self.batch.is_empty() {
            self.engine.write(std::mem::take(&mut self.batch), false)?;
            add(&self.metrics.apply_batches, 1);
        }
        for callback in self.done.drain(..) {
            callback.finish(Vec::new());
        }
        Ok(())
    }

    fn apply(
        &mut self,
        committed: CommittedEntries,
    ) -> Result<Option<ApplyReport>, RaftStoreError> {
        let CommittedEntries { region_id, entries, callbacks } = committed;
        let Some(mut peer) = self.peers.remove(&region_id) else {
            for (_, callback) in callbacks {
                callback.fail(RegionError::StaleCommand);
            }
            return Ok(None);
        };
        let bytes_before = self.batch.size_bytes();
        let mut outcomes = Vec::new();
        let mut callbacks = callbacks.into_iter().peekable();
        add(&self.metrics.applied_entries, entries.len() as u64);
        for entry in entries {
            if entry.index <= peer.state.applied_index {
                // Replayed after a restart; callers of this start are never before it.
                continue;
            }
            let callback = callbacks
                .next_if(|(index, _)| *index == entry.index)
                .map(|(_, callback)| callback)
                .unwrap_or_default();
            peer.state.applied_index = entry.index;
            peer.state.applied_term = entry.term;
            outcomes.extend(self.apply_entry(&mut peer, entry, callback)?);
        }
        state::put_apply_state(&mut self.batch, region_id, &peer.state);
        let report = ApplyReport::Applied {
            region_id,
            state: peer.state.clone(),
            written_bytes: self.batch.size_bytes().saturating_sub(bytes_before) as u64,
            outcomes,
        };
        self.peers.insert(region_id, peer);
        Ok(Some(report))
    }

    fn apply_entry(
        &mut self,
        peer: &mut ApplyPeer,
        entry: Entry,
        callback: Callback,
    ) -> Result<Option<Outcome>, RaftStoreError> {
        match entry.get_entry_type() {
            EntryType::EntryNormal if entry.data.is_empty() => Ok(None),
            EntryType::EntryNormal => match command::decode(entry.data) {
                Ok(Command::Write { epoch, batch }) => {
                    self.apply_write(peer, epoch, batch, callback);
                    Ok(None)
                }
                Ok(Command::Split(split)) => self.apply_split(peer, split, callback),
                Ok(Command::CompactLog(compact)) => {
                    apply_compact_log(peer, &compact);
                    self.done.push(callback);
                    Ok(None)
                }
                Err(error) => {
                    tracing::error!(region = peer.region.id, index = entry.index, %error, "entry");
                    callback.fail(RegionError::StaleCommand);
                    Ok(None)
                }
            },
            EntryType::EntryConfChange => Ok(self.apply_conf_change(peer, &entry, callback)),
            EntryType::EntryConfChangeV2 => {
                tracing::error!(region = peer.region.id, index = entry.index, "joint change");
                callback.fail(RegionError::StaleCommand);
                Ok(None)
            }
        }
    }

    fn apply_write(
        &mut self,
        peer: &ApplyPeer,
        epoch: RegionEpoch,
        batch: WriteBatch,
        callback: Callback,
    ) {
        if epoch.version != epoch_of(&peer.region).version {
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

    fn apply_split(
        &mut self,
        peer: &mut ApplyPeer,
        split: SplitCommand,
        callback: Callback,
    ) -> Result<Option<Outcome>, RaftStoreError> {
        let Some(regions) = split_regions(&peer.region, &split) else {
            callback.fail(peer.epoch_mismatch());
            return Ok(None);
        };
        let mut created = Vec::new();
        let view = self.engine.snapshot();
        for region in &regions[1..] {
            let here = find_peer_on_store(region, self.store_id);
            let known = state::load_region_state(view.as_ref(), region.id)?;
            match here {
                Some(here) if known.is_none() => {
                    state::put_region_state(&mut self.batch, region, PeerState::Normal, here.id);
                    state::put_apply_state(&mut self.batch, region.id, &ApplyState::initial());
                    let child = Arc::new(region.clone());
                    let apply_peer = ApplyPeer::new(here.id, child, ApplyState::initial());
                    self.peers.insert(region.id, apply_peer);
                    created.push(region.id);
                }
                // The new region was here and was removed before we applied its birth.
                _ => super::snapshot::delete_region_data(&mut self.batch, region),
            }
        }
        state::put_region_state(&mut self.batch, &regions[0], PeerState::Normal, peer.peer_id);
        peer.set_region(Arc::new(regions[0].clone()));
        Ok(Some(Outcome::Split { regions, created, callback }))
    }

    fn apply_conf_change(
        &mut self,
        peer: &mut ApplyPeer,
        entry: &Entry,
        callback: Callback,
    ) -> Option<Outcome> {
        let change: Option<ConfChange> = protobuf::Message::parse_from_bytes(&entry.data).ok();
        let command = ConfChangeCommand::decode(entry.context.clone()).ok();
        let applied = change
            .zip(command)
            .and_then(|(change, command)| Some((change, change_region(&peer.region, &command)?)));
        let Some((change, region)) = applied else {
            callback.fail(peer.epoch_mismatch());
            return None;
        };
        state::put_region_state(&mut self.batch, &region, PeerState::Normal, peer.peer_id);
        peer.set_region(Arc::new(region.clone()));
        Some(Outcome::ConfChange { change, region, callback })
    }

    fn destroy(
        &mut self,
        peer_id: u64,
        region: meta::Region,
        epoch: RegionEpoch,
    ) -> Result<(), RaftStoreError> {
        let had_data = self.peers.remove(&region.id).is_some();
        let mut batch = WriteBatch::new();
        if had_data {
            super::snapshot::delete_region_data(&mut batch, &region);
        }
        let apply_key = keys::region_local_key(region.id, keys::RegionLocal::Apply);
        batch.delete(cairn_engine::Cf::Default, apply_key);
        let tombstone = meta::Region { epoch: Some(epoch.into()), ..region };
        state::put_region_state(&mut batch, &tombstone, PeerState::Tombstone, peer_id);
        Ok(self.engine.write(batch, true)?)
    }
}

fn apply_compact_log(peer: &mut ApplyPeer, compact: &CompactLogCommand) {
    let state = &mut peer.state;
    if compact.index > state.truncated_index && compact.index <= state.applied_index {
        state.truncated_index = compact.index;
        state.truncated_term = compact.term;
    }
}

/// The regions that come of a split, parent first; `None` if it does not fit.
pub(super) fn split_regions(
    parent: &meta::Region,
    split: &SplitCommand,
) -> Option<Vec<meta::Region>> {
    let epoch = epoch_of(parent);
    let seen = split.epoch.as_ref().map(RegionEpoch::from)?;
    if seen.version != epoch.version || split.pieces.is_empty() {
        return None;
    }
    let new_epoch = RegionEpoch {
        conf_ver: epoch.conf_ver,
        version: epoch.version + split.pieces.len() as u64,
    };
    let mut last_start = parent.start_key.clone();
    let mut regions = vec![meta::Region { epoch: Some(new_epoch.into()), ..parent.clone() }];
    for piece in &split.pieces {
        let fits = piece.start_key > last_start
            && keys::region_contains(parent, &piece.start_key)
            && piece.peer_ids.len() == parent.peers.len();
        if !fits {
            return None;
        }
        last_start = piece.start_key.clone();
        if let Some(before) = regions.last_mut() {
            before.end_key = piece.start_key.clone();
        }
        let peers = parent.peers.iter().zip(&piece.peer_ids);
        regions.push(meta::Region {
            id: piece.region_id,
            start_key: piece.start_key.clone(),
            end_key: parent.end_key.clone(),
            epoch: Some(new_epoch.into()),
            peers: peers.map(|(peer, id)| meta::Peer { id: *id, ..*peer }).collect(),
        });
    }
    Some(regions)
}

/// The region after a membership change; `None` if it does not fit.
fn change_region(region: &meta::Region, command: &ConfChangeCommand) -> Option<meta::Region> {
    let epoch = epoch_of(region);
    let seen = command.epoch.as_ref().map(RegionEpoch::from)?;
    let peer = command.peer.as_ref()?;
    if seen.conf_ver != epoch.conf_ver {
        return None;
    }
    let mut region = region.clone();
    let position = region.peers.iter().position(|member| member.store_id == peer.store_id);
    match (command.kind(), position) {
        (ConfChangeKind::AddVoter, Some(position)) => {
            let member = &mut region.peers[position];
            if member.id != peer.id {
                return None;
            }
            member.set_role(meta::PeerRole::Voter);
        }
        (ConfChangeKind::AddLearner, Some(_)) => return None,
        (kind @ (ConfChangeKind::AddVoter | ConfChangeKind::AddLearner), None) => {
            if find_peer(&region, peer.id).is_some() {
                return None;
            }
            let mut member = *peer;
            member.set_role(match kind {
                ConfChangeKind::AddVoter => meta::PeerRole::Voter,
                ConfChangeKind::AddLearner | ConfChangeKind::Remove => meta::PeerRole::Learner,
            });
            region.peers.push(member);
        }
        (ConfChangeKind::Remove, Some(position)) => {
            if region.peers[position].id != peer.id {
                return None;
            }
            region.peers.remove(position);
        }
        (ConfChangeKind::Remove, None) => return None,
    }
    let new_epoch = RegionEpoch { conf_ver: epoch.conf_ver + 1, version: epoch.version };
    region.epoch = Some(new_epoch.into());
    Some(region)
}
