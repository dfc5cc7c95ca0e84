//! A chain of operators that runs next to the data, from the scan upwards.

use std::collections::VecDeque;

use cairn_expr::Expr;
use cairn_expr::agg::partial_types;
use cairn_types::FieldType;

use super::{AggMode, AggregationDesc, BroadcastJoinDesc, JoinKind, JoinSide, OpDesc, ScanColumn};
use crate::error::{ExecError, Result};
use crate::operators::{check_join, value_fits};

/// Most operators of a fragment: the planner makes at most a dozen.
pub const FRAGMENT_OPERATORS_MAX: usize = 64;
/// Most columns of one operator (MySQL's own limit of a table).
pub const FRAGMENT_COLUMNS_MAX: usize = 4096;
/// Most nodes of one expression.
pub const EXPR_NODES_MAX: usize = 100_000;
/// Deepest nesting of an expression.
pub const EXPR_DEPTH_MAX: usize = 512;

/// What expressions need to know of the session, as it travels.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EvalSettings {
    /// Offset of the session's time zone in seconds, if it has no name.
    pub time_zone_offset_s: i64,
    /// Name of the session's time zone; empty: the offset counts.
    pub time_zone_name: String,
    /// Bits of `sql_mode` as cairn-expr numbers them.
    pub sql_mode: u64,
    /// `div_precision_increment`.
    pub div_precision_increment: u32,
    /// NOW() of the statement, microseconds since the Unix epoch.
    pub now_micros: i64,
}

/// A chain of operators: the first is a scan, each following one reads the one
/// before.
#[derive(Clone, Debug, PartialEq)]
pub struct Fragment {
    /// From the scan upwards.
    pub operators: Vec<OpDesc>,
    /// How to evaluate.
    pub settings: EvalSettings,
}

impl Fragment {
    /// Checks what building would rely on, and tells the output's types.
    ///
    /// Fragments come from the wire: nothing is taken for granted. What columns an
    /// expression names must exist and be held as the expression believes.
    pub fn validate(&self) -> Result<Vec<FieldType>> {
        if self.operators.len() > FRAGMENT_OPERATORS_MAX {
            return Err(ExecError::invalid_plan("too many operators"));
        }
        let mut types: Option<Vec<FieldType>> = None;
        for operator in &self.operators {
            types = Some(output_types(operator, types)?);
        }
        types.ok_or_else(|| ExecError::invalid_plan("no operators"))
    }

    /// Types of the output; an empty list if the fragment is not valid.
    pub fn output_types(&self) -> Vec<FieldType> {
        self.validate().unwrap_or_default()
    }
}

/// Output types of `operator` over `input`; `None` for input: nothing below.
pub(crate) fn output_types(
    operator: &OpDesc,
    input: Option<Vec<FieldType>>,
) -> Result<Vec<FieldType>> {
    let below = |input: Option<Vec<FieldType>>| {
        input.ok_or_else(|| ExecError::invalid_plan("the first operator must be a scan"))
    };
    let bottom = |input: &Option<Vec<FieldType>>| {
        if input.is_some() {
            return Err(ExecError::invalid_plan("a scan must be the first operator"));
        }
        Ok(())
    };
    match operator {
        OpDesc::TableScan(scan) => {
            bottom(&input)?;
            check_scan_columns(&scan.columns, scan.handle_types.len())?;
            Ok(column_types(&scan.columns))
        }
        OpDesc::IndexScan(scan) => {
            bottom(&input)?;
            check_scan_columns(&scan.columns, scan.handle_types.len())?;
            Ok(column_types(&scan.columns))
        }
        OpDesc::IndexLookup(lookup) => {
            if below(input)?.is_empty() {
                return Err(ExecError::invalid_plan("an index lookup needs a handle column"));
            }
            check_scan_columns(&lookup.columns, lookup.handle_types.len())?;
            Ok(column_types(&lookup.columns))
        }
        OpDesc::Selection(selection) => {
            let types = below(input)?;
            check_exprs(&selection.conditions, &types)?;
            Ok(types)
        }
        OpDesc::Projection(projection) => {
            let types = below(input)?;
            check_exprs(&projection.exprs, &types)?;
            Ok(projection.exprs.iter().map(|expr| expr.ty().clone()).collect())
        }
        OpDesc::Aggregation(aggregation) => aggregation_types(aggregation, &below(input)?),
        OpDesc::TopN(top_n) => {
            let types = below(input)?;
            for item in &top_n.order_by {
                check_expr(&item.expr, &types)?;
            }
            Ok(types)
        }
        OpDesc::Limit(_) => below(input),
        OpDesc::Sample(sample) => {
            crate::sample::check(sample, &below(input)?)?;
            Ok(vec![crate::sample::part_type()])
        }
        OpDesc::HashJoin(join) => broadcast_join_types(join, &below(input)?),
    }
}

