//! A statement's text in the form that statements of one kind share, as TiDB's summaries show it.
//!
//! `SELECT c  FROM Sbtest1 WHERE id IN (1, 2)` becomes ``select `c` from `sbtest1` where `id` in ( ... )``:
//! words in lower case, names in backquotes, single blanks between all tokens, `?` for literals and parameters, `...` for lists of
//! them. Rows of literals, as `VALUES` has them, are one. Hints and comments are left out.
//!
//! The text is for people and for digests; unlike [`crate::digest`]'s it is not meant to be parsed. What follows a token that is
//! none is left out, so that the beginning of a long statement has a normal form too.
//!
//! **Names and keywords.** The lexer does not know which word is a name. Reserved words, words before `(` and those of
//! [`UNRESERVED`] are taken for keywords; a column that has such a name is not quoted, as in TiDB.

use smallvec::SmallVec;

use crate::lex::{Kind, Lexer, SqlMode, unquote};
use crate::words::is_reserved;

/// Unreserved words that statements are made of; sorted.
const UNRESERVED: [&str; 59] = [
    "admin",
    "auto_increment",
    "begin",
    "bulk",
    "collation",
    "columns",
    "comment",
    "commit",
    "committed",
    "connection",
    "date",
    "day",
    "deallocate",
    "duplicate",
    "end",
    "engine",
    "execute",
    "fields",
    "first",
    "flush",
    "format",
    "full",
    "global",
    "hour",
    "identified",
    "isolation",
    "level",
    "local",
    "locked",
    "minute",
    "month",
    "names",
    "nowait",
    "offset",
    "only",
    "password",
    "prepare",
    "processlist",
    "query",
    "repeatable",
    "rollback",
    "savepoint",
    "second",
    "serializable",
    "session",
    "share",
    "skip",
    "start",
    "status",
    "tables",
    "time",
    "timestamp",
    "trace",
    "transaction",
    "truncate",
    "uncommitted",
    "user",
    "variables",
    "warnings",
];

/// What a token of the output is, as far as lists are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Piece {
    /// `?` or `...`.
    Literal,
    /// `( ... )`.
    Group,
    Open,
    Comma,
    /// `IN`, `VALUES`, `VALUE`: a list follows.
    ListWord,
    /// `+`, `-`.
    PlusMinus,
    /// Any other sign, or a keyword: a sign behind it belongs to the literal that follows.
    Operator,
    Other,
}

/// Output so far, with the place where each of its tokens begins.
struct Output {
    text: String,
    pieces: SmallVec<[(Piece, usize); 64]>,
}

impl Output {
    fn push(&mut self, piece: Piece, text: &str) {
        let start = self.text.len();
        if start > 0 {
            self.text.push(' ');
        }
        self.text.push_str(text);
        self.pieces.push((piece, start));
    }

    fn pop(&mut self) {
        if let Some((_, start)) = self.pieces.pop() {
            self.text.truncate(start);
        }
    }

    /// Whether the last tokens are these.
    fn ends_with(&self, wanted: &[Piece]) -> bool {
        let from = self.pieces.len().checked_sub(wanted.len());
        from.is_some_and(|from| {
            self.pieces[from..].iter().map(|(piece, _)| piece).eq(wanted.iter())
        })
    }

    fn literal(&mut self) {
        use Piece::{Comma, Literal, PlusMinus};
        if self.ends_with(&[PlusMinus]) && !self.is_operand_before_sign() {
            self.pop();
        }
        if self.ends_with(&[Literal, Comma]) {
            self.pop();
            self.pop();
            self.push(Literal, "...");
        } else {
            self.push(Literal, "?");
        }
    }

    /// Whether the sign at the end adds or subtracts.
    fn is_operand_before_sign(&self) -> bool {
        let before = self.pieces.len().checked_sub(2).map(|at| self.pieces[at].0);
        matches!(before, Some(Piece::Other | Piece::Literal | Piece::Group))
    }

    fn close(&mut self) {
        use Piece::{Comma, Group, ListWord, Literal, Open};
        let is_list = self.ends_with(&[ListWord, Open, Literal])
            || self.ends_with(&[Group, Comma, Open, Literal]);
        if !is_list {
            // What parentheses hold is an operand.
            return self.push(Piece::Other, ")");
        }
        self.pop();
        self.pop();
        if self.ends_with(&[Group, Comma]) {
            self.pop();
        } else {
            self.push(Group, "( ... )");
        }
    }

