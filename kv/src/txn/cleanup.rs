//! Cleanup: rolls one key back if its transaction's time is up (Percolator §2.2,
//! a reader that meets a lock whose holder died).
//!
//! The lock of an async commit stays, however old: it may be all that tells that the transaction
//! is committed.

use cairn_proto::kv;
use cairn_types::TimeStamp;

use super::TxnError;
use super::rollback::{RollbackOutcome, rollback_lock, rollback_missing};
use crate::mvcc::{MvccReader, MvccTxn, keys};

/// Rolls the key back. `current_ts` 0 does not ask for the lock's age.
pub fn run(
    reader: &mut MvccReader,
    txn: &mut MvccTxn,
    request: &kv::CleanupRequest,
) -> Result<(), TxnError> {
    let start_ts = TimeStamp(request.start_ts);
    let current_ts = TimeStamp(request.current_ts);
    let user_key = keys::user_key(&request.key);
    let lock = reader.load_lock(&user_key, start_ts)?;
    if let Some(lock) = lock.filter(|lock| lock.start_ts == start_ts) {
        let is_alive = !current_ts.is_zero() && !lock.is_expired(current_ts);
        if is_alive || lock.use_async_commit {
            return Err(TxnError::locked(lock.to_info(request.key.clone())));
        }
        rollback_lock(reader, txn, &request.key, &user_key, &lock)?;
        return Ok(());
    }
    match rollback_missing(reader, txn, &user_key, start_ts)? {
        RollbackOutcome::RolledBack => Ok(()),
        RollbackOutcome::Committed(commit_ts) => Err(TxnError::committed(commit_ts)),
    }
}
