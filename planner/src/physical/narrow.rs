//! Projections of plain columns vanish into the access below them.
//!
//! A scan or point read first reads every column that some condition names. Conditions that
//! became key ranges need no column any more, so what is left above is often a projection
//! that only drops and reorders columns: the access may as well read just those, in that
//! order.
//!
//! ```text
//! SELECT c FROM t WHERE id = 5
//! before: Projection(c) ← Point_Get(id, c)      after: Point_Get(c)
//! before: Projection(c) ← TableReader(id, c)    after: TableReader(c)
//! ```
//!
//! It must not happen where something in between still counts columns: point reads with
//! conditions of their own, fragments with operators above the scan, index scans (their
//! first columns are the key's, whoever asks).

use cairn_executor::plan::OpDesc;
use cairn_expr::Expr;

use super::Root;
use crate::logical::Col;
use crate::plan::PhysicalOp;

/// Lets the access at the root yield just the columns `exprs` name, if it can.
pub(super) fn narrow(root: &mut Root, exprs: &[(Col, Expr)]) -> bool {
    let Some(offsets) = plain_offsets(&root.layout, exprs) else { return false };
    match &mut root.plan.op {
        PhysicalOp::PointGet(get) if get.access.conditions.is_empty() => {
            choose(&mut get.access.columns, &offsets);
        }
        PhysicalOp::BatchPointGet(get) if get.access.conditions.is_empty() => {
            choose(&mut get.access.columns, &offsets);
        }
        PhysicalOp::TableReader(reader) | PhysicalOp::IndexLookUp(reader) => {
            match reader.operators.last_mut() {
                Some(OpDesc::TableScan(scan)) => choose(&mut scan.columns, &offsets),
                Some(OpDesc::IndexLookup(lookup)) => choose(&mut lookup.columns, &offsets),
                _ => return false,
            }
            if let Some(info) = reader.info.last_mut() {
                choose(&mut info.schema, &offsets);
            }
        }
        _ => return false,
    }
    choose(&mut root.plan.schema, &offsets);
    choose(&mut root.layout, &offsets);
    true
}

/// Where each expression's column is, if all are columns that keep their number, each once.
fn plain_offsets(layout: &[Col], exprs: &[(Col, Expr)]) -> Option<Vec<usize>> {
    let mut offsets = Vec::with_capacity(exprs.len());
    for (col, expr) in exprs {
        if expr.as_column() != Some(*col) {
            return None;
        }
        let offset = layout.iter().position(|known| known == col)?;
        if offsets.contains(&offset) {
            return None;
        }
        offsets.push(offset);
    }
    (!offsets.is_empty()).then_some(offsets)
}

fn choose<T: Clone>(list: &mut Vec<T>, offsets: &[usize]) {
    *list = offsets.iter().map(|offset| list[*offset].clone()).collect();
}
