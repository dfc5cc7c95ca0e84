//! Waiting for locks at a store of one region.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use cairn_engine::{Cf, KvEngine};
use cairn_kv_client::KvStoreService;
use cairn_proto::kv::{self, key_error, kv_request, kv_response};
use cairn_types::TimeStamp;
use tokio::task::JoinHandle;

use super::testing::MemoryKv;
use crate::mvcc::keys::user_key;
use crate::raftstore::MonotonicTime;
use crate::service::StoreService;

/// Start of the n-th transaction.
fn ts(n: u32) -> u64 {
    TimeStamp::compose(1_000, n.into()).0
}

/// A store and what it is asked.
struct Asked {
    kv: Arc<MemoryKv>,
    service: Arc<StoreService>,
}

impl Asked {
    fn new() -> Asked {
        let kv = MemoryKv::new();
        Asked { service: kv.service(), kv }
    }

    async fn ask(&self, cmd: kv_request::Cmd) -> kv_response::Cmd {
        let request = kv::KvRequest { context: Some(self.kv.context()), cmd: Some(cmd) };
        let response = self.service.call(request).await.expect("served here");
        response.cmd.expect("no region error")
    }

    fn locking(&self, start_ts: u64, request: &kv::PessimisticLockRequest) -> Locking {
        let (service, context) = (Arc::clone(&self.service), self.kv.context());
        let request = kv::PessimisticLockRequest {
            keys: vec![key()],
            primary: key(),
            start_ts,
            for_update_ts: start_ts,
            lock_ttl_ms: 10_000,
            ..request.clone()
        };
        let cmd = Some(kv_request::Cmd::PessimisticLock(request));
        tokio::spawn(async move {
            let request = kv::KvRequest { context: Some(context), cmd };
            match service.call(request).await.expect("served here").cmd {
                Some(kv_response::Cmd::PessimisticLock(response)) => response,
                other => panic!("{other:?}"),
            }
        })
    }

    /// Prewrites the key, which the transaction has locked.
    async fn prewrite(&self, start_ts: u64) -> kv::PrewriteResponse {
        let mutation =
            kv::Mutation { key: key(), is_locked: true, locked_ts: start_ts, ..Default::default() };
        let prewrite = kv::PrewriteRequest {
            mutations: vec![mutation],
            primary: key(),
            start_ts,
            for_update_ts: start_ts,
            ..Default::default()
        };
        match self.ask(kv_request::Cmd::Prewrite(prewrite)).await {
            kv_response::Cmd::Prewrite(response) => response,
            other => panic!("{other:?}"),
        }
    }

    async fn write_and_commit(&self, start_ts: u64, commit_ts: u64) {
        assert_eq!(self.prewrite(start_ts).await, kv::PrewriteResponse::default());
        let commit = kv::CommitRequest { keys: vec![key()], start_ts, commit_ts };
        let response = self.ask(kv_request::Cmd::Commit(commit)).await;
        assert_eq!(response, kv_response::Cmd::Commit(kv::CommitResponse::default()));
    }

    async fn give_back(&self, start_ts: u64) {
        let keys = vec![key()];
        let request = kv::PessimisticRollbackRequest { keys, start_ts, ..Default::default() };
        self.ask(kv_request::Cmd::PessimisticRollback(request)).await;
    }

    /// Changes replicated so far.
    fn writes(&self) -> u64 {
        self.kv.writes.load(Ordering::SeqCst)
    }

    /// Whether the engine knows of a lock.
    fn has_lasting_lock(&self) -> bool {
        self.kv.engine.snapshot().get(Cf::Lock, &user_key(&key())).unwrap().is_some()
    }

    /// Another leader, which knows what is in the engine.
    fn elect(&self) {
        self.kv.term.fetch_add(1, Ordering::SeqCst);
    }

    /// Until so many transactions wait.
    async fn until_waiting(&self, count: usize) {
        while self.service.lock_waiters() != count {
            tokio::task::yield_now().await;
        }
    }
}

type Locking = JoinHandle<kv::PessimisticLockResponse>;

