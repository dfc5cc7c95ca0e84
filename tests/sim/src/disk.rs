//! A store's disk: engines whose unsynced writes a crash may lose, slow syncs, no space.
//!
//! The engines are the in-memory twins. A crash keeps a random prefix of what was written
//! since the last completed sync, of each engine on its own, as page caches do. A synced
//! write of a store's Raft log is durable only when [`LogWrites::complete_sync`] is called:
//! the store's step waits for the disk before.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use cairn_engine::{
    Cf, EngineError, EngineIterator, EngineSnapshot, FilePlan, GarbageFilter, KvEngine, LogBatch,
    LogWatcher, MemoryEngine, MemoryRaftLog, RaftLog, SortedFile, WatchedLog, WriteBatch,
};
use rand::Rng;

use crate::world::{Dice, World};

/// A sync of a healthy disk, in milliseconds.
const SYNC_MS: (u64, u64) = (0, 3);

/// What outlives a process: its engines, and how its disk behaves.
#[derive(Default)]
pub struct Disk {
    kv: MemoryEngine,
    log: Arc<MemoryRaftLog>,
    slow_ms: AtomicU64,
    slow_apply_ms: AtomicU64,
    full: AtomicBool,
}

impl Disk {
    /// Syncs take so much longer.
    pub fn set_slow_ms(&self, slow_ms: u64) {
        self.slow_ms.store(slow_ms, Ordering::Relaxed);
    }

    /// Steps of apply take so much longer.
    pub fn set_slow_apply_ms(&self, slow_ms: u64) {
        self.slow_apply_ms.store(slow_ms, Ordering::Relaxed);
    }

    /// Time a step of apply waits for its disk now; none while it is fast.
    pub fn apply_time(&self, world: &World) -> Option<Duration> {
        let slow_ms = self.slow_apply_ms.load(Ordering::Relaxed);
        (slow_ms > 0).then(|| world.millis(Dice::Machine, slow_ms / 4, slow_ms))
    }

    /// There is no space left, or there is again.
    pub fn set_full(&self, full: bool) {
        self.full.store(full, Ordering::Relaxed);
    }

    /// Time one sync takes now.
    pub fn sync_time(&self, world: &World) -> Duration {
        let slow_ms = self.slow_ms.load(Ordering::Relaxed);
        world.millis(Dice::Machine, SYNC_MS.0 + slow_ms / 2, SYNC_MS.1 + slow_ms)
    }

    /// Power is lost: of each engine's unsynced writes a prefix stays.
    pub fn crash(&self, world: &World) {
        let (writes, batches) = (self.kv.unsynced_writes(), self.log.unsynced_batches());
        let (kept_writes, kept_batches) = world.roll(Dice::Machine, |rng| {
            // Often everything or nothing: the ends are where mistakes live.
            let mut part = |all: u64| match rng.random_range(0..4) {
                0 => 0,
                1 => all,
                _ => rng.random_range(0..=all),
            };
            (part(writes), part(batches as u64) as usize)
        });
        world.note(format_args!(
            "disk keeps {kept_writes} of {writes} writes, {kept_batches} of {batches} batches"
        ));
        self.kv.crash_keeping(kept_writes);
        self.log.crash_keeping(kept_batches);
    }

    /// A store's engines as one life of its process sees them.
    pub fn open(self: &Arc<Disk>) -> (Arc<DiskEngine>, Arc<DiskLog>) {
        let log = self.open_log(true);
        let is_alive = log.watcher().is_alive.clone();
        let engine = DiskEngine { disk: self.clone(), is_alive };
        (Arc::new(engine), log)
    }

    /// A log alone. Without `defers`, synced writes are durable at once.
    pub fn open_log(self: &Arc<Disk>, defers: bool) -> Arc<DiskLog> {
        let is_alive = Arc::new(AtomicBool::new(true));
        let writes = LogWrites { disk: self.clone(), is_alive, syncs: AtomicU64::new(0), defers };
        Arc::new(DiskLog::new(self.log.clone(), writes))
    }

