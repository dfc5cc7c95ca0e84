//! SELECT proper.
//!
//! ```text
//! from ─ where ─ [group] ─ [having] ─ [windows] ─ items (+ sort keys) ─ [distinct] ─ [sort] ─ [limit]
//! ```
//!
//! Who sees whom (MySQL): WHERE and GROUP BY see columns, GROUP BY then aliases;
//! HAVING sees group columns, then aliases, then columns; ORDER BY sees aliases first
//! where it is a bare name, else columns first.

use std::sync::Arc;

use cairn_expr::{Expr, SqlMode};
use cairn_parser::ast::{self, SelectItem};
use cairn_types::{MysqlError, errno};

use super::aggregate::{
    Aggregates, GroupCheck, determined_columns, has_aggregate, has_window, spec_exprs,
};
use super::from::BaseTable;
use super::query::{distinct, plain_field, position};
use super::window::WindowBinder;
use super::{Binder, BoundQuery, ExprEnv, Field, Scope, find_field};
use crate::error::{PlanError, Result};
use crate::logical::{Col, Logical, LogicalAggregate, LogicalLock, SortKey};
use crate::plan::{AccessKind, RowLock};

/// A selected item before its expression is bound.
enum Item<'a> {
    /// A column of `*`.
    Field(Field),
    /// An expression with its name.
    Expr(&'a ast::Expr, Arc<str>),
}

impl<'a> Item<'a> {
    fn written(&self) -> Option<&'a ast::Expr> {
        match self {
            Item::Field(_) => None,
            Item::Expr(expr, _) => Some(expr),
        }
    }
}

/// What is computed below the items.
#[derive(Clone, Copy)]
struct Known<'k> {
    aggregates: &'k [(ast::AggregateCall, Col)],
    windows: &'k [(ast::WindowCall, Col)],
}

impl<'k> Known<'k> {
    fn env<'e>(&self, clause: &'static str, top: &'e mut Logical) -> ExprEnv<'e>
    where
        'k: 'e,
    {
        let (aggregates, windows) = (Some(self.aggregates), Some(self.windows));
        ExprEnv { clause, plan: Some(top), aggregates, windows }
    }

    /// Error 3594 if an alias in HAVING stands for a window function.
    fn refuse_windows(&self, condition: &Expr, items: &[BoundItem]) -> Result<()> {
        let is_window = |col: &Col| self.windows.iter().any(|(_, known)| known == col);
        let Some(col) = condition.columns().into_iter().find(is_window) else { return Ok(()) };
        let item = items.iter().find(|item| item.expr.columns().contains(&col));
        let name = item.map_or("", |item| &item.field.name);
        Err(PlanError::mysql(errno::ER_WINDOW_INVALID_WINDOW_FUNC_ALIAS_USE, &[&name]))
    }
}

/// A selected item.
struct BoundItem {
    expr: Expr,
    field: Field,
}

impl<'a> Binder<'a> {
    /// A SELECT that is part of a set operation: nothing above it.
    pub(super) fn select_plain(&mut self, select: &'a ast::Select) -> Result<BoundQuery> {
        self.select_with(select, &[], None, &[])
    }

    /// A SELECT with the ORDER BY, LIMIT and locks of its query.
    pub(super) fn select(
        &mut self,
        select: &'a ast::Select,
        query: &'a ast::Query,
    ) -> Result<BoundQuery> {
        self.select_with(select, &query.order_by, query.limit.as_ref(), &query.locks)
    }

    fn select_with(
        &mut self,
        select: &'a ast::Select,
        order_by: &'a [ast::OrderByItem],
        limit: Option<&'a ast::Limit>,
        locks: &'a [ast::LockClause],
    ) -> Result<BoundQuery> {
        if select.rollup {
            return Err(PlanError::not_supported("WITH ROLLUP"));
        }
        let (mut plan, fields, bases) = self.from(&select.from)?;
        self.join_hints(&select.hints, &mut plan);
        if select.modifiers.straight_join {
            super::hints::fix_order(&mut plan);
        }
        let scope = Scope::of(fields.clone());
        self.with_scope(scope, |binder| {
            let body = SelectBody { select, order_by, limit, locks, fields, bases };
            body.bind(binder, plan)
        })
    }

