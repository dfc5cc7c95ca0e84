//! Fragments between tiers.
//!
//! Expressions, aggregates and types have their wire form in [`cairn_expr::wire`];
//! here are the operators around them. Decoding takes any bytes: what it accepts
//! was also checked as a whole by [`Fragment::validate`].

use cairn_expr::EvalContext;
use cairn_expr::wire as expr_wire;
use cairn_proto::cop;
use cairn_types::{ColumnId, FieldType, IndexId, TableId};

use super::fragment::{EvalSettings, FRAGMENT_COLUMNS_MAX, FRAGMENT_OPERATORS_MAX};
use super::{
    AggregationDesc, BroadcastJoinDesc, Fragment, HashJoinDesc, IndexLookupDesc, IndexScanDesc,
    JoinKind, JoinSide, LimitDesc, OpDesc, ProjectionDesc, SampleColumn, SampleDesc, ScanColumn,
    SelectionDesc, SortItem, TableScanDesc, TopNDesc,
};
use crate::error::{ExecError, Result};

/// Stands for "not a part of the handle".
const NO_PART: i32 = -1;

impl EvalSettings {
    /// The settings of an evaluation context.
    pub fn from_context(ctx: &EvalContext) -> EvalSettings {
        EvalSettings::from(expr_wire::settings_to_proto(ctx))
    }

    /// An evaluation context with these settings.
    pub fn to_context(&self) -> Result<EvalContext> {
        Ok(expr_wire::context_from_proto(&self.clone().into())?)
    }
}

impl From<cop::EvalSettings> for EvalSettings {
    fn from(settings: cop::EvalSettings) -> EvalSettings {
        EvalSettings {
            time_zone_offset_s: settings.time_zone_offset_s,
            time_zone_name: settings.time_zone_name,
            sql_mode: settings.sql_mode,
            div_precision_increment: settings.div_precision_increment,
            now_micros: settings.now_micros,
        }
    }
}

impl From<EvalSettings> for cop::EvalSettings {
    fn from(settings: EvalSettings) -> cop::EvalSettings {
        cop::EvalSettings {
            time_zone_offset_s: settings.time_zone_offset_s,
            time_zone_name: settings.time_zone_name,
            sql_mode: settings.sql_mode,
            div_precision_increment: settings.div_precision_increment,
            now_micros: settings.now_micros,
        }
    }
}

impl Fragment {
    /// The wire form. Fails for what stores do not take: parameters that were not
    /// bound, functions and aggregates of the SQL tier, offsets.
    pub fn to_proto(&self) -> Result<cop::Fragment> {
        let operators: Result<Vec<cop::Operator>> =
            self.operators.iter().map(operator_to_proto).collect();
        Ok(cop::Fragment { operators: operators?, settings: Some(self.settings.clone().into()) })
    }

    /// A fragment from the wire, checked.
    pub fn from_proto(proto: &cop::Fragment) -> Result<Fragment> {
        if proto.operators.len() > FRAGMENT_OPERATORS_MAX {
            return Err(ExecError::invalid_plan("too many operators"));
        }
        let operators: Result<Vec<OpDesc>> =
            proto.operators.iter().map(operator_from_proto).collect();
        let settings = proto.settings.clone().unwrap_or_default().into();
        let fragment = Fragment { operators: operators?, settings };
        fragment.validate()?;
        Ok(fragment)
    }
}

