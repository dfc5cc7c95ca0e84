//! All peers of a store, driven in rounds.
//!
//! **Flow.** [`StoreCore::handle`] and [`StoreCore::tick`] change peers; then
//! [`StoreCore::finish_round`] gathers what every ready peer wants: leaders' messages go
//! out, all entries and hard states go into **one** log write with one sync, the other
//! messages go out, committed entries go to apply.
//!
//! **Invariants**
//! - Nothing here blocks but the log write; no clock, thread or socket: time is an
//!   argument and outputs go through [`Effects`].
//! - A follower's answer leaves only after what it promises is durable.
//!
//! Regions without traffic are not among those that tick: see [`super::liveness`].

mod admin;
mod closed;
mod damage;
mod evict;
mod fate;
mod incoming;
mod lifecycle;
mod merge;
mod messages;
mod recovery;
mod reports;
mod rest;
mod rounds;
mod turns;

pub(in crate::raftstore) use incoming::decode_message;
pub(in crate::raftstore) use lifecycle::clean_split_keys;
pub use messages::{
    BackgroundJob, CollectJob, Effects, FailedInstallation, OutgoingSnapshot, PdEvent, StoreMessage,
};

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use cairn_engine::LogBatch;
use cairn_proto::kv;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::apply::{ApplyReport, ApplyTask, Outcome};
use super::clock::MonotonicTime;
use super::closed::Subscriptions;
use super::config::RaftStoreConfig;
use super::disk::SlowScore;
use super::error::RegionError;
use super::ids::{IdMap, RegionId};
use super::liveness::Links;
use super::metrics::{RaftMetrics, add};
use super::peer::storage::Engines;
use super::peer::{Elections, Peer};
use super::read::Regions;
use super::snapshot::{Installation, SnapshotData};

/// Votes kept for regions that a split is about to create here.
const PENDING_VOTES_MAX: usize = 64;

/// All peers of a store.
pub struct StoreCore {
    config: RaftStoreConfig,
    store_id: u64,
    engines: Engines,
    regions: Arc<Regions>,
    metrics: Arc<RaftMetrics>,
    peers: IdMap<Peer>,
    /// Peers that may be ready.
    dirty: BTreeSet<u64>,
    /// Regions in a joint state of their membership.
    joint: BTreeSet<u64>,
    /// Regions that shall be led by what is left of their voters.
    forced: BTreeSet<u64>,
    /// Regions that are the source of a merge, or were merged elsewhere.
    merging: BTreeSet<u64>,
    /// Regions whose Raft snapshot cannot be installed yet: a region is in its way.
    blocked_installs: BTreeSet<u64>,
    /// Raft snapshots that could not be installed, and when that is tried again.
    failed_installs: BTreeMap<u64, (MonotonicTime, Box<Installation>)>,
    /// Regions that are replaced by the Raft snapshot of the region that absorbed them.
    absorbing: IdMap<Vec<u64>>,
    /// Peers that tick; the others rest.
    awake: BTreeSet<u64>,
    /// With which region the next tick begins: where elections ran out in the last one.
    elections_from: u64,
    /// Regions led here.
    led: BTreeSet<u64>,
    /// Other stores.
    links: Links,
    slow_score: SlowScore,
    /// When leaders leave a slow disk next.
    next_slow_wave: MonotonicTime,
    /// The last region of the wave before.
    slow_wave_end: u64,
    /// The store is about to stop; who waits for its leaders to be elsewhere.
    leaving: Option<Option<tokio::sync::oneshot::Sender<()>>>,
    /// When resting regions are reported next.
    idle_reports: BTreeSet<(MonotonicTime, u64)>,
    /// Peers that apply is removing: no message may create them anew meanwhile.
    destroying: BTreeSet<u64>,
    /// Raft snapshots that arrived and are not yet accepted by Raft.
    received: IdMap<SnapshotData>,
    /// Accepted Raft snapshots that wait for apply to let go of the region.
    installations: IdMap<Installation>,
    /// No votes before: peers from disk do not remember what they promised a leader.
    vote_quiet_until: MonotonicTime,
    pending_votes: VecDeque<kv::RaftMessage>,
    /// Truncated indexes whose entries are still in the log.
    compactions: BTreeMap<u64, u64>,
    compaction_runs: bool,
    /// Changes of the log that need no sync, written with the next round.
    log: LogBatch,
    outbox: Outbox,
    turns: turns::SnapshotTurns,
    /// Regions whose replica here is damaged.
    damaged: BTreeSet<u64>,
    ticks: u64,
    next_store_report: MonotonicTime,
    /// Of followers' questions; grows over restarts too.
    last_read_id: u64,
    /// Regions led here in which timestamps are closed.
    subscriptions: Subscriptions,
    rng: SmallRng,
}

