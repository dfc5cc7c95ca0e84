//! Birth, growth and death of peers: loading, splits, Raft snapshots, removal.
//!
//! A peer from disk has forgotten which leader it heard last, and so must not help to
//! elect another one while that one may hold a lease: the store does not vote for an
//! election timeout after its start. That holds for peers it has yet to hear of as well,
//! since one without data leaves no trace on disk of what it acknowledged. Only a store
//! that starts for the first time has promised nothing.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cairn_proto::meta;
use cairn_types::sabotage::{Bug, planted};
use raft::eraftpb::ConfChangeV2;

use super::{BackgroundJob, FailedInstallation, PdEvent, StoreCore};
use crate::raftstore::apply::{ApplyTask, Callback, is_joint};
use crate::raftstore::clock::MonotonicTime;
use crate::raftstore::error::RaftStoreError;
use crate::raftstore::ids::{RegionEpoch, epoch_of};
use crate::raftstore::metrics::add;
use crate::raftstore::peer::storage::{PeerStorage, initial_hard_state};
use crate::raftstore::peer::{Peer, RegionSize, snapshot_region};
use crate::raftstore::snapshot::{self, Installation, SnapshotData};
use crate::raftstore::state::{
    self, ApplyState, MergeState, PeerState, RegionLocalState, find_peer,
};

/// How long a Raft snapshot whose installation failed waits for the next attempt: a full disk stays
/// full for a while, and each attempt reads all files of the snapshot.
const INSTALL_RETRY: Duration = Duration::from_secs(10);

impl StoreCore {
    /// Loads every region the engine knows. Regions whose only voter is here lead at once.
    pub fn load(&mut self, now: MonotonicTime) -> Result<(), RaftStoreError> {
        let incarnation = state::next_incarnation(self.engines.kv.as_ref())?;
        self.links.set_incarnation(incarnation);
        if incarnation > 1 && !planted(Bug::VoteAfterRestart) {
            self.vote_quiet_until = now.plus(self.config.vote_quiet());
        }
        // Answers to questions of an earlier start must fit none of this one.
        self.last_read_id = incarnation << 32;
        let view = self.engines.kv.snapshot();
        for local in state::load_regions(view.as_ref())? {
            let RegionLocalState { region: Some(region), peer_id, merge, .. } = local.clone()
            else {
                return Err(RaftStoreError::Corrupted("region state without a region"));
            };
            match PeerState::try_from(local.state) {
                Ok(PeerState::Tombstone) => {
                    if self.engines.log.state(region.id)?.is_some() {
                        self.log.clean(region.id);
                    }
                }
                Ok(PeerState::Applying) => {
                    let region = self.finish_install(region, peer_id)?;
                    self.load_peer(region, peer_id, None)?;
                }
                Ok(PeerState::Normal | PeerState::Merging) => {
                    self.load_peer(region, peer_id, merge)?;
                }
                Err(_) => return Err(RaftStoreError::Corrupted("region state")),
            }
        }
        self.load_damage()?;
        self.remove_stale_spools();
        Ok(())
    }

    /// Transfers that were under way when the store ended start anew.
    fn remove_stale_spools(&self) {
        if let Some(dir) = &self.config.snapshot_dir {
            snapshot::clear_folder(dir);
        }
    }

    pub(super) fn load_peer(
        &mut self,
        region: meta::Region,
        peer_id: u64,
        merge: Option<MergeState>,
    ) -> Result<(), RaftStoreError> {
        let view = self.engines.kv.snapshot();
        let apply_state = state::load_apply_state(view.as_ref(), region.id)?
            .ok_or(RaftStoreError::Corrupted("region without an apply state"))?;
        let region = Arc::new(region);
        self.add_initialized(&region, peer_id, apply_state.clone())?;
        self.outbox.apply.push(ApplyTask::Register {
            peer_id,
            region: region.clone(),
            state: apply_state,
            merge: merge.clone(),
        });
        if merge.is_some()
            && let Some(peer) = self.peers.get_mut(&region.id)
        {
            peer.merging.state = merge;
            self.merging.insert(region.id);
        }
        if let Some(peer) = self.peer_mut(region.id)
            && peer.is_only_voter()
        {
            campaign(peer);
        }
        self.destroy_if_removed(region.id);
        Ok(())
    }

