//! Index joins: the inner side is built anew for the keys of each batch of outer rows.
//!
//! Its reader is the same as for any other plan, over the key ranges that the keys make of its
//! conditions. So it sees the transaction's own writes, reads at the statement's timestamp and
//! goes to several stores like every other read.

use cairn_executor::operators::{IndexJoin, InnerFactory};
use cairn_executor::{BoxOperator, ExecError, Result};
use cairn_planner::plan::{IndexJoin as IndexJoinPlan, PhysicalPlan};
use cairn_planner::ranger::build_lookup_ranges;
use cairn_types::Datum;

use super::builder::{BuildContext, build};

/// Builds the join of a plan with both its sides.
pub fn operator(
    plan: &PhysicalPlan,
    join: &IndexJoinPlan,
    context: &BuildContext,
) -> Result<BoxOperator> {
    let (outer, inner) = join.sides();
    let side = |at: usize| {
        let side = plan.children.get(at);
        side.ok_or_else(|| ExecError::invalid_plan("an index join lacks an input"))
    };
    let outer = build(side(outer)?, context)?;
    let inner = side(inner)?.clone();
    if inner.reader().is_none() {
        return Err(ExecError::invalid_plan("an index join looks up in a single table"));
    }
    let inner_types = inner.types();
    let slots = join.slots.clone();
    let inner_context = context.clone();
    let mut eval = context.exec.eval();
    let factory: InnerFactory = Box::new(move |keys: &[Vec<Datum>]| {
        let Some(reader) = inner.reader() else { return Ok(None) };
        let index = reader.index.as_deref();
        let ranges =
            build_lookup_ranges(&reader.ranges, &reader.table, index, &slots, keys, &mut eval);
        if ranges.is_empty() {
            return Ok(None);
        }
        let context = BuildContext { lookup_ranges: Some(ranges.into()), ..inner_context.clone() };
        build(&inner, &context).map(Some)
    });
    let exec = context.exec.clone();
    Ok(Box::new(IndexJoin::new(outer, inner_types, factory, join.desc.clone(), exec)?))
}
