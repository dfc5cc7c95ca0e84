//! Transactions: a read view, a buffer of writes, locks, commit.
//!
//! | module | what it holds |
//! |---|---|
//! | [`membuffer`] | the ordered buffer with statement rollback |
//! | `commit` | the two phases over regions, and the ways to save one |
//! | `async_commit` | committed once all locks stand; what became of such a transaction |
//! | [`pessimistic`], `lock_pass`, `locks`, `release` | locks taken before the commit: asked for, known of, given back before the end |
//! | [`read_set`], `refresh` | what a SERIALIZABLE transaction has read, and whether it is still so |
//! | `keep_alive` | heart beats of those who hold locks |
//! | `bulk` | writes that leave memory before the commit |
//! | [`prepare`] | locks that stay until somebody decides: XA |
//! | `outcome` | what became of a commit whose answer was lost |
//! | `background` | secondaries and rollbacks behind the caller's back |
//! | `mutations` | what the buffer and the locks mean to the stores |
//! | `batches` | one pass of a command over the regions of a run of keys |
//!
//! **Invariants.** No write reaches a store before [`Transaction::commit`], but for those of a bulk
//! transaction; a pessimistic transaction's locks do. A transaction ends once: whatever comes later answers
//! [`KvError::TxnEnded`].

mod async_commit;
#[cfg(test)]
mod async_tests;
mod background;
mod batches;
mod bulk;
#[cfg(test)]
mod bulk_tests;
mod commit;
mod keep_alive;
mod lock_pass;
mod locks;
pub mod membuffer;
mod mutations;
mod outcome;
pub mod pessimistic;
#[cfg(test)]
mod pessimistic_tests;
pub mod prepare;
pub mod read_set;
mod refresh;
#[cfg(test)]
mod refresh_tests;
mod release;
#[cfg(test)]
mod release_tests;
#[cfg(test)]
mod shared_tests;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use cairn_proto::kv::{Assertion, AssertionLevel};
use cairn_types::TimeStamp;
use parking_lot::{Mutex, RwLock};

use crate::client::KvClient;
use crate::error::KvError;
use crate::region_cache::KeyRange;
use crate::replicas::ReadFrom;
use crate::scope::RequestScope;
use crate::snapshot::{KvMap, Snapshot};
use bulk::Bulk;
pub use bulk::BulkOptions;
use commit::Committer;
use locks::Locks;
use membuffer::{BufferLimits, BufferedValue, KeyFlags, MemBuffer};
use read_set::ReadSet;
use refresh::Refresh;

/// What a commit may do to save rounds. With neither it takes two phases: after the first nothing
/// is committed, so that whoever must may look once more before the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommitModes {
    /// Commit in one round when a single region holds the transaction.
    pub one_pc: bool,
    /// Be committed once all locks stand.
    pub async_commit: bool,
}

impl CommitModes {
    /// Always two phases.
    pub const TWO_PHASES: CommitModes = CommitModes { one_pc: false, async_commit: false };
}

/// How a transaction was committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommitKind {
    /// One region had it all, and did it in one round.
    OnePhase,
    /// All of its locks stood.
    Async,
    /// Its primary was committed after all of its locks stood.
    TwoPhases,
}

/// What a commit did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommitInfo {
    /// When the writes became visible; zero when there was nothing to write.
    pub commit_ts: TimeStamp,
    /// How.
    pub kind: CommitKind,
    /// One phase was tried, but the store declined.
    pub one_pc_fallback: bool,
    /// Async commit was tried, but a store declined.
    pub async_commit_fallback: bool,
    /// Of a bulk transaction: how long its writer has waited for flushes.
    pub flush_wait: Option<Duration>,
}

impl CommitInfo {
    /// There was nothing to write.
    pub(crate) const NOTHING: CommitInfo = CommitInfo {
        commit_ts: TimeStamp::ZERO,
        kind: CommitKind::TwoPhases,
        one_pc_fallback: false,
        async_commit_fallback: false,
        flush_wait: None,
    };
}

/// How much longer a transaction may be committed by what its caller knows; asked before each
/// step that may commit.
pub type CommitLease = Arc<dyn Fn() -> Duration + Send + Sync>;

/// A point to which a transaction can be brought back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a checkpoint is either rolled back to or released"]
pub struct Checkpoint {
    buffer: membuffer::Checkpoint,
    locks: LocksMark,
}

/// How many locks had been taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct LocksMark(usize);

/// One entry of a transaction's buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BufferedPair {
    /// The key.
    pub key: Bytes,
    /// The value; `None` removes the key.
    pub value: Option<Bytes>,
}

