//! Conversions to integers, floats, decimals and BIT.

use super::{CastContext, text_of};
use crate::datum::Datum;
use crate::decimal::{Decimal, PrefixStatus, number_prefix};
use crate::error::{Result, TypeError};
use crate::field_type::{FieldType, TypeCode};
use crate::json::{JsonKind, JsonRef};

/// Integer head of a text as CAST reads it: digits only, no point or exponent.
/// Saturates at the range of `i128`.
pub fn str_to_i128(text: &[u8]) -> (i128, PrefixStatus) {
    let trimmed = text.trim_ascii();
    let (negative, digits) = match trimmed.first() {
        Some(b'-') => (true, &trimmed[1..]),
        Some(b'+') => (false, &trimmed[1..]),
        _ => (false, trimmed),
    };
    let len = digits.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if len == 0 {
        return (0, PrefixStatus::None);
    }
    let value = digits[..len].iter().fold(0i128, |value, byte| {
        value.saturating_mul(10).saturating_add(i128::from(byte - b'0'))
    });
    let status = if len == digits.len() { PrefixStatus::Whole } else { PrefixStatus::Trailing };
    (if negative { -value } else { value }, status)
}

/// Numeric head of a text as a double; too large a number gives infinity.
pub fn str_to_f64(text: &[u8]) -> (f64, PrefixStatus) {
    let prefix = number_prefix(text);
    let number = std::str::from_utf8(prefix.number).ok();
    (number.and_then(|number| number.parse().ok()).unwrap_or(0.0), prefix.status)
}

/// Reports a text that is not wholly a number.
fn report(
    status: PrefixStatus,
    type_names: (&'static str, &'static str),
    text: &[u8],
    ctx: &mut CastContext,
) -> Result<()> {
    let value = || String::from_utf8_lossy(text).into_owned();
    let (cast_name, column_name) = type_names;
    match status {
        PrefixStatus::Whole => Ok(()),
        _ if !ctx.is_assign() => {
            ctx.loss(TypeError::Truncated { type_name: cast_name, value: value() })
        }
        PrefixStatus::Trailing => ctx.loss(TypeError::DataTruncated),
        PrefixStatus::None => {
            ctx.loss(TypeError::IncorrectValue { type_name: column_name, value: value() })
        }
    }
}

/// A value as an integer, wide enough for every source.
pub(super) fn to_integer(value: &Datum, from: &FieldType, ctx: &mut CastContext) -> Result<i128> {
    Ok(match value {
        Datum::Null => 0,
        Datum::Int(value) => i128::from(*value),
        Datum::UInt(value) => i128::from(*value),
        // Doubles round half to even (rint), decimals half away from zero.
        Datum::Float(value) => f64::from(*value).round_ties_even() as i128,
        Datum::Double(value) => value.round_ties_even() as i128,
        Datum::Decimal(value) => saturating_integer(value),
        Datum::Bytes(text) if from.code == TypeCode::Bit => bits(text).unwrap_or(u64::MAX).into(),
        Datum::Bytes(text) => text_to_integer(text, ctx)?,
        Datum::Time(value) => saturating_integer(&value.to_decimal()),
        Datum::Duration(value) => saturating_integer(&value.to_decimal()),
        Datum::Json(json) => json_to_integer(json.as_ref(), ctx)?,
    })
}

fn saturating_integer(value: &Decimal) -> i128 {
    let bound = if value.is_negative() { i128::MIN } else { i128::MAX };
    value.to_scaled_i128(0).unwrap_or(bound)
}

fn text_to_integer(text: &[u8], ctx: &mut CastContext) -> Result<i128> {
    let names = ("INTEGER", "integer");
    if !ctx.is_assign() {
        let (value, status) = str_to_i128(text);
        report(status, names, text, ctx)?;
        return Ok(value);
    }
    // A column takes '1.5' and '1e2' for the numbers they are.
    let parsed = Decimal::parse_prefix(text);
    report(parsed.status, names, text, ctx)?;
    Ok(saturating_integer(&parsed.value))
}

fn json_to_integer(json: JsonRef<'_>, ctx: &mut CastContext) -> Result<i128> {
    Ok(match json.kind() {
        JsonKind::Bool => i128::from(json.as_bool() == Some(true)),
        JsonKind::Int => i128::from(json.as_i64().unwrap_or(0)),
        JsonKind::UInt => i128::from(json.as_u64().unwrap_or(0)),
        JsonKind::Double => json.as_f64().unwrap_or(0.0).round_ties_even() as i128,
        JsonKind::Decimal => saturating_integer(&json.as_decimal().unwrap_or_default()),
        JsonKind::String => text_to_integer(json.as_str().unwrap_or("").as_bytes(), ctx)?,
        _ => {
            let value = json.to_string();
            ctx.loss(TypeError::Truncated { type_name: "INTEGER", value })?;
            0
        }
    })
}

