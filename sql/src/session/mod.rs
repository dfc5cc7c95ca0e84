//! A session: what one client has set, opened and prepared.
//!
//! **Flow.** `connection` hands every command to the session; statements go on to
//! [`crate::statement`]. The session owns the transaction and everything that
//! `RESET CONNECTION` must forget.
//!
//! **Concurrency.** One task owns a session. Functions that run inside operators reach it
//! through [`shared::SessionShared`] alone.

pub mod bounds;
mod last_transaction;
pub mod past;
pub mod prepared;
mod raw_literals;
pub mod shared;
pub mod text;
pub mod transaction;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use cairn_expr::{EvalContext, SessionInfo, SqlMode, StatementCounters};
use cairn_parser::ast::VariableScope;
use cairn_planner::OutputColumn;
use cairn_planner::catalog::Catalog;
use cairn_planner::{Plan, PlanContext, PlanOptions, SystemVariables};
use cairn_types::error::WarningLevel;
use cairn_types::{Collation, Datum, FieldType, MysqlError, Warning, errno};
use tokio_util::sync::CancellationToken;

use crate::accounts::Account;
use crate::catalog::SchemaSnapshot;
use crate::clock;
use crate::domain::Domain;
use crate::error::{Result, SqlError};
use crate::execution::Watch;
use crate::memory::StatementMemory;
use crate::named_locks::SessionLocks;
use crate::observed::Measures;
use crate::observed::digest::text_start;
use crate::processes::{ConnectionId, Process};
use crate::protocol::constants::status;
use crate::table_locks::SessionTableLocks;
use crate::variables::{self, SessionVariables, Settings};
use crate::xa::SessionBranch;

use bounds::Bounds;
use prepared::PreparedStatements;
use shared::SessionShared;
use transaction::TransactionState;

/// Host of an address as accounts and messages name it.
pub fn host_name(address: IpAddr) -> String {
    if address.is_loopback() { "localhost".to_owned() } else { address.to_string() }
}

/// Warnings a statement keeps: the default of `max_error_count`.
const DIAGNOSTICS_MAX: usize = 1_024;

/// Warnings and errors of the last statement.
#[derive(Clone, Debug, Default)]
pub struct Diagnostics {
    /// In the order they came, at most `max_error_count`.
    pub list: Vec<Warning>,
    /// How many there were.
    pub total: u64,
}

/// One client's session.
pub struct Session {
    /// Shared state of the node.
    pub domain: Arc<Domain>,
    /// How the rest of the node sees this connection.
    pub process: Arc<Process>,
    /// System variables.
    pub variables: SessionVariables,
    /// The open transaction, if any, and what the next one will be.
    pub transaction: TransactionState,
    /// The distributed transaction that the open one is a branch of.
    pub branch: SessionBranch,
    /// Warnings of the last statement.
    pub diagnostics: Diagnostics,
    /// Prepared statements by number and by name.
    pub prepared: PreparedStatements,
    /// What expressions see of the session.
    pub shared: Arc<SessionShared>,
    current_database: Option<String>,
    info: Arc<SessionInfo>,
    pub(crate) user: String,
    current_user: String,
    /// `affected_rows` counts rows found.
    pub found_rows_wanted: bool,
    /// `ROW_COUNT()`.
    pub row_count: i64,
    /// `FOUND_ROWS()`.
    pub found_rows: u64,
    /// Locks by name that it holds.
    pub named_locks: SessionLocks,
    /// Tables that it has locked.
    pub table_locks: SessionTableLocks,
    /// Rows of `SHOW … WHERE` while its filter runs.
    pub given_rows: Option<Arc<crate::infoschema::Rows>>,
    release: bool,
    bounds: Bounds,
    /// Beginning of the running statement's text.
    pub(crate) statement_text: String,
    /// Its plan, if it has one.
    pub(crate) statement_plan: Option<Arc<Plan>>,
    /// What it may use, once it has run operators.
    pub(crate) statement_memory: Option<StatementMemory>,
    /// Who watches it.
    pub(crate) statement_watch: Option<Arc<Watch>>,
    /// Its times.
    pub measures: Measures,
}

impl Session {
    /// A fresh session of a client that has logged in.
    pub fn new(
        domain: Arc<Domain>,
        process: Arc<Process>,
        account: &Account,
        address: IpAddr,
        found_rows_wanted: bool,
    ) -> Self {
        let variables = SessionVariables::new(&domain.variables.current());
        let token = process.connection.child_token();
        let mut session = Self {
            variables,
            transaction: TransactionState::default(),
            branch: SessionBranch::default(),
            diagnostics: Diagnostics::default(),
            prepared: PreparedStatements::default(),
            shared: Arc::new(SessionShared::default()),
            current_database: None,
            info: Arc::new(SessionInfo::default()),
            user: String::new(),
            current_user: String::new(),
            found_rows_wanted,
            row_count: 0,
            found_rows: 0,
            named_locks: SessionLocks::default(),
            table_locks: SessionTableLocks::default(),
            given_rows: None,
            release: false,
            bounds: Bounds::new(token),
            statement_text: String::new(),
            statement_plan: None,
            statement_memory: None,
            statement_watch: None,
            measures: Measures::default(),
            domain,
            process,
        };
        session.set_identity(account, address);
        session
    }