/// A transaction. Shared by reference: its parts lock what they change.
pub struct Transaction {
    client: Arc<KvClient>,
    /// At `start_ts`; keeps what it shows from being collected.
    snapshot: Snapshot,
    /// What the running statement reads below the transaction's own writes, within its bounds.
    view: RwLock<Snapshot>,
    start_ts: TimeStamp,
    buffer: RwLock<MemBuffer>,
    /// Of a pessimistic transaction.
    locks: Option<Locks>,
    /// Of one that flushes.
    bulk: Option<Bulk>,
    terms: Mutex<CommitTerms>,
    /// Of a SERIALIZABLE transaction.
    reads: Option<Arc<ReadSet>>,
    ended: AtomicBool,
}

/// What the caller demands of the commit.
#[derive(Clone)]
struct CommitTerms {
    modes: CommitModes,
    lease: Option<CommitLease>,
    assertion_level: AssertionLevel,
}

impl Transaction {
    pub(crate) fn new(
        client: Arc<KvClient>,
        start_ts: TimeStamp,
        is_pessimistic: bool,
    ) -> Transaction {
        let limits = BufferLimits {
            size_bytes_max: client.config.txn_size_bytes_max,
            entry_bytes_max: client.config.entry_size_bytes_max,
        };
        let snapshot = client.snapshot(start_ts);
        Transaction {
            terms: Mutex::new(CommitTerms {
                modes: CommitModes {
                    one_pc: client.config.one_pc,
                    async_commit: client.config.async_commit,
                },
                lease: None,
                assertion_level: AssertionLevel::Off,
            }),
            view: RwLock::new(snapshot.clone()),
            snapshot,
            client,
            start_ts,
            buffer: RwLock::new(MemBuffer::new(limits)),
            locks: is_pessimistic.then(|| Locks::new(start_ts)),
            bulk: None,
            reads: None,
            ended: AtomicBool::new(false),
        }
    }

    /// The transaction happens at one moment, as if alone (SERIALIZABLE): what it reads from here
    /// on is noted, and COMMIT fails with [`KvError::ReadChanged`] if it has changed.
    #[must_use]
    pub fn serializable(mut self) -> Transaction {
        self.reads = Some(Arc::default());
        self.snapshot = self.snapshot.noting(self.reads.clone());
        let view = self.view.get_mut();
        *view = view.clone().noting(self.reads.clone());
        self
    }

    /// The timestamp the transaction began at; its identity.
    pub fn start_ts(&self) -> TimeStamp {
        self.start_ts
    }

    /// Which ways to save a round the commit may use, instead of those that the client's settings
    /// name.
    pub fn set_commit_modes(&self, modes: CommitModes) {
        self.terms.lock().modes = modes;
    }

    /// How hard stores look whether keys are as their writers know them; without it not at all.
    pub fn set_assertion_level(&self, level: AssertionLevel) {
        self.terms.lock().assertion_level = level;
    }

    /// The transaction may only be committed while the lease lasts: it knows something (a schema)
    /// that others may change afterwards.
    pub fn set_commit_lease(&self, lease: CommitLease) {
        self.terms.lock().lease = Some(lease);
    }

    /// A statement begins: what is read from here on, and the wait for locks of a commit,
    /// keeps within its bounds. It asks leaders.
    pub fn enter(&self, scope: RequestScope) {
        let mut view = self.view.write();
        *view = view.clone().within(scope).reading(ReadFrom::default());
    }

    /// The read view below the transaction's own writes, within the bounds of the statement
    /// that runs.
    pub fn snapshot(&self) -> Snapshot {
        self.view.read().clone()
    }

    /// Reads at another timestamp from here on: what one statement sees need not be what the
    /// transaction saw at its start.
    pub fn read_at(&self, read_ts: TimeStamp) {
        let mut view = self.view.write();
        if view.start_ts() == read_ts {
            return;
        }
        let is_start = read_ts == self.start_ts;
        let fresh = if is_start { self.snapshot.clone() } else { self.client.snapshot(read_ts) };
        *view = fresh.noting(self.reads.clone()).within(view.scope().clone());
    }

    /// Reads from these replicas until the next call of [`Transaction::enter`].
    pub fn read_from(&self, from: ReadFrom) {
        let mut view = self.view.write();
        *view = view.clone().reading(from);
    }

    /// A key as this transaction sees it.
    pub async fn get(&self, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        match self.buffered(key) {
            Some(value) => Ok(value),
            None => self.below().get(key).await,
        }
    }