fn operator_to_proto(operator: &OpDesc) -> Result<cop::Operator> {
    use cop::operator::Kind;
    let kind = match operator {
        OpDesc::TableScan(scan) => Kind::TableScan(cop::TableScan {
            table_id: scan.table_id.0,
            columns: columns_to_proto(&scan.columns),
            desc: scan.desc,
            handle_types: types_to_proto(&scan.handle_types),
        }),
        OpDesc::IndexScan(scan) => Kind::IndexScan(cop::IndexScan {
            table_id: scan.table_id.0,
            index_id: scan.index_id.0,
            columns: columns_to_proto(&scan.columns),
            desc: scan.desc,
            unique: scan.unique,
            handle_types: types_to_proto(&scan.handle_types),
        }),
        OpDesc::IndexLookup(lookup) => Kind::IndexLookup(cop::IndexLookup {
            table_id: lookup.table_id.0,
            columns: columns_to_proto(&lookup.columns),
            handle_types: types_to_proto(&lookup.handle_types),
        }),
        OpDesc::Selection(selection) => {
            Kind::Selection(cop::Selection { conditions: exprs_to_proto(&selection.conditions)? })
        }
        OpDesc::Projection(projection) => {
            Kind::Projection(cop::Projection { exprs: exprs_to_proto(&projection.exprs)? })
        }
        OpDesc::Aggregation(aggregation) => {
            let aggs: cairn_expr::Result<Vec<cop::AggExpr>> =
                aggregation.aggs.iter().map(expr_wire::agg_to_proto).collect();
            Kind::Aggregation(cop::Aggregation {
                group_by: exprs_to_proto(&aggregation.group_by)?,
                aggs: aggs?,
                mode: expr_wire::mode_to_proto(aggregation.mode).into(),
                stream: aggregation.stream,
            })
        }
        OpDesc::TopN(top_n) => {
            refuse_offset(top_n.offset)?;
            let items: Result<Vec<cop::SortItem>> =
                top_n.order_by.iter().map(sort_item_to_proto).collect();
            Kind::TopN(cop::TopN { order_by: items?, limit: top_n.limit })
        }
        OpDesc::Limit(limit) => {
            refuse_offset(limit.offset)?;
            Kind::Limit(cop::Limit { limit: limit.limit })
        }
        OpDesc::Sample(sample) => Kind::Sample(sample_to_proto(sample)),
        OpDesc::HashJoin(join) => Kind::HashJoin(join_to_proto(join)?),
    };
    Ok(cop::Operator { kind: Some(kind) })
}

/// Rows of one region are not the first rows: nobody but the reader of all regions
/// can skip.
fn refuse_offset(offset: u64) -> Result<()> {
    match offset {
        0 => Ok(()),
        _ => Err(ExecError::invalid_plan("a store cannot skip rows")),
    }
}

fn operator_from_proto(proto: &cop::Operator) -> Result<OpDesc> {
    use cop::operator::Kind;
    let kind = proto.kind.as_ref();
    Ok(match kind.ok_or_else(|| ExecError::invalid_plan("an operator of an unknown kind"))? {
        Kind::TableScan(scan) => OpDesc::TableScan(TableScanDesc {
            table_id: TableId(scan.table_id),
            columns: columns_from_proto(&scan.columns)?,
            desc: scan.desc,
            handle_types: types_from_proto(&scan.handle_types)?,
        }),
        Kind::IndexScan(scan) => OpDesc::IndexScan(IndexScanDesc {
            table_id: TableId(scan.table_id),
            index_id: IndexId(scan.index_id),
            columns: columns_from_proto(&scan.columns)?,
            desc: scan.desc,
            unique: scan.unique,
            handle_types: types_from_proto(&scan.handle_types)?,
        }),
        Kind::IndexLookup(lookup) => OpDesc::IndexLookup(IndexLookupDesc {
            table_id: TableId(lookup.table_id),
            columns: columns_from_proto(&lookup.columns)?,
            handle_types: types_from_proto(&lookup.handle_types)?,
        }),
        Kind::Selection(selection) => OpDesc::Selection(SelectionDesc {
            conditions: exprs_from_proto(&selection.conditions)?,
        }),
        Kind::Projection(projection) => {
            OpDesc::Projection(ProjectionDesc { exprs: exprs_from_proto(&projection.exprs)? })
        }
        Kind::Aggregation(aggregation) => {
            check_count(aggregation.aggs.len())?;
            let aggs: cairn_expr::Result<Vec<cairn_expr::AggDesc>> =
                aggregation.aggs.iter().map(expr_wire::agg_from_proto).collect();
            OpDesc::Aggregation(AggregationDesc {
                group_by: exprs_from_proto(&aggregation.group_by)?,
                aggs: aggs?,
                mode: expr_wire::mode_from_proto(aggregation.mode)?,
                stream: aggregation.stream,
            })
        }
        Kind::TopN(top_n) => {
            check_count(top_n.order_by.len())?;
            let items: Result<Vec<SortItem>> =
                top_n.order_by.iter().map(sort_item_from_proto).collect();
            OpDesc::TopN(TopNDesc { order_by: items?, offset: 0, limit: top_n.limit })
        }
        Kind::Limit(limit) => OpDesc::Limit(LimitDesc { offset: 0, limit: limit.limit }),
        Kind::Sample(sample) => OpDesc::Sample(sample_from_proto(sample)?),
        Kind::HashJoin(join) => OpDesc::HashJoin(join_from_proto(join)?),
    })
}

