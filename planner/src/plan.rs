//! What the planner hands out: immutable plans, shared by sessions through `Arc`.
//!
//! **Parameter slots.** A plan holds `Expr::Param` slots in place of values that are
//! known only when it runs. Slots `0..param_count` are the statement's `?` markers.
//! Slots above, up to `slot_count`, belong to the plan: results of [`Subplan`]s, run
//! once before the rest, and columns of the left row that [`PhysicalOp::Apply`] hands
//! to its right side, row by row. Whoever runs a plan makes `EvalContext::params` of
//! `slot_count` values, NULL where nothing is known yet, and fills them in that order.
//!
//! **Operator ids.** Every operator, those inside fragments too, has an id unique
//! within the plan; run-time statistics are kept by it, and EXPLAIN prints it.

use std::sync::Arc;

use cairn_executor::plan::{
    AggregationDesc, ApplyDesc, EvalSettings, Fragment, HashJoinDesc, IndexJoinDesc, JoinSide,
    LimitDesc, OpDesc, ProjectionDesc, SelectionDesc, SortDesc, SortItem, TopNDesc, WindowDesc,
};
use cairn_expr::{EvalContext, Expr};
use cairn_parser::ast::{LockStrength, LockWait};
use cairn_types::{Datum, FieldType};

use crate::catalog::{IndexInfo, TableInfo};
use crate::identity::PlanIdentity;
use crate::ranger::RangeSpec;

/// A planned statement.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What to do.
    pub kind: PlanKind,
    /// Subqueries whose result the rest of the plan reads from slots; to be run in
    /// order, before anything else.
    pub subplans: Vec<Subplan>,
    /// Result columns; empty for statements that yield no rows.
    pub columns: Arc<[OutputColumn]>,
    /// The statement's `?` markers.
    pub param_count: usize,
    /// All parameter slots.
    pub slot_count: usize,
    /// Whether the plan may be used again with other parameters and later.
    pub cacheable: bool,
    /// Tables the statement touches and what it does with them (for privileges
    /// and metadata checks).
    pub tables: Vec<TableAccess>,
    /// What the statement and the plan are known by.
    pub identity: PlanIdentity,
}

/// The kinds of planned statements.
#[derive(Clone, Debug)]
pub enum PlanKind {
    /// Yields rows.
    Query(PhysicalPlan),
    /// INSERT, REPLACE.
    Insert(Box<InsertPlan>),
    /// UPDATE.
    Update(Box<UpdatePlan>),
    /// DELETE.
    Delete(Box<DeletePlan>),
}

impl Plan {
    /// The plan of the rows read: of a query itself, else of the statement's
    /// select part.
    pub fn source(&self) -> Option<&PhysicalPlan> {
        match &self.kind {
            PlanKind::Query(plan) => Some(plan),
            PlanKind::Insert(insert) => match &insert.source {
                InsertRows::Select(plan) => Some(plan),
                InsertRows::Values(_) => None,
            },
            PlanKind::Update(update) => Some(&update.source),
            PlanKind::Delete(delete) => Some(&delete.source),
        }
    }

    /// Whether what the statement reads is locked, in its source or in a subquery.
    pub fn takes_locks(&self) -> bool {
        let subqueries = self.subplans.iter().map(|subplan| &subplan.plan);
        self.source().into_iter().chain(subqueries).any(PhysicalPlan::takes_locks)
    }

    /// Whether the statement only reads and takes no locks.
    pub fn is_read_only(&self) -> bool {
        matches!(&self.kind, PlanKind::Query(plan) if !plan.takes_locks())
    }
}

/// A subquery that does not depend on the row: run once.
#[derive(Clone, Debug)]
pub struct Subplan {
    /// What to run.
    pub plan: PhysicalPlan,
    /// What becomes of the rows.
    pub kind: SubplanKind,
    /// First slot to fill.
    pub slot: usize,
}

