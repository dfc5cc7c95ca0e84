//! Evaluation: row by row, and over chunks.
//!
//! **Flow.** [`Expr::eval_row`] walks the tree for one row. [`Expr::eval`] and
//! [`eval_filter`] walk it once per chunk; where a kernel knows the function and
//! the physical kinds it runs over whole vectors, elsewhere the scalar function is
//! called per row. Both ways give the same values (tested).
//!
//! **Laziness.** AND, OR, IF, CASE, COALESCE evaluate an argument only for the
//! rows that need it, in both ways, so that `b <> 0 AND a / b > 1` neither warns
//! nor fails.
//!
//! | module | what it holds |
//! |---|---|
//! | `call` | a scalar call's view of its arguments, converted on demand |
//! | [`convert`] | single values to numbers, text, times, with MySQL's warnings |
//! | `vector`, `mask` | the walk over chunks, truth values of many rows |
//! | `kernels` | loops over typed vectors |

pub(crate) mod call;
pub mod convert;
pub(crate) mod kernels;
mod mask;
mod vector;

use std::fmt;
use std::sync::{Arc, OnceLock};

use cairn_types::{Chunk, Column, Datum, DatumRef, FieldType, PhysicalKind};
use smallvec::SmallVec;

use crate::context::EvalContext;
use crate::error::{ExprError, Result};
use crate::expr::Expr;
use crate::functions;

pub use mask::{FALSE, Mask, NULL, TRUE};
pub(crate) use vector::Rows;

#[cfg(test)]
mod tests;

/// What a node keeps of its constant arguments: a compiled pattern, a set.
///
/// A copy of a node starts empty, so that changed arguments never meet what was
/// made of the old ones.
#[derive(Default)]
pub struct EvalCache(OnceLock<Arc<Compiled>>);

/// What can be made of constant arguments once.
pub(crate) enum Compiled {
    Like(functions::like::Pattern),
    Regex(regex::Regex),
    InSet(kernels::in_set::InSet),
}

impl EvalCache {
    /// The compiled form, made at the first call.
    pub(crate) fn get_or_make<E>(
        &self,
        make: impl FnOnce() -> Result<Compiled, E>,
    ) -> Result<Arc<Compiled>, E> {
        if let Some(found) = self.0.get() {
            return Ok(Arc::clone(found));
        }
        let made = Arc::new(make()?);
        Ok(Arc::clone(self.0.get_or_init(|| made)))
    }
}

impl Clone for EvalCache {
    fn clone(&self) -> EvalCache {
        EvalCache::default()
    }
}

impl fmt::Debug for EvalCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.get().is_some() { "EvalCache(made)" } else { "EvalCache" })
    }
}

/// One row of input.
pub trait RowAccess {
    /// The value of a column; `None` if there is no such column.
    fn get(&self, column: usize) -> Option<DatumRef<'_>>;
}

/// The row of constant expressions: it has no columns.
#[derive(Clone, Copy, Debug)]
pub struct NoRow;

impl RowAccess for NoRow {
    fn get(&self, _column: usize) -> Option<DatumRef<'_>> {
        None
    }
}

/// A physical row of a chunk.
#[derive(Clone, Copy, Debug)]
pub struct ChunkRow<'a> {
    /// The chunk.
    pub chunk: &'a Chunk,
    /// Physical offset of the row.
    pub row: usize,
}

impl RowAccess for ChunkRow<'_> {
    fn get(&self, column: usize) -> Option<DatumRef<'_>> {
        self.chunk.columns.get(column).map(|column| column.get(self.row))
    }
}

impl RowAccess for [Datum] {
    fn get(&self, column: usize) -> Option<DatumRef<'_>> {
        <[Datum]>::get(self, column).map(Datum::as_ref)
    }
}

impl RowAccess for Vec<Datum> {
    fn get(&self, column: usize) -> Option<DatumRef<'_>> {
        self.as_slice().get(column).map(Datum::as_ref)
    }
}

/// Argument values of one call.
pub(crate) type Values = SmallVec<[Datum; 3]>;

impl Expr {
    /// The value for one row.
    pub fn eval_row(&self, row: &dyn RowAccess, ctx: &mut EvalContext) -> Result<Datum> {
        match self {
            Expr::Column { index, .. } => match row.get(*index) {
                Some(value) => Ok(value.to_owned()),
                None => Err(missing_column(*index)),
            },
            Expr::Constant { value, .. } => Ok(value.clone()),
            Expr::Param { index, .. } => param(*index, ctx),
            Expr::Function { func, args, ty, cache } => {
                if let Some(value) = functions::control::eval_lazy(*func, args, row, ctx)? {
                    return normalize(value, ty, self);
                }
                let mut values = Values::with_capacity(args.len());
                for arg in args {
                    values.push(arg.eval_row(row, ctx)?);
                }
                let call =
                    call::Call { func: *func, exprs: args, values: &values, ty, cache, node: self };
                let value = functions::eval(&call, ctx)?;
                normalize(value, ty, self)
            }
        }
    }

