//! The entry points: from text to trees.

use sqlparser::parser::Parser;

use crate::ast::{Expr, ParsedStatement};
use crate::error::ParseError;
use crate::grammar::{Context, Grammar, MAX_NESTING, Parse};
use crate::lex::{Kind, Lexer, SqlMode};
use crate::token::tokenize;

/// Parses all statements of a text.
///
/// A client that allows several statements runs them one by one, so that an error in the second
/// does not hinder the first: [`parse_next`] serves that.
pub fn parse_statements(sql: &str, mode: &SqlMode) -> Result<Vec<ParsedStatement>, ParseError> {
    let mut statements = Vec::new();
    let mut start = 0;
    while let Some((parsed, next)) = parse_next(sql, start, mode)? {
        statements.push(parsed);
        start = next;
    }
    if statements.is_empty() { Err(ParseError::Empty) } else { Ok(statements) }
}

/// Parses the statement that begins at or after a byte, and tells where the one after it may
/// begin. `None` when only blanks, comments and `;` are left.
pub fn parse_next(
    sql: &str,
    start: usize,
    mode: &SqlMode,
) -> Result<Option<(ParsedStatement, usize)>, ParseError> {
    let Some((range, next)) = next_range(sql, start, *mode) else { return Ok(None) };
    let text = &sql[range.clone()];
    let rule = |g: &mut Grammar<'_, '_>| Ok((g.statement()?, g.cx.take_as_of()));
    let ((statement, as_of), parameter_count) =
        run(text, *mode, rule).map_err(|error| shift(error, range.start))?;
    Ok(Some((ParsedStatement { statement, range, parameter_count, as_of }, next)))
}

/// Parses a text that is one statement, with or without a `;` after it.
pub fn parse_one(sql: &str, mode: &SqlMode) -> Result<ParsedStatement, ParseError> {
    let Some((parsed, next)) = parse_next(sql, 0, mode)? else { return Err(ParseError::Empty) };
    match next_range(sql, next, *mode) {
        None => Ok(parsed),
        Some((range, _)) => {
            Err(ParseError::syntax(sql, 0, range.start, "the end of the statement".into()))
        }
    }
}

/// Parses a text that is one expression: stored defaults, generated columns, checks.
pub fn parse_expr(sql: &str, mode: &SqlMode) -> Result<Expr, ParseError> {
    run(sql, *mode, |g| g.expr()).map(|(expr, _)| expr)
}

/// The bytes of the first statement at or after a byte, and the byte after its `;`.
fn next_range(sql: &str, start: usize, mode: SqlMode) -> Option<(std::ops::Range<usize>, usize)> {
    let blanks = sql.bytes().skip(start).take_while(u8::is_ascii_whitespace).count();
    let mut start = start + blanks;
    let mut lexer = Lexer::starting_at(sql, start, mode);
    let mut range: Option<std::ops::Range<usize>> = None;
    loop {
        let Some(token) = lexer.next_token() else {
            let range = range?;
            return Some((range, sql.len()));
        };
        match token.kind {
            Kind::Semicolon => {
                if let Some(range) = range {
                    return Some((range, token.end));
                }
                start = token.end;
                start += sql.bytes().skip(start).take_while(u8::is_ascii_whitespace).count();
            }
            _ => {
                // Comments belong to the statement, wherever they stand before its end. A
                // versioned comment must keep its head and tail.
                let begin = range.map_or(start, |range| range.start);
                range = Some(begin..lexer.position());
            }
        }
    }
}

/// Runs a rule over a whole text.
fn run<T>(
    text: &str,
    mode: SqlMode,
    rule: impl FnOnce(&mut Grammar<'_, '_>) -> Parse<T>,
) -> Result<(T, u32), ParseError> {
    let mut tokens = tokenize(text, mode)?;
    let parameter_count = tokens.parameter_count;
    let cx = Context::new(text, mode, &mut tokens);
    let mut parser = Parser::new(&cx)
        .with_recursion_limit(MAX_NESTING)
        .with_tokens_with_locations(tokens.tokens);
    let mut grammar = Grammar { parser: &mut parser, cx: &cx };
    let outcome = rule(&mut grammar).and_then(|value| {
        if grammar.at_end() { Ok(value) } else { grammar.fail("the end of the statement") }
    });
    match outcome {
        Ok(value) => Ok((value, parameter_count)),
        Err(error) => Err(cx.report(&error, &parser)),
    }
}

/// Moves the place of an error found in a part of a text.
fn shift(error: ParseError, by: usize) -> ParseError {
    match error {
        ParseError::Syntax { near, line, offset, expected } => {
            ParseError::Syntax { near, line, offset: offset + by, expected }
        }
        other => other,
    }
}
