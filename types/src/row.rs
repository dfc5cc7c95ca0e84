//! The stored form of a row.
//!
//! ```text
//! version u8 | layout u8 | values u16 | nulls u16
//! value ids  | null ids           small: u8 each; large: u32 each; ascending
//! value ends                      small: u16 each; large: u32 each
//! values, end to end
//! ```
//!
//! The large layout is used once an id passes 255 or the values pass 64 KiB.
//! Absent columns were added after the row was written and read as their default;
//! columns that are there but not in the schema were dropped and are skipped. A
//! reader decodes only the columns it wants.
//!
//! Values: integers, TIME and the like in the fewest of 1, 2, 4, 8 bytes; floats,
//! doubles and packed times as they are; decimals as scale and mantissa; text and
//! JSON as bytes. All little endian. A TIMESTAMP is in UTC.
//!
//! **Sources.** TiDB "A new storage row format for efficient decoding" (2018).

use crate::chunk::{Column, ColumnData};
use crate::datum::{Datum, DatumRef};
use crate::decimal::Decimal;
use crate::error::{Result, TypeError};
use crate::field_type::{FieldType, PhysicalKind, TypeCode};
use crate::ids::ColumnId;
use crate::json::JsonRef;
use crate::time::{Duration, Time, TimeZone};

const VERSION: u8 = 0x81;
const LAYOUT_SMALL: u8 = 0;
const LAYOUT_LARGE: u8 = 1;
const HEADER_LEN: usize = 6;

const CORRUPTED: TypeError = TypeError::Corrupted("row");

/// Builds rows; reuse one to reuse its buffers.
#[derive(Debug, Default)]
pub struct RowEncoder {
    /// Column id and range of its value.
    values: Vec<(u32, usize, usize)>,
    nulls: Vec<u32>,
    data: Vec<u8>,
}

impl RowEncoder {
    /// An encoder without columns.
    pub fn new() -> RowEncoder {
        RowEncoder::default()
    }

    /// Forgets all columns, keeping the buffers.
    pub fn clear(&mut self) {
        self.values.clear();
        self.nulls.clear();
        self.data.clear();
    }

    /// Adds a column; any order will do. Fails only if the id is out of range
    /// (0 to 2^32 - 1).
    pub fn push(&mut self, id: ColumnId, value: DatumRef<'_>) -> Result<()> {
        let id = u32::try_from(id.0).map_err(|_| TypeError::Corrupted("column id"))?;
        if value.is_null() {
            self.nulls.push(id);
            return Ok(());
        }
        let start = self.data.len();
        encode_value(&mut self.data, &value);
        self.values.push((id, start, self.data.len()));
        Ok(())
    }

    /// Appends the row and forgets its columns.
    pub fn finish_to(&mut self, out: &mut Vec<u8>) {
        self.values.sort_unstable_by_key(|(id, ..)| *id);
        self.nulls.sort_unstable();
        let id_max = self.values.last().map_or(0, |(id, ..)| *id);
        let id_max = id_max.max(self.nulls.last().copied().unwrap_or(0));
        let large = id_max > u32::from(u8::MAX) || self.data.len() > usize::from(u16::MAX);

        out.reserve(HEADER_LEN + 8 * self.values.len() + 4 * self.nulls.len() + self.data.len());
        out.push(VERSION);
        out.push(if large { LAYOUT_LARGE } else { LAYOUT_SMALL });
        out.extend_from_slice(&(self.values.len() as u16).to_le_bytes());
        out.extend_from_slice(&(self.nulls.len() as u16).to_le_bytes());
        let ids = self.values.iter().map(|(id, ..)| id).chain(&self.nulls);
        let mut end = 0;
        let ends = self.values.iter().map(|(_, from, to)| {
            end += to - from;
            end as u32
        });
        if large {
            ids.for_each(|id| out.extend_from_slice(&id.to_le_bytes()));
            ends.for_each(|end| out.extend_from_slice(&end.to_le_bytes()));
        } else {
            ids.for_each(|id| out.push(*id as u8));
            ends.for_each(|end| out.extend_from_slice(&(end as u16).to_le_bytes()));
        }
        for (_, from, to) in &self.values {
            out.extend_from_slice(&self.data[*from..*to]);
        }
        self.clear();
    }

