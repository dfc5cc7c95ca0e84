//! Conditions on key columns turned into ranges of keys.
//!
//! **Flow.** The physical planner asks [`analyze`] what conditions are worth on a key.
//! A [`RangeSpec`] remembers them, so that a cached plan derives its ranges again from
//! the parameters of each run ([`RangeSpec::ranges`], [`build_key_ranges`]).
//!
//! **How.** Column by column: conditions that give points (`=`, `IN`, `IS NULL`,
//! `<=>`) allow the next column to be looked at; the first column with anything else
//! ends the key. A condition is *exact* if the ranges say all that it says; others are
//! checked again on the rows (prefix indexes, LIKE, mixed ORs).
//!
//! **Invariants.** Ranges of one key are disjoint and in key order. They hold every
//! row for which the conditions are true. NULL lies in no range but those that ask
//! for it.
//!
//! Left out: ORs over several columns as unions of longer prefixes.

mod interval;
mod key;
mod lookup;
mod prefix;

use cairn_expr::{EvalContext, Expr};
use cairn_types::{Datum, FieldType};

pub use interval::RANGES_MAX;
use interval::{Intervals, column_intervals};
pub(crate) use key::encode_bounds;
pub use key::{PointKey, build_key_ranges, point_key};
pub use lookup::LookupRanges;

/// What is scanned, as conditions over key columns.
#[derive(Clone, Debug, Default)]
pub struct RangeSpec {
    /// The key's columns in order.
    pub columns: Vec<RangeColumn>,
    /// Conditions, over key columns by position in `columns`. All must hold; a scan
    /// may return rows for which they do not (the plan filters again where it must).
    pub conditions: Vec<Expr>,
    /// The ranges, if no condition has a parameter.
    pub fixed: Option<Vec<Range>>,
}

/// A column of a key.
#[derive(Clone, Debug, PartialEq)]
pub struct RangeColumn {
    /// Its type.
    pub ty: FieldType,
    /// Only this many characters are in the key.
    pub prefix_length: Option<u32>,
}

/// One end of a [`Range`] in one column.
#[derive(Clone, Debug, PartialEq)]
pub enum Bound {
    /// After NULL, before every value (`-inf`).
    Min,
    /// A value or NULL.
    Value(Datum),
    /// After every value (`+inf`).
    Max,
    /// A value that is known only when the plan runs.
    Unknown,
}

/// Keys between two tuples of bounds.
#[derive(Clone, Debug, PartialEq)]
pub struct Range {
    /// Lower ends.
    pub low: Vec<Bound>,
    /// Upper ends.
    pub high: Vec<Bound>,
    /// The lower tuple itself is out.
    pub low_exclusive: bool,
    /// The upper tuple itself is out.
    pub high_exclusive: bool,
}

impl Range {
    /// Whether it holds one tuple only, if its bounds are known.
    pub fn is_point(&self) -> bool {
        !self.low_exclusive
            && !self.high_exclusive
            && self.low == self.high
            && self.low.iter().all(|bound| matches!(bound, Bound::Value(_)))
    }
}

/// What conditions are worth on a key.
#[derive(Clone, Debug)]
pub struct Analysis {
    /// The ranges; bounds are unknown where a parameter stands.
    pub ranges: Vec<Range>,
    /// Per condition: whether the ranges use it.
    pub used: Vec<bool>,
    /// Per condition: whether the ranges say all that it says.
    pub exact: Vec<bool>,
    /// Leading columns with points.
    pub point_columns: usize,
    /// Points of those columns, multiplied.
    pub points: usize,
    /// Leading columns that are said to equal one of some values; in a key of prefixes that may
    /// be ranges and not points.
    pub equal_columns: usize,
    /// Those values, multiplied.
    pub equal_values: usize,
    /// Whether the column after them is bounded: on how many sides.
    pub range_sides: usize,
    /// Some bound is unknown.
    pub unknown: bool,
}

/// Derives ranges from conditions over key columns (by position).
pub fn analyze(columns: &[RangeColumn], conditions: &[Expr]) -> Analysis {
    let mut analysis = Analysis {
        ranges: vec![Range {
            low: Vec::new(),
            high: Vec::new(),
            low_exclusive: false,
            high_exclusive: false,
        }],
        used: vec![false; conditions.len()],
        exact: vec![false; conditions.len()],
        point_columns: 0,
        points: 1,
        equal_columns: 0,
        equal_values: 1,
        range_sides: 0,
        unknown: false,
    };
    for (at, column) in columns.iter().enumerate() {
        let mut merged: Option<Intervals> = None;
        let mut took = Vec::new();
        for (number, condition) in conditions.iter().enumerate() {
            let Some(intervals) = column_intervals(condition, at, column) else { continue };
            took.push((number, intervals.exact));
            merged = Some(match merged {
                None => intervals,
                Some(so_far) => so_far.intersect(intervals, column),
            });
        }
        let Some(intervals) = merged else { break };
        if analysis.ranges.len().saturating_mul(intervals.list.len()) > RANGES_MAX {
            break;
        }
        for (number, exact) in took {
            analysis.used[number] = true;
            // What an intersection of unknown intervals leaves out is checked again.
            analysis.exact[number] = exact && !intervals.lossy;
        }
        analysis.unknown |= intervals.unknown;
        extend(&mut analysis.ranges, &intervals);
        if let Some(values) = intervals.equals {
            analysis.equal_columns += 1;
            analysis.equal_values *= values.max(1);
        } else {
            analysis.range_sides = intervals.sides();
        }
        if !intervals.points {
            break;
        }
        analysis.point_columns += 1;
        analysis.points *= intervals.list.len().max(1);
        if analysis.ranges.is_empty() {
            break;
        }
    }
    if analysis.point_columns == 0 && analysis.range_sides == 0 && !analysis.used.contains(&true) {
        let full = Range {
            low: vec![Bound::Value(Datum::Null)],
            high: vec![Bound::Max],
            low_exclusive: false,
            high_exclusive: false,
        };
        analysis.ranges = vec![full];
    }
    analysis
}

