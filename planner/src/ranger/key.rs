//! Values as raw keys: ranges of scans, and the keys of point reads.
//!
//! A TIMESTAMP is stored in UTC, while values in a statement are in the session's time
//! zone: bounds are converted here.

use cairn_executor::source::KeyRange;
use cairn_expr::{EvalContext, Expr, NoRow};
use cairn_types::codec::{encode_datum_key, encode_i64, flag};
use cairn_types::keys::{encode_index_key, encode_row_key, index_prefix, prefix_next, row_prefix};
use cairn_types::{Datum, DatumRef, FieldType, Handle, PhysicalKind, TimeZone, TypeCode};

use super::{Bound, Range, RangeColumn, RangeSpec};
use crate::catalog::{IndexInfo, TableInfo};
use crate::error::Result;
use crate::plan::PointAccess;

/// The key of a point read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PointKey {
    /// Of a row.
    Row(Handle),
    /// Of an entry of a unique index, whose value holds the handle.
    Index(Vec<u8>),
}

impl PointKey {
    /// The raw key to read.
    pub fn raw(&self, table: &TableInfo) -> Vec<u8> {
        match self {
            PointKey::Row(handle) => encode_row_key(table.id, handle),
            PointKey::Index(key) => key.clone(),
        }
    }
}

/// The key of a point read with the parameters of this run; `None` if no row can have
/// it (a NULL, a value outside of the column's type).
pub fn point_key(
    access: &PointAccess,
    key: &[Expr],
    ctx: &mut EvalContext,
) -> Result<Option<PointKey>> {
    let table = &access.table;
    let offsets: Vec<usize> = match &access.index {
        Some(index) => index.columns.iter().map(|part| part.offset).collect(),
        None if table.common_handle => table.common_handle_columns(),
        None => table.handle_column().into_iter().collect(),
    };
    let mut values: Vec<(Datum, FieldType)> = Vec::with_capacity(key.len());
    for (at, expr) in key.iter().enumerate() {
        let value = match expr {
            Expr::Constant { value, .. } => value.clone(),
            Expr::Param { index, .. } => ctx.params.get(*index).cloned().unwrap_or_default(),
            other => other.eval_row(&NoRow, ctx)?,
        };
        let ty = match offsets.get(at) {
            Some(offset) => table.columns[*offset].ty.clone(),
            None => FieldType::bigint().with_not_null(),
        };
        let Some(value) = stored_value(value, &ty, &ctx.time_zone) else { return Ok(None) };
        values.push((value, ty));
    }
    if let Some(index) = &access.index {
        let columns = values.iter().map(|(value, ty)| (value.as_ref(), ty));
        let key = encode_index_key(table.id, index.id, columns, None);
        return Ok(Some(PointKey::Index(key)));
    }
    if table.common_handle {
        let mut bytes = Vec::new();
        for (value, ty) in &values {
            encode_datum_key(&mut bytes, &value.as_ref(), ty);
        }
        return Ok(Some(PointKey::Row(Handle::common(bytes))));
    }
    Ok(match values.first() {
        Some((Datum::Int(handle), _)) => Some(PointKey::Row(Handle::Int(*handle))),
        // An unsigned handle is kept bit for bit.
        Some((Datum::UInt(handle), _)) => Some(PointKey::Row(Handle::Int(*handle as i64))),
        _ => None,
    })
}

/// A value as its column stores it; `None` if it can be in no row.
pub(super) fn stored_value(value: Datum, ty: &FieldType, zone: &TimeZone) -> Option<Datum> {
    match (value, ty.physical()) {
        (Datum::Null, _) => None,
        (Datum::Int(number), PhysicalKind::UInt) => u64::try_from(number).ok().map(Datum::UInt),
        (Datum::UInt(number), PhysicalKind::Int) => i64::try_from(number).ok().map(Datum::Int),
        (Datum::Time(time), _) if ty.code == TypeCode::Timestamp => {
            time.to_zone(zone, &TimeZone::utc()).map(Datum::Time)
        }
        (value, _) => Some(value),
    }
}