    /// WHERE, or a HAVING that filters rows: subquery tests are joined, the rest is a
    /// filter. Returns the conditions of the filter.
    pub(super) fn conditions(
        &mut self,
        condition: &'a ast::Expr,
        plan: &mut Logical,
        clause: &'static str,
    ) -> Result<Vec<Expr>> {
        let terms: &[ast::Expr] = match condition {
            ast::Expr::And(terms) => terms,
            other => std::slice::from_ref(other),
        };
        let mut conditions = Vec::with_capacity(terms.len());
        for term in terms {
            let mut env = ExprEnv::over(clause, plan);
            if !self.join_condition_subquery(term, &mut env)? {
                conditions.extend(self.expr(term, &mut env)?.split_cnf());
            }
        }
        let below = std::mem::replace(plan, Logical::one_row());
        *plan = below.filter(conditions.clone());
        Ok(conditions)
    }
}

/// What a SELECT is made of, once FROM is bound.
struct SelectBody<'a> {
    select: &'a ast::Select,
    order_by: &'a [ast::OrderByItem],
    limit: Option<&'a ast::Limit>,
    locks: &'a [ast::LockClause],
    fields: Vec<Field>,
    bases: Vec<BaseTable>,
}

impl<'a> SelectBody<'a> {
    fn bind(&self, binder: &mut Binder<'a>, mut plan: Logical) -> Result<BoundQuery> {
        let select = self.select;
        let source = plan.output_set();
        let conditions = match &select.selection {
            Some(condition) => binder.conditions(condition, &mut plan, "where clause")?,
            None => Vec::new(),
        };
        let items = self.expand()?;
        let aggregates = self.collect_aggregates(binder, &items)?;
        let grouped = !select.group_by.is_empty() || !aggregates.aggs.is_empty();
        let lock = self.lock(binder)?;
        let lock_below = grouped || select.modifiers.distinct;
        if let (Some(lock), true) = (&lock, lock_below) {
            plan = Logical::Lock { lock: Box::new(lock.clone()), input: Box::new(plan) };
        }
        let groups = self.groups(binder, &items, &mut plan)?;
        let mut grouping =
            LogicalAggregate { groups, aggs: aggregates.aggs.clone(), input: Logical::one_row() };
        let determined = determined_columns(&grouping.groups, &conditions, &self.bases);
        let strict = binder.ctx.eval.sql_mode.has(SqlMode::ONLY_FULL_GROUP_BY);
        // Subqueries of the items are joined to the rows above the grouping, which is
        // complete only when all are bound: they join to a stand-in first.
        let mut top = if grouped {
            Logical::Dual { rows: 1, columns: Vec::new() }
        } else {
            std::mem::replace(&mut plan, Logical::one_row())
        };
        let mut check = GroupCheck {
            aggregate: &mut grouping,
            source: &source,
            determined: &determined,
            strict,
            has_group_by: !select.group_by.is_empty(),
        };
        let mut exprs: Vec<&'a ast::Expr> = Vec::new();
        exprs.extend(items.iter().filter_map(Item::written));
        exprs.extend(self.order_by.iter().map(|item| &item.expr));
        let mut bind = WindowBinder {
            named: &select.windows,
            aggregates: &aggregates.known,
            top: &mut top,
            check: grouped.then_some(&mut check),
        };
        let windows = bind.bind(binder, &exprs)?;
        let known = Known { aggregates: &aggregates.known, windows: &windows.known };
        let mut items = self.bind_items(binder, items, known, &mut top)?;
        if grouped {
            for (at, item) in items.iter_mut().enumerate() {
                let expr = std::mem::replace(&mut item.expr, Expr::null());
                item.expr = check.rewrite(binder, expr, (at + 1, "SELECT list"))?;
            }
        }
        let having = self.having(binder, &items, known, &mut top, grouped.then_some(&mut check))?;
        let keys = self.order(binder, &items, known, &mut top, grouped.then_some(&mut check))?;
        if grouped {
            grouping.input = plan;
            top = replace_stand_in(top, Logical::Aggregate(Box::new(grouping)));
        }
        plan = windows.above(binder, top.filter(having));
        let lock = lock.filter(|_| !lock_below);
        self.finish(binder, plan, items, keys, lock)
    }

