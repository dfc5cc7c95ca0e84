//! One replica of a region: Raft's state machine with what a store needs around it.
//!
//! **Flow.** Messages, proposals and ticks go in; [`Peer::collect_ready`] gives what must
//! be written, sent and applied; after the write [`Peer::advance`] gives the rest. The
//! store does this for all its peers in one round, so that they share one sync.
//!
//! **Invariants**
//! - A proposal is answered exactly once: by apply if its entry is applied with the term
//!   it was proposed in, else with an error. It is never proposed twice.
//! - Time is an argument, and every decision of a round uses the round's beginning:
//!   earlier than anything sent in it, which keeps leases on the safe side.
//!
//! **Concurrency.** Owned by the Raft thread.

mod closed;
mod elections;
pub(in crate::raftstore) mod forced;
mod merge;
mod propose;
mod reads;
mod ready;
mod replica_reads;
mod report;
mod rest;
mod snapshot;
pub mod storage;

use std::collections::VecDeque;
use std::sync::Arc;

use cairn_engine::raft_guard::{MessageRules, check_message};
use cairn_proto::{kv, meta};
use cairn_types::sabotage::{Bug, planted};
use raft::eraftpb::{Entry, Message};
use raft::{RawNode, Ready, StateRole};

use elections::ElectionTimer;
pub use elections::Elections;
use forced::Forced;
use merge::Merging;
use propose::Proposal;
pub use reads::PendingRead;
use reads::ReadQueue;
pub use ready::ReadyEffects;
pub use replica_reads::PendingReplicaRead;
use replica_reads::ReplicaReads;
pub use report::RegionSize;
pub use rest::Heard;
use rest::Rest;
pub use snapshot::snapshot_region;
use storage::PeerStorage;

use super::apply::is_joint;
use super::clock::MonotonicTime;
use super::closed::WaitingMarks;
use super::config::RaftStoreConfig;
use super::error::{RaftStoreError, RegionError};
use super::ids::{RegionId, epoch_of};
use super::lease::Lease;
use super::load::{LoadFigures, LoadWatch};
use super::log::raft_logger;
use super::metrics;
use super::read::ReadDelegate;
use super::state::find_peer;

/// Entries of one append message.
const MESSAGE_BYTES_MAX: u64 = 1024 * 1024;
/// Append messages on their way to one follower.
const INFLIGHT_MESSAGES_MAX: usize = 256;
/// A successor lacks that many entries at most: about what is on its way to it.
const SUCCESSOR_LAG_ENTRIES_MAX: u64 = 1024;
/// Entries of a leader that are not committed.
const UNCOMMITTED_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Entries handed to apply at one time.
const COMMITTED_BYTES_PER_READY: u64 = 16 * 1024 * 1024;
/// Senders remembered that are not members.
const STRANGERS_MAX: usize = 16;

/// One replica.
pub struct Peer {
    pub(super) region_id: u64,
    pub(super) peer_id: u64,
    store_id: u64,
    pub(super) node: RawNode<PeerStorage>,
    pub(super) delegate: Arc<ReadDelegate>,
    pub(super) lease: Lease,
    proposals: VecDeque<Proposal>,
    reads: ReadQueue,
    /// Reads that wait here for what another peer's leader says.
    replica_reads: Option<Box<ReplicaReads>>,
    /// Closed timestamps that wait for apply.
    waiting_marks: Option<Box<WaitingMarks>>,
    /// Answers to followers' questions.
    answers: Vec<kv::RaftMessage>,
    /// Taken from Raft, to be completed after the write.
    ready: Option<Ready>,
    /// Persisted messages of `ready`.
    persisted: Vec<Message>,
    /// The peer stands still: a Raft snapshot is being installed.
    pub(super) installing: bool,
    /// Its data is damaged: nobody reads here until a Raft snapshot replaces it.
    damaged: bool,
    /// The hard state changed without being written.
    state_dirty: bool,
    /// When other peers were heard last, by their id.
    last_heard: Vec<(u64, MonotonicTime)>,
    /// Peers that wrote to us and are not (yet) in our idea of the region.
    strangers: Vec<meta::Peer>,
    rest: Rest,
    leader_since: MonotonicTime,
    elections: ElectionTimer,
    was_leader_in: u64,
    /// Without data: the epoch at which somebody wrote to this peer, which was a member
    /// then. Whoever knows less must not call it removed.
    pub(super) born_at: Option<meta::RegionEpoch>,
    pub(super) merging: Merging,
    /// Most voters were lost for good: those that are left decide.
    forced: Option<Box<Forced>>,
    pub(super) size: RegionSize,
    pub(super) load_watch: LoadWatch,
    /// What PD was told of the load last, and when.
    reported: (MonotonicTime, LoadFigures),
    pub(super) last_report: Option<MonotonicTime>,
    /// When a resting leader is reported next.
    pub(super) idle_report_at: Option<MonotonicTime>,
    /// PD was last told that some peer is behind or silent.
    pub(super) reported_unwell: bool,
}

