//! What is expected of a plan's rows: how many, and what is in their columns.
//!
//! Columns of tables that were never analyzed are not listed: of them nothing is known, and
//! [`super::guess`] stands in.
//!
//! **Fewer rows have fewer values.** Of `n` rows with `d` values evenly spread, a random part `p`
//! has about `d × (1 − (1 − p)^(n/d))` (Cardenas, "Analysis and Performance of Inverted Data Base
//! Structures", 1975).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use cairn_types::ColumnId;

use super::guess::DISTINCT_FRACTION;
use super::{TableStatistics, Values};
use crate::logical::Col;

/// What is expected of a plan's rows.
#[derive(Clone, Debug, Default)]
pub(crate) struct Estimate {
    /// How many there are.
    pub rows: f64,
    /// Columns of which something is known.
    pub columns: BTreeMap<Col, ColumnEstimate>,
    /// Columns of which it is known how many combinations of values there are.
    pub groups: Vec<ColumnGroup>,
    /// Columns of which no two rows have the same values, NULLs aside; those that are fixed to one
    /// value are left out.
    pub unique: Vec<BTreeSet<Col>>,
}

/// What is expected of a column's values.
#[derive(Clone, Debug)]
pub(crate) struct ColumnEstimate {
    /// Different values besides NULL.
    pub distinct: f64,
    /// Different values before rows were taken away for reasons that have nothing to do with this
    /// column: what a value found elsewhere may be one of.
    pub domain: f64,
    /// Part of the rows that is NULL.
    pub null_fraction: f64,
    /// Where its values are described.
    pub source: Option<ColumnSource>,
}

/// A column of an analyzed table.
#[derive(Clone, Debug)]
pub(crate) struct ColumnSource {
    pub table: Arc<TableStatistics>,
    pub column: ColumnId,
    /// Which table in FROM it is of: the number of its first column.
    pub scan: Col,
}

impl ColumnSource {
    /// Its values, if they are described: not where there were none, and rows have changed since.
    pub fn values(&self) -> Option<Values<'_>> {
        let distribution = self.table.columns.get(&self.column)?;
        let values = Values::new(&self.table, distribution);
        let is_unknown = distribution.distinct_count < 1.0 && values.fresh_rows() >= 1.0;
        (!is_unknown).then_some(values)
    }
}

/// Columns that are known together.
#[derive(Clone, Debug)]
pub(crate) struct ColumnGroup {
    /// The columns.
    pub columns: BTreeSet<Col>,
    /// Different combinations, before rows were taken away.
    pub domain: f64,
}

impl Estimate {
    /// Rows of which nothing else is known.
    pub fn of_rows(rows: f64) -> Estimate {
        Estimate { rows, ..Estimate::default() }
    }

    /// Whether something was counted.
    pub fn is_counted(&self) -> bool {
        !self.columns.is_empty()
    }

    /// Different values of a column of which nothing is known.
    pub fn unknown_distinct(&self) -> f64 {
        (self.rows * DISTINCT_FRACTION).max(1.0)
    }

    /// A part of the rows, whatever their values.
    #[must_use]
    pub fn with_rows(mut self, rows: f64) -> Estimate {
        let (before, part) = (self.rows, rows / self.rows.max(f64::MIN_POSITIVE));
        self.rows = rows;
        if part < 1.0 {
            for column in self.columns.values_mut() {
                column.distinct = remaining(column.distinct, before, part).min(rows.max(1.0));
            }
        }
        self
    }

    /// Only these columns.
    #[must_use]
    pub fn only(mut self, keep: &BTreeSet<Col>) -> Estimate {
        self.columns.retain(|col, _| keep.contains(col));
        self.groups.retain(|group| group.columns.is_subset(keep));
        self.unique.retain(|key| key.is_subset(keep));
        self
    }
}

impl ColumnEstimate {
    /// A computed column.
    pub fn computed(distinct: f64, null_fraction: f64) -> ColumnEstimate {
        ColumnEstimate { distinct, domain: distinct, null_fraction, source: None }
    }

    /// Part of the rows that is not NULL.
    pub fn valued(&self) -> f64 {
        1.0 - self.null_fraction
    }
}

/// Values that are left of `distinct` ones if only a random part of the rows is.
fn remaining(distinct: f64, rows: f64, part: f64) -> f64 {
    let per_value = (rows / distinct.max(1.0)).max(1.0);
    (distinct * (1.0 - (1.0 - part).powf(per_value))).max(1.0)
}

/// Combinations of values of several columns, if nothing is known of them together: the two
/// largest counts multiplied, the others damped, since columns of one row mostly have to do with
/// each other.
pub(super) fn combinations(mut counts: Vec<f64>) -> f64 {
    counts.sort_by(|a, b| b.total_cmp(a));
    damped(&counts)
}

/// Fraction of rows for which several conditions are true, each of which keeps so much: the two
/// strongest multiplied, the others damped: 1, 1, 1/2, 1/4, … as exponents.
///
/// Plain products (Selinger 1979) fall far too low where columns have to do with each other, and
/// plans that are right for one row are ruinous for a million. Exponential backoff (SQL Server
/// since 2014) damps from the second on; that misses what two columns with nothing in common, the
/// common case, have together.
pub(super) fn conjunction(mut fractions: Vec<f64>) -> f64 {
    fractions.sort_by(f64::total_cmp);
    damped(&fractions)
}

fn damped(factors: &[f64]) -> f64 {
    let mut exponent = 1.0;
    let mut product = 1.0;
    for (at, factor) in factors.iter().enumerate() {
        if at > 1 {
            exponent /= 2.0;
        }
        product *= factor.powf(exponent);
    }
    product
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_rows_of_many_have_few_values() {
        let near = |a: f64, b: f64| (a / b - 1.0).abs() < 0.05;
        assert!(near(remaining(100.0, 1e6, 0.5), 100.0), "each value many times");
        assert!(near(remaining(1e6, 1e6, 0.1), 1e5), "each value once");
        assert!(remaining(1000.0, 1e6, 1e-6) >= 1.0);
    }

    #[test]
    fn many_conditions_are_not_taken_for_independent() {
        assert_eq!(conjunction(vec![0.5, 0.1]), 0.05);
        let three = conjunction(vec![0.1, 0.1, 0.01]);
        assert!(three > 0.0001 && three < 0.001, "{three}");
        assert_eq!(conjunction(Vec::new()), 1.0);
        assert!((combinations(vec![3.0, 2.0]) - 6.0).abs() < 1e-9);
    }
}
