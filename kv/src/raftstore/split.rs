//! How large a region is, and where its middle lies.
//!
//! RocksDB's estimates leave out what is still in memtables, so a region that may be too
//! large is read once, past the block cache; the raw key at which half of the bytes
//! have passed is the split key. All versions of a key stay together.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use cairn_engine::{Cf, EngineIterator, EngineSnapshot, IterOptions, KvEngine};
use cairn_proto::meta;

use super::error::RaftStoreError;
use super::ids::{RegionEpoch, epoch_of};
use crate::keys;

/// A region of unknown size is read once its files reach this part of the limit.
const UNKNOWN_PART: u64 = 4;
/// Regions that are not larger are read whenever their size is not known.
const SMALL_BYTES: u64 = 16 * 1024 * 1024;
/// Keys remembered with their position, evenly spread over what was read.
const SAMPLES_MAX: usize = 256;

/// What is known of a region that is to be measured, and what is too much.
#[derive(Clone, Debug)]
pub struct MeasureJob {
    /// The region.
    pub region: Arc<meta::Region>,
    /// What was counted last, and the engine's estimate of its files then.
    pub counted: Option<(Counted, u64)>,
    /// Bytes and operations written since, or since this peer came to life.
    pub written: Counted,
    /// Split if it holds more.
    pub limits: Counted,
    /// Somebody wants it split in the middle, whatever its size.
    pub split_anyway: bool,
}

/// What a measurement found.
#[derive(Clone, Debug, PartialEq)]
pub struct SplitCheck {
    /// The region.
    pub region_id: u64,
    /// Its epoch when it was measured.
    pub epoch: RegionEpoch,
    /// Bytes in the engine's files, as the engine estimates them.
    pub files_bytes: u64,
    /// What was counted, if the region was read.
    pub counted: Option<Counted>,
    /// What was written before it was read.
    pub written: Counted,
    /// Where to split, if it is too large.
    pub split_key: Option<Bytes>,
}

/// Size of a region.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Bytes of keys and values.
    pub bytes: u64,
    /// Versions of keys.
    pub keys: u64,
}

/// Looks whether a region can be too large, or has become much smaller than thought, and
/// only then reads it.
pub fn check(engine: &dyn KvEngine, job: &MeasureJob) -> Result<SplitCheck, RaftStoreError> {
    let region = &job.region;
    let (start, end) = keys::region_data_range(region);
    let files_bytes = engine.approximate_size(&start, &end);
    let mut check = SplitCheck {
        region_id: region.id,
        epoch: epoch_of(region),
        files_bytes,
        counted: None,
        written: job.written,
        split_key: None,
    };
    if job.split_anyway || may_be_too_large(job, files_bytes) || has_changed(job, files_bytes) {
        let view = engine.snapshot();
        let limits = if job.split_anyway { Counted::default() } else { job.limits };
        let (counted, split_key) = measure(view.as_ref(), region, limits)?;
        check.counted = Some(counted);
        check.split_key = split_key;
    }
    Ok(check)
}

fn may_be_too_large(job: &MeasureJob, files_bytes: u64) -> bool {
    match job.counted {
        Some((counted, _)) => {
            counted.bytes + job.written.bytes > job.limits.bytes
                || counted.keys + job.written.keys > job.limits.keys
        }
        // Files are compressed, and keys may be short.
        None => files_bytes + job.written.bytes > job.limits.bytes / UNKNOWN_PART,
    }
}

/// Whether reading the region is worth what it costs: it is small beside what was
/// written to it, or compaction took away half of its files.
fn has_changed(job: &MeasureJob, files_bytes: u64) -> bool {
    if files_bytes > job.limits.bytes / 2 {
        return false;
    }
    match job.counted {
        Some((_, files_then)) => {
            let written = job.written.bytes > 0 && job.written.bytes * 2 >= files_bytes;
            written || files_bytes < files_then / 2
        }
        None => files_bytes <= SMALL_BYTES,
    }
}

/// Reads the region and finds its middle if it is larger than the limits.
fn measure(
    view: &dyn EngineSnapshot,
    region: &meta::Region,
    limits: Counted,
) -> Result<(Counted, Option<Bytes>), RaftStoreError> {
    let mut counted = Counted::default();
    let mut samples = Samples::default();
    let (lower, upper) = keys::region_data_range(region);
    let mut options = IterOptions::range(lower, upper);
    options.skip_cache = true;
    let mut write = view.iter(Cf::Write, options.clone());
    let mut default = view.iter(Cf::Default, options);
    write.seek_to_first()?;
    default.seek_to_first()?;
    // Both column families in one order, so that long values weigh where they lie.
    while write.valid() || default.valid() {
        let take_write = write.valid() && (!default.valid() || write.key() <= default.key());
        let cursor: &mut dyn EngineIterator =
            if take_write { write.as_mut() } else { default.as_mut() };
        counted.bytes += (cursor.key().len() + cursor.value().len()) as u64;
        counted.keys += u64::from(take_write);
        samples.offer(counted.bytes, cursor.key());
        cursor.next()?;
    }
    let too_large = counted.bytes > limits.bytes || counted.keys > limits.keys;
    let split_key = too_large.then(|| samples.raw_key_at(counted.bytes / 2, region)).flatten();
    Ok((counted, split_key))
}

