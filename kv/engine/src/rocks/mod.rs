//! The data engine on RocksDB.
//!
//! **Durability.** The WAL is always written; it is synced only when a caller asks.
//! A store does so before it drops Raft entries, which can replay everything since.

mod options;
mod owned;

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use rocksdb::{
    Cache, ColumnFamily, ColumnFamilyDescriptor, DBWithThreadMode, Range, ReadOptions,
    SingleThreaded, WriteOptions, properties,
};

pub use options::RocksOptions;
use owned::{OwnedIterator, OwnedSnapshot};

use crate::{
    Cf, EngineError, EngineIterator, EngineSnapshot, IterOptions, KvEngine, Result, WriteBatch,
    WriteOp,
};

/// Column families are fixed when the database is opened, so finding one takes no lock.
type Db = DBWithThreadMode<SingleThreaded>;

/// A data engine in a folder.
pub struct RocksEngine {
    db: Arc<Db>,
    unsynced: WriteOptions,
    synced: WriteOptions,
    pending_compaction_limit_bytes: u64,
}

impl RocksEngine {
    /// Opens the engine in `path`, creating it if there is none.
    pub fn open(path: &Path, options: &RocksOptions) -> Result<RocksEngine> {
        std::fs::create_dir_all(path)?;
        let cache = Cache::new_hyper_clock_cache(options.block_cache_bytes, 0);
        let descriptors = Cf::ALL
            .map(|cf| ColumnFamilyDescriptor::new(cf.name(), options.cf_options(cf, &cache)));
        let db = Db::open_cf_descriptors(&options.db_options(), path, descriptors)?;
        let mut synced = WriteOptions::default();
        synced.set_sync(true);
        Ok(RocksEngine {
            db: Arc::new(db),
            unsynced: WriteOptions::default(),
            synced,
            pending_compaction_limit_bytes: options.pending_compaction_limit_bytes,
        })
    }

    fn property(&self, cf: Cf, name: &properties::PropName) -> u64 {
        self.db.property_int_value_cf(handle(&self.db, cf), name).ok().flatten().unwrap_or(0)
    }
}

fn handle(db: &Db, cf: Cf) -> &ColumnFamily {
    db.cf_handle(cf.name()).expect("every column family is opened with the database")
}

impl KvEngine for RocksEngine {
    fn snapshot(&self) -> Arc<dyn EngineSnapshot> {
        Arc::new(RocksSnapshot { inner: Arc::new(OwnedSnapshot::new(self.db.clone())) })
    }

    fn write(&self, batch: WriteBatch, sync: bool) -> Result<()> {
        let mut native = rocksdb::WriteBatch::default();
        for op in batch.ops() {
            match op {
                WriteOp::Put { cf, key, value } => native.put_cf(handle(&self.db, *cf), key, value),
                WriteOp::Delete { cf, key } => native.delete_cf(handle(&self.db, *cf), key),
                WriteOp::DeleteRange { cf, start, end } if start < end => {
                    native.delete_range_cf(handle(&self.db, *cf), start, end);
                }
                WriteOp::DeleteRange { .. } => {}
            }
        }
        let options = if sync { &self.synced } else { &self.unsynced };
        Ok(self.db.write_opt(native, options)?)
    }

