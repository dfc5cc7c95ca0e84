//! The current time, arithmetic with times, formats and time zones.

use cairn_types::time::{Interval, IntervalUnit, StrToDate, format_duration, str_to_date};
use cairn_types::{Datum, Decimal, Duration, Time, TimeKind, TimeZone, TypeError, errno};

use super::dateparts::{current_clock, is_real_date, unit_of};
use crate::context::{EvalContext, SqlMode};
use crate::error::Result;
use crate::eval::call::Call;
use crate::eval::convert;
use crate::func::Func;

const MICROS: i64 = 1_000_000;
/// Last second FROM_UNIXTIME shows: 3001-01-18 23:59:59 UTC.
const UNIX_SECONDS_MAX: i64 = 32_536_771_199;

pub(crate) fn eval(call: &Call<'_>, ctx: &mut EvalContext) -> Result<Datum> {
    let fsp = call.ty.fsp();
    match call.func {
        Func::Now => Ok(Datum::Time(convert::now(ctx, fsp))),
        Func::Sysdate => {
            let now = ctx.session.clock_micros().unwrap_or(ctx.now_micros);
            let time = ctx.time_zone.from_unix_micros(now, TimeKind::DateTime, 6);
            Ok(time.map(|time| time.truncate_fsp(fsp)).into())
        }
        Func::Curdate => Ok(Datum::Time(convert::now(ctx, 0).date_part())),
        Func::Curtime => Ok(Datum::Duration(current_clock(ctx, fsp))),
        Func::UtcDate => Ok(Datum::Time(utc(ctx, 0).date_part())),
        Func::UtcTime => Ok(Datum::Duration(utc(ctx, fsp).time_part())),
        Func::UtcTimestamp => Ok(Datum::Time(utc(ctx, fsp))),
        Func::TidbBoundedStaleness => bounded_staleness(call, ctx),
        Func::TidbParseTso => parse_tso(call, ctx),
        Func::UnixTimestamp => unix_timestamp(call, ctx),
        Func::FromUnixtime => from_unixtime(call, ctx),
        Func::DateAdd | Func::DateSub => date_add(call, ctx),
        Func::TimestampAdd => timestamp_add(call, ctx),
        Func::AddTime | Func::SubTime => add_time(call, ctx),
        Func::DateDiff => {
            let (Some(a), Some(b)) = (call.time(0, ctx)?, call.time(1, ctx)?) else {
                return Ok(Datum::Null);
            };
            let days = a.to_days().zip(b.to_days());
            Ok(days.map(|(a, b)| i64::from(a) - i64::from(b)).into())
        }
        Func::TimeDiff => time_diff(call, ctx),
        Func::TimestampDiff => {
            let unit = unit_of(call, 0)?;
            let (Some(a), Some(b)) = (call.time(1, ctx)?, call.time(2, ctx)?) else {
                return Ok(Datum::Null);
            };
            Ok(a.diff(b, unit).into())
        }
        Func::DateFormat => {
            let Some(time) = call.time(0, ctx)? else { return Ok(Datum::Null) };
            Ok(time.format(&call.bytes(1)).into())
        }
        Func::TimeFormat => {
            let Some(span) = call.duration(0, ctx)? else { return Ok(Datum::Null) };
            Ok(format_duration(span, &call.bytes(1)).into())
        }
        Func::StrToDate => Ok(parse_by_format(call, ctx)),
        Func::ConvertTz => convert_tz(call, ctx),
        Func::GetFormat => Ok(get_format(&call.text(0), &call.text(1)).into()),
        _ => timestamp(call, ctx),
    }
}

fn utc(ctx: &EvalContext, fsp: u8) -> Time {
    let time = TimeZone::utc().from_unix_micros(ctx.now_micros, TimeKind::DateTime, 6);
    time.unwrap_or(Time::zero(TimeKind::DateTime, 6)).truncate_fsp(fsp)
}

/// The newest time between two bounds that can be read at without waiting. Every time up to now
/// can be, so it is the later bound, unless that lies ahead. NULL where the bounds are crossed.
fn bounded_staleness(call: &Call<'_>, ctx: &mut EvalContext) -> Result<Datum> {
    let (Some(oldest), Some(newest)) = (call.time(0, ctx)?, call.time(1, ctx)?) else {
        return Ok(Datum::Null);
    };
    let zone = ctx.time_zone.clone();
    let micros = |time: Time| zone.to_unix_micros(time).filter(|_| !time.has_zero_date());
    let (Some(oldest), Some(newest)) = (micros(oldest), micros(newest)) else {
        return Ok(Datum::Null);
    };
    if oldest > newest {
        return Ok(Datum::Null);
    }
    let chosen = newest.min(ctx.now_micros.max(oldest));
    let time = zone.from_unix_micros(chosen, TimeKind::DateTime, 6);
    Ok(time.map(|time| time.truncate_fsp(3)).into())
}

