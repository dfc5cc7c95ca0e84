//! Intervals of one key column.

use std::cmp::Ordering;

use cairn_expr::{Expr, Func};
use cairn_types::{Datum, FieldType, PhysicalKind, compare};

use super::{Bound, RangeColumn, prefix};

/// Most ranges of one scan; a longer list is left to the filter.
pub const RANGES_MAX: usize = 10_000;

/// Values of a column between two bounds.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Interval {
    pub low: Bound,
    pub high: Bound,
    pub low_exclusive: bool,
    pub high_exclusive: bool,
    /// Both bounds are the same value that is not known yet, not two of them.
    pub one_unknown: bool,
}

/// Where a condition can be true.
#[derive(Clone, Debug)]
pub(super) struct Intervals {
    /// Disjoint and in order, unless `unknown`.
    pub list: Vec<Interval>,
    /// Every interval is one value.
    pub points: bool,
    /// How many values the column is said to equal one of, for estimates; `None`: none.
    pub equals: Option<usize>,
    /// Some bound depends on a parameter.
    pub unknown: bool,
    /// The condition says no more than this.
    pub exact: bool,
    /// An intersection was given up.
    pub lossy: bool,
}

impl Intervals {
    fn of(list: Vec<Interval>) -> Intervals {
        let (points, equals) = (false, None);
        let mut intervals =
            Intervals { list, points, equals, unknown: false, exact: true, lossy: false };
        intervals.classify();
        intervals
    }

    fn classify(&mut self) {
        self.points = self.list.iter().all(Interval::is_point);
        self.equals = self.points.then_some(self.list.len());
        let unknown = |bound: &Bound| *bound == Bound::Unknown;
        self.unknown = self.list.iter().any(|i| unknown(&i.low) || unknown(&i.high));
    }

    fn inexact(mut self) -> Intervals {
        self.exact = false;
        self
    }

    /// Bounded sides, for estimates.
    pub fn sides(&self) -> usize {
        let sides = |interval: &Interval| {
            let low = !matches!(interval.low, Bound::Min | Bound::Value(Datum::Null));
            usize::from(low) + usize::from(interval.high != Bound::Max)
        };
        self.list.iter().map(sides).max().unwrap_or(2)
    }

    /// Where both can be true.
    pub fn intersect(self, other: Intervals, column: &RangeColumn) -> Intervals {
        let exact = self.exact && other.exact;
        let lossy = self.lossy || other.lossy;
        if self.unknown || other.unknown {
            return self.intersect_unknown(other);
        }
        let mut list = Vec::new();
        for a in &self.list {
            for b in &other.list {
                list.extend(a.intersect(b, column));
            }
        }
        let mut result = Intervals::of(list);
        result.equals = [result.equals, self.equals, other.equals].into_iter().flatten().min();
        result.exact = exact;
        result.lossy = lossy;
        result
    }

    /// Bounds are not comparable yet: two half-open intervals make one, else the more
    /// selective side is kept and the other is checked on the rows.
    fn intersect_unknown(self, other: Intervals) -> Intervals {
        if let ([a], [b]) = (&self.list[..], &other.list[..]) {
            let open_above = |i: &Interval| i.high == Bound::Max;
            let open_below = |i: &Interval| i.low == Bound::Min;
            let both = match () {
                () if open_above(a) && open_below(b) => Some((a, b)),
                () if open_above(b) && open_below(a) => Some((b, a)),
                () => None,
            };
            if let Some((low, high)) = both {
                let interval = Interval {
                    low: low.low.clone(),
                    low_exclusive: low.low_exclusive,
                    high: high.high.clone(),
                    high_exclusive: high.high_exclusive,
                    one_unknown: false,
                };
                let exact = self.exact && other.exact;
                let mut result = Intervals::of(vec![interval]);
                result.exact = exact;
                result.lossy = self.lossy || other.lossy;
                return result;
            }
        }
        let mut kept = if other.points && !self.points { other } else { self };
        kept.lossy = true;
        kept
    }

    fn union(self, other: Intervals, column: &RangeColumn) -> Intervals {
        let exact = self.exact && other.exact;
        let lossy = self.lossy || other.lossy;
        let values = self.equals.zip(other.equals).map(|(a, b)| a + b);
        let mut list = self.list;
        list.extend(other.list);
        let mut result = Intervals::of(list);
        if !result.unknown {
            result = Intervals::of(merge(result.list, column));
        }
        result.equals = [result.equals, values].into_iter().flatten().min();
        result.exact = exact;
        result.lossy = lossy;
        result
    }
}

