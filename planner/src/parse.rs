//! Stored expression texts (generated columns, CHECK constraints, defaults) back to
//! syntax.

use cairn_expr::SqlMode;
use cairn_parser::ast;
use cairn_types::{MysqlError, errno};

use crate::error::{PlanError, Result};

/// The parser's view of a session's `sql_mode`.
pub fn parser_mode(mode: SqlMode) -> cairn_parser::SqlMode {
    cairn_parser::SqlMode {
        ansi_quotes: mode.has(SqlMode::ANSI_QUOTES),
        pipes_as_concat: mode.has(SqlMode::PIPES_AS_CONCAT),
        no_backslash_escapes: mode.has(SqlMode::NO_BACKSLASH_ESCAPES),
        high_not_precedence: mode.has(SqlMode::HIGH_NOT_PRECEDENCE),
        ignore_space: mode.has(SqlMode::IGNORE_SPACE),
    }
}

/// Parses one expression.
pub(crate) fn expression(text: &str, mode: SqlMode) -> Result<ast::Expr> {
    cairn_parser::parse_expr(text, &parser_mode(mode)).map_err(|error| {
        PlanError::Mysql(MysqlError::new(errno::ER_PARSE_ERROR, error.to_string()))
    })
}
