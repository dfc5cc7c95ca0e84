//! From node to node: what is expected of each part of a plan.
//!
//! One set of formulas for all: join order asks them of logical plans ([`Estimator::derive`]), and
//! the physical planner applies them one by one as it goes, so that EXPLAIN shows the rows that
//! decisions were made by.
//!
//! | node | rows |
//! |---|---|
//! | table | rows × fraction of its conditions; 1 under a whole unique key |
//! | filter | rows × fraction |
//! | GROUP BY, DISTINCT | combinations of the group columns, not more than rows |
//! | joins | see `join.rs` |
//! | LIMIT | not more than that |
//! | UNION ALL | sum |
//! | recursive union | seed + so many rounds of what a round yields |

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use cairn_expr::{Expr, Func};
use cairn_types::TimeZone;

use super::TableStatistics;
use super::estimate::{ColumnEstimate, ColumnSource, Estimate, combinations};
use super::guess::{PSEUDO_ROWS, ROUND_ROWS, ROUNDS, selectivity_of_all};
use super::join::JoinTerms;
use super::keys::{groups, known_group};
use crate::catalog::TableInfo;
use crate::context::Statistics;
use crate::logical::{Col, Logical, LogicalAggregate, LogicalScan};
use crate::plan::RowLimit;

/// Estimates rows of plans.
#[derive(Clone, Copy)]
pub(crate) struct Estimator<'s> {
    statistics: &'s dyn Statistics,
    /// The session's, in which constants of TIMESTAMP columns are written.
    pub(super) zone: &'s TimeZone,
}

/// What is known of a table in FROM before its conditions.
pub(crate) struct TableEstimate {
    /// All its rows.
    pub estimate: Estimate,
    /// Its statistics, if it was analyzed.
    pub statistics: Option<Arc<TableStatistics>>,
}

