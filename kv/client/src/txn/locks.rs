//! What a pessimistic transaction knows of its locks: those it holds, those it may hold, and those it
//! gives back.
//!
//! **Invariants.**
//! - The primary, once it may be locked, stays the primary until all locks are given back: other
//!   locks only name one that is.
//! - What may be locked although nobody said so is given back with the statement that asked,
//!   and again at the end.
//! - A key that is shared is asked for once more before it is written or locked alone. If its share
//!   was lost meanwhile, what is known of the key stays as old as the share was.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cairn_proto::kv::PessimisticLockResult;
use cairn_types::TimeStamp;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::LocksMark;
use super::keep_alive::KeepAlive;
use super::release::Batch;

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

    pub(super) fn is_giving_back(&self) -> bool {
        self.0.lock().is_sending
    }

    pub(super) fn holds_any(&self) -> bool {
        let state = self.0.lock();
        !state.held.is_empty() || !state.unsure.is_empty() || !state.given_up.is_empty()
    }

    /// Those of the keys that are not held as they are wanted.
    pub(super) fn not_held(&self, keys: Vec<Bytes>, is_shared: bool) -> Vec<Bytes> {
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
    pub(super) fn first_of(&self, key: &Bytes) -> Bytes {
        match &self.0.lock().primary {
            Primary::Unsure(known) | Primary::Locked(known) => known.clone(),
            Primary::None => key.clone(),
        }
    }

    pub(super) fn asked_for(&self, keys: &[Bytes], primary: &Bytes) {
        let mut state = self.0.lock();
        state.unsure.extend(keys.iter().cloned());
        if state.primary == Primary::None {
            state.primary = Primary::Unsure(primary.clone());
        }
    }

    /// The keys are certainly not locked.
    pub(super) fn refused(&self, keys: &[Bytes]) {
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
    pub(super) fn answered(
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

    /// A statement begins that reads at `read_ts`, which is fresh.
    pub(super) fn begin_statement(&self, read_ts: TimeStamp) {
        let mut state = self.0.lock();
        state.for_update_ts = state.for_update_ts.max(read_ts);
        state.fresh_at = Instant::now();
        state.conflict_ts = TimeStamp::ZERO;
        state.wanted.clear();
    }

    /// The key is to be locked at the statement's end.
    pub(super) fn want(&self, key: Bytes) {
        let mut state = self.0.lock();
        if !state.holds(&key, false) {
            state.wanted.push(key);
        } else if let Some(asked_again) = &mut state.asked_again {
            asked_again.insert(key);
        }
    }

    /// Those keys; there are none from here on.
    pub(super) fn take_wanted(&self) -> Vec<Bytes> {
        std::mem::take(&mut self.0.lock().wanted)
    }

    /// Whether the statement met a commit that it has not read; forgets it.
    pub(super) fn take_conflict(&self) -> bool {
        !std::mem::take(&mut self.0.lock().conflict_ts).is_zero()
    }

    /// Of keys held, on their way back, or to be given back once more.
    pub(super) fn held_bytes(&self) -> u64 {
        self.0.lock().held_bytes
    }

    /// Begins heart beats, if there are none, for a transaction that has been open for some
    /// milliseconds.
    pub(super) fn keep_alive(&self, start_ts: TimeStamp, start: impl FnOnce(u64) -> KeepAlive) {
        let mut state = self.0.lock();
        if state.keep_alive.is_none() {
            state.keep_alive = Some(start(state.open_ms(start_ts)));
        }
    }

    pub(super) fn tag(&self) -> Bytes {
        self.0.lock().tag.clone()
    }

    pub(super) fn set_tag(&self, tag: Bytes) {
        self.0.lock().tag = tag;
    }

    /// A statement asks for locks until the answer is dropped.
    pub(super) fn asking(&self) -> Asking<'_> {
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

    pub(super) fn now_ms(&self) -> u64 {
        self.0.lock().now_ms()
    }

    pub(super) fn open_ms(&self, start_ts: TimeStamp) -> u64 {
        self.0.lock().open_ms(start_ts)
    }
}

/// A statement that asks for locks.
pub(super) struct Asking<'a>(&'a Locks);

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
