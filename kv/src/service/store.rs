//! [`StoreService`]: a store as its clients call it, in the process or over gRPC.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use cairn_kv_client::{CoprocessorStream, KvStoreService, TransportError};
use cairn_proto::kv::{self, kv_request, kv_response};
use cairn_types::TimeStamp;
use parking_lot::Mutex;

use super::metrics::Metrics;
use super::read_pool::ReadPool;
use super::reads::{ReadAt, Reads};
use crate::coprocessor::Endpoint;
use crate::gc::VersionFilter;
use crate::mvcc::SHARERS_MAX;
use crate::mvcc::keys::range_bounds;
use crate::raftstore::{
    Clock, Deadline, PeerId, RaftKv, RegionContext, RegionEpoch, RegionError, RegionId, StoreId,
};
use crate::txn::deadlock::{DeadlockDetector, Wait};
use crate::txn::lock_waits::LockWait;
use crate::txn::{MaxTs, Scheduler, TsoSource, scheduler};

/// Waits that one answer shows.
const LOCK_WAITS_SHOWN_MAX: usize = 4_096;

/// Serves a store's regions.
pub struct StoreService {
    kv: Arc<dyn RaftKv>,
    clock: Arc<dyn Clock>,
    reads: Reads,
    max_ts: Arc<MaxTs>,
    scheduler: Arc<Scheduler>,
    endpoint: Endpoint,
    metrics: Arc<Metrics>,
    /// Counts only while this store leads the first region.
    deadlocks: Mutex<DeadlockDetector>,
}

impl StoreService {
    /// A service over `kv`. Without `tso` one-phase commit always falls back. Records below the
    /// safe point of `collected` may be gone.
    pub fn new(
        kv: Arc<dyn RaftKv>,
        clock: Arc<dyn Clock>,
        tso: Option<Arc<dyn TsoSource>>,
        pool: Arc<ReadPool>,
        collected: VersionFilter,
    ) -> StoreService {
        let max_ts = Arc::new(MaxTs::default());
        kv.set_read_guard(Arc::clone(&max_ts) as _);
        let scheduler = Scheduler::new(
            Arc::clone(&kv),
            Arc::clone(&clock),
            Arc::clone(&max_ts),
            tso,
            collected,
        );
        let endpoint = Endpoint::new(
            Arc::clone(&kv),
            Arc::clone(&clock),
            Arc::clone(&max_ts),
            Arc::clone(&pool),
        );
        let reads = Reads::new(Arc::clone(&kv), Arc::clone(&max_ts), pool);
        let (metrics, deadlocks) = (Arc::default(), Mutex::default());
        StoreService { kv, clock, reads, max_ts, scheduler, endpoint, metrics, deadlocks }
    }

    /// The highest timestamp read at since the store started.
    pub fn max_read_ts(&self) -> TimeStamp {
        self.max_ts.get()
    }

    /// Counters for the status server.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Transaction commands under way.
    pub fn running_commands(&self) -> usize {
        self.scheduler.running()
    }

    /// Transactions that wait for locks.
    pub fn lock_waiters(&self) -> usize {
        self.scheduler.waiting()
    }

    /// Memory of locks that only leaders here know.
    pub fn lock_bytes(&self) -> usize {
        self.scheduler.lock_bytes()
    }

    /// Lock commands answered before their locks were replicated, so far.
    pub fn pipelined_locks(&self) -> u64 {
        self.scheduler.pipelined_locks()
    }

    fn region_context(&self, context: &kv::Context) -> Result<RegionContext, RegionError> {
        region_context(&*self.kv, &*self.clock, context)
    }

