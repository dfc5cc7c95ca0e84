//! The dialect the parsing library asks: MySQL's table of precedences and our node builders.
//!
//! **Precedence.** MySQL's grammar (`sql_yacc.yy`), loosest first. The manual's table puts `=`
//! and `LIKE` on one level; the grammar does not, and the grammar rules here.
//!
//! | level | operators |
//! |---|---|
//! | [`OR`] | `OR`, `\|\|` |
//! | [`XOR`] | `XOR` |
//! | [`AND`] | `AND`, `&&` |
//! | [`NOT`] | `NOT` (prefix) |
//! | [`COMPARISON`] | `=` `<=>` `<>` `<` `<=` `>` `>=` `IS` |
//! | [`PREDICATE`] | `LIKE` `REGEXP` `IN` `BETWEEN` `MEMBER OF` `SOUNDS LIKE` |
//! | [`BIT_OR`], [`BIT_AND`], [`SHIFT`] | `\|`, `&`, `<<` `>>` |
//! | [`SUM`], [`PRODUCT`], [`BIT_XOR`] | `+` `-`, `*` `/` `%` `DIV` `MOD`, `^` |
//! | [`CONCAT`] | `\|\|` under `PIPES_AS_CONCAT` |
//! | [`UNARY`] | `-` `+` `~` `!` `BINARY` (prefix), `NOT` under `HIGH_NOT_PRECEDENCE` |
//! | [`COLLATE`], [`JSON`] | `COLLATE`, `->` `->>` |

use std::any::TypeId;

use sqlparser::ast::Expr as LibExpr;
use sqlparser::dialect::{Dialect, MySqlDialect, Precedence};
use sqlparser::parser::{Parser, ParserError};
use sqlparser::tokenizer::Token;

use crate::ast::Expr;
use crate::grammar::{Context, Grammar};

pub(crate) const OR: u8 = 10;
pub(crate) const XOR: u8 = 20;
pub(crate) const AND: u8 = 30;
pub(crate) const NOT: u8 = 40;
pub(crate) const COMPARISON: u8 = 50;
pub(crate) const PREDICATE: u8 = 60;
pub(crate) const BIT_OR: u8 = 70;
pub(crate) const BIT_AND: u8 = 80;
pub(crate) const SHIFT: u8 = 90;
pub(crate) const SUM: u8 = 100;
pub(crate) const PRODUCT: u8 = 110;
pub(crate) const BIT_XOR: u8 = 120;
pub(crate) const CONCAT: u8 = 125;
pub(crate) const UNARY: u8 = 130;
pub(crate) const COLLATE: u8 = 140;
pub(crate) const JSON: u8 = 150;

impl Dialect for Context {
    fn dialect(&self) -> TypeId {
        TypeId::of::<MySqlDialect>()
    }

    // The library's tokenizer is not used: these two only have to exist.
    fn is_identifier_start(&self, ch: char) -> bool {
        MySqlDialect {}.is_identifier_start(ch)
    }

    fn is_identifier_part(&self, ch: char) -> bool {
        MySqlDialect {}.is_identifier_part(ch)
    }

    fn parse_prefix(&self, parser: &mut Parser<'_>) -> Option<Result<LibExpr, ParserError>> {
        let outer = self.height.replace(0);
        let built = Grammar { parser, cx: self }.prefix();
        let height = self.height.replace(outer) + 1;
        Some(built.and_then(|expr| self.shelve(expr, height)))
    }

    fn parse_infix(
        &self,
        parser: &mut Parser<'_>,
        left: &LibExpr,
        precedence: u8,
    ) -> Option<Result<LibExpr, ParserError>> {
        let outer = self.height.replace(0);
        let built = self.infix(parser, left, precedence);
        self.height.set(outer);
        Some(built)
    }

    fn get_next_precedence(&self, parser: &Parser<'_>) -> Option<Result<u8, ParserError>> {
        let at = parser.index();
        Some(Ok(self.precedence(&parser.token_at(at).token, &parser.token_at(at + 1).token)))
    }

    fn prec_value(&self, _: Precedence) -> u8 {
        // Only the library's own operators ask, and all operators are ours.
        0
    }
}

impl Context {
    fn infix(
        &self,
        parser: &mut Parser<'_>,
        left: &LibExpr,
        precedence: u8,
    ) -> Result<LibExpr, ParserError> {
        let (left, left_height) = self.unshelve(left)?;
        let flat = match &left {
            Expr::And(_) => precedence == AND,
            Expr::Or(_) => precedence == OR,
            _ => false,
        };
        let expr = Grammar { parser, cx: self }.infix(left, precedence)?;
        let children = self.height.get();
        // A chain of ANDs grows wider, not higher.
        let height =
            if flat { left_height.max(children + 1) } else { left_height.max(children) + 1 };
        self.shelve(expr, height)
    }

    /// How strongly an operator binds what stands before it; 0 when it is none.
    fn precedence(&self, token: &Token, next: &Token) -> u8 {
        match token {
            Token::Word(word) if word.quote_style.is_none() => {
                self.word_precedence(&word.value, next)
            }
            Token::StringConcat if self.mode.pipes_as_concat => CONCAT,
            Token::StringConcat => OR,
            Token::Overlap => AND,
            Token::Eq
            | Token::Spaceship
            | Token::Neq
            | Token::Lt
            | Token::LtEq
            | Token::Gt
            | Token::GtEq => COMPARISON,
            Token::Pipe => BIT_OR,
            Token::Ampersand => BIT_AND,
            Token::ShiftLeft | Token::ShiftRight => SHIFT,
            Token::Plus | Token::Minus => SUM,
            Token::Mul | Token::Div | Token::Mod => PRODUCT,
            Token::Caret => BIT_XOR,
            Token::Arrow | Token::LongArrow => JSON,
            _ => 0,
        }
    }

    fn word_precedence(&self, word: &str, next: &Token) -> u8 {
        const WORDS: [(&str, u8); 12] = [
            ("OR", OR),
            ("XOR", XOR),
            ("AND", AND),
            ("IS", COMPARISON),
            ("LIKE", PREDICATE),
            ("RLIKE", PREDICATE),
            ("REGEXP", PREDICATE),
            ("IN", PREDICATE),
            ("BETWEEN", PREDICATE),
            ("DIV", PRODUCT),
            ("MOD", PRODUCT),
            ("COLLATE", COLLATE),
        ];
        if word.len() > 7 {
            return 0;
        }
        if let Some((_, level)) = WORDS.iter().find(|(name, _)| name.eq_ignore_ascii_case(word)) {
            return *level;
        }
        let follows = |text: &str| crate::grammar::is_word(next, text);
        if word.eq_ignore_ascii_case("NOT") {
            let negated = ["IN", "LIKE", "BETWEEN", "REGEXP", "RLIKE"];
            return if negated.into_iter().any(follows) { PREDICATE } else { 0 };
        }
        // Neither is reserved: only the next word tells them from an alias.
        if (word.eq_ignore_ascii_case("SOUNDS") && follows("LIKE"))
            || (word.eq_ignore_ascii_case("MEMBER") && follows("OF"))
        {
            return PREDICATE;
        }
        0
    }
}
