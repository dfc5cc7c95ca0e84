//! The placement driver itself: every operation of its service, without a network.
//!
//! **Flow.** Questions are answered from memory. Changes are proposed to the log
//! and answered when they are durable. What concerns regions is in
//! [`crate::regions`], timestamps and ids in [`crate::allocation`], taking over and
//! giving up leadership in [`crate::leadership`], the members themselves in
//! [`crate::members`], recovery after lost stores in [`crate::recovery`]. A background task of the leader renews the timestamp bound ahead
//! of need and lets the schedulers run.
//!
//! **Invariants.** Locks are taken in the order state → cluster → recovery and never held
//! over an await. Only an open gate ([`crate::replication::shared::Gate`]) lets a request
//! in; who calls an operation here has asked it ([`PdServer::check_leads`]).

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use cairn_engine::{MemoryRaftLog, RaftEngineLog, RaftEngineOptions, RaftLog};
use cairn_pd_client::{PdBounds, PdClient, PdError};
use cairn_proto::meta::{Region, Store, StoreState};
use cairn_proto::pd::{ConfigEntry, StoreHeartbeatResponse, StoreStats};
use cairn_types::TimeStamp;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::allocation::Ids;
use crate::clock::{Clock, SystemClock};
use crate::cluster::Cluster;
use crate::error::OpenError;
use crate::local::LocalPdClient;
use crate::membership;
use crate::recovery::Run;
use crate::replication::transport::NoTransport;
use crate::replication::{
    DirFiles, Driver, GrpcTransport, Inbox, MemberFiles, MemoryFiles, Replication,
    ReplicationParts, Shared, Transport,
};
use crate::state::{Command, Kind, State};
use crate::tso::TsoAllocator;

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
    /// Seed of identities and election timeouts; `None`: from the system.
    pub seed: Option<u64>,
    /// Names and addresses of the members that begin the cluster together, this one
    /// among them; empty: it begins alone. When the folder has data, only the addresses
    /// count.
    pub initial_cluster: Vec<(String, String)>,
    /// Addresses of members of a cluster to join; empty: none. Ignored when the folder
    /// has data.
    pub join: Vec<String>,
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
            initial_cluster: Vec::new(),
            join: Vec::new(),
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
            initial_cluster: Vec::new(),
            join: Vec::new(),
        }
    }
}

/// What the driver stands on; tests and simulations replace it.
pub struct PdParts {
    /// The log of commands.
    pub log: Arc<dyn RaftLog>,
    /// Identity and snapshots.
    pub files: Arc<dyn MemberFiles>,
    /// Wall and monotonic time.
    pub clock: Arc<dyn Clock>,
    /// The way to other members.
    pub transport: Arc<dyn Transport>,
    /// Where the loop of the log runs.
    pub driver: Driver,
}

impl PdParts {
    /// A member without others that forgets everything when it stops.
    pub fn in_memory(clock: Arc<dyn Clock>) -> PdParts {
        PdParts {
            log: Arc::new(MemoryRaftLog::new()),
            files: Arc::new(MemoryFiles::new()),
            clock,
            transport: Arc::new(NoTransport),
            driver: Driver::default(),
        }
    }

    /// What the settings ask for, with a transport of the caller's.
    pub fn on_disk(config: &PdConfig, transport: Arc<dyn Transport>) -> Result<PdParts, OpenError> {
        let mut parts = PdParts::in_memory(Arc::new(SystemClock::new()));
        parts.transport = transport;
        if let Some(dir) = &config.data_dir {
            std::fs::create_dir_all(dir)
                .map_err(|source| OpenError::Io { path: dir.clone(), source })?;
            let options = RaftEngineOptions::default();
            parts.log = Arc::new(RaftEngineLog::open(&dir.join("log"), &options)?);
            parts.files = Arc::new(DirFiles::new(dir.clone()));
        }
        Ok(parts)
    }
}

/// A placement driver.
pub struct PdServer {
    pub(crate) config: PdConfig,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) replication: Replication,
    pub(crate) tso: TsoAllocator,
    /// One renewal of the timestamp bound at a time.
    pub(crate) tso_renewal: tokio::sync::Mutex<()>,
    pub(crate) ids: Mutex<Ids>,
    pub(crate) id_renewal: tokio::sync::Mutex<()>,
    pub(crate) cluster: Mutex<Cluster>,
    /// Of the recovery under way.
    pub(crate) recovery: Mutex<Option<Run>>,
    /// Drawn once per data folder.
    pub(crate) token: u64,
    pub(crate) rng: Mutex<StdRng>,
    /// When this member took its last term over.
    pub(crate) led_since_ms: AtomicU64,
    stopping: CancellationToken,
    tasks: TaskTracker,
}

