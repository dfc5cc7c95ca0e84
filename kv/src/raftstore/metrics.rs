//! Counters of the Raft store, as plain atomics that the service exposes.

use std::sync::atomic::{AtomicU64, Ordering};

use super::disk::DiskWatch;

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
    /// Bytes of those batches.
    pub applied_bytes: AtomicU64,
    /// Reads answered by the lease.
    pub lease_reads: AtomicU64,
    /// Reads that needed a round of ReadIndex.
    pub index_reads: AtomicU64,
    /// Reads from followers that asked their leader.
    pub replica_reads: AtomicU64,
    /// Reads from followers that held everything up to their timestamp.
    pub closed_reads: AtomicU64,
    /// Reads of the past among those that asked their leader.
    pub stale_reads_missed: AtomicU64,
    /// Raft messages sent.
    pub messages_sent: AtomicU64,
    /// Raft messages that were refused or dropped.
    pub messages_dropped: AtomicU64,
    /// Raft snapshots sent.
    pub snapshots_sent: AtomicU64,
    /// Raft snapshots that failed to arrive.
    pub snapshots_failed: AtomicU64,
    /// Raft snapshots installed.
    pub snapshots_applied: AtomicU64,
    /// Merges applied here, as target.
    pub merges: AtomicU64,
    /// Merges given up here, as source.
    pub merges_rolled_back: AtomicU64,
    /// Syncs of the log with their time.
    pub disk: DiskWatch,
    /// Slowness of the log's disk, 1 to 100.
    pub slow_score: AtomicU64,
    /// Leaderships handed over because of it.
    pub slow_hand_overs: AtomicU64,
    /// Elections started here.
    pub elections: AtomicU64,
    /// Leaderships won here.
    pub leaderships: AtomicU64,
    /// Regions led here that rest.
    pub resting_leaders: AtomicU64,
    /// Times a resting leader was woken.
    pub wakes: AtomicU64,
    /// Beats and answers between stores.
    pub beats_sent: AtomicU64,
    /// Times a store fell silent or started anew while peers here rested under it.
    pub support_withdrawn: AtomicU64,
    /// Writes refused because the disk is (almost) full.
    pub disk_full_refusals: AtomicU64,
    /// Files of the engine found damaged.
    pub damaged_files: AtomicU64,
    /// Regions this store leads.
    pub leaders: AtomicU64,
    /// Regions of this store.
    pub regions: AtomicU64,
}

impl RaftMetrics {
    /// Name and value of every counter, for exposition.
    pub fn values(&self) -> Vec<(&'static str, u64)> {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let mut values = vec![
            ("proposals", read(&self.proposals)),
            ("rounds", read(&self.rounds)),
            ("log_syncs", read(&self.log_syncs)),
            ("appended_entries", read(&self.appended_entries)),
            ("applied_entries", read(&self.applied_entries)),
            ("apply_batches", read(&self.apply_batches)),
            ("applied_bytes", read(&self.applied_bytes)),
            ("lease_reads", read(&self.lease_reads)),
            ("index_reads", read(&self.index_reads)),
            ("replica_reads", read(&self.replica_reads)),
            ("closed_reads", read(&self.closed_reads)),
            ("stale_reads_missed", read(&self.stale_reads_missed)),
            ("messages_sent", read(&self.messages_sent)),
            ("messages_dropped", read(&self.messages_dropped)),
            ("snapshots_sent", read(&self.snapshots_sent)),
            ("snapshots_failed", read(&self.snapshots_failed)),
            ("snapshots_applied", read(&self.snapshots_applied)),
            ("merges", read(&self.merges)),
            ("merges_rolled_back", read(&self.merges_rolled_back)),
            ("slow_score", read(&self.slow_score)),
            ("slow_hand_overs", read(&self.slow_hand_overs)),
            ("elections", read(&self.elections)),
            ("leaderships", read(&self.leaderships)),
            ("resting_leaders", read(&self.resting_leaders)),
            ("wakes", read(&self.wakes)),
            ("beats_sent", read(&self.beats_sent)),
            ("support_withdrawn", read(&self.support_withdrawn)),
            ("disk_full_refusals", read(&self.disk_full_refusals)),
            ("damaged_files", read(&self.damaged_files)),
            ("leaders", read(&self.leaders)),
            ("regions", read(&self.regions)),
        ];
        values.extend(self.disk.values());
        values
    }
}

/// Adds to a counter.
pub(super) fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}
