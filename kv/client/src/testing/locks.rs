//! Pessimistic locks of the cluster in memory: they are polled for, not queued for.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use cairn_proto::kv::*;

use super::{Cluster, Inner, Lock, MockStore, Response, info};

/// Between two looks at a lock that is waited for.
const POLL_EVERY: Duration = Duration::from_millis(1);

/// The locks by key and transaction: a shared one has several holders.
#[derive(Default)]
pub(super) struct Locks(BTreeMap<(Bytes, u64), Lock>);

impl Locks {
    pub(super) fn insert(&mut self, key: &Bytes, lock: Lock) {
        self.0.insert((key.clone(), lock.start_ts), lock);
    }

    pub(super) fn remove(&mut self, key: &Bytes, start_ts: u64) -> Option<Lock> {
        self.0.remove(&(key.clone(), start_ts))
    }

    /// The transaction's own.
    pub(super) fn of(&self, key: &Bytes, start_ts: u64) -> Option<&Lock> {
        self.0.get(&(key.clone(), start_ts))
    }

    pub(super) fn of_mut(&mut self, key: &Bytes, start_ts: u64) -> Option<&mut Lock> {
        self.0.get_mut(&(key.clone(), start_ts))
    }

    /// Everybody's, oldest first.
    pub(super) fn holders(&self, key: &[u8]) -> impl Iterator<Item = &Lock> {
        let first = (Bytes::copy_from_slice(key), 0);
        let last = (first.0.clone(), u64::MAX);
        self.0.range(first..=last).map(|(_, lock)| lock)
    }

    /// What the locks of others say to one that wants the key.
    pub(super) fn refusal(&self, key: &Bytes, start_ts: u64, is_shared: bool) -> Option<KeyError> {
        let others = self.holders(key).filter(|lock| lock.start_ts != start_ts);
        let mut others = others.filter(|lock| !(is_shared && lock.is_shared));
        let mut info = info(key, others.next()?)?;
        info.shared_with = others.filter_map(|lock| super::info(key, lock)).collect();
        Some(KeyError { kind: Some(key_error::Kind::Locked(info)) })
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Bytes, &Lock)> {
        self.0.iter().map(|((key, _), lock)| (key, lock))
    }

    pub(super) fn keys(&self) -> Vec<Bytes> {
        let mut keys: Vec<Bytes> = self.iter().map(|(key, _)| key.clone()).collect();
        keys.dedup();
        keys
    }
}

impl Cluster {
    /// The store that led the row died, and its pessimistic locks with it.
    pub fn lose_locks(&self, key: &str) {
        self.inner.lock().locks.0.retain(|(locked, _), _| locked != key);
    }
}

impl Inner {
    fn pessimistic_lock(&mut self, request: &PessimisticLockRequest) -> PessimisticLockResponse {
        let start_ts = request.start_ts;
        let mut results = Vec::new();
        for key in &request.keys {
            let refusal = self.locks.refusal(key, start_ts, request.is_shared);
            if let Some(refusal) = &refusal
                && !request.skip_locked
            {
                let errors = vec![refusal.clone()];
                return PessimisticLockResponse { errors, results: Vec::new() };
            }
            if self.rollbacks.contains(&(key.clone(), start_ts)) {
                let kind = Some(key_error::Kind::Abort("rolled back".into()));
                let errors = vec![KeyError { kind }];
                return PessimisticLockResponse { errors, results: Vec::new() };
            }
            let newest = self.versions.get(key).into_iter().flatten().map(|v| v.commit_ts).max();
            let conflict_ts = newest.filter(|ts| *ts > request.for_update_ts).unwrap_or(0);
            let held_ts = self.locks.of(key, start_ts).map_or(0, |own| own.for_update_ts);
            let is_skipped = refusal.is_some();
            results.push(PessimisticLockResult { is_skipped, conflict_ts, held_ts });
        }
        for (key, result) in request.keys.iter().zip(&results) {
            if result.is_skipped {
                continue;
            }
            let newest = self.versions.get(key).into_iter().flatten().map(|v| v.commit_ts).max();
            let for_update_ts = request.for_update_ts.max(newest.unwrap_or(0));
            if let Some(own) = self.locks.of_mut(key, start_ts) {
                own.is_shared &= request.is_shared;
                if own.for_update_ts < for_update_ts {
                    own.for_update_ts = for_update_ts;
                    own.primary = request.primary.clone();
                }
                continue;
            }
            let lock = Lock {
                start_ts,
                primary: request.primary.clone(),
                ttl_ms: request.lock_ttl_ms,
                op: MutationOp::OpLock,
                value: Default::default(),
                txn_size: 0,
                min_commit_ts: 0,
                is_pessimistic: true,
                is_shared: request.is_shared,
                for_update_ts,
                use_async_commit: false,
                secondaries: Vec::new(),
                generation: 0,
            };
            self.locks.insert(key, lock);
        }
        PessimisticLockResponse { errors: Vec::new(), results }
    }

