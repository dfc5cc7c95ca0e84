//! A statement's text without its literals, in one pass of the lexer.
//!
//! `SELECT c FROM sbtest1 WHERE id=5` becomes `SELECT c FROM sbtest1 WHERE id=?` and the list
//! `[5]`. Two readers: statement summaries group by the text, and the plan cache keys repeated
//! text statements on it: on a miss it parses the *text* as if it had been prepared and plans
//! it with the literals as parameters; on a hit it parses nothing.
//!
//! **Invariants.** The text of a cacheable digest parses to the statement with parameters for
//! its literals, numbered as in [`Digest::literals`]. Blanks are single and comments are gone, but words keep their
//! case: they are names of result columns. The hash covers the kinds of the literals too, as a
//! plan for a number may be wrong for a string.
//!
//! **When a plan may not be shared** ([`Digest::cacheable`]): a literal in the list of a
//! `SELECT` names its column, one after `ORDER BY` or `GROUP BY` is a position, one in a `CAST`
//! is part of a type. Then only the summary may use the text.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;

use smallvec::SmallVec;

use crate::ast::Literal;
use crate::lex::{Kind, Lexer, SqlMode, bit_bytes, hex_bytes, unquote};
use crate::token::MAX_PARENTHESES;

/// A statement without its literals.
#[derive(Clone, Debug)]
pub struct Digest {
    /// The text with `?` for every literal.
    pub text: String,
    /// What stood there, in order.
    pub literals: SmallVec<[LiteralSlot; 8]>,
    /// Hash of the text and of the kinds of literals; the same on every node and run.
    pub hash: u64,
    /// A plan made for the text serves every statement with this digest.
    pub cacheable: bool,
}

/// Where a literal stood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LiteralSlot {
    /// What it is.
    pub kind: LiteralKind,
    start: usize,
    end: usize,
}

/// What a literal is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LiteralKind {
    /// Digits.
    Integer,
    /// Digits with a point.
    Decimal,
    /// Digits with an exponent.
    Float,
    /// A string.
    String,
    /// Hexadecimal bytes.
    Hex,
    /// Bits.
    Bit,
}

impl LiteralSlot {
    /// The bytes of the literal in the statement's text.
    pub fn range(&self) -> Range<usize> {
        self.start..self.end
    }

    /// The literal; `sql` is the text the digest was made of.
    pub fn literal(&self, sql: &str, mode: &SqlMode) -> Literal {
        let text = sql.get(self.range()).unwrap_or("");
        match self.kind {
            LiteralKind::Integer => Literal::Integer(text.to_owned()),
            LiteralKind::Decimal => Literal::Decimal(text.to_owned()),
            LiteralKind::Float => Literal::Float(text.to_owned()),
            LiteralKind::String => Literal::string(unquote(text, *mode)),
            LiteralKind::Hex => Literal::Hex { bytes: hex_bytes(text), charset: None },
            LiteralKind::Bit => Literal::Bit { bytes: bit_bytes(text), charset: None },
        }
    }
}

/// Where the pass is, as far as sharing plans is concerned.
#[derive(Debug)]
struct Place {
    /// One entry per open parenthesis, and one for the statement.
    levels: SmallVec<[Level; 8]>,
    /// No literal so far was part of a name, a position or a type.
    cacheable: bool,
}

/// What is known of one pair of parentheses.
#[derive(Clone, Copy, Debug)]
struct Level {
    clause: Clause,
    /// A `SELECT` stands in it, so that its `FROM` is no function's: `TRIM(a FROM b)`.
    select: bool,
}

/// Which clause a level is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Clause {
    /// Between `SELECT` and `FROM`: literals name columns.
    Items,
    /// After `ORDER BY`, `GROUP BY`: literals are positions.
    Positions,
    /// Anywhere else.
    Plain,
}

