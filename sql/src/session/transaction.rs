//! The session's transaction: begin, commit, rollback, savepoints, autocommit.
//!
//! **Data.** A transaction's reads are fixed by its `start_ts`, taken by its first
//! statement (`WITH CONSISTENT SNAPSHOT`: at once). Its writes stay in the client's buffer
//! until COMMIT; a statement that fails is undone by a checkpoint.
//!
//! **Invariants.** An open transaction holds its schema version ([`VersionHold`]): no
//! schema change ends while it may still write in the old form.
//!
//! **Left out.** Conflicts are found at COMMIT (optimistic): the loser gets error 1213 and
//! starts over, as after a deadlock.

use std::sync::Arc;

use cairn_kv_client::txn::membuffer::Checkpoint;
use cairn_kv_client::{KvError, Transaction};
use cairn_parser::ast::{Begin, Completion};
use cairn_types::{TimeStamp, errno};

use super::{Session, fold_name};
use crate::catalog::{SchemaSnapshot, VersionHold};
use crate::error::{Result, SqlError};

/// Savepoints a transaction may have.
const SAVEPOINTS_MAX: usize = 1_000;

/// A transaction under way.
#[derive(Debug)]
struct Open {
    /// Taken by the first statement.
    started: Option<Started>,
    read_only: bool,
}

struct Started {
    transaction: Arc<Transaction>,
    hold: VersionHold,
    savepoints: Vec<(String, Checkpoint)>,
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
    /// The schema that the running statement was planned with.
    statement_hold: Option<VersionHold>,
}

impl TransactionState {
    /// `BEGIN` was said, or a statement ran without autocommit.
    pub fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// The open transaction refuses writes.
    pub fn is_read_only(&self) -> bool {
        self.open.as_ref().is_some_and(|open| open.read_only)
    }

    /// The schema the open transaction, or else the running statement, holds.
    pub fn schema(&self) -> Option<Arc<SchemaSnapshot>> {
        let hold = self.started().map(|started| &started.hold).or(self.statement_hold.as_ref());
        Some(Arc::clone(hold?.schema()))
    }

    /// The open transaction's timestamp; zero when it has none yet.
    pub fn start_ts(&self) -> TimeStamp {
        self.started().map_or(TimeStamp::ZERO, |started| started.transaction.start_ts())
    }

    /// `SET TRANSACTION READ ONLY | READ WRITE` for the next transaction.
    pub fn set_next_read_only(&mut self, read_only: bool) {
        self.next_read_only = Some(read_only);
    }

    fn started(&self) -> Option<&Started> {
        self.open.as_ref()?.started.as_ref()
    }
}

/// A statement's transaction: the session's, or its own.
pub struct StatementTransaction {
    /// Where to read and write.
    pub transaction: Arc<Transaction>,
    /// The schema to plan with.
    pub schema: Arc<SchemaSnapshot>,
    /// Where a failed statement goes back to; without one the statement stands alone and
    /// commits at its end.
    checkpoint: Option<Checkpoint>,
}

impl Session {
    /// The transaction of a statement that writes or locks: the open one, with a
    /// checkpoint to go back to, or one of its own.
    pub async fn begin_write(&mut self) -> Result<StatementTransaction> {
        if self.transaction.is_read_only() {
            return Err(SqlError::new(
                errno::ER_CANT_EXECUTE_IN_READ_ONLY_TRANSACTION,
                "Cannot execute statement in a READ ONLY transaction.",
            ));
        }
        self.domain.check_schema_lease()?;
        self.open_implicitly();
        if self.transaction.is_open() {
            let (transaction, schema) = self.start_transaction().await?;
            let checkpoint = Some(transaction.checkpoint());
            return Ok(StatementTransaction { transaction, schema, checkpoint });
        }
        self.hold_schema();
        let schema = self.schema();
        let start_ts = self.scope().run(self.domain.now_ts()).await??;
        let transaction = Arc::new(self.domain.kv.begin(start_ts));
        transaction.enter(self.scope().clone());
        Ok(StatementTransaction { transaction, schema, checkpoint: None })
    }

    /// Holds the schema from before the statement is planned until it ends: the plan, and
    /// what it reads and writes, belong to one version. An open transaction holds its own.
    pub fn hold_schema(&mut self) {
        if self.transaction.started().is_none() && self.transaction.statement_hold.is_none() {
            self.transaction.statement_hold = Some(self.domain.schema.hold());
        }
    }

    /// The statement has ended.
    pub fn release_schema(&mut self) {
        self.transaction.statement_hold = None;
    }

    /// Ends a writing statement: keeps or undoes its writes, and commits if it stood alone.
    pub async fn end_write<T>(
        &mut self,
        statement: StatementTransaction,
        outcome: Result<T>,
    ) -> Result<T> {
        let StatementTransaction { transaction, checkpoint, .. } = statement;
        if let Some(checkpoint) = checkpoint {
            match &outcome {
                Ok(_) => transaction.release(checkpoint),
                Err(_) => transaction.rollback_to(checkpoint),
            }
            return outcome;
        }
        if outcome.is_err() {
            // What went wrong first is what is told.
            if let Err(error) = transaction.rollback().await {
                tracing::debug!(%error, "rollback of a failed statement");
            }
            return outcome;
        }
        self.check_cancelled()?;
        self.commit_transaction(&transaction).await?;
        outcome
    }

