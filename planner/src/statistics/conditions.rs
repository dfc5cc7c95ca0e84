//! Fractions of rows for which conditions are true.
//!
//! Conditions on one column, whatever their number, are turned into one set of intervals by the
//! ranger, and these are looked up in the column's distribution:
//!
//! ```text
//! a > 3 AND a <= 9 AND a <> 5 AND b = 2
//!   a in (3,5) (5,9]  →  histogram of a   ┐
//!   b in [2,2]        →  top values of b  ┴→  conjunction
//! ```
//!
//! | condition | fraction |
//! |---|---|
//! | intervals of a column | their rows / all rows |
//! | `c = ?`, an expression of the session | 1 / distinct values |
//! | `c > ?` | what is assumed without statistics, of rows that are not NULL |
//! | `c LIKE 'ab%cd'` | texts that begin with `ab` × `PIECE_FRACTION` for the rest |
//! | `a OR b` | 1 − (1 − a) × (1 − b) |
//! | `NOT a` | rows in which nothing is NULL − a |
//! | `c = d`, `f(c) = 1` | 1 / the larger number of distinct values (Selinger 1979) |
//! | others | what is assumed without statistics |
//!
//! Source: Selinger et al., "Access Path Selection in a Relational Database Management System",
//! 1979, table 1; how fractions are combined: [`super::estimate::conjunction`].

use std::collections::BTreeMap;

use cairn_expr::{Expr, Func};
use cairn_types::codec::{encode_bytes, flag};
use cairn_types::keys::prefix_next;
use cairn_types::{Datum, FieldType};

use super::derive::Estimator;
use super::estimate::{ColumnEstimate, ColumnSource, Estimate, combinations, conjunction};
use super::guess::{self, BETWEEN_FRACTION, LESS_FRACTION, PIECE_FRACTION};
use super::{KeyBound, Values};
use crate::logical::Col;
use crate::logical::tree::column_type;
use crate::ranger::{Bound, Range, RangeColumn, analyze, encode_bounds};

/// What conditions leave.
pub(super) struct Narrowing {
    /// Fraction of the rows.
    pub fraction: f64,
    /// By column that has conditions of its own.
    columns: BTreeMap<Col, ColumnNarrowing>,
    /// Columns that are equal to one another.
    equal: Vec<(Col, Col)>,
}

/// What the conditions on a column leave.
struct ColumnNarrowing {
    /// Fraction of the rows.
    fraction: f64,
    /// Fraction of the values.
    values: f64,
    /// Values at most.
    distinct_max: f64,
    keeps_nulls: bool,
}

