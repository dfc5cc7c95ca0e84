//! Async commit against the cluster in memory: what the caller is told, and what others make of
//! the locks of a client that went away.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cairn_proto::kv::StaleCommand;
use cairn_proto::kv::region_error::Kind;
use cairn_types::TimeStamp;

use crate::testing::{AsyncLock, Cluster, Fault};
use crate::txn::{CommitKind, CommitModes, Transaction};
use crate::{ClientConfig, KeyRange, KvClient, KvError};

const KEYS: [&str; 3] = ["a", "m", "x"];

fn impatient() -> ClientConfig {
    ClientConfig {
        request_timeout_ms: 5_000,
        lock_wait_timeout_ms: 1_000,
        commit_check_timeout_ms: 2_000,
        ..ClientConfig::default()
    }
}

async fn transfer(client: &Arc<KvClient>) -> Transaction {
    let txn = client.begin(client.current_ts().await.expect("the mock serves"));
    for key in KEYS {
        txn.set(key.into(), "1".into()).expect("small");
    }
    txn
}

async fn settle(client: &Arc<KvClient>) {
    client.shutdown(Duration::from_secs(60)).await;
}

/// What a view of now shows of the keys.
async fn seen(client: &Arc<KvClient>) -> Vec<bool> {
    let view = client.snapshot(client.current_ts().await.expect("the mock serves"));
    let mut seen = Vec::new();
    for key in KEYS {
        seen.push(view.get(key.as_bytes()).await.expect("reads") == Some("1".into()));
    }
    seen
}

/// Locks of a client that went away amid its prewrites.
fn leave_locks(cluster: &Cluster, keys: &[&str], start_ts: TimeStamp) {
    for (position, key) in keys.iter().enumerate() {
        let others = if *key == "a" { &KEYS[1..] } else { &[] };
        cluster.leave_async_lock(AsyncLock {
            key,
            primary: "a",
            start_ts,
            ttl_ms: 3_000,
            min_commit_ts: TimeStamp(start_ts.0 + 1 + position as u64),
            secondaries: others,
        });
    }
}

/// Nothing that the client does behind its caller's back arrives.
fn cut_background_off(cluster: &Cluster) {
    for _ in 0..2_000 {
        cluster.fault("commit", Fault::LostBefore);
    }
}

#[tokio::test(start_paused = true)]
async fn answered_once_all_locks_stand() {
    let cluster = Cluster::split_at(&["f", "p"]);
    let client = cluster.client();
    let info = transfer(&client).await.commit().await.expect("commits");
    assert_eq!(info.kind, CommitKind::Async);
    assert!(!info.one_pc_fallback && !info.async_commit_fallback);
    assert_eq!(cluster.calls(), ["prewrite@1"; 3], "nothing else was waited for");
    settle(&client).await;
    assert_eq!(cluster.calls(), ["commit@1"; 3]);
    assert!(cluster.locked_keys().is_empty());
    let below = client.snapshot(info.commit_ts.prev());
    assert_eq!(below.get(b"a").await, Ok(None));
    assert_eq!(client.snapshot(info.commit_ts).get(b"x").await, Ok(Some("1".into())));
}

#[tokio::test(start_paused = true)]
async fn an_answered_commit_outlives_its_client() {
    for late_ms in [0, 10_000] {
        let cluster = Cluster::split_at(&["f", "p"]);
        let client = cluster.client_with(impatient());
        cut_background_off(&cluster);
        let txn = transfer(&client).await;
        // A view of before does not wait for what it cannot see.
        let before = client.snapshot(cluster.ts());
        let info = txn.commit().await.expect("commits");
        settle(&client).await;
        assert_eq!(cluster.locked_keys().len(), 3);
        cluster.advance_ms(late_ms);
        let other = cluster.client_with(impatient());
        assert_eq!(seen(&other).await, [true; 3]);
        assert_eq!(before.get(b"m").await, Ok(None));
        assert!(cluster.locked_keys().is_empty());
        assert_eq!(other.snapshot(info.commit_ts).get(b"m").await, Ok(Some("1".into())));
    }
}

#[tokio::test(start_paused = true)]
async fn the_newest_read_sees_an_answered_commit() {
    let cluster = Cluster::split_at(&["f", "p"]);
    let client = cluster.client_with(impatient());
    cut_background_off(&cluster);
    transfer(&client).await.commit().await.expect("commits");
    for key in KEYS {
        let newest = cluster.client_with(impatient()).snapshot(TimeStamp::MAX);
        assert_eq!(newest.get(key.as_bytes()).await, Ok(Some("1".into())));
    }
}

