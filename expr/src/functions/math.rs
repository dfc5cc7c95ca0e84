//! Mathematical functions.

use cairn_types::{Datum, errno};

use crate::context::EvalContext;
use crate::error::Result;
use crate::eval::call::Call;
use crate::func::Func;

pub(crate) fn eval(call: &Call<'_>, ctx: &mut EvalContext) -> Result<Datum> {
    match call.func {
        Func::Abs => abs(call, ctx),
        Func::Ceil | Func::Floor => integral(call, ctx),
        Func::Round | Func::Truncate => round(call, ctx),
        Func::Sign => Ok(Datum::Int(match call.real(0, ctx)? {
            x if x > 0.0 => 1,
            x if x < 0.0 => -1,
            _ => 0,
        })),
        Func::Pi => Ok(Datum::Double(std::f64::consts::PI)),
        Func::Rand => rand(call, ctx),
        Func::Ln | Func::Log | Func::Log2 | Func::Log10 => logarithm(call, ctx),
        Func::Pow => {
            let value = call.real(0, ctx)?.powf(call.real(1, ctx)?);
            if value.is_finite() {
                Ok(Datum::Double(value))
            } else {
                Err(call.out_of_range("DOUBLE"))
            }
        }
        Func::Exp => {
            let value = call.real(0, ctx)?.exp();
            if value.is_finite() {
                Ok(Datum::Double(value))
            } else {
                Err(call.out_of_range("DOUBLE"))
            }
        }
        Func::Cot => {
            let value = 1.0 / call.real(0, ctx)?.tan();
            if value.is_finite() {
                Ok(Datum::Double(value))
            } else {
                Err(call.out_of_range("DOUBLE"))
            }
        }
        Func::Atan if call.len() == 2 => atan2(call, ctx),
        Func::Atan2 => atan2(call, ctx),
        func => {
            let x = call.real(0, ctx)?;
            let value = match func {
                Func::Sqrt => x.sqrt(),
                Func::Sin => x.sin(),
                Func::Cos => x.cos(),
                Func::Tan => x.tan(),
                Func::Asin => x.asin(),
                Func::Acos => x.acos(),
                Func::Atan => x.atan(),
                Func::Radians => x.to_radians(),
                _ => x.to_degrees(),
            };
            // Outside its domain a function is NULL.
            Ok(if value.is_finite() { Datum::Double(value) } else { Datum::Null })
        }
    }
}

fn atan2(call: &Call<'_>, ctx: &mut EvalContext) -> Result<Datum> {
    Ok(Datum::Double(call.real(0, ctx)?.atan2(call.real(1, ctx)?)))
}

fn abs(call: &Call<'_>, _ctx: &mut EvalContext) -> Result<Datum> {
    Ok(match call.value(0) {
        Datum::Int(value) => match value.checked_abs() {
            Some(value) => Datum::Int(value),
            None => return Err(call.out_of_range("BIGINT")),
        },
        Datum::Double(value) => Datum::Double(value.abs()),
        Datum::Float(value) => Datum::Double(f64::from(value.abs())),
        Datum::Decimal(value) => Datum::Decimal(value.abs()),
        other => other.clone(),
    })
}

/// CEIL and FLOOR; of a decimal an integer, if the type says so.
fn integral(call: &Call<'_>, _ctx: &mut EvalContext) -> Result<Datum> {
    let up = call.func == Func::Ceil;
    Ok(match call.value(0) {
        Datum::Double(value) => Datum::Double(if up { value.ceil() } else { value.floor() }),
        Datum::Float(value) => {
            let value = f64::from(*value);
            Datum::Double(if up { value.ceil() } else { value.floor() })
        }
        Datum::Decimal(value) => {
            let value = if up { value.ceil()? } else { value.floor()? };
            if call.ty.is_integer() {
                Datum::Int(value.to_i64().map_err(|_| call.out_of_range("BIGINT"))?)
            } else {
                Datum::Decimal(value)
            }
        }
        other => other.clone(),
    })
}

