//! The gRPC face of a store.
//!
//! One `BatchCommands` stream per client carries many requests: each runs on its
//! own, as many at once as [`REQUESTS_IN_FLIGHT_MAX`], and answers that are ready
//! together leave in one message (no timer: a message goes as soon as the stream
//! can take it). Point gets with a valid lease are answered by the task that
//! reads the stream. What a client takes back ends if it only reads, or
//! waits for locks; a command goes on.
//!
//! **Bounds**: requests under way per stream, answers waiting per stream, message
//! size. A client that does not read its answers stops being read from.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use cairn_kv_client::{KvStoreService, TransportError};
use cairn_proto::kv::kv_server::{Kv, KvServer};
use cairn_proto::kv::{self, kv_request};
use futures::stream::{BoxStream, Stream, StreamExt};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

use super::StoreService;
use super::consistency::Checker;
use super::recovery::RecoveryService;
use crate::raftstore::RaftInbox;
use crate::raftstore::transport::{serve_raft_stream, serve_snapshot_stream};

/// Requests of one stream that run at once.
const REQUESTS_IN_FLIGHT_MAX: usize = 1024;
/// Answers put into one message.
const RESPONSES_PER_MESSAGE_MAX: usize = 128;
/// Largest message taken: a transaction's batch of mutations fits many times.
const MESSAGE_BYTES_MAX: usize = 64 << 20;
/// Time that answers under way get when the server stops.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(3);
/// A client that went away without a word is noticed after these two together, and its
/// streams end.
const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(10);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Flow-control windows of HTTP/2; the default of 64 KiB stalls bulk pages.
const STREAM_WINDOW_BYTES: u32 = 2 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// Where Raft's own traffic goes.
#[async_trait]
pub trait RaftIngress: Send + Sync {
    /// Takes in messages of another store until its stream ends.
    async fn serve_raft(
        &self,
        batches: BoxStream<'static, Result<kv::RaftMessageBatch, Status>>,
    ) -> Result<kv::RaftDone, Status>;

    /// Takes in one Raft snapshot.
    async fn serve_snapshot(
        &self,
        chunks: BoxStream<'static, Result<kv::SnapshotChunk, Status>>,
    ) -> Result<kv::RaftDone, Status>;

    /// Sums up a replica, or compares all of a region.
    async fn check_region(
        &self,
        request: kv::CheckRegionRequest,
    ) -> Result<kv::CheckRegionResponse, Status>;

    /// Whether a Raft snapshot might come now.
    fn precheck(&self, request: &kv::SnapshotPrecheckRequest) -> kv::SnapshotPrecheckResponse;
}

/// What a whole store lets in.
pub struct Ingress {
    /// For Raft.
    pub inbox: RaftInbox,
    /// For comparisons of replicas.
    pub checker: Arc<Checker>,
}

#[async_trait]
impl RaftIngress for Ingress {
    async fn serve_raft(
        &self,
        batches: BoxStream<'static, Result<kv::RaftMessageBatch, Status>>,
    ) -> Result<kv::RaftDone, Status> {
        serve_raft_stream(&self.inbox, batches).await
    }

    async fn serve_snapshot(
        &self,
        chunks: BoxStream<'static, Result<kv::SnapshotChunk, Status>>,
    ) -> Result<kv::RaftDone, Status> {
        serve_snapshot_stream(&self.inbox, chunks).await
    }

    fn precheck(&self, request: &kv::SnapshotPrecheckRequest) -> kv::SnapshotPrecheckResponse {
        self.inbox.precheck(request)
    }

    async fn check_region(
        &self,
        request: kv::CheckRegionRequest,
    ) -> Result<kv::CheckRegionResponse, Status> {
        self.checker.answer(&request).await.map_err(Status::failed_precondition)
    }
}

/// Implements the wire's service over a [`StoreService`].
pub struct GrpcService {
    store: Arc<StoreService>,
    raft: Arc<dyn RaftIngress>,
    /// For the day the placement driver has lost everything.
    recovery: Option<RecoveryService>,
    /// Ends the streams, which would otherwise keep a stopping server waiting for
    /// as long as their clients live.
    shutdown: CancellationToken,
}

impl GrpcService {
    /// A service for the wire.
    pub fn new(store: Arc<StoreService>, raft: Arc<dyn RaftIngress>) -> GrpcService {
        GrpcService { store, raft, recovery: None, shutdown: CancellationToken::new() }
    }

