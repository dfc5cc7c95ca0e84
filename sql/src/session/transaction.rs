//! The session's transaction: begin, commit, rollback, savepoints, autocommit.
//!
//! **Data.** A transaction's reads are fixed by its `start_ts`, taken by its first
//! statement (`WITH CONSISTENT SNAPSHOT`: at once); at READ COMMITTED every statement reads at
//! a timestamp of its own. Its writes stay in the client's buffer until COMMIT; a statement that
//! fails is undone by a checkpoint, and keeps its locks.
//!
//! **Locks.** In a pessimistic transaction a statement that changes or locks rows reads at a
//! fresh timestamp, and starts over when a row it locked was changed since
//! ([`Session::restart_write`]). Statements that stand alone are optimistic; one that loses a
//! conflict tries again pessimistically.
//!
//! **Bulk** (`tidb_dml_type`). A statement that stands alone may write without keeping its writes in memory
//! (`cairn-kv-client`'s bulk transactions). It reads what was there when it began, row by row, is undone
//! as a whole, and is not run again once something of it has left memory.
//!
//! **SERIALIZABLE** is REPEATABLE READ whose COMMIT fails with 1213 when anything that the transaction has
//! read was changed meanwhile. What only read at one timestamp, an autocommit SELECT for example,
//! happened at that timestamp and needs no look.
//!
//! **Invariants.** An open transaction holds its schema version ([`VersionHold`]): no
//! schema change ends while it may still write in the old form. Error 1213 ends the transaction.

use std::sync::Arc;
use std::time::Duration;

use cairn_kv_client::{
    BulkOptions, Checkpoint, CommitModes, KvError, LockOptions, LockWait, ReadFrom, Transaction,
};
use cairn_parser::ast::{Begin, Completion, IsolationLevel, TransactionMode, Xid};
use cairn_planner::Catalog;
use cairn_planner::plan::Plan;
use cairn_types::{TimeStamp, errno};

use super::last_transaction::LastTransaction;
use super::past::{Past, StatementPast};
use super::{Session, fold_name};
use crate::catalog::{SchemaSnapshot, VersionHold};
use crate::domain::in_flashback;
use crate::error::{Result, SqlError};
use crate::lock_view::{OpenTransaction, Phase};
use crate::observed::digest::to_tag;
use crate::processes::ShownHere;
use crate::statistics::changes::{Changes, Tally};
use crate::{table_locks, xa};

/// Bytes of keys and values that one flush of a bulk transaction takes at most, as in TiDB.
const BULK_FLUSH_BYTES: u64 = 16 << 20;
/// Savepoints a transaction may have.
const SAVEPOINTS_MAX: usize = 1_000;

/// A transaction under way.
#[derive(Debug)]
struct Open {
    /// Taken by the first statement.
    started: Option<Started>,
    modes: TransactionModes,
    /// It reads at one moment of the past.
    is_past: bool,
}

/// What a transaction was opened as; `AND CHAIN` opens another like it.
#[derive(Clone, Copy, Debug)]
pub struct TransactionModes {
    read_only: bool,
    is_pessimistic: bool,
    isolation: IsolationLevel,
}

impl TransactionModes {
    /// Whether what it reads must hold at its commit.
    pub fn is_serializable(&self) -> bool {
        self.isolation == IsolationLevel::Serializable
    }
}

struct Started {
    transaction: Arc<Transaction>,
    hold: VersionHold,
    savepoints: Vec<Savepoint>,
    /// Rows that its statements changed.
    tally: Tally,
    /// How others see it.
    shown: ShownHere,
}

/// `SAVEPOINT`.
struct Savepoint {
    name: String,
    checkpoint: Checkpoint,
    /// Rows changed up to here.
    counted: Changes,
}

impl std::fmt::Debug for Started {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Started").field("start_ts", &self.transaction.start_ts()).finish()
    }
}

