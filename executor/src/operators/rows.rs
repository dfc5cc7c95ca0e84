//! Stored rows to columns: what table scans and index lookups share.

use cairn_types::codec::{decode_datum_key, decode_i64, skip_datum_key};
use cairn_types::row::{ColumnFinder, RowView, append_value};
use cairn_types::{Chunk, Column, Datum, DatumRef, FieldType, Handle, PhysicalKind};

use crate::error::{ExecError, Result};
use crate::plan::ScanColumn;

/// Bytes of `t{table_id}_r`.
pub(super) const ROW_PREFIX_LEN: usize = 11;

/// Where a column comes from.
#[derive(Clone, Copy)]
enum Origin {
    /// The row's value.
    Value,
    /// The handle itself.
    Handle,
    /// One column of a common handle, unless the row's value has it.
    Part(usize),
}

/// Decodes rows into the columns of a chunk.
pub(super) struct RowDecoder {
    columns: Vec<ScanColumn>,
    origins: Vec<Origin>,
    handle_types: Vec<FieldType>,
    finder: ColumnFinder,
    /// Whether the value is needed at all.
    needs_value: bool,
    /// Offsets of the handle's columns in the current key.
    parts: Vec<usize>,
    needs_parts: bool,
}

impl RowDecoder {
    /// For these columns; `handle_types` is empty for integer handles.
    pub(super) fn new(columns: &[ScanColumn], handle_types: &[FieldType]) -> RowDecoder {
        let origin = |column: &ScanColumn| match column.handle_part {
            _ if column.is_handle => Origin::Handle,
            Some(part) => Origin::Part(part),
            None => Origin::Value,
        };
        let origins: Vec<Origin> = columns.iter().map(origin).collect();
        RowDecoder {
            columns: columns.to_vec(),
            needs_value: origins.iter().any(|origin| !matches!(origin, Origin::Handle)),
            needs_parts: origins.iter().any(|origin| matches!(origin, Origin::Part(_))),
            origins,
            handle_types: handle_types.to_vec(),
            finder: ColumnFinder::new(columns.iter().map(|column| column.id)),
            parts: Vec::new(),
        }
    }

    /// Appends a row. `handle` is what follows the prefix of its key.
    pub(super) fn append(&mut self, handle: &[u8], value: &[u8], out: &mut Chunk) -> Result<()> {
        if self.columns.is_empty() {
            out.set_rows_without_columns(out.num_rows() + 1);
            return Ok(());
        }
        if self.needs_parts {
            find_parts(handle, self.handle_types.len(), &mut self.parts)?;
        }
        // A count needs the handle or nothing: the value is not even looked at.
        let view = if self.needs_value { Some(RowView::parse(value)?) } else { None };
        let found = view.as_ref().map(|view| self.finder.find(view));
        let columns = out.columns.iter_mut().zip(&self.columns).zip(&self.origins).enumerate();
        for (n, ((column, wanted), origin)) in columns {
            if let Origin::Handle = origin {
                append_handle(column, handle, self.handle_types.is_empty())?;
                continue;
            }
            match found.as_ref().and_then(|found| found(n)) {
                Some(Some(bytes)) => append_value(column, bytes, &wanted.ty)?,
                Some(None) => column.push_null(),
                None => match origin {
                    Origin::Part(part) => {
                        let mut bytes = &handle[self.parts[*part]..];
                        append_key_column(column, &mut bytes, &wanted.ty)?;
                    }
                    _ => column.push(wanted.default.as_ref()),
                },
            }
        }
        Ok(())
    }
}

/// Appends the handle itself: as an integer, or the bytes of a common one.
pub(super) fn append_handle(column: &mut Column, handle: &[u8], is_int: bool) -> Result<()> {
    if is_int {
        let mut bytes = handle;
        let value = decode_i64(&mut bytes)?;
        if !bytes.is_empty() {
            return Err(ExecError::Corrupted("an integer handle has the wrong length"));
        }
        return push_checked(column, DatumRef::Int(value));
    }
    push_checked(column, DatumRef::Bytes(handle))
}

/// Appends a handle that was decoded already.
pub(super) fn append_owned_handle(column: &mut Column, handle: &Handle) -> Result<()> {
    match handle {
        Handle::Int(value) => push_checked(column, DatumRef::Int(*value)),
        Handle::Common(bytes) => push_checked(column, DatumRef::Bytes(bytes)),
    }
}

/// Pushes a handle into a column that the plan says can take it.
fn push_checked(column: &mut Column, value: DatumRef<'_>) -> Result<()> {
    let fits = match value {
        DatumRef::Int(_) => column.as_int().is_some() || column.as_uint().is_some(),
        _ => column.as_bytes().is_some(),
    };
    if !fits {
        return Err(ExecError::invalid_plan("the handle's column is not of the handle's type"));
    }
    column.push(value);
    Ok(())
}

/// Offsets at which the columns of a common handle start.
pub(super) fn find_parts(handle: &[u8], count: usize, parts: &mut Vec<usize>) -> Result<()> {
    parts.clear();
    let mut at = 0;
    for _ in 0..count {
        parts.push(at);
        at += skip_datum_key(&handle[at..])?;
    }
    Ok(())
}

/// Reads a key column into a column of its type, advancing `bytes`.
#[inline]
pub(super) fn append_key_column(
    column: &mut Column,
    bytes: &mut &[u8],
    ty: &FieldType,
) -> Result<()> {
    let value = decode_datum_key(bytes, ty)?;
    column.push(value.as_ref());
    Ok(())
}

/// Whether a value can be pushed into a column of a type (or is NULL).
pub(crate) fn value_fits(value: &Datum, ty: &FieldType) -> bool {
    let kind = ty.physical();
    match value {
        Datum::Null => true,
        Datum::Int(_) | Datum::UInt(_) => matches!(kind, PhysicalKind::Int | PhysicalKind::UInt),
        Datum::Float(_) => kind == PhysicalKind::Float,
        Datum::Double(_) => kind == PhysicalKind::Double,
        Datum::Decimal(value) => ty.is_decimal() && value.fits(ty.precision(), ty.scale()),
        Datum::Bytes(_) => kind == PhysicalKind::Bytes,
        Datum::Time(_) => kind == PhysicalKind::Time,
        Datum::Duration(_) => kind == PhysicalKind::Duration,
        Datum::Json(_) => kind == PhysicalKind::Json,
    }
}
