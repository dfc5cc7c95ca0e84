//! Merges, as the Raft thread drives them; the protocol is in [`crate::raftstore::merge`].

use std::collections::BTreeSet;
use std::sync::Arc;

use cairn_proto::{kv, meta};

use super::fate::ASK_FATE_TICKS;
use super::lifecycle::hull;
use super::{BackgroundJob, StoreCore};
use crate::raftstore::apply::{ApplyTask, Callback};
use crate::raftstore::clock::MonotonicTime;
use crate::raftstore::ids::{RegionEpoch, epoch_of};
use crate::raftstore::merge::{has_jumped, target_has_moved_on};
use crate::raftstore::metrics::add;
use crate::raftstore::state::{
    self, MergeState, PeerState, RegionLocalState, find_peer, find_peer_on_store,
};

/// What a source's merge needs next, as far as this store sees.
enum Verdict {
    /// Nothing that this store could do.
    Wait,
    /// The target, led here, can take over.
    Commit,
    /// The target proves that it cannot happen any more.
    Rollback,
}

impl StoreCore {
    /// PD wants the region to be absorbed by its neighbour.
    pub(super) fn begin_merge(
        &mut self,
        region_id: u64,
        target: &meta::Region,
        now: MonotonicTime,
    ) {
        let seen_here = self
            .peers
            .get(&target.id)
            .filter(|peer| peer.node.store().is_initialized() && !peer.installing)
            .filter(|peer| peer.merging.state.is_none())
            .map(|peer| peer.region().clone())
            .filter(|seen| epoch_of(seen) == epoch_of(target));
        let Some(peer) = self.peer_mut(region_id) else { return };
        let outcome = match seen_here {
            Some(target) => peer.propose_prepare_merge(&target, now),
            None => Err("the target is not here as it was seen"),
        };
        if let Err(reason) = outcome {
            tracing::info!(region = region_id, target = target.id, reason, "no merge now");
        }
    }

    /// The region waits to be absorbed from here on.
    pub(super) fn on_prepare_merge(
        &mut self,
        region_id: u64,
        region: meta::Region,
        merge: MergeState,
        callback: Callback,
        now: MonotonicTime,
    ) {
        tracing::info!(region = region_id, target = merge.target_id(), "merge is prepared");
        if let Some(peer) = self.peer_mut(region_id) {
            peer.set_region(Arc::new(region.clone()));
            peer.merging.state = Some(merge);
            peer.last_report = None;
            peer.publish();
            self.merging.insert(region_id);
            self.drive_merge(region_id, now);
        }
        callback.finish(vec![region]);
    }

    /// The region serves again.
    pub(super) fn on_rollback_merge(
        &mut self,
        region_id: u64,
        region: meta::Region,
        callback: Callback,
    ) {
        tracing::info!(region = region_id, "merge is rolled back");
        add(&self.metrics.merges_rolled_back, 1);
        if let Some(peer) = self.peer_mut(region_id) {
            peer.set_region(Arc::new(region.clone()));
            peer.merging.state = None;
            peer.last_report = None;
            peer.publish();
        }
        callback.finish(vec![region]);
    }

    /// The region absorbed another one, of which nothing is left but a tombstone.
    pub(super) fn on_commit_merge(
        &mut self,
        region_id: u64,
        region: meta::Region,
        source_id: u64,
        callback: Callback,
    ) {
        tracing::info!(region = region_id, source = source_id, "regions are merged");
        add(&self.metrics.merges, 1);
        let source_size = self.remove_absorbed(source_id);
        self.log.clean(source_id);
        if let Some(peer) = self.peer_mut(region_id) {
            peer.set_region(Arc::new(region.clone()));
            peer.size.absorb(&source_size);
            peer.last_report = None;
            peer.publish();
            self.regions.set_range(&region);
        }
        callback.finish(vec![region]);
    }

    /// The Raft thread's part of a peer whose region was absorbed.
    fn remove_absorbed(&mut self, region_id: u64) -> crate::raftstore::peer::RegionSize {
        let size = self.peers.get(&region_id).map(|peer| peer.size).unwrap_or_default();
        self.forget_peer(region_id);
        if let Some(installation) = self.installations.remove(&region_id) {
            installation.data.discard();
        }
        size
    }

    /// Brings every merge further that has a source here.
    pub(super) fn drive_merges(&mut self, now: MonotonicTime) {
        for region_id in self.merging.clone() {
            self.drive_merge(region_id, now);
        }
        for region_id in std::mem::take(&mut self.blocked_installs) {
            // Apply has let go of it: its answer starts the installation anew.
            self.outbox.apply.push(ApplyTask::Pause { region_id });
        }
    }

