//! Two of three stores are destroyed: one order, and the cluster serves what the third has.
//! New stores join and everything gets its replicas again; whoever was given up stays out.

use std::process::Command;
use std::time::Duration;

use cairn_tests::node::{Served, cairn_binary};
use cairn_tests::{HarnessError, Layout, Playground, eventually};
use mysql_async::prelude::Queryable;
use serde_json::Value;

/// From the order to the first answer; the promise is five minutes.
const RECOVERY_DEADLINE: Duration = Duration::from_secs(120);
/// How long everything else may take.
const DEADLINE: Duration = Duration::from_secs(60);
/// Rows of the table, over several regions.
const ROWS: u64 = 200;

/// Runs `cairn ctl --json` with the words of `args`; the rows, or the error's text.
fn ctl(pd: &str, args: &str) -> Result<Vec<Value>, String> {
    let output = Command::new(cairn_binary())
        .args(["ctl", "--json", "--pd", pd])
        .args(args.split_whitespace())
        .output()
        .expect("the binary runs");
    match output.status.success() {
        true => Ok(serde_json::from_slice(&output.stdout).expect("a list of rows")),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

/// Ids of stores in a state.
fn stores_in(pd: &str, state: &str) -> Vec<u64> {
    let rows = ctl(pd, "store").unwrap_or_default();
    let in_state = rows.iter().filter(|row| row["state"] == state);
    in_state.filter_map(|row| row["id"].as_u64()).collect()
}

/// A row, far from its neighbours, so that every region has some.
fn row(number: u64) -> String {
    let id = number * 1_000;
    format!("({id}, {})", id * 2)
}

async fn count(playground: &Playground) -> Result<Option<u64>, HarnessError> {
    let mut conn = playground.connect("test").await?;
    Ok(conn.query_first("SELECT COUNT(*) FROM t WHERE v = id * 2").await?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_of_three_stores_are_destroyed() -> Result<(), HarnessError> {
    let mut playground = Playground::start(Layout::Processes { stores: 3 }).await?;
    playground.wait_until_replicated(3).await?;
    let pd = playground.pd().expect("it runs");
    let mut conn = playground.connect("test").await?;
    conn.query_drop("CREATE TABLE t (id BIGINT PRIMARY KEY, v BIGINT)").await?;
    conn.query_drop("SPLIT TABLE t BETWEEN (0) AND (200000) REGIONS 4").await?;
    let values: Vec<String> = (0..ROWS).map(row).collect();
    conn.query_drop(format!("INSERT INTO t VALUES {}", values.join(", "))).await?;
    drop(conn);
    playground.wait_until_replicated(3).await?;

    let stores = stores_in(&pd, "UP");
    assert_eq!(stores.len(), 3);
    let error = ctl(&pd, &format!("recover remove-failed-stores --stores {}", stores[0]))
        .expect_err("it lives");
    assert!(error.contains("was heard"), "{error}");
    assert!(ctl(&pd, "recover show").expect("shown").is_empty());
    ctl(&pd, "config set store-disconnected-after 5s").expect("set");

    // Two die, and the folder of one of them goes as well.
    let nodes: Vec<usize> =
        (0..playground.nodes.len()).filter(|at| playground.nodes[*at].role == "kv").collect();
    for at in &nodes[1..] {
        playground.nodes[*at].kill();
    }
    let args = &playground.nodes[nodes[1]].args;
    let dir = args.iter().skip_while(|word| *word != "--data-dir").nth(1).expect("it has one");
    std::fs::remove_dir_all(dir).expect("it is there");
    let silent = eventually(DEADLINE, || async {
        let silent = stores_in(&pd, "DISCONNECTED");
        (silent.len() == 2).then_some(silent)
    });
    let lost = silent.await.unwrap_or_else(|| panic!("{:?}", ctl(&pd, "store")));
    let ids = format!("{},{}", lost[0], lost[1]);
    let error =
        ctl(&pd, &format!("recover remove-failed-stores --stores {ids}")).expect_err("no consent");
    assert!(error.contains("--accept-data-loss"), "{error}");
    ctl(&pd, &format!("recover remove-failed-stores --stores {ids} --accept-data-loss"))
        .expect("begins");

    let answer = eventually(RECOVERY_DEADLINE, || async { count(&playground).await.ok()? });
    let found = answer.await;
    let report = || format!("{:?}\n{}", ctl(&pd, "recover show"), playground.log());
    assert_eq!(found, Some(ROWS), "{}", report());
    let finished = eventually(RECOVERY_DEADLINE, || async {
        let rows = ctl(&pd, "recover show").ok()?;
        (rows.first()?["state"] == "finished").then_some(rows)
    });
    let rows = finished.await.unwrap_or_else(|| panic!("{}", report()));
    assert!(rows.iter().all(|row| row["what"] != "lost"), "{rows:?}");
    let suspects: Vec<&Value> = rows.iter().filter(|row| row["what"] == "suspect").collect();
    assert!(suspects.len() >= 4, "every region was on all three: {rows:?}");
    let mut conn = playground.connect("test").await?;
    conn.query_drop(format!("INSERT INTO t VALUES {}", row(ROWS))).await?;

    // Whoever was given up must not come back.
    let refused = playground.restart_node(nodes[2]).await;
    let error = refused.expect_err("it is a tombstone").to_string();
    assert!(error.contains("tombstone"), "{error}");

    // New stores join, and everything has three replicas again.
    let mut joined = Vec::new();
    for name in ["new-1", "new-2"] {
        let dir = playground.path(name).display().to_string();
        let words = ["kv", "--data-dir", &dir, "--addr", "127.0.0.1:0", "--pd", &pd];
        let args: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        let log = playground.path(&format!("{name}-log"));
        joined.push(Served::start(&args, &log).await?);
    }
    playground.wait_until_replicated(3).await?;
    assert_eq!(count(&playground).await?, Some(ROWS + 1));
    Ok(())
}
