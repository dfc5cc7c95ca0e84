//! Runs plans: physical plans become operators of `cairn-executor` over the key-value tier.
//!
//! **Flow.** [`run_query`] fills the plan's parameter slots, runs its subplans, builds the
//! operator tree ([`builder`]) and pushes chunks into the statement's sink. Readers
//! ([`reader`]) send fragments to the stores, or, when the transaction wrote to the table
//! itself, run the very same fragment here over [`source::TransactionSource`].
//! Point reads ([`point`]) build no operator and no chunk. Queries that lock gather their rows
//! first ([`locking`]).

mod broadcast;
pub mod builder;
mod index_join;
mod locking;
pub mod own_rows;
pub mod point;
pub mod reader;
pub mod source;
pub mod view;
pub mod watch;

use std::collections::BTreeMap;
use std::sync::Arc;

use cairn_executor::{BoxOperator, ExecContext, ExecError};
use cairn_kv_client::KvError;
use cairn_planner::plan::{PhysicalOp, PhysicalPlan, Plan, Subplan, SubplanKind};
use cairn_types::{Datum, errno};

use crate::clock;
use crate::error::{Result, SqlError};
use crate::session::Session;
use crate::session::past::lock_in_past;
use crate::session::transaction::Alone;
use crate::sink::ResultSink;

pub use builder::BuildContext;
pub use view::ReadView;
pub use watch::Watch;

impl From<ExecError> for SqlError {
    fn from(error: ExecError) -> Self {
        if matches!(error, ExecError::Cancelled) {
            return SqlError::Interrupted;
        }
        if let Some(error) = error.source_as::<KvError>() {
            return SqlError::Kv(error.clone());
        }
        SqlError::Mysql(error.to_mysql())
    }
}

/// How an error of the key-value tier travels through operators.
pub fn kv_error(error: KvError) -> ExecError {
    let mysql = SqlError::Kv(error.clone()).to_mysql();
    match error {
        KvError::Cancelled => ExecError::Cancelled,
        error => ExecError::source(error, mysql),
    }
}

/// Slots of a run: the statement's parameters, then NULLs for the plan's own.
pub fn slots(plan: &Plan, parameters: &[Datum]) -> Vec<Datum> {
    let mut slots = parameters.to_vec();
    slots.resize(plan.slot_count.max(parameters.len()), Datum::Null);
    slots
}

/// Runs a plan that yields rows.
pub async fn run_query(
    session: &mut Session,
    plan: &Arc<Plan>,
    parameters: &[Datum],
    sink: &mut dyn ResultSink,
) -> Result<()> {
    let cairn_planner::PlanKind::Query(root) = &plan.kind else {
        return Err(SqlError::not_supported("rows of a statement that has none"));
    };
    if let PhysicalOp::PointGet(get) = &root.op
        && get.lock.is_none()
        && plan.subplans.is_empty()
    {
        return point::run_point_get(session, plan, get, parameters, sink).await;
    }
    if root.takes_locks() && session.reads_past() {
        return Err(lock_in_past());
    }
    if root.takes_locks() && (session.transaction.is_open() || !session.settings().autocommit) {
        let mut statement = session.begin_write(Alone::Optimistic).await?;
        let outcome = if statement.transaction.is_pessimistic() {
            locking::run(session, plan, root, &mut statement, parameters, sink).await
        } else {
            let view = ReadView::Transaction(Arc::clone(&statement.transaction));
            stream_rows(session, plan, root, view, parameters, sink).await
        };
        return session.end_write(statement, outcome).await;
    }
    let view = ReadView::of_plan(session, plan).await?;
    stream_rows(session, plan, root, view, parameters, sink).await
}

/// Runs a query that takes no locks for `EXPLAIN ANALYZE`: its rows are only counted.
pub async fn run_for_stats(
    session: &mut Session,
    plan: &Arc<Plan>,
    root: &PhysicalPlan,
    parameters: &[Datum],
) -> Result<()> {
    let view = ReadView::of_session(session).await?;
    let mut context = build_context(session, plan, view, parameters).await?;
    let mut operator = builder::build(root, &context)?;
    while operator.next().await?.is_some() {
        session.check_cancelled()?;
    }
    take_warnings(session, &mut context);
    Ok(())
}

/// Hands the warnings of a statement's operators to its session.
pub fn take_warnings(session: &mut Session, context: &mut BuildContext) {
    let from_operators = context.exec.warnings.lock().take();
    context.exec.eval.warnings.merge(from_operators);
    session.take_warnings(&mut context.exec.eval);
}

