//! Queries: everything that yields rows.

use super::ObjectName;
use super::expr::{ColumnRef, Expr, WindowSpec};

/// A query with its `WITH`, ordering, limit and locks.
#[derive(Clone, Debug, PartialEq)]
pub struct Query {
    /// The common table expressions.
    pub with: Option<With>,
    /// What yields the rows.
    pub body: QueryBody,
    /// `ORDER BY` of the whole.
    pub order_by: Vec<OrderByItem>,
    /// `LIMIT` of the whole.
    pub limit: Option<Limit>,
    /// `FOR UPDATE`, `FOR SHARE`; several with different `OF` lists are allowed.
    pub locks: Vec<LockClause>,
}

/// `WITH [RECURSIVE] ..`.
#[derive(Clone, Debug, PartialEq)]
pub struct With {
    /// `RECURSIVE` was written.
    pub recursive: bool,
    /// The tables in order.
    pub ctes: Vec<Cte>,
}

/// One common table expression.
#[derive(Clone, Debug, PartialEq)]
pub struct Cte {
    /// Its name.
    pub name: String,
    /// Column names, when written.
    pub columns: Vec<String>,
    /// Its rows.
    pub query: Box<Query>,
}

/// The body of a query.
#[derive(Clone, Debug, PartialEq)]
pub enum QueryBody {
    /// `SELECT ..`.
    Select(Box<Select>),
    /// `left UNION right`, left-associative, `INTERSECT` first.
    SetOperation {
        /// Which.
        op: SetOperator,
        /// `ALL`; without it duplicates are removed.
        all: bool,
        /// Left rows.
        left: Box<QueryBody>,
        /// Right rows.
        right: Box<QueryBody>,
    },
    /// `(query)` with an ordering, limit, lock or `WITH` of its own.
    Nested(Box<Query>),
    /// `VALUES ROW(1, 2), ROW(3, 4)`; at least one row.
    Values(Vec<Vec<Expr>>),
    /// `TABLE t`.
    Table(ObjectName),
}

/// Set operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SetOperator {
    /// `UNION`.
    Union,
    /// `EXCEPT`.
    Except,
    /// `INTERSECT`.
    Intersect,
}

/// `SELECT` proper.
#[derive(Clone, Debug, PartialEq)]
pub struct Select {
    /// Texts of the `/*+ .. */` comments, as they stand between the signs.
    pub hints: Vec<String>,
    /// Words between `SELECT` and the items.
    pub modifiers: SelectModifiers,
    /// What is selected; at least one.
    pub items: Vec<SelectItem>,
    /// The comma list after `FROM`; empty for `SELECT 1` and `FROM DUAL`.
    pub from: Vec<TableRef>,
    /// `WHERE`.
    pub selection: Option<Expr>,
    /// `GROUP BY`.
    pub group_by: Vec<Expr>,
    /// `WITH ROLLUP`.
    pub rollup: bool,
    /// `HAVING`.
    pub having: Option<Expr>,
    /// `WINDOW name AS (..)`.
    pub windows: Vec<NamedWindow>,
}

/// Words between `SELECT` and the items.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SelectModifiers {
    /// `DISTINCT`, `DISTINCTROW`.
    pub distinct: bool,
    /// `SQL_CALC_FOUND_ROWS`.
    pub calc_found_rows: bool,
    /// `STRAIGHT_JOIN`.
    pub straight_join: bool,
    /// `HIGH_PRIORITY`.
    pub high_priority: bool,
    /// `SQL_NO_CACHE`.
    pub no_cache: bool,
}

/// One selected item.
#[derive(Clone, Debug, PartialEq)]
pub enum SelectItem {
    /// `*`.
    Wildcard,
    /// `t.*`, `db.t.*`.
    QualifiedWildcard(ObjectName),
    /// A value.
    Expr {
        /// What.
        expr: Expr,
        /// `AS alias`.
        alias: Option<String>,
        /// The expression as written (of a string, its characters): the name of the result
        /// column when there is no alias and the expression is not a plain column.
        text: String,
    },
}

/// `name AS (spec)`.
#[derive(Clone, Debug, PartialEq)]
pub struct NamedWindow {
    /// The name.
    pub name: String,
    /// The window.
    pub spec: WindowSpec,
}

