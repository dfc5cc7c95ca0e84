//! String functions that change the representation: hexadecimal, base 64, number
//! bases, quoting, character sets.

use cairn_types::{Charset, Collation, Datum, Decimal, EvalKind, errno};

use crate::context::EvalContext;
use crate::error::Result;
use crate::eval::call::Call;
use crate::func::Func;

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
/// Characters of a line of TO_BASE64.
const BASE64_LINE: usize = 76;

pub(crate) fn eval(call: &Call<'_>, ctx: &mut EvalContext) -> Result<Datum> {
    match call.func {
        Func::Ascii => Ok(Datum::Int(call.bytes(0).first().map_or(0, |byte| i64::from(*byte)))),
        Func::Ord => Ok(Datum::Int(ord(&call.bytes(0)))),
        Func::Char => char_of(call, ctx),
        Func::Hex => hex(call, ctx),
        Func::Unhex => Ok(unhex(&call.bytes(0)).into()),
        Func::Bin => Ok(Datum::from(format!("{:b}", call.bits(0, ctx)?))),
        Func::Oct => Ok(Datum::from(format!("{:o}", call.bits(0, ctx)?))),
        Func::Conv => conv(call, ctx),
        Func::Format => format_number(call, ctx),
        Func::Quote => Ok(quote(call)),
        Func::Soundex => Ok(Datum::from(soundex(&call.text(0)))),
        Func::ToBase64 => Ok(Datum::Bytes(to_base64(&call.bytes(0)))),
        Func::FromBase64 => Ok(from_base64(&call.bytes(0)).into()),
        Func::WeightString => {
            let mut key = Vec::new();
            call.arg_ty(0).collation.sort_key(&call.bytes(0), &mut key);
            Ok(Datum::Bytes(key))
        }
        Func::ConvertUsing => Ok(convert(call, ctx)),
        _ => Ok(Datum::Bytes(call.bytes(0).into_owned())),
    }
}

/// The first character's bytes as one number.
fn ord(text: &[u8]) -> i64 {
    let first = String::from_utf8_lossy(&text[..text.len().min(4)]).chars().next();
    let len = first.map_or(0, char::len_utf8).min(text.len());
    text[..len].iter().fold(0, |code, byte| code << 8 | i64::from(*byte))
}

/// CHAR(n, …): the bytes of the numbers; NULLs are left out.
fn char_of(call: &Call<'_>, ctx: &mut EvalContext) -> Result<Datum> {
    let mut out = Vec::new();
    for at in (0..call.len()).filter(|at| !call.is_null(*at)) {
        let code = call.bits(at, ctx)? as u32;
        let bytes = code.to_be_bytes();
        let skip = bytes.iter().take(3).take_while(|byte| **byte == 0).count();
        out.extend_from_slice(&bytes[skip..]);
    }
    Ok(Datum::Bytes(out))
}

/// Numbers in hexadecimal, text as the hexadecimal of its bytes.
fn hex(call: &Call<'_>, ctx: &mut EvalContext) -> Result<Datum> {
    let is_number = matches!(
        call.arg_ty(0).eval_kind(),
        EvalKind::Int | EvalKind::UInt | EvalKind::Real | EvalKind::Decimal
    );
    if is_number {
        return Ok(Datum::from(format!("{:X}", call.bits(0, ctx)?)));
    }
    Ok(Datum::from(hex_of(&call.bytes(0), true)))
}

pub(crate) fn hex_of(bytes: &[u8], upper: bool) -> String {
    let digits: &[u8; 16] = if upper { b"0123456789ABCDEF" } else { b"0123456789abcdef" };
    let mut out = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        out.push(char::from(digits[usize::from(byte >> 4)]));
        out.push(char::from(digits[usize::from(byte & 0xF)]));
    }
    out
}

/// Bytes of a hexadecimal text; an odd first digit stands alone.
pub(crate) fn unhex(text: &[u8]) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> =
        text.iter().map(|byte| char::from(*byte).to_digit(16).map(|digit| digit as u8)).collect();
    let digits = digits?;
    let odd = digits.len() % 2;
    let mut out = Vec::with_capacity(digits.len().div_ceil(2));
    out.extend_from_slice(&digits[..odd]);
    out.extend(digits[odd..].chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]));
    Some(out)
}

/// CONV(number, from base, to base); a negative target base means signed.
fn conv(call: &Call<'_>, ctx: &mut EvalContext) -> Result<Datum> {
    let (from, to) = (call.int(1, ctx)?, call.int(2, ctx)?);
    let base = |base: i64| u32::try_from(base.unsigned_abs()).ok().filter(|b| (2..=36).contains(b));
    let (Some(source), Some(target)) = (base(from), base(to)) else { return Ok(Datum::Null) };
    let text = call.text(0);
    let text = text.trim();
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let mut value = 0u64;
    for digit in digits.chars().map_while(|c| c.to_digit(source)) {
        let next = value.checked_mul(u64::from(source));
        let next = next.and_then(|next| next.checked_add(u64::from(digit)));
        value = next.unwrap_or(u64::MAX);
    }
    let value = if negative { value.wrapping_neg() } else { value };
    let signed = to < 0 && (value as i64) < 0;
    let mut rest = if signed { (value as i64).unsigned_abs() } else { value };
    let mut out = Vec::new();
    loop {
        let digit = (rest % u64::from(target)) as u32;
        let c = char::from_digit(digit, target).expect("the digit is below the base");
        out.push(c.to_ascii_uppercase() as u8);
        rest /= u64::from(target);
        if rest == 0 {
            break;
        }
    }
    if signed {
        out.push(b'-');
    }
    out.reverse();
    Ok(Datum::Bytes(out))
}

