//! Parts of dates and times, and dates made of parts.

use cairn_types::time::{IntervalUnit, WeekMode, days_in_month};
use cairn_types::{Datum, Duration, Time, TimeKind};

use crate::context::EvalContext;
use crate::error::{ExprError, Result};
use crate::eval::call::Call;
use crate::eval::convert;
use crate::func::Func;

/// Last day FROM_DAYS knows: 9999-12-31.
const DAYS_MAX: i64 = 3_652_424;

pub(crate) fn eval(call: &Call<'_>, ctx: &mut EvalContext) -> Result<Datum> {
    match call.func {
        Func::Hour
        | Func::Minute
        | Func::Second
        | Func::Microsecond
        | Func::TimeToSec
        | Func::Time => clock_part(call, ctx),
        Func::Extract => extract(call, ctx),
        Func::FromDays => from_days(call, ctx),
        Func::SecToTime => sec_to_time(call, ctx),
        Func::MakeDate => make_date(call, ctx),
        Func::MakeTime => make_time(call, ctx),
        Func::PeriodAdd | Func::PeriodDiff => period(call, ctx),
        _ => date_part(call, ctx),
    }
}

fn date_part(call: &Call<'_>, ctx: &mut EvalContext) -> Result<Datum> {
    let Some(time) = call.time(0, ctx)? else { return Ok(Datum::Null) };
    let int = |value: i64| Datum::Int(value);
    Ok(match call.func {
        Func::Year => int(time.year().into()),
        Func::Month => int(time.month().into()),
        Func::Day => int(time.day().into()),
        Func::Quarter => int(time.quarter().into()),
        Func::Date => Datum::Time(time.date_part()),
        Func::LastDay => time.last_day().into(),
        Func::DayName => time.day_name().into(),
        Func::MonthName => time.month_name().into(),
        Func::Weekday => time.weekday().map(i64::from).into(),
        // 1 is Sunday.
        Func::DayOfWeek => time.weekday().map(|day| (i64::from(day) + 1) % 7 + 1).into(),
        Func::DayOfYear => time.day_of_year().map(i64::from).into(),
        Func::ToDays => time.to_days().map(i64::from).into(),
        Func::ToSeconds => time.total_micros().map(|micros| micros / 1_000_000).into(),
        Func::WeekOfYear => week(time, 3).map(|(_, week)| week).into(),
        Func::Week => {
            let mode =
                if call.len() > 1 { call.int(1, ctx)? } else { ctx.default_week_format.into() };
            week(time, mode).map(|(_, week)| week).into()
        }
        _ => {
            let mode = if call.len() > 1 { call.int(1, ctx)? } else { 0 };
            // YEARWEEK numbers weeks by the year they belong to.
            week(time, mode | 2).map(|(year, week)| year * 100 + week).into()
        }
    })
}

fn week(time: Time, mode: i64) -> Option<(i64, i64)> {
    let mode = WeekMode::from_number((mode & 7) as u8);
    time.week(mode).map(|(year, week)| (i64::from(year), i64::from(week)))
}

fn clock_part(call: &Call<'_>, ctx: &mut EvalContext) -> Result<Datum> {
    let Some(span) = call.duration(0, ctx)? else { return Ok(Datum::Null) };
    Ok(match call.func {
        Func::Hour => Datum::Int(span.hours().into()),
        Func::Minute => Datum::Int(span.minutes().into()),
        Func::Second => Datum::Int(span.seconds().into()),
        Func::Microsecond => Datum::Int(span.microseconds().into()),
        Func::TimeToSec => Datum::Int(span.micros() / 1_000_000),
        _ => Datum::Duration(span.round_fsp(call.ty.fsp())),
    })
}

/// EXTRACT(unit, value).
fn extract(call: &Call<'_>, ctx: &mut EvalContext) -> Result<Datum> {
    let unit = unit_of(call, 0)?;
    let is_clock = unit.has_clock();
    let date_too = unit.name().starts_with("DAY");
    if let Datum::Duration(span) = call.value(1) {
        return Ok(Datum::Int(span.extract(unit)));
    }
    // A text may be a TIME where no part of the date is asked for.
    let is_time = matches!(call.value(1), Datum::Time(_));
    if is_clock && !date_too && !is_time {
        return Ok(call.duration(1, ctx)?.map(|span| span.extract(unit)).into());
    }
    Ok(call.time(1, ctx)?.map(|time| time.extract(unit)).into())
}

