//! Whose turn it is on the read pool: three levels, by importance and by time used.
//!
//! **Flow.** A task runs in *turns* (until it gives way, about a millisecond). Before each
//! it needs one of as many permits as the pool has threads; who waits for one stands in the
//! queue of its level. After the turn the time it took is added to the account of the
//! task's *query* (all tasks that read at one timestamp), which decides the next level. A
//! task that only gave way joins its queue before the next in turn is chosen.
//!
//! | level | who | share of the turns when all wait |
//! |---|---|---|
//! | short | high priority; queries that used less than [`SHORT_MAX`] so far | 16 of 21 |
//! | medium | queries below [`MEDIUM_MAX`] | 4 of 21 |
//! | long | everything above, low priority, and what runs in the background | 1 of 21 |
//!
//! So a scan of the whole table stands behind every small read, whether it comes as one
//! task or as a thousand, and still goes on.
//!
//! A task in the background rests after each turn for [`BACKGROUND_PAUSE`] times as long as that took, also
//! where nobody waits: what else the machine does needs processors too.
//!
//! **Invariants.** Permits in use never exceed their number; a permit that was given to a
//! task that is gone is passed on. No level with a share waits for ever.
//!
//! **Concurrency.** One mutex, held for a few instructions per turn.
//!
//! Source: TiKV's unified read pool (yatp's multi-level feedback queue).

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use cairn_proto::kv::Priority;
use cairn_types::TimeStamp;
use parking_lot::Mutex;
use tokio::time::Sleep;

use crate::raftstore::{Clock, Deadline, MonotonicTime, RegionContext};

/// A query that used less is short: most are done by then.
const SHORT_MAX: Duration = Duration::from_millis(5);
/// A query that used more is long.
const MEDIUM_MAX: Duration = Duration::from_millis(100);
const LEVELS: usize = 3;
/// How the turns are shared between levels that all wait.
const SHARES: [i64; LEVELS] = [16, 4, 1];
/// Queries whose account is kept; two that meet in one place share it in turn.
const QUERIES: usize = 1024;
/// A task in the background rests so many times as long as it ran.
const BACKGROUND_PAUSE: u32 = 3;
/// How fast the average turn follows the latest ones.
const AVERAGE_OVER: u32 = 16;

/// What is known of a task before it runs.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReadTask {
    /// Importance to its sender.
    pub priority: Priority,
    /// The timestamp it reads at, which stands for its query.
    pub read_ts: TimeStamp,
    /// When nobody waits for it any more.
    pub deadline: Option<Deadline>,
}

impl ReadTask {
    /// A request's task that reads at `read_ts`.
    pub fn new(context: &RegionContext, read_ts: TimeStamp) -> ReadTask {
        ReadTask { priority: context.priority, read_ts, deadline: context.deadline }
    }
}

/// A task that waits for a permit.
struct Ticket {
    granted: AtomicBool,
    waker: Waker,
}

/// Wakes a task, and tells whether that happened during its turn: then it only gave way.
struct Signal {
    woken: AtomicBool,
    /// The runtime's.
    waker: Mutex<Waker>,
}

impl Wake for Signal {
    fn wake(self: Arc<Self>) {
        self.woken.store(true, Ordering::Release);
        let waker = self.waker.lock().clone();
        waker.wake();
    }
}

/// Queues, permits and accounts.
struct State {
    permits: usize,
    waiting: [VecDeque<Arc<Ticket>>; LEVELS],
    credits: [i64; LEVELS],
    average_turn: Duration,
    used: Vec<(TimeStamp, Duration)>,
}

impl State {
    fn level(&self, task: &ReadTask) -> usize {
        match task.priority {
            Priority::High => 0,
            Priority::Low | Priority::Background => 2,
            Priority::Normal => match self.used[place(task.read_ts)] {
                (read_ts, used) if read_ts == task.read_ts && used >= MEDIUM_MAX => 2,
                (read_ts, used) if read_ts == task.read_ts && used >= SHORT_MAX => 1,
                _ => 0,
            },
        }
    }

    fn join(&mut self, task: &ReadTask, waker: &Waker) -> Arc<Ticket> {
        let ticket = Ticket { granted: AtomicBool::new(false), waker: waker.clone() };
        let ticket = Arc::new(ticket);
        let level = self.level(task);
        self.waiting[level].push_back(Arc::clone(&ticket));
        ticket
    }

    fn account(&mut self, task: &ReadTask, turn: Duration) {
        let entry = &mut self.used[place(task.read_ts)];
        let before = if entry.0 == task.read_ts { entry.1 } else { Duration::ZERO };
        *entry = (task.read_ts, before + turn);
        self.average_turn = (self.average_turn * (AVERAGE_OVER - 1) + turn) / AVERAGE_OVER;
    }

