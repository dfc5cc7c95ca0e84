//! Merges as every store applies them; the protocol is in [`crate::raftstore::merge`].
//!
//! **Invariants**
//! - What the target decides depends on its own region and the command alone.
//! - The source's last entries, the target's new range and the source's tombstone are in
//!   one batch: a crash leaves all of it or nothing, and the source's log is thrown away
//!   only after the batch is durable.

use std::sync::Arc;

use raft::eraftpb::Entry;

use super::{Applier, ApplyPeer, Callback, Outcome, Step};
use crate::raftstore::command::{CommitMergeCommand, PrepareMergeCommand, RollbackMergeCommand};
use crate::raftstore::error::RaftStoreError;
use crate::raftstore::ids::{RegionEpoch, epoch_of};
use crate::raftstore::merge::{merged, obstacle, prepared, rolled_back};
use crate::raftstore::state::{self, MergeState, PeerState, RegionLocalState};

/// Bytes of a source's entries read from the log at one time.
const CATCH_UP_BYTES: u64 = 16 * 1024 * 1024;

impl Applier {
    pub(super) fn apply_prepare_merge(
        &mut self,
        peer: &mut ApplyPeer,
        index: u64,
        command: PrepareMergeCommand,
        callback: Callback,
    ) -> Option<Outcome> {
        let seen = command.epoch.as_ref().map(RegionEpoch::from);
        let fits = seen == Some(epoch_of(&peer.region))
            && peer.merge.is_none()
            && command.target.as_ref().is_some_and(|to| obstacle(&peer.region, to).is_none());
        if !fits {
            callback.fail(peer.epoch_mismatch());
            return None;
        }
        let region = prepared(&peer.region);
        let merge = MergeState {
            target: command.target,
            min_index: command.min_index,
            prepare_index: index,
        };
        let local = RegionLocalState {
            region: Some(region.clone()),
            state: PeerState::Merging.into(),
            peer_id: peer.peer_id,
            merge: Some(merge.clone()),
            ..RegionLocalState::default()
        };
        state::put_local_state(&mut self.batch, &local);
        peer.set_region(Arc::new(region.clone()));
        peer.merge = Some(merge.clone());
        Some(Outcome::PrepareMerge { region, merge, callback })
    }

    pub(super) fn apply_rollback_merge(
        &mut self,
        peer: &mut ApplyPeer,
        command: &RollbackMergeCommand,
        callback: Callback,
    ) -> Option<Outcome> {
        let fits =
            peer.merge.as_ref().is_some_and(|merge| merge.prepare_index == command.prepare_index);
        if !fits {
            callback.fail(peer.epoch_mismatch());
            return None;
        }
        let region = rolled_back(&peer.region);
        state::put_region_state(&mut self.batch, &region, PeerState::Normal, peer.peer_id);
        peer.set_region(Arc::new(region.clone()));
        peer.merge = None;
        Some(Outcome::RollbackMerge { region, callback })
    }

    pub(super) fn apply_commit_merge(
        &mut self,
        peer: &mut ApplyPeer,
        command: &CommitMergeCommand,
        callback: Callback,
    ) -> Result<Step, RaftStoreError> {
        let seen = command.epoch.as_ref().map(RegionEpoch::from);
        let Some(source_region) = command
            .source
            .as_ref()
            .filter(|_| seen == Some(epoch_of(&peer.region)) && peer.merge.is_none())
        else {
            callback.fail(peer.epoch_mismatch());
            return Ok(Step::Done);
        };
        let source_id = source_region.id;
        let Some(mut source) = self.peers.remove(&source_id) else {
            return Ok(Step::Waits { region_id: source_id, callback });
        };
        if let Some(region_id) = self.catch_up(&mut source, command)? {
            state::put_apply_state(&mut self.batch, source_id, &source.state);
            self.peers.insert(source_id, source);
            return Ok(Step::Waits { region_id, callback });
        }
        let is_prepared =
            source.merge.as_ref().is_some_and(|merge| merge.prepare_index == command.prepare_index);
        if !is_prepared || *source.region != *source_region {
            // The target decides alone and for good, so the source cannot differ.
            return Err(RaftStoreError::Corrupted("the source of a merge is in another state"));
        }
        let region = merged(source_region, &peer.region);
        let tombstone = RegionLocalState {
            region: Some(source_region.clone()),
            state: PeerState::Tombstone.into(),
            peer_id: source.peer_id,
            merge: None,
            merged_into: source.merge.take(),
            applied_epoch: source_region.epoch,
            installed_epoch: source.state.installed_epoch,
        };
        state::put_tombstone(&mut self.batch, &tombstone);
        state::put_region_state(&mut self.batch, &region, PeerState::Normal, peer.peer_id);
        peer.set_region(Arc::new(region.clone()));
        self.must_sync = true;
        self.abandon_waiting(&mut source);
        let source_outcomes = std::mem::take(&mut source.outcomes);
        let outcome = Outcome::CommitMerge { region, source_id, source_outcomes, callback };
        peer.outcomes.push(outcome);
        Ok(Step::Done)
    }

    /// Applies what the source peer of this store lacks up to `PrepareMerge`: first from
    /// its own log, then what the command carries. `Some`: one of its entries waits for
    /// that region.
    fn catch_up(
        &mut self,
        source: &mut ApplyPeer,
        command: &CommitMergeCommand,
    ) -> Result<Option<u64>, RaftStoreError> {
        const GAP: RaftStoreError = RaftStoreError::Corrupted("entries of a merge are missing");
        let source_id = source.region.id;
        while source.state.applied_index < command.min_index {
            let low = source.state.applied_index + 1;
            let high = command.min_index + 1;
            let entries = self.log.entries(source_id, low, high, CATCH_UP_BYTES)?;
            if entries.is_empty() {
                return Err(GAP);
            }
            for entry in &entries {
                if let Some(region_id) = self.apply_ahead(source, entry)? {
                    return Ok(Some(region_id));
                }
            }
        }
        for bytes in &command.entries {
            let entry: Entry = protobuf::Message::parse_from_carllerche_bytes(bytes)
                .map_err(|_| RaftStoreError::Corrupted("entry of a merge"))?;
            if entry.index <= source.state.applied_index {
                continue;
            }
            if let Some(region_id) = self.apply_ahead(source, &entry)? {
                return Ok(Some(region_id));
            }
        }
        if source.state.applied_index < command.prepare_index { Err(GAP) } else { Ok(None) }
    }

    fn apply_ahead(
        &mut self,
        source: &mut ApplyPeer,
        entry: &Entry,
    ) -> Result<Option<u64>, RaftStoreError> {
        if entry.index != source.state.applied_index + 1 {
            return Err(RaftStoreError::Corrupted("entries of a merge are missing"));
        }
        Ok(match self.apply_entry(source, entry, Callback::None)? {
            Step::Done => None,
            Step::Waits { region_id, .. } => Some(region_id),
        })
    }
}
