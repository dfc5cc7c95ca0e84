//! Membership changes: one peer at once, or several through a joint state.
//!
//! One change is *simple*: the old and the new majority always share a peer. Several
//! changes enter a *joint* state, in which decisions need a majority of the old **and** of
//! the new voters (Raft dissertation, section 4.3); an empty change leaves it.
//!
//! ```text
//! voters 1 2 3, learner 4      change: promote 4, demote 3
//! joint:   1 2 voters, 4 incoming, 3 demoting     quorum of (1 2 4) and of (1 2 3)
//! left:    1 2 4 voters, 3 learner
//! ```
//!
//! A *forced* change follows the loss of most voters ([`crate::raftstore::peer::forced`]): it
//! names the members that are left, and ends a joint state.
//!
//! **Invariants**
//! - The roles of a region's peers say whether it is joint; a restart and a Raft snapshot
//!   know no more than those. So a joint change must change the role of a voter, and a
//!   voter is demoted in it, never removed.
//! - `conf_ver` grows by one for every peer whose role changes: on entering and on leaving.

use cairn_proto::meta::{self, PeerRole};
use prost::Message as _;
use raft::eraftpb::{ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2, Entry};

use super::{Applier, ApplyPeer, Callback, Outcome};
use crate::raftstore::command::{ConfChangeCommand, ConfChangeKind, PeerChange};
use crate::raftstore::ids::{RegionEpoch, epoch_of};
use crate::raftstore::peer::storage::conf_state;
use crate::raftstore::state::{self, PeerState, find_peer};

impl Applier {
    pub(super) fn apply_conf_change(
        &mut self,
        peer: &mut ApplyPeer,
        entry: &Entry,
        callback: Callback,
    ) -> Option<Outcome> {
        let command = ConfChangeCommand::decode(entry.context.clone()).ok();
        let applied = command
            .filter(|_| peer.merge.is_none())
            .and_then(|command| Some((change_region(&peer.region, &command)?, command)));
        let Some((region, command)) = applied else {
            callback.fail(peer.epoch_mismatch());
            return None;
        };
        state::put_region_state(&mut self.batch, &region, PeerState::Normal, peer.peer_id);
        peer.set_region(std::sync::Arc::new(region.clone()));
        let change = command.forced.is_empty().then(|| raft_change(&command.changes));
        Some(Outcome::ConfChange { change, region, callback })
    }
}

/// The changes as Raft's library takes them.
pub fn raft_change(changes: &[PeerChange]) -> ConfChangeV2 {
    let mut change = ConfChangeV2::default();
    if changes.len() > 1 {
        // The library leaves a joint state by itself only if the leader that entered it
        // also applies that; the store proposes to leave instead.
        change.set_transition(ConfChangeTransition::Explicit);
    }
    for one in changes {
        let mut single = ConfChangeSingle {
            node_id: one.peer.map_or(0, |peer| peer.id),
            ..ConfChangeSingle::default()
        };
        single.set_change_type(match one.kind() {
            ConfChangeKind::AddVoter => ConfChangeType::AddNode,
            ConfChangeKind::AddLearner => ConfChangeType::AddLearnerNode,
            ConfChangeKind::Remove => ConfChangeType::RemoveNode,
        });
        change.changes.push(single);
    }
    change
}

/// Whether the region is in a joint state.
pub fn is_joint(region: &meta::Region) -> bool {
    region.peers.iter().any(|peer| is_passing(peer.role()))
}

fn is_passing(role: PeerRole) -> bool {
    matches!(role, PeerRole::IncomingVoter | PeerRole::DemotingVoter)
}

/// The region after a membership change; `None` if it does not fit.
pub fn change_region(region: &meta::Region, command: &ConfChangeCommand) -> Option<meta::Region> {
    let epoch = epoch_of(region);
    let seen = command.epoch.as_ref().map(RegionEpoch::from)?;
    if seen.conf_ver != epoch.conf_ver {
        return None;
    }
    if !command.forced.is_empty() {
        return force_members(region, &command.forced);
    }
    let leaves = command.changes.is_empty();
    if leaves != is_joint(region) {
        return None;
    }
    let mut changed = region.clone();
    let mut count = command.changes.len() as u64;
    if leaves {
        count = 0;
        for peer in changed.peers.iter_mut().filter(|peer| is_passing(peer.role())) {
            count += 1;
            peer.set_role(match peer.role() {
                PeerRole::IncomingVoter | PeerRole::Voter => PeerRole::Voter,
                PeerRole::DemotingVoter | PeerRole::Learner => PeerRole::Learner,
            });
        }
    } else {
        let joint = command.changes.len() > 1;
        for (position, change) in command.changes.iter().enumerate() {
            let peer = change.peer.as_ref()?;
            let same_store = |other: &PeerChange| {
                other.peer.is_some_and(|other| other.store_id == peer.store_id)
            };
            if command.changes[..position].iter().any(same_store) {
                return None;
            }
            change_peer(&mut changed, change.kind(), peer, joint)?;
        }
        if joint && !is_joint(&changed) {
            return None;
        }
    }
    if conf_state(&changed).voters.is_empty() {
        return None;
    }
    let new_epoch = RegionEpoch { conf_ver: epoch.conf_ver + count, version: epoch.version };
    changed.epoch = Some(new_epoch.into());
    Some(changed)
}

