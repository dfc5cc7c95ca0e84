//! Batches of rows as typed columns.
//!
//! **Data.** A [`Chunk`] is one [`Column`] per output column, all equally long,
//! with an optional selection vector: the offsets of the rows that count, in
//! ascending order. Filters shrink the selection and leave the columns alone.
//! The layout is Arrow's (least significant bit first validity, `u32` offsets), so
//! stores send it as it lies ([`Chunk::encode`]).
//!
//! **Reuse.** `clear` keeps every buffer: refilling a chunk allocates nothing once
//! it has grown.
//!
//! **Invariants.** All columns have `num_rows` rows; `sel` names rows below
//! `num_rows`, ascending.

mod bitmap;
mod column;
mod wire;

pub use bitmap::Bitmap;
pub use column::{Column, ColumnData};

use crate::datum::{Datum, DatumRef};
use crate::field_type::FieldType;

/// Rows in the first batch of an operator.
pub const CHUNK_ROWS_INIT: usize = 32;
/// Rows in a full batch.
pub const CHUNK_ROWS_MAX: usize = 1024;

/// A batch of rows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Chunk {
    /// The columns, all of `num_rows()` rows.
    pub columns: Vec<Column>,
    /// Rows that count; `None`: all.
    pub sel: Option<Vec<u32>>,
    /// Rows of a chunk without columns (`SELECT 1 FROM t` needs no columns).
    rows_without_columns: usize,
}

impl Chunk {
    /// An empty chunk for rows of these types.
    pub fn new(field_types: &[FieldType], capacity: usize) -> Chunk {
        let columns =
            field_types.iter().map(|field_type| Column::new(field_type, capacity)).collect();
        Chunk { columns, sel: None, rows_without_columns: 0 }
    }

    /// Joins columns of one length.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn from_columns(columns: Vec<Column>) -> Chunk {
        let chunk = Chunk { columns, sel: None, rows_without_columns: 0 };
        chunk.assert_even();
        chunk
    }

    fn assert_even(&self) {
        let rows = self.num_rows();
        assert!(
            self.columns.iter().all(|column| column.len() == rows),
            "all columns of a chunk have one length"
        );
    }

    /// Rows in the columns, selected or not.
    #[inline]
    pub fn num_rows(&self) -> usize {
        self.columns.first().map_or(self.rows_without_columns, Column::len)
    }

    /// Sets the number of rows of a chunk without columns.
    pub fn set_rows_without_columns(&mut self, rows: usize) {
        debug_assert!(self.columns.is_empty());
        self.rows_without_columns = rows;
    }

    /// Rows that count.
    #[inline]
    pub fn num_selected(&self) -> usize {
        self.sel.as_ref().map_or_else(|| self.num_rows(), Vec::len)
    }

    /// Whether no row counts.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.num_selected() == 0
    }

    /// Offsets of the rows that count, ascending.
    #[inline]
    pub fn selected(&self) -> Selected<'_> {
        match &self.sel {
            Some(sel) => Selected::Some(sel.iter()),
            None => Selected::All(0..self.num_rows()),
        }
    }

    /// Physical offset of the `i`-th row that counts.
    #[inline]
    pub fn physical_row(&self, i: usize) -> usize {
        self.sel.as_ref().map_or(i, |sel| sel[i] as usize)
    }

    /// Value of a column at a physical row.
    #[inline]
    pub fn get(&self, column: usize, row: usize) -> DatumRef<'_> {
        self.columns[column].get(row)
    }

    /// An owned copy of a physical row.
    pub fn row(&self, row: usize) -> Vec<Datum> {
        self.columns.iter().map(|column| column.get(row).to_owned()).collect()
    }

    /// Appends a row of values, one per column.
    pub fn push_row(&mut self, row: &[Datum]) {
        debug_assert_eq!(row.len(), self.columns.len());
        debug_assert!(self.sel.is_none());
        for (column, value) in self.columns.iter_mut().zip(row) {
            column.push(value.as_ref());
        }
        if self.columns.is_empty() {
            self.rows_without_columns += 1;
        }
    }

    /// Appends physical row `row` of a chunk with the same columns.
    #[inline]
    pub fn append_row_from(&mut self, other: &Chunk, row: usize) {
        debug_assert!(self.sel.is_none());
        for (to, from) in self.columns.iter_mut().zip(&other.columns) {
            to.append_from(from, row);
        }
        if self.columns.is_empty() {
            self.rows_without_columns += 1;
        }
    }

    /// Appends the selected rows of a chunk with the same columns.
    pub fn append_chunk(&mut self, other: &Chunk) {
        debug_assert!(self.sel.is_none());
        for (to, from) in self.columns.iter_mut().zip(&other.columns) {
            to.append_sel(from, other.sel.as_deref());
        }
        if self.columns.is_empty() {
            self.rows_without_columns += other.num_selected();
        }
    }

    /// Drops the rows that do not count, and the selection with them.
    pub fn compact(&mut self) {
        let Some(sel) = self.sel.take() else { return };
        if sel.len() == self.num_rows() {
            return;
        }
        self.rows_without_columns = if self.columns.is_empty() { sel.len() } else { 0 };
        for column in &mut self.columns {
            let mut kept = column.empty_like(sel.len());
            kept.append_sel(column, Some(&sel));
            *column = kept;
        }
    }

    /// Keeps only the rows that count and lie in `start..end` of the counting
    /// order (LIMIT and OFFSET).
    pub fn slice_selected(&mut self, start: usize, end: usize) {
        let end = end.min(self.num_selected());
        let start = start.min(end);
        match &mut self.sel {
            Some(sel) => {
                sel.truncate(end);
                sel.drain(..start);
            }
            None if start == 0 => self.truncate(end),
            None => self.sel = Some((start as u32..end as u32).collect()),
        }
    }

    /// Cuts to at most `rows` physical rows; there is no selection.
    pub fn truncate(&mut self, rows: usize) {
        debug_assert!(self.sel.is_none());
        self.columns.iter_mut().for_each(|column| column.truncate(rows));
        self.rows_without_columns = self.rows_without_columns.min(rows);
    }

    /// Removes all rows, keeping the buffers.
    #[inline]
    pub fn clear(&mut self) {
        self.columns.iter_mut().for_each(Column::clear);
        self.sel = None;
        self.rows_without_columns = 0;
    }

    /// Heap bytes in use, for memory tracking.
    pub fn memory_bytes(&self) -> usize {
        let columns: usize = self.columns.iter().map(Column::memory_bytes).sum();
        columns
            + self.columns.capacity() * size_of::<Column>()
            + self.sel.as_ref().map_or(0, |sel| sel.capacity() * size_of::<u32>())
    }
}

