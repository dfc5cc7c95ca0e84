//! Exact decimal numbers as MySQL's DECIMAL: 65 digits, 30 of them fractional.
//!
//! **Data.** A value is `mantissa / 10^scale`. Up to 38 digits live inline as an
//! `i128`, so small values neither allocate nor branch far; wider ones are boxed
//! magnitudes of 640 bits. Which form is used follows from the value alone.
//!
//! **Invariants.**
//! - `scale <= 30`; at most 81 digits in all (MySQL's nine words of nine digits),
//!   so that intermediates of 65-digit operands do not fail early.
//! - `Eq`, `Ord` and `Hash` go by numeric value: `1.0 == 1.00`.
//! - There is no negative zero.
//!
//! **Sources.** MySQL manual 14.24 "Precision Math"; `strings/decimal.cc`
//! behaviour for the scale of quotients.

mod arith;
mod mag;
mod text;

use std::cmp::Ordering;
use std::hash::{Hash, Hasher};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::{Result, TypeError};
use mag::Mag;

pub use text::{NumberPrefix, ParsedDecimal, PrefixStatus, number_prefix};

/// Largest precision of a column.
pub const PRECISION_MAX: u32 = 65;
/// Largest scale.
pub const SCALE_MAX: u8 = 30;
/// Most digits an intermediate may have.
pub const DIGITS_MAX: usize = 81;
/// Digits `/` adds to the scale of the dividend (`div_precision_increment`).
pub const DIV_SCALE_INCREMENT: u8 = 4;

/// Digits that always fit the inline form.
const SMALL_DIGITS: u32 = 38;

/// Powers of ten that fit an `i128`.
pub(crate) const POW10: [i128; 39] = {
    let mut powers = [1i128; 39];
    let mut i = 1;
    while i < 39 {
        powers[i] = powers[i - 1] * 10;
        i += 1;
    }
    powers
};

/// An exact decimal number.
#[derive(Clone)]
pub struct Decimal(Repr);

#[derive(Clone)]
enum Repr {
    /// Mantissa as two words (keeps the struct at 24 bytes and 8-byte alignment).
    Small { low: u64, high: i64, scale: u8 },
    /// More than 38 digits.
    Wide(Box<Wide>),
}

#[derive(Clone)]
struct Wide {
    negative: bool,
    scale: u8,
    mag: Mag,
}

impl Decimal {
    /// 0.
    pub const ZERO: Decimal = Decimal(Repr::Small { low: 0, high: 0, scale: 0 });
    /// 1.
    pub const ONE: Decimal = Decimal(Repr::Small { low: 1, high: 0, scale: 0 });

    /// `mantissa / 10^scale`; fails for a scale over 30.
    pub fn new(mantissa: i128, scale: u8) -> Result<Decimal> {
        if scale > SCALE_MAX {
            return Err(TypeError::overflow("DECIMAL"));
        }
        Ok(Decimal::from_mantissa(mantissa, scale))
    }

    /// `mantissa / 10^scale` for a scale known to be in range.
    #[inline]
    pub(crate) fn from_mantissa(mantissa: i128, scale: u8) -> Decimal {
        debug_assert!(scale <= SCALE_MAX);
        if mantissa.unsigned_abs() < POW10[SMALL_DIGITS as usize].unsigned_abs() {
            return Decimal::small(mantissa, scale);
        }
        let mag = Mag::from_u128(mantissa.unsigned_abs());
        Decimal(Repr::Wide(Box::new(Wide { negative: mantissa < 0, scale, mag })))
    }

    #[inline]
    fn small(mantissa: i128, scale: u8) -> Decimal {
        Decimal(Repr::Small { low: mantissa as u64, high: (mantissa >> 64) as i64, scale })
    }

