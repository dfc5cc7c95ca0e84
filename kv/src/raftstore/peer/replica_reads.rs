//! Reads from a follower (or learner): the leader says up to where its log is committed, the
//! follower waits until it has applied that, and reads its own data.
//!
//! The leader answers at once while it holds its lease, else after a quorum confirmed it.
//! Either way the index is at least that of every write acknowledged before the read began,
//! so the follower's view is linearizable; which term or leader the follower has meanwhile
//! does not matter, because what is committed stays.
//!
//! A read at a timestamp is announced too: the leader raises the timestamp it has been
//! read at before it looks at its log, and tells which commits under way the read must
//! wait for ([`crate::txn::max_ts`]).
//!
//! Reads of one round share one question. A question that stays without an answer is given
//! up after an election timeout: its callers try elsewhere.
//!
//! Source: Raft dissertation, section 6.4.

use std::collections::VecDeque;

use cairn_proto::{kv, meta};
use cairn_types::sabotage::{Bug, planted};
use prost::Message as _;
use tokio::sync::oneshot;

use super::Peer;
use crate::raftstore::clock::MonotonicTime;
use crate::raftstore::error::RegionError;
use crate::raftstore::ids::RegionId;
use crate::raftstore::read::check_context;
use crate::raftstore::state::find_peer;
use crate::raftstore::{ReadGuard, RegionContext, ReplicaRead, ReplicaView};

/// Questions that may wait for the leader; more reads wait for the next.
const QUESTIONS_MAX: usize = 64;
/// A question is given up after so many ticks.
const PATIENCE_TICKS: u32 = 10;

/// A read from a follower, and who waits for it.
pub struct PendingReplicaRead {
    /// Where the caller thinks the region is.
    pub context: RegionContext,
    /// What is read.
    pub read: ReplicaRead,
    /// The caller.
    pub answer: oneshot::Sender<Result<ReplicaView, RegionError>>,
}

impl PendingReplicaRead {
    /// Answers with an error.
    pub fn fail(self, error: RegionError) {
        // The caller may have gone away.
        let _ = self.answer.send(Err(error));
    }
}

struct Question {
    id: u64,
    ticks: u32,
    /// Set by the answer.
    index: Option<u64>,
    reads: Vec<PendingReplicaRead>,
    pending: Vec<kv::PendingCommits>,
}

/// Reads that wait here for the leader.
#[derive(Default)]
pub(super) struct ReplicaReads {
    unasked: Vec<PendingReplicaRead>,
    asked: VecDeque<Question>,
}

/// A question of a follower that waits for a quorum here.
pub(super) struct RemoteRead {
    from: meta::Peer,
    id: u64,
    pending: Vec<kv::PendingCommits>,
}

impl Peer {
    // ---- followers ----

    /// Queues a read that any peer may answer.
    pub fn replica_read(&mut self, read: PendingReplicaRead, now: MonotonicTime) {
        let late = read.context.deadline.is_some_and(|deadline| deadline.has_passed(now));
        let knows_leader = find_peer(self.region(), self.node.raft.leader_id).is_some();
        if late {
            read.fail(RegionError::DeadlineExceeded);
        } else if let Err(error) = check_context(&read.context, self.region(), self.peer_id) {
            read.fail(error);
        } else if self.installing || self.is_damaged() || !knows_leader {
            let error = self.not_leader();
            read.fail(error);
        } else {
            self.replica_reads.get_or_insert_default().unasked.push(read);
        }
    }

    /// Whether reads wait here that are to be asked for.
    pub fn wants_read_index(&self) -> bool {
        let wants =
            |reads: &ReplicaReads| !reads.unasked.is_empty() && reads.asked.len() < QUESTIONS_MAX;
        self.replica_reads.as_deref().is_some_and(wants)
    }