    /// The existing keys of a set as this transaction sees them.
    pub async fn batch_get(&self, keys: &[Bytes]) -> Result<KvMap, KvError> {
        let mut found = KvMap::default();
        let mut below = Vec::new();
        for key in keys {
            match self.buffered(key) {
                Some(Some(value)) => {
                    found.insert(key.clone(), value);
                }
                Some(None) => {}
                None => below.push(key.clone()),
            }
        }
        if !below.is_empty() {
            found.extend(self.below().batch_get(&below).await?);
        }
        Ok(found)
    }

    /// What the transaction's buffer says of a key: `None` when nothing, `Some(None)` when it
    /// removed the key, else the value that it wrote or noted.
    pub fn buffered(&self, key: &[u8]) -> Option<Option<Bytes>> {
        let own = |buffer: &MemBuffer| match &buffer.get(key)?.value {
            BufferedValue::Untouched => None,
            BufferedValue::Put(value) | BufferedValue::Unchanged(value) => {
                Some(Some(value.clone()))
            }
            BufferedValue::Delete => Some(None),
        };
        own(&self.buffer.read()).or_else(|| own(&*self.bulk.as_ref()?.frozen()?))
    }

    /// What the transaction demands of a key.
    pub fn key_flags(&self, key: &[u8]) -> KeyFlags {
        self.buffer.read().get(key).map(|entry| entry.flags).unwrap_or_default()
    }

    /// What [`Transaction::buffered`] says of the keys of a range, in key order (`reverse`: from
    /// its end), at most `limit`. To go on, ask again behind the last key.
    pub fn buffered_range(
        &self,
        range: &KeyRange,
        reverse: bool,
        limit: usize,
    ) -> Vec<BufferedPair> {
        let buffer = self.buffer.read();
        let pair = |(key, entry): (&Bytes, &membuffer::Entry)| {
            let value = match &entry.value {
                BufferedValue::Untouched => return None,
                BufferedValue::Put(value) | BufferedValue::Unchanged(value) => Some(value.clone()),
                BufferedValue::Delete => None,
            };
            Some(BufferedPair { key: key.clone(), value })
        };
        let entries = buffer.range(range);
        if reverse {
            entries.rev().filter_map(pair).take(limit).collect()
        } else {
            entries.filter_map(pair).take(limit).collect()
        }
    }

    /// Writes a value.
    pub fn set(&self, key: Bytes, value: Bytes) -> Result<(), KvError> {
        self.change()?.set(key, value)
    }

    /// Writes a value to a key that must not exist; checked at prewrite, where it
    /// fails with [`KvError::KeyExists`].
    pub fn insert(&self, key: Bytes, value: Bytes) -> Result<(), KvError> {
        self.change()?.insert(key, value)
    }

    /// Writes a value to a key that exists or does not, as far as its writer knows; COMMIT fails
    /// with [`KvError::AssertionFailed`] if it finds that wrong.
    pub fn set_asserting(
        &self,
        key: Bytes,
        value: Bytes,
        assertion: Assertion,
    ) -> Result<(), KvError> {
        self.change()?.set_asserting(key, value, assertion)
    }

    /// Removes a key, as [`Transaction::set_asserting`] writes it.
    pub fn delete_asserting(&self, key: Bytes, assertion: Assertion) -> Result<(), KvError> {
        self.change()?.delete_asserting(key, assertion)
    }

    /// Removes a key.
    pub fn delete(&self, key: Bytes) -> Result<(), KvError> {
        self.change()?.delete(key)
    }

    /// Notes that a key holds a value and keeps it: reads of the transaction find it, whatever
    /// its view shows below; commit neither writes nor checks it. Writes to the key go before.
    pub fn note(&self, key: Bytes, value: Bytes) -> Result<(), KvError> {
        self.change()?.note(key, value)
    }

    /// Guards keys against other writers until the end, without writing them.
    pub fn lock_keys(&self, keys: impl IntoIterator<Item = Bytes>) -> Result<(), KvError> {
        let mut buffer = self.change()?;
        keys.into_iter().try_for_each(|key| buffer.lock(key))
    }

