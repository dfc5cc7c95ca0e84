//! The crate's error, and what of it a MySQL client sees.
//!
//! Errors of a row source keep their own type ([`ExecError::Source`]), because
//! the tier that implements the source wants it back: the store answers a
//! `Locked` or a region error, the SQL node retries or reports. Everything else
//! is final for the statement.

use std::error::Error;
use std::io::ErrorKind;
use std::sync::Arc;

use cairn_expr::ExprError;
use cairn_types::errno::{
    ER_DISK_FULL, ER_ERROR_ON_READ, ER_ERROR_ON_WRITE, ER_MEM_QUOTA_EXCEEDED, ER_QUERY_INTERRUPTED,
    ER_SUBQUERY_NO_1_ROW,
};
use cairn_types::{MysqlError, TypeError};

/// Result of this crate.
pub type Result<T, E = ExecError> = std::result::Result<T, E>;

/// What ends the execution of a plan.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// A value could not be converted or decoded.
    #[error(transparent)]
    Type(#[from] TypeError),
    /// An expression failed.
    #[error(transparent)]
    Expr(#[from] ExprError),
    /// The row source failed.
    #[error("{error}")]
    Source {
        /// The source's own error, see [`ExecError::source_as`].
        error: Arc<dyn Error + Send + Sync>,
        /// The same as a client would see it.
        mysql: MysqlError,
    },
    /// An error already in MySQL's terms.
    #[error(transparent)]
    Mysql(#[from] MysqlError),
    /// The statement was killed, timed out, or its client went away.
    #[error("query execution was interrupted")]
    Cancelled,
    /// An operator asked for more memory than the statement, session or node may
    /// use.
    #[error(
        "Out Of Memory Quota! {operator} asked for {requested} bytes, but {scope} already uses \
         {used} of its {limit} bytes ({variable})"
    )]
    MemoryExceeded {
        /// The operator that asked.
        operator: String,
        /// The tracker whose limit was hit: statement, session or node.
        scope: String,
        /// Bytes asked for.
        requested: u64,
        /// Bytes in use before.
        used: u64,
        /// The limit.
        limit: u64,
        /// The variable that sets it.
        variable: &'static str,
    },
    /// The node ran out of memory, and this statement used most.
    #[error(
        "Out Of Memory Quota! {scope} was cancelled: the SQL node is out of memory (tidb_server_memory_limit: \
         {limit} bytes) and this statement used most. Please narrow it or try again"
    )]
    ServerMemoryExceeded {
        /// The statement's tracker.
        scope: String,
        /// The node's limit.
        limit: u64,
    },
    /// Temporary files may not grow any more.
    #[error(
        "Out Of Quota For Local Temporary Space! {operator} asked for {requested} bytes on disk, but \
         {scope} already uses {used} of its {limit} bytes (tmp-storage-quota)"
    )]
    TempSpaceExceeded {
        /// The operator that asked.
        operator: String,
        /// The tracker whose limit was hit.
        scope: String,
        /// Bytes asked for.
        requested: u64,
        /// Bytes in use before.
        used: u64,
        /// The limit.
        limit: u64,
    },
    /// A temporary file could not be made, written or read.
    #[error("{operator} could not {action} a temporary file: {error}")]
    TempFile {
        /// The operator that spills.
        operator: &'static str,
        /// What failed: `create`, `write` or `read`.
        action: TempFileAction,
        /// The system's error.
        error: Arc<std::io::Error>,
    },
    /// Collected rows hold more text in one column than a chunk can.
    #[error("an operator cannot collect more than 4 GiB of text in one column")]
    TooMuchText,
    /// A scalar subquery gave more than one row.
    #[error("Subquery returns more than 1 row")]
    SubqueryRows,
    /// A plan (most likely from the wire) that cannot be run.
    #[error("invalid plan: {0}")]
    InvalidPlan(String),
    /// Stored bytes that contradict the schema.
    #[error("corrupted data: {0}")]
    Corrupted(&'static str),
    /// A worker task ended without a result (it panicked).
    #[error("an execution worker of {0} failed")]
    WorkerLost(&'static str),
}

/// What is done with a temporary file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TempFileAction {
    /// Make it.
    Create,
    /// Write to it.
    Write,
    /// Read what was written.
    Read,
}

impl std::fmt::Display for TempFileAction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            TempFileAction::Create => "create",
            TempFileAction::Write => "write",
            TempFileAction::Read => "read",
        })
    }
}

impl ExecError {
    /// Wraps an error of a row source.
    pub fn source(error: impl Error + Send + Sync + 'static, mysql: MysqlError) -> ExecError {
        ExecError::Source { error: Arc::new(error), mysql }
    }

    /// The source's own error, if it is one of type `T`.
    pub fn source_as<T: Error + 'static>(&self) -> Option<&T> {
        match self {
            ExecError::Source { error, .. } => error.downcast_ref::<T>(),
            _ => None,
        }
    }

    /// A plan error with a text.
    pub fn invalid_plan(reason: impl Into<String>) -> ExecError {
        ExecError::InvalidPlan(reason.into())
    }

    /// The error as a client sees it.
    pub fn to_mysql(&self) -> MysqlError {
        match self {
            ExecError::Type(error) => error.to_mysql(),
            ExecError::Expr(error) => error.to_mysql(),
            ExecError::Source { mysql, .. } => mysql.clone(),
            ExecError::Mysql(error) => error.clone(),
            ExecError::Cancelled => MysqlError::with_args(ER_QUERY_INTERRUPTED, &[]),
            ExecError::MemoryExceeded { .. } | ExecError::ServerMemoryExceeded { .. } => {
                MysqlError::new(ER_MEM_QUOTA_EXCEEDED, self.to_string())
            }
            ExecError::TempSpaceExceeded { .. } => MysqlError::new(ER_DISK_FULL, self.to_string()),
            ExecError::TempFile { action, error, .. } => {
                let full =
                    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded);
                let code = match action {
                    _ if full => ER_DISK_FULL,
                    TempFileAction::Read => ER_ERROR_ON_READ,
                    TempFileAction::Create | TempFileAction::Write => ER_ERROR_ON_WRITE,
                };
                MysqlError::new(code, self.to_string())
            }
            ExecError::SubqueryRows => MysqlError::new(ER_SUBQUERY_NO_1_ROW, self.to_string()),
            ExecError::InvalidPlan(_)
            | ExecError::Corrupted(_)
            | ExecError::TooMuchText
            | ExecError::WorkerLost(_) => MysqlError::unknown(self.to_string()),
        }
    }
}

impl From<ExecError> for MysqlError {
    fn from(error: ExecError) -> MysqlError {
        error.to_mysql()
    }
}