impl Estimator<'_> {
    /// Rows for which all conditions are true; at least one.
    pub fn filter(&self, input: &Estimate, conditions: &[Expr]) -> Estimate {
        let narrowing = self.narrowing(input, conditions);
        let rows = (input.rows * narrowing.fraction).max(1.0);
        narrowing.apply(input.clone(), rows)
    }

    /// Fraction of rows for which all conditions are true.
    pub fn fraction(&self, input: &Estimate, conditions: &[Expr]) -> f64 {
        self.narrowing(input, conditions).fraction
    }

    pub(super) fn narrowing(&self, input: &Estimate, conditions: &[Expr]) -> Narrowing {
        let mut narrowing =
            Narrowing { fraction: 1.0, columns: BTreeMap::new(), equal: Vec::new() };
        if !input.is_counted() {
            narrowing.fraction = guess::selectivity_of_all(conditions);
            return narrowing;
        }
        let mut by_column: BTreeMap<Col, Vec<Expr>> = BTreeMap::new();
        let mut fractions = Vec::new();
        let mut guessed = Vec::new();
        for part in conditions.iter().cloned().flat_map(Expr::split_cnf) {
            if let Some(col) = ranged_column(&part, input) {
                by_column.entry(col).or_default().push(part);
                continue;
            }
            if let Some((Func::Eq, [a, b])) = part.as_function() {
                narrowing.equal.extend(a.as_column().zip(b.as_column()));
            }
            match self.single(input, &part) {
                Some(fraction) => fractions.push(fraction),
                None => guessed.push(part),
            }
        }
        for (col, parts) in by_column {
            let column = self.column_narrowing(&input.columns[&col], col, &parts);
            match column {
                Some(column) => {
                    fractions.push(column.fraction);
                    narrowing.columns.insert(col, column);
                }
                None => guessed.extend(parts),
            }
        }
        let fraction = conjunction(fractions) * guess::selectivity_of_all(&guessed);
        narrowing.fraction = fraction.clamp(0.0, 1.0);
        narrowing
    }

    /// What all conditions on one column leave.
    fn column_narrowing(
        &self,
        estimate: &ColumnEstimate,
        col: Col,
        conditions: &[Expr],
    ) -> Option<ColumnNarrowing> {
        let values = estimate.source.as_ref().and_then(ColumnSource::values)?;
        let ty = column_type(conditions.first()?, col)?;
        let column = [RangeColumn { ty, prefix_length: None }];
        let on_key: Vec<Expr> = conditions.iter().filter_map(at_first).collect();
        let analysis = analyze(&column, &on_key);
        let distinct = values.distinct();
        let valued = values.valued_rows().max(f64::MIN_POSITIVE);
        let mut keeps_nulls = false;
        let (share, distinct_max) = if analysis.unknown {
            match (analysis.equal_columns, analysis.range_sides) {
                (0, 0 | 1) => (LESS_FRACTION, distinct),
                (0, _) => (BETWEEN_FRACTION, distinct),
                _ => (analysis.equal_values as f64 / distinct, analysis.equal_values as f64),
            }
        } else {
            let mut rows = 0.0;
            for range in &analysis.ranges {
                keeps_nulls |= range.low.first() == Some(&Bound::Value(Datum::Null));
                rows += self.range_rows(values, range, &column);
            }
            let points = analysis.equal_columns == 1 && analysis.point_columns == 1;
            (rows / valued, if points { analysis.ranges.len() as f64 } else { distinct })
        };
        let share = share.clamp(0.0, 1.0);
        let nulls = if keeps_nulls { estimate.null_fraction } else { 0.0 };
        Some(ColumnNarrowing {
            fraction: (share * estimate.valued() + nulls).min(1.0),
            values: share,
            distinct_max,
            keeps_nulls,
        })
    }

    /// Rows in a range of a column, without NULLs.
    fn range_rows(&self, values: Values<'_>, range: &Range, column: &[RangeColumn]) -> f64 {
        let [low, high] = [&range.low, &range.high].map(|bounds| {
            let mut key = Vec::new();
            encode_bounds(&mut key, bounds, column, self.zone);
            key
        });
        if high.first() == Some(&flag::NULL) {
            return 0.0;
        }
        if range.is_point() {
            return values.equal_rows(&low);
        }
        let below = KeyBound { key: &low, with_key: range.low_exclusive };
        let above = KeyBound { key: &high, with_key: !range.high_exclusive };
        values.rows_between(below, above).unwrap_or_else(|| {
            let open = [range.low.first(), range.high.first()].map(|bound| {
                matches!(bound, Some(Bound::Min | Bound::Max | Bound::Value(Datum::Null)) | None)
            });
            values.valued_rows()
                * match open {
                    [true, true] => 1.0,
                    [false, false] => BETWEEN_FRACTION,
                    _ => LESS_FRACTION,
                }
        })
    }

    /// Fraction of a condition that no interval of one column says; `None` if nothing is known.
    fn single(&self, input: &Estimate, condition: &Expr) -> Option<f64> {
        let Expr::Function { func, args, .. } = condition else { return None };
        if !condition.columns().iter().any(|col| input.columns.contains_key(col)) {
            return None;
        }
        match (func, &args[..]) {
            (Func::And, _) => Some(self.fraction(input, &condition.clone().split_cnf())),
            (Func::Or, _) => Some(self.any_of(input, condition)),
            (Func::Not, [arg]) => {
                let known = ranged_column(arg, input).is_some();
                let fraction = match known {
                    true => self.fraction(input, std::slice::from_ref(arg)),
                    false => self.single(input, arg)?,
                };
                // These are never NULL themselves.
                if let Some((Func::IsNull | Func::NullEq | Func::IsTrue | Func::IsFalse, _)) =
                    arg.as_function()
                {
                    return Some((1.0 - fraction).max(0.0));
                }
                let columns = arg.columns();
                let valued = columns.iter().filter_map(|col| input.columns.get(col));
                let valued = valued.map(ColumnEstimate::valued).fold(1.0, f64::min);
                Some((valued - fraction).max(0.0))
            }
            (Func::Eq | Func::NullEq, [a, b]) => self.equality(input, a, b),
            (Func::Ne, [a, b]) => {
                let valued =
                    self.column_of(input, a)?.valued() * self.column_of(input, b)?.valued();
                Some((valued - self.equality(input, a, b)?).max(0.0))
            }
            (Func::In, [arg, list @ ..]) => {
                let column = self.column_of(input, arg)?;
                Some((list.len() as f64 / column.domain).min(1.0) * column.valued())
            }
            (Func::IsNull, [arg]) => Some(self.column_of(input, arg)?.null_fraction),
            (Func::Like, [text, pattern, ..]) => {
                let column = input.columns.get(&text.as_column()?)?;
                let Some(Datum::Bytes(bytes)) = pattern.as_constant() else { return None };
                let escape = match args.get(2).map(Expr::as_constant) {
                    Some(Some(Datum::Bytes(escape))) => escape.first().copied(),
                    _ => Some(b'\\'),
                };
                let pattern = Pattern::parse(bytes, escape);
                Some(pattern.fraction(column, text.ty()) * column.valued())
            }
            _ => None,
        }
    }

    /// Fraction of rows for which some branch of an OR is true. Branches on one column are intervals
    /// of it, whatever their number.
    fn any_of(&self, input: &Estimate, condition: &Expr) -> f64 {
        let mut by_column: BTreeMap<Col, Vec<Expr>> = BTreeMap::new();
        let mut others = Vec::new();
        for branch in condition.clone().split_dnf() {
            match ranged_column(&branch, input) {
                Some(col) => by_column.entry(col).or_default().push(branch),
                None => others.push(branch),
            }
        }
        others.extend(by_column.into_values().filter_map(Expr::join_dnf));
        let none = others.iter().map(|part| {
            // An OR of one column whose intervals are too many is guessed.
            match part.as_function() {
                Some((Func::Or, _)) if ranged_column(part, input).is_none() => {
                    1.0 - guess::selectivity(part)
                }
                _ => 1.0 - self.fraction(input, std::slice::from_ref(part)),
            }
        });
        1.0 - none.product::<f64>()
    }

    fn equality(&self, input: &Estimate, a: &Expr, b: &Expr) -> Option<f64> {
        let (a, b) = (self.column_of(input, a)?, self.column_of(input, b)?);
        Some(a.valued() * b.valued() / a.domain.max(b.domain).max(1.0))
    }

    /// What is known of an expression's values: a column, or computed from columns.
    pub(super) fn column_of(&self, input: &Estimate, expr: &Expr) -> Option<ColumnEstimate> {
        if let Some(col) = expr.as_column() {
            return input.columns.get(&col).cloned();
        }
        if !expr.has_columns() {
            return expr.is_constant().then(|| ColumnEstimate::computed(1.0, 0.0));
        }
        let mut valued = 1.0;
        let mut counts = Vec::new();
        for col in expr.columns() {
            let column = input.columns.get(&col)?;
            valued *= column.valued();
            counts.push(column.domain);
        }
        let values = results_max(expr, combinations(counts));
        let distinct = values.min(input.rows).max(1.0);
        Some(ColumnEstimate { domain: values, ..ColumnEstimate::computed(distinct, 1.0 - valued) })
    }
}

