//! What statements did, as people look for those that cost too much: the slow log, the summaries of two nodes, the figures of
//! EXPLAIN ANALYZE and TRACE on a cluster of processes.

use std::time::Duration;

use cairn_tests::{HarnessError, Layout, Playground, playground};
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Row};

/// How long a slow statement may take to appear.
const SLOW_LOG_PATIENCE: Duration = Duration::from_secs(5);

async fn texts(conn: &mut Conn, query: &str) -> Result<Vec<Vec<String>>, HarnessError> {
    let rows: Vec<Row> = conn.query(query).await?;
    let text = |value: &mysql_async::Value| match value {
        mysql_async::Value::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        other => other.as_sql(true),
    };
    Ok(rows.into_iter().map(|row| row.unwrap().iter().map(text).collect()).collect())
}

async fn load(conn: &mut Conn) -> Result<(), HarnessError> {
    for statement in [
        "CREATE DATABASE d",
        "CREATE TABLE d.n (i INT PRIMARY KEY)",
        "CREATE TABLE d.t (k INT PRIMARY KEY, g INT, s VARCHAR(200), INDEX ig (g))",
        "CREATE TABLE d.g (g INT PRIMARY KEY, name VARCHAR(20))",
    ] {
        conn.query_drop(statement).await?;
    }
    let numbers: Vec<String> = (0..100).map(|n| format!("({n})")).collect();
    conn.query_drop(format!("INSERT INTO d.n VALUES {}", numbers.join(","))).await?;
    conn.query_drop(
        "INSERT INTO d.t SELECT k, k % 50, REPEAT('x', 150) \
         FROM (SELECT a.i * 100 + b.i k FROM d.n a, d.n b) x",
    )
    .await?;
    conn.query_drop("INSERT INTO d.g SELECT i, CONCAT('g', i) FROM d.n").await?;
    conn.query_drop("SPLIT TABLE d.t BETWEEN (0) AND (10000) REGIONS 4").await?;
    Ok(conn.query_drop("ANALYZE TABLE d.t, d.g").await?)
}