    /// The next in turn: of the levels that wait the one whose share is owed most (smooth
    /// weighted round robin).
    fn next(&mut self) -> Option<Arc<Ticket>> {
        let mut total = 0;
        let mut best: Option<usize> = None;
        for (level, share) in SHARES.into_iter().enumerate() {
            if self.waiting[level].is_empty() {
                self.credits[level] = 0;
                continue;
            }
            self.credits[level] += share;
            total += share;
            if best.is_none_or(|best| self.credits[level] > self.credits[best]) {
                best = Some(level);
            }
        }
        let level = best?;
        self.credits[level] -= total;
        self.waiting[level].pop_front()
    }
}

/// Where the account of a query lies (Fibonacci hashing: timestamps come in steps).
fn place(read_ts: TimeStamp) -> usize {
    (read_ts.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize % QUERIES
}

/// Gives turns to the tasks of one pool.
pub struct ReadTurns {
    clock: Arc<dyn Clock>,
    permits_max: usize,
    state: Mutex<State>,
}

impl ReadTurns {
    /// Turns for a pool of `threads` threads.
    pub fn new(threads: usize, clock: Arc<dyn Clock>) -> Arc<ReadTurns> {
        let state = State {
            permits: threads,
            waiting: Default::default(),
            credits: [0; LEVELS],
            average_turn: Duration::ZERO,
            used: vec![(TimeStamp(0), Duration::ZERO); QUERIES],
        };
        Arc::new(ReadTurns { clock, permits_max: threads, state: Mutex::new(state) })
    }

    /// How long a task would wait for its first turn.
    pub fn expected_wait(&self, task: &ReadTask) -> Duration {
        let state = self.state.lock();
        let before: usize = state.waiting[..=state.level(task)].iter().map(VecDeque::len).sum();
        state.average_turn * u32::try_from(before).unwrap_or(u32::MAX)
            / u32::try_from(self.permits_max).unwrap_or(u32::MAX)
    }

    /// Time until the task's deadline; `None` without one.
    pub fn time_left(&self, task: &ReadTask) -> Option<Duration> {
        task.deadline.map(|deadline| deadline.0.since(self.clock.now()))
    }

    /// Runs the first turn of a short task here, if nobody waits; whether the task is done.
    pub fn try_at_once(&self, task: &ReadTask, work: Pin<&mut (impl Future + ?Sized)>) -> bool {
        {
            let state = self.state.lock();
            let is_free = state.waiting.iter().all(VecDeque::is_empty);
            if !is_free || state.level(task) > 0 {
                return false;
            }
        }
        let begun = self.clock.now();
        let mut context = Context::from_waker(Waker::noop());
        let is_done = work.poll(&mut context).is_ready();
        let turn = self.clock.now().since(begun);
        self.state.lock().account(task, turn);
        is_done
    }

    /// The task, one turn at a time.
    pub fn in_turns<F: Future>(self: &Arc<Self>, task: ReadTask, work: F) -> InTurns<F> {
        let signal =
            Signal { woken: AtomicBool::new(false), waker: Mutex::new(Waker::noop().clone()) };
        let signal = Arc::new(signal);
        let waker = Waker::from(Arc::clone(&signal));
        let turns = Arc::clone(self);
        InTurns { turns, task, work: Box::pin(work), ticket: None, rest: None, signal, waker }
    }

    /// Takes a permit, or a place in the queue.
    fn enter(&self, task: &ReadTask, waker: &Waker) -> Option<Arc<Ticket>> {
        let mut state = self.state.lock();
        if state.permits > 0 {
            // Nobody waits: permits that come back go to those who do.
            state.permits -= 1;
            return None;
        }
        Some(state.join(task, waker))
    }

    /// Ends a turn; the task joins the queue if it only gave way.
    fn end_turn(
        &self,
        task: &ReadTask,
        turn: Duration,
        again: Option<&Waker>,
    ) -> Option<Arc<Ticket>> {
        let (own, next) = {
            let mut state = self.state.lock();
            state.account(task, turn);
            let own = again.map(|waker| state.join(task, waker));
            (own, pass_on(&mut state))
        };
        next.into_iter().for_each(|ticket| ticket.waker.wake_by_ref());
        own
    }

    /// A waiting task is gone.
    fn withdraw(&self, ticket: &Arc<Ticket>) {
        let next = {
            let mut state = self.state.lock();
            if !ticket.granted.load(Ordering::Acquire) {
                let stays = |waiting: &Arc<Ticket>| !Arc::ptr_eq(waiting, ticket);
                state.waiting.iter_mut().for_each(|level| level.retain(stays));
                return;
            }
            pass_on(&mut state)
        };
        next.into_iter().for_each(|ticket| ticket.waker.wake_by_ref());
    }
}

/// Gives a permit to the next in turn, or back; whoever has it must be woken.
fn pass_on(state: &mut State) -> Option<Arc<Ticket>> {
    let next = state.next();
    match &next {
        Some(ticket) => ticket.granted.store(true, Ordering::Release),
        None => state.permits += 1,
    }
    next
}

/// A task that runs when it is its turn.
pub struct InTurns<F> {
    turns: Arc<ReadTurns>,
    task: ReadTask,
    work: Pin<Box<F>>,
    /// Its place in a queue; none while it runs or waits for something else.
    ticket: Option<Arc<Ticket>>,
    /// Until when a task in the background rests.
    rest: Option<Pin<Box<Sleep>>>,
    signal: Arc<Signal>,
    /// Of the signal.
    waker: Waker,
}

/// A permit in use, given back also when the task panics.
struct Permit<'a> {
    turns: &'a ReadTurns,
    task: &'a ReadTask,
    begun: MonotonicTime,
    /// Set if the task goes on as soon as it may.
    again: Option<&'a Waker>,
    ticket: &'a mut Option<Arc<Ticket>>,
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        let turn = self.turns.clock.now().since(self.begun);
        *self.ticket = self.turns.end_turn(self.task, turn, self.again);
    }
}

