//! Messages of other stores: to known peers, to peers not yet born, to peers long gone.

use cairn_proto::{kv, meta};
use prost::Message as _;
use raft::eraftpb::{Message, MessageType};

use super::{PENDING_VOTES_MAX, StoreCore};
use crate::raftstore::clock::MonotonicTime;
use crate::raftstore::ids::{RegionEpoch, epoch_of};
use crate::raftstore::peer::{Peer, count_dropped, snapshot_region};
use crate::raftstore::snapshot::SnapshotData;
use crate::raftstore::space::SpaceLevel;
use crate::raftstore::state::{self, PeerState, find_peer};

/// Decodes Raft's own message; entries share the memory of the bytes.
pub(in crate::raftstore) fn decode_message(bytes: &bytes::Bytes) -> Option<Message> {
    let mut message = Message::default();
    let mut stream = protobuf::CodedInputStream::from_carllerche_bytes(bytes);
    protobuf::Message::merge_from(&mut message, &mut stream).ok()?;
    Some(message)
}

fn is_vote(message: &Message) -> bool {
    matches!(message.get_msg_type(), MessageType::MsgRequestVote | MessageType::MsgRequestPreVote)
}

impl StoreCore {
    /// Takes one message of another store; whatever it holds, it only can be dropped.
    pub(super) fn on_raft_message(&mut self, message: kv::RaftMessage, now: MonotonicTime) {
        if let Err(reason) = self.try_raft_message(message, now) {
            tracing::debug!(store = self.store_id, reason, "raft message dropped");
            count_dropped(&self.metrics, 1);
        }
    }

