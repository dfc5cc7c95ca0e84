//! Grouping: which aggregates a SELECT computes, and which columns it may show.
//!
//! With `only_full_group_by` a column outside of aggregates must be a group column or
//! depend on them: because a whole primary (or unique NOT NULL) key of its table is
//! determined, or WHERE makes it equal to something determined. Without the mode such
//! a column has the value of some row of the group (`first_row`).
//!
//! Left out: dependence through derived tables and outer joins' ON conditions.

use std::collections::BTreeSet;

use cairn_expr::agg::{AggDesc, AggFunc};
use cairn_expr::{Expr, Func};
use cairn_parser::ast;
use cairn_types::errno;

use super::from::BaseTable;
use super::{Binder, ExprEnv};
use crate::error::{PlanError, Result};
use crate::logical::{Col, LogicalAggregate};

/// Aggregates of a SELECT, as written and as bound.
#[derive(Default)]
pub(super) struct Aggregates {
    /// Where each call's value is.
    pub known: Vec<(ast::AggregateCall, Col)>,
    /// The distinct ones among them.
    pub aggs: Vec<(Col, AggDesc)>,
}

impl<'a> Binder<'a> {
    /// Binds the aggregates that appear in `exprs`.
    pub(super) fn aggregates(
        &mut self,
        exprs: &[&'a ast::Expr],
        env_clause: &'static str,
    ) -> Result<Aggregates> {
        let mut calls: Vec<&'a ast::AggregateCall> = Vec::new();
        for expr in exprs {
            walk(expr, &mut |expr| match expr {
                ast::Expr::Aggregate(call) => {
                    if !calls.contains(&&**call) {
                        calls.push(call);
                    }
                    false
                }
                _ => true,
            });
        }
        let mut result = Aggregates::default();
        for call in calls {
            let agg = self.aggregate_call(call, env_clause)?;
            let same = result.aggs.iter().find(|(_, other)| *other == agg);
            let col = match same {
                Some((col, _)) => *col,
                None => {
                    let col = self.new_column(agg.ty.clone());
                    result.aggs.push((col, agg));
                    col
                }
            };
            result.known.push((call.clone(), col));
        }
        Ok(result)
    }

    fn aggregate_call(
        &mut self,
        call: &'a ast::AggregateCall,
        clause: &'static str,
    ) -> Result<AggDesc> {
        let mut args = Vec::with_capacity(call.args.len());
        for arg in &call.args {
            args.push(self.expr(arg, &mut ExprEnv::new(clause))?);
        }
        let func =
            AggFunc::from_name(&call.name).ok_or_else(|| PlanError::not_supported(&call.name))?;
        if func != AggFunc::GroupConcat {
            return self.build_aggregate(func, args, call.distinct);
        }
        let mut order_by = Vec::with_capacity(call.order_by.len());
        for item in &call.order_by {
            let expr = match super::query::position(&item.expr, args.len(), "order clause")? {
                Some(at) => args[at].clone(),
                None => self.expr(&item.expr, &mut ExprEnv::new("order clause"))?,
            };
            order_by.push((expr, item.descending));
        }
        let separator = call.separator.clone();
        let eval = &mut *self.ctx.eval;
        Ok(AggDesc::group_concat(args, call.distinct, order_by, separator, eval)?)
    }

    /// An aggregate with its type.
    pub(super) fn build_aggregate(
        &mut self,
        func: AggFunc,
        args: Vec<Expr>,
        distinct: bool,
    ) -> Result<AggDesc> {
        Ok(AggDesc::new(func, args, distinct, self.ctx.eval)?)
    }
}

/// What may be shown above a grouping.
pub(super) struct GroupCheck<'s> {
    /// The grouping; columns that are needed from some row of the group are added.
    pub aggregate: &'s mut LogicalAggregate,
    /// Columns of FROM.
    pub source: &'s BTreeSet<Col>,
    /// Columns that depend on the group.
    pub determined: &'s BTreeSet<Col>,
    /// `only_full_group_by`.
    pub strict: bool,
    /// A GROUP BY was written.
    pub has_group_by: bool,
}

