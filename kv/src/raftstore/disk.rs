//! How fast the Raft log's disk is: measured at every sync, told as a slow score.
//!
//! The score goes from 1 (healthy) to 100. Each second it rises with the share of slow
//! syncs, so that two bad seconds are enough to act, and falls slowly, so that a disk must
//! be well for a while before it is trusted again. A single slow sync moves nothing.
//!
//! A write that hangs is not seen here before it returns: until then the Raft thread is
//! silent, and other stores elect other leaders.
//!
//! Source: TiKV's slow score (share of slow inspections, slow recovery).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cairn_engine::{LogBatch, LogWatcher, RaftLog};

use super::clock::{Clock, MonotonicTime};
use super::metrics::RaftMetrics;

/// A sync that takes longer is slow: well above a busy SSD, at the edge of a busy disk.
pub const SLOW_SYNC: Duration = Duration::from_millis(40);
/// Between two looks at the syncs. By the clock, not by ticks: those are late when syncs are.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Fewer slow syncs than this share are no sign of a slow disk.
const SLOW_SHARE: f64 = 0.1;
/// The score rises by this in a second of slow syncs only.
const RISE_PER_SECOND: f64 = 40.0;
/// The score falls by this in a second without: a minute from worst to best.
const FALL_PER_SECOND: f64 = 100.0 / 60.0;
/// From here on leaders are handed to other stores.
pub const SLOW_SCORE: u32 = 60;
/// Leaders go only to stores below this, and are kept again below this.
pub const HEALTHY_SCORE: u32 = 30;

/// Syncs of the log, counted by the Raft thread.
#[derive(Debug, Default)]
pub struct DiskWatch {
    syncs: AtomicU64,
    slow_syncs: AtomicU64,
    nanos: AtomicU64,
    /// Of `syncs` and `slow_syncs`, as of the last look.
    seen: (AtomicU64, AtomicU64),
}

impl DiskWatch {
    /// Counts a sync.
    pub fn record(&self, took: Duration) {
        self.syncs.fetch_add(1, Ordering::Relaxed);
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.nanos.fetch_add(nanos, Ordering::Relaxed);
        if took >= SLOW_SYNC {
            self.slow_syncs.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Name and value of every counter, for exposition.
    pub fn values(&self) -> [(&'static str, u64); 3] {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        [
            ("timed_log_syncs", read(&self.syncs)),
            ("slow_log_syncs", read(&self.slow_syncs)),
            ("log_sync_nanoseconds", read(&self.nanos)),
        ]
    }

    /// Syncs and slow ones since the last look.
    fn take(&self) -> (u64, u64) {
        let since = |counter: &AtomicU64, seen: &AtomicU64| {
            let now = counter.load(Ordering::Relaxed);
            now.saturating_sub(seen.swap(now, Ordering::Relaxed))
        };
        (since(&self.syncs, &self.seen.0), since(&self.slow_syncs, &self.seen.1))
    }
}

/// The score of one disk.
#[derive(Debug)]
pub struct SlowScore {
    score: f64,
    /// Between [`SLOW_SCORE`] on the way up and [`HEALTHY_SCORE`] on the way down.
    slow: bool,
    next_look: MonotonicTime,
}

impl SlowScore {
    /// Healthy until seen otherwise.
    pub fn new() -> SlowScore {
        SlowScore { score: 1.0, slow: false, next_look: MonotonicTime::default() }
    }

    /// Looks at the syncs once a second; then, whether the disk began or ceased to count as slow.
    pub fn look(&mut self, watch: &DiskWatch, now: MonotonicTime) -> Option<bool> {
        if now < self.next_look {
            return None;
        }
        self.next_look = now.plus(LOOK_INTERVAL);
        let (syncs, slow_syncs) = watch.take();
        let share = if syncs == 0 { 0.0 } else { slow_syncs as f64 / syncs as f64 };
        let change = if share >= SLOW_SHARE { share * RISE_PER_SECOND } else { -FALL_PER_SECOND };
        self.score = (self.score + change).clamp(1.0, 100.0);
        let was_slow = self.slow;
        self.slow = self.value() >= if was_slow { HEALTHY_SCORE } else { SLOW_SCORE };
        Some(self.slow != was_slow)
    }

    /// 1 to 100.
    pub fn value(&self) -> u32 {
        self.score.round() as u32
    }

    /// Whether leaders should be elsewhere.
    pub fn is_slow(&self) -> bool {
        self.slow
    }
}

/// Times the syncs of a Raft log.
pub struct SyncTimer {
    clock: Arc<dyn Clock>,
    metrics: Arc<RaftMetrics>,
}

impl SyncTimer {
    /// Counts into the metrics.
    pub fn new(clock: Arc<dyn Clock>, metrics: Arc<RaftMetrics>) -> SyncTimer {
        SyncTimer { clock, metrics }
    }
}

impl LogWatcher for SyncTimer {
    fn write(&self, log: &dyn RaftLog, batch: LogBatch, sync: bool) -> cairn_engine::Result<()> {
        let begun = self.clock.now();
        let outcome = log.write(batch, sync);
        if sync {
            self.metrics.disk.record(self.clock.now().since(begun));
        }
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_bad_seconds_are_slow_and_a_hiccup_is_not() {
        let watch = DiskWatch::default();
        let mut score = SlowScore::new();
        let mut now = MonotonicTime::default();
        let mut second = |slow: u64, fast: u64, score: &mut SlowScore| {
            (0..slow).for_each(|_| watch.record(SLOW_SYNC));
            (0..fast).for_each(|_| watch.record(Duration::from_millis(2)));
            assert_eq!(score.look(&watch, now), None, "too early");
            now = now.plus(LOOK_INTERVAL);
            score.look(&watch, now).expect("a second has passed")
        };
        score.look(&watch, MonotonicTime::default());
        assert!(!second(1, 200, &mut score));
        assert_eq!(score.value(), 1);
        assert!(!second(5, 0, &mut score));
        assert!(!second(0, 100, &mut score));
        assert!(!score.is_slow(), "one bad second");
        for _ in 0..60 {
            second(0, 100, &mut score);
        }
        assert!(!second(20, 0, &mut score));
        assert!(second(20, 0, &mut score));
        assert!(score.is_slow());
        let mut seconds = 0;
        while score.is_slow() {
            second(0, 100, &mut score);
            seconds += 1;
        }
        assert!((30..60).contains(&seconds), "trusted again after {seconds} s");
        // Without syncs there is nothing to hold against it.
        for _ in 0..60 {
            second(0, 0, &mut score);
        }
        assert_eq!(score.value(), 1);
    }
}