    fn try_raft_message(
        &mut self,
        message: kv::RaftMessage,
        now: MonotonicTime,
    ) -> Result<(), &'static str> {
        let region_id = message.region_id;
        if region_id == 0 {
            return self.on_beat(&message, now);
        }
        let from = message.from_peer.ok_or("no sender")?;
        let to = message.to_peer.ok_or("no receiver")?;
        if from.id == 0 || to.id == 0 || to.store_id != self.store_id {
            return Err("addresses");
        }
        self.links.heard(from.store_id, now);
        if self.destroying.contains(&region_id) {
            return Err("peer is being removed");
        }
        if message.notice() != kv::RaftNotice::NoNotice {
            return self.on_notice(&message, &from, &to, now);
        }
        let epoch = message.epoch.as_ref().map(RegionEpoch::from).unwrap_or_default();
        if let Some(peer) = self.peers.get(&region_id) {
            if to.id < peer.peer_id {
                return Err("meant for an earlier peer");
            }
            let own_epoch = epoch_of(peer.region());
            if to.id > peer.peer_id && (epoch.conf_ver > own_epoch.conf_ver) {
                // Removed and added again while we heard nothing.
                self.destroy(region_id, epoch, None);
                return Err("peer was replaced");
            }
            if message.is_tombstone {
                return self.on_tombstone(&to, region_id, epoch);
            }
            if epoch.conf_ver < own_epoch.conf_ver && find_peer(peer.region(), from.id).is_none() {
                self.tell_removed(&message, &from, &to);
                return Err("sender was removed");
            }
        } else if message.is_tombstone {
            self.on_absent_removed(region_id, epoch);
            return Err("no such peer");
        }
        if !message.read_index.is_empty() {
            let read_index =
                kv::ReadIndex::decode(message.read_index).map_err(|_| "undecodable read index")?;
            return self.on_read_index(region_id, &from, read_index, now);
        }
        if message.wants_closed {
            return self.on_subscription(region_id, now);
        }
        let decoded = decode_message(&message.message).ok_or("undecodable")?;
        if now < self.vote_quiet_until && is_vote(&decoded) {
            return Err("just started");
        }
        if decoded.get_msg_type() == MessageType::MsgSnapshot {
            return Err("a snapshot without its data");
        }
        if !decoded.entries.is_empty() && self.config.space.level() == SpaceLevel::Exhausted {
            // The other replicas go on; this one catches up when there is room.
            return Err("no room for entries");
        }
        if !self.peers.contains_key(&region_id) {
            self.create_by_message(&message, &decoded, &to)?;
        }
        if is_vote(&decoded) && self.peers.get(&region_id).is_some_and(Peer::is_resting) {
            // Whoever stands for election does not rest.
            self.wake(region_id, now);
            self.peer_mut(region_id).into_iter().for_each(Peer::ping);
        }
        let peer = self.peer_mut(region_id).ok_or("no such peer")?;
        peer.step(&from, decoded, message.rest_number, now)
    }

    /// A follower's question for a read index, or the answer to one of ours.
    fn on_read_index(
        &mut self,
        region_id: u64,
        from: &meta::Peer,
        read_index: kv::ReadIndex,
        now: MonotonicTime,
    ) -> Result<(), &'static str> {
        let peer = self.peers.get_mut(&region_id).ok_or("no such peer")?;
        self.dirty.insert(region_id);
        if read_index.is_answer {
            peer.on_read_index_answer(read_index);
        } else {
            peer.on_read_index_question(from, read_index, self.regions.guard(), now);
        }
        Ok(())
    }

    /// A Raft snapshot that arrived whole.
    pub(super) fn on_snapshot(
        &mut self,
        message: kv::RaftMessage,
        data: SnapshotData,
        now: MonotonicTime,
    ) {
        if let Err((reason, data)) = self.try_snapshot(&message, data, now) {
            tracing::info!(region = message.region_id, reason, "raft snapshot refused");
            count_dropped(&self.metrics, 1);
            data.discard();
        }
    }

    fn try_snapshot(
        &mut self,
        message: &kv::RaftMessage,
        data: SnapshotData,
        now: MonotonicTime,
    ) -> Result<(), (&'static str, SnapshotData)> {
        let region_id = message.region_id;
        let (Some(from), Some(to)) = (message.from_peer, message.to_peer) else {
            return Err(("addresses", data));
        };
        let Some(decoded) = decode_message(&message.message)
            .filter(|decoded| decoded.get_msg_type() == MessageType::MsgSnapshot)
        else {
            return Err(("undecodable", data));
        };
        let Some(region) = snapshot_region(&decoded).filter(|region| region.id == region_id) else {
            return Err(("no region", data));
        };
        if to.store_id != self.store_id || self.destroying.contains(&region_id) {
            return Err(("addresses", data));
        }
        if !self.obstructing(region_id, &region.start_key, &region.end_key).is_empty() {
            return Err(("overlaps a region that is here", data));
        }
        if !self.peers.contains_key(&region_id)
            && let Err(reason) = self.create_by_message(message, &decoded, &to)
        {
            return Err((reason, data));
        }
        let Some(peer) = self.peer_mut(region_id).filter(|peer| peer.peer_id == to.id) else {
            return Err(("meant for another peer", data));
        };
        if let Err(reason) = peer.step(&from, decoded, message.rest_number, now) {
            return Err((reason, data));
        }
        // Raft decides when the peer is next ready whether it wants the snapshot.
        if peer.node.snap().is_none() {
            return Err(("raft does not need it", data));
        }
        if let Some(older) = self.received.insert(region_id, data) {
            older.discard();
        }
        Ok(())
    }

    /// Creates a peer because somebody talks to it, if that may be.
    fn create_by_message(
        &mut self,
        message: &kv::RaftMessage,
        decoded: &Message,
        to: &meta::Peer,
    ) -> Result<(), &'static str> {
        let region_id = message.region_id;
        let is_vote = is_vote(decoded);
        let from_leader = matches!(
            decoded.get_msg_type(),
            MessageType::MsgAppend | MessageType::MsgHeartbeat | MessageType::MsgSnapshot
        );
        if !is_vote && !from_leader {
            return Err("no such peer");
        }
        let epoch = message.epoch.as_ref().map(RegionEpoch::from).unwrap_or_default();
        let view = self.engines.kv.snapshot();
        let known = state::load_region_state(view.as_ref(), region_id)
            .map_err(|_| "the region's state is unreadable")?;
        if let Some(known) = known {
            if let Some(from) = message.from_peer.filter(|_| known.merged_into.is_some()) {
                self.tell_merged(region_id, &from, to);
                return Err("region was merged");
            }
            let buried = known.region.as_ref().map(epoch_of).unwrap_or_default();
            let newer = to.id > known.peer_id && epoch.conf_ver >= buried.conf_ver;
            if known.state != PeerState::Tombstone as i32 || !newer {
                return Err("peer was removed");
            }
        }
        if !self.obstructing(region_id, &message.start_key, &message.end_key).is_empty() {
            if is_vote {
                // A split on its way here will create the peer; its vote counts then.
                self.pending_votes.push_back(message.clone());
                if self.pending_votes.len() > PENDING_VOTES_MAX {
                    self.pending_votes.pop_front();
                }
            }
            return Err("overlaps a region that is here");
        }
        if self.engines.log.bounds(region_id).is_some() {
            // It promised entries before a crash took its range; the split that made it
            // is applied again.
            return Err("its birth is still to be applied");
        }
        self.create_uninitialized(region_id, to.id)?;
        if let Some(peer) = self.peers.get_mut(&region_id) {
            peer.born_at = message.epoch;
        }
        Ok(())
    }

    /// Tells a peer that its region goes on without it.
    pub(super) fn tell_removed(
        &mut self,
        message: &kv::RaftMessage,
        from: &meta::Peer,
        to: &meta::Peer,
    ) {
        let Some(peer) = self.peers.get(&message.region_id) else { return };
        if from.store_id == self.store_id {
            return;
        }
        self.outbox.messages.push(kv::RaftMessage {
            region_id: message.region_id,
            from_peer: Some(*to),
            to_peer: Some(*from),
            epoch: peer.region().epoch,
            is_tombstone: true,
            ..kv::RaftMessage::default()
        });
    }

    fn on_tombstone(
        &mut self,
        to: &meta::Peer,
        region_id: u64,
        epoch: RegionEpoch,
    ) -> Result<(), &'static str> {
        let peer = self.peers.get(&region_id).ok_or("no such peer")?;
        if to.id != peer.peer_id || epoch.conf_ver <= epoch_of(peer.region()).conf_ver {
            return Err("old tombstone");
        }
        tracing::info!(region = region_id, peer = to.id, "peer was removed while it was away");
        self.destroy(region_id, epoch, None);
        Ok(())
    }
}
