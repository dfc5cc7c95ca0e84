//! The Raft log on `raft-engine`: one append-only log for all groups.
//!
//! `raft-engine` panics when entries leave a hole or overwrite compacted ones, and
//! release 0.4.2 can panic on reads by a stale index: every access is checked against
//! the group's bounds first. The Raft thread is the only writer.
//!
//! It also keeps the last block read in a thread-local cache that does not know which
//! log the block is of: with two logs in one process (stores of a playground, a log that
//! is opened again) a thread could be given entries of the other one, or "unexpected
//! EOF". So a thread reads one log only; see [`ReadRoom`].
//!
//! **Damage.** A torn tail, as a crash leaves it, is cut off when the log is opened. A
//! record that does not match its checksum with whole ones behind it is an error then:
//! what it held may have been acknowledged.

use std::cell::Cell;
use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use raft::eraftpb::Entry;
use raft_engine::{
    Command, Config, Engine, LogBatch as NativeBatch, MessageExt, ReadableSize, RecoveryMode,
};

use super::{LogBatch, LogOp, RaftLocalState, RaftLog, check_range, next_bounds};
use crate::{EngineError, Result};

const STATE_KEY: &[u8] = b"state";

/// Sizes of the log's files.
#[derive(Clone, Debug)]
pub struct RaftEngineOptions {
    /// A file of this size is closed and a new one begun.
    pub file_bytes: u64,
    /// Old files are cleared once they hold more than this.
    pub purge_threshold_bytes: u64,
    /// Batches beyond this are compressed; small ones cost more than they save.
    pub compression_threshold_bytes: u64,
}

impl Default for RaftEngineOptions {
    fn default() -> RaftEngineOptions {
        const MIB: u64 = 1024 * 1024;
        RaftEngineOptions {
            file_bytes: 64 * MIB,
            purge_threshold_bytes: 1024 * MIB,
            compression_threshold_bytes: MIB / 16,
        }
    }
}

struct EntryExt;

impl MessageExt for EntryExt {
    type Entry = Entry;

    fn index(entry: &Entry) -> u64 {
        entry.index
    }
}

thread_local! {
    /// The log whose entries this thread reads; 0 = none yet.
    static READS_LOG: Cell<u64> = const { Cell::new(0) };
}

/// Numbers logs as they are opened.
static LOGS_OPENED: AtomicU64 = AtomicU64::new(0);

/// Keeps a thread's reads to one log. A thread that already reads another one has its
/// read done by a thread of its own, which is slow but rare: the Raft thread and the
/// background thread of a store know one log only.
struct ReadRoom {
    log: u64,
}

impl ReadRoom {
    fn new() -> ReadRoom {
        ReadRoom { log: LOGS_OPENED.fetch_add(1, Ordering::Relaxed) + 1 }
    }

    fn read<T: Send>(&self, read: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let bound = READS_LOG.with(|log| {
            if log.get() == 0 {
                log.set(self.log);
            }
            log.get() == self.log
        });
        if bound {
            return read();
        }
        std::thread::scope(|scope| {
            let reader = std::thread::Builder::new().name("raft-log-read".to_owned());
            let reader = reader.spawn_scoped(scope, read)?;
            reader.join().map_err(|_| EngineError::RaftLog("a read panicked".to_owned()))?
        })
    }
}

/// A Raft log in a folder.
pub struct RaftEngineLog {
    engine: Engine,
    room: ReadRoom,
    sync_count: AtomicU64,
}

impl RaftEngineLog {
    /// Opens the log in `path`, creating it if there is none.
    pub fn open(path: &Path, options: &RaftEngineOptions) -> Result<RaftEngineLog> {
        std::fs::create_dir_all(path)?;
        let dir = path.to_str().ok_or(EngineError::Io("path is not UTF-8".to_owned()))?;
        let config = Config {
            dir: dir.to_owned(),
            target_file_size: ReadableSize(options.file_bytes),
            purge_threshold: ReadableSize(options.purge_threshold_bytes),
            batch_compression_threshold: ReadableSize(options.compression_threshold_bytes),
            recovery_mode: RecoveryMode::TolerateTailCorruption,
            recovery_threads: 2,
            ..Config::default()
        };
        Ok(RaftEngineLog {
            engine: Engine::open(config)?,
            room: ReadRoom::new(),
            sync_count: AtomicU64::new(0),
        })
    }

    fn native(&self, batch: LogBatch) -> Result<NativeBatch> {
        let mut bounds: HashMap<u64, Option<(u64, u64)>> = HashMap::new();
        let mut native = NativeBatch::with_capacity(batch.ops.len());
        for (region_id, op) in batch.ops {
            let now = bounds.get(&region_id).copied().unwrap_or_else(|| self.bounds(region_id));
            bounds.insert(region_id, next_bounds(region_id, now, &op)?);
            match op {
                LogOp::Append(entries) => native.add_entries::<EntryExt>(region_id, &entries)?,
                LogOp::State(state) => {
                    native.put(region_id, STATE_KEY.to_vec(), state.encode())?;
                }
                LogOp::CompactTo(index) => {
                    native.add_command(region_id, Command::Compact { index });
                }
                LogOp::Clean => native.add_command(region_id, Command::Clean),
            }
        }
        Ok(native)
    }
}

impl RaftLog for RaftEngineLog {
    fn regions(&self) -> Result<Vec<u64>> {
        let mut regions = self.engine.raft_groups();
        regions.sort_unstable();
        Ok(regions)
    }

    fn state(&self, region_id: u64) -> Result<Option<RaftLocalState>> {
        match self.engine.get(region_id, STATE_KEY) {
            Some(bytes) => RaftLocalState::decode(&bytes).map(Some),
            None => Ok(None),
        }
    }

    fn bounds(&self, region_id: u64) -> Option<(u64, u64)> {
        Some((self.engine.first_index(region_id)?, self.engine.last_index(region_id)?))
    }

    fn entries(&self, region_id: u64, low: u64, high: u64, max_bytes: u64) -> Result<Vec<Entry>> {
        if low >= high {
            return Ok(Vec::new());
        }
        check_range(region_id, self.bounds(region_id), low, high)?;
        let max_bytes = usize::try_from(max_bytes).unwrap_or(usize::MAX);
        self.room.read(|| {
            let mut entries = Vec::new();
            self.engine.fetch_entries_to::<EntryExt>(
                region_id,
                low,
                high,
                Some(max_bytes),
                &mut entries,
            )?;
            Ok(entries)
        })
    }

    fn write(&self, batch: LogBatch, sync: bool) -> Result<()> {
        let mut native = self.native(batch)?;
        self.engine.write(&mut native, sync)?;
        if sync {
            self.sync_count.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    fn purge(&self) -> Result<Vec<u64>> {
        // Entries that are still needed are read and written anew.
        self.room.read(|| Ok(self.engine.purge_expired_files()?))
    }

    fn sync_count(&self) -> u64 {
        self.sync_count.load(Ordering::Relaxed)
    }
}