impl PdServer {
    /// Opens the member's data, or begins or joins a cluster; other members are reached
    /// over gRPC. A sole member leads on return. Must be called within a tokio runtime.
    pub async fn open(config: PdConfig) -> Result<Arc<PdServer>, OpenError> {
        let transport = Arc::new(GrpcTransport::new(tokio::runtime::Handle::current()));
        let parts = PdParts::on_disk(&config, transport)?;
        PdServer::open_with(config, parts).await
    }

    /// As [`PdServer::open`], on parts given.
    pub async fn open_with(config: PdConfig, parts: PdParts) -> Result<Arc<PdServer>, OpenError> {
        let PdParts { log, files, clock, transport, driver } = parts;
        let seeded = config.seed.map(StdRng::seed_from_u64);
        let mut rng = seeded.unwrap_or_else(StdRng::from_os_rng);
        let begun = membership::begin(&config, &*log, &*files, &mut rng).await?;
        let replication = Replication::open(ReplicationParts {
            identity: begun.identity,
            founders: begun.founders,
            log,
            files,
            clock: clock.clone(),
            transport,
            driver,
            seed: rng.random(),
            name: config.name.clone(),
            address: config.addr.clone(),
        })?;
        let shared = replication.shared().clone();
        for (member_id, address) in begun.addresses {
            shared.note_address(member_id, &address);
        }
        let sole = shared.state().read().members.voters() == [begun.identity.member_id];
        let server = Arc::new(PdServer {
            tso: TsoAllocator::new(clock.clone(), 0),
            tso_renewal: tokio::sync::Mutex::new(()),
            ids: Mutex::new(Ids::default()),
            id_renewal: tokio::sync::Mutex::new(()),
            cluster: Mutex::new(Cluster::new(config.max_replicas.max(1), clock.monotonic_ms())),
            recovery: Mutex::new(None),
            token: begun.identity.token,
            rng: Mutex::new(rng),
            led_since_ms: AtomicU64::new(0),
            stopping: CancellationToken::new(),
            tasks: TaskTracker::new(),
            config,
            clock,
            replication,
        });
        let leading = server.clone();
        server.tasks.spawn(async move { leading.run_leadership().await });
        let background = server.clone();
        server.tasks.spawn(async move { background.run_background().await });
        if sole {
            // The first caller need not wait.
            let mut status = shared.watch_status();
            let ready = status.wait_for(|status| status.open || status.stopped).await;
            if !ready.is_ok_and(|status| status.open) {
                server.stop().await;
                return Err(OpenError::Proposal(PdError::Unavailable(
                    "the log does not take the first command".into(),
                )));
            }
        }
        Ok(server)
    }

    /// A client that calls this object directly.
    pub fn local_client(self: &Arc<PdServer>) -> Arc<dyn PdClient> {
        Arc::new(LocalPdClient::new(vec![self.clone()]))
    }

    /// The driver's settings.
    pub fn config(&self) -> &PdConfig {
        &self.config
    }

    /// Identity of the cluster; zero until this member knows it.
    pub fn cluster_id(&self) -> u64 {
        self.shared().cluster_id()
    }

    /// State, role and addresses.
    pub fn shared(&self) -> &Arc<Shared> {
        self.replication.shared()
    }

    /// Where messages of other members come in.
    pub fn inbox(&self) -> &Inbox {
        self.replication.inbox()
    }

    /// Cancelled when the driver stops: what depends on it ends then.
    pub fn stopping(&self) -> &CancellationToken {
        &self.stopping
    }

    /// Ends background work and the log; what was answered is durable. Who wants the
    /// others to go on without a pause calls [`PdServer::resign`] first.
    pub async fn stop(self: &Arc<PdServer>) {
        self.stopping.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        self.replication.stop().await;
    }

    async fn run_background(self: Arc<PdServer>) {
        loop {
            tokio::select! {
                () = self.stopping.cancelled() => return,
                () = tokio::time::sleep(BACKGROUND_EVERY) => {}
            }
            if self.check_leads().is_err() {
                continue;
            }
            if let Some(bound_ms) = self.tso.renewal()
                && let Err(error) = self.make_bound_durable(bound_ms).await
            {
                tracing::warn!(%error, "renewing the timestamp bound");
            }
            if let Err(error) = self.tend_members().await {
                tracing::warn!(%error, "tending members");
            }
            if let Err(error) = self.tend_recovery().await {
                tracing::warn!(%error, "recovering after the loss of stores");
            }
            if let Err(error) = self.run_schedulers().await {
                tracing::warn!(%error, "scheduling");
            }
            if let Err(error) = self.bury_empty_stores().await {
                tracing::warn!(%error, "removing empty stores");
            }
        }
    }

    // ---- stores ----

    /// Creates the first store and region.
    pub async fn bootstrap(&self, store: Store, region: Region) -> Result<(), PdError> {
        let peer_ids = region.peers.iter().map(|peer| peer.id);
        let used = peer_ids.chain([store.id, region.id]).max().unwrap_or(0);
        self.replication.propose(Command::bootstrap(store, region)).await?;
        // Ids that the first store chose itself must not be handed out again.
        self.ids.lock().skip(used);
        Ok(())
    }

