//! Percolator's commands: one per file, each a pure function from a reader and a
//! request to changes and an answer.
//!
//! **Flow**: [`scheduler`] takes the latches of a command's keys, reads an engine
//! snapshot, runs the command, replicates its changes through Raft and answers.
//!
//! **Invariants**
//! - Idempotent: a retried command answers what the first did. Clients retry
//!   after every lost answer, and Raft may have applied what they lost.
//! - Atomic: an answer with a key error comes with no changes.
//! - The primary key decides. Once its lock became a commit record the transaction
//!   is committed; once a protected rollback record stands there it never will be. With async
//!   commit all keys decide: the transaction is committed once all of its locks stand, and never
//!   once a protected rollback record stands at one of them ([`check_secondary_locks`]).
//! - A command changes a key only under the key's latch and only on the leader
//!   whose term its engine snapshot came from.
//!
//! Requests and answers are the wire's structs: they are plain data, and most of
//! a command's work would otherwise be copying them.
//!
//! **Pessimistic transactions** lock keys before they know the values
//! ([`pessimistic_lock`]), wait for each other in queues ([`lock_waits`]) and ask one
//! detector ([`deadlock`]) before they do. Prewrite turns the locks into ordinary ones.
//!
//! **Sources**: Percolator (OSDI 2010) §2.2 for prewrite, commit and clean-up;
//! TiDB's and TiKV's documentation for TTL, `min_commit_ts`, overlapped
//! rollbacks and async commit (tikv/sig-transaction, `design/async-commit`), which follows the
//! parallel commits of CockroachDB (Taft et al., SIGMOD 2020, §3.1).

pub mod check_secondary_locks;
pub mod check_txn_status;
pub mod cleanup;
pub mod commit;
pub mod deadlock;
pub mod latch;
pub mod lock_waits;
pub mod max_ts;
mod patient_lock;
pub mod pessimistic_lock;
pub mod pessimistic_rollback;
pub mod prewrite;
pub mod refresh;
pub mod resolve_lock;
pub mod rollback;
pub mod scan_lock;
pub mod scheduler;
mod to_the_end;
pub mod txn_heart_beat;

#[cfg(test)]
mod async_tests;
#[cfg(test)]
mod tests;

use bytes::Bytes;
use cairn_proto::kv::{self, key_error};
use cairn_types::TimeStamp;

use crate::mvcc::{MvccError, Write, WriteKind};

pub use max_ts::MaxTs;
pub use scheduler::{Scheduler, TsoSource};

/// Why a command refused a key; the command changed nothing.
#[derive(Debug, thiserror::Error)]
pub enum TxnError {
    /// The key's state forbids it; the client is told how.
    #[error("key error")]
    Key(Box<kv::KeyError>),
    /// The storage failed.
    #[error(transparent)]
    Mvcc(#[from] MvccError),
}

impl TxnError {
    /// An error about a key's state.
    pub fn key(kind: key_error::Kind) -> TxnError {
        TxnError::Key(Box::new(kv::KeyError { kind: Some(kind) }))
    }

    /// Another transaction's lock stands in the way.
    pub fn locked(info: kv::LockInfo) -> TxnError {
        TxnError::key(key_error::Kind::Locked(info))
    }

    /// The transaction's lock is gone.
    pub fn lock_not_found(key: &Bytes, start_ts: TimeStamp) -> TxnError {
        TxnError::key(key_error::Kind::TxnLockNotFound(kv::TxnLockNotFound {
            key: key.clone(),
            start_ts: start_ts.0,
        }))
    }

    /// The transaction left no trace at its primary.
    pub fn txn_not_found(primary_key: &Bytes, start_ts: TimeStamp) -> TxnError {
        TxnError::key(key_error::Kind::TxnNotFound(kv::TxnNotFound {
            start_ts: start_ts.0,
            primary_key: primary_key.clone(),
        }))
    }

    /// The transaction committed; it cannot be rolled back.
    pub fn committed(commit_ts: TimeStamp) -> TxnError {
        TxnError::key(key_error::Kind::Committed(kv::Committed { commit_ts: commit_ts.0 }))
    }

    /// The request contradicts itself or the key's state.
    pub fn abort(reason: impl Into<String>) -> TxnError {
        TxnError::key(key_error::Kind::Abort(reason.into()))
    }

    /// The part that goes into an answer; storage failures stay errors.
    pub fn into_key_error(self) -> Result<kv::KeyError, MvccError> {
        match self {
            TxnError::Key(error) => Ok(*error),
            TxnError::Mvcc(error) => Err(error),
        }
    }
}

/// The commit record that a lock turns into.
pub(crate) fn write_of_lock(lock: &crate::mvcc::Lock) -> Result<Write<'_>, TxnError> {
    let Some(kind) = WriteKind::of_lock(lock.kind) else {
        return Err(TxnError::abort("a pessimistic lock was not prewritten"));
    };
    let mut write = Write::new(kind, lock.start_ts);
    write.short_value = lock.short_value.as_deref();
    if kind == WriteKind::Lock {
        write.last_change = lock.last_change;
    }
    Ok(write)
}
