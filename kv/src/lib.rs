//! A store: raft groups, apply, MVCC, transaction commands, coprocessor.
//!
//! | module | what it holds |
//! |---|---|
//! | [`service`] | requests in, answers out: direct calls, gRPC, the node |
//! | [`txn`] | Percolator's commands, latches, the scheduler |
//! | [`coprocessor`] | plan fragments next to the data |
//! | [`mvcc`] | versions of keys: records, reads, scans |
//! | [`gc`] | removal of versions nobody can read |
//! | [`raftstore`] | regions as Raft groups |
//! | [`bounds`] | what is kept of the placement driver's state |
//! | [`keys`] | where things lie in the engine |
//!
//! **Invariants.** Above [`raftstore`] nothing knows of Raft beyond its seam
//! [`raftstore::RaftKv`]; [`mvcc`] knows neither regions nor time; reads take no
//! latches; every queue is bounded and answers `ServerIsBusy` above it.

pub mod bounds;
pub mod coprocessor;
pub mod gc;
pub mod keys;
pub mod mvcc;
pub mod raftstore;
pub mod service;
pub mod txn;

pub use raftstore::LocalNetwork;
pub use service::{NodeError, OpenStore, StoreConfig, StoreNode, StoreService};
