//! What is assumed where nobody counted.
//!
//! A table without statistics has [`PSEUDO_ROWS`] rows, and conditions keep the fractions below,
//! which are TiDB's (its `pseudoEqualRate`, `pseudoLessRate`, `pseudoBetweenRate`,
//! `SelectionFactor`, `distinctFactor`), after Selinger et al. 1979, table 1: plans of new tables
//! then look the same.

use cairn_expr::{Expr, Func};

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
/// Rows that a recursive table gets in one round.
pub const ROUND_ROWS: f64 = 10.0;
/// Rounds of a recursive table.
pub const ROUNDS: f64 = 10.0;
/// Fraction of rows that are distinct in some columns.
pub const DISTINCT_FRACTION: f64 = 0.8;
/// Fraction of outer rows a semi join keeps.
pub const SEMI_FRACTION: f64 = 0.8;
/// Fraction of an analyzed table's texts that hold a given piece of text (`LIKE '%green%'`).
pub const PIECE_FRACTION: f64 = 0.1;

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
