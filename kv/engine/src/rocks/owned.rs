//! Snapshots and iterators that own their database: the only unsafe code here.
//!
//! The binding ties a snapshot to a borrow of the database. Ours are handed to
//! other threads and outlive every borrow, so they hold an `Arc` of the database
//! and a reference whose lifetime the compiler cannot follow.
#![allow(unsafe_code)]

use std::sync::Arc;

use rocksdb::{DBRawIteratorWithThreadMode, ReadOptions, SnapshotWithThreadMode};

use super::{Database, Db};
use crate::{Cf, EngineError, Result};

/// A RocksDB snapshot with its database.
pub(super) struct OwnedSnapshot {
    // Fields drop in the order of declaration: what borrows goes first.
    point_options: ReadOptions,
    snapshot: SnapshotWithThreadMode<'static, Db>,
    db: Arc<Database>,
}

impl OwnedSnapshot {
    pub(super) fn new(db: Arc<Database>) -> OwnedSnapshot {
        // SAFETY: `db` is kept by the same struct, is never moved out of it and
        // is dropped after `snapshot`; an `Arc`'s content does not move. The
        // `'static` reference never leaves this module.
        let borrowed: &'static Db = unsafe { &(*Arc::as_ptr(&db)).db };
        let snapshot = borrowed.snapshot();
        let mut point_options = ReadOptions::default();
        point_options.set_snapshot(&snapshot);
        OwnedSnapshot { point_options, snapshot, db }
    }

    pub(super) fn db(&self) -> &Database {
        &self.db
    }

    pub(super) fn sequence(&self) -> u64 {
        self.snapshot.sequence_number()
    }

    /// Options for point reads at this snapshot, made once.
    pub(super) fn point_options(&self) -> &ReadOptions {
        &self.point_options
    }
}

/// A RocksDB iterator with its database, and its snapshot if it has one.
pub(super) struct OwnedIterator {
    // Fields drop in the order of declaration: what borrows goes first.
    raw: DBRawIteratorWithThreadMode<'static, Db>,
    _snapshot: Option<Arc<OwnedSnapshot>>,
    db: Arc<Database>,
}

impl OwnedIterator {
    /// An iterator that shows the snapshot's state.
    pub(super) fn new(
        snapshot: Arc<OwnedSnapshot>,
        cf: Cf,
        mut options: ReadOptions,
    ) -> OwnedIterator {
        options.set_snapshot(&snapshot.snapshot);
        let db = snapshot.db.clone();
        OwnedIterator::open(db, Some(snapshot), cf, options)
    }

    /// An iterator that shows the newest state as of now or of the last `refresh`.
    pub(super) fn live(db: Arc<Database>, cf: Cf, options: ReadOptions) -> OwnedIterator {
        OwnedIterator::open(db, None, cf, options)
    }

    fn open(
        db: Arc<Database>,
        snapshot: Option<Arc<OwnedSnapshot>>,
        cf: Cf,
        options: ReadOptions,
    ) -> OwnedIterator {
        // SAFETY: the iterator keeps the database and the snapshot that `options`
        // names; `raw` is dropped before both. The reference stays in this struct.
        let borrowed: &'static Db = unsafe { &(*Arc::as_ptr(&db)).db };
        let raw = borrowed.raw_iterator_cf_opt(super::handle(borrowed, cf), options);
        OwnedIterator { raw, _snapshot: snapshot, db }
    }

    /// From now on the iterator shows the newest state; it stands nowhere.
    pub(super) fn refresh(&mut self) -> Result<()> {
        Ok(self.raw.refresh()?)
    }

    /// What an error of the iterator means.
    pub(super) fn note(&self, error: rocksdb::Error) -> EngineError {
        self.db.damage.note(error)
    }

    pub(super) fn raw(&self) -> &DBRawIteratorWithThreadMode<'static, Db> {
        &self.raw
    }

    pub(super) fn raw_mut(&mut self) -> &mut DBRawIteratorWithThreadMode<'static, Db> {
        &mut self.raw
    }
}
