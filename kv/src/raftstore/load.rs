//! How much a region is read and written, and where it should be cut when that is too much.
//!
//! **Flow.** Every request counts itself on its region's [`RegionLoad`]: a few relaxed
//! additions. Once a second the Raft thread looks at the regions it leads
//! ([`LoadWatch`]). While one is over a threshold its requests also leave samples of
//! what they touch; after some such seconds in a row the samples tell a key at which about
//! half of the requests lie on either side and few on both.
//!
//! The idea and the figures are TiKV's load-based split.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use cairn_engine::{WriteBatch, WriteOp};
use cairn_proto::meta;
use parking_lot::Mutex;

use crate::keys;

/// Requests sampled per second: enough to tell a half from a third.
const SAMPLES_PER_SECOND: usize = 20;
/// Seconds over the threshold, one after another, before a region is cut: a short burst is
/// over before a split would help.
const HOT_SECONDS: usize = 10;
/// Samples that are judged at least.
const SAMPLES_MIN: usize = 40;
/// A cut is no good if one side has so much more than the other: |left - right| of both.
const IMBALANCE_MAX: f64 = 0.25;
/// A cut is no good if so many requests lie across it, of all.
const CROSSING_MAX: f64 = 0.5;

/// What requests may do before a region is cut.
#[derive(Clone, Copy, Debug)]
pub struct LoadThresholds {
    /// Requests per second, reads and writes; 0: regions are not cut for load.
    pub queries_per_second: u64,
    /// Bytes per second, read and written; 0: regions are not cut for load.
    pub bytes_per_second: u64,
}

/// Counters of one region since this peer came to life.
#[derive(Debug, Default)]
pub struct RegionLoad {
    read_queries: AtomicU64,
    read_keys: AtomicU64,
    read_bytes: AtomicU64,
    write_queries: AtomicU64,
    written_keys: AtomicU64,
    written_bytes: AtomicU64,
    /// Whether requests leave samples.
    is_watched: AtomicBool,
    samples: Mutex<Samples>,
}

/// Figures of a stretch of time, or since the beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoadFigures {
    /// Requests that read.
    pub read_queries: u64,
    /// Pairs they read.
    pub read_keys: u64,
    /// Bytes of those.
    pub read_bytes: u64,
    /// Requests that wrote.
    pub write_queries: u64,
    /// Operations of those.
    pub written_keys: u64,
    /// Bytes of those.
    pub written_bytes: u64,
}

impl LoadFigures {
    /// What came between an earlier moment and this one.
    pub fn since(&self, earlier: &LoadFigures) -> LoadFigures {
        LoadFigures {
            read_queries: self.read_queries.saturating_sub(earlier.read_queries),
            read_keys: self.read_keys.saturating_sub(earlier.read_keys),
            read_bytes: self.read_bytes.saturating_sub(earlier.read_bytes),
            write_queries: self.write_queries.saturating_sub(earlier.write_queries),
            written_keys: self.written_keys.saturating_sub(earlier.written_keys),
            written_bytes: self.written_bytes.saturating_sub(earlier.written_bytes),
        }
    }
}

/// What a request touches: a raw key, or a raw range (an empty end is +infinity).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Touched {
    /// One key.
    Key(Bytes),
    /// Keys from the first one on, below the second one.
    Range(Bytes, Bytes),
}

impl Touched {
    /// What a batch writes, from the first key to the last.
    pub fn of_batch(batch: &WriteBatch) -> Touched {
        let raw_key = |op: &WriteOp| match op {
            WriteOp::Put { key, .. } | WriteOp::Delete { key, .. } => {
                keys::decode_data_key(key).map(|(raw, _)| Bytes::from(raw))
            }
            WriteOp::DeleteRange { .. } => None,
        };
        Touched::of_keys(batch.ops().iter().filter_map(raw_key))
    }

    /// Several keys: all from the lowest to the highest.
    pub fn of_keys(keys: impl Iterator<Item = Bytes>) -> Touched {
        let (mut low, mut high) = (Bytes::new(), Bytes::new());
        for key in keys {
            if low.is_empty() || key < low {
                low = key.clone();
            }
            high = high.max(key);
        }
        if low == high {
            return Touched::Key(low);
        }
        // The first key behind the highest.
        let mut end = Vec::with_capacity(high.len() + 1);
        end.extend_from_slice(&high);
        end.push(0);
        Touched::Range(low, Bytes::from(end))
    }
}

