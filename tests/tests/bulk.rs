//! `tidb_dml_type = 'bulk'` with small flushes: what it does to rows is what a standard statement does,
//! and what fails or is killed leaves nothing.

use std::time::Duration;

use cairn_tests::client::{code_of, run};
use cairn_tests::{HarnessError, Layout, Playground};
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Error, Row, Value};

/// What a kill and a rollback may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);
const DUPLICATE: u16 = 1062;
const DEADLOCK: u16 = 1213;
const INTERRUPTED: u16 = 1317;

const TABLE: &str = "(id BIGINT PRIMARY KEY, k INT, a INT, v VARCHAR(400), \
                     UNIQUE KEY uk (k), KEY ia (a, v(10)))";

/// One after the other, `t` being the table.
const CHANGES: &[&str] = &[
    "INSERT INTO t SELECT i, i, i % 7, IF(i % 3, REPEAT('x', 300), 'y') FROM n WHERE i < 500",
    // The index that is read changes.
    "UPDATE t SET a = a + 1 WHERE a >= 0",
    "UPDATE t SET v = CONCAT('z', LEFT(v, 290)) WHERE id % 2",
    "UPDATE t SET v = 'short' WHERE id % 4 = 0",
    // Each meets the next row's key, or finds that it has moved away.
    "UPDATE t SET k = k + 1 ORDER BY id",
    "UPDATE t SET k = k + 1 ORDER BY id DESC",
    "UPDATE t SET id = id + 1 ORDER BY id DESC",
    "UPDATE t SET id = id + 1000 WHERE id > 400",
    "UPDATE t SET a = 3 WHERE a = 3",
    // Rows that lie in each other's way, also within the statement.
    "REPLACE INTO t SELECT i % 90, i % 70, i, 'replaced' FROM n WHERE i < 400",
    "REPLACE INTO t VALUES (1, 1, 1, 'a'), (2, 1, 1, 'b'), (2, 2, 1, 'c'), (1, 1, 2, 'd')",
    "INSERT INTO t SELECT i % 100, NULL, 1, 'new' FROM n WHERE i < 300 \
     ON DUPLICATE KEY UPDATE a = t.a + 1, v = CONCAT(LEFT(t.v, 20), '+')",
    "INSERT IGNORE INTO t SELECT i % 150, i % 40, 5, 'ignored' FROM n WHERE i < 300",
    // Taken before, taken by an earlier flush, and by the same one.
    "INSERT INTO t SELECT 5000 - i, 5000 - i, 1, 'dup' FROM n WHERE i < 480 \
     UNION ALL SELECT 1, NULL, 1, 'dup'",
    "INSERT INTO t SELECT 5000 + i % 300, NULL, 1, 'dup' FROM n WHERE i < 400",
    "INSERT INTO t VALUES (7000, 7000, 1, 'dup'), (7001, 7000, 1, 'dup')",
    "INSERT INTO t SELECT id + 10000, NULL, a, v FROM t",
    "DELETE FROM t WHERE a = 1 OR k < 20",
    "DELETE t FROM t JOIN n ON t.a = n.i % 5 WHERE n.i < 100",
    "UPDATE t JOIN n ON t.a = n.i SET t.a = t.a + n.i, t.k = NULL WHERE n.i < 50",
    "UPDATE t SET k = id, a = -a ORDER BY id",
    "DELETE FROM t ORDER BY id LIMIT 30",
    "DELETE FROM t WHERE id = 10005",
    "DELETE FROM t",
];

async fn outcome(conn: &mut Conn, statement: &str) -> Result<u64, u16> {
    match conn.query_drop(statement).await {
        Ok(()) => Ok(conn.affected_rows()),
        Err(Error::Server(error)) => Err(error.code),
        Err(error) => panic!("{statement}: {error}"),
    }
}

async fn contents(conn: &mut Conn, table: &str) -> Result<Vec<Vec<Value>>, Error> {
    let rows: Vec<Row> = conn.query(format!("SELECT * FROM {table} ORDER BY id")).await?;
    Ok(rows.into_iter().map(Row::unwrap).collect())
}

/// Two connections, one of them in bulk, and a table with numbers.
async fn prepare(playground: &Playground, flush_keys: u32) -> Result<(Conn, Conn), HarnessError> {
    let mut standard = playground.connect("").await?;
    standard.query_drop("CREATE DATABASE bulk").await?;
    let mut standard = playground.connect("bulk").await?;
    standard.query_drop("CREATE TABLE n (i INT PRIMARY KEY)").await?;
    let rows: Vec<String> = (0..500).map(|row| format!("({row})")).collect();
    standard.query_drop(format!("INSERT INTO n VALUES {}", rows.join(","))).await?;
    let mut bulk = playground.connect("bulk").await?;
    bulk.query_drop("SET tidb_dml_type = 'bulk'").await?;
    bulk.query_drop(format!("SET cairn_bulk_flush_keys = {flush_keys}")).await?;
    Ok((standard, bulk))
}

