//! The threads that run coprocessor tasks and large reads.
//!
//! A runtime of its own, so that long scans never stand in front of point reads,
//! Raft messages or heartbeats. Among themselves tasks take turns ([`ReadTurns`]): small
//! reads pass long ones. A task is dropped when its caller goes away.
//!
//! **Overload.** A store answers `ServerIsBusy`, with the time after which to come again,
//! rather than take what it cannot serve in time: when the pool holds as many tasks as it
//! may (low priority: half of that), when a task would wait longer than [`WAIT_MAX`] for its
//! first turn, or longer than its caller waits.
//!
//! This is the one room of the transaction layer that owns threads.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use cairn_proto::kv::Priority;
use tokio::runtime::{Handle, Runtime};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::read_turns::{ReadTask, ReadTurns};
use crate::raftstore::{Clock, RegionError};

/// Tasks waiting or running per thread; more are refused. Deep enough for the
/// bursts that one statement's parallel scan makes, shallow enough that a task
/// at the end of the queue still meets its deadline.
const TASKS_PER_THREAD_MAX: usize = 128;
/// A task that would wait longer for its first turn is better served later, or elsewhere.
const WAIT_MAX: Duration = Duration::from_secs(1);
/// Shortest pause a refused caller is asked for.
const PAUSE_MIN: Duration = Duration::from_millis(20);

/// A bounded pool of reading tasks.
pub struct ReadPool {
    /// Taken out when the pool is dropped, to end it without waiting; none if the
    /// pool's threads are somebody else's.
    own: Option<Runtime>,
    runtime: Handle,
    turns: Arc<ReadTurns>,
    tasks: Arc<AtomicUsize>,
    tasks_max: usize,
    refused: AtomicUsize,
}

/// A task's place in the pool; given back when dropped.
pub struct TaskSlot {
    task: ReadTask,
    tasks: Arc<AtomicUsize>,
}

impl Drop for TaskSlot {
    fn drop(&mut self) {
        self.tasks.fetch_sub(1, Ordering::Relaxed);
    }
}

impl ReadPool {
    /// A pool of `threads` threads.
    pub fn new(threads: usize, clock: Arc<dyn Clock>) -> std::io::Result<ReadPool> {
        let threads = threads.max(1);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads)
            .thread_name("cairn-read")
            .enable_time()
            .build()?;
        let mut pool = ReadPool::on(runtime.handle().clone(), threads, clock);
        pool.own = Some(runtime);
        Ok(pool)
    }

    /// A pool whose tasks run on a runtime that is there already (simulations), `threads` at
    /// one time.
    pub fn on(runtime: Handle, threads: usize, clock: Arc<dyn Clock>) -> ReadPool {
        ReadPool {
            own: None,
            runtime,
            turns: ReadTurns::new(threads, clock),
            tasks: Arc::default(),
            tasks_max: threads * TASKS_PER_THREAD_MAX,
            refused: AtomicUsize::new(0),
        }
    }

    /// Tasks waiting or running.
    pub fn running(&self) -> usize {
        self.tasks.load(Ordering::Relaxed)
    }

    /// Tasks that were refused so far.
    pub fn refused(&self) -> usize {
        self.refused.load(Ordering::Relaxed)
    }

    /// Takes a place in the bounds.
    pub fn reserve(&self, task: ReadTask) -> Result<TaskSlot, RegionError> {
        let running = self.tasks.fetch_add(1, Ordering::Relaxed);
        let slot = TaskSlot { task, tasks: Arc::clone(&self.tasks) };
        let tasks_max = match task.priority {
            Priority::Low | Priority::Background => self.tasks_max / 2,
            Priority::Normal | Priority::High => self.tasks_max,
        };
        let wait = self.turns.expected_wait(&task);
        let time_left = self.turns.time_left(&task);
        let reason = if time_left.is_some_and(|left| left.is_zero()) {
            return Err(RegionError::DeadlineExceeded);
        } else if running >= tasks_max {
            "read pool is full"
        } else if wait > WAIT_MAX || time_left.is_some_and(|left| wait > left) {
            "reads wait too long"
        } else {
            return Ok(slot);
        };
        self.refused.fetch_add(1, Ordering::Relaxed);
        let pause_ms = wait.clamp(PAUSE_MIN, WAIT_MAX).as_millis() as u32;
        Err(RegionError::ServerIsBusy { reason: reason.to_string(), backoff_ms: pause_ms })
    }

    /// Runs the beginning of a task on the caller's thread if it is likely to be short and
    /// nobody waits for the pool; whether the task is done.
    pub fn try_at_once(&self, slot: &TaskSlot, work: Pin<&mut (impl Future + ?Sized)>) -> bool {
        self.turns.try_at_once(&slot.task, work)
    }

    /// Starts a task; it goes on until it is done or aborted.
    pub fn spawn<F>(&self, slot: TaskSlot, work: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        let work = self.turns.in_turns(slot.task, work);
        self.runtime.spawn(async move {
            let _slot = slot;
            work.await
        })
    }

    /// As [`ReadPool::spawn`], until it is cancelled: in the queue, between turns, or while it
    /// waits for something, a slow caller for example.
    pub fn spawn_until<F>(&self, slot: TaskSlot, work: F, cancel: CancellationToken)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let work = self.turns.in_turns(slot.task, work);
        self.runtime.spawn(async move {
            let _slot = slot;
            tokio::select! {
                biased;
                () = cancel.cancelled() => {}
                () = work => {}
            }
        });
    }

    /// Runs a piece of work on a pool thread; it is not started any more once the
    /// caller has gone or its time is over.
    pub async fn run<T: Send + 'static>(
        &self,
        task: ReadTask,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, RegionError> {
        let slot = self.reserve(task)?;
        let turns = Arc::clone(&self.turns);
        let mut spawned = AbortOnDrop(self.spawn(slot, async move {
            match turns.time_left(&task) {
                Some(Duration::ZERO) => Err(RegionError::DeadlineExceeded),
                _ => Ok(work()),
            }
        }));
        (&mut spawned.0).await.map_err(|_| RegionError::busy("read was aborted"))?
    }
}

