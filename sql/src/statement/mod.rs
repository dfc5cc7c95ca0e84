//! From a statement's tree to its execution: the dispatch.
//!
//! **Flow.** `connection` → [`Session::execute`] (text) or [`execute_prepared`] →
//! `dispatch`: queries and changes of rows go through the planner, everything else has a
//! file of its own here or in `ddl`.

pub mod accounts;
pub mod check;
pub mod explain;
pub mod plan;
pub mod set;
pub mod show;
pub mod trace;

use cairn_parser::ast::{
    ExplainTarget, ParsedStatement, PrepareSource, Statement, StatisticsVerb, Xa,
};
use cairn_planner::OutputColumn;
use cairn_types::{Datum, FieldType, errno};
use tokio_util::sync::CancellationToken;

use crate::error::{Result, SqlError};
use crate::session::text::QueuedStatement;
use crate::session::{Diagnostics, Session, fold_name};
use crate::sink::{OkInfo, ResultSink};
use crate::{ddl, execution, regions, statistics, table_locks};

/// Values of a statement's `?` markers.
#[derive(Clone, Debug, Default)]
pub struct Parameters {
    /// The values.
    pub values: Vec<Datum>,
    /// Their types.
    pub types: Vec<FieldType>,
}

impl Session {
    /// Runs one statement of a text.
    pub async fn execute(
        &mut self,
        statement: QueuedStatement,
        token: CancellationToken,
        sink: &mut dyn ResultSink,
    ) -> Result<()> {
        self.begin_statement(token);
        self.measures.parse_ns = statement.parse_ns;
        if statement.parsed.parameter_count > 0 {
            return Err(SqlError::new(
                errno::ER_PARSE_ERROR,
                "You have an error in your SQL syntax; '?' stands only in prepared statements",
            ));
        }
        run(self, &statement.parsed, &statement.text, &Parameters::default(), sink).await
    }
}

/// Runs a prepared statement with its parameters.
pub async fn execute_prepared(
    session: &mut Session,
    parsed: &ParsedStatement,
    text: &str,
    parameters: Parameters,
    sink: &mut dyn ResultSink,
) -> Result<()> {
    session.measures.is_prepared = true;
    run(session, parsed, text, &parameters, sink).await
}

async fn run(
    session: &mut Session,
    parsed: &ParsedStatement,
    text: &str,
    parameters: &Parameters,
    sink: &mut dyn ResultSink,
) -> Result<()> {
    let statement = &parsed.statement;
    if !keeps_diagnostics(statement) {
        session.diagnostics = Diagnostics::default();
    }
    let previous_row_count = session.row_count;
    let outcome = dispatch(session, parsed, text, parameters, sink).await;
    let outcome = outcome.map_err(|error| session.tell_interruption(error));
    let requests = session.scope().log.as_ref().map(|log| log.sums()).unwrap_or_default();
    session.end_bounds();
    session.release_schema();
    if outcome.is_ok() && session.row_count == previous_row_count && !is_change(statement) {
        session.row_count = if matches!(statement, Statement::Query(_)) { -1 } else { 0 };
    }
    session.tell_ended(statement, &outcome, requests);
    outcome
}

/// Diagnostic statements show what the one before left.
fn keeps_diagnostics(statement: &Statement) -> bool {
    use cairn_parser::ast::ShowKind;
    match statement {
        Statement::Show(show) => matches!(
            show.what,
            ShowKind::Warnings(_)
                | ShowKind::Errors(_)
                | ShowKind::CountWarnings
                | ShowKind::CountErrors
        ),
        _ => false,
    }
}

fn is_change(statement: &Statement) -> bool {
    matches!(statement, Statement::Insert(_) | Statement::Update(_) | Statement::Delete(_))
}

/// Result columns of a statement, for `COM_STMT_PREPARE`.
pub async fn describe(
    session: &mut Session,
    parsed: &ParsedStatement,
) -> Result<Vec<OutputColumn>> {
    let outcome = describe_at(session, parsed).await;
    session.release_schema();
    outcome
}

