//! Which versions of one key are garbage at a safe point.

use cairn_types::TimeStamp;

use crate::mvcc::WriteKind;

/// What becomes of a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Somebody at or above the safe point may need it.
    Kept,
    /// The newest `Delete` at or below the safe point: nobody sees a value here, but it
    /// may only go after every version that it hides, in other files too.
    HidingDelete,
    /// Nobody needs it, whatever else becomes of the key.
    Garbage,
}

/// Judges the versions of one key, asked from the newest down.
#[derive(Clone, Copy, Debug)]
pub struct Judge {
    safe_point: TimeStamp,
    /// The version that readers at the safe point see has been passed.
    is_covered: bool,
}

impl Judge {
    /// For the next key.
    pub fn new(safe_point: TimeStamp) -> Judge {
        Judge { safe_point, is_covered: false }
    }

    /// Of the next older version. A version that is not shown cannot make another one
    /// garbage; it can only fail to.
    pub fn judge(&mut self, commit_ts: TimeStamp, kind: WriteKind) -> Verdict {
        if commit_ts > self.safe_point {
            return Verdict::Kept;
        }
        if self.is_covered {
            return Verdict::Garbage;
        }
        self.is_covered = kind.is_data();
        match kind {
            WriteKind::Put => Verdict::Kept,
            WriteKind::Delete => Verdict::HidingDelete,
            WriteKind::Lock | WriteKind::Rollback => Verdict::Garbage,
        }
    }
}
