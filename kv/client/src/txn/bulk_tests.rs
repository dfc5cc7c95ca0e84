//! Bulk transactions against the cluster in memory: what leaves memory early, what becomes of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;

use crate::testing::{Cluster, Fault};
use crate::txn::{BulkOptions, CommitKind, Transaction};
use crate::{ClientConfig, KvClient, KvError};

async fn begin(client: &Arc<KvClient>, flush_keys: usize) -> Transaction {
    let options = BulkOptions { flush_bytes: 1 << 20, flush_keys };
    client.begin_bulk(client.current_ts().await.expect("the mock serves"), options)
}

/// One row after the other, as statements write them.
async fn write(txn: &Transaction, rows: &[(&str, &str)]) -> Result<(), KvError> {
    for (key, value) in rows {
        let (key, value) = (Bytes::copy_from_slice(key.as_bytes()), value.as_bytes().to_vec());
        match value.as_slice() {
            b"-" => txn.delete(key)?,
            [b'+', value @ ..] => txn.insert(key, value.to_vec().into())?,
            _ => txn.set(key, value.into())?,
        }
        txn.flush_if_full().await?;
    }
    Ok(())
}

/// On the clock of heart beats.
async fn seconds_pass(count: u32) {
    for _ in 0..count {
        tokio::time::advance(Duration::from_secs(1)).await;
        tokio::task::yield_now().await;
    }
}

async fn settle(client: &Arc<KvClient>) {
    client.shutdown(Duration::from_secs(60)).await;
}

#[tokio::test(start_paused = true)]
async fn writes_leave_memory_and_are_read_back() {
    let cluster = Cluster::split_at(&["f", "p"]);
    cluster.put("b", "old");
    let client = cluster.client();
    let txn = begin(&client, 2).await;
    write(&txn, &[("b", "1"), ("g", "1"), ("c", "1"), ("b", "2"), ("g", "-"), ("q", "+1")])
        .await
        .expect("nothing is in the way");
    assert!(txn.has_flushed() && !txn.is_trivial());
    assert_eq!(txn.len(), 6);
    assert!(txn.size_bytes() <= 4, "the frozen two keys");
    let get = async |key: &str| txn.get(key.as_bytes()).await.expect("its own lock does not block");
    assert_eq!(get("b").await, Some("2".into()));
    assert_eq!(get("c").await, Some("1".into()));
    assert_eq!(get("g").await, None);
    assert_eq!(get("x").await, None);
    // What is below was there at the start.
    assert_eq!(txn.snapshot().get(b"b").await.expect("passes"), Some("old".into()));
    assert_eq!(cluster.value("b"), Some("old".into()));

    let info = txn.commit().await.expect("commits");
    assert_eq!(info.kind, CommitKind::TwoPhases);
    assert!(info.flush_wait.is_some());
    settle(&client).await;
    assert!(cluster.locked_keys().is_empty());
    let value = |key| cluster.value(key);
    assert_eq!((value("b"), value("c")), (Some("2".into()), Some("1".into())));
    assert_eq!((value("g"), value("q")), (None, Some("1".into())));
    assert!(matches!(txn.commit().await, Err(KvError::TxnEnded { .. })));
}

#[tokio::test(start_paused = true)]
async fn one_that_fits_commits_as_others_do() {
    let cluster = Cluster::split_at(&["f"]);
    let client = cluster.client();
    let txn = begin(&client, 10).await;
    write(&txn, &[("a", "1"), ("b", "1")]).await.expect("fits");
    assert!(!txn.has_flushed());
    cluster.calls();
    let info = txn.commit().await.expect("commits");
    assert_eq!((info.kind, info.flush_wait), (CommitKind::TwoPhases, Some(Duration::ZERO)));
    assert_eq!(cluster.calls(), ["prewrite@1", "commit@1"]);
}

#[tokio::test(start_paused = true)]
async fn a_size_limit_of_transactions_does_not_bind_it() {
    let cluster = Cluster::new();
    let client =
        cluster.client_with(ClientConfig { txn_size_bytes_max: 10, ..ClientConfig::default() });
    let options = BulkOptions { flush_bytes: 8, flush_keys: 100 };
    let txn = client.begin_bulk(cluster.ts(), options);
    for n in 0..50 {
        txn.set(format!("key{n}").into(), "value".into()).expect("no limit");
        txn.flush_if_full().await.expect("flushes");
        assert!(txn.size_bytes() < 30, "the buffer and the frozen one");
    }
    txn.commit().await.expect("commits");
    settle(&client).await;
    assert_eq!((cluster.value("key49"), cluster.locked_keys()), (Some("value".into()), vec![]));
}

