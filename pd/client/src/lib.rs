//! The client of the placement driver: batched timestamps, ids, routes.
//!
//! | module | what it holds |
//! |---|---|
//! | [`PdClient`] (here) | the seam: stores, SQL nodes and tools see only this trait |
//! | [`GrpcPdClient`] | a remote PD: leader discovery, repeats, batched timestamps |
//! | [`clock`] | what leases run on, in every crate that holds one |
//! | [`backoff`] | delays with jitter, the budget of repeats |
//! | [`order`] | what people ask about scheduling, and order |
//! | [`error`] | [`PdError`], with what may be retried |
//!
//! Two implementations exist: the gRPC client of this crate, and a direct one in
//! `cairn-pd` for roles that share the process with PD.
//!
//! **Invariants.** Every call is bounded in time. A timestamp returned by
//! [`PdClient::get_ts`] is greater than every timestamp that any client was given
//! before the call began.

pub mod backoff;
mod channel;
pub mod clock;
pub mod error;
mod grpc;
pub mod order;
mod tso;

use async_trait::async_trait;
use cairn_proto::meta;
use cairn_proto::pd::{
    ConfigEntry, GetRegionResponse, PeerStats, RegionHeartbeatRequest, RegionHeartbeatResponse,
    ReportPeersRequest, SplitId, StoreHeartbeatResponse, StoreStats,
};
use cairn_types::TimeStamp;
use futures::stream::BoxStream;

pub use error::PdError;
pub use grpc::GrpcPdClient;
pub use order::{ClusterRecovery, Order, RecoveredStore};

/// What PD knows of a region: its range, replicas and leader.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RegionRoute {
    /// Range, epoch and peers.
    pub region: meta::Region,
    /// The leader of the last heartbeat; unknown right after a restart of PD.
    pub leader: Option<meta::Peer>,
    /// Peers their leader has not heard from.
    pub down_peers: Vec<PeerStats>,
    /// Peers that still lack entries or a Raft snapshot.
    pub pending_peers: Vec<meta::Peer>,
    /// Size as the leader estimates it.
    pub approximate_size_bytes: u64,
    /// Number of keys as the leader estimates it.
    pub approximate_keys: u64,
    /// Its peers are on their way to where a request to scatter wants them.
    pub scattering: bool,
    /// Load within the leader's last report.
    pub flow: RegionFlow,
}

/// What the placement driver must never go back below.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PdBounds {
    /// Ids up to this one may have been handed out.
    pub id_bound: u64,
    /// Timestamps below this physical time may have been handed out.
    pub tso_bound_ms: u64,
    /// Versions below it may be collected.
    pub gc_safe_point: TimeStamp,
    /// Newest announced schema version.
    pub schema_version: i64,
}

impl PdBounds {
    /// The higher of both in everything.
    pub fn max(self, other: PdBounds) -> PdBounds {
        PdBounds {
            id_bound: self.id_bound.max(other.id_bound),
            tso_bound_ms: self.tso_bound_ms.max(other.tso_bound_ms),
            gc_safe_point: self.gc_safe_point.max(other.gc_safe_point),
            schema_version: self.schema_version.max(other.schema_version),
        }
    }
}

/// What was read and written between two reports of a region's leader.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RegionFlow {
    /// Bytes of keys and values written.
    pub written_bytes: u64,
    /// Keys written.
    pub written_keys: u64,
    /// Bytes of keys and values read.
    pub read_bytes: u64,
    /// Keys read.
    pub read_keys: u64,
}

impl From<GetRegionResponse> for RegionRoute {
    fn from(response: GetRegionResponse) -> RegionRoute {
        RegionRoute {
            region: response.region.unwrap_or_default(),
            leader: response.leader.filter(|leader| leader.id != 0),
            down_peers: response.down_peers,
            pending_peers: response.pending_peers,
            approximate_size_bytes: response.approximate_size_bytes,
            approximate_keys: response.approximate_keys,
            scattering: response.scattering,
            flow: RegionFlow {
                written_bytes: response.written_bytes,
                written_keys: response.written_keys,
                read_bytes: response.read_bytes,
                read_keys: response.read_keys,
            },
        }
    }
}

impl From<RegionRoute> for GetRegionResponse {
    fn from(route: RegionRoute) -> GetRegionResponse {
        GetRegionResponse {
            header: None,
            region: Some(route.region),
            leader: route.leader,
            down_peers: route.down_peers,
            pending_peers: route.pending_peers,
            approximate_size_bytes: route.approximate_size_bytes,
            approximate_keys: route.approximate_keys,
            scattering: route.scattering,
            written_bytes: route.flow.written_bytes,
            written_keys: route.flow.written_keys,
            read_bytes: route.flow.read_bytes,
            read_keys: route.flow.read_keys,
        }
    }
}

/// Everything the other tiers ask of the placement driver.
#[async_trait]
pub trait PdClient: Send + Sync {
    /// Identity of the cluster, as PD told it first; zero until it did. A client talks to no
    /// other cluster from then on.
    fn cluster_id(&self) -> u64;

