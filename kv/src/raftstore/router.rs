//! The store's front door for requests: [`RaftKv`] over the Raft thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use cairn_engine::{Cf, DamagedFile, EngineError, EngineSnapshot, KvEngine, WriteBatch};
use cairn_pd_client::PdClient;
use cairn_proto::{kv, meta, pd};
use cairn_types::TimeStamp;
use tokio::sync::oneshot;

use super::apply::{Callback, InflightBytes};
use super::clock::Clock;
use super::command::{self, PeerChange, SplitPiece};
use super::error::RegionError;
use super::flow::FlowControl;
use super::ids::{RegionId, StoreId, epoch_of};
use super::load::Touched;
use super::metrics::{RaftMetrics, add};
use super::peer::{PendingRead, PendingReplicaRead};
use super::read::Regions;
use super::space::{SpaceLevel, SpaceWatch};
use super::store::{CollectJob, StoreMessage};
use super::worker::Mailbox;
use super::{
    Busy, OnProposed, RaftKv, ReadGuard, RegionContext, RegionSnapshot, ReplicaRead, ReplicaView,
};
use crate::gc::{Round, Walk};
use crate::mvcc::MvccError;
use crate::mvcc::dead_ranges::DeadRanges;

/// How long the state of all peers may take.
const INFOS_TIMEOUT: Duration = Duration::from_secs(2);
/// Largest write that may become one entry; a message between stores holds it.
const ENTRY_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Requests to the regions of this store.
pub struct RaftRouter {
    pub(super) store_id: StoreId,
    pub(super) mailbox: Mailbox,
    pub(super) regions: Arc<Regions>,
    pub(super) engine: Arc<dyn KvEngine>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) pd: Option<Arc<dyn PdClient>>,
    pub(super) inflight: Arc<AtomicU64>,
    pub(super) inflight_max: u64,
    pub(super) flow: Arc<FlowControl>,
    pub(super) space: Arc<SpaceWatch>,
    pub(super) dead: Arc<DeadRanges>,
    pub(super) metrics: Arc<RaftMetrics>,
}

impl RaftRouter {
    fn send(&self, message: StoreMessage) -> Result<(), RegionError> {
        self.mailbox.try_send(message).map_err(|_| RegionError::busy("raft mailbox is full"))
    }

    /// Changes the members of a region this store leads, several through a joint state;
    /// answers the region after the first step.
    pub async fn change_peers(
        &self,
        region_id: RegionId,
        changes: Vec<PeerChange>,
    ) -> Result<meta::Region, RegionError> {
        let (answer, answered) = oneshot::channel();
        let callback = Callback::Regions(answer);
        self.send(StoreMessage::ChangePeers { region_id: region_id.0, changes, callback })?;
        let regions = answered.await.map_err(|_| RegionError::StaleCommand)??;
        regions.into_iter().next().ok_or(RegionError::RegionNotFound(region_id))
    }

    /// The engine's data as of now, whoever leads what.
    pub fn engine_view(&self) -> Arc<dyn EngineSnapshot> {
        self.engine.snapshot()
    }

    /// A round of garbage collection on this store's replicas, wherever the walk is; answers
    /// the walk to go on with.
    pub async fn collect_garbage(
        &self,
        walk: Walk,
    ) -> Result<(Walk, Result<Round, MvccError>), RegionError> {
        let (answer, answered) = oneshot::channel();
        self.send(StoreMessage::Collect(CollectJob { walk, answer }))?;
        answered.await.map_err(|_| RegionError::StaleCommand)
    }

    /// The region's replica here holds something else than the others: it is built anew.
    pub fn rebuild_replica(&self, region_id: RegionId) {
        let Some(delegate) = self.regions.get(region_id.0) else { return };
        let key = Bytes::from(crate::keys::region_data_range(&delegate.region.load()).0);
        self.mailbox.answer(StoreMessage::Damaged(vec![DamagedFile {
            cf: Cf::Write,
            first_key: key.clone(),
            last_key: key,
            reason: "the replica differs from the others".to_owned(),
        }]));
    }

    /// Asks a leader of this store to hand over; it may not succeed.
    pub fn transfer_leader(&self, region_id: RegionId, peer_id: u64) -> Result<(), RegionError> {
        self.send(StoreMessage::TransferLeader { region_id: region_id.0, peer_id })
    }

    /// Does what PD might want of a region this store leads, if it still fits.
    pub fn take_step(&self, step: pd::RegionHeartbeatResponse) -> Result<(), RegionError> {
        self.send(StoreMessage::PdStep(step))
    }

    /// Whether followers of regions led here want to know which timestamps are closed.
    pub fn has_subscribers(&self) -> bool {
        self.regions.subscribed.load(Ordering::Relaxed) > 0
    }