    pub(super) fn pessimistic_rollback(
        &mut self,
        request: &PessimisticRollbackRequest,
    ) -> PessimisticRollbackResponse {
        let start_ts = request.start_ts;
        for (key, locked_ts) in request.keys.iter().zip(&request.locked_ts) {
            let is_own = self.locks.of(key, start_ts).is_some();
            let mut versions = self.versions.get(key).into_iter().flatten();
            let is_lost = !is_own
                && (self.locks.holders(key).next().is_some()
                    || versions.any(|version| version.commit_ts > *locked_ts));
            if is_lost {
                let lost = TxnLockNotFound { key: key.clone(), start_ts };
                let error = KeyError { kind: Some(key_error::Kind::TxnLockNotFound(lost)) };
                return PessimisticRollbackResponse { error: Some(error) };
            }
        }
        let up_to = request.for_update_ts;
        for key in &request.keys {
            let is_meant =
                |lock: &Lock| lock.is_pessimistic && (up_to == 0 || lock.for_update_ts <= up_to);
            if self.locks.of(key, start_ts).is_some_and(is_meant) {
                self.locks.remove(key, start_ts);
            }
        }
        PessimisticRollbackResponse::default()
    }

    pub(super) fn heart_beat(&mut self, request: &TxnHeartBeatRequest) -> TxnHeartBeatResponse {
        let Some(lock) = self.locks.of_mut(&request.primary, request.start_ts) else {
            let (start_ts, primary_key) = (request.start_ts, request.primary.clone());
            let kind = key_error::Kind::TxnNotFound(TxnNotFound { start_ts, primary_key });
            let error = Some(KeyError { kind: Some(kind) });
            return TxnHeartBeatResponse { error, lock_ttl_ms: 0 };
        };
        lock.ttl_ms = lock.ttl_ms.max(request.advise_ttl_ms);
        TxnHeartBeatResponse { error: None, lock_ttl_ms: lock.ttl_ms }
    }

    /// Circles of two: enough for the client.
    pub(super) fn detect_deadlock(
        &mut self,
        request: &DetectDeadlockRequest,
    ) -> DetectDeadlockResponse {
        let waiter = request.waiter;
        let holders = || std::iter::once(request.holder).chain(request.more_holders.clone());
        let circle = holders().find(|holder| self.waits.contains(&(*holder, waiter)));
        if request.has_given_up || circle.is_some() {
            self.waits.retain(|(other, _)| *other != waiter);
        } else {
            self.waits.extend(holders().map(|holder| (waiter, holder)));
        }
        let wait = |waiter, holder| LockWait { waiter, holder, ..LockWait::default() };
        let cycle = match circle.filter(|_| !request.has_given_up) {
            Some(holder) => vec![wait(holder, waiter), wait(waiter, holder)],
            None => Vec::new(),
        };
        DetectDeadlockResponse { cycle }
    }
}

impl MockStore {
    /// Locks, waiting as the request says.
    pub(super) async fn lock_patiently(
        &self,
        context: &Context,
        request: &PessimisticLockRequest,
    ) -> Response {
        let mut left = Duration::from_millis(request.wait_ms.into());
        loop {
            let response = {
                let mut inner = self.cluster.inner.lock();
                inner.check_keys(context, request.keys.iter());
                inner.pessimistic_lock(request)
            };
            let lock = response.errors.iter().find_map(|error| match &error.kind {
                Some(key_error::Kind::Locked(lock)) => Some(lock),
                _ => None,
            });
            let is_checked = |holder: &LockInfo| {
                request.checked_holder == holder.start_ts
                    || request.more_checked_holders.contains(&holder.start_ts)
            };
            let is_waited_for =
                lock.is_some_and(|lock| !request.may_deadlock || lock.holders().all(is_checked));
            if !is_waited_for || left.is_zero() {
                return Response::PessimisticLock(response);
            }
            tokio::time::sleep(POLL_EVERY).await;
            left = left.saturating_sub(POLL_EVERY);
        }
    }
}