/// The session's transaction, if one is open.
#[derive(Debug, Default)]
pub struct TransactionState {
    open: Option<Open>,
    /// `SET TRANSACTION READ ONLY` for the next one.
    next_read_only: Option<bool>,
    /// `SET TRANSACTION ISOLATION LEVEL` for the next one.
    next_isolation: Option<IsolationLevel>,
    /// The schema that the running statement was planned with.
    statement_hold: Option<VersionHold>,
    /// What became of the last one that wrote something.
    last: Option<LastTransaction>,
    /// What the running statement reads, if it reads the past by itself.
    pub(super) statement_past: Option<StatementPast>,
    /// `SET TRANSACTION READ ONLY AS OF` for the next transaction or query.
    pub(super) next_past: Option<Past>,
    /// `tidb_snapshot`: all that the session reads.
    pub(super) session_past: Option<Past>,
}

impl TransactionState {
    /// `BEGIN` was said, or a statement ran without autocommit.
    pub fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// The open transaction refuses writes.
    pub fn is_read_only(&self) -> bool {
        self.modes().is_some_and(|modes| modes.read_only)
    }

    /// What the open transaction is.
    pub fn modes(&self) -> Option<TransactionModes> {
        self.open.as_ref().map(|open| open.modes)
    }

    /// The schema the open transaction, or else the running statement, works with; while the
    /// session reads the past, that of the past.
    pub fn schema(&self) -> Option<Arc<SchemaSnapshot>> {
        let held = match (self.started(), &self.statement_past, &self.session_past) {
            (Some(started), ..) => started.hold.schema(),
            (None, Some(past), _) => past.schema(),
            (None, None, Some(past)) => &past.schema,
            (None, None, None) => self.statement_hold.as_ref()?.schema(),
        };
        Some(Arc::clone(held))
    }

    /// Whether what is read now is of the past.
    pub fn reads_past(&self) -> bool {
        match &self.open {
            Some(open) => open.is_past,
            None => self.statement_past.is_some() || self.session_past.is_some(),
        }
    }

    /// Opens a transaction that reads at one moment of the past.
    pub(super) fn open_past(
        &mut self,
        transaction: Arc<Transaction>,
        hold: VersionHold,
        shown: ShownHere,
    ) {
        let isolation = IsolationLevel::RepeatableRead;
        let modes = TransactionModes { read_only: true, is_pessimistic: false, isolation };
        let (savepoints, tally) = (Vec::new(), Tally::default());
        let started = Some(Started { transaction, hold, savepoints, tally, shown });
        self.open = Some(Open { started, modes, is_past: true });
    }

    /// The open transaction's timestamp; zero when it has none yet.
    pub fn start_ts(&self) -> TimeStamp {
        self.started().map_or(TimeStamp::ZERO, |started| started.transaction.start_ts())
    }

    /// `@@tidb_last_txn_info`.
    pub fn last_info(&self) -> String {
        self.last.as_ref().map(LastTransaction::to_json).unwrap_or_default()
    }

    /// `SET TRANSACTION READ ONLY | READ WRITE` for the next transaction.
    pub fn set_next_read_only(&mut self, read_only: bool) {
        self.next_read_only = Some(read_only);
    }

    /// `SET TRANSACTION READ ONLY AS OF TIMESTAMP` for the next transaction or query.
    pub fn set_next_past(&mut self, past: Past) {
        self.next_past = Some(past);
    }

    /// `SET TRANSACTION ISOLATION LEVEL` for the next transaction.
    pub fn set_next_isolation(&mut self, isolation: IsolationLevel) {
        self.next_isolation = Some(isolation);
    }

    fn reads_committed(&self) -> bool {
        self.modes().is_some_and(|modes| modes.isolation.reads_committed())
    }

    fn started(&self) -> Option<&Started> {
        self.open.as_ref()?.started.as_ref()
    }
}

/// How a statement writes that stands alone.
#[derive(Clone, Copy, Debug)]
pub enum Alone {
    /// Into a buffer.
    Optimistic,
    /// Under locks: it has lost a conflict before.
    Pessimistic,
    /// Past its memory.
    Bulk(BulkOptions),
}

