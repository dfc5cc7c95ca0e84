//! A running Raft store: its parts connected, the threads started, and stopped again.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::thread::JoinHandle;

use cairn_engine::{KvEngine, RaftLog, WatchedLog};
use cairn_pd_client::PdClient;
use crossbeam::channel::{Receiver, Sender, unbounded};
use parking_lot::Mutex;

use super::apply::{Applier, ApplyTask};
use super::clock::Clock;
use super::config::RaftStoreConfig;
use super::disk::SyncTimer;
use super::error::RaftStoreError;
use super::flow::FlowControl;
use super::metrics::RaftMetrics;
use super::peer::storage::Engines;
use super::read::Regions;
use super::router::RaftRouter;
use super::snapshot::{SnapshotLimits, SnapshotRoom};
use super::space::SpaceKeeper;
use super::store::{BackgroundJob, StoreCore, StoreMessage};
use super::transport::{RaftInbox, Transport};
use super::watch::{self, Watch};
use super::worker::{self, Mailbox, ThreadEffects};
use super::{RaftKv, StoreId, heartbeat, threads};
use crate::mvcc::dead_ranges::DeadRanges;

/// What a Raft store is made of.
pub struct RaftStoreParts {
    /// Settings.
    pub config: RaftStoreConfig,
    /// Id of the store.
    pub store_id: StoreId,
    /// Data engine; holds the regions (see [`super::state::bootstrap_region`]).
    pub kv: Arc<dyn KvEngine>,
    /// Raft log.
    pub log: Arc<dyn RaftLog>,
    /// Way to other stores.
    pub transport: Arc<dyn Transport>,
    /// PD and the runtime that talks to it; without, nothing is reported or split.
    pub pd: Option<(Arc<dyn PdClient>, tokio::runtime::Handle)>,
    /// Time.
    pub clock: Arc<dyn Clock>,
}

/// A Raft store at work.
pub struct RaftStore {
    router: Arc<RaftRouter>,
    inbox: RaftInbox,
    metrics: Arc<RaftMetrics>,
    kv: Arc<dyn KvEngine>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// Its end stops the watch.
    watched: Mutex<Option<Sender<()>>>,
}

/// Everything of a store but what runs it.
pub(super) struct Assembled {
    pub(super) core: StoreCore,
    pub(super) applier: Applier,
    pub(super) router: Arc<RaftRouter>,
    pub(super) inbox: RaftInbox,
    pub(super) received: Receiver<StoreMessage>,
    pub(super) apply_tasks: Receiver<Vec<ApplyTask>>,
    pub(super) jobs: Receiver<BackgroundJob>,
    pub(super) effects: ThreadEffects,
}

/// Loads the regions and connects the parts.
pub(super) fn assemble(parts: &RaftStoreParts) -> Result<Assembled, RaftStoreError> {
    let RaftStoreParts { config, store_id, kv, log, transport, pd, clock } = parts;
    let regions = Arc::new(Regions::default());
    let metrics = Arc::new(RaftMetrics::default());
    let (mailbox, received) = Mailbox::new(config.mailbox_messages_max);
    let (apply, apply_tasks) = unbounded();
    let (background, jobs) = unbounded();
    let timer = SyncTimer::new(clock.clone(), metrics.clone());
    let log = Arc::new(WatchedLog::new(log.clone(), timer));
    let engines = Engines { kv: kv.clone(), log };
    let dead = Arc::new(DeadRanges::new(kv.clone()));
    let applier =
        Applier::new(store_id.0, engines.clone(), metrics.clone()).with_dead_ranges(dead.clone());
    let mut core =
        StoreCore::new(config.clone(), store_id.0, engines, regions.clone(), metrics.clone());
    core.load(clock.now())?;
    let pd_events = pd.as_ref().map(|(client, runtime)| {
        let (sender, receiver) = tokio::sync::mpsc::channel(heartbeat::EVENTS_MAX);
        runtime.spawn(heartbeat::run(store_id.0, client.clone(), receiver, mailbox.clone()));
        sender
    });
    let router = Arc::new(RaftRouter {
        store_id: *store_id,
        mailbox: mailbox.clone(),
        regions,
        engine: kv.clone(),
        clock: clock.clone(),
        pd: pd.as_ref().map(|(client, _)| client.clone()),
        inflight: Arc::new(AtomicU64::new(0)),
        inflight_max: config.inflight_bytes_max,
        flow: Arc::new(FlowControl::default()),
        space: config.space.clone(),
        dead,
        metrics: metrics.clone(),
    });
    let limits = SnapshotLimits {
        dir: config.snapshot_dir.clone(),
        bytes_per_second: config.snapshot_bytes_per_second,
        receives_max: config.snapshot_receives_max,
    };
    let snapshots =
        Arc::new(SnapshotRoom::new(kv.clone(), limits, config.space.clone(), clock.clone()));
    let inbox = RaftInbox::new(mailbox.clone(), snapshots.clone());
    let transport = transport.clone();
    let effects = ThreadEffects { mailbox, transport, snapshots, apply, background, pd: pd_events };
    Ok(Assembled { core, applier, router, inbox, received, apply_tasks, jobs, effects })
}