impl<F: Future> Future for InTurns<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        // First of all: a grant from here on wakes the runtime's task of today.
        this.signal.waker.lock().clone_from(context.waker());
        if let Some(rest) = &mut this.rest {
            std::task::ready!(rest.as_mut().poll(context));
            this.rest = None;
        }
        if this.ticket.is_none() {
            this.ticket = this.turns.enter(&this.task, &this.waker);
        }
        if this.ticket.as_ref().is_some_and(|ticket| !ticket.granted.load(Ordering::Acquire)) {
            return Poll::Pending;
        }
        this.ticket = None;
        this.signal.woken.store(false, Ordering::Release);
        let begun = this.turns.clock.now();
        let (turns, task, ticket) = (&this.turns, &this.task, &mut this.ticket);
        let mut permit = Permit { turns, task, begun, again: None, ticket };
        let outcome = this.work.as_mut().poll(&mut Context::from_waker(&this.waker));
        let only_gave_way = outcome.is_pending() && this.signal.woken.load(Ordering::Acquire);
        if this.task.priority != Priority::Background {
            permit.again = only_gave_way.then_some(&this.waker);
            return outcome;
        }
        drop(permit);
        if only_gave_way {
            let turn = this.turns.clock.now().since(begun);
            // Its waker was woken in the turn: the runtime comes back, and learns of the rest.
            this.rest = Some(Box::pin(tokio::time::sleep(turn * BACKGROUND_PAUSE)));
        }
        outcome
    }
}