/// What becomes of the rows of a [`Subplan`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SubplanKind {
    /// The columns of the only row go to slots `slot..slot + columns`, NULLs if there
    /// is no row; error 1242 if there are more.
    Scalar {
        /// How many columns.
        columns: usize,
    },
    /// 1 or 0 goes to the slot: whether there is a row. One row is enough to know.
    Exists,
    /// The only row holds the arguments of a locking function, whose answer goes to the slot.
    NamedLock(NamedLockCall),
}

/// What a locking function does with a lock that has a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NamedLockCall {
    /// `GET_LOCK(name, seconds)`.
    Get,
    /// `RELEASE_LOCK(name)`.
    Release,
    /// `RELEASE_ALL_LOCKS()`.
    ReleaseAll,
    /// `IS_FREE_LOCK(name)`.
    IsFree,
    /// `IS_USED_LOCK(name)`.
    IsUsed,
}

/// What a statement does with a table.
#[derive(Clone, Debug, PartialEq)]
pub struct TableAccess {
    /// Its database.
    pub db: String,
    /// The table.
    pub table: Arc<TableInfo>,
    /// How the statement names it: its alias, or its name.
    pub alias: String,
    /// Which privilege that asks for.
    pub kind: AccessKind,
}

/// Kinds of access to a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AccessKind {
    /// SELECT.
    Select,
    /// SELECT … FOR UPDATE of its rows.
    Lock,
    /// INSERT.
    Insert,
    /// UPDATE.
    Update,
    /// DELETE.
    Delete,
}

/// A column of the result, as the protocol describes it.
#[derive(Clone, Debug, PartialEq)]
pub struct OutputColumn {
    /// Alias, or the expression as written.
    pub name: String,
    /// Name in the table; empty for expressions.
    pub org_name: String,
    /// Alias of the table.
    pub table: String,
    /// Name of the table.
    pub org_table: String,
    /// Database.
    pub db: String,
    /// Type.
    pub ty: FieldType,
    /// Flags of the protocol: those of the type and of the column's keys.
    pub flags: u16,
}

impl OutputColumn {
    /// A column that comes from no table.
    pub fn computed(name: impl Into<String>, ty: FieldType) -> OutputColumn {
        OutputColumn {
            name: name.into(),
            org_name: String::new(),
            table: String::new(),
            org_table: String::new(),
            db: String::new(),
            ty,
            flags: 0,
        }
    }
}

/// A column between operators.
#[derive(Clone, Debug, PartialEq)]
pub struct PlanColumn {
    /// `db.table.column`, or `Column#n`.
    pub name: Arc<str>,
    /// Type.
    pub ty: FieldType,
}

/// One operator of the root task with everything below it.
#[derive(Clone, Debug)]
pub struct PhysicalPlan {
    /// Unique within the plan.
    pub id: usize,
    /// What it does.
    pub op: PhysicalOp,
    /// What it reads.
    pub children: Vec<PhysicalPlan>,
    /// Estimated rows.
    pub row_count: f64,
    /// Columns it produces.
    pub schema: Vec<PlanColumn>,
}

impl PhysicalPlan {
    /// Types of the output columns.
    pub fn types(&self) -> Vec<FieldType> {
        self.schema.iter().map(|column| column.ty.clone()).collect()
    }

    /// The operator's name and number as EXPLAIN prints them.
    pub fn explain_id(&self) -> String {
        format!("{}_{}", self.op.name(), self.id)
    }

    /// The only reader of a plan that reads one table, at the end of a chain of operators.
    pub fn reader(&self) -> Option<&Reader> {
        match (&self.op, &self.children[..]) {
            (
                PhysicalOp::TableReader(reader)
                | PhysicalOp::IndexReader(reader)
                | PhysicalOp::IndexLookUp(reader),
                tables,
            ) => Some(&**reader).filter(|_| tables.is_empty()),
            (_, [child]) => child.reader(),
            _ => None,
        }
    }

