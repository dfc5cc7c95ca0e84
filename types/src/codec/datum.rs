//! Datums as memcomparable keys.

use super::{
    CORRUPTED, decode_bytes, decode_decimal, decode_f64, decode_i64, decode_u64, encode_bytes,
    encode_decimal, encode_f64, encode_i64, encode_tail, encode_u64, skip_bytes,
};
use crate::datum::{Datum, DatumRef};
use crate::error::Result;
use crate::field_type::{FieldType, PhysicalKind, TypeCode};
use crate::time::{Duration, Time, TimeKind};

/// First byte of an encoded datum. Ranges may use `NULL`, `NOT_NULL_MIN` and
/// `MAX` alone as bounds.
pub mod flag {
    /// NULL; nothing follows.
    pub const NULL: u8 = 0x00;
    /// Below every value that is not NULL.
    pub const NOT_NULL_MIN: u8 = 0x01;
    /// Text (by collation) and bytes.
    pub const BYTES: u8 = 0x02;
    /// Signed integer.
    pub const INT: u8 = 0x03;
    /// Unsigned integer, YEAR, BIT, ENUM, SET.
    pub const UINT: u8 = 0x04;
    /// FLOAT and DOUBLE.
    pub const DOUBLE: u8 = 0x05;
    /// DECIMAL.
    pub const DECIMAL: u8 = 0x06;
    /// DATE, DATETIME, TIMESTAMP.
    pub const TIME: u8 = 0x07;
    /// TIME.
    pub const DURATION: u8 = 0x08;
    /// JSON (never stored; groups and sorts by it).
    pub const JSON: u8 = 0x0A;
    /// Above every value.
    pub const MAX: u8 = 0xFA;
}

/// Appends a value as a memcomparable key column.
///
/// Text goes through the sort key of the type's collation. The value is of the
/// type's kind; an integer of the other sign than its type is re-flagged if it
/// fits, so that literals need no cast.
#[inline]
pub fn encode_datum_key(out: &mut Vec<u8>, value: &DatumRef<'_>, field_type: &FieldType) {
    match value {
        DatumRef::Null => out.push(flag::NULL),
        DatumRef::Int(value) if field_type.physical() == PhysicalKind::UInt && *value >= 0 => {
            out.push(flag::UINT);
            encode_u64(out, *value as u64);
        }
        DatumRef::UInt(value)
            if field_type.physical() == PhysicalKind::Int && *value <= i64::MAX as u64 =>
        {
            out.push(flag::INT);
            encode_i64(out, *value as i64);
        }
        DatumRef::Int(value) => {
            out.push(flag::INT);
            encode_i64(out, *value);
        }
        DatumRef::UInt(value) => {
            out.push(flag::UINT);
            encode_u64(out, *value);
        }
        DatumRef::Float(value) => {
            out.push(flag::DOUBLE);
            encode_f64(out, f64::from(*value));
        }
        DatumRef::Double(value) => {
            out.push(flag::DOUBLE);
            encode_f64(out, *value);
        }
        DatumRef::Decimal(value) => {
            out.push(flag::DECIMAL);
            encode_decimal(out, value);
        }
        DatumRef::Bytes(value) => encode_text(out, value, field_type),
        DatumRef::Time(value) => {
            out.push(flag::TIME);
            encode_u64(out, value.packed() >> 4);
        }
        DatumRef::Duration(value) => {
            out.push(flag::DURATION);
            encode_i64(out, value.micros());
        }
        DatumRef::Json(value) => {
            out.push(flag::JSON);
            value.encode_key(out);
        }
    }
}

fn encode_text(out: &mut Vec<u8>, value: &[u8], field_type: &FieldType) {
    out.push(flag::BYTES);
    let collation = field_type.collation;
    if collation.is_bytewise() && !collation.pad_space() {
        return encode_bytes(out, value);
    }
    let start = out.len();
    collation.sort_key(value, out);
    encode_tail(out, start);
}

/// Appends several columns.
pub fn encode_key<'a>(
    out: &mut Vec<u8>,
    columns: impl IntoIterator<Item = (DatumRef<'a>, &'a FieldType)>,
) {
    for (value, field_type) in columns {
        encode_datum_key(out, &value, field_type);
    }
}

/// Whether [`decode_datum_key`] gives back the very value that was encoded.
/// Otherwise an index entry keeps the value in its value part.
pub fn key_is_restorable(field_type: &FieldType) -> bool {
    match field_type.physical() {
        PhysicalKind::Json => false,
        PhysicalKind::Bytes => {
            let collation = field_type.collation;
            // CHAR never ends in blanks, so dropping them loses nothing.
            collation.is_bytewise() && (!collation.pad_space() || field_type.code == TypeCode::Char)
        }
        _ => true,
    }
}

/// Reads a column, advancing `input`.
///
/// For types that are not restorable, text comes back as its sort key's bytes if
/// the collation is bytewise, and is refused otherwise.
pub fn decode_datum_key(input: &mut &[u8], field_type: &FieldType) -> Result<Datum> {
    let (flag, rest) = input.split_first().ok_or(CORRUPTED)?;
    *input = rest;
    let kind = field_type.physical();
    Ok(match (*flag, kind) {
        (flag::NULL, _) => Datum::Null,
        (flag::INT, PhysicalKind::Int) => Datum::Int(decode_i64(input)?),
        (flag::UINT, PhysicalKind::UInt) => Datum::UInt(decode_u64(input)?),
        (flag::DOUBLE, PhysicalKind::Float) => Datum::Float(decode_f64(input)? as f32),
        (flag::DOUBLE, PhysicalKind::Double) => Datum::Double(decode_f64(input)?),
        (
            flag::DECIMAL,
            PhysicalKind::Decimal64 | PhysicalKind::Decimal128 | PhysicalKind::DecimalWide,
        ) => {
            let value = decode_decimal(input)?;
            if !value.fits(field_type.precision(), field_type.scale()) {
                return Err(CORRUPTED);
            }
            Datum::Decimal(value.rescale(field_type.scale())?)
        }
        (flag::TIME, PhysicalKind::Time) => {
            let fields = decode_u64(input)?;
            if fields >> 60 != 0 {
                return Err(CORRUPTED);
            }
            let time = Time::from_packed(fields << 4)?;
            let kind = TimeKind::of(field_type).unwrap_or(TimeKind::DateTime);
            Datum::Time(time.with_kind(kind).with_fsp(field_type.fsp()))
        }
        (flag::DURATION, PhysicalKind::Duration) => {
            Datum::Duration(Duration::from_micros(decode_i64(input)?, field_type.fsp())?)
        }
        (flag::BYTES, PhysicalKind::Bytes) if field_type.collation.is_bytewise() => {
            let mut bytes = Vec::new();
            decode_bytes(input, &mut bytes)?;
            Datum::Bytes(bytes)
        }
        _ => return Err(CORRUPTED),
    })
}

/// Length of the column at the front of `key`, without knowing its type.
pub fn skip_datum_key(key: &[u8]) -> Result<usize> {
    let (flag, mut rest) = key.split_first().ok_or(CORRUPTED)?;
    match *flag {
        flag::NULL => {}
        flag::INT | flag::UINT | flag::DOUBLE | flag::TIME | flag::DURATION => {
            rest = rest.get(8..).ok_or(CORRUPTED)?;
        }
        flag::DECIMAL => {
            decode_decimal(&mut rest)?;
        }
        flag::BYTES | flag::JSON => skip_bytes(&mut rest)?,
        _ => return Err(CORRUPTED),
    }
    Ok(key.len() - rest.len())
}
