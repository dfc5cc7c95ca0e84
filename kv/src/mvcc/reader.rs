//! Reads of single keys: the value at a timestamp, the lock, the commit records.
//!
//! One reader keeps one cursor on CF write, so that a batch of keys pays for it
//! once. **Cost** of a point get: one `get` in CF lock (nearly always empty, its
//! bloom filter says so), one seek in CF write, and for values over 1 KiB one
//! `get` in CF default.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use cairn_engine::{Cf, EngineIterator, EngineSnapshot, IterOptions};
use cairn_types::TimeStamp;

use super::keys::{self, KeyBuf, TS_LEN};
use super::lock::{Lock, LockKind};
use super::write::{Write, WriteKind};
use super::{MvccError, ReadError};

/// Reads keys of one engine snapshot.
pub struct MvccReader {
    snapshot: Arc<dyn EngineSnapshot>,
    /// Locks that only the region's leader knows, by user key: they come before the snapshot's.
    leader_locks: BTreeMap<Bytes, Bytes>,
    /// A lock was found in the snapshot.
    met_lasting_lock: Cell<bool>,
    cursor: Option<VersionCursor>,
}

/// What CF write knows of a transaction at one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TxnRecord {
    /// It committed.
    Committed {
        /// When.
        commit_ts: TimeStamp,
        /// As what.
        kind: WriteKind,
    },
    /// It was rolled back.
    RolledBack,
    /// Nothing.
    None {
        /// Another transaction's record that occupies the place where a
        /// rollback record would go, encoded.
        overlapping: Option<Bytes>,
    },
}

impl MvccReader {
    /// A reader of `snapshot`. Reads at a timestamp need no more: what only a leader knows of
    /// locks blocks none of them.
    pub fn new(snapshot: Arc<dyn EngineSnapshot>) -> MvccReader {
        MvccReader::with_locks(snapshot, BTreeMap::new())
    }

    /// A reader of `snapshot` and of the locks that only the region's leader knows, by user key.
    pub fn with_locks(
        snapshot: Arc<dyn EngineSnapshot>,
        leader_locks: BTreeMap<Bytes, Bytes>,
    ) -> MvccReader {
        MvccReader { snapshot, leader_locks, met_lasting_lock: Cell::new(false), cursor: None }
    }

    /// Whether [`MvccReader::load_lock`] has found a lock in the snapshot.
    pub fn met_lasting_lock(&self) -> bool {
        self.met_lasting_lock.get()
    }

    /// The value of `raw_key` at `read_ts`; locks of the transactions in
    /// `resolved` do not block.
    pub fn get(
        &mut self,
        raw_key: &[u8],
        read_ts: TimeStamp,
        resolved: &[u64],
    ) -> Result<Option<Bytes>, ReadError> {
        let user_key = keys::user_key(raw_key);
        if let Some(bytes) = self.snapshot.get(Cf::Lock, &user_key)? {
            let lock = Lock::decode(&bytes)?;
            if lock.blocks_read(raw_key, read_ts, resolved) {
                return Err(ReadError::Locked(Box::new(
                    lock.to_info(Bytes::copy_from_slice(raw_key)),
                )));
            }
        }
        Ok(self.get_committed(&user_key, read_ts)?)
    }

    /// As [`MvccReader::get`], for the transaction that began at `start_ts`: where it has prewritten
    /// the key, what that will make of it.
    pub fn get_own(
        &mut self,
        raw_key: &[u8],
        start_ts: TimeStamp,
        resolved: &[u64],
    ) -> Result<Option<Bytes>, ReadError> {
        let user_key = keys::user_key(raw_key);
        if let Some(bytes) = self.snapshot.get(Cf::Lock, &user_key)? {
            let lock = Lock::decode(&bytes)?;
            match lock.kind {
                _ if lock.start_ts != start_ts => {}
                LockKind::Delete => return Ok(None),
                LockKind::Put => {
                    return Ok(Some(match lock.short_value {
                        Some(value) => value,
                        None => self.load_value(&user_key, start_ts)?,
                    }));
                }
                LockKind::Lock | LockKind::Pessimistic => {}
            }
        }
        self.get(raw_key, start_ts, resolved)
    }

