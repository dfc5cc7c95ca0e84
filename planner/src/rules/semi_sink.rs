//! A semi join over inner joins filters the one input it asks about, before the others multiply it.
//!
//! ```text
//! Semi o.id = x.o              Join o.id = l.o
//! ├─Join o.id = l.o       →    ├─Semi o.id = x.o
//! │ ├─Scan o                   │ ├─Scan o
//! │ └─Scan l                   │ └─x
//! └─x                          └─Scan l
//! ```
//!
//! Anti joins alike: both only say of a row of their left side whether it stays.
//!
//! **Must not fire** where conditions ask about several inputs, where the joins leave fewer rows to
//! ask about than the input has, and where that would be a guess.

use std::collections::BTreeSet;

use cairn_executor::plan::JoinKind;
use cairn_expr::Expr;

use super::RuleContext;
use super::join_reorder::is_reorderable;
use crate::error::Result;
use crate::logical::{Col, Logical, LogicalJoin};
use crate::statistics::Estimator;

pub(super) fn run(plan: Logical, ctx: &RuleContext<'_>) -> Result<Logical> {
    let plan = plan.map_children(&mut |child| run(child, ctx))?;
    let Logical::Join(mut semi) = plan else { return Ok(plan) };
    let filters = matches!(semi.kind, JoinKind::Semi | JoinKind::Anti) && semi.mark.is_none();
    let filters = filters && semi.conditions.iter().all(Expr::is_deterministic);
    if !filters || !is_reorderable(&semi.left) || !semi.correlated().is_empty() {
        return Ok(Logical::Join(semi));
    }
    let used = asked(&semi);
    let estimator = Estimator::new(ctx.statistics, &ctx.eval.time_zone);
    let Some(input) = input_of(&semi.left, &used) else { return Ok(Logical::Join(semi)) };
    let (input, all) = (estimator.derive(input), estimator.derive(&semi.left));
    let is_counted = input.is_counted() && estimator.derive(&semi.right).is_counted();
    if !is_counted || all.rows < input.rows {
        return Ok(Logical::Join(semi));
    }
    let joins = std::mem::replace(&mut semi.left, Logical::one_row());
    Ok(sink(joins, *semi, &used))
}

/// Columns of the left side that a semi join's conditions ask about.
fn asked(semi: &LogicalJoin) -> BTreeSet<Col> {
    let left = semi.left.output_set();
    let conditions = semi.conditions.iter().flat_map(|condition| condition.columns());
    let keys = semi.in_keys.iter().flat_map(|(key, _)| key.columns());
    conditions.chain(keys).filter(|col| left.contains(col)).collect()
}

/// The input of inner joins that has all columns.
fn input_of<'p>(plan: &'p Logical, used: &BTreeSet<Col>) -> Option<&'p Logical> {
    match plan {
        Logical::Join(join) if is_reorderable(plan) => {
            input_of(&join.left, used).or_else(|| input_of(&join.right, used))
        }
        input => (!used.is_empty() && used.is_subset(&input.output_set())).then_some(input),
    }
}

fn sink(plan: Logical, mut semi: LogicalJoin, used: &BTreeSet<Col>) -> Logical {
    let is_inner = is_reorderable(&plan);
    match plan {
        Logical::Join(mut join) if is_inner => {
            let side = match input_of(&join.left, used).is_some() {
                true => &mut join.left,
                false => &mut join.right,
            };
            let below = std::mem::replace(side, Logical::one_row());
            *side = sink(below, semi, used);
            Logical::Join(join)
        }
        input => {
            semi.left = input;
            Logical::Join(Box::new(semi))
        }
    }
}
