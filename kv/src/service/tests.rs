//! The service over a region of one: commands, reads, bounds of a region, and the
//! gRPC face.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use cairn_kv_client::KvStoreService;
use cairn_proto::kv::kv_client::KvClient;
use cairn_proto::kv::region_error::Kind;
use cairn_proto::kv::{self, key_error, kv_request::Cmd, kv_response};
use cairn_types::TimeStamp;
use futures::StreamExt;
use futures::stream::BoxStream;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::testing::MemoryKv;
use super::*;
use crate::txn::resolve_lock::LOCKS_PER_ROUND;

async fn call(service: &StoreService, context: &kv::Context, cmd: Cmd) -> kv::KvResponse {
    let request = kv::KvRequest { context: Some(context.clone()), cmd: Some(cmd) };
    service.call(request).await.unwrap()
}

pub(super) fn put(key: &str, value: impl Into<Bytes>, start_ts: u64) -> kv::PrewriteRequest {
    let mutation = kv::Mutation {
        op: 0,
        key: key.to_string().into(),
        value: value.into(),
        ..Default::default()
    };
    kv::PrewriteRequest {
        primary: mutation.key.clone(),
        mutations: vec![mutation],
        start_ts,
        lock_ttl_ms: 3000,
        ..Default::default()
    }
}

pub(super) async fn prewrite(
    service: &StoreService,
    context: &kv::Context,
    request: kv::PrewriteRequest,
) -> kv::PrewriteResponse {
    match call(service, context, Cmd::Prewrite(request)).await.cmd {
        Some(kv_response::Cmd::Prewrite(response)) => response,
        other => panic!("{other:?}"),
    }
}

pub(super) async fn commit(
    service: &StoreService,
    context: &kv::Context,
    key: &str,
    start_ts: u64,
    commit_ts: u64,
) -> Option<kv::KeyError> {
    let keys = vec![key.to_string().into()];
    match call(service, context, Cmd::Commit(kv::CommitRequest { keys, start_ts, commit_ts })).await
    {
        kv::KvResponse { cmd: Some(kv_response::Cmd::Commit(response)), .. } => response.error,
        other => panic!("{other:?}"),
    }
}

