//! Resolve locks: applies a transaction's known fate to its remaining locks
//! (Percolator §2.2, roll forward and roll back by readers).

use bytes::Bytes;
use cairn_types::TimeStamp;

use super::TxnError;
use super::commit::commit_lock;
use super::rollback::rollback_lock;
use crate::mvcc::{LockKind, MvccError, MvccReader, MvccTxn, keys};

/// Locks that one round of a resolve without keys takes on: bounds the latches
/// it holds and the Raft entry it writes.
pub const LOCKS_PER_ROUND: usize = 1024;

/// Commits (`commit_ts` above zero) or rolls back the transaction's locks on
/// `keys`; keys without its lock were resolved before.
pub fn run(
    reader: &mut MvccReader,
    txn: &mut MvccTxn,
    start_ts: TimeStamp,
    commit_ts: TimeStamp,
    keys: &[Bytes],
) -> Result<(), TxnError> {
    for raw_key in keys {
        let user_key = keys::user_key(raw_key);
        let lock = reader.load_lock(&user_key, start_ts)?;
        let Some(lock) = lock.filter(|lock| lock.start_ts == start_ts) else { continue };
        let is_pessimistic = lock.kind == LockKind::Pessimistic;
        if is_pessimistic && (lock.primary != raw_key || !commit_ts.is_zero()) {
            // Never prewritten, so nothing of it is committed; and the primary alone keeps the
            // transaction from coming back.
            txn.unlock(&user_key, &lock);
        } else if commit_ts.is_zero() {
            rollback_lock(reader, txn, raw_key, &user_key, &lock)?;
        } else {
            commit_lock(reader, txn, raw_key, &user_key, &lock, commit_ts)?;
        }
    }
    Ok(())
}

/// Raw keys of up to [`LOCKS_PER_ROUND`] locks of the transaction in the range.
pub fn find(
    reader: &MvccReader,
    start_ts: TimeStamp,
    start: &[u8],
    end: &[u8],
) -> Result<Vec<Bytes>, MvccError> {
    let locks = reader.scan_locks(start, end, LOCKS_PER_ROUND, |lock| lock.start_ts == start_ts)?;
    Ok(locks.into_iter().map(|(key, _)| key).collect())
}