    /// Items, sort, distinct, limit.
    fn finish(
        &self,
        binder: &mut Binder<'a>,
        plan: Logical,
        items: Vec<BoundItem>,
        keys: Vec<SortKey>,
        lock: Option<LogicalLock>,
    ) -> Result<BoundQuery> {
        let mut exprs: Vec<(usize, Expr)> = Vec::with_capacity(items.len());
        let mut fields = Vec::with_capacity(items.len());
        for item in items {
            let same = exprs.iter().find(|(_, expr)| {
                *expr == item.expr && expr.is_deterministic() && expr.ty() == item.expr.ty()
            });
            let col = match (item.expr.as_column(), same) {
                (Some(col), _) => col,
                (None, Some((col, _))) => *col,
                (None, None) => binder.new_column(item.expr.ty().clone()),
            };
            fields.push(Field { col, ..item.field });
            if !exprs.iter().any(|(known, _)| *known == col) {
                exprs.push((col, item.expr));
            }
        }
        let visible = exprs.clone();
        let mut by = Vec::with_capacity(keys.len());
        for (at, key) in keys.into_iter().enumerate() {
            let col = match exprs.iter().find(|(_, expr)| *expr == key.expr) {
                Some((col, _)) => *col,
                None => {
                    // Computed from selected columns alone: behind the DISTINCT.
                    let selected = |col: &usize| visible.iter().any(|(known, _)| known == col);
                    if self.select.modifiers.distinct && key.expr.columns().iter().all(selected) {
                        by.push(key);
                        continue;
                    }
                    if self.select.modifiers.distinct {
                        return Err(PlanError::mysql(
                            errno::ER_FIELD_IN_ORDER_NOT_SELECT,
                            &[&(at + 1), &"ORDER BY clause", &self.order_text(at), &"DISTINCT"],
                        ));
                    }
                    let col = match key.expr.as_column() {
                        Some(col) => col,
                        None => binder.new_column(key.expr.ty().clone()),
                    };
                    exprs.push((col, key.expr.clone()));
                    col
                }
            };
            by.push(SortKey { expr: Expr::column(col, key.expr.ty().clone()), desc: key.desc });
        }
        if let Some(lock) = &lock {
            for col in lock.tables.iter().flat_map(|(_, cols)| cols) {
                if !exprs.iter().any(|(known, _)| known == col) {
                    exprs.push((*col, binder.columns.expr(*col)));
                }
            }
        }
        let trimmed = exprs.len() > visible.len();
        let mut plan = plan.project(exprs);
        if self.select.modifiers.distinct {
            plan = distinct(plan, &fields);
        }
        if !by.is_empty() {
            plan = Logical::Sort { by, input: Box::new(plan) };
        }
        // Rows that others hold do not count for the limit.
        let skips = matches!(&lock, Some(lock) if lock.how.wait == ast::LockWait::SkipLocked);
        if let Some(lock) = lock.as_ref().filter(|_| skips) {
            plan = Logical::Lock { lock: Box::new(lock.clone()), input: Box::new(plan) };
        }
        if let Some(limit) = self.limit {
            let limit = binder.limit(limit)?;
            plan = Logical::Limit { limit, input: Box::new(plan) };
        }
        if let Some(lock) = lock.filter(|_| !skips) {
            plan = Logical::Lock { lock: Box::new(lock), input: Box::new(plan) };
        }
        if trimmed {
            let exprs = visible
                .into_iter()
                .map(|(col, expr)| (col, Expr::column(col, expr.ty().clone())))
                .collect();
            plan = plan.project(exprs);
        }
        Ok(BoundQuery { plan, fields })
    }

