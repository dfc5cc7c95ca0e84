//! Statements that change rows: `INSERT`, `REPLACE`, `UPDATE`, `DELETE`, row locks.
//!
//! **Flow.** `statement` plans; [`run`] opens the statement's transaction, [`insert`],
//! [`update`] and [`delete`] compute rows, [`writer::TableWriter`] turns them into row and
//! index mutations of the transaction's buffer.
//!
//! **Invariants.**
//! - A row and its entries in every writable index change together, in one transaction.
//! - Rows to change are gathered before the first is changed, or, by a bulk statement, read from the
//!   state of before: a statement never meets its own writes (the Halloween problem).
//! - Keys that must be new are marked so in the buffer and checked again at prewrite.
//! - What is written is decoded once more first ([`check`]), and each change says whether its key was
//!   there before, which is looked at when it commits.
//!
//! **Left out.** Foreign keys and CHECK constraints are kept as metadata and not enforced.

pub mod assign;
pub mod check;
pub mod delete;
pub mod insert;
pub mod lock;
pub mod rows;
pub mod update;
pub mod writer;

use std::sync::Arc;

use cairn_planner::plan::{HandleSource, PhysicalOp, Plan, PlanKind};
use cairn_types::{Datum, Handle, TimeZone, errno, keys};

use crate::catalog::SchemaSnapshot;
use crate::error::{Result, SqlError};
use crate::execution::{BuildContext, ReadView, point};
use crate::record;
use crate::session::transaction::{Alone, StatementTransaction};
use crate::session::{Diagnostics, Session, UserVariables};
use crate::sink::{OkInfo, ResultSink};

/// How often a statement that stands alone starts over after losing to another
/// transaction. Nothing was sent to the client by then, so starting over is invisible.
const AUTOCOMMIT_TRIES: usize = 64;
/// How often a statement starts over because rows it locked were changed since it read them.
/// It keeps what it has locked, so that it only meets rows that are new to it.
pub const RESTARTS_MAX: usize = 256;

/// What a statement did.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Rows found by `WHERE`, or given to `INSERT`.
    pub matched: u64,
    /// Rows changed, as the protocol counts them.
    pub affected: u64,
    /// Duplicates met by `INSERT IGNORE`, `REPLACE` and `ON DUPLICATE KEY UPDATE`.
    pub duplicates: u64,
    /// First generated AUTO_INCREMENT value.
    pub last_insert_id: u64,
    /// `Records: …` or `Rows matched: …`.
    pub info: String,
}

/// Runs a planned change.
pub async fn run(
    session: &mut Session,
    plan: &Arc<Plan>,
    parameters: &[Datum],
    sink: &mut dyn ResultSink,
) -> Result<()> {
    let mut tries = 0;
    let outcome = loop {
        tries += 1;
        let how = if tries == 1 { session.first_write(plan) } else { Alone::Pessimistic };
        let mut statement = session.begin_write(how).await?;
        let transaction = Arc::clone(&statement.transaction);
        let alone = !session.transaction.is_open();
        let before = Before::of(session);
        let outcome = change_and_lock(session, plan, parameters, &mut statement, &before).await;
        match session.end_write(statement, outcome).await {
            Err(error)
                if alone
                    && tries < AUTOCOMMIT_TRIES
                    && is_conflict(&error)
                    && !transaction.has_flushed() =>
            {
                session.check_cancelled()?;
                session.measures.retries += 1;
                before.restore(session);
            }
            outcome => break outcome?,
        }
    };
    session.row_count = outcome.affected as i64;
    if outcome.last_insert_id != 0 {
        cairn_expr::SessionAccess::set_last_insert_id(&*session.shared, outcome.last_insert_id);
    }
    let ok = OkInfo {
        affected_rows: outcome.affected,
        last_insert_id: match outcome.last_insert_id {
            0 => session.shared.given_last_insert_id(),
            id => id,
        },
        warnings: session.diagnostics.list.len(),
        info: outcome.info,
    };
    sink.ok(session.status_flags(), ok).await
}

/// What of the session a statement changes that starts over.
struct Before {
    diagnostics: Diagnostics,
    user_variables: UserVariables,
}

impl Before {
    fn of(session: &Session) -> Self {
        let user_variables = session.shared.user_variables();
        Self { diagnostics: session.diagnostics.clone(), user_variables }
    }

    fn restore(&self, session: &mut Session) {
        session.diagnostics = self.diagnostics.clone();
        session.shared.restore_user_variables(self.user_variables.clone());
    }
}

/// Changes rows and locks them, until they are those it has read.
async fn change_and_lock(
    session: &mut Session,
    plan: &Arc<Plan>,
    parameters: &[Datum],
    statement: &mut StatementTransaction,
    before: &Before,
) -> Result<Outcome> {
    for _ in 0..RESTARTS_MAX {
        let outcome = change(session, plan, parameters, statement).await;
        if outcome.is_ok() {
            statement.transaction.lock_wanted(&statement.locking).await?;
        }
        // What an error rests on may have changed, unless it is about the locks themselves.
        let is_final = outcome.as_ref().is_err_and(is_about_locks);
        if is_final || !statement.transaction.take_conflict() {
            return outcome;
        }
        session.restart_write(statement).await?;
        session.measures.retries += 1;
        before.restore(session);
    }
    Err(restarted_too_often())
}