    async fn dispatch(
        &self,
        context: &kv::Context,
        command: kv_request::Cmd,
    ) -> Result<kv_response::Cmd, RegionError> {
        let region = self.region_context(context)?;
        let resolved = &context.resolved_locks;
        if scheduler::is_scheduled(&command) {
            return self.scheduler.run(region, command).await;
        }
        match command {
            kv_request::Cmd::Get(request) => {
                let at = ReadAt { read_ts: TimeStamp(request.version), resolved };
                self.reads.get(&region, &request.key, at).await.map(kv_response::Cmd::Get)
            }
            kv_request::Cmd::BatchGet(request) => {
                let response = self.reads.batch_get(&region, request, resolved.clone()).await?;
                Ok(kv_response::Cmd::BatchGet(response))
            }
            kv_request::Cmd::Scan(request) => {
                let response = self.reads.scan(&region, request, resolved.clone()).await?;
                Ok(kv_response::Cmd::Scan(response))
            }
            kv_request::Cmd::ScanLock(request) => {
                let response = self.reads.scan_lock(&region, request).await?;
                Ok(kv_response::Cmd::ScanLock(response))
            }
            kv_request::Cmd::Refresh(request) => {
                let response = self.reads.refresh(&region, request).await?;
                Ok(kv_response::Cmd::Refresh(response))
            }
            kv_request::Cmd::SplitRegion(request) => {
                let regions = self.kv.split(&region, request.keys).await?;
                Ok(kv_response::Cmd::SplitRegion(kv::SplitRegionResponse { regions }))
            }
            kv_request::Cmd::DeleteRange(request) => {
                self.destroy_range(&request).await?;
                Ok(kv_response::Cmd::DeleteRange(kv::DeleteRangeResponse {}))
            }
            kv_request::Cmd::DetectDeadlock(request) => {
                let response = self.detect_deadlock(&region, request).await?;
                Ok(kv_response::Cmd::DetectDeadlock(response))
            }
            kv_request::Cmd::LockWaits(_) => {
                let waits = self.scheduler.lock_waits(LOCK_WAITS_SHOWN_MAX);
                let of_waiter = |(key, wait): (Bytes, LockWait)| {
                    let LockWait { start_ts, holders, tag, .. } = wait;
                    holders.into_iter().map(move |holder| kv::LockWait {
                        waiter: start_ts.0,
                        holder: holder.0,
                        key: key.clone(),
                        tag: tag.clone(),
                    })
                };
                let waits = waits.into_iter().flat_map(of_waiter).take(LOCK_WAITS_SHOWN_MAX);
                let waits = waits.collect();
                Ok(kv_response::Cmd::LockWaits(kv::LockWaitsResponse { waits }))
            }
            _ => unreachable!("the scheduler takes every other command"),
        }
    }

    /// Only the leader of the first region answers, so that all are asked of one store.
    async fn detect_deadlock(
        &self,
        region: &RegionContext,
        request: kv::DetectDeadlockRequest,
    ) -> Result<kv::DetectDeadlockResponse, RegionError> {
        let view = match self.kv.try_local_snapshot(region)? {
            Some(view) => view,
            None => self.kv.snapshot(region).await?,
        };
        if !view.region.start_key.is_empty() {
            return Err(RegionError::KeyNotInRegion {
                key: Bytes::new(),
                region_id: region.region_id,
            });
        }
        let waiter = TimeStamp(request.waiter);
        let mut deadlocks = self.deadlocks.lock();
        if request.has_given_up {
            deadlocks.give_up(waiter);
            return Ok(kv::DetectDeadlockResponse::default());
        }
        let now = self.clock.now();
        let holders = std::iter::once(request.holder).chain(request.more_holders);
        let mut circles = holders.take(SHARERS_MAX).map(|holder| {
            let (key, tag) = (request.key.clone(), request.tag.clone());
            deadlocks.detect(now, Wait { waiter, holder: TimeStamp(holder), key, tag })
        });
        let circle = circles.find(|circle| !circle.is_empty()).unwrap_or_default();
        let wait = |wait: Wait| kv::LockWait {
            waiter: wait.waiter.0,
            holder: wait.holder.0,
            key: wait.key,
            tag: wait.tag,
        };
        let cycle = circle.into_iter().map(wait).collect();
        Ok(kv::DetectDeadlockResponse { cycle })
    }

