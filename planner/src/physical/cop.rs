//! Cop tasks: the operators that stores run over one table.

use std::sync::Arc;

use cairn_executor::plan::{AggregationDesc, LimitDesc, OpDesc, SelectionDesc, SortItem, TopNDesc};
use cairn_expr::Expr;

use super::{Physical, Root, Task};
use crate::catalog::{IndexInfo, TableInfo};
use crate::error::Result;
use crate::logical::Col;
use crate::plan::{CopInfo, PhysicalOp, PhysicalPlan, PlanColumn, Reader, RowLimit};
use crate::ranger::RangeSpec;
use crate::statistics::{Estimate, guess};

/// A fragment in the making.
#[derive(Clone)]
pub(crate) struct CopTask {
    pub db: String,
    pub alias: String,
    pub table: Arc<TableInfo>,
    pub index: Option<Arc<IndexInfo>>,
    pub operators: Vec<OpDesc>,
    pub info: Vec<CopInfo>,
    pub ranges: RangeSpec,
    pub keep_order: bool,
    pub desc: bool,
    pub limit: Option<RowLimit>,
    /// Which column is at each offset.
    pub layout: Vec<Col>,
    /// What is expected of the rows.
    pub estimate: Estimate,
    /// Whether the table was never analyzed.
    pub is_pseudo: bool,
    /// What reading one row for an index entry costs.
    pub lookup_cost: f64,
    /// Rows are looked up for index entries.
    pub lookup: bool,
    /// Build sides of its joins.
    pub tables: Vec<PhysicalPlan>,
}

impl CopTask {
    /// Whether operators on rows may follow (not behind a limit or an aggregation).
    pub fn accepts_rows(&self) -> bool {
        self.limit.is_none() && !self.has_aggregation()
    }

    /// Whether a limit may follow.
    pub fn accepts_limit(&self) -> bool {
        self.accepts_rows()
    }

    fn has_aggregation(&self) -> bool {
        self.operators.iter().any(|op| matches!(op, OpDesc::Aggregation(_)))
    }
}

/// Whether stores can evaluate an expression: constant parts are computed before it
/// is sent.
pub(crate) fn pushable(expr: &Expr) -> bool {
    let mut pushable = true;
    expr.walk(&mut |expr| match expr {
        Expr::Function { func, .. } => {
            if expr.is_constant() && func.is_deterministic() {
                return false;
            }
            pushable &= func.is_pushable();
            pushable
        }
        _ => false,
    });
    pushable
}

