//! Statements that change rows.

use super::ObjectName;
use super::expr::{ColumnRef, Expr};
use super::query::{Limit, OrderByItem, Query, TableRef, With};

/// `INSERT` and `REPLACE`.
#[derive(Clone, Debug, PartialEq)]
pub struct Insert {
    /// `REPLACE`.
    pub replace: bool,
    /// `IGNORE`.
    pub ignore: bool,
    /// `LOW_PRIORITY`, `DELAYED`, `HIGH_PRIORITY`.
    pub priority: Option<Priority>,
    /// Texts of the `/*+ .. */` comments.
    pub hints: Vec<String>,
    /// Into which table.
    pub table: ObjectName,
    /// `PARTITION (p0)`.
    pub partitions: Vec<String>,
    /// The column list. Empty: all columns in order, unless `explicit_columns`.
    pub columns: Vec<ColumnRef>,
    /// A list was written, maybe an empty one: `INSERT INTO t () VALUES ()`.
    pub explicit_columns: bool,
    /// The rows. `INSERT .. SET a = 1` is one row with its columns in `columns`.
    pub source: InsertSource,
    /// `AS new [(a, b)]`: the name of the new row in `on_duplicate`.
    pub row_alias: Option<RowAlias>,
    /// `ON DUPLICATE KEY UPDATE ..`; empty when absent.
    pub on_duplicate: Vec<Assignment>,
}

/// Where inserted rows come from.
#[derive(Clone, Debug, PartialEq)]
pub enum InsertSource {
    /// `VALUES (..), (..)`, also `VALUES ROW(..)` and `SET`. `DEFAULT` may stand for a value.
    Values(Vec<Vec<Expr>>),
    /// `SELECT ..`, `TABLE t`, `WITH .. SELECT ..`.
    Query(Box<Query>),
}

/// `AS new (a, b)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowAlias {
    /// The alias of the row.
    pub name: String,
    /// The aliases of its columns, when written.
    pub columns: Vec<String>,
}

/// Words about the priority of a change: how its reads stand among others in the stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Priority {
    /// `LOW_PRIORITY`.
    Low,
    /// `DELAYED`.
    Delayed,
    /// `HIGH_PRIORITY`.
    High,
}

/// `column = value`; the value may be `Expr::Default`.
#[derive(Clone, Debug, PartialEq)]
pub struct Assignment {
    /// What is set.
    pub column: ColumnRef,
    /// To what.
    pub value: Expr,
}

/// `UPDATE`, of one table or several.
#[derive(Clone, Debug, PartialEq)]
pub struct Update {
    /// `WITH ..`.
    pub with: Option<With>,
    /// Texts of the `/*+ .. */` comments.
    pub hints: Vec<String>,
    /// `LOW_PRIORITY`.
    pub priority: Option<Priority>,
    /// `IGNORE`.
    pub ignore: bool,
    /// The comma list of tables and joins; one plain table in the common case.
    pub tables: Vec<TableRef>,
    /// `SET`, in order; at least one.
    pub assignments: Vec<Assignment>,
    /// `WHERE`.
    pub selection: Option<Expr>,
    /// `ORDER BY`; single-table form only.
    pub order_by: Vec<OrderByItem>,
    /// `LIMIT`; single-table form only.
    pub limit: Option<Limit>,
}

/// `DELETE`, of one table or several.
#[derive(Clone, Debug, PartialEq)]
pub struct Delete {
    /// `WITH ..`.
    pub with: Option<With>,
    /// Texts of the `/*+ .. */` comments.
    pub hints: Vec<String>,
    /// `LOW_PRIORITY`.
    pub priority: Option<Priority>,
    /// `QUICK`.
    pub quick: bool,
    /// `IGNORE`.
    pub ignore: bool,
    /// From which tables rows go in the multi-table form (names or aliases of `from`);
    /// empty in the single-table form, where it is the one table in `from`.
    pub targets: Vec<ObjectName>,
    /// The tables read.
    pub from: Vec<TableRef>,
    /// `WHERE`.
    pub selection: Option<Expr>,
    /// `ORDER BY`; single-table form only.
    pub order_by: Vec<OrderByItem>,
    /// `LIMIT`; single-table form only.
    pub limit: Option<Limit>,
}
