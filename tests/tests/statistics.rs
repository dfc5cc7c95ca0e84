//! Statistics over many regions and several SQL nodes: the same numbers however rows lie, known to
//! every node, gathered without being asked, and ended by `KILL`.

use std::time::Duration;

use cairn_tests::client::{code_of, run};
use cairn_tests::{HarnessError, Layout, Playground, eventually, playground};
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Row, Value};

/// How long something that should happen may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Tables of digits and of a thousand rows, and no analysis but what a test asks for.
const PREPARE: &[&str] = &[
    "SET GLOBAL tidb_enable_auto_analyze = OFF",
    "CREATE DATABASE d",
    "CREATE TABLE d.digits (x INT PRIMARY KEY)",
    "INSERT INTO d.digits VALUES (0), (1), (2), (3), (4), (5), (6), (7), (8), (9)",
];

const ROWS: &str = "SELECT e.x * 1000 + a.x * 100 + b.x * 10 + c.x, \
                    IF(a.x = 0, NULL, b.x * 7 + c.x), CONCAT('Name', (a.x * b.x) % 13) \
                    FROM d.digits a, d.digits b, d.digits c, d.digits e WHERE e.x < 3";

fn create(name: &str) -> String {
    format!(
        "CREATE TABLE d.{name} (id INT PRIMARY KEY, n INT, name VARCHAR(20), KEY by_both (n, name), \
         KEY by_name (name))"
    )
}

/// Rows of a `SHOW STATS_…` about a table, without its name and the columns named.
async fn shown(conn: &mut Conn, what: &str, table: &str, without: &[usize]) -> Vec<Vec<Value>> {
    let query = format!("SHOW {what} WHERE Db_name = 'd' AND Table_name = '{table}'");
    let rows: Vec<Row> = conn.query(query).await.expect("it answers");
    let kept = |row: Row| {
        let values = row.unwrap().into_iter().enumerate();
        values.filter(|(at, _)| *at != 1 && !without.contains(at)).map(|(_, value)| value).collect()
    };
    rows.into_iter().map(kept).collect()
}

