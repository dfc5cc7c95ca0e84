//! What statements did, for people who look for those that cost too much.
//!
//! | module | what it holds |
//! |---|---|
//! | this one | what is measured of a statement, and who is told when it ends |
//! | [`digest`] | normal forms and digests of statements |
//! | [`summary`], [`sums`] | sums over statements of one kind, in intervals |
//! | [`slow_log`] | statements that took long, in a file |
//! | [`tables`] | `STATEMENTS_SUMMARY`, `SLOW_QUERY` and their kin |
//!
//! **Cost.** All statements pay for a few clock readings, a look-up by hash and some additions. Plans are rendered, and their
//! digests made, when a kind of statement is first seen in an interval or a statement was slow.
//!
//! **Left out.** Privileges: every account sees all statements, as it may do everything else.

pub mod digest;
pub mod slow_log;
pub mod summary;
pub mod sums;
pub mod tables;

use std::sync::Arc;

use cairn_executor::SpillSpace;
use cairn_kv_client::RequestSums;
use cairn_parser::ast::Statement;
use cairn_planner::identity::Normal;
use cairn_planner::plan::{Plan, PlanKind};

use crate::clock;
use crate::error::{Result, SqlError};
use crate::execution::Watch;
use crate::session::Session;

/// Times of the running statement.
#[derive(Clone, Debug, Default)]
pub struct Measures {
    begun_ns: u64,
    /// Until its text was a tree.
    pub parse_ns: u64,
    /// Until it had a plan.
    pub compile_ns: u64,
    /// The plan was in the cache.
    pub plan_was_cached: bool,
    /// It was prepared.
    pub is_prepared: bool,
    /// How often it started over.
    pub retries: u64,
}

impl Measures {
    /// Of a statement that begins now.
    pub fn begin() -> Measures {
        Measures { begun_ns: clock::monotonic_nanos(), ..Measures::default() }
    }

    /// Since the statement began, its parsing included.
    pub fn total_ns(&self) -> u64 {
        clock::monotonic_nanos().saturating_sub(self.begun_ns) + self.parse_ns
    }
}

/// A statement that has ended.
pub struct Ended<'a> {
    /// Its normal form.
    pub identity: &'a Arc<Normal>,
    /// Its plan, if it has one.
    pub plan: Option<&'a Arc<Plan>>,
    /// What it is, as TiDB names it.
    pub kind: &'static str,
    /// The beginning of its text, without passwords.
    pub text: &'a str,
    /// The current database.
    pub database: Option<&'a str>,
    /// `user@host`.
    pub user: &'a str,
    /// The connection.
    pub connection: u32,
    /// When it ended, in microseconds since the epoch.
    pub ended_us: i64,
    /// From the first byte of its text to its end.
    pub total_ns: u64,
    /// Times.
    pub measures: &'a Measures,
    /// Rows that the client got.
    pub rows_sent: u64,
    /// Rows changed.
    pub affected_rows: u64,
    /// What it failed with.
    pub error: Option<&'a SqlError>,
    /// Warnings.
    pub warnings: u64,
    /// Most memory its operators had.
    pub memory_bytes: u64,
    /// Most they had on disk.
    pub disk_bytes: u64,
    /// What its requests cost.
    pub requests: RequestSums,
    /// The transaction it belongs to; 0: none.
    pub start_ts: u64,
}

impl Session {
    /// Who watches the running statement.
    pub fn watch(&self) -> Option<&Arc<Watch>> {
        self.statement_watch.as_ref()
    }

    /// From here on everything that the statement does is watched.
    pub fn begin_watch(&mut self) -> Arc<Watch> {
        let watch = Arc::new(Watch::default());
        self.keep_requests(&watch.requests);
        self.statement_watch = Some(Arc::clone(&watch));
        watch
    }

    /// The normal form of the running statement.
    pub fn statement_identity(&self) -> Arc<Normal> {
        let make = || self.domain.digests.normal(&self.statement_text, &self.parser_mode());
        match &self.statement_plan {
            Some(plan) => Arc::clone(plan.identity.statement.get_or_init(make)),
            None => make(),
        }
    }