    /// Tells on the same port what the store knows of its cluster.
    #[must_use]
    pub fn with_recovery(mut self, recovery: RecoveryService) -> GrpcService {
        self.recovery = Some(recovery);
        self
    }

    /// Serves until `shutdown`, and a little longer for answers under way.
    pub async fn serve(
        mut self,
        listener: TcpListener,
        shutdown: CancellationToken,
    ) -> Result<(), tonic::transport::Error> {
        self.shutdown = shutdown.clone();
        let recovery = self.recovery.take().map(RecoveryService::into_server);
        let service = KvServer::new(self)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        let overdue = {
            let shutdown = shutdown.clone();
            async move {
                shutdown.cancelled().await;
                tokio::time::sleep(SHUTDOWN_GRACE).await;
            }
        };
        let serving = tonic::transport::Server::builder()
            .http2_keepalive_interval(Some(KEEP_ALIVE_EVERY))
            .http2_keepalive_timeout(Some(KEEP_ALIVE_TIMEOUT))
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .add_service(service)
            .add_optional_service(recovery)
            .serve_with_incoming_shutdown(
                TcpIncoming::from(listener).with_nodelay(Some(true)),
                shutdown.cancelled_owned(),
            );
        tokio::select! {
            outcome = serving => outcome,
            () = overdue => Ok(()),
        }
    }
}

type Answer = (u64, kv::KvResponse);

#[async_trait]
impl Kv for GrpcService {
    type BatchCommandsStream =
        Pin<Box<dyn Stream<Item = Result<kv::BatchCommandsResponse, Status>> + Send>>;
    type CoprocessorStream =
        Pin<Box<dyn Stream<Item = Result<kv::CoprocessorResponse, Status>> + Send>>;

    async fn batch_commands(
        &self,
        request: Request<Streaming<kv::BatchCommandsRequest>>,
    ) -> Result<Response<Self::BatchCommandsStream>, Status> {
        let (answers, waiting) = mpsc::channel(REQUESTS_IN_FLIGHT_MAX);
        let requests = request.into_inner().take_until(self.shutdown.clone().cancelled_owned());
        tokio::spawn(read_commands(Arc::clone(&self.store), Box::pin(requests), answers));
        let responses = futures::stream::unfold(waiting, |mut waiting| async move {
            let mut ready: Vec<Answer> = Vec::new();
            if waiting.recv_many(&mut ready, RESPONSES_PER_MESSAGE_MAX).await == 0 {
                return None;
            }
            let (request_ids, responses) = ready.into_iter().unzip();
            Some((Ok(kv::BatchCommandsResponse { request_ids, responses }), waiting))
        });
        Ok(Response::new(Box::pin(responses)))
    }

    async fn coprocessor(
        &self,
        request: Request<kv::CoprocessorRequest>,
    ) -> Result<Response<Self::CoprocessorStream>, Status> {
        let pages = self.store.coprocessor(request.into_inner()).await.map_err(to_status)?;
        let pages = pages.take_until(self.shutdown.clone().cancelled_owned());
        Ok(Response::new(Box::pin(pages.map(|page| page.map_err(to_status)))))
    }

    async fn raft(
        &self,
        request: Request<Streaming<kv::RaftMessageBatch>>,
    ) -> Result<Response<kv::RaftDone>, Status> {
        let batches = request.into_inner().take_until(self.shutdown.clone().cancelled_owned());
        self.raft.serve_raft(Box::pin(batches)).await.map(Response::new)
    }

    async fn snapshot(
        &self,
        request: Request<Streaming<kv::SnapshotChunk>>,
    ) -> Result<Response<kv::RaftDone>, Status> {
        tokio::select! {
            done = self.raft.serve_snapshot(Box::pin(request.into_inner())) => {
                done.map(Response::new)
            }
            () = self.shutdown.cancelled() => Err(Status::unavailable("store is stopping")),
        }
    }

    async fn check_region(
        &self,
        request: Request<kv::CheckRegionRequest>,
    ) -> Result<Response<kv::CheckRegionResponse>, Status> {
        self.raft.check_region(request.into_inner()).await.map(Response::new)
    }

    async fn snapshot_precheck(
        &self,
        request: Request<kv::SnapshotPrecheckRequest>,
    ) -> Result<Response<kv::SnapshotPrecheckResponse>, Status> {
        Ok(Response::new(self.raft.precheck(request.get_ref())))
    }

    async fn store_info(
        &self,
        _: Request<kv::StoreInfoRequest>,
    ) -> Result<Response<kv::StoreInfoResponse>, Status> {
        self.store.store_info().await.map(Response::new).map_err(to_status)
    }
}

