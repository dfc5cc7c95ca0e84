//! Regions that were made at once (a split table, a bulk load) are spread over the
//! stores, however full those are: each store gets as many of the group's peers and
//! leaders as the others.

use std::collections::BTreeMap;

use cairn_proto::meta::PeerRole;

use crate::checkers::rule::is_isolated;
use crate::operator::builder::{self, Wanted};
use crate::operator::{Operator, OperatorKind};
use crate::placement::fit::{self, isolation_from};
use crate::view::{ClusterView, RegionView, StoreView};

/// What stores have of one group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Group {
    peers: BTreeMap<u64, u64>,
    leaders: BTreeMap<u64, u64>,
}

impl Group {
    fn peers(&self, store_id: u64) -> u64 {
        self.peers.get(&store_id).copied().unwrap_or_default()
    }

    fn leaders(&self, store_id: u64) -> u64 {
        self.leaders.get(&store_id).copied().unwrap_or_default()
    }
}

/// Where the region's peers and leader go; counted in the group. `Ok(None)`: they are
/// well where they are. An error says why it cannot be spread now.
pub fn scatter(
    region: &RegionView<'_>,
    group: &mut Group,
    cluster: &ClusterView,
) -> Result<Option<Operator>, &'static str> {
    if !region.is_healthy() {
        return Err("the region is not healthy");
    }
    let rules = cluster.rules.at(&region.region.start_key);
    let fit = fit::fit(region, rules, cluster);
    if !fit.is_satisfied() {
        return Err("the region is not as its rules want it");
    }
    let mut wanted = Wanted::default();
    for served in &fit.rules {
        for (at, peer) in served.peers.iter().enumerate() {
            // Peers before it have their new places, those behind it their old ones.
            let others = wanted
                .peers
                .keys()
                .chain(served.peers[at + 1..].iter().map(|peer| &peer.store_id))
                .filter_map(|store_id| cluster.stores.get(store_id));
            let old = cluster.stores.get(&peer.store_id).ok_or("a store is gone")?;
            let labels = &served.rule.location_labels;
            let least_apart = isolation_from(old, others.clone(), labels);
            let taken = |store: &StoreView| {
                let used = wanted.peers.contains_key(&store.id);
                let still_used = region.peer_on(store.id).is_some_and(|other| other.id != peer.id);
                used || still_used
            };
            let fits = |store: &&StoreView| {
                store.id == old.id
                    || (store.refuses_replicas(&cluster.config).is_none()
                        && served.rule.allows(&store.labels)
                        && isolation_from(store, others.clone(), labels) >= least_apart
                        && is_isolated(store, others.clone(), served.rule))
            };
            let best = cluster
                .stores
                .values()
                .filter(|store| !taken(store))
                .filter(fits)
                .min_by_key(|store| (group.peers(store.id), store.id != old.id, store.id))
                .ok_or("no store takes a replica")?;
            let role = PeerRole::try_from(peer.role).unwrap_or(PeerRole::Voter);
            wanted.peers.insert(best.id, role);
            *group.peers.entry(best.id).or_default() += 1;
        }
    }
    let leads_now = region.leader().map(|leader| leader.store_id);
    let voters = wanted.peers.iter().filter(|(_, role)| **role == PeerRole::Voter);
    wanted.leader = voters
        .map(|(store_id, _)| *store_id)
        .filter(|store_id| fit::may_lead(*store_id, rules, cluster))
        .min_by_key(|store_id| (group.leaders(*store_id), Some(*store_id) != leads_now, *store_id));
    if let Some(leader) = wanted.leader {
        *group.leaders.entry(leader).or_default() += 1;
    }
    let steps = builder::steps(region, &wanted, cluster)?;
    if steps.is_empty() {
        return Ok(None);
    }
    let operator = Operator::new(region.id(), OperatorKind::Scatter, steps);
    Ok(Some(operator.because("regions made at once are spread")))
}
