//! Inner joins are put in order of size, greedily.
//!
//! ```text
//! Join b.k = c.k            Join a.k = b.k
//! ├─Join a.k = b.k    →     ├─Join b.k = c.k
//! │ ├─Scan a: 10000         │ ├─Scan c: 1
//! │ └─Scan b: 10000         │ └─Scan b: 10000
//! └─Scan c: 1               └─Scan a: 10000
//! ```
//!
//! The smallest input comes first; then, again and again, the one whose join with what
//! is there gives the fewest rows, those with a join condition before all others.
//! Conditions stand at the first join that has all their columns.
//!
//! **Must not fire** for STRAIGHT_JOIN and inputs that depend on each other's rows;
//! outer and semi joins are inputs as a whole.

use std::collections::BTreeSet;

use cairn_executor::plan::JoinKind;
use cairn_expr::Expr;

use super::RuleContext;
use crate::error::Result;
use crate::logical::tree::covered;
use crate::logical::{Col, Logical, LogicalJoin};
use crate::physical::estimate::{estimate, is_unique_side, join_rows};

pub(super) fn run(plan: Logical, ctx: &mut RuleContext<'_>) -> Result<Logical> {
    if !is_reorderable(&plan) {
        return plan.map_children(&mut |child| run(child, ctx));
    }
    let mut inputs = Vec::new();
    let mut conditions = Vec::new();
    flatten(plan, &mut inputs, &mut conditions);
    let mut ready = Vec::with_capacity(inputs.len());
    for input in inputs {
        let input = run(input, ctx)?;
        let rows = estimate(&input, ctx.statistics);
        ready.push((input, rows));
    }
    Ok(order(ready, conditions))
}

fn is_reorderable(plan: &Logical) -> bool {
    match plan {
        Logical::Join(join) => {
            join.kind == JoinKind::Inner && !join.straight && join.correlated().is_empty()
        }
        _ => false,
    }
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

fn is_reorderable_join(join: &LogicalJoin) -> bool {
    join.kind == JoinKind::Inner && !join.straight && join.correlated().is_empty()
}

fn order(mut inputs: Vec<(Logical, f64)>, mut conditions: Vec<Expr>) -> Logical {
    let first = smallest(&inputs);
    let (mut plan, mut rows) = inputs.remove(first);
    while !inputs.is_empty() {
        let there = plan.output_set();
        let mut best: Option<(usize, bool, f64)> = None;
        for (at, (input, input_rows)) in inputs.iter().enumerate() {
            let usable = usable(&conditions, &there, &input.output_set());
            let connected = !usable.is_empty();
            let trial = LogicalJoin {
                kind: JoinKind::Inner,
                conditions: usable,
                in_keys: Vec::new(),
                mark: None,
                straight: false,
                left: Logical::Dual { rows: 0, columns: plan.outputs() },
                right: Logical::Dual { rows: 0, columns: input.outputs() },
            };
            let mut result = join_rows(&trial, rows, *input_rows);
            if is_unique_side(input, &trial.conditions) {
                result = result.min(rows);
            }
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
        let Some((at, _, result)) = best else { break };
        let (input, _) = inputs.remove(at);
        let own = usable(&conditions, &there, &input.output_set());
        conditions.retain(|condition| !own.contains(condition));
        plan = Logical::Join(Box::new(LogicalJoin {
            kind: JoinKind::Inner,
            conditions: own,
            in_keys: Vec::new(),
            mark: None,
            straight: false,
            left: plan,
            right: input,
        }));
        rows = result;
    }
    // Conditions on columns of enclosing queries alone.
    plan.filter(conditions)
}

fn smallest(inputs: &[(Logical, f64)]) -> usize {
    let mut best = 0;
    for (at, (_, rows)) in inputs.iter().enumerate() {
        if *rows < inputs[best].1 {
            best = at;
        }
    }
    best
}

/// Conditions that need both sides and nothing else of this statement's inputs.
fn usable(conditions: &[Expr], left: &BTreeSet<Col>, right: &BTreeSet<Col>) -> Vec<Expr> {
    let both: BTreeSet<Col> = left.union(right).copied().collect();
    let fits = |condition: &&Expr| {
        covered(condition, &both) && !covered(condition, left) && !covered(condition, right)
    };
    conditions.iter().filter(fits).cloned().collect()
}
