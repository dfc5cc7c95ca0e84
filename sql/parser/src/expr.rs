//! Rules of expressions: what the dialect's hooks build.
//!
//! `prefix` reads an operand with the operators before it, `infix` an operator with what stands
//! after it. Functions with a syntax of their own are in `function.rs`.

use sqlparser::ast::Expr as LibExpr;
use sqlparser::tokenizer::Token;

use crate::ast::*;
use crate::dialect::{self as level, UNARY};
use crate::grammar::{Grammar, Parse, is_word};
use crate::lex::{bit_bytes, hex_bytes};
use crate::token::{QUOTED, SYSTEM_VARIABLE, USER_VARIABLE};
use crate::words::{is_bare_function, is_reserved, is_reserved_function};

impl Grammar<'_, '_> {
    /// An expression.
    pub(crate) fn expr(&mut self) -> Parse<Expr> {
        if let Some(literal) = self.lone_literal() {
            return Ok(literal);
        }
        self.subexpr(0)
    }

    /// The common case of `VALUES` lists: a literal with nothing after it that could bind.
    fn lone_literal(&mut self) -> Option<Expr> {
        if !matches!(self.peek_nth(1), Token::Comma | Token::RParen | Token::EOF) {
            return None;
        }
        let literal = self.plain_literal()?;
        self.advance();
        Some(literal)
    }

    /// The next token as a literal, when one token is all of it.
    fn plain_literal(&self) -> Option<Expr> {
        Some(match self.peek() {
            Token::Number(text, _) => Expr::Literal(number(text)),
            Token::SingleQuotedString(value) => Expr::Literal(Literal::string(value.as_str())),
            Token::NationalStringLiteral(value) => Expr::Literal(Literal::String {
                value: value.clone(),
                charset: Some("utf8mb3".into()),
            }),
            Token::HexStringLiteral(text) => {
                Expr::Literal(Literal::Hex { bytes: hex_bytes(text), charset: None })
            }
            Token::SingleQuotedByteStringLiteral(text) => {
                Expr::Literal(Literal::Bit { bytes: bit_bytes(text), charset: None })
            }
            Token::Placeholder(number) => Expr::Parameter(number.parse().ok()?),
            token if is_word(token, "NULL") => Expr::Literal(Literal::Null),
            token if is_word(token, "TRUE") => Expr::Literal(Literal::Boolean(true)),
            token if is_word(token, "FALSE") => Expr::Literal(Literal::Boolean(false)),
            _ => return None,
        })
    }

    /// An expression whose operators bind tighter than a level.
    pub(crate) fn subexpr(&mut self, above: u8) -> Parse<Expr> {
        let ticket: LibExpr = self.parser.parse_subexpr(above)?;
        let (expr, height) = self.cx.unshelve(&ticket)?;
        self.cx.height.set(self.cx.height.get().max(height));
        Ok(expr)
    }

    fn boxed(&mut self, above: u8) -> Parse<Box<Expr>> {
        self.subexpr(above).map(Box::new)
    }

    /// An operand with the operators before it.
    pub(crate) fn prefix(&mut self) -> Parse<Expr> {
        if let Some(literal) = self.plain_literal() {
            self.advance();
            return Ok(literal);
        }
        match self.peek() {
            Token::Minus => self.unary(UnaryOperator::Minus, UNARY),
            Token::Plus => self.unary(UnaryOperator::Plus, UNARY),
            Token::Tilde => self.unary(UnaryOperator::BitNot, UNARY),
            Token::ExclamationMark => self.unary(UnaryOperator::Not, UNARY),
            Token::LParen => self.parentheses(),
            Token::Word(word) => match word.quote_style {
                None => {
                    let word = word.value.clone();
                    self.word_operand(&word)
                }
                Some(USER_VARIABLE) => self.user_variable(),
                Some(SYSTEM_VARIABLE) => {
                    let (scope, name) = scoped_variable(&word.value);
                    self.advance();
                    Ok(Expr::SystemVariable { scope, name })
                }
                Some(QUOTED) => self.column_or_call(),
                _ => self.fail("an expression"),
            },
            _ => self.fail("an expression"),
        }
    }

