//! The data engine on RocksDB.
//!
//! **Durability.** The WAL is always written; it is synced only when a caller asks.
//! A store does so before it drops Raft entries, which can replay everything since.

mod damage;
mod files;
mod live;
mod options;
mod owned;
mod pressure;
mod view;

use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use rocksdb::{
    Cache, ColumnFamily, ColumnFamilyDescriptor, DBWithThreadMode, Range, ReadOptions,
    SingleThreaded, WriteOptions, properties,
};

use crate::garbage::{Factory, FilterSlot, GarbageFilter};
use damage::DamageLog;
use live::LiveView;
pub use options::RocksOptions;
use owned::OwnedSnapshot;
use view::RocksSnapshot;

use crate::{
    Cf, DamagedFile, EngineIterator, EngineSnapshot, FilePlan, KvEngine, Pressure, Result,
    SortedFile, WriteBatch, WriteOp,
};

/// Column families are fixed when the database is opened, so finding one takes no lock.
type Db = DBWithThreadMode<SingleThreaded>;

/// A database with what was found out about it.
struct Database {
    db: Db,
    damage: DamageLog,
}

impl Database {
    fn get(&self, cf: Cf, key: &[u8], options: &ReadOptions) -> Result<Option<Bytes>> {
        let found = self.db.get_pinned_cf_opt(handle(&self.db, cf), key, options);
        let value = found.map_err(|error| self.damage.note_read(error, cf, key))?;
        Ok(value.map(|value| Bytes::copy_from_slice(&value)))
    }
}

impl Deref for Database {
    type Target = Db;

    fn deref(&self) -> &Db {
        &self.db
    }
}

/// A data engine in a folder.
pub struct RocksEngine {
    db: Arc<Database>,
    live: Arc<LiveView>,
    unsynced: WriteOptions,
    synced: WriteOptions,
    options: RocksOptions,
    cache: Cache,
    garbage: FilterSlot,
}

impl RocksEngine {
    /// Opens the engine in `path`, creating it if there is none.
    pub fn open(path: &Path, options: &RocksOptions) -> Result<RocksEngine> {
        std::fs::create_dir_all(path)?;
        let cache = Cache::new_hyper_clock_cache(options.block_cache_bytes, 0);
        let garbage = FilterSlot::default();
        let descriptors = Cf::ALL.map(|cf| {
            let mut cf_options = options.cf_options(cf, &cache);
            if cf == Cf::Write {
                cf_options.set_compaction_filter_factory(Factory(garbage.clone()));
            }
            ColumnFamilyDescriptor::new(cf.name(), cf_options)
        });
        let db = Db::open_cf_descriptors(&options.db_options(), path, descriptors)?;
        let db = Arc::new(Database { db, damage: DamageLog::default() });
        let mut synced = WriteOptions::default();
        synced.set_sync(true);
        Ok(RocksEngine {
            live: Arc::new(LiveView::new(db.clone())),
            db,
            unsynced: WriteOptions::default(),
            synced,
            options: options.clone(),
            cache,
            garbage,
        })
    }

    fn property(&self, cf: Cf, name: &properties::PropName) -> u64 {
        self.db.property_int_value_cf(handle(&self.db, cf), name).ok().flatten().unwrap_or(0)
    }

    /// A property that the binding has no constant for.
    fn named_property(&self, cf: Cf, name: &str) -> u64 {
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
        self.db.write_opt(native, options).map_err(|error| self.db.damage.note(error))
    }

    fn get(&self, cf: Cf, key: &[u8]) -> Result<Option<Bytes>> {
        self.live.get(cf, key)
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
        let of = |cf: Cf| {
            self.property(cf, properties::TOTAL_SST_FILES_SIZE)
                + self.property(cf, properties::CUR_SIZE_ALL_MEM_TABLES)
                + self.named_property(cf, files::BLOB_BYTES)
        };
        Cf::ALL.into_iter().map(of).sum()
    }

    fn sequence(&self) -> u64 {
        self.db.latest_sequence_number()
    }

    fn live(&self) -> Arc<dyn EngineSnapshot> {
        self.live.clone()
    }

    fn write_file(
        &self,
        cf: Cf,
        plan: &mut FilePlan<'_>,
        entries: &mut dyn EngineIterator,
    ) -> Result<Option<SortedFile>> {
        files::write(&self.options.cf_options(cf, &self.cache), plan, entries)
    }

    fn ingest(&self, cf: Cf, files: &[PathBuf]) -> Result<()> {
        files::ingest(&self.db, cf, files)
    }

    fn take_damage(&self) -> Vec<DamagedFile> {
        self.db.damage.take(&self.db)
    }

    fn drop_damaged(&self, file: &DamagedFile) -> Result<()> {
        // The last key belongs to the range: the next possible key ends it.
        let mut end = file.last_key.to_vec();
        end.push(0);
        let handle = handle(&self.db, file.cf);
        Ok(self.db.delete_file_in_range_cf(handle, file.first_key.as_ref(), &end)?)
    }

    fn pressure(&self) -> Pressure {
        self.measure_pressure()
    }

    fn compact_range(&self, start: &[u8], end: &[u8]) -> Result<()> {
        files::compact(&self.db, start, end);
        Ok(())
    }

    fn set_garbage_filter(&self, filter: Arc<dyn GarbageFilter>) {
        self.garbage.set(filter);
    }

    fn tidy(&self) {
        self.live.tidy();
    }

    fn statistics(&self) -> Vec<(&'static str, u64)> {
        self.gather_statistics()
    }
}
