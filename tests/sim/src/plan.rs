//! What a seed decides before a run begins: its size, its weather, which faults and
//! workloads it leans on.
//!
//! Swarm testing: every seed leaves most faults out and gives the rest random weights, so
//! that each fault is also seen without the others hiding its effect.
//!
//! Source: Groce et al., "Swarm Testing", ISSTA 2012.

use std::time::Duration;

use cairn_kv::raftstore::RaftStoreConfig;
use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::{IndexedRandom, IteratorRandom};

use crate::network::Weather;

/// A kind of fault, or of change that operators and PD make.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FaultKind {
    /// A store loses power.
    CrashStore,
    /// All stores lose power at once.
    CrashAllStores,
    /// A member of PD loses power.
    CrashPd,
    /// A SQL node dies in the middle of its transactions.
    CrashClient,
    /// A process is cut off, both ways.
    Isolate,
    /// Messages of one process to another get lost, in one direction only.
    OneWay,
    /// Stores split into two groups.
    Partition,
    /// Everything of one process is late.
    SlowLinks,
    /// A process stands still (SIGSTOP).
    Pause,
    /// A disk takes long to sync.
    SlowDisk,
    /// A disk has no space.
    FullDisk,
    /// A wall clock jumps.
    WallClock,
    /// A store applies late.
    SlowApply,
    /// The store of a leader is cut off from the other stores, not from every client.
    CutOffLeader,
    /// The store of a leader stands still about as long as an election takes.
    StopLeader,
    /// A voter dies and is back at once, while the other one stands for election.
    RestartVoter,
    /// A replica is built anew while transactions hold locks, and leads then.
    FreshLeader,
    /// A leader is cut off right behind a split's proposal.
    SplitCutOff,
    /// A follower that has applied a split is cut off from the leader that has not, and leads
    /// the new region.
    SplitBehind,
    /// PD's leader hands out timestamps by a clock that is ahead, and dies; repeatedly.
    PdClock,
    /// Somebody splits a region.
    Split,
    /// Somebody moves a leader.
    Transfer,
    /// Somebody adds or removes a replica, or moves one through a joint state.
    Members,
    /// Somebody merges a region into its neighbour.
    Merge,
    /// A store is to be emptied.
    Offline,
}

impl FaultKind {
    /// All of them.
    pub const ALL: [FaultKind; 25] = [
        FaultKind::CrashStore,
        FaultKind::CrashAllStores,
        FaultKind::CrashPd,
        FaultKind::CrashClient,
        FaultKind::Isolate,
        FaultKind::OneWay,
        FaultKind::Partition,
        FaultKind::SlowLinks,
        FaultKind::Pause,
        FaultKind::SlowDisk,
        FaultKind::FullDisk,
        FaultKind::WallClock,
        FaultKind::SlowApply,
        FaultKind::CutOffLeader,
        FaultKind::StopLeader,
        FaultKind::RestartVoter,
        FaultKind::FreshLeader,
        FaultKind::SplitCutOff,
        FaultKind::SplitBehind,
        FaultKind::PdClock,
        FaultKind::Split,
        FaultKind::Transfer,
        FaultKind::Members,
        FaultKind::Merge,
        FaultKind::Offline,
    ];

    /// Whether it comes to nothing before an election or two.
    pub fn needs_elections(self) -> bool {
        matches!(
            self,
            FaultKind::CutOffLeader
                | FaultKind::StopLeader
                | FaultKind::RestartVoter
                | FaultKind::FreshLeader
                | FaultKind::SplitCutOff
                | FaultKind::SplitBehind
                | FaultKind::PdClock
        )
    }
}

/// What clients do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkloadKind {
    /// Reads and writes of single keys.
    Register,
    /// Transfers between accounts, and sums over all.
    Bank,
    /// Inserts of groups of keys, and scans over them.
    Append,
    /// Counters that are read and raised.
    Counter,
    /// Elements that are pushed and popped.
    Queue,
    /// Transactions that read and append to lists.
    Lists,
    /// Parents that are shared while children come.
    Families,
}

impl WorkloadKind {
    /// All of them.
    pub const ALL: [WorkloadKind; 7] = [
        WorkloadKind::Register,
        WorkloadKind::Bank,
        WorkloadKind::Append,
        WorkloadKind::Counter,
        WorkloadKind::Queue,
        WorkloadKind::Lists,
        WorkloadKind::Families,
    ];
}

/// How large a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// For the test suite.
    Short,
    /// For seeds by the hundred.
    Full,
}

