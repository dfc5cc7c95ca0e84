//! What a compaction may leave out: the seam between engines and those who know versions.
//!
//! An engine shows a [`GarbageFilter`] the entries of [`Cf::Write`] that it rewrites anyway;
//! garbage costs no writes of its own then.
//!
//! **What an implementation must bear with**
//! - A run sees the entries of *one* compaction in key order. Entries of the same rows
//!   may lie in files that take no part, above and below; entries that are shown may
//!   already be deleted or replaced by what lies above.
//! - What is left out is deleted like any other entry: copies of the same key further down
//!   do not come back. Other keys of the same row, further down, stay.
//! - Views taken before do not protect their entries: a filter must be sure that no view
//!   wants them.
//!
//! [`Cf::Write`]: crate::Cf::Write

use std::ffi::CStr;
use std::sync::{Arc, OnceLock};

use rocksdb::CompactionDecision;
use rocksdb::compaction_filter::CompactionFilter;
use rocksdb::compaction_filter_factory::{CompactionFilterContext, CompactionFilterFactory};

/// Knows which commit records nobody needs.
pub trait GarbageFilter: Send + Sync + 'static {
    /// Begins one compaction; `None`: it leaves nothing out.
    fn begin(&self) -> Option<Box<dyn FilterRun>>;
}

/// The filter of one compaction. Dropped at its end.
pub trait FilterRun: Send {
    /// Whether the entry may be left out. Keys come in ascending order.
    fn is_garbage(&mut self, key: &[u8], value: &[u8]) -> bool;
}

/// Where an engine finds its filter once somebody has given it one.
#[derive(Clone, Default)]
pub(crate) struct FilterSlot(Arc<OnceLock<Arc<dyn GarbageFilter>>>);

impl FilterSlot {
    /// The first filter stays.
    pub(crate) fn set(&self, filter: Arc<dyn GarbageFilter>) {
        if self.0.set(filter).is_err() {
            tracing::warn!("the engine has a garbage filter already");
        }
    }

    pub(crate) fn begin(&self) -> Option<Box<dyn FilterRun>> {
        self.0.get()?.begin()
    }
}

/// RocksDB's side of the seam.
pub(crate) struct Factory(pub(crate) FilterSlot);

impl CompactionFilterFactory for Factory {
    type Filter = Run;

    fn create(&mut self, _context: CompactionFilterContext) -> Run {
        Run(self.0.begin())
    }

    fn name(&self) -> &CStr {
        c"cairn.garbage"
    }
}

/// One compaction of RocksDB.
pub(crate) struct Run(Option<Box<dyn FilterRun>>);

impl CompactionFilter for Run {
    fn filter(&mut self, _level: u32, key: &[u8], value: &[u8]) -> CompactionDecision {
        let is_garbage = self.0.as_mut().is_some_and(|run| run.is_garbage(key, value));
        if is_garbage { CompactionDecision::Remove } else { CompactionDecision::Keep }
    }

    fn name(&self) -> &CStr {
        c"cairn.garbage"
    }
}