/// A statement's transaction: the session's, or its own.
pub struct StatementTransaction {
    /// Where to read and write.
    pub transaction: Arc<Transaction>,
    /// The schema to plan with.
    pub schema: Arc<SchemaSnapshot>,
    /// How the statement locks what it changes.
    pub locking: LockOptions,
    /// What it writes of rows and index entries is decoded once more (`dml::check`).
    pub checks_mutations: bool,
    /// Where it counts the rows that it changes.
    pub tally: Tally,
    /// What was counted before it began.
    counted: Changes,
    /// It commits at its end.
    stands_alone: bool,
    /// Where the statement goes back to when it fails or starts over.
    checkpoint: Option<Checkpoint>,
    /// How others see a transaction of its own that may wait for locks, or write for long.
    _shown: Option<ShownHere>,
}

impl StatementTransaction {
    /// Whether duplicates are looked for as rows are written. Otherwise the commit at the
    /// statement's end finds them.
    pub fn is_eager(&self) -> bool {
        self.checkpoint.is_some()
    }

    /// Whether later statements of the transaction may read what this one writes.
    pub fn is_followed(&self) -> bool {
        !self.stands_alone
    }
}

impl Session {
    /// How the statement's change of rows is written at first, if it stands alone; warns where the
    /// session wants it in bulk and that cannot be.
    pub fn first_write(&mut self, plan: &Plan) -> Alone {
        let Some(flush_keys) = self.settings().bulk_flush_keys else { return Alone::Optimistic };
        let obstacle = if self.transaction.is_open() {
            "Pipelined DML can not be used in transaction. Fallback to standard mode"
        } else if !self.settings().autocommit {
            "Pipelined DML can only be used in autocommit mode. Fallback to standard mode"
        } else if self.settings().isolation == IsolationLevel::Serializable {
            "Pipelined DML can not be used at isolation level SERIALIZABLE. Fallback to standard mode"
        } else if plan.takes_locks() {
            // What they guard must be in the buffer.
            "Pipelined DML can not be used with locking reads. Fallback to standard mode"
        } else {
            return Alone::Bulk(BulkOptions { flush_bytes: BULK_FLUSH_BYTES, flush_keys });
        };
        self.warn(errno::ER_UNKNOWN_ERROR, obstacle);
        Alone::Optimistic
    }

    /// The transaction of a statement that writes or locks: the open one, with a
    /// checkpoint to go back to, or one of its own, as `alone` says.
    pub async fn begin_write(&mut self, alone: Alone) -> Result<StatementTransaction> {
        self.branch.check_takes_work()?;
        self.check_present()?;
        self.open_implicitly();
        if self.transaction.is_read_only() {
            return Err(SqlError::new(
                errno::ER_CANT_EXECUTE_IN_READ_ONLY_TRANSACTION,
                "Cannot execute statement in a READ ONLY transaction.",
            ));
        }
        self.domain.check_schema_lease()?;
        let locking = self.lock_options(LockWait::AtMost(self.lock_wait_timeout()));
        let checks_mutations = self.settings().checks_mutations;
        if self.transaction.is_open() {
            let is_fresh = self.transaction.started().is_none();
            let (transaction, schema) = self.start_transaction().await?;
            if transaction.is_pessimistic() || self.transaction.reads_committed() {
                let read_ts =
                    if is_fresh { transaction.start_ts() } else { self.fresh_ts().await? };
                transaction.begin_statement(read_ts);
                self.tag_locks(&transaction);
            }
            let checkpoint = Some(transaction.checkpoint());
            let tally = self.transaction.started().map(|started| started.tally.clone());
            let tally = tally.unwrap_or_default();
            let stands_alone = false;
            return Ok(StatementTransaction {
                transaction,
                schema,
                locking,
                checks_mutations,
                counted: tally.so_far(),
                tally,
                stands_alone,
                checkpoint,
                _shown: None,
            });
        }
        self.hold_schema();
        let schema = self.schema();
        let start_ts = self.fresh_ts().await?;
        // Whatever the mode of explicit transactions: nobody sees how the statement won.
        let isolation = self.settings().isolation;
        let transaction = match alone {
            Alone::Optimistic => self.new_transaction(start_ts, false, isolation),
            Alone::Pessimistic => self.new_transaction(start_ts, true, isolation),
            Alone::Bulk(options) => self.new_bulk_transaction(start_ts, options),
        };
        transaction.enter(self.scope().clone());
        let checkpoint = transaction.is_pessimistic().then(|| transaction.checkpoint());
        let transaction = Arc::new(transaction);
        let may_take_long = transaction.is_pessimistic() || transaction.is_bulk();
        let shown = may_take_long.then(|| {
            self.tag_locks(&transaction);
            let open = OpenTransaction::new(Arc::clone(&transaction));
            open.begin_statement(&self.statement_text);
            self.process.show_transaction(open)
        });
        Ok(StatementTransaction {
            transaction,
            schema,
            locking,
            checks_mutations,
            tally: Tally::default(),
            counted: Changes::new(),
            stands_alone: true,
            checkpoint,
            _shown: shown,
        })
    }

