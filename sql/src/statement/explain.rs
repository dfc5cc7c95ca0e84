//! `EXPLAIN`, `EXPLAIN ANALYZE`.

use std::sync::Arc;

use cairn_executor::RuntimeStats;
use cairn_parser::ast::{Explain, Statement};
use cairn_planner::OutputColumn;
use cairn_types::{Datum, FieldType};

use super::{Parameters, plan};
use crate::error::{Result, SqlError};
use crate::execution;
use crate::session::Session;
use crate::sink::ResultSink;
use crate::table_locks::{self, Entered, Patience};

/// TiDB's columns.
const COLUMNS: &[&str] = &["id", "estRows", "task", "access object", "operator info"];
/// Those of `EXPLAIN ANALYZE`.
const ANALYZE_COLUMNS: &[&str] = &[
    "id",
    "estRows",
    "actRows",
    "task",
    "access object",
    "execution info",
    "operator info",
    "memory",
    "disk",
];

/// Result columns.
pub fn columns(explain: &Explain) -> Vec<OutputColumn> {
    let names = if explain.analyze { ANALYZE_COLUMNS } else { COLUMNS };
    names.iter().map(|name| OutputColumn::computed(*name, FieldType::longtext())).collect()
}

/// Runs an `EXPLAIN`.
pub async fn run(
    session: &mut Session,
    explain: &Explain,
    target: &Statement,
    parameters: &Parameters,
    sink: &mut dyn ResultSink,
) -> Result<()> {
    match explain.format.as_deref() {
        None | Some("row" | "brief" | "traditional") => {}
        Some(other) => return Err(SqlError::not_supported(&format!("EXPLAIN FORMAT = {other}"))),
    }
    let mut patience = Patience::default();
    let plan = loop {
        session.hold_schema();
        let plan = Arc::new(plan::plan(session, target, &parameters.types)?);
        if plan::awaits_statistics(session, &plan).await {
            continue;
        }
        // What is only explained uses no rows.
        let runs = explain.analyze && plan.is_read_only();
        if !runs || table_locks::enter(session, &plan, &mut patience).await? == Entered::AtOnce {
            break plan;
        }
    };
    let stats = if explain.analyze {
        let root = plan.source().filter(|_| plan.is_read_only());
        let root = root.ok_or_else(|| SqlError::not_supported("EXPLAIN ANALYZE of a change"))?;
        let stats = Arc::new(RuntimeStats::default());
        execution::run_for_stats(session, &plan, root, &parameters.values, Arc::clone(&stats))
            .await?;
        Some(stats)
    } else {
        None
    };
    let rows = cairn_planner::explain(&plan);
    sink.begin_rows(columns(explain).into()).await?;
    let summaries: std::collections::HashMap<usize, _> =
        stats.map(|stats| stats.summaries().into_iter().collect()).unwrap_or_default();
    for row in rows {
        let text = |value: &str| Datum::text(value);
        let mut values = vec![text(&row.id), text(&row.est_rows)];
        if explain.analyze {
            let summary = row.operator.and_then(|id| summaries.get(&id));
            let actual = summary.map_or(0, |summary| summary.rows);
            let info = summary.map_or_else(String::new, |summary| {
                format!("time:{}, loops:{}", duration_text(summary.time_ns), summary.loops)
            });
            values.extend([text(&actual.to_string()), text(row.task), text(&row.access_object)]);
            values.extend([text(&info), text(&row.operator_info), text("N/A"), text("N/A")]);
        } else {
            values.extend([text(row.task), text(&row.access_object), text(&row.operator_info)]);
        }
        sink.row(&values).await?;
    }
    session.row_count = -1;
    sink.end_rows(session.status_flags(), session.diagnostics.list.len()).await
}

/// A duration as Go prints it, which is what users of TiDB's plans read.
fn duration_text(nanos: u64) -> String {
    match nanos {
        0..1_000 => format!("{nanos}ns"),
        1_000..1_000_000 => format!("{:.1}µs", nanos as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.2}ms", nanos as f64 / 1e6),
        _ => format!("{:.2}s", nanos as f64 / 1e9),
    }
}