/// Outputs gathered between rounds.
#[derive(Default)]
struct Outbox {
    messages: Vec<kv::RaftMessage>,
    snapshots: Vec<OutgoingSnapshot>,
    apply: Vec<ApplyTask>,
    background: Vec<BackgroundJob>,
    pd: Vec<PdEvent>,
}

impl StoreCore {
    /// A store without peers; see [`StoreCore::load`].
    pub fn new(
        config: RaftStoreConfig,
        store_id: u64,
        engines: Engines,
        regions: Arc<Regions>,
        metrics: Arc<RaftMetrics>,
    ) -> StoreCore {
        StoreCore {
            // Stores that were given one seed must still not draw alike.
            rng: SmallRng::seed_from_u64(config.seed.rotate_left(32) ^ store_id),
            links: Links::new(store_id, &config),
            config,
            store_id,
            engines,
            regions,
            metrics,
            peers: IdMap::default(),
            dirty: BTreeSet::new(),
            joint: BTreeSet::new(),
            forced: BTreeSet::new(),
            merging: BTreeSet::new(),
            blocked_installs: BTreeSet::new(),
            failed_installs: BTreeMap::new(),
            absorbing: IdMap::default(),
            awake: BTreeSet::new(),
            elections_from: 0,
            led: BTreeSet::new(),
            slow_score: SlowScore::new(),
            next_slow_wave: MonotonicTime(0),
            slow_wave_end: 0,
            leaving: None,
            idle_reports: BTreeSet::new(),
            destroying: BTreeSet::new(),
            received: IdMap::default(),
            installations: IdMap::default(),
            vote_quiet_until: MonotonicTime(0),
            pending_votes: VecDeque::new(),
            compactions: BTreeMap::new(),
            compaction_runs: false,
            log: LogBatch::new(),
            outbox: Outbox::default(),
            turns: turns::SnapshotTurns::default(),
            damaged: BTreeSet::new(),
            ticks: 0,
            next_store_report: MonotonicTime(0),
            last_read_id: 0,
            subscriptions: Subscriptions::default(),
        }
    }

