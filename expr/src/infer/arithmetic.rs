//! `+ - * / DIV %` and unary minus: the arithmetic they are done in.
//!
//! Double if a side is a double or text, else decimal if a side is decimal (or
//! the operator is `/`), else 64-bit integers, unsigned if a side is.

use cairn_types::FieldType;

use super::{NumericKind, PRECISION_MAX, SCALE_MAX, Shape, cast, numeric_kind, shape};
use crate::context::{EvalContext, SqlMode};
use crate::expr::Expr;
use crate::func::Func;

/// Digits MySQL keeps words of inside an expression.
const WORD_DIGITS: u32 = 9;

/// A binary arithmetic call with its casts.
pub fn build(func: Func, left: Expr, right: Expr, ctx: &mut EvalContext) -> Expr {
    let (a, b) = (numeric_kind(&left), numeric_kind(&right));
    let mut kind = a.max(b);
    if func == Func::Div {
        kind = kind.max(NumericKind::Decimal);
    }
    if kind == NumericKind::Real && func != Func::IntDiv {
        let args =
            vec![cast(left, FieldType::double(), ctx), cast(right, FieldType::double(), ctx)];
        return Expr::function(func, args, FieldType::double());
    }
    let unsigned = a == NumericKind::UInt || b == NumericKind::UInt;
    if kind < NumericKind::Decimal {
        let signed_minus =
            func == Func::Minus && ctx.sql_mode.has(SqlMode::NO_UNSIGNED_SUBTRACTION);
        let unsigned = match func {
            // The remainder has the sign of the dividend.
            Func::Mod => a == NumericKind::UInt,
            _ => unsigned && !signed_minus,
        };
        let ty = if unsigned { FieldType::bigint_unsigned() } else { FieldType::bigint() };
        return Expr::function(func, vec![to_int(left, ctx), to_int(right, ctx)], ty);
    }
    let (p, q) = (exact_shape(&left), exact_shape(&right));
    let args = vec![to_decimal(left, p, ctx), to_decimal(right, q, ctx)];
    if func == Func::IntDiv {
        let ty = if unsigned { FieldType::bigint_unsigned() } else { FieldType::bigint() };
        return Expr::function(func, args, ty);
    }
    let ty = decimal_result(func, p, q, ctx.div_precision_increment).decimal();
    Expr::function(func, args, ty)
}

fn decimal_result(func: Func, p: Shape, q: Shape, div_increment: u8) -> Shape {
    let increment = u32::from(div_increment);
    match func {
        Func::Mul => Shape { precision: p.precision + q.precision, scale: p.scale + q.scale },
        Func::Div => {
            let scale = (p.scale + increment).min(SCALE_MAX);
            Shape { precision: p.integer_digits() + q.scale + scale, scale }
        }
        Func::Mod => {
            let scale = p.scale.max(q.scale);
            Shape { precision: p.integer_digits().min(q.integer_digits()) + scale, scale }
        }
        _ => {
            let both = p.union(q);
            Shape { precision: both.precision + 1, scale: both.scale }
        }
    }
}

/// `-x`.
pub fn build_minus(arg: Expr, ctx: &mut EvalContext) -> Expr {
    match numeric_kind(&arg) {
        NumericKind::Real => {
            let arg = cast(arg, FieldType::double(), ctx);
            Expr::function(Func::UnaryMinus, vec![arg], FieldType::double())
        }
        NumericKind::Decimal => {
            let shape = exact_shape(&arg);
            let arg = to_decimal(arg, shape, ctx);
            Expr::function(Func::UnaryMinus, vec![arg], shape.decimal())
        }
        // 9223372036854775808 has no negative in UNSIGNED, but one in BIGINT; what
        // is larger still leaves the integers.
        NumericKind::UInt => {
            let value = arg.as_constant().and_then(|value| match value {
                cairn_types::Datum::UInt(value) => Some(*value),
                _ => None,
            });
            if value.is_some_and(|value| value > 1 << 63) {
                let shape = exact_shape(&arg);
                let arg = to_decimal(arg, shape, ctx);
                return Expr::function(Func::UnaryMinus, vec![arg], shape.decimal());
            }
            Expr::function(Func::UnaryMinus, vec![arg], FieldType::bigint())
        }
        NumericKind::Int => {
            let arg = to_int(arg, ctx);
            Expr::function(Func::UnaryMinus, vec![arg], FieldType::bigint())
        }
    }
}

/// Arguments that are integers already keep their signedness.
pub(crate) fn to_int(expr: Expr, ctx: &mut EvalContext) -> Expr {
    match numeric_kind(&expr) {
        NumericKind::UInt => expr,
        _ => cast(expr, FieldType::bigint(), ctx),
    }
}

/// Text in exact arithmetic (DIV) has no shape; its digits decide.
fn exact_shape(expr: &Expr) -> Shape {
    shape(expr)
}

pub(crate) fn to_decimal(expr: Expr, shape: Shape, ctx: &mut EvalContext) -> Expr {
    let expr = widen_quotient(expr);
    if expr.ty().is_decimal() {
        return expr;
    }
    cast(expr, shape.decimal(), ctx)
}

/// A quotient inside an expression is kept to whole words of 9 digits, so that
/// `1/3*3` shows as `1.0000`: its column gets the wider type.
fn widen_quotient(mut expr: Expr) -> Expr {
    let Expr::Function { func: Func::Div, ty, .. } = &mut expr else { return expr };
    if !ty.is_decimal() {
        return expr;
    }
    let scale = u32::from(ty.scale());
    let wide = (scale.div_ceil(WORD_DIGITS) * WORD_DIGITS).min(SCALE_MAX);
    let precision = ty.precision() + (wide - scale);
    if precision <= PRECISION_MAX {
        ty.decimals = Some(wide as u8);
        ty.flen = Some(precision);
    }
    expr
}