fn sample_to_proto(sample: &SampleDesc) -> cop::Sample {
    let offset = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
    let column = |column: &SampleColumn| cop::SampleColumn {
        input: offset(column.input),
        prefix_chars: column.prefix_chars.unwrap_or(0),
    };
    let group = |group: &Vec<usize>| cop::SampleGroup {
        columns: group.iter().map(|at| offset(*at)).collect(),
    };
    cop::Sample {
        columns: sample.columns.iter().map(column).collect(),
        groups: sample.groups.iter().map(group).collect(),
        sample_rows: sample.sample_rows,
        weight_min: sample.weight_min,
        seed: sample.seed,
    }
}

fn sample_from_proto(proto: &cop::Sample) -> Result<SampleDesc> {
    check_count(proto.columns.len())?;
    check_count(proto.groups.len())?;
    let column = |column: &cop::SampleColumn| SampleColumn {
        input: column.input as usize,
        prefix_chars: Some(column.prefix_chars).filter(|chars| *chars > 0),
    };
    let group = |group: &cop::SampleGroup| {
        check_count(group.columns.len())?;
        Ok(group.columns.iter().map(|at| *at as usize).collect())
    };
    Ok(SampleDesc {
        columns: proto.columns.iter().map(column).collect(),
        groups: proto.groups.iter().map(group).collect::<Result<_>>()?,
        sample_rows: proto.sample_rows,
        weight_min: proto.weight_min,
        seed: proto.seed,
    })
}

/// Kinds of joins with their wire forms.
const JOIN_KINDS: [(JoinKind, cop::JoinKind); 7] = [
    (JoinKind::Inner, cop::JoinKind::Inner),
    (JoinKind::LeftOuter, cop::JoinKind::LeftOuter),
    (JoinKind::RightOuter, cop::JoinKind::RightOuter),
    (JoinKind::Semi, cop::JoinKind::Semi),
    (JoinKind::Anti, cop::JoinKind::Anti),
    (JoinKind::LeftOuterSemi, cop::JoinKind::LeftOuterSemi),
    (JoinKind::AntiLeftOuterSemi, cop::JoinKind::AntiLeftOuterSemi),
];

fn join_to_proto(desc: &BroadcastJoinDesc) -> Result<cop::HashJoin> {
    let join = &desc.join;
    let kind = JOIN_KINDS.iter().find(|(kind, _)| *kind == join.kind);
    let kind = kind.ok_or_else(|| ExecError::invalid_plan("a join of an unknown kind"))?.1;
    Ok(cop::HashJoin {
        kind: kind.into(),
        null_aware: join.null_aware,
        left_keys: exprs_to_proto(&join.left_keys)?,
        right_keys: exprs_to_proto(&join.right_keys)?,
        null_safe: join.null_safe.clone(),
        other_conditions: exprs_to_proto(&join.other_conditions)?,
        table_is_left: join.build_side == JoinSide::Left,
        table: u32::try_from(desc.table).unwrap_or(u32::MAX),
        table_types: types_to_proto(&desc.table_types),
    })
}

