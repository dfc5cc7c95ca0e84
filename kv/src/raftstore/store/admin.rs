//! Housekeeping of a store: splits by size, PD's wishes, log compaction.
//!
//! Sizes and logs are looked at of regions that are awake; one that rests was looked at
//! before, and its size is again when it is reported.

use bytes::Bytes;
use cairn_kv_client::SPLIT_KEYS_MAX;
use cairn_proto::{meta, pd};

use super::lifecycle::clean_split_keys;
use super::{BackgroundJob, PdEvent, StoreCore};
use crate::raftstore::RegionContext;
use crate::raftstore::apply::Callback;
use crate::raftstore::clock::MonotonicTime;
use crate::raftstore::command::{
    self, CompactLogCommand, ConfChangeKind, PeerChange, SplitCommand, SplitPiece,
};
use crate::raftstore::error::RegionError;
use crate::raftstore::ids::{RegionEpoch, epoch_of};
use crate::raftstore::split::{Counted, MeasureJob, SplitCheck};
use crate::raftstore::state::find_peer;

/// Between looks at sizes and logs, in ticks.
const ADMIN_TICKS: u64 = 10;
/// Between purges of the log's files, in ticks.
const PURGE_TICKS: u64 = 100;
/// Between questions of a learner whether it was removed, in ticks.
const FORSAKEN_TICKS: u64 = 600;

impl StoreCore {
    /// The store is about to stop: other voters take over, so that nobody waits for an
    /// election.
    pub fn hand_over_all(&mut self, now: MonotonicTime) {
        for peer in self.peers.values_mut().filter(|peer| peer.is_leader()) {
            peer.hand_over(now);
            self.dirty.insert(peer.region_id);
        }
    }

    /// Regions led here that have other voters.
    pub fn shared_leaders(&self) -> usize {
        self.peers.values().filter(|peer| peer.is_leader() && !peer.is_only_voter()).count()
    }

    /// What is done now and then; part of a tick.
    pub(super) fn admin_tick(&mut self, now: MonotonicTime) {
        self.report_regions(now);
        self.report_store(now);
        self.tell_failed_snapshots(now);
        if !self.ticks.is_multiple_of(ADMIN_TICKS) {
            return;
        }
        self.ask_for_the_forsaken(now);
        self.check_sizes(now);
        self.repair_damaged(now);
        self.watch_loads(now);
        self.propose_compactions(now);
        if !self.compaction_runs && !self.compactions.is_empty() {
            let indexes = std::mem::take(&mut self.compactions).into_iter().collect();
            self.compaction_runs = true;
            // Not by the apply thread: while a loaded disk syncs, everybody's writes go on.
            self.outbox.background.push(BackgroundJob::SyncWal(indexes));
        }
        if self.ticks.is_multiple_of(PURGE_TICKS) {
            self.outbox.background.push(BackgroundJob::PurgeLog);
        }
    }

    /// Peers that never stand for election ask whether they were removed while they were
    /// away; the others hear of it when they do.
    fn ask_for_the_forsaken(&mut self, now: MonotonicTime) {
        let is_forsaken = |id: &u64| self.peers.get(id).is_some_and(|peer| peer.is_forsaken(now));
        let forsaken: Vec<u64> = self.awake.iter().copied().filter(|id| is_forsaken(id)).collect();
        for region_id in forsaken {
            self.ask_fate(region_id, FORSAKEN_TICKS);
        }
    }

    fn check_sizes(&mut self, now: MonotonicTime) {
        let awake: Vec<u64> = self.awake.iter().copied().collect();
        awake.into_iter().for_each(|region_id| self.check_size(region_id, now));
    }

    /// Has a region measured that is led here, if that is due.
    pub(super) fn check_size(&mut self, region_id: u64, now: MonotonicTime) {
        let limits =
            Counted { bytes: self.config.region_split_bytes, keys: self.config.region_split_keys };
        let Some(peer) = self.peers.get_mut(&region_id).filter(|peer| peer.is_leader()) else {
            return;
        };
        if peer.size.is_due(now) {
            peer.size.checking = true;
            self.outbox.background.push(BackgroundJob::Measure(MeasureJob {
                region: peer.region().clone(),
                counted: peer.size.counted,
                written: peer.size.written,
                limits,
                split_anyway: peer.size.split_wanted,
            }));
        }
    }

