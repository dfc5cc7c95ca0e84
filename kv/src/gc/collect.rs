//! The collector: removes from one replica the garbage that compactions do not leave out.
//!
//! It reads whole ranges and writes a tombstone per version. It is there for what the
//! filter of compactions must leave: versions whose neighbours lie in other files, and the
//! `Delete`s that hid them.
//!
//! **Each replica for itself, past Raft.** What is garbage follows from the safe point and
//! from what was committed below it, which is the same on every replica. Only whether a
//! `Delete` still hides something differs, with what compactions have left out: if one
//! replica decided for the others, rows would rise from the dead where more is left.
//!
//! **Why a `Delete` may go where nothing lies below it.** Versions of a key are committed
//! in the order of their timestamps, so none can be applied below it later. A restart
//! brings the engine back to a state it was in, or replays entries up to the `Delete`
//! again. Only a Raft snapshot brings older versions, with a `Delete` of its own above them: so
//! looking and removing is one step between two installations (the background thread's
//! job `BackgroundJob::Collect`).

use cairn_engine::KvEngine;

use super::judge::Verdict;
use super::walk::{Seen, Walk};
use crate::mvcc::{MvccError, MvccTxn};

/// Records that one round looks at: a millisecond or two.
pub const RECORDS_PER_ROUND: usize = 4096;

/// What a round did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Round {
    /// Versions removed.
    pub removed: u64,
    /// There are records that no round has looked at.
    pub has_more: bool,
}

/// Removes the garbage among `limit` records more. Nobody may replace the replica's data
/// meanwhile.
pub fn collect(engine: &dyn KvEngine, walk: &mut Walk, limit: usize) -> Result<Round, MvccError> {
    let mut txn = MvccTxn::new();
    let mut removed = 0;
    let has_more = walk.advance(&*engine.snapshot(), limit, &mut |seen| match seen {
        Seen::Record { user_key, commit_ts, write, verdict: Verdict::Garbage } => {
            if write.has_long_value() {
                txn.delete_value(user_key, write.start_ts);
            }
            txn.delete_write(user_key, commit_ts);
            removed += 1;
        }
        Seen::Record { .. } => {}
        Seen::LastDelete { user_key, commit_ts } => {
            txn.delete_write(user_key, commit_ts);
            removed += 1;
        }
    })?;
    if !txn.is_empty() {
        engine.write(txn.into_batch(), false)?;
    }
    Ok(Round { removed, has_more })
}
