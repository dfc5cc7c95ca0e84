//! What a store's Raft snapshots share: the folder, the rate, the number of transfers.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use cairn_engine::KvEngine;
use cairn_proto::{kv, meta};
use parking_lot::Mutex;

use super::build::{self, SnapshotFiles};
use super::receive::FileSpool;
use crate::keys;
use crate::raftstore::clock::{Clock, MonotonicTime};
use crate::raftstore::error::RaftStoreError;
use crate::raftstore::space::{SpaceLevel, SpaceWatch};
use crate::raftstore::store::OutgoingSnapshot;
use crate::raftstore::threads;

/// Unused rate is saved up for so long: short pauses of a transfer cost nothing, and a
/// long idle time does not become a burst.
const SAVED_UP: Duration = Duration::from_millis(100);
/// One wait is not longer, so that a store that stops is not held up.
const WAIT_MAX: Duration = Duration::from_secs(1);
/// Room that must be left on the receiver's disk for a byte of data: the files, and
/// compaction that merges them.
const ROOM_FACTOR: u64 = 2;

/// Bounds of the transfers of one store.
#[derive(Clone, Debug)]
pub struct SnapshotLimits {
    /// Where files are built and received; none keeps snapshots in memory.
    pub dir: Option<PathBuf>,
    /// Bytes per second that are built and sent, over all transfers; 0 = unlimited.
    pub bytes_per_second: u64,
    /// Transfers received at one time.
    pub receives_max: usize,
}

/// Keeps bytes below a rate; whoever takes waits for those who took before.
pub struct Pace {
    clock: Arc<dyn Clock>,
    bytes_per_second: u64,
    /// When everything taken so far will have been paid for.
    paid_until: Mutex<MonotonicTime>,
}

impl Pace {
    /// At most so many bytes per second; 0 = unlimited.
    pub fn new(clock: Arc<dyn Clock>, bytes_per_second: u64) -> Pace {
        Pace { clock, bytes_per_second, paid_until: Mutex::new(MonotonicTime(0)) }
    }

    /// Takes bytes; answers how long to wait for them.
    pub fn take(&self, bytes: u64) -> Duration {
        if self.bytes_per_second == 0 {
            return Duration::ZERO;
        }
        let now = self.clock.now();
        let cost = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
        let mut paid_until = self.paid_until.lock();
        let saved = now.0.saturating_sub(SAVED_UP.as_nanos() as u64);
        *paid_until = MonotonicTime(paid_until.0.max(saved)).plus(cost);
        paid_until.since(now).min(WAIT_MAX)
    }

    /// Takes bytes and waits; only on a thread that may block.
    pub(super) fn wait(&self, bytes: u64) {
        let wait = self.take(bytes);
        if !wait.is_zero() {
            threads::pause(wait);
        }
    }
}

/// A place among the transfers that come in.
pub(super) struct ReceiveSlot {
    taken: Arc<AtomicUsize>,
}

impl Drop for ReceiveSlot {
    fn drop(&mut self) {
        self.taken.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The snapshots of one store, in both directions.
pub struct SnapshotRoom {
    kv: Arc<dyn KvEngine>,
    limits: SnapshotLimits,
    space: Arc<SpaceWatch>,
    pace: Pace,
    receiving: Arc<AtomicUsize>,
    /// Makes names of folders unique.
    folders: AtomicU64,
}

impl SnapshotRoom {
    /// A room for the store's engine.
    pub fn new(
        kv: Arc<dyn KvEngine>,
        limits: SnapshotLimits,
        space: Arc<SpaceWatch>,
        clock: Arc<dyn Clock>,
    ) -> SnapshotRoom {
        let pace = Pace::new(clock, limits.bytes_per_second);
        SnapshotRoom {
            kv,
            limits,
            space,
            pace,
            receiving: Arc::default(),
            folders: AtomicU64::new(0),
        }
    }

    /// Whether snapshots pass through files.
    pub fn uses_files(&self) -> bool {
        self.limits.dir.is_some()
    }

    /// How long to wait before so many bytes are sent.
    pub fn pace(&self, bytes: u64) -> Duration {
        self.pace.take(bytes)
    }

    /// What the region may take on the wire, roughly.
    pub fn approximate_bytes(&self, region: &meta::Region) -> u64 {
        let (start, end) = keys::region_data_range(region);
        self.kv.approximate_size(&start, &end)
    }

    /// Why a snapshot of this size would not be taken now, if so.
    pub fn refusal(&self, bytes: u64) -> Option<String> {
        if self.receiving.load(Ordering::SeqCst) >= self.limits.receives_max {
            return Some(format!("{} snapshots are coming in", self.limits.receives_max));
        }
        if self.space.level() != SpaceLevel::Normal {
            return Some("the disk is almost full".to_owned());
        }
        let space = self.space.space();
        let is_known = space.capacity_bytes > 0;
        if is_known && bytes.saturating_mul(ROOM_FACTOR) > space.available_bytes {
            return Some(format!("{} bytes are free", space.available_bytes));
        }
        None
    }

    /// Files of the snapshot. Takes long the first time: only on a thread that may block.
    pub fn build(&self, snapshot: &OutgoingSnapshot) -> Result<Arc<SnapshotFiles>, RaftStoreError> {
        snapshot.shared.get_or_build(|| {
            let folder = self.new_folder("out", snapshot.region.id)?;
            let view = snapshot.engine.as_ref();
            build::build(self.kv.as_ref(), view, &snapshot.region, &folder, &self.pace)
        })
    }

    /// Begins to take in files.
    pub fn receive(
        &self,
        region: &meta::Region,
        manifest: kv::SnapshotManifest,
    ) -> Result<FileSpool, RaftStoreError> {
        let bytes = manifest.files.iter().map(|file| file.size_bytes).fold(0, u64::saturating_add);
        if let Some(refusal) = self.refusal(bytes) {
            return Err(RaftStoreError::Raft(refusal));
        }
        let before = self.receiving.fetch_add(1, Ordering::SeqCst);
        let slot = ReceiveSlot { taken: self.receiving.clone() };
        if before >= self.limits.receives_max {
            return Err(RaftStoreError::Raft("too many snapshots are coming in".to_owned()));
        }
        FileSpool::new(self.new_folder("in", region.id)?, manifest, region, slot)
    }

    fn new_folder(&self, direction: &str, region_id: u64) -> Result<PathBuf, RaftStoreError> {
        let dir = self.limits.dir.as_ref();
        let dir = dir.ok_or(RaftStoreError::Corrupted("no folder for raft snapshots"))?;
        let number = self.folders.fetch_add(1, Ordering::Relaxed);
        Ok(dir.join(format!("{direction}-{region_id}-{number}")))
    }
}
