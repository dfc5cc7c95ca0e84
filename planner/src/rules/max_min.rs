//! MIN and MAX read one end of an index.
//!
//! ```text
//! Aggregate max(a)          Aggregate max(a)
//! └─Scan t: a         →     └─TopN a DESC, 1
//!                             └─Scan t: a IS NOT NULL
//! ```
//!
//! **Must not fire** with GROUP BY or further aggregates, without a key that begins
//! with the column, or with conditions on other columns: the first row that fulfils
//! them may be far from the end.

use cairn_expr::agg::AggFunc;
use cairn_expr::{Expr, build_function};

use super::RuleContext;
use crate::error::Result;
use crate::logical::{Logical, LogicalScan, SortKey};
use crate::plan::{RowCount, RowLimit};

pub(super) fn run(plan: Logical, ctx: &mut RuleContext<'_>) -> Result<Logical> {
    let plan = plan.map_children(&mut |child| run(child, ctx))?;
    let Logical::Aggregate(mut aggregate) = plan else { return Ok(plan) };
    let [(_, agg)] = &aggregate.aggs[..] else { return Ok(Logical::Aggregate(aggregate)) };
    let desc = match agg.func {
        AggFunc::Min => false,
        AggFunc::Max => true,
        _ => return Ok(Logical::Aggregate(aggregate)),
    };
    let [arg] = &agg.args[..] else { return Ok(Logical::Aggregate(aggregate)) };
    let (Some(col), true) = (arg.as_column(), aggregate.groups.is_empty()) else {
        return Ok(Logical::Aggregate(aggregate));
    };
    let arg = arg.clone();
    let Logical::Scan(scan) = &mut aggregate.input else {
        return Ok(Logical::Aggregate(aggregate));
    };
    if scan.table.is_virtual || !has_key(scan, col) || !conditions_on(scan, col) {
        return Ok(Logical::Aggregate(aggregate));
    }
    if !arg.ty().not_null {
        scan.conditions.push(build_function("isnotnull", vec![arg.clone()], ctx.eval)?);
    }
    let input = std::mem::replace(&mut aggregate.input, Logical::one_row());
    aggregate.input = Logical::TopN {
        by: vec![SortKey { expr: arg, desc }],
        limit: RowLimit { offset: RowCount::Const(0), count: RowCount::Const(1) },
        input: Box::new(input),
    };
    Ok(Logical::Aggregate(aggregate))
}

fn has_key(scan: &LogicalScan, col: usize) -> bool {
    let Some(Some(offset)) = scan.offset_of(col) else { return false };
    let table = &scan.table;
    let by_handle = table.handle_column() == Some(offset) && !table.columns[offset].ty.unsigned;
    let by_index = table.indices.iter().any(|index| {
        index.state.is_public()
            && !index.invisible
            && index
                .columns
                .first()
                .is_some_and(|part| part.offset == offset && part.prefix_length.is_none())
            && (table.has_entries(index) || table.common_handle)
    });
    by_handle || by_index
}

fn conditions_on(scan: &LogicalScan, col: usize) -> bool {
    scan.conditions.iter().all(|condition: &Expr| condition.columns().into_iter().eq([col]))
}
