//! One member as a state machine: messages, ticks and commands in; messages out.
//!
//! **Flow.** Whoever drives the core calls [`Core::step`], [`Core::tick`],
//! [`Core::propose`] and their like, then [`Core::drive`], which writes the log, applies
//! what is committed and gives the messages to send. It has no threads, no sockets and no
//! clock: times are arguments, and every decision of a round uses the time at which the
//! round began, earlier than anything sent in it.
//!
//! **Concurrency.** Owned by one loop; others read [`Shared`].

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use cairn_engine::raft_guard::{MessageRules, check_message};
use cairn_engine::{RaftLocalState, RaftLog};
use cairn_pd_client::PdError;
use prost::Message as _;
use protobuf::Message as _;
use raft::eraftpb::{ConfChange, ConfChangeType, Message, MessageType};
use raft::{ProgressState, RawNode, StateRole};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use slog::o;
use tokio::sync::oneshot;

use super::files::MemberFiles;
use super::lease::Lease;
use super::shared::{Progress, Shared, Status};
use super::snapshot::{Position, check_snapshot};
use super::storage::LogStorage;
use super::{ELECTION_TICKS, TICK};
use crate::error::OpenError;
use crate::state::members::Members;
use crate::state::{Command, Kind, MemberInfo, State};

/// Bytes of one command.
const COMMAND_BYTES_MAX: usize = 4 << 20;
/// Bytes of entries in one message.
const MESSAGE_BYTES_MAX: u64 = 1 << 20;
/// Messages with entries on their way to one member.
const INFLIGHT_MESSAGES_MAX: usize = 64;
/// Entries of a leader that are not committed; more are refused.
const UNCOMMITTED_BYTES_MAX: u64 = 64 << 20;
/// Entries applied in one go.
const COMMITTED_BYTES_PER_READY: u64 = 16 << 20;
/// Shortest and longest wait before a member campaigns. One tick above the time for which
/// others refuse their votes, or the first of them would always be refused.
const CAMPAIGN_TICKS: std::ops::RangeInclusive<usize> = ELECTION_TICKS + 1..=15;
/// A snapshot that has not arrived by then is sent again.
const SNAPSHOT_TICKS_MAX: u32 = 300;
/// Raft's own heartbeats; the questions that renew the lease go with every tick.
const HEARTBEAT_TICKS: usize = 2;

/// A command on its way, and who waits for it.
pub struct Proposal {
    /// What is to be carried out.
    pub command: Box<Command>,
    /// The only term in which it may be proposed: what was decided in another one rests
    /// on what may have changed since.
    pub term: u64,
    /// Told when it is applied, or why it will not be known.
    pub answer: oneshot::Sender<Result<(), PdError>>,
}

/// Who waits for an entry of a term.
pub(super) struct Waiting {
    pub term: u64,
    pub answer: oneshot::Sender<Result<(), PdError>>,
}

/// What a core stands on.
pub struct CoreParts {
    /// Its id in the group.
    pub member_id: u64,
    /// Members before the first entry of the log.
    pub founders: Members,
    /// The entries.
    pub log: Arc<dyn RaftLog>,
    /// Snapshots.
    pub files: Arc<dyn MemberFiles>,
    /// Seed of election timeouts.
    pub seed: u64,
}

/// A member of the group.
pub struct Core {
    pub(super) member_id: u64,
    pub(super) node: RawNode<LogStorage>,
    pub(super) log: Arc<dyn RaftLog>,
    pub(super) files: Arc<dyn MemberFiles>,
    pub(super) shared: Arc<Shared>,
    pub(super) local: RaftLocalState,
    pub(super) applied: Position,
    pub(super) snapshot_index: u64,
    pub(super) waiting: HashMap<u64, Waiting>,
    next_id: u64,
    pub(super) lease: Lease,
    pub(super) removed: bool,
    /// The term that the server has taken over.
    opened_term: u64,
    /// The term this member leads; zero: it does not.
    leads_in: u64,
    only_voter: bool,
    elections: Elections,
    heard_ms: BTreeMap<u64, u64>,
    /// For how many ticks a member's snapshot has been under way.
    snapshot_ticks: BTreeMap<u64, u32>,
}

