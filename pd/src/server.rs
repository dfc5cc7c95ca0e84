//! The placement driver itself: every operation of its service, without a network.
//!
//! **Flow.** Questions are answered from memory. Changes are proposed to the log
//! and answered when they are durable. What concerns regions is in
//! [`crate::regions`]. A background task renews the
//! timestamp bound ahead of need and lets the schedulers run.
//!
//! **Invariants.** Locks are taken in the order state → cluster and never held
//! over an await.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cairn_engine::{MemoryRaftLog, RaftEngineLog, RaftEngineOptions, RaftLog};
use cairn_pd_client::{PdClient, PdError};
use cairn_proto::meta::{Region, Store, StoreState};
use cairn_proto::pd::{ConfigEntry, StoreStats};
use cairn_types::TimeStamp;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::{Clock, SystemClock};
use crate::cluster::Cluster;
use crate::error::OpenError;
use crate::local::LocalPdClient;
use crate::replication::{Replication, ReplicationParts};
use crate::state::{Command, Kind, State};
use crate::tso::{Allocated, TsoAllocator};

/// Ids made durable at once.
const ID_BATCH: u64 = 1_000;
/// Ids of one request.
const IDS_MAX: u32 = 100_000;
/// How often the background task looks around.
const BACKGROUND_EVERY: Duration = Duration::from_millis(500);

/// Settings of a placement driver.
#[derive(Clone, Debug)]
pub struct PdConfig {
    /// The member's name.
    pub name: String,
    /// Where it keeps its log; `None`: in memory only.
    pub data_dir: Option<PathBuf>,
    /// The address other processes reach it at.
    pub addr: String,
    /// Replicas a region shall have.
    pub max_replicas: usize,
    /// Seed of the cluster's identity; `None`: from the system.
    pub seed: Option<u64>,
}

impl PdConfig {
    /// A driver with three replicas per region.
    pub fn new(
        name: impl Into<String>,
        data_dir: impl Into<PathBuf>,
        addr: impl Into<String>,
    ) -> PdConfig {
        PdConfig {
            name: name.into(),
            data_dir: Some(data_dir.into()),
            addr: addr.into(),
            max_replicas: 3,
            seed: None,
        }
    }

    /// A driver that forgets everything when it stops.
    pub fn in_memory(name: impl Into<String>) -> PdConfig {
        PdConfig {
            name: name.into(),
            data_dir: None,
            addr: String::new(),
            max_replicas: 3,
            seed: None,
        }
    }
}

/// What the driver stands on; tests replace it.
pub struct PdParts {
    /// The log of commands.
    pub log: Arc<dyn RaftLog>,
    /// Wall and monotonic time.
    pub clock: Arc<dyn Clock>,
}

struct Ids {
    next: u64,
    bound: u64,
}

/// A placement driver.
pub struct PdServer {
    config: PdConfig,
    cluster_id: u64,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) replication: Replication,
    tso: TsoAllocator,
    /// One renewal of the timestamp bound at a time.
    tso_renewal: tokio::sync::Mutex<()>,
    ids: Mutex<Ids>,
    id_renewal: tokio::sync::Mutex<()>,
    pub(crate) cluster: Mutex<Cluster>,
    schema: watch::Sender<i64>,
    stopping: CancellationToken,
    tasks: TaskTracker,
}

impl PdServer {
    /// Opens the driver's data (or begins a new cluster) and leads at once. Must be
    /// called within a tokio runtime.
    pub async fn open(config: PdConfig) -> Result<Arc<PdServer>, OpenError> {
        let log: Arc<dyn RaftLog> = match &config.data_dir {
            Some(dir) => {
                std::fs::create_dir_all(dir)
                    .map_err(|source| OpenError::Io { path: dir.clone(), source })?;
                Arc::new(RaftEngineLog::open(&dir.join("log"), &RaftEngineOptions::default())?)
            }
            None => Arc::new(MemoryRaftLog::new()),
        };
        let clock = Arc::new(SystemClock::new());
        PdServer::open_with(config, PdParts { log, clock }).await
    }

    /// As [`PdServer::open`], on parts given.
    pub async fn open_with(config: PdConfig, parts: PdParts) -> Result<Arc<PdServer>, OpenError> {
        let PdParts { log, clock } = parts;
        let replication =
            Replication::open(ReplicationParts { log, snapshot_dir: config.data_dir.clone() })?;
        let (known_id, id_bound, tso_bound_ms, schema_version) = {
            let state = replication.state().read();
            (state.cluster_id, state.id_bound, state.tso_bound_ms, state.schema_version)
        };
        if known_id == 0 {
            let seeded = config.seed.map(StdRng::seed_from_u64);
            let fresh = seeded.unwrap_or_else(StdRng::from_os_rng).random_range(1..=u64::MAX >> 1);
            replication.propose(Kind::InitCluster(fresh)).await?;
        }
        let cluster_id = replication.state().read().cluster_id;
        let server = Arc::new(PdServer {
            cluster_id,
            tso: TsoAllocator::new(clock.clone(), tso_bound_ms),
            tso_renewal: tokio::sync::Mutex::new(()),
            ids: Mutex::new(Ids { next: id_bound + 1, bound: id_bound }),
            id_renewal: tokio::sync::Mutex::new(()),
            cluster: Mutex::new(Cluster::new(config.max_replicas.max(1), clock.monotonic_ms())),
            schema: watch::Sender::new(schema_version),
            stopping: CancellationToken::new(),
            tasks: TaskTracker::new(),
            config,
            clock,
            replication,
        });
        // The first caller need not wait for a bound.
        server.get_ts(1).await?;
        let background = server.clone();
        server.tasks.spawn(async move { background.run_background().await });
        Ok(server)
    }