impl Physical<'_> {
    /// Ends a cop task with its reader.
    pub(crate) fn finish(&mut self, task: Task) -> Result<Root> {
        let cop = match task {
            Task::Root(root) => return Ok(root),
            Task::Cop(cop) => *cop,
        };
        let needs_binding = cop.operators.iter().any(needs_binding);
        let schema = cop.info.last().map(|info| info.schema.clone()).unwrap_or_default();
        let reader = Box::new(Reader {
            db: cop.db,
            alias: cop.alias,
            table: cop.table,
            index: cop.index,
            operators: cop.operators,
            info: cop.info,
            ranges: cop.ranges,
            keep_order: cop.keep_order,
            desc: cop.desc,
            limit: cop.limit,
            needs_binding,
            is_pseudo: cop.is_pseudo,
            lookup_cost: cop.lookup_cost,
        });
        let op = match (&reader.index, cop.lookup) {
            (None, _) => PhysicalOp::TableReader(reader),
            (Some(_), false) => PhysicalOp::IndexReader(reader),
            (Some(_), true) => PhysicalOp::IndexLookUp(reader),
        };
        let plan = self.node(op, cop.tables, cop.estimate.rows, schema);
        let (layout, ordered) = (cop.layout, cop.keep_order);
        Ok(Root { plan, layout, ordered, estimate: Box::new(cop.estimate) })
    }

    /// Adds an operator whose output is `cop.layout`.
    pub(super) fn push(&mut self, cop: &mut CopTask, op: OpDesc, name: &'static str) {
        let schema = self.schema(&cop.layout);
        self.push_with(cop, op, name, schema);
    }

    /// Adds an operator that keeps the columns below it.
    fn push_over(&mut self, cop: &mut CopTask, op: OpDesc, name: &'static str) {
        let schema = cop.info.last().map(|info| info.schema.clone()).unwrap_or_default();
        self.push_with(cop, op, name, schema);
    }

    pub(super) fn push_with(
        &mut self,
        cop: &mut CopTask,
        op: OpDesc,
        name: &'static str,
        schema: Vec<PlanColumn>,
    ) {
        let id = self.new_id();
        cop.operators.push(op);
        cop.info.push(CopInfo { id, name, row_count: cop.estimate.rows, schema });
    }

    /// Adds a filter.
    pub(crate) fn push_selection(&mut self, cop: &mut CopTask, conditions: &[Expr]) -> Result<()> {
        let filtered = self.estimator().filter(&cop.estimate, conditions);
        let rows = match cop.is_pseudo {
            // Less than a row shows how much is guessed.
            true => cop.estimate.rows * guess::selectivity_of_all(conditions),
            false => filtered.rows,
        };
        self.push_filter(cop, conditions, Estimate { rows, ..filtered })
    }

    /// Adds a filter that leaves so much.
    pub(super) fn push_filter(
        &mut self,
        cop: &mut CopTask,
        conditions: &[Expr],
        estimate: Estimate,
    ) -> Result<()> {
        if conditions.is_empty() {
            return Ok(());
        }
        let conditions = self.resolve_all(conditions, &cop.layout)?;
        cop.estimate = estimate;
        self.push_over(cop, OpDesc::Selection(SelectionDesc { conditions }), "Selection");
        Ok(())
    }

    /// Adds a limit of offset + count rows.
    pub(crate) fn push_limit(&mut self, cop: &mut CopTask, limit: RowLimit) {
        cop.estimate.rows = cop.estimate.rows.min(limit.total_estimate());
        let op = OpDesc::Limit(LimitDesc { offset: 0, limit: limit.total(&[]) });
        self.push_over(cop, op, "Limit");
        cop.limit = Some(limit);
    }

    /// Adds a TopN of offset + count rows.
    pub(crate) fn push_top_n(&mut self, cop: &mut CopTask, by: Vec<SortItem>, limit: RowLimit) {
        cop.estimate.rows = cop.estimate.rows.min(limit.total_estimate());
        let op = OpDesc::TopN(TopNDesc { order_by: by, offset: 0, limit: limit.total(&[]) });
        self.push_over(cop, op, "TopN");
        cop.limit = Some(limit);
    }

    /// Adds a partial aggregation, whose output is `layout`.
    pub(crate) fn push_aggregation(
        &mut self,
        cop: &mut CopTask,
        desc: AggregationDesc,
        layout: Vec<Col>,
        estimate: Estimate,
    ) {
        cop.layout = layout;
        cop.estimate = estimate;
        let name = if desc.stream { "StreamAgg" } else { "HashAgg" };
        self.push(cop, OpDesc::Aggregation(desc), name);
    }
}

/// Whether an operator has parts that are computed before it is sent.
fn needs_binding(op: &OpDesc) -> bool {
    let unbound = |expr: &Expr| {
        expr.any(&mut |expr| match expr {
            Expr::Param { .. } => true,
            Expr::Function { func, .. } => func.is_session(),
            _ => false,
        })
    };
    match op {
        OpDesc::Selection(selection) => selection.conditions.iter().any(unbound),
        OpDesc::Projection(projection) => projection.exprs.iter().any(unbound),
        OpDesc::Aggregation(aggregation) => {
            let args = aggregation.aggs.iter().flat_map(|agg| &agg.args);
            aggregation.group_by.iter().chain(args).any(unbound)
        }
        OpDesc::TopN(top_n) => top_n.order_by.iter().any(|item| unbound(&item.expr)),
        OpDesc::HashJoin(desc) => {
            let join = &desc.join;
            let keys = join.left_keys.iter().chain(&join.right_keys);
            keys.chain(&join.other_conditions).any(unbound)
        }
        OpDesc::TableScan(_)
        | OpDesc::IndexScan(_)
        | OpDesc::IndexLookup(_)
        | OpDesc::Limit(_)
        | OpDesc::Sample(_) => false,
    }
}