impl Peer {
    /// Starts a replica from its storage.
    pub fn new(
        config: &RaftStoreConfig,
        store_id: u64,
        peer_id: u64,
        storage: PeerStorage,
    ) -> Result<Peer, RaftStoreError> {
        let region_id = storage.region().id;
        let raft_config = raft::Config {
            id: peer_id,
            election_tick: config.election_timeout_ticks,
            min_election_tick: config.election_timeout_ticks,
            max_election_tick: config.election_timeout_ticks * 3 / 2 + 1,
            heartbeat_tick: config.heartbeat_ticks,
            applied: storage.apply_state().applied_index,
            max_size_per_msg: MESSAGE_BYTES_MAX,
            max_inflight_msgs: INFLIGHT_MESSAGES_MAX,
            check_quorum: true,
            pre_vote: true,
            batch_append: true,
            max_uncommitted_size: UNCOMMITTED_BYTES_MAX,
            max_committed_size_per_ready: COMMITTED_BYTES_PER_READY,
            ..raft::Config::default()
        };
        let region = storage.region().clone();
        let node = RawNode::new(&raft_config, storage, &raft_logger(region_id, peer_id))?;
        Ok(Peer {
            region_id,
            peer_id,
            store_id,
            delegate: Arc::new(ReadDelegate::new(region, peer_id)),
            lease: Lease::new(config.lease()),
            proposals: VecDeque::new(),
            reads: ReadQueue::default(),
            replica_reads: None,
            waiting_marks: None,
            answers: Vec::new(),
            ready: None,
            persisted: Vec::new(),
            installing: false,
            damaged: false,
            state_dirty: false,
            last_heard: Vec::new(),
            strangers: Vec::new(),
            rest: Rest::new(),
            leader_since: MonotonicTime(0),
            elections: ElectionTimer::new(),
            was_leader_in: 0,
            born_at: None,
            merging: Merging::default(),
            forced: None,
            size: RegionSize::default(),
            load_watch: LoadWatch::default(),
            reported: (MonotonicTime(0), LoadFigures::default()),
            last_report: None,
            idle_report_at: None,
            reported_unwell: false,
            node,
        })
    }

    /// The region as apply reported it last.
    pub fn region(&self) -> &Arc<meta::Region> {
        self.node.store().region()
    }

    /// Whether this peer leads.
    pub fn is_leader(&self) -> bool {
        self.node.raft.state == StateRole::Leader
    }

    /// Term of the peer.
    pub fn term(&self) -> u64 {
        self.node.raft.term
    }

    /// Whether this peer is the region's only voter.
    pub fn is_only_voter(&self) -> bool {
        let members = storage::conf_state(self.region());
        members.voters == [self.peer_id]
            && members.voters_outgoing.iter().all(|id| *id == self.peer_id)
    }

