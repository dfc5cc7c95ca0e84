//! Takes coprocessor requests in and streams their pages out.

use std::sync::Arc;
use std::time::Duration;

use cairn_executor::broadcast::BroadcastTable;
use cairn_executor::{
    ExecContext, ExecError, Fragment, KeyRange, MemoryTracker, RuntimeStats, build_fragment,
};
use cairn_expr::EvalContext;
use cairn_kv_client::{CoprocessorStream, TransportError};
use cairn_proto::kv;
use cairn_types::TimeStamp;
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::pages::{PageRunner, Pages, error_response};
use super::source::{EnteredView, ReadView, RegionSource};
use super::tables::{Refusal, Tables};
use crate::keys::region_contains;
use crate::raftstore::{
    Clock, RaftKv, RegionContext, RegionError, RegionId, ReplicaRead, ReplicaView, Touched,
};
use crate::service::reads::entered_view;
use crate::service::store::region_context;
use crate::service::{ReadPool, ReadTask};
use crate::txn::MaxTs;

/// Pages that wait for a slow caller before the task stands still.
const PAGES_WAITING_MAX: usize = 2;
/// Memory of one task's operators (hash tables, sort buffers).
const TASK_MEMORY_BYTES_MAX: u64 = 512 << 20;
/// Memory of all tasks of a store.
const STORE_MEMORY_BYTES_MAX: u64 = 2 << 30;

/// Runs plan fragments on a store.
#[derive(Clone)]
pub struct Endpoint {
    shared: Arc<Shared>,
}

struct Shared {
    kv: Arc<dyn RaftKv>,
    clock: Arc<dyn Clock>,
    max_ts: Arc<MaxTs>,
    pool: Arc<ReadPool>,
    memory: Arc<MemoryTracker>,
    tables: Arc<Tables>,
}

/// A request, decoded.
struct Task {
    region: RegionContext,
    fragment: Fragment,
    eval: EvalContext,
    ranges: Vec<KeyRange>,
    at: ReadView,
    page_rows: u32,
    tables: Arc<[Arc<BroadcastTable>]>,
    cancel: CancellationToken,
}

impl Endpoint {
    /// An endpoint over the store's regions.
    pub fn new(
        kv: Arc<dyn RaftKv>,
        clock: Arc<dyn Clock>,
        max_ts: Arc<MaxTs>,
        pool: Arc<ReadPool>,
    ) -> Endpoint {
        let memory = MemoryTracker::root("coprocessor", STORE_MEMORY_BYTES_MAX);
        let tables = Tables::new(Arc::clone(&memory), Arc::clone(&clock));
        Endpoint { shared: Arc::new(Shared { kv, clock, max_ts, pool, memory, tables }) }
    }

    /// Starts a task; what is wrong with it comes as its only page.
    pub fn run(&self, request: kv::CoprocessorRequest) -> CoprocessorStream {
        let fragment = Fragment::from_proto(&request.fragment.unwrap_or_default());
        let decoded = fragment.and_then(|fragment| {
            let eval = fragment.settings.to_context()?;
            Ok((fragment, eval))
        });
        let (fragment, eval) = match decoded {
            Ok(decoded) => decoded,
            Err(error) => return single(error_response(error)),
        };
        let context = request.context.unwrap_or_default();
        let (kv, clock) = (&self.shared.kv, &self.shared.clock);
        let region = match region_context(&**kv, &**clock, &context) {
            Ok(region) => region,
            Err(error) => return single(refused(error)),
        };
        // A request that was taken in has told its tables, whatever becomes of the task.
        let tables = match self.shared.tables.of_request(&fragment, &request.tables) {
            Ok(tables) => tables,
            Err(Refusal::Invalid(error)) => return single(error_response(error)),
            Err(Refusal::Unknown) => {
                let unknown = kv::CoprocessorResponse { unknown_table: true, ..Default::default() };
                return single(unknown);
            }
        };
        let task = Task {
            region,
            fragment,
            eval,
            ranges: request.ranges.into_iter().map(KeyRange::from).collect(),
            at: ReadView {
                read_ts: TimeStamp(request.start_ts),
                resolved: context.resolved_locks.into(),
            },
            page_rows: request.page_rows,
            tables,
            cancel: CancellationToken::new(),
        };
        self.start(task)
    }

    /// Tasks waiting or running on this store's read pool.
    pub fn running(&self) -> usize {
        self.shared.pool.running()
    }

    /// Short tasks are done before this returns, without another thread; what gives way once
    /// (see `source::Turns`), belongs to a long query or finds others waiting goes to the
    /// pool.
    fn start(&self, task: Task) -> CoprocessorStream {
        let read = ReadTask::new(&task.region, task.at.read_ts);
        let slot = match self.shared.pool.reserve(read) {
            Ok(slot) => slot,
            Err(error) => return single(refused(error)),
        };
        let (pages, waiting) = mpsc::channel(PAGES_WAITING_MAX);
        let cancel = task.cancel.clone();
        let deadline = task.region.deadline;
        let shared = Arc::clone(&self.shared);
        let mut work = Box::pin(async move { shared.execute(task, &pages).await });
        if !self.shared.pool.try_at_once(&slot, work.as_mut()) {
            self.shared.pool.spawn_until(slot, work, cancel.clone());
            if let Some(deadline) = deadline {
                let left = deadline.0.since(self.shared.clock.now());
                tokio::spawn(cancel_after(cancel.clone(), left));
            }
        }
        // Dropping the stream cancels the task, in the middle of a batch too.
        let _guard = cancel.clone().drop_guard();
        let stream = PageStream { waiting, is_finished: false, cancel, _guard };
        Box::pin(futures::stream::unfold(stream, |mut stream| async move {
            Some((stream.next().await?, stream))
        }))
    }
}

