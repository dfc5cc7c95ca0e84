//! How long COMMIT takes: in one phase, with async commit, in two phases.
//!
//! `cargo run --release -p cairn-tests --bin cairn-commits [stores] [seconds]`: a cluster of processes of
//! its own, one client, one transaction of two rows after the other, each kind in turn for
//! `seconds`. The rows lie in two regions, for one phase in one. It prints a table, in milliseconds,
//! with what `@@tidb_last_txn_info` said of the last one.

use std::process::ExitCode;
use std::time::Duration;

use cairn_tests::{HarnessError, Layout, Playground};
use clap::Parser;
use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use tokio::time::Instant;

/// Turns each kind gets, so that what else the machine does falls on all of them.
const TURNS: u32 = 5;

/// Measures commits of each kind.
#[derive(Debug, Parser)]
struct Options {
    /// Stores; three or more keep three replicas.
    #[arg(default_value_t = 3)]
    stores: usize,
    /// Seconds for each kind.
    #[arg(default_value_t = 10)]
    seconds: u64,
}

/// A kind of commit, and how to get it.
struct Kind {
    name: &'static str,
    one_pc: bool,
    async_commit: bool,
    /// Ids of the two rows.
    rows: (u32, u32),
}

/// What came of one kind.
struct Told {
    /// As `txn_commit_mode` has it.
    mode: Option<String>,
    took: Vec<Duration>,
}

const KINDS: [Kind; 3] = [
    Kind { name: "one phase", one_pc: true, async_commit: false, rows: (1, 2) },
    Kind { name: "async commit", one_pc: false, async_commit: true, rows: (1, 900) },
    Kind { name: "two phases", one_pc: false, async_commit: false, rows: (1, 900) },
];

#[tokio::main]
async fn main() -> ExitCode {
    match run(&Options::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(options: &Options) -> Result<(), HarnessError> {
    let cluster = Playground::start(Layout::Processes { stores: options.stores }).await?;
    cluster.wait_until_replicated(options.stores.min(3)).await?;
    let mut conn = cluster.connect("test").await?;
    conn.query_drop("CREATE TABLE pairs (id INT PRIMARY KEY, v INT)").await?;
    conn.query_drop("SPLIT TABLE pairs BY (500)").await?;
    conn.query_drop("INSERT INTO pairs VALUES (1, 0), (2, 0), (900, 0)").await?;
    let mut took = [const { Told { mode: None, took: Vec::new() } }; KINDS.len()];
    let turn = Duration::from_secs(options.seconds) / TURNS;
    for _ in 0..TURNS {
        for (kind, took) in KINDS.iter().zip(&mut took) {
            commits(&mut conn, kind, turn, took).await?;
        }
    }
    println!("| commit | it says | transactions | median ms | p95 ms |");
    println!("|---|---|---:|---:|---:|");
    for (kind, Told { mode, mut took }) in KINDS.iter().zip(took) {
        let mode = mode.unwrap_or_default();
        took.sort_unstable();
        let at = |part: usize| took[(took.len() - 1) * part / 100].as_secs_f64() * 1e3;
        let (count, name) = (took.len(), kind.name);
        println!("| {name} | `{mode}` | {count} | {:.2} | {:.2} |", at(50), at(95));
    }
    Ok(())
}

/// Transactions of one kind until the time is over.
async fn commits(
    conn: &mut Conn,
    kind: &Kind,
    time: Duration,
    told: &mut Told,
) -> Result<(), HarnessError> {
    let Kind { one_pc, async_commit, rows, .. } = kind;
    let set = format!("SET tidb_enable_1pc = {one_pc}, tidb_enable_async_commit = {async_commit}");
    conn.query_drop(set).await?;
    let update = format!("UPDATE pairs SET v = v + 1 WHERE id IN ({}, {})", rows.0, rows.1);
    let end = Instant::now() + time;
    while Instant::now() < end {
        conn.query_drop("BEGIN").await?;
        conn.query_drop(&update).await?;
        let begun = Instant::now();
        conn.query_drop("COMMIT").await?;
        told.took.push(begun.elapsed());
    }
    let said = "SELECT @@tidb_last_txn_info->>'$.txn_commit_mode'";
    told.mode = conn.query_first(said).await?;
    Ok(())
}
