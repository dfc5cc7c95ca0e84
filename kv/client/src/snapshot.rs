//! Reading at a timestamp: single keys, sets of keys, ranges.
//!
//! **Locks.** A reader that meets a lock asks what its transaction is up to
//! ([`crate::lock_resolver`]). Locks of finished transactions are resolved;
//! a living transaction is told to commit behind the reader's timestamp and its
//! locks are then read past; only where that is impossible the reader waits.
//!
//! **Garbage collection.** An open view holds the safe point back; one that was overtaken
//! all the same answers [`KvError::GcTooEarly`].
//!
//! **Point reads at [`TimeStamp::MAX`]** see the newest committed version and need
//! no timestamp from PD. They are linearizable for one key; two such reads are
//! not one consistent view.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use cairn_proto::kv::{
    BatchGetRequest, GetRequest, KeyError, KvPair, LockInfo, ScanRequest, ScanResponse, key_error,
    kv_response,
};
use cairn_types::TimeStamp;
use futures::StreamExt;
use futures::stream;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::backoff::Retrier;
use crate::client::{KvClient, key_after};
use crate::error::KvError;
use crate::lock_resolver::{LockOutcome, wait_for_lock};
use crate::region_cache::{CachedRegion, KeyRange};
use crate::replicas::{ROW_BYTES_GUESS, ReadFrom};
use crate::request::{Cmd, RequestOptions, SendError, expect_response, wait_for_pd};
use crate::request_log::RequestSpan;
use crate::scope::RequestScope;
use crate::txn::read_set::ReadSet;
use crate::visibility::OpenView;

/// Keys of one batch-get request.
const BATCH_GET_KEYS_MAX: usize = 1024;
/// Transactions a read view remembers as readable past.
const RESOLVED_LOCKS_MAX: usize = 64;

/// A key and its value.
pub type KvPairBytes = (Bytes, Bytes);

/// Values by key.
pub type KvMap = HashMap<Bytes, Bytes, foldhash::fast::RandomState>;

/// A read view at one timestamp. Cheap to clone; clones share what they learned.
#[derive(Clone)]
pub struct Snapshot {
    client: Arc<KvClient>,
    start_ts: TimeStamp,
    scope: RequestScope,
    from: ReadFrom,
    shared: Arc<Shared>,
    /// The reader's own flushed writes count: of a bulk transaction.
    own_writes: bool,
    /// Where a SERIALIZABLE transaction notes what it reads.
    reads: Option<Arc<ReadSet>>,
    /// Of one operation: it has met a lock that is gone at the leader. A replica may not know of that
    /// for long, so the leader is asked.
    met_lock: bool,
}

/// What clones of a view share.
#[derive(Default)]
struct Shared {
    resolved_locks: Mutex<Vec<u64>>,
    _open: Option<OpenView>,
}

/// Keys of one region.
struct KeyGroup {
    region: Arc<CachedRegion>,
    keys: Vec<Bytes>,
}

/// What a batch-get of one region gave.
#[derive(Default)]
struct GroupResult {
    pairs: Vec<(Bytes, Bytes)>,
    again: Vec<Bytes>,
    locks: Vec<LockInfo>,
}

impl Snapshot {
    pub(crate) fn new(client: Arc<KvClient>, start_ts: TimeStamp) -> Snapshot {
        let _open = client.visibility.open(start_ts);
        let shared = Arc::new(Shared { resolved_locks: Mutex::default(), _open });
        Snapshot {
            client,
            start_ts,
            scope: RequestScope::default(),
            from: ReadFrom::default(),
            shared,
            own_writes: false,
            reads: None,
            met_lock: false,
        }
    }

    /// The same view, whose reads are noted.
    #[must_use]
    pub(crate) fn noting(mut self, reads: Option<Arc<ReadSet>>) -> Snapshot {
        self.reads = reads;
        self
    }

    /// Where reads of the view are noted; those that others make for it must be too.
    pub fn reads(&self) -> Option<&Arc<ReadSet>> {
        self.reads.as_ref()
    }

