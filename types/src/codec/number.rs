//! Numbers as bytes that keep their order.

use super::CORRUPTED;
use crate::decimal::Decimal;
use crate::error::Result;

const SIGN_BIT: u64 = 1 << 63;

/// Appends a signed integer.
#[inline]
pub fn encode_i64(out: &mut Vec<u8>, value: i64) {
    encode_u64(out, value as u64 ^ SIGN_BIT);
}

/// Reads a signed integer, advancing `input`.
#[inline]
pub fn decode_i64(input: &mut &[u8]) -> Result<i64> {
    Ok((decode_u64(input)? ^ SIGN_BIT) as i64)
}

/// Appends an unsigned integer.
#[inline]
pub fn encode_u64(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&value.to_be_bytes());
}

/// Reads an unsigned integer, advancing `input`.
#[inline]
pub fn decode_u64(input: &mut &[u8]) -> Result<u64> {
    let (bytes, rest) = input.split_first_chunk::<8>().ok_or(CORRUPTED)?;
    *input = rest;
    Ok(u64::from_be_bytes(*bytes))
}

/// Appends an unsigned integer so that larger ones come first (timestamps of
/// versions: newest first).
#[inline]
pub fn encode_u64_desc(out: &mut Vec<u8>, value: u64) {
    encode_u64(out, !value);
}

/// Reads what [`encode_u64_desc`] wrote, advancing `input`.
#[inline]
pub fn decode_u64_desc(input: &mut &[u8]) -> Result<u64> {
    Ok(!decode_u64(input)?)
}

/// Appends a double; -0.0 becomes 0.0, which it equals.
#[inline]
pub fn encode_f64(out: &mut Vec<u8>, value: f64) {
    let bits = (value + 0.0).to_bits();
    encode_u64(out, if bits & SIGN_BIT == 0 { bits | SIGN_BIT } else { !bits });
}

/// Reads a double, advancing `input`.
#[inline]
pub fn decode_f64(input: &mut &[u8]) -> Result<f64> {
    let bits = decode_u64(input)?;
    Ok(f64::from_bits(if bits & SIGN_BIT == 0 { !bits } else { bits & !SIGN_BIT }))
}

const DECIMAL_NEGATIVE: u8 = 0x7F;
const DECIMAL_ZERO: u8 = 0x80;
const DECIMAL_POSITIVE: u8 = 0x81;
/// Added to an exponent (-30 to 81) to make it a byte.
const EXPONENT_BIAS: i32 = 64;

/// Appends a decimal by value: equal values give equal bytes, whatever their
/// scales.
///
/// Zero is one byte. Any other value is written as `0.d1d2d3… × 10^e`: a sign
/// byte, `e + 64`, digit pairs `10·d1 + d2 + 1`, and 0. A negative value has all
/// bytes after the sign flipped.
pub fn encode_decimal(out: &mut Vec<u8>, value: &Decimal) {
    if value.is_zero() {
        return out.push(DECIMAL_ZERO);
    }
    let mut text = Vec::with_capacity(96);
    value.abs().write_to(&mut text);
    let point = text.iter().position(|byte| *byte == b'.').unwrap_or(text.len());
    text.retain(|byte| *byte != b'.');
    let first = text.iter().position(|byte| *byte != b'0').unwrap_or(0);
    let last = text.iter().rposition(|byte| *byte != b'0').unwrap_or(0);
    let exponent = point as i32 - first as i32;

    out.push(if value.is_negative() { DECIMAL_NEGATIVE } else { DECIMAL_POSITIVE });
    let start = out.len();
    out.push((exponent + EXPONENT_BIAS) as u8);
    for pair in text[first..=last].chunks(2) {
        let digit = |i: usize| pair.get(i).map_or(0, |byte| byte - b'0');
        out.push(digit(0) * 10 + digit(1) + 1);
    }
    out.push(0);
    if value.is_negative() {
        out[start..].iter_mut().for_each(|byte| *byte = !*byte);
    }
}

/// Most bytes of digit pairs: 81 digits and one for an odd start.
const PAIRS_MAX: usize = 41;

/// Reads a decimal, advancing `input`; it has the smallest scale that holds it.
pub fn decode_decimal(input: &mut &[u8]) -> Result<Decimal> {
    let (sign, rest) = input.split_first().ok_or(CORRUPTED)?;
    let flip = match *sign {
        DECIMAL_ZERO => {
            *input = rest;
            return Ok(Decimal::ZERO);
        }
        DECIMAL_POSITIVE => 0,
        DECIMAL_NEGATIVE => 0xFF,
        _ => return Err(CORRUPTED),
    };
    let (exponent, rest) = rest.split_first().ok_or(CORRUPTED)?;
    let exponent = i32::from(exponent ^ flip) - EXPONENT_BIAS;
    let end = rest.iter().take(PAIRS_MAX + 1).position(|byte| byte ^ flip == 0).ok_or(CORRUPTED)?;
    let mut text = Vec::with_capacity(2 * end + 8);
    text.extend_from_slice(if flip == 0 { b"0." } else { b"-0." });
    for byte in &rest[..end] {
        let pair = (byte ^ flip) - 1;
        if pair > 99 {
            return Err(CORRUPTED);
        }
        text.extend_from_slice(&[b'0' + pair / 10, b'0' + pair % 10]);
    }
    text.extend_from_slice(format!("e{exponent}").as_bytes());
    *input = &rest[end + 1..];
    let parsed = Decimal::parse_prefix(&text);
    if parsed.overflow { Err(CORRUPTED) } else { Ok(parsed.value.normalized()) }
}
