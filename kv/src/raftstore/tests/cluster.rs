//! Stores driven by hand: time, messages and threads are the test's.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use bytes::Bytes;
use cairn_engine::{Cf, KvEngine, MemoryEngine, MemoryRaftLog, RaftLog, WriteBatch};
use cairn_proto::{kv, meta};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::sync::oneshot;

use crate::keys;
use crate::raftstore::apply::{Applier, ApplyTask, Callback, InflightBytes};
use crate::raftstore::clock::{Clock, ManualClock};
use crate::raftstore::command;
use crate::raftstore::error::RaftStoreError;
use crate::raftstore::metrics::RaftMetrics;
use crate::raftstore::peer::PendingRead;
use crate::raftstore::peer::storage::Engines;
use crate::raftstore::read::Regions;
use crate::raftstore::snapshot::{Installation, SnapshotReader, SnapshotSpool};
use crate::raftstore::state::bootstrap_region;
use crate::raftstore::store::{
    BackgroundJob, Effects, FailedInstallation, OutgoingSnapshot, PdEvent, StoreCore, StoreMessage,
};
use crate::raftstore::{
    RaftStoreConfig, RegionContext, RegionError, RegionId, RegionSnapshot, epoch_of, worker,
};

/// A region over all keys with peers (peer id, store id).
pub fn region_of(id: u64, peers: &[(u64, u64)]) -> meta::Region {
    let peer = |(id, store_id): &(u64, u64)| meta::Peer { id: *id, store_id: *store_id, role: 0 };
    meta::Region {
        id,
        start_key: Bytes::new(),
        end_key: Bytes::new(),
        epoch: Some(meta::RegionEpoch { conf_ver: 1, version: 1 }),
        peers: peers.iter().map(peer).collect(),
    }
}

/// A context that fits the region, whoever leads it.
pub fn context_of(region: &meta::Region) -> RegionContext {
    RegionContext {
        region_id: RegionId(region.id),
        epoch: epoch_of(region),
        ..RegionContext::default()
    }
}

#[derive(Default)]
struct Collected {
    messages: Vec<kv::RaftMessage>,
    snapshots: Vec<OutgoingSnapshot>,
    apply: Vec<ApplyTask>,
    background: Vec<BackgroundJob>,
    pd: Vec<PdEvent>,
}

impl Effects for Collected {
    fn send(&mut self, messages: Vec<kv::RaftMessage>) {
        self.messages.extend(messages);
    }
    fn send_snapshot(&mut self, snapshot: OutgoingSnapshot) {
        self.snapshots.push(snapshot);
    }
    fn apply(&mut self, tasks: Vec<ApplyTask>) {
        self.apply.extend(tasks);
    }
    fn background(&mut self, job: BackgroundJob) {
        self.background.push(job);
    }
    fn pd(&mut self, event: PdEvent) {
        self.pd.push(event);
    }
}

/// One store with its engines; the engines outlive a crash.
pub struct TestStore {
    pub kv: MemoryEngine,
    pub log: Arc<MemoryRaftLog>,
    pub regions: Arc<Regions>,
    pub metrics: Arc<RaftMetrics>,
    pub running: Option<(StoreCore, Applier)>,
    pub inbox: VecDeque<StoreMessage>,
    pub pd: Vec<PdEvent>,
    /// Apply does nothing while set.
    pub apply_paused: bool,
    /// Raft snapshots cannot be installed while set.
    pub disk_full: bool,
    /// How often that was so.
    pub refused_installs: u64,
    waiting_apply: Vec<ApplyTask>,
}

/// What the background thread says of an installation that meets a full disk.
fn refused_install(installation: Box<Installation>) -> StoreMessage {
    let (region_id, peer_id) = (installation.region.id, installation.peer_id);
    let error = RaftStoreError::from(std::io::Error::from(std::io::ErrorKind::StorageFull));
    let outcome = Err(FailedInstallation { installation, error });
    StoreMessage::Installed { region_id, peer_id, outcome }
}

/// Stores, the messages between them, and time.
pub struct Cluster {
    pub stores: BTreeMap<u64, TestStore>,
    pub clock: ManualClock,
    pub config: RaftStoreConfig,
    /// Pairs of stores (from, to) between which nothing arrives.
    pub cut: BTreeSet<(u64, u64)>,
    /// Stores that stand still (as after SIGSTOP); messages to them wait.
    pub paused: BTreeSet<u64>,
    /// Messages lost, in percent.
    pub loss_percent: u32,
    rng: SmallRng,
    inflight: Arc<AtomicU64>,
}

