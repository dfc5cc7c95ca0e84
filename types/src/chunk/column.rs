//! One typed vector of a chunk with its validity.

use super::Bitmap;
use crate::cast::{CastContext, cast_datum};
use crate::datum::DatumRef;
use crate::decimal::Decimal;
use crate::field_type::{
    DECIMAL_PRECISION_MAX, DECIMAL_SCALE_MAX, FSP_MAX, FieldType, PhysicalKind, TypeCode,
};
use crate::json::JsonRef;
use crate::time::{Duration, Time};

/// The values of a column. NULL rows hold a zero value (or no bytes), so that
/// loops may run over all rows.
#[derive(Clone, Debug, PartialEq)]
pub enum ColumnData {
    /// Signed integers.
    Int(Vec<i64>),
    /// Unsigned integers, YEAR, BIT, ENUM, SET.
    UInt(Vec<u64>),
    /// FLOAT.
    Float(Vec<f32>),
    /// DOUBLE.
    Double(Vec<f64>),
    /// Decimals of up to 18 digits, all at one scale.
    Decimal64 {
        /// Mantissas.
        values: Vec<i64>,
        /// Digits after the point.
        scale: u8,
    },
    /// Decimals of up to 38 digits, all at one scale.
    Decimal128 {
        /// Mantissas.
        values: Vec<i128>,
        /// Digits after the point.
        scale: u8,
    },
    /// Wider decimals, each with its own scale.
    DecimalWide(Vec<Decimal>),
    /// Packed [`Time`]s.
    Time(Vec<u64>),
    /// Microseconds; [`Column::fsp`] tells the digits shown.
    Duration(Vec<i64>),
    /// Text and bytes: value `i` is `data[offsets[i]..offsets[i + 1]]`.
    Bytes {
        /// One more than values; starts with 0.
        offsets: Vec<u32>,
        /// All values, end to end.
        data: Vec<u8>,
    },
    /// Binary JSON, laid out as `Bytes`.
    Json {
        /// One more than values; starts with 0.
        offsets: Vec<u32>,
        /// All values, end to end.
        data: Vec<u8>,
    },
}

/// A typed vector with one validity bit per row.
#[derive(Clone, Debug, PartialEq)]
pub struct Column {
    pub(super) data: ColumnData,
    /// Bit set: not NULL.
    pub(super) validity: Bitmap,
    pub(super) fsp: u8,
}

impl Column {
    /// An empty column for values of a type.
    pub fn new(field_type: &FieldType, capacity: usize) -> Column {
        let offsets = || {
            let mut offsets = Vec::with_capacity(capacity + 1);
            offsets.push(0);
            offsets
        };
        let scale = field_type.scale();
        let data = match field_type.physical() {
            PhysicalKind::Int => ColumnData::Int(Vec::with_capacity(capacity)),
            PhysicalKind::UInt => ColumnData::UInt(Vec::with_capacity(capacity)),
            PhysicalKind::Float => ColumnData::Float(Vec::with_capacity(capacity)),
            PhysicalKind::Double => ColumnData::Double(Vec::with_capacity(capacity)),
            PhysicalKind::Decimal64 => {
                ColumnData::Decimal64 { values: Vec::with_capacity(capacity), scale }
            }
            PhysicalKind::Decimal128 => {
                ColumnData::Decimal128 { values: Vec::with_capacity(capacity), scale }
            }
            PhysicalKind::DecimalWide => ColumnData::DecimalWide(Vec::with_capacity(capacity)),
            PhysicalKind::Time => ColumnData::Time(Vec::with_capacity(capacity)),
            PhysicalKind::Duration => ColumnData::Duration(Vec::with_capacity(capacity)),
            PhysicalKind::Bytes => ColumnData::Bytes { offsets: offsets(), data: Vec::new() },
            PhysicalKind::Json => ColumnData::Json { offsets: offsets(), data: Vec::new() },
        };
        let fsp = if field_type.code == TypeCode::Time { field_type.fsp() } else { 0 };
        Column { data, validity: Bitmap::with_capacity(capacity), fsp }
    }

