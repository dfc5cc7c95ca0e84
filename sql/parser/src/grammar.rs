//! The ground under all grammar rules: the cursor over tokens, the failure that is reported, and
//! the shelf that carries our nodes through the parsing library.
//!
//! **Flow.** sqlparser's `Parser` owns the tokens and drives the expression loop (precedence,
//! recursion guard, growing of the stack). It asks our dialect ([`Context`] is the dialect, see
//! `dialect.rs`) for every prefix and infix. The hooks build nodes of our own tree and lay them
//! on the shelf; the library carries a ticket, an identifier no text can produce. So the
//! library's closed tree never has to hold what it has no node for, nothing is converted twice,
//! and a chain of 10,000 terms never becomes a chain of 10,000 boxes.
//!
//! **Invariants.** A ticket is taken at most once (the library may clone it, never use it
//! twice). Rules look before they consume, so that the cursor stands at the offending token
//! when they fail.

use std::cell::{Cell, RefCell};

use sqlparser::ast::{Expr as LibExpr, Ident};
use sqlparser::parser::{Parser, ParserError};
use sqlparser::tokenizer::{Location, Span, Token, Word};

use crate::ast::{Expr, ObjectName};
use crate::error::ParseError;
use crate::lex::SqlMode;
use crate::token::{QUOTED, Tokens};
use crate::words::is_reserved;

/// Levels of recursion at most: parentheses, functions, subqueries, `NOT`, `CASE`.
pub const MAX_NESTING: usize = 250;

/// Levels of an expression tree at most: nesting plus chains such as `1 + 1 + ...`.
pub const MAX_TREE_HEIGHT: u32 = 500;

/// Queries and parenthesised tables in one another at most: MySQL's own bound (error 1473). The
/// rules between two such levels take more stack than any other.
pub const MAX_QUERY_LEVELS: usize = 63;

/// What rules return. The error is the library's, as it passes through its frames; what is
/// reported is kept in the context.
pub(crate) type Parse<T> = Result<T, ParserError>;

/// The `quote_style` of a ticket.
const TICKET: char = '\0';

/// Everything about the statement being parsed that is not the cursor.
#[derive(Debug)]
pub(crate) struct Context {
    /// Flags that change the grammar.
    pub mode: SqlMode,
    /// The statement's text.
    pub text: String,
    /// See [`Tokens::closing`].
    pub closing: Vec<u32>,
    /// See [`Tokens::hints`].
    pub hints: Vec<(usize, String)>,
    /// Nodes on their way through the library, with their heights.
    shelf: RefCell<Vec<Option<(Expr, u32)>>>,
    /// The greatest height among the children of the node being built.
    pub height: Cell<u32>,
    /// How many queries and parenthesised tables the rule being run is in.
    query_levels: Cell<usize>,
    /// The furthest failure: token index and what was expected.
    failure: RefCell<Option<(usize, String)>>,
    /// A failure that is no syntax error.
    fatal: RefCell<Option<ParseError>>,
    /// See [`crate::ast::ParsedStatement::as_of`].
    as_of: RefCell<Vec<Expr>>,
}

impl Context {
    pub(crate) fn new(text: &str, mode: SqlMode, tokens: &mut Tokens) -> Context {
        Context {
            mode,
            text: text.to_owned(),
            closing: std::mem::take(&mut tokens.closing),
            hints: std::mem::take(&mut tokens.hints),
            shelf: RefCell::new(Vec::new()),
            height: Cell::new(0),
            query_levels: Cell::new(0),
            failure: RefCell::new(None),
            fatal: RefCell::new(None),
            as_of: RefCell::default(),
        }
    }

    /// Notes a time that a table is read at.
    pub(crate) fn note_as_of(&self, time: &Expr) {
        let mut noted = self.as_of.borrow_mut();
        if !noted.contains(time) {
            noted.push(time.clone());
        }
    }

    /// The times that were noted.
    pub(crate) fn take_as_of(&self) -> Vec<Expr> {
        self.as_of.take()
    }

