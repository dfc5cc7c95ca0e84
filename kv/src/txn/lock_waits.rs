//! Who waits for which key: the queues of pessimistic locks.
//!
//! A command that finds a key locked enters the key's queue and looks once more: whatever
//! releases the key after that wakes it. The oldest transaction (smallest `start_ts`) is woken
//! first, and alone; the others go on waiting for whoever takes the lock then. If the one that
//! was woken does not take it (it waits for another key now, or its caller has gone), the next
//! is woken.
//!
//! A waiter that others may wait for in turn must know its holders, to be told of deadlocks:
//! it is woken too when another transaction takes the key.
//!
//! **Sharers** are woken together, but for those behind an older waiter that wants the key for
//! itself: it has a claim on the key, and newcomers that are younger do not overtake it either
//! ([`LockWaits::claimed`]). Clients wait for a while at a time, and those that others may wait for ask after
//! every new holder before they wait: so the claim goes before its waiter, and outlives it, by a
//! moment ([`LockWaits::claim`]). Deadlocks are found all the same: those behind a claim say that they
//! wait for the holders, whom the one with the claim waits for, and for nobody else. A sharer that wants the key for itself is woken when it is the last
//! one that holds it, before everybody else.
//!
//! **Left out.** A newcomer may take a free key before the one that was just woken; that one
//! queues up again and is still the oldest.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use cairn_types::TimeStamp;
use foldhash::fast::RandomState;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::mvcc::SHARERS_MAX;
use crate::raftstore::MonotonicTime;

/// Waiters of a store; one more is refused as the store being busy.
const WAITERS_MAX: usize = 16 << 10;
/// How long a claim waits for its waiter to come again, which asks after the holders meanwhile. A client
/// that has died keeps sharers out for so long, and those that queue already for a slice of waiting.
const CLAIM_LINGERS: Duration = Duration::from_millis(500);
/// Claims that linger; those above it end with their waiters.
const LINGERING_MAX: usize = 1_024;

/// Why a waiter goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// The key may be free, or has another holder: look again.
    Retry,
    /// The transaction gives its locks back; nothing more must be locked for it.
    Cancelled,
}

/// The queues of a store.
#[derive(Default)]
pub struct LockWaits {
    queues: Mutex<HashMap<Bytes, Vec<Waiter>, RandomState>>,
    /// Claims whose waiters are about to come again, by their ends.
    lingering: Mutex<VecDeque<Lingering>>,
    /// Waiters in all queues: releases pass by when there are none.
    count: AtomicUsize,
    next_id: AtomicU64,
}

/// Who waits, and for whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockWait {
    /// The transaction that waits.
    pub start_ts: TimeStamp,
    /// When its statement read.
    pub for_update_ts: TimeStamp,
    /// Those that hold the key.
    pub holders: Vec<TimeStamp>,
    /// It waits for these holders only.
    pub is_particular: bool,
    /// It would share the key.
    pub is_shared: bool,
    /// What it locks for, shown to people.
    pub tag: Bytes,
}

struct Waiter {
    id: u64,
    wait: LockWait,
    wake: oneshot::Sender<Wake>,
}

struct Lingering {
    key: Bytes,
    start_ts: TimeStamp,
    until: MonotonicTime,
}

/// A place in a key's queue; left when dropped.
pub struct LockTicket {
    waits: Arc<LockWaits>,
    key: Bytes,
    id: u64,
    woken: oneshot::Receiver<Wake>,
    is_done: bool,
    /// It keeps nobody from sharing the key, or goes on doing so.
    leaves_silently: bool,
}

impl LockWaits {
    /// Enters the key's queue; `None` when the store has too many waiters.
    pub fn enter(self: &Arc<Self>, key: &Bytes, wait: LockWait) -> Option<LockTicket> {
        if self.count.fetch_add(1, Ordering::SeqCst) >= WAITERS_MAX {
            self.count.fetch_sub(1, Ordering::SeqCst);
            return None;
        }
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (wake, woken) = oneshot::channel();
        let leaves_silently = wait.is_shared;
        let waiter = Waiter { id, wait, wake };
        self.queues.lock().entry(key.clone()).or_default().push(waiter);
        let (waits, key) = (Arc::clone(self), key.clone());
        Some(LockTicket { waits, key, id, woken, is_done: false, leaves_silently })
    }

