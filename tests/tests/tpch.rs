//! TPC-H's queries give the known answers, wherever their operators run.
//!
//! `CAIRN_TPCH_SCALE=0.1` takes ten times the rows (a release build, or patience).

use cairn_tests::bench::succeed;
use cairn_tests::{HarnessError, Layout, Playground};
use mysql_async::prelude::Queryable;

/// Scale factor of the suite, whose answers are in `tpch/answers`.
const SCALE: &str = "0.01";

/// Settings that change where and how operators run, and must not change answers.
const WAYS: &[&[&str]] = &[&[], &["SET tidb_opt_push_down = OFF"]];

async fn answers_are_known(layout: Layout) -> Result<(), HarnessError> {
    let scale = std::env::var("CAIRN_TPCH_SCALE").unwrap_or_else(|_| SCALE.to_owned());
    let answers = format!("{}/tpch/answers/sf{scale}", env!("CARGO_MANIFEST_DIR"));
    let playground = Playground::start(layout).await?;
    succeed(&playground, "tpch prepare", &["--scale", &scale]);
    let mut conn = playground.connect("tpch").await?;
    for table in ["lineitem", "orders"] {
        let keys = "BETWEEN (1) AND (60000) REGIONS 6";
        let keys = if table == "lineitem" { keys.replace(')', ", 1)") } else { keys.to_owned() };
        conn.query_drop(format!("SPLIT TABLE {table} {keys}")).await?;
    }
    for way in WAYS {
        let settings = way.iter().flat_map(|set| ["--set", set]);
        let more: Vec<&str> = ["--answers", &answers].into_iter().chain(settings).collect();
        let printed = succeed(&playground, "tpch run", &more);
        assert!(printed.contains("all answers are right"), "{printed}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_of_one_store_are_known() -> Result<(), HarnessError> {
    answers_are_known(Layout::OneProcess).await
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_of_three_stores_are_known() -> Result<(), HarnessError> {
    answers_are_known(Layout::Processes { stores: 3 }).await
}