    /// Whether the first region exists.
    pub fn is_bootstrapped(&self) -> bool {
        self.shared().state().read().bootstrapped
    }

    /// Registers or changes a store.
    pub async fn put_store(&self, store: Store) -> Result<(), PdError> {
        self.check_address(&store)?;
        self.replication.propose(Command::put_store(store)).await?;
        self.cluster.lock().settings_changed();
        Ok(())
    }

    /// Two living stores on one address would answer each other's requests.
    fn check_address(&self, store: &Store) -> Result<(), PdError> {
        let now_ms = self.clock.monotonic_ms();
        let state = self.shared().state().read();
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
        let state = self.shared().state().read();
        let store = state.stores.get(&store_id);
        let store = store.ok_or_else(|| PdError::StoreNotFound(format!("store {store_id}")))?;
        Ok(self.cluster.lock().shown(store, now_ms))
    }

    /// Every store that is no tombstone.
    pub fn get_all_stores(&self) -> Vec<(Store, StoreStats)> {
        let now_ms = self.clock.monotonic_ms();
        let state = self.shared().state().read();
        let cluster = self.cluster.lock();
        let present = state.stores.values().filter(|store| store.state() != StoreState::Tombstone);
        present.map(|store| cluster.shown(store, now_ms)).collect()
    }

    /// A store's own report; answers regions whose leaders should report now, and what a
    /// recovery wants of it.
    pub fn store_heartbeat(&self, stats: StoreStats) -> Result<StoreHeartbeatResponse, PdError> {
        let state = self.shared().state().read();
        let id = stats.store_id;
        match state.stores.get(&id).map(Store::state) {
            None => Err(PdError::StoreNotFound(format!("store {id}"))),
            Some(StoreState::Tombstone) => Err(PdError::StoreTombstone(format!("store {id}"))),
            Some(_) => {
                let (now_ms, unix_ms) = (self.clock.monotonic_ms(), self.clock.unix_ms());
                let mut cluster = self.cluster.lock();
                cluster.store_heartbeat(stats, now_ms, unix_ms);
                let wanted_regions = cluster.wanted_regions(&state, id);
                let recovery = self.recovery_orders(&state, id);
                Ok(StoreHeartbeatResponse { header: None, wanted_regions, recovery })
            }
        }
    }

    // ---- cluster-wide values ----

    /// Versions below it may be collected.
    pub fn gc_safe_point(&self) -> TimeStamp {
        TimeStamp(self.shared().state().read().gc_safe_point)
    }

    /// Moves the safe point forwards; answers the one in force.
    pub async fn update_gc_safe_point(&self, to: TimeStamp) -> Result<TimeStamp, PdError> {
        if to > self.gc_safe_point() {
            self.replication.propose(Kind::GcSafePoint(to.0)).await?;
        }
        Ok(self.gc_safe_point())
    }

    /// What this driver must never go back below.
    pub fn bounds(&self) -> PdBounds {
        let state = self.shared().state().read();
        PdBounds {
            id_bound: state.id_bound,
            tso_bound_ms: state.tso_bound_ms,
            gc_safe_point: TimeStamp(state.gc_safe_point),
            schema_version: state.schema_version,
        }
    }

    /// Settings whose key begins with the prefix.
    pub fn get_config(&self, prefix: &str) -> Vec<ConfigEntry> {
        let state = self.shared().state().read();
        let entries = state.config.range(prefix.to_owned()..);
        entries
            .take_while(|(key, _)| key.starts_with(prefix))
            .map(|(key, value)| ConfigEntry { key: key.clone(), value: value.clone() })
            .collect()
    }

    /// Writes settings atomically; an empty value removes.
    pub async fn put_config(&self, entries: Vec<ConfigEntry>) -> Result<(), PdError> {
        self.replication.propose(Command::put_config(entries)).await?;
        self.cluster.lock().settings_changed();
        Ok(())
    }

    /// The newest schema version, now and when it changes.
    pub fn watch_schema(&self) -> watch::Receiver<i64> {
        self.shared().watch_schema()
    }

    /// Announces a schema version.
    pub async fn notify_schema(&self, schema_version: i64) -> Result<(), PdError> {
        self.replication.propose(Kind::SchemaVersion(schema_version)).await
    }

    // ---- for the status pages ----

    /// Reads the durable and the living state together.
    pub fn inspect<R>(&self, read: impl FnOnce(&State, &Cluster, u64) -> R) -> R {
        let now_ms = self.clock.monotonic_ms();
        let state = self.shared().state().read();
        let cluster = self.cluster.lock();
        read(&state, &cluster, now_ms)
    }
}
