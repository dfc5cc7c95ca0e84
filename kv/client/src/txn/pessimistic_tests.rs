//! Pessimistic transactions against the cluster in memory.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::keep_alive::LOCK_TTL_MS;
use super::pessimistic::{LockOptions, LockWait};
use crate::testing::{Cluster, Fault};
use crate::txn::Transaction;
use crate::{CommitKind, KvClient, KvError};

async fn begin(client: &Arc<KvClient>) -> Transaction {
    client.begin_pessimistic(client.current_ts().await.expect("the mock serves"))
}

fn options(wait: LockWait) -> LockOptions {
    LockOptions::new(wait)
}

fn patient() -> LockOptions {
    options(LockWait::AtMost(Duration::from_secs(50)))
}

fn keys(names: &[&'static str]) -> Vec<Bytes> {
    names.iter().copied().map(Bytes::from).collect()
}

async fn settle(client: &Arc<KvClient>) {
    client.shutdown(Duration::from_secs(60)).await;
}

/// Adds one to a counter as a statement would: reads, writes, locks, and starts over when the
/// counter was changed in between.
async fn raise(
    client: &Arc<KvClient>,
    txn: &Transaction,
    key: &'static str,
) -> Result<(), KvError> {
    txn.begin_statement(client.current_ts().await?);
    let mut statement = txn.checkpoint();
    loop {
        let value = txn.get(key.as_bytes()).await?;
        let value: u64 = value.map_or(0, |text| String::from_utf8_lossy(&text).parse().unwrap());
        txn.set(key.into(), (value + 1).to_string().into())?;
        txn.want_lock(|| key.into());
        txn.lock_wanted(&patient()).await?;
        if !txn.take_conflict() {
            txn.release(statement);
            return Ok(());
        }
        statement = txn.start_over(statement);
        txn.begin_statement(client.current_ts().await?);
    }
}

/// Until some store was asked for something of the kind; answers all that was asked for.
async fn until_asked(cluster: &Cluster, kind: &str) -> Vec<String> {
    let mut calls = Vec::new();
    while !calls.iter().any(|call: &String| call.starts_with(kind)) {
        tokio::task::yield_now().await;
        calls.extend(cluster.calls());
    }
    calls
}

#[tokio::test(start_paused = true)]
async fn locks_precede_the_commit_and_end_with_it() {
    for split in [&["f", "p"][..], &[]] {
        let cluster = Cluster::split_at(split);
        let client = cluster.client();
        let txn = begin(&client).await;
        for key in ["a", "m", "x"] {
            raise(&client, &txn, key).await.expect("nobody else is there");
        }
        assert_eq!(cluster.locked_keys(), ["a", "m", "x"]);
        let info = txn.commit().await.expect("commits");
        let expected = if split.is_empty() { CommitKind::OnePhase } else { CommitKind::Async };
        assert_eq!(info.kind, expected);
        settle(&client).await;
        assert!(cluster.locked_keys().is_empty());
        assert_eq!(cluster.value("m"), Some("1".into()));
    }
}

#[tokio::test(start_paused = true)]
async fn a_rollback_gives_the_locks_back() {
    let cluster = Cluster::split_at(&["f"]);
    let client = cluster.client();
    let txn = begin(&client).await;
    txn.lock_now(keys(&["a", "m"]), &patient()).await.expect("free");
    txn.rollback().await.expect("ends");
    settle(&client).await;
    assert!(cluster.locked_keys().is_empty());
    // One that only locked has nothing to commit.
    let txn = begin(&client).await;
    txn.lock_now(keys(&["a", "m"]), &patient()).await.expect("free");
    txn.commit().await.expect("ends");
    settle(&client).await;
    assert!(cluster.locked_keys().is_empty());
    assert!(!cluster.calls().iter().any(|call| call.starts_with("prewrite")));
}

#[tokio::test(start_paused = true)]
async fn a_conflict_is_locked_and_the_statement_starts_over() {
    let cluster = Cluster::new();
    let client = cluster.client();
    let txn = begin(&client).await;
    cluster.put("a", "5");
    txn.lock_now(keys(&["a"]), &patient()).await.expect("free");
    assert!(txn.take_conflict());
    assert!(!txn.take_conflict());
    raise(&client, &txn, "a").await.expect("held");
    txn.commit().await.expect("commits");
    assert_eq!(cluster.value("a"), Some("6".into()));
}

#[tokio::test(start_paused = true)]
async fn raises_of_many_are_neither_lost_nor_refused() {
    let cluster = Cluster::split_at(&["f"]);
    let client = cluster.client();
    let raises = (0..16).map(|_| {
        let client = client.clone();
        tokio::spawn(async move {
            let txn = begin(&client).await;
            // In one order, so that there is no circle.
            raise(&client, &txn, "a").await?;
            raise(&client, &txn, "m").await?;
            txn.commit().await
        })
    });
    for raised in futures::future::join_all(raises).await {
        raised.expect("no panic").expect("commits");
    }
    settle(&client).await;
    assert_eq!(cluster.value("a"), Some("16".into()));
    assert_eq!(cluster.value("m"), Some("16".into()));
}

#[tokio::test(start_paused = true)]
async fn who_closes_a_circle_fails_and_the_other_goes_on() {
    let cluster = Cluster::split_at(&["f"]);
    let client = cluster.client();
    let (first, second) = (begin(&client).await, begin(&client).await);
    raise(&client, &first, "a").await.expect("free");
    raise(&client, &second, "m").await.expect("free");
    let waiting = {
        let client = client.clone();
        tokio::spawn(async move {
            raise(&client, &first, "m").await?;
            first.commit().await
        })
    };
    until_asked(&cluster, "detect_deadlock").await;
    let error = raise(&client, &second, "a").await.expect_err("a circle");
    assert!(matches!(&error, KvError::Deadlock { cycle, .. } if cycle.len() == 2), "{error}");
    assert_eq!(error.mysql_code(), 1213);
    second.rollback().await.expect("ends");
    waiting.await.expect("no panic").expect("commits");
    assert_eq!(cluster.value("m"), Some("1".into()));
}

#[tokio::test(start_paused = true)]
async fn who_holds_nothing_asks_nobody_about_deadlocks() {
    let cluster = Cluster::new();
    let client = cluster.client();
    let holder = begin(&client).await;
    raise(&client, &holder, "a").await.expect("free");
    cluster.calls();
    let waiting = {
        let client = client.clone();
        tokio::spawn(async move {
            let txn = begin(&client).await;
            raise(&client, &txn, "a").await
        })
    };
    let mut calls = until_asked(&cluster, "pessimistic_lock").await;
    holder.commit().await.expect("commits");
    waiting.await.expect("no panic").expect("locked");
    calls.extend(cluster.calls());
    assert!(!calls.iter().any(|call| call.starts_with("detect")), "{calls:?}");
    assert_eq!(calls.iter().filter(|call| call.starts_with("pessimistic_lock")).count(), 1);
}

#[tokio::test(start_paused = true)]
async fn waiting_ends_as_it_was_ordered() {
    let cluster = Cluster::new();
    let client = cluster.client();
    let holder = begin(&client).await;
    holder.lock_now(keys(&["b"]), &patient()).await.expect("free");
    let txn = begin(&client).await;
    let error = txn.lock_now(keys(&["a", "b"]), &options(LockWait::NoWait)).await;
    assert!(matches!(&error, Err(KvError::LockNotAvailable { key }) if key.0 == "b"), "{error:?}");
    assert_eq!(error.expect_err("held").mysql_code(), 3572);
    let skipped = txn.lock_now(keys(&["a", "b", "c"]), &options(LockWait::Skip)).await;
    assert_eq!(skipped, Ok(keys(&["b"])));
    let begun = tokio::time::Instant::now();
    let wait = LockWait::AtMost(Duration::from_secs(5));
    let error = txn.lock_now(keys(&["b"]), &options(wait)).await.expect_err("held");
    assert!(matches!(error, KvError::LockTimeout { .. }), "{error}");
    assert!(begun.elapsed() >= Duration::from_secs(5), "{:?}", begun.elapsed());
    assert!(begun.elapsed() < Duration::from_secs(7), "{:?}", begun.elapsed());
    let impatient = patient();
    impatient.cancel.cancel();
    assert_eq!(txn.lock_now(keys(&["b"]), &impatient).await, Err(KvError::Cancelled));
    txn.rollback().await.expect("ends");
    holder.rollback().await.expect("ends");
    settle(&client).await;
    assert!(cluster.locked_keys().is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_primary_is_never_one_that_was_left_out() {
    let cluster = Cluster::split_at(&["f"]);
    let client = cluster.client();
    let holder = begin(&client).await;
    holder.lock_now(keys(&["a"]), &patient()).await.expect("free");
    let txn = begin(&client).await;
    let skipped = txn.lock_now(keys(&["a", "b", "m"]), &options(LockWait::Skip)).await;
    assert_eq!(skipped, Ok(keys(&["a"])));
    txn.set("m".into(), "1".into()).expect("small");
    txn.commit().await.expect("commits");
    settle(&client).await;
    assert_eq!(cluster.locked_keys(), ["a"]);
    assert_eq!(cluster.value("m"), Some("1".into()));
}

#[tokio::test(start_paused = true)]
async fn locks_of_the_dead_do_not_hold_anybody_up() {
    let cluster = Cluster::split_at(&["f"]);
    let client = cluster.client();
    let dead = begin(&client).await;
    dead.lock_now(keys(&["m"]), &patient()).await.expect("free");
    // No heart beat comes in between: the clock jumps.
    cluster.advance_ms(60_000);
    let txn = begin(&client).await;
    txn.lock_now(keys(&["m"]), &patient()).await.expect("its holder's time is over");
    dead.set("m".into(), "1".into()).expect("small");
    let error = dead.commit().await.expect_err("it was rolled back");
    assert!(matches!(error, KvError::TxnAborted { .. } | KvError::WriteConflict { .. }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn locks_outlive_a_time_without_pd() {
    let cluster = Cluster::split_at(&["f"]);
    let client = cluster.client();
    let txn = begin(&client).await;
    raise(&client, &txn, "m").await.expect("free");
    cluster.set_pd_away(true);
    for _ in 0..300 {
        tokio::time::advance(Duration::from_millis(100)).await;
        cluster.advance_ms(100);
    }
    cluster.set_pd_away(false);
    let other = begin(&client).await;
    let error = other.lock_now(keys(&["m"]), &options(LockWait::NoWait)).await;
    assert!(matches!(error, Err(KvError::LockNotAvailable { .. })), "{error:?}");
    txn.commit().await.expect("its locks are alive");
    assert_eq!(cluster.value("m"), Some("1".into()));
}

#[tokio::test(start_paused = true)]
async fn a_lock_that_comes_late_lives_as_long() {
    use cairn_proto::kv::NotLeader;
    use cairn_proto::kv::region_error::Kind;
    let cluster = Cluster::new();
    let client = cluster.client();
    let txn = begin(&client).await;
    for _ in 0..30 {
        let no_leader = Kind::NotLeader(NotLeader::default());
        cluster.fault("pessimistic_lock", Fault::Region(no_leader));
    }
    let begun_at = tokio::time::Instant::now();
    txn.lock_now(keys(&["a"]), &patient()).await.expect("a leader in the end");
    let took_ms = u64::try_from(begun_at.elapsed().as_millis()).unwrap();
    assert!(took_ms > LOCK_TTL_MS, "{took_ms}");
    cluster.advance_ms(took_ms);
    let other = begin(&client).await;
    let error = other.lock_now(keys(&["a"]), &options(LockWait::NoWait)).await;
    assert!(matches!(error, Err(KvError::LockNotAvailable { .. })), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn a_commit_without_pd_gives_the_locks_back() {
    let cluster = Cluster::split_at(&["f"]);
    let client = cluster.client();
    let txn = begin(&client).await;
    raise(&client, &txn, "a").await.expect("free");
    raise(&client, &txn, "m").await.expect("free");
    cluster.set_pd_away(true);
    let error = txn.commit().await.expect_err("nobody says when");
    assert!(matches!(error, KvError::Pd(_)), "{error}");
    settle(&client).await;
    assert!(cluster.locked_keys().is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_optimistic_transaction_gives_way_to_a_lock() {
    let cluster = Cluster::new();
    let client = cluster.client();
    let holder = begin(&client).await;
    holder.lock_now(keys(&["a"]), &patient()).await.expect("free");
    let other = client.begin(cluster.ts());
    other.set("a".into(), "1".into()).expect("small");
    let error = other.commit().await.expect_err("locked");
    assert!(matches!(error, KvError::WriteConflict { .. }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn faults_on_the_way_lose_no_lock_and_leave_none() {
    use cairn_proto::kv::region_error::Kind;
    use cairn_proto::kv::{NotLeader, StaleCommand};
    let faults = [
        Fault::Region(Kind::NotLeader(NotLeader::default())),
        Fault::Region(Kind::StaleCommand(StaleCommand {})),
        Fault::LostBefore,
        Fault::LostAfter,
        Fault::Split("b"),
        Fault::Split("m"),
        Fault::LeaderTo(2),
    ];
    for kind in ["pessimistic_lock", "prewrite", "commit", "pessimistic_rollback"] {
        for fault in &faults {
            let cluster = Cluster::split_at(&["f"]);
            let client = cluster.client();
            cluster.fault(kind, fault.clone());
            let txn = begin(&client).await;
            for key in ["a", "m"] {
                raise(&client, &txn, key).await.expect("locks");
            }
            assert_eq!(cluster.locked_keys(), ["a", "m"], "{kind} {fault:?}");
            txn.commit().await.expect("commits");
            let given_up = begin(&client).await;
            given_up.lock_now(keys(&["c", "n"]), &patient()).await.expect("free");
            given_up.rollback().await.expect("ends");
            settle(&client).await;
            assert!(cluster.locked_keys().is_empty(), "{kind} {fault:?}");
            assert_eq!(cluster.value("a"), Some("1".into()), "{kind} {fault:?}");
            assert_eq!(cluster.value("m"), Some("1".into()), "{kind} {fault:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_noted_is_read_and_neither_written_nor_locked() {
    let cluster = Cluster::split_at(&["f", "p"]);
    let client = cluster.client();
    let txn = begin(&client).await;
    raise(&client, &txn, "m").await.expect("nobody else is there");
    txn.note("a".into(), "noted".into()).expect("unlimited");
    txn.note("x".into(), "noted".into()).expect("unlimited");
    assert_eq!(txn.get(b"a").await, Ok(Some("noted".into())));
    let own = txn.buffered_range(&crate::KeyRange::default(), false, 10);
    assert_eq!(own.iter().map(|pair| &pair.key[..]).collect::<Vec<_>>(), [b"a", b"m", b"x"]);
    // Somebody else may write what the transaction leaves alone.
    cluster.put("a", "theirs");
    let info = txn.commit().await.expect("nothing is in its way");
    assert_eq!(info.kind, CommitKind::OnePhase, "only one region is written to");
    settle(&client).await;
    assert!(cluster.locked_keys().is_empty());
    assert_eq!(cluster.value("a"), Some("theirs".into()));
    assert_eq!(cluster.value("x"), None);
}
