//! One locking of some keys: asks the stores, waits for others, and looks out for deadlocks.
//!
//! **Waiting** happens in the store, a second at a time; in between the client asks after the
//! holders and, if somebody may wait for itself, tells the detector of deadlocks: the store that
//! leads the first region.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use cairn_proto::kv::{
    DetectDeadlockRequest, KeyError, LockInfo, LockKind, PessimisticLockRequest,
    PessimisticLockResult, key_error,
};
use cairn_types::TimeStamp;
use futures::stream::{self, StreamExt, TryStreamExt};

use super::Transaction;
use super::batches::{Mutations, Run};
use super::keep_alive::{KeepAlive, LOCK_TTL_MS, TXN_AGE_MAX_MS};
use super::locks::Locks;
use super::pessimistic::LockWait;
use crate::backoff::Deadline;
use crate::error::{KvError, ShownKey};
use crate::lock_resolver::LockOutcome;
use crate::lock_waits::LockWaiting;
use crate::request::{Cmd, RequestOptions, expect_response};

/// How long a store keeps a request waiting. Then the client looks after the holder, which may
/// have died, and tells the detector again.
const WAIT_SLICE: Duration = Duration::from_secs(1);
/// How long the detector of deadlocks is waited for; without it a deadlock ends by timeout.
pub(super) const DETECTION_TIMEOUT_MS: u64 = 2_000;
/// Holders of one lock that are asked after at a time.
const ASKED_AFTER_AT_ONCE: usize = 8;

/// One locking of some keys.
pub(super) struct LockPass<'a> {
    pub txn: &'a Transaction,
    pub locks: &'a Locks,
    pub wait: LockWait,
    pub is_shared: bool,
    pub deadline: Deadline,
    /// The detector of deadlocks was told.
    pub is_known_to_wait: AtomicBool,
}