#[tokio::test(start_paused = true)]
async fn a_missing_lock_ends_a_dead_transaction() {
    for standing in [&["a", "m"][..], &["a", "x"], &["a"], &["m", "x"]] {
        let cluster = Cluster::split_at(&["f", "p"]);
        let start_ts = cluster.ts();
        leave_locks(&cluster, standing, start_ts);
        let reader = cluster.client_with(impatient());
        // While it may live, it is waited for.
        let view = reader.snapshot(cluster.ts());
        let error = view.get(standing[0].as_bytes()).await;
        assert!(error.is_err(), "{standing:?} {error:?}");
        assert_eq!(cluster.locked_keys().len(), standing.len());
        cluster.advance_ms(4_000);
        assert_eq!(seen(&reader).await, [false; 3]);
        assert!(cluster.locked_keys().is_empty());
        // What was on its way comes too late.
        assert!(KEYS.iter().any(|key| cluster.is_rolled_back(key, start_ts)));
    }
}

#[tokio::test(start_paused = true)]
async fn garbage_collection_finds_what_became_of_the_dead() {
    for (standing, is_committed) in [(&KEYS[..], true), (&KEYS[..2], false)] {
        let cluster = Cluster::split_at(&["f", "p"]);
        leave_locks(&cluster, standing, cluster.ts());
        cluster.advance_ms(4_000);
        let client = cluster.client_with(impatient());
        let safe_point = cluster.ts();
        client.resolve_locks_below(safe_point, KeyRange::default()).await.expect("resolves");
        assert!(cluster.locked_keys().is_empty());
        let values: Vec<bool> =
            KEYS.iter().map(|key| cluster.value(key) == Some("left".into())).collect();
        assert_eq!(values, [is_committed; 3]);
    }
}

#[tokio::test(start_paused = true)]
async fn one_ordinary_lock_means_two_phases() {
    let cluster = Cluster::split_at(&["f", "p"]);
    let client = cluster.client_with(impatient());
    cluster.fault("prewrite", Fault::NoAsyncCommit);
    let info = transfer(&client).await.commit().await.expect("commits");
    assert_eq!(info.kind, CommitKind::TwoPhases);
    assert!(info.async_commit_fallback);
    settle(&client).await;
    assert_eq!(seen(&client).await, [true; 3]);
    // A client that goes away before the second phase has not committed.
    let cluster = Cluster::split_at(&["f", "p"]);
    let start_ts = cluster.ts();
    leave_locks(&cluster, &["a", "m"], start_ts);
    cluster.leave_lock("x", "a", start_ts, 3_000);
    cluster.advance_ms(4_000);
    let reader = cluster.client_with(impatient());
    assert_eq!(seen(&reader).await, [false; 3]);
    assert!(cluster.locked_keys().is_empty());
    assert_eq!(cluster.value("m"), None);
}

#[tokio::test(start_paused = true)]
async fn writers_do_not_lose_to_an_answered_commit() {
    let cluster = Cluster::split_at(&["f", "p"]);
    let client = cluster.client_with(impatient());
    cut_background_off(&cluster);
    let pessimistic = client.begin_pessimistic(client.current_ts().await.expect("serves"));
    let keys = KEYS.map(Bytes::from).to_vec();
    let options = crate::LockOptions::new(crate::LockWait::NoWait);
    pessimistic.lock_now(keys.clone(), &options).await.expect("free");
    for key in KEYS {
        pessimistic.set(key.into(), "1".into()).expect("small");
    }
    assert_eq!(pessimistic.commit().await.expect("commits").kind, CommitKind::Async);
    settle(&client).await;
    // Without waiting, and without giving way to it.
    let other = cluster.client_with(impatient());
    let next = other.begin_pessimistic(other.current_ts().await.expect("serves"));
    next.lock_now(vec!["m".into()], &options).await.expect("free");
    assert!(next.take_conflict() || cluster.value("m") == Some("1".into()));
    let optimistic = other.begin(other.current_ts().await.expect("serves"));
    optimistic.set("x".into(), "2".into()).expect("small");
    optimistic.commit().await.expect("nobody is in its way");
}

#[tokio::test(start_paused = true)]
async fn each_transaction_may_choose_two_phases() {
    let cluster = Cluster::split_at(&["f", "p"]);
    let client = cluster.client();
    let txn = transfer(&client).await;
    txn.set_commit_modes(CommitModes::TWO_PHASES);
    let info = txn.commit().await.expect("commits");
    assert_eq!(info.kind, CommitKind::TwoPhases);
    assert!(!info.one_pc_fallback && !info.async_commit_fallback);
}

