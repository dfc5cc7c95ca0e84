//! Refresh: whether what a transaction has read is still so at a later timestamp.
//!
//! A SERIALIZABLE transaction asks this of everything it has read before it commits: if nothing
//! was committed to it in `(read_ts, refresh_ts]`, all its reads are as if made at `refresh_ts`, where
//! its writes will stand too.
//!
//! **What counts.** `Put` and `Delete` records: a `Lock` or a `Rollback` record changes no value.
//! Locks of kind `Put` and `Delete` of transactions that began before `refresh_ts`: their commit
//! timestamp may have been taken already, so the caller asks after them. A pessimistic lock
//! does not count: its prewrite comes behind this look, and a commit timestamp behind that, be
//! it PD's, who has handed out `refresh_ts` before, or a store's, which is above `max_ts`.
//!
//! **The caller** has raised `max_ts` to `refresh_ts` and looked for one-phase commits under way
//! before it took the snapshot (see `max_ts`), so that none slips in below.
//!
//! **Cost.** One seek per single key, a walk over all commit records per range; at most
//! [`RECORDS_PER_ANSWER`] of them, a turn of a millisecond or two.
//!
//! Sources: CockroachDB's read refresh (Taft et al., "CockroachDB: The Resilient Geo-Distributed SQL
//! Database", SIGMOD 2020, section 3.4); Larson et al., "High-Performance Concurrency Control
//! Mechanisms for Main-Memory Databases", VLDB 2012, for validation of ranges by repeating them.

use std::sync::Arc;

use bytes::Bytes;
use cairn_engine::{Cf, EngineIterator, EngineSnapshot, IterOptions};
use cairn_proto::kv::{self, key_error};
use cairn_types::TimeStamp;
use cairn_types::keys::key_next;

use crate::mvcc::reader::is_version_of;
use crate::mvcc::{Lock, LockKind, MvccError, MvccReader, NEAR_SEEK_STEPS, Write, keys};

/// Commit records that one answer walks over; the caller comes again for the rest.
pub const RECORDS_PER_ANSWER: usize = 8_192;
/// A single key costs as much as this many records of a range.
const POINT_COST: usize = 4;
/// Locks that one answer tells of.
pub const LOCKS_PER_ANSWER: usize = 64;

/// Looks through the spans, which lie in the snapshot's region.
pub fn run(
    snapshot: &Arc<dyn EngineSnapshot>,
    request: &kv::RefreshRequest,
) -> Result<kv::RefreshResponse, MvccError> {
    let mut look = Look {
        snapshot,
        reader: MvccReader::new(Arc::clone(snapshot)),
        start_ts: TimeStamp(request.start_ts),
        refresh_ts: TimeStamp(request.refresh_ts),
        records_left: RECORDS_PER_ANSWER,
        response: kv::RefreshResponse::default(),
    };
    for span in &request.spans {
        let outcome = if is_point(span) { look.point(span)? } else { look.range(span)? };
        match outcome {
            Outcome::Unchanged => look.response.spans_done += 1,
            Outcome::Changed(conflict) => {
                let kind = Some(key_error::Kind::Conflict(conflict));
                look.response.error = Some(kv::KeyError { kind });
                break;
            }
            Outcome::GoesOn(next_start) => {
                look.response.next_start = next_start;
                break;
            }
        }
    }
    Ok(look.response)
}

/// Whether the span holds exactly the key at its start.
pub fn is_point(span: &kv::ReadSpan) -> bool {
    span.end.split_last().is_some_and(|(last, rest)| *last == 0 && *rest == span.start[..])
}

enum Outcome {
    Unchanged,
    Changed(kv::WriteConflict),
    /// The answer has become long: the rest begins here.
    GoesOn(Bytes),
}

struct Look<'a> {
    snapshot: &'a Arc<dyn EngineSnapshot>,
    reader: MvccReader,
    start_ts: TimeStamp,
    refresh_ts: TimeStamp,
    records_left: usize,
    response: kv::RefreshResponse,
}