    /// Takes one message. [`StoreMessage::Stop`] is the thread's business.
    pub fn handle(&mut self, message: StoreMessage, now: MonotonicTime) {
        match message {
            StoreMessage::Write { context, data, callback } => {
                add(&self.metrics.proposals, 1);
                match self.peer_mut(context.region_id.0) {
                    Some(peer) => peer.propose(&context, data, callback, now),
                    None => callback.fail(RegionError::RegionNotFound(context.region_id)),
                }
            }
            StoreMessage::Read(read) => {
                add(&self.metrics.index_reads, 1);
                match self.peer_mut(read.context.region_id.0) {
                    Some(peer) => peer.read(read, now),
                    None => {
                        let region_id = read.context.region_id;
                        read.fail(RegionError::RegionNotFound(region_id));
                    }
                }
            }
            StoreMessage::ReplicaRead(read) => {
                add(&self.metrics.replica_reads, 1);
                match self.peer_mut(read.context.region_id.0) {
                    Some(peer) => peer.replica_read(read, now),
                    None => {
                        let region_id = read.context.region_id;
                        read.fail(RegionError::RegionNotFound(region_id));
                    }
                }
            }
            StoreMessage::Subscribe { region_id } => {
                let peer = self.peers.get(&region_id);
                self.outbox.messages.extend(peer.and_then(Peer::subscription));
            }
            StoreMessage::CloseTimestamp { ts, fetched_by } => {
                self.close_timestamp(ts, now.max(fetched_by));
            }
            StoreMessage::Split { context, pieces, callback } => {
                self.propose_split(&context, pieces, callback, now);
            }
            StoreMessage::PdStep(step) => self.take_pd_step(step, now),
            StoreMessage::Recover(orders) => self.take_recovery_orders(orders, now),
            StoreMessage::Leave(done) => self.leave(done, now),
            StoreMessage::ReportRegions(wanted) => self.report_wanted(&wanted, now),
            StoreMessage::ChangePeers { region_id, changes, callback } => {
                match self.peer_mut(region_id) {
                    Some(leader) => leader.propose_conf_change(changes, callback, now),
                    None => callback.fail(RegionError::RegionNotFound(RegionId(region_id))),
                }
            }
            StoreMessage::TransferLeader { region_id, peer_id } => {
                if let Some(peer) = self.peer_mut(region_id) {
                    peer.transfer_leader(peer_id, now);
                }
            }
            StoreMessage::Raft(messages) => {
                for message in messages {
                    self.on_raft_message(message, now);
                }
            }
            StoreMessage::Snapshot(message, data) => self.on_snapshot(*message, data, now),
            StoreMessage::SnapshotSent { region_id, peer_id, sent } => {
                self.on_snapshot_sent(region_id, peer_id, sent);
            }
            StoreMessage::Unreachable { region_id, peer_id } => {
                if let Some(peer) = self.peer_mut(region_id)
                    && !peer.installing
                {
                    peer.node.report_unreachable(peer_id);
                }
            }
            StoreMessage::Applied(reports) => {
                for report in reports {
                    self.on_report(report, now);
                }
            }
            StoreMessage::WalSynced(indexes) => self.on_wal_synced(indexes),
            StoreMessage::Installed { region_id, peer_id, outcome } => {
                self.on_installed(region_id, peer_id, outcome, now);
            }
            StoreMessage::Damaged(files) => self.on_damage(files),
            StoreMessage::Measured(check) => self.on_measured(check, now),
            StoreMessage::LogNeedsCompaction(regions) => {
                for region_id in regions {
                    self.force_compaction(region_id, now);
                }
            }
            StoreMessage::Collect(job) => {
                self.outbox.background.push(BackgroundJob::Collect(job));
            }
            StoreMessage::Infos(answer) => {
                // The caller may have gone away.
                let _ = answer.send(self.infos());
            }
            StoreMessage::Stop { .. } => {}
        }
    }

    /// One tick of the pairs of stores and of every region that is awake.
    pub fn tick(&mut self, now: MonotonicTime) {
        self.ticks += 1;
        self.liveness_tick(now);
        let renew = self.ticks.is_multiple_of(self.config.heartbeat_ticks as u64);
        let rng = &mut self.rng;
        let mut draw = |low: usize, high: usize| rng.random_range(low..high);
        let mut elections = Elections {
            draw: &mut draw,
            min_ticks: self.config.election_timeout_ticks,
            budget: self.config.elections_per_tick_max,
            started: 0,
            refused: None,
        };
        let (mut idle, mut asking) = (Vec::new(), Vec::new());
        // In a fixed order, which decides who draws which random number. Regions whose
        // elections had to wait come first: else those of low ids, which may stand in vain
        // again and again, would never let the others stand.
        let (early, late) = (self.awake.range(..self.elections_from), self.elections_from..);
        let ids: Vec<u64> = self.awake.range(late).chain(early).copied().collect();
        for id in ids {
            let Some(peer) = self.peers.get_mut(&id) else {
                self.awake.remove(&id);
                continue;
            };
            peer.tick(&mut elections);
            peer.drop_expired(now);
            peer.issue_reads(now, renew);
            if peer.has_ready() {
                self.dirty.insert(id);
            }
            if peer.idle_tick(&self.config) {
                idle.push(id);
            } else if peer.is_asking() {
                asking.push(id);
            }
            if peer.is_quiet() {
                self.awake.remove(&id);
            }
        }
        self.elections_from = elections.refused.unwrap_or(0);
        add(&self.metrics.elections, elections.started);
        self.drive_joint(now);
        self.drive_forced(now);
        self.retry_installs(now);
        self.drive_merges(now);
        self.ask_to_rest(idle, now);
        asking.into_iter().for_each(|region_id| self.rest_if_agreed(region_id, now));
        self.evict_tick(now);
        self.admin_tick(now);
    }

