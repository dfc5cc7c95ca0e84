//! Pessimistic locks of the cluster in memory: they are polled for, not queued for.

use std::time::Duration;

use cairn_proto::kv::*;

use super::{Inner, Lock, MockStore, Response, locked};

/// Between two looks at a lock that is waited for.
const POLL_EVERY: Duration = Duration::from_millis(1);

impl Inner {
    fn pessimistic_lock(&mut self, request: &PessimisticLockRequest) -> PessimisticLockResponse {
        let start_ts = request.start_ts;
        let mut results = Vec::new();
        for key in &request.keys {
            let other = self.locks.get(key).filter(|lock| lock.start_ts != start_ts);
            if let Some(lock) = other
                && !request.skip_locked
            {
                let errors = vec![locked(key, lock)];
                return PessimisticLockResponse { errors, results: Vec::new() };
            }
            if self.rollbacks.contains(&(key.clone(), start_ts)) {
                let kind = Some(key_error::Kind::Abort("rolled back".into()));
                let errors = vec![KeyError { kind }];
                return PessimisticLockResponse { errors, results: Vec::new() };
            }
            let newest = self.versions.get(key).into_iter().flatten().map(|v| v.commit_ts).max();
            let conflict_ts = newest.filter(|ts| *ts > request.for_update_ts).unwrap_or(0);
            results.push(PessimisticLockResult { is_skipped: other.is_some(), conflict_ts });
        }
        for (key, _) in request.keys.iter().zip(&results).filter(|(_, result)| !result.is_skipped) {
            let newest = self.versions.get(key).into_iter().flatten().map(|v| v.commit_ts).max();
            let for_update_ts = request.for_update_ts.max(newest.unwrap_or(0));
            let lock = Lock {
                start_ts,
                primary: request.primary.clone(),
                ttl_ms: request.lock_ttl_ms,
                op: MutationOp::OpLock,
                value: Default::default(),
                txn_size: 0,
                min_commit_ts: 0,
                is_pessimistic: true,
                for_update_ts,
                use_async_commit: false,
                secondaries: Vec::new(),
            };
            let held = self.locks.get(key);
            if held.is_none_or(|held| held.for_update_ts < for_update_ts) {
                self.locks.insert(key.clone(), lock);
            }
        }
        PessimisticLockResponse { errors: Vec::new(), results }
    }

    pub(super) fn pessimistic_rollback(
        &mut self,
        request: &PessimisticRollbackRequest,
    ) -> PessimisticRollbackResponse {
        let start_ts = request.start_ts;
        for (key, locked_ts) in request.keys.iter().zip(&request.locked_ts) {
            let is_lost = match self.locks.get(key) {
                Some(lock) => lock.start_ts != start_ts,
                None => self
                    .versions
                    .get(key)
                    .is_some_and(|all| all.iter().any(|version| version.commit_ts > *locked_ts)),
            };
            if is_lost {
                let lost = TxnLockNotFound { key: key.clone(), start_ts };
                let error = KeyError { kind: Some(key_error::Kind::TxnLockNotFound(lost)) };
                return PessimisticRollbackResponse { error: Some(error) };
            }
        }
        let up_to = request.for_update_ts;
        for key in &request.keys {
            let is_meant = |lock: &Lock| {
                lock.start_ts == start_ts
                    && lock.is_pessimistic
                    && (up_to == 0 || lock.for_update_ts <= up_to)
            };
            if self.locks.get(key).is_some_and(is_meant) {
                self.locks.remove(key);
            }
        }
        PessimisticRollbackResponse::default()
    }

    pub(super) fn heart_beat(&mut self, request: &TxnHeartBeatRequest) -> TxnHeartBeatResponse {
        if let Some(lock) = self.locks.get_mut(&request.primary)
            && lock.start_ts == request.start_ts
        {
            lock.ttl_ms = lock.ttl_ms.max(request.advise_ttl_ms);
        }
        TxnHeartBeatResponse::default()
    }

    /// Circles of two: enough for the client.
    pub(super) fn detect_deadlock(
        &mut self,
        request: &DetectDeadlockRequest,
    ) -> DetectDeadlockResponse {
        let DetectDeadlockRequest { waiter, holder, has_given_up, .. } = *request;
        let is_circle = self.waits.contains(&(holder, waiter));
        if has_given_up || is_circle {
            self.waits.retain(|(other, _)| *other != waiter);
        } else {
            self.waits.insert((waiter, holder));
        }
        let wait = |waiter, holder| LockWait { waiter, holder, ..LockWait::default() };
        let cycle = match is_circle && !has_given_up {
            true => vec![wait(holder, waiter), wait(waiter, holder)],
            false => Vec::new(),
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
            let holder = response.errors.iter().find_map(|error| match &error.kind {
                Some(key_error::Kind::Locked(lock)) => Some(lock.start_ts),
                _ => None,
            });
            let is_waited_for =
                holder.is_some_and(|ts| ts == request.checked_holder || !request.may_deadlock);
            if !is_waited_for || left.is_zero() {
                return Response::PessimisticLock(response);
            }
            tokio::time::sleep(POLL_EVERY).await;
            left = left.saturating_sub(POLL_EVERY);
        }
    }
}