    /// Completes an installation that a crash interrupted.
    fn finish_install(
        &mut self,
        old_region: meta::Region,
        peer_id: u64,
    ) -> Result<meta::Region, RaftStoreError> {
        let view = self.engines.kv.snapshot();
        let pending = state::load_pending_snapshot(view.as_ref(), old_region.id)?
            .ok_or(RaftStoreError::Corrupted("interrupted installation"))?;
        let region = pending.region.ok_or(RaftStoreError::Corrupted("snapshot's region"))?;
        let dir = self.config.snapshot_dir.clone();
        let dir = dir.ok_or(RaftStoreError::Corrupted("no folder for raft snapshots"))?;
        let manifest = pending.manifest.ok_or(RaftStoreError::Corrupted("snapshot's manifest"))?;
        let installation = Installation {
            region: region.clone(),
            old_region: Some(old_region),
            peer_id,
            index: pending.index,
            term: pending.term,
            is_damaged: state::load_damage_mark(view.as_ref(), region.id)?,
            data: SnapshotData::Files(dir.join(pending.folder), manifest),
            // Their tombstones were written with the first step.
            absorbed: Vec::new(),
        };
        snapshot::install(self.engines.kv.as_ref(), &installation)?;
        Ok(region)
    }

    /// Makes a peer of a region with a range, whose states are in the engine.
    fn add_initialized(
        &mut self,
        region: &Arc<meta::Region>,
        peer_id: u64,
        apply_state: ApplyState,
    ) -> Result<(), RaftStoreError> {
        let fresh = self.engines.log.state(region.id)?.is_none();
        let mut storage = PeerStorage::load(self.engines.clone(), region.clone(), apply_state)?;
        if fresh && storage.hard_state().term < initial_hard_state().term {
            storage.set_hard_state(initial_hard_state());
        }
        let peer = Peer::new(&self.config, self.store_id, peer_id, storage)?;
        self.regions.set_range(region);
        if peer.is_joint() {
            self.joint.insert(region.id);
        }
        self.insert(peer);
        Ok(())
    }

    fn insert(&mut self, mut peer: Peer) {
        let region_id = peer.region_id;
        self.regions.insert(peer.delegate.clone());
        peer.publish();
        self.peers.insert(region_id, peer);
        self.dirty.insert(region_id);
        self.awake.insert(region_id);
        self.count_peers();
    }

    fn count_peers(&self) {
        use std::sync::atomic::Ordering;
        self.metrics.regions.store(self.peers.len() as u64, Ordering::Relaxed);
    }