impl RaftStore {
    /// Loads the regions and starts the threads.
    pub fn start(parts: RaftStoreParts) -> Result<Arc<RaftStore>, RaftStoreError> {
        let Assembled { core, applier, router, inbox, received, apply_tasks, jobs, effects } =
            assemble(&parts)?;
        let RaftStoreParts { config, kv, log, clock, .. } = parts;
        let mailbox = effects.mailbox.clone();
        let on_failure = config.on_engine_failure;
        let keeper = config
            .data_dir
            .as_ref()
            .map(|folder| SpaceKeeper::open(folder, config.reserve_bytes))
            .transpose()?;
        let mut handles = Vec::new();
        handles.push(threads::spawn("apply", {
            let mailbox = mailbox.clone();
            move || worker::run_apply(applier, &apply_tasks, &mailbox, on_failure)
        })?);
        handles.push(threads::spawn("raft-background", {
            let (kv, mailbox) = (kv.clone(), mailbox.clone());
            move || worker::run_background(&jobs, &kv, &log, &mailbox, on_failure)
        })?);
        let (watched, watch_stop) = crossbeam::channel::bounded(0);
        handles.push(threads::spawn("watch", {
            let watch = Watch {
                kv: kv.clone(),
                flow: router.flow.clone(),
                metrics: router.metrics.clone(),
                keeper,
                space: config.space.clone(),
                clock: clock.clone(),
                mailbox,
            };
            move || watch::run(watch, &watch_stop)
        })?);
        handles.push(threads::spawn("raft", move || {
            if let Err(error) = worker::run_raft(core, &config, &received, effects, clock.as_ref())
            {
                // What was promised cannot be kept: the store goes silent.
                threads::on_engine_failure(on_failure, "raft log", &error);
            }
        })?);
        let metrics = router.metrics.clone();
        let (threads, watched) = (Mutex::new(handles), Mutex::new(Some(watched)));
        Ok(Arc::new(RaftStore { router, inbox, metrics, kv, threads, watched }))
    }

    /// For the transaction layer.
    pub fn kv(&self) -> Arc<dyn RaftKv> {
        self.router.clone()
    }

    /// For tools and tests: membership and leadership too.
    pub fn router(&self) -> &Arc<RaftRouter> {
        &self.router
    }

    /// For the service: where messages of other stores come in.
    pub fn inbox(&self) -> &RaftInbox {
        &self.inbox
    }

    /// Counters.
    pub fn metrics(&self) -> &Arc<RaftMetrics> {
        &self.metrics
    }

    /// Hands every leadership to other stores while this one still serves; answers whether
    /// all were taken in time. New ones are handed on too.
    pub async fn hand_over(&self, timeout: std::time::Duration) -> bool {
        let (done, all_gone) = tokio::sync::oneshot::channel();
        self.router.mailbox.answer(StoreMessage::Leave(done));
        matches!(tokio::time::timeout(timeout, all_gone).await, Ok(Ok(())))
    }

    /// The engine's and the disk's figures, for exposition.
    pub fn storage_values(&self) -> Vec<(&'static str, u64)> {
        let space = self.router.space.space();
        let mut values = self.kv.statistics();
        values.extend(self.router.flow.values());
        values.push(("dead_range_jumps", self.router.dead.jumps()));
        values.extend([
            ("disk_capacity_bytes", space.capacity_bytes),
            ("disk_available_bytes", space.available_bytes),
            ("disk_level", self.router.space.level() as u64),
        ]);
        values
    }

    /// Ends the threads and makes everything durable. Callers who wait get an error.
    pub fn stop(&self) {
        let handles = std::mem::take(&mut *self.threads.lock());
        if handles.is_empty() {
            return;
        }
        drop(self.watched.lock().take());
        self.router.mailbox.answer(StoreMessage::Stop { at_once: false });
        for handle in handles.into_iter().rev() {
            if handle.join().is_err() {
                tracing::error!("a thread of the raft store panicked");
            }
        }
        if let Err(error) = self.kv.sync_wal() {
            tracing::warn!(%error, "last sync");
        }
    }
}

impl Drop for RaftStore {
    fn drop(&mut self) {
        self.stop();
    }
}
