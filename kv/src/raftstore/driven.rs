//! A Raft store without threads: whoever holds it runs its steps, one at a time and in
//! the order it likes.
//!
//! The state machines are those of [`super::running`]; only the threads are missing. The
//! simulation drives stores this way, so that one seed decides which thread of which
//! store comes next, and so that a step's outputs can wait until its write is durable.

use std::sync::Arc;
use std::time::Duration;

use cairn_engine::{KvEngine, RaftLog};
use cairn_proto::kv;
use crossbeam::channel::Receiver;

use super::RaftKv;
use super::apply::{Applier, ApplyReport, ApplyTask};
use super::clock::Clock;
use super::error::RaftStoreError;
use super::metrics::RaftMetrics;
use super::router::RaftRouter;
use super::running::{Assembled, RaftStoreParts, assemble};
use super::store::{BackgroundJob, Effects, OutgoingSnapshot, PdEvent, StoreMessage};
use super::transport::RaftInbox;
use super::worker::{self, Mailbox, RaftTurns, ThreadEffects};

/// A Raft store whose steps are run by hand.
pub struct DrivenStore {
    /// What the Raft thread would do.
    pub raft: DrivenRaft,
    /// What the apply thread would do.
    pub apply: DrivenApply,
    /// What the background thread would do.
    pub background: DrivenBackground,
    router: Arc<RaftRouter>,
    inbox: RaftInbox,
}

impl DrivenStore {
    /// Loads the regions; nothing runs yet.
    pub fn open(parts: RaftStoreParts) -> Result<DrivenStore, RaftStoreError> {
        let Assembled { core, applier, router, inbox, received, apply_tasks, jobs, effects } =
            assemble(&parts)?;
        let RaftStoreParts { config, kv, log, clock, .. } = parts;
        let mailbox = effects.mailbox.clone();
        let raft = DrivenRaft {
            turns: RaftTurns::new(core, config.tick, clock.now()),
            received,
            round_messages_max: config.round_messages_max,
            log: log.clone(),
            clock,
            effects,
            is_fresh: true,
        };
        let apply = DrivenApply { applier, tasks: apply_tasks, mailbox: mailbox.clone() };
        let background = DrivenBackground { jobs, kv, log, mailbox };
        Ok(DrivenStore { raft, apply, background, router, inbox })
    }

    /// For the transaction layer.
    pub fn kv(&self) -> Arc<dyn RaftKv> {
        self.router.clone()
    }

    /// Membership and leadership too.
    pub fn router(&self) -> &Arc<RaftRouter> {
        &self.router
    }

    /// Where messages of other stores come in.
    pub fn inbox(&self) -> &RaftInbox {
        &self.inbox
    }

    /// Counters.
    pub fn metrics(&self) -> &Arc<RaftMetrics> {
        &self.router.metrics
    }
}

/// One output of a round.
enum Output {
    Messages(Vec<kv::RaftMessage>),
    Snapshot(Box<OutgoingSnapshot>),
    Apply(Vec<ApplyTask>),
    Background(BackgroundJob),
    Pd(PdEvent),
}

/// Outputs of a round, not yet on their way.
pub struct Outputs {
    effects: ThreadEffects,
    outputs: Vec<Output>,
}

impl Outputs {
    /// Sends them on their way.
    pub fn release(mut self) {
        for output in self.outputs {
            match output {
                Output::Messages(messages) => self.effects.send(messages),
                Output::Snapshot(snapshot) => self.effects.send_snapshot(*snapshot),
                Output::Apply(tasks) => self.effects.apply(tasks),
                Output::Background(job) => self.effects.background(job),
                Output::Pd(event) => self.effects.pd(event),
            }
        }
    }
}

/// Collects outputs, and notes which of them come behind a synced write.
struct Collector<'a> {
    log: &'a dyn RaftLog,
    syncs_before: u64,
    early: Vec<Output>,
    late: Vec<Output>,
}

impl Collector<'_> {
    fn put(&mut self, output: Output) {
        if self.log.sync_count() == self.syncs_before {
            self.early.push(output);
        } else {
            self.late.push(output);
        }
    }
}