impl Narrowing {
    /// The estimate of what is left.
    pub fn apply(&self, input: Estimate, rows: f64) -> Estimate {
        let mut result = input.with_rows(rows);
        for (col, narrowing) in &self.columns {
            let Some(column) = result.columns.get_mut(col) else { continue };
            let domain = (column.domain * narrowing.values).min(narrowing.distinct_max).max(1.0);
            // Rows that go because of this column take their values along: what else goes is
            // some of the rest.
            column.domain = domain;
            column.distinct = domain.min(rows.max(1.0));
            let nulls = column.null_fraction / narrowing.fraction.max(f64::MIN_POSITIVE);
            column.null_fraction = if narrowing.keeps_nulls { nulls.min(1.0) } else { 0.0 };
        }
        for (a, b) in &self.equal {
            let known = [a, b].map(|col| result.columns.get(col));
            let [Some(first), Some(second)] = known else { continue };
            let distinct = first.distinct.min(second.distinct);
            let domain = first.domain.min(second.domain);
            for col in [a, b] {
                let Some(column) = result.columns.get_mut(col) else { continue };
                (column.distinct, column.domain, column.null_fraction) = (distinct, domain, 0.0);
            }
        }
        result
    }
}

/// The column that a condition bounds, if it names no other and its values are described.
fn ranged_column(condition: &Expr, input: &Estimate) -> Option<Col> {
    let columns = condition.columns();
    let col = *columns.first().filter(|_| columns.len() == 1)?;
    input.columns.get(&col)?.source.as_ref()?.values()?;
    let has_pattern = condition.any(&mut |e| matches!(e, Expr::Function { func: Func::Like, .. }));
    let ty = column_type(condition, col)?;
    let on_key = at_first(condition).filter(|_| !has_pattern)?;
    let analysis = analyze(&[RangeColumn { ty, prefix_length: None }], &[on_key]);
    analysis.exact[0].then_some(col)
}