pub(super) fn to_signed(
    value: &Datum,
    from: &FieldType,
    to: &FieldType,
    ctx: &mut CastContext,
) -> Result<Datum> {
    if !ctx.is_assign()
        && let Datum::UInt(value) = value
        && to.code == TypeCode::BigInt
    {
        return Ok(Datum::Int(*value as i64));
    }
    let integer = to_integer(value, from, ctx)?;
    let (min, max) = to.signed_range();
    let clamped = integer.clamp(i128::from(min), i128::from(max));
    if clamped != integer {
        out_of_range(value, from, "INTEGER", ctx)?;
    }
    Ok(Datum::Int(clamped as i64))
}

pub(super) fn to_unsigned(
    value: &Datum,
    from: &FieldType,
    to: &FieldType,
    ctx: &mut CastContext,
) -> Result<Datum> {
    let integer = to_integer(value, from, ctx)?;
    // CAST(-1 AS UNSIGNED) is 2^64 - 1; a negative decimal is 0 all the same.
    let wraps = !ctx.is_assign() && !matches!(value, Datum::Decimal(_));
    if wraps
        && integer < 0
        && to.code == TypeCode::BigInt
        && let Ok(negative) = i64::try_from(integer)
    {
        return Ok(Datum::UInt(negative as u64));
    }
    let clamped = integer.clamp(0, i128::from(to.unsigned_max()));
    if clamped != integer {
        out_of_range(value, from, "INTEGER", ctx)?;
    }
    Ok(Datum::UInt(clamped as u64))
}

/// Reports a number beyond the range of its type.
fn out_of_range(
    value: &Datum,
    from: &FieldType,
    type_name: &'static str,
    ctx: &mut CastContext,
) -> Result<()> {
    if ctx.is_assign() {
        return ctx.loss(TypeError::OutOfRange);
    }
    let value = String::from_utf8_lossy(&text_of(value, from)).into_owned();
    ctx.loss(TypeError::Truncated { type_name, value })
}

fn to_f64(value: &Datum, ctx: &mut CastContext) -> Result<f64> {
    Ok(match value {
        Datum::Null => 0.0,
        Datum::Int(value) => *value as f64,
        Datum::UInt(value) => *value as f64,
        Datum::Float(value) => f64::from(*value),
        Datum::Double(value) => *value,
        Datum::Decimal(value) => value.to_f64(),
        Datum::Bytes(text) => text_to_f64(text, ctx)?,
        Datum::Time(value) => value.to_f64(),
        Datum::Duration(value) => value.to_decimal().to_f64(),
        Datum::Json(json) => match (json.as_ref().as_f64(), json.as_ref().kind()) {
            (Some(value), _) => value,
            (None, JsonKind::Bool) => f64::from(json.as_ref().as_bool() == Some(true)),
            (None, JsonKind::String) => {
                text_to_f64(json.as_ref().as_str().unwrap_or("").as_bytes(), ctx)?
            }
            _ => {
                ctx.loss(TypeError::Truncated { type_name: "DOUBLE", value: json.to_string() })?;
                0.0
            }
        },
    })
}

fn text_to_f64(text: &[u8], ctx: &mut CastContext) -> Result<f64> {
    let (value, status) = str_to_f64(text);
    report(status, ("DOUBLE", "double"), text, ctx)?;
    Ok(value)
}

pub(super) fn to_real(
    value: &Datum,
    from: &FieldType,
    to: &FieldType,
    ctx: &mut CastContext,
) -> Result<Datum> {
    // The bytes of a BIT and the number of an ENUM are integers already.
    let double = to_f64(value, ctx)?;
    let is_float = to.code == TypeCode::Float;
    let mut most = if is_float { f64::from(f32::MAX) } else { f64::MAX };
    let mut rounded = double;
    if let (Some(precision), Some(scale)) = (to.flen, to.decimals)
        && scale < 31
    {
        let unit = 10f64.powi(i32::from(scale));
        most = most.min(10f64.powi(precision as i32 - i32::from(scale)) - 1.0 / unit);
        let scaled = double * unit;
        if scaled.is_finite() {
            rounded = scaled.round() / unit;
        }
    }
    let least = if to.unsigned { 0.0 } else { -most };
    let clamped = rounded.clamp(least, most);
    if clamped != rounded {
        out_of_range(value, from, "DOUBLE", ctx)?;
    }
    Ok(if is_float { Datum::Float(clamped as f32) } else { Datum::Double(clamped) })
}

