//! A store's front: requests in, answers out; in this process or over gRPC.
//!
//! **Flow**: [`grpc`] (or a caller in the same process) → [`StoreService`] → point
//! gets run where they are, larger reads on the [`ReadPool`], commands through the
//! transaction [`Scheduler`](crate::txn::Scheduler), fragments through the
//! coprocessor. The wire's structs stop here, except for commands, whose requests
//! are plain data already.

pub mod config;
mod consistency;
pub mod grpc;
pub mod metrics;
pub mod node;
pub mod read_pool;
mod read_turns;
pub mod reads;
pub mod recovery;
mod refresh;
pub mod status;
pub mod store;

#[cfg(test)]
mod async_tests;
#[cfg(test)]
mod hop_tests;
#[cfg(test)]
mod lock_tests;
#[cfg(test)]
mod node_tests;
#[cfg(test)]
mod refresh_tests;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub use config::StoreConfig;
pub use grpc::{GrpcService, Ingress, RaftIngress};
pub use node::{NodeError, OpenStore, PdTso, StoreNode, take_place};
pub use read_pool::ReadPool;
pub use read_turns::ReadTask;
pub use store::StoreService;