impl LockPass<'_> {
    /// Locks the keys; answers those that were left out.
    pub async fn run(&self, mut keys: Vec<Bytes>) -> Result<Vec<Bytes>, KvError> {
        let mut skipped = Vec::new();
        let primary = loop {
            if let Some(primary) = self.locks.primary() {
                break primary;
            }
            let Some(first) = keys.first() else { return Ok(skipped) };
            let primary = self.locks.first_of(first);
            // What may be left out, or was unsure, is locked alone: others must name what stands.
            let is_alone = self.wait == LockWait::Skip || primary != *first;
            let batch = if is_alone { vec![primary.clone()] } else { keys.clone() };
            let batch = Mutations::of_keys(batch);
            let (end, left_out) = self.lock_piece(&batch, &batch.all(), &primary).await?;
            let done = batch.keys(&(0..end));
            keys.retain(|key| done.binary_search(key).is_err());
            skipped.extend(left_out);
        };
        self.locks.keep_alive(self.txn.start_ts, |open_ms| {
            let (client, start_ts) = (self.txn.client.clone(), self.txn.start_ts);
            KeepAlive::start(client, start_ts, primary.clone(), open_ms, TXN_AGE_MAX_MS)
        });
        let rest = Mutations::of_keys(keys);
        let mut retrier = self.txn.client.retrier();
        let pieces = rest.cut(&self.txn.client, rest.all(), &mut retrier).await?;
        let locked = stream::iter(pieces)
            .map(|piece| self.lock_run(&rest, piece, &primary))
            .buffer_unordered(self.txn.client.config.concurrency.max(1));
        let left_out: Vec<Vec<Bytes>> = locked.try_collect().await?;
        skipped.extend(left_out.into_iter().flatten());
        Ok(skipped)
    }

    async fn lock_run(
        &self,
        keys: &Mutations,
        mut rest: Run,
        primary: &Bytes,
    ) -> Result<Vec<Bytes>, KvError> {
        let mut skipped = Vec::new();
        while !rest.is_empty() {
            let (end, left_out) = self.lock_piece(keys, &rest, primary).await?;
            rest.start = end;
            skipped.extend(left_out);
        }
        Ok(skipped)
    }

    /// Locks the first piece of the run; answers where it ends, and what it left out.
    async fn lock_piece(
        &self,
        keys: &Mutations,
        run: &Run,
        primary: &Bytes,
    ) -> Result<(usize, Vec<Bytes>), KvError> {
        // Those that were asked after.
        let mut checked = Vec::new();
        let mut maybe_locked = false;
        loop {
            let may_deadlock = self.locks.holds_any();
            let asked_at = self.locks.for_update_ts();
            // An attempt may follow the first one seconds later: life and wait are of now.
            let build = |piece: &Run| {
                let wait = self.deadline.remaining().min(WAIT_SLICE);
                Cmd::PessimisticLock(PessimisticLockRequest {
                    keys: keys.keys(piece),
                    primary: primary.clone(),
                    start_ts: self.txn.start_ts.0,
                    for_update_ts: asked_at.0,
                    lock_ttl_ms: self.locks.open_ms(self.txn.start_ts) + LOCK_TTL_MS,
                    wait_ms: u32::try_from(wait.as_millis()).unwrap_or(u32::MAX),
                    checked_holder: checked.first().copied().unwrap_or(0),
                    more_checked_holders: checked.iter().skip(1).copied().collect(),
                    may_deadlock,
                    skip_locked: self.wait == LockWait::Skip,
                    tag: self.locks.tag(),
                    is_shared: self.is_shared,
                })
            };
            self.locks.asked_for(&keys.keys(run), primary);
            let mut retrier = self.txn.client.retrier().noting(self.txn.view.read().scope());
            let options = RequestOptions::default();
            let client = &self.txn.client;
            let sent = keys.send_first(client, run, &options, &mut retrier, &build).await;
            maybe_locked |= retrier.maybe_executed();
            let outcome = match sent {
                Ok(answer) => {
                    let response = expect_response!(answer.response, PessimisticLock)?;
                    let Some(error) = response.errors.into_iter().next() else {
                        let piece = keys.keys(&answer.piece);
                        self.note_guarded(&piece, &response.results, asked_at);
                        let results = &response.results;
                        let skipped = self.locks.answered(piece, results, asked_at, self.is_shared);
                        return Ok((answer.piece.end, skipped));
                    };
                    Ok(error)
                }
                Err(error) => Err(error),
            };
            if !maybe_locked {
                self.locks.refused(&keys.keys(run));
            }
            checked = self.blocked(outcome?, &checked).await?;
        }
    }

    /// The store has looked for commits above `asked_at`: from the newest on, nobody else changes
    /// what is locked now.
    fn note_guarded(&self, keys: &[Bytes], results: &[PessimisticLockResult], asked_at: TimeStamp) {
        let Some(reads) = &self.txn.reads else { return };
        for (key, result) in keys.iter().zip(results).filter(|(_, result)| !result.is_skipped) {
            reads.guard(key.clone(), asked_at.max(TimeStamp(result.conflict_ts)));
        }
    }

    /// Locks of other transactions are in the way: answers whom to wait for, nobody when one of
    /// the locks is gone.
    async fn blocked(&self, error: KeyError, checked: &[u64]) -> Result<Vec<u64>, KvError> {
        let start_ts = self.txn.start_ts.0;
        let aborted = |reason: String| KvError::TxnAborted { start_ts, reason };
        let lock = match error.kind {
            Some(key_error::Kind::Locked(lock)) => lock,
            Some(key_error::Kind::Abort(reason)) => return Err(aborted(reason)),
            kind => return Err(aborted(format!("locking: {kind:?}"))),
        };
        if self.ask_after(&lock, checked).await? {
            return Ok(Vec::new());
        }
        let key = ShownKey(lock.key);
        match self.wait {
            LockWait::NoWait | LockWait::Skip => return Err(KvError::LockNotAvailable { key }),
            LockWait::AtMost(_) if self.deadline.is_over() => {
                return Err(KvError::LockTimeout { key });
            }
            LockWait::AtMost(_) => {}
        }
        let holders: Vec<u64> = std::iter::once(lock.start_ts)
            .chain(lock.shared_with.iter().map(|other| other.start_ts))
            .collect();
        // Who waits for what is just being given back is about to get it: the detector is asked
        // a slice of waiting later.
        if self.locks.holds_any() && !self.locks.is_giving_back() {
            self.detect_deadlock(&holders, key.0).await?;
        }
        Ok(holders)
    }

    /// Asks after the lock's holders, where there is reason to; answers whether one of them is gone.
    async fn ask_after(&self, lock: &LockInfo, checked: &[u64]) -> Result<bool, KvError> {
        let doubtful = lock.holders().filter(|holder| self.must_ask_after(holder, checked));
        let doubtful: Vec<LockInfo> = doubtful.cloned().collect();
        let asked = stream::iter(doubtful)
            .map(|holder| self.is_gone(holder))
            .buffer_unordered(ASKED_AFTER_AT_ONCE);
        let gone: Vec<bool> = asked.try_collect().await?;
        Ok(gone.contains(&true))
    }

    async fn is_gone(&self, lock: LockInfo) -> Result<bool, KvError> {
        let client = &self.txn.client;
        let asked = client.resolve_lock(&lock, TimeStamp::ZERO, &mut client.retrier()).await;
        Ok(asked? == LockOutcome::Resolved)
    }

    /// Most holders live and end soon: they are asked after when their time is over, or a slice
    /// of waiting was in vain. Who does not wait wants to know whether a lock is only a remnant.
    fn must_ask_after(&self, lock: &LockInfo, checked: &[u64]) -> bool {
        let expires_ms = TimeStamp(lock.start_ts).physical_ms().saturating_add(lock.ttl_ms);
        let is_impatient = !matches!(self.wait, LockWait::AtMost(_));
        checked.contains(&lock.start_ts)
            || expires_ms < self.locks.now_ms()
            || (is_impatient && lock.kind() != LockKind::Pessimistic)
    }

    async fn detect_deadlock(&self, holders: &[u64], key: Bytes) -> Result<(), KvError> {
        let waiter = self.txn.start_ts.0;
        let client = &self.txn.client;
        let request = DetectDeadlockRequest {
            waiter,
            holder: holders.first().copied().unwrap_or(0),
            more_holders: holders.iter().skip(1).copied().collect(),
            has_given_up: false,
            key,
            tag: self.locks.tag(),
        };
        let build = || Cmd::DetectDeadlock(request.clone());
        let mut retrier = client.retrier_for(DETECTION_TIMEOUT_MS);
        let options = RequestOptions::default();
        let sent = client.cache.send_to_key(b"", &options, &mut retrier, &build).await;
        let response = match sent {
            Ok(response) => expect_response!(response, DetectDeadlock)?,
            Err(error) => {
                tracing::warn!(%error, "nobody looks for deadlocks");
                return Ok(());
            }
        };
        if response.cycle.is_empty() {
            self.is_known_to_wait.store(true, Ordering::Relaxed);
            return Ok(());
        }
        let cycle = response.cycle.into_iter().map(LockWaiting::from).collect();
        Err(KvError::Deadlock { start_ts: waiter, cycle })
    }
}
