//! Stores hold about equally many regions.
//!
//! Only healthy regions move: all voters, nobody behind. The new replica votes
//! before the old one goes, so a move never lowers the number of replicas.

use std::cmp::Reverse;

use super::DIFFERENCE_MIN;
use crate::checkers::replica;
use crate::operator::{OpStep, Operator, OperatorKind};
use crate::view::{ClusterView, RegionView};

/// One replica to move, if stores are uneven.
pub fn schedule<'a>(
    cluster: &ClusterView,
    regions: impl Iterator<Item = RegionView<'a>> + Clone,
) -> Option<Operator> {
    let mut sources: Vec<_> = cluster.stores.values().filter(|store| store.is_target()).collect();
    let mut targets = sources.clone();
    sources.sort_by_key(|store| (Reverse(store.region_count), store.id));
    targets.retain(|store| store.incoming_count == 0);
    targets.sort_by_key(|store| (store.region_count, store.id));
    for source in &sources {
        for target in &targets {
            if source.region_count < target.region_count + DIFFERENCE_MIN {
                break;
            }
            let found = regions
                .clone()
                .find_map(|region| relocation(&region, source.id, target.id, cluster));
            if found.is_some() {
                return found;
            }
        }
    }
    None
}

fn relocation(
    region: &RegionView<'_>,
    source: u64,
    target: u64,
    cluster: &ClusterView,
) -> Option<Operator> {
    let moved = region.peer_on(source)?;
    let healthy = region.leader.is_some()
        && region.learners().next().is_none()
        && region.voters().count() == cluster.replicas_max
        && region.voters().all(|peer| region.is_caught_up(peer));
    if !healthy || region.peer_on(target).is_some() || shares_host(region, source, target, cluster)
    {
        return None;
    }
    let mut steps = vec![
        OpStep::AddLearner { store_id: target, peer_id: 0 },
        OpStep::Promote { store_id: target, peer_id: 0 },
    ];
    if region.voters().count() == 1 && region.is_led_by(source) {
        steps.push(OpStep::TransferLeader { store_id: target });
        steps.push(OpStep::Remove { store_id: source, peer_id: moved.id });
    } else {
        steps.extend(replica::removal(moved, region, cluster)?);
    }
    Some(Operator { region_id: region.region.id, kind: OperatorKind::BalanceRegion, steps })
}

/// Whether the target's host already holds another replica of the region.
fn shares_host(region: &RegionView<'_>, source: u64, target: u64, cluster: &ClusterView) -> bool {
    let host = |store: u64| cluster.stores.get(&store).map(|store| store.host.as_str());
    region
        .region
        .peers
        .iter()
        .any(|peer| peer.store_id != source && host(peer.store_id) == host(target))
}
