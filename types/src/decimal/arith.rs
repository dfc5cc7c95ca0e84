//! Decimal arithmetic and rounding.
//!
//! Every operation first tries the inline `i128` form with checked steps and
//! falls back to 640-bit magnitudes.

use std::cmp::Ordering;

use super::mag::Mag;
use super::{Decimal, POW10, Repr, SCALE_MAX};
use crate::error::{Result, TypeError};

/// Digits of one word of MySQL's decimal: quotients keep whole words.
const WORD_DIGITS: usize = 9;

/// `mag / 10^digits`, rounded half up.
pub(super) fn divide_half_up(mag: &Mag, digits: usize) -> Mag {
    let power = Mag::pow10(digits);
    let (quotient, remainder) = mag.div_rem(power);
    let twice = remainder.add(&remainder);
    if twice >= *power { quotient.add(&Mag::from_u128(1)) } else { quotient }
}

impl Decimal {
    /// Sum.
    pub fn add(&self, other: &Decimal) -> Result<Decimal> {
        if let (Some(a), Some(b)) = (self.mantissa(), other.mantissa()) {
            let (p, q) = (self.scale(), other.scale());
            let up = |value: i128, by: u8| value.checked_mul(POW10[usize::from(by)]);
            let (a, b, scale) = match p.cmp(&q) {
                Ordering::Equal => (Some(a), Some(b), p),
                Ordering::Less => (up(a, q - p), Some(b), q),
                Ordering::Greater => (Some(a), up(b, p - q), p),
            };
            if let (Some(a), Some(b)) = (a, b)
                && let Some(sum) = a.checked_add(b)
            {
                return Ok(Decimal::from_mantissa(sum, scale));
            }
        }
        self.add_wide(other)
    }

    fn add_wide(&self, other: &Decimal) -> Result<Decimal> {
        let (a_negative, a, p) = self.parts();
        let (b_negative, b, q) = other.parts();
        let scale = p.max(q);
        let overflow = || TypeError::overflow("DECIMAL");
        let a = a.scale_up(usize::from(scale - p)).ok_or_else(overflow)?;
        let b = b.scale_up(usize::from(scale - q)).ok_or_else(overflow)?;
        let (negative, mag) = match (a_negative == b_negative, a.cmp(&b)) {
            (true, _) => (a_negative, a.add(&b)),
            (false, Ordering::Less) => (b_negative, b.sub(&a)),
            (false, _) => (a_negative, a.sub(&b)),
        };
        Decimal::from_parts(negative, mag, usize::from(scale))
    }

    /// Difference.
    pub fn sub(&self, other: &Decimal) -> Result<Decimal> {
        self.add(&other.neg())
    }

    /// Product; its scale is the sum of the scales, at most 30.
    pub fn mul(&self, other: &Decimal) -> Result<Decimal> {
        let scale = self.scale() + other.scale();
        if scale <= SCALE_MAX
            && let (Some(a), Some(b)) = (self.mantissa(), other.mantissa())
            && let Some(product) = a.checked_mul(b)
        {
            return Ok(Decimal::from_mantissa(product, scale));
        }
        let (a_negative, a, _) = self.parts();
        let (b_negative, b, _) = other.parts();
        let mag = a.mul(&b).ok_or_else(|| TypeError::overflow("DECIMAL"))?;
        Decimal::from_parts(a_negative != b_negative, mag, usize::from(scale))
    }

    /// Quotient with the scale MySQL shows (`scale + scale_increment`, at most
    /// 30), rounded half away from zero; `None` for a zero divisor.
    pub fn div(&self, other: &Decimal, scale_increment: u8) -> Result<Option<Decimal>> {
        let scale =
            (usize::from(self.scale()) + usize::from(scale_increment)).min(usize::from(SCALE_MAX));
        self.div_at_scale(other, scale, true)
    }

