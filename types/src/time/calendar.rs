//! Days, weeks and months of the proleptic Gregorian calendar, by MySQL's rules.
//!
//! Day number 1 is 0000-01-01 (MySQL's TO_DAYS); year 0 counts as no leap year
//! there, which is reproduced.

use super::{Time, TimeKind, TimeParts};

/// Day number of 9999-12-31.
const DAY_NUMBER_MAX: u32 = 3_652_424;

/// Days of a month; 0 for month 0.
pub fn days_in_month(year: u16, month: u8) -> u8 {
    match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 if is_leap(year) => 29,
        2 => 28,
        _ => 0,
    }
}

fn is_leap(year: u16) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || (year.is_multiple_of(400) && year != 0))
}

/// MySQL's `calc_daynr`: days since 0000-00-00, counting zero parts as they come.
pub fn day_number(year: u16, month: u8, day: u8) -> u32 {
    if year == 0 && month == 0 {
        return 0;
    }
    let (month, day) = (i64::from(month), i64::from(day));
    let mut year = i64::from(year);
    let mut days = 365 * year + 31 * (month - 1) + day;
    if month <= 2 {
        year -= 1;
    } else {
        days -= (month * 4 + 23) / 10;
    }
    let centuries = (year / 100 + 1) * 3 / 4;
    u32::try_from(days + year / 4 - centuries).unwrap_or(0)
}

/// The inverse of [`day_number`] for days of the calendar from 0000-01-01 on.
pub(super) fn date_of_day_number(days: u32) -> Option<(u16, u8, u8)> {
    if days == 0 || days > DAY_NUMBER_MAX {
        return None;
    }
    let mut year = (days * 100 / 36_525) as u16;
    // The estimate is at most one year off.
    while day_number(year, 1, 1) > days {
        year = year.checked_sub(1)?;
    }
    while year < 9999 && day_number(year + 1, 1, 1) <= days {
        year += 1;
    }
    let mut rest = days - day_number(year, 1, 1) + 1;
    let mut month = 1;
    while rest > u32::from(days_in_month(year, month)) {
        rest -= u32::from(days_in_month(year, month));
        month += 1;
        if month > 12 {
            return None;
        }
    }
    Some((year, month, rest as u8))
}

/// MySQL's week modes 0 to 7, as bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WeekMode {
    /// Weeks start on Monday (else Sunday).
    pub monday_first: bool,
    /// Weeks are numbered 1 to 53 (else 0 to 53).
    pub week_year: bool,
    /// Week 1 is the first with the first weekday in this year (else with four
    /// or more days).
    pub first_weekday: bool,
}

impl WeekMode {
    /// The mode argument of WEEK().
    pub fn from_number(mode: u8) -> WeekMode {
        let monday_first = mode & 1 != 0;
        // MySQL flips the meaning of the bit when weeks start on Sunday.
        let first_weekday = (mode & 4 != 0) == monday_first;
        WeekMode { monday_first, week_year: mode & 2 != 0, first_weekday }
    }
}

impl Time {
    /// TO_DAYS; `None` for dates with zero month or day.
    pub fn to_days(self) -> Option<u32> {
        if self.has_zero_date() {
            return None;
        }
        Some(day_number(self.year(), self.month(), self.day()))
    }

    /// FROM_DAYS; `None` beyond year 9999 and for day 0.
    pub fn from_days(days: u32) -> Option<Time> {
        let (year, month, day) = date_of_day_number(days)?;
        let parts = TimeParts { year, month, day, ..TimeParts::default() };
        Time::from_parts(parts, TimeKind::Date, 0).ok()
    }

    /// WEEKDAY: 0 is Monday; `None` for dates with zero parts.
    pub fn weekday(self) -> Option<u8> {
        // Day number 1, 0000-01-01, counts as a Sunday in MySQL's arithmetic.
        self.to_days().map(|days| ((days + 5) % 7) as u8)
    }

    /// DAYOFYEAR; `None` for dates with zero parts.
    pub fn day_of_year(self) -> Option<u16> {
        let days = self.to_days()?;
        Some((days - day_number(self.year(), 1, 1) + 1) as u16)
    }

    /// LAST_DAY; `None` for month 0.
    pub fn last_day(self) -> Option<Time> {
        let day = days_in_month(self.year(), self.month());
        if day == 0 {
            return None;
        }
        Time::date(self.year(), self.month(), day).ok()
    }

    /// QUARTER: 0 for month 0.
    pub fn quarter(self) -> u8 {
        self.month().div_ceil(3)
    }

    /// Year and week by a week mode; `None` for dates with zero parts.
    pub fn week(self, mode: WeekMode) -> Option<(u16, u8)> {
        let days = self.to_days()?;
        let mut year = self.year();
        let mut first = day_number(year, 1, 1);
        // Weekday of 1 January, 0 being the first day of the week.
        let offset = if mode.monday_first { 5 } else { 6 };
        let mut weekday = (first + offset) % 7;
        let mut week_year = mode.week_year;
        let short_first_week = |weekday: u32| {
            (mode.first_weekday && weekday != 0) || (!mode.first_weekday && weekday >= 4)
        };
        if self.month() == 1 && u32::from(self.day()) <= 7 - weekday {
            if !week_year && short_first_week(weekday) {
                return Some((year, 0));
            }
            // The day may belong to the last week of the year before.
            week_year = true;
            year = year.checked_sub(1)?;
            let length = if is_leap(year) { 366 } else { 365 };
            first = first.checked_sub(length)?;
            weekday = (weekday + 53 * 7 - length) % 7;
        }
        let since = if short_first_week(weekday) {
            days - (first + (7 - weekday))
        } else {
            days - (first - weekday)
        };
        if week_year && since >= 52 * 7 {
            let length = if is_leap(year) { 366 } else { 365 };
            let next = (weekday + length) % 7;
            if !short_first_week(next) {
                return Some((year + 1, 1));
            }
        }
        Some((year, (since / 7 + 1) as u8))
    }
}
