//! How much garbage a range holds, found by reading its commit records.

use bytes::Bytes;
use cairn_engine::{Cf, EngineSnapshot, IterOptions};
use cairn_types::TimeStamp;

use super::judge::{Judge, Verdict};
use crate::mvcc::keys::{self, KeyBuf};
use crate::mvcc::{MvccError, Write};

/// What was counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// Commit records of all kinds.
    pub records: u64,
    /// Those that a compaction may leave out.
    pub garbage: u64,
    /// `Delete`s that are the last trace of a key, or will be.
    pub hiding_deletes: u64,
    /// Records above the safe point: a later one may make them garbage.
    pub newer: u64,
}

/// A survey under way, over engine keys `[from, upper)`.
pub struct Surveyor {
    from: Bytes,
    upper: Bytes,
    safe_point: TimeStamp,
    current: KeyBuf,
    judge: Judge,
    /// So far.
    pub survey: Survey,
}

impl Surveyor {
    /// Begins at `lower`.
    pub fn new(lower: Bytes, upper: Bytes, safe_point: TimeStamp) -> Surveyor {
        Surveyor {
            from: lower,
            upper,
            safe_point,
            current: KeyBuf::new(),
            judge: Judge::new(safe_point),
            survey: Survey::default(),
        }
    }

    /// Looks at about `limit` records more; whether there are others. The view may be
    /// another one each time.
    pub fn advance(&mut self, view: &dyn EngineSnapshot, limit: u64) -> Result<bool, MvccError> {
        let bounds = IterOptions::range(self.from.clone(), self.upper.clone());
        let mut iter = view.iter(Cf::Write, IterOptions { skip_cache: true, ..bounds });
        let mut seen = 0;
        let mut valid = iter.seek(&self.from)?;
        while valid {
            if seen >= limit {
                self.from = Bytes::copy_from_slice(iter.key());
                return Ok(true);
            }
            seen += 1;
            let (user_key, commit_ts) = keys::split_ts(iter.key())?;
            if self.current[..] != *user_key {
                self.current.clear();
                self.current.extend_from_slice(user_key);
                self.judge = Judge::new(self.safe_point);
            }
            let write = Write::decode(iter.value())?;
            self.survey.records += 1;
            self.survey.newer += u64::from(commit_ts > self.safe_point);
            match self.judge.judge(commit_ts, write.kind) {
                Verdict::Kept => {}
                Verdict::HidingDelete => self.survey.hiding_deletes += 1,
                Verdict::Garbage => self.survey.garbage += 1,
            }
            valid = iter.next()?;
        }
        Ok(false)
    }
}
