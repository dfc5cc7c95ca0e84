//! Keys of rows, in a form that hashes and compares fast.

use std::borrow::Cow;

use cairn_expr::{EvalContext, Expr};
use cairn_types::codec::encode_decimal;
use cairn_types::{Chunk, Collation, Column, ColumnData, DatumRef, FieldType, PhysicalKind};

use super::{hash_bytes, hash_int};
use crate::batch;
use crate::error::{ExecError, Result};

/// How values of one key column are told apart. Both sides of a join, and all
/// chunks of an aggregation, use one kind per column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum KeyKind {
    /// `i64`.
    Int,
    /// `u64`.
    UInt,
    /// Integers of both signs in one key.
    MixedInt,
    /// FLOAT and DOUBLE.
    Real,
    /// Decimals of up to 18 digits, all at this scale.
    Decimal64(u8),
    /// Decimals of any scale.
    Decimal,
    Time,
    Duration,
    /// Text by its collation.
    Text(Collation),
    Json,
}

impl KeyKind {
    fn of(ty: &FieldType) -> KeyKind {
        match ty.physical() {
            PhysicalKind::Int => KeyKind::Int,
            PhysicalKind::UInt => KeyKind::UInt,
            PhysicalKind::Float | PhysicalKind::Double => KeyKind::Real,
            PhysicalKind::Decimal64 => KeyKind::Decimal64(ty.scale()),
            PhysicalKind::Decimal128 | PhysicalKind::DecimalWide => KeyKind::Decimal,
            PhysicalKind::Time => KeyKind::Time,
            PhysicalKind::Duration => KeyKind::Duration,
            PhysicalKind::Bytes => KeyKind::Text(ty.collation),
            PhysicalKind::Json => KeyKind::Json,
        }
    }

    /// The kind that fits both sides of a join.
    fn common(self, other: KeyKind) -> Result<KeyKind> {
        use KeyKind as K;
        Ok(match (self, other) {
            (a, b) if a == b => a,
            (K::Int | K::UInt, K::Int | K::UInt) => K::MixedInt,
            (K::Decimal64(_) | K::Decimal, K::Decimal64(_) | K::Decimal) => K::Decimal,
            (K::Text(a), K::Text(b)) => {
                K::Text(if b.is_binary() || !a.is_binary() && b.is_bytewise() { b } else { a })
            }
            _ => return Err(ExecError::invalid_plan("join keys of different kinds")),
        })
    }

    /// Whether one 64-bit word holds a value.
    fn is_word(self) -> bool {
        use KeyKind as K;
        matches!(self, K::Int | K::UInt | K::Decimal64(_) | K::Time | K::Duration)
    }
}

/// Keys of a chunk's rows.
pub(crate) enum KeyBatch {
    /// One word per row; `nulls[i]`: row `i` has no key.
    Ints { keys: Vec<u64>, nulls: Option<Vec<bool>> },
    /// Bytes per row; `nulls[i]`: row `i` has a NULL that nothing equals.
    Bytes { data: Vec<u8>, ends: Vec<usize>, nulls: Option<Vec<bool>> },
}

impl KeyBatch {
    /// Number of rows.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        match self {
            KeyBatch::Ints { keys, .. } => keys.len(),
            KeyBatch::Bytes { ends, .. } => ends.len(),
        }
    }

    /// Whether row `at` is marked NULL.
    #[inline]
    pub(crate) fn is_null(&self, at: usize) -> bool {
        match self {
            KeyBatch::Ints { nulls, .. } | KeyBatch::Bytes { nulls, .. } => {
                nulls.as_ref().is_some_and(|nulls| nulls[at])
            }
        }
    }

    /// Hash of row `at`'s key, as the tables take it.
    #[inline]
    pub(crate) fn hash(&self, at: usize) -> u64 {
        match self {
            KeyBatch::Ints { keys, .. } => hash_int(keys[at]),
            KeyBatch::Bytes { .. } => hash_bytes(self.bytes(at)),
        }
    }

    /// Key bytes of row `at`; none of integer keys.
    #[inline]
    pub(crate) fn bytes(&self, at: usize) -> &[u8] {
        match self {
            KeyBatch::Ints { .. } => &[],
            KeyBatch::Bytes { data, ends, .. } => {
                let start = if at == 0 { 0 } else { ends[at - 1] };
                &data[start..ends[at]]
            }
        }
    }
}

/// Makes keys of rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeyEncoder {
    kinds: Vec<KeyKind>,
    /// Per column: NULL is a value (groups, `<=>`).
    null_is_value: Vec<bool>,
    int_keys: bool,
}

impl KeyEncoder {
    /// Keys of groups: NULL is a value like others.
    pub(crate) fn for_groups(exprs: &[Expr]) -> KeyEncoder {
        let kinds: Vec<KeyKind> = exprs.iter().map(|expr| KeyKind::of(expr.ty())).collect();
        let int_keys = matches!(kinds.as_slice(), [kind] if kind.is_word());
        KeyEncoder { null_is_value: vec![true; kinds.len()], kinds, int_keys }
    }

    /// Keys of a join; the same encoder serves both sides.
    pub(crate) fn for_join(a: &[Expr], b: &[Expr], null_safe: &[bool]) -> Result<KeyEncoder> {
        let kinds: Result<Vec<KeyKind>> =
            a.iter().zip(b).map(|(a, b)| KeyKind::of(a.ty()).common(KeyKind::of(b.ty()))).collect();
        let kinds = kinds?;
        let int_keys = matches!((kinds.as_slice(), null_safe), ([kind], [false]) if kind.is_word());
        Ok(KeyEncoder { kinds, null_is_value: null_safe.to_vec(), int_keys })
    }