    fn get(&self, cf: Cf, key: &[u8]) -> Result<Option<Bytes>> {
        let value = self.db.get_pinned_cf(handle(&self.db, cf), key)?;
        Ok(value.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn sync_wal(&self) -> Result<()> {
        Ok(self.db.flush_wal(true)?)
    }

    fn approximate_size(&self, start: &[u8], end: &[u8]) -> u64 {
        if start >= end {
            return 0;
        }
        let size = |cf: Cf| -> u64 {
            let ranges = [Range::new(start, end)];
            self.db.get_approximate_sizes_cf(handle(&self.db, cf), &ranges).iter().sum()
        };
        Cf::ALL.into_iter().map(size).sum()
    }

    fn delete_files_in_range(&self, start: &[u8], end: &[u8]) -> Result<()> {
        for cf in Cf::ALL {
            self.db.delete_file_in_range_cf(handle(&self.db, cf), start, end)?;
        }
        Ok(())
    }

    fn flush(&self) -> Result<()> {
        let handles = Cf::ALL.map(|cf| handle(&self.db, cf));
        let references: Vec<&&ColumnFamily> = handles.iter().collect();
        Ok(self.db.flush_cfs_opt(&references, &rocksdb::FlushOptions::default())?)
    }

    fn disk_usage(&self) -> u64 {
        Cf::ALL
            .into_iter()
            .map(|cf| {
                self.property(cf, properties::TOTAL_SST_FILES_SIZE)
                    + self.property(cf, properties::CUR_SIZE_ALL_MEM_TABLES)
            })
            .sum()
    }

    fn write_stall(&self) -> Option<&'static str> {
        if self.property(Cf::Default, properties::IS_WRITE_STOPPED) != 0 {
            return Some("RocksDB stopped writes");
        }
        let debt: u64 = Cf::ALL
            .into_iter()
            .map(|cf| self.property(cf, properties::ESTIMATE_PENDING_COMPACTION_BYTES))
            .sum();
        (debt > self.pending_compaction_limit_bytes).then_some("compaction debt")
    }
}

struct RocksSnapshot {
    inner: Arc<OwnedSnapshot>,
}

impl EngineSnapshot for RocksSnapshot {
    fn get(&self, cf: Cf, key: &[u8]) -> Result<Option<Bytes>> {
        let db = self.inner.db();
        let value = db.get_pinned_cf_opt(handle(db, cf), key, self.inner.point_options())?;
        Ok(value.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn iter(&self, cf: Cf, options: IterOptions) -> Box<dyn EngineIterator + Send> {
        let mut native = ReadOptions::default();
        if let Some(lower) = &options.lower {
            native.set_iterate_lower_bound(lower.to_vec());
        }
        if let Some(upper) = &options.upper {
            native.set_iterate_upper_bound(upper.to_vec());
        }
        native.set_prefix_same_as_start(options.prefix_same_as_start);
        native.set_total_order_seek(!options.prefix_same_as_start);
        native.fill_cache(!options.skip_cache);
        Box::new(RocksIterator {
            iterator: OwnedIterator::new(self.inner.clone(), cf, native),
            within_prefix: options.prefix_same_as_start,
            prefix: Vec::new(),
            has_prefix: false,
            valid: false,
        })
    }
}

struct RocksIterator {
    iterator: OwnedIterator,
    within_prefix: bool,
    /// What `seek` was given, without its timestamp; our own check keeps the
    /// meaning in column families whose files have no prefix filter.
    prefix: Vec<u8>,
    has_prefix: bool,
    valid: bool,
}

impl RocksIterator {
    fn settle(&mut self) -> Result<bool> {
        let raw = self.iterator.raw();
        self.valid = raw.valid();
        if !self.valid {
            raw.status()?;
        } else if self.has_prefix {
            self.valid = raw
                .key()
                .and_then(crate::version_prefix)
                .is_some_and(|prefix| prefix == self.prefix.as_slice());
        }
        Ok(self.valid)
    }

    fn total_order(&self, what: &'static str) -> Result<()> {
        if self.within_prefix { Err(EngineError::Unsupported(what)) } else { Ok(()) }
    }
}

impl EngineIterator for RocksIterator {
    fn seek(&mut self, key: &[u8]) -> Result<bool> {
        if self.within_prefix {
            self.prefix.clear();
            let prefix = crate::version_prefix(key);
            self.has_prefix = prefix.is_some();
            self.prefix.extend_from_slice(prefix.unwrap_or_default());
        }
        self.iterator.raw_mut().seek(key);
        self.settle()
    }

    fn seek_for_prev(&mut self, key: &[u8]) -> Result<bool> {
        self.total_order("walking back within a prefix")?;
        self.iterator.raw_mut().seek_for_prev(key);
        self.settle()
    }

    fn seek_to_first(&mut self) -> Result<bool> {
        self.total_order("first entry of an unknown prefix")?;
        self.iterator.raw_mut().seek_to_first();
        self.settle()
    }

    fn seek_to_last(&mut self) -> Result<bool> {
        self.total_order("walking back within a prefix")?;
        self.iterator.raw_mut().seek_to_last();
        self.settle()
    }

    fn next(&mut self) -> Result<bool> {
        if !self.valid {
            return Ok(false);
        }
        self.iterator.raw_mut().next();
        self.settle()
    }

    fn prev(&mut self) -> Result<bool> {
        self.total_order("walking back within a prefix")?;
        if !self.valid {
            return Ok(false);
        }
        self.iterator.raw_mut().prev();
        self.settle()
    }

    fn valid(&self) -> bool {
        self.valid
    }

    fn key(&self) -> &[u8] {
        if self.valid { self.iterator.raw().key().unwrap_or_default() } else { &[] }
    }

    fn value(&self) -> &[u8] {
        if self.valid { self.iterator.raw().value().unwrap_or_default() } else { &[] }
    }
}
