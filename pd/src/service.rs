//! The gRPC face of [`PdServer`]: messages in, messages out.
//!
//! Errors of an operation travel in the response's header; the RPC itself then
//! succeeds, so that clients can tell PD's answers from network trouble. A member that
//! does not lead answers NOT_LEADER with the leader's address; clients go there.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use cairn_pd_client::PdError;
use cairn_proto::pd::pd_raft_server::{PdRaft, PdRaftServer};
use cairn_proto::pd::pd_server::{Pd, PdServer as PdRpc};
use cairn_proto::pd::*;
use cairn_types::TimeStamp;
use futures::{Stream, StreamExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream, WatchStream};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use crate::replication::transport::{WIRE_BYTES_MAX, serve_exchange};
use crate::server::PdServer;

/// Answers to timestamp requests that wait for the socket.
const TSO_ANSWERS_WAITING_MAX: usize = 64;

type AnswerStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The service over a server.
#[derive(Clone)]
pub struct PdService {
    server: Arc<PdServer>,
    /// Ends the streams: a graceful shutdown would wait for them for ever.
    closing: CancellationToken,
}

impl PdServer {
    /// Serves the service on the listener until `shutdown` ends or the driver stops.
    pub async fn serve_grpc(
        self: &Arc<PdServer>,
        listener: TcpListener,
        shutdown: impl Future<Output = ()> + Send,
    ) -> Result<(), tonic::transport::Error> {
        let closing = self.stopping().child_token();
        let service = PdService { server: self.clone(), closing: closing.clone() };
        let raft = PdRaftServer::new(service.clone()).max_decoding_message_size(WIRE_BYTES_MAX);
        let end = async move {
            tokio::select! {
                () = shutdown => {}
                () = closing.cancelled() => {}
            }
            closing.cancel();
        };
        tonic::transport::Server::builder()
            .tcp_nodelay(true)
            .add_service(PdRpc::new(service))
            .add_service(raft)
            .serve_with_incoming_shutdown(TcpListenerStream::new(listener), end)
            .await
    }
}

impl PdService {
    fn header(&self, error: Option<&PdError>) -> Option<ResponseHeader> {
        let cluster_id = self.server.cluster_id();
        Some(ResponseHeader { cluster_id, error: error.map(Error::from) })
    }

    /// Whether the request belongs to this cluster.
    fn check_cluster(&self, header: Option<&Header>) -> Result<(), PdError> {
        let ours = self.server.cluster_id();
        match header.map_or(0, |header| header.cluster_id) {
            0 => Ok(()),
            theirs if theirs == ours => Ok(()),
            // A new member that has not heard of its cluster yet.
            _ if ours == 0 => Err(PdError::NotLeader(self.server.shared().leader_address())),
            theirs => Err(PdError::ClusterMismatch(format!(
                "the request is for cluster {theirs}, this is cluster {ours}"
            ))),
        }
    }

    /// Whether this member may answer: the leader may.
    fn check(&self, header: Option<&Header>) -> Result<(), PdError> {
        self.check_cluster(header)?;
        self.server.check_leads()
    }

    /// As [`PdService::check`], for what any member may answer if the caller says so.
    fn check_read(&self, header: Option<&Header>) -> Result<(), PdError> {
        self.check_cluster(header)?;
        if header.is_some_and(|header| header.allow_follower) && self.server.cluster_id() != 0 {
            return Ok(());
        }
        self.server.check_leads()
    }
}

/// Runs the body after the header was checked, and puts its error into the header
/// of the response.
macro_rules! answer {
    ($self:ident, $request:ident, $response:ident, $body:expr) => {
        answer!($self, $request, $response, check, $body)
    };
    ($self:ident, $request:ident, $response:ident, $check:ident, $body:expr) => {{
        let $request = $request.into_inner();
        let result: Result<$response, PdError> = async {
            $self.$check($request.header.as_ref())?;
            $body
        }
        .await;
        let (header, mut response) = match result {
            Ok(response) => ($self.header(None), response),
            Err(error) => ($self.header(Some(&error)), $response::default()),
        };
        response.header = header;
        Ok(Response::new(response))
    }};
}