/// The time of a timestamp of the cluster: milliseconds since 1970 above 18 bits that count.
fn parse_tso(call: &Call<'_>, ctx: &mut EvalContext) -> Result<Datum> {
    const LOGICAL_BITS: u32 = 18;
    let tso = call.int(0, ctx)?;
    if tso <= 0 {
        return Ok(Datum::Null);
    }
    let micros = (tso >> LOGICAL_BITS) * 1_000;
    Ok(ctx.time_zone.from_unix_micros(micros, TimeKind::DateTime, 6).into())
}

fn unix_timestamp(call: &Call<'_>, ctx: &mut EvalContext) -> Result<Datum> {
    if call.len() == 0 {
        return Ok(Datum::Int(ctx.now_micros.div_euclid(MICROS)));
    }
    let Some(time) = call.time(0, ctx)? else { return Ok(Datum::Null) };
    let micros = ctx.time_zone.to_unix_micros(time).filter(|_| !time.has_zero_date());
    // Before the epoch and beyond the calendar of the field there is 0.
    let micros = micros.filter(|micros| (0..=UNIX_SECONDS_MAX * MICROS).contains(micros));
    let micros = micros.unwrap_or(0);
    if call.ty.is_decimal() {
        return Ok(Datum::Decimal(Decimal::new(i128::from(micros), 6)?));
    }
    Ok(Datum::Int(micros / MICROS))
}

fn from_unixtime(call: &Call<'_>, ctx: &mut EvalContext) -> Result<Datum> {
    let seconds = call.decimal(0, ctx)?;
    let Some(micros) = seconds.to_scaled_i64(6) else { return Ok(Datum::Null) };
    if !(0..=UNIX_SECONDS_MAX * MICROS).contains(&micros) {
        return Ok(Datum::Null);
    }
    let Some(time) = ctx.time_zone.from_unix_micros(micros, TimeKind::DateTime, 6) else {
        return Ok(Datum::Null);
    };
    if call.len() > 1 {
        return Ok(time.format(&call.bytes(1)).into());
    }
    Ok(Datum::Time(time.round_fsp(call.ty.fsp())?))
}

/// The interval an argument names.
fn interval(
    call: &Call<'_>,
    at: usize,
    unit: IntervalUnit,
    ctx: &mut EvalContext,
) -> Result<Interval> {
    Ok(match call.value(at) {
        Datum::Int(count) => Interval::from_number(*count, unit),
        Datum::Decimal(count) => Interval::from_decimal(count, unit),
        Datum::Double(count) => {
            let count = Decimal::from_f64(*count).unwrap_or(Decimal::max_value(30, 0));
            Interval::from_decimal(&count, unit)
        }
        Datum::Bytes(text) => Interval::parse(text, unit),
        _ => Interval::from_number(call.int(at, ctx)?, unit),
    })
}

/// DATE_ADD and DATE_SUB: (value, amount, unit).
fn date_add(call: &Call<'_>, ctx: &mut EvalContext) -> Result<Datum> {
    let unit = unit_of(call, 2)?;
    let mut amount = interval(call, 1, unit, ctx)?;
    if call.func == Func::DateSub {
        amount = -amount;
    }
    if let (Datum::Duration(span), cairn_types::TypeCode::Time) = (call.value(0), call.ty.code) {
        return match span.add_interval(amount, unit) {
            Ok(span) => Ok(Datum::Duration(span.with_fsp(call.ty.fsp()))),
            Err(error) => overflow(error, ctx),
        };
    }
    let Some(time) = call.time(0, ctx)? else { return Ok(Datum::Null) };
    shift(call, time, amount, unit, ctx)
}

fn timestamp_add(call: &Call<'_>, ctx: &mut EvalContext) -> Result<Datum> {
    let unit = unit_of(call, 0)?;
    let amount = interval(call, 1, unit, ctx)?;
    let Some(time) = call.time(2, ctx)? else { return Ok(Datum::Null) };
    shift(call, time, amount, unit, ctx)
}

