//! Statements about sessions, transactions, accounts and the server.

use super::expr::{Expr, VariableScope};
use super::{ObjectName, Statement};

/// `BEGIN`, `START TRANSACTION`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Begin {
    /// `OPTIMISTIC`, `PESSIMISTIC`; the session's setting when absent.
    pub mode: Option<TransactionMode>,
    /// `READ ONLY` is true, `READ WRITE` false.
    pub read_only: Option<bool>,
    /// `WITH CONSISTENT SNAPSHOT`.
    pub consistent_snapshot: bool,
    /// `READ ONLY AS OF TIMESTAMP expr`.
    pub as_of: Option<Expr>,
}

/// How a transaction takes its locks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TransactionMode {
    /// At commit.
    Optimistic,
    /// At every statement.
    Pessimistic,
}

/// What follows `COMMIT` and `ROLLBACK`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Completion {
    /// `AND CHAIN`: start another transaction. `None`: the session's `completion_type`.
    pub chain: Option<bool>,
    /// `RELEASE`: disconnect. `None`: the session's `completion_type`.
    pub release: Option<bool>,
}

/// Isolation levels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IsolationLevel {
    /// `READ UNCOMMITTED`.
    ReadUncommitted,
    /// `READ COMMITTED`.
    ReadCommitted,
    /// `REPEATABLE READ`.
    RepeatableRead,
    /// `SERIALIZABLE`.
    Serializable,
}

impl IsolationLevel {
    /// All of them.
    pub const ALL: [IsolationLevel; 4] = [
        IsolationLevel::ReadUncommitted,
        IsolationLevel::ReadCommitted,
        IsolationLevel::RepeatableRead,
        IsolationLevel::Serializable,
    ];

    /// The level of a value of `@@transaction_isolation`.
    pub fn of_variable(text: &str) -> Option<IsolationLevel> {
        IsolationLevel::ALL.into_iter().find(|level| level.as_variable() == text)
    }

    /// Whether every statement sees what is committed by then. READ UNCOMMITTED is taken for READ
    /// COMMITTED.
    pub fn reads_committed(self) -> bool {
        matches!(self, IsolationLevel::ReadUncommitted | IsolationLevel::ReadCommitted)
    }

    /// The value of `@@transaction_isolation`.
    pub fn as_variable(self) -> &'static str {
        match self {
            IsolationLevel::ReadUncommitted => "READ-UNCOMMITTED",
            IsolationLevel::ReadCommitted => "READ-COMMITTED",
            IsolationLevel::RepeatableRead => "REPEATABLE-READ",
            IsolationLevel::Serializable => "SERIALIZABLE",
        }
    }
}

/// `SET [scope] TRANSACTION ..`.
#[derive(Clone, Debug, PartialEq)]
pub struct SetTransaction {
    /// `Unspecified` means the next transaction alone.
    pub scope: VariableScope,
    /// `ISOLATION LEVEL`.
    pub isolation: Option<IsolationLevel>,
    /// `READ ONLY` is true, `READ WRITE` false.
    pub read_only: Option<bool>,
    /// `READ ONLY AS OF TIMESTAMP expr`; only of the next transaction.
    pub as_of: Option<Expr>,
}

/// `XA ..`: steps of a transaction that spans several servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Xa {
    /// `START | BEGIN xid [JOIN | RESUME]`.
    Start {
        /// Which transaction.
        xid: Xid,
        /// What follows.
        option: Option<XaStart>,
    },
    /// `END xid [SUSPEND [FOR MIGRATE]]`.
    End {
        /// Which transaction.
        xid: Xid,
        /// `SUSPEND`.
        suspend: bool,
    },
    /// `PREPARE xid`.
    Prepare(Xid),
    /// `COMMIT xid [ONE PHASE]`.
    Commit {
        /// Which transaction.
        xid: Xid,
        /// `ONE PHASE`.
        one_phase: bool,
    },
    /// `ROLLBACK xid`.
    Rollback(Xid),
    /// `RECOVER [CONVERT XID]`.
    Recover {
        /// Names in hexadecimal.
        convert_xid: bool,
    },
}

/// What may follow `XA START xid`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XaStart {
    /// `JOIN`.
    Join,
    /// `RESUME`.
    Resume,
}

