//! The threads that run coprocessor tasks and large reads.
//!
//! A runtime of its own, so that long scans never stand in front of point reads,
//! Raft messages or heartbeats. The number of tasks is bounded: above it a store
//! answers `ServerIsBusy`. A task is dropped when its caller goes away.
//!
//! This is the one room of the transaction layer that owns threads.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::runtime::{Handle, Runtime};
use tokio::task::JoinHandle;

use crate::raftstore::RegionError;

/// Tasks waiting or running per thread; more are refused. Deep enough for the
/// bursts that one statement's parallel scan makes, shallow enough that a task
/// at the end of the queue still meets its deadline.
const TASKS_PER_THREAD_MAX: usize = 128;

/// A bounded pool of reading tasks.
pub struct ReadPool {
    /// Taken out when the pool is dropped, to end it without waiting; none if the
    /// pool's threads are somebody else's.
    own: Option<Runtime>,
    runtime: Handle,
    tasks: Arc<AtomicUsize>,
    tasks_max: usize,
}

/// A task's place in the pool; given back when dropped.
pub struct TaskSlot(Arc<AtomicUsize>);

impl Drop for TaskSlot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl ReadPool {
    /// A pool of `threads` threads.
    pub fn new(threads: usize) -> std::io::Result<ReadPool> {
        let threads = threads.max(1);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads)
            .thread_name("cairn-read")
            .enable_time()
            .build()?;
        Ok(ReadPool {
            runtime: runtime.handle().clone(),
            own: Some(runtime),
            tasks: Arc::default(),
            tasks_max: threads * TASKS_PER_THREAD_MAX,
        })
    }

    /// A pool whose tasks run on a runtime that is there already (simulations).
    pub fn on(runtime: Handle) -> ReadPool {
        ReadPool { own: None, runtime, tasks: Arc::default(), tasks_max: TASKS_PER_THREAD_MAX }
    }

    /// Tasks waiting or running.
    pub fn running(&self) -> usize {
        self.tasks.load(Ordering::Relaxed)
    }

    /// Takes a place in the bounds.
    pub fn reserve(&self) -> Result<TaskSlot, RegionError> {
        let slot = TaskSlot(Arc::clone(&self.tasks));
        match self.tasks.fetch_add(1, Ordering::Relaxed) >= self.tasks_max {
            true => Err(RegionError::busy("read pool is full")),
            false => Ok(slot),
        }
    }

    /// Starts a task; it goes on until it is done or aborted.
    pub fn spawn<F>(&self, slot: TaskSlot, task: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        self.runtime.spawn(async move {
            let _slot = slot;
            task.await
        })
    }

    /// Runs a piece of work on a pool thread; it is not started any more once the
    /// caller has gone.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, RegionError> {
        let slot = self.reserve()?;
        let mut task = AbortOnDrop(self.spawn(slot, async move { work() }));
        (&mut task.0).await.map_err(|_| RegionError::busy("read was aborted"))
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