    /// Closes a timestamp that PD has just given in the regions led here that somebody subscribed
    /// to, as far as that is possible.
    pub fn close_timestamp(&self, ts: TimeStamp) {
        let fetched_by = self.clock.now();
        // A full mailbox: there is a next second.
        let _ = self.send(StoreMessage::CloseTimestamp { ts, fetched_by });
    }

    /// A view of a replica that holds everything up to the timestamp.
    fn try_closed_snapshot(
        &self,
        context: &RegionContext,
        read_ts: u64,
    ) -> Result<Option<RegionSnapshot>, RegionError> {
        if context.deadline.is_some_and(|deadline| deadline.has_passed(self.clock.now())) {
            return Err(RegionError::DeadlineExceeded);
        }
        let view = self.regions.try_closed_view(context, read_ts, || self.engine.snapshot())?;
        add(&self.metrics.closed_reads, u64::from(view.is_some()));
        Ok(view)
    }

    /// Reads of the past go on here: the replica should hold enough for the next one.
    fn subscribe(&self, region_id: RegionId, is_covered: bool) {
        add(&self.metrics.stale_reads_missed, u64::from(!is_covered));
        let Some(delegate) = self.regions.get(region_id.0) else { return };
        if delegate.closed.should_subscribe(is_covered, self.clock.now()) {
            // A full mailbox: the next read asks again.
            let _ = self.send(StoreMessage::Subscribe { region_id: region_id.0 });
        }
    }

    /// The region behind a context that this store leads.
    fn led_region(&self, context: &RegionContext) -> Result<Arc<meta::Region>, RegionError> {
        let delegate = self
            .regions
            .get(context.region_id.0)
            .ok_or(RegionError::RegionNotFound(context.region_id))?;
        let region = delegate.region.load_full();
        if !delegate.leads() {
            return Err(RegionError::NotLeader { region_id: context.region_id, leader: None });
        }
        super::read::check_context(context, &region, delegate.peer_id)?;
        Ok(region)
    }
}

/// The new regions of a split, from keys and the ids PD gave.
pub(super) fn split_pieces(
    keys: Vec<Bytes>,
    ids: Vec<cairn_proto::pd::SplitId>,
) -> Vec<SplitPiece> {
    keys.into_iter()
        .zip(ids)
        .map(|(end_key, id)| SplitPiece {
            end_key,
            region_id: id.new_region_id,
            peer_ids: id.new_peer_ids,
        })
        .collect()
}

#[async_trait]
impl RaftKv for RaftRouter {
    fn destroy_range(&self, start: &[u8], end: &[u8]) -> Result<(), EngineError> {
        crate::gc::destroy::destroy_range(&*self.engine, start, end)
    }

    fn try_local_snapshot(
        &self,
        context: &RegionContext,
    ) -> Result<Option<RegionSnapshot>, RegionError> {
        if context.deadline.is_some_and(|deadline| deadline.has_passed(self.clock.now())) {
            return Err(RegionError::DeadlineExceeded);
        }
        let clock = self.clock.as_ref();
        let view = self.regions.try_local_view(context, clock, || self.engine.snapshot())?;
        add(&self.metrics.lease_reads, u64::from(view.is_some()));
        Ok(view)
    }

    fn try_live_view(
        &self,
        context: &RegionContext,
    ) -> Result<Option<RegionSnapshot>, RegionError> {
        if context.deadline.is_some_and(|deadline| deadline.has_passed(self.clock.now())) {
            return Err(RegionError::DeadlineExceeded);
        }
        let clock = self.clock.as_ref();
        let view = self.regions.try_local_view(context, clock, || self.engine.live())?;
        add(&self.metrics.lease_reads, u64::from(view.is_some()));
        Ok(view.map(|view| RegionSnapshot { is_live: true, ..view }))
    }

    fn is_current(&self, view: &RegionSnapshot) -> bool {
        !view.is_live || self.regions.is_current(view, self.clock.as_ref())
    }

    async fn snapshot(&self, context: &RegionContext) -> Result<RegionSnapshot, RegionError> {
        if let Some(view) = self.try_local_snapshot(context)? {
            return Ok(view);
        }
        let (answer, answered) = oneshot::channel();
        self.send(StoreMessage::Read(PendingRead { context: context.clone(), answer }))?;
        // Without an answer the store is stopping; nothing was done.
        answered.await.unwrap_or(Err(RegionError::RegionNotFound(context.region_id)))
    }