    /// Looks whether a region led here has too much to do for one leader. Without
    /// another store to lead a part of it nothing would be won. Resting leaders are looked
    /// at too: reads do not wake them.
    fn watch_loads(&mut self, now: MonotonicTime) {
        let thresholds = self.config.load_split;
        let elapsed = self.config.tick * ADMIN_TICKS as u32;
        let mut splits = Vec::new();
        for region_id in &self.led {
            let Some(peer) = self.peers.get_mut(region_id).filter(|peer| peer.is_leader()) else {
                continue;
            };
            let region = peer.region().clone();
            let key = peer.load_watch.look(&peer.delegate.load, &region, elapsed, thresholds);
            if let Some(key) = key.filter(|_| !peer.is_only_voter()) {
                splits.push((peer.own_context(), (*region).clone(), key));
            }
        }
        for (context, region, key) in splits {
            tracing::info!(region = region.id, at = now.0, "region is split for its load");
            self.outbox.pd.push(PdEvent::AskSplit(context, region, vec![key]));
        }
    }

    /// The background thread measured a region.
    pub(super) fn on_measured(&mut self, check: SplitCheck, now: MonotonicTime) {
        let Some(peer) = self.peers.get_mut(&check.region_id) else { return };
        peer.size.checking = false;
        if epoch_of(peer.region()).version != check.epoch.version {
            return;
        }
        if !peer.size.looked_at {
            // PD has only a guess until then, and hears of it before the region may rest.
            peer.last_report = None;
        }
        peer.size.on_checked(&check, now, &self.config);
        if let Some(split_key) = check.split_key
            && peer.is_leader()
        {
            let region = (**peer.region()).clone();
            self.outbox.pd.push(PdEvent::AskSplit(peer.own_context(), region, vec![split_key]));
        }
    }

    /// Proposes a split with ids that PD gave.
    pub(super) fn propose_split(
        &mut self,
        context: &RegionContext,
        pieces: Vec<SplitPiece>,
        callback: Callback,
        now: MonotonicTime,
    ) {
        let Some(peer) = self.peer_mut(context.region_id.0) else {
            callback.fail(RegionError::RegionNotFound(context.region_id));
            return;
        };
        let split = SplitCommand { epoch: Some(epoch_of(peer.region()).into()), pieces };
        let fits = crate::raftstore::apply::split_regions(peer.region(), &split).is_some();
        let same_members = context.epoch.conf_ver == epoch_of(peer.region()).conf_ver;
        if let Err(error) = peer.check_leader(context, now) {
            callback.fail(error);
        } else if !same_members {
            // PD gave ids for other members.
            let current_regions = vec![(**peer.region()).clone()];
            callback.fail(RegionError::EpochNotMatch { current_regions });
        } else if !fits || split.pieces.len() > SPLIT_KEYS_MAX {
            let key = split.pieces.first().map(|piece| piece.end_key.clone());
            callback.fail(RegionError::KeyNotInRegion {
                key: key.unwrap_or_default(),
                region_id: context.region_id,
            });
        } else {
            peer.propose(context, command::encode_split(&split), callback, now);
        }
    }

    /// Does what PD wants of a region, if PD's picture of it is the present one.
    pub(super) fn take_pd_step(
        &mut self,
        response: pd::RegionHeartbeatResponse,
        now: MonotonicTime,
    ) {
        let Some(peer) = self.peers.get_mut(&response.region_id) else { return };
        let seen = response.epoch.as_ref().map(RegionEpoch::from).unwrap_or_default();
        if !peer.is_leader() || seen != epoch_of(peer.region()) {
            return;
        }
        match response.step {
            Some(pd::region_heartbeat_response::Step::ChangePeer(change)) => {
                self.change_peers(response.region_id, &[change], now);
            }
            Some(pd::region_heartbeat_response::Step::ChangePeerV2(step)) => {
                self.change_peers(response.region_id, &step.changes, now);
            }
            Some(pd::region_heartbeat_response::Step::TransferLeader(transfer)) => {
                // To one that is behind PD asks again.
                if let Some(target) = transfer.peer.filter(|to| peer.could_lead_now(to.id)) {
                    peer.transfer_leader(target.id, now);
                    self.dirty.insert(response.region_id);
                }
            }
            Some(pd::region_heartbeat_response::Step::SplitRegion(split)) => {
                let region = (**peer.region()).clone();
                let keys: Vec<Bytes> = clean_split_keys(&region, split.keys);
                let hot = || peer.load_watch.split_key(&region).map(|key| vec![key]);
                let keys = if keys.is_empty() { hot().unwrap_or_default() } else { keys };
                if keys.is_empty() {
                    peer.size.split_wanted = true;
                } else {
                    self.outbox.pd.push(PdEvent::AskSplit(peer.own_context(), region, keys));
                }
            }
            Some(pd::region_heartbeat_response::Step::Merge(merge)) => {
                if let Some(target) = merge.target {
                    self.begin_merge(response.region_id, &target, now);
                }
            }
            None => {}
        }
    }

