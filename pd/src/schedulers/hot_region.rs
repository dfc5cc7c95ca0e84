//! Hot regions are spread: no store bears much more load than the others.
//!
//! For reads first by requests, then by bytes; for writes first by keys, then by
//! bytes. From the store that bears most, the region whose move leaves the higher of
//! the two stores lowest. Reads move with the leadership where a follower's store has
//! room; otherwise the replica moves. A region that is too hot for any move is cut.

use cairn_proto::meta::PeerRole;

use super::Decision;
use super::balance_region::best_target;
use crate::hot::{HotKind, Load, RegionLoad};
use crate::index::Regions;
use crate::operator::builder::{self, Wanted};
use crate::operator::{OpStep, Operator, OperatorKind};
use crate::placement::fit;
use crate::view::{ClusterView, RegionView, StoreView};

/// A region that was moved or cut is left alone for so long: rates need time to
/// show what came of it.
const REST_MS: u64 = 60_000;
/// A move must lower the peak by at least this part.
const GAIN_MIN: f64 = 0.05;
/// Hot regions of a store that are tried.
const TRIED_MAX: usize = 32;
/// A region is cut when it alone bears this part of its store's load.
const CUT_SHARE: f64 = 0.5;

/// One thing loads are compared by.
struct Dimension {
    name: &'static str,
    of: fn(&Load) -> f64,
}

fn dimensions(kind: HotKind) -> [Dimension; 2] {
    let bytes = Dimension { name: "bytes/s", of: |load| load.bytes };
    match kind {
        HotKind::Read => [Dimension { name: "reads/s", of: |load| load.queries }, bytes],
        HotKind::Write => [Dimension { name: "keys/s", of: |load| load.keys }, bytes],
    }
}

/// One hot region to move or cut, if load is uneven. `leaving`: stores from which a
/// hot region is on its way already.
pub fn schedule(
    cluster: &ClusterView,
    regions: &Regions<'_>,
    leaving: &[u64],
    now_ms: u64,
) -> Decision {
    let mut idle = Vec::new();
    for kind in HotKind::ALL {
        for dimension in dimensions(kind) {
            match balance((kind, &dimension), cluster, regions, (leaving, now_ms)) {
                Decision::Idle(reason) => idle.push(reason),
                found => return found,
            }
        }
    }
    Decision::Idle(idle.join("; "))
}

