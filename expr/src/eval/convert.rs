//! Single values converted implicitly: what a function does with an argument of
//! another type than it works on.
//!
//! Text is read as far as it is a number; a rest is a warning 1292 (`Truncated
//! incorrect DOUBLE value`). NULL is the caller's business.

use std::borrow::Cow;

use cairn_types::decimal::{PrefixStatus, number_prefix};
use cairn_types::json::{JsonKind, JsonValue};
use cairn_types::time::DateMode;
use cairn_types::{
    Datum, Decimal, Duration, FieldType, Json, PhysicalKind, Time, TimeKind, TypeCode, TypeError,
    errno, write_text,
};

use crate::context::{EvalContext, SqlMode};
use crate::error::{ExprError, Result};
use crate::expr::Expr;

/// Longest part of a value quoted in a warning.
const QUOTED_BYTES_MAX: usize = 128;

fn quoted(bytes: &[u8]) -> String {
    let cut = &bytes[..bytes.len().min(QUOTED_BYTES_MAX)];
    String::from_utf8_lossy(cut).into_owned()
}

fn truncated(type_name: &'static str, bytes: &[u8]) -> TypeError {
    TypeError::Truncated { type_name, value: quoted(bytes) }
}

/// The value as text (or bytes), as its type prints it.
pub fn to_bytes<'a>(value: &'a Datum, ty: &FieldType) -> Cow<'a, [u8]> {
    match value {
        Datum::Bytes(bytes) => Cow::Borrowed(bytes),
        other => {
            let mut out = Vec::new();
            write_text(&mut out, other.as_ref(), ty);
            Cow::Owned(out)
        }
    }
}

/// Truth of a value; `None` of NULL.
pub fn truth(value: &Datum, ty: &FieldType, ctx: &mut EvalContext) -> Result<Option<bool>> {
    Ok(Some(match value {
        Datum::Null => return Ok(None),
        Datum::Int(value) => *value != 0,
        Datum::UInt(value) => *value != 0,
        Datum::Float(value) => *value != 0.0,
        Datum::Double(value) => *value != 0.0,
        Datum::Decimal(value) => !value.is_zero(),
        Datum::Time(value) => !value.is_zero(),
        Datum::Duration(value) => value.micros() != 0,
        Datum::Json(_) | Datum::Bytes(_) => to_real(value, ty, ctx)? != 0.0,
    }))
}

/// The value as a double; NULL as 0.
pub fn to_real(value: &Datum, ty: &FieldType, ctx: &mut EvalContext) -> Result<f64> {
    Ok(match value {
        Datum::Null => 0.0,
        Datum::Int(value) => *value as f64,
        Datum::UInt(value) => *value as f64,
        Datum::Float(value) => f64::from(*value),
        Datum::Double(value) => *value,
        Datum::Decimal(value) => value.to_f64(),
        Datum::Time(value) => value.to_f64(),
        Datum::Duration(value) => value.to_decimal().to_f64(),
        Datum::Bytes(bytes) => {
            if ty.code == TypeCode::Bit {
                return Ok(to_bits(value, ty, ctx)? as f64);
            }
            text_to_real(bytes, ctx)?
        }
        Datum::Json(json) => json_number(json, ctx)?,
    })
}

fn text_to_real(bytes: &[u8], ctx: &mut EvalContext) -> Result<f64> {
    let prefix = number_prefix(bytes);
    if prefix.status != PrefixStatus::Whole {
        ctx.handle_truncation(truncated("DOUBLE", bytes))?;
    }
    let text = std::str::from_utf8(prefix.number).unwrap_or("");
    let value: f64 = text.parse().unwrap_or(0.0);
    if value.is_finite() {
        return Ok(value);
    }
    ctx.handle_truncation(truncated("DOUBLE", bytes))?;
    Ok(f64::MAX.copysign(value))
}

