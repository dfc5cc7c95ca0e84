//! What a plan costs as a whole, where whole plans are compared: the ways to join.
//!
//! Costs follow from the operators and their estimated rows, in the units of [`super::cost`];
//! plans carry no costs of their own. Under a LIMIT only a fraction of the rows is asked for:
//! operators that answer while they read then do that fraction of their work, others all of it.

use cairn_executor::plan::{JoinSide, OpDesc};

use super::cost::CostParams;
use crate::plan::{PhysicalOp, PhysicalPlan, Reader};

/// What each operator of the root task costs with everything below it, by its id: for EXPLAIN.
pub fn operator_costs(plan: &PhysicalPlan) -> Vec<(usize, f64)> {
    let own = (plan.id, plan_cost(plan, 1.0, &CostParams::DEFAULT));
    let below = plan.children.iter().flat_map(operator_costs);
    std::iter::once(own).chain(below).collect()
}

/// Cost of the first `fraction` of a plan's rows, with everything below it.
pub(super) fn plan_cost(plan: &PhysicalPlan, fraction: f64, unit: &CostParams) -> f64 {
    let child = |at: usize, fraction: f64| {
        plan.children.get(at).map_or(0.0, |child| plan_cost(child, fraction, unit))
    };
    let rows_of = |at: usize| plan.children.get(at).map_or(0.0, |child| child.row_count);
    let input: f64 = plan.children.iter().map(|child| child.row_count).sum();
    // Each child is asked once, or chains of joins would cost the planner dearly.
    let below = |fraction: f64| -> f64 {
        plan.children.iter().map(|child| plan_cost(child, fraction, unit)).sum()
    };
    let point = unit.seek_range + unit.scan_row + unit.send_row;
    match &plan.op {
        PhysicalOp::PointGet(_) => point,
        PhysicalOp::BatchPointGet(get) => get.keys.len() as f64 * point,
        PhysicalOp::TableReader(reader)
        | PhysicalOp::IndexReader(reader)
        | PhysicalOp::IndexLookUp(reader) => {
            // Tables that its rows are joined with are read as a whole.
            below(1.0) + unit.broadcast(input) + reader_cost(reader, fraction, unit)
        }
        PhysicalOp::HashJoin(join) => {
            let (build, probe) = match join.build_side {
                JoinSide::Left => (0, 1),
                JoinSide::Right => (1, 0),
            };
            let hashed = rows_of(build) + rows_of(probe) * fraction;
            child(build, 1.0) + child(probe, fraction) + hashed * unit.hash_row
        }
        // The right side runs for every left row.
        PhysicalOp::Apply(_) => child(0, fraction) + rows_of(0) * fraction * child(1, 1.0),
        PhysicalOp::IndexJoin(join) => {
            let (outer, inner) = join.sides();
            // The inner reader's rows are those of all look-ups.
            let keys = rows_of(outer) * (unit.seek_range + unit.lookup_key);
            child(outer, fraction) + (child(inner, 1.0) + keys + input * unit.hash_row) * fraction
        }
        PhysicalOp::Selection(selection) => {
            below(fraction) + input * fraction * selection.conditions.len() as f64 * unit.filter_row
        }
        PhysicalOp::HashAgg(_) => below(1.0) + input * unit.hash_row,
        PhysicalOp::Sort(_) => below(1.0) + unit.sort(input),
        PhysicalOp::TopN { .. } => below(1.0) + input * unit.filter_row + unit.sort(plan.row_count),
        PhysicalOp::Projection(_)
        | PhysicalOp::StreamAgg(_)
        | PhysicalOp::Window(_)
        | PhysicalOp::MemTableScan(_)
        | PhysicalOp::Dual { .. }
        | PhysicalOp::Values { .. }
        | PhysicalOp::Limit(_)
        | PhysicalOp::UnionAll
        | PhysicalOp::Recursive(_)
        | PhysicalOp::WorkTable { .. }
        | PhysicalOp::SharedCte { .. }
        | PhysicalOp::MaxOneRow
        | PhysicalOp::SelectLock(_) => below(fraction) + input * fraction * unit.filter_row,
    }
}

fn reader_cost(reader: &Reader, fraction: f64, unit: &CostParams) -> f64 {
    let ranges = reader.ranges.fixed.as_ref().map_or(1, Vec::len) as f64;
    let mut cost = 0.0;
    let mut rows = 0.0;
    let mut fraction = fraction;
    for (op, info) in reader.operators.iter().zip(&reader.info) {
        cost += match op {
            OpDesc::TableScan(_) => info.row_count * unit.scan_row,
            OpDesc::IndexScan(_) => info.row_count * unit.scan_entry,
            OpDesc::IndexLookup(_) => info.row_count * reader.lookup_cost,
            OpDesc::Selection(filter) => rows * filter.conditions.len() as f64 * unit.filter_row,
            OpDesc::Projection(_) | OpDesc::Limit(_) | OpDesc::Sample(_) => rows * unit.filter_row,
            OpDesc::HashJoin(_) => rows * unit.hash_row,
            OpDesc::Aggregation(_) | OpDesc::TopN(_) => {
                fraction = 1.0;
                rows * unit.hash_row
            }
        };
        rows = info.row_count;
    }
    ranges * unit.seek_range + (cost + rows * unit.send_row) * fraction
}
