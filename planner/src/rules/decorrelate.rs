//! Subqueries that depend on the row become joins.
//!
//! ```text
//! SemiJoin (per row)                 SemiJoin t.a = s.a
//! ├─Scan t                           ├─Scan t
//! └─Filter s.a = t.a           →     └─Scan s
//!   └─Scan s
//!
//! LeftJoin (per row)                 Project .., IFNULL(count, 0)
//! ├─Scan t                           └─LeftJoin t.a = s.a
//! └─Aggregate count(*)         →       ├─Scan t
//!   └─Filter s.a = t.a                 └─Aggregate count(*) by s.a
//!     └─Scan s                           └─Scan s
//! ```
//!
//! Conditions that use columns of the left side are pulled up out of filters, inner
//! joins and projections of the right side. Under a grouping without GROUP BY they must
//! be equalities of one side each: the inner sides become the groups.
//!
//! **Must not fire** where the left side's columns are used by anything else on the
//! right (limits, groupings, unions): such joins run row by row (Apply). An aggregate
//! that is not NULL over no rows must be COUNT, whose 0 is put back.

use std::collections::BTreeSet;

use cairn_executor::plan::JoinKind;
use cairn_expr::agg::AggFunc;
use cairn_expr::{Expr, Func, build_function};

use super::RuleContext;
use crate::error::Result;
use crate::logical::tree::{column_type, covered, touches};
use crate::logical::{Col, Logical, LogicalAggregate, LogicalJoin};
use crate::plan::RowCount;

pub(super) fn run(plan: Logical, ctx: &mut RuleContext<'_>) -> Result<Logical> {
    let plan = plan.map_children(&mut |child| run(child, ctx))?;
    let Logical::Join(join) = plan else { return Ok(plan) };
    if join.correlated().is_empty() {
        return Ok(Logical::Join(join));
    }
    match join.kind {
        JoinKind::Semi | JoinKind::Anti | JoinKind::LeftOuterSemi | JoinKind::AntiLeftOuterSemi => {
            semi(*join)
        }
        JoinKind::LeftOuter => scalar(*join, ctx),
        JoinKind::Inner | JoinKind::RightOuter => Ok(Logical::Join(join)),
    }
}

/// EXISTS and IN.
fn semi(mut join: LogicalJoin) -> Result<Logical> {
    let outer = join.left.output_set();
    let before = join.clone();
    let mut right = std::mem::replace(&mut join.right, Logical::one_row());
    // Only whether there is a row counts: projections, sorts and limits do not.
    loop {
        right = match right {
            Logical::Project { exprs, input } => {
                let source = |col: Col| {
                    exprs.iter().find(|(known, _)| *known == col).map(|(_, expr)| expr.clone())
                };
                let replace = |expr: &mut Expr| {
                    *expr = std::mem::replace(expr, Expr::null()).replace_columns(&source);
                };
                join.conditions.iter_mut().for_each(replace);
                join.in_keys.iter_mut().for_each(|(_, key)| replace(key));
                *input
            }
            Logical::Sort { input, .. } => *input,
            Logical::Limit { limit, input }
                if limit.offset == RowCount::Const(0)
                    && matches!(limit.count, RowCount::Const(1..))
                    && join.conditions.is_empty()
                    && join.in_keys.is_empty() =>
            {
                *input
            }
            other => {
                right = other;
                break;
            }
        };
    }
    let mut pulled = Vec::new();
    join.right = pull_up(right, &outer, &mut pulled);
    if !join.correlated().is_empty() {
        return Ok(Logical::Join(Box::new(before)));
    }
    join.conditions.extend(pulled);
    Ok(Logical::Join(Box::new(join)))
}