impl<'s> Estimator<'s> {
    /// Over statistics, with the session's time zone.
    pub fn new(statistics: &'s dyn Statistics, zone: &'s TimeZone) -> Estimator<'s> {
        Estimator { statistics, zone }
    }

    /// A table in FROM before its conditions.
    ///
    /// One that was never analyzed is taken for [`PSEUDO_ROWS`] at least: it may be about to be
    /// filled, and plans are kept.
    pub fn table(&self, scan: &LogicalScan) -> TableEstimate {
        let table = &*scan.table;
        let known = self.statistics.table_statistics(table);
        let rows = known.as_ref().map_or(0.0, |known| known.row_count);
        // What was found in an empty table says nothing of the rows that came since.
        let is_described = |known: &Arc<TableStatistics>| {
            known.analyzed_ts > 0 && (known.analyzed_rows >= 1.0 || known.row_count < 1.0)
        };
        let Some(known) = known.filter(is_described) else {
            let mut estimate = Estimate::of_rows(rows.max(PSEUDO_ROWS));
            estimate.unique = unique_keys(scan);
            return TableEstimate { estimate, statistics: None };
        };
        let rows = rows.max(1.0);
        let mut columns = BTreeMap::new();
        let first = scan.columns.first().map_or(0, |column| column.col);
        for column in &scan.columns {
            let place = (first, column.offset);
            if let Some(estimate) = column_estimate(table, &known, place, rows) {
                columns.insert(column.col, estimate);
            }
        }
        let col_of = |offset: usize| scan.col_of(Some(offset));
        let groups = groups(table, &known, &col_of);
        let estimate = Estimate { rows, columns, groups, unique: unique_keys(scan) };
        TableEstimate { estimate, statistics: Some(known) }
    }

    /// A table in FROM under its conditions.
    pub fn scan(&self, scan: &LogicalScan) -> Estimate {
        self.scan_of(scan, self.table(scan))
    }

    /// The same, if the table was looked at already.
    pub fn scan_of(&self, scan: &LogicalScan, table: TableEstimate) -> Estimate {
        let TableEstimate { mut estimate, statistics } = table;
        let fixed: BTreeSet<Col> =
            equal_columns(&scan.conditions, &Expr::is_constant).into_iter().collect();
        estimate.unique.iter_mut().for_each(|key| key.retain(|col| !fixed.contains(col)));
        let is_one = estimate.unique.iter().any(BTreeSet::is_empty);
        let Some(statistics) = statistics else {
            let fraction = selectivity_of_all(&scan.conditions);
            estimate.rows = if is_one { 1.0 } else { (estimate.rows * fraction).max(1.0) };
            return estimate;
        };
        let mut fraction = self.fraction(&estimate, &scan.conditions);
        if let Some((by_index, used)) = self.by_index(scan, &statistics) {
            let others = scan.conditions.iter().zip(&used).filter(|(_, used)| !**used);
            let others: Vec<Expr> = others.map(|(condition, _)| condition.clone()).collect();
            fraction = by_index * self.fraction(&estimate, &others);
        }
        let rows = if is_one { 1.0 } else { (estimate.rows * fraction).max(1.0) };
        self.narrowing(&estimate, &scan.conditions).apply(estimate, rows)
    }

    /// What is expected of a plan.
    pub fn derive(&self, plan: &Logical) -> Estimate {
        match plan {
            Logical::Scan(scan) => self.scan(scan),
            Logical::Dual { rows, .. } => Estimate::of_rows(*rows as f64),
            Logical::Values { rows, .. } => Estimate::of_rows(rows.len() as f64),
            Logical::Filter { conditions, input } => self.filter(&self.derive(input), conditions),
            Logical::Project { exprs, input } => self.project(&self.derive(input), exprs),
            Logical::Sort { input, .. } | Logical::Lock { input, .. } => self.derive(input),
            Logical::Aggregate(aggregate) => {
                self.aggregate(&self.derive(&aggregate.input), aggregate)
            }
            Logical::Window(window) => self.derive(&window.input),
            Logical::Join(join) => {
                let (left, right) = (self.derive(&join.left), self.derive(&join.right));
                self.join(&JoinTerms::of(join), &left, &right)
            }
            Logical::Limit { limit, input } | Logical::TopN { limit, input, .. } => {
                self.limit(self.derive(input), *limit)
            }
            Logical::Union { columns, inputs } => {
                let inputs: Vec<(Estimate, &[Col])> =
                    inputs.iter().map(|(input, own)| (self.derive(input), &own[..])).collect();
                self.union(columns, &inputs)
            }
            Logical::Recursive(union) => {
                let parts = union.parts.iter().map(|(part, _)| self.derive(part).rows);
                self.recursive(&self.derive(&union.seed.0), parts.sum())
            }
            Logical::Shared(shared) => {
                self.union(&shared.columns, &[(self.derive(&shared.input), &shared.own[..])])
            }
            Logical::WorkTable { .. } => Estimate::of_rows(ROUND_ROWS),
            Logical::MaxOneRow { input } => self.derive(input).with_rows(1.0),
        }
    }

    /// A recursive union, of which a round yields `round_rows`.
    pub fn recursive(&self, seed: &Estimate, round_rows: f64) -> Estimate {
        Estimate::of_rows(seed.rows + round_rows * ROUNDS)
    }

    /// Computed columns.
    pub fn project(&self, input: &Estimate, exprs: &[(Col, Expr)]) -> Estimate {
        let mut columns = BTreeMap::new();
        let mut kept = BTreeSet::new();
        for (col, expr) in exprs {
            if expr.as_column() == Some(*col) {
                kept.insert(*col);
            }
            if let Some(estimate) = self.column_of(input, expr).filter(|_| input.is_counted()) {
                columns.insert(*col, estimate);
            }
        }
        let below = Estimate { columns: BTreeMap::new(), ..input.clone() }.only(&kept);
        Estimate { columns, ..below }
    }

    /// Groups, or the one row without GROUP BY.
    pub fn aggregate(&self, input: &Estimate, aggregate: &LogicalAggregate) -> Estimate {
        if aggregate.groups.is_empty() {
            return Estimate::of_rows(1.0);
        }
        let exprs = aggregate.groups.iter().map(|(_, expr)| expr);
        let rows = self.distinct(input, exprs).max(1.0);
        let mut columns = BTreeMap::new();
        for (col, expr) in &aggregate.groups {
            let Some(mut column) = self.column_of(input, expr) else { continue };
            // NULL is one group.
            let nulls = if column.null_fraction > 0.0 { 1.0 / rows } else { 0.0 };
            column.null_fraction = nulls.min(1.0);
            column.distinct = column.distinct.min(rows);
            columns.insert(*col, column);
        }
        let groups: BTreeSet<Col> = aggregate.groups.iter().map(|(col, _)| *col).collect();
        let below = Estimate { columns: BTreeMap::new(), ..input.clone() }.only(&groups);
        let unique = if input.is_counted() { vec![groups] } else { Vec::new() };
        Estimate { rows, columns, groups: below.groups, unique }
    }

    /// Different combinations of expressions' values among the rows.
    pub fn distinct<'e>(&self, input: &Estimate, exprs: impl Iterator<Item = &'e Expr>) -> f64 {
        let mut counts = Vec::new();
        let mut cols: Vec<Col> = Vec::new();
        for expr in exprs {
            let column = match input.is_counted() {
                true => self.column_of(input, expr),
                false => None,
            };
            let Some(column) = column else { return input.unknown_distinct().min(input.rows) };
            match expr.as_column() {
                Some(col) => cols.push(col),
                // NULL is one more value.
                None => counts.push(column.distinct + column.null_fraction.ceil()),
            }
        }
        // NULL may be there more than once, in a unique key too.
        let is_valued = |col: &Col| input.columns.get(col).is_none_or(|c| c.null_fraction == 0.0);
        let is_whole =
            |key: &BTreeSet<Col>| key.iter().all(|col| cols.contains(col) && is_valued(col));
        if input.unique.iter().any(is_whole) {
            return input.rows;
        }
        while let Some(group) = known_group(input, &cols) {
            let each = group.columns.iter().filter_map(|col| input.columns.get(col));
            let most = each.map(|column| column.distinct + column.null_fraction.ceil());
            counts.push(group.domain.min(most.product()));
            cols.retain(|col| !group.columns.contains(col));
        }
        let mut by_table: BTreeMap<Option<Col>, Vec<f64>> = BTreeMap::new();
        for col in cols {
            let column = &input.columns[&col];
            let scan = column.source.as_ref().map(|source| source.scan);
            by_table.entry(scan).or_default().push(column.distinct + column.null_fraction.ceil());
        }
        counts.extend(by_table.into_values().map(combinations));
        combinations(counts).min(input.rows)
    }

    /// The first rows.
    pub fn limit(&self, input: Estimate, limit: RowLimit) -> Estimate {
        let rows = input.rows.min(limit.estimate());
        input.with_rows(rows)
    }

    /// All rows of all inputs, each with its columns in the order of the result's.
    pub fn union(&self, columns: &[Col], inputs: &[(Estimate, &[Col])]) -> Estimate {
        let mut result = Estimate::of_rows(inputs.iter().map(|(input, _)| input.rows).sum());
        for (at, col) in columns.iter().enumerate() {
            let mut distinct = 0.0;
            let mut nulls = 0.0;
            let known = inputs.iter().all(|(input, own)| {
                own.get(at).and_then(|own| input.columns.get(own)).is_some_and(|column| {
                    distinct += column.distinct;
                    nulls += column.null_fraction * input.rows;
                    true
                })
            });
            if known {
                let nulls = nulls / result.rows.max(1.0);
                result.columns.insert(*col, ColumnEstimate::computed(distinct, nulls));
            }
        }
        result
    }
}