    /// The question to the leader for all reads that wait; this peer's own leadership
    /// answers by itself.
    pub fn ask_read_index(
        &mut self,
        id: u64,
        guard: Option<&dyn ReadGuard>,
        now: MonotonicTime,
    ) -> Option<kv::RaftMessage> {
        let leader_id = self.node.raft.leader_id;
        let leader = find_peer(self.region(), leader_id).cloned();
        let reads = self.replica_reads.as_deref_mut()?;
        let unasked = std::mem::take(&mut reads.unasked);
        let Some(leader) = leader else {
            let error = self.not_leader();
            unasked.into_iter().for_each(|read| read.fail(error.clone()));
            return None;
        };
        if planted(Bug::FollowersReadUnasked) {
            let pending = unasked.iter().map(|_| kv::PendingCommits::default()).collect();
            reads.asked.push_back(Question {
                id,
                ticks: 0,
                index: Some(0),
                reads: unasked,
                pending,
            });
            return None;
        }
        let claim = |read: &PendingReplicaRead| kv::ReadClaim {
            read_ts: read.read.read_ts,
            start_key: read.read.start.clone(),
            end_key: read.read.end.clone(),
            resolved_locks: read.read.resolved.clone(),
        };
        let claims = unasked.iter().map(claim).collect();
        reads.asked.push_back(Question {
            id,
            ticks: 0,
            index: None,
            reads: unasked,
            pending: Vec::new(),
        });
        let question = kv::ReadIndex { id, claims, ..kv::ReadIndex::default() };
        if leader_id == self.peer_id {
            self.on_read_index_question(&leader, question, guard, now);
            return None;
        }
        Some(self.envelope(leader, question))
    }

    /// The leader answered.
    pub fn on_read_index_answer(&mut self, answer: kv::ReadIndex) {
        let Some(reads) = self.replica_reads.as_deref_mut() else { return };
        let Some(position) = reads.asked.iter().position(|question| question.id == answer.id)
        else {
            return;
        };
        if answer.refused || answer.pending.len() != reads.asked[position].reads.len() {
            if let Some(question) = reads.asked.remove(position) {
                let error = self.not_leader();
                question.reads.into_iter().for_each(|read| read.fail(error.clone()));
            }
            return;
        }
        let question = &mut reads.asked[position];
        question.index = Some(answer.index);
        question.pending = answer.pending;
    }

    /// Reads whose index is applied, each with the commits it must wait for.
    pub fn take_replica_reads(&mut self) -> Vec<(PendingReplicaRead, Vec<kv::LockInfo>)> {
        let Some(reads) = self.replica_reads.as_deref_mut() else { return Vec::new() };
        let applied_index = self.node.store().apply_state().applied_index;
        let mut done = Vec::new();
        reads.asked.retain_mut(|question| {
            let waits = |index| index > applied_index && !planted(Bug::ReadBeforeApply);
            if question.index.is_none_or(waits) {
                return true;
            }
            let pending = std::mem::take(&mut question.pending).into_iter();
            let reads = std::mem::take(&mut question.reads);
            done.extend(reads.into_iter().zip(pending.map(|pending| pending.locks)));
            false
        });
        if reads.asked.is_empty() && reads.unasked.is_empty() {
            self.replica_reads = None;
        }
        done
    }

    /// Checks a read that is about to be answered.
    pub fn check_replica_read(
        &self,
        context: &RegionContext,
        now: MonotonicTime,
    ) -> Result<(), RegionError> {
        if context.deadline.is_some_and(|deadline| deadline.has_passed(now)) {
            return Err(RegionError::DeadlineExceeded);
        }
        if self.installing {
            return Err(self.not_leader());
        }
        check_context(context, self.region(), self.peer_id)?;
        // The target may have taken over elsewhere, and nobody here would know.
        self.check_not_merging()
    }

