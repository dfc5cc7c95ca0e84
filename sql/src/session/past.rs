//! Reading the past: `AS OF TIMESTAMP`, `tidb_snapshot`, `tidb_read_staleness`.
//!
//! **Data.** A [`Past`] is a timestamp with the schema of that moment; both are of the same state
//! of the store, so a dropped column or table is seen as it was. It comes from the statement,
//! from its transaction, from `SET TRANSACTION READ ONLY AS OF` for what comes next, or from
//! `tidb_snapshot` for everything that the session reads.
//!
//! **Invariants.**
//! - The time is not ahead of the placement driver's clock. Commit timestamps are taken from that
//!   clock and later than this look at it, or their transaction's locks are already there: so two
//!   reads at one time agree.
//! - The time is not below the safe point when a statement begins (error 8055), and the
//!   statement's view holds the safe point back until it ends. Between statements nothing does,
//!   except in a transaction.
//! - Nothing is written or locked. So an old schema version is no reason for a schema change to
//!   wait: [`VersionHold::of_past`].
//!
//! **Who answers.** Any replica, one in the node's own zone if there is one (`kv/client`'s `replicas`): one
//! that holds everything up to that time by itself, else after a question to its leader. The schema is
//! read in the same way.
//!
//! **Source.** TiDB's manual, "Read Historical Data Using the AS OF TIMESTAMP Clause"; its
//! messages.

use std::sync::Arc;

use cairn_kv_client::{ReadFrom, Snapshot};
use cairn_parser::ast::{CastType, ExplainTarget, Expr, Literal, ParsedStatement, Statement};
use cairn_types::{Datum, TimeStamp, errno};

use super::Session;
use crate::catalog::{SchemaSnapshot, VersionHold};
use crate::error::{Result, SqlError};
use crate::lock_view::OpenTransaction;
use crate::statement::{Parameters, plan};

/// Digits of the longest number that `tidb_snapshot` takes for a date and time; longer ones are
/// timestamps of the cluster.
const DATETIME_DIGITS: usize = 14;

/// A moment of the past.
#[derive(Clone, Debug)]
pub struct Past {
    /// When.
    pub read_ts: TimeStamp,
    /// The schema of that time.
    pub schema: Arc<SchemaSnapshot>,
}

/// What the running statement reads when that is not the present.
#[derive(Clone)]
pub struct StatementPast {
    view: Snapshot,
    schema: Arc<SchemaSnapshot>,
}

impl std::fmt::Debug for StatementPast {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StatementPast").field("read_ts", &self.view.start_ts()).finish()
    }
}

impl StatementPast {
    /// The schema to plan with.
    pub fn schema(&self) -> &Arc<SchemaSnapshot> {
        &self.schema
    }
}

/// Error 8135.
fn as_of_error(reason: &str) -> SqlError {
    SqlError::new(errno::ER_AS_OF, format!("invalid as of timestamp: {reason}"))
}

/// The error of a lock that a read of the past asks for.
pub fn lock_in_past() -> SqlError {
    SqlError::new(errno::ER_UNKNOWN_ERROR, "select lock hadn't been supported in stale read yet")
}

impl Session {
    /// Settles at which time a statement reads, before it is planned.
    pub async fn look_back(
        &mut self,
        parsed: &ParsedStatement,
        parameters: &Parameters,
    ) -> Result<()> {
        let is_query = match &parsed.statement {
            Statement::Query(_) => true,
            Statement::Explain(explain) => {
                matches!(&explain.target, ExplainTarget::Statement(target)
                    if matches!(**target, Statement::Query(_)))
            }
            // The statement that is traced is looked at when it runs.
            Statement::Trace(_) => return Ok(()),
            _ => false,
        };
        if !parsed.as_of.is_empty() {
            if !is_query {
                return Err(as_of_error("as of timestamp can only be used in SELECT"));
            }
            if self.transaction.is_open() {
                return Err(as_of_error("as of timestamp can't be set in transaction."));
            }
            if self.transaction.next_past.is_some() {
                let reason = "can't use select as of while already set transaction as of";
                return Err(as_of_error(reason));
            }
            let past = self.common_past(&parsed.as_of, parameters).await?;
            return self.enter_past(&past);
        }
        if !is_query || self.transaction.is_open() {
            return Ok(());
        }
        if let Some(past) = self.transaction.next_past.take() {
            return self.enter_past(&past);
        }
        let settings = self.settings();
        let stands_alone = settings.autocommit && self.transaction.session_past.is_none();
        match settings.read_staleness_s {
            0 => Ok(()),
            _ if !stands_alone => Ok(()),
            staleness_s => {
                let now = self.scope().run(self.domain.now_ts()).await??;
                let physical_ms = now.physical_ms().saturating_sub(staleness_s * 1_000);
                let past = self.past_before_now(TimeStamp::compose(physical_ms, 0)).await?;
                self.enter_past(&past)
            }
        }
    }

    /// The one time that a statement's tables name.
    async fn common_past(&mut self, times: &[Expr], parameters: &Parameters) -> Result<Past> {
        let mut common = None;
        for time in times {
            let read_ts = self.evaluate_time(time, parameters).await?;
            if *common.get_or_insert(read_ts) != read_ts {
                return Err(as_of_error("can not set different time in the as of"));
            }
        }
        self.past_at(common.unwrap_or(TimeStamp::ZERO)).await
    }

    /// The moment that an expression of a transaction's statement names.
    pub async fn past_of(&mut self, time: &Expr) -> Result<Past> {
        let read_ts = self.evaluate_time(time, &Parameters::default()).await?;
        self.past_at(read_ts).await
    }

