//! Sort and limit become one; limits move below projections and into unions.
//!
//! ```text
//! Limit 10                 Project
//! └─Project           →    └─TopN a, 10
//!   └─Sort a                 └─…
//!     └─…
//! ```
//!
//! A limit over a union is also put on each input (offset and count together), and one
//! over a left join without order on its left side.
//!
//! **Must not fire** where the limit is a parameter and would have to be added up.

use cairn_executor::plan::JoinKind;

use crate::error::Result;
use crate::logical::Logical;
use crate::plan::{RowCount, RowLimit};

pub(super) fn run(plan: Logical) -> Result<Logical> {
    let plan = match plan {
        Logical::Limit { limit, input } => push_limit(limit, *input),
        other => other,
    };
    plan.map_children(&mut run)
}

fn push_limit(limit: RowLimit, input: Logical) -> Logical {
    if limit.count == RowCount::Const(0) {
        return Logical::Dual { rows: 0, columns: input.outputs() };
    }
    match input {
        Logical::Sort { by, input } => Logical::TopN { by, limit, input },
        Logical::Project { exprs, input } => {
            let input = Box::new(push_limit(limit, *input));
            Logical::Project { exprs, input }
        }
        Logical::Union { columns, inputs } => {
            let inputs = match both(limit) {
                Some(total) => {
                    let wrap = |input| Logical::Limit { limit: total, input: Box::new(input) };
                    inputs.into_iter().map(|(input, own)| (wrap(input), own)).collect()
                }
                None => inputs,
            };
            Logical::Limit { limit, input: Box::new(Logical::Union { columns, inputs }) }
        }
        Logical::Join(mut join) if join.kind == JoinKind::LeftOuter => {
            if let Some(total) = both(limit) {
                let left = std::mem::replace(&mut join.left, Logical::one_row());
                join.left = Logical::Limit { limit: total, input: Box::new(left) };
            }
            Logical::Limit { limit, input: Box::new(Logical::Join(join)) }
        }
        other => Logical::Limit { limit, input: Box::new(other) },
    }
}

/// Offset and count as a count.
fn both(limit: RowLimit) -> Option<RowLimit> {
    match (limit.offset, limit.count) {
        (RowCount::Const(offset), RowCount::Const(count)) => Some(RowLimit {
            offset: RowCount::Const(0),
            count: RowCount::Const(offset.saturating_add(count)),
        }),
        _ => None,
    }
}