async fn describe_at(session: &mut Session, parsed: &ParsedStatement) -> Result<Vec<OutputColumn>> {
    // A time that is a parameter is not known yet: the present must do.
    let is_timed = parsed.parameter_count == 0 && !parsed.as_of.is_empty();
    if is_timed && !session.transaction.is_open() {
        session.look_back(parsed, &Parameters::default()).await?;
    }
    let statement = &parsed.statement;
    match statement {
        Statement::Query(_)
        | Statement::Insert(_)
        | Statement::Update(_)
        | Statement::Delete(_) => {
            let plan = plan::plan(session, statement, &[])?;
            Ok(plan.columns.to_vec())
        }
        Statement::Show(show) => show::columns(session, show),
        Statement::Explain(explain) => explain::columns(explain),
        Statement::Trace(trace) => Ok(trace::columns(trace)?),
        Statement::Describe(_) => Ok(show::describe_columns()),
        Statement::SplitTable(_) => Ok(regions::split_columns()),
        Statement::Xa(xa) if matches!(**xa, Xa::Recover { .. }) => Ok(crate::xa::recover_columns()),
        Statement::AnalyzeTable(_) => Ok(check::columns()),
        Statement::TableMaintenance(of) if of.verb == "CHECK" => Ok(check::columns()),
        _ => Ok(Vec::new()),
    }
}

async fn ok(session: &mut Session, sink: &mut dyn ResultSink) -> Result<()> {
    let warnings = session.diagnostics.list.len();
    sink.ok(session.status_flags(), OkInfo { warnings, ..OkInfo::default() }).await
}

async fn dispatch(
    session: &mut Session,
    parsed: &ParsedStatement,
    text: &str,
    parameters: &Parameters,
    sink: &mut dyn ResultSink,
) -> Result<()> {
    let statement = &parsed.statement;
    session.bound_statement(statement);
    session.set_statement_text(text);
    session.look_back(parsed, parameters).await?;
    match statement {
        Statement::Query(_) => {
            let plan = plan::entered(session, statement, text, &parameters.types).await?;
            session.set_statement_plan(&plan);
            execution::run_query(session, &plan, &parameters.values, sink).await
        }
        Statement::Insert(_) | Statement::Update(_) | Statement::Delete(_) => {
            let plan = plan::entered(session, statement, text, &parameters.types).await?;
            session.set_statement_plan(&plan);
            crate::dml::run(session, &plan, &parameters.values, sink).await
        }
        Statement::Xa(xa) => match **xa {
            Xa::Recover { convert_xid } => crate::xa::recover(session, convert_xid, sink).await,
            _ => {
                crate::xa::run(session, xa).await?;
                ok(session, sink).await
            }
        },
        Statement::Show(show) => show::run(session, show, sink).await,
        Statement::Describe(describe) => show::describe(session, describe, sink).await,
        Statement::SplitTable(split) => {
            session.check_present()?;
            regions::split(session, split, sink).await
        }
        Statement::AnalyzeTable(analyze) => statistics::analyze::run(session, analyze, sink).await,
        Statement::TableMaintenance(of) if of.verb == "CHECK" => {
            session.hold_schema();
            check::check_tables(session, &of.tables, sink).await
        }
        Statement::Explain(explain) => match &explain.target {
            ExplainTarget::Statement(target) => {
                session.bound_statement(target);
                explain::run(session, explain, target, parameters, sink).await
            }
            ExplainTarget::Connection(id) => {
                explain::of_connection(session, explain, *id, sink).await
            }
        },
        Statement::Trace(trace) => {
            trace::run(session, (trace, parsed), text, parameters, sink).await
        }
        Statement::Execute(execute) => {
            let (prepared, text) = session.named_statement(&execute.name)?;
            let parameters = user_variable_parameters(session, &execute.using);
            session.measures.is_prepared = true;
            if prepared.parameter_count as usize != parameters.values.len() {
                return Err(SqlError::new(
                    errno::ER_WRONG_ARGUMENTS,
                    "Incorrect arguments to EXECUTE",
                ));
            }
            let run = dispatch(session, &prepared, &text, &parameters, sink);
            Box::pin(run).await
        }
        Statement::Do(exprs) => {
            plan::evaluate_all(session, exprs).await?;
            ok(session, sink).await
        }
        other => {
            if ddl::is_schema_change(other) {
                // A schema change ends the open transaction and stands alone.
                session.check_present()?;
                session.commit().await?;
                table_locks::enter_schema_change(session, other).await?;
                ddl::run(session, other, sink).await?;
                return Ok(());
            }
            command(session, other).await?;
            ok(session, sink).await
        }
    }
}

