//! Narrow traits over storage engines: RocksDB, the Raft log, and their in-memory twins.
//!
//! A store keeps its data in a [`KvEngine`] and its Raft entries in a [`RaftLog`].
//! Everything above this crate holds `Arc<dyn …>` of the two, so that tests and
//! the simulation run on [`MemoryEngine`] and [`MemoryRaftLog`] while production
//! runs on [`RocksEngine`] and [`RaftEngineLog`]. Differential tests hold the
//! twins equal. What Raft groups of stores and of placement drivers both stand on lies
//! here too: the [`raft_guard`] before the library.
//!
//! **Invariants**
//! - A [`WriteBatch`] is applied whole or not at all, also across a crash.
//! - A write is durable after `sync` (or a later [`KvEngine::sync_wal`]); of the
//!   writes since, a crash keeps a prefix in write order.
//! - An [`EngineSnapshot`] and every iterator made from it see the same state, and
//!   keep the engine open for as long as they live.
//! - Decoders return errors for random bytes; they never panic.

pub mod batch;
mod error;
mod garbage;
pub mod memory;
pub mod raft_guard;
pub mod raft_log;
pub mod rocks;
mod sorted_file;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

pub use batch::{WriteBatch, WriteOp};
pub use error::EngineError;
pub use garbage::{FilterRun, GarbageFilter};
pub use memory::MemoryEngine;
pub use raft_log::{
    LogBatch, LogOp, LogWatcher, MemoryRaftLog, RaftEngineLog, RaftEngineOptions, RaftLocalState,
    RaftLog, WatchedLog,
};
pub use rocks::{RocksEngine, RocksOptions};
pub use sorted_file::{FilePlan, SortedFile};

/// What every operation of this crate answers.
pub type Result<T> = std::result::Result<T, EngineError>;

/// Column families of a data engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cf {
    /// Long values, and the store's own state.
    Default,
    /// Percolator locks.
    Lock,
    /// Commit records, with short values inline.
    Write,
}

impl Cf {
    /// All of them, in the order of their wire numbers.
    pub const ALL: [Cf; 3] = [Cf::Default, Cf::Lock, Cf::Write];

    /// Name in RocksDB and in tools.
    pub fn name(self) -> &'static str {
        match self {
            Cf::Default => "default",
            Cf::Lock => "lock",
            Cf::Write => "write",
        }
    }

    /// Number in encoded batches and Raft snapshots; never changes its meaning.
    pub fn to_u8(self) -> u8 {
        match self {
            Cf::Default => 0,
            Cf::Lock => 1,
            Cf::Write => 2,
        }
    }

    /// The inverse of [`Cf::to_u8`].
    pub fn from_u8(number: u8) -> Option<Cf> {
        Cf::ALL.get(usize::from(number)).copied()
    }
}

/// Bytes of the timestamp that ends every key of the CFs `default` and `write`.
///
/// Iterators with [`IterOptions::prefix_same_as_start`] treat a key without
/// them as its prefix.
pub const TS_SUFFIX_BYTES: usize = 8;

/// First byte of every data key; only data keys have a prefix.
pub const DATA_PREFIX: u8 = b'z';

/// The part of a key that all versions of one row share, or `None` for keys
/// that hold no timestamp (store-local state, locks are never asked).
pub fn version_prefix(key: &[u8]) -> Option<&[u8]> {
    if key.first() == Some(&DATA_PREFIX) && key.len() > TS_SUFFIX_BYTES {
        Some(&key[..key.len() - TS_SUFFIX_BYTES])
    } else {
        None
    }
}

/// How an iterator walks.
#[derive(Clone, Debug, Default)]
pub struct IterOptions {
    /// First key the iterator may show.
    pub lower: Option<Bytes>,
    /// First key it may not show any more.
    pub upper: Option<Bytes>,
    /// Only versions of the row that is sought: after `seek(key)` the iterator
    /// ends where [`version_prefix`] changes. Lets bloom filters spare reads.
    /// Only `seek` and `next` are allowed then.
    pub prefix_same_as_start: bool,
    /// Do not fill the block cache (large scans that are read once).
    pub skip_cache: bool,
}

impl IterOptions {
    /// Walks `[lower, upper)`.
    pub fn range(lower: impl Into<Bytes>, upper: impl Into<Bytes>) -> IterOptions {
        IterOptions {
            lower: Some(lower.into()),
            upper: Some(upper.into()),
            ..IterOptions::default()
        }
    }
}

