//! How well a region's peers fit its rules: which peer serves which rule.
//!
//! Rules are served in order. For each, every choice among the peers that are left
//! and allowed is weighed; the first difference decides, earlier rules first: more
//! peers, more of them on stores that stay, more with the right role, further apart.
//! What no rule needs is an *orphan*.
//!
//! Isolation counts for every pair of stores 100 to the power of how wide the first
//! label is by which they differ: two zones outweigh any number of racks.

use std::cmp::Ordering;
use std::sync::Arc;

use cairn_proto::meta::{Peer, PeerRole};

use super::{Role, Rule};
use crate::view::{ClusterView, RegionView, StoreView};

/// Choices weighed for one region. Enough for nine peers and three rules; beyond
/// it the best choice so far is kept.
const CHOICES_MAX: usize = 4_096;
/// Weight of one level of labels above the next.
const LEVEL_WEIGHT: u64 = 100;
/// Levels that are told apart; more would overflow.
const LEVELS_MAX: usize = 8;

/// The peers that serve one rule.
#[derive(Clone, Debug)]
pub struct RuleFit<'a> {
    /// The rule.
    pub rule: &'a Rule,
    /// Who serves it.
    pub peers: Vec<&'a Peer>,
    /// Those of them whose role is another than the rule's.
    pub misplaced: Vec<&'a Peer>,
    healthy: usize,
    isolation: u64,
}

/// All of a region's rules with their peers.
#[derive(Clone, Debug, Default)]
pub struct RegionFit<'a> {
    /// In the order of the rules.
    pub rules: Vec<RuleFit<'a>>,
    /// Peers that serve none.
    pub orphans: Vec<&'a Peer>,
}

impl RegionFit<'_> {
    /// Whether every rule has its peers in their roles, and none is left over.
    pub fn is_satisfied(&self) -> bool {
        self.orphans.is_empty()
            && self
                .rules
                .iter()
                .all(|fit| fit.peers.len() == fit.rule.count && fit.misplaced.is_empty())
    }
}

/// Whether a peer can stay: its store does, and its leader hears from it.
pub fn is_lasting(peer: &Peer, region: &RegionView<'_>, cluster: &ClusterView) -> bool {
    let down_s = cluster.config.max_store_down_time.as_secs();
    !cluster.is_leaving(peer.store_id)
        && region.silence_s(peer).is_none_or(|silence_s| silence_s < down_s)
}

/// Whether the peer already does what the rule wants.
fn has_role(peer: &Peer, role: Role, region: &RegionView<'_>) -> bool {
    let votes = peer.role() == PeerRole::Voter;
    let leads = region.is_led_by(peer.store_id);
    match role {
        Role::Leader => votes && leads,
        Role::Voter => votes,
        Role::Follower => votes && !leads,
        Role::Learner => peer.role() == PeerRole::Learner,
    }
}

/// Whether rules and store let a region be led from the store.
pub fn may_lead(store_id: u64, rules: &[Arc<Rule>], cluster: &ClusterView) -> bool {
    let Some(store) = cluster.stores.get(&store_id) else { return false };
    // With a leader rule, only its stores lead.
    let leader_rule = rules.iter().find(|rule| rule.role == Role::Leader);
    let allowed = match leader_rule {
        Some(rule) => rule.allows(&store.labels),
        None => rules.iter().any(|rule| rule.role == Role::Voter && rule.allows(&store.labels)),
    };
    store.may_lead() && allowed
}

/// How far apart two stores stand by the labels: zero when none differs.
pub fn distance(one: &StoreView, other: &StoreView, labels: &[String]) -> u64 {
    let labels = &labels[..labels.len().min(LEVELS_MAX)];
    let differ = |label: &String| one.labels.get(label) != other.labels.get(label);
    let level = labels.iter().position(differ);
    level.map_or(0, |level| LEVEL_WEIGHT.pow((labels.len() - level - 1) as u32))
}

/// How far apart a store stands from others.
pub fn isolation_from<'a>(
    store: &StoreView,
    others: impl Iterator<Item = &'a StoreView>,
    labels: &[String],
) -> u64 {
    others.filter(|other| other.id != store.id).map(|other| distance(store, other, labels)).sum()
}

fn isolation(peers: &[&Peer], rule: &Rule, cluster: &ClusterView) -> u64 {
    let stores: Vec<&StoreView> =
        peers.iter().filter_map(|peer| cluster.stores.get(&peer.store_id)).collect();
    let pairs = stores.iter().enumerate();
    pairs
        .map(|(at, one)| -> u64 {
            let rest = stores[at + 1..].iter();
            rest.map(|other| distance(one, other, &rule.location_labels)).sum()
        })
        .sum()
}

impl RuleFit<'_> {
    fn better(&self, other: &RuleFit<'_>) -> Ordering {
        let key = |fit: &RuleFit<'_>| {
            (fit.peers.len(), fit.healthy, usize::MAX - fit.misplaced.len(), fit.isolation)
        };
        key(self).cmp(&key(other))
    }
}

struct Fitting<'a, 'c> {
    region: RegionView<'a>,
    cluster: &'c ClusterView,
    rules: &'a [Arc<Rule>],
    best: Option<Vec<RuleFit<'a>>>,
    choices_left: usize,
}