    /// Whoever waits for locks tells for which statement.
    fn tag_locks(&self, transaction: &Transaction) {
        if !transaction.is_pessimistic() {
            return;
        }
        transaction.tag_statement(to_tag(&self.statement_identity().digest));
    }

    /// Has the statement start over: it locked rows that were changed since it read them. It
    /// keeps the locks, and reads what nobody else can change now. Those of rows that it no longer
    /// finds go when it has ended.
    pub async fn restart_write(&self, statement: &mut StatementTransaction) -> Result<()> {
        self.check_cancelled()?;
        statement.tally.go_back(statement.counted.clone());
        let transaction = &statement.transaction;
        statement.checkpoint =
            statement.checkpoint.map(|checkpoint| transaction.start_over(checkpoint));
        transaction.begin_statement(self.fresh_ts().await?);
        Ok(())
    }

    /// A timestamp for the running statement.
    async fn fresh_ts(&self) -> Result<TimeStamp> {
        self.scope().run(self.domain.now_ts()).await?
    }

    /// How long a statement waits for locks.
    pub fn lock_wait_timeout(&self) -> Duration {
        Duration::from_secs(self.settings().lock_wait_timeout_s)
    }

    fn lock_options(&self, wait: LockWait) -> LockOptions {
        LockOptions { wait, is_shared: false, cancel: self.token().clone() }
    }

    /// Holds the schema from before the statement is planned until it ends: the plan, and
    /// what it reads and writes, belong to one version. An open transaction holds its own.
    pub fn hold_schema(&mut self) {
        let state = &self.transaction;
        if state.started().is_none() && !self.holds_schema() && !state.reads_past() {
            self.transaction.statement_hold = Some(self.domain.schema.hold());
        }
    }

    /// Whether the running statement holds it.
    pub fn holds_schema(&self) -> bool {
        self.transaction.statement_hold.is_some()
    }

    /// The statement needs no schema any more, or waits for something behind which it is planned
    /// anew.
    pub fn give_schema_back(&mut self) {
        self.transaction.statement_hold = None;
    }

    /// The statement has ended.
    pub fn release_schema(&mut self) {
        self.transaction.statement_hold = None;
        self.process.uses.lock().end_statement(self.transaction.is_open());
        if let Some(started) = self.transaction.started() {
            started.shown.end_statement();
        }
        self.transaction.statement_past = None;
    }

    /// Ends a writing statement: keeps or undoes its writes, and commits if it stood alone.
    pub async fn end_write<T>(
        &mut self,
        statement: StatementTransaction,
        outcome: Result<T>,
    ) -> Result<T> {
        let StatementTransaction { transaction, tally, counted, stands_alone, checkpoint, .. } =
            statement;
        if let Err(SqlError::Kv(KvError::Deadlock { cycle, .. })) = &outcome {
            self.domain.deadlocks.note(cycle);
        }
        if !stands_alone {
            if outcome.is_err() {
                tally.go_back(counted);
            }
            let ends_transaction =
                |error: &SqlError| error.to_mysql().code == errno::ER_LOCK_DEADLOCK;
            if outcome.as_ref().is_err_and(ends_transaction) {
                // As MySQL does: the others of the circle go on.
                self.branch.lost_transaction();
                self.roll_back().await?;
            } else if let Some(checkpoint) = checkpoint {
                match &outcome {
                    Ok(_) => transaction.release(checkpoint),
                    Err(_) => transaction.rollback_to(checkpoint),
                }
            }
            return outcome;
        }
        if outcome.is_err() {
            // What went wrong first is what is told.
            if let Err(error) = transaction.rollback().await {
                tracing::debug!(%error, "rollback of a failed statement");
            }
            return outcome.map_err(|error| self.name_duplicate(error));
        }
        if let Err(error) = self.check_cancelled() {
            transaction.rollback().await?;
            return Err(error);
        }
        if !transaction.is_trivial()
            && let Err(error) = table_locks::enter_commit(self).await
        {
            transaction.rollback().await?;
            return Err(error);
        }
        let hold = self.transaction.statement_hold.as_ref();
        let generation =
            hold.map_or_else(|| self.domain.schema.generation(), VersionHold::generation);
        let committed = self.commit_transaction(&transaction, generation).await;
        // It may start over, and wait for rows.
        self.leave_commit();
        committed?;
        self.domain.statistics.note_commit(&tally);
        outcome
    }

