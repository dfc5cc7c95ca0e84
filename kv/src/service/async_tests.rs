//! Async commit through the scheduler, and from end to end: what readers have seen bounds the
//! locks, and a client that dies amid a commit leaves one outcome.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use cairn_kv_client::{
    ClientConfig, CommitKind, CoprocessorStream, KvClient, KvError, KvStoreService, LocalConnector,
    TransportError,
};
use cairn_proto::kv::{self, key_error, kv_request::Cmd, kv_response};

use super::node_tests::{call as call_node, start};
use super::testing::{FakePd, MemoryKv};
use super::tests::{commit, get, prewrite, put};

fn async_put(key: &str, start_ts: u64) -> kv::PrewriteRequest {
    kv::PrewriteRequest { use_async_commit: true, ..put(key, "1", start_ts) }
}

#[tokio::test]
async fn locks_lie_above_what_was_read() {
    let kv = MemoryKv::new();
    let (service, context) = (kv.service(), kv.context());
    // The first of a term asks PD, which stands at 1000.
    let response = prewrite(&service, &context, async_put("a", 10)).await;
    assert_eq!(response.min_commit_ts, 1001);
    assert!(get(&service, &context, "b", 2000).await.error.is_none());
    let response = prewrite(&service, &context, async_put("b", 1500)).await;
    assert_eq!(response.min_commit_ts, 2001);
    // Below its lock readers pass; they come too late to move it.
    assert!(get(&service, &context, "b", 2000).await.error.is_none());
    assert!(get(&service, &context, "b", 3000).await.error.is_some());
    let response = prewrite(&service, &context, async_put("b", 1500)).await;
    assert_eq!(response.min_commit_ts, 2001);
    assert_eq!(commit(&service, &context, "b", 1500, 2001).await, None);
    // A new leader does not know what was read elsewhere.
    kv.term.fetch_add(1, Ordering::SeqCst);
    let response = prewrite(&service, &context, async_put("c", 1600)).await;
    assert_eq!(response.min_commit_ts, 3001);
}

#[tokio::test]
async fn a_bound_below_makes_ordinary_locks() {
    let kv = MemoryKv::new();
    let (service, context) = (kv.service(), kv.context());
    let bounded = kv::PrewriteRequest { max_commit_ts: 1000, ..async_put("a", 10) };
    let response = prewrite(&service, &context, bounded).await;
    assert_eq!((response.min_commit_ts, response.errors), (0, vec![]));
    // For good: the client has been told to go on in two phases.
    let response = prewrite(&service, &context, async_put("a", 10)).await;
    assert_eq!(response.min_commit_ts, 0);
    // So does a reader of the far future, whose timestamp PD never gave.
    get(&service, &context, "b", u64::MAX - 1).await;
    let response = prewrite(&service, &context, async_put("b", 2000)).await;
    assert_eq!((response.min_commit_ts, response.errors), (0, vec![]));
}

