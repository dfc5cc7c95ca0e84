//! What people see of transactions, of waits for locks and of deadlocks, over two SQL nodes.

use std::sync::Arc;
use std::time::Duration;

use cairn_tests::client::code;
use cairn_tests::{HarnessError, Layout, Playground, eventually, playground};
use futures::future::join_all;
use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use tokio::sync::Barrier;

/// How long something that should happen may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// A cluster with two SQL nodes and a table, and a connection to each node.
async fn cluster() -> Result<(Playground, [u16; 2]), HarnessError> {
    let mut cluster = Playground::start(Layout::Processes { stores: 1 }).await?;
    let second = cluster.start_sql_node().await?;
    let ports = [cluster.port(), second];
    let mut conn = connect(ports[0]).await;
    for statement in [
        "CREATE DATABASE views",
        "CREATE TABLE views.t (id INT PRIMARY KEY, code VARCHAR(10) UNIQUE, n INT)",
        "INSERT INTO views.t VALUES (1, 'one', 0), (2, 'two', 0), (3, 'three', 0)",
    ] {
        conn.query_drop(statement).await.expect(statement);
    }
    Ok((cluster, ports))
}

async fn connect(port: u16) -> Conn {
    playground::connect(port, "").await.expect("the node serves")
}

/// Locks a row, and another one after everybody has locked theirs.
async fn lock_both(port: u16, own: u32, other: u32, meeting: Arc<Barrier>) -> u16 {
    let mut conn = connect(port).await;
    let update = |id| format!("UPDATE views.t SET n = n + 1 WHERE id = {id}");
    conn.query_drop("BEGIN").await.expect("begins");
    conn.query_drop(update(own)).await.expect("free");
    meeting.wait().await;
    let outcome = conn.query_drop(update(other)).await;
    if outcome.is_err() {
        return code(outcome);
    }
    code(conn.query_drop("COMMIT").await)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_circle_over_two_nodes_is_shown_whole() -> Result<(), HarnessError> {
    let (_cluster, ports) = cluster().await?;
    let meeting = Arc::new(Barrier::new(3));
    let mut codes = join_all([
        lock_both(ports[0], 1, 2, Arc::clone(&meeting)),
        lock_both(ports[1], 2, 3, Arc::clone(&meeting)),
        lock_both(ports[0], 3, 1, meeting),
    ])
    .await;
    codes.sort_unstable();
    assert_eq!(codes, [0, 0, 1213]);
    for port in ports {
        let mut conn = connect(port).await;
        let waits: Vec<(u64, u64, String, String, String)> = conn
            .query(
                "SELECT TRY_LOCK_TRX_ID, TRX_HOLDING_LOCK, CURRENT_SQL_DIGEST, \
                 CURRENT_SQL_DIGEST_TEXT, KEY_INFO FROM information_schema.cluster_deadlocks",
            )
            .await
            .expect("a system table");
        assert_eq!(waits.len(), 3, "{waits:?}");
        let mut handles = Vec::new();
        for (waiter, _, digest, text, key_info) in &waits {
            assert!(waits.iter().any(|(_, holder, ..)| holder == waiter), "a circle: {waits:?}");
            assert_eq!(digest.len(), 64);
            assert_eq!(text, "update `views` . `t` set `n` = `n` + ? where `id` = ?");
            let key: serde_json::Value = serde_json::from_str(key_info).expect("JSON");
            assert_eq!(key["db_name"], "views");
            assert_eq!(key["table_name"], "t");
            handles.push(key["handle_value"].as_str().unwrap_or_default().to_owned());
        }
        handles.sort_unstable();
        assert_eq!(handles, ["1", "2", "3"]);
    }
    // Each node knows its own victims.
    let mut known = Vec::new();
    for port in ports {
        let count = "SELECT COUNT(*) FROM information_schema.deadlocks";
        known.push(connect(port).await.query_first::<u64, _>(count).await.expect("a table"));
    }
    known.sort_unstable();
    assert_eq!(known, [Some(0), Some(3)]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blocked_session_is_shown_with_its_blocker() -> Result<(), HarnessError> {
    let (_cluster, ports) = cluster().await?;
    let mut holder = connect(ports[0]).await;
    holder.query_drop("USE views").await.expect("it is there");
    holder.query_drop("BEGIN").await.expect("begins");
    holder.query_drop("INSERT INTO t VALUES (7, 'seven', 0)").await.expect("free");
    let mut waiter = connect(ports[1]).await;
    let waiter_id = waiter.id();
    let waiting = tokio::spawn(async move {
        waiter.query_drop("BEGIN").await?;
        waiter.query_drop("INSERT INTO views.t VALUES (8, 'seven', 5)").await
    });
    let mut conn = connect(ports[0]).await;
    let look = "SELECT h.SESSION_ID, h.STATE, h.DB, w.SESSION_ID, w.STATE, l.SQL_DIGEST_TEXT, \
                l.KEY_INFO, w.WAITING_TIME IS NOT NULL, h.INSTANCE <> w.INSTANCE \
                FROM information_schema.data_lock_waits l \
                JOIN information_schema.cluster_tidb_trx h ON h.ID = l.CURRENT_HOLDING_TRX_ID \
                JOIN information_schema.cluster_tidb_trx w ON w.ID = l.TRX_ID \
                WHERE w.STATE = 'LockWaiting'";
    type Seen = (u32, String, String, u32, String, String, String, bool, bool);
    let mut seen: Option<Seen> = None;
    tokio::time::timeout(PATIENCE, async {
        while seen.is_none() {
            seen = conn.query_first(look).await.expect("system tables");
        }
    })
    .await
    .expect("the wait is shown");
    let (holder_id, idle, db, blocked_id, waits, text, key_info, has_waited, apart) =
        seen.expect("a row");
    assert_eq!((holder_id, blocked_id), (holder.id(), waiter_id));
    assert_eq!((idle.as_str(), db.as_str(), waits.as_str()), ("Idle", "views", "LockWaiting"));
    assert_eq!(text, "insert into `views` . `t` values ( ... )");
    assert!(has_waited && apart);
    let key: serde_json::Value = serde_json::from_str(&key_info).expect("JSON");
    assert_eq!((&key["table_name"], &key["index_name"]), (&"t".into(), &"code".into()));
    assert_eq!(key["index_values"].as_array().map(Vec::len), Some(1));

    // The holder's own row says what it did.
    let own = "SELECT MEM_BUFFER_KEYS, JSON_LENGTH(ALL_SQL_DIGESTS), JSON_LENGTH(RELATED_TABLE_IDS), \
               CURRENT_SQL_DIGEST IS NULL FROM information_schema.tidb_trx WHERE SESSION_ID = ?";
    let row: Option<(u64, u64, u64, bool)> =
        conn.exec_first(own, (holder.id(),)).await.expect("a system table");
    // A row and an entry of its unique index.
    assert_eq!(row, Some((2, 1, 1, true)));
    holder.query_drop("COMMIT").await.expect("commits");
    assert_eq!(code(waiting.await.expect("no panic")), 1062);
    let gone = eventually(PATIENCE, || async {
        let mut conn = playground::connect(ports[0], "").await.ok()?;
        let left: Option<u64> = conn
            .query_first("SELECT COUNT(*) FROM information_schema.data_lock_waits")
            .await
            .ok()?;
        (left == Some(0)).then_some(())
    });
    assert!(gone.await.is_some());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_gone_is_left_out() -> Result<(), HarnessError> {
    let (mut cluster, ports) = cluster().await?;
    let mut conn = connect(ports[0]).await;
    let nodes = "SELECT COUNT(DISTINCT INSTANCE) FROM information_schema.cluster_tidb_trx";
    let mut other = connect(ports[1]).await;
    for conn in [&mut conn, &mut other] {
        conn.query_drop("BEGIN").await.expect("begins");
        conn.query_drop("SELECT * FROM views.t").await.expect("reads");
    }
    assert_eq!(conn.query_first::<u64, _>(nodes).await.expect("a table"), Some(2));
    cluster.kill_second_sql_node();
    assert_eq!(conn.query_first::<u64, _>(nodes).await.expect("a table"), Some(1));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_several_is_shown_with_each() -> Result<(), HarnessError> {
    let (_cluster, ports) = cluster().await?;
    let mut sharers = Vec::new();
    for port in ports {
        let mut conn = connect(port).await;
        conn.query_drop("BEGIN").await.expect("begins");
        conn.query_drop("SELECT * FROM views.t WHERE id = 1 FOR SHARE").await.expect("shared");
        sharers.push(conn);
    }
    let mut waiter = connect(ports[0]).await;
    let waiting = tokio::spawn(async move {
        waiter.query_drop("BEGIN").await?;
        waiter.query_drop("UPDATE views.t SET n = 5 WHERE id = 1").await?;
        waiter.query_drop("COMMIT").await
    });
    let mut conn = connect(ports[1]).await;
    let look = "SELECT h.SESSION_ID, h.INSTANCE FROM information_schema.data_lock_waits l \
                JOIN information_schema.cluster_tidb_trx h ON h.ID = l.CURRENT_HOLDING_TRX_ID";
    let shown = eventually(PATIENCE, || async {
        let mut conn = connect(ports[0]).await;
        let holders: Vec<(u32, String)> = conn.query(look).await.expect("system tables");
        (holders.len() == 2).then_some(holders)
    });
    let holders = shown.await.expect("both are shown");
    for sharer in &sharers {
        assert!(holders.iter().any(|(id, _)| *id == sharer.id()), "{holders:?}");
    }
    assert_ne!(holders[0].1, holders[1].1);
    // Both of them want to write: a circle, beside the one who waits for both.
    let [mut first, mut second] = <[Conn; 2]>::try_from(sharers).expect("two");
    let writing = tokio::spawn(async move {
        first.query_drop("UPDATE views.t SET n = 6 WHERE id = 1").await?;
        first.query_drop("COMMIT").await
    });
    let three = "SELECT COUNT(*) FROM information_schema.data_lock_waits";
    let all_wait =
        async { while conn.query_first(three).await.expect("a system table") != Some(3u64) {} };
    tokio::time::timeout(PATIENCE, all_wait).await.expect("they wait");
    assert_eq!(code(second.query_drop("UPDATE views.t SET n = 7 WHERE id = 1").await), 1213);
    let circle = "SELECT COUNT(*), COUNT(DISTINCT KEY_INFO) FROM information_schema.deadlocks";
    assert_eq!(conn.query_first(circle).await.expect("a table"), Some((2u64, 1u64)));
    assert_eq!(code(writing.await.expect("no panic")), 0);
    assert_eq!(code(waiting.await.expect("no panic")), 0);
    let n = "SELECT n FROM views.t WHERE id = 1";
    assert_eq!(conn.query_first(n).await.expect("reads"), Some(5u64));
    Ok(())
}
