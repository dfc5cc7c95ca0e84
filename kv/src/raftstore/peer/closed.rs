//! A peer's part in closed timestamps: as the leader that closes them, as the replica that may read
//! by itself below them. The protocol and why it is sound: [`crate::raftstore::closed`].

use cairn_proto::kv;
use cairn_types::TimeStamp;

use super::Peer;
use crate::raftstore::ReadGuard;
use crate::raftstore::clock::MonotonicTime;
use crate::raftstore::closed::Mark;
use crate::raftstore::state::find_peer;

impl Peer {
    // ---- leaders ----

    /// Closes a timestamp that PD gave before `at`, or a lower one, if this peer leads for certain.
    pub fn close_timestamp(
        &self,
        ts: TimeStamp,
        guard: &dyn ReadGuard,
        at: MonotonicTime,
    ) -> Option<kv::ClosedTimestamp> {
        let region = self.region();
        // First the timestamps, then the leadership, then the log.
        let ts = guard.close(&region.start_key, &region.end_key, ts);
        if !self.has_lease(at) {
            return None;
        }
        self.check_not_merging().ok()?;
        Some(kv::ClosedTimestamp {
            region_id: self.region_id,
            epoch: region.epoch,
            index: self.node.raft.raft_log.committed,
            ts: ts.0,
        })
    }

    /// The stores of the other replicas.
    pub fn other_stores(&self) -> impl Iterator<Item = u64> + '_ {
        let others = self.region().peers.iter().filter(|peer| peer.id != self.peer_id);
        others.map(|peer| peer.store_id)
    }

    // ---- replicas ----

    /// The message that subscribes at the leader's store.
    pub fn subscription(&self) -> Option<kv::RaftMessage> {
        let leader = *find_peer(self.region(), self.node.raft.leader_id)?;
        if leader.id == self.peer_id {
            return None;
        }
        Some(kv::RaftMessage {
            region_id: self.region_id,
            from_peer: Some(self.own_peer()),
            to_peer: Some(leader),
            epoch: self.region().epoch,
            wants_closed: true,
            ..kv::RaftMessage::default()
        })
    }

    /// The leader closed a timestamp.
    pub fn on_closed(&mut self, closed: &kv::ClosedTimestamp) {
        // Of another shape it says nothing about the keys of this one; and a log that was cut in a
        // disaster has other entries at its indexes, and another number of members' changes.
        if closed.epoch == self.region().epoch {
            let mark = Mark { index: closed.index, ts: closed.ts };
            self.waiting_marks.get_or_insert_default().push(mark);
            self.publish_closed();
        }
    }

    /// Marks count as soon as they are applied.
    pub(super) fn publish_closed(&mut self) {
        if self.waiting_marks.is_none() || self.installing || self.is_damaged() {
            return;
        }
        let applied_index = self.node.store().apply_state().applied_index;
        let Some(waiting) = &mut self.waiting_marks else { return };
        if let Some(ts) = waiting.take(applied_index) {
            self.delegate.closed.advance(ts);
        }
        if waiting.is_empty() {
            self.waiting_marks = None;
        }
    }

    /// The data, or what it is of, is about to change.
    pub(super) fn forget_closed(&mut self) {
        self.waiting_marks = None;
        self.delegate.closed.forget();
    }
}
