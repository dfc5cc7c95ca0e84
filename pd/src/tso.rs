//! Timestamps: never repeated and never going back, across restarts and clock jumps.
//!
//! **Data.** A timestamp is physical milliseconds << 18 | counter. The physical
//! part follows the wall clock while that moves forward and stands still when it
//! jumps back; when the counter overflows, the physical part runs ahead by one.
//!
//! **Invariants.** Every timestamp's physical part is below the bound, and the
//! bound is durable before it is used. A restarted allocator begins at the bound,
//! so it cannot meet a timestamp of its former life, however the clock was set.
//!
//! **Concurrency.** One mutex held for some tens of nanoseconds; a request for
//! `count` timestamps costs the same as a request for one.

use std::sync::Arc;

use cairn_types::TimeStamp;
use parking_lot::Mutex;

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
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    physical_ms: u64,
    /// Counter values of `physical_ms` already used.
    logical: u64,
    /// Physical parts stay below it.
    bound_ms: u64,
    used_since_renewal: bool,
}

/// Answer to a request for timestamps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allocated {
    /// The last of the requested timestamps.
    Last(TimeStamp),
    /// Nothing until this bound is durable.
    NeedsBound(u64),
}

impl TsoAllocator {
    /// Begins at the bound of the former life; the first request will ask for a
    /// new one.
    pub fn new(clock: Arc<dyn Clock>, durable_bound_ms: u64) -> TsoAllocator {
        let inner = Inner {
            physical_ms: durable_bound_ms,
            logical: 0,
            bound_ms: durable_bound_ms,
            used_since_renewal: true,
        };
        TsoAllocator { clock, inner: Mutex::new(inner) }
    }

    /// `count` consecutive timestamps.
    pub fn try_alloc(&self, count: u32) -> Allocated {
        let count = u64::from(count.clamp(1, COUNT_MAX));
        let now_ms = self.clock.unix_ms();
        let mut inner = self.inner.lock();
        let (mut physical_ms, mut logical) = if now_ms > inner.physical_ms {
            (now_ms, 0)
        } else {
            (inner.physical_ms, inner.logical)
        };
        if logical + count > LOGICAL_MAX {
            physical_ms += 1;
            logical = 0;
        }
        if physical_ms >= inner.bound_ms {
            return Allocated::NeedsBound(physical_ms + WINDOW_MS);
        }
        inner.physical_ms = physical_ms;
        inner.logical = logical + count;
        inner.used_since_renewal = true;
        Allocated::Last(TimeStamp::compose(physical_ms, inner.logical - 1))
    }

    /// The bound is durable now.
    pub fn raise_bound(&self, bound_ms: u64) {
        let mut inner = self.inner.lock();
        inner.bound_ms = inner.bound_ms.max(bound_ms);
    }

    /// The bound to make durable ahead of need: when less than half the window is
    /// left and somebody asked for timestamps since the last time.
    pub fn renewal(&self) -> Option<u64> {
        let now_ms = self.clock.unix_ms();
        let mut inner = self.inner.lock();
        let current_ms = now_ms.max(inner.physical_ms);
        let due = inner.used_since_renewal && current_ms + WINDOW_MS / 2 >= inner.bound_ms;
        if due {
            inner.used_since_renewal = false;
        }
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
