//! Turns the lexer's ranges into the parsing library's tokens.
//!
//! Every word is given to the library without a keyword: MySQL's own lists decide what a word
//! means (`words.rs`), so that columns may be called `top`, `sort` or `qualify`, which the
//! library's other dialects reserve. Kinds of words are told apart by `quote_style`: see
//! [`USER_VARIABLE`] and its neighbours. A token's span holds byte offsets in `column`.

use sqlparser::keywords::Keyword;
use sqlparser::tokenizer::{Location, Span, Token, TokenWithSpan, Word};

use crate::error::ParseError;
use crate::lex::{Kind, Lexer, RawToken, SqlMode, unquote};

/// `quote_style` of a quoted identifier.
pub(crate) const QUOTED: char = '`';
/// `quote_style` of `@x`.
pub(crate) const USER_VARIABLE: char = '@';
/// `quote_style` of `@@x`.
pub(crate) const SYSTEM_VARIABLE: char = '%';

/// Tokens of one statement at most: about 100 bytes each while it is parsed.
pub const MAX_TOKENS: usize = 8 * 1024 * 1024;

/// Parentheses in one another at most. The grammar recurses per level; see `MAX_NESTING`.
pub const MAX_PARENTHESES: usize = 200;

/// The tokens of a statement, ready for the grammar.
#[derive(Debug, Default)]
pub(crate) struct Tokens {
    /// The tokens, without blanks and hints.
    pub tokens: Vec<TokenWithSpan>,
    /// For every `(` the index of its `)`; 0 elsewhere.
    pub closing: Vec<u32>,
    /// Optimizer hints with the index of the token they stand before.
    pub hints: Vec<(usize, String)>,
    /// How many `?` there are.
    pub parameter_count: u32,
}

/// Reads a statement's text.
pub(crate) fn tokenize(text: &str, mode: SqlMode) -> Result<Tokens, ParseError> {
    let mut lexer = Lexer::new(text, mode);
    let mut out = Tokens::default();
    let guess = text.len() / 4 + 4;
    out.tokens.reserve(guess.min(4096));
    let mut open: Vec<usize> = Vec::new();
    while let Some(raw) = lexer.next_token() {
        let source = &text[raw.start..raw.end];
        let token = match raw.kind {
            Kind::Hint => {
                out.hints.push((out.tokens.len(), source.trim().to_owned()));
                continue;
            }
            Kind::Bad | Kind::Semicolon => {
                return Err(ParseError::syntax(text, 0, raw.start, "a token".into()));
            }
            Kind::String => {
                let value = unquote(source, mode);
                // 'a' 'b' is 'ab', as in C.
                if let Some(TokenWithSpan { token: Token::SingleQuotedString(last), span }) =
                    out.tokens.last_mut()
                {
                    last.push_str(&value);
                    span.end.column = raw.end as u64;
                    continue;
                }
                Token::SingleQuotedString(value)
            }
            Kind::Parameter => {
                let number = out.parameter_count;
                out.parameter_count += 1;
                Token::Placeholder(number.to_string())
            }
            _ => token(raw.kind, source, mode),
        };
        let index = out.tokens.len();
        if index >= MAX_TOKENS {
            return Err(ParseError::TooLong { limit: MAX_TOKENS, unit: "tokens" });
        }
        out.closing.push(0);
        match token {
            Token::LParen => {
                if open.len() >= MAX_PARENTHESES {
                    return Err(ParseError::TooDeep { limit: MAX_PARENTHESES });
                }
                open.push(index);
            }
            Token::RParen => {
                if let Some(opening) = open.pop() {
                    // MAX_TOKENS fits.
                    out.closing[opening] = index as u32;
                }
            }
            _ => {}
        }
        out.tokens.push(TokenWithSpan { token, span: span(raw) });
    }
    Ok(out)
}

fn span(raw: RawToken) -> Span {
    let at = |byte: usize| Location { line: 1, column: byte as u64 };
    Span { start: at(raw.start), end: at(raw.end) }
}

fn word(value: String, quote_style: Option<char>) -> Token {
    Token::Word(Word { value, quote_style, keyword: Keyword::NoKeyword })
}

/// The library's token for a piece of text.
fn token(kind: Kind, source: &str, mode: SqlMode) -> Token {
    match kind {
        Kind::Word => word(source.to_owned(), None),
        Kind::QuotedWord => word(unquote(source, mode), Some(QUOTED)),
        Kind::UserVariable => {
            let name = &source[1..];
            let name = if name.starts_with(['`', '\'', '"']) {
                // In @"x" the quotes are no string's, whatever the mode.
                unquote(name, SqlMode { ansi_quotes: false, ..mode })
            } else {
                name.to_owned()
            };
            word(name, Some(USER_VARIABLE))
        }
        Kind::SystemVariable => word(source[2..].replace('`', ""), Some(SYSTEM_VARIABLE)),
        Kind::National => Token::NationalStringLiteral(unquote(&source[1..], mode)),
        Kind::Hex => Token::HexStringLiteral(source.to_owned()),
        Kind::Bit => Token::SingleQuotedByteStringLiteral(source.to_owned()),
        Kind::Integer | Kind::Decimal | Kind::Float => Token::Number(source.to_owned(), false),
        _ => sign(source),
    }
}

fn sign(source: &str) -> Token {
    match source {
        "(" => Token::LParen,
        ")" => Token::RParen,
        "," => Token::Comma,
        "." => Token::Period,
        "=" => Token::Eq,
        "<" => Token::Lt,
        ">" => Token::Gt,
        "<=" => Token::LtEq,
        ">=" => Token::GtEq,
        "<>" | "!=" => Token::Neq,
        "<=>" => Token::Spaceship,
        "+" => Token::Plus,
        "-" => Token::Minus,
        "*" => Token::Mul,
        "/" => Token::Div,
        "%" => Token::Mod,
        "^" => Token::Caret,
        "&" => Token::Ampersand,
        "|" => Token::Pipe,
        "~" => Token::Tilde,
        "!" => Token::ExclamationMark,
        "<<" => Token::ShiftLeft,
        ">>" => Token::ShiftRight,
        "||" => Token::StringConcat,
        "&&" => Token::Overlap,
        ":=" => Token::Assignment,
        "->" => Token::Arrow,
        "->>" => Token::LongArrow,
        other => Token::Char(other.chars().next().unwrap_or('\0')),
    }
}
