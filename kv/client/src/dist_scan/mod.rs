//! Runs a plan fragment next to the data, over many regions at once.
//!
//! **Flow.** The ranges are cut by region into tasks. Few tasks, or one small
//! page wanted: a single reader walks through them. Otherwise a bounded number of
//! workers take tasks in scan order; each reads its task's pages into a bounded
//! channel, so a slow consumer slows the stores down. With `keep_order` every
//! task has a channel of its own and they are drained one after the other.
//!
//! **Invariants.** Every row is delivered exactly once, whatever happens to
//! regions meanwhile (see [`reader`]). The scan ends with `None` only when every
//! task has ended well: a worker that vanished is an error. Dropping the scan
//! stops its workers and cancels their tasks in the stores.

mod reader;
mod tables;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use cairn_proto::cop::Fragment;
use cairn_proto::kv::{CopWarning, ExecSummaries};
use cairn_types::TimeStamp;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::client::KvClient;
use crate::error::KvError;
use crate::region_cache::KeyRange;
use crate::replicas::ReadFrom;
use crate::request::wait_for_pd;
use crate::scope::RequestScope;
use crate::txn::read_set::ReadSet;
use reader::TaskReader;
pub use tables::{ScanTable, ScanTables};

/// Tasks read at once unless the request says otherwise.
pub const DEFAULT_CONCURRENCY: usize = 15;
/// Pages of one task that wait for their consumer.
const PAGES_WAITING_MAX: usize = 2;
/// Up to so many rows wanted in order, reading ahead in other regions is waste.
const SEQUENTIAL_ROWS_MAX: u64 = 1024;

/// What to run where.
#[derive(Clone, Debug)]
pub struct DistScanRequest {
    /// The timestamp to read at.
    pub start_ts: TimeStamp,
    /// The operators, scan first.
    pub fragment: Arc<Fragment>,
    /// Disjoint ranges in ascending order, also for descending scans.
    pub ranges: Vec<KeyRange>,
    /// Deliver pages in key order (descending if `desc`).
    pub keep_order: bool,
    /// The fragment scans from the end of the ranges to their start.
    pub desc: bool,
    /// Tasks under way at once; 0 = [`DEFAULT_CONCURRENCY`].
    pub concurrency: usize,
    /// Rows after which the consumer stops, if it knows.
    pub limit_hint: Option<u64>,
    /// The bounds of the statement that scans.
    pub scope: RequestScope,
    /// Where a SERIALIZABLE transaction notes what it reads.
    pub reads: Option<Arc<ReadSet>>,
    /// Which replicas are asked.
    pub from: ReadFrom,
    /// About how large all rows are together.
    pub answer_bytes: u64,
    /// Tables that the fragment joins its rows with.
    pub tables: ScanTables,
}

impl DistScanRequest {
    /// A request with default settings, ascending and in any order.
    pub fn new(
        start_ts: TimeStamp,
        fragment: Arc<Fragment>,
        ranges: Vec<KeyRange>,
    ) -> DistScanRequest {
        DistScanRequest {
            start_ts,
            fragment,
            ranges,
            keep_order: false,
            desc: false,
            concurrency: 0,
            limit_hint: None,
            scope: RequestScope::default(),
            reads: None,
            from: ReadFrom::default(),
            answer_bytes: 0,
            tables: ScanTables::default(),
        }
    }
}

/// One page of rows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ScanPage {
    /// Rows in the wire form of `cairn-types`; may hold none.
    pub chunk: Bytes,
    /// Rows of an index lookup that the store does not lead: the caller reads
    /// them itself, usually by a second scan over these row keys.
    pub remote_row_keys: Vec<Bytes>,
    /// Warnings that executing the fragment gave.
    pub warnings: Vec<CopWarning>,
    /// Counters of the fragment's operators, on the last page of a task.
    pub summaries: Option<ExecSummaries>,
}

/// A scan under way.
pub struct DistScan {
    client: Arc<KvClient>,
    state: State,
}

enum State {
    Unplanned(DistScanRequest),
    Single(Box<TaskReader>),
    Unordered(Workers),
    Ordered(Workers, VecDeque<mpsc::Receiver<Message>>),
    Ended,
}

/// What a worker tells the consumer.
enum Message {
    Page(ScanPage),
    TaskEnded,
    Failed(KvError),
}

/// The workers of one scan; dropping them aborts them.
struct Workers {
    _tasks: JoinSet<()>,
    /// Shared by all workers of an unordered scan.
    pages: Option<mpsc::Receiver<Message>>,
    tasks_left: usize,
}

/// A task for a worker: where to read and where to put it.
struct Assignment {
    reader: TaskReader,
    pages: mpsc::Sender<Message>,
}

impl DistScan {
    pub(crate) fn start(client: Arc<KvClient>, mut request: DistScanRequest) -> DistScan {
        request.ranges.retain(|range| !range.is_empty());
        if request.concurrency == 0 {
            request.concurrency = DEFAULT_CONCURRENCY;
        }
        DistScan { client, state: State::Unplanned(request) }
    }

