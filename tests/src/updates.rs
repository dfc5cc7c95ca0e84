//! The load that measures stalls: every worker increments its own row, one statement after the
//! other, each a transaction of its own.
//!
//! What counts is what a client sees: the longest time without a success, of all workers together
//! (the cluster stood still) and of the unluckiest one. In the end each row must tell at least the
//! acknowledged increments, and at most those and the uncertain ones: no lost update, and none
//! done twice.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::client::{Client, Failure, Servers};
use crate::{HarnessError, eventually, pass};

/// How long making the table, or reading it in the end, may be refused.
const TABLE_DEADLINE: Duration = Duration::from_secs(30);
/// Pause after an error, as an application would make.
const ERROR_PAUSE: Duration = Duration::from_millis(20);

/// One statement that was answered.
#[derive(Clone, Copy, Debug)]
struct Success {
    worker: usize,
    /// Since the load began.
    at: Duration,
    latency: Duration,
}

/// What the workers write down.
struct Notes {
    began: Instant,
    stop: AtomicBool,
    successes: Mutex<Vec<Success>>,
    failures: Mutex<BTreeMap<String, u64>>,
    /// Per worker: acknowledged increments, uncertain ones.
    counts: Mutex<Vec<(u64, u64)>>,
    unexpected: Mutex<Vec<String>>,
}

/// A running load.
pub struct Updates {
    notes: Arc<Notes>,
    servers: Servers,
    tasks: Vec<JoinHandle<()>>,
}

/// What was measured from one moment to another.
#[derive(Clone, Copy, Debug)]
pub struct Stretch {
    /// Successes per second.
    pub rate: f64,
    /// Longest time in which no worker had a success.
    pub stall: Duration,
    /// Longest time in which some worker had none.
    pub worst_client: Duration,
    /// 99 of 100 successes took at most this long.
    pub p99: Duration,
}

impl Updates {
    /// Makes the table and lets `workers` go on the servers in turn.
    pub async fn start(servers: &Servers, workers: usize) -> Result<Self, HarnessError> {
        let rows: Vec<String> = (0..workers).map(|worker| format!("({worker}, 0)")).collect();
        let statements = [
            "CREATE DATABASE IF NOT EXISTS faults".to_owned(),
            "DROP TABLE IF EXISTS faults.counters".to_owned(),
            "CREATE TABLE faults.counters (id INT PRIMARY KEY, n BIGINT)".to_owned(),
            format!("INSERT INTO faults.counters VALUES {}", rows.join(", ")),
        ];
        prepare(servers, &statements).await?;
        let notes = Arc::new(Notes {
            began: Instant::now(),
            stop: AtomicBool::new(false),
            successes: Mutex::default(),
            failures: Mutex::default(),
            counts: Mutex::new(vec![(0, 0); workers]),
            unexpected: Mutex::default(),
        });
        let tasks = (0..workers)
            .map(|worker| {
                let client = Client::new(servers.clone(), worker);
                tokio::spawn(increment(Arc::clone(&notes), client, worker))
            })
            .collect();
        Ok(Self { notes, servers: servers.clone(), tasks })
    }

    /// Time since the load began.
    pub fn now(&self) -> Duration {
        self.notes.began.elapsed()
    }

    /// Waits until there were `more` successes; answers whether there were.
    pub async fn await_successes(&self, more: usize, deadline: Duration) -> bool {
        let count = || self.notes.successes.lock().expect("no panic").len();
        let aim = count() + more;
        eventually(deadline, || async { (count() >= aim).then_some(()) }).await.is_some()
    }

    /// What happened between two moments since the load began.
    pub fn between(&self, from: Duration, to: Duration) -> Stretch {
        let successes = self.notes.successes.lock().expect("no panic");
        let inside: Vec<Success> = successes
            .iter()
            .filter(|success| success.at >= from && success.at <= to)
            .copied()
            .collect();
        let workers = self.notes.counts.lock().expect("no panic").len();
        let gap = |of: &dyn Fn(&Success) -> bool| {
            let mut last = from;
            let mut longest = Duration::ZERO;
            for success in inside.iter().filter(|success| of(success)) {
                longest = longest.max(success.at.saturating_sub(last));
                last = success.at;
            }
            longest.max(to.saturating_sub(last))
        };
        let mut latencies: Vec<Duration> = inside.iter().map(|success| success.latency).collect();
        latencies.sort_unstable();
        let at_99 = latencies.len().saturating_sub(1) * 99 / 100;
        Stretch {
            rate: inside.len() as f64 / (to.saturating_sub(from)).as_secs_f64().max(0.001),
            stall: gap(&|_| true),
            worst_client: (0..workers)
                .map(|worker| gap(&|success| success.worker == worker))
                .max()
                .unwrap_or_default(),
            p99: latencies.get(at_99).copied().unwrap_or_default(),
        }
    }