/// The raw key ranges of a scan, in key order: of the index's entries, or of rows if
/// there is none.
pub fn build_key_ranges(
    spec: &RangeSpec,
    table: &TableInfo,
    index: Option<&IndexInfo>,
    ctx: &mut EvalContext,
) -> Vec<KeyRange> {
    let prefix = match index {
        Some(index) => index_prefix(table.id, index.id),
        None => row_prefix(table.id),
    };
    if spec.is_full() {
        let end = prefix_next(&prefix);
        return vec![KeyRange::new(prefix, end)];
    }
    let zone = ctx.time_zone.clone();
    let int_handle = index.is_none() && !table.common_handle;
    let mut keys = Vec::new();
    for range in spec.ranges(ctx) {
        if int_handle {
            keys.extend(handle_ranges(&prefix, &range, &spec.columns));
        } else {
            keys.push(column_range(&prefix, &range, &spec.columns, &zone));
        }
    }
    // Unsigned handles wrap: their upper half lies before the lower one.
    keys.sort_by(|a, b| a.start.cmp(&b.start));
    keys.retain(|range| range.end.is_empty() || range.start < range.end);
    keys
}

/// A range over memcomparable columns.
fn column_range(
    prefix: &[u8],
    range: &Range,
    columns: &[RangeColumn],
    zone: &TimeZone,
) -> KeyRange {
    let encode = |bounds: &[Bound]| {
        let mut key = prefix.to_vec();
        encode_bounds(&mut key, bounds, columns, zone);
        key
    };
    let low = encode(&range.low);
    let high = encode(&range.high);
    let start = if range.low_exclusive { prefix_next(&low) } else { low };
    let end = if range.high_exclusive { high } else { prefix_next(&high) };
    KeyRange::new(start, end)
}

/// Appends one end of a range over memcomparable columns.
pub(crate) fn encode_bounds(
    key: &mut Vec<u8>,
    bounds: &[Bound],
    columns: &[RangeColumn],
    zone: &TimeZone,
) {
    for (bound, column) in bounds.iter().zip(columns) {
        match bound {
            Bound::Min | Bound::Unknown => key.push(flag::NOT_NULL_MIN),
            Bound::Max => key.push(flag::MAX),
            Bound::Value(Datum::Time(time)) if column.ty.code == TypeCode::Timestamp => {
                let utc = time.to_zone(zone, &TimeZone::utc()).unwrap_or(*time);
                encode_datum_key(key, &DatumRef::Time(utc), &column.ty);
            }
            Bound::Value(value) => encode_datum_key(key, &value.as_ref(), &column.ty),
        }
    }
}

/// A range over an integer handle; two if it is unsigned and holds both halves.
fn handle_ranges(prefix: &[u8], range: &Range, columns: &[RangeColumn]) -> Vec<KeyRange> {
    let unsigned = columns.first().is_some_and(|column| column.ty.physical() == PhysicalKind::UInt);
    let value = |bound: Option<&Bound>| match bound {
        Some(Bound::Value(Datum::Int(value))) => Some(i128::from(*value)),
        Some(Bound::Value(Datum::UInt(value))) => Some(i128::from(*value)),
        _ => None,
    };
    let (min, max) = if unsigned {
        (0, i128::from(u64::MAX))
    } else {
        (i128::from(i64::MIN), i128::from(i64::MAX))
    };
    // `IS NULL` holds for no handle.
    if range.high.first() == Some(&Bound::Value(Datum::Null)) {
        return Vec::new();
    }
    let low = value(range.low.first()).map_or(min, |v| v + i128::from(range.low_exclusive));
    let high = value(range.high.first()).map_or(max, |v| v - i128::from(range.high_exclusive));
    let (low, high) = (low.max(min), high.min(max));
    if low > high {
        return Vec::new();
    }
    let key = |handle: i64| {
        let mut key = prefix.to_vec();
        encode_i64(&mut key, handle);
        key
    };
    let span = |low: i64, high: i64| KeyRange::new(key(low), prefix_next(&key(high)));
    let half = i128::from(i64::MAX);
    if !unsigned {
        return vec![span(low as i64, high as i64)];
    }
    // An unsigned handle is stored bit for bit: the upper half is negative.
    let mut ranges = Vec::with_capacity(2);
    if low <= half {
        ranges.push(span(low as i64, high.min(half) as i64));
    }
    if high > half {
        ranges.push(span(low.max(half + 1) as u64 as i64, high as u64 as i64));
    }
    ranges
}
