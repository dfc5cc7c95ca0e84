//! Snapshots and iterators that own their database: the only unsafe code here.
//!
//! The binding ties a snapshot to a borrow of the database. Ours are handed to
//! other threads and outlive every borrow, so they hold an `Arc` of the database
//! and a reference whose lifetime the compiler cannot follow.
#![allow(unsafe_code)]

use std::sync::Arc;

use rocksdb::{DBRawIteratorWithThreadMode, ReadOptions, SnapshotWithThreadMode};

use super::Db;
use crate::Cf;

/// A RocksDB snapshot with its database.
pub(super) struct OwnedSnapshot {
    // Fields drop in the order of declaration: what borrows goes first.
    point_options: ReadOptions,
    snapshot: SnapshotWithThreadMode<'static, Db>,
    db: Arc<Db>,
}

impl OwnedSnapshot {
    pub(super) fn new(db: Arc<Db>) -> OwnedSnapshot {
        // SAFETY: `db` is kept by the same struct, is never moved out of it and
        // is dropped after `snapshot`; an `Arc`'s content does not move. The
        // `'static` reference never leaves this module.
        let borrowed: &'static Db = unsafe { &*Arc::as_ptr(&db) };
        let snapshot = borrowed.snapshot();
        let mut point_options = ReadOptions::default();
        point_options.set_snapshot(&snapshot);
        OwnedSnapshot { point_options, snapshot, db }
    }

    pub(super) fn db(&self) -> &Db {
        &self.db
    }

    /// Options for point reads at this snapshot, made once.
    pub(super) fn point_options(&self) -> &ReadOptions {
        &self.point_options
    }
}

/// A RocksDB iterator with its snapshot and database.
pub(super) struct OwnedIterator {
    // Fields drop in the order of declaration: what borrows goes first.
    raw: DBRawIteratorWithThreadMode<'static, Db>,
    _snapshot: Arc<OwnedSnapshot>,
}

impl OwnedIterator {
    pub(super) fn new(
        snapshot: Arc<OwnedSnapshot>,
        cf: Cf,
        mut options: ReadOptions,
    ) -> OwnedIterator {
        options.set_snapshot(&snapshot.snapshot);
        // SAFETY: the iterator keeps the snapshot, which keeps the database;
        // `raw` is dropped before both. The reference stays in this struct.
        let db: &'static Db = unsafe { &*Arc::as_ptr(&snapshot.db) };
        let raw = db.raw_iterator_cf_opt(super::handle(db, cf), options);
        OwnedIterator { raw, _snapshot: snapshot }
    }

    pub(super) fn raw(&self) -> &DBRawIteratorWithThreadMode<'static, Db> {
        &self.raw
    }

    pub(super) fn raw_mut(&mut self) -> &mut DBRawIteratorWithThreadMode<'static, Db> {
        &mut self.raw
    }
}