fn round(call: &Call<'_>, ctx: &mut EvalContext) -> Result<Datum> {
    let digits = if call.len() > 1 { call.int(1, ctx)? } else { 0 };
    let digits = digits.clamp(-100, 100) as i32;
    let truncate = call.func == Func::Truncate;
    Ok(match call.value(0) {
        Datum::Double(value) => Datum::Double(round_real(*value, digits, truncate)),
        Datum::Float(value) => Datum::Double(round_real(f64::from(*value), digits, truncate)),
        Datum::Decimal(value) => {
            Datum::Decimal(if truncate { value.truncate(digits)? } else { value.round(digits)? })
        }
        Datum::Int(value) if digits < 0 => {
            let rounded = round_integer(i128::from(*value), digits, truncate);
            Datum::Int(i64::try_from(rounded).map_err(|_| call.out_of_range("BIGINT"))?)
        }
        Datum::UInt(value) if digits < 0 => {
            let rounded = round_integer(i128::from(*value), digits, truncate);
            let value = u64::try_from(rounded);
            Datum::UInt(value.map_err(|_| call.out_of_range("BIGINT UNSIGNED"))?)
        }
        other => other.clone(),
    })
}

fn round_integer(value: i128, digits: i32, truncate: bool) -> i128 {
    let Some(power) = 10i128.checked_pow(digits.unsigned_abs()).filter(|_| digits > -21) else {
        return 0;
    };
    let half = if truncate { 0 } else { power / 2 * value.signum() };
    (value + half) / power * power
}

/// MySQL rounds doubles to even (the C library's `rint`).
fn round_real(value: f64, digits: i32, truncate: bool) -> f64 {
    let power = 10f64.powi(digits.abs());
    let cut = |x: f64| if truncate { x.trunc() } else { x.round_ties_even() };
    if digits >= 0 {
        let scaled = value * power;
        if scaled.is_finite() { cut(scaled) / power } else { value }
    } else if power.is_finite() {
        cut(value / power) * power
    } else {
        0.0
    }
}

/// LN, LOG, LOG2, LOG10: NULL with warning 3020 outside their domain.
fn logarithm(call: &Call<'_>, ctx: &mut EvalContext) -> Result<Datum> {
    let x = call.real(0, ctx)?;
    let (x, base) = match (call.func, call.len()) {
        (Func::Log, 2) => (call.real(1, ctx)?, Some(x)),
        _ => (x, None),
    };
    if x <= 0.0 || base.is_some_and(|base| base <= 0.0 || base == 1.0) {
        ctx.warn_args(errno::ER_INVALID_ARGUMENT_FOR_LOGARITHM, &[]);
        return Ok(Datum::Null);
    }
    Ok(Datum::Double(match (call.func, base) {
        (_, Some(base)) => x.ln() / base.ln(),
        (Func::Log2, None) => x.log2(),
        (Func::Log10, None) => x.log10(),
        _ => x.ln(),
    }))
}

/// Modulus of MySQL's generator.
const RAND_MODULUS: u32 = 0x3FFF_FFFF;

/// RAND(): fresh bits. RAND(n): MySQL's sequence from that seed, per call site.
fn rand(call: &Call<'_>, ctx: &mut EvalContext) -> Result<Datum> {
    if call.len() == 0 {
        // 53 bits make every double below 1 equally likely.
        let bits = ctx.session.random() >> 11;
        return Ok(Datum::Double(bits as f64 / (1u64 << 53) as f64));
    }
    let seed = call.int(0, ctx)? as u32;
    let start = || {
        let first = seed.wrapping_mul(0x10001).wrapping_add(55_555_555) % RAND_MODULUS;
        let second = seed.wrapping_mul(0x1000_0001) % RAND_MODULUS;
        (first, second)
    };
    let constant = call.exprs[0].is_constant();
    let site = std::ptr::from_ref(call.node) as usize;
    let (first, second) = match ctx.rand_states.get(&site) {
        Some(state) if constant => *state,
        _ => start(),
    };
    let modulus = u64::from(RAND_MODULUS);
    let first = ((u64::from(first) * 3 + u64::from(second)) % modulus) as u32;
    let second = ((u64::from(first) + u64::from(second) + 33) % modulus) as u32;
    ctx.rand_states.insert(site, (first, second));
    Ok(Datum::Double(f64::from(first) / f64::from(RAND_MODULUS)))
}