impl GroupCheck<'_> {
    /// `expr` over the grouping's output. `place`: number and clause, for messages.
    pub(super) fn rewrite(
        &mut self,
        binder: &mut Binder<'_>,
        expr: Expr,
        place: (usize, &str),
    ) -> Result<Expr> {
        if let Some((col, _)) = self.aggregate.groups.iter().find(|(_, group)| *group == expr) {
            return Ok(Expr::column(*col, expr.ty().clone()));
        }
        match expr {
            Expr::Function { func: Func::AnyValue, args, ty, .. } => {
                for arg in &args {
                    for col in arg.columns() {
                        self.add_first_row(binder, col)?;
                    }
                }
                Ok(Expr::function(Func::AnyValue, args, ty))
            }
            Expr::Function { func, args, ty, .. } => {
                let args: Result<Vec<Expr>> =
                    args.into_iter().map(|arg| self.rewrite(binder, arg, place)).collect();
                Ok(Expr::function(func, args?, ty))
            }
            Expr::Column { index, ty } => {
                if self.source.contains(&index) {
                    self.check(binder, index, place)?;
                    self.add_first_row(binder, index)?;
                }
                Ok(Expr::Column { index, ty })
            }
            other => Ok(other),
        }
    }

    fn check(&self, binder: &Binder<'_>, col: Col, place: (usize, &str)) -> Result<()> {
        if !self.strict || self.determined.contains(&col) {
            return Ok(());
        }
        let (number, clause) = place;
        let name = binder.columns.name(col);
        let code = if self.has_group_by {
            errno::ER_WRONG_FIELD_WITH_GROUP
        } else {
            errno::ER_MIX_OF_GROUP_FUNC_AND_FIELDS
        };
        Err(PlanError::mysql(code, &[&number, &clause, &name]))
    }

    /// Keeps a column's number above the grouping: its value in some row.
    fn add_first_row(&mut self, binder: &mut Binder<'_>, col: Col) -> Result<()> {
        let has_group = self.aggregate.groups.iter().any(|(group, _)| *group == col);
        let has_agg = self.aggregate.aggs.iter().any(|(agg, _)| *agg == col);
        if has_group || has_agg || !self.source.contains(&col) {
            return Ok(());
        }
        let arg = binder.columns.expr(col);
        let agg = binder.build_aggregate(AggFunc::FirstRow, vec![arg], false)?;
        self.aggregate.aggs.push((col, agg));
        Ok(())
    }
}

/// Columns that group columns and WHERE determine.
pub(super) fn determined_columns(
    groups: &[(Col, Expr)],
    conditions: &[Expr],
    bases: &[BaseTable],
) -> BTreeSet<Col> {
    let mut determined: BTreeSet<Col> =
        groups.iter().filter_map(|(_, expr)| expr.as_column()).collect();
    loop {
        let before = determined.len();
        for condition in conditions {
            let Some((Func::Eq, [left, right])) = condition.as_function() else { continue };
            for (this, other) in [(left, right), (right, left)] {
                let known = match other.as_column() {
                    Some(col) => determined.contains(&col),
                    None => other.is_constant(),
                };
                if let (Some(col), true) = (this.as_column(), known) {
                    determined.insert(col);
                }
            }
        }
        for base in bases {
            let whole_key = base.table.indices.iter().any(|index| {
                let state = index.state.is_public() && (index.unique || index.primary);
                state
                    && index.columns.iter().all(|part| {
                        let not_null = base.table.columns[part.offset].ty.not_null;
                        let col = base.columns[part.offset];
                        not_null
                            && part.prefix_length.is_none()
                            && col.is_some_and(|col| determined.contains(&col))
                    })
            });
            if whole_key {
                determined.extend(base.columns.iter().flatten());
            }
        }
        if determined.len() == before {
            return determined;
        }
    }
}

