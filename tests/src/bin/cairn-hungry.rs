//! Whether a node with a memory limit lives through many statements that each want more than there is.
//!
//! `cargo run --release -p cairn-tests --bin cairn-hungry -- [--clients 100] [--seconds 600]`: one process
//! with `tidb_server_memory_limit`. Each hungry client sorts a gigabyte, over and over, without leave to
//! spill; beside them others read and update single rows. Hungry statements may end with an error that
//! names the memory; anything else, and any error of the others, makes the run fail. It prints a table:
//! what came of the statements, and the most memory that the process held.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cairn_tests::{HarnessError, Layout, Playground};
use clap::Parser;
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Error};
use tokio::time::Instant;

/// Rows that the small statements read and update.
const SMALL_ROWS: u64 = 1_000;
/// Out of memory, by quota or by the node's limit.
const OUT_OF_MEMORY: u16 = 8175;
/// 200 × 200 × 100 rows of about 270 bytes: a gigabyte to sort.
const HUNGRY: &str = "SELECT MAX(s) FROM (SELECT CONCAT(a.i * 7919 % 10007, b.i, c.i, REPEAT('-', 240)) s \
                      FROM n a, n b, n c WHERE c.i < 100 ORDER BY s LIMIT 3999999, 1) x";

/// Runs hungry statements beside small ones.
#[derive(Clone, Debug, Parser)]
struct Options {
    /// Connections that want a gigabyte each.
    #[arg(long, default_value_t = 100)]
    clients: usize,
    /// Connections beside them.
    #[arg(long, default_value_t = 4)]
    small: usize,
    /// Length of the run.
    #[arg(long, default_value_t = 600)]
    seconds: u64,
    /// `tidb_server_memory_limit`.
    #[arg(long, default_value = "2GB")]
    limit: String,
    /// Statements may spill.
    #[arg(long)]
    spill: bool,
}

