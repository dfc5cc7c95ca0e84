//! A peer's part in a merge: as the source that is absorbed, as the target that absorbs.

use bytes::Bytes;
use cairn_proto::meta;
use protobuf::Message as _;
use raft::eraftpb::EntryType;
use raft::{GetEntriesContext, ProgressState, Storage as _};

use super::Peer;
use crate::raftstore::apply::Callback;
use crate::raftstore::clock::MonotonicTime;
use crate::raftstore::command::{
    self, CommitMergeCommand, PrepareMergeCommand, RollbackMergeCommand,
};
use crate::raftstore::error::RegionError;
use crate::raftstore::ids::RegionId;
use crate::raftstore::merge::{GAP_BYTES_MAX, GAP_ENTRIES_MAX, obstacle};
use crate::raftstore::state::MergeState;

/// What a peer knows of the merges its region takes part in.
#[derive(Default)]
pub struct Merging {
    /// The merge this region is the source of, once preparing it is applied.
    pub state: Option<MergeState>,
    /// The region is dead: it was absorbed so.
    pub merged_into: Option<MergeState>,
    /// Tick at which the former peers were last asked whether the region is dead.
    pub asked_at_tick: u64,
    /// Index of a step of a merge that this leader proposed and has not applied; 0: none.
    proposed_index: u64,
}

impl Merging {
    /// Whether a step of a merge is under way.
    pub fn is_pending(&self) -> bool {
        self.proposed_index > 0
    }

    pub(super) fn on_applied(&mut self, applied_index: u64) {
        if applied_index >= self.proposed_index {
            self.proposed_index = 0;
        }
    }

    /// Another term begins: what was proposed may be lost.
    pub(super) fn on_role_changed(&mut self) {
        self.proposed_index = 0;
    }
}

impl Peer {
    /// Refuses requests of clients while the region merges.
    pub(super) fn check_not_merging(&self) -> Result<(), RegionError> {
        if self.merging.state.is_some() || self.merging.merged_into.is_some() {
            return Err(RegionError::MergeInProgress(RegionId(self.region_id)));
        }
        Ok(())
    }

    /// Another store's tombstone proves that the region was absorbed. What every peer held
    /// when the merge was prepared is committed: nobody is left to say so, and this store
    /// may need it, if only for a region that was split off in it.
    pub fn on_merged(&mut self, merge: MergeState) {
        let log = &mut self.node.raft.raft_log;
        let index = merge.min_index.min(log.last_index());
        if index > log.committed {
            log.commit_to(index);
        }
        self.merging.merged_into = Some(merge);
        self.publish();
    }

    /// Proposes that this region be absorbed by its neighbour. `Err` says why not now.
    pub fn propose_prepare_merge(
        &mut self,
        target: &meta::Region,
        now: MonotonicTime,
    ) -> Result<(), &'static str> {
        if !self.is_leader() || !self.committed_in_term() {
            return Err("no leader that is ready");
        }
        if self.check_not_merging().is_err() || self.merging.is_pending() {
            return Err("a merge is under way");
        }
        if self.node.raft.has_pending_conf() || self.node.raft.lead_transferee.is_some() {
            return Err("membership or leadership is changing");
        }
        if let Some(reason) = obstacle(self.region(), target) {
            return Err(reason);
        }
        self.log_locks(now);
        let min_index = self.index_of_all()?;
        self.check_gap(min_index)?;
        let command = PrepareMergeCommand {
            epoch: self.region().epoch,
            target: Some(target.clone()),
            min_index,
        };
        self.propose_step(command::encode_prepare_merge(&command), now)?;
        // The target may take over elsewhere before this store knows.
        self.lease.block_until_applied(self.merging.proposed_index);
        self.publish();
        Ok(())
    }

    /// Proposes, as the target, to absorb the source.
    pub fn propose_commit_merge(
        &mut self,
        source: &meta::Region,
        merge: &MergeState,
        entries: Vec<Bytes>,
        now: MonotonicTime,
    ) -> Result<(), &'static str> {
        if self.merging.is_pending() || self.check_not_merging().is_err() {
            return Err("a merge is under way");
        }
        self.log_locks(now);
        let command = CommitMergeCommand {
            epoch: Some(merge.target_epoch().into()),
            source: Some(source.clone()),
            prepare_index: merge.prepare_index,
            min_index: merge.min_index,
            entries,
        };
        self.propose_step(command::encode_commit_merge(&command), now)
    }

    /// Proposes, as the source, to serve again.
    pub fn propose_rollback_merge(&mut self, now: MonotonicTime) -> Result<(), &'static str> {
        let Some(merge) = &self.merging.state else { return Err("no merge") };
        if self.merging.is_pending() {
            return Err("a step is under way");
        }
        let command = RollbackMergeCommand { prepare_index: merge.prepare_index };
        self.propose_step(command::encode_rollback_merge(&command), now)
    }

    fn propose_step(&mut self, data: Vec<u8>, now: MonotonicTime) -> Result<(), &'static str> {
        if !self.is_leader() {
            return Err("not the leader");
        }
        let index = self.node.raft.raft_log.last_index() + 1;
        let outcome = self.node.propose(Vec::new(), data);
        let taken = outcome.is_ok() && self.node.raft.raft_log.last_index() == index;
        self.after_propose(outcome, index, None, Callback::None, now);
        if !taken {
            return Err("raft took no proposal");
        }
        self.merging.proposed_index = index;
        Ok(())
    }

    /// The highest index up to which every peer holds this leader's entries.
    fn index_of_all(&self) -> Result<u64, &'static str> {
        let truncated = self.node.store().apply_state().truncated_index;
        let mut min_index = self.node.raft.raft_log.last_index();
        for (_, progress) in self.node.raft.prs().iter() {
            if progress.matched == 0
                || progress.matched < truncated
                || progress.state == ProgressState::Snapshot
            {
                return Err("a peer needs a snapshot first");
            }
            min_index = min_index.min(progress.matched);
        }
        Ok(min_index)
    }

    /// The entries that `CommitMerge` will carry are few and simple: a store that lacks
    /// them takes them from there, without a log of its own to go back to.
    fn check_gap(&self, min_index: u64) -> Result<(), &'static str> {
        let log = &self.node.raft.raft_log;
        let last_index = log.last_index();
        if last_index - min_index > GAP_ENTRIES_MAX {
            return Err("a peer is too far behind");
        }
        if last_index == min_index {
            return Ok(());
        }
        let context = GetEntriesContext::empty(false);
        let entries = log
            .slice(min_index + 1, last_index + 1, None, context)
            .map_err(|_| "the log is not at hand")?;
        let simple = entries.iter().all(|entry| {
            entry.get_entry_type() == EntryType::EntryNormal
                && (entry.data.is_empty() || command::is_write(&entry.data))
        });
        if !simple {
            return Err("a peer lacks a change of the region");
        }
        let bytes: usize = entries.iter().map(|entry| entry.data.len()).sum();
        if bytes > GAP_BYTES_MAX { Err("a peer is too far behind") } else { Ok(()) }
    }

    /// What `CommitMerge` must carry of this source's log; `None`: this store does not
    /// have it.
    pub fn merge_entries(&self, merge: &MergeState) -> Option<Vec<Bytes>> {
        let context = GetEntriesContext::empty(false);
        let (low, high) = (merge.min_index + 1, merge.prepare_index + 1);
        let entries = self.node.store().entries(low, high, None, context).ok()?;
        if entries.len() as u64 != high - low {
            return None;
        }
        entries.iter().map(|entry| entry.write_to_bytes().ok().map(Bytes::from)).collect()
    }
}
