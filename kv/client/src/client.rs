//! The client object: what its parts share, and the operations on whole regions.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use cairn_pd_client::PdClient;
use cairn_pd_client::backoff::RetryBudget;
use cairn_proto::kv::{Context, DeleteRangeRequest, KvRequest, Priority, ScanLockRequest};
use cairn_proto::meta::Peer;
use cairn_types::TimeStamp;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::backoff::{Deadline, Retrier};
use crate::dist_scan::{DistScan, DistScanRequest};
use crate::error::KvError;
use crate::lock_resolver::StatusCache;
use crate::region_cache::{CachedRegion, KeyRange, RegionCache};
use crate::request::{Cmd, RequestOptions, SendError, expect_response};
use crate::scope::RequestScope;
use crate::snapshot::Snapshot;
use crate::transport::StoreConnector;
use crate::txn::{BulkOptions, Transaction};
use crate::visibility::Visibility;

/// Repeats a client may have saved up: enough to ride out the failure of a store
/// with a thousand statements under way.
const RETRY_BURST_MAX: u32 = 2_000;

/// Settings of a client.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// Time one operation may take with all its attempts.
    pub request_timeout_ms: u64,
    /// Time a prewrite or a read waits for other transactions' locks.
    pub lock_wait_timeout_ms: u64,
    /// Time spent after the deadline to learn what became of a commit.
    pub commit_check_timeout_ms: u64,
    /// Requests of one operation under way at once.
    pub concurrency: usize,
    /// Commits and rollbacks finished behind their caller's back, at most.
    pub background_tasks_max: usize,
    /// Bytes of keys and values in one transaction.
    pub txn_size_bytes_max: u64,
    /// Bytes of one key with its value.
    pub entry_size_bytes_max: u64,
    /// Commit in one round when a single region holds the transaction.
    pub one_pc: bool,
    /// Answer once all locks of a transaction stand, and commit them afterwards.
    pub async_commit: bool,
    /// Where the client is, as the label `zone` of stores tells it; empty: nobody said.
    pub zone: String,
}

impl Default for ClientConfig {
    fn default() -> ClientConfig {
        ClientConfig {
            request_timeout_ms: 20_000,
            lock_wait_timeout_ms: 20_000,
            commit_check_timeout_ms: 10_000,
            concurrency: 16,
            background_tasks_max: 256,
            txn_size_bytes_max: 100 << 20,
            entry_size_bytes_max: 6 << 20,
            one_pc: true,
            async_commit: true,
            zone: String::new(),
        }
    }
}

/// Everything a SQL node needs of the KV tier.
pub struct KvClient {
    pub(crate) pd: Arc<dyn PdClient>,
    pub(crate) cache: RegionCache,
    pub(crate) config: ClientConfig,
    pub(crate) budget: Arc<RetryBudget>,
    pub(crate) statuses: StatusCache,
    pub(crate) background: TaskTracker,
    pub(crate) background_slots: Arc<Semaphore>,
    pub(crate) stopping: CancellationToken,
    pub(crate) visibility: Arc<Visibility>,
    seed: AtomicU64,
}

impl KvClient {
    /// A client with empty caches; nothing is contacted yet.
    pub fn new(
        pd: Arc<dyn PdClient>,
        connector: Arc<dyn StoreConnector>,
        config: ClientConfig,
    ) -> Arc<KvClient> {
        Arc::new(KvClient {
            cache: RegionCache::new(pd.clone(), connector, config.zone.clone()),
            pd,
            budget: Arc::new(RetryBudget::new(RETRY_BURST_MAX)),
            statuses: StatusCache::default(),
            background: TaskTracker::new(),
            background_slots: Arc::new(Semaphore::new(config.background_tasks_max)),
            stopping: CancellationToken::new(),
            visibility: Arc::default(),
            config,
            seed: AtomicU64::new(1),
        })
    }

    /// The placement driver this client asks.
    pub fn pd(&self) -> &Arc<dyn PdClient> {
        &self.pd
    }

    /// The client's settings.
    pub fn config(&self) -> &ClientConfig {
        &self.config
    }

    /// A fresh timestamp.
    pub async fn current_ts(&self) -> Result<TimeStamp, KvError> {
        match self.pd.try_get_ts() {
            Some(ts) => Ok(ts),
            None => Ok(self.pd.get_ts().await?),
        }
    }

    /// The smallest timestamp of an open read view or transaction.
    pub fn oldest_open_ts(&self) -> Option<TimeStamp> {
        self.visibility.oldest()
    }

    /// From here on nothing is read below `safe_point`: versions may be collected there.
    /// It never goes back.
    pub fn raise_safe_point(&self, safe_point: TimeStamp) {
        self.visibility.raise(safe_point);
    }

    /// Below it nothing is read.
    pub fn safe_point(&self) -> TimeStamp {
        self.visibility.safe_point()
    }

    /// A read view at `start_ts`; [`TimeStamp::MAX`] reads the newest versions.
    pub fn snapshot(self: &Arc<KvClient>, start_ts: TimeStamp) -> Snapshot {
        Snapshot::new(self.clone(), start_ts)
    }

    /// An optimistic transaction that reads at `start_ts`.
    pub fn begin(self: &Arc<KvClient>, start_ts: TimeStamp) -> Transaction {
        Transaction::new(self.clone(), start_ts, false)
    }

