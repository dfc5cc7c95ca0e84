//! A store as a process part: opens its engines, takes its place in the cluster,
//! and serves.
//!
//! **Birth of a cluster**: the first store that PD accepts as such (`bootstrap`)
//! owns the first region, which spans all keys and has one peer; PD adds replicas
//! later. The region is written here *after* PD accepted it: a store that crashes
//! in between finds at its next start that PD knows a first region of its own
//! which it lacks, and writes it then. Nothing can have been written to it yet,
//! since no other peer exists.
//!
//! **Identity**: the store's id and the cluster's lie in the data engine; a folder
//! of another cluster is refused. If PD has no cluster yet it may be the successor of one that
//! lost its data ([`super::recovery`]).

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use cairn_engine::{
    EngineError, IterOptions, KvEngine, RaftEngineLog, RaftEngineOptions, RaftLog, RocksEngine,
};
use cairn_kv_client::KvStoreService;
use cairn_pd_client::{PdClient, PdError};
use cairn_proto::meta;
use cairn_types::TimeStamp;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::consistency::Checker;
use super::recovery::{self, RecoveryService};
use super::status::StatusState;
use super::{GrpcService, Ingress, ReadPool, StoreConfig, StoreService, status};
use crate::bounds::KeptBounds;
use crate::gc;
use crate::keys::region_local_range;
use crate::raftstore::state::{StoreIdent, bootstrap_region, load_store_ident, save_store_ident};
use crate::raftstore::{
    CLOSE_EVERY, GrpcTransport, LocalNetwork, LocalTransport, RaftRouter, RaftStore,
    RaftStoreError, RaftStoreParts, StoreId, SystemClock, Transport,
};
use crate::txn::TsoSource;

/// How long a store that stops waits for others to take over.
const HAND_OVER_TIMEOUT: Duration = Duration::from_secs(10);
/// Epoch of a region nobody has changed.
const FIRST_EPOCH: meta::RegionEpoch = meta::RegionEpoch { conf_ver: 1, version: 1 };

