//! The threads of a store around its state machines: Raft, apply, background.
//!
//! **Concurrency.** Each thread owns one state machine and a channel. The Raft thread's
//! mailbox is bounded for everybody but the store's own threads, which answer work they
//! were given: refusing those could lose an answer, and their number is bounded by it.

use std::sync::Arc;
use std::time::Duration;

use cairn_engine::{KvEngine, RaftLog};
use cairn_proto::kv;
use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, unbounded};

use super::apply::{Applier, ApplyTask};
use super::clock::{Clock, MonotonicTime};
use super::config::OnEngineFailure;
use super::error::RaftStoreError;
use super::snapshot::{self, SnapshotRoom};
use super::split;
use super::store::{
    BackgroundJob, CollectJob, Effects, FailedInstallation, OutgoingSnapshot, PdEvent, StoreCore,
    StoreMessage,
};
use super::threads;
use super::transport::Transport;
use crate::gc;

/// How long a store that stops waits for others to take over its regions.
const HAND_OVER_MAX: Duration = Duration::from_millis(300);
/// Batches of tasks that one round of apply takes.
const APPLY_ROUND_BATCHES_MAX: usize = 256;

/// Where the Raft thread is told things.
#[derive(Clone)]
pub struct Mailbox {
    sender: Sender<StoreMessage>,
    messages_max: usize,
}

impl Mailbox {
    pub(super) fn new(messages_max: usize) -> (Mailbox, Receiver<StoreMessage>) {
        let (sender, receiver) = unbounded();
        (Mailbox { sender, messages_max }, receiver)
    }

    /// Leaves a message if there is room; else gives it back.
    pub fn try_send(&self, message: StoreMessage) -> Result<(), Box<StoreMessage>> {
        if self.is_full() {
            return Err(Box::new(message));
        }
        self.sender.send(message).map_err(|refused| Box::new(refused.0))
    }

    /// Tells the store how the transfer of its Raft snapshot went.
    pub fn snapshot_sent(&self, region_id: u64, peer_id: u64, sent: bool) {
        self.answer(StoreMessage::SnapshotSent { region_id, peer_id, sent });
    }

    /// Tells the store that a message to a peer did not arrive; left out when it is busy.
    pub fn unreachable(&self, region_id: u64, peer_id: u64) {
        if self.try_send(StoreMessage::Unreachable { region_id, peer_id }).is_err() {
            tracing::debug!("mailbox is full: an unreachable peer is not reported");
        }
    }

    /// Leaves an answer to work that the store gave out.
    pub(super) fn answer(&self, message: StoreMessage) {
        if self.sender.send(message).is_err() {
            tracing::debug!("the raft thread has ended");
        }
    }

    /// Whether strangers have to wait.
    pub fn is_full(&self) -> bool {
        self.sender.len() >= self.messages_max
    }
}

/// Outputs of the Raft thread to the other threads.
#[derive(Clone)]
pub(super) struct ThreadEffects {
    pub(super) mailbox: Mailbox,
    pub(super) transport: Arc<dyn Transport>,
    pub(super) snapshots: Arc<SnapshotRoom>,
    pub(super) apply: Sender<Vec<ApplyTask>>,
    pub(super) background: Sender<BackgroundJob>,
    pub(super) pd: Option<tokio::sync::mpsc::Sender<PdEvent>>,
}

impl Effects for ThreadEffects {
    fn send(&mut self, messages: Vec<kv::RaftMessage>) {
        self.transport.send(&self.mailbox, messages);
    }

    fn send_snapshot(&mut self, snapshot: OutgoingSnapshot) {
        self.transport.send_snapshot(&self.mailbox, &self.snapshots, snapshot);
    }

    fn apply(&mut self, tasks: Vec<ApplyTask>) {
        if self.apply.send(tasks).is_err() {
            tracing::error!("the apply thread has ended");
        }
    }

    fn background(&mut self, job: BackgroundJob) {
        if self.background.send(job).is_err() {
            tracing::error!("the background thread has ended");
        }
    }

    fn pd(&mut self, event: PdEvent) {
        // A lost report is followed by another one.
        if let Some(pd) = &self.pd
            && pd.try_send(event).is_err()
        {
            tracing::debug!("PD is slow: a report is left out");
        }
    }
}

/// The Raft thread's work without the thread: when to tick, when to stop.
pub(super) struct RaftTurns {
    core: StoreCore,
    tick: Duration,
    next_tick: MonotonicTime,
    stop_at: Option<MonotonicTime>,
}

impl RaftTurns {
    pub(super) fn new(core: StoreCore, tick: Duration, now: MonotonicTime) -> RaftTurns {
        RaftTurns { core, tick, next_tick: now.plus(tick), stop_at: None }
    }

    /// How long nothing is to be done if no message comes.
    pub(super) fn idle(&self, now: MonotonicTime) -> Duration {
        if self.core.has_work() { Duration::ZERO } else { self.next_tick.since(now) }
    }