/// The name of a transaction branch.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Xid {
    /// Global transaction, at most 64 bytes.
    pub gtrid: Vec<u8>,
    /// Branch, at most 64 bytes.
    pub bqual: Vec<u8>,
    /// How the others are to be read.
    pub format_id: u32,
}

/// One member of a `SET` list.
#[derive(Clone, Debug, PartialEq)]
pub enum SetItem {
    /// A system variable.
    System {
        /// Which scope.
        scope: VariableScope,
        /// Its name (`a.b` for a named component's), case as written.
        name: String,
        /// The value.
        value: SetValue,
    },
    /// `@name = value`.
    User {
        /// The name without the sign.
        name: String,
        /// The value.
        value: Expr,
    },
    /// `NAMES cs [COLLATE c]`; `None` is `DEFAULT`.
    Names {
        /// The character set, lower case.
        charset: Option<String>,
        /// The collation, lower case.
        collation: Option<String>,
    },
    /// `CHARACTER SET cs`; `None` is `DEFAULT`.
    CharacterSet(Option<String>),
}

/// The right side of an assignment to a system variable.
#[derive(Clone, Debug, PartialEq)]
pub enum SetValue {
    /// `DEFAULT`.
    Default,
    /// An expression. A bare word (`ON`, `utf8mb4`, `READ-COMMITTED` in quotes or not) is a
    /// string literal.
    Expr(Expr),
}

/// `SHOW ..`.
#[derive(Clone, Debug, PartialEq)]
pub struct Show {
    /// What.
    pub what: ShowKind,
    /// `LIKE` or `WHERE`.
    pub filter: Option<ShowFilter>,
}

/// Which rows of a `SHOW`.
#[derive(Clone, Debug, PartialEq)]
pub enum ShowFilter {
    /// `LIKE 'pattern'` on the first column.
    Like(String),
    /// `WHERE expr` on the columns of the result.
    Where(Box<Expr>),
}

/// What `SHOW` shows.
#[derive(Clone, Debug, PartialEq)]
pub enum ShowKind {
    /// `DATABASES`, `SCHEMAS`.
    Databases,
    /// `[FULL] TABLES [FROM db]`.
    Tables {
        /// `FULL`.
        full: bool,
        /// `FROM`.
        database: Option<String>,
    },
    /// `OPEN TABLES [FROM db]`.
    OpenTables {
        /// `FROM`.
        database: Option<String>,
    },
    /// `TABLE STATUS [FROM db]`.
    TableStatus {
        /// `FROM`.
        database: Option<String>,
    },
    /// `[FULL] COLUMNS FROM t [FROM db]`, also `FIELDS`.
    Columns {
        /// `FULL`.
        full: bool,
        /// `EXTENDED`.
        extended: bool,
        /// The table with its database.
        table: ObjectName,
    },
    /// `INDEX FROM t [FROM db]`, also `INDEXES`, `KEYS`.
    Index {
        /// The table with its database.
        table: ObjectName,
    },
    /// `CREATE TABLE t`.
    CreateTable(ObjectName),
    /// `CREATE VIEW v`.
    CreateView(ObjectName),
    /// `CREATE DATABASE [IF NOT EXISTS] d`.
    CreateDatabase {
        /// Which.
        name: String,
        /// `IF NOT EXISTS`.
        if_not_exists: bool,
    },
    /// `CREATE USER u`; `None` is `CURRENT_USER()`.
    CreateUser(Option<UserName>),
    /// `[GLOBAL | SESSION] VARIABLES`.
    Variables(VariableScope),
    /// `[GLOBAL | SESSION] STATUS`.
    Status(VariableScope),
    /// `WARNINGS [LIMIT ..]`.
    Warnings(ShowLimit),
    /// `ERRORS [LIMIT ..]`.
    Errors(ShowLimit),
    /// `COUNT(*) WARNINGS`.
    CountWarnings,
    /// `COUNT(*) ERRORS`.
    CountErrors,
    /// `[FULL] PROCESSLIST`.
    ProcessList {
        /// `FULL`.
        full: bool,
    },
    /// `[STORAGE] ENGINES`.
    Engines,
    /// `CHARACTER SET`, `CHARSET`.
    Charset,
    /// `COLLATION`.
    Collation,
    /// `GRANTS [FOR u]`; `None` is the current user.
    Grants(Option<UserName>),
    /// `PRIVILEGES`.
    Privileges,
    /// `PLUGINS`.
    Plugins,
    /// `TRIGGERS [FROM db]`.
    Triggers {
        /// `FROM`.
        database: Option<String>,
    },
    /// `EVENTS [FROM db]`.
    Events {
        /// `FROM`.
        database: Option<String>,
    },
    /// `PROCEDURE STATUS`.
    ProcedureStatus,
    /// `FUNCTION STATUS`.
    FunctionStatus,
    /// `CREATE PROCEDURE | FUNCTION | TRIGGER | EVENT name`.
    CreateRoutine {
        /// The kind of object, upper case.
        kind: String,
        /// Its name.
        name: ObjectName,
    },
    /// `MASTER STATUS`, `BINARY LOG STATUS`.
    MasterStatus,
    /// `BINARY LOGS`, `MASTER LOGS`.
    BinaryLogs,
    /// `REPLICA STATUS`, `SLAVE STATUS`.
    ReplicaStatus,
    /// `PROFILES`.
    Profiles,
    /// `PROFILE ..`.
    Profile,
    /// `ENGINE name STATUS`.
    EngineStatus(String),
    /// `TABLE t [PARTITION (..)] [INDEX i] REGIONS`.
    Regions {
        /// Which table.
        table: ObjectName,
        /// `PARTITION`.
        partitions: Vec<String>,
        /// `INDEX`.
        index: Option<String>,
    },
    /// `STATS_META`, `STATS_HISTOGRAMS`, `STATS_BUCKETS`, `STATS_HEALTHY`, `STATS_TOPN`,
    /// `ANALYZE STATUS`, `CONFIG`, `BINDINGS`, ...: the upper-case words.
    Other(String),
}

