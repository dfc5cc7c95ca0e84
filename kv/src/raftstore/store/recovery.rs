//! What a store does for a recovery after other stores were lost for good.
//!
//! PD's orders come with answers to the store's reports, and again until a report shows them
//! done; so each may come twice, late, or not at all. What leading without a majority means
//! is told in [`crate::raftstore::peer::forced`].

use std::time::Duration;

use cairn_engine::WriteBatch;
use cairn_proto::{meta, pd};

use super::{PdEvent, StoreCore};
use crate::raftstore::clock::MonotonicTime;
use crate::raftstore::error::RaftStoreError;
use crate::raftstore::ids::{RegionEpoch, epoch_of};
use crate::raftstore::peer::Peer;
use crate::raftstore::snapshot::delete_region_data;
use crate::raftstore::state::{self, bootstrap_region, find_peer_on_store};
use crate::raftstore::store::reports::WANTED_AGAIN;

/// Stores that are gone must have been silent for so long: PD has waited longer.
const SILENCE_MIN: Duration = Duration::from_secs(5);

impl StoreCore {
    /// Takes the steps that fit, then reports all peers if PD wants that.
    pub(super) fn take_recovery_orders(&mut self, orders: pd::RecoveryOrders, now: MonotonicTime) {
        for order in &orders.force {
            self.force_leader(order, &orders.failed_stores, now);
        }
        for order in &orders.remove {
            self.remove_peer(order);
        }
        for region in orders.create {
            let region_id = region.id;
            if let Err(error) = self.create_region(region) {
                tracing::error!(region = region_id, %error, "empty region cannot be created");
            }
        }
        if orders.round > 0 {
            let mut peers: Vec<pd::PeerReport> = self.peers.values().map(Peer::report).collect();
            peers.sort_by_key(|report| report.region.as_ref().map_or(0, |region| region.id));
            self.outbox.pd.push(PdEvent::Peers { round: orders.round, peers });
        }
        let soon = self.config.store_heartbeat.min(WANTED_AGAIN);
        self.next_store_report = self.next_store_report.min(now.plus(soon));
    }

    fn force_leader(&mut self, order: &pd::ForceLeader, failed_stores: &[u64], now: MonotonicTime) {
        let region_id = order.region_id;
        let is_heard = |id: &u64| now.since(self.links.heard_at(*id)) < SILENCE_MIN;
        if failed_stores.contains(&self.store_id) || failed_stores.iter().any(is_heard) {
            tracing::warn!(
                region = region_id,
                "a store that shall be gone is not: nothing is done"
            );
            return;
        }
        let Some(peer) = self.peer_mut(region_id) else { return };
        match peer.force_leader(order, failed_stores, now) {
            Ok(()) => {
                self.forced.insert(region_id);
                self.awake.insert(region_id);
            }
            Err(reason) => {
                tracing::info!(region = region_id, reason, "leadership is not forced now");
            }
        }
    }

    /// Leaders without a majority bring their membership through the log.
    pub(super) fn drive_forced(&mut self, now: MonotonicTime) {
        for region_id in self.forced.clone() {
            match self.peers.get_mut(&region_id).filter(|peer| peer.is_forced()) {
                Some(peer) => {
                    peer.propose_forced(now);
                    self.dirty.insert(region_id);
                }
                None => {
                    self.forced.remove(&region_id);
                }
            }
        }
    }

    /// Removes a peer whose range others hold at a newer epoch, or that has no data.
    fn remove_peer(&mut self, order: &pd::RemovePeer) {
        let Some(peer) = self.peers.get(&order.region_id) else { return };
        let epoch = epoch_of(peer.region());
        let seen = order.epoch.as_ref().map(RegionEpoch::from).unwrap_or_default();
        if peer.peer_id != order.peer_id || epoch != seen {
            return;
        }
        tracing::warn!(region = order.region_id, peer = order.peer_id, "peer is removed: stale");
        let buried = RegionEpoch { conf_ver: epoch.conf_ver + 1, ..epoch };
        self.destroy(order.region_id, buried, None);
    }

    /// Makes an empty region for a range of which nothing is left anywhere. Written at once,
    /// by the Raft thread: it happens once in the life of a cluster, if ever.
    fn create_region(&mut self, region: meta::Region) -> Result<(), RaftStoreError> {
        let Some(own) = find_peer_on_store(&region, self.store_id).copied() else {
            return Err(RaftStoreError::Corrupted("a region without a peer here"));
        };
        if !self.destroying.is_empty() {
            // What is being deleted may be of this range: PD orders again.
            return Ok(());
        }
        let view = self.engines.kv.snapshot();
        let is_known = self.peers.contains_key(&region.id)
            || state::load_region_state(view.as_ref(), region.id)?.is_some();
        let overlapping = self.regions.overlapping(region.id, &region.start_key, &region.end_key);
        if is_known || !overlapping.is_empty() {
            return Ok(());
        }
        let mut batch = WriteBatch::new();
        delete_region_data(&mut batch, &region);
        self.engines.kv.write(batch, false)?;
        bootstrap_region(self.engines.kv.as_ref(), self.store_id, &region)?;
        tracing::warn!(region = region.id, "empty region in place of one that was lost");
        self.load_peer(region, own.id, None)
    }
}
