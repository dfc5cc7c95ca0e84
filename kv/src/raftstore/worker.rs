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
use super::error::RaftStoreError;
use super::snapshot;
use super::split;
use super::store::{BackgroundJob, Effects, OutgoingSnapshot, PdEvent, StoreCore, StoreMessage};
use super::transport::Transport;

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
pub(super) struct ThreadEffects {
    pub(super) mailbox: Mailbox,
    pub(super) transport: Arc<dyn Transport>,
    pub(super) apply: Sender<Vec<ApplyTask>>,
    pub(super) background: Sender<BackgroundJob>,
    pub(super) pd: Option<tokio::sync::mpsc::Sender<PdEvent>>,
}

impl Effects for ThreadEffects {
    fn send(&mut self, messages: Vec<kv::RaftMessage>) {
        self.transport.send(&self.mailbox, messages);
    }

    fn send_snapshot(&mut self, snapshot: OutgoingSnapshot) {
        self.transport.send_snapshot(&self.mailbox, snapshot);
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

/// The Raft thread: drain the mailbox, tick, one round, again.
pub(super) fn run_raft(
    mut core: StoreCore,
    config: super::config::RaftStoreConfig,
    mailbox: &Receiver<StoreMessage>,
    mut effects: ThreadEffects,
    clock: &dyn Clock,
) -> Result<(), RaftStoreError> {
    let mut next_tick = clock.now().plus(config.tick);
    let mut stop_at: Option<MonotonicTime> = None;
    core.finish_round(clock.now(), &mut effects)?;
    loop {
        let wait = if core.has_work() { Duration::ZERO } else { next_tick.since(clock.now()) };
        let first = match mailbox.recv_timeout(wait) {
            Ok(message) => Some(message),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        };
        let now = clock.now();
        let more = std::iter::from_fn(|| mailbox.try_recv().ok()).take(config.round_messages_max);
        for message in first.into_iter().chain(more) {
            match message {
                StoreMessage::Stop { at_once: true } => return Ok(()),
                StoreMessage::Stop { at_once: false } => {
                    core.hand_over_all();
                    stop_at = Some(now.plus(HAND_OVER_MAX));
                }
                message => core.handle(message, now),
            }
        }
        // Never two ticks for one stretch of time, however late this thread is: leases
        // count on followers' ticks not coming faster than time.
        if now >= next_tick {
            core.tick(now);
            next_tick = now.plus(config.tick);
        }
        core.finish_round(now, &mut effects)?;
        if stop_at.is_some_and(|stop_at| now >= stop_at || core.shared_leaders() == 0) {
            return Ok(());
        }
    }
}

/// The apply thread.
pub(super) fn run_apply(mut applier: Applier, tasks: &Receiver<Vec<ApplyTask>>, mailbox: &Mailbox) {
    while let Ok(mut round) = tasks.recv() {
        for more in tasks.try_iter().take(APPLY_ROUND_BATCHES_MAX) {
            round.extend(more);
        }
        match applier.run(round) {
            Ok(reports) if reports.is_empty() => {}
            Ok(reports) => mailbox.answer(StoreMessage::Applied(reports)),
            Err(error) => {
                // The engine cannot take data: going on would only lose more.
                tracing::error!(%error, "apply stops");
                mailbox.answer(StoreMessage::Stop { at_once: true });
                return;
            }
        }
    }
}

/// The background thread.
pub(super) fn run_background(
    jobs: &Receiver<BackgroundJob>,
    kv: &Arc<dyn KvEngine>,
    log: &Arc<dyn RaftLog>,
    mailbox: &Mailbox,
    on_stall: impl Fn(bool),
) {
    while let Ok(job) = jobs.recv() {
        if matches!(job, BackgroundJob::WatchStall) {
            on_stall(kv.write_stall().is_some());
            continue;
        }
        if let Some(answer) = run_job(job, kv.as_ref(), log.as_ref()) {
            mailbox.answer(answer);
        }
    }
}

/// One job; also how tests run them.
pub(super) fn run_job(
    job: BackgroundJob,
    kv: &dyn KvEngine,
    log: &dyn RaftLog,
) -> Option<StoreMessage> {
    match job {
        BackgroundJob::Install(installation) => {
            let region_id = installation.region.id;
            let outcome = snapshot::install(kv, *installation);
            Some(StoreMessage::Installed { region_id, outcome })
        }
        BackgroundJob::Measure(job) => match split::check(kv, &job) {
            Ok(check) => Some(StoreMessage::Measured(check)),
            Err(error) => {
                tracing::warn!(region = job.region.id, %error, "region cannot be measured");
                None
            }
        },
        BackgroundJob::WatchStall => None,
        BackgroundJob::PurgeLog => match log.purge() {
            Ok(regions) if regions.is_empty() => None,
            Ok(regions) => Some(StoreMessage::LogNeedsCompaction(regions)),
            Err(error) => {
                tracing::warn!(%error, "raft log cannot be purged");
                None
            }
        },
    }
}
