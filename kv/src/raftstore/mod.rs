//! The Raft store: every region of a store as a Raft group, driven in batches.
//!
//! The transaction layer sees [`RaftKv`] only: a consistent view of a region to read,
//! and a batch to write through Raft exactly once.

mod apply;
pub mod clock;
mod closed;
mod command;
pub mod config;
mod disk;
pub mod driven;
pub mod error;
mod flow;
mod heartbeat;
pub mod ids;
mod leader_locks;
mod lease;
mod liveness;
pub mod load;
mod log;
mod merge;
pub mod metrics;
mod peer;
mod read;
mod router;
mod running;
pub mod snapshot;
pub mod space;
mod split;
pub mod state;
mod store;
#[cfg(test)]
mod tests;
mod threads;
pub mod transport;
mod watch;
mod worker;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use cairn_engine::{EngineError, EngineSnapshot, WriteBatch};
use cairn_proto::{kv, meta};
use cairn_types::TimeStamp;

use crate::mvcc::dead_ranges::DeadRanges;

pub use clock::{Clock, Deadline, ManualClock, MonotonicTime, SystemClock};
pub use closed::CLOSE_EVERY;
pub use command::{ConfChangeKind, PeerChange};
pub use config::{OnEngineFailure, RaftStoreConfig};
pub use error::{RaftStoreError, RegionError};
pub use ids::{PeerId, RegionEpoch, RegionId, StoreId, epoch_of};
pub use leader_locks::{LeaderLocks, LockMemory, Replicated, Settled};
pub use load::{LoadThresholds, RegionLoad, Touched};
pub use metrics::RaftMetrics;
pub use router::RaftRouter;
pub use running::{RaftStore, RaftStoreParts};
pub use store::OutgoingSnapshot;
pub use transport::{
    GrpcTransport, LocalNetwork, LocalTransport, NoTransport, RaftInbox, Transport,
};
pub use worker::Mailbox;

/// Where a request is meant to go, as its client saw it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RegionContext {
    /// The region.
    pub region_id: RegionId,
    /// Its epoch as the client knows it.
    pub epoch: RegionEpoch,
    /// The peer that should lead.
    pub peer: PeerId,
    /// Raft term a read before this write was made in; 0 = unchecked. Carries
    /// "nobody else led in between" from the read to the write.
    pub term: u64,
    /// When the caller stops waiting.
    pub deadline: Option<Deadline>,
    /// A peer that does not lead may answer too.
    pub replica_read: bool,
    /// The read is of the past: such a peer should get to hold enough for the next one.
    pub stale_read: bool,
    /// Importance to the caller.
    pub priority: cairn_proto::kv::Priority,
}

/// A consistent view of a region.
#[derive(Clone)]
pub struct RegionSnapshot {
    /// The region as of the view.
    pub region: Arc<meta::Region>,
    /// Raft term in which this peer led when the view was taken.
    pub term: u64,
    /// The engine's view; see `keys` for what lies where.
    pub engine: Arc<dyn EngineSnapshot>,
    /// Where reads count themselves.
    pub load: Arc<RegionLoad>,
    /// Locks that are not in the engine.
    pub locks: Arc<LeaderLocks>,
    /// The engine's view shows the newest state at every call, see [`RaftKv::try_live_view`].
    pub is_live: bool,
}

/// Called once a write is in its leader's log, on the Raft thread.
pub type OnProposed = Box<dyn FnOnce() + Send>;

/// What a follower is to read: the leader hears of it first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplicaRead {
    /// The timestamp read at; `u64::MAX` reads the newest versions.
    pub read_ts: u64,
    /// First raw key.
    pub start: Bytes,
    /// Raw key behind the last; empty = no end.
    pub end: Bytes,
    /// Transactions whose locks do not block.
    pub resolved: Vec<u64>,
}

/// A follower's view, and the commits under way at its leader that the read must wait for.
pub struct ReplicaView {
    /// The view; its term is 0.
    pub snapshot: RegionSnapshot,
    /// Sorted by key.
    pub pending: Vec<kv::LockInfo>,
}

/// What a leader asks before it lets a follower read.
pub trait ReadGuard: Send + Sync {
    /// Notes the read, then answers the commits under way that it must wait for.
    fn enter(&self, read: &ReplicaRead) -> Vec<kv::LockInfo>;