#[tokio::test(start_paused = true)]
async fn large_transactions_take_two_phases() {
    for (count, key_bytes, expected) in [
        (256, 8, CommitKind::Async),
        (257, 8, CommitKind::TwoPhases),
        (10, 409, CommitKind::Async),
        (10, 410, CommitKind::TwoPhases),
    ] {
        let cluster = Cluster::split_at(&["00000005"]);
        let client = cluster.client();
        let txn = client.begin(cluster.ts());
        for number in 0..count {
            let mut key = format!("{number:08}").into_bytes();
            key.resize(key_bytes, b'.');
            txn.set(key.into(), "v".into()).expect("small");
        }
        let info = txn.commit().await.expect("commits");
        assert_eq!(info.kind, expected, "{count} keys of {key_bytes} bytes");
    }
    // A check leaves no lock that could tell of its success.
    let cluster = Cluster::split_at(&["f"]);
    let client = cluster.client();
    let txn = client.begin(cluster.ts());
    txn.set("a".into(), "1".into()).expect("small");
    txn.insert("m".into(), "1".into()).expect("small");
    txn.delete("m".into()).expect("small");
    assert_eq!(txn.commit().await.expect("commits").kind, CommitKind::TwoPhases);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_committed_behind_the_end_of_the_lease() {
    let cluster = Cluster::split_at(&["f", "p"]);
    let client = cluster.client_with(impatient());
    let txn = transfer(&client).await;
    txn.set_commit_lease(Arc::new(|| Duration::from_secs(1)));
    assert_eq!(txn.commit().await.expect("commits").kind, CommitKind::Async);
    settle(&client).await;
    // Stores decline what lies behind it, and before the second phase it is asked after.
    cluster.fault("prewrite", Fault::NoAsyncCommit);
    let client = cluster.client_with(impatient());
    let txn = transfer(&client).await;
    txn.set_commit_lease(Arc::new(|| Duration::ZERO));
    let error = txn.commit().await.expect_err("too late");
    assert!(matches!(error, KvError::TxnAborted { .. }), "{error}");
    settle(&client).await;
    assert!(cluster.locked_keys().is_empty());
}

/// Faults in every order: an error is true, and so is a success.
#[tokio::test(start_paused = true)]
async fn outcomes_are_told_as_they_are() {
    const KINDS: [&str; 4] = ["prewrite", "check_txn_status", "check_secondary_locks", "commit"];
    let mut outcomes = [0; 3];
    for seed in 0u64..600 {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut draw = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) % below
        };
        let cluster = Cluster::split_at(&["f", "p"]);
        let client = cluster.client_with(ClientConfig {
            request_timeout_ms: 300,
            commit_check_timeout_ms: 300,
            concurrency: 1 + draw(3) as usize,
            ..impatient()
        });
        let txn = transfer(&client).await;
        if draw(4) == 0 {
            cluster.put(KEYS[draw(3) as usize], "other");
        }
        for _ in 0..draw(40) {
            let fault = match draw(6) {
                0 => Fault::LostBefore,
                1 | 2 => Fault::LostAfter,
                3 => Fault::NoAsyncCommit,
                4 => Fault::Region(Kind::StaleCommand(StaleCommand {})),
                _ => Fault::Split(["c", "n", "z"][draw(3) as usize]),
            };
            let kind = match &fault {
                Fault::NoAsyncCommit => "prewrite",
                _ => KINDS[draw(4) as usize],
            };
            cluster.fault(kind, fault);
        }
        let outcome = txn.commit().await;
        settle(&client).await;
        cluster.calm();
        cluster.advance_ms(60_000);
        let seen = seen(&cluster.client()).await;
        let told = format!("seed {seed}: {outcome:?}");
        match outcome {
            Ok(_) => {
                assert_eq!(seen, [true; 3], "{told}");
                outcomes[0] += 1;
            }
            Err(KvError::UndeterminedCommit { .. }) => {
                assert!(seen == [true; 3] || seen == [false; 3], "{told} {seen:?}");
                outcomes[1] += 1;
            }
            Err(_) => {
                assert_eq!(seen, [false; 3], "{told}");
                outcomes[2] += 1;
            }
        }
        assert!(cluster.locked_keys().is_empty(), "{told}");
    }
    assert!(outcomes.iter().all(|count| *count > 10), "{outcomes:?}");
}