    /// Any sign, magnitude and scale, brought into the invariants: digits beyond
    /// scale 30 or beyond 81 in all are rounded away, a larger integer part fails.
    fn from_parts(negative: bool, mut mag: Mag, mut scale: usize) -> Result<Decimal> {
        let digits = mag.digits();
        let excess = digits.saturating_sub(DIGITS_MAX);
        let drop = excess.max(scale.saturating_sub(SCALE_MAX as usize));
        if drop > 0 {
            if excess > scale {
                return Err(TypeError::overflow("DECIMAL"));
            }
            mag = arith::divide_half_up(&mag, drop);
            scale -= drop.min(scale);
            if mag.digits() > DIGITS_MAX {
                return Err(TypeError::overflow("DECIMAL"));
            }
        }
        let scale = scale as u8;
        match mag.to_u128() {
            Some(value) if value < POW10[SMALL_DIGITS as usize].unsigned_abs() => {
                let mantissa = if negative { -(value as i128) } else { value as i128 };
                Ok(Decimal::small(mantissa, scale))
            }
            _ => Ok(Decimal(Repr::Wide(Box::new(Wide { negative, scale, mag })))),
        }
    }

    fn parts(&self) -> (bool, Mag, u8) {
        match &self.0 {
            Repr::Small { scale, .. } => {
                let mantissa = self.mantissa().expect("the inline form has a mantissa");
                (mantissa < 0, Mag::from_u128(mantissa.unsigned_abs()), *scale)
            }
            Repr::Wide(wide) => (wide.negative, wide.mag, wide.scale),
        }
    }

    /// The mantissa, if it has at most 38 digits.
    #[inline]
    pub fn mantissa(&self) -> Option<i128> {
        match &self.0 {
            Repr::Small { low, high, .. } => Some((i128::from(*high) << 64) | i128::from(*low)),
            Repr::Wide(_) => None,
        }
    }

    /// Digits after the point.
    #[inline]
    pub fn scale(&self) -> u8 {
        match &self.0 {
            Repr::Small { scale, .. } => *scale,
            Repr::Wide(wide) => wide.scale,
        }
    }

    /// Digits in all, at least one and at least the scale.
    pub fn precision(&self) -> u32 {
        let digits = match self.mantissa() {
            Some(mantissa) => {
                let mag = mantissa.unsigned_abs();
                POW10.partition_point(|power| power.unsigned_abs() <= mag).max(1) as u32
            }
            None => self.parts().1.digits() as u32,
        };
        digits.max(u32::from(self.scale()))
    }

    /// Whether the value is below zero.
    #[inline]
    pub fn is_negative(&self) -> bool {
        match &self.0 {
            Repr::Small { high, .. } => *high < 0,
            Repr::Wide(wide) => wide.negative,
        }
    }

    /// Whether the value is zero.
    #[inline]
    pub fn is_zero(&self) -> bool {
        matches!(&self.0, Repr::Small { low: 0, high: 0, .. })
    }

    /// Largest value of DECIMAL(precision, scale).
    pub fn max_value(precision: u32, scale: u8) -> Decimal {
        let scale = scale.min(SCALE_MAX);
        let digits = precision.clamp(1, PRECISION_MAX) as usize;
        let one = Mag::from_u128(1);
        Decimal::from_parts(false, Mag::pow10(digits).sub(&one), usize::from(scale))
            .expect("65 digits fit")
    }

    /// Whether the value, at `scale`, has at most `precision` digits.
    pub fn fits(&self, precision: u32, scale: u8) -> bool {
        let integer_digits = precision.saturating_sub(u32::from(scale)) as usize;
        match self.mantissa() {
            Some(mantissa) => {
                let power = integer_digits + usize::from(self.scale());
                power >= POW10.len() || mantissa.unsigned_abs() < POW10[power].unsigned_abs()
            }
            None => {
                let (_, mag, own) = self.parts();
                mag < *Mag::pow10(integer_digits + usize::from(own))
            }
        }
    }

    /// The mantissa at another scale, rounded half away from zero; `None` if it
    /// has more than 38 digits.
    #[inline]
    pub fn to_scaled_i128(&self, scale: u8) -> Option<i128> {
        if let Repr::Small { scale: own, .. } = &self.0
            && *own == scale
        {
            return self.mantissa();
        }
        if scale > SCALE_MAX {
            return None;
        }
        self.rescale(scale).ok()?.mantissa()
    }

