//! Queries back to SQL.

use std::fmt;

use super::Writer;
use crate::ast::*;

impl Writer<'_> {
    /// A query.
    pub(super) fn query(&mut self, query: &Query) -> fmt::Result {
        if let Some(with) = &query.with {
            self.put(if with.recursive { "WITH RECURSIVE " } else { "WITH " })?;
            self.list(&with.ctes, |w, cte| {
                w.name(&cte.name)?;
                if !cte.columns.is_empty() {
                    w.put(" (")?;
                    w.names(&cte.columns)?;
                    w.put(")")?;
                }
                w.put(" AS (")?;
                w.query(&cte.query)?;
                w.put(")")
            })?;
            self.put(" ")?;
        }
        self.body(&query.body)?;
        if !query.order_by.is_empty() {
            self.put(" ORDER BY ")?;
            self.list(&query.order_by, |w, item| w.order_by_item(item))?;
        }
        if let Some(limit) = &query.limit {
            self.put(" LIMIT ")?;
            self.expr(&limit.count)?;
            if let Some(offset) = &limit.offset {
                self.put(" OFFSET ")?;
                self.expr(offset)?;
            }
        }
        for lock in &query.locks {
            self.lock(lock)?;
        }
        Ok(())
    }

    fn lock(&mut self, lock: &LockClause) -> fmt::Result {
        self.put(match lock.strength {
            LockStrength::Update => " FOR UPDATE",
            LockStrength::Share => " FOR SHARE",
        })?;
        if !lock.tables.is_empty() {
            self.put(" OF ")?;
            self.list(&lock.tables, |w, table| w.object(table))?;
        }
        match lock.wait {
            LockWait::Default => Ok(()),
            LockWait::NoWait => self.put(" NOWAIT"),
            LockWait::SkipLocked => self.put(" SKIP LOCKED"),
            LockWait::Seconds(seconds) => self.put(&format!(" WAIT {seconds}")),
        }
    }

    fn body(&mut self, body: &QueryBody) -> fmt::Result {
        match body {
            QueryBody::Select(select) => self.select(select),
            QueryBody::SetOperation { op, all, left, right } => {
                self.set_operand(left, *op, true)?;
                self.put(match op {
                    SetOperator::Union => " UNION ",
                    SetOperator::Except => " EXCEPT ",
                    SetOperator::Intersect => " INTERSECT ",
                })?;
                self.put(if *all { "ALL " } else { "" })?;
                self.set_operand(right, *op, false)
            }
            QueryBody::Nested(query) => {
                self.put("(")?;
                self.query(query)?;
                self.put(")")
            }
            QueryBody::Values(rows) => {
                self.put("VALUES ")?;
                self.list(rows, |w, row| {
                    w.put("ROW(")?;
                    w.list(row, |w, value| w.expr(value))?;
                    w.put(")")
                })
            }
            QueryBody::Table(name) => {
                self.put("TABLE ")?;
                self.object(name)
            }
        }
    }

    fn set_operand(&mut self, body: &QueryBody, outer: SetOperator, left: bool) -> fmt::Result {
        let bare = match body {
            QueryBody::SetOperation { op: SetOperator::Intersect, .. } => {
                left || outer != SetOperator::Intersect
            }
            QueryBody::SetOperation { .. } => left && outer != SetOperator::Intersect,
            _ => true,
        };
        if bare && !self.grouped {
            return self.body(body);
        }
        self.put("(")?;
        self.body(body)?;
        self.put(")")
    }

    fn select(&mut self, select: &Select) -> fmt::Result {
        self.put("SELECT ")?;
        for hint in &select.hints {
            self.put("/*+ ")?;
            self.put(hint)?;
            self.put(" */ ")?;
        }
        let modifiers = &select.modifiers;
        for (set, word) in [
            (modifiers.distinct, "DISTINCT "),
            (modifiers.high_priority, "HIGH_PRIORITY "),
            (modifiers.straight_join, "STRAIGHT_JOIN "),
            (modifiers.no_cache, "SQL_NO_CACHE "),
            (modifiers.calc_found_rows, "SQL_CALC_FOUND_ROWS "),
        ] {
            self.put(if set { word } else { "" })?;
        }
        self.list(&select.items, |w, item| match item {
            SelectItem::Wildcard => w.put("*"),
            SelectItem::QualifiedWildcard(name) => {
                w.object(name)?;
                w.put(".*")
            }
            SelectItem::Expr { expr, alias, .. } => {
                w.expr(expr)?;
                w.alias(alias.as_deref())
            }
        })?;
        if !select.from.is_empty() {
            self.put(" FROM ")?;
            self.list(&select.from, |w, table| w.table_ref(table))?;
        }
        if let Some(selection) = &select.selection {
            self.put(" WHERE ")?;
            self.expr(selection)?;
        }
        if !select.group_by.is_empty() {
            self.put(" GROUP BY ")?;
            self.list(&select.group_by, |w, expr| w.expr(expr))?;
            self.put(if select.rollup { " WITH ROLLUP" } else { "" })?;
        }
        if let Some(having) = &select.having {
            self.put(" HAVING ")?;
            self.expr(having)?;
        }
        if !select.windows.is_empty() {
            self.put(" WINDOW ")?;
            self.list(&select.windows, |w, window| {
                w.name(&window.name)?;
                w.put(" AS ")?;
                w.window_spec(&window.spec)
            })?;
        }
        Ok(())
    }

    fn alias(&mut self, alias: Option<&str>) -> fmt::Result {
        match alias {
            Some(alias) => {
                self.put(" AS ")?;
                self.name(alias)
            }
            None => Ok(()),
        }
    }

    fn table_ref(&mut self, table: &TableRef) -> fmt::Result {
        match table {
            TableRef::Table(factor) => self.table_factor(factor),
            TableRef::Derived { query, alias, columns, lateral } => {
                self.put(if *lateral { "LATERAL (" } else { "(" })?;
                self.query(query)?;
                self.put(")")?;
                self.alias(Some(alias))?;
                if !columns.is_empty() {
                    self.put(" (")?;
                    self.names(columns)?;
                    self.put(")")?;
                }
                Ok(())
            }
            TableRef::Join(join) => self.join(join),
            TableRef::Group(tables) => {
                self.put("(")?;
                self.list(tables, |w, table| w.table_ref(table))?;
                self.put(")")
            }
        }
    }

    fn table_factor(&mut self, factor: &TableFactor) -> fmt::Result {
        self.object(&factor.name)?;
        if !factor.partitions.is_empty() {
            self.put(" PARTITION (")?;
            self.names(&factor.partitions)?;
            self.put(")")?;
        }
        if let Some(as_of) = &factor.as_of {
            self.put(" AS OF TIMESTAMP ")?;
            self.expr(as_of)?;
        }
        self.alias(factor.alias.as_deref())?;
        for hint in &factor.index_hints {
            self.put(match hint.kind {
                IndexHintKind::Use => " USE INDEX ",
                IndexHintKind::Force => " FORCE INDEX ",
                IndexHintKind::Ignore => " IGNORE INDEX ",
            })?;
            self.put(match hint.scope {
                IndexHintScope::All => "(",
                IndexHintScope::Join => "FOR JOIN (",
                IndexHintScope::OrderBy => "FOR ORDER BY (",
                IndexHintScope::GroupBy => "FOR GROUP BY (",
            })?;
            self.names(&hint.indexes)?;
            self.put(")")?;
        }
        Ok(())
    }

    fn join(&mut self, join: &Join) -> fmt::Result {
        self.join_side(&join.left, !self.grouped)?;
        self.put(match (&join.condition, join.kind) {
            (JoinCondition::Natural, JoinKind::Inner) => " NATURAL JOIN ",
            (JoinCondition::Natural, JoinKind::Left) => " NATURAL LEFT JOIN ",
            (JoinCondition::Natural, _) => " NATURAL RIGHT JOIN ",
            (_, JoinKind::Inner) => " JOIN ",
            (_, JoinKind::Left) => " LEFT JOIN ",
            (_, JoinKind::Right) => " RIGHT JOIN ",
            (_, JoinKind::Straight) => " STRAIGHT_JOIN ",
        })?;
        self.join_side(&join.right, false)?;
        match &join.condition {
            JoinCondition::None | JoinCondition::Natural => Ok(()),
            JoinCondition::On(expr) => {
                self.put(" ON ")?;
                self.expr(expr)
            }
            JoinCondition::Using(columns) => {
                self.put(" USING (")?;
                self.names(columns)?;
                self.put(")")
            }
        }
    }

    fn join_side(&mut self, table: &TableRef, bare: bool) -> fmt::Result {
        if bare || !matches!(table, TableRef::Join(_)) {
            return self.table_ref(table);
        }
        self.put("(")?;
        self.table_ref(table)?;
        self.put(")")
    }
}
