//! Reads from replicas that do not lead: of the present, after a question to the leader, and of the
//! past, without anybody else.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use cairn_tests::client::run;
use cairn_tests::node::cairn_binary;
use cairn_tests::{HarnessError, Layout, Playground, eventually, tool};
use mysql_async::Conn;
use mysql_async::prelude::Queryable;

/// What is waited for takes some seconds; a busy machine is slower.
const PATIENCE: Duration = Duration::from_secs(90);
/// A SQL node asks PD of members that it has read from for so long.
const MEMBERS_KNOWN_AFTER: Duration = Duration::from_secs(6);
const WRITES: u64 = 20;

/// A store as its own status port and PD know it.
struct Store {
    id: u64,
    status_addr: String,
}

impl Store {
    /// A counter of its Raft store.
    fn counter(&self, name: &str) -> u64 {
        let mut stream = TcpStream::connect(&self.status_addr).expect("the store serves");
        let request = "GET /metrics HTTP/1.1\r\nHost: store\r\nConnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).expect("it listens");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("it answers");
        let wanted = format!("cairn_raft_{name} ");
        let line = text.lines().find_map(|line| line.strip_prefix(&wanted));
        line.and_then(|value| value.trim().parse().ok()).expect(name)
    }
}

fn ctl(playground: &Playground, args: &[&str]) -> Result<String, HarnessError> {
    let (binary, pd) = (cairn_binary().display().to_string(), playground.pd().unwrap_or_default());
    let all: Vec<&str> = ["ctl", "--json", "--pd", &pd].iter().chain(args).copied().collect();
    tool(&binary, &all, "")
}

/// The stores in the order in which their processes were started.
fn stores(playground: &Playground) -> Result<Vec<Store>, HarnessError> {
    let listed: serde_json::Value =
        serde_json::from_str(&ctl(playground, &["store"])?).expect("JSON");
    let store = |store: &serde_json::Value| Store {
        id: store["id"].as_u64().expect("an id"),
        status_addr: store["status_address"].as_str().expect("an address").to_owned(),
    };
    let mut stores: Vec<Store> = listed.as_array().expect("a list").iter().map(store).collect();
    stores.sort_by_key(|store| store.id);
    Ok(stores)
}

/// Positions of the nodes of stores, in the same order.
fn store_nodes(playground: &Playground) -> Vec<usize> {
    let nodes = playground.nodes.iter().enumerate();
    nodes.filter(|(_, node)| node.role == "kv").map(|(at, _)| at).collect()
}

fn total(stores: &[Store], name: &str) -> u64 {
    stores.iter().map(|store| store.counter(name)).sum()
}

async fn number(conn: &mut Conn, statement: &str) -> u64 {
    conn.query_first(statement).await.expect(statement).expect("a row")
}

/// Three stores with a table of two rows.
async fn started() -> Result<(Playground, Conn, Vec<Store>), HarnessError> {
    let playground = Playground::start(Layout::Processes { stores: 3 }).await?;
    playground.wait_until_replicated(3).await?;
    let mut conn = playground.connect("test").await?;
    run(
        &mut conn,
        &["CREATE TABLE t (id INT PRIMARY KEY, v INT)", "INSERT INTO t VALUES (1, 0), (2, 0)"],
    )
    .await;
    let stores = stores(&playground)?;
    // The SQL node may know the region from when it had one replica.
    run(&mut conn, &["SET tidb_replica_read = 'follower'"]).await;
    let before = total(&stores, "replica_reads");
    let known = tokio::time::timeout(PATIENCE, async {
        while total(&stores, "replica_reads") < before + 3 {
            number(&mut conn, "SELECT COUNT(*) FROM t").await;
        }
    });
    known.await.expect("followers answer");
    run(&mut conn, &["SET tidb_replica_read = 'leader'"]).await;
    Ok((playground, conn, stores))
}

