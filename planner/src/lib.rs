//! Binder, logical rules, physical plans, plan cache and EXPLAIN.
//!
//! **Flow.** The SQL tier hands over a syntax tree of `cairn-parser` and a
//! [`PlanContext`]: a snapshot of the schema, session settings, parameter types.
//! Back comes an immutable [`Plan`].
//!
//! ```text
//! ast ─ point ─────────────────────────────────────► Plan   (whole key given)
//!  └─── binder ─► logical ─ rules ─► physical ─────► Plan   (everything else)
//! ```
//!
//! | module | what it does |
//! |---|---|
//! | [`catalog`] | the schema model and the `Catalog` trait |
//! | [`plan`] | what is handed out: physical plans and DML plans |
//! | [`ranger`] | conditions to key ranges |
//!
//! **Invariants.** The planner does no I/O and has no clock. Plans are shared between
//! sessions: whatever differs from run to run is a parameter slot.

pub mod catalog;
pub mod context;
pub mod error;
pub mod plan;
pub mod ranger;

pub use catalog::{Catalog, ColumnInfo, DatabaseInfo, IndexInfo, TableInfo};
pub use context::{PlanContext, PlanOptions, PseudoStatistics, Statistics, SystemVariables};
pub use error::{PlanError, Result};
pub use plan::{OutputColumn, PhysicalOp, PhysicalPlan, Plan, PlanKind};
