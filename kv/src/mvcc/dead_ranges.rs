//! Ranges in which every row is deleted, remembered so that scans need not walk through
//! them again: the head of a queue-like table.
//!
//! Deleted rows keep their versions until garbage collection, and the engine keeps its own
//! tombstones until compaction. A reader of `ORDER BY id LIMIT 1` would step over all of
//! them, each time. Here the first one who did tells the others.
//!
//! **Data.** A range names its first and last dead key, the newest commit timestamp in it,
//! and the sequence number of the engine's view that it was seen in. A scan jumps to its
//! end if its read view is not older than either. Locks are not concerned: scans walk
//! those separately.
//!
//! **Invariants**
//! - A range that is offered holds no visible row for such scans: before a write brings a
//!   record into it, [`DeadRanges::begin_write`] takes it out; views that hold the record
//!   were taken later and do not find it any more.
//! - A scan on an older view cannot bring it back: writes that it did not see, under way or
//!   done, are remembered by their bounds, and what they touch is not taken in.
//!
//! Deletions never make a row visible, so garbage collection and dropped ranges are no
//! concern. A Raft snapshot that replaces a region's data is one write over its range.
//!
//! **Bounds.** [`RANGES_MAX`] ranges, [`WRITES_MAX`] writes remembered. Nothing is noted
//! before the first long run of dead rows was seen; from then on, and once every write
//! that was not noted has ended, ranges are taken in.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use cairn_engine::{Cf, KvEngine, WriteBatch, WriteOp};
use cairn_types::TimeStamp;
use parking_lot::Mutex;

use super::keys::{KeyBuf, TS_LEN};

/// Dead rows in a row that are worth remembering: walking over fewer costs about as much
/// as the seek that is saved.
pub const RUN_MIN: usize = 64;
/// Ranges remembered on a store.
const RANGES_MAX: usize = 256;
/// Writes remembered; a scan that lasts longer than so many writes tells nothing.
const WRITES_MAX: usize = 4096;

/// A range of dead rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadRange {
    /// First user key.
    pub start: KeyBuf,
    /// Last user key.
    pub end: KeyBuf,
    /// No record in it was committed later.
    pub newest: TimeStamp,
}

struct Seen {
    range: DeadRange,
    sequence: u64,
}

/// A write to CF write, by the bounds of its user keys.
struct Noted {
    id: u64,
    first: KeyBuf,
    last: KeyBuf,
    /// The engine's sequence number after it; `u64::MAX` while it is under way.
    done: u64,
}

#[derive(Default)]
struct State {
    /// By start; they may overlap.
    ranges: BTreeMap<KeyBuf, Seen>,
    writes: VecDeque<Noted>,
    /// Views older than this may lack writes that are not remembered. `None`: writes that
    /// were not noted may still be under way.
    complete_from: Option<u64>,
    next_id: u64,
}

/// The dead ranges of a store.
pub struct DeadRanges {
    engine: Arc<dyn KvEngine>,
    /// Whether writes are noted; a store without queues pays two additions per batch.
    is_active: AtomicBool,
    /// Writes under way that were not noted.
    unnoted: AtomicUsize,
    state: Mutex<State>,
    jumps: AtomicU64,
}

impl std::fmt::Debug for DeadRanges {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DeadRanges").field("jumps", &self.jumps()).finish_non_exhaustive()
    }
}

/// A write that was begun; it ends when this is dropped.
#[must_use]
pub struct BegunWrite<'a> {
    ranges: &'a DeadRanges,
    /// `None`: it was not noted.
    id: Option<u64>,
}

impl Drop for BegunWrite<'_> {
    fn drop(&mut self) {
        match self.id {
            None => {
                self.ranges.unnoted.fetch_sub(1, Ordering::SeqCst);
            }
            Some(id) => self.ranges.end(id),
        }
    }
}

