//! Decimals from and to text, doubles and integers.

use std::fmt;
use std::str::FromStr;

use super::mag::Mag;
use super::{DIGITS_MAX, Decimal, PRECISION_MAX, SCALE_MAX};
use crate::error::{Result, TypeError};

/// How far a text was a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PrefixStatus {
    /// All of it (but for surrounding blanks).
    Whole,
    /// Something else follows.
    Trailing,
    /// It does not start with a number (or is empty).
    None,
}

/// The numeric head of a text, as MySQL finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NumberPrefix<'a> {
    /// Sign, digits, point, exponent.
    pub number: &'a [u8],
    /// Whether the number has a point or an exponent.
    pub is_integer: bool,
    /// What surrounds it.
    pub status: PrefixStatus,
}

/// Finds the numeric head of a text: blanks, sign, digits, point, exponent.
pub fn number_prefix(text: &[u8]) -> NumberPrefix<'_> {
    let start = text.iter().position(|b| !b.is_ascii_whitespace()).unwrap_or(text.len());
    let digits_from = |at: usize| at + text[at..].iter().take_while(|b| b.is_ascii_digit()).count();
    let signed = start + usize::from(matches!(text.get(start), Some(b'+' | b'-')));
    let mut end = digits_from(signed);
    let mut digits = end - signed;
    let mut is_integer = true;
    if text.get(end) == Some(&b'.') {
        let fraction_end = digits_from(end + 1);
        let fraction = fraction_end - end - 1;
        if digits + fraction > 0 {
            is_integer = false;
            digits += fraction;
            end = fraction_end;
        }
    }
    if digits == 0 {
        return NumberPrefix { number: &[], is_integer: true, status: PrefixStatus::None };
    }
    if matches!(text.get(end), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(text.get(end + 1), Some(b'+' | b'-')));
        let from = end + 1 + sign;
        if from <= text.len() && digits_from(from) > from {
            end = digits_from(from);
            is_integer = false;
        }
    }
    let rest = text[end..].iter().any(|b| !b.is_ascii_whitespace());
    let status = if rest { PrefixStatus::Trailing } else { PrefixStatus::Whole };
    NumberPrefix { number: &text[start..end], is_integer, status }
}

/// What [`Decimal::parse_prefix`] found.
#[derive(Clone, Debug, PartialEq)]
pub struct ParsedDecimal {
    /// The number; zero if there is none, the largest if it is too large.
    pub value: Decimal,
    /// How far the text was a number.
    pub status: PrefixStatus,
    /// Whether the number was too large for a decimal.
    pub overflow: bool,
}

/// Exponents are cut here: anything beyond overflows or vanishes anyway.
const EXPONENT_MAX: i64 = 100_000;

impl Decimal {
    /// Reads the numeric head of a text.
    pub fn parse_prefix(text: &[u8]) -> ParsedDecimal {
        let prefix = number_prefix(text);
        if prefix.status == PrefixStatus::None {
            return ParsedDecimal { value: Decimal::ZERO, status: prefix.status, overflow: false };
        }
        match parse_number(prefix.number) {
            Ok(value) => ParsedDecimal { value, status: prefix.status, overflow: false },
            Err(negative) => {
                let value = Decimal::max_value(PRECISION_MAX, 0);
                let value = if negative { value.neg() } else { value };
                ParsedDecimal { value, status: prefix.status, overflow: true }
            }
        }
    }

    /// Nearest decimal of a double, by its shortest decimal text, as MySQL does.
    pub fn from_f64(value: f64) -> Result<Decimal> {
        if !value.is_finite() {
            return Err(TypeError::overflow("DECIMAL"));
        }
        let text = format!("{value:e}");
        parse_number(text.as_bytes()).map_err(|_| TypeError::overflow("DECIMAL"))
    }
}

/// Value of a well-formed number; `Err` tells the sign of one too large.
fn parse_number(number: &[u8]) -> Result<Decimal, bool> {
    let negative = number.first() == Some(&b'-');
    let body = match number.first() {
        Some(b'+' | b'-') => &number[1..],
        _ => number,
    };
    let exponent_at = body.iter().position(|b| matches!(b, b'e' | b'E')).unwrap_or(body.len());
    let exponent = parse_exponent(&body[exponent_at..]);
    let mantissa = &body[..exponent_at];
    let point = mantissa.iter().position(|b| *b == b'.').unwrap_or(mantissa.len());
    let fraction_len = mantissa.len().saturating_sub(point + 1) as i64;
    let scale = fraction_len - exponent;
    // Short numbers, the common case, need no wide arithmetic.
    if mantissa.len() <= 19 && (0..=i64::from(SCALE_MAX)).contains(&scale) {
        let digits = mantissa.iter().filter(|b| **b != b'.');
        let value = digits.fold(0i128, |value, b| value * 10 + i128::from(b - b'0'));
        return Ok(Decimal::from_mantissa(if negative { -value } else { value }, scale as u8));
    }
    let mut digits = mantissa.iter().filter(|b| **b != b'.').map(|b| b - b'0').peekable();
    while digits.next_if_eq(&0).is_some() {}
    let mut mag = Mag::ZERO;
    let mut kept = 0usize;
    let mut dropped = 0i64;
    for digit in digits {
        // More digits than any result can show only shift the exponent.
        if kept < 2 * DIGITS_MAX {
            mag.mul_add_small(10, u64::from(digit));
            kept += 1;
        } else {
            dropped += 1;
        }
    }
    finish(negative, mag, scale - dropped)
}