/// Adds a column to every range.
fn extend(ranges: &mut Vec<Range>, intervals: &Intervals) {
    let mut longer = Vec::with_capacity(ranges.len() * intervals.list.len());
    for range in ranges.iter() {
        for interval in &intervals.list {
            let mut range = range.clone();
            range.low.push(interval.low.clone());
            range.high.push(interval.high.clone());
            range.low_exclusive = interval.low_exclusive;
            range.high_exclusive = interval.high_exclusive;
            longer.push(range);
        }
    }
    *ranges = longer;
}

impl RangeSpec {
    /// A key under conditions over its columns by position.
    pub fn new(columns: Vec<RangeColumn>, conditions: Vec<Expr>) -> RangeSpec {
        let has_values = |expr: &Expr| {
            !expr.any(&mut |expr| match expr {
                Expr::Param { .. } => true,
                Expr::Function { func, .. } => func.is_session(),
                _ => false,
            })
        };
        let fixed =
            conditions.iter().all(has_values).then(|| analyze(&columns, &conditions).ranges);
        RangeSpec { columns, conditions, fixed }
    }

    /// The whole key.
    pub fn full(columns: Vec<RangeColumn>) -> RangeSpec {
        RangeSpec::new(columns, Vec::new())
    }

    /// Whether everything is scanned.
    pub fn is_full(&self) -> bool {
        self.conditions.is_empty()
    }

    /// The ranges with the parameters of this run.
    pub fn ranges(&self, ctx: &mut EvalContext) -> Vec<Range> {
        match &self.fixed {
            Some(ranges) => ranges.clone(),
            None => {
                let bound: Vec<Expr> = self.conditions.iter().map(|c| c.bind(ctx)).collect();
                analyze(&self.columns, &bound).ranges
            }
        }
    }

    /// The same with parameters replaced by columns where `place` knows one, to be printed.
    #[must_use]
    pub fn map_params(&self, place: &dyn Fn(usize) -> Option<usize>) -> RangeSpec {
        let mut change = |expr: Expr| match &expr {
            Expr::Param { index, ty } => match place(*index) {
                Some(column) => Expr::column(column, ty.clone()),
                None => expr,
            },
            _ => expr,
        };
        let conditions = self.conditions.iter().cloned().map(|c| c.transform(&mut change));
        RangeSpec { conditions: conditions.collect(), ..self.clone() }
    }

    /// The ranges as EXPLAIN prints them.
    pub fn text(&self, name: &dyn Fn(usize) -> String) -> String {
        match &self.fixed {
            Some(ranges) => {
                let texts: Vec<String> =
                    ranges.iter().map(|range| range.text(&self.columns)).collect();
                format!("range:{}", texts.join(", "))
            }
            None => {
                let texts: Vec<String> = self.conditions.iter().map(|c| c.fmt_with(name)).collect();
                format!("range: decided by [{}]", texts.join(" "))
            }
        }
    }
}

impl Range {
    /// `(10,+inf]`
    pub fn text(&self, columns: &[RangeColumn]) -> String {
        let side = |bounds: &[Bound]| {
            let texts = bounds.iter().enumerate().map(|(at, bound)| match bound {
                Bound::Min => "-inf".to_string(),
                Bound::Max => "+inf".to_string(),
                Bound::Unknown => "?".to_string(),
                Bound::Value(value) => {
                    let ty = columns.get(at).map_or_else(FieldType::null, |c| c.ty.clone());
                    Expr::constant_of(value.clone(), value_type(value, ty)).to_string()
                }
            });
            texts.collect::<Vec<_>>().join(" ")
        };
        let open = if self.low_exclusive { '(' } else { '[' };
        let close = if self.high_exclusive { ')' } else { ']' };
        format!("{open}{},{}{close}", side(&self.low), side(&self.high))
    }
}

/// The type to print a bound by: the column's, unless the value is of another kind.
fn value_type(value: &Datum, ty: FieldType) -> FieldType {
    match value {
        Datum::Int(_) if ty.physical() == cairn_types::PhysicalKind::UInt => FieldType::bigint(),
        Datum::UInt(_) if ty.physical() == cairn_types::PhysicalKind::Int => {
            FieldType::bigint_unsigned()
        }
        Datum::Double(_) => FieldType::double(),
        _ => ty,
    }
}