    fn order_text(&self, at: usize) -> String {
        match self.order_by.get(at).map(|item| &item.expr) {
            Some(ast::Expr::Column(name)) => super::full_name(name),
            _ => String::new(),
        }
    }

    /// `*` and `t.*` written out.
    fn expand(&self) -> Result<Vec<Item<'a>>> {
        let mut items = Vec::with_capacity(self.select.items.len());
        for item in &self.select.items {
            match item {
                SelectItem::Wildcard => {
                    if self.select.from.is_empty() {
                        return Err(PlanError::Mysql(MysqlError::new(
                            errno::ER_NO_TABLES_USED,
                            "No tables used",
                        )));
                    }
                    let fields = self.fields.iter().filter(|f| !f.hidden && !f.qualified_only);
                    items.extend(fields.cloned().map(Item::Field));
                }
                SelectItem::QualifiedWildcard(name) => {
                    let mut fields: Vec<&Field> = self
                        .fields
                        .iter()
                        .filter(|field| {
                            let db = name.schema.as_ref();
                            !field.hidden
                                && field.table.eq_ignore_ascii_case(&name.name)
                                && db.is_none_or(|db| field.db.eq_ignore_ascii_case(db))
                        })
                        .collect();
                    if fields.is_empty() {
                        return Err(PlanError::mysql(errno::ER_BAD_TABLE_ERROR, &[&name]));
                    }
                    // In table order, wherever USING has put them.
                    fields.sort_by_key(|field| field.col);
                    fields.dedup_by_key(|field| field.col);
                    items.extend(fields.into_iter().cloned().map(Item::Field));
                }
                SelectItem::Expr { expr, alias, text } => {
                    let name: Arc<str> = match (alias, expr) {
                        (Some(alias), _) => alias.as_str().into(),
                        (None, ast::Expr::Column(name)) => name.column.as_str().into(),
                        (None, ast::Expr::Literal(ast::Literal::String { value, .. })) => {
                            value.trim_start().into()
                        }
                        (None, _) => text.trim().into(),
                    };
                    items.push(Item::Expr(expr, name));
                }
            }
        }
        Ok(items)
    }

    fn collect_aggregates(
        &self,
        binder: &mut Binder<'a>,
        items: &[Item<'a>],
    ) -> Result<Aggregates> {
        let mut exprs: Vec<&'a ast::Expr> = items.iter().filter_map(Item::written).collect();
        exprs.extend(self.select.windows.iter().flat_map(|window| spec_exprs(&window.spec)));
        exprs.extend(self.select.having.as_ref());
        exprs.extend(self.order_by.iter().map(|item| &item.expr));
        if self.select.group_by.iter().any(has_aggregate) {
            return Err(PlanError::mysql(errno::ER_INVALID_GROUP_FUNC_USE, &[]));
        }
        binder.aggregates(&exprs, "field list")
    }

    /// GROUP BY: columns, then aliases, positions.
    fn groups(
        &self,
        binder: &mut Binder<'a>,
        items: &[Item<'a>],
        plan: &mut Logical,
    ) -> Result<Vec<(usize, Expr)>> {
        let mut groups: Vec<(usize, Expr)> = Vec::new();
        for written in &self.select.group_by {
            let expr = match position(written, items.len(), "group statement")? {
                Some(at) => self.group_item(binder, &items[at], plan)?,
                None => self.group_expr(binder, written, items, plan)?,
            };
            if groups.iter().any(|(_, group)| *group == expr)
                || expr.is_constant() && !expr.has_params()
            {
                continue;
            }
            let col = match expr.as_column() {
                Some(col) => col,
                None => binder.new_column(expr.ty().clone()),
            };
            groups.push((col, expr));
        }
        // `GROUP BY 'constant'`: one group, and none of no rows.
        if groups.is_empty() && !self.select.group_by.is_empty() {
            let expr = Expr::int(1);
            groups.push((binder.new_column(expr.ty().clone()), expr));
        }
        Ok(groups)
    }

    fn group_expr(
        &self,
        binder: &mut Binder<'a>,
        written: &'a ast::Expr,
        items: &[Item<'a>],
        plan: &mut Logical,
    ) -> Result<Expr> {
        if let ast::Expr::Column(name) = written
            && name.table.is_none()
            && find_field(&self.fields, name, "group statement")?.is_none()
        {
            let named = items.iter().find(|item| match item {
                Item::Expr(_, alias) => alias.eq_ignore_ascii_case(&name.column),
                Item::Field(_) => false,
            });
            if let Some(item) = named {
                return self.group_item(binder, item, plan);
            }
        }
        binder.expr(written, &mut ExprEnv::over("group statement", plan))
    }

    fn group_item(
        &self,
        binder: &mut Binder<'a>,
        item: &Item<'a>,
        plan: &mut Logical,
    ) -> Result<Expr> {
        match item {
            Item::Field(field) => Ok(field.expr()),
            Item::Expr(expr, name) if has_aggregate(expr) || has_window(expr) => {
                Err(PlanError::mysql(errno::ER_WRONG_GROUP_FIELD, &[name]))
            }
            Item::Expr(expr, _) => binder.expr(expr, &mut ExprEnv::over("group statement", plan)),
        }
    }

    fn bind_items(
        &self,
        binder: &mut Binder<'a>,
        items: Vec<Item<'a>>,
        known: Known<'_>,
        top: &mut Logical,
    ) -> Result<Vec<BoundItem>> {
        let mut bound = Vec::with_capacity(items.len());
        for item in items {
            bound.push(match item {
                Item::Field(field) => BoundItem { expr: field.expr(), field },
                Item::Expr(written, name) => {
                    let mut env = known.env("field list", top);
                    let expr = binder.expr(written, &mut env)?;
                    let source = match written {
                        ast::Expr::Column(column) => {
                            find_field(&self.fields, column, "field list")?
                        }
                        _ => None,
                    };
                    let field = match source {
                        Some(field) => Field { name, ..field.clone() },
                        None => plain_field(usize::MAX, expr.ty().clone(), name),
                    };
                    BoundItem { expr, field }
                }
            });
        }
        Ok(bound)
    }

    /// HAVING.
    fn having(
        &self,
        binder: &mut Binder<'a>,
        items: &[BoundItem],
        known: Known<'_>,
        top: &mut Logical,
        check: Option<&mut GroupCheck<'_>>,
    ) -> Result<Vec<Expr>> {
        let Some(written) = &self.select.having else { return Ok(Vec::new()) };
        let mut aliases = aliases(items);
        if let Some(check) = &check {
            // A group column wins over an alias of the same name.
            aliases.retain(|(name, _)| {
                let column = ast::ColumnRef::bare(&**name);
                match find_field(&self.fields, &column, "having clause") {
                    Ok(Some(field)) => {
                        !check.aggregate.groups.iter().any(|(col, _)| *col == field.col)
                    }
                    _ => true,
                }
            });
        }
        let scope = Scope { fields: self.fields.clone(), aliases, aliases_first: true };
        let terms: &[ast::Expr] = match written {
            ast::Expr::And(terms) => terms,
            other => std::slice::from_ref(other),
        };
        let mut conditions = Vec::with_capacity(terms.len());
        binder.with_scope(scope, |binder| {
            for term in terms {
                let mut env = ExprEnv { windows: None, ..known.env("having clause", top) };
                let condition = binder.expr(term, &mut env)?;
                known.refuse_windows(&condition, items)?;
                conditions.push(condition);
            }
            Ok(())
        })?;
        if let Some(check) = check {
            for condition in &mut conditions {
                let expr = std::mem::replace(condition, Expr::null());
                *condition = check.rewrite(binder, expr, (1, "HAVING clause"))?;
            }
        }
        Ok(conditions.into_iter().flat_map(Expr::split_cnf).collect())
    }

    /// ORDER BY.
    fn order(
        &self,
        binder: &mut Binder<'a>,
        items: &[BoundItem],
        known: Known<'_>,
        top: &mut Logical,
        mut check: Option<&mut GroupCheck<'_>>,
    ) -> Result<Vec<SortKey>> {
        let mut keys: Vec<SortKey> = Vec::with_capacity(self.order_by.len());
        for (at, written) in self.order_by.iter().enumerate() {
            let expr = match position(&written.expr, items.len(), "order clause")? {
                Some(at) => items[at].expr.clone(),
                None => {
                    let bare = matches!(written.expr, ast::Expr::Column(_));
                    let scope = Scope {
                        fields: self.fields.clone(),
                        aliases: aliases(items),
                        aliases_first: bare,
                    };
                    let mut expr = binder.with_scope(scope, |binder| {
                        let mut env = known.env("order clause", top);
                        binder.expr(&written.expr, &mut env)
                    })?;
                    if let Some(check) = check.as_mut().filter(|check| check.has_group_by) {
                        expr = check.rewrite(binder, expr, (at + 1, "ORDER BY"))?;
                    }
                    expr
                }
            };
            // One row has no order.
            let one_row = check.as_ref().is_some_and(|check| !check.has_group_by);
            if !one_row && !expr.is_constant() && !keys.iter().any(|key| key.expr == expr) {
                keys.push(SortKey { expr, desc: written.descending });
            }
        }
        Ok(keys)
    }

    /// FOR UPDATE and its kin; the first clause decides how others are waited for, the strongest
    /// one how the rows are locked.
    fn lock(&self, binder: &mut Binder<'_>) -> Result<Option<LogicalLock>> {
        let Some(first) = self.locks.first() else { return Ok(None) };
        let mut tables = Vec::new();
        for clause in self.locks {
            for name in &clause.tables {
                if !self.bases.iter().any(|base| base.alias.eq_ignore_ascii_case(&name.name)) {
                    return Err(PlanError::mysql(errno::ER_BAD_TABLE_ERROR, &[name]));
                }
            }
        }
        let is_update = self.locks.iter().any(|one| one.strength == ast::LockStrength::Update);
        let strength = if is_update { ast::LockStrength::Update } else { ast::LockStrength::Share };
        for base in &self.bases {
            let named = self.locks.iter().any(|clause| {
                clause.tables.is_empty()
                    || clause.tables.iter().any(|t| t.name.eq_ignore_ascii_case(&base.alias))
            });
            if named {
                tables.push((base.table.clone(), base.handle.clone()));
                if is_update {
                    super::dml::access(binder, base, AccessKind::Lock);
                }
            }
        }
        if tables.is_empty() {
            return Ok(None);
        }
        let how = RowLock { strength, wait: first.wait };
        Ok(Some(LogicalLock { how, tables }))
    }
}

fn aliases(items: &[BoundItem]) -> Vec<(Arc<str>, Expr)> {
    items.iter().map(|item| (item.field.name.clone(), item.expr.clone())).collect()
}

/// Puts `grouping` where the stand-in for it is: at the bottom of the left sides.
fn replace_stand_in(plan: Logical, grouping: Logical) -> Logical {
    match plan {
        Logical::Dual { .. } => grouping,
        Logical::Join(mut join) => {
            let left = std::mem::replace(&mut join.left, Logical::one_row());
            join.left = replace_stand_in(left, grouping);
            Logical::Join(join)
        }
        Logical::Filter { conditions, input } => {
            Logical::Filter { conditions, input: Box::new(replace_stand_in(*input, grouping)) }
        }
        other => other,
    }
}