    /// The newest committed value at `read_ts`, whatever locks there are.
    pub fn get_committed(
        &mut self,
        user_key: &[u8],
        read_ts: TimeStamp,
    ) -> Result<Option<Bytes>, MvccError> {
        let cursor = self.cursor()?;
        cursor.seek(user_key, read_ts)?;
        if !cursor.skip_to_data()? {
            return Ok(None);
        }
        let Some((_, write)) = cursor.current()? else { return Ok(None) };
        if write.kind == WriteKind::Delete {
            return Ok(None);
        }
        if let Some(value) = write.short_value {
            return Ok(Some(Bytes::copy_from_slice(value)));
        }
        let start_ts = write.start_ts;
        self.load_value(user_key, start_ts).map(Some)
    }

    /// A long value from CF default.
    pub fn load_value(&self, user_key: &[u8], start_ts: TimeStamp) -> Result<Bytes, MvccError> {
        self.snapshot
            .get(Cf::Default, &keys::versioned_key(user_key, start_ts))?
            .ok_or(MvccError::corrupt("commit record names a value that does not exist"))
    }

    /// The key's lock as the transaction `start_ts` sees it: its own, if it is one of the holders.
    pub fn load_lock(
        &self,
        user_key: &[u8],
        start_ts: TimeStamp,
    ) -> Result<Option<Lock>, MvccError> {
        let lock = match self.leader_locks.get(user_key) {
            Some(bytes) => Lock::decode(bytes)?,
            None => {
                let Some(bytes) = self.snapshot.get(Cf::Lock, user_key)? else { return Ok(None) };
                self.met_lasting_lock.set(true);
                Lock::decode(&bytes)?
            }
        };
        Ok(Some(lock.seen_by(start_ts)))
    }

    /// The record at exactly `commit_ts`, encoded.
    pub fn load_write(
        &self,
        user_key: &[u8],
        commit_ts: TimeStamp,
    ) -> Result<Option<Bytes>, MvccError> {
        Ok(self.snapshot.get(Cf::Write, &keys::versioned_key(user_key, commit_ts))?)
    }

    /// A cursor over the versions of `user_key`, newest at or below `ts` first.
    pub fn versions(
        &mut self,
        user_key: &[u8],
        ts: TimeStamp,
    ) -> Result<&mut VersionCursor, MvccError> {
        let cursor = self.cursor()?;
        cursor.seek(user_key, ts)?;
        Ok(cursor)
    }

    /// What became of the transaction `start_ts` at this key, by its commit
    /// records alone. Its record can only lie at or above `start_ts`.
    pub fn txn_record(
        &mut self,
        user_key: &[u8],
        start_ts: TimeStamp,
    ) -> Result<TxnRecord, MvccError> {
        let cursor = self.versions(user_key, TimeStamp::MAX)?;
        while let Some((commit_ts, write)) = cursor.current()? {
            if commit_ts < start_ts {
                break;
            }
            if write.is_rollback_of(commit_ts, start_ts) {
                return Ok(TxnRecord::RolledBack);
            }
            if write.start_ts == start_ts {
                return Ok(TxnRecord::Committed { commit_ts, kind: write.kind });
            }
            if commit_ts == start_ts {
                let overlapping = Some(Bytes::copy_from_slice(cursor.raw_value()));
                return Ok(TxnRecord::None { overlapping });
            }
            cursor.advance()?;
        }
        Ok(TxnRecord::None { overlapping: None })
    }

    /// Locks accepted by `wanted` in the raw range, with their raw keys, each holder of a shared one
    /// by itself. At most `limit`, but for those of the last key, which are all there.
    pub fn scan_locks(
        &self,
        start: &[u8],
        end: &[u8],
        limit: usize,
        wanted: impl Fn(&Lock) -> bool,
    ) -> Result<Vec<(Bytes, Lock)>, MvccError> {
        let (lower, upper) = keys::range_bounds(start, end);
        let bounds =
            IterOptions::range(Bytes::copy_from_slice(&lower), Bytes::copy_from_slice(&upper));
        let mut iter = self.snapshot.iter(Cf::Lock, bounds);
        let mut found = Vec::new();
        let mut valid = iter.seek(&lower)?;
        while valid && found.len() < limit {
            if !self.leader_locks.contains_key(iter.key()) {
                push_holders(&mut found, iter.key(), iter.value(), &wanted)?;
            }
            valid = iter.next()?;
        }
        let bounds = (Bound::Included(&lower[..]), Bound::Excluded(&upper[..]));
        for (user_key, bytes) in self.leader_locks.range::<[u8], _>(bounds) {
            push_holders(&mut found, user_key, bytes, &wanted)?;
        }
        // Stable: the holders of one key stay in their order.
        found.sort_by(|(one, _), (other, _)| one.cmp(other));
        if let Some((last, _)) = limit.checked_sub(1).and_then(|last| found.get(last)) {
            let end = found.partition_point(|(key, _)| key <= last);
            found.truncate(end);
        }
        Ok(found)
    }