/// A uniform choice among the requests of one second.
#[derive(Debug, Default)]
struct Samples {
    taken: Vec<Touched>,
    offered: u64,
    /// State of the generator of places: no need for good randomness, only for no pattern.
    dice: u64,
}

impl Samples {
    fn offer(&mut self, touched: impl FnOnce() -> Touched) {
        self.offered += 1;
        if self.taken.len() < SAMPLES_PER_SECOND {
            self.taken.push(touched());
            return;
        }
        // Reservoir sampling; xorshift (Marsaglia 2003).
        let mut dice = self.dice | 1;
        dice ^= dice << 13;
        dice ^= dice >> 7;
        dice ^= dice << 17;
        self.dice = dice;
        let place = (dice % self.offered) as usize;
        if place < SAMPLES_PER_SECOND {
            self.taken[place] = touched();
        }
    }
}

impl RegionLoad {
    /// Counts a request that read.
    pub fn read(&self, keys: u64, bytes: u64, touched: impl FnOnce() -> Touched) {
        self.read_queries.fetch_add(1, Ordering::Relaxed);
        self.read_keys.fetch_add(keys, Ordering::Relaxed);
        self.read_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.sample(touched);
    }

    /// Counts what a request read beyond what it was counted with.
    pub fn read_more(&self, keys: u64, bytes: u64) {
        self.read_keys.fetch_add(keys, Ordering::Relaxed);
        self.read_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts a request that writes.
    pub fn write(&self, keys: u64, bytes: u64, touched: impl FnOnce() -> Touched) {
        self.write_queries.fetch_add(1, Ordering::Relaxed);
        self.written_keys.fetch_add(keys, Ordering::Relaxed);
        self.written_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.sample(touched);
    }

    fn sample(&self, touched: impl FnOnce() -> Touched) {
        if self.is_watched.load(Ordering::Relaxed)
            && let Some(mut samples) = self.samples.try_lock()
        {
            samples.offer(touched);
        }
    }

    /// Figures since the beginning.
    pub fn figures(&self) -> LoadFigures {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        LoadFigures {
            read_queries: read(&self.read_queries),
            read_keys: read(&self.read_keys),
            read_bytes: read(&self.read_bytes),
            write_queries: read(&self.write_queries),
            written_keys: read(&self.written_keys),
            written_bytes: read(&self.written_bytes),
        }
    }

    fn watch(&self, is_watched: bool) {
        self.is_watched.store(is_watched, Ordering::Relaxed);
    }

    fn take_samples(&self) -> Vec<Touched> {
        let mut samples = self.samples.lock();
        samples.offered = 0;
        std::mem::take(&mut samples.taken)
    }
}

/// What a leader remembers of its region's load from second to second.
#[derive(Debug, Default)]
pub struct LoadWatch {
    last: LoadFigures,
    hot_seconds: usize,
    samples: Vec<Touched>,
}

impl LoadWatch {
    /// A second has passed; answers where to cut the region, if its load asks for that.
    pub fn look(
        &mut self,
        load: &RegionLoad,
        region: &meta::Region,
        elapsed: Duration,
        thresholds: LoadThresholds,
    ) -> Option<Bytes> {
        let figures = load.figures();
        let new = figures.since(&self.last);
        self.last = figures;
        if !is_over(&new, elapsed, thresholds) {
            if self.hot_seconds > 0 {
                load.watch(false);
                load.take_samples();
                self.forget();
            }
            return None;
        }
        load.watch(true);
        self.hot_seconds += 1;
        self.samples.extend(load.take_samples());
        if self.hot_seconds <= HOT_SECONDS {
            return None;
        }
        let key = split_key(&self.samples, region);
        self.forget();
        key
    }

    /// Where the samples so far would cut the region, hot or not.
    pub fn split_key(&self, region: &meta::Region) -> Option<Bytes> {
        split_key(&self.samples, region)
    }

