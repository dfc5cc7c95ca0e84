//! DATE, DATETIME, TIMESTAMP ([`Time`]), TIME ([`Duration`]) and time zones.
//!
//! **Data.** A [`Time`] is one `u64`; integer order of its upper 60 bits is time
//! order, and zero (`0000-00-00`) and partial zero dates (`2024-00-00`) are
//! ordinary values:
//!
//! ```text
//! | year 14 | month 4 | day 5 | hour 5 | minute 6 | second 6 | microsecond 20 | fsp+kind 4 |
//! ```
//!
//! The low four bits hold `fsp << 1 | is_timestamp`, or `0b1110` for a DATE.
//! They take no part in comparison or hashing.
//!
//! **Time zones.** A TIMESTAMP is stored in UTC; the session converts it when it
//! reads or writes a column ([`Time::to_zone`]).
//!
//! **Sources.** MySQL manual 13.2 "Date and Time Data Types"; the layout is that
//! of TiDB's `CoreTime`.

mod calendar;
mod duration;
mod format;
mod interval;
mod parse;
mod zone;

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};

use serde::{Deserialize, Serialize};

use crate::error::{Result, TypeError};
use crate::field_type::{FSP_MAX, FieldType, TypeCode};

pub use calendar::{WeekMode, day_number, days_in_month};
pub use duration::Duration;
pub use format::{StrToDate, format_duration, str_to_date, str_to_date_kind};
pub use interval::{Interval, IntervalUnit};
pub use parse::{DateMode, ParsedDuration, ParsedTime};
pub use zone::TimeZone;

pub(crate) const MICROS_PER_SECOND: i64 = 1_000_000;
pub(crate) const SECONDS_PER_DAY: i64 = 86_400;
pub(crate) const MICROS_PER_DAY: i64 = MICROS_PER_SECOND * SECONDS_PER_DAY;

/// Which column type a [`Time`] belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TimeKind {
    /// DATE.
    Date,
    /// DATETIME.
    DateTime,
    /// TIMESTAMP.
    Timestamp,
}

impl TimeKind {
    /// Name in messages.
    pub fn name(self) -> &'static str {
        match self {
            TimeKind::Date => "date",
            TimeKind::DateTime => "datetime",
            TimeKind::Timestamp => "timestamp",
        }
    }

    /// The kind of a column type, if it is a date or time of day with date.
    pub fn of(field_type: &FieldType) -> Option<TimeKind> {
        match field_type.code {
            TypeCode::Date => Some(TimeKind::Date),
            TypeCode::DateTime => Some(TimeKind::DateTime),
            TypeCode::Timestamp => Some(TimeKind::Timestamp),
            _ => None,
        }
    }
}

/// The fields of a [`Time`], unpacked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)] // Names say it all.
pub struct TimeParts {
    pub year: u16,
    pub month: u8,
    pub day: u8,
    pub hour: u8,
    pub minute: u8,
    pub second: u8,
    pub microsecond: u32,
}

impl TimeParts {
    /// Whether each field is within its own range; says nothing about the days
    /// of the month.
    fn in_range(&self) -> bool {
        self.year <= 9999
            && self.month <= 12
            && self.day <= 31
            && self.hour < 24
            && self.minute < 60
            && self.second < 60
            && self.microsecond < 1_000_000
    }
}

/// A DATE, DATETIME or TIMESTAMP value.
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Time(u64);

const DATE_TAG: u64 = 0b1110;

impl Time {
    /// Packs fields; fails if one is out of its range.
    pub fn from_parts(parts: TimeParts, kind: TimeKind, fsp: u8) -> Result<Time> {
        if !parts.in_range() {
            return Err(TypeError::DateTimeOverflow(kind.name()));
        }
        Ok(Time::pack(parts, kind, fsp))
    }

