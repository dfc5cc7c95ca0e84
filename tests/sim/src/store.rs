//! A store as a process of the simulation: the real state machines, scheduler and service
//! over a simulated disk, driven step by step.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cairn_engine::KvEngine;
use cairn_kv::gc::{VersionFilter, Walk};
use cairn_kv::keys::region_data_range;
use cairn_kv::raftstore::driven::{
    DrivenApply, DrivenBackground, DrivenRaft, DrivenStore, Outputs,
};
use cairn_kv::raftstore::snapshot::{SnapshotReader, SnapshotRoom};
use cairn_kv::raftstore::{
    Mailbox, OutgoingSnapshot, RaftInbox, RaftRouter, RaftStoreConfig, RaftStoreParts, StoreId,
    Transport,
};
use cairn_kv::service::{PdTso, ReadPool, StoreConfig, take_place};
use cairn_kv::{NodeError, StoreService};
use cairn_pd_client::PdClient;
use cairn_proto::{kv, meta};
use parking_lot::Mutex;
use protobuf::Message as _;
use raft::eraftpb::{Message, MessageType};
use rand::Rng;
use tokio::sync::Notify;
use tokio::time::sleep;

use crate::cluster::Cluster;
use crate::disk::{Disk, DiskLog};
use crate::workload::any_key;
use crate::world::{Dice, Node, World};

/// Between two attempts of a store to take its place while PD does not answer.
const BOOT_RETRY_MS: (u64, u64) = (200, 600);
/// Between two collections of garbage.
const COLLECT_PAUSE_MS: (u64, u64) = (300, 3_000);
/// Between two timestamps that a store closes for followers.
const CLOSE_PAUSE_MS: (u64, u64) = (20, 1_000);
/// Messages one round takes at most: small, so that rounds interleave.
const ROUND_MESSAGES_MAX: usize = 24;
/// Batches of tasks one step of apply takes at most.
const APPLY_BATCHES_MAX: usize = 6;

/// Until a process that stood still has read what came meanwhile.
const AWAKENING_MS_MAX: u64 = 30;

/// A store process: its disk, and what runs while it is alive.
pub struct StoreProcess {
    /// Which process it is.
    pub node: Node,
    /// Outlives crashes.
    pub disk: Arc<Disk>,
    /// What its compactions leave out.
    filter: VersionFilter,
    running: Mutex<Option<Running>>,
}

/// One life of the process.
struct Running {
    log: Arc<DiskLog>,
    service: Arc<StoreService>,
    inbox: RaftInbox,
    router: Arc<RaftRouter>,
}

impl StoreProcess {
    /// A process that was never started.
    pub fn new(node: Node) -> StoreProcess {
        let (disk, filter) = (Arc::<Disk>::default(), VersionFilter::default());
        disk.engine().set_garbage_filter(Arc::new(filter.clone()));
        StoreProcess { node, disk, filter, running: Mutex::new(None) }
    }

    /// The store's service, when it runs.
    pub fn service(&self) -> Option<Arc<StoreService>> {
        self.running.lock().as_ref().map(|running| running.service.clone())
    }

    /// Where Raft messages come in, when it runs.
    pub fn inbox(&self) -> Option<RaftInbox> {
        self.running.lock().as_ref().map(|running| running.inbox.clone())
    }

    /// For forced changes of leaders and members, when it runs.
    pub fn router(&self) -> Option<Arc<RaftRouter>> {
        self.running.lock().as_ref().map(|running| running.router.clone())
    }

    /// Whether it takes requests.
    pub fn is_running(&self) -> bool {
        self.running.lock().is_some()
    }

    /// The process dies where it stands; its disk loses what was not synced.
    pub fn crash(&self, world: &World) {
        let running = self.running.lock().take();
        world.host(self.node).kill();
        if let Some(running) = running {
            running.log.watcher().close();
        }
        self.disk.crash(world);
    }
}

/// Starts the process; it takes its place as soon as PD lets it.
pub fn start(cluster: &Arc<Cluster>, process: &Arc<StoreProcess>) {
    let (cluster, process) = (cluster.clone(), process.clone());
    let host = cluster.world.host(process.node).clone();
    host.spawn(async move { boot(cluster, process).await });
}