    /// The timestamp of a constant date and time in the session's zone.
    async fn evaluate_time(&mut self, time: &Expr, parameters: &Parameters) -> Result<TimeStamp> {
        let cast =
            Expr::Cast { expr: Box::new(time.clone()), to: CastType::DateTime(6), array: false };
        let (value, _) = plan::evaluate_constant(self, &cast, parameters)
            .await?
            .ok_or_else(|| as_of_error("as of timestamp must be a constant expression"))?;
        let Datum::Time(local) = value else {
            return Err(as_of_error("as of timestamp cannot be NULL"));
        };
        let micros = self.settings().time_zone.to_unix_micros(local);
        let micros = micros.filter(|_| !local.has_zero_date());
        let physical_ms = micros.and_then(|micros| u64::try_from(micros / 1_000).ok());
        let physical_ms =
            physical_ms.ok_or_else(|| as_of_error(&format!("'{local}' is not within range")))?;
        // What does not fit lies in the future all the same.
        Ok(TimeStamp::compose(physical_ms.min(TimeStamp::MAX.physical_ms()), 0))
    }

    /// A moment, with its schema, if it can be read.
    pub async fn past_at(&mut self, read_ts: TimeStamp) -> Result<Past> {
        let now = self.scope().run(self.domain.now_ts()).await??;
        if read_ts > now {
            return Err(SqlError::new(
                errno::ER_UNKNOWN_ERROR,
                "cannot set read timestamp to a future time",
            ));
        }
        self.past_before_now(read_ts).await
    }

    async fn past_before_now(&self, read_ts: TimeStamp) -> Result<Past> {
        let view = self.view_of_past(read_ts)?;
        let schema = self.domain.schema_at(&view).await?;
        Ok(Past { read_ts, schema })
    }

    /// A view that holds the safe point back, unless that has passed already.
    fn view_of_past(&self, read_ts: TimeStamp) -> Result<Snapshot> {
        let view = self.domain.kv.snapshot(read_ts).within(self.scope().clone());
        let view = view.reading(ReadFrom::stale(self.settings().replica_read));
        let safe_point = self.domain.kv.safe_point();
        if read_ts >= safe_point {
            return Ok(view);
        }
        let zone = &self.settings().time_zone;
        let micros = i64::try_from(safe_point.physical_ms() * 1_000).unwrap_or(i64::MAX);
        let shown = zone.from_unix_micros(micros, cairn_types::TimeKind::DateTime, 3);
        let shown = shown.map_or_else(|| safe_point.0.to_string(), |time| time.to_string());
        Err(SqlError::new(
            errno::ER_SNAPSHOT_TOO_OLD,
            format!("snapshot is older than GC safe point {shown}"),
        ))
    }

    /// From here on the running statement reads at this moment.
    fn enter_past(&mut self, past: &Past) -> Result<()> {
        let view = self.view_of_past(past.read_ts)?;
        let schema = Arc::clone(&past.schema);
        self.transaction.statement_past = Some(StatementPast { view, schema });
        Ok(())
    }

    /// What the running statement reads, if it reads the past.
    pub fn past_view(&self) -> Result<Option<Snapshot>> {
        if !self.reads_past() {
            return Ok(None);
        }
        if let Some(past) = &self.transaction.statement_past {
            return Ok(Some(past.view.clone().within(self.scope().clone())));
        }
        let read_ts = match &self.transaction.session_past {
            Some(past) if !self.transaction.is_open() => past.read_ts,
            _ => self.transaction.start_ts(),
        };
        self.view_of_past(read_ts).map(Some)
    }

    /// Whether the running statement reads the past, in a transaction or by itself.
    pub fn reads_past(&self) -> bool {
        self.transaction.reads_past()
    }

    /// Opens a transaction that reads at this moment.
    pub(super) fn open_past(&mut self, past: Past) {
        let transaction = Arc::new(self.domain.kv.begin(past.read_ts));
        let shown = self.process.show_transaction(OpenTransaction::new(Arc::clone(&transaction)));
        self.transaction.open_past(transaction, VersionHold::of_past(past.schema), shown);
    }

    /// `START TRANSACTION READ ONLY AS OF TIMESTAMP`, after what was open has been committed.
    pub(super) async fn begin_past(&mut self, time: &Expr) -> Result<()> {
        let past = self.past_of(time).await?;
        self.transaction.next_past = None;
        self.open_past(past);
        Ok(())
    }

    /// `SET tidb_snapshot = '…'`; empty: back to the present.
    pub async fn set_snapshot(&mut self, text: &str) -> Result<()> {
        if self.transaction.is_open() {
            return Err(SqlError::new(
                errno::ER_CANT_CHANGE_TX_CHARACTERISTICS,
                "Transaction characteristics can't be changed while a transaction is in progress",
            ));
        }
        let text = text.trim();
        if text.is_empty() {
            self.transaction.session_past = None;
            return Ok(());
        }
        let is_tso = text.len() > DATETIME_DIGITS && text.bytes().all(|byte| byte.is_ascii_digit());
        let past = match text.parse::<u64>() {
            Ok(tso) if is_tso => self.past_at(TimeStamp(tso)).await?,
            _ => {
                let value = text.to_owned();
                let literal = Expr::Literal(Literal::String { value, charset: None });
                self.past_of(&literal).await?
            }
        };
        self.transaction.session_past = Some(past);
        Ok(())
    }

    /// Refuses a statement that changes something while the session reads the past.
    pub fn check_present(&self) -> Result<()> {
        if self.transaction.session_past.is_some() {
            return Err(SqlError::new(
                errno::ER_UNKNOWN_ERROR,
                "can not execute write statement when 'tidb_snapshot' is set",
            ));
        }
        if self.reads_past() {
            return Err(SqlError::new(
                errno::ER_UNKNOWN_ERROR,
                "only support read-only statement during read-only staleness transactions",
            ));
        }
        Ok(())
    }
}
