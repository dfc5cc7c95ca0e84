//! Closed timestamps: up to when a replica holds everything, so that it reads the past alone.
//!
//! A timestamp is *closed* in a region when no transaction can commit at or below it any more without
//! its lock being in the log already. The leader says "`ts` is closed as of index `i`"; a
//! replica that has applied `i` answers reads at or below `ts` from its own data, without a
//! question to anybody. What it may still find is a lock: then it answers what any replica would,
//! and the reader asks the lock's primary. So locks hold nothing back, however old they are, and nobody
//! looks through them: a region costs the same with one lock or with a million.
//!
//! **How the leader closes `ts`**, in this order:
//!
//! 1. `ts` is fetched from PD.
//! 2. `max_ts` is raised to it, and the table of one-phase and async commits under way is looked at; one that
//!    may commit at or below `ts` lowers it ([`crate::txn::max_ts`]).
//! 3. It holds its lease at a moment after 1, has applied all of earlier terms, and no split
//!    or merge of the region is under way.
//! 4. `i` is the committed index.
//!
//! **Why that is sound.** Let a transaction write a key of the region and commit at `c <= ts`.
//! - In two phases: `c` was fetched when all of its locks were applied, and before `ts` was, which is larger. So
//!   its lock was in the log below `i`, or under an earlier leader whose log this one has applied.
//! - One-phase or async, under this leadership: its bound of `c` was chosen below what `max_ts` is since
//!   2, so before; then it stood in the table or was applied already. Lock or commit lie below `i`.
//! - The same, under an earlier leader: it was proposed then or never (commands carry the term of their
//!   view), and this leader has applied everything of earlier terms.
//! - The same, under a later leader: that one raises its `max_ts` to a timestamp fetched after its
//!   election (`MaxTs::sync`), which was later than 3 and so than 1: `c` would be above `ts`.
//! - A region that takes over keys by a merge has another epoch; what was closed before counts no longer, because
//!   the replica forgets it with the old range.
//!
//! Locks that share a key need no thought of their own: a reader passes or meets each holder as it does
//! elsewhere.
//!
//! What a replica once knew to be closed stays true as long as it has its data: it needs no lease. It
//! forgets when its data is replaced by a Raft snapshot, damaged or removed, and when its region changes.
//!
//! **What it costs.** Nothing, as long as nobody reads the past. A replica that is asked to, and
//! does not hold enough, takes the long way ([`super::peer`]'s reads from followers) and *subscribes* at its
//! leader's store: for [`SUBSCRIBED_FOR`] that one closes a timestamp every second and tells the
//! others, in one message per store. Regions at rest stay at rest.
//!
//! CockroachDB's closed timestamps are the model; TiKV's resolved timestamps also wait for locks.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use super::clock::MonotonicTime;

/// Timestamps are closed so often.
pub const CLOSE_EVERY: Duration = Duration::from_secs(1);
/// A subscription lives for so long.
const SUBSCRIBED_FOR: Duration = Duration::from_secs(60);
/// A replica that is read well within what it holds subscribes anew after this.
const RENEW_AFTER: Duration = Duration::from_secs(20);
/// One that holds too little: somebody else may lead by now.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Regions of one message.
pub(super) const ENTRIES_PER_MESSAGE: usize = 1024;

/// What readers see of a replica's closed timestamp.
#[derive(Debug, Default)]
pub(super) struct ClosedTs {
    /// Zero: nothing is known.
    ts: AtomicU64,
    /// When this replica last subscribed; zero: never.
    subscribed_ns: AtomicU64,
}

impl ClosedTs {
    /// Whether the replica holds everything up to there.
    pub fn covers(&self, read_ts: u64) -> bool {
        read_ts <= self.ts.load(Ordering::SeqCst)
    }

    /// It never goes back but by [`ClosedTs::forget`]; called by the Raft thread alone.
    pub fn advance(&self, ts: u64) {
        self.ts.fetch_max(ts, Ordering::SeqCst);
    }

    /// Before anything happens to the data.
    pub fn forget(&self) {
        self.ts.store(0, Ordering::SeqCst);
    }