impl Cluster {
    /// Stores 1..=count; the region is bootstrapped on every store that has a peer.
    pub fn new(count: u64, region: &meta::Region) -> Cluster {
        let mut cluster = Cluster {
            stores: BTreeMap::new(),
            clock: ManualClock::new(),
            config: RaftStoreConfig { seed: 7, ..RaftStoreConfig::default() },
            cut: BTreeSet::new(),
            paused: BTreeSet::new(),
            loss_percent: 0,
            rng: SmallRng::seed_from_u64(11),
            inflight: Arc::new(AtomicU64::new(0)),
        };
        for store_id in 1..=count {
            let kv = MemoryEngine::new();
            if region.peers.iter().any(|peer| peer.store_id == store_id) {
                bootstrap_region(&kv, store_id, region).unwrap();
            }
            cluster.stores.insert(
                store_id,
                TestStore {
                    kv,
                    log: Arc::new(MemoryRaftLog::new()),
                    regions: Arc::new(Regions::default()),
                    metrics: Arc::new(RaftMetrics::default()),
                    running: None,
                    inbox: VecDeque::new(),
                    pd: Vec::new(),
                    apply_paused: false,
                    disk_full: false,
                    refused_installs: 0,
                    waiting_apply: Vec::new(),
                },
            );
        }
        for store_id in 1..=count {
            cluster.start(store_id);
        }
        cluster
    }

    pub fn start(&mut self, store_id: u64) {
        let now = self.clock.now();
        let config = self.config.clone();
        let store = self.stores.get_mut(&store_id).unwrap();
        let kv = Arc::new(store.kv.clone());
        let log: Arc<dyn RaftLog> = store.log.clone();
        store.regions = Arc::new(Regions::default());
        let engines = Engines { kv, log };
        let applier = Applier::new(store_id, engines.clone(), store.metrics.clone());
        let mut core =
            StoreCore::new(config, store_id, engines, store.regions.clone(), store.metrics.clone());
        core.load(now).unwrap();
        store.running = Some((core, applier));
    }

    /// Power is lost: what was not synced is gone.
    pub fn crash(&mut self, store_id: u64) {
        let store = self.stores.get_mut(&store_id).unwrap();
        store.running = None;
        store.inbox.clear();
        store.waiting_apply.clear();
        store.kv.crash();
        store.log.crash();
    }

    pub fn isolate(&mut self, store_id: u64) {
        for other in self.stores.keys().copied().filter(|other| *other != store_id) {
            self.cut.insert((store_id, other));
            self.cut.insert((other, store_id));
        }
    }

    /// The store is reached again; other cuts stay.
    pub fn heal_store(&mut self, store_id: u64) {
        self.cut.retain(|(from, to)| *from != store_id && *to != store_id);
    }

    pub fn heal(&mut self) {
        self.cut.clear();
        self.loss_percent = 0;
    }

    /// Runs one round of one store; whether anything happened.
    pub fn round(&mut self, store_id: u64) -> bool {
        if self.paused.contains(&store_id) {
            return false;
        }
        let now = self.clock.now();
        let store = self.stores.get_mut(&store_id).unwrap();
        let Some((core, applier)) = store.running.as_mut() else {
            store.inbox.clear();
            return false;
        };
        let mut busy = !store.inbox.is_empty() || core.has_work();
        for message in std::mem::take(&mut store.inbox) {
            core.handle(message, now);
        }
        let mut effects = Collected::default();
        core.finish_round(now, &mut effects).unwrap();
        store.pd.append(&mut effects.pd);
        store.waiting_apply.append(&mut effects.apply);
        if !store.apply_paused && !store.waiting_apply.is_empty() {
            busy = true;
            let reports = applier.run(std::mem::take(&mut store.waiting_apply)).unwrap();
            store.inbox.push_back(StoreMessage::Applied(reports));
        }
        for job in effects.background {
            let log: &dyn RaftLog = store.log.as_ref();
            let job = match job {
                BackgroundJob::Install(installation) if store.disk_full => {
                    store.refused_installs += 1;
                    store.inbox.push_back(refused_install(installation));
                    continue;
                }
                job => job,
            };
            store.inbox.extend(worker::run_job(job, &store.kv, log).unwrap());
        }
        busy |= !effects.messages.is_empty();
        for message in effects.messages {
            self.deliver(store_id, StoreMessage::Raft(vec![message.clone()]), &message);
        }
        for snapshot in effects.snapshots {
            busy = true;
            self.carry_snapshot(store_id, snapshot);
        }
        busy
    }

