//! SERIALIZABLE against the cluster in memory: what COMMIT asks for, and what it finds.

use std::sync::Arc;
use std::time::Duration;

use cairn_proto::kv::region_error::Kind;
use cairn_proto::kv::{NotLeader, ServerIsBusy};

use super::Transaction;
use crate::testing::{Cluster, Fault};
use crate::txn::CommitKind;
use crate::{KeyRange, KvClient, KvError, LockOptions, LockWait, ScanOptions};

async fn begin(client: &Arc<KvClient>) -> Transaction {
    client.begin(client.current_ts().await.expect("the mock serves")).serializable()
}

async fn begin_pessimistic(client: &Arc<KvClient>) -> Transaction {
    client.begin_pessimistic(client.current_ts().await.expect("the mock serves")).serializable()
}

async fn lock(client: &Arc<KvClient>, txn: &Transaction, key: &'static str) {
    txn.begin_statement(client.current_ts().await.expect("the mock serves"));
    let mut statement = txn.checkpoint();
    loop {
        txn.get(key.as_bytes()).await.expect("reads");
        let options = LockOptions::new(LockWait::AtMost(Duration::from_secs(1)));
        txn.lock_now(vec![key.into()], &options).await.expect("free");
        if !txn.take_conflict() {
            txn.release(statement);
            return;
        }
        statement = txn.start_over(statement);
        txn.begin_statement(client.current_ts().await.expect("the mock serves"));
    }
}

fn is_changed(outcome: Result<crate::CommitInfo, KvError>, key: &'static str) -> bool {
    let Err(error) = outcome else { return false };
    assert_eq!((error.mysql_code(), error.is_txn_retryable()), (1213, true), "{error}");
    matches!(error, KvError::ReadChanged { key: changed, .. } if changed.0 == key)
}

