//! A peer's part in resting: when a leader asks, what a follower promises, what wakes it.
//!
//! Why this is safe is told in [`crate::raftstore::liveness`].

use std::sync::Arc;

use cairn_proto::{kv, meta};
use raft::eraftpb::{Message, MessageType};
use raft::{ProgressState, StateRole};

use super::Peer;
use crate::raftstore::clock::MonotonicTime;
use crate::raftstore::config::RaftStoreConfig;
use crate::raftstore::liveness::{Grant, RestKey, RestLease};
use crate::raftstore::state::find_peer;

/// Followers have so many ticks to agree.
const ASK_TICKS: u32 = 5;
/// A region whose followers do not agree asks at least this often.
const PATIENCE_TICKS_MAX: u32 = 320;
/// Where a leader stands.
enum Stage {
    Awake,
    Asking(Asking),
    Resting(Arc<RestLease>),
}

struct Asking {
    ticks: u32,
    index: u64,
    agreed: Vec<(u64, Grant)>,
    absent: Vec<u64>,
}

/// No vote and no candidacy against this leader.
struct Promise {
    store_id: u64,
    leader_id: u64,
    term: u64,
    number: u64,
}

/// What a peer remembers for it.
pub(super) struct Rest {
    stage: Stage,
    /// Of this leader, sent with its messages; grows whenever it wakes.
    number: u64,
    idle_ticks: u32,
    patience_ticks: u32,
    /// As of the last tick.
    last_index: u64,
    promise: Option<Promise>,
    /// Term and highest number heard of a leader.
    heard: (u64, u64),
    published: bool,
}

impl Rest {
    pub(super) fn new() -> Rest {
        Rest {
            stage: Stage::Awake,
            number: 1,
            idle_ticks: 0,
            patience_ticks: 0,
            last_index: 0,
            promise: None,
            heard: (0, 0),
            published: false,
        }
    }
}

/// What is known of a member's store when a leader wakes.
#[derive(Clone, Copy)]
pub struct Heard {
    /// When it was heard last.
    pub at: MonotonicTime,
    /// Whether it answers beats.
    pub answers: bool,
}

impl Peer {
    /// Whether nothing here needs a tick.
    pub fn is_quiet(&self) -> bool {
        self.is_resting()
            || (self.rest.promise.is_some()
                && self.reads.is_empty()
                && self.replica_reads.is_none()
                && self.proposals.is_empty())
    }

    /// Whether this leader rests.
    pub fn is_resting(&self) -> bool {
        matches!(self.rest.stage, Stage::Resting(_))
    }

    /// Whether this leader rests on a lease that is valid.
    pub(super) fn has_rest_lease(&self, now: MonotonicTime) -> bool {
        matches!(&self.rest.stage, Stage::Resting(lease) if now < lease.valid_until())
    }

    /// Whether this leader rests on these stores.
    pub fn rests_on(&self, lease: &Arc<RestLease>) -> bool {
        matches!(&self.rest.stage, Stage::Resting(own) if Arc::ptr_eq(own, lease))
    }

    /// Whether this leader rests with a promise of that peer.
    pub(super) fn rests_with(&self, peer_id: u64) -> bool {
        let Stage::Resting(lease) = &self.rest.stage else { return false };
        find_peer(self.region(), peer_id)
            .is_some_and(|peer| !lease.key().absent.contains(&peer.store_id))
    }

    /// Whether this leader or follower stands still.
    pub fn is_still(&self) -> bool {
        self.is_resting() || self.rest.promise.is_some()
    }

    /// The number that a leader's messages carry.
    pub(super) fn rest_number(&self) -> u64 {
        if self.is_leader() { self.rest.number } else { 0 }
    }

    // ---- leaders ----

    /// Counts a tick without traffic; whether followers should be asked to rest now.
    pub fn idle_tick(&mut self, config: &RaftStoreConfig) -> bool {
        let patience = self.rest.patience_ticks.max(config.rest_after_ticks);
        let last_index = self.node.raft.raft_log.last_index();
        let idle = config.rest_after_ticks > 0
            && std::mem::replace(&mut self.rest.last_index, last_index) == last_index
            && self.has_nothing_to_do(config);
        match &mut self.rest.stage {
            Stage::Awake => {
                self.rest.idle_ticks = if idle { self.rest.idle_ticks + 1 } else { 0 };
                idle && self.rest.idle_ticks >= patience
            }
            Stage::Asking(asking) => {
                asking.ticks += 1;
                if !idle || asking.index != last_index {
                    self.give_up_asking(0);
                } else if asking.ticks > ASK_TICKS {
                    self.give_up_asking((patience * 2).min(PATIENCE_TICKS_MAX));
                }
                false
            }
            Stage::Resting(_) => false,
        }
    }

