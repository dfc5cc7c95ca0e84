//! `LOCK TABLES`, `FLUSH TABLES WITH READ LOCK`, `LOCK INSTANCE FOR BACKUP`, over all SQL nodes.
//!
//! **Data.** One record in the meta keyspace holds all locks, held and waited for, in the order in
//! which they were asked for ([`entry`]). It changes under a new schema version, so that it reaches
//! every node the way definitions do; but a version that differs in locks alone costs a node two
//! small reads, leaves its plans good, and waits for nobody who uses an older one.
//!
//! **Flow.** Each session notes the tables that its statement or transaction uses ([`uses`]), and
//! *then* looks at the newest locks. Whoever wants a lock adds it as pending, which stops newcomers.
//! Nodes tell through PD up to which version they know the locks, and which pending ones wait for
//! one of their sessions: what they look at is noted *after* the locks are in force. When all nodes
//! have let go, the lock is held ([`node`]).
//!
//! **What waits for what.**
//!
//! | | waits for | keeps out |
//! |---|---|---|
//! | `READ` | transactions that changed or locked rows of the table, prepared branches | those |
//! | `WRITE` | transactions that used the table | all use of it |
//! | `FLUSH TABLES WITH READ LOCK` | commits and schema changes under way, tables locked for `WRITE` | statements that change or lock rows, commits of changes, schema changes |
//! | `LOCK INSTANCE FOR BACKUP` | schema changes under way | schema changes, changes of accounts |
//!
//! Changes of definitions count as changes of the table's rows. The global lock closes in steps
//! ([`entry::Stage`]): while it waits for schema changes and locked tables, others write on. A
//! statement that runs when it closes is not waited for (MySQL does): what it does shows when it
//! commits, and that waits. So neither rows that others hold nor long schema changes stop writing
//! before the lock is there.
//!
//! **Deadlocks.** A lock that is held waits for nothing here. So every circle leads over a pending
//! one, and over a transaction that blocks a pending one and wants to wait for a pending one: that
//! gets error 1213 and is rolled back ([`entry::TableLocks::look`]). Circles that lead over row
//! locks too end with `innodb_lock_wait_timeout`.
//!
//! **Who dies.** A node whose PD entry stands still loses its locks; it has ended its work by then
//! (`Domain::check_schema_lease`). A session that finds its lock gone loses its connection.
//!
//! **Left out.** Reads of the past neither wait nor are waited for. `READ LOCAL` is `READ`: nobody
//! inserts meanwhile.
//!
//! Sources: MySQL 8.0 manual, 15.3.6 "LOCK TABLES and UNLOCK TABLES Statements", 15.3.5 "LOCK
//! INSTANCE FOR BACKUP", 15.7.8.3 "FLUSH Statement", 10.11.4 "Metadata Locking".

mod entry;
mod node;
mod uses;

use std::sync::Arc;
use std::time::Duration;

use cairn_parser::ast::{Flashback, FlushLock, LockTable, ObjectName, Statement};
use cairn_planner::Catalog;
use cairn_planner::plan::{AccessKind, Plan, TableAccess};
use cairn_types::{MysqlError, TableId, errno};
use tokio::time::Instant;

pub use self::entry::{Entry, LockRecord, Scope, TableLocks};
pub use self::node::{NodeLocks, blocked_here, keep_watch};
pub use self::uses::Uses;

use self::entry::{Intent, TableLock, Verdict};
use self::node::OwnEntry;
use self::uses::UseKind;
use crate::error::{Result, SqlError};
use crate::session::{Session, unknown_table};

/// As MySQL's `SHOW PROCESSLIST` says it.
const WAITS_FOR_TABLE: &str = "Waiting for table metadata lock";
const WAITS_FOR_GLOBAL: &str = "Waiting for global read lock";

/// The table locks of a session.
#[derive(Debug, Default)]
pub struct SessionTableLocks {
    tables: Option<LockedTables>,
    global: Option<OwnEntry>,
    backup: Option<OwnEntry>,
}

impl SessionTableLocks {
    /// `LOCK TABLES` was said: only tables that it named may be used.
    pub fn has_tables(&self) -> bool {
        self.tables.is_some()
    }
}