    /// The values for the selected rows of a chunk, one per selected row.
    pub fn eval(&self, chunk: &Chunk, ctx: &mut EvalContext) -> Result<Column> {
        let rows = Rows::of_chunk(chunk);
        let vector = vector::eval(self, chunk, rows, ctx)?;
        vector.into_column(self.ty(), rows.len())
    }

    /// The truth values for the selected rows of a chunk.
    pub fn eval_mask(&self, chunk: &Chunk, ctx: &mut EvalContext) -> Result<Mask> {
        mask::eval(self, chunk, Rows::of_chunk(chunk), ctx)
    }
}

/// Keeps the selected rows for which all `conditions` are true: shrinks
/// `chunk.sel`.
pub fn eval_filter(conditions: &[Expr], chunk: &mut Chunk, ctx: &mut EvalContext) -> Result<()> {
    for condition in conditions {
        let total = chunk.num_selected();
        if total == 0 {
            return Ok(());
        }
        let truth = mask::eval(condition, chunk, Rows::of_chunk(chunk), ctx)?;
        match &mut chunk.sel {
            Some(sel) => {
                let mut kept = 0;
                for (at, value) in truth.iter().enumerate() {
                    sel[kept] = sel[at];
                    kept += usize::from(*value == TRUE);
                }
                sel.truncate(kept);
            }
            None => {
                let mut sel = vec![0; total];
                let mut kept = 0;
                for (at, value) in truth.iter().enumerate() {
                    sel[kept] = at as u32;
                    kept += usize::from(*value == TRUE);
                }
                if kept < total {
                    sel.truncate(kept);
                    chunk.sel = Some(sel);
                }
            }
        }
    }
    Ok(())
}

/// Whether all `conditions` are true for a row.
pub fn row_matches(
    conditions: &[Expr],
    row: &dyn RowAccess,
    ctx: &mut EvalContext,
) -> Result<bool> {
    for condition in conditions {
        let value = condition.eval_row(row, ctx)?;
        if convert::truth(&value, condition.ty(), ctx)? != Some(true) {
            return Ok(false);
        }
    }
    Ok(true)
}

pub(crate) fn missing_column(index: usize) -> ExprError {
    ExprError::Internal(format!("the input has no column {index}"))
}

pub(crate) fn param(index: usize, ctx: &EvalContext) -> Result<Datum> {
    let value = ctx.params.get(index).cloned();
    value.ok_or_else(|| ExprError::Internal(format!("statement slot {index} has no value")))
}

/// A function's value in the physical kind of its type, so that it can be pushed
/// into a column of that type: decimals at the type's scale and within its
/// precision, integers of the type's sign.
pub(crate) fn normalize(value: Datum, ty: &FieldType, node: &Expr) -> Result<Datum> {
    let fits = match (&value, ty.physical()) {
        (Datum::Null, _)
        | (Datum::Int(_), PhysicalKind::Int)
        | (Datum::UInt(_), PhysicalKind::UInt)
        | (Datum::Float(_), PhysicalKind::Float)
        | (Datum::Double(_), PhysicalKind::Double)
        | (Datum::Bytes(_), PhysicalKind::Bytes)
        | (Datum::Time(_), PhysicalKind::Time)
        | (Datum::Duration(_), PhysicalKind::Duration)
        | (Datum::Json(_), PhysicalKind::Json) => true,
        (
            Datum::Decimal(decimal),
            PhysicalKind::Decimal64 | PhysicalKind::Decimal128 | PhysicalKind::DecimalWide,
        ) => {
            let fits = decimal.fits(ty.precision(), ty.scale());
            if fits && decimal.scale() == ty.scale() {
                return Ok(value);
            }
            let rounded = decimal.rescale(ty.scale())?;
            if !rounded.fits(ty.precision(), ty.scale()) {
                let text = node.fmt_sql(&crate::display::default_name);
                return Err(ExprError::out_of_range("DECIMAL", &text));
            }
            return Ok(Datum::Decimal(rounded));
        }
        _ => false,
    };
    if fits { Ok(value) } else { convert::force(value, ty, node) }
}