/// The unit named by a constant argument.
pub(crate) fn unit_of(call: &Call<'_>, at: usize) -> Result<IntervalUnit> {
    let name = call.text(at);
    IntervalUnit::from_name(&name).ok_or_else(|| ExprError::wrong_arguments(call.func.name()))
}

fn from_days(call: &Call<'_>, ctx: &mut EvalContext) -> Result<Datum> {
    let days = call.int(0, ctx)?;
    // Days before the year 1 are no dates.
    if !(366..=DAYS_MAX).contains(&days) {
        return Ok(Datum::Time(Time::zero(TimeKind::Date, 0)));
    }
    Ok(Time::from_days(days as u32).into())
}

fn sec_to_time(call: &Call<'_>, ctx: &mut EvalContext) -> Result<Datum> {
    let seconds = call.decimal(0, ctx)?;
    let micros = seconds.to_scaled_i64(6);
    let saturated = if seconds.is_negative() { i64::MIN } else { i64::MAX };
    let micros = micros.unwrap_or(saturated);
    let span = Duration::from_micros_clamped(micros, call.ty.fsp());
    if span.micros() != micros {
        let error =
            cairn_types::TypeError::Truncated { type_name: "time", value: seconds.to_string() };
        ctx.warn(error.to_mysql());
    }
    Ok(Datum::Duration(span.round_fsp(call.ty.fsp())))
}

/// MAKEDATE(year, day of year).
fn make_date(call: &Call<'_>, ctx: &mut EvalContext) -> Result<Datum> {
    let (year, day) = (call.int(0, ctx)?, call.int(1, ctx)?);
    let year = match year {
        0..70 => 2000 + year,
        70..100 => 1900 + year,
        other => other,
    };
    let Some(first) = u16::try_from(year).ok().and_then(|year| Time::date(year, 1, 1).ok()) else {
        return Ok(Datum::Null);
    };
    let days = first.to_days().map(i64::from).and_then(|first| first.checked_add(day - 1));
    let days = days.filter(|days| day > 0 && *days <= DAYS_MAX);
    Ok(days.and_then(|days| Time::from_days(days as u32)).into())
}

/// MAKETIME(hour, minute, second).
fn make_time(call: &Call<'_>, ctx: &mut EvalContext) -> Result<Datum> {
    let (hour, minute) = (call.int(0, ctx)?, call.int(1, ctx)?);
    let seconds = call.decimal(2, ctx)?.to_scaled_i64(6).unwrap_or(i64::MAX);
    if !(0..60).contains(&minute) || !(0..60_000_000).contains(&seconds) {
        return Ok(Datum::Null);
    }
    let magnitude =
        (hour.unsigned_abs().min(1000) as i64 * 3600 + minute * 60) * 1_000_000 + seconds;
    let micros = if hour < 0 { -magnitude } else { magnitude };
    let span = Duration::from_micros_clamped(micros, call.ty.fsp());
    if span.micros() != micros {
        let value = format!("{hour:02}:{minute:02}:{:02}", seconds / 1_000_000);
        ctx.warn(cairn_types::TypeError::Truncated { type_name: "time", value }.to_mysql());
    }
    Ok(Datum::Duration(span.round_fsp(call.ty.fsp())))
}

/// Months since year 0 of a period YYMM or YYYYMM.
fn months_of(period: i64) -> Option<i64> {
    let (mut year, month) = (period / 100, period % 100);
    if period <= 0 || !(1..=12).contains(&month) {
        return None;
    }
    if year < 70 {
        year += 2000;
    } else if year < 100 {
        year += 1900;
    }
    Some(year * 12 + month - 1)
}

fn period(call: &Call<'_>, ctx: &mut EvalContext) -> Result<Datum> {
    let (first, second) = (call.int(0, ctx)?, call.int(1, ctx)?);
    let wrong = || ExprError::wrong_arguments(call.func.name());
    let months = months_of(first).ok_or_else(wrong)?;
    if call.func == Func::PeriodDiff {
        return Ok(Datum::Int(months - months_of(second).ok_or_else(wrong)?));
    }
    let total = months.checked_add(second).filter(|total| *total >= 0).ok_or_else(wrong)?;
    Ok(Datum::Int(total / 12 * 100 + total % 12 + 1))
}

/// Whether a date's day exists in its month; zero parts do not count.
pub(crate) fn is_real_date(time: Time) -> bool {
    !time.has_zero_date() && time.day() <= days_in_month(time.year(), time.month())
}

/// The statement's time of day.
pub(crate) fn current_clock(ctx: &EvalContext, fsp: u8) -> Duration {
    convert::now(ctx, fsp).time_part()
}
