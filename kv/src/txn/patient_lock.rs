//! Pessimistic locks that wait for their holders.
//!
//! The command itself is tried again and again; between two tries nothing is held, neither
//! latches nor a share of the commands under way, and a caller that goes away leaves the queue.
//!
//! **Whom it waits for.** A caller for whom nobody can be waiting waits for anybody, as long as
//! the holder's time is not over. Others name the holders that they have asked after, and are
//! answered at once when there is another one. Where that one shares the key, they have a claim on it
//! while they ask: else new sharers could come in for ever.

use std::sync::Arc;
use std::time::Duration;

use cairn_proto::kv::{self, key_error, kv_request, kv_response};
use cairn_types::TimeStamp;

use super::Scheduler;
use super::lock_waits::{LockTicket, LockWait, Wake};
use crate::raftstore::{RegionContext, RegionError};

impl Scheduler {
    /// Locks the keys, waiting for other transactions as long as the request says.
    pub(super) async fn lock_patiently(
        self: &Arc<Self>,
        context: RegionContext,
        request: kv::PessimisticLockRequest,
    ) -> Result<kv_response::Cmd, RegionError> {
        let start_ts = TimeStamp(request.start_ts);
        let until = self.clock.now().plus(Duration::from_millis(request.wait_ms.into()));
        let mut ticket: Option<LockTicket> = None;
        // The ticket whose turn it is.
        let mut turn: Option<LockTicket> = None;
        loop {
            let command = kv_request::Cmd::PessimisticLock(request.clone());
            let response = self.run_once(context.clone(), command).await?;
            let Some(lock) = blocking_lock(&response) else {
                self.waits.end_claims(&request.keys, start_ts);
                if is_locked(&response) {
                    turn.into_iter().chain(ticket).for_each(LockTicket::done);
                }
                return Ok(response);
            };
            if let Some(turn) = turn.take()
                && *turn.key() == lock.key
            {
                turn.done();
            }
            let now = self.clock.now();
            let left = until.since(now);
            if left.is_zero() {
                self.waits.end_claims(&request.keys, start_ts);
                return Ok(response);
            }
            if !may_wait_for(&request, lock) {
                if lock.is_shared && !request.is_shared {
                    self.waits.claim(&lock.key, start_ts, now);
                }
                return Ok(response);
            }
            // In the queue first, then another look: a release in between wakes the ticket.
            let Some(mut entered) = ticket.take().filter(|ticket| *ticket.key() == lock.key) else {
                let wait = LockWait {
                    start_ts,
                    for_update_ts: TimeStamp(request.for_update_ts),
                    holders: lock.holders().map(|holder| TimeStamp(holder.start_ts)).collect(),
                    is_particular: request.may_deadlock,
                    is_shared: request.is_shared,
                    tag: request.tag.clone(),
                };
                ticket = self.waits.enter(&lock.key, wait);
                if ticket.is_none() {
                    return Err(RegionError::busy("too many transactions wait for locks"));
                }
                self.waits.end_claims(&request.keys, start_ts);
                continue;
            };
            match tokio::time::timeout(left, entered.woken()).await {
                Ok(Wake::Retry) => turn = Some(entered),
                Ok(Wake::Cancelled) => return Ok(cancelled()),
                Err(_) => {
                    if lock.is_shared {
                        entered.linger(start_ts, self.clock.now());
                    }
                    return Ok(response);
                }
            }
        }
    }
}

/// The lock that refused the request.
fn blocking_lock(response: &kv_response::Cmd) -> Option<&kv::LockInfo> {
    let kv_response::Cmd::PessimisticLock(response) = response else { return None };
    response.errors.iter().find_map(|error| match &error.kind {
        Some(key_error::Kind::Locked(lock)) => Some(lock),
        _ => None,
    })
}

fn is_locked(response: &kv_response::Cmd) -> bool {
    matches!(response, kv_response::Cmd::PessimisticLock(response) if response.errors.is_empty())
}

/// A holder whose time seems over is the caller's to ask after.
fn may_wait_for(request: &kv::PessimisticLockRequest, lock: &kv::LockInfo) -> bool {
    lock.holders().all(|holder| {
        let start_ts = holder.start_ts;
        if request.checked_holder == start_ts || request.more_checked_holders.contains(&start_ts) {
            return true;
        }
        let expires_ms = TimeStamp(start_ts).physical_ms().saturating_add(holder.ttl_ms);
        !request.may_deadlock && expires_ms >= TimeStamp(request.for_update_ts).physical_ms()
    })
}

fn cancelled() -> kv_response::Cmd {
    let reason = "its locks were given back while it waited for another".to_owned();
    let error = kv::KeyError { kind: Some(key_error::Kind::Abort(reason)) };
    let errors = vec![error];
    kv_response::Cmd::PessimisticLock(kv::PessimisticLockResponse { errors, results: Vec::new() })
}
