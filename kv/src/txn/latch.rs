//! Latches: in-memory order of commands that touch the same keys.
//!
//! A command's reads and its replicated write must look like one step to other
//! commands on its keys. Keys hash onto a fixed table of slots, each a FIFO queue
//! whose front holds the latch. A command takes its slots one after the other in
//! ascending order, so that no two commands wait for each other in a circle.
//!
//! **Concurrency**: a slot's mutex is held for a push or a pop, never across an
//! await. A waiter that is dropped leaves the queue (and hands a latch on that it
//! was just given).

use std::collections::VecDeque;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use foldhash::fast::FixedState;
use parking_lot::Mutex;
use smallvec::SmallVec;
use tokio::sync::oneshot;

/// Slots of the table. Far above the commands in flight, so that two of them
/// rarely share a slot by chance; 8,192 empty queues take 400 KiB.
const SLOTS: usize = 8192;

/// The table of a store.
pub struct Latches {
    slots: Box<[Mutex<VecDeque<Waiter>>]>,
    next_id: AtomicU64,
    hasher: FixedState,
}

struct Waiter {
    id: u64,
    /// Told when the waiter reaches the front; the one at the front has none.
    granted: Option<oneshot::Sender<()>>,
}

impl Default for Latches {
    fn default() -> Latches {
        Latches {
            slots: (0..SLOTS).map(|_| Mutex::new(VecDeque::new())).collect(),
            next_id: AtomicU64::new(0),
            hasher: FixedState::default(),
        }
    }
}

/// Latches held (or being waited for) by one command; released when dropped.
pub struct LatchGuard {
    latches: Arc<Latches>,
    id: u64,
    slots: SmallVec<[u16; 8]>,
    /// Slots entered so far, including the one waited at.
    entered: usize,
}

impl Latches {
    /// Waits for the latches of all `keys`.
    pub async fn acquire<'a>(
        self: &Arc<Self>,
        keys: impl IntoIterator<Item = &'a [u8]>,
    ) -> LatchGuard {
        let mut slots: SmallVec<[u16; 8]> = keys.into_iter().map(|key| self.slot_of(key)).collect();
        slots.sort_unstable();
        slots.dedup();
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let mut guard = LatchGuard { latches: Arc::clone(self), id, slots, entered: 0 };
        while guard.entered < guard.slots.len() {
            let slot = guard.slots[guard.entered];
            guard.entered += 1;
            if let Some(granted) = self.enter(slot, id) {
                // The sender lives in the queue until it grants.
                let _ = granted.await;
            }
        }
        guard
    }

    fn slot_of(&self, key: &[u8]) -> u16 {
        (self.hasher.hash_one(key) % SLOTS as u64) as u16
    }

    /// Queues up; `None` when the latch was free.
    fn enter(&self, slot: u16, id: u64) -> Option<oneshot::Receiver<()>> {
        let mut queue = self.slots[usize::from(slot)].lock();
        if queue.is_empty() {
            queue.push_back(Waiter { id, granted: None });
            return None;
        }
        let (granted, receiver) = oneshot::channel();
        queue.push_back(Waiter { id, granted: Some(granted) });
        Some(receiver)
    }

    fn leave(&self, slot: u16, id: u64) {
        let mut queue = self.slots[usize::from(slot)].lock();
        if queue.front().is_none_or(|front| front.id != id) {
            queue.retain(|waiter| waiter.id != id);
            return;
        }
        queue.pop_front();
        if let Some(granted) = queue.front_mut().and_then(|next| next.granted.take()) {
            // A receiver that is gone is about to leave the queue itself.
            let _ = granted.send(());
        }
    }
}

impl Drop for LatchGuard {
    fn drop(&mut self) {
        for &slot in &self.slots[..self.entered] {
            self.latches.leave(slot, self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use futures::FutureExt;

    use super::*;

    fn keys<'a>(names: &'a [&'a str]) -> impl Iterator<Item = &'a [u8]> {
        names.iter().map(|name| name.as_bytes())
    }

    #[tokio::test]
    async fn one_key_is_first_in_first_out() {
        let latches = Arc::new(Latches::default());
        let first = latches.acquire(keys(&["a"])).await;
        let mut second = Box::pin(latches.acquire(keys(&["a", "b"])));
        let mut third = Box::pin(latches.acquire(keys(&["a"])));
        assert!((&mut second).now_or_never().is_none());
        assert!((&mut third).now_or_never().is_none());
        drop(first);
        assert!((&mut third).now_or_never().is_none());
        let second = (&mut second).now_or_never().expect("granted");
        drop(second);
        assert!((&mut third).now_or_never().is_some());
    }

    #[tokio::test]
    async fn dropped_waiters_hand_on() {
        let latches = Arc::new(Latches::default());
        let first = latches.acquire(keys(&["a"])).await;
        let mut second = Box::pin(latches.acquire(keys(&["a"])));
        let mut third = Box::pin(latches.acquire(keys(&["a"])));
        assert!((&mut second).now_or_never().is_none());
        assert!((&mut third).now_or_never().is_none());
        // Granted but never polled again: must still hand on.
        drop(first);
        drop(second);
        assert!((&mut third).now_or_never().is_some());
        assert!(latches.slots.iter().all(|slot| slot.lock().len() <= 1));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn holders_exclude_each_other() {
        let latches = Arc::new(Latches::default());
        let inside = Arc::new(AtomicUsize::new(0));
        let tasks: Vec<_> = (0..200)
            .map(|n| {
                let (latches, inside) = (Arc::clone(&latches), Arc::clone(&inside));
                tokio::spawn(async move {
                    let other = format!("k{}", n % 7);
                    let _guard = latches.acquire([b"hot".as_slice(), other.as_bytes()]).await;
                    assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                    tokio::task::yield_now().await;
                    inside.fetch_sub(1, Ordering::SeqCst);
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        assert!(latches.slots.iter().all(|slot| slot.lock().is_empty()));
    }
}
