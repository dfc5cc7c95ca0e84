//! Shared locks against the cluster in memory.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinHandle;

use super::pessimistic::{LockOptions, LockWait};
use crate::testing::Cluster;
use crate::txn::Transaction;
use crate::{CommitInfo, CommitKind, KvClient, KvError};

async fn begin(client: &Arc<KvClient>) -> Arc<Transaction> {
    Arc::new(client.begin_pessimistic(client.current_ts().await.expect("the mock serves")))
}

fn alone(wait: LockWait) -> LockOptions {
    LockOptions::new(wait)
}

fn patient() -> LockOptions {
    alone(LockWait::AtMost(Duration::from_secs(50)))
}

async fn lock(txn: &Transaction, key: &'static str, options: LockOptions) -> Result<(), KvError> {
    txn.lock_now(vec![Bytes::from(key)], &options).await.map(drop)
}

async fn share(txn: &Transaction, key: &'static str) {
    lock(txn, key, alone(LockWait::NoWait).shared()).await.expect("nobody has it alone");
}

/// Writes a key as a statement would, and commits.
fn writing(
    client: &Arc<KvClient>,
    txn: &Arc<Transaction>,
    key: &'static str,
) -> JoinHandle<Result<CommitInfo, KvError>> {
    let (client, txn) = (client.clone(), txn.clone());
    tokio::spawn(async move {
        txn.begin_statement(client.current_ts().await?);
        txn.set(key.into(), "written".into())?;
        txn.want_lock(|| key.into());
        txn.lock_wanted(&patient()).await?;
        txn.commit().await
    })
}

/// Until the cluster was asked about deadlocks so often.
async fn until_detected(cluster: &Cluster, times: usize) {
    let mut seen = 0;
    while seen < times {
        tokio::task::yield_now().await;
        seen += cluster.calls().iter().filter(|call| call.starts_with("detect_deadlock")).count();
    }
}

async fn settle(client: &Arc<KvClient>) {
    client.shutdown(Duration::from_secs(60)).await;
}

#[tokio::test(start_paused = true)]
async fn a_writer_waits_for_all_who_share() {
    let cluster = Cluster::split_at(&["f"]);
    let client = cluster.client();
    let (first, second) = (begin(&client).await, begin(&client).await);
    let third = begin(&client).await;
    share(&first, "a").await;
    share(&second, "a").await;
    let refused = lock(&third, "a", alone(LockWait::NoWait)).await;
    assert!(matches!(refused, Err(KvError::LockNotAvailable { .. })), "{refused:?}");
    let skipped = third.lock_now(vec!["a".into()], &alone(LockWait::Skip)).await;
    assert_eq!(skipped, Ok(vec![Bytes::from("a")]));
    let short = alone(LockWait::AtMost(Duration::from_secs(3)));
    let timeout = lock(&third, "a", short).await;
    assert!(matches!(timeout, Err(KvError::LockTimeout { .. })), "{timeout:?}");
    let mut waiting = writing(&client, &third, "a");
    first.rollback().await.expect("ends");
    let early = tokio::time::timeout(Duration::from_secs(3), &mut waiting).await;
    assert!(early.is_err(), "the other one shares the key");
    second.commit().await.expect("it has nothing to write");
    waiting.await.expect("no panic").expect("commits");
    settle(&client).await;
    assert_eq!(cluster.value("a"), Some("written".into()));
    assert!(cluster.locked_keys().is_empty());
}

#[tokio::test(start_paused = true)]
async fn of_two_who_share_and_write_one_is_the_victim() {
    let cluster = Cluster::split_at(&["f"]);
    let client = cluster.client();
    let (first, second) = (begin(&client).await, begin(&client).await);
    share(&first, "a").await;
    share(&second, "a").await;
    let waiting = writing(&client, &first, "a");
    until_detected(&cluster, 1).await;
    let error = writing(&client, &second, "a").await.expect("no panic").expect_err("a circle");
    assert_eq!(error.mysql_code(), 1213, "{error}");
    second.rollback().await.expect("ends");
    waiting.await.expect("no panic").expect("commits");
    assert_eq!(cluster.value("a"), Some("written".into()));
}

#[tokio::test(start_paused = true)]
async fn who_shares_commits_in_two_phases_beside_the_others() {
    // The shared key is the primary of both, and in one region with what they write.
    let cluster = Cluster::new();
    let client = cluster.client();
    let (first, second) = (begin(&client).await, begin(&client).await);
    share(&first, "a").await;
    share(&second, "a").await;
    for (txn, key) in [(&first, "b"), (&second, "c")] {
        let info = writing(&client, txn, key).await.expect("no panic").expect("commits");
        assert_eq!(info.kind, CommitKind::TwoPhases);
    }
    settle(&client).await;
    assert_eq!(
        (cluster.value("b"), cluster.value("c")),
        (cluster.value("c"), Some("written".into()))
    );
    assert!(cluster.locked_keys().is_empty());
    // Once a transaction has a key alone, nothing is shared any more.
    let txn = begin(&client).await;
    share(&txn, "a").await;
    let info = writing(&client, &txn, "a").await.expect("no panic").expect("commits");
    assert_eq!(info.kind, CommitKind::OnePhase);
}

#[tokio::test(start_paused = true)]
async fn what_is_held_alone_is_shared_without_a_question() {
    let cluster = Cluster::new();
    let client = cluster.client();
    let txn = begin(&client).await;
    lock(&txn, "a", patient()).await.expect("free");
    cluster.calls();
    share(&txn, "a").await;
    assert_eq!(cluster.calls(), [""; 0]);
    let other = begin(&client).await;
    let refused = lock(&other, "a", alone(LockWait::NoWait).shared()).await;
    assert!(matches!(refused, Err(KvError::LockNotAvailable { .. })), "{refused:?}");
}

#[tokio::test(start_paused = true)]
async fn a_share_that_was_lost_vouches_for_nothing() {
    for is_changed in [false, true] {
        let cluster = Cluster::new();
        let client = cluster.client();
        let txn = begin(&client).await;
        share(&txn, "a").await;
        cluster.lose_locks("a");
        if is_changed {
            cluster.put("a", "theirs");
        }
        // The lock that is taken now says nothing about the time in between.
        let outcome = writing(&client, &txn, "a").await.expect("no panic");
        assert_eq!(outcome.is_err(), is_changed, "{outcome:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_dead_among_those_who_share_do_not_hold_anybody_up() {
    let cluster = Cluster::split_at(&["f"]);
    let client = cluster.client();
    let (first, second) = (begin(&client).await, begin(&client).await);
    share(&first, "a").await;
    share(&second, "m").await;
    share(&second, "a").await;
    cluster.advance_ms(60_000);
    let txn = begin(&client).await;
    lock(&txn, "a", patient()).await.expect("the time of both is over");
    assert_eq!(cluster.locked_keys(), ["a"]);
}
