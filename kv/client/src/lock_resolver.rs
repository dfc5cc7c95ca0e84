//! What to do about another transaction's lock.
//!
//! The fate of a transaction is written at its primary key: locked (alive until
//! its TTL is over), committed, or rolled back. Whoever meets a secondary lock
//! asks the primary ([`CheckTxnStatusRequest`]) and then brings the lock to the
//! same end ([`ResolveLockRequest`]). A dead transaction is rolled back by that
//! question itself, once its TTL is over by PD's clock. With async commit all locks of the
//! transaction decide, and the primary's names the others (`txn/async_commit.rs`).
//!
//! **Pessimistic locks** may be given back before their transaction ends, and with all of them the
//! primary, so that one that was met may name a key that has no lock any more, or one of a later
//! time that names another primary. In the first case it goes alone, once its time is over, and
//! nothing is recorded, for its transaction may live; in the second the other primary is asked.
//!
//! **Invariants.** A lock is only resolved after its transaction's fate is final;
//! the fate of a finished transaction never changes, so it may be cached.
//!
//! **Sources.** Percolator (Peng & Dabek, OSDI 2010), section 2.2.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use cairn_proto::kv::{
    CheckTxnStatusRequest, CheckTxnStatusResponse, LockInfo, LockKind, PessimisticRollbackRequest,
    ResolveLockRequest, TxnAction, key_error,
};
use cairn_types::TimeStamp;
use cairn_types::sabotage::{Bug, planted};
use parking_lot::Mutex;

use crate::backoff::{BackoffKind, Retrier};
use crate::client::KvClient;
use crate::error::{KvError, ShownKey};
use crate::request::{Cmd, RequestOptions, expect_response};

/// Fates remembered.
const CACHED_STATUSES_MAX: usize = 2048;
/// From so many keys on, all locks of a transaction in a region go at once.
const BIG_TXN_KEYS: u64 = 16;

/// The final fate of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TxnFate {
    /// Committed at the timestamp.
    Committed(TimeStamp),
    /// Rolled back.
    RolledBack,
}

impl TxnFate {
    /// As requests carry it: zero rolls back.
    pub fn commit_ts(self) -> TimeStamp {
        match self {
            TxnFate::Committed(commit_ts) => commit_ts,
            TxnFate::RolledBack => TimeStamp::ZERO,
        }
    }
}

/// What a transaction's primary says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TxnStatus {
    /// Over for good.
    Final(TxnFate),
    /// Alive; with its commit pushed behind the asking reader's timestamp or not.
    Alive { pushed: bool },
    /// Nothing is where a pessimistic lock of it said: that lock guards nothing any more.
    NoTrace,
}

/// What became of a lock that stood in the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LockOutcome {
    /// It is gone.
    Resolved,
    /// It stays, but whatever it commits is invisible to the asking reader.
    Bypass,
    /// Its transaction lives: wait.
    Alive,
}

/// Fates of finished transactions, oldest forgotten first.
#[derive(Default)]
pub(crate) struct StatusCache(Mutex<Statuses>);

#[derive(Default)]
struct Statuses {
    /// By `start_ts` and primary: a lock that nobody counts any more may name another primary,
    /// whose fate says nothing about the transaction.
    by_primary: HashMap<(u64, Bytes), TxnFate>,
    order: VecDeque<(u64, Bytes)>,
}

impl StatusCache {
    fn get(&self, lock: &LockInfo) -> Option<TxnFate> {
        self.0.lock().by_primary.get(&(lock.start_ts, lock.primary.clone())).copied()
    }

    fn put(&self, lock: &LockInfo, fate: TxnFate) {
        let mut statuses = self.0.lock();
        let primary = (lock.start_ts, lock.primary.clone());
        if statuses.by_primary.insert(primary.clone(), fate).is_none() {
            statuses.order.push_back(primary);
        }
        if statuses.order.len() > CACHED_STATUSES_MAX
            && let Some(oldest) = statuses.order.pop_front()
        {
            statuses.by_primary.remove(&oldest);
        }
    }
}

