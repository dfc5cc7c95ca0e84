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
//! | [`context`] | what a statement is planned in |
//! | [`binder`](self) | names, types, MySQL's scoping rules |
//! | [`logical`], [`rules`] | algebra and its rewrites |
//! | [`ranger`] | conditions to key ranges |
//! | [`statistics`] | what is known of tables' rows |
//! | [`physical`] | access paths, tasks, costs |
//! | [`plan`] | what is handed out |
//! | [`mod@explain`], [`cache`] | plans as text; plans shared |
//!
//! **Invariants.** The planner does no I/O and has no clock. Plans are shared between
//! sessions: whatever differs from run to run is a parameter slot.
//!
//! **Left out.** LATERAL, ROLLUP, views, partitions,
//! index merge, merge joins: statements that need them answer 1235.

mod binder;
pub mod cache;
pub mod catalog;
pub mod context;
pub mod defaults;
pub mod error;
pub mod explain;
pub mod identity;
pub mod logical;
pub mod parse;
pub mod physical;
pub mod plan;
pub mod ranger;
pub mod rules;
mod statement;
pub mod statistics;

#[cfg(test)]
mod tests;

pub use binder::dml::{generated_values, table_expr};
pub use cache::{PlanCache, PlanKey};
pub use catalog::{Catalog, ColumnInfo, DatabaseInfo, IndexInfo, TableInfo};
pub use context::{PlanContext, PlanOptions, PseudoStatistics, Statistics, SystemVariables};
pub use error::{PlanError, Result};
pub use explain::{explain, explain_text};
pub use plan::{OutputColumn, PhysicalOp, PhysicalPlan, Plan, PlanKind};
pub use statement::{plan_expressions, plan_query, plan_statement};