/// Why a store does not start or serve.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// A folder or a thread could not be made.
    #[error("store: {0}")]
    Io(#[from] std::io::Error),
    /// An engine does not open.
    #[error("store: {0}")]
    Engine(#[from] EngineError),
    /// The Raft store does not start.
    #[error("store: {0}")]
    RaftStore(#[from] RaftStoreError),
    /// PD refused or did not answer.
    #[error("store: {0}")]
    Pd(#[from] PdError),
    /// The folder is another cluster's.
    #[error("store: the data belongs to cluster {found}, PD serves cluster {expected}")]
    WrongCluster {
        /// Of the folder.
        found: u64,
        /// Of PD.
        expected: u64,
    },
    /// The gRPC server failed.
    #[error("store: {0}")]
    Grpc(#[from] tonic::transport::Error),
}

/// A running store.
pub struct StoreNode {
    store_id: u64,
    address: String,
    raft: Arc<RaftStore>,
    service: Arc<StoreService>,
    pool: Arc<ReadPool>,
    checker: Arc<Checker>,
    network: Option<Arc<LocalNetwork>>,
    recovery: RecoveryService,
    /// Ends background work.
    stop: CancellationToken,
    background: Mutex<Option<JoinHandle<()>>>,
}

impl StoreNode {
    /// Opens the store and takes its place in the cluster. Stores that share the
    /// process give the same `network`, and skip gRPC between each other.
    pub async fn start(
        config: StoreConfig,
        pd: Arc<dyn PdClient>,
        network: Option<Arc<LocalNetwork>>,
    ) -> Result<Arc<StoreNode>, NodeError> {
        OpenStore::open(config).await?.join(pd, network).await
    }

    async fn start_opened(
        opened: OpenStore,
        pd: Arc<dyn PdClient>,
        network: Option<Arc<LocalNetwork>>,
    ) -> Result<Arc<StoreNode>, NodeError> {
        let OpenStore { config, engines, bounds } = opened;
        let engine = Arc::clone(&engines.kv);
        let filter = gc::VersionFilter::default();
        engine.set_garbage_filter(Arc::new(filter.clone()));
        let store = take_place(&config, &*engines.kv, &*pd).await?;
        let store_id = store.id;
        // Before anybody is served: what was collected here, or elsewhere, is known.
        let safe_point = pd.get_gc_safe_point().await?;
        bounds.raise_safe_point(safe_point)?;
        filter.raise(safe_point);

        let runtime = tokio::runtime::Handle::current();
        let grpc: Arc<dyn Transport> =
            Arc::new(GrpcTransport::new(Arc::clone(&pd), runtime.clone()));
        let transport = match &network {
            Some(network) => {
                Arc::new(LocalTransport::new(Arc::clone(network), Some(grpc))) as Arc<dyn Transport>
            }
            None => grpc,
        };
        let clock = Arc::new(SystemClock::new());
        let pool = Arc::new(ReadPool::new(config.read_threads(), Arc::clone(&clock) as _)?);
        let raft = RaftStore::start(RaftStoreParts {
            config: config.raft(store_id),
            store_id: StoreId(store_id),
            kv: engines.kv,
            log: engines.log,
            transport,
            pd: Some((Arc::clone(&pd), runtime)),
            clock: Arc::clone(&clock) as _,
        })?;
        if let Some(network) = &network {
            network.join(store_id, raft.inbox().clone());
        }
        let tso: Arc<dyn TsoSource> = Arc::new(PdTso(Arc::clone(&pd)));
        let checker = Arc::new(Checker::new(
            Arc::clone(raft.router()),
            Arc::clone(&pd),
            Arc::clone(&clock) as _,
            filter.clone(),
        ));
        let service = Arc::new(StoreService::new(
            raft.kv(),
            clock,
            Some(Arc::clone(&tso)),
            Arc::clone(&pool),
            filter.clone(),
        ));
        let stop = CancellationToken::new();
        tokio::spawn({
            let (checker, stop) = (Arc::clone(&checker), stop.clone());
            async move { checker.run(stop).await }
        });
        let recovery = RecoveryService {
            engine: Arc::clone(&engine),
            bounds: Arc::clone(&bounds),
            store: store.clone(),
            service: Some(Arc::clone(&service)),
        };
        let following = recovery::follow_pd(Arc::clone(&pd), Arc::clone(&bounds), store);
        let router = Arc::clone(raft.router());
        let collector = gc::Collector { router, pd, engine, filter, bounds };
        let collection = collector.run(stop.clone());
        let closing = close_timestamps(Arc::clone(raft.router()), tso);
        let background = tokio::spawn(async move {
            tokio::select! {
                () = collection => {}
                () = following => {}
                () = closing => {}
            }
        });
        tracing::info!(store_id, address = config.addr, "store started");
        Ok(Arc::new(StoreNode {
            store_id,
            address: config.addr,
            raft,
            service,
            pool,
            checker,
            network,
            recovery,
            stop,
            background: Mutex::new(Some(background)),
        }))
    }

    /// The store's id.
    pub fn store_id(&self) -> u64 {
        self.store_id
    }

    /// For direct calls in this process.
    pub fn service(&self) -> Arc<dyn KvStoreService> {
        Arc::clone(&self.service) as _
    }

    /// The Raft store, for tools and tests.
    pub fn raft(&self) -> &Arc<RaftStore> {
        &self.raft
    }

    /// Serves clients and other stores until `shutdown`.
    pub async fn serve_grpc(
        &self,
        listener: TcpListener,
        shutdown: CancellationToken,
    ) -> Result<(), NodeError> {
        let checker = Arc::clone(&self.checker);
        let ingress = Arc::new(Ingress { inbox: self.raft.inbox().clone(), checker });
        GrpcService::new(Arc::clone(&self.service), ingress)
            .with_recovery(self.recovery.clone())
            .serve(listener, shutdown)
            .await?;
        Ok(())
    }

    /// Serves `/metrics`, `/status` and `/health` until `shutdown`.
    pub async fn serve_status(
        &self,
        listener: TcpListener,
        shutdown: CancellationToken,
    ) -> Result<(), NodeError> {
        let state = StatusState {
            service: Arc::clone(&self.service),
            kv: self.raft.kv(),
            pool: Arc::clone(&self.pool),
            raft: Arc::clone(&self.raft),
            address: self.address.clone(),
        };
        status::serve(listener, state, shutdown).await?;
        Ok(())
    }

    /// Prepares to stop: other stores lead from here on, and PD knows. The store must still
    /// be served meanwhile, so that clients are told where to go.
    pub async fn hand_over(&self) {
        if !self.raft.hand_over(HAND_OVER_TIMEOUT).await {
            tracing::warn!(store_id = self.store_id, "some regions are still led here");
        }
    }

    /// Stops the Raft store; requests under way end with an error. Durable on return.
    pub async fn stop(&self) {
        self.stop.cancel();
        let background = self.background.lock().take();
        if let Some(task) = background
            && task.await.is_err()
        {
            tracing::error!(store_id = self.store_id, "background work panicked");
        }
        if let Some(network) = &self.network {
            network.leave(self.store_id);
        }
        let raft = Arc::clone(&self.raft);
        // Waits for threads.
        if tokio::task::spawn_blocking(move || raft.stop()).await.is_err() {
            tracing::error!(store_id = self.store_id, "stopping the raft store failed");
        }
        tracing::info!(store_id = self.store_id, "store stopped");
    }
}

impl Drop for StoreNode {
    fn drop(&mut self) {
        // Background work holds the engines open.
        self.stop.cancel();
    }
}

/// A store whose engines are open and that has no place in a cluster yet.
pub struct OpenStore {
    config: StoreConfig,
    engines: OpenEngines,
    bounds: Arc<KeptBounds>,
}

impl OpenStore {
    /// Opens the engines.
    pub async fn open(config: StoreConfig) -> Result<OpenStore, NodeError> {
        let engines = open_engines(config.clone()).await?;
        let bounds = Arc::new(KeptBounds::open(Arc::clone(&engines.kv))?);
        Ok(OpenStore { config, engines, bounds })
    }

    /// Waits while PD has no cluster and this store has one: PD may have lost its data, and
    /// `cairn ctl recover meta` gives it its cluster back, from what this store tells on
    /// `listener`.
    pub async fn wait_for_cluster(
        &self,
        pd: &dyn PdClient,
        listener: TcpListener,
    ) -> Result<(), NodeError> {
        let recovery = RecoveryService {
            engine: Arc::clone(&self.engines.kv),
            bounds: Arc::clone(&self.bounds),
            store: recovery::store_of(&self.config, &*self.engines.kv)?,
            service: None,
        };
        recovery::wait_for_cluster(recovery, pd, listener).await
    }

    /// Takes its place in the cluster and serves, as [`StoreNode::start`].
    pub async fn join(
        self,
        pd: Arc<dyn PdClient>,
        network: Option<Arc<LocalNetwork>>,
    ) -> Result<Arc<StoreNode>, NodeError> {
        StoreNode::start_opened(self, pd, network).await
    }
}

struct OpenEngines {
    kv: Arc<dyn KvEngine>,
    log: Arc<dyn RaftLog>,
}

async fn open_engines(config: StoreConfig) -> Result<OpenEngines, NodeError> {
    let open = move || -> Result<OpenEngines, NodeError> {
        let folder = &config.data_dir;
        std::fs::create_dir_all(folder.join("snapshots"))?;
        let kv = RocksEngine::open(&folder.join("db"), &config.rocks())?;
        let log = RaftEngineLog::open(&folder.join("raft"), &RaftEngineOptions::default())?;
        Ok(OpenEngines { kv: Arc::new(kv), log: Arc::new(log) })
    };
    tokio::task::spawn_blocking(open).await.map_err(std::io::Error::other)?
}

/// Gives the engine its identity and its place in PD's cluster; answers the store as
/// registered.
pub async fn take_place(
    config: &StoreConfig,
    engine: &dyn KvEngine,
    pd: &dyn PdClient,
) -> Result<meta::Store, NodeError> {
    // A cluster that begins has no id before its leader has spoken.
    let now = pd.get_ts().await?;
    let store_id = claim_identity(engine, pd).await?;
    let store = describe(config, store_id, now);
    join_cluster(engine, pd, store.clone()).await?;
    Ok(store)
}

/// The store's id: from the folder, or fresh from PD.
async fn claim_identity(engine: &dyn KvEngine, pd: &dyn PdClient) -> Result<u64, NodeError> {
    if let Some(ident) = load_store_ident(engine)? {
        if ident.cluster_id != pd.cluster_id() {
            let found = ident.cluster_id;
            return Err(NodeError::WrongCluster { found, expected: pd.cluster_id() });
        }
        return Ok(ident.store_id);
    }
    let store_id = pd.alloc_ids(1).await?;
    // Known by now: the answer to this call named the cluster, if no earlier one did.
    let cluster_id = pd.cluster_id();
    if cluster_id == 0 {
        let reason = "it does not say which cluster it serves".to_owned();
        return Err(PdError::Unavailable(reason).into());
    }
    save_store_ident(engine, &StoreIdent { cluster_id, store_id })?;
    Ok(store_id)
}

/// `now` is by PD's clock, which is the cluster's: a store has none of its own.
pub(super) fn describe(config: &StoreConfig, store_id: u64, now: TimeStamp) -> meta::Store {
    let now_s = now.physical_ms() / 1000;
    let label = |(key, value): &(String, String)| meta::StoreLabel {
        key: key.clone(),
        value: value.clone(),
    };
    meta::Store {
        id: store_id,
        address: config.addr.clone(),
        status_address: config.status_addr.clone(),
        state: meta::StoreState::Up.into(),
        labels: config.labels.iter().map(label).collect(),
        version: env!("CARGO_PKG_VERSION").to_string(),
        start_timestamp_s: i64::try_from(now_s).unwrap_or(i64::MAX),
    }
}

/// Registers the store; creates the cluster's first region if there is none.
async fn join_cluster(
    engine: &dyn KvEngine,
    pd: &dyn PdClient,
    store: meta::Store,
) -> Result<(), NodeError> {
    let store_id = store.id;
    if !pd.is_bootstrapped().await? {
        let ids = pd.alloc_ids(2).await?;
        let peer = meta::Peer { id: ids + 1, store_id, role: meta::PeerRole::Voter.into() };
        let region = meta::Region {
            id: ids,
            epoch: Some(FIRST_EPOCH),
            peers: vec![peer],
            ..Default::default()
        };
        match pd.bootstrap(store.clone(), region.clone()).await {
            Ok(()) => bootstrap_region(engine, store_id, &region)?,
            Err(PdError::AlreadyBootstrapped) => {}
            Err(error) => return Err(error.into()),
        }
    } else if !has_regions(engine)? {
        finish_bootstrap(engine, pd, store_id).await?;
    }
    pd.put_store(store).await?;
    Ok(())
}

fn has_regions(engine: &dyn KvEngine) -> Result<bool, NodeError> {
    let (start, end) = region_local_range();
    let mut iter =
        engine.snapshot().iter(cairn_engine::Cf::Default, IterOptions::range(start, end));
    Ok(iter.seek_to_first()?)
}

/// Writes the first region that PD has accepted from this store before a crash.
async fn finish_bootstrap(
    engine: &dyn KvEngine,
    pd: &dyn PdClient,
    store_id: u64,
) -> Result<(), NodeError> {
    let Some(route) = pd.scan_regions(b"", b"", 1).await?.into_iter().next() else {
        return Ok(());
    };
    let region = route.region;
    let is_ours = region.peers.len() == 1 && region.peers[0].store_id == store_id;
    if is_ours && region.epoch == Some(FIRST_EPOCH) {
        bootstrap_region(engine, store_id, &region)?;
    }
    Ok(())
}

/// How long a one-phase commit waits for PD, with the latches of its keys; then it takes two
/// phases.
const TSO_PATIENCE: Duration = Duration::from_millis(500);

/// Closes a timestamp every second, as long as followers of regions led here want to know.
async fn close_timestamps(router: Arc<RaftRouter>, tso: Arc<dyn TsoSource>) {
    loop {
        tokio::time::sleep(CLOSE_EVERY).await;
        if router.has_subscribers()
            && let Some(ts) = tso.timestamp().await
        {
            router.close_timestamp(ts);
        }
    }
}

/// Timestamps of PD, for one-phase commits.
pub struct PdTso(pub Arc<dyn PdClient>);

#[async_trait]
impl TsoSource for PdTso {
    async fn timestamp(&self) -> Option<TimeStamp> {
        match self.0.try_get_ts() {
            Some(ts) => Some(ts),
            None => tokio::time::timeout(TSO_PATIENCE, self.0.get_ts()).await.ok()?.ok(),
        }
    }
}
