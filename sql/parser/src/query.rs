//! Rules of queries: `WITH`, `SELECT`, set operations, `VALUES`, `TABLE`.
//!
//! The parsing library's own query rules are not used: they try alternatives and so lose the
//! place of an error, and have no room for `AS OF`, lists of lock targets or the text of items.
//! Everything between the clauses' words is its expression engine's work.

use sqlparser::tokenizer::Token;

use crate::ast::*;
use crate::grammar::{Grammar, Parse};

/// Operands of set operations in one query at most.
const MAX_SET_OPERANDS: usize = 500;

impl Grammar<'_, '_> {
    /// A whole query.
    pub(crate) fn query(&mut self) -> Parse<Query> {
        self.deeper(|g| {
            let with = g.with_clause()?;
            g.query_after_with(with)
        })
    }

    /// A query whose `WITH` has been read.
    pub(crate) fn query_after_with(&mut self, with: Option<With>) -> Parse<Query> {
        let body = self.set_operations()?;
        let order_by = self.order_by()?;
        let limit = self.limit()?;
        let locks = self.locks()?;
        if self.is("INTO") {
            return self.unsupported("SELECT ... INTO");
        }
        let plain = with.is_none() && order_by.is_empty() && limit.is_none() && locks.is_empty();
        match body {
            // Parentheses around everything mean nothing.
            QueryBody::Nested(query) if plain => Ok(*query),
            body => Ok(Query { with, body, order_by, limit, locks }),
        }
    }

    /// `WITH [RECURSIVE] ..`, if it is there.
    pub(crate) fn with_clause(&mut self) -> Parse<Option<With>> {
        if !self.eat("WITH") {
            return Ok(None);
        }
        let recursive = self.eat("RECURSIVE");
        let ctes = self.comma_list(|g| {
            let name = g.ident()?;
            let columns = if *g.peek() == Token::LParen { g.ident_list()? } else { Vec::new() };
            g.expect("AS")?;
            let query = Box::new(g.parenthesised(Self::query)?);
            Ok(Cte { name, columns, query })
        })?;
        Ok(Some(With { recursive, ctes }))
    }

    /// `a UNION b EXCEPT c`, left to right.
    fn set_operations(&mut self) -> Parse<QueryBody> {
        let mut left = self.intersections()?;
        let mut operands = 1;
        loop {
            let op = match self.eat_one(&["UNION", "EXCEPT"]) {
                Some("UNION") => SetOperator::Union,
                Some(_) => SetOperator::Except,
                None => return Ok(left),
            };
            operands += 1;
            if operands > MAX_SET_OPERANDS {
                return self.too_long(MAX_SET_OPERANDS, "operands of set operations");
            }
            let all = self.set_quantifier();
            let right = Box::new(self.intersections()?);
            left = QueryBody::SetOperation { op, all, left: Box::new(left), right };
        }
    }

    /// `a INTERSECT b`, which binds tighter than the other two.
    fn intersections(&mut self) -> Parse<QueryBody> {
        let mut left = self.query_operand()?;
        let mut operands = 1;
        while self.eat("INTERSECT") {
            operands += 1;
            if operands > MAX_SET_OPERANDS {
                return self.too_long(MAX_SET_OPERANDS, "operands of set operations");
            }
            let all = self.set_quantifier();
            let right = Box::new(self.query_operand()?);
            let op = SetOperator::Intersect;
            left = QueryBody::SetOperation { op, all, left: Box::new(left), right };
        }
        Ok(left)
    }

    fn set_quantifier(&mut self) -> bool {
        let all = self.eat("ALL");
        let _ = !all && self.eat("DISTINCT");
        all
    }

    fn query_operand(&mut self) -> Parse<QueryBody> {
        if self.is("SELECT") {
            return Ok(QueryBody::Select(Box::new(self.select()?)));
        }
        if self.eat("VALUES") {
            return Ok(QueryBody::Values(self.comma_list(|g| {
                g.expect("ROW")?;
                g.parenthesised(|g| match g.peek() {
                    Token::RParen => Ok(Vec::new()),
                    _ => g.comma_list(Self::expr),
                })
            })?));
        }
        if self.eat("TABLE") {
            return Ok(QueryBody::Table(self.object_name()?));
        }
        if *self.peek() == Token::LParen {
            let query = self.parenthesised(Self::query)?;
            let plain = query.with.is_none()
                && query.order_by.is_empty()
                && query.limit.is_none()
                && query.locks.is_empty();
            return Ok(if plain { query.body } else { QueryBody::Nested(Box::new(query)) });
        }
        self.fail("SELECT")
    }

    fn select(&mut self) -> Parse<Select> {
        self.expect("SELECT")?;
        let hints = self.hints();
        let modifiers = self.select_modifiers()?;
        let items = self.comma_list(Self::select_item)?;
        if self.is("INTO") {
            return self.unsupported("SELECT ... INTO");
        }
        let from = if self.eat("FROM") {
            if self.eat("DUAL") { Vec::new() } else { self.table_refs()? }
        } else {
            Vec::new()
        };
        let selection = self.where_clause()?;
        let (group_by, rollup) = if self.eat_all("GROUP BY") {
            (self.comma_list(Self::expr)?, self.eat_all("WITH ROLLUP"))
        } else {
            (Vec::new(), false)
        };
        let having = if self.eat("HAVING") { Some(self.expr()?) } else { None };
        let windows = if self.eat("WINDOW") {
            self.comma_list(|g| {
                let name = g.ident()?;
                g.expect("AS")?;
                Ok(NamedWindow { name, spec: g.parenthesised(Self::window_spec)? })
            })?
        } else {
            Vec::new()
        };
        Ok(Select { hints, modifiers, items, from, selection, group_by, rollup, having, windows })
    }

