//! Statements whose rows do not fit into their quota give the same answers, leave no file, and without a place to
//! spill to end with an error that says why; hungry statements together do not bring a node down.

use cairn_tests::{HarnessError, Layout, Playground};
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Error, Row, ServerError};

/// Rows of the large table, 200 bytes each.
const ROWS: usize = 40_000;
/// Statements that want memory at the same time.
const HUNGRY: usize = 8;
/// The number of the error.
const OUT_OF_MEMORY: u16 = 8175;

/// Sorts, groups and joins of all of it.
const QUERIES: [&str; 9] = [
    "SELECT k, s FROM big ORDER BY s DESC, k",
    "SELECT k, g FROM big ORDER BY s, k LIMIT 500 OFFSET 39000",
    "SELECT COUNT(*), SUM(c), MAX(m) FROM (SELECT s, COUNT(*) c, MAX(k) m FROM big GROUP BY s) x",
    "SELECT COUNT(DISTINCT s), COUNT(DISTINCT k, g), SUM(DISTINCT k) FROM big",
    "SELECT g, COUNT(DISTINCT s), SUM(k) FROM big GROUP BY g ORDER BY g",
    "SELECT /*+ HASH_JOIN(a, b) */ COUNT(*), SUM(a.k), MAX(b.s) FROM big a JOIN big b ON a.s = b.t",
    "SELECT /*+ HASH_JOIN(a, b) */ COUNT(*), SUM(a.k), COUNT(b.k) \
     FROM big a LEFT JOIN big b ON a.t = b.s AND a.g < b.g",
    "SELECT COUNT(*), SUM(k) FROM big a WHERE a.t NOT IN (SELECT s FROM big WHERE g <> 3)",
    "SELECT COUNT(*), SUM(k) FROM (SELECT s, k FROM big UNION SELECT t, k FROM big) x",
];

async fn load(conn: &mut Conn) -> Result<(), HarnessError> {
    conn.query_drop("CREATE TABLE n (i INT PRIMARY KEY)").await?;
    let numbers: Vec<String> = (0..200).map(|row| format!("({row})")).collect();
    conn.query_drop(format!("INSERT INTO n VALUES {}", numbers.join(","))).await?;
    conn.query_drop("CREATE TABLE big (k INT PRIMARY KEY, g INT, s VARCHAR(120), t VARCHAR(120))")
        .await?;
    // Texts come in another order than keys, and some of the second column in none of the first.
    conn.query_drop(
        "INSERT INTO big SELECT k, k % 7, CONCAT(k * 7919 % 40009, REPEAT('-', 90)), \
         IF(k % 10 = 0, NULL, CONCAT((k + 400) * 7919 % 40009, REPEAT('-', 90))) \
         FROM (SELECT a.i * 200 + b.i k FROM n a, n b) x",
    )
    .await?;
    let count: Option<usize> = conn.query_first("SELECT COUNT(*) FROM big").await?;
    assert_eq!(count, Some(ROWS));
    Ok(())
}

async fn answer(conn: &mut Conn, query: &str) -> Result<Vec<String>, Error> {
    let rows: Vec<Row> = conn.query(query).await?;
    Ok(rows.into_iter().map(|row| format!("{:?}", row.unwrap())).collect())
}

fn refused(outcome: Result<Vec<String>, Error>) -> Option<ServerError> {
    match outcome {
        Ok(_) => None,
        Err(Error::Server(error)) => Some(error),
        Err(error) => panic!("{error} instead of an answer"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statements_larger_than_their_quota_spill() -> Result<(), HarnessError> {
    let files = tempfile::tempdir().map_err(|error| HarnessError::io("make a folder", error))?;
    let path = files.path().display().to_string();
    let options = ["--tmp-storage-path", path.as_str(), "--tmp-storage-quota", "1073741824"];
    let playground = Playground::start_with(Layout::OneProcess, &options).await?;
    let mut conn = playground.connect("").await?;
    conn.query_drop("CREATE DATABASE spill").await?;
    conn.query_drop("USE spill").await?;
    load(&mut conn).await?;
    for query in QUERIES {
        conn.query_drop("SET tidb_mem_quota_query = 1073741824").await?;
        let expected = answer(&mut conn, query).await?;
        conn.query_drop("SET tidb_mem_quota_query = 4194304").await?;
        let found = answer(&mut conn, query).await?;
        assert!(found == expected, "{query}: {} rows, {} expected", found.len(), expected.len());
        let left = std::fs::read_dir(files.path()).map(Iterator::count).unwrap_or(usize::MAX);
        assert_eq!(left, 0, "{query} left files");
    }
    // Without a place to spill to, the quota is a limit: so they did.
    conn.query_drop("SET GLOBAL tidb_enable_tmp_storage_on_oom = OFF").await?;
    for query in QUERIES {
        let error = refused(answer(&mut conn, query).await);
        let error = error.unwrap_or_else(|| panic!("{query} fits"));
        assert_eq!(error.code, OUT_OF_MEMORY, "{query}: {}", error.message);
        assert!(error.message.contains("tidb_mem_quota_query"), "{}", error.message);
    }
    conn.query_drop("SET GLOBAL tidb_mem_oom_action = 'LOG'").await?;
    assert!(refused(answer(&mut conn, QUERIES[0]).await).is_none());
    Ok(())
}

/// Runs the sort on many connections at once.
async fn hungry(playground: &Playground) -> Result<Vec<Option<ServerError>>, HarnessError> {
    let mut tasks = Vec::new();
    for _ in 0..HUNGRY {
        let mut conn = playground.connect("hungry").await?;
        tasks.push(tokio::spawn(async move { refused(answer(&mut conn, QUERIES[0]).await) }));
    }
    let mut outcomes = Vec::new();
    for task in tasks {
        outcomes.push(task.await.expect("no panic"));
    }
    Ok(outcomes)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hungry_statements_do_not_bring_a_node_down() -> Result<(), HarnessError> {
    let playground = Playground::start(Layout::OneProcess).await?;
    let mut conn = playground.connect("").await?;
    conn.query_drop("CREATE DATABASE hungry").await?;
    conn.query_drop("USE hungry").await?;
    load(&mut conn).await?;
    conn.query_drop("SET GLOBAL tidb_server_memory_limit = '48MB'").await?;
    conn.query_drop("SET GLOBAL tidb_server_memory_limit_sess_min_size = '1MB'").await?;
    // There is room for all on disk.
    for outcome in hungry(&playground).await? {
        assert!(outcome.is_none(), "{outcome:?}");
    }
    // There is not in memory; some have to go, and they are told.
    conn.query_drop("SET GLOBAL tidb_enable_tmp_storage_on_oom = OFF").await?;
    let outcomes = hungry(&playground).await?;
    let errors: Vec<&ServerError> = outcomes.iter().flatten().collect();
    assert!(!errors.is_empty(), "all fit");
    assert!(errors.len() < HUNGRY, "nobody was left");
    for error in errors {
        assert_eq!(error.code, OUT_OF_MEMORY, "{}", error.message);
        assert!(error.message.contains("tidb_server_memory_limit"), "{}", error.message);
    }
    // Who was there all the time has noticed nothing, and one statement alone has its memory.
    let count: Option<usize> = conn.query_first("SELECT COUNT(*) FROM big").await?;
    assert_eq!(count, Some(ROWS));
    assert!(refused(answer(&mut conn, QUERIES[0]).await).is_none());
    Ok(())
}
