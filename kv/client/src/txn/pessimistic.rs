//! Pessimistic locks: what a transaction holds, and how it comes by it.
//!
//! **Flow.** A statement reads at `for_update_ts` ([`Transaction::begin_statement`]), says which
//! keys it changed ([`Transaction::want_lock`]) and locks them at its end
//! ([`Transaction::lock_wanted`]), or locks what it reads at once ([`Transaction::lock_now`]).
//! A key that was committed to in between is locked all the same and noted
//! ([`Transaction::take_conflict`]): the statement starts over at a fresh timestamp and this
//! time reads what nobody else can change.
//!
//! **Invariants.**
//! - Locks are kept until the transaction ends, or what took them is undone ([`super::release`]).
//!   So a wait ends with what its holder does, and who holds nothing can be part of no deadlock.
//! - A key that is shared is asked for once more before it is written or locked alone. If its share
//!   was lost meanwhile, what is known of the key stays as old as the share was.
//! - The primary, once it may be locked, stays the primary until all locks are given back: other
//!   locks only name one that is.
//! - What may be locked although nobody said so is given back with the statement that asked,
//!   and again at the end.
//!
//! **Waiting** happens in the store, a second at a time; in between the client asks after the
//! holders and, if somebody may wait for itself, tells the detector of deadlocks: the store that
//! leads the first region.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use cairn_proto::kv::{
    DetectDeadlockRequest, KeyError, LockInfo, LockKind, PessimisticLockRequest,
    PessimisticLockResult, PessimisticRollbackRequest, key_error,
};
use cairn_types::TimeStamp;
use cairn_types::sabotage::{Bug, planted};
use futures::stream::{self, StreamExt, TryStreamExt};
use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::batches::{Mutations, Run};
use super::keep_alive::{KeepAlive, LOCK_TTL_MS};
use super::release::Batch;
use super::{LocksMark, Transaction};
use crate::backoff::Deadline;
use crate::error::{KvError, ShownKey};
use crate::lock_resolver::LockOutcome;
use crate::lock_waits::LockWaiting;
use crate::request::{Cmd, RequestOptions, expect_response};

/// How long a store keeps a request waiting. Then the client looks after the holder, which may
/// have died, and tells the detector again.
const WAIT_SLICE: Duration = Duration::from_secs(1);
/// How long the detector of deadlocks is waited for; without it a deadlock ends by timeout.
const DETECTION_TIMEOUT_MS: u64 = 2_000;

/// How long the end of a transaction waits until its locks are gone, so that whoever comes next
/// finds the rows free.
const RELEASE_PATIENCE: Duration = Duration::from_secs(1);

/// Holders of one lock that are asked after at a time.
const ASKED_AFTER_AT_ONCE: usize = 8;

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

/// The key that decides the transaction's fate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Primary {
    #[default]
    None,
    /// It may be locked.
    Unsure(Bytes),
    Locked(Bytes),
}

/// The keys held.
pub(super) type Held = BTreeMap<Bytes, HeldLock>;

/// A lock of the transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct HeldLock {
    /// Up to when commits to the key are known.
    pub known_ts: TimeStamp,
    /// Others may hold the key too.
    pub is_shared: bool,
}

/// The locks of a transaction.
#[derive(Clone)]
pub(super) struct Locks(Arc<Mutex<State>>);

struct State {
    primary: Primary,
    held: Held,
    /// The same keys as they were taken.
    taken: Vec<Bytes>,
    /// Of keys held, on their way back, or to be given back once more.
    held_bytes: u64,
    /// Asked for without a certain answer.
    unsure: BTreeSet<Bytes>,
    /// Given back without a certain answer, or before the answer to a request for them: once more
    /// at the end.
    given_up: BTreeSet<Bytes>,
    /// To be given back, oldest first.
    batches: VecDeque<Batch>,
    /// A task sends them.
    is_sending: bool,
    /// Of a statement that started over: what it has asked for since.
    asked_again: Option<BTreeSet<Bytes>>,
    /// Changed by the running statement.
    wanted: Vec<Bytes>,
    for_update_ts: TimeStamp,
    /// When that timestamp was fresh.
    fresh_at: Instant,
    /// Newest commit that the running statement has not read.
    conflict_ts: TimeStamp,
    /// The same of all statements so far.
    newest_conflict_ts: TimeStamp,
    keep_alive: Option<KeepAlive>,
    /// Since when a statement asks for locks.
    locking_since: Option<Instant>,
    /// Which one it is, for people who ask who waits.
    tag: Bytes,
}

