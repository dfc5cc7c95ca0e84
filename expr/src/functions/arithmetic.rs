//! `+ - * / DIV %`, unary minus, and the bit operators.
//!
//! Integers are computed in 128 bits and must fit the result type, else error
//! 1690 with the expression's text. Division by zero is NULL, with a warning if
//! `sql_mode` says so.

use cairn_types::{Datum, Decimal};

use crate::context::EvalContext;
use crate::error::{ExprError, Result};
use crate::eval::call::Call;
use crate::func::Func;
use crate::infer::{NumericKind, numeric_kind};

pub(crate) fn eval(call: &Call<'_>, ctx: &mut EvalContext) -> Result<Datum> {
    if call.func == Func::UnaryMinus {
        return minus(call, ctx);
    }
    // The type tells the arithmetic; DIV tells by its arguments, for it is done
    // exactly and gives an integer.
    if call.ty.is_real() {
        return real(call, ctx);
    }
    if call.ty.is_decimal() {
        return decimal(call, ctx);
    }
    match (integer(call.value(0)), integer(call.value(1))) {
        (Some(a), Some(b)) => integers(call, a, b, ctx),
        _ => int_div_decimal(call, ctx),
    }
}

fn integer(value: &Datum) -> Option<i128> {
    match value {
        Datum::Int(value) => Some(i128::from(*value)),
        Datum::UInt(value) => Some(i128::from(*value)),
        _ => None,
    }
}

fn integers(call: &Call<'_>, a: i128, b: i128, ctx: &mut EvalContext) -> Result<Datum> {
    let result = match call.func {
        Func::Plus => a + b,
        Func::Minus => a - b,
        Func::Mul => match a.checked_mul(b) {
            Some(product) => product,
            None => return Err(out_of_integer_range(call)),
        },
        Func::IntDiv | Func::Mod if b == 0 => {
            ctx.handle_division_by_zero()?;
            return Ok(Datum::Null);
        }
        Func::IntDiv => a / b,
        _ => a % b,
    };
    fit_integer(call, result)
}

fn fit_integer(call: &Call<'_>, result: i128) -> Result<Datum> {
    let fitting = if call.ty.unsigned {
        u64::try_from(result).map(Datum::UInt)
    } else {
        i64::try_from(result).map(Datum::Int)
    };
    fitting.map_err(|_| out_of_integer_range(call))
}

fn out_of_integer_range(call: &Call<'_>) -> ExprError {
    call.out_of_range(if call.ty.unsigned { "BIGINT UNSIGNED" } else { "BIGINT" })
}

fn int_div_decimal(call: &Call<'_>, ctx: &mut EvalContext) -> Result<Datum> {
    let (a, b) = (call.decimal(0, ctx)?, call.decimal(1, ctx)?);
    let Some(quotient) = a.int_div(&b)? else {
        ctx.handle_division_by_zero()?;
        return Ok(Datum::Null);
    };
    match quotient.to_scaled_i128(0) {
        Some(value) => fit_integer(call, value),
        None => Err(out_of_integer_range(call)),
    }
}

fn real(call: &Call<'_>, ctx: &mut EvalContext) -> Result<Datum> {
    let (a, b) = (call.real(0, ctx)?, call.real(1, ctx)?);
    let result = match call.func {
        Func::Plus => a + b,
        Func::Minus => a - b,
        Func::Mul => a * b,
        _ if b == 0.0 => {
            ctx.handle_division_by_zero()?;
            return Ok(Datum::Null);
        }
        Func::Div => a / b,
        _ => a % b,
    };
    if result.is_finite() { Ok(Datum::Double(result)) } else { Err(call.out_of_range("DOUBLE")) }
}

fn decimal(call: &Call<'_>, ctx: &mut EvalContext) -> Result<Datum> {
    let (a, b) = (call.decimal(0, ctx)?, call.decimal(1, ctx)?);
    let result = match call.func {
        Func::Plus => a.add(&b),
        Func::Minus => a.sub(&b),
        Func::Mul => a.mul(&b),
        Func::Div => match divide(&a, &b, call.ty.scale())? {
            Some(quotient) => Ok(quotient),
            None => {
                ctx.handle_division_by_zero()?;
                return Ok(Datum::Null);
            }
        },
        _ => match a.rem(&b)? {
            Some(rest) => Ok(rest),
            None => {
                ctx.handle_division_by_zero()?;
                return Ok(Datum::Null);
            }
        },
    };
    result.map(Datum::Decimal).map_err(|_| call.out_of_range("DECIMAL"))
}

/// Quotient at the scale of the result type.
pub(crate) fn divide(a: &Decimal, b: &Decimal, scale: u8) -> Result<Option<Decimal>> {
    Ok(a.div(b, scale.saturating_sub(a.scale()))?)
}

fn minus(call: &Call<'_>, ctx: &mut EvalContext) -> Result<Datum> {
    if call.ty.is_real() {
        return Ok(Datum::Double(-call.real(0, ctx)?));
    }
    if call.ty.is_decimal() {
        return Ok(Datum::Decimal(call.decimal(0, ctx)?.neg()));
    }
    match integer(call.value(0)) {
        Some(value) => fit_integer(call, -value),
        None => fit_integer(call, -i128::from(call.int(0, ctx)?)),
    }
}

pub(crate) fn eval_bits(call: &Call<'_>, ctx: &mut EvalContext) -> Result<Datum> {
    let a = call.bits(0, ctx)?;
    if call.func == Func::BitCount {
        return Ok(Datum::Int(i64::from(a.count_ones())));
    }
    if call.func == Func::BitNeg {
        return Ok(Datum::UInt(!a));
    }
    let b = call.bits(1, ctx)?;
    // Shifts by 64 and more leave nothing.
    let shift = u32::try_from(b).unwrap_or(u32::MAX);
    Ok(Datum::UInt(match call.func {
        Func::BitAnd => a & b,
        Func::BitOr => a | b,
        Func::BitXor => a ^ b,
        Func::LeftShift => a.checked_shl(shift).unwrap_or(0),
        _ => a.checked_shr(shift).unwrap_or(0),
    }))
}

/// Whether both sides of an integer operator have the sign of its result, so that
/// the kernel for that sign fits.
pub(crate) fn has_sign(exprs: &[crate::expr::Expr], unsigned: bool) -> bool {
    let wanted = if unsigned { NumericKind::UInt } else { NumericKind::Int };
    exprs.iter().all(|expr| numeric_kind(expr) == wanted)
}
