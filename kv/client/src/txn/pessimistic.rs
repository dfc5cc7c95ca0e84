//! Pessimistic transactions: how they come by their locks, and give them back at the end.
//!
//! **Flow.** A statement reads at `for_update_ts` ([`Transaction::begin_statement`]), says which
//! keys it changed ([`Transaction::want_lock`]) and locks them at its end
//! ([`Transaction::lock_wanted`]), or locks what it reads at once ([`Transaction::lock_now`]).
//! A key that was committed to in between is locked all the same and noted
//! ([`Transaction::take_conflict`]): the statement starts over at a fresh timestamp and this
//! time reads what nobody else can change.
//!
//! **Invariant.** Locks are kept until the transaction ends, or what took them is undone
//! ([`super::release`]). So a wait ends with what its holder does, and who holds nothing can be part of
//! no deadlock.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use cairn_proto::kv::{DetectDeadlockRequest, PessimisticRollbackRequest};
use cairn_types::TimeStamp;
use cairn_types::sabotage::{Bug, planted};
use tokio_util::sync::CancellationToken;

use super::Transaction;
use super::batches::{Mutations, Run};
use super::lock_pass::{DETECTION_TIMEOUT_MS, LockPass};
use super::locks::Locks;
use crate::backoff::Deadline;
use crate::error::KvError;
use crate::request::{Cmd, RequestOptions};

/// How long the end of a transaction waits until its locks are gone, so that whoever comes next
/// finds the rows free.
const RELEASE_PATIENCE: Duration = Duration::from_secs(1);

/// What to do about locks of others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockWait {
    /// Wait for them, at most so long.
    AtMost(Duration),
    /// Fail with [`KvError::LockNotAvailable`].
    NoWait,
    /// Leave those keys out.
    Skip,
}

/// How keys are locked.
#[derive(Clone, Debug)]
pub struct LockOptions {
    /// What to do about locks of others.
    pub wait: LockWait,
    /// Others may hold the keys too, if they share them as well (`FOR SHARE`).
    pub is_shared: bool,
    /// Ends the waiting with [`KvError::Cancelled`].
    pub cancel: CancellationToken,
}

impl LockOptions {
    /// Locking that nobody cancels, without others.
    pub fn new(wait: LockWait) -> LockOptions {
        LockOptions { wait, is_shared: false, cancel: CancellationToken::new() }
    }

    /// The same, beside others that share.
    #[must_use]
    pub fn shared(self) -> LockOptions {
        LockOptions { is_shared: true, ..self }
    }
}

impl Transaction {
    /// Whether the transaction locks what it changes before it commits.
    pub fn is_pessimistic(&self) -> bool {
        self.locks.is_some()
    }

    /// From here on the transaction reads at `read_ts`, which is fresh, and so do its locks.
    pub fn begin_statement(&self, read_ts: TimeStamp) {
        if let Some(locks) = &self.locks {
            locks.begin_statement(read_ts);
        }
        if let Some(reads) = &self.reads {
            reads.keep();
        }
        self.read_at(read_ts);
    }

    /// What the running statement's locks are for: shown to whoever asks who waits.
    pub fn tag_statement(&self, tag: Bytes) {
        if let Some(locks) = &self.locks {
            locks.set_tag(tag);
        }
    }

    /// The running statement changes what the key guards. Nothing without pessimistic locks.
    pub fn want_lock(&self, key: impl FnOnce() -> Bytes) {
        if let Some(locks) = &self.locks {
            locks.want(key());
        }
    }

    /// Locks what the running statement changed.
    pub async fn lock_wanted(&self, options: &LockOptions) -> Result<(), KvError> {
        let Some(locks) = &self.locks else { return Ok(()) };
        self.lock_now(locks.take_wanted(), options).await.map(drop)
    }

    /// Locks keys; answers those that were left out. In an optimistic transaction it only
    /// guards them, until COMMIT.
    pub async fn lock_now(
        &self,
        keys: Vec<Bytes>,
        options: &LockOptions,
    ) -> Result<Vec<Bytes>, KvError> {
        let Some(locks) = &self.locks else {
            self.lock_keys(keys)?;
            return Ok(Vec::new());
        };
        if self.has_ended() {
            return Err(KvError::TxnEnded { start_ts: self.start_ts.0 });
        }
        if options.is_shared && planted(Bug::SharedLocksAreNoops) {
            return Ok(Vec::new());
        }
        let keys = locks.not_held(keys, options.is_shared);
        self.check_lock_bytes(locks, &keys)?;
        let timeout = match options.wait {
            LockWait::AtMost(timeout) => timeout,
            LockWait::NoWait | LockWait::Skip => Duration::ZERO,
        };
        let pass = LockPass {
            txn: self,
            locks,
            wait: options.wait,
            is_shared: options.is_shared,
            deadline: Deadline::after(timeout),
            is_known_to_wait: AtomicBool::new(false),
        };
        let _asking = locks.asking();
        let outcome = tokio::select! {
            biased;
            () = options.cancel.cancelled() => Err(KvError::Cancelled),
            outcome = pass.run(keys) => outcome,
        };
        if pass.is_known_to_wait.load(Ordering::Relaxed) {
            self.end_waiting().await;
        }
        outcome
    }

    /// Whether the running statement locked a key that was committed to since it read; it must
    /// start over at a timestamp that is fresh now. Forgets it.
    pub fn take_conflict(&self) -> bool {
        self.locks.as_ref().is_some_and(Locks::take_conflict)
    }

    fn check_lock_bytes(&self, locks: &Locks, keys: &[Bytes]) -> Result<(), KvError> {
        let size_bytes = locks.held_bytes() + keys.iter().map(|key| key.len() as u64).sum::<u64>();
        if size_bytes > self.client.config.txn_size_bytes_max {
            return Err(KvError::TxnTooLarge { size_bytes });
        }
        Ok(())
    }

    /// A wait that the detector knows of ended; its holder need not have.
    async fn end_waiting(&self) {
        let (client, waiter) = (self.client.clone(), self.start_ts.0);
        let request = DetectDeadlockRequest {
            waiter,
            has_given_up: true,
            ..DetectDeadlockRequest::default()
        };
        let work = async move {
            let mut retrier = client.retrier_for(DETECTION_TIMEOUT_MS);
            let build = || Cmd::DetectDeadlock(request.clone());
            let options = RequestOptions::default();
            let sent = client.cache.send_to_key(b"", &options, &mut retrier, &build);
            if let Err(error) = sent.await {
                tracing::debug!(%error, "a wait is left to be forgotten");
            }
        };
        self.client.in_background(work).await;
    }

    /// Gives locks back; behind the caller's back if a store is slow.
    pub(super) async fn give_back(&self, keys: BTreeSet<Bytes>) {
        if keys.is_empty() {
            return;
        }
        let (client, start_ts) = (self.client.clone(), self.start_ts.0);
        let work = async move {
            let keys = Mutations::of_keys(keys);
            let build = |piece: &Run| {
                let keys = keys.keys(piece);
                Cmd::PessimisticRollback(PessimisticRollbackRequest {
                    keys,
                    start_ts,
                    ..PessimisticRollbackRequest::default()
                })
            };
            if let Err(error) = keys.pass(&client, keys.all(), &build).await {
                tracing::debug!(%error, "locks are left to expire");
            }
        };
        if let Some(task) = self.client.in_background(work).await {
            let _ = tokio::time::timeout(RELEASE_PATIENCE, task).await;
        }
    }
}
