//! The placement driver over gRPC.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use cairn_proto::meta::{Region, Store};
use cairn_proto::pd::*;
use cairn_types::TimeStamp;
use futures::StreamExt;
use futures::stream::BoxStream;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;

use crate::channel::{LeaderChannel, unavailable};
use crate::error::PdError;
use crate::order::Order;
use crate::tso::TsoBatcher;
use crate::{PdBounds, PdClient, RegionRoute};

/// Schema version of a watcher that has not heard of any yet.
const NO_VERSION: i64 = -1;

/// Calls the leader with a request made of the fields and our header.
macro_rules! unary {
    ($self:ident, $method:ident, $request:ident { $($field:ident : $value:expr),* $(,)? }) => {
        unary!($self, call, $method, $request { $($field: $value),* })
    };
    ($self:ident, $way:ident, $method:ident, $request:ident {
        $($field:ident : $value:expr),* $(,)?
    }) => {{
        let request = $request { header: None, $($field: $value),* };
        $self.channel.$way(move |mut stub, header| {
            let mut request = request.clone();
            request.header = header;
            async move { stub.$method(request).await }
        })
    }};
}

/// A client of a remote placement driver.
pub struct GrpcPdClient {
    channel: Arc<LeaderChannel>,
    tso: TsoBatcher,
}

impl GrpcPdClient {
    /// Finds the leader among the endpoints (`host:port` each). Fails when none
    /// answers; later it reconnects by itself. Must be called within a tokio
    /// runtime.
    pub async fn connect<S: AsRef<str>>(endpoints: &[S]) -> Result<GrpcPdClient, PdError> {
        let endpoints: Vec<String> =
            endpoints.iter().map(|endpoint| endpoint.as_ref().trim().to_owned()).collect();
        if endpoints.is_empty() {
            return Err(PdError::InvalidArgument("no endpoint of the placement driver".into()));
        }
        // Only spreads waits: clients that start together must not wait alike.
        let seed = StdRng::from_os_rng().random();
        let channel = Arc::new(LeaderChannel::new(endpoints, seed));
        let client = GrpcPdClient { tso: TsoBatcher::start(channel.clone()), channel };
        client.members().await?;
        Ok(client)
    }

    /// The members and which of them leads.
    pub async fn members(&self) -> Result<(Vec<Member>, Option<Member>), PdError> {
        let response = unary!(self, get_members, GetMembersRequest {}).await?;
        Ok((response.members, response.leader))
    }