    /// Learns anew with the next call which cluster PD serves: a PD that lost its data and
    /// has not recovered its cluster yet goes by another identity.
    fn forget_cluster(&self) {}

    /// A timestamp without waiting, when PD shares the process and its window
    /// has room; `None` means: use [`PdClient::get_ts`].
    fn try_get_ts(&self) -> Option<TimeStamp> {
        None
    }

    /// A fresh timestamp; concurrent callers share one request.
    async fn get_ts(&self) -> Result<TimeStamp, PdError>;

    /// `count` consecutive ids that were never handed out before; answers the first.
    async fn alloc_ids(&self, count: u32) -> Result<u64, PdError>;

    /// Creates the cluster's first store and region. Exactly one caller wins; the
    /// others get [`PdError::AlreadyBootstrapped`].
    async fn bootstrap(&self, store: meta::Store, region: meta::Region) -> Result<(), PdError>;

    /// Whether the first region exists.
    async fn is_bootstrapped(&self) -> Result<bool, PdError>;

    /// Registers a store or updates its addresses and labels.
    async fn put_store(&self, store: meta::Store) -> Result<(), PdError>;

    /// One store, tombstones included.
    async fn get_store(&self, store_id: u64) -> Result<meta::Store, PdError>;

    /// Every store that is no tombstone, with its last report, by id.
    async fn get_all_stores(&self) -> Result<Vec<(meta::Store, StoreStats)>, PdError>;

    /// A store's own report; due every few seconds. Answers regions whose leaders should
    /// report now, and what a recovery wants of the store.
    async fn store_heartbeat(&self, stats: StoreStats) -> Result<StoreHeartbeatResponse, PdError>;

    /// A page of the report of all peers that a recovery wants.
    async fn report_peers(&self, page: ReportPeersRequest) -> Result<(), PdError> {
        let _ = page;
        Err(PdError::Internal("this placement driver recovers nothing".into()))
    }

    /// A leader's report of its region; the answer may hold one step to take.
    async fn region_heartbeat(
        &self,
        request: RegionHeartbeatRequest,
    ) -> Result<RegionHeartbeatResponse, PdError>;

    /// The region that holds the raw key, or [`PdError::RegionNotFound`].
    async fn get_region(&self, raw_key: &[u8]) -> Result<RegionRoute, PdError>;

    /// The region of that id, or [`PdError::RegionNotFound`].
    async fn get_region_by_id(&self, region_id: u64) -> Result<RegionRoute, PdError>;

    /// Regions overlapping `[start_key, end_key)` in key order; an empty end is
    /// +infinity, limit 0 is PD's own bound.
    async fn scan_regions(
        &self,
        start_key: &[u8],
        end_key: &[u8],
        limit: u32,
    ) -> Result<Vec<RegionRoute>, PdError>;

    /// Ids for `split_count` new regions cut from `region`.
    async fn ask_split(
        &self,
        region: meta::Region,
        split_count: u32,
    ) -> Result<Vec<SplitId>, PdError>;

    /// Tells PD the regions that came of a split, in key order.
    async fn report_split(&self, regions: Vec<meta::Region>) -> Result<(), PdError>;

    /// Versions below it may be garbage collected.
    async fn get_gc_safe_point(&self) -> Result<TimeStamp, PdError>;

    /// Moves the safe point forwards (never back); answers the one in force.
    async fn update_gc_safe_point(&self, safe_point: TimeStamp) -> Result<TimeStamp, PdError>;

    /// What PD must never go back below.
    async fn bounds(&self) -> Result<PdBounds, PdError> {
        Err(PdError::Internal("this placement driver tells no bounds".into()))
    }

    /// Cluster-wide configuration entries whose key begins with the prefix.
    async fn get_config(&self, prefix: &str) -> Result<Vec<ConfigEntry>, PdError>;

    /// Writes entries atomically; one with an empty value is removed.
    async fn put_config(&self, entries: Vec<ConfigEntry>) -> Result<(), PdError>;

    /// The schema version now and whenever it changes. The stream survives
    /// reconnects; versions only grow, and intermediate ones may be skipped.
    async fn watch_schema(&self) -> Result<BoxStream<'static, i64>, PdError>;

    /// Announces a new schema version to every watcher.
    async fn notify_schema(&self, schema_version: i64) -> Result<(), PdError>;

    /// Answers a question about scheduling, or carries an order out: rows as a JSON
    /// array of objects.
    async fn steer(&self, order: Order) -> Result<String, PdError> {
        Err(PdError::Internal(format!("this placement driver takes no orders: {order:?}")))
    }

    /// Spreads regions that were made at once, as far as they can be now; answers
    /// those that are left.
    async fn scatter_regions(
        &self,
        region_ids: Vec<u64>,
        group: &str,
    ) -> Result<Vec<u64>, PdError> {
        let _ = group;
        Ok(region_ids)
    }
}
