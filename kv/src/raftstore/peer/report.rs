//! What a peer tells of itself: to PD, to tools, to the compaction of its log.

use std::time::Duration;

use cairn_proto::{kv, meta, pd};
use raft::ProgressState;

use super::Peer;
use crate::raftstore::RegionContext;
use crate::raftstore::clock::MonotonicTime;
use crate::raftstore::config::{RaftStoreConfig, SIZE_CHECK_FACTOR_MAX};
use crate::raftstore::ids::{RegionId, epoch_of};
use crate::raftstore::split::{Counted, SplitCheck};
use crate::raftstore::state::find_peer;

/// A peer that far behind the commit index is reported as pending.
const PENDING_PEER_LAG: u64 = 1024;
/// A follower unheard of for so long is reported as down.
const DOWN_PEER_AFTER: Duration = Duration::from_secs(10);
/// A region is measured again after it grew by this part of the split size.
const MEASURE_PART: u64 = 8;
/// A learner that heard nobody for so long asks whether it was removed.
const FORSAKEN_AFTER: Duration = Duration::from_secs(60);

/// Size of a region, as far as it is known, and when it is looked at again.
#[derive(Clone, Copy, Debug, Default)]
pub struct RegionSize {
    /// What was counted when the region was last read, and the engine's estimate of its
    /// files then.
    pub counted: Option<(Counted, u64)>,
    /// Written since, or since this peer came to life.
    pub written: Counted,
    /// Bytes in the engine's files, as the engine estimated them last.
    pub files_bytes: u64,
    /// It is looked at again once `written` reaches either of these.
    pub check_at: Counted,
    /// It is looked at again then in any case.
    pub next_check: MonotonicTime,
    /// So many times the usual interval lies between two looks.
    pub quiet_factor: u32,
    /// Whether a check is on its way.
    pub checking: bool,
    /// Whether a check has ended since the region had this range here. Followers do not
    /// look; a leader that has just begun may know nothing.
    pub looked_at: bool,
    /// Somebody wants it split in the middle.
    pub split_wanted: bool,
}

impl RegionSize {
    /// Entries were applied.
    pub fn on_written(&mut self, bytes: u64, keys: u64) {
        self.written.bytes += bytes;
        self.written.keys += keys;
        if keys > 0 {
            self.quiet_factor = 0;
        }
    }

    /// Whether it should be looked at now.
    pub fn is_due(&self, now: MonotonicTime) -> bool {
        !self.checking
            && (self.split_wanted
                || self.written.bytes >= self.check_at.bytes
                || self.written.keys >= self.check_at.keys
                || now >= self.next_check)
    }

    /// Whether no look is due or on its way but the one that time brings.
    pub fn is_settled(&self) -> bool {
        !self.checking
            && !self.split_wanted
            && self.written.bytes < self.check_at.bytes
            && self.written.keys < self.check_at.keys
    }

    /// The background thread looked.
    pub fn on_checked(&mut self, check: &SplitCheck, now: MonotonicTime, config: &RaftStoreConfig) {
        self.checking = false;
        self.looked_at = true;
        self.split_wanted = false;
        self.files_bytes = check.files_bytes;
        if let Some(counted) = check.counted {
            self.counted = Some((counted, check.files_bytes));
            // What came while it was read may be counted or not: it stays.
            self.written.bytes = self.written.bytes.saturating_sub(check.written.bytes);
            self.written.keys = self.written.keys.saturating_sub(check.written.keys);
        }
        self.check_at = Counted {
            bytes: self.written.bytes + (config.region_split_bytes / MEASURE_PART).max(1),
            keys: self.written.keys + (config.region_split_keys / MEASURE_PART).max(1),
        };
        self.quiet_factor = (self.quiet_factor * 2).clamp(1, SIZE_CHECK_FACTOR_MAX);
        self.next_check = now.plus(config.size_check_interval * self.quiet_factor);
    }

    /// Bytes, for PD.
    pub fn bytes(&self) -> u64 {
        let counted = self.counted.map_or(self.files_bytes, |(counted, _)| counted.bytes);
        counted + self.written.bytes
    }

    /// Keys, for PD; 0 while unknown.
    pub fn keys(&self) -> u64 {
        self.counted.map_or(0, |(counted, _)| counted.keys)
    }

    /// The region was split into so many parts; which holds what is not known yet.
    pub fn divide(&mut self, parts: u64) {
        self.written.bytes /= parts;
        self.written.keys /= parts;
        self.files_bytes /= parts;
        if let Some((counted, files_bytes)) = &mut self.counted {
            counted.bytes /= parts;
            counted.keys /= parts;
            *files_bytes /= parts;
        }
        self.looked_at = false;
        self.next_check = MonotonicTime(0);
    }

    /// The region took over another one.
    pub fn absorb(&mut self, other: &RegionSize) {
        self.counted = self.counted.zip(other.counted).map(|((own, files), (more, more_files))| {
            let sum = Counted { bytes: own.bytes + more.bytes, keys: own.keys + more.keys };
            (sum, files + more_files)
        });
        self.written.bytes += other.written.bytes;
        self.written.keys += other.written.keys;
        self.files_bytes += other.files_bytes;
        self.looked_at &= other.looked_at;
        self.next_check = MonotonicTime(0);
    }
}

impl Peer {
    /// A leader's report to PD.
    pub fn heartbeat(&mut self, now: MonotonicTime) -> pd::RegionHeartbeatRequest {
        let figures = self.delegate.load.figures();
        let (reported_at, reported) = std::mem::replace(&mut self.reported, (now, figures));
        let load = figures.since(&reported);
        let region = self.region().clone();
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
        self.reported_unwell = !pending_peers.is_empty() || !down_peers.is_empty();
        pd::RegionHeartbeatRequest {
            region: Some((*region).clone()),
            leader: find_peer(&region, self.peer_id).cloned(),
            term: self.term(),
            approximate_size_bytes: self.size.bytes(),
            approximate_keys: self.size.keys(),
            size_is_guess: !self.size.looked_at,
            written_bytes: load.written_bytes,
            written_keys: load.written_keys,
            read_bytes: load.read_bytes,
            read_keys: load.read_keys,
            read_queries: u32::try_from(load.read_queries).unwrap_or(u32::MAX),
            interval_ms: u32::try_from(now.since(reported_at).as_millis()).unwrap_or(u32::MAX),
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
        if self.rests_with(peer_id) {
            // Its store answers for it.
            return Duration::ZERO;
        }
        let heard = self.last_heard.iter().find(|(id, _)| *id == peer_id);
        let heard = heard.map_or(MonotonicTime(0), |(_, at)| *at);
        now.since(heard.max(self.leader_since))
    }

    /// Whether a peer can be counted on: it is this leader, or it answers and keeps up.
    pub fn is_healthy(&self, peer_id: u64, now: MonotonicTime) -> bool {
        peer_id == self.peer_id
            || (!self.lags(peer_id) && self.silent_for(peer_id, now) < DOWN_PEER_AFTER)
    }

    /// Whether this is a learner that nobody has spoken to for long.
    pub fn is_forsaken(&self, now: MonotonicTime) -> bool {
        let last = self.last_heard.iter().map(|(_, at)| *at).max().unwrap_or_default();
        !self.is_still() && !self.node.raft.promotable() && now.since(last) >= FORSAKEN_AFTER
    }

    /// The peers of the region; of one that has no data yet, those that wrote to it.
    pub fn known_peers(&self) -> Vec<meta::Peer> {
        if self.node.store().is_initialized() {
            return self.region().peers.clone();
        }
        self.strangers.clone()
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
            is_resting: self.is_still(),
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
