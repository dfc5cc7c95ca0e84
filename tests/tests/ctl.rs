//! `cairn ctl` against a cluster of processes: what scripts rely on, and what orders do.

use std::process::Command;
use std::time::Duration;

use cairn_tests::node::cairn_binary;
use cairn_tests::{Layout, Playground, eventually};
use serde_json::Value;

/// How long an order may take until its effect shows.
const EFFECT_DEADLINE: Duration = Duration::from_secs(30);

/// Runs `cairn ctl --json` with the words of `args`; the rows, or the error's text.
fn ctl(playground: &Playground, args: &str) -> Result<Vec<Value>, String> {
    let pd = playground.pd().expect("it runs");
    let output = Command::new(cairn_binary())
        .args(["ctl", "--json", "--pd", &pd])
        .args(args.split_whitespace())
        .output()
        .expect("it starts");
    match output.status.success() {
        true => Ok(serde_json::from_slice(&output.stdout).expect("a list of rows")),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_is_shown_and_steered() {
    let playground = Playground::start(Layout::Processes { stores: 3 }).await.expect("starts");
    playground.wait_until_replicated(3).await.expect("three replicas");
    let stores = ctl(&playground, "store").expect("shown");
    assert_eq!(stores.len(), 3);
    for field in ["id", "state", "regions", "leaders", "region_score", "progress", "labels"] {
        assert!(stores.iter().all(|store| store.get(field).is_some()), "{field}: {stores:?}");
    }
    // What makes no sense is refused by name, and changes nothing.
    let id = &stores[0]["id"];
    for (args, named) in [
        ("config set max-replica 3".to_owned(), "unknown setting 'max-replica'"),
        ("config set max-replicas 0".to_owned(), "max-replicas: 0"),
        ("scheduler add shuffle".to_owned(), "unknown scheduler 'shuffle'"),
        (format!("store {id} offline"), "there are 2 stores for 3 replicas"),
        ("operator cancel 987654".to_owned(), "region 987654 has no operator"),
    ] {
        let error = ctl(&playground, &args).expect_err("refused");
        assert!(error.contains(named), "{args}: {error}");
    }
    // The leaders leave a store that shall lead nothing; the history says why.
    let region = &ctl(&playground, "region").expect("shown")[0];
    let leader = region["leader_store"].as_u64().expect("somebody leads");
    ctl(&playground, &format!("scheduler add evict-leader {leader}")).expect("begins");
    let moved = eventually(EFFECT_DEADLINE, || async {
        let stores = ctl(&playground, "store").ok()?;
        let store = stores.into_iter().find(|store| store["id"] == leader)?;
        (store["leaders"] == 0).then_some(store)
    });
    let store = moved.await.unwrap_or_else(|| panic!("{}", playground.log()));
    assert_eq!(store["leads_not"], "shall lead nothing (evict-leader)");
    let why = eventually(EFFECT_DEADLINE, || async {
        let history = ctl(&playground, "operator history").ok()?;
        history.into_iter().find(|one| one["kind"] == "evict-leader" && one["ending"] == "finished")
    });
    let why = why.await.unwrap_or_else(|| panic!("{}", playground.log()));
    assert!(why["reason"].as_str().is_some_and(|text| text.contains("evict-leader")), "{why}");
    let schedulers = ctl(&playground, "scheduler remove evict-leader").expect("ends");
    assert_eq!(schedulers[0]["status"], "off");
}