/// `LIMIT [offset,] count` of `SHOW WARNINGS`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShowLimit {
    /// Rows skipped.
    pub offset: u64,
    /// Rows at most.
    pub count: Option<u64>,
}

/// `EXPLAIN`, `DESCRIBE`, `DESC` of a statement.
#[derive(Clone, Debug, PartialEq)]
pub struct Explain {
    /// `ANALYZE`: run it and say what was measured.
    pub analyze: bool,
    /// `FORMAT = x`, lower case.
    pub format: Option<String>,
    /// The statement.
    pub target: ExplainTarget,
}

/// `TRACE`: run a statement and tell how long each step took.
#[derive(Clone, Debug, PartialEq)]
pub struct Trace {
    /// `FORMAT = x`, lower case.
    pub format: Option<String>,
    /// The statement.
    pub statement: Box<Statement>,
}

/// What is explained.
#[derive(Clone, Debug, PartialEq)]
pub enum ExplainTarget {
    /// A statement.
    Statement(Box<Statement>),
    /// `FOR CONNECTION n`.
    Connection(u64),
}

/// `DESCRIBE t [column | 'pattern']`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Describe {
    /// Which table.
    pub table: ObjectName,
    /// A column's name or a pattern.
    pub column: Option<String>,
}

/// `PREPARE name FROM ..`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prepare {
    /// Its name.
    pub name: String,
    /// Where the text is.
    pub source: PrepareSource,
}

/// Where the text of a `PREPARE` is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PrepareSource {
    /// In the statement.
    Text(String),
    /// In a user variable.
    UserVariable(String),
}

/// `EXECUTE name [USING @a, @b]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Execute {
    /// Its name.
    pub name: String,
    /// User variables, without the sign.
    pub using: Vec<String>,
}

/// One table of `LOCK TABLES`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockTable {
    /// Which.
    pub table: ObjectName,
    /// `AS alias`.
    pub alias: Option<String>,
    /// `WRITE` (else `READ [LOCAL]`).
    pub write: bool,
}

/// `FLUSH ..`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flush {
    /// What, upper case: `PRIVILEGES`, `TABLES`, `STATUS`, `LOGS`, ...
    pub what: String,
    /// The tables of `FLUSH TABLES`.
    pub tables: Vec<ObjectName>,
    /// What is locked behind that.
    pub lock: Option<FlushLock>,
}

/// How `FLUSH TABLES` locks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlushLock {
    /// `WITH READ LOCK`.
    ReadLock,
    /// `FOR EXPORT`.
    Export,
}

/// `KILL [TIDB] [QUERY | CONNECTION] n`.
#[derive(Clone, Debug, PartialEq)]
pub struct Kill {
    /// `QUERY`: the statement only, not the connection.
    pub query_only: bool,
    /// Which connection.
    pub connection: Expr,
}