/// Something in `FROM`.
#[derive(Clone, Debug, PartialEq)]
pub enum TableRef {
    /// A table, view or common table expression.
    Table(Box<TableFactor>),
    /// `[LATERAL] (query) AS alias (columns)`.
    Derived {
        /// The rows.
        query: Box<Query>,
        /// The alias; MySQL wants one.
        alias: String,
        /// Column names, when written.
        columns: Vec<String>,
        /// May see the tables to its left.
        lateral: bool,
    },
    /// `left JOIN right`.
    Join(Box<Join>),
    /// `(a, b)`: a comma list in parentheses; at least two.
    Group(Vec<TableRef>),
}

/// A named table in `FROM`.
#[derive(Clone, Debug, PartialEq)]
pub struct TableFactor {
    /// Its name.
    pub name: ObjectName,
    /// `AS alias`.
    pub alias: Option<String>,
    /// `PARTITION (p0, p1)`.
    pub partitions: Vec<String>,
    /// `USE INDEX (..)` and its kin.
    pub index_hints: Vec<IndexHint>,
    /// `AS OF TIMESTAMP expr`.
    pub as_of: Option<Expr>,
}

/// `USE | FORCE | IGNORE INDEX [FOR ..] (..)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexHint {
    /// What to do with the indexes.
    pub kind: IndexHintKind,
    /// `FOR ..`.
    pub scope: IndexHintScope,
    /// The indexes; an empty `USE INDEX ()` means none at all.
    pub indexes: Vec<String>,
}

/// What an index hint asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IndexHintKind {
    /// `USE`.
    Use,
    /// `FORCE`.
    Force,
    /// `IGNORE`.
    Ignore,
}

/// What an index hint is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IndexHintScope {
    /// Everything.
    All,
    /// `FOR JOIN`.
    Join,
    /// `FOR ORDER BY`.
    OrderBy,
    /// `FOR GROUP BY`.
    GroupBy,
}

/// A join of two.
#[derive(Clone, Debug, PartialEq)]
pub struct Join {
    /// Left side.
    pub left: TableRef,
    /// Right side.
    pub right: TableRef,
    /// Which rows survive.
    pub kind: JoinKind,
    /// How rows meet.
    pub condition: JoinCondition,
}

/// Which rows survive a join.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum JoinKind {
    /// `[INNER | CROSS] JOIN`: one thing in MySQL.
    Inner,
    /// `LEFT [OUTER] JOIN`.
    Left,
    /// `RIGHT [OUTER] JOIN`.
    Right,
    /// `STRAIGHT_JOIN`: inner, the left side is read first.
    Straight,
}

/// How rows of a join meet.
#[derive(Clone, Debug, PartialEq)]
pub enum JoinCondition {
    /// All pairs.
    None,
    /// `ON`.
    On(Expr),
    /// `USING (..)`.
    Using(Vec<String>),
    /// `NATURAL`.
    Natural,
}

/// One ordering term.
#[derive(Clone, Debug, PartialEq)]
pub struct OrderByItem {
    /// By what: an expression, an alias or a position.
    pub expr: Expr,
    /// `DESC`.
    pub descending: bool,
}

/// `LIMIT [offset,] count`, `LIMIT count OFFSET offset`. Both are integers or parameters.
#[derive(Clone, Debug, PartialEq)]
pub struct Limit {
    /// Rows at most.
    pub count: Expr,
    /// Rows skipped.
    pub offset: Option<Expr>,
}

/// `FOR UPDATE | SHARE [OF ..] [NOWAIT | SKIP LOCKED | WAIT n]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockClause {
    /// How strong.
    pub strength: LockStrength,
    /// `OF`: these tables only.
    pub tables: Vec<ObjectName>,
    /// What to do about a locked row.
    pub wait: LockWait,
}

/// How strong a row lock is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LockStrength {
    /// `FOR SHARE`, `LOCK IN SHARE MODE`.
    Share,
    /// `FOR UPDATE`.
    Update,
}

/// What to do about a row somebody else has locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LockWait {
    /// Wait as long as the session's setting says.
    Default,
    /// `NOWAIT`: fail at once.
    NoWait,
    /// `SKIP LOCKED`: leave it out.
    SkipLocked,
    /// `WAIT n`: seconds.
    Seconds(u64),
}

impl Query {
    /// A query that is nothing but its body.
    pub fn plain(body: QueryBody) -> Query {
        Query { with: None, body, order_by: Vec::new(), limit: None, locks: Vec::new() }
    }
}

impl From<ColumnRef> for Expr {
    fn from(column: ColumnRef) -> Expr {
        Expr::Column(column)
    }
}
