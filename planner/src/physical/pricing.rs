//! What each way to read a table costs, and how many rows it reads.
//!
//! ```text
//! t: 1000000 rows, index ia (a)              a = 5: 20 rows        a > 5: 900000 rows
//!   table: 1000000 × scan_row                1000000               1000000
//!   ia:    n × (scan_entry + lookup_row)     148        ← taken    6660000
//! ```
//!
//! Rows in the ranges of a key are those that its conditions keep: by the index's own statistics
//! where it has several columns, else by its columns' distributions (`crate::statistics`). What is
//! left after all filters is the same whichever way is taken.
//!
//! **LIMIT.** A path that gives the wanted order, or any if none is wanted, stops when it has the
//! rows that are asked for. That counts only where the table was analyzed: how many rows must be
//! read for one that is wanted is not to be guessed.

use std::collections::BTreeSet;

use cairn_expr::Expr;
use cairn_types::Datum;

use super::Physical;
use super::access::{Path, split_filters};
use crate::logical::LogicalScan;
use crate::logical::tree::covered;
use crate::ranger::{Bound, RangeColumn};
use crate::statistics::guess::{
    BETWEEN_FRACTION, EQUAL_FRACTION, LESS_FRACTION, selectivity_of_all,
};
use crate::statistics::{Estimate, Estimator, TableStatistics, equal_columns};

/// What paths are compared for.
#[derive(Clone, Copy, Default)]
pub(super) struct Pricing {
    /// Rows are to be sorted, if they do not come so.
    pub order_wanted: bool,
    /// How many rows are asked for, if a LIMIT says so.
    pub row_goal: Option<f64>,
    /// Ranges use more than the table's own conditions: values of one row it is joined with.
    pub has_lookups: bool,
}

/// What is known of the table whose paths are priced.
struct Known<'k> {
    scan: &'k LogicalScan,
    estimator: Estimator<'k>,
    /// All its rows.
    table: Estimate,
    /// Those that fulfil its conditions.
    result: Estimate,
    statistics: Option<&'k TableStatistics>,
}

impl Physical<'_> {
    /// Fills in rows and costs.
    pub(super) fn price(&self, scan: &LogicalScan, paths: &mut [Path], pricing: &Pricing) {
        let estimator = self.estimator();
        let table = estimator.table(scan);
        let statistics = table.statistics.clone();
        let known = Known {
            scan,
            estimator,
            table: table.estimate.clone(),
            result: estimator.scan_of(scan, table),
            statistics: statistics.as_deref(),
        };
        for path in paths {
            match known.statistics {
                Some(statistics) => known.count(path, statistics, pricing.has_lookups),
                None => known.guess(path),
            }
            if let Some(at) = path.index {
                path.lookup_cost = match known.correlation(at) {
                    Some(correlation) => self.cost.lookup(correlation),
                    None => self.cost.lookup_guessed_row,
                };
            }
            path.cost = self.path_cost(path, pricing);
        }
    }

    fn path_cost(&self, path: &Path, pricing: &Pricing) -> f64 {
        let unit = &self.cost;
        let result = path.result.rows;
        let mut total = path.rows * path.filters.len() as f64 * unit.filter_row;
        total += result * unit.send_row;
        total += match (path.index, path.covering) {
            (None, _) => path.rows * unit.scan_row,
            (Some(_), true) => path.rows * unit.scan_entry,
            (Some(_), false) => path.rows * unit.scan_entry + path.entries * path.lookup_cost,
        };
        let in_order = path.ordered || !pricing.order_wanted;
        if let Some(goal) = pricing.row_goal.filter(|_| in_order && !path.is_pseudo) {
            total *= (goal / result.max(1.0)).min(1.0);
        }
        if !in_order {
            total += unit.sort(result.max(1.0));
        }
        path.analysis.ranges.len() as f64 * unit.seek_range + total
    }
}

