//! Pessimistic lock: takes keys for a transaction before it knows what it will write.
//!
//! All keys or none. Another transaction's lock refuses (`Locked`), or leaves the key out when
//! the caller says so. The lock is taken even if a version newer than `for_update_ts` is there:
//! from then on nobody else commits to the key, so the caller reads again at a fresh timestamp
//! and is sure to get on. A transaction that waited in a queue thus never has to queue twice.
//!
//! The lock blocks writers, not readers; prewrite turns it into one that says what is written.
//!
//! **Idempotent**: a key held already stays held; `for_update_ts` and TTL only grow. A key that is
//! asked for again at a later `for_update_ts` was given back in the meantime, by a request that is
//! still on its way: it names the primary of now.

use bytes::Bytes;
use cairn_proto::kv::{self, key_error};
use cairn_types::TimeStamp;

use super::TxnError;
use crate::mvcc::keys::{self, RAW_KEY_BYTES_MAX};
use crate::mvcc::{Lock, LockKind, MvccError, MvccReader, MvccTxn, WriteKind};

/// Locks the keys; an answer with errors comes with no changes.
pub fn run(
    reader: &mut MvccReader,
    txn: &mut MvccTxn,
    request: &kv::PessimisticLockRequest,
) -> Result<kv::PessimisticLockResponse, MvccError> {
    let mut response = kv::PessimisticLockResponse::default();
    for key in &request.keys {
        match lock_key(reader, txn, request, key) {
            Ok(result) => response.results.push(result),
            Err(error) => {
                // The first one is enough: whoever waits, waits for one lock at a time.
                let errors = vec![error.into_key_error()?];
                return Ok(kv::PessimisticLockResponse { errors, results: Vec::new() });
            }
        }
    }
    Ok(response)
}

fn lock_key(
    reader: &mut MvccReader,
    txn: &mut MvccTxn,
    request: &kv::PessimisticLockRequest,
    key: &Bytes,
) -> Result<kv::PessimisticLockResult, TxnError> {
    if key.len() > RAW_KEY_BYTES_MAX {
        return Err(TxnError::abort(format!("key is longer than {RAW_KEY_BYTES_MAX} bytes")));
    }
    let start_ts = TimeStamp(request.start_ts);
    let user_key = keys::user_key(key);
    let held = reader.load_lock(&user_key)?;
    if let Some(lock) = &held {
        if lock.start_ts != start_ts {
            if request.skip_locked {
                return Ok(kv::PessimisticLockResult { is_skipped: true, conflict_ts: 0 });
            }
            return Err(TxnError::locked(lock.to_info(key.clone())));
        }
        if lock.kind != LockKind::Pessimistic {
            return Err(TxnError::abort("the transaction is committing already"));
        }
    }
    let conflict_ts = newer_commit(reader, request, key, &user_key)?;
    let for_update_ts = TimeStamp(request.for_update_ts).max(conflict_ts);
    let lock = match held.clone() {
        Some(mut lock) => {
            if lock.for_update_ts < for_update_ts {
                lock.for_update_ts = for_update_ts;
                lock.primary = request.primary.clone();
            }
            lock.ttl_ms = lock.ttl_ms.max(request.lock_ttl_ms);
            lock
        }
        None => Lock {
            kind: LockKind::Pessimistic,
            primary: request.primary.clone(),
            start_ts,
            ttl_ms: request.lock_ttl_ms,
            txn_size: 0,
            for_update_ts,
            min_commit_ts: start_ts.next(),
            use_async_commit: false,
            secondaries: Vec::new(),
            short_value: None,
            last_change: None,
        },
    };
    if held.as_ref() != Some(&lock) {
        txn.put_lock(&user_key, &lock);
    }
    Ok(kv::PessimisticLockResult { is_skipped: false, conflict_ts: conflict_ts.0 })
}

/// When the key was last committed to, if that is above `for_update_ts`; zero otherwise. A
/// mere lock record counts too: whoever left it has read the key and written others.
///
/// A request that comes late must not lock for a transaction that is over: its lock on the
/// primary would hide the transaction's fate. So all records that may be its own are looked at.
fn newer_commit(
    reader: &mut MvccReader,
    request: &kv::PessimisticLockRequest,
    key: &Bytes,
    user_key: &[u8],
) -> Result<TimeStamp, TxnError> {
    let start_ts = TimeStamp(request.start_ts);
    let mut newer = TimeStamp::ZERO;
    let versions = reader.versions(user_key, TimeStamp::MAX)?;
    while let Some((commit_ts, write)) = versions.current()? {
        if commit_ts < start_ts {
            break;
        }
        if write.is_rollback_of(commit_ts, start_ts) {
            return Err(TxnError::key(key_error::Kind::Conflict(kv::WriteConflict {
                key: key.clone(),
                primary: request.primary.clone(),
                start_ts: start_ts.0,
                conflict_start_ts: start_ts.0,
                conflict_commit_ts: commit_ts.0,
                reason: kv::ConflictReason::SelfRolledBack.into(),
            })));
        }
        if write.start_ts == start_ts {
            return Err(TxnError::abort("the transaction has committed already"));
        }
        let is_commit = write.kind != WriteKind::Rollback;
        if is_commit && newer.is_zero() && commit_ts.0 > request.for_update_ts {
            newer = commit_ts;
        }
        versions.advance()?;
    }
    Ok(newer)
}
