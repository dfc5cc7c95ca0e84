//! Making the tables, filling them, checking them, dropping them.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use serde::Serialize;
use tokio::task::JoinSet;

use crate::client::{Client, Target};
use crate::clock;
use crate::error::{BenchError, Failure, task_outcome};
use crate::workload::{Condition, Workload};

/// Rows of one INSERT at most.
const BATCH_ROWS: usize = 500;
/// Bytes after which an INSERT is sent: far below any server's `max_allowed_packet`.
const BATCH_BYTES: usize = 512 << 10;
/// How often an INSERT is sent again after an error that passes.
const RETRIES: u32 = 20;
/// Pause before that.
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// Time between two lines of progress.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(10);

/// Rows on their way into tables, several at a time.
#[derive(Debug)]
pub struct Batches {
    client: Client,
    pending: Vec<Pending>,
    loaded: Arc<AtomicU64>,
}

#[derive(Debug)]
struct Pending {
    /// `table (columns)`.
    into: &'static str,
    statement: String,
    rows: usize,
}

impl Batches {
    /// Adds a row, written as `value, value`, to a table named with its columns.
    pub async fn row(&mut self, into: &'static str, values: String) -> Result<(), Failure> {
        let at = match self.pending.iter().position(|pending| pending.into == into) {
            Some(at) => at,
            None => {
                self.pending.push(Pending { into, statement: String::new(), rows: 0 });
                self.pending.len() - 1
            }
        };
        let pending = &mut self.pending[at];
        let comma = if pending.rows == 0 { "" } else { "," };
        if pending.rows == 0 {
            pending.statement.clear();
            let _ = write!(pending.statement, "INSERT INTO {into} VALUES ");
        }
        // Writing to a string does not fail.
        let _ = write!(pending.statement, "{comma}({values})");
        pending.rows += 1;
        if pending.rows >= BATCH_ROWS || pending.statement.len() >= BATCH_BYTES {
            self.send(at).await?;
        }
        Ok(())
    }

    /// Sends what is left.
    async fn finish(&mut self) -> Result<(), Failure> {
        for at in 0..self.pending.len() {
            if self.pending[at].rows > 0 {
                self.send(at).await?;
            }
        }
        Ok(())
    }

    async fn send(&mut self, at: usize) -> Result<(), Failure> {
        let pending = &mut self.pending[at];
        let mut retries = 0;
        while let Err(failure) = self.client.text(&pending.statement).await {
            // After a lost connection the rows may be there: only the user can begin anew.
            let refused = matches!(failure, Failure::Server { .. });
            if !refused || !failure.is_retryable() || retries == RETRIES {
                return Err(failure);
            }
            retries += 1;
            tokio::time::sleep(RETRY_PAUSE).await;
        }
        self.loaded.fetch_add(pending.rows as u64, Relaxed);
        pending.rows = 0;
        Ok(())
    }
}

/// Makes the database and the tables, and loads the rows over `threads` connections.
pub async fn prepare<W: Workload>(
    workload: &Arc<W>,
    target: &Arc<Target>,
    threads: usize,
) -> Result<(), BenchError> {
    let begin = clock::now();
    let database = &target.database;
    let mut client = Client::without_database(Arc::clone(target));
    let made = client.text(format!("CREATE DATABASE IF NOT EXISTS `{database}`")).await;
    made.map_err(BenchError::failed(format!("making database {database}")))?;
    client.close().await;
    let mut client = Client::new(Arc::clone(target), 0);
    for table in workload.tables() {
        let made = client.text(&table.create).await;
        made.map_err(BenchError::failed(format!(
            "making table {} (`cleanup` drops what an earlier `prepare` made)",
            table.name
        )))?;
    }
    client.close().await;

    let jobs = workload.load_jobs();
    let next = Arc::new(AtomicUsize::new(0));
    let loaded = Arc::new(AtomicU64::new(0));
    let mut loaders = JoinSet::new();
    for number in 0..threads.min(jobs) {
        let (workload, next) = (Arc::clone(workload), Arc::clone(&next));
        let client = Client::new(Arc::clone(target), number);
        let mut rows = Batches { client, pending: Vec::new(), loaded: Arc::clone(&loaded) };
        loaders.spawn(async move {
            loop {
                let job = next.fetch_add(1, Relaxed);
                if job >= jobs {
                    break;
                }
                workload.load(job, &mut rows).await?;
                rows.finish().await?;
            }
            rows.client.close().await;
            Ok(())
        });
    }
    let mut progress = tokio::time::interval(PROGRESS_INTERVAL);
    progress.tick().await;
    loop {
        tokio::select! {
            finished = loaders.join_next() => match finished {
                None => break,
                Some(finished) => task_outcome(finished).map_err(BenchError::failed("loading rows"))?,
            },
            _ = progress.tick() => println!(
                "[{:>7.1} s] {} rows, {} of {jobs} jobs begun",
                (clock::now() - begin).as_secs_f64(),
                loaded.load(Relaxed),
                next.load(Relaxed).min(jobs),
            ),
        }
    }
    println!(
        "{}: {} rows loaded in {:.1} s",
        workload.name(),
        loaded.load(Relaxed),
        (clock::now() - begin).as_secs_f64()
    );
    Ok(())
}

/// How a condition fared.
#[derive(Clone, Debug, Serialize)]
pub struct CheckResult {
    /// The condition.
    pub name: &'static str,
    /// What it says.
    pub meaning: &'static str,
    /// How often the data contradict it.
    pub violations: u64,
}

/// Checks every condition and prints how each fared.
pub async fn check(
    conditions: Vec<Condition>,
    target: &Arc<Target>,
) -> Result<Vec<CheckResult>, BenchError> {
    let mut client = Client::new(Arc::clone(target), 0);
    let mut results = Vec::new();
    for Condition { name, meaning, violations } in conditions {
        let counted = client.query::<u64>(&violations).await.and_then(|counts| match counts[..] {
            [count] => Ok(count),
            _ => Err(Failure::Wrong(format!("{} rows: {violations}", counts.len()))),
        });
        let violations =
            counted.map_err(BenchError::failed(format!("checking {name}: {meaning}")))?;
        let verdict =
            if violations == 0 { "ok".to_owned() } else { format!("FAILED, {violations} times") };
        println!("check {name}: {verdict} ({meaning})");
        results.push(CheckResult { name, meaning, violations });
    }
    client.close().await;
    Ok(results)
}

/// Whether all conditions hold.
pub fn verdict(results: &[CheckResult]) -> Result<(), BenchError> {
    match results.iter().filter(|result| result.violations > 0).count() {
        0 => Ok(()),
        failed => Err(BenchError::Inconsistent(failed)),
    }
}

/// Drops the workload's tables.
pub async fn clean_up<W: Workload>(workload: &W, target: &Arc<Target>) -> Result<(), BenchError> {
    let mut client = Client::new(Arc::clone(target), 0);
    for table in workload.tables().iter().rev() {
        let dropped = client.text(format!("DROP TABLE IF EXISTS {}", table.name)).await;
        dropped.map_err(BenchError::failed(format!("dropping table {}", table.name)))?;
    }
    client.close().await;
    println!("{}: tables dropped", workload.name());
    Ok(())
}
