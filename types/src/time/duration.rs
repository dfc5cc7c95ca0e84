//! MySQL's TIME: a signed span of up to 838:59:59.999999.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};

use serde::{Deserialize, Serialize};

use super::{MICROS_PER_SECOND, push_digits, push_fraction, two_digits};
use crate::error::{Result, TypeError};
use crate::field_type::FSP_MAX;

/// A TIME value: microseconds, and the fractional digits it is shown with (which
/// take no part in comparison or hashing).
#[derive(Clone, Copy, Serialize, Deserialize)]
pub struct Duration {
    micros: i64,
    fsp: u8,
}

impl Duration {
    /// 00:00:00.
    pub const ZERO: Duration = Duration { micros: 0, fsp: 0 };
    /// Largest value: 838:59:59 and no fraction, as MySQL clamps.
    pub const MAX_MICROS: i64 = (838 * 3600 + 59 * 60 + 59) * MICROS_PER_SECOND;

    /// A span; fails beyond ±838:59:59.
    pub fn from_micros(micros: i64, fsp: u8) -> Result<Duration> {
        if !(-Duration::MAX_MICROS..=Duration::MAX_MICROS).contains(&micros) {
            return Err(TypeError::Truncated {
                type_name: "time",
                value: Duration { micros, fsp }.to_string(),
            });
        }
        Ok(Duration { micros, fsp: fsp.min(FSP_MAX) })
    }

    /// A span, clamped to ±838:59:59.
    pub fn from_micros_clamped(micros: i64, fsp: u8) -> Duration {
        let micros = micros.clamp(-Duration::MAX_MICROS, Duration::MAX_MICROS);
        Duration { micros, fsp: fsp.min(FSP_MAX) }
    }

    /// A span of hours, minutes, seconds and microseconds; fails beyond the range.
    pub fn from_hms(negative: bool, hms: (u32, u8, u8), micros: u32, fsp: u8) -> Result<Duration> {
        let (hours, minutes, seconds) = hms;
        let whole = i64::from(hours) * 3600 + i64::from(minutes) * 60 + i64::from(seconds);
        let total = whole * MICROS_PER_SECOND + i64::from(micros);
        Duration::from_micros(if negative { -total } else { total }, fsp)
    }

    /// Microseconds.
    #[inline]
    pub fn micros(self) -> i64 {
        self.micros
    }

    /// Fractional digits shown.
    #[inline]
    pub fn fsp(self) -> u8 {
        self.fsp
    }

    /// The same span, shown with other fractional digits (no rounding).
    #[must_use]
    pub fn with_fsp(self, fsp: u8) -> Duration {
        Duration { micros: self.micros, fsp: fsp.min(FSP_MAX) }
    }

    /// Rounds half away from zero to fewer fractional digits.
    #[must_use]
    pub fn round_fsp(self, fsp: u8) -> Duration {
        let unit = 10i64.pow(u32::from(FSP_MAX - fsp.min(FSP_MAX)));
        let half = unit / 2 * self.micros.signum();
        Duration::from_micros_clamped((self.micros + half) / unit * unit, fsp)
    }

    /// Whether the span is negative.
    pub fn is_negative(self) -> bool {
        self.micros < 0
    }

    /// Hours, 0 to 838.
    pub fn hours(self) -> u32 {
        (self.micros.unsigned_abs() / 3_600_000_000) as u32
    }

    /// Minutes, 0 to 59.
    pub fn minutes(self) -> u8 {
        (self.micros.unsigned_abs() / 60_000_000 % 60) as u8
    }

    /// Seconds, 0 to 59.
    pub fn seconds(self) -> u8 {
        (self.micros.unsigned_abs() / 1_000_000 % 60) as u8
    }

    /// Microseconds, 0 to 999 999.
    pub fn microseconds(self) -> u32 {
        (self.micros.unsigned_abs() % 1_000_000) as u32
    }

    /// The number `HHMMSS`, fraction cut.
    pub fn to_number(self) -> i64 {
        let number = i64::from(self.hours()) * 10_000
            + i64::from(self.minutes()) * 100
            + i64::from(self.seconds());
        if self.is_negative() { -number } else { number }
    }

    /// The number `HHMMSS` with its fraction at the value's fsp.
    pub fn to_decimal(self) -> crate::Decimal {
        let fraction = self.microseconds() / 10u32.pow(u32::from(FSP_MAX - self.fsp));
        let whole = i128::from(self.to_number().unsigned_abs());
        let mantissa = whole * 10i128.pow(u32::from(self.fsp)) + i128::from(fraction);
        let mantissa = if self.is_negative() { -mantissa } else { mantissa };
        crate::Decimal::from_mantissa(mantissa, self.fsp)
    }

    /// Sum; fails beyond the range.
    pub fn checked_add(self, other: Duration) -> Result<Duration> {
        Duration::from_micros(self.micros + other.micros, self.fsp.max(other.fsp))
    }

    /// Difference; fails beyond the range.
    pub fn checked_sub(self, other: Duration) -> Result<Duration> {
        Duration::from_micros(self.micros - other.micros, self.fsp.max(other.fsp))
    }

    /// Appends `[-]HH:MM:SS[.ffffff]`.
    pub fn write_to(self, out: &mut Vec<u8>) {
        if self.is_negative() {
            out.push(b'-');
        }
        push_digits(out, self.hours(), 2);
        let mut text = *b":00:00";
        two_digits(&mut text, 1, self.minutes());
        two_digits(&mut text, 4, self.seconds());
        out.extend_from_slice(&text);
        push_fraction(out, self.microseconds(), self.fsp);
    }
}

impl std::ops::Neg for Duration {
    type Output = Duration;

    fn neg(self) -> Duration {
        Duration { micros: -self.micros, fsp: self.fsp }
    }
}

impl PartialEq for Duration {
    fn eq(&self, other: &Duration) -> bool {
        self.micros == other.micros
    }
}

impl Eq for Duration {}

impl PartialOrd for Duration {
    fn partial_cmp(&self, other: &Duration) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Duration {
    fn cmp(&self, other: &Duration) -> Ordering {
        self.micros.cmp(&other.micros)
    }
}

impl Hash for Duration {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.micros.hash(state);
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = Vec::with_capacity(17);
        self.write_to(&mut out);
        f.pad(std::str::from_utf8(&out).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