    fn give_up_asking(&mut self, patience_ticks: u32) {
        self.rest.stage = Stage::Awake;
        self.rest.idle_ticks = 0;
        self.rest.patience_ticks = patience_ticks;
        // Followers that promised are free with the next heartbeat.
        self.rest.number += 1;
    }

    fn has_nothing_to_do(&self, config: &RaftStoreConfig) -> bool {
        let raft = &self.node.raft;
        let last_index = raft.raft_log.last_index();
        self.is_leader()
            && !self.installing
            && self.proposals.is_empty()
            && self.reads.is_empty()
            && self.replica_reads.is_none()
            && self.last_report.is_some()
            && raft.commit_to_current_term()
            && raft.raft_log.committed == last_index
            && self.node.store().apply_state().applied_index == last_index
            && raft.lead_transferee.is_none()
            && !raft.has_pending_conf()
            && !self.is_joint()
            && self.check_not_merging().is_ok()
            && self.size.is_settled()
            && self.compactable(config).is_none()
    }

    /// The members to ask, if all that are not absent have everything; else waits on.
    pub fn begin_asking(
        &mut self,
        is_absent: &mut dyn FnMut(u64) -> bool,
    ) -> Option<Vec<(u64, kv::RestAsk)>> {
        let raft = &self.node.raft;
        let last_index = raft.raft_log.last_index();
        let mut asks = Vec::new();
        let mut absent = Vec::new();
        for member in self.region().peers.iter().filter(|member| member.id != self.peer_id) {
            if is_absent(member.store_id) {
                absent.push(member.store_id);
                continue;
            }
            let progress = raft.prs().get(member.id)?;
            if progress.matched != last_index || progress.state != ProgressState::Replicate {
                return None;
            }
            let ask = kv::RestAsk {
                region_id: self.region_id,
                leader_id: self.peer_id,
                to_peer_id: member.id,
                term: raft.term,
                number: self.rest.number,
                index: last_index,
            };
            asks.push((member.store_id, ask));
        }
        self.rest.stage =
            Stage::Asking(Asking { ticks: 0, index: last_index, agreed: Vec::new(), absent });
        Some(asks)
    }

    /// Whether followers were asked and the leader does not rest yet.
    pub fn is_asking(&self) -> bool {
        matches!(self.rest.stage, Stage::Asking(_))
    }

    /// A follower agreed, or not.
    pub fn on_rest_answer(&mut self, answer: &kv::RestAnswer, grant: Grant) {
        if answer.term != self.term() || answer.number != self.rest.number {
            return;
        }
        let Stage::Asking(asking) = &mut self.rest.stage else { return };
        if answer.agreed {
            asking.agreed.retain(|(peer_id, _)| *peer_id != answer.from_peer_id);
            asking.agreed.push((answer.from_peer_id, grant));
        }
    }

    /// On whom the region can rest now; `None` while an answer is missing.
    pub fn can_rest(
        &self,
        config: &RaftStoreConfig,
        grant_of: &dyn Fn(u64) -> Grant,
    ) -> Option<RestKey> {
        let Stage::Asking(asking) = &self.rest.stage else { return None };
        let region = self.region();
        let last_index = self.node.raft.raft_log.last_index();
        // Messages that still have to leave must not carry a number of its rest.
        if asking.index != last_index || self.has_ready() || !self.has_nothing_to_do(config) {
            return None;
        }
        let mut key = RestKey { absent: asking.absent.clone(), ..RestKey::default() };
        let mut voter_count = 0;
        for member in &region.peers {
            let is_voter = member.role() == meta::PeerRole::Voter;
            voter_count += usize::from(is_voter);
            if member.id == self.peer_id || asking.absent.contains(&member.store_id) {
                continue;
            }
            let (_, grant) = asking.agreed.iter().find(|(peer_id, _)| *peer_id == member.id)?;
            if *grant != grant_of(member.store_id) {
                return None;
            }
            let side = if is_voter { &mut key.voters } else { &mut key.learners };
            side.push(*grant);
        }
        key.needed = voter_count / 2;
        key.voters.sort_unstable();
        key.learners.sort_unstable();
        key.absent.sort_unstable();
        (key.voters.len() >= key.needed).then_some(key)
    }

    /// The leader's clock stands still from now on.
    pub fn rest(&mut self, lease: Arc<RestLease>) {
        self.rest.stage = Stage::Resting(lease);
        self.rest.patience_ticks = 0;
        self.rest.idle_ticks = 0;
        let raft = &mut self.node.raft;
        // As long as it rests, it refuses to vote for others.
        raft.election_elapsed = 0;
        raft.maybe_free_inflight_buffers();
        self.node.mut_store().shrink();
        self.shrink();
        self.publish();
    }

    /// A resting leader that Raft or a reader wants to act.
    pub fn is_disturbed(&self) -> bool {
        self.is_resting() && (self.has_ready() || self.has_unissued_reads())
    }

