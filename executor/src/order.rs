//! Sort keys: bytes whose order is the order asked for.
//!
//! Per item: one byte (0 for NULL, 1 otherwise), then the value so that byte order
//! is value order; of a descending item all bytes are inverted. NULL thus comes
//! first ascending and last descending, as in MySQL. Text is its collation's sort
//! key, its zero bytes escaped and its end marked, so that a shorter text comes
//! first whatever follows it.

use std::borrow::Cow;

use cairn_expr::{EvalContext, Expr};
use cairn_types::codec::encode_decimal;
use cairn_types::{Chunk, Collation, Column, ColumnData, DatumRef, FieldType};

use crate::batch;
use crate::error::Result;
use crate::plan::SortItem;

/// Bytes of a key that a number holds.
pub(crate) const PREFIX_BYTES: usize = 16;

/// Makes sort keys.
pub(crate) struct OrderEncoder {
    items: Vec<(Expr, Collation, bool)>,
}

/// Sort keys of a chunk's rows, end to end.
#[derive(Default)]
pub(crate) struct OrderKeys {
    data: Vec<u8>,
    ends: Vec<usize>,
}

impl OrderKeys {
    /// Number of keys.
    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    /// Appends a key.
    pub(crate) fn push(&mut self, key: &[u8]) {
        self.data.extend_from_slice(key);
        self.ends.push(self.data.len());
    }

    /// Key of row `at`.
    #[inline]
    pub(crate) fn get(&self, at: usize) -> &[u8] {
        let start = if at == 0 { 0 } else { self.ends[at - 1] };
        &self.data[start..self.ends[at]]
    }

    /// Bytes of the longest key.
    pub(crate) fn longest(&self) -> usize {
        let starts = std::iter::once(&0).chain(&self.ends);
        self.ends.iter().zip(starts).map(|(end, start)| end - start).max().unwrap_or(0)
    }

    /// The first [`PREFIX_BYTES`] of a key as a number (zeros behind a shorter one):
    /// numbers that differ order as the keys do. Keys tell their own end, none is
    /// the beginning of another: if both are no longer than this, equal numbers are
    /// equal keys.
    #[inline]
    pub(crate) fn prefix(&self, at: usize) -> u128 {
        let key = self.get(at);
        let mut bytes = [0; PREFIX_BYTES];
        let length = key.len().min(PREFIX_BYTES);
        bytes[..length].copy_from_slice(&key[..length]);
        u128::from_be_bytes(bytes)
    }

    /// Bytes allocated.
    pub(crate) fn bytes(&self) -> usize {
        self.data.capacity() + self.ends.capacity() * 8
    }
}

impl OrderEncoder {
    /// For an ORDER BY list.
    pub(crate) fn new(order_by: &[SortItem]) -> OrderEncoder {
        let items = order_by
            .iter()
            .map(|item| (item.expr.clone(), collation_of(item.expr.ty()), item.desc))
            .collect();
        OrderEncoder { items }
    }

    /// Appends the keys of the selected rows.
    pub(crate) fn encode(
        &self,
        chunk: &Chunk,
        eval: &mut EvalContext,
        out: &mut OrderKeys,
    ) -> Result<()> {
        let mut columns: Vec<Cow<'_, Column>> = Vec::with_capacity(self.items.len());
        for (expr, ..) in &self.items {
            columns.push(batch::eval(expr, chunk, eval)?);
        }
        for row in 0..chunk.num_selected() {
            for (column, (_, collation, desc)) in columns.iter().zip(&self.items) {
                let start = out.data.len();
                if column.is_null(row) {
                    out.data.push(0);
                } else {
                    out.data.push(1);
                    encode_value(column, row, *collation, &mut out.data);
                }
                if *desc {
                    out.data[start..].iter_mut().for_each(|byte| *byte = !*byte);
                }
            }
            out.ends.push(out.data.len());
        }
        Ok(())
    }
}

fn collation_of(ty: &FieldType) -> Collation {
    if ty.is_string() { ty.collation } else { Collation::BINARY }
}

