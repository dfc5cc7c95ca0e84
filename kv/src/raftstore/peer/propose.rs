//! Proposals: checked, put into the log, and paired with those who wait for them.

use cairn_proto::meta;
use raft::eraftpb::{ConfChange, ConfChangeType, Entry};

use super::Peer;
use crate::raftstore::RegionContext;
use crate::raftstore::apply::{Callback, CommittedEntries};
use crate::raftstore::clock::{Deadline, MonotonicTime};
use crate::raftstore::command;
use crate::raftstore::error::RegionError;
use crate::raftstore::ids::RegionId;
use crate::raftstore::read::check_context;
use crate::raftstore::state::find_peer;

/// A proposal whose entry is in the log and not yet applied.
pub(super) struct Proposal {
    pub(super) index: u64,
    pub(super) term: u64,
    pub(super) deadline: Option<Deadline>,
    pub(super) callback: Callback,
}

impl Peer {
    /// Proposes a command; `callback` is answered in any case.
    pub fn propose(
        &mut self,
        context: &RegionContext,
        data: Vec<u8>,
        callback: Callback,
        now: MonotonicTime,
    ) {
        if let Err(error) = self.check_leader(context, now) {
            callback.fail(error);
            return;
        }
        let index = self.node.raft.raft_log.last_index() + 1;
        let is_split = command::is_split(&data);
        let outcome = self.node.propose(Vec::new(), data);
        if is_split && outcome.is_ok() {
            self.lease.block_until_applied(index);
            self.publish();
        }
        self.after_propose(outcome, index, context.deadline, callback, now);
    }

    /// Proposes a membership change; `callback` is answered in any case.
    pub fn propose_conf_change(
        &mut self,
        kind: command::ConfChangeKind,
        peer: &meta::Peer,
        callback: Callback,
        now: MonotonicTime,
    ) {
        if let Err(error) = self.check_conf_change(kind, peer) {
            callback.fail(error);
            return;
        }
        let mut change = ConfChange { node_id: peer.id, ..ConfChange::default() };
        change.set_change_type(match kind {
            command::ConfChangeKind::AddVoter => ConfChangeType::AddNode,
            command::ConfChangeKind::AddLearner => ConfChangeType::AddLearnerNode,
            command::ConfChangeKind::Remove => ConfChangeType::RemoveNode,
        });
        let context = command::ConfChangeCommand {
            epoch: self.region().epoch,
            kind: kind as i32,
            peer: Some(*peer),
        };
        let context = prost::Message::encode_to_vec(&context);
        let index = self.node.raft.raft_log.last_index() + 1;
        let outcome = self.node.propose_conf_change(context, change);
        self.after_propose(outcome, index, None, callback, now);
    }

    fn after_propose(
        &mut self,
        outcome: raft::Result<()>,
        index: u64,
        deadline: Option<Deadline>,
        callback: Callback,
        now: MonotonicTime,
    ) {
        match outcome {
            Ok(()) if self.node.raft.raft_log.last_index() == index => {
                self.lease.on_proposed(index, now);
                let term = self.term();
                self.proposals.push_back(Proposal { index, term, deadline, callback });
            }
            Ok(()) => callback.fail(RegionError::busy("raft took no proposal")),
            Err(error) => {
                let reason = format!("raft refused the proposal: {error}");
                callback.fail(RegionError::busy(reason));
            }
        }
    }

    /// What every request must pass: leader, term, epoch, deadline.
    pub fn check_leader(
        &self,
        context: &RegionContext,
        now: MonotonicTime,
    ) -> Result<(), RegionError> {
        if context.deadline.is_some_and(|deadline| deadline.has_passed(now)) {
            return Err(RegionError::DeadlineExceeded);
        }
        if !self.is_leader() {
            return Err(self.not_leader());
        }
        check_context(context, self.region(), self.peer_id)?;
        if context.term != 0 && context.term != self.term() {
            return Err(RegionError::StaleCommand);
        }
        Ok(())
    }

    fn check_conf_change(
        &self,
        kind: command::ConfChangeKind,
        peer: &meta::Peer,
    ) -> Result<(), RegionError> {
        if !self.is_leader() {
            return Err(self.not_leader());
        }
        if kind == command::ConfChangeKind::Remove && peer.id == self.peer_id {
            return Err(RegionError::busy("the leader hands over before it is removed"));
        }
        let region = self.region();
        let on_store = region.peers.iter().find(|member| member.store_id == peer.store_id);
        let fits = match (kind, on_store) {
            (command::ConfChangeKind::Remove, Some(member)) => member.id == peer.id,
            (command::ConfChangeKind::Remove, None) => false,
            (command::ConfChangeKind::AddVoter, Some(member)) => {
                member.id == peer.id && member.role() == meta::PeerRole::Learner
            }
            (command::ConfChangeKind::AddLearner, Some(_)) => false,
            (_, None) => find_peer(region, peer.id).is_none() && peer.id != 0,
        };
        if fits {
            Ok(())
        } else {
            Err(RegionError::EpochNotMatch { current_regions: vec![(**region).clone()] })
        }
    }

    /// Who leads, for those who asked the wrong peer.
    pub fn not_leader(&self) -> RegionError {
        let leader = find_peer(self.region(), self.node.raft.leader_id).cloned();
        let leader = leader.filter(|leader| leader.id != self.peer_id);
        RegionError::NotLeader { region_id: RegionId(self.region_id), leader }
    }

    /// Pairs committed entries with the callers who wait for them.
    pub(super) fn push_committed(&mut self, entries: Vec<Entry>, out: &mut Vec<CommittedEntries>) {
        let Some(last) = entries.last() else { return };
        let last_index = last.index;
        let mut callbacks = Vec::new();
        while self.proposals.front().is_some_and(|proposal| proposal.index <= last_index) {
            let Some(proposal) = self.proposals.pop_front() else { break };
            let position = proposal.index.checked_sub(entries[0].index);
            let entry = position.and_then(|position| entries.get(position as usize));
            if entry.is_some_and(|entry| entry.term == proposal.term) {
                callbacks.push((proposal.index, proposal.callback));
            } else {
                proposal.callback.fail(RegionError::StaleCommand);
            }
        }
        out.push(CommittedEntries { region_id: self.region_id, entries, callbacks });
    }
}
