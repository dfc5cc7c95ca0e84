//! Cairn's syntax tree: what a MySQL statement says, free of how it was spelt.
//!
//! **Flow.** [`crate::parse_statements`] builds it; the planner and the statement handlers of
//! the SQL tier read it. No other crate sees the tree of the parsing library.
//!
//! **Memory.** Nodes are plain owned Rust values. An arena per statement was weighed: plans are
//! immutable, shared and keyed by the digest of the text, so a tree lives from its parsing to the
//! end of planning, and repeated statements do not build one at all. Owned nodes keep lifetimes
//! out of every signature; should profiles ask for an arena, the seam (this module) stays.
//!
//! **Invariants.** Identifiers keep the case they were written in, without quotes. Lists whose
//! documentation says "at least one" are never empty. Those of expressions are told in
//! `ast/expr.rs`: flat chains, bounded height, lower-case function names, one form per meaning.

mod admin;
mod ddl;
mod dml;
mod expr;
mod query;

pub use admin::*;
pub use ddl::*;
pub use dml::*;
pub use expr::*;
pub use query::*;

use std::ops::Range;

/// A statement together with where it stands in the text that was sent.
#[derive(Clone, Debug, PartialEq)]
pub struct ParsedStatement {
    /// What it says.
    pub statement: Statement,
    /// Its bytes in the text, without surrounding blanks and `;`.
    pub range: Range<usize>,
    /// How many `?` markers it has.
    pub parameter_count: u32,
    /// The times that tables are read at (`AS OF TIMESTAMP`), each way of writing them once.
    pub as_of: Vec<Expr>,
}

/// `[schema.]name`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ObjectName {
    /// The database; the current one when absent.
    pub schema: Option<String>,
    /// The name in it.
    pub name: String,
}

impl ObjectName {
    /// A name without database.
    pub fn bare(name: impl Into<String>) -> ObjectName {
        ObjectName { schema: None, name: name.into() }
    }
}

impl std::fmt::Display for ObjectName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.schema {
            Some(schema) => write!(f, "{schema}.{}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

/// One statement.
#[derive(Clone, Debug, PartialEq)]
pub enum Statement {
    /// `SELECT`, `VALUES`, `TABLE`, `WITH .. SELECT`, set operations.
    Query(Box<Query>),
    /// `INSERT`, `REPLACE`.
    Insert(Box<Insert>),
    /// `UPDATE`.
    Update(Box<Update>),
    /// `DELETE`.
    Delete(Box<Delete>),

    /// `CREATE DATABASE`.
    CreateDatabase(CreateDatabase),
    /// `ALTER DATABASE`.
    AlterDatabase(AlterDatabase),
    /// `DROP DATABASE`.
    DropDatabase(DropDatabase),
    /// `CREATE TABLE`.
    CreateTable(Box<CreateTable>),
    /// `ALTER TABLE`.
    AlterTable(Box<AlterTable>),
    /// `DROP TABLE`.
    DropTable(DropTables),
    /// `TRUNCATE [TABLE]`.
    TruncateTable(ObjectName),
    /// `FLASHBACK ..`, `RECOVER TABLE`.
    Flashback(Flashback),
    /// `RENAME TABLE a TO b, ..`; at least one pair.
    RenameTable(Vec<RenamePair>),
    /// `CREATE INDEX`.
    CreateIndex(Box<CreateIndex>),
    /// `DROP INDEX`.
    DropIndex(DropIndex),
    /// `CREATE VIEW`.
    CreateView(Box<CreateView>),
    /// `DROP VIEW`.
    DropView(DropTables),

    /// `BEGIN`, `START TRANSACTION`.
    Begin(Begin),
    /// `COMMIT`.
    Commit(Completion),
    /// `ROLLBACK`.
    Rollback(Completion),
    /// `SAVEPOINT s`.
    Savepoint(String),
    /// `ROLLBACK TO [SAVEPOINT] s`.
    RollbackTo(String),
    /// `RELEASE SAVEPOINT s`.
    ReleaseSavepoint(String),
    /// `SET TRANSACTION`.
    SetTransaction(SetTransaction),
    /// `XA ..`.
    Xa(Box<Xa>),
    /// `LOCK TABLES`; at least one.
    LockTables(Vec<LockTable>),
    /// `UNLOCK TABLES`.
    UnlockTables,
    /// `LOCK INSTANCE FOR BACKUP`.
    LockInstance,
    /// `UNLOCK INSTANCE`.
    UnlockInstance,

    /// `USE db`.
    Use(String),
    /// `SET a = 1, ..`; at least one.
    Set(Vec<SetItem>),
    /// `SHOW`.
    Show(Box<Show>),
    /// `EXPLAIN statement`.
    Explain(Box<Explain>),
    /// `TRACE statement`.
    Trace(Trace),
    /// `DESCRIBE t`, `EXPLAIN t`.
    Describe(Describe),
    /// `DO a, b`; at least one.
    Do(Vec<Expr>),
    /// `PREPARE`.
    Prepare(Prepare),
    /// `EXECUTE`.
    Execute(Execute),
    /// `DEALLOCATE | DROP PREPARE s`.
    Deallocate(String),

    /// `FLUSH`.
    Flush(Flush),
    /// `KILL`.
    Kill(Kill),
    /// `ANALYZE TABLE`.
    AnalyzeTable(AnalyzeTable),
    /// `DROP STATS`, `LOCK STATS`, `UNLOCK STATS`.
    Statistics(StatisticsCommand),
    /// `CHECK | OPTIMIZE | REPAIR | CHECKSUM TABLE`.
    TableMaintenance(TableMaintenance),
    /// `ADMIN`.
    Admin(Box<Admin>),
    /// `SPLIT TABLE`.
    SplitTable(Box<SplitTable>),

    /// `CREATE USER`, `CREATE ROLE`.
    CreateUser(CreateUser),
    /// `ALTER USER`.
    AlterUser(AlterUser),
    /// `DROP USER`, `DROP ROLE`.
    DropUser(DropUser),
    /// `SET PASSWORD`.
    SetPassword(SetPassword),
    /// `GRANT`, `REVOKE` of privileges.
    Grant(Grant),
    /// `GRANT`, `REVOKE` of roles.
    GrantRole(GrantRole),
}
