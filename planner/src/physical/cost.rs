//! What work costs, and how many rows there are when nobody counted.
//!
//! Costs are in units of reading one row of a table in key order within a store.
//!
//! | access path | cost |
//! |---|---|
//! | table | rows × `scan_row` + rows × filters × `filter_row` + result × `send_row` |
//! | index that holds all | rows × `scan_entry` + … |
//! | index, then rows | rows × `scan_entry` + rows after index filters × `lookup_row` + … |
//!
//! | join | cost besides that of its inputs |
//! |---|---|
//! | by hash | (left rows + right rows) × `hash_row` |
//! | by index | outer rows × (`lookup_key` + access path of one key) + (outer + inner rows) × `hash_row` |
//!
//! Without statistics a table has [`PSEUDO_ROWS`] rows, and conditions keep the
//! fractions below, which are TiDB's: plans of new tables then look the same.

use cairn_expr::{Expr, Func};

use crate::catalog::TableInfo;
use crate::context::Statistics;

/// Rows of a table without statistics.
pub const PSEUDO_ROWS: f64 = 10_000.0;
/// Fraction of rows an equality keeps.
pub const EQUAL_FRACTION: f64 = 1.0 / 1000.0;
/// Fraction of rows a comparison with one bound keeps.
pub const LESS_FRACTION: f64 = 1.0 / 3.0;
/// Fraction of rows two bounds keep.
pub const BETWEEN_FRACTION: f64 = 1.0 / 40.0;
/// Fraction of rows any other condition keeps.
pub const OTHER_FRACTION: f64 = 0.8;
/// Fraction of rows that are distinct in some columns.
pub const DISTINCT_FRACTION: f64 = 0.8;
/// Fraction of outer rows a semi join keeps.
pub const SEMI_FRACTION: f64 = 0.8;

/// What work costs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CostParams {
    /// Reading a row in key order.
    pub scan_row: f64,
    /// Reading an index entry in key order: narrower than a row.
    pub scan_entry: f64,
    /// Reading a row by its handle: a seek, mostly in the block cache.
    pub lookup_row: f64,
    /// Testing one condition on a row.
    pub filter_row: f64,
    /// Sending a row to the SQL node.
    pub send_row: f64,
    /// Starting a scan of one more range.
    pub seek_range: f64,
    /// Putting a row into a hash table, or looking for its matches there.
    pub hash_row: f64,
    /// One more key of an index join besides the scan of its range: making the range, sending it,
    /// and a place in the data that no other key has warmed. With `seek_range` and one row it
    /// comes to about what stores measure (a row by its key costs as much as ten of a scan).
    pub lookup_key: f64,
    /// Sorting one row, per doubling of the number of rows.
    pub sort_row: f64,
}

impl CostParams {
    /// The parameters of all plans.
    pub const DEFAULT: CostParams = CostParams {
        scan_row: 1.0,
        scan_entry: 0.4,
        lookup_row: 2.0,
        filter_row: 0.1,
        send_row: 0.5,
        seek_range: 3.0,
        hash_row: 0.3,
        lookup_key: 4.0,
        sort_row: 0.3,
    };

    /// Cost of sorting rows.
    pub fn sort(&self, rows: f64) -> f64 {
        self.sort_row * rows * rows.max(2.0).log2()
    }
}

/// Rows of a table, and whether they were counted.
pub fn table_rows(statistics: &dyn Statistics, table: &TableInfo) -> (f64, bool) {
    match statistics.table_statistics(table) {
        Some(stats) => (stats.row_count.max(1.0), true),
        None => (PSEUDO_ROWS, false),
    }
}

/// Fraction of rows for which a condition is true.
pub fn selectivity(condition: &Expr) -> f64 {
    match condition {
        Expr::Constant { value, .. } => match value {
            cairn_types::Datum::Int(value) if *value != 0 => 1.0,
            _ => 0.0,
        },
        Expr::Function { func, args, .. } => match func {
            Func::And => selectivity(&args[0]) * selectivity(&args[1]),
            Func::Or => {
                let (a, b) = (selectivity(&args[0]), selectivity(&args[1]));
                a + b - a * b
            }
            Func::Eq | Func::NullEq => match args.iter().filter(|arg| arg.has_columns()).count() {
                1 => EQUAL_FRACTION,
                _ => OTHER_FRACTION,
            },
            Func::In => (EQUAL_FRACTION * (args.len() - 1) as f64).min(OTHER_FRACTION),
            Func::IsNull => EQUAL_FRACTION,
            Func::Gt | Func::Ge | Func::Lt | Func::Le => LESS_FRACTION,
            Func::Not => match args[0].as_function() {
                Some((Func::IsNull, _)) => 1.0 - EQUAL_FRACTION,
                _ => OTHER_FRACTION,
            },
            _ => OTHER_FRACTION,
        },
        _ => OTHER_FRACTION,
    }
}

/// Fraction of rows for which all conditions are true. Two comparisons of one column
/// are taken for a range.
pub fn selectivity_of_all(conditions: &[Expr]) -> f64 {
    let mut bounded: Vec<(usize, usize)> = Vec::new();
    let mut fraction = 1.0;
    for condition in conditions {
        let side = match condition.as_function() {
            Some((Func::Gt | Func::Ge, [left, right])) if right.is_constant() => {
                left.as_column().map(|col| (col, 0))
            }
            Some((Func::Lt | Func::Le, [left, right])) if right.is_constant() => {
                left.as_column().map(|col| (col, 1))
            }
            _ => None,
        };
        match side {
            Some((col, side)) if bounded.contains(&(col, 1 - side)) => {
                fraction *= BETWEEN_FRACTION / LESS_FRACTION;
            }
            _ => fraction *= selectivity(condition),
        }
        bounded.extend(side);
    }
    fraction
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looking_up_a_third_of_the_rows_beats_reading_all() {
        let cost = CostParams::DEFAULT;
        let rows = PSEUDO_ROWS;
        let table = rows * (cost.scan_row + 2.0 * cost.filter_row);
        let kept = rows * LESS_FRACTION;
        let index = kept * (cost.scan_entry + cost.lookup_row + cost.filter_row);
        assert!(index < table, "{index} {table}");
    }
}
