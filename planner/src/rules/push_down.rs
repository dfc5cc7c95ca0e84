//! Filters move towards the tables; outer joins that need not be are inner joins.
//!
//! ```text
//! Filter a.x > 1 AND b.y = 2 AND a.k = b.k      Join a.k = b.k
//! └─Join                                        ├─Scan a: x > 1
//!   ├─Scan a                               →    └─Scan b: y = 2
//!   └─Scan b
//! ```
//!
//! - Through projections (columns are replaced by what they stand for), sorts, unions
//!   (one copy for each input), groupings (conditions on group columns alone), and windows
//!   (conditions on partition columns alone: whole partitions go).
//! - A condition on the right side of a left join that no NULL row can fulfil makes it
//!   an inner join.
//! - What all branches of an OR say is said once: `a AND x OR a AND y` is `a AND (x OR y)`, so that
//!   `a` may be a key of a join (TPC-H's Q19).
//! - What every branch of an OR says of one side of a join is said of that side too:
//!   `a.x = 1 AND b.y = 2 OR a.x = 3 AND b.y = 4` gives `a.x = 1 OR a.x = 3` below, and stays above
//!   (TPC-H's Q7 and Q19).
//! - Transitive closure: `a.k = b.k AND a.k = 5` gives `b.k = 5` too.
//!
//! **Must not fire** for conditions that are not deterministic (RAND()), through LIMIT
//! and the one-row check, for conditions of ON on the preserved side, through a
//! grouping without GROUP BY, which has a row even of nothing, and through groups and partitions for
//! conditions that tell equal texts apart (`LENGTH(a) = 1`).

use std::collections::BTreeSet;

use cairn_executor::plan::JoinKind;
use cairn_expr::{Expr, Func};
use cairn_types::{Datum, FieldType, PhysicalKind};

use super::RuleContext;
use super::nulls::rejects_nulls;
use crate::error::Result;
use crate::logical::tree::{covered, implied, touches};
use crate::logical::{Col, Logical, LogicalAggregate, LogicalJoin};

pub(super) fn run(plan: Logical, ctx: &mut RuleContext<'_>) -> Result<Logical> {
    push(plan, Vec::new(), ctx)
}

/// The plan under `conditions`.
pub(super) fn push(
    plan: Logical,
    conditions: Vec<Expr>,
    ctx: &mut RuleContext<'_>,
) -> Result<Logical> {
    let Some(mut conditions) = simplify(conditions, ctx) else {
        return Ok(Logical::Dual { rows: 0, columns: plan.outputs() });
    };
    match plan {
        Logical::Filter { conditions: below, input } => {
            let (below, kept): (Vec<Expr>, Vec<Expr>) =
                below.into_iter().partition(Expr::is_deterministic);
            conditions.extend(below);
            Ok(push(*input, conditions, ctx)?.filter(kept))
        }
        Logical::Scan(mut scan) => {
            scan.conditions.extend(conditions);
            let Some(all) = simplify(std::mem::take(&mut scan.conditions), ctx) else {
                return Ok(Logical::Dual { rows: 0, columns: Logical::Scan(scan).outputs() });
            };
            scan.conditions = all;
            Ok(Logical::Scan(scan))
        }
        Logical::Project { exprs, input } => {
            let source = |col: Col| {
                exprs.iter().find(|(known, _)| *known == col).map(|(_, expr)| expr.clone())
            };
            let (pushed, kept): (Vec<Expr>, Vec<Expr>) =
                conditions.into_iter().partition(|condition| {
                    condition
                        .columns()
                        .into_iter()
                        .all(|col| source(col).is_none_or(|expr| expr.is_deterministic()))
                });
            let pushed =
                pushed.into_iter().map(|condition| condition.replace_columns(&source)).collect();
            let input = Box::new(push(*input, pushed, ctx)?);
            Ok(Logical::Project { exprs, input }.filter(kept))
        }
        Logical::Aggregate(aggregate) => push_aggregate(*aggregate, conditions, ctx),
        Logical::Window(mut window) => {
            let keys: BTreeSet<Col> =
                window.partition_by.iter().filter_map(Expr::as_column).collect();
            let own = window.input.output_set();
            let functions: BTreeSet<Col> = window.functions.iter().map(|(col, _)| *col).collect();
            let (pushed, kept): (Vec<Expr>, Vec<Expr>) =
                conditions.into_iter().partition(|condition| {
                    let columns = condition.columns();
                    let is_key =
                        |col| keys.contains(col) || !own.contains(col) && !functions.contains(col);
                    condition.is_deterministic()
                        && is_of_groups(condition)
                        && columns.iter().any(|col| keys.contains(col))
                        && columns.iter().all(is_key)
                });
            window.input = push(window.input, pushed, ctx)?;
            Ok(Logical::Window(window).filter(kept))
        }
        Logical::Join(join) => push_join(*join, conditions, ctx),
        Logical::Sort { by, input } => {
            let input = Box::new(push(*input, conditions, ctx)?);
            Ok(Logical::Sort { by, input })
        }
        Logical::Union { columns, inputs } => {
            let mut pushed = Vec::with_capacity(inputs.len());
            for (input, own) in inputs {
                let place = |col: Col| {
                    let at = columns.iter().position(|known| *known == col)?;
                    Some(ctx.columns.expr(own[at]))
                };
                let own_conditions =
                    conditions.iter().map(|c| c.clone().replace_columns(&place)).collect();
                pushed.push((push(input, own_conditions, ctx)?, own));
            }
            Ok(Logical::Union { columns, inputs: pushed })
        }
        other => {
            let below = other.map_children(&mut |child| push(child, Vec::new(), ctx))?;
            Ok(below.filter(conditions))
        }
    }
}