/// An ordered, durable, atomic map per column family.
pub trait KvEngine: Send + Sync + 'static {
    /// A consistent view of every column family at this moment.
    fn snapshot(&self) -> Arc<dyn EngineSnapshot>;

    /// Applies the batch atomically; with `sync` it is durable on return.
    fn write(&self, batch: WriteBatch, sync: bool) -> Result<()>;

    /// The newest value of a key.
    fn get(&self, cf: Cf, key: &[u8]) -> Result<Option<Bytes>>;

    /// Makes every write so far durable.
    fn sync_wal(&self) -> Result<()>;

    /// Bytes in `[start, end)` over all column families, roughly.
    fn approximate_size(&self, start: &[u8], end: &[u8]) -> u64;

    /// Drops whole files inside `[start, end)`; a hint that frees disk quickly.
    /// Keys may survive: delete them as well.
    fn delete_files_in_range(&self, start: &[u8], end: &[u8]) -> Result<()>;

    /// Writes memtables to files.
    fn flush(&self) -> Result<()>;

    /// Bytes the engine occupies.
    fn disk_usage(&self) -> u64;

    /// Number of the newest write that views taken from now on show.
    fn sequence(&self) -> u64;

    /// A view that shows, at every single call, the newest state: what point reads that
    /// need no common moment for several keys use. Cheaper than
    /// [`KvEngine::snapshot`], since nothing has to be held for it.
    fn live(&self) -> Arc<dyn EngineSnapshot> {
        self.snapshot()
    }

    /// Writes the entries that the cursor shows, from where it stands on, into a new
    /// file for [`KvEngine::ingest`]. Ends with the cursor or when the file is full; the
    /// cursor then shows the first entry left out. `None` (and no file) without an entry.
    fn write_file(
        &self,
        cf: Cf,
        plan: &mut FilePlan<'_>,
        entries: &mut dyn EngineIterator,
    ) -> Result<Option<SortedFile>>;

    /// Takes in files of [`KvEngine::write_file`] that do not overlap each other; their
    /// entries hide older ones of the same keys. Durable on return. The files stay where
    /// they are, so that it can be done again after a crash.
    fn ingest(&self, cf: Cf, files: &[PathBuf]) -> Result<()>;

    /// How near the engine is to holding up writes.
    fn pressure(&self) -> Pressure {
        Pressure::default()
    }

    /// Rewrites the files of `[start, end)`, the lowest ones too, so that deleted and hidden
    /// entries and garbage go. Takes long; reads and writes go on.
    fn compact_range(&self, start: &[u8], end: &[u8]) -> Result<()>;

    /// Gives compactions a say in what is garbage; once per engine.
    fn set_garbage_filter(&self, filter: Arc<dyn GarbageFilter>);

    /// Files that were found damaged since the last call, by whatever read.
    fn take_damage(&self) -> Vec<DamagedFile> {
        Vec::new()
    }

    /// Removes a damaged file with all it holds, so that no compaction comes upon it. What
    /// its range held is lost here.
    fn drop_damaged(&self, _file: &DamagedFile) -> Result<()> {
        Ok(())
    }

    /// Lets go of what is only kept for speed and was not used lately.
    fn tidy(&self) {}

    /// Counters and sizes by name, for exposition.
    fn statistics(&self) -> Vec<(&'static str, u64)> {
        Vec::new()
    }
}

/// A file of the engine whose content does not match its checksums. Of a file of long values
/// the keys are those of one value that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DamagedFile {
    /// Its column family.
    pub cf: Cf,
    /// First key it may hold.
    pub first_key: Bytes,
    /// Last key it may hold.
    pub last_key: Bytes,
    /// What the engine said.
    pub reason: String,
}

/// How much work of the engine is waiting, against the points at which it would hold up
/// writes by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Pressure {
    /// Files of the top level, in the column family that has most.
    pub top_files: u64,
    /// Memtables waiting to be written out, in the column family that has most.
    pub waiting_memtables: u64,
    /// Bytes that compaction should rewrite.
    pub compaction_debt_bytes: u64,
    /// 0: nothing waits; 1: the engine is about to hold up writes. The worst of the above.
    pub level: f64,
    /// The engine holds up writes now.
    pub is_stopped: bool,
}

/// A frozen view of an engine.
pub trait EngineSnapshot: Send + Sync {
    /// Number of the newest write that the view shows; 0 for one that always shows the
    /// newest state.
    fn sequence(&self) -> u64;

    /// Value of a key in the view.
    fn get(&self, cf: Cf, key: &[u8]) -> Result<Option<Bytes>>;

    /// An iterator over one column family; it is positioned nowhere yet.
    fn iter(&self, cf: Cf, options: IterOptions) -> Box<dyn EngineIterator + Send>;
}

/// A cursor over one column family. Every positioning answers whether the
/// cursor now shows an entry.
pub trait EngineIterator {
    /// First entry at or after `key`.
    fn seek(&mut self, key: &[u8]) -> Result<bool>;
    /// Last entry at or before `key`.
    fn seek_for_prev(&mut self, key: &[u8]) -> Result<bool>;
    /// First entry within bounds.
    fn seek_to_first(&mut self) -> Result<bool>;
    /// Last entry within bounds.
    fn seek_to_last(&mut self) -> Result<bool>;
    /// Next entry; only on a valid cursor.
    fn next(&mut self) -> Result<bool>;
    /// Previous entry; only on a valid cursor.
    fn prev(&mut self) -> Result<bool>;
    /// Whether the cursor shows an entry.
    fn valid(&self) -> bool;
    /// Key of the entry shown; empty when not valid.
    fn key(&self) -> &[u8];
    /// Value of the entry shown; empty when not valid.
    fn value(&self) -> &[u8];
    /// Key and value of the entry shown, for less than one after the other costs.
    fn entry(&self) -> (&[u8], &[u8]) {
        (self.key(), self.value())
    }
}