    /// Ends a leader's rest; `heard` tells of members' stores.
    pub fn wake(&mut self, now: MonotonicTime, heard: &dyn Fn(u64) -> Heard) {
        let Stage::Resting(lease) = std::mem::replace(&mut self.rest.stage, Stage::Awake) else {
            return;
        };
        self.rest.number += 1;
        self.lease.take_over(lease.valid_until());
        let region = self.region().clone();
        let mut answering = 1;
        let mut voters = 0;
        for member in &region.peers {
            let is_voter = member.role() != meta::PeerRole::Learner;
            voters += usize::from(is_voter);
            if member.id == self.peer_id {
                continue;
            }
            let heard = heard(member.store_id);
            let absent = lease.key().absent.contains(&member.store_id);
            if !absent {
                self.note_heard(member.id, heard.at.min(now));
            }
            answering += usize::from(is_voter && heard.answers);
            if let Some(progress) = self.node.raft.mut_prs().get_mut(member.id) {
                progress.recent_active = heard.answers;
            }
        }
        // Silence of stores counts for the quorum as silence of their peers would.
        let timeout = self.node.raft.election_timeout();
        self.node.raft.election_elapsed =
            if answering > voters / 2 { 0 } else { timeout.saturating_sub(1) };
        self.publish();
    }

    /// Heartbeats at once, so that followers wake too.
    pub fn ping(&mut self) {
        if self.is_leader() && !self.installing {
            self.node.ping();
        }
    }

    /// Makes the lease of a resting leader known to readers, or takes it from them.
    pub(super) fn publish_rest(&mut self, ready: bool) {
        let lease = match &self.rest.stage {
            Stage::Resting(lease) if ready && self.lease.may_read() => Some(lease.clone()),
            _ => None,
        };
        if lease.is_some() || self.rest.published {
            self.rest.published = lease.is_some();
            self.delegate.set_rest(lease);
        }
    }

    /// The role or the term changed.
    pub(super) fn forget_rest(&mut self) {
        if !matches!(self.rest.stage, Stage::Awake) {
            self.rest.stage = Stage::Awake;
            self.rest.number += 1;
        }
        self.rest.idle_ticks = 0;
        self.rest.patience_ticks = 0;
    }

    // ---- followers ----

    /// A leader asks this follower to rest; whether it promises.
    pub fn on_rest_ask(&mut self, ask: &kv::RestAsk, store_id: u64) -> bool {
        let raft = &mut self.node.raft;
        let agrees = !self.installing
            && ask.to_peer_id == self.peer_id
            && raft.state == StateRole::Follower
            && raft.term == ask.term
            && raft.leader_id == ask.leader_id
            && (ask.term, ask.number) >= self.rest.heard
            && raft.raft_log.last_index() == ask.index
            && raft.raft_log.committed == ask.index
            && raft.snap().is_none();
        if agrees {
            raft.election_elapsed = 0;
            self.rest.heard = (ask.term, ask.number);
            self.rest.promise = Some(Promise {
                store_id,
                leader_id: ask.leader_id,
                term: ask.term,
                number: ask.number,
            });
            self.node.mut_store().shrink();
            self.shrink();
        }
        agrees
    }

    /// Before a message is taken: whether its sender frees this peer of a promise.
    pub(super) fn hear_number(&mut self, message: &Message, number: u64) {
        if number > 0 {
            self.rest.heard = self.rest.heard.max((message.term, number));
        }
        let Some(promise) = &self.rest.promise else { return };
        if message.from != promise.leader_id {
            return;
        }
        let is_candidate = matches!(
            message.get_msg_type(),
            MessageType::MsgRequestVote | MessageType::MsgRequestPreVote
        );
        if message.term == promise.term && number > promise.number {
            self.rest.promise = None;
            self.node.raft.election_elapsed = 0;
        } else if is_candidate && message.term > promise.term {
            self.rest.promise = None;
            self.node.raft.election_elapsed = self.node.raft.election_timeout();
        }
    }

    /// After a message was taken: a promise to a leader that is no more is none.
    pub(super) fn check_promise(&mut self) {
        let raft = &self.node.raft;
        let holds = |promise: &Promise| {
            promise.term == raft.term
                && promise.leader_id == raft.leader_id
                && raft.state == StateRole::Follower
        };
        if self.rest.promise.as_ref().is_some_and(|promise| !holds(promise)) {
            self.rest.promise = None;
        }
    }

    /// Support of a store ends: whether this peer had promised its leader to rest.
    pub fn end_promise(&mut self, store_id: u64, silent_ticks: u32) -> bool {
        if self.rest.promise.as_ref().is_none_or(|promise| promise.store_id != store_id) {
            return false;
        }
        self.rest.promise = None;
        // This tick's own step is still to come.
        self.node.raft.election_elapsed = silent_ticks.saturating_sub(1) as usize;
        true
    }
}