    async fn commit_transaction(&self, transaction: &Transaction) -> Result<()> {
        if transaction.is_read_only() {
            return Ok(transaction.rollback().await?);
        }
        self.domain.check_schema_lease()?;
        transaction.enter(self.scope().clone());
        match transaction.commit().await {
            Ok(_) => Ok(()),
            Err(KvError::KeyExists { key, .. }) => {
                Err(crate::dml::duplicate_key_error(&self.schema(), &key.0))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The transaction a reading statement belongs to, if one is open.
    pub async fn reading_transaction(
        &mut self,
    ) -> Result<Option<(Arc<Transaction>, Arc<SchemaSnapshot>)>> {
        self.open_implicitly();
        if !self.transaction.is_open() {
            return Ok(None);
        }
        self.start_transaction().await.map(Some)
    }

    /// Without autocommit the first statement opens a transaction.
    fn open_implicitly(&mut self) {
        if !self.settings().autocommit && !self.transaction.is_open() {
            self.open(None);
        }
    }

    fn open(&mut self, read_only: Option<bool>) {
        let default_read_only = self.variables.get("transaction_read_only") == Some("ON");
        let next = self.transaction.next_read_only.take();
        let read_only = read_only.or(next).unwrap_or(default_read_only);
        self.transaction.open = Some(Open { started: None, read_only });
    }

    /// Gives the open transaction its timestamp and schema when it has none yet.
    async fn start_transaction(&mut self) -> Result<(Arc<Transaction>, Arc<SchemaSnapshot>)> {
        if self.transaction.started().is_none() {
            // The version that the first statement was planned with is the transaction's. It
            // is held before the timestamp is taken: an index that it reads is whole by then.
            let hold = self.transaction.statement_hold.take();
            let hold = hold.unwrap_or_else(|| self.domain.schema.hold());
            let start_ts = self.scope().run(self.domain.now_ts()).await??;
            let transaction = Arc::new(self.domain.kv.begin(start_ts));
            if let Some(open) = &mut self.transaction.open {
                open.started = Some(Started { transaction, hold, savepoints: Vec::new() });
            }
        }
        let started = self.transaction.started().ok_or(SqlError::Interrupted)?;
        started.transaction.enter(self.scope().clone());
        Ok((Arc::clone(&started.transaction), Arc::clone(started.hold.schema())))
    }

    // --- statements ---------------------------------------------------------------------

    /// `BEGIN`, `START TRANSACTION`: commits what is open and opens another.
    pub async fn begin(&mut self, begin: &Begin) -> Result<()> {
        self.commit().await?;
        self.open(begin.read_only);
        if begin.consistent_snapshot {
            self.start_transaction().await?;
        }
        Ok(())
    }

    /// `COMMIT`, and the commit that other statements imply.
    pub async fn commit(&mut self) -> Result<()> {
        let Some(open) = self.transaction.open.take() else { return Ok(()) };
        let Some(started) = open.started else { return Ok(()) };
        let outcome = self.commit_transaction(&started.transaction).await;
        drop(started);
        outcome
    }

    /// `ROLLBACK`.
    pub async fn roll_back(&mut self) -> Result<()> {
        let Some(open) = self.transaction.open.take() else { return Ok(()) };
        let Some(started) = open.started else { return Ok(()) };
        Ok(started.transaction.rollback().await?)
    }

    /// `AND CHAIN`, `RELEASE`.
    pub fn complete(&mut self, completion: &Completion, was_read_only: bool) {
        let kind = self.variables.get("completion_type").unwrap_or("NO_CHAIN");
        let (chain, release) = (kind == "CHAIN", kind == "RELEASE");
        if completion.chain.unwrap_or(chain) {
            self.open(Some(was_read_only));
        }
        if completion.release.unwrap_or(release) {
            self.release();
        }
    }

    /// `SAVEPOINT`.
    pub async fn savepoint(&mut self, name: &str) -> Result<()> {
        self.open_implicitly();
        if !self.transaction.is_open() {
            return Ok(());
        }
        let (transaction, _) = self.start_transaction().await?;
        let checkpoint = transaction.checkpoint();
        let name = fold_name(name);
        let open = self.transaction.open.as_mut();
        if let Some(started) = open.and_then(|open| open.started.as_mut()) {
            started.savepoints.retain(|(other, _)| *other != name);
            if started.savepoints.len() == SAVEPOINTS_MAX {
                return Err(SqlError::not_supported("more than 1,000 savepoints in a transaction"));
            }
            started.savepoints.push((name, checkpoint));
        }
        Ok(())
    }

    /// `ROLLBACK TO`: undoes what came after; the savepoint stays.
    pub fn roll_back_to(&mut self, name: &str) -> Result<()> {
        let (started, at) = self.find_savepoint(name)?;
        let (name, checkpoint) = started.savepoints.swap_remove(at);
        started.savepoints.truncate(at);
        started.transaction.rollback_to(checkpoint);
        let checkpoint = started.transaction.checkpoint();
        started.savepoints.push((name, checkpoint));
        Ok(())
    }

    /// `RELEASE SAVEPOINT`: forgets it and those after it.
    pub fn release_savepoint(&mut self, name: &str) -> Result<()> {
        let (started, at) = self.find_savepoint(name)?;
        for (_, checkpoint) in started.savepoints.drain(at..).rev() {
            started.transaction.release(checkpoint);
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
        let at = started.savepoints.iter().position(|(other, _)| *other == folded);
        at.map(|at| (started, at)).ok_or_else(unknown)
    }
}