    /// Removes everything in a range from this store alone, not by Raft: the caller knows
    /// that nobody can reach it any more.
    async fn destroy_range(&self, request: &kv::DeleteRangeRequest) -> Result<(), RegionError> {
        if request.start_key.is_empty() || request.end_key.is_empty() {
            return Err(RegionError::busy("a range to destroy has two ends"));
        }
        let (lower, upper) = range_bounds(&request.start_key, &request.end_key);
        let kv = Arc::clone(&self.kv);
        let destroy = tokio::task::spawn_blocking(move || kv.destroy_range(&lower, &upper));
        destroy.await.map_err(|_| RegionError::busy("the store is stopping"))?.map_err(|error| {
            tracing::error!(%error, "a range is not destroyed");
            RegionError::busy("storage failed")
        })
    }
}

/// The store's own form of a request's context.
pub(crate) fn region_context(
    kv: &dyn RaftKv,
    clock: &dyn Clock,
    context: &kv::Context,
) -> Result<RegionContext, RegionError> {
    let peer = context.peer.as_ref();
    let requested = StoreId(peer.map_or(0, |peer| peer.store_id));
    if requested != StoreId(0) && requested != kv.store_id() {
        return Err(RegionError::StoreNotMatch { requested, actual: kv.store_id() });
    }
    let deadline = (context.timeout_ms > 0)
        .then(|| Deadline(clock.now().plus(Duration::from_millis(context.timeout_ms.into()))));
    Ok(RegionContext {
        region_id: RegionId(context.region_id),
        epoch: context.epoch.as_ref().map(RegionEpoch::from).unwrap_or_default(),
        peer: PeerId(peer.map_or(0, |peer| peer.id)),
        // A client's term is a hint; commands check the term of their own view.
        term: 0,
        deadline,
        replica_read: context.replica_read,
        stale_read: context.stale_read,
        priority: context.priority(),
    })
}

/// An answer that says the request did not reach its region.
fn refused(error: RegionError) -> kv::KvResponse {
    kv::KvResponse { region_error: Some(error.into()), cmd: None }
}

#[async_trait]
impl KvStoreService for StoreService {
    async fn call(&self, request: kv::KvRequest) -> Result<kv::KvResponse, TransportError> {
        let context = request.context.unwrap_or_default();
        let Some(command) = request.cmd else {
            let reason = "request without a command".to_string();
            return Err(TransportError::Malformed { address: String::new(), reason });
        };
        self.metrics.count(&command);
        Ok(match self.dispatch(&context, command).await {
            Ok(response) => kv::KvResponse { region_error: None, cmd: Some(response) },
            Err(error) => {
                self.metrics.count_region_error();
                refused(error)
            }
        })
    }

    fn try_get_now(
        &self,
        context: &kv::Context,
        key: &Bytes,
        version: u64,
    ) -> Option<kv::KvResponse> {
        let at = ReadAt { read_ts: TimeStamp(version), resolved: &context.resolved_locks };
        let outcome = self
            .region_context(context)
            .and_then(|region| self.reads.try_get(&region, key, at))
            .transpose()?;
        if context.replica_read && matches!(outcome, Err(RegionError::NotLeader { .. })) {
            // It can be answered, but not now.
            return None;
        }
        self.metrics.count_get();
        Some(match outcome {
            Ok(get) => kv::KvResponse { region_error: None, cmd: Some(kv_response::Cmd::Get(get)) },
            Err(error) => refused(error),
        })
    }

    async fn coprocessor(
        &self,
        request: kv::CoprocessorRequest,
    ) -> Result<CoprocessorStream, TransportError> {
        self.metrics.count_coprocessor();
        Ok(self.endpoint.run(request))
    }

    async fn store_info(&self) -> Result<kv::StoreInfoResponse, TransportError> {
        Ok(kv::StoreInfoResponse {
            store_id: self.kv.store_id().0,
            regions: self.kv.region_infos(),
        })
    }
}
