//! A replicated region of one, without Raft: what the tests of the layers above
//! run on; and a PD that is enough for one store.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use cairn_engine::{EngineError, KvEngine, MemoryEngine, WriteBatch};
use cairn_pd_client::{PdBounds, PdClient, PdError, RegionRoute};
use cairn_proto::pd::{
    ConfigEntry, RegionHeartbeatRequest, RegionHeartbeatResponse, SplitId, StoreHeartbeatResponse,
    StoreStats,
};
use cairn_proto::{kv, meta};
use cairn_types::TimeStamp;
use futures::stream::BoxStream;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use crate::gc::VersionFilter;
use crate::keys::region_contains;
use crate::raftstore::{
    Busy, LeaderLocks, ManualClock, OnProposed, RaftKv, RegionContext, RegionError, RegionId,
    RegionSnapshot, StoreId, epoch_of,
};
use crate::service::{ReadPool, StoreService};
use crate::txn::TsoSource;

/// One region over one engine; "replication" takes a turn of the scheduler.
pub struct MemoryKv {
    pub engine: MemoryEngine,
    pub region: Mutex<Arc<meta::Region>>,
    pub has_lease: AtomicBool,
    pub term: AtomicU64,
    pub writes: AtomicU64,
    /// How many more writes are applied; the others wait.
    pub applies: Semaphore,
    pub locks: Arc<LeaderLocks>,
}

impl MemoryKv {
    pub fn new() -> Arc<MemoryKv> {
        let region = meta::Region {
            id: 1,
            epoch: Some(meta::RegionEpoch { conf_ver: 1, version: 1 }),
            peers: vec![meta::Peer { id: 2, store_id: 1, role: 0 }],
            ..Default::default()
        };
        Arc::new(MemoryKv {
            engine: MemoryEngine::new(),
            region: Mutex::new(Arc::new(region)),
            has_lease: AtomicBool::new(true),
            term: AtomicU64::new(5),
            writes: AtomicU64::new(0),
            applies: Semaphore::new(Semaphore::MAX_PERMITS),
            locks: Arc::default(),
        })
    }

    pub fn service(self: &Arc<Self>) -> Arc<StoreService> {
        self.service_above(TimeStamp::ZERO)
    }

    /// A service whose replicas may have been collected up to the safe point.
    pub fn service_above(self: &Arc<Self>, safe_point: TimeStamp) -> Arc<StoreService> {
        let clock = Arc::new(ManualClock::new());
        let pool = Arc::new(ReadPool::new(1, clock.clone()).unwrap());
        let (tso, collected) = (Arc::new(Tso), VersionFilter::default());
        collected.raise(safe_point);
        Arc::new(StoreService::new(Arc::clone(self) as _, clock, Some(tso), pool, collected))
    }

    /// A context that fits the region.
    pub fn context(&self) -> kv::Context {
        let region = Arc::clone(&self.region.lock());
        kv::Context {
            region_id: region.id,
            epoch: region.epoch,
            peer: region.peers.first().cloned(),
            ..Default::default()
        }
    }

    fn check(&self, context: &RegionContext) -> Result<RegionSnapshot, RegionError> {
        let region = Arc::clone(&self.region.lock());
        if context.region_id.0 != region.id {
            return Err(RegionError::RegionNotFound(context.region_id));
        }
        if context.epoch != epoch_of(&region) {
            let current_regions = vec![(*region).clone()];
            return Err(RegionError::EpochNotMatch { current_regions });
        }
        let term = self.term.load(Ordering::SeqCst);
        if context.term != 0 && context.term != term {
            return Err(RegionError::StaleCommand);
        }
        let (load, locks) = (Arc::default(), Arc::clone(&self.locks));
        let engine = self.engine.snapshot();
        Ok(RegionSnapshot { region, term, engine, load, locks, is_live: false })
    }
}

/// PD stands at timestamp 1000.
struct Tso;

#[async_trait]
impl TsoSource for Tso {
    async fn timestamp(&self) -> Option<TimeStamp> {
        Some(TimeStamp(1000))
    }
}

#[async_trait]
impl RaftKv for MemoryKv {
    fn destroy_range(&self, start: &[u8], end: &[u8]) -> Result<(), EngineError> {
        crate::gc::destroy::destroy_range(&self.engine, start, end)
    }

