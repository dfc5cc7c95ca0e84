//! A walk over the commit records of a range, a piece at a time, that judges each.

use bytes::Bytes;
use cairn_engine::{Cf, EngineSnapshot, IterOptions};
use cairn_types::TimeStamp;

use super::judge::{Judge, Verdict};
use crate::mvcc::{MvccError, Write, keys};

/// What a walk comes across.
#[derive(Debug)]
pub enum Seen<'a> {
    /// A commit record, the newest of a key first.
    Record {
        /// Its key, encoded.
        user_key: &'a [u8],
        /// Its place among the key's versions.
        commit_ts: TimeStamp,
        /// The record.
        write: &'a Write<'a>,
        /// What becomes of it.
        verdict: Verdict,
    },
    /// A `Delete` that was judged to hide something does not: this view has nothing below it,
    /// or garbage only, and shows all of that.
    LastDelete {
        /// Its key, encoded.
        user_key: &'a [u8],
        /// Its place.
        commit_ts: TimeStamp,
    },
}

/// A walk under way, over engine keys `[from, upper)`.
#[derive(Debug)]
pub struct Walk {
    from: Bytes,
    upper: Bytes,
    judge: Judge,
}

impl Walk {
    /// Begins at `lower`.
    pub fn new(lower: Bytes, upper: Bytes, safe_point: TimeStamp) -> Walk {
        Walk { from: lower, upper, judge: Judge::new(safe_point) }
    }

    /// Looks at `limit` records more; whether there are others. The view may be another
    /// one each time: what is garbage in one is so in all, only a `Delete` is judged by a
    /// single view.
    pub fn advance(
        &mut self,
        view: &dyn EngineSnapshot,
        limit: usize,
        visit: &mut dyn FnMut(Seen<'_>),
    ) -> Result<bool, MvccError> {
        let bounds = IterOptions::range(self.from.clone(), self.upper.clone());
        let mut iter = view.iter(Cf::Write, IterOptions { skip_cache: true, ..bounds });
        let mut hiding = None;
        let mut valid = iter.seek(&self.from)?;
        for _ in 0..limit {
            if !valid {
                break;
            }
            let (user_key, commit_ts) = keys::split_ts(iter.key())?;
            if self.judge.user_key() != user_key {
                self.end_key(hiding.take(), visit);
            }
            let write = Write::decode(iter.value())?;
            let verdict = self.judge.judge(user_key, commit_ts, write.kind);
            if verdict == Verdict::HidingDelete {
                hiding = Some(commit_ts);
            }
            visit(Seen::Record { user_key, commit_ts, write: &write, verdict });
            valid = iter.next()?;
        }
        if valid {
            self.from = Bytes::copy_from_slice(iter.key());
        }
        if !valid || keys::split_ts(&self.from)?.0 != self.judge.user_key() {
            self.end_key(hiding, visit);
        }
        Ok(valid)
    }

    /// All versions of the key have been shown.
    fn end_key(&self, hiding: Option<TimeStamp>, visit: &mut dyn FnMut(Seen<'_>)) {
        if let Some(commit_ts) = hiding {
            visit(Seen::LastDelete { user_key: self.judge.user_key(), commit_ts });
        }
    }
}