    /// Quotient as MySQL keeps it inside an expression: truncated at a whole
    /// number of 9-digit words, so that `1/3*3` still shows as `1.0000`. The scale
    /// to show is that of [`Decimal::div`].
    pub fn div_intermediate(
        &self,
        other: &Decimal,
        scale_increment: u8,
    ) -> Result<Option<Decimal>> {
        let words = |digits: usize| digits.div_ceil(WORD_DIGITS) * WORD_DIGITS;
        let (p, q) = (usize::from(self.scale()), usize::from(other.scale()));
        let padding = words(p) - p + words(q) - q;
        let increment = usize::from(scale_increment).saturating_sub(padding);
        let scale = words(words(p) + words(q) + increment).min(usize::from(SCALE_MAX));
        self.div_at_scale(other, scale, false)
    }

    fn div_at_scale(&self, other: &Decimal, scale: usize, round: bool) -> Result<Option<Decimal>> {
        if other.is_zero() {
            return Ok(None);
        }
        // a/10^p / (b/10^q) at `scale` digits is a * 10^(q + scale - p) / b.
        let (p, q) = (usize::from(self.scale()), usize::from(other.scale()));
        let up = (q + scale).saturating_sub(p);
        let down = p.saturating_sub(q + scale);
        if down == 0
            && let (Some(a), Some(b)) = (self.mantissa(), other.mantissa())
            && let Some(power) = POW10.get(up)
            && let Some(dividend) = a.checked_mul(*power)
        {
            let (quotient, remainder) = (dividend / b, dividend % b);
            let half_up = round && remainder.unsigned_abs() >= b.unsigned_abs().div_ceil(2);
            let step = if (a < 0) != (b < 0) { -1 } else { 1 };
            let quotient = if half_up { quotient + step } else { quotient };
            return Ok(Some(Decimal::from_mantissa(quotient, scale as u8)));
        }
        let (a_negative, a, _) = self.parts();
        let (b_negative, b, _) = other.parts();
        let overflow = || TypeError::overflow("DECIMAL");
        let dividend = a.scale_up(up).ok_or_else(overflow)?;
        let divisor = b.scale_up(down).ok_or_else(overflow)?;
        let (mut quotient, remainder) = dividend.div_rem(&divisor);
        if round && remainder.add(&remainder) >= divisor {
            quotient = quotient.add(&Mag::from_u128(1));
        }
        Decimal::from_parts(a_negative != b_negative, quotient, scale).map(Some)
    }

    /// Remainder with the sign of the dividend; `None` for a zero divisor.
    pub fn rem(&self, other: &Decimal) -> Result<Option<Decimal>> {
        if other.is_zero() {
            return Ok(None);
        }
        let scale = self.scale().max(other.scale());
        let (p, q) = (scale - self.scale(), scale - other.scale());
        if let (Some(a), Some(b)) = (self.mantissa(), other.mantissa())
            && let Some(a) = a.checked_mul(POW10[usize::from(p)])
            && let Some(b) = b.checked_mul(POW10[usize::from(q)])
        {
            return Ok(Some(Decimal::from_mantissa(a % b, scale)));
        }
        let (negative, a, _) = self.parts();
        let (_, b, _) = other.parts();
        let overflow = || TypeError::overflow("DECIMAL");
        let a = a.scale_up(usize::from(p)).ok_or_else(overflow)?;
        let b = b.scale_up(usize::from(q)).ok_or_else(overflow)?;
        let (_, remainder) = a.div_rem(&b);
        Decimal::from_parts(negative, remainder, usize::from(scale)).map(Some)
    }

    /// Integer quotient (`DIV`), truncated towards zero; `None` for a zero divisor.
    pub fn int_div(&self, other: &Decimal) -> Result<Option<Decimal>> {
        self.div_at_scale(other, 0, false)
    }