pub(super) async fn get(
    service: &StoreService,
    context: &kv::Context,
    key: &str,
    version: u64,
) -> kv::GetResponse {
    let request = kv::GetRequest { key: key.to_string().into(), version };
    match call(service, context, Cmd::Get(request)).await.cmd {
        Some(kv_response::Cmd::Get(response)) => response,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn writes_and_reads_back() {
    let kv = MemoryKv::new();
    let (service, context) = (kv.service(), kv.context());
    assert!(prewrite(&service, &context, put("a", "1", 10)).await.errors.is_empty());
    assert!(get(&service, &context, "a", 20).await.error.is_some());
    assert_eq!(commit(&service, &context, "a", 10, 20).await, None);
    assert_eq!(get(&service, &context, "a", 20).await.value, "1");
    assert!(get(&service, &context, "a", 19).await.not_found);
    let now = service.try_get_now(&context, &"a".into(), u64::MAX).unwrap();
    let Some(kv_response::Cmd::Get(now)) = now.cmd else { panic!() };
    assert_eq!(now.value, "1");
    // Without a lease the fast path declines, and the slow one asks Raft.
    kv.has_lease.store(false, Ordering::SeqCst);
    assert!(service.try_get_now(&context, &"a".into(), u64::MAX).is_none());
    assert_eq!(get(&service, &context, "a", 20).await.value, "1");
}

#[tokio::test]
async fn refuses_wrong_routes() {
    let kv = MemoryKv::new();
    let service = kv.service();
    let mut region = (**kv.region.lock()).clone();
    region.start_key = "b".into();
    region.end_key = "d".into();
    *kv.region.lock() = Arc::new(region);
    let kind = |response: kv::KvResponse| response.region_error.and_then(|error| error.kind);
    let get = |key: &str| Cmd::Get(kv::GetRequest { key: key.to_string().into(), version: 9 });
    let context = kv.context();
    let outside = kind(call(&service, &context, get("a")).await);
    assert!(matches!(outside, Some(Kind::KeyNotInRegion(_))));
    let outside = kind(call(&service, &context, Cmd::Prewrite(put("d", "1", 10))).await);
    assert!(matches!(outside, Some(Kind::KeyNotInRegion(_))));
    let mut stale = context.clone();
    stale.epoch.as_mut().unwrap().version = 0;
    assert!(matches!(
        kind(call(&service, &stale, get("c")).await),
        Some(Kind::EpochNotMatch(kv::EpochNotMatch { current_regions })) if current_regions.len() == 1
    ));
    let mut other_store = context.clone();
    other_store.peer.as_mut().unwrap().store_id = 7;
    let refused = kind(call(&service, &other_store, get("c")).await);
    assert!(matches!(refused, Some(Kind::StoreNotMatch(_))));
    // Scans are clipped.
    let scan = Cmd::Scan(kv::ScanRequest { version: 9, ..Default::default() });
    assert_eq!(call(&service, &context, scan).await.region_error, None);
}

#[tokio::test]
async fn scans_stop_at_a_size() {
    let kv = MemoryKv::new();
    let (service, context) = (kv.service(), kv.context());
    for (position, key) in ["a", "b", "c"].into_iter().enumerate() {
        let start_ts = 10 + position as u64;
        prewrite(&service, &context, put(key, vec![b'v'; 5 << 20], start_ts)).await;
        assert_eq!(commit(&service, &context, key, start_ts, 20).await, None);
    }
    for (reverse, ends, wanted) in [
        (false, [("a", ""), ("c", "")], [&["a", "b"][..], &["c"]]),
        (true, [("a", ""), ("a", "b")], [&["c", "b"], &["a"]]),
    ] {
        for ((start, end), wanted) in ends.into_iter().zip(wanted) {
            let request = kv::ScanRequest {
                start_key: start.into(),
                end_key: end.into(),
                version: 40,
                limit: 1_024,
                reverse,
                ..Default::default()
            };
            let response = call(&service, &context, Cmd::Scan(request)).await;
            let Some(kv_response::Cmd::Scan(scan)) = response.cmd else { panic!() };
            let keys: Vec<_> = scan.pairs.iter().map(|pair| &pair.key[..]).collect();
            assert_eq!(keys, wanted.iter().map(|key| key.as_bytes()).collect::<Vec<_>>());
            assert_eq!(scan.is_cut, wanted.len() == 2);
        }
    }
}

#[tokio::test]
async fn scans_stop_at_a_lock() {
    let kv = MemoryKv::new();
    let (service, context) = (kv.service(), kv.context());
    for (position, key) in ["a", "b", "c"].into_iter().enumerate() {
        let start_ts = 10 + position as u64;
        prewrite(&service, &context, put(key, vec![b'v'; 300 * position], start_ts)).await;
        assert_eq!(commit(&service, &context, key, start_ts, 20).await, None);
    }
    prewrite(&service, &context, put("b", "x", 30)).await;
    for (reverse, first) in [(false, "a"), (true, "c")] {
        let request = kv::ScanRequest { version: 40, limit: 10, reverse, ..Default::default() };
        let response = call(&service, &context, Cmd::Scan(request)).await;
        let Some(kv_response::Cmd::Scan(scan)) = response.cmd else { panic!() };
        let keys: Vec<_> = scan.pairs.iter().map(|pair| &pair.key[..]).collect();
        assert_eq!(keys, [first.as_bytes(), b"b"]);
        assert!(scan.pairs[1].error.is_some());
    }
    let mut context = context;
    context.resolved_locks = vec![30];
    let request = kv::ScanRequest { version: 40, limit: 10, ..Default::default() };
    let response = call(&service, &context, Cmd::Scan(request)).await;
    let Some(kv_response::Cmd::Scan(scan)) = response.cmd else { panic!() };
    assert_eq!(scan.pairs.iter().map(|pair| pair.value.len()).collect::<Vec<_>>(), [0, 300, 600]);
    let keys = ["a", "b", "nothing", "c"].map(Bytes::from).to_vec();
    let request = kv::BatchGetRequest { keys, version: 40, own_writes: false };
    let response = call(&service, &context, Cmd::BatchGet(request)).await;
    let Some(kv_response::Cmd::BatchGet(batch)) = response.cmd else { panic!() };
    assert_eq!(batch.pairs.iter().map(|pair| pair.value.len()).collect::<Vec<_>>(), [0, 300, 600]);
}

#[tokio::test]
async fn one_phase_commit_goes_above_reads() {
    let kv = MemoryKv::new();
    let (service, context) = (kv.service(), kv.context());
    let one_pc = |start_ts| kv::PrewriteRequest { try_one_pc: true, ..put("a", "1", start_ts) };
    // The first of a term asks PD, which stands at 1000.
    let response = prewrite(&service, &context, one_pc(10)).await;
    assert_eq!(response.one_pc_commit_ts, 1001);
    assert!(get(&service, &context, "a", 2000).await.error.is_none());
    let response = prewrite(&service, &context, one_pc(1500)).await;
    assert_eq!(response.one_pc_commit_ts, 2001);
    // Bounded below that it falls back to locks.
    let bounded = kv::PrewriteRequest { max_commit_ts: 2001, ..one_pc(2001) };
    let response = prewrite(&service, &context, bounded).await;
    assert_eq!((response.one_pc_commit_ts, response.errors), (0, vec![]));
    assert_eq!(commit(&service, &context, "a", 2001, 2002).await, None);
}

#[tokio::test]
async fn one_phase_commit_declines_timestamps_of_the_far_future() {
    let kv = MemoryKv::new();
    let (service, context) = (kv.service(), kv.context());
    get(&service, &context, "a", u64::MAX - 1).await;
    let request = kv::PrewriteRequest { try_one_pc: true, ..put("a", "1", 2000) };
    let response = prewrite(&service, &context, request).await;
    assert_eq!((response.one_pc_commit_ts, response.errors), (0, vec![]));
    assert_eq!(commit(&service, &context, "a", 2000, 2001).await, None);
}

#[tokio::test]
async fn resolves_a_region_in_rounds() {
    let kv = MemoryKv::new();
    let (service, context) = (kv.service(), kv.context());
    let mut request = put("key0000", "v", 10);
    let locks = 2 * LOCKS_PER_ROUND + 1;
    request.mutations = (0..locks)
        .map(|n| kv::Mutation {
            op: 0,
            key: format!("key{n:04}").into(),
            value: "v".into(),
            ..Default::default()
        })
        .collect();
    assert!(prewrite(&service, &context, request).await.errors.is_empty());
    let resolve = kv::ResolveLockRequest { start_ts: 10, commit_ts: 20, keys: vec![] };
    let writes_before = kv.writes.load(Ordering::SeqCst);
    let response = call(&service, &context, Cmd::ResolveLock(resolve)).await;
    assert_eq!(response.region_error, None);
    assert_eq!(kv.writes.load(Ordering::SeqCst) - writes_before, 3);
    let last = format!("key{:04}", locks - 1);
    assert_eq!(get(&service, &context, &last, 20).await.value, "v");
    let delete = kv::DeleteRangeRequest { start_key: "key".into(), end_key: "key0300".into() };
    // A store destroys the range by itself, and never up to an end that was not said.
    let no_region = kv::Context::default();
    let everything = kv::DeleteRangeRequest { end_key: Bytes::new(), ..delete.clone() };
    let response = call(&service, &no_region, Cmd::DeleteRange(everything)).await;
    assert!(response.region_error.is_some());
    assert_eq!(get(&service, &context, "key0299", 20).await.value, "v");
    let response = call(&service, &no_region, Cmd::DeleteRange(delete)).await;
    assert_eq!(response.region_error, None);
    assert!(get(&service, &context, "key0299", 20).await.not_found);
    assert_eq!(get(&service, &context, "key0300", 20).await.value, "v");
}

#[tokio::test]
async fn a_transaction_below_the_safe_point_cannot_write() {
    let kv = MemoryKv::new();
    let (service, context) = (kv.service_above(TimeStamp(500)), kv.context());
    // What was deleted after it read may have left no record to conflict with.
    let late = prewrite(&service, &context, put("key", "v", 499)).await;
    assert!(matches!(late.errors[0].kind, Some(key_error::Kind::Abort(_))), "{late:?}");
    assert!(prewrite(&service, &context, put("key", "v", 500)).await.errors.is_empty());
}

/// Many clients add to one counter; every success must count.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_commands_on_one_key_lose_nothing() {
    let kv = MemoryKv::new();
    let (service, context) = (kv.service(), kv.context());
    let clock = Arc::new(AtomicU64::new(2000));
    let successes = Arc::new(AtomicU64::new(0));
    let tasks: Vec<_> = (0..8u64)
        .map(|client| {
            let (service, context) = (Arc::clone(&service), context.clone());
            let (clock, successes) = (Arc::clone(&clock), Arc::clone(&successes));
            tokio::spawn(async move {
                for round in 0..40 {
                    let start_ts = clock.fetch_add(1, Ordering::SeqCst);
                    let read = get(&service, &context, "n", start_ts).await;
                    if read.error.is_some() {
                        continue;
                    }
                    let number: u64 =
                        std::str::from_utf8(&read.value).unwrap().parse().unwrap_or_default();
                    let mut request = put("n", (number + 1).to_string(), start_ts);
                    request.try_one_pc = (round + client) % 2 == 0;
                    let response = prewrite(&service, &context, request).await;
                    if !response.errors.is_empty() {
                        continue;
                    }
                    if response.one_pc_commit_ts == 0 {
                        let commit_ts = clock.fetch_add(1, Ordering::SeqCst);
                        let error = commit(&service, &context, "n", start_ts, commit_ts).await;
                        assert_eq!(error, None);
                    } else {
                        clock.fetch_max(response.one_pc_commit_ts + 1, Ordering::SeqCst);
                    }
                    successes.fetch_add(1, Ordering::SeqCst);
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let end = get(&service, &context, "n", u64::MAX).await;
    assert_eq!(end.value, successes.load(Ordering::SeqCst).to_string());
    assert!(successes.load(Ordering::SeqCst) > 0);
    assert_eq!(service.running_commands(), 0);
}

/// Raft traffic is not looked at here.
pub(super) struct NoRaft;

#[async_trait::async_trait]
impl RaftIngress for NoRaft {
    async fn serve_raft(
        &self,
        _: BoxStream<'static, Result<kv::RaftMessageBatch, Status>>,
    ) -> Result<kv::RaftDone, Status> {
        Ok(kv::RaftDone {})
    }

    async fn serve_snapshot(
        &self,
        _: BoxStream<'static, Result<kv::SnapshotChunk, Status>>,
    ) -> Result<kv::RaftDone, Status> {
        Err(Status::unavailable("no room"))
    }

    async fn check_region(
        &self,
        _: kv::CheckRegionRequest,
    ) -> Result<kv::CheckRegionResponse, Status> {
        Err(Status::unavailable("no room"))
    }

    fn precheck(&self, _: &kv::SnapshotPrecheckRequest) -> kv::SnapshotPrecheckResponse {
        kv::SnapshotPrecheckResponse { refusal: "no room".to_owned() }
    }
}

#[tokio::test]
async fn serves_over_grpc() {
    let kv = MemoryKv::new();
    let (service, context) = (kv.service(), kv.context());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let server =
        tokio::spawn(GrpcService::new(service, Arc::new(NoRaft)).serve(listener, shutdown.clone()));
    let mut client = KvClient::connect(format!("http://{address}")).await.unwrap();
    let request = |cmd| kv::KvRequest { context: Some(context.clone()), cmd: Some(cmd) };
    let batches = vec![
        kv::BatchCommandsRequest {
            request_ids: vec![1],
            requests: vec![request(Cmd::Prewrite(put("k", "v", 10)))],
            ..Default::default()
        },
        kv::BatchCommandsRequest {
            request_ids: vec![2, 3],
            requests: vec![
                request(Cmd::Get(kv::GetRequest { key: "x".into(), version: 5 })),
                kv::KvRequest::default(),
            ],
            ..Default::default()
        },
    ];
    let mut answers =
        client.batch_commands(futures::stream::iter(batches)).await.unwrap().into_inner();
    let mut seen = std::collections::BTreeMap::new();
    while let Some(batch) = answers.next().await {
        let batch = batch.unwrap();
        seen.extend(batch.request_ids.into_iter().zip(batch.responses));
    }
    assert_eq!(seen.len(), 3);
    assert!(matches!(&seen[&1].cmd, Some(kv_response::Cmd::Prewrite(p)) if p.errors.is_empty()));
    assert!(matches!(&seen[&2].cmd, Some(kv_response::Cmd::Get(get)) if get.not_found));
    assert!(seen[&3].region_error.is_some());
    let info = client.store_info(kv::StoreInfoRequest {}).await.unwrap().into_inner();
    assert_eq!((info.store_id, info.regions.len()), (1, 1));
    // A client that keeps its stream open does not keep the server from stopping.
    let idle = futures::stream::pending::<kv::BatchCommandsRequest>();
    let mut open = client.batch_commands(idle).await.unwrap().into_inner();
    shutdown.cancel();
    assert!(open.next().await.is_none());
    server.await.unwrap().unwrap();
}

#[tokio::test]
async fn reports_a_self_rolled_back_prewrite() {
    let kv = MemoryKv::new();
    let (service, context) = (kv.service(), kv.context());
    let rollback = kv::RollbackRequest { keys: vec!["a".into()], start_ts: 10 };
    call(&service, &context, Cmd::Rollback(rollback)).await;
    let response = prewrite(&service, &context, put("a", "1", 10)).await;
    let Some(key_error::Kind::Conflict(conflict)) = &response.errors[0].kind else { panic!() };
    assert_eq!(conflict.reason(), kv::ConflictReason::SelfRolledBack);
}
