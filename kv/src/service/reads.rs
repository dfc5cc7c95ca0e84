//! Point gets, batches of gets, scans and lock listings in one region.
//!
//! A point get with a valid lease is a plain function call: no channel, no task,
//! no allocation but the value's. Larger reads go to the read pool, so that they
//! do not hold up the threads that serve requests.
//!
//! **Invariant**: every read first enters [`MaxTs`], then takes its view (see
//! there why in this order).

use std::sync::Arc;

use bytes::Bytes;
use cairn_proto::kv::{self, key_error};
use cairn_types::TimeStamp;

use super::read_pool::ReadPool;
use super::read_turns::ReadTask;
use crate::keys::region_contains;
use crate::mvcc::dead_ranges::DeadRanges;
use crate::mvcc::keys::range_bounds;
use crate::mvcc::{MvccReader, PairSink, ReadError, ScanOptions, Scanner};
use crate::raftstore::{
    RaftKv, RegionContext, RegionError, RegionSnapshot, ReplicaRead, ReplicaView, Touched,
};
use crate::txn::scheduler::abort;
use crate::txn::{MaxTs, scan_lock};

/// Gets of one batch that run on the caller's thread; more go to the pool.
const INLINE_KEYS_MAX: usize = 64;
/// Rows of one scan that run on the caller's thread; more go to the pool.
const INLINE_ROWS_MAX: usize = 256;
/// Rows of one answer, whatever the request asks.
const SCAN_ROWS_MAX: usize = 65_536;
/// Bytes after which an answer takes no more rows: with one more row of the largest size it is
/// far below what a message may hold.
const SCAN_BYTES_MAX: usize = 8 << 20;
/// Rows when the request does not say.
const SCAN_ROWS_DEFAULT: usize = 256;

/// The reading half of a store.
pub struct Reads {
    pub(super) kv: Arc<dyn RaftKv>,
    pub(super) max_ts: Arc<MaxTs>,
    pub(super) pool: Arc<ReadPool>,
}

/// A read's view and how locks concern it.
#[derive(Clone, Copy)]
pub struct ReadAt<'a> {
    /// The read view.
    pub read_ts: TimeStamp,
    /// Transactions whose locks do not block.
    pub resolved: &'a [u64],
}

impl Reads {
    /// Reads through `kv`.
    pub fn new(kv: Arc<dyn RaftKv>, max_ts: Arc<MaxTs>, pool: Arc<ReadPool>) -> Reads {
        Reads { kv, max_ts, pool }
    }

    /// A point get without waiting; `None` when the lease is not valid now.
    pub fn try_get(
        &self,
        context: &RegionContext,
        key: &Bytes,
        at: ReadAt<'_>,
    ) -> Result<Option<kv::GetResponse>, RegionError> {
        if let Err(locked) = self.max_ts.enter_read(key, at.read_ts, at.resolved) {
            return Ok(Some(get_response(Err(ReadError::Locked(locked)))));
        }
        let Some(view) = self.kv.try_live_view(context)? else { return Ok(None) };
        let response = get_at(&view, key, at)?;
        Ok(self.kv.is_current(&view).then_some(response))
    }

    /// A point get.
    pub async fn get(
        &self,
        context: &RegionContext,
        key: &Bytes,
        at: ReadAt<'_>,
    ) -> Result<kv::GetResponse, RegionError> {
        match self.try_get(context, key, at) {
            Ok(Some(response)) => Ok(response),
            missed if reads_as_replica(context, missed.as_ref().err()) => {
                let read = replica_read(key.clone(), key_after(key), at);
                let ReplicaView { snapshot, pending } =
                    self.kv.replica_snapshot(context, read).await?;
                match pending.into_iter().find(|lock| lock.key == *key) {
                    Some(lock) => Ok(get_response(Err(ReadError::Locked(Box::new(lock))))),
                    None => get_at(&snapshot, key, at),
                }
            }
            Ok(None) => get_at(&self.kv.snapshot(context).await?, key, at),
            Err(error) => Err(error),
        }
    }

