//! Queries that lock what they read, in a pessimistic transaction.
//!
//! Rows are gathered before the first is sent: a row that was changed between the statement's
//! timestamp and its lock makes the statement start over, with the locks it has.

use std::sync::Arc;

use cairn_planner::plan::{PhysicalPlan, Plan};
use cairn_types::{Chunk, Datum};

use super::{BuildContext, ReadView, build_context, builder, take_warnings};
use crate::dml::{RESTARTS_MAX, is_about_locks, restarted_too_often};
use crate::error::Result;
use crate::session::Session;
use crate::session::transaction::StatementTransaction;
use crate::sink::ResultSink;

/// Runs the query and sends its rows.
pub async fn run(
    session: &mut Session,
    plan: &Arc<Plan>,
    root: &PhysicalPlan,
    statement: &mut StatementTransaction,
    parameters: &[Datum],
    sink: &mut dyn ResultSink,
) -> Result<()> {
    for _ in 0..RESTARTS_MAX {
        let outcome = gather(session, plan, root, statement, parameters).await;
        let is_final = outcome.as_ref().is_err_and(is_about_locks);
        if is_final || !statement.transaction.take_conflict() {
            let (chunks, mut context) = outcome?;
            take_warnings(session, &mut context);
            return send(session, plan, &chunks, sink).await;
        }
        session.restart_write(statement).await?;
    }
    Err(restarted_too_often())
}

async fn gather(
    session: &mut Session,
    plan: &Arc<Plan>,
    root: &PhysicalPlan,
    statement: &StatementTransaction,
    parameters: &[Datum],
) -> Result<(Vec<Chunk>, BuildContext)> {
    let view = ReadView::Transaction(Arc::clone(&statement.transaction));
    let context = build_context(session, plan, view, parameters).await?;
    let mut operator = builder::build(root, &context)?;
    let mut memory = context.exec.account("SelectLock");
    let mut chunks = Vec::new();
    let mut bytes = 0;
    while let Some(chunk) = operator.next().await? {
        session.check_cancelled()?;
        if !chunk.is_empty() {
            bytes += chunk.memory_bytes();
            chunks.push(chunk);
        }
        memory.set(bytes as u64)?;
    }
    Ok((chunks, context))
}

async fn send(
    session: &mut Session,
    plan: &Plan,
    chunks: &[Chunk],
    sink: &mut dyn ResultSink,
) -> Result<()> {
    sink.begin_rows(Arc::clone(&plan.columns)).await?;
    for chunk in chunks {
        session.check_cancelled()?;
        sink.chunk(chunk).await?;
    }
    session.found_rows = chunks.iter().map(|chunk| chunk.num_selected() as u64).sum();
    session.row_count = -1;
    sink.end_rows(session.status_flags(), session.diagnostics.list.len()).await
}