async fn boot(cluster: Arc<Cluster>, process: Arc<StoreProcess>) {
    let world = cluster.world.clone();
    let node = process.node;
    let pd = cluster.pd_client(node);
    let (engine, log) = process.disk.open();
    let config = StoreConfig::new("", format!("{node}:20160"));
    let store_id = loop {
        world.host(node).runs().await;
        // The gRPC client learns the cluster's id from the first answer, too.
        let known = pd.is_bootstrapped().await.map_err(NodeError::from);
        let placed = match known {
            Ok(_) => take_place(&config, engine.as_ref(), pd.as_ref()).await,
            Err(error) => Err(error),
        };
        match placed {
            Ok(store) => break store.id,
            Err(error) => {
                world.note(format_args!("{node} cannot start: {error}"));
                sleep(world.millis(Dice::Machine, BOOT_RETRY_MS.0, BOOT_RETRY_MS.1)).await;
            }
        }
    };
    cluster.set_store_id(node, store_id);
    let raft = RaftStoreConfig {
        seed: world.roll(Dice::Machine, |rng| rng.random()),
        ..cluster.plan.raft.clone()
    };
    let opened = DrivenStore::open(RaftStoreParts {
        config: raft,
        store_id: StoreId(store_id),
        kv: engine,
        log: log.clone(),
        transport: Arc::new(SimTransport { cluster: cluster.clone(), node }),
        pd: Some((pd.clone(), tokio::runtime::Handle::current())),
        clock: world.host(node).clone(),
    });
    let opened = opened.and_then(|opened| Ok(log.watcher().complete_sync().map(|()| opened)?));
    let driven = match opened {
        Ok(driven) => driven,
        Err(error) if cluster.is_disk_full(node) => {
            world.note(format_args!("{node} cannot open: {error}"));
            cluster.restart_later(node);
            return;
        }
        Err(error) => {
            world.fail(format!("{node} cannot open its data: {error}"));
            return;
        }
    };
    let (inbox, router) = (driven.inbox().clone(), driven.router().clone());
    let runtime = tokio::runtime::Handle::current();
    let pool = Arc::new(ReadPool::on(runtime, 1, world.host(node).clone()));
    let service = Arc::new(StoreService::new(
        driven.kv(),
        world.host(node).clone(),
        Some(Arc::new(PdTso(pd.clone()))),
        pool,
        process.filter.clone(),
    ));
    let DrivenStore { raft, apply, background, .. } = driven;
    let host = world.host(node).clone();
    let steps = Steps {
        cluster: cluster.clone(),
        process: process.clone(),
        log: log.clone(),
        applies: Arc::default(),
        jobs: Arc::default(),
    };
    host.spawn(steps.clone().run_raft(raft));
    host.spawn(steps.clone().run_apply(apply));
    host.spawn(steps.clone().run_background(background));
    host.spawn(steps.clone().run_closing(router.clone(), pd.clone()));
    host.spawn(steps.run_collection(router.clone(), pd));
    *process.running.lock() = Some(Running { log, service, inbox, router });
    world.note(format_args!("{node} runs as store {store_id}"));
}

/// What the threads of one life share.
#[derive(Clone)]
struct Steps {
    cluster: Arc<Cluster>,
    process: Arc<StoreProcess>,
    log: Arc<DiskLog>,
    /// Told when the Raft thread may have handed over something to apply.
    applies: Arc<Notify>,
    /// The same for the background thread.
    jobs: Arc<Notify>,
}

impl Steps {
    /// Until the operating system gives a thread its next turn.
    async fn turn(&self) {
        let world = &self.cluster.world;
        sleep(world.millis(Dice::Machine, 1, self.cluster.plan.turn_max_ms)).await;
        world.host(self.process.node).runs().await;
    }

    async fn run_raft(self, mut raft: DrivenRaft) {
        let world = self.cluster.world.clone();
        loop {
            self.turn().await;
            if !raft.idle().is_zero() {
                continue;
            }
            let round = match raft.round(ROUND_MESSAGES_MAX) {
                Ok(round) => round,
                Err(error) => return self.give_up("raft", &error.to_string()),
            };
            self.release(round.early);
            if round.synced {
                sleep(self.process.disk.sync_time(&world)).await;
                world.host(self.process.node).runs().await;
                if let Err(error) = self.log.watcher().complete_sync() {
                    return self.give_up("raft", &error.to_string());
                }
            }
            self.release(round.late);
            if round.stopped {
                return self.give_up("raft", "it was stopped");
            }
        }
    }