    fn note_keys<'a>(&self, keys: impl IntoIterator<Item = &'a Bytes>) {
        if let Some(reads) = &self.reads {
            reads.record_keys(keys, self.start_ts);
        }
    }

    /// The same view for reads of single keys, under what the transaction that began at its timestamp
    /// has flushed.
    #[must_use]
    pub(crate) fn under_own_writes(mut self) -> Snapshot {
        self.own_writes = true;
        self.reading(ReadFrom::default())
    }

    /// The same view, read for a statement with these bounds.
    #[must_use]
    pub fn within(mut self, scope: RequestScope) -> Snapshot {
        self.scope = scope;
        self
    }

    /// The same view, read from these replicas. Without a word it is the leader.
    #[must_use]
    pub fn reading(mut self, from: ReadFrom) -> Snapshot {
        self.from = from;
        self
    }

    /// Which replicas are read.
    pub fn read_from(&self) -> ReadFrom {
        self.from
    }

    /// The bounds of the statement that reads.
    pub fn scope(&self) -> &RequestScope {
        &self.scope
    }

    fn retrier(&self) -> Retrier {
        self.client.retrier().within(&self.scope)
    }

    /// The timestamp of the view.
    pub fn start_ts(&self) -> TimeStamp {
        self.start_ts
    }

    /// Whether everything that the view shows is still there: an answer that came before
    /// this was said may be used.
    pub(crate) fn check_visible(&self) -> Result<(), KvError> {
        self.client.visibility.check(self.start_ts)
    }

    /// Reads a key at once, without waiting for anything: only when its store is
    /// in this process and can answer now. `None` means: use [`Snapshot::get`].
    pub fn try_get_now(&self, key: &Bytes) -> Option<Option<Bytes>> {
        self.note_keys([key]);
        if self.own_writes || !self.asks(ROW_BYTES_GUESS).is_leader() {
            return None;
        }
        let region = self.client.cache.cached(key)?;
        let service = self.client.cache.cached_store(region.leader.store_id)?;
        let log = self.scope.log.as_ref();
        let noted = log.map(|log| (log, log.is_detailed().then(Instant::now)));
        let response = service.try_get_now(&region.context(), key, self.start_ts.0)?;
        if let Some((log, start)) = noted {
            log.note(false, || RequestSpan::until_now("Get", &region, start, true));
        }
        if response.region_error.is_some() {
            return None;
        }
        match response.cmd {
            Some(kv_response::Cmd::Get(get))
                if get.error.is_none() && self.check_visible().is_ok() =>
            {
                Some((!get.not_found).then_some(get.value))
            }
            _ => None,
        }
    }

    /// The value of a key, if it exists.
    pub async fn get(&self, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        let key = Bytes::copy_from_slice(key);
        if self.own_writes {
            return Ok(self.batch_get(std::slice::from_ref(&key)).await?.remove(&key));
        }
        if let Some(value) = self.try_get_now(&key) {
            return Ok(value);
        }
        let mut view = self.for_operation();
        let mut retrier = self.retrier();
        let build = || Cmd::Get(GetRequest { key: key.clone(), version: self.start_ts.0 });
        loop {
            let options = view.options(ROW_BYTES_GUESS);
            let sent = self.client.cache.send_to_key(&key, &options, &mut retrier, &build).await?;
            let response = expect_response!(sent, Get)?;
            match response.error {
                None => {
                    self.check_visible()?;
                    return Ok((!response.not_found).then_some(response.value));
                }
                Some(error) => {
                    let lock = view.lock_of(error)?;
                    view.clear_locks(&[lock], &mut retrier).await?;
                }
            }
        }
    }

    /// The values of the keys that exist.
    pub async fn batch_get(&self, keys: &[Bytes]) -> Result<KvMap, KvError> {
        self.note_keys(keys);
        let mut view = self.for_operation();
        let mut found = KvMap::default();
        let mut pending: Vec<Bytes> = keys.to_vec();
        let mut retrier = self.retrier();
        while !pending.is_empty() {
            pending.sort_unstable();
            pending.dedup();
            let groups = self.group(&pending, &mut retrier).await?;
            pending.clear();
            let mut locks = Vec::new();
            {
                let results = stream::iter(groups)
                    .map(|group| view.batch_get_group(group))
                    .buffer_unordered(self.client.config.concurrency.max(1));
                futures::pin_mut!(results);
                while let Some(result) = results.next().await {
                    let result = result?;
                    found.extend(result.pairs);
                    pending.extend(result.again);
                    locks.extend(result.locks);
                }
            }
            view.clear_locks(&locks, &mut retrier).await?;
        }
        self.check_visible()?;
        Ok(found)
    }

    async fn group(&self, keys: &[Bytes], retrier: &mut Retrier) -> Result<Vec<KeyGroup>, KvError> {
        let mut groups = Vec::new();
        let mut rest = keys;
        while let Some(first) = rest.first() {
            let region = self.client.cache.locate_patiently(first, retrier).await?;
            let inside = rest.partition_point(|key| region.contains(key)).max(1);
            let count = inside.min(BATCH_GET_KEYS_MAX);
            groups.push(KeyGroup { region, keys: rest[..count].to_vec() });
            rest = &rest[count..];
        }
        Ok(groups)
    }

    async fn batch_get_group(&self, group: KeyGroup) -> Result<GroupResult, KvError> {
        let KeyGroup { region, keys } = group;
        let mut retrier = self.retrier();
        let build = || {
            let (version, own_writes) = (self.start_ts.0, self.own_writes);
            Cmd::BatchGet(BatchGetRequest { keys: keys.clone(), version, own_writes })
        };
        let options = self.options(keys.len() as u64 * ROW_BYTES_GUESS);
        let sent = self.client.cache.send_to_region(region, &options, &mut retrier, &build).await;
        let response = match sent {
            Ok(response) => expect_response!(response, BatchGet)?,
            Err(SendError::Regroup) => {
                return Ok(GroupResult { again: keys, ..GroupResult::default() });
            }
            Err(SendError::Failed(error)) => return Err(error),
        };
        let mut result = GroupResult::default();
        for pair in response.pairs {
            match pair.error {
                None => result.pairs.push((pair.key, pair.value)),
                Some(error) => {
                    let lock = self.lock_of(error)?;
                    result.again.push(if pair.key.is_empty() {
                        lock.key.clone()
                    } else {
                        pair.key
                    });
                    result.locks.push(lock);
                }
            }
        }
        Ok(result)
    }

    /// The pairs of a range in key order (`reverse`: from its end), in batches.
    pub fn scan(&self, range: KeyRange, options: ScanOptions) -> SnapshotScan {
        let rest = (!range.is_empty()).then_some(range);
        SnapshotScan { snapshot: self.for_operation(), rest, options }
    }

    /// What one operation learns of locks. At a fixed timestamp that holds for
    /// ever; a transaction that the newest read may pass now must be seen by the
    /// next one if it has committed meanwhile.
    fn for_operation(&self) -> Snapshot {
        let mut view = self.clone();
        view.met_lock = false;
        if self.start_ts.is_max() {
            view.shared = Arc::default();
        }
        view
    }

    /// What a request for about so many bytes carries.
    pub(crate) fn options(&self, answer_bytes: u64) -> RequestOptions {
        RequestOptions {
            resolved_locks: self.shared.resolved_locks.lock().clone(),
            stop_when_uncertain: false,
            // "The newest" is a time only the leader can tell.
            reads: (!self.start_ts.is_max()).then(|| self.asks(answer_bytes)),
        }
    }

    /// Whom such a request asks.
    fn asks(&self, answer_bytes: u64) -> ReadFrom {
        match self.start_ts.is_max() || self.met_lock {
            true => ReadFrom::default(),
            false => self.from.for_answer(answer_bytes),
        }
    }

    /// The lock that a key error is about; other errors end the read.
    pub(crate) fn lock_of(&self, error: KeyError) -> Result<LockInfo, KvError> {
        match error.kind {
            Some(key_error::Kind::Locked(lock)) => Ok(lock),
            Some(key_error::Kind::Abort(reason)) => {
                Err(KvError::TxnAborted { start_ts: self.start_ts.0, reason })
            }
            kind => Err(KvError::Malformed(format!("a read answered {kind:?}"))),
        }
    }

    /// Gets the locks out of the way; waits once if one of them stays.
    pub(crate) async fn clear_locks(
        &mut self,
        locks: &[LockInfo],
        retrier: &mut Retrier,
    ) -> Result<(), KvError> {
        let mut alive = None;
        for lock in locks {
            match self.client.resolve_lock(lock, self.start_ts, retrier).await? {
                LockOutcome::Resolved => self.met_lock = true,
                LockOutcome::Bypass => self.remember_resolved(lock.start_ts),
                LockOutcome::Alive => alive = Some(lock),
            }
        }
        match alive {
            Some(lock) => wait_for_lock(lock, retrier).await,
            None => Ok(()),
        }
    }

    fn remember_resolved(&self, start_ts: u64) {
        let mut resolved = self.shared.resolved_locks.lock();
        if !resolved.contains(&start_ts) {
            if resolved.len() >= RESOLVED_LOCKS_MAX {
                resolved.remove(0);
            }
            resolved.push(start_ts);
        }
    }
}