fn json_number(json: &Json, ctx: &mut EvalContext) -> Result<f64> {
    match json_scalar(json) {
        Datum::Json(other) => {
            let text = other.to_string();
            ctx.handle_truncation(truncated("DOUBLE", text.as_bytes()))?;
            Ok(0.0)
        }
        scalar => to_real(&scalar, &FieldType::string(), ctx),
    }
}

/// The value as an exact decimal; NULL as 0.
pub fn to_decimal(value: &Datum, ty: &FieldType, ctx: &mut EvalContext) -> Result<Decimal> {
    Ok(match value {
        Datum::Null => Decimal::ZERO,
        Datum::Int(value) => Decimal::from(*value),
        Datum::UInt(value) => Decimal::from(*value),
        Datum::Float(value) => Decimal::from_f64(f64::from(*value))?,
        Datum::Double(value) => Decimal::from_f64(*value)?,
        Datum::Decimal(value) => value.clone(),
        Datum::Time(value) => value.to_decimal(),
        Datum::Duration(value) => value.to_decimal(),
        Datum::Bytes(bytes) => {
            let parsed = Decimal::parse_prefix(bytes);
            if parsed.overflow || parsed.status != PrefixStatus::Whole {
                ctx.handle_truncation(truncated("DECIMAL", bytes))?;
            }
            parsed.value
        }
        Datum::Json(_) => Decimal::from_f64(to_real(value, ty, ctx)?)?,
    })
}

/// The value as a signed integer, rounded; NULL as 0, too large values clamped.
pub fn to_int(value: &Datum, ty: &FieldType, ctx: &mut EvalContext) -> Result<i64> {
    Ok(match value {
        Datum::Null => 0,
        Datum::Int(value) => *value,
        Datum::UInt(value) => i64::try_from(*value).unwrap_or(i64::MAX),
        // Casts saturate.
        Datum::Float(value) => f64::from(*value).round_ties_even() as i64,
        Datum::Double(value) => value.round_ties_even() as i64,
        Datum::Decimal(value) => clamp_decimal(value),
        Datum::Time(value) => clamp_decimal(&value.to_decimal()),
        Datum::Duration(value) => clamp_decimal(&value.to_decimal()),
        Datum::Bytes(bytes) => text_to_int(bytes, ctx)?,
        Datum::Json(_) => to_real(value, ty, ctx)?.round_ties_even() as i64,
    })
}

fn clamp_decimal(value: &Decimal) -> i64 {
    value.to_i64().unwrap_or(if value.is_negative() { i64::MIN } else { i64::MAX })
}

/// Text as an integer: its integral head; `'3.7'` is 3 with a warning.
fn text_to_int(bytes: &[u8], ctx: &mut EvalContext) -> Result<i64> {
    let start = bytes.iter().position(|b| !b.is_ascii_whitespace()).unwrap_or(bytes.len());
    let body = &bytes[start..];
    let sign = usize::from(matches!(body.first(), Some(b'+' | b'-')));
    let digits = body[sign..].iter().take_while(|b| b.is_ascii_digit()).count();
    let rest_is_blank = body[sign + digits..].iter().all(u8::is_ascii_whitespace);
    if digits == 0 || !rest_is_blank {
        ctx.handle_truncation(truncated("INTEGER", bytes))?;
    }
    let text = std::str::from_utf8(&body[..sign + digits]).unwrap_or("");
    match text.parse::<i128>() {
        Ok(value) => Ok(value.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64),
        Err(_) if digits > 0 => Ok(if body[0] == b'-' { i64::MIN } else { i64::MAX }),
        Err(_) => Ok(0),
    }
}

