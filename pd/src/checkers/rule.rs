//! Every rule has its replicas, in their roles, on stores that stay.
//!
//! In this order, the first that applies:
//!
//! | situation | operator |
//! |---|---|
//! | a rule lacks a replica | add one where it stands furthest from the others |
//! | a replica's store leaves | replace it; a learner that never voted just goes |
//! | a replica has another role | promote, demote, or hand the leadership over |
//! | no rule needs a replica | remove it, once the others are up to date |
//! | replicas could stand further apart | move one |
//!
//! "Leaving" is Down, Offline or unknown, or a peer its leader has not heard from
//! for `max-store-down-time` although its store lives. A Disconnected store is
//! waited for: most come back.

use std::cmp::Reverse;

use cairn_proto::meta::{Peer, PeerRole};

use super::Verdict;
use crate::operator::builder::{self, Wanted, heir};
use crate::operator::{At, OpStep, Operator, OperatorKind};
use crate::placement::fit::{self, RegionFit, RuleFit, isolation_from};
use crate::placement::{Role, Rule};
use crate::view::{ClusterView, RegionView, StoreView};

/// A store that fits has its hands full: it is asked again.
const BUSY: &str = "every store that fits receives enough already";

/// What the region needs next, if anything.
pub fn check(region: &RegionView<'_>, cluster: &ClusterView) -> Verdict {
    let rules = cluster.rules.at(&region.region.start_key);
    let fit = fit::fit(region, rules, cluster);
    let mut waits = None;
    for step in [add_missing, replace_leaving, fix_roles, remove_orphan, isolate] {
        match step(region, &fit, cluster) {
            Verdict::Well => {}
            Verdict::Waits(reason) => waits = waits.or(Some(reason)),
            needs => return needs,
        }
    }
    waits.map_or(Verdict::Well, Verdict::Waits)
}

fn role_of(rule: &Rule) -> PeerRole {
    if rule.role == Role::Learner { PeerRole::Learner } else { PeerRole::Voter }
}

fn needs(
    region: &RegionView<'_>,
    kind: OperatorKind,
    (wanted, reason): (&Wanted, String),
    cluster: &ClusterView,
) -> Verdict {
    match builder::steps(region, wanted, cluster) {
        Ok(steps) => Verdict::Needs(Operator::new(region.id(), kind, steps).because(reason)),
        Err(reason) => Verdict::Waits(reason),
    }
}

fn add_missing(region: &RegionView<'_>, fit: &RegionFit<'_>, cluster: &ClusterView) -> Verdict {
    let mut verdict = Verdict::Well;
    for served in fit.rules.iter().filter(|served| served.peers.len() < served.rule.count) {
        let target = match best_store(region, served, None, cluster) {
            Ok(target) => target,
            Err(reason) => {
                verdict = Verdict::Waits(reason);
                continue;
            }
        };
        let wanted = Wanted::of(region).with(target, role_of(served.rule));
        let reason = format!(
            "rule {} has {} of {} replicas",
            served.rule.name(),
            served.peers.len(),
            served.rule.count
        );
        return needs(region, OperatorKind::AddReplica, (&wanted, reason), cluster);
    }
    verdict
}

fn replace_leaving(region: &RegionView<'_>, fit: &RegionFit<'_>, cluster: &ClusterView) -> Verdict {
    let mut verdict = Verdict::Well;
    for served in &fit.rules {
        let leaves = |peer: &&&Peer| !fit::is_lasting(peer, region, cluster);
        for peer in served.peers.iter().filter(leaves) {
            let reason = leaving_reason(peer, region, cluster);
            if peer.role() == PeerRole::Learner && served.rule.role != Role::Learner {
                let steps = vec![OpStep::Remove(At::of(peer))];
                let operator = Operator::new(region.id(), OperatorKind::RemoveReplica, steps);
                return Verdict::Needs(operator.because(reason));
            }
            match best_store(region, served, Some(peer), cluster) {
                Ok(target) => {
                    let wanted = Wanted::of(region).replace(peer.store_id, target);
                    return needs(region, OperatorKind::ReplaceReplica, (&wanted, reason), cluster);
                }
                Err(reason) => verdict = Verdict::Waits(reason),
            }
        }
    }
    verdict
}