/// What `LOCK TABLES` named.
#[derive(Debug)]
struct LockedTables {
    /// Without one all of the tables are virtual.
    entry: Option<OwnEntry>,
    names: Vec<LockedName>,
}

/// One table of `LOCK TABLES`; names in lower case.
#[derive(Debug)]
struct LockedName {
    database: String,
    table: String,
    alias: String,
    write: bool,
}

fn error(code: u16, args: &[&dyn std::fmt::Display]) -> SqlError {
    SqlError::Mysql(MysqlError::with_args(code, args))
}

/// Error 1213.
fn deadlock() -> SqlError {
    error(errno::ER_LOCK_DEADLOCK, &[])
}

/// A lock that others have removed.
fn lost() -> SqlError {
    let text = "The table lock was lost: this node was believed to be dead";
    SqlError::new(errno::ER_UNKNOWN_ERROR, text)
}

/// Error 1192.
fn has_locked_tables() -> SqlError {
    error(errno::ER_LOCK_OR_ACTIVE_TRANSACTION, &[])
}

fn use_of(access: &TableAccess) -> UseKind {
    match access.kind {
        AccessKind::Select => UseKind::Read,
        AccessKind::Lock | AccessKind::Insert | AccessKind::Update | AccessKind::Delete => {
            UseKind::Write
        }
    }
}

impl LockedTables {
    /// Errors 1100 and 1099.
    fn check(&self, database: &str, alias: &str, kind: UseKind) -> Result<()> {
        let is_named = |name: &&LockedName| {
            name.alias == alias.to_lowercase() && name.database == database.to_lowercase()
        };
        match self.names.iter().find(is_named) {
            None => Err(error(errno::ER_TABLE_NOT_LOCKED, &[&alias])),
            Some(name) if kind == UseKind::Write && !name.write => {
                Err(error(errno::ER_TABLE_NOT_LOCKED_FOR_WRITE, &[&alias]))
            }
            Some(_) => Ok(()),
        }
    }
}

/// How much longer a statement waits for locks of tables.
#[derive(Debug, Default)]
pub struct Patience {
    ends_at: Option<Instant>,
}

impl Patience {
    fn ends_at(&mut self, session: &Session) -> Instant {
        *self.ends_at.get_or_insert_with(|| Instant::now() + wait_timeout(session))
    }
}

fn wait_timeout(session: &Session) -> Duration {
    Duration::from_secs(session.settings().table_lock_wait_timeout_s)
}

/// Whether a statement may run as it was planned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entered {
    /// It may.
    AtOnce,
    /// It waited without holding the schema: it is planned anew.
    AfterWait,
}

/// Notes that a planned statement uses its tables, once nobody's lock is in the way.
pub async fn enter(session: &mut Session, plan: &Plan, patience: &mut Patience) -> Result<Entered> {
    let stored = || plan.tables.iter().filter(|access| !access.table.is_virtual);
    if session.reads_past() || stored().next().is_none() {
        return Ok(Entered::AtOnce);
    }
    session.check_table_locks_kept()?;
    if let Some(locked) = &session.table_locks.tables {
        for access in stored() {
            locked.check(&access.db, &access.alias, use_of(access))?;
        }
        return Ok(Entered::AtOnce);
    }
    let writes = stored().any(|access| use_of(access) == UseKind::Write);
    if writes && session.table_locks.global.is_some() {
        return Err(error(errno::ER_CANT_UPDATE_WITH_READLOCK, &[]));
    }
    let intent = if writes { Intent::Write } else { Intent::Read };
    let note =
        |uses: &mut Uses| stored().for_each(|access| uses.add(access.table.id, use_of(access)));
    if session.try_enter(intent, &note) == Verdict::Free {
        return Ok(Entered::AtOnce);
    }
    session.give_schema_back();
    match session.wait_to_enter(intent, &note, patience).await {
        Ok(()) => Ok(Entered::AfterWait),
        Err(SqlError::Mysql(error)) if error.code == errno::ER_LOCK_DEADLOCK => {
            // As MySQL does: what the transaction blocks goes on.
            session.branch.lost_transaction();
            session.roll_back().await?;
            Err(SqlError::Mysql(error))
        }
        Err(error) => Err(error),
    }
}

