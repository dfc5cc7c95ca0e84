//! Which versions of a key are garbage at a safe point.

use cairn_types::TimeStamp;

use crate::mvcc::WriteKind;
use crate::mvcc::keys::KeyBuf;

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

/// Judges the versions of keys, asked key by key and from the newest down.
#[derive(Clone, Debug)]
pub struct Judge {
    safe_point: TimeStamp,
    /// Whose versions are judged, encoded.
    user_key: KeyBuf,
    /// The version of it that readers at the safe point see has been passed.
    is_covered: bool,
}

impl Judge {
    /// Before the first key.
    pub fn new(safe_point: TimeStamp) -> Judge {
        Judge { safe_point, user_key: KeyBuf::new(), is_covered: false }
    }

    /// The key that was judged last.
    pub fn user_key(&self) -> &[u8] {
        &self.user_key
    }

    /// Of the next older version of the key, or the newest of the next key. A version that is
    /// not shown cannot make another one garbage; it can only fail to.
    pub fn judge(&mut self, user_key: &[u8], commit_ts: TimeStamp, kind: WriteKind) -> Verdict {
        if self.user_key[..] != *user_key {
            self.user_key.clear();
            self.user_key.extend_from_slice(user_key);
            self.is_covered = false;
        }
        if commit_ts >= self.safe_point {
            // At the safe point itself: a transaction that began there may still prewrite, and only
            // the record of its rollback keeps it from that.
            self.is_covered = commit_ts == self.safe_point && kind.is_data();
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
