//! A statement ends when somebody kills it, when its time is over and when its client goes away,
//! with the error of each, and its connection is as good as before.

use std::time::Duration;

use cairn_tests::{HarnessError, Layout, Playground};
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Error};

/// What ending a statement may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);
/// A thousand million rows: nobody waits for that.
const LONG: &str = "SELECT COUNT(*) FROM n a, n b, n c";
/// The numbers of the errors.
const INTERRUPTED: u16 = 1317;
const OUT_OF_TIME: u16 = 3024;

fn code(outcome: Result<Option<u64>, Error>) -> u16 {
    match outcome {
        Err(Error::Server(error)) => error.code,
        other => panic!("{other:?} instead of an error"),
    }
}

/// Connections on which the long statement runs.
async fn running(conn: &mut Conn) -> Option<Vec<u64>> {
    let text = "SELECT id FROM information_schema.processlist WHERE info LIKE 'SELECT COUNT%'";
    conn.query(text).await.ok()
}

async fn until_running(conn: &mut Conn, count: usize) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while running(conn).await.map(|ids| ids.len()) != Some(count) {
            tokio::task::yield_now().await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("not {count} running statements"));
}

async fn statements_end(layout: Layout) -> Result<(), HarnessError> {
    let playground = Playground::start(layout).await?;
    let mut other = playground.connect("").await?;
    other.query_drop("CREATE DATABASE ends").await?;
    other.query_drop("USE ends").await?;
    other.query_drop("CREATE TABLE n (i INT PRIMARY KEY)").await?;
    let rows: Vec<String> = (0..1_000).map(|row| format!("({row})")).collect();
    other.query_drop(format!("INSERT INTO n VALUES {}", rows.join(","))).await?;

    let mut conn = playground.connect("ends").await?;
    let id: u64 = conn.query_first("SELECT CONNECTION_ID()").await?.expect("a row");
    let running = tokio::spawn(async move {
        let killed = conn.query_first::<u64, _>(LONG).await;
        (conn, killed)
    });
    until_running(&mut other, 1).await;
    other.query_drop(format!("KILL QUERY {id}")).await?;
    let (mut conn, killed) = running.await.expect("runs");
    assert_eq!(code(killed), INTERRUPTED);

    let limited = "SELECT /*+ MAX_EXECUTION_TIME(200) */ COUNT(*) FROM n a, n b, n c";
    assert_eq!(code(conn.query_first::<u64, _>(limited).await), OUT_OF_TIME);
    conn.query_drop("SET max_execution_time = 200").await?;
    assert_eq!(code(conn.exec_first::<u64, _, _>(LONG, ()).await), OUT_OF_TIME);
    let count: Option<u64> = conn.query_first("SELECT COUNT(*) FROM n").await?;
    assert_eq!(count, Some(1_000));

    // A client that hangs up takes its statement along.
    conn.query_drop("SET max_execution_time = 0").await?;
    let gone = tokio::spawn(async move { conn.query_first::<u64, _>(LONG).await });
    until_running(&mut other, 1).await;
    gone.abort();
    until_running(&mut other, 0).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_end_in_one_process() -> Result<(), HarnessError> {
    statements_end(Layout::OneProcess).await
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_end_over_the_network() -> Result<(), HarnessError> {
    statements_end(Layout::Processes { stores: 1 }).await
}

/// A change of the schema waits for what reads tables with the old one, in whatever statement.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schema_change_waits_for_subqueries_everywhere() -> Result<(), HarnessError> {
    let playground = Playground::start(Layout::OneProcess).await?;
    let mut conn = playground.connect("").await?;
    for statement in ["CREATE DATABASE held", "USE held", "CREATE TABLE n (i INT PRIMARY KEY)"] {
        conn.query_drop(statement).await?;
    }
    conn.query_drop("INSERT INTO n VALUES (1)").await?;
    for (at, statement) in [
        "SET @a = (SELECT SLEEP(1) FROM n)",
        "DO (SELECT SLEEP(1) FROM n)",
        "EXPLAIN ANALYZE SELECT SLEEP(1) FROM n",
    ]
    .into_iter()
    .enumerate()
    {
        let mut reader = playground.connect("held").await?;
        let id: u64 = reader.query_first("SELECT CONNECTION_ID()").await?.expect("a row");
        let reading = tokio::spawn(async move { reader.query_drop(statement).await });
        let text = format!(
            "SELECT COUNT(*) FROM information_schema.processlist \
             WHERE id = {id} AND info LIKE '%SLEEP%'"
        );
        let begins =
            async { while conn.query_first(&text).await.expect("a table") != Some(1_u64) {} };
        tokio::time::timeout(PATIENCE, begins).await.expect("it reads");
        conn.query_drop(format!("ALTER TABLE n ADD COLUMN c{at} INT")).await?;
        let still_reads: Option<u64> = conn.query_first(&text).await?;
        assert_eq!(still_reads, Some(0), "{statement}");
        reading.await.expect("no panic")?;
    }
    // What sets a variable of all nodes does not wait for itself.
    conn.query_drop("SET GLOBAL tidb_gc_enable = (SELECT i FROM n)").await?;
    Ok(())
}
