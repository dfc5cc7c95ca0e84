//! Prewrite: Percolator's first phase (paper §2.2, `Prewrite`), or, when one
//! region holds the whole transaction, all of it (one-phase commit), or, when all of its locks
//! shall tell that it is committed, the rest of it (async commit).
//!
//! Per key: another transaction's lock refuses (`Locked`, the client resolves and
//! retries); a commit above `start_ts` refuses (`WriteConflict`); otherwise the
//! lock is set with the value. What the first call did, a retried one finds and
//! answers again: its own lock, its own commit, or its own rollback
//! (`SELF_ROLLED_BACK`).
//!
//! **Pessimistic transactions** (`for_update_ts` above zero) hold the locks of the keys they have
//! read: those are exchanged without a look at later commits, of which there can be none. A lock
//! may be gone: its time was over, or it was known to a leader alone that died. That does no harm if
//! nobody else has locked the key or committed to it since it was locked (`locked_ts`); otherwise the
//! transaction fails. Keys without a lock of their own (entries of
//! indexes, which the rows' locks guard) must not have been committed to above `for_update_ts`.
//!
//! **Assertions.** A writer may say what it knows of a key, that it exists or does not: an entry of
//! an index that a row must have, for one. Nothing is written if that turns out wrong, for then
//! rows and entries disagree already, or are about to. By default it is looked at where the newest record
//! has been read anyway. A transaction that lost a conflict, or a lock, knows of nothing: that
//! is told first.
//!
//! **Shared locks** become locks of kind `Lock` beside those of the other holders; nothing can be written to
//! a key that others share. Commits of several holders of one key may come at about the same time, so
//! each takes a timestamp of PD's, which nobody else has: one chosen by a store could be another's,
//! and one of the two records would be lost. So a transaction that shares keys commits in two phases.
//! A share that is gone is taken anew beside those of others.
//!
//! **One-phase commit** writes commit records at once, at a timestamp above every
//! read this store has served (`max_ts.rs`). It falls back to locks when the
//! request bounds the commit timestamp below that, or when an earlier call left
//! locks behind.
//!
//! **Async commit** writes into each lock the least timestamp that the transaction may commit at
//! here, above every read this store has served, and into the primary's the names of the others.
//! The answer is the largest of them; the largest of all answers is when the transaction
//! commits, once it has them all. So the number is fixed with the lock: nobody pushes it, a retried
//! call answers what it finds in the locks, and in commit records, the commit timestamp. A lock that
//! cannot have such a number (the request bounds it, the leader does not know what was read, there
//! are too many keys) is an ordinary one, and the answer 0: then the whole transaction commits in two
//! phases, and whoever looks for its locks finds by this one that it does.

//!
//! **Bulk transactions** prewrite what they have so far, flush by flush, and go on; each flush has a
//! *generation* above the one before, which its locks keep. A key that is written again replaces the
//! lock of the earlier flush: its value, nothing else, for what it guards it has guarded since. A lock of
//! the same or of a later generation stays: the request is a repeat, or a copy that was late. What an insert
//! demands is then a question to the own lock. Nothing of it commits before its client says so.

use bytes::Bytes;
use cairn_proto::kv::{self, Assertion, AssertionLevel, MutationOp, key_error};
use cairn_types::TimeStamp;
use cairn_types::sabotage::{Bug, planted};

use super::commit::is_rollback_at;
use super::{TxnError, write_of_lock};
use crate::mvcc::keys::{self, RAW_KEY_BYTES_MAX};
use crate::mvcc::{Lock, LockKind, MvccError, MvccReader, MvccTxn, Write, WriteKind};

/// Locks of others that one answer reports: enough for the client to resolve
/// many at once, without walking a whole conflicting bulk load.
const LOCKED_ERRORS_MAX: usize = 64;
/// Records of mere locks and rollbacks behind which the newest data still counts as at hand.
const ASSERTION_STEPS_MAX: usize = 4;
/// Keys that the primary's lock of an async commit may name. Every heart beat writes and every
/// recovery looks at all of them. Clients keep below of their own accord.
const SECONDARIES_MAX: usize = 1024;

