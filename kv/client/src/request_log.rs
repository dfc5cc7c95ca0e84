//! What the requests of one statement cost.
//!
//! **Counters** are kept for every statement that brings a log in its scope: a few additions per request.
//! **Each request by itself** is kept only by a [`RequestLog::detailed`] one, for EXPLAIN ANALYZE and TRACE.
//!
//! A part of a statement, say one of its readers, may have a log of its own below the statement's.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cairn_proto::kv::kv_request::Cmd;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::region_cache::CachedRegion;

/// Requests of which a detailed log keeps more than the sums.
const SPANS_MAX: usize = 4_096;

/// One request to one store.
#[derive(Clone, Debug)]
pub struct RequestSpan {
    /// What it asks for.
    pub name: &'static str,
    /// The region it is about.
    pub region_id: u64,
    /// The store that was asked.
    pub store_id: u64,
    /// When it left.
    pub start: Instant,
    /// Until its answer had come, all pages of it.
    pub duration: Duration,
    /// Bytes of rows in the answer; 0 where they are not counted.
    pub bytes: u64,
    /// Rows in the answer; 0 where they are not counted.
    pub rows: u64,
    /// Whether it was answered, be it with a refusal.
    pub answered: bool,
}

impl RequestSpan {
    /// A request that has just ended; one of unknown start took no time.
    pub(crate) fn until_now(
        name: &'static str,
        region: &CachedRegion,
        start: Option<Instant>,
        answered: bool,
    ) -> RequestSpan {
        let now = Instant::now();
        let start = start.unwrap_or(now);
        RequestSpan {
            name,
            region_id: region.id(),
            store_id: region.leader.store_id,
            start,
            duration: now.saturating_duration_since(start),
            bytes: 0,
            rows: 0,
            answered,
        }
    }
}

/// Sums of a log at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestSums {
    /// Requests that are no coprocessor tasks.
    pub requests: u64,
    /// Coprocessor tasks that were answered.
    pub cop_tasks: u64,
    /// Their time, added up, in nanoseconds.
    pub cop_ns: u64,
    /// The longest, in nanoseconds.
    pub cop_ns_max: u64,
    /// Bytes of rows they answered.
    pub cop_bytes: u64,
    /// Rows they answered.
    pub cop_rows: u64,
    /// Commands of commits: prewrites and commits, of all attempts.
    pub write_requests: u64,
}

/// See the module documentation.
#[derive(Debug, Default)]
pub struct RequestLog {
    parent: Option<Arc<RequestLog>>,
    requests: AtomicU64,
    cop_tasks: AtomicU64,
    cop_ns: AtomicU64,
    cop_ns_max: AtomicU64,
    cop_bytes: AtomicU64,
    cop_rows: AtomicU64,
    write_requests: AtomicU64,
    spans: Option<Mutex<Vec<RequestSpan>>>,
}

impl RequestLog {
    /// A log that keeps each request.
    pub fn detailed() -> RequestLog {
        RequestLog { spans: Some(Mutex::default()), ..RequestLog::default() }
    }

    /// A log of a part of a statement, as detailed as the statement's.
    pub fn of_part(self: &Arc<Self>) -> Arc<RequestLog> {
        let spans = self.spans.as_ref().map(|_| Mutex::default());
        Arc::new(RequestLog { parent: Some(Arc::clone(self)), spans, ..RequestLog::default() })
    }

    /// Whether each request is kept.
    pub fn is_detailed(&self) -> bool {
        self.spans.is_some()
    }

    /// Notes a request that is no coprocessor task.
    pub(crate) fn note(&self, cmd_is_write: bool, span: impl FnOnce() -> RequestSpan) {
        let kept = self.is_detailed().then(span);
        self.note_all(cmd_is_write, kept.as_ref());
    }

    fn note_all(&self, cmd_is_write: bool, span: Option<&RequestSpan>) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        if cmd_is_write {
            self.write_requests.fetch_add(1, Ordering::Relaxed);
        }
        self.keep(span);
        if let Some(parent) = &self.parent {
            parent.note_all(cmd_is_write, span);
        }
    }

    /// Notes a coprocessor task.
    pub(crate) fn note_task(&self, span: &RequestSpan) {
        let time_ns = u64::try_from(span.duration.as_nanos()).unwrap_or(u64::MAX);
        self.cop_tasks.fetch_add(1, Ordering::Relaxed);
        self.cop_ns.fetch_add(time_ns, Ordering::Relaxed);
        self.cop_ns_max.fetch_max(time_ns, Ordering::Relaxed);
        self.cop_bytes.fetch_add(span.bytes, Ordering::Relaxed);
        self.cop_rows.fetch_add(span.rows, Ordering::Relaxed);
        self.keep(Some(span));
        if let Some(parent) = &self.parent {
            parent.note_task(span);
        }
    }

    fn keep(&self, span: Option<&RequestSpan>) {
        let (Some(spans), Some(span)) = (&self.spans, span) else { return };
        let mut spans = spans.lock();
        if spans.len() < SPANS_MAX {
            spans.push(span.clone());
        }
    }

    /// The sums so far.
    pub fn sums(&self) -> RequestSums {
        let value = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        RequestSums {
            requests: value(&self.requests),
            cop_tasks: value(&self.cop_tasks),
            cop_ns: value(&self.cop_ns),
            cop_ns_max: value(&self.cop_ns_max),
            cop_bytes: value(&self.cop_bytes),
            cop_rows: value(&self.cop_rows),
            write_requests: value(&self.write_requests),
        }
    }

    /// Requests so far, in the order they ended; those of a detailed log, 4,096 at most.
    pub fn spans(&self) -> Vec<RequestSpan> {
        self.spans.as_ref().map(|spans| spans.lock().clone()).unwrap_or_default()
    }
}

/// What a command is called for people, and whether it belongs to a commit.
pub(crate) fn command_name(cmd: &Cmd) -> (&'static str, bool) {
    match cmd {
        Cmd::Get(_) => ("Get", false),
        Cmd::BatchGet(_) => ("BatchGet", false),
        Cmd::Scan(_) => ("Scan", false),
        Cmd::Prewrite(_) => ("Prewrite", true),
        Cmd::Commit(_) => ("Commit", true),
        Cmd::Rollback(_) => ("Rollback", false),
        Cmd::Cleanup(_) => ("Cleanup", false),
        Cmd::CheckTxnStatus(_) => ("CheckTxnStatus", false),
        Cmd::ResolveLock(_) => ("ResolveLock", false),
        Cmd::TxnHeartBeat(_) => ("TxnHeartBeat", false),
        Cmd::ScanLock(_) => ("ScanLock", false),
        Cmd::SplitRegion(_) => ("SplitRegion", false),
        Cmd::DeleteRange(_) => ("DeleteRange", false),
        Cmd::PessimisticLock(_) => ("PessimisticLock", false),
        Cmd::PessimisticRollback(_) => ("PessimisticRollback", false),
        Cmd::DetectDeadlock(_) => ("DetectDeadlock", false),
        Cmd::CheckSecondaryLocks(_) => ("CheckSecondaryLocks", false),
        Cmd::Refresh(_) => ("Refresh", false),
        Cmd::LockWaits(_) => ("LockWaits", false),
    }
}
