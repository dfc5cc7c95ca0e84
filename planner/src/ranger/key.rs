//! Ranges of values as ranges of raw keys.

use cairn_executor::source::KeyRange;
use cairn_expr::EvalContext;
use cairn_types::codec::{encode_datum_key, encode_i64, flag};
use cairn_types::keys::{index_prefix, prefix_next, row_prefix};
use cairn_types::{Datum, PhysicalKind};

use super::{Bound, Range, RangeColumn, RangeSpec};
use crate::catalog::{IndexInfo, TableInfo};

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
    let int_handle = index.is_none() && !table.common_handle;
    let mut keys = Vec::new();
    for range in spec.ranges(ctx) {
        if int_handle {
            keys.extend(handle_ranges(&prefix, &range, &spec.columns));
        } else {
            keys.push(column_range(&prefix, &range, &spec.columns));
        }
    }
    // Unsigned handles wrap: their upper half lies before the lower one.
    keys.sort_by(|a, b| a.start.cmp(&b.start));
    keys.retain(|range| range.end.is_empty() || range.start < range.end);
    keys
}

/// A range over memcomparable columns.
fn column_range(prefix: &[u8], range: &Range, columns: &[RangeColumn]) -> KeyRange {
    let encode = |bounds: &[Bound]| {
        let mut key = prefix.to_vec();
        for (bound, column) in bounds.iter().zip(columns) {
            match bound {
                Bound::Min | Bound::Unknown => key.push(flag::NOT_NULL_MIN),
                Bound::Max => key.push(flag::MAX),
                Bound::Value(value) => encode_datum_key(&mut key, &value.as_ref(), &column.ty),
            }
        }
        key
    };
    let low = encode(&range.low);
    let high = encode(&range.high);
    let start = if range.low_exclusive { prefix_next(&low) } else { low };
    let end = if range.high_exclusive { high } else { prefix_next(&high) };
    KeyRange::new(start, end)
}

/// A range over an integer handle; two if it is unsigned and holds both halves.
fn handle_ranges(prefix: &[u8], range: &Range, columns: &[RangeColumn]) -> Vec<KeyRange> {
    let unsigned =
        columns.first().is_some_and(|column| column.ty.physical() == PhysicalKind::UInt);
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
