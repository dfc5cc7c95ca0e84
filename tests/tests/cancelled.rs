//! Statements that end before their work is done leave nothing behind: no task, no thread, on no node.
//!
//! `CAIRN_CANCELLED=10000` makes more of them than the usual run does.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use cairn_tests::client::run;
use cairn_tests::{HarnessError, Layout, Playground, eventually};
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Error};
use tokio::time::Instant;

const PATIENCE: Duration = Duration::from_secs(60);
/// Statements of a usual run.
const STATEMENTS: usize = 400;
const CLIENTS: usize = 4;
/// Far fewer than one for each statement.
const THREADS_MORE_MAX: usize = 16;
/// Reads eight regions over and over.
const LONG: &str = "SELECT COUNT(*), SUM(a.v + b.v) FROM wide a, wide b, wide c";
/// Killed, and out of time.
const ENDED: [u16; 2] = [1317, 3024];

const UNKNOWN_CONNECTION: u16 = 1094;

/// The numbers that the status port tells.
struct Status(String);

impl Status {
    async fn of(conn: &mut Conn) -> Result<Status, HarnessError> {
        conn.query_drop("BEGIN").await?;
        let address = "SELECT instance FROM information_schema.cluster_tidb_trx LIMIT 1";
        let address: Option<String> = conn.query_first(address).await?;
        conn.query_drop("ROLLBACK").await?;
        Ok(Status(address.expect("this transaction")))
    }

    fn gauges(&self, names: &[&'static str]) -> BTreeMap<&'static str, i64> {
        let mut stream = TcpStream::connect(&self.0).expect("the node serves");
        let request = "GET /metrics HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).expect("it listens");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("it answers");
        let value = |name: &&'static str| {
            let line = text.lines().find_map(|line| line.strip_prefix(*name)?.strip_prefix(' '));
            (*name, line.and_then(|value| value.trim().parse().ok()).expect(name))
        };
        names.iter().map(value).collect()
    }
}

fn threads(playground: &Playground) -> usize {
    let path = format!("/proc/{}/task", playground.pid().expect("one process"));
    std::fs::read_dir(path).map(Iterator::count).unwrap_or_default()
}

/// One statement that does not get to its end, or needs not.
async fn one(playground: &Playground, conn: &mut Conn, at: usize) -> Result<(), HarnessError> {
    let ended = |outcome: Result<Option<u64>, Error>| match outcome {
        Err(Error::Server(error)) if ENDED.contains(&error.code) => {}
        other => panic!("{other:?} instead of an end"),
    };
    match at % 8 {
        0 => {
            let mut killed = playground.connect("ends").await?;
            let id = killed.id();
            let running = tokio::spawn(async move { killed.query_first::<u64, _>(LONG).await });
            let kill = format!("KILL QUERY {id}");
            // It may come before the statement, and behind the end of its connection.
            while !running.is_finished() {
                match conn.query_drop(&kill).await {
                    Err(Error::Server(error)) if error.code == UNKNOWN_CONNECTION => {}
                    other => other?,
                }
                tokio::task::yield_now().await;
            }
            ended(running.await.expect("no panic"));
        }
        1 => {
            let mut gone = playground.connect("ends").await?;
            let running = tokio::spawn(async move { gone.query_first::<u64, _>(LONG).await });
            tokio::task::yield_now().await;
            running.abort();
        }
        2 | 3 => {
            let limited = LONG.replace("SELECT", "SELECT /*+ MAX_EXECUTION_TIME(2) */");
            ended(conn.query_first(limited).await);
        }
        4 => {
            // The rest of the rows is never fetched.
            let row: Option<u64> = conn.query_first("SELECT v FROM wide LIMIT 2").await?;
            assert!(row.is_some());
        }
        5 => {
            let text = "SELECT a.v FROM wide a JOIN wide b ON a.v < b.v LIMIT 3";
            assert_eq!(conn.query::<u64, _>(text).await?.len(), 3);
        }
        6 => {
            let text = "SELECT id FROM wide ORDER BY id DESC LIMIT 1 OFFSET 5";
            assert_eq!(conn.query::<u64, _>(text).await?.len(), 1);
        }
        _ => {
            let text = "SELECT EXISTS (SELECT 1 FROM wide WHERE v > 3), (SELECT MAX(v) FROM wide)";
            conn.query_drop(text).await?;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ended_statements_leave_nothing_behind() -> Result<(), HarnessError> {
    let wanted = std::env::var("CAIRN_CANCELLED").ok().and_then(|count| count.parse().ok());
    let wanted: usize = wanted.unwrap_or(STATEMENTS);
    let playground = Arc::new(Playground::start(Layout::OneProcess).await?);
    let mut conn = playground.connect("").await?;
    let values: Vec<String> = (0..2_000).map(|id| format!("({id}, {})", id % 97)).collect();
    run(
        &mut conn,
        &[
            "CREATE DATABASE ends",
            "USE ends",
            "CREATE TABLE wide (id INT PRIMARY KEY, v INT)",
            &format!("INSERT INTO wide VALUES {}", values.join(",")),
            "SPLIT TABLE wide BY (250), (500), (750), (1000), (1250), (1500), (1750)",
        ],
    )
    .await;
    let status = Status::of(&mut conn).await?;
    const TASKS: [&str; 2] = ["cairn_sql_tasks", "cairn_sql_statement_memory_bytes"];
    let at = Arc::new(AtomicUsize::new(0));
    let round = async |statements: usize| -> Result<(), HarnessError> {
        at.store(0, Ordering::Relaxed);
        let mut clients = tokio::task::JoinSet::new();
        for _ in 0..CLIENTS {
            let (playground, at) = (playground.clone(), at.clone());
            clients.spawn(async move {
                let mut conn = playground.connect("ends").await?;
                loop {
                    let at = at.fetch_add(1, Ordering::Relaxed);
                    if at >= statements {
                        return Ok::<(), HarnessError>(());
                    }
                    one(&playground, &mut conn, at).await?;
                }
            });
        }
        while let Some(client) = clients.join_next().await {
            client.expect("no panic")?;
        }
        Ok(())
    };
    // What the first statements start once and for all is not theirs.
    round(64).await?;
    let idle = async || {
        // Tasks of the background come and go: the fewest of some moments.
        let mut fewest = status.gauges(&TASKS);
        for _ in 0..20 {
            let now = status.gauges(&TASKS);
            fewest.iter_mut().for_each(|(name, count)| *count = now[name].min(*count));
            cairn_tests::pass(Duration::from_millis(10)).await;
        }
        fewest
    };
    let settled = eventually(PATIENCE, || async {
        let now = status.gauges(&TASKS);
        (now["cairn_sql_statement_memory_bytes"] == 0).then_some(())
    });
    settled.await.expect("the first statements end");
    let (before, threads_before) = (idle().await, threads(&playground));
    round(wanted).await?;
    let done = Instant::now();
    let left = eventually(PATIENCE, || async {
        let now = status.gauges(&TASKS);
        let is_idle = now.iter().all(|(name, count)| *count <= before[name]);
        is_idle.then_some(())
    });
    let left = left.await;
    let took = done.elapsed();
    assert!(left.is_some(), "before {before:?}, after {:?}", idle().await);
    println!("{wanted} statements: all tasks were gone {took:?} later");
    // The runtime keeps threads for work that blocks for some seconds, a few of them.
    let threads_after = threads(&playground);
    let bound = threads_before + THREADS_MORE_MAX;
    assert!(threads_after <= bound, "{threads_before} threads, {threads_after} now");
    Ok(())
}
