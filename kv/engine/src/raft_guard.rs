//! Bytes from peers never panic: what Raft's library asserts is checked here first.
//!
//! The library treats its messages as trusted: a heartbeat whose commit index lies beyond
//! the log, an acknowledgement of entries that do not exist, or a message that only its
//! own process may make would end the process. Each rule names what it protects. Stores
//! and placement drivers step their groups through the same function; they differ in
//! what a snapshot must hold ([`MessageRules`]).
//!
//! **Invariant**: a message that passes does not make `RawNode::step` panic, whatever the
//! node's role. A property test steps random ones.

use std::collections::BTreeSet;

use raft::eraftpb::{ConfState, Message, MessageType};
use raft::{RawNode, StateRole, Storage};

/// A term further ahead than this is an error, not an election.
const TERM_JUMP_MAX: u64 = 1 << 32;
/// A snapshot further ahead than this is an error: no log grows so long, and the next
/// indexes must still be numbers.
const INDEX_JUMP_MAX: u64 = 1 << 48;

/// What differs from one kind of group to the other.
pub struct MessageRules<'a> {
    /// Members may ask for a snapshot although entries would do (damaged data).
    pub allows_snapshot_requests: bool,
    /// Whether a snapshot holds what its metadata says and is meant for this group.
    pub check_snapshot: &'a dyn Fn(&Message) -> Result<(), &'static str>,
}

/// Repairs or refuses a message; the reason is for the log.
pub fn check_message<S: Storage>(
    node: &RawNode<S>,
    message: &mut Message,
    rules: &MessageRules<'_>,
) -> Result<(), &'static str> {
    let raft = &node.raft;
    if message.to != raft.id || message.from == 0 || message.from == raft.id {
        return Err("addresses");
    }
    // Term 0 marks messages of the process itself and skips every check of terms.
    if message.term == 0 || message.term > raft.term.saturating_add(TERM_JUMP_MAX) {
        return Err("term");
    }
    // Entries behind it would have to wait until it is installed.
    if node.snap().is_some() {
        return Err("a snapshot waits");
    }
    let kind = message.get_msg_type();
    if raft.state == StateRole::Follower && message.term > raft.term && is_answer(kind) {
        // It asked nothing in that term; following the message there would break what it
        // promised its leader.
        return Err("answer to an earlier role");
    }
    if message.request_snapshot != 0 {
        return check_snapshot_request(node, message, rules);
    }
    // Whoever wins an election must have written its log: the library asserts it.
    let has_written = raft.raft_log.persisted == raft.raft_log.last_index();
    match kind {
        MessageType::MsgAppend => check_entries(message),
        // `commit_to` panics beyond the last index.
        MessageType::MsgHeartbeat if message.commit > raft.raft_log.last_index() => {
            Err("commit index")
        }
        MessageType::MsgAppendResponse => check_append_response(node, message),
        MessageType::MsgSnapshot => {
            check_metadata(node, message).and_then(|()| (rules.check_snapshot)(message))
        }
        MessageType::MsgTimeoutNow if message.term < raft.term => Err("old hand-over"),
        MessageType::MsgTimeoutNow
        | MessageType::MsgRequestVoteResponse
        | MessageType::MsgRequestPreVoteResponse
            if !has_written =>
        {
            Err("election before the log is written")
        }
        MessageType::MsgHeartbeat
        | MessageType::MsgHeartbeatResponse
        | MessageType::MsgRequestVote
        | MessageType::MsgRequestVoteResponse
        | MessageType::MsgRequestPreVote
        | MessageType::MsgRequestPreVoteResponse
        | MessageType::MsgTimeoutNow => Ok(()),
        // Local messages, and forwarding, which no group here uses.
        _ => Err("type of message"),
    }
}

fn is_answer(kind: MessageType) -> bool {
    matches!(
        kind,
        MessageType::MsgAppendResponse
            | MessageType::MsgHeartbeatResponse
            | MessageType::MsgRequestVoteResponse
            | MessageType::MsgRequestPreVoteResponse
    )
}

