//! Waiting for locks at a store of one region.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use cairn_engine::{Cf, KvEngine};
use cairn_kv_client::KvStoreService;
use cairn_proto::kv::{self, key_error, kv_request, kv_response};
use cairn_types::TimeStamp;
use futures::FutureExt;
use tokio::sync::Semaphore;
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

    /// Shares the key, waiting if need be.
    fn sharing(&self, start_ts: u64) -> Locking {
        self.locking(start_ts, &shared())
    }

    /// Prewrites the key, which the transaction has locked.
    async fn prewrite(&self, start_ts: u64) -> kv::PrewriteResponse {
        self.prewrite_as(start_ts, kv::MutationOp::OpPut).await
    }

    /// Prewrites the key, which the transaction shares.
    async fn prewrite_share(&self, start_ts: u64) -> kv::PrewriteResponse {
        self.prewrite_as(start_ts, kv::MutationOp::OpLock).await
    }

    async fn prewrite_as(&self, start_ts: u64, op: kv::MutationOp) -> kv::PrewriteResponse {
        let mutation = kv::Mutation {
            op: op.into(),
            key: key(),
            is_locked: true,
            locked_ts: start_ts,
            is_shared: op == kv::MutationOp::OpLock,
            ..Default::default()
        };
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

    /// From here on the leader's memory takes no locks.
    fn replicate_locks(&self) {
        self.kv.locks.close(5, 1, MonotonicTime(0));
    }

    /// Proposals are applied one by one, as the test says.
    fn hold_back_applying(&self) {
        self.kv.applies.forget_permits(Semaphore::MAX_PERMITS);
    }

    /// Another leader, which knows what is in the engine.
    fn elect(&self) {
        self.kv.term.fetch_add(1, Ordering::SeqCst);
    }

    /// Until so many commands are under way, and have gone as far as they can.
    async fn until_running(&self, count: usize) {
        while self.service.running_commands() != count {
            tokio::task::yield_now().await;
        }
        for _ in 0..9 {
            tokio::task::yield_now().await;
        }
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

fn shared() -> kv::PessimisticLockRequest {
    kv::PessimisticLockRequest { is_shared: true, ..patient() }
}

/// All who hold the lock that was refused.
fn holders(response: &kv::PessimisticLockResponse) -> Vec<u64> {
    match response.errors.first().and_then(|error| error.kind.as_ref()) {
        Some(key_error::Kind::Locked(lock)) => lock.holders().map(|one| one.start_ts).collect(),
        other => panic!("{other:?}"),
    }
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
async fn a_lock_that_is_replicated_is_answered_once_it_is_proposed() {
    let store = Asked::new();
    store.replicate_locks();
    store.hold_back_applying();
    assert_eq!(conflict(&store.locking(ts(5), &patient()).await.unwrap()), 0);
    assert_eq!((store.writes(), store.service.pipelined_locks()), (0, 1));
    // The next command on the key waits until the lock is there.
    let next = store.locking(ts(10), &Default::default());
    store.until_running(2).await;
    store.kv.applies.add_permits(1);
    assert_eq!(holder(&next.await.unwrap()), ts(5));
    assert_eq!((store.writes(), store.has_lasting_lock()), (1, true));
    // What gives locks back, or makes them last, is answered when that is certain.
    let giving_back = store.give_back(ts(5));
    let mut giving_back = std::pin::pin!(giving_back);
    assert!((&mut giving_back).now_or_never().is_none());
    store.kv.applies.add_permits(1);
    giving_back.await;
    assert!(!store.has_lasting_lock());
    assert_eq!(store.service.pipelined_locks(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_lock_that_was_answered_and_then_refused_is_one_that_died_with_its_leader() {
    let store = Asked::new();
    store.locking(ts(5), &patient()).await.unwrap();
    let first = store.locking(ts(10), &patient());
    store.until_waiting(1).await;
    let second = store.locking(ts(20), &patient());
    store.until_waiting(2).await;
    store.replicate_locks();
    store.hold_back_applying();
    store.kv.applies.add_permits(1);
    store.give_back(ts(5)).await;
    assert_eq!(conflict(&first.await.unwrap()), 0);
    assert!(!second.is_finished());
    store.elect();
    store.kv.applies.add_permits(2);
    // It was the first one's turn, which needed it no more: the second has it.
    assert_eq!(conflict(&second.await.unwrap()), 0);
    let lost = store.prewrite(ts(10)).await.errors.into_iter().next().and_then(|error| error.kind);
    assert!(matches!(lost, Some(key_error::Kind::TxnLockNotFound(_))), "{lost:?}");
}

#[tokio::test(start_paused = true)]
async fn a_shared_lock_that_must_last_is_answered_when_it_is_applied() {
    let store = Asked::new();
    store.sharing(ts(5)).await.unwrap();
    assert_eq!(store.prewrite_share(ts(5)).await, kv::PrewriteResponse::default());
    store.hold_back_applying();
    let joining = store.sharing(ts(7));
    store.until_running(1).await;
    assert!(!joining.is_finished());
    store.kv.applies.add_permits(1);
    assert_eq!(conflict(&joining.await.unwrap()), 0);
    assert_eq!(store.service.pipelined_locks(), 0);
}

/// Were it lost with its leader, the share would come back and pass for it.
#[tokio::test(start_paused = true)]
async fn a_share_that_becomes_a_lock_is_answered_when_it_is_applied() {
    let store = Asked::new();
    store.replicate_locks();
    store.sharing(ts(5)).await.unwrap();
    assert!(store.has_lasting_lock());
    let pipelined = store.service.pipelined_locks();
    store.hold_back_applying();
    let alone = store.locking(ts(5), &patient());
    store.until_running(1).await;
    assert!(!alone.is_finished());
    store.kv.applies.add_permits(1);
    assert_eq!(conflict(&alone.await.unwrap()), 0);
    assert_eq!(store.service.pipelined_locks(), pipelined);
}

#[tokio::test(start_paused = true)]
async fn a_share_does_not_pass_for_a_lock() {
    let store = Asked::new();
    store.sharing(ts(5)).await.unwrap();
    store.sharing(ts(7)).await.unwrap();
    assert_eq!(store.prewrite_share(ts(7)).await, kv::PrewriteResponse::default());
    let commit = kv::CommitRequest { keys: vec![key()], start_ts: ts(7), commit_ts: ts(8) };
    store.ask(kv_request::Cmd::Commit(commit)).await;
    let lost = store.prewrite(ts(5)).await.errors.into_iter().next().and_then(|error| error.kind);
    assert!(matches!(lost, Some(key_error::Kind::TxnLockNotFound(_))), "{lost:?}");
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

#[tokio::test(start_paused = true)]
async fn who_wants_the_key_alone_waits_for_the_last_sharer() {
    let store = Asked::new();
    for n in [5, 7] {
        assert_eq!(conflict(&store.sharing(ts(n)).await.unwrap()), 0);
    }
    let at_once = kv::PessimisticLockRequest::default();
    assert_eq!(holders(&store.locking(ts(10), &at_once).await.unwrap()), [ts(5), ts(7)]);
    let waiting = store.locking(ts(10), &patient());
    store.until_waiting(1).await;
    store.give_back(ts(5)).await;
    store.until_waiting(1).await;
    assert_eq!(holders(&store.locking(ts(11), &at_once).await.unwrap()), [ts(7)]);
    store.give_back(ts(7)).await;
    assert_eq!(conflict(&waiting.await.unwrap()), 0);
    assert_eq!((store.writes(), store.has_lasting_lock()), (0, false));
}

#[tokio::test(start_paused = true)]
async fn sharers_do_not_overtake_an_older_claim() {
    let store = Asked::new();
    store.sharing(ts(5)).await.unwrap();
    let alone = store.locking(ts(10), &patient());
    store.until_waiting(1).await;
    // An older one goes in, younger ones queue up, and go in together.
    store.sharing(ts(7)).await.unwrap();
    let younger = [store.sharing(ts(20)), store.sharing(ts(30))];
    store.until_waiting(3).await;
    store.give_back(ts(5)).await;
    store.give_back(ts(7)).await;
    assert_eq!(conflict(&alone.await.unwrap()), 0);
    assert!(younger.iter().all(|one| !one.is_finished()));
    store.give_back(ts(10)).await;
    for one in younger {
        assert_eq!(conflict(&one.await.unwrap()), 0);
    }
    // One that waits no longer keeps those behind it out for a moment, in which it may come again.
    let short = kv::PessimisticLockRequest { wait_ms: 1_000, ..Default::default() };
    assert_eq!(holders(&store.locking(ts(25), &short).await.unwrap()), [ts(20), ts(30)]);
    let at_once = kv::PessimisticLockRequest { is_shared: true, ..Default::default() };
    assert_eq!(holders(&store.locking(ts(40), &at_once).await.unwrap()), [ts(20), ts(30)]);
    store.give_back(ts(25)).await;
    assert_eq!(conflict(&store.locking(ts(40), &at_once).await.unwrap()), 0);
}

#[tokio::test(start_paused = true)]
async fn who_asks_after_sharers_is_not_overtaken_by_more() {
    let store = Asked::new();
    store.sharing(ts(5)).await.unwrap();
    let unchecked = kv::PessimisticLockRequest { may_deadlock: true, ..patient() };
    assert_eq!(holders(&store.locking(ts(10), &unchecked).await.unwrap()), [ts(5)]);
    // While it asks whether it may wait, only older ones come in.
    let at_once = kv::PessimisticLockRequest { is_shared: true, ..Default::default() };
    assert_eq!(holders(&store.locking(ts(20), &at_once).await.unwrap()), [ts(5)]);
    let younger = store.sharing(ts(30));
    store.until_waiting(1).await;
    assert_eq!(conflict(&store.locking(ts(7), &at_once).await.unwrap()), 0);
    let checked = kv::PessimisticLockRequest { checked_holder: ts(5), ..unchecked.clone() };
    assert_eq!(holders(&store.locking(ts(10), &checked).await.unwrap()), [ts(5), ts(7)]);
    assert_eq!(holders(&store.locking(ts(20), &at_once).await.unwrap()), [ts(5), ts(7)]);
    let checked = kv::PessimisticLockRequest { more_checked_holders: vec![ts(7)], ..checked };
    let writer = store.locking(ts(10), &checked);
    store.until_waiting(2).await;
    store.give_back(ts(5)).await;
    store.give_back(ts(7)).await;
    assert_eq!(conflict(&writer.await.unwrap()), 0);
    assert!(!younger.is_finished());
    store.give_back(ts(10)).await;
    assert_eq!(conflict(&younger.await.unwrap()), 0);
    // One that has given up keeps nobody out, also those that queued up meanwhile.
    assert_eq!(holders(&store.locking(ts(15), &unchecked).await.unwrap()), [ts(30)]);
    let younger = store.sharing(ts(40));
    store.until_waiting(1).await;
    store.give_back(ts(15)).await;
    assert_eq!(conflict(&younger.await.unwrap()), 0);
}

#[tokio::test(start_paused = true)]
async fn the_last_sharer_has_the_key_before_older_ones_that_wait() {
    let store = Asked::new();
    store.sharing(ts(5)).await.unwrap();
    store.sharing(ts(30)).await.unwrap();
    let stranger = store.locking(ts(10), &patient());
    store.until_waiting(1).await;
    let checked =
        kv::PessimisticLockRequest { may_deadlock: true, checked_holder: ts(5), ..patient() };
    let upgrade = store.locking(ts(30), &checked);
    store.until_waiting(2).await;
    // Who knows of its rivals is told of one more.
    store.sharing(ts(7)).await.unwrap();
    assert_eq!(holders(&upgrade.await.unwrap()), [ts(5), ts(7)]);
    let checked = kv::PessimisticLockRequest { more_checked_holders: vec![ts(7)], ..checked };
    let upgrade = store.locking(ts(30), &checked);
    store.until_waiting(2).await;
    store.give_back(ts(5)).await;
    store.give_back(ts(7)).await;
    let locked = upgrade.await.unwrap();
    assert_eq!((conflict(&locked), locked.results[0].held_ts), (0, ts(30)));
    assert!(!stranger.is_finished());
    store.write_and_commit(ts(30), ts(40)).await;
    assert_eq!(conflict(&stranger.await.unwrap()), ts(40));
}

#[tokio::test(start_paused = true)]
async fn a_shared_lock_lasts_as_a_whole_once_one_holder_is_prewritten() {
    let store = Asked::new();
    store.sharing(ts(5)).await.unwrap();
    store.sharing(ts(7)).await.unwrap();
    assert_eq!((store.writes(), store.has_lasting_lock()), (0, false));
    assert_eq!(store.prewrite_share(ts(5)).await, kv::PrewriteResponse::default());
    assert_eq!((store.writes(), store.has_lasting_lock()), (1, true));
    // The next leader knows both.
    store.elect();
    let at_once = kv::PessimisticLockRequest::default();
    assert_eq!(holders(&store.locking(ts(10), &at_once).await.unwrap()), [ts(5), ts(7)]);
    let commit = kv::CommitRequest { keys: vec![key()], start_ts: ts(5), commit_ts: ts(20) };
    let response = store.ask(kv_request::Cmd::Commit(commit)).await;
    assert_eq!(response, kv_response::Cmd::Commit(kv::CommitResponse::default()));
    assert_eq!(holders(&store.locking(ts(10), &at_once).await.unwrap()), [ts(7)]);
    assert_eq!(store.prewrite_share(ts(7)).await, kv::PrewriteResponse::default());
    let commit = kv::CommitRequest { keys: vec![key()], start_ts: ts(7), commit_ts: ts(21) };
    store.ask(kv_request::Cmd::Commit(commit)).await;
    assert!(!store.has_lasting_lock());
}

#[tokio::test(start_paused = true)]
async fn a_shared_lock_outlives_a_leader_that_hands_over() {
    let store = Asked::new();
    store.sharing(ts(5)).await.unwrap();
    store.sharing(ts(7)).await.unwrap();
    let logged = store.kv.locks.close(5, 1, MonotonicTime(0)).expect("a lock");
    // Not applied yet, and seen all the same.
    let at_once = kv::PessimisticLockRequest::default();
    let refused = store.locking(ts(10), &at_once).await.unwrap();
    assert_eq!(holders(&refused), [ts(5), ts(7)]);
    store.kv.engine.write(logged, false).unwrap();
    store.sharing(ts(8)).await.unwrap();
    store.elect();
    let all = [ts(5), ts(7), ts(8)];
    assert_eq!(holders(&store.locking(ts(10), &at_once).await.unwrap()), all);
    for start_ts in all {
        store.give_back(start_ts).await;
    }
    assert!(!store.has_lasting_lock());
}

#[tokio::test(start_paused = true)]
async fn the_number_of_sharers_is_bounded() {
    let store = Asked::new();
    let at_once = kv::PessimisticLockRequest { is_shared: true, ..Default::default() };
    for n in 1..=128 {
        assert_eq!(conflict(&store.locking(ts(n), &at_once).await.unwrap()), 0);
    }
    assert_eq!(holders(&store.locking(ts(200), &at_once).await.unwrap()).len(), 128);
    let one_more = store.sharing(ts(200));
    store.until_waiting(1).await;
    store.give_back(ts(77)).await;
    assert_eq!(conflict(&one_more.await.unwrap()), 0);
}

#[tokio::test(start_paused = true)]
async fn locks_below_a_timestamp_are_listed_holder_by_holder() {
    let store = Asked::new();
    for n in [5, 7, 9] {
        store.sharing(ts(n)).await.unwrap();
    }
    let scan = kv::ScanLockRequest { max_ts: ts(7), limit: 1, ..Default::default() };
    let kv_response::Cmd::ScanLock(found) = store.ask(kv_request::Cmd::ScanLock(scan)).await else {
        panic!("another answer");
    };
    // The next page begins behind the key: all of its holders are on this one.
    let starts: Vec<u64> = found.locks.iter().map(|lock| lock.start_ts).collect();
    assert_eq!(starts, [ts(5), ts(7)]);
    assert!(found.locks.iter().all(|lock| lock.is_shared && lock.shared_with.is_empty()));
}

#[tokio::test(start_paused = true)]
async fn a_waiter_in_a_circle_with_one_of_several_holders_is_told() {
    let store = Asked::new();
    let wait = |waiter, holder, more_holders: &[u64]| {
        let more_holders = more_holders.to_vec();
        let request =
            kv::DetectDeadlockRequest { waiter, holder, more_holders, ..Default::default() };
        store.ask(kv_request::Cmd::DetectDeadlock(request))
    };
    let none = kv_response::Cmd::DetectDeadlock(kv::DetectDeadlockResponse::default());
    assert_eq!(wait(1, 2, &[3, 4]).await, none);
    let kv_response::Cmd::DetectDeadlock(found) = wait(4, 5, &[1]).await else {
        panic!("another answer");
    };
    let circle: Vec<(u64, u64)> = found.cycle.iter().map(|one| (one.waiter, one.holder)).collect();
    assert_eq!(circle, [(1, 4), (4, 1)]);
}
