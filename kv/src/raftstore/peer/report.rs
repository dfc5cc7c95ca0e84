//! What a peer tells of itself: to PD, to tools, to the compaction of its log.

use std::time::Duration;

use cairn_proto::{kv, pd};
use raft::ProgressState;

use super::Peer;
use crate::raftstore::RegionContext;
use crate::raftstore::clock::MonotonicTime;
use crate::raftstore::config::RaftStoreConfig;
use crate::raftstore::ids::{RegionId, epoch_of};
use crate::raftstore::state::find_peer;

/// A peer that far behind the commit index is reported as pending.
const PENDING_PEER_LAG: u64 = 1024;
/// A follower unheard of for so long is reported as down.
const DOWN_PEER_AFTER: Duration = Duration::from_secs(10);

/// Size of a region, as far as it is known.
#[derive(Clone, Copy, Debug, Default)]
pub struct RegionSize {
    /// Bytes when the region was last read.
    pub measured_bytes: u64,
    /// Keys when the region was last read.
    pub measured_keys: u64,
    /// Bytes written since.
    pub written_bytes: u64,
    /// Bytes in the engine's files, as the engine estimates them.
    pub files_bytes: u64,
    /// It is looked at again once `written_bytes` reaches this.
    pub check_at_written: u64,
    /// Whether a check is on its way.
    pub checking: bool,
}

impl Peer {
    /// Size estimate for PD and for the split check.
    pub fn approximate_bytes(&self) -> u64 {
        self.size.files_bytes.max(self.size.measured_bytes + self.size.written_bytes)
    }

    /// A leader's report to PD.
    pub fn heartbeat(&self, now: MonotonicTime) -> pd::RegionHeartbeatRequest {
        let region = self.region();
        let commit_index = self.node.raft.raft_log.committed;
        let mut down_peers = Vec::new();
        let mut pending_peers = Vec::new();
        for peer in region.peers.iter().filter(|peer| peer.id != self.peer_id) {
            let progress = self.node.raft.prs().get(peer.id);
            let lags = progress.is_none_or(|progress| {
                progress.matched + PENDING_PEER_LAG < commit_index
                    || progress.matched == 0
                    || progress.state == ProgressState::Snapshot
            });
            if lags {
                pending_peers.push(*peer);
            }
            let heard = self.last_heard.get(&peer.id).copied().unwrap_or_default();
            let silent = now.since(heard.max(self.leader_since));
            if silent >= DOWN_PEER_AFTER {
                let down = pd::PeerStats { peer: Some(*peer), down_s: silent.as_secs() };
                down_peers.push(down);
            }
        }
        pd::RegionHeartbeatRequest {
            region: Some((**region).clone()),
            leader: find_peer(region, self.peer_id).cloned(),
            term: self.term(),
            approximate_size_bytes: self.approximate_bytes(),
            approximate_keys: self.size.measured_keys,
            down_peers,
            pending_peers,
            ..pd::RegionHeartbeatRequest::default()
        }
    }

    /// This peer for `ctl` and tests.
    pub fn info(&self) -> kv::RegionPeerInfo {
        let raft = &self.node.raft;
        kv::RegionPeerInfo {
            region: Some((**self.region()).clone()),
            is_leader: self.is_leader(),
            term: raft.term,
            commit_index: raft.raft_log.committed,
            applied_index: self.node.store().apply_state().applied_index,
            last_index: raft.raft_log.last_index(),
        }
    }

    /// The entries that every follower has, or that are old enough to drop anyway: the
    /// last index and its term.
    pub fn compactable(&self, config: &RaftStoreConfig) -> Option<(u64, u64)> {
        if !self.is_leader() {
            return None;
        }
        let state = self.node.store().apply_state();
        let held = state.applied_index.saturating_sub(state.truncated_index);
        if held < config.log_entries_max {
            return None;
        }
        let matched = self.node.raft.prs().iter().map(|(_, progress)| progress.matched).min();
        let mut index = matched.unwrap_or(0).min(state.applied_index);
        if held >= config.log_entries_force_max {
            index = index.max(state.applied_index - config.log_entries_max);
        }
        if index <= state.truncated_index {
            return None;
        }
        let term = raft::Storage::term(self.node.store(), index).ok()?;
        Some((index, term))
    }

    /// The context of a request that this store makes itself.
    pub fn own_context(&self) -> RegionContext {
        RegionContext {
            region_id: RegionId(self.region_id),
            epoch: epoch_of(self.region()),
            ..RegionContext::default()
        }
    }
}