struct AbortOnDrop<T>(JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Drop for ReadPool {
    fn drop(&mut self) {
        if let Some(runtime) = self.own.take() {
            // May be dropped from async code, where waiting is not allowed.
            runtime.shutdown_background();
        }
    }
}

#[cfg(test)]
mod tests {
    use cairn_types::TimeStamp;

    use super::*;
    use crate::raftstore::{Deadline, ManualClock};

    fn at(priority: Priority) -> ReadTask {
        ReadTask { priority, read_ts: TimeStamp(7), deadline: None }
    }

    #[tokio::test]
    async fn low_priority_leaves_half_of_the_places_to_others() {
        let clock = Arc::new(ManualClock::new());
        let pool = ReadPool::on(Handle::current(), 1, clock);
        let mut slots = Vec::new();
        while let Ok(slot) = pool.reserve(at(Priority::Low)) {
            slots.push(slot);
        }
        assert_eq!(slots.len(), TASKS_PER_THREAD_MAX / 2);
        while let Ok(slot) = pool.reserve(at(Priority::Normal)) {
            slots.push(slot);
        }
        assert_eq!(slots.len(), TASKS_PER_THREAD_MAX);
        assert!(matches!(
            pool.reserve(at(Priority::High)),
            Err(RegionError::ServerIsBusy { backoff_ms: 20, .. })
        ));
        assert_eq!(pool.running(), TASKS_PER_THREAD_MAX, "refusals hold no place");
        drop(slots);
        assert_eq!((pool.running(), pool.refused()), (0, 3));
    }

    #[tokio::test]
    async fn what_comes_too_late_is_not_run() {
        let clock = Arc::new(ManualClock::new());
        let pool = ReadPool::on(Handle::current(), 1, clock.clone());
        let deadline = Deadline(clock.now().plus(Duration::from_millis(50)));
        let task = ReadTask { deadline: Some(deadline), ..at(Priority::Normal) };
        // Time passes while it waits for a thread.
        let waiting = pool.run(task, || panic!("nobody waits for this"));
        clock.advance(Duration::from_millis(50));
        let outcome: Result<(), _> = waiting.await;
        assert!(matches!(outcome, Err(RegionError::DeadlineExceeded)), "{outcome:?}");
    }
}