/// The 64 bits of a value as `&`, `|`, `~`, `<<` see them: numbers are rounded,
/// negative ones keep their two's complement.
pub fn to_bits(value: &Datum, ty: &FieldType, ctx: &mut EvalContext) -> Result<u64> {
    Ok(match value {
        Datum::Int(value) => *value as u64,
        Datum::UInt(value) => *value,
        Datum::Double(value) if *value >= i64::MAX as f64 => value.round_ties_even() as u64,
        Datum::Decimal(value) => value.to_u64().unwrap_or_else(|_| clamp_decimal(value) as u64),
        Datum::Bytes(bytes) => {
            let parsed = Decimal::parse_prefix(bytes);
            if parsed.status != PrefixStatus::Whole {
                ctx.handle_truncation(truncated("INTEGER", bytes))?;
            }
            let whole = parsed.value;
            whole.to_u64().unwrap_or_else(|_| clamp_decimal(&whole) as u64)
        }
        other => to_int(other, ty, ctx)? as u64,
    })
}

/// Which odd dates functions accept: those `sql_mode` lets columns hold.
pub fn date_mode(ctx: &EvalContext) -> DateMode {
    DateMode {
        no_zero_date: false,
        no_zero_in_date: false,
        allow_invalid_dates: ctx.sql_mode.has(SqlMode::ALLOW_INVALID_DATES),
    }
}

/// The value as a point in time; `None`, with a warning, if it is none.
pub fn to_time(value: &Datum, _ty: &FieldType, ctx: &mut EvalContext) -> Result<Option<Time>> {
    let mode = date_mode(ctx);
    let result = match value {
        Datum::Null => return Ok(None),
        Datum::Time(time) => return Ok(Some(*time)),
        Datum::Duration(span) => {
            return Ok(today(ctx)
                .add_micros(span.micros())
                .ok()
                .map(|time| time.with_fsp(span.fsp())));
        }
        Datum::Bytes(bytes) => match Time::parse(bytes, kind_of_text(bytes), 6, mode) {
            Ok(parsed) => {
                if parsed.truncated {
                    ctx.handle_truncation(truncated("datetime", bytes))?;
                }
                let time = match parsed.offset_seconds {
                    Some(offset) => shift_to_zone(parsed.time, offset, ctx),
                    None => Some(parsed.time),
                };
                return Ok(time.map(|time| time.with_fsp(fsp_of_text(bytes))));
            }
            Err(error) => Err(error),
        },
        Datum::Int(number) => Time::from_number(*number, number_kind(*number), 0, mode),
        Datum::UInt(number) => {
            let number = i64::try_from(*number).unwrap_or(i64::MAX);
            Time::from_number(number, number_kind(number), 0, mode)
        }
        other => {
            let text = to_bytes(other, &FieldType::string()).into_owned();
            Time::parse(&text, kind_of_text(&text), 6, mode).map(|parsed| parsed.time)
        }
    };
    match result {
        Ok(time) => Ok(Some(time)),
        Err(error) => {
            // MySQL calls every point in time a datetime here.
            let error = match error {
                TypeError::InvalidDateTime { value, .. } => {
                    TypeError::InvalidDateTime { type_name: "datetime", value }
                }
                other => other,
            };
            ctx.warn(error.to_mysql());
            Ok(None)
        }
    }
}

fn shift_to_zone(time: Time, offset_seconds: i32, ctx: &EvalContext) -> Option<Time> {
    let zone = cairn_types::TimeZone::fixed(offset_seconds).ok()?;
    time.to_zone(&zone, &ctx.time_zone)
}

/// A text is a date if it names no time of day.
fn kind_of_text(bytes: &[u8]) -> TimeKind {
    let trimmed = bytes.trim_ascii();
    let has_clock = trimmed.contains(&b':') || trimmed.contains(&b' ') || trimmed.contains(&b'T');
    let digits = trimmed.iter().take_while(|b| b.is_ascii_digit()).count();
    if has_clock || digits > 8 { TimeKind::DateTime } else { TimeKind::Date }
}

fn number_kind(number: i64) -> TimeKind {
    if number.unsigned_abs() < 100_000_000 { TimeKind::Date } else { TimeKind::DateTime }
}

