//! Settings of a store node.

use std::path::PathBuf;
use std::time::Duration;

use cairn_engine::RocksOptions;

use crate::raftstore::{LoadThresholds, OnEngineFailure, RaftStoreConfig};

const MIB: usize = 1 << 20;

/// What a store needs to know to start.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// Folder of engines, log and spooled Raft snapshots.
    pub data_dir: PathBuf,
    /// Address that others reach this store at (`host:port`).
    pub addr: String,
    /// Address of the status server, for tools; empty when there is none.
    pub status_addr: String,
    /// Where the store stands (`zone=z1`, `host=h1`), for placement.
    pub labels: Vec<(String, String)>,
    /// Size at which a region is split.
    pub region_split_bytes: u64,
    /// Keys (versions of them) at which a region is split.
    pub region_split_keys: u64,
    /// Load at which a region is split.
    pub load_split: LoadThresholds,
    /// RocksDB's block cache.
    pub block_cache_bytes: usize,
    /// RocksDB's memtables, all together.
    pub memtable_bytes: usize,
    /// Threads of coprocessor tasks and large reads; 0: one per core.
    pub read_threads: usize,
    /// Timing of the Raft groups: one tick, and ticks to an election.
    pub raft_tick: Duration,
    /// See `raft_tick`.
    pub election_timeout_ticks: usize,
    /// Between two reports to PD.
    pub store_heartbeat: Duration,
    /// Size of the disk as told to PD; 0: unknown.
    pub capacity_bytes: u64,
    /// Disk space kept free for what frees space; `None`: a twentieth of the disk, at most 2 GiB.
    pub reserve_bytes: Option<u64>,
}

impl StoreConfig {
    /// Defaults for a store in `data_dir` that others reach at `addr`.
    pub fn new(data_dir: impl Into<PathBuf>, addr: impl Into<String>) -> StoreConfig {
        let raft = RaftStoreConfig::default();
        let rocks = RocksOptions::default();
        StoreConfig {
            data_dir: data_dir.into(),
            addr: addr.into(),
            status_addr: String::new(),
            labels: Vec::new(),
            region_split_bytes: raft.region_split_bytes,
            region_split_keys: raft.region_split_keys,
            load_split: raft.load_split,
            block_cache_bytes: rocks.block_cache_bytes,
            memtable_bytes: rocks.memtable_total_bytes,
            read_threads: 0,
            raft_tick: raft.tick,
            election_timeout_ticks: raft.election_timeout_ticks,
            store_heartbeat: raft.store_heartbeat,
            capacity_bytes: raft.capacity_bytes,
            reserve_bytes: raft.reserve_bytes,
        }
    }

    pub(super) fn raft(&self, store_id: u64) -> RaftStoreConfig {
        RaftStoreConfig {
            tick: self.raft_tick,
            election_timeout_ticks: self.election_timeout_ticks,
            region_split_bytes: self.region_split_bytes,
            region_split_keys: self.region_split_keys,
            load_split: self.load_split,
            snapshot_dir: Some(self.data_dir.join("snapshots")),
            data_dir: Some(self.data_dir.clone()),
            on_engine_failure: OnEngineFailure::EndProcess,
            store_heartbeat: self.store_heartbeat,
            capacity_bytes: self.capacity_bytes,
            reserve_bytes: self.reserve_bytes,
            // Stores must not stand for election in step.
            seed: store_id,
            ..RaftStoreConfig::default()
        }
    }

    pub(super) fn rocks(&self) -> RocksOptions {
        let defaults = RocksOptions::default();
        RocksOptions {
            block_cache_bytes: self.block_cache_bytes,
            memtable_total_bytes: self.memtable_bytes,
            // Several memtables fit, so that one can be written out meanwhile.
            write_buffer_bytes: defaults.write_buffer_bytes.min(self.memtable_bytes / 4).max(MIB),
            ..defaults
        }
    }

    pub(super) fn read_threads(&self) -> usize {
        match self.read_threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        }
    }
}