impl Column {
    /// An empty column of the same kind, scale and fsp.
    pub fn empty_like(&self, capacity: usize) -> Column {
        let offsets = || {
            let mut offsets = Vec::with_capacity(capacity + 1);
            offsets.push(0);
            offsets
        };
        let data = match &self.data {
            ColumnData::Int(_) => ColumnData::Int(Vec::with_capacity(capacity)),
            ColumnData::UInt(_) => ColumnData::UInt(Vec::with_capacity(capacity)),
            ColumnData::Float(_) => ColumnData::Float(Vec::with_capacity(capacity)),
            ColumnData::Double(_) => ColumnData::Double(Vec::with_capacity(capacity)),
            ColumnData::Decimal64 { scale, .. } => {
                ColumnData::Decimal64 { values: Vec::with_capacity(capacity), scale: *scale }
            }
            ColumnData::Decimal128 { scale, .. } => {
                ColumnData::Decimal128 { values: Vec::with_capacity(capacity), scale: *scale }
            }
            ColumnData::DecimalWide(_) => ColumnData::DecimalWide(Vec::with_capacity(capacity)),
            ColumnData::Time(_) => ColumnData::Time(Vec::with_capacity(capacity)),
            ColumnData::Duration(_) => ColumnData::Duration(Vec::with_capacity(capacity)),
            ColumnData::Bytes { .. } => ColumnData::Bytes { offsets: offsets(), data: Vec::new() },
            ColumnData::Json { .. } => ColumnData::Json { offsets: offsets(), data: Vec::new() },
        };
        Column { data, validity: Bitmap::with_capacity(capacity), fsp: self.fsp }
    }
}

/// Offsets of selected rows.
#[derive(Clone, Debug)]
pub enum Selected<'a> {
    /// Every row.
    All(std::ops::Range<usize>),
    /// The rows of a selection vector.
    Some(std::slice::Iter<'a, u32>),
}

impl Iterator for Selected<'_> {
    type Item = usize;

    #[inline]
    fn next(&mut self) -> Option<usize> {
        match self {
            Selected::All(range) => range.next(),
            Selected::Some(rows) => rows.next().map(|row| *row as usize),
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        match self {
            Selected::All(range) => range.size_hint(),
            Selected::Some(rows) => rows.size_hint(),
        }
    }
}

impl ExactSizeIterator for Selected<'_> {}

#[cfg(test)]
mod tests;
