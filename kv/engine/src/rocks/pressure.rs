//! How far the database is behind, and what it tells about itself.

use rocksdb::properties;

use super::options::{L0_STOP_FILES, MEMTABLES_MAX};
use super::{RocksEngine, files};
use crate::{Cf, Pressure};

impl RocksEngine {
    /// Measured against the points at which RocksDB would stop writes.
    pub(super) fn measure_pressure(&self) -> Pressure {
        let worst = |of: &dyn Fn(Cf) -> u64| Cf::ALL.into_iter().map(of).max().unwrap_or(0);
        let top = properties::num_files_at_level(0);
        let top_files = worst(&|cf| {
            let text = self.db.property_value_cf(super::handle(&self.db, cf), &top);
            text.ok().flatten().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
        });
        let waiting_memtables = worst(&|cf| self.property(cf, properties::NUM_IMMUTABLE_MEM_TABLE));
        let debt = |cf: &Cf| self.property(*cf, properties::ESTIMATE_PENDING_COMPACTION_BYTES);
        let compaction_debt_bytes: u64 = Cf::ALL.iter().map(debt).sum();
        let part = |now: u64, limit: u64| now as f64 / limit.max(1) as f64;
        let level = part(top_files, L0_STOP_FILES as u64)
            // One table of the allowed ones takes writes, the others wait.
            .max(part(waiting_memtables, MEMTABLES_MAX as u64 - 1))
            .max(part(compaction_debt_bytes, self.options.pending_compaction_limit_bytes));
        Pressure {
            top_files,
            waiting_memtables,
            compaction_debt_bytes,
            level,
            is_stopped: self.property(Cf::Default, properties::IS_WRITE_STOPPED) != 0,
        }
    }

    /// What `/metrics` shows of the engine.
    pub(super) fn gather_statistics(&self) -> Vec<(&'static str, u64)> {
        let sum = |name: &properties::PropName| -> u64 {
            Cf::ALL.into_iter().map(|cf| self.property(cf, name)).sum()
        };
        let pressure = self.measure_pressure();
        let blobs = Cf::ALL.into_iter().map(|cf| self.named_property(cf, files::BLOB_BYTES)).sum();
        vec![
            ("sst_bytes", sum(properties::TOTAL_SST_FILES_SIZE)),
            ("blob_bytes", blobs),
            ("memtable_bytes", sum(properties::CUR_SIZE_ALL_MEM_TABLES)),
            ("table_reader_bytes", sum(properties::ESTIMATE_TABLE_READERS_MEM)),
            ("estimated_keys", sum(properties::ESTIMATE_NUM_KEYS)),
            ("block_cache_bytes", self.property(Cf::Default, properties::BLOCK_CACHE_USAGE)),
            (
                "block_cache_pinned_bytes",
                self.property(Cf::Default, properties::BLOCK_CACHE_PINNED_USAGE),
            ),
            ("block_cache_capacity_bytes", self.options.block_cache_bytes as u64),
            ("l0_files", pressure.top_files),
            ("waiting_memtables", pressure.waiting_memtables),
            ("compaction_debt_bytes", pressure.compaction_debt_bytes),
            (
                "running_compactions",
                self.property(Cf::Default, properties::NUM_RUNNING_COMPACTIONS),
            ),
            ("running_flushes", self.property(Cf::Default, properties::NUM_RUNNING_FLUSHES)),
            ("background_errors", sum(properties::BACKGROUND_ERRORS)),
            ("writes_stopped", u64::from(pressure.is_stopped)),
        ]
    }
}
