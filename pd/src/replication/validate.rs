//! Bytes from peers never panic: what Raft's library asserts is checked here first.
//!
//! The library treats its messages as trusted: a heartbeat whose commit index lies beyond
//! the log, an acknowledgement of entries that do not exist, or a message that only its
//! own process may make would end the process. Each rule names what it protects.

use raft::eraftpb::{Message, MessageType};
use raft::{RawNode, StateRole};

use super::storage::LogStorage;
use crate::state::State;

/// A term further ahead than this is an error, not an election.
const TERM_JUMP_MAX: u64 = 1 << 32;

/// Repairs or refuses a message; the reason is for the log.
pub(super) fn check_message(
    node: &RawNode<LogStorage>,
    message: &mut Message,
) -> Result<(), &'static str> {
    let raft = &node.raft;
    if message.to != raft.id || message.from == 0 || message.from == raft.id {
        return Err("addresses");
    }
    // Term 0 marks messages of the process itself and skips every check of terms.
    if message.term == 0 || message.term > raft.term.saturating_add(TERM_JUMP_MAX) {
        return Err("term");
    }
    if message.request_snapshot != 0 {
        return Err("request for a snapshot");
    }
    // Entries behind it would have to wait until it is installed.
    if node.snap().is_some() {
        return Err("a snapshot waits");
    }
    let last_index = raft.raft_log.last_index();
    match message.get_msg_type() {
        MessageType::MsgAppend => check_entries(message),
        // `commit_to` panics beyond the last index.
        MessageType::MsgHeartbeat if message.commit > last_index => Err("commit index"),
        MessageType::MsgAppendResponse => check_append_response(node, message),
        MessageType::MsgSnapshot => check_snapshot(node, message),
        MessageType::MsgTimeoutNow if message.term < raft.term => Err("old hand-over"),
        MessageType::MsgHeartbeat
        | MessageType::MsgHeartbeatResponse
        | MessageType::MsgRequestVote
        | MessageType::MsgRequestVoteResponse
        | MessageType::MsgRequestPreVote
        | MessageType::MsgRequestPreVoteResponse
        | MessageType::MsgTimeoutNow => Ok(()),
        // Local messages, and forwarding, which members do not use.
        _ => Err("type of message"),
    }
}

/// Entries must follow each other and not come from the future.
fn check_entries(message: &Message) -> Result<(), &'static str> {
    let mut term = message.log_term;
    for (position, entry) in message.entries.iter().enumerate() {
        let expected = message.index.checked_add(position as u64 + 1);
        if Some(entry.index) != expected || entry.term < term || entry.term > message.term {
            return Err("entries");
        }
        term = entry.term;
    }
    Ok(())
}

fn check_append_response(
    node: &RawNode<LogStorage>,
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
    let mut hint = message.reject_hint.min(last_index);
    if message.log_term > 0 {
        hint = raft.raft_log.find_conflict_by_term(hint, message.log_term).0;
    }
    if hint < progress.matched {
        message.reject_hint = progress.matched;
        message.log_term = 0;
    }
    Ok(())
}

/// A snapshot must hold a state whose members are those that Raft is told, with this one.
fn check_snapshot(node: &RawNode<LogStorage>, message: &Message) -> Result<(), &'static str> {
    let snapshot = message.get_snapshot();
    let metadata = snapshot.get_metadata();
    if metadata.index == 0 || metadata.term == 0 || metadata.term > message.term {
        return Err("snapshot's index and term");
    }
    let state = State::decode(&snapshot.data).map_err(|_| "snapshot's state")?;
    if &state.members.conf_state() != metadata.get_conf_state() {
        return Err("snapshot's members");
    }
    if !state.members.contains(node.raft.id) {
        return Err("snapshot of another group");
    }
    Ok(())
}
