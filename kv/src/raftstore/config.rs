//! Settings of the Raft store, with the relations that keep it correct.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cairn_types::sabotage::{Bug, planted};

use super::liveness::CAMPAIGNS_PER_TICK_MAX;
use super::load::LoadThresholds;
use super::space::SpaceWatch;

/// Entries begin after this index: a peer that has nothing (index 0) can never be
/// brought up by entries alone and always asks for a Raft snapshot.
pub const RAFT_INIT_LOG_INDEX: u64 = 5;
/// Term of the entry that a bootstrapped or split region pretends to have.
pub const RAFT_INIT_LOG_TERM: u64 = 5;

/// A region that does not change is looked at ever less often, down to this: compaction may
/// still make it smaller.
pub const SIZE_CHECK_FACTOR_MAX: u32 = 64;

const MIB: u64 = 1024 * 1024;

/// What a store does when an engine fails under it. A failed sync may have lost what the
/// kernel held, and a second one may "succeed" without it: nothing is ever tried again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnEngineFailure {
    /// The store's threads end; it answers nothing any more. For tests and simulations.
    #[default]
    StopStore,
    /// The process ends at once; its supervisor starts it again, from what is on disk.
    EndProcess,
}

/// Settings of one store.
#[derive(Clone, Debug)]
pub struct RaftStoreConfig {
    /// One tick of every region.
    pub tick: Duration,
    /// Ticks without a leader before an election, at least; at most half as many more.
    pub election_timeout_ticks: usize,
    /// Elections the store starts in one tick; regions beyond take their turn in the next.
    pub elections_per_tick_max: usize,
    /// Ticks between heartbeats of a leader.
    pub heartbeat_ticks: usize,
    /// Ticks without traffic after which a region rests (see `liveness`); 0 = never.
    pub rest_after_ticks: u32,
    /// Between reports to PD of a region that rests.
    pub idle_report: Duration,
    /// Bytes of proposals that are not yet answered, over all regions.
    pub inflight_bytes_max: u64,
    /// Messages waiting for the Raft thread.
    pub mailbox_messages_max: usize,
    /// Messages handled in one round, so that none waits for a full mailbox.
    pub round_messages_max: usize,
    /// A region larger than this is split in the middle.
    pub region_split_bytes: u64,
    /// A region with more keys (versions of them) is split as well.
    pub region_split_keys: u64,
    /// A region that is read and written more is split where that halves it.
    pub load_split: LoadThresholds,
    /// Between two looks at a region's size when it was written to; up to
    /// [`SIZE_CHECK_FACTOR_MAX`] times that when nothing happens.
    pub size_check_interval: Duration,
    /// Entries a log may hold before it is compacted.
    pub log_entries_max: u64,
    /// Entries that are kept for slow followers, at most.
    pub log_entries_force_max: u64,
    /// Where Raft snapshots are built and received; none keeps them in memory.
    pub snapshot_dir: Option<PathBuf>,
    /// Raft snapshots sent at one time.
    pub snapshot_sends_max: usize,
    /// Raft snapshots received at one time.
    pub snapshot_receives_max: usize,
    /// Bytes per second that all Raft snapshots of the store are built and sent with, so
    /// that clients keep their share of the disk; 0 = unlimited.
    pub snapshot_bytes_per_second: u64,
    /// Folder whose disk is watched; none is not watched.
    pub data_dir: Option<PathBuf>,
    /// Kept free for work that frees space; `None`: a twentieth of the disk, at most 2 GiB.
    pub reserve_bytes: Option<u64>,
    /// What the watch found.
    pub space: Arc<SpaceWatch>,
    /// What is done when an engine fails.
    pub on_engine_failure: OnEngineFailure,
    /// Between reports of the store to PD.
    pub store_heartbeat: Duration,
    /// Size of the disk, as reported to PD; 0 = unknown.
    pub capacity_bytes: u64,
    /// Seed of election timeouts.
    pub seed: u64,
}

impl Default for RaftStoreConfig {
    fn default() -> RaftStoreConfig {
        RaftStoreConfig {
            tick: Duration::from_millis(100),
            election_timeout_ticks: 10,
            elections_per_tick_max: CAMPAIGNS_PER_TICK_MAX,
            heartbeat_ticks: 2,
            rest_after_ticks: 10,
            idle_report: Duration::from_secs(60),
            inflight_bytes_max: 128 * MIB,
            mailbox_messages_max: 65_536,
            round_messages_max: 4_096,
            region_split_bytes: 256 * MIB,
            region_split_keys: 2_560_000,
            load_split: LoadThresholds { queries_per_second: 7_000, bytes_per_second: 100 * MIB },
            size_check_interval: Duration::from_secs(10),
            log_entries_max: 2_048,
            log_entries_force_max: 65_536,
            snapshot_dir: None,
            snapshot_sends_max: 4,
            snapshot_receives_max: 4,
            snapshot_bytes_per_second: 100 * MIB,
            data_dir: None,
            reserve_bytes: None,
            space: Arc::default(),
            on_engine_failure: OnEngineFailure::default(),
            store_heartbeat: Duration::from_secs(3),
            capacity_bytes: 0,
            seed: 0,
        }
    }
}

impl RaftStoreConfig {
    /// How long a leader may read locally after a quorum heard from it.
    ///
    /// A follower that heard from its leader refuses to vote for
    /// `election_timeout_ticks` ticks. The first of them may come at once, so that
    /// is one tick less in time; one more tick and a twentieth are left to clocks
    /// that drift apart.
    pub fn lease(&self) -> Duration {
        let ticks = self.election_timeout_ticks.saturating_sub(2) as u32;
        if planted(Bug::LeaseTooLong) {
            return self.tick * ticks * 4;
        }
        self.tick * ticks * 19 / 20
    }

    /// How long a peer that lost its memory of a leader refuses to vote.
    pub fn vote_quiet(&self) -> Duration {
        self.tick * self.election_timeout_ticks as u32
    }
}
