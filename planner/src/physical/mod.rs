//! From algebra to operators: where each part runs, by which access path.
//!
//! **Flow.** [`Physical::task`] works bottom up. As long as a part of the plan reads one
//! table it is a cop task: a growing list of operators that stores will run
//! (`cop.rs`). What cannot be pushed down closes it with a reader and goes on as a
//! root task. Column numbers become offsets here: every task knows which column is
//! where (its layout).
//!
//! **Correlation.** A free column becomes a parameter slot, which the enclosing
//! [`PhysicalOp::Apply`] fills for each of its left rows; index ranges of the right side
//! may use it like any other parameter.
//!
//! | file | what it does |
//! |---|---|
//! | `access.rs` | choice of table, index or point read |
//! | `cop.rs` | the operators of stores |
//! | `aggregate.rs`, `join.rs`, `order.rs`, `window.rs` | those nodes |
//! | `join_choice.rs`, `index_join.rs` | by hash or by index; joins that look inner rows up |
//! | `broadcast_join.rs` | joins in the stores |
//! | `narrow.rs` | projections that vanish into the access below |
//! | `pricing.rs`, `cost.rs`, `plan_cost.rs` | what access paths and plans cost |

mod access;
mod aggregate;
mod broadcast_join;
mod cop;
pub mod cost;
mod index_join;
mod join;
mod join_choice;
mod narrow;
mod order;
mod plan_cost;
mod pricing;
mod window;

use std::collections::{BTreeMap, BTreeSet};

use crate::context::{PlanOptions, Statistics};
use crate::error::{PlanError, Result};
use crate::logical::{
    Col, Columns, Logical, LogicalLock, LogicalRecursive, LogicalShared, SortKey,
};
use crate::plan::{
    HandleSource, LockedTable, PhysicalOp, PhysicalPlan, PlanColumn, RecursiveUnion, RowLimit,
    SelectLock,
};
use crate::statistics::{Estimate, Estimator};
use cairn_executor::plan::{ProjectionDesc, SelectionDesc, SortItem};
use cairn_expr::{EvalContext, Expr};
use cairn_parser::ast::LockWait;

use cop::CopTask;
pub(crate) use cost::CostParams;
pub use plan_cost::operator_costs;

/// Makes the physical plans of one statement.
pub(crate) struct Physical<'p> {
    /// All columns of the statement.
    pub columns: &'p mut Columns,
    /// Statistics.
    pub statistics: &'p dyn Statistics,
    /// Settings.
    pub options: PlanOptions,
    /// Types default values of stored columns.
    pub eval: &'p mut EvalContext,
    /// Next free parameter slot.
    pub slot_count: usize,
    /// What work costs.
    pub cost: CostParams,
    pub next_id: usize,
    /// How many rows of the next node's task are asked for, if a LIMIT says so.
    pub(super) row_goal: Option<f64>,
    /// How many rows stores would send of the next node's task if it stays a cop task, where what stands above
    /// it runs there and leaves fewer of them.
    pub(super) sent_goal: Option<f64>,
    /// Hints that cannot be followed.
    pub unused_hints: BTreeSet<String>,
    correlated: BTreeMap<Col, usize>,
}

/// A part of the plan and where it runs.
pub(crate) enum Task {
    /// In stores, so far.
    Cop(Box<CopTask>),
    /// On the SQL node.
    Root(Root),
}

/// A plan of the root task.
pub(crate) struct Root {
    /// The operators.
    pub plan: PhysicalPlan,
    /// Which column is at each offset.
    pub layout: Vec<Col>,
    /// Rows come in the order that was asked for.
    pub ordered: bool,
    /// What is expected of the rows.
    pub estimate: Box<Estimate>,
}

impl Root {
    /// An operator above this one that keeps its columns and their order.
    fn above(self, planner: &mut Physical<'_>, op: PhysicalOp, estimate: Estimate) -> Root {
        let schema = self.plan.schema.clone();
        let plan = planner.node(op, vec![self.plan], estimate.rows, schema);
        Root { plan, layout: self.layout, ordered: self.ordered, estimate: Box::new(estimate) }
    }
}