fn key() -> Bytes {
    Bytes::from_static(b"k")
}

fn patient() -> kv::PessimisticLockRequest {
    kv::PessimisticLockRequest { wait_ms: 5_000, ..Default::default() }
}

/// The newer commit that the lock was taken despite of.
fn conflict(response: &kv::PessimisticLockResponse) -> u64 {
    assert_eq!(response.errors, []);
    response.results[0].conflict_ts
}

/// Who holds the lock that was refused.
fn holder(response: &kv::PessimisticLockResponse) -> u64 {
    match response.errors.first().and_then(|error| error.kind.as_ref()) {
        Some(key_error::Kind::Locked(lock)) => lock.start_ts,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn the_oldest_gets_the_lock_with_the_commit_it_missed() {
    let store = Asked::new();
    assert_eq!(conflict(&store.locking(ts(5), &patient()).await.unwrap()), 0);
    let younger = store.locking(ts(20), &patient());
    store.until_waiting(1).await;
    let older = store.locking(ts(10), &patient());
    store.until_waiting(2).await;
    store.write_and_commit(ts(5), ts(30)).await;
    assert_eq!(conflict(&older.await.unwrap()), ts(30));
    assert!(!younger.is_finished());
    store.give_back(ts(10)).await;
    assert_eq!(conflict(&younger.await.unwrap()), ts(30));
    store.until_waiting(0).await;
}

#[tokio::test(start_paused = true)]
async fn waiting_ends_in_time() {
    let store = Asked::new();
    store.locking(ts(5), &patient()).await.unwrap();
    let begun = tokio::time::Instant::now();
    assert_eq!(holder(&store.locking(ts(10), &patient()).await.unwrap()), ts(5));
    assert_eq!(begun.elapsed(), Duration::from_secs(5));
    let impatient = kv::PessimisticLockRequest::default();
    assert_eq!(holder(&store.locking(ts(10), &impatient).await.unwrap()), ts(5));
    assert_eq!(begun.elapsed(), Duration::from_secs(5));
    store.until_waiting(0).await;
}

#[tokio::test(start_paused = true)]
async fn who_may_deadlock_waits_for_nobody_it_has_not_asked_after() {
    let store = Asked::new();
    store.locking(ts(5), &patient()).await.unwrap();
    let unchecked = kv::PessimisticLockRequest { may_deadlock: true, ..patient() };
    assert_eq!(holder(&store.locking(ts(10), &unchecked).await.unwrap()), ts(5));
    let checked = kv::PessimisticLockRequest { checked_holder: ts(5), ..unchecked };
    let watching = store.locking(ts(20), &checked);
    store.until_waiting(1).await;
    let first = store.locking(ts(10), &patient());
    store.until_waiting(2).await;
    store.give_back(ts(5)).await;
    // The older one took the key: the other is told of its new holder.
    assert_eq!(conflict(&first.await.unwrap()), 0);
    assert_eq!(holder(&watching.await.unwrap()), ts(10));
}

#[tokio::test(start_paused = true)]
async fn a_transaction_that_ends_waits_no_more() {
    let store = Asked::new();
    store.locking(ts(5), &patient()).await.unwrap();
    let waiting = store.locking(ts(10), &patient());
    store.until_waiting(1).await;
    store.give_back(ts(10)).await;
    let response = waiting.await.unwrap();
    assert!(matches!(
        response.errors.first().and_then(|error| error.kind.as_ref()),
        Some(key_error::Kind::Abort(_))
    ));
    // One whose caller goes away leaves the queue, too.
    let gone = store.locking(ts(20), &patient());
    store.until_waiting(1).await;
    gone.abort();
    store.until_waiting(0).await;
}

#[tokio::test(start_paused = true)]
async fn the_leader_of_the_first_region_finds_circles() {
    let store = Asked::new();
    let ask = |waiter: u64, holder: u64| {
        let request = kv::DetectDeadlockRequest { waiter, holder, ..Default::default() };
        store.ask(kv_request::Cmd::DetectDeadlock(request))
    };
    let answer = |circle: &[(u64, u64)]| {
        let wait = |&(waiter, holder)| kv::LockWait { waiter, holder, ..Default::default() };
        let cycle = circle.iter().map(wait).collect();
        kv_response::Cmd::DetectDeadlock(kv::DetectDeadlockResponse { cycle })
    };
    assert_eq!(ask(1, 2).await, answer(&[]));
    assert_eq!(ask(2, 1).await, answer(&[(1, 2), (2, 1)]));
    let give_up = kv::DetectDeadlockRequest { waiter: 1, has_given_up: true, ..Default::default() };
    store.ask(kv_request::Cmd::DetectDeadlock(give_up)).await;
    assert_eq!(ask(2, 1).await, answer(&[]));
}

#[tokio::test(start_paused = true)]
async fn locks_are_in_the_leaders_memory_until_they_say_what_is_written() {
    let store = Asked::new();
    store.locking(ts(5), &patient()).await.unwrap();
    assert_eq!(holder(&store.locking(ts(10), &Default::default()).await.unwrap()), ts(5));
    store.give_back(ts(5)).await;
    store.locking(ts(10), &patient()).await.unwrap();
    assert_eq!((store.writes(), store.has_lasting_lock()), (0, false));
    assert_eq!(store.prewrite(ts(10)).await, kv::PrewriteResponse::default());
    assert_eq!((store.writes(), store.has_lasting_lock()), (1, true));
    // What memory knew of it is gone: the lock in the engine counts.
    let late = store.locking(ts(10), &patient()).await.unwrap();
    assert!(matches!(late.errors[0].kind, Some(key_error::Kind::Abort(_))));
}

#[tokio::test(start_paused = true)]
async fn locks_outlive_a_leader_that_hands_over() {
    let store = Asked::new();
    store.locking(ts(5), &patient()).await.unwrap();
    let logged = store.kv.locks.close(5, 1, MonotonicTime(0)).expect("a lock");
    // Not applied yet, and seen all the same.
    assert_eq!(holder(&store.locking(ts(10), &Default::default()).await.unwrap()), ts(5));
    store.kv.engine.write(logged, false).unwrap();
    assert_eq!(store.kv.locks.close(5, 1, MonotonicTime(0)), None);
    store.elect();
    assert_eq!(holder(&store.locking(ts(10), &Default::default()).await.unwrap()), ts(5));
    store.give_back(ts(5)).await;
    assert_eq!((store.writes(), store.has_lasting_lock()), (1, false));
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_does_not_hand_over_in_the_end_forgets_no_lock() {
    let store = Asked::new();
    store.locking(ts(5), &patient()).await.unwrap();
    let logged = store.kv.locks.close(5, 1, MonotonicTime(0)).expect("a lock");
    store.kv.engine.write(logged, false).unwrap();
    store.give_back(ts(5)).await;
    assert!(!store.has_lasting_lock());
    assert_eq!(conflict(&store.locking(ts(10), &patient()).await.unwrap()), 0);
}

#[tokio::test(start_paused = true)]
async fn a_lock_that_died_with_its_leader_is_done_without_if_nobody_came_between() {
    let store = Asked::new();
    store.locking(ts(5), &patient()).await.unwrap();
    store.elect();
    store.write_and_commit(ts(5), ts(6)).await;
}

#[tokio::test(start_paused = true)]
async fn a_lock_that_died_with_its_leader_fails_who_rests_on_it() {
    let lost = |response: kv::PrewriteResponse| {
        let kind = response.errors.into_iter().next().and_then(|error| error.kind);
        assert!(matches!(kind, Some(key_error::Kind::TxnLockNotFound(_))), "{kind:?}");
    };
    let store = Asked::new();
    store.locking(ts(5), &patient()).await.unwrap();
    store.elect();
    store.locking(ts(10), &patient()).await.unwrap();
    lost(store.prewrite(ts(5)).await);
    store.write_and_commit(ts(10), ts(11)).await;
    lost(store.prewrite(ts(5)).await);
}
