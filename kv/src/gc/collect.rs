//! The collector by Raft writes: finds keys with garbage, and removes all of it.
//!
//! It reads whole ranges and writes a tombstone per version. It is there for what the
//! filter of compactions must leave: versions whose neighbours lie in other files.
//!
//! A `Delete` that readers at the safe point see stays, although it may hide nothing here
//! any more: what this replica's compactions have left out may still be on another one,
//! and would be seen there once the `Delete` is gone.

use std::collections::VecDeque;

use bytes::Bytes;
use cairn_engine::{Cf, EngineSnapshot, IterOptions};
use cairn_types::TimeStamp;

use super::judge::{Judge, Verdict};
use crate::mvcc::keys::{self, KeyBuf, range_bounds};
use crate::mvcc::{MvccError, MvccReader, MvccTxn, Write, WriteKind};

/// Keys that one round cleans.
pub const KEYS_PER_ROUND: usize = 256;
/// Records that one round looks at: a millisecond or two.
pub const RECORDS_PER_ROUND: usize = 4096;
/// Versions that one round removes: bounds the Raft entry.
pub const VERSIONS_PER_ROUND: usize = 4096;

/// What one look at a region found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Raw keys with garbage.
    pub keys: Vec<Bytes>,
    /// Where to go on; `None` when the range is done.
    pub next: Option<Bytes>,
}

/// Looks for keys with garbage in a raw range.
pub fn find(
    snapshot: &dyn EngineSnapshot,
    start: &[u8],
    end: &[u8],
    safe_point: TimeStamp,
) -> Result<Found, MvccError> {
    let (lower, upper) = range_bounds(start, end);
    let bounds = IterOptions::range(Bytes::copy_from_slice(&lower), Bytes::copy_from_slice(&upper));
    let mut iter = snapshot.iter(Cf::Write, IterOptions { skip_cache: true, ..bounds });
    let mut found = Found::default();
    let mut current = KeyBuf::new();
    let mut judge = Judge::new(safe_point);
    let mut is_found = false;
    let mut raw = Vec::new();
    let mut records = 0;
    let mut valid = iter.seek(&lower)?;
    while valid {
        let (user_key, commit_ts) = keys::split_ts(iter.key())?;
        if current[..] != *user_key {
            current.clear();
            current.extend_from_slice(user_key);
            judge = Judge::new(safe_point);
            is_found = false;
            if records >= RECORDS_PER_ROUND || found.keys.len() >= KEYS_PER_ROUND {
                keys::decode_user_key(user_key, &mut raw)?;
                found.next = Some(Bytes::copy_from_slice(&raw));
                return Ok(found);
            }
        }
        records += 1;
        let write = Write::decode(iter.value())?;
        if !is_found && judge.judge(commit_ts, write.kind) == Verdict::Garbage {
            is_found = true;
            keys::decode_user_key(user_key, &mut raw)?;
            found.keys.push(Bytes::copy_from_slice(&raw));
        }
        valid = iter.next()?;
    }
    Ok(found)
}

/// Removes the garbage of one key, at most `limit` versions, the oldest first; answers how
/// many.
pub fn collect(
    reader: &mut MvccReader,
    txn: &mut MvccTxn,
    raw_key: &[u8],
    safe_point: TimeStamp,
    limit: usize,
) -> Result<usize, MvccError> {
    let user_key = keys::user_key(raw_key);
    let mut judge = Judge::new(safe_point);
    // Commit timestamp, and start timestamp of a long value; the oldest `limit`.
    let mut garbage: VecDeque<(TimeStamp, Option<TimeStamp>)> = VecDeque::new();
    let versions = reader.versions(&user_key, safe_point)?;
    while let Some((commit_ts, write)) = versions.current()? {
        if judge.judge(commit_ts, write.kind) == Verdict::Garbage {
            let is_long = write.kind == WriteKind::Put && write.short_value.is_none();
            garbage.push_back((commit_ts, is_long.then_some(write.start_ts)));
            if garbage.len() > limit {
                garbage.pop_front();
            }
        }
        versions.advance()?;
    }
    for &(commit_ts, long_value) in &garbage {
        if let Some(start_ts) = long_value {
            txn.delete_value(&user_key, start_ts);
        }
        txn.delete_write(&user_key, commit_ts);
    }
    Ok(garbage.len())
}