    fn unary(&mut self, op: UnaryOperator, level: u8) -> Parse<Expr> {
        self.advance();
        let expr = self.boxed(level)?;
        Ok(Expr::Unary { op, expr })
    }

    fn user_variable(&mut self) -> Parse<Expr> {
        let Token::Word(word) = self.peek() else { return self.fail("a variable") };
        let name = word.value.clone();
        self.advance();
        if self.eat_sign(&Token::Assignment) {
            return Ok(Expr::AssignVariable { name, value: self.boxed(0)? });
        }
        Ok(Expr::UserVariable(name))
    }

    /// `(expr)`, `(a, b)`, `(SELECT ..)`.
    fn parentheses(&mut self) -> Parse<Expr> {
        if self.query_in_parentheses(self.at()) {
            return Ok(Expr::Subquery(Box::new(self.parenthesised(Self::query)?)));
        }
        let mut members = self.parenthesised(|g| g.comma_list(Self::expr))?;
        match members.pop() {
            Some(only) if members.is_empty() => Ok(only),
            Some(last) => {
                members.push(last);
                Ok(Expr::Row(members))
            }
            None => self.fail("an expression"),
        }
    }

    /// True when the `(` at an index holds a query and not an expression that begins with one:
    /// `((SELECT 1) UNION SELECT 2)`, not `((SELECT 1) + 2)`.
    pub(crate) fn query_in_parentheses(&self, mut index: usize) -> bool {
        let token = |index: usize| &self.parser.token_at(index).token;
        let mut outer = Vec::new();
        while *token(index) == Token::LParen {
            outer.push(index);
            index += 1;
        }
        if outer.is_empty() || !self.starts_query(index) {
            return false;
        }
        // From the inside out, everything but the innermost must go on as queries do.
        outer.pop();
        outer.into_iter().rev().all(|opening| {
            let inner_end = self.cx.closing.get(opening + 1).map_or(0, |end| *end as usize);
            let next = token(inner_end + 1);
            const GOES_ON: [&str; 7] =
                ["UNION", "EXCEPT", "INTERSECT", "ORDER", "LIMIT", "FOR", "LOCK"];
            inner_end != 0
                && (*next == Token::RParen || GOES_ON.iter().any(|word| is_word(next, word)))
        })
    }

    /// True when a query's first word stands at an index.
    pub(crate) fn starts_query(&self, index: usize) -> bool {
        let token = &self.parser.token_at(index).token;
        is_word(token, "SELECT")
            || is_word(token, "WITH")
            || is_word(token, "TABLE")
            || (is_word(token, "VALUES") && is_word(&self.parser.token_at(index + 1).token, "ROW"))
    }

    /// An operand that begins with an unquoted word.
    fn word_operand(&mut self, word: &str) -> Parse<Expr> {
        let before_parenthesis = *self.peek_nth(1) == Token::LParen;
        if !is_reserved(word) {
            if before_parenthesis {
                return self.call(word);
            }
            if let Some(expr) = self.typed_literal(word)? {
                return Ok(expr);
            }
            return self.column_or_call();
        }
        if before_parenthesis && is_reserved_function(word) {
            return self.call(word);
        }
        match word.to_ascii_uppercase().as_str() {
            "NOT" => {
                let high = self.cx.mode.high_not_precedence;
                self.unary(UnaryOperator::Not, if high { UNARY } else { level::NOT })
            }
            "CASE" => self.case(),
            "EXISTS" => {
                self.advance();
                if !self.query_in_parentheses(self.at()) {
                    return self.fail("a subquery");
                }
                Ok(Expr::Exists(Box::new(self.parenthesised(Self::query)?)))
            }
            "INTERVAL" => self.interval(),
            "BINARY" => {
                self.advance();
                let expr = self.boxed(UNARY)?;
                Ok(Expr::Cast { expr, to: CastType::Binary(None), array: false })
            }
            "DEFAULT" => {
                self.advance();
                if before_parenthesis {
                    return Ok(Expr::Default(Some(self.parenthesised(Self::column_ref)?)));
                }
                Ok(Expr::Default(None))
            }
            "VALUES" if before_parenthesis => {
                self.advance();
                Ok(Expr::Values(self.parenthesised(Self::column_ref)?))
            }
            "CONVERT" if before_parenthesis => self.convert(),
            "CHAR" if before_parenthesis => self.char_function(),
            "MATCH" => self.match_against(),
            upper if is_bare_function(upper) => {
                self.advance();
                let name = word.to_ascii_lowercase();
                Ok(Expr::Function(FunctionCall { schema: None, name, args: Vec::new() }))
            }
            _ => self.fail("an expression"),
        }
    }

