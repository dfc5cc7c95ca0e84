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

mod reads;
pub mod storage;
mod validate;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cairn_engine::LogBatch;
use cairn_proto::{kv, meta};
use protobuf::Message as _;
use raft::eraftpb::{ConfChange, ConfChangeType, Entry, Message, MessageType};
use raft::{ProgressState, RawNode, Ready, StateRole};

pub use reads::PendingRead;
use reads::ReadQueue;
use storage::PeerStorage;
pub use validate::snapshot_region;

use super::apply::{Callback, CommittedEntries};
use super::clock::{Deadline, MonotonicTime};
use super::command;
use super::config::RaftStoreConfig;
use super::error::{RaftStoreError, RegionError};
use super::ids::{RegionId, epoch_of};
use super::lease::Lease;
use super::log::raft_logger;
use super::read::{ReadDelegate, check_context};
use super::state::find_peer;
use super::{RegionContext, metrics};

/// Entries of one append message.
const MESSAGE_BYTES_MAX: u64 = 1024 * 1024;
/// Append messages on their way to one follower.
const INFLIGHT_MESSAGES_MAX: usize = 256;
/// Entries of a leader that are not committed.
const UNCOMMITTED_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Entries handed to apply at one time.
const COMMITTED_BYTES_PER_READY: u64 = 16 * 1024 * 1024;
/// A peer that far behind the commit index is reported as pending.
const PENDING_PEER_LAG: u64 = 1024;
/// A follower unheard of for so long is reported as down.
const DOWN_PEER_AFTER: Duration = Duration::from_secs(10);

/// Senders remembered that are not members.
const STRANGERS_MAX: usize = 16;

/// A proposal whose entry is in the log and not yet applied.
struct Proposal {
    index: u64,
    term: u64,
    deadline: Option<Deadline>,
    callback: Callback,
}

/// Size of a region, as far as it is known.
#[derive(Clone, Copy, Debug, Default)]
pub struct RegionSize {
    /// Bytes when the region was last read.
    pub measured_bytes: u64,
    /// Keys when the region was last read.
    pub measured_keys: u64,
    /// Bytes written since.
    pub written_bytes: u64,
    /// Bytes in the engine's files, as the engine estimates them.
    pub files_bytes: u64,
    /// It is looked at again once `written_bytes` reaches this.
    pub check_at_written: u64,
    /// Whether a check is on its way.
    pub checking: bool,
}

