//! The algebra of a query, before it is known how it will be run.
//!
//! **Columns.** During planning every column of the statement has a number of its own
//! ([`Col`], an index into [`Columns`]), and `Expr::Column` holds that number. Nodes
//! can be moved without touching expressions; only the physical planner turns numbers
//! into offsets. A column that passes through a projection, a group or a sort
//! unchanged keeps its number.
//!
//! **Correlation.** A column that no node below produces is free: it belongs to an
//! enclosing query. A join whose right side has columns of the left side free is run
//! row by row (Apply) unless the decorrelation rule gets rid of them.

mod readers;
pub mod tree;

use std::sync::Arc;

use cairn_executor::plan::{JoinKind, WindowFrame, WindowFunc};
use cairn_expr::Expr;
use cairn_expr::agg::AggDesc;
use cairn_types::FieldType;

use crate::catalog::{ROW_ID_NAME, TableInfo};
use crate::plan::{RowLimit, RowLock};

pub use readers::Readers;

/// Number of a column in the statement.
pub type Col = usize;

/// Every column of a statement.
#[derive(Debug, Default)]
pub struct Columns {
    list: Vec<ColumnMeta>,
}

/// Where a column comes from.
#[derive(Clone, Debug)]
pub struct ColumnMeta {
    /// Its type.
    pub ty: FieldType,
    /// `db.table.column`; `None` for computed columns.
    pub name: Option<Arc<str>>,
}

impl Columns {
    /// A computed column.
    pub fn add(&mut self, ty: FieldType) -> Col {
        self.list.push(ColumnMeta { ty, name: None });
        self.list.len() - 1
    }

    /// A column of a table.
    pub fn add_named(&mut self, ty: FieldType, name: impl Into<Arc<str>>) -> Col {
        self.list.push(ColumnMeta { ty, name: Some(name.into()) });
        self.list.len() - 1
    }

    /// Its type.
    pub fn ty(&self, col: Col) -> &FieldType {
        &self.list[col].ty
    }

    /// Its name as EXPLAIN prints it.
    pub fn name(&self, col: Col) -> Arc<str> {
        match self.list.get(col).and_then(|meta| meta.name.clone()) {
            Some(name) => name,
            None => format!("Column#{}", col + 1).into(),
        }
    }

    /// The column as an expression.
    pub fn expr(&self, col: Col) -> Expr {
        Expr::column(col, self.list[col].ty.clone())
    }
}

/// A node with everything below it.
#[derive(Clone, Debug)]
pub enum Logical {
    /// Reads a table.
    Scan(Box<LogicalScan>),
    /// Rows without columns: one (`SELECT 1`) or none (a condition that is never
    /// true); then it may stand for a node with columns.
    Dual {
        /// 0 or 1.
        rows: usize,
        /// Columns of the node it stands for; empty if `rows` is 1.
        columns: Vec<Col>,
    },
    /// `VALUES ROW(..), ..`.
    Values {
        /// Columns.
        columns: Vec<Col>,
        /// Rows of as many expressions.
        rows: Vec<Vec<Expr>>,
    },
    /// Keeps rows for which all conditions are true.
    Filter {
        /// Conjuncts.
        conditions: Vec<Expr>,
        /// Below.
        input: Box<Logical>,
    },
    /// Computes columns.
    Project {
        /// Columns and what they are. A column that stands for itself keeps its number.
        exprs: Vec<(Col, Expr)>,
        /// Below.
        input: Box<Logical>,
    },
    /// Groups.
    Aggregate(Box<LogicalAggregate>),
    /// Adds columns of window functions; rows come in the window's order.
    Window(Box<LogicalWindow>),
    /// Joins.
    Join(Box<LogicalJoin>),
    /// Sorts.
    Sort {
        /// By what, and whether descending.
        by: Vec<SortKey>,
        /// Below.
        input: Box<Logical>,
    },
    /// The first rows.
    Limit {
        /// How many.
        limit: RowLimit,
        /// Below.
        input: Box<Logical>,
    },
    /// Sort and limit at once.
    TopN {
        /// By what.
        by: Vec<SortKey>,
        /// How many.
        limit: RowLimit,
        /// Below.
        input: Box<Logical>,
    },
    /// All rows of all inputs.
    Union {
        /// Columns of the result.
        columns: Vec<Col>,
        /// Inputs, each with its columns in the result's order.
        inputs: Vec<(Logical, Vec<Col>)>,
    },
    /// A union that reads itself, round by round.
    Recursive(Box<LogicalRecursive>),
    /// The rows that a recursive union found in the round before.
    WorkTable {
        /// The union's number.
        id: usize,
        /// As many columns as the union has.
        columns: Vec<Col>,
    },
    /// A query with several readers, whose rows are made once.
    Shared(Box<LogicalShared>),
    /// At most one row, NULLs if there is none.
    MaxOneRow {
        /// Below.
        input: Box<Logical>,
    },
    /// Locks rows read below.
    Lock {
        /// What and how.
        lock: Box<LogicalLock>,
        /// Below.
        input: Box<Logical>,
    },
}

/// An ORDER BY item.
#[derive(Clone, Debug, PartialEq)]
pub struct SortKey {
    /// By what.
    pub expr: Expr,
    /// DESC.
    pub desc: bool,
}

/// A table in FROM.
#[derive(Clone, Debug)]
pub struct LogicalScan {
    /// Its database.
    pub db: String,
    /// Its alias, or its name.
    pub alias: String,
    /// The table.
    pub table: Arc<TableInfo>,
    /// Columns read.
    pub columns: Vec<ScanCol>,
    /// Conditions on its rows.
    pub conditions: Vec<Expr>,
    /// Which indexes may be used.
    pub hints: IndexHints,
    /// How it is to be joined.
    pub join_hints: JoinHints,
}

