//! Read refresh: whether all that a SERIALIZABLE transaction has read is still so at its commit
//! timestamp.
//!
//! **Why it suffices.** A transaction's writes stand at `commit_ts`. If nothing was committed in
//! `(read_ts, commit_ts]` to what it read, its reads are as if made there too: it happened at one
//! moment, and the order of these moments is a serial order. Transactions that wrote nothing and
//! read at one timestamp happened at that; PD handed it out while they ran, as it did every
//! `commit_ts`, so that the order is the clock's too. Transactions of other levels are in
//! no such order, neither with each other nor with those of this one.
//!
//! **When.** Behind the prewrite, so that two transactions that each write what the other one has read cannot
//! both pass: whoever comes second finds the lock or the commit of the other one. A commit timestamp
//! that a reader pushes away is refreshed to the next one.
//!
//! **Locks in the spans.** A transaction that has not committed is pushed behind our timestamp, as
//! readers do. One that can be asked nothing yet (its primary is not prewritten) is waited for
//! if it is older; a younger one may wait for us, so we give way: wait-die, as in prewrite.
//!
//! Sources: see the stores' half, `kv/src/txn/refresh.rs`.

use std::sync::Arc;

use bytes::Bytes;
use cairn_proto::kv::{LockInfo, Mutation, ReadSpan, RefreshRequest, RefreshResponse, key_error};
use cairn_types::TimeStamp;
use cairn_types::keys::key_next;
use cairn_types::sabotage::{Bug, planted};
use futures::stream::{self, StreamExt, TryStreamExt};

use super::mutations::leaves_lock;
use super::read_set::ReadSet;
use crate::backoff::Retrier;
use crate::client::KvClient;
use crate::error::{KvError, ShownKey};
use crate::lock_resolver::{LockOutcome, wait_for_lock};
use crate::region_cache::{CachedRegion, KeyRange};
use crate::request::{Cmd, RequestOptions, SendError, expect_response};
use crate::scope::RequestScope;

/// Spans of one request.
const SPANS_PER_REQUEST_MAX: usize = 1024;

/// What a transaction has read and must find unchanged.
pub(super) struct Refresh {
    pub client: Arc<KvClient>,
    pub start_ts: TimeStamp,
    /// In key order.
    pub spans: Vec<ReadSpan>,
    pub scope: RequestScope,
}

impl Refresh {
    /// Whether everything is still so at `refresh_ts`, and stays so:
    /// [`KvError::ReadChanged`] if not.
    pub async fn run(&self, refresh_ts: TimeStamp) -> Result<(), KvError> {
        let is_older = |span: &&ReadSpan| span.read_ts < refresh_ts.0;
        let spans: Vec<ReadSpan> = self.spans.iter().filter(is_older).cloned().collect();
        if spans.is_empty() || planted(Bug::RefreshSkipped) {
            return Ok(());
        }
        let mut retrier = self.client.retrier().within(&self.scope);
        let mut tasks = Vec::new();
        let mut rest = spans;
        while let Some(first) = rest.first() {
            let region = self.client.cache.locate_patiently(&first.start, &mut retrier).await?;
            let part;
            (part, rest) = split_off(rest, &region);
            tasks.push(part);
        }
        stream::iter(tasks)
            .map(|spans| self.task(spans, refresh_ts))
            .buffer_unordered(self.client.config.concurrency.max(1))
            .try_collect::<()>()
            .await?;
        // Changes that were collected meanwhile would not have been seen.
        self.client.visibility.check(self.start_ts)
    }

    /// Asks for spans that lay in one region when they were cut.
    async fn task(&self, mut rest: Vec<ReadSpan>, refresh_ts: TimeStamp) -> Result<(), KvError> {
        let lock_wait = self.client.retrier_for(self.client.config.lock_wait_timeout_ms);
        let mut lock_wait = lock_wait.within(&self.scope);
        let mut retrier = self.client.retrier().within(&self.scope);
        while let Some(first) = rest.first() {
            let cache = &self.client.cache;
            let region = cache.locate_patiently(&first.start, &mut retrier).await?;
            let (part, behind) = split_off(rest, &region);
            let build = || {
                Cmd::Refresh(RefreshRequest {
                    start_ts: self.start_ts.0,
                    refresh_ts: refresh_ts.0,
                    spans: part.clone(),
                })
            };
            let options = RequestOptions::default();
            let response = match cache.send_to_region(region, &options, &mut retrier, &build).await
            {
                Ok(response) => expect_response!(response, Refresh)?,
                Err(SendError::Regroup) => {
                    rest = merged(part, behind);
                    continue;
                }
                Err(SendError::Failed(error)) => return Err(error),
            };
            // It got on: what is left has its own time.
            retrier = self.client.retrier().within(&self.scope);
            let mut again = Vec::new();
            for lock in &response.locks {
                if self.may_commit_below(lock, refresh_ts, &mut lock_wait).await? {
                    let (start, end) = (lock.key.clone(), key_next(&lock.key).into());
                    let holds = |span: &&ReadSpan| holds(span, &lock.key);
                    again.extend(part.iter().filter(holds).map(|span| ReadSpan {
                        start: start.clone(),
                        end: Bytes::clone(&end),
                        read_ts: span.read_ts,
                    }));
                }
            }
            let left = self.left(part, response)?;
            rest = merged(again, merged(left, behind));
        }
        Ok(())
    }