/// The ways to read a key that may have no value.
async fn read(txn: &Transaction, way: usize, key: &'static str) {
    let range = || KeyRange::new("a", "");
    let scan = |reverse| {
        let options = ScanOptions { reverse, batch_size: 1, ..ScanOptions::default() };
        txn.snapshot().scan(range(), options)
    };
    match way {
        0 => drop(txn.get(key.as_bytes()).await.expect("reads")),
        1 => drop(txn.batch_get(&["b".into(), key.into()]).await.expect("reads")),
        _ => {
            let mut scan = scan(way == 3);
            while !scan.next_batch().await.expect("reads").is_empty() {}
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_read_must_not_change_until_the_commit() {
    for split in [&["f", "p"][..], &[]] {
        for way in 0..4 {
            for (changed, is_there) in [("m", true), ("m", false), ("zz", true)] {
                let cluster = Cluster::split_at(split);
                let client = cluster.client();
                for key in ["c", "m", "s"] {
                    if key != "m" || is_there {
                        cluster.put(key, "0");
                    }
                }
                let txn = begin(&client).await;
                read(&txn, way, "m").await;
                cluster.put(changed, "1");
                txn.set("x".into(), "1".into()).expect("small");
                let is_found = changed == "m" || way >= 2;
                let told = format!("{split:?} {way} {changed} {is_there}");
                let outcome = txn.commit().await;
                assert_eq!(is_changed(outcome, changed), is_found, "{told}");
                client.shutdown(Duration::from_secs(60)).await;
                assert_eq!(cluster.value("x").is_none(), is_found, "{told}");
                assert!(cluster.locked_keys().is_empty(), "{told}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_scan_that_ends_early_has_read_no_further() {
    for (changed, is_found) in [("a", true), ("d", false), ("c", true)] {
        let cluster = Cluster::new();
        let client = cluster.client();
        for key in ["c", "m", "s"] {
            cluster.put(key, "0");
        }
        let txn = begin(&client).await;
        let options = ScanOptions { batch_size: 1, ..ScanOptions::default() };
        let mut scan = txn.snapshot().scan(KeyRange::new("a", ""), options);
        assert_eq!(scan.next_batch().await.expect("reads").len(), 1);
        cluster.put(changed, "1");
        txn.set("x".into(), "1".into()).expect("small");
        assert_eq!(is_changed(txn.commit().await, changed), is_found, "{changed}");
    }
}

#[tokio::test(start_paused = true)]
async fn of_two_skewed_writers_one_commits() {
    let cluster = Cluster::split_at(&["f", "p"]);
    let client = cluster.client();
    cluster.put("a", "on call");
    cluster.put("x", "on call");
    let (one, other) = (begin(&client).await, begin(&client).await);
    for txn in [&one, &other] {
        txn.batch_get(&["a".into(), "x".into()]).await.expect("reads");
    }
    one.set("a".into(), "off".into()).expect("small");
    other.set("x".into(), "off".into()).expect("small");
    let outcomes = [one.commit().await, other.commit().await];
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1, "{outcomes:?}");
}

#[tokio::test(start_paused = true)]
async fn of_two_skewed_writers_at_once_not_both_commit() {
    for _ in 0..20 {
        let cluster = Cluster::split_at(&["f", "p"]);
        let client = cluster.client();
        let (one, other) = (begin(&client).await, begin(&client).await);
        for txn in [&one, &other] {
            txn.batch_get(&["a".into(), "x".into()]).await.expect("reads");
        }
        one.set("a".into(), "off".into()).expect("small");
        other.set("x".into(), "off".into()).expect("small");
        let (first, second) = tokio::join!(one.commit(), other.commit());
        assert!(first.is_err() || second.is_err(), "{first:?} {second:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn own_writes_guard_what_they_replace() {
    let cluster = Cluster::new();
    let client = cluster.client();
    cluster.put("m", "0");
    // Read and written: the prewrite looks, and one round is enough.
    let txn = begin(&client).await;
    txn.get(b"m").await.expect("reads");
    txn.set("m".into(), "1".into()).expect("small");
    assert_eq!(txn.commit().await.expect("commits").kind, CommitKind::OnePhase);
    let txn = begin_pessimistic(&client).await;
    lock(&client, &txn, "m").await;
    txn.set("m".into(), "2".into()).expect("small");
    assert_eq!(txn.commit().await.expect("commits").kind, CommitKind::OnePhase);
    // Read before it was locked, and changed in between.
    let txn = begin_pessimistic(&client).await;
    txn.get(b"m").await.expect("reads");
    cluster.put("m", "3");
    lock(&client, &txn, "m").await;
    txn.set("m".into(), "4".into()).expect("small");
    assert!(is_changed(txn.commit().await, "m"));
    // Changed while it was locked: the statement reads again.
    let txn = begin_pessimistic(&client).await;
    txn.begin_statement(client.current_ts().await.expect("the mock serves"));
    let statement = txn.checkpoint();
    txn.get(b"m").await.expect("reads");
    cluster.put("m", "5");
    let options = LockOptions::new(LockWait::AtMost(Duration::from_secs(1)));
    txn.lock_now(vec!["m".into()], &options).await.expect("free");
    assert!(txn.take_conflict());
    let _ = txn.start_over(statement);
    lock(&client, &txn, "m").await;
    txn.set("m".into(), "6".into()).expect("small");
    assert!(txn.commit().await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_transaction_that_only_read_happened_when_it_read() {
    let cluster = Cluster::new();
    let client = cluster.client();
    let txn = begin(&client).await;
    txn.get(b"m").await.expect("reads");
    cluster.put("m", "1");
    assert!(txn.is_trivial());
    assert!(txn.commit().await.is_ok());
    assert!(!cluster.calls().iter().any(|call| call.starts_with("refresh")));

    // At two moments: what it saw first must be so at the second.
    for is_changed_between in [false, true] {
        let txn = begin_pessimistic(&client).await;
        txn.get(b"m").await.expect("reads");
        if is_changed_between {
            cluster.put("m", "2");
        }
        lock(&client, &txn, "x").await;
        assert!(!txn.is_trivial());
        // Behind its newest read nothing matters.
        cluster.put("a", "3");
        assert_eq!(is_changed(txn.commit().await, "m"), is_changed_between);
        assert!(cluster.locked_keys().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn an_absence_that_only_the_prewrite_saw_counts_too() {
    let cluster = Cluster::split_at(&["f"]);
    let client = cluster.client();
    let txn = begin(&client).await;
    txn.insert("a".into(), "1".into()).expect("small");
    txn.delete("a".into()).expect("small");
    txn.set("x".into(), "1".into()).expect("small");
    assert_eq!(txn.commit().await.expect("commits").kind, CommitKind::TwoPhases);
    assert!(cluster.calls().iter().any(|call| call.starts_with("refresh")));
}

#[tokio::test(start_paused = true)]
async fn locks_in_what_was_read() {
    // Dead, and never to commit: resolved.
    let cluster = Cluster::new();
    let client = cluster.client();
    let txn = begin(&client).await;
    txn.get(b"m").await.expect("reads");
    cluster.leave_lock("m", "m", cluster.ts(), 1);
    cluster.advance_ms(10);
    txn.set("x".into(), "1".into()).expect("small");
    assert!(txn.commit().await.is_ok());

    // Alive: pushed behind our commit.
    let txn = begin(&client).await;
    txn.get(b"m").await.expect("reads");
    cluster.leave_lock("m", "m", cluster.ts(), 60_000);
    txn.set("x".into(), "2".into()).expect("small");
    assert!(txn.commit().await.is_ok());

    // Its primary says that it has committed: the change counts.
    let cluster = Cluster::new();
    let client = cluster.client();
    let txn = begin(&client).await;
    txn.get(b"m").await.expect("reads");
    let other = cluster.ts();
    cluster.leave_lock("m", "p", other, 60_000);
    cluster.put_committed("p", other);
    txn.set("x".into(), "3".into()).expect("small");
    assert!(is_changed(txn.commit().await, "m"));

    // A younger one whose primary knows nothing of it yet: we give way.
    let txn = begin(&client).await;
    txn.get(b"k").await.expect("reads");
    cluster.leave_lock("k", "q", cluster.ts(), 60_000);
    txn.set("x".into(), "4".into()).expect("small");
    assert!(is_changed(txn.commit().await, "k"));
}

#[tokio::test(start_paused = true)]
async fn faults_on_the_way_do_not_change_the_outcome() {
    let busy = Kind::ServerIsBusy(ServerIsBusy { reason: "queue".into(), backoff_ms: 100 });
    let faults = [
        Fault::Region(Kind::NotLeader(NotLeader::default())),
        Fault::Region(busy),
        Fault::LostBefore,
        Fault::LostAfter,
        Fault::Split("g"),
        Fault::Split("m"),
        Fault::LeaderTo(3),
    ];
    for fault in &faults {
        for is_changed_between in [false, true] {
            let cluster = Cluster::split_at(&["f"]);
            let client = cluster.client();
            let txn = begin(&client).await;
            for way in 0..4 {
                read(&txn, way, "m").await;
            }
            if is_changed_between {
                cluster.put("m", "1");
            }
            txn.set("x".into(), "1".into()).expect("small");
            cluster.fault("refresh", fault.clone());
            let told = format!("{fault:?} {:?}", cluster.calls());
            let outcome = txn.commit().await;
            assert_eq!(is_changed(outcome, "m"), is_changed_between, "{told}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_commit_whose_answer_is_lost_is_brought_to_its_end() {
    let cluster = Cluster::new();
    let client = cluster.client();
    let txn = begin(&client).await;
    txn.get(b"m").await.expect("reads");
    txn.set("x".into(), "1".into()).expect("small");
    cluster.fault("commit", Fault::LostAfter);
    let info = txn.commit().await.expect("the primary knows");
    assert_eq!(info.kind, CommitKind::TwoPhases);
    assert_eq!(cluster.value("x"), Some("1".into()));
}

#[tokio::test(start_paused = true)]
async fn levels_below_pay_nothing() {
    let cluster = Cluster::new();
    let client = cluster.client();
    let txn = client.begin(client.current_ts().await.expect("the mock serves"));
    txn.get(b"m").await.expect("reads");
    cluster.put("m", "1");
    txn.set("x".into(), "1".into()).expect("small");
    assert_eq!(txn.commit().await.expect("commits").kind, CommitKind::OnePhase);
    assert!(!cluster.calls().iter().any(|call| call.starts_with("refresh")));
}
