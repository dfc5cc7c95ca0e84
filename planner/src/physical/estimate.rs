//! Estimated rows of logical plans, for join order.

use std::collections::BTreeSet;

use cairn_executor::plan::JoinKind;
use cairn_expr::{Expr, Func};

use super::cost::{DISTINCT_FRACTION, SEMI_FRACTION, selectivity_of_all, table_rows};
use crate::context::Statistics;
use crate::logical::tree::{covered, touches};
use crate::logical::{Col, Logical, LogicalJoin, LogicalScan};

/// Rows a plan yields.
pub fn estimate(plan: &Logical, statistics: &dyn Statistics) -> f64 {
    let below = |input: &Logical| estimate(input, statistics);
    match plan {
        Logical::Scan(scan) => scan_rows(scan, statistics),
        Logical::Dual { rows, .. } => *rows as f64,
        Logical::Values { rows, .. } => rows.len() as f64,
        Logical::Filter { conditions, input } => {
            (below(input) * selectivity_of_all(conditions)).max(1.0)
        }
        Logical::Project { input, .. }
        | Logical::Sort { input, .. }
        | Logical::Lock { input, .. } => below(input),
        Logical::Aggregate(aggregate) => match aggregate.groups.is_empty() {
            true => 1.0,
            false => (below(&aggregate.input) * DISTINCT_FRACTION).max(1.0),
        },
        Logical::Join(join) => {
            let (left, right) = (below(&join.left), below(&join.right));
            join_rows(join, left, right)
        }
        Logical::Limit { limit, input } | Logical::TopN { limit, input, .. } => {
            below(input).min(limit.estimate())
        }
        Logical::Union { inputs, .. } => inputs.iter().map(|(input, _)| below(input)).sum(),
        Logical::MaxOneRow { .. } => 1.0,
    }
}

/// Rows of a table under its conditions; one if they give a whole unique key.
pub fn scan_rows(scan: &LogicalScan, statistics: &dyn Statistics) -> f64 {
    let (rows, _) = table_rows(statistics, &scan.table);
    if has_unique_key(scan, &equal_columns(&scan.conditions, &Expr::is_constant)) {
        return 1.0;
    }
    (rows * selectivity_of_all(&scan.conditions)).max(1.0)
}

/// Columns that conditions set equal to something that is `known`.
fn equal_columns(conditions: &[Expr], known: &dyn Fn(&Expr) -> bool) -> Vec<Col> {
    let equal = |condition: &Expr| match condition.as_function() {
        Some((Func::Eq, [left, right])) if known(right) => left.as_column(),
        Some((Func::Eq, [left, right])) if known(left) => right.as_column(),
        _ => None,
    };
    conditions.iter().filter_map(equal).collect()
}

fn has_unique_key(scan: &LogicalScan, equal: &[Col]) -> bool {
    let offsets: Vec<usize> = equal.iter().filter_map(|col| scan.offset_of(*col)?).collect();
    scan.table.indices.iter().any(|index| {
        index.unique
            && index.state.is_public()
            && index.columns.iter().all(|part| offsets.contains(&part.offset))
    })
}

/// Whether a side of a join has one row at most for each row of the other: it is a table of which
/// equalities, with constants or with the other side, give a whole unique key.
pub fn is_unique_side(side: &Logical, conditions: &[Expr]) -> bool {
    match side {
        Logical::Scan(scan) => {
            let own: BTreeSet<Col> = scan.columns.iter().map(|column| column.col).collect();
            let mut equal = equal_columns(&scan.conditions, &Expr::is_constant);
            equal.extend(equal_columns(conditions, &|other| !touches(other, &own)));
            has_unique_key(scan, &equal)
        }
        Logical::Filter { input, .. } | Logical::Project { input, .. } => {
            is_unique_side(input, conditions)
        }
        _ => false,
    }
}

/// Rows of a join: the product, of which keys keep what equals one of the larger side's distinct
/// values; not more than a side has whose rows match one row at most.
pub fn join_rows(join: &LogicalJoin, left: f64, right: f64) -> f64 {
    match join.kind {
        JoinKind::Semi | JoinKind::Anti => (left * SEMI_FRACTION).max(1.0),
        JoinKind::LeftOuterSemi | JoinKind::AntiLeftOuterSemi => left,
        kind => {
            let has_keys = join.conditions.iter().any(|condition| is_key(condition, join));
            let distinct = (left.max(right) * DISTINCT_FRACTION).max(1.0);
            let mut inner = left * right / if has_keys { distinct } else { 1.0 };
            if is_unique_side(&join.right, &join.conditions) {
                inner = inner.min(left);
            }
            if is_unique_side(&join.left, &join.conditions) {
                inner = inner.min(right);
            }
            let others = join.conditions.iter().filter(|condition| !is_key(condition, join));
            let others: Vec<Expr> = others.cloned().collect();
            let rows = (inner * selectivity_of_all(&others)).max(1.0);
            if kind == JoinKind::LeftOuter { rows.max(left) } else { rows }
        }
    }
}

/// Whether a condition is an equality of the two sides.
pub fn is_key(condition: &Expr, join: &LogicalJoin) -> bool {
    let Some((Func::Eq | Func::NullEq, [a, b])) = condition.as_function() else { return false };
    let (left, right) = (join.left.output_set(), join.right.output_set());
    let sides = |a: &Expr, b: &Expr| {
        a.has_columns() && b.has_columns() && covered(a, &left) && covered(b, &right)
    };
    sides(a, b) || sides(b, a)
}
