//! Scans of a key range at a timestamp, forwards or backwards.
//!
//! Merges CF write with CF lock (usually empty: one seek finds that out and the
//! merge costs nothing after it) and pushes pairs into the caller's reusable
//! buffers. **Cost**: one `next` per row that has one version; rows with many
//! versions are left by a seek after [`NEAR_SEEK_STEPS`] steps. Long values come
//! from a second cursor on CF default that steps along.
//!
//! Long runs of deleted rows are walked over once: see [`DeadRanges`].
//!
//! **Invariants**: between calls the write cursor stands on the first record
//! (in scan direction) of a key not yet looked at; a call that fails with
//! [`ReadError::Locked`] has passed the locked key, so that the caller may go on.

use std::cmp::Ordering;
use std::sync::Arc;

use bytes::Bytes;
use cairn_engine::{Cf, EngineIterator, EngineSnapshot, IterOptions};
use cairn_types::TimeStamp;

use super::dead_ranges::{DeadRange, DeadRanges, RUN_MIN};
use super::keys::{self, KeyBuf, TS_LEN};
use super::lock::Lock;
use super::reader::is_version_of;
use super::write::{Write, WriteKind};
use super::{MvccError, NEAR_SEEK_STEPS, ReadError};

/// Takes the pairs of a scan.
pub trait PairSink {
    /// One more pair; both slices live only for the call.
    fn push(&mut self, raw_key: &[u8], value: &[u8]);

    /// Whether it takes no more, however many are wanted.
    fn is_full(&self) -> bool {
        false
    }
}

/// What to scan.
#[derive(Clone, Debug)]
pub struct ScanOptions {
    /// First raw key (inclusive).
    pub start: Bytes,
    /// Raw key after the last; empty is the end of the key space.
    pub end: Bytes,
    /// The read view.
    pub read_ts: TimeStamp,
    /// From the end towards the start.
    pub desc: bool,
    /// Leave values empty.
    pub key_only: bool,
    /// Transactions whose locks do not block this read.
    pub resolved: Arc<[u64]>,
}

/// A scan in progress.
pub struct Scanner {
    snapshot: Arc<dyn EngineSnapshot>,
    options: ScanOptions,
    lower: KeyBuf,
    upper: KeyBuf,
    writes: Cursor,
    /// `None` when the range holds no lock (any more).
    locks: Option<Cursor>,
    values: Option<Cursor>,
    is_started: bool,
    /// User key being looked at.
    current: KeyBuf,
    /// Seek target and raw key, kept for their buffers.
    target: KeyBuf,
    raw: Vec<u8>,
    /// Backwards only: the newest visible value met so far.
    value: Vec<u8>,
    /// Forwards only: deleted rows since the last living one.
    run: Option<Run>,
    dead: Option<Arc<DeadRanges>>,
}

/// Deleted rows in a row.
struct Run {
    range: DeadRange,
    rows: usize,
}

/// An engine iterator that remembers whether it stands on a record.
struct Cursor {
    iter: Box<dyn EngineIterator + Send>,
    is_valid: bool,
}

impl Cursor {
    fn new(snapshot: &dyn EngineSnapshot, cf: Cf, lower: &[u8], upper: &[u8]) -> Cursor {
        let bounds =
            IterOptions::range(Bytes::copy_from_slice(lower), Bytes::copy_from_slice(upper));
        Cursor { iter: snapshot.iter(cf, bounds), is_valid: false }
    }

    fn start(&mut self, desc: bool) -> Result<(), MvccError> {
        self.is_valid = if desc { self.iter.seek_to_last()? } else { self.iter.seek_to_first()? };
        Ok(())
    }

    fn step(&mut self, desc: bool) -> Result<(), MvccError> {
        self.is_valid = if desc { self.iter.prev()? } else { self.iter.next()? };
        Ok(())
    }

    fn seek(&mut self, key: &[u8]) -> Result<(), MvccError> {
        self.is_valid = self.iter.seek(key)?;
        Ok(())
    }