/// What a ready peer asks of its store in one round.
#[derive(Default)]
pub struct ReadyEffects {
    /// Sent before the log is written: a leader's.
    pub early: Vec<kv::RaftMessage>,
    /// Sent after the log is written.
    pub late: Vec<kv::RaftMessage>,
    /// Handed to apply.
    pub committed: Vec<CommittedEntries>,
    /// A Raft snapshot to install; the peer stands still until it is.
    pub install: Option<raft::eraftpb::Snapshot>,
    /// Whether the log must be synced.
    pub must_sync: bool,
}

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
    /// Taken from Raft, to be completed after the write.
    ready: Option<Ready>,
    /// Persisted messages of `ready`.
    persisted: Vec<Message>,
    /// The peer stands still: a Raft snapshot is being installed.
    pub(super) installing: bool,
    /// The hard state changed without being written.
    state_dirty: bool,
    /// No votes before: this peer does not remember what it promised a leader.
    vote_quiet_until: MonotonicTime,
    last_heard: HashMap<u64, MonotonicTime>,
    /// Peers that wrote to us and are not (yet) in our idea of the region.
    strangers: HashMap<u64, meta::Peer>,
    leader_since: MonotonicTime,
    /// Term and role when the election timeout was drawn.
    timeout_drawn_for: (u64, StateRole),
    was_leader_in: u64,
    pub(super) size: RegionSize,
    pub(super) last_report: Option<MonotonicTime>,
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
            ready: None,
            persisted: Vec::new(),
            installing: false,
            state_dirty: false,
            vote_quiet_until: MonotonicTime(0),
            last_heard: HashMap::new(),
            strangers: HashMap::new(),
            leader_since: MonotonicTime(0),
            timeout_drawn_for: (u64::MAX, StateRole::Follower),
            was_leader_in: 0,
            size: RegionSize::default(),
            last_report: None,
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
    }

    /// The peer came from disk: it has forgotten whom it heard last, and so must
    /// not help to elect another leader while that one may hold a lease.
    pub fn keep_vote_quiet(&mut self, until: MonotonicTime) {
        self.vote_quiet_until = until;
    }

    /// One tick. Election timeouts are drawn by `draw` in `[min, max)`.
    pub fn tick(&mut self, draw: &mut dyn FnMut(usize, usize) -> usize, min_ticks: usize) {
        if self.installing {
            return;
        }
        let drawn_for = (self.node.raft.term, self.node.raft.state);
        if drawn_for != self.timeout_drawn_for {
            self.timeout_drawn_for = drawn_for;
            let ticks = draw(min_ticks, min_ticks * 3 / 2 + 1);
            self.node.raft.set_randomized_election_timeout(ticks);
        }
        self.node.tick();
    }

    /// Takes a message of another peer. `Err` tells why it was refused.
    pub fn step(
        &mut self,
        from: &meta::Peer,
        mut message: Message,
        now: MonotonicTime,
    ) -> Result<(), &'static str> {
        if message.from != from.id {
            return Err("sender");
        }
        if self.installing {
            return Err("installing a snapshot");
        }
        let is_vote = matches!(
            message.get_msg_type(),
            MessageType::MsgRequestVote | MessageType::MsgRequestPreVote
        );
        if is_vote && now < self.vote_quiet_until {
            return Err("just started");
        }
        validate::check_message(&self.node, &mut message)?;
        self.last_heard.insert(message.from, now);
        if find_peer(self.region(), from.id).is_none() {
            if self.strangers.len() >= STRANGERS_MAX {
                self.strangers.clear();
            }
            self.strangers.insert(from.id, from.clone());
        }
        self.node.step(message).map_err(|error| {
            tracing::debug!(region = self.region_id, %error, "raft refused a message");
            "refused by raft"
        })
    }

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
        let mut change = ConfChange::default();
        change.node_id = peer.id;
        change.set_change_type(match kind {
            command::ConfChangeKind::AddVoter => ConfChangeType::AddNode,
            command::ConfChangeKind::AddLearner => ConfChangeType::AddLearnerNode,
            command::ConfChangeKind::Remove => ConfChangeType::RemoveNode,
        });
        let context = command::ConfChangeCommand {
            epoch: self.region().epoch.clone(),
            kind: kind as i32,
            peer: Some(peer.clone()),
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

    /// Hands leadership over.
    pub fn transfer_leader(&mut self, peer_id: u64) {
        if self.is_leader()
            && peer_id != self.peer_id
            && find_peer(self.region(), peer_id).is_some()
        {
            self.lease.withdraw();
            self.publish();
            self.node.transfer_leader(peer_id);
        }
    }

    /// Whether [`Peer::collect_ready`] has something to give.
    pub fn has_ready(&self) -> bool {
        !self.installing && self.ready.is_none() && self.node.has_ready()
    }

    /// First half of a round: what to send at once, write, and apply.
    pub fn collect_ready(&mut self, log: &mut LogBatch, now: MonotonicTime) -> ReadyEffects {
        let mut effects = ReadyEffects::default();
        let mut ready = self.node.ready();
        effects.must_sync = ready.must_sync();
        self.on_role_changed(now);
        self.note_committed(ready.committed_entries());
        effects.early = self.wrap_all(ready.take_messages());
        self.reads.on_read_states(ready.take_read_states(), &mut self.lease);
        self.push_committed(ready.take_committed_entries(), &mut effects.committed);
        if let Some(hard_state) = ready.hs() {
            self.node.mut_store().set_hard_state(hard_state.clone());
            self.state_dirty = true;
        }
        if !ready.snapshot().is_empty() {
            effects.install = Some(ready.snapshot().clone());
            self.installing = true;
            self.persisted = ready.take_persisted_messages();
            self.ready = Some(ready);
            return effects;
        }
        let entries = ready.take_entries();
        if !entries.is_empty() || (self.state_dirty && ready.must_sync()) {
            self.node.mut_store().on_append(&entries);
            log.append(self.region_id, entries);
            log.put_state(self.region_id, self.node.store().local_state());
            self.state_dirty = false;
        }
        self.persisted = ready.take_persisted_messages();
        self.ready = Some(ready);
        effects
    }

    /// Second half of a round, after the log was written.
    pub fn advance(&mut self) -> ReadyEffects {
        let mut effects = ReadyEffects::default();
        let Some(ready) = self.ready.take() else { return effects };
        let persisted = std::mem::take(&mut self.persisted);
        effects.late = self.wrap_all(persisted);
        let mut light = self.node.advance_append(ready);
        if let Some(commit_index) = light.commit_index() {
            self.node.mut_store().set_commit(commit_index);
            self.state_dirty = true;
        }
        self.note_committed(light.committed_entries());
        let messages = self.wrap_all(light.take_messages());
        effects.late.extend(messages);
        self.push_committed(light.take_committed_entries(), &mut effects.committed);
        self.publish();
        effects
    }

    /// The Raft snapshot that made the peer stand still is installed: its past starts anew.
    pub fn on_installed(
        &mut self,
        region: Arc<meta::Region>,
        apply_state: super::state::ApplyState,
        log: &mut LogBatch,
    ) {
        let index = apply_state.applied_index;
        self.node.mut_store().on_installed(region.clone(), apply_state);
        if self.node.store().hard_state().commit < index {
            self.node.mut_store().set_commit(index);
        }
        log.clean(self.region_id);
        log.put_state(self.region_id, self.node.store().local_state());
        self.delegate.region.store(region);
        self.installing = false;
    }

    /// Raft may forget that the snapshot's entries are to be applied.
    pub fn after_install(&mut self) {
        let index = self.node.store().apply_state().applied_index;
        self.node.advance_apply_to(index);
    }

    /// Apply reported progress.
    pub fn on_applied(&mut self, apply_state: super::state::ApplyState) {
        let applied = apply_state.applied_index;
        self.node.mut_store().set_apply_state(apply_state);
        self.node.advance_apply_to(applied);
        self.lease.on_applied(applied);
        self.publish();
    }

    /// Apply reported a new range or new members.
    pub fn set_region(&mut self, region: Arc<meta::Region>) {
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
        if self.reads.is_empty() || !self.is_leader() || applied.applied_term != self.term() {
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
        self.delegate.close();
    }

    /// Makes role, readiness and lease known to readers.
    pub fn publish(&self) {
        let leads = self.is_leader();
        let term = if leads { self.term() } else { 0 };
        let ready = leads && self.node.store().apply_state().applied_term == term;
        self.delegate.set_lease(if ready { self.lease.valid_until() } else { MonotonicTime(0) });
        self.delegate.set_role(self.node.raft.leader_id, term, ready);
    }

    fn on_role_changed(&mut self, now: MonotonicTime) {
        let leads_in = if self.is_leader() { self.term() } else { 0 };
        if self.was_leader_in == leads_in {
            return;
        }
        let led = self.was_leader_in != 0;
        self.was_leader_in = leads_in;
        self.lease.reset();
        if self.is_leader() {
            self.leader_since = now;
            // The entry that opens the term goes out with this round.
            self.lease.on_proposed(self.node.raft.raft_log.last_index(), now);
        }
        if led {
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

    /// Pairs committed entries with the callers who wait for them.
    fn push_committed(&mut self, entries: Vec<Entry>, out: &mut Vec<CommittedEntries>) {
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

    fn wrap_all(&mut self, messages: Vec<Message>) -> Vec<kv::RaftMessage> {
        let mut wrapped = Vec::with_capacity(messages.len());
        for message in messages {
            wrapped.extend(self.wrap(&message));
        }
        wrapped
    }

    /// Addresses a message; `None` if the receiver is not known.
    fn wrap(&self, message: &Message) -> Option<kv::RaftMessage> {
        let region = self.region();
        let to_peer = match find_peer(region, message.to) {
            Some(peer) => peer.clone(),
            None => self.strangers.get(&message.to)?.clone(),
        };
        let from_peer = find_peer(region, self.peer_id).cloned().unwrap_or_else(|| meta::Peer {
            id: self.peer_id,
            store_id: self.store_id,
            ..meta::Peer::default()
        });
        Some(kv::RaftMessage {
            region_id: self.region_id,
            from_peer: Some(from_peer),
            to_peer: Some(to_peer),
            epoch: region.epoch.clone(),
            message: Bytes::from(message.write_to_bytes().ok()?),
            start_key: region.start_key.clone(),
            end_key: region.end_key.clone(),
            is_tombstone: false,
        })
    }

    /// Size estimate for PD and for the split check.
    pub fn approximate_bytes(&self) -> u64 {
        self.size.files_bytes.max(self.size.measured_bytes + self.size.written_bytes)
    }

    /// A leader's report to PD.
    pub fn heartbeat(&self, now: MonotonicTime) -> cairn_proto::pd::RegionHeartbeatRequest {
        let region = self.region();
        let commit_index = self.node.raft.raft_log.committed;
        let mut down_peers = Vec::new();
        let mut pending_peers = Vec::new();
        for peer in region.peers.iter().filter(|peer| peer.id != self.peer_id) {
            let progress = self.node.raft.prs().get(peer.id);
            let lags = progress.is_none_or(|progress| {
                progress.matched + PENDING_PEER_LAG < commit_index
                    || progress.matched == 0
                    || progress.state == ProgressState::Snapshot
            });
            if lags {
                pending_peers.push(peer.clone());
            }
            let heard = self.last_heard.get(&peer.id).copied().unwrap_or_default();
            let silent = now.since(heard.max(self.leader_since));
            if silent >= DOWN_PEER_AFTER {
                let down = cairn_proto::pd::PeerStats {
                    peer: Some(peer.clone()),
                    down_s: silent.as_secs(),
                };
                down_peers.push(down);
            }
        }
        cairn_proto::pd::RegionHeartbeatRequest {
            header: None,
            region: Some((**region).clone()),
            leader: find_peer(region, self.peer_id).cloned(),
            term: self.term(),
            approximate_size_bytes: self.approximate_bytes(),
            approximate_keys: self.size.measured_keys,
            down_peers,
            pending_peers,
        }
    }

    /// This peer for `ctl` and tests.
    pub fn info(&self) -> kv::RegionPeerInfo {
        let raft = &self.node.raft;
        kv::RegionPeerInfo {
            region: Some((**self.region()).clone()),
            is_leader: self.is_leader(),
            term: raft.term,
            commit_index: raft.raft_log.committed,
            applied_index: self.node.store().apply_state().applied_index,
            last_index: raft.raft_log.last_index(),
        }
    }

    /// The entries that every follower has, or that are old enough to drop anyway: the
    /// last index and its term.
    pub fn compactable(&self, config: &RaftStoreConfig) -> Option<(u64, u64)> {
        if !self.is_leader() {
            return None;
        }
        let state = self.node.store().apply_state();
        let held = state.applied_index.saturating_sub(state.truncated_index);
        if held < config.log_entries_max {
            return None;
        }
        let matched = self.node.raft.prs().iter().map(|(_, progress)| progress.matched).min();
        let mut index = matched.unwrap_or(0).min(state.applied_index);
        if held >= config.log_entries_force_max {
            index = index.max(state.applied_index - config.log_entries_max);
        }
        if index <= state.truncated_index {
            return None;
        }
        let term = raft::Storage::term(self.node.store(), index).ok()?;
        Some((index, term))
    }
}

impl Peer {
    /// The context of a request that this store makes itself.
    pub fn own_context(&self) -> RegionContext {
        RegionContext {
            region_id: RegionId(self.region_id),
            epoch: epoch_of(self.region()),
            ..RegionContext::default()
        }
    }
}

/// Adds `count` to the counter of refused messages.
pub(super) fn count_dropped(metrics: &metrics::RaftMetrics, count: u64) {
    metrics::add(&metrics.messages_dropped, count);
}
