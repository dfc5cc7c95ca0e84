//! The operators' row source on a store: versions visible at one timestamp.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;

use async_trait::async_trait;
use bytes::Bytes;
use cairn_executor::{ExecError, KeyRange, KvBatch, KvScan, KvSource, Result, RowRead};
use cairn_proto::kv;
use cairn_types::{MysqlError, TimeStamp};
use parking_lot::Mutex;

use crate::keys::region_contains;
use crate::mvcc::{MvccReader, PairSink, ReadError, ScanOptions, Scanner};
use crate::raftstore::{RaftKv, RegionLoad, RegionSnapshot};
use crate::txn::MaxTs;

/// Why a read below an operator failed; [`ExecError::source_as`] gives it back.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct SourceError(#[from] pub ReadError);

fn source_error(error: ReadError) -> ExecError {
    let mysql = MysqlError::unknown(error.to_string());
    ExecError::source(SourceError(error), mysql)
}

impl PairSink for KvBatch {
    fn push(&mut self, raw_key: &[u8], value: &[u8]) {
        KvBatch::push(self, raw_key, value);
    }
}

/// The task's read view.
#[derive(Clone)]
pub struct ReadView {
    /// Versions up to here.
    pub read_ts: TimeStamp,
    /// Transactions whose locks do not block.
    pub resolved: Arc<[u64]>,
}

/// A region's view together with the commits that were pending before it was
/// taken (see [`MaxTs`] for why before).
pub struct EnteredView {
    view: RegionSnapshot,
    /// Sorted by key.
    pending: Vec<kv::LockInfo>,
}

impl EnteredView {
    /// Joins what [`MaxTs::pending_for`] said first to the view taken then.
    pub fn new(pending: Vec<kv::LockInfo>, view: RegionSnapshot) -> EnteredView {
        EnteredView { view, pending }
    }

    /// The region.
    pub fn region(&self) -> &cairn_proto::meta::Region {
        &self.view.region
    }

    fn pending_at(&self, key: &[u8]) -> Option<&kv::LockInfo> {
        let at = self.pending.binary_search_by(|info| info.key[..].cmp(key)).ok()?;
        Some(&self.pending[at])
    }

    fn pending_in(&self, range: &KeyRange) -> Option<&kv::LockInfo> {
        let from = self.pending.partition_point(|info| info.key < range.start);
        self.pending.get(from).filter(|info| range.end.is_empty() || info.key < range.end)
    }
}

/// Rows a task reads before it gives way: about a millisecond, or less for wide
/// rows. Tasks that end sooner run to their end on the caller's thread.
const ROWS_PER_TURN: usize = 1024;
/// A row read by key costs about as much as this many rows of a scan.
const LOOKUP_COST: usize = 16;

/// Counts a task's rows, so that it gives way to others in time, also within an
/// operator that reads everything before it answers (aggregation, TopN).
#[derive(Default)]
struct Turns(AtomicUsize);

impl Turns {
    async fn count(&self, rows: usize) {
        if self.0.fetch_add(rows, Ordering::Relaxed) + rows >= ROWS_PER_TURN {
            self.0.store(0, Ordering::Relaxed);
            let mut has_yielded = false;
            std::future::poll_fn(|context| {
                if std::mem::replace(&mut has_yielded, true) {
                    return Poll::Ready(());
                }
                context.waker().wake_by_ref();
                Poll::Pending
            })
            .await;
        }
    }
}

/// Rows of the task's region, and single rows of whatever else this store leads.
pub struct RegionSource {
    kv: Arc<dyn RaftKv>,
    max_ts: Arc<MaxTs>,
    at: ReadView,
    main: EnteredView,
    /// For lookups; readers keep a cursor each.
    lookups: Mutex<Lookups>,
    turns: Arc<Turns>,
}

/// Readers by region id.
type Lookups = HashMap<u64, Lookup>;

struct Lookup {
    entered: Arc<EnteredView>,
    reader: MvccReader,
}