    /// The row, owned.
    pub fn finish(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        self.finish_to(&mut out);
        out
    }
}

/// A row of these columns.
pub fn encode_row<'a>(
    columns: impl IntoIterator<Item = (ColumnId, DatumRef<'a>)>,
) -> Result<Vec<u8>> {
    let mut encoder = RowEncoder::new();
    for (id, value) in columns {
        encoder.push(id, value)?;
    }
    Ok(encoder.finish())
}

/// A stored row, validated, its values in place.
#[derive(Clone, Copy, Debug)]
pub struct RowView<'a> {
    large: bool,
    values: usize,
    nulls: usize,
    /// Value ids, null ids.
    ids: &'a [u8],
    ends: &'a [u8],
    data: &'a [u8],
}

impl<'a> RowView<'a> {
    /// Reads the header and checks it.
    pub fn parse(bytes: &'a [u8]) -> Result<RowView<'a>> {
        let (header, rest) = bytes.split_first_chunk::<HEADER_LEN>().ok_or(CORRUPTED)?;
        let [version, layout, v0, v1, n0, n1] = *header;
        if version != VERSION || layout > LAYOUT_LARGE {
            return Err(CORRUPTED);
        }
        let large = layout == LAYOUT_LARGE;
        let values = usize::from(u16::from_le_bytes([v0, v1]));
        let nulls = usize::from(u16::from_le_bytes([n0, n1]));
        let (id_len, end_len) = if large { (4, 4) } else { (1, 2) };
        let (ids, rest) = rest.split_at_checked((values + nulls) * id_len).ok_or(CORRUPTED)?;
        let (ends, data) = rest.split_at_checked(values * end_len).ok_or(CORRUPTED)?;
        let view = RowView { large, values, nulls, ids, ends, data };
        let mut previous = 0;
        for i in 0..values {
            let end = view.end(i);
            if end < previous {
                return Err(CORRUPTED);
            }
            previous = end;
        }
        if previous == data.len() { Ok(view) } else { Err(CORRUPTED) }
    }

    #[inline]
    fn id(&self, i: usize) -> u32 {
        if self.large { read_u32(self.ids, i) } else { u32::from(self.ids[i]) }
    }

    #[inline]
    fn end(&self, i: usize) -> usize {
        if self.large {
            read_u32(self.ends, i) as usize
        } else {
            usize::from(u16::from_le_bytes([self.ends[2 * i], self.ends[2 * i + 1]]))
        }
    }

    #[inline]
    fn value(&self, i: usize) -> &'a [u8] {
        let start = if i == 0 { 0 } else { self.end(i - 1) };
        &self.data[start..self.end(i)]
    }

    /// A column: `None` if the row does not have it, `Some(None)` if it is NULL.
    #[inline]
    pub fn get(&self, id: ColumnId) -> Option<Option<&'a [u8]>> {
        let id = u32::try_from(id.0).ok()?;
        if let Some(i) = self.find(0, self.values, id) {
            return Some(Some(self.value(i)));
        }
        self.find(self.values, self.values + self.nulls, id).map(|_| None)
    }

    /// Position of an id among the ids `low..high`.
    #[inline]
    fn find(&self, low: usize, high: usize, id: u32) -> Option<usize> {
        if !self.large {
            let wanted = u8::try_from(id).ok()?;
            // Rows are narrow: a scan over bytes beats a binary search.
            return self.ids[low..high].iter().position(|own| *own == wanted).map(|i| low + i);
        }
        let (mut from, mut to) = (low, high);
        while from < to {
            let middle = from + (to - from) / 2;
            match self.id(middle).cmp(&id) {
                std::cmp::Ordering::Less => from = middle + 1,
                std::cmp::Ordering::Greater => to = middle,
                std::cmp::Ordering::Equal => return Some(middle),
            }
        }
        None
    }

    /// Whether another row has the same columns, of which the same are NULL.
    #[inline]
    fn is_shaped_like(&self, shape: &Shape) -> bool {
        self.values == shape.values && self.large == shape.large && self.ids == &shape.ids[..]
    }

    /// All columns of the row: values, then NULLs.
    pub fn columns(&self) -> impl Iterator<Item = (ColumnId, Option<&'a [u8]>)> + '_ {
        (0..self.values + self.nulls).map(|i| {
            let value = (i < self.values).then(|| self.value(i));
            (ColumnId(i64::from(self.id(i))), value)
        })
    }
}