    fn pack(p: TimeParts, kind: TimeKind, fsp: u8) -> Time {
        let fields = (u64::from(p.year) << 50)
            | (u64::from(p.month) << 46)
            | (u64::from(p.day) << 41)
            | (u64::from(p.hour) << 36)
            | (u64::from(p.minute) << 30)
            | (u64::from(p.second) << 24)
            | (u64::from(p.microsecond) << 4);
        Time(fields).with_kind_bits(kind, fsp)
    }

    fn with_kind_bits(self, kind: TimeKind, fsp: u8) -> Time {
        let fsp = u64::from(fsp.min(FSP_MAX));
        let tag = match kind {
            TimeKind::Date => DATE_TAG,
            TimeKind::DateTime => fsp << 1,
            TimeKind::Timestamp => (fsp << 1) | 1,
        };
        Time((self.0 & !0xF) | tag)
    }

    /// The date alone.
    pub fn date(year: u16, month: u8, day: u8) -> Result<Time> {
        let parts = TimeParts { year, month, day, ..TimeParts::default() };
        Time::from_parts(parts, TimeKind::Date, 0)
    }

    /// `0000-00-00 00:00:00`.
    pub fn zero(kind: TimeKind, fsp: u8) -> Time {
        Time(0).with_kind_bits(kind, fsp)
    }

    /// The packed form, as chunks and rows hold it.
    #[inline]
    pub fn packed(self) -> u64 {
        self.0
    }

    /// Reads the packed form; fails if a field is out of range.
    pub fn from_packed(packed: u64) -> Result<Time> {
        let time = Time(packed);
        let tag = packed & 0xF;
        if !time.parts().in_range() || (tag > 13 && tag != DATE_TAG) {
            return Err(TypeError::Corrupted("time"));
        }
        Ok(time)
    }

    /// Reads a packed form that a chunk already holds.
    #[inline]
    pub(crate) fn from_packed_trusted(packed: u64) -> Time {
        Time(packed)
    }

    /// The fields.
    #[inline]
    pub fn parts(self) -> TimeParts {
        TimeParts {
            year: self.year(),
            month: self.month(),
            day: self.day(),
            hour: self.hour(),
            minute: self.minute(),
            second: self.second(),
            microsecond: self.microsecond(),
        }
    }

    /// Year, 0 to 9999.
    #[inline]
    pub fn year(self) -> u16 {
        (self.0 >> 50) as u16
    }

    /// Month, 0 to 12.
    #[inline]
    pub fn month(self) -> u8 {
        ((self.0 >> 46) & 0xF) as u8
    }

    /// Day of the month, 0 to 31.
    #[inline]
    pub fn day(self) -> u8 {
        ((self.0 >> 41) & 0x1F) as u8
    }

    /// Hour, 0 to 23.
    #[inline]
    pub fn hour(self) -> u8 {
        ((self.0 >> 36) & 0x1F) as u8
    }

    /// Minute, 0 to 59.
    #[inline]
    pub fn minute(self) -> u8 {
        ((self.0 >> 30) & 0x3F) as u8
    }

    /// Second, 0 to 59.
    #[inline]
    pub fn second(self) -> u8 {
        ((self.0 >> 24) & 0x3F) as u8
    }

    /// Microsecond, 0 to 999 999.
    #[inline]
    pub fn microsecond(self) -> u32 {
        ((self.0 >> 4) & 0xF_FFFF) as u32
    }

    /// The type the value belongs to.
    #[inline]
    pub fn kind(self) -> TimeKind {
        match self.0 & 0xF {
            DATE_TAG => TimeKind::Date,
            tag if tag & 1 == 1 => TimeKind::Timestamp,
            _ => TimeKind::DateTime,
        }
    }

    /// Fractional second digits.
    #[inline]
    pub fn fsp(self) -> u8 {
        match self.0 & 0xF {
            DATE_TAG => 0,
            tag => (tag >> 1) as u8,
        }
    }

    /// Whether all fields are zero.
    #[inline]
    pub fn is_zero(self) -> bool {
        self.0 >> 4 == 0
    }

    /// Whether month or day is zero: no day of any calendar.
    #[inline]
    pub fn has_zero_date(self) -> bool {
        self.month() == 0 || self.day() == 0
    }

