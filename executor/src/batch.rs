//! Work on whole chunks that several operators share.

use std::borrow::Cow;

use cairn_expr::{EvalContext, Expr};
use cairn_types::{Bitmap, Chunk, Column, ColumnData, FieldType};

use crate::error::{ExecError, Result};

/// Text a column may hold; its offsets are `u32`. Chunks from below stay far under
/// it, but operators that collect rows must ask before they append.
const COLUMN_TEXT_MAX_BYTES: usize = u32::MAX as usize;

/// The chunk without a selection.
pub(crate) fn dense(mut chunk: Chunk) -> Chunk {
    chunk.compact();
    chunk
}

/// Values of an expression for the selected rows; a plain column is not copied.
pub(crate) fn eval<'a>(
    expr: &Expr,
    chunk: &'a Chunk,
    eval: &mut EvalContext,
) -> Result<Cow<'a, Column>> {
    if let (Expr::Column { index, .. }, None) = (expr, &chunk.sel) {
        let column = chunk.columns.get(*index);
        return column
            .map(Cow::Borrowed)
            .ok_or_else(|| ExecError::invalid_plan("an expression names a missing column"));
    }
    Ok(Cow::Owned(expr.eval(chunk, eval)?))
}

/// Rows of `column`, in the order of `rows`. `nullable`: whether it may have NULLs.
pub(crate) fn gather_column(column: &Column, rows: &[u32], nullable: bool) -> Result<Column> {
    fn pick<T: Copy>(values: &[T], rows: &[u32]) -> Vec<T> {
        rows.iter().map(|&row| values[row as usize]).collect()
    }
    fn pick_text(offsets: &[u32], data: &[u8], rows: &[u32]) -> Result<(Vec<u32>, Vec<u8>)> {
        let range = |row: u32| (offsets[row as usize], offsets[row as usize + 1]);
        let mut picked = Vec::with_capacity(rows.len() + 1);
        picked.push(0);
        let mut end = 0u32;
        for &row in rows {
            let (from, to) = range(row);
            // Rows may repeat: joined text can outgrow what either side holds.
            end = end.checked_add(to - from).ok_or(ExecError::TooMuchText)?;
            picked.push(end);
        }
        let mut text = Vec::with_capacity(end as usize);
        for &row in rows {
            let (from, to) = range(row);
            text.extend_from_slice(&data[from as usize..to as usize]);
        }
        Ok((picked, text))
    }
    let data = match column.data() {
        ColumnData::Int(values) => ColumnData::Int(pick(values, rows)),
        ColumnData::UInt(values) => ColumnData::UInt(pick(values, rows)),
        ColumnData::Float(values) => ColumnData::Float(pick(values, rows)),
        ColumnData::Double(values) => ColumnData::Double(pick(values, rows)),
        ColumnData::Decimal64 { values, scale } => {
            ColumnData::Decimal64 { values: pick(values, rows), scale: *scale }
        }
        ColumnData::Decimal128 { values, scale } => {
            ColumnData::Decimal128 { values: pick(values, rows), scale: *scale }
        }
        ColumnData::DecimalWide(values) => {
            ColumnData::DecimalWide(rows.iter().map(|&row| values[row as usize].clone()).collect())
        }
        ColumnData::Time(values) => ColumnData::Time(pick(values, rows)),
        ColumnData::Duration(values) => ColumnData::Duration(pick(values, rows)),
        ColumnData::Bytes { offsets, data } => {
            let (offsets, data) = pick_text(offsets, data, rows)?;
            ColumnData::Bytes { offsets, data }
        }
        ColumnData::Json { offsets, data } => {
            let (offsets, data) = pick_text(offsets, data, rows)?;
            ColumnData::Json { offsets, data }
        }
    };
    let validity = match nullable {
        false => Bitmap::filled(rows.len(), true),
        true => rows.iter().map(|&row| column.validity().get(row as usize)).collect(),
    };
    Ok(Column::from_parts(data, validity, column.fsp()).expect("as many bits as rows gathered"))
}

/// Physical rows of a chunk, in the order of `rows`.
pub(crate) fn gather(chunk: &Chunk, rows: &[u32]) -> Result<Chunk> {
    let columns: Result<Vec<Column>> = chunk
        .columns
        .iter()
        .map(|column| gather_column(column, rows, column.has_nulls()))
        .collect();
    Ok(from_columns(columns?, rows.len()))
}

/// Rows `start..end` of a chunk without a selection.
pub(crate) fn slice(chunk: &Chunk, start: usize, end: usize) -> Chunk {
    debug_assert!(chunk.sel.is_none());
    let columns = chunk.columns.iter().map(|column| slice_column(column, start, end)).collect();
    from_columns(columns, end - start)
}

/// Rows `start..end` of a column.
pub(crate) fn slice_column(column: &Column, start: usize, end: usize) -> Column {
    let mut slice = column.empty_like(end - start);
    slice.append_range(column, start, end);
    slice
}

/// A chunk of `rows` rows, also if there are no columns.
pub(crate) fn from_columns(columns: Vec<Column>, rows: usize) -> Chunk {
    let mut chunk = Chunk::from_columns(columns);
    if chunk.columns.is_empty() {
        chunk.set_rows_without_columns(rows);
    }
    chunk
}

/// Collected rows: one large chunk without a selection.
pub(crate) struct RowStore {
    chunk: Chunk,
    /// Per column: whether it may have NULLs. Asking the column costs a walk over
    /// its bitmap, too much for every small gather.
    nullable: Vec<bool>,
}

