//! The placement driver's processes, and the way to them.
//!
//! A member is the real server over a simulated disk. [`SimPdClient`] stands for the gRPC
//! client: it calls a member over the network, and tries the next one when that does not
//! lead, as that client does. It also watches that timestamps grow: over all members, restarts and clock jumps.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use cairn_pd::replication::{Driver, Inbox, MemoryFiles, Transport};
use cairn_pd::{PdConfig, PdParts, PdServer};
use cairn_pd_client::{PdClient, PdError, RegionRoute};
use cairn_proto::meta::{Region, Store};
use cairn_proto::pd::{
    ConfigEntry, RegionHeartbeatRequest, RegionHeartbeatResponse, ReportPeersRequest, SplitId,
    StoreHeartbeatResponse, StoreStats,
};
use cairn_types::TimeStamp;
use futures::StreamExt;
use futures::stream::BoxStream;
use parking_lot::Mutex;
use raft::eraftpb::Message;
use rand::Rng;
use tokio::time::{sleep, timeout};

use crate::cluster::Cluster;
use crate::disk::{Disk, DiskLog};
use crate::store::asks_for_vote;
use crate::world::{Dice, Node, World};

/// A call takes that long at most, with all its attempts.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// One attempt of it.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(2);
/// Between attempts.
const RETRY_MS: (u64, u64) = (20, 200);

/// A member process.
pub struct PdProcess {
    /// Which process it is.
    pub node: Node,
    /// Outlives crashes.
    pub disk: Arc<Disk>,
    /// Identity and snapshots; written whole and synced, so they outlive crashes.
    files: Arc<MemoryFiles>,
    /// Of the process that runs, or is about to.
    log: Mutex<Option<Arc<DiskLog>>>,
    server: Mutex<Option<Arc<PdServer>>>,
}

impl PdProcess {
    /// A process that was never started.
    pub fn new(node: Node) -> PdProcess {
        PdProcess {
            node,
            disk: Arc::default(),
            files: Arc::new(MemoryFiles::new()),
            log: Mutex::new(None),
            server: Mutex::new(None),
        }
    }

    /// The server, when it runs.
    pub fn server(&self) -> Option<Arc<PdServer>> {
        self.server.lock().clone()
    }

    /// The process dies where it stands.
    pub fn crash(&self, world: &World) {
        world.host(self.node).kill();
        self.let_go();
        self.disk.crash(world);
    }

    /// A server that was still opening has begun to work in tasks of its own: without its log
    /// it ends, before the next one opens what it writes.
    fn let_go(&self) {
        if let Some(log) = self.log.lock().take() {
            log.watcher().close();
        }
        if let Some(server) = self.server.lock().take() {
            server.stopping().cancel();
        }
    }
}

/// Starts the process.
pub fn start(cluster: &Arc<Cluster>, process: &Arc<PdProcess>) {
    let (cluster, process) = (cluster.clone(), process.clone());
    let host = cluster.world.host(process.node).clone();
    host.spawn(async move {
        let world = cluster.world.clone();
        let node = process.node;
        sleep(world.millis(Dice::Machine, 1, 50)).await;
        process.let_go();
        let log = process.disk.open_log(false);
        *process.log.lock() = Some(log.clone());
        let mut config = PdConfig::in_memory(node.to_string());
        config.seed = Some(world.roll(Dice::Machine, |rng| rng.random()));
        config.addr = address_of(node);
        let members = cluster.members();
        if members.len() > 1 {
            let named =
                |member: &Arc<PdProcess>| (member.node.to_string(), address_of(member.node));
            config.initial_cluster = members.iter().map(named).collect();
        }
        let parts = PdParts {
            log,
            files: process.files.clone(),
            clock: world.host(node).clone(),
            transport: Arc::new(SimTransport { cluster: cluster.clone(), node }),
            driver: Driver::Task,
        };
        match PdServer::open_with(config, parts).await {
            Ok(server) => {
                *process.server.lock() = Some(server);
                world.note(format_args!("{node} runs"));
            }
            Err(error) => world.fail(format!("{node} cannot open its data: {error}")),
        }
    });
}

fn address_of(node: Node) -> String {
    format!("{node}:2379")
}

/// Carries Raft messages of one member.
struct SimTransport {
    cluster: Arc<Cluster>,
    node: Node,
}

impl Transport for SimTransport {
    fn attach(&self, member_id: u64, inbox: Inbox) {
        self.cluster.set_pd_inbox(member_id, self.node, inbox);
    }

