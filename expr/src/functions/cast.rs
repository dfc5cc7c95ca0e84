//! CAST, explicit and implicit: the target is the call's own type.

use std::borrow::Cow;

use cairn_types::{
    Datum, Decimal, Duration, FieldType, Json, Time, TimeKind, TypeCode, TypeError, errno,
};

use crate::context::{EvalContext, SqlMode};
use crate::error::{ExprError, Result};
use crate::eval::call::Call;
use crate::eval::convert;

pub(crate) fn eval(call: &Call<'_>, ctx: &mut EvalContext) -> Result<Datum> {
    let (value, from) = (call.value(0), call.arg_ty(0));
    let ty = call.ty;
    if ty.is_integer() {
        return if ty.unsigned {
            to_unsigned(value, from, ctx)
        } else {
            to_signed(value, from, ctx)
        };
    }
    match ty.code {
        TypeCode::Float => {
            let value = convert::to_real(value, from, ctx)? as f32;
            if value.is_finite() {
                Ok(Datum::Float(value))
            } else {
                Err(call.out_of_range("FLOAT"))
            }
        }
        TypeCode::Double => Ok(Datum::Double(convert::to_real(value, from, ctx)?)),
        TypeCode::Decimal => to_decimal(value, from, ty, ctx),
        TypeCode::Date | TypeCode::DateTime | TypeCode::Timestamp => to_time(value, from, ty, ctx),
        TypeCode::Time => to_duration(value, from, ty, ctx),
        TypeCode::Year => to_year(value, from, ctx),
        TypeCode::Bit => Ok(Datum::UInt(convert::to_bits(value, from, ctx)?)),
        TypeCode::Json => to_json(call),
        TypeCode::Enum | TypeCode::Set => {
            Err(ExprError::Type(TypeError::Unsupported { from: value.kind_name(), to: "ENUM" }))
        }
        _ => to_text(value, from, ty, ctx),
    }
}

fn out_of_range(type_name: &str, value: impl std::fmt::Display, ctx: &mut EvalContext) {
    ctx.warn_args(errno::ER_TRUNCATED_WRONG_VALUE, &[&type_name, &value]);
}

fn to_signed(value: &Datum, from: &FieldType, ctx: &mut EvalContext) -> Result<Datum> {
    Ok(Datum::Int(match value {
        // The bits stay: CAST(18446744073709551615 AS SIGNED) is -1.
        Datum::UInt(value) => *value as i64,
        Datum::Decimal(decimal) => match decimal.to_i64() {
            Ok(value) => value,
            Err(_) => {
                out_of_range("DECIMAL", decimal, ctx);
                if decimal.is_negative() { i64::MIN } else { i64::MAX }
            }
        },
        Datum::Bytes(bytes) => {
            // Text between the signed and the unsigned maximum keeps its bits.
            let head = bytes.trim_ascii_start();
            if head.len() >= 19 && head.first().is_some_and(u8::is_ascii_digit) {
                convert::to_bits(value, from, ctx)? as i64
            } else {
                convert::to_int(value, from, ctx)?
            }
        }
        other => convert::to_int(other, from, ctx)?,
    }))
}

fn to_unsigned(value: &Datum, from: &FieldType, ctx: &mut EvalContext) -> Result<Datum> {
    Ok(Datum::UInt(match value {
        Datum::Int(value) => *value as u64,
        Datum::UInt(value) => *value,
        Datum::Decimal(decimal) => match decimal.to_u64() {
            Ok(value) => value,
            Err(_) => {
                out_of_range("DECIMAL", decimal, ctx);
                if decimal.is_negative() { 0 } else { u64::MAX }
            }
        },
        Datum::Double(real) if *real < 0.0 => (real.round_ties_even() as i64) as u64,
        Datum::Double(real) => real.round_ties_even() as u64,
        other => convert::to_bits(other, from, ctx)?,
    }))
}

fn to_decimal(
    value: &Datum,
    from: &FieldType,
    ty: &FieldType,
    ctx: &mut EvalContext,
) -> Result<Datum> {
    let decimal = convert::to_decimal(value, from, ctx)?;
    let (precision, scale) = (ty.precision(), ty.scale());
    let rounded = decimal.rescale(scale);
    if let Ok(rounded) = rounded
        && rounded.fits(precision, scale)
    {
        return Ok(Datum::Decimal(rounded));
    }
    let most = Decimal::max_value(precision, scale);
    let clamped = if decimal.is_negative() { most.neg() } else { most };
    ctx.warn_args(errno::ER_WARN_DATA_OUT_OF_RANGE, &[&"", &1]);
    Ok(Datum::Decimal(clamped))
}