/// FORMAT(number, decimals): thousands separated by commas.
fn format_number(call: &Call<'_>, ctx: &mut EvalContext) -> Result<Datum> {
    let scale = call.int(1, ctx)?.clamp(0, 30) as u8;
    let number = match call.arg_ty(0).eval_kind() {
        EvalKind::Real | EvalKind::String => {
            let real = call.real(0, ctx)?;
            match Decimal::from_f64(real) {
                Ok(number) => number,
                Err(_) => return Ok(Datum::from(format!("{real:.*}", usize::from(scale)))),
            }
        }
        _ => call.decimal(0, ctx)?,
    };
    let text = number.rescale(scale)?.to_string();
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", text.as_str()),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let mut out = sign.to_owned();
    for (at, c) in whole.chars().enumerate() {
        if at > 0 && (whole.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    if scale > 0 {
        out.push('.');
        out.push_str(fraction);
    }
    Ok(Datum::from(out))
}

/// QUOTE: an SQL literal; NULL is the word.
fn quote(call: &Call<'_>) -> Datum {
    if call.is_null(0) {
        return Datum::from("NULL");
    }
    let text = call.bytes(0);
    let mut out = Vec::with_capacity(text.len() + 2);
    out.push(b'\'');
    for byte in text.iter() {
        match byte {
            b'\'' | b'\\' => out.extend_from_slice(&[b'\\', *byte]),
            0 => out.extend_from_slice(b"\\0"),
            0x1A => out.extend_from_slice(b"\\Z"),
            byte => out.push(*byte),
        }
    }
    out.push(b'\'');
    Datum::Bytes(out)
}

/// MySQL's SOUNDEX: the original algorithm, vowels dropped first, any length.
fn soundex(text: &str) -> String {
    const CODES: &[u8; 26] = b"01230120022455012623010202";
    let code = |c: char| match c.to_ascii_uppercase() {
        c @ 'A'..='Z' => CODES[usize::from(c as u8 - b'A')],
        _ => b'0',
    };
    let mut letters = text.chars().filter(|c| c.is_alphabetic());
    let Some(first) = letters.next() else { return String::new() };
    let mut out: String = first.to_uppercase().collect();
    let mut last = code(first);
    for c in letters {
        let digit = code(c);
        if digit != b'0' && digit != last {
            out.push(char::from(digit));
        }
        if digit != b'0' {
            last = digit;
        }
    }
    while out.chars().count() < 4 {
        out.push('0');
    }
    out
}

fn to_base64(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len() * 4 / 3 + 4);
    let mut line = 0;
    for group in bytes.chunks(3) {
        if line == BASE64_LINE {
            out.push(b'\n');
            line = 0;
        }
        let byte = |at: usize| u32::from(group.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for at in 0..4 {
            let symbol = BASE64[(bits >> (18 - 6 * at)) as usize & 63];
            out.push(if at <= group.len() { symbol } else { b'=' });
        }
        line += 4;
    }
    out
}

fn from_base64(text: &[u8]) -> Option<Vec<u8>> {
    let symbols: Vec<u8> =
        text.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
    if !symbols.len().is_multiple_of(4) {
        return None;
    }
    let mut out = Vec::with_capacity(symbols.len() / 4 * 3);
    let groups = symbols.len() / 4;
    for (at, group) in symbols.chunks_exact(4).enumerate() {
        let padding = group.iter().rev().take_while(|byte| **byte == b'=').count();
        if padding > 2 || (padding > 0 && at + 1 < groups) {
            return None;
        }
        let mut bits = 0u32;
        for byte in &group[..4 - padding] {
            let value = BASE64.iter().position(|symbol| symbol == byte)?;
            bits = bits << 6 | value as u32;
        }
        bits <<= 6 * padding;
        out.extend_from_slice(&bits.to_be_bytes()[1..4 - padding]);
    }
    Some(out)
}

/// CONVERT(x USING charset): characters the set lacks become `?`.
fn convert(call: &Call<'_>, ctx: &mut EvalContext) -> Datum {
    let bytes = call.bytes(0);
    let charset = call.ty.collation.charset();
    if charset == Charset::Binary {
        return Datum::Bytes(bytes.into_owned());
    }
    let Ok(text) = std::str::from_utf8(&bytes) else {
        let value = cairn_types::text::escape_bytes(&bytes);
        ctx.warn_args(errno::ER_INVALID_CHARACTER_STRING, &[&charset, &value]);
        return Datum::Null;
    };
    if charset.find_invalid(&bytes).is_none() {
        return Datum::from(text);
    }
    let fits = |c: char| charset.find_invalid(c.encode_utf8(&mut [0; 4]).as_bytes()).is_none();
    let converted: String = text.chars().map(|c| if fits(c) { c } else { '?' }).collect();
    debug_assert!(call.ty.collation != Collation::BINARY);
    Datum::from(converted)
}
