//! The clock that leases run on.
//!
//! `CLOCK_MONOTONIC`, which the standard library reads, stands still while the machine is
//! suspended: a leader would find its lease still running long after others have elected
//! the next one. `CLOCK_BOOTTIME` goes on. Setting the wall clock moves neither.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Time since the machine was booted; never goes back.
pub fn since_boot() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    // Neither is negative: the clock began at zero.
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_counts_suspended_time_and_never_goes_back() {
        let monotonic = clock_gettime(ClockId::Monotonic).tv_sec.unsigned_abs();
        let first = since_boot();
        assert!(first.as_secs() >= monotonic, "{first:?} after {monotonic} s awake");
        assert!(since_boot() >= first);
    }
}
