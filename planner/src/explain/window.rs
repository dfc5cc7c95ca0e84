//! What EXPLAIN tells of window functions.
//!
//! `row_number()->Column#4, sum(test.t.a)->Column#5 over(partition by test.t.a order by test.t.b rows
//! between 1 preceding and current row)`

use cairn_executor::plan::{FrameBound, FrameUnit, WindowDesc, WindowFunc};
use cairn_expr::{Expr, Func};

use super::{named, sort_info};
use crate::plan::PlanColumn;

/// The functions with their columns, and their window.
pub(super) fn info(desc: &WindowDesc, below: &[PlanColumn], schema: &[PlanColumn]) -> String {
    let name = named(below);
    let list = |exprs: &[&Expr]| {
        exprs.iter().map(|expr| expr.fmt_with(&name)).collect::<Vec<_>>().join(", ")
    };
    let functions = desc.functions.iter().enumerate().map(|(at, function)| {
        let call = match &function.func {
            WindowFunc::Aggregate(agg) => agg.fmt_with(&name),
            func => format!("{}({})", func.name(), list(&func.args())),
        };
        format!("{call}->{}", named(schema)(below.len() + at))
    });
    let mut over = Vec::new();
    if !desc.partition_by.is_empty() {
        let keys: Vec<&Expr> = desc.partition_by.iter().collect();
        over.push(format!("partition by {}", list(&keys)));
    }
    if !desc.order_by.is_empty() {
        over.push(format!("order by {}", sort_info(&desc.order_by, below)));
    }
    let is_used = desc.functions.iter().any(|function| function.func.uses_frame());
    if is_used && !(desc.order_by.is_empty() && desc.frame.unit == FrameUnit::Range) {
        over.push(frame(desc));
    }
    format!("{} over({})", functions.collect::<Vec<_>>().join(", "), over.join(" "))
}

fn frame(desc: &WindowDesc) -> String {
    let unit = match desc.frame.unit {
        FrameUnit::Rows => "rows",
        FrameUnit::Range => "range",
    };
    let bound = |bound: &FrameBound, unbounded: &str| match bound {
        FrameBound::Unbounded => format!("unbounded {unbounded}"),
        FrameBound::CurrentRow => "current row".to_string(),
        FrameBound::Offset(offset) => {
            let side = if offset.preceding { "preceding" } else { "following" };
            let unit = offset.value.as_ref().and_then(interval_unit).unwrap_or_default();
            let interval = if unit.is_empty() { "" } else { "interval " };
            let distance = offset.distance.fmt_with(&|_| String::new());
            format!("{interval}{distance}{unit} {side}")
        }
    };
    let start = bound(&desc.frame.start, "preceding");
    let end = bound(&desc.frame.end, "following");
    format!("{unit} between {start} and {end}")
}

/// The unit of the interval that a bound's value is away from the row's, after a blank.
fn interval_unit(value: &Expr) -> Option<String> {
    let mut unit = None;
    value.walk(&mut |expr| {
        if let Some((Func::DateAdd | Func::DateSub, args)) = expr.as_function()
            && let Some(last) = args.last()
        {
            let text = last.fmt_with(&|_| String::new());
            unit = Some(format!(" {}", text.trim_matches('"').to_ascii_lowercase()));
        }
        unit.is_none()
    });
    unit
}