impl Locks {
    pub(super) fn new(start_ts: TimeStamp) -> Locks {
        Locks(Arc::new(Mutex::new(State {
            primary: Primary::None,
            held: Held::new(),
            taken: Vec::new(),
            held_bytes: 0,
            unsure: BTreeSet::new(),
            given_up: BTreeSet::new(),
            batches: VecDeque::new(),
            is_sending: false,
            asked_again: None,
            wanted: Vec::new(),
            for_update_ts: start_ts,
            fresh_at: Instant::now(),
            conflict_ts: TimeStamp::ZERO,
            newest_conflict_ts: TimeStamp::ZERO,
            keep_alive: None,
            locking_since: None,
            tag: Bytes::new(),
        })))
    }

    /// The keys held, in order.
    pub(super) fn held(&self) -> Held {
        self.0.lock().held.clone()
    }

    pub(super) fn primary(&self) -> Option<Bytes> {
        match &self.0.lock().primary {
            Primary::Locked(key) => Some(key.clone()),
            Primary::None | Primary::Unsure(_) => None,
        }
    }

    pub(super) fn for_update_ts(&self) -> TimeStamp {
        self.0.lock().for_update_ts
    }

    /// Forgets everything; answers the keys that are held or may be.
    pub(super) fn give_all_back(&self) -> BTreeSet<Bytes> {
        let mut state = self.0.lock();
        let mut keys: BTreeSet<Bytes> = std::mem::take(&mut state.held).into_keys().collect();
        keys.append(&mut state.doubtful());
        keys
    }

    /// Forgets everything; answers the keys that are not known to be held, but may be.
    pub(super) fn give_unsure_back(&self) -> BTreeSet<Bytes> {
        let mut state = self.0.lock();
        state.held.clear();
        state.doubtful()
    }

    /// Where locks are given back to.
    pub(super) fn mark(&self) -> LocksMark {
        LocksMark(self.0.lock().taken.len())
    }

    /// Forgets the locks taken since, and those of unknown fate; answers them.
    pub(super) fn give_back_since(&self, mark: LocksMark) -> BTreeSet<Bytes> {
        let mut state = self.0.lock();
        state.asked_again = None;
        state.wanted.clear();
        let at = mark.0.min(state.taken.len());
        let taken = state.taken.split_off(at);
        for key in &taken {
            state.held.remove(key);
        }
        let mut unsure = std::mem::take(&mut state.unsure);
        // A share that may have become more is kept as it was.
        unsure.retain(|key| !state.held.contains_key(key));
        for key in &unsure {
            // The request may come behind the one that gives it back.
            state.give_up(key.clone());
        }
        state.forget_primary_of_nothing();
        taken.into_iter().chain(unsure).collect()
    }

    /// The running statement starts over.
    pub(super) fn start_over(&self) {
        self.0.lock().asked_again = Some(BTreeSet::new());
    }

    /// Forgets the locks that a statement which started over took since the mark and did not ask
    /// for again; answers them. The primary stays as long as others name it.
    pub(super) fn give_stale_back(&self, mark: LocksMark) -> BTreeSet<Bytes> {
        let mut state = self.0.lock();
        let Some(asked_again) = state.asked_again.take() else { return BTreeSet::new() };
        let at = mark.0.min(state.taken.len());
        let (kept, stale): (Vec<Bytes>, Vec<Bytes>) =
            state.taken.split_off(at).into_iter().partition(|key| asked_again.contains(key));
        let is_needed = !state.taken.is_empty() || !kept.is_empty();
        state.taken.extend(kept);
        let mut given_back = BTreeSet::new();
        for key in stale {
            if is_needed && state.primary == Primary::Locked(key.clone()) {
                state.taken.push(key);
                continue;
            }
            state.held.remove(&key);
            given_back.insert(key);
        }
        state.forget_primary_of_nothing();
        given_back
    }

    /// Queues keys to be given back; whether a task must be begun that sends them.
    pub(super) fn enqueue(&self, keys: BTreeSet<Bytes>) -> bool {
        let mut state = self.0.lock();
        // A lock may have been taken above the timestamp it was asked for with, at that of a
        // commit; PD's later ones are above either.
        let for_update_ts = state.for_update_ts.max(state.newest_conflict_ts);
        state.batches.push_back(Batch { keys, for_update_ts });
        !std::mem::replace(&mut state.is_sending, true)
    }

    /// The oldest batch; without any, the task that asks is over.
    pub(super) fn next_batch(&self) -> Option<Batch> {
        let mut state = self.0.lock();
        let batch = state.batches.pop_front();
        state.is_sending = batch.is_some();
        batch
    }