/// `ANALYZE TABLE ..`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnalyzeTable {
    /// Which tables.
    pub tables: Vec<ObjectName>,
    /// `PARTITION p0, p1`.
    pub partitions: Vec<String>,
    /// What of them.
    pub scope: AnalyzeScope,
    /// `WITH n BUCKETS, n TOPN, ..`: upper-case name and number.
    pub options: Vec<(String, String)>,
}

/// What of a table is analysed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AnalyzeScope {
    /// What the settings say.
    Default,
    /// `ALL COLUMNS`.
    AllColumns,
    /// `PREDICATE COLUMNS`.
    PredicateColumns,
    /// `COLUMNS a, b`.
    Columns(Vec<String>),
    /// `INDEX [i, j]`; empty is all.
    Indexes(Vec<String>),
}

/// `DROP STATS t, ..`, `LOCK STATS t, ..`, `UNLOCK STATS t, ..`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatisticsCommand {
    /// What to do.
    pub verb: StatisticsVerb,
    /// With those of which tables.
    pub tables: Vec<ObjectName>,
}

/// What is done with statistics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatisticsVerb {
    /// They are forgotten.
    Drop,
    /// They stay as they are.
    Lock,
    /// They are gathered again.
    Unlock,
}

/// `ADMIN ..`.
#[derive(Clone, Debug, PartialEq)]
pub enum Admin {
    /// `CHECK TABLE t, ..`.
    CheckTable(Vec<ObjectName>),
    /// `CHECK INDEX t i`.
    CheckIndex {
        /// Which table.
        table: ObjectName,
        /// Which index.
        index: String,
    },
    /// `CHECKSUM TABLE t, ..`.
    ChecksumTable(Vec<ObjectName>),
    /// `SHOW DDL`.
    ShowDdl,
    /// `SHOW DDL JOBS [n] [WHERE ..]`.
    ShowDdlJobs {
        /// Rows at most.
        count: Option<u64>,
        /// `WHERE`.
        selection: Option<Box<Expr>>,
    },
    /// `CANCEL | PAUSE | RESUME DDL JOBS n, ..`.
    ChangeDdlJobs {
        /// What to do with them.
        action: DdlJobAction,
        /// Which.
        ids: Vec<u64>,
    },
    /// `RECOVER | CLEANUP INDEX t i`: the upper-case word, table, index.
    RepairIndex {
        /// `RECOVER` or `CLEANUP`.
        action: String,
        /// Which table.
        table: ObjectName,
        /// Which index.
        index: String,
    },
}

/// What `ADMIN` does with running schema changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DdlJobAction {
    /// `CANCEL`.
    Cancel,
    /// `PAUSE`.
    Pause,
    /// `RESUME`.
    Resume,
}

/// `SPLIT TABLE t [PARTITION (..)] [INDEX i] ..`.
#[derive(Clone, Debug, PartialEq)]
pub struct SplitTable {
    /// Which table.
    pub table: ObjectName,
    /// `PARTITION (..)`.
    pub partitions: Vec<String>,
    /// `INDEX i`: the index's regions instead of the rows'.
    pub index: Option<String>,
    /// Where to split.
    pub how: SplitPoints,
}

/// Where regions are split.
#[derive(Clone, Debug, PartialEq)]
pub enum SplitPoints {
    /// `BETWEEN (..) AND (..) REGIONS n`.
    Between {
        /// Lower bound, inclusive.
        lower: Vec<Expr>,
        /// Upper bound, exclusive.
        upper: Vec<Expr>,
        /// How many regions.
        regions: u64,
    },
    /// `BY (..), (..)`.
    By(Vec<Vec<Expr>>),
}

/// `CHECK | OPTIMIZE | REPAIR | CHECKSUM TABLE t, ..`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableMaintenance {
    /// The upper-case verb.
    pub verb: String,
    /// Which tables.
    pub tables: Vec<ObjectName>,
}

/// `'user'@'host'`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UserName {
    /// The user.
    pub user: String,
    /// The host; `%` when absent.
    pub host: String,
}

/// One account of `CREATE USER`, `ALTER USER` or the old `GRANT .. IDENTIFIED BY`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserSpec {
    /// Which account; `None` is `USER()`, in `ALTER USER`.
    pub name: Option<UserName>,
    /// How it proves itself, when written.
    pub auth: Option<UserAuth>,
}

