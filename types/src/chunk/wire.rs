//! Chunks as bytes: buffers as they lie in memory, little endian.
//!
//! ```text
//! version u8 | flags u8 (1: selection) | columns u16 | rows u32
//! [selected u32 | row u32 …]
//! per column: kind u8 | scale or fsp u8 | nulls u8 (1: validity follows)
//!             [validity, one bit per row]
//!             fixed width: rows × width
//!             bytes, json: (rows + 1) × u32 offsets, data
//!             wide decimal: rows × (length u8, text)
//! ```

use super::{Bitmap, Chunk, Column, ColumnData};
use crate::decimal::Decimal;
use crate::error::{Result, TypeError};
use crate::field_type::{DECIMAL_SCALE_MAX, FSP_MAX, FieldType, PhysicalKind, TypeCode};
use crate::json::JsonRef;
use crate::time::{Duration, Time};

const VERSION: u8 = 1;
const FLAG_SELECTION: u8 = 1;
/// Most rows of a chunk on the wire, so that a forged count cannot ask for
/// memory; well above [`super::CHUNK_ROWS_MAX`].
const ROWS_MAX: usize = 1 << 24;

const CORRUPTED: TypeError = TypeError::Corrupted("chunk");

const KIND_INT: u8 = 1;
const KIND_UINT: u8 = 2;
const KIND_FLOAT: u8 = 3;
const KIND_DOUBLE: u8 = 4;
const KIND_DECIMAL64: u8 = 5;
const KIND_DECIMAL128: u8 = 6;
const KIND_DECIMAL_WIDE: u8 = 7;
const KIND_TIME: u8 = 8;
const KIND_DURATION: u8 = 9;
const KIND_BYTES: u8 = 10;
const KIND_JSON: u8 = 11;

fn kind_byte(data: &ColumnData) -> u8 {
    match data {
        ColumnData::Int(_) => KIND_INT,
        ColumnData::UInt(_) => KIND_UINT,
        ColumnData::Float(_) => KIND_FLOAT,
        ColumnData::Double(_) => KIND_DOUBLE,
        ColumnData::Decimal64 { .. } => KIND_DECIMAL64,
        ColumnData::Decimal128 { .. } => KIND_DECIMAL128,
        ColumnData::DecimalWide(_) => KIND_DECIMAL_WIDE,
        ColumnData::Time(_) => KIND_TIME,
        ColumnData::Duration(_) => KIND_DURATION,
        ColumnData::Bytes { .. } => KIND_BYTES,
        ColumnData::Json { .. } => KIND_JSON,
    }
}

fn kind_of(physical: PhysicalKind) -> u8 {
    match physical {
        PhysicalKind::Int => KIND_INT,
        PhysicalKind::UInt => KIND_UINT,
        PhysicalKind::Float => KIND_FLOAT,
        PhysicalKind::Double => KIND_DOUBLE,
        PhysicalKind::Decimal64 => KIND_DECIMAL64,
        PhysicalKind::Decimal128 => KIND_DECIMAL128,
        PhysicalKind::DecimalWide => KIND_DECIMAL_WIDE,
        PhysicalKind::Time => KIND_TIME,
        PhysicalKind::Duration => KIND_DURATION,
        PhysicalKind::Bytes => KIND_BYTES,
        PhysicalKind::Json => KIND_JSON,
    }
}