    /// Negation.
    #[must_use]
    pub fn neg(&self) -> Decimal {
        match &self.0 {
            Repr::Small { scale, .. } => {
                let mantissa = self.mantissa().expect("the inline form has a mantissa");
                Decimal::small(-mantissa, *scale)
            }
            Repr::Wide(wide) => {
                let mut wide = wide.clone();
                wide.negative = !wide.negative;
                Decimal(Repr::Wide(wide))
            }
        }
    }

    /// Absolute value.
    #[must_use]
    pub fn abs(&self) -> Decimal {
        if self.is_negative() { self.neg() } else { self.clone() }
    }

    /// Rounds half away from zero to `digits` after the point (before it, if
    /// negative). The scale never grows.
    pub fn round(&self, digits: i32) -> Result<Decimal> {
        self.reduce(digits, divide_half_up)
    }

    /// Cuts digits after the `digits`-th place; the scale never grows.
    pub fn truncate(&self, digits: i32) -> Result<Decimal> {
        self.reduce(digits, |mag, drop| mag.div_rem(Mag::pow10(drop)).0)
    }

    /// Smallest integer not below the value.
    pub fn ceil(&self) -> Result<Decimal> {
        let cut = self.truncate(0)?;
        if cut < *self { cut.add(&Decimal::ONE) } else { Ok(cut) }
    }

    /// Largest integer not above the value.
    pub fn floor(&self) -> Result<Decimal> {
        let cut = self.truncate(0)?;
        if cut > *self { cut.sub(&Decimal::ONE) } else { Ok(cut) }
    }

    fn reduce(&self, digits: i32, divide: impl Fn(&Mag, usize) -> Mag) -> Result<Decimal> {
        let scale = i32::from(self.scale());
        if digits >= scale {
            return Ok(self.clone());
        }
        let digits = digits.max(-(super::DIGITS_MAX as i32) - 1);
        let (negative, mag, _) = self.parts();
        let quotient = divide(&mag, (scale - digits) as usize);
        if digits >= 0 {
            return Decimal::from_parts(negative, quotient, digits as usize);
        }
        let mag =
            quotient.scale_up(-digits as usize).ok_or_else(|| TypeError::overflow("DECIMAL"))?;
        Decimal::from_parts(negative, mag, 0)
    }

    /// The value at exactly this scale: rounded half away from zero, or padded
    /// with zeros.
    pub fn rescale(&self, scale: u8) -> Result<Decimal> {
        let scale = scale.min(SCALE_MAX);
        let own = self.scale();
        if scale == own {
            return Ok(self.clone());
        }
        if let Some(mantissa) = self.mantissa() {
            if scale > own {
                if let Some(up) = mantissa.checked_mul(POW10[usize::from(scale - own)]) {
                    return Ok(Decimal::from_mantissa(up, scale));
                }
            } else {
                let power = POW10[usize::from(own - scale)];
                let (quotient, remainder) = (mantissa / power, mantissa % power);
                let step = if remainder.abs() * 2 >= power { mantissa.signum() } else { 0 };
                return Ok(Decimal::from_mantissa(quotient + step, scale));
            }
        }
        let (negative, mag, _) = self.parts();
        if scale < own {
            let mag = divide_half_up(&mag, usize::from(own - scale));
            return Decimal::from_parts(negative, mag, usize::from(scale));
        }
        let mag =
            mag.scale_up(usize::from(scale - own)).ok_or_else(|| TypeError::overflow("DECIMAL"))?;
        Decimal::from_parts(negative, mag, usize::from(scale))
    }

    /// The value without trailing zeros after the point.
    #[must_use]
    pub fn normalized(&self) -> Decimal {
        let (negative, mut mag, mut scale) = self.parts();
        while scale > 0 {
            let mut next = mag;
            if next.div_small(10) != 0 {
                break;
            }
            mag = next;
            scale -= 1;
        }
        Decimal::from_parts(negative, mag, usize::from(scale)).expect("fewer digits than before")
    }

    /// Whether the integer part is odd.
    pub fn is_odd(&self) -> bool {
        self.truncate(0).is_ok_and(|cut| cut.parts().1.is_odd())
    }
}