#[tokio::test(start_paused = true)]
async fn a_rollback_leaves_nothing() {
    for lost in [None, Some(Fault::LostBefore), Some(Fault::LostAfter)] {
        let cluster = Cluster::split_at(&["f", "p"]);
        let client = cluster.client();
        let txn = begin(&client, 2).await;
        let rows = [("a", "1"), ("q", "1"), ("g", "1"), ("r", "1"), ("h", "1"), ("s", "1")];
        write(&txn, &rows).await.expect("nothing is in the way");
        if let Some(fault) = lost {
            cluster.fault("rollback", fault);
        }
        txn.rollback().await.expect("rolls back");
        settle(&client).await;
        assert!(cluster.locked_keys().is_empty());
        assert!(rows.iter().all(|(key, _)| cluster.value(key).is_none()));
    }
}

#[tokio::test(start_paused = true)]
async fn a_flush_that_fails_ends_the_transaction() {
    let cluster = Cluster::split_at(&["f", "p"]);
    let client = cluster.client();
    let txn = begin(&client, 2).await;
    write(&txn, &[("a", "1"), ("q", "1")]).await.expect("nothing is in the way");
    cluster.put("g", "by another");
    // The answer comes with a later row, or with the commit.
    let written = write(&txn, &[("g", "1"), ("h", "1"), ("i", "1"), ("j", "1")]).await;
    assert!(matches!(written, Err(KvError::WriteConflict { .. })), "{written:?}");
    let again = txn.commit().await;
    assert_eq!(again.map(|_| ()), written);
    settle(&client).await;
    assert!(cluster.locked_keys().is_empty());
    assert_eq!((cluster.value("a"), cluster.value("g")), (None, Some("by another".into())));
}

#[tokio::test(start_paused = true)]
async fn a_key_inserted_twice_exists_also_in_an_earlier_flush() {
    let cluster = Cluster::new();
    cluster.put("z", "old");
    let client = cluster.client();
    let txn = begin(&client, 2).await;
    let rows = [("a", "+1"), ("b", "+1"), ("b", "-"), ("c", "+1"), ("b", "+2"), ("d", "+1")];
    write(&txn, &rows).await.expect("it has made room itself");
    write(&txn, &[("a", "+2")]).await.expect("nobody has looked yet");
    let outcome = txn.commit().await;
    assert!(matches!(outcome, Err(KvError::KeyExists { .. })), "{outcome:?}");
    settle(&client).await;
    assert_eq!((cluster.locked_keys(), cluster.value("b")), (vec![], None));
}

