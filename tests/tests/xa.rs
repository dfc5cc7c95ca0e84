//! Prepared branches of distributed transactions outlive whoever made them.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cairn_tests::client::code;
use cairn_tests::{HarnessError, Layout, Playground, eventually, playground};
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Error};

/// How long something that should happen may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a branch whose PREPARE was cut off may stay: 20 s, until
/// the killed node's lease of garbage collection is over, and until the next one looks.
const SETTLED_WITHIN: Duration = Duration::from_secs(120);

type Branch = (u32, usize, usize, String);

async fn connect(cluster: &Playground) -> Conn {
    playground::connect(cluster.port(), "xa").await.expect("the playground serves")
}

/// A cluster with a table of two rows in regions of their own.
async fn cluster(layout: Layout, options: &[&str]) -> Result<Playground, HarnessError> {
    let cluster = Playground::start_with(layout, options).await?;
    let mut conn = cluster.connect("").await?;
    for statement in [
        "CREATE DATABASE xa",
        "CREATE TABLE xa.t (id INT PRIMARY KEY, n INT, KEY (n))",
        "INSERT INTO xa.t VALUES (1, 0), (1000, 0)",
        "SPLIT TABLE xa.t BY (500)",
    ] {
        conn.query_drop(statement).await.expect(statement);
    }
    Ok(cluster)
}

/// Runs the first phase of a branch that raises both rows.
async fn prepare(conn: &mut Conn, xid: &str) {
    for statement in [
        format!("XA START '{xid}'"),
        "UPDATE t SET n = n + 1".to_owned(),
        format!("XA END '{xid}'"),
        format!("XA PREPARE '{xid}'"),
    ] {
        conn.query_drop(&statement).await.expect(&statement);
    }
}

async fn recovered(conn: &mut Conn) -> Vec<String> {
    let branches: Vec<Branch> = conn.query("XA RECOVER").await.expect("it answers");
    branches.into_iter().map(|(_, _, _, data)| data).collect()
}

async fn sum(conn: &mut Conn) -> i64 {
    // By index and by rows: they must not differ.
    let sums =
        "SELECT (SELECT SUM(n) FROM t), (SELECT SUM(n) FROM t USE INDEX (n) WHERE n > -9999)";
    let (rows, entries): (i64, i64) =
        conn.query_first(sums).await.expect("it answers").expect("a row");
    assert_eq!(rows, entries);
    rows
}

/// A branch is listed and its rows are locked, until it is committed by somebody else.
async fn lives_until_it_is_committed(conn: &mut Conn, xid: &str, before: i64) {
    assert_eq!(recovered(conn).await, [xid]);
    assert_eq!(sum(conn).await, before);
    conn.query_drop("BEGIN").await.expect("begins");
    let locked = conn.query_drop("SELECT * FROM t FOR UPDATE NOWAIT").await;
    assert_eq!(code(locked), 3572);
    conn.query_drop("ROLLBACK").await.expect("ends");
    conn.query_drop(format!("XA COMMIT '{xid}'")).await.expect("commits");
    assert_eq!(sum(conn).await, before + 2);
    assert!(recovered(conn).await.is_empty());
    let twice = conn.query_drop(format!("XA COMMIT '{xid}'")).await;
    assert_eq!(code(twice), 1397);
    conn.query_drop("UPDATE t SET n = n").await.expect("nothing is locked");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_branch_survives_its_client_its_nodes_and_all_stores() -> Result<(), HarnessError> {
    let mut cluster = cluster(Layout::Processes { stores: 3 }, &[]).await?;
    let mut conn = connect(&cluster).await;
    prepare(&mut conn, "client").await;
    drop(conn);
    lives_until_it_is_committed(&mut connect(&cluster).await, "client", 0).await;

    prepare(&mut connect(&cluster).await, "sql node").await;
    let sql = cluster.nodes.iter().position(|node| node.role == "sql").expect("there is one");
    cluster.restart_node(sql).await?;
    lives_until_it_is_committed(&mut connect(&cluster).await, "sql node", 2).await;

    prepare(&mut connect(&cluster).await, "everything").await;
    for at in 0..cluster.nodes.len() {
        if cluster.nodes[at].role == "kv" {
            cluster.restart_node(at).await?;
        }
    }
    cluster.restart_node(sql).await?;
    lives_until_it_is_committed(&mut connect(&cluster).await, "everything", 4).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_before_it_prepared_leaves_nothing() -> Result<(), HarnessError> {
    let cluster = cluster(Layout::OneProcess, &[]).await?;
    let mut conn = connect(&cluster).await;
    for statement in ["XA START 'gone'", "UPDATE t SET n = 7", "XA END 'gone'"] {
        conn.query_drop(statement).await.expect(statement);
    }
    drop(conn);
    let mut conn = connect(&cluster).await;
    assert!(recovered(&mut conn).await.is_empty());
    // Its locks go with it, and so does its name.
    let free = eventually(PATIENCE, || async {
        let mut conn = cluster.connect("xa").await.ok()?;
        conn.query_drop("XA START 'gone'").await.ok()?;
        conn.query_drop("SELECT * FROM t FOR UPDATE NOWAIT").await.ok()
    });
    assert!(free.await.is_some());
    assert_eq!(sum(&mut conn).await, 0);
    Ok(())
}

/// Garbage is collected all the time, with the least of life times: nothing of a branch goes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_collection_leaves_branches_alone() -> Result<(), HarnessError> {
    let options = ["--gc-life-time-s", "1", "--gc-run-interval-s", "1"];
    let cluster = cluster(Layout::OneProcess, &options).await?;
    let mut conn = connect(&cluster).await;
    prepare(&mut conn, "old").await;
    // Longer than a lock lives, and than the safe point needs to pass the branch by.
    cairn_tests::pass(Duration::from_secs(12)).await;
    lives_until_it_is_committed(&mut conn, "old", 0).await;
    Ok(())
}

/// Of two that decide differently at once one is told so, and both agree on what happened.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_branch_has_one_fate() -> Result<(), HarnessError> {
    let cluster = cluster(Layout::OneProcess, &[]).await?;
    let mut conn = connect(&cluster).await;
    let (mut one, mut other) = (connect(&cluster).await, connect(&cluster).await);
    for round in 0..10 {
        let before = sum(&mut conn).await;
        prepare(&mut conn, "contested").await;
        let commit = one.query_drop("XA COMMIT 'contested'");
        let roll_back = other.query_drop("XA ROLLBACK 'contested'");
        let (commit, roll_back) = tokio::join!(commit, roll_back);
        let codes = (code(commit), code(roll_back));
        let after = sum(&mut conn).await;
        match after - before {
            2 => assert!(codes.0 == 0 && [1397, 1399].contains(&codes.1), "{round}: {codes:?}"),
            0 => assert!(codes.1 == 0 && [1397, 1399].contains(&codes.0), "{round}: {codes:?}"),
            torn => panic!("{round}: {torn}, {codes:?}"),
        }
        assert!(recovered(&mut conn).await.is_empty());
    }
    Ok(())
}