/// The best way to serve the rules with the region's peers.
pub fn fit<'a>(
    region: &RegionView<'a>,
    rules: &'a [Arc<Rule>],
    cluster: &ClusterView,
) -> RegionFit<'a> {
    // What is kept when choices are equal stands first: whoever stays, the leader,
    // voters, the emptier store.
    let mut peers: Vec<&'a Peer> = region.region.peers.iter().collect();
    let order = |peer: &&Peer| {
        let learns = peer.role() == PeerRole::Learner;
        (!is_lasting(peer, region, cluster), !region.is_led_by(peer.store_id), learns)
    };
    peers.sort_by(|a, b| {
        let fullness = |peer: &Peer| cluster.region_score(peer.store_id);
        let by_order = order(a).cmp(&order(b));
        by_order.then(fullness(a).total_cmp(&fullness(b))).then(a.id.cmp(&b.id))
    });
    let mut fitting =
        Fitting { region: *region, cluster, rules, best: None, choices_left: CHOICES_MAX };
    fitting.serve(0, &peers, &mut Vec::new());
    let rules = fitting.best.unwrap_or_default();
    let serves =
        |peer: &Peer| rules.iter().any(|fit| fit.peers.iter().any(|one| one.id == peer.id));
    let orphans = peers.into_iter().filter(|peer| !serves(peer)).collect();
    RegionFit { rules, orphans }
}

impl<'a> Fitting<'a, '_> {
    /// Chooses peers for the rules from `at` on.
    fn serve(&mut self, at: usize, left: &[&'a Peer], chosen: &mut Vec<RuleFit<'a>>) {
        let Some(rule) = self.rules.get(at) else {
            self.choices_left = self.choices_left.saturating_sub(1);
            if self.best.as_ref().is_none_or(|best| is_better(chosen, best)) {
                self.best = Some(chosen.clone());
            }
            return;
        };
        let may = |peer: &&&Peer| {
            let store = self.cluster.stores.get(&peer.store_id);
            // A peer on a store nobody knows still serves until it is replaced.
            let allowed = store.is_none_or(|store| rule.allows(&store.labels));
            allowed && (rule.role != Role::Learner || peer.role() == PeerRole::Learner)
        };
        let mut candidates: Vec<&'a Peer> = left.iter().filter(may).copied().collect();
        if candidates.is_empty() && rule.role == Role::Learner {
            // A voter may become the learner, when there is one to spare.
            candidates.extend(left.iter().filter(|peer| {
                self.cluster.stores.get(&peer.store_id).is_some_and(|one| rule.allows(&one.labels))
            }));
        }
        let count = rule.count.min(candidates.len());
        let mut picks: Vec<usize> = (0..count).collect();
        loop {
            if self.choices_left == 0 && self.best.is_some() {
                return;
            }
            let peers: Vec<&'a Peer> = picks.iter().map(|pick| candidates[*pick]).collect();
            let rest: Vec<&'a Peer> = left
                .iter()
                .filter(|peer| !peers.iter().any(|one| one.id == peer.id))
                .copied()
                .collect();
            chosen.push(self.rule_fit(rule, peers));
            self.serve(at + 1, &rest, chosen);
            chosen.pop();
            if !next_combination(&mut picks, candidates.len()) {
                return;
            }
        }
    }

    fn rule_fit(&self, rule: &'a Rule, peers: Vec<&'a Peer>) -> RuleFit<'a> {
        let wrong = |peer: &&&Peer| !has_role(peer, rule.role, &self.region);
        let misplaced = peers.iter().filter(wrong).copied().collect();
        let lasting = |peer: &&&Peer| is_lasting(peer, &self.region, self.cluster);
        let healthy = peers.iter().filter(lasting).count();
        let isolation = isolation(&peers, rule, self.cluster);
        RuleFit { rule, peers, misplaced, healthy, isolation }
    }
}

fn is_better(new: &[RuleFit<'_>], old: &[RuleFit<'_>]) -> bool {
    let orders = new.iter().zip(old).map(|(new, old)| new.better(old));
    orders.into_iter().find(|order| order.is_ne()) == Some(Ordering::Greater)
}

/// The next way to pick, in lexical order.
fn next_combination(picks: &mut [usize], from: usize) -> bool {
    let count = picks.len();
    for at in (0..count).rev() {
        if picks[at] < from - (count - at) {
            picks[at] += 1;
            for next in at + 1..count {
                picks[next] = picks[next - 1] + 1;
            }
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn combinations_are_complete() {
        let mut picks = vec![0, 1];
        let mut seen = vec![picks.clone()];
        while next_combination(&mut picks, 4) {
            seen.push(picks.clone());
        }
        assert_eq!(seen, [[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]]);
        assert!(!next_combination(&mut [], 3));
    }

    #[test]
    fn wider_labels_weigh_more() {
        let store = |id: u64, labels: &[(&str, &str)]| {
            let mut store = StoreView::new(id);
            for (key, value) in labels {
                store.labels.insert((*key).to_owned(), (*value).to_owned());
            }
            store
        };
        let labels = ["zone".to_owned(), "host".to_owned()];
        let a = store(1, &[("zone", "a"), ("host", "1")]);
        let same_zone = store(2, &[("zone", "a"), ("host", "2")]);
        let other_zone = store(3, &[("zone", "b"), ("host", "1")]);
        assert_eq!(distance(&a, &same_zone, &labels), 1);
        assert_eq!(distance(&a, &other_zone, &labels), 100);
        assert_eq!(distance(&a, &a, &labels), 0);
        assert_eq!(distance(&store(4, &[]), &store(5, &[]), &labels), 0);
    }
}
