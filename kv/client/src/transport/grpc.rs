//! A remote store over gRPC.
//!
//! **Flow.** All commands to a store share one bidirectional stream. Callers put
//! them into a bounded queue; the stream's task takes whatever waits there as one
//! batch and hands it to the socket. While the socket is busy the queue fills, so
//! batches grow by load alone and no timer delays a lone request. Answers come in
//! any order and are matched by id.
//!
//! **Invariants.** A broken stream fails every request that was sent on it with
//! [`TransportError::ConnectionLost`]; requests still in the queue fail as
//! unreachable only when the next connection cannot be made. Nothing is sent
//! twice.
//!
//! **Concurrency.** One task owns a stream and the table of waiting callers.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use cairn_proto::kv::kv_client::KvClient as KvStub;
use cairn_proto::kv::{
    BatchCommandsRequest, BatchCommandsResponse, CoprocessorRequest, KvRequest, KvResponse,
    StoreInfoRequest, StoreInfoResponse,
};
use cairn_proto::meta;
use futures::StreamExt;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};

use super::{CoprocessorStream, KvStoreService, StoreConnector, TransportError};

/// Requests that wait for the stream; above it callers are refused at once.
const QUEUE_MAX: usize = 8192;
/// Requests in one message.
const BATCH_MAX: usize = 256;
/// Messages handed to the connection and not yet taken by the socket.
const MESSAGES_WAITING_MAX: usize = 4;
/// Requests without an answer on one stream; above it sending pauses.
const UNANSWERED_MAX: usize = 65_536;
/// Time to make a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Time a command gets that brings no limit of its own.
const DEFAULT_TIMEOUT_MS: u32 = 20_000;
/// Time a store is given beyond the limit it was told, so that its own answer
/// wins over ours.
const GRACE: Duration = Duration::from_millis(200);
/// A dead peer is noticed after this and the time-out behind it.
const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(5);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(3);
/// Flow-control windows: a page of a scan must fit.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
/// Largest message either side accepts.
pub const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// Connects to stores over gRPC.
#[derive(Clone, Debug, Default)]
pub struct GrpcConnector;

impl StoreConnector for GrpcConnector {
    fn connect(&self, store: &meta::Store) -> Arc<dyn KvStoreService> {
        Arc::new(GrpcStore::new(store.address.clone()))
    }
}

type Answer = Result<KvResponse, TransportError>;

struct Waiting {
    request: KvRequest,
    answer: oneshot::Sender<Answer>,
}

/// One remote store. Its task ends when the last handle is dropped.
pub struct GrpcStore {
    address: Arc<str>,
    channel: Result<Channel, String>,
    queue: mpsc::Sender<Waiting>,
}

impl GrpcStore {
    /// Connects on first use. Must be called within a tokio runtime.
    pub fn new(address: String) -> GrpcStore {
        let address: Arc<str> = address.into();
        let channel = endpoint(&address).map(|endpoint| endpoint.connect_lazy());
        let (queue, requests) = mpsc::channel(QUEUE_MAX);
        if let Ok(channel) = &channel {
            tokio::spawn(run(address.clone(), channel.clone(), requests));
        }
        GrpcStore { address, channel, queue }
    }

    fn stub(&self) -> Result<KvStub<Channel>, TransportError> {
        match &self.channel {
            Ok(channel) => Ok(stub(channel.clone())),
            Err(reason) => Err(self.unreachable(reason.clone())),
        }
    }

    fn unreachable(&self, reason: impl Into<String>) -> TransportError {
        TransportError::Unreachable { address: self.address.to_string(), reason: reason.into() }
    }
}

fn stub(channel: Channel) -> KvStub<Channel> {
    KvStub::new(channel)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
}

fn endpoint(address: &str) -> Result<Endpoint, String> {
    let uri =
        if address.contains("://") { address.to_owned() } else { format!("http://{address}") };
    let endpoint = Endpoint::from_shared(uri).map_err(|error| error.to_string())?;
    Ok(endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEP_ALIVE_EVERY)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES))
}

#[async_trait]
impl KvStoreService for GrpcStore {
    async fn call(&self, request: KvRequest) -> Answer {
        if let Err(reason) = &self.channel {
            return Err(self.unreachable(reason.clone()));
        }
        let timeout_ms = match &request.context {
            Some(context) if context.timeout_ms > 0 => context.timeout_ms,
            _ => DEFAULT_TIMEOUT_MS,
        };
        let (answer, answered) = oneshot::channel();
        self.queue.try_send(Waiting { request, answer }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => self.unreachable("too many requests wait"),
            mpsc::error::TrySendError::Closed(_) => self.unreachable("the connection is closed"),
        })?;
        let timeout = Duration::from_millis(u64::from(timeout_ms)) + GRACE;
        match tokio::time::timeout(timeout, answered).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(TransportError::ConnectionLost {
                address: self.address.to_string(),
                reason: "the stream has ended".into(),
            }),
            Err(_) => Err(TransportError::DeadlineExceeded {
                address: self.address.to_string(),
                timeout_ms: u64::from(timeout_ms),
            }),
        }
    }

    async fn coprocessor(
        &self,
        request: CoprocessorRequest,
    ) -> Result<CoprocessorStream, TransportError> {
        let mut stub = self.stub()?;
        let address = self.address.clone();
        let stream = stub.coprocessor(request).await.map_err(|status| lost(&address, &status))?;
        let pages =
            stream.into_inner().map(move |page| page.map_err(|status| lost(&address, &status)));
        Ok(pages.boxed())
    }

    async fn store_info(&self) -> Result<StoreInfoResponse, TransportError> {
        let mut stub = self.stub()?;
        let response = stub.store_info(StoreInfoRequest {}).await;
        response.map(tonic::Response::into_inner).map_err(|status| lost(&self.address, &status))
    }
}

