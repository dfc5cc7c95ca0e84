//! Checkers repair: one region and the cluster in, an operator out.
//!
//! | checker | what it looks for |
//! |---|---|
//! | [`joint`] | membership changes left half done |
//! | [`rule`] | replicas that lack, leave, are too many or stand wrong |
//! | [`split`] | regions across a border of rules |
//! | [`merge`] | small neighbours |
//!
//! The first two look at a region with every heartbeat that brings news of it; the
//! others walk over all regions, slowly.

pub mod joint;
pub mod merge;
pub mod rule;
pub mod split;
#[cfg(test)]
mod tests;

use cairn_proto::meta::StoreState;

use crate::operator::{Operator, Priority};
use crate::view::{ClusterView, RegionView};

/// What a checker made of a region.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// Nothing is wrong.
    Well,
    /// Something is, and nothing can be done now.
    Waits(&'static str),
    /// This is to be done.
    Needs(Operator),
}

/// What the region needs next to be as the rules want it.
pub fn repair(region: &RegionView<'_>, cluster: &ClusterView) -> Verdict {
    if region.leader().is_none() {
        return Verdict::Waits("no leader has reported");
    }
    let verdict = match joint::check(region) {
        Some(operator) => Verdict::Needs(operator),
        None => rule::check(region, cluster),
    };
    match verdict {
        Verdict::Needs(mut operator) if has_no_margin(region, cluster) => {
            operator.priority = operator.priority.max(Priority::Urgent);
            Verdict::Needs(operator)
        }
        verdict => verdict,
    }
}

/// Whether the loss of one more voter would stop the region. A store that is being
/// emptied still votes.
pub fn has_no_margin(region: &RegionView<'_>, cluster: &ClusterView) -> bool {
    let votes = |store_id: u64| {
        let store = cluster.stores.get(&store_id);
        store.is_some_and(|one| matches!(one.state, StoreState::Up | StoreState::Offline))
    };
    let voters = region.voters().count();
    let living = region.voters().filter(|peer| votes(peer.store_id));
    let living = living.filter(|peer| region.silence_s(peer).is_none()).count();
    living < voters && living <= voters / 2 + 1
}
