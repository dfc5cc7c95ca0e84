//! From the peers a region has to those it shall have: the steps in between.
//!
//! New replicas come as learners and vote once they have caught up. One change of
//! votes is a simple membership change; several are one *exchange* through a joint
//! configuration, so that at no moment fewer failures are survived than before and
//! after. Without `enable-joint-consensus` replicas are promoted one by one, then
//! the old ones go.
//!
//! A leader whose peer stops voting hands over first: to a voter that stays, or, when
//! all go, to a new one that is promoted ahead of the others.

use std::collections::BTreeMap;

use cairn_proto::meta::{Peer, PeerRole};

use super::{At, OpStep};
use crate::placement::fit;
use crate::view::{ClusterView, RegionView};

/// The peers a region shall have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Stores with whether their peer votes.
    pub peers: BTreeMap<u64, PeerRole>,
    /// The store that shall lead; `None`: whoever leads, if its peer goes on voting.
    pub leader: Option<u64>,
}

impl Wanted {
    /// What the region has.
    pub fn of(region: &RegionView<'_>) -> Wanted {
        let peers = region.region.peers.iter().map(|peer| (peer.store_id, peer.role()));
        Wanted { peers: peers.collect(), leader: None }
    }

    /// With a peer on another store.
    pub fn replace(mut self, from: u64, to: u64) -> Wanted {
        if let Some(role) = self.peers.remove(&from) {
            self.peers.insert(to, role);
        }
        self
    }

    /// With one peer more, or with another role.
    pub fn with(mut self, store_id: u64, role: PeerRole) -> Wanted {
        self.peers.insert(store_id, role);
        self
    }

    /// Without the peer on a store.
    pub fn without(mut self, store_id: u64) -> Wanted {
        self.peers.remove(&store_id);
        self
    }

    fn votes(&self, store_id: u64) -> bool {
        self.peers.get(&store_id) == Some(&PeerRole::Voter)
    }
}

/// The voter that best leads next, apart from `from`; one that may, if any.
pub fn heir<'a>(
    region: &RegionView<'a>,
    from: u64,
    cluster: &ClusterView,
    may: impl Fn(&Peer) -> bool,
) -> Option<&'a Peer> {
    let rules = cluster.rules.at(&region.region.start_key);
    let candidates = region.voters().filter(|voter| {
        voter.store_id != from
            && voter.role() == PeerRole::Voter
            && region.is_caught_up(voter)
            && cluster.stores.get(&voter.store_id).is_some_and(|store| store.is_up())
            && may(voter)
    });
    candidates.min_by(|a, b| {
        let refused = |peer: &Peer| !fit::may_lead(peer.store_id, rules, cluster);
        let score =
            |peer: &Peer| cluster.stores.get(&peer.store_id).map_or(0.0, |one| one.leader_score());
        let by_score = score(a).total_cmp(&score(b)).then(a.store_id.cmp(&b.store_id));
        refused(a).cmp(&refused(b)).then(by_score)
    })
}

