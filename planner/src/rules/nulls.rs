//! What conditions do with NULL.

use std::collections::BTreeSet;

use cairn_expr::{Expr, Func};

use crate::logical::Col;

/// Whether a condition cannot be true for a row in which all `columns` are NULL.
pub(super) fn rejects_nulls(condition: &Expr, columns: &BTreeSet<Col>) -> bool {
    match condition.as_function() {
        Some((Func::And, args)) => args.iter().any(|arg| rejects_nulls(arg, columns)),
        Some((Func::Or, args)) => args.iter().all(|arg| rejects_nulls(arg, columns)),
        Some((Func::IsTrue | Func::IsFalse, [arg])) => is_null(arg, columns),
        Some((Func::Not, [arg])) => match arg.as_function() {
            Some((Func::IsNull, [arg])) => is_null(arg, columns),
            _ => is_null(arg, columns),
        },
        _ => is_null(condition, columns),
    }
}

/// Whether an expression is NULL if all `columns` are.
fn is_null(expr: &Expr, columns: &BTreeSet<Col>) -> bool {
    match expr {
        Expr::Column { index, .. } => columns.contains(index),
        Expr::Function { func, args, .. } => match func {
            Func::Eq
            | Func::Ne
            | Func::Lt
            | Func::Le
            | Func::Gt
            | Func::Ge
            | Func::Like
            | Func::Regexp
            | Func::Plus
            | Func::Minus
            | Func::Mul
            | Func::Div
            | Func::IntDiv
            | Func::Mod
            | Func::UnaryMinus
            | Func::Not
            | Func::Xor
            | Func::Cast
            | Func::Collate
            | Func::Concat
            | Func::Length
            | Func::Upper
            | Func::Lower
            | Func::Abs
            | Func::Date
            | Func::Year
            | Func::Month => args.iter().any(|arg| is_null(arg, columns)),
            Func::In => args.first().is_some_and(|arg| is_null(arg, columns)),
            Func::And | Func::Or => args.iter().all(|arg| is_null(arg, columns)),
            _ => false,
        },
        _ => false,
    }
}