    /// What the data engine holds now, for checks.
    pub fn engine(&self) -> &MemoryEngine {
        &self.kv
    }

    fn check(&self, is_alive: &AtomicBool) -> cairn_engine::Result<()> {
        if !is_alive.load(Ordering::Relaxed) {
            return Err(EngineError::Io("the process is dead".into()));
        }
        if self.full.load(Ordering::Relaxed) {
            return Err(EngineError::Io("no space left on device".into()));
        }
        Ok(())
    }
}

/// A data engine in one life of its process.
pub struct DiskEngine {
    disk: Arc<Disk>,
    is_alive: Arc<AtomicBool>,
}

impl KvEngine for DiskEngine {
    fn snapshot(&self) -> Arc<dyn EngineSnapshot> {
        self.disk.kv.snapshot()
    }

    fn write(&self, batch: WriteBatch, sync: bool) -> cairn_engine::Result<()> {
        self.disk.check(&self.is_alive)?;
        self.disk.kv.write(batch, sync)
    }

    fn get(&self, cf: Cf, key: &[u8]) -> cairn_engine::Result<Option<Bytes>> {
        self.disk.kv.get(cf, key)
    }

    fn sync_wal(&self) -> cairn_engine::Result<()> {
        self.disk.check(&self.is_alive)?;
        self.disk.kv.sync_wal()
    }

    fn approximate_size(&self, start: &[u8], end: &[u8]) -> u64 {
        self.disk.kv.approximate_size(start, end)
    }

    fn delete_files_in_range(&self, start: &[u8], end: &[u8]) -> cairn_engine::Result<()> {
        self.disk.kv.delete_files_in_range(start, end)
    }

    fn flush(&self) -> cairn_engine::Result<()> {
        self.disk.check(&self.is_alive)?;
        self.disk.kv.flush()
    }

    fn disk_usage(&self) -> u64 {
        self.disk.kv.disk_usage()
    }

    fn sequence(&self) -> u64 {
        self.disk.kv.sequence()
    }

    fn write_file(
        &self,
        cf: Cf,
        plan: &mut FilePlan<'_>,
        entries: &mut dyn EngineIterator,
    ) -> cairn_engine::Result<Option<SortedFile>> {
        self.disk.kv.write_file(cf, plan, entries)
    }

    fn ingest(&self, cf: Cf, files: &[PathBuf]) -> cairn_engine::Result<()> {
        self.disk.check(&self.is_alive)?;
        self.disk.kv.ingest(cf, files)
    }

    fn compact_range(&self, start: &[u8], end: &[u8]) -> cairn_engine::Result<()> {
        self.disk.kv.compact_range(start, end)
    }

    fn set_garbage_filter(&self, filter: Arc<dyn GarbageFilter>) {
        self.disk.kv.set_garbage_filter(filter);
    }
}

/// A Raft log in one life of its process.
pub type DiskLog = WatchedLog<LogWrites>;

/// What becomes of writes to a Raft log in one life of its process.
pub struct LogWrites {
    disk: Arc<Disk>,
    is_alive: Arc<AtomicBool>,
    syncs: AtomicU64,
    defers: bool,
}

impl LogWrites {
    /// The process is gone: what still holds its engines cannot write any more.
    pub fn close(&self) {
        self.is_alive.store(false, Ordering::Relaxed);
    }

    /// The disk has done what was asked: everything written so far is durable.
    pub fn complete_sync(&self) -> cairn_engine::Result<()> {
        self.disk.check(&self.is_alive)?;
        self.disk.log.write(LogBatch::new(), true)
    }
}

impl LogWatcher for LogWrites {
    fn write(&self, log: &dyn RaftLog, batch: LogBatch, sync: bool) -> cairn_engine::Result<()> {
        self.disk.check(&self.is_alive)?;
        log.write(batch, sync && !self.defers)?;
        self.syncs.fetch_add(u64::from(sync), Ordering::Relaxed);
        Ok(())
    }

    fn sync_count(&self, _: &dyn RaftLog) -> u64 {
        self.syncs.load(Ordering::Relaxed)
    }
}
