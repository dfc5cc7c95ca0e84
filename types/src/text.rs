//! Values as MySQL's text protocol prints them.

use crate::datum::DatumRef;
use crate::field_type::{FieldType, TypeCode};

/// Appends the text of a value. NULL appends nothing: the protocol marks it apart.
pub fn write_text(out: &mut Vec<u8>, value: DatumRef<'_>, field_type: &FieldType) {
    match value {
        DatumRef::Null => {}
        DatumRef::Int(value) => write_i64(value, out),
        DatumRef::UInt(value) => write_uint(value, field_type, out),
        DatumRef::Float(value) => match field_type.decimals {
            Some(decimals) if decimals < 31 => write_fixed(f64::from(value), decimals, out),
            _ => write_f32(value, out),
        },
        DatumRef::Double(value) => match field_type.decimals {
            Some(decimals) if decimals < 31 && field_type.is_real() => {
                write_fixed(value, decimals, out);
            }
            _ => write_f64(value, out),
        },
        DatumRef::Decimal(value) => match field_type.decimals {
            Some(scale) if field_type.is_decimal() && scale != value.scale() => {
                value.rescale(scale).unwrap_or(value).write_to(out);
            }
            _ => value.write_to(out),
        },
        DatumRef::Bytes(value) => out.extend_from_slice(value),
        DatumRef::Time(value) => value.write_to(out),
        DatumRef::Duration(value) => value.write_to(out),
        DatumRef::Json(value) => value.write_to(out),
    }
}

/// The first `length` characters of a text, or bytes of what is none: what an index on `column(n)`
/// holds of it.
pub fn prefix(value: &[u8], length: usize, is_binary: bool) -> &[u8] {
    let end = match std::str::from_utf8(value) {
        Ok(text) if !is_binary => text.char_indices().nth(length).map_or(value.len(), |(at, _)| at),
        _ => length.min(value.len()),
    };
    &value[..end]
}

/// Unsigned integers by what their type makes of them.
fn write_uint(value: u64, field_type: &FieldType, out: &mut Vec<u8>) {
    match field_type.code {
        TypeCode::Year => crate::time::push_digits(out, value.min(9999) as u32, 4),
        TypeCode::Bit => {
            let bytes = field_type.flen.unwrap_or(1).clamp(1, 64).div_ceil(8) as usize;
            out.extend_from_slice(&value.to_be_bytes()[8 - bytes..]);
        }
        TypeCode::Enum => {
            let at = (value as usize).checked_sub(1);
            if let Some(name) = at.and_then(|at| field_type.elements.get(at)) {
                out.extend_from_slice(name.as_bytes());
            }
        }
        TypeCode::Set => {
            let mut first = true;
            for (bit, name) in field_type.elements.iter().take(64).enumerate() {
                if value >> bit & 1 == 1 {
                    if !first {
                        out.push(b',');
                    }
                    first = false;
                    out.extend_from_slice(name.as_bytes());
                }
            }
        }
        _ if field_type.zerofill => {
            let start = out.len();
            write_u64(value, out);
            let width = field_type.integer_width() as usize;
            let missing = width.saturating_sub(out.len() - start);
            out.splice(start..start, std::iter::repeat_n(b'0', missing));
        }
        _ => write_u64(value, out),
    }
}

/// Appends a signed integer.
#[inline]
pub fn write_i64(value: i64, out: &mut Vec<u8>) {
    if value < 0 {
        out.push(b'-');
    }
    write_u64(value.unsigned_abs(), out);
}

