//! Garbage collection: removes versions that no reader at or above the safe point
//! can see.
//!
//! ```text
//! versions of a key, newest first          safe point 50
//! 70 Put      kept: above the safe point
//! 40 Lock     removed: says nothing about the value
//! 30 Put      kept: what a reader at 50 sees        (a Delete here would go too)
//! 20 Put      removed, with its long value
//! ```
//!
//! **Flow**: PD hands the safe point out; whoever moves it there has resolved every
//! lock below it first (otherwise a secondary's lock could outlive the commit
//! record of its primary). Each store walks the regions it leads, finds keys with
//! garbage, and removes it by Raft writes under the keys' latches, a bounded number
//! of versions at a time.
//!
//! **Left out**: a compaction filter would save the Raft writes and the tombstones.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cairn_engine::{Cf, EngineSnapshot, IterOptions};
use cairn_pd_client::PdClient;
use cairn_types::TimeStamp;
use tokio_util::sync::CancellationToken;

use crate::mvcc::keys::{self, KeyBuf, range_bounds};
use crate::mvcc::{MvccError, MvccReader, MvccTxn, Write, WriteKind};
use crate::raftstore::{RaftKv, RegionContext, RegionId, epoch_of};
use crate::txn::Scheduler;

/// Between two looks at the safe point.
const POLL_INTERVAL: Duration = Duration::from_secs(30);
/// Between two rounds in one region, so that collection stays in the background.
const ROUND_PAUSE: Duration = Duration::from_millis(10);
/// Keys that one round cleans.
pub const KEYS_PER_ROUND: usize = 256;
/// Records that one round looks at: a millisecond or two.
pub const RECORDS_PER_ROUND: usize = 4096;
/// Versions that one round removes: bounds the Raft entry.
pub const VERSIONS_PER_ROUND: usize = 4096;

/// Which versions of one key are garbage, asked from the newest down.
struct Judge {
    safe_point: TimeStamp,
    /// The version that readers at the safe point see has been passed.
    is_covered: bool,
}

impl Judge {
    fn new(safe_point: TimeStamp) -> Judge {
        Judge { safe_point, is_covered: false }
    }

    fn is_garbage(&mut self, commit_ts: TimeStamp, kind: WriteKind) -> bool {
        if commit_ts > self.safe_point {
            return false;
        }
        let was_covered = self.is_covered;
        self.is_covered |= kind.is_data();
        was_covered || kind != WriteKind::Put
    }
}

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
        if !is_found && judge.is_garbage(commit_ts, write.kind) {
            is_found = true;
            keys::decode_user_key(user_key, &mut raw)?;
            found.keys.push(Bytes::copy_from_slice(&raw));
        }
        valid = iter.next()?;
    }
    Ok(found)
}

/// Removes the garbage of one key, at most `limit` versions; answers how many.
///
/// The oldest go first: a `Delete` may only go together with, or after, every
/// version that it hides.
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
        if judge.is_garbage(commit_ts, write.kind) {
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

/// Follows PD's safe point until `stop`.
pub async fn run(
    kv: Arc<dyn RaftKv>,
    scheduler: Arc<Scheduler>,
    pd: Arc<dyn PdClient>,
    stop: CancellationToken,
) {
    let mut done = TimeStamp::ZERO;
    let work = async {
        loop {
            tokio::time::sleep(POLL_INTERVAL).await;
            match pd.get_gc_safe_point().await {
                Ok(safe_point) if safe_point > done => {
                    collect_store(&*kv, &scheduler, safe_point).await;
                    done = safe_point;
                }
                Ok(_) => {}
                Err(error) => tracing::debug!(%error, "no safe point"),
            }
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = work => {}
    }
}

/// Walks every region this store leads.
async fn collect_store(kv: &dyn RaftKv, scheduler: &Scheduler, safe_point: TimeStamp) {
    for info in kv.region_infos().into_iter().filter(|info| info.is_leader) {
        let Some(region) = info.region else { continue };
        let context = RegionContext {
            region_id: RegionId(region.id),
            epoch: epoch_of(&region),
            ..RegionContext::default()
        };
        let mut from = region.start_key.clone();
        loop {
            match scheduler.collect_garbage(&context, &from, safe_point).await {
                Ok(Some(next)) => from = next,
                Ok(None) => break,
                Err(error) => {
                    // Split, moved or busy: the next safe point finds what is left.
                    tracing::debug!(region = region.id, %error, "collection stopped");
                    break;
                }
            }
            tokio::time::sleep(ROUND_PAUSE).await;
        }
    }
}