    /// A client that calls this object directly.
    pub fn local_client(self: &Arc<PdServer>) -> Arc<dyn PdClient> {
        Arc::new(LocalPdClient::new(self.clone()))
    }

    /// The driver's settings.
    pub fn config(&self) -> &PdConfig {
        &self.config
    }

    /// Identity of the cluster.
    pub fn cluster_id(&self) -> u64 {
        self.cluster_id
    }

    /// Cancelled when the driver stops: what depends on it ends then.
    pub fn stopping(&self) -> &CancellationToken {
        &self.stopping
    }

    /// Ends background work and the log; what was answered is durable.
    pub async fn stop(self: &Arc<PdServer>) {
        self.stopping.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        let server = self.clone();
        // Joining a thread blocks; a task that cannot run any more has stopped too.
        let joined = tokio::task::spawn_blocking(move || server.replication.stop()).await;
        if let Err(error) = joined {
            tracing::warn!(%error, "stopping the log");
        }
    }

    async fn run_background(self: Arc<PdServer>) {
        loop {
            tokio::select! {
                () = self.stopping.cancelled() => return,
                () = tokio::time::sleep(BACKGROUND_EVERY) => {}
            }
            if let Some(bound_ms) = self.tso.renewal()
                && let Err(error) = self.make_bound_durable(bound_ms).await
            {
                tracing::warn!(%error, "renewing the timestamp bound");
            }
            if let Err(error) = self.run_schedulers().await {
                tracing::warn!(%error, "scheduling");
            }
            if let Err(error) = self.bury_empty_stores().await {
                tracing::warn!(%error, "removing empty stores");
            }
        }
    }

    // ---- timestamps and ids ----

    /// `count` consecutive timestamps without waiting; answers the last.
    pub fn try_get_ts(&self, count: u32) -> Option<TimeStamp> {
        match self.tso.try_alloc(count) {
            Allocated::Last(ts) => Some(ts),
            Allocated::NeedsBound(_) => None,
        }
    }

    /// `count` consecutive timestamps; answers the last.
    pub async fn get_ts(&self, count: u32) -> Result<TimeStamp, PdError> {
        loop {
            let bound_ms = match self.tso.try_alloc(count) {
                Allocated::Last(ts) => return Ok(ts),
                Allocated::NeedsBound(bound_ms) => bound_ms,
            };
            let _renewing = self.tso_renewal.lock().await;
            // Somebody else may have renewed it while we waited for our turn.
            if let Allocated::Last(ts) = self.tso.try_alloc(count) {
                return Ok(ts);
            }
            self.make_bound_durable(bound_ms).await?;
        }
    }

    async fn make_bound_durable(&self, bound_ms: u64) -> Result<(), PdError> {
        self.replication.propose(Kind::TsoBound(bound_ms)).await?;
        self.tso.raise_bound(bound_ms);
        Ok(())
    }

    /// `count` consecutive ids; answers the first.
    pub async fn alloc_ids(&self, count: u32) -> Result<u64, PdError> {
        if count == 0 || count > IDS_MAX {
            return Err(PdError::InvalidArgument(format!("{count} ids at once")));
        }
        loop {
            if let Some(first) = self.ids_from_memory(u64::from(count)) {
                return Ok(first);
            }
            let _renewing = self.id_renewal.lock().await;
            if let Some(first) = self.ids_from_memory(u64::from(count)) {
                return Ok(first);
            }
            let bound = self.ids.lock().bound + u64::from(count) + ID_BATCH;
            self.replication.propose(Kind::IdBound(bound)).await?;
            self.ids.lock().bound = bound;
        }
    }

    fn ids_from_memory(&self, count: u64) -> Option<u64> {
        let mut ids = self.ids.lock();
        let first = ids.next;
        if first + count - 1 > ids.bound {
            return None;
        }
        ids.next += count;
        Some(first)
    }

    // ---- stores ----

    /// Creates the first store and region.
    pub async fn bootstrap(&self, store: Store, region: Region) -> Result<(), PdError> {
        let peer_ids = region.peers.iter().map(|peer| peer.id);
        let used = peer_ids.chain([store.id, region.id]).max().unwrap_or(0);
        self.replication.propose(Command::bootstrap(store, region)).await?;
        // Ids that the first store chose itself must not be handed out again.
        let mut ids = self.ids.lock();
        ids.next = ids.next.max(used.saturating_add(1));
        ids.bound = ids.bound.max(used);
        Ok(())
    }