impl Effects for Collector<'_> {
    fn send(&mut self, messages: Vec<kv::RaftMessage>) {
        self.put(Output::Messages(messages));
    }
    fn send_snapshot(&mut self, snapshot: OutgoingSnapshot) {
        self.put(Output::Snapshot(Box::new(snapshot)));
    }
    fn apply(&mut self, tasks: Vec<ApplyTask>) {
        self.put(Output::Apply(tasks));
    }
    fn background(&mut self, job: BackgroundJob) {
        self.put(Output::Background(job));
    }
    fn pd(&mut self, event: PdEvent) {
        self.put(Output::Pd(event));
    }
}

/// What one round gave.
pub struct Round {
    /// What left before the round's synced write.
    pub early: Outputs,
    /// What may only leave when that write is durable.
    pub late: Outputs,
    /// Whether there was a synced write.
    pub synced: bool,
    /// The store has stopped.
    pub stopped: bool,
}

/// The Raft thread's steps.
pub struct DrivenRaft {
    turns: RaftTurns,
    received: Receiver<StoreMessage>,
    round_messages_max: usize,
    log: Arc<dyn RaftLog>,
    clock: Arc<dyn Clock>,
    effects: ThreadEffects,
    /// What was loaded has not been looked at.
    is_fresh: bool,
}

impl DrivenRaft {
    /// How long nothing is to be done if no message comes.
    pub fn idle(&self) -> Duration {
        if self.is_fresh || !self.received.is_empty() {
            return Duration::ZERO;
        }
        self.turns.idle(self.clock.now())
    }

    /// One round over at most `messages_max` waiting messages.
    pub fn round(&mut self, messages_max: usize) -> Result<Round, RaftStoreError> {
        self.is_fresh = false;
        let syncs_before = self.log.sync_count();
        let mut collector =
            Collector { log: self.log.as_ref(), syncs_before, early: Vec::new(), late: Vec::new() };
        let received = &self.received;
        let messages = std::iter::from_fn(|| received.try_recv().ok())
            .take(messages_max.min(self.round_messages_max));
        let runs = self.turns.turn(messages, self.clock.now(), &mut collector)?;
        let Collector { early, late, .. } = collector;
        let outputs = |outputs| Outputs { effects: self.effects.clone(), outputs };
        Ok(Round {
            early: outputs(early),
            late: outputs(late),
            synced: self.log.sync_count() != syncs_before,
            stopped: !runs,
        })
    }
}

/// The apply thread's steps.
pub struct DrivenApply {
    applier: Applier,
    tasks: Receiver<Vec<ApplyTask>>,
    mailbox: Mailbox,
}

/// What apply has to tell the Raft steps.
pub struct Reports {
    reports: Vec<ApplyReport>,
    mailbox: Mailbox,
}

impl Reports {
    /// Tells it.
    pub fn release(self) {
        if !self.reports.is_empty() {
            self.mailbox.answer(StoreMessage::Applied(self.reports));
        }
    }
}

impl DrivenApply {
    /// Whether a step would do something.
    pub fn has_work(&self) -> bool {
        !self.tasks.is_empty()
    }

    /// One step over at most `batches_max` waiting batches of tasks.
    pub fn step(&mut self, batches_max: usize) -> Result<Reports, RaftStoreError> {
        let tasks = self.tasks.try_iter().take(batches_max).flatten().collect();
        Ok(Reports { reports: self.applier.run(tasks)?, mailbox: self.mailbox.clone() })
    }
}

/// The background thread's steps.
pub struct DrivenBackground {
    jobs: Receiver<BackgroundJob>,
    kv: Arc<dyn KvEngine>,
    log: Arc<dyn RaftLog>,
    mailbox: Mailbox,
}

impl DrivenBackground {
    /// Whether a step would do something.
    pub fn has_work(&self) -> bool {
        !self.jobs.is_empty()
    }

    /// One job.
    pub fn step(&mut self) -> Result<(), RaftStoreError> {
        let Ok(job) = self.jobs.try_recv() else { return Ok(()) };
        if let Some(answer) = worker::run_job(job, self.kv.as_ref(), self.log.as_ref())? {
            self.mailbox.answer(answer);
        }
        Ok(())
    }
}
