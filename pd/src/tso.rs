//! Timestamps: never repeated and never going back, across restarts, leaders and clock
//! jumps.
//!
//! **Data.** A timestamp is physical milliseconds << 18 | counter. The physical
//! part follows the wall clock while that moves forward and stands still when it
//! jumps back; when the counter overflows, the physical part runs ahead by one.
//!
//! **Invariants.** Every timestamp's physical part is below the bound, and the
//! bound is durable on a majority before it is used. A new leader begins at the bound of
//! its predecessors, so it cannot meet a timestamp of theirs or of its own former life,
//! however the clock was set. *Who* may hand out timestamps is the leader's lease, which
//! the caller checks first.
//!
//! **Concurrency.** Lock-free: one compare-and-swap on the last timestamp. A request for
//! `count` timestamps costs the same as a request for one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use cairn_types::TimeStamp;

use crate::clock::Clock;

/// How far ahead of the clock the durable bound is put.
pub const WINDOW_MS: u64 = 3_000;
/// Timestamps of one millisecond.
const LOGICAL_MAX: u64 = 1 << 18;
/// Most timestamps of one request: more could not come from one millisecond.
pub const COUNT_MAX: u32 = 1 << 17;

/// Hands out timestamps below a durable bound.
pub struct TsoAllocator {
    clock: Arc<dyn Clock>,
    /// The last timestamp handed out, as its number.
    last: AtomicU64,
    /// Physical parts stay below it. Only grows.
    bound_ms: AtomicU64,
    used_since_renewal: AtomicBool,
}

/// Answer to a request for timestamps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allocated {
    /// The last of the requested timestamps.
    Last(TimeStamp),
    /// Nothing until this bound is durable.
    NeedsBound(u64),
}

/// The number before the first timestamp of a millisecond.
fn before(physical_ms: u64) -> u64 {
    TimeStamp::compose(physical_ms, 0).0.saturating_sub(1)
}

impl TsoAllocator {
    /// Begins at the bound of the former life; the first request will ask for a
    /// new one.
    pub fn new(clock: Arc<dyn Clock>, durable_bound_ms: u64) -> TsoAllocator {
        TsoAllocator {
            clock,
            last: AtomicU64::new(before(durable_bound_ms)),
            bound_ms: AtomicU64::new(durable_bound_ms),
            used_since_renewal: AtomicBool::new(true),
        }
    }

    /// Others may have handed out everything below their durable bound.
    pub fn begin_at(&self, durable_bound_ms: u64) {
        self.last.fetch_max(before(durable_bound_ms), Ordering::AcqRel);
        self.bound_ms.fetch_max(durable_bound_ms, Ordering::AcqRel);
    }

    /// `count` consecutive timestamps.
    pub fn try_alloc(&self, count: u32) -> Allocated {
        let count = u64::from(count.clamp(1, COUNT_MAX));
        let now_ms = self.clock.unix_ms();
        let mut seen = self.last.load(Ordering::Acquire);
        loop {
            let last = TimeStamp(seen);
            let (mut physical_ms, mut used) = if now_ms > last.physical_ms() {
                (now_ms, 0)
            } else {
                (last.physical_ms(), last.logical() + 1)
            };
            if used + count > LOGICAL_MAX {
                physical_ms += 1;
                used = 0;
            }
            // Reading an old bound is only too careful.
            if physical_ms >= self.bound_ms.load(Ordering::Acquire) {
                return Allocated::NeedsBound(physical_ms + WINDOW_MS);
            }
            let ts = TimeStamp::compose(physical_ms, used + count - 1);
            match self.last.compare_exchange_weak(seen, ts.0, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => {
                    // Read first: the flag is nearly always set, and a write would move
                    // its cache line between cores.
                    if !self.used_since_renewal.load(Ordering::Relaxed) {
                        self.used_since_renewal.store(true, Ordering::Relaxed);
                    }
                    return Allocated::Last(ts);
                }
                Err(newer) => seen = newer,
            }
        }
    }

    /// The bound is durable now.
    pub fn raise_bound(&self, bound_ms: u64) {
        self.bound_ms.fetch_max(bound_ms, Ordering::AcqRel);
    }

    /// A bound far enough ahead for the next timestamps.
    pub fn next_bound_ms(&self) -> u64 {
        let last = TimeStamp(self.last.load(Ordering::Acquire));
        // The next one may be of the millisecond behind it.
        self.clock.unix_ms().max(last.physical_ms() + 1) + WINDOW_MS
    }

