//! INTERVAL arithmetic, TIMESTAMPDIFF and EXTRACT.

use super::{
    Duration, MICROS_PER_DAY, MICROS_PER_SECOND, Time, TimeKind, TimeParts, WeekMode, days_in_month,
};
use crate::decimal::Decimal;
use crate::error::{Result, TypeError};

/// Units of INTERVAL, EXTRACT and TIMESTAMPDIFF.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[allow(missing_docs)] // The names are MySQL's own.
pub enum IntervalUnit {
    Microsecond,
    Second,
    Minute,
    Hour,
    Day,
    Week,
    Month,
    Quarter,
    Year,
    SecondMicrosecond,
    MinuteMicrosecond,
    MinuteSecond,
    HourMicrosecond,
    HourSecond,
    HourMinute,
    DayMicrosecond,
    DaySecond,
    DayMinute,
    DayHour,
    YearMonth,
}

use IntervalUnit as Unit;

const UNITS: &[(&str, Unit)] = &[
    ("MICROSECOND", Unit::Microsecond),
    ("SECOND", Unit::Second),
    ("MINUTE", Unit::Minute),
    ("HOUR", Unit::Hour),
    ("DAY", Unit::Day),
    ("WEEK", Unit::Week),
    ("MONTH", Unit::Month),
    ("QUARTER", Unit::Quarter),
    ("YEAR", Unit::Year),
    ("SECOND_MICROSECOND", Unit::SecondMicrosecond),
    ("MINUTE_MICROSECOND", Unit::MinuteMicrosecond),
    ("MINUTE_SECOND", Unit::MinuteSecond),
    ("HOUR_MICROSECOND", Unit::HourMicrosecond),
    ("HOUR_SECOND", Unit::HourSecond),
    ("HOUR_MINUTE", Unit::HourMinute),
    ("DAY_MICROSECOND", Unit::DayMicrosecond),
    ("DAY_SECOND", Unit::DaySecond),
    ("DAY_MINUTE", Unit::DayMinute),
    ("DAY_HOUR", Unit::DayHour),
    ("YEAR_MONTH", Unit::YearMonth),
];

impl IntervalUnit {
    /// Looks a name up; case and an `SQL_TSI_` prefix do not matter.
    pub fn from_name(name: &str) -> Option<IntervalUnit> {
        let upper = name.to_ascii_uppercase();
        let name = upper.strip_prefix("SQL_TSI_").unwrap_or(&upper);
        UNITS.iter().find(|(own, _)| *own == name).map(|(_, unit)| *unit)
    }

    /// Name as written in SQL.
    pub fn name(self) -> &'static str {
        UNITS.iter().find(|(_, unit)| *unit == self).map_or("", |(name, _)| name)
    }

    /// Whether adding it to a DATE gives a DATETIME.
    pub fn has_clock(self) -> bool {
        !matches!(
            self,
            Unit::Day | Unit::Week | Unit::Month | Unit::Quarter | Unit::Year | Unit::YearMonth
        )
    }

    /// Whether the result shows microseconds.
    pub fn has_micros(self) -> bool {
        matches!(
            self,
            Unit::Microsecond
                | Unit::SecondMicrosecond
                | Unit::MinuteMicrosecond
                | Unit::HourMicrosecond
                | Unit::DayMicrosecond
        )
    }

    /// Parts of a composite unit, in text order, each in months or microseconds.
    fn parts(self) -> &'static [Part] {
        use Part::*;
        match self {
            Unit::SecondMicrosecond => &[Seconds, Fraction],
            Unit::MinuteMicrosecond => &[Minutes, Seconds, Fraction],
            Unit::MinuteSecond => &[Minutes, Seconds],
            Unit::HourMicrosecond => &[Hours, Minutes, Seconds, Fraction],
            Unit::HourSecond => &[Hours, Minutes, Seconds],
            Unit::HourMinute => &[Hours, Minutes],
            Unit::DayMicrosecond => &[Days, Hours, Minutes, Seconds, Fraction],
            Unit::DaySecond => &[Days, Hours, Minutes, Seconds],
            Unit::DayMinute => &[Days, Hours, Minutes],
            Unit::DayHour => &[Days, Hours],
            Unit::YearMonth => &[Years, Months],
            _ => &[],
        }
    }
}

#[derive(Clone, Copy)]
enum Part {
    Years,
    Months,
    Days,
    Hours,
    Minutes,
    Seconds,
    /// Microseconds; in text, digits after a point.
    Fraction,
}

impl Part {
    fn interval(self, count: i64) -> Interval {
        let micros = |unit: i64| Interval { months: 0, micros: count.saturating_mul(unit) };
        match self {
            Part::Years => Interval { months: count.saturating_mul(12), micros: 0 },
            Part::Months => Interval { months: count, micros: 0 },
            Part::Days => micros(MICROS_PER_DAY),
            Part::Hours => micros(3600 * MICROS_PER_SECOND),
            Part::Minutes => micros(60 * MICROS_PER_SECOND),
            Part::Seconds => micros(MICROS_PER_SECOND),
            Part::Fraction => micros(1),
        }
    }
}