    fn try_local_snapshot(
        &self,
        context: &RegionContext,
    ) -> Result<Option<RegionSnapshot>, RegionError> {
        let view = self.check(context)?;
        Ok(self.has_lease.load(Ordering::SeqCst).then_some(view))
    }

    async fn snapshot(&self, context: &RegionContext) -> Result<RegionSnapshot, RegionError> {
        tokio::task::yield_now().await;
        self.check(context)
    }

    async fn write(
        &self,
        context: &RegionContext,
        batch: WriteBatch,
        on_proposed: Option<OnProposed>,
    ) -> Result<(), RegionError> {
        self.check(context)?;
        if let Some(on_proposed) = on_proposed {
            on_proposed();
        }
        tokio::task::yield_now().await;
        self.applies.acquire().await.expect("never closed").forget();
        self.check(context)?;
        self.engine.write(batch, false).unwrap();
        self.writes.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    fn local_leader_region(&self, raw_key: &[u8]) -> Option<RegionContext> {
        let region = Arc::clone(&self.region.lock());
        region_contains(&region, raw_key).then(|| RegionContext {
            region_id: RegionId(region.id),
            epoch: epoch_of(&region),
            ..Default::default()
        })
    }

    async fn split(
        &self,
        _: &RegionContext,
        _: Vec<Bytes>,
    ) -> Result<Vec<meta::Region>, RegionError> {
        Ok(vec![(**self.region.lock()).clone()])
    }

    fn store_id(&self) -> StoreId {
        StoreId(1)
    }

    fn region_infos(&self) -> Vec<kv::RegionPeerInfo> {
        let region = Some((**self.region.lock()).clone());
        vec![kv::RegionPeerInfo { region, is_leader: true, ..Default::default() }]
    }

    fn is_busy(&self) -> Option<Busy> {
        None
    }
}

/// As much of PD as one store needs.
pub struct FakePd {
    cluster_id: AtomicU64,
    state: Mutex<FakePdState>,
}

#[derive(Default)]
struct FakePdState {
    next_id: u64,
    last_ts: u64,
    stores: Vec<meta::Store>,
    regions: Vec<meta::Region>,
}

impl FakePdState {
    fn learn(&mut self, region: meta::Region) {
        let version = |region: &meta::Region| epoch_of(region).version;
        let is_older =
            |known: &meta::Region| known.id == region.id && version(known) <= version(&region);
        self.regions.retain(|known| !is_older(known));
        if !self.regions.iter().any(|known| known.id == region.id) {
            self.regions.push(region);
        }
    }
}

impl FakePd {
    pub fn new(cluster_id: u64) -> Arc<FakePd> {
        let state = FakePdState { next_id: 1, last_ts: 1 << 18, ..Default::default() };
        Arc::new(FakePd { cluster_id: AtomicU64::new(cluster_id), state: Mutex::new(state) })
    }

    /// It takes that cluster over, as `cairn ctl recover meta` has it.
    pub fn recover(&self, told: kv::DescribeStoreResponse) {
        let mut state = self.state.lock();
        state.next_id = told.max_id + 1_000;
        state.last_ts = told.max_ts + 1;
        state.stores = told.store.into_iter().collect();
        state.regions = told.regions;
        self.cluster_id.store(told.cluster_id, Ordering::SeqCst);
    }

    /// Time passes.
    pub fn advance_ms(&self, ms: u64) {
        self.state.lock().last_ts += TimeStamp::compose(ms, 0).0;
    }

    /// It forgets its stores.
    pub fn forget_stores(&self) {
        self.state.lock().stores.clear();
    }
}

fn unsupported<T>() -> Result<T, PdError> {
    Err(PdError::InvalidArgument("not in this test".into()))
}

#[async_trait]
impl PdClient for FakePd {
    fn cluster_id(&self) -> u64 {
        self.cluster_id.load(Ordering::SeqCst)
    }

    async fn get_ts(&self) -> Result<TimeStamp, PdError> {
        let mut state = self.state.lock();
        state.last_ts += 1;
        Ok(TimeStamp(state.last_ts))
    }

    async fn alloc_ids(&self, count: u32) -> Result<u64, PdError> {
        let mut state = self.state.lock();
        let first = state.next_id;
        state.next_id += u64::from(count);
        Ok(first)
    }

