//! Stores lead about equally many regions, for their weight.
//!
//! From the stores that lead most, to the follower's store that leads least; and to
//! the stores that lead least, from whoever leads regions they hold. Hot regions are
//! left to their own scheduler: the two would pull at them from both sides.

use super::{Decision, Spread};
use crate::index::Regions;
use crate::operator::{OpStep, Operator, OperatorKind};
use crate::placement::fit;
use crate::view::{ClusterView, RegionView, StoreView};

/// One leader to move, if stores are uneven.
pub fn schedule(cluster: &ClusterView, regions: &Regions<'_>) -> Decision {
    let counts = |store: &&StoreView| store.may_lead();
    let spread = Spread::new(cluster, counts, StoreView::leader_score);
    let Some((_, least)) = spread.stores.first() else {
        return Decision::Idle("no store may lead".to_owned());
    };
    let mut uneven = false;
    for (source, _) in spread.fullest().filter(|(source, _)| !source.keeps_leaders) {
        if !is_worth_it(source, *least, spread.tolerance) {
            break;
        }
        uneven = true;
        let cool = |region: &RegionView<'_>| !regions.hot.is_hot(region.id());
        let moves = regions.led_by(source.id).filter(cool).filter_map(|region| {
            let target = best_follower(&region, source, cluster, spread.tolerance)?;
            Some((target, region))
        });
        let best = moves.min_by(|a, b| a.0.leader_score().total_cmp(&b.0.leader_score()));
        if let Some((target, region)) = best {
            return transfer(&region, source, target).into();
        }
    }
    if !uneven {
        return Decision::Idle(format!("balanced: {}", spread.told()));
    }
    for (target, _) in &spread.stores {
        let cool = |region: &RegionView<'_>| !regions.hot.is_hot(region.id());
        let moves = regions.on(target.id).filter(cool).filter_map(|region| {
            let source = cluster.stores.get(&region.leader()?.store_id)?;
            let best = best_follower(&region, source, cluster, spread.tolerance)?;
            (best.id == target.id && !source.keeps_leaders).then_some((source, region))
        });
        let best = moves.max_by(|a, b| a.0.leader_score().total_cmp(&b.0.leader_score()));
        if let Some((source, region)) = best {
            return transfer(&region, source, target).into();
        }
    }
    Decision::Idle(format!("no leader can be moved; {}", spread.told()))
}

/// Whether a leader less here and one more where the score is `target` is fairer.
fn is_worth_it(source: &StoreView, target: f64, tolerance: f64) -> bool {
    source.leader_score() - target > tolerance.max(source.leader_step())
}

fn best_follower<'c>(
    region: &RegionView<'_>,
    source: &StoreView,
    cluster: &'c ClusterView,
    tolerance: f64,
) -> Option<&'c StoreView> {
    let rules = cluster.rules.at(&region.region.start_key);
    let candidates = region
        .voters()
        .filter(|voter| voter.store_id != source.id && region.is_caught_up(voter))
        .filter(|voter| fit::may_lead(voter.store_id, rules, cluster))
        .filter_map(|voter| cluster.stores.get(&voter.store_id));
    let least = candidates
        .min_by(|a, b| a.leader_score().total_cmp(&b.leader_score()).then(a.id.cmp(&b.id)))?;
    // Both steps must fit into the difference: the order of the two stays.
    let fits =
        source.leader_score() - least.leader_score() >= source.leader_step() + least.leader_step();
    (is_worth_it(source, least.leader_score(), tolerance) && fits && !region.is_joint())
        .then_some(least)
}

fn transfer(region: &RegionView<'_>, source: &StoreView, target: &StoreView) -> Operator {
    let steps = vec![OpStep::TransferLeader { store_id: target.id }];
    Operator::new(region.id(), OperatorKind::BalanceLeader, steps).because(format!(
        "store {} leads {} ({:.1}), store {} leads {} ({:.1})",
        source.id,
        source.leader_count(),
        source.leader_score(),
        target.id,
        target.leader_count(),
        target.leader_score()
    ))
}