#[tonic::async_trait]
impl Pd for PdService {
    type TsoStream = AnswerStream<TsoResponse>;
    type WatchSchemaStream = AnswerStream<WatchSchemaResponse>;

    async fn get_members(
        &self,
        request: Request<GetMembersRequest>,
    ) -> Result<Response<GetMembersResponse>, Status> {
        answer!(self, request, GetMembersResponse, check_cluster, {
            let (members, leader) = self.server.members();
            Ok(GetMembersResponse { header: None, members, leader })
        })
    }

    async fn tso(
        &self,
        request: Request<Streaming<TsoRequest>>,
    ) -> Result<Response<Self::TsoStream>, Status> {
        let mut requests = request.into_inner();
        let (answers, stream) = mpsc::channel(TSO_ANSWERS_WAITING_MAX);
        let service = self.clone();
        let closing = self.closing.clone();
        tokio::spawn(async move {
            loop {
                let request = tokio::select! {
                    () = closing.cancelled() => return,
                    request = requests.next() => request,
                };
                let Some(Ok(request)) = request else { return };
                let count = request.count.max(1);
                let result = match service.check(request.header.as_ref()) {
                    Ok(()) => service.server.get_ts(count).await,
                    Err(error) => Err(error),
                };
                let timestamp = result.as_ref().map_or(0, |ts| ts.0);
                let header = service.header(result.as_ref().err());
                let answer = TsoResponse { header, count, timestamp };
                if answers.send(Ok(answer)).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn alloc_id(
        &self,
        request: Request<AllocIdRequest>,
    ) -> Result<Response<AllocIdResponse>, Status> {
        answer!(self, request, AllocIdResponse, {
            let count = request.count.max(1);
            let first = self.server.alloc_ids(count).await?;
            Ok(AllocIdResponse { header: None, id: first + u64::from(count) - 1, count })
        })
    }

    async fn bootstrap(
        &self,
        request: Request<BootstrapRequest>,
    ) -> Result<Response<BootstrapResponse>, Status> {
        answer!(self, request, BootstrapResponse, {
            let store = request.store.unwrap_or_default();
            let region = request.region.unwrap_or_default();
            self.server.bootstrap(store, region).await?;
            Ok(BootstrapResponse::default())
        })
    }

    async fn is_bootstrapped(
        &self,
        request: Request<IsBootstrappedRequest>,
    ) -> Result<Response<IsBootstrappedResponse>, Status> {
        answer!(self, request, IsBootstrappedResponse, check_read, {
            let bootstrapped = self.server.is_bootstrapped();
            Ok(IsBootstrappedResponse { header: None, bootstrapped })
        })
    }

    async fn put_store(
        &self,
        request: Request<PutStoreRequest>,
    ) -> Result<Response<PutStoreResponse>, Status> {
        answer!(self, request, PutStoreResponse, {
            self.server.put_store(request.store.unwrap_or_default()).await?;
            Ok(PutStoreResponse::default())
        })
    }

    async fn get_store(
        &self,
        request: Request<GetStoreRequest>,
    ) -> Result<Response<GetStoreResponse>, Status> {
        answer!(self, request, GetStoreResponse, check_read, {
            let (store, stats) = self.server.get_store(request.store_id)?;
            Ok(GetStoreResponse { header: None, store: Some(store), stats: Some(stats) })
        })
    }

    async fn get_all_stores(
        &self,
        request: Request<GetAllStoresRequest>,
    ) -> Result<Response<GetAllStoresResponse>, Status> {
        answer!(self, request, GetAllStoresResponse, check_read, {
            let stores = self.server.get_all_stores().into_iter();
            let stores = stores.map(|(store, stats)| GetStoreResponse {
                header: None,
                store: Some(store),
                stats: Some(stats),
            });
            Ok(GetAllStoresResponse { header: None, stores: stores.collect() })
        })
    }

    async fn store_heartbeat(
        &self,
        request: Request<StoreHeartbeatRequest>,
    ) -> Result<Response<StoreHeartbeatResponse>, Status> {
        answer!(self, request, StoreHeartbeatResponse, {
            self.server.store_heartbeat(request.stats.unwrap_or_default())
        })
    }

    async fn report_peers(
        &self,
        request: Request<ReportPeersRequest>,
    ) -> Result<Response<ReportPeersResponse>, Status> {
        answer!(self, request, ReportPeersResponse, {
            self.server.report_peers(request)?;
            Ok(ReportPeersResponse::default())
        })
    }

    async fn region_heartbeat(
        &self,
        request: Request<RegionHeartbeatRequest>,
    ) -> Result<Response<RegionHeartbeatResponse>, Status> {
        answer!(self, request, RegionHeartbeatResponse, {
            self.server.region_heartbeat(request).await
        })
    }

    async fn get_region(
        &self,
        request: Request<GetRegionRequest>,
    ) -> Result<Response<GetRegionResponse>, Status> {
        answer!(self, request, GetRegionResponse, check_read, {
            Ok(self.server.get_region(&request.key)?.into())
        })
    }

    async fn get_region_by_id(
        &self,
        request: Request<GetRegionByIdRequest>,
    ) -> Result<Response<GetRegionResponse>, Status> {
        answer!(self, request, GetRegionResponse, check_read, {
            Ok(self.server.get_region_by_id(request.region_id)?.into())
        })
    }

    async fn scan_regions(
        &self,
        request: Request<ScanRegionsRequest>,
    ) -> Result<Response<ScanRegionsResponse>, Status> {
        answer!(self, request, ScanRegionsResponse, check_read, {
            let ScanRegionsRequest { start_key, end_key, limit, .. } = request;
            let routes = self.server.scan_regions(&start_key, &end_key, limit);
            let regions = routes.into_iter().map(GetRegionResponse::from).collect();
            Ok(ScanRegionsResponse { header: None, regions })
        })
    }

    async fn ask_split(
        &self,
        request: Request<AskSplitRequest>,
    ) -> Result<Response<AskSplitResponse>, Status> {
        answer!(self, request, AskSplitResponse, {
            let region = request.region.unwrap_or_default();
            let ids = self.server.ask_split(&region, request.split_count).await?;
            Ok(AskSplitResponse { header: None, ids })
        })
    }

    async fn report_split(
        &self,
        request: Request<ReportSplitRequest>,
    ) -> Result<Response<ReportSplitResponse>, Status> {
        answer!(self, request, ReportSplitResponse, {
            self.server.report_split(request.regions).await?;
            Ok(ReportSplitResponse::default())
        })
    }

    async fn get_gc_safe_point(
        &self,
        request: Request<GetGcSafePointRequest>,
    ) -> Result<Response<GetGcSafePointResponse>, Status> {
        answer!(self, request, GetGcSafePointResponse, check_read, {
            let safe_point = self.server.gc_safe_point().0;
            Ok(GetGcSafePointResponse { header: None, safe_point })
        })
    }

    async fn update_gc_safe_point(
        &self,
        request: Request<UpdateGcSafePointRequest>,
    ) -> Result<Response<UpdateGcSafePointResponse>, Status> {
        answer!(self, request, UpdateGcSafePointResponse, {
            let wanted = TimeStamp(request.safe_point);
            let new_safe_point = self.server.update_gc_safe_point(wanted).await?.0;
            Ok(UpdateGcSafePointResponse { header: None, new_safe_point })
        })
    }

    async fn get_bounds(
        &self,
        request: Request<GetBoundsRequest>,
    ) -> Result<Response<GetBoundsResponse>, Status> {
        answer!(self, request, GetBoundsResponse, {
            let bounds = self.server.bounds();
            Ok(GetBoundsResponse {
                header: None,
                id_bound: bounds.id_bound,
                tso_bound_ms: bounds.tso_bound_ms,
                gc_safe_point: bounds.gc_safe_point.0,
                schema_version: bounds.schema_version,
            })
        })
    }

    async fn get_config(
        &self,
        request: Request<GetConfigRequest>,
    ) -> Result<Response<GetConfigResponse>, Status> {
        answer!(self, request, GetConfigResponse, check_read, {
            let entries = self.server.get_config(&request.prefix);
            Ok(GetConfigResponse { header: None, entries })
        })
    }

    async fn put_config(
        &self,
        request: Request<PutConfigRequest>,
    ) -> Result<Response<PutConfigResponse>, Status> {
        answer!(self, request, PutConfigResponse, {
            self.server.put_config(request.entries).await?;
            Ok(PutConfigResponse::default())
        })
    }

    async fn watch_schema(
        &self,
        request: Request<WatchSchemaRequest>,
    ) -> Result<Response<Self::WatchSchemaStream>, Status> {
        let header = request.into_inner().header;
        match self.check(header.as_ref()) {
            Ok(()) => {}
            Err(error @ PdError::NotLeader(_)) => {
                return Err(Status::unavailable(error.to_string()));
            }
            Err(error) => return Err(Status::failed_precondition(error.to_string())),
        }
        let service = self.clone();
        let closing = self.closing.clone();
        let mut status = self.server.shared().watch_status();
        // A member that leads no more may be cut off from the news.
        let end = async move {
            tokio::select! {
                () = closing.cancelled() => {}
                _ = status.wait_for(|status| !status.open) => {}
            }
        };
        let versions = WatchStream::new(self.server.watch_schema());
        let answers = versions.take_until(end).map(move |schema_version| {
            Ok(WatchSchemaResponse { header: service.header(None), schema_version })
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn notify_schema(
        &self,
        request: Request<NotifySchemaRequest>,
    ) -> Result<Response<NotifySchemaResponse>, Status> {
        answer!(self, request, NotifySchemaResponse, {
            self.server.notify_schema(request.schema_version).await?;
            Ok(NotifySchemaResponse::default())
        })
    }

    async fn add_member(
        &self,
        request: Request<AddMemberRequest>,
    ) -> Result<Response<AddMemberResponse>, Status> {
        answer!(self, request, AddMemberResponse, {
            let AddMemberRequest { name, address, token, .. } = request;
            self.server.add_member(name, address, token).await
        })
    }

    async fn remove_member(
        &self,
        request: Request<RemoveMemberRequest>,
    ) -> Result<Response<RemoveMemberResponse>, Status> {
        answer!(self, request, RemoveMemberResponse, {
            let warning = self.server.remove_member(&request.member).await?;
            Ok(RemoveMemberResponse { header: None, warning })
        })
    }

    async fn transfer_member(
        &self,
        request: Request<TransferMemberRequest>,
    ) -> Result<Response<TransferMemberResponse>, Status> {
        answer!(self, request, TransferMemberResponse, {
            self.server.transfer_member(&request.member).await?;
            Ok(TransferMemberResponse::default())
        })
    }

    async fn steer(
        &self,
        request: Request<SteerRequest>,
    ) -> Result<Response<SteerResponse>, Status> {
        answer!(self, request, SteerResponse, {
            let order = crate::steer::read_order(&request.order)?;
            Ok(SteerResponse { header: None, rows: self.server.steer(order).await? })
        })
    }

    async fn scatter_regions(
        &self,
        request: Request<ScatterRegionsRequest>,
    ) -> Result<Response<ScatterRegionsResponse>, Status> {
        answer!(self, request, ScatterRegionsResponse, {
            let ScatterRegionsRequest { region_ids, group, .. } = request;
            let left_region_ids = self.server.scatter_regions(&region_ids, &group).await?;
            let scattered = (region_ids.len() - left_region_ids.len()) as u32;
            Ok(ScatterRegionsResponse { header: None, scattered, left_region_ids })
        })
    }
}

#[tonic::async_trait]
impl PdRaft for PdService {
    async fn exchange(
        &self,
        request: Request<Streaming<RaftFrame>>,
    ) -> Result<Response<RaftDone>, Status> {
        let frames = request.into_inner();
        tokio::select! {
            () = self.closing.cancelled() => Err(Status::unavailable("this member stops")),
            outcome = serve_exchange(self.server.inbox(), frames) => {
                outcome.map(|()| Response::new(RaftDone {}))
            }
        }
    }
}
