//! The past against garbage collection: what is read is kept, what is not may go, and what came
//! back stays.

use std::time::Duration;

use cairn_tests::client::{code_of, run};
use cairn_tests::{HarnessError, Layout, Playground, pass};
use mysql_async::Conn;
use mysql_async::prelude::Queryable;

/// What is waited for takes some seconds; a busy machine is slower.
const PATIENCE: Duration = Duration::from_secs(90);
/// Garbage is collected every second, what is older than five seconds.
const GC: [&str; 4] = ["--gc-life-time-s", "5", "--gc-run-interval-s", "1"];
const TOO_OLD: u16 = 8055;

async fn count(conn: &mut Conn, table: &str) -> u64 {
    let text = format!("SELECT COUNT(*) FROM {table}");
    conn.query_first(text.as_str()).await.expect("a query").expect("a row")
}

#[tokio::test]
async fn a_transaction_of_the_past_keeps_what_it_reads() -> Result<(), HarnessError> {
    let playground = Playground::start_with(Layout::OneProcess, &GC).await?;
    let mut conn = playground.connect("test").await?;
    let mut other = playground.connect("test").await?;
    run(
        &mut conn,
        &[
            "CREATE TABLE t (id INT PRIMARY KEY, v INT)",
            "INSERT INTO t VALUES (1, 1), (2, 2)",
            "CREATE TABLE gone (id INT PRIMARY KEY)",
            "INSERT INTO gone VALUES (1)",
            "DO SLEEP(0.002)",
            "START TRANSACTION WITH CONSISTENT SNAPSHOT",
            "SET @then = TIDB_PARSE_TSO(@@tidb_current_ts)",
            "COMMIT",
            "START TRANSACTION READ ONLY AS OF TIMESTAMP @then",
        ],
    )
    .await;
    run(&mut other, &["UPDATE t SET v = 0", "DELETE FROM t WHERE id = 2", "DROP TABLE gone"]).await;
    // Four times as long as anything is kept that nobody reads.
    let age = "SELECT TIMESTAMPDIFF(SECOND, @then, NOW()) >= 20";
    while conn.query_first::<u8, _>(age).await.expect("a query") != Some(1) {
        pass(Duration::from_millis(200)).await;
    }
    let rows: Vec<(u8, u8)> = conn.query("SELECT * FROM t ORDER BY id").await.expect("kept");
    assert_eq!(rows, [(1, 1), (2, 2)]);
    assert_eq!(count(&mut conn, "gone").await, 1);
    conn.query_drop("COMMIT").await.expect("nothing was written");

    // Nobody reads it any more.
    let too_old = tokio::time::timeout(PATIENCE, async {
        while code_of(&mut conn, "SELECT * FROM t AS OF TIMESTAMP @then").await != TOO_OLD {
            pass(Duration::from_millis(200)).await;
        }
    });
    too_old.await.expect("the safe point moves on");
    assert_eq!(
        code_of(&mut conn, "START TRANSACTION READ ONLY AS OF TIMESTAMP @then").await,
        TOO_OLD
    );
    assert_eq!(code_of(&mut conn, "SET tidb_snapshot = @then").await, TOO_OLD);
    let flashback = conn.query_drop("FLASHBACK TABLE gone").await;
    let message = flashback.expect_err("its drop is behind the safe point").to_string();
    assert!(message.contains("Can't find dropped/truncated table 'gone'"), "{message}");
    Ok(())
}

/// Tables come back while their rows are about to be destroyed: all of them, or not at all.
#[tokio::test]
async fn a_table_that_came_back_keeps_its_rows() -> Result<(), HarnessError> {
    const TABLES: usize = 24;
    const ROWS: u64 = 50;
    let playground = Playground::start_with(Layout::OneProcess, &GC).await?;
    let mut conn = playground.connect("test").await?;
    let rows: Vec<String> = (0..ROWS).map(|id| format!("({id}, {id})")).collect();
    for table in 0..TABLES {
        let create = format!("CREATE TABLE t{table} (id INT PRIMARY KEY, v INT, KEY (v))");
        let insert = format!("INSERT INTO t{table} VALUES {}", rows.join(","));
        run(&mut conn, &[&create, &insert]).await;
    }
    let names: Vec<String> = (0..TABLES).map(|table| format!("t{table}")).collect();
    for name in &names {
        run(&mut conn, &[&format!("DROP TABLE {name}")]).await;
    }
    let mut back = Vec::new();
    for (at, name) in names.iter().enumerate() {
        if at > 2 {
            // The safe point passes the drops during this time.
            pass(Duration::from_millis(300)).await;
        }
        if code_of(&mut conn, &format!("FLASHBACK TABLE {name}")).await == 0 {
            back.push(name);
        }
    }
    assert!(back.len() >= 3, "the first ones were in time: {back:?}");
    // Until the last one's rows would have been destroyed twice.
    let waited = tokio::time::timeout(PATIENCE, async {
        run(&mut conn, &["CREATE TABLE last (id INT)", "DROP TABLE last"]).await;
        while code_of(&mut conn, "FLASHBACK TABLE last").await == 0 {
            run(&mut conn, &["DROP TABLE last"]).await;
            pass(Duration::from_secs(8)).await;
        }
    });
    waited.await.expect("the safe point moves on");
    for name in back {
        assert_eq!(count(&mut conn, name).await, ROWS, "{name}");
        run(&mut conn, &[&format!("ADMIN CHECK TABLE {name}")]).await;
    }
    Ok(())
}