    /// Whether some operator locks the rows it reads.
    pub fn takes_locks(&self) -> bool {
        match &self.op {
            PhysicalOp::SelectLock(_) => true,
            PhysicalOp::PointGet(get) => get.lock.is_some(),
            PhysicalOp::BatchPointGet(get) => get.lock.is_some(),
            _ => self.children.iter().any(PhysicalPlan::takes_locks),
        }
    }
}

/// The operators of the root task. Those with descriptors of cairn-executor run as
/// its operators of the same name; expressions are over the child's columns.
#[derive(Clone, Debug)]
pub enum PhysicalOp {
    /// One row by handle or unique key, without a coprocessor.
    PointGet(Box<PointGet>),
    /// A list of rows by handle or unique key.
    BatchPointGet(Box<BatchPointGet>),
    /// Runs a fragment over row ranges. Children of this and the next two: the tables that the fragment's
    /// joins name by their number.
    TableReader(Box<Reader>),
    /// Runs a fragment over the ranges of an index that holds all that is asked.
    IndexReader(Box<Reader>),
    /// Runs a fragment over index ranges; stores read the rows.
    IndexLookUp(Box<Reader>),
    /// Rows the SQL tier makes (information_schema).
    MemTableScan(Box<MemTableScan>),
    /// No table: this many rows of no columns.
    Dual {
        /// 0 or 1.
        rows: usize,
    },
    /// Rows of expressions.
    Values {
        /// The rows; each as long as the schema.
        rows: Vec<Vec<Expr>>,
    },
    /// Keeps rows.
    Selection(SelectionDesc),
    /// Computes columns.
    Projection(ProjectionDesc),
    /// Groups by hash.
    HashAgg(AggregationDesc),
    /// Groups rows that arrive clustered.
    StreamAgg(AggregationDesc),
    /// Window functions over rows sorted by the window.
    Window(Box<WindowDesc>),
    /// Sorts.
    Sort(SortDesc),
    /// The first rows in an order.
    TopN {
        /// ORDER BY.
        order_by: Vec<SortItem>,
        /// How many.
        limit: RowLimit,
    },
    /// The first rows as they come.
    Limit(RowLimit),
    /// Joins two inputs.
    HashJoin(HashJoinDesc),
    /// Joins batches of outer rows with the inner rows that their keys name.
    IndexJoin(Box<IndexJoin>),
    /// Runs the right side for every left row.
    Apply(Apply),
    /// All rows of all inputs, which have the same types.
    UnionAll,
    /// A recursive common table expression: the first input is run once, the others for the rows of
    /// each round.
    Recursive(Box<RecursiveUnion>),
    /// A common table expression with several readers: whoever is the first runs its input.
    SharedCte {
        /// The same for all of its readers, whose inputs are the same too.
        id: usize,
    },
    /// The rows of the last round.
    WorkTable {
        /// Number of the [`PhysicalOp::Recursive`] they belong to.
        id: usize,
    },
    /// At most one row: NULLs if the input has none, error 1242 if it has more.
    MaxOneRow,
    /// Locks the rows read below (`FOR UPDATE`).
    SelectLock(SelectLock),
}

impl PhysicalOp {
    /// The name EXPLAIN prints.
    pub fn name(&self) -> &'static str {
        match self {
            PhysicalOp::PointGet(_) => "Point_Get",
            PhysicalOp::BatchPointGet(_) => "Batch_Point_Get",
            PhysicalOp::TableReader(_) => "TableReader",
            PhysicalOp::IndexReader(_) => "IndexReader",
            PhysicalOp::IndexLookUp(_) => "IndexLookUp",
            PhysicalOp::MemTableScan(_) => "MemTableScan",
            PhysicalOp::Dual { .. } => "TableDual",
            PhysicalOp::Values { .. } => "Values",
            PhysicalOp::Selection(_) => "Selection",
            PhysicalOp::Projection(_) => "Projection",
            PhysicalOp::HashAgg(_) => "HashAgg",
            PhysicalOp::StreamAgg(_) => "StreamAgg",
            PhysicalOp::Window(_) => "Window",
            PhysicalOp::Sort(_) => "Sort",
            PhysicalOp::TopN { .. } => "TopN",
            PhysicalOp::Limit(_) => "Limit",
            PhysicalOp::HashJoin(_) => "HashJoin",
            PhysicalOp::IndexJoin(_) => "IndexJoin",
            PhysicalOp::Apply(_) => "Apply",
            PhysicalOp::UnionAll => "Union",
            PhysicalOp::Recursive(_) => "CTE",
            PhysicalOp::SharedCte { .. } => "CTEFullScan",
            PhysicalOp::WorkTable { .. } => "CTETable",
            PhysicalOp::MaxOneRow => "MaxOneRow",
            PhysicalOp::SelectLock(_) => "SelectLock",
        }
    }
}

