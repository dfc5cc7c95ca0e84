//! This crate's error: what a statement does wrong, with MySQL's number for each.

use cairn_expr::ExprError;
use cairn_types::{MysqlError, TypeError, errno};

/// Result of this crate.
pub type Result<T, E = PlanError> = std::result::Result<T, E>;

/// Why a statement has no plan.
#[derive(Clone, Debug, thiserror::Error)]
pub enum PlanError {
    /// A statement MySQL refuses, with MySQL's number and text.
    #[error("{}", .0.message)]
    Mysql(#[from] MysqlError),
    /// An expression that cannot be built.
    #[error(transparent)]
    Expr(#[from] ExprError),
    /// A value that cannot be converted.
    #[error(transparent)]
    Type(#[from] TypeError),
    /// A contract between parts of the planner was broken: a bug, told to the
    /// client as error 1105 instead of a crash.
    #[error("planner: {0}")]
    Internal(String),
}

impl PlanError {
    /// The error as the client sees it.
    pub fn to_mysql(&self) -> MysqlError {
        match self {
            PlanError::Mysql(error) => error.clone(),
            PlanError::Expr(error) => error.to_mysql(),
            PlanError::Type(error) => error.to_mysql(),
            PlanError::Internal(_) => MysqlError::unknown(self.to_string()),
        }
    }

    /// An error with MySQL's own text.
    pub fn mysql(code: u16, args: &[&dyn std::fmt::Display]) -> PlanError {
        PlanError::Mysql(MysqlError::with_args(code, args))
    }

    /// 1235: not there yet.
    pub fn not_supported(what: &str) -> PlanError {
        PlanError::Mysql(MysqlError::not_supported(what))
    }

    /// 1054: `Unknown column 'x' in 'where clause'`.
    pub fn unknown_column(name: &str, clause: &str) -> PlanError {
        PlanError::mysql(errno::ER_BAD_FIELD_ERROR, &[&name, &clause])
    }

    /// A broken contract.
    pub fn internal(what: impl Into<String>) -> PlanError {
        PlanError::Internal(what.into())
    }
}

impl From<PlanError> for MysqlError {
    fn from(error: PlanError) -> MysqlError {
        error.to_mysql()
    }
}
