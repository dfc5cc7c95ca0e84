//! Statements to plans: the crate's entry.

use cairn_parser::ast::{self, Statement};

use crate::binder::Binder;
use crate::context::PlanContext;
use crate::error::{PlanError, Result};
use crate::identity::PlanIdentity;
use crate::logical::{Col, Logical, Readers};
use crate::physical::Physical;
use crate::plan::{PhysicalPlan, Plan, PlanKind, Subplan};
use crate::rules;

/// Plans a statement that reads or changes rows: SELECT, INSERT, REPLACE, UPDATE,
/// DELETE. `param_count` is the number of its `?` markers.
pub fn plan_statement(
    statement: &Statement,
    param_count: usize,
    ctx: &mut PlanContext<'_>,
) -> Result<Plan> {
    match statement {
        Statement::Query(query) => plan_query(query, param_count, ctx),
        Statement::Insert(insert) => {
            let mut planner = Planner::new(ctx.reborrow(), param_count);
            let kind = crate::binder::insert::plan_insert(&mut planner, insert)?;
            planner.plan(PlanKind::Insert(Box::new(kind)), Vec::new())
        }
        Statement::Update(update) => {
            let mut planner = Planner::new(ctx.reborrow(), param_count);
            let kind = crate::binder::dml::plan_update(&mut planner, update)?;
            planner.plan(PlanKind::Update(Box::new(kind)), Vec::new())
        }
        Statement::Delete(delete) => {
            let mut planner = Planner::new(ctx.reborrow(), param_count);
            let kind = crate::binder::dml::plan_delete(&mut planner, delete)?;
            planner.plan(PlanKind::Delete(Box::new(kind)), Vec::new())
        }
        _ => Err(PlanError::not_supported("planning this statement")),
    }
}

/// Plans a query.
pub fn plan_query(
    query: &ast::Query,
    param_count: usize,
    ctx: &mut PlanContext<'_>,
) -> Result<Plan> {
    let mut planner = Planner::new(ctx.reborrow(), param_count);
    let bound = planner.binder.query(query)?;
    let wanted: Vec<Col> = bound.fields.iter().map(|field| field.col).collect();
    let columns = bound.fields.iter().map(|field| field.output()).collect();
    let plan = planner.physical(bound.plan, &wanted)?;
    planner.plan(PlanKind::Query(plan), columns)
}

/// Binds an expression that stands outside of any query (`SET a = expr`, `DO expr`):
/// planned as `SELECT expr`.
pub fn plan_expressions(
    exprs: &[ast::Expr],
    param_count: usize,
    ctx: &mut PlanContext<'_>,
) -> Result<Plan> {
    let mut planner = Planner::new(ctx.reborrow(), param_count);
    let mut plan = Logical::one_row();
    let mut projected = Vec::with_capacity(exprs.len());
    for expr in exprs {
        let mut env = crate::binder::ExprEnv::over("field list", &mut plan);
        let bound = planner.binder.expr(expr, &mut env)?;
        projected.push((planner.binder.new_column(bound.ty().clone()), bound));
    }
    let wanted: Vec<Col> = projected.iter().map(|(col, _)| *col).collect();
    let plan = planner.physical(plan.project(projected), &wanted)?;
    planner.plan(PlanKind::Query(plan), Vec::new())
}

/// The parts of planning one statement.
pub(crate) struct Planner<'s> {
    /// Names and types.
    pub binder: Binder<'s>,
    param_count: usize,
    next_id: usize,
    /// Readers of common table expressions; known once the statement is bound.
    readers: Option<Readers>,
}

impl<'s> Planner<'s> {
    pub(crate) fn new(ctx: PlanContext<'s>, param_count: usize) -> Planner<'s> {
        Planner { binder: Binder::new(ctx, param_count), param_count, next_id: 1, readers: None }
    }

    /// Rules, then operators: the plan whose columns are `wanted`.
    pub(crate) fn physical(&mut self, logical: Logical, wanted: &[Col]) -> Result<PhysicalPlan> {
        let binder = &mut self.binder;
        let readers = self.readers.get_or_insert_with(|| {
            let mut readers = Readers::default();
            let subplans = binder.subplans.iter().map(|subplan| &subplan.plan);
            subplans.chain([&logical]).for_each(|plan| readers.count(plan));
            readers
        });
        let logical = readers.inline(logical, &binder.columns)?;
        let logical = rules::optimize(
            logical,
            wanted,
            &mut rules::RuleContext {
                columns: &mut binder.columns,
                eval: binder.ctx.eval,
                statistics: binder.ctx.statistics,
                options: binder.ctx.options,
            },
        )?;
        let mut physical = Physical::new(
            &mut binder.columns,
            binder.ctx.statistics,
            binder.ctx.options,
            binder.ctx.eval,
            binder.slot_count,
        );
        physical.next_id = self.next_id;
        let plan = physical.plan(&logical, wanted)?;
        self.next_id = physical.next_id;
        let (slot_count, unused_hints) = (physical.slot_count, physical.unused_hints);
        binder.slot_count = slot_count;
        for hint in unused_hints {
            binder.hint_warning(format!("Optimizer Hint /*+ {hint} */ is inapplicable"));
        }
        Ok(plan)
    }

    /// The whole plan, with the subqueries that are run once.
    pub(crate) fn plan(
        mut self,
        kind: PlanKind,
        columns: Vec<crate::plan::OutputColumn>,
    ) -> Result<Plan> {
        let mut subplans = Vec::new();
        for bound in std::mem::take(&mut self.binder.subplans) {
            let plan = self.physical(bound.plan, &bound.columns)?;
            subplans.push(Subplan { plan, kind: bound.kind, slot: bound.slot });
        }
        Ok(Plan {
            kind,
            subplans,
            columns: columns.into(),
            param_count: self.param_count,
            slot_count: self.binder.slot_count,
            cacheable: self.binder.cacheable,
            tables: self.binder.tables,
            identity: PlanIdentity::default(),
        })
    }
}
