//! Vectorised operators, shared by the SQL node and the stores.
//!
//! ```text
//!  planner ── plain requests (plan) ──►  operators  ◄── chunks ── ChunkSource (network readers)
//!                                            │
//!                                            ▼ KvSource (pairs in key order)
//!                         store: MVCC reader      SQL node: transaction view
//! ```
//!
//! | module | what it holds |
//! |---|---|
//! | [`plan`] | requests for every operator; [`Fragment`] and its wire form |
//! | [`operator`] | the [`Operator`] contract |

//! | [`source`] | the seam to stored data |

//! | [`sample`] | what is gathered for statistics, and how it is merged |
//! | [`context`], [`memory`] | what the operators of a statement share |
//! | [`runtime_stats`] | what they did, for those who ask |
//! | [`spill`] | what memory does not hold, on disk |

//!
//! **Invariants.** This crate knows nothing of networks, regions, sessions or the
//! planner. It has no clock and no randomness of its own. Everything an operator
//! starts ends with it. What comes from the wire or from storage is checked and
//! never makes it panic.

mod batch;
pub mod broadcast;
mod build;
pub mod context;
pub mod error;
pub mod index_entry;
pub mod memory;
pub mod operator;
pub mod operators;
mod order;
pub mod plan;
pub mod runtime_stats;
pub mod sample;
pub mod source;
pub mod spill;
mod table;
pub mod testing;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod testscripts;

pub use build::{build_fragment, build_operator};
pub use context::{ChunkRows, ClockFn, ExecContext, RemoteRowKeys};
pub use error::{ExecError, Result};
pub use memory::{MemoryTracker, OperatorMemory};
pub use operator::{BoxOperator, Operator};
pub use plan::{EvalSettings, Fragment, OpDesc};
pub use runtime_stats::{Detail, OperatorStats, OperatorSummary, RuntimeStats};
pub use source::{KeyRange, KvBatch, KvScan, KvSource, RowRead};
pub use spill::SpillSpace;