    fn cursor(&mut self) -> Result<&mut VersionCursor, MvccError> {
        Ok(self.cursor.get_or_insert_with(|| VersionCursor::new(&*self.snapshot)))
    }
}

/// Adds the wanted holders of one lock record.
fn push_holders(
    found: &mut Vec<(Bytes, Lock)>,
    user_key: &[u8],
    record: &[u8],
    wanted: &impl Fn(&Lock) -> bool,
) -> Result<(), MvccError> {
    let mut raw = Vec::new();
    for holder in Lock::decode(record)?.into_holders() {
        if wanted(&holder) {
            if raw.is_empty() {
                keys::decode_user_key(user_key, &mut raw)?;
            }
            found.push((Bytes::copy_from_slice(&raw), holder));
        }
    }
    Ok(())
}

/// Walks the commit records of one key, newest first.
pub struct VersionCursor {
    iter: Box<dyn EngineIterator + Send>,
    /// The seek target: user key, then timestamp.
    target: KeyBuf,
    is_valid: bool,
}

impl VersionCursor {
    fn new(snapshot: &dyn EngineSnapshot) -> VersionCursor {
        // Bounds would tie the cursor to one key; the prefix lets RocksDB's
        // bloom filters skip files without doing so.
        let options = IterOptions { prefix_same_as_start: true, ..IterOptions::default() };
        VersionCursor {
            iter: snapshot.iter(Cf::Write, options),
            target: KeyBuf::new(),
            is_valid: false,
        }
    }

    fn seek(&mut self, user_key: &[u8], ts: TimeStamp) -> Result<(), MvccError> {
        self.target.clear();
        self.target.extend_from_slice(user_key);
        self.seek_ts(ts)
    }

    fn seek_ts(&mut self, ts: TimeStamp) -> Result<(), MvccError> {
        keys::append_ts(&mut self.target, ts);
        self.is_valid = self.iter.seek(&self.target)?;
        let user_len = self.target.len() - TS_LEN;
        self.target.truncate(user_len);
        self.check_key();
        Ok(())
    }

    fn check_key(&mut self) {
        self.is_valid = self.is_valid && is_version_of(self.iter.key(), &self.target);
    }

    /// The record under the cursor; `None` past the key's oldest.
    pub fn current(&self) -> Result<Option<(TimeStamp, Write<'_>)>, MvccError> {
        if !self.is_valid {
            return Ok(None);
        }
        let (_, commit_ts) = keys::split_ts(self.iter.key())?;
        Ok(Some((commit_ts, Write::decode(self.iter.value())?)))
    }

    /// The record under the cursor as stored; only after `current` was `Some`.
    fn raw_value(&self) -> &[u8] {
        self.iter.value()
    }

    /// To the next older record.
    pub fn advance(&mut self) -> Result<(), MvccError> {
        if self.is_valid {
            self.is_valid = self.iter.next()?;
            self.check_key();
        }
        Ok(())
    }

    /// Moves down to the newest `Put` or `Delete`; false when there is none.
    pub fn skip_to_data(&mut self) -> Result<bool, MvccError> {
        loop {
            let last_change = match self.current()? {
                None => return Ok(false),
                Some((_, write)) if write.kind.is_data() => return Ok(true),
                Some((commit_ts, write)) => write.last_change.filter(|ts| *ts < commit_ts),
            };
            match last_change {
                Some(ts) if ts.is_zero() => {
                    self.is_valid = false;
                    return Ok(false);
                }
                Some(ts) => {
                    // Mostly the very next record.
                    self.advance()?;
                    if self.current()?.is_some_and(|(next_ts, _)| next_ts > ts) {
                        self.seek_ts(ts)?;
                    }
                }
                None => self.advance()?,
            }
        }
    }
}

/// Whether `key` of CF write or default is a version of `user_key`.
pub(crate) fn is_version_of(key: &[u8], user_key: &[u8]) -> bool {
    key.len() == user_key.len() + TS_LEN && key.starts_with(user_key)
}