async fn cancel_after(cancel: CancellationToken, left: Duration) {
    tokio::select! {
        () = cancel.cancelled() => {}
        () = tokio::time::sleep(left) => cancel.cancel(),
    }
}

/// The caller's end of a task.
struct PageStream {
    waiting: mpsc::Receiver<kv::CoprocessorResponse>,
    is_finished: bool,
    cancel: CancellationToken,
    _guard: DropGuard,
}

impl PageStream {
    async fn next(&mut self) -> Option<Result<kv::CoprocessorResponse, TransportError>> {
        match self.waiting.recv().await {
            Some(page) => {
                self.is_finished = page.summaries.is_some()
                    || page.region_error.is_some()
                    || page.locked.is_some()
                    || page.other_error.is_some();
                Some(Ok(page))
            }
            None if self.is_finished => None,
            None if self.cancel.is_cancelled() => {
                self.is_finished = true;
                Some(Ok(refused(RegionError::DeadlineExceeded)))
            }
            None => {
                // The task's thread is gone: never pass this off as the end.
                self.is_finished = true;
                let reason = "the coprocessor task was lost".to_string();
                Some(Err(TransportError::ConnectionLost { address: String::new(), reason }))
            }
        }
    }
}

impl Shared {
    async fn execute(&self, task: Task, pages: &Pages) {
        if task.cancel.is_cancelled() {
            // Its time ran out, or its caller went away, while it waited for its turn.
            let _ = pages.send(refused(RegionError::DeadlineExceeded)).await;
            return;
        }
        // What is pending is looked at before the view is taken, see `MaxTs`.
        self.max_ts.observe(task.at.read_ts);
        let mut pending = self.max_ts.pending_for(task.at.read_ts, &task.at.resolved);
        let outcome = match self.view(&task).await {
            Ok(ReplicaView { snapshot, pending: elsewhere }) => {
                pending.extend(elsewhere);
                pending.sort_unstable_by(|a, b| a.key.cmp(&b.key));
                let view = EnteredView::new(pending, snapshot);
                self.build(task, view).map_err(error_response)
            }
            Err(error) => Err(refused(error)),
        };
        match outcome {
            Ok(runner) => runner.run(pages).await,
            Err(response) => {
                let _ = pages.send(response).await;
            }
        }
    }

    async fn view(&self, task: &Task) -> Result<ReplicaView, RegionError> {
        // Look-ups go beyond the ranges: everything pending is asked for.
        let read = ReplicaRead {
            read_ts: task.at.read_ts.0,
            resolved: task.at.resolved.to_vec(),
            ..ReplicaRead::default()
        };
        let view = entered_view(&*self.kv, &task.region, read).await?;
        let region = &view.snapshot.region;
        for range in &task.ranges {
            let ends_inside =
                region.end_key.is_empty() || (!range.end.is_empty() && range.end <= region.end_key);
            if !region_contains(region, &range.start) || !ends_inside {
                let (key, region_id) = (range.start.clone(), RegionId(region.id));
                return Err(RegionError::KeyNotInRegion { key, region_id });
            }
        }
        view.snapshot.load.read(0, 0, || {
            let start = task.ranges.first().map(|range| range.start.clone());
            let end = task.ranges.last().map(|range| range.end.clone());
            Touched::Range(start.unwrap_or_default(), end.unwrap_or_default())
        });
        Ok(view)
    }

    fn build(&self, task: Task, view: EnteredView) -> Result<PageRunner, ExecError> {
        let source =
            RegionSource::new(Arc::clone(&self.kv), Arc::clone(&self.max_ts), task.at, view);
        let stats = Arc::new(RuntimeStats::default());
        let clock = Arc::clone(&self.clock);
        let context = ExecContext::new(task.eval)
            .with_memory(self.memory.child("coprocessor task", TASK_MEMORY_BYTES_MAX))
            .with_cancel(task.cancel)
            .with_tables(task.tables)
            .with_stats(Arc::clone(&stats), Arc::new(move || clock.now().0));
        let operator =
            build_fragment(&task.fragment, task.ranges, Arc::new(source), context.clone())?;
        Ok(PageRunner::new(&task.fragment, operator, context, stats, task.page_rows))
    }
}

fn single(response: kv::CoprocessorResponse) -> CoprocessorStream {
    Box::pin(futures::stream::once(async move { Ok(response) }))
}

fn refused(error: RegionError) -> kv::CoprocessorResponse {
    kv::CoprocessorResponse { region_error: Some(error.into()), ..Default::default() }
}