impl Chunk {
    /// Appends the wire form.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(VERSION);
        out.push(if self.sel.is_some() { FLAG_SELECTION } else { 0 });
        out.extend_from_slice(&(self.columns.len() as u16).to_le_bytes());
        out.extend_from_slice(&(self.num_rows() as u32).to_le_bytes());
        if let Some(sel) = &self.sel {
            out.extend_from_slice(&(sel.len() as u32).to_le_bytes());
            write_words(out, sel, u32::to_le_bytes);
        }
        self.columns.iter().for_each(|column| encode_column(column, out));
    }

    /// Reads the wire form of rows of these types, and checks all of it.
    pub fn decode(bytes: &[u8], field_types: &[FieldType]) -> Result<Chunk> {
        let mut input = bytes;
        let [version, flags, c0, c1] = *take_array::<4>(&mut input)?;
        let columns = usize::from(u16::from_le_bytes([c0, c1]));
        let rows = take_u32(&mut input)? as usize;
        if version != VERSION
            || flags > FLAG_SELECTION
            || columns != field_types.len()
            || rows > ROWS_MAX
        {
            return Err(CORRUPTED);
        }
        let sel = if flags & FLAG_SELECTION != 0 {
            let count = take_u32(&mut input)? as usize;
            let sel: Vec<u32> = read_words(&mut input, count, u32::from_le_bytes)?;
            let ascending = sel.windows(2).all(|pair| pair[0] < pair[1]);
            if !ascending || sel.last().is_some_and(|last| *last as usize >= rows) {
                return Err(CORRUPTED);
            }
            Some(sel)
        } else {
            None
        };
        let mut chunk = Chunk { columns: Vec::with_capacity(columns), sel, ..Chunk::default() };
        for field_type in field_types {
            chunk.columns.push(decode_column(&mut input, field_type, rows)?);
        }
        if columns == 0 {
            chunk.rows_without_columns = rows;
        }
        if input.is_empty() { Ok(chunk) } else { Err(CORRUPTED) }
    }
}

fn encode_column(column: &Column, out: &mut Vec<u8>) {
    let scale = match &column.data {
        ColumnData::Decimal64 { scale, .. } | ColumnData::Decimal128 { scale, .. } => *scale,
        _ => column.fsp,
    };
    let nulls = column.has_nulls();
    out.extend_from_slice(&[kind_byte(&column.data), scale, u8::from(nulls)]);
    if nulls {
        out.extend_from_slice(column.validity.as_bytes());
    }
    match &column.data {
        ColumnData::Int(values) | ColumnData::Duration(values) => {
            write_words(out, values, i64::to_le_bytes);
        }
        ColumnData::Decimal64 { values, .. } => write_words(out, values, i64::to_le_bytes),
        ColumnData::UInt(values) | ColumnData::Time(values) => {
            write_words(out, values, u64::to_le_bytes);
        }
        ColumnData::Float(values) => write_words(out, values, f32::to_le_bytes),
        ColumnData::Double(values) => write_words(out, values, f64::to_le_bytes),
        ColumnData::Decimal128 { values, .. } => write_words(out, values, i128::to_le_bytes),
        ColumnData::DecimalWide(values) => {
            for value in values {
                let at = out.len();
                out.push(0);
                value.write_to(out);
                out[at] = (out.len() - at - 1) as u8;
            }
        }
        ColumnData::Bytes { offsets, data } | ColumnData::Json { offsets, data } => {
            write_words(out, offsets, u32::to_le_bytes);
            out.extend_from_slice(data);
        }
    }
}

fn decode_column(input: &mut &[u8], field_type: &FieldType, rows: usize) -> Result<Column> {
    let [kind, scale, nulls] = *take_array::<3>(input)?;
    let validity = match nulls {
        0 => Bitmap::filled(rows, true),
        1 => {
            let bytes = take(input, rows.div_ceil(8))?;
            Bitmap::from_bytes(bytes.to_vec(), rows).ok_or(CORRUPTED)?
        }
        _ => return Err(CORRUPTED),
    };
    let fits = match field_type.physical() {
        // A column widens when a value has more digits than its type promised.
        PhysicalKind::Decimal64 | PhysicalKind::Decimal128 | PhysicalKind::DecimalWide => {
            (KIND_DECIMAL64..=KIND_DECIMAL_WIDE).contains(&kind) && scale <= DECIMAL_SCALE_MAX
        }
        PhysicalKind::Duration => kind == KIND_DURATION && scale <= FSP_MAX,
        physical => kind == kind_of(physical) && scale == 0,
    };
    if !fits {
        return Err(CORRUPTED);
    }
    let fsp = if field_type.code == TypeCode::Time { scale } else { 0 };
    let data = decode_data(input, kind, scale, &validity)?;
    Ok(Column { data, validity, fsp })
}