    /// No commit that is not under way yet will be at or below `ts` from here on; answers the
    /// largest timestamp up to there that no commit under way in the range can be at or
    /// below. An empty `end` is unbounded.
    fn close(&self, start: &[u8], end: &[u8], ts: TimeStamp) -> TimeStamp;
}

/// Why requests should be refused before queues collapse.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Busy {
    /// Which bound was hit.
    pub reason: String,
    /// When to come back.
    pub backoff_ms: u32,
}

impl From<Busy> for RegionError {
    fn from(busy: Busy) -> RegionError {
        RegionError::ServerIsBusy { reason: busy.reason, backoff_ms: busy.backoff_ms }
    }
}

/// What the transaction layer needs of replicated regions.
#[async_trait]
pub trait RaftKv: Send + Sync {
    /// Removes everything between two engine keys from this store, whatever regions say.
    fn destroy_range(&self, start: &[u8], end: &[u8]) -> Result<(), EngineError>;

    /// A view of the region without waiting, if this peer's lease allows.
    /// `Ok(None)`: the lease is not valid now, use [`RaftKv::snapshot`].
    fn try_local_snapshot(
        &self,
        context: &RegionContext,
    ) -> Result<Option<RegionSnapshot>, RegionError>;

    /// Like [`RaftKv::try_local_snapshot`], with an engine's view that shows the newest
    /// state at every call ([`cairn_engine::KvEngine::live`]). For reads of one key at a
    /// timestamp, lock first: a lock that comes after it was looked for belongs to a
    /// transaction that commits above the timestamp, and newer records are passed over. What was read counts only
    /// if [`RaftKv::is_current`] says so afterwards.
    fn try_live_view(
        &self,
        context: &RegionContext,
    ) -> Result<Option<RegionSnapshot>, RegionError> {
        self.try_local_snapshot(context)
    }

    /// Whether this store has led the region, unchanged, since a live view was taken; if
    /// not, its data may have been removed meanwhile. Other views count whatever comes.
    fn is_current(&self, _view: &RegionSnapshot) -> bool {
        true
    }

    /// A view of the region that holds every write acknowledged before the call.
    async fn snapshot(&self, context: &RegionContext) -> Result<RegionSnapshot, RegionError>;

    /// A view of the region on this peer, whoever leads, that holds every write
    /// acknowledged before the call. Stores without followers: as the leader.
    async fn replica_snapshot(
        &self,
        context: &RegionContext,
        _read: ReplicaRead,
    ) -> Result<ReplicaView, RegionError> {
        let snapshot = self.snapshot(context).await?;
        Ok(ReplicaView { snapshot, pending: Vec::new() })
    }

    /// Before followers of regions led here read, `guard` is asked; set once, at the start.
    fn set_read_guard(&self, _guard: Arc<dyn ReadGuard>) {}

    /// Replicates the batch through the region's Raft group exactly once; returns
    /// after it is applied on the leader. Keys are engine keys (see `keys`).
    ///
    /// `on_proposed` is called before, when the write is in the leader's log, unless it is to be
    /// feared that it will have no effect. It may come to nothing all the same.
    async fn write(
        &self,
        context: &RegionContext,
        batch: WriteBatch,
        on_proposed: Option<OnProposed>,
    ) -> Result<(), RegionError>;

    /// The region that holds the raw key, if this store leads it.
    fn local_leader_region(&self, raw_key: &[u8]) -> Option<RegionContext>;

    /// Splits the region at the raw keys; answers the regions that came of it, in
    /// key order.
    async fn split(
        &self,
        context: &RegionContext,
        raw_keys: Vec<Bytes>,
    ) -> Result<Vec<meta::Region>, RegionError>;

    /// Id of this store.
    fn store_id(&self) -> StoreId;

    /// State of every peer of this store.
    fn region_infos(&self) -> Vec<kv::RegionPeerInfo>;

    /// Whether new work should be refused now.
    fn is_busy(&self) -> Option<Busy>;

    /// Ranges of deleted rows that scans of this store may jump over.
    fn dead_ranges(&self) -> Option<Arc<DeadRanges>> {
        None
    }

    /// How long new data of so many bytes has to wait before it may be proposed, or why it
    /// is refused. Deletions, commits and rollbacks need not ask.
    fn admit_data(&self, _bytes: u64) -> Result<Duration, RegionError> {
        Ok(Duration::ZERO)
    }
}
