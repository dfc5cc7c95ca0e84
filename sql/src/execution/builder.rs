//! Physical plans to operators.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cairn_executor::operators::{
    Apply, HashAgg, HashJoin, Limit, MaxOneRow, Projection, RecursiveUnion, RoundFactory,
    RoundRows, Selection, SharedRows, SharedScan, Sort, StreamAgg, TopN, UnionAll, Values, Window,
    WorkTable,
};
use cairn_executor::plan::RecursiveUnionDesc;
use cairn_executor::{BoxOperator, ExecContext, ExecError, KeyRange, Result};
use cairn_expr::{EvalContext, Expr};
use cairn_kv_client::{KvClient, RequestLog, RequestScope};
use cairn_planner::plan::{
    Apply as ApplyPlan, PhysicalOp, PhysicalPlan, Reader, RecursiveUnion as RecursiveUnionPlan,
};
use cairn_types::Datum;
use parking_lot::Mutex;

use super::view::ReadView;
use super::watch::Watch;
use super::{broadcast, index_join, point, reader};
use crate::infoschema::MemTableRows;

/// What all operators of a statement are built with.
#[derive(Clone)]
pub struct BuildContext {
    /// Shared by the operators.
    pub exec: ExecContext,
    /// What is read.
    pub view: ReadView,
    /// The key-value tier.
    pub kv: Arc<KvClient>,
    /// Tasks of one reader under way at once.
    pub scan_concurrency: usize,
    /// Bytes of a join's build side that are sent to every store at most.
    pub broadcast_bytes_max: u64,
    /// How long rows that others have locked are waited for.
    pub lock_wait_timeout: Duration,
    /// Rows of virtual tables.
    pub mem_tables: MemTableRows,
    /// What is read of the only table of a plan that an index join looks up in; `None`: what
    /// the conditions of its reader say.
    pub lookup_ranges: Option<Arc<[KeyRange]>>,
    /// Who watches the statement.
    pub watch: Option<Arc<Watch>>,
    /// Where the requests of the reader that is built are noted, if not with the statement's.
    pub reader_log: Option<Arc<RequestLog>>,
    /// `cte_max_recursion_depth`.
    pub recursion_depth_max: u64,
    /// Rows of the last round of recursive unions, by their number.
    pub work_tables: BTreeMap<usize, RoundRows>,
    /// Rows of common table expressions with several readers, by their number.
    pub shared: SharedTables,
}

/// Rows of common table expressions, as long as the statement runs: operators that build others hold the
/// statement's context, and would else hold themselves for ever.
#[derive(Default)]
pub struct SharedTables {
    by_number: Arc<Mutex<BTreeMap<usize, Arc<SharedRows>>>>,
    is_copy: bool,
}

impl Clone for SharedTables {
    fn clone(&self) -> SharedTables {
        SharedTables { by_number: Arc::clone(&self.by_number), is_copy: true }
    }
}

impl Drop for SharedTables {
    fn drop(&mut self) {
        if !self.is_copy {
            let rows = std::mem::take(&mut *self.by_number.lock());
            drop(rows);
        }
    }
}

impl BuildContext {
    /// The context of a reader of its own, if the statement is watched.
    fn of_reader(&self, plan: &PhysicalPlan, reader: &Reader) -> Option<BuildContext> {
        let watch = self.watch.as_ref()?;
        let mut exec = self.exec.for_operator(plan.id, plan.op.name());
        exec.fragment_ids = Some(reader.info.iter().map(|info| info.id).collect());
        let reader_log = Some(watch.reader(plan.id));
        Some(BuildContext { exec, reader_log, ..self.clone() })
    }

    /// What requests of the reader that is built carry.
    pub fn reader_scope(&self, scope: &RequestScope) -> RequestScope {
        match &self.reader_log {
            None => scope.clone(),
            Some(log) => RequestScope { log: Some(Arc::clone(log)), ..scope.clone() },
        }
    }
}

