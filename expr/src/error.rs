//! This crate's error: what goes wrong when expressions are built, evaluated or
//! decoded, with MySQL's number for each.

use cairn_types::{MysqlError, TypeError, errno};

/// Result of building, evaluating and decoding expressions.
pub type Result<T, E = ExprError> = std::result::Result<T, E>;

/// What goes wrong with expressions.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExprError {
    /// A value cannot be converted or computed.
    #[error(transparent)]
    Type(#[from] TypeError),
    /// A call MySQL refuses, with MySQL's number and text.
    #[error("{}", .0.message)]
    Mysql(MysqlError),
    /// Bytes of another tier that are no expression this tier knows.
    #[error("cannot decode expression: {0}")]
    Wire(String),
    /// An internal contract was broken by the caller (a column that the chunk
    /// does not have, an argument of another physical kind).
    #[error("internal error in expression: {0}")]
    Internal(String),
}

impl ExprError {
    /// The error as the client sees it.
    pub fn to_mysql(&self) -> MysqlError {
        match self {
            ExprError::Type(error) => error.to_mysql(),
            ExprError::Mysql(error) => error.clone(),
            ExprError::Wire(_) | ExprError::Internal(_) => MysqlError::unknown(self.to_string()),
        }
    }

    /// MySQL's error number.
    pub fn mysql_code(&self) -> u16 {
        self.to_mysql().code
    }

    /// An error with MySQL's own text.
    pub fn mysql(code: u16, args: &[&dyn std::fmt::Display]) -> ExprError {
        ExprError::Mysql(MysqlError::with_args(code, args))
    }

    /// 1582: wrong number of arguments.
    pub fn argument_count(name: &str) -> ExprError {
        ExprError::mysql(errno::ER_WRONG_PARAMCOUNT_TO_NATIVE_FCT, &[&name])
    }

    /// 1210: arguments that make no sense to a function.
    pub fn wrong_arguments(name: &str) -> ExprError {
        ExprError::mysql(errno::ER_WRONG_ARGUMENTS, &[&name])
    }

    /// 1690: the value of `expr` does not fit `type_name`.
    pub fn out_of_range(type_name: &str, expr: &str) -> ExprError {
        ExprError::mysql(errno::ER_DATA_OUT_OF_RANGE, &[&type_name, &expr])
    }

    /// 1305: no such function in the current database.
    pub fn unknown_function(database: &str, name: &str) -> ExprError {
        let full = if database.is_empty() { name.to_owned() } else { format!("{database}.{name}") };
        ExprError::mysql(errno::ER_SP_DOES_NOT_EXIST, &[&"FUNCTION", &full])
    }
}

impl From<MysqlError> for ExprError {
    fn from(error: MysqlError) -> ExprError {
        ExprError::Mysql(error)
    }
}
