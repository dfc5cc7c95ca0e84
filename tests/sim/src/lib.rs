//! Deterministic simulation of a whole cluster: one seed is one run, and the same seed is
//! the same run, event by event.
//!
//! | module | what it holds |
//! |---|---|
//! | [`run`](mod@run) | the life of a cluster, from birth to judgement |
//! | [`plan`] | what a seed decides beforehand |
//! | [`world`], [`trace`] | dice, virtual time, hosts, the record of events |
//! | [`network`], [`disk`] | what lies between and below the processes |
//! | [`store`], [`pd`], [`client`], [`cluster`] | the processes: real code on simulated machines |
//! | [`faults`] | what goes wrong |
//! | [`workload`] | what clients do and remember |
//! | [`gc`] | the safe point of garbage collection |
//! | [`check`] | what must hold |
//!
//! **Real**: the Raft store with apply, snapshots, splits and scheduling; the transaction
//! scheduler, MVCC and reads; PD's server, state and decisions; the KV client with its
//! region cache, retries, two-phase commit and lock resolution.
//! **Modelled**: threads (steps in random order), the network and gRPC, disks (the engines'
//! in-memory twins lose unsynced writes), clocks. `docs/simulation.md` has the whole list.
//!
//! **Determinism.** One thread, one virtual clock, all randomness from the seed, no maps
//! with random hashing where their order decides anything. A test runs a seed twice and
//! compares the hash over all events.
//!
//! Sources: FoundationDB's simulation (Zhou et al., SIGMOD 2021), TigerBeetle's VOPR.

pub mod check;
pub mod client;
pub mod cluster;
pub mod disk;
pub mod faults;
pub mod gc;
pub mod network;
pub mod pd;
pub mod plan;
pub mod run;
pub mod store;
pub mod trace;
pub mod workload;
pub mod world;

pub use plan::{Scale, WorkloadKind};
pub use run::{Options, Report, run};