/// Key ranges of a reader: those that an index join looks up, or what its conditions say with
/// this run's parameters.
pub fn key_ranges(
    reader: &Reader,
    context: &BuildContext,
    eval: &mut EvalContext,
) -> Vec<KeyRange> {
    match &context.lookup_ranges {
        Some(ranges) => ranges.to_vec(),
        None => cairn_planner::ranger::build_key_ranges(
            &reader.ranges,
            &reader.table,
            reader.index.as_deref(),
            eval,
        ),
    }
}

/// Expressions with this run's parameters in place.
fn bind(exprs: &[Expr], context: &BuildContext) -> Vec<Expr> {
    let mut eval = context.exec.eval.clone();
    exprs.iter().map(|expr| expr.bind(&mut eval)).collect()
}

/// Builds the operator of a plan with everything below it.
pub fn build(plan: &PhysicalPlan, context: &BuildContext) -> Result<BoxOperator> {
    let operator = build_bare(plan, context)?;
    Ok(context.exec.instrument(plan.id, plan.op.name(), operator))
}

fn child(plan: &PhysicalPlan, at: usize, context: &BuildContext) -> Result<BoxOperator> {
    let child = plan.children.get(at);
    let child = child.ok_or_else(|| ExecError::invalid_plan("an operator lacks its input"))?;
    build(child, context)
}

fn build_bare(plan: &PhysicalPlan, context: &BuildContext) -> Result<BoxOperator> {
    let exec = || context.exec.for_operator(plan.id, plan.op.name());
    let params = &context.exec.eval.params;
    Ok(match &plan.op {
        PhysicalOp::PointGet(get) => {
            let keys = vec![get.key.clone()];
            point::operator(&get.access, keys, get.lock, plan, context)?
        }

        PhysicalOp::BatchPointGet(get) => {
            point::operator(&get.access, get.keys.clone(), get.lock, plan, context)?
        }
        PhysicalOp::TableReader(reader)
        | PhysicalOp::IndexReader(reader)
        | PhysicalOp::IndexLookUp(reader) => {
            let own = context.of_reader(plan, reader);
            let own = own.as_ref().unwrap_or(context);
            match plan.children.is_empty() {
                true => reader::build(reader, own)?,
                false => broadcast::operator(plan, reader, context, own)?,
            }
        }
        PhysicalOp::MemTableScan(scan) => {
            context.mem_tables.operator(scan, plan.types(), exec())?
        }
        PhysicalOp::Dual { rows } => {
            Box::new(Values::new(plan.types(), dual_rows(plan, *rows), exec())?)
        }
        PhysicalOp::Values { rows } => {
            let rows = rows.iter().map(|row| bind(row, context)).collect();
            Box::new(Values::new(plan.types(), rows, exec())?)
        }
        PhysicalOp::Selection(desc) => {
            Box::new(Selection::new(child(plan, 0, context)?, desc, exec())?)
        }
        PhysicalOp::Projection(desc) => {
            Box::new(Projection::new(child(plan, 0, context)?, desc, exec())?)
        }
        PhysicalOp::HashAgg(desc) => {
            Box::new(HashAgg::new(child(plan, 0, context)?, desc, exec())?)
        }
        PhysicalOp::StreamAgg(desc) => {
            Box::new(StreamAgg::new(child(plan, 0, context)?, desc, exec())?)
        }
        PhysicalOp::Window(desc) => Box::new(Window::new(child(plan, 0, context)?, desc, exec())?),
        PhysicalOp::Sort(desc) => Box::new(Sort::new(child(plan, 0, context)?, desc, exec())?),
        PhysicalOp::TopN { order_by, limit } => {
            let desc = limit.top_n(order_by.clone(), params);
            Box::new(TopN::new(child(plan, 0, context)?, &desc, exec())?)
        }
        PhysicalOp::Limit(limit) => {
            Box::new(Limit::new(child(plan, 0, context)?, &limit.desc(params)))
        }
        PhysicalOp::HashJoin(desc) => {
            let (left, right) = (child(plan, 0, context)?, child(plan, 1, context)?);
            Box::new(HashJoin::new(left, right, desc.clone(), exec())?)
        }
        PhysicalOp::IndexJoin(join) => index_join::operator(plan, join, context)?,
        PhysicalOp::Apply(inner) => apply(plan, inner, context)?,
        PhysicalOp::UnionAll => {
            let inputs: Result<Vec<_>> =
                (0..plan.children.len()).map(|at| child(plan, at, context)).collect();
            Box::new(UnionAll::new(plan.types(), inputs?))
        }
        PhysicalOp::Recursive(union) => recursive(plan, union, context)?,
        PhysicalOp::SharedCte { id } => shared(plan, *id, context)?,
        PhysicalOp::WorkTable { id } => {
            let rows = context.work_tables.get(id).cloned();
            let rows = rows.ok_or_else(|| ExecError::invalid_plan("no round has been run yet"))?;
            Box::new(WorkTable::new(plan.types(), rows))
        }
        PhysicalOp::MaxOneRow => Box::new(MaxOneRow::new(child(plan, 0, context)?)),
        // Rows are locked by the statement that reads them, see `dml::lock`.
        PhysicalOp::SelectLock(lock) => {
            crate::dml::lock::operator(child(plan, 0, context)?, lock, context)?
        }
    })
}

