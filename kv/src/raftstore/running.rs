//! A running Raft store: its parts connected, the threads started, and stopped again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use cairn_engine::{KvEngine, RaftLog};
use cairn_pd_client::PdClient;
use crossbeam::channel::{Receiver, unbounded};
use parking_lot::Mutex;

use super::apply::{Applier, ApplyTask};
use super::clock::Clock;
use super::config::RaftStoreConfig;
use super::disk::TimedLog;
use super::error::RaftStoreError;
use super::metrics::RaftMetrics;
use super::peer::storage::Engines;
use super::read::Regions;
use super::router::RaftRouter;
use super::store::{BackgroundJob, StoreCore, StoreMessage};
use super::transport::{RaftInbox, Transport};
use super::worker::{self, Mailbox, ThreadEffects};
use super::{RaftKv, StoreId, heartbeat, threads};

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
    let log = Arc::new(TimedLog::new(log.clone(), clock.clone(), metrics.clone()));
    let engines = Engines { kv: kv.clone(), log };
    let applier = Applier::new(store_id.0, engines.clone(), metrics.clone());
    let mut core =
        StoreCore::new(config.clone(), store_id.0, engines, regions.clone(), metrics.clone());
    core.load(clock.now())?;
    let pd_events = pd.as_ref().map(|(client, runtime)| {
        let (sender, receiver) = tokio::sync::mpsc::channel(heartbeat::EVENTS_MAX);
        runtime.spawn(heartbeat::run(client.clone(), receiver, mailbox.clone()));
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
        stalled: AtomicBool::new(false),
        metrics: metrics.clone(),
    });
    let inbox = RaftInbox::new(mailbox.clone(), config.snapshot_dir.clone());
    let transport = transport.clone();
    let effects = ThreadEffects { mailbox, transport, apply, background, pd: pd_events };
    Ok(Assembled { core, applier, router, inbox, received, apply_tasks, jobs, effects })
}

impl RaftStore {
    /// Loads the regions and starts the threads.
    pub fn start(parts: RaftStoreParts) -> Result<Arc<RaftStore>, RaftStoreError> {
        let Assembled { core, applier, router, inbox, received, apply_tasks, jobs, effects } =
            assemble(&parts)?;
        let RaftStoreParts { config, kv, log, clock, .. } = parts;
        let mailbox = effects.mailbox.clone();
        let mut handles = Vec::new();
        handles.push(threads::spawn("apply", {
            let mailbox = mailbox.clone();
            move || worker::run_apply(applier, &apply_tasks, &mailbox)
        })?);
        handles.push(threads::spawn("raft-background", {
            let (kv, router) = (kv.clone(), router.clone());
            move || {
                worker::run_background(&jobs, &kv, &log, &mailbox, |stalled| {
                    router.stalled.store(stalled, Ordering::Relaxed);
                });
            }
        })?);
        handles.push(threads::spawn("raft", move || {
            if let Err(error) = worker::run_raft(core, &config, &received, effects, clock.as_ref())
            {
                // What was promised cannot be kept: the store goes silent.
                tracing::error!(%error, "raft stops");
            }
        })?);
        let metrics = router.metrics.clone();
        Ok(Arc::new(RaftStore { router, inbox, metrics, kv, threads: Mutex::new(handles) }))
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

    /// Ends the threads and makes everything durable. Callers who wait get an error.
    pub fn stop(&self) {
        let handles = std::mem::take(&mut *self.threads.lock());
        if handles.is_empty() {
            return;
        }
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
