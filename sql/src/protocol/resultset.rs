//! Rows of result sets, as text (`COM_QUERY`) and binary (`COM_STMT_EXECUTE`).
//!
//! Source: MySQL 8.0 source docs, `page_protocol_com_query_response_text_resultset` and
//! `page_protocol_binary_resultset`.

use cairn_types::{DatumRef, FieldType, TypeCode, write_text};

use super::wire::{put_lenenc_bytes, put_lenenc_with};

/// How values are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowFormat {
    /// Everything as text.
    Text,
    /// By type.
    Binary,
}

/// Marks NULL in a text row.
pub const TEXT_NULL: u8 = 0xfb;
/// Bits before the first column in a binary row's NULL bitmap.
const BINARY_NULL_OFFSET: usize = 2;

/// Writes one row value by value: `begin`, `value` for each column in order.
#[derive(Debug)]
pub struct RowWriter {
    format: RowFormat,
    columns: usize,
    bitmap_at: usize,
    next: usize,
}

impl RowWriter {
    /// Begins a row of `columns` values at the end of `out`.
    pub fn begin(format: RowFormat, columns: usize, out: &mut Vec<u8>) -> Self {
        let mut bitmap_at = 0;
        if format == RowFormat::Binary {
            out.push(0);
            bitmap_at = out.len();
            out.resize(bitmap_at + (columns + 7 + BINARY_NULL_OFFSET) / 8, 0);
        }
        Self { format, columns, bitmap_at, next: 0 }
    }

    /// Appends the next value.
    pub fn value(&mut self, out: &mut Vec<u8>, value: DatumRef<'_>, ty: &FieldType) {
        debug_assert!(self.next < self.columns, "more values than columns");
        if matches!(value, DatumRef::Null) {
            self.null(out);
            return;
        }
        self.next += 1;
        match self.format {
            RowFormat::Text => put_lenenc_with(out, |out| write_text(out, value, ty)),
            RowFormat::Binary => write_binary(out, value, ty),
        }
    }

    /// Appends NULL.
    pub fn null(&mut self, out: &mut Vec<u8>) {
        match self.format {
            RowFormat::Text => out.push(TEXT_NULL),
            RowFormat::Binary => {
                let bit = self.next + BINARY_NULL_OFFSET;
                out[self.bitmap_at + bit / 8] |= 1 << (bit % 8);
            }
        }
        self.next += 1;
    }
}

fn integer_bits(value: DatumRef<'_>) -> u64 {
    match value {
        DatumRef::Int(value) => value as u64,
        DatumRef::UInt(value) => value,
        _ => 0,
    }
}

/// One value as its column's type says; the datum must be of that type's kind.
fn write_binary(out: &mut Vec<u8>, value: DatumRef<'_>, ty: &FieldType) {
    match (ty.code, value) {
        (TypeCode::TinyInt, value) => out.push(integer_bits(value) as u8),
        (TypeCode::SmallInt | TypeCode::Year, value) => {
            out.extend_from_slice(&(integer_bits(value) as u16).to_le_bytes());
        }
        (TypeCode::Int | TypeCode::MediumInt, value) => {
            out.extend_from_slice(&(integer_bits(value) as u32).to_le_bytes());
        }
        (TypeCode::BigInt, value) => out.extend_from_slice(&integer_bits(value).to_le_bytes()),
        (TypeCode::Float, DatumRef::Float(value)) => {
            out.extend_from_slice(&value.to_bits().to_le_bytes());
        }
        (TypeCode::Float, DatumRef::Double(value)) => {
            out.extend_from_slice(&(value as f32).to_bits().to_le_bytes());
        }
        (TypeCode::Double, DatumRef::Double(value)) => {
            out.extend_from_slice(&value.to_bits().to_le_bytes());
        }
        (TypeCode::Double, DatumRef::Float(value)) => {
            out.extend_from_slice(&f64::from(value).to_bits().to_le_bytes());
        }
        (TypeCode::Date | TypeCode::DateTime | TypeCode::Timestamp, DatumRef::Time(time)) => {
            write_datetime(out, time, ty.code == TypeCode::Date);
        }
        (TypeCode::Time, DatumRef::Duration(duration)) => write_time(out, duration.micros()),
        (_, DatumRef::Bytes(bytes)) => put_lenenc_bytes(out, bytes),
        (_, value) => put_lenenc_with(out, |out| write_text(out, value, ty)),
    }
}

fn write_datetime(out: &mut Vec<u8>, time: cairn_types::Time, date_only: bool) {
    let length_at = out.len();
    out.push(0);
    let clock = [time.hour(), time.minute(), time.second()];
    let micros = time.microsecond();
    let has_clock = !date_only && (clock != [0; 3] || micros != 0);
    if time.is_zero() && !has_clock {
        return;
    }
    out.extend_from_slice(&time.year().to_le_bytes());
    out.extend_from_slice(&[time.month(), time.day()]);
    if has_clock {
        out.extend_from_slice(&clock);
        if micros != 0 {
            out.extend_from_slice(&micros.to_le_bytes());
        }
    }
    out[length_at] = (out.len() - length_at - 1) as u8;
}

fn write_time(out: &mut Vec<u8>, total_micros: i64) {
    if total_micros == 0 {
        out.push(0);
        return;
    }
    let negative = total_micros < 0;
    let total = total_micros.unsigned_abs();
    let (seconds, micros) = (total / 1_000_000, (total % 1_000_000) as u32);
    out.push(if micros == 0 { 8 } else { 12 });
    out.push(u8::from(negative));
    out.extend_from_slice(&((seconds / 86_400) as u32).to_le_bytes());
    out.push((seconds / 3_600 % 24) as u8);
    out.push((seconds / 60 % 60) as u8);
    out.push((seconds % 60) as u8);
    if micros != 0 {
        out.extend_from_slice(&micros.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_rows_carry_lengths_and_nulls() {
        let mut out = Vec::new();
        let mut row = RowWriter::begin(RowFormat::Text, 2, &mut out);
        row.value(&mut out, DatumRef::Int(-42), &FieldType::bigint());
        row.value(&mut out, DatumRef::Null, &FieldType::bigint());
        assert_eq!(out, [3, b'-', b'4', b'2', TEXT_NULL]);
    }

    #[test]
    fn binary_rows_mark_nulls_in_the_bitmap() {
        let mut out = Vec::new();
        let mut row = RowWriter::begin(RowFormat::Binary, 3, &mut out);
        row.value(&mut out, DatumRef::Int(7), &FieldType::int());
        row.value(&mut out, DatumRef::Null, &FieldType::int());
        row.value(&mut out, DatumRef::Bytes(b"ab"), &FieldType::varchar(8));
        assert_eq!(out, [0, 0b1000, 7, 0, 0, 0, 2, b'a', b'b']);
    }

    #[test]
    fn times_carry_days_and_fractions() {
        let mut out = Vec::new();
        write_time(&mut out, -((25 * 3600 + 61) * 1_000_000 + 5));
        assert_eq!(out, [12, 1, 1, 0, 0, 0, 1, 1, 1, 5, 0, 0, 0]);
    }
}
