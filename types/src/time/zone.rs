//! Time zones: fixed offsets, named zones and the system's.

use std::fmt;

use jiff::civil;
use jiff::tz::AmbiguousOffset;

use super::{MICROS_PER_SECOND, Time, TimeKind, TimeParts};
use crate::error::{Result, TypeError};

/// A session's time zone (`@@time_zone`).
#[derive(Clone, Debug, PartialEq)]
pub struct TimeZone {
    zone: jiff::tz::TimeZone,
    name: String,
}

/// Day number of 1970-01-01.
const EPOCH_DAY: i64 = 719_528;
/// Offsets reach from -13:59 to +14:00.
const OFFSET_MINUTES_MAX: i32 = 14 * 60;

impl TimeZone {
    /// UTC (`+00:00`).
    pub fn utc() -> TimeZone {
        TimeZone { zone: jiff::tz::TimeZone::UTC, name: "+00:00".to_owned() }
    }

    /// The zone of the machine (`SYSTEM`).
    pub fn system() -> TimeZone {
        TimeZone { zone: jiff::tz::TimeZone::system(), name: "SYSTEM".to_owned() }
    }

    /// A fixed offset from UTC.
    pub fn fixed(seconds: i32) -> Result<TimeZone> {
        let unknown = || TypeError::UnknownTimeZone(format!("{seconds} s"));
        let offset = jiff::tz::Offset::from_seconds(seconds).map_err(|_| unknown())?;
        let sign = if seconds < 0 { '-' } else { '+' };
        let minutes = seconds.abs() / 60;
        let name = format!("{sign}{:02}:{:02}", minutes / 60, minutes % 60);
        Ok(TimeZone { zone: jiff::tz::TimeZone::fixed(offset), name })
    }

    /// Reads `SYSTEM`, `+08:00` or a zone name such as `Europe/Berlin`.
    pub fn parse(text: &str) -> Result<TimeZone> {
        let unknown = || TypeError::UnknownTimeZone(text.to_owned());
        if text.eq_ignore_ascii_case("system") {
            return Ok(TimeZone::system());
        }
        if let Some(sign) = text.chars().next().filter(|c| matches!(c, '+' | '-')) {
            let (hours, minutes) = text[1..].split_once(':').ok_or_else(unknown)?;
            let number = |part: &str| -> Option<i32> {
                let digits =
                    (1..=2).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
                if digits { part.parse().ok() } else { None }
            };
            let hours = number(hours).ok_or_else(unknown)?;
            let minutes = number(minutes).filter(|m| *m < 60).ok_or_else(unknown)?;
            let total = hours * 60 + minutes;
            let valid =
                if sign == '-' { total < OFFSET_MINUTES_MAX } else { total <= OFFSET_MINUTES_MAX };
            if !valid {
                return Err(unknown());
            }
            return TimeZone::fixed(if sign == '-' { -total * 60 } else { total * 60 });
        }
        let zone = jiff::tz::TimeZone::get(text).map_err(|_| unknown())?;
        let name = zone.iana_name().unwrap_or(text).to_owned();
        Ok(TimeZone { zone, name })
    }

    /// Name as `@@time_zone` shows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether this zone is UTC all year.
    pub fn is_utc(&self) -> bool {
        self.zone == jiff::tz::TimeZone::UTC
    }

    /// Microseconds since the Unix epoch of a local time. A time that a change of
    /// the clocks skips is the instant of that change; of two instants, the earlier
    /// one counts.
    pub fn to_unix_micros(&self, local: Time) -> Option<i64> {
        let naive = local.total_micros()? - EPOCH_DAY * super::MICROS_PER_DAY;
        if self.is_utc() {
            return Some(naive);
        }
        let at = |offset: jiff::tz::Offset| naive - i64::from(offset.seconds()) * MICROS_PER_SECOND;
        match self.zone.to_ambiguous_timestamp(civil(local)?).offset() {
            AmbiguousOffset::Unambiguous { offset } => Some(at(offset)),
            AmbiguousOffset::Fold { before, .. } => Some(at(before)),
            AmbiguousOffset::Gap { before, .. } => {
                let within = jiff::Timestamp::from_microsecond(at(before) + 1).ok()?;
                let change = self.zone.preceding(within).next()?;
                Some(change.timestamp().as_microsecond())
            }
        }
    }

    /// Whether a change of the clocks skips this local time. Strict mode refuses
    /// to store such a TIMESTAMP.
    pub fn skips(&self, local: Time) -> bool {
        !self.is_utc()
            && civil(local).is_some_and(|local| {
                let ambiguous = self.zone.to_ambiguous_timestamp(local);
                matches!(ambiguous.offset(), AmbiguousOffset::Gap { .. })
            })
    }