/// How a range is read.
#[derive(Clone, Copy, Debug)]
pub struct ScanOptions {
    /// From the end of the range to its start.
    pub reverse: bool,
    /// Leave the values away.
    pub key_only: bool,
    /// Pairs of one batch at most; wide ones make smaller batches.
    pub batch_size: u32,
}

impl Default for ScanOptions {
    fn default() -> ScanOptions {
        ScanOptions { reverse: false, key_only: false, batch_size: 256 }
    }
}

/// A scan under way.
pub struct SnapshotScan {
    snapshot: Snapshot,
    /// What remains; `None` when drained.
    rest: Option<KeyRange>,
    options: ScanOptions,
}

impl SnapshotScan {
    /// The next pairs; empty when the range is drained.
    pub async fn next_batch(&mut self) -> Result<Vec<(Bytes, Bytes)>, KvError> {
        let mut retrier = self.snapshot.retrier();
        while let Some(rest) = self.rest.clone() {
            let region = self.region_of(&rest, &mut retrier).await?;
            let part = rest.intersect(&region.range());
            let request = self.request(&part);
            let build = || Cmd::Scan(request.clone());
            let rows = u64::from(self.options.batch_size);
            let options = self.snapshot.options(rows * ROW_BYTES_GUESS);
            let cache = &self.snapshot.client.cache;
            let sent = cache.send_to_region(region, &options, &mut retrier, &build).await;
            let ScanResponse { pairs, is_cut } = match sent {
                Ok(response) => expect_response!(response, Scan)?,
                Err(SendError::Regroup) => continue,
                Err(SendError::Failed(error)) => return Err(error),
            };
            let full = is_cut || pairs.len() >= request.limit as usize;
            let (batch, lock) = self.until_lock(pairs)?;
            match &lock {
                Some(lock) => self.continue_at_lock(rest.clone(), &batch, lock),
                None => self.continue_behind(rest.clone(), part, &batch, full),
            }
            self.note_read(rest);
            self.snapshot.check_visible()?;
            if !batch.is_empty() {
                return Ok(batch);
            }
            if let Some(lock) = lock {
                self.snapshot.clear_locks(&[lock], &mut retrier).await?;
            }
        }
        Ok(Vec::new())
    }

