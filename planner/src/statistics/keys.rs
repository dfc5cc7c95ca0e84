//! Rows in ranges of a key of several columns, and what is known of such columns together.
//!
//! Columns of one row have to do with each other: of `city = 'Bonn' AND country = 'DE'` the second
//! condition says nothing new. Where an index has both columns its statistics know:
//!
//! | conditions give | rows |
//! |---|---|
//! | the whole key, values known | top value or bucket of the index's keys |
//! | the first columns, values known | the index's histogram between their keys |
//! | … within one bucket | rows / distinct values of the first columns |
//! | the first columns, values unknown | rows / distinct values of the first columns |
//! | a range of the next column, unknown | that × what is assumed without statistics |
//!
//! The index with most columns used is asked; conditions it knows nothing of are multiplied as
//! usual.

use cairn_expr::Expr;

use super::derive::Estimator;
use super::estimate::{ColumnGroup, Estimate};
use super::guess::{BETWEEN_FRACTION, LESS_FRACTION};
use super::{IndexStatistics, KeyBound, TableStatistics, Values};
use crate::catalog::{IndexInfo, TableInfo};
use crate::logical::{Col, LogicalScan};
use crate::ranger::{Analysis, RangeColumn, analyze, encode_bounds};

/// Ranges of a key beyond which it is enough to know how many there are.
const RANGES_MAX: usize = 256;

impl Estimator<'_> {
    /// Rows in an index's ranges, if its keys are described.
    pub fn index_rows(
        &self,
        table: &TableStatistics,
        index: &IndexInfo,
        columns: &[RangeColumn],
        analysis: &Analysis,
    ) -> Option<f64> {
        let statistics = table.indexes.get(&index.id)?;
        let values = Values::new(table, &statistics.keys);
        let average = |columns: usize| prefix_average(table, statistics, columns);
        let sides = match analysis.range_sides {
            0 => 1.0,
            1 => LESS_FRACTION,
            _ => BETWEEN_FRACTION,
        };
        if analysis.unknown || analysis.ranges.len() > RANGES_MAX || !values.has_histogram() {
            let one = average(analysis.equal_columns)?;
            return Some((one * analysis.equal_values as f64 * sides).min(table.row_count));
        }
        let mut rows = 0.0;
        for range in &analysis.ranges {
            let [low, high] = [&range.low, &range.high].map(|bounds| {
                let mut key = Vec::new();
                encode_bounds(&mut key, bounds, columns, self.zone);
                key
            });
            if range.is_point() && range.low.len() == columns.len() {
                rows += values.equal_rows(&low);
                continue;
            }
            // A bound says nothing of the columns behind it: all keys that begin with it are on
            // the same side.
            let next = |key: &[u8]| cairn_types::keys::prefix_next(key);
            let low = if range.low_exclusive { next(&low) } else { low };
            let high = if range.high_exclusive { high } else { next(&high) };
            let bound = |key| KeyBound { key, with_key: false };
            let between = values.rows_between(bound(&low), bound(&high)).unwrap_or(0.0);
            let equal = range.low.iter().zip(&range.high).take_while(|(a, b)| a == b).count();
            rows += match average(equal).filter(|_| equal > 0) {
                // Below the histogram's resolution.
                Some(average) if between < average => average * sides,
                _ => between,
            };
        }
        Some(rows.min(table.row_count))
    }

    /// The fraction of the rows that the best index knows conditions on several columns to keep,
    /// and which conditions these are.
    pub(super) fn by_index(
        &self,
        scan: &LogicalScan,
        table: &TableStatistics,
    ) -> Option<(f64, Vec<bool>)> {
        let mut best: Option<(usize, f64, Vec<bool>)> = None;
        for index in scan.table.indices.iter().filter(|index| index.state.is_public()) {
            if index.columns.len() < 2 || !table.indexes.contains_key(&index.id) {
                continue;
            }
            let (columns, on_key) = on_index(scan, index);
            let candidates: Vec<Expr> = on_key.iter().flatten().cloned().collect();
            let analysis = analyze(&columns, &candidates);
            let width = analysis.equal_columns + usize::from(analysis.range_sides > 0);
            if analysis.equal_columns == 0 || width < 2 {
                continue;
            }
            if best.as_ref().is_some_and(|(known, ..)| *known >= width) {
                continue;
            }
            let Some(rows) = self.index_rows(table, index, &columns, &analysis) else { continue };
            let mut exact = analysis.exact.iter();
            let used = on_key.iter().map(|c| c.is_some() && *exact.next().unwrap_or(&false));
            best = Some((width, rows / table.row_count.max(1.0), used.collect()));
        }
        best.map(|(_, fraction, used)| (fraction.min(1.0), used))
    }
}

