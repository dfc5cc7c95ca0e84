//! A region whose voters are mostly lost for good: those that are left decide.
//!
//! **Flow.** PD names the peer to lead, the voters that are left, and the stores that are
//! gone ([`Peer::force_leader`]). The peer takes the lost members out of Raft's membership in
//! memory and stands for election. Once it leads and has applied everything of earlier
//! terms, it proposes the same membership through the log ([`Peer::propose_forced`]): every
//! peer applies that, the epoch grows, and the region is an ordinary one from then on.
//!
//! **Why the others need no order.** A voter grants its vote to whoever has as much log as
//! itself, and follows whoever leads at a higher term, without a look at the membership. So
//! only the candidate counts differently, and the votes of all that are left are needed as
//! in any election: PD chooses the peer with the most log, nobody else can win, and two of
//! them can never lead in one term.
//!
//! **Invariants**
//! - Nothing is committed but by a majority of the voters that are left; what one of them
//!   had committed before stays, because the leader's log holds it.
//! - What the lost voters alone had is lost; what only the leader had becomes committed,
//!   acknowledged or not.
//! - The smaller membership is in memory only. A crash before the change is committed
//!   leaves the old one, and PD repeats its order.
//! - A leader so made has a lease like any other: the stores that are gone cannot elect
//!   anybody that this region would follow, since PD refuses them and the epoch is past them.

use cairn_proto::{meta, pd};
use raft::eraftpb::{ConfChangeSingle, ConfChangeType, ConfChangeV2};
use raft::{Changer, RawNode};

use super::Peer;
use super::storage::{PeerStorage, conf_state};
use crate::raftstore::apply::Callback;
use crate::raftstore::clock::MonotonicTime;
use crate::raftstore::command::ConfChangeCommand;
use crate::raftstore::state::find_peer;

/// Terms that PD may name beyond the peer's own: more is an error.
const TERM_JUMP_MAX: u64 = 1 << 32;

/// Who is left.
pub(super) struct Forced {
    failed_stores: Vec<u64>,
    voters: Vec<u64>,
}

impl Forced {
    /// The members of the region that are left.
    fn members(&self, region: &meta::Region) -> Vec<meta::Peer> {
        let left = region.peers.iter().filter(|peer| !self.failed_stores.contains(&peer.store_id));
        let role = |peer: &meta::Peer| match self.voters.contains(&peer.id) {
            true => meta::PeerRole::Voter,
            // It has no data, or PD has not heard of it: it gets its vote when it caught up.
            false => meta::PeerRole::Learner,
        };
        left.map(|peer| meta::Peer { role: role(peer).into(), ..*peer }).collect()
    }
}

/// Whether without these stores the region's voters cannot decide, in a joint state by
/// either of its majorities.
fn lacks_majority(region: &meta::Region, failed_stores: &[u64]) -> bool {
    let is_left = |id: &&u64| {
        let peer = find_peer(region, **id);
        peer.is_some_and(|peer| !failed_stores.contains(&peer.store_id))
    };
    let members = conf_state(region);
    [&members.voters, &members.voters_outgoing].into_iter().any(|voters| {
        !voters.is_empty() && voters.iter().filter(is_left).count() <= voters.len() / 2
    })
}

