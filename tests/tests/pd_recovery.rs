//! All members of the placement driver lose their data (processes, SIGKILL): fresh ones take the
//! cluster over from its stores, and nothing is lost. One store is restarted meanwhile and waits.

use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use cairn_tests::node::cairn_binary;
use cairn_tests::{HarnessError, Layout, Playground, eventually};
use mysql_async::prelude::{FromRow, Queryable};
use serde_json::Value;

/// How long each step may take.
const DEADLINE: Duration = Duration::from_secs(60);
const STORES: usize = 3;
const MEMBERS: usize = 3;

/// Runs `cairn ctl --json`; the rows, or the error's text.
fn ctl(pd: &str, args: &[&str]) -> Result<Vec<Value>, String> {
    let output = Command::new(cairn_binary())
        .args(["ctl", "--json", "--pd", pd])
        .args(args)
        .output()
        .expect("the binary runs");
    match output.status.success() {
        true => Ok(serde_json::from_slice(&output.stdout).expect("a list of rows")),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

/// The arguments with another value behind a flag.
fn with_value(args: &[String], flag: &str, value: &str) -> Vec<String> {
    let mut args = args.to_vec();
    let at = args.iter().position(|arg| arg == flag).expect("the flag is given");
    value.clone_into(&mut args[at + 1]);
    args
}

/// The first row of the answer, as soon as the statement is not refused; it may run twice.
async fn first<T: FromRow + Send + 'static>(playground: &Playground, statement: &str) -> Option<T> {
    let answer = eventually(DEADLINE, || async {
        let mut conn = playground.connect("test").await.ok()?;
        conn.query_first(statement).await.ok()
    });
    answer.await.unwrap_or_else(|| panic!("{statement} is refused\n{}", playground.log()))
}

/// Number of rows and their sum.
async fn rows(playground: &Playground, table: &str) -> (u64, u64) {
    let query = format!("SELECT COUNT(*), CAST(SUM(v) AS UNSIGNED) FROM {table}");
    first(playground, &query).await.expect("a row")
}

fn timestamp(pd: &str) -> u64 {
    ctl(pd, &["tso"]).expect("serves")[0]["timestamp"].as_u64().expect("a number")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_outlives_all_of_its_placement_driver() -> Result<(), HarnessError> {
    let layout = Layout::Cluster { stores: STORES, pd_members: MEMBERS };
    let mut playground = Playground::start(layout).await?;
    playground.wait_until_replicated(STORES).await?;
    let pd = playground.pd().expect("the ready line names the members");
    let mut conn = playground.connect("test").await?;
    conn.query_drop("CREATE TABLE kept (id BIGINT PRIMARY KEY, v BIGINT, KEY (v))").await?;
    conn.query_drop("SPLIT TABLE kept BETWEEN (0) AND (1000000) REGIONS 4").await?;
    for id in 0..100 {
        conn.query_drop(format!("INSERT INTO kept VALUES ({}, {id})", id * 10_000)).await?;
    }
    let stores = ctl(&pd, &["store"]).expect("shown");
    let address = |store: &Value| store["address"].as_str().expect("a text").to_owned();
    let addresses: Vec<String> = stores.iter().map(address).collect();
    let regions = ctl(&pd, &["region"]).expect("shown").len();
    let last_ts = timestamp(&pd);
    // A living cluster is not taken over, not even by itself.
    let all = addresses.join(",");
    let refused = ctl(&pd, &["recover", "meta", "--stores", &all]).expect_err("it lives");
    assert!(refused.contains("serves cluster"), "{refused}");

    // A store dies, and every member with its data.
    let mut store = playground.nodes.remove(MEMBERS);
    assert_eq!(store.role, "kv");
    store.kill();
    for member in &mut playground.nodes[..MEMBERS] {
        assert_eq!(member.role, "pd");
        member.kill();
    }
    let is_down = |address: &&String| TcpStream::connect(address.as_str()).is_err();
    let down = eventually(DEADLINE, || async { addresses.iter().find(is_down).cloned() });
    let down = down.await.expect("the killed one");
    for at in 0..MEMBERS {
        let dir = playground.path(&format!("fresh-pd-{at}"));
        let log = playground.path(&format!("fresh-pd-log-{at}"));
        let args = with_value(&playground.nodes[at].args, "--data-dir", &dir.to_string_lossy());
        playground.nodes[at].restart_with(args, &log).await?;
    }

    // What would lose something is refused, and changes nothing.
    let living: Vec<String> = addresses.iter().filter(|one| **one != down).cloned().collect();
    for (named, reason) in [
        ("".to_owned(), "name all stores"),
        (all.clone(), "do not answer"),
        (living.join(","), "not among the named stores"),
    ] {
        let refused = ctl(&pd, &["recover", "meta", "--stores", &named]).expect_err("incomplete");
        assert!(refused.contains(reason), "{named}: {refused}");
    }
    assert_eq!(ctl(&pd, &["store"]).expect("shown"), Vec::<Value>::new());

    // The store comes back and finds no cluster; the order brings all of it together.
    let log = playground.path("waiting-store");
    let args = with_value(&store.args, "--addr", &down);
    let recovered = async {
        let answer = eventually(DEADLINE, || async {
            match ctl(&pd, &["recover", "meta", "--stores", &all]) {
                Ok(rows) => Some(rows),
                Err(refused) => {
                    // A new leader of the placement driver waits anew.
                    let passes = ["do not answer", "must run out first"];
                    assert!(passes.iter().any(|one| refused.contains(one)), "{refused}");
                    None
                }
            }
        });
        answer.await.expect("the store waits, and answers")
    };
    let (restarted, told) = tokio::join!(store.restart_with(args, &log), recovered);
    restarted?;
    playground.nodes.push(store);
    assert_eq!(told.len(), STORES);
    for row in &told {
        assert!(row["regions"].as_u64() > Some(0) && row["max_ts"].as_u64() > Some(0), "{row}");
    }

    // Timestamps go on above all others, data and schema are whole, and new ids are new.
    assert!(timestamp(&pd) > last_ts);
    assert_eq!(rows(&playground, "kept").await, (100, 4950));
    // The SQL node must tell the new driver which schema it uses before it writes.
    first::<u64>(&playground, "REPLACE INTO kept VALUES (1000000, 50)").await;
    // The client of before is connected still.
    conn.query_drop("CREATE TABLE fresh (id BIGINT PRIMARY KEY, v BIGINT)").await?;
    conn.query_drop("INSERT INTO fresh SELECT id, 1 FROM kept").await?;
    assert_eq!(rows(&playground, "kept").await, (101, 5000));
    assert_eq!(rows(&playground, "fresh").await, (101, 101));
    // The map is whole, and the stores are those of before.
    let known = eventually(DEADLINE, || async {
        let known = ctl(&pd, &["region"]).ok()?;
        let is_led = |region: &Value| region["leader_store"].is_u64();
        (known.len() >= regions && known.iter().all(is_led)).then_some(())
    });
    assert!(known.await.is_some(), "{:#?}", ctl(&pd, &["region"]));
    let after = ctl(&pd, &["store"]).expect("shown");
    let ids = |stores: &[Value]| stores.iter().map(|one| one["id"].clone()).collect::<Vec<_>>();
    assert_eq!(ids(&after), ids(&stores));
    assert!(after.iter().all(|store| store["state"] == "UP"), "{after:?}");
    let again = ctl(&pd, &["recover", "meta", "--stores", &all]).expect_err("it lives again");
    assert!(again.contains("serves cluster"), "{again}");
    Ok(())
}
