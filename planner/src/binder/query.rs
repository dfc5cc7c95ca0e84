//! Whole queries: set operations, ORDER BY and LIMIT over them.

use std::sync::Arc;

use cairn_executor::plan::JoinKind;
use cairn_expr::Expr;
use cairn_parser::ast::{self, QueryBody, SetOperator};
use cairn_types::{FieldType, MysqlError, errno};

use super::{Binder, BoundQuery, ExprEnv, Field, Scope};
use crate::error::{PlanError, Result};
use crate::logical::{Logical, LogicalAggregate, LogicalJoin, SortKey};
use crate::plan::{RowCount, RowLimit};

impl<'a> Binder<'a> {
    /// Binds a query in the current scopes.
    pub(crate) fn query(&mut self, query: &'a ast::Query) -> Result<BoundQuery> {
        let before = self.push_ctes(query.with.as_ref());
        let bound = self.query_body(query);
        self.forget_ctes(before);
        bound
    }

    fn query_body(&mut self, query: &'a ast::Query) -> Result<BoundQuery> {
        if let QueryBody::Select(select) = &query.body {
            return self.select(select, query);
        }
        let bound = self.body(&query.body)?;
        self.ordered_and_limited(bound, query)
    }

    /// ORDER BY and LIMIT of a query that is no plain SELECT.
    pub(super) fn ordered_and_limited(
        &mut self,
        mut bound: BoundQuery,
        query: &'a ast::Query,
    ) -> Result<BoundQuery> {
        if !query.order_by.is_empty() {
            bound = self.order_result(bound, &query.order_by)?;
        }
        if let Some(limit) = &query.limit {
            let limit = self.limit(limit)?;
            bound.plan = Logical::Limit { limit, input: Box::new(bound.plan) };
        }
        Ok(bound)
    }

    pub(super) fn body(&mut self, body: &'a QueryBody) -> Result<BoundQuery> {
        match body {
            QueryBody::Select(select) => self.nested(|binder| binder.select_plain(select)),
            QueryBody::Nested(query) => self.nested(|binder| binder.query(query)),
            QueryBody::SetOperation { op: SetOperator::Union, .. } => self.union(body),
            QueryBody::SetOperation { op, all, left, right } => {
                self.except_or_intersect(*op, *all, left, right)
            }
            QueryBody::Values(rows) => self.values(rows),
            QueryBody::Table(name) => {
                let (plan, fields, _) = self.table_by_name(name)?;
                let fields: Vec<Field> = fields.into_iter().filter(|field| !field.hidden).collect();
                let exprs = fields.iter().map(|field| (field.col, field.expr())).collect();
                Ok(BoundQuery { plan: plan.project(exprs), fields })
            }
        }
    }

    /// ORDER BY of a set operation: positions and names of its columns.
    fn order_result(
        &mut self,
        bound: BoundQuery,
        order_by: &'a [ast::OrderByItem],
    ) -> Result<BoundQuery> {
        let BoundQuery { mut plan, fields } = bound;
        let names = fields.iter().map(|f| Field { table: "".into(), ..f.clone() }).collect();
        let by = self.with_scope(Scope::of(names), |binder| {
            let mut by = Vec::with_capacity(order_by.len());
            for item in order_by {
                let expr = match position(&item.expr, fields.len(), "order clause")? {
                    Some(at) => fields[at].expr(),
                    None => {
                        binder.expr(&item.expr, &mut ExprEnv::over("order clause", &mut plan))?
                    }
                };
                by.push(SortKey { expr, desc: item.descending });
            }
            Ok(by)
        })?;
        plan = Logical::Sort { by, input: Box::new(plan) };
        let exprs = fields.iter().map(|field| (field.col, field.expr())).collect();
        Ok(BoundQuery { plan: plan.project(exprs), fields })
    }

    /// A chain of UNIONs.
    fn union(&mut self, body: &'a QueryBody) -> Result<BoundQuery> {
        let mut bound = Vec::new();
        for (part, all) in union_parts(body) {
            bound.push((self.body(part)?, all));
        }
        self.combine(bound)
    }