    /// `DATE 'x'`, `_utf8mb4'x'`.
    fn typed_literal(&mut self, word: &str) -> Parse<Option<Expr>> {
        let literal = match self.peek_nth(1) {
            Token::SingleQuotedString(value) => {
                let value = value.clone();
                if word.eq_ignore_ascii_case("date") {
                    Literal::Date(value)
                } else if word.eq_ignore_ascii_case("time") {
                    Literal::Time(value)
                } else if word.eq_ignore_ascii_case("timestamp") {
                    Literal::Timestamp(value)
                } else if let Some(charset) = introducer(word) {
                    Literal::String { value, charset: Some(charset) }
                } else {
                    return Ok(None);
                }
            }
            Token::HexStringLiteral(text) => match introducer(word) {
                Some(charset) => Literal::Hex { bytes: hex_bytes(text), charset: Some(charset) },
                None => return Ok(None),
            },
            Token::SingleQuotedByteStringLiteral(text) => match introducer(word) {
                Some(charset) => Literal::Bit { bytes: bit_bytes(text), charset: Some(charset) },
                None => return Ok(None),
            },
            _ => return Ok(None),
        };
        self.advance();
        self.advance();
        Ok(Some(Expr::Literal(literal)))
    }

    /// `a`, `t.a`, `db.t.a`, `db.f()`.
    fn column_or_call(&mut self) -> Parse<Expr> {
        if *self.peek_nth(1) == Token::LParen {
            let name = self.ident()?;
            return self.general_call(None, name.to_ascii_lowercase());
        }
        let first = self.ident()?;
        if *self.peek() == Token::Period && *self.peek_nth(2) == Token::LParen {
            self.advance();
            let name = self.ident_after_dot()?;
            return self.general_call(Some(first), name);
        }
        self.column_after(first).map(Expr::Column)
    }

    /// A column's name with its qualifiers.
    pub(crate) fn column_ref(&mut self) -> Parse<ColumnRef> {
        let first = self.ident()?;
        self.column_after(first)
    }

    fn column_after(&mut self, first: String) -> Parse<ColumnRef> {
        if !self.eat_sign(&Token::Period) {
            return Ok(ColumnRef::bare(first));
        }
        let second = self.ident_after_dot()?;
        if !self.eat_sign(&Token::Period) {
            return Ok(ColumnRef { schema: None, table: Some(first), column: second });
        }
        let column = self.ident_after_dot()?;
        if *self.peek() == Token::Period {
            return self.fail("an operator");
        }
        Ok(ColumnRef { schema: Some(first), table: Some(second), column })
    }

    fn case(&mut self) -> Parse<Expr> {
        self.advance();
        let operand = if self.is("WHEN") { None } else { Some(Box::new(self.expr()?)) };
        let mut branches = Vec::new();
        while self.eat("WHEN") {
            let when = self.expr()?;
            self.expect("THEN")?;
            branches.push(CaseBranch { when, then: self.expr()? });
        }
        if branches.is_empty() {
            return self.fail("WHEN");
        }
        let otherwise = if self.eat("ELSE") { Some(Box::new(self.expr()?)) } else { None };
        self.expect("END")?;
        Ok(Expr::Case { operand, branches, otherwise })
    }