/// A damaged replica asks; only as a refusal, and for what the leader can have.
fn check_snapshot_request<S: Storage>(
    node: &RawNode<S>,
    message: &Message,
    rules: &MessageRules<'_>,
) -> Result<(), &'static str> {
    let last_index = node.raft.raft_log.last_index();
    let fits = rules.allows_snapshot_requests
        && message.get_msg_type() == MessageType::MsgAppendResponse
        && message.reject
        && message.request_snapshot <= last_index
        && message.index <= last_index
        && message.reject_hint <= last_index;
    if fits { Ok(()) } else { Err("request for a snapshot") }
}

/// Entries must follow each other and not come from the future.
fn check_entries(message: &Message) -> Result<(), &'static str> {
    // Term 0 "matches" every index beyond the log, and the entries would leave a hole.
    if message.index > 0 && message.log_term == 0 {
        return Err("log term");
    }
    let mut term = message.log_term.max(1);
    for (position, entry) in message.entries.iter().enumerate() {
        let expected = message.index.checked_add(position as u64 + 1);
        if Some(entry.index) != expected || entry.term < term || entry.term > message.term {
            return Err("entries");
        }
        term = entry.term;
    }
    Ok(())
}

fn check_append_response<S: Storage>(
    node: &RawNode<S>,
    message: &mut Message,
) -> Result<(), &'static str> {
    let raft = &node.raft;
    if raft.state != StateRole::Leader || message.term != raft.term {
        return Ok(());
    }
    let last_index = raft.raft_log.last_index();
    let Some(progress) = raft.prs().get(message.from) else { return Ok(()) };
    if !message.reject {
        // An acknowledgement beyond the log would make the leader read what it has not.
        return if message.index > last_index { Err("acknowledged index") } else { Ok(()) };
    }
    // Release 0.7.0 lets a stale refusal push the next index below what is known to match
    // (raft-rs #555): drop stale ones, and clamp the hint of the others.
    if message.index <= progress.matched {
        return Err("stale refusal");
    }
    message.reject_hint = message.reject_hint.min(last_index);
    let mut hint = message.reject_hint;
    if message.log_term > 0 {
        hint = raft.raft_log.find_conflict_by_term(hint, message.log_term).0;
    }
    if hint < progress.matched {
        message.reject_hint = progress.matched;
        message.log_term = 0;
    }
    Ok(())
}

/// A snapshot must name a point of the log, and members among whom this node is.
fn check_metadata<S: Storage>(node: &RawNode<S>, message: &Message) -> Result<(), &'static str> {
    let metadata = message.get_snapshot().get_metadata();
    let raft_log = &node.raft.raft_log;
    let index_max = raft_log.last_index().saturating_add(INDEX_JUMP_MAX);
    if metadata.index == 0
        || metadata.index > index_max
        || metadata.term == 0
        || metadata.term > message.term
    {
        return Err("snapshot's index and term");
    }
    // The library itself ignores those of a lower index.
    if metadata.index == raft_log.committed && !raft_log.match_term(metadata.index, metadata.term) {
        return Err("snapshot against what is committed");
    }
    if !is_consistent(metadata.get_conf_state()) {
        return Err("snapshot's members");
    }
    let members = metadata.get_conf_state();
    let mut ids = members.voters.iter().chain(&members.learners).chain(&members.voters_outgoing);
    if !ids.any(|id| *id == node.raft.id) {
        return Err("snapshot of another peer");
    }
    Ok(())
}