/// Before changes are committed. They are rolled back if this fails.
pub async fn enter_commit(session: &Session) -> Result<()> {
    session.check_table_locks_kept()?;
    let nothing = |_: &mut Uses| {};
    if session.try_enter(Intent::Commit, &nothing) == Verdict::Free {
        return Ok(());
    }
    session.wait_to_enter(Intent::Commit, &nothing, &mut Patience::default()).await
}

/// Tables that a statement changes the definition of.
#[derive(Debug, Default)]
struct Changed {
    /// By database and name.
    names: Vec<(String, String)>,
    /// All of a database.
    databases: Vec<String>,
    /// All there are.
    everything: bool,
    /// It cannot run between `LOCK TABLES` and `UNLOCK TABLES`.
    is_outside: bool,
}

impl Changed {
    fn by(session: &Session, statement: &Statement) -> Result<Changed> {
        let mut changed = Changed::default();
        let mut add = |name: &ObjectName| {
            let database = session.database_or_current(name.schema.as_deref())?;
            changed.names.push((database.to_owned(), name.name.clone()));
            Ok::<(), SqlError>(())
        };
        match statement {
            Statement::CreateTable(create) => add(&create.name)?,
            Statement::AlterTable(alter) => add(&alter.table)?,
            Statement::CreateIndex(create) => add(&create.table)?,
            Statement::DropIndex(drop) => add(&drop.table)?,
            Statement::TruncateTable(name) => add(name)?,
            Statement::DropTable(drop) => drop.names.iter().try_for_each(add)?,
            Statement::RenameTable(pairs) => {
                pairs.iter().try_for_each(|pair| add(&pair.from))?;
                changed.is_outside = true;
            }
            Statement::DropDatabase(drop) => {
                changed.databases.push(drop.name.clone());
                changed.is_outside = true;
            }
            Statement::Flashback(flashback) => {
                changed.everything = matches!(flashback, Flashback::Cluster(_));
                changed.is_outside = true;
            }
            Statement::CreateDatabase(_) | Statement::AlterDatabase(_) => changed.is_outside = true,
            _ => {}
        }
        Ok(changed)
    }

    fn ids(&self, schema: &dyn Catalog) -> Vec<TableId> {
        let mut ids: Vec<TableId> = Vec::new();
        for (database, table) in &self.names {
            ids.extend(schema.table(database, table).map(|table| table.id));
        }
        let all = schema.databases();
        let all = all.iter().map(|database| &database.name).filter(|_| self.everything);
        for database in self.databases.iter().chain(all) {
            ids.extend(schema.tables(database).iter().map(|table| table.id));
        }
        ids
    }
}

/// Before definitions or accounts are changed.
pub async fn enter_schema_change(session: &Session, statement: &Statement) -> Result<()> {
    session.check_table_locks_kept()?;
    if session.table_locks.global.is_some() {
        return Err(error(errno::ER_CANT_UPDATE_WITH_READLOCK, &[]));
    }
    let mut changed = Changed::by(session, statement)?;
    if let Some(locked) = &session.table_locks.tables {
        if changed.is_outside {
            return Err(has_locked_tables());
        }
        for (database, table) in &changed.names {
            locked.check(database, table, UseKind::Write)?;
        }
        // They are its own.
        changed.names.clear();
    }
    let note = |uses: &mut Uses| {
        let schema = session.domain.schema.current();
        changed.ids(&*schema).into_iter().for_each(|table| uses.add(table, UseKind::Write));
    };
    if session.try_enter(Intent::SchemaChange, &note) == Verdict::Free {
        return Ok(());
    }
    session.wait_to_enter(Intent::SchemaChange, &note, &mut Patience::default()).await
}

impl Session {
    /// Notes what the session is about to do, unless a lock is in the way.
    fn try_enter(&self, intent: Intent, note: &(dyn Fn(&mut Uses) + Sync)) -> Verdict {
        let mut uses = self.process.uses.lock();
        let mark = uses.tables().len();
        note(&mut uses);
        uses.is_committing |= intent == Intent::Commit;
        uses.is_changing_schema |= intent == Intent::SchemaChange;
        // Behind the note: either this session sees a lock, or whoever looks who is in the way of
        // the lock sees this session.
        let schema = self.domain.schema.current();
        if schema.locks().is_empty() {
            return Verdict::Free;
        }
        let verdict = schema.locks().look(&self.owner(), &uses, mark, intent);
        if verdict != Verdict::Free {
            uses.truncate(mark);
            uses.is_committing = false;
            uses.is_changing_schema = false;
        }
        verdict
    }