/// The line of an operator, from its name on.
fn line<'a>(rows: &'a [Vec<String>], name: &str) -> &'a [String] {
    let found = rows.iter().find(|row| row[0].contains(name));
    found.unwrap_or_else(|| panic!("no {name} in {rows:#?}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_shows_what_its_statements_did() -> Result<(), HarnessError> {
    let mut cluster = Playground::start(Layout::Processes { stores: 3 }).await?;
    let second = cluster.start_sql_node().await?;
    let mut conn = playground::connect(cluster.port(), "").await?;
    load(&mut conn).await?;
    explain_analyze_tells_of_tasks_and_spills(&mut conn).await?;
    traces_tell_of_requests(&mut conn).await?;
    slow_statements_appear_with_their_plan(&mut conn).await?;
    summaries_are_of_all_nodes(&mut conn, second).await
}

async fn explain_analyze_tells_of_tasks_and_spills(conn: &mut Conn) -> Result<(), HarnessError> {
    let rows = texts(conn, "EXPLAIN ANALYZE SELECT COUNT(s) FROM d.t WHERE g < 40").await?;
    let reader = line(&rows, "TableReader");
    let info = &reader[5];
    assert!(info.contains("cop_task:{num:") && info.contains("stores:{"), "{info}");
    assert!(info.contains("bytes:") && info.contains("p95:"), "{info}");
    let scan = line(&rows, "TableFullScan");
    assert_eq!((scan[2].as_str(), scan[3].as_str()), ("10000", "cop[kv]"));
    assert!(scan[5].contains("tikv_task:{time:") && scan[5].contains("tasks:"), "{}", scan[5]);
    assert!(rows[0][5].contains("total:") && rows[0][5].contains("compile:"), "{rows:#?}");

    conn.query_drop("SET tidb_mem_quota_query = 1000000").await?;
    let rows = texts(conn, "EXPLAIN ANALYZE SELECT s, k FROM d.t ORDER BY s, k DESC").await?;
    let sort = line(&rows, "Sort");
    assert_eq!(sort[2], "10000");
    assert!(sort[5].contains("spill:{rounds:"), "{}", sort[5]);
    assert!(sort[7].ends_with('B') && sort[8].ends_with('B') && sort[8] != "0 Bytes", "{sort:?}");
    let join = "EXPLAIN ANALYZE SELECT /*+ HASH_JOIN(a, b) */ COUNT(a.s), COUNT(b.s) \
                FROM d.t a JOIN d.t b ON a.k = b.k";
    let rows = texts(conn, join).await?;
    let join = line(&rows, "HashJoin");
    assert!(join[5].contains("partitions:") && join[5].contains("probe:{"), "{}", join[5]);
    conn.query_drop("SET tidb_mem_quota_query = DEFAULT").await?;

    let join = "EXPLAIN ANALYZE SELECT /*+ INL_JOIN(g) */ COUNT(g.name) \
                FROM d.t JOIN d.g ON g.g = t.g WHERE t.k < 5000";
    let rows = texts(conn, join).await?;
    let join = line(&rows, "IndexJoin");
    assert!(join[5].contains("inner:{total:") && join[5].contains("keys:"), "{}", join[5]);
    let rows =
        texts(conn, "EXPLAIN ANALYZE UPDATE d.t SET g = g WHERE k BETWEEN 10 AND 20").await?;
    assert!(rows[0][0] == "Update" && rows[0][5].contains("total:"), "{rows:#?}");
    Ok(())
}

async fn traces_tell_of_requests(conn: &mut Conn) -> Result<(), HarnessError> {
    let rows = texts(conn, "TRACE SELECT COUNT(s) FROM d.t WHERE g < 41").await?;
    let has = |rows: &[Vec<String>], text: &str| rows.iter().any(|row| row[0].contains(text));
    for step in
        ["session.ParseSQL", "planner.Optimize", "executor.Run", "TableReader_", "rpc.Cop {region:"]
    {
        assert!(has(&rows, step), "no {step} in {rows:#?}");
    }
    let rows = texts(conn, "TRACE UPDATE d.t SET g = g + 1 WHERE k = 7").await?;
    assert!(has(&rows, "rpc.Prewrite {region:"), "{rows:#?}");
    Ok(())
}

async fn slow_statements_appear_with_their_plan(conn: &mut Conn) -> Result<(), HarnessError> {
    conn.query_drop("SET long_query_time = 0").await?;
    conn.query_drop("USE d").await?;
    conn.query_drop("SELECT COUNT(*) FROM t WHERE s = 'the slow one'").await?;
    conn.query_drop("SET long_query_time = DEFAULT").await?;
    let look = "SELECT query_time > 0, plan LIKE '%TableFullScan%', LENGTH(digest), user, num_cop_tasks > 0 \
                FROM information_schema.cluster_slow_query WHERE db = 'd' AND succ = 1 \
                AND time > NOW() - INTERVAL 1 MINUTE AND query LIKE '%slow one%' \
                AND query NOT LIKE '%slow_query%' AND stmt_type = 'Select'";
    let mut rows = Vec::new();
    let found = tokio::time::timeout(SLOW_LOG_PATIENCE, async {
        while rows.is_empty() {
            rows = texts(conn, look).await?;
        }
        Ok::<_, HarnessError>(())
    });
    found.await.expect("it is in the log within five seconds")?;
    assert_eq!(rows, [["1", "1", "64", "root", "1"]]);
    Ok(())
}

async fn summaries_are_of_all_nodes(conn: &mut Conn, second: u16) -> Result<(), HarnessError> {
    let mut other = playground::connect(second, "d").await?;
    for _ in 0..3 {
        other.query_drop("SELECT name FROM g WHERE g = 1").await?;
    }
    conn.query_drop("SELECT name FROM g WHERE g = 2").await?;
    let counts = "SELECT exec_count FROM information_schema.cluster_statements_summary \
                  WHERE digest_text = 'select `name` from `g` where `g` = ?' ORDER BY exec_count";
    assert_eq!(texts(conn, counts).await?, [["1"], ["3"]]);

    // Whatever comes, so many kinds are kept; the others are one row.
    conn.query_drop("SET GLOBAL tidb_stmt_summary_max_stmt_count = 50").await?;
    for n in 0..200 {
        conn.query_drop(format!("SELECT k AS c{n} FROM t WHERE k = 1")).await?;
    }
    let kept = "SELECT COUNT(*) <= 51, SUM(digest IS NULL), \
                (SELECT SUM(evicted_count) >= 150 FROM information_schema.statements_summary_evicted) \
                FROM information_schema.statements_summary";
    assert_eq!(texts(conn, kept).await?, [["1", "1", "1"]]);
    conn.query_drop("SET GLOBAL tidb_enable_stmt_summary = OFF").await?;
    let left = "SELECT COUNT(*) FROM information_schema.statements_summary_history";
    assert_eq!(texts(conn, left).await?, [["0"]]);
    Ok(())
}
