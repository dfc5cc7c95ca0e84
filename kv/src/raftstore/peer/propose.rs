//! Proposals: checked, put into the log, and paired with those who wait for them.

use cairn_proto::meta;
use raft::eraftpb::{ConfChangeV2, Entry};

use super::Peer;
use super::storage::conf_state;
use crate::raftstore::RegionContext;
use crate::raftstore::apply::{Callback, CommittedEntries, change_region, raft_change};
use crate::raftstore::clock::{Deadline, MonotonicTime};
use crate::raftstore::command::{self, ConfChangeCommand, PeerChange};
use crate::raftstore::error::RegionError;
use crate::raftstore::ids::{RegionId, epoch_of};
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
        if self.merging.is_pending() {
            // Behind the beginning of a merge nothing fits any more.
            callback.fail(RegionError::MergeInProgress(context.region_id));
            return;
        }
        let is_split = command::is_split(&data);
        if is_split {
            self.log_locks(now);
        }
        let index = self.node.raft.raft_log.last_index() + 1;
        let outcome = self.node.propose(Vec::new(), data);
        if is_split && outcome.is_ok() {
            self.lease.block_until_applied(index);
            self.publish();
        }
        self.after_propose(outcome, index, context.deadline, callback, now);
    }

    /// Puts the locks that only this leader knows into the log: behind what comes next they
    /// would be lost.
    pub(super) fn log_locks(&mut self, now: MonotonicTime) {
        if self.merging.is_pending() || self.check_not_merging().is_err() {
            // Nothing may come behind the beginning of a merge.
            return;
        }
        let version = epoch_of(self.region()).version;
        let Some(batch) = self.delegate.locks.close(self.term(), version, now) else { return };
        let index = self.node.raft.raft_log.last_index() + 1;
        let data = command::encode_write(epoch_of(self.region()), &batch);
        let outcome = self.node.propose(Vec::new(), data);
        self.after_propose(outcome, index, None, Callback::None, now);
    }

    /// Proposes a membership change (no changes: leaving a joint state); `callback` is
    /// answered in any case.
    pub fn propose_conf_change(
        &mut self,
        changes: Vec<PeerChange>,
        callback: Callback,
        now: MonotonicTime,
    ) {
        let command = ConfChangeCommand { epoch: self.region().epoch, changes, forced: Vec::new() };
        if let Err(error) = self.check_conf_change(&command, now) {
            callback.fail(error);
            return;
        }
        let change = raft_change(&command.changes);
        self.put_conf_change(&command, change, callback, now);
    }

    pub(super) fn put_conf_change(
        &mut self,
        command: &ConfChangeCommand,
        change: ConfChangeV2,
        callback: Callback,
        now: MonotonicTime,
    ) {
        let context = prost::Message::encode_to_vec(command);
        let index = self.node.raft.raft_log.last_index() + 1;
        let outcome = self.node.propose_conf_change(context, change);
        self.after_propose(outcome, index, None, callback, now);
    }

    pub(super) fn after_propose(
        &mut self,
        outcome: raft::Result<()>,
        index: u64,
        deadline: Option<Deadline>,
        mut callback: Callback,
        now: MonotonicTime,
    ) {
        match outcome {
            Ok(()) if self.node.raft.raft_log.last_index() == index => {
                self.lease.on_proposed(index, now);
                if self.lease.may_read() {
                    // Behind a split the region is another one, and an heir may overtake the entry.
                    callback.on_proposed();
                }
                let term = self.term();
                self.proposals.push_back(Proposal { index, term, deadline, callback });
            }
            Ok(()) => callback.fail(RegionError::busy("raft took no proposal")),
            Err(error) => callback.fail(self.refusal(&error)),
        }
    }

    /// Why Raft took no proposal: what has a new leader soon is not busy, and nobody should
    /// wait for it as if it were.
    fn refusal(&self, error: &raft::Error) -> RegionError {
        let heir = self.node.raft.lead_transferee.and_then(|id| find_peer(self.region(), id));
        match heir {
            Some(heir) => {
                RegionError::NotLeader { region_id: RegionId(self.region_id), leader: Some(*heir) }
            }
            None => RegionError::busy(format!("raft refused the proposal: {error}")),
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
        self.check_not_merging()
    }

    /// What a membership change must pass before it is proposed: it fits the region, it is
    /// the only one under way, it leaves the leader a voter, and it leaves a majority of
    /// voters that can go on at once.
    fn check_conf_change(
        &self,
        command: &ConfChangeCommand,
        now: MonotonicTime,
    ) -> Result<(), RegionError> {
        if !self.is_leader() {
            return Err(self.not_leader());
        }
        if self.node.raft.has_pending_conf() {
            return Err(RegionError::busy("a membership change is under way"));
        }
        self.check_not_merging()?;
        if self.merging.is_pending() {
            return Err(RegionError::MergeInProgress(RegionId(self.region_id)));
        }
        let region = self.region();
        let Some(after) = change_region(region, command) else {
            return Err(RegionError::EpochNotMatch { current_regions: vec![(**region).clone()] });
        };
        let votes_on = |peer: &meta::Peer| {
            matches!(peer.role(), meta::PeerRole::Voter | meta::PeerRole::DemotingVoter)
        };
        if !find_peer(&after, self.peer_id).is_some_and(votes_on) {
            return Err(RegionError::busy("the leader hands over before it stops voting"));
        }
        if command.changes.is_empty() {
            // Half-way is no place to stay, whoever is healthy.
            return Ok(());
        }
        for peer in command.changes.iter().filter_map(|change| change.peer.as_ref()) {
            let was_learner = find_peer(region, peer.id)
                .is_some_and(|member| member.role() == meta::PeerRole::Learner);
            let votes = find_peer(&after, peer.id)
                .is_some_and(|member| member.role() != meta::PeerRole::Learner);
            if was_learner && votes && !self.is_healthy(peer.id, now) {
                return Err(RegionError::busy("the learner has not caught up"));
            }
        }
        let members = conf_state(&after);
        for voters in [&members.voters, &members.voters_outgoing] {
            let healthy = voters.iter().filter(|id| self.is_healthy(**id, now)).count();
            if !voters.is_empty() && healthy <= voters.len() / 2 {
                return Err(RegionError::busy("no majority of healthy voters would be left"));
            }
        }
        Ok(())
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