    /// Does the same as soon as no lock is in the way any more.
    async fn wait_to_enter(
        &self,
        intent: Intent,
        note: &(dyn Fn(&mut Uses) + Sync),
        patience: &mut Patience,
    ) -> Result<()> {
        let domain = Arc::clone(&self.domain);
        let is_global = intent == Intent::Commit;
        let _shown =
            self.process.wait_for(if is_global { WAITS_FOR_GLOBAL } else { WAITS_FOR_TABLE });
        let ends_at = patience.ends_at(self);
        loop {
            let next = domain.schema.next();
            match self.try_enter(intent, note) {
                Verdict::Free => return Ok(()),
                Verdict::Deadlock => return Err(deadlock()),
                Verdict::Wait => {}
            }
            tokio::select! {
                biased;
                () = self.token().cancelled() => return Err(SqlError::Interrupted),
                () = tokio::time::sleep_until(ends_at) => {
                    return Err(error(errno::ER_LOCK_WAIT_TIMEOUT, &[]));
                }
                () = next => {}
            }
        }
    }

    /// The commit has ended, the statement perhaps not.
    pub fn leave_commit(&self) {
        self.process.uses.lock().is_committing = false;
    }

    /// The transaction has ended: it uses no table any more.
    pub fn leave_tables(&self) {
        self.process.uses.lock().end_statement(false);
    }

    /// A session whose lock was given to others must not go on as if it had it.
    fn check_table_locks_kept(&self) -> Result<()> {
        let SessionTableLocks { tables, global, backup } = &self.table_locks;
        let tables = tables.as_ref().and_then(|tables| tables.entry.as_ref());
        let mut own = [tables, global.as_ref(), backup.as_ref()].into_iter().flatten().peekable();
        if own.peek().is_none() {
            return Ok(());
        }
        self.domain.check_schema_lease()?;
        if own.all(OwnEntry::is_kept) {
            return Ok(());
        }
        tracing::warn!(connection = self.process.id.0, "a table lock is lost, its connection ends");
        self.domain.processes.kill(self.process.id, false);
        Err(lost())
    }

    // --- statements ---------------------------------------------------------------------

    /// `LOCK TABLES`: commits, and gives up the tables locked before.
    pub async fn lock_tables(&mut self, wanted: &[LockTable]) -> Result<()> {
        self.check_present()?;
        self.commit().await?;
        self.release_tables().await?;
        let mut names = Vec::with_capacity(wanted.len());
        for LockTable { table, alias, write } in wanted {
            names.push(self.locked_name(table, alias.as_deref(), *write)?);
        }
        self.take_tables(names).await
    }

    /// `FLUSH TABLES … WITH READ LOCK`, `FLUSH TABLES … FOR EXPORT`.
    pub async fn flush_tables(&mut self, tables: &[ObjectName], lock: FlushLock) -> Result<()> {
        self.check_present()?;
        if self.table_locks.has_tables() {
            return Err(has_locked_tables());
        }
        self.commit().await?;
        if lock == FlushLock::Export || !tables.is_empty() {
            let names = tables.iter().map(|table| self.locked_name(table, None, false));
            let names = names.collect::<Result<Vec<_>>>()?;
            return self.take_tables(names).await;
        }
        if self.table_locks.global.is_none() {
            self.table_locks.global = Some(self.take(Scope::Global).await?);
        }
        Ok(())
    }

    /// `LOCK INSTANCE FOR BACKUP`.
    pub async fn lock_instance(&mut self) -> Result<()> {
        if self.table_locks.backup.is_none() {
            self.table_locks.backup = Some(self.take(Scope::Backup).await?);
        }
        Ok(())
    }

    /// `UNLOCK INSTANCE`.
    pub async fn unlock_instance(&mut self) -> Result<()> {
        match self.table_locks.backup.take() {
            Some(entry) => entry.release().await,
            None => Ok(()),
        }
    }

