//! The two halves of a peer's part in a round, around the write of the log.

use std::sync::Arc;

use bytes::Bytes;
use cairn_engine::LogBatch;
use cairn_proto::{kv, meta};
use protobuf::Message as _;
use raft::eraftpb::{Message, MessageType, Snapshot};

use super::{Peer, snapshot_region};
use crate::raftstore::apply::CommittedEntries;
use crate::raftstore::clock::MonotonicTime;
use crate::raftstore::state::{ApplyState, find_peer};
use crate::raftstore::store::OutgoingSnapshot;

/// What a ready peer asks of its store in one round.
#[derive(Default)]
pub struct ReadyEffects {
    /// Sent before the log is written: a leader's.
    pub early: Vec<kv::RaftMessage>,
    /// Sent after the log is written.
    pub late: Vec<kv::RaftMessage>,
    /// Raft snapshots to send.
    pub snapshots: Vec<OutgoingSnapshot>,
    /// Handed to apply.
    pub committed: Vec<CommittedEntries>,
    /// A Raft snapshot to install; the peer stands still until it is.
    pub install: Option<Snapshot>,
    /// Whether the log must be synced.
    pub must_sync: bool,
}

impl Peer {
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
        let messages = ready.take_messages();
        effects.early = self.wrap_all(&messages, &mut effects.snapshots);
        let confirmed = self.reads.on_read_states(ready.take_read_states(), &mut self.lease);
        for (remote, index) in confirmed {
            self.confirm_remote(remote, index);
        }
        self.push_committed(ready.take_committed_entries(), &mut effects.committed);
        if let Some(hard_state) = ready.hs() {
            self.node.mut_store().set_hard_state(hard_state.clone());
            self.state_dirty = true;
        }
        if !ready.snapshot().is_empty() {
            effects.install = Some(ready.snapshot().clone());
            self.installing = true;
            self.forget_closed();
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
        effects.late = self.wrap_all(&persisted, &mut effects.snapshots);
        let mut light = self.node.advance_append(ready);
        if let Some(commit_index) = light.commit_index() {
            self.node.mut_store().set_commit(commit_index);
            self.state_dirty = true;
        }
        self.note_committed(light.committed_entries());
        let messages = light.take_messages();
        effects.late.extend(self.wrap_all(&messages, &mut effects.snapshots));
        self.push_committed(light.take_committed_entries(), &mut effects.committed);
        self.publish();
        effects
    }

    /// The Raft snapshot that made the peer stand still is installed: its past starts anew.
    pub fn on_installed(
        &mut self,
        region: Arc<meta::Region>,
        apply_state: ApplyState,
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
        self.forced = None;
    }

    /// Raft may forget that the snapshot's entries are to be applied.
    pub fn after_install(&mut self) {
        let index = self.node.store().apply_state().applied_index;
        self.node.advance_apply_to(index);
    }

    /// Addresses messages; one that carries a Raft snapshot gets its data and a way of
    /// its own.
    fn wrap_all(
        &self,
        messages: &[Message],
        snapshots: &mut Vec<OutgoingSnapshot>,
    ) -> Vec<kv::RaftMessage> {
        let mut wrapped = Vec::with_capacity(messages.len());
        for message in messages {
            let Some(addressed) = self.wrap(message) else { continue };
            if message.get_msg_type() == MessageType::MsgSnapshot {
                let index = message.get_snapshot().get_metadata().index;
                let source = self.node.store().handed_out(index);
                if let (Some(source), Some(region)) = (source, snapshot_region(message)) {
                    snapshots.push(OutgoingSnapshot {
                        head: addressed,
                        region,
                        engine: source.view,
                        shared: source.shared,
                        peer_id: message.to,
                    });
                }
            } else {
                wrapped.push(addressed);
            }
        }
        self.node.store().forget_handed_out();
        wrapped
    }

    /// Addresses a message; `None` if the receiver is not known.
    fn wrap(&self, message: &Message) -> Option<kv::RaftMessage> {
        let region = self.region();
        let to_peer = match find_peer(region, message.to) {
            Some(peer) => *peer,
            None => *self.strangers.iter().find(|peer| peer.id == message.to)?,
        };
        Some(kv::RaftMessage {
            region_id: self.region_id,
            from_peer: Some(self.own_peer()),
            to_peer: Some(to_peer),
            epoch: region.epoch.or(self.born_at),
            message: Bytes::from(message.write_to_bytes().ok()?),
            start_key: region.start_key.clone(),
            end_key: region.end_key.clone(),
            rest_number: self.rest_number(),
            ..kv::RaftMessage::default()
        })
    }
}