    /// Many gets on one view.
    pub async fn batch_get(
        &self,
        context: &RegionContext,
        request: kv::BatchGetRequest,
        resolved: Vec<u64>,
    ) -> Result<kv::BatchGetResponse, RegionError> {
        let read_ts = TimeStamp(request.version);
        // Keys that a pending commit will write are answered as locked; the rest
        // is still read.
        let mut keys = Vec::with_capacity(request.keys.len());
        for key in request.keys {
            let pending = self.max_ts.enter_read(&key, read_ts, &resolved).err();
            keys.push((key, pending));
        }
        let first = keys.iter().map(|(key, _)| key).min().cloned().unwrap_or_default();
        let last = keys.iter().map(|(key, _)| key).max().map(key_after).unwrap_or_default();
        let read = replica_read(first, last, ReadAt { read_ts, resolved: &resolved });
        let ReplicaView { snapshot: view, pending } = self.entered_view(context, read).await?;
        for lock in pending {
            if let Some((_, entry)) = keys.iter_mut().find(|(key, _)| *key == lock.key) {
                *entry = Some(Box::new(lock));
            }
        }
        if let Some((key, _)) = keys.iter().find(|(key, _)| !region_contains(&view.region, key)) {
            return Err(outside(&view, key));
        }
        let is_inline = keys.len() <= INLINE_KEYS_MAX;
        let own_writes = request.own_writes;
        let read =
            move || batch_get_at(&view, keys, ReadAt { read_ts, resolved: &resolved }, own_writes);
        let pairs = if is_inline {
            read()
        } else {
            self.pool.run(ReadTask::new(context, read_ts), read).await?
        }?;
        Ok(kv::BatchGetResponse { pairs })
    }

    /// Pairs of a range, clipped to the region, up to and including the first
    /// locked key.
    pub async fn scan(
        &self,
        context: &RegionContext,
        request: kv::ScanRequest,
        resolved: Vec<u64>,
    ) -> Result<kv::ScanResponse, RegionError> {
        let read_ts = TimeStamp(request.version);
        let limit = match request.limit {
            0 => SCAN_ROWS_DEFAULT,
            limit => (limit as usize).min(SCAN_ROWS_MAX),
        };
        let entered =
            self.max_ts.enter_scan(&request.start_key, &request.end_key, read_ts, &resolved);
        if let Err(locked) = entered {
            return Ok(stopped_scan(*locked));
        }
        let at = ReadAt { read_ts, resolved: &resolved };
        let read = replica_read(request.start_key.clone(), request.end_key.clone(), at);
        let ReplicaView { snapshot: view, pending } = self.entered_view(context, read).await?;
        if let Some(lock) = pending.into_iter().next() {
            return Ok(stopped_scan(lock));
        }
        let (start, end) = clip(&view, &request.start_key, &request.end_key)?;
        let options = ScanOptions {
            start,
            end,
            read_ts,
            desc: request.reverse,
            key_only: request.key_only,
            resolved: resolved.into(),
        };
        let dead = self.kv.dead_ranges();
        let scan = move || scan_at(&view, options, dead, limit);
        if limit <= INLINE_ROWS_MAX {
            scan()
        } else {
            self.pool.run(ReadTask::new(context, read_ts), scan).await?
        }
    }

    /// Locks of a range that are at most as young as the request says.
    pub async fn scan_lock(
        &self,
        context: &RegionContext,
        request: kv::ScanLockRequest,
    ) -> Result<kv::ScanLockResponse, RegionError> {
        let task = ReadTask::new(context, request.max_ts.into());
        self.max_ts.observe(task.read_ts);
        let view = self.view(context).await?;
        let (start, end) = clip(&view, &request.start_key, &request.end_key)?;
        let (lower, upper) = range_bounds(&start, &end);
        let leader_locks = view.locks.of_range(&view, &lower, &upper)?;
        let list = move || {
            let reader = MvccReader::with_locks(Arc::clone(&view.engine), leader_locks);
            scan_lock::run(&reader, &request, &start, &end)
        };
        // The answer has no place for a storage error: better late than wrong.
        let locks = self.pool.run(task, list).await?.map_err(|error| {
            tracing::error!(%error, "storage failed while listing locks");
            RegionError::busy("storage failed")
        })?;
        Ok(kv::ScanLockResponse { locks })
    }

    /// A view for a read that has entered [`MaxTs`] here; from a follower also what it must
    /// wait for at the leader.
    async fn entered_view(
        &self,
        context: &RegionContext,
        read: ReplicaRead,
    ) -> Result<ReplicaView, RegionError> {
        entered_view(&*self.kv, context, read).await
    }

    /// A view of the region, at once when the lease allows.
    pub async fn view(&self, context: &RegionContext) -> Result<RegionSnapshot, RegionError> {
        match self.kv.try_local_snapshot(context)? {
            Some(view) => Ok(view),
            None => self.kv.snapshot(context).await,
        }
    }
}

