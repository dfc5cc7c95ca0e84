//! The placement driver: timestamps, ids, stores, regions.
//!
//! | module | what it holds |
//! |---|---|
//! | [`server`], [`regions`] | every operation, without a network |
//! | [`service`], [`local`], [`status`] | gRPC, direct calls, HTTP pages |
//! | [`state`] | the durable state machine, a pure function of its commands |
//! | [`replication`] | the Raft log in front of it |
//! | [`tso`] | timestamps below a durable bound |
//! | [`cluster`] | what heartbeats tell, operators under way |
//! | [`view`], [`operator`] | what decisions see, what they give |
//! | [`checkers`], [`schedulers`] | the decisions, pure functions |
//! | [`clock`] | injected time |
//!
//! **Invariants.** No timestamp or id is handed out twice, across restarts and
//! clock jumps. What an operation answered is durable, unless it is said to be
//! learned from heartbeats.
//!
//! **Left out.** More than one member: the log is a Raft group of one today, and
//! [`replication`] is the only module that knows.

pub mod checkers;
pub mod clock;
pub mod cluster;
pub mod error;
pub mod local;
pub mod operator;
pub mod regions;
pub mod replication;
pub mod schedulers;
pub mod server;
pub mod service;
pub mod state;
pub mod status;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
pub mod tso;
pub mod view;

pub use error::OpenError;
pub use local::LocalPdClient;
pub use server::{PdConfig, PdParts, PdServer};
