//! The walk over a chunk: every node becomes a vector over the selected rows.
//!
//! Columns are not copied: a [`Vector`] may be a column of the chunk seen through
//! the selection, an owned column of one value per selected row, or one value for
//! all rows.

use std::borrow::Cow;

use cairn_types::{Chunk, Column, ColumnData, Datum, DatumRef, FieldType};

use super::call::Call;
use super::mask::{self, Mask, NULL, TRUE};
use super::{Values, kernels, missing_column, normalize, param};
use crate::context::EvalContext;
use crate::error::{ExprError, Result};
use crate::expr::Expr;
use crate::func::Func;
use crate::functions;

/// Which rows of a chunk are meant, by physical offset.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Rows<'a> {
    /// The first so many.
    All(usize),
    /// These, ascending.
    Some(&'a [u32]),
}

impl<'a> Rows<'a> {
    pub fn of_chunk(chunk: &'a Chunk) -> Rows<'a> {
        match &chunk.sel {
            Some(sel) => Rows::Some(sel),
            None => Rows::All(chunk.num_rows()),
        }
    }

    pub fn len(self) -> usize {
        match self {
            Rows::All(count) => count,
            Rows::Some(rows) => rows.len(),
        }
    }

    /// Physical offsets.
    pub fn iter(self) -> impl Iterator<Item = usize> + 'a {
        let (count, rows) = match self {
            Rows::All(count) => (count, [].as_slice()),
            Rows::Some(rows) => (0, rows),
        };
        (0..count).chain(rows.iter().map(|row| *row as usize))
    }
}

/// Values of one expression over [`Rows`].
pub(crate) enum Vector<'a> {
    /// A column of the chunk, through a selection.
    Column(&'a Column, Option<&'a [u32]>),
    /// One value per row.
    Owned(Column),
    /// One value for all rows.
    Const(Cow<'a, Datum>),
}

impl<'a> Vector<'a> {
    /// The column and where its values lie, unless this is one value.
    pub fn data(&self) -> Option<(&ColumnData, Option<&[u32]>)> {
        match self {
            Vector::Column(column, sel) => Some((column.data(), *sel)),
            Vector::Owned(column) => Some((column.data(), None)),
            Vector::Const(_) => None,
        }
    }

    pub fn column(&self) -> Option<(&Column, Option<&[u32]>)> {
        match self {
            Vector::Column(column, sel) => Some((column, *sel)),
            Vector::Owned(column) => Some((column, None)),
            Vector::Const(_) => None,
        }
    }

    pub fn constant(&self) -> Option<&Datum> {
        match self {
            Vector::Const(value) => Some(value),
            _ => None,
        }
    }

    /// The value of the `at`-th row.
    pub fn get(&self, at: usize) -> DatumRef<'_> {
        match self {
            Vector::Column(column, Some(sel)) => column.get(sel[at] as usize),
            Vector::Column(column, None) => column.get(at),
            Vector::Owned(column) => column.get(at),
            Vector::Const(value) => value.as_ref().as_ref(),
        }
    }

    pub fn is_null(&self, at: usize) -> bool {
        match self {
            Vector::Column(column, Some(sel)) => column.is_null(sel[at] as usize),
            Vector::Column(column, None) => column.is_null(at),
            Vector::Owned(column) => column.is_null(at),
            Vector::Const(value) => value.is_null(),
        }
    }

    pub fn has_nulls(&self) -> bool {
        match self {
            Vector::Column(column, _) => column.has_nulls(),
            Vector::Owned(column) => column.has_nulls(),
            Vector::Const(value) => value.is_null(),
        }
    }

    /// Sets the mask to unknown where this is NULL.
    pub fn mark_nulls(&self, mask: &mut Mask) {
        if self.has_nulls() {
            for (at, truth) in mask.iter_mut().enumerate() {
                if self.is_null(at) {
                    *truth = NULL;
                }
            }
        }
    }

    /// One value per row, in a column of `ty`.
    pub fn into_column(self, ty: &FieldType, len: usize) -> Result<Column> {
        match self {
            Vector::Owned(column) => Ok(column),
            Vector::Column(column, None) if column.len() == len => Ok(column.clone()),
            Vector::Column(column, sel) => {
                let mut out = column.empty_like(len);
                match sel {
                    Some(sel) => out.append_sel(column, Some(sel)),
                    None => out.append_range(column, 0, len),
                }
                Ok(out)
            }
            Vector::Const(value) => {
                let mut out = Column::new(ty, len);
                let node = Expr::constant_of(Datum::Null, ty.clone());
                let value = normalize(value.into_owned(), ty, &node)?;
                for _ in 0..len {
                    out.push(value.as_ref());
                }
                Ok(out)
            }
        }
    }
}