    /// The mantissa at another scale, rounded half away from zero; `None` if it
    /// does not fit an `i64`.
    #[inline]
    pub fn to_scaled_i64(&self, scale: u8) -> Option<i64> {
        i64::try_from(self.to_scaled_i128(scale)?).ok()
    }

    /// Rounds half away from zero to an `i64`.
    pub fn to_i64(&self) -> Result<i64> {
        let value = self.to_scaled_i128(0).and_then(|value| i64::try_from(value).ok());
        value.ok_or_else(|| TypeError::overflow("BIGINT"))
    }

    /// Rounds half away from zero to a `u64`.
    pub fn to_u64(&self) -> Result<u64> {
        let value = self.to_scaled_i128(0).and_then(|value| u64::try_from(value).ok());
        value.ok_or_else(|| TypeError::overflow("BIGINT UNSIGNED"))
    }

    /// Nearest double.
    pub fn to_f64(&self) -> f64 {
        if let Some(mantissa) = self.mantissa()
            && mantissa.unsigned_abs() < 1 << 53
            && self.scale() <= 22
        {
            // Both sides are exact, so the quotient is correctly rounded.
            return mantissa as f64 / POW10[usize::from(self.scale())] as f64;
        }
        self.to_string().parse().unwrap_or(0.0)
    }
}

impl Default for Decimal {
    fn default() -> Decimal {
        Decimal::ZERO
    }
}

impl From<i64> for Decimal {
    fn from(value: i64) -> Decimal {
        Decimal::small(i128::from(value), 0)
    }
}

impl From<u64> for Decimal {
    fn from(value: u64) -> Decimal {
        Decimal::small(i128::from(value), 0)
    }
}

impl From<i128> for Decimal {
    fn from(value: i128) -> Decimal {
        Decimal::from_mantissa(value, 0)
    }
}

impl PartialEq for Decimal {
    fn eq(&self, other: &Decimal) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Decimal {}

impl PartialOrd for Decimal {
    fn partial_cmp(&self, other: &Decimal) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Decimal {
    fn cmp(&self, other: &Decimal) -> Ordering {
        if let (Some(a), Some(b)) = (self.mantissa(), other.mantissa()) {
            let (p, q) = (self.scale(), other.scale());
            let up = |value: i128, by: u8| value.checked_mul(POW10[usize::from(by)]);
            let aligned = match p.cmp(&q) {
                Ordering::Equal => (Some(a), Some(b)),
                Ordering::Less => (up(a, q - p), Some(b)),
                Ordering::Greater => (Some(a), up(b, p - q)),
            };
            if let (Some(a), Some(b)) = aligned {
                return a.cmp(&b);
            }
        }
        let (a_negative, a, p) = self.parts();
        let (b_negative, b, q) = other.parts();
        match (a_negative, b_negative) {
            (true, false) => return Ordering::Less,
            (false, true) => return Ordering::Greater,
            _ => {}
        }
        let scale = p.max(q);
        let up = |mag: &Mag, own: u8| {
            mag.scale_up(usize::from(scale - own)).expect("81 + 30 digits fit")
        };
        let order = up(&a, p).cmp(&up(&b, q));
        if a_negative { order.reverse() } else { order }
    }
}

impl Hash for Decimal {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // Trailing zeros removed, equal values have one form.
        let (mut value, mut scale) = (self.clone(), self.scale());
        if let Some(mut mantissa) = value.mantissa() {
            while scale > 0 && mantissa % 10 == 0 {
                mantissa /= 10;
                scale -= 1;
            }
            value = Decimal::small(mantissa, scale);
        } else {
            value = value.normalized();
        }
        match value.mantissa() {
            Some(mantissa) => mantissa.hash(state),
            None => {
                let (negative, mag, _) = value.parts();
                (negative, mag).hash(state);
            }
        }
        value.scale().hash(state);
    }
}

impl Serialize for Decimal {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Decimal {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Decimal, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
pub(crate) mod tests;
