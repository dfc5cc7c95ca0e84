//! The placement driver of the cluster in memory: it knows the regions, and the time.

use std::sync::Arc;

use async_trait::async_trait;
use cairn_pd_client::{PdClient, PdError, RegionRoute};
use cairn_proto::meta::{Region, Store, StoreLabel};
use cairn_proto::pd::{
    ConfigEntry, RegionHeartbeatRequest, RegionHeartbeatResponse, SplitId, StoreHeartbeatResponse,
    StoreStats,
};
use cairn_types::TimeStamp;
use futures::stream::BoxStream;

use super::{Cluster, region_of};

/// The placement driver of a cluster.
pub(super) struct MockPd(pub(super) Arc<Cluster>);

impl MockPd {
    /// Regions as PD knows them.
    fn regions(&self) -> Vec<(Region, u64)> {
        let mut inner = self.0.inner.lock();
        if inner.old_news.0 == 0 {
            return inner.regions.clone();
        }
        inner.old_news.0 -= 1;
        inner.old_news.1.clone()
    }

    fn route(&self, (region, leader): &(Region, u64)) -> RegionRoute {
        let leader = region.peers.iter().find(|peer| peer.store_id == *leader).copied();
        RegionRoute { region: region.clone(), leader, ..RegionRoute::default() }
    }
}

fn unused() -> PdError {
    PdError::Internal("the mock has no such operation".into())
}

#[async_trait]
impl PdClient for MockPd {
    fn cluster_id(&self) -> u64 {
        1
    }

    async fn get_ts(&self) -> Result<TimeStamp, PdError> {
        if self.0.inner.lock().pd_is_away {
            return Err(PdError::Unavailable("no leader".into()));
        }
        Ok(self.0.ts())
    }

    async fn alloc_ids(&self, _count: u32) -> Result<u64, PdError> {
        Err(unused())
    }

    async fn bootstrap(&self, _store: Store, _region: Region) -> Result<(), PdError> {
        Err(unused())
    }

    async fn is_bootstrapped(&self) -> Result<bool, PdError> {
        Ok(true)
    }

    async fn put_store(&self, _store: Store) -> Result<(), PdError> {
        Err(unused())
    }

    async fn get_store(&self, store_id: u64) -> Result<Store, PdError> {
        let zone = StoreLabel { key: "zone".into(), value: format!("z{store_id}") };
        let (address, labels) = (store_id.to_string(), vec![zone]);
        Ok(Store { id: store_id, address, labels, ..Store::default() })
    }

    async fn get_all_stores(&self) -> Result<Vec<(Store, StoreStats)>, PdError> {
        Err(unused())
    }

    async fn store_heartbeat(&self, _stats: StoreStats) -> Result<StoreHeartbeatResponse, PdError> {
        Err(unused())
    }

    async fn region_heartbeat(
        &self,
        _request: RegionHeartbeatRequest,
    ) -> Result<RegionHeartbeatResponse, PdError> {
        Err(unused())
    }

    async fn get_region(&self, raw_key: &[u8]) -> Result<RegionRoute, PdError> {
        let regions = self.regions();
        Ok(self.route(&regions[region_of(&regions, raw_key)]))
    }

    async fn get_region_by_id(&self, _region_id: u64) -> Result<RegionRoute, PdError> {
        Err(unused())
    }

    async fn scan_regions(
        &self,
        start_key: &[u8],
        end_key: &[u8],
        limit: u32,
    ) -> Result<Vec<RegionRoute>, PdError> {
        let regions = self.regions();
        let first = region_of(&regions, start_key);
        let below =
            |(region, _): &&(Region, u64)| end_key.is_empty() || &region.start_key[..] < end_key;
        let found = regions[first..].iter().take_while(below);
        Ok(found.take(limit as usize).map(|one| self.route(one)).collect())
    }

    async fn ask_split(&self, _region: Region, _count: u32) -> Result<Vec<SplitId>, PdError> {
        Err(unused())
    }

    async fn report_split(&self, _regions: Vec<Region>) -> Result<(), PdError> {
        Err(unused())
    }

    async fn get_gc_safe_point(&self) -> Result<TimeStamp, PdError> {
        Err(unused())
    }

    async fn update_gc_safe_point(&self, _safe_point: TimeStamp) -> Result<TimeStamp, PdError> {
        Err(unused())
    }

    async fn get_config(&self, _prefix: &str) -> Result<Vec<ConfigEntry>, PdError> {
        Err(unused())
    }

    async fn put_config(&self, _entries: Vec<ConfigEntry>) -> Result<(), PdError> {
        Err(unused())
    }

    async fn watch_schema(&self) -> Result<BoxStream<'static, i64>, PdError> {
        Err(unused())
    }

    async fn notify_schema(&self, _schema_version: i64) -> Result<(), PdError> {
        Err(unused())
    }
}