/// Appends an unsigned integer.
#[inline]
pub fn write_u64(mut value: u64, out: &mut Vec<u8>) {
    let mut buffer = [0; 20];
    let mut at = buffer.len();
    loop {
        at -= 1;
        buffer[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(&buffer[at..]);
}

/// Appends a double: its shortest text that reads back as the same number; with
/// an exponent from 1e15 on and below 1e-15, as MySQL prints it (`1e20`).
pub fn write_f64(value: f64, out: &mut Vec<u8>) {
    write_scientific(&format!("{value:e}"), EXPONENT_PLAIN_MAX, out);
}

/// Appends a float: shortest text of single precision, of at most six digits, as
/// MySQL prints FLOAT columns.
pub fn write_f32(value: f32, out: &mut Vec<u8>) {
    let shortest = format!("{value:e}");
    let digits = shortest.bytes().take_while(|byte| *byte != b'e');
    let digits = digits.filter(u8::is_ascii_digit).count();
    if digits > FLOAT_DIGITS {
        write_scientific(&format!("{value:.*e}", FLOAT_DIGITS - 1), EXPONENT_PLAIN_MAX, out);
    } else {
        write_scientific(&shortest, EXPONENT_PLAIN_MAX, out);
    }
}

/// Digits MySQL prints of a FLOAT.
const FLOAT_DIGITS: usize = 6;
/// Exponents up to this size are written out.
const EXPONENT_PLAIN_MAX: i32 = 14;

/// Rewrites Rust's `d.ddde±x` into MySQL's form.
fn write_scientific(text: &str, plain_max: i32, out: &mut Vec<u8>) {
    let Some((mantissa, exponent)) = text.split_once('e') else {
        // Infinities and NaN never reach a client; print them as they are.
        return out.extend_from_slice(text.as_bytes());
    };
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let (sign, mantissa) = match mantissa.strip_prefix('-') {
        Some(rest) => ("-", rest),
        None => ("", mantissa),
    };
    let mut digits: Vec<u8> = mantissa.bytes().filter(u8::is_ascii_digit).collect();
    while digits.len() > 1 && digits.last() == Some(&b'0') {
        digits.pop();
    }
    out.extend_from_slice(sign.as_bytes());
    if digits == b"0" {
        return out.push(b'0');
    }
    if exponent > plain_max || exponent < -(plain_max + 1) {
        out.push(digits[0]);
        if digits.len() > 1 {
            out.push(b'.');
            out.extend_from_slice(&digits[1..]);
        }
        out.push(b'e');
        return write_i64(i64::from(exponent), out);
    }
    if exponent < 0 {
        out.extend_from_slice(b"0.");
        out.extend(std::iter::repeat_n(b'0', (-exponent - 1) as usize));
        return out.extend_from_slice(&digits);
    }
    let whole = exponent as usize + 1;
    if digits.len() <= whole {
        digits.resize(whole, b'0');
        return out.extend_from_slice(&digits);
    }
    out.extend_from_slice(&digits[..whole]);
    out.push(b'.');
    out.extend_from_slice(&digits[whole..]);
}

/// Appends a float of type FLOAT(M,D) or DOUBLE(M,D).
fn write_fixed(value: f64, decimals: u8, out: &mut Vec<u8>) {
    use std::io::Write;
    write!(out, "{value:.*}", usize::from(decimals)).expect("writing to a Vec does not fail");
}

/// Bytes as MySQL shows them in messages: printable ASCII as it is, others as
/// `\xE9`.
pub fn escape_bytes(bytes: &[u8]) -> String {
    use std::fmt::Write;
    /// Bytes shown before MySQL cuts with dots.
    const SHOWN_MAX: usize = 64;
    let mut out = String::new();
    for byte in bytes.iter().take(SHOWN_MAX) {
        if (0x20..0x7F).contains(byte) {
            out.push(char::from(*byte));
        } else {
            write!(out, "\\x{byte:02X}").expect("writing to a String does not fail");
        }
    }
    if bytes.len() > SHOWN_MAX {
        out.push_str("...");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Decimal;

    fn text(value: DatumRef<'_>, field_type: &FieldType) -> String {
        let mut out = Vec::new();
        write_text(&mut out, value, field_type);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn doubles_as_mysql_prints_them() {
        let cases: &[(f64, &str)] = &[
            (0.0, "0"),
            (-0.0, "-0"),
            (1.0, "1"),
            (0.1, "0.1"),
            (-1.5, "-1.5"),
            (1e14, "100000000000000"),
            (1e15, "1e15"),
            (1e20, "1e20"),
            (1.5e300, "1.5e300"),
            (1e-5, "0.00001"),
            (1e-15, "0.000000000000001"),
            (1e-16, "1e-16"),
            (1.4142135623730954, "1.4142135623730954"),
            (123456789.125, "123456789.125"),
        ];
        for (value, expected) in cases {
            assert_eq!(text(DatumRef::Double(*value), &FieldType::double()), *expected);
        }
        assert_eq!(text(DatumRef::Float(0.1), &FieldType::float()), "0.1");
        assert_eq!(text(DatumRef::Float(16777216.0), &FieldType::float()), "16777200");
        let fixed = FieldType::double().with_flen(10).with_decimals(2);
        assert_eq!(text(DatumRef::Double(1.005), &fixed), "1.00");
    }

    #[test]
    fn integers_by_their_type() {
        assert_eq!(text(DatumRef::Int(i64::MIN), &FieldType::bigint()), "-9223372036854775808");
        assert_eq!(text(DatumRef::UInt(5), &FieldType::year()), "0005");
        let zerofill = FieldType::int().with_flen(5).with_zerofill();
        assert_eq!(text(DatumRef::UInt(42), &zerofill), "00042");
        let members = FieldType::set(["a", "b", "c"]);
        assert_eq!(text(DatumRef::UInt(5), &members), "a,c");
        assert_eq!(text(DatumRef::UInt(2), &FieldType::enumeration(["x", "y"])), "y");
        assert_eq!(text(DatumRef::UInt(0), &FieldType::enumeration(["x", "y"])), "");
        assert_eq!(text(DatumRef::UInt(0x4142), &FieldType::bit(16)), "AB");
        let value: Decimal = "1.5".parse().unwrap();
        assert_eq!(text(DatumRef::Decimal(value), &FieldType::decimal(10, 3)), "1.500");
    }
}