async fn equals_standard(layout: Layout, flush_keys: u32) -> Result<(), HarnessError> {
    let playground = Playground::start(layout).await?;
    let (mut standard, mut bulk) = prepare(&playground, flush_keys).await?;
    for table in ["s", "b"] {
        standard.query_drop(format!("CREATE TABLE {table} {TABLE}")).await?;
        standard.query_drop(format!("SPLIT TABLE {table} BY (200), (1100), (9000)")).await?;
    }
    for change in CHANGES {
        // The table is a word of its own.
        let of = |table: &str| {
            let words = change.split(' ').map(|word| match word.strip_prefix("t.") {
                Some(column) => format!("{table}.{column}"),
                None if word == "t" => table.to_owned(),
                None => word.replace("LEFT(t.", &format!("LEFT({table}.")),
            });
            words.collect::<Vec<_>>().join(" ")
        };
        let expected = outcome(&mut standard, &of("s")).await;
        assert_eq!(outcome(&mut bulk, &of("b")).await, expected, "{change}");
        let rows = contents(&mut standard, "s").await?;
        assert!(contents(&mut standard, "b").await? == rows, "other rows after {change}");
        standard.query_drop("ADMIN CHECK TABLE b").await?;
    }
    assert!(contents(&mut standard, "b").await?.is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn bulk_equals_standard_in_one_process() -> Result<(), HarnessError> {
    equals_standard(Layout::OneProcess, 40).await
}

#[tokio::test(flavor = "multi_thread")]
async fn bulk_equals_standard_over_the_network() -> Result<(), HarnessError> {
    equals_standard(Layout::Processes { stores: 3 }, 200).await
}

/// Also its locks: whoever wants a row need not wait.
async fn is_as_before(conn: &mut Conn, rows: u64) -> Option<()> {
    let found: Vec<Row> = conn.query("SELECT * FROM b FOR UPDATE NOWAIT").await.ok()?;
    assert_eq!(found.len() as u64, rows);
    Some(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_or_is_killed_leaves_nothing() -> Result<(), HarnessError> {
    let playground = Playground::start(Layout::OneProcess).await?;
    let (mut other, mut bulk) = prepare(&playground, 40).await?;
    other.query_drop(format!("CREATE TABLE b {TABLE}")).await?;
    other.query_drop("SPLIT TABLE b BY (100), (200)").await?;
    let fill = "INSERT INTO b SELECT i, i, 1, 'x' FROM n";
    assert_eq!(outcome(&mut bulk, fill).await, Ok(500));

    // A row that another holds, far behind the first flush.
    run(&mut other, &["BEGIN", "SELECT * FROM b WHERE id = 480 FOR UPDATE"]).await;
    assert_eq!(code_of(&mut bulk, "UPDATE b SET a = a + 1").await, DEADLOCK);
    run(&mut other, &["ROLLBACK", "BEGIN"]).await;
    assert_eq!(
        code_of(&mut bulk, "INSERT INTO b SELECT 9999 - i, i, 1, 'x' FROM n").await,
        DUPLICATE
    );
    let settled = async |other: &mut Conn| {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while is_as_before(other, 500).await.is_none() {
            assert!(tokio::time::Instant::now() < deadline, "locks stay");
            tokio::task::yield_now().await;
        }
    };
    settled(&mut other).await;
    let sum: Option<u64> = other.query_first("SELECT SUM(a) FROM b").await?;
    assert_eq!(sum, Some(500));
    run(&mut other, &["COMMIT", "ADMIN CHECK TABLE b"]).await;

    // Rows enough to be killed amid.
    let id: u64 = bulk.query_first("SELECT CONNECTION_ID()").await?.expect("a row");
    let running = tokio::spawn(async move {
        let rows = "SELECT 1000 + x.i + 500 * y.i + 250000 * z.i, NULL, 2, 'x' FROM n x, n y, n z";
        let killed = code_of(&mut bulk, &format!("INSERT INTO b {rows}")).await;
        (bulk, killed)
    });
    let flushed = async {
        // More keys than that many bytes hold.
        let keys = "SELECT mem_buffer_keys FROM information_schema.tidb_trx \
                    WHERE current_sql_digest_text LIKE 'insert%' AND mem_buffer_bytes < 10000";
        while other.query_first::<u64, _>(keys).await?.is_none_or(|keys| keys < 500) {
            tokio::task::yield_now().await;
        }
        Ok::<_, Error>(())
    };
    tokio::time::timeout(PATIENCE, flushed).await.expect("it flushes")?;
    other.query_drop(format!("KILL QUERY {id}")).await?;
    let (_bulk, killed) = running.await.expect("runs");
    assert_eq!(killed, INTERRUPTED);
    run(&mut other, &["BEGIN"]).await;
    settled(&mut other).await;
    run(&mut other, &["COMMIT", "ADMIN CHECK TABLE b"]).await;
    Ok(())
}
