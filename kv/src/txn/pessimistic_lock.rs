//! Pessimistic lock: takes keys for a transaction before it knows what it will write.
//!
//! All keys or none. Another transaction's lock refuses (`Locked`), or leaves the key out when
//! the caller says so. The lock is taken even if a version newer than `for_update_ts` is there:
//! from then on nobody else commits to the key, so the caller reads again at a fresh timestamp
//! and is sure to get on. A transaction that waited in a queue thus never has to queue twice.
//!
//! The lock blocks writers, not readers; prewrite turns it into one that says what is written.
//!
//! **Shared locks** let others in that share the key too, up to [`SHARERS_MAX`]; one more waits as for
//! an exclusive lock. They do not overtake an older transaction that waits for the key alone
//! (`claimed`), which would otherwise never get it. A holder that wants the key for itself waits
//! until it is the last one, and then has it before all others that wait.
//!
//! **Idempotent**: a key held already stays held; `for_update_ts` and TTL only grow, and what is held
//! exclusively stays so. A key that is asked for again at a later `for_update_ts` was given back in
//! the meantime, by a request that is still on its way, or is wanted alone: it names the primary of
//! now.

use std::collections::BTreeSet;

use bytes::Bytes;
use cairn_proto::kv::{self, key_error};
use cairn_types::TimeStamp;

use super::TxnError;
#[cfg(doc)]
use crate::mvcc::SHARERS_MAX;
use crate::mvcc::keys::{self, RAW_KEY_BYTES_MAX};
use crate::mvcc::{Lock, LockKind, MvccError, MvccReader, MvccTxn, WriteKind};

/// Locks the keys; an answer with errors comes with no changes. `claimed`: keys that an older
/// transaction waits for to have alone.
pub fn run(
    reader: &mut MvccReader,
    txn: &mut MvccTxn,
    request: &kv::PessimisticLockRequest,
    claimed: &BTreeSet<Bytes>,
) -> Result<kv::PessimisticLockResponse, MvccError> {
    let mut response = kv::PessimisticLockResponse::default();
    for key in &request.keys {
        match lock_key(reader, txn, request, key, claimed.contains(key)) {
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
    is_claimed: bool,
) -> Result<kv::PessimisticLockResult, TxnError> {
    if key.len() > RAW_KEY_BYTES_MAX {
        return Err(TxnError::abort(format!("key is longer than {RAW_KEY_BYTES_MAX} bytes")));
    }
    let start_ts = TimeStamp(request.start_ts);
    let user_key = keys::user_key(key);
    let lock = reader.load_lock(&user_key, start_ts)?;
    let own = lock.as_ref().filter(|lock| lock.start_ts == start_ts);
    if own.is_some_and(|own| own.kind != LockKind::Pessimistic) {
        return Err(TxnError::abort("the transaction is committing already"));
    }
    if let Some(blocking) = lock.as_ref().and_then(|lock| blocking(lock, request, is_claimed)) {
        if request.skip_locked {
            return Ok(kv::PessimisticLockResult { is_skipped: true, ..Default::default() });
        }
        return Err(TxnError::locked(blocking.to_info(key.clone())));
    }
    let conflict_ts = newer_commit(reader, request, key, &user_key)?;
    let for_update_ts = TimeStamp(request.for_update_ts).max(conflict_ts);
    let new = match own.cloned() {
        Some(mut own) => {
            if own.for_update_ts < for_update_ts {
                own.for_update_ts = for_update_ts;
                own.primary = request.primary.clone();
            }
            own.ttl_ms = own.ttl_ms.max(request.lock_ttl_ms);
            own.is_shared &= request.is_shared;
            own
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
            generation: 0,
            is_shared: request.is_shared,
            others: lock.clone().map_or_else(Vec::new, Lock::into_holders),
        },
    };
    let held_ts = own.map_or(0, |own| own.for_update_ts.0);
    if own != Some(&new) {
        txn.put_lock(&user_key, &new);
    }
    Ok(kv::PessimisticLockResult { is_skipped: false, conflict_ts: conflict_ts.0, held_ts })
}

/// Those of the lock's holders that keep the transaction from the key.
fn blocking(lock: &Lock, request: &kv::PessimisticLockRequest, is_claimed: bool) -> Option<Lock> {
    if lock.start_ts.0 == request.start_ts {
        return if request.is_shared { None } else { lock.left_behind() };
    }
    let may_join = request.is_shared && lock.has_room() && !is_claimed;
    (!may_join).then(|| lock.clone())
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