    /// `generation`: of the schema that was written with.
    async fn commit_transaction(
        &mut self,
        transaction: &Transaction,
        generation: u64,
    ) -> Result<()> {
        if transaction.is_trivial() {
            return Ok(transaction.rollback().await?);
        }
        if let Err(error) = self.domain.check_schema_lease_of(generation) {
            // Its locks must not outlive it.
            transaction.rollback().await?;
            return Err(error);
        }
        transaction.enter(self.scope().clone());
        transaction.set_commit_modes(self.commit_modes());
        let domain = Arc::clone(&self.domain);
        transaction.set_commit_lease(Arc::new(move || domain.schema_lease_left(generation)));
        let outcome = transaction.commit().await;
        self.transaction.last =
            Some(LastTransaction::new(transaction.start_ts(), transaction.is_bulk(), &outcome));
        outcome.map(drop).map_err(|error| self.name_duplicate(error.into()))
    }

    /// A store knows the key of a duplicate, and not what it is called.
    fn name_duplicate(&self, error: SqlError) -> SqlError {
        match error {
            SqlError::Kv(KvError::KeyExists { key, .. }) => {
                crate::dml::duplicate_key_error(&self.schema(), &key.0)
            }
            error => error,
        }
    }

    /// What a commit may do to save rounds: what the node and the session's variables allow.
    fn commit_modes(&self) -> CommitModes {
        let (node, settings) = (self.domain.kv.config(), self.settings());
        CommitModes {
            one_pc: node.one_pc && settings.one_pc,
            async_commit: node.async_commit && settings.async_commit,
        }
    }

    /// The transaction a reading statement belongs to, if one is open.
    pub async fn reading_transaction(
        &mut self,
    ) -> Result<Option<(Arc<Transaction>, Arc<SchemaSnapshot>)>> {
        self.branch.check_takes_work()?;
        self.open_implicitly();
        if !self.transaction.is_open() {
            return Ok(None);
        }
        let is_fresh = self.transaction.started().is_none();
        let (transaction, schema) = self.start_transaction().await?;
        let reads_anew = self.transaction.reads_committed() && !is_fresh;
        let read_ts = if reads_anew { self.fresh_ts().await? } else { transaction.start_ts() };
        transaction.read_at(read_ts);
        transaction.read_from(self.read_from());
        Ok(Some((transaction, schema)))
    }

    /// Which replicas the session's plain reads of the present ask.
    pub fn read_from(&self) -> ReadFrom {
        ReadFrom { replicas: self.settings().replica_read, is_stale: false }
    }

    /// Without autocommit the first statement opens a transaction.
    fn open_implicitly(&mut self) {
        if !self.settings().autocommit && !self.transaction.is_open() {
            self.open(None, None);
        }
    }

    fn open(&mut self, read_only: Option<bool>, mode: Option<TransactionMode>) {
        let next_past = self.transaction.next_past.take();
        if let Some(past) = next_past.or_else(|| self.transaction.session_past.clone()) {
            self.open_past(past);
            return;
        }
        let default_read_only = self.variables.get("transaction_read_only") == Some("ON");
        let next = self.transaction.next_read_only.take();
        let read_only = read_only.or(next).unwrap_or(default_read_only);
        let settings = self.settings();
        let is_pessimistic = match mode {
            Some(mode) => mode == TransactionMode::Pessimistic,
            None => settings.is_pessimistic,
        };
        let isolation = settings.isolation;
        let isolation = self.transaction.next_isolation.take().unwrap_or(isolation);
        self.open_as(TransactionModes { read_only, is_pessimistic, isolation });
    }