    /// Who is logged in.
    pub fn set_identity(&mut self, account: &Account, address: IpAddr) {
        self.user = format!("{}@{}", account.user, host_name(address));
        self.current_user = format!("{}@{}", account.user, account.host);
        self.process.set_identity(&account.user, self.current_database.as_deref());
        self.refresh_info();
    }

    /// `name@host` of the matched account.
    pub fn current_user(&self) -> &str {
        &self.current_user
    }

    /// Makes what information functions tell anew, when something of it changed: most
    /// statements change nothing, and this is on the way of all of them.
    fn refresh_info(&mut self) {
        let info = &self.info;
        let is_current = info.database == self.current_database
            && info.user == self.user
            && info.current_user == self.current_user;
        if is_current {
            return;
        }
        self.info = Arc::new(SessionInfo {
            version: self.domain.config.server_version.clone(),
            build: format!("Release Version: v{}\nEdition: Cairn", env!("CARGO_PKG_VERSION")),
            database: self.current_database.clone(),
            user: self.user.clone(),
            current_user: self.current_user.clone(),
            current_role: "NONE".to_owned(),
            connection_id: u64::from(self.process.id.0),
        });
    }

    /// Forgets everything but the login: `RESET CONNECTION`, `COM_CHANGE_USER`.
    pub async fn reset(&mut self) -> Result<()> {
        self.branch.forget();
        self.roll_back().await?;
        self.release_named_locks().await?;
        self.release_table_locks().await?;
        self.variables = SessionVariables::new(&self.domain.variables.current());
        self.prepared = PreparedStatements::default();
        self.shared = Arc::new(SessionShared::default());
        self.diagnostics = Diagnostics::default();
        self.transaction = TransactionState::default();
        self.row_count = 0;
        self.found_rows = 0;
        Ok(())
    }

    /// Ends the session: an open transaction is rolled back, and locks are released.
    pub async fn close(&mut self) {
        if let Err(error) = self.roll_back().await {
            tracing::debug!(%error, "rollback at the end of a session");
        }
        if let Err(error) = self.release_named_locks().await {
            tracing::debug!(%error, "named locks are left to expire");
        }
        if let Err(error) = self.release_table_locks().await {
            tracing::debug!(%error, "table locks are left to the node");
        }
    }

    // --- what the connection asks -------------------------------------------------------

    /// Status flags of OK and EOF packets.
    pub fn status_flags(&self) -> u16 {
        let settings = &self.variables.settings;
        let mut flags = 0;
        if settings.autocommit {
            flags |= status::AUTOCOMMIT;
        }
        if self.transaction.is_open() {
            flags |= status::IN_TRANS;
            if self.transaction.is_read_only() {
                flags |= status::IN_TRANS_READONLY;
            }
        }
        if settings.sql_mode.has(SqlMode::NO_BACKSLASH_ESCAPES) {
            flags |= status::NO_BACKSLASH_ESCAPES;
        }
        flags
    }

    /// How long the client may stay silent.
    pub fn idle_timeout(&self) -> Duration {
        Duration::from_secs(self.variables.settings.wait_timeout_s.max(1))
    }

    /// `COMMIT RELEASE`: the connection closes after this answer.
    pub fn wants_release(&self) -> bool {
        self.release
    }

    /// Closes the connection after this statement.
    pub fn release(&mut self) {
        self.release = true;
    }

    /// The collation a client named when it logged in.
    pub fn set_client_collation(&mut self, id: u16) {
        if let Some(collation) = Collation::from_id(id).filter(|collation| collation.id() != 63) {
            self.variables.set_names(collation);
        }
    }

    /// `USE`.
    pub async fn use_database(&mut self, name: &str) -> Result<()> {
        let schema = match self.reads_past() {
            true => self.schema(),
            false => self.domain.schema.current(),
        };
        let database = schema.database(name).ok_or_else(|| unknown_database(name))?;
        self.current_database = Some(database.name.clone());
        self.shared_database_changed();
        Ok(())
    }

    /// After the current database was dropped.
    pub fn leave_database(&mut self) {
        self.current_database = None;
        self.shared_database_changed();
    }

