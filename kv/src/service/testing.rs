//! A replicated region of one, without Raft: what the tests of the layers above
//! run on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use cairn_engine::{KvEngine, MemoryEngine, WriteBatch};
use cairn_proto::{kv, meta};
use cairn_types::TimeStamp;
use parking_lot::Mutex;

use crate::keys::region_contains;
use crate::raftstore::{
    Busy, ManualClock, RaftKv, RegionContext, RegionError, RegionId, RegionSnapshot, StoreId,
    epoch_of,
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
        })
    }

    pub fn service(self: &Arc<Self>) -> Arc<StoreService> {
        let pool = Arc::new(ReadPool::new(1).unwrap());
        let clock = Arc::new(ManualClock::new());
        Arc::new(StoreService::new(Arc::clone(self) as _, clock, Some(Arc::new(Tso)), pool))
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
        Ok(RegionSnapshot { region, term, engine: self.engine.snapshot() })
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

    async fn write(&self, context: &RegionContext, batch: WriteBatch) -> Result<(), RegionError> {
        self.check(context)?;
        tokio::task::yield_now().await;
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