/// Whether an aggregate appears in an expression (not in its subqueries).
pub(super) fn has_aggregate(expr: &ast::Expr) -> bool {
    let mut found = false;
    walk(expr, &mut |expr| {
        found |= matches!(expr, ast::Expr::Aggregate(_));
        !found
    });
    found
}

/// Whether a window function appears in an expression (not in its subqueries).
pub(super) fn has_window(expr: &ast::Expr) -> bool {
    let mut found = false;
    walk(expr, &mut |expr| {
        found |= matches!(expr, ast::Expr::Window(_));
        !found
    });
    found
}

/// What a window is partitioned and ordered by.
pub(super) fn spec_exprs(spec: &ast::WindowSpec) -> Vec<&ast::Expr> {
    spec.partition_by.iter().chain(spec.order_by.iter().map(|item| &item.expr)).collect()
}

/// Visits an expression and its parts, not its subqueries; `visit` answers whether to
/// go deeper.
pub(super) fn walk<'a>(expr: &'a ast::Expr, visit: &mut dyn FnMut(&'a ast::Expr) -> bool) {
    use ast::Expr as A;
    if !visit(expr) {
        return;
    }
    let mut each = |exprs: &mut dyn Iterator<Item = &'a ast::Expr>| {
        for expr in exprs {
            walk(expr, visit);
        }
    };
    match expr {
        A::Literal(_)
        | A::Column(_)
        | A::Parameter(_)
        | A::UserVariable(_)
        | A::SystemVariable { .. }
        | A::Exists(_)
        | A::Subquery(_)
        | A::Unit(_)
        | A::Values(_)
        | A::Default(_) => {}
        A::AssignVariable { value, .. } => each(&mut [&**value].into_iter()),
        A::Unary { expr, .. }
        | A::IsNull { expr, .. }
        | A::IsTruth { expr, .. }
        | A::InSubquery { expr, .. }
        | A::Cast { expr, .. }
        | A::ConvertCharset { expr, .. }
        | A::Collate { expr, .. }
        | A::Extract { expr, .. } => each(&mut [&**expr].into_iter()),
        A::Binary { left, right, .. } => each(&mut [&**left, &**right].into_iter()),
        A::And(terms) | A::Or(terms) | A::Row(terms) => each(&mut terms.iter()),
        A::Between { expr, low, high, .. } => each(&mut [&**expr, &**low, &**high].into_iter()),
        A::InList { expr, list, .. } => {
            each(&mut std::iter::once(&**expr).chain(list));
        }
        A::Quantified { left, .. } => each(&mut [&**left].into_iter()),
        A::Like { expr, pattern, escape, .. } => {
            each(&mut [&**expr, &**pattern].into_iter().chain(escape.as_deref()));
        }
        A::Regexp { expr, pattern, .. } => each(&mut [&**expr, &**pattern].into_iter()),
        A::MemberOf { value, array } => each(&mut [&**value, &**array].into_iter()),
        A::Case { operand, branches, otherwise } => {
            each(&mut operand.as_deref().into_iter());
            each(&mut branches.iter().flat_map(|branch| [&branch.when, &branch.then]));
            each(&mut otherwise.as_deref().into_iter());
        }
        A::Function(call) => each(&mut call.args.iter()),
        A::Aggregate(call) => each(&mut call.args.iter()),
        A::Window(call) => {
            let own = match &call.over {
                ast::WindowRef::Inline(spec) => spec_exprs(spec),
                ast::WindowRef::Named(_) => Vec::new(),
            };
            each(&mut call.function.args.iter().chain(own));
        }
        A::DateArithmetic { base, value, .. } => each(&mut [&**base, &**value].into_iter()),
        A::Interval { value, .. } => each(&mut [&**value].into_iter()),
        A::Trim { characters, expr, .. } => {
            each(&mut characters.as_deref().into_iter().chain([&**expr]));
        }
        A::Char { args, .. } => each(&mut args.iter()),
        A::Match { against, .. } => each(&mut [&**against].into_iter()),
    }
}
