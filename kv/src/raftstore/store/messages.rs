//! What goes in and out of a store's Raft thread.

use std::sync::Arc;

use cairn_proto::{kv, meta, pd};
use cairn_types::TimeStamp;

use crate::gc::{Round, Walk};
use crate::mvcc::MvccError;
use crate::raftstore::RegionContext;
use crate::raftstore::apply::{ApplyReport, ApplyTask, Callback};
use crate::raftstore::clock::MonotonicTime;
use crate::raftstore::command::{PeerChange, SplitPiece};
use crate::raftstore::error::RaftStoreError;
use crate::raftstore::peer::{PendingRead, PendingReplicaRead};
use crate::raftstore::snapshot::{Installation, SharedFiles, SnapshotData};
use crate::raftstore::split::{MeasureJob, SplitCheck};
use crate::raftstore::state::ApplyState;

/// What the Raft thread is told.
pub enum StoreMessage {
    /// Proposes a write (encoded).
    Write {
        /// Where to.
        context: RegionContext,
        /// Encoded command.
        data: Vec<u8>,
        /// Who waits.
        callback: Callback,
    },
    /// Reads after the quorum confirmed the leader.
    Read(PendingRead),
    /// Reads from this peer, whoever leads.
    ReplicaRead(PendingReplicaRead),
    /// The region is read here at times of the past: its leader's store should close timestamps.
    Subscribe {
        /// The region.
        region_id: u64,
    },
    /// Closes a timestamp in the regions led here that somebody subscribed to.
    CloseTimestamp {
        /// Given by PD.
        ts: TimeStamp,
        /// A time after that.
        fetched_by: MonotonicTime,
    },
    /// Proposes a split whose ids PD gave.
    Split {
        /// Where to.
        context: RegionContext,
        /// New regions.
        pieces: Vec<SplitPiece>,
        /// Who waits.
        callback: Callback,
    },
    /// One step PD wants.
    PdStep(pd::RegionHeartbeatResponse),
    /// What PD wants after stores were lost for good.
    Recover(pd::RecoveryOrders),
    /// The store is about to stop: leadership goes elsewhere.
    Leave(tokio::sync::oneshot::Sender<()>),
    /// PD wants to hear of these regions.
    ReportRegions(Vec<u64>),
    /// A membership change that tests or tools want.
    ChangePeers {
        /// The region.
        region_id: u64,
        /// All at once.
        changes: Vec<PeerChange>,
        /// Who waits.
        callback: Callback,
    },
    /// Hands leadership over.
    TransferLeader {
        /// The region.
        region_id: u64,
        /// To whom.
        peer_id: u64,
    },
    /// Messages of other stores.
    Raft(Vec<kv::RaftMessage>),
    /// A Raft snapshot that arrived whole.
    Snapshot(Box<kv::RaftMessage>, SnapshotData),
    /// A Raft snapshot left, or did not.
    SnapshotSent {
        /// The region.
        region_id: u64,
        /// The receiver.
        peer_id: u64,
        /// Whether the receiver has it.
        sent: bool,
    },
    /// Files of the engine were found damaged.
    Damaged(Vec<cairn_engine::DamagedFile>),
    /// Messages to a peer were lost.
    Unreachable {
        /// The region.
        region_id: u64,
        /// The peer.
        peer_id: u64,
    },
    /// Apply's reports.
    Applied(Vec<ApplyReport>),
    /// Applied data is durable, so that the logs (region id) up to these indexes can go.
    WalSynced(Vec<(u64, u64)>),
    /// A Raft snapshot was installed, or could not be.
    Installed {
        /// The region.
        region_id: u64,
        /// The peer that it was installed for.
        peer_id: u64,
        /// How far it is applied now.
        outcome: Result<ApplyState, FailedInstallation>,
    },
    /// A region was measured.
    Measured(SplitCheck),
    /// Regions whose old entries keep files of the log alive.
    LogNeedsCompaction(Vec<u64>),
    /// Collects garbage on this store's replicas.
    Collect(CollectJob),
    /// Asks for the state of every peer.
    Infos(crossbeam::channel::Sender<Vec<kv::RegionPeerInfo>>),
    /// Ends the thread, after handing leadership over if there is time.
    Stop {
        /// No time.
        at_once: bool,
    },
}

/// A Raft snapshot whose data could not be installed, by a full disk for example.
#[derive(Debug)]
pub struct FailedInstallation {
    /// All that is needed to try again.
    pub installation: Box<Installation>,
    /// Why not.
    pub error: RaftStoreError,
}

/// Slow work for the background thread.
pub enum BackgroundJob {
    /// Installs a Raft snapshot.
    Install(Box<Installation>),
    /// Measures a region and looks for a split key.
    Measure(MeasureJob),
    /// Makes applied data durable, so that the logs (region id) up to these indexes can go.
    SyncWal(Vec<(u64, u64)>),
    /// Frees files of the log.
    PurgeLog,
    /// Removes garbage; never while data is replaced by [`BackgroundJob::Install`].
    Collect(CollectJob),
    /// Removes a damaged file that no region needs any more.
    DropDamaged(cairn_engine::DamagedFile),
}

/// A round of garbage collection.
pub struct CollectJob {
    /// Where it goes on.
    pub walk: Walk,
    /// Who waits.
    pub answer: tokio::sync::oneshot::Sender<(Walk, Result<Round, MvccError>)>,
}

/// What PD should hear.
pub enum PdEvent {
    /// Reports of leaders.
    Regions(Vec<pd::RegionHeartbeatRequest>),
    /// The store's report.
    Store(pd::StoreStats),
    /// All peers of the store, for a recovery.
    Peers {
        /// Which report PD asked for.
        round: u64,
        /// By region.
        peers: Vec<pd::PeerReport>,
    },
    /// A region should be split at the keys: ids are needed.
    AskSplit(RegionContext, meta::Region, Vec<bytes::Bytes>),
    /// A region was split.
    ReportSplit(Vec<meta::Region>),
}

/// A Raft snapshot to send.
pub struct OutgoingSnapshot {
    /// Message with the snapshot's metadata.
    pub head: kv::RaftMessage,
    /// The region as of the snapshot.
    pub region: meta::Region,
    /// Its data.
    pub engine: Arc<dyn cairn_engine::EngineSnapshot>,
    /// Files made of the data, which receivers of the same snapshot share.
    pub shared: Arc<SharedFiles>,
    /// The receiver.
    pub peer_id: u64,
}

/// Where outputs go.
pub trait Effects {
    /// Sends messages; may drop them.
    fn send(&mut self, messages: Vec<kv::RaftMessage>);
    /// Sends a Raft snapshot; [`StoreMessage::SnapshotSent`] must follow.
    fn send_snapshot(&mut self, snapshot: OutgoingSnapshot);
    /// Hands work to apply.
    fn apply(&mut self, tasks: Vec<ApplyTask>);
    /// Hands work to the background thread.
    fn background(&mut self, job: BackgroundJob);
    /// Tells PD.
    fn pd(&mut self, event: PdEvent);
}