    /// A peer that is about to change.
    fn peer_mut(&mut self, region_id: u64) -> Option<&mut Peer> {
        let peer = self.peers.get_mut(&region_id)?;
        self.dirty.insert(region_id);
        Some(peer)
    }

    fn infos(&self) -> Vec<kv::RegionPeerInfo> {
        let mut infos: Vec<_> = self.peers.values().map(Peer::info).collect();
        infos.sort_by_key(|info| info.region.as_ref().map_or(0, |region| region.id));
        infos
    }

    fn on_report(&mut self, report: ApplyReport, now: MonotonicTime) {
        match report {
            ApplyReport::Applied { region_id, state, written_bytes, written_keys, outcomes } => {
                // In the log's order: each brings the region as of its entry. Also when the
                // peer itself is gone by now: others may have come of it.
                for outcome in outcomes {
                    self.on_outcome(region_id, outcome, now);
                }
                let truncated = state.truncated_index;
                if let Some(peer) = self.peer_mut(region_id) {
                    let compacted = truncated > peer.node.store().apply_state().truncated_index;
                    peer.size.on_written(written_bytes, written_keys);
                    peer.on_applied(state);
                    if compacted {
                        self.compactions.insert(region_id, truncated);
                    }
                }
                self.destroy_if_removed(region_id);
            }
            ApplyReport::Destroyed { region_id } => {
                self.destroying.remove(&region_id);
                self.log.clean(region_id);
            }
            ApplyReport::Paused { region_id } => self.start_install(region_id),
        }
    }

    /// What was applied up to these indexes is durable: the logs need it no longer.
    fn on_wal_synced(&mut self, indexes: Vec<(u64, u64)>) {
        self.compaction_runs = false;
        for (region_id, index) in indexes {
            let Some(peer) = self.peers.get(&region_id).filter(|peer| !peer.installing) else {
                continue;
            };
            // The peer may be another one than that which was compacted.
            let truncated = peer.node.store().apply_state().truncated_index;
            self.log.compact_to(region_id, index.min(truncated) + 1);
        }
    }

    fn on_outcome(&mut self, region_id: u64, outcome: Outcome, now: MonotonicTime) {
        match outcome {
            Outcome::ConfChange { change, region, callback } => {
                self.on_conf_change(region_id, change.as_ref(), region, callback);
            }
            Outcome::Split { regions, created, callback } => {
                self.on_split(region_id, regions, &created, callback, now);
            }
            Outcome::PrepareMerge { region, merge, callback } => {
                self.on_prepare_merge(region_id, region, merge, callback, now);
            }
            Outcome::RollbackMerge { region, callback } => {
                self.on_rollback_merge(region_id, region, callback);
            }
            Outcome::CommitMerge { region, source_id, source_outcomes, callback } => {
                for outcome in source_outcomes {
                    self.on_outcome(source_id, outcome, now);
                }
                self.on_commit_merge(region_id, region, source_id, callback);
            }
        }
    }
}
