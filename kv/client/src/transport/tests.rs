//! The gRPC transport against a server that answers as told.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use cairn_proto::kv::kv_request::Cmd as Request;
use cairn_proto::kv::kv_response::Cmd as Response;
use cairn_proto::kv::kv_server::{Kv, KvServer};
use cairn_proto::kv::*;
use cairn_proto::meta::Store;
use futures::{Stream, StreamExt, stream};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request as Rpc, Response as RpcAnswer, Status, Streaming};

use super::{GrpcConnector, LocalConnector, StoreConnector, TransportError};

type AnswerStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Echoes the key of a get; `hang` is never answered, `break` ends the stream.
/// Answers of one message go back in reverse order.
#[derive(Clone, Default)]
struct Echo {
    messages: Arc<AtomicUsize>,
}

fn answer(request: &KvRequest) -> Option<KvResponse> {
    let Some(Request::Get(get)) = &request.cmd else { return None };
    let response = GetResponse { value: get.key.clone(), ..GetResponse::default() };
    (get.key != "hang")
        .then(|| KvResponse { region_error: None, cmd: Some(Response::Get(response)) })
}

fn is_break(request: &KvRequest) -> bool {
    matches!(&request.cmd, Some(Request::Get(get)) if get.key == "break")
}

#[tonic::async_trait]
impl Kv for Echo {
    type BatchCommandsStream = AnswerStream<BatchCommandsResponse>;
    type CoprocessorStream = AnswerStream<CoprocessorResponse>;

    async fn batch_commands(
        &self,
        request: Rpc<Streaming<BatchCommandsRequest>>,
    ) -> Result<RpcAnswer<Self::BatchCommandsStream>, Status> {
        let mut incoming = request.into_inner();
        let (answers, outgoing) = mpsc::channel(4);
        let messages = self.messages.clone();
        tokio::spawn(async move {
            while let Some(Ok(message)) = incoming.next().await {
                messages.fetch_add(1, Ordering::SeqCst);
                let mut batch = BatchCommandsResponse::default();
                for (id, request) in message.request_ids.iter().zip(&message.requests).rev() {
                    if is_break(request) {
                        let _ = answers.send(Err(Status::unavailable("on order"))).await;
                        return;
                    }
                    if let Some(response) = answer(request) {
                        batch.request_ids.push(*id);
                        batch.responses.push(response);
                    }
                }
                if answers.send(Ok(batch)).await.is_err() {
                    return;
                }
            }
        });
        Ok(RpcAnswer::new(Box::pin(ReceiverStream::new(outgoing))))
    }

    async fn coprocessor(
        &self,
        _request: Rpc<CoprocessorRequest>,
    ) -> Result<RpcAnswer<Self::CoprocessorStream>, Status> {
        let page = |at: u8| CoprocessorResponse {
            chunk: Bytes::from(vec![at]),
            ..CoprocessorResponse::default()
        };
        let broken = [Ok(page(0)), Ok(page(1)), Err(Status::unavailable("on order"))];
        Ok(RpcAnswer::new(Box::pin(stream::iter(broken))))
    }

    async fn raft(
        &self,
        _request: Rpc<Streaming<RaftMessageBatch>>,
    ) -> Result<RpcAnswer<RaftDone>, Status> {
        Err(Status::unimplemented("no Raft here"))
    }

    async fn snapshot(
        &self,
        _request: Rpc<Streaming<SnapshotChunk>>,
    ) -> Result<RpcAnswer<RaftDone>, Status> {
        Err(Status::unimplemented("no Raft here"))
    }

    async fn snapshot_precheck(
        &self,
        _request: Rpc<SnapshotPrecheckRequest>,
    ) -> Result<RpcAnswer<SnapshotPrecheckResponse>, Status> {
        Err(Status::unimplemented("not in this test"))
    }

    async fn check_region(
        &self,
        _request: Rpc<CheckRegionRequest>,
    ) -> Result<RpcAnswer<CheckRegionResponse>, Status> {
        Err(Status::unimplemented("not in this test"))
    }

    async fn store_info(
        &self,
        _request: Rpc<StoreInfoRequest>,
    ) -> Result<RpcAnswer<StoreInfoResponse>, Status> {
        Ok(RpcAnswer::new(StoreInfoResponse { store_id: 7, regions: Vec::new() }))
    }
}

/// A server that stops when the sender is dropped.
async fn serve(echo: Echo) -> (String, oneshot::Sender<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound").to_string();
    let (stop, stopped) = oneshot::channel::<()>();
    let server = tonic::transport::Server::builder()
        .add_service(KvServer::new(echo))
        .serve_with_incoming(TcpListenerStream::new(listener));
    tokio::spawn(async move {
        tokio::select! {
            _ = server => {}
            _ = stopped => {}
        }
    });
    (address, stop)
}