/// A condition on one column as one on the first column of a key.
fn at_first(condition: &Expr) -> Option<Expr> {
    condition.clone().remap_columns(&|_| Some(0)).ok()
}

/// Results of a function of arguments with so many values.
fn results_max(expr: &Expr, values: f64) -> f64 {
    let Some((func, args)) = expr.as_function() else { return values };
    let unit = |name: &str| match args.first().and_then(Expr::as_constant) {
        Some(Datum::Bytes(unit)) => unit.eq_ignore_ascii_case(name.as_bytes()),
        _ => false,
    };
    match func {
        Func::Extract if unit("YEAR") => (values / 365.0).max(1.0),
        Func::Extract if unit("MONTH") => values.min(12.0),
        Func::Year => (values / 365.0).max(1.0),
        Func::Month => values.min(12.0),
        Func::DayOfWeek | Func::Weekday => values.min(7.0),
        Func::Quarter => values.min(4.0),
        Func::Hour => values.min(24.0),
        Func::DayOfYear | Func::Extract => values.min(366.0),
        Func::IsNull | Func::Not | Func::And | Func::Or | Func::Like | Func::In => values.min(2.0),
        func if func.is_comparison() => values.min(2.0),
        _ => values,
    }
}

/// A LIKE pattern.
struct Pattern {
    /// What texts begin with.
    prefix: Vec<u8>,
    has_wildcard: bool,
    /// Whether something is asked of the rest.
    has_rest: bool,
}

impl Pattern {
    fn parse(pattern: &[u8], escape: Option<u8>) -> Pattern {
        let mut parsed = Pattern { prefix: Vec::new(), has_wildcard: false, has_rest: false };
        let mut bytes = pattern.iter().copied().peekable();
        while let Some(byte) = bytes.next() {
            let literal = match byte {
                byte if Some(byte) == escape => bytes.next().unwrap_or(byte),
                b'%' => {
                    parsed.has_wildcard = true;
                    continue;
                }
                b'_' => {
                    parsed.has_wildcard = true;
                    parsed.has_rest = true;
                    continue;
                }
                byte => byte,
            };
            match parsed.has_wildcard {
                true => parsed.has_rest = true,
                false => parsed.prefix.push(literal),
            }
        }
        parsed
    }

    /// Fraction of the texts that are like it.
    fn fraction(&self, column: &ColumnEstimate, ty: &FieldType) -> f64 {
        let rest = if self.has_rest { PIECE_FRACTION } else { 1.0 };
        let Some(values) = column.source.as_ref().and_then(ColumnSource::values) else {
            return if self.has_wildcard { PIECE_FRACTION } else { 1.0 / column.domain.max(1.0) };
        };
        if self.prefix.is_empty() && self.has_wildcard {
            return rest;
        }
        let mut weights = Vec::new();
        match ty.collation.is_bytewise() && !ty.collation.pad_space() {
            true => weights.extend_from_slice(&self.prefix),
            false => ty.collation.sort_key(&self.prefix, &mut weights),
        }
        let key = |weights: &[u8]| {
            let mut key = vec![flag::BYTES];
            encode_bytes(&mut key, weights);
            key
        };
        let valued = values.valued_rows().max(f64::MIN_POSITIVE);
        if !self.has_wildcard {
            return (values.equal_rows(&key(&weights)) / valued).min(1.0);
        }
        let next = prefix_next(&weights);
        let high = if next.is_empty() { vec![flag::MAX] } else { key(&next) };
        let bound = |key| KeyBound { key, with_key: false };
        let rows = values.rows_between(bound(&key(&weights)), bound(&high));
        rows.map_or(PIECE_FRACTION, |rows| (rows / valued).min(1.0)) * rest
    }
}
