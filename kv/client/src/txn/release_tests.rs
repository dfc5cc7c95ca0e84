//! Locks given back before their transaction ends, and when one without writes commits.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::pessimistic::{LockOptions, LockWait};
use crate::testing::{Cluster, Fault};
use crate::txn::Transaction;
use crate::{KvClient, KvError};

async fn begin(client: &Arc<KvClient>) -> Transaction {
    client.begin_pessimistic(client.current_ts().await.expect("the mock serves"))
}

fn options(wait: LockWait) -> LockOptions {
    LockOptions::new(wait)
}

/// A statement that locks keys; what it is undone by.
async fn lock(client: &Arc<KvClient>, txn: &Transaction, names: &[&'static str]) {
    txn.begin_statement(client.current_ts().await.expect("the mock serves"));
    let keys = names.iter().copied().map(Bytes::from).collect();
    let wait = LockWait::AtMost(Duration::from_secs(5));
    txn.lock_now(keys, &options(wait)).await.expect("free");
}

async fn settle(client: &Arc<KvClient>) {
    client.shutdown(Duration::from_secs(60)).await;
}

/// Until the store holds exactly these locks.
async fn until_locked(cluster: &Cluster, names: &[&'static str]) {
    let arrives = async {
        while cluster.locked_keys() != names {
            tokio::time::advance(Duration::from_millis(1)).await;
            tokio::task::yield_now().await;
        }
    };
    let outcome = tokio::time::timeout(Duration::from_secs(60), arrives).await;
    assert!(outcome.is_ok(), "{:?} instead of {names:?}", cluster.locked_keys());
}

/// For the clients as for the placement driver; heart beats come in between.
async fn pass_time(cluster: &Cluster, ms: u64) {
    const STEP_MS: u64 = 100;
    for _ in 0..ms / STEP_MS {
        tokio::time::advance(Duration::from_millis(STEP_MS)).await;
        cluster.advance_ms(STEP_MS);
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_undone_gives_its_locks_back_and_no_others() {
    let cluster = Cluster::split_at(&["f"]);
    let client = cluster.client();
    let txn = begin(&client).await;
    lock(&client, &txn, &["b", "m"]).await;
    txn.set("m".into(), "kept".into()).expect("small");
    let savepoint = txn.checkpoint();
    lock(&client, &txn, &["a", "m", "x"]).await;
    txn.set("m".into(), "undone".into()).expect("small");
    txn.set("x".into(), "undone".into()).expect("small");
    txn.rollback_to(savepoint);
    until_locked(&cluster, &["b", "m"]).await;
    let other = begin(&client).await;
    lock(&client, &other, &["a", "x"]).await;
    assert_eq!(cluster.primary_of("b"), Some("b".into()));
    txn.commit().await.expect("commits");
    other.rollback().await.expect("ends");
    settle(&client).await;
    assert!(cluster.locked_keys().is_empty());
    assert_eq!(cluster.value("m"), Some("kept".into()));
    assert_eq!(cluster.value("x"), None);
}

#[tokio::test(start_paused = true)]
async fn a_transaction_that_gave_all_back_has_another_primary() {
    let cluster = Cluster::split_at(&["f", "p"]);
    let client = cluster.client();
    let txn = begin(&client).await;
    let savepoint = txn.checkpoint();
    lock(&client, &txn, &["a", "m"]).await;
    txn.rollback_to(savepoint);
    until_locked(&cluster, &[]).await;
    lock(&client, &txn, &["x"]).await;
    lock(&client, &txn, &["a"]).await;
    assert_eq!(cluster.primary_of("a"), Some("x".into()));
    // It is the new one that is kept alive.
    pass_time(&cluster, 30_000).await;
    let other = begin(&client).await;
    let error = other.lock_now(vec!["a".into()], &options(LockWait::NoWait)).await;
    assert!(matches!(error, Err(KvError::LockNotAvailable { .. })), "{error:?}");
    txn.set("a".into(), "1".into()).expect("small");
    txn.commit().await.expect("commits");
    settle(&client).await;
    assert!(cluster.locked_keys().is_empty());
    assert_eq!(cluster.value("a"), Some("1".into()));
}

#[tokio::test(start_paused = true)]
async fn a_statement_that_waited_in_vain_gives_back_what_it_had() {
    let cluster = Cluster::split_at(&["f"]);
    let client = cluster.client();
    let holder = begin(&client).await;
    lock(&client, &holder, &["m"]).await;
    let txn = begin(&client).await;
    lock(&client, &txn, &["b"]).await;
    let statement = txn.checkpoint();
    txn.begin_statement(cluster.ts());
    let keys = ["a", "b", "m"].map(Bytes::from).to_vec();
    let error = txn.lock_now(keys, &options(LockWait::NoWait)).await;
    assert!(matches!(error, Err(KvError::LockNotAvailable { .. })), "{error:?}");
    assert_eq!(cluster.locked_keys(), ["a", "b", "m"]);
    txn.rollback_to(statement);
    until_locked(&cluster, &["b", "m"]).await;
    txn.rollback().await.expect("ends");
    holder.rollback().await.expect("ends");
}

#[tokio::test(start_paused = true)]
async fn a_lock_of_unknown_fate_is_given_back_too() {
    let cluster = Cluster::new();
    let client = cluster.client();
    let txn = begin(&client).await;
    let statement = txn.checkpoint();
    txn.begin_statement(cluster.ts());
    // It is locked, but the answer does not come before somebody ends the statement.
    cluster.fault("pessimistic_lock", Fault::LostAfter);
    let killed = options(LockWait::AtMost(Duration::from_secs(5)));
    let locking = txn.lock_now(vec!["a".into()], &killed);
    let killer = async {
        until_locked(&cluster, &["a"]).await;
        killed.cancel.cancel();
    };
    let (outcome, ()) = tokio::join!(locking, killer);
    assert_eq!(outcome, Err(KvError::Cancelled));
    txn.rollback_to(statement);
    until_locked(&cluster, &[]).await;
    lock(&client, &txn, &["b"]).await;
    assert_eq!(cluster.primary_of("b"), Some("b".into()));
    txn.rollback().await.expect("ends");
}

#[tokio::test(start_paused = true)]
async fn who_starts_over_keeps_what_it_asks_for_again() {
    let cluster = Cluster::split_at(&["f"]);
    let client = cluster.client();
    let txn = begin(&client).await;
    lock(&client, &txn, &["z"]).await;
    let mut statement = txn.checkpoint();
    lock(&client, &txn, &["a", "b", "m"]).await;
    txn.want_lock(|| "c".into());
    statement = txn.start_over(statement);
    assert_eq!(cluster.locked_keys(), ["a", "b", "m", "z"], "as long as it runs");
    lock(&client, &txn, &["b"]).await;
    txn.want_lock(|| "m".into());
    txn.release(statement);
    until_locked(&cluster, &["b", "m", "z"]).await;
    txn.rollback().await.expect("ends");

    // The primary stays while others name it.
    let txn = begin(&client).await;
    let mut statement = txn.checkpoint();
    lock(&client, &txn, &["a", "b", "m"]).await;
    statement = txn.start_over(statement);
    lock(&client, &txn, &["m"]).await;
    txn.release(statement);
    until_locked(&cluster, &["a", "m"]).await;
    let mut statement = txn.checkpoint();
    lock(&client, &txn, &["x"]).await;
    statement = txn.start_over(statement);
    txn.release(statement);
    until_locked(&cluster, &["a", "m"]).await;
    txn.rollback().await.expect("ends");
    until_locked(&cluster, &[]).await;
}

#[tokio::test(start_paused = true)]
async fn a_key_that_is_wanted_again_is_not_lost_to_a_late_release() {
    for fault in [Fault::LostBefore, Fault::LostAfter] {
        let cluster = Cluster::split_at(&["f"]);
        let client = cluster.client();
        let txn = begin(&client).await;
        lock(&client, &txn, &["m"]).await;
        let savepoint = txn.checkpoint();
        lock(&client, &txn, &["a"]).await;
        cluster.fault("pessimistic_rollback", fault.clone());
        cluster.calls();
        txn.rollback_to(savepoint);
        // One request is on its way or lost; the next comes behind this lock.
        lock(&client, &txn, &["a"]).await;
        settle(&client).await;
        let calls = cluster.calls();
        let releases = calls.iter().filter(|call| call.starts_with("pessimistic_rollback"));
        assert!(releases.count() >= 2, "{calls:?}");
        assert_eq!(cluster.locked_keys(), ["a", "m"], "{fault:?}");
        txn.set("a".into(), "1".into()).expect("small");
        txn.commit().await.expect("commits");
    }
}

/// A lock that should have been given back, of a transaction that has another primary now.
#[tokio::test(start_paused = true)]
async fn remnants_that_name_a_primary_of_before_hold_nobody_up() {
    let cluster = Cluster::split_at(&["f"]);
    let client = cluster.client();
    let txn = begin(&client).await;
    lock(&client, &txn, &["b"]).await;
    cluster.leave_pessimistic_lock("m", "a", txn.start_ts(), 6_000);
    // The remnant's time is over, that of the transaction is not.
    pass_time(&cluster, 20_000).await;
    let other = begin(&client).await;
    lock(&client, &other, &["m"]).await;
    lock(&client, &txn, &["a"]).await;
    other.rollback().await.expect("ends");
    // At the key that it names is a lock again, which names the primary.
    cluster.leave_pessimistic_lock("n", "a", txn.start_ts(), 6_000);
    let other = begin(&client).await;
    let error = other.lock_now(vec!["n".into()], &options(LockWait::NoWait)).await;
    assert!(matches!(error, Err(KvError::LockNotAvailable { .. })), "{error:?}");
    txn.set("a".into(), "1".into()).expect("small");
    txn.commit().await.expect("nobody has rolled it back");
    lock(&client, &other, &["n"]).await;
    other.rollback().await.expect("ends");
    settle(&client).await;
    assert_eq!(cluster.value("a"), Some("1".into()));
    assert!(cluster.locked_keys().is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_was_read_under_a_lock_is_looked_at_once_the_lock_is_gone() {
    for changes in [true, false] {
        let cluster = Cluster::split_at(&["f"]);
        let client = cluster.client();
        let start_ts = client.current_ts().await.expect("the mock serves");
        let txn = client.begin_pessimistic(start_ts).serializable();
        let savepoint = txn.checkpoint();
        lock(&client, &txn, &["m"]).await;
        txn.get(b"m").await.expect("reads");
        txn.rollback_to(savepoint);
        until_locked(&cluster, &[]).await;
        if changes {
            cluster.put("m", "theirs");
        }
        txn.begin_statement(cluster.ts());
        txn.set("a".into(), "1".into()).expect("small");
        let outcome = txn.commit().await;
        let is_refused = matches!(outcome, Err(KvError::ReadChanged { .. }));
        assert_eq!(is_refused, changes, "{outcome:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_only_locked_learns_at_commit_whether_the_locks_held() {
    // What came in between, and whether it matters.
    for (came_between, is_lost) in [(None, false), (Some("change"), true), (Some("lock"), true)] {
        let cluster = Cluster::split_at(&["f"]);
        let client = cluster.client();
        let txn = begin(&client).await;
        lock(&client, &txn, &["a", "m"]).await;
        cluster.lose_locks("m");
        let other = begin(&client).await;
        match came_between {
            Some("change") => cluster.put("m", "theirs"),
            Some(_) => lock(&client, &other, &["m"]).await,
            None => {}
        }
        assert!(!txn.is_trivial());
        let outcome = txn.commit().await;
        match outcome {
            Ok(_) => assert!(!is_lost, "{came_between:?}"),
            Err(error) => {
                assert!(is_lost && error.is_txn_retryable(), "{came_between:?}: {error}");
            }
        }
        other.rollback().await.expect("ends");
        settle(&client).await;
        assert!(cluster.locked_keys().is_empty(), "{came_between:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_question_whether_locks_held_costs_one_request_per_region() {
    let cluster = Cluster::split_at(&["f", "p"]);
    let client = cluster.client();
    let txn = begin(&client).await;
    lock(&client, &txn, &["a", "b", "m"]).await;
    cluster.calls();
    txn.commit().await.expect("they held");
    assert_eq!(cluster.calls(), ["pessimistic_rollback@1", "pessimistic_rollback@1"]);
    settle(&client).await;
    assert!(cluster.locked_keys().is_empty());
}