/// A deadlock takes the branch's work; all that is left to do is to roll it back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_victim_of_a_deadlock_says_so_when_it_ends() -> Result<(), HarnessError> {
    let cluster = cluster(Layout::OneProcess, &[]).await?;
    let (mut victim, mut other) = (connect(&cluster).await, connect(&cluster).await);
    other.query_drop("BEGIN").await.expect("begins");
    other.query_drop("UPDATE t SET n = 1 WHERE id = 1000").await.expect("free");
    victim.query_drop("XA START 'v'").await.expect("starts");
    victim.query_drop("UPDATE t SET n = 2 WHERE id = 1").await.expect("free");
    let id = other.id();
    let waiting = tokio::spawn(async move {
        other.query_drop("UPDATE t SET n = 1 WHERE id = 1").await?;
        other.query_drop("COMMIT").await
    });
    let mut conn = connect(&cluster).await;
    let waits = "SELECT COUNT(*) FROM information_schema.tidb_trx w \
                 JOIN information_schema.data_lock_waits l ON l.TRX_ID = w.ID \
                 WHERE SESSION_ID = ?";
    let is_waiting =
        async { while conn.exec_first(waits, (id,)).await.expect("tables") != Some(1_u64) {} };
    tokio::time::timeout(PATIENCE, is_waiting).await.expect("it waits");
    let closing = victim.query_drop("UPDATE t SET n = 2 WHERE id = 1000").await;
    assert_eq!(code(closing), 1213);
    assert_eq!(code(victim.query_drop("UPDATE t SET n = 3 WHERE id = 1").await), 1614);
    assert_eq!(code(victim.query_drop("XA END 'v'").await), 1614);
    assert_eq!(code(victim.query_drop("XA PREPARE 'v'").await), 1399);
    // Whatever ends it: it was rolled back, and is gone then.
    assert_eq!(code(victim.query_drop("XA COMMIT 'v'").await), 1614);
    assert_eq!(code(victim.query_drop("XA ROLLBACK 'v'").await), 1397);
    assert_eq!(code(waiting.await.expect("no panic")), 0);
    assert_eq!(sum(&mut victim).await, 2);
    Ok(())
}

