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
mod damage;
mod evict;
mod incoming;
mod lifecycle;
mod merge;
mod reports;
mod rest;
mod turns;

pub(in crate::raftstore) use incoming::decode_message;
pub(in crate::raftstore) use lifecycle::clean_split_keys;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use cairn_engine::LogBatch;
use cairn_proto::{kv, meta, pd};
use cairn_types::sabotage::{Bug, planted};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::apply::{ApplyReport, ApplyTask, Callback, Outcome};
use super::clock::MonotonicTime;
use super::config::RaftStoreConfig;
use super::disk::SlowScore;
use super::error::{RaftStoreError, RegionError};
use super::ids::{IdMap, RegionId};
use super::liveness::Links;
use super::metrics::{RaftMetrics, add};
use super::peer::storage::Engines;
use super::peer::{Elections, Peer, PendingRead, PendingReplicaRead, ReadyEffects};
use super::read::Regions;
use super::snapshot::{Installation, SharedFiles, SnapshotData};
use super::split::SplitCheck;
use super::{RegionContext, RegionSnapshot, ReplicaView};

/// Rounds of log writes in one call: a single voter commits at once, which makes the next
/// peers ready.
const WRITES_PER_ROUND_MAX: usize = 4;
/// Votes kept for regions that a split is about to create here.
const PENDING_VOTES_MAX: usize = 64;

/// What the Raft thread is told.
pub enum StoreMessage {
    /// Proposes a write (encoded).
    Write {
        /// Where to.
        context: RegionContext,
        /// Encoded command.
        data: Vec<u8>,
        /// Who waits.
        callback: Callback,
    },
    /// Reads after the quorum confirmed the leader.
    Read(PendingRead),
    /// Reads from this peer, whoever leads.
    ReplicaRead(PendingReplicaRead),
    /// Proposes a split whose ids PD gave.
    Split {
        /// Where to.
        context: RegionContext,
        /// New regions.
        pieces: Vec<super::command::SplitPiece>,
        /// Who waits.
        callback: Callback,
    },
    /// One step PD wants.
    PdStep(pd::RegionHeartbeatResponse),
    /// The store is about to stop: leadership goes elsewhere.
    Leave(tokio::sync::oneshot::Sender<()>),
    /// PD wants to hear of these regions.
    ReportRegions(Vec<u64>),
    /// A membership change that tests or tools want.
    ChangePeers {
        /// The region.
        region_id: u64,
        /// All at once.
        changes: Vec<super::command::PeerChange>,
        /// Who waits.
        callback: Callback,
    },
    /// Hands leadership over.
    TransferLeader {
        /// The region.
        region_id: u64,
        /// To whom.
        peer_id: u64,
    },
    /// Messages of other stores.
    Raft(Vec<kv::RaftMessage>),
    /// A Raft snapshot that arrived whole.
    Snapshot(kv::RaftMessage, SnapshotData),
    /// A Raft snapshot left, or did not.
    SnapshotSent {
        /// The region.
        region_id: u64,
        /// The receiver.
        peer_id: u64,
        /// Whether the receiver has it.
        sent: bool,
    },
    /// Files of the engine were found damaged.
    Damaged(Vec<cairn_engine::DamagedFile>),
    /// Messages to a peer were lost.
    Unreachable {
        /// The region.
        region_id: u64,
        /// The peer.
        peer_id: u64,
    },
    /// Apply's reports.
    Applied(Vec<ApplyReport>),
    /// A Raft snapshot was installed, or could not be.
    Installed {
        /// The region.
        region_id: u64,
        /// How far it is applied now.
        outcome: Result<super::state::ApplyState, RaftStoreError>,
    },
    /// A region was measured.
    Measured(SplitCheck),
    /// Regions whose old entries keep files of the log alive.
    LogNeedsCompaction(Vec<u64>),
    /// Asks for the state of every peer.
    Infos(crossbeam::channel::Sender<Vec<kv::RegionPeerInfo>>),
    /// Ends the thread, after handing leadership over if there is time.
    Stop {
        /// No time.
        at_once: bool,
    },
}

/// Slow work for the background thread.
pub enum BackgroundJob {
    /// Installs a Raft snapshot.
    Install(Box<Installation>),
    /// Measures a region and looks for a split key.
    Measure(super::split::MeasureJob),
    /// Frees files of the log.
    PurgeLog,
    /// Removes a damaged file that no region needs any more.
    DropDamaged(cairn_engine::DamagedFile),
}