/// What came of all statements of one kind.
#[derive(Debug, Default)]
struct Outcomes {
    answered: u64,
    /// By number and message.
    errors: BTreeMap<String, u64>,
    took: Vec<Duration>,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(&Options::parse()).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(options: &Options) -> Result<bool, HarnessError> {
    let cache = ["--block-cache-bytes", "268435456"];
    let node = Playground::start_with(Layout::OneProcess, &cache).await?;
    let mut conn = node.connect("test").await?;
    conn.query_drop("CREATE TABLE n (i INT PRIMARY KEY)").await?;
    let numbers: Vec<String> = (0..200).map(|row| format!("({row})")).collect();
    conn.query_drop(format!("INSERT INTO n VALUES {}", numbers.join(","))).await?;
    conn.query_drop("CREATE TABLE small (id INT PRIMARY KEY, v BIGINT NOT NULL)").await?;
    let rows: Vec<String> = (0..SMALL_ROWS).map(|row| format!("({row}, 0)")).collect();
    conn.query_drop(format!("INSERT INTO small VALUES {}", rows.join(","))).await?;
    let spill = if options.spill { "ON" } else { "OFF" };
    conn.query_drop(format!("SET GLOBAL tidb_server_memory_limit = '{}'", options.limit)).await?;
    conn.query_drop("SET GLOBAL tidb_mem_quota_query = 4294967296").await?;
    conn.query_drop(format!("SET GLOBAL tidb_enable_tmp_storage_on_oom = {spill}")).await?;
    drop(conn);

    let end = Instant::now() + Duration::from_secs(options.seconds);
    let done = Arc::new(AtomicU64::new(0));
    let mut hungry = Vec::new();
    for _ in 0..options.clients {
        hungry.push(tokio::spawn(hungry_client(node.connect("test").await?, end)));
    }
    let mut small = Vec::new();
    for client in 0..options.small {
        let conn = node.connect("test").await?;
        small.push(tokio::spawn(small_client(conn, client as u64, end, done.clone())));
    }
    let mut peak_kib = 0;
    let mut shown = (Instant::now(), 0);
    while Instant::now() < end {
        cairn_tests::pass(Duration::from_millis(200)).await;
        peak_kib = peak_kib.max(resident_kib(node.pid()));
        if shown.0.elapsed() >= Duration::from_secs(10) {
            let now = done.load(Ordering::Relaxed);
            println!("{} MiB at most, {} small statements in 10 s", peak_kib >> 10, now - shown.1);
            shown = (Instant::now(), now);
        }
    }
    let hungry = merged(hungry).await;
    let small = merged(small).await;
    report("hungry", &hungry);
    report("small", &small);
    println!("most memory: {} MiB, limit {}", peak_kib >> 10, options.limit);
    let mut conn = node.connect("test").await?;
    let sum: Option<u64> = conn.query_first("SELECT CAST(SUM(v) AS UNSIGNED) FROM small").await?;
    let is_exact = sum == Some(small.answered / 2);
    if !is_exact {
        println!("the updates' sum is {sum:?}, not {}", small.answered / 2);
    }
    let only_memory =
        hungry.errors.keys().all(|error| error.starts_with(&OUT_OF_MEMORY.to_string()));
    Ok(only_memory && small.errors.is_empty() && is_exact)
}

async fn hungry_client(mut conn: Conn, end: Instant) -> Outcomes {
    let mut outcomes = Outcomes::default();
    while Instant::now() < end {
        let begun = Instant::now();
        let answer = conn.query_first::<String, _>(HUNGRY).await.map(|_| ());
        outcomes.count(answer, begun);
    }
    outcomes
}

/// Reads a row and updates it, each by its key.
async fn small_client(mut conn: Conn, client: u64, end: Instant, done: Arc<AtomicU64>) -> Outcomes {
    let mut outcomes = Outcomes::default();
    let mut id = client;
    while Instant::now() < end {
        id = (id * 7919 + 1) % SMALL_ROWS;
        for statement in
            ["SELECT v FROM small WHERE id = ?", "UPDATE small SET v = v + 1 WHERE id = ?"]
        {
            let begun = Instant::now();
            outcomes.count(conn.exec_drop(statement, (id,)).await, begun);
            done.fetch_add(1, Ordering::Relaxed);
        }
    }
    outcomes
}

impl Outcomes {
    fn count(&mut self, outcome: Result<(), Error>, begun: Instant) {
        self.took.push(begun.elapsed());
        match outcome {
            Ok(()) => self.answered += 1,
            Err(error) => {
                let text = match error {
                    Error::Server(error) => format!("{} {}", error.code, kind_of(&error.message)),
                    error => error.to_string(),
                };
                *self.errors.entry(text).or_default() += 1;
            }
        }
    }
}

/// A message without its numbers.
fn kind_of(message: &str) -> String {
    let words =
        message.split(' ').take(12).filter(|word| !word.contains(|c: char| c.is_ascii_digit()));
    words.collect::<Vec<_>>().join(" ")
}

async fn merged(clients: Vec<tokio::task::JoinHandle<Outcomes>>) -> Outcomes {
    let mut all = Outcomes::default();
    for client in clients {
        let Ok(outcomes) = client.await else {
            *all.errors.entry("a client panicked".into()).or_default() += 1;
            continue;
        };
        all.answered += outcomes.answered;
        all.took.extend(outcomes.took);
        for (error, count) in outcomes.errors {
            *all.errors.entry(error).or_default() += count;
        }
    }
    all.took.sort_unstable();
    all
}

fn report(name: &str, outcomes: &Outcomes) {
    let Outcomes { answered, errors, took } = outcomes;
    let at = |part: usize| {
        let at = took.len().saturating_sub(1) * part / 100;
        took.get(at).map_or(0.0, |took| took.as_secs_f64() * 1e3)
    };
    println!(
        "{name}: {answered} answered, median {:.1} ms, p95 {:.1} ms, p99 {:.1} ms",
        at(50),
        at(95),
        at(99)
    );
    for (error, count) in errors {
        println!("  {count} x {error}");
    }
}

/// What a process holds in memory.
fn resident_kib(pid: Option<u32>) -> u64 {
    let path = format!("/proc/{}/status", pid.unwrap_or_default());
    let status = std::fs::read_to_string(path).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().split(' ').next()?.parse().ok()).unwrap_or_default()
}
