//! Transactions of real clients on a cluster of three stores, whose histories must fit their
//! isolation levels; `cairn-faults histories` does the same while everything goes wrong.

use std::time::Duration;

use cairn_tests::histories::{Histories, Settings};
use cairn_tests::{HarnessError, Layout, Playground, Servers};
use mysql_async::prelude::Queryable;

/// Transactions that must have been committed before the load is stopped.
const COMMITS: u64 = 500;
/// How long they may take on a machine that has much else to do.
const DEADLINE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn isolation_levels_hold() -> Result<(), HarnessError> {
    let playground = Playground::start(Layout::Processes { stores: 3 }).await?;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let servers = Servers::on_port(playground.port());
    let histories = Histories::start(&servers, Settings::new(folder.path(), 1)).await?;
    assert!(histories.await_commits(COMMITS, DEADLINE).await, "{}", playground.log());
    let findings = histories.stop().await;
    assert!(findings.violations.is_empty() && findings.unexpected.is_empty(), "{findings:#?}");
    assert!(findings.committed >= COMMITS, "{findings:?}");
    let mut conn = playground.connect("history").await?;
    conn.query_drop("ADMIN CHECK TABLE lists").await?;
    Ok(())
}