impl KvClient {
    /// Asks the primary of a lock what its transaction is up to. `caller_start_ts`
    /// is the asking reader's, or zero for writers.
    pub(crate) async fn txn_status(
        &self,
        lock: &LockInfo,
        caller_start_ts: TimeStamp,
        retrier: &mut Retrier,
    ) -> Result<TxnStatus, KvError> {
        if let Some(fate) = self.statuses.get(lock) {
            return Ok(TxnStatus::Final(fate));
        }
        let current_ts = retrier.scope().run(self.current_ts()).await??;
        let is_over = |lock: &LockInfo| {
            let begun_ms = TimeStamp(lock.start_ts).physical_ms();
            current_ts.physical_ms() >= begun_ms.saturating_add(lock.ttl_ms)
        };
        let mut request = CheckTxnStatusRequest {
            primary_key: lock.primary.clone(),
            lock_ts: lock.start_ts,
            caller_start_ts: caller_start_ts.0,
            current_ts: current_ts.0,
            // Without any trace at the primary, its prewrite may still be under
            // way; only behind the TTL it is shut out.
            rollback_if_not_exist: is_over(lock) || lock.primary == lock.key,
            force_sync_commit: false,
            resolving_pessimistic_lock: lock.kind() == LockKind::Pessimistic,
        };
        let mut response = self.check_txn_status(&request, retrier).await?;
        if let Some(later) = names_another(&request, &response) {
            request.primary_key = later.primary.clone();
            request.rollback_if_not_exist = is_over(later);
            request.resolving_pessimistic_lock = later.kind() == LockKind::Pessimistic;
            response = self.check_txn_status(&request, retrier).await?;
            if names_another(&request, &response).is_some() {
                // It is just choosing.
                return Ok(TxnStatus::Alive { pushed: false });
            }
        }
        let asynchronous = response.lock_info.as_ref().filter(|lock| lock.use_async_commit);
        let status = match (response.action(), asynchronous) {
            (TxnAction::TtlExpireAsyncCommit, Some(primary)) => {
                self.finish_async_commit(&request, primary, retrier).await?
            }
            // A writer would wait or give way; a reader waits once for the commit records.
            (TxnAction::NoAction, Some(primary))
                if caller_start_ts.is_zero() || retrier.has_waited(BackoffKind::Lock) =>
            {
                match self.find_committed(primary, retrier).await? {
                    Some(fate) => TxnStatus::Final(fate),
                    None => TxnStatus::Alive { pushed: false },
                }
            }
            _ => status_of(&response)?,
        };
        if let TxnStatus::Final(fate) = status {
            self.statuses.put(lock, fate);
        }
        Ok(status)
    }

    /// One question to a primary.
    pub(crate) async fn check_txn_status(
        &self,
        request: &CheckTxnStatusRequest,
        retrier: &mut Retrier,
    ) -> Result<CheckTxnStatusResponse, KvError> {
        let build = || Cmd::CheckTxnStatus(request.clone());
        let options = RequestOptions::default();
        let key = &request.primary_key;
        let response = self.cache.send_to_key(key, &options, retrier, &build).await?;
        expect_response!(response, CheckTxnStatus)
    }

    /// Removes the lock if its transaction is over; does not wait for a living one.
    pub(crate) async fn resolve_lock(
        &self,
        lock: &LockInfo,
        caller_start_ts: TimeStamp,
        retrier: &mut Retrier,
    ) -> Result<LockOutcome, KvError> {
        let fate = match self.txn_status(lock, caller_start_ts, retrier).await? {
            TxnStatus::Alive { .. } if planted(Bug::ResolveWithoutPrimary) => TxnFate::RolledBack,
            // The transaction may live, and have another primary by now: only what the lock is
            // now may go, not what it becomes while the request is under way.
            TxnStatus::Final(TxnFate::RolledBack) if lock.kind() == LockKind::Pessimistic => {
                self.give_back_for(lock, retrier).await?;
                return Ok(LockOutcome::Resolved);
            }
            TxnStatus::Final(fate) => fate,
            TxnStatus::Alive { pushed: true } => return Ok(LockOutcome::Bypass),
            TxnStatus::Alive { pushed: false } => return Ok(LockOutcome::Alive),
            TxnStatus::NoTrace => {
                self.give_back_for(lock, retrier).await?;
                return Ok(LockOutcome::Resolved);
            }
        };
        let keys = if lock.txn_size < BIG_TXN_KEYS { vec![lock.key.clone()] } else { Vec::new() };
        let build = || {
            Cmd::ResolveLock(ResolveLockRequest {
                start_ts: lock.start_ts,
                commit_ts: fate.commit_ts().0,
                keys: keys.clone(),
            })
        };
        let options = RequestOptions::default();
        let response = self.cache.send_to_key(&lock.key, &options, retrier, &build).await?;
        match expect_response!(response, ResolveLock)?.error.and_then(|error| error.kind) {
            None => Ok(LockOutcome::Resolved),
            Some(kind) => Err(KvError::Malformed(format!("resolving a lock: {kind:?}"))),
        }
    }

