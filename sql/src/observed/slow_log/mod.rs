//! The slow log: statements that took long, in a file that people and `pt-query-digest` read, and `SLOW_QUERY` too.
//!
//! A statement is slow if it took `long_query_time` seconds (its session's) or `tidb_slow_log_threshold` milliseconds, whichever
//! is less; `slow_query_log` switches the log off.
//!
//! **Flow.** The statement's task renders the entry ([`mod@format`]) and puts it into a bounded queue; a task of the node writes
//! ([`mod@file`]). An entry that finds the queue full is dropped and counted: the log holds nobody up.
//!
//! **Bounds.** A file is renamed to `….1` at 64 MiB and the one before is gone.

pub mod file;
pub mod format;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::summary::normal_plan;
use super::{Ended, plan_text};
use crate::config::SqlConfig;
use crate::domain::Domain;
use crate::variables::Values;
use file::LogFile;
use format::SlowQuery;

/// Entries that wait to be written.
const QUEUE_MAX: usize = 1_024;
/// Entries written at once.
const BATCH_MAX: usize = 64;

/// See the module documentation.
#[derive(Debug)]
pub struct SlowLog {
    is_on: AtomicBool,
    threshold_ns: AtomicU64,
    path: PathBuf,
    queue: mpsc::Sender<String>,
    /// Until the task that writes takes it.
    written: Mutex<Option<mpsc::Receiver<String>>>,
    dropped: AtomicU64,
    count: AtomicU64,
}

impl SlowLog {
    /// The log of a node with these settings.
    pub fn new(config: &SqlConfig, variables: &Values) -> SlowLog {
        let (queue, written) = mpsc::channel(QUEUE_MAX);
        let log = SlowLog {
            is_on: AtomicBool::new(false),
            threshold_ns: AtomicU64::new(0),
            path: config.slow_log_file(),
            queue,
            written: Mutex::new(Some(written)),
            dropped: AtomicU64::new(0),
            count: AtomicU64::new(0),
        };
        log.apply(variables);
        log
    }

    /// Takes up what global variables say.
    pub fn apply(&self, variables: &Values) {
        let text = |name: &str| variables.get(name).map_or("", String::as_str);
        self.is_on.store(text("slow_query_log") == "ON", Ordering::Relaxed);
        let threshold_ms: u64 = text("tidb_slow_log_threshold").parse().unwrap_or(u64::MAX);
        self.threshold_ns.store(threshold_ms.saturating_mul(1_000_000), Ordering::Relaxed);
    }

    /// Whether a statement that took so long is slow for a session with this `long_query_time`.
    #[inline]
    pub fn is_slow(&self, total_ns: u64, long_query_time_ns: u64) -> bool {
        self.is_on.load(Ordering::Relaxed)
            && total_ns >= self.threshold_ns.load(Ordering::Relaxed).min(long_query_time_ns)
    }

    /// Slow statements since the start.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Adds a statement.
    pub fn add(&self, ended: &Ended<'_>) {
        self.count.fetch_add(1, Ordering::Relaxed);
        let entry = slow_query(ended).to_text();
        if self.queue.try_send(entry).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Where the log is.
    pub fn path(&self) -> &PathBuf {
        &self.path
    }

    /// What the file and the one before it hold, newest first.
    pub async fn read(&self) -> Vec<SlowQuery> {
        let path = self.path.clone();
        let read = tokio::task::spawn_blocking(move || file::read(&path)).await;
        read.unwrap_or_default()
    }

    /// Writes what comes until the node stops.
    pub async fn keep_writing(domain: Arc<Domain>) {
        let Some(mut written) = domain.slow_log.written.lock().take() else { return };
        let mut file = LogFile::new(domain.slow_log.path.clone());
        loop {
            let mut batch = Vec::new();
            let is_last = tokio::select! {
                count = written.recv_many(&mut batch, BATCH_MAX) => count == 0,
                () = domain.stop.cancelled() => {
                    batch.extend(std::iter::from_fn(|| written.try_recv().ok()));
                    true
                }
            };
            if batch.is_empty() {
                return;
            }
            let dropped = domain.slow_log.dropped.swap(0, Ordering::Relaxed);
            if dropped > 0 {
                tracing::warn!(dropped, "slow statements came faster than they are written");
            }
            let write = move || {
                let outcome = file.append(&batch.concat());
                (file, outcome)
            };
            let Ok((back, outcome)) = tokio::task::spawn_blocking(write).await else { return };
            file = back;
            if let Err(error) = outcome {
                tracing::warn!(%error, path = %domain.slow_log.path.display(), "the slow log cannot be written");
            }
            if is_last {
                return;
            }
        }
    }
}

fn slow_query(ended: &Ended<'_>) -> SlowQuery {
    let plan = ended.plan.filter(|plan| !plan.gives_values());
    let (user, host) = ended.user.split_once('@').unwrap_or((ended.user, ""));
    let seconds = |ns: u64| ns as f64 / 1e9;
    SlowQuery {
        ended_us: ended.ended_us,
        start_ts: ended.start_ts,
        user: user.to_owned(),
        host: host.to_owned(),
        connection: ended.connection,
        query_s: seconds(ended.total_ns),
        parse_s: seconds(ended.measures.parse_ns),
        compile_s: seconds(ended.measures.compile_ns),
        rows_sent: ended.rows_sent,
        affected_rows: ended.affected_rows,
        database: ended.database.unwrap_or_default().to_owned(),
        kind: ended.kind.to_owned(),
        index_names: ended.plan.map_or_else(String::new, |plan| plan.index_names().join(",")),
        digest: ended.identity.digest.to_string(),
        plan_digest: plan.map_or_else(String::new, |plan| normal_plan(plan).digest.to_string()),
        cop_tasks: ended.requests.cop_tasks,
        cop_time_s: seconds(ended.requests.cop_ns),
        cop_time_max_s: seconds(ended.requests.cop_ns_max),
        cop_bytes: ended.requests.cop_bytes,
        requests: ended.requests.requests,
        memory_bytes: ended.memory_bytes,
        disk_bytes: ended.disk_bytes,
        retries: ended.measures.retries,
        is_prepared: ended.measures.is_prepared,
        plan_was_cached: ended.measures.plan_was_cached,
        succeeded: ended.error.is_none(),
        plan: plan.map(|plan| plan_text(plan)).unwrap_or_default(),
        text: ended.text.to_owned(),
    }
}
