//! Conversions to dates, times and years.

use super::{CastContext, text_of};
use crate::datum::Datum;
use crate::decimal::Decimal;
use crate::error::{Result, TypeError};
use crate::field_type::{FSP_MAX, FieldType};
use crate::json::{Json, JsonKind};
use crate::time::{Duration, Time, TimeKind, TimeZone};

fn message(value: &Datum, from: &FieldType) -> String {
    String::from_utf8_lossy(&text_of(value, from)).into_owned()
}

pub(super) fn to_time(
    value: &Datum,
    from: &FieldType,
    to: &FieldType,
    ctx: &mut CastContext,
) -> Result<Datum> {
    let kind = TimeKind::of(to).unwrap_or(TimeKind::DateTime);
    let time = match read_time(value, from, kind, to.fsp(), ctx) {
        Ok(time) => time,
        Err(error) => return no_time(error, kind, to.fsp(), ctx),
    };
    let stored = kind == TimeKind::Timestamp && !time.is_zero();
    if stored && ctx.is_assign() {
        let utc = time.to_zone(&ctx.time_zone, &TimeZone::utc());
        if !utc.is_some_and(Time::fits_timestamp) || (ctx.strict && ctx.time_zone.skips(time)) {
            let error =
                TypeError::InvalidDateTime { type_name: "datetime", value: time.to_string() };
            return no_time(error, kind, to.fsp(), ctx);
        }
    }
    Ok(Datum::Time(time))
}

/// What an unusable date becomes: an error, the zero date, or NULL.
fn no_time(error: TypeError, kind: TimeKind, fsp: u8, ctx: &mut CastContext) -> Result<Datum> {
    let assign = ctx.is_assign();
    ctx.loss(error)?;
    Ok(if assign { Datum::Time(Time::zero(kind, fsp)) } else { Datum::Null })
}

fn read_time(
    value: &Datum,
    from: &FieldType,
    kind: TimeKind,
    fsp: u8,
    ctx: &mut CastContext,
) -> Result<Time> {
    let invalid =
        || TypeError::InvalidDateTime { type_name: kind.name(), value: message(value, from) };
    let time = match value {
        Datum::Time(time) => {
            let time = if kind == TimeKind::Date {
                time.with_kind(kind)
            } else {
                time.with_kind(kind).round_fsp(fsp)?
            };
            time.check(ctx.date_mode)?;
            time
        }
        Datum::Bytes(text) => parse_time(text, kind, fsp, ctx)?,
        Datum::Json(json) => json_time(json, kind, fsp, ctx)?,
        Datum::Duration(duration) => {
            let now = ctx.now.ok_or(TypeError::Unsupported { from: "TIME", to: "DATETIME" })?;
            let midnight = now.date_part().with_kind(TimeKind::DateTime).with_fsp(FSP_MAX);
            let time = midnight.add_micros(duration.micros())?;
            time.with_kind(kind).round_fsp(fsp)?
        }
        Datum::Int(number) => Time::from_number(*number, kind, fsp, ctx.date_mode)?,
        Datum::UInt(number) => {
            let number = i64::try_from(*number).map_err(|_| invalid())?;
            Time::from_number(number, kind, fsp, ctx.date_mode)?
        }
        Datum::Decimal(number) => decimal_time(number, kind, fsp, ctx).ok_or_else(invalid)?,
        Datum::Double(number) => {
            let number = Decimal::from_f64(*number).map_err(|_| invalid())?;
            decimal_time(&number, kind, fsp, ctx).ok_or_else(invalid)?
        }
        Datum::Float(number) => {
            let number = Decimal::from_f64(f64::from(*number)).map_err(|_| invalid())?;
            decimal_time(&number, kind, fsp, ctx).ok_or_else(invalid)?
        }
        Datum::Null => return Err(invalid()),
    };
    Ok(time)
}

fn parse_time(text: &[u8], kind: TimeKind, fsp: u8, ctx: &mut CastContext) -> Result<Time> {
    let parsed = Time::parse(text, kind, fsp, ctx.date_mode)?;
    if parsed.truncated {
        let value = String::from_utf8_lossy(text).into_owned();
        if ctx.is_assign() {
            ctx.loss(TypeError::InvalidDateTime { type_name: kind.name(), value })?;
        } else {
            ctx.loss(TypeError::Truncated { type_name: kind.name(), value })?;
        }
    }
    match parsed.offset_seconds {
        None => Ok(parsed.time),
        Some(seconds) => {
            let zone = TimeZone::fixed(seconds)?;
            let local = parsed.time.to_zone(&zone, &ctx.time_zone);
            local.ok_or(TypeError::DateTimeOverflow(kind.name()))
        }
    }
}