impl Peer {
    /// Stands for election with the votes of those that are left. `Err` says why not (now).
    pub fn force_leader(
        &mut self,
        order: &pd::ForceLeader,
        failed_stores: &[u64],
        now: MonotonicTime,
    ) -> Result<(), &'static str> {
        let region = self.region().clone();
        if order.peer_id != self.peer_id {
            return Err("meant for another peer");
        }
        if !self.node.store().is_initialized() || self.installing {
            return Err("the peer has no data now");
        }
        if !lacks_majority(&region, failed_stores) {
            return Err("its voters can decide");
        }
        if self.is_leader() {
            // A leader of before gives up by itself once it misses its majority.
            return if self.is_forced() { Ok(()) } else { Err("it leads still") };
        }
        let is_lost = |peer: &&meta::Peer| failed_stores.contains(&peer.store_id);
        let leader = find_peer(&region, self.node.raft.leader_id);
        if leader.is_some_and(|leader| !is_lost(&leader)) {
            return Err("another peer leads");
        }
        if self.is_still() {
            return Err("it rests under a leader that is heard");
        }
        let raft = &self.node.raft;
        if raft.raft_log.persisted != raft.raft_log.last_index() {
            return Err("the log is being written");
        }
        if order.term > raft.term.saturating_add(TERM_JUMP_MAX) {
            return Err("the term is out of reach");
        }
        let forced = Forced { failed_stores: failed_stores.to_vec(), voters: order.voters.clone() };
        let members = forced.members(&region);
        let votes = |peer: &meta::Peer| peer.role() == meta::PeerRole::Voter;
        if !members.iter().any(|peer| peer.id == self.peer_id && votes(peer)) {
            return Err("it is not among the voters that are left");
        }
        if order.term > self.term() {
            // Whoever led last was in that term at most: PD must not take this leader's
            // reports for older ones.
            self.node.raft.become_follower(order.term, raft::INVALID_ID);
        }
        set_members(&mut self.node, &members).map_err(|_| "raft refused the membership")?;
        self.forced = Some(Box::new(forced));
        self.check_promise();
        self.node.campaign().map_err(|_| "raft does not campaign")?;
        self.on_role_changed(now);
        tracing::warn!(
            region = self.region_id,
            peer = self.peer_id,
            ?failed_stores,
            "stands for election without the voters that are lost"
        );
        Ok(())
    }

    /// Whether the region is on its way to a membership without those that are lost.
    pub fn is_forced(&self) -> bool {
        self.forced.is_some()
    }

    /// Proposes the membership without those that are lost, once this peer leads and knows
    /// what the region is.
    pub fn propose_forced(&mut self, now: MonotonicTime) {
        let Some(forced) = &self.forced else { return };
        let knows_all =
            self.is_leader() && self.node.store().apply_state().applied_term == self.term();
        if !knows_all
            || self.node.raft.has_pending_conf()
            || self.check_not_merging().is_err()
            || self.merging.is_pending()
        {
            return;
        }
        let region = self.region().clone();
        let members = forced.members(&region);
        if members == region.peers {
            self.forced = None;
            return;
        }
        let change = listed(&region, &members);
        let command =
            ConfChangeCommand { epoch: region.epoch, changes: Vec::new(), forced: members };
        self.put_conf_change(&command, change, Callback::None, now);
    }

    /// Apply changed the members: Raft follows. `None`: they are the region's, whatever they
    /// were before.
    pub fn follow_conf_change(&mut self, change: Option<&ConfChangeV2>) -> raft::Result<()> {
        let region = self.region().clone();
        match (&self.forced, change) {
            // A forced change, of whoever carried it through: its members are the region's.
            (_, None) => {
                self.forced = None;
                set_members(&mut self.node, &region.peers)
            }
            // An entry of before: those that are lost stay out.
            (Some(forced), Some(_)) => set_members(&mut self.node, &forced.members(&region)),
            (None, Some(change)) => self.node.apply_conf_change(change).map(drop),
        }
    }

    /// This peer for a recovery.
    pub fn report(&self) -> pd::PeerReport {
        let raft = &self.node.raft;
        pd::PeerReport {
            region: Some((**self.region()).clone()),
            peer_id: self.peer_id,
            term: raft.term,
            last_term: raft.raft_log.last_term(),
            last_index: raft.raft_log.last_index(),
            commit_index: raft.raft_log.committed,
            applied_index: self.node.store().apply_state().applied_index,
            is_leader: self.is_leader(),
            has_data: self.node.store().is_initialized(),
            is_installing: self.installing,
            is_merging: self.check_not_merging().is_err(),
        }
    }
}

/// What Raft's library is to see of a forced change: it takes no empty one, and what it
/// says is never applied.
fn listed(region: &meta::Region, members: &[meta::Peer]) -> ConfChangeV2 {
    let mut change = ConfChangeV2::default();
    for peer in &region.peers {
        let kind = match members.iter().find(|member| member.id == peer.id).map(meta::Peer::role) {
            Some(meta::PeerRole::Learner) => ConfChangeType::AddLearnerNode,
            Some(_) => ConfChangeType::AddNode,
            None => ConfChangeType::RemoveNode,
        };
        change.changes.push(single(kind, peer.id));
    }
    change
}

fn single(kind: ConfChangeType, peer_id: u64) -> ConfChangeSingle {
    let mut single = ConfChangeSingle { node_id: peer_id, ..ConfChangeSingle::default() };
    single.set_change_type(kind);
    single
}

/// Puts a membership that is not joint in place of whatever Raft has. Nobody acts on what
/// lies between.
fn set_members(node: &mut RawNode<PeerStorage>, members: &[meta::Peer]) -> raft::Result<()> {
    let next_index = node.raft.raft_log.last_index();
    let tracker = node.raft.mut_prs();
    if !tracker.conf().to_conf_state().voters_outgoing.is_empty() {
        let (left, changes) = Changer::new(tracker).leave_joint()?;
        tracker.apply_conf(left, changes, next_index);
    }
    let votes = |peer: &&meta::Peer| peer.role() == meta::PeerRole::Voter;
    let added = members.iter().filter(votes).map(|peer| (ConfChangeType::AddNode, peer.id));
    let learns = members.iter().filter(|peer| !votes(peer));
    let learning = learns.map(|peer| (ConfChangeType::AddLearnerNode, peer.id));
    let mut gone: Vec<u64> = tracker.iter().map(|(id, _)| *id).collect();
    gone.retain(|id| !members.iter().any(|peer| peer.id == *id));
    gone.sort_unstable();
    let removed = gone.into_iter().map(|id| (ConfChangeType::RemoveNode, id));
    // Voters come first: there is one at any moment.
    for (kind, peer_id) in added.chain(learning).chain(removed) {
        let (changed, changes) = Changer::new(tracker).simple(&[single(kind, peer_id)])?;
        tracker.apply_conf(changed, changes, next_index);
    }
    node.raft.post_conf_change();
    Ok(())
}