#[inline]
fn encode_value(column: &Column, row: usize, collation: Collation, out: &mut Vec<u8>) {
    match column.data() {
        ColumnData::Int(values) | ColumnData::Duration(values) => {
            out.extend_from_slice(&signed(values[row]));
        }
        ColumnData::Decimal64 { values, .. } => out.extend_from_slice(&signed(values[row])),
        ColumnData::UInt(values) => out.extend_from_slice(&values[row].to_be_bytes()),
        ColumnData::Time(values) => out.extend_from_slice(&(values[row] >> 4).to_be_bytes()),
        ColumnData::Double(values) => out.extend_from_slice(&real(values[row])),
        ColumnData::Float(values) => out.extend_from_slice(&real(f64::from(values[row]))),
        ColumnData::Decimal128 { values, .. } => {
            let flipped = values[row] as u128 ^ (1 << 127);
            out.extend_from_slice(&flipped.to_be_bytes());
        }
        ColumnData::DecimalWide(values) => encode_decimal(out, &values[row]),
        ColumnData::Bytes { .. } => {
            let start = out.len();
            collation.sort_key(column.bytes_at(row), out);
            escape_text(start, out);
        }
        ColumnData::Json { .. } => {
            if let DatumRef::Json(json) = column.get(row) {
                json.encode_key(out);
            }
        }
    }
}

fn signed(value: i64) -> [u8; 8] {
    (value as u64 ^ (1 << 63)).to_be_bytes()
}

fn real(value: f64) -> [u8; 8] {
    // Both zeros are one value.
    let bits = if value == 0.0 { 0 } else { value.to_bits() };
    let ordered = if bits >> 63 == 1 { !bits } else { bits | (1 << 63) };
    ordered.to_be_bytes()
}

/// Escapes zeros in the bytes from `start` on and marks their end.
fn escape_text(start: usize, out: &mut Vec<u8>) {
    if out[start..].contains(&0) {
        let text = out.split_off(start);
        for byte in text {
            out.push(byte);
            if byte == 0 {
                out.push(0xFF);
            }
        }
    }
    out.extend_from_slice(&[0, 0]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use cairn_types::{Datum, Decimal, compare};

    fn key(ty: &FieldType, value: &Datum, desc: bool) -> Vec<u8> {
        let mut chunk = Chunk::new(std::slice::from_ref(ty), 1);
        chunk.push_row(std::slice::from_ref(value));
        let item = SortItem { expr: Expr::column(0, ty.clone()), desc };
        let mut keys = OrderKeys::default();
        let encoder = OrderEncoder::new(&[item]);
        encoder.encode(&chunk, &mut EvalContext::default(), &mut keys).unwrap();
        keys.get(0).to_vec()
    }

    #[test]
    fn key_order_is_value_order() {
        let decimal = |text: &str| Datum::Decimal(Decimal::parse_prefix(text.as_bytes()).value);
        let groups: Vec<(FieldType, Vec<Datum>)> = vec![
            (
                FieldType::bigint(),
                vec![Datum::Null, i64::MIN.into(), (-1i64).into(), 0i64.into(), 7i64.into()],
            ),
            (
                FieldType::double(),
                vec![Datum::Null, (-1.5).into(), (-0.0).into(), 0.25.into(), 1e300.into()],
            ),
            (
                FieldType::varchar(9),
                vec![Datum::Null, "".into(), "a".into(), "A\0b".into(), "ab".into(), "B".into()],
            ),
            (
                FieldType::decimal(65, 30),
                vec![
                    Datum::Null,
                    decimal("-100.5"),
                    decimal("-100"),
                    decimal("-9.25"),
                    decimal("0"),
                    decimal("0.001"),
                    decimal("12345678901234567890123456789012345.5"),
                ],
            ),
        ];
        for (ty, values) in groups {
            for a in &values {
                for b in &values {
                    let expected = compare(a, b, ty.collation);
                    assert_eq!(
                        key(&ty, a, false).cmp(&key(&ty, b, false)),
                        expected,
                        "{a:?} {b:?}"
                    );
                    let reversed = key(&ty, a, true).cmp(&key(&ty, b, true));
                    assert_eq!(reversed, expected.reverse(), "{a:?} {b:?}");
                }
            }
        }
    }
}