    fn seek_for_prev(&mut self, key: &[u8]) -> Result<(), MvccError> {
        self.is_valid = self.iter.seek_for_prev(key)?;
        Ok(())
    }

    fn is_at(&self, user_key: &[u8]) -> bool {
        self.is_valid && is_version_of(self.iter.key(), user_key)
    }

    fn record(&self) -> Result<(TimeStamp, Write<'_>), MvccError> {
        let (_, commit_ts) = keys::split_ts(self.iter.key())?;
        Ok((commit_ts, Write::decode(self.iter.value())?))
    }

    fn commit_ts(&self) -> Result<TimeStamp, MvccError> {
        Ok(keys::split_ts(self.iter.key())?.1)
    }
}

/// Where the visible value of a key lies.
enum Visible {
    Nothing,
    /// In the record under the write cursor (forwards) or in `value` (backwards).
    Inline,
    /// In CF default.
    Long(TimeStamp),
}

impl Scanner {
    /// A scan over `snapshot`; nothing is read before the first batch.
    pub fn new(snapshot: Arc<dyn EngineSnapshot>, options: ScanOptions) -> Scanner {
        let (lower, upper) = keys::range_bounds(&options.start, &options.end);
        let writes = Cursor::new(&*snapshot, Cf::Write, &lower, &upper);
        Scanner {
            snapshot,
            options,
            lower,
            upper,
            writes,
            locks: None,
            values: None,
            is_started: false,
            current: KeyBuf::new(),
            target: KeyBuf::new(),
            raw: Vec::new(),
            value: Vec::new(),
            run: None,
            dead: None,
        }
    }

    /// Jumps over ranges of deleted rows that others have seen, and tells of its own.
    pub fn with_dead_ranges(mut self, dead: Option<Arc<DeadRanges>>) -> Scanner {
        // A view without a number cannot be compared with others; backwards is rare.
        self.dead = dead.filter(|_| !self.options.desc && self.snapshot.sequence() > 0);
        self
    }

    /// Pushes up to `limit` more pairs, or until the sink is full; false when the range is drained.
    pub fn next_batch(
        &mut self,
        sink: &mut impl PairSink,
        limit: usize,
    ) -> Result<bool, ReadError> {
        if !self.is_started {
            self.begin()?;
        }
        let mut pushed = 0;
        while pushed < limit && !sink.is_full() {
            if self.locks.is_none() && !self.options.desc {
                pushed += self.run_ahead(sink, limit - pushed)?;
                if pushed == limit || sink.is_full() {
                    break;
                }
            }
            if !self.pick()? {
                self.end_run();
                return Ok(false);
            }
            let has_versions = self.writes.is_at(&self.current);
            if let Some(locked) = self.pass_lock()? {
                if has_versions {
                    // It was not looked at: it may be a living row.
                    self.end_run();
                    self.skip_key()?;
                }
                return Err(locked);
            }
            if has_versions && self.visit(sink)? {
                pushed += 1;
                self.end_run();
            }
        }
        Ok(true)
    }

    /// Forwards, where no locks are: pushes pairs as long as the first record of each key is the
    /// visible one, with its value. That is nearly all of most tables, and what scans cost.
    fn run_ahead(&mut self, sink: &mut impl PairSink, limit: usize) -> Result<usize, ReadError> {
        let mut pushed = 0;
        while pushed < limit && self.writes.is_valid && !sink.is_full() {
            let (key, value) = self.writes.iter.entry();
            let (user_key, commit_ts) = keys::split_ts(key)?;
            if pushed > 0 && user_key == &self.current[..] {
                self.skip_key()?;
                continue;
            }
            if commit_ts > self.options.read_ts {
                break;
            }
            let write = Write::decode(value)?;
            let (WriteKind::Put, Some(value)) = (write.kind, write.short_value) else { break };
            keys::decode_user_key(user_key, &mut self.raw)?;
            sink.push(&self.raw, if self.options.key_only { &[] } else { value });
            self.current.clear();
            self.current.extend_from_slice(user_key);
            if pushed == 0 {
                self.end_run();
            }
            self.writes.step(false)?;
            pushed += 1;
        }
        if pushed > 0 {
            self.skip_key()?;
        }
        Ok(pushed)
    }