/// A count that may come from a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RowCount {
    /// Known.
    Const(u64),
    /// Value of a slot.
    Param(usize),
}

impl RowCount {
    /// The value. Parameters are unsigned by MySQL's rule: what is no such number
    /// counts as nothing.
    pub fn value(self, params: &[Datum]) -> u64 {
        match self {
            RowCount::Const(count) => count,
            RowCount::Param(slot) => match params.get(slot) {
                Some(Datum::Int(value)) => u64::try_from(*value).unwrap_or(0),
                Some(Datum::UInt(value)) => *value,
                _ => 0,
            },
        }
    }

    /// The value for estimates.
    pub fn estimate(self) -> f64 {
        match self {
            RowCount::Const(count) => count as f64,
            RowCount::Param(_) => LIMIT_PARAM_ESTIMATE,
        }
    }
}

/// Rows a `LIMIT ?` is taken to ask for.
const LIMIT_PARAM_ESTIMATE: f64 = 100.0;

/// `LIMIT offset, count`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RowLimit {
    /// Rows skipped.
    pub offset: RowCount,
    /// Rows at most.
    pub count: RowCount,
}

impl RowLimit {
    /// Rows that must be read: offset and count together.
    pub fn total(&self, params: &[Datum]) -> u64 {
        self.offset.value(params).saturating_add(self.count.value(params))
    }

    /// Estimate of the rows returned.
    pub fn estimate(&self) -> f64 {
        self.count.estimate()
    }

    /// Estimate of the rows that must be read.
    pub fn total_estimate(&self) -> f64 {
        self.offset.estimate() + self.count.estimate()
    }

    /// The limit as cairn-executor takes it.
    pub fn desc(&self, params: &[Datum]) -> LimitDesc {
        LimitDesc { offset: self.offset.value(params), limit: self.count.value(params) }
    }

    /// A TopN with this limit.
    pub fn top_n(&self, order_by: Vec<SortItem>, params: &[Datum]) -> TopNDesc {
        let limit = self.desc(params);
        TopNDesc { order_by, offset: limit.offset, limit: limit.limit }
    }
}

/// A fragment and where it runs.
#[derive(Clone, Debug)]
pub struct Reader {
    /// Database of the table.
    pub db: String,
    /// Alias of the table in the statement.
    pub alias: String,
    /// The table.
    pub table: Arc<TableInfo>,
    /// The index whose entries are scanned; `None`: rows.
    pub index: Option<Arc<IndexInfo>>,
    /// The operators from the scan upwards, with unbound parameters: see
    /// [`Reader::fragment`].
    pub operators: Vec<OpDesc>,
    /// What EXPLAIN tells of each of them.
    pub info: Vec<CopInfo>,
    /// What is scanned.
    pub ranges: RangeSpec,
    /// Rows must come in the order of the scan, over all regions.
    pub keep_order: bool,
    /// Backwards.
    pub desc: bool,
    /// The limit of the fragment's `Limit` or `TopN` operator, which keeps
    /// offset + count rows per task.
    pub limit: Option<RowLimit>,
    /// Whether the operators hold parameters or session functions.
    pub needs_binding: bool,
    /// Whether its estimates are guesses: the table was never analyzed.
    pub is_pseudo: bool,
    /// What reading one row for an index entry costs, in the units of [`crate::physical::cost`].
    pub lookup_cost: f64,
}

