//! Windows as text: `partition #0 order #1 desc rows 1 preceding to current sum(#2) rank()`.
//!
//! A frame is `rows|range BOUND to BOUND` with the bounds `unbounded`, `current`, and `N preceding` or
//! `N following`. Of RANGE the values are computed from the only sort key, an integer.

use cairn_expr::agg::build_aggregate;
use cairn_expr::{EvalContext, Expr, build_function};
use cairn_types::{Datum, FieldType};

use super::expr_text::Parser;
use super::pipeline::sort_items;
use crate::plan::*;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// A window with its functions.
pub(super) fn desc(parser: &mut Parser<'_>) -> Result<WindowDesc> {
    let partition_by = if parser.accept("partition") { parser.list()? } else { Vec::new() };
    let order_by = if parser.accept("order") { sort_items(parser)? } else { Vec::new() };
    let frame = frame(parser, order_by.first())?;
    let mut functions = Vec::new();
    loop {
        let name = parser.word();
        if name.is_empty() {
            let name = "w".to_string();
            return Ok(WindowDesc { name, partition_by, order_by, frame, functions });
        }
        functions.push(function(parser, name)?);
    }
}

fn frame(parser: &mut Parser<'_>, key: Option<&SortItem>) -> Result<WindowFrame> {
    let unit = match () {
        () if parser.accept("rows") => FrameUnit::Rows,
        () if parser.accept("range") => FrameUnit::Range,
        () => return Ok(WindowFrame::to_current_peers()),
    };
    let start = bound(parser, unit, key)?;
    parser.accept("to");
    let end = bound(parser, unit, key)?;
    let has_values = [&start, &end].iter().any(|bound| matches!(bound, FrameBound::Offset(_)));
    let key = key.filter(|_| unit == FrameUnit::Range && has_values);
    Ok(WindowFrame { unit, start, end, key: key.map(|key| key.expr.clone()) })
}

fn bound(parser: &mut Parser<'_>, unit: FrameUnit, key: Option<&SortItem>) -> Result<FrameBound> {
    if parser.accept("unbounded") {
        return Ok(FrameBound::Unbounded);
    }
    if parser.accept("current") {
        return Ok(FrameBound::CurrentRow);
    }
    let distance = parser.expr()?;
    let preceding = parser.accept("preceding");
    if !preceding {
        parser.accept("following");
    }
    let value = match (unit, key) {
        (FrameUnit::Range, Some(key)) => {
            let sign = if preceding != key.desc { "-" } else { "+" };
            let args = vec![key.expr.clone(), distance.clone()];
            Some(build_function(sign, args, &mut EvalContext::default())?)
        }
        _ => None,
    };
    Ok(FrameBound::Offset(FrameOffset { preceding, distance, value }))
}

fn function(parser: &mut Parser<'_>, name: &str) -> Result<WindowFuncDesc> {
    parser.accept("(");
    let mut args = match parser.rest.trim_start().starts_with(')') {
        true => Vec::new(),
        false => parser.list()?,
    };
    parser.accept(")");
    let number = FieldType::bigint_unsigned();
    let ty = args.first().map_or(FieldType::bigint(), |arg| arg.ty().clone());
    let (func, ty) = match name {
        "row_number" => (WindowFunc::RowNumber, number),
        "rank" => (WindowFunc::Rank, number),
        "dense_rank" => (WindowFunc::DenseRank, number),
        "percent_rank" => (WindowFunc::PercentRank, FieldType::double()),
        "cume_dist" => (WindowFunc::CumeDist, FieldType::double()),
        "ntile" => (WindowFunc::Ntile(args.remove(0)), number),
        "lag" | "lead" => {
            let value = args.remove(0);
            let offset = args.remove(0);
            let null = Expr::constant_of(Datum::Null, ty.clone());
            let default = args.pop().unwrap_or(null);
            (WindowFunc::Shift { lead: name == "lead", value, offset, default }, ty)
        }
        "first_value" => (WindowFunc::FirstValue(args.remove(0)), ty),
        "last_value" => (WindowFunc::LastValue(args.remove(0)), ty),
        "nth_value" => {
            let nth = args.remove(1);
            (WindowFunc::NthValue { value: args.remove(0), nth }, ty)
        }
        name => {
            let agg = build_aggregate(name, args, false, &mut EvalContext::default())?;
            let ty = agg.ty.clone();
            (WindowFunc::Aggregate(agg), ty)
        }
    };
    Ok(WindowFuncDesc { func, ty })
}