/// The plan of a run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Stores.
    pub stores: u8,
    /// Members of PD.
    pub members: u8,
    /// SQL nodes.
    pub clients: u8,
    /// Sessions of each SQL node.
    pub sessions: u8,
    /// Keys of the register and counter workloads each.
    pub keys: u32,
    /// Accounts of the bank.
    pub accounts: u32,
    /// How long faults happen.
    pub faulty_time: Duration,
    /// Between two faults, at most.
    pub fault_pause_ms_max: u64,
    /// Which faults, with their weights.
    pub faults: Vec<(FaultKind, u32)>,
    /// What clients do, with weights.
    pub workloads: Vec<(WorkloadKind, u32)>,
    /// The network without faults.
    pub weather: Weather,
    /// Settings of the stores.
    pub raft: RaftStoreConfig,
    /// Longest time until a thread gets its next turn.
    pub turn_max_ms: u64,
    /// Largest drift of a monotonic clock, in millionths.
    pub drift_ppm_max: i64,
    /// Whether clients try one-phase commit.
    pub one_pc: bool,
    /// Whether clients commit asynchronously.
    pub async_commit: bool,
    /// Longest pause of a session between two operations.
    pub think_ms_max: u64,
    /// One read of so many goes to any replica; 0 = none.
    pub replica_reads_one_in: u32,
    /// Regions are split at so many keys before anything goes wrong.
    pub splits: u32,
}

impl Plan {
    /// Draws a plan.
    pub fn draw(rng: &mut SmallRng, scale: Scale) -> Plan {
        let faulty_s = match scale {
            Scale::Short => rng.random_range(4..8),
            Scale::Full => rng.random_range(10..25),
        };
        Plan {
            stores: *[3, 3, 3, 4, 5].choose(rng).unwrap_or(&3),
            members: *[1, 3, 3].choose(rng).unwrap_or(&1),
            clients: rng.random_range(2..=3),
            sessions: rng.random_range(1..=3),
            keys: rng.random_range(2..=8),
            accounts: rng.random_range(3..=8),
            faulty_time: Duration::from_secs(faulty_s),
            fault_pause_ms_max: *[300, 1_000, 3_000].choose(rng).unwrap_or(&1_000),
            faults: draw_faults(rng),
            workloads: WorkloadKind::ALL.map(|kind| (kind, rng.random_range(1..=6))).to_vec(),
            weather: draw_weather(rng),
            raft: draw_raft(rng),
            turn_max_ms: rng.random_range(1..=4),
            drift_ppm_max: *[0, 1_000, 20_000].choose(rng).unwrap_or(&0),
            one_pc: rng.random_bool(0.7),
            think_ms_max: *[1, 10, 100].choose(rng).unwrap_or(&10),
            replica_reads_one_in: *[0, 0, 2, 8].choose(rng).unwrap_or(&0),
            splits: rng.random_range(0..=4),
            async_commit: rng.random_bool(0.8),
        }
    }
}

fn draw_faults(rng: &mut SmallRng) -> Vec<(FaultKind, u32)> {
    let mut faults = Vec::new();
    // One scenario again and again: most of its attempts fail by some milliseconds.
    if rng.random_bool(0.3) {
        let scenarios = FaultKind::ALL.into_iter().filter(|kind| kind.needs_elections());
        faults.extend(scenarios.choose(rng).map(|kind| (kind, 1)));
        return faults;
    }
    // Many at a time, or one of a few again and again.
    let share = *[0.4, 0.08].choose(rng).unwrap_or(&0.4);
    for kind in FaultKind::ALL {
        if rng.random_bool(share) {
            faults.push((kind, rng.random_range(1..=10)));
        }
    }
    if faults.is_empty() {
        faults.push((*FaultKind::ALL.choose(rng).unwrap_or(&FaultKind::CrashStore), 1));
    }
    faults
}

fn draw_weather(rng: &mut SmallRng) -> Weather {
    let delay_min_ms = rng.random_range(0..3);
    Weather {
        delay_min_ms,
        delay_max_ms: delay_min_ms + *[0, 2, 10, 40].choose(rng).unwrap_or(&2),
        late_one_in: *[0, 0, 100, 20].choose(rng).unwrap_or(&0),
        late_ms: rng.random_range(50..1_500),
        lost_one_in: *[0, 0, 200, 30].choose(rng).unwrap_or(&0),
        doubled_one_in: *[0, 0, 100, 10].choose(rng).unwrap_or(&0),
        cut_refuses: rng.random_bool(0.5),
    }
}

fn draw_raft(rng: &mut SmallRng) -> RaftStoreConfig {
    let log_entries_max = *[10, 200, 2_048].choose(rng).unwrap_or(&200);
    RaftStoreConfig {
        region_split_bytes: *[8 << 10, 64 << 10, 256 << 20].choose(rng).unwrap_or(&(64 << 10)),
        log_entries_max,
        log_entries_force_max: log_entries_max * *[2, 32].choose(rng).unwrap_or(&32),
        store_heartbeat: Duration::from_secs(1),
        // Nothing is done about a region PD has not heard of: a run would begin by waiting.
        idle_report: Duration::from_secs(*[3, 3, 60].choose(rng).unwrap_or(&3)),
        ..RaftStoreConfig::default()
    }
}
