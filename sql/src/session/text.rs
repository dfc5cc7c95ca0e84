//! Text of statements: decoding from the client's character set, splitting.

use std::borrow::Cow;

use cairn_parser::ast::ParsedStatement;
use cairn_parser::{SqlMode as ParserMode, parse_statements};
use cairn_types::collation::Charset;
use cairn_types::errno;

use super::Session;
use crate::error::{Result, SqlError};

/// The statements of one `COM_QUERY`, in order.
#[derive(Debug)]
pub struct StatementQueue {
    text: String,
    statements: std::vec::IntoIter<ParsedStatement>,
}

/// One statement with its text.
#[derive(Debug)]
pub struct QueuedStatement {
    /// The tree.
    pub parsed: ParsedStatement,
    /// Its own text.
    pub text: String,
}

impl StatementQueue {
    /// The next statement.
    pub fn next_statement(&mut self) -> Option<QueuedStatement> {
        let parsed = self.statements.next()?;
        let text = self.text.get(parsed.range.clone()).unwrap_or_default().to_owned();
        Some(QueuedStatement { parsed, text })
    }

    /// Whether another one follows.
    pub fn has_more(&self) -> bool {
        self.statements.len() > 0
    }
}

impl Session {
    /// Decodes what a client sent; error 1300 for bytes that are no text.
    pub fn decode_text<'a>(&self, bytes: &'a [u8]) -> Result<Cow<'a, str>> {
        let invalid = || {
            SqlError::new(
                errno::ER_INVALID_CHARACTER_STRING,
                format!("Invalid {} character string", self.settings().charset_client.name()),
            )
        };
        match self.settings().charset_client {
            Charset::Latin1 => Ok(encoding_rs::WINDOWS_1252.decode_without_bom_handling(bytes).0),
            Charset::Gbk => {
                let text =
                    encoding_rs::GBK.decode_without_bom_handling_and_without_replacement(bytes);
                text.ok_or_else(invalid)
            }
            _ => match std::str::from_utf8(bytes) {
                Ok(text) => Ok(Cow::Borrowed(text)),
                // Old clients put binary values into strings; MySQL takes them with a
                // warning, Cairn refuses what it could not store faithfully.
                Err(_) => Err(invalid()),
            },
        }
    }

    /// How this session's text is read.
    pub fn parser_mode(&self) -> ParserMode {
        use cairn_expr::SqlMode;
        let mode = self.settings().sql_mode;
        ParserMode {
            ansi_quotes: mode.has(SqlMode::ANSI_QUOTES),
            pipes_as_concat: mode.has(SqlMode::PIPES_AS_CONCAT),
            no_backslash_escapes: mode.has(SqlMode::NO_BACKSLASH_ESCAPES),
            high_not_precedence: mode.has(SqlMode::HIGH_NOT_PRECEDENCE),
            ignore_space: mode.has(SqlMode::IGNORE_SPACE),
            ..ParserMode::default()
        }
    }

    /// Parses a text into its statements; more than one only if `multi`.
    pub fn split(&self, text: &str, multi: bool) -> Result<StatementQueue> {
        let statements = parse_statements(text, &self.parser_mode()).map_err(parse_error)?;
        if statements.is_empty() {
            return Err(SqlError::new(errno::ER_EMPTY_QUERY, "Query was empty"));
        }
        if statements.len() > 1 && !multi {
            let second = &text[statements[1].range.start..];
            let near: String = second.chars().take(80).collect();
            return Err(SqlError::new(
                errno::ER_PARSE_ERROR,
                format!(
                    "You have an error in your SQL syntax; check the manual that corresponds to \
                     your MySQL server version for the right syntax to use near '{near}' at line 1"
                ),
            ));
        }
        Ok(StatementQueue { text: text.to_owned(), statements: statements.into_iter() })
    }
}

/// The MySQL form of a parser's error.
pub fn parse_error(error: cairn_parser::ParseError) -> SqlError {
    SqlError::new(error.errno(), error.to_string())
}