/// Which columns a row has.
#[derive(Debug, Default)]
struct Shape {
    large: bool,
    values: usize,
    ids: Vec<u8>,
}

/// Where a column is in rows of one shape.
#[derive(Clone, Copy, Debug)]
enum Place {
    Absent,
    Null,
    Value(usize),
}

/// Finds the same columns in row after row. Most rows of a table have the same columns as the one
/// before; then nothing is looked for.
#[derive(Debug)]
pub struct ColumnFinder {
    wanted: Vec<ColumnId>,
    shape: Shape,
    /// Of each wanted column, in rows of that shape; empty before the first row.
    places: Vec<Place>,
}

impl ColumnFinder {
    /// Looks for these columns.
    pub fn new(wanted: impl IntoIterator<Item = ColumnId>) -> ColumnFinder {
        let wanted = wanted.into_iter().collect();
        ColumnFinder { wanted, shape: Shape::default(), places: Vec::new() }
    }

    /// The n-th wanted column of a row, as [`RowView::get`] gives it, for every n.
    #[inline]
    pub fn find<'a>(
        &mut self,
        row: &RowView<'a>,
    ) -> impl Fn(usize) -> Option<Option<&'a [u8]>> + use<'a, '_> {
        if self.places.is_empty() || !row.is_shaped_like(&self.shape) {
            self.learn(row);
        }
        let (places, row) = (&self.places, *row);
        move |n| match places[n] {
            Place::Absent => None,
            Place::Null => Some(None),
            Place::Value(at) => Some(Some(row.value(at))),
        }
    }

    #[cold]
    fn learn(&mut self, row: &RowView<'_>) {
        self.shape = Shape { large: row.large, values: row.values, ids: row.ids.to_vec() };
        let place = |id: &ColumnId| {
            let id = u32::try_from(id.0).ok()?;
            let value = row.find(0, row.values, id).map(Place::Value);
            value.or_else(|| row.find(row.values, row.values + row.nulls, id).map(|_| Place::Null))
        };
        self.places = self.wanted.iter().map(|id| place(id).unwrap_or(Place::Absent)).collect();
    }
}

#[inline]
fn read_u32(bytes: &[u8], i: usize) -> u32 {
    u32::from_le_bytes([bytes[4 * i], bytes[4 * i + 1], bytes[4 * i + 2], bytes[4 * i + 3]])
}

/// Appends a value that is not NULL (NULL appends nothing).
pub fn encode_value(out: &mut Vec<u8>, value: &DatumRef<'_>) {
    match value {
        DatumRef::Null => {}
        DatumRef::Int(value) => write_int(out, *value),
        DatumRef::UInt(value) => write_uint(out, *value),
        DatumRef::Float(value) => out.extend_from_slice(&value.to_le_bytes()),
        DatumRef::Double(value) => out.extend_from_slice(&value.to_le_bytes()),
        DatumRef::Decimal(value) => write_decimal(out, value),
        DatumRef::Bytes(value) => out.extend_from_slice(value),
        DatumRef::Time(value) => out.extend_from_slice(&value.packed().to_le_bytes()),
        DatumRef::Duration(value) => write_int(out, value.micros()),
        DatumRef::Json(value) => out.extend_from_slice(value.as_bytes()),
    }
}

fn write_int(out: &mut Vec<u8>, value: i64) {
    if let Ok(value) = i8::try_from(value) {
        out.extend_from_slice(&value.to_le_bytes());
    } else if let Ok(value) = i16::try_from(value) {
        out.extend_from_slice(&value.to_le_bytes());
    } else if let Ok(value) = i32::try_from(value) {
        out.extend_from_slice(&value.to_le_bytes());
    } else {
        out.extend_from_slice(&value.to_le_bytes());
    }
}

