//! Who waits for whom, over all stores: finds the wait that closes a circle.
//!
//! Clients tell the store that leads the first region before they wait for a transaction that
//! may wait for them in turn, and again as long as they wait. So there is one detector at a
//! time, and a new one knows every wait within a second.
//!
//! **What a stale wait does.** Locks are kept until their transaction ends, so a wait ends with
//! the holder; nobody waits for it any more, and a circle through it cannot close. Only who gives
//! up (timeout, `KILL`) leaves a wait that misleads: it is withdrawn, or forgotten after
//! [`WAIT_TTL`].
//!
//! **Left out.** The youngest of a circle is not looked for: whoever closes it fails.
//!
//! Time is an argument; there are no threads here.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use cairn_types::TimeStamp;

use crate::raftstore::MonotonicTime;

/// A wait that was not told again for so long is over. Clients tell it every second.
pub const WAIT_TTL: Duration = Duration::from_secs(3);
/// Waits remembered. Above it a wait goes unnoticed and a circle ends by timeout.
const WAITS_MAX: usize = 64 << 10;
/// Between two searches for waits that are over.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// The graph of waits.
#[derive(Default)]
pub struct DeadlockDetector {
    /// Waiter to those it waits for, and until when that is believed.
    waits: BTreeMap<TimeStamp, BTreeMap<TimeStamp, MonotonicTime>>,
    count: usize,
    swept_at: Option<MonotonicTime>,
}

impl DeadlockDetector {
    /// Notes that `waiter` is about to wait for `holder`, unless that closes a circle: then
    /// answers it, from the holder to the waiter, and forgets what the waiter waited for.
    pub fn detect(
        &mut self,
        now: MonotonicTime,
        waiter: TimeStamp,
        holder: TimeStamp,
    ) -> Vec<TimeStamp> {
        self.sweep(now);
        if let Some(path) = self.path(now, holder, waiter) {
            self.give_up(waiter);
            return path;
        }
        let until = now.plus(WAIT_TTL);
        if let Some(known) = self.waits.get_mut(&waiter).and_then(|all| all.get_mut(&holder)) {
            *known = until;
        } else if self.count < WAITS_MAX {
            self.waits.entry(waiter).or_default().insert(holder, until);
            self.count += 1;
        }
        Vec::new()
    }

    /// The waiter waits for nobody any more.
    pub fn give_up(&mut self, waiter: TimeStamp) {
        self.count -= self.waits.remove(&waiter).map_or(0, |holders| holders.len());
    }

    /// The shortest chain of waits from one transaction to another.
    fn path(&self, now: MonotonicTime, from: TimeStamp, to: TimeStamp) -> Option<Vec<TimeStamp>> {
        if from == to {
            return Some(vec![from]);
        }
        let mut came_from: BTreeMap<TimeStamp, TimeStamp> = BTreeMap::new();
        let mut open = VecDeque::from([from]);
        while let Some(at) = open.pop_front() {
            let holders = self.waits.get(&at).into_iter().flatten();
            for (&next, _) in holders.filter(|(_, until)| **until > now) {
                if next == from || came_from.contains_key(&next) {
                    continue;
                }
                came_from.insert(next, at);
                if next == to {
                    let mut path = vec![to];
                    let mut last = to;
                    while let Some(&before) = came_from.get(&last) {
                        path.push(before);
                        last = before;
                    }
                    path.reverse();
                    return Some(path);
                }
                open.push_back(next);
            }
        }
        None
    }

    fn sweep(&mut self, now: MonotonicTime) {
        let is_due = self.swept_at.is_none_or(|at| at.plus(SWEEP_EVERY) <= now);
        if !is_due {
            return;
        }
        self.swept_at = Some(now);
        self.waits.retain(|_, holders| {
            holders.retain(|_, until| *until > now);
            !holders.is_empty()
        });
        self.count = self.waits.values().map(BTreeMap::len).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: MonotonicTime = MonotonicTime(1_000_000_000);

    fn ts(all: &[u64]) -> Vec<TimeStamp> {
        all.iter().copied().map(TimeStamp).collect()
    }

    fn wait(detector: &mut DeadlockDetector, waiter: u64, holder: u64) -> Vec<TimeStamp> {
        detector.detect(START, TimeStamp(waiter), TimeStamp(holder))
    }

    #[test]
    fn whoever_closes_the_circle_is_told_its_members() {
        let mut detector = DeadlockDetector::default();
        assert_eq!(wait(&mut detector, 1, 2), []);
        assert_eq!(wait(&mut detector, 2, 3), []);
        assert_eq!(wait(&mut detector, 4, 1), []);
        assert_eq!(wait(&mut detector, 3, 1), ts(&[1, 2, 3]));
        // Its wait was not noted: the others go on telling theirs and hear of no circle.
        assert_eq!(wait(&mut detector, 1, 2), []);
        assert_eq!(wait(&mut detector, 2, 3), []);
        assert_eq!(detector.count, 3);
    }

    #[test]
    fn a_transaction_may_wait_for_several() {
        let mut detector = DeadlockDetector::default();
        assert_eq!(wait(&mut detector, 1, 2), []);
        assert_eq!(wait(&mut detector, 1, 3), []);
        assert_eq!(wait(&mut detector, 1, 4), []);
        assert_eq!(wait(&mut detector, 3, 1), ts(&[1, 3]));
    }

    #[test]
    fn waits_end_when_given_up_or_not_told_again() {
        let mut detector = DeadlockDetector::default();
        assert_eq!(wait(&mut detector, 1, 2), []);
        detector.give_up(TimeStamp(1));
        assert_eq!(wait(&mut detector, 2, 1), []);
        let later = START.plus(WAIT_TTL);
        assert_eq!(detector.detect(later, TimeStamp(1), TimeStamp(2)), []);
        assert_eq!(detector.count, 1);
        // The one just told is believed for as long again.
        let told = later.plus(WAIT_TTL - Duration::from_millis(1));
        assert_eq!(detector.detect(told, TimeStamp(2), TimeStamp(1)), ts(&[1, 2]));
    }

    #[test]
    fn the_table_is_bounded() {
        let mut detector = DeadlockDetector::default();
        for waiter in 0..2 * WAITS_MAX as u64 {
            assert_eq!(wait(&mut detector, waiter, u64::MAX), []);
        }
        assert_eq!(detector.count, WAITS_MAX);
        let later = START.plus(WAIT_TTL);
        assert_eq!(detector.detect(later, TimeStamp(1), TimeStamp(2)), []);
        assert_eq!(detector.count, 1);
    }
}