/// An index's columns, and a scan's conditions over them where they need no others.
fn on_index(scan: &LogicalScan, index: &IndexInfo) -> (Vec<RangeColumn>, Vec<Option<Expr>>) {
    let columns = index.columns.iter().map(|part| RangeColumn {
        ty: scan.table.columns[part.offset].ty.clone(),
        prefix_length: part.prefix_length,
    });
    let positions: Vec<Option<Col>> =
        index.columns.iter().map(|part| scan.col_of(Some(part.offset))).collect();
    let place = |col: Col| positions.iter().position(|known| *known == Some(col));
    let on_key = scan.conditions.iter().map(|condition| {
        let usable = condition.has_columns() && condition.is_deterministic();
        usable.then(|| condition.clone().remap_columns(&place).ok()).flatten()
    });
    (columns.collect(), on_key.collect())
}

/// Rows that have the same values in the first columns of an index, on average.
fn prefix_average(
    table: &TableStatistics,
    statistics: &IndexStatistics,
    columns: usize,
) -> Option<f64> {
    match columns.checked_sub(1) {
        None => Some(table.row_count),
        Some(at) => {
            let distinct = prefix_distinct(table, *statistics.distinct_prefixes.get(at)?);
            Some(table.row_count / distinct)
        }
    }
}

/// Different values at the table's present size: see [`Values::distinct`].
fn prefix_distinct(table: &TableStatistics, known: f64) -> f64 {
    let rows = table.analyzed_rows.max(1.0);
    (known * (1.0 + (table.row_count / rows - 1.0) * (known / rows).min(1.0))).max(1.0)
}

/// Columns of which it is known how many combinations they have: beginnings of indexes, and keys.
pub(super) fn groups(
    table: &TableInfo,
    statistics: &TableStatistics,
    col_of: &dyn Fn(usize) -> Option<Col>,
) -> Vec<ColumnGroup> {
    let mut groups: Vec<ColumnGroup> = Vec::new();
    for index in table.indices.iter().filter(|index| index.state.is_public()) {
        let cols: Vec<Option<Col>> = index.columns.iter().map(|part| col_of(part.offset)).collect();
        let mut add = |count: usize, domain: f64| {
            let columns: Option<_> = cols.iter().take(count).copied().collect();
            groups.extend(columns.map(|columns| ColumnGroup { columns, domain }));
        };
        if let Some(known) = statistics.indexes.get(&index.id) {
            let whole = index.columns.iter().take_while(|part| part.prefix_length.is_none());
            for count in 2..=whole.count() {
                let Some(distinct) = known.distinct_prefixes.get(count - 1) else { break };
                add(count, prefix_distinct(statistics, *distinct));
            }
        } else if index.unique && index.columns.len() > 1 {
            let never_null =
                index.columns.iter().all(|part| table.columns[part.offset].ty.not_null);
            if never_null {
                add(index.columns.len(), statistics.row_count.max(1.0));
            }
        }
    }
    groups
}

/// Distinct combinations of columns by what is known of them together: the count, and which
/// columns it is of.
pub(super) fn known_group<'e>(estimate: &'e Estimate, cols: &[Col]) -> Option<&'e ColumnGroup> {
    let known = estimate.groups.iter();
    let known = known.filter(|group| group.columns.iter().all(|col| cols.contains(col)));
    known.max_by(|a, b| a.columns.len().cmp(&b.columns.len()))
}