    /// `UNLOCK TABLES`: commits if tables were locked; also ends the global lock.
    pub async fn unlock_tables(&mut self) -> Result<()> {
        let committed = match self.table_locks.has_tables() {
            true => self.commit().await,
            false => Ok(()),
        };
        let released = self.release_tables().await;
        let opened = match self.table_locks.global.take() {
            Some(entry) => entry.release().await,
            None => Ok(()),
        };
        committed.and(released).and(opened)
    }

    /// Gives up what `LOCK TABLES` locked, as `START TRANSACTION` does.
    pub async fn release_tables(&mut self) -> Result<()> {
        match self.table_locks.tables.take().and_then(|tables| tables.entry) {
            Some(entry) => entry.release().await,
            None => Ok(()),
        }
    }

    /// Gives up everything, at the end of the session.
    pub async fn release_table_locks(&mut self) -> Result<()> {
        let SessionTableLocks { tables, global, backup } = std::mem::take(&mut self.table_locks);
        let tables = tables.and_then(|tables| tables.entry);
        let mut outcome = Ok(());
        for entry in [tables, global, backup].into_iter().flatten() {
            outcome = outcome.and(entry.release().await);
        }
        outcome
    }

    fn locked_name(
        &self,
        name: &ObjectName,
        alias: Option<&str>,
        write: bool,
    ) -> Result<LockedName> {
        let database = self.database_or_current(name.schema.as_deref())?.to_lowercase();
        let table = name.name.to_lowercase();
        let alias = alias.map_or_else(|| table.clone(), str::to_lowercase);
        Ok(LockedName { database, table, alias, write })
    }

    async fn take_tables(&mut self, names: Vec<LockedName>) -> Result<()> {
        let mut locks: Vec<TableLock> = Vec::new();
        for (at, name) in names.iter().enumerate() {
            let is_same =
                |other: &LockedName| other.alias == name.alias && other.database == name.database;
            if names[..at].iter().any(is_same) {
                return Err(error(errno::ER_NONUNIQ_TABLE, &[&name.alias]));
            }
            if self.find_named(name)?.is_virtual {
                continue;
            }
            if name.write && self.table_locks.global.is_some() {
                return Err(error(errno::ER_CANT_UPDATE_WITH_READLOCK, &[]));
            }
            let LockedName { database, table, write, .. } = name;
            let is_same =
                |other: &&mut TableLock| other.table == *table && other.database == *database;
            match locks.iter_mut().find(is_same) {
                Some(other) => other.write |= write,
                None => {
                    let (database, table) = (database.clone(), table.clone());
                    locks.push(TableLock { database, table, write: *write });
                }
            }
        }
        let entry = match locks.is_empty() {
            true => None,
            false => Some(self.take(Scope::Tables(locks)).await?),
        };
        // One may have been dropped while this session waited for it.
        let found = names.iter().try_for_each(|name| self.find_named(name).map(drop));
        match (found, entry) {
            (Err(error), Some(entry)) => {
                entry.release().await?;
                Err(error)
            }
            (Err(error), None) => Err(error),
            (Ok(()), entry) => {
                self.table_locks.tables = Some(LockedTables { entry, names });
                Ok(())
            }
        }
    }

    fn find_named(&self, name: &LockedName) -> Result<Arc<cairn_planner::TableInfo>> {
        let table = self.domain.schema.current().table(&name.database, &name.table);
        table.ok_or_else(|| unknown_table(&name.database, &name.table))
    }

    async fn take(&self, scope: Scope) -> Result<OwnEntry> {
        self.domain.check_schema_lease()?;
        let _shown = self.process.wait_for(match scope {
            Scope::Tables(_) => WAITS_FOR_TABLE,
            Scope::Global | Scope::Backup => WAITS_FOR_GLOBAL,
        });
        let entry = OwnEntry::new(Arc::clone(&self.domain), self.owner());
        let taken = tokio::select! {
            biased;
            () = self.token().cancelled() => Err(SqlError::Interrupted),
            () = tokio::time::sleep(wait_timeout(self)) => {
                Err(error(errno::ER_LOCK_WAIT_TIMEOUT, &[]))
            }
            taken = entry.take(scope) => taken,
        };
        if let Err(error) = taken {
            if let Err(error) = entry.release().await {
                tracing::warn!(%error, "a table lock that was given up is left to the node");
            }
            return Err(error);
        }
        Ok(entry)
    }
}