/// Without conditions that are always true and doubles; `None` if one is never true.
fn simplify(conditions: Vec<Expr>, ctx: &mut RuleContext<'_>) -> Option<Vec<Expr>> {
    let mut result: Vec<Expr> = Vec::with_capacity(conditions.len());
    for condition in conditions {
        for part in condition.split_cnf().into_iter().flat_map(factor) {
            let part = part.fold(ctx.eval);
            match part.as_constant() {
                Some(Datum::Null) | Some(Datum::Int(0)) | Some(Datum::UInt(0)) => return None,
                Some(Datum::Int(_) | Datum::UInt(_)) => continue,
                _ => {}
            }
            if !part.is_deterministic() || !result.contains(&part) {
                result.push(part);
            }
        }
    }
    Some(result)
}

/// What all branches of an OR have in common, and the rest of it.
fn factor(condition: Expr) -> Vec<Expr> {
    if !matches!(condition.as_function(), Some((Func::Or, _))) {
        return vec![condition];
    }
    let mut branches: Vec<Vec<Expr>> =
        condition.clone().split_dnf().into_iter().map(Expr::split_cnf).collect();
    let Some((first, others)) = branches.split_first() else { return vec![condition] };
    let in_all = |part: &&Expr| {
        part.is_deterministic() && others.iter().all(|branch| branch.contains(*part))
    };
    let mut common: Vec<Expr> = first.iter().filter(in_all).cloned().collect();
    if common.is_empty() {
        return vec![condition];
    }
    branches.iter_mut().for_each(|branch| branch.retain(|part| !common.contains(part)));
    // A branch that says no more than that makes the others superfluous.
    let rests: Option<Vec<Expr>> = branches.into_iter().map(Expr::join_cnf).collect();
    common.extend(rests.and_then(Expr::join_dnf));
    common
}

/// Whether a condition says the same of all values that are equal to each other: texts that a group
/// takes for one may differ (`a`, `A`, `a `), and then only comparisons of the bare column do.
fn is_of_groups(condition: &Expr) -> bool {
    let is_text =
        |ty: &FieldType| ty.physical() == PhysicalKind::Bytes && !ty.collation.is_binary();
    match condition.as_function() {
        Some((Func::And | Func::Or | Func::Not, args)) => args.iter().all(is_of_groups),
        Some((func, args)) if func.is_comparison() || func == Func::In || func == Func::IsNull => {
            args.iter().all(|arg| arg.as_column().is_some() || !has_texts(arg, &is_text))
        }
        _ => !has_texts(condition, &is_text),
    }
}

fn has_texts(expr: &Expr, is_text: &dyn Fn(&FieldType) -> bool) -> bool {
    expr.any(&mut |expr| matches!(expr, Expr::Column { ty, .. } if is_text(ty)))
}

fn push_aggregate(
    aggregate: LogicalAggregate,
    conditions: Vec<Expr>,
    ctx: &mut RuleContext<'_>,
) -> Result<Logical> {
    let LogicalAggregate { groups, aggs, input } = aggregate;
    let group_columns: BTreeSet<Col> = groups.iter().map(|(col, _)| *col).collect();
    let own: BTreeSet<Col> =
        group_columns.iter().copied().chain(aggs.iter().map(|(col, _)| *col)).collect();
    let (pushed, kept): (Vec<Expr>, Vec<Expr>) = conditions.into_iter().partition(|condition| {
        let columns = condition.columns();
        !groups.is_empty()
            && is_of_groups(condition)
            && columns.iter().any(|col| group_columns.contains(col))
            && columns.iter().all(|col| group_columns.contains(col) || !own.contains(col))
    });
    let source =
        |col: Col| groups.iter().find(|(known, _)| *known == col).map(|(_, expr)| expr.clone());
    let pushed = pushed.into_iter().map(|condition| condition.replace_columns(&source)).collect();
    let input = push(input, pushed, ctx)?;
    let aggregate = LogicalAggregate { groups, aggs, input };
    Ok(Logical::Aggregate(Box::new(aggregate)).filter(kept))
}

