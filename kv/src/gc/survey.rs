//! How much garbage a range holds, found by reading its commit records.

use cairn_types::TimeStamp;

use super::judge::Verdict;
use super::walk::Seen;

/// What was counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// Commit records of all kinds.
    pub records: u64,
    /// Those that a compaction may leave out.
    pub garbage: u64,
    /// `Delete`s that a collection removes.
    pub last_deletes: u64,
    /// Records above the safe point: a later one may make them garbage.
    pub newer: u64,
}

/// Versions fewer than these are not worth a compaction of their own.
const FEW_VERSIONS: u64 = 4096;
/// A range is compacted if at least this part of its records may be left out.
const GARBAGE_PART: u64 = 10;

impl Survey {
    /// Counts what a walk comes across.
    pub fn count(&mut self, seen: &Seen<'_>, safe_point: TimeStamp) {
        match seen {
            Seen::Record { commit_ts, verdict, .. } => {
                self.records += 1;
                self.newer += u64::from(*commit_ts > safe_point);
                self.garbage += u64::from(*verdict == Verdict::Garbage);
            }
            Seen::LastDelete { .. } => self.last_deletes += 1,
        }
    }

    /// Whether nothing is to be collected.
    pub fn is_clean(&self) -> bool {
        self.garbage == 0 && self.last_deletes == 0
    }

    /// Whether rewriting the range pays if so many of its records vanish.
    pub fn is_worth_compacting(&self, vanishing: u64) -> bool {
        vanishing > FEW_VERSIONS && vanishing * GARBAGE_PART >= self.records
    }
}