    /// Waiters in all queues.
    pub fn len(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The key's lock may be gone: wakes the oldest waiter, and those who would share the key
    /// with it.
    pub fn released(&self, key: &Bytes) {
        self.wake(key, Wake::Retry, |queue| {
            let oldest = queue.iter().map(Waiter::age).min();
            let claim = oldest_claim(queue);
            move |waiter| oldest == Some(waiter.age()) || waiter.may_share(claim)
        });
    }

    /// The key is locked: wakes those who may lock it all the same, and those who wait for other
    /// holders only.
    pub fn taken(&self, key: &Bytes, holders: &[TimeStamp], is_shared: bool) {
        let has_room = is_shared && holders.len() < SHARERS_MAX;
        self.wake(key, Wake::Retry, |queue| {
            let claim = oldest_claim(queue);
            move |waiter| {
                let may_share = has_room && waiter.may_share(claim);
                let wait = &mut waiter.wait;
                let others = holders.iter().filter(|holder| **holder != wait.start_ts);
                let others: Vec<TimeStamp> = others.copied().collect();
                let is_last = others.is_empty() && !wait.is_shared;
                let is_news = others.iter().any(|holder| !wait.holders.contains(holder));
                if may_share || is_last || (wait.is_particular && is_news) {
                    return true;
                }
                wait.holders = others;
                false
            }
        });
    }

    /// Those of the keys that an older transaction waits for to have alone.
    pub fn claimed(
        &self,
        keys: &[Bytes],
        start_ts: TimeStamp,
        now: MonotonicTime,
    ) -> BTreeSet<Bytes> {
        let is_claimed_by = |claim: TimeStamp| claim < start_ts;
        let mut claimed = BTreeSet::new();
        {
            let mut lingering = self.lingering.lock();
            while lingering.front().is_some_and(|first| first.until <= now) {
                lingering.pop_front();
            }
            let older = lingering.iter().filter(|one| is_claimed_by(one.start_ts));
            claimed.extend(older.map(|one| &one.key).filter(|key| keys.contains(key)).cloned());
        }
        if self.is_empty() {
            return claimed;
        }
        let queues = self.queues.lock();
        let claim = |key: &Bytes| queues.get(key).and_then(|queue| oldest_claim(queue));
        claimed.extend(keys.iter().filter(|key| claim(key).is_some_and(is_claimed_by)).cloned());
        claimed
    }

    /// The transaction comes in a moment to have the key alone: until then it has a claim. False
    /// when there are too many of them.
    pub fn claim(&self, key: &Bytes, start_ts: TimeStamp, now: MonotonicTime) -> bool {
        let mut lingering = self.lingering.lock();
        lingering.retain(|one| one.until > now && (one.start_ts != start_ts || one.key != *key));
        let has_room = lingering.len() < LINGERING_MAX;
        if has_room {
            let (key, until) = (key.clone(), now.plus(CLAIM_LINGERS));
            lingering.push_back(Lingering { key, start_ts, until });
        }
        has_room
    }

    /// The transaction queues for the keys, has them, or does not want them any more: its claims
    /// do not linger.
    pub fn end_claims(&self, keys: &[Bytes], start_ts: TimeStamp) {
        let mut ended = Vec::new();
        self.lingering.lock().retain(|one| {
            let is_ended = one.start_ts == start_ts && keys.contains(&one.key);
            ended.extend(is_ended.then(|| one.key.clone()));
            !is_ended
        });
        ended.iter().for_each(|key| self.give_way(key));
    }

    /// Who waits for which key, at most `limit` of them.
    pub fn list(&self, limit: usize) -> Vec<(Bytes, LockWait)> {
        let queues = self.queues.lock();
        let all = queues.iter().flat_map(|(key, queue)| {
            queue.iter().map(move |waiter| (key.clone(), waiter.wait.clone()))
        });
        all.take(limit).collect()
    }

    /// The transaction gives the key back: its own waiters end, but for those of statements behind
    /// `up_to` (zero: of none).
    pub fn cancel(&self, key: &Bytes, start_ts: TimeStamp, up_to: TimeStamp) {
        self.end_claims(std::slice::from_ref(key), start_ts);
        let is_meant = move |wait: &LockWait| {
            wait.start_ts == start_ts && (up_to.is_zero() || wait.for_update_ts <= up_to)
        };
        self.wake(key, Wake::Cancelled, |_| move |waiter| is_meant(&waiter.wait));
    }

    /// Nobody waits any more who had a claim before these: wakes those who may share the key.
    fn give_way(&self, key: &Bytes) {
        self.wake(key, Wake::Retry, |queue| {
            let claim = oldest_claim(queue);
            move |waiter| waiter.may_share(claim)
        });
    }

    fn wake<P: FnMut(&mut Waiter) -> bool>(
        &self,
        key: &Bytes,
        wake: Wake,
        choose: impl FnOnce(&[Waiter]) -> P,
    ) {
        if self.is_empty() {
            return;
        }
        let mut queues = self.queues.lock();
        let Some(queue) = queues.get_mut(key) else { return };
        let chosen = choose(queue);
        let woken: Vec<Waiter> = queue.extract_if(.., chosen).collect();
        if queue.is_empty() {
            queues.remove(key);
        }
        drop(queues);
        self.count.fetch_sub(woken.len(), Ordering::SeqCst);
        for waiter in woken {
            // One that is just leaving hands the turn on itself.
            let _ = waiter.wake.send(wake);
        }
    }

    /// Leaves the queue; false when it was woken before.
    fn leave(&self, key: &Bytes, id: u64) -> bool {
        let mut queues = self.queues.lock();
        let Some(queue) = queues.get_mut(key) else { return false };
        let Some(at) = queue.iter().position(|waiter| waiter.id == id) else { return false };
        queue.swap_remove(at);
        if queue.is_empty() {
            queues.remove(key);
        }
        drop(queues);
        self.count.fetch_sub(1, Ordering::SeqCst);
        true
    }
}

impl LockTicket {
    /// The key waited for.
    pub fn key(&self) -> &Bytes {
        &self.key
    }