    /// Makes a peer that waits for a Raft snapshot.
    pub(super) fn create_uninitialized(
        &mut self,
        region_id: u64,
        peer_id: u64,
    ) -> Result<(), &'static str> {
        let peer = PeerStorage::uninitialized(self.engines.clone(), region_id)
            .and_then(|storage| Peer::new(&self.config, self.store_id, peer_id, storage));
        match peer {
            Ok(peer) => {
                tracing::info!(region = region_id, peer = peer_id, "peer created, waits for data");
                self.insert(peer);
                Ok(())
            }
            Err(error) => {
                tracing::error!(region = region_id, %error, "peer cannot be created");
                Err("peer cannot be created")
            }
        }
    }

    /// Apply split a region: the new peers come to life.
    pub(super) fn on_split(
        &mut self,
        region_id: u64,
        mut regions: Vec<meta::Region>,
        created: &[u64],
        callback: Callback,
        now: MonotonicTime,
    ) {
        let mut leads = false;
        let mut size = RegionSize::default();
        // Without the parent's peer, which was removed meanwhile, the new ones still live.
        if let Some(parent) = self.peer_mut(region_id) {
            parent.set_region(Arc::new(regions[0].clone()));
            parent.size.divide(regions.len() as u64);
            parent.load_watch.forget();
            parent.last_report = None;
            leads = parent.is_leader();
            size = parent.size;
            self.regions.set_range(&regions[0]);
        }
        for region in regions.iter().filter(|region| created.contains(&region.id)) {
            self.create_by_split(region, leads, size);
        }
        self.replay_votes(created, now);
        if leads {
            self.outbox.pd.push(PdEvent::ReportSplit(regions.clone()));
        }
        // In key order the parent comes last.
        regions.rotate_left(1);
        callback.finish(regions);
    }

    fn create_by_split(&mut self, region: &meta::Region, parent_leads: bool, size: RegionSize) {
        let Some(own) = state::find_peer_on_store(region, self.store_id).cloned() else { return };
        if self.destroying.contains(&region.id) {
            // Somebody told that it was removed before we knew that it was born.
            return;
        }
        if self.installations.contains_key(&region.id)
            || self.peers.get(&region.id).is_some_and(Peer::is_installing)
        {
            // The parent left before we heard of the birth, and a snapshot brings what the new one
            // has become since.
            return;
        }
        if let Some(mut waiting) = self.peers.remove(&region.id) {
            // It was created by a message and has no data; a vote it gave is in the log.
            waiting.fail_all();
            self.regions.remove(region.id);
        }
        let region = Arc::new(region.clone());
        if let Err(error) = self.add_initialized(&region, own.id, ApplyState::initial()) {
            tracing::error!(region = region.id, %error, "region cannot be created by split");
            return;
        }
        if let Some(peer) = self.peer_mut(region.id) {
            peer.size = RegionSize { checking: false, ..size };
            if parent_leads {
                campaign(peer);
            }
        }
    }

    fn replay_votes(&mut self, created: &[u64], now: MonotonicTime) {
        let (ready, waiting) = std::mem::take(&mut self.pending_votes)
            .into_iter()
            .partition::<std::collections::VecDeque<_>, _>(|vote| {
            created.contains(&vote.region_id)
        });
        self.pending_votes = waiting;
        for vote in ready {
            self.on_raft_message(vote, now);
        }
    }

    /// Apply changed the membership: Raft follows.
    pub(super) fn on_conf_change(
        &mut self,
        region_id: u64,
        change: Option<&ConfChangeV2>,
        region: meta::Region,
        callback: Callback,
    ) {
        if let Some(peer) = self.peer_mut(region_id) {
            peer.set_region(Arc::new(region.clone()));
            if find_peer(&region, peer.peer_id).is_some()
                && let Err(error) = peer.follow_conf_change(change)
            {
                tracing::error!(region = region_id, %error, "raft refused a membership change");
            }
            peer.last_report = None;
            if is_joint(&region) {
                self.joint.insert(region_id);
            }
        }
        callback.finish(vec![region]);
    }

    /// Raft accepted a snapshot: the background thread installs its data.
    pub(super) fn begin_install(&mut self, region_id: u64, accepted: &raft::eraftpb::Snapshot) {
        let Some(peer) = self.peers.get(&region_id) else { return };
        let mut message = raft::eraftpb::Message::default();
        message.set_snapshot(accepted.clone());
        let (Some(data), Some(region)) =
            (self.received.remove(&region_id), snapshot_region(&message))
        else {
            // Both were checked when the message came; without them the peer stays still.
            tracing::error!(region = region_id, "accepted raft snapshot has no data");
            return;
        };
        let old_region = peer.node.store().is_initialized().then(|| (**peer.region()).clone());
        // Reserves what is removed and what comes: no other snapshot may bring any of it
        // meanwhile.
        self.regions.set_range(&hull(&region, old_region.as_ref()));
        let installation = Installation {
            region,
            old_region,
            peer_id: peer.peer_id,
            index: accepted.get_metadata().index,
            term: accepted.get_metadata().term,
            is_damaged: peer.is_damaged(),
            data,
            absorbed: Vec::new(),
        };
        // Apply may still hold entries of the time before: it lets go first.
        self.installations.insert(region_id, installation);
        self.outbox.apply.push(ApplyTask::Pause { region_id });
    }

    /// The data of a Raft snapshot is in the engine. The peer that it came for has waited; if there
    /// is another one by now, the data is not what its log led to: it takes a snapshot of its own.
    pub(super) fn on_installed(
        &mut self,
        region_id: u64,
        peer_id: u64,
        outcome: Result<ApplyState, FailedInstallation>,
        now: MonotonicTime,
    ) {
        let apply_state = match outcome {
            Ok(apply_state) => apply_state,
            Err(FailedInstallation { installation, error }) => {
                // Neither the old nor the new data is whole, so the peer must not go on without it. To
                // all others it is still being installed: nobody removes it or takes its range.
                tracing::error!(region = region_id, %error, "raft snapshot cannot be installed now");
                self.failed_installs.insert(region_id, (now.plus(INSTALL_RETRY), installation));
                return;
            }
        };
        let Some(peer) = self.peers.get(&region_id) else { return };
        if peer.peer_id != peer_id || !peer.is_installing_up_to(apply_state.applied_index) {
            let waiting_id = peer.peer_id;
            tracing::error!(region = region_id, peer_id, waiting_id, "a snapshot nobody waits for");
            let reason = "a Raft snapshot of another peer was installed over its data";
            if let Err(error) = self.mark_damaged(&[region_id], reason) {
                tracing::error!(region = region_id, %error, "damaged regions cannot be marked");
            }
            return;
        }
        let view = self.engines.kv.snapshot();
        let region = match state::load_region_state(view.as_ref(), region_id) {
            Ok(Some(RegionLocalState { region: Some(region), .. })) => Arc::new(region),
            _ => {
                tracing::error!(region = region_id, "installed region has no state");
                return;
            }
        };
        let Some(peer) = self.peers.get_mut(&region_id) else { return };
        let mut log = cairn_engine::LogBatch::new();
        peer.on_installed(region.clone(), apply_state.clone(), &mut log);
        self.regions.set_range(&region);
        if let Err(error) = self.engines.log.write(log, true) {
            tracing::error!(region = region_id, %error, "raft log");
            return;
        }
        let rest = peer.advance();
        peer.after_install();
        peer.set_damaged(false);
        if is_joint(&region) {
            self.joint.insert(region_id);
        }
        peer.size = RegionSize::default();
        peer.merging.state = None;
        let peer_id = peer.peer_id;
        let register = ApplyTask::Register { peer_id, region, state: apply_state, merge: None };
        self.outbox.apply.push(register);
        add(&self.metrics.snapshots_applied, 1);
        self.finish_absorbed(region_id);
        self.take_effects(region_id, rest);
        self.dirty.insert(region_id);
    }

    /// Installs Raft snapshots anew that met a full disk a while ago.
    pub(super) fn retry_installs(&mut self, now: MonotonicTime) {
        let due = self.failed_installs.iter().filter(|(_, (retry_at, _))| *retry_at <= now);
        let due: Vec<u64> = due.map(|(region_id, _)| *region_id).collect();
        for region_id in due {
            let Some((_, mut installation)) = self.failed_installs.remove(&region_id) else {
                continue;
            };
            // What could not be read may have been found damaged since.
            installation.is_damaged |= self.peers.get(&region_id).is_some_and(Peer::is_damaged);
            self.outbox.background.push(BackgroundJob::Install(installation));
        }
    }

    /// Removes the peer if its region goes on without it.
    pub(super) fn destroy_if_removed(&mut self, region_id: u64) {
        let Some(peer) = self.peers.get(&region_id) else { return };
        let region = peer.region();
        if !region.peers.is_empty() && find_peer(region, peer.peer_id).is_none() {
            let epoch = epoch_of(region);
            tracing::info!(region = region_id, peer = peer.peer_id, "peer was removed");
            self.destroy(region_id, epoch, None);
        }
    }

    /// Removes a peer, its data and its log; a tombstone stays.
    pub(super) fn destroy(
        &mut self,
        region_id: u64,
        epoch: RegionEpoch,
        merged_into: Option<MergeState>,
    ) {
        let installs = self.peers.get(&region_id).is_some_and(|peer| peer.installing);
        match self.installations.remove(&region_id) {
            Some(waiting) => waiting.data.discard(),
            // The background thread writes its data: the next message tells again.
            None if installs => return,
            None => {}
        }
        let Some(peer) = self.forget_peer(region_id) else { return };
        self.destroying.insert(region_id);
        self.outbox.apply.push(ApplyTask::Destroy {
            peer_id: peer.peer_id,
            region: (**peer.region()).clone(),
            epoch,
            merged_into,
        });
    }

    /// Removes all that the Raft thread keeps of a peer.
    pub(super) fn forget_peer(&mut self, region_id: u64) -> Option<Peer> {
        let mut peer = self.peers.remove(&region_id)?;
        peer.fail_all();
        self.regions.remove(region_id);
        self.regions.remove_range(region_id);
        self.dirty.remove(&region_id);
        self.awake.remove(&region_id);
        self.led.remove(&region_id);
        self.joint.remove(&region_id);
        self.merging.remove(&region_id);
        self.compactions.remove(&region_id);
        self.turns.forget(region_id);
        if let Some(data) = self.received.remove(&region_id) {
            data.discard();
        }
        self.count_peers();
        Some(peer)
    }
}

/// The region with a range that covers the other one's as well.
pub(super) fn hull(region: &meta::Region, other: Option<&meta::Region>) -> meta::Region {
    let mut hull = region.clone();
    if let Some(other) = other {
        hull.start_key = hull.start_key.min(other.start_key.clone());
        hull.end_key = match (hull.end_key.is_empty(), other.end_key.is_empty()) {
            (false, false) => hull.end_key.max(other.end_key.clone()),
            _ => Bytes::new(),
        };
    }
    hull
}

/// Starts an election without waiting for a timeout.
fn campaign(peer: &mut Peer) {
    if let Err(error) = peer.node.campaign() {
        tracing::warn!(region = peer.region_id, %error, "cannot campaign");
    }
}

/// Keys that may split a region, in order and without doubles.
pub(in crate::raftstore) fn clean_split_keys(
    region: &meta::Region,
    mut keys: Vec<Bytes>,
) -> Vec<Bytes> {
    keys.retain(|key| *key > region.start_key && crate::keys::region_contains(region, key));
    keys.sort();
    keys.dedup();
    keys
}