/// The values of `expr` over `rows`.
pub(crate) fn eval<'a>(
    expr: &'a Expr,
    chunk: &'a Chunk,
    rows: Rows<'a>,
    ctx: &mut EvalContext,
) -> Result<Vector<'a>> {
    match expr {
        Expr::Column { index, .. } => {
            let column = chunk.columns.get(*index).ok_or_else(|| missing_column(*index))?;
            Ok(match rows {
                Rows::All(_) => Vector::Column(column, None),
                Rows::Some(sel) => Vector::Column(column, Some(sel)),
            })
        }
        Expr::Constant { value, .. } => Ok(Vector::Const(Cow::Borrowed(value))),
        Expr::Param { index, .. } => Ok(Vector::Const(Cow::Owned(param(*index, ctx)?))),
        Expr::Function { func, args, ty, .. } => {
            if mask::is_native(*func) {
                let mask = mask::eval(expr, chunk, rows, ctx)?;
                return Ok(Vector::Owned(mask::into_column(&mask)));
            }
            match func {
                Func::If => {
                    return branches(&[(&args[0], &args[1])], Some(&args[2]), ty, chunk, rows, ctx);
                }
                Func::Case => {
                    let pairs: Vec<(&Expr, &Expr)> =
                        args.chunks_exact(2).map(|pair| (&pair[0], &pair[1])).collect();
                    let otherwise = args.chunks_exact(2).remainder().first();
                    return branches(&pairs, otherwise, ty, chunk, rows, ctx);
                }
                Func::IfNull | Func::Coalesce => return coalesce(args, ty, chunk, rows, ctx),
                Func::Row => {
                    return Err(ExprError::mysql(cairn_types::errno::ER_OPERAND_COLUMNS, &[&1]));
                }
                _ => {}
            }
            call(expr, *func, args, ty, chunk, rows, ctx)
        }
    }
}

/// A strict function: arguments first, then a kernel, or row by row.
fn call<'a>(
    expr: &'a Expr,
    func: Func,
    args: &'a [Expr],
    ty: &FieldType,
    chunk: &'a Chunk,
    rows: Rows<'a>,
    ctx: &mut EvalContext,
) -> Result<Vector<'a>> {
    let mut vectors = Vec::with_capacity(args.len());
    for arg in args {
        vectors.push(eval(arg, chunk, rows, ctx)?);
    }
    let len = rows.len();
    if let Some(column) = kernels::eval(func, args, &vectors, ty, len) {
        return Ok(Vector::Owned(column));
    }
    let Expr::Function { cache, .. } = expr else {
        return Err(ExprError::Internal("a call is a function".into()));
    };
    let mut out = Column::new(ty, len);
    let mut values = Values::with_capacity(args.len());
    for at in 0..len {
        values.clear();
        values.extend(vectors.iter().map(|vector| vector.get(at).to_owned()));
        let call = Call { func, exprs: args, values: &values, ty, cache, node: expr };
        let value = functions::eval(&call, ctx)?;
        out.push(normalize(value, ty, expr)?.as_ref());
    }
    Ok(Vector::Owned(out))
}