    /// Whether the first region exists.
    pub fn is_bootstrapped(&self) -> bool {
        self.replication.state().read().bootstrapped
    }

    /// Registers or changes a store.
    pub async fn put_store(&self, store: Store) -> Result<(), PdError> {
        self.check_address(&store)?;
        self.replication.propose(Command::put_store(store)).await
    }

    /// Two living stores on one address would answer each other's requests.
    fn check_address(&self, store: &Store) -> Result<(), PdError> {
        let now_ms = self.clock.monotonic_ms();
        let state = self.replication.state().read();
        let cluster = self.cluster.lock();
        let taken = state.stores.values().find(|other| {
            other.id != store.id
                && !store.address.is_empty()
                && other.address == store.address
                && cluster.store_stats(other.id).last_heartbeat_ms > 0
                && cluster.store_state(other, now_ms) == StoreState::Up
        });
        match taken {
            Some(other) => Err(PdError::InvalidArgument(format!(
                "address {} belongs to store {}",
                store.address, other.id
            ))),
            None => Ok(()),
        }
    }

    /// A store with its state as of now, and its last report.
    pub fn get_store(&self, store_id: u64) -> Result<(Store, StoreStats), PdError> {
        let now_ms = self.clock.monotonic_ms();
        let state = self.replication.state().read();
        let store = state.stores.get(&store_id);
        let store = store.ok_or_else(|| PdError::StoreNotFound(format!("store {store_id}")))?;
        Ok(self.cluster.lock().shown(store, now_ms))
    }

    /// Every store that is no tombstone.
    pub fn get_all_stores(&self) -> Vec<(Store, StoreStats)> {
        let now_ms = self.clock.monotonic_ms();
        let state = self.replication.state().read();
        let cluster = self.cluster.lock();
        let present = state.stores.values().filter(|store| store.state() != StoreState::Tombstone);
        present.map(|store| cluster.shown(store, now_ms)).collect()
    }

    /// A store's own report.
    pub fn store_heartbeat(&self, stats: StoreStats) -> Result<(), PdError> {
        let state = self.replication.state().read();
        let id = stats.store_id;
        match state.stores.get(&id).map(Store::state) {
            None => Err(PdError::StoreNotFound(format!("store {id}"))),
            Some(StoreState::Tombstone) => Err(PdError::StoreTombstone(format!("store {id}"))),
            Some(_) => {
                let (now_ms, unix_ms) = (self.clock.monotonic_ms(), self.clock.unix_ms());
                self.cluster.lock().store_heartbeat(stats, now_ms, unix_ms);
                Ok(())
            }
        }
    }

    // ---- cluster-wide values ----

    /// Versions below it may be collected.
    pub fn gc_safe_point(&self) -> TimeStamp {
        TimeStamp(self.replication.state().read().gc_safe_point)
    }

    /// Moves the safe point forwards; answers the one in force.
    pub async fn update_gc_safe_point(&self, to: TimeStamp) -> Result<TimeStamp, PdError> {
        if to > self.gc_safe_point() {
            self.replication.propose(Kind::GcSafePoint(to.0)).await?;
        }
        Ok(self.gc_safe_point())
    }

    /// Settings whose key begins with the prefix.
    pub fn get_config(&self, prefix: &str) -> Vec<ConfigEntry> {
        let state = self.replication.state().read();
        let entries = state.config.range(prefix.to_owned()..);
        entries
            .take_while(|(key, _)| key.starts_with(prefix))
            .map(|(key, value)| ConfigEntry { key: key.clone(), value: value.clone() })
            .collect()
    }

    /// Writes settings atomically; an empty value removes.
    pub async fn put_config(&self, entries: Vec<ConfigEntry>) -> Result<(), PdError> {
        self.replication.propose(Command::put_config(entries)).await
    }

    /// The newest schema version, now and when it changes.
    pub fn watch_schema(&self) -> watch::Receiver<i64> {
        self.schema.subscribe()
    }

    /// Announces a schema version.
    pub async fn notify_schema(&self, schema_version: i64) -> Result<(), PdError> {
        self.replication.propose(Kind::SchemaVersion(schema_version)).await?;
        let newest = self.replication.state().read().schema_version;
        self.schema.send_if_modified(|version| {
            let grown = newest > *version;
            *version = newest.max(*version);
            grown
        });
        Ok(())
    }

    // ---- for the status pages ----

    /// Reads the durable and the living state together.
    pub fn inspect<R>(&self, read: impl FnOnce(&State, &Cluster, u64) -> R) -> R {
        let now_ms = self.clock.monotonic_ms();
        let state = self.replication.state().read();
        let cluster = self.cluster.lock();
        read(&state, &cluster, now_ms)
    }
}
