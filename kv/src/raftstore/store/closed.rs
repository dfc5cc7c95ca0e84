//! Closed timestamps of all regions of a store: who wants them, and their way to other stores.

use std::collections::BTreeMap;

use cairn_proto::{kv, meta};
use cairn_types::TimeStamp;

use super::StoreCore;
use crate::raftstore::clock::MonotonicTime;
use crate::raftstore::closed::ENTRIES_PER_MESSAGE;

impl StoreCore {
    /// A follower wants to know; nobody else is told than those that are led here.
    pub(super) fn on_subscription(
        &mut self,
        region_id: u64,
        now: MonotonicTime,
    ) -> Result<(), &'static str> {
        let peer = self.peers.get(&region_id).filter(|peer| peer.is_leader());
        peer.ok_or("a subscription at a peer that does not lead")?;
        self.subscriptions.enter(region_id, now);
        self.subscriptions.publish(&self.regions.subscribed);
        Ok(())
    }

    /// Closes a timestamp of PD's wherever somebody subscribed; it was given before `at`.
    pub(super) fn close_timestamp(&mut self, ts: TimeStamp, at: MonotonicTime) {
        let Some(guard) = self.regions.guard() else { return };
        let mut closed_by_store: BTreeMap<u64, Vec<kv::ClosedTimestamp>> = BTreeMap::new();
        for region_id in self.subscriptions.current(at) {
            let Some(peer) = self.peers.get_mut(&region_id).filter(|peer| peer.is_leader()) else {
                self.subscriptions.leave(region_id);
                continue;
            };
            let Some(closed) = peer.close_timestamp(ts, guard, at) else {
                // For the next time.
                peer.delegate.want_lease();
                continue;
            };
            // It may be the one that is left when nobody leads.
            peer.on_closed(&closed);
            for store_id in peer.other_stores() {
                closed_by_store.entry(store_id).or_default().push(closed);
            }
        }
        self.subscriptions.publish(&self.regions.subscribed);
        let store = |store_id| Some(meta::Peer { store_id, ..meta::Peer::default() });
        for (store_id, closed) in closed_by_store {
            for part in closed.chunks(ENTRIES_PER_MESSAGE) {
                self.outbox.messages.push(kv::RaftMessage {
                    from_peer: store(self.store_id),
                    to_peer: store(store_id),
                    closed: part.to_vec(),
                    ..kv::RaftMessage::default()
                });
            }
        }
    }

    /// Another store closed timestamps in regions it leads.
    pub(super) fn on_closed(&mut self, closed: &[kv::ClosedTimestamp]) {
        for one in closed {
            if let Some(peer) = self.peers.get_mut(&one.region_id) {
                peer.on_closed(one);
            }
        }
    }
}