fn push_join(
    mut join: LogicalJoin,
    conditions: Vec<Expr>,
    ctx: &mut RuleContext<'_>,
) -> Result<Logical> {
    let left_columns = join.left.output_set();
    let right_columns = join.right.output_set();
    if join.kind == JoinKind::LeftOuter
        && conditions.iter().any(|c| rejects_nulls(c, &right_columns))
        && join.in_keys.is_empty()
    {
        join.kind = JoinKind::Inner;
    }
    let mut left = Vec::new();
    let mut right = Vec::new();
    let mut above = Vec::new();
    let on_left = |c: &Expr| !touches(c, &right_columns);
    let on_right = |c: &Expr| !touches(c, &left_columns) && touches(c, &right_columns);
    match join.kind {
        JoinKind::Inner => {
            let mut all = conditions;
            all.append(&mut join.conditions);
            let Some(all) = simplify(all, ctx) else {
                return Ok(Logical::Dual { rows: 0, columns: join.outputs() });
            };
            let mut all = all;
            close_over(&mut all, ctx)?;
            for condition in all {
                match () {
                    () if !condition.is_deterministic() => above.push(condition),
                    () if on_left(&condition) => left.push(condition),
                    () if on_right(&condition) => right.push(condition),
                    () => {
                        left.extend(implied(&condition, &left_columns));
                        right.extend(implied(&condition, &right_columns));
                        join.conditions.push(condition);
                    }
                }
            }
        }
        kind => {
            let mark: BTreeSet<Col> = join.mark.into_iter().collect();
            for condition in conditions {
                let plain = condition.is_deterministic() && on_left(&condition);
                if plain && !touches(&condition, &mark) {
                    left.push(condition);
                } else {
                    above.push(condition);
                }
            }
            let own = std::mem::take(&mut join.conditions);
            // Constants of the left side hold for the right side's keys too.
            let derived = derive_right(&own, &left, ctx)?;
            right.extend(derived.into_iter().filter(|c| covered(c, &right_columns)));
            for condition in own {
                let deterministic = condition.is_deterministic();
                if deterministic && on_right(&condition) {
                    right.push(condition);
                } else if deterministic && kind == JoinKind::Semi && on_left(&condition) {
                    left.push(condition);
                } else {
                    join.conditions.push(condition);
                }
            }
        }
    }
    join.left = push(join.left, left, ctx)?;
    join.right = push(join.right, right, ctx)?;
    if join.kind == JoinKind::Inner
        && [&join.left, &join.right]
            .iter()
            .any(|side| matches!(side, Logical::Dual { rows: 0, .. }))
    {
        return Ok(Logical::Dual { rows: 0, columns: join.outputs() });
    }
    Ok(Logical::Join(Box::new(join)).filter(above))
}

/// `a = b` and a condition of `a` with constants alone: the same holds for `b`.
fn close_over(conditions: &mut Vec<Expr>, ctx: &mut RuleContext<'_>) -> Result<()> {
    let mut added = Vec::new();
    for (a, b) in column_pairs(conditions) {
        for (from, to) in [(a, b), (b, a)] {
            for condition in conditions.iter() {
                let Some(derived) = transfer(condition, from, to, ctx) else { continue };
                if !conditions.contains(&derived) && !added.contains(&derived) {
                    added.push(derived);
                }
            }
        }
    }
    conditions.extend(added);
    Ok(())
}

fn derive_right(on: &[Expr], left: &[Expr], ctx: &mut RuleContext<'_>) -> Result<Vec<Expr>> {
    let mut derived = Vec::new();
    for (a, b) in column_pairs(on) {
        for (from, to) in [(a, b), (b, a)] {
            derived.extend(left.iter().filter_map(|condition| transfer(condition, from, to, ctx)));
        }
    }
    Ok(derived)
}

/// Columns that conditions make equal.
fn column_pairs(conditions: &[Expr]) -> Vec<(Col, Col)> {
    conditions
        .iter()
        .filter_map(|condition| match condition.as_function() {
            Some((Func::Eq, [a, b])) => Some((a.as_column()?, b.as_column()?)),
            _ => None,
        })
        .collect()
}

/// A comparison of `from` with constants, said of `to`: only between columns of the
/// very same kind and collation.
fn transfer(condition: &Expr, from: Col, to: Col, ctx: &RuleContext<'_>) -> Option<Expr> {
    let (func, args) = condition.as_function()?;
    let simple = func.is_comparison() && func != Func::NullEq || func == Func::In;
    let (a, b) = (ctx.columns.ty(from), ctx.columns.ty(to));
    let same = a.physical() == b.physical() && a.collation == b.collation && a.code == b.code;
    let only_from = condition.columns().into_iter().eq([from]);
    let bare = args.iter().all(|arg| arg.as_column().is_some() || arg.is_constant());
    if !simple || !same || !only_from || !bare {
        return None;
    }
    let target = ctx.columns.expr(to);
    Some(condition.clone().replace_columns(&|col| (col == from).then(|| target.clone())))
}