fn write_uint(out: &mut Vec<u8>, value: u64) {
    if let Ok(value) = u8::try_from(value) {
        out.extend_from_slice(&value.to_le_bytes());
    } else if let Ok(value) = u16::try_from(value) {
        out.extend_from_slice(&value.to_le_bytes());
    } else if let Ok(value) = u32::try_from(value) {
        out.extend_from_slice(&value.to_le_bytes());
    } else {
        out.extend_from_slice(&value.to_le_bytes());
    }
}

#[inline]
fn read_int(bytes: &[u8]) -> Result<i64> {
    Ok(match *bytes {
        [a] => i64::from(a as i8),
        [a, b] => i64::from(i16::from_le_bytes([a, b])),
        [a, b, c, d] => i64::from(i32::from_le_bytes([a, b, c, d])),
        [a, b, c, d, e, f, g, h] => i64::from_le_bytes([a, b, c, d, e, f, g, h]),
        _ => return Err(CORRUPTED),
    })
}

#[inline]
fn read_uint(bytes: &[u8]) -> Result<u64> {
    Ok(match *bytes {
        [a] => u64::from(a),
        [a, b] => u64::from(u16::from_le_bytes([a, b])),
        [a, b, c, d] => u64::from(u32::from_le_bytes([a, b, c, d])),
        [a, b, c, d, e, f, g, h] => u64::from_le_bytes([a, b, c, d, e, f, g, h]),
        _ => return Err(CORRUPTED),
    })
}

/// Stands in the place of the scale before a decimal kept as text.
const DECIMAL_AS_TEXT: u8 = 0xFF;

/// Scale, then the mantissa: as an integer, as 16 bytes, or as text if wider.
fn write_decimal(out: &mut Vec<u8>, value: &Decimal) {
    match value.mantissa() {
        Some(mantissa) => {
            out.push(value.scale());
            match i64::try_from(mantissa) {
                Ok(mantissa) => write_int(out, mantissa),
                Err(_) => out.extend_from_slice(&mantissa.to_le_bytes()),
            }
        }
        None => {
            out.push(DECIMAL_AS_TEXT);
            value.write_to(out);
        }
    }
}

fn read_decimal(bytes: &[u8]) -> Result<Decimal> {
    let (scale, rest) = bytes.split_first().ok_or(CORRUPTED)?;
    if *scale == DECIMAL_AS_TEXT {
        let text = std::str::from_utf8(rest).map_err(|_| CORRUPTED)?;
        return text.parse().map_err(|_| CORRUPTED);
    }
    let mantissa = match <[u8; 16]>::try_from(rest) {
        Ok(bytes) => i128::from_le_bytes(bytes),
        Err(_) => i128::from(read_int(rest)?),
    };
    Decimal::new(mantissa, *scale).map_err(|_| CORRUPTED)
}

/// Scaled mantissa for a column of this scale.
fn read_scaled(bytes: &[u8], scale: u8) -> Result<i128> {
    if let Some((own, rest)) = bytes.split_first()
        && *own == scale
        && rest.len() <= 8
    {
        return read_int(rest).map(i128::from);
    }
    read_decimal(bytes)?.to_scaled_i128(scale).ok_or(CORRUPTED)
}

fn fixed<const N: usize>(bytes: &[u8]) -> Result<[u8; N]> {
    bytes.try_into().map_err(|_| CORRUPTED)
}

fn read_time(bytes: &[u8]) -> Result<Time> {
    Time::from_packed(u64::from_le_bytes(fixed(bytes)?))
}

fn read_duration(bytes: &[u8], field_type: &FieldType) -> Result<Duration> {
    Duration::from_micros(read_int(bytes)?, field_type.fsp()).map_err(|_| CORRUPTED)
}