    /// Joins values and validity; `None` if their lengths differ.
    pub fn from_parts(data: ColumnData, validity: Bitmap, fsp: u8) -> Option<Column> {
        (data.len() == validity.len()).then_some(Column { data, validity, fsp })
    }

    /// A column without NULLs.
    pub fn from_data(data: ColumnData) -> Column {
        let validity = Bitmap::filled(data.len(), true);
        Column { data, validity, fsp: 0 }
    }

    /// Number of rows.
    #[inline]
    pub fn len(&self) -> usize {
        self.validity.len()
    }

    /// Whether there are no rows.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.validity.is_empty()
    }

    /// The values.
    #[inline]
    pub fn data(&self) -> &ColumnData {
        &self.data
    }

    /// Values and validity for kernels that write in bulk. They keep both equally
    /// long; [`Column::len`] is the validity's length.
    #[inline]
    pub fn parts_mut(&mut self) -> (&mut ColumnData, &mut Bitmap) {
        (&mut self.data, &mut self.validity)
    }

    /// Validity: bit set means not NULL.
    #[inline]
    pub fn validity(&self) -> &Bitmap {
        &self.validity
    }

    /// Fractional digits of a TIME column.
    pub fn fsp(&self) -> u8 {
        self.fsp
    }

    /// Sets the fractional digits of a TIME column.
    pub fn set_fsp(&mut self, fsp: u8) {
        self.fsp = fsp;
    }

    /// Whether any row is NULL.
    pub fn has_nulls(&self) -> bool {
        !self.validity.all_set()
    }

    /// Whether row `i` is NULL.
    #[inline]
    pub fn is_null(&self, i: usize) -> bool {
        !self.validity.get(i)
    }

    /// The value of row `i`.
    #[inline]
    pub fn get(&self, i: usize) -> DatumRef<'_> {
        if self.is_null(i) {
            return DatumRef::Null;
        }
        match &self.data {
            ColumnData::Int(values) => DatumRef::Int(values[i]),
            ColumnData::UInt(values) => DatumRef::UInt(values[i]),
            ColumnData::Float(values) => DatumRef::Float(values[i]),
            ColumnData::Double(values) => DatumRef::Double(values[i]),
            ColumnData::Decimal64 { values, scale } => {
                DatumRef::Decimal(Decimal::from_mantissa(i128::from(values[i]), *scale))
            }
            ColumnData::Decimal128 { values, scale } => {
                DatumRef::Decimal(Decimal::from_mantissa(values[i], *scale))
            }
            ColumnData::DecimalWide(values) => DatumRef::Decimal(values[i].clone()),
            ColumnData::Time(values) => DatumRef::Time(Time::from_packed_trusted(values[i])),
            ColumnData::Duration(values) => {
                DatumRef::Duration(Duration::from_micros_clamped(values[i], self.fsp))
            }
            ColumnData::Bytes { offsets, data } => DatumRef::Bytes(slice(offsets, data, i)),
            ColumnData::Json { offsets, data } => {
                DatumRef::Json(JsonRef::from_trusted(slice(offsets, data, i)))
            }
        }
    }

    /// Bytes of row `i` of a Bytes or Json column; NULL gives no bytes.
    #[inline]
    pub fn bytes_at(&self, i: usize) -> &[u8] {
        match &self.data {
            ColumnData::Bytes { offsets, data } | ColumnData::Json { offsets, data } => {
                slice(offsets, data, i)
            }
            _ => &[],
        }
    }

    /// Appends NULL.
    #[inline]
    pub fn push_null(&mut self) {
        match &mut self.data {
            ColumnData::Int(values) => values.push(0),
            ColumnData::UInt(values) => values.push(0),
            ColumnData::Float(values) => values.push(0.0),
            ColumnData::Double(values) => values.push(0.0),
            ColumnData::Decimal64 { values, .. } => values.push(0),
            ColumnData::Decimal128 { values, .. } => values.push(0),
            ColumnData::DecimalWide(values) => values.push(Decimal::ZERO),
            ColumnData::Time(values) => values.push(0),
            ColumnData::Duration(values) => values.push(0),
            ColumnData::Bytes { offsets, data } | ColumnData::Json { offsets, data } => {
                offsets.push(data.len() as u32);
            }
        }
        self.validity.push(false);
    }

    /// Appends a value.
    ///
    /// Decimals are rescaled to the column's scale; one with more digits than the
    /// column's kind holds turns the column into the next wider kind. A value of
    /// another kind is a broken type of the planner's: debug builds stop there,
    /// others convert it as CAST would.
    ///
    /// # Panics
    /// If text grows past 4 GiB.
    #[inline]
    pub fn push(&mut self, value: DatumRef<'_>) {
        match (&mut self.data, value) {
            (_, DatumRef::Null) => return self.push_null(),
            (ColumnData::Int(values), DatumRef::Int(value)) => values.push(value),
            (ColumnData::UInt(values), DatumRef::UInt(value)) => values.push(value),
            (ColumnData::Int(values), DatumRef::UInt(value)) => values.push(value as i64),
            (ColumnData::UInt(values), DatumRef::Int(value)) => values.push(value as u64),
            (ColumnData::Float(values), DatumRef::Float(value)) => values.push(value),
            (ColumnData::Float(values), DatumRef::Double(value)) => values.push(value as f32),
            (ColumnData::Double(values), DatumRef::Double(value)) => values.push(value),
            (ColumnData::Double(values), DatumRef::Float(value)) => values.push(f64::from(value)),
            (ColumnData::Time(values), DatumRef::Time(value)) => values.push(value.packed()),
            (ColumnData::Duration(values), DatumRef::Duration(value)) => {
                values.push(value.micros());
            }
            (ColumnData::Bytes { offsets, data }, DatumRef::Bytes(value)) => {
                push_slice(offsets, data, value);
            }
            (ColumnData::Json { offsets, data }, DatumRef::Json(value)) => {
                push_slice(offsets, data, value.as_bytes());
            }
            (_, value) => return self.push_converted(value),
        }
        self.validity.push(true);
    }

    /// Decimals, integers for decimal or double columns, and misfits.
    fn push_converted(&mut self, value: DatumRef<'_>) {
        let decimal = match value {
            DatumRef::Decimal(value) => value,
            DatumRef::Int(value) => Decimal::from(value),
            DatumRef::UInt(value) => Decimal::from(value),
            misfit => return self.push_misfit(&misfit),
        };
        match &mut self.data {
            ColumnData::Decimal64 { values, scale } => match decimal.to_scaled_i64(*scale) {
                Some(mantissa) => values.push(mantissa),
                None => {
                    self.widen_decimals();
                    return self.push_converted(DatumRef::Decimal(decimal));
                }
            },
            ColumnData::Decimal128 { values, scale } => match decimal.to_scaled_i128(*scale) {
                Some(mantissa) => values.push(mantissa),
                None => {
                    self.widen_decimals();
                    return self.push_converted(DatumRef::Decimal(decimal));
                }
            },
            ColumnData::DecimalWide(values) => values.push(decimal),
            ColumnData::Double(values) => values.push(decimal.to_f64()),
            _ => return self.push_misfit(&DatumRef::Decimal(decimal)),
        }
        self.validity.push(true);
    }

    /// Turns decimals into the next wider kind.
    fn widen_decimals(&mut self) {
        self.data = match std::mem::replace(&mut self.data, ColumnData::Int(Vec::new())) {
            ColumnData::Decimal64 { values, scale } => ColumnData::Decimal128 {
                values: values.into_iter().map(i128::from).collect(),
                scale,
            },
            ColumnData::Decimal128 { values, scale } => ColumnData::DecimalWide(
                values.into_iter().map(|value| Decimal::from_mantissa(value, scale)).collect(),
            ),
            other => other,
        };
    }

    /// A value of another kind than the column: converted, or NULL.
    fn push_misfit(&mut self, value: &DatumRef<'_>) {
        debug_assert!(false, "a {} value in a column of another kind", value.kind_name());
        let target = match &self.data {
            ColumnData::Int(_) => FieldType::bigint(),
            ColumnData::UInt(_) => FieldType::bigint_unsigned(),
            ColumnData::Float(_) => FieldType::float(),
            ColumnData::Double(_) => FieldType::double(),
            ColumnData::Decimal64 { scale, .. } | ColumnData::Decimal128 { scale, .. } => {
                FieldType::decimal(DECIMAL_PRECISION_MAX, *scale)
            }
            ColumnData::DecimalWide(_) => {
                FieldType::decimal(DECIMAL_PRECISION_MAX, DECIMAL_SCALE_MAX)
            }
            ColumnData::Time(_) => FieldType::datetime(FSP_MAX),
            ColumnData::Duration(_) => FieldType::time(self.fsp),
            ColumnData::Bytes { .. } => FieldType::string(),
            ColumnData::Json { .. } => FieldType::json(),
        };
        let mut ctx = CastContext::expression();
        match cast_datum(&value.to_owned(), &FieldType::string(), &target, &mut ctx) {
            Ok(value) => self.push(value.as_ref()),
            Err(_) => self.push_null(),
        }
    }

    /// Appends a signed integer to an `Int` column.
    #[inline]
    pub fn push_int(&mut self, value: i64) {
        self.push(DatumRef::Int(value));
    }

    /// Appends an unsigned integer to a `UInt` column.
    #[inline]
    pub fn push_uint(&mut self, value: u64) {
        self.push(DatumRef::UInt(value));
    }

    /// Appends a double.
    #[inline]
    pub fn push_double(&mut self, value: f64) {
        self.push(DatumRef::Double(value));
    }

    /// Appends text or bytes.
    #[inline]
    pub fn push_bytes(&mut self, value: &[u8]) {
        self.push(DatumRef::Bytes(value));
    }

    /// Appends row `i` of a column of the same kind (and decimal scale).
    #[inline]
    pub fn append_from(&mut self, other: &Column, i: usize) {
        if other.is_null(i) {
            return self.push_null();
        }
        match (&mut self.data, &other.data) {
            (ColumnData::Int(to), ColumnData::Int(from)) => to.push(from[i]),
            (ColumnData::UInt(to), ColumnData::UInt(from)) => to.push(from[i]),
            (ColumnData::Double(to), ColumnData::Double(from)) => to.push(from[i]),
            (ColumnData::Time(to), ColumnData::Time(from)) => to.push(from[i]),
            (
                ColumnData::Decimal64 { values: to, scale: p },
                ColumnData::Decimal64 { values: from, scale: q },
            ) if p == q => to.push(from[i]),
            (
                ColumnData::Bytes { offsets, data },
                ColumnData::Bytes { offsets: from_offsets, data: from_data },
            ) => push_slice(offsets, data, slice(from_offsets, from_data, i)),
            _ => return self.push(other.get(i)),
        }
        self.validity.push(true);
    }

    /// Appends row `i` of another column `count` times.
    pub fn append_repeated(&mut self, other: &Column, i: usize, count: usize) {
        for _ in 0..count {
            self.append_from(other, i);
        }
    }

    /// Appends the rows of `other` that `sel` names, or all of them.
    pub fn append_sel(&mut self, other: &Column, sel: Option<&[u32]>) {
        match sel {
            Some(sel) => self.append_rows(other, sel),
            None => self.append_range(other, 0, other.len()),
        }
    }

    fn append_rows(&mut self, other: &Column, sel: &[u32]) {
        let rows = || sel.iter().map(|row| *row as usize);
        match (&mut self.data, &other.data) {
            (ColumnData::Int(to), ColumnData::Int(from)) => to.extend(rows().map(|i| from[i])),
            (ColumnData::UInt(to), ColumnData::UInt(from)) => to.extend(rows().map(|i| from[i])),
            (ColumnData::Double(to), ColumnData::Double(from)) => {
                to.extend(rows().map(|i| from[i]));
            }
            (ColumnData::Time(to), ColumnData::Time(from)) => to.extend(rows().map(|i| from[i])),
            (ColumnData::Duration(to), ColumnData::Duration(from)) => {
                to.extend(rows().map(|i| from[i]));
            }
            (
                ColumnData::Decimal64 { values: to, scale: p },
                ColumnData::Decimal64 { values: from, scale: q },
            ) if p == q => to.extend(rows().map(|i| from[i])),
            (
                ColumnData::Decimal128 { values: to, scale: p },
                ColumnData::Decimal128 { values: from, scale: q },
            ) if p == q => to.extend(rows().map(|i| from[i])),
            _ => return rows().for_each(|i| self.append_from(other, i)),
        }
        if other.has_nulls() {
            rows().for_each(|i| self.validity.push(other.validity.get(i)));
        } else {
            self.validity.extend(sel.len(), true);
        }
    }

    /// Appends rows `start` to `end` (exclusive) of another column.
    pub fn append_range(&mut self, other: &Column, start: usize, end: usize) {
        match (&mut self.data, &other.data) {
            (ColumnData::Int(to), ColumnData::Int(from)) => to.extend_from_slice(&from[start..end]),
            (ColumnData::UInt(to), ColumnData::UInt(from)) => {
                to.extend_from_slice(&from[start..end]);
            }
            (ColumnData::Double(to), ColumnData::Double(from)) => {
                to.extend_from_slice(&from[start..end]);
            }
            (ColumnData::Time(to), ColumnData::Time(from)) => {
                to.extend_from_slice(&from[start..end]);
            }
            (
                ColumnData::Decimal64 { values: to, scale: p },
                ColumnData::Decimal64 { values: from, scale: q },
            ) if p == q => to.extend_from_slice(&from[start..end]),
            (
                ColumnData::Decimal128 { values: to, scale: p },
                ColumnData::Decimal128 { values: from, scale: q },
            ) if p == q => to.extend_from_slice(&from[start..end]),
            (
                ColumnData::Bytes { offsets, data },
                ColumnData::Bytes { offsets: from_offsets, data: from_data },
            ) => {
                let (first, last) = (from_offsets[start], from_offsets[end]);
                let base = data.len() as u32;
                data.extend_from_slice(&from_data[first as usize..last as usize]);
                check_length(data);
                offsets.extend(from_offsets[start + 1..=end].iter().map(|at| at - first + base));
            }
            _ => return (start..end).for_each(|i| self.append_from(other, i)),
        }
        if other.has_nulls() {
            (start..end).for_each(|i| self.validity.push(other.validity.get(i)));
        } else {
            self.validity.extend(end - start, true);
        }
    }

    /// Removes all rows, keeping the buffers.
    pub fn clear(&mut self) {
        self.truncate(0);
    }

    /// Cuts to at most `len` rows.
    pub fn truncate(&mut self, len: usize) {
        match &mut self.data {
            ColumnData::Int(values) => values.truncate(len),
            ColumnData::UInt(values) => values.truncate(len),
            ColumnData::Float(values) => values.truncate(len),
            ColumnData::Double(values) => values.truncate(len),
            ColumnData::Decimal64 { values, .. } => values.truncate(len),
            ColumnData::Decimal128 { values, .. } => values.truncate(len),
            ColumnData::DecimalWide(values) => values.truncate(len),
            ColumnData::Time(values) => values.truncate(len),
            ColumnData::Duration(values) => values.truncate(len),
            ColumnData::Bytes { offsets, data } | ColumnData::Json { offsets, data } => {
                offsets.truncate(len + 1);
                data.truncate(offsets.last().copied().unwrap_or(0) as usize);
            }
        }
        self.validity.truncate(len);
    }

    /// Heap bytes in use.
    pub fn memory_bytes(&self) -> usize {
        let values = match &self.data {
            ColumnData::Int(values) => values.capacity() * 8,
            ColumnData::UInt(values) => values.capacity() * 8,
            ColumnData::Float(values) => values.capacity() * 4,
            ColumnData::Double(values) => values.capacity() * 8,
            ColumnData::Decimal64 { values, .. } => values.capacity() * 8,
            ColumnData::Decimal128 { values, .. } => values.capacity() * 16,
            ColumnData::DecimalWide(values) => values.capacity() * size_of::<Decimal>(),
            ColumnData::Time(values) => values.capacity() * 8,
            ColumnData::Duration(values) => values.capacity() * 8,
            ColumnData::Bytes { offsets, data } | ColumnData::Json { offsets, data } => {
                offsets.capacity() * 4 + data.capacity()
            }
        };
        values + self.validity.len().div_ceil(8)
    }

    /// Values of an `Int` column.
    #[inline]
    pub fn as_int(&self) -> Option<&[i64]> {
        if let ColumnData::Int(values) = &self.data { Some(values) } else { None }
    }

    /// Values of a `UInt` column.
    #[inline]
    pub fn as_uint(&self) -> Option<&[u64]> {
        if let ColumnData::UInt(values) = &self.data { Some(values) } else { None }
    }

    /// Values of a `Float` column.
    #[inline]
    pub fn as_float(&self) -> Option<&[f32]> {
        if let ColumnData::Float(values) = &self.data { Some(values) } else { None }
    }

    /// Values of a `Double` column.
    #[inline]
    pub fn as_double(&self) -> Option<&[f64]> {
        if let ColumnData::Double(values) = &self.data { Some(values) } else { None }
    }

    /// Mantissas and scale of a `Decimal64` column.
    #[inline]
    pub fn as_decimal64(&self) -> Option<(&[i64], u8)> {
        if let ColumnData::Decimal64 { values, scale } = &self.data {
            Some((values, *scale))
        } else {
            None
        }
    }

    /// Mantissas and scale of a `Decimal128` column.
    #[inline]
    pub fn as_decimal128(&self) -> Option<(&[i128], u8)> {
        if let ColumnData::Decimal128 { values, scale } = &self.data {
            Some((values, *scale))
        } else {
            None
        }
    }

    /// Packed times of a `Time` column.
    #[inline]
    pub fn as_time(&self) -> Option<&[u64]> {
        if let ColumnData::Time(values) = &self.data { Some(values) } else { None }
    }

    /// Microseconds of a `Duration` column.
    #[inline]
    pub fn as_duration(&self) -> Option<&[i64]> {
        if let ColumnData::Duration(values) = &self.data { Some(values) } else { None }
    }

    /// Offsets and bytes of a `Bytes` column.
    #[inline]
    pub fn as_bytes(&self) -> Option<(&[u32], &[u8])> {
        if let ColumnData::Bytes { offsets, data } = &self.data {
            Some((offsets, data))
        } else {
            None
        }
    }
}

