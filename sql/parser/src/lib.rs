//! MySQL syntax: the dialect, our own statement layer and Cairn's syntax tree.
//!
//! **Flow.** `lex` cuts the text into tokens; `token` hands them to sqlparser's `Parser`, whose
//! cursor, precedence climbing and stack guard carry the grammar; `dialect` answers the engine's
//! questions with MySQL's precedences and `expr`/`function` build our nodes; `query`,
//! `table_ref`, `dml`, `ddl` and `admin` are the rules of clauses and statements. The result is
//! the tree of [`ast`]. [`digest`] recognises repeated statements without parsing them.
//!
//! **Invariants.**
//! - No text makes the parser panic or overflow the stack: parentheses, nesting, tree height,
//!   tokens, joins and set operations have named bounds, and the errors tell them.
//! - A syntax error names the first place that fits no rule, in MySQL's words.
//! - The parsing library's types stay inside this crate.
//!
//! **Left out.** Stored programs, `LOAD DATA`, `HANDLER`, replication and TiDB's backup,
//! binding and placement statements: they are recognised and answered "not yet supported".
//!
//! **Sources.** MySQL 8.0 Reference Manual, chapters 9 and 15, and `sql_yacc.yy`; TiDB's manual
//! for its statements.

pub mod ast;
pub mod digest;

mod admin;
mod ddl;
mod dialect;
mod display;
mod dml;
mod error;
mod expr;
mod function;
mod grammar;
mod lex;
pub mod normalize;
mod parse;
mod query;
mod statement;
mod table_ref;
mod token;
mod words;

#[cfg(test)]
mod tests;

pub use display::{quote_identifier, quote_string};
pub use error::{NEAR_CHARS, ParseError};
pub use grammar::{MAX_NESTING, MAX_QUERY_LEVELS, MAX_TREE_HEIGHT};
pub use lex::{SERVER_VERSION, SqlMode};
pub use parse::{parse_expr, parse_next, parse_one, parse_statements};
pub use token::{MAX_PARENTHESES, MAX_TOKENS};