    /// The row under `current` was deleted, its newest record at `newest`.
    fn extend_run(&mut self, newest: TimeStamp) -> Result<(), MvccError> {
        let Some(dead) = &self.dead else { return Ok(()) };
        let run = self.run.get_or_insert_with(|| Run {
            range: DeadRange {
                start: self.current.clone(),
                end: KeyBuf::new(),
                newest: TimeStamp::ZERO,
            },
            rows: 0,
        });
        run.rows += 1;
        run.range.newest = run.range.newest.max(newest);
        run.range.end.clear();
        run.range.end.extend_from_slice(&self.current);
        // Somebody may know where this ends; not worth asking for a row or two.
        const ASK_AT: usize = 4;
        if run.rows != ASK_AT {
            return Ok(());
        }
        let found = dead.find(&self.current, self.options.read_ts, self.snapshot.sequence());
        match found {
            Some(known) => self.jump(known),
            None => Ok(()),
        }
    }

    /// Places the write cursor behind a range of dead rows, which joins the run.
    fn jump(&mut self, known: DeadRange) -> Result<(), MvccError> {
        self.target.clear();
        self.target.extend_from_slice(&known.end);
        self.target.extend_from_slice(&[u8::MAX; TS_LEN + 1]);
        if self.writes.is_valid && self.writes.iter.key() < &self.target[..] {
            self.writes.seek(&self.target)?;
        }
        match &mut self.run {
            Some(run) => {
                run.range.newest = run.range.newest.max(known.newest);
                run.range.end = known.end;
                run.rows += RUN_MIN;
            }
            None => self.run = Some(Run { range: known, rows: RUN_MIN }),
        }
        Ok(())
    }

    /// A living row, or the end: what was walked over is worth telling, or not.
    fn end_run(&mut self) {
        if let (Some(run), Some(dead)) = (self.run.take(), &self.dead)
            && run.rows > RUN_MIN
        {
            dead.add(run.range, self.snapshot.sequence());
        }
    }

    fn begin(&mut self) -> Result<(), MvccError> {
        if self.lower < self.upper {
            let desc = self.options.desc;
            let mut locks = Cursor::new(&*self.snapshot, Cf::Lock, &self.lower, &self.upper);
            locks.start(desc)?;
            self.locks = locks.is_valid.then_some(locks);
            self.begin_writes()?;
        }
        self.is_started = true;
        Ok(())
    }

    fn begin_writes(&mut self) -> Result<(), MvccError> {
        let read_ts = self.options.read_ts;
        let known = self
            .dead
            .as_ref()
            .and_then(|dead| dead.find(&self.lower, read_ts, self.snapshot.sequence()));
        let Some(known) = known else {
            self.writes.start(self.options.desc)?;
            if self.dead.is_some() {
                // Nothing lies between the bound and the first row: should that be dead,
                // the range begins at the bound, and the next scan need not even seek to
                // what the engine has still to remove there.
                let range = DeadRange {
                    start: self.lower.clone(),
                    end: self.lower.clone(),
                    newest: TimeStamp::ZERO,
                };
                self.run = Some(Run { range, rows: 0 });
            }
            return Ok(());
        };
        self.target.clear();
        self.target.extend_from_slice(&known.end);
        self.target.extend_from_slice(&[u8::MAX; TS_LEN + 1]);
        self.writes.seek(&self.target)?;
        self.run = Some(Run { range: known, rows: RUN_MIN });
        Ok(())
    }