/// What EXPLAIN tells of an operator in a fragment.
#[derive(Clone, Debug)]
pub struct CopInfo {
    /// Unique within the plan.
    pub id: usize,
    /// `IndexRangeScan`, `TableRowIDScan`, …
    pub name: &'static str,
    /// Estimated rows.
    pub row_count: f64,
    /// Columns it produces.
    pub schema: Vec<PlanColumn>,
}

impl Reader {
    /// The fragment to send: parameters replaced by their values.
    pub fn fragment(&self, ctx: &mut EvalContext, settings: EvalSettings) -> Fragment {
        let mut operators = self.operators.clone();
        if self.needs_binding {
            operators.iter_mut().for_each(|operator| bind_operator(operator, ctx));
        }
        if let Some(limit) = &self.limit {
            let total = limit.total(&ctx.params);
            for operator in &mut operators {
                match operator {
                    OpDesc::TopN(top_n) => top_n.limit = total,
                    OpDesc::Limit(limit) => limit.limit = total,
                    _ => {}
                }
            }
        }
        Fragment { operators, settings }
    }

    /// The fragment for rows a store could not read itself (they live elsewhere):
    /// a table scan over their keys, then everything above the look-up. `None` if
    /// the fragment has no look-up.
    pub fn remote_fragment(fragment: &Fragment) -> Option<Fragment> {
        let at = fragment.operators.iter().position(|op| matches!(op, OpDesc::IndexLookup(_)))?;
        let OpDesc::IndexLookup(lookup) = &fragment.operators[at] else { return None };
        let scan = cairn_executor::plan::TableScanDesc {
            table_id: lookup.table_id,
            columns: lookup.columns.clone(),
            desc: false,
            handle_types: lookup.handle_types.clone(),
        };
        let mut operators = vec![OpDesc::TableScan(scan)];
        operators.extend(fragment.operators[at + 1..].iter().cloned());
        Some(Fragment { operators, settings: fragment.settings.clone() })
    }
}

/// Replaces parameters and session functions in an operator by their values.
fn bind_operator(operator: &mut OpDesc, ctx: &mut EvalContext) {
    let mut bind = |exprs: &mut Vec<Expr>| {
        for expr in exprs {
            *expr = expr.bind(ctx);
        }
    };
    match operator {
        OpDesc::Selection(selection) => bind(&mut selection.conditions),
        OpDesc::Projection(projection) => bind(&mut projection.exprs),
        OpDesc::Aggregation(aggregation) => {
            bind(&mut aggregation.group_by);
            aggregation.aggs.iter_mut().for_each(|agg| bind(&mut agg.args));
        }
        OpDesc::TopN(top_n) => {
            top_n.order_by.iter_mut().for_each(|item| item.expr = item.expr.bind(ctx));
        }
        OpDesc::HashJoin(desc) => {
            bind(&mut desc.join.left_keys);
            bind(&mut desc.join.right_keys);
            bind(&mut desc.join.other_conditions);
        }
        OpDesc::TableScan(_)
        | OpDesc::IndexScan(_)
        | OpDesc::IndexLookup(_)
        | OpDesc::Limit(_)
        | OpDesc::Sample(_) => {}
    }
}

/// A row by its whole key.
#[derive(Clone, Debug)]
pub struct PointGet {
    /// The row wanted.
    pub access: PointAccess,
    /// Values of the key, one per key column, already cast to the column's type.
    pub key: Vec<Expr>,
    /// `FOR UPDATE`, `FOR SHARE`, or the read of an UPDATE or DELETE.
    pub lock: Option<RowLock>,
}