fn lost(address: &str, status: &tonic::Status) -> TransportError {
    let (address, reason) = (address.to_owned(), status.to_string());
    match status.code() {
        tonic::Code::InvalidArgument | tonic::Code::Unimplemented | tonic::Code::OutOfRange => {
            TransportError::Malformed { address, reason }
        }
        _ => TransportError::ConnectionLost { address, reason },
    }
}

/// The task of a store: opens a stream when there is something to send, serves it
/// until it breaks, and begins anew.
async fn run(address: Arc<str>, channel: Channel, mut requests: mpsc::Receiver<Waiting>) {
    while let Some(first) = requests.recv().await {
        let (outgoing, messages) = mpsc::channel(MESSAGES_WAITING_MAX);
        let opened = {
            let mut stub = stub(channel.clone());
            stub.batch_commands(ReceiverStream::new(messages)).await
        };
        match opened {
            Ok(incoming) => {
                let mut stream = Stream {
                    address: address.clone(),
                    outgoing,
                    incoming: incoming.into_inner(),
                    waiting: HashMap::default(),
                    next_id: 1,
                };
                let reason = stream.serve(first, &mut requests).await;
                stream.fail_waiting(&reason);
            }
            Err(status) => refuse(&address, status.to_string(), first, &mut requests),
        }
    }
}

/// No connection: everybody who waits hears of it.
fn refuse(address: &str, reason: String, first: Waiting, requests: &mut mpsc::Receiver<Waiting>) {
    let refused = std::iter::once(first).chain(std::iter::from_fn(|| requests.try_recv().ok()));
    for waiting in refused.take(QUEUE_MAX) {
        let error =
            TransportError::Unreachable { address: address.to_owned(), reason: reason.clone() };
        // A caller that stopped waiting does not want to know.
        let _ = waiting.answer.send(Err(error));
    }
}

/// One open stream.
struct Stream {
    address: Arc<str>,
    outgoing: mpsc::Sender<BatchCommandsRequest>,
    incoming: Streaming<BatchCommandsResponse>,
    waiting: HashMap<u64, oneshot::Sender<Answer>, foldhash::fast::RandomState>,
    next_id: u64,
}

impl Stream {
    /// Sends and receives until the stream breaks or the handles are gone;
    /// answers why.
    async fn serve(&mut self, first: Waiting, requests: &mut mpsc::Receiver<Waiting>) -> String {
        let mut batch = vec![first];
        loop {
            while !batch.is_empty() {
                // Answers keep coming in while the socket is busy.
                tokio::select! {
                    permit = self.outgoing.clone().reserve_owned() => match permit {
                        Ok(permit) => {
                            while batch.len() < BATCH_MAX && let Ok(more) = requests.try_recv() {
                                batch.push(more);
                            }
                            permit.send(self.message(&mut batch));
                        }
                        Err(_) => {
                            refuse_all(&self.address, &mut batch);
                            return "the stream was closed".into();
                        }
                    },
                    message = self.incoming.next() => if let Err(reason) = self.receive(message) {
                        refuse_all(&self.address, &mut batch);
                        return reason;
                    },
                }
            }
            let may_send = self.waiting.len() < UNANSWERED_MAX;
            tokio::select! {
                message = self.incoming.next() => if let Err(reason) = self.receive(message) {
                    return reason;
                },
                count = requests.recv_many(&mut batch, BATCH_MAX), if may_send => if count == 0 {
                    return "the client has closed the connection".into();
                },
            }
        }
    }

    fn message(&mut self, batch: &mut Vec<Waiting>) -> BatchCommandsRequest {
        let mut message = BatchCommandsRequest::default();
        for Waiting { request, answer } in batch.drain(..) {
            if answer.is_closed() {
                continue;
            }
            message.request_ids.push(self.next_id);
            message.requests.push(request);
            self.waiting.insert(self.next_id, answer);
            self.next_id += 1;
        }
        message
    }

    fn receive(
        &mut self,
        message: Option<Result<BatchCommandsResponse, tonic::Status>>,
    ) -> Result<(), String> {
        let message = match message {
            Some(Ok(message)) => message,
            Some(Err(status)) => return Err(status.to_string()),
            None => return Err("the store has closed the stream".into()),
        };
        if message.request_ids.len() != message.responses.len() {
            return Err("answers and their ids differ in number".into());
        }
        for (id, response) in message.request_ids.into_iter().zip(message.responses) {
            if let Some(answer) = self.waiting.remove(&id) {
                // A caller that stopped waiting does not want to know.
                let _ = answer.send(Ok(response));
            }
        }
        Ok(())
    }

    fn fail_waiting(&mut self, reason: &str) {
        for (_, answer) in self.waiting.drain() {
            let error = TransportError::ConnectionLost {
                address: self.address.to_string(),
                reason: reason.to_owned(),
            };
            let _ = answer.send(Err(error));
        }
    }
}

/// Requests taken from the queue that never got onto the stream.
fn refuse_all(address: &str, batch: &mut Vec<Waiting>) {
    for waiting in batch.drain(..) {
        let _ = waiting.answer.send(Err(TransportError::Unreachable {
            address: address.to_owned(),
            reason: "the stream broke before the request was sent".into(),
        }));
    }
}