    /// `INTERVAL n unit`, `INTERVAL n unit + date`, or the function `INTERVAL(n, a, b)`.
    fn interval(&mut self) -> Parse<Expr> {
        self.advance();
        if *self.peek() == Token::LParen && self.is_interval_function() {
            return self.general_call(None, "interval".into());
        }
        let value = Box::new(self.expr()?);
        let unit = self.interval_unit()?;
        Ok(Expr::Interval { value, unit })
    }

    /// At `(` after `INTERVAL`: a list not followed by a unit is the function's.
    fn is_interval_function(&self) -> bool {
        let opening = self.at();
        let end = self.cx.closing.get(opening).map_or(0, |end| *end as usize);
        let unit = matches!(&self.parser.token_at(end + 1).token, Token::Word(word)
            if IntervalUnit::from_word(&word.value).is_some());
        let mut index = opening + 1;
        while !unit && index < end {
            match &self.parser.token_at(index).token {
                Token::Comma => return true,
                Token::LParen => {
                    index = self.cx.closing.get(index).map_or(end, |end| *end as usize);
                }
                _ => {}
            }
            index += 1;
        }
        false
    }

    /// `DAY`, `HOUR_SECOND`, ...
    pub(crate) fn interval_unit(&mut self) -> Parse<IntervalUnit> {
        if let Token::Word(word) = self.peek()
            && word.quote_style.is_none()
            && let Some(unit) = IntervalUnit::from_word(&word.value)
        {
            self.advance();
            return Ok(unit);
        }
        self.fail("a unit of time")
    }

    /// An operator and what stands after it.
    pub(crate) fn infix(&mut self, left: Expr, precedence: u8) -> Parse<Expr> {
        if let Some(op) = comparison(self.peek()) {
            self.advance();
            return self.comparison(left, op);
        }
        let at = self.at();
        match precedence {
            level::OR => {
                self.advance();
                let right = self.subexpr(level::OR)?;
                Ok(join(left, right, Expr::Or, |expr| match expr {
                    Expr::Or(terms) => Ok(terms),
                    other => Err(other),
                }))
            }
            level::AND => {
                self.advance();
                let right = self.subexpr(level::AND)?;
                Ok(join(left, right, Expr::And, |expr| match expr {
                    Expr::And(terms) => Ok(terms),
                    other => Err(other),
                }))
            }
            level::CONCAT => {
                self.advance();
                let right = self.subexpr(level::CONCAT)?;
                let args = match left {
                    Expr::Function(mut call) if call.schema.is_none() && call.name == "concat" => {
                        call.args.push(right);
                        call.args
                    }
                    left => vec![left, right],
                };
                Ok(function("concat", args))
            }
            level::JSON => {
                let unquote = *self.peek() == Token::LongArrow;
                self.advance();
                let path = self.string()?;
                let path = Expr::Literal(Literal::string(path));
                let extract = function("json_extract", vec![left, path]);
                Ok(if unquote { function("json_unquote", vec![extract]) } else { extract })
            }
            level::COLLATE => {
                self.advance();
                let collation = self.ident_or_string()?.to_ascii_lowercase();
                Ok(Expr::Collate { expr: Box::new(left), collation })
            }
            level::COMPARISON => self.is_test(left),
            level::PREDICATE => self.predicate(left),
            _ => {
                let op = match self.peek() {
                    Token::Pipe => BinaryOperator::BitOr,
                    Token::Ampersand => BinaryOperator::BitAnd,
                    Token::ShiftLeft => BinaryOperator::ShiftLeft,
                    Token::ShiftRight => BinaryOperator::ShiftRight,
                    Token::Plus => BinaryOperator::Plus,
                    Token::Minus => BinaryOperator::Minus,
                    Token::Mul => BinaryOperator::Multiply,
                    Token::Div => BinaryOperator::Divide,
                    Token::Mod => BinaryOperator::Modulo,
                    Token::Caret => BinaryOperator::BitXor,
                    token if is_word(token, "DIV") => BinaryOperator::IntegerDivide,
                    token if is_word(token, "MOD") => BinaryOperator::Modulo,
                    token if is_word(token, "XOR") => BinaryOperator::Xor,
                    _ => return self.fail_at(at, "an operator"),
                };
                self.advance();
                let right = self.subexpr(precedence)?;
                self.binary(left, op, right)
            }
        }
    }

