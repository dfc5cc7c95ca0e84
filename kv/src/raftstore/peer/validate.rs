//! Bytes from peers never panic: what Raft's library asserts is checked here first.
//!
//! The library treats its messages as trusted: a heartbeat whose commit index lies beyond
//! the log, an acknowledgement of entries that do not exist, or a message that only its
//! own process may make would end the process. Each rule names what it protects.

use prost::Message as _;
use raft::eraftpb::{Message, MessageType};
use raft::{RawNode, StateRole};

use super::storage::{PeerStorage, conf_state};
use cairn_proto::meta;

/// A term further ahead than this is an error, not an election.
const TERM_JUMP_MAX: u64 = 1 << 32;

/// Repairs or refuses a message; the reason is for the log.
pub fn check_message(
    node: &RawNode<PeerStorage>,
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
    let last_index = raft.raft_log.last_index();
    if message.request_snapshot != 0 {
        // A damaged replica asks; only as a refusal, and for what the leader can have.
        let fits = message.get_msg_type() == MessageType::MsgAppendResponse
            && message.reject
            && message.request_snapshot <= last_index
            && message.index <= last_index
            && message.reject_hint <= last_index;
        return if fits { Ok(()) } else { Err("request for a snapshot") };
    }
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
        // Local messages, and forwarding that this store does not use.
        _ => Err("type of message"),
    }
}

/// Entries must follow each other and not come from the future.
fn check_entries(message: &Message) -> Result<(), &'static str> {
    // Term 0 "matches" every index beyond the log, and the entries would leave a hole.
    if message.index > 0 && message.log_term == 0 {
        return Err("log term");
    }
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
    node: &RawNode<PeerStorage>,
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

/// A Raft snapshot must describe the region it brings, with this peer in it.
fn check_snapshot(node: &RawNode<PeerStorage>, message: &Message) -> Result<(), &'static str> {
    let snapshot = message.get_snapshot();
    let metadata = snapshot.get_metadata();
    if metadata.index == 0 || metadata.term == 0 || metadata.term > message.term {
        return Err("snapshot's index and term");
    }
    let region = snapshot_region(message).ok_or("snapshot's region")?;
    let members = conf_state(&region);
    let is_doubled = |(at, peer): (usize, &meta::Peer)| {
        region.peers[..at].iter().any(|other| other.id == peer.id)
    };
    if &members != metadata.get_conf_state()
        || members.voters.is_empty()
        || region.peers.iter().enumerate().any(is_doubled)
    {
        return Err("snapshot's members");
    }
    if region.id != node.store().region().id
        || !region.peers.iter().any(|peer| peer.id == node.raft.id)
    {
        return Err("snapshot of another peer");
    }
    Ok(())
}

/// The region a snapshot message brings.
pub fn snapshot_region(message: &Message) -> Option<meta::Region> {
    let region = meta::Region::decode(message.get_snapshot().data.clone()).ok()?;
    let ordered = region.end_key.is_empty() || region.start_key < region.end_key;
    (ordered && region.epoch.is_some()).then_some(region)
}