/// A view of this store's peer: as the leader if it leads, else as a follower if the
/// context allows.
pub(crate) async fn entered_view(
    kv: &dyn RaftKv,
    context: &RegionContext,
    read: ReplicaRead,
) -> Result<ReplicaView, RegionError> {
    let snapshot = match kv.try_local_snapshot(context) {
        Ok(Some(snapshot)) => snapshot,
        missed if reads_as_replica(context, missed.as_ref().err()) => {
            return kv.replica_snapshot(context, read).await;
        }
        Ok(None) => kv.snapshot(context).await?,
        Err(error) => return Err(error),
    };
    Ok(ReplicaView { snapshot, pending: Vec::new() })
}

/// Whether a read that the lease does not allow, or that came to no leader, is answered as by a
/// replica. Of the past a leader without a quorum may know enough, too.
fn reads_as_replica(context: &RegionContext, error: Option<&RegionError>) -> bool {
    match error {
        None => context.stale_read,
        Some(RegionError::NotLeader { .. }) => context.replica_read,
        Some(_) => false,
    }
}

fn replica_read(start: Bytes, end: Bytes, at: ReadAt<'_>) -> ReplicaRead {
    ReplicaRead { read_ts: at.read_ts.0, start, end, resolved: at.resolved.to_vec() }
}

/// The first key behind `key`.
pub(super) fn key_after(key: &Bytes) -> Bytes {
    let mut after = Vec::with_capacity(key.len() + 1);
    after.extend_from_slice(key);
    after.push(0);
    after.into()
}

fn get_at(
    view: &RegionSnapshot,
    key: &Bytes,
    at: ReadAt<'_>,
) -> Result<kv::GetResponse, RegionError> {
    if !region_contains(&view.region, key) {
        return Err(outside(view, key));
    }
    let mut reader = MvccReader::new(Arc::clone(&view.engine));
    let outcome = reader.get(key, at.read_ts, at.resolved);
    refuse_damage(outcome.as_ref().err())?;
    let value_len = outcome.as_ref().ok().and_then(Option::as_ref).map_or(0, Bytes::len);
    view.load.read(1, (key.len() + value_len) as u64, || Touched::Key(key.clone()));
    Ok(get_response(outcome))
}

/// Damaged data is not an answer: the client comes again, and finds the region led by
/// another store.
pub(super) fn refuse_damage(error: Option<&ReadError>) -> Result<(), RegionError> {
    match error {
        Some(error) if error.is_damage() => Err(RegionError::busy("data is damaged here")),
        _ => Ok(()),
    }
}

fn get_response(outcome: Result<Option<Bytes>, ReadError>) -> kv::GetResponse {
    match outcome {
        Ok(Some(value)) => kv::GetResponse { error: None, value, not_found: false },
        Ok(None) => kv::GetResponse { error: None, value: Bytes::new(), not_found: true },
        Err(error) => kv::GetResponse { error: Some(read_error(error)), ..Default::default() },
    }
}

/// A failed read as the client sees it.
pub fn read_error(error: ReadError) -> kv::KeyError {
    match error {
        ReadError::Locked(info) => kv::KeyError { kind: Some(key_error::Kind::Locked(*info)) },
        ReadError::Mvcc(error) => abort(&error),
    }
}

fn batch_get_at(
    view: &RegionSnapshot,
    keys: Vec<(Bytes, Option<Box<kv::LockInfo>>)>,
    at: ReadAt<'_>,
    own_writes: bool,
) -> Result<Vec<kv::KvPair>, RegionError> {
    let mut reader = MvccReader::new(Arc::clone(&view.engine));
    let mut pairs = Vec::with_capacity(keys.len());
    let key_count = keys.len() as u64;
    let touched = || Touched::of_keys(keys.iter().map(|(key, _)| key.clone()));
    view.load.read(key_count, 0, touched);
    for (key, pending) in keys {
        let outcome = match pending {
            Some(locked) => Err(ReadError::Locked(locked)),
            None if own_writes => reader.get_own(&key, at.read_ts, at.resolved),
            None => reader.get(&key, at.read_ts, at.resolved),
        };
        refuse_damage(outcome.as_ref().err())?;
        match outcome {
            Ok(Some(value)) => pairs.push(kv::KvPair { error: None, key, value }),
            Ok(None) => {}
            Err(error) => {
                let error = Some(read_error(error));
                pairs.push(kv::KvPair { error, key, value: Bytes::new() });
            }
        }
    }
    view.load.read_more(0, pair_bytes(&pairs));
    Ok(pairs)
}