    /// Local time of an instant.
    pub fn from_unix_micros(&self, micros: i64, kind: TimeKind, fsp: u8) -> Option<Time> {
        let offset = if self.is_utc() {
            0
        } else {
            let seconds = micros.div_euclid(MICROS_PER_SECOND);
            let instant = jiff::Timestamp::from_second(seconds).ok()?;
            i64::from(self.zone.to_offset(instant).seconds())
        };
        let local = micros.checked_add(offset * MICROS_PER_SECOND)?;
        let total = local.checked_add(EPOCH_DAY * super::MICROS_PER_DAY)?;
        Time::from_total_micros(total, kind, fsp)
    }
}

/// A local time as jiff knows it, without its fraction; `None` if it is no day of
/// the calendar.
fn civil(local: Time) -> Option<civil::DateTime> {
    let p = local.parts();
    let (month, day) = (p.month as i8, p.day as i8);
    civil::DateTime::new(p.year as i16, month, day, p.hour as i8, p.minute as i8, p.second as i8, 0)
        .ok()
}

impl Default for TimeZone {
    fn default() -> TimeZone {
        TimeZone::utc()
    }
}

impl fmt::Display for TimeZone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl Time {
    /// The same instant in another zone; dates with zero parts stay as they are.
    /// `None` if the result leaves the years 0 to 9999.
    pub fn to_zone(self, from: &TimeZone, to: &TimeZone) -> Option<Time> {
        if self.has_zero_date() || from == to {
            return Some(self);
        }
        let micros = from.to_unix_micros(self)?;
        to.from_unix_micros(micros, self.kind(), self.fsp())
    }

    /// Whether a TIMESTAMP column can hold the value, which is in UTC:
    /// 1970-01-01 00:00:01 to 2038-01-19 03:14:07, or zero.
    pub fn fits_timestamp(self) -> bool {
        let bound = |date: (u16, u8, u8), clock: (u8, u8, u8), microsecond: u32| {
            let parts = TimeParts {
                year: date.0,
                month: date.1,
                day: date.2,
                hour: clock.0,
                minute: clock.1,
                second: clock.2,
                microsecond,
            };
            Time::pack(parts, TimeKind::DateTime, 6)
        };
        let first = bound((1970, 1, 1), (0, 0, 1), 0);
        let last = bound((2038, 1, 19), (3, 14, 7), 999_999);
        self.is_zero() || (first..=last).contains(&self)
    }
}

#[cfg(test)]
mod tests {
    use super::super::day_number;
    use super::*;

    #[test]
    fn the_epoch_is_a_day_number() {
        assert_eq!(i64::from(day_number(1970, 1, 1)), EPOCH_DAY);
    }

    #[test]
    fn zones() {
        let shanghai = TimeZone::parse("+08:00").unwrap();
        let time = Time::from_number(20_240_105_102_030, TimeKind::DateTime, 0, Default::default())
            .unwrap();
        let utc = time.to_zone(&shanghai, &TimeZone::utc()).unwrap();
        assert_eq!(utc.to_string(), "2024-01-05 02:20:30");
        assert_eq!(utc.to_zone(&TimeZone::utc(), &shanghai).unwrap(), time);
        assert_eq!(TimeZone::utc().to_unix_micros(utc), Some(1_704_421_230_000_000));
        let berlin = TimeZone::parse("Europe/Berlin").unwrap();
        let local = |text: &str| {
            Time::parse(text.as_bytes(), TimeKind::DateTime, 0, Default::default()).unwrap().time
        };
        let to_utc =
            |text: &str| local(text).to_zone(&berlin, &TimeZone::utc()).unwrap().to_string();
        assert_eq!(to_utc("2024-01-01 12:00:00"), "2024-01-01 11:00:00");
        assert_eq!(to_utc("2024-07-01 12:00:00"), "2024-07-01 10:00:00");
        assert_eq!(to_utc("2024-03-31 02:30:00"), "2024-03-31 01:00:00");
        assert_eq!(to_utc("2024-10-27 02:30:00"), "2024-10-27 00:30:00");
        assert!(berlin.skips(local("2024-03-31 02:30:00")));
        assert!(!berlin.skips(local("2024-03-31 03:00:00")));
        for bad in ["+15:00", "-14:00", "nowhere", "+8", "+1:60", ""] {
            assert!(TimeZone::parse(bad).is_err(), "{bad}");
        }
        assert_eq!(TimeZone::parse("-08:00").unwrap().name(), "-08:00");
    }
}