    fn shared_database_changed(&mut self) {
        self.process.set_identity(
            self.user.split('@').next().unwrap_or_default(),
            self.current_database.as_deref(),
        );
    }

    /// The current database.
    pub fn current_database(&self) -> Option<&str> {
        self.current_database.as_deref()
    }

    /// The database of a name, or the current one, or 1046.
    pub fn database_or_current<'a>(&'a self, schema: Option<&'a str>) -> Result<&'a str> {
        schema
            .or(self.current_database.as_deref())
            .ok_or_else(|| SqlError::new(errno::ER_NO_DB_ERROR, "No database selected"))
    }

    /// `KILL`.
    pub fn kill(&self, id: ConnectionId, query_only: bool) -> Result<()> {
        if self.domain.processes.kill(id, query_only) {
            return Ok(());
        }
        Err(SqlError::new(errno::ER_NO_SUCH_THREAD, format!("Unknown thread id: {}", id.0)))
    }

    /// Remembers the error that a statement ended with, for `SHOW WARNINGS`.
    pub fn note_error(&mut self, error: &SqlError) {
        let error = error.to_mysql();
        self.diagnostics.list.push(Warning {
            level: WarningLevel::Error,
            code: error.code,
            message: error.message,
        });
        self.diagnostics.total += 1;
        self.row_count = -1;
    }

    /// Columns of a table, for `COM_FIELD_LIST`.
    pub fn field_list(&mut self, table: &str) -> Result<Vec<OutputColumn>> {
        let database = self.database_or_current(None)?.to_owned();
        let schema = self.schema();
        let info = schema.table(&database, table).ok_or_else(|| unknown_table(&database, table))?;
        let columns = info.public_columns().map(|(offset, column)| OutputColumn {
            db: database.clone(),
            table: info.name.clone(),
            org_table: info.name.clone(),
            name: column.name.clone(),
            org_name: column.name.clone(),
            ty: column.ty.clone(),
            flags: info.column_flags(offset),
        });
        Ok(columns.collect())
    }

    // --- what statements ask ------------------------------------------------------------

    /// The settings statements read.
    pub fn settings(&self) -> &Settings {
        &self.variables.settings
    }

    /// Begins a statement: its cancellation and, for all but diagnostic statements, a
    /// clean diagnostics area.
    pub fn begin_statement(&mut self, token: CancellationToken) {
        self.shared.begin_statement(token.clone());
        self.bounds = Bounds::new(token);
        self.statement_memory = None;
        self.statement_watch = None;
        self.measures = Measures::begin();
        self.domain.count_statement();
    }

    /// Tells what runs, for those who ask what a transaction does.
    pub fn set_statement_text(&mut self, text: &str) {
        self.statement_text.clear();
        self.statement_text.push_str(text_start(text));
        self.statement_plan = None;
    }

    /// The plan by which it runs.
    pub fn set_statement_plan(&mut self, plan: &Arc<Plan>) {
        self.process.show_plan(plan);
        self.statement_plan = Some(Arc::clone(plan));
    }

    /// What the running statement may use, the same for all its plans.
    pub fn statement_memory(&mut self) -> StatementMemory {
        if let Some(memory) = &self.statement_memory {
            return memory.clone();
        }
        let (connection, quota_bytes) = (self.process.id.0, self.settings().memory_quota_bytes);
        let token = self.token().clone();
        let memory = self.domain.memory.statement(connection, quota_bytes, token);
        self.statement_memory.insert(memory).clone()
    }

    /// An error if the statement was cancelled.
    pub fn check_cancelled(&self) -> Result<()> {
        if self.token().is_cancelled() { Err(SqlError::Interrupted) } else { Ok(()) }
    }

    /// A context for the expressions of one statement.
    pub fn eval_context(&mut self) -> EvalContext {
        self.refresh_info();
        let settings = &self.variables.settings;
        let session = Arc::clone(&self.shared) as Arc<dyn cairn_expr::SessionAccess>;
        let mut eval = EvalContext::of_session(Arc::clone(&self.info), session);
        eval.counters = StatementCounters {
            last_insert_id: self.shared.last_insert_id(),
            row_count: self.row_count,
            found_rows: self.found_rows,
        };
        eval.sql_mode = settings.sql_mode;
        eval.time_zone = settings.time_zone.clone();
        eval.now_micros = settings.timestamp_micros.unwrap_or_else(clock::unix_micros);
        eval.div_precision_increment = settings.div_precision_increment;
        eval.max_allowed_packet = settings.max_allowed_packet;
        eval.group_concat_max_len = settings.group_concat_max_len;
        eval.default_week_format = settings.default_week_format;
        eval.collation = settings.collation;
        eval.strict = false;
        eval
    }