    /// Lays a node on the shelf and returns its ticket.
    pub(crate) fn shelve(&self, expr: Expr, height: u32) -> Parse<LibExpr> {
        if height > MAX_TREE_HEIGHT {
            // Dropped while it is still low enough to be dropped by plain recursion.
            return Err(self.fatal(ParseError::TooDeep { limit: MAX_TREE_HEIGHT as usize }));
        }
        let mut shelf = self.shelf.borrow_mut();
        let number = shelf.len() as u64;
        shelf.push(Some((expr, height)));
        let place = Location { line: 0, column: number };
        Ok(LibExpr::Identifier(Ident {
            value: String::new(),
            quote_style: Some(TICKET),
            span: Span { start: place, end: place },
        }))
    }

    /// Takes the node of a ticket from the shelf.
    pub(crate) fn unshelve(&self, ticket: &LibExpr) -> Parse<(Expr, u32)> {
        if let LibExpr::Identifier(ident) = ticket
            && ident.quote_style == Some(TICKET)
        {
            let mut shelf = self.shelf.borrow_mut();
            let number = ident.span.start.column as usize;
            let node = shelf.get_mut(number).and_then(Option::take);
            while shelf.last().is_some_and(Option::is_none) {
                shelf.pop();
            }
            if let Some(node) = node {
                return Ok(node);
            }
        }
        Err(ParserError::ParserError("an expression of another dialect".into()))
    }

    /// Records a failure that is no syntax error.
    pub(crate) fn fatal(&self, error: ParseError) -> ParserError {
        self.fatal.borrow_mut().get_or_insert(error);
        ParserError::RecursionLimitExceeded
    }

    /// What to report after a rule failed.
    pub(crate) fn report(&self, error: &ParserError, parser: &Parser<'_>) -> ParseError {
        if let Some(fatal) = self.fatal.borrow_mut().take() {
            return fatal;
        }
        if matches!(error, ParserError::RecursionLimitExceeded) {
            return ParseError::TooDeep { limit: MAX_NESTING };
        }
        let failure = self.failure.borrow_mut().take();
        let (index, expected) = failure.unwrap_or_else(|| (parser.index(), error.to_string()));
        let place = parser.token_at(index);
        let offset = match place.token {
            Token::EOF => self.text.len(),
            _ => place.span.start.column as usize,
        };
        ParseError::syntax(&self.text, 0, offset, expected)
    }
}

/// The rules of the grammar, over the library's cursor.
pub(crate) struct Grammar<'p, 'a> {
    pub parser: &'p mut Parser<'a>,
    pub cx: &'p Context,
}

impl Grammar<'_, '_> {
    /// The index of the next token.
    pub(crate) fn at(&self) -> usize {
        self.parser.index()
    }

    /// The next token.
    pub(crate) fn peek(&self) -> &Token {
        &self.parser.token_at(self.parser.index()).token
    }

    /// The token after `n` others.
    pub(crate) fn peek_nth(&self, n: usize) -> &Token {
        &self.parser.token_at(self.parser.index() + n).token
    }

    /// Moves past the next token.
    pub(crate) fn advance(&mut self) {
        self.parser.advance_token();
    }

    /// True when the next token is this word.
    pub(crate) fn is(&self, word: &str) -> bool {
        is_word(self.peek(), word)
    }

    /// True when the token after `n` others is this word.
    pub(crate) fn nth_is(&self, n: usize, word: &str) -> bool {
        is_word(self.peek_nth(n), word)
    }

    /// True when the next tokens are these words, separated by blanks.
    pub(crate) fn are(&self, words: &str) -> bool {
        words.split(' ').enumerate().all(|(n, word)| self.nth_is(n, word))
    }

    /// Moves past a word if it is next.
    pub(crate) fn eat(&mut self, word: &str) -> bool {
        let found = self.is(word);
        if found {
            self.advance();
        }
        found
    }

    /// Moves past words if all of them are next.
    pub(crate) fn eat_all(&mut self, words: &str) -> bool {
        let found = self.are(words);
        if found {
            for _ in words.split(' ') {
                self.advance();
            }
        }
        found
    }

