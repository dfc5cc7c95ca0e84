//! Inner joins are put in the order that makes the fewest rows on the way.
//!
//! ```text
//! Join b.k = c.k            Join a.k = b.k
//! ├─Join a.k = b.k    →     ├─Join b.k = c.k
//! │ ├─Scan a: 10000         │ ├─Scan c: 1
//! │ └─Scan b: 10000         │ └─Scan b: 10000
//! └─Scan c: 1               └─Scan a: 10000
//! ```
//!
//! Where tables were analyzed, all orders of up to [`EXHAUSTIVE_MAX`] inputs are compared, bushy ones
//! too (`join_search.rs`). Above that, and where every number would be a guess, it goes greedily:
//! the smallest input comes first; then, again and again, the one whose join with what is there
//! gives the fewest rows, those with a join condition before all others.
//!
//! Conditions stand at the first join that has all their columns. Those that follow from others may
//! take their place (`join_conditions.rs`).
//!
//! Tables that a hint wants first (`LEADING`) are joined first, in its order; the rest follows
//! greedily.
//!
//! **Must not fire** for STRAIGHT_JOIN and inputs that depend on each other's rows;
//! outer and semi joins are inputs as a whole.

use std::collections::BTreeSet;

use cairn_executor::plan::JoinKind;
use cairn_expr::Expr;

use super::RuleContext;
use super::join_conditions::Conditions;
use super::join_search::{self, EXHAUSTIVE_MAX};
use crate::error::Result;
use crate::logical::{Col, Logical, LogicalJoin};
use crate::statistics::{Estimate, Estimator, JoinTerms};

/// A part of the joins in the making.
pub(super) struct Part {
    pub plan: Logical,
    pub columns: BTreeSet<Col>,
    pub estimate: Estimate,
}

pub(super) fn run(plan: Logical, ctx: &mut RuleContext<'_>) -> Result<Logical> {
    if !is_reorderable(&plan) {
        return plan.map_children(&mut |child| run(child, ctx));
    }
    let mut inputs = Vec::new();
    let mut conditions = Vec::new();
    flatten(plan, &mut inputs, &mut conditions);
    let used: BTreeSet<Col> = conditions.iter().flat_map(Expr::columns).collect();
    let mut parts = Vec::with_capacity(inputs.len());
    for input in inputs {
        let plan = run(input, ctx)?;
        let estimator = Estimator::new(ctx.statistics, &ctx.eval.time_zone);
        let columns = plan.output_set();
        parts.push(Part { columns, estimate: estimator.derive(&plan).only(&used), plan });
    }
    let estimator = Estimator::new(ctx.statistics, &ctx.eval.time_zone);
    let leading = take_leading(&mut parts);
    let is_counted = parts.iter().any(|part| part.estimate.is_counted());
    if leading.is_empty() && is_counted && (3..=EXHAUSTIVE_MAX).contains(&parts.len()) {
        let inputs: Vec<&BTreeSet<Col>> = parts.iter().map(|part| &part.columns).collect();
        let mut conditions = Conditions::closed(conditions, &inputs);
        parts = join_search::best(parts, &mut conditions, estimator);
        return Ok(greedy(parts, leading, conditions, estimator));
    }
    Ok(greedy(parts, leading, Conditions::new(conditions), estimator))
}

pub(super) fn is_reorderable(plan: &Logical) -> bool {
    matches!(plan, Logical::Join(join) if is_reorderable_join(join))
}

fn is_reorderable_join(join: &LogicalJoin) -> bool {
    join.kind == JoinKind::Inner && !join.straight && join.correlated().is_empty()
}

fn flatten(plan: Logical, inputs: &mut Vec<Logical>, conditions: &mut Vec<Expr>) {
    match plan {
        Logical::Join(join) if is_reorderable_join(&join) => {
            let LogicalJoin { left, right, conditions: own, .. } = *join;
            conditions.extend(own);
            flatten(left, inputs, conditions);
            flatten(right, inputs, conditions);
        }
        other => inputs.push(other),
    }
}

/// Takes out the inputs that a hint wants first, in its order.
fn take_leading(parts: &mut Vec<Part>) -> Vec<Part> {
    let (mut leading, others): (Vec<Part>, Vec<Part>) =
        parts.drain(..).partition(|part| place(&part.plan).is_some());
    *parts = others;
    leading.sort_by_key(|part| place(&part.plan));
    leading
}

fn place(input: &Logical) -> Option<usize> {
    match input {
        Logical::Scan(scan) => scan.join_hints.leading,
        Logical::Filter { input, .. } | Logical::Project { input, .. } => place(input),
        Logical::Join(join) if !join.kind.keeps_right() => place(&join.left),
        _ => None,
    }
}

/// `leading` first, then always the part that gives the fewest rows.
fn greedy(
    mut parts: Vec<Part>,
    mut leading: Vec<Part>,
    mut conditions: Conditions,
    estimator: Estimator<'_>,
) -> Logical {
    let mut there = match leading.is_empty() {
        true => parts.remove(smallest(&parts)),
        false => leading.remove(0),
    };
    for part in leading {
        there = join(there, part, &mut conditions, estimator);
    }
    while !parts.is_empty() {
        let mut best: Option<(usize, bool, f64)> = None;
        for (at, part) in parts.iter().enumerate() {
            let usable = conditions.usable(&there.columns, &part.columns);
            let connected = !usable.is_empty();
            let terms = JoinTerms::new(JoinKind::Inner, &usable, [&there.columns, &part.columns]);
            let result = estimator.join_rows(&terms, &there.estimate, &part.estimate);
            let better = match best {
                None => true,
                Some((_, was_connected, was)) => {
                    connected && !was_connected || connected == was_connected && result < was
                }
            };
            if better {
                best = Some((at, connected, result));
            }
        }
        let Some((at, _, _)) = best else { break };
        let part = parts.remove(at);
        there = join(there, part, &mut conditions, estimator);
    }
    // Conditions on columns of enclosing queries alone.
    there.plan.filter(conditions.rest())
}

fn smallest(parts: &[Part]) -> usize {
    let mut best = 0;
    for (at, part) in parts.iter().enumerate() {
        if part.estimate.rows < parts[best].estimate.rows {
            best = at;
        }
    }
    best
}

/// Both parts joined, under the conditions that become usable.
pub(super) fn join(
    left: Part,
    right: Part,
    conditions: &mut Conditions,
    estimator: Estimator<'_>,
) -> Part {
    let own = conditions.take(&left.columns, &right.columns);
    let terms = JoinTerms::new(JoinKind::Inner, &own, [&left.columns, &right.columns]);
    let estimate = estimator.join(&terms, &left.estimate, &right.estimate);
    let columns = left.columns.union(&right.columns).copied().collect();
    let plan = Logical::Join(Box::new(LogicalJoin {
        kind: JoinKind::Inner,
        conditions: own,
        in_keys: Vec::new(),
        mark: None,
        straight: false,
        left: left.plan,
        right: right.plan,
    }));
    Part { plan, columns, estimate }
}