fn json_time(json: &Json, kind: TimeKind, fsp: u8, ctx: &mut CastContext) -> Result<Time> {
    let json = json.as_ref();
    match json.kind() {
        JsonKind::Date | JsonKind::DateTime | JsonKind::Timestamp => {
            json.as_time().unwrap_or(Time::zero(kind, fsp)).with_kind(kind).round_fsp(fsp)
        }
        JsonKind::String => parse_time(json.as_str().unwrap_or("").as_bytes(), kind, fsp, ctx),
        _ => Err(TypeError::InvalidDateTime { type_name: kind.name(), value: json.to_string() }),
    }
}

/// The fraction of a number is the fraction of the second.
fn decimal_time(number: &Decimal, kind: TimeKind, fsp: u8, ctx: &CastContext) -> Option<Time> {
    let whole = number.truncate(0).ok()?;
    let time = Time::from_number(whole.to_i64().ok()?, kind, FSP_MAX, ctx.date_mode).ok()?;
    let fraction = number.sub(&whole).ok()?;
    let micros = fraction.to_scaled_i64(FSP_MAX)?;
    if kind == TimeKind::Date || micros == 0 {
        return Some(time.with_fsp(fsp));
    }
    time.add_micros(micros).ok()?.round_fsp(fsp).ok()
}

pub(super) fn to_duration(
    value: &Datum,
    from: &FieldType,
    to: &FieldType,
    ctx: &mut CastContext,
) -> Result<Datum> {
    let fsp = to.fsp();
    let parsed = match value {
        Datum::Duration(duration) => return Ok(Datum::Duration(duration.round_fsp(fsp))),
        Datum::Time(time) => {
            let rounded = time.with_kind(TimeKind::DateTime).round_fsp(fsp)?;
            return Ok(Datum::Duration(rounded.time_part()));
        }
        Datum::Bytes(text) => Duration::parse(text, fsp).ok(),
        Datum::Json(json) => match json.as_ref().as_duration() {
            Some(duration) => return Ok(Datum::Duration(duration.round_fsp(fsp))),
            None => Duration::parse(json.as_ref().to_unquoted().as_bytes(), fsp).ok(),
        },
        _ => {
            // Numbers read as their text does: HHMMSS with a fraction.
            let text = text_of(value, from);
            match text.iter().position(|byte| *byte == b'.') {
                Some(_) => Duration::parse(&text, fsp).ok(),
                None => {
                    let number = std::str::from_utf8(&text).ok().and_then(|t| t.parse().ok());
                    number.and_then(|number| Duration::from_number(number, fsp))
                }
            }
        }
    };
    let error = || TypeError::InvalidDateTime { type_name: "time", value: message(value, from) };
    match parsed {
        Some(parsed) => {
            if parsed.truncated && ctx.is_assign() {
                ctx.loss(error())?;
            } else if parsed.truncated {
                ctx.loss(TypeError::Truncated { type_name: "time", value: message(value, from) })?;
            }
            Ok(Datum::Duration(parsed.duration))
        }
        None => {
            let assign = ctx.is_assign();
            ctx.loss(error())?;
            let zero = Datum::Duration(Duration::ZERO.with_fsp(fsp));
            Ok(if assign { zero } else { Datum::Null })
        }
    }
}

/// Years a YEAR column holds, besides 0.
const YEARS: std::ops::RangeInclusive<i128> = 1901..=2155;

pub(super) fn to_year(value: &Datum, from: &FieldType, ctx: &mut CastContext) -> Result<Datum> {
    let number = match value {
        Datum::Time(time) => i128::from(time.year()),
        Datum::Duration(_) => match ctx.now {
            Some(now) => i128::from(now.year()),
            None => return Err(TypeError::Unsupported { from: "TIME", to: "YEAR" }),
        },
        _ => super::number::to_integer(value, from, ctx)?,
    };
    let is_text = matches!(value, Datum::Bytes(_));
    let short_text = matches!(value, Datum::Bytes(text) if text.trim_ascii().len() <= 2);
    let year = match number {
        0 if short_text => 2000,
        0 => 0,
        1..=69 => number + 2000,
        70..=99 => number + 1900,
        _ if YEARS.contains(&number) => number,
        _ => {
            let type_name = "year";
            let error = if is_text {
                TypeError::InvalidDateTime { type_name, value: message(value, from) }
            } else {
                TypeError::OutOfRange
            };
            ctx.loss(error)?;
            0
        }
    };
    Ok(Datum::UInt(year as u64))
}