impl Interval {
    fn point(bound: Bound) -> Interval {
        let one_unknown = bound == Bound::Unknown;
        Interval { low: bound.clone(), high: bound, one_unknown, ..not_null() }
    }

    fn is_point(&self) -> bool {
        !self.low_exclusive
            && !self.high_exclusive
            && self.low == self.high
            && (self.one_unknown || matches!(self.low, Bound::Value(_)))
    }

    fn intersect(&self, other: &Interval, column: &RangeColumn) -> Option<Interval> {
        let low_order = compare_bounds(&self.low, &other.low, column);
        let low_from_self = match low_order {
            Ordering::Equal => self.low_exclusive,
            order => order == Ordering::Greater,
        };
        let high_order = compare_bounds(&self.high, &other.high, column);
        let high_from_self = match high_order {
            Ordering::Equal => self.high_exclusive,
            order => order == Ordering::Less,
        };
        let low = if low_from_self { self } else { other };
        let high = if high_from_self { self } else { other };
        let interval = Interval {
            low: low.low.clone(),
            low_exclusive: low.low_exclusive,
            high: high.high.clone(),
            high_exclusive: high.high_exclusive,
            one_unknown: false,
        };
        let order = compare_bounds(&interval.low, &interval.high, column);
        let empty = match order {
            Ordering::Less => false,
            Ordering::Equal => interval.low_exclusive || interval.high_exclusive,
            Ordering::Greater => true,
        };
        (!empty).then_some(interval)
    }
}

/// NULL, -inf, values, +inf.
fn compare_bounds(a: &Bound, b: &Bound, column: &RangeColumn) -> Ordering {
    let rank = |bound: &Bound| match bound {
        Bound::Value(Datum::Null) => 0,
        Bound::Min => 1,
        Bound::Value(_) | Bound::Unknown => 2,
        Bound::Max => 3,
    };
    match (a, b) {
        (Bound::Value(a), Bound::Value(b)) if !a.is_null() && !b.is_null() => {
            compare(a, b, column.ty.collation)
        }
        _ => rank(a).cmp(&rank(b)),
    }
}

/// Sorts and joins overlapping intervals.
fn merge(mut list: Vec<Interval>, column: &RangeColumn) -> Vec<Interval> {
    list.sort_by(|a, b| {
        compare_bounds(&a.low, &b.low, column).then(a.low_exclusive.cmp(&b.low_exclusive))
    });
    let mut merged: Vec<Interval> = Vec::with_capacity(list.len());
    for interval in list {
        let Some(last) = merged.last_mut() else {
            merged.push(interval);
            continue;
        };
        let order = compare_bounds(&last.high, &interval.low, column);
        let apart = match order {
            Ordering::Less => true,
            Ordering::Equal => last.high_exclusive && interval.low_exclusive,
            Ordering::Greater => false,
        };
        if apart {
            merged.push(interval);
            continue;
        }
        match compare_bounds(&last.high, &interval.high, column) {
            Ordering::Less => {
                last.high = interval.high;
                last.high_exclusive = interval.high_exclusive;
            }
            Ordering::Equal => last.high_exclusive &= interval.high_exclusive,
            Ordering::Greater => {}
        }
    }
    merged
}

/// Where `condition` can be true in the column at `position`; `None` if it says
/// nothing of the column.
pub(super) fn column_intervals(
    condition: &Expr,
    position: usize,
    column: &RangeColumn,
) -> Option<Intervals> {
    let Expr::Function { func, args, ty, .. } = condition else { return None };
    match func {
        Func::And => {
            let left = column_intervals(&args[0], position, column);
            let right = column_intervals(&args[1], position, column);
            match (left, right) {
                (Some(left), Some(right)) => Some(left.intersect(right, column)),
                (Some(one), None) | (None, Some(one)) => Some(one.inexact()),
                (None, None) => None,
            }
        }
        Func::Or => {
            let left = column_intervals(&args[0], position, column)?;
            let right = column_intervals(&args[1], position, column)?;
            Some(left.union(right, column))
        }
        Func::IsNull if is_column(&args[0], position) => {
            Some(Intervals::of(vec![Interval::point(Bound::Value(Datum::Null))]))
        }
        Func::Not => match args[0].as_function() {
            Some((Func::IsNull, [arg])) if is_column(arg, position) => {
                Some(Intervals::of(vec![not_null()]))
            }
            _ => None,
        },
        Func::In if is_column(&args[0], position) => {
            if !comparable_text(column, ty) {
                return None;
            }
            let mut points = Vec::with_capacity(args.len() - 1);
            for member in &args[1..] {
                points.extend(comparison(Func::Eq, member, column)?.list);
                if points.len() > RANGES_MAX {
                    return None;
                }
            }
            if column.prefix_length.is_some() {
                return Some(of_prefix(points, Some(args.len() - 1), column));
            }
            let mut result = Intervals::of(points);
            if !result.unknown {
                result = Intervals::of(merge(result.list, column));
            }
            Some(result)
        }
        Func::Eq | Func::NullEq | Func::Ne | Func::Lt | Func::Le | Func::Gt | Func::Ge => {
            if !comparable_text(column, ty) {
                return None;
            }
            if is_column(&args[0], position) {
                comparison(*func, &args[1], column)
            } else if is_column(&args[1], position) {
                comparison(func.mirrored(), &args[0], column)
            } else {
                None
            }
        }
        Func::Like if is_column(&args[0], position) && comparable_text(column, ty) => {
            like(args, column)
        }
        _ => None,
    }
}