    fn change(&self) -> Result<parking_lot::RwLockWriteGuard<'_, MemBuffer>, KvError> {
        if self.has_ended() {
            return Err(KvError::TxnEnded { start_ts: self.start_ts.0 });
        }
        Ok(self.buffer.write())
    }

    /// Whether COMMIT has nothing to do: nothing was written, guarded or locked, and all reads are
    /// of one timestamp where that matters.
    pub fn is_trivial(&self) -> bool {
        let read_ts = self.reads.as_ref().and_then(|reads| reads.read_ts());
        let holds_locks = self.locks.as_ref().is_some_and(Locks::holds_any);
        self.is_read_only()
            && !holds_locks
            && read_ts.is_none_or(|(oldest, newest)| oldest == newest)
    }

    /// Whether nothing was written, noted or locked.
    pub fn is_read_only(&self) -> bool {
        self.buffer.read().is_empty() && !self.has_flushed()
    }

    /// Number of keys written, noted or locked; those that a bulk transaction has flushed count for
    /// each time.
    pub fn len(&self) -> usize {
        let flushed = self.bulk.as_ref().map_or(0, Bulk::keys_flushed);
        self.buffer.read().len() + flushed as usize
    }

    /// Whether [`Transaction::len`] is zero.
    pub fn is_empty(&self) -> bool {
        self.is_read_only()
    }

    /// Bytes of keys written or locked, and of values written, that are in memory.
    pub fn size_bytes(&self) -> u64 {
        let frozen = self.bulk.as_ref().and_then(Bulk::frozen);
        self.buffer.read().size_bytes() + frozen.map_or(0, |frozen| frozen.size_bytes())
    }

    /// For how long the running statement has been asking for locks, blocked or not.
    pub fn locking_for(&self) -> Option<Duration> {
        self.locks.as_ref()?.asking_for()
    }

    /// The first key at or behind `from` that the transaction has written, noted or locked.
    pub fn first_key(&self, from: &[u8]) -> Option<Bytes> {
        let rest = KeyRange { start: Bytes::copy_from_slice(from), end: Bytes::new() };
        let written = self.buffer.read().range(&rest).next().map(|(key, _)| key.clone());
        let held = self.locks.as_ref().and_then(|locks| locks.first_held(from));
        written.into_iter().chain(held).min()
    }

    /// Whether the transaction was committed or rolled back.
    pub fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Makes the writes visible to everybody, all or none.
    ///
    /// [`KvError::UndeterminedCommit`] is the one error after which they may have
    /// become visible; after every other one they have not and never will.
    pub async fn commit(&self) -> Result<CommitInfo, KvError> {
        self.end()?;
        let Some(bulk) = &self.bulk else { return self.commit_buffer().await };
        let info = match bulk.has_flushed() {
            true => self.commit_flushed(bulk).await?,
            false => self.commit_buffer().await?,
        };
        Ok(CommitInfo { flush_wait: Some(bulk.waited()), ..info })
    }

    /// Of a transaction that is in memory as a whole.
    async fn commit_buffer(&self) -> Result<CommitInfo, KvError> {
        if !self.is_read_only() {
            // Records of conflicting writers may have been collected.
            if let Err(error) = self.snapshot.check_visible() {
                self.give_all_back().await;
                return Err(error);
            }
        }
        // A commit has no deadline: what it has begun must end one way or the other.
        let scope = RequestScope { deadline: None, ..self.view.read().scope().clone() };
        let committer = {
            let buffer = self.buffer.read();
            let locks = self.locks.as_ref();
            let (mut terms, reads) = (self.terms.lock().clone(), self.reads.as_deref());
            if self.bulk.is_some() {
                terms.modes = CommitModes::TWO_PHASES;
            }
            let scope = scope.clone();
            Committer::new(self.client.clone(), self.start_ts, &buffer, locks, terms, reads, scope)
        };
        let Some(committer) = committer else {
            let validated = self.validate_reads(scope).await;
            let held = self.hand_in_locks().await;
            return validated.and(held).map(|()| CommitInfo::NOTHING);
        };
        let outcome = Arc::new(committer).run().await;
        if let Some(locks) = &self.locks {
            // What was held has become part of the commit, or of its rollback.
            self.give_back(locks.give_unsure_back()).await;
        }
        outcome
    }

    /// Of a transaction without writes: whether all it has read was so at one moment, the newest
    /// that it has read at. Locks may have been lost meanwhile, so they say nothing here.
    async fn validate_reads(&self, scope: RequestScope) -> Result<(), KvError> {
        let Some(reads) = &self.reads else { return Ok(()) };
        let Some((_, newest)) = reads.read_ts() else { return Ok(()) };
        let (client, start_ts) = (self.client.clone(), self.start_ts);
        Refresh { client, start_ts, spans: reads.all(), scope }.run(newest).await
    }

    /// Forgets the writes and gives the locks back.
    pub async fn rollback(&self) -> Result<(), KvError> {
        self.end()?;
        self.give_all_back().await;
        if let Some(bulk) = &self.bulk {
            self.undo_flushed(bulk).await;
        }
        Ok(())
    }

    async fn give_all_back(&self) {
        if let Some(locks) = &self.locks {
            self.give_back(locks.give_all_back()).await;
        }
    }

    fn end(&self) -> Result<(), KvError> {
        if self.ended.swap(true, Ordering::AcqRel) {
            return Err(KvError::TxnEnded { start_ts: self.start_ts.0 });
        }
        Ok(())
    }
}
