//! Comparisons of typed vectors.

use std::cmp::Ordering;

use cairn_types::datum::compare_ref;
use cairn_types::{Collation, Column, ColumnData, Datum};

use super::super::mask::Mask;
use super::super::vector::Vector;
use super::{Lane, lane, zip};
use crate::func::Func;
use crate::functions::comparison::holds;

/// The truth of `left func right` per row.
pub(crate) fn eval(
    func: Func,
    left: &Vector<'_>,
    right: &Vector<'_>,
    len: usize,
    collation: Collation,
) -> Mask {
    if func != Func::NullEq {
        let mask = typed(func, left, right, len, collation);
        if let Some(mut mask) = mask {
            left.mark_nulls(&mut mask);
            right.mark_nulls(&mut mask);
            return mask;
        }
    }
    let mut mask: Mask = (0..len)
        .map(|at| u8::from(holds(func, compare_ref(&left.get(at), &right.get(at), collation))))
        .collect();
    if func != Func::NullEq {
        left.mark_nulls(&mut mask);
        right.mark_nulls(&mut mask);
    }
    mask
}

fn typed(
    func: Func,
    left: &Vector<'_>,
    right: &Vector<'_>,
    len: usize,
    collation: Collation,
) -> Option<Mask> {
    let data = left.data().or_else(|| right.data())?.0;
    match data {
        ColumnData::Int(_) => {
            let int = |value: &Datum| value.as_i64();
            ordered(func, lane(left, Column::as_int, int)?, lane(right, Column::as_int, int)?, len)
        }
        ColumnData::UInt(_) => {
            let uint = |value: &Datum| match value {
                Datum::UInt(value) => Some(*value),
                Datum::Int(value) => u64::try_from(*value).ok(),
                _ => None,
            };
            ordered(
                func,
                lane(left, Column::as_uint, uint)?,
                lane(right, Column::as_uint, uint)?,
                len,
            )
        }
        ColumnData::Double(_) => {
            let real = |value: &Datum| match value {
                Datum::Double(value) => Some(*value),
                _ => None,
            };
            ordered(
                func,
                lane(left, Column::as_double, real)?,
                lane(right, Column::as_double, real)?,
                len,
            )
        }
        // The low four bits are no part of the value.
        ColumnData::Time(_) => {
            let time = |value: &Datum| match value {
                Datum::Time(value) => Some(value.packed()),
                _ => None,
            };
            let (a, b) = (lane(left, Column::as_time, time)?, lane(right, Column::as_time, time)?);
            Some(by_order(func, a, b, len, |x, y| (x >> 4).cmp(&(y >> 4))))
        }
        ColumnData::Duration(_) => {
            let span = |value: &Datum| match value {
                Datum::Duration(value) => Some(value.micros()),
                _ => None,
            };
            ordered(
                func,
                lane(left, Column::as_duration, span)?,
                lane(right, Column::as_duration, span)?,
                len,
            )
        }
        ColumnData::Decimal64 { scale, .. } => {
            let scale = *scale;
            let mantissas =
                |column: &Column| column.as_decimal64().is_some_and(|(_, s)| s == scale);
            let same =
                |vector: &Vector<'_>| vector.column().is_none_or(|(column, _)| mantissas(column));
            if !same(left) || !same(right) {
                return None;
            }
            // A constant takes part if it has no digits beyond the column's scale.
            let one = |value: &Datum| match value {
                Datum::Decimal(value) if value.normalized().scale() <= scale => {
                    value.to_scaled_i64(scale)
                }
                _ => None,
            };
            let a = lane(left, |column| column.as_decimal64().map(|(values, _)| values), one)?;
            let b = lane(right, |column| column.as_decimal64().map(|(values, _)| values), one)?;
            ordered(func, a, b, len)
        }
        ColumnData::Bytes { .. } => bytes(func, left, right, len, collation),
        _ => None,
    }
}

/// One loop per operator, so that each compiles to its own comparison.
fn ordered<T: PartialOrd + Copy>(
    func: Func,
    a: Lane<'_, T>,
    b: Lane<'_, T>,
    len: usize,
) -> Option<Mask> {
    Some(match func {
        Func::Eq => zip(a, b, len, |x, y| u8::from(x == y)),
        Func::Ne => zip(a, b, len, |x, y| u8::from(x != y)),
        Func::Lt => zip(a, b, len, |x, y| u8::from(x < y)),
        Func::Le => zip(a, b, len, |x, y| u8::from(x <= y)),
        Func::Gt => zip(a, b, len, |x, y| u8::from(x > y)),
        Func::Ge => zip(a, b, len, |x, y| u8::from(x >= y)),
        _ => return None,
    })
}