    /// Whether it is time to subscribe for a read of the past that this replica could answer or
    /// could not; counts as done.
    pub fn should_subscribe(&self, is_covered: bool, now: MonotonicTime) -> bool {
        let pause = if is_covered { RENEW_AFTER } else { RETRY_AFTER };
        let last = self.subscribed_ns.load(Ordering::Relaxed);
        let is_due = last == 0 || now.since(MonotonicTime(last)) >= pause;
        let order = Ordering::Relaxed;
        is_due && self.subscribed_ns.compare_exchange(last, now.0.max(1), order, order).is_ok()
    }
}

/// Regions led here whose followers want to know. As many as the store leads at most.
#[derive(Debug, Default)]
pub(super) struct Subscriptions {
    until: BTreeMap<u64, MonotonicTime>,
}

impl Subscriptions {
    /// A follower of the region subscribes.
    pub fn enter(&mut self, region_id: u64, now: MonotonicTime) {
        self.until.insert(region_id, now.plus(SUBSCRIBED_FOR));
    }

    /// Those that have not run out.
    pub fn current(&mut self, now: MonotonicTime) -> Vec<u64> {
        self.until.retain(|_, until| now < *until);
        self.until.keys().copied().collect()
    }

    /// Nobody here can close anything for the region.
    pub fn leave(&mut self, region_id: u64) {
        self.until.remove(&region_id);
    }

    /// Tells how many there are.
    pub fn publish(&self, count: &AtomicUsize) {
        count.store(self.until.len(), Ordering::Relaxed);
    }
}

/// A closed timestamp that a replica may use once it has applied the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    pub index: u64,
    pub ts: u64,
}

/// Marks that wait for apply: the oldest, which a replica that is always behind must not lose, and
/// the newest.
#[derive(Debug, Default)]
pub(super) struct WaitingMarks {
    oldest: Option<Mark>,
    newest: Option<Mark>,
}

impl WaitingMarks {
    /// One more; marks of other messages may come late and in any order.
    pub fn push(&mut self, mark: Mark) {
        match (self.oldest, self.newest) {
            (None, _) => self.oldest = Some(mark),
            (Some(oldest), _) if mark.index < oldest.index => self.oldest = Some(mark),
            (_, Some(newest)) if mark.ts <= newest.ts => {}
            _ => self.newest = Some(mark),
        }
    }

    /// The largest timestamp that counts once everything up to `applied_index` is applied.
    pub fn take(&mut self, applied_index: u64) -> Option<u64> {
        let is_applied = |mark: &Mark| mark.index <= applied_index;
        let newest = self.newest.take_if(|mark| is_applied(mark));
        let oldest = self.oldest.take_if(|mark| is_applied(mark));
        if self.oldest.is_none() {
            self.oldest = self.newest.take();
        }
        newest.into_iter().chain(oldest).map(|mark| mark.ts).max()
    }

    pub fn is_empty(&self) -> bool {
        self.oldest.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_that_is_always_behind_gets_on() {
        let mut waiting = WaitingMarks::default();
        for second in 1..=10 {
            waiting.push(Mark { index: second * 100, ts: second });
        }
        assert_eq!(waiting.take(99), None);
        assert_eq!(waiting.take(100), Some(1));
        assert_eq!(waiting.take(999), None);
        waiting.push(Mark { index: 1_100, ts: 11 });
        assert_eq!(waiting.take(1_000), Some(10));
        assert_eq!(waiting.take(2_000), Some(11));
        assert!(waiting.is_empty());
    }

    #[test]
    fn subscriptions_run_out_and_are_renewed() {
        let second = |second| MonotonicTime(0).plus(Duration::from_secs(second));
        let mut subscriptions = Subscriptions::default();
        subscriptions.enter(7, second(0));
        subscriptions.enter(8, second(30));
        assert_eq!(subscriptions.current(second(59)), [7, 8]);
        assert_eq!(subscriptions.current(second(61)), [8]);
        let closed = ClosedTs::default();
        assert!(closed.should_subscribe(false, second(1)));
        assert!(!closed.should_subscribe(true, second(20)));
        assert!(closed.should_subscribe(true, second(21)));
        assert!(!closed.should_subscribe(false, second(21)));
        assert!(closed.should_subscribe(false, second(22)));
    }
}