    fn binary(&mut self, left: Expr, op: BinaryOperator, right: Expr) -> Parse<Expr> {
        match (left, op, right) {
            (
                base,
                BinaryOperator::Plus | BinaryOperator::Minus,
                Expr::Interval { value, unit },
            ) => Ok(Expr::DateArithmetic {
                base: Box::new(base),
                value,
                unit,
                subtract: op == BinaryOperator::Minus,
            }),
            (Expr::Interval { value, unit }, BinaryOperator::Plus, base) => {
                Ok(Expr::DateArithmetic { base: Box::new(base), value, unit, subtract: false })
            }
            (left, op, right) => {
                Ok(Expr::Binary { op, left: Box::new(left), right: Box::new(right) })
            }
        }
    }

    fn comparison(&mut self, left: Expr, op: BinaryOperator) -> Parse<Expr> {
        if *self.peek_nth(1) == Token::LParen && self.query_in_parentheses(self.at() + 1) {
            let quantifier = match self.eat_one(&["ANY", "SOME", "ALL"]) {
                Some("ALL") => Some(Quantifier::All),
                Some(_) => Some(Quantifier::Any),
                None => None,
            };
            if let Some(quantifier) = quantifier {
                let query = Box::new(self.parenthesised(Self::query)?);
                return Ok(Expr::Quantified { op, quantifier, left: Box::new(left), query });
            }
        }
        let right = self.boxed(level::COMPARISON)?;
        Ok(Expr::Binary { op, left: Box::new(left), right })
    }

    /// `IS [NOT] NULL | TRUE | FALSE | UNKNOWN`.
    fn is_test(&mut self, left: Expr) -> Parse<Expr> {
        self.expect("IS")?;
        let negated = self.eat("NOT");
        let expr = Box::new(left);
        match self.eat_one(&["NULL", "TRUE", "FALSE", "UNKNOWN"]) {
            Some("NULL") => Ok(Expr::IsNull { expr, negated }),
            Some("TRUE") => Ok(Expr::IsTruth { expr, value: TruthValue::True, negated }),
            Some("FALSE") => Ok(Expr::IsTruth { expr, value: TruthValue::False, negated }),
            Some(_) => Ok(Expr::IsTruth { expr, value: TruthValue::Unknown, negated }),
            None => self.fail("NULL, TRUE, FALSE or UNKNOWN"),
        }
    }

