//! The loop around a core: requests, messages and ticks in; rounds; messages out.
//!
//! The loop is the same on a thread of its own, with a small runtime that only waits, and
//! as a task. Ticks keep their distance even when the loop was held up: promises not to
//! vote count in ticks, and a burst of late ones would cut them short.

use std::collections::BTreeMap;
use std::sync::Arc;

use raft::eraftpb::Message;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::core::Core;
use super::shared::{Shared, Status};
use super::transport::Transport;
use super::{Driver, Request, Running, TICK};
use crate::clock::Clock;
use crate::error::OpenError;

/// Requests and batches of one round.
const ROUND_MAX: usize = 1024;

/// A core with what drives it.
pub(super) struct Runner {
    core: Core,
    shared: Arc<Shared>,
    transport: Arc<dyn Transport>,
    clock: Arc<dyn Clock>,
    batches: mpsc::Receiver<Vec<Message>>,
}

impl Runner {
    pub fn new(
        core: Core,
        shared: Arc<Shared>,
        transport: Arc<dyn Transport>,
        clock: Arc<dyn Clock>,
        batches: mpsc::Receiver<Vec<Message>>,
    ) -> Runner {
        Runner { core, shared, transport, clock, batches }
    }

    /// Starts the loop where the driver says.
    pub fn start(
        self,
        driver: Driver,
        requests: mpsc::Receiver<Request>,
    ) -> Result<Running, OpenError> {
        let io = |source| OpenError::Io { path: "thread".into(), source };
        if driver == Driver::Task {
            return Ok(Running::Task(tokio::spawn(self.run(requests))));
        }
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().build().map_err(io)?;
        let body = move || runtime.block_on(self.run(requests));
        let thread = std::thread::Builder::new().name("pd-log".into()).spawn(body);
        Ok(Running::Thread(thread.map_err(io)?))
    }

    async fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        let mut ticks = interval_at(Instant::now() + TICK, TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let mut stop = false;
            tokio::select! {
                biased;
                _ = ticks.tick() => self.core.tick(self.clock.monotonic_ms()),
                Some(batch) = self.batches.recv() => self.step(batch),
                request = requests.recv() => stop = self.take(request),
            }
            for _ in 1..ROUND_MAX {
                match self.batches.try_recv() {
                    Ok(batch) => self.step(batch),
                    Err(_) => break,
                }
            }
            for _ in 1..ROUND_MAX {
                match requests.try_recv() {
                    Ok(request) if !stop => stop = self.take(Some(request)),
                    _ => break,
                }
            }
            if let Err(error) = self.round() {
                tracing::error!(%error, "the placement driver cannot keep its log; it stops");
                stop = true;
            }
            if stop {
                break;
            }
        }
        self.core.fail_waiting();
        self.shared.gate().set(0);
        let Status { term, removed, .. } = self.shared.status();
        self.shared.set_status(Status { term, removed, stopped: true, ..Status::default() });
    }

    fn step(&mut self, batch: Vec<Message>) {
        let now_ms = self.clock.monotonic_ms();
        for message in batch {
            self.core.step(message, now_ms);
        }
    }

    /// `true`: stop behind this round.
    fn take(&mut self, request: Option<Request>) -> bool {
        match request {
            Some(Request::Propose(proposal)) => self.core.propose(proposal),
            Some(Request::Transfer(to)) => self.core.transfer(to),
            Some(Request::Open(term)) => self.core.open_gate(term),
            Some(Request::Unreachable(member_id)) => self.core.report_unreachable(member_id),
            Some(Request::Removed) => self.core.mark_removed(),
            Some(Request::Stop) | None => return true,
        }
        false
    }

    fn round(&mut self) -> Result<(), OpenError> {
        let (transport, shared) = (&self.transport, &self.shared);
        let mut send = |messages: Vec<Message>| {
            let mut by_member: BTreeMap<u64, Vec<Message>> = BTreeMap::new();
            for message in messages {
                by_member.entry(message.to).or_default().push(message);
            }
            for (to, messages) in by_member {
                transport.send(to, &shared.address(to), messages);
            }
        };
        self.core.drive(self.clock.monotonic_ms(), &mut send)
    }
}
