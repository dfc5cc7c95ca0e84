//! Errors of the KV client, each with the MySQL number its user sees.
//!
//! Keys are shown as hexadecimal and cut short: they hold user data.

use std::fmt;

use bytes::Bytes;
use cairn_pd_client::PdError;
use cairn_types::errno;
use thiserror::Error;

use crate::lock_waits::LockWaiting;

/// A key as error texts show it: hexadecimal, at most [`KEY_SHOWN_BYTES_MAX`] bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct ShownKey(pub Bytes);

/// Bytes of a key that error texts show.
const KEY_SHOWN_BYTES_MAX: usize = 32;

impl fmt::Display for ShownKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.0.iter().take(KEY_SHOWN_BYTES_MAX) {
            write!(f, "{byte:02X}")?;
        }
        if self.0.len() > KEY_SHOWN_BYTES_MAX { write!(f, "…") } else { Ok(()) }
    }
}

impl fmt::Debug for ShownKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Why an operation on the KV tier failed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum KvError {
    /// Another transaction committed one of our keys after our start.
    #[error(
        "txnStartTS={start_ts}, conflictStartTS={conflict_start_ts}, \
         conflictCommitTS={conflict_commit_ts}, key={key}"
    )]
    WriteConflict {
        /// The contested key.
        key: ShownKey,
        /// Our transaction.
        start_ts: u64,
        /// The other transaction.
        conflict_start_ts: u64,
        /// When the other one committed; 0 while it has not yet.
        conflict_commit_ts: u64,
    },
    /// What a SERIALIZABLE transaction has read was changed before it could commit.
    #[error(
        "serialization failure: read by txnStartTS={start_ts}, changed by \
         conflictStartTS={conflict_start_ts}, conflictCommitTS={conflict_commit_ts}, key={key}"
    )]
    ReadChanged {
        /// The changed key.
        key: ShownKey,
        /// Our transaction.
        start_ts: u64,
        /// The other transaction.
        conflict_start_ts: u64,
        /// When the other one committed; 0 while it has not yet.
        conflict_commit_ts: u64,
    },
    /// An inserted key exists already. The SQL tier names the index.
    #[error("key exists: {key}")]
    KeyExists {
        /// The inserted key.
        key: ShownKey,
    },
    /// A key is not as its writer knew it: rows and index entries disagree. Nothing was written.
    #[error(
        "assertion failed: key: {key}, assertion: {}, start_ts: {start_ts}, \
         existing start ts: {existing_start_ts}, existing commit ts: {existing_commit_ts}",
        if *.exists { "NotExist" } else { "Exist" }
    )]
    AssertionFailed {
        /// The key.
        key: ShownKey,
        /// It is there, and should not be; or the other way round.
        exists: bool,
        /// Our transaction.
        start_ts: u64,
        /// Who wrote or removed it last; zero: nobody.
        existing_start_ts: u64,
        /// When that was committed.
        existing_commit_ts: u64,
    },
    /// Another transaction held a lock for longer than we may wait.
    #[error("Lock wait timeout exceeded; try restarting transaction")]
    LockTimeout {
        /// The locked key.
        key: ShownKey,
    },
    /// Another transaction holds a lock and the caller does not wait.
    #[error(
        "Statement aborted because lock(s) could not be acquired immediately and NOWAIT is set."
    )]
    LockNotAvailable {
        /// The locked key.
        key: ShownKey,
    },
    /// Waiting for the lock would have closed a circle.
    #[error("Deadlock found when trying to get lock; try restarting transaction")]
    Deadlock {
        /// Our transaction.
        start_ts: u64,
        /// The waits of the circle; ours is the last.
        cycle: Vec<LockWaiting>,
    },
    /// The transaction was rolled back, by itself or because its locks expired.
    #[error("transaction {start_ts} was aborted: {reason}")]
    TxnAborted {
        /// The transaction.
        start_ts: u64,
        /// What happened to it.
        reason: String,
    },
    /// Nobody could be reached who knows whether the commit happened.
    #[error("the commit of transaction {start_ts} may or may not have happened: {reason}")]
    UndeterminedCommit {
        /// The transaction.
        start_ts: u64,
        /// The last thing that went wrong.
        reason: String,
    },
    /// The transaction's writes exceed their limit.
    #[error("Transaction is too large, size: {size_bytes}")]
    TxnTooLarge {
        /// Size of keys and values so far.
        size_bytes: u64,
    },
    /// One key with its value exceeds the limit.
    #[error(
        "entry too large, the max entry size is {limit_bytes}, the size of data is {size_bytes}"
    )]
    EntryTooLarge {
        /// Size of the refused entry.
        size_bytes: u64,
        /// The limit.
        limit_bytes: u64,
    },
    /// The transaction was committed or rolled back before.
    #[error("transaction {start_ts} has already ended")]
    TxnEnded {
        /// The transaction.
        start_ts: u64,
    },
    /// No store answered for the region in time.
    #[error("region is unavailable: {reason}")]
    RegionUnavailable {
        /// The last thing that went wrong.
        reason: String,
    },
    /// A store refused because it has too much to do.
    #[error("server is busy: {reason}")]
    ServerBusy {
        /// What the store said.
        reason: String,
    },
    /// The operation's time was over.
    #[error("deadline exceeded: {reason}")]
    DeadlineExceeded {
        /// What the operation last waited for.
        reason: String,
    },
    /// The statement's own time (`max_execution_time`) was over.
    #[error("Query execution was interrupted, maximum statement execution time exceeded")]
    StatementTimeout,
    /// The versions we read from have been garbage collected.
    #[error("GC life time is shorter than transaction duration: {reason}")]
    GcTooEarly {
        /// What the store said.
        reason: String,
    },
    /// A store's disk is full.
    #[error("disk of store {store_id} is full")]
    DiskFull {
        /// The store.
        store_id: u64,
    },
    /// The placement driver failed.
    #[error(transparent)]
    Pd(#[from] PdError),
    /// Executing a plan fragment failed in a store.
    #[error("{message}")]
    Cop {
        /// MySQL error number.
        mysql_code: u16,
        /// MySQL error text.
        message: String,
    },
    /// A store answered something that makes no sense.
    #[error("malformed answer from the key-value tier: {0}")]
    Malformed(String),
    /// The client is shutting down, or the operation was given up.
    #[error("Query execution was interrupted")]
    Cancelled,
}