fn fsp_of_text(bytes: &[u8]) -> u8 {
    let Some(point) = bytes.iter().rposition(|b| *b == b'.') else { return 0 };
    bytes[point + 1..].iter().take_while(|b| b.is_ascii_digit()).count().min(6) as u8
}

/// The statement's date at midnight, in the session's time zone.
pub fn today(ctx: &EvalContext) -> Time {
    now(ctx, 0).date_part().with_kind(TimeKind::DateTime)
}

/// The statement's time in the session's time zone.
pub fn now(ctx: &EvalContext, fsp: u8) -> Time {
    let time = ctx.time_zone.from_unix_micros(ctx.now_micros, TimeKind::DateTime, 6);
    time.unwrap_or(Time::zero(TimeKind::DateTime, 6)).truncate_fsp(fsp)
}

/// The value as a span of time; `None`, with a warning, if it is none.
pub fn to_duration(
    value: &Datum,
    _ty: &FieldType,
    ctx: &mut EvalContext,
) -> Result<Option<Duration>> {
    match value {
        Datum::Null => Ok(None),
        Datum::Duration(span) => Ok(Some(*span)),
        Datum::Time(time) => Ok(Some(time.time_part())),
        Datum::Int(number) => number_to_duration(*number, ctx),
        Datum::UInt(number) => number_to_duration(i64::try_from(*number).unwrap_or(i64::MAX), ctx),
        other => {
            let text = to_bytes(other, &FieldType::string());
            match Duration::parse(&text, 6) {
                Ok(parsed) => {
                    if parsed.truncated {
                        ctx.handle_truncation(truncated("time", &text))?;
                    }
                    Ok(Some(parsed.duration.with_fsp(fsp_of_text(&text))))
                }
                Err(_) => {
                    ctx.warn_args(errno::ER_TRUNCATED_WRONG_VALUE, &[&"time", &quoted(&text)]);
                    Ok(None)
                }
            }
        }
    }
}

fn number_to_duration(number: i64, ctx: &mut EvalContext) -> Result<Option<Duration>> {
    let text = number.to_string();
    match Duration::from_number(number, 0) {
        Some(parsed) => {
            if parsed.truncated {
                ctx.handle_truncation(truncated("time", text.as_bytes()))?;
            }
            Ok(Some(parsed.duration))
        }
        None => {
            ctx.warn_args(errno::ER_TRUNCATED_WRONG_VALUE, &[&"time", &text]);
            Ok(None)
        }
    }
}

/// A JSON argument: JSON as it is, text parsed; anything else is error 3146.
pub fn to_json_document(
    value: &Datum,
    ty: &FieldType,
    position: usize,
    function: &str,
) -> Result<Json> {
    match value {
        Datum::Json(json) => Ok(json.clone()),
        Datum::Bytes(bytes) if !ty.is_binary_string() => {
            Json::parse_text(bytes).map_err(|error| match error {
                TypeError::InvalidJson { reason, position: at } => ExprError::mysql(
                    errno::ER_INVALID_JSON_TEXT_IN_PARAM,
                    &[&position, &function, &reason, &at],
                ),
                other => ExprError::from(other),
            })
        }
        _ => Err(ExprError::mysql(errno::ER_INVALID_TYPE_FOR_JSON, &[&position, &function])),
    }
}

