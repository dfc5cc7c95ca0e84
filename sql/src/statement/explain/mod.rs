//! `EXPLAIN`, `EXPLAIN ANALYZE`.
//!
//! | module | what it holds |
//! |---|---|
//! | this one | which plan is shown, and running it |
//! | [`formats`] | a plan's lines as rows, trees, graphs and TiDB's JSON |
//! | [`mysql_json`] | a plan as MySQL's JSON, for tools that draw it |
//! | [`analyze`] | what was measured, as TiDB writes it |

pub mod analyze;
pub mod formats;
pub mod mysql_json;

use std::sync::Arc;

use async_trait::async_trait;
use cairn_parser::ast::{Explain, ExplainTarget, Statement};
use cairn_planner::plan::Plan;
use cairn_planner::{OutputColumn, PlanKind};
use cairn_types::{Chunk, Datum, errno};

use super::{Parameters, plan};
use crate::clock;
use crate::error::{Result, SqlError};
use crate::execution;
use crate::processes::ConnectionId;
use crate::protocol::resultset::RowFormat;
use crate::session::Session;
use crate::sink::{OkInfo, ResultSink};
use crate::table_locks::{self, Entered, Patience};
use analyze::Measured;
use formats::Format;

/// Error 3012.
const ER_EXPLAIN_NOT_SUPPORTED: u16 = 3012;

/// Result columns.
pub fn columns(explain: &Explain) -> Result<Vec<OutputColumn>> {
    let format = Format::parse(explain.format.as_deref())?;
    // What another connection runs is not run again.
    let is_run = explain.analyze && matches!(explain.target, ExplainTarget::Statement(_));
    Ok(format.columns(is_run))
}

/// Runs an `EXPLAIN` of a statement.
pub async fn run(
    session: &mut Session,
    explain: &Explain,
    target: &Statement,
    parameters: &Parameters,
    sink: &mut dyn ResultSink,
) -> Result<()> {
    let format = Format::parse(explain.format.as_deref())?;
    let start_ns = clock::monotonic_nanos();
    let mut patience = Patience::default();
    let plan = loop {
        session.hold_schema();
        let plan = Arc::new(plan::plan(session, target, &parameters.types)?);
        if plan::awaits_statistics(session, &plan).await {
            continue;
        }
        // What is only explained uses no rows.
        if !explain.analyze
            || table_locks::enter(session, &plan, &mut patience).await? == Entered::AtOnce
        {
            break plan;
        }
    };
    session.measures.compile_ns = clock::monotonic_nanos().saturating_sub(start_ns);
    let measured = match explain.analyze {
        true => Some(measure(session, &plan, parameters).await?),
        false => None,
    };
    show(session, format, &plan, measured.as_ref(), sink).await
}

/// `EXPLAIN FOR CONNECTION`: the plan of what it runs, or ran last.
pub async fn of_connection(
    session: &mut Session,
    explain: &Explain,
    id: u64,
    sink: &mut dyn ResultSink,
) -> Result<()> {
    let format = Format::parse(explain.format.as_deref())?;
    let number = u32::try_from(id).ok();
    let process = number.and_then(|id| session.domain.processes.find(ConnectionId(id)));
    let process = process.ok_or_else(|| {
        SqlError::new(errno::ER_NO_SUCH_THREAD, format!("Unknown thread id: {id}"))
    })?;
    let plan = process.plan().ok_or_else(|| {
        SqlError::new(
            ER_EXPLAIN_NOT_SUPPORTED,
            "EXPLAIN FOR CONNECTION command is supported only for SELECT/UPDATE/INSERT/DELETE/REPLACE",
        )
    })?;
    show(session, format, &plan, None, sink).await
}

/// Runs a plan and says what each part of it did.
async fn measure(
    session: &mut Session,
    plan: &Arc<Plan>,
    parameters: &Parameters,
) -> Result<Measured> {
    let watch = session.begin_watch();
    let start_ns = clock::monotonic_nanos();
    match &plan.kind {
        PlanKind::Query(root) if !root.takes_locks() => {
            execution::run_for_stats(session, plan, root, &parameters.values).await?;
        }
        PlanKind::Query(_) => {
            execution::run_query(session, plan, &parameters.values, &mut NoSink).await?;
        }
        PlanKind::Insert(_) | PlanKind::Update(_) | PlanKind::Delete(_) => {
            crate::dml::run(session, plan, &parameters.values, &mut NoSink).await?;
        }
    }
    let run_ns = clock::monotonic_nanos().saturating_sub(start_ns);
    Ok(Measured::new(&watch, session, run_ns))
}

async fn show(
    session: &mut Session,
    format: Format,
    plan: &Plan,
    measured: Option<&Measured>,
    sink: &mut dyn ResultSink,
) -> Result<()> {
    let columns = format.columns(measured.is_some());
    sink.begin_rows(columns.into()).await?;
    for row in format.rows(plan, measured) {
        let row: Vec<Datum> = row.into_iter().map(Datum::text).collect();
        sink.row(&row).await?;
    }
    session.row_count = -1;
    sink.end_rows(session.status_flags(), session.diagnostics.list.len()).await
}

/// Takes the rows of a statement that is only measured.
pub struct NoSink;

#[async_trait]
impl ResultSink for NoSink {
    async fn begin_rows(&mut self, _columns: Arc<[OutputColumn]>) -> Result<()> {
        Ok(())
    }

    async fn chunk(&mut self, _chunk: &Chunk) -> Result<()> {
        Ok(())
    }

    async fn row(&mut self, _values: &[Datum]) -> Result<()> {
        Ok(())
    }

    async fn raw_row(
        &mut self,
        write: &mut (dyn for<'a> FnMut(&'a mut Vec<u8>, RowFormat) -> Result<()> + Send),
    ) -> Result<()> {
        // A row that cannot be written is an error here, too.
        write(&mut Vec::new(), RowFormat::Text)
    }

    async fn end_rows(&mut self, _session_status: u16, _warnings: usize) -> Result<()> {
        Ok(())
    }

    async fn ok(&mut self, _session_status: u16, _ok: OkInfo) -> Result<()> {
        Ok(())
    }
}
