//! Prewrite: Percolator's first phase (paper §2.2, `Prewrite`), or, when one
//! region holds the whole transaction, all of it (one-phase commit).
//!
//! Per key: another transaction's lock refuses (`Locked`, the client resolves and
//! retries); a commit above `start_ts` refuses (`WriteConflict`); otherwise the
//! lock is set with the value. What the first call did, a retried one finds and
//! answers again: its own lock, its own commit, or its own rollback
//! (`SELF_ROLLED_BACK`).
//!
//! **One-phase commit** writes commit records at once, at a timestamp above every
//! read this store has served (`max_ts.rs`). It falls back to locks when the
//! request bounds the commit timestamp below that, or when an earlier call left
//! locks behind.

use bytes::Bytes;
use cairn_proto::kv::{self, MutationOp, key_error};
use cairn_types::TimeStamp;
use cairn_types::sabotage::{Bug, planted};

use super::commit::is_rollback_at;
use super::{TxnError, write_of_lock};
use crate::mvcc::keys::{self, RAW_KEY_BYTES_MAX};
use crate::mvcc::{Lock, LockKind, MvccError, MvccReader, MvccTxn, Write, WriteKind};

/// Locks of others that one answer reports: enough for the client to resolve
/// many at once, without walking a whole conflicting bulk load.
const LOCKED_ERRORS_MAX: usize = 64;

/// What a check of one key found.
enum KeyState {
    /// Free to be locked; `last_change` as in [`Lock`].
    Free { last_change: Option<TimeStamp> },
    /// An earlier call locked it.
    Locked,
    /// An earlier call, or a commit after it, finished it.
    Committed(TimeStamp),
}

/// Prewrites all mutations or none. With `one_pc_commit_ts` commits them instead,
/// where that is possible.
pub fn run(
    reader: &mut MvccReader,
    txn: &mut MvccTxn,
    request: &kv::PrewriteRequest,
    one_pc_commit_ts: Option<TimeStamp>,
) -> Result<kv::PrewriteResponse, MvccError> {
    let mut response = kv::PrewriteResponse::default();
    let mut free = Vec::with_capacity(request.mutations.len());
    let mut is_partly_locked = false;
    let mut committed_at = None;
    for mutation in &request.mutations {
        match check_key(reader, request, mutation) {
            Ok(KeyState::Free { last_change }) => free.push((mutation, last_change)),
            Ok(KeyState::Locked) => is_partly_locked = true,
            Ok(KeyState::Committed(commit_ts)) => committed_at = Some(commit_ts),
            Err(error) => {
                let error = error.into_key_error()?;
                let is_locked = matches!(error.kind, Some(key_error::Kind::Locked(_)));
                if !is_locked {
                    // Waiting for locks would not help any more.
                    response.errors = vec![error];
                    return Ok(response);
                }
                response.errors.push(error);
                if response.errors.len() >= LOCKED_ERRORS_MAX {
                    return Ok(response);
                }
            }
        }
    }
    if !response.errors.is_empty() {
        return Ok(response);
    }
    if let Some(commit_ts) = committed_at {
        // Only a retry finds its own commit, and it is final.
        if request.try_one_pc {
            response.one_pc_commit_ts = commit_ts.0;
        }
        return Ok(response);
    }
    let one_pc = one_pc_commit_ts.filter(|_| !is_partly_locked);
    for (mutation, last_change) in free {
        let Some(lock) = new_lock(request, mutation, last_change) else { continue };
        apply(reader, txn, mutation, &lock, one_pc)?;
    }
    response.one_pc_commit_ts = one_pc.map_or(0, |ts| ts.0);
    Ok(response)
}