impl RegionSource {
    /// A source over a region's view.
    pub fn new(
        kv: Arc<dyn RaftKv>,
        max_ts: Arc<MaxTs>,
        at: ReadView,
        main: EnteredView,
    ) -> RegionSource {
        RegionSource { kv, max_ts, at, main, lookups: Mutex::default(), turns: Arc::default() }
    }

    /// Reads one row, wherever this store leads it.
    fn lookup(&self, lookups: &mut Lookups, key: &Bytes) -> Result<RowRead, ReadError> {
        let is_known = |lookup: &Lookup| region_contains(lookup.entered.region(), key);
        let known = lookups.iter().find(|(_, lookup)| is_known(lookup)).map(|(id, _)| *id);
        let region_id = match known.map_or_else(|| self.open_lookup(lookups, key), Some) {
            Some(region_id) => region_id,
            None => return Ok(RowRead::Remote),
        };
        let Some(lookup) = lookups.get_mut(&region_id) else { return Ok(RowRead::Remote) };
        if let Some(info) = lookup.entered.pending_at(key) {
            return Err(ReadError::Locked(Box::new(info.clone())));
        }
        let value = lookup.reader.get(key, self.at.read_ts, &self.at.resolved)?;
        let bytes = key.len() + value.as_ref().map_or(0, Bytes::len);
        lookup.entered.view.load.read_more(1, bytes as u64);
        Ok(value.map_or(RowRead::Missing, RowRead::Found))
    }

    /// Takes a view of the region that holds `key`; `None` when this store may not
    /// read it now.
    fn open_lookup(&self, lookups: &mut Lookups, key: &Bytes) -> Option<u64> {
        let entered = if region_contains(self.main.region(), key) {
            EnteredView::new(self.main.pending.clone(), self.main.view.clone())
        } else {
            let context = self.kv.local_leader_region(key)?;
            let pending = self.max_ts.pending_for(self.at.read_ts, &self.at.resolved);
            let view = self.kv.try_local_snapshot(&context).ok()??;
            // The region may have been split since it was looked up.
            if !region_contains(&view.region, key) {
                return None;
            }
            EnteredView::new(pending, view)
        };
        let region_id = entered.region().id;
        let reader = MvccReader::new(Arc::clone(&entered.view.engine));
        lookups.insert(region_id, Lookup { entered: Arc::new(entered), reader });
        Some(region_id)
    }
}

#[async_trait]
impl KvSource for RegionSource {
    async fn scan(&self, range: KeyRange, desc: bool) -> Result<Box<dyn KvScan>> {
        if let Some(info) = self.main.pending_in(&range) {
            return Err(source_error(ReadError::Locked(Box::new(info.clone()))));
        }
        let options = ScanOptions {
            start: range.start,
            end: range.end,
            read_ts: self.at.read_ts,
            desc,
            key_only: false,
            resolved: Arc::clone(&self.at.resolved),
        };
        let scanner = Scanner::new(Arc::clone(&self.main.view.engine), options)
            .with_dead_ranges(self.kv.dead_ranges());
        let load = Arc::clone(&self.main.view.load);
        Ok(Box::new(RegionScan { scanner, turns: Arc::clone(&self.turns), load }))
    }

    async fn batch_get(&self, keys: &[Bytes]) -> Result<Vec<RowRead>> {
        self.turns.count(keys.len() * LOOKUP_COST).await;
        let mut lookups = self.lookups.lock();
        keys.iter().map(|key| self.lookup(&mut lookups, key).map_err(source_error)).collect()
    }
}

struct RegionScan {
    scanner: Scanner,
    turns: Arc<Turns>,
    load: Arc<RegionLoad>,
}

#[async_trait]
impl KvScan for RegionScan {
    async fn next_batch(&mut self, out: &mut KvBatch, limit: usize) -> Result<bool> {
        self.turns.count(limit).await;
        let (rows, bytes) = (out.len(), out.size_bytes());
        let outcome = self.scanner.next_batch(out, limit).map_err(source_error);
        let rows = out.len().saturating_sub(rows) as u64;
        self.load.read_more(rows, out.size_bytes().saturating_sub(bytes) as u64);
        outcome
    }
}