/// Reads a value in place.
pub fn decode_value_ref<'a>(bytes: &'a [u8], field_type: &FieldType) -> Result<DatumRef<'a>> {
    Ok(match field_type.physical() {
        PhysicalKind::Int => DatumRef::Int(read_int(bytes)?),
        PhysicalKind::UInt => DatumRef::UInt(read_uint(bytes)?),
        PhysicalKind::Float => DatumRef::Float(f32::from_le_bytes(fixed(bytes)?)),
        PhysicalKind::Double => DatumRef::Double(f64::from_le_bytes(fixed(bytes)?)),
        PhysicalKind::Decimal64 | PhysicalKind::Decimal128 | PhysicalKind::DecimalWide => {
            DatumRef::Decimal(read_decimal(bytes)?)
        }
        PhysicalKind::Time => DatumRef::Time(read_time(bytes)?),
        PhysicalKind::Duration => DatumRef::Duration(read_duration(bytes, field_type)?),
        PhysicalKind::Bytes => DatumRef::Bytes(bytes),
        PhysicalKind::Json => DatumRef::Json(JsonRef::parse(bytes)?),
    })
}

/// Reads a value.
pub fn decode_value(bytes: &[u8], field_type: &FieldType) -> Result<Datum> {
    decode_value_ref(bytes, field_type).map(|value| value.to_owned())
}

/// Reads a value straight into a column of its type.
#[inline]
pub fn append_value(column: &mut Column, bytes: &[u8], field_type: &FieldType) -> Result<()> {
    let (data, validity) = column.parts_mut();
    match data {
        ColumnData::Int(values) => values.push(read_int(bytes)?),
        ColumnData::UInt(values) => values.push(read_uint(bytes)?),
        ColumnData::Float(values) => values.push(f32::from_le_bytes(fixed(bytes)?)),
        ColumnData::Double(values) => values.push(f64::from_le_bytes(fixed(bytes)?)),
        ColumnData::Decimal64 { values, scale } => {
            let mantissa = read_scaled(bytes, *scale)?;
            values.push(i64::try_from(mantissa).map_err(|_| CORRUPTED)?);
        }
        ColumnData::Decimal128 { values, scale } => values.push(read_scaled(bytes, *scale)?),
        ColumnData::DecimalWide(values) => values.push(read_decimal(bytes)?),
        ColumnData::Time(values) => values.push(read_time(bytes)?.packed()),
        ColumnData::Duration(values) => values.push(read_duration(bytes, field_type)?.micros()),
        ColumnData::Bytes { .. } => {
            column.push(DatumRef::Bytes(bytes));
            return Ok(());
        }
        ColumnData::Json { .. } => {
            let json = JsonRef::parse(bytes)?;
            column.push(DatumRef::Json(json));
            return Ok(());
        }
    }
    validity.push(true);
    Ok(())
}

/// Appends the text of a stored value as the text protocol prints it.
#[inline]
pub fn write_text_value(out: &mut Vec<u8>, bytes: &[u8], field_type: &FieldType) -> Result<()> {
    match field_type.code {
        TypeCode::TinyInt
        | TypeCode::SmallInt
        | TypeCode::MediumInt
        | TypeCode::Int
        | TypeCode::BigInt
            if !field_type.unsigned =>
        {
            crate::text::write_i64(read_int(bytes)?, out);
        }
        _ if field_type.is_string() => out.extend_from_slice(bytes),
        _ => crate::text::write_text(out, decode_value_ref(bytes, field_type)?, field_type),
    }
    Ok(())
}

/// [`write_text_value`] in a session's time zone: a stored TIMESTAMP, which is in
/// UTC, is shown as local time.
#[inline]
pub fn write_text_value_in(
    out: &mut Vec<u8>,
    bytes: &[u8],
    field_type: &FieldType,
    zone: &TimeZone,
) -> Result<()> {
    if field_type.code == TypeCode::Timestamp && !zone.is_utc() {
        let utc = read_time(bytes)?;
        let local = utc.to_zone(&TimeZone::utc(), zone).unwrap_or(utc);
        local.write_to(out);
        return Ok(());
    }
    write_text_value(out, bytes, field_type)
}

#[cfg(test)]
pub(crate) mod tests;