    /// What remained before and does not any more was read.
    fn note_read(&self, before: KeyRange) {
        let Some(reads) = &self.snapshot.reads else { return };
        let read = match &self.rest {
            None => before,
            Some(rest) if self.options.reverse => {
                KeyRange { start: rest.end.clone(), end: before.end }
            }
            Some(rest) => KeyRange { start: before.start, end: rest.start.clone() },
        };
        reads.record(read, self.snapshot.start_ts);
    }

    async fn region_of(
        &self,
        rest: &KeyRange,
        retrier: &mut Retrier,
    ) -> Result<Arc<CachedRegion>, KvError> {
        let cache = &self.snapshot.client.cache;
        if !self.options.reverse {
            return cache.locate_patiently(&rest.start, retrier).await;
        }
        loop {
            match retrier.scope().run(cache.locate_before(&rest.end)).await? {
                Ok(region) => return Ok(region),
                Err(error) => wait_for_pd(error, retrier).await?,
            }
        }
    }

    fn request(&self, part: &KeyRange) -> ScanRequest {
        ScanRequest {
            start_key: part.start.clone(),
            end_key: part.end.clone(),
            limit: self.options.batch_size.max(1),
            version: self.snapshot.start_ts.0,
            key_only: self.options.key_only,
            reverse: self.options.reverse,
        }
    }

    /// The pairs in front of the first locked one.
    fn until_lock(
        &self,
        pairs: Vec<KvPair>,
    ) -> Result<(Vec<KvPairBytes>, Option<LockInfo>), KvError> {
        let mut batch = Vec::with_capacity(pairs.len());
        for pair in pairs {
            match pair.error {
                None => batch.push((pair.key, pair.value)),
                Some(error) => return Ok((batch, Some(self.snapshot.lock_of(error)?))),
            }
        }
        Ok((batch, None))
    }

    /// The next batch begins with the locked key.
    fn continue_at_lock(&mut self, rest: KeyRange, batch: &[(Bytes, Bytes)], lock: &LockInfo) {
        let next = if batch.is_empty() {
            rest
        } else if self.options.reverse {
            KeyRange { start: rest.start, end: key_after(&lock.key) }
        } else {
            KeyRange { start: lock.key.clone(), end: rest.end }
        };
        self.rest = Some(next);
    }

    /// The next batch begins behind the last pair, or in the next region.
    fn continue_behind(
        &mut self,
        rest: KeyRange,
        part: KeyRange,
        batch: &[(Bytes, Bytes)],
        full: bool,
    ) {
        let last_key = batch.last().filter(|_| full).map(|(key, _)| key);
        let next = match (last_key, self.options.reverse) {
            (Some(key), false) => Some(KeyRange { start: key_after(key), end: rest.end }),
            (Some(key), true) => Some(KeyRange { start: rest.start, end: key.clone() }),
            (None, false) if part.end.is_empty() => None,
            (None, false) => Some(KeyRange { start: part.end, end: rest.end }),
            // An empty end would mean +infinity: the scan is at the very start.
            (None, true) if part.start.is_empty() => None,
            (None, true) => Some(KeyRange { start: rest.start, end: part.start }),
        };
        self.rest = next.filter(|range| !range.is_empty());
    }
}