    /// Sets `current` to the next user key in scan order over both cursors.
    fn pick(&mut self) -> Result<bool, MvccError> {
        self.current.clear();
        let Some(locks) = &self.locks else {
            if !self.writes.is_valid {
                return Ok(false);
            }
            self.current.extend_from_slice(keys::split_ts(self.writes.iter.key())?.0);
            return Ok(true);
        };
        let lock_key = locks.iter.key();
        if !self.writes.is_valid {
            self.current.extend_from_slice(lock_key);
            return Ok(true);
        }
        let write_key = keys::split_ts(self.writes.iter.key())?.0;
        let order = match self.options.desc {
            false => write_key.cmp(lock_key),
            true => lock_key.cmp(write_key),
        };
        self.current.extend_from_slice(if order == Ordering::Greater {
            lock_key
        } else {
            write_key
        });
        Ok(true)
    }

    /// Steps the lock cursor past `current`; the error when its lock blocks.
    fn pass_lock(&mut self) -> Result<Option<ReadError>, MvccError> {
        let Some(locks) = &mut self.locks else { return Ok(None) };
        if locks.iter.key() != &self.current[..] {
            return Ok(None);
        }
        let lock = Lock::decode(locks.iter.value())?;
        locks.step(self.options.desc)?;
        if !locks.is_valid {
            self.locks = None;
        }
        keys::decode_user_key(&self.current, &mut self.raw)?;
        if !lock.blocks_read(&self.raw, self.options.read_ts, &self.options.resolved) {
            return Ok(None);
        }
        let info = lock.to_info(Bytes::copy_from_slice(&self.raw));
        Ok(Some(ReadError::Locked(Box::new(info))))
    }

    /// Pushes the visible pair of `current`, if any, and leaves the key.
    fn visit(&mut self, sink: &mut impl PairSink) -> Result<bool, ReadError> {
        let visible = if self.options.desc {
            self.find_backwards()?
        } else {
            let newest = self.writes.commit_ts()?;
            let visible = self.find_forwards()?;
            // A record above the read view may make the row live again.
            if matches!(visible, Visible::Nothing) && newest <= self.options.read_ts {
                self.skip_key()?;
                self.extend_run(newest)?;
                return Ok(false);
            }
            if matches!(visible, Visible::Nothing) {
                self.end_run();
            }
            visible
        };
        let is_visible = !matches!(visible, Visible::Nothing);
        if is_visible {
            keys::decode_user_key(&self.current, &mut self.raw)?;
        }
        match visible {
            Visible::Nothing => {}
            _ if self.options.key_only => sink.push(&self.raw, &[]),
            Visible::Inline if self.options.desc => sink.push(&self.raw, &self.value),
            Visible::Inline => {
                let (_, write) = self.writes.record()?;
                sink.push(&self.raw, write.short_value.unwrap_or_default());
            }
            Visible::Long(start_ts) => {
                self.seek_value(start_ts)?;
                let values = self.values.as_ref().expect("seek_value placed the cursor");
                sink.push(&self.raw, values.iter.value());
            }
        }
        self.skip_key()?;
        Ok(is_visible)
    }

    /// Forwards: moves the write cursor down the versions of `current` to the
    /// newest visible one.
    fn find_forwards(&mut self) -> Result<Visible, MvccError> {
        let read_ts = self.options.read_ts;
        let mut steps = 0;
        while self.writes.commit_ts()? > read_ts {
            steps += 1;
            if steps > NEAR_SEEK_STEPS {
                self.seek_version(read_ts)?;
            } else {
                self.writes.step(false)?;
            }
            if !self.writes.is_at(&self.current) {
                return Ok(Visible::Nothing);
            }
        }
        loop {
            let (commit_ts, write) = self.writes.record()?;
            match write.kind {
                WriteKind::Put if write.short_value.is_some() => return Ok(Visible::Inline),
                WriteKind::Put => return Ok(Visible::Long(write.start_ts)),
                WriteKind::Delete => return Ok(Visible::Nothing),
                WriteKind::Lock | WriteKind::Rollback => {}
            }
            match write.last_change.filter(|ts| *ts < commit_ts) {
                Some(ts) if ts.is_zero() => return Ok(Visible::Nothing),
                Some(ts) => self.approach_version(ts)?,
                None => self.writes.step(false)?,
            }
            if !self.writes.is_at(&self.current) {
                return Ok(Visible::Nothing);
            }
        }
    }

