//! Asks a primary key what became of its transaction (Percolator §2.2: the
//! primary is the synchronisation point of clean-up).
//!
//! | found | answer |
//! | --- | --- |
//! | its lock, expired | rolled back now: `TTL_EXPIRE_ROLLBACK` |
//! | its lock, alive | `lock_ttl_ms`; the lock's `min_commit_ts` is pushed above the caller's read, which then need not wait: `MIN_COMMIT_TS_PUSHED` |
//! | its lock of an async commit, expired | the lock: `TTL_EXPIRE_ASYNC_COMMIT`. The transaction may be committed, which all of its locks decide together ([`super::check_secondary_locks`]) |
//! | its lock of an async commit, alive | `lock_ttl_ms`. Nothing is pushed: the commit timestamp may be decided already, and whoever waits for the last lock has it from the answers of prewrites |
//! | its commit record | `commit_ts` |
//! | its rollback record | all zero, `NO_ACTION` |
//! | nothing | a protected rollback record now (`LOCK_NOT_EXIST_ROLLBACK`), or the error `TxnNotFound` when its prewrite may still be on its way |
//! | nothing, and the caller met a pessimistic lock | `LOCK_NOT_EXIST_DO_NOTHING`: the transaction may live. It gave the primary back, or lost it with the store that led it; the caller removes the lock that it met, and the transaction finds out if it still counted on that |
//! | its lock that names another primary | the lock, which says whom to ask: the transaction gave all of its locks back, the caller's among them, and has taken others since |
//!
//! `force_sync_commit` treats an async commit as any other: the caller has found a lock of it
//! that says two phases, so that its client will not take it for committed before the primary is.

use cairn_proto::kv::{self, TxnAction};
use cairn_types::TimeStamp;

use super::TxnError;
use super::rollback::{rollback_lock, rollback_missing};
use crate::mvcc::{Lock, MvccReader, MvccTxn, TxnRecord, keys};

/// Runs the check.
pub fn run(
    reader: &mut MvccReader,
    txn: &mut MvccTxn,
    request: &kv::CheckTxnStatusRequest,
) -> Result<kv::CheckTxnStatusResponse, TxnError> {
    let lock_ts = TimeStamp(request.lock_ts);
    let user_key = keys::user_key(&request.primary_key);
    let lock = reader.load_lock(&user_key, lock_ts)?;
    if let Some(lock) = lock.filter(|lock| lock.start_ts == lock_ts) {
        return check_lock(reader, txn, request, &user_key, lock);
    }
    let mut response = kv::CheckTxnStatusResponse::default();
    match reader.txn_record(&user_key, lock_ts)? {
        TxnRecord::Committed { commit_ts, .. } => response.commit_ts = commit_ts.0,
        TxnRecord::RolledBack => {}
        TxnRecord::None { .. }
            if request.rollback_if_not_exist && request.resolving_pessimistic_lock =>
        {
            response.action = TxnAction::LockNotExistDoNothing.into();
        }
        TxnRecord::None { .. } if request.rollback_if_not_exist => {
            rollback_missing(reader, txn, &user_key, lock_ts)?;
            response.action = TxnAction::LockNotExistRollback.into();
        }
        TxnRecord::None { .. } => {
            return Err(TxnError::txn_not_found(&request.primary_key, lock_ts));
        }
    }
    Ok(response)
}

fn check_lock(
    reader: &mut MvccReader,
    txn: &mut MvccTxn,
    request: &kv::CheckTxnStatusRequest,
    user_key: &[u8],
    mut lock: Lock,
) -> Result<kv::CheckTxnStatusResponse, TxnError> {
    let mut response = kv::CheckTxnStatusResponse::default();
    if lock.primary != request.primary_key {
        response.lock_ttl_ms = lock.ttl_ms.max(1);
        response.lock_info = Some(lock.to_info(request.primary_key.clone()));
        return Ok(response);
    }
    let is_expired = lock.is_expired(TimeStamp(request.current_ts));
    if lock.use_async_commit && !request.force_sync_commit {
        if is_expired {
            response.action = TxnAction::TtlExpireAsyncCommit.into();
        }
        response.lock_ttl_ms = lock.ttl_ms.max(1);
        response.lock_info = Some(lock.to_info(request.primary_key.clone()));
        return Ok(response);
    }
    if is_expired {
        rollback_lock(reader, txn, &request.primary_key, user_key, &lock)?;
        response.action = TxnAction::TtlExpireRollback.into();
        return Ok(response);
    }
    let caller = TimeStamp(request.caller_start_ts);
    if caller.is_max() {
        // A read of the newest version: the transaction had not committed when
        // it asked, so that passing this lock is right as it stands.
        response.action = TxnAction::MinCommitTsPushed.into();
    } else if !caller.is_zero() {
        if lock.min_commit_ts <= caller {
            lock.min_commit_ts = caller.next();
            txn.put_lock(user_key, &lock);
        }
        response.action = TxnAction::MinCommitTsPushed.into();
    }
    response.lock_ttl_ms = lock.ttl_ms;
    response.lock_info = Some(lock.to_info(request.primary_key.clone()));
    Ok(response)
}
