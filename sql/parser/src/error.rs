//! What can be wrong with a statement's text.

/// Why a statement could not be parsed. Every kind has a MySQL error number.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// The text is no statement (1064).
    #[error(
        "You have an error in your SQL syntax; check the manual that corresponds to your MySQL \
         server version for the right syntax to use near '{near}' at line {line}"
    )]
    Syntax {
        /// The text from the place on, at most [`NEAR_CHARS`] characters, as MySQL quotes it.
        near: String,
        /// The line of the place, counted from 1 at the start of the statement.
        line: u32,
        /// The byte of the place in the whole text.
        offset: usize,
        /// What was expected there, for logs; MySQL's message does not tell.
        expected: String,
    },
    /// MySQL knows this, Cairn does not yet (1235).
    #[error("This version of Cairn doesn't yet support '{what}'")]
    Unsupported {
        /// The construct.
        what: String,
    },
    /// The text has no statement in it (1065).
    #[error("Query was empty")]
    Empty,
    /// A derived table has no alias (1248).
    #[error("Every derived table must have its own alias")]
    DerivedWithoutAlias,
    /// The statement nests too deeply (1436 in MySQL: thread stack overrun).
    #[error("Statement nests deeper than {limit} levels")]
    TooDeep {
        /// The bound.
        limit: usize,
    },
    /// The statement is too long (1153).
    #[error("Statement has more than {limit} {unit}")]
    TooLong {
        /// The bound.
        limit: usize,
        /// What is counted.
        unit: &'static str,
    },
}

/// How much of the text a syntax error quotes: MySQL's own bound.
pub const NEAR_CHARS: usize = 80;

impl ParseError {
    /// MySQL's error number.
    pub fn errno(&self) -> u16 {
        match self {
            ParseError::Syntax { .. } => 1064,
            ParseError::Unsupported { .. } => 1235,
            ParseError::Empty => 1065,
            ParseError::DerivedWithoutAlias => 1248,
            ParseError::TooDeep { .. } => 1436,
            ParseError::TooLong { .. } => 1153,
        }
    }

    /// The five characters that go with the number.
    pub fn sqlstate(&self) -> &'static str {
        match self {
            ParseError::Syntax { .. } => "42000",
            ParseError::Unsupported { .. } => "42000",
            ParseError::Empty => "42000",
            ParseError::DerivedWithoutAlias => "42000",
            ParseError::TooDeep { .. } => "HY000",
            ParseError::TooLong { .. } => "08S01",
        }
    }

    /// The place of a syntax error in the whole text.
    pub fn offset(&self) -> Option<usize> {
        match self {
            ParseError::Syntax { offset, .. } => Some(*offset),
            _ => None,
        }
    }

    /// A syntax error at a byte of the statement `text[start..]`.
    pub(crate) fn syntax(text: &str, start: usize, offset: usize, expected: String) -> ParseError {
        let offset = floor_char_boundary(text, offset.min(text.len()));
        let near = text[offset..].chars().take(NEAR_CHARS).collect();
        let before = &text.as_bytes()[start.min(offset)..offset];
        let line = 1 + memchr::memchr_iter(b'\n', before).count();
        ParseError::Syntax { near, line: u32::try_from(line).unwrap_or(u32::MAX), offset, expected }
    }
}

/// The nearest character boundary at or before a byte.
fn floor_char_boundary(text: &str, mut offset: usize) -> usize {
    while !text.is_char_boundary(offset) {
        offset -= 1;
    }
    offset
}