    /// The parts of a chain of UNIONs, and whether each came after ALL. A UNION without ALL removes
    /// the duplicates of everything to its left.
    pub(super) fn combine(&mut self, parts: Vec<(BoundQuery, bool)>) -> Result<BoundQuery> {
        // ALL parts behind the last plain UNION are one list; before it, duplicates
        // go anyway, so that everything up to it is one list too.
        let last_distinct = parts.iter().skip(1).rposition(|(_, all)| !*all);
        let mut parts = parts.into_iter();
        let first = parts.next().ok_or_else(|| PlanError::internal("a union of nothing"))?;
        let mut bound = first.0;
        let mut pending: Vec<BoundQuery> = Vec::new();
        for (at, (part, _)) in parts.enumerate() {
            pending.push(part);
            if last_distinct == Some(at) {
                bound = self.union_all(bound, std::mem::take(&mut pending))?;
                bound.plan = distinct(bound.plan, &bound.fields);
            }
        }
        if !pending.is_empty() {
            bound = self.union_all(bound, pending)?;
        }
        Ok(bound)
    }

    fn union_all(&mut self, first: BoundQuery, others: Vec<BoundQuery>) -> Result<BoundQuery> {
        let (inputs, types, names) = self.unify(first, others)?;
        let mut fields = Vec::with_capacity(types.len());
        for (ty, name) in types.into_iter().zip(names) {
            let col = self.new_column(ty.clone());
            fields.push(plain_field(col, ty, name));
        }
        let columns = fields.iter().map(|field| field.col).collect();
        Ok(BoundQuery { plan: Logical::Union { columns, inputs }, fields })
    }

    /// Brings the columns of several queries to common types.
    #[expect(clippy::type_complexity, reason = "three lists with one reader each")]
    fn unify(
        &mut self,
        first: BoundQuery,
        others: Vec<BoundQuery>,
    ) -> Result<(Vec<(Logical, Vec<usize>)>, Vec<FieldType>, Vec<Arc<str>>)> {
        let names: Vec<Arc<str>> = first.fields.iter().map(|field| field.name.clone()).collect();
        let mut all = vec![first];
        all.extend(others);
        let types = self.common_types(&all.iter().collect::<Vec<_>>())?;
        let mut inputs = Vec::with_capacity(all.len());
        for bound in all {
            let mut exprs = Vec::with_capacity(types.len());
            for (field, ty) in bound.fields.iter().zip(&types) {
                let same = FieldType { not_null: field.ty.not_null, ..ty.clone() } == field.ty;
                exprs.push(if same {
                    (field.col, field.expr())
                } else {
                    let cast = cairn_expr::build_cast(field.expr(), ty.clone(), self.ctx.eval)?;
                    (self.new_column(ty.clone()), cast)
                });
            }
            let columns = exprs.iter().map(|(col, _)| *col).collect();
            inputs.push((bound.plan.project(exprs), columns));
        }
        Ok((inputs, types, names))
    }

    /// The types that hold the columns of several queries; error 1222 if they differ in number.
    pub(super) fn common_types(&mut self, queries: &[&BoundQuery]) -> Result<Vec<FieldType>> {
        let width = queries.first().map_or(0, |query| query.fields.len());
        if queries.iter().any(|query| query.fields.len() != width) {
            return Err(PlanError::mysql(errno::ER_WRONG_NUMBER_OF_COLUMNS_IN_SELECT, &[]));
        }
        let mut types = Vec::with_capacity(width);
        for at in 0..width {
            let column: Vec<Expr> = queries.iter().map(|query| query.fields[at].expr()).collect();
            let not_null = column.iter().all(|expr| expr.ty().not_null);
            let mut ty = self.call("coalesce", column)?.ty().clone();
            ty.not_null = not_null;
            types.push(ty);
        }
        Ok(types)
    }

    /// EXCEPT and INTERSECT: distinct left rows without (with) an equal right row;
    /// NULLs are equal here.
    fn except_or_intersect(
        &mut self,
        op: SetOperator,
        all: bool,
        left: &'a QueryBody,
        right: &'a QueryBody,
    ) -> Result<BoundQuery> {
        if all {
            return Err(PlanError::not_supported("EXCEPT ALL and INTERSECT ALL"));
        }
        let left = self.body(left)?;
        let right = self.body(right)?;
        let (mut inputs, types, names) = self.unify(left, vec![right])?;
        let (right, right_columns) = inputs.pop().ok_or_else(|| PlanError::internal("sides"))?;
        let (left, left_columns) = inputs.pop().ok_or_else(|| PlanError::internal("sides"))?;
        let mut conditions = Vec::with_capacity(types.len());
        for (l, r) in left_columns.iter().zip(&right_columns) {
            let args = vec![self.columns.expr(*l), self.columns.expr(*r)];
            conditions.push(self.call("<=>", args)?);
        }
        let fields: Vec<Field> = left_columns
            .iter()
            .zip(types.into_iter().zip(names))
            .map(|(col, (ty, name))| plain_field(*col, ty, name))
            .collect();
        let kind = if op == SetOperator::Except { JoinKind::Anti } else { JoinKind::Semi };
        let join = LogicalJoin {
            kind,
            conditions,
            in_keys: Vec::new(),
            mark: None,
            straight: false,
            left: distinct(left, &fields),
            right,
        };
        Ok(BoundQuery { plan: Logical::Join(Box::new(join)), fields })
    }