/// Rows by their whole keys.
#[derive(Clone, Debug)]
pub struct BatchPointGet {
    /// The rows wanted.
    pub access: PointAccess,
    /// Their keys, each as in [`PointGet::key`]; equal ones give one row.
    pub keys: Vec<Vec<Expr>>,
    /// `FOR UPDATE`, `FOR SHARE`, or the read of an UPDATE or DELETE.
    pub lock: Option<RowLock>,
}

/// What a point read reads.
#[derive(Clone, Debug)]
pub struct PointAccess {
    /// Database of the table.
    pub db: String,
    /// Alias of the table in the statement.
    pub alias: String,
    /// The table.
    pub table: Arc<TableInfo>,
    /// The unique index; `None`: the key is the row's handle.
    pub index: Option<Arc<IndexInfo>>,
    /// Output: offsets of table columns, or [`PointColumn::Handle`].
    pub columns: Vec<PointColumn>,
    /// Further conditions over the output columns.
    pub conditions: Vec<Expr>,
}

/// An output column of a point read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PointColumn {
    /// A column of the table, by offset.
    Column(usize),
    /// The hidden integer handle.
    Handle,
}

/// A scan of a virtual table.
#[derive(Clone, Debug)]
pub struct MemTableScan {
    /// Its database.
    pub db: String,
    /// Alias in the statement.
    pub alias: String,
    /// The table.
    pub table: Arc<TableInfo>,
    /// Output: offsets of table columns.
    pub columns: Vec<usize>,
    /// Conditions over the output, which are checked above again: the source may
    /// use them to make fewer rows.
    pub conditions: Vec<Expr>,
}

/// A join that reads of its inner input only what some outer row can match.
#[derive(Clone, Debug)]
pub struct IndexJoin {
    /// The join; the build side is the inner input.
    pub desc: IndexJoinDesc,
    /// The slots that the key ranges of the inner input's reader take the lookup keys from.
    pub slots: Vec<usize>,
    /// For EXPLAIN: what of the outer row is compared with columns of the inner key.
    pub outer_keys: Vec<Expr>,
    /// For EXPLAIN: those columns' names.
    pub inner_keys: Vec<Arc<str>>,
}

impl IndexJoin {
    /// Which child is the outer input, and which the inner one.
    pub fn sides(&self) -> (usize, usize) {
        match self.desc.join.build_side {
            JoinSide::Right => (0, 1),
            JoinSide::Left => (1, 0),
        }
    }
}

/// A join whose right side depends on the left row.
#[derive(Clone, Debug)]
pub struct Apply {
    /// The join; `outer_columns` are the left columns the right side depends on.
    pub desc: ApplyDesc,
    /// The slot each of them is put into before the right side runs.
    pub slots: Vec<usize>,
}

/// A union that reads itself.
#[derive(Clone, Debug)]
pub struct RecursiveUnion {
    /// Its number.
    pub id: usize,
    /// Names of the columns, for messages.
    pub names: Vec<Arc<str>>,
    /// Rows that were there before are left out.
    pub distinct: bool,
}

/// How rows are locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowLock {
    /// `FOR UPDATE` or `FOR SHARE`.
    pub strength: LockStrength,
    /// What to do about locks of others.
    pub wait: LockWait,
}

/// Which of the rows below are locked.
#[derive(Clone, Debug)]
pub struct SelectLock {
    /// How.
    pub how: RowLock,
    /// The tables.
    pub tables: Vec<LockedTable>,
    /// The LIMIT above, if rows are left out: no more rows are locked than it asks for.
    pub limit: Option<RowLimit>,
}

/// A table whose rows are locked, and how to know them.
#[derive(Clone, Debug)]
pub struct LockedTable {
    /// The table.
    pub table: Arc<TableInfo>,
    /// Where the handle is in the input.
    pub handle: HandleSource,
}

/// Where the handle of a table's row is in a row of the input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HandleSource {
    /// An integer column.
    Int(usize),
    /// The columns of the clustered primary key, in key order.
    Common(Vec<usize>),
}