    async fn replica_snapshot(
        &self,
        context: &RegionContext,
        read: ReplicaRead,
    ) -> Result<ReplicaView, RegionError> {
        let closed = self.try_closed_snapshot(context, read.read_ts)?;
        if context.stale_read {
            self.subscribe(context.region_id, closed.is_some());
        }
        if let Some(snapshot) = closed {
            return Ok(ReplicaView { snapshot, pending: Vec::new() });
        }
        let (answer, answered) = oneshot::channel();
        let context = context.clone();
        let region_id = context.region_id;
        self.send(StoreMessage::ReplicaRead(PendingReplicaRead { context, read, answer }))?;
        // Without an answer the store is stopping; nothing was done.
        answered.await.unwrap_or(Err(RegionError::RegionNotFound(region_id)))
    }

    fn set_read_guard(&self, guard: Arc<dyn ReadGuard>) {
        self.regions.set_guard(guard);
    }

    async fn write(
        &self,
        context: &RegionContext,
        batch: WriteBatch,
        on_proposed: Option<OnProposed>,
    ) -> Result<(), RegionError> {
        if self.space.level() == SpaceLevel::Exhausted {
            // Not even what frees space may grow the log now; the reserve is for what is
            // in the log already.
            return Err(RegionError::DiskFull(self.store_id));
        }
        if let Some(delegate) = self.regions.get(context.region_id.0) {
            let (keys, bytes) = (batch.len() as u64, batch.size_bytes() as u64);
            delegate.load.write(keys, bytes, || Touched::of_batch(&batch));
        }
        let data = command::encode_write(context.epoch, &batch);
        drop(batch);
        if data.len() > ENTRY_BYTES_MAX {
            return Err(RegionError::busy("a write beyond 32 MiB cannot be one entry"));
        }
        let bytes = data.len() as u64;
        let inflight = InflightBytes::acquire(&self.inflight, bytes, self.inflight_max)
            .ok_or_else(|| RegionError::busy("proposals wait to be applied"))?;
        let (answer, answered) = oneshot::channel();
        let callback = Callback::Write(answer, inflight, on_proposed);
        self.send(StoreMessage::Write { context: context.clone(), data, callback })?;
        // Without an answer the store is stopping: the fate is unknown.
        answered.await.unwrap_or(Err(RegionError::StaleCommand))
    }

    fn local_leader_region(&self, raw_key: &[u8]) -> Option<RegionContext> {
        self.regions.local_leader_region(raw_key)
    }

    async fn split(
        &self,
        context: &RegionContext,
        raw_keys: Vec<Bytes>,
    ) -> Result<Vec<meta::Region>, RegionError> {
        let region = self.led_region(context)?;
        let keys = super::store::clean_split_keys(&region, raw_keys);
        if keys.is_empty() {
            return Ok(vec![(*region).clone()]);
        }
        let pd = self.pd.as_ref().ok_or_else(|| RegionError::busy("no PD to ask for ids"))?;
        let ids = pd
            .ask_split((*region).clone(), keys.len() as u32)
            .await
            .map_err(|error| RegionError::busy(format!("PD gives no ids: {error}")))?;
        if ids.len() != keys.len() {
            return Err(RegionError::busy("PD gave too few ids"));
        }
        let (answer, answered) = oneshot::channel();
        let context = RegionContext { epoch: epoch_of(&region), ..context.clone() };
        self.send(StoreMessage::Split {
            context,
            pieces: split_pieces(keys, ids),
            callback: Callback::Regions(answer),
        })?;
        answered.await.unwrap_or(Err(RegionError::StaleCommand))
    }

    fn store_id(&self) -> StoreId {
        self.store_id
    }

    fn region_infos(&self) -> Vec<kv::RegionPeerInfo> {
        let (answer, answered) = crossbeam::channel::bounded(1);
        if self.send(StoreMessage::Infos(answer)).is_err() {
            return Vec::new();
        }
        answered.recv_timeout(INFOS_TIMEOUT).unwrap_or_default()
    }

    fn is_busy(&self) -> Option<Busy> {
        let reason = if self.mailbox.is_full() {
            "raft mailbox is full"
        } else if self.inflight.load(Ordering::Relaxed) >= self.inflight_max {
            "proposals wait to be applied"
        } else if self.flow.is_closed() {
            "the engine's compaction is behind"
        } else {
            return None;
        };
        Some(Busy { reason: reason.to_owned(), backoff_ms: 20 })
    }

    fn dead_ranges(&self) -> Option<Arc<DeadRanges>> {
        Some(self.dead.clone())
    }

    fn admit_data(&self, bytes: u64) -> Result<Duration, RegionError> {
        if self.space.level() != SpaceLevel::Normal {
            add(&self.metrics.disk_full_refusals, 1);
            return Err(RegionError::DiskFull(self.store_id));
        }
        Ok(self.flow.admit(bytes, self.clock.now())?)
    }
}