    async fn run_apply(self, mut apply: DrivenApply) {
        loop {
            while !apply.has_work() {
                self.applies.notified().await;
            }
            self.turn().await;
            if let Some(slow) = self.process.disk.apply_time(&self.cluster.world) {
                sleep(slow).await;
                self.cluster.world.host(self.process.node).runs().await;
            }
            match apply.step(APPLY_BATCHES_MAX) {
                Ok(reports) => {
                    self.turn().await;
                    reports.release();
                }
                Err(error) => return self.give_up("apply", &error.to_string()),
            }
        }
    }

    async fn run_background(self, mut background: DrivenBackground) {
        loop {
            while !background.has_work() {
                self.jobs.notified().await;
            }
            self.turn().await;
            if let Err(error) = background.step() {
                return self.give_up("background", &error.to_string());
            }
        }
    }

    /// Closes timestamps in the regions led here that are read at times of the past.
    async fn run_closing(self, router: Arc<RaftRouter>, pd: Arc<dyn PdClient>) {
        let world = &self.cluster.world;
        loop {
            sleep(world.millis(Dice::Machine, CLOSE_PAUSE_MS.0, CLOSE_PAUSE_MS.1)).await;
            world.host(self.process.node).runs().await;
            if router.has_subscribers()
                && let Ok(ts) = pd.get_ts().await
            {
                world.host(self.process.node).runs().await;
                router.close_timestamp(ts);
            }
        }
    }

    /// What the collector of a store does, at random times and over random ranges.
    async fn run_collection(self, router: Arc<RaftRouter>, pd: Arc<dyn PdClient>) {
        let world = &self.cluster.world;
        let filter = &self.process.filter;
        loop {
            sleep(world.millis(Dice::Machine, COLLECT_PAUSE_MS.0, COLLECT_PAUSE_MS.1)).await;
            world.host(self.process.node).runs().await;
            match pd.get_gc_safe_point().await {
                Ok(safe_point) if !safe_point.is_zero() => filter.raise(safe_point),
                _ => continue,
            }
            if world.roll(Dice::Machine, |rng| rng.random_bool(0.5)) {
                let mut keys = [(); 2].map(|()| any_key(world, Dice::Machine));
                keys.sort();
                let [start_key, end_key] = keys;
                let some = meta::Region { start_key, end_key, ..meta::Region::default() };
                let (start, end) = region_data_range(&some);
                // The twin in memory does not fail.
                let _ = self.process.disk.engine().compact_range(&start, &end);
            }
            let (start, end) = region_data_range(&meta::Region::default());
            let walk = Walk::new(start.into(), end.into(), filter.safe_point());
            // Busy, or the disk is full: the next time finds what is left.
            if let Ok((_, Ok(round))) = router.collect_garbage(walk).await {
                world.note(format_args!("{} collects {}", self.process.node, round.removed));
            }
        }
    }

    /// Sends a round's outputs on their way.
    fn release(&self, outputs: Outputs) {
        outputs.release();
        self.applies.notify_one();
        self.jobs.notify_one();
    }

    /// A store that cannot write ends, as the real process does; somebody restarts it.
    fn give_up(&self, thread: &str, reason: &str) {
        let node = self.process.node;
        let world = &self.cluster.world;
        world.note(format_args!("{node} gives up in {thread}: {reason}"));
        if !self.cluster.is_disk_full(node) {
            world.fail(format!("{node}: {thread} stopped: {reason}"));
        }
        self.process.crash(world);
        self.cluster.restart_later(node);
    }
}

/// Carries Raft messages and snapshots of one process.
struct SimTransport {
    cluster: Arc<Cluster>,
    node: Node,
}

impl SimTransport {
    /// The process of the store that a message is for.
    fn receiver(&self, message: &kv::RaftMessage) -> Option<Node> {
        self.cluster.node_of_store(message.to_peer.as_ref()?.store_id)
    }
}