    fn open_as(&mut self, modes: TransactionModes) {
        self.transaction.open = Some(Open { started: None, modes, is_past: false });
    }

    fn new_transaction(
        &self,
        start_ts: TimeStamp,
        is_pessimistic: bool,
        isolation: IsolationLevel,
    ) -> Transaction {
        let transaction = match is_pessimistic {
            true => self.domain.kv.begin_pessimistic(start_ts),
            false => self.domain.kv.begin(start_ts),
        };
        transaction.set_assertion_level(self.settings().assertion_level);
        match isolation {
            IsolationLevel::Serializable => transaction.serializable(),
            IsolationLevel::ReadUncommitted
            | IsolationLevel::ReadCommitted
            | IsolationLevel::RepeatableRead => transaction,
        }
    }

    fn new_bulk_transaction(&self, start_ts: TimeStamp, options: BulkOptions) -> Transaction {
        let transaction = self.domain.kv.begin_bulk(start_ts, options);
        transaction.set_assertion_level(self.settings().assertion_level);
        transaction
    }

    /// Gives the open transaction its timestamp and schema when it has none yet.
    async fn start_transaction(&mut self) -> Result<(Arc<Transaction>, Arc<SchemaSnapshot>)> {
        if self.transaction.started().is_none() {
            // The version that the first statement was planned with is the transaction's. It
            // is held before the timestamp is taken: an index that it reads is whole by then.
            let hold = self.transaction.statement_hold.take();
            let hold = hold.unwrap_or_else(|| self.domain.schema.hold());
            if hold.schema().is_in_flashback() {
                return Err(in_flashback());
            }
            let start_ts = self.fresh_ts().await?;
            let modes = self.transaction.modes().ok_or(SqlError::Interrupted)?;
            let TransactionModes { is_pessimistic, isolation, .. } = modes;
            let transaction = self.new_transaction(start_ts, is_pessimistic, isolation);
            let transaction = Arc::new(transaction);
            if let Some(open) = &mut self.transaction.open {
                let shown = OpenTransaction::new(Arc::clone(&transaction));
                let shown = self.process.show_transaction(shown);
                let (savepoints, tally) = (Vec::new(), Tally::default());
                open.started = Some(Started { transaction, hold, savepoints, tally, shown });
            }
        }
        let started = self.transaction.started().ok_or(SqlError::Interrupted)?;
        started.transaction.enter(self.scope().clone());
        started.shown.begin_statement(&self.statement_text);
        Ok((Arc::clone(&started.transaction), Arc::clone(started.hold.schema())))
    }

    // --- statements ---------------------------------------------------------------------

    /// `BEGIN`, `START TRANSACTION`: commits what is open and opens another.
    pub async fn begin(&mut self, begin: &Begin) -> Result<()> {
        self.commit().await?;
        self.release_tables().await?;
        if let Some(time) = &begin.as_of {
            return self.begin_past(time).await;
        }
        self.open(begin.read_only, begin.mode);
        if begin.consistent_snapshot {
            self.start_transaction().await?;
        }
        Ok(())
    }

    /// `COMMIT`, and the commit that other statements imply.
    pub async fn commit(&mut self) -> Result<()> {
        self.branch.check_none()?;
        let open = self.transaction.open.take();
        let Some(started) = open.and_then(|open| open.started) else {
            self.leave_tables();
            return Ok(());
        };
        started.shown.enter(Phase::Committing);
        let entered = match started.transaction.is_trivial() {
            true => Ok(()),
            false => table_locks::enter_commit(self).await,
        };
        let outcome = match entered {
            Ok(()) => {
                let generation = started.hold.generation();
                let committed = self.commit_transaction(&started.transaction, generation).await;
                if committed.is_ok() {
                    self.domain.statistics.note_commit(&started.tally);
                }
                committed
            }
            Err(error) => {
                started.transaction.rollback().await.map_err(SqlError::from).and(Err(error))
            }
        };
        drop(started);
        self.leave_tables();
        outcome
    }

    /// `XA START`: a transaction as the session's settings want it.
    pub fn open_transaction(&mut self) {
        self.open(None, None);
    }

