//! Changes that operators and PD make while everything runs: splits, merges, leaders and
//! replicas that move.

use std::sync::Arc;

use cairn_kv::raftstore::{ConfChangeKind, PeerChange, RaftRouter, RegionId};
use cairn_proto::meta::{self, PeerRole, StoreState};
use cairn_proto::pd;
use cairn_proto::pd::region_heartbeat_response::Step;
use rand::Rng;
use rand::seq::IndexedRandom;
use tokio::time::sleep;

use super::Faults;
use crate::client;
use crate::workload::any_key;
use crate::world::Dice;

/// Stores that must stay when one is emptied: as many as a region has replicas.
const STORES_MIN: usize = 3;

impl Faults {
    pub(super) async fn split(&self) {
        let world = &self.cluster.world;
        let key = any_key(&self.cluster.world, Dice::Faults);
        let client = client::connect(&self.cluster, self.admin);
        let outcome = client.split_regions(vec![key.clone()], super::CHANGE_TIMEOUT).await;
        let outcome = outcome.map(|regions| regions.len()).map_err(|error| error.to_string());
        world.note(format_args!("split at {key:?}: {outcome:?}"));
    }

    /// A region, as PD knows it, and the way to its leader.
    pub(super) fn any_region(&self) -> Option<(meta::Region, meta::Peer, Arc<RaftRouter>)> {
        let key = any_key(&self.cluster.world, Dice::Faults);
        let route = self.cluster.pd_server()?.get_region(&key).ok()?;
        let leader = route.leader?;
        let node = self.cluster.node_of_store(leader.store_id)?;
        Some((route.region, leader, self.cluster.store(node)?.router()?))
    }

    pub(super) fn transfer(&self) {
        let Some((region, _, router)) = self.any_region() else { return };
        let target = self
            .cluster
            .world
            .roll(Dice::Faults, |rng| region.peers.choose(rng).map_or(0, |peer| peer.id));
        // A full mailbox refuses: nothing is moved then.
        let _ = router.transfer_leader(RegionId(region.id), target);
    }

    /// Moves a region into one of its neighbours, if their replicas lie together.
    pub(super) fn merge(&self) {
        let world = &self.cluster.world;
        let Some((source, _, router)) = self.any_region() else { return };
        let Some(server) = self.cluster.pd_server() else { return };
        let neighbours = server.scan_regions(b"", b"", 0).into_iter().filter(|route| {
            let (left, right) = (&route.region, &source);
            (left.end_key == right.start_key && !left.end_key.is_empty())
                || (right.end_key == left.start_key && !right.end_key.is_empty())
        });
        let neighbours: Vec<meta::Region> = neighbours.map(|route| route.region).collect();
        let target = world.roll(Dice::Faults, |rng| neighbours.choose(rng).cloned());
        let Some(target) = target else { return };
        world.note(format_args!("merge {} into {}", source.id, target.id));
        let step = pd::RegionHeartbeatResponse {
            region_id: source.id,
            epoch: source.epoch,
            step: Some(Step::Merge(pd::Merge { target: Some(target) })),
            ..pd::RegionHeartbeatResponse::default()
        };
        // A full mailbox refuses: nothing is merged then.
        let _ = router.take_step(step);
    }

    /// Removes a replica, adds one where there is none, or moves one in a single step.
    pub(super) async fn change_members(&self) {
        let world = &self.cluster.world;
        let Some((region, leader, router)) = self.any_region() else { return };
        let empty: Vec<u64> = self
            .cluster
            .store_ids()
            .into_iter()
            .map(|(id, _)| id)
            .filter(|id| region.peers.iter().all(|peer| peer.store_id != *id))
            .collect();
        let others: Vec<meta::Peer> =
            region.peers.iter().filter(|peer| peer.id != leader.id).copied().collect();
        let region_id = RegionId(region.id);
        let (adds, moves, store_id, other) = world.roll(Dice::Faults, |rng| {
            let (store, other) = (empty.choose(rng).copied(), others.choose(rng).copied());
            (rng.random_bool(0.6), rng.random_bool(0.5), store, other)
        });
        if let Some(store_id) = store_id.filter(|_| adds) {
            let Ok(id) = self.cluster.pd_client(self.admin).alloc_ids(1).await else { return };
            let learner = meta::Peer { id, store_id, role: PeerRole::Learner.into() };
            let change = vec![PeerChange::new(ConfChangeKind::AddLearner, learner)];
            let outcome = router.change_peers(region_id, change).await;
            world.note(format_args!("learner {id} of {region_id}: {}", outcome.is_ok()));
            let Ok(region) = outcome else { return };
            sleep(world.millis(Dice::Faults, 50, 1_000)).await;
            // As PD does: only if the region is still as it was. Somebody may have removed
            // the learner, and the id of a removed peer is never used again.
            let change = |kind: pd::ChangePeerKind, peer| {
                let mut change = pd::ChangePeer { peer: Some(peer), ..Default::default() };
                change.set_kind(kind);
                change
            };
            let voter = meta::Peer { role: PeerRole::Voter.into(), ..learner };
            let mut changes = vec![change(pd::ChangePeerKind::AddVoter, voter)];
            if let Some(other) = other.filter(|_| moves) {
                changes.push(change(pd::ChangePeerKind::Remove, other));
            }
            world.note(format_args!("voter {id} of {region_id}: {} changes", changes.len()));
            // A full mailbox refuses: the learner is PD's to deal with.
            let _ = router.take_step(pd::RegionHeartbeatResponse {
                region_id: region.id,
                epoch: region.epoch,
                step: Some(Step::ChangePeerV2(pd::ChangePeerV2 { changes })),
                ..pd::RegionHeartbeatResponse::default()
            });
        } else if let Some(other) = other.filter(|_| region.peers.len() > 2) {
            let change = vec![PeerChange::new(ConfChangeKind::Remove, other)];
            let outcome = router.change_peers(region_id, change).await;
            world.note(format_args!("remove {} of {region_id}: {}", other.id, outcome.is_ok()));
        }
    }

    /// A store is told to give its regions away, as before it is switched off.
    pub(super) async fn empty_a_store(&self) {
        if self.cluster.store_ids().len() <= STORES_MIN {
            return;
        }
        let pd = self.cluster.pd_client(self.admin);
        let node = self.any_store();
        let store = self.cluster.store_ids().into_iter().find(|(_, at)| *at == node);
        let Some((store_id, _)) = store else { return };
        let Ok(mut store) = pd.get_store(store_id).await else { return };
        store.set_state(StoreState::Offline);
        let outcome = pd.put_store(store).await;
        self.cluster.world.note(format_args!("{node} goes offline: {}", outcome.is_ok()));
    }
}
