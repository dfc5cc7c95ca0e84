//! Every setting of RocksDB that Cairn chooses, in one place with its reason.
//!
//! Sources: RocksDB tuning guide; `set_memtable_prefix_bloom_ratio` and the suffix
//! extractor follow the way MVCC keys are read (one row, newest version first).
//! Figures beside a setting are of `kv/examples/mvcc_bench.rs` with data in files.

use rocksdb::{
    BlockBasedOptions, Cache, DBCompressionType, LogLevel, Options, SliceTransform,
    WriteBufferManager,
};

use crate::{Cf, version_prefix};

const MIB: usize = 1024 * 1024;

/// Memtables of one column family, written to and waiting; RocksDB stops writes above.
pub(super) const MEMTABLES_MAX: i32 = 8;
/// Files of the top level at which compaction starts.
const L0_COMPACTION_FILES: i32 = 4;
/// The store slows its clients down long before; these are RocksDB's own last resort,
/// set so high that its sudden brakes never come first (TiKV RFC 0067).
const L0_SLOWDOWN_FILES: i32 = 40;
pub(super) const L0_STOP_FILES: i32 = 60;
/// Values of this size are stored apart from their keys, so that compaction of keys does
/// not copy them again and again.
const BLOB_VALUE_BYTES: u64 = 32 * 1024;
/// A file with so many deletions among so many neighbouring entries is compacted soon:
/// whoever reads a queue's head would step over all of them.
const DELETIONS_WINDOW: usize = 4096;
const DELETIONS_TRIGGER: usize = 2048;
/// The same for a whole file, as a part of its entries.
const DELETIONS_PART: f64 = 0.5;
/// Refill period of the rate limiter: short, so that nobody sleeps long.
const RATE_REFILL_US: i64 = 50_000;
/// How often compactions go before flushes all the same, one in so many.
const RATE_FAIRNESS: i32 = 10;

/// Sizes and counts; the defaults suit a store on a small machine.
#[derive(Clone, Debug)]
pub struct RocksOptions {
    /// Uncompressed blocks, indexes and filters of all column families.
    pub block_cache_bytes: usize,
    /// Memtables of all column families together.
    pub memtable_total_bytes: usize,
    /// One memtable of `default` and `write`; `lock` takes a quarter.
    pub write_buffer_bytes: usize,
    /// A WAL that grows beyond this makes old memtables flush, so that a
    /// restart replays little.
    pub wal_total_bytes: u64,
    /// Threads that flush and compact.
    pub background_jobs: i32,
    /// File handles kept open.
    pub max_open_files: i32,
    /// Compaction debt at which the store should refuse new writes.
    pub pending_compaction_limit_bytes: u64,
    /// What flushes and compactions may write per second at most; the limit follows
    /// their need below it, so that they do not come in bursts. After a rest it is a
    /// twentieth, and then grows by a twentieth every five seconds only: that first limit must
    /// be more than a bulk load writes, or memtables pile up until the engine stops.
    /// 0 = no limit.
    pub background_io_bytes_per_second: u64,
}

impl Default for RocksOptions {
    fn default() -> RocksOptions {
        RocksOptions {
            block_cache_bytes: 512 * MIB,
            memtable_total_bytes: 256 * MIB,
            write_buffer_bytes: 64 * MIB,
            wal_total_bytes: 512 * MIB as u64,
            background_jobs: 2,
            max_open_files: 4096,
            pending_compaction_limit_bytes: 64 * 1024 * MIB as u64,
            background_io_bytes_per_second: 10 * 1024 * MIB as u64,
        }
    }
}

impl RocksOptions {
    /// A small footprint for tests and playgrounds.
    pub fn small() -> RocksOptions {
        RocksOptions {
            block_cache_bytes: 128 * MIB,
            memtable_total_bytes: 96 * MIB,
            write_buffer_bytes: 32 * MIB,
            wal_total_bytes: 128 * MIB as u64,
            ..RocksOptions::default()
        }
    }

