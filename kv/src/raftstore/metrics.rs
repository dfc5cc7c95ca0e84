//! Counters of the Raft store, as plain atomics that the service exposes.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters since the start of the store.
#[derive(Debug, Default)]
pub struct RaftMetrics {
    /// Commands proposed.
    pub proposals: AtomicU64,
    /// Rounds of the Raft thread that wrote to the log.
    pub rounds: AtomicU64,
    /// Syncs of the Raft log.
    pub log_syncs: AtomicU64,
    /// Entries appended to the Raft log.
    pub appended_entries: AtomicU64,
    /// Entries applied.
    pub applied_entries: AtomicU64,
    /// Batches written to the data engine by apply.
    pub apply_batches: AtomicU64,
    /// Reads answered by the lease.
    pub lease_reads: AtomicU64,
    /// Reads that needed a round of ReadIndex.
    pub index_reads: AtomicU64,
    /// Raft messages sent.
    pub messages_sent: AtomicU64,
    /// Raft messages that were refused or dropped.
    pub messages_dropped: AtomicU64,
    /// Raft snapshots sent.
    pub snapshots_sent: AtomicU64,
    /// Raft snapshots installed.
    pub snapshots_applied: AtomicU64,
    /// Merges applied here, as target.
    pub merges: AtomicU64,
    /// Merges given up here, as source.
    pub merges_rolled_back: AtomicU64,
    /// Regions this store leads.
    pub leaders: AtomicU64,
    /// Regions of this store.
    pub regions: AtomicU64,
}

impl RaftMetrics {
    /// Name and value of every counter, for exposition.
    pub fn values(&self) -> Vec<(&'static str, u64)> {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        vec![
            ("proposals", read(&self.proposals)),
            ("rounds", read(&self.rounds)),
            ("log_syncs", read(&self.log_syncs)),
            ("appended_entries", read(&self.appended_entries)),
            ("applied_entries", read(&self.applied_entries)),
            ("apply_batches", read(&self.apply_batches)),
            ("lease_reads", read(&self.lease_reads)),
            ("index_reads", read(&self.index_reads)),
            ("messages_sent", read(&self.messages_sent)),
            ("messages_dropped", read(&self.messages_dropped)),
            ("snapshots_sent", read(&self.snapshots_sent)),
            ("snapshots_applied", read(&self.snapshots_applied)),
            ("merges", read(&self.merges)),
            ("merges_rolled_back", read(&self.merges_rolled_back)),
            ("leaders", read(&self.leaders)),
            ("regions", read(&self.regions)),
        ]
    }
}

/// Adds to a counter.
pub(super) fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}