async fn analyze(conn: &mut Conn, table: &str) {
    let answer = conn.query_first(format!("ANALYZE TABLE d.{table}")).await.expect("it answers");
    let (name, op, kind, text): (String, String, String, String) = answer.expect("a row");
    let expected = (format!("d.{table}"), "analyze", "status", "OK");
    assert_eq!((name, &*op, &*kind, &*text), expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statistics_are_the_same_over_many_regions_and_on_every_node() -> Result<(), HarnessError> {
    let mut cluster = Playground::start(Layout::Processes { stores: 3 }).await?;
    let mut conn = cluster.connect("").await?;
    run(&mut conn, PREPARE).await;
    for table in ["whole", "cut"] {
        let insert = format!("INSERT INTO d.{table} {ROWS}");
        run(&mut conn, &[&create(table), &insert]).await;
    }
    let split = "SPLIT TABLE d.cut BY (250), (500), (750), (1000), (1500), (1501), (2000), (2999)";
    run(&mut conn, &[split]).await;
    analyze(&mut conn, "whole").await;
    analyze(&mut conn, "cut").await;
    let counts = shown(&mut conn, "STATS_META", "cut", &[3, 6]).await;
    assert_eq!(counts[0][2..], [Value::Bytes(b"0".to_vec()), Value::Bytes(b"3000".to_vec())]);
    for (what, without) in
        [("STATS_HISTOGRAMS", &[5][..]), ("STATS_BUCKETS", &[]), ("STATS_TOPN", &[])]
    {
        let whole = shown(&mut conn, what, "whole", without).await;
        assert!(!whole.is_empty(), "{what}");
        assert_eq!(shown(&mut conn, what, "cut", without).await, whole, "{what}");
    }
    // Another node reads what this one has written, and what it writes anew.
    let second = cluster.start_sql_node().await?;
    let mut other = playground::connect(second, "").await?;
    assert_eq!(
        shown(&mut other, "STATS_TOPN", "cut", &[]).await,
        shown(&mut conn, "STATS_TOPN", "cut", &[]).await
    );
    run(&mut other, &["DELETE FROM d.cut WHERE id >= 100", "FLUSH STATS_DELTA"]).await;
    let counts = shown(&mut conn, "STATS_META", "cut", &[3, 6]).await;
    assert_eq!(counts[0][2..], [Value::Bytes(b"2900".to_vec()), Value::Bytes(b"100".to_vec())]);
    let estimate = "EXPLAIN SELECT id FROM d.cut";
    let before: Option<Row> = conn.query_first(estimate).await?;
    analyze(&mut other, "cut").await;
    let rows = |row: Option<Row>| row.and_then(|row| row.get::<String, _>(1)).expect("a plan");
    assert_eq!(rows(other.query_first(estimate).await?), "100.00");
    // The first node hears of it by itself.
    let heard = eventually(PATIENCE, async || {
        let mut conn = cluster.connect("").await.ok()?;
        let row: Option<Row> = conn.query_first(estimate).await.ok()?;
        (rows(row) == "100.00").then_some(())
    });
    assert!(heard.await.is_some(), "plans of before: {before:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_that_changed_are_analyzed_by_themselves() -> Result<(), HarnessError> {
    let cluster = Playground::start(Layout::OneProcess).await?;
    let mut conn = cluster.connect("").await?;
    run(&mut conn, PREPARE).await;
    for table in ["large", "small", "locked"] {
        run(&mut conn, &[&create(table)]).await;
    }
    let insert = |table: &str, more: &str| format!("INSERT INTO d.{table} {ROWS}{more}");
    run(
        &mut conn,
        &[
            "LOCK STATS d.locked",
            &insert("large", ""),
            &insert("small", " AND e.x = 0 AND a.x < 9"),
            &insert("locked", ""),
            "FLUSH STATS_DELTA",
            "SET GLOBAL tidb_enable_auto_analyze = ON",
        ],
    )
    .await;
    let analyzed = "SHOW STATS_META WHERE Db_name = 'd' AND Last_analyze_time IS NOT NULL";
    let names = async || -> Option<Vec<String>> {
        let mut conn = cluster.connect("").await.ok()?;
        let rows: Vec<Row> = conn.query(analyzed).await.ok()?;
        Some(rows.iter().filter_map(|row| row.get(1)).collect())
    };
    let first = eventually(PATIENCE, async || names().await.filter(|names| !names.is_empty()));
    assert_eq!(first.await.expect("a table is analyzed"), ["large"]);
    // Half of it changes.
    run(&mut conn, &["UPDATE d.large SET n = 1 WHERE id < 1600", "FLUSH STATS_DELTA"]).await;
    let healthy = eventually(PATIENCE, async || {
        let mut conn = cluster.connect("").await.ok()?;
        let show = "SHOW STATS_HEALTHY WHERE Table_name = 'large' AND Healthy = 100";
        conn.query_first::<Row, _>(show).await.ok()?
    });
    assert!(healthy.await.is_some(), "it is analyzed again");
    assert_eq!(names().await.expect("it answers"), ["large"], "others are small, or locked");
    let jobs: Vec<Row> = conn.query("SHOW ANALYZE STATUS").await?;
    let states: Vec<String> = jobs.iter().filter_map(|job| job.get("State")).collect();
    assert_eq!(states, ["finished", "finished"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_told_outlives_a_crash() -> Result<(), HarnessError> {
    let mut cluster = Playground::start(Layout::OneProcess).await?;
    let mut conn = cluster.connect("").await?;
    run(&mut conn, PREPARE).await;
    run(&mut conn, &[&create("t"), &format!("INSERT INTO d.t {ROWS}")]).await;
    assert_eq!(code_of(&mut conn, "ANALYZE TABLE d.t").await, 0);
    run(&mut conn, &["DELETE FROM d.t WHERE id < 500", "FLUSH STATS_DELTA"]).await;
    drop(conn);
    cluster.restart().await?;
    let mut conn = cluster.connect("").await?;
    let counts = shown(&mut conn, "STATS_META", "t", &[3, 6]).await;
    assert_eq!(counts[0][2..], [Value::Bytes(b"500".to_vec()), Value::Bytes(b"2500".to_vec())]);
    // The first plan after the start knows what it needs to.
    let plan: Option<Row> = conn.query_first("EXPLAIN SELECT id FROM d.t").await?;
    assert_eq!(plan.and_then(|row| row.get::<String, _>(1)).as_deref(), Some("2500.00"));
    assert!(!shown(&mut conn, "STATS_TOPN", "t", &[]).await.is_empty());
    Ok(())
}