fn leaving_reason(peer: &Peer, region: &RegionView<'_>, cluster: &ClusterView) -> String {
    match cluster.stores.get(&peer.store_id) {
        None => format!("store {} is gone", peer.store_id),
        Some(store) if store.is_leaving() => {
            format!("store {} is {}", store.id, state_name(store))
        }
        Some(store) => {
            let silence_s = region.silence_s(peer).unwrap_or_default();
            format!("the peer on store {} has been silent for {silence_s} s", store.id)
        }
    }
}

/// A store's state as tools show it.
pub fn state_name(store: &StoreView) -> String {
    format!("{:?}", store.state)
}

fn fix_roles(region: &RegionView<'_>, fit: &RegionFit<'_>, cluster: &ClusterView) -> Verdict {
    let rules = cluster.rules.at(&region.region.start_key);
    let mut verdict = Verdict::Well;
    for served in &fit.rules {
        for peer in &served.misplaced {
            let reason = format!("rule {} wants a {}", served.rule.name(), served.rule.role);
            let learns = peer.role() == PeerRole::Learner;
            match served.rule.role {
                Role::Learner => {
                    let wanted = Wanted::of(region).with(peer.store_id, PeerRole::Learner);
                    return needs(region, OperatorKind::FixRole, (&wanted, reason), cluster);
                }
                _ if learns && region.is_caught_up(peer) => {
                    let steps = vec![OpStep::Promote(At::of(peer))];
                    let operator = Operator::new(region.id(), OperatorKind::PromoteLearner, steps);
                    return Verdict::Needs(operator.because(reason));
                }
                _ if learns => verdict = Verdict::Waits("a learner catches up"),
                Role::Leader if region.is_caught_up(peer) && cluster.may_lead(peer.store_id) => {
                    return transfer(region, peer.store_id, reason);
                }
                Role::Leader => verdict = Verdict::Waits("the peer that shall lead cannot yet"),
                Role::Follower => {
                    let may = |one: &Peer| fit::may_lead(one.store_id, rules, cluster);
                    match heir(region, peer.store_id, cluster, may) {
                        Some(heir) => return transfer(region, heir.store_id, reason),
                        None => verdict = Verdict::Waits("nobody else may lead"),
                    }
                }
                Role::Voter => {}
            }
        }
    }
    verdict
}

fn transfer(region: &RegionView<'_>, store_id: u64, reason: String) -> Verdict {
    let steps = vec![OpStep::TransferLeader { store_id }];
    Verdict::Needs(Operator::new(region.id(), OperatorKind::FixRole, steps).because(reason))
}

fn remove_orphan(region: &RegionView<'_>, fit: &RegionFit<'_>, cluster: &ClusterView) -> Verdict {
    let badness = |peer: &&&Peer| {
        let lasting = fit::is_lasting(peer, region, cluster);
        (!lasting, peer.role() == PeerRole::Learner, !region.is_led_by(peer.store_id))
    };
    let Some(orphan) = fit.orphans.iter().max_by_key(|peer| (badness(peer), Reverse(peer.id)))
    else {
        return Verdict::Well;
    };
    let full = fit.rules.iter().all(|served| served.peers.len() == served.rule.count);
    let fresh = |peer: &&Peer| region.is_caught_up(peer) && fit::is_lasting(peer, region, cluster);
    let rests_on_others = fit.rules.iter().flat_map(|served| &served.peers).all(fresh);
    let dead_learner =
        orphan.role() == PeerRole::Learner && !fit::is_lasting(orphan, region, cluster);
    if !(dead_learner || full && rests_on_others) {
        return Verdict::Waits("a spare replica is kept until the others are up to date");
    }
    let wanted = Wanted::of(region).without(orphan.store_id);
    let reason = match fit::is_lasting(orphan, region, cluster) {
        true => "no rule needs the replica".to_owned(),
        false => leaving_reason(orphan, region, cluster),
    };
    needs(region, OperatorKind::RemoveReplica, (&wanted, reason), cluster)
}