/// The digest of a statement, or `None` when its text is no row of tokens.
///
/// `sql` is one statement; a `;` may end it.
pub fn digest(sql: &str, mode: &SqlMode) -> Option<Digest> {
    let mut lexer = Lexer::new(sql, *mode);
    let mut text = String::with_capacity(sql.len() + 1);
    let mut literals: SmallVec<[LiteralSlot; 8]> = SmallVec::new();
    let mut place = Place::start();
    let mut first = true;
    let mut last_end = 0;
    let mut last_kind = Kind::Sign;
    let mut ended = false;
    while let Some(token) = lexer.next_token() {
        if ended {
            // A second statement.
            return None;
        }
        let source = &sql[token.start..token.end];
        if token.start > last_end && !first && token.kind != Kind::Semicolon {
            text.push(' ');
        }
        last_end = token.end;
        let literal = match token.kind {
            Kind::Bad => return None,
            Kind::Semicolon => {
                ended = true;
                continue;
            }
            Kind::Hint => {
                last_end = token.end + 2;
                text.push_str("/*+ ");
                text.push_str(source.trim());
                text.push_str(" */");
                continue;
            }
            Kind::Integer => Some(LiteralKind::Integer),
            Kind::Decimal => Some(LiteralKind::Decimal),
            Kind::Float => Some(LiteralKind::Float),
            Kind::String => Some(LiteralKind::String),
            Kind::Hex => Some(LiteralKind::Hex),
            Kind::Bit => Some(LiteralKind::Bit),
            Kind::Word => {
                if first {
                    place.cacheable = starts_cacheable(source);
                }
                place.word(source);
                None
            }
            Kind::Sign => {
                if !place.sign(source) {
                    return None;
                }
                None
            }
            Kind::Parameter => {
                place.cacheable = false;
                None
            }
            _ => None,
        };
        first = false;
        match literal {
            Some(kind) => {
                // `DATE '2020-01-01'` and `_binary 0x41` are one literal with the word before;
                // 'a' 'b' is one string.
                let bytes =
                    matches!(kind, LiteralKind::String | LiteralKind::Hex | LiteralKind::Bit);
                let joined = bytes
                    && matches!(last_kind, Kind::Word | Kind::String | Kind::QuotedWord)
                    && !last_word_separates(&text);
                place.cacheable &= place.is_plain() && !joined;
                literals.push(LiteralSlot { kind, start: token.start, end: token.end });
                text.push('?');
            }
            None => text.push_str(source),
        }
        last_kind = token.kind;
    }
    if first {
        return None;
    }
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    for slot in &literals {
        slot.kind.hash(&mut hasher);
    }
    Some(Digest { text, literals, hash: hasher.finish(), cacheable: place.cacheable })
}

fn starts_cacheable(word: &str) -> bool {
    ["SELECT", "INSERT", "UPDATE", "DELETE", "REPLACE"]
        .iter()
        .any(|first| first.eq_ignore_ascii_case(word))
}

impl Place {
    fn start() -> Place {
        let mut levels = SmallVec::new();
        levels.push(Level { clause: Clause::Plain, select: false });
        Place { levels, cacheable: true }
    }

    fn is_plain(&self) -> bool {
        self.levels.last().is_some_and(|level| level.clause == Clause::Plain)
    }

    /// What a sign changes; false when the nesting exceeds the parser's bound.
    fn sign(&mut self, sign: &str) -> bool {
        match sign {
            "(" => {
                let outer = self.levels.last().map_or(Clause::Plain, |level| level.clause);
                self.levels.push(Level { clause: outer, select: false });
            }
            ")" if self.levels.len() > 1 => {
                self.levels.pop();
            }
            // A path is a string, no parameter.
            "->" | "->>" => self.cacheable = false,
            _ => {}
        }
        self.levels.len() <= MAX_PARENTHESES + 1
    }

    /// What a word changes.
    fn word(&mut self, word: &str) {
        let is = |other: &str| word.eq_ignore_ascii_case(other);
        let Some(level) = self.levels.last_mut() else { return };
        match word.len() {
            2 if is("BY") => level.clause = Clause::Positions,
            4 if is("FROM") && level.select => level.clause = Clause::Plain,
            5 if is("LIMIT") || is("WHERE") => level.clause = Clause::Plain,
            6 if is("SELECT") => *level = Level { clause: Clause::Items, select: true },
            6 if is("HAVING") || is("VALUES") || is("WINDOW") => level.clause = Clause::Plain,
            // What follows these is part of a type or must be a literal.
            4 if is("CAST") || is("WAIT") => self.cacheable = false,
            7 if is("CONVERT") || is("COLLATE") => self.cacheable = false,
            9 if is("SEPARATOR") => self.cacheable = false,
            _ => {}
        }
    }
}

