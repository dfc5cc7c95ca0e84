//! What a plan costs as a whole, where whole plans are compared: the ways to join.
//!
//! Costs follow from the operators and their estimated rows, in the units of [`super::cost`];
//! plans carry no costs of their own.

use cairn_executor::plan::OpDesc;

use super::cost::CostParams;
use crate::plan::{PhysicalOp, PhysicalPlan, Reader};

/// Cost of a plan with everything below it.
pub(super) fn plan_cost(plan: &PhysicalPlan, unit: &CostParams) -> f64 {
    let below: f64 = plan.children.iter().map(|child| plan_cost(child, unit)).sum();
    let rows_of = |at: usize| plan.children.get(at).map_or(0.0, |child| child.row_count);
    let input: f64 = plan.children.iter().map(|child| child.row_count).sum();
    let point = unit.seek_range + unit.scan_row + unit.send_row;
    match &plan.op {
        PhysicalOp::PointGet(_) => point,
        PhysicalOp::BatchPointGet(get) => get.keys.len() as f64 * point,
        PhysicalOp::TableReader(reader)
        | PhysicalOp::IndexReader(reader)
        | PhysicalOp::IndexLookUp(reader) => reader_cost(reader, unit),
        PhysicalOp::HashJoin(_) => below + input * unit.hash_row,
        // The right side runs for every left row.
        PhysicalOp::Apply(_) => {
            let cost = |at: usize| plan.children.get(at).map_or(0.0, |one| plan_cost(one, unit));
            cost(0) + rows_of(0) * cost(1)
        }
        PhysicalOp::IndexJoin(join) => {
            let (outer, _) = join.sides();
            // The inner reader's rows are those of all look-ups.
            below
                + rows_of(outer) * (unit.seek_range + unit.lookup_key)
                + input * unit.hash_row
        }
        PhysicalOp::Selection(selection) => {
            below + input * selection.conditions.len() as f64 * unit.filter_row
        }
        PhysicalOp::HashAgg(_) => below + input * unit.hash_row,
        PhysicalOp::Sort(_) => below + unit.sort(input),
        PhysicalOp::TopN { .. } => below + unit.sort(input.min(plan.row_count.max(2.0))) + input * unit.filter_row,
        PhysicalOp::Projection(_)
        | PhysicalOp::StreamAgg(_)
        | PhysicalOp::MemTableScan(_)
        | PhysicalOp::Dual { .. }
        | PhysicalOp::Values { .. }
        | PhysicalOp::Limit(_)
        | PhysicalOp::UnionAll
        | PhysicalOp::MaxOneRow
        | PhysicalOp::SelectLock(_) => below + input * unit.filter_row,
    }
}

fn reader_cost(reader: &Reader, unit: &CostParams) -> f64 {
    let ranges = reader.ranges.fixed.as_ref().map_or(1, Vec::len) as f64;
    let mut cost = ranges * unit.seek_range;
    let mut rows = 0.0;
    for (op, info) in reader.operators.iter().zip(&reader.info) {
        cost += match op {
            OpDesc::TableScan(_) => info.row_count * unit.scan_row,
            OpDesc::IndexScan(_) => info.row_count * unit.scan_entry,
            OpDesc::IndexLookup(_) => info.row_count * unit.lookup_row,
            OpDesc::Selection(filter) => rows * filter.conditions.len() as f64 * unit.filter_row,
            OpDesc::Aggregation(_) => rows * unit.hash_row,
            OpDesc::Projection(_) | OpDesc::TopN(_) | OpDesc::Limit(_) => rows * unit.filter_row,
        };
        rows = info.row_count;
    }
    cost + rows * unit.send_row
}