    /// Takes a message of another peer; `rest_number` came with it. `Err` tells why it was
    /// refused.
    pub fn step(
        &mut self,
        from: &meta::Peer,
        mut message: Message,
        rest_number: u64,
        now: MonotonicTime,
    ) -> Result<(), &'static str> {
        if message.from != from.id {
            return Err("sender");
        }
        if self.installing {
            return Err("installing a snapshot");
        }
        let check_snapshot = |message: &Message| snapshot::check_snapshot(&self.node, message);
        // A damaged replica asks for a snapshot.
        let rules =
            MessageRules { allows_snapshot_requests: true, check_snapshot: &check_snapshot };
        check_message(&self.node, &mut message, &rules)?;
        self.note_heard(message.from, now);
        if find_peer(self.region(), from.id).is_none() {
            self.strangers.retain(|stranger| stranger.id != from.id);
            if self.strangers.len() >= STRANGERS_MAX {
                self.strangers.clear();
            }
            self.strangers.push(*from);
        }
        self.hear_number(&message, rest_number);
        let outcome = self.node.step(message).map_err(|error| {
            tracing::debug!(region = self.region_id, %error, "raft refused a message");
            "refused by raft"
        });
        self.on_role_changed(now);
        self.check_promise();
        outcome
    }

    /// A peer was heard.
    fn note_heard(&mut self, peer_id: u64, at: MonotonicTime) {
        match self.last_heard.iter_mut().find(|(id, _)| *id == peer_id) {
            Some((_, last)) => *last = (*last).max(at),
            None => {
                let members = &self.node.store().region().peers;
                self.last_heard.retain(|(id, _)| members.iter().any(|peer| peer.id == *id));
                self.last_heard.push((peer_id, at));
            }
        }
    }

    /// Gives memory back that only traffic needs.
    fn shrink(&mut self) {
        self.proposals.shrink_to_fit();
        self.strangers.shrink_to_fit();
        self.persisted.shrink_to_fit();
        self.reads.shrink();
        self.answers.shrink_to_fit();
        self.lease.shrink();
        self.node.raft.msgs.shrink_to_fit();
    }

    /// Whether the region is in a joint state.
    pub fn is_joint(&self) -> bool {
        is_joint(self.region())
    }

    /// Hands leadership over, to a voter that stays one.
    pub fn transfer_leader(&mut self, peer_id: u64, now: MonotonicTime) {
        if self.is_leader() && self.heirs().any(|(heir, _)| heir.id == peer_id) {
            self.log_locks(now);
            self.lease.withdraw();
            self.publish();
            self.node.transfer_leader(peer_id);
        }
    }

    /// Hands leadership to the voter that has most of the log, however far behind it is: this
    /// peer cannot go on leading.
    pub fn hand_over(&mut self, now: MonotonicTime) {
        let most =
            self.heirs().max_by_key(|(_, progress)| (progress.recent_active, progress.matched));
        if let Some(heir_id) = most.map(|(heir, _)| heir.id) {
            self.transfer_leader(heir_id, now);
        }
    }

    /// The voter on a good store that has most of the log, if leadership can go there now.
    pub fn best_successor(&self, is_good: &dyn Fn(u64) -> bool) -> Option<u64> {
        if !self.is_leader() || self.node.raft.lead_transferee.is_some() {
            return None;
        }
        let good = self.heirs().filter(|(heir, _)| is_good(heir.store_id));
        good.filter(|(_, progress)| progress.recent_active && self.has_log(progress))
            .max_by_key(|(_, progress)| progress.matched)
            .map(|(heir, _)| heir.id)
    }

    /// Whether that voter could lead at once: while one catches up first, nothing can be written.
    pub fn could_lead_now(&self, peer_id: u64) -> bool {
        self.heirs().any(|(heir, progress)| heir.id == peer_id && self.has_log(progress))
    }

    fn has_log(&self, progress: &raft::Progress) -> bool {
        let last_index = self.node.raft.raft_log.last_index();
        progress.matched + SUCCESSOR_LAG_ENTRIES_MAX >= last_index
    }

    /// Other voters that stay voters, and what this leader knows of their logs.
    fn heirs(&self) -> impl Iterator<Item = (&meta::Peer, &raft::Progress)> {
        let stays = |peer: &&meta::Peer| {
            matches!(peer.role(), meta::PeerRole::Voter | meta::PeerRole::IncomingVoter)
        };
        let others = self.region().peers.iter().filter(|peer| peer.id != self.peer_id);
        others.filter(stays).filter_map(|peer| Some((peer, self.node.raft.prs().get(peer.id)?)))
    }

    /// Apply reported progress.
    pub fn on_applied(&mut self, apply_state: super::state::ApplyState) {
        let applied = apply_state.applied_index;
        self.node.mut_store().set_apply_state(apply_state);
        // A source of a merge may be applied further than Raft knows it is committed.
        self.node.advance_apply_to(applied.min(self.node.raft.raft_log.committed));
        self.lease.on_applied(applied);
        self.merging.on_applied(applied);
        self.publish_closed();
        self.publish();
    }

    /// Apply reported a new range or new members.
    pub fn set_region(&mut self, region: Arc<meta::Region>) {
        let version = epoch_of(&region).version;
        if version != epoch_of(self.region()).version {
            // Before anybody can have a view of it.
            self.delegate.locks.begin_version(self.term(), version);
        }
        self.forget_closed();
        self.node.mut_store().set_region(region.clone());
        self.delegate.region.store(region);
    }

    /// Queues a read; it is answered once a quorum confirmed this leader and apply
    /// has caught up.
    pub fn read(&mut self, read: PendingRead, now: MonotonicTime) {
        match self.check_leader(&read.context, now) {
            Ok(()) => self.reads.push(read),
            Err(error) => read.fail(error),
        }
    }

    /// Asks the quorum on behalf of queued reads, and for the lease if readers want it.
    pub fn issue_reads(&mut self, now: MonotonicTime, renew: bool) {
        if !self.is_leader() || !self.committed_in_term() {
            return;
        }
        let wanted = renew && self.lease.wants_renewal(now) && self.delegate.take_wanted();
        if let Some(request) = self.reads.issue(now, wanted) {
            self.node.read_index(request);
        }
    }

    /// Reads that may be answered now.
    pub fn take_confirmed_reads(&mut self) -> Vec<PendingRead> {
        let applied = self.node.store().apply_state();
        if self.reads.is_empty() || !self.is_leader() {
            return Vec::new();
        }
        if applied.applied_term != self.term() && !planted(Bug::ReadBeforeApply) {
            return Vec::new();
        }
        self.reads.take_confirmed(applied.applied_index)
    }

    /// Whether reads wait to be sent to the quorum.
    pub fn has_unissued_reads(&self) -> bool {
        self.reads.has_unissued() && self.is_leader() && self.committed_in_term()
    }

    fn committed_in_term(&self) -> bool {
        self.node.raft.commit_to_current_term()
    }

    /// Answers callers whose time ran out.
    pub fn drop_expired(&mut self, now: MonotonicTime) {
        self.reads.drop_expired(now);
        if self.replica_reads.is_some() {
            self.expire_replica_reads(now);
        }
        for proposal in &mut self.proposals {
            if proposal.deadline.is_some_and(|deadline| deadline.has_passed(now)) {
                std::mem::take(&mut proposal.callback).fail(RegionError::DeadlineExceeded);
            }
        }
    }

    /// Answers everybody: the peer goes away.
    pub fn fail_all(&mut self) {
        for proposal in std::mem::take(&mut self.proposals) {
            proposal.callback.fail(RegionError::StaleCommand);
        }
        self.reads.fail_all(&RegionError::RegionNotFound(RegionId(self.region_id)));
        self.fail_replica_reads();
        self.delegate.close();
        self.delegate.locks.end_term(self.term());
    }

    /// Whether this leader may answer from what it knows, at `now`.
    pub(super) fn has_lease(&self, now: MonotonicTime) -> bool {
        let ready = self.is_leader()
            && self.node.store().apply_state().applied_term == self.term()
            && self.lease.may_read()
            && !self.damaged;
        ready && (now < self.lease.valid_until() || self.has_rest_lease(now))
    }

    /// This peer as others address it.
    fn own_peer(&self) -> meta::Peer {
        find_peer(self.region(), self.peer_id).cloned().unwrap_or_else(|| meta::Peer {
            id: self.peer_id,
            store_id: self.store_id,
            ..meta::Peer::default()
        })
    }

    /// Makes role, readiness and lease known to readers.
    pub fn publish(&mut self) {
        let leads = self.is_leader() && !self.damaged;
        let term = if leads { self.term() } else { 0 };
        let ready = leads
            && self.node.store().apply_state().applied_term == term
            && self.check_not_merging().is_ok();
        self.delegate.set_lease(if ready { self.lease.valid_until() } else { MonotonicTime(0) });
        self.publish_rest(ready);
        self.delegate.set_role(self.node.raft.leader_id, term, ready);
    }

    /// Whether it stands still until a Raft snapshot is in the engine.
    pub fn is_installing(&self) -> bool {
        self.installing
    }

    /// Whether that is the Raft snapshot of this index.
    pub fn is_installing_up_to(&self, index: u64) -> bool {
        let accepted = self.ready.as_ref().map(|ready| ready.snapshot().get_metadata().index);
        self.installing && accepted == Some(index)
    }

    /// Takes the peer out of service, or back in.
    pub fn set_damaged(&mut self, damaged: bool) {
        self.damaged = damaged;
        self.forget_closed();
        self.publish();
    }

    /// Whether its data is damaged.
    pub fn is_damaged(&self) -> bool {
        self.damaged
    }

    fn on_role_changed(&mut self, now: MonotonicTime) {
        let leads_in = if self.is_leader() { self.term() } else { 0 };
        if self.was_leader_in == leads_in {
            return;
        }
        let led_in = std::mem::replace(&mut self.was_leader_in, leads_in);
        self.lease.reset();
        self.merging.on_role_changed();
        self.forget_rest();
        if self.is_leader() {
            self.leader_since = now;
            // What was read under an earlier leadership was reported then.
            self.reported = (now, self.delegate.load.figures());
            self.load_watch.forget();
            // PD hears of it at once.
            self.last_report = None;
            // The entry that opens the term goes out with this round.
            self.lease.on_proposed(self.node.raft.raft_log.last_index(), now);
        }
        if led_in != 0 {
            self.delegate.locks.end_term(led_in);
            let not_leader = self.not_leader();
            self.reads.fail_all(&not_leader);
            for proposal in std::mem::take(&mut self.proposals) {
                proposal.callback.fail(RegionError::StaleCommand);
            }
        }
        self.publish();
    }

    fn note_committed(&mut self, entries: &[Entry]) {
        if let Some(last) = entries.last()
            && self.is_leader()
        {
            self.lease.on_committed(last.index);
        }
    }
}

/// Adds `count` to the counter of refused messages.
pub(super) fn count_dropped(metrics: &metrics::RaftMetrics, count: u64) {
    metrics::add(&metrics.messages_dropped, count);
}