    /// The batch was answered for, or not.
    pub(super) fn batch_sent(&self, batch: Batch, is_done: bool) {
        let mut state = self.0.lock();
        for key in batch.keys {
            if is_done {
                let is_counted = !state.given_up.contains(&key);
                let bytes = if is_counted { key.len() as u64 } else { 0 };
                state.held_bytes = state.held_bytes.saturating_sub(bytes);
            } else {
                state.given_up.insert(key);
            }
        }
    }

    fn is_giving_back(&self) -> bool {
        self.0.lock().is_sending
    }

    pub(super) fn holds_any(&self) -> bool {
        let state = self.0.lock();
        !state.held.is_empty() || !state.unsure.is_empty() || !state.given_up.is_empty()
    }

    /// Those of the keys that are not held as they are wanted.
    fn not_held(&self, keys: Vec<Bytes>, is_shared: bool) -> Vec<Bytes> {
        let mut state = self.0.lock();
        if let Some(asked_again) = &mut state.asked_again {
            asked_again.extend(keys.iter().cloned());
        }
        let mut keys = keys;
        keys.retain(|key| !state.holds(key, is_shared));
        keys.sort_unstable();
        keys.dedup();
        keys
    }

    /// The primary that must be locked first: one that may be locked already, or `key`.
    fn first_of(&self, key: &Bytes) -> Bytes {
        match &self.0.lock().primary {
            Primary::Unsure(known) | Primary::Locked(known) => known.clone(),
            Primary::None => key.clone(),
        }
    }

    fn asked_for(&self, keys: &[Bytes], primary: &Bytes) {
        let mut state = self.0.lock();
        state.unsure.extend(keys.iter().cloned());
        if state.primary == Primary::None {
            state.primary = Primary::Unsure(primary.clone());
        }
    }

    /// The keys are certainly not locked.
    fn refused(&self, keys: &[Bytes]) {
        let mut state = self.0.lock();
        for key in keys {
            state.unsure.remove(key);
            if state.primary == Primary::Unsure(key.clone()) {
                state.primary = Primary::None;
            }
        }
    }

    /// Takes the store's answer over, which looked for commits above `asked_at`; answers the keys
    /// it left out.
    fn answered(
        &self,
        keys: Vec<Bytes>,
        results: &[PessimisticLockResult],
        asked_at: TimeStamp,
        is_shared: bool,
    ) -> Vec<Bytes> {
        let mut skipped = Vec::new();
        let mut state = self.0.lock();
        for (key, result) in keys.into_iter().zip(results) {
            state.unsure.remove(&key);
            let is_primary = state.primary == Primary::Unsure(key.clone());
            if result.is_skipped {
                if is_primary {
                    state.primary = Primary::None;
                }
                skipped.push(key);
                continue;
            }
            if is_primary {
                state.primary = Primary::Locked(key.clone());
            }
            state.conflict_ts = state.conflict_ts.max(TimeStamp(result.conflict_ts));
            state.newest_conflict_ts = state.newest_conflict_ts.max(state.conflict_ts);
            let share = state.held.get(&key).copied();
            let is_counted = state.given_up.remove(&key) || share.is_some();
            if !is_counted {
                state.held_bytes += key.len() as u64;
            }
            let mut known_ts = asked_at.max(TimeStamp(result.conflict_ts));
            match share {
                None => state.taken.push(key.clone()),
                // What was committed while nobody held the key was told to nobody.
                Some(share) if !(1..=share.known_ts.0).contains(&result.held_ts) => {
                    known_ts = share.known_ts;
                }
                Some(_) => {}
            }
            state.held.insert(key, HeldLock { known_ts, is_shared });
        }
        skipped
    }

    fn tag(&self) -> Bytes {
        self.0.lock().tag.clone()
    }

    /// A statement asks for locks until the answer is dropped.
    fn asking(&self) -> Asking<'_> {
        self.0.lock().locking_since = Some(Instant::now());
        Asking(self)
    }

    /// For how long a statement has been asking for locks.
    pub(super) fn asking_for(&self) -> Option<Duration> {
        self.0.lock().locking_since.map(|since| since.elapsed())
    }

    /// The first key behind `from` (or at it) that is held.
    pub(super) fn first_held(&self, from: &[u8]) -> Option<Bytes> {
        let from = (Bound::Included(from), Bound::Unbounded);
        self.0.lock().held.range::<[u8], _>(from).next().map(|(key, _)| key.clone())
    }

    fn now_ms(&self) -> u64 {
        self.0.lock().now_ms()
    }

    fn open_ms(&self, start_ts: TimeStamp) -> u64 {
        self.0.lock().open_ms(start_ts)
    }
}

