//! Latencies in buckets whose width grows with the value, counted without locks.
//!
//! A value below 128 µs has a bucket of its own; from there every power of two is cut into
//! 64 buckets, so that a quantile is at most 1/64 (1.6 %) above the true one and never below
//! it. Sum and largest value are exact.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Buckets per power of two, as a power of two.
const SUB_BUCKET_BITS: u32 = 6;
/// Longest latency told apart, in bits: 2^37 µs are 38 hours.
const VALUE_BITS: u32 = 37;
/// How many buckets there are: 17 KiB of counters.
const BUCKETS: usize = ((VALUE_BITS - SUB_BUCKET_BITS + 1) << SUB_BUCKET_BITS) as usize;

/// Where a value in µs is counted.
fn bucket_of(value_us: u64) -> usize {
    let value = value_us.min((1 << VALUE_BITS) - 1);
    let bits = u64::BITS - value.leading_zeros();
    let shift = bits.saturating_sub(SUB_BUCKET_BITS + 1);
    ((shift as usize) << SUB_BUCKET_BITS) + (value >> shift) as usize
}

/// The largest value in µs that is counted in a bucket.
fn upper_bound_us(bucket: usize) -> u64 {
    let sub_buckets = 1 << SUB_BUCKET_BITS;
    let shift = (bucket / sub_buckets).saturating_sub(1);
    let leading = (bucket - shift * sub_buckets) as u64;
    ((leading + 1) << shift) - 1
}

/// Latencies that many tasks record at once.
#[derive(Debug)]
pub struct Histogram {
    buckets: Box<[AtomicU64]>,
    sum_us: AtomicU64,
    max_us: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            buckets: (0..BUCKETS).map(|_| AtomicU64::new(0)).collect(),
            sum_us: AtomicU64::new(0),
            max_us: AtomicU64::new(0),
        }
    }
}

impl Histogram {
    /// Counts one latency.
    pub fn record(&self, latency: Duration) {
        let value_us = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.buckets[bucket_of(value_us)].fetch_add(1, Relaxed);
        self.sum_us.fetch_add(value_us, Relaxed);
        self.max_us.fetch_max(value_us, Relaxed);
    }

    /// What was recorded so far.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            buckets: self.buckets.iter().map(|count| count.load(Relaxed)).collect(),
            sum_us: self.sum_us.load(Relaxed),
            max_us: self.max_us.load(Relaxed),
        }
    }
}

/// A histogram at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    buckets: Vec<u64>,
    sum_us: u64,
    max_us: u64,
}

impl Default for Snapshot {
    fn default() -> Self {
        Self { buckets: vec![0; BUCKETS], sum_us: 0, max_us: 0 }
    }
}

impl Snapshot {
    /// How many latencies were recorded.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// Adds what another one holds.
    pub fn add(&mut self, other: &Snapshot) {
        for (mine, theirs) in self.buckets.iter_mut().zip(&other.buckets) {
            *mine += theirs;
        }
        self.sum_us += other.sum_us;
        self.max_us = self.max_us.max(other.max_us);
    }

    /// What was recorded since `earlier`, a snapshot of the same histogram. The largest value
    /// stays that of the whole time.
    pub fn since(&self, earlier: &Snapshot) -> Snapshot {
        let buckets = self.buckets.iter().zip(&earlier.buckets);
        Snapshot {
            buckets: buckets.map(|(now, then)| now.saturating_sub(*then)).collect(),
            sum_us: self.sum_us.saturating_sub(earlier.sum_us),
            max_us: self.max_us,
        }
    }

    /// The latency in ms that a share of all stays at or below; 0 if nothing was recorded.
    pub fn quantile_ms(&self, share: f64) -> f64 {
        let rank = ((self.count() as f64 * share).ceil() as u64).max(1);
        let mut seen = 0;
        for (bucket, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return upper_bound_us(bucket).min(self.max_us) as f64 / 1e3;
            }
        }
        0.0
    }

    /// The average in ms; 0 if nothing was recorded.
    pub fn average_ms(&self) -> f64 {
        match self.count() {
            0 => 0.0,
            count => self.sum_us as f64 / count as f64 / 1e3,
        }
    }

    /// The largest in ms.
    pub fn max_ms(&self) -> f64 {
        self.max_us as f64 / 1e3
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_follow_each_other_and_hold_their_values() {
        for bucket in 1..BUCKETS {
            let below = upper_bound_us(bucket - 1);
            assert!(below < upper_bound_us(bucket));
            assert_eq!(bucket_of(below), bucket - 1);
            assert_eq!(bucket_of(below + 1), bucket);
        }
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn quantiles_are_close_and_never_too_low() {
        let histogram = Histogram::default();
        for value_us in 1..=100_000 {
            histogram.record(Duration::from_micros(value_us));
        }
        let snapshot = histogram.snapshot();
        assert_eq!(snapshot.count(), 100_000);
        for share in [0.01, 0.5, 0.9, 0.95, 0.99, 0.999] {
            let (true_ms, found) = (share * 100.0, snapshot.quantile_ms(share));
            assert!(found >= true_ms - 1e-9 && found <= true_ms * (1.0 + 1.0 / 64.0), "{found}");
        }
        assert!((snapshot.average_ms() - 50.0005).abs() < 1e-9);
        assert_eq!((snapshot.quantile_ms(1.0), snapshot.max_ms()), (100.0, 100.0));
    }

    #[test]
    fn an_interval_holds_only_what_came_since() {
        let histogram = Histogram::default();
        assert_eq!(histogram.snapshot().quantile_ms(0.99), 0.0);
        histogram.record(Duration::from_millis(900));
        let earlier = histogram.snapshot();
        histogram.record(Duration::from_millis(2));
        let interval = histogram.snapshot().since(&earlier);
        assert_eq!(interval.count(), 1);
        assert!(interval.quantile_ms(0.99) < 2.1);
        let mut both = earlier;
        both.add(&interval);
        assert_eq!(both.count(), 2);
    }
}