    fn word(&mut self, word: &str, is_call: bool) {
        let lower = word.to_lowercase();
        let piece = match lower.as_str() {
            "in" | "values" | "value" => Piece::ListWord,
            _ if is_reserved(&lower) => Piece::Operator,
            _ => Piece::Other,
        };
        let is_keyword = piece != Piece::Other || is_call || is_unreserved(&lower);
        match is_keyword {
            true => self.push(piece, &lower),
            false => self.push(Piece::Other, &format!("`{lower}`")),
        }
    }
}

fn is_unreserved(word: &str) -> bool {
    UNRESERVED.binary_search(&word).is_ok()
}

/// The normal form of one statement; a `;` ends it.
pub fn normalize(sql: &str, mode: &SqlMode) -> String {
    let mut lexer = Lexer::new(sql, *mode);
    let mut out = Output { text: String::with_capacity(sql.len() + 16), pieces: SmallVec::new() };
    let mut next = lexer.next_token();
    while let Some(token) = next {
        next = lexer.next_token();
        let source = &sql[token.start..token.end];
        match token.kind {
            Kind::Semicolon | Kind::Bad => break,
            Kind::Hint => {}
            Kind::Word => {
                let is_call = next.is_some_and(|next| &sql[next.start..next.end] == "(");
                // A table before its columns is no function.
                let is_name = out.text.ends_with("into") || out.text.ends_with("table");
                out.word(source, is_call && !is_name);
            }
            Kind::QuotedWord => {
                let name = unquote(source, *mode).to_lowercase();
                out.push(Piece::Other, &format!("`{}`", name.replace('`', "``")));
            }
            Kind::UserVariable | Kind::SystemVariable => {
                out.push(Piece::Other, &source.to_lowercase());
            }
            Kind::String
            | Kind::National
            | Kind::Hex
            | Kind::Bit
            | Kind::Integer
            | Kind::Decimal
            | Kind::Float
            | Kind::Parameter => out.literal(),
            Kind::Sign => match source {
                "(" => out.push(Piece::Open, source),
                ")" => out.close(),
                "," => out.push(Piece::Comma, source),
                "+" | "-" => out.push(Piece::PlusMinus, source),
                "*" if !out.ends_with(&[Piece::Other]) => out.push(Piece::Other, source),
                "." => out.push(Piece::Other, source),
                _ => out.push(Piece::Operator, source),
            },
        }
    }
    out.text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(sql: &str) -> String {
        normalize(sql, &SqlMode::default())
    }

    #[test]
    fn words_are_lower_and_names_are_quoted() {
        assert_eq!(
            of("SELECT c  FROM Sbtest1 /* x */ WHERE `ID`=5 -- end"),
            "select `c` from `sbtest1` where `id` = ?"
        );
        assert_eq!(
            of("select Count(*) from db.t where @a > @@x;"),
            "select count ( * ) from `db` . `t` where @a > @@x"
        );
        assert_eq!(of("COMMIT"), "commit");
        assert_eq!(of("SELECT /*+ INL_JOIN(t) */ 1"), "select ?");
        assert!(UNRESERVED.is_sorted());
    }

    #[test]
    fn lists_of_literals_are_one() {
        let row = "insert into `t` ( `a` , `b` ) values ( ... )";
        assert_eq!(of("INSERT INTO t (a, b) VALUES (1, 'x')"), row);
        assert_eq!(of("INSERT INTO t (a, b) VALUES (-1, 'x'), (2, 'y'), (?, ?)"), row);
        assert_eq!(of("SELECT 1 FROM t WHERE a IN (1)"), "select ? from `t` where `a` in ( ... )");
        assert_eq!(
            of("SELECT 1 FROM t WHERE a IN (1, 2, 3) LIMIT 5, 6"),
            "select ? from `t` where `a` in ( ... ) limit ..."
        );
        assert_eq!(of("SELECT f(1), (2)"), "select f ( ? ) , ( ? )");
    }

    #[test]
    fn signs_of_literals_go_with_them() {
        assert_eq!(of("SELECT a - 1, a = -1, -1"), "select `a` - ? , `a` = ...");
        assert_eq!(of("SELECT (a) - 1"), "select ( `a` ) - ?");
    }

    #[test]
    fn the_beginning_of_a_text_has_a_normal_form() {
        assert_eq!(of("SELECT a FROM t WHERE b = 'half"), "select `a` from `t` where `b` =");
        assert_eq!(of(""), "");
        assert_eq!(of("\u{1}"), "");
    }
}