/// While the lock is being replicated a reader either raises it or meets it.
#[tokio::test]
async fn readers_and_locks_do_not_miss_each_other() {
    let kv = MemoryKv::new();
    let (service, context) = (kv.service(), kv.context());
    prewrite(&service, &context, async_put("first of the term", 10)).await;
    let (mut raised, mut met) = (0, 0);
    for round in 0..40u64 {
        let (start_ts, read_ts) = (2_000 + 100 * round, 2_050 + 100 * round);
        let key = format!("key{round}");
        let read = async {
            for _ in 0..round % 8 {
                tokio::task::yield_now().await;
            }
            get(&service, &context, &key, read_ts).await
        };
        let lock = async {
            for _ in 0..4 {
                tokio::task::yield_now().await;
            }
            prewrite(&service, &context, async_put(&key, start_ts)).await
        };
        let (response, read) = tokio::join!(lock, read);
        match read.error.and_then(|error| error.kind) {
            None => {
                assert!(response.min_commit_ts > read_ts, "{round}");
                raised += 1;
            }
            Some(key_error::Kind::Locked(lock)) => {
                assert!(lock.use_async_commit && lock.min_commit_ts <= read_ts, "{round}");
                met += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(raised > 0 && met > 0, "{raised} {met}");
}

/// A connection of a client that dies: nothing of some kind leaves it, and then nothing at all.
struct Dying {
    service: Arc<dyn KvStoreService>,
    last_words: fn(&Cmd) -> bool,
    is_dead: AtomicBool,
}

#[async_trait]
impl KvStoreService for Dying {
    async fn call(&self, request: kv::KvRequest) -> Result<kv::KvResponse, TransportError> {
        if request.cmd.as_ref().is_some_and(self.last_words) {
            self.is_dead.store(true, Ordering::SeqCst);
        }
        if self.is_dead.load(Ordering::SeqCst) {
            return Err(TransportError::Unreachable {
                address: "the store".into(),
                reason: "the client died".into(),
            });
        }
        self.service.call(request).await
    }

    async fn coprocessor(
        &self,
        request: kv::CoprocessorRequest,
    ) -> Result<CoprocessorStream, TransportError> {
        self.service.coprocessor(request).await
    }

    async fn store_info(&self) -> Result<kv::StoreInfoResponse, TransportError> {
        self.service.store_info().await
    }
}

/// A client that dies when it is about to send what `last_words` says.
fn mortal(
    node_id: u64,
    service: Arc<dyn KvStoreService>,
    last_words: fn(&Cmd) -> bool,
) -> LocalConnector {
    let connector = LocalConnector::new();
    let dying = Dying { service, last_words, is_dead: AtomicBool::new(false) };
    connector.register(node_id, Arc::new(dying));
    connector
}

fn is_commit(cmd: &Cmd) -> bool {
    matches!(cmd, Cmd::Commit(_))
}

fn prewrites_z(cmd: &Cmd) -> bool {
    matches!(cmd, Cmd::Prewrite(request) if request.mutations.iter().any(|one| one.key == "z"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_client_leaves_one_outcome() {
    let folder = tempfile::tempdir().unwrap();
    let pd = FakePd::new(9);
    let node = start(&folder, &pd).await.unwrap();
    let split = kv::SplitRegionRequest { keys: vec!["k".into()] };
    call_node(&node, b"a", Cmd::SplitRegion(split)).await;
    // One request at a time, so that "a" is locked when the client dies over "z".
    let config = ClientConfig {
        request_timeout_ms: 500,
        commit_check_timeout_ms: 500,
        concurrency: 1,
        ..ClientConfig::default()
    };
    let connect = |connector: LocalConnector| {
        KvClient::new(Arc::clone(&pd) as _, Arc::new(connector), config.clone())
    };
    for (round, last_words, is_committed) in
        [("1", is_commit as fn(&Cmd) -> bool, true), ("2", prewrites_z, false)]
    {
        let dying = connect(mortal(node.store_id(), node.service(), last_words));
        let txn = dying.begin(dying.current_ts().await.unwrap());
        for key in ["a", "z"] {
            txn.set(key.into(), round.into()).unwrap();
        }
        match txn.commit().await {
            Ok(info) => assert!(is_committed && info.kind == CommitKind::Async),
            Err(KvError::UndeterminedCommit { .. } | KvError::RegionUnavailable { .. }) => {
                assert!(!is_committed);
            }
            Err(error) => panic!("{error}"),
        }
        dying.shutdown(Duration::from_secs(5)).await;
        let locks = kv::ScanLockRequest { max_ts: u64::MAX, ..Default::default() };
        let locks = call_node(&node, b"a", Cmd::ScanLock(locks)).await;
        let kv_response::Cmd::ScanLock(locks) = locks else { panic!() };
        assert_eq!(locks.locks.len(), 1, "the lock of \"a\" is left");
        assert_eq!(locks.locks[0].secondaries, ["z"]);

        pd.advance_ms(60_000);
        let connector = LocalConnector::new();
        connector.register(node.store_id(), node.service());
        let reader = connect(connector);
        let view = reader.snapshot(reader.current_ts().await.unwrap());
        for key in ["z", "a"] {
            let value = view.get(key.as_bytes()).await.unwrap();
            assert_eq!(value.as_deref(), Some(&b"1"[..]), "{key} in round {round}");
        }
        let locks = reader
            .resolve_locks_below(reader.current_ts().await.unwrap(), Default::default())
            .await
            .unwrap();
        assert_eq!(locks, 0, "the reader left none");
    }
    node.stop().await;
}