/// What a check of one key found.
enum KeyState {
    /// Free to be locked.
    Free(FreeKey),
    /// An earlier call locked it; zero unless for an async commit.
    Locked { min_commit_ts: TimeStamp },
    /// An earlier call, or a commit after it, finished it.
    Committed(TimeStamp),
}

/// A key that can be locked.
struct FreeKey {
    /// Of the newest record of all; zero: there is none.
    newest_ts: TimeStamp,
    /// As in [`Lock`].
    last_change: Option<TimeStamp>,
    /// The transaction's own lock to replace, without the holders beside it: a pessimistic one, or one
    /// of an earlier flush.
    held: Option<Box<Lock>>,
    /// Those.
    others: Vec<Lock>,
    /// Others may hold the key too.
    is_shared: bool,
}

/// Prewrites all mutations or none. With `chosen_ts` commits them instead, or gives the locks
/// what an async commit needs, as the request wants and where that is possible.
pub fn run(
    reader: &mut MvccReader,
    txn: &mut MvccTxn,
    request: &kv::PrewriteRequest,
    chosen_ts: Option<TimeStamp>,
) -> Result<kv::PrewriteResponse, MvccError> {
    let generation = request.generation;
    let mut response = kv::PrewriteResponse { generation, ..Default::default() };
    let mut free = Vec::with_capacity(request.mutations.len());
    let mut locked_before = Vec::new();
    let mut committed_at = None;
    let mut failed_assertion = None;
    for mutation in &request.mutations {
        match check_key(reader, request, mutation) {
            Ok(KeyState::Free(key)) => free.push((mutation, key)),
            Ok(KeyState::Locked { min_commit_ts }) => locked_before.push(min_commit_ts),
            Ok(KeyState::Committed(commit_ts)) => committed_at = Some(commit_ts),
            Err(error) => {
                let error = error.into_key_error()?;
                if matches!(error.kind, Some(key_error::Kind::AssertionFailed(_))) {
                    failed_assertion.get_or_insert(error);
                    continue;
                }
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
    if response.errors.is_empty() {
        response.errors.extend(failed_assertion);
    }
    if !response.errors.is_empty() {
        return Ok(response);
    }
    if let Some(commit_ts) = committed_at {
        // Only a retry finds its own commit, and it is final, also if this request asks for less than
        // the one that did it: its keys lie in more regions by now.
        response.one_pc_commit_ts = commit_ts.0;
        if request.use_async_commit {
            // Also beside the other: some of its locks may be left.
            response.min_commit_ts = commit_ts.0;
        }
        return Ok(response);
    }
    let is_pushed = |commit_ts: TimeStamp| {
        free.iter()
            .filter_map(|(_, key)| key.held.as_ref())
            .any(|held| held.min_commit_ts > commit_ts)
    };
    let may_choose = request.generation == 0 && !free.iter().any(|(_, key)| key.is_shared);
    let chosen_ts = chosen_ts.filter(|_| may_choose);
    let one_pc =
        chosen_ts.filter(|ts| request.try_one_pc && locked_before.is_empty() && !is_pushed(*ts));
    let is_async = request.use_async_commit && request.secondaries.len() <= SECONDARIES_MAX;
    // A reader may have pushed a pessimistic lock behind what the request allows.
    let is_in_bounds = request.max_commit_ts == 0 || !is_pushed(TimeStamp(request.max_commit_ts));
    let async_ts = chosen_ts.filter(|_| is_async && one_pc.is_none() && is_in_bounds);
    let mut min_commit_ts = locked_before;
    for (mutation, key) in free {
        let is_held = key.held.is_some();
        // Where all records are older, none is to be replaced.
        let replaces = one_pc.is_some_and(|commit_ts| commit_ts <= key.newest_ts);
        let replaces_value = key.held.as_deref().is_some_and(Lock::has_long_value);
        let Some(lock) = new_lock(request, mutation, key, async_ts) else { continue };
        min_commit_ts.push(if lock.use_async_commit {
            lock.min_commit_ts
        } else {
            TimeStamp::ZERO
        });
        if replaces_value && !lock.has_long_value() {
            txn.delete_value(&keys::user_key(&mutation.key), lock.start_ts);
        }
        apply(reader, txn, mutation, &lock, one_pc, replaces)?;
        if one_pc.is_some() && is_held {
            txn.unlock(&keys::user_key(&mutation.key), &lock);
        }
    }
    response.one_pc_commit_ts = one_pc.map_or(0, |ts| ts.0);
    if one_pc.is_none() && min_commit_ts.iter().all(|ts| !ts.is_zero()) {
        response.min_commit_ts = min_commit_ts.iter().max().map_or(0, |ts| ts.0);
    }
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
    let may_share = mutation.is_shared && op == MutationOp::OpLock;
    let (held, others) = match reader.load_lock(&user_key, start_ts)? {
        None => (None, Vec::new()),
        Some(lock) if lock.start_ts != start_ts => {
            if !may_share || !lock.has_room() {
                return Err(match mutation.is_locked {
                    true => TxnError::lock_not_found(&mutation.key, start_ts),
                    false => TxnError::locked(lock.to_info(mutation.key.clone())),
                });
            }
            (None, lock.into_holders())
        }
        Some(lock) if lock.kind != LockKind::Pessimistic => {
            return check_prewritten(request, mutation, op, lock);
        }
        Some(mut own) => {
            if let Some(others) = own.left_behind().filter(|_| !may_share) {
                return Err(TxnError::locked(others.to_info(mutation.key.clone())));
            }
            let others = std::mem::take(&mut own.others);
            (Some(Box::new(own)), others)
        }
    };
    // A lock of a later time was taken by a request that came late, after the one that the
    // transaction knows of was gone: what was committed in between was told to nobody.
    let locked_ts = TimeStamp(mutation.locked_ts);
    // And a share is not what guards a row for one alone.
    let guards =
        |lock: &Lock| lock.for_update_ts <= locked_ts && (mutation.is_shared || !lock.is_shared);
    let is_guarded = mutation.is_locked && held.as_deref().is_some_and(guards);
    let is_lost = mutation.is_locked && !is_guarded;
    // What a statement has read at a later time rested on the lock.
    let seen_up_to = start_ts.max(match is_lost {
        true => locked_ts,
        false => TimeStamp(request.for_update_ts),
    });
    let versions = reader.versions(&user_key, TimeStamp::MAX)?;
    let newest_ts = versions.current()?.map_or(TimeStamp::ZERO, |(commit_ts, _)| commit_ts);
    // Records above start_ts: rollbacks of others write nothing and do not
    // conflict; our own records tell what became of us; anything else does.
    let mut conflict = None;
    let mut newest_data = None;
    while let Some((commit_ts, write)) = versions.current()? {
        if commit_ts < start_ts {
            break;
        }
        if write.is_rollback_of(commit_ts, start_ts) {
            return Err(write_conflict(request, &mutation.key, commit_ts, write.start_ts, true));
        }
        if write.start_ts == start_ts {
            return Ok(KeyState::Committed(commit_ts));
        }
        if commit_ts == start_ts {
            break;
        }
        if write.kind.is_data() && newest_data.is_none() {
            newest_data = Some(Data::of(commit_ts, &write));
        }
        let is_unseen = write.kind != WriteKind::Rollback && commit_ts > seen_up_to;
        if is_unseen && !is_guarded && conflict.is_none() {
            let by = write.start_ts;
            conflict = Some(write_conflict(request, &mutation.key, commit_ts, by, false));
        }
        versions.advance()?;
    }
    let is_ignored =
        planted(Bug::PrewriteIgnoresConflict) || (is_lost && planted(Bug::LostLockIgnoresConflict));
    if let Some(conflict) = conflict.filter(|_| !is_ignored) {
        return Err(match is_lost {
            true => TxnError::lock_not_found(&mutation.key, start_ts),
            false => conflict,
        });
    }
    // The record below start_ts.
    let below = versions.current()?;
    let last_change = match (newest_data, &below) {
        (Some(data), _) => Some(data.commit_ts),
        (None, None) => Some(TimeStamp::ZERO),
        (None, Some((commit_ts, write))) if write.kind.is_data() => Some(*commit_ts),
        (None, Some((_, write))) => write.last_change,
    };
    if newest_data.is_none() {
        let data = below.filter(|(_, write)| write.kind.is_data());
        newest_data = data.map(|(commit_ts, write)| Data::of(commit_ts, &write));
    }
    let assertion = mutation.assertion();
    let level = match assertion {
        Assertion::None => AssertionLevel::Off,
        Assertion::Exist | Assertion::NotExist => request.assertion_level(),
    };
    let must_not_exist = matches!(op, MutationOp::OpInsert | MutationOp::OpCheckNotExists);
    let must_know = must_not_exist || level == AssertionLevel::Strict;
    if must_know && newest_data.is_none() {
        versions.skip_to_data()?;
        newest_data = versions.current()?.map(|(commit_ts, write)| Data::of(commit_ts, &write));
    }
    let exists = newest_data.is_some_and(|data| data.kind == WriteKind::Put);
    if must_not_exist && exists {
        return Err(TxnError::key(key_error::Kind::AlreadyExist(kv::AlreadyExist {
            key: mutation.key.clone(),
        })));
    }
    let mut is_known = must_know || newest_data.is_some() || last_change == Some(TimeStamp::ZERO);
    let mut steps_left = if level == AssertionLevel::Fast { ASSERTION_STEPS_MAX } else { 0 };
    while !is_known && steps_left > 0 {
        steps_left -= 1;
        versions.advance()?;
        let record = versions.current()?;
        is_known = record.as_ref().is_none_or(|(_, write)| write.kind.is_data());
        let data = record.filter(|_| is_known);
        newest_data = data.map(|(commit_ts, write)| Data::of(commit_ts, &write));
    }
    let exists = newest_data.is_some_and(|data| data.kind == WriteKind::Put);
    if level != AssertionLevel::Off && is_known && exists != (assertion == Assertion::Exist) {
        if let Some(data) = newest_data.filter(|data| !is_guarded && data.commit_ts > start_ts) {
            // What the transaction knew was true: a lock that it rests on was lost, perhaps
            // in another region, and others came between.
            let (commit_ts, by) = (data.commit_ts, data.start_ts);
            return Err(write_conflict(request, &mutation.key, commit_ts, by, false));
        }
        return Err(TxnError::key(key_error::Kind::AssertionFailed(kv::AssertionFailed {
            key: mutation.key.clone(),
            start_ts: start_ts.0,
            assertion: assertion.into(),
            existing_start_ts: newest_data.map_or(0, |data| data.start_ts.0),
            existing_commit_ts: newest_data.map_or(0, |data| data.commit_ts.0),
        })));
    }
    let is_shared = may_share && held.as_ref().is_none_or(|held| held.is_shared);
    Ok(KeyState::Free(FreeKey { newest_ts, last_change, held, others, is_shared }))
}

/// A key that the transaction has prewritten before.
fn check_prewritten(
    request: &kv::PrewriteRequest,
    mutation: &kv::Mutation,
    op: MutationOp,
    own: Lock,
) -> Result<KeyState, TxnError> {
    let is_newer = request.generation > own.generation;
    let must_not_exist = matches!(op, MutationOp::OpInsert | MutationOp::OpCheckNotExists);
    if is_newer && must_not_exist && own.kind == LockKind::Put {
        return Err(TxnError::key(key_error::Kind::AlreadyExist(kv::AlreadyExist {
            key: mutation.key.clone(),
        })));
    }
    if is_newer && must_not_exist && own.kind == LockKind::Lock {
        // It says nothing of what is there, and flushes do not guard keys they go on to insert.
        return Err(TxnError::abort("a flush inserts a key that an earlier one only guards"));
    }
    let writes = matches!(op, MutationOp::OpPut | MutationOp::OpInsert | MutationOp::OpDelete);
    if is_newer && writes {
        let held = Some(Box::new(own));
        return Ok(KeyState::Free(FreeKey {
            // The records were not looked at: anything may be among them.
            newest_ts: TimeStamp::MAX,
            last_change: None,
            held,
            others: Vec::new(),
            is_shared: false,
        }));
    }
    let min_commit_ts = if own.use_async_commit { own.min_commit_ts } else { TimeStamp::ZERO };
    Ok(KeyState::Locked { min_commit_ts })
}

/// A record that puts or deletes.
#[derive(Clone, Copy)]
struct Data {
    commit_ts: TimeStamp,
    start_ts: TimeStamp,
    kind: WriteKind,
}

impl Data {
    fn of(commit_ts: TimeStamp, write: &Write<'_>) -> Data {
        Data { commit_ts, start_ts: write.start_ts, kind: write.kind }
    }
}

fn write_conflict(
    request: &kv::PrewriteRequest,
    key: &Bytes,
    commit_ts: TimeStamp,
    by: TimeStamp,
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
        conflict_start_ts: by.0,
        conflict_commit_ts: commit_ts.0,
        reason: reason.into(),
    }))
}

