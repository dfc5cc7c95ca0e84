//! The placement driver: timestamps, ids, stores, regions.
//!
//! | module | what it holds |
//! |---|---|
//! | [`server`], [`regions`], [`members`], `takeover` | every operation, without a network |
//! | [`allocation`], [`tso`] | timestamps and ids below durable bounds |
//! | [`membership`], [`leadership`] | how a member begins; taking over and giving up |
//! | [`service`], [`local`], [`status`] | gRPC, direct calls, HTTP pages |
//! | [`state`] | the durable state machine, a pure function of its commands |
//! | [`replication`] | the Raft group in front of it |
//! | [`cluster`], [`index`], [`hot`] | what heartbeats tell, operators under way |
//! | [`view`], [`operator`] | what decisions see, what they give |
//! | [`checkers`], [`schedulers`], [`placement`] | the decisions, pure functions; the rules |
//! | [`recovery`] | after stores were lost with a majority of some regions |
//! | [`config`], [`steer`] | what people set, ask and order |
//! | [`clock`] | injected time |
//!
//! **Invariants.** No timestamp or id is handed out twice, across leaders, restarts and
//! clock jumps. What an operation answered is durable on a majority of members, unless
//! it is said to be learned from heartbeats. Only the leader answers, while its lease
//! holds; questions about routes may be put to any member that is told so.

pub(crate) mod allocation;
pub mod checkers;
pub mod clock;
pub mod cluster;
pub mod config;
pub mod error;
pub mod hot;
pub mod index;
pub(crate) mod leadership;
pub mod local;
pub mod members;
pub(crate) mod membership;
pub mod operator;
pub mod placement;
pub mod recovery;
pub mod regions;
pub mod replication;
pub mod schedulers;
pub mod server;
pub mod service;
#[cfg(test)]
mod simulation;
pub mod state;
pub mod status;
pub mod steer;
pub(crate) mod takeover;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
pub mod tso;
pub mod view;

pub use error::OpenError;
pub use local::LocalPdClient;
pub use server::{PdConfig, PdParts, PdServer};