    async fn bootstrap(&self, store: meta::Store, region: meta::Region) -> Result<(), PdError> {
        let mut state = self.state.lock();
        if !state.regions.is_empty() {
            return Err(PdError::AlreadyBootstrapped);
        }
        state.stores.push(store);
        state.regions.push(region);
        Ok(())
    }

    async fn is_bootstrapped(&self) -> Result<bool, PdError> {
        Ok(!self.state.lock().regions.is_empty())
    }

    async fn put_store(&self, store: meta::Store) -> Result<(), PdError> {
        let mut state = self.state.lock();
        state.stores.retain(|known| known.id != store.id);
        state.stores.push(store);
        Ok(())
    }

    async fn get_store(&self, store_id: u64) -> Result<meta::Store, PdError> {
        let state = self.state.lock();
        let found = state.stores.iter().find(|store| store.id == store_id);
        found.cloned().ok_or_else(|| PdError::StoreNotFound(store_id.to_string()))
    }

    async fn get_all_stores(&self) -> Result<Vec<(meta::Store, StoreStats)>, PdError> {
        let stores = self.state.lock().stores.clone();
        Ok(stores.into_iter().map(|store| (store, StoreStats::default())).collect())
    }

    async fn store_heartbeat(&self, _: StoreStats) -> Result<StoreHeartbeatResponse, PdError> {
        Ok(StoreHeartbeatResponse::default())
    }

    async fn region_heartbeat(
        &self,
        report: RegionHeartbeatRequest,
    ) -> Result<RegionHeartbeatResponse, PdError> {
        self.state.lock().learn(report.region.unwrap_or_default());
        Ok(RegionHeartbeatResponse::default())
    }

    async fn get_region(&self, raw_key: &[u8]) -> Result<RegionRoute, PdError> {
        let state = self.state.lock();
        let found = state.regions.iter().find(|region| region_contains(region, raw_key));
        let region = found.cloned().ok_or_else(|| PdError::RegionNotFound(String::new()))?;
        let leader = region.peers.first().cloned();
        Ok(RegionRoute { region, leader, ..Default::default() })
    }

    async fn get_region_by_id(&self, _: u64) -> Result<RegionRoute, PdError> {
        unsupported()
    }

    async fn scan_regions(&self, _: &[u8], _: &[u8], _: u32) -> Result<Vec<RegionRoute>, PdError> {
        let regions = self.state.lock().regions.clone();
        let route = |region| RegionRoute { region, ..Default::default() };
        Ok(regions.into_iter().map(route).collect())
    }

    async fn ask_split(
        &self,
        region: meta::Region,
        split_count: u32,
    ) -> Result<Vec<SplitId>, PdError> {
        let mut ids = Vec::new();
        for _ in 0..split_count {
            let new_region_id = self.alloc_ids(1).await?;
            let first = self.alloc_ids(region.peers.len() as u32).await?;
            let new_peer_ids = (first..).take(region.peers.len()).collect();
            ids.push(SplitId { new_region_id, new_peer_ids });
        }
        Ok(ids)
    }

    async fn report_split(&self, regions: Vec<meta::Region>) -> Result<(), PdError> {
        let mut state = self.state.lock();
        regions.into_iter().for_each(|region| state.learn(region));
        Ok(())
    }

    async fn get_gc_safe_point(&self) -> Result<TimeStamp, PdError> {
        Ok(TimeStamp::ZERO)
    }

    async fn update_gc_safe_point(&self, safe_point: TimeStamp) -> Result<TimeStamp, PdError> {
        Ok(safe_point)
    }

    async fn bounds(&self) -> Result<PdBounds, PdError> {
        let state = self.state.lock();
        Ok(PdBounds {
            id_bound: state.next_id - 1,
            tso_bound_ms: TimeStamp(state.last_ts).physical_ms() + 1,
            ..PdBounds::default()
        })
    }

    async fn get_config(&self, _: &str) -> Result<Vec<ConfigEntry>, PdError> {
        unsupported()
    }

    async fn put_config(&self, _: Vec<ConfigEntry>) -> Result<(), PdError> {
        unsupported()
    }

    async fn watch_schema(&self) -> Result<BoxStream<'static, i64>, PdError> {
        unsupported()
    }

    async fn notify_schema(&self, _: i64) -> Result<(), PdError> {
        unsupported()
    }
}