    /// Moves down to the version committed at `ts`, which is mostly the next record.
    fn approach_version(&mut self, ts: TimeStamp) -> Result<(), MvccError> {
        for _ in 0..NEAR_SEEK_STEPS {
            if !self.writes.is_at(&self.current) || self.writes.commit_ts()? <= ts {
                return Ok(());
            }
            self.writes.step(false)?;
        }
        self.seek_version(ts)
    }

    /// Backwards: the cursor stands on the oldest version of `current`; walks
    /// up while versions are visible, keeping the newest value.
    fn find_backwards(&mut self) -> Result<Visible, MvccError> {
        let read_ts = self.options.read_ts;
        let mut visible = Visible::Nothing;
        for _ in 0..NEAR_SEEK_STEPS {
            if !self.writes.is_at(&self.current) {
                return Ok(visible);
            }
            let (commit_ts, write) = self.writes.record()?;
            if commit_ts > read_ts {
                return Ok(visible);
            }
            match (write.kind, write.short_value) {
                (WriteKind::Put, Some(value)) => {
                    self.value.clear();
                    self.value.extend_from_slice(value);
                    visible = Visible::Inline;
                }
                (WriteKind::Put, None) => visible = Visible::Long(write.start_ts),
                (WriteKind::Delete, _) => visible = Visible::Nothing,
                (WriteKind::Lock | WriteKind::Rollback, _) => {}
            }
            self.writes.step(true)?;
        }
        // Many versions: look from the other side.
        self.seek_version(read_ts)?;
        let visible = match self.writes.is_at(&self.current) {
            true => self.find_forwards()?,
            false => Visible::Nothing,
        };
        if matches!(visible, Visible::Inline) {
            let (_, write) = self.writes.record()?;
            self.value.clear();
            self.value.extend_from_slice(write.short_value.unwrap_or_default());
        }
        // Leave by a seek: the cursor may stand amid many versions.
        self.writes.seek_for_prev(&self.current)?;
        Ok(visible)
    }

    /// Moves the write cursor off `current`, to the next key in scan order.
    fn skip_key(&mut self) -> Result<(), MvccError> {
        let desc = self.options.desc;
        for _ in 0..NEAR_SEEK_STEPS {
            if !self.writes.is_at(&self.current) {
                return Ok(());
            }
            self.writes.step(desc)?;
        }
        if !self.writes.is_at(&self.current) {
            return Ok(());
        }
        if desc {
            // The bare user key sorts before its versions.
            return self.writes.seek_for_prev(&self.current);
        }
        self.target.clear();
        self.target.extend_from_slice(&self.current);
        // Above the oldest conceivable version, below the next user key.
        self.target.extend_from_slice(&[u8::MAX; TS_LEN + 1]);
        self.writes.seek(&self.target)
    }

    fn seek_version(&mut self, ts: TimeStamp) -> Result<(), MvccError> {
        self.target.clear();
        self.target.extend_from_slice(&self.current);
        keys::append_ts(&mut self.target, ts);
        self.writes.seek(&self.target)
    }

    /// Places the value cursor on `(current, start_ts)`.
    fn seek_value(&mut self, start_ts: TimeStamp) -> Result<(), MvccError> {
        self.target.clear();
        self.target.extend_from_slice(&self.current);
        keys::append_ts(&mut self.target, start_ts);
        let values = self.values.get_or_insert_with(|| {
            Cursor::new(&*self.snapshot, Cf::Default, &self.lower, &self.upper)
        });
        if !self.options.desc {
            for _ in 0..NEAR_SEEK_STEPS {
                if !values.is_valid || values.iter.key() >= &self.target[..] {
                    break;
                }
                values.step(false)?;
            }
        }
        if !values.is_valid || values.iter.key() != &self.target[..] {
            values.seek(&self.target)?;
        }
        if !values.is_valid || values.iter.key() != &self.target[..] {
            return Err(MvccError::corrupt("commit record names a value that does not exist"));
        }
        Ok(())
    }
}
