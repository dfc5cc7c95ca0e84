//! A remote store over gRPC.
//!
//! **Flow.** All commands to a store share one bidirectional stream. Callers put
//! them into a bounded queue; the stream's task takes whatever waits there as one
//! batch and hands it to the socket. While the socket is busy the queue fills, so
//! batches grow by load alone and no timer delays a lone request. Answers come in
//! any order and are matched by id. A caller that stops waiting has its request taken back: the
//! store is told with the next message, and ends what only reads.
//!
//! **Silence.** A store that is cut off or stopped sends no error: packets just
//! stop coming. So connections are pinged often, and a stream whose pings are not
//! answered is broken. From then on requests are refused at once, so that their
//! callers ask other stores instead of queueing up behind a dead one, while the
//! task knocks until the store answers again.
//!
//! **Invariants.** A broken stream fails every request that was sent on it with
//! [`TransportError::ConnectionLost`]; requests that were not sent fail as
//! unreachable. Nothing is sent twice.
//!
//! **Concurrency.** One task owns a stream and the table of waiting callers.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use async_trait::async_trait;
use cairn_pd_client::backoff::Backoff;
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
/// Time until a store must have opened a stream. A stopped process takes
/// connections and says nothing.
const OPEN_TIMEOUT: Duration = Duration::from_secs(2);
/// The same when a stream broke: requests wait for the next one, but not for long.
const REOPEN_TIMEOUT: Duration = Duration::from_millis(200);
/// First and longest pause between two tries to reach a store that is away; it is
/// asked for nothing else meanwhile.
const KNOCK_MS: (u64, u64) = (50, 1_000);
/// Time a command gets that brings no limit of its own.
const DEFAULT_TIMEOUT_MS: u32 = 20_000;
/// Time a store is given beyond the limit it was told, so that its own answer
/// wins over ours.
const GRACE: Duration = Duration::from_millis(200);
/// A silent store is noticed after these two together: about when the others have
/// elected a new leader, who must not wait for requests that hang.
const KEEP_ALIVE_EVERY: Duration = Duration::from_millis(500);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_millis(1_500);
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

/// Tells a request from all others of its [`GrpcStore`], whatever stream carries it.
type RequestId = u64;

struct Waiting {
    id: RequestId,
    request: KvRequest,
    answer: oneshot::Sender<Answer>,
}

/// Why requests are refused at once, while they are.
type Away = Arc<ArcSwapOption<String>>;

/// One remote store. Its task ends when the last handle is dropped.
pub struct GrpcStore {
    address: Arc<str>,
    channel: Result<Channel, String>,
    away: Away,
    queue: mpsc::Sender<Waiting>,
    /// Requests whose callers have stopped waiting.
    given_up: mpsc::Sender<RequestId>,
    next_id: AtomicU64,
}

/// Takes a request back if its caller is dropped before the answer. When too many are given up
/// at once, the store ends the rest at their deadlines.
struct Caller<'a> {
    given_up: Option<&'a mpsc::Sender<RequestId>>,
    id: RequestId,
}

impl Drop for Caller<'_> {
    fn drop(&mut self) {
        if let Some(given_up) = self.given_up {
            let _ = given_up.try_send(self.id);
        }
    }
}

impl GrpcStore {
    /// Connects on first use. Must be called within a tokio runtime.
    pub fn new(address: String) -> GrpcStore {
        let address: Arc<str> = address.into();
        let channel = endpoint(&address).map(|endpoint| endpoint.connect_lazy());
        let (queue, requests) = mpsc::channel(QUEUE_MAX);
        let (given_up, given_up_ids) = mpsc::channel(QUEUE_MAX);
        let away = Away::default();
        if let Ok(channel) = &channel {
            let task = Task {
                address: address.clone(),
                channel: channel.clone(),
                away: away.clone(),
                requests,
                given_up: given_up_ids,
            };
            tokio::spawn(task.run());
        }
        GrpcStore { address, channel, away, queue, given_up, next_id: AtomicU64::new(1) }
    }

