//! Monotonic time, injected: leases and deadlines never ask the machine themselves.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cairn_pd_client::clock::since_boot;

/// Nanoseconds since some fixed moment of this process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MonotonicTime(pub u64);

impl MonotonicTime {
    /// The moment `duration` later.
    pub fn plus(self, duration: Duration) -> MonotonicTime {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        MonotonicTime(self.0.saturating_add(nanos))
    }

    /// Time since `earlier`; zero if that lies ahead.
    pub fn since(self, earlier: MonotonicTime) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// The moment after which a caller no longer waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(pub MonotonicTime);

impl Deadline {
    /// Whether the caller is gone.
    pub fn has_passed(self, now: MonotonicTime) -> bool {
        now >= self.0
    }
}

/// A monotonic clock.
pub trait Clock: Send + Sync + 'static {
    /// The time now; never goes back.
    fn now(&self) -> MonotonicTime;
}

/// The machine's monotonic clock, which goes on while the machine is suspended.
pub struct SystemClock {
    origin: Duration,
}

impl SystemClock {
    /// Time starts now, at one second, so that "a while ago" exists.
    pub fn new() -> SystemClock {
        SystemClock { origin: since_boot() }
    }
}

impl Default for SystemClock {
    fn default() -> SystemClock {
        SystemClock::new()
    }
}

impl Clock for SystemClock {
    fn now(&self) -> MonotonicTime {
        MonotonicTime(0).plus(Duration::from_secs(1) + since_boot().saturating_sub(self.origin))
    }
}

/// A clock that moves when it is told to.
pub struct ManualClock {
    nanos: AtomicU64,
}

impl ManualClock {
    /// Time stands at one second.
    pub fn new() -> ManualClock {
        ManualClock { nanos: AtomicU64::new(1_000_000_000) }
    }

    /// Moves time forward.
    pub fn advance(&self, duration: Duration) {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.nanos.fetch_add(nanos, Ordering::SeqCst);
    }
}

impl Default for ManualClock {
    fn default() -> ManualClock {
        ManualClock::new()
    }
}

impl Clock for ManualClock {
    fn now(&self) -> MonotonicTime {
        MonotonicTime(self.nanos.load(Ordering::SeqCst))
    }
}
