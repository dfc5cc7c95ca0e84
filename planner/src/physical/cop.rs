//! Cop tasks: the operators that stores run over one table.

use std::sync::Arc;

use cairn_executor::plan::{AggregationDesc, LimitDesc, OpDesc, SelectionDesc, SortItem, TopNDesc};
use cairn_expr::Expr;

use super::{Physical, Root, Task, cost};
use crate::catalog::{IndexInfo, TableInfo};
use crate::error::Result;
use crate::logical::Col;
use crate::plan::{CopInfo, PhysicalOp, Reader, RowLimit};
use crate::ranger::RangeSpec;

/// A fragment in the making.
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
    /// Estimated rows.
    pub row_count: f64,
    /// Rows are looked up for index entries.
    pub lookup: bool,
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
        });
        let op = match (&reader.index, cop.lookup) {
            (None, _) => PhysicalOp::TableReader(reader),
            (Some(_), false) => PhysicalOp::IndexReader(reader),
            (Some(_), true) => PhysicalOp::IndexLookUp(reader),
        };
        let plan = self.node(op, Vec::new(), cop.row_count, schema);
        Ok(Root { plan, layout: cop.layout, ordered: cop.keep_order })
    }

    /// Adds an operator that keeps the columns.
    fn push(&mut self, cop: &mut CopTask, op: OpDesc, name: &'static str, row_count: f64) {
        let schema = self.schema(&cop.layout);
        let id = self.new_id();
        cop.operators.push(op);
        cop.info.push(CopInfo { id, name, row_count, schema });
        cop.row_count = row_count;
    }

    /// Adds a filter.
    pub(crate) fn push_selection(&mut self, cop: &mut CopTask, conditions: &[Expr]) -> Result<()> {
        if conditions.is_empty() {
            return Ok(());
        }
        let rows = cop.row_count * cost::selectivity_of_all(conditions);
        let conditions = self.resolve_all(conditions, &cop.layout)?;
        let op = OpDesc::Selection(SelectionDesc { conditions });
        self.push(cop, op, "Selection", rows);
        Ok(())
    }

    /// Adds a limit of offset + count rows.
    pub(crate) fn push_limit(&mut self, cop: &mut CopTask, limit: RowLimit) {
        let rows = cop.row_count.min(limit.total_estimate());
        let op = OpDesc::Limit(LimitDesc { offset: 0, limit: limit.total(&[]) });
        self.push(cop, op, "Limit", rows);
        cop.limit = Some(limit);
    }

    /// Adds a TopN of offset + count rows.
    pub(crate) fn push_top_n(&mut self, cop: &mut CopTask, by: Vec<SortItem>, limit: RowLimit) {
        let rows = cop.row_count.min(limit.total_estimate());
        let op = OpDesc::TopN(TopNDesc { order_by: by, offset: 0, limit: limit.total(&[]) });
        self.push(cop, op, "TopN", rows);
        cop.limit = Some(limit);
    }

    /// Adds a partial aggregation, whose output is `layout`.
    pub(crate) fn push_aggregation(
        &mut self,
        cop: &mut CopTask,
        desc: AggregationDesc,
        layout: Vec<Col>,
        row_count: f64,
    ) {
        cop.layout = layout;
        let name = if desc.stream { "StreamAgg" } else { "HashAgg" };
        self.push(cop, OpDesc::Aggregation(desc), name, row_count);
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
        OpDesc::TableScan(_)
        | OpDesc::IndexScan(_)
        | OpDesc::IndexLookup(_)
        | OpDesc::Limit(_)
        | OpDesc::Sample(_) => false,
    }
}