impl KvError {
    /// The MySQL error number.
    pub fn mysql_code(&self) -> u16 {
        match self {
            KvError::WriteConflict { .. } => errno::ER_WRITE_CONFLICT,
            KvError::KeyExists { .. } => errno::ER_DUP_ENTRY,
            KvError::AssertionFailed { .. } => errno::ER_ASSERTION_FAILED,
            KvError::LockTimeout { .. } => errno::ER_LOCK_WAIT_TIMEOUT,
            KvError::LockNotAvailable { .. } => errno::ER_LOCK_NOWAIT,
            KvError::Deadlock { .. } | KvError::ReadChanged { .. } => errno::ER_LOCK_DEADLOCK,
            KvError::TxnAborted { .. } => errno::ER_WRITE_CONFLICT,
            KvError::UndeterminedCommit { .. } => errno::ER_TXN_UNDETERMINED,
            KvError::TxnTooLarge { .. } => errno::ER_TXN_TOO_LARGE,
            KvError::EntryTooLarge { .. } => errno::ER_ENTRY_TOO_LARGE,
            KvError::TxnEnded { .. } | KvError::Malformed(_) => errno::ER_UNKNOWN_ERROR,
            KvError::RegionUnavailable { .. } => errno::ER_REGION_UNAVAILABLE,
            KvError::ServerBusy { .. } => errno::ER_STORE_SERVER_BUSY,
            KvError::DeadlineExceeded { .. } => errno::ER_STORE_SERVER_TIMEOUT,
            KvError::StatementTimeout => errno::ER_QUERY_TIMEOUT,
            KvError::GcTooEarly { .. } => errno::ER_GC_TOO_EARLY,
            KvError::DiskFull { .. } => errno::ER_DISK_FULL,
            KvError::Pd(_) => errno::ER_PD_SERVER_TIMEOUT,
            KvError::Cop { mysql_code, .. } => *mysql_code,
            KvError::Cancelled => errno::ER_QUERY_INTERRUPTED,
        }
    }

    /// Whether running the whole transaction again may succeed.
    pub fn is_txn_retryable(&self) -> bool {
        matches!(
            self,
            KvError::WriteConflict { .. }
                | KvError::ReadChanged { .. }
                | KvError::TxnAborted { .. }
                | KvError::Deadlock { .. }
        )
    }

    /// Whether a COMMIT failed with this because another transaction came between, or may have
    /// been carried out: whoever reads again sees which, and what is left to do.
    pub fn asks_for_another_look(&self) -> bool {
        matches!(
            self,
            KvError::WriteConflict { .. }
                | KvError::TxnAborted { .. }
                | KvError::UndeterminedCommit { .. }
        )
    }
}