impl Transport for SimTransport {
    fn send(&self, from: &Mailbox, messages: Vec<kv::RaftMessage>) {
        let world = &self.cluster.world;
        for message in messages {
            let peer_id = message.to_peer.as_ref().map_or(0, |peer| peer.id);
            let Some(to) = self.receiver(&message) else {
                from.unreachable(message.region_id, peer_id);
                continue;
            };
            // Region 0 is the stores' own talk.
            if message.region_id != 0
                && Message::parse_from_bytes(&message.message)
                    .is_ok_and(|raft| asks_for_vote(&raft))
            {
                world.network.note_candidate(self.node);
            }
            let arrivals = world.network.datagram(world, self.node, to);
            if arrivals.is_empty() {
                if world.roll(Dice::Network, |rng| rng.random_bool(0.3)) {
                    from.unreachable(message.region_id, peer_id);
                }
                continue;
            }
            for delay in arrivals {
                let (cluster, node, message) = (self.cluster.clone(), self.node, message.clone());
                tokio::spawn(async move {
                    sleep(delay).await;
                    let receiver = cluster.world.host(to);
                    if receiver.is_paused() {
                        // It lies in a socket, and is read in no order with what else waits.
                        receiver.runs().await;
                        sleep(cluster.world.millis(Dice::Network, 0, AWAKENING_MS_MAX)).await;
                    }
                    deliver(&cluster, node, to, message);
                });
            }
        }
    }

    fn send_snapshot(&self, from: &Mailbox, _: &Arc<SnapshotRoom>, snapshot: OutgoingSnapshot) {
        let (cluster, from_node, from) = (self.cluster.clone(), self.node, from.clone());
        let to = self.receiver(&snapshot.head);
        // It belongs to the sender: with the sender it ends.
        self.cluster.world.host(from_node).spawn(async move {
            let (region_id, peer_id) = (snapshot.head.region_id, snapshot.peer_id);
            let sent = match to {
                Some(to) => carry_snapshot(&cluster, from_node, to, snapshot).await,
                None => false,
            };
            let world = &cluster.world;
            world.note(format_args!("{from_node} snapshot of {region_id} sent: {sent}"));
            from.snapshot_sent(region_id, peer_id, sent);
        });
    }
}

/// Whether its sender stands for election, or would like to.
pub fn asks_for_vote(message: &Message) -> bool {
    matches!(message.get_msg_type(), MessageType::MsgRequestVote | MessageType::MsgRequestPreVote)
}

fn deliver(cluster: &Cluster, from: Node, to: Node, message: kv::RaftMessage) {
    let world = &cluster.world;
    let checksum = crc32fast::hash(&message.message);
    let region_id = message.region_id;
    let arrives = world.network.connects(from, to);
    let inbox = cluster.store(to).and_then(|process| process.inbox()).filter(|_| arrives);
    match inbox {
        Some(inbox) => {
            world.note(format_args!("{from} > {to} raft {region_id} {checksum:08x}"));
            inbox.deliver(vec![message]);
        }
        None => world.note(format_args!("{from} x {to} raft {region_id} {checksum:08x}")),
    }
}

/// Sends the chunks one by one; whether the receiver has all of them.
async fn carry_snapshot(
    cluster: &Arc<Cluster>,
    from: Node,
    to: Node,
    snapshot: OutgoingSnapshot,
) -> bool {
    /// A large region takes its time.
    const CHUNK_MS: (u64, u64) = (1, 20);
    let world = &cluster.world;
    if world.network.carry(world, from, to).await.is_err() {
        return false;
    }
    let Some(inbox) = cluster.store(to).and_then(|process| process.inbox()) else { return false };
    let Ok(mut receiver) = inbox.receive_snapshot(snapshot.head, None) else { return false };
    let mut reader = SnapshotReader::new(snapshot.engine, &snapshot.region);
    loop {
        let chunk: Bytes = match reader.next_chunk() {
            Ok(Some(chunk)) => chunk,
            Ok(None) => return receiver.finish().is_ok(),
            Err(_) => return false,
        };
        sleep(world.millis(Dice::Network, CHUNK_MS.0, CHUNK_MS.1)).await;
        world.host(from).runs().await;
        if !world.network.connects(from, to) {
            return false;
        }
        let checksum = crc32fast::hash(&chunk);
        if receiver.push(chunk, checksum).is_err() {
            return false;
        }
    }
}

/// How long a dead process stays away when nobody decides otherwise.
pub fn restart_delay(world: &World) -> Duration {
    world.millis(Dice::Faults, 100, 3_000)
}