    fn send(&self, to: u64, _address: &str, messages: Vec<Message>) {
        let world = &self.cluster.world;
        let Some((receiver, _)) = self.cluster.pd_inbox(to) else { return };
        for message in messages {
            if asks_for_vote(&message) {
                world.network.note_candidate(self.node);
            }
            for delay in world.network.datagram(world, self.node, receiver) {
                let (cluster, from) = (self.cluster.clone(), self.node);
                let message = message.clone();
                tokio::spawn(async move {
                    // A process that stands still neither sends nor receives.
                    cluster.world.host(from).runs().await;
                    sleep(delay).await;
                    cluster.world.host(receiver).runs().await;
                    deliver(&cluster, from, to, message);
                });
            }
        }
    }
}

fn deliver(cluster: &Cluster, from: Node, to: u64, message: Message) {
    let world = &cluster.world;
    let Some((receiver, inbox)) = cluster.pd_inbox(to) else { return };
    let is_running =
        cluster.members().iter().any(|member| member.node == receiver && member.server().is_some());
    let (kind, term) = (message.msg_type, message.term);
    if is_running && world.network.connects(from, receiver) {
        world.note(format_args!("{from} > {receiver} raft {kind:?} {term}"));
        inbox.deliver(vec![message]);
    }
}

/// Timestamps seen by anybody, in the order they were given out.
#[derive(Default)]
pub struct TsoWatch {
    highest: Mutex<u64>,
}

impl TsoWatch {
    fn floor(&self) -> u64 {
        *self.highest.lock()
    }

    /// A timestamp must lie above every one answered before it was asked for.
    fn check(&self, world: &World, floor: u64, ts: TimeStamp) {
        if ts.0 <= floor {
            world.fail(format!("tso: {} was given out after {floor} was answered", ts.0));
        }
        let mut highest = self.highest.lock();
        *highest = ts.0.max(*highest);
    }
}

/// Calls of one process to the placement driver.
pub struct SimPdClient {
    cluster: Arc<Cluster>,
    from: Node,
    /// The member that answered last.
    member: Mutex<usize>,
}

impl SimPdClient {
    /// A client of the process.
    pub fn new(cluster: Arc<Cluster>, from: Node) -> SimPdClient {
        SimPdClient { cluster, from, member: Mutex::new(0) }
    }

    async fn call<T, F>(
        &self,
        what: &str,
        ask: impl Fn(Arc<dyn PdClient>) -> F,
    ) -> Result<T, PdError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, PdError>> + Send + 'static,
    {
        let world = &self.cluster.world;
        let attempts = async {
            loop {
                let attempt = timeout(ATTEMPT_TIMEOUT, self.attempt(what, &ask)).await;
                let error = match attempt {
                    Ok(Err(error)) if error.is_retryable() => error,
                    Ok(answer) => return answer,
                    Err(_) => PdError::Unavailable("no answer".into()),
                };
                world.note(format_args!("{} {what}: {error}", self.from));
                *self.member.lock() += 1;
                sleep(world.millis(Dice::Network, RETRY_MS.0, RETRY_MS.1)).await;
            }
        };
        let timeout_ms = CALL_TIMEOUT.as_millis() as u64;
        timeout(CALL_TIMEOUT, attempts)
            .await
            .unwrap_or(Err(PdError::DeadlineExceeded { timeout_ms }))
    }

    async fn attempt<T, F>(
        &self,
        what: &str,
        ask: &impl Fn(Arc<dyn PdClient>) -> F,
    ) -> Result<T, PdError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, PdError>> + Send + 'static,
    {
        let broken = |_| PdError::Unavailable("the connection broke".into());
        let world = &self.cluster.world;
        let members = self.cluster.members();
        let process = &members[*self.member.lock() % members.len()];
        let to = process.node;
        world.network.carry(world, self.from, to).await.map_err(broken)?;
        world.host(to).runs().await;
        let server = process.server();
        let server = server.ok_or_else(|| PdError::Unavailable(format!("{to} is down")))?;
        server.check_leads()?;
        self.cluster.set_cluster_id(server.cluster_id());
        world.note(format_args!("{} > {to} {what}", self.from));
        // The member goes on when its caller has left.
        let answer = tokio::spawn(ask(server.local_client())).await;
        let died = || PdError::Unavailable("the member died".into());
        let answer = answer.map_err(|_| died())?;
        sleep(process.disk.sync_time(world)).await;
        world.host(to).runs().await;
        // What a dead member would have said nobody hears.
        process.server().filter(|now| Arc::ptr_eq(now, &server)).ok_or_else(died)?;
        world.network.carry(world, to, self.from).await.map_err(broken)?;
        answer
    }
}

#[async_trait]
impl PdClient for SimPdClient {
    fn cluster_id(&self) -> u64 {
        self.cluster.cluster_id()
    }

    async fn get_ts(&self) -> Result<TimeStamp, PdError> {
        let floor = self.cluster.tso.floor();
        let ts = self.call("tso", |pd| async move { pd.get_ts().await }).await?;
        self.cluster.tso.check(&self.cluster.world, floor, ts);
        Ok(ts)
    }