    /// `XA PREPARE`: whatever happens, the session's transaction ends.
    pub async fn prepare_transaction(&mut self, xid: &Xid) -> Result<()> {
        let entered = table_locks::enter_commit(self).await;
        let started = self.start_transaction().await;
        // Holds the schema until the branch has its record.
        let open = self.transaction.open.take();
        let (transaction, schema) = started?;
        if let Err(error) = entered {
            transaction.rollback().await?;
            return Err(error);
        }
        let started = open.and_then(|open| open.started);
        let generation = started.as_ref().map_or(0, |started| started.hold.generation());
        let lease = || self.domain.check_schema_lease_of(generation);
        xa::prepare_branch(&self.domain, xid, &transaction, schema.version(), lease).await
    }

    /// `ROLLBACK`, and the end of a session.
    pub async fn roll_back(&mut self) -> Result<()> {
        let open = self.transaction.open.take();
        let outcome = match open.and_then(|open| open.started) {
            Some(started) => {
                started.shown.enter(Phase::RollingBack);
                started.transaction.rollback().await
            }
            None => Ok(()),
        };
        self.leave_tables();
        Ok(outcome?)
    }

    /// `AND CHAIN`, `RELEASE`, after a transaction of these modes, if one was open.
    pub fn complete(&mut self, completion: &Completion, ended: Option<TransactionModes>) {
        let kind = self.variables.get("completion_type").unwrap_or("NO_CHAIN");
        let (chain, release) = (kind == "CHAIN", kind == "RELEASE");
        if completion.chain.unwrap_or(chain) {
            match ended {
                Some(modes) if self.transaction.session_past.is_none() => self.open_as(modes),
                _ => self.open(None, None),
            }
        }
        if completion.release.unwrap_or(release) {
            self.release();
        }
    }

    /// `SAVEPOINT`.
    pub async fn savepoint(&mut self, name: &str) -> Result<()> {
        self.branch.check_takes_work()?;
        self.open_implicitly();
        if !self.transaction.is_open() {
            return Ok(());
        }
        let (transaction, _) = self.start_transaction().await?;
        let checkpoint = transaction.checkpoint();
        let name = fold_name(name);
        let open = self.transaction.open.as_mut();
        if let Some(started) = open.and_then(|open| open.started.as_mut()) {
            started.savepoints.retain(|other| other.name != name);
            if started.savepoints.len() == SAVEPOINTS_MAX {
                return Err(SqlError::not_supported("more than 1,000 savepoints in a transaction"));
            }
            let counted = started.tally.so_far();
            started.savepoints.push(Savepoint { name, checkpoint, counted });
        }
        Ok(())
    }

    /// `ROLLBACK TO`: undoes what came after; the savepoint stays.
    pub fn roll_back_to(&mut self, name: &str) -> Result<()> {
        let (started, at) = self.find_savepoint(name)?;
        let Savepoint { name, checkpoint, counted } = started.savepoints.swap_remove(at);
        started.savepoints.truncate(at);
        started.transaction.rollback_to(checkpoint);
        started.tally.go_back(counted.clone());
        let checkpoint = started.transaction.checkpoint();
        started.savepoints.push(Savepoint { name, checkpoint, counted });
        Ok(())
    }

    /// `RELEASE SAVEPOINT`: forgets it and those after it.
    pub fn release_savepoint(&mut self, name: &str) -> Result<()> {
        let (started, at) = self.find_savepoint(name)?;
        for savepoint in started.savepoints.drain(at..).rev() {
            started.transaction.release(savepoint.checkpoint);
        }
        Ok(())
    }

    fn find_savepoint(&mut self, name: &str) -> Result<(&mut Started, usize)> {
        let folded = fold_name(name);
        let unknown = || {
            SqlError::new(errno::ER_SP_DOES_NOT_EXIST, format!("SAVEPOINT {name} does not exist"))
        };
        let open = self.transaction.open.as_mut();
        let started = open.and_then(|open| open.started.as_mut()).ok_or_else(unknown)?;
        let at = started.savepoints.iter().position(|other| other.name == folded);
        at.map(|at| (started, at)).ok_or_else(unknown)
    }
}