/// A column of a table in FROM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScanCol {
    /// Its number.
    pub col: Col,
    /// Its offset in the table; `None`: the hidden row id.
    pub offset: Option<usize>,
}

impl LogicalScan {
    /// The number of a table's column, if it is read.
    pub fn col_of(&self, offset: Option<usize>) -> Option<Col> {
        self.columns.iter().find(|column| column.offset == offset).map(|column| column.col)
    }

    /// The offset of a column in the table.
    pub fn offset_of(&self, col: Col) -> Option<Option<usize>> {
        self.columns.iter().find(|column| column.col == col).map(|column| column.offset)
    }

    /// Name of the column at an offset.
    pub fn column_name(table: &TableInfo, offset: Option<usize>) -> &str {
        match offset {
            Some(offset) => &table.columns[offset].name,
            None => ROW_ID_NAME,
        }
    }
}

/// USE, FORCE and IGNORE INDEX, as offsets in the table's indexes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IndexHints {
    /// Only these may be used (or none but the table, if empty).
    pub only: Option<Vec<usize>>,
    /// A scan of the table is the last resort.
    pub force: bool,
    /// These may not be used.
    pub ignore: Vec<usize>,
    /// The clustered primary key was named.
    pub allow_table: bool,
}

/// What optimizer hints say of how a table is joined.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JoinHints {
    /// Its rows are to be looked up by an index.
    pub index: bool,
    /// By hash.
    pub hash: bool,
    /// Its rows must not be looked up.
    pub no_index: bool,
    /// Not by hash.
    pub no_hash: bool,
    /// By hash, in the stores.
    pub broadcast: bool,
    /// Not in the stores.
    pub no_broadcast: bool,
    /// It is among the first to be joined, at this place.
    pub leading: Option<usize>,
}

impl JoinHints {
    /// Both what these say and what `other` says.
    pub fn add(&mut self, other: JoinHints) {
        self.index |= other.index;
        self.hash |= other.hash;
        self.no_index |= other.no_index;
        self.no_hash |= other.no_hash;
        self.broadcast |= other.broadcast;
        self.no_broadcast |= other.no_broadcast;
        self.leading = self.leading.or(other.leading);
    }
}

/// Groups rows and computes aggregates.
#[derive(Clone, Debug)]
pub struct LogicalAggregate {
    /// Group columns and what they are; a plain column keeps its number.
    pub groups: Vec<(Col, Expr)>,
    /// Aggregates.
    pub aggs: Vec<(Col, AggDesc)>,
    /// Below.
    pub input: Logical,
}

/// Window functions over one window. The input's rows must come sorted by `partition_by`, then by
/// `order_by`: the binder puts a [`Logical::Sort`] below, and no rule may take it away.
#[derive(Clone, Debug)]
pub struct LogicalWindow {
    /// The window's name, for messages.
    pub name: String,
    /// Columns whose values make a partition.
    pub partition_by: Vec<Expr>,
    /// Columns by whose values rows are peers.
    pub order_by: Vec<SortKey>,
    /// What functions look at.
    pub frame: WindowFrame,
    /// The functions.
    pub functions: Vec<(Col, WindowFunc)>,
    /// Below.
    pub input: Logical,
}

/// A join; comma lists are inner joins without conditions.
#[derive(Clone, Debug)]
pub struct LogicalJoin {
    /// Which rows survive; never `RightOuter` (sides are swapped).
    pub kind: JoinKind,
    /// Conditions on pairs of rows.
    pub conditions: Vec<Expr>,
    /// Pairs (left, right) of an IN whose NULLs make the answer unknown; empty if they
    /// do not matter, then they are equalities in `conditions`.
    pub in_keys: Vec<(Expr, Expr)>,
    /// The column that tells of a match, if the kind has one.
    pub mark: Option<Col>,
    /// The order was forced (STRAIGHT_JOIN).
    pub straight: bool,
    /// Left side.
    pub left: Logical,
    /// Right side; may have columns of the left side free.
    pub right: Logical,
}

/// A common table expression and one of its readers. The query's columns are the same for all readers
/// and known only within; the first reader has them as its own, the others have others.
#[derive(Clone, Debug)]
pub struct LogicalShared {
    /// Number of the query.
    pub id: usize,
    /// Columns of the reader.
    pub columns: Vec<Col>,
    /// The query's columns, in the same order.
    pub own: Vec<Col>,
    /// The query.
    pub input: Logical,
}

/// A recursive common table expression: the rows of the seed, then those that the parts make of
/// them, then those that they make of these, until there are no more.
#[derive(Clone, Debug)]
pub struct LogicalRecursive {
    /// Its number; a [`Logical::WorkTable`] of the same number is in each part.
    pub id: usize,
    /// Columns of the result; of the seed's types.
    pub columns: Vec<Col>,
    /// Their names, for messages.
    pub names: Vec<Arc<str>>,
    /// Rows that were there before are left out.
    pub distinct: bool,
    /// The seed with its columns in the result's order.
    pub seed: (Logical, Vec<Col>),
    /// What makes rows of those of the last round; their values are stored in the seed's types.
    pub parts: Vec<(Logical, Vec<Col>)>,
}

/// FOR UPDATE, FOR SHARE.
#[derive(Clone, Debug)]
pub struct LogicalLock {
    /// How.
    pub how: RowLock,
    /// Tables whose rows are locked, with the columns that make the handle.
    pub tables: Vec<(Arc<TableInfo>, Vec<Col>)>,
}