    /// The schema this statement works with: the transaction's, or the newest.
    pub fn schema(&self) -> Arc<SchemaSnapshot> {
        self.transaction.schema().unwrap_or_else(|| self.domain.schema.current())
    }

    /// Runs `plan` with the planner's view of this session.
    pub fn with_plan_context<T>(
        &self,
        schema: &SchemaSnapshot,
        eval: &mut EvalContext,
        param_types: &[FieldType],
        plan: impl FnOnce(&mut PlanContext<'_>) -> T,
    ) -> T {
        let mut context = PlanContext {
            catalog: schema,
            current_db: self.current_database(),
            eval,
            variables: self,
            statistics: &self.domain.statistics,
            param_types,
            options: self.plan_options(),
        };
        plan(&mut context)
    }

    /// Settings of the optimiser.
    pub fn plan_options(&self) -> PlanOptions {
        let settings = &self.variables.settings;
        PlanOptions {
            push_down: settings.push_down,
            broadcast_bytes_max: settings.broadcast_bytes_max,
            broadcast_rows_max: settings.broadcast_rows_max,
            ..PlanOptions::default()
        }
    }

    /// Takes over the warnings of a statement.
    pub fn take_warnings(&mut self, eval: &mut EvalContext) {
        let warnings = eval.warnings.take();
        self.diagnostics.total += warnings.total();
        self.diagnostics.list.extend(warnings.list().iter().cloned());
    }

    /// Takes over warnings of rows; no more are kept than diagnostics hold.
    pub fn take_row_warnings(&mut self, warnings: &mut Vec<Warning>) {
        self.diagnostics.total += warnings.len() as u64;
        let room = DIAGNOSTICS_MAX.saturating_sub(self.diagnostics.list.len());
        self.diagnostics.list.extend(warnings.drain(..).take(room));
    }

    /// Adds a warning.
    pub fn warn(&mut self, code: u16, message: impl Into<String>) {
        self.diagnostics.list.push(Warning::warning(MysqlError::new(code, message)));
        self.diagnostics.total += 1;
    }

    /// Adds a note.
    pub fn note(&mut self, code: u16, message: impl Into<String>) {
        self.diagnostics.list.push(Warning::note(MysqlError::new(code, message)));
        self.diagnostics.total += 1;
    }
}

impl SystemVariables for Session {
    fn system_variable(
        &self,
        scope: VariableScope,
        name: &str,
    ) -> std::result::Result<(Datum, FieldType), MysqlError> {
        let definition =
            variables::find(name).ok_or_else(|| variables::unknown_variable(name).to_mysql())?;
        let dynamic = match definition.name {
            "warning_count" => Some(self.diagnostics.total.to_string()),
            "error_count" => {
                let errors = self.diagnostics.list.iter().filter(|entry| is_error(entry));
                Some(errors.count().to_string())
            }
            "last_insert_id" | "identity" => Some(self.shared.last_insert_id().to_string()),
            "tidb_last_txn_info" => Some(self.transaction.last_info()),
            "tidb_current_ts" => Some(self.transaction.start_ts().0.to_string()),
            "pseudo_thread_id" => Some(self.process.id.0.to_string()),
            _ => None,
        };
        if let Some(value) = dynamic {
            return Ok(variables::as_datum(definition, &value));
        }
        let global;
        let value = match scope {
            VariableScope::Global | VariableScope::Persist | VariableScope::PersistOnly => {
                if definition.scope == variables::Scope::Session {
                    return Err(MysqlError::new(
                        errno::ER_INCORRECT_GLOBAL_LOCAL_VAR,
                        format!("Variable '{}' is a SESSION variable", definition.name),
                    ));
                }
                global = self.domain.variables.current();
                global.get(definition.name).map(String::as_str)
            }
            VariableScope::Session | VariableScope::Unspecified => {
                self.variables.get(definition.name)
            }
        };
        Ok(variables::as_datum(definition, value.unwrap_or(definition.default)))
    }
}

/// Whether an entry of the diagnostics is an error.
pub fn is_error(entry: &Warning) -> bool {
    entry.level == WarningLevel::Error
}

/// Error 1049.
pub fn unknown_database(name: &str) -> SqlError {
    SqlError::new(errno::ER_BAD_DB_ERROR, format!("Unknown database '{name}'"))
}

/// Error 1146.
pub fn unknown_table(database: &str, table: &str) -> SqlError {
    SqlError::new(errno::ER_NO_SUCH_TABLE, format!("Table '{database}.{table}' doesn't exist"))
}

/// Named savepoints and user variables keep their names in lower case.
pub fn fold_name(name: &str) -> String {
    name.to_lowercase()
}

/// Typed values by name.
pub type UserVariables = HashMap<String, (Datum, FieldType)>;
