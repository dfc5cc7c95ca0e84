//! The placement driver for roles in the same process: calls without a network.
//!
//! With several members in the process a call goes to the one that leads. While nobody
//! does, it waits and tries again until its time is over.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use cairn_pd_client::{Order, PdBounds, PdClient, PdError, RegionRoute};
use cairn_proto::meta::{Region, Store};
use cairn_proto::pd::{
    ConfigEntry, RegionHeartbeatRequest, RegionHeartbeatResponse, ReportPeersRequest, SplitId,
    StoreHeartbeatResponse, StoreStats,
};
use cairn_types::TimeStamp;
use futures::StreamExt;
use futures::stream::{BoxStream, select_all};
use tokio_stream::wrappers::WatchStream;

use crate::server::PdServer;

/// Time a call may take with all its attempts, as over gRPC.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Between attempts while nobody leads.
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// Direct calls into the members of a placement driver.
pub struct LocalPdClient {
    servers: Vec<Arc<PdServer>>,
}

impl LocalPdClient {
    /// A client of the members of one cluster; there is at least one.
    pub fn new(servers: Vec<Arc<PdServer>>) -> LocalPdClient {
        assert!(!servers.is_empty(), "a placement driver has a member");
        LocalPdClient { servers }
    }
}

/// Calls the leader until it answers or the time is over.
macro_rules! on_leader {
    ($self:ident, $server:ident => $attempt:expr) => {{
        let calling = async {
            loop {
                let mut last = PdError::NotLeader(String::new());
                for $server in &$self.servers {
                    let outcome = match $server.check_leads() {
                        Ok(()) => $attempt,
                        Err(error) => Err(error),
                    };
                    match outcome {
                        Err(error @ (PdError::NotLeader(_) | PdError::Unavailable(_))) => {
                            last = error;
                        }
                        answered => return answered,
                    }
                }
                if $self.servers.iter().all(|server| server.stopping().is_cancelled()) {
                    return Err(last);
                }
                tokio::time::sleep(RETRY_PAUSE).await;
            }
        };
        let answered = tokio::time::timeout(CALL_TIMEOUT, calling).await;
        let timeout_ms = CALL_TIMEOUT.as_millis() as u64;
        answered.unwrap_or(Err(PdError::DeadlineExceeded { timeout_ms }))
    }};
}

#[async_trait]
impl PdClient for LocalPdClient {
    fn cluster_id(&self) -> u64 {
        self.servers.iter().map(|server| server.cluster_id()).find(|id| *id != 0).unwrap_or(0)
    }

    fn try_get_ts(&self) -> Option<TimeStamp> {
        self.servers.iter().find_map(|server| server.try_get_ts(1))
    }

    async fn get_ts(&self) -> Result<TimeStamp, PdError> {
        on_leader!(self, server => server.get_ts(1).await)
    }

    async fn alloc_ids(&self, count: u32) -> Result<u64, PdError> {
        on_leader!(self, server => server.alloc_ids(count).await)
    }

    async fn bootstrap(&self, store: Store, region: Region) -> Result<(), PdError> {
        on_leader!(self, server => server.bootstrap(store.clone(), region.clone()).await)
    }

    async fn is_bootstrapped(&self) -> Result<bool, PdError> {
        on_leader!(self, server => Ok(server.is_bootstrapped()))
    }

    async fn put_store(&self, store: Store) -> Result<(), PdError> {
        on_leader!(self, server => server.put_store(store.clone()).await)
    }

    async fn get_store(&self, store_id: u64) -> Result<Store, PdError> {
        on_leader!(self, server => Ok(server.get_store(store_id)?.0))
    }

    async fn get_all_stores(&self) -> Result<Vec<(Store, StoreStats)>, PdError> {
        on_leader!(self, server => Ok(server.get_all_stores()))
    }

    async fn store_heartbeat(&self, stats: StoreStats) -> Result<StoreHeartbeatResponse, PdError> {
        on_leader!(self, server => server.store_heartbeat(stats))
    }

    async fn report_peers(&self, page: ReportPeersRequest) -> Result<(), PdError> {
        on_leader!(self, server => server.report_peers(page.clone()))
    }

    async fn region_heartbeat(
        &self,
        request: RegionHeartbeatRequest,
    ) -> Result<RegionHeartbeatResponse, PdError> {
        on_leader!(self, server => server.region_heartbeat(request.clone()).await)
    }

    async fn get_region(&self, raw_key: &[u8]) -> Result<RegionRoute, PdError> {
        on_leader!(self, server => server.get_region(raw_key))
    }

    async fn get_region_by_id(&self, region_id: u64) -> Result<RegionRoute, PdError> {
        on_leader!(self, server => server.get_region_by_id(region_id))
    }

    async fn scan_regions(
        &self,
        start_key: &[u8],
        end_key: &[u8],
        limit: u32,
    ) -> Result<Vec<RegionRoute>, PdError> {
        on_leader!(self, server => Ok(server.scan_regions(start_key, end_key, limit)))
    }

    async fn ask_split(&self, region: Region, split_count: u32) -> Result<Vec<SplitId>, PdError> {
        on_leader!(self, server => server.ask_split(&region, split_count).await)
    }

    async fn report_split(&self, regions: Vec<Region>) -> Result<(), PdError> {
        on_leader!(self, server => server.report_split(regions.clone()).await)
    }

    async fn get_gc_safe_point(&self) -> Result<TimeStamp, PdError> {
        on_leader!(self, server => Ok(server.gc_safe_point()))
    }

    async fn update_gc_safe_point(&self, safe_point: TimeStamp) -> Result<TimeStamp, PdError> {
        on_leader!(self, server => server.update_gc_safe_point(safe_point).await)
    }

    async fn bounds(&self) -> Result<PdBounds, PdError> {
        on_leader!(self, server => Ok(server.bounds()))
    }

    async fn get_config(&self, prefix: &str) -> Result<Vec<ConfigEntry>, PdError> {
        on_leader!(self, server => Ok(server.get_config(prefix)))
    }

    async fn put_config(&self, entries: Vec<ConfigEntry>) -> Result<(), PdError> {
        on_leader!(self, server => server.put_config(entries.clone()).await)
    }

    async fn watch_schema(&self) -> Result<BoxStream<'static, i64>, PdError> {
        // Every member hears of every version; whoever is first counts.
        let watchers = self.servers.iter().map(|one| WatchStream::new(one.watch_schema()));
        let grown = |newest: &mut i64, version: i64| {
            let news = (version > *newest).then_some(version);
            *newest = version.max(*newest);
            std::future::ready(Some(news))
        };
        let versions = select_all(watchers).scan(i64::MIN, grown);
        Ok(versions.filter_map(std::future::ready).boxed())
    }

    async fn notify_schema(&self, schema_version: i64) -> Result<(), PdError> {
        on_leader!(self, server => server.notify_schema(schema_version).await)
    }

    async fn steer(&self, order: Order) -> Result<String, PdError> {
        on_leader!(self, server => server.steer(order.clone()).await)
    }

    async fn scatter_regions(
        &self,
        region_ids: Vec<u64>,
        group: &str,
    ) -> Result<Vec<u64>, PdError> {
        on_leader!(self, server => server.scatter_regions(&region_ids, group).await)
    }
}