/// Whether a configuration is one that membership changes can lead to: the library panics
/// when it cannot be built up again, change by change.
fn is_consistent(members: &ConfState) -> bool {
    let ConfState { voters, learners, voters_outgoing, learners_next, .. } = members;
    let mut incoming = BTreeSet::new();
    let mut outgoing = BTreeSet::new();
    let mut followed = voters.iter().chain(learners).chain(learners_next);
    !voters.is_empty()
        && followed.all(|id| *id != 0 && incoming.insert(*id))
        && voters_outgoing.iter().all(|id| *id != 0 && outgoing.insert(*id))
        && learners.iter().all(|id| !outgoing.contains(id))
        && learners_next.iter().all(|id| outgoing.contains(id))
        && (!members.auto_leave || !outgoing.is_empty())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use protobuf::ProtobufEnum;
    use raft::eraftpb::{Entry, Snapshot};
    use raft::storage::MemStorage;

    use super::*;

    /// The log begins behind it, as after a snapshot.
    const FIRST: u64 = 3;

    /// A member of a group as it is driven: what is ready is written and acknowledged.
    struct Member {
        node: RawNode<MemStorage>,
        storage: MemStorage,
    }

    impl Member {
        fn new(voters: Vec<u64>, learners: Vec<u64>) -> Member {
            let storage = MemStorage::new();
            let mut snapshot = Snapshot::default();
            let metadata = snapshot.mut_metadata();
            (metadata.index, metadata.term) = (FIRST, 2);
            metadata.set_conf_state(ConfState::from((voters, learners)));
            storage.wl().apply_snapshot(snapshot).expect("an empty log");
            let config = raft::Config {
                applied: FIRST,
                check_quorum: true,
                pre_vote: true,
                ..raft::Config::new(1)
            };
            let logger = slog::Logger::root(slog::Discard, slog::o!());
            let node = RawNode::new(&config, storage.clone(), &logger).expect("a valid one");
            Member { node, storage }
        }

        fn write(&mut self) {
            while self.node.has_ready() {
                let mut ready = self.node.ready();
                let mut store = self.storage.wl();
                if !ready.snapshot().is_empty() {
                    store.apply_snapshot(ready.snapshot().clone()).expect("newer");
                }
                store.append(ready.entries()).expect("without holes");
                if let Some(hard_state) = ready.hs() {
                    store.set_hardstate(hard_state.clone());
                }
                drop(store);
                ready.take_messages();
                let light = self.node.advance(ready);
                if let Some(commit) = light.commit_index() {
                    self.storage.wl().mut_hard_state().commit = commit;
                }
                self.node.advance_apply();
            }
        }

        fn check(&self, message: &mut Message) -> Result<(), &'static str> {
            let rules =
                MessageRules { allows_snapshot_requests: true, check_snapshot: &|_| Ok(()) };
            check_message(&self.node, message, &rules)
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Hear(Box<Message>),
        Write,
        Tick(u8),
        Campaign,
        Propose,
    }

    /// Small, so that many fit; or as large as can be.
    fn number() -> impl Strategy<Value = u64> {
        prop_oneof![12 => 0u64..12, 1 => (u64::MAX - 2)..=u64::MAX]
    }

    fn ids() -> impl Strategy<Value = Vec<u64>> {
        proptest::collection::vec(0u64..5, 0..4)
    }

    fn snapshot() -> impl Strategy<Value = Snapshot> {
        (number(), number(), (ids(), ids(), ids(), ids()), prop::bool::weighted(0.1)).prop_map(
            |(index, term, (voters, learners, voters_outgoing, learners_next), auto_leave)| {
                let mut snapshot = Snapshot::default();
                let metadata = snapshot.mut_metadata();
                (metadata.index, metadata.term) = (index, term);
                let members = ConfState {
                    voters,
                    learners,
                    voters_outgoing,
                    learners_next,
                    auto_leave,
                    ..ConfState::default()
                };
                metadata.set_conf_state(members);
                snapshot
            },
        )
    }

    /// Entries behind an index, or nearly so.
    fn entries() -> impl Strategy<Value = Vec<(u64, u64)>> {
        let index = prop_oneof![20 => Just(0u64), 1 => 0u64..3];
        proptest::collection::vec((index, 0u64..8), 0..4)
    }

    fn message() -> impl Strategy<Value = Message> {
        let kind = (0i32..19).prop_map(|number| MessageType::from_i32(number).expect("known"));
        let addresses =
            (prop_oneof![1 => 0u64..2, 20 => 2u64..5], prop_oneof![30 => Just(1u64), 1 => 0u64..3]);
        let numbers = (number(), number(), number(), number(), number(), number());
        let rest = (any::<bool>(), prop_oneof![8 => Just(0u64), 1 => number()], any::<bool>());
        (kind, addresses, numbers, rest, entries(), snapshot()).prop_map(
            |(kind, (from, to), numbers, rest, entries, snapshot)| {
                let (term, index, log_term, commit, commit_term, reject_hint) = numbers;
                let (reject, request_snapshot, hands_over) = rest;
                let mut last_term = log_term.min(12);
                let entries = (1..).zip(entries).map(|(position, (shift, term))| {
                    last_term = if term > 6 { term - 7 } else { last_term.max(term) };
                    let index = index.wrapping_add(position).wrapping_add(shift);
                    Entry { index, term: last_term, ..Entry::default() }
                });
                let mut message = Message {
                    from,
                    to,
                    term,
                    index,
                    log_term,
                    commit,
                    commit_term,
                    reject_hint,
                    reject,
                    request_snapshot,
                    entries: entries.collect::<Vec<_>>().into(),
                    ..Message::default()
                };
                message.set_msg_type(kind);
                if hands_over {
                    message.context = raft::CAMPAIGN_TRANSFER.into();
                }
                if kind == MessageType::MsgSnapshot {
                    message.set_snapshot(snapshot);
                }
                message
            },
        )
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            12 => message().prop_map(|message| Step::Hear(Box::new(message))),
            4 => Just(Step::Write),
            1 => (1u8..25).prop_map(Step::Tick),
            1 => Just(Step::Campaign),
            1 => Just(Step::Propose),
        ];
        proptest::collection::vec(step, 1..80)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

        /// Whatever peers send in whatever order, the member goes on and forgets nothing
        /// that was committed.
        #[test]
        fn no_message_ends_the_process(
            steps in steps(),
            others in proptest::collection::btree_set(2u64..4, 0..3),
            votes in prop::bool::weighted(0.9),
        ) {
            let mut voters: Vec<u64> = others.into_iter().collect();
            let mut learners = Vec::new();
            if votes || voters.is_empty() { voters.push(1) } else { learners.push(1) }
            let mut member = Member::new(voters, learners);
            let mut committed = FIRST;
            for step in steps {
                match step {
                    Step::Hear(mut message) => {
                        if member.check(&mut message).is_ok() {
                            // Raft may refuse what it does not need.
                            let _ = member.node.step(*message);
                        }
                    }
                    Step::Write => member.write(),
                    Step::Tick(ticks) => {
                        for _ in 0..ticks {
                            member.write();
                            member.node.tick();
                        }
                    }
                    Step::Campaign => {
                        member.write();
                        let _ = member.node.campaign();
                    }
                    Step::Propose => drop(member.node.propose(Vec::new(), b"data".to_vec())),
                }
                let raft_log = &member.node.raft.raft_log;
                prop_assert!(raft_log.committed >= committed);
                prop_assert!(raft_log.committed <= raft_log.last_index());
                committed = raft_log.committed;
            }
        }
    }

    #[test]
    fn entries_without_a_term_are_refused() {
        let member = Member::new(vec![1, 2], vec![]);
        let append = |index, log_term, entry_term| {
            let entry = Entry { index: index + 1, term: entry_term, ..Entry::default() };
            let mut message = Message {
                from: 2,
                to: 1,
                term: 4,
                index,
                log_term,
                commit: index + 1,
                entries: vec![entry].into(),
                ..Message::default()
            };
            message.set_msg_type(MessageType::MsgAppend);
            member.check(&mut message)
        };
        assert_eq!(append(FIRST, 2, 3), Ok(()));
        assert_eq!(append(FIRST + 4, 0, 3), Err("log term"));
        assert_eq!(append(0, 0, 0), Err("entries"));
        assert_eq!(append(FIRST, 2, 5), Err("entries"));
    }

    #[test]
    fn only_configurations_that_changes_lead_to_are_consistent() {
        let consistent = |voters: &[u64], learners: &[u64], outgoing: &[u64], next: &[u64]| {
            is_consistent(&ConfState {
                voters: voters.to_vec(),
                learners: learners.to_vec(),
                voters_outgoing: outgoing.to_vec(),
                learners_next: next.to_vec(),
                ..ConfState::default()
            })
        };
        assert!(consistent(&[1, 2, 3], &[4], &[], &[]));
        assert!(consistent(&[1, 2, 3], &[5], &[1, 2, 4, 6], &[4]));
        assert!(!consistent(&[], &[1], &[], &[]), "nobody votes");
        assert!(!consistent(&[1, 1], &[], &[], &[]), "a voter twice");
        assert!(!consistent(&[1, 0], &[], &[], &[]), "no id");
        assert!(!consistent(&[1, 2], &[2], &[], &[]), "a voter that learns");
        assert!(!consistent(&[1], &[], &[], &[2]), "it has no vote to lose");
        assert!(!consistent(&[1], &[2], &[1, 2], &[]), "it loses its vote only later");
    }
}