/// Intervals of a column's prefix; the column is said to equal one of so many values.
fn of_prefix(list: Vec<Interval>, equals: Option<usize>, column: &RangeColumn) -> Intervals {
    let mut intervals = Intervals::of(list);
    if !intervals.unknown {
        intervals = Intervals::of(merge(intervals.list, column));
    }
    intervals.equals = equals;
    intervals.inexact()
}

fn is_column(expr: &Expr, position: usize) -> bool {
    expr.as_column() == Some(position)
}

/// Text must be compared by the collation the key is ordered by.
fn comparable_text(column: &RangeColumn, comparison: &FieldType) -> bool {
    !column.ty.is_string() || column.ty.collation == comparison.collation
}

pub(super) fn not_null() -> Interval {
    Interval {
        low: Bound::Min,
        high: Bound::Max,
        low_exclusive: false,
        high_exclusive: false,
        one_unknown: false,
    }
}

/// A constant beside a column.
enum Operand {
    Null,
    Value(Datum),
    /// Smaller than every value of the column.
    Below,
    /// Larger than every value of the column.
    Above,
    Unknown,
}

/// What a comparand is worth for a column; `None` if ranges cannot use it.
fn operand(expr: &Expr, column: &RangeColumn) -> Option<Operand> {
    let value = match expr {
        Expr::Constant { value, .. } => value,
        other if other.is_constant() => {
            let same = same_kind(other.ty(), &column.ty);
            return same.then_some(Operand::Unknown);
        }
        _ => return None,
    };
    Some(match (value, column.ty.physical()) {
        (Datum::Null, _) => Operand::Null,
        (Datum::Int(_), PhysicalKind::Int) | (Datum::UInt(_), PhysicalKind::UInt) => {
            Operand::Value(value.clone())
        }
        (Datum::UInt(number), PhysicalKind::Int) => match i64::try_from(*number) {
            Ok(number) => Operand::Value(Datum::Int(number)),
            Err(_) => Operand::Above,
        },
        (Datum::Int(number), PhysicalKind::UInt) => match u64::try_from(*number) {
            Ok(number) => Operand::Value(Datum::UInt(number)),
            Err(_) => Operand::Below,
        },
        (Datum::Double(_), PhysicalKind::Double | PhysicalKind::Float)
        | (
            Datum::Decimal(_),
            PhysicalKind::Decimal64 | PhysicalKind::Decimal128 | PhysicalKind::DecimalWide,
        )
        | (Datum::Bytes(_), PhysicalKind::Bytes)
        | (Datum::Time(_), PhysicalKind::Time)
        | (Datum::Duration(_), PhysicalKind::Duration) => Operand::Value(value.clone()),
        _ => return None,
    })
}

/// Whether every value of `from` is one that ranges over `to` can use as it is.
fn same_kind(from: &FieldType, to: &FieldType) -> bool {
    use PhysicalKind as P;
    match (from.physical(), to.physical()) {
        (P::Int | P::UInt, P::Int | P::UInt) => !to.is_enum_or_set(),
        (P::Double, P::Double | P::Float) => true,
        (
            P::Decimal64 | P::Decimal128 | P::DecimalWide,
            P::Decimal64 | P::Decimal128 | P::DecimalWide,
        ) => true,
        (a, b) => a == b && a != P::Json,
    }
}