/// IF and CASE: each value is computed for the rows that chose it.
fn branches<'a>(
    pairs: &[(&'a Expr, &'a Expr)],
    otherwise: Option<&'a Expr>,
    ty: &FieldType,
    chunk: &'a Chunk,
    rows: Rows<'a>,
    ctx: &mut EvalContext,
) -> Result<Vector<'a>> {
    let mut open: Vec<(u32, u32)> =
        rows.iter().enumerate().map(|(place, row)| (place as u32, row as u32)).collect();
    let mut choice = Choice::new(rows.len());
    for (condition, value) in pairs {
        if open.is_empty() {
            break;
        }
        let physical: Vec<u32> = open.iter().map(|(_, row)| *row).collect();
        let truth = mask::eval(condition, chunk, Rows::Some(&physical), ctx)?;
        let mut chosen = Vec::new();
        let mut rest = Vec::with_capacity(open.len());
        for (place, truth) in open.into_iter().zip(truth) {
            if truth == TRUE { chosen.push(place) } else { rest.push(place) }
        }
        open = rest;
        choice.add(value, &chosen, chunk, ctx)?;
    }
    if let Some(otherwise) = otherwise {
        choice.add(otherwise, &open, chunk, ctx)?;
    }
    choice.finish(ty)
}

/// The first value that is not NULL.
fn coalesce<'a>(
    args: &'a [Expr],
    ty: &FieldType,
    chunk: &'a Chunk,
    rows: Rows<'a>,
    ctx: &mut EvalContext,
) -> Result<Vector<'a>> {
    let mut open: Vec<(u32, u32)> =
        rows.iter().enumerate().map(|(place, row)| (place as u32, row as u32)).collect();
    let mut choice = Choice::new(rows.len());
    for arg in args {
        if open.is_empty() {
            break;
        }
        choice.add(arg, &open, chunk, ctx)?;
        open.retain(|(place, _)| choice.is_null(*place));
    }
    choice.finish(ty)
}

/// Which branch gives each row's value, and where in it.
struct Choice {
    columns: Vec<Column>,
    /// Branch and place in the branch's column, per row; `u32::MAX`: none, NULL.
    places: Vec<(u32, u32)>,
}

impl Choice {
    fn new(len: usize) -> Choice {
        Choice { columns: Vec::new(), places: vec![(u32::MAX, 0); len] }
    }

    fn add(
        &mut self,
        value: &Expr,
        rows: &[(u32, u32)],
        chunk: &Chunk,
        ctx: &mut EvalContext,
    ) -> Result<()> {
        if rows.is_empty() {
            return Ok(());
        }
        let physical: Vec<u32> = rows.iter().map(|(_, row)| *row).collect();
        let vector = eval(value, chunk, Rows::Some(&physical), ctx)?;
        let column = vector.into_column(value.ty(), rows.len())?;
        let branch = self.columns.len() as u32;
        for (at, (place, _)) in rows.iter().enumerate() {
            self.places[*place as usize] = (branch, at as u32);
        }
        self.columns.push(column);
        Ok(())
    }

    fn is_null(&self, place: u32) -> bool {
        let (branch, at) = self.places[place as usize];
        self.columns.get(branch as usize).is_none_or(|column| column.is_null(at as usize))
    }

    fn finish<'a>(self, ty: &FieldType) -> Result<Vector<'a>> {
        let mut out = Column::new(ty, self.places.len());
        let node = Expr::constant_of(Datum::Null, ty.clone());
        for (branch, at) in self.places {
            let Some(column) = self.columns.get(branch as usize) else {
                out.push_null();
                continue;
            };
            let at = at as usize;
            if std::mem::discriminant(column.data()) == std::mem::discriminant(out.data()) {
                out.append_from(column, at);
            } else {
                let value = normalize(column.get(at).to_owned(), ty, &node)?;
                out.push(value.as_ref());
            }
        }
        Ok(Vector::Owned(out))
    }
}