fn pair_bytes(pairs: &[kv::KvPair]) -> u64 {
    pairs.iter().map(|pair| (pair.key.len() + pair.value.len()) as u64).sum()
}

/// Pairs in one buffer, cut into `Bytes` that share it.
#[derive(Default)]
struct PairBuffer {
    bytes: Vec<u8>,
    /// Ends of key and value of each pair.
    ends: Vec<(usize, usize)>,
}

impl PairSink for PairBuffer {
    fn push(&mut self, raw_key: &[u8], value: &[u8]) {
        self.bytes.extend_from_slice(raw_key);
        let key_end = self.bytes.len();
        self.bytes.extend_from_slice(value);
        self.ends.push((key_end, self.bytes.len()));
    }

    fn is_full(&self) -> bool {
        self.bytes.len() >= SCAN_BYTES_MAX
    }
}

impl PairBuffer {
    fn into_pairs(self) -> Vec<kv::KvPair> {
        let bytes = Bytes::from(self.bytes);
        let mut start = 0;
        let mut pairs = Vec::with_capacity(self.ends.len() + 1);
        for (key_end, value_end) in self.ends {
            let (key, value) = (bytes.slice(start..key_end), bytes.slice(key_end..value_end));
            pairs.push(kv::KvPair { error: None, key, value });
            start = value_end;
        }
        pairs
    }
}

fn scan_at(
    view: &RegionSnapshot,
    options: ScanOptions,
    dead: Option<Arc<DeadRanges>>,
    limit: usize,
) -> Result<kv::ScanResponse, RegionError> {
    let (start, end) = (options.start.clone(), options.end.clone());
    let scanner = Scanner::new(Arc::clone(&view.engine), options);
    let mut scanner = scanner.with_dead_ranges(dead);
    let mut buffer = PairBuffer::default();
    let outcome = scanner.next_batch(&mut buffer, limit);
    refuse_damage(outcome.as_ref().err())?;
    let is_cut = outcome.is_ok() && buffer.is_full() && buffer.ends.len() < limit;
    let mut pairs = buffer.into_pairs();
    view.load.read(pairs.len() as u64, pair_bytes(&pairs), || {
        let ends = pairs.first().zip(pairs.last()).filter(|_| is_cut || pairs.len() == limit);
        match ends {
            // It ended with the rows that were wanted, not with the range.
            Some((first, last)) => {
                Touched::of_keys([first.key.clone(), last.key.clone()].into_iter())
            }
            None => Touched::Range(start, end),
        }
    });
    match outcome {
        Ok(_) => {}
        Err(ReadError::Locked(info)) => pairs.push(locked_pair(*info)),
        Err(error) => {
            pairs.push(kv::KvPair { error: Some(read_error(error)), ..Default::default() });
        }
    }
    Ok(kv::ScanResponse { pairs, is_cut })
}

/// The answer to a scan that meets a lock before everything else.
fn stopped_scan(info: kv::LockInfo) -> kv::ScanResponse {
    kv::ScanResponse { pairs: vec![locked_pair(info)], is_cut: false }
}

fn locked_pair(info: kv::LockInfo) -> kv::KvPair {
    let key = info.key.clone();
    let error = Some(kv::KeyError { kind: Some(key_error::Kind::Locked(info)) });
    kv::KvPair { error, key, value: Bytes::new() }
}

/// The part of a raw range that lies in the region.
pub fn clip(
    view: &RegionSnapshot,
    start: &Bytes,
    end: &Bytes,
) -> Result<(Bytes, Bytes), RegionError> {
    let region = &view.region;
    let from = start.max(&region.start_key).clone();
    let to = match (end.is_empty(), region.end_key.is_empty()) {
        (true, _) => region.end_key.clone(),
        (_, true) => end.clone(),
        _ => end.min(&region.end_key).clone(),
    };
    let is_empty_request = !end.is_empty() && start >= end;
    if !to.is_empty() && from >= to && !is_empty_request {
        return Err(outside(view, start));
    }
    Ok((from, to))
}

pub(super) fn outside(view: &RegionSnapshot, key: &Bytes) -> RegionError {
    let region_id = crate::raftstore::RegionId(view.region.id);
    RegionError::KeyNotInRegion { key: key.clone(), region_id }
}