    fn deliver(&mut self, from: u64, message: StoreMessage, address: &kv::RaftMessage) -> bool {
        let to = address.to_peer.as_ref().unwrap().store_id;
        let lost = self.cut.contains(&(from, to))
            || (self.loss_percent > 0 && self.rng.random_range(0..100) < self.loss_percent);
        match self.stores.get_mut(&to) {
            Some(store) if !lost && store.running.is_some() => {
                store.inbox.push_back(message);
                true
            }
            _ => false,
        }
    }

    fn carry_snapshot(&mut self, from: u64, snapshot: OutgoingSnapshot) {
        let mut spool = SnapshotSpool::memory();
        let mut reader = SnapshotReader::new(snapshot.engine.clone(), &snapshot.region);
        while let Some(chunk) = reader.next_chunk().unwrap() {
            let checksum = crc32fast::hash(&chunk);
            spool.push(chunk, checksum).unwrap();
        }
        let message =
            StoreMessage::Snapshot(Box::new(snapshot.head.clone()), spool.finish().unwrap());
        let sent = self.deliver(from, message, &snapshot.head);
        let report = StoreMessage::SnapshotSent {
            region_id: snapshot.head.region_id,
            peer_id: snapshot.peer_id,
            sent,
        };
        self.stores.get_mut(&from).unwrap().inbox.push_back(report);
    }

    /// Rounds until nothing moves; time stands still.
    pub fn settle(&mut self) {
        for _ in 0..10_000 {
            let ids: Vec<u64> = self.stores.keys().copied().collect();
            let busy: Vec<bool> = ids.iter().map(|id| self.round(*id)).collect();
            if !busy.contains(&true) {
                return;
            }
        }
        panic!("the cluster does not come to rest");
    }

    /// Time passes, tick by tick.
    pub fn run_ticks(&mut self, count: usize) {
        for _ in 0..count {
            self.tick_stores();
            self.settle();
        }
    }

    /// One tick passes, and nothing else happens yet.
    pub fn tick_stores(&mut self) {
        self.clock.advance(self.config.tick);
        let now = self.clock.now();
        for (store_id, store) in &mut self.stores {
            if self.paused.contains(store_id) {
                continue;
            }
            if let Some((core, _)) = store.running.as_mut() {
                core.tick(now);
            }
        }
    }

    /// Ticks until the condition holds.
    pub fn run_until(&mut self, what: &str, mut holds: impl FnMut(&mut Cluster) -> bool) {
        for _ in 0..300 {
            if holds(self) {
                return;
            }
            self.run_ticks(1);
        }
        panic!("never: {what}");
    }

    pub fn infos(&mut self, store_id: u64) -> Vec<kv::RegionPeerInfo> {
        let now = self.clock.now();
        let Some((core, _)) = self.stores.get_mut(&store_id).unwrap().running.as_mut() else {
            return Vec::new();
        };
        let (answer, answered) = crossbeam::channel::bounded(1);
        core.handle(StoreMessage::Infos(answer), now);
        answered.recv_timeout(Duration::from_secs(1)).unwrap()
    }

    pub fn info(&mut self, store_id: u64, region_id: u64) -> Option<kv::RegionPeerInfo> {
        let of_region = |info: &kv::RegionPeerInfo| info.region.as_ref().unwrap().id == region_id;
        self.infos(store_id).into_iter().find(of_region)
    }

    /// Store that leads the region, of those that can reach a majority.
    pub fn leader(&mut self, region_id: u64) -> Option<u64> {
        let ids: Vec<u64> = self.stores.keys().copied().collect();
        let mut leaders: Vec<(u64, u64)> = ids
            .into_iter()
            .filter_map(|id| Some((self.info(id, region_id)?, id)))
            .filter(|(info, _)| info.is_leader)
            .map(|(info, id)| (info.term, id))
            .collect();
        leaders.sort_unstable();
        leaders.last().map(|(_, id)| *id)
    }