/// A scalar subquery that is an aggregate.
fn scalar(join: LogicalJoin, ctx: &mut RuleContext<'_>) -> Result<Logical> {
    let outer = join.left.output_set();
    let before = join.clone();
    let LogicalJoin { right, left, conditions, .. } = join;
    let mut exprs: Option<Vec<(Col, Expr)>> = None;
    let mut right = right;
    while let Logical::Project { exprs: own, input } = right {
        exprs = Some(match exprs {
            None => own,
            Some(upper) => {
                let source = |col: Col| {
                    own.iter().find(|(known, _)| *known == col).map(|(_, expr)| expr.clone())
                };
                upper.into_iter().map(|(col, e)| (col, e.replace_columns(&source))).collect()
            }
        });
        right = *input;
    }
    let unchanged = || Ok(Logical::Join(Box::new(before.clone())));
    let Logical::Aggregate(aggregate) = right else { return unchanged() };
    let LogicalAggregate { groups, aggs, input } = *aggregate;
    let known = |func: AggFunc| {
        matches!(
            func,
            AggFunc::Count
                | AggFunc::Sum
                | AggFunc::Avg
                | AggFunc::Min
                | AggFunc::Max
                | AggFunc::GroupConcat
                | AggFunc::FirstRow
        )
    };
    if !groups.is_empty() || !conditions.is_empty() || !aggs.iter().all(|(_, a)| known(a.func)) {
        return unchanged();
    }
    let mut pulled = Vec::new();
    let input = pull_up(input, &outer, &mut pulled);
    let Some((groups, conditions)) = as_groups(pulled, &outer, ctx)? else { return unchanged() };
    let mut exprs = exprs.unwrap_or_else(|| {
        aggs.iter().map(|(col, agg)| (*col, Expr::column(*col, agg.ty.clone()))).collect()
    });
    for (col, agg) in aggs.iter().filter(|(_, agg)| agg.func == AggFunc::Count) {
        let mut count = Expr::column(*col, agg.ty.clone());
        count.ty_mut().not_null = false;
        let zero = build_function("ifnull", vec![count, Expr::int(0)], ctx.eval)?;
        let source = |known: Col| (known == *col).then(|| zero.clone());
        for (_, expr) in &mut exprs {
            *expr = std::mem::replace(expr, Expr::null()).replace_columns(&source);
        }
    }
    // A count that is returned as it is would keep its number below and above.
    for (col, _) in aggs.iter() {
        if exprs.iter().any(|(known, expr)| known == col && expr.as_column() != Some(*col)) {
            return unchanged();
        }
    }
    let left_columns = left.outputs();
    let right = Logical::Aggregate(Box::new(LogicalAggregate { groups, aggs, input }));
    let join = LogicalJoin {
        kind: JoinKind::LeftOuter,
        conditions,
        in_keys: Vec::new(),
        mark: None,
        straight: false,
        left,
        right,
    };
    if !join.correlated().is_empty() {
        return unchanged();
    }
    let mut projected: Vec<(Col, Expr)> =
        left_columns.into_iter().map(|col| (col, ctx.columns.expr(col))).collect();
    projected.extend(exprs);
    Ok(Logical::Join(Box::new(join)).project(projected))
}

/// Equalities of an inner and an outer side: groups, and conditions of the join.
#[expect(clippy::type_complexity, reason = "two lists with one reader")]
fn as_groups(
    pulled: Vec<Expr>,
    outer: &BTreeSet<Col>,
    ctx: &mut RuleContext<'_>,
) -> Result<Option<(Vec<(Col, Expr)>, Vec<Expr>)>> {
    let mut groups: Vec<(Col, Expr)> = Vec::with_capacity(pulled.len());
    let mut conditions = Vec::with_capacity(pulled.len());
    for condition in pulled {
        let Some((Func::Eq, [a, b])) = condition.as_function() else { return Ok(None) };
        let outer_side = |expr: &Expr| covered(expr, outer) && expr.has_columns();
        let (inner, other) = match (outer_side(a), outer_side(b)) {
            (true, false) => (b.clone(), a.clone()),
            (false, true) => (a.clone(), b.clone()),
            _ => return Ok(None),
        };
        if touches(&inner, outer) || !inner.has_columns() {
            return Ok(None);
        }
        let col = match groups.iter().find(|(_, group)| *group == inner) {
            Some((col, _)) => *col,
            None => {
                let col = inner.as_column().unwrap_or_else(|| ctx.columns.add(inner.ty().clone()));
                groups.push((col, inner.clone()));
                col
            }
        };
        let group = Expr::column(col, inner.ty().clone());
        conditions.push(Expr::function(Func::Eq, vec![other, group], condition.ty().clone()));
    }
    Ok(Some((groups, conditions)))
}

/// Takes conditions on outer columns out of a plan, as far as it lets them through.
fn pull_up(plan: Logical, outer: &BTreeSet<Col>, pulled: &mut Vec<Expr>) -> Logical {
    match plan {
        Logical::Filter { conditions, input } => {
            let (up, kept): (Vec<Expr>, Vec<Expr>) =
                conditions.into_iter().partition(|condition| touches(condition, outer));
            pulled.extend(up);
            pull_up(*input, outer, pulled).filter(kept)
        }
        Logical::Join(mut join) if join.kind == JoinKind::Inner => {
            let own = std::mem::take(&mut join.conditions);
            let (up, kept): (Vec<Expr>, Vec<Expr>) =
                own.into_iter().partition(|condition| touches(condition, outer));
            pulled.extend(up);
            join.conditions = kept;
            join.left = pull_up(join.left, outer, pulled);
            join.right = pull_up(join.right, outer, pulled);
            Logical::Join(join)
        }
        // The preserved side of a left join lets its conditions through.
        Logical::Join(mut join) if join.kind == JoinKind::LeftOuter => {
            join.left = pull_up(join.left, outer, pulled);
            Logical::Join(join)
        }
        Logical::Project { mut exprs, input } => {
            let mut own = Vec::new();
            let input = pull_up(*input, outer, &mut own);
            let available = input.output_set();
            for col in own.iter().flat_map(Expr::columns) {
                if available.contains(&col) && !exprs.iter().any(|(known, _)| *known == col) {
                    let ty = own
                        .iter()
                        .find_map(|condition| column_type(condition, col))
                        .unwrap_or_else(cairn_types::FieldType::null);
                    exprs.push((col, Expr::column(col, ty)));
                }
            }
            pulled.extend(own);
            Logical::Project { exprs, input: Box::new(input) }
        }
        other => other,
    }
}