/// Reads a client's requests until it hangs up.
async fn read_commands(
    store: Arc<StoreService>,
    mut requests: BoxStream<'static, Result<kv::BatchCommandsRequest, Status>>,
    answers: mpsc::Sender<Answer>,
) {
    let in_flight = Arc::new(Semaphore::new(REQUESTS_IN_FLIGHT_MAX));
    let mut retractable = Retractable::default();
    loop {
        let batch = match requests.next().await {
            Some(Ok(batch)) => batch,
            None => return,
            Some(Err(status)) => {
                tracing::debug!(%status, "client stream ended");
                return;
            }
        };
        if batch.request_ids.len() != batch.requests.len() {
            tracing::warn!("client sent a batch whose ids and requests do not match");
            return;
        }
        for id in batch.cancelled_ids {
            retractable.cancel(id);
        }
        for (id, request) in batch.request_ids.into_iter().zip(batch.requests) {
            if let Some(response) = answer_now(&store, &request) {
                if answers.send((id, response)).await.is_err() {
                    return;
                }
                continue;
            }
            let waits = waits_for_locks(&request);
            // Who waits for a lock must not keep out the commit that releases it.
            let permit = if waits {
                None
            } else {
                let Ok(permit) = Arc::clone(&in_flight).acquire_owned().await else { return };
                Some(permit)
            };
            let (store, answers) = (Arc::clone(&store), answers.clone());
            let may_end = waits || only_reads(&request);
            let task = tokio::spawn(async move {
                tokio::select! {
                    response = store.call(request) => {
                        let response = response.unwrap_or_else(malformed);
                        // The client may have hung up: then nobody waits for the answer.
                        let _ = answers.send((id, response)).await;
                    }
                    // It has hung up: reads end here; commands own their task and go on.
                    () = answers.closed() => {}
                }
                drop(permit);
            });
            if may_end {
                retractable.add(id, task.abort_handle());
            }
        }
    }
}

/// Fewer than these are not looked through for those that are done.
const SWEPT_MIN: usize = 64;

/// Requests of one stream that its client may take back.
#[derive(Default)]
struct Retractable {
    by_id: HashMap<u64, AbortHandle>,
    /// At this number those that are done are forgotten: twice what was left the last time, so
    /// that a request pays for a few others only.
    sweep_at: usize,
}

impl Retractable {
    fn add(&mut self, id: u64, task: AbortHandle) {
        if self.by_id.len() >= self.sweep_at {
            self.by_id.retain(|_, task| !task.is_finished());
            self.sweep_at = (2 * self.by_id.len()).max(SWEPT_MIN);
        }
        self.by_id.insert(id, task);
    }

    fn cancel(&mut self, id: u64) {
        if let Some(task) = self.by_id.remove(&id) {
            task.abort();
        }
    }
}

/// Whether a request changes nothing: then it may end anywhere.
fn only_reads(request: &kv::KvRequest) -> bool {
    use kv_request::Cmd;
    matches!(
        request.cmd,
        Some(Cmd::Get(_) | Cmd::BatchGet(_) | Cmd::Scan(_) | Cmd::ScanLock(_) | Cmd::Refresh(_))
    )
}

/// Whether a request may wait for other transactions: the scheduler bounds how many do. A try
/// that is under way goes on when its caller leaves, the wait does not.
fn waits_for_locks(request: &kv::KvRequest) -> bool {
    use kv_request::Cmd;
    matches!(&request.cmd, Some(Cmd::PessimisticLock(lock)) if lock.wait_ms > 0)
}

/// Point gets under a valid lease need no task.
fn answer_now(store: &StoreService, request: &kv::KvRequest) -> Option<kv::KvResponse> {
    match (&request.context, &request.cmd) {
        (Some(context), Some(kv_request::Cmd::Get(get))) => {
            store.try_get_now(context, &get.key, get.version)
        }
        _ => None,
    }
}

/// The store answers whatever it understands; this is the rest.
fn malformed(error: TransportError) -> kv::KvResponse {
    let error = kv::RegionError { message: error.to_string(), kind: None };
    kv::KvResponse { region_error: Some(error), cmd: None }
}

fn to_status(error: TransportError) -> Status {
    match error {
        TransportError::Malformed { .. } => Status::invalid_argument(error.to_string()),
        TransportError::DeadlineExceeded { .. } => Status::deadline_exceeded(error.to_string()),
        _ => Status::unavailable(error.to_string()),
    }
}