    /// The members as the first of the endpoints that answers knows them: for a look at a
    /// group in which nobody leads.
    pub async fn members_of_any<S: AsRef<str>>(endpoints: &[S]) -> Result<Vec<Member>, PdError> {
        let endpoints: Vec<String> =
            endpoints.iter().map(|endpoint| endpoint.as_ref().trim().to_owned()).collect();
        let mut last = PdError::InvalidArgument("no endpoint of the placement driver".into());
        let channel = LeaderChannel::new(endpoints.clone(), 0);
        for endpoint in &endpoints {
            match channel.get_members(endpoint).await {
                Ok((_, response)) => return Ok(response.members),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Takes a member of the placement driver in, as a learner at first. The token tells
    /// a repeated call from another member's of the same name.
    pub async fn add_member(
        &self,
        name: &str,
        address: &str,
        token: u64,
    ) -> Result<AddMemberResponse, PdError> {
        let (name, address) = (name.to_owned(), address.to_owned());
        unary!(self, add_member, AddMemberRequest { name: name, address: address, token: token })
            .await
    }

    /// Takes a member of the placement driver out for good. Answers what the operator
    /// should know, if anything.
    pub async fn remove_member(&self, name_or_id: &str) -> Result<String, PdError> {
        let member = name_or_id.to_owned();
        let call = unary!(self, remove_member, RemoveMemberRequest { member: member });
        Ok(call.await?.warning)
    }

    /// Lets that member of the placement driver lead.
    pub async fn transfer_member(&self, name_or_id: &str) -> Result<(), PdError> {
        let member = name_or_id.to_owned();
        unary!(self, transfer_member, TransferMemberRequest { member: member }).await.map(drop)
    }
}

#[async_trait]
impl PdClient for GrpcPdClient {
    fn cluster_id(&self) -> u64 {
        self.channel.cluster_id()
    }

    fn forget_cluster(&self) {
        self.channel.forget_cluster();
    }

    async fn get_ts(&self) -> Result<TimeStamp, PdError> {
        self.tso.get().await
    }

    async fn alloc_ids(&self, count: u32) -> Result<u64, PdError> {
        let response = unary!(self, alloc_id, AllocIdRequest { count: count }).await?;
        let first = (response.id + 1).checked_sub(u64::from(response.count));
        match first {
            Some(first) if response.count == count && first > 0 => Ok(first),
            _ => Err(PdError::Internal("ids that nobody asked for".into())),
        }
    }

    async fn bootstrap(&self, store: Store, region: Region) -> Result<(), PdError> {
        let call =
            unary!(self, bootstrap, BootstrapRequest { store: Some(store), region: Some(region) });
        call.await.map(drop)
    }

    async fn is_bootstrapped(&self) -> Result<bool, PdError> {
        let response = unary!(self, read, is_bootstrapped, IsBootstrappedRequest {}).await?;
        Ok(response.bootstrapped)
    }

    async fn put_store(&self, store: Store) -> Result<(), PdError> {
        unary!(self, put_store, PutStoreRequest { store: Some(store) }).await.map(drop)
    }

    async fn get_store(&self, store_id: u64) -> Result<Store, PdError> {
        let response =
            unary!(self, read, get_store, GetStoreRequest { store_id: store_id }).await?;
        response.store.ok_or_else(|| PdError::StoreNotFound(format!("store {store_id}")))
    }

    async fn get_all_stores(&self) -> Result<Vec<(Store, StoreStats)>, PdError> {
        let response = unary!(self, read, get_all_stores, GetAllStoresRequest {}).await?;
        let stores = response.stores.into_iter();
        Ok(stores
            .map(|one| (one.store.unwrap_or_default(), one.stats.unwrap_or_default()))
            .collect())
    }

    async fn store_heartbeat(&self, stats: StoreStats) -> Result<StoreHeartbeatResponse, PdError> {
        unary!(self, store_heartbeat, StoreHeartbeatRequest { stats: Some(stats) }).await
    }

    async fn report_peers(&self, page: ReportPeersRequest) -> Result<(), PdError> {
        let send = move |mut stub: crate::channel::Stub, header| {
            let page = ReportPeersRequest { header, ..page.clone() };
            async move { stub.report_peers(page).await }
        };
        self.channel.call(send).await.map(drop)
    }

    async fn region_heartbeat(
        &self,
        request: RegionHeartbeatRequest,
    ) -> Result<RegionHeartbeatResponse, PdError> {
        let send = move |mut stub: crate::channel::Stub, header| {
            let request = RegionHeartbeatRequest { header, ..request.clone() };
            async move { stub.region_heartbeat(request).await }
        };
        self.channel.call(send).await
    }

    async fn get_region(&self, raw_key: &[u8]) -> Result<RegionRoute, PdError> {
        let key = Bytes::copy_from_slice(raw_key);
        Ok(unary!(self, read, get_region, GetRegionRequest { key: key }).await?.into())
    }

    async fn get_region_by_id(&self, region_id: u64) -> Result<RegionRoute, PdError> {
        let call =
            unary!(self, read, get_region_by_id, GetRegionByIdRequest { region_id: region_id });
        Ok(call.await?.into())
    }

    async fn scan_regions(
        &self,
        start_key: &[u8],
        end_key: &[u8],
        limit: u32,
    ) -> Result<Vec<RegionRoute>, PdError> {
        let (start_key, end_key) =
            (Bytes::copy_from_slice(start_key), Bytes::copy_from_slice(end_key));
        let call = unary!(
            self,
            read,
            scan_regions,
            ScanRegionsRequest { start_key: start_key, end_key: end_key, limit: limit }
        );
        Ok(call.await?.regions.into_iter().map(RegionRoute::from).collect())
    }

    async fn ask_split(&self, region: Region, split_count: u32) -> Result<Vec<SplitId>, PdError> {
        let call = unary!(
            self,
            ask_split,
            AskSplitRequest { region: Some(region), split_count: split_count }
        );
        Ok(call.await?.ids)
    }

    async fn report_split(&self, regions: Vec<Region>) -> Result<(), PdError> {
        unary!(self, report_split, ReportSplitRequest { regions: regions }).await.map(drop)
    }

    async fn get_gc_safe_point(&self) -> Result<TimeStamp, PdError> {
        let response = unary!(self, read, get_gc_safe_point, GetGcSafePointRequest {}).await?;
        Ok(TimeStamp(response.safe_point))
    }

    async fn update_gc_safe_point(&self, safe_point: TimeStamp) -> Result<TimeStamp, PdError> {
        let call = unary!(
            self,
            update_gc_safe_point,
            UpdateGcSafePointRequest { safe_point: safe_point.0 }
        );
        Ok(TimeStamp(call.await?.new_safe_point))
    }

    async fn bounds(&self) -> Result<PdBounds, PdError> {
        let response = unary!(self, get_bounds, GetBoundsRequest {}).await?;
        Ok(PdBounds {
            id_bound: response.id_bound,
            tso_bound_ms: response.tso_bound_ms,
            gc_safe_point: TimeStamp(response.gc_safe_point),
            schema_version: response.schema_version,
        })
    }

    async fn get_config(&self, prefix: &str) -> Result<Vec<ConfigEntry>, PdError> {
        let call = unary!(self, read, get_config, GetConfigRequest { prefix: prefix.to_owned() });
        Ok(call.await?.entries)
    }

    async fn put_config(&self, entries: Vec<ConfigEntry>) -> Result<(), PdError> {
        unary!(self, put_config, PutConfigRequest { entries: entries }).await.map(drop)
    }

    async fn watch_schema(&self) -> Result<BoxStream<'static, i64>, PdError> {
        let (versions, watcher) = watch::channel(NO_VERSION);
        tokio::spawn(watch_schema(self.channel.clone(), versions));
        let known = |version: &i64| std::future::ready(*version != NO_VERSION);
        Ok(WatchStream::new(watcher).filter(known).boxed())
    }

    async fn notify_schema(&self, schema_version: i64) -> Result<(), PdError> {
        let call =
            unary!(self, notify_schema, NotifySchemaRequest { schema_version: schema_version });
        call.await.map(drop)
    }

    async fn steer(&self, order: Order) -> Result<String, PdError> {
        let order = serde_json::to_string(&order)
            .map_err(|error| PdError::InvalidArgument(error.to_string()))?;
        Ok(unary!(self, steer, SteerRequest { order: order }).await?.rows)
    }

    async fn scatter_regions(
        &self,
        region_ids: Vec<u64>,
        group: &str,
    ) -> Result<Vec<u64>, PdError> {
        let call = unary!(
            self,
            scatter_regions,
            ScatterRegionsRequest { region_ids: region_ids, group: group.to_owned() }
        );
        Ok(call.await?.left_region_ids)
    }
}

/// Keeps a schema stream open for as long as somebody listens.
async fn watch_schema(channel: Arc<LeaderChannel>, versions: watch::Sender<i64>) {
    let mut backoff = channel.backoff();
    while !versions.is_closed() {
        match follow_schema(&channel, &versions).await {
            Ok(()) => backoff = channel.backoff(),
            Err(error) => tracing::debug!(%error, "schema watch"),
        }
        tokio::select! {
            () = versions.closed() => return,
            () = tokio::time::sleep(backoff.next_delay()) => {}
        }
    }
}

/// Reads one stream to its end.
async fn follow_schema(
    channel: &LeaderChannel,
    versions: &watch::Sender<i64>,
) -> Result<(), PdError> {
    let mut leader = channel.leader().await?;
    let request = WatchSchemaRequest { header: channel.header() };
    let followed = async {
        let opened = leader.stub.watch_schema(request).await;
        let mut stream = opened.map_err(|status| unavailable(&status))?.into_inner();
        while let Some(message) = stream.next().await {
            let response = message.map_err(|status| unavailable(&status))?;
            PdError::from_header(response.header.as_ref())?;
            versions.send_if_modified(|version| {
                let grown = response.schema_version > *version;
                *version = response.schema_version.max(*version);
                grown
            });
        }
        Ok(())
    };
    let outcome = tokio::select! {
        () = versions.closed() => return Ok(()),
        outcome = followed => outcome,
    };
    if let Err(error) = &outcome {
        channel.forget(&leader, error);
    }
    outcome
}