    async fn alloc_ids(&self, count: u32) -> Result<u64, PdError> {
        self.call("ids", move |pd| async move { pd.alloc_ids(count).await }).await
    }

    async fn bootstrap(&self, store: Store, region: Region) -> Result<(), PdError> {
        self.call("bootstrap", move |pd| {
            let (store, region) = (store.clone(), region.clone());
            async move { pd.bootstrap(store, region).await }
        })
        .await
    }

    async fn is_bootstrapped(&self) -> Result<bool, PdError> {
        self.call("is bootstrapped", |pd| async move { pd.is_bootstrapped().await }).await
    }

    async fn put_store(&self, store: Store) -> Result<(), PdError> {
        self.call("put store", move |pd| {
            let store = store.clone();
            async move { pd.put_store(store).await }
        })
        .await
    }

    async fn get_store(&self, store_id: u64) -> Result<Store, PdError> {
        self.call("store", move |pd| async move { pd.get_store(store_id).await }).await
    }

    async fn get_all_stores(&self) -> Result<Vec<(Store, StoreStats)>, PdError> {
        self.call("stores", |pd| async move { pd.get_all_stores().await }).await
    }

    async fn store_heartbeat(&self, stats: StoreStats) -> Result<StoreHeartbeatResponse, PdError> {
        self.call("store heartbeat", move |pd| async move { pd.store_heartbeat(stats).await }).await
    }

    async fn report_peers(&self, page: ReportPeersRequest) -> Result<(), PdError> {
        self.call("report of peers", move |pd| {
            let page = page.clone();
            async move { pd.report_peers(page).await }
        })
        .await
    }

    async fn region_heartbeat(
        &self,
        request: RegionHeartbeatRequest,
    ) -> Result<RegionHeartbeatResponse, PdError> {
        self.call("region heartbeat", move |pd| {
            let request = request.clone();
            async move { pd.region_heartbeat(request).await }
        })
        .await
    }

    async fn get_region(&self, raw_key: &[u8]) -> Result<RegionRoute, PdError> {
        let key = raw_key.to_vec();
        self.call("region", move |pd| {
            let key = key.clone();
            async move { pd.get_region(&key).await }
        })
        .await
    }

    async fn get_region_by_id(&self, region_id: u64) -> Result<RegionRoute, PdError> {
        self.call("region by id", move |pd| async move { pd.get_region_by_id(region_id).await })
            .await
    }

    async fn scan_regions(
        &self,
        start_key: &[u8],
        end_key: &[u8],
        limit: u32,
    ) -> Result<Vec<RegionRoute>, PdError> {
        let (start, end) = (start_key.to_vec(), end_key.to_vec());
        self.call("regions", move |pd| {
            let (start, end) = (start.clone(), end.clone());
            async move { pd.scan_regions(&start, &end, limit).await }
        })
        .await
    }

    async fn ask_split(&self, region: Region, split_count: u32) -> Result<Vec<SplitId>, PdError> {
        self.call("ask split", move |pd| {
            let region = region.clone();
            async move { pd.ask_split(region, split_count).await }
        })
        .await
    }

    async fn report_split(&self, regions: Vec<Region>) -> Result<(), PdError> {
        self.call("report split", move |pd| {
            let regions = regions.clone();
            async move { pd.report_split(regions).await }
        })
        .await
    }

    async fn get_gc_safe_point(&self) -> Result<TimeStamp, PdError> {
        self.call("safe point", |pd| async move { pd.get_gc_safe_point().await }).await
    }

    async fn update_gc_safe_point(&self, safe_point: TimeStamp) -> Result<TimeStamp, PdError> {
        self.call(
            "move safe point",
            move |pd| async move { pd.update_gc_safe_point(safe_point).await },
        )
        .await
    }

    async fn get_config(&self, prefix: &str) -> Result<Vec<ConfigEntry>, PdError> {
        let prefix = prefix.to_owned();
        self.call("config", move |pd| {
            let prefix = prefix.clone();
            async move { pd.get_config(&prefix).await }
        })
        .await
    }

    async fn put_config(&self, entries: Vec<ConfigEntry>) -> Result<(), PdError> {
        self.call("put config", move |pd| {
            let entries = entries.clone();
            async move { pd.put_config(entries).await }
        })
        .await
    }

    async fn watch_schema(&self) -> Result<BoxStream<'static, i64>, PdError> {
        // Nobody watches schemas below the SQL tier.
        Ok(futures::stream::pending().boxed())
    }

    async fn notify_schema(&self, schema_version: i64) -> Result<(), PdError> {
        self.call("notify schema", move |pd| async move { pd.notify_schema(schema_version).await })
            .await
    }
}