impl ColumnData {
    /// Number of values.
    pub fn len(&self) -> usize {
        match self {
            ColumnData::Int(values) => values.len(),
            ColumnData::UInt(values) => values.len(),
            ColumnData::Float(values) => values.len(),
            ColumnData::Double(values) => values.len(),
            ColumnData::Decimal64 { values, .. } => values.len(),
            ColumnData::Decimal128 { values, .. } => values.len(),
            ColumnData::DecimalWide(values) => values.len(),
            ColumnData::Time(values) => values.len(),
            ColumnData::Duration(values) => values.len(),
            ColumnData::Bytes { offsets, .. } | ColumnData::Json { offsets, .. } => {
                offsets.len() - 1
            }
        }
    }

    /// Whether there are no values.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[inline]
fn slice<'a>(offsets: &[u32], data: &'a [u8], i: usize) -> &'a [u8] {
    &data[offsets[i] as usize..offsets[i + 1] as usize]
}

#[inline]
fn push_slice(offsets: &mut Vec<u32>, data: &mut Vec<u8>, value: &[u8]) {
    data.extend_from_slice(value);
    check_length(data);
    offsets.push(data.len() as u32);
}

#[inline]
fn check_length(data: &[u8]) {
    assert!(u32::try_from(data.len()).is_ok(), "a column holds at most 4 GiB of text");
}
