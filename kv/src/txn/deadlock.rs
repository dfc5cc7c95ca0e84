//! Who waits for whom, over all stores: finds the wait that closes a circle.
//!
//! Clients tell the store that leads the first region before they wait for a transaction that
//! may wait for them in turn, and again as long as they wait. So there is one detector at a
//! time, and a new one knows every wait within a second.
//!
//! **What a stale wait does.** If the holder has ended, nobody waits for it any more, and a circle
//! through it cannot close. One that lives on (the waiter gave up, or the holder gave the lock back)
//! misleads: so who has waited says that it is over, or else the wait is forgotten after [`WAIT_TTL`].
//!
//! **Left out.** The youngest of a circle is not looked for: whoever closes it fails.
//!
//! Time is an argument; there are no threads here.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use cairn_types::TimeStamp;

use crate::raftstore::MonotonicTime;

/// A wait that was not told again for so long is over. Clients tell it every second.
pub const WAIT_TTL: Duration = Duration::from_secs(3);
/// Waits remembered. Above it a wait goes unnoticed and a circle ends by timeout.
const WAITS_MAX: usize = 64 << 10;
/// Longest key and longest tag that are kept for a wait: what is longer is not shown.
const KEY_BYTES_MAX: usize = 1 << 10;
const TAG_BYTES_MAX: usize = 64;
/// Between two searches for waits that are over.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// One transaction that waits for another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wait {
    /// Who waits.
    pub waiter: TimeStamp,
    /// For whom.
    pub holder: TimeStamp,
    /// For which key.
    pub key: Bytes,
    /// For which statement.
    pub tag: Bytes,
}

/// What is known of a wait.
struct Told {
    until: MonotonicTime,
    key: Bytes,
    tag: Bytes,
}

/// The graph of waits.
#[derive(Default)]
pub struct DeadlockDetector {
    /// Waiter to those it waits for, and until when that is believed.
    waits: BTreeMap<TimeStamp, BTreeMap<TimeStamp, Told>>,
    count: usize,
    swept_at: Option<MonotonicTime>,
}

impl DeadlockDetector {
    /// Notes that a transaction is about to wait, unless that closes a circle: then answers the
    /// circle's waits, the holder's first and this one last, and forgets what the waiter
    /// waited for.
    pub fn detect(&mut self, now: MonotonicTime, wait: Wait) -> Vec<Wait> {
        self.sweep(now);
        let (waiter, holder) = (wait.waiter, wait.holder);
        if let Some(path) = self.path(now, holder, waiter) {
            let mut circle: Vec<Wait> =
                path.windows(2).filter_map(|pair| self.told(pair[0], pair[1])).collect();
            circle.push(wait);
            self.give_up(waiter);
            return circle;
        }
        let is_known = self.waits.get(&waiter).is_some_and(|all| all.contains_key(&holder));
        if is_known || self.count < WAITS_MAX {
            let shown = |bytes: Bytes, max| if bytes.len() > max { Bytes::new() } else { bytes };
            let (key, tag) = (shown(wait.key, KEY_BYTES_MAX), shown(wait.tag, TAG_BYTES_MAX));
            let told = Told { until: now.plus(WAIT_TTL), key, tag };
            self.waits.entry(waiter).or_default().insert(holder, told);
            self.count += usize::from(!is_known);
        }
        Vec::new()
    }

    fn told(&self, waiter: TimeStamp, holder: TimeStamp) -> Option<Wait> {
        let told = self.waits.get(&waiter)?.get(&holder)?;
        Some(Wait { waiter, holder, key: told.key.clone(), tag: told.tag.clone() })
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
            for (&next, _) in holders.filter(|(_, told)| told.until > now) {
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
            holders.retain(|_, told| told.until > now);
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

    fn wait_at(
        detector: &mut DeadlockDetector,
        now: MonotonicTime,
        waiter: u64,
        holder: u64,
    ) -> Vec<Wait> {
        let (key, tag) = (format!("key of {holder}"), format!("statement of {waiter}"));
        let (waiter, holder) = (TimeStamp(waiter), TimeStamp(holder));
        detector.detect(now, Wait { waiter, holder, key: key.into(), tag: tag.into() })
    }

    /// The waiters of the circle.
    fn wait(detector: &mut DeadlockDetector, waiter: u64, holder: u64) -> Vec<TimeStamp> {
        let circle = wait_at(detector, START, waiter, holder);
        circle.iter().map(|wait| wait.waiter).collect()
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
    fn a_circle_tells_who_waits_for_what_and_why() {
        let mut detector = DeadlockDetector::default();
        let mut long = Wait {
            waiter: TimeStamp(1),
            holder: TimeStamp(2),
            key: vec![7; KEY_BYTES_MAX + 1].into(),
            tag: "statement of 1".into(),
        };
        assert_eq!(detector.detect(START, long.clone()), []);
        assert_eq!(wait_at(&mut detector, START, 2, 3), []);
        let circle = wait_at(&mut detector, START, 3, 1);
        let wait = |waiter: u64, holder: u64| Wait {
            waiter: TimeStamp(waiter),
            holder: TimeStamp(holder),
            key: format!("key of {holder}").into(),
            tag: format!("statement of {waiter}").into(),
        };
        // What is too long to be kept is not shown.
        long.key = Bytes::new();
        assert_eq!(circle, [long, wait(2, 3), wait(3, 1)]);
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
        assert_eq!(wait_at(&mut detector, later, 1, 2), []);
        assert_eq!(detector.count, 1);
        // The one just told is believed for as long again.
        let told = later.plus(WAIT_TTL - Duration::from_millis(1));
        assert_eq!(wait_at(&mut detector, told, 2, 1).len(), 2);
    }

    #[test]
    fn the_table_is_bounded() {
        let mut detector = DeadlockDetector::default();
        for waiter in 0..2 * WAITS_MAX as u64 {
            assert_eq!(wait(&mut detector, waiter, u64::MAX), []);
        }
        assert_eq!(detector.count, WAITS_MAX);
        let later = START.plus(WAIT_TTL);
        assert_eq!(wait_at(&mut detector, later, 1, 2), []);
        assert_eq!(detector.count, 1);
    }
}