/// A value as a decimal.
pub(super) fn to_decimal(
    value: &Datum,
    from: &FieldType,
    ctx: &mut CastContext,
) -> Result<Decimal> {
    Ok(match value {
        Datum::Null => Decimal::ZERO,
        Datum::Int(value) => Decimal::from(*value),
        Datum::UInt(value) => Decimal::from(*value),
        Datum::Float(value) => double_to_decimal(f64::from(*value), value.to_string(), ctx)?,
        Datum::Double(number) => double_to_decimal(*number, format!("{number:e}"), ctx)?,
        Datum::Decimal(value) => value.clone(),
        Datum::Bytes(text) => text_to_decimal(text, ctx)?,
        Datum::Time(value) => value.to_decimal(),
        Datum::Duration(value) => value.to_decimal(),
        Datum::Json(json) => {
            let json = json.as_ref();
            match json.kind() {
                JsonKind::Bool => Decimal::from(i64::from(json.as_bool() == Some(true))),
                JsonKind::Int => Decimal::from(json.as_i64().unwrap_or(0)),
                JsonKind::UInt => Decimal::from(json.as_u64().unwrap_or(0)),
                JsonKind::Decimal => json.as_decimal().unwrap_or_default(),
                JsonKind::Double => {
                    let number = json.as_f64().unwrap_or(0.0);
                    double_to_decimal(number, format!("{number:e}"), ctx)?
                }
                JsonKind::String => text_to_decimal(json.as_str().unwrap_or("").as_bytes(), ctx)?,
                _ => {
                    let value = String::from_utf8_lossy(&text_of(value, from)).into_owned();
                    ctx.loss(TypeError::Truncated { type_name: "DECIMAL", value })?;
                    Decimal::ZERO
                }
            }
        }
    })
}

/// `text` is the shortest text of the number in its own precision.
fn double_to_decimal(number: f64, text: String, ctx: &mut CastContext) -> Result<Decimal> {
    let parsed = Decimal::parse_prefix(text.as_bytes());
    if parsed.overflow || !number.is_finite() {
        ctx.loss(TypeError::OutOfRange)?;
    }
    Ok(parsed.value)
}

fn text_to_decimal(text: &[u8], ctx: &mut CastContext) -> Result<Decimal> {
    let parsed = Decimal::parse_prefix(text);
    report(parsed.status, ("DECIMAL", "decimal"), text, ctx)?;
    if parsed.overflow {
        ctx.loss(TypeError::OutOfRange)?;
    }
    Ok(parsed.value)
}

pub(super) fn to_decimal_type(
    value: &Datum,
    from: &FieldType,
    to: &FieldType,
    ctx: &mut CastContext,
) -> Result<Datum> {
    let decimal = to_decimal(value, from, ctx)?;
    let (precision, scale) = (to.precision(), to.scale());
    let rounded = decimal.rescale(scale);
    let clamped = match rounded {
        Ok(rounded) if rounded.fits(precision, scale) => {
            if !(to.unsigned && rounded.is_negative()) {
                return Ok(Datum::Decimal(rounded));
            }
            Decimal::ZERO.rescale(scale)?
        }
        _ => {
            let max = Decimal::max_value(precision, scale);
            match (decimal.is_negative(), to.unsigned) {
                (false, _) => max,
                (true, false) => max.neg(),
                (true, true) => Decimal::ZERO.rescale(scale)?,
            }
        }
    };
    out_of_range(value, from, "DECIMAL", ctx)?;
    Ok(Datum::Decimal(clamped))
}

/// Big-endian bytes as a number; `None` if there are more than eight that count.
fn bits(bytes: &[u8]) -> Option<u64> {
    let first = bytes.iter().position(|byte| *byte != 0).unwrap_or(bytes.len());
    let bytes = &bytes[first..];
    if bytes.len() > 8 {
        return None;
    }
    Some(bytes.iter().fold(0, |value, byte| (value << 8) | u64::from(*byte)))
}

pub(super) fn to_bit(
    value: &Datum,
    from: &FieldType,
    to: &FieldType,
    ctx: &mut CastContext,
) -> Result<Datum> {
    let integer = match value {
        // Texts and hexadecimal literals are the bits themselves.
        Datum::Bytes(bytes) => bits(bytes).map_or(i128::MAX, i128::from),
        Datum::Int(value) => i128::from(*value as u64),
        _ => to_integer(value, from, ctx)?,
    };
    let clamped = integer.clamp(0, i128::from(to.unsigned_max()));
    if clamped != integer {
        ctx.loss(TypeError::DataTooLong)?;
    }
    Ok(Datum::UInt(clamped as u64))
}