    /// Whether keys are [`KeyBatch::Ints`].
    pub(crate) fn int_keys(&self) -> bool {
        self.int_keys
    }

    /// Keys of the selected rows.
    pub(crate) fn encode(
        &self,
        exprs: &[Expr],
        chunk: &Chunk,
        eval: &mut EvalContext,
    ) -> Result<KeyBatch> {
        let columns: Result<Vec<Cow<'_, Column>>> =
            exprs.iter().map(|expr| batch::eval(expr, chunk, eval)).collect();
        let columns = columns?;
        self.encode_columns(&columns, chunk.num_selected())
    }

    /// Keys of rows whose key columns were computed already.
    pub(crate) fn encode_columns(
        &self,
        columns: &[Cow<'_, Column>],
        rows: usize,
    ) -> Result<KeyBatch> {
        if self.int_keys {
            return encode_words(self.kinds[0], &columns[0]);
        }
        let mut data = Vec::with_capacity(rows * 10 * columns.len());
        let mut ends = Vec::with_capacity(rows);
        let mut nulls: Option<Vec<bool>> = None;
        for row in 0..rows {
            for ((column, kind), null_is_value) in
                columns.iter().zip(&self.kinds).zip(&self.null_is_value)
            {
                if !column.is_null(row) {
                    data.push(1);
                    encode_value(*kind, column, row, &mut data)?;
                    continue;
                }
                data.push(0);
                if !null_is_value {
                    nulls.get_or_insert_with(|| vec![false; rows])[row] = true;
                }
            }
            ends.push(data.len());
        }
        Ok(KeyBatch::Bytes { data, ends, nulls })
    }
}

const WRONG_KIND: ExecError = ExecError::Corrupted("a key column is not of its type");

fn encode_words(kind: KeyKind, column: &Column) -> Result<KeyBatch> {
    let keys = match (kind, column.data()) {
        (KeyKind::Int, ColumnData::Int(values)) => values.iter().map(|v| *v as u64).collect(),
        (KeyKind::UInt, ColumnData::UInt(values)) => values.clone(),
        (KeyKind::Decimal64(at), ColumnData::Decimal64 { values, scale }) if at == *scale => {
            values.iter().map(|v| *v as u64).collect()
        }
        // The low bits (kind, digits shown) take no part in comparison.
        (KeyKind::Time, ColumnData::Time(values)) => values.iter().map(|v| v >> 4).collect(),
        (KeyKind::Duration, ColumnData::Duration(values)) => {
            values.iter().map(|v| *v as u64).collect()
        }
        _ => return Err(WRONG_KIND),
    };
    let nulls = column.has_nulls().then(|| column.validity().iter().map(|valid| !valid).collect());
    Ok(KeyBatch::Ints { keys, nulls })
}

#[inline]
fn encode_value(kind: KeyKind, column: &Column, row: usize, out: &mut Vec<u8>) -> Result<()> {
    use KeyKind as K;
    let mut word = |value: u64| out.extend_from_slice(&value.to_le_bytes());
    match (kind, column.data()) {
        (K::Int, ColumnData::Int(values)) => word(values[row] as u64),
        (K::UInt, ColumnData::UInt(values)) => word(values[row]),
        (K::Time, ColumnData::Time(values)) => word(values[row] >> 4),
        (K::Duration, ColumnData::Duration(values)) => word(values[row] as u64),
        (K::Decimal64(at), ColumnData::Decimal64 { values, scale }) if at == *scale => {
            word(values[row] as u64);
        }
        (K::Real, ColumnData::Double(values)) => word(real_bits(values[row])),
        (K::Real, ColumnData::Float(values)) => word(real_bits(f64::from(values[row]))),
        (K::MixedInt, ColumnData::Int(values)) => {
            word(values[row] as u64);
            out.push(u8::from(values[row] < 0));
        }
        (K::MixedInt, ColumnData::UInt(values)) => {
            word(values[row]);
            out.push(0);
        }
        (K::Text(collation), ColumnData::Bytes { .. }) => {
            let at = out.len();
            out.extend_from_slice(&[0; 4]);
            collation.sort_key(column.bytes_at(row), out);
            write_length(out, at);
        }
        (K::Json, ColumnData::Json { .. }) => {
            if let DatumRef::Json(json) = column.get(row) {
                json.encode_key(out);
            }
        }
        (K::Decimal | K::Decimal64(_), _) => {
            let DatumRef::Decimal(value) = column.get(row) else { return Err(WRONG_KIND) };
            encode_decimal(out, &value);
        }
        _ => return Err(WRONG_KIND),
    }
    Ok(())
}

/// Fills in the length of what follows the four bytes at `at`, so that the bytes
/// of two text columns cannot run into each other.
fn write_length(out: &mut [u8], at: usize) {
    let length = (out.len() - at - 4) as u32;
    out[at..at + 4].copy_from_slice(&length.to_le_bytes());
}

/// One bit pattern for both zeros and for all NaNs.
fn real_bits(value: f64) -> u64 {
    if value == 0.0 {
        return 0;
    }
    if value.is_nan() { f64::NAN.to_bits() } else { value.to_bits() }
}