fn isolate(region: &RegionView<'_>, fit: &RegionFit<'_>, cluster: &ClusterView) -> Verdict {
    if !region.is_healthy() || !fit.is_satisfied() {
        return Verdict::Well;
    }
    let mut verdict = Verdict::Well;
    for served in fit.rules.iter().filter(|served| !served.rule.location_labels.is_empty()) {
        let labels = &served.rule.location_labels;
        let apart = |peer: &&Peer| {
            let store = cluster.stores.get(&peer.store_id)?;
            Some(isolation_from(store, serving_stores(served, Some(peer), cluster), labels))
        };
        let worst =
            served.peers.iter().copied().min_by_key(|peer| {
                (apart(peer), region.is_led_by(peer.store_id), Reverse(peer.id))
            });
        let Some((worst, before)) = worst.and_then(|peer| Some((peer, apart(&peer)?))) else {
            continue;
        };
        let target = match best_store(region, served, Some(worst), cluster) {
            Ok(target) => target,
            Err(BUSY) => {
                verdict = Verdict::Waits(BUSY);
                continue;
            }
            Err(_) => continue,
        };
        let Some(store) = cluster.stores.get(&target) else { continue };
        let after = isolation_from(store, serving_stores(served, Some(worst), cluster), labels);
        if after > before {
            let wanted = Wanted::of(region).replace(worst.store_id, target);
            let reason = format!("isolation {before} on store {} would be {after}", worst.store_id);
            return needs(region, OperatorKind::Isolate, (&wanted, reason), cluster);
        }
    }
    verdict
}

/// The stores of a rule's peers, without the one that is replaced.
fn serving_stores<'a>(
    served: &'a RuleFit<'_>,
    replaced: Option<&'a Peer>,
    cluster: &'a ClusterView,
) -> impl Iterator<Item = &'a StoreView> + Clone {
    let stays = move |peer: &&&Peer| replaced.is_none_or(|replaced| replaced.id != peer.id);
    served.peers.iter().filter(stays).filter_map(|peer| cluster.stores.get(&peer.store_id))
}

/// Whether a rule that insists on isolation lets a replica stand beside the others.
pub fn is_isolated<'a>(
    store: &StoreView,
    mut others: impl Iterator<Item = &'a StoreView>,
    rule: &Rule,
) -> bool {
    let level = rule.location_labels.iter().position(|label| *label == rule.isolation_level);
    let Some(level) = level else { return true };
    let labels = &rule.location_labels[..=level];
    others.all(|other| {
        labels.iter().any(|label| {
            let value = store.labels.get(label);
            value.is_some() && value != other.labels.get(label)
        })
    })
}

/// The store for a rule's new replica, in the place of `replaced` if one is given:
/// furthest from the others, then the emptiest. A store that is busy is waited for
/// rather than standing worse.
pub fn best_store(
    region: &RegionView<'_>,
    served: &RuleFit<'_>,
    replaced: Option<&Peer>,
    cluster: &ClusterView,
) -> Result<u64, &'static str> {
    let others = serving_stores(served, replaced, cluster);
    let isolation =
        |store: &StoreView| isolation_from(store, others.clone(), &served.rule.location_labels);
    let fits = |store: &&StoreView| {
        region.peer_on(store.id).is_none()
            && store.refuses_replicas(&cluster.config).is_none()
            && served.rule.allows(&store.labels)
            && is_isolated(store, others.clone(), served.rule)
    };
    let candidates = || cluster.stores.values().filter(fits);
    let furthest = candidates().map(isolation).max().ok_or("no store fits the rule")?;
    candidates()
        .filter(|store| isolation(store) == furthest && !store.is_busy_receiving(&cluster.config))
        .min_by(|a, b| a.region_score().total_cmp(&b.region_score()).then(a.id.cmp(&b.id)))
        .map(|store| store.id)
        .ok_or(BUSY)
}