    fn select_modifiers(&mut self) -> Parse<SelectModifiers> {
        let mut modifiers = SelectModifiers::default();
        let mut all = false;
        const WORDS: [&str; 11] = [
            "DISTINCT",
            "ALL",
            "DISTINCTROW",
            "SQL_CALC_FOUND_ROWS",
            "STRAIGHT_JOIN",
            "HIGH_PRIORITY",
            "SQL_NO_CACHE",
            "SQL_CACHE",
            "SQL_SMALL_RESULT",
            "SQL_BIG_RESULT",
            "SQL_BUFFER_RESULT",
        ];
        while let Some(word) = self.eat_one(&WORDS) {
            match word {
                "DISTINCT" | "DISTINCTROW" => modifiers.distinct = true,
                "ALL" => all = true,
                "SQL_CALC_FOUND_ROWS" => modifiers.calc_found_rows = true,
                "STRAIGHT_JOIN" => modifiers.straight_join = true,
                "HIGH_PRIORITY" => modifiers.high_priority = true,
                "SQL_NO_CACHE" => modifiers.no_cache = true,
                _ => {}
            }
            if all && modifiers.distinct {
                return self.fail_at(self.at().saturating_sub(1), "an expression");
            }
        }
        Ok(modifiers)
    }

    fn select_item(&mut self) -> Parse<SelectItem> {
        if self.eat_sign(&Token::Mul) {
            return Ok(SelectItem::Wildcard);
        }
        if let Some(name) = self.qualified_wildcard()? {
            return Ok(SelectItem::QualifiedWildcard(name));
        }
        let start = self.at();
        let expr = self.expr()?;
        let text = match &expr {
            // MySQL calls the column of 'abc' abc.
            Expr::Literal(Literal::String { value, .. }) => value.clone(),
            _ => self.text(start, self.at()).to_owned(),
        };
        let alias = self.item_alias()?;
        Ok(SelectItem::Expr { expr, alias, text })
    }

    /// `t.*`, `db.t.*`, if it is there.
    fn qualified_wildcard(&mut self) -> Parse<Option<ObjectName>> {
        if !self.is_ident() || *self.peek_nth(1) != Token::Period {
            return Ok(None);
        }
        if *self.peek_nth(2) == Token::Mul {
            let name = self.ident()?;
            self.advance();
            self.advance();
            return Ok(Some(ObjectName::bare(name)));
        }
        if *self.peek_nth(3) == Token::Period && *self.peek_nth(4) == Token::Mul {
            let name = self.object_name()?;
            self.advance();
            self.advance();
            return Ok(Some(name));
        }
        Ok(None)
    }

    fn item_alias(&mut self) -> Parse<Option<String>> {
        let explicit = self.eat("AS");
        if let Token::SingleQuotedString(_) = self.peek() {
            return self.string().map(Some);
        }
        if explicit || self.is_ident() { self.ident().map(Some) } else { Ok(None) }
    }

    /// `WHERE ..`, if it is there.
    pub(crate) fn where_clause(&mut self) -> Parse<Option<Expr>> {
        if self.eat("WHERE") { self.expr().map(Some) } else { Ok(None) }
    }

    /// `ORDER BY ..`, if it is there.
    pub(crate) fn order_by(&mut self) -> Parse<Vec<OrderByItem>> {
        if self.eat_all("ORDER BY") { self.comma_list(Self::order_by_item) } else { Ok(Vec::new()) }
    }

    /// `a DESC`.
    pub(crate) fn order_by_item(&mut self) -> Parse<OrderByItem> {
        let expr = self.expr()?;
        let descending = self.eat("DESC");
        let _ = !descending && self.eat("ASC");
        Ok(OrderByItem { expr, descending })
    }

    /// `LIMIT ..`, if it is there.
    pub(crate) fn limit(&mut self) -> Parse<Option<Limit>> {
        if !self.eat("LIMIT") {
            return Ok(None);
        }
        let first = self.limit_value()?;
        if self.eat_sign(&Token::Comma) {
            return Ok(Some(Limit { count: self.limit_value()?, offset: Some(first) }));
        }
        let offset = if self.eat("OFFSET") { Some(self.limit_value()?) } else { None };
        Ok(Some(Limit { count: first, offset }))
    }

    fn limit_value(&mut self) -> Parse<Expr> {
        match self.peek() {
            Token::Placeholder(_) => self.prefix(),
            Token::Number(text, _) if text.bytes().all(|byte| byte.is_ascii_digit()) => {
                self.prefix()
            }
            _ => self.fail("an unsigned integer"),
        }
    }

    /// `FOR UPDATE ..`, `FOR SHARE ..`, `LOCK IN SHARE MODE`.
    fn locks(&mut self) -> Parse<Vec<LockClause>> {
        let mut locks = Vec::new();
        loop {
            if self.eat_all("LOCK IN SHARE MODE") {
                let strength = LockStrength::Share;
                locks.push(LockClause { strength, tables: Vec::new(), wait: LockWait::Default });
                continue;
            }
            let strength = if self.eat_all("FOR UPDATE") {
                LockStrength::Update
            } else if self.eat_all("FOR SHARE") {
                LockStrength::Share
            } else {
                return Ok(locks);
            };
            let tables =
                if self.eat("OF") { self.comma_list(Self::object_name)? } else { Vec::new() };
            let wait = if self.eat("NOWAIT") {
                LockWait::NoWait
            } else if self.eat_all("SKIP LOCKED") {
                LockWait::SkipLocked
            } else if self.eat("WAIT") {
                LockWait::Seconds(self.integer()?)
            } else {
                LockWait::Default
            };
            locks.push(LockClause { strength, tables, wait });
        }
    }
}