    /// The bound to make durable ahead of need: when less than half the window is
    /// left and somebody asked for timestamps since the last time.
    pub fn renewal(&self) -> Option<u64> {
        let last = TimeStamp(self.last.load(Ordering::Acquire));
        let current_ms = self.clock.unix_ms().max(last.physical_ms());
        let late = current_ms + WINDOW_MS / 2 >= self.bound_ms.load(Ordering::Acquire);
        let due = late && self.used_since_renewal.swap(false, Ordering::Relaxed);
        due.then_some(current_ms + WINDOW_MS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;

    /// The allocator with its bound made durable at once.
    fn alloc(tso: &TsoAllocator, durable: &mut u64, count: u32) -> TimeStamp {
        loop {
            match tso.try_alloc(count) {
                Allocated::Last(ts) => return ts,
                Allocated::NeedsBound(bound_ms) => {
                    assert!(bound_ms > *durable);
                    *durable = bound_ms;
                    tso.raise_bound(bound_ms);
                }
            }
        }
    }

    #[test]
    fn grows_across_clock_jumps_and_restarts() {
        let clock = Arc::new(ManualClock::at(1_000_000));
        let mut durable = 0;
        let mut last = TimeStamp::ZERO;
        let jumps = [1_000_000, 1_000_001, 400_000, 400_001, 5_000_000, 0, 4_999_999];
        for (life, jump) in jumps.into_iter().cycle().take(40).enumerate() {
            // Every third jump comes with a restart.
            let tso = TsoAllocator::new(clock.clone(), durable);
            for step in 0..3 {
                clock.set_unix_ms(jump + step + life as u64);
                for count in [1, 1000, COUNT_MAX] {
                    let ts = alloc(&tso, &mut durable, count);
                    let first = TimeStamp(ts.0 - u64::from(count) + 1);
                    assert!(first > last, "{first} after {last}");
                    assert!(ts.physical_ms() < durable);
                    assert_eq!(first.physical_ms(), ts.physical_ms());
                    last = ts;
                }
            }
        }
    }

    #[test]
    fn follows_the_clock() {
        let clock = Arc::new(ManualClock::at(77_000));
        let tso = TsoAllocator::new(clock.clone(), 0);
        let mut durable = 0;
        assert_eq!(alloc(&tso, &mut durable, 1), TimeStamp::compose(77_000, 0));
        assert_eq!(alloc(&tso, &mut durable, 2), TimeStamp::compose(77_000, 2));
        clock.advance(5);
        assert_eq!(alloc(&tso, &mut durable, 1), TimeStamp::compose(77_005, 0));
        assert_eq!(durable, 80_000);
    }

    #[test]
    fn counter_overflow_runs_ahead() {
        let clock = Arc::new(ManualClock::at(10));
        let tso = TsoAllocator::new(clock, 0);
        let mut durable = 0;
        for physical_ms in 10..20 {
            for _ in 0..2 {
                let ts = alloc(&tso, &mut durable, COUNT_MAX);
                assert_eq!(ts.physical_ms(), physical_ms);
            }
        }
    }

    #[test]
    fn callers_at_the_same_time_share_nothing() {
        let clock = Arc::new(ManualClock::at(1_000));
        let tso = TsoAllocator::new(clock, 0);
        tso.raise_bound(1_000_000);
        let mut all: Vec<u64> = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        let alloc = |_| match tso.try_alloc(3) {
                            Allocated::Last(ts) => ts.0,
                            Allocated::NeedsBound(_) => panic!("the bound is far"),
                        };
                        (0..20_000).map(alloc).collect::<Vec<u64>>()
                    })
                })
                .collect();
            workers.into_iter().flat_map(|worker| worker.join().expect("runs")).collect()
        });
        all.sort_unstable();
        assert!(all.windows(2).all(|pair| pair[1] - pair[0] >= 3));
    }

    #[test]
    fn a_new_leader_begins_above_its_predecessor() {
        let clock = Arc::new(ManualClock::at(1_000));
        let tso = TsoAllocator::new(clock.clone(), 0);
        let mut durable = 0;
        alloc(&tso, &mut durable, 5);
        // Another led in between, with a clock that ran ahead.
        tso.begin_at(90_000);
        assert_eq!(tso.try_alloc(1), Allocated::NeedsBound(90_000 + WINDOW_MS));
        assert_eq!(tso.next_bound_ms(), 90_000 + WINDOW_MS);
        tso.raise_bound(tso.next_bound_ms());
        assert_eq!(tso.try_alloc(1), Allocated::Last(TimeStamp::compose(90_000, 0)));
        // Beginning at an old bound again changes nothing.
        tso.begin_at(50_000);
        assert_eq!(tso.try_alloc(1), Allocated::Last(TimeStamp::compose(90_000, 1)));
    }

    #[test]
    fn renews_only_when_used() {
        let clock = Arc::new(ManualClock::at(10_000));
        let tso = TsoAllocator::new(clock.clone(), 0);
        let mut durable = 0;
        alloc(&tso, &mut durable, 1);
        assert_eq!(tso.renewal(), None);
        clock.advance(WINDOW_MS);
        assert_eq!(tso.renewal(), Some(16_000));
        tso.raise_bound(16_000);
        clock.advance(WINDOW_MS);
        assert_eq!(tso.renewal(), None);
    }
}