impl DeadRanges {
    /// Knows nothing yet of the engine's data.
    pub fn new(engine: Arc<dyn KvEngine>) -> DeadRanges {
        DeadRanges {
            engine,
            is_active: AtomicBool::new(false),
            unnoted: AtomicUsize::new(0),
            state: Mutex::default(),
            jumps: AtomicU64::new(0),
        }
    }

    /// A batch is about to be written; keep the answer until it is.
    pub fn begin_write(&self, batch: &WriteBatch) -> BegunWrite<'_> {
        self.begin(|| {
            let keys = batch.ops().iter().filter_map(|op| match op {
                WriteOp::Put { cf: Cf::Write, key, .. } => {
                    key.len().checked_sub(TS_LEN).map(|length| &key[..length])
                }
                _ => None,
            });
            keys.fold(None, |bounds, key| match bounds {
                None => Some((key, key)),
                Some((first, last)) => Some((key.min(first), key.max(last))),
            })
        })
    }

    /// Whatever lies in the range of user keys is about to change.
    pub fn begin_range(&self, first: &[u8], last: &[u8]) -> BegunWrite<'_> {
        self.begin(|| Some((first, last)))
    }

    fn begin<'a>(&self, bounds: impl FnOnce() -> Option<(&'a [u8], &'a [u8])>) -> BegunWrite<'_> {
        // Counted before the switch is looked at: whoever turns it on either sees this
        // write under way or is seen by it.
        self.unnoted.fetch_add(1, Ordering::SeqCst);
        let unnoted = BegunWrite { ranges: self, id: None };
        if !self.is_active.load(Ordering::SeqCst) {
            return unnoted;
        }
        let Some((first, last)) = bounds() else { return unnoted };
        let mut state = self.state.lock();
        state.ranges.retain(|start, seen| &start[..] > last || &seen.range.end[..] < first);
        let id = state.next_id;
        state.next_id += 1;
        state.writes.push_back(Noted {
            id,
            first: KeyBuf::from_slice(first),
            last: KeyBuf::from_slice(last),
            done: u64::MAX,
        });
        if state.writes.len() > WRITES_MAX
            && let Some(oldest) = state.writes.pop_front()
        {
            let before = state.complete_from.unwrap_or(0);
            // One that is still under way after so many others: nothing is taken in
            // until the next start of the store.
            state.complete_from = Some(before.max(oldest.done));
        }
        drop(state);
        // The first guard gives its count back here.
        drop(unnoted);
        BegunWrite { ranges: self, id: Some(id) }
    }

    fn end(&self, id: u64) {
        let sequence = self.engine.sequence();
        let mut state = self.state.lock();
        if let Some(position) = state.writes.iter().rposition(|noted| noted.id == id) {
            state.writes[position].done = sequence;
        }
    }

    /// The range that a scan at `read_ts` on a view of `sequence` may leave at its end.
    pub fn find(&self, user_key: &[u8], read_ts: TimeStamp, sequence: u64) -> Option<DeadRange> {
        if !self.is_active.load(Ordering::Relaxed) {
            return None;
        }
        let state = self.state.lock();
        let upto = (Bound::Unbounded, Bound::Included(user_key));
        let (_, seen) = state.ranges.range::<[u8], _>(upto).next_back()?;
        let serves = &seen.range.end[..] >= user_key
            && seen.range.newest <= read_ts
            && seen.sequence <= sequence;
        if serves {
            self.jumps.fetch_add(1, Ordering::Relaxed);
        }
        serves.then(|| seen.range.clone())
    }

    /// A scan on a view of `sequence` saw nothing but dead rows in the range.
    pub fn add(&self, range: DeadRange, sequence: u64) {
        self.is_active.store(true, Ordering::SeqCst);
        let mut state = self.state.lock();
        let Some(complete_from) = state.complete_from else {
            if self.unnoted.load(Ordering::SeqCst) == 0 {
                // Whatever was not noted is done; views from now on hold it.
                state.complete_from = Some(self.engine.sequence());
            }
            return;
        };
        let unseen = |noted: &Noted| {
            noted.done > sequence && noted.first <= range.end && noted.last >= range.start
        };
        if sequence < complete_from || state.writes.iter().any(unseen) {
            return;
        }
        state.ranges.retain(|_, seen| seen.range.start < range.start || seen.range.end > range.end);
        if state.ranges.len() < RANGES_MAX {
            state.ranges.insert(range.start.clone(), Seen { range, sequence });
        }
    }

    /// Jumps over dead ranges so far.
    pub fn jumps(&self) -> u64 {
        self.jumps.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use cairn_engine::MemoryEngine;

    use super::*;

    fn range(start: &[u8], end: &[u8]) -> DeadRange {
        DeadRange {
            start: KeyBuf::from_slice(start),
            end: KeyBuf::from_slice(end),
            newest: TimeStamp(10),
        }
    }

    fn write(ranges: &DeadRanges, engine: &MemoryEngine, user_key: &[u8]) {
        let mut batch = WriteBatch::new();
        let key = [user_key, &[0; TS_LEN]].concat();
        batch.put(Cf::Write, key, &b"record"[..]);
        let begun = ranges.begin_write(&batch);
        engine.write(batch, false).unwrap();
        drop(begun);
    }

    #[test]
    fn ranges_serve_views_that_are_not_older_until_a_write() {
        let engine = MemoryEngine::new();
        let ranges = DeadRanges::new(Arc::new(engine.clone()));
        write(&ranges, &engine, b"zb");
        ranges.add(range(b"za", b"zc"), engine.sequence());
        assert_eq!(ranges.find(b"zb", TimeStamp(10), u64::MAX), None, "only now writes are noted");
        let sequence = engine.sequence();
        ranges.add(range(b"za", b"zc"), sequence);
        assert_eq!(ranges.find(b"zb", TimeStamp(10), sequence), Some(range(b"za", b"zc")));
        assert_eq!(ranges.find(b"zb", TimeStamp(9), sequence), None, "an older read view");
        assert_eq!(ranges.find(b"zb", TimeStamp(10), sequence - 1), None, "an older engine's view");
        assert_eq!(ranges.find(b"zd", TimeStamp(10), sequence), None);
        write(&ranges, &engine, b"zd");
        assert!(ranges.find(b"zb", TimeStamp(10), sequence).is_some(), "a write elsewhere");
        write(&ranges, &engine, b"zb");
        assert_eq!(ranges.find(b"zb", TimeStamp(10), u64::MAX), None);
        ranges.add(range(b"za", b"zc"), sequence);
        assert_eq!(ranges.find(b"zb", TimeStamp(10), u64::MAX), None, "it did not see the write");
        ranges.add(range(b"za", b"zc"), engine.sequence());
        assert!(ranges.find(b"zb", TimeStamp(10), u64::MAX).is_some());
    }

    #[test]
    fn writes_under_way_keep_ranges_out() {
        let engine = MemoryEngine::new();
        let ranges = DeadRanges::new(Arc::new(engine.clone()));
        let unnoted = ranges.begin_range(b"zb", b"zb");
        ranges.add(range(b"za", b"zc"), 100);
        ranges.add(range(b"za", b"zc"), 100);
        assert_eq!(ranges.find(b"zb", TimeStamp(10), u64::MAX), None, "begun before noting");
        drop(unnoted);
        ranges.add(range(b"za", b"zc"), 100);
        let noted = ranges.begin_range(b"zb", b"zb");
        ranges.add(range(b"za", b"zc"), 100);
        assert_eq!(ranges.find(b"zb", TimeStamp(10), u64::MAX), None, "under way");
        drop(noted);
        ranges.add(range(b"za", b"zc"), 100);
        assert!(ranges.find(b"zb", TimeStamp(10), u64::MAX).is_some());
    }
}