fn by_order<T: Copy>(
    func: Func,
    a: Lane<'_, T>,
    b: Lane<'_, T>,
    len: usize,
    order: impl Fn(T, T) -> Ordering,
) -> Mask {
    zip(a, b, len, |x, y| u8::from(holds(func, order(x, y))))
}

/// Text of one side per row.
pub(crate) enum Texts<'a> {
    Column(&'a Column, Option<&'a [u32]>),
    Const(&'a [u8]),
}

impl<'a> Texts<'a> {
    pub fn of(vector: &'a Vector<'_>) -> Option<Texts<'a>> {
        match vector.column() {
            Some((column, sel)) => column.as_bytes().map(|_| Texts::Column(column, sel)),
            None => match vector.constant()? {
                Datum::Bytes(bytes) => Some(Texts::Const(bytes)),
                _ => None,
            },
        }
    }

    /// Whether all text is printable ASCII: one look at the column's buffer spares
    /// a look at every row, unless few rows are meant.
    pub fn is_plain(&self) -> bool {
        match self {
            Texts::Column(column, Some(sel)) if sel.len() * 4 < column.len() => {
                sel.iter().all(|row| all_plain(column.bytes_at(*row as usize)))
            }
            Texts::Column(column, _) => column.as_bytes().is_some_and(|(_, data)| all_plain(data)),
            Texts::Const(bytes) => all_plain(bytes),
        }
    }

    #[inline]
    pub fn at(&self, i: usize) -> &'a [u8] {
        match self {
            Texts::Column(column, Some(sel)) => column.bytes_at(sel[i] as usize),
            Texts::Column(column, None) => column.bytes_at(i),
            Texts::Const(bytes) => bytes,
        }
    }
}

fn bytes(
    func: Func,
    left: &Vector<'_>,
    right: &Vector<'_>,
    len: usize,
    collation: Collation,
) -> Option<Mask> {
    let (left, right) = (Texts::of(left)?, Texts::of(right)?);
    let equality = matches!(func, Func::Eq | Func::Ne);
    if equality {
        let wanted = func == Func::Eq;
        let plain = left.is_plain() && right.is_plain();
        let test = Equality::new(collation, plain);
        return Some(
            (0..len).map(|at| u8::from(test.equal(left.at(at), right.at(at)) == wanted)).collect(),
        );
    }
    if collation.is_bytewise() && !collation.pad_space() {
        return Some(
            (0..len).map(|at| u8::from(holds(func, left.at(at).cmp(right.at(at))))).collect(),
        );
    }
    Some(
        (0..len)
            .map(|at| u8::from(holds(func, collation.compare(left.at(at), right.at(at)))))
            .collect(),
    )
}

/// Equality of text with a short way for plain ASCII.
#[derive(Clone, Copy)]
struct Equality {
    collation: Collation,
    bytewise: bool,
    pad: bool,
    /// All texts are printable ASCII, which differs by case alone in every
    /// collation that folds.
    plain: bool,
}

impl Equality {
    fn new(collation: Collation, plain: bool) -> Equality {
        let bytewise = collation.is_bytewise();
        Equality { collation, bytewise, pad: collation.pad_space(), plain }
    }

    #[inline]
    fn equal(self, a: &[u8], b: &[u8]) -> bool {
        let (a, b) = if self.pad { (trim(a), trim(b)) } else { (a, b) };
        if self.bytewise {
            return a == b;
        }
        if self.plain {
            let heads = a.first().zip(b.first());
            // Most texts differ in their first letter.
            let may = heads.is_none_or(|(a, b)| (a ^ b) & !0x20 == 0);
            return a.len() == b.len() && may && (a == b || a.eq_ignore_ascii_case(b));
        }
        a == b || self.collation.equals(a, b)
    }
}

/// Written without an early end, so that it is done many bytes at a time.
pub(crate) fn all_plain(text: &[u8]) -> bool {
    text.iter().fold(0u8, |other, byte| other | u8::from(byte.wrapping_sub(0x20) >= 0x5F)) == 0
}

#[inline]
fn trim(text: &[u8]) -> &[u8] {
    let mut end = text.len();
    while end > 0 && text[end - 1] == b' ' {
        end -= 1;
    }
    &text[..end]
}
