//! Scalar and aggregate functions over chunks, type inference, and the wire form
//! of expressions.
//!
//! ```text
//!  planner ─ build_function ─► Expr ─ fold, split, remap ─► plans
//!                               │
//!               eval_row, eval, eval_filter (SQL node and stores)
//!                               │
//!                             wire ◄──► cairn_proto::cop
//! ```
//!
//! | module | what it holds |
//! |---|---|
//! | [`expr`] | the expression tree and its helpers |
//! | [`func`] | the functions by name |
//! | [`mod@build`] | names and arguments → typed expression |
//! | [`infer`] | result types, casts, collations |
//! | [`eval`] | evaluation by row and by chunk |
//! | `functions` | the scalar functions, one family per file |
//! | [`agg`] | aggregate functions |
//! | [`wire`] | expressions between tiers |
//! | [`context`] | settings, session, warnings |
//!
//! **Invariants.** No I/O and no clock: what differs from call to call comes
//! through [`SessionAccess`]. Row-wise and vectorised evaluation give the same
//! values. Bytes of other tiers are checked and never make this crate panic.

pub mod agg;
pub mod build;
pub mod context;
mod display;
pub mod error;
pub mod eval;
pub mod expr;
pub mod func;
mod functions;
pub mod infer;
pub mod wire;

#[cfg(test)]
mod golden;

pub use agg::{AggDesc, AggFunc, AggMode, GroupedAgg};
pub use build::{build, build_cast, build_function};
pub use context::{EvalContext, SessionAccess, SessionInfo, SqlMode, StatementCounters, Warnings};
pub use error::{ExprError, Result};
pub use eval::{ChunkRow, EvalCache, NoRow, RowAccess, eval_filter, row_matches};
pub use expr::Expr;
pub use func::Func;
