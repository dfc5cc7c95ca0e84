//! Stores are about equally full, for their weight and their free space.
//!
//! Only regions that are as the rules want them move, and never to where they would
//! stand closer together. The new replica is there before the old one goes. Followers
//! move rather than leaders: that costs no hand-over. Hot regions are left to their own
//! scheduler.

use std::cmp::Ordering;

use cairn_proto::meta::Peer;

use super::{Decision, Spread};
use crate::checkers::rule::is_isolated;
use crate::index::Regions;
use crate::operator::builder::{self, Wanted};
use crate::operator::{Operator, OperatorKind};
use crate::placement::fit::{self, RuleFit, isolation_from};
use crate::view::{ClusterView, RegionView, StoreView};

/// Regions looked at for one decision, over all stores.
const TRIES_MAX: usize = 1_024;

/// One replica to move, if stores are uneven.
pub fn schedule(cluster: &ClusterView, regions: &Regions<'_>) -> Decision {
    let spread = Spread::new(cluster, |store| store.is_up(), StoreView::region_score);
    let takes = |store: &StoreView| store.refuses_replicas(&cluster.config).is_none();
    let Some((_, least)) = spread.stores.iter().find(|(store, _)| takes(store)) else {
        return Decision::Idle("no store takes replicas".to_owned());
    };
    let (mut uneven, mut waits) = (false, false);
    // Where nothing can be moved, the next look goes on with other regions.
    let mut tries_left = TRIES_MAX;
    for (source, score) in spread.fullest() {
        if score - least <= spread.tolerance.max(source.region_step(0)) {
            break;
        }
        uneven = true;
        if source.remove_spent {
            waits = true;
            continue;
        }
        // Followers first.
        for led in [false, true] {
            let fits = |region: &RegionView<'_>| {
                region.is_led_by(source.id) == led && !regions.hot.is_hot(region.id())
            };
            let tries = tries_left;
            let tried = |_: &RegionView<'_>| tries_left = tries_left.saturating_sub(1);
            let found = regions
                .on(source.id)
                .filter(fits)
                .take(tries)
                .inspect(tried)
                .find_map(|region| relocation(&region, source, cluster, spread.tolerance));
            if let Some(operator) = found {
                return operator.into();
            }
        }
    }
    Decision::Idle(match (uneven, waits) {
        (false, _) => format!("balanced: {}", spread.told()),
        (true, true) => format!("store limits are spent; {}", spread.told()),
        (true, false) => format!("no replica can be moved; {}", spread.told()),
    })
}

fn relocation(
    region: &RegionView<'_>,
    source: &StoreView,
    cluster: &ClusterView,
    tolerance: f64,
) -> Option<Operator> {
    let moved = region.peer_on(source.id)?;
    if !region.is_healthy() {
        return None;
    }
    let fit = fit::fit(region, cluster.rules.at(&region.region.start_key), cluster);
    if !fit.is_satisfied() {
        return None;
    }
    let served = fit.rules.iter().find(|one| one.peers.iter().any(|peer| peer.id == moved.id))?;
    let bytes = region.weighed_bytes();
    let worth = |target: &StoreView| is_worth_it(source, target, bytes, tolerance);
    let emptier = |a: &StoreView, b: &StoreView| a.region_score().total_cmp(&b.region_score());
    let target = best_target(region, (served, moved), (source, cluster), (worth, emptier))?;
    let wanted = Wanted::of(region).replace(source.id, target.id);
    let steps = builder::steps(region, &wanted, cluster).ok()?;
    let reason = format!(
        "store {} holds {} regions ({:.1}), store {} holds {} ({:.1}); this one counts {:.1}",
        source.id,
        source.region_count(),
        source.region_score(),
        target.id,
        target.region_count(),
        target.region_score(),
        source.region_step(region.weighed_bytes()),
    );
    Some(Operator::new(region.id(), OperatorKind::BalanceRegion, steps).because(reason))
}

/// Whether the move makes the two more alike and leaves their order as it is.
fn is_worth_it(source: &StoreView, target: &StoreView, bytes: u64, tolerance: f64) -> bool {
    let after_source = source.score_of(source.weighed_bytes().saturating_sub(bytes));
    let after_target = target.score_of(target.weighed_bytes() + bytes);
    source.region_score() - target.region_score() > tolerance && after_source >= after_target
}

/// The first store by `order` of those that are `worth` it, may take the replica and
/// stand no closer to the others.
pub fn best_target<'c>(
    region: &RegionView<'_>,
    (served, moved): (&RuleFit<'_>, &Peer),
    (source, cluster): (&StoreView, &'c ClusterView),
    (worth, order): (impl Fn(&StoreView) -> bool, impl Fn(&StoreView, &StoreView) -> Ordering),
) -> Option<&'c StoreView> {
    let stays = |peer: &&&Peer| peer.id != moved.id;
    let others =
        served.peers.iter().filter(stays).filter_map(|peer| cluster.stores.get(&peer.store_id));
    let labels = &served.rule.location_labels;
    let now = isolation_from(source, others.clone(), labels);
    cluster
        .stores
        .values()
        .filter(|store| {
            worth(store)
                && store.refuses_replicas(&cluster.config).is_none()
                && !store.is_busy_receiving(&cluster.config)
                && region.peer_on(store.id).is_none()
                && served.rule.allows(&store.labels)
                && isolation_from(store, others.clone(), labels) >= now
                && is_isolated(store, others.clone(), served.rule)
        })
        .min_by(|a, b| order(a, b).then(a.id.cmp(&b.id)))
}
