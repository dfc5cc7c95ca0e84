//! Multi-version storage in one region: keys, records, reads and scans at a
//! timestamp.
//!
//! **Flow**: `service` and `coprocessor` read through [`reader`] and [`scanner`];
//! `txn`'s commands read through [`reader`] and collect their changes in
//! [`txn::MvccTxn`]. Everything here works on one engine snapshot and has no
//! notion of regions, Raft, time or threads.
//!
//! **Data**: three column families (`keys.rs` draws the keys). One transaction
//! that writes `k = v` at `start_ts` 7 and commits at 9 leaves
//!
//! ```text
//! prewrite   lock:    k        -> Put, primary, start_ts 7, ttl, "v"
//!            default: k/7      -> v            (only values over 1 KiB)
//! commit     write:   k/9      -> Put, start_ts 7, "v"
//!            lock:    k        deleted
//! ```
//!
//! **Visibility**: a reader at `read_ts` sees the newest `Put` or `Delete` whose
//! `commit_ts <= read_ts`, unless a lock with `start_ts <= read_ts` may hide a
//! newer one.
//!
//! **Sources**: Percolator (OSDI 2010) §2.2-2.3.

pub mod dead_ranges;
pub mod keys;
pub mod lock;
pub mod reader;
pub mod scanner;
pub mod txn;
mod wire;
pub mod write;

#[cfg(test)]
mod queue_tests;
#[cfg(test)]
mod tests;

use cairn_engine::EngineError;
use cairn_proto::kv;

pub use lock::{Lock, LockKind, SHARERS_MAX};
pub use reader::{MvccReader, TxnRecord};
pub use scanner::{PairSink, ScanOptions, Scanner};
pub use txn::MvccTxn;
pub use write::{SHORT_VALUE_BYTES_MAX, Write, WriteKind};

/// Steps of `next` or `prev` before a cursor seeks instead: a seek costs about
/// as much as a dozen neighbouring steps.
pub(crate) const NEAR_SEEK_STEPS: usize = 10;

/// What keeps the multi-version layer from answering at all.
#[derive(Debug, thiserror::Error)]
pub enum MvccError {
    /// The engine failed.
    #[error("storage engine: {0}")]
    Engine(#[from] EngineError),
    /// A record that this layer wrote does not read back.
    #[error("corrupt data: {0}")]
    Corrupt(&'static str),
}

impl MvccError {
    /// A [`MvccError::Corrupt`].
    pub const fn corrupt(what: &'static str) -> MvccError {
        MvccError::Corrupt(what)
    }

    /// Whether stored bytes do not match their checksum.
    pub fn is_damage(&self) -> bool {
        matches!(self, MvccError::Engine(error) if error.is_damage())
    }
}

/// Why a read has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Another transaction's lock may hide a version the read should see.
    #[error("key is locked by transaction {}", .0.start_ts)]
    Locked(Box<kv::LockInfo>),
    /// The storage failed.
    #[error(transparent)]
    Mvcc(#[from] MvccError),
}

impl ReadError {
    /// Whether stored bytes do not match their checksum.
    pub fn is_damage(&self) -> bool {
        matches!(self, ReadError::Mvcc(error) if error.is_damage())
    }
}

impl From<EngineError> for ReadError {
    fn from(error: EngineError) -> ReadError {
        ReadError::Mvcc(error.into())
    }
}
