//! The placement driver for roles in the same process: calls without a network.

use std::sync::Arc;

use async_trait::async_trait;
use cairn_pd_client::{PdClient, PdError, RegionRoute};
use cairn_proto::meta::{Region, Store};
use cairn_proto::pd::{
    ConfigEntry, RegionHeartbeatRequest, RegionHeartbeatResponse, SplitId, StoreStats,
};
use cairn_types::TimeStamp;
use futures::StreamExt;
use futures::stream::BoxStream;
use tokio_stream::wrappers::WatchStream;

use crate::server::PdServer;

/// Direct calls into a [`PdServer`].
pub struct LocalPdClient {
    server: Arc<PdServer>,
}

impl LocalPdClient {
    /// A client of the server.
    pub fn new(server: Arc<PdServer>) -> LocalPdClient {
        LocalPdClient { server }
    }
}

#[async_trait]
impl PdClient for LocalPdClient {
    fn cluster_id(&self) -> u64 {
        self.server.cluster_id()
    }

    fn try_get_ts(&self) -> Option<TimeStamp> {
        self.server.try_get_ts(1)
    }

    async fn get_ts(&self) -> Result<TimeStamp, PdError> {
        self.server.get_ts(1).await
    }

    async fn alloc_ids(&self, count: u32) -> Result<u64, PdError> {
        self.server.alloc_ids(count).await
    }

    async fn bootstrap(&self, store: Store, region: Region) -> Result<(), PdError> {
        self.server.bootstrap(store, region).await
    }

    async fn is_bootstrapped(&self) -> Result<bool, PdError> {
        Ok(self.server.is_bootstrapped())
    }

    async fn put_store(&self, store: Store) -> Result<(), PdError> {
        self.server.put_store(store).await
    }

    async fn get_store(&self, store_id: u64) -> Result<Store, PdError> {
        Ok(self.server.get_store(store_id)?.0)
    }

    async fn get_all_stores(&self) -> Result<Vec<(Store, StoreStats)>, PdError> {
        Ok(self.server.get_all_stores())
    }

    async fn store_heartbeat(&self, stats: StoreStats) -> Result<(), PdError> {
        self.server.store_heartbeat(stats)
    }

    async fn region_heartbeat(
        &self,
        request: RegionHeartbeatRequest,
    ) -> Result<RegionHeartbeatResponse, PdError> {
        self.server.region_heartbeat(request).await
    }

    async fn get_region(&self, raw_key: &[u8]) -> Result<RegionRoute, PdError> {
        self.server.get_region(raw_key)
    }

    async fn get_region_by_id(&self, region_id: u64) -> Result<RegionRoute, PdError> {
        self.server.get_region_by_id(region_id)
    }

    async fn scan_regions(
        &self,
        start_key: &[u8],
        end_key: &[u8],
        limit: u32,
    ) -> Result<Vec<RegionRoute>, PdError> {
        Ok(self.server.scan_regions(start_key, end_key, limit))
    }

    async fn ask_split(&self, region: Region, split_count: u32) -> Result<Vec<SplitId>, PdError> {
        self.server.ask_split(&region, split_count).await
    }

    async fn report_split(&self, regions: Vec<Region>) -> Result<(), PdError> {
        self.server.report_split(regions).await
    }

    async fn get_gc_safe_point(&self) -> Result<TimeStamp, PdError> {
        Ok(self.server.gc_safe_point())
    }

    async fn update_gc_safe_point(&self, safe_point: TimeStamp) -> Result<TimeStamp, PdError> {
        self.server.update_gc_safe_point(safe_point).await
    }

    async fn get_config(&self, prefix: &str) -> Result<Vec<ConfigEntry>, PdError> {
        Ok(self.server.get_config(prefix))
    }

    async fn put_config(&self, entries: Vec<ConfigEntry>) -> Result<(), PdError> {
        self.server.put_config(entries).await
    }

    async fn watch_schema(&self) -> Result<BoxStream<'static, i64>, PdError> {
        Ok(WatchStream::new(self.server.watch_schema()).boxed())
    }

    async fn notify_schema(&self, schema_version: i64) -> Result<(), PdError> {
        self.server.notify_schema(schema_version).await
    }
}
