//! Casts between numbers, and parts of dates, over typed vectors.

use cairn_types::{Column, ColumnData, FieldType, PhysicalKind};

use super::super::vector::Vector;
use super::{Lane, lane, validity};
use crate::func::Func;

pub(crate) fn eval(
    from: &FieldType,
    vector: &Vector<'_>,
    ty: &FieldType,
    len: usize,
) -> Option<Column> {
    if from.is_enum_or_set() || ty.is_enum_or_set() || vector.constant().is_some() {
        return None;
    }
    let numbers = from.is_numeric() && ty.is_numeric();
    if !numbers {
        return None;
    }
    let data = match (from.physical(), ty.physical()) {
        (PhysicalKind::Int, PhysicalKind::Double) => {
            ColumnData::Double(map(ints(vector)?, len, |value| value as f64))
        }
        (PhysicalKind::UInt, PhysicalKind::Double) => {
            ColumnData::Double(map(uints(vector)?, len, |value| value as f64))
        }
        (PhysicalKind::Float, PhysicalKind::Double) => {
            let values = lane(vector, Column::as_float, |_| None)?;
            ColumnData::Double(map(values, len, f64::from))
        }
        (PhysicalKind::Int, PhysicalKind::UInt) => {
            ColumnData::UInt(map(ints(vector)?, len, |value| value as u64))
        }
        (PhysicalKind::UInt, PhysicalKind::Int) => {
            ColumnData::Int(map(uints(vector)?, len, |value| value as i64))
        }
        (PhysicalKind::Int, PhysicalKind::Decimal64 | PhysicalKind::Decimal128) => {
            let values = ints(vector)?;
            decimals((0..len).map(|at| i128::from(values.at(at))), 0, ty)?
        }
        (PhysicalKind::UInt, PhysicalKind::Decimal64 | PhysicalKind::Decimal128) => {
            let values = uints(vector)?;
            decimals((0..len).map(|at| i128::from(values.at(at))), 0, ty)?
        }
        (PhysicalKind::Decimal64, PhysicalKind::Decimal64 | PhysicalKind::Decimal128) => {
            let scale = vector.column()?.0.as_decimal64()?.1;
            let values = mantissas(vector)?;
            decimals((0..len).map(|at| i128::from(values.at(at))), scale, ty)?
        }
        (PhysicalKind::Decimal64, PhysicalKind::Double) => {
            let scale = vector.column()?.0.as_decimal64()?.1;
            // Exact as long as both sides of the division are.
            if scale > 15 {
                return None;
            }
            let power = 10f64.powi(i32::from(scale));
            let values = mantissas(vector)?;
            let exact = |value: i64| value.unsigned_abs() < 1 << 53;
            if !(0..len).all(|at| exact(values.at(at))) {
                return None;
            }
            ColumnData::Double(map(values, len, |value| value as f64 / power))
        }
        _ => return None,
    };
    Column::from_parts(data, validity(&[vector], len), 0)
}

fn ints<'a>(vector: &'a Vector<'_>) -> Option<Lane<'a, i64>> {
    lane(vector, Column::as_int, |_| None)
}

fn uints<'a>(vector: &'a Vector<'_>) -> Option<Lane<'a, u64>> {
    lane(vector, Column::as_uint, |_| None)
}

fn mantissas<'a>(vector: &'a Vector<'_>) -> Option<Lane<'a, i64>> {
    lane(vector, |column| column.as_decimal64().map(|(values, _)| values), |_| None)
}

fn map<T: Copy, U>(lane: Lane<'_, T>, len: usize, f: impl Fn(T) -> U) -> Vec<U> {
    match lane {
        Lane::Slice(values) => values[..len].iter().map(|value| f(*value)).collect(),
        lane => (0..len).map(|at| f(lane.at(at))).collect(),
    }
}

/// Mantissas at `scale` brought to a wider or equal scale of `ty`; `None` if one
/// would be rounded or does not fit.
fn decimals(
    mantissas: impl Iterator<Item = i128>,
    scale: u8,
    ty: &FieldType,
) -> Option<ColumnData> {
    let up = 10i128.pow(u32::from(ty.scale().checked_sub(scale)?));
    let limit = 10i128.checked_pow(ty.precision())?;
    let scaled = mantissas.map(|value| {
        value.checked_mul(up).filter(|value| value.unsigned_abs() < limit.unsigned_abs())
    });
    let scale = ty.scale();
    if ty.physical() == PhysicalKind::Decimal64 {
        let values: Option<Vec<i64>> =
            scaled.map(|value| value.map(|value| value as i64)).collect();
        return Some(ColumnData::Decimal64 { values: values?, scale });
    }
    let values: Option<Vec<i128>> = scaled.collect();
    Some(ColumnData::Decimal128 { values: values?, scale })
}

/// YEAR, MONTH and DAY of dates.
pub(crate) fn date_part(func: Func, vector: &Vector<'_>, len: usize) -> Option<Column> {
    let times = lane(vector, Column::as_time, |_| None)?;
    // The layout of a packed time: year above bit 50, month in 4, day in 5 bits.
    let values = map(times, len, |packed| match func {
        Func::Year => (packed >> 50) as i64,
        Func::Month => ((packed >> 46) & 0xF) as i64,
        _ => ((packed >> 41) & 0x1F) as i64,
    });
    Column::from_parts(ColumnData::Int(values), validity(&[vector], len), 0)
}