/// A value as an element of JSON: text is a JSON string, a truth value is `true`
/// or `false`.
pub fn to_json_value(value: &Datum, expr: Option<&Expr>) -> Result<Json> {
    let is_bool = expr.is_some_and(|expr| match expr {
        Expr::Function { .. } => crate::infer::is_boolean(expr),
        Expr::Constant { ty, .. } => crate::infer::is_boolean_type(ty),
        _ => false,
    });
    if is_bool && let Datum::Int(value) = value {
        return Ok(Json::from_value(&JsonValue::Bool(*value != 0)));
    }
    let string = FieldType::string();
    let ty = expr.map_or(&string, Expr::ty);
    Ok(match value {
        Datum::Null => Json::null(),
        Datum::Json(json) => json.clone(),
        Datum::Int(value) => Json::from_value(&JsonValue::Int(*value)),
        Datum::UInt(value) if !ty.is_enum_or_set() => Json::from_value(&JsonValue::UInt(*value)),
        Datum::Float(value) => Json::from_value(&JsonValue::Double(f64::from(*value))),
        Datum::Double(value) => Json::from_value(&JsonValue::Double(*value)),
        Datum::Decimal(value) => Json::from_value(&JsonValue::Decimal(value.clone())),
        Datum::Time(value) => Json::from_value(&JsonValue::Time(*value)),
        Datum::Duration(value) => Json::from_value(&JsonValue::Duration(*value)),
        Datum::Bytes(bytes) if ty.is_binary_string() => {
            let mysql_type = ty.mysql_type_byte();
            Json::from_value(&JsonValue::Opaque(mysql_type, Cow::Borrowed(bytes)))
        }
        other => Json::string(&String::from_utf8_lossy(&to_bytes(other, ty))),
    })
}

/// A JSON scalar as the SQL value it is; documents stay JSON.
fn json_scalar(json: &Json) -> Datum {
    let json_ref = json.as_ref();
    match json_ref.kind() {
        JsonKind::Null => Datum::Null,
        JsonKind::Bool => Datum::bool(json_ref.as_bool() == Some(true)),
        JsonKind::Int => json_ref.as_i64().into(),
        JsonKind::UInt => json_ref.as_u64().into(),
        JsonKind::Double => json_ref.as_f64().into(),
        JsonKind::Decimal => json_ref.as_decimal().into(),
        JsonKind::String => json_ref.as_str().into(),
        JsonKind::Date | JsonKind::DateTime | JsonKind::Timestamp => json_ref.as_time().into(),
        JsonKind::Time => json_ref.as_duration().into(),
        JsonKind::Opaque | JsonKind::Object | JsonKind::Array => Datum::Json(json.clone()),
    }
}

/// A value of another physical kind than its type, brought to it without
/// warnings: alternatives of mixed types, integers of the other sign.
pub(crate) fn force(value: Datum, ty: &FieldType, node: &Expr) -> Result<Datum> {
    let mut quiet = EvalContext::default();
    let string = FieldType::string();
    Ok(match ty.physical() {
        PhysicalKind::Int => match value {
            Datum::UInt(value) => Datum::Int(value as i64),
            other => Datum::Int(to_int(&other, &string, &mut quiet)?),
        },
        PhysicalKind::UInt => match value {
            Datum::Int(value) => Datum::UInt(value as u64),
            other => Datum::UInt(to_bits(&other, &string, &mut quiet)?),
        },
        PhysicalKind::Float => Datum::Float(to_real(&value, &string, &mut quiet)? as f32),
        PhysicalKind::Double => Datum::Double(to_real(&value, &string, &mut quiet)?),
        PhysicalKind::Decimal64 | PhysicalKind::Decimal128 | PhysicalKind::DecimalWide => {
            let decimal = to_decimal(&value, &string, &mut quiet)?;
            return super::normalize(Datum::Decimal(decimal), ty, node);
        }
        PhysicalKind::Bytes => {
            Datum::Bytes(to_bytes(&value, &crate::infer::type_of_literal(&value)).into_owned())
        }
        PhysicalKind::Time => match to_time(&value, &string, &mut quiet)? {
            Some(time) => Datum::Time(time),
            None => Datum::Null,
        },
        PhysicalKind::Duration => match to_duration(&value, &string, &mut quiet)? {
            Some(span) => Datum::Duration(span),
            None => Datum::Null,
        },
        PhysicalKind::Json => Datum::Json(to_json_value(&value, None)?),
    })
}
