//! The one error type of the engines.

/// Why an engine could not do what it was asked.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum EngineError {
    /// The data engine reported a failure (I/O, corruption, no space).
    #[error("data engine: {0}")]
    Rocks(String),
    /// The Raft log reported a failure.
    #[error("raft log: {0}")]
    RaftLog(String),
    /// Stored or received bytes do not decode.
    #[error("corrupted bytes: {0}")]
    Corrupted(&'static str),
    /// Entries below the first index were asked for.
    #[error("raft log entries of region {region_id} before index {first_index} are compacted")]
    Compacted {
        /// The group asked.
        region_id: u64,
        /// What it still holds.
        first_index: u64,
    },
    /// Entries above the last index were asked for.
    #[error("raft log of region {region_id} ends at index {last_index}")]
    Unavailable {
        /// The group asked.
        region_id: u64,
        /// Where its log ends.
        last_index: u64,
    },
    /// Appending would leave a hole in the log.
    #[error("raft log of region {region_id} would have a hole before index {index}")]
    Hole {
        /// The group written to.
        region_id: u64,
        /// First index of the refused entries.
        index: u64,
    },
    /// A cursor was moved in a way its options forbid.
    #[error("not supported by this iterator: {0}")]
    Unsupported(&'static str),
    /// The folder could not be prepared.
    #[error("I/O: {0}")]
    Io(String),
}

impl From<rocksdb::Error> for EngineError {
    fn from(error: rocksdb::Error) -> EngineError {
        EngineError::Rocks(error.into_string())
    }
}

impl From<raft_engine::Error> for EngineError {
    fn from(error: raft_engine::Error) -> EngineError {
        EngineError::RaftLog(error.to_string())
    }
}

impl From<std::io::Error> for EngineError {
    fn from(error: std::io::Error) -> EngineError {
        EngineError::Io(error.to_string())
    }
}
