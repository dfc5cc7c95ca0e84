//! Planning with the session's settings, through the shared plan cache.

use std::sync::Arc;

use cairn_parser::ast::{Expr, Statement};
use cairn_planner::cache::PlanKey;
use cairn_planner::plan::{PhysicalOp, PhysicalPlan, Plan, PlanKind};
use cairn_types::{Datum, FieldType};

use super::Parameters;
use crate::catalog::SchemaSnapshot;
use crate::clock;
use crate::domain::in_flashback;
use crate::error::{Result, SqlError};
use crate::session::Session;
use crate::table_locks::{self, Entered, Patience};

/// Longest text without parameters whose plan is kept: longer ones are loads of rows, which
/// do not come twice and would fill the memory.
const CACHED_TEXT_BYTES_MAX: usize = 2 << 10;
/// The same for a text with parameters, which is meant to come again.
const CACHED_PREPARED_BYTES_MAX: usize = 16 << 10;

fn plan_error(error: cairn_planner::PlanError) -> SqlError {
    SqlError::Mysql(error.to_mysql())
}

/// Plans a statement.
pub fn plan(session: &mut Session, statement: &Statement, types: &[FieldType]) -> Result<Plan> {
    let schema = session.schema();
    let mut eval = session.eval_context();
    let plan = session.with_plan_context(&schema, &mut eval, types, |context| {
        cairn_planner::plan_statement(statement, types.len(), context)
    });
    session.take_warnings(&mut eval);
    let plan = plan.map_err(plan_error)?;
    check_flashback(&schema, &plan)?;
    Ok(plan)
}

/// While the cluster is on its way to the past, no rows are read or written.
fn check_flashback(schema: &SchemaSnapshot, plan: &Plan) -> Result<()> {
    if schema.is_in_flashback() && plan.tables.iter().any(|access| !access.table.is_virtual) {
        return Err(in_flashback());
    }
    Ok(())
}

/// The plan of a statement from the shared cache, or a new one.
pub fn cached(
    session: &mut Session,
    statement: &Statement,
    text: &str,
    types: &[FieldType],
) -> Result<Arc<Plan>> {
    let text_bytes_max =
        if types.is_empty() { CACHED_TEXT_BYTES_MAX } else { CACHED_PREPARED_BYTES_MAX };
    if text.len() > text_bytes_max {
        return plan(session, statement, types).map(Arc::new);
    }
    let schema = session.schema();
    let settings = session.settings();
    let key = PlanKey {
        schema_version: schema.definitions_version(),
        database: session.current_database().map(Into::into),
        statement: text.into(),
        sql_mode: settings.sql_mode,
        collation: settings.collation,
        param_types: types.to_vec(),
        options: session.plan_options(),
    };
    if let Some(plan) = session.domain.plans.get(&key) {
        check_flashback(&schema, &plan)?;
        session.measures.plan_was_cached = true;
        return Ok(plan);
    }
    let generation = session.domain.plans.generation();
    let plan = Arc::new(plan(session, statement, types)?);
    if plan.cacheable {
        session.domain.plans.insert(key, Arc::clone(&plan), generation);
    }
    Ok(plan)
}

/// The plan of a statement that may use its tables now: it has waited for locks of others.
pub async fn entered(
    session: &mut Session,
    statement: &Statement,
    text: &str,
    types: &[FieldType],
) -> Result<Arc<Plan>> {
    let start_ns = clock::monotonic_nanos();
    let entered = enter(session, statement, text, types).await;
    session.measures.compile_ns += clock::monotonic_nanos().saturating_sub(start_ns);
    entered
}

async fn enter(
    session: &mut Session,
    statement: &Statement,
    text: &str,
    types: &[FieldType],
) -> Result<Arc<Plan>> {
    let mut patience = Patience::default();
    loop {
        session.hold_schema();
        let plan = cached(session, statement, text, types)?;
        if awaits_statistics(session, &plan).await {
            continue;
        }
        if table_locks::enter(session, &plan, &mut patience).await? == Entered::AtOnce {
            return Ok(plan);
        }
    }
}