    pub fn elect(&mut self, region_id: u64) -> u64 {
        self.run_until("a leader", |cluster| cluster.leader(region_id).is_some());
        self.leader(region_id).unwrap()
    }

    pub fn region(&mut self, store_id: u64, region_id: u64) -> meta::Region {
        self.info(store_id, region_id).unwrap().region.unwrap()
    }

    pub fn tell(&mut self, store_id: u64, message: StoreMessage) {
        self.stores.get_mut(&store_id).unwrap().inbox.push_back(message);
    }

    /// Proposes a put; the answer comes when it comes.
    pub fn propose(
        &mut self,
        store_id: u64,
        region: &meta::Region,
        key: &str,
        value: &str,
    ) -> oneshot::Receiver<Result<(), RegionError>> {
        let mut batch = WriteBatch::new();
        batch.put(Cf::Write, keys::data_key(key.as_bytes()), value.as_bytes().to_vec());
        let (answer, answered) = oneshot::channel();
        let inflight = InflightBytes::acquire(&self.inflight, 1, u64::MAX).unwrap();
        let message = StoreMessage::Write {
            context: context_of(region),
            data: command::encode_write(epoch_of(region), &batch),
            callback: Callback::Write(answer, inflight, None),
        };
        self.tell(store_id, message);
        answered
    }

    /// Puts and waits until it is applied on the leader.
    pub fn put(&mut self, store_id: u64, region: &meta::Region, key: &str, value: &str) {
        let mut answered = self.propose(store_id, region, key, value);
        self.settle();
        let mut outcome = answered.try_recv();
        for _ in 0..50 {
            if outcome.is_ok() {
                break;
            }
            self.run_ticks(1);
            outcome = answered.try_recv();
        }
        outcome.unwrap().unwrap();
    }

    pub fn local_view(
        &mut self,
        store_id: u64,
        region: &meta::Region,
    ) -> Result<Option<RegionSnapshot>, RegionError> {
        let store = &self.stores[&store_id];
        store.regions.try_local_view(&context_of(region), &self.clock, || store.kv.snapshot())
    }

    pub fn read_index(
        &mut self,
        store_id: u64,
        region: &meta::Region,
    ) -> oneshot::Receiver<Result<RegionSnapshot, RegionError>> {
        let (answer, answered) = oneshot::channel();
        let read = PendingRead { context: context_of(region), answer };
        self.tell(store_id, StoreMessage::Read(read));
        answered
    }

    /// What the store's engine holds, whoever leads.
    pub fn stored(&self, store_id: u64, key: &str) -> Option<String> {
        let value = self.stores[&store_id].kv.get(Cf::Write, &keys::data_key(key.as_bytes()));
        value.unwrap().map(|value| String::from_utf8(value.to_vec()).unwrap())
    }

    /// Splits a region at a key; the new one has ids made of `new_id`.
    pub fn split(&mut self, store_id: u64, region: &meta::Region, key: &str, new_id: u64) {
        let piece = command::SplitPiece {
            end_key: Bytes::copy_from_slice(key.as_bytes()),
            region_id: new_id,
            peer_ids: region.peers.iter().map(|peer| new_id * 10 + peer.store_id).collect(),
        };
        let message = StoreMessage::Split {
            context: context_of(region),
            pieces: vec![piece],
            callback: Callback::None,
        };
        self.tell(store_id, message);
        self.settle();
    }

    /// Proposes membership changes; the answer comes when it comes.
    pub fn propose_changes(
        &mut self,
        store_id: u64,
        region_id: u64,
        changes: Vec<command::PeerChange>,
    ) -> oneshot::Receiver<Result<Vec<meta::Region>, RegionError>> {
        let (answer, answered) = oneshot::channel();
        let callback = Callback::Regions(answer);
        self.tell(store_id, StoreMessage::ChangePeers { region_id, changes, callback });
        answered
    }

    pub fn change_peer(
        &mut self,
        store_id: u64,
        region_id: u64,
        kind: command::ConfChangeKind,
        peer: meta::Peer,
    ) -> Result<meta::Region, RegionError> {
        let changes = vec![command::PeerChange::new(kind, peer)];
        let mut answered = self.propose_changes(store_id, region_id, changes);
        self.run_ticks(3);
        answered.try_recv().unwrap().map(|regions| regions[0].clone())
    }
}