/// A statement that asks for locks.
struct Asking<'a>(&'a Locks);

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.0.0.lock().locking_since = None;
    }
}

impl State {
    /// Whether the key is held, alone if that is wanted.
    fn holds(&self, key: &Bytes, is_shared: bool) -> bool {
        self.held.get(key).is_some_and(|held| is_shared || !held.is_shared)
    }

    /// Ends the heart beats; answers the keys that may be held although nobody said so.
    fn doubtful(&mut self) -> BTreeSet<Bytes> {
        self.keep_alive = None;
        self.taken.clear();
        let mut keys = std::mem::take(&mut self.unsure);
        keys.append(&mut self.given_up);
        keys.extend(self.batches.drain(..).flat_map(|batch| batch.keys));
        keys
    }

    /// To be given back once more at the end; counted until then.
    fn give_up(&mut self, key: Bytes) {
        let bytes = key.len() as u64;
        if self.given_up.insert(key) {
            self.held_bytes += bytes;
        }
    }

    /// Without any lock there is nothing to keep alive, and the next one is the primary.
    fn forget_primary_of_nothing(&mut self) {
        if self.held.is_empty() {
            self.primary = Primary::None;
            self.keep_alive = None;
        }
    }

    /// About now, by PD's clock.
    fn now_ms(&self) -> u64 {
        let since = u64::try_from(self.fresh_at.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.for_update_ts.physical_ms().saturating_add(since)
    }

    /// How long the transaction has been open.
    fn open_ms(&self, start_ts: TimeStamp) -> u64 {
        self.now_ms().saturating_sub(start_ts.physical_ms())
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
            let mut state = locks.0.lock();
            state.for_update_ts = state.for_update_ts.max(read_ts);
            state.fresh_at = Instant::now();
            state.conflict_ts = TimeStamp::ZERO;
            state.wanted.clear();
        }
        if let Some(reads) = &self.reads {
            reads.keep();
        }
        self.read_at(read_ts);
    }

    /// What the running statement's locks are for: shown to whoever asks who waits.
    pub fn tag_statement(&self, tag: Bytes) {
        if let Some(locks) = &self.locks {
            locks.0.lock().tag = tag;
        }
    }

    /// The running statement changes what the key guards. Nothing without pessimistic locks.
    pub fn want_lock(&self, key: impl FnOnce() -> Bytes) {
        let Some(locks) = &self.locks else { return };
        let key = key();
        let mut state = locks.0.lock();
        if !state.holds(&key, false) {
            state.wanted.push(key);
        } else if let Some(asked_again) = &mut state.asked_again {
            asked_again.insert(key);
        }
    }

    /// Locks what the running statement changed.
    pub async fn lock_wanted(&self, options: &LockOptions) -> Result<(), KvError> {
        let Some(locks) = &self.locks else { return Ok(()) };
        let wanted = std::mem::take(&mut locks.0.lock().wanted);
        self.lock_now(wanted, options).await.map(drop)
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
        let Some(locks) = &self.locks else { return false };
        !std::mem::take(&mut locks.0.lock().conflict_ts).is_zero()
    }

    fn check_lock_bytes(&self, locks: &Locks, keys: &[Bytes]) -> Result<(), KvError> {
        let held_bytes = locks.0.lock().held_bytes;
        let size_bytes = held_bytes + keys.iter().map(|key| key.len() as u64).sum::<u64>();
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

/// One locking of some keys.
struct LockPass<'a> {
    txn: &'a Transaction,
    locks: &'a Locks,
    wait: LockWait,
    is_shared: bool,
    deadline: Deadline,
    /// The detector of deadlocks was told.
    is_known_to_wait: AtomicBool,
}

impl LockPass<'_> {
    async fn run(&self, mut keys: Vec<Bytes>) -> Result<Vec<Bytes>, KvError> {
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
        self.keep_alive(&primary);
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

    fn keep_alive(&self, primary: &Bytes) {
        let mut state = self.locks.0.lock();
        if state.keep_alive.is_none() {
            let (client, start_ts) = (self.txn.client.clone(), self.txn.start_ts);
            let open_ms = state.open_ms(start_ts);
            state.keep_alive = Some(KeepAlive::start(client, start_ts, primary.clone(), open_ms));
        }
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
            let mut retrier = self.txn.client.retrier();
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