impl<F> Drop for InTurns<F> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            self.turns.withdraw(&ticket);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raftstore::ManualClock;

    /// A task that notes its name at each turn and takes `turn_ms` for it.
    struct Noting {
        name: &'static str,
        turns_left: usize,
        turn_ms: u64,
        clock: Arc<ManualClock>,
        log: Arc<Mutex<Vec<&'static str>>>,
    }

    impl Future for Noting {
        type Output = ();

        fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
            context.waker().wake_by_ref();
            self.log.lock().push(self.name);
            self.clock.advance(Duration::from_millis(self.turn_ms));
            self.turns_left -= 1;
            if self.turns_left == 0 { Poll::Ready(()) } else { Poll::Pending }
        }
    }

    struct Room {
        clock: Arc<ManualClock>,
        turns: Arc<ReadTurns>,
        log: Arc<Mutex<Vec<&'static str>>>,
        tasks: Vec<Option<InTurns<Noting>>>,
    }

    impl Room {
        fn new(threads: usize) -> Room {
            let clock = Arc::new(ManualClock::new());
            let turns = ReadTurns::new(threads, clock.clone());
            Room { clock, turns, log: Arc::default(), tasks: Vec::new() }
        }

        fn add(&mut self, name: &'static str, task: ReadTask, turns_left: usize, turn_ms: u64) {
            let (clock, log) = (self.clock.clone(), self.log.clone());
            let work = Noting { name, turns_left, turn_ms, clock, log };
            self.tasks.push(Some(self.turns.in_turns(task, work)));
        }

        /// Polls everything as a runtime would, round after round.
        fn run(&mut self, rounds: usize) -> Vec<&'static str> {
            for _ in 0..rounds {
                for slot in &mut self.tasks {
                    if let Some(task) = slot
                        && Pin::new(task).poll(&mut Context::from_waker(Waker::noop())).is_ready()
                    {
                        *slot = None;
                    }
                }
            }
            std::mem::take(&mut *self.log.lock())
        }
    }

    fn at(read_ts: u64) -> ReadTask {
        ReadTask { read_ts: TimeStamp(read_ts), ..ReadTask::default() }
    }

    /// A permit that the test holds, so that everybody else waits.
    fn hold(room: &Room) {
        assert!(room.turns.enter(&at(0), Waker::noop()).is_none());
    }

    fn release(room: &Room) {
        room.turns.end_turn(&at(0), Duration::ZERO, None);
    }

    #[test]
    fn what_ran_long_stands_behind_what_just_came_also_as_many_tasks() {
        let mut room = Room::new(1);
        room.add("scan", at(1), 1, 200);
        assert_eq!(room.run(1), ["scan"]);
        hold(&room);
        // Another task of the same query, which came first.
        room.add("scan", at(1), 1, 1);
        room.add("small", at(2), 1, 1);
        assert!(room.run(1).is_empty(), "there is no permit");
        release(&room);
        assert_eq!(room.run(2), ["small", "scan"]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_runs_in_the_background_rests_where_nobody_waits() {
        let mut room = Room::new(2);
        let task = ReadTask { priority: Priority::Background, ..at(1) };
        room.add("analyze", task, 3, 10);
        assert_eq!(room.run(5), ["analyze"]);
        tokio::time::advance(Duration::from_millis(29)).await;
        assert!(room.run(5).is_empty());
        tokio::time::advance(Duration::from_millis(2)).await;
        room.add("small", at(2), 1, 1);
        assert_eq!(room.run(5), ["analyze", "small"]);
    }

    #[test]
    fn priorities_stand_above_and_below() {
        let mut room = Room::new(1);
        hold(&room);
        let prioritised = |read_ts, priority| ReadTask { priority, ..at(read_ts) };
        room.add("low", prioritised(1, Priority::Low), 1, 1);
        room.add("normal", at(2), 1, 1);
        room.turns.state.lock().account(&at(2), Duration::from_millis(50));
        room.add("high", prioritised(3, Priority::High), 1, 1);
        room.turns.state.lock().account(&at(3), Duration::from_secs(50));
        room.run(1);
        release(&room);
        assert_eq!(room.run(3), ["high", "normal", "low"]);
    }

    #[test]
    fn nobody_waits_for_ever() {
        let mut room = Room::new(1);
        let low = ReadTask { priority: Priority::Low, ..at(1) };
        let high = ReadTask { priority: Priority::High, ..at(2) };
        room.add("low", low, 1000, 1);
        room.add("high", high, 1000, 1);
        hold(&room);
        room.run(1);
        release(&room);
        let log = room.run(400);
        let low = log.iter().filter(|name| **name == "low").count();
        assert!((log.len() / 40..log.len() / 10).contains(&low), "{low} of {} turns", log.len());
    }

    #[test]
    fn permits_of_tasks_that_are_gone_are_passed_on() {
        let mut room = Room::new(1);
        hold(&room);
        room.add("gone", at(1), 1, 1);
        room.add("granted and gone", at(2), 1, 1);
        room.add("left", at(3), 1, 1);
        room.run(1);
        room.tasks[0] = None;
        release(&room);
        room.tasks[1] = None;
        assert_eq!(room.run(1), ["left"]);
        assert_eq!(room.turns.state.lock().permits, 1);
    }

    #[test]
    fn the_expected_wait_counts_those_who_come_first() {
        let mut room = Room::new(2);
        for _ in 0..200 {
            room.turns.state.lock().account(&at(9), Duration::from_millis(4));
        }
        hold(&room);
        hold(&room);
        for _ in 0..10 {
            room.add("small", at(1), 1, 1);
        }
        room.add("low", ReadTask { priority: Priority::Low, ..at(2) }, 1, 1);
        room.run(1);
        let wait_ms =
            |priority| room.turns.expected_wait(&ReadTask { priority, ..at(3) }).as_millis();
        assert!((18..=20).contains(&wait_ms(Priority::High)), "{}", wait_ms(Priority::High));
        assert!((20..=22).contains(&wait_ms(Priority::Low)), "{}", wait_ms(Priority::Low));
    }
}