/// Whether a plan is to be made once more, with statistics that were not read yet.
pub async fn awaits_statistics(session: &Session, plan: &Plan) -> bool {
    session.domain.statistics.await_distributions(&session.domain, plan).await
}

/// Plans expressions without columns, as `SELECT a, b` would.
fn plan_expressions(
    session: &mut Session,
    exprs: &[Expr],
    types: &[FieldType],
) -> Result<Arc<Plan>> {
    let schema = session.schema();
    let mut eval = session.eval_context();
    let plan = session.with_plan_context(&schema, &mut eval, types, |context| {
        cairn_planner::plan_expressions(exprs, types.len(), context)
    });
    session.take_warnings(&mut eval);
    let plan = plan.map_err(plan_error)?;
    check_flashback(&schema, &plan)?;
    Ok(Arc::new(plan))
}

/// Values and types of expressions without columns; subqueries are run, with one version of the
/// schema. It is given back before the values are used: `SET GLOBAL` waits for it.
pub async fn evaluate_all(
    session: &mut Session,
    exprs: &[Expr],
) -> Result<Vec<(Datum, FieldType)>> {
    let is_held_for_this = !session.holds_schema();
    let values = match enter_expressions(session, exprs).await {
        Ok(plan) => run_expressions(session, &plan, &[]).await,
        Err(error) => Err(error),
    };
    if is_held_for_this {
        session.give_schema_back();
    }
    values
}

/// The plan of expressions that may use their tables now.
async fn enter_expressions(session: &mut Session, exprs: &[Expr]) -> Result<Arc<Plan>> {
    let mut patience = Patience::default();
    loop {
        session.hold_schema();
        let plan = plan_expressions(session, exprs, &[])?;
        if table_locks::enter(session, &plan, &mut patience).await? == Entered::AtOnce {
            return Ok(plan);
        }
    }
}

/// Value and type of an expression that reads nothing and waits for nothing; `None` if it does.
pub async fn evaluate_constant(
    session: &mut Session,
    expr: &Expr,
    parameters: &Parameters,
) -> Result<Option<(Datum, FieldType)>> {
    let plan = plan_expressions(session, std::slice::from_ref(expr), &parameters.types)?;
    if !plan.tables.is_empty() || !plan.subplans.is_empty() {
        return Ok(None);
    }
    let values = run_expressions(session, &plan, &parameters.values).await?;
    Ok(values.into_iter().next())
}

async fn run_expressions(
    session: &mut Session,
    plan: &Arc<Plan>,
    parameters: &[Datum],
) -> Result<Vec<(Datum, FieldType)>> {
    let PlanKind::Query(root) = &plan.kind else { return Ok(Vec::new()) };
    let types = root.types();
    let view = crate::execution::ReadView::of_plan(session, plan).await?;
    let mut context = crate::execution::build_context(session, plan, view, parameters).await?;
    let rows = crate::dml::gather_rows(root, &context, "Set").await?;
    crate::execution::take_warnings(session, &mut context);
    let row = rows.into_iter().next().unwrap_or_default();
    Ok(row.into_iter().zip(types).collect())
}

/// Value and type of one expression without columns.
pub async fn evaluate(session: &mut Session, expr: &Expr) -> Result<(Datum, FieldType)> {
    let values = evaluate_all(session, std::slice::from_ref(expr)).await?;
    values.into_iter().next().ok_or(SqlError::Interrupted)
}

/// A default's expression, bound; subqueries are not allowed in it.
pub fn bind_default(session: &mut Session, text: &str) -> Result<cairn_expr::Expr> {
    let parsed = cairn_parser::parse_expr(text, &session.parser_mode())
        .map_err(crate::session::text::parse_error)?;
    let plan = plan_expressions(session, std::slice::from_ref(&parsed), &[])?;
    match &plan.kind {
        PlanKind::Query(PhysicalPlan { op: PhysicalOp::Projection(desc), .. })
            if plan.subplans.is_empty() =>
        {
            desc.exprs.first().cloned().ok_or(SqlError::Interrupted)
        }
        _ => Err(SqlError::not_supported("this expression as a default")),
    }
}
