//! Time as the placement driver sees it, injected so that tests can move it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cairn_pd_client::clock::since_boot;

/// A wall clock and a monotonic clock.
pub trait Clock: Send + Sync + 'static {
    /// Milliseconds since the Unix epoch; may jump in both directions.
    fn unix_ms(&self) -> u64;
    /// Milliseconds since some fixed point; never goes back, and goes on while the machine
    /// is suspended.
    fn monotonic_ms(&self) -> u64;
}

/// The machine's clocks.
#[derive(Debug)]
pub struct SystemClock {
    start: Duration,
}

impl SystemClock {
    /// The monotonic clock counts from now.
    pub fn new() -> SystemClock {
        SystemClock { start: since_boot() }
    }
}

impl Default for SystemClock {
    fn default() -> SystemClock {
        SystemClock::new()
    }
}

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the room where PD reads the clock")]
    fn unix_ms(&self) -> u64 {
        // A clock before 1970 counts as 1970; timestamps then run on the counter.
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
    }

    fn monotonic_ms(&self) -> u64 {
        since_boot().saturating_sub(self.start).as_millis() as u64
    }
}

/// Clocks that stand still until they are told to move.
#[derive(Debug, Default)]
pub struct ManualClock {
    unix_ms: AtomicU64,
    monotonic_ms: AtomicU64,
}

impl ManualClock {
    /// Both clocks at the given wall-clock time.
    pub fn at(unix_ms: u64) -> ManualClock {
        ManualClock { unix_ms: AtomicU64::new(unix_ms), monotonic_ms: AtomicU64::new(0) }
    }

    /// Both clocks go on by `ms`.
    pub fn advance(&self, ms: u64) {
        self.unix_ms.fetch_add(ms, Ordering::SeqCst);
        self.monotonic_ms.fetch_add(ms, Ordering::SeqCst);
    }

    /// The wall clock is set, as an operator or NTP would.
    pub fn set_unix_ms(&self, unix_ms: u64) {
        self.unix_ms.store(unix_ms, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn unix_ms(&self) -> u64 {
        self.unix_ms.load(Ordering::SeqCst)
    }

    fn monotonic_ms(&self) -> u64 {
        self.monotonic_ms.load(Ordering::SeqCst)
    }
}