/// Output types of a join of rows of types `probe` with a table.
pub fn broadcast_join_types(
    desc: &BroadcastJoinDesc,
    probe: &[FieldType],
) -> Result<Vec<FieldType>> {
    let join = &desc.join;
    let is_preserved = match join.kind {
        JoinKind::LeftOuter => join.build_side == JoinSide::Left,
        JoinKind::RightOuter => join.build_side == JoinSide::Right,
        _ => !join.kind.keeps_right() && join.build_side == JoinSide::Left,
    };
    if is_preserved {
        return Err(ExecError::invalid_plan("a fragment cannot preserve the rows of a table"));
    }
    if desc.table >= FRAGMENT_OPERATORS_MAX || desc.table_types.len() > FRAGMENT_COLUMNS_MAX {
        return Err(ExecError::invalid_plan("a join's table is too large"));
    }
    let (_, table_keys) = desc.keys();
    if table_keys.is_empty() || table_keys.iter().any(|key| key.as_column().is_none()) {
        return Err(ExecError::invalid_plan("a join in a fragment needs columns of its table"));
    }
    let (left, right) = desc.sides(probe, &desc.table_types);
    let types = check_join(&mut join.clone(), left, right)?;
    if types.len() > FRAGMENT_COLUMNS_MAX {
        return Err(ExecError::invalid_plan("too many columns"));
    }
    Ok(types)
}

/// Output types of an aggregation over columns of types `input`.
pub fn aggregation_types(desc: &AggregationDesc, input: &[FieldType]) -> Result<Vec<FieldType>> {
    if desc.aggs.len() + desc.group_by.len() > FRAGMENT_COLUMNS_MAX {
        return Err(ExecError::invalid_plan("too many aggregates"));
    }
    check_exprs(&desc.group_by, input)?;
    let mut types = Vec::with_capacity(desc.aggs.len() + desc.group_by.len());
    let mut states = 0;
    for agg in &desc.aggs {
        if desc.mode != AggMode::Complete && !agg.is_splittable() {
            return Err(ExecError::invalid_plan("this aggregate cannot be split"));
        }
        match desc.mode {
            AggMode::Complete | AggMode::Partial => check_exprs(&agg.args, input)?,
            AggMode::Final => {
                let partial = partial_types(agg);
                let given = input.get(states..states + partial.len());
                let given = given.ok_or_else(|| {
                    ExecError::invalid_plan("a final aggregation lacks partial columns")
                })?;
                let fits = given.iter().zip(&partial).all(|(a, b)| same_kind(a, b));
                if !fits {
                    return Err(ExecError::invalid_plan("a partial column has another type"));
                }
                states += partial.len();
            }
        }
        match desc.mode {
            AggMode::Partial => types.extend(partial_types(agg)),
            AggMode::Complete | AggMode::Final => types.push(agg.ty.clone()),
        }
    }
    types.extend(desc.group_by.iter().map(|expr| expr.ty().clone()));
    Ok(types)
}

fn column_types(columns: &[ScanColumn]) -> Vec<FieldType> {
    columns.iter().map(|column| column.ty.clone()).collect()
}

pub(crate) fn check_scan_columns(columns: &[ScanColumn], handle_parts: usize) -> Result<()> {
    if columns.len() > FRAGMENT_COLUMNS_MAX || handle_parts > FRAGMENT_COLUMNS_MAX {
        return Err(ExecError::invalid_plan("too many columns"));
    }
    for column in columns {
        if column.handle_part.is_some_and(|part| part >= handle_parts) {
            return Err(ExecError::invalid_plan("a column names a missing part of the handle"));
        }
        if !value_fits(&column.default, &column.ty) {
            return Err(ExecError::invalid_plan("a default is not of its column's type"));
        }
    }
    Ok(())
}

pub(crate) fn check_exprs(exprs: &[Expr], input: &[FieldType]) -> Result<()> {
    if exprs.len() > FRAGMENT_COLUMNS_MAX {
        return Err(ExecError::invalid_plan("too many expressions"));
    }
    exprs.iter().try_for_each(|expr| check_expr(expr, input))
}

/// Checks that an expression is bounded, and that the columns it names exist and
/// are held as it believes. Walks level by level, so that a deep expression cannot
/// exhaust the stack here.
pub(crate) fn check_expr(expr: &Expr, input: &[FieldType]) -> Result<()> {
    let mut queue = VecDeque::from([(expr, 1usize)]);
    let mut nodes = 0;
    while let Some((expr, depth)) = queue.pop_front() {
        nodes += 1;
        if nodes > EXPR_NODES_MAX || depth > EXPR_DEPTH_MAX {
            return Err(ExecError::invalid_plan("an expression is too large"));
        }
        match expr {
            Expr::Column { index, ty } => check_column(*index, ty, input)?,
            Expr::Function { args, .. } => queue.extend(args.iter().map(|arg| (arg, depth + 1))),
            _ => {}
        }
    }
    Ok(())
}

fn check_column(index: usize, ty: &FieldType, input: &[FieldType]) -> Result<()> {
    let Some(column) = input.get(index) else {
        return Err(ExecError::invalid_plan(format!(
            "an expression names column {index} of {}",
            input.len()
        )));
    };
    if !same_kind(ty, column) {
        return Err(ExecError::invalid_plan(format!(
            "an expression takes column {index} for {ty}, but it is {column}"
        )));
    }
    Ok(())
}

/// Whether columns of both types hold the same kind of values.
pub(crate) fn same_kind(a: &FieldType, b: &FieldType) -> bool {
    a.physical() == b.physical() && (!a.is_decimal() || a.scale() == b.scale())
}