/// A statement that always met rows that were new to it.
pub fn restarted_too_often() -> SqlError {
    SqlError::new(
        errno::ER_LOCK_DEADLOCK,
        "Deadlock found when trying to get lock; try restarting transaction",
    )
}

/// Whether a statement failed because of locks or was cancelled; starting over is no help.
pub fn is_about_locks(error: &SqlError) -> bool {
    let code = error.to_mysql().code;
    matches!(
        code,
        errno::ER_LOCK_DEADLOCK
            | errno::ER_LOCK_WAIT_TIMEOUT
            | errno::ER_LOCK_NOWAIT
            | errno::ER_QUERY_INTERRUPTED
    )
}

fn is_conflict(error: &SqlError) -> bool {
    matches!(error, SqlError::Kv(error) if error.is_txn_retryable())
}

async fn change(
    session: &mut Session,
    plan: &Arc<Plan>,
    parameters: &[Datum],
    statement: &StatementTransaction,
) -> Result<Outcome> {
    let transaction = &statement.transaction;
    let view = match transaction.is_bulk() {
        true => ReadView::Snapshot(transaction.snapshot()),
        false => ReadView::Transaction(Arc::clone(transaction)),
    };
    let mut context = crate::execution::build_context(session, plan, view, parameters).await?;
    context.exec.eval.strict = context.exec.eval.sql_mode.is_strict();
    let outcome = match &plan.kind {
        PlanKind::Insert(insert) => insert::run(session, insert, statement, &mut context).await,
        PlanKind::Update(update) => update::run(session, update, statement, &mut context).await,
        PlanKind::Delete(delete) => delete::run(session, delete, statement, &mut context).await,
        PlanKind::Query(_) => Err(SqlError::not_supported("a query as a change of rows")),
    };
    crate::execution::take_warnings(session, &mut context);
    outcome
}

/// Gathers the rows that a change works on, within the statement's memory.
pub async fn gather_rows(
    plan: &cairn_planner::PhysicalPlan,
    context: &BuildContext,
    operator_name: &str,
) -> Result<Vec<Vec<Datum>>> {
    if let PhysicalOp::PointGet(get) = &plan.op {
        return point::gather(get, context).await;
    }
    let mut operator = crate::execution::builder::build(plan, context)?;
    let mut memory = context.exec.account(operator_name);
    let mut rows = Vec::new();
    let mut bytes = 0;
    while let Some(chunk) = operator.next().await? {
        context.exec.check()?;
        for at in chunk.selected() {
            let row = chunk.row(at);
            bytes += row.iter().map(Datum::memory_bytes).sum::<usize>();
            rows.push(row);
        }
        memory.set(bytes as u64)?;
    }
    Ok(rows)
}

/// The handle of a table's row in a row of a change's source; `None` where an outer join
/// found no row. The row is in the session's time zone.
pub fn handle_in_row(
    table: &cairn_planner::TableInfo,
    source: &HandleSource,
    row: &[Datum],
    zone: &TimeZone,
) -> Result<Option<Handle>> {
    match source {
        HandleSource::Int(at) => Ok(match &row[*at] {
            Datum::Int(value) => Some(Handle::Int(*value)),
            Datum::UInt(value) => Some(Handle::Int(*value as i64)),
            _ => None,
        }),
        HandleSource::Common(columns) => {
            if columns.iter().any(|at| row[*at].is_null()) {
                return Ok(None);
            }
            let offsets = table.common_handle_columns();
            let parts = columns.iter().zip(&offsets);
            let parts: Vec<_> = parts
                .map(|(at, offset)| {
                    let column = &table.columns[*offset];
                    (record::handle_part_to_stored(column, &row[*at], zone), &column.ty)
                })
                .collect();
            let parts = parts.iter().map(|(value, ty)| (value.as_ref(), *ty));
            Ok(Some(record::common_handle(parts)))
        }
    }
}

/// All columns of a table by offset, from a row of a change's source. Columns that the
/// source does not give have what old rows have in them.
pub fn old_row(
    table: &cairn_planner::TableInfo,
    columns: &[Option<usize>],
    row: &[Datum],
) -> Vec<Datum> {
    let value = |(offset, at): (usize, &Option<usize>)| match at {
        Some(at) => row[*at].clone(),
        None => {
            let column = &table.columns[offset];
            record::constant_default(column, column.origin_default.as_ref())
        }
    };
    columns.iter().enumerate().map(value).collect()
}

/// Error 1062 for a key that a commit found taken.
pub fn duplicate_key_error(schema: &SchemaSnapshot, key: &[u8]) -> SqlError {
    let unknown = || duplicate_entry("?", "?");
    let Ok(table_id) = keys::decode_table_id(key) else { return unknown() };
    let Some((_, table)) = schema.table_by_id(table_id) else { return unknown() };
    let index = match keys::decode_index_key(key) {
        Ok(index_key) => table.indices.iter().find(|index| index.id == index_key.index),
        Err(_) => table.primary_key(),
    };
    let Some(index) = index else { return unknown() };
    let name = format!("{}.{}", table.name, index.name);
    duplicate_entry(&record::describe_key(&table, index, key), &name)
}

/// Error 1062.
pub fn duplicate_entry(value: &str, key: &str) -> SqlError {
    SqlError::new(errno::ER_DUP_ENTRY, format!("Duplicate entry '{value}' for key '{key}'"))
}