/// True when the last word of the text cannot be one literal with a string after it.
fn last_word_separates(text: &str) -> bool {
    const OPERATORS: [&str; 20] = [
        "LIKE",
        "AND",
        "OR",
        "BETWEEN",
        "IN",
        "NOT",
        "WHEN",
        "THEN",
        "ELSE",
        "REGEXP",
        "RLIKE",
        "XOR",
        "DIV",
        "MOD",
        "ESCAPE",
        "SEPARATOR",
        "WHERE",
        "ON",
        "HAVING",
        "BINARY",
    ];
    let trimmed = text.trim_end();
    let start = trimmed.rfind(|c: char| !c.is_alphanumeric() && c != '_').map_or(0, |at| at + 1);
    let word = trimmed.get(start..).unwrap_or("");
    OPERATORS.iter().any(|operator| operator.eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(sql: &str) -> Digest {
        digest(sql, &SqlMode::default()).expect("a row of tokens")
    }

    #[test]
    fn literals_are_stripped_and_kept() {
        let sql = "SELECT c  FROM sbtest1 /* x */ WHERE id=5 AND k='a''b' -- end";
        let digest = of(sql);
        assert_eq!(digest.text, "SELECT c FROM sbtest1 WHERE id=? AND k=?");
        let values: Vec<_> =
            digest.literals.iter().map(|slot| slot.literal(sql, &SqlMode::default())).collect();
        assert_eq!(values, [Literal::Integer("5".into()), Literal::string("a'b")]);
        assert!(digest.cacheable);
    }

    #[test]
    fn kinds_are_part_of_the_hash_and_values_are_not() {
        let number = of("SELECT c FROM t WHERE id=5");
        assert_eq!(number.hash, of("SELECT c FROM t WHERE id=77;").hash);
        assert_ne!(number.hash, of("SELECT c FROM t WHERE id='5'").hash);
    }

    #[test]
    fn meaningful_literals_forbid_sharing() {
        for sql in [
            "SELECT 1",
            "SELECT a FROM t ORDER BY 1",
            "SELECT a FROM t GROUP BY 1",
            "SELECT a FROM t WHERE CAST(a AS CHAR(5)) = 'x'",
            "SELECT a FROM t WHERE d = DATE '2020-01-01'",
            "SELECT a FROM t WHERE b = (SELECT 1)",
            "SELECT a FROM t WHERE b = ?",
            "CREATE TABLE t (a VARCHAR(5))",
            "SELECT a FROM t WHERE b = 'x' 'y'",
            "SELECT a FROM t WHERE b = _binary 0x41",
            "SELECT TRIM(a FROM b), 5 FROM t",
            "SELECT a FROM t WHERE b->'$.c' = 5",
            "SELECT a FROM t WHERE b = 5 FOR UPDATE WAIT 5",
            "SELECT GROUP_CONCAT(a SEPARATOR ',') FROM t",
            "SELECT RANK() OVER (ORDER BY a), 1 FROM t",
        ] {
            assert!(!of(sql).cacheable, "{sql}");
        }
        for sql in [
            "INSERT INTO t (a, b) VALUES (1, 'x'), (2, 'y')",
            "UPDATE t SET a = a + 1 WHERE b LIKE 'x%' LIMIT 5",
            "DELETE FROM t WHERE a BETWEEN 1 AND 2",
            "SELECT a FROM t WHERE b IN (1, 2) ORDER BY a LIMIT 5",
            "SELECT a FROM t WHERE b IN (SELECT c FROM u WHERE d = 1) AND e = 2",
            "SELECT COUNT(*) FROM t WHERE SUBSTRING(a FROM 2) = 'x' GROUP BY b HAVING c > 1",
        ] {
            let digest = of(sql);
            assert!(digest.cacheable, "{sql}");
            let parsed = crate::parse_one(&digest.text, &SqlMode::default()).expect(sql);
            assert_eq!(parsed.parameter_count as usize, digest.literals.len(), "{sql}");
        }
    }

    #[test]
    fn the_text_parses_with_as_many_parameters() {
        let digest = of("UPDATE t SET a = -1, b = 'x' WHERE id IN (1, 2.5, 0x4D)");
        let parsed = crate::parse_one(&digest.text, &SqlMode::default()).expect("parses");
        assert_eq!(parsed.parameter_count as usize, digest.literals.len());
    }
}