fn balance(
    (kind, dimension): (HotKind, &Dimension),
    cluster: &ClusterView,
    regions: &Regions<'_>,
    (leaving, now_ms): (&[u64], u64),
) -> Decision {
    let load = |store: &StoreView| (dimension.of)(&regions.hot.store_load(kind, store.id));
    let up = || cluster.stores.values().filter(|store| store.is_up());
    let average = up().map(load).sum::<f64>() / up().count().max(1) as f64;
    let what = format!("{} {}", kind.name(), dimension.name);
    let hottest = up().max_by(|a, b| load(a).total_cmp(&load(b)).then(b.id.cmp(&a.id)));
    let Some(source) = hottest else { return Decision::Idle(format!("{what}: no store is up")) };
    let peak = load(source);
    let told = format!("{what}: store {} bears {peak:.0}, the average is {average:.0}", source.id);
    if peak < 1.0 {
        return Decision::Idle(format!("{what}: none"));
    }
    if peak <= average * (1.0 + cluster.config.hot_balance_tolerance) {
        return Decision::Idle(format!("{told}: even"));
    }
    if leaving.contains(&source.id) {
        return Decision::Idle(format!("{told}: a hot region is leaving it"));
    }
    let rested = |entry: &RegionLoad| {
        entry.acted_ms.is_none_or(|acted_ms| now_ms.saturating_sub(acted_ms) >= REST_MS)
    };
    let hot: Vec<(RegionView<'_>, f64)> = regions
        .hot
        .hottest(kind, dimension.of)
        .into_iter()
        .filter(|(id, entry)| {
            entry.stores.contains(&source.id) && rested(entry) && (regions.is_free)(*id)
        })
        .take(TRIED_MAX)
        .filter_map(|(id, entry)| Some((regions.get(id)?, (dimension.of)(&entry.load))))
        .filter(|(region, _)| region.is_healthy())
        .collect();
    let moves = hot.iter().filter_map(|(region, rate)| {
        let (target, wanted) = best_move(region, (kind, source), cluster, load)?;
        let after = (peak - rate).max(load(target) + rate);
        (after <= peak * (1.0 - GAIN_MIN)).then_some((after, region, rate, target, wanted))
    });
    if let Some((_, region, rate, target, wanted)) = moves.min_by(|a, b| a.0.total_cmp(&b.0))
        && let Ok(steps) = builder::steps(region, &wanted, cluster)
        && !steps.is_empty()
    {
        let reason =
            format!("{told}; store {} bears {:.0}, this region {rate:.0}", target.id, load(target));
        return Operator::new(region.id(), OperatorKind::BalanceHot, steps).because(reason).into();
    }
    // One region makes the peak: half of it may move.
    let too_hot = hot.iter().find(|(region, rate)| {
        let fresh = now_ms.saturating_sub(region.report.range_since_ms) < REST_MS;
        *rate >= peak * CUT_SHARE && up().count() > 1 && !fresh
    });
    match too_hot {
        Some((region, rate)) => {
            let version = region.region.epoch.unwrap_or_default().version;
            let steps = vec![OpStep::Split { keys: Vec::new(), version }];
            let reason = format!("{told}; this region alone {rate:.0}");
            Operator::new(region.id(), OperatorKind::SplitHot, steps).because(reason).into()
        }
        None => Decision::Idle(format!("{told}: no move would help")),
    }
}

/// The store that should bear the region's load instead, and the peers for that.
fn best_move<'c>(
    region: &RegionView<'_>,
    (kind, source): (HotKind, &StoreView),
    cluster: &'c ClusterView,
    load: impl Fn(&StoreView) -> f64,
) -> Option<(&'c StoreView, Wanted)> {
    let rules = cluster.rules.at(&region.region.start_key);
    let now = Wanted::of(region);
    let calmer = |a: &StoreView, b: &StoreView| load(a).total_cmp(&load(b));
    let mut follower = None;
    if kind == HotKind::Read {
        follower = region
            .voters()
            .filter(|peer| peer.role() == PeerRole::Voter && peer.store_id != source.id)
            .filter(|peer| fit::may_lead(peer.store_id, rules, cluster))
            .filter_map(|peer| cluster.stores.get(&peer.store_id))
            .min_by(|a, b| calmer(a, b).then(a.id.cmp(&b.id)));
        // A follower that has room is cheaper than any copy.
        if let Some(store) = follower.filter(|store| load(store) < load(source) * CUT_SHARE) {
            return Some((store, Wanted { leader: Some(store.id), ..now }));
        }
    }
    let fit = fit::fit(region, rules, cluster);
    let moved = region.peer_on(source.id)?;
    let served = fit.rules.iter().find(|one| one.peers.iter().any(|peer| peer.id == moved.id))?;
    let elsewhere = match fit.is_satisfied() {
        true => {
            best_target(region, (served, moved), (source, cluster), (|_: &StoreView| true, calmer))
        }
        false => None,
    };
    match (elsewhere, follower) {
        (Some(store), near) if near.is_none_or(|near| load(store) < load(near)) => {
            let leads = kind == HotKind::Read && fit::may_lead(store.id, rules, cluster);
            let wanted = now.replace(source.id, store.id);
            Some((store, Wanted { leader: leads.then_some(store.id), ..wanted }))
        }
        (_, Some(near)) => Some((near, Wanted { leader: Some(near.id), ..now })),
        _ => None,
    }
}
