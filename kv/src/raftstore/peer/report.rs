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
/// A learner that heard nobody for so long asks whether it was removed.
const FORSAKEN_AFTER: Duration = Duration::from_secs(60);

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

impl RegionSize {
    /// The region was split into so many parts; which holds what is not known yet.
    pub fn divide(&mut self, parts: u64) {
        self.measured_bytes /= parts;
        self.measured_keys /= parts;
        self.written_bytes /= parts;
    }

    /// The region took over another one.
    pub fn absorb(&mut self, other: &RegionSize) {
        self.measured_bytes += other.measured_bytes;
        self.measured_keys += other.measured_keys;
        self.written_bytes += other.written_bytes;
        self.files_bytes += other.files_bytes;
        self.check_at_written = 0;
    }
}

impl Peer {
    /// Size estimate for PD and for the split check.
    pub fn approximate_bytes(&self) -> u64 {
        self.size.files_bytes.max(self.size.measured_bytes + self.size.written_bytes)
    }

    /// A leader's report to PD.
    pub fn heartbeat(&self, now: MonotonicTime) -> pd::RegionHeartbeatRequest {
        let region = self.region();
        let mut down_peers = Vec::new();
        let mut pending_peers = Vec::new();
        for peer in region.peers.iter().filter(|peer| peer.id != self.peer_id) {
            if self.lags(peer.id) {
                pending_peers.push(*peer);
            }
            let silent = self.silent_for(peer.id, now);
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

    /// Whether a peer is far behind this leader.
    fn lags(&self, peer_id: u64) -> bool {
        let commit_index = self.node.raft.raft_log.committed;
        self.node.raft.prs().get(peer_id).is_none_or(|progress| {
            progress.matched + PENDING_PEER_LAG < commit_index
                || progress.matched == 0
                || progress.state == ProgressState::Snapshot
        })
    }

    /// How long this leader has not heard from a peer.
    fn silent_for(&self, peer_id: u64, now: MonotonicTime) -> Duration {
        let heard = self.last_heard.get(&peer_id).copied().unwrap_or_default();
        now.since(heard.max(self.leader_since))
    }

    /// Whether a peer can be counted on: it is this leader, or it answers and keeps up.
    pub fn is_healthy(&self, peer_id: u64, now: MonotonicTime) -> bool {
        peer_id == self.peer_id
            || (!self.lags(peer_id) && self.silent_for(peer_id, now) < DOWN_PEER_AFTER)
    }

    /// Whether this is a learner that nobody has spoken to for long.
    pub fn is_forsaken(&self, now: MonotonicTime) -> bool {
        let last = self.last_heard.values().max().copied().unwrap_or_default();
        !self.node.raft.promotable()
            && self.node.store().is_initialized()
            && now.since(last) >= FORSAKEN_AFTER
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