    /// Begins anew, as after a split.
    pub fn forget(&mut self) {
        self.hot_seconds = 0;
        self.samples = Vec::new();
    }
}

fn is_over(new: &LoadFigures, elapsed: Duration, thresholds: LoadThresholds) -> bool {
    let per_second = |count: u64| count as f64 / elapsed.as_secs_f64().max(0.001);
    let queries = per_second(new.read_queries + new.write_queries);
    let bytes = per_second(new.read_bytes + new.written_bytes);
    let over = |value: f64, limit: u64| limit > 0 && value >= limit as f64;
    over(queries, thresholds.queries_per_second) || over(bytes, thresholds.bytes_per_second)
}

/// The key at which requests fall into halves with the fewest across it.
fn split_key(samples: &[Touched], region: &meta::Region) -> Option<Bytes> {
    if samples.len() < SAMPLES_MIN {
        return None;
    }
    let mut candidates: Vec<&Bytes> = samples
        .iter()
        .map(|sample| match sample {
            Touched::Key(key) | Touched::Range(key, _) => key,
        })
        .filter(|key| **key > region.start_key && keys::region_contains(region, key))
        .collect();
    candidates.sort_unstable();
    candidates.dedup();
    candidates
        .into_iter()
        .filter_map(|key| Some((score(samples, key)?, key)))
        .min_by(|(left, _), (right, _)| left.total_cmp(right))
        .map(|(_, key)| key.clone())
}

/// How bad a cut is, 0 the best; `None`: too bad.
fn score(samples: &[Touched], cut: &Bytes) -> Option<f64> {
    let (mut left, mut right, mut crossing) = (0u32, 0u32, 0u32);
    for sample in samples {
        match sample {
            Touched::Key(key) if key < cut => left += 1,
            Touched::Range(_, end) if !end.is_empty() && end <= cut => left += 1,
            Touched::Key(_) => right += 1,
            Touched::Range(start, _) if start >= cut => right += 1,
            Touched::Range(..) => crossing += 1,
        }
    }
    let sided = f64::from(left + right);
    let imbalance = f64::from(left.abs_diff(right)) / sided.max(1.0);
    let crossing = f64::from(crossing) / samples.len() as f64;
    let fits = sided > 0.0 && imbalance <= IMBALANCE_MAX && crossing <= CROSSING_MAX;
    fits.then_some(imbalance + crossing)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const LIMIT: LoadThresholds = LoadThresholds { queries_per_second: 1000, bytes_per_second: 0 };

    fn key(number: u64) -> Bytes {
        Bytes::from(format!("k{number:05}"))
    }

    fn run(seconds: usize, per_second: u64, touch: impl Fn(u64) -> Touched) -> Option<Bytes> {
        let load = RegionLoad::default();
        let mut watch = LoadWatch::default();
        let region = meta::Region::default();
        let mut found = None;
        for second in 0..seconds as u64 {
            for number in 0..per_second {
                load.read(1, 100, || touch(second * per_second + number));
            }
            found = found.or(watch.look(&load, &region, SECOND, LIMIT));
        }
        found
    }

    #[test]
    fn a_hot_region_is_cut_in_the_middle_of_its_load() {
        // Nine tenths of the requests go to the first hundredth of the keys.
        let touch = |number: u64| {
            let spread = number.wrapping_mul(7919) % 10_000;
            Touched::Key(key(if number.is_multiple_of(10) { spread } else { spread / 100 }))
        };
        let found = run(20, 2000, touch).expect("a key");
        assert!(found > key(20) && found < key(90), "{found:?}");
    }

    #[test]
    fn little_load_short_bursts_and_one_hot_key_are_left_alone() {
        let touch = |number: u64| Touched::Key(key(number % 1000));
        assert_eq!(run(60, 900, touch), None);
        assert_eq!(run(HOT_SECONDS, 5000, touch), None);
        assert_eq!(run(60, 5000, |_| Touched::Key(key(5))), None, "nothing would be won");
    }

    #[test]
    fn requests_over_everything_are_not_cut() {
        let all = |_| Touched::Range(key(0), Bytes::new());
        assert_eq!(run(60, 5000, all), None);
        // Small ranges are.
        let small = |number: u64| {
            let start = number.wrapping_mul(7919) % 10_000;
            Touched::Range(key(start), key(start + 10))
        };
        let found = run(20, 5000, small).expect("a key");
        assert!(found > key(3500) && found < key(6500), "{found:?}");
    }
}
