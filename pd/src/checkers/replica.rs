//! Every region has its number of replicas, on stores that live.
//!
//! In this order, the first that applies:
//!
//! | situation | operator |
//! |---|---|
//! | a learner on a leaving store | remove it |
//! | a learner that has caught up | promote it |
//! | a learner that has not | wait |
//! | more good voters than wanted | remove one |
//! | enough good voters, and one on a leaving store | remove that one |
//! | too few good voters, and a store without a replica | add there; then remove the bad one |
//!
//! "Leaving" is Down, Offline, Tombstone or unknown. A Disconnected store is
//! waited for: most come back.

use std::cmp::Reverse;

use cairn_proto::meta::Peer;

use crate::operator::{OpStep, Operator, OperatorKind};
use crate::view::{ClusterView, RegionView, StoreView};

/// Learners that may be on their way to one store.
const INCOMING_MAX: usize = 4;

/// What the region needs next, if anything.
pub fn check(region: &RegionView<'_>, cluster: &ClusterView) -> Option<Operator> {
    region.leader?;
    let operator = |kind, steps| Some(Operator { region_id: region.region.id, kind, steps });
    if let Some(learner) = region.learners().next() {
        let Peer { id: peer_id, store_id, .. } = *learner;
        return if cluster.is_leaving(store_id) {
            operator(OperatorKind::RemoveReplica, vec![OpStep::Remove { store_id, peer_id }])
        } else if region.is_caught_up(learner) {
            operator(OperatorKind::PromoteLearner, vec![OpStep::Promote { store_id, peer_id }])
        } else {
            None
        };
    }
    let (bad, good): (Vec<&Peer>, Vec<&Peer>) =
        region.voters().partition(|peer| cluster.is_leaving(peer.store_id));
    if good.len() > cluster.replicas_max {
        let worst = worst_voter(&good, region, cluster)?;
        return operator(OperatorKind::RemoveReplica, removal(worst, region, cluster)?);
    }
    if good.len() >= cluster.replicas_max {
        let steps = removal(bad.first()?, region, cluster)?;
        return operator(OperatorKind::RemoveReplica, steps);
    }
    let store_id = best_store(region, cluster)?;
    let mut steps =
        vec![OpStep::AddLearner { store_id, peer_id: 0 }, OpStep::Promote { store_id, peer_id: 0 }];
    match bad.first() {
        Some(replaced) if good.len() + bad.len() >= cluster.replicas_max => {
            steps.extend(removal(replaced, region, cluster)?);
            operator(OperatorKind::ReplaceReplica, steps)
        }
        _ => operator(OperatorKind::AddReplica, steps),
    }
}

/// The store for a new replica: a host without one, then the fewest regions.
pub fn best_store(region: &RegionView<'_>, cluster: &ClusterView) -> Option<u64> {
    let used_hosts = used_hosts(region, cluster);
    cluster
        .stores
        .values()
        .filter(|store| store.is_target() && store.incoming_count < INCOMING_MAX)
        .filter(|store| region.peer_on(store.id).is_none())
        .min_by_key(|store| {
            (used_hosts.contains(&store.host.as_str()), store.region_count, store.id)
        })
        .map(|store| store.id)
}

fn used_hosts<'a>(region: &RegionView<'_>, cluster: &'a ClusterView) -> Vec<&'a str> {
    let stores = region.region.peers.iter().filter_map(|peer| cluster.stores.get(&peer.store_id));
    stores.filter(|store| !store.is_leaving()).map(|store| store.host.as_str()).collect()
}

/// The voter to give up: one that shares its host, then the fullest store; the
/// leader last.
fn worst_voter<'a>(
    voters: &[&'a Peer],
    region: &RegionView<'_>,
    cluster: &ClusterView,
) -> Option<&'a Peer> {
    let hosts = used_hosts(region, cluster);
    let badness = |peer: &&&Peer| {
        let store = cluster.stores.get(&peer.store_id);
        let shares_host =
            store.is_some_and(|store| hosts.iter().filter(|host| **host == store.host).count() > 1);
        let regions = store.map_or(0, |store: &StoreView| store.region_count);
        (shares_host, !region.is_led_by(peer.store_id), regions, Reverse(peer.id))
    };
    voters.iter().max_by_key(badness).copied()
}

/// The steps that take a voter out; its leadership goes first. `None`: nobody
/// else can lead.
pub fn removal(peer: &Peer, region: &RegionView<'_>, cluster: &ClusterView) -> Option<Vec<OpStep>> {
    let Peer { id: peer_id, store_id, .. } = *peer;
    let remove = OpStep::Remove { store_id, peer_id };
    if !region.is_led_by(store_id) {
        return Some(vec![remove]);
    }
    let heir = region
        .voters()
        .filter(|voter| voter.id != peer.id && region.is_caught_up(voter))
        .filter(|voter| cluster.is_target(voter.store_id))
        .min_by_key(|voter| {
            let leaders = cluster.stores.get(&voter.store_id).map(|store| store.leader_count);
            (leaders, voter.store_id)
        })?;
    Some(vec![OpStep::TransferLeader { store_id: heir.store_id }, remove])
}