/// A few keys with the bytes read up to them.
#[derive(Default)]
struct Samples {
    keys: VecDeque<(u64, Bytes)>,
    /// Bytes between two samples; doubles whenever there are too many.
    step: u64,
}

impl Samples {
    fn offer(&mut self, position: u64, key: &[u8]) {
        let next = self.keys.back().map_or(0, |(last, _)| last + self.step);
        if position < next {
            return;
        }
        self.keys.push_back((position, Bytes::copy_from_slice(key)));
        if self.keys.len() > SAMPLES_MAX {
            let mut keep = false;
            self.keys.retain(|_| {
                keep = !keep;
                keep
            });
            let last = self.keys.back().map_or(0, |(last, _)| *last);
            self.step = (self.step * 2).max(last / (SAMPLES_MAX as u64 / 2));
        }
    }

    /// The raw key nearest to the position that may split the region.
    fn raw_key_at(&self, position: u64, region: &meta::Region) -> Option<Bytes> {
        let allowed = self.keys.iter().filter_map(|(at, key)| {
            let raw = Bytes::from(keys::decode_data_key(key)?.0);
            (raw > region.start_key && keys::region_contains(region, &raw))
                .then_some((at.abs_diff(position), raw))
        });
        allowed.min_by_key(|(distance, _)| *distance).map(|(_, raw)| raw)
    }
}

#[cfg(test)]
mod tests {
    use cairn_engine::{MemoryEngine, WriteBatch};

    use super::*;

    fn job(region: meta::Region, bytes: u64, keys: u64) -> MeasureJob {
        MeasureJob {
            region: Arc::new(region),
            counted: None,
            written: Counted::default(),
            limits: Counted { bytes, keys },
            split_anyway: false,
        }
    }

    #[test]
    fn finds_the_middle_between_keys() {
        let engine = MemoryEngine::new();
        let mut batch = WriteBatch::new();
        for number in 0..10_000u32 {
            for version in 0..3u64 {
                let mut key = keys::data_key(format!("k{number:05}").as_bytes());
                key.extend_from_slice(&version.to_be_bytes());
                batch.put(Cf::Write, key, vec![1; 50]);
            }
        }
        engine.write(batch, false).unwrap();
        let region = meta::Region { id: 3, ..meta::Region::default() };
        let found = check(&engine, &job(region.clone(), 100_000, u64::MAX)).unwrap();
        assert_eq!(found.counted.unwrap().keys, 30_000);
        let split_key = found.split_key.unwrap();
        let number: u32 = std::str::from_utf8(&split_key[1..]).unwrap().parse().unwrap();
        assert!((4800..5200).contains(&number), "{number}");
        // Few bytes, and too many keys.
        let found = check(&engine, &job(region.clone(), u64::MAX / 4, 20_000)).unwrap();
        assert!(found.split_key.is_some());
        let small = job(region.clone(), u64::MAX / 4, u64::MAX);
        let found = check(&engine, &small).unwrap();
        assert_eq!((found.counted.unwrap().keys, found.split_key), (30_000, None));
        // Known and unchanged: it is not read again.
        let counted = Some((found.counted.unwrap(), found.files_bytes));
        let known = MeasureJob { counted, ..small };
        assert_eq!(check(&engine, &known).unwrap().counted, None);
        // It lost half of its files since.
        let counted = Some((found.counted.unwrap(), found.files_bytes * 3));
        let shrunk = MeasureJob { counted, ..known.clone() };
        assert!(check(&engine, &shrunk).unwrap().counted.is_some());
        let forced = MeasureJob { split_anyway: true, ..known };
        assert!(check(&engine, &forced).unwrap().split_key.is_some());
    }

    #[test]
    fn one_huge_key_cannot_be_split() {
        let engine = MemoryEngine::new();
        let mut batch = WriteBatch::new();
        for version in 0..300u64 {
            let mut key = keys::data_key(b"only");
            key.extend_from_slice(&version.to_be_bytes());
            batch.put(Cf::Write, key, vec![1; 500]);
        }
        engine.write(batch, false).unwrap();
        let region = meta::Region {
            id: 3,
            start_key: Bytes::from_static(b"only"),
            ..meta::Region::default()
        };
        assert_eq!(check(&engine, &job(region, 1000, 10)).unwrap().split_key, None);
    }
}