fn to_time(
    value: &Datum,
    from: &FieldType,
    ty: &FieldType,
    ctx: &mut EvalContext,
) -> Result<Datum> {
    let Some(time) = convert::to_time(value, from, ctx)? else { return Ok(Datum::Null) };
    if matches!(value, Datum::Bytes(_)) && is_refused_zero(time, ctx) {
        out_of_range("datetime", time, ctx);
        return Ok(Datum::Null);
    }
    let kind = TimeKind::of(ty).unwrap_or(TimeKind::DateTime);
    if kind == TimeKind::Date {
        return Ok(Datum::Time(time.date_part()));
    }
    Ok(Datum::Time(time.with_kind(kind).round_fsp(ty.fsp())?))
}

fn is_refused_zero(time: Time, ctx: &EvalContext) -> bool {
    (time.is_zero() && ctx.sql_mode.has(SqlMode::NO_ZERO_DATE))
        || (time.has_zero_date() && !time.is_zero() && ctx.sql_mode.has(SqlMode::NO_ZERO_IN_DATE))
}

fn to_duration(
    value: &Datum,
    from: &FieldType,
    ty: &FieldType,
    ctx: &mut EvalContext,
) -> Result<Datum> {
    let span: Option<Duration> = convert::to_duration(value, from, ctx)?;
    Ok(span.map(|span| span.round_fsp(ty.fsp())).into())
}

fn to_year(value: &Datum, from: &FieldType, ctx: &mut EvalContext) -> Result<Datum> {
    let year = match value {
        Datum::Time(time) => return Ok(Datum::UInt(u64::from(time.year()))),
        other => convert::to_int(other, from, ctx)?,
    };
    let full = match year {
        1..=69 => 2000 + year,
        70..=99 => 1900 + year,
        0 if matches!(value, Datum::Bytes(_)) => 2000,
        other => other,
    };
    if full == 0 || (1901..=2155).contains(&full) {
        return Ok(Datum::UInt(full as u64));
    }
    out_of_range("YEAR", year, ctx);
    Ok(Datum::Null)
}

fn to_text(
    value: &Datum,
    from: &FieldType,
    ty: &FieldType,
    ctx: &mut EvalContext,
) -> Result<Datum> {
    let text = convert::to_bytes(value, from);
    let binary = ty.collation.is_binary();
    if !binary && from.is_binary_string() && std::str::from_utf8(&text).is_err() {
        let value = cairn_types::text::escape_bytes(&text);
        ctx.warn_args(errno::ER_INVALID_CHARACTER_STRING, &[&ty.collation.charset(), &value]);
        return Ok(Datum::Null);
    }
    let Some(flen) = ty.flen.map(|flen| flen as usize) else {
        return Ok(Datum::Bytes(text.into_owned()));
    };
    let end = if binary { flen.min(text.len()) } else { char_end(&text, flen) };
    if end < text.len() {
        let type_name = if binary { "BINARY" } else { "CHAR" };
        let quoted = String::from_utf8_lossy(&text).into_owned();
        ctx.warn_args(
            errno::ER_TRUNCATED_WRONG_VALUE,
            &[&format_args!("{type_name}({flen})"), &quoted],
        );
    }
    let mut out = match text {
        Cow::Borrowed(text) => text[..end].to_vec(),
        Cow::Owned(mut text) => {
            text.truncate(end);
            text
        }
    };
    if ty.code == TypeCode::Binary && flen <= ctx.max_allowed_packet as usize {
        out.resize(flen, 0);
    }
    Ok(Datum::Bytes(out))
}

/// Byte offset after `chars` characters, or the end.
pub(crate) fn char_end(text: &[u8], chars: usize) -> usize {
    if text.len() <= chars {
        return text.len();
    }
    // Continuation bytes start no character.
    let mut starts = text.iter().enumerate().filter(|(_, byte)| **byte & 0xC0 != 0x80);
    starts.nth(chars).map_or(text.len(), |(at, _)| at)
}

fn to_json(call: &Call<'_>) -> Result<Datum> {
    let value = call.value(0);
    let from = call.arg_ty(0);
    if let Datum::Bytes(bytes) = value
        && !from.is_binary_string()
    {
        return match Json::parse_text(bytes) {
            Ok(json) => Ok(Datum::Json(json)),
            Err(TypeError::InvalidJson { reason, position }) => Err(ExprError::mysql(
                errno::ER_INVALID_JSON_TEXT_IN_PARAM,
                &[&1, &"cast_as_json", &reason, &position],
            )),
            Err(other) => Err(other.into()),
        };
    }
    Ok(Datum::Json(call.json_value(0)?))
}