    /// The same fields under another type; a DATE loses its time of day.
    #[must_use]
    pub fn with_kind(self, kind: TimeKind) -> Time {
        match kind {
            TimeKind::Date => self.date_part(),
            _ => self.with_kind_bits(kind, self.fsp()),
        }
    }

    /// The same fields, shown with other fractional digits (no rounding: see
    /// [`Time::round_fsp`]).
    #[must_use]
    pub fn with_fsp(self, fsp: u8) -> Time {
        self.with_kind_bits(self.kind(), fsp)
    }

    /// The date alone.
    #[must_use]
    pub fn date_part(self) -> Time {
        Time((self.0 >> 41) << 41).with_kind_bits(TimeKind::Date, 0)
    }

    /// The time of day alone.
    pub fn time_part(self) -> Duration {
        Duration::from_micros_clamped(self.micros_of_day(), self.fsp())
    }

    /// Microseconds since midnight.
    pub fn micros_of_day(self) -> i64 {
        let seconds = i64::from(self.hour()) * 3600
            + i64::from(self.minute()) * 60
            + i64::from(self.second());
        seconds * MICROS_PER_SECOND + i64::from(self.microsecond())
    }

    /// Rounds half up to fewer fractional digits and sets that fsp.
    pub fn round_fsp(self, fsp: u8) -> Result<Time> {
        let fsp = fsp.min(FSP_MAX);
        if self.kind() == TimeKind::Date {
            return Ok(self);
        }
        let unit = 10u32.pow(u32::from(FSP_MAX - fsp));
        let rounded = (self.microsecond() + unit / 2) / unit * unit;
        if rounded < 1_000_000 {
            let parts = TimeParts { microsecond: rounded, ..self.parts() };
            return Ok(Time::pack(parts, self.kind(), fsp));
        }
        let parts = TimeParts { microsecond: 0, ..self.parts() };
        let whole = Time::pack(parts, self.kind(), fsp);
        if self.has_zero_date() {
            return Ok(whole);
        }
        whole.add_micros(MICROS_PER_SECOND)
    }

    /// Cuts fractional digits and sets that fsp.
    #[must_use]
    pub fn truncate_fsp(self, fsp: u8) -> Time {
        let unit = 10u32.pow(u32::from(FSP_MAX - fsp.min(FSP_MAX)));
        let parts = self.parts();
        let microsecond = parts.microsecond / unit * unit;
        Time::pack(TimeParts { microsecond, ..parts }, self.kind(), fsp)
    }

    /// Later (or earlier) by microseconds; fails outside 0000 to 9999 and for
    /// dates with zero month or day.
    pub fn add_micros(self, micros: i64) -> Result<Time> {
        let overflow = TypeError::DateTimeOverflow(self.kind().name());
        let Some(total) = self.total_micros().and_then(|total| total.checked_add(micros)) else {
            return Err(overflow);
        };
        Time::from_total_micros(total, self.kind(), self.fsp()).ok_or(overflow)
    }

    /// Microseconds since day number 0; `None` for dates with zero parts.
    pub fn total_micros(self) -> Option<i64> {
        let days = self.to_days()?;
        Some(i64::from(days) * MICROS_PER_DAY + self.micros_of_day())
    }

    /// The inverse of [`Time::total_micros`].
    pub fn from_total_micros(total: i64, kind: TimeKind, fsp: u8) -> Option<Time> {
        let days = u32::try_from(total.div_euclid(MICROS_PER_DAY)).ok()?;
        let (year, month, day) = calendar::date_of_day_number(days)?;
        let micros = total.rem_euclid(MICROS_PER_DAY);
        let seconds = micros / MICROS_PER_SECOND;
        let parts = TimeParts {
            year,
            month,
            day,
            hour: (seconds / 3600) as u8,
            minute: (seconds / 60 % 60) as u8,
            second: (seconds % 60) as u8,
            microsecond: (micros % MICROS_PER_SECOND) as u32,
        };
        let time = Time::pack(parts, TimeKind::DateTime, fsp);
        Some(if kind == TimeKind::Date { time.date_part() } else { time.with_kind_bits(kind, fsp) })
    }

