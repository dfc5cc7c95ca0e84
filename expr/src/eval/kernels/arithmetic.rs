//! `+ - * /` over typed vectors.

use cairn_types::{Column, ColumnData, Datum, Decimal, FieldType, PhysicalKind};

use super::super::vector::Vector;
use super::{Lane, lane, validity, zip};
use crate::expr::Expr;
use crate::func::Func;
use crate::functions::arithmetic::has_sign;

/// Powers of ten a scale difference multiplies by.
const POWERS: usize = 31;

pub(crate) fn eval(
    func: Func,
    args: &[Expr],
    vectors: &[Vector<'_>],
    ty: &FieldType,
    len: usize,
) -> Option<Column> {
    let (left, right) = (&vectors[0], &vectors[1]);
    let data = match ty.physical() {
        PhysicalKind::Int if has_sign(args, false) => {
            let int = |value: &Datum| value.as_i64();
            let a = lane(left, Column::as_int, int)?;
            let b = lane(right, Column::as_int, int)?;
            ColumnData::Int(match func {
                Func::Plus => checked(a, b, len, i64::overflowing_add)?,
                Func::Minus => checked(a, b, len, i64::overflowing_sub)?,
                Func::Mul => checked(a, b, len, i64::overflowing_mul)?,
                _ => return None,
            })
        }
        PhysicalKind::UInt if has_sign(args, true) => {
            let uint = |value: &Datum| match value {
                Datum::UInt(value) => Some(*value),
                _ => None,
            };
            let a = lane(left, Column::as_uint, uint)?;
            let b = lane(right, Column::as_uint, uint)?;
            ColumnData::UInt(match func {
                Func::Plus => checked(a, b, len, u64::overflowing_add)?,
                Func::Minus => checked(a, b, len, u64::overflowing_sub)?,
                Func::Mul => checked(a, b, len, u64::overflowing_mul)?,
                _ => return None,
            })
        }
        PhysicalKind::Double => real(func, left, right, len)?,
        PhysicalKind::Decimal64 | PhysicalKind::Decimal128 | PhysicalKind::DecimalWide => {
            decimal(func, left, right, ty, len)?
        }
        _ => return None,
    };
    Column::from_parts(data, validity(&[left, right], len), 0)
}

/// Any overflow sends the chunk to the slow way. NULL rows hold 0, which never
/// overflows against what a column can hold but for `i64::MIN * -1`-like pairs,
/// and those only cost time.
fn checked<T: Copy>(
    a: Lane<'_, T>,
    b: Lane<'_, T>,
    len: usize,
    op: impl Fn(T, T) -> (T, bool),
) -> Option<Vec<T>> {
    let mut overflow = false;
    let values = zip(a, b, len, |x, y| {
        let (value, over) = op(x, y);
        overflow |= over;
        value
    });
    (!overflow).then_some(values)
}

fn real(func: Func, left: &Vector<'_>, right: &Vector<'_>, len: usize) -> Option<ColumnData> {
    let one = |value: &Datum| match value {
        Datum::Double(value) => Some(*value),
        _ => None,
    };
    let a = lane(left, Column::as_double, one)?;
    let b = lane(right, Column::as_double, one)?;
    let values = match func {
        Func::Plus => zip(a, b, len, |x, y| x + y),
        Func::Minus => zip(a, b, len, |x, y| x - y),
        Func::Mul => zip(a, b, len, |x, y| x * y),
        // A zero divisor is NULL with a warning: not for this loop. NULL rows
        // divide by their 0 and are NULL anyway, but look the same here.
        _ => zip(a, b, len, |x, y| x / y),
    };
    values.iter().all(|value| value.is_finite()).then_some(ColumnData::Double(values))
}

/// One side of decimal arithmetic as mantissas of 128 bits at its own scale. Integers are
/// decimals of scale 0, as in `1 - discount`.
struct Mantissas<'a> {
    lane: Lanes<'a>,
    scale: u8,
}

enum Lanes<'a> {
    Narrow(Lane<'a, i64>),
    Wide(Lane<'a, i128>),
}

impl Mantissas<'_> {
    #[inline(always)]
    fn at(&self, i: usize) -> i128 {
        match &self.lane {
            Lanes::Narrow(lane) => i128::from(lane.at(i)),
            Lanes::Wide(lane) => lane.at(i),
        }
    }
}

fn mantissas<'a>(vector: &'a Vector<'_>) -> Option<Mantissas<'a>> {
    let Some((column, _)) = vector.column() else {
        let (value, scale) = match vector.constant()? {
            Datum::Decimal(value) => (value.mantissa()?, value.scale()),
            Datum::Int(value) => (i128::from(*value), 0),
            Datum::UInt(value) => (i128::from(*value), 0),
            _ => return None,
        };
        return Some(Mantissas { lane: Lanes::Wide(Lane::Const(value)), scale });
    };
    if column.as_int().is_some() {
        let lane = lane(vector, Column::as_int, |_| None)?;
        return Some(Mantissas { lane: Lanes::Narrow(lane), scale: 0 });
    }
    if let Some((_, scale)) = column.as_decimal64() {
        let lane =
            lane(vector, |column| column.as_decimal64().map(|(values, _)| values), |_| None)?;
        return Some(Mantissas { lane: Lanes::Narrow(lane), scale });
    }
    let (_, scale) = column.as_decimal128()?;
    let lane = lane(vector, |column| column.as_decimal128().map(|(values, _)| values), |_| None)?;
    Some(Mantissas { lane: Lanes::Wide(lane), scale })
}

fn decimal(
    func: Func,
    left: &Vector<'_>,
    right: &Vector<'_>,
    ty: &FieldType,
    len: usize,
) -> Option<ColumnData> {
    let (a, b) = (mantissas(left)?, mantissas(right)?);
    let scale = ty.scale();
    // Types wider than 128 bits still hold mostly values that are not.
    let limit = 10i128.checked_pow(ty.precision()).unwrap_or(i128::MAX);
    let mut wide = Vec::with_capacity(len);
    match func {
        Func::Plus | Func::Minus if a.scale.max(b.scale) == scale => {
            let (up_a, up_b) = (power(scale - a.scale)?, power(scale - b.scale)?);
            for at in 0..len {
                let x = a.at(at).checked_mul(up_a)?;
                let y = b.at(at).checked_mul(up_b)?;
                wide.push(if func == Func::Plus { x.checked_add(y)? } else { x.checked_sub(y)? });
            }
        }
        Func::Mul if a.scale + b.scale == scale => {
            for at in 0..len {
                wide.push(a.at(at).checked_mul(b.at(at))?);
            }
        }
        _ => return None,
    }
    if wide.iter().any(|value| value.unsigned_abs() >= limit.unsigned_abs()) {
        return None;
    }
    Some(match ty.physical() {
        PhysicalKind::Decimal64 => {
            let values = wide.into_iter().map(|value| value as i64).collect();
            ColumnData::Decimal64 { values, scale }
        }
        PhysicalKind::Decimal128 => ColumnData::Decimal128 { values: wide, scale },
        _ => {
            let values = wide.into_iter().map(|value| Decimal::new(value, scale).ok());
            ColumnData::DecimalWide(values.collect::<Option<_>>()?)
        }
    })
}

fn power(digits: u8) -> Option<i128> {
    (usize::from(digits) < POWERS).then(|| 10i128.pow(u32::from(digits)))
}
