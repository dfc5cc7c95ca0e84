//! The filter of compactions: garbage goes when RocksDB rewrites its file anyway.
//!
//! **Why it is safe although a compaction shows only some versions of a key.** A version
//! is left out because a `Put` or `Delete` above it, at or below the safe point, was shown in
//! the same compaction. If that one is no longer in force, then because it was collected
//! itself: a `Put` below a newer one, a `Delete` after everything that it hid. Either
//! way the older version is garbage. The newest `Delete` stays: what it hides may lie in a
//! file that takes no part.
//!
//! Long values lie in another column family. Their keys are remembered here, in a bounded
//! list, for [`super::Collector::run`] to delete; what does not fit keeps its record and is found by
//! the next compaction. A crash in between leaves the value without a record: it takes
//! space until its range is destroyed, and is never read.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use cairn_engine::{FilterRun, GarbageFilter};
use cairn_types::TimeStamp;
use parking_lot::Mutex;

use super::judge::{Judge, Verdict};
use crate::mvcc::Write;
use crate::mvcc::keys;

/// Long values waiting to be deleted, at most: their keys take some 100 bytes each.
const ORPHANS_MAX: usize = 256 * 1024;
/// Keys that a compaction collects before it hands them over.
const ORPHANS_PER_HAND_OVER: usize = 1024;

#[derive(Default)]
struct Shared {
    safe_point: AtomicU64,
    /// Keys in CF default.
    orphans: Mutex<Vec<Bytes>>,
    left_out: AtomicU64,
}

/// The filter of a store. Clones share their state.
#[derive(Clone, Default)]
pub struct VersionFilter(Arc<Shared>);

impl VersionFilter {
    /// From here on compactions leave out what nobody at or above `safe_point` sees.
    pub fn raise(&self, safe_point: TimeStamp) {
        self.0.safe_point.fetch_max(safe_point.0, Ordering::AcqRel);
    }

    /// The safe point in force.
    pub fn safe_point(&self) -> TimeStamp {
        TimeStamp(self.0.safe_point.load(Ordering::Acquire))
    }

    /// Versions left out so far.
    pub fn left_out(&self) -> u64 {
        self.0.left_out.load(Ordering::Relaxed)
    }

    /// Keys of long values whose records were left out.
    pub fn take_orphans(&self) -> Vec<Bytes> {
        std::mem::take(&mut *self.0.orphans.lock())
    }
}

impl GarbageFilter for VersionFilter {
    fn begin(&self) -> Option<Box<dyn FilterRun>> {
        let safe_point = self.safe_point();
        if safe_point.is_zero() {
            return None;
        }
        Some(Box::new(Run {
            shared: Arc::clone(&self.0),
            judge: Judge::new(safe_point),
            orphans: Vec::new(),
            left_out: 0,
        }))
    }
}

struct Run {
    shared: Arc<Shared>,
    judge: Judge,
    orphans: Vec<Bytes>,
    left_out: u64,
}

impl FilterRun for Run {
    fn is_garbage(&mut self, key: &[u8], value: &[u8]) -> bool {
        // What does not decode is not ours to remove.
        let (Ok((user_key, commit_ts)), Ok(write)) = (keys::split_ts(key), Write::decode(value))
        else {
            return false;
        };
        if self.judge.judge(user_key, commit_ts, write.kind) != Verdict::Garbage {
            return false;
        }
        if write.has_long_value() {
            let key = keys::versioned_key(user_key, write.start_ts);
            if !self.remember(Bytes::copy_from_slice(&key)) {
                return false;
            }
        }
        self.left_out += 1;
        true
    }
}

impl Run {
    /// Whether there was room for one more.
    fn remember(&mut self, orphan: Bytes) -> bool {
        if self.orphans.len() >= ORPHANS_PER_HAND_OVER && !self.hand_over() {
            return false;
        }
        self.orphans.push(orphan);
        true
    }

    fn hand_over(&mut self) -> bool {
        let mut waiting = self.shared.orphans.lock();
        if waiting.len() >= ORPHANS_MAX {
            return false;
        }
        waiting.append(&mut self.orphans);
        true
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.shared.left_out.fetch_add(self.left_out, Ordering::Relaxed);
        // These records are gone already; a few more than the bound do not matter.
        self.shared.orphans.lock().append(&mut self.orphans);
    }
}