    /// Removes a pessimistic lock as its transaction would, unless that has taken it anew.
    async fn give_back_for(&self, lock: &LockInfo, retrier: &mut Retrier) -> Result<(), KvError> {
        let build = || {
            Cmd::PessimisticRollback(PessimisticRollbackRequest {
                keys: vec![lock.key.clone()],
                start_ts: lock.start_ts,
                for_update_ts: lock.for_update_ts,
                locked_ts: Vec::new(),
            })
        };
        let options = RequestOptions::default();
        let response = self.cache.send_to_key(&lock.key, &options, retrier, &build).await?;
        match expect_response!(response, PessimisticRollback)?.error.and_then(|error| error.kind) {
            None => Ok(()),
            Some(kind) => Err(KvError::Malformed(format!("giving a lock back: {kind:?}"))),
        }
    }

    /// Removes the lock, waiting for its transaction to end.
    pub(crate) async fn resolve_lock_patiently(
        &self,
        lock: &LockInfo,
        caller_start_ts: TimeStamp,
        retrier: &mut Retrier,
    ) -> Result<LockOutcome, KvError> {
        loop {
            match self.resolve_lock(lock, caller_start_ts, retrier).await? {
                LockOutcome::Alive => wait_for_lock(lock, retrier).await?,
                outcome => return Ok(outcome),
            }
        }
    }
}

/// The lock at the key that was asked, if that is not its primary.
fn names_another<'a>(
    request: &CheckTxnStatusRequest,
    response: &'a CheckTxnStatusResponse,
) -> Option<&'a LockInfo> {
    response.lock_info.as_ref().filter(|lock| lock.primary != request.primary_key)
}

/// Waits a little for a living transaction.
pub(crate) async fn wait_for_lock(lock: &LockInfo, retrier: &mut Retrier) -> Result<(), KvError> {
    let wait = retrier.wait(BackoffKind::Lock, Duration::ZERO, String::new);
    wait.await.map_err(|error| match error {
        KvError::DeadlineExceeded { .. } => {
            KvError::LockTimeout { key: ShownKey(lock.key.clone()) }
        }
        error => error,
    })
}

pub(crate) fn status_of(response: &CheckTxnStatusResponse) -> Result<TxnStatus, KvError> {
    match response.error.as_ref().and_then(|error| error.kind.as_ref()) {
        // Nothing at the primary yet, and the TTL of the lock we met is not over.
        Some(key_error::Kind::TxnNotFound(_)) => return Ok(TxnStatus::Alive { pushed: false }),
        Some(kind) => {
            return Err(KvError::Malformed(format!("checking a transaction: {kind:?}")));
        }
        None => {}
    }
    Ok(if response.action() == TxnAction::LockNotExistDoNothing {
        TxnStatus::NoTrace
    } else if response.lock_ttl_ms > 0 {
        TxnStatus::Alive { pushed: response.action() == TxnAction::MinCommitTsPushed }
    } else if response.commit_ts > 0 {
        TxnStatus::Final(TxnFate::Committed(TimeStamp(response.commit_ts)))
    } else {
        TxnStatus::Final(TxnFate::RolledBack)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_bounded() {
        let lock = |start_ts| LockInfo { start_ts, ..LockInfo::default() };
        let cache = StatusCache::default();
        for ts in 0..3 * CACHED_STATUSES_MAX as u64 {
            cache.put(&lock(ts), TxnFate::RolledBack);
        }
        assert_eq!(cache.0.lock().by_primary.len(), CACHED_STATUSES_MAX);
        assert_eq!(cache.get(&lock(0)), None);
        let newest = 3 * CACHED_STATUSES_MAX as u64 - 1;
        assert_eq!(cache.get(&lock(newest)), Some(TxnFate::RolledBack));
    }

    #[test]
    fn answers_of_the_primary() {
        let of = |response| status_of(&response).expect("well-formed");
        let alive = CheckTxnStatusResponse { lock_ttl_ms: 5, ..Default::default() };
        assert_eq!(of(alive.clone()), TxnStatus::Alive { pushed: false });
        let mut pushed = alive;
        pushed.set_action(TxnAction::MinCommitTsPushed);
        assert_eq!(of(pushed), TxnStatus::Alive { pushed: true });
        let committed = CheckTxnStatusResponse { commit_ts: 9, ..Default::default() };
        assert_eq!(of(committed), TxnStatus::Final(TxnFate::Committed(TimeStamp(9))));
        let gone = CheckTxnStatusResponse::default();
        assert_eq!(of(gone), TxnStatus::Final(TxnFate::RolledBack));
    }
}