fn comparison(func: Func, other: &Expr, column: &RangeColumn) -> Option<Intervals> {
    let operand = operand(other, column)?;
    let below = |high: Bound, high_exclusive: bool| {
        Intervals::of(vec![Interval { high, high_exclusive, ..not_null() }])
    };
    let above = |low: Bound, low_exclusive: bool| {
        Intervals::of(vec![Interval { low, low_exclusive, ..not_null() }])
    };
    let nothing = || Intervals::of(Vec::new());
    let bound = match operand {
        Operand::Null => {
            return Some(match func {
                Func::NullEq => Intervals::of(vec![Interval::point(Bound::Value(Datum::Null))]),
                _ => nothing(),
            });
        }
        Operand::Below => {
            return Some(match func {
                Func::Gt | Func::Ge | Func::Ne => Intervals::of(vec![not_null()]),
                _ => nothing(),
            });
        }
        Operand::Above => {
            return Some(match func {
                Func::Lt | Func::Le | Func::Ne => Intervals::of(vec![not_null()]),
                _ => nothing(),
            });
        }
        Operand::Unknown => Bound::Unknown,
        Operand::Value(value) => Bound::Value(value),
    };
    if let Some(length) = column.prefix_length {
        let equals = matches!(func, Func::Eq | Func::NullEq).then_some(1);
        return Some(of_prefix(prefix::comparison(func, bound, length, column), equals, column));
    }
    Some(match func {
        Func::Eq | Func::NullEq => Intervals::of(vec![Interval::point(bound)]),
        Func::Lt => below(bound, true),
        Func::Le => below(bound, false),
        Func::Gt => above(bound, true),
        Func::Ge => above(bound, false),
        Func::Ne => {
            let low = Interval { high: bound.clone(), high_exclusive: true, ..not_null() };
            let high = Interval { low: bound, low_exclusive: true, ..not_null() };
            Intervals::of(vec![low, high])
        }
        _ => return None,
    })
}

/// `LIKE 'abc%'`: from the prefix to its successor. Exact for `'abc'` without
/// wildcards only where the collation compares bytes.
fn like(args: &[Expr], column: &RangeColumn) -> Option<Intervals> {
    let Some(Datum::Bytes(pattern)) = args[1].as_constant() else { return None };
    let escape = match args.get(2).map(Expr::as_constant) {
        None => b'\\',
        Some(Some(Datum::Bytes(escape))) if escape.len() == 1 => escape[0],
        Some(_) => return None,
    };
    let mut prefix = Vec::with_capacity(pattern.len());
    let mut at = 0;
    let mut wild = false;
    while let Some(&byte) = pattern.get(at) {
        if byte == escape && at + 1 < pattern.len() {
            at += 1;
            prefix.push(pattern[at]);
        } else if byte == b'%' || byte == b'_' {
            wild = true;
            break;
        } else {
            prefix.push(byte);
        }
        at += 1;
    }
    if prefix.is_empty() {
        return wild.then(|| Intervals::of(vec![not_null()]).inexact());
    }
    // Sort keys of a prefix are prefixes of sort keys only where one character is one
    // weight; the successor of the prefix is then found among bytes.
    let bytewise = column.ty.collation.is_bytewise();
    if let Some(length) = column.prefix_length {
        // LIKE compares character by character: the first ones of a text that is like it have
        // the weights of the pattern's.
        prefix = prefix::cut_prefix(&prefix, length, &column.ty).to_vec();
    }
    let low = Bound::Value(Datum::Bytes(prefix.clone()));
    if !bytewise {
        // Only the lower end is safe: contractions do not exist in our collations, but
        // trailing weights may be anything.
        let interval = Interval { low, ..not_null() };
        return Some(Intervals::of(vec![interval]).inexact());
    }
    let high = successor(&prefix);
    let interval = Interval { low, high_exclusive: high != Bound::Max, high, ..not_null() };
    let exact = wild
        && column.prefix_length.is_none()
        && pattern[at..] == *b"%"
        && !column.ty.collation.pad_space();
    let mut intervals = Intervals::of(vec![interval]);
    intervals.exact = exact;
    Some(intervals)
}

/// The smallest bytes above all that start with `prefix`.
fn successor(prefix: &[u8]) -> Bound {
    let mut next = prefix.to_vec();
    while let Some(last) = next.pop() {
        if last < 0xFF {
            next.push(last + 1);
            return Bound::Value(Datum::Bytes(next));
        }
    }
    Bound::Max
}