    fn values(&mut self, rows: &'a [Vec<ast::Expr>]) -> Result<BoundQuery> {
        let width = rows.first().map_or(0, Vec::len);
        let mut bound = Vec::with_capacity(rows.len());
        for (at, row) in rows.iter().enumerate() {
            if row.len() != width {
                return Err(PlanError::mysql(errno::ER_WRONG_VALUE_COUNT_ON_ROW, &[&(at + 1)]));
            }
            let mut values = Vec::with_capacity(width);
            for value in row {
                values.push(self.expr(value, &mut ExprEnv::new("field list"))?);
            }
            bound.push(values);
        }
        let mut fields = Vec::with_capacity(width);
        for at in 0..width {
            let column: Vec<Expr> = bound.iter().map(|row| row[at].clone()).collect();
            let not_null = column.iter().all(|expr| expr.ty().not_null);
            let mut ty = self.call("coalesce", column)?.ty().clone();
            ty.not_null = not_null;
            for row in &mut bound {
                let value = std::mem::replace(&mut row[at], Expr::null());
                row[at] = cairn_expr::build_cast(value, ty.clone(), self.ctx.eval)?;
            }
            let col = self.new_column(ty.clone());
            fields.push(plain_field(col, ty, format!("column_{at}").into()));
        }
        let columns = fields.iter().map(|field: &Field| field.col).collect();
        Ok(BoundQuery { plan: Logical::Values { columns, rows: bound }, fields })
    }

    /// LIMIT: integers or parameters.
    pub(super) fn limit(&mut self, limit: &ast::Limit) -> Result<RowLimit> {
        let count = row_count(&limit.count)?;
        let offset = match &limit.offset {
            Some(offset) => row_count(offset)?,
            None => RowCount::Const(0),
        };
        Ok(RowLimit { offset, count })
    }
}

/// The parts of a chain of UNIONs in order, and whether each comes after ALL.
pub(super) fn union_parts(body: &QueryBody) -> Vec<(&QueryBody, bool)> {
    let mut parts = Vec::new();
    let mut rest = body;
    while let QueryBody::SetOperation { op: SetOperator::Union, all, left, right } = rest {
        parts.push((&**right, *all));
        rest = left;
    }
    parts.push((rest, true));
    parts.reverse();
    parts
}

fn row_count(expr: &ast::Expr) -> Result<RowCount> {
    match expr {
        ast::Expr::Literal(ast::Literal::Integer(text)) => {
            Ok(RowCount::Const(text.parse().unwrap_or(u64::MAX)))
        }
        ast::Expr::Parameter(index) => Ok(RowCount::Param(*index as usize)),
        _ => Err(PlanError::Mysql(MysqlError::with_args(errno::ER_WRONG_ARGUMENTS, &[&"LIMIT"]))),
    }
}

/// `ORDER BY 2`: the offset it means.
pub(super) fn position(expr: &ast::Expr, width: usize, clause: &str) -> Result<Option<usize>> {
    let ast::Expr::Literal(ast::Literal::Integer(text)) = expr else { return Ok(None) };
    match text.parse::<usize>() {
        Ok(position) if position >= 1 && position <= width => Ok(Some(position - 1)),
        _ => Err(PlanError::unknown_column(text, clause)),
    }
}

/// Without duplicate rows.
pub(super) fn distinct(plan: Logical, fields: &[Field]) -> Logical {
    let mut groups: Vec<(usize, Expr)> = Vec::with_capacity(fields.len());
    for field in fields {
        if !groups.iter().any(|(col, _)| *col == field.col) {
            groups.push((field.col, field.expr()));
        }
    }
    Logical::Aggregate(Box::new(LogicalAggregate { groups, aggs: Vec::new(), input: plan }))
}

/// A column that belongs to no table.
pub(super) fn plain_field(col: usize, ty: FieldType, name: Arc<str>) -> Field {
    let empty: Arc<str> = "".into();
    let flags = ty.mysql_flags();
    Field {
        col,
        ty,
        name,
        table: empty.clone(),
        db: empty.clone(),
        org_name: empty.clone(),
        org_table: empty.clone(),
        org_db: empty,
        flags,
        hidden: false,
        qualified_only: false,
    }
}