fn join_from_proto(proto: &cop::HashJoin) -> Result<BroadcastJoinDesc> {
    check_count(proto.null_safe.len())?;
    let kind = JOIN_KINDS.iter().find(|(_, kind)| i32::from(*kind) == proto.kind);
    let kind = kind.ok_or_else(|| ExecError::invalid_plan("a join of an unknown kind"))?.0;
    let build_side = if proto.table_is_left { JoinSide::Left } else { JoinSide::Right };
    Ok(BroadcastJoinDesc {
        join: HashJoinDesc {
            kind,
            null_aware: proto.null_aware,
            left_keys: exprs_from_proto(&proto.left_keys)?,
            right_keys: exprs_from_proto(&proto.right_keys)?,
            null_safe: proto.null_safe.clone(),
            other_conditions: exprs_from_proto(&proto.other_conditions)?,
            build_side,
        },
        table: proto.table as usize,
        table_types: types_from_proto(&proto.table_types)?,
    })
}

fn columns_to_proto(columns: &[ScanColumn]) -> Vec<cop::ScanColumn> {
    let to_proto = |column: &ScanColumn| cop::ScanColumn {
        column_id: column.id.0,
        field_type: Some(expr_wire::field_type_to_proto(&column.ty)),
        default_value: expr_wire::datum_to_bytes(&column.default),
        is_handle: column.is_handle,
        handle_part: column
            .handle_part
            .and_then(|part| i32::try_from(part).ok())
            .unwrap_or(NO_PART),
    };
    columns.iter().map(to_proto).collect()
}

fn columns_from_proto(columns: &[cop::ScanColumn]) -> Result<Vec<ScanColumn>> {
    check_count(columns.len())?;
    let from_proto = |column: &cop::ScanColumn| {
        let ty = column.field_type.as_ref();
        let ty = ty.ok_or_else(|| ExecError::invalid_plan("a column without a type"))?;
        let ty = expr_wire::field_type_from_proto(ty)?;
        Ok(ScanColumn {
            id: ColumnId(column.column_id),
            default: expr_wire::datum_from_bytes(&column.default_value, &ty)?,
            ty,
            is_handle: column.is_handle,
            handle_part: usize::try_from(column.handle_part).ok(),
        })
    };
    columns.iter().map(from_proto).collect()
}

fn types_to_proto(types: &[FieldType]) -> Vec<cop::FieldType> {
    types.iter().map(expr_wire::field_type_to_proto).collect()
}

fn types_from_proto(types: &[cop::FieldType]) -> Result<Vec<FieldType>> {
    check_count(types.len())?;
    types.iter().map(|ty| Ok(expr_wire::field_type_from_proto(ty)?)).collect()
}

fn exprs_to_proto(exprs: &[cairn_expr::Expr]) -> Result<Vec<cop::Expr>> {
    exprs.iter().map(|expr| Ok(expr_wire::expr_to_proto(expr)?)).collect()
}

fn exprs_from_proto(exprs: &[cop::Expr]) -> Result<Vec<cairn_expr::Expr>> {
    check_count(exprs.len())?;
    exprs.iter().map(|expr| Ok(expr_wire::expr_from_proto(expr)?)).collect()
}

fn sort_item_to_proto(item: &SortItem) -> Result<cop::SortItem> {
    Ok(cop::SortItem { expr: Some(expr_wire::expr_to_proto(&item.expr)?), desc: item.desc })
}

fn sort_item_from_proto(item: &cop::SortItem) -> Result<SortItem> {
    let expr = item.expr.as_ref();
    let expr = expr.ok_or_else(|| ExecError::invalid_plan("a sort item without expression"))?;
    Ok(SortItem { expr: expr_wire::expr_from_proto(expr)?, desc: item.desc })
}

fn check_count(count: usize) -> Result<()> {
    match count <= FRAGMENT_COLUMNS_MAX {
        true => Ok(()),
        false => Err(ExecError::invalid_plan("too many columns or expressions")),
    }
}
