//! The room where the load generator reads the clock.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// The monotonic clock, from which latencies and phases are measured.
#[expect(clippy::disallowed_methods, reason = "the room of the clock")]
pub fn now() -> Instant {
    Instant::now()
}

/// Milliseconds since the Unix epoch: tells runs apart. A clock before 1970 counts as 1970.
#[expect(clippy::disallowed_methods, reason = "the room of the clock")]
pub fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