fn finish(negative: bool, mag: Mag, scale: i64) -> Result<Decimal, bool> {
    if mag.is_zero() {
        return Ok(Decimal::from_mantissa(0, scale.clamp(0, i64::from(SCALE_MAX)) as u8));
    }
    if scale < 0 {
        let up = usize::try_from(-scale).map_err(|_| negative)?;
        if mag.digits() + up > DIGITS_MAX {
            return Err(negative);
        }
        let mag = mag.scale_up(up).ok_or(negative)?;
        return Decimal::from_parts(negative, mag, 0).map_err(|_| negative);
    }
    if scale - mag.digits() as i64 > i64::from(SCALE_MAX) {
        return Ok(Decimal::from_mantissa(0, SCALE_MAX));
    }
    Decimal::from_parts(negative, mag, scale as usize).map_err(|_| negative)
}

fn parse_exponent(text: &[u8]) -> i64 {
    let Some((_, rest)) = text.split_first() else { return 0 };
    let negative = rest.first() == Some(&b'-');
    let digits = rest.iter().filter(|b| b.is_ascii_digit());
    let value = digits.fold(0i64, |value, b| (value * 10 + i64::from(b - b'0')).min(EXPONENT_MAX));
    if negative { -value } else { value }
}

impl FromStr for Decimal {
    type Err = TypeError;

    fn from_str(text: &str) -> Result<Decimal> {
        let parsed = Decimal::parse_prefix(text.as_bytes());
        if parsed.overflow {
            return Err(TypeError::overflow("DECIMAL"));
        }
        if parsed.status != PrefixStatus::Whole {
            return Err(TypeError::Truncated { type_name: "DECIMAL", value: text.to_owned() });
        }
        Ok(parsed.value)
    }
}

/// Digits one step of wide formatting peels off.
const CHUNK_DIGITS: usize = 19;

impl Decimal {
    /// Appends the text MySQL prints: all digits of the scale, `0.` before a
    /// fraction.
    pub fn write_to(&self, out: &mut Vec<u8>) {
        if let Some(mantissa) = self.mantissa()
            && let Ok(magnitude) = u64::try_from(mantissa.unsigned_abs())
        {
            return write_small(mantissa < 0, magnitude, usize::from(self.scale()), out);
        }
        // 81 digits and room for leading zeros of the fraction.
        let mut buffer = [b'0'; 128];
        let mut at = buffer.len();
        let scale = usize::from(self.scale());
        match self.mantissa() {
            Some(mantissa) => write_digits(mantissa.unsigned_abs(), &mut buffer, &mut at),
            None => {
                let (_, mut mag, _) = self.parts();
                while !mag.is_zero() {
                    let chunk = mag.div_small(10u64.pow(CHUNK_DIGITS as u32));
                    let end = at;
                    write_digits(u128::from(chunk), &mut buffer, &mut at);
                    if !mag.is_zero() {
                        at = end - CHUNK_DIGITS;
                    }
                }
            }
        }
        let digits = (buffer.len() - at).max(scale + 1);
        let text = &buffer[buffer.len() - digits..];
        if self.is_negative() {
            out.push(b'-');
        }
        out.extend_from_slice(&text[..digits - scale]);
        if scale > 0 {
            out.push(b'.');
            out.extend_from_slice(&text[digits - scale..]);
        }
    }
}

/// The text of a decimal whose magnitude fits a word.
fn write_small(negative: bool, mut magnitude: u64, scale: usize, out: &mut Vec<u8>) {
    // 30 fractional digits, a zero before them, the point and a sign.
    let mut buffer = [0; 34];
    let mut at = buffer.len();
    let mut digits = 0;
    while magnitude > 0 || digits <= scale {
        if digits == scale && scale > 0 {
            at -= 1;
            buffer[at] = b'.';
        }
        at -= 1;
        buffer[at] = b'0' + (magnitude % 10) as u8;
        magnitude /= 10;
        digits += 1;
    }
    if negative {
        at -= 1;
        buffer[at] = b'-';
    }
    out.extend_from_slice(&buffer[at..]);
}

/// Writes digits right to left, ending before `at`. Nothing for zero.
fn write_digits(mut value: u128, buffer: &mut [u8], at: &mut usize) {
    while value > u128::from(u64::MAX) {
        *at -= 1;
        buffer[*at] = b'0' + (value % 10) as u8;
        value /= 10;
    }
    let mut value = value as u64;
    while value > 0 {
        *at -= 1;
        buffer[*at] = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = Vec::with_capacity(48);
        self.write_to(&mut out);
        f.pad(std::str::from_utf8(&out).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
