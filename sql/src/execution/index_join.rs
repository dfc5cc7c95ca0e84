//! Index joins: the inner side is built anew for the keys of each batch of outer rows.
//!
//! Its reader is the same as for any other plan, over the key ranges that the keys make of its
//! conditions. So it sees the transaction's own writes, reads at the statement's timestamp and
//! goes to several stores like every other read.

use cairn_executor::operators::{IndexJoin, InnerFactory, InnerRows};
use cairn_executor::{BoxOperator, ExecError, Result};
use cairn_planner::plan::{IndexJoin as IndexJoinPlan, PhysicalPlan};
use cairn_planner::ranger::LookupRanges;
use cairn_types::Datum;

use super::builder::{BuildContext, build};

/// Keys whose ranges are made without a look at whether the statement was cancelled.
const KEYS_UNCHECKED: usize = 64;

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
    let own = context.exec.for_operator(plan.id, plan.op.name());
    let mut memory = own.account("IndexJoin");
    let factory: InnerFactory = Box::new(move |keys: &[Vec<Datum>]| {
        let reader = inner.reader();
        let reader = reader.ok_or_else(|| ExecError::invalid_plan("there is nothing to read"))?;
        let index = reader.index.as_deref();
        let mut lookup = LookupRanges::new(&reader.ranges, &reader.table, index, &slots);
        let mut taken = 0;
        for key in keys {
            if lookup.is_full() {
                break;
            }
            if taken % KEYS_UNCHECKED == 0 {
                inner_context.exec.check()?;
            }
            lookup.add(key, &mut eval);
            memory.set(lookup.memory_bytes() as u64)?;
            taken += 1;
        }
        let ranges = lookup.finish();
        if ranges.is_empty() {
            return Ok(InnerRows { operator: None, keys: taken });
        }
        let context = BuildContext { lookup_ranges: Some(ranges.into()), ..inner_context.clone() };
        let operator = Some(build(&inner, &context)?);
        Ok(InnerRows { operator, keys: taken })
    });
    Ok(Box::new(IndexJoin::new(outer, inner_types, factory, join.desc.clone(), own)?))
}