/// `IDENTIFIED ..`.
#[derive(Clone, PartialEq, Eq)]
pub struct UserAuth {
    /// `WITH plugin`.
    pub plugin: Option<String>,
    /// The password or its hash.
    pub secret: AuthSecret,
}

/// What follows `IDENTIFIED [WITH plugin]`.
#[derive(Clone, PartialEq, Eq)]
pub enum AuthSecret {
    /// Nothing.
    None,
    /// `BY 'password'`.
    Password(String),
    /// `BY RANDOM PASSWORD`.
    RandomPassword,
    /// `AS 'hash'`, `BY PASSWORD 'hash'`.
    Hash(String),
}

/// Never prints the secret: trees end up in logs.
impl std::fmt::Debug for UserAuth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UserAuth")
            .field("plugin", &self.plugin)
            .field("secret", &self.secret)
            .finish()
    }
}

/// Never prints the secret: trees end up in logs.
impl std::fmt::Debug for AuthSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            AuthSecret::None => "None",
            AuthSecret::Password(_) => "Password(..)",
            AuthSecret::RandomPassword => "RandomPassword",
            AuthSecret::Hash(_) => "Hash(..)",
        })
    }
}

/// `CREATE USER`, `CREATE ROLE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateUser {
    /// `CREATE ROLE`: an account that cannot log in.
    pub role: bool,
    /// `IF NOT EXISTS`.
    pub if_not_exists: bool,
    /// The accounts.
    pub users: Vec<UserSpec>,
    /// What else was asked.
    pub options: UserOptions,
}

/// `ALTER USER`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AlterUser {
    /// `IF EXISTS`.
    pub if_exists: bool,
    /// The accounts.
    pub users: Vec<UserSpec>,
    /// What else was asked.
    pub options: UserOptions,
}

/// Options of an account.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserOptions {
    /// `REQUIRE ..`, upper case: `NONE`, `SSL`, `X509`, or the list as text.
    pub require: Option<String>,
    /// `ACCOUNT LOCK` is true, `ACCOUNT UNLOCK` false.
    pub account_locked: Option<bool>,
    /// `PASSWORD EXPIRE`.
    pub password_expired: bool,
    /// `COMMENT` or `ATTRIBUTE`.
    pub comment: Option<String>,
    /// `WITH MAX_.. n`, `PASSWORD HISTORY ..` and their like: name and value, of no effect.
    pub other: Vec<(String, String)>,
}

/// `DROP USER`, `DROP ROLE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DropUser {
    /// `DROP ROLE`.
    pub role: bool,
    /// `IF EXISTS`.
    pub if_exists: bool,
    /// The accounts.
    pub users: Vec<UserName>,
}

/// `SET PASSWORD [FOR u] = 'password'`.
#[derive(Clone, PartialEq, Eq)]
pub struct SetPassword {
    /// Which account; the current one when absent.
    pub user: Option<UserName>,
    /// The password.
    pub password: String,
}

/// Never prints the secret.
impl std::fmt::Debug for SetPassword {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SetPassword").field("user", &self.user).finish_non_exhaustive()
    }
}

/// `GRANT` and `REVOKE` of privileges.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// `REVOKE`.
    pub revoke: bool,
    /// The privileges; empty means `ALL [PRIVILEGES]`.
    pub privileges: Vec<Privilege>,
    /// On what.
    pub level: PrivilegeLevel,
    /// To (or from) whom.
    pub users: Vec<UserSpec>,
    /// `WITH GRANT OPTION`; in `REVOKE`, `GRANT OPTION` is a privilege of the list.
    pub with_grant_option: bool,
}

/// One privilege.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Privilege {
    /// Its words, upper case: `SELECT`, `CREATE VIEW`, `BACKUP_ADMIN`.
    pub name: String,
    /// On these columns only.
    pub columns: Vec<String>,
}

/// On what privileges are given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PrivilegeLevel {
    /// `*.*`.
    Global,
    /// `*`: the current database.
    CurrentDatabase,
    /// `db.*`.
    Database(String),
    /// `[db.]t`.
    Table(ObjectName),
}

/// `GRANT role TO user`, `REVOKE role FROM user`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrantRole {
    /// `REVOKE`.
    pub revoke: bool,
    /// The roles.
    pub roles: Vec<UserName>,
    /// To (or from) whom.
    pub users: Vec<UserName>,
}