fn shift(
    call: &Call<'_>,
    time: Time,
    amount: Interval,
    unit: IntervalUnit,
    ctx: &mut EvalContext,
) -> Result<Datum> {
    if !is_real_date(time) {
        let error = TypeError::InvalidDateTime { type_name: "datetime", value: time.to_string() };
        ctx.warn(error.to_mysql());
        return Ok(Datum::Null);
    }
    match time.add_interval(amount, unit) {
        Ok(time) if call.ty.is_string() => Ok(Datum::from(time.to_string())),
        Ok(time) if call.ty.code == cairn_types::TypeCode::Date => {
            Ok(Datum::Time(time.date_part()))
        }
        Ok(time) => Ok(Datum::Time(time.with_kind(TimeKind::DateTime).with_fsp(call.ty.fsp()))),
        Err(error) => overflow(error, ctx),
    }
}

/// Outside the calendar the result is NULL with warning 1441.
fn overflow(error: TypeError, ctx: &mut EvalContext) -> Result<Datum> {
    ctx.warn(error.to_mysql());
    Ok(Datum::Null)
}

/// ADDTIME and SUBTIME: (TIME or DATETIME, TIME).
fn add_time(call: &Call<'_>, ctx: &mut EvalContext) -> Result<Datum> {
    if matches!(call.value(1), Datum::Time(_)) {
        return Ok(Datum::Null);
    }
    let Some(span) = call.duration(1, ctx)? else { return Ok(Datum::Null) };
    let span = if call.func == Func::SubTime { -span } else { span };
    let is_datetime = match call.value(0) {
        Datum::Time(_) => true,
        Datum::Bytes(text) => is_datetime_text(text),
        _ => false,
    };
    if is_datetime {
        let Some(time) = call.time(0, ctx)? else { return Ok(Datum::Null) };
        let fsp = time.fsp().max(span.fsp());
        return Ok(match time.with_kind(TimeKind::DateTime).add_micros(span.micros()) {
            Ok(time) if call.ty.is_string() => {
                // A fraction is shown whole.
                let fsp = if time.microsecond() == 0 { 0 } else { 6.max(fsp) };
                Datum::from(time.with_fsp(fsp).to_string())
            }
            Ok(time) => Datum::Time(time.with_fsp(fsp)),
            Err(error) => return overflow(error, ctx),
        });
    }
    let Some(own) = call.duration(0, ctx)? else { return Ok(Datum::Null) };
    let fsp = own.fsp().max(span.fsp());
    let total = own.micros() + span.micros();
    let sum = Duration::from_micros_clamped(total, fsp);
    if sum.micros() != total {
        let value = sum.to_string();
        ctx.warn(TypeError::Truncated { type_name: "time", value }.to_mysql());
    }
    if call.ty.is_string() {
        let fsp = if sum.microseconds() == 0 { 0 } else { 6.max(fsp) };
        return Ok(Datum::from(sum.with_fsp(fsp).to_string()));
    }
    Ok(Datum::Duration(sum))
}

fn is_datetime_text(text: &[u8]) -> bool {
    let trimmed = text.trim_ascii();
    trimmed.iter().skip(1).filter(|byte| **byte == b'-').count() >= 2
}

/// TIMEDIFF of two values of one kind.
fn time_diff(call: &Call<'_>, ctx: &mut EvalContext) -> Result<Datum> {
    let dated = |at: usize| match call.value(at) {
        Datum::Time(_) => true,
        Datum::Bytes(text) => is_datetime_text(text),
        _ => false,
    };
    if dated(0) != dated(1) {
        return Ok(Datum::Null);
    }
    let (total, fsp) = if dated(0) {
        let (Some(a), Some(b)) = (call.time(0, ctx)?, call.time(1, ctx)?) else {
            return Ok(Datum::Null);
        };
        let (Some(x), Some(y)) = (a.total_micros(), b.total_micros()) else {
            return Ok(Datum::Null);
        };
        (x - y, a.fsp().max(b.fsp()))
    } else {
        let (Some(a), Some(b)) = (call.duration(0, ctx)?, call.duration(1, ctx)?) else {
            return Ok(Datum::Null);
        };
        (a.micros() - b.micros(), a.fsp().max(b.fsp()))
    };
    let span = Duration::from_micros_clamped(total, fsp.max(call.ty.fsp()));
    if span.micros() != total {
        let value = span.to_string();
        ctx.warn(TypeError::Truncated { type_name: "time", value }.to_mysql());
    }
    Ok(Datum::Duration(span.with_fsp(call.ty.fsp())))
}

