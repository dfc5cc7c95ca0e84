//! Why a request did not reach its region, and why a store could not start.

use bytes::Bytes;
use cairn_engine::EngineError;
use cairn_proto::{kv, meta};

use super::ids::{RegionId, StoreId};

/// Routing errors: the request was not executed, except where a variant says that
/// its fate is unknown.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum RegionError {
    /// Another peer leads, or none that is known.
    #[error("peer is not the leader of region {region_id}")]
    NotLeader {
        /// The region asked.
        region_id: RegionId,
        /// Who leads, if known.
        leader: Option<meta::Peer>,
    },
    /// The region was split, merged or moved since the caller looked.
    #[error("region epoch does not match")]
    EpochNotMatch {
        /// The regions that now hold the range, as far as this store knows.
        current_regions: Vec<meta::Region>,
    },
    /// This store has no such region.
    #[error("region {0} not found")]
    RegionNotFound(RegionId),
    /// The key lies outside the region.
    #[error("key is not in region {region_id}")]
    KeyNotInRegion {
        /// Raw key.
        key: Bytes,
        /// The region asked.
        region_id: RegionId,
    },
    /// A queue is full; come back later.
    #[error("server is busy: {reason}")]
    ServerIsBusy {
        /// Which bound was hit.
        reason: String,
        /// When to come back.
        backoff_ms: u32,
    },
    /// Leadership changed before the proposal was applied: its fate is unknown.
    #[error("stale command: leadership changed, the fate of the proposal is unknown")]
    StaleCommand,
    /// The request was meant for another store.
    #[error("request is for store {requested}, this is store {actual}")]
    StoreNotMatch {
        /// Store in the request.
        requested: StoreId,
        /// This store.
        actual: StoreId,
    },
    /// The caller's time ran out. A write's fate is unknown if it was proposed.
    #[error("deadline exceeded")]
    DeadlineExceeded,
    /// The region is being absorbed by a neighbour; ask again for who holds the key.
    #[error("region {0} is being merged")]
    MergeInProgress(RegionId),
    /// No room for data.
    #[error("disk of store {0} is full")]
    DiskFull(StoreId),
}

impl RegionError {
    /// A refusal with the usual pause.
    pub fn busy(reason: impl Into<String>) -> RegionError {
        RegionError::ServerIsBusy { reason: reason.into(), backoff_ms: BUSY_BACKOFF_MS }
    }
}

/// How long a refused client should wait.
const BUSY_BACKOFF_MS: u32 = 20;

impl From<RegionError> for kv::RegionError {
    fn from(error: RegionError) -> kv::RegionError {
        use kv::region_error::Kind;
        let message = error.to_string();
        let kind = match error {
            RegionError::NotLeader { region_id, leader } => {
                Kind::NotLeader(kv::NotLeader { region_id: region_id.0, leader })
            }
            RegionError::EpochNotMatch { current_regions } => {
                Kind::EpochNotMatch(kv::EpochNotMatch { current_regions })
            }
            RegionError::RegionNotFound(region_id) => {
                Kind::RegionNotFound(kv::RegionNotFound { region_id: region_id.0 })
            }
            RegionError::KeyNotInRegion { key, region_id } => {
                Kind::KeyNotInRegion(kv::KeyNotInRegion { key, region_id: region_id.0 })
            }
            RegionError::ServerIsBusy { reason, backoff_ms } => {
                Kind::ServerIsBusy(kv::ServerIsBusy { reason, backoff_ms })
            }
            RegionError::StaleCommand => Kind::StaleCommand(kv::StaleCommand {}),
            RegionError::StoreNotMatch { requested, actual } => {
                Kind::StoreNotMatch(kv::StoreNotMatch {
                    request_store_id: requested.0,
                    actual_store_id: actual.0,
                })
            }
            RegionError::DeadlineExceeded => Kind::DeadlineExceeded(kv::DeadlineExceeded {}),
            RegionError::MergeInProgress(region_id) => {
                Kind::MergeInProgress(kv::MergeInProgress { region_id: region_id.0 })
            }
            RegionError::DiskFull(store_id) => {
                Kind::DiskFull(kv::DiskFull { store_id: store_id.0 })
            }
        };
        kv::RegionError { message, kind: Some(kind) }
    }
}

impl From<kv::RegionError> for RegionError {
    fn from(error: kv::RegionError) -> RegionError {
        use kv::region_error::Kind;
        match error.kind {
            Some(Kind::NotLeader(inner)) => RegionError::NotLeader {
                region_id: RegionId(inner.region_id),
                leader: inner.leader,
            },
            Some(Kind::EpochNotMatch(inner)) => {
                RegionError::EpochNotMatch { current_regions: inner.current_regions }
            }
            Some(Kind::RegionNotFound(inner)) => {
                RegionError::RegionNotFound(RegionId(inner.region_id))
            }
            Some(Kind::KeyNotInRegion(inner)) => {
                RegionError::KeyNotInRegion { key: inner.key, region_id: RegionId(inner.region_id) }
            }
            Some(Kind::ServerIsBusy(inner)) => {
                RegionError::ServerIsBusy { reason: inner.reason, backoff_ms: inner.backoff_ms }
            }
            Some(Kind::StaleCommand(_)) => RegionError::StaleCommand,
            Some(Kind::StoreNotMatch(inner)) => RegionError::StoreNotMatch {
                requested: StoreId(inner.request_store_id),
                actual: StoreId(inner.actual_store_id),
            },
            Some(Kind::DeadlineExceeded(_)) => RegionError::DeadlineExceeded,
            Some(Kind::MergeInProgress(inner)) => {
                RegionError::MergeInProgress(RegionId(inner.region_id))
            }
            Some(Kind::DiskFull(inner)) => RegionError::DiskFull(StoreId(inner.store_id)),
            None => RegionError::busy(error.message),
        }
    }
}

/// Why the Raft store cannot start or go on.
#[derive(Clone, Debug, thiserror::Error, PartialEq)]
pub enum RaftStoreError {
    /// An engine failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// Raft refused its input.
    #[error("raft: {0}")]
    Raft(String),
    /// Stored or received bytes do not decode.
    #[error("corrupted: {0}")]
    Corrupted(&'static str),
    /// A thread could not be made, a file not be written.
    #[error("I/O: {0}")]
    Io(String),
}

impl From<raft::Error> for RaftStoreError {
    fn from(error: raft::Error) -> RaftStoreError {
        RaftStoreError::Raft(error.to_string())
    }
}

impl From<std::io::Error> for RaftStoreError {
    fn from(error: std::io::Error) -> RaftStoreError {
        RaftStoreError::Io(error.to_string())
    }
}
