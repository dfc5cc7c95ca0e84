//! Stores lead about equally many regions.
//!
//! From the store with the most leaders to the one with the fewest that holds a
//! voter of one of its regions. A move must leave both closer together: counts
//! that differ by one stay.

use std::cmp::Reverse;

use super::DIFFERENCE_MIN;
use crate::operator::{OpStep, Operator, OperatorKind};
use crate::view::{ClusterView, RegionView};

/// One leader to move, if stores are uneven.
pub fn schedule<'a>(
    cluster: &ClusterView,
    regions: impl Iterator<Item = RegionView<'a>> + Clone,
) -> Option<Operator> {
    let mut sources: Vec<_> = cluster.stores.values().filter(|store| store.is_target()).collect();
    let mut targets = sources.clone();
    sources.sort_by_key(|store| (Reverse(store.leader_count), store.id));
    targets.sort_by_key(|store| (store.leader_count, store.id));
    for source in &sources {
        for target in &targets {
            if source.leader_count < target.leader_count + DIFFERENCE_MIN {
                break;
            }
            let movable = regions.clone().find(|region| {
                region.is_led_by(source.id)
                    && region
                        .voters()
                        .any(|peer| peer.store_id == target.id && region.is_caught_up(peer))
            });
            if let Some(region) = movable {
                return Some(Operator {
                    region_id: region.region.id,
                    kind: OperatorKind::BalanceLeader,
                    steps: vec![OpStep::TransferLeader { store_id: target.id }],
                });
            }
        }
    }
    None
}