    /// The next page; `None` when every task has ended. After an error the scan
    /// is over.
    pub async fn next(&mut self) -> Option<Result<ScanPage, KvError>> {
        let result = self.next_page().await;
        match result {
            Ok(Some(page)) => return Some(Ok(page)),
            Ok(None) => self.state = State::Ended,
            Err(error) => {
                self.state = State::Ended;
                return Some(Err(error));
            }
        }
        None
    }

    async fn next_page(&mut self) -> Result<Option<ScanPage>, KvError> {
        if let State::Unplanned(request) = &self.state {
            self.state = plan(&self.client, request).await?;
        }
        match &mut self.state {
            State::Single(reader) => reader.next_page().await,
            State::Unordered(workers) => workers.next_page().await,
            State::Ordered(workers, channels) => workers.next_in_order(channels).await,
            State::Unplanned(_) | State::Ended => Ok(None),
        }
    }
}

/// Cuts the ranges by region and starts the workers.
async fn plan(client: &Arc<KvClient>, request: &DistScanRequest) -> Result<State, KvError> {
    let few_rows =
        request.keep_order && request.limit_hint.is_some_and(|rows| rows <= SEQUENTIAL_ROWS_MAX);
    let reader = |ranges| TaskReader::new(client.clone(), request, ranges);
    if few_rows || request.concurrency == 1 || request.ranges.is_empty() {
        return Ok(State::Single(Box::new(reader(request.ranges.clone()))));
    }
    let mut tasks = tasks_of(client, request).await?;
    if tasks.len() == 1 {
        return Ok(State::Single(Box::new(reader(request.ranges.clone()))));
    }
    if request.desc {
        tasks.reverse();
    }
    let workers = request.concurrency.min(tasks.len());
    let (shared, pages) = mpsc::channel(workers * PAGES_WAITING_MAX);
    let mut channels = VecDeque::new();
    let mut assignments = VecDeque::new();
    for ranges in tasks {
        let pages = if request.keep_order {
            let (sender, receiver) = mpsc::channel(PAGES_WAITING_MAX);
            channels.push_back(receiver);
            sender
        } else {
            shared.clone()
        };
        assignments.push_back(Assignment { reader: reader(ranges), pages });
    }
    let tasks_left = assignments.len();
    let assignments = Arc::new(Mutex::new(assignments));
    let mut tasks = JoinSet::new();
    for _ in 0..workers {
        tasks.spawn(work(assignments.clone()));
    }
    Ok(if request.keep_order {
        State::Ordered(Workers { _tasks: tasks, pages: None, tasks_left }, channels)
    } else {
        State::Unordered(Workers { _tasks: tasks, pages: Some(pages), tasks_left })
    })
}

/// One list of ranges per region, in key order.
async fn tasks_of(
    client: &Arc<KvClient>,
    request: &DistScanRequest,
) -> Result<Vec<Vec<KeyRange>>, KvError> {
    let mut tasks: Vec<(u64, Vec<KeyRange>)> = Vec::new();
    let mut retrier = client.retrier().within(&request.scope);
    for range in &request.ranges {
        let regions = loop {
            match request.scope.run(client.cache.locate_range(range)).await? {
                Ok(regions) => break regions,
                Err(error) => wait_for_pd(error, &mut retrier).await?,
            }
        };
        for region in regions {
            let part = range.intersect(&region.range());
            match tasks.last_mut() {
                Some((id, parts)) if *id == region.id() => parts.push(part),
                _ => tasks.push((region.id(), vec![part])),
            }
        }
    }
    Ok(tasks.into_iter().map(|(_, parts)| parts).collect())
}

/// A worker: takes the next task in scan order until none is left.
async fn work(assignments: Arc<Mutex<VecDeque<Assignment>>>) {
    loop {
        let Some(Assignment { mut reader, pages }) = assignments.lock().pop_front() else {
            return;
        };
        loop {
            let (message, ended) = match reader.next_page().await {
                Ok(Some(page)) => (Message::Page(page), false),
                Ok(None) => (Message::TaskEnded, true),
                Err(error) => (Message::Failed(error), true),
            };
            let failed = matches!(message, Message::Failed(_));
            // A consumer that is gone needs no more tasks either.
            if pages.send(message).await.is_err() || failed {
                return;
            }
            if ended {
                break;
            }
        }
    }
}

impl Workers {
    async fn next_page(&mut self) -> Result<Option<ScanPage>, KvError> {
        let Some(pages) = &mut self.pages else { return Ok(None) };
        while self.tasks_left > 0 {
            match pages.recv().await {
                Some(Message::Page(page)) => return Ok(Some(page)),
                Some(Message::TaskEnded) => self.tasks_left -= 1,
                Some(Message::Failed(error)) => return Err(error),
                None => return Err(KvError::Cancelled),
            }
        }
        Ok(None)
    }

    async fn next_in_order(
        &mut self,
        channels: &mut VecDeque<mpsc::Receiver<Message>>,
    ) -> Result<Option<ScanPage>, KvError> {
        while let Some(pages) = channels.front_mut() {
            match pages.recv().await {
                Some(Message::Page(page)) => return Ok(Some(page)),
                Some(Message::TaskEnded) => {
                    channels.pop_front();
                }
                Some(Message::Failed(error)) => return Err(error),
                None => return Err(KvError::Cancelled),
            }
        }
        Ok(None)
    }
}
