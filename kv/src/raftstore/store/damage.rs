//! Replicas whose data turned out to be damaged: taken out, and rebuilt from another one.
//!
//! **Flow.** Whoever reads a block that does not match its checksum gets an error, and the
//! engine remembers the file. The watch thread hands its key range over; every region
//! that shares keys with it
//! 1. is marked, durably, and is read here no more;
//! 2. gives leadership away if it has it;
//! 3. as a follower asks its leader for a Raft snapshot (its log is whole: what it
//!    acknowledged still counts), whose installation clears the mark.
//!
//! Once no region needs the file any more it is removed, before a compaction comes upon it.
//!
//! **Left out.** A region whose only replica is damaged stays readable where it is
//! whole; the damaged part answers errors until it is restored from a backup.

use bytes::Bytes;
use cairn_engine::{Cf, DamagedFile, IterOptions, WriteBatch};

use super::{BackgroundJob, StoreCore};
use crate::keys::{self, RegionLocal};
use crate::raftstore::clock::MonotonicTime;
use crate::raftstore::error::RaftStoreError;
use crate::raftstore::metrics::add;

impl StoreCore {
    /// Files were found damaged.
    pub(super) fn on_damage(&mut self, files: Vec<DamagedFile>) {
        for file in files {
            tracing::error!(reason = file.reason, "a file of the data engine is damaged");
            add(&self.metrics.damaged_files, 1);
            if let Err(error) = self.take_out(&file) {
                tracing::error!(%error, "damaged regions cannot be marked");
            }
        }
    }

    /// Marks every region with keys in the file's range.
    fn take_out(&mut self, file: &DamagedFile) -> Result<(), RaftStoreError> {
        let (mut damaged, mut needed) = (Vec::new(), false);
        for peer in self.peers.values() {
            let (start, end) = keys::region_data_range(peer.region());
            let shares = peer.node.store().is_initialized()
                && file.first_key.as_ref() < end.as_slice()
                && file.last_key.as_ref() >= start.as_slice();
            if !shares {
                continue;
            }
            if peer.is_only_voter() {
                tracing::error!(region = peer.region_id, "the only replica is damaged");
                needed = true;
                continue;
            }
            damaged.push(peer.region_id);
        }
        self.mark_damaged(&damaged, &file.reason)?;
        if !needed && file.first_key.first() == Some(&keys::DATA_PREFIX) {
            self.outbox.background.push(BackgroundJob::DropDamaged(file.clone()));
        }
        Ok(())
    }

    /// Takes replicas out, durably.
    pub(super) fn mark_damaged(
        &mut self,
        region_ids: &[u64],
        reason: &str,
    ) -> Result<(), RaftStoreError> {
        let mut batch = WriteBatch::new();
        for region_id in region_ids {
            let key = keys::region_local_key(*region_id, RegionLocal::Damage);
            batch.put(Cf::Default, key, Bytes::copy_from_slice(reason.as_bytes()));
        }
        self.engines.kv.write(batch, true)?;
        for region_id in region_ids {
            tracing::error!(region = region_id, "the replica is damaged and is built anew");
            if let Some(peer) = self.peer_mut(*region_id) {
                peer.set_damaged(true);
                self.damaged.insert(*region_id);
            }
        }
        Ok(())
    }

    /// Takes the marks of an earlier run over; part of the start.
    pub(super) fn load_damage(&mut self) -> Result<(), RaftStoreError> {
        let (lower, upper) = keys::region_local_range();
        let view = self.engines.kv.snapshot();
        let mut iterator = view.iter(Cf::Default, IterOptions::range(lower, upper));
        let mut valid = iterator.seek_to_first()?;
        while valid {
            if let Some((region_id, RegionLocal::Damage)) =
                keys::parse_region_local_key(iterator.key())
                && let Some(peer) = self.peers.get_mut(&region_id)
            {
                peer.set_damaged(true);
                self.damaged.insert(region_id);
            }
            valid = iterator.next()?;
        }
        Ok(())
    }

    /// Brings damaged replicas a step further; part of a tick now and then.
    pub(super) fn repair_damaged(&mut self, now: MonotonicTime) {
        for region_id in self.damaged.clone() {
            let Some(peer) = self.peer_mut(region_id).filter(|peer| peer.is_damaged()) else {
                self.damaged.remove(&region_id);
                continue;
            };
            if peer.installing {
                continue;
            }
            if peer.is_leader() {
                peer.hand_over(now);
            } else if let Err(error) = peer.node.request_snapshot() {
                // No leader yet, or it was asked already.
                tracing::debug!(region = region_id, %error, "no snapshot is asked for now");
            }
        }
    }
}