    pub(super) fn drive_merge(&mut self, region_id: u64, now: MonotonicTime) {
        let Some(peer) = self.peers.get(&region_id) else {
            self.merging.remove(&region_id);
            return;
        };
        if let Some(merged) = peer.merging.merged_into.clone() {
            self.bury_if_unneeded(region_id, &merged);
            return;
        }
        let Some(merge) = peer.merging.state.clone() else {
            self.merging.remove(&region_id);
            return;
        };
        match self.judge(&merge) {
            Verdict::Wait => {}
            Verdict::Commit => self.commit_merge(region_id, &merge, now),
            Verdict::Rollback => self.rollback_merge(region_id, now),
        }
    }

    fn judge(&self, merge: &MergeState) -> Verdict {
        let expected = merge.target_epoch();
        if let Some(target) = self.peers.get(&merge.target_id())
            && target.node.store().is_initialized()
        {
            let epoch = epoch_of(target.region());
            let installed = target.node.store().apply_state().installed_epoch.as_ref();
            return if target.installing {
                Verdict::Wait
            } else if epoch == expected {
                if target.is_leader() { Verdict::Commit } else { Verdict::Wait }
            } else if target_has_moved_on(epoch, installed.map(RegionEpoch::from), expected) {
                Verdict::Rollback
            } else {
                Verdict::Wait
            };
        }
        let view = self.engines.kv.snapshot();
        match state::load_region_state(view.as_ref(), merge.target_id()) {
            Ok(Some(buried)) if buried.state() == PeerState::Tombstone => {
                let applied = buried.applied_epoch.as_ref().map(RegionEpoch::from);
                let installed = buried.installed_epoch.as_ref().map(RegionEpoch::from);
                let moved = target_has_moved_on(applied.unwrap_or_default(), installed, expected);
                if moved { Verdict::Rollback } else { Verdict::Wait }
            }
            _ => Verdict::Wait,
        }
    }

    fn commit_merge(&mut self, region_id: u64, merge: &MergeState, now: MonotonicTime) {
        let Some(source) = self.peers.get(&region_id) else { return };
        let source_region = source.region().clone();
        let entries = source.merge_entries(merge);
        let source_leader = find_peer(&source_region, source.node.raft.leader_id).copied();
        let own_store = self.store_id;
        let Some(target) = self.peer_mut(merge.target_id()) else { return };
        let Some(entries) = entries else {
            // A Raft snapshot took the source's peer past them: where its leader is, they are.
            let heir = source_leader
                .filter(|leader| leader.store_id != own_store)
                .and_then(|leader| find_peer_on_store(target.region(), leader.store_id));
            if let Some(heir) = heir.copied() {
                target.transfer_leader(heir.id, now);
            }
            return;
        };
        if let Err(reason) = target.propose_commit_merge(&source_region, merge, entries, now) {
            tracing::debug!(region = region_id, reason, "merge waits");
        }
    }

    pub(super) fn rollback_merge(&mut self, region_id: u64, now: MonotonicTime) {
        let Some(peer) = self.peer_mut(region_id) else { return };
        if peer.is_leader() {
            if let Err(reason) = peer.propose_rollback_merge(now) {
                tracing::debug!(region = region_id, reason, "roll back waits");
            }
            return;
        }
        let leader = find_peer(peer.region(), peer.node.raft.leader_id).copied();
        if let Some(leader) = leader {
            self.notify(region_id, leader, kv::RaftNotice::WantRollback);
        }
    }

    /// Removes a peer of a dead region, unless the target's peer here may still apply the
    /// merge from its log.
    fn bury_if_unneeded(&mut self, region_id: u64, merge: &MergeState) {
        let Some(target) = &merge.target else { return };
        let unneeded = match self.peers.get(&target.id) {
            Some(peer) if peer.node.store().is_initialized() => {
                let installed = peer.node.store().apply_state().installed_epoch.as_ref();
                !peer.installing && has_jumped(installed.map(RegionEpoch::from), epoch_of(target))
            }
            // It waits for its first Raft snapshot, which may be older than the merge.
            Some(_) => false,
            None => {
                let view = self.engines.kv.snapshot();
                let known = state::load_region_state(view.as_ref(), target.id);
                let known = known.ok().flatten();
                if known.is_none() {
                    self.ask_fate_of_absent(region_id, target);
                }
                known.is_some_and(|known| known.state() == PeerState::Tombstone)
            }
        };
        if unneeded {
            tracing::info!(region = region_id, target = target.id, "region was merged elsewhere");
            let epoch = self.peers.get(&region_id).map(|peer| epoch_of(peer.region()));
            self.destroy(region_id, epoch.unwrap_or_default(), Some(merge.clone()));
        }
    }

