//! `DELETE` from one table or several.

use std::collections::HashSet;
use std::sync::Arc;

use cairn_planner::plan::DeletePlan;
use cairn_types::{Handle, TableId};

use super::rows::SourceRows;
use super::writer::TableWriter;
use super::{Outcome, handle_in_row, old_row};
use crate::error::Result;
use crate::execution::BuildContext;
use crate::session::Session;
use crate::session::transaction::StatementTransaction;

/// Runs a `DELETE`.
pub async fn run(
    _session: &mut Session,
    plan: &DeletePlan,
    statement: &StatementTransaction,
    context: &mut BuildContext,
) -> Result<Outcome> {
    let mut rows = SourceRows::of(&plan.source, context, statement, "Delete").await?;
    let zone = context.exec.eval.time_zone.clone();
    let writers: Vec<TableWriter> = plan
        .targets
        .iter()
        .map(|target| TableWriter::new(Arc::clone(&target.table), statement, zone.clone(), true))
        .collect();
    let mut outcome = Outcome::default();
    let mut seen: HashSet<(TableId, Handle)> = HashSet::new();
    while let Some(row) = rows.next(context).await? {
        for (target, writer) in plan.targets.iter().zip(&writers) {
            let Some(handle) = handle_in_row(&target.table, &target.handle, &row, &zone)? else {
                continue;
            };
            if plan.multi_table {
                if !seen.insert((target.table.id, handle.clone())) {
                    continue;
                }
                rows.note_seen(&handle)?;
            }
            let old = old_row(&target.table, &target.columns, &row);
            writer.delete(&handle, &old).await?;
            outcome.matched += 1;
            outcome.affected += 1;
        }
    }
    Ok(outcome)
}