/// When to campaign, and when to vote for nobody.
struct Elections {
    rng: StdRng,
    /// Term and role when the timeout was drawn.
    drawn_for: (u64, StateRole),
    timeout_ticks: usize,
    /// No vote for anybody for so many ticks.
    promised_ticks: usize,
    /// The group has never had a leader, and this member is to be the first.
    first: bool,
}

impl Core {
    /// Loads a member. A sole one campaigns at once.
    pub fn open(parts: CoreParts, now_ms: u64) -> Result<(Core, Arc<Shared>), OpenError> {
        let CoreParts { member_id, founders, log, files, seed } = parts;
        let (state, at) = match files.snapshot()? {
            Some(found) => found,
            None => (State { members: founders, ..State::default() }, Position::default()),
        };
        let shared = Arc::new(Shared::new(member_id, state));
        let storage = LogStorage::open(log.clone(), shared.clone(), at)?;
        let local = storage.local_state()?;
        let config = raft::Config {
            election_tick: ELECTION_TICKS,
            min_election_tick: ELECTION_TICKS,
            max_election_tick: *CAMPAIGN_TICKS.end() + 1,
            heartbeat_tick: HEARTBEAT_TICKS,
            applied: at.index,
            max_size_per_msg: MESSAGE_BYTES_MAX,
            max_inflight_msgs: INFLIGHT_MESSAGES_MAX,
            check_quorum: true,
            pre_vote: true,
            max_uncommitted_size: UNCOMMITTED_BYTES_MAX,
            max_committed_size_per_ready: COMMITTED_BYTES_PER_READY,
            ..raft::Config::new(member_id)
        };
        let logger = slog::Logger::root(slog::Discard, o!());
        let voters = shared.state().read().members.voters();
        // Whoever has no term yet has not promised anything to anybody.
        let fresh = local.hard_state.term == 0;
        let mut core = Core {
            member_id,
            node: RawNode::new(&config, storage, &logger)?,
            log,
            files,
            local,
            applied: at,
            snapshot_index: at.index,
            waiting: HashMap::new(),
            next_id: 1,
            lease: Lease::default(),
            removed: false,
            opened_term: 0,
            leads_in: 0,
            only_voter: voters == [member_id],
            elections: Elections {
                rng: StdRng::seed_from_u64(seed ^ member_id.rotate_left(32)),
                drawn_for: (u64::MAX, StateRole::Follower),
                timeout_ticks: 0,
                promised_ticks: if fresh { 0 } else { ELECTION_TICKS },
                first: fresh && voters.first() == Some(&member_id),
            },
            heard_ms: BTreeMap::new(),
            snapshot_ticks: BTreeMap::new(),
            shared: shared.clone(),
        };
        if core.only_voter {
            core.node.campaign()?;
            core.drive(now_ms, &mut |_| {})?;
        }
        core.shared.set_last_index(core.node.raft.raft_log.last_index());
        Ok((core, shared))
    }

    /// A tenth of a second has passed.
    pub fn tick(&mut self, now_ms: u64) {
        let elections = &mut self.elections;
        elections.promised_ticks = elections.promised_ticks.saturating_sub(1);
        let drawn_for = (self.node.raft.term, self.node.raft.state);
        if drawn_for != elections.drawn_for {
            elections.drawn_for = drawn_for;
            elections.timeout_ticks = elections.rng.random_range(CAMPAIGN_TICKS);
        }
        // Raft draws one of its own, from the process's randomness, whenever it changes its
        // role, also when it has changed back since the last tick.
        self.node.raft.set_randomized_election_timeout(elections.timeout_ticks);
        self.node.tick();
        elections.first &= self.node.raft.term == 0;
        if elections.first
            && let Err(error) = self.node.campaign()
        {
            tracing::debug!(%error, "the first election");
        }
        if self.is_leader() {
            self.finish_transfer();
            self.resend_snapshots();
            self.ask_for_lease(now_ms);
        }
        self.on_role_changed();
    }

    /// Takes a message of another member.
    pub fn step(&mut self, mut message: Message, now_ms: u64) {
        let from = message.from;
        // A member whose files are damaged does not start: nobody asks for a snapshot.
        let rules =
            MessageRules { allows_snapshot_requests: false, check_snapshot: &check_snapshot };
        let outcome = check_message(&self.node, &mut message, &rules)
            .and_then(|()| self.check_promise(&message));
        if let Err(reason) = outcome {
            tracing::debug!(from, kind = ?message.get_msg_type(), reason, "message refused");
            return;
        }
        self.heard_ms.insert(from, now_ms);
        if let Err(error) = self.node.step(message) {
            tracing::debug!(from, %error, "message refused");
        }
        self.on_role_changed();
    }

