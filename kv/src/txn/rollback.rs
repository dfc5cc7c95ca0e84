//! Rollback: removes a transaction's locks and leaves records that keep it from
//! coming back.
//!
//! Percolator §2.2 erases the lock only. Here a `Rollback` record at
//! `(key, start_ts)` stays, so that a prewrite delayed in the network finds that
//! its transaction is over. The record at the primary, which decides, those of an async
//! commit, whose locks decide together, and one written where no lock was found are
//! *protected*. Others are collapsed into the next rollback of the key, so that a hot key does
//! not gather them.

use bytes::Bytes;
use cairn_proto::kv;
use cairn_types::TimeStamp;

use super::TxnError;
use crate::mvcc::{Lock, MvccError, MvccReader, MvccTxn, TxnRecord, Write, WriteKind, keys};

/// Rolls `keys` of one transaction back.
pub fn run(
    reader: &mut MvccReader,
    txn: &mut MvccTxn,
    request: &kv::RollbackRequest,
) -> Result<(), TxnError> {
    let start_ts = TimeStamp(request.start_ts);
    for key in &request.keys {
        match rollback_key(reader, txn, key, start_ts)? {
            RollbackOutcome::RolledBack => {}
            RollbackOutcome::Committed(commit_ts) => return Err(TxnError::committed(commit_ts)),
        }
    }
    Ok(())
}

/// What a rollback of one key found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RollbackOutcome {
    /// The transaction is rolled back here, by us or before.
    RolledBack,
    /// It had committed.
    Committed(TimeStamp),
}

/// Rolls one key back; idempotent.
pub fn rollback_key(
    reader: &mut MvccReader,
    txn: &mut MvccTxn,
    raw_key: &Bytes,
    start_ts: TimeStamp,
) -> Result<RollbackOutcome, MvccError> {
    let user_key = keys::user_key(raw_key);
    match reader.load_lock(&user_key, start_ts)? {
        Some(lock) if lock.start_ts == start_ts => {
            rollback_lock(reader, txn, raw_key, &user_key, &lock)?;
            Ok(RollbackOutcome::RolledBack)
        }
        _ => rollback_missing(reader, txn, &user_key, start_ts),
    }
}

/// Rolls back a key that holds no lock of the transaction.
pub fn rollback_missing(
    reader: &mut MvccReader,
    txn: &mut MvccTxn,
    user_key: &[u8],
    start_ts: TimeStamp,
) -> Result<RollbackOutcome, MvccError> {
    match reader.txn_record(user_key, start_ts)? {
        TxnRecord::Committed { commit_ts, .. } => Ok(RollbackOutcome::Committed(commit_ts)),
        TxnRecord::RolledBack => Ok(RollbackOutcome::RolledBack),
        TxnRecord::None { overlapping } => {
            put_rollback(txn, user_key, start_ts, overlapping.as_ref(), true)?;
            Ok(RollbackOutcome::RolledBack)
        }
    }
}

/// Removes the transaction's own `lock` and records the rollback.
pub fn rollback_lock(
    reader: &mut MvccReader,
    txn: &mut MvccTxn,
    raw_key: &[u8],
    user_key: &[u8],
    lock: &Lock,
) -> Result<(), MvccError> {
    if lock.has_long_value() {
        txn.delete_value(user_key, lock.start_ts);
    }
    txn.unlock(user_key, lock);
    let overlapping = reader.load_write(user_key, lock.start_ts)?;
    let is_protected = lock.primary == raw_key || lock.use_async_commit;
    put_rollback(txn, user_key, lock.start_ts, overlapping.as_ref(), is_protected)?;
    if !is_protected {
        collapse_previous(reader, txn, user_key, lock.start_ts)?;
    }
    Ok(())
}

/// Writes the rollback record, or marks the commit of another transaction that
/// lies at the very same timestamp.
fn put_rollback(
    txn: &mut MvccTxn,
    user_key: &[u8],
    start_ts: TimeStamp,
    overlapping: Option<&Bytes>,
    is_protected: bool,
) -> Result<(), MvccError> {
    let Some(encoded) = overlapping else {
        txn.put_write(user_key, start_ts, &Write::rollback(start_ts, is_protected));
        return Ok(());
    };
    let mut write = Write::decode(encoded)?;
    if write.kind != WriteKind::Rollback && !write.has_overlapped_rollback {
        write.has_overlapped_rollback = true;
        txn.put_write(user_key, start_ts, &write);
    }
    Ok(())
}

/// Removes the nearest older record if it is an unprotected rollback.
fn collapse_previous(
    reader: &mut MvccReader,
    txn: &mut MvccTxn,
    user_key: &[u8],
    start_ts: TimeStamp,
) -> Result<(), MvccError> {
    if let Some((commit_ts, write)) = reader.versions(user_key, start_ts.prev())?.current()?
        && write.kind == WriteKind::Rollback
        && !write.is_protected
    {
        txn.delete_write(user_key, commit_ts);
    }
    Ok(())
}