    /// The value as a number: `YYYYMMDD` or `YYYYMMDDHHMMSS`, fraction cut.
    pub fn to_number(self) -> i64 {
        let date =
            i64::from(self.year()) * 10_000 + i64::from(self.month()) * 100 + i64::from(self.day());
        if self.kind() == TimeKind::Date {
            return date;
        }
        date * 1_000_000
            + i64::from(self.hour()) * 10_000
            + i64::from(self.minute()) * 100
            + i64::from(self.second())
    }

    /// The value as a number with its fraction at the value's fsp.
    pub fn to_decimal(self) -> crate::Decimal {
        let fsp = self.fsp();
        let fraction = self.microsecond() / 10u32.pow(u32::from(FSP_MAX - fsp));
        let mantissa =
            i128::from(self.to_number()) * 10i128.pow(u32::from(fsp)) + i128::from(fraction);
        crate::Decimal::from_mantissa(mantissa, fsp)
    }

    /// The value as a double: fraction included.
    pub fn to_f64(self) -> f64 {
        self.to_decimal().to_f64()
    }

    /// Appends `YYYY-MM-DD[ HH:MM:SS[.ffffff]]`.
    pub fn write_to(self, out: &mut Vec<u8>) {
        let p = self.parts();
        let mut text = *b"0000-00-00 00:00:00";
        two_digits(&mut text, 0, (p.year / 100) as u8);
        two_digits(&mut text, 2, (p.year % 100) as u8);
        two_digits(&mut text, 5, p.month);
        two_digits(&mut text, 8, p.day);
        if self.kind() == TimeKind::Date {
            return out.extend_from_slice(&text[..10]);
        }
        two_digits(&mut text, 11, p.hour);
        two_digits(&mut text, 14, p.minute);
        two_digits(&mut text, 17, p.second);
        out.extend_from_slice(&text);
        push_fraction(out, p.microsecond, self.fsp());
    }

    /// Whether the date exists, by the rules of an SQL mode.
    pub fn check(self, mode: DateMode) -> Result<()> {
        if mode.accepts(self) { Ok(()) } else { Err(self.invalid()) }
    }

    fn invalid(self) -> TypeError {
        TypeError::InvalidDateTime { type_name: self.kind().name(), value: self.to_string() }
    }
}

/// Appends a number with leading zeros.
pub(crate) fn push_digits(out: &mut Vec<u8>, value: u32, width: usize) {
    let mut buffer = [b'0'; 10];
    let mut rest = value;
    let mut at = buffer.len();
    while rest > 0 {
        at -= 1;
        buffer[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    let at = at.min(buffer.len() - width);
    out.extend_from_slice(&buffer[at..]);
}

/// Writes a number below 100 at a place of a text.
#[inline]
fn two_digits(text: &mut [u8], at: usize, value: u8) {
    text[at] = b'0' + value / 10;
    text[at + 1] = b'0' + value % 10;
}

fn push_fraction(out: &mut Vec<u8>, microsecond: u32, fsp: u8) {
    if fsp > 0 {
        out.push(b'.');
        let fraction = microsecond / 10u32.pow(u32::from(FSP_MAX - fsp.min(FSP_MAX)));
        push_digits(out, fraction, usize::from(fsp));
    }
}

impl PartialEq for Time {
    fn eq(&self, other: &Time) -> bool {
        self.0 >> 4 == other.0 >> 4
    }
}

impl Eq for Time {}

impl PartialOrd for Time {
    fn partial_cmp(&self, other: &Time) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Time {
    fn cmp(&self, other: &Time) -> Ordering {
        (self.0 >> 4).cmp(&(other.0 >> 4))
    }
}

impl Hash for Time {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.0 >> 4).hash(state);
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = Vec::with_capacity(26);
        self.write_to(&mut out);
        f.pad(std::str::from_utf8(&out).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
pub(crate) mod tests;