/// Columns the rows are wanted to be sorted by; all in one direction.
pub(crate) type WantedOrder<'w> = Option<&'w [SortKey]>;

impl<'p> Physical<'p> {
    pub(crate) fn new(
        columns: &'p mut Columns,
        statistics: &'p dyn Statistics,
        options: PlanOptions,
        eval: &'p mut EvalContext,
        slot_count: usize,
    ) -> Physical<'p> {
        Physical {
            columns,
            statistics,
            options,
            eval,
            slot_count,
            cost: CostParams::DEFAULT,
            next_id: 1,
            row_goal: None,
            sent_goal: None,
            unused_hints: BTreeSet::new(),
            correlated: BTreeMap::new(),
        }
    }

    /// The plan whose output is exactly `wanted`, in this order.
    pub(crate) fn plan(&mut self, logical: &Logical, wanted: &[Col]) -> Result<PhysicalPlan> {
        Ok(self.arranged(logical, wanted)?.plan)
    }

    fn arranged(&mut self, logical: &Logical, wanted: &[Col]) -> Result<Root> {
        let root = self.root(logical)?;
        self.arrange(root, wanted)
    }

    /// Estimates rows.
    pub(crate) fn estimator(&self) -> Estimator<'_> {
        Estimator::new(self.statistics, &self.eval.time_zone)
    }

    /// Projects to `wanted` unless the layout is just that.
    pub(crate) fn arrange(&mut self, root: Root, wanted: &[Col]) -> Result<Root> {
        if root.layout == wanted {
            return Ok(root);
        }
        let exprs: Vec<(Col, Expr)> =
            wanted.iter().map(|col| (*col, self.columns.expr(*col))).collect();
        self.project(root, &exprs)
    }

    /// A plan on the SQL node.
    pub(crate) fn root(&mut self, logical: &Logical) -> Result<Root> {
        let task = self.task(logical, None)?;
        self.finish(task)
    }

    /// The task of a node; rows are in `order` only if the task says so
    /// ([`Physical::ordered`]).
    pub(crate) fn task(&mut self, logical: &Logical, order: WantedOrder<'_>) -> Result<Task> {
        let row_goal = self.row_goal.take();
        let sent_goal = self.sent_goal.take();
        match logical {
            Logical::Scan(scan) => self.scan(scan, order, row_goal),
            Logical::Dual { rows, columns } => {
                Ok(self.source(PhysicalOp::Dual { rows: *rows }, *rows, columns))
            }
            Logical::Values { columns, rows } => self.values(columns, rows),
            Logical::Filter { conditions, input } => {
                self.row_goal = row_goal.map(|goal| self.goal_below(goal, conditions, input));
                self.sent_goal = sent_goal.filter(|_| conditions.iter().all(cop::pushable));
                let task = self.task(input, order)?;
                self.filter(task, conditions)
            }
            Logical::Project { exprs, input } => {
                self.row_goal = row_goal;
                let pushable = |(_, expr): &(Col, Expr)| cop::pushable(expr);
                self.sent_goal = sent_goal.filter(|_| exprs.iter().all(pushable));
                let below = self.task(input, order_below(order, exprs))?;
                self.project_task(below, exprs)
            }
            Logical::Aggregate(aggregate) => self.aggregate(aggregate),
            Logical::Window(window) => Ok(Task::Root(self.window(window)?)),
            Logical::Join(join) => self.join(join, order, row_goal, sent_goal),
            Logical::Sort { by, input } => Ok(Task::Root(self.sort(by, input)?)),
            Logical::Limit { limit, input } => self.limit(*limit, input, order),
            Logical::TopN { by, limit, input } => Ok(Task::Root(self.top_n(by, *limit, input)?)),
            Logical::Union { columns, inputs } => Ok(Task::Root(self.union(columns, inputs)?)),
            Logical::Recursive(union) => Ok(Task::Root(self.recursive(union)?)),
            Logical::Shared(shared) => Ok(Task::Root(self.shared(shared)?)),
            Logical::WorkTable { id, columns } => {
                let rows = crate::statistics::guess::ROUND_ROWS as usize;
                Ok(self.source(PhysicalOp::WorkTable { id: *id }, rows, columns))
            }
            Logical::MaxOneRow { input } => {
                let root = self.root(input)?;
                Ok(Task::Root(self.max_one_row(root)))
            }
            Logical::Lock { lock, input } => {
                self.row_goal = row_goal;
                let task = self.task(input, order)?;
                let root = self.finish(task)?;
                Ok(Task::Root(self.lock(lock, root)?))
            }
        }
    }

    /// An operator without inputs.
    fn source(&mut self, op: PhysicalOp, rows: usize, columns: &[Col]) -> Task {
        let estimate = Box::new(Estimate::of_rows(rows as f64));
        let schema = self.schema(columns);
        let plan = self.node(op, Vec::new(), estimate.rows, schema);
        Task::Root(Root { plan, layout: columns.to_vec(), ordered: false, estimate })
    }

    fn values(&mut self, columns: &[Col], rows: &[Vec<Expr>]) -> Result<Task> {
        let bound: Result<_> = rows.iter().map(|row| self.resolve_all(row, &[])).collect();
        Ok(self.source(PhysicalOp::Values { rows: bound? }, rows.len(), columns))
    }

    /// How many rows a filter must be given for `goal` rows.
    fn goal_below(&self, goal: f64, conditions: &[Expr], input: &Logical) -> f64 {
        let estimator = self.estimator();
        let fraction = estimator.fraction(&estimator.derive(input), conditions);
        goal / fraction.max(f64::EPSILON)
    }

    /// A new operator.
    pub(crate) fn node(
        &mut self,
        op: PhysicalOp,
        children: Vec<PhysicalPlan>,
        row_count: f64,
        schema: Vec<PlanColumn>,
    ) -> PhysicalPlan {
        PhysicalPlan { id: self.new_id(), op, children, row_count, schema }
    }

    /// A new operator id.
    pub(crate) fn new_id(&mut self) -> usize {
        let id = self.next_id;
        self.next_id += 1;
        id
    }

    /// Columns as operators tell of them.
    pub(crate) fn schema(&self, columns: &[Col]) -> Vec<PlanColumn> {
        let column = |col: &Col| PlanColumn {
            name: self.columns.name(*col),
            ty: self.columns.ty(*col).clone(),
        };
        columns.iter().map(column).collect()
    }

    /// An expression over a layout: numbers become offsets, free columns slots.
    pub(crate) fn resolve(&self, expr: &Expr, layout: &[Col]) -> Result<Expr> {
        expr.clone().try_transform(&mut |expr| match expr {
            Expr::Column { index: col, ty } => {
                if let Some(index) = layout.iter().position(|known| *known == col) {
                    return Ok(Expr::Column { index, ty });
                }
                match self.correlated.get(&col) {
                    Some(slot) => Ok(Expr::param(*slot, ty)),
                    None => Err(PlanError::internal(format!(
                        "column {} is not in the operator's input",
                        self.columns.name(col)
                    ))),
                }
            }
            other => Ok(other),
        })
    }

    /// [`Physical::resolve`] for a list.
    pub(crate) fn resolve_all(&self, exprs: &[Expr], layout: &[Col]) -> Result<Vec<Expr>> {
        exprs.iter().map(|expr| self.resolve(expr, layout)).collect()
    }

    /// Free columns as slots; the others keep their numbers.
    pub(crate) fn bind_correlated(&self, expr: &Expr) -> Expr {
        if self.correlated.is_empty() {
            return expr.clone();
        }
        expr.clone().transform(&mut |expr| match expr {
            Expr::Column { index, ty } => match self.correlated.get(&index) {
                Some(slot) => Expr::param(*slot, ty),
                None => Expr::Column { index, ty },
            },
            other => other,
        })
    }

    /// Sort keys over a layout.
    pub(crate) fn sort_items(&self, by: &[SortKey], layout: &[Col]) -> Result<Vec<SortItem>> {
        by.iter()
            .map(|key| Ok(SortItem { expr: self.resolve(&key.expr, layout)?, desc: key.desc }))
            .collect()
    }

    /// A filter: in the stores as far as they can.
    fn filter(&mut self, task: Task, conditions: &[Expr]) -> Result<Task> {
        let mut root = match task {
            Task::Cop(mut cop) if cop.accepts_rows() => {
                let (pushed, kept): (Vec<Expr>, Vec<Expr>) =
                    conditions.iter().cloned().partition(cop::pushable);
                self.push_selection(&mut cop, &pushed)?;
                if kept.is_empty() {
                    return Ok(Task::Cop(cop));
                }
                let root = self.finish(Task::Cop(cop))?;
                return Ok(Task::Root(self.root_filter(root, &kept)?));
            }
            task => self.finish(task)?,
        };
        root = self.root_filter(root, conditions)?;
        Ok(Task::Root(root))
    }

    /// A filter on the SQL node.
    pub(crate) fn root_filter(&mut self, root: Root, conditions: &[Expr]) -> Result<Root> {
        if conditions.is_empty() {
            return Ok(root);
        }
        let estimate = self.estimator().filter(&root.estimate, conditions);
        let conditions = self.resolve_all(conditions, &root.layout)?;
        let op = PhysicalOp::Selection(SelectionDesc { conditions });
        Ok(root.above(self, op, estimate))
    }

    /// A projection on the SQL node.
    pub(crate) fn project(&mut self, mut root: Root, exprs: &[(Col, Expr)]) -> Result<Root> {
        let layout: Vec<Col> = exprs.iter().map(|(col, _)| *col).collect();
        let same = exprs.iter().all(|(col, expr)| expr.as_column() == Some(*col));
        if same && layout == root.layout || narrow::narrow(&mut root, exprs) {
            return Ok(root);
        }
        let mut resolved = Vec::with_capacity(exprs.len());
        for (_, expr) in exprs {
            resolved.push(self.resolve(expr, &root.layout)?);
        }
        let schema = self.schema(&layout);
        let estimate = Box::new(self.estimator().project(&root.estimate, exprs));
        let op = PhysicalOp::Projection(ProjectionDesc { exprs: resolved });
        let plan = self.node(op, vec![root.plan], estimate.rows, schema);
        Ok(Root { plan, layout, ordered: root.ordered, estimate })
    }

    /// LIMIT: in the stores too, where every task needs no more rows than that.
    fn limit(&mut self, limit: RowLimit, input: &Logical, order: WantedOrder<'_>) -> Result<Task> {
        self.row_goal = Some(limit.total_estimate());
        let mut task = self.task(input, order)?;
        if let Task::Cop(cop) = &mut task
            && cop.accepts_limit()
        {
            self.push_limit(cop, limit);
        }
        let root = self.finish(task)?;
        Ok(Task::Root(self.root_limit(root, limit)))
    }

    /// LIMIT on the SQL node.
    pub(crate) fn root_limit(&mut self, mut root: Root, limit: RowLimit) -> Root {
        if let PhysicalOp::SelectLock(lock) = &mut root.plan.op {
            lock.limit = Some(limit);
        }
        let estimate = self.estimator().limit(Estimate::clone(&root.estimate), limit);
        root.above(self, PhysicalOp::Limit(limit), estimate)
    }

    fn max_one_row(&mut self, root: Root) -> Root {
        let estimate = Estimate::clone(&root.estimate).with_rows(1.0);
        root.above(self, PhysicalOp::MaxOneRow, estimate)
    }

    fn union(&mut self, columns: &[Col], inputs: &[(Logical, Vec<Col>)]) -> Result<Root> {
        let mut children = Vec::with_capacity(inputs.len());
        let mut estimates = Vec::with_capacity(inputs.len());
        for (input, wanted) in inputs {
            let root = self.arranged(input, wanted)?;
            estimates.push((*root.estimate, &wanted[..]));
            children.push(root.plan);
        }
        let estimate = Box::new(self.estimator().union(columns, &estimates));
        let schema = self.schema(columns);
        let plan = self.node(PhysicalOp::UnionAll, children, estimate.rows, schema);
        Ok(Root { plan, layout: columns.to_vec(), ordered: false, estimate })
    }

    fn recursive(&mut self, union: &LogicalRecursive) -> Result<Root> {
        let (seed, wanted) = &union.seed;
        let seed = self.arranged(seed, wanted)?;
        let mut children = vec![seed.plan];
        let mut round_rows = 0.0;
        for (part, wanted) in &union.parts {
            let part = self.arranged(part, wanted)?;
            round_rows += part.estimate.rows;
            children.push(part.plan);
        }
        let estimate = Box::new(self.estimator().recursive(&seed.estimate, round_rows));
        let LogicalRecursive { id, names, distinct, .. } = union;
        let op = RecursiveUnion { id: *id, names: names.clone(), distinct: *distinct };
        let schema = self.schema(&union.columns);
        let op = PhysicalOp::Recursive(Box::new(op));
        let plan = self.node(op, children, estimate.rows, schema);
        Ok(Root { plan, layout: union.columns.clone(), ordered: false, estimate })
    }

    fn shared(&mut self, shared: &LogicalShared) -> Result<Root> {
        // The query depends on no row, and its columns may be those of a row around it.
        let outside = std::mem::take(&mut self.correlated);
        let root = self.arranged(&shared.input, &shared.own);
        self.correlated = outside;
        let root = root?;
        let inputs = [(*root.estimate, &shared.own[..])];
        let estimate = Box::new(self.estimator().union(&shared.columns, &inputs));
        let schema = self.schema(&shared.columns);
        let op = PhysicalOp::SharedCte { id: shared.id };
        let plan = self.node(op, vec![root.plan], estimate.rows, schema);
        Ok(Root { plan, layout: shared.columns.clone(), ordered: false, estimate })
    }

    fn lock(&mut self, lock: &LogicalLock, root: Root) -> Result<Root> {
        // A point read locks its key itself, row or no row.
        let mut root = root;
        if lock.tables.len() == 1 {
            match &mut root.plan.op {
                PhysicalOp::PointGet(get) => {
                    get.lock = Some(lock.how);
                    return Ok(root);
                }
                // Which of several rows are left out is seen one by one.
                PhysicalOp::BatchPointGet(get) if lock.how.wait != LockWait::SkipLocked => {
                    get.lock = Some(lock.how);
                    return Ok(root);
                }
                _ => {}
            }
        }
        let mut tables = Vec::with_capacity(lock.tables.len());
        for (table, cols) in &lock.tables {
            let handle = self.handle_source(table.common_handle, cols, &root.layout)?;
            tables.push(LockedTable { table: table.clone(), handle });
        }
        let op = PhysicalOp::SelectLock(SelectLock { how: lock.how, tables, limit: None });
        let estimate = Estimate::clone(&root.estimate);
        Ok(root.above(self, op, estimate))
    }

    /// Where a handle is in a row.
    pub(crate) fn handle_source(
        &self,
        common: bool,
        cols: &[Col],
        layout: &[Col],
    ) -> Result<HandleSource> {
        let mut offsets = Vec::with_capacity(cols.len());
        for col in cols {
            let offset = layout.iter().position(|known| known == col);
            offsets.push(offset.ok_or_else(|| PlanError::internal("a handle was pruned"))?);
        }
        match (common, &offsets[..]) {
            (true, _) => Ok(HandleSource::Common(offsets)),
            (false, [offset]) => Ok(HandleSource::Int(*offset)),
            (false, _) => Err(PlanError::internal("an integer handle is one column")),
        }
    }
}

/// An order above a projection as one below it, if it names plain columns.
fn order_below<'w>(order: WantedOrder<'w>, exprs: &[(Col, Expr)]) -> WantedOrder<'w> {
    let plain = |key: &SortKey| {
        key.expr.as_column().is_some_and(|col| {
            exprs.iter().any(|(known, expr)| *known == col && expr.as_column() == Some(col))
        })
    };
    order.filter(|keys| keys.iter().all(plain))
}
