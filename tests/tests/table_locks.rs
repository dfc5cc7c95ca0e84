//! Table locks over two SQL nodes: who waits for whom, what ends a wait, and dumps.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cairn_tests::client::{code_of, run};
use cairn_tests::{HarnessError, Layout, Playground, playground, tool};
use futures::future::join_all;
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Error};
use tokio::task::JoinHandle;

/// How long something that should happen may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Two tables of two rows.
async fn fresh_tables(ports: [u16; 2]) {
    let mut conn = playground::connect(ports[0], "").await.expect("the node serves");
    run(
        &mut conn,
        &[
            "CREATE DATABASE IF NOT EXISTS d",
            "DROP TABLE IF EXISTS d.t, d.u, d.c",
            "CREATE TABLE d.t (id INT PRIMARY KEY, n INT)",
            "CREATE TABLE d.u (id INT PRIMARY KEY, n INT)",
            "INSERT INTO d.t VALUES (1, 0), (2, 0)",
            "INSERT INTO d.u VALUES (1, 0), (2, 0)",
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn locks_of_tables_hold_over_two_nodes() -> Result<(), HarnessError> {
    let mut cluster = Playground::start(Layout::Processes { stores: 1 }).await?;
    let ports = [cluster.port(), cluster.start_sql_node().await?];
    writers_of_other_nodes_wait_for_a_read_lock(ports).await?;
    a_lock_waits_for_transactions_that_used_the_table(ports).await?;
    a_transaction_in_the_way_of_a_lock_gives_way(ports).await?;
    the_global_read_lock_closes_writing_everywhere(ports).await?;
    a_backup_lock_keeps_definitions(ports).await?;
    what_is_locked_stands_still(ports).await?;
    a_write_lock_ends_with_its_session_and_with_its_node(cluster, ports).await
}

async fn connect(port: u16) -> Conn {
    playground::connect(port, "d").await.expect("the node serves")
}

/// Until a node knows that a table is locked, or that somebody waits for that.
async fn is_known(port: u16, table: &str) {
    let mut look = connect(port).await;
    let shown = format!("SHOW OPEN TABLES WHERE `Table` = '{table}'");
    let known = async {
        while look.query_first::<mysql_async::Row, _>(&shown).await.expect("it answers").is_none() {
        }
    };
    tokio::time::timeout(PATIENCE, known).await.expect("the node hears of it");
}

/// A statement under way on a connection of its own.
struct Running {
    port: u16,
    id: u32,
    task: JoinHandle<(Conn, u16)>,
}

impl Running {
    fn start(port: u16, mut conn: Conn, statement: &'static str) -> Running {
        let id = conn.id();
        let task = tokio::spawn(async move {
            let code = code_of(&mut conn, statement).await;
            (conn, code)
        });
        Running { port, id, task }
    }

    /// Starts a statement, and sees it wait for a table lock.
    async fn waits(port: u16, conn: Conn, statement: &'static str) -> Running {
        let running = Running::start(port, conn, statement);
        let mut look = connect(port).await;
        let waits = "SELECT COUNT(*) FROM information_schema.processlist \
                     WHERE id = ? AND state LIKE 'Waiting for % lock'";
        let seen = async {
            while look.exec_first(waits, (running.id,)).await.expect("a system table") != Some(1u8)
            {
            }
        };
        tokio::time::timeout(PATIENCE, seen).await.unwrap_or_else(|_| panic!("{statement} waits"));
        assert!(!running.task.is_finished());
        running
    }

    /// The connection, and how the statement ended.
    async fn end(self) -> (Conn, u16) {
        let ended = tokio::time::timeout(PATIENCE, self.task).await;
        ended.expect("it ends").expect("no panic")
    }
}

async fn writers_of_other_nodes_wait_for_a_read_lock(ports: [u16; 2]) -> Result<(), HarnessError> {
    fresh_tables(ports).await;
    let mut owner = connect(ports[0]).await;
    run(&mut owner, &["LOCK TABLES t READ"]).await;
    let mut other = connect(ports[1]).await;
    run(&mut other, &["SELECT * FROM t", "UPDATE u SET n = 1", "SET lock_wait_timeout = 1"]).await;
    assert_eq!(code_of(&mut other, "UPDATE t SET n = 1").await, 1205);
    assert_eq!(code_of(&mut owner, "UPDATE t SET n = 1").await, 1099);
    run(&mut other, &["SET lock_wait_timeout = 60", "SET SESSION max_execution_time = 0"]).await;
    let update = Running::waits(ports[1], other, "UPDATE t SET n = n + 1").await;
    let ddl = connect(ports[1]).await;
    let ddl = Running::waits(ports[1], ddl, "ALTER TABLE t ADD COLUMN extra INT").await;
    // A client that waits can be sent away.
    let killed = connect(ports[1]).await;
    let killed = Running::waits(ports[1], killed, "DELETE FROM t").await;
    let kill = format!("KILL QUERY {}", killed.id);
    run(&mut connect(killed.port).await, &[&kill]).await;
    assert_eq!(killed.end().await.1, 1317);
    let sum: Option<i64> = owner.query_first("SELECT SUM(n) FROM t").await.expect("it has it");
    assert_eq!(sum, Some(0));
    run(&mut owner, &["UNLOCK TABLES"]).await;
    assert_eq!((update.end().await.1, ddl.end().await.1), (0, 0));
    let sum: Option<i64> = owner.query_first("SELECT SUM(n) FROM t").await.expect("readable");
    assert_eq!(sum, Some(2));
    Ok(())
}

async fn a_write_lock_ends_with_its_session_and_with_its_node(
    mut cluster: Playground,
    ports: [u16; 2],
) -> Result<(), HarnessError> {
    fresh_tables(ports).await;
    let mut owner = connect(ports[0]).await;
    run(&mut owner, &["LOCK TABLES t WRITE"]).await;
    let other = connect(ports[1]).await;
    let read = Running::waits(ports[1], other, "SELECT * FROM t").await;
    run(&mut owner, &["UPDATE t SET n = 5"]).await;
    drop(owner);
    let (mut owner, ended) = read.end().await;
    assert_eq!(ended, 0);
    // The next owner is on the second node, which is killed.
    run(&mut owner, &["LOCK TABLES t WRITE, u READ"]).await;
    let read = connect(ports[0]).await;
    let read = Running::waits(ports[0], read, "SELECT * FROM t").await;
    let locking = connect(ports[0]).await;
    let locking = Running::waits(ports[0], locking, "LOCK TABLES u WRITE").await;
    cluster.kill_second_sql_node();
    let (mut conn, ended) = read.end().await;
    assert_eq!(ended, 0);
    let n: Option<i64> = conn.query_first("SELECT n FROM t WHERE id = 1").await.expect("readable");
    assert_eq!(n, Some(5));
    assert_eq!(locking.end().await.1, 0);
    Ok(())
}

async fn a_lock_waits_for_transactions_that_used_the_table(
    ports: [u16; 2],
) -> Result<(), HarnessError> {
    fresh_tables(ports).await;
    let mut writer = connect(ports[1]).await;
    run(&mut writer, &["BEGIN", "UPDATE t SET n = 1 WHERE id = 1"]).await;
    let mut reader = connect(ports[1]).await;
    run(&mut reader, &["BEGIN", "SELECT * FROM t"]).await;
    // Who has used other tables is not waited for.
    let mut idle = connect(ports[1]).await;
    run(&mut idle, &["BEGIN", "UPDATE u SET n = 1 WHERE id = 2"]).await;
    let lock = connect(ports[0]).await;
    let lock = Running::waits(ports[0], lock, "LOCK TABLES t READ").await;
    // Nobody gets ahead of it any more, except who is there already.
    is_known(ports[0], "t").await;
    let newcomer = connect(ports[0]).await;
    let newcomer = Running::waits(ports[0], newcomer, "UPDATE t SET n = n + 10 WHERE id = 1").await;
    run(&mut writer, &["UPDATE t SET n = n + 1 WHERE id = 1", "COMMIT"]).await;
    let (mut owner, ended) = lock.end().await;
    assert_eq!(ended, 0);
    let n: Option<i64> = owner.query_first("SELECT n FROM t WHERE id = 1").await.expect("its own");
    assert_eq!(n, Some(2));
    run(&mut reader, &["COMMIT"]).await;
    run(&mut owner, &["UNLOCK TABLES"]).await;
    assert_eq!(newcomer.end().await.1, 0);
    run(&mut idle, &["COMMIT"]).await;
    Ok(())
}

async fn a_transaction_in_the_way_of_a_lock_gives_way(ports: [u16; 2]) -> Result<(), HarnessError> {
    fresh_tables(ports).await;
    let mut reader = connect(ports[1]).await;
    run(&mut reader, &["BEGIN", "SELECT * FROM t"]).await;
    let lock = connect(ports[0]).await;
    let lock = Running::waits(ports[0], lock, "LOCK TABLES t WRITE, u WRITE").await;
    // The lock waits for the reader, which would wait for the lock.
    is_known(ports[1], "u").await;
    assert_eq!(code_of(&mut reader, "SELECT * FROM u").await, 1213);
    let (mut owner, ended) = lock.end().await;
    assert_eq!(ended, 0);
    run(&mut owner, &["UPDATE u SET n = 7", "UNLOCK TABLES"]).await;
    run(&mut reader, &["SELECT * FROM u"]).await;
    Ok(())
}

async fn the_global_read_lock_closes_writing_everywhere(
    ports: [u16; 2],
) -> Result<(), HarnessError> {
    fresh_tables(ports).await;
    let mut open = connect(ports[1]).await;
    run(&mut open, &["BEGIN", "UPDATE t SET n = 1 WHERE id = 1"]).await;
    let mut blocked = connect(ports[1]).await;
    run(&mut blocked, &["BEGIN", "SELECT * FROM t"]).await;
    // It waits for this row, and not the lock for it.
    let blocked = Running::start(ports[1], blocked, "UPDATE t SET n = n + 1 WHERE id = 1");
    let mut owner = connect(ports[0]).await;
    run(&mut owner, &["FLUSH TABLES WITH READ LOCK"]).await;
    for statement in ["UPDATE t SET n = 1", "CREATE TABLE c (id INT)", "LOCK TABLES t WRITE"] {
        assert_eq!(code_of(&mut owner, statement).await, 1223, "{statement}");
    }
    let mut reader = connect(ports[1]).await;
    run(&mut reader, &["SELECT * FROM t", "LOCK TABLES u READ", "UNLOCK TABLES"]).await;
    let commit = Running::waits(ports[1], open, "COMMIT").await;
    let insert = connect(ports[1]).await;
    let insert = Running::waits(ports[1], insert, "INSERT INTO t VALUES (3, 0)").await;
    let ddl = connect(ports[1]).await;
    let ddl = Running::waits(ports[1], ddl, "CREATE TABLE c (id INT)").await;
    let lock = connect(ports[1]).await;
    let lock = Running::waits(ports[1], lock, "LOCK TABLES u WRITE").await;
    run(&mut owner, &["START TRANSACTION WITH CONSISTENT SNAPSHOT"]).await;
    let seen: Option<i64> = owner.query_first("SELECT SUM(n) FROM t").await.expect("readable");
    assert_eq!(seen, Some(0));
    run(&mut owner, &["UNLOCK TABLES"]).await;
    assert_eq!((commit.end().await.1, insert.end().await.1, lock.end().await.1), (0, 0, 0));
    let (mut blocked, ended) = blocked.end().await;
    assert_eq!(ended, 0);
    let seen: Option<i64> = owner.query_first("SELECT SUM(n) FROM t").await.expect("readable");
    assert_eq!(seen, Some(0), "its snapshot is older");
    // Schema changes wait for older transactions.
    run(&mut blocked, &["COMMIT"]).await;
    run(&mut owner, &["COMMIT"]).await;
    assert_eq!(ddl.end().await.1, 0);
    Ok(())
}

async fn a_backup_lock_keeps_definitions(ports: [u16; 2]) -> Result<(), HarnessError> {
    fresh_tables(ports).await;
    let mut owner = connect(ports[0]).await;
    run(&mut owner, &["LOCK INSTANCE FOR BACKUP"]).await;
    let mut other = connect(ports[1]).await;
    run(&mut other, &["INSERT INTO t VALUES (3, 3)", "LOCK TABLES t WRITE", "UNLOCK TABLES"]).await;
    let ddl = Running::waits(ports[1], other, "CREATE TABLE c (id INT)").await;
    let user = connect(ports[1]).await;
    let user = Running::waits(ports[1], user, "CREATE USER ada").await;
    run(&mut owner, &["UNLOCK TABLES", "UNLOCK INSTANCE"]).await;
    assert_eq!((ddl.end().await.1, user.end().await.1), (0, 0));
    Ok(())
}

/// Moves between the tables until told to stop; the sum stays. Answers how often it did.
async fn transfer(port: u16, stop: Arc<AtomicBool>) -> Result<u64, Error> {
    let mut conn = playground::connect(port, "d").await?;
    let mut moved = 0;
    while !stop.load(Ordering::Relaxed) {
        conn.query_drop("BEGIN").await?;
        conn.query_drop("UPDATE t SET n = n - 1 WHERE id = 1").await?;
        match conn.query_drop("UPDATE u SET n = n + 1 WHERE id = 1").await {
            // A lock of both tables waits for it.
            Err(Error::Server(error)) if error.code == 1213 => continue,
            outcome => outcome?,
        }
        conn.query_drop("COMMIT").await?;
        moved += 1;
    }
    Ok(moved)
}

/// What a session with a lock reads in several statements is of one moment.
async fn what_is_locked_stands_still(ports: [u16; 2]) -> Result<(), HarnessError> {
    fresh_tables(ports).await;
    let stop = Arc::new(AtomicBool::new(false));
    let writers = ports.map(|port| tokio::spawn(transfer(port, Arc::clone(&stop))));
    let mut conn = connect(ports[0]).await;
    for lock in ["LOCK TABLES t READ, u READ", "FLUSH TABLES WITH READ LOCK"].repeat(5) {
        run(&mut conn, &[lock]).await;
        let mut sums = Vec::new();
        for _ in 0..3 {
            for table in ["t", "u"] {
                let sum = conn.query_first(format!("SELECT SUM(n) FROM {table}")).await;
                sums.push(sum.expect("readable").unwrap_or(0_i64));
            }
        }
        assert_eq!(sums[0], -sums[1], "{lock}");
        assert_eq!((&sums[..2], &sums[..2]), (&sums[2..4], &sums[4..]), "{lock}");
        run(&mut conn, &["UNLOCK TABLES"]).await;
    }
    stop.store(true, Ordering::Relaxed);
    for writer in join_all(writers).await {
        let moved = writer.expect("no panic");
        assert!(moved.expect("no error") > 0);
    }
    Ok(())
}

/// Dump tools lock, note a position, and read; what they wrote is loaded under a lock.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dump_tools_get_their_locks() -> Result<(), HarnessError> {
    let cluster = Playground::start(Layout::OneProcess).await?;
    let port = cluster.port().to_string();
    let mut conn = cluster.connect("").await?;
    run(
        &mut conn,
        &[
            "CREATE DATABASE d",
            "CREATE TABLE d.t (id INT PRIMARY KEY, n INT, KEY (n))",
            "CREATE TABLE d.u (id INT PRIMARY KEY, what VARCHAR(20))",
            "INSERT INTO d.t VALUES (1, 10), (2, 20)",
            "INSERT INTO d.u VALUES (1, 'one'), (2, 'it''s')",
        ],
    )
    .await;
    let client = |program: &str, args: &[&str], input: &str| {
        let server = ["--no-defaults", "-h127.0.0.1", "-P", &port, "-uroot"];
        tool(program, &[&server[..], args].concat(), input)
    };
    let installed = ["mysqldump", "mariadb-dump"];
    let Some(dump) =
        installed.into_iter().find(|program| tool(program, &["--version"], "").is_ok())
    else {
        println!("no dump tool is installed");
        return Ok(());
    };
    for options in [
        &["--all-databases", "--lock-all-tables", "--master-data=2"][..],
        &["--all-databases", "--master-data=2"],
        &["--all-databases", "--lock-tables"],
        &["--all-databases", "--single-transaction", "--master-data=2"],
        &["--databases", "d", "--single-transaction", "--flush-logs", "--master-data=2"],
        &["--databases", "d"],
    ] {
        let text = client(dump, options, "")?;
        assert!(text.contains("LOCK TABLES `t` WRITE"), "{options:?}: {text}");
        let has_position = text.contains("MASTER_LOG_FILE='tidb-binlog', MASTER_LOG_POS=");
        assert_eq!(has_position, options.contains(&"--master-data=2"), "{options:?}: {text}");
    }
    let text = client(dump, &["--databases", "d"], "")?;
    run(&mut conn, &["DELETE FROM d.t", "DROP TABLE d.u"]).await;
    let loader = if tool("mysql", &["--version"], "").is_ok() { "mysql" } else { "mariadb" };
    client(loader, &[], &text)?;
    let rows: Vec<(i32, i32)> = conn.query("SELECT * FROM d.t ORDER BY id").await.expect("rows");
    assert_eq!(rows, [(1, 10), (2, 20)]);
    let whats: Vec<String> = conn.query("SELECT what FROM d.u ORDER BY id").await.expect("rows");
    assert_eq!(whats, ["one", "it's"]);
    Ok(())
}