/// Statements that answer OK.
async fn command(session: &mut Session, statement: &Statement) -> Result<()> {
    match statement {
        Statement::Begin(begin) => session.begin(begin).await,
        Statement::Commit(completion) => {
            let modes = session.transaction.modes();
            session.commit().await?;
            session.complete(completion, modes);
            Ok(())
        }
        Statement::Rollback(completion) => {
            session.branch.check_none()?;
            let modes = session.transaction.modes();
            session.roll_back().await?;
            session.complete(completion, modes);
            Ok(())
        }
        Statement::Savepoint(name) => session.savepoint(name).await,
        Statement::RollbackTo(name) => session.roll_back_to(name),
        Statement::ReleaseSavepoint(name) => session.release_savepoint(name),
        Statement::SetTransaction(set) => set::set_transaction(session, set).await,
        Statement::Use(name) => session.use_database(name).await,
        Statement::Set(items) => set::run(session, items).await,
        Statement::Prepare(prepare) => {
            let text = match &prepare.source {
                PrepareSource::Text(text) => text.clone(),
                PrepareSource::UserVariable(name) => user_variable_text(session, name),
            };
            session.prepare_named(&prepare.name, &text).await
        }
        Statement::Deallocate(name) => session.deallocate(name),
        Statement::Kill(kill) => {
            let (id, _) = plan::evaluate(session, &kill.connection).await?;
            let id = id.as_i64().unwrap_or(-1);
            let id = u32::try_from(id).map_err(|_| {
                SqlError::new(errno::ER_NO_SUCH_THREAD, format!("Unknown thread id: {id}"))
            })?;
            session.kill(crate::processes::ConnectionId(id), kill.query_only)
        }
        Statement::CreateUser(_)
        | Statement::AlterUser(_)
        | Statement::DropUser(_)
        | Statement::SetPassword(_)
        | Statement::Grant(_)
        | Statement::GrantRole(_) => {
            session.check_present()?;
            table_locks::enter_schema_change(session, statement).await?;
            accounts::run(session, statement).await
        }
        Statement::LockTables(tables) => session.lock_tables(tables).await,
        Statement::UnlockTables => session.unlock_tables().await,
        Statement::LockInstance => session.lock_instance().await,
        Statement::UnlockInstance => session.unlock_instance().await,
        Statement::Flush(flush) => match flush.lock {
            Some(lock) => session.flush_tables(&flush.tables, lock).await,
            None if flush.what.contains("STATS_DELTA") => {
                session.domain.statistics.flush(&session.domain).await?;
                session.domain.statistics.refresh(&session.domain).await
            }
            // Nothing of these is cached, or they name what does not exist here.
            None => Ok(()),
        },
        Statement::Statistics(command) => {
            session.check_present()?;
            match command.verb {
                StatisticsVerb::Drop => {
                    statistics::analyze::drop_statistics(session, &command.tables).await
                }
                StatisticsVerb::Lock => {
                    statistics::analyze::lock(session, &command.tables, true).await
                }
                StatisticsVerb::Unlock => {
                    statistics::analyze::lock(session, &command.tables, false).await
                }
            }
        }
        Statement::Admin(admin) => {
            session.hold_schema();
            check::admin(session, admin).await
        }
        Statement::TableMaintenance(_) => {
            Err(SqlError::not_supported("OPTIMIZE, REPAIR and CHECKSUM TABLE"))
        }
        _ => Err(SqlError::not_supported("this statement")),
    }
}

fn user_variable_text(session: &Session, name: &str) -> String {
    let variables = session.shared.user_variables();
    let value = variables.get(&fold_name(name)).map(|(value, ty)| {
        let mut text = Vec::new();
        cairn_types::write_text(&mut text, value.as_ref(), ty);
        String::from_utf8_lossy(&text).into_owned()
    });
    value.unwrap_or_default()
}

fn user_variable_parameters(session: &Session, names: &[String]) -> Parameters {
    let variables = session.shared.user_variables();
    let mut parameters = Parameters::default();
    for name in names {
        let value = variables.get(&fold_name(name)).cloned();
        let (value, ty) = value.unwrap_or((Datum::Null, FieldType::null()));
        parameters.values.push(value);
        parameters.types.push(ty);
    }
    parameters
}