/// The lock a mutation leaves; a mere check leaves none.
fn new_lock(
    request: &kv::PrewriteRequest,
    mutation: &kv::Mutation,
    key: FreeKey,
    async_ts: Option<TimeStamp>,
) -> Option<Lock> {
    let start_ts = TimeStamp(request.start_ts);
    let kind = match mutation.op() {
        MutationOp::OpPut | MutationOp::OpInsert => LockKind::Put,
        MutationOp::OpDelete => LockKind::Delete,
        MutationOp::OpLock => LockKind::Lock,
        MutationOp::OpCheckNotExists => return None,
    };
    let is_inline = kind == LockKind::Put && MvccTxn::is_short(&mutation.value);
    let least = TimeStamp(request.min_commit_ts).max(start_ts.next());
    let min_commit_ts = async_ts.map_or(least, |ts| ts.max(least));
    let is_primary = mutation.key == request.primary;
    // Heart beats have raised the one, readers of secondaries the other.
    let held = key.held.as_ref();
    let (held_ttl_ms, pushed_ts) =
        held.map_or((0, TimeStamp::ZERO), |held| (held.ttl_ms, held.min_commit_ts));
    Some(Lock {
        kind,
        primary: request.primary.clone(),
        start_ts,
        ttl_ms: request.lock_ttl_ms.max(held_ttl_ms),
        txn_size: request.txn_size,
        for_update_ts: TimeStamp(request.for_update_ts),
        min_commit_ts: min_commit_ts.max(pushed_ts),
        use_async_commit: async_ts.is_some(),
        secondaries: match async_ts {
            Some(_) if is_primary => request.secondaries.clone(),
            _ => Vec::new(),
        },
        short_value: is_inline.then(|| mutation.value.clone()),
        last_change: key.last_change.filter(|_| kind == LockKind::Lock),
        generation: request.generation,
        is_shared: key.is_shared,
        others: key.others,
    })
}

/// Writes the lock, or the commit record that it would become.
fn apply(
    reader: &MvccReader,
    txn: &mut MvccTxn,
    mutation: &kv::Mutation,
    lock: &Lock,
    one_pc: Option<TimeStamp>,
    replaces: bool,
) -> Result<(), MvccError> {
    let user_key = keys::user_key(&mutation.key);
    if lock.has_long_value() {
        txn.put_value(&user_key, lock.start_ts, &mutation.value);
    }
    let Some(commit_ts) = one_pc else {
        txn.put_lock(&user_key, lock);
        return Ok(());
    };
    let in_order = "a new lock is never pessimistic, and reads of records answer no key errors";
    let mut write = write_of_lock(lock).map_err(|_| MvccError::corrupt(in_order))?;
    if replaces {
        write.has_overlapped_rollback = match is_rollback_at(reader, &user_key, commit_ts) {
            Ok(is_rollback) => is_rollback,
            Err(TxnError::Mvcc(error)) => return Err(error),
            Err(TxnError::Key(_)) => return Err(MvccError::corrupt(in_order)),
        };
    }
    txn.put_write(&user_key, commit_ts, &write);
    Ok(())
}