    /// Until it is woken.
    pub async fn woken(&mut self) -> Wake {
        // The sender lives in the queue until it is used.
        (&mut self.woken).await.unwrap_or(Wake::Retry)
    }

    /// The key was taken: nobody else need be woken.
    pub fn done(mut self) {
        self.is_done = true;
    }

    /// The waiter comes again in a moment: its claim on the key stays until then.
    pub fn linger(mut self, start_ts: TimeStamp, now: MonotonicTime) {
        if !self.leaves_silently {
            self.leaves_silently = self.waits.claim(&self.key, start_ts, now);
        }
    }
}

impl Drop for LockTicket {
    fn drop(&mut self) {
        let was_woken = !self.waits.leave(&self.key, self.id);
        match (self.is_done, was_woken) {
            (true, _) => {}
            (false, true) => self.waits.released(&self.key),
            (false, false) if self.leaves_silently => {}
            (false, false) => self.waits.give_way(&self.key),
        }
    }
}

impl Waiter {
    fn age(&self) -> (TimeStamp, u64) {
        (self.wait.start_ts, self.id)
    }

    /// Whether it may share the key with its holders, if these share it.
    fn may_share(&self, claim: Option<TimeStamp>) -> bool {
        self.wait.is_shared && claim.is_none_or(|claim| self.wait.start_ts <= claim)
    }
}

/// The oldest of those who want the key for themselves.
fn oldest_claim(queue: &[Waiter]) -> Option<TimeStamp> {
    queue.iter().filter(|waiter| !waiter.wait.is_shared).map(|waiter| waiter.wait.start_ts).min()
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn key() -> Bytes {
        Bytes::from_static(b"k")
    }

    fn enter(waits: &Arc<LockWaits>, start_ts: u64, only_holder: Option<u64>) -> LockTicket {
        waits.enter(&key(), wait(start_ts, only_holder)).expect("there is room")
    }

    fn wait(start_ts: u64, only_holder: Option<u64>) -> LockWait {
        LockWait {
            start_ts: TimeStamp(start_ts),
            for_update_ts: TimeStamp(start_ts),
            holders: vec![TimeStamp(only_holder.unwrap_or(5))],
            is_particular: only_holder.is_some(),
            is_shared: false,
            tag: Bytes::new(),
        }
    }

    fn share(waits: &Arc<LockWaits>, start_ts: u64) -> LockTicket {
        let wait = LockWait { is_shared: true, ..wait(start_ts, None) };
        waits.enter(&key(), wait).expect("there is room")
    }

    fn taken(waits: &LockWaits, holder: u64) {
        waits.taken(&key(), &[TimeStamp(holder)], false);
    }

    fn shared(waits: &LockWaits, holders: &[u64]) {
        let holders: Vec<TimeStamp> = holders.iter().copied().map(TimeStamp).collect();
        waits.taken(&key(), &holders, true);
    }

    fn is_claimed(waits: &LockWaits, start_ts: u64) -> bool {
        !waits.claimed(&[key()], TimeStamp(start_ts), MonotonicTime::default()).is_empty()
    }

    fn woken(ticket: &mut LockTicket) -> Option<Wake> {
        ticket.woken().now_or_never()
    }

    #[test]
    fn the_oldest_is_woken_first_and_alone() {
        let waits = Arc::new(LockWaits::default());
        let mut young = enter(&waits, 30, None);
        let mut old = enter(&waits, 10, None);
        waits.released(&Bytes::from_static(b"other"));
        assert_eq!(woken(&mut old), None);
        waits.released(&key());
        assert_eq!((woken(&mut old), woken(&mut young)), (Some(Wake::Retry), None));
        old.done();
        assert_eq!(woken(&mut young), None);
        waits.released(&key());
        assert_eq!(woken(&mut young), Some(Wake::Retry));
        young.done();
        assert!(waits.is_empty() && waits.queues.lock().is_empty());
    }

    #[test]
    fn one_that_does_not_take_the_key_hands_the_turn_on() {
        let waits = Arc::new(LockWaits::default());
        let mut second = enter(&waits, 20, None);
        let first = enter(&waits, 10, None);
        waits.released(&key());
        drop(first);
        assert_eq!(woken(&mut second), Some(Wake::Retry));
        let third = enter(&waits, 30, None);
        // One that leaves before its turn wakes nobody.
        drop(third);
        second.done();
        assert!(waits.is_empty());
    }

    #[test]
    fn who_watches_its_holder_is_told_of_another() {
        let waits = Arc::new(LockWaits::default());
        let mut watching = enter(&waits, 10, Some(5));
        let mut patient = enter(&waits, 20, None);
        taken(&waits, 5);
        assert_eq!(woken(&mut watching), None);
        taken(&waits, 7);
        assert_eq!((woken(&mut watching), woken(&mut patient)), (Some(Wake::Retry), None));
        watching.done();
        let listed = waits.list(9);
        assert_eq!(
            listed[0].1.holders,
            [TimeStamp(7)],
            "those who wait on are shown with the new holder"
        );
        waits.cancel(&key(), TimeStamp(20), TimeStamp(19));
        assert_eq!(waits.len(), 1, "its statement began later");
        waits.cancel(&key(), TimeStamp(20), TimeStamp(20));
        assert_eq!(woken(&mut patient), Some(Wake::Cancelled));
        patient.done();
    }

    #[test]
    fn sharers_are_woken_together_up_to_an_older_claim() {
        let waits = Arc::new(LockWaits::default());
        let (mut first, mut second) = (share(&waits, 10), share(&waits, 20));
        let mut alone = enter(&waits, 30, None);
        let mut behind = share(&waits, 40);
        assert!(is_claimed(&waits, 35) && !is_claimed(&waits, 25));
        waits.released(&key());
        assert_eq!((woken(&mut first), woken(&mut second)), (Some(Wake::Retry), Some(Wake::Retry)));
        assert_eq!((woken(&mut alone), woken(&mut behind)), (None, None));
        shared(&waits, &[10, 20]);
        first.done();
        second.done();
        // Who is behind the claim goes on once it is given up.
        drop(alone);
        assert_eq!(woken(&mut behind), Some(Wake::Retry));
        behind.done();
        assert!(waits.is_empty());
    }

    #[test]
    fn a_claim_outlives_its_waiter_by_a_moment() {
        let waits = Arc::new(LockWaits::default());
        let now = MonotonicTime::default();
        let mut behind = share(&waits, 40);
        enter(&waits, 30, None).linger(TimeStamp(30), now);
        assert_eq!(woken(&mut behind), None);
        let is_claimed = |now| !waits.claimed(&[key()], TimeStamp(40), now).is_empty();
        assert!(is_claimed(now) && !is_claimed(now.plus(CLAIM_LINGERS)));
        // One that comes again has it in the queue; one that has ended has none.
        enter(&waits, 30, None).linger(TimeStamp(30), now);
        assert!(is_claimed(now));
        // Once more: it is one claim.
        assert!(waits.claim(&key(), TimeStamp(30), now));
        waits.end_claims(&["other".into()], TimeStamp(30));
        assert!(is_claimed(now));
        waits.end_claims(&[key()], TimeStamp(30));
        assert!(!is_claimed(now));
        assert_eq!(woken(&mut behind), Some(Wake::Retry));
        behind.done();
        assert!(waits.is_empty() && waits.lingering.lock().is_empty());
    }

    #[test]
    fn the_last_sharer_goes_before_all_others() {
        let waits = Arc::new(LockWaits::default());
        let mut stranger = enter(&waits, 10, None);
        let mut sharer = enter(&waits, 30, Some(20));
        shared(&waits, &[20, 30]);
        assert_eq!((woken(&mut stranger), woken(&mut sharer)), (None, None));
        // A holder that the one knows nothing of.
        shared(&waits, &[5, 20, 30]);
        assert_eq!((woken(&mut stranger), woken(&mut sharer)), (None, Some(Wake::Retry)));
        sharer.done();
        let mut sharer = enter(&waits, 30, Some(20));
        shared(&waits, &[30]);
        assert_eq!((woken(&mut stranger), woken(&mut sharer)), (None, Some(Wake::Retry)));
        sharer.done();
        assert_eq!(waits.list(9)[0].1.holders, [TimeStamp(30)]);
    }

    #[test]
    fn waiters_are_bounded() {
        let waits = Arc::new(LockWaits::default());
        let tickets: Vec<LockTicket> =
            (0..WAITERS_MAX as u64).map(|at| enter(&waits, at, None)).collect();
        assert!(waits.enter(&key(), wait(1, None)).is_none());
        drop(tickets);
        assert!(waits.is_empty());
    }
}