/// What PD should hear.
pub enum PdEvent {
    /// Reports of leaders.
    Regions(Vec<pd::RegionHeartbeatRequest>),
    /// The store's report.
    Store(pd::StoreStats),
    /// A region should be split at the keys: ids are needed.
    AskSplit(RegionContext, meta::Region, Vec<bytes::Bytes>),
    /// A region was split.
    ReportSplit(Vec<meta::Region>),
}

/// A Raft snapshot to send.
pub struct OutgoingSnapshot {
    /// Message with the snapshot's metadata.
    pub head: kv::RaftMessage,
    /// The region as of the snapshot.
    pub region: meta::Region,
    /// Its data.
    pub engine: Arc<dyn cairn_engine::EngineSnapshot>,
    /// Files made of the data, which receivers of the same snapshot share.
    pub shared: Arc<SharedFiles>,
    /// The receiver.
    pub peer_id: u64,
}

/// Where outputs go.
pub trait Effects {
    /// Sends messages; may drop them.
    fn send(&mut self, messages: Vec<kv::RaftMessage>);
    /// Sends a Raft snapshot; [`StoreMessage::SnapshotSent`] must follow.
    fn send_snapshot(&mut self, snapshot: OutgoingSnapshot);
    /// Hands work to apply.
    fn apply(&mut self, tasks: Vec<ApplyTask>);
    /// Hands work to the background thread.
    fn background(&mut self, job: BackgroundJob);
    /// Tells PD.
    fn pd(&mut self, event: PdEvent);
}

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
    /// Regions that are the source of a merge, or were merged elsewhere.
    merging: BTreeSet<u64>,
    /// Regions whose Raft snapshot cannot be installed yet: a region is in its way.
    blocked_installs: BTreeSet<u64>,
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
            merging: BTreeSet::new(),
            blocked_installs: BTreeSet::new(),
            absorbing: IdMap::default(),
            awake: BTreeSet::new(),
            elections_from: 0,
            led: BTreeSet::new(),
            slow_score: SlowScore::new(),
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
            StoreMessage::Split { context, pieces, callback } => {
                self.propose_split(&context, pieces, callback, now);
            }
            StoreMessage::PdStep(step) => self.take_pd_step(step, now),
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
                    peer.transfer_leader(peer_id);
                }
            }
            StoreMessage::Raft(messages) => {
                for message in messages {
                    self.on_raft_message(message, now);
                }
            }
            StoreMessage::Snapshot(message, data) => self.on_snapshot(message, data, now),
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
            StoreMessage::Installed { region_id, outcome } => {
                self.on_installed(region_id, outcome);
            }
            StoreMessage::Damaged(files) => self.on_damage(files),
            StoreMessage::Measured(check) => self.on_measured(check, now),
            StoreMessage::LogNeedsCompaction(regions) => {
                for region_id in regions {
                    self.force_compaction(region_id, now);
                }
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
        self.drive_merges(now);
        self.ask_to_rest(idle, now);
        asking.into_iter().for_each(|region_id| self.rest_if_agreed(region_id, now));
        self.evict_tick(now);
        self.admin_tick(now);
    }

    /// Ends the round: writes, sends, applies.
    pub fn finish_round(
        &mut self,
        now: MonotonicTime,
        effects: &mut dyn Effects,
    ) -> Result<(), RaftStoreError> {
        let beats = self.links.take_messages(now);
        add(&self.metrics.beats_sent, beats.len() as u64);
        self.outbox.messages.extend(beats);
        self.flush(effects);
        for _ in 0..WRITES_PER_ROUND_MAX {
            let dirty = std::mem::take(&mut self.dirty);
            if dirty.is_empty() && self.log.is_empty() {
                break;
            }
            self.write_round(dirty, now, effects)?;
        }
        self.flush(effects);
        Ok(())
    }

    /// Whether another round would do something at once.
    pub fn has_work(&self) -> bool {
        !self.dirty.is_empty()
    }

    fn write_round(
        &mut self,
        dirty: BTreeSet<u64>,
        now: MonotonicTime,
        effects: &mut dyn Effects,
    ) -> Result<(), RaftStoreError> {
        let mut log = std::mem::take(&mut self.log);
        let mut must_sync = false;
        let mut collected = Vec::with_capacity(dirty.len());
        for region_id in dirty {
            let Some(peer) = self.peers.get_mut(&region_id) else { continue };
            if peer.is_disturbed() {
                // Before its messages leave: they tell that it is awake.
                self.wake(region_id, now);
            }
            let Some(peer) = self.peers.get_mut(&region_id) else { continue };
            if peer.wants_read_index() {
                self.last_read_id += 1;
                let guard = self.regions.guard();
                let question = peer.ask_read_index(self.last_read_id, guard, now);
                self.outbox.messages.extend(question);
            }
            if peer.has_unissued_reads() {
                peer.issue_reads(now, false);
            }
            if peer.has_ready() {
                let ready = peer.collect_ready(&mut log, now);
                must_sync |= ready.must_sync;
                if ready.install.is_none() {
                    collected.push(region_id);
                }
                self.take_effects(region_id, ready);
            }
            self.answer_reads(region_id, now);
            self.note_role(region_id);
        }
        self.flush(effects);
        if !log.is_empty() {
            let appended: usize = log
                .ops()
                .iter()
                .map(|(_, op)| match op {
                    cairn_engine::LogOp::Append(entries) => entries.len(),
                    _ => 0,
                })
                .sum();
            must_sync &= !planted(Bug::AnswerBeforeSync);
            self.engines.log.write(log, must_sync)?;
            add(&self.metrics.rounds, 1);
            add(&self.metrics.log_syncs, u64::from(must_sync));
            add(&self.metrics.appended_entries, appended as u64);
        }
        for region_id in collected {
            let Some(peer) = self.peers.get_mut(&region_id) else { continue };
            let rest = peer.advance();
            if peer.has_ready() {
                self.dirty.insert(region_id);
            }
            self.take_effects(region_id, rest);
            self.answer_reads(region_id, now);
        }
        self.flush(effects);
        Ok(())
    }

    fn take_effects(&mut self, region_id: u64, ready: ReadyEffects) {
        self.outbox.messages.extend(ready.early);
        self.outbox.messages.extend(ready.late);
        self.outbox.snapshots.extend(ready.snapshots);
        self.outbox.apply.extend(ready.committed.into_iter().map(ApplyTask::Entries));
        if let Some(snapshot) = ready.install {
            self.begin_install(region_id, &snapshot);
        }
    }

    fn answer_reads(&mut self, region_id: u64, now: MonotonicTime) {
        let Some(peer) = self.peers.get_mut(&region_id) else { return };
        let reads = peer.take_confirmed_reads();
        let replica_reads = peer.take_replica_reads();
        self.outbox.messages.extend(peer.take_answers());
        peer.publish();
        if reads.is_empty() && replica_reads.is_empty() {
            return;
        }
        let engine = self.engines.kv.snapshot();
        for (read, pending) in replica_reads {
            match peer.check_replica_read(&read.context, now) {
                Ok(()) => {
                    let region = peer.region().clone();
                    let load = peer.delegate.load.clone();
                    let snapshot = RegionSnapshot { region, term: 0, engine: engine.clone(), load };
                    // The caller may have gone away.
                    let _ = read.answer.send(Ok(ReplicaView { snapshot, pending }));
                }
                Err(error) => read.fail(error),
            }
        }
        for read in reads {
            match peer.check_leader(&read.context, now) {
                Ok(()) => {
                    let snapshot = RegionSnapshot {
                        region: peer.region().clone(),
                        term: peer.term(),
                        engine: engine.clone(),
                        load: peer.delegate.load.clone(),
                    };
                    // The caller may have gone away.
                    let _ = read.answer.send(Ok(snapshot));
                }
                Err(error) => read.fail(error),
            }
        }
    }

    /// Keeps account of who leads and who is awake.
    fn note_role(&mut self, region_id: u64) {
        let Some(peer) = self.peers.get(&region_id) else { return };
        if !peer.is_leader() {
            self.led.remove(&region_id);
        } else if self.led.insert(region_id) {
            add(&self.metrics.leaderships, 1);
        }
        if !peer.is_quiet() {
            self.awake.insert(region_id);
        }
    }

    /// Hands everything gathered to its way out.
    fn flush(&mut self, effects: &mut dyn Effects) {
        let outbox = std::mem::take(&mut self.outbox);
        if !outbox.messages.is_empty() {
            add(&self.metrics.messages_sent, outbox.messages.len() as u64);
            effects.send(outbox.messages);
        }
        for snapshot in outbox.snapshots {
            self.send_snapshot(snapshot, effects);
        }
        if !outbox.apply.is_empty() {
            effects.apply(outbox.apply);
        }
        outbox.background.into_iter().for_each(|job| effects.background(job));
        outbox.pd.into_iter().for_each(|event| effects.pd(event));
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
            ApplyReport::WalSynced(indexes) => {
                self.compaction_runs = false;
                for (region_id, index) in indexes {
                    if self.peers.get(&region_id).is_some_and(|peer| !peer.installing) {
                        self.log.compact_to(region_id, index + 1);
                    }
                }
            }
        }
    }

    fn on_outcome(&mut self, region_id: u64, outcome: Outcome, now: MonotonicTime) {
        match outcome {
            Outcome::ConfChange { change, region, callback } => {
                self.on_conf_change(region_id, &change, region, callback);
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
