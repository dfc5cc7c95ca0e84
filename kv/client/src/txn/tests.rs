//! Commit against the cluster in memory: what goes wrong in which phase, and what
//! the caller is told.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cairn_proto::kv::region_error::Kind;
use cairn_proto::kv::{NotLeader, ServerIsBusy, StaleCommand};

use crate::testing::{Cluster, Fault};
use crate::txn::{CommitKind, Transaction};
use crate::{ClientConfig, KvClient, KvError};

fn two_phases() -> ClientConfig {
    ClientConfig {
        one_pc: false,
        async_commit: false,
        request_timeout_ms: 5_000,
        lock_wait_timeout_ms: 1_000,
        commit_check_timeout_ms: 2_000,
        ..ClientConfig::default()
    }
}

async fn begin(client: &Arc<KvClient>) -> Transaction {
    client.begin(client.current_ts().await.expect("the mock serves"))
}

async fn transfer(client: &Arc<KvClient>) -> Transaction {
    let txn = begin(client).await;
    for key in ["a", "m", "x"] {
        txn.set(key.into(), "1".into()).expect("small");
    }
    txn
}

async fn settle(client: &Arc<KvClient>) {
    client.shutdown(Duration::from_secs(60)).await;
}

fn written(cluster: &Cluster) -> Vec<bool> {
    ["a", "m", "x"].iter().map(|key| cluster.value(key) == Some("1".into())).collect()
}

#[tokio::test(start_paused = true)]
async fn one_region_commits_in_one_round() {
    let cluster = Cluster::new();
    let client = cluster.client();
    let info = transfer(&client).await.commit().await.expect("commits");
    assert_eq!(info.kind, CommitKind::OnePhase);
    assert!(info.commit_ts > crate::txn::TimeStamp::ZERO);
    assert_eq!(cluster.calls(), ["prewrite@1"]);
    assert_eq!(written(&cluster), [true; 3]);
}

#[tokio::test(start_paused = true)]
async fn three_regions_commit_in_two_phases() {
    let cluster = Cluster::split_at(&["f", "p"]);
    let client = cluster.client_with(two_phases());
    let info = transfer(&client).await.commit().await.expect("commits");
    assert_eq!(info.kind, CommitKind::TwoPhases);
    assert!(!info.one_pc_fallback && !info.async_commit_fallback);
    settle(&client).await;
    let calls = cluster.calls();
    assert_eq!(calls.iter().filter(|call| *call == "prewrite@1").count(), 3);
    assert_eq!(calls.iter().filter(|call| *call == "commit@1").count(), 3);
    assert_eq!(written(&cluster), [true; 3]);
    assert!(cluster.locked_keys().is_empty());
}

