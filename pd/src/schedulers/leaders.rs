//! Leaders off the stores that shall lead nothing, and onto those that shall lead all.
//!
//! Why a store shall lead nothing ([`StoreView::leads_not`]) is decided elsewhere:
//! somebody said so (`evict-leader`), its disk is slow, it is stopping, or its labels
//! say so. Here its leaders go, whatever balance says.
//!
//! [`StoreView::leads_not`]: crate::view::StoreView::leads_not

use super::Decision;
use crate::index::Regions;
use crate::operator::builder::heir;
use crate::operator::{OpStep, Operator, OperatorKind};
use crate::placement::fit;
use crate::view::ClusterView;

/// One leader to move off a store that shall lead nothing.
pub fn evict(cluster: &ClusterView, regions: &Regions<'_>) -> Decision {
    let mut left = 0;
    for store in cluster.stores.values().filter(|store| store.is_up()) {
        let Some(why) = store.leads_not else { continue };
        left += store.leader_count();
        for region in regions.led_by(store.id) {
            let rules = cluster.rules.at(&region.region.start_key);
            let may = |peer: &cairn_proto::meta::Peer| fit::may_lead(peer.store_id, rules, cluster);
            if region.is_joint() {
                continue;
            }
            if let Some(heir) = heir(&region, store.id, cluster, may) {
                let steps = vec![OpStep::TransferLeader { store_id: heir.store_id }];
                let operator = Operator::new(region.id(), OperatorKind::EvictLeader, steps);
                return operator.because(format!("store {} {why}", store.id)).into();
            }
        }
    }
    Decision::Idle(match left {
        0 => "no store that shall lead nothing leads".to_owned(),
        left => format!("{left} leaders have nowhere to go now"),
    })
}

/// One leader to move onto a store that shall lead everything it can.
pub fn grant(cluster: &ClusterView, regions: &Regions<'_>) -> Decision {
    for store in cluster.stores.values().filter(|store| store.keeps_leaders && store.may_lead()) {
        for region in regions.on(store.id) {
            let Some(leader) = region.leader() else { continue };
            let granted = |id: u64| cluster.stores.get(&id).is_some_and(|one| one.keeps_leaders);
            let rules = cluster.rules.at(&region.region.start_key);
            let ready = region.peer_on(store.id).is_some_and(|peer| {
                peer.role() == cairn_proto::meta::PeerRole::Voter && region.is_caught_up(peer)
            });
            if ready
                && !region.is_joint()
                && !granted(leader.store_id)
                && fit::may_lead(store.id, rules, cluster)
            {
                let steps = vec![OpStep::TransferLeader { store_id: store.id }];
                let operator = Operator::new(region.id(), OperatorKind::GrantLeader, steps);
                return operator.because(format!("store {} shall lead", store.id)).into();
            }
        }
    }
    Decision::Idle("the stores lead all they can".to_owned())
}