    /// What the answer leaves open.
    fn left(
        &self,
        mut part: Vec<ReadSpan>,
        response: RefreshResponse,
    ) -> Result<Vec<ReadSpan>, KvError> {
        let start_ts = self.start_ts.0;
        match response.error.and_then(|error| error.kind) {
            None => {}
            Some(key_error::Kind::Conflict(conflict)) => {
                return Err(KvError::ReadChanged {
                    key: ShownKey(conflict.key),
                    start_ts,
                    conflict_start_ts: conflict.conflict_start_ts,
                    conflict_commit_ts: conflict.conflict_commit_ts,
                });
            }
            Some(key_error::Kind::Abort(reason)) => {
                return Err(KvError::TxnAborted { start_ts, reason });
            }
            kind => return Err(KvError::Malformed(format!("refreshing reads: {kind:?}"))),
        }
        let done = (response.spans_done as usize).min(part.len());
        let mut left = part.split_off(done);
        if let Some(first) = left.first_mut() {
            let is_stuck = done == 0 && response.next_start == first.start;
            if is_stuck || !holds(first, &response.next_start) {
                return Err(KvError::Malformed("refreshing reads: no progress".into()));
            }
            first.start = response.next_start;
        }
        Ok(left)
    }

    /// Sees to it that the lock's transaction commits behind `refresh_ts`; whether it may have
    /// committed before, so that its key must be looked at again.
    async fn may_commit_below(
        &self,
        lock: &LockInfo,
        refresh_ts: TimeStamp,
        lock_wait: &mut Retrier,
    ) -> Result<bool, KvError> {
        match self.client.resolve_lock(lock, refresh_ts, lock_wait).await? {
            LockOutcome::Bypass => Ok(false),
            LockOutcome::Resolved => Ok(true),
            LockOutcome::Alive if lock.start_ts < self.start_ts.0 => {
                wait_for_lock(lock, lock_wait).await?;
                Ok(true)
            }
            LockOutcome::Alive => Err(KvError::ReadChanged {
                key: ShownKey(lock.key.clone()),
                start_ts: self.start_ts.0,
                conflict_start_ts: lock.start_ts,
                conflict_commit_ts: 0,
            }),
        }
    }
}

fn holds(span: &ReadSpan, key: &[u8]) -> bool {
    key >= &span.start[..] && (span.end.is_empty() || key < &span.end[..])
}

/// The spans that one request to the region of the first one may hold, cut to the region, and
/// what is left.
fn split_off(spans: Vec<ReadSpan>, region: &CachedRegion) -> (Vec<ReadSpan>, Vec<ReadSpan>) {
    let bounds = region.range();
    let (mut part, mut cut, mut behind) = (Vec::new(), Vec::new(), Vec::new());
    for span in spans {
        if part.len() >= SPANS_PER_REQUEST_MAX || !bounds.contains(&span.start) {
            behind.push(span);
            continue;
        }
        let range = KeyRange { start: span.start.clone(), end: span.end.clone() };
        let inside = range.intersect(&bounds);
        if inside.end != span.end {
            cut.push(ReadSpan { start: inside.end.clone(), ..span });
        }
        let KeyRange { start, end } = inside;
        part.push(ReadSpan { start, end, read_ts: span.read_ts });
    }
    (part, merged(cut, behind))
}

/// Two lists in key order as one.
fn merged(mut one: Vec<ReadSpan>, other: Vec<ReadSpan>) -> Vec<ReadSpan> {
    if one.is_empty() {
        return other;
    }
    one.extend(other);
    // Two runs in order: the stable sort only merges them.
    one.sort_by(|left, right| left.start.cmp(&right.start));
    one
}

/// What the transaction has read and its writes do not keep others from. The prewrite of an
/// optimistic transaction finds every commit since `start_ts` to what it writes, and its lock
/// keeps later ones out; that a key does not exist is only looked at there, and guarded by nothing.
pub(super) fn unguarded(
    reads: &ReadSet,
    mutations: &[Mutation],
    start_ts: TimeStamp,
    for_update_ts: TimeStamp,
) -> Vec<ReadSpan> {
    let written = |key: &[u8]| {
        let found = mutations.binary_search_by(|mutation| mutation.key[..].cmp(key));
        found.is_ok_and(|at| leaves_lock(&mutations[at]))
    };
    let is_optimistic = for_update_ts.is_zero();
    let absent = mutations.iter().filter(|mutation| !leaves_lock(mutation));
    reads.record_keys(absent.map(|mutation| &mutation.key), start_ts.max(for_update_ts));
    reads.unguarded(|key, read_ts| is_optimistic && read_ts >= start_ts && written(key))
}