#[tokio::test(start_paused = true)]
async fn answers_that_are_lost_change_nothing() {
    let faults = [
        ("prewrite", Fault::LostBefore),
        ("prewrite", Fault::LostAfter),
        ("prewrite", Fault::Split("h")),
        ("commit", Fault::LostBefore),
        ("commit", Fault::LostAfter),
        ("commit", Fault::Split("b")),
        ("resolve_lock", Fault::LostAfter),
        ("resolve_lock", Fault::Split("h")),
    ];
    for (kind, fault) in faults {
        let cluster = Cluster::split_at(&["f", "p"]);
        let client = cluster.client();
        let txn = begin(&client, 2).await;
        write(&txn, &[("a", "1"), ("q", "1")]).await.expect("nothing is in the way");
        cluster.fault(kind, fault.clone());
        write(&txn, &[("g", "1"), ("a", "2"), ("i", "1")]).await.expect("nothing is in the way");
        txn.commit().await.expect("commits");
        settle(&client).await;
        assert!(cluster.locked_keys().is_empty(), "{kind} {fault:?}");
        let values = ["a", "g", "i", "q"].map(|key| cluster.value(key).expect("written"));
        assert_eq!(values, ["2", "1", "1", "1"], "{kind} {fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn heart_beats_keep_it_and_without_them_others_go_on() {
    let cluster = Cluster::new();
    let client = cluster.client();
    let txn = begin(&client, 2).await;
    write(&txn, &[("a", "1"), ("b", "1")]).await.expect("nothing is in the way");
    for _ in 0..30 {
        cluster.advance_ms(1_000);
        seconds_pass(1).await;
    }
    let other = cluster.client();
    let read = other.snapshot(cluster.ts());
    assert_eq!(read.get(b"b").await.expect("readers pass"), None);
    write(&txn, &[("b", "2"), ("c", "1")]).await.expect("it lives");
    // The next flush waits for that one.
    write(&txn, &[("d", "1"), ("e", "1")]).await.expect("it lives");
    assert!(["a", "b", "c"].iter().all(|key| cluster.locked_keys().contains(&Bytes::from(*key))));
    // Its node dies.
    drop((txn, client));
    cluster.advance_ms(60_000);
    other.begin(cluster.ts()).commit().await.expect("trivial");
    let late = other.begin(cluster.ts());
    late.set("b".into(), "3".into()).expect("small");
    late.commit().await.expect("it has ended");
    assert_eq!((cluster.value("a"), cluster.value("b")), (None, Some("3".into())));
}

#[tokio::test(start_paused = true)]
async fn one_whose_locks_are_gone_does_not_go_on() {
    let cluster = Cluster::new();
    let client = cluster.client();
    let txn = begin(&client, 2).await;
    write(&txn, &[("a", "1"), ("b", "1")]).await.expect("nothing is in the way");
    seconds_pass(2).await;
    // Its node stands still for a minute, and somebody comes.
    cluster.advance_ms(60_000);
    let read = cluster.client().snapshot(cluster.ts());
    assert_eq!(read.get(b"a").await.expect("rolls it back"), None);
    seconds_pass(2).await;
    let more = write(&txn, &[("c", "1"), ("d", "1"), ("e", "1"), ("f", "1")]).await;
    assert!(matches!(more, Err(KvError::TxnAborted { .. })), "{more:?}");
    txn.rollback().await.expect("rolls back");
    settle(&client).await;
    assert!(cluster.locked_keys().is_empty());
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Set(u8, u8),
    /// Where nothing is.
    Insert(u8, u8),
    Delete(u8),
    Get(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..12u8, 0..9u8).prop_map(|(key, value)| Step::Set(key, value)),
        (0..12u8, 0..9u8).prop_map(|(key, value)| Step::Insert(key, value)),
        (0..12u8).prop_map(Step::Delete),
        (0..12u8).prop_map(Step::Get),
    ]
}

fn key(n: u8) -> Bytes {
    vec![b'a' + n].into()
}

async fn check(steps: Vec<Step>, flush_keys: usize) {
    let cluster = Cluster::split_at(&["d", "h"]);
    let mut model = BTreeMap::new();
    for n in [1, 4, 7, 10] {
        let key = key(n);
        cluster.put(std::str::from_utf8(&key).expect("a letter"), "old");
        model.insert(key, Bytes::from("old"));
    }
    let client = cluster.client();
    let txn = begin(&client, flush_keys).await;
    for step in steps {
        match step {
            Step::Set(n, value) => {
                txn.set(key(n), vec![value].into()).expect("small");
                model.insert(key(n), vec![value].into());
            }
            Step::Insert(n, value) => {
                if txn.get(&key(n)).await.expect("reads").is_none() {
                    txn.insert(key(n), vec![value].into()).expect("small");
                }
                model.entry(key(n)).or_insert_with(|| vec![value].into());
            }
            Step::Delete(n) => {
                txn.delete(key(n)).expect("small");
                model.remove(&key(n));
            }
            Step::Get(n) => {
                let found = txn.get(&key(n)).await.expect("reads");
                assert_eq!(found.as_ref(), model.get(&key(n)));
            }
        }
        txn.flush_if_full().await.expect("nothing is in the way");
    }
    txn.commit().await.expect("commits");
    settle(&client).await;
    assert!(cluster.locked_keys().is_empty());
    for n in 0..12 {
        let key = key(n);
        let value = cluster.value(std::str::from_utf8(&key).expect("a letter"));
        assert_eq!(value.as_ref(), model.get(&key), "{key:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Against a map, whatever was flushed when.
    #[test]
    fn equals_a_map(steps in proptest::collection::vec(step(), 0..60), flush_keys in 1..5usize) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime");
        runtime.block_on(check(steps, flush_keys));
    }
}