    /// A transaction that locks what it changes before it commits.
    pub fn begin_pessimistic(self: &Arc<KvClient>, start_ts: TimeStamp) -> Transaction {
        Transaction::new(self.clone(), start_ts, true)
    }

    /// An optimistic transaction whose writes leave memory as they come.
    pub fn begin_bulk(
        self: &Arc<KvClient>,
        start_ts: TimeStamp,
        options: BulkOptions,
    ) -> Transaction {
        Transaction::new(self.clone(), start_ts, false).in_bulk(options)
    }

    /// Runs a plan fragment next to the data of the ranges.
    pub fn dist_scan(self: &Arc<KvClient>, request: DistScanRequest) -> DistScan {
        DistScan::start(self.clone(), request)
    }

    /// The region that holds the key.
    pub async fn locate(&self, key: &[u8]) -> Result<Arc<CachedRegion>, KvError> {
        self.cache.locate_patiently(key, &mut self.retrier()).await
    }

    /// The regions that cover the range, in key order.
    pub async fn locate_range(&self, range: &KeyRange) -> Result<Vec<Arc<CachedRegion>>, KvError> {
        Ok(self.cache.locate_range(range).await?)
    }

    /// Has every store remove everything in the range, not by Raft. Only for ranges that
    /// nobody can reach any more (tables dropped below the safe point). An error means that
    /// some stores have not done it; repeat then.
    pub async fn destroy_range(&self, range: KeyRange) -> Result<(), KvError> {
        for (store, _) in self.pd.get_all_stores().await? {
            let failed = |reason: String| KvError::RegionUnavailable {
                reason: format!("store {} does not destroy a range: {reason}", store.id),
            };
            let peer = Peer { store_id: store.id, ..Peer::default() };
            let KeyRange { start: start_key, end: end_key } = range.clone();
            let request = KvRequest {
                // Without a region: this store alone, and no other at its address.
                context: Some(Context { peer: Some(peer), ..Context::default() }),
                cmd: Some(Cmd::DeleteRange(DeleteRangeRequest { start_key, end_key })),
            };
            let service = self.cache.store(store.id).await?;
            let answer = service.call(request).await.map_err(|error| failed(error.to_string()))?;
            if let Some(error) = answer.region_error {
                return Err(failed(error.message));
            }
        }
        Ok(())
    }

    /// Resolves every lock older than `safe_point` in the range, so that versions
    /// below it can be collected. Answers the number of locks found. Nobody waits for this: it
    /// stands behind other reads in the stores.
    pub async fn resolve_locks_below(
        &self,
        safe_point: TimeStamp,
        range: KeyRange,
    ) -> Result<u64, KvError> {
        /// Locks asked for at once.
        const SCAN_LOCKS_MAX: u32 = 1024;
        let scope = RequestScope::with_priority(Priority::Low);
        let mut found = 0;
        let mut start = range.start.clone();
        loop {
            let mut retrier = self.retrier().within(&scope);
            let region = self.cache.locate_patiently(&start, &mut retrier).await?;
            let rest = KeyRange { start: start.clone(), end: range.end.clone() };
            let part = rest.intersect(&region.range());
            let build = || {
                Cmd::ScanLock(ScanLockRequest {
                    max_ts: safe_point.0,
                    start_key: part.start.clone(),
                    end_key: part.end.clone(),
                    limit: SCAN_LOCKS_MAX,
                })
            };
            let options = RequestOptions::default();
            let response =
                match self.cache.send_to_region(region, &options, &mut retrier, &build).await {
                    Ok(response) => expect_response!(response, ScanLock)?,
                    Err(SendError::Regroup) => continue,
                    Err(SendError::Failed(error)) => return Err(error),
                };
            found += response.locks.len() as u64;
            for lock in &response.locks {
                self.resolve_lock_patiently(lock, TimeStamp::ZERO, &mut retrier).await?;
            }
            match response.locks.last() {
                Some(last) if response.locks.len() >= SCAN_LOCKS_MAX as usize => {
                    start = key_after(&last.key);
                }
                _ if part.end.is_empty() || part.end == range.end => return Ok(found),
                _ => start = part.end,
            }
        }
    }

    /// Waits until commits and rollbacks that go on behind their callers' backs are
    /// done, at most `timeout`; what is left then is resolved by later readers.
    pub async fn shutdown(&self, timeout: Duration) {
        self.background.close();
        if tokio::time::timeout(timeout, self.background.wait()).await.is_err() {
            tracing::warn!("gave up waiting for background commits");
        }
        self.stopping.cancel();
    }

    /// The state of one operation's attempts.
    pub(crate) fn retrier(&self) -> Retrier {
        self.retrier_for(self.config.request_timeout_ms)
    }

    /// As [`KvClient::retrier`], with another time limit.
    pub(crate) fn retrier_for(&self, timeout_ms: u64) -> Retrier {
        self.retrier_until(Deadline::after(Duration::from_millis(timeout_ms)))
    }

    /// As [`KvClient::retrier`], for one of several requests that end together.
    pub(crate) fn retrier_until(&self, deadline: Deadline) -> Retrier {
        Retrier::new(deadline, self.budget.clone(), self.seed.fetch_add(1, Ordering::Relaxed))
    }
}

/// The smallest key behind `key`.
pub(crate) fn key_after(key: &[u8]) -> Bytes {
    let mut after = Vec::with_capacity(key.len() + 1);
    after.extend_from_slice(key);
    after.push(0);
    after.into()
}
