//! What apply is given, and what it tells.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cairn_proto::meta;
use raft::eraftpb::{ConfChangeV2, Entry};

use crate::raftstore::OnProposed;
use crate::raftstore::error::RegionError;
use crate::raftstore::ids::RegionEpoch;
use crate::raftstore::state::{ApplyState, MergeState};

/// Bytes of a proposal counted against the store's bound until it is answered.
pub struct InflightBytes {
    counter: Arc<AtomicU64>,
    bytes: u64,
}

impl InflightBytes {
    /// Counts `bytes` if the bound allows.
    pub fn acquire(counter: &Arc<AtomicU64>, bytes: u64, max: u64) -> Option<InflightBytes> {
        let before = counter.fetch_add(bytes, Ordering::Relaxed);
        let inflight = InflightBytes { counter: counter.clone(), bytes };
        // One proposal may always go, however large.
        (before == 0 || before + bytes <= max).then_some(inflight)
    }
}

impl Drop for InflightBytes {
    fn drop(&mut self) {
        self.counter.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Who waits for a proposal.
#[derive(Default)]
pub enum Callback {
    /// Nobody.
    #[default]
    None,
    /// A write's caller, and what it wants to happen once the write is in the log.
    Write(tokio::sync::oneshot::Sender<Result<(), RegionError>>, InflightBytes, Option<OnProposed>),
    /// Somebody who wants the regions that come of it.
    Regions(tokio::sync::oneshot::Sender<Result<Vec<meta::Region>, RegionError>>),
}

impl Callback {
    /// The proposal is in the log, and nothing speaks against its taking effect.
    pub fn on_proposed(&mut self) {
        if let Callback::Write(_, _, on_proposed) = self
            && let Some(on_proposed) = on_proposed.take()
        {
            on_proposed();
        }
    }

    /// Answers with an error. The caller may have gone away.
    pub fn fail(self, error: RegionError) {
        match self {
            Callback::None => {}
            Callback::Write(answer, ..) => drop(answer.send(Err(error))),
            Callback::Regions(answer) => drop(answer.send(Err(error))),
        }
    }

    /// Answers that it is done; `regions` are those that came of it.
    pub fn finish(self, regions: Vec<meta::Region>) {
        match self {
            Callback::None => {}
            Callback::Write(answer, ..) => drop(answer.send(Ok(()))),
            Callback::Regions(answer) => drop(answer.send(Ok(regions))),
        }
    }
}

/// Entries of one region, with those who wait for them.
pub struct CommittedEntries {
    /// The region.
    pub region_id: u64,
    /// In order of index.
    pub entries: Vec<Entry>,
    /// Index of an entry and its caller, in order.
    pub callbacks: Vec<(u64, Callback)>,
}

/// Work for apply.
pub enum ApplyTask {
    /// From now on entries of this region may come.
    Register {
        /// This store's peer.
        peer_id: u64,
        /// The region.
        region: Arc<meta::Region>,
        /// How far it is applied.
        state: ApplyState,
        /// The merge whose source it is.
        merge: Option<MergeState>,
    },
    /// Applies entries.
    Entries(CommittedEntries),
    /// Lets go of the region: somebody else is about to write its data and state.
    Pause {
        /// The region.
        region_id: u64,
    },
    /// Removes a peer and its data, and leaves a tombstone.
    Destroy {
        /// This store's peer.
        peer_id: u64,
        /// The region it had (only its id if it had no data).
        region: meta::Region,
        /// Epoch below which the peer must not come back.
        epoch: RegionEpoch,
        /// The region was absorbed: by whom, and how.
        merged_into: Option<MergeState>,
    },
}

/// A change the Raft thread must know of.
pub enum Outcome {
    /// The region was split.
    Split {
        /// The parent, then those before it in key order.
        regions: Vec<meta::Region>,
        /// Ids of new regions that this store created.
        created: Vec<u64>,
        /// Who asked for it.
        callback: Callback,
    },
    /// Membership changed.
    ConfChange {
        /// For Raft; `None`: the region's members are Raft's, whatever they were.
        change: Option<ConfChangeV2>,
        /// The region after the change.
        region: meta::Region,
        /// Who asked for it.
        callback: Callback,
    },
    /// The region waits to be absorbed.
    PrepareMerge {
        /// The region from here on.
        region: meta::Region,
        /// By whom.
        merge: MergeState,
        /// Who asked for it.
        callback: Callback,
    },
    /// The region serves again.
    RollbackMerge {
        /// The region from here on.
        region: meta::Region,
        /// Who asked for it.
        callback: Callback,
    },
    /// The region absorbed another one, whose peer is gone.
    CommitMerge {
        /// The region from here on.
        region: meta::Region,
        /// Whom.
        source_id: u64,
        /// What happened to the source at last, in order.
        source_outcomes: Vec<Outcome>,
        /// Who asked for it.
        callback: Callback,
    },
}

/// What apply tells the Raft thread.
pub enum ApplyReport {
    /// Entries were applied.
    Applied {
        /// The region.
        region_id: u64,
        /// How far.
        state: ApplyState,
        /// Bytes written to the engine.
        written_bytes: u64,
        /// Operations among them.
        written_keys: u64,
        /// In order.
        outcomes: Vec<Outcome>,
    },
    /// Apply no longer writes to the region.
    Paused {
        /// The region.
        region_id: u64,
    },
    /// A peer is gone.
    Destroyed {
        /// The region.
        region_id: u64,
    },
}
