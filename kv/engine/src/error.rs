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
    /// Stored data does not match its checksum, or a file of the engine is broken.
    #[error("damaged data: {0}")]
    Damaged(String),
    /// The disk has no room.
    #[error("no space left: {0}")]
    NoSpace(String),
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
    /// A file or folder could not be used.
    #[error("I/O: {0}")]
    Io(String),
}

impl EngineError {
    /// Whether stored data is broken, so that only another replica can help.
    pub fn is_damage(&self) -> bool {
        matches!(self, EngineError::Damaged(_) | EngineError::Corrupted(_))
    }
}

impl From<rocksdb::Error> for EngineError {
    fn from(error: rocksdb::Error) -> EngineError {
        let kind = error.kind();
        let text = error.into_string();
        match kind {
            rocksdb::ErrorKind::Corruption => EngineError::Damaged(text),
            // RocksDB tells the cause in the text only.
            rocksdb::ErrorKind::IOError if text.contains("No space left") => {
                EngineError::NoSpace(text)
            }
            _ => EngineError::Rocks(text),
        }
    }
}

impl From<raft_engine::Error> for EngineError {
    fn from(error: raft_engine::Error) -> EngineError {
        match error {
            raft_engine::Error::Corruption(text) => EngineError::Damaged(text),
            error => EngineError::RaftLog(error.to_string()),
        }
    }
}

impl From<std::io::Error> for EngineError {
    fn from(error: std::io::Error) -> EngineError {
        EngineError::Io(error.to_string())
    }
}