fn get(key: &str, timeout_ms: u32) -> KvRequest {
    let context = Context { timeout_ms, ..Context::default() };
    let get = GetRequest { key: Bytes::copy_from_slice(key.as_bytes()), version: 1 };
    KvRequest { context: Some(context), cmd: Some(Request::Get(get)) }
}

fn value(response: KvResponse) -> Bytes {
    match response.cmd {
        Some(Response::Get(get)) => get.value,
        other => panic!("not a get: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_find_their_callers_and_requests_travel_together() {
    let echo = Echo::default();
    let (address, _stop) = serve(echo.clone()).await;
    let store = GrpcConnector.connect(&Store { address, ..Store::default() });
    let calls = (0..2000).map(|number| {
        let store = store.clone();
        tokio::spawn(async move {
            let key = format!("key {number}");
            assert_eq!(value(store.call(get(&key, 0)).await.expect("answered")), key);
        })
    });
    for call in futures::future::join_all(calls).await {
        call.expect("each its own answer");
    }
    let messages = echo.messages.load(Ordering::SeqCst);
    assert!(messages < 1500, "{messages} messages for 2000 requests");
    assert_eq!(store.store_info().await.expect("answered").store_id, 7);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_stream_fails_what_waits_and_the_next_call_gets_a_new_one() {
    let (address, _stop) = serve(Echo::default()).await;
    let store = GrpcConnector.connect(&Store { address, ..Store::default() });
    let waiting = tokio::spawn({
        let store = store.clone();
        async move { store.call(get("hang", 0)).await }
    });
    // Both are on the stream when it breaks, or the first one is: either way
    // neither may hang.
    store.call(get("x", 0)).await.expect("answered");
    let broken = store.call(get("break", 0)).await.expect_err("the stream broke");
    assert!(matches!(broken, TransportError::ConnectionLost { .. }), "{broken}");
    let lost = waiting.await.expect("runs").expect_err("the stream broke");
    assert!(lost.maybe_executed(), "{lost}");
    assert_eq!(value(store.call(get("y", 0)).await.expect("a new stream")), "y");
    let late = store.call(get("hang", 50)).await.expect_err("too late");
    assert!(matches!(late, TransportError::DeadlineExceeded { timeout_ms: 50, .. }), "{late}");
    let mut pages = store.coprocessor(CoprocessorRequest::default()).await.expect("opens");
    assert_eq!(pages.next().await.map(|page| page.map(|page| page.chunk.len())), Some(Ok(1)));
    assert!(matches!(pages.next().await, Some(Ok(_))));
    assert!(matches!(pages.next().await, Some(Err(TransportError::ConnectionLost { .. }))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_away_is_unreachable_until_it_comes() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound").to_string();
    drop(listener);
    let store = GrpcConnector.connect(&Store { address: address.clone(), ..Store::default() });
    let away = store.call(get("x", 2_000)).await.expect_err("nobody listens");
    assert!(!away.maybe_executed(), "{away}");
    let listener = TcpListener::bind(&address).await.expect("the port is free");
    tokio::spawn(
        tonic::transport::Server::builder()
            .add_service(KvServer::new(Echo::default()))
            .serve_with_incoming(TcpListenerStream::new(listener)),
    );
    let answered = async {
        while store.call(get("x", 1_000)).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), answered).await.expect("it is back");
    let nonsense =
        GrpcConnector.connect(&Store { address: "no address".into(), ..Store::default() });
    let error = nonsense.call(get("x", 0)).await.expect_err("no address");
    assert!(!error.maybe_executed(), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_store_costs_one_wait_and_then_none() {
    // The system takes the connection; nobody ever reads from it, as with a stopped process.
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound").to_string();
    let store = GrpcConnector.connect(&Store { address, ..Store::default() });
    let first = store.call(get("x", 20_000)).await.expect_err("nobody answers");
    assert!(!first.maybe_executed(), "{first}");
    let began = tokio::time::Instant::now();
    for _ in 0..100 {
        let refused = store.call(get("x", 20_000)).await.expect_err("nobody answers");
        assert!(!refused.maybe_executed(), "{refused}");
        assert!(store.coprocessor(CoprocessorRequest::default()).await.is_err());
    }
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
}

#[tokio::test]
async fn local_stores_come_and_go() {
    let connector = LocalConnector::new();
    let store = connector.connect(&Store { id: 3, ..Store::default() });
    let away = store.call(get("x", 0)).await.expect_err("not registered");
    assert!(!away.maybe_executed());
    let (address, _stop) = serve(Echo::default()).await;
    let remote = GrpcConnector.connect(&Store { address, ..Store::default() });
    connector.register(3, remote);
    assert_eq!(value(store.call(get("x", 0)).await.expect("registered")), "x");
    connector.unregister(3);
    assert!(store.call(get("x", 0)).await.is_err());
}
