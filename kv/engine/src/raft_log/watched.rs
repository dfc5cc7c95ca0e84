//! A Raft log whose writes somebody else carries out, or looks at: syncs are timed, or a
//! simulated disk decides when they are done.

use std::sync::Arc;

use raft::eraftpb::Entry;

use super::{LogBatch, RaftLocalState, RaftLog};
use crate::Result;

/// What stands between a log and those who write to it.
pub trait LogWatcher: Send + Sync + 'static {
    /// Carries out a write to the log beneath.
    fn write(&self, log: &dyn RaftLog, batch: LogBatch, sync: bool) -> Result<()>;

    /// How many syncs were paid for.
    fn sync_count(&self, log: &dyn RaftLog) -> u64 {
        log.sync_count()
    }
}

/// A log with its watcher; reads go straight to the log beneath.
pub struct WatchedLog<W> {
    log: Arc<dyn RaftLog>,
    watcher: W,
}

impl<W: LogWatcher> WatchedLog<W> {
    /// Puts the watcher before the log.
    pub fn new(log: Arc<dyn RaftLog>, watcher: W) -> WatchedLog<W> {
        WatchedLog { log, watcher }
    }

    /// Who watches.
    pub fn watcher(&self) -> &W {
        &self.watcher
    }
}

impl<W: LogWatcher> RaftLog for WatchedLog<W> {
    fn regions(&self) -> Result<Vec<u64>> {
        self.log.regions()
    }

    fn state(&self, region_id: u64) -> Result<Option<RaftLocalState>> {
        self.log.state(region_id)
    }

    fn bounds(&self, region_id: u64) -> Option<(u64, u64)> {
        self.log.bounds(region_id)
    }

    fn entries(&self, region_id: u64, low: u64, high: u64, max_bytes: u64) -> Result<Vec<Entry>> {
        self.log.entries(region_id, low, high, max_bytes)
    }

    fn write(&self, batch: LogBatch, sync: bool) -> Result<()> {
        self.watcher.write(self.log.as_ref(), batch, sync)
    }

    fn purge(&self) -> Result<Vec<u64>> {
        self.log.purge()
    }

    fn sync_count(&self) -> u64 {
        self.watcher.sync_count(self.log.as_ref())
    }
}