    /// Refuses to vote while a promise lasts, and makes one to a leader that is heard.
    fn check_promise(&mut self, message: &Message) -> Result<(), &'static str> {
        match message.get_msg_type() {
            MessageType::MsgRequestVote | MessageType::MsgRequestPreVote => {
                // A leader that hands over has given up its lease before.
                let handed_over = message.context == raft::CAMPAIGN_TRANSFER;
                if self.elections.promised_ticks > 0 && !handed_over {
                    return Err("a leader was heard lately");
                }
            }
            MessageType::MsgHeartbeat | MessageType::MsgAppend | MessageType::MsgSnapshot
                if message.term >= self.node.raft.term =>
            {
                self.elections.promised_ticks = ELECTION_TICKS;
            }
            _ => {}
        }
        Ok(())
    }

    /// Begins to carry a command out, if this member leads.
    pub fn propose(&mut self, Proposal { command, term, answer }: Proposal) {
        let id = self.next_id;
        self.next_id += 1;
        match self.try_propose(id, term, &command) {
            Ok(()) => {
                self.waiting.insert(id, Waiting { term, answer });
            }
            // A caller that stopped waiting does not want to know.
            Err(error) => drop(answer.send(Err(error))),
        }
    }

    fn try_propose(&mut self, id: u64, term: u64, command: &Command) -> Result<(), PdError> {
        if !self.is_leader() || term != self.node.raft.term {
            return Err(PdError::NotLeader(self.shared.address(self.node.raft.leader_id)));
        }
        let data = command.encode_to_vec();
        if data.len() > COMMAND_BYTES_MAX {
            return Err(PdError::InvalidArgument(format!("a command of {} bytes", data.len())));
        }
        let context = id.to_le_bytes().to_vec();
        let proposed = match conf_change(command, &data) {
            None => self.node.propose(context, data),
            // Raft would carry out nothing in its place.
            Some(_) if self.node.raft.has_pending_conf() => {
                return Err(PdError::Unavailable("members are being changed already".into()));
            }
            Some(change) => self.node.propose_conf_change(context, change),
        };
        proposed.map_err(|error| PdError::Unavailable(error.to_string()))
    }

    /// Lets another member lead. This one serves no more, whatever comes of it.
    pub fn transfer(&mut self, to: u64) {
        if self.is_leader() && to != self.member_id {
            self.lease.withdraw();
            self.publish();
            self.node.transfer_leader(to);
        }
    }

    /// A hand-over that came to nothing leaves a leader that must not serve: it steps
    /// down, so that the next term has one that may.
    fn finish_transfer(&mut self) {
        if self.lease.is_withdrawn() && self.node.raft.lead_transferee.is_none() {
            let term = self.node.raft.term;
            self.node.raft.become_follower(term, raft::INVALID_ID);
        }
    }

    /// The server has taken the term over and may serve.
    pub fn open_gate(&mut self, term: u64) {
        self.opened_term = term;
        self.publish();
    }

    /// Messages to a member were lost.
    pub fn report_unreachable(&mut self, member_id: u64) {
        self.node.report_unreachable(member_id);
        let progress = self.node.raft.prs().get(member_id);
        if progress.is_some_and(|progress| progress.state == ProgressState::Snapshot) {
            self.node.report_snapshot(member_id, raft::SnapshotStatus::Failure);
        }
    }

    /// The others say that this member was removed.
    pub fn mark_removed(&mut self) {
        self.removed = true;
        self.publish();
    }

    /// Whether this member leads its term.
    pub fn is_leader(&self) -> bool {
        self.node.raft.state == StateRole::Leader
    }

    /// Whether it leads and has applied everything of earlier terms.
    pub(super) fn leads(&self) -> bool {
        self.is_leader() && self.applied.term == self.node.raft.term
    }

    /// Asks the others to renew the lease, as of now.
    pub(super) fn ask_for_lease(&mut self, now_ms: u64) {
        if self.leads() && !self.only_voter && !self.lease.is_withdrawn() {
            self.node.read_index(now_ms.to_le_bytes().to_vec());
        }
    }

    pub(super) fn set_only_voter(&mut self) {
        self.only_voter = self.shared.state().read().members.voters() == [self.member_id];
    }

    /// Notices that leadership was won or lost.
    pub(super) fn on_role_changed(&mut self) {
        let leads_in = if self.is_leader() { self.node.raft.term } else { 0 };
        if leads_in != self.leads_in {
            let led_in = std::mem::replace(&mut self.leads_in, leads_in);
            self.lease.reset();
            self.publish();
            if led_in != 0 {
                tracing::info!(term = led_in, "this placement driver leads no more");
                self.fail_waiting();
                self.shared.set_progress(BTreeMap::new());
            }
            if leads_in != 0 {
                tracing::info!(term = leads_in, "this placement driver leads");
                self.snapshot_ticks.clear();
            }
        }
    }

    /// Nobody can tell what will become of what was proposed.
    pub(super) fn fail_waiting(&mut self) {
        for (_, waiting) in self.waiting.drain() {
            let lost = PdError::Unavailable("leadership was lost; the outcome is unknown".into());
            let _ = waiting.answer.send(Err(lost));
        }
    }

    /// Makes role and lease known. The gate closes before anything else happens.
    pub(super) fn publish(&self) {
        let term = self.node.raft.term;
        let may_serve = self.leads() && self.opened_term == term && !self.removed;
        let until_ms = if may_serve { self.lease.until_ms(self.only_voter) } else { 0 };
        self.shared.gate().set(until_ms);
        self.shared.set_status(Status {
            term,
            leader_id: self.node.raft.leader_id,
            leads: self.leads(),
            open: until_ms > 0,
            removed: self.removed,
            stopped: false,
        });
    }

    pub(super) fn show_progress(&self) {
        let progress = self.node.raft.prs().iter().filter(|(id, _)| **id != self.member_id);
        let shown = progress.map(|(id, progress)| {
            let heard_ms = self.heard_ms.get(id).copied().unwrap_or(0);
            let needs_snapshot = progress.state == ProgressState::Snapshot;
            (*id, Progress { matched: progress.matched, heard_ms, needs_snapshot })
        });
        self.shared.set_progress(shown.collect());
    }

    /// A snapshot that was lost on its way would keep its member waiting for ever.
    fn resend_snapshots(&mut self) {
        let under_way: Vec<u64> = self
            .node
            .raft
            .prs()
            .iter()
            .filter(|(_, progress)| progress.state == ProgressState::Snapshot)
            .map(|(id, _)| *id)
            .collect();
        self.snapshot_ticks.retain(|id, _| under_way.contains(id));
        for id in under_way {
            let ticks = self.snapshot_ticks.entry(id).or_default();
            *ticks += 1;
            if *ticks >= SNAPSHOT_TICKS_MAX {
                *ticks = 0;
                self.node.report_snapshot(id, raft::SnapshotStatus::Failure);
            }
        }
    }
}

/// The change of Raft's configuration that a command stands for, with the command inside.
fn conf_change(command: &Command, data: &[u8]) -> Option<ConfChange> {
    let (kind, id) = match command.kind.as_ref()? {
        Kind::AddLearner(MemberInfo { id, .. }) => (ConfChangeType::AddLearnerNode, *id),
        Kind::PromoteMember(id) => (ConfChangeType::AddNode, *id),
        Kind::RemoveMember(id) => (ConfChangeType::RemoveNode, *id),
        _ => return None,
    };
    let mut change = ConfChange::default();
    change.set_change_type(kind);
    change.node_id = id;
    change.context = data.to_vec().into();
    Some(change)
}

/// The change and the command inside it.
pub(super) fn read_conf_change(data: &[u8]) -> Result<(ConfChange, Command), String> {
    let mut change = ConfChange::default();
    change.merge_from_bytes(data).map_err(|error| error.to_string())?;
    let command = Command::decode(&change.context[..]).map_err(|error| error.to_string())?;
    Ok((change, command))
}

/// How long an election takes at most when nothing goes wrong.
pub const ELECTION_MAX: std::time::Duration = TICK.saturating_mul(*CAMPAIGN_TICKS.end() as u32);
