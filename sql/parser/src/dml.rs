//! Rules of `INSERT`, `REPLACE`, `UPDATE` and `DELETE`.

use sqlparser::tokenizer::Token;

use crate::ast::*;
use crate::grammar::{Grammar, Parse};

impl Grammar<'_, '_> {
    /// `INSERT ..` and `REPLACE ..`.
    pub(crate) fn insert(&mut self) -> Parse<Insert> {
        let replace = self.is("REPLACE");
        self.advance();
        let hints = self.hints();
        let priority = self.priority();
        let ignore = !replace && self.eat("IGNORE");
        let _ = self.eat("INTO");
        let table = self.object_name()?;
        let partitions = self.partition_list()?;
        let mut columns = Vec::new();
        let mut explicit_columns = false;
        let at_parenthesis = *self.peek() == Token::LParen;
        if at_parenthesis && !self.query_in_parentheses(self.at()) {
            explicit_columns = true;
            columns = self.parenthesised(|g| match g.peek() {
                Token::RParen => Ok(Vec::new()),
                _ => g.comma_list(Self::column_ref),
            })?;
        }
        let source = if !explicit_columns && self.eat("SET") {
            let assignments = self.assignments()?;
            explicit_columns = true;
            let (names, values): (Vec<_>, Vec<_>) =
                assignments.into_iter().map(|item| (item.column, item.value)).unzip();
            columns = names;
            InsertSource::Values(vec![values])
        } else if self.is("VALUES") || self.is("VALUE") {
            self.advance();
            InsertSource::Values(self.comma_list(Self::insert_row)?)
        } else {
            InsertSource::Query(Box::new(self.query()?))
        };
        let row_alias = if !replace && self.eat("AS") {
            let name = self.ident()?;
            let columns =
                if *self.peek() == Token::LParen { self.ident_list()? } else { Vec::new() };
            Some(RowAlias { name, columns })
        } else {
            None
        };
        let on_duplicate = if !replace && self.eat_all("ON DUPLICATE KEY UPDATE") {
            self.assignments()?
        } else {
            Vec::new()
        };
        Ok(Insert {
            replace,
            ignore,
            priority,
            hints,
            table,
            partitions,
            columns,
            explicit_columns,
            source,
            row_alias,
            on_duplicate,
        })
    }

    /// `(a, DEFAULT)`, `ROW(a, b)`, `()`.
    fn insert_row(&mut self) -> Parse<Vec<Expr>> {
        let _ = self.eat("ROW");
        self.parenthesised(|g| match g.peek() {
            Token::RParen => Ok(Vec::new()),
            _ => g.comma_list(Self::expr),
        })
    }

    fn priority(&mut self) -> Option<Priority> {
        match self.eat_one(&["LOW_PRIORITY", "DELAYED", "HIGH_PRIORITY"]) {
            Some("LOW_PRIORITY") => Some(Priority::Low),
            Some("DELAYED") => Some(Priority::Delayed),
            Some(_) => Some(Priority::High),
            None => None,
        }
    }

    /// `a = 1, b = DEFAULT`.
    fn assignments(&mut self) -> Parse<Vec<Assignment>> {
        self.comma_list(|g| {
            let column = g.column_ref()?;
            if !g.eat_equals() {
                return g.fail("=");
            }
            Ok(Assignment { column, value: g.expr()? })
        })
    }

    /// `UPDATE ..`.
    pub(crate) fn update(&mut self, with: Option<With>) -> Parse<Update> {
        self.expect("UPDATE")?;
        let hints = self.hints();
        let priority = self.priority();
        let ignore = self.eat("IGNORE");
        let tables = self.table_refs()?;
        self.expect("SET")?;
        let assignments = self.assignments()?;
        let selection = self.where_clause()?;
        let order_by = self.order_by()?;
        let limit = self.limit()?;
        Ok(Update {
            with,
            hints,
            priority,
            ignore,
            tables,
            assignments,
            selection,
            order_by,
            limit,
        })
    }

    /// `DELETE ..`.
    pub(crate) fn delete(&mut self, with: Option<With>) -> Parse<Delete> {
        self.expect("DELETE")?;
        let hints = self.hints();
        let priority = self.priority();
        let quick = self.eat("QUICK");
        let ignore = self.eat("IGNORE");
        let mut delete = Delete {
            with,
            hints,
            priority,
            quick,
            ignore,
            targets: Vec::new(),
            from: Vec::new(),
            selection: None,
            order_by: Vec::new(),
            limit: None,
        };
        if self.eat("FROM") {
            let (first, starred) = self.delete_target()?;
            if starred || *self.peek() == Token::Comma || self.is("USING") {
                delete.targets.push(first);
                while self.eat_sign(&Token::Comma) {
                    delete.targets.push(self.delete_target()?.0);
                }
                self.expect("USING")?;
                delete.from = self.table_refs()?;
            } else {
                delete.from.push(self.table_after_name(first)?);
            }
        } else {
            delete.targets = self.comma_list(|g| g.delete_target().map(|(name, _)| name))?;
            self.expect("FROM")?;
            delete.from = self.table_refs()?;
        }
        delete.selection = self.where_clause()?;
        if delete.targets.is_empty() {
            delete.order_by = self.order_by()?;
            delete.limit = self.limit()?;
        }
        Ok(delete)
    }

    /// `t`, `db.t`, `t.*`, and whether it had the star.
    fn delete_target(&mut self) -> Parse<(ObjectName, bool)> {
        let first = self.ident()?;
        if *self.peek() == Token::Period && *self.peek_nth(1) != Token::Mul {
            self.advance();
            let name = self.ident_after_dot()?;
            return Ok((ObjectName { schema: Some(first), name }, self.star_after_name()));
        }
        Ok((ObjectName::bare(first), self.star_after_name()))
    }

    fn star_after_name(&mut self) -> bool {
        let star = *self.peek() == Token::Period && *self.peek_nth(1) == Token::Mul;
        if star {
            self.advance();
            self.advance();
        }
        star
    }
}