/// The context operators of a statement share; subplans have been run.
pub async fn build_context(
    session: &mut Session,
    plan: &Arc<Plan>,
    view: ReadView,
    parameters: &[Datum],
) -> Result<BuildContext> {
    let mut eval = session.eval_context();
    eval.params = slots(plan, parameters).into();
    let memory = session.statement_memory();
    let mut exec = ExecContext::new(eval)
        .with_memory(memory.tracker)
        .with_spill(memory.spill)
        .with_cancel(session.token().clone());
    exec.concurrency = session.settings().executor_concurrency;
    let watch = session.watch().cloned();
    if let Some(watch) = &watch {
        let stats = Arc::clone(&watch.stats);
        exec = exec.with_stats(stats, Arc::new(clock::monotonic_nanos));
    }
    let mut context = BuildContext {
        exec,
        view,
        kv: Arc::clone(&session.domain.kv),
        scan_concurrency: session.settings().scan_concurrency,
        broadcast_bytes_max: session.settings().broadcast_bytes_max,
        lock_wait_timeout: session.lock_wait_timeout(),
        mem_tables: crate::infoschema::MemTableRows::new(session),
        lookup_ranges: None,
        watch,
        reader_log: None,
        recursion_depth_max: session.settings().recursion_depth_max,
        work_tables: BTreeMap::new(),
        shared: builder::SharedTables::default(),
    };
    for subplan in &plan.subplans {
        if matches!(subplan.kind, SubplanKind::NamedLock(_)) && plan.tables.is_empty() {
            // It may wait for long, for a session whose next statement changes the schema.
            session.release_schema();
        }
        run_subplan(session, subplan, &mut context).await?;
    }
    Ok(context)
}

async fn run_subplan(
    session: &mut Session,
    subplan: &Subplan,
    context: &mut BuildContext,
) -> Result<()> {
    let mut operator = builder::build(&subplan.plan, context)?;
    let mut first: Option<Vec<Datum>> = None;
    'rows: while let Some(chunk) = operator.next().await? {
        for row in chunk.selected() {
            if first.is_some() {
                return Err(SqlError::new(
                    errno::ER_SUBQUERY_NO_1_ROW,
                    "Subquery returns more than 1 row",
                ));
            }
            first = Some(chunk.row(row));
            if subplan.kind == SubplanKind::Exists {
                break 'rows;
            }
        }
    }
    drop(operator);
    let mut slots = context.exec.eval.params.to_vec();
    match subplan.kind {
        SubplanKind::Exists => slots[subplan.slot] = Datum::Int(i64::from(first.is_some())),
        SubplanKind::Scalar { columns } => {
            for at in 0..columns {
                let value = first.as_ref().and_then(|row| row.get(at).cloned());
                slots[subplan.slot + at] = value.unwrap_or(Datum::Null);
            }
        }
        SubplanKind::NamedLock(call) => {
            let args = first.unwrap_or_default();
            slots[subplan.slot] = crate::named_locks::call(session, call, &args).await?;
        }
    }
    context.exec.eval.params = slots.into();
    Ok(())
}

async fn stream_rows(
    session: &mut Session,
    plan: &Arc<Plan>,
    root: &PhysicalPlan,
    view: ReadView,
    parameters: &[Datum],
    sink: &mut dyn ResultSink,
) -> Result<()> {
    let deadline = session.scope().deadline;
    let work = async {
        let context = build_context(session, plan, view, parameters).await?;
        let operator = builder::build(root, &context)?;
        let rows = send_rows(session, plan, operator, sink).await?;
        Ok::<_, SqlError>((rows, context))
    };
    let (rows, mut context) = match deadline {
        None => work.await?,
        // Also ends the wait for a client that does not read.
        Some(deadline) => {
            let timed = tokio::time::timeout(deadline.remaining(), work).await;
            timed.map_err(|_| KvError::StatementTimeout)??
        }
    };
    take_warnings(session, &mut context);
    session.found_rows = rows;
    session.row_count = -1;
    sink.end_rows(session.status_flags(), session.diagnostics.list.len()).await
}

async fn send_rows(
    session: &Session,
    plan: &Plan,
    mut operator: BoxOperator,
    sink: &mut dyn ResultSink,
) -> Result<u64> {
    // The first chunk comes before the column definitions: an error up to here is the
    // statement's only answer.
    let mut next = operator.next().await?;
    sink.begin_rows(Arc::clone(&plan.columns)).await?;
    let mut rows = 0;
    while let Some(chunk) = next {
        session.check_cancelled()?;
        rows += chunk.num_selected() as u64;
        sink.chunk(&chunk).await?;
        next = operator.next().await?;
    }
    Ok(rows)
}