/// INSERT, REPLACE.
#[derive(Clone, Debug)]
pub struct InsertPlan {
    /// Database of the table.
    pub db: String,
    /// The table.
    pub table: Arc<TableInfo>,
    /// Offsets of the table's columns that the source gives, in its order.
    pub columns: Vec<usize>,
    /// Where rows come from.
    pub source: InsertRows,
    /// Generated columns, to be computed for each row in this order.
    pub generated: Vec<GeneratedValue>,
    /// REPLACE.
    pub replace: bool,
    /// IGNORE.
    pub ignore: bool,
    /// ON DUPLICATE KEY UPDATE, in order; each sees the changes of those before.
    /// Expressions are over the stored row (all columns of the table by offset)
    /// followed by the row that was to be inserted (the same again), followed by
    /// the row of the SELECT, if there is one.
    pub on_duplicate: Vec<Assignment>,
}

/// Rows of an INSERT.
#[derive(Clone, Debug)]
pub enum InsertRows {
    /// `VALUES`. Expressions see the columns of the row (by offset in the table)
    /// that were set before them; others have their defaults.
    Values(Vec<Vec<InsertValue>>),
    /// Rows of a query, in the order of [`InsertPlan::columns`].
    Select(PhysicalPlan),
}

/// A value of an INSERT.
#[derive(Clone, Debug)]
pub enum InsertValue {
    /// An expression.
    Expr(Expr),
    /// `DEFAULT`.
    Default,
}

/// A generated column's value, over all columns of the table by offset.
#[derive(Clone, Debug)]
pub struct GeneratedValue {
    /// Offset of the column.
    pub column: usize,
    /// Its value.
    pub expr: Expr,
}

/// `column = value`.
#[derive(Clone, Debug)]
pub struct Assignment {
    /// Offset of the column in its table.
    pub column: usize,
    /// The value; `None`: the column's default.
    pub value: Option<Expr>,
}

/// UPDATE of one table or several.
#[derive(Clone, Debug)]
pub struct UpdatePlan {
    /// Yields a row per combination of rows to change.
    pub source: PhysicalPlan,
    /// The tables changed.
    pub targets: Vec<UpdateTarget>,
    /// IGNORE.
    pub ignore: bool,
    /// More than one table in the statement: a row that appears several times is
    /// changed once.
    pub multi_table: bool,
}

/// A table an UPDATE changes.
#[derive(Clone, Debug)]
pub struct UpdateTarget {
    /// Its database.
    pub db: String,
    /// The table.
    pub table: Arc<TableInfo>,
    /// Where its handle is in the source's row. A NULL: no row (outer join).
    pub handle: HandleSource,
    /// Offset in the source's row of each column of the table, by offset; `None` for
    /// columns that are not written yet or any more.
    pub columns: Vec<Option<usize>>,
    /// The changes, in order. Expressions are over the source's row, in which each
    /// assignment is made before the next is computed (MySQL's left to right rule).
    pub assignments: Vec<Assignment>,
    /// Generated columns to compute again.
    pub generated: Vec<GeneratedValue>,
}

/// DELETE from one table or several.
#[derive(Clone, Debug)]
pub struct DeletePlan {
    /// Yields a row per combination of rows to delete.
    pub source: PhysicalPlan,
    /// The tables deleted from.
    pub targets: Vec<DeleteTarget>,
    /// IGNORE.
    pub ignore: bool,
    /// More than one table in the statement: a row may appear several times.
    pub multi_table: bool,
}

/// A table a DELETE deletes from.
#[derive(Clone, Debug)]
pub struct DeleteTarget {
    /// Its database.
    pub db: String,
    /// The table.
    pub table: Arc<TableInfo>,
    /// Where its handle is in the source's row. A NULL: no row (outer join).
    pub handle: HandleSource,
    /// Offset in the source's row of each column of the table, by offset; `None` for
    /// columns that no index entry and no handle is made of.
    pub columns: Vec<Option<usize>>,
}