/// What the statistics say of a table's column.
fn column_estimate(
    table: &TableInfo,
    known: &Arc<TableStatistics>,
    (scan, offset): (Col, Option<usize>),
    rows: f64,
) -> Option<ColumnEstimate> {
    let is_key = match offset {
        None => true,
        Some(offset) => table.indices.iter().any(|index| {
            index.unique
                && index.state.is_public()
                && index.columns.len() == 1
                && index.columns[0].offset == offset
                && index.columns[0].prefix_length.is_none()
        }),
    };
    let column = offset.map(|offset| table.columns[offset].id);
    let source = column.map(|column| ColumnSource { table: known.clone(), column, scan });
    let Some(values) = source.as_ref().and_then(ColumnSource::values) else {
        return is_key.then(|| ColumnEstimate::computed(rows, 0.0));
    };
    let distinct = if is_key { values.valued_rows().max(1.0) } else { values.distinct() };
    let null_fraction = (values.null_rows() / rows).min(1.0);
    Some(ColumnEstimate {
        source: source.clone(),
        ..ColumnEstimate::computed(distinct, null_fraction)
    })
}

/// Unique keys of which all columns are read.
fn unique_keys(scan: &LogicalScan) -> Vec<BTreeSet<Col>> {
    let indexes = scan.table.indices.iter();
    let unique = indexes.filter(|index| index.unique && index.state.is_public());
    let keys = unique.filter_map(|index| {
        index.columns.iter().map(|part| scan.col_of(Some(part.offset))).collect()
    });
    keys.collect()
}

/// Columns that conditions set equal to something that is `known`.
pub(crate) fn equal_columns(conditions: &[Expr], known: &dyn Fn(&Expr) -> bool) -> Vec<Col> {
    let equal = |condition: &Expr| match condition.as_function() {
        Some((Func::Eq, [left, right])) if known(right) => left.as_column(),
        Some((Func::Eq, [left, right])) if known(left) => right.as_column(),
        _ => None,
    };
    conditions.iter().filter_map(equal).collect()
}
