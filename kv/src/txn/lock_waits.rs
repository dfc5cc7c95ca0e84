//! Who waits for which key: the queues of pessimistic locks.
//!
//! A command that finds a key locked enters the key's queue and looks once more: whatever
//! releases the key after that wakes it. The oldest transaction (smallest `start_ts`) is woken
//! first, and alone; the others go on waiting for whoever takes the lock then. If the one that
//! was woken does not take it (it waits for another key now, or its caller has gone), the next
//! is woken.
//!
//! A waiter that others may wait for in turn must know its holder, to be told of deadlocks:
//! it is woken too when another transaction takes the key.
//!
//! **Left out.** A newcomer may take a free key before the one that was just woken; that one
//! queues up again and is still the oldest.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use bytes::Bytes;
use cairn_types::TimeStamp;
use foldhash::fast::RandomState;
use parking_lot::Mutex;
use tokio::sync::oneshot;

/// Waiters of a store; one more is refused as the store being busy.
const WAITERS_MAX: usize = 16 << 10;

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
    /// Waiters in all queues: releases pass by when there are none.
    count: AtomicUsize,
    next_id: AtomicU64,
}

/// Who waits, and for whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockWait {
    /// The transaction that waits.
    pub start_ts: TimeStamp,
    /// The one that holds the key.
    pub holder: TimeStamp,
    /// It waits for this holder only.
    pub is_particular: bool,
    /// What it locks for, shown to people.
    pub tag: Bytes,
}

struct Waiter {
    id: u64,
    wait: LockWait,
    wake: oneshot::Sender<Wake>,
}

/// A place in a key's queue; left when dropped.
pub struct LockTicket {
    waits: Arc<LockWaits>,
    key: Bytes,
    id: u64,
    woken: oneshot::Receiver<Wake>,
    is_done: bool,
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
        let waiter = Waiter { id, wait, wake };
        self.queues.lock().entry(key.clone()).or_default().push(waiter);
        Some(LockTicket { waits: Arc::clone(self), key: key.clone(), id, woken, is_done: false })
    }

    /// Waiters in all queues.
    pub fn len(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The key's lock may be gone: wakes the oldest waiter.
    pub fn released(&self, key: &Bytes) {
        self.wake(key, Wake::Retry, |queue| {
            let oldest = queue.iter().map(|waiter| (waiter.wait.start_ts, waiter.id)).min();
            move |waiter: &Waiter| oldest == Some((waiter.wait.start_ts, waiter.id))
        });
    }

    /// A transaction took the key: wakes those who wait for another one only.
    pub fn taken(&self, key: &Bytes, holder: TimeStamp) {
        self.wake(key, Wake::Retry, |queue| {
            let others = queue.iter_mut().map(|waiter| &mut waiter.wait);
            others.filter(|wait| !wait.is_particular).for_each(|wait| wait.holder = holder);
            move |waiter: &Waiter| waiter.wait.holder != holder
        });
    }

    /// Who waits for which key, at most `limit` of them.
    pub fn list(&self, limit: usize) -> Vec<(Bytes, LockWait)> {
        let queues = self.queues.lock();
        let all = queues.iter().flat_map(|(key, queue)| {
            queue.iter().map(move |waiter| (key.clone(), waiter.wait.clone()))
        });
        all.take(limit).collect()
    }

    /// The transaction locks nothing more: its own waiters end.
    pub fn cancel(&self, key: &Bytes, start_ts: TimeStamp) {
        self.wake(key, Wake::Cancelled, |_| {
            move |waiter: &Waiter| waiter.wait.start_ts == start_ts
        });
    }

    fn wake<P: Fn(&Waiter) -> bool>(
        &self,
        key: &Bytes,
        wake: Wake,
        choose: impl FnOnce(&mut [Waiter]) -> P,
    ) {
        if self.is_empty() {
            return;
        }
        let mut queues = self.queues.lock();
        let Some(queue) = queues.get_mut(key) else { return };
        let chosen = choose(queue);
        let woken: Vec<Waiter> = queue.extract_if(.., |waiter| chosen(waiter)).collect();
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
}

impl Drop for LockTicket {
    fn drop(&mut self) {
        if !self.waits.leave(&self.key, self.id) && !self.is_done {
            self.waits.released(&self.key);
        }
    }
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
            holder: TimeStamp(only_holder.unwrap_or(5)),
            is_particular: only_holder.is_some(),
            tag: Bytes::new(),
        }
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
        waits.taken(&key(), TimeStamp(5));
        assert_eq!(woken(&mut watching), None);
        waits.taken(&key(), TimeStamp(7));
        assert_eq!((woken(&mut watching), woken(&mut patient)), (Some(Wake::Retry), None));
        watching.done();
        let holders: Vec<TimeStamp> = waits.list(9).iter().map(|(_, wait)| wait.holder).collect();
        assert_eq!(holders, [TimeStamp(7)], "those who wait on are shown with the new holder");
        waits.cancel(&key(), TimeStamp(20));
        assert_eq!(woken(&mut patient), Some(Wake::Cancelled));
        patient.done();
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