    /// Takes messages, ticks if it is time, ends the round. `false`: the store has stopped.
    pub(super) fn turn(
        &mut self,
        messages: impl Iterator<Item = StoreMessage>,
        now: MonotonicTime,
        effects: &mut dyn Effects,
    ) -> Result<bool, RaftStoreError> {
        for message in messages {
            match message {
                StoreMessage::Stop { at_once: true } => return Ok(false),
                StoreMessage::Stop { at_once: false } => {
                    self.core.hand_over_all(now);
                    self.stop_at = Some(now.plus(HAND_OVER_MAX));
                }
                message => self.core.handle(message, now),
            }
        }
        // Never two ticks for one stretch of time, however late this turn is: leases
        // count on followers' ticks not coming faster than time.
        if now >= self.next_tick {
            self.core.tick(now);
            self.next_tick = now.plus(self.tick);
        }
        self.core.finish_round(now, effects)?;
        let stopped = |stop_at| now >= stop_at || self.core.shared_leaders() == 0;
        Ok(!self.stop_at.is_some_and(stopped))
    }
}

/// The Raft thread: drain the mailbox, tick, one round, again.
pub(super) fn run_raft(
    core: StoreCore,
    config: &super::config::RaftStoreConfig,
    mailbox: &Receiver<StoreMessage>,
    mut effects: ThreadEffects,
    clock: &dyn Clock,
) -> Result<(), RaftStoreError> {
    let mut turns = RaftTurns::new(core, config.tick, clock.now());
    turns.turn(std::iter::empty(), clock.now(), &mut effects)?;
    let mut received = Vec::new();
    loop {
        let first = match mailbox.recv_timeout(turns.idle(clock.now())) {
            Ok(message) => Some(message),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        };
        let more = std::iter::from_fn(|| mailbox.try_recv().ok()).take(config.round_messages_max);
        received.extend(first.into_iter().chain(more));
        // After the messages: a lease that is valid now was valid when they were sent. Before
        // anything this round sends: leases run from here.
        let now = clock.now();
        if !turns.turn(received.drain(..), now, &mut effects)? {
            return Ok(());
        }
    }
}

/// The apply thread.
pub(super) fn run_apply(
    mut applier: Applier,
    tasks: &Receiver<Vec<ApplyTask>>,
    mailbox: &Mailbox,
    on_failure: OnEngineFailure,
) {
    while let Ok(mut round) = tasks.recv() {
        for more in tasks.try_iter().take(APPLY_ROUND_BATCHES_MAX) {
            round.extend(more);
        }
        match applier.run(round) {
            Ok(reports) if reports.is_empty() => {}
            Ok(reports) => mailbox.answer(StoreMessage::Applied(reports)),
            Err(error) => return stop_store("apply", &error, on_failure, mailbox),
        }
    }
}

/// The background thread.
pub(super) fn run_background(
    jobs: &Receiver<BackgroundJob>,
    kv: &Arc<dyn KvEngine>,
    log: &Arc<dyn RaftLog>,
    mailbox: &Mailbox,
    on_failure: OnEngineFailure,
) {
    while let Ok(job) = jobs.recv() {
        match run_job(job, kv.as_ref(), log.as_ref()) {
            Ok(answer) => answer.into_iter().for_each(|answer| mailbox.answer(answer)),
            Err(error) => return stop_store("background", &error, on_failure, mailbox),
        }
    }
}

/// The engine cannot take data, or nobody knows what the disk holds after a sync that failed:
/// going on would only lose more.
fn stop_store(
    thread: &str,
    error: &RaftStoreError,
    on_failure: OnEngineFailure,
    mailbox: &Mailbox,
) {
    threads::on_engine_failure(on_failure, thread, error);
    mailbox.answer(StoreMessage::Stop { at_once: true });
}

/// One job; also how tests run them. An error means that the store cannot go on.
pub(super) fn run_job(
    job: BackgroundJob,
    kv: &dyn KvEngine,
    log: &dyn RaftLog,
) -> Result<Option<StoreMessage>, RaftStoreError> {
    Ok(match job {
        BackgroundJob::Install(installation) => {
            let (region_id, peer_id) = (installation.region.id, installation.peer_id);
            let outcome = snapshot::install(kv, &installation);
            let outcome = outcome.map_err(|error| FailedInstallation { installation, error });
            Some(StoreMessage::Installed { region_id, peer_id, outcome })
        }
        BackgroundJob::Collect(CollectJob { mut walk, answer }) => {
            let round = gc::collect::collect(kv, &mut walk, gc::RECORDS_PER_ROUND);
            // The caller may have gone away.
            let _ = answer.send((walk, round));
            None
        }
        BackgroundJob::Measure(job) => match split::check(kv, &job) {
            Ok(check) => Some(StoreMessage::Measured(check)),
            Err(error) => {
                tracing::warn!(region = job.region.id, %error, "region cannot be measured");
                None
            }
        },
        BackgroundJob::DropDamaged(file) => {
            if let Err(error) = kv.drop_damaged(&file) {
                tracing::error!(%error, reason = file.reason, "a damaged file stays");
            }
            None
        }
        BackgroundJob::SyncWal(indexes) => {
            kv.sync_wal()?;
            Some(StoreMessage::WalSynced(indexes))
        }
        BackgroundJob::PurgeLog => match log.purge() {
            Ok(regions) if regions.is_empty() => None,
            Ok(regions) => Some(StoreMessage::LogNeedsCompaction(regions)),
            Err(error) => {
                tracing::warn!(%error, "raft log cannot be purged");
                None
            }
        },
    })
}