impl Look<'_> {
    fn point(&mut self, span: &kv::ReadSpan) -> Result<Outcome, MvccError> {
        if self.records_left < POINT_COST || self.response.locks.len() >= LOCKS_PER_ANSWER {
            return Ok(Outcome::GoesOn(span.start.clone()));
        }
        self.records_left -= POINT_COST;
        let user_key = keys::user_key(&span.start);
        if let Some(lock) = self.reader.load_lock(&user_key, self.start_ts)?
            && may_commit(&lock, self.start_ts, self.refresh_ts)
        {
            self.response.locks.push(lock.to_info(span.start.clone()));
        }
        let cursor = self.reader.versions(&user_key, self.refresh_ts)?;
        if cursor.skip_to_data()?
            && let Some((commit_ts, write)) = cursor.current()?
            && commit_ts.0 > span.read_ts
        {
            return Ok(Outcome::Changed(conflict(span.start.clone(), commit_ts, &write)));
        }
        Ok(Outcome::Unchanged)
    }

    fn range(&mut self, span: &kv::ReadSpan) -> Result<Outcome, MvccError> {
        let locks_left = LOCKS_PER_ANSWER - self.response.locks.len();
        if locks_left == 0 {
            return Ok(Outcome::GoesOn(span.start.clone()));
        }
        let (own, refresh_ts) = (self.start_ts, self.refresh_ts);
        let wanted = |lock: &Lock| may_commit(lock, own, refresh_ts);
        let locks = self.reader.scan_locks(&span.start, &span.end, locks_left, wanted)?;
        // Behind the last one that has room there may be others.
        let full = locks.last().filter(|_| locks.len() == locks_left);
        let cut = full.map(|(key, _)| Bytes::from(key_next(key)));
        self.response.locks.extend(locks.into_iter().map(|(key, lock)| lock.to_info(key)));
        let end = cut.as_ref().unwrap_or(&span.end);
        Ok(match (self.records(&span.start, end, TimeStamp(span.read_ts))?, cut) {
            (Outcome::Unchanged, Some(cut)) if span.end.is_empty() || cut < span.end => {
                Outcome::GoesOn(cut)
            }
            (outcome, _) => outcome,
        })
    }

    /// Walks over the commit records of a range of keys.
    fn records(
        &mut self,
        start: &Bytes,
        end: &Bytes,
        read_ts: TimeStamp,
    ) -> Result<Outcome, MvccError> {
        let (lower, upper) = keys::range_bounds(start, end);
        let bounds =
            IterOptions::range(Bytes::copy_from_slice(&lower), Bytes::copy_from_slice(&upper));
        let mut iter = self.snapshot.iter(Cf::Write, bounds);
        let mut key = keys::KeyBuf::new();
        let mut is_valid = iter.seek_to_first()?;
        while is_valid {
            let (user_key, commit_ts) = keys::split_ts(iter.key())?;
            if user_key != &key[..] {
                if self.records_left == 0 {
                    return Ok(Outcome::GoesOn(raw_key(user_key)?));
                }
                key.clear();
                key.extend_from_slice(user_key);
            }
            self.records_left = self.records_left.saturating_sub(1);
            if commit_ts <= read_ts {
                is_valid = next_key(&mut *iter, &key)?;
                continue;
            }
            if commit_ts <= self.refresh_ts {
                let write = Write::decode(iter.value())?;
                if write.kind.is_data() {
                    let conflict = conflict(raw_key(user_key)?, commit_ts, &write);
                    return Ok(Outcome::Changed(conflict));
                }
            }
            is_valid = iter.next()?;
        }
        Ok(Outcome::Unchanged)
    }
}

/// Whether the lock of another transaction may become a change at or below `refresh_ts`. Those of
/// async commits that come behind the look cannot: `max_ts` was raised before.
pub fn may_commit(lock: &Lock, own: TimeStamp, refresh_ts: TimeStamp) -> bool {
    lock.start_ts != own
        && lock.start_ts < refresh_ts
        && lock.min_commit_ts <= refresh_ts
        && matches!(lock.kind, LockKind::Put | LockKind::Delete)
}

/// To the first record of the key behind `user_key`.
fn next_key(iter: &mut (dyn EngineIterator + Send), user_key: &[u8]) -> Result<bool, MvccError> {
    for _ in 0..NEAR_SEEK_STEPS {
        if !iter.next()? {
            return Ok(false);
        }
        if !is_version_of(iter.key(), user_key) {
            return Ok(true);
        }
    }
    // Nothing is committed at zero: this is behind the oldest record.
    Ok(iter.seek(&keys::versioned_key(user_key, TimeStamp::ZERO))?)
}

fn raw_key(user_key: &[u8]) -> Result<Bytes, MvccError> {
    let mut raw = Vec::new();
    keys::decode_user_key(user_key, &mut raw)?;
    Ok(raw.into())
}

fn conflict(key: Bytes, commit_ts: TimeStamp, write: &Write<'_>) -> kv::WriteConflict {
    kv::WriteConflict {
        key,
        conflict_start_ts: write.start_ts.0,
        conflict_commit_ts: commit_ts.0,
        ..kv::WriteConflict::default()
    }
}