    /// `IN`, `BETWEEN`, `LIKE`, `REGEXP`, `MEMBER OF`, `SOUNDS LIKE`.
    fn predicate(&mut self, left: Expr) -> Parse<Expr> {
        let negated = self.eat("NOT");
        let expr = Box::new(left);
        const WORDS: [&str; 7] = ["IN", "BETWEEN", "LIKE", "REGEXP", "RLIKE", "MEMBER", "SOUNDS"];
        match self.eat_one(&WORDS) {
            Some("IN") => {
                if self.query_in_parentheses(self.at()) {
                    let query = Box::new(self.parenthesised(Self::query)?);
                    return Ok(Expr::InSubquery { expr, query, negated });
                }
                let list = self.parenthesised(|g| g.comma_list(Self::expr))?;
                Ok(Expr::InList { expr, list, negated })
            }
            Some("BETWEEN") => {
                let low = self.boxed(level::PREDICATE)?;
                self.expect("AND")?;
                // The upper bound may be a predicate itself.
                let high = self.boxed(level::PREDICATE - 1)?;
                Ok(Expr::Between { expr, low, high, negated })
            }
            Some("LIKE") => {
                let pattern = self.boxed(level::PREDICATE)?;
                let escape =
                    if self.eat("ESCAPE") { Some(self.boxed(level::PREDICATE)?) } else { None };
                Ok(Expr::Like { expr, pattern, escape, negated })
            }
            Some("REGEXP" | "RLIKE") => {
                Ok(Expr::Regexp { expr, pattern: self.boxed(level::PREDICATE)?, negated })
            }
            Some("MEMBER") => {
                self.expect("OF")?;
                let array = Box::new(self.parenthesised(Self::expr)?);
                Ok(Expr::MemberOf { value: expr, array })
            }
            Some(_) => {
                self.expect("LIKE")?;
                let right = self.subexpr(level::PREDICATE)?;
                Ok(Expr::Binary {
                    op: BinaryOperator::Eq,
                    left: Box::new(function("soundex", vec![*expr])),
                    right: Box::new(function("soundex", vec![right])),
                })
            }
            None => self.fail("a predicate"),
        }
    }
}

/// Joins two terms of a chain into one flat list.
fn join(
    left: Expr,
    right: Expr,
    wrap: fn(Vec<Expr>) -> Expr,
    open: fn(Expr) -> Result<Vec<Expr>, Expr>,
) -> Expr {
    let mut terms = open(left).unwrap_or_else(|single| vec![single]);
    match open(right) {
        Ok(more) => terms.extend(more),
        Err(single) => terms.push(single),
    }
    wrap(terms)
}

/// A call of a built-in function.
pub(crate) fn function(name: &str, args: Vec<Expr>) -> Expr {
    Expr::Function(FunctionCall { schema: None, name: name.into(), args })
}

/// A number by its spelling.
fn number(text: &str) -> Literal {
    if text.contains(['e', 'E']) {
        Literal::Float(text.to_owned())
    } else if text.contains('.') {
        Literal::Decimal(text.to_owned())
    } else {
        Literal::Integer(text.to_owned())
    }
}

fn comparison(token: &Token) -> Option<BinaryOperator> {
    Some(match token {
        Token::Eq => BinaryOperator::Eq,
        Token::Spaceship => BinaryOperator::NullSafeEq,
        Token::Neq => BinaryOperator::NotEq,
        Token::Lt => BinaryOperator::Lt,
        Token::LtEq => BinaryOperator::LtEq,
        Token::Gt => BinaryOperator::Gt,
        Token::GtEq => BinaryOperator::GtEq,
        _ => return None,
    })
}

/// The character set a word introduces.
fn introducer(word: &str) -> Option<String> {
    const CHARSETS: [&str; 13] = [
        "utf8mb4", "utf8", "utf8mb3", "binary", "ascii", "latin1", "gbk", "gb18030", "ucs2",
        "utf16", "utf32", "big5", "cp1252",
    ];
    let name = word.strip_prefix('_')?.to_ascii_lowercase();
    CHARSETS.contains(&name.as_str()).then_some(name)
}

/// Scope and name of what follows `@@`.
pub(crate) fn scoped_variable(text: &str) -> (VariableScope, String) {
    if let Some((scope, name)) = text.split_once('.') {
        let scope = match scope.to_ascii_lowercase().as_str() {
            "global" => Some(VariableScope::Global),
            "session" | "local" => Some(VariableScope::Session),
            "persist" => Some(VariableScope::Persist),
            "persist_only" => Some(VariableScope::PersistOnly),
            _ => None,
        };
        if let Some(scope) = scope {
            return (scope, name.to_owned());
        }
    }
    (VariableScope::Unspecified, text.to_owned())
}