    /// Proposes what PD wants of the members. One change that would take the leader's vote
    /// makes it hand over first; PD asks the next leader again.
    fn change_peers(&mut self, region_id: u64, wanted: &[pd::ChangePeer], now: MonotonicTime) {
        let Some(peer) = self.peer_mut(region_id) else { return };
        let mut changes = Vec::with_capacity(wanted.len());
        for change in wanted {
            let Some(target) = change.peer else { return };
            let kind = match change.kind() {
                pd::ChangePeerKind::AddVoter => ConfChangeKind::AddVoter,
                pd::ChangePeerKind::AddLearner => ConfChangeKind::AddLearner,
                pd::ChangePeerKind::Remove => ConfChangeKind::Remove,
            };
            changes.push(PeerChange::new(kind, target));
        }
        match changes.as_slice() {
            // Leaving a joint state needs no order: see `drive_joint`.
            [] => {}
            [one]
                if one.kind() != ConfChangeKind::AddVoter
                    && one.peer.is_some_and(|target| target.id == peer.peer_id) =>
            {
                peer.hand_over(now);
            }
            _ => peer.propose_conf_change(changes, Callback::None, now),
        }
    }

    /// Brings regions in a joint state out of it, once entering it is applied here. A
    /// leader that is being demoted hands over; its successor leaves the state.
    pub(super) fn drive_joint(&mut self, now: MonotonicTime) {
        for region_id in self.joint.clone() {
            let Some(peer) = self.peers.get_mut(&region_id).filter(|peer| peer.is_joint()) else {
                self.joint.remove(&region_id);
                continue;
            };
            // Forced members end the state themselves: the roles of those that are lost say nothing.
            if !peer.is_leader() || peer.is_forced() || peer.node.raft.has_pending_conf() {
                continue;
            }
            let own = find_peer(peer.region(), peer.peer_id).map(meta::Peer::role);
            if own == Some(meta::PeerRole::DemotingVoter) {
                peer.hand_over(now);
            } else {
                peer.propose_conf_change(Vec::new(), Callback::None, now);
            }
            self.dirty.insert(region_id);
        }
    }

    fn propose_compactions(&mut self, now: MonotonicTime) {
        let mut ready = Vec::new();
        for id in &self.awake {
            let Some(peer) = self.peers.get(id) else { continue };
            if let Some((index, term)) = peer.compactable(&self.config) {
                ready.push((peer.region_id, index, term));
            }
        }
        for (region_id, index, term) in ready {
            self.propose_compaction(region_id, index, term, now);
        }
    }

    /// The log's files are held up by this region: drop what is applied.
    pub(super) fn force_compaction(&mut self, region_id: u64, now: MonotonicTime) {
        let Some(peer) = self.peers.get(&region_id).filter(|peer| peer.is_leader()) else {
            return;
        };
        let state = peer.node.store().apply_state();
        if state.applied_index > state.truncated_index {
            let (index, term) = (state.applied_index, state.applied_term);
            self.propose_compaction(region_id, index, term, now);
        }
    }

    fn propose_compaction(&mut self, region_id: u64, index: u64, term: u64, now: MonotonicTime) {
        if let Some(peer) = self.peer_mut(region_id) {
            let context = peer.own_context();
            let command = command::encode_compact_log(&CompactLogCommand { index, term });
            peer.propose(&context, command, Callback::None, now);
        }
    }
}