fn parse_by_format(call: &Call<'_>, ctx: &mut EvalContext) -> Datum {
    let text = call.bytes(0);
    let parsed = str_to_date(&text, &call.bytes(1));
    let refused = |time: Time| {
        time.is_zero() && ctx.sql_mode.has(SqlMode::NO_ZERO_DATE)
            || time.has_zero_date() && ctx.sql_mode.has(SqlMode::NO_ZERO_IN_DATE)
    };
    match parsed {
        Some(StrToDate::Time(time)) if !refused(time) => {
            if call.ty.code == cairn_types::TypeCode::Date {
                Datum::Time(time.date_part())
            } else {
                Datum::Time(time.with_kind(TimeKind::DateTime).with_fsp(call.ty.fsp()))
            }
        }
        Some(StrToDate::Duration(span)) => Datum::Duration(span.with_fsp(call.ty.fsp())),
        _ => {
            let value = String::from_utf8_lossy(&text).into_owned();
            let message = format!("Incorrect datetime value: '{value}' for function str_to_date");
            ctx.warn(cairn_types::MysqlError::new(ER_WRONG_VALUE_FOR_TYPE, message));
            Datum::Null
        }
    }
}

/// Incorrect value for a function.
const ER_WRONG_VALUE_FOR_TYPE: u16 = 1411;

/// NULL for zones that are not known.
fn convert_tz(call: &Call<'_>, ctx: &mut EvalContext) -> Result<Datum> {
    let Some(time) = call.time(0, ctx)? else { return Ok(Datum::Null) };
    let zone = |name: &str, ctx: &EvalContext| {
        if name.eq_ignore_ascii_case("SYSTEM") {
            return Some(ctx.time_zone.clone());
        }
        TimeZone::parse(name).ok()
    };
    let (Some(from), Some(to)) = (zone(&call.text(1), ctx), zone(&call.text(2), ctx)) else {
        return Ok(Datum::Null);
    };
    if !is_real_date(time) {
        return Ok(Datum::Null);
    }
    let moved = time.with_kind(TimeKind::DateTime).to_zone(&from, &to);
    Ok(moved.map(|time| time.with_fsp(call.ty.fsp())).into())
}

fn get_format(kind: &str, locale: &str) -> Option<&'static str> {
    let kind = kind.to_ascii_uppercase();
    let locale = locale.to_ascii_uppercase();
    Some(match (kind.as_str(), locale.as_str()) {
        ("DATE", "USA") => "%m.%d.%Y",
        ("DATE", "JIS" | "ISO") => "%Y-%m-%d",
        ("DATE", "EUR") => "%d.%m.%Y",
        ("DATE", "INTERNAL") => "%Y%m%d",
        ("DATETIME" | "TIMESTAMP", "USA" | "EUR") => "%Y-%m-%d %H.%i.%s",
        ("DATETIME" | "TIMESTAMP", "JIS" | "ISO") => "%Y-%m-%d %H:%i:%s",
        ("DATETIME" | "TIMESTAMP", "INTERNAL") => "%Y%m%d%H%i%s",
        ("TIME", "USA") => "%h:%i:%s %p",
        ("TIME", "JIS" | "ISO") => "%H:%i:%s",
        ("TIME", "EUR") => "%H.%i.%s",
        ("TIME", "INTERNAL") => "%H%i%s",
        _ => return None,
    })
}

/// TIMESTAMP(datetime [, time]).
fn timestamp(call: &Call<'_>, ctx: &mut EvalContext) -> Result<Datum> {
    let Some(time) = call.time(0, ctx)? else { return Ok(Datum::Null) };
    let time = time.with_kind(TimeKind::DateTime);
    if call.len() < 2 {
        return Ok(Datum::Time(time.with_fsp(call.ty.fsp())));
    }
    let Some(span) = call.duration(1, ctx)? else { return Ok(Datum::Null) };
    match time.add_micros(span.micros()) {
        Ok(time) => Ok(Datum::Time(time.with_fsp(call.ty.fsp()))),
        Err(error) => {
            ctx.warn_args(errno::ER_DATETIME_FUNCTION_OVERFLOW, &[&"datetime"]);
            drop(error);
            Ok(Datum::Null)
        }
    }
}