    /// Moves past the first of these words that is next, and tells which.
    pub(crate) fn eat_one<'w>(&mut self, words: &[&'w str]) -> Option<&'w str> {
        let found = words.iter().copied().find(|word| self.is(word));
        if found.is_some() {
            self.advance();
        }
        found
    }

    /// Moves past words or fails.
    pub(crate) fn expect(&mut self, words: &str) -> Parse<()> {
        for word in words.split(' ') {
            if !self.eat(word) {
                return self.fail(word);
            }
        }
        Ok(())
    }

    /// Moves past a sign if it is next.
    pub(crate) fn eat_sign(&mut self, sign: &Token) -> bool {
        let found = self.peek() == sign;
        if found {
            self.advance();
        }
        found
    }

    /// Moves past a sign or fails.
    pub(crate) fn expect_sign(&mut self, sign: &Token) -> Parse<()> {
        if self.eat_sign(sign) { Ok(()) } else { self.fail(&sign.to_string()) }
    }

    /// Moves past `=` or `:=` if one is next.
    pub(crate) fn eat_equals(&mut self) -> bool {
        self.eat_sign(&Token::Eq) || self.eat_sign(&Token::Assignment)
    }

    /// True at the end of the statement.
    pub(crate) fn at_end(&self) -> bool {
        *self.peek() == Token::EOF
    }

    /// Fails at the next token.
    pub(crate) fn fail<T>(&self, expected: &str) -> Parse<T> {
        self.fail_at(self.at(), expected)
    }

    /// Fails at a token.
    pub(crate) fn fail_at<T>(&self, index: usize, expected: &str) -> Parse<T> {
        let mut failure = self.cx.failure.borrow_mut();
        if failure.as_ref().is_none_or(|(furthest, _)| index > *furthest) {
            *failure = Some((index, expected.to_owned()));
        }
        Err(ParserError::ParserError(String::new()))
    }

    /// Fails because Cairn does not do this yet.
    pub(crate) fn unsupported<T>(&self, what: impl Into<String>) -> Parse<T> {
        Err(self.cx.fatal(ParseError::Unsupported { what: what.into() }))
    }

    /// Fails because a bound is exceeded.
    pub(crate) fn too_long<T>(&self, limit: usize, unit: &'static str) -> Parse<T> {
        Err(self.cx.fatal(ParseError::TooLong { limit, unit }))
    }

    /// The text from one token to before another.
    pub(crate) fn text(&self, from: usize, to: usize) -> &str {
        if to <= from {
            return "";
        }
        let start = self.parser.token_at(from).span.start.column as usize;
        let end = self.parser.token_at(to - 1).span.end.column as usize;
        self.cx.text.get(start..end).unwrap_or("")
    }

    /// The texts of the hints that stand before the next token.
    pub(crate) fn hints(&self) -> Vec<String> {
        let at = self.at();
        let hints = self.cx.hints.iter();
        hints.filter(|(index, _)| *index == at).map(|(_, text)| text.clone()).collect()
    }

    /// An identifier.
    pub(crate) fn ident(&mut self) -> Parse<String> {
        match self.peek() {
            Token::Word(word) if is_name(word) => {
                let value = word.value.clone();
                self.advance();
                Ok(value)
            }
            _ => self.fail("an identifier"),
        }
    }

    /// An identifier after a dot, where every word is one.
    pub(crate) fn ident_after_dot(&mut self) -> Parse<String> {
        match self.peek() {
            Token::Word(word) if matches!(word.quote_style, None | Some(QUOTED)) => {
                let value = word.value.clone();
                self.advance();
                Ok(value)
            }
            _ => self.fail("an identifier"),
        }
    }

    /// True when the next token can be an identifier.
    pub(crate) fn is_ident(&self) -> bool {
        matches!(self.peek(), Token::Word(word) if is_name(word))
    }

    /// `[schema.]name`.
    pub(crate) fn object_name(&mut self) -> Parse<ObjectName> {
        // `.t` is the table of the current database, for ODBC's sake.
        if self.eat_sign(&Token::Period) {
            return Ok(ObjectName { schema: None, name: self.ident_after_dot()? });
        }
        let first = self.ident()?;
        if self.eat_sign(&Token::Period) {
            return Ok(ObjectName { schema: Some(first), name: self.ident_after_dot()? });
        }
        Ok(ObjectName { schema: None, name: first })
    }

    /// An identifier or a string: names of character sets, engines, aliases.
    pub(crate) fn ident_or_string(&mut self) -> Parse<String> {
        match self.peek() {
            Token::SingleQuotedString(_) => self.string(),
            // `binary` and `default` name character sets though they are reserved.
            Token::Word(word) if matches!(word.quote_style, None | Some(QUOTED)) => {
                let value = word.value.clone();
                self.advance();
                Ok(value)
            }
            _ => self.fail("a name"),
        }
    }

    /// A string.
    pub(crate) fn string(&mut self) -> Parse<String> {
        match self.peek() {
            Token::SingleQuotedString(value) => {
                let value = value.clone();
                self.advance();
                Ok(value)
            }
            _ => self.fail("a string"),
        }
    }

    /// An unsigned integer.
    pub(crate) fn integer(&mut self) -> Parse<u64> {
        if let Token::Number(text, _) = self.peek()
            && let Ok(value) = text.parse::<u64>()
        {
            self.advance();
            return Ok(value);
        }
        self.fail("an unsigned integer")
    }

    /// An unsigned integer of 32 bits.
    pub(crate) fn small_integer(&mut self) -> Parse<u32> {
        match self.peek() {
            Token::Number(text, _) if text.parse::<u32>().is_ok() => {
                Ok(u32::try_from(self.integer()?).unwrap_or(u32::MAX))
            }
            _ => self.fail("a small unsigned integer"),
        }
    }

    /// One or more, separated by commas.
    pub(crate) fn comma_list<T>(
        &mut self,
        mut item: impl FnMut(&mut Self) -> Parse<T>,
    ) -> Parse<Vec<T>> {
        let mut items = vec![item(self)?];
        while self.eat_sign(&Token::Comma) {
            items.push(item(self)?);
        }
        Ok(items)
    }

    /// Something in parentheses.
    pub(crate) fn parenthesised<T>(
        &mut self,
        inner: impl FnOnce(&mut Self) -> Parse<T>,
    ) -> Parse<T> {
        self.expect_sign(&Token::LParen)?;
        let value = inner(self)?;
        self.expect_sign(&Token::RParen)?;
        Ok(value)
    }

    /// Runs a rule one level of queries deeper.
    pub(crate) fn deeper<T>(&mut self, rule: impl FnOnce(&mut Self) -> Parse<T>) -> Parse<T> {
        let outer = self.cx.query_levels.get();
        if outer >= MAX_QUERY_LEVELS {
            return Err(self.cx.fatal(ParseError::TooDeep { limit: MAX_QUERY_LEVELS }));
        }
        self.cx.query_levels.set(outer + 1);
        let result = rule(self);
        self.cx.query_levels.set(outer);
        result
    }

    /// `(a, b)`: identifiers; at least one.
    pub(crate) fn ident_list(&mut self) -> Parse<Vec<String>> {
        self.parenthesised(|g| g.comma_list(Self::ident))
    }

    /// `IF EXISTS`.
    pub(crate) fn if_exists(&mut self) -> bool {
        self.eat_all("IF EXISTS")
    }

    /// `IF NOT EXISTS`.
    pub(crate) fn if_not_exists(&mut self) -> bool {
        self.eat_all("IF NOT EXISTS")
    }
}

/// True for an unquoted word with this text.
pub(crate) fn is_word(token: &Token, text: &str) -> bool {
    matches!(token, Token::Word(word)
        if word.quote_style.is_none() && word.value.eq_ignore_ascii_case(text))
}

/// True for a word that is an identifier.
fn is_name(word: &Word) -> bool {
    match word.quote_style {
        None => !is_reserved(&word.value),
        Some(style) => style == QUOTED,
    }
}
