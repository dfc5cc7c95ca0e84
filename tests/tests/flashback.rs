//! `FLASHBACK CLUSTER`: everything is as it was, whoever writes meanwhile, and whoever stops it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cairn_tests::client::{code_of, run};
use cairn_tests::{HarnessError, Layout, Playground};
use mysql_async::Conn;
use mysql_async::prelude::Queryable;

/// What is waited for takes seconds; a busy machine is slower.
const PATIENCE: Duration = Duration::from_secs(120);
/// Rows that change: several transactions of the flashback.
const ROWS: u32 = 6_000;
const IN_FLASHBACK: u16 = 1836;
const UNSUPPORTED: u16 = 8200;
const CONFLICT: u16 = 1213;

type Rows = Vec<(u32, u32, Option<String>)>;

async fn rows(conn: &mut Conn) -> Rows {
    conn.query("SELECT id, v, s FROM back.t ORDER BY id").await.expect("all rows")
}

/// A table, its rows at a time, and that time as a statement names it.
async fn prepare(conn: &mut Conn) -> (Rows, u64) {
    run(
        conn,
        &[
            "CREATE DATABASE back",
            "CREATE TABLE back.t (id INT PRIMARY KEY, v INT, s VARCHAR(20), KEY (v), UNIQUE KEY (s))",
            "CREATE TABLE back.ids (id INT PRIMARY KEY AUTO_INCREMENT, v INT)",
            "INSERT INTO back.ids (v) VALUES (1)",
        ],
    )
    .await;
    let values: Vec<String> = (0..ROWS).map(|id| format!("({id}, {id}, 's{id}')")).collect();
    for part in values.chunks(1_000) {
        run(conn, &[&format!("INSERT INTO back.t VALUES {}", part.join(","))]).await;
    }
    let then = rows(conn).await;
    run(conn, &["START TRANSACTION WITH CONSISTENT SNAPSHOT"]).await;
    let tso: u64 = conn.query_first("SELECT @@tidb_current_ts").await.expect("a time").expect("it");
    run(conn, &["COMMIT"]).await;
    (then, tso)
}