#[tokio::test]
async fn followers_show_what_was_written_before() -> Result<(), HarnessError> {
    let (mut playground, mut writer, stores) = started().await?;
    let mut reader = playground.connect("test").await?;
    for mode in ["follower", "leader-and-follower", "prefer-leader", "closest-adaptive"] {
        run(&mut reader, &[&format!("SET tidb_replica_read = '{mode}'")]).await;
        let before = total(&stores, "replica_reads");
        for _ in 0..WRITES {
            writer.query_drop("UPDATE t SET v = v + 1").await?;
            let expected = number(&mut writer, "SELECT v FROM t WHERE id = 1").await;
            assert_eq!(number(&mut reader, "SELECT v FROM t WHERE id = 1").await, expected);
            assert_eq!(number(&mut reader, "SELECT SUM(v) FROM t").await, 2 * expected);
        }
        let asked = total(&stores, "replica_reads") - before;
        match mode {
            "follower" => assert!(asked >= 2 * WRITES, "{asked}"),
            "leader-and-follower" => assert!(asked > 0),
            // A table of this size is no large answer.
            _ => assert_eq!(asked, 0, "{mode}"),
        }
    }

    // A follower that stood still shows nothing old when it goes on.
    run(&mut reader, &["SET tidb_replica_read = 'follower'"]).await;
    let nodes = store_nodes(&playground);
    let leader = number(
        &mut writer,
        "SELECT STORE_ID FROM information_schema.TIKV_REGION_PEERS p \
        JOIN information_schema.TIKV_REGION_STATUS s ON p.REGION_ID = s.REGION_ID \
        WHERE s.TABLE_NAME = 't' AND p.IS_LEADER = 1 LIMIT 1",
    )
    .await;
    let behind = stores.iter().position(|store| store.id != leader).expect("a follower");
    for _ in 0..3 {
        playground.nodes[nodes[behind]].signal("STOP")?;
        run(&mut writer, &["UPDATE t SET v = v + 1", "UPDATE t SET v = v + 1"]).await;
        playground.nodes[nodes[behind]].signal("CONT")?;
        let expected = number(&mut writer, "SELECT SUM(v) FROM t").await;
        for _ in 0..4 {
            assert_eq!(number(&mut reader, "SELECT SUM(v) FROM t").await, expected);
        }
    }

    // The closest replica is in the zone of the SQL node.
    for store in &stores {
        let (id, label) = (store.id.to_string(), format!("zone=z{}", store.id));
        ctl(&playground, &["store", &id, "label", &label])?;
    }
    let (near, far): (Vec<Store>, Vec<Store>) =
        stores.into_iter().partition(|store| store.id != leader);
    let zone = format!("zone=z{}", near[0].id);
    let port = playground.start_sql_node_with(&["--labels", &zone]).await?;
    let mut reader = cairn_tests::playground::connect(port, "test").await?;
    let others = [&near[1..], &far[..]];
    let before = others.map(|stores| total(stores, "replica_reads"));
    let near_before = near[0].counter("replica_reads");
    run(&mut reader, &["SET tidb_replica_read = 'closest-replicas'"]).await;
    for _ in 0..5 {
        number(&mut reader, "SELECT SUM(v) FROM t").await;
    }
    assert!(near[0].counter("replica_reads") >= near_before + 5);
    assert_eq!(others.map(|stores| total(stores, "replica_reads")), before);
    Ok(())
}

#[tokio::test]
async fn the_past_is_read_when_nobody_leads() -> Result<(), HarnessError> {
    let (playground, mut conn, stores) = started().await?;
    run(
        &mut conn,
        &[
            "UPDATE t SET v = 7",
            "DO SLEEP(0.002)",
            "START TRANSACTION WITH CONSISTENT SNAPSHOT",
            "SET @then = TIDB_PARSE_TSO(@@tidb_current_ts)",
            "COMMIT",
            "UPDATE t SET v = 8",
        ],
    )
    .await;
    let past = "SELECT SUM(v) FROM t AS OF TIMESTAMP @then";
    // All replicas hold that time as soon as reads miss no more, the schema's too.
    let mut calm = 0;
    let held = tokio::time::timeout(PATIENCE, async {
        // Long enough that the SQL node has learnt of the replicas of all regions.
        let begun = tokio::time::Instant::now();
        while calm < 12 || begun.elapsed() < MEMBERS_KNOWN_AFTER {
            let missed = total(&stores, "stale_reads_missed");
            assert_eq!(number(&mut conn, past).await, 14);
            calm = if total(&stores, "stale_reads_missed") == missed { calm + 1 } else { 0 };
        }
    });
    held.await.expect("timestamps are closed");
    let before = stores[0].counter("closed_reads");

    // One store alone can elect nobody.
    let nodes = store_nodes(&playground);
    for at in &nodes[1..] {
        playground.nodes[*at].signal("STOP")?;
    }
    // Where it leads it answers as the leader, as long as its lease lasts.
    let alone = tokio::time::timeout(PATIENCE, async {
        while stores[0].counter("closed_reads") < before + 5 {
            assert_eq!(number(&mut conn, past).await, 14);
        }
    });
    alone.await.expect("it answers by what it holds");
    for at in &nodes[1..] {
        playground.nodes[*at].signal("CONT")?;
    }
    let back = eventually(PATIENCE, || async {
        let mut conn = playground.connect("test").await.ok()?;
        let sum: Option<u64> = conn.query_first("SELECT SUM(v) FROM t").await.ok()?;
        sum.filter(|sum| *sum == 16)
    });
    assert!(back.await.is_some(), "the present comes back");
    Ok(())
}