    /// The connection, unless it is known that nobody is at its other end.
    fn stub(&self) -> Result<KvStub<Channel>, TransportError> {
        if let Some(reason) = &*self.away.load() {
            return Err(self.unreachable(reason.as_str()));
        }
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
        self.stub()?;
        let timeout_ms = match &request.context {
            Some(context) if context.timeout_ms > 0 => context.timeout_ms,
            _ => DEFAULT_TIMEOUT_MS,
        };
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        // Dropped behind the receiver: a request that is taken back is seen as closed.
        let mut caller = Caller { given_up: None, id };
        let (answer, answered) = oneshot::channel();
        self.queue.try_send(Waiting { id, request, answer }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => self.unreachable("too many requests wait"),
            mpsc::error::TrySendError::Closed(_) => self.unreachable("the connection is closed"),
        })?;
        caller.given_up = Some(&self.given_up);
        let timeout = Duration::from_millis(u64::from(timeout_ms)) + GRACE;
        let answered = tokio::time::timeout(timeout, answered).await;
        if answered.is_ok() {
            caller.given_up = None;
        }
        match answered {
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

/// The task of a store.
struct Task {
    address: Arc<str>,
    channel: Channel,
    away: Away,
    requests: mpsc::Receiver<Waiting>,
    given_up: mpsc::Receiver<RequestId>,
}

impl Task {
    /// Opens a stream when there is something to send, serves it until it breaks,
    /// and opens the next one.
    async fn run(mut self) {
        let Some(first) = self.requests.recv().await else { return };
        let mut batch = vec![first];
        let mut patience = OPEN_TIMEOUT;
        loop {
            let opening = open(&self.address, &self.channel);
            let opened = tokio::time::timeout(patience, opening).await;
            let mut stream = match opened.unwrap_or_else(|_| Err(SILENT.to_owned())) {
                Ok(stream) => stream,
                Err(reason) => {
                    refuse_all(&self.address, &reason, batch.drain(..));
                    match self.knock(reason).await {
                        Some(stream) => stream,
                        None => return,
                    }
                }
            };
            let (requests, given_up) = (&mut self.requests, &mut self.given_up);
            let reason = stream.serve(std::mem::take(&mut batch), requests, given_up).await;
            tracing::debug!(address = %self.address, reason, "stream of a store ended");
            stream.fail_waiting(&reason);
            if self.requests.is_closed() {
                return;
            }
            patience = REOPEN_TIMEOUT;
        }
    }

    /// Refuses requests until the store answers; `None` when nobody wants it any
    /// more.
    async fn knock(&mut self, mut reason: String) -> Option<Stream> {
        let mut backoff = Backoff::new(KNOCK_MS.0, KNOCK_MS.1, 0);
        loop {
            tracing::debug!(address = %self.address, reason, "store is away");
            self.away.store(Some(Arc::new(reason.clone())));
            let opening = async {
                tokio::time::sleep(backoff.next_delay()).await;
                let opening = open(&self.address, &self.channel);
                let opened = tokio::time::timeout(OPEN_TIMEOUT, opening).await;
                opened.unwrap_or_else(|_| Err(SILENT.to_owned()))
            };
            tokio::pin!(opening);
            let opened = loop {
                tokio::select! {
                    opened = &mut opening => break opened,
                    waiting = self.requests.recv() => {
                        refuse_all(&self.address, &reason, std::iter::once(waiting?));
                    }
                }
            };
            match opened {
                Ok(stream) => {
                    self.away.store(None);
                    return Some(stream);
                }
                Err(again) => reason = again,
            }
        }
    }
}

/// Opens a stream of commands.
async fn open(address: &Arc<str>, channel: &Channel) -> Result<Stream, String> {
    let (outgoing, messages) = mpsc::channel(MESSAGES_WAITING_MAX);
    let opened = stub(channel.clone()).batch_commands(ReceiverStream::new(messages)).await;
    let incoming = opened.map_err(|status| status.to_string())?.into_inner();
    let address = address.clone();
    let (waiting, cancelled) = (HashMap::default(), Vec::new());
    Ok(Stream { address, outgoing, incoming, waiting, cancelled })
}

/// One open stream.
struct Stream {
    address: Arc<str>,
    outgoing: mpsc::Sender<BatchCommandsRequest>,
    incoming: Streaming<BatchCommandsResponse>,
    waiting: HashMap<RequestId, oneshot::Sender<Answer>, foldhash::fast::RandomState>,
    /// Sent and given up; the store is to be told.
    cancelled: Vec<RequestId>,
}

impl Stream {
    /// Sends and receives until the stream breaks or the handles are gone;
    /// answers why.
    async fn serve(
        &mut self,
        mut batch: Vec<Waiting>,
        requests: &mut mpsc::Receiver<Waiting>,
        given_up: &mut mpsc::Receiver<RequestId>,
    ) -> String {
        loop {
            while !batch.is_empty() || !self.cancelled.is_empty() {
                // Answers keep coming in while the socket is busy.
                tokio::select! {
                    permit = self.outgoing.clone().reserve_owned() => match permit {
                        Ok(permit) => {
                            while batch.len() < BATCH_MAX
                                && self.waiting.len() + batch.len() < UNANSWERED_MAX
                                && let Ok(more) = requests.try_recv() {
                                batch.push(more);
                            }
                            while let Ok(id) = given_up.try_recv() {
                                self.give_up(id);
                            }
                            permit.send(self.message(&mut batch));
                        }
                        Err(_) => {
                            refuse_all(&self.address, BROKE, batch.into_iter());
                            return "the stream was closed".into();
                        }
                    },
                    message = self.incoming.next() => if let Err(reason) = self.receive(message) {
                        refuse_all(&self.address, BROKE, batch.into_iter());
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
                Some(id) = given_up.recv() => self.give_up(id),
            }
        }
    }

    fn message(&mut self, batch: &mut Vec<Waiting>) -> BatchCommandsRequest {
        let cancelled_ids = std::mem::take(&mut self.cancelled);
        let mut message = BatchCommandsRequest { cancelled_ids, ..Default::default() };
        for Waiting { id, request, answer } in batch.drain(..) {
            if answer.is_closed() {
                continue;
            }
            message.request_ids.push(id);
            message.requests.push(request);
            self.waiting.insert(id, answer);
        }
        message
    }

    /// Nobody waits for the answer any more. What has not been sent is not sent.
    fn give_up(&mut self, id: RequestId) {
        if self.waiting.remove(&id).is_some() {
            self.cancelled.push(id);
        }
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

/// What callers are told of a store that takes connections, or packets, and says nothing.
const SILENT: &str = "it does not answer";
/// What callers are told whose requests were taken from the queue and not sent.
const BROKE: &str = "the stream broke before the request was sent";

/// Tells callers that their requests never left.
fn refuse_all(address: &str, reason: &str, refused: impl Iterator<Item = Waiting>) {
    for waiting in refused {
        let error =
            TransportError::Unreachable { address: address.to_owned(), reason: reason.to_owned() };
        // A caller that stopped waiting does not want to know.
        let _ = waiting.answer.send(Err(error));
    }
}