    pub(super) fn db_options(&self) -> Options {
        let mut options = Options::default();
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        options.set_max_background_jobs(self.background_jobs);
        options.set_max_open_files(self.max_open_files);
        options.set_max_total_wal_size(self.wal_total_bytes);
        // Unsynced WAL bytes reach the disk steadily, not in one burst at sync.
        options.set_wal_bytes_per_sync(MIB as u64);
        options.set_bytes_per_sync(2 * MIB as u64);
        options.set_recycle_log_file_num(2);
        // One writer thread (apply): pipelining and concurrent memtables only cost.
        options.set_allow_concurrent_memtable_write(false);
        if self.background_io_bytes_per_second > 0 {
            let rate = i64::try_from(self.background_io_bytes_per_second).unwrap_or(i64::MAX);
            options.set_auto_tuned_ratelimiter(rate, RATE_REFILL_US, RATE_FAIRNESS);
        }
        // A reader that lets go of the last use of a file does not pay for its removal.
        options.set_avoid_unnecessary_blocking_io(true);
        // A lost or shortened WAL file is found out at the start instead of being read over.
        options.set_track_and_verify_wals_in_manifest(true);
        options.set_log_level(LogLevel::Warn);
        options.set_keep_log_file_num(4);
        options.set_max_log_file_size(16 * MIB);
        // Memtables are charged to no cache: a scan must not force flushes.
        let manager =
            WriteBufferManager::new_write_buffer_manager(self.memtable_total_bytes, false);
        options.set_write_buffer_manager(&manager);
        options
    }

    pub(super) fn cf_options(&self, cf: Cf, cache: &Cache) -> Options {
        let mut table = BlockBasedOptions::default();
        table.set_block_cache(cache);
        table.set_block_size(16 * 1024);
        table.set_format_version(5);
        table.set_cache_index_and_filter_blocks(true);
        table.set_pin_l0_filter_and_index_blocks_in_cache(true);
        table.set_bloom_filter(10.0, false);

        let mut options = Options::default();
        options.set_compression_per_level(&[
            DBCompressionType::None,
            DBCompressionType::None,
            DBCompressionType::Lz4,
            DBCompressionType::Lz4,
            DBCompressionType::Lz4,
            DBCompressionType::Lz4,
            DBCompressionType::Lz4,
        ]);
        options.set_bottommost_compression_type(DBCompressionType::Zstd);
        options.set_level_compaction_dynamic_level_bytes(true);
        options.set_max_bytes_for_level_base(256 * MIB as u64);
        options.set_target_file_size_base(32 * MIB as u64);
        options.set_max_write_buffer_number(MEMTABLES_MAX);
        options.set_level_zero_file_num_compaction_trigger(L0_COMPACTION_FILES);
        options.set_level_zero_slowdown_writes_trigger(L0_SLOWDOWN_FILES);
        options.set_level_zero_stop_writes_trigger(L0_STOP_FILES);
        let debt = usize::try_from(self.pending_compaction_limit_bytes).unwrap_or(usize::MAX / 4);
        options.set_soft_pending_compaction_bytes_limit(debt.saturating_mul(2));
        options.set_hard_pending_compaction_bytes_limit(debt.saturating_mul(4));
        options.add_compact_on_deletion_collector_factory(
            DELETIONS_WINDOW,
            DELETIONS_TRIGGER,
            DELETIONS_PART,
        );
        match cf {
            // Looked up by full key; holds long values.
            Cf::Default => {
                options.set_write_buffer_size(self.write_buffer_bytes);
                table.set_whole_key_filtering(true);
                options.set_enable_blob_files(true);
                options.set_min_blob_size(BLOB_VALUE_BYTES);
                options.set_blob_compression_type(DBCompressionType::Lz4);
                options.set_enable_blob_gc(true);
            }
            // Small and short-lived: whole-key filters answer "no lock" at once.
            Cf::Lock => {
                options.set_write_buffer_size(self.write_buffer_bytes / 4);
                options.set_memtable_whole_key_filtering(true);
                options.set_memtable_prefix_bloom_ratio(0.1);
                options.set_level_zero_file_num_compaction_trigger(2);
                table.set_whole_key_filtering(true);
            }
            // Sought by (key, newest first): filters hold keys without timestamps.
            Cf::Write => {
                options.set_write_buffer_size(self.write_buffer_bytes);
                options.set_prefix_extractor(SliceTransform::create(
                    "cairn.without-timestamp",
                    without_timestamp,
                    Some(has_timestamp),
                ));
                options.set_memtable_prefix_bloom_ratio(0.1);
                table.set_whole_key_filtering(false);
                // Fewer keys to decode after the binary search: seeks 10 to 17 % faster for
                // a few percent of space; scans are not slower. Smaller blocks slow scans.
                table.set_block_restart_interval(4);
            }
        }
        options.set_block_based_table_factory(&table);
        options
    }
}

fn without_timestamp(key: &[u8]) -> &[u8] {
    version_prefix(key).unwrap_or(key)
}

fn has_timestamp(key: &[u8]) -> bool {
    version_prefix(key).is_some()
}