/// The steps to the wanted peers; none when the region has them. An error says why
/// there is no way now.
pub fn steps(
    region: &RegionView<'_>,
    wanted: &Wanted,
    cluster: &ClusterView,
) -> Result<Vec<OpStep>, &'static str> {
    let leader = region.leader().ok_or("the region has no leader")?;
    if region.is_joint() {
        return Err("a membership change is under way");
    }
    if !wanted.peers.values().any(|role| *role == PeerRole::Voter) {
        return Err("nobody would vote");
    }
    let at = |store: u64| region.peer_on(store).map_or(At::new_on(store), At::of);
    let votes = |store: u64| region.peer_on(store).is_some_and(|one| one.role() == PeerRole::Voter);
    let added = wanted.peers.keys().copied().filter(|store| region.peer_on(*store).is_none());
    let mut steps: Vec<OpStep> = added.map(|store| OpStep::AddLearner(At::new_on(store))).collect();
    let mut promoted: Vec<At> = wanted
        .peers
        .keys()
        .copied()
        .filter(|store| wanted.votes(*store) && !votes(*store))
        .map(at)
        .collect();
    let leaves = |peer: &&Peer| !wanted.votes(peer.store_id);
    let demoted: Vec<At> = region.voters().filter(leaves).map(At::of).collect();
    let mut hand_over = None;
    if !wanted.votes(leader.store_id) {
        let stays = |peer: &Peer| wanted.votes(peer.store_id);
        let named = |peer: &Peer| stays(peer) && Some(peer.store_id) == wanted.leader;
        let heir = heir(region, leader.store_id, cluster, named)
            .or_else(|| heir(region, leader.store_id, cluster, stays));
        match heir {
            Some(heir) => hand_over = Some(heir.store_id),
            None if promoted.is_empty() => return Err("nobody else can lead"),
            None => {
                let named = promoted.iter().position(|at| Some(at.store_id) == wanted.leader);
                let first = promoted.remove(named.unwrap_or(0));
                steps.push(OpStep::Promote(first));
                steps.push(OpStep::TransferLeader { store_id: first.store_id });
            }
        }
    }
    let transfer = hand_over.map(|store_id| OpStep::TransferLeader { store_id });
    let goes = |at: &At| !wanted.peers.contains_key(&at.store_id);
    if cluster.config.enable_joint_consensus && promoted.len() + demoted.len() > 1 {
        steps.extend(transfer);
        steps.push(OpStep::Exchange { promoted, demoted: demoted.clone() });
    } else {
        steps.extend(promoted.into_iter().map(OpStep::Promote));
        steps.extend(transfer);
        steps.extend(demoted.iter().filter(|at| !goes(at)).copied().map(OpStep::Demote));
    }
    let removed = region.region.peers.iter().map(At::of).filter(goes);
    steps.extend(removed.map(OpStep::Remove));
    let leads_at_the_end = steps.iter().rev().find_map(|step| match step {
        OpStep::TransferLeader { store_id } => Some(*store_id),
        _ => None,
    });
    if let Some(store_id) = wanted.leader
        && wanted.votes(store_id)
        && leads_at_the_end.unwrap_or(leader.store_id) != store_id
    {
        steps.push(OpStep::TransferLeader { store_id });
    }
    Ok(steps)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Situation;

    fn told(joint: bool, peers: &str, wanted: &[(u64, PeerRole)], leader: Option<u64>) -> String {
        let mut situation = Situation::new();
        situation.cluster.config.enable_joint_consensus = joint;
        for id in 1..=6 {
            situation.add_store(id);
        }
        situation.add_region(1, peers).expect("well told");
        let wanted = Wanted { peers: wanted.iter().copied().collect(), leader };
        match steps(&situation.region(1), &wanted, &situation.cluster) {
            Ok(steps) => steps.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
            Err(reason) => reason.to_owned(),
        }
    }

    #[test]
    fn ways_between_peers() {
        use PeerRole::{Learner, Voter};
        let voters = |stores: [u64; 3]| stores.map(|store| (store, Voter));
        assert_eq!(told(true, "1*,2,3", &voters([1, 2, 3]), None), "");
        assert_eq!(
            told(true, "1*,2,3", &voters([1, 2, 4]), None),
            "add learner on store 4, promote [4] and demote [3] at once, remove peer on store 3"
        );
        assert_eq!(
            told(false, "1*,2,3", &voters([1, 2, 4]), None),
            "add learner on store 4, promote learner on store 4, remove peer on store 3"
        );
        // The leader hands over to one that stays, before it stops voting.
        assert_eq!(
            told(true, "1*,2,3", &voters([2, 3, 4]), None),
            "add learner on store 4, transfer leader to store 2, \
             promote [4] and demote [1] at once, remove peer on store 1"
        );
        // All go: one new voter takes the lead ahead of the exchange.
        assert_eq!(
            told(true, "1*,2,3", &voters([4, 5, 6]), Some(5)),
            "add learner on store 4, add learner on store 5, add learner on store 6, \
             promote learner on store 5, transfer leader to store 5, \
             promote [4, 6] and demote [1, 2, 3] at once, \
             remove peer on store 1, remove peer on store 2, remove peer on store 3"
        );
        assert_eq!(
            told(true, "1*", &[(2, Voter)], None),
            "add learner on store 2, promote learner on store 2, transfer leader to store 2, \
             remove peer on store 1"
        );
        assert_eq!(told(true, "1*,2,3", &voters([1, 2, 3]), Some(2)), "transfer leader to store 2");
        assert_eq!(
            told(true, "1*,2,3", &[(1, Voter), (2, Voter), (3, Learner)], None),
            "demote voter on store 3"
        );
        assert_eq!(
            told(true, "1*,2,3,4?", &[(1, Voter), (3, Learner), (2, Learner), (4, Voter)], None),
            "promote [4] and demote [2, 3] at once"
        );
        assert_eq!(told(true, "1*,2~,3~", &[(2, Voter)], None), "nobody else can lead");
        assert_eq!(told(true, "1*,2,3", &[(1, Learner)], None), "nobody would vote");
        assert_eq!(told(true, "1,2,3", &voters([1, 2, 4]), None), "the region has no leader");
        assert_eq!(
            told(true, "1*,2+,3-", &voters([1, 2, 4]), None),
            "a membership change is under way"
        );
    }
}
