//! A view that shows the newest state at every call, and the cursors it keeps for reuse.
//!
//! Making an iterator costs several times as much as one seek with it: every memtable
//! and file of the column family gets a cursor of its own. Point reads by row
//! (`prefix_same_as_start`, no bounds) are alike, so their iterators are kept and
//! brought to the newest state instead, which is cheap as long as no memtable or file was
//! added.
//!
//! **Bounds.** At most [`IDLE_MAX`] iterators wait. One that waits keeps memtables and
//! files alive that the engine has replaced meanwhile, so [`LiveView::tidy`] drops
//! those that nobody used since the last call.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use rocksdb::ReadOptions;

use super::Database;
use super::owned::OwnedIterator;
use super::view::{RocksIterator, native_options};
use crate::{Cf, EngineIterator, EngineSnapshot, IterOptions, Result};

/// As many as threads may read at one time on a large machine.
const IDLE_MAX: usize = 64;

/// Iterators over versions of one row in CF write that wait for use.
#[derive(Default)]
pub(super) struct IdleIterators {
    state: Mutex<Idle>,
}

#[derive(Default)]
struct Idle {
    /// Last in, first out: under little load few stay in use.
    iterators: Vec<(u64, OwnedIterator)>,
    /// Counts calls of `tidy`.
    period: u64,
}

impl IdleIterators {
    fn take(&self) -> Option<OwnedIterator> {
        self.state.lock().iterators.pop().map(|(_, iterator)| iterator)
    }

    pub(super) fn put(&self, iterator: OwnedIterator) {
        let mut state = self.state.lock();
        if state.iterators.len() < IDLE_MAX {
            let period = state.period;
            state.iterators.push((period, iterator));
        }
    }
}

/// See [`crate::KvEngine::live`].
pub(super) struct LiveView {
    db: Arc<Database>,
    point_options: ReadOptions,
    idle: Arc<IdleIterators>,
}

impl LiveView {
    pub(super) fn new(db: Arc<Database>) -> LiveView {
        LiveView { db, point_options: ReadOptions::default(), idle: Arc::default() }
    }

    /// Drops iterators that were not used since the last call.
    pub(super) fn tidy(&self) {
        let mut state = self.idle.state.lock();
        let period = state.period;
        state.period += 1;
        let (kept, old) =
            std::mem::take(&mut state.iterators).into_iter().partition(|(used, _)| *used == period);
        state.iterators = kept;
        drop(state);
        // Freeing memtables takes a while: not under the lock.
        drop::<Vec<(u64, OwnedIterator)>>(old);
    }
}

impl EngineSnapshot for LiveView {
    fn sequence(&self) -> u64 {
        0
    }

    fn get(&self, cf: Cf, key: &[u8]) -> Result<Option<Bytes>> {
        self.db.get(cf, key, &self.point_options)
    }

    fn iter(&self, cf: Cf, options: IterOptions) -> Box<dyn EngineIterator + Send> {
        let is_bounded = options.lower.is_some() || options.upper.is_some();
        if cf != Cf::Write || !options.prefix_same_as_start || is_bounded || options.skip_cache {
            let native = native_options(&options);
            let iterator = OwnedIterator::live(self.db.clone(), cf, native);
            return Box::new(RocksIterator::new(iterator, options.prefix_same_as_start));
        }
        let fresh = self.idle.take().and_then(|mut iterator| {
            // One that cannot be renewed is replaced.
            iterator.refresh().is_ok().then_some(iterator)
        });
        let iterator = fresh
            .unwrap_or_else(|| OwnedIterator::live(self.db.clone(), cf, native_options(&options)));
        Box::new(RocksIterator::new(iterator, true).returning_to(self.idle.clone()))
    }
}