fn check_key(
    reader: &mut MvccReader,
    request: &kv::PrewriteRequest,
    mutation: &kv::Mutation,
) -> Result<KeyState, TxnError> {
    let start_ts = TimeStamp(request.start_ts);
    if mutation.key.len() > RAW_KEY_BYTES_MAX {
        return Err(TxnError::abort(format!("key is longer than {RAW_KEY_BYTES_MAX} bytes")));
    }
    let op = MutationOp::try_from(mutation.op)
        .map_err(|_| TxnError::abort(format!("unknown mutation {}", mutation.op)))?;
    let user_key = keys::user_key(&mutation.key);
    if let Some(lock) = reader.load_lock(&user_key)? {
        if lock.start_ts != start_ts {
            return Err(TxnError::locked(lock.to_info(mutation.key.clone())));
        }
        if lock.kind != LockKind::Pessimistic {
            return Ok(KeyState::Locked);
        }
    }
    let versions = reader.versions(&user_key, TimeStamp::MAX)?;
    // Records above start_ts: rollbacks of others write nothing and do not
    // conflict; our own records tell what became of us; anything else does.
    let mut conflict = None;
    while let Some((commit_ts, write)) = versions.current()? {
        if commit_ts < start_ts {
            break;
        }
        if write.is_rollback_of(commit_ts, start_ts) {
            return Err(write_conflict(request, &mutation.key, commit_ts, &write, true));
        }
        if write.start_ts == start_ts {
            return Ok(KeyState::Committed(commit_ts));
        }
        if commit_ts == start_ts {
            break;
        }
        if write.kind != WriteKind::Rollback && conflict.is_none() {
            conflict = Some(write_conflict(request, &mutation.key, commit_ts, &write, false));
        }
        versions.advance()?;
    }
    if let Some(conflict) = conflict.filter(|_| !planted(Bug::PrewriteIgnoresConflict)) {
        return Err(conflict);
    }
    let last_change = match versions.current()? {
        None => Some(TimeStamp::ZERO),
        Some((commit_ts, write)) if write.kind.is_data() => Some(commit_ts),
        Some((_, write)) => write.last_change,
    };
    if matches!(op, MutationOp::OpInsert | MutationOp::OpCheckNotExists) {
        versions.skip_to_data()?;
        if versions.current()?.is_some_and(|(_, write)| write.kind == WriteKind::Put) {
            return Err(TxnError::key(key_error::Kind::AlreadyExist(kv::AlreadyExist {
                key: mutation.key.clone(),
            })));
        }
    }
    Ok(KeyState::Free { last_change })
}

fn write_conflict(
    request: &kv::PrewriteRequest,
    key: &Bytes,
    commit_ts: TimeStamp,
    write: &Write<'_>,
    is_self_rolled_back: bool,
) -> TxnError {
    let reason = match is_self_rolled_back {
        true => kv::ConflictReason::SelfRolledBack,
        false => kv::ConflictReason::Optimistic,
    };
    TxnError::key(key_error::Kind::Conflict(kv::WriteConflict {
        key: key.clone(),
        primary: request.primary.clone(),
        start_ts: request.start_ts,
        conflict_start_ts: write.start_ts.0,
        conflict_commit_ts: commit_ts.0,
        reason: reason.into(),
    }))
}

/// The lock a mutation leaves; a mere check leaves none.
fn new_lock(
    request: &kv::PrewriteRequest,
    mutation: &kv::Mutation,
    last_change: Option<TimeStamp>,
) -> Option<Lock> {
    let start_ts = TimeStamp(request.start_ts);
    let kind = match mutation.op() {
        MutationOp::OpPut | MutationOp::OpInsert => LockKind::Put,
        MutationOp::OpDelete => LockKind::Delete,
        MutationOp::OpLock => LockKind::Lock,
        MutationOp::OpCheckNotExists => return None,
    };
    let is_inline = kind == LockKind::Put && MvccTxn::is_short(&mutation.value);
    Some(Lock {
        kind,
        primary: request.primary.clone(),
        start_ts,
        ttl_ms: request.lock_ttl_ms,
        txn_size: request.txn_size,
        for_update_ts: TimeStamp::ZERO,
        min_commit_ts: TimeStamp(request.min_commit_ts).max(start_ts.next()),
        use_async_commit: false,
        secondaries: Vec::new(),
        short_value: is_inline.then(|| mutation.value.clone()),
        last_change: last_change.filter(|_| kind == LockKind::Lock),
    })
}

/// Writes the lock, or the commit record that it would become.
fn apply(
    reader: &MvccReader,
    txn: &mut MvccTxn,
    mutation: &kv::Mutation,
    lock: &Lock,
    one_pc: Option<TimeStamp>,
) -> Result<(), MvccError> {
    let user_key = keys::user_key(&mutation.key);
    if lock.kind == LockKind::Put && lock.short_value.is_none() {
        txn.put_value(&user_key, lock.start_ts, &mutation.value);
    }
    let Some(commit_ts) = one_pc else {
        txn.put_lock(&user_key, lock);
        return Ok(());
    };
    let in_order = "a new lock is never pessimistic, and reads of records answer no key errors";
    let mut write = write_of_lock(lock).map_err(|_| MvccError::corrupt(in_order))?;
    write.has_overlapped_rollback = match is_rollback_at(reader, &user_key, commit_ts) {
        Ok(is_rollback) => is_rollback,
        Err(TxnError::Mvcc(error)) => return Err(error),
        Err(TxnError::Key(_)) => return Err(MvccError::corrupt(in_order)),
    };
    txn.put_write(&user_key, commit_ts, &write);
    Ok(())
}