    /// Regions here that stand in the way of `region_id` taking over a range. Those that
    /// were absorbed by it do not; about the others their former peers are asked.
    pub(super) fn obstructing(
        &mut self,
        region_id: u64,
        start_key: &[u8],
        end_key: &[u8],
    ) -> Vec<u64> {
        let overlapping = self.regions.overlapping(region_id, start_key, end_key);
        let absorbed = self.absorbed_by(region_id, &overlapping);
        let obstructing: Vec<u64> =
            overlapping.into_iter().filter(|id| !absorbed.contains(id)).collect();
        for id in &obstructing {
            self.ask_fate(*id, ASK_FATE_TICKS);
        }
        obstructing
    }

    /// Which of the regions are proven to have been absorbed by the region, directly or
    /// through one another.
    fn absorbed_by(&self, region_id: u64, candidates: &[u64]) -> BTreeSet<u64> {
        let mut absorbed = BTreeSet::new();
        loop {
            let more: Vec<u64> = candidates
                .iter()
                .copied()
                .filter(|id| !absorbed.contains(id))
                .filter(|id| self.is_absorbed_by(*id, region_id, &absorbed))
                .collect();
            if more.is_empty() {
                return absorbed;
            }
            absorbed.extend(more);
        }
    }

    fn is_absorbed_by(&self, id: u64, region_id: u64, absorbed: &BTreeSet<u64>) -> bool {
        let Some(peer) = self.peers.get(&id) else { return false };
        // While the background thread writes its data it is still in the way.
        let at_rest = !peer.installing || self.installations.contains_key(&id);
        let into = peer.merging.merged_into.as_ref();
        let into = into.map_or(0, MergeState::target_id);
        at_rest && (into == region_id || absorbed.contains(&into))
    }

    /// Apply has let go of a region whose Raft snapshot waits: the background thread
    /// installs it, once no living region is in its way.
    pub(super) fn start_install(&mut self, region_id: u64) {
        let Some(waiting) = self.installations.get(&region_id) else { return };
        let (start, end) = (waiting.region.start_key.clone(), waiting.region.end_key.clone());
        let mut reserved = hull(&waiting.region, waiting.old_region.as_ref());
        if !self.obstructing(region_id, &start, &end).is_empty() {
            self.blocked_installs.insert(region_id);
            return;
        }
        let absorbed = self.regions.overlapping(region_id, &start, &end);
        if !absorbed.is_empty() {
            // Apply lets go of these as well, before it answers once more.
            for id in absorbed {
                let Some(tombstone) = self.tombstone_of_absorbed(id) else { continue };
                reserved = hull(&reserved, tombstone.region.as_ref());
                self.remove_absorbed(id);
                self.destroying.insert(id);
                self.outbox.apply.push(ApplyTask::Pause { region_id: id });
                if let Some(installation) = self.installations.get_mut(&region_id) {
                    installation.absorbed.push(tombstone);
                }
            }
            self.regions.set_range(&reserved);
            self.outbox.apply.push(ApplyTask::Pause { region_id });
            return;
        }
        let Some(mut installation) = self.installations.remove(&region_id) else { return };
        // Apply may have changed the range after the snapshot was accepted.
        if let Some(peer) = self.peers.get(&region_id)
            && peer.node.store().is_initialized()
        {
            installation.old_region = Some((**peer.region()).clone());
        }
        // All that the installation clears stays reserved until it is done, however often it must be
        // tried: a region that came to live there meanwhile would be cleared too.
        let absorbed = installation.absorbed.iter().filter_map(|one| one.region.as_ref());
        let cleared = absorbed.chain(&installation.old_region);
        let reserved = cleared.fold(installation.region.clone(), |all, one| hull(&all, Some(one)));
        self.regions.set_range(&reserved);
        let ids = installation.absorbed.iter().filter_map(|one| Some(one.region.as_ref()?.id));
        self.absorbing.insert(region_id, ids.collect());
        self.outbox.background.push(BackgroundJob::Install(Box::new(installation)));
    }

    fn tombstone_of_absorbed(&self, region_id: u64) -> Option<RegionLocalState> {
        let peer = self.peers.get(&region_id)?;
        Some(RegionLocalState {
            region: Some((**peer.region()).clone()),
            state: PeerState::Tombstone.into(),
            peer_id: peer.peer_id,
            merge: None,
            merged_into: peer.merging.merged_into.clone(),
            applied_epoch: peer.region().epoch,
            installed_epoch: peer.node.store().apply_state().installed_epoch,
        })
    }

    /// A Raft snapshot is installed: the peers it replaced are gone for good.
    pub(super) fn finish_absorbed(&mut self, region_id: u64) {
        for id in self.absorbing.remove(&region_id).unwrap_or_default() {
            self.destroying.remove(&id);
            self.log.clean(id);
        }
    }
}
