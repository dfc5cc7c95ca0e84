//! Pessimistic rollback: gives locks back that were never prewritten.
//!
//! Nothing is recorded: the transaction may go on, and may take the key again. A lock that was
//! prewritten meanwhile belongs to the transaction's commit and stays. So does one that was asked
//! for at a later `for_update_ts` than the request names: it may overtake this request, which is
//! sent behind the transaction's back.
//!
//! **A transaction that ends without writes** asks at the same time whether its locks held
//! (`locked_ts`), by the rules of prewrite: a lock may be gone, if nobody else has locked the key
//! or committed to it since.

use bytes::Bytes;
use cairn_proto::kv;
use cairn_types::TimeStamp;
use cairn_types::sabotage::{Bug, planted};

use super::TxnError;
use crate::mvcc::{Lock, LockKind, MvccReader, MvccTxn, WriteKind, keys};

/// Removes the transaction's pessimistic locks on the keys; none if one of them was to hold and
/// did not.
pub fn run(
    reader: &mut MvccReader,
    txn: &mut MvccTxn,
    request: &kv::PessimisticRollbackRequest,
) -> Result<(), TxnError> {
    let start_ts = TimeStamp(request.start_ts);
    for (at, key) in request.keys.iter().enumerate() {
        let user_key = keys::user_key(key);
        let lock = reader.load_lock(&user_key, start_ts)?;
        if let Some(locked_ts) = request.locked_ts.get(at) {
            let locked_ts = TimeStamp(*locked_ts);
            check_guarded(reader, key, lock.as_ref(), start_ts, locked_ts)?;
        }
        let is_meant = |lock: &Lock| {
            lock.start_ts == start_ts
                && lock.kind == LockKind::Pessimistic
                && (request.for_update_ts == 0 || lock.for_update_ts.0 <= request.for_update_ts)
        };
        if let Some(lock) = lock.filter(is_meant) {
            txn.unlock(&user_key, &lock);
        }
    }
    Ok(())
}

/// Whether nobody else has locked the key or committed to it above `locked_ts`.
fn check_guarded(
    reader: &mut MvccReader,
    key: &Bytes,
    lock: Option<&Lock>,
    start_ts: TimeStamp,
    locked_ts: TimeStamp,
) -> Result<(), TxnError> {
    let lost = || TxnError::lock_not_found(key, start_ts);
    match lock {
        // Beside those who share the key the lock could be taken anew.
        Some(lock) if lock.start_ts != start_ts && !lock.is_shared => return Err(lost()),
        Some(lock) if lock.start_ts != start_ts => {}
        // One of a later time was taken by a request that came late, see `prewrite`.
        Some(lock) if lock.for_update_ts <= locked_ts => return Ok(()),
        Some(_) | None => {}
    }
    let user_key = keys::user_key(key);
    let versions = reader.versions(&user_key, TimeStamp::MAX)?;
    while let Some((commit_ts, write)) = versions.current()? {
        if commit_ts <= locked_ts || planted(Bug::LostLockIgnoresConflict) {
            break;
        }
        if write.kind != WriteKind::Rollback {
            return Err(lost());
        }
        versions.advance()?;
    }
    Ok(())
}