/// A span of calendar months and of time. Counts too large for any date saturate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Interval {
    /// Months (years are twelve).
    pub months: i64,
    /// Microseconds (days and weeks among them).
    pub micros: i64,
}

impl Interval {
    /// `count` units. Composite units take the count for their last part.
    pub fn from_number(count: i64, unit: IntervalUnit) -> Interval {
        let part = match unit {
            Unit::Microsecond => Part::Fraction,
            Unit::Second => Part::Seconds,
            Unit::Minute => Part::Minutes,
            Unit::Hour => Part::Hours,
            Unit::Day => Part::Days,
            Unit::Week => return Part::Days.interval(count.saturating_mul(7)),
            Unit::Month => Part::Months,
            Unit::Quarter => return Part::Months.interval(count.saturating_mul(3)),
            Unit::Year => Part::Years,
            composite => {
                return composite.parts().last().map_or(Interval::default(), |p| p.interval(count));
            }
        };
        part.interval(count)
    }

    /// A number with a fraction: SECOND keeps it, other units round it.
    pub fn from_decimal(count: &Decimal, unit: IntervalUnit) -> Interval {
        let saturated = if count.is_negative() { i64::MIN } else { i64::MAX };
        if unit == Unit::Second {
            return Interval { months: 0, micros: count.to_scaled_i64(6).unwrap_or(saturated) };
        }
        if !unit.parts().is_empty() {
            return Interval::parse(count.to_string().as_bytes(), unit);
        }
        Interval::from_number(count.to_i64().unwrap_or(saturated), unit)
    }

    /// A text: `'1-2' YEAR_MONTH`, `'1 10:00' DAY_MINUTE`, `'1.5' SECOND`. Parts
    /// may have any separators; missing ones are the leading ones.
    pub fn parse(text: &[u8], unit: IntervalUnit) -> Interval {
        let parts = unit.parts();
        if parts.is_empty() {
            let value = Decimal::parse_prefix(text).value;
            if unit == Unit::Second {
                return Interval::from_decimal(&value, unit);
            }
            // Texts are cut to integers, unlike numbers.
            let cut = value.truncate(0).unwrap_or_default();
            return Interval::from_decimal(&cut, unit);
        }
        let text = text.trim_ascii();
        let negative = text.first() == Some(&b'-');
        let groups: Vec<&[u8]> = text
            .split(|byte| !byte.is_ascii_digit())
            .filter(|group| !group.is_empty())
            .take(parts.len())
            .collect();
        let mut total = Interval::default();
        for (part, group) in parts[parts.len() - groups.len()..].iter().zip(&groups) {
            let mut count = group.iter().fold(0i64, |count, byte| {
                count.saturating_mul(10).saturating_add(i64::from(byte - b'0'))
            });
            if matches!(part, Part::Fraction) && group.len() < 6 {
                count *= 10i64.pow(6 - group.len() as u32);
            }
            let one = part.interval(count);
            total.months = total.months.saturating_add(one.months);
            total.micros = total.micros.saturating_add(one.micros);
        }
        if negative { -total } else { total }
    }
}

impl std::ops::Neg for Interval {
    type Output = Interval;

    fn neg(self) -> Interval {
        Interval {
            months: self.months.checked_neg().unwrap_or(i64::MAX),
            micros: self.micros.checked_neg().unwrap_or(i64::MAX),
        }
    }
}

impl Time {
    /// DATE_ADD. A DATE becomes a DATETIME if `unit` has a clock. Fails if the
    /// result leaves the calendar or the date has zero parts.
    pub fn add_interval(self, interval: Interval, unit: IntervalUnit) -> Result<Time> {
        let overflow = || TypeError::DateTimeOverflow("datetime");
        let mut time = self;
        if time.has_zero_date() {
            return Err(overflow());
        }
        if unit.has_clock() && time.kind() == TimeKind::Date {
            time = time.with_kind(TimeKind::DateTime).with_fsp(0);
        }
        let fraction = unit.has_micros() || interval.micros % MICROS_PER_SECOND != 0;
        if fraction && time.kind() != TimeKind::Date {
            time = time.with_fsp(6);
        }
        if interval.months != 0 {
            time = time.add_months(interval.months).ok_or_else(overflow)?;
        }
        if interval.micros == 0 {
            return Ok(time);
        }
        time.add_micros(interval.micros).map_err(|_| overflow())
    }