impl Known<'_> {
    /// Rows by statistics.
    fn count(&self, path: &mut Path, statistics: &TableStatistics, has_lookups: bool) {
        let rows = self.range_rows(path, statistics);
        // What the value that a row is looked up by must fulfil is said of both sides.
        let given = match has_lookups {
            true => equal_columns(&path.ranged, &Expr::is_constant).into_iter().collect(),
            false => BTreeSet::new(),
        };
        let fraction = |filters: &[Expr]| {
            let filters = filters.iter().filter(|filter| !covered(filter, &given)).cloned();
            self.estimator.fraction(&self.table, &filters.collect::<Vec<_>>())
        };
        let result = match has_lookups {
            true => rows * fraction(&path.filters),
            false => self.result.rows,
        };
        path.is_pseudo = false;
        path.rows = if path.filters.is_empty() { result } else { rows.max(result) };
        let on_entry = self.on_entry(path);
        path.entries = (path.rows * fraction(&on_entry)).max(result);
        path.result = Estimate { rows: result, ..self.result.clone() };
    }

    /// Rows in the ranges of a key.
    fn range_rows(&self, path: &Path, statistics: &TableStatistics) -> f64 {
        let analysis = &path.analysis;
        let table = &self.scan.table;
        if analysis.ranges.is_empty() {
            return 0.0;
        }
        if self.is_whole_key(path) {
            return (analysis.equal_values as f64).min(self.table.rows);
        }
        let index = match path.index {
            Some(at) => Some(&table.indices[at]),
            None => table.primary_key().filter(|_| table.common_handle),
        };
        let columns: Vec<RangeColumn> = path.key.iter().map(|k| k.range.clone()).collect();
        let by_index = index
            .filter(|_| !path.ranged.is_empty())
            .and_then(|index| self.estimator.index_rows(statistics, index, &columns, analysis));
        let rows = by_index.unwrap_or_else(|| {
            self.table.rows * self.estimator.fraction(&self.table, &path.ranged)
        });
        rows.min(self.table.rows)
    }

    /// Whether the path names rows by a whole unique key.
    fn is_whole_key(&self, path: &Path) -> bool {
        let unique = path.index.is_none_or(|at| self.scan.table.indices[at].unique);
        let is_null = |bound: &Bound| *bound == Bound::Value(Datum::Null);
        // NULLs are as many as they like.
        let has_nulls = || path.analysis.ranges.iter().any(|range| range.low.iter().any(is_null));
        let counted = self.statistics.is_some();
        unique && path.analysis.equal_columns == path.key.len() && !(counted && has_nulls())
    }

    fn on_entry(&self, path: &Path) -> Vec<Expr> {
        match path.index {
            Some(at) => split_filters(self.scan, &self.scan.table.indices[at], &path.filters).0,
            None => Vec::new(),
        }
    }

    /// Rows where nobody counted.
    fn guess(&self, path: &mut Path) {
        let (analysis, rows) = (&path.analysis, self.table.rows);
        path.rows = if self.is_whole_key(path) {
            (analysis.equal_values as f64).min(rows)
        } else if analysis.ranges.is_empty() {
            0.0
        } else {
            // Values of all columns together: each combination is one equality.
            let mut fraction = EQUAL_FRACTION.powi(analysis.equal_columns as i32);
            fraction *= analysis.equal_values as f64;
            fraction *= match analysis.range_sides {
                0 => 1.0,
                1 => LESS_FRACTION,
                _ => BETWEEN_FRACTION,
            };
            (rows * fraction.min(1.0)).max(1.0).min(rows)
        };
        let after = |filters: &[Expr]| path.rows * selectivity_of_all(filters);
        path.entries = after(&self.on_entry(path));
        path.result = Estimate { rows: after(&path.filters), ..self.result.clone() };
    }

    /// How far the order of an index's entries is that of the rows, if the table was analyzed.
    fn correlation(&self, index: usize) -> Option<f64> {
        let index = &self.scan.table.indices[index];
        let statistics = self.statistics?;
        if let Some(keys) = statistics.indexes.get(&index.id) {
            return Some(keys.keys.correlation);
        }
        let first = index.columns.first().map(|part| self.scan.table.columns[part.offset].id);
        let first = first.and_then(|column| statistics.columns.get(&column));
        Some(first.map_or(0.0, |distribution| distribution.correlation))
    }
}