    /// Tells of a statement that has ended.
    pub(crate) fn tell_ended(
        &self,
        statement: &Statement,
        outcome: &Result<()>,
        requests: RequestSums,
    ) {
        let total_ns = self.measures.total_ns();
        let is_slow = self.domain.slow_log.is_slow(total_ns, self.settings().long_query_time_ns);
        if !is_slow && !self.domain.summaries.is_on() {
            return;
        }
        let identity = self.statement_identity();
        let plan = self.statement_plan.as_ref();
        let is_query = plan.is_some_and(|plan| matches!(plan.kind, PlanKind::Query(_)));
        let memory = self.statement_memory.as_ref();
        let disk = memory.and_then(|memory| memory.spill.as_ref()).map(SpillSpace::disk);
        let ended = Ended {
            identity: &identity,
            plan,
            kind: plan.map_or_else(|| kind_name(statement), |plan| plan.kind_name()),
            text: match has_secret(&identity.text) {
                true => &identity.text,
                false => &self.statement_text,
            },
            database: self.current_database(),
            user: &self.user,
            connection: self.process.id.0,
            ended_us: clock::unix_micros(),
            total_ns,
            measures: &self.measures,
            rows_sent: if is_query && outcome.is_ok() { self.found_rows } else { 0 },
            affected_rows: match outcome {
                Ok(()) if !is_query => u64::try_from(self.row_count).unwrap_or(0),
                _ => 0,
            },
            error: outcome.as_ref().err(),
            warnings: self.diagnostics.total,
            memory_bytes: memory.map_or(0, |memory| memory.tracker.peak_bytes()),
            disk_bytes: disk.map_or(0, |disk| disk.peak_bytes()),
            requests,
            start_ts: self.transaction.start_ts().0,
        };
        self.domain.summaries.add(&ended);
        if is_slow {
            self.domain.slow_log.add(&ended);
        }
    }
}

/// Bytes that are kept of a plan: ranges of long lists make megabytes.
const PLAN_TEXT_BYTES_MAX: usize = 64 << 10;

/// A plan as people read it, cut where it is too long.
fn plan_text(plan: &Plan) -> String {
    let mut text = cairn_planner::explain_text(plan);
    if text.len() > PLAN_TEXT_BYTES_MAX {
        let is_end = |end: &usize| text.is_char_boundary(*end);
        let end = (0..=PLAN_TEXT_BYTES_MAX).rev().find(is_end);
        text.truncate(end.unwrap_or(0));
        text.push('…');
    }
    text
}

/// Whether the text of a statement with this normal form may hold a password.
fn has_secret(normal: &str) -> bool {
    const STARTS: [&str; 5] = ["create user", "alter user", "set password", "grant", "prepare"];
    STARTS.iter().any(|start| normal.starts_with(start))
}

/// Statements without a plan, as TiDB names them.
fn kind_name(statement: &Statement) -> &'static str {
    match statement {
        Statement::Query(_) => "Select",
        Statement::Insert(insert) if insert.replace => "Replace",
        Statement::Insert(_) => "Insert",
        Statement::Update(_) => "Update",
        Statement::Delete(_) => "Delete",
        Statement::Begin(_) => "Begin",
        Statement::Commit(_) => "Commit",
        Statement::Rollback(_) => "Rollback",
        Statement::Set(_) => "Set",
        Statement::Show(_) => "Show",
        Statement::Use(_) => "Use",
        Statement::Explain(explain) if explain.analyze => "ExplainAnalyzeSQL",
        Statement::Explain(_) | Statement::Describe(_) => "ExplainSQL",
        Statement::Trace(_) => "Trace",
        Statement::AnalyzeTable(_) => "AnalyzeTable",
        Statement::CreateTable(_) => "CreateTable",
        Statement::AlterTable(_) => "AlterTable",
        Statement::DropTable(_) => "DropTable",
        Statement::CreateIndex(_) => "CreateIndex",
        Statement::DropIndex(_) => "DropIndex",
        Statement::CreateDatabase(_) => "CreateDatabase",
        Statement::DropDatabase(_) => "DropDatabase",
        Statement::TruncateTable(_) => "TruncateTable",
        _ => "other",
    }
}
