//! `UPDATE` of one table or several.
//!
//! Source: MySQL 8.0 manual, 13.2.17 "UPDATE Statement": assignments are made from left to
//! right, each seeing the ones before it; a row that does not change does not count.

use std::collections::HashSet;
use std::sync::Arc;

use cairn_planner::plan::UpdatePlan;
use cairn_types::{Handle, TableId};

use super::assign::{Assigner, eval_row};
use super::insert::finish_update;
use super::rows::SourceRows;
use super::writer::TableWriter;
use super::{Outcome, handle_in_row, old_row};
use crate::error::{Result, SqlError};
use crate::execution::BuildContext;
use crate::session::Session;
use crate::session::transaction::StatementTransaction;

/// Runs an `UPDATE`.
pub async fn run(
    session: &mut Session,
    plan: &UpdatePlan,
    statement: &StatementTransaction,
    context: &mut BuildContext,
) -> Result<Outcome> {
    let mut targets: HashSet<TableId> = HashSet::new();
    if !plan.targets.iter().all(|target| targets.insert(target.table.id)) {
        // The second would be computed from rows that the first has changed.
        return Err(SqlError::not_supported("UPDATE of one table under two names"));
    }
    let mut rows = SourceRows::of(&plan.source, context, statement, "Update").await?;
    let mut eval = context.exec.eval.clone();
    let mut assigner = Assigner::new(&eval, plan.ignore);
    let zone = eval.time_zone.clone();
    let mut writers: Vec<TableWriter> = plan
        .targets
        .iter()
        .map(|target| TableWriter::new(Arc::clone(&target.table), statement, zone.clone(), true))
        .collect();
    for target in &plan.targets {
        assigner.bind_defaults(session, &target.table)?;
    }
    let mut outcome = Outcome::default();
    let mut seen: HashSet<(TableId, Handle)> = HashSet::new();
    let mut number = 0;
    while let Some(mut row) = rows.next(context).await? {
        number += 1;
        session.take_row_warnings(&mut assigner.warnings);
        for (target, writer) in plan.targets.iter().zip(&mut writers) {
            let Some(handle) = handle_in_row(&target.table, &target.handle, &row, &zone)? else {
                continue;
            };
            // A join may meet a row several times; it is changed once.
            if plan.multi_table {
                if !seen.insert((target.table.id, handle.clone())) {
                    continue;
                }
                rows.note_seen(&handle)?;
            }
            outcome.matched += 1;
            let old = old_row(&target.table, &target.columns, &row);
            let mut assigned = vec![false; target.table.columns.len()];
            for assignment in &target.assignments {
                let column = &target.table.columns[assignment.column];
                let value = match &assignment.value {
                    Some(expr) => {
                        let computed = eval_row(expr, &row, &mut eval)?;
                        assigner.convert(column, computed, expr.ty(), number)?
                    }
                    None => assigner.default_of(column, &mut eval)?,
                };
                let value = assigner.check_null(column, value, true)?;
                if let Some(at) = target.columns[assignment.column] {
                    row[at] = value;
                }
                assigned[assignment.column] = true;
            }
            let mut new = old_row(&target.table, &target.columns, &row);
            let changed = finish_update(
                &mut assigner,
                &target.table,
                &target.generated,
                &old,
                &mut new,
                &assigned,
                &mut eval,
            )?;
            if !changed {
                writer.touch(&handle);
                continue;
            }
            writer.update(&handle, &old, &new).await?;
            outcome.affected += 1;
        }
    }
    context.exec.eval.warnings.merge(eval.warnings.take());
    session.take_row_warnings(&mut assigner.warnings);
    outcome.info = format!(
        "Rows matched: {}  Changed: {}  Warnings: {}",
        outcome.matched,
        outcome.affected,
        session.diagnostics.list.len()
    );
    if session.found_rows_wanted {
        outcome.affected = outcome.matched;
    }
    Ok(outcome)
}