    /// One tick: gives up what the leader does not answer or nobody waits for.
    pub(super) fn expire_replica_reads(&mut self, now: MonotonicTime) {
        let not_leader = self.not_leader();
        let Some(reads) = self.replica_reads.as_deref_mut() else { return };
        let expired = |read: &mut PendingReplicaRead| {
            read.answer.is_closed()
                || read.context.deadline.is_some_and(|deadline| deadline.has_passed(now))
        };
        let unasked = reads.unasked.extract_if(.., expired);
        unasked.for_each(|read| read.fail(RegionError::DeadlineExceeded));
        reads.asked.retain_mut(|question| {
            question.ticks += 1;
            // Or what the leader said has not been applied by now: the leader can answer at once.
            let given_up = question.ticks > PATIENCE_TICKS;
            if given_up {
                let reads = std::mem::take(&mut question.reads);
                reads.into_iter().for_each(|read| read.fail(not_leader.clone()));
            }
            let abandoned = |read: &PendingReplicaRead| {
                read.answer.is_closed()
                    || read.context.deadline.is_some_and(|deadline| deadline.has_passed(now))
            };
            // A read left out would shift the others against their answers: all or none.
            !given_up && !question.reads.iter().all(abandoned)
        });
    }

    pub(super) fn fail_replica_reads(&mut self) {
        let error = RegionError::RegionNotFound(RegionId(self.region_id));
        if let Some(reads) = self.replica_reads.take() {
            let asked = reads.asked.into_iter().flat_map(|question| question.reads);
            asked.chain(reads.unasked).for_each(|read| read.fail(error.clone()));
        }
    }

    // ---- leaders ----

    /// A follower asks up to where it must have applied.
    pub fn on_read_index_question(
        &mut self,
        from: &meta::Peer,
        question: kv::ReadIndex,
        guard: Option<&dyn ReadGuard>,
        now: MonotonicTime,
    ) {
        let id = question.id;
        if !self.is_leader()
            || !self.node.raft.commit_to_current_term()
            || self.check_not_merging().is_err()
            || find_peer(self.region(), from.id).is_none()
        {
            let refused =
                kv::ReadIndex { id, is_answer: true, refused: true, ..Default::default() };
            self.answer_read_index(*from, refused);
            return;
        }
        // First the timestamps, then the log.
        let enter = |claim: kv::ReadClaim| {
            let read = ReplicaRead {
                read_ts: claim.read_ts,
                start: claim.start_key,
                end: claim.end_key,
                resolved: claim.resolved_locks,
            };
            let locks = guard.map_or_else(Vec::new, |guard| guard.enter(&read));
            kv::PendingCommits { locks }
        };
        let pending: Vec<kv::PendingCommits> = question.claims.into_iter().map(enter).collect();
        let remote = RemoteRead { from: *from, id, pending };
        if self.has_lease(now) {
            let index = self.node.raft.raft_log.committed;
            self.confirm_remote(remote, index);
        } else {
            self.reads.push_remote(remote);
        }
    }

    pub(super) fn confirm_remote(&mut self, remote: RemoteRead, index: u64) {
        let RemoteRead { from, id, pending } = remote;
        let answer =
            kv::ReadIndex { id, is_answer: true, index, pending, ..kv::ReadIndex::default() };
        self.answer_read_index(from, answer);
    }

    fn answer_read_index(&mut self, to: meta::Peer, answer: kv::ReadIndex) {
        if to.id == self.peer_id {
            self.on_read_index_answer(answer);
        } else {
            let message = self.envelope(to, answer);
            self.answers.push(message);
        }
    }

    /// Answers to followers that may leave now.
    pub fn take_answers(&mut self) -> Vec<kv::RaftMessage> {
        std::mem::take(&mut self.answers)
    }

    fn envelope(&self, to: meta::Peer, read_index: kv::ReadIndex) -> kv::RaftMessage {
        kv::RaftMessage {
            region_id: self.region_id,
            from_peer: Some(self.own_peer()),
            to_peer: Some(to),
            epoch: self.region().epoch,
            read_index: read_index.encode_to_vec().into(),
            ..kv::RaftMessage::default()
        }
    }
}