#[tokio::test(start_paused = true)]
async fn faults_on_the_way_do_not_change_the_outcome() {
    let not_leader = Kind::NotLeader(NotLeader::default());
    let busy = Kind::ServerIsBusy(ServerIsBusy { reason: "queue".into(), backoff_ms: 100 });
    let stale = Kind::StaleCommand(StaleCommand {});
    let faults = [
        Fault::Region(not_leader),
        Fault::Region(busy),
        Fault::Region(stale),
        Fault::LostBefore,
        Fault::LostAfter,
        Fault::Split("g"),
        Fault::Split("x"),
        Fault::LeaderTo(3),
    ];
    for (one_pc, async_commit) in [(false, false), (true, false), (false, true), (true, true)] {
        for split in [&["f", "p"][..], &[]] {
            for phase in ["prewrite", "commit"] {
                for fault in &faults {
                    let cluster = Cluster::split_at(split);
                    let client =
                        cluster.client_with(ClientConfig { one_pc, async_commit, ..two_phases() });
                    cluster.fault(phase, fault.clone());
                    let result = transfer(&client).await.commit().await;
                    let told = format!("{phase} {fault:?} {split:?}: {:?}", cluster.calls());
                    assert!(result.is_ok(), "{told}: {result:?}");
                    settle(&client).await;
                    assert_eq!(written(&cluster), [true; 3], "{told}");
                    assert!(cluster.locked_keys().is_empty(), "{told}");
                }
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_unknown_commit_asks_the_primary_before_it_goes_on() {
    for (fault, expected) in [
        // Executed: the primary tells.
        (Fault::LostAfter, &["prewrite@1", "commit@1", "check_txn_status@"][..]),
        // Perhaps not executed: the lock stands, so it is sent again.
        (
            Fault::Region(Kind::StaleCommand(StaleCommand {})),
            &["prewrite@1", "commit@1", "check_txn_status@", "commit@"],
        ),
    ] {
        let cluster = Cluster::new();
        let client = cluster.client_with(two_phases());
        cluster.fault("commit", fault);
        let info = transfer(&client).await.commit().await.expect("commits");
        assert!(info.commit_ts > crate::txn::TimeStamp::ZERO);
        let calls = cluster.calls();
        let asked: Vec<&String> = calls.iter().filter(|call| !call.starts_with("x")).collect();
        let order: Vec<&str> = expected
            .iter()
            .copied()
            .filter(|prefix| asked.iter().any(|call| call.starts_with(prefix)))
            .collect();
        assert_eq!(order, expected, "{calls:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn undetermined_only_when_nobody_answers() {
    let cluster = Cluster::new();
    let client = cluster.client_with(two_phases());
    cluster.fault("commit", Fault::LostAfter);
    for _ in 0..200 {
        cluster.fault("check_txn_status", Fault::LostBefore);
    }
    let error = transfer(&client).await.commit().await.expect_err("nobody answers");
    assert!(matches!(error, KvError::UndeterminedCommit { .. }), "{error}");
    assert_eq!(error.mysql_code(), 8501);
    settle(&client).await;
    // It had happened, and nothing rolled it back.
    assert!(!cluster.calls().iter().any(|call| call.starts_with("rollback")));
}

#[tokio::test(start_paused = true)]
async fn a_commit_that_never_left_is_rolled_back() {
    let cluster = Cluster::new();
    let client = cluster.client_with(two_phases());
    for _ in 0..2_000 {
        cluster.fault("commit", Fault::LostBefore);
    }
    let error = transfer(&client).await.commit().await.expect_err("the store is away");
    assert!(matches!(error, KvError::RegionUnavailable { .. }), "{error}");
    settle(&client).await;
    assert_eq!(written(&cluster), [false; 3]);
    assert!(cluster.locked_keys().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_lost_one_round_commit_is_found_again() {
    let cluster = Cluster::new();
    let client = cluster.client();
    cluster.fault("prewrite", Fault::LostAfter);
    let info = transfer(&client).await.commit().await.expect("commits");
    assert_eq!(info.kind, CommitKind::OnePhase);
    assert_eq!(written(&cluster), [true; 3]);
}

#[tokio::test(start_paused = true)]
async fn conflicts_leave_nothing() {
    for split in [&["f", "p"][..], &[]] {
        let cluster = Cluster::split_at(split);
        let client = cluster.client();
        let txn = transfer(&client).await;
        cluster.put("m", "other");
        let error = txn.commit().await.expect_err("conflicts");
        assert!(matches!(&error, KvError::WriteConflict { key, .. } if key.0 == "m"), "{error}");
        assert_eq!(error.mysql_code(), 9007);
        assert!(error.is_txn_retryable());
        settle(&client).await;
        assert_eq!(written(&cluster), [false; 3]);
        assert!(cluster.locked_keys().is_empty());
        assert_eq!(cluster.value("m"), Some("other".into()));
    }
}

#[tokio::test(start_paused = true)]
async fn inserts_fail_on_existing_keys() {
    let cluster = Cluster::split_at(&["f"]);
    cluster.put("m", "there");
    let client = cluster.client();
    let txn = begin(&client).await;
    txn.insert("a".into(), "1".into()).expect("small");
    txn.insert("m".into(), "1".into()).expect("small");
    let error = txn.commit().await.expect_err("exists");
    assert!(matches!(&error, KvError::KeyExists { key } if key.0 == "m"), "{error}");
    // Inserted and removed again in one transaction: only the check remains.
    let txn = begin(&client).await;
    txn.insert("m".into(), "1".into()).expect("small");
    txn.delete("m".into()).expect("small");
    let error = txn.commit().await.expect_err("exists");
    assert!(matches!(error, KvError::KeyExists { .. }), "{error}");
    let txn = begin(&client).await;
    txn.delete("m".into()).expect("small");
    txn.insert("m".into(), "2".into()).expect("small");
    txn.commit().await.expect("its own delete made room");
    assert_eq!(cluster.value("m"), Some("2".into()));
}

#[tokio::test(start_paused = true)]
async fn locks_of_the_dead_are_removed() {
    let cluster = Cluster::split_at(&["f"]);
    let client = cluster.client();
    let dead = cluster.ts();
    cluster.leave_lock("m", "b", dead, 3_000);
    cluster.advance_ms(4_000);
    transfer(&client).await.commit().await.expect("commits");
    settle(&client).await;
    assert_eq!(written(&cluster), [true; 3]);
}

#[tokio::test(start_paused = true)]
async fn locks_of_the_living_are_waited_for() {
    let cluster = Cluster::split_at(&["f"]);
    let client = cluster.client_with(two_phases());
    let living = cluster.ts();
    cluster.leave_lock("m", "b", living, 60_000);
    cluster.leave_lock("b", "b", living, 60_000);
    let error = transfer(&client).await.commit().await.expect_err("it lives");
    assert!(matches!(&error, KvError::LockTimeout { key } if key.0 == "m"), "{error}");
    assert_eq!(error.mysql_code(), 1205);
    settle(&client).await;
    assert_eq!(cluster.locked_keys(), ["b", "m"]);
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_a_younger_transaction() {
    let cluster = Cluster::split_at(&["f"]);
    let client = cluster.client_with(two_phases());
    let older = transfer(&client).await;
    let younger = cluster.ts();
    cluster.leave_lock("m", "m", younger, 60_000);
    let error = older.commit().await.expect_err("gives way");
    let other = younger.0;
    assert!(
        matches!(&error, KvError::WriteConflict { conflict_start_ts, .. } if *conflict_start_ts == other),
        "{error}"
    );
    settle(&client).await;
    // Its own locks are gone, so that the younger one goes on.
    assert_eq!(cluster.locked_keys(), ["m"]);
}

#[tokio::test(start_paused = true)]
async fn readers_push_the_living_and_finish_the_dead() {
    let cluster = Cluster::split_at(&["f"]);
    cluster.put("m", "old");
    cluster.put("b", "old");
    let client = cluster.client();
    let writer = cluster.ts();
    cluster.leave_lock("m", "b", writer, 3_000);
    cluster.leave_lock("b", "b", writer, 3_000);
    let view = client.snapshot(cluster.ts());
    assert_eq!(view.get(b"m").await, Ok(Some("old".into())));
    let keys: Vec<Bytes> = vec!["m".into(), "b".into(), "none".into()];
    assert_eq!(view.batch_get(&keys).await.expect("reads").len(), 2);
    assert_eq!(cluster.locked_keys().len(), 2);
    cluster.advance_ms(4_000);
    let view = client.snapshot(cluster.ts());
    assert_eq!(view.get(b"m").await, Ok(Some("old".into())));
    assert!(cluster.locked_keys().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_transaction_sees_its_own_writes() {
    let cluster = Cluster::new();
    cluster.put("a", "below");
    cluster.put("b", "below");
    let client = cluster.client();
    let txn = begin(&client).await;
    txn.delete("a".into()).expect("small");
    txn.set("c".into(), "own".into()).expect("small");
    let statement = txn.checkpoint();
    txn.set("b".into(), "own".into()).expect("small");
    txn.rollback_to(statement);
    assert_eq!(txn.get(b"a").await, Ok(None));
    assert_eq!(txn.get(b"b").await, Ok(Some("below".into())));
    assert_eq!(txn.get(b"c").await, Ok(Some("own".into())));
    let found = txn.batch_get(&["a".into(), "b".into(), "c".into()]).await.expect("reads");
    assert_eq!(found.len(), 2);
    let own = txn.buffered_range(&crate::KeyRange::default(), true, 10);
    assert_eq!(own.iter().map(|pair| &pair.key[..]).collect::<Vec<_>>(), [b"c", b"a"]);
    txn.rollback().await.expect("ends");
    assert!(matches!(txn.commit().await, Err(KvError::TxnEnded { .. })));
    assert!(matches!(txn.set("z".into(), "1".into()), Err(KvError::TxnEnded { .. })));
    assert_eq!(cluster.value("c"), None);
}

#[tokio::test(start_paused = true)]
async fn point_reads_at_once() {
    let cluster = Cluster::new();
    cluster.put("a", "1");
    let client = cluster.client();
    let newest = client.snapshot(crate::txn::TimeStamp::MAX);
    assert_eq!(newest.try_get_now(&"a".into()), None);
    assert_eq!(newest.get(b"a").await, Ok(Some("1".into())));
    cluster.calls();
    assert_eq!(newest.try_get_now(&"a".into()), Some(Some("1".into())));
    assert_eq!(newest.try_get_now(&"none".into()), Some(None));
    assert!(cluster.calls().is_empty());
    // A living transaction is read past, but only until it has committed.
    let writer = cluster.ts();
    cluster.leave_lock("a", "a", writer, 60_000);
    assert_eq!(newest.try_get_now(&"a".into()), None);
    assert_eq!(newest.get(b"a").await, Ok(Some("1".into())));
    cluster.leave_lock("a", "b", writer, 60_000);
    cluster.put_committed("b", writer);
    assert_eq!(newest.get(b"a").await, Ok(Some("left".into())));
}