    /// What happened since a moment.
    pub fn since(&self, from: Duration) -> Stretch {
        self.between(from, self.now())
    }

    /// How often which failure was seen.
    pub fn failures(&self) -> BTreeMap<String, u64> {
        self.notes.failures.lock().expect("no panic").clone()
    }

    /// Stops the workers after the statement they are in, and checks the rows; answers what is
    /// wrong: errors that do not pass, lost increments, increments done twice.
    pub async fn stop(mut self) -> Result<Vec<String>, HarnessError> {
        self.notes.stop.store(true, Ordering::Relaxed);
        for task in std::mem::take(&mut self.tasks) {
            task.await.expect("a worker does not panic");
        }
        let mut wrong = std::mem::take(&mut *self.notes.unexpected.lock().expect("no panic"));
        let counts = self.notes.counts.lock().expect("no panic").clone();
        let client = tokio::sync::Mutex::new(Client::new(self.servers.clone(), 0));
        let rows = eventually(TABLE_DEADLINE, || async {
            let mut client = client.lock().await;
            let query = "SELECT id, n FROM faults.counters";
            use mysql_async::prelude::Queryable;
            client
                .run(async |conn: &mut mysql_async::Conn| {
                    conn.query::<(usize, u64), _>(query).await
                })
                .await
                .ok()
        });
        let rows: BTreeMap<usize, u64> = rows
            .await
            .ok_or_else(|| HarnessError::Overdue {
                what: "reading the counters".to_owned(),
                limit: TABLE_DEADLINE,
            })?
            .into_iter()
            .collect();
        for (worker, (acknowledged, uncertain)) in counts.iter().enumerate() {
            let n = rows.get(&worker).copied().unwrap_or_default();
            if n < *acknowledged {
                wrong.push(format!("counter {worker}: {acknowledged} acknowledged, {n} there"));
            } else if n > acknowledged + uncertain {
                wrong.push(format!(
                    "counter {worker}: {acknowledged} acknowledged, {uncertain} uncertain, {n} there"
                ));
            }
        }
        Ok(wrong)
    }
}

impl Drop for Updates {
    fn drop(&mut self) {
        self.notes.stop.store(true, Ordering::Relaxed);
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// One worker.
async fn increment(notes: Arc<Notes>, mut client: Client, worker: usize) {
    let statement = format!("UPDATE faults.counters SET n = n + 1 WHERE id = {worker}");
    while !notes.stop.load(Ordering::Relaxed) {
        let began = Instant::now();
        match client.execute(&statement).await {
            Ok(()) => {
                let success =
                    Success { worker, at: notes.began.elapsed(), latency: began.elapsed() };
                notes.successes.lock().expect("no panic").push(success);
                notes.counts.lock().expect("no panic")[worker].0 += 1;
            }
            Err(failure) => {
                *notes.failures.lock().expect("no panic").entry(failure.label()).or_default() += 1;
                if failure.is_uncertain() {
                    notes.counts.lock().expect("no panic")[worker].1 += 1;
                }
                note_unexpected(&notes.unexpected, &failure);
                pass(ERROR_PAUSE).await;
            }
        }
    }
}

/// Remembers failures that an application could not simply try again.
fn note_unexpected(unexpected: &Mutex<Vec<String>>, failure: &Failure) {
    /// More of them tell nothing new.
    const SHOWN_MAX: usize = 5;
    let mut unexpected = unexpected.lock().expect("no panic");
    if !failure.is_retryable() && unexpected.len() < SHOWN_MAX {
        unexpected.push(format!("{failure:?}"));
    }
}

/// Executes statements that make a load's tables, however long the cluster takes to be there.
pub async fn prepare(servers: &Servers, statements: &[String]) -> Result<(), HarnessError> {
    let client = tokio::sync::Mutex::new(Client::new(servers.clone(), 0));
    for statement in statements {
        let last = Mutex::new(None);
        let done = eventually(TABLE_DEADLINE, || async {
            match client.lock().await.execute(statement).await {
                Ok(()) => Some(()),
                Err(failure) => {
                    *last.lock().expect("no panic") = Some(failure);
                    None
                }
            }
        });
        if done.await.is_none() {
            let what = format!("`{statement}`: {:?}", last.lock().expect("no panic"));
            return Err(HarnessError::Overdue { what, limit: TABLE_DEADLINE });
        }
    }
    Ok(())
}