/// The region with these members and no others; `None` if one of them is none now, if nobody
/// would vote, or if nothing would change.
fn force_members(region: &meta::Region, members: &[meta::Peer]) -> Option<meta::Region> {
    let is_member = |peer: &meta::Peer| {
        let known = find_peer(region, peer.id);
        known.is_some_and(|known| known.store_id == peer.store_id) && !is_passing(peer.role())
    };
    let twice = |at: usize| members[..at].iter().any(|peer| peer.id == members[at].id);
    if !members.iter().all(is_member) || (0..members.len()).any(twice) {
        return None;
    }
    let stays_so = |peer: &&meta::Peer| {
        let new = members.iter().find(|new| new.id == peer.id);
        new.is_some_and(|new| new.role == peer.role)
    };
    let count = region.peers.iter().filter(|peer| !stays_so(peer)).count() as u64;
    let epoch = epoch_of(region);
    let new_epoch = RegionEpoch { conf_ver: epoch.conf_ver + count, version: epoch.version };
    let changed =
        meta::Region { epoch: Some(new_epoch.into()), peers: members.to_vec(), ..region.clone() };
    (count > 0 && !conf_state(&changed).voters.is_empty()).then_some(changed)
}

/// One change; `None` if it does not fit.
fn change_peer(
    region: &mut meta::Region,
    kind: ConfChangeKind,
    peer: &meta::Peer,
    joint: bool,
) -> Option<()> {
    let new_voter = if joint { PeerRole::IncomingVoter } else { PeerRole::Voter };
    let Some(position) = region.peers.iter().position(|one| one.store_id == peer.store_id) else {
        if find_peer(region, peer.id).is_some() || peer.id == 0 {
            return None;
        }
        // A voter begins as a learner: without data it would only cost the majority.
        if kind != ConfChangeKind::AddLearner {
            return None;
        }
        let mut member = *peer;
        member.set_role(PeerRole::Learner);
        region.peers.push(member);
        return Some(());
    };
    let member = &mut region.peers[position];
    if member.id != peer.id {
        return None;
    }
    match (kind, member.role()) {
        (ConfChangeKind::AddVoter, PeerRole::Learner) => member.set_role(new_voter),
        (ConfChangeKind::AddLearner, PeerRole::Voter) if joint => {
            member.set_role(PeerRole::DemotingVoter);
        }
        (ConfChangeKind::AddLearner, PeerRole::Voter) => member.set_role(PeerRole::Learner),
        (ConfChangeKind::Remove, PeerRole::Learner) => drop(region.peers.remove(position)),
        (ConfChangeKind::Remove, PeerRole::Voter) if !joint => {
            region.peers.remove(position);
        }
        _ => return None,
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(peers: &[(u64, PeerRole)]) -> meta::Region {
        let peer = |(id, role): &(u64, PeerRole)| meta::Peer {
            id: *id,
            store_id: *id,
            role: (*role).into(),
        };
        meta::Region {
            id: 1,
            epoch: Some(meta::RegionEpoch { conf_ver: 5, version: 2 }),
            peers: peers.iter().map(peer).collect(),
            ..meta::Region::default()
        }
    }

    fn command(region: &meta::Region, changes: &[(ConfChangeKind, u64)]) -> ConfChangeCommand {
        let change = |(kind, id): &(ConfChangeKind, u64)| PeerChange {
            kind: (*kind).into(),
            peer: Some(meta::Peer { id: *id, store_id: *id, role: 0 }),
        };
        let changes = changes.iter().map(change).collect();
        ConfChangeCommand { epoch: region.epoch, changes, forced: Vec::new() }
    }

    fn roles(region: &meta::Region) -> Vec<(u64, PeerRole)> {
        region.peers.iter().map(|peer| (peer.id, peer.role())).collect()
    }

    use ConfChangeKind::{AddLearner, AddVoter, Remove};
    use PeerRole::{DemotingVoter, IncomingVoter, Learner, Voter};

    #[test]
    fn several_changes_pass_through_a_joint_state() {
        let before = region(&[(1, Voter), (2, Voter), (3, Voter), (4, Learner)]);
        let enter = command(&before, &[(AddVoter, 4), (AddLearner, 3)]);
        let joint = change_region(&before, &enter).unwrap();
        assert_eq!(roles(&joint), [(1, Voter), (2, Voter), (3, DemotingVoter), (4, IncomingVoter)]);
        assert_eq!(epoch_of(&joint).conf_ver, 7);
        let members = conf_state(&joint);
        assert_eq!(members.voters, [1, 2, 4]);
        assert_eq!(members.voters_outgoing, [1, 2, 3]);
        assert_eq!(members.learners_next, [3]);
        assert!(raft_change(&enter.changes).enter_joint() == Some(false));
        assert_eq!(change_region(&joint, &command(&joint, &[(Remove, 3)])), None);

        let leave = command(&joint, &[]);
        assert!(raft_change(&leave.changes).leave_joint());
        let after = change_region(&joint, &leave).unwrap();
        assert_eq!(roles(&after), [(1, Voter), (2, Voter), (3, Learner), (4, Voter)]);
        assert_eq!(epoch_of(&after).conf_ver, 9);
        assert_eq!(change_region(&after, &command(&after, &[])), None, "it is left only once");
    }

    #[test]
    fn one_change_is_simple() {
        let before = region(&[(1, Voter), (2, Voter), (3, Learner)]);
        let after = |changes: &[(ConfChangeKind, u64)]| {
            change_region(&before, &command(&before, changes)).map(|region| roles(&region))
        };
        assert_eq!(after(&[(AddVoter, 3)]).unwrap()[2], (3, Voter));
        assert_eq!(after(&[(AddLearner, 2)]).unwrap()[1], (2, Learner));
        assert_eq!(after(&[(Remove, 2)]).unwrap(), [(1, Voter), (3, Learner)]);
        assert_eq!(after(&[(AddLearner, 4)]).unwrap()[3], (4, Learner));
        assert_eq!(after(&[(AddLearner, 3)]), None);
        assert_eq!(after(&[(AddVoter, 1)]), None);
        assert_eq!(after(&[(Remove, 9)]), None);
        assert_eq!(after(&[(AddVoter, 9)]), None, "it begins as a learner");
    }

    #[test]
    fn forced_members_end_a_joint_state() {
        let joint =
            region(&[(1, Voter), (2, Voter), (3, DemotingVoter), (4, IncomingVoter), (5, Learner)]);
        let forced = |members: &[(u64, PeerRole)]| {
            let command = ConfChangeCommand {
                epoch: joint.epoch,
                changes: Vec::new(),
                forced: region(members).peers,
            };
            change_region(&joint, &command)
        };
        let after = forced(&[(3, Voter), (5, Learner)]).unwrap();
        assert_eq!(roles(&after), [(3, Voter), (5, Learner)]);
        assert_eq!(epoch_of(&after), RegionEpoch { conf_ver: 9, version: 2 });
        assert!(!is_joint(&after));
        assert_eq!(forced(&[(3, Learner)]), None, "nobody would vote");
        assert_eq!(forced(&[(6, Voter)]), None, "it was no member");
        assert_eq!(forced(&[(3, Voter), (3, Voter)]), None, "one peer twice");
        assert_eq!(forced(&[(3, DemotingVoter), (1, Voter)]), None, "joint again");
    }

    #[test]
    fn what_roles_cannot_show_is_refused() {
        let before = region(&[(1, Voter), (2, Voter), (3, Voter)]);
        let after =
            |changes: &[(ConfChangeKind, u64)]| change_region(&before, &command(&before, changes));
        assert_eq!(after(&[(AddLearner, 4), (AddLearner, 5)]), None, "no voter changes");
        assert_eq!(after(&[(AddVoter, 4), (Remove, 3)]), None, "a voter is demoted first");
        assert_eq!(after(&[(AddLearner, 4), (AddVoter, 4)]), None, "one peer twice");
        assert_eq!(
            after(&[(AddLearner, 1), (AddLearner, 2), (AddLearner, 3)]),
            None,
            "nobody would vote"
        );
    }
}
