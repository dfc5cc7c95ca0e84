//! Text of statements: decoding from the client's character set, splitting.

use std::borrow::Cow;

use cairn_parser::ast::ParsedStatement;
use cairn_parser::{ParseError, SqlMode as ParserMode, parse_next, parse_one};
use cairn_types::collation::Charset;
use cairn_types::errno;

use super::{Session, raw_literals};
use crate::clock;
use crate::error::{Result, SqlError};

/// The statements of one `COM_QUERY`, parsed one by one: those before a mistake run.
#[derive(Debug)]
pub struct StatementQueue {
    text: String,
    next: Option<Result<ParsedStatement, ParseError>>,
    /// How long parsing `next` took.
    next_ns: u64,
    /// Where the statement after `next` begins.
    rest_at: usize,
    mode: ParserMode,
}

/// One statement with its text.
#[derive(Debug)]
pub struct QueuedStatement {
    /// The tree.
    pub parsed: ParsedStatement,
    /// Its own text.
    pub text: String,
    /// How long parsing it took.
    pub parse_ns: u64,
}

impl StatementQueue {
    fn advance(&mut self) {
        let start_ns = clock::monotonic_nanos();
        self.next = match parse_next(&self.text, self.rest_at, &self.mode) {
            Ok(None) => None,
            Ok(Some((parsed, rest_at))) => {
                self.rest_at = rest_at;
                Some(Ok(parsed))
            }
            Err(error) => Some(Err(error)),
        };
        self.next_ns = clock::monotonic_nanos().saturating_sub(start_ns);
    }

    /// The next statement; the error of one that does not parse ends the queue.
    pub fn next_statement(&mut self) -> Result<Option<QueuedStatement>> {
        let Some(next) = self.next.take() else { return Ok(None) };
        let parsed = next.map_err(parse_error)?;
        let text = self.text.get(parsed.range.clone()).unwrap_or_default().to_owned();
        let parse_ns = self.next_ns;
        self.advance();
        Ok(Some(QueuedStatement { parsed, text, parse_ns }))
    }

    /// Whether there is text behind the next statement.
    fn has_rest(&self) -> bool {
        self.text.get(self.rest_at..).is_some_and(|rest| !rest.trim().is_empty())
    }

    /// Whether another one (or a mistake) follows.
    pub fn has_more(&self) -> bool {
        self.next.is_some()
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
                Err(_) => {
                    use cairn_expr::SqlMode;
                    let mode = self.settings().sql_mode;
                    let escapes = !mode.has(SqlMode::NO_BACKSLASH_ESCAPES);
                    raw_literals::rewrite(bytes, mode.has(SqlMode::ANSI_QUOTES), escapes)
                        .map(Cow::Owned)
                        .ok_or_else(invalid)
                }
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
        }
    }

    /// Queues the statements of a text; more than one only if `multi`.
    pub fn split(&self, text: &str, multi: bool) -> Result<StatementQueue> {
        let mode = self.parser_mode();
        let mut queue =
            StatementQueue { text: text.to_owned(), next: None, next_ns: 0, rest_at: 0, mode };
        queue.advance();
        match &queue.next {
            None => Err(SqlError::new(errno::ER_EMPTY_QUERY, "Query was empty")),
            Some(Ok(_)) if !multi && queue.has_rest() => {
                // Says where the second statement begins, if there is one.
                parse_one(text, &queue.mode).map_err(parse_error)?;
                Ok(queue)
            }
            Some(_) => Ok(queue),
        }
    }
}

/// The MySQL form of a parser's error.
pub fn parse_error(error: ParseError) -> SqlError {
    SqlError::new(error.errno(), error.to_string())
}