fn decode_data(input: &mut &[u8], kind: u8, scale: u8, validity: &Bitmap) -> Result<ColumnData> {
    let rows = validity.len();
    Ok(match kind {
        KIND_INT => ColumnData::Int(read_words(input, rows, i64::from_le_bytes)?),
        KIND_UINT => ColumnData::UInt(read_words(input, rows, u64::from_le_bytes)?),
        KIND_FLOAT => ColumnData::Float(read_words(input, rows, f32::from_le_bytes)?),
        KIND_DOUBLE => ColumnData::Double(read_words(input, rows, f64::from_le_bytes)?),
        KIND_DECIMAL64 => {
            let values = read_words(input, rows, i64::from_le_bytes)?;
            ColumnData::Decimal64 { values, scale }
        }
        KIND_DECIMAL128 => {
            let values = read_words(input, rows, i128::from_le_bytes)?;
            ColumnData::Decimal128 { values, scale }
        }
        KIND_DECIMAL_WIDE => {
            // Each takes a byte at least, which bounds the allocation.
            let mut values = Vec::with_capacity(rows.min(input.len()));
            for _ in 0..rows {
                let [len] = *take_array::<1>(input)?;
                let text = take(input, usize::from(len))?;
                let text = std::str::from_utf8(text).map_err(|_| CORRUPTED)?;
                values.push(text.parse::<Decimal>().map_err(|_| CORRUPTED)?);
            }
            ColumnData::DecimalWide(values)
        }
        KIND_TIME => {
            let values = read_words(input, rows, u64::from_le_bytes)?;
            if values.iter().any(|packed| Time::from_packed(*packed).is_err()) {
                return Err(CORRUPTED);
            }
            ColumnData::Time(values)
        }
        KIND_DURATION => {
            let values = read_words(input, rows, i64::from_le_bytes)?;
            if values.iter().any(|micros| micros.unsigned_abs() > Duration::MAX_MICROS as u64) {
                return Err(CORRUPTED);
            }
            ColumnData::Duration(values)
        }
        KIND_BYTES => {
            let (offsets, data) = read_slices(input, rows)?;
            ColumnData::Bytes { offsets, data }
        }
        KIND_JSON => {
            let (offsets, data) = read_slices(input, rows)?;
            for (i, pair) in offsets.windows(2).enumerate() {
                if validity.get(i) {
                    JsonRef::parse(&data[pair[0] as usize..pair[1] as usize])?;
                }
            }
            ColumnData::Json { offsets, data }
        }
        _ => return Err(CORRUPTED),
    })
}

fn read_slices(input: &mut &[u8], rows: usize) -> Result<(Vec<u32>, Vec<u8>)> {
    let offsets: Vec<u32> = read_words(input, rows + 1, u32::from_le_bytes)?;
    let ascending = offsets.windows(2).all(|pair| pair[0] <= pair[1]);
    if offsets.first() != Some(&0) || !ascending {
        return Err(CORRUPTED);
    }
    let len = offsets.last().copied().unwrap_or(0) as usize;
    Ok((offsets, take(input, len)?.to_vec()))
}

/// Appends fixed-width values; compiles to a copy on little-endian machines.
fn write_words<T: Copy, const N: usize>(
    out: &mut Vec<u8>,
    values: &[T],
    to_bytes: impl Fn(T) -> [u8; N],
) {
    let start = out.len();
    out.resize(start + N * values.len(), 0);
    for (slot, value) in out[start..].chunks_exact_mut(N).zip(values) {
        slot.copy_from_slice(&to_bytes(*value));
    }
}

fn read_words<T, const N: usize>(
    input: &mut &[u8],
    count: usize,
    from_bytes: impl Fn([u8; N]) -> T,
) -> Result<Vec<T>> {
    let bytes = take(input, count.checked_mul(N).ok_or(CORRUPTED)?)?;
    let (words, _) = bytes.as_chunks::<N>();
    Ok(words.iter().map(|word| from_bytes(*word)).collect())
}

fn take<'a>(input: &mut &'a [u8], len: usize) -> Result<&'a [u8]> {
    let (head, rest) = input.split_at_checked(len).ok_or(CORRUPTED)?;
    *input = rest;
    Ok(head)
}

fn take_array<'a, const N: usize>(input: &mut &'a [u8]) -> Result<&'a [u8; N]> {
    let (head, rest) = input.split_first_chunk::<N>().ok_or(CORRUPTED)?;
    *input = rest;
    Ok(head)
}

fn take_u32(input: &mut &[u8]) -> Result<u32> {
    take_array::<4>(input).map(|bytes| u32::from_le_bytes(*bytes))
}