    /// Later by months; the day is cut to the month's length.
    pub fn add_months(self, months: i64) -> Option<Time> {
        let parts = self.parts();
        let own = i64::from(parts.year) * 12 + i64::from(parts.month) - 1;
        let total = own.checked_add(months)?;
        let year = u16::try_from(total.div_euclid(12)).ok().filter(|year| *year <= 9999)?;
        let month = (total.rem_euclid(12) + 1) as u8;
        let day = parts.day.min(days_in_month(year, month));
        Some(Time::pack(TimeParts { year, month, day, ..parts }, self.kind(), self.fsp()))
    }

    /// TIMESTAMPDIFF: whole units from `self` to `later`; `None` for dates with
    /// zero parts.
    pub fn diff(self, later: Time, unit: IntervalUnit) -> Option<i64> {
        let micros = later.total_micros()? - self.total_micros()?;
        let months = || {
            let (from, to, sign) = if self <= later { (self, later, 1) } else { (later, self, -1) };
            let count = |time: Time| i64::from(time.year()) * 12 + i64::from(time.month());
            let rest = |time: Time| i64::from(time.day()) * MICROS_PER_DAY + time.micros_of_day();
            let whole = count(to) - count(from) - i64::from(rest(to) < rest(from));
            sign * whole
        };
        Some(match unit {
            Unit::Microsecond => micros,
            Unit::Second => micros / MICROS_PER_SECOND,
            Unit::Minute => micros / (60 * MICROS_PER_SECOND),
            Unit::Hour => micros / (3600 * MICROS_PER_SECOND),
            Unit::Day => micros / MICROS_PER_DAY,
            Unit::Week => micros / (7 * MICROS_PER_DAY),
            Unit::Month => months(),
            Unit::Quarter => months() / 3,
            Unit::Year => months() / 12,
            _ => return None,
        })
    }

    /// EXTRACT.
    pub fn extract(self, unit: IntervalUnit) -> i64 {
        let p = self.parts();
        match unit {
            Unit::Year => i64::from(p.year),
            Unit::Quarter => i64::from(self.quarter()),
            Unit::Month => i64::from(p.month),
            Unit::Week => self.week(WeekMode::from_number(0)).map_or(0, |(_, week)| week.into()),
            Unit::Day => i64::from(p.day),
            Unit::YearMonth => i64::from(p.year) * 100 + i64::from(p.month),
            _ => {
                let days = if with_days(unit) { i64::from(p.day) } else { 0 };
                let hms = [p.hour.into(), p.minute.into(), p.second.into()];
                clock(unit, days, hms, p.microsecond.into())
            }
        }
    }
}

fn with_days(unit: IntervalUnit) -> bool {
    matches!(unit, Unit::DayMicrosecond | Unit::DaySecond | Unit::DayMinute | Unit::DayHour)
}

/// Clock fields as one number: `DDHHMMSSffffff`, as far as the unit reaches.
fn clock(unit: IntervalUnit, days: i64, hms: [i64; 3], micros: i64) -> i64 {
    let [h, m, s] = hms;
    match unit {
        Unit::Microsecond => micros,
        Unit::Second => s,
        Unit::Minute => m,
        Unit::Hour => h,
        Unit::SecondMicrosecond => s * 1_000_000 + micros,
        Unit::MinuteMicrosecond => (m * 100 + s) * 1_000_000 + micros,
        Unit::MinuteSecond => m * 100 + s,
        Unit::HourMicrosecond => (h * 10_000 + m * 100 + s) * 1_000_000 + micros,
        Unit::HourSecond => h * 10_000 + m * 100 + s,
        Unit::HourMinute => h * 100 + m,
        Unit::DayMicrosecond => (days * 1_000_000 + h * 10_000 + m * 100 + s) * 1_000_000 + micros,
        Unit::DaySecond => days * 1_000_000 + h * 10_000 + m * 100 + s,
        Unit::DayMinute => days * 10_000 + h * 100 + m,
        Unit::DayHour => days * 100 + h,
        _ => 0,
    }
}

impl Duration {
    /// EXTRACT of a TIME; date units give 0.
    pub fn extract(self, unit: IntervalUnit) -> i64 {
        let hms = [self.hours().into(), self.minutes().into(), self.seconds().into()];
        let value = clock(unit, 0, hms, self.microseconds().into());
        if self.is_negative() { -value } else { value }
    }

    /// TIME plus an interval without months; fails beyond the range of TIME.
    pub fn add_interval(self, interval: Interval, unit: IntervalUnit) -> Result<Duration> {
        let overflow = TypeError::DateTimeOverflow("time");
        if interval.months != 0 {
            return Err(overflow);
        }
        let fraction = unit.has_micros() || interval.micros % MICROS_PER_SECOND != 0;
        let fsp = if fraction { 6 } else { self.fsp() };
        let total = self.micros().checked_add(interval.micros).ok_or(overflow)?;
        Duration::from_micros(total, fsp)
    }
}