/// A branch has written its table as it was: the table's definition stays until the branch ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schema_change_waits_for_branches_of_its_table() -> Result<(), HarnessError> {
    let cluster = cluster(Layout::OneProcess, &[]).await?;
    let mut conn = connect(&cluster).await;
    prepare(&mut conn, "before").await;
    let mut changing = connect(&cluster).await;
    let id = changing.id();
    let change = tokio::spawn(async move {
        changing.query_drop("ALTER TABLE t ADD COLUMN extra INT DEFAULT 3").await
    });
    let runs = "SELECT COUNT(*) FROM information_schema.processlist \
                WHERE ID = ? AND INFO LIKE 'ALTER%'";
    let begins =
        async { while conn.exec_first(runs, (id,)).await.expect("a table") != Some(1_u64) {} };
    tokio::time::timeout(PATIENCE, begins).await.expect("the change runs");
    // Longer work of the same kind on another table gets by.
    conn.query_drop("CREATE TABLE free (a INT)").await.expect("created");
    conn.query_drop("ALTER TABLE free ADD INDEX (a)").await.expect("changed");
    assert!(!change.is_finished());
    let columns: Vec<String> = conn
        .query_map("SHOW COLUMNS FROM t", |row: mysql_async::Row| row.get(0).expect("a name"))
        .await
        .expect("it answers");
    assert_eq!(columns, ["id", "n"]);
    conn.query_drop("XA COMMIT 'before'").await.expect("commits");
    assert_eq!(code(change.await.expect("no panic")), 0);
    let row = conn.query_first("SELECT n, extra FROM t WHERE id = 1").await.expect("it answers");
    assert_eq!(row, Some((1, 3)));
    Ok(())
}

/// What a client knows of its branches.
#[derive(Default)]
struct Told {
    statements: AtomicU32,
    prepared: Mutex<BTreeSet<u32>>,
    committed: Mutex<BTreeSet<u32>>,
}

/// Moves one from a row to the other, branch by branch, until the server is gone.
async fn move_until_cut_off(port: u16, first: u32, told: &Told) -> Result<(), Error> {
    let mut conn = playground::connect(port, "xa").await?;
    for n in first.. {
        for statement in [
            format!("XA START '{n}'"),
            "UPDATE t SET n = n - 1 WHERE id = 1".to_owned(),
            "UPDATE t SET n = n + 1 WHERE id = 1000".to_owned(),
            format!("INSERT INTO done VALUES ({n})"),
            format!("XA END '{n}'"),
            format!("XA PREPARE '{n}'"),
            format!("XA COMMIT '{n}'"),
        ] {
            conn.query_drop(&statement).await?;
            told.statements.fetch_add(1, Ordering::SeqCst);
            if statement.starts_with("XA PREPARE") {
                told.prepared.lock().expect("no panic").insert(n);
            }
        }
        told.committed.lock().expect("no panic").insert(n);
    }
    Ok(())
}

/// The SQL node is killed at any moment: what was answered holds, branches are whole, and nothing
/// stays locked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_killed_at_any_moment_leaves_whole_branches() -> Result<(), HarnessError> {
    const ROUND: u32 = 1_000;
    let mut cluster = cluster(Layout::Processes { stores: 1 }, &[]).await?;
    let mut conn = connect(&cluster).await;
    conn.query_drop("CREATE TABLE done (n INT PRIMARY KEY)").await.expect("created");
    let sql = cluster.nodes.iter().position(|node| node.role == "sql").expect("there is one");
    for (round, statements) in [5_u32, 6, 12, 20].into_iter().enumerate() {
        let told = Arc::new(Told::default());
        let (port, first) = (cluster.port(), round as u32 * ROUND);
        let client = tokio::spawn({
            let told = Arc::clone(&told);
            async move { move_until_cut_off(port, first, &told).await }
        });
        let reached = eventually(PATIENCE, || async {
            (told.statements.load(Ordering::SeqCst) >= statements).then_some(())
        });
        reached.await.expect("it moves on");
        cluster.nodes[sql].kill();
        assert!(client.await.expect("no panic").is_err());
        cluster.restart_node(sql).await?;
        let mut conn = connect(&cluster).await;
        let listed = recovered(&mut conn).await;
        // One that died amid its PREPARE in an earlier round is listed while it is rolled back.
        let is_of_round = |xid: &&String| xid.parse::<u32>().is_ok_and(|n| n >= first);
        assert!(listed.iter().filter(is_of_round).count() <= 1, "{listed:?}");
        for (at, xid) in listed.iter().enumerate() {
            let verb = if (round + at) % 2 == 0 { "COMMIT" } else { "ROLLBACK" };
            let decided = code(conn.query_drop(format!("XA {verb} '{xid}'")).await);
            // Or it was committed already, and that is carried out now.
            assert!([0, 1397, 1399].contains(&decided), "{verb}: {decided}");
        }
        // What was committed is carried out and what was not prepared is rolled back, in time.
        let settled = eventually(SETTLED_WITHIN, || async {
            let mut conn = cluster.connect("xa").await.ok()?;
            conn.query_drop("BEGIN").await.ok()?;
            conn.query_drop("SELECT * FROM t FOR UPDATE NOWAIT").await.ok()?;
            let done: Vec<u32> =
                conn.exec("SELECT n FROM done WHERE n >= ?", (first,)).await.ok()?;
            Some((sum(&mut conn).await, done))
        });
        let (sum, done) = settled.await.expect("nothing stays locked");
        assert_eq!(sum, 0);
        for n in told.committed.lock().expect("no panic").iter() {
            assert!(done.contains(n), "{n} was committed");
        }
        for n in told.prepared.lock().expect("no panic").iter() {
            assert!(done.contains(n) || listed.contains(&n.to_string()), "{n} was prepared");
        }
    }
    Ok(())
}
