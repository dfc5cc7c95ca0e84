//! Questions and answers about what became of regions: removed, merged, or still there.
//!
//! A store that was away may hold peers of regions that went on without it, or that others
//! have absorbed; it asks the stores of their members.

use cairn_proto::{kv, meta};

use super::StoreCore;
use crate::raftstore::clock::MonotonicTime;
use crate::raftstore::ids::{RegionEpoch, epoch_of};
use crate::raftstore::merge::is_beyond;
use crate::raftstore::state::{self, MergeState, find_peer, find_peer_on_store};

/// Ticks between two questions about one region: answers come within one.
pub(super) const ASK_FATE_TICKS: u64 = 10;

impl StoreCore {
    /// Asks the former peers of a region whether it is dead, or goes on without this peer;
    /// at most once in so many ticks.
    pub(super) fn ask_fate(&mut self, region_id: u64, interval_ticks: u64) {
        let ticks = self.ticks;
        let Some(peer) = self.peers.get_mut(&region_id) else { return };
        let asked = peer.merging.asked_at_tick;
        if peer.is_leader() || (asked > 0 && ticks < asked + interval_ticks) {
            return;
        }
        peer.merging.asked_at_tick = ticks.max(1);
        let own_store = self.store_id;
        for member in peer.known_peers() {
            if member.store_id != own_store {
                self.notify(region_id, member, kv::RaftNotice::AskFate);
            }
        }
    }

    /// Asks the target's peers whether this store still has one to come: the source waits
    /// for it.
    pub(super) fn ask_fate_of_absent(&mut self, source_id: u64, target: &meta::Region) {
        let ticks = self.ticks;
        let (Some(source), Some(own)) =
            (self.peers.get_mut(&source_id), find_peer_on_store(target, self.store_id))
        else {
            return;
        };
        if ticks < source.merging.asked_at_tick + ASK_FATE_TICKS {
            return;
        }
        source.merging.asked_at_tick = ticks;
        for member in target.peers.iter().filter(|member| member.id != own.id) {
            self.outbox.messages.push(kv::RaftMessage {
                region_id: target.id,
                from_peer: Some(*own),
                to_peer: Some(*member),
                epoch: target.epoch,
                notice: kv::RaftNotice::AskFate.into(),
                ..kv::RaftMessage::default()
            });
        }
    }

    /// Sends what is no message of Raft's.
    pub(super) fn notify(&mut self, region_id: u64, to: meta::Peer, notice: kv::RaftNotice) {
        let Some(peer) = self.peers.get(&region_id) else { return };
        let own = meta::Peer { id: peer.peer_id, store_id: self.store_id, ..meta::Peer::default() };
        self.outbox.messages.push(kv::RaftMessage {
            region_id,
            from_peer: Some(own),
            to_peer: Some(to),
            epoch: peer.region().epoch.or(peer.born_at),
            notice: notice.into(),
            ..kv::RaftMessage::default()
        });
    }

    /// Another store's notice.
    pub(super) fn on_notice(
        &mut self,
        message: &kv::RaftMessage,
        from: &meta::Peer,
        to: &meta::Peer,
        now: MonotonicTime,
    ) -> Result<(), &'static str> {
        let region_id = message.region_id;
        match message.notice() {
            kv::RaftNotice::NoNotice => Err("no notice"),
            kv::RaftNotice::AskFate => {
                if let Some(peer) = self.peers.get(&region_id) {
                    let epoch = message.epoch.as_ref().map(RegionEpoch::from).unwrap_or_default();
                    if find_peer(peer.region(), from.id).is_none()
                        && epoch.conf_ver < epoch_of(peer.region()).conf_ver
                    {
                        self.tell_removed(message, from, to);
                    }
                } else {
                    self.tell_merged(region_id, from, to);
                }
                Ok(())
            }
            kv::RaftNotice::Merged => {
                let merge = MergeState {
                    target: Some(message.merge_target.clone().ok_or("no target")?),
                    min_index: message.merge_min_index,
                    prepare_index: 0,
                };
                let peer = self.peers.get_mut(&region_id).ok_or("no such peer")?;
                if peer.peer_id != to.id {
                    return Err("meant for another peer");
                }
                if peer.node.store().is_initialized() {
                    if !peer.installing {
                        peer.on_merged(merge);
                    }
                    self.merging.insert(region_id);
                    self.dirty.insert(region_id);
                    self.drive_merge(region_id, now);
                } else if !peer.installing {
                    let epoch = message.epoch.as_ref().map(RegionEpoch::from).unwrap_or_default();
                    self.destroy(region_id, epoch, Some(merge));
                }
                Ok(())
            }
            kv::RaftNotice::WantRollback => {
                let peer = self.peers.get(&region_id).ok_or("no such peer")?;
                let is_member = find_peer(peer.region(), from.id).is_some();
                if !is_member || message.epoch != peer.region().epoch {
                    return Err("another time");
                }
                if peer.is_leader() && peer.merging.state.is_some() {
                    self.rollback_merge(region_id, now);
                }
                Ok(())
            }
        }
    }

    /// Tells a peer of a region that was absorbed here that it is dead.
    pub(super) fn tell_merged(&mut self, region_id: u64, from: &meta::Peer, to: &meta::Peer) {
        let view = self.engines.kv.snapshot();
        let Ok(Some(known)) = state::load_region_state(view.as_ref(), region_id) else { return };
        let (Some(region), Some(merge)) = (known.region, known.merged_into) else { return };
        if from.store_id == self.store_id {
            return;
        }
        let mut message = kv::RaftMessage {
            region_id,
            from_peer: Some(*to),
            to_peer: Some(*from),
            epoch: region.epoch,
            ..kv::RaftMessage::default()
        };
        if find_peer(&region, from.id).is_some() {
            message.set_notice(kv::RaftNotice::Merged);
            message.merge_min_index = merge.min_index;
            message.merge_target = merge.target;
        } else {
            // It was removed before: its store had no part in the merge.
            message.is_tombstone = true;
        }
        self.outbox.messages.push(message);
    }

    /// A peer that should be here, and is not, was removed from its region. What was
    /// absorbed by that region need not wait for it.
    pub(super) fn on_absent_removed(&mut self, target_id: u64, epoch: RegionEpoch) {
        for region_id in self.merging.clone() {
            let merge = self.peers.get(&region_id).and_then(|peer| {
                let merge = peer.merging.merged_into.clone()?;
                let is_past = is_beyond(epoch, merge.target_epoch());
                (merge.target_id() == target_id && is_past).then_some(merge)
            });
            if merge.is_some() {
                self.destroy(region_id, epoch, merge);
            }
        }
    }
}