impl RowStore {
    /// An empty store for rows of these types.
    pub(crate) fn new(types: &[FieldType]) -> RowStore {
        RowStore { chunk: Chunk::new(types, 0), nullable: vec![false; types.len()] }
    }

    /// Number of rows.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.chunk.num_rows()
    }

    /// Appends the selected rows.
    pub(crate) fn append(&mut self, rows: &Chunk) -> Result<()> {
        if rows.columns.len() != self.chunk.columns.len() {
            return Err(ExecError::Corrupted("a chunk has the wrong number of columns"));
        }
        let columns = self.chunk.columns.iter().zip(&rows.columns);
        for ((to, from), nullable) in columns.zip(&mut self.nullable) {
            check_append(to, from)?;
            *nullable = *nullable || from.has_nulls();
        }
        self.chunk.append_chunk(rows);
        Ok(())
    }

    /// Appends rows of columns.
    pub(crate) fn append_gathered(
        &mut self,
        columns: &[Cow<'_, Column>],
        rows: &[u32],
    ) -> Result<()> {
        let columns: Result<Vec<Column>> =
            columns.iter().map(|column| gather_column(column, rows, column.has_nulls())).collect();
        self.append(&from_columns(columns?, rows.len()))
    }

    /// The rows.
    pub(crate) fn chunk(&self) -> &Chunk {
        &self.chunk
    }

    /// The rows, given away.
    pub(crate) fn into_chunk(self) -> Chunk {
        self.chunk
    }

    /// Rows in the order of `rows`.
    pub(crate) fn gather(&self, rows: &[u32]) -> Result<Chunk> {
        let columns = self.chunk.columns.iter().zip(&self.nullable);
        let columns: Result<Vec<Column>> =
            columns.map(|(column, nullable)| gather_column(column, rows, *nullable)).collect();
        Ok(from_columns(columns?, rows.len()))
    }

    /// Bytes of an average row.
    pub(crate) fn row_bytes(&self) -> usize {
        self.bytes() / self.len().max(1)
    }

    /// Keeps the rows named, in their order.
    pub(crate) fn retain(&mut self, rows: &[u32]) -> Result<()> {
        self.chunk = self.gather(rows)?;
        Ok(())
    }

    /// Bytes allocated.
    pub(crate) fn bytes(&self) -> usize {
        self.chunk.memory_bytes()
    }
}

/// Whether `from` can be appended to `to`: the same kind and not too much text.
pub(crate) fn check_append(to: &Column, from: &Column) -> Result<()> {
    if std::mem::discriminant(to.data()) != std::mem::discriminant(from.data()) {
        return Err(ExecError::Corrupted("a column changes its kind between chunks"));
    }
    if let (ColumnData::Bytes { data: a, .. }, ColumnData::Bytes { data: b, .. })
    | (ColumnData::Json { data: a, .. }, ColumnData::Json { data: b, .. }) =
        (to.data(), from.data())
        && a.len() + b.len() > COLUMN_TEXT_MAX_BYTES
    {
        return Err(ExecError::TooMuchText);
    }
    Ok(())
}

/// Two chunks of as many rows side by side.
pub(crate) fn glue(mut left: Chunk, mut right: Chunk) -> Chunk {
    debug_assert!(left.sel.is_none() && right.sel.is_none());
    let rows = if left.columns.is_empty() { right.num_rows() } else { left.num_rows() };
    left.columns.append(&mut right.columns);
    from_columns(left.columns, rows)
}

/// A chunk with one more column.
pub(crate) fn with_column(mut chunk: Chunk, column: Column) -> Chunk {
    debug_assert!(chunk.sel.is_none());
    chunk.columns.push(column);
    Chunk::from_columns(chunk.columns)
}

/// Rows of NULLs.
pub(crate) fn nulls(types: &[FieldType], rows: usize) -> Chunk {
    let columns = types.iter().map(|ty| {
        let mut column = Column::new(ty, rows);
        (0..rows).for_each(|_| column.push_null());
        column
    });
    from_columns(columns.collect(), rows)
}

/// A column of integers.
pub(crate) fn int_column(values: impl Iterator<Item = Option<i64>>) -> Column {
    let mut column = Column::new(&FieldType::bigint(), values.size_hint().0);
    for value in values {
        match value {
            Some(value) => column.push_int(value),
            None => column.push_null(),
        }
    }
    column
}

/// Whether row `at` of a condition's values is true.
#[inline]
pub(crate) fn truth(column: &Column, at: usize) -> bool {
    if column.is_null(at) {
        return false;
    }
    match column.data() {
        ColumnData::Int(values) => values[at] != 0,
        ColumnData::UInt(values) => values[at] != 0,
        ColumnData::Double(values) => values[at] != 0.0,
        ColumnData::Float(values) => values[at] != 0.0,
        ColumnData::Decimal64 { values, .. } => values[at] != 0,
        ColumnData::Decimal128 { values, .. } => values[at] != 0,
        _ => true,
    }
}

/// Narrows the selection to those selected rows whose place among the selected
/// rows passes `keep`.
pub(crate) fn keep_rows(chunk: &mut Chunk, keep: impl Fn(usize) -> bool) {
    let rows = chunk.selected().enumerate();
    let sel = rows.filter(|(at, _)| keep(*at)).map(|(_, row)| row as u32).collect();
    chunk.sel = Some(sel);
}