/// Rows of a dual table: no columns, or NULLs where a pruned table stood.
fn dual_rows(plan: &PhysicalPlan, rows: usize) -> Vec<Vec<Expr>> {
    let row: Vec<Expr> = plan
        .schema
        .iter()
        .map(|column| Expr::constant_of(Datum::Null, column.ty.clone()))
        .collect();
    vec![row; rows]
}

/// The first reader builds the query; readers come in any order, and may come again.
fn shared(plan: &PhysicalPlan, id: usize, context: &BuildContext) -> Result<BoxOperator> {
    let known = context.shared.by_number.lock().get(&id).cloned();
    let rows = match known {
        Some(rows) => rows,
        None => {
            let rows = SharedRows::new(child(plan, 0, context)?, context.exec.clone());
            context.shared.by_number.lock().entry(id).or_insert(rows).clone()
        }
    };
    Ok(Box::new(SharedScan::new(rows)))
}

/// The parts behind the seed are built anew for every round, over the rows of the last one.
fn recursive(
    plan: &PhysicalPlan,
    union: &RecursiveUnionPlan,
    context: &BuildContext,
) -> Result<BoxOperator> {
    let seed = child(plan, 0, context)?;
    let parts: Vec<PhysicalPlan> = plan.children.iter().skip(1).cloned().collect();
    let (id, inner_context) = (union.id, context.clone());
    let factory: RoundFactory = Box::new(move |rows: RoundRows| {
        let mut context = inner_context.clone();
        context.work_tables.insert(id, rows);
        parts.iter().map(|part| build(part, &context)).collect()
    });
    let names = union.names.iter().map(|name| name.to_string());
    let desc = RecursiveUnionDesc {
        columns: names.zip(plan.types()).collect(),
        distinct: union.distinct,
        rounds_max: context.recursion_depth_max,
    };
    Ok(Box::new(RecursiveUnion::new(seed, factory, desc, context.exec.clone())?))
}

/// The right side is built anew for every left row, with its columns in their slots.
fn apply(plan: &PhysicalPlan, inner: &ApplyPlan, context: &BuildContext) -> Result<BoxOperator> {
    let outer = child(plan, 0, context)?;
    let inner_plan = plan
        .children
        .get(1)
        .cloned()
        .ok_or_else(|| ExecError::invalid_plan("an apply lacks its right side"))?;
    let inner_types = inner_plan.types();
    let slots = inner.slots.clone();
    let inner_context = context.clone();
    let factory = move |values: &[Datum]| {
        let mut context = inner_context.clone();
        let mut params = context.exec.eval.params.to_vec();
        for (slot, value) in slots.iter().zip(values) {
            params[*slot] = value.clone();
        }
        context.exec.eval.params = params.into();
        build(&inner_plan, &context)
    };
    let desc = inner.desc.clone();
    let exec = context.exec.for_operator(plan.id, plan.op.name());
    Ok(Box::new(Apply::new(outer, inner_types, Box::new(factory), desc, exec)?))
}