/// Changes, inserts and deletes rows.
async fn spoil(conn: &mut Conn) {
    run(
        conn,
        &[
            "UPDATE back.t SET v = v + 7, s = CONCAT('x', id) WHERE id < 3000",
            "DELETE FROM back.t WHERE id BETWEEN 4000 AND 4999",
            "INSERT INTO back.t SELECT id + 10000, v, CONCAT('new', id) FROM back.t WHERE id < 1500",
            "INSERT INTO back.ids (v) VALUES (2), (3)",
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cluster_goes_back_while_others_write() -> Result<(), HarnessError> {
    let playground = Playground::start(Layout::OneProcess).await?;
    let mut conn = playground.connect("").await?;
    let (then, tso) = prepare(&mut conn).await;
    spoil(&mut conn).await;
    let spoilt = rows(&mut conn).await;
    run(&mut conn, &["START TRANSACTION WITH CONSISTENT SNAPSHOT"]).await;
    let between: u64 =
        conn.query_first("SELECT @@tidb_current_ts").await.expect("a time").expect("it");
    run(&mut conn, &["COMMIT"]).await;

    // Whoever writes is told why it cannot, and nothing else.
    let stop = Arc::new(AtomicBool::new(false));
    let mut writers = Vec::new();
    for writer in 0..3 {
        let mut conn = playground.connect("back").await?;
        let stop = Arc::clone(&stop);
        writers.push(tokio::spawn(async move {
            let mut refused = 0;
            while !stop.load(Ordering::Relaxed) {
                let id = 5_000 + writer;
                let text = format!("UPDATE t SET v = v + 1 WHERE id = {id}");
                match code_of(&mut conn, &text).await {
                    0 | CONFLICT => {}
                    IN_FLASHBACK => {
                        refused += 1;
                        // From here on it only knocks.
                        let text = format!("SELECT v FROM t WHERE id = {id}");
                        while code_of(&mut conn, &text).await == IN_FLASHBACK {}
                        return refused;
                    }
                    other => panic!("error {other}"),
                }
            }
            refused
        }));
    }
    run(&mut conn, &[&format!("FLASHBACK CLUSTER TO TSO {tso}")]).await;
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        let refused = tokio::time::timeout(PATIENCE, writer).await.expect("in time");
        assert!(refused.expect("writes") > 0, "it wrote through the flashback");
    }
    assert!(rows(&mut conn).await == then, "the rows of the time");
    run(&mut conn, &["ADMIN CHECK TABLE back.t"]).await;
    let by_index: Option<u32> =
        conn.query_first("SELECT id FROM back.t WHERE s = 's4500'").await.expect("a query");
    assert_eq!(by_index, Some(4_500));

    // The history stays, ids go on, and everybody may write again.
    run(&mut conn, &[&format!("SET tidb_snapshot = {between}")]).await;
    let history = rows(&mut conn).await;
    assert_eq!(history.len(), spoilt.len());
    run(&mut conn, &["SET tidb_snapshot = ''", "INSERT INTO back.ids (v) VALUES (4)"]).await;
    let ids: (u32, u32) = conn
        .query_first("SELECT COUNT(*), MAX(id) FROM back.ids")
        .await
        .expect("a query")
        .expect("it");
    assert!(ids.0 == 2 && ids.1 > 3, "{ids:?}");

    // Definitions do not go back.
    run(&mut conn, &["ALTER TABLE back.t ADD COLUMN later INT"]).await;
    assert_eq!(code_of(&mut conn, &format!("FLASHBACK CLUSTER TO TSO {tso}")).await, UNSUPPORTED);
    let ahead = "FLASHBACK CLUSTER TO TIMESTAMP NOW() + INTERVAL 1 HOUR";
    assert_eq!(code_of(&mut conn, ahead).await, 1105);
    run(&mut conn, &["UPDATE back.t SET v = 0 WHERE id = 1"]).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupted_flashback_is_run_again() -> Result<(), HarnessError> {
    let playground = Playground::start(Layout::OneProcess).await?;
    let mut conn = playground.connect("").await?;
    let (then, tso) = prepare(&mut conn).await;
    spoil(&mut conn).await;
    let text = format!("FLASHBACK CLUSTER TO TSO {tso}");
    let mut victim = playground.connect("").await?;
    let id: u64 = victim.query_first("SELECT CONNECTION_ID()").await?.expect("a row");
    let running = {
        let text = text.clone();
        tokio::spawn(async move { code_of(&mut victim, &text).await })
    };
    let began = tokio::time::timeout(PATIENCE, async {
        while code_of(&mut conn, "SELECT v FROM back.t WHERE id = 1").await != IN_FLASHBACK {
            if running.is_finished() {
                break;
            }
        }
    });
    began.await.expect("it begins");
    assert_eq!(code_of(&mut conn, &format!("KILL QUERY {id}")).await, 0);
    let outcome = running.await.expect("it ends");
    assert!([0, 1317].contains(&outcome), "{outcome}");
    let read = code_of(&mut conn, "SELECT COUNT(*) FROM back.t").await;
    if outcome != 0 && read == IN_FLASHBACK {
        // What is there now is of two times: not a state to go back to.
        let now: String = conn.query_first("SELECT NOW(6)").await?.expect("a row");
        let amid = format!("FLASHBACK CLUSTER TO TIMESTAMP '{now}'");
        assert_eq!(code_of(&mut conn, &amid).await, UNSUPPORTED);
        // Half of it is done: nobody sees that, nobody changes it.
        for statement in [
            "INSERT INTO back.ids (v) VALUES (9)",
            "CREATE TABLE back.other (i INT)",
            "START TRANSACTION WITH CONSISTENT SNAPSHOT",
        ] {
            assert_eq!(code_of(&mut conn, statement).await, IN_FLASHBACK, "{statement}");
        }
        assert_eq!(code_of(&mut conn, "ROLLBACK").await, 0);
    }
    run(&mut conn, &[&text]).await;
    assert!(rows(&mut conn).await == then, "the rows of the time");
    run(&mut conn, &["ADMIN CHECK TABLE back.t", "CREATE TABLE back.other (i INT)"]).await;
    Ok(())
}

/// The commit of a prepared branch asks no schema: it is waited for before anybody is kept out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prepared_branches_end_before_a_flashback_begins() -> Result<(), HarnessError> {
    let playground = Playground::start(Layout::OneProcess).await?;
    let mut conn = playground.connect("").await?;
    let (then, tso) = prepare(&mut conn).await;
    run(
        &mut conn,
        &[
            "XA START 'x'",
            "UPDATE back.t SET v = v + 7 WHERE id < 10",
            "INSERT INTO back.t VALUES (90000, 1, 'late')",
            "XA END 'x'",
            "XA PREPARE 'x'",
        ],
    )
    .await;
    let mut other = playground.connect("").await?;
    let id: u64 = other.query_first("SELECT CONNECTION_ID()").await?.expect("a row");
    let text = format!("FLASHBACK CLUSTER TO TSO {tso}");
    let running = tokio::spawn(async move { code_of(&mut other, &text).await });
    let runs = "SELECT COUNT(*) FROM information_schema.processlist \
                WHERE ID = ? AND INFO LIKE 'FLASHBACK%'";
    let begins =
        async { while conn.exec_first(runs, (id,)).await.expect("a table") != Some(1_u64) {} };
    tokio::time::timeout(PATIENCE, begins).await.expect("it runs");
    for value in 0..20 {
        let text = format!("INSERT INTO back.ids (v) VALUES ({value})");
        assert_eq!(code_of(&mut conn, &text).await, 0, "nobody is kept out yet");
    }
    assert!(!running.is_finished());
    assert_eq!(code_of(&mut conn, "XA COMMIT 'x'").await, 0);
    assert_eq!(running.await.expect("no panic"), 0);
    assert!(rows(&mut conn).await == then, "the rows of the time");
    run(&mut conn, &["ADMIN CHECK TABLE back.t"]).await;
    Ok(())
}
