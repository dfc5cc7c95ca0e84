//! Truth values of many rows.
//!
//! A mask holds one byte per row: false, true, unknown. AND and OR evaluate their
//! second side only for the rows the first left open.

use cairn_types::{Chunk, Column, ColumnData, Datum};

use super::vector::{self, Rows, Vector};
use super::{ChunkRow, convert, kernels};
use crate::context::EvalContext;
use crate::error::Result;
use crate::expr::Expr;
use crate::func::Func;

/// One truth value per row.
pub type Mask = Vec<u8>;
/// False.
pub const FALSE: u8 = 0;
/// True.
pub const TRUE: u8 = 1;
/// Unknown.
pub const NULL: u8 = 2;

/// Whether [`eval`] is the native way to evaluate `func`.
pub(crate) fn is_native(func: Func) -> bool {
    func.is_comparison()
        || matches!(
            func,
            Func::And
                | Func::Or
                | Func::Xor
                | Func::Not
                | Func::IsNull
                | Func::IsTrue
                | Func::IsFalse
                | Func::In
                | Func::Like
        )
}

/// The truth of `expr` for each of `rows`.
pub(crate) fn eval(
    expr: &Expr,
    chunk: &Chunk,
    rows: Rows<'_>,
    ctx: &mut EvalContext,
) -> Result<Mask> {
    let Expr::Function { func, args, .. } = expr else {
        return of_vector(expr, &vector::eval(expr, chunk, rows, ctx)?, rows.len(), ctx);
    };
    match func {
        Func::And => connective(args, chunk, rows, ctx, FALSE),
        Func::Or => connective(args, chunk, rows, ctx, TRUE),
        Func::Not => {
            let mut mask = eval(&args[0], chunk, rows, ctx)?;
            // 0 and 1 change places, 2 stays.
            mask.iter_mut().for_each(|truth| *truth = [TRUE, FALSE, NULL][usize::from(*truth)]);
            Ok(mask)
        }
        Func::Xor => {
            let mut mask = eval(&args[0], chunk, rows, ctx)?;
            let right = eval(&args[1], chunk, rows, ctx)?;
            for (a, b) in mask.iter_mut().zip(right) {
                *a = if *a == NULL || b == NULL { NULL } else { *a ^ b };
            }
            Ok(mask)
        }
        Func::IsTrue | Func::IsFalse => {
            let wanted = if *func == Func::IsTrue { TRUE } else { FALSE };
            let mut mask = eval(&args[0], chunk, rows, ctx)?;
            mask.iter_mut().for_each(|truth| *truth = u8::from(*truth == wanted));
            Ok(mask)
        }
        Func::IsNull => {
            let vector = vector::eval(&args[0], chunk, rows, ctx)?;
            Ok((0..rows.len()).map(|at| u8::from(vector.is_null(at))).collect())
        }
        _ if is_native(*func) => leaf(expr, *func, args, chunk, rows, ctx),
        _ => of_vector(expr, &vector::eval(expr, chunk, rows, ctx)?, rows.len(), ctx),
    }
}

/// Comparisons, IN, LIKE: a kernel if one fits, else row by row.
fn leaf(
    expr: &Expr,
    func: Func,
    args: &[Expr],
    chunk: &Chunk,
    rows: Rows<'_>,
    ctx: &mut EvalContext,
) -> Result<Mask> {
    let collation = expr.ty().collation;
    let done = match func {
        Func::In => {
            let constant = args[1..].iter().all(|arg| matches!(arg, Expr::Constant { .. }));
            if constant {
                let vector = vector::eval(&args[0], chunk, rows, ctx)?;
                kernels::in_set::eval(expr, &vector, rows.len())?
            } else {
                None
            }
        }
        Func::Like => {
            let vector = vector::eval(&args[0], chunk, rows, ctx)?;
            kernels::text::like(expr, args, &vector, rows.len())?
        }
        _ => {
            let left = vector::eval(&args[0], chunk, rows, ctx)?;
            let right = vector::eval(&args[1], chunk, rows, ctx)?;
            Some(kernels::compare::eval(func, &left, &right, rows.len(), collation))
        }
    };
    match done {
        Some(mask) => Ok(mask),
        None => by_row(expr, chunk, rows, ctx),
    }
}

fn by_row(expr: &Expr, chunk: &Chunk, rows: Rows<'_>, ctx: &mut EvalContext) -> Result<Mask> {
    let mut mask = Mask::with_capacity(rows.len());
    for row in rows.iter() {
        let value = expr.eval_row(&ChunkRow { chunk, row }, ctx)?;
        mask.push(match value {
            Datum::Null => NULL,
            value => u8::from(convert::truth(&value, expr.ty(), ctx)? == Some(true)),
        });
    }
    Ok(mask)
}

/// The truth of computed values.
fn of_vector(expr: &Expr, vector: &Vector<'_>, len: usize, ctx: &mut EvalContext) -> Result<Mask> {
    if let Vector::Const(value) = vector {
        let truth = convert::truth(value, expr.ty(), ctx)?;
        return Ok(vec![truth.map_or(NULL, u8::from); len]);
    }
    let mut mask = Mask::with_capacity(len);
    if let Some((ColumnData::Int(values), None)) = vector.data() {
        mask.extend(values.iter().map(|value| u8::from(*value != 0)));
        vector.mark_nulls(&mut mask);
        return Ok(mask);
    }
    for at in 0..len {
        let value = vector.get(at).to_owned();
        mask.push(convert::truth(&value, expr.ty(), ctx)?.map_or(NULL, u8::from));
    }
    Ok(mask)
}

/// AND is decided by false, OR by true; else one unknown side makes it unknown.
fn connective(
    args: &[Expr],
    chunk: &Chunk,
    rows: Rows<'_>,
    ctx: &mut EvalContext,
    decided: u8,
) -> Result<Mask> {
    let mut mask = eval(&args[0], chunk, rows, ctx)?;
    let combine = |a: u8, b: u8| if b == decided || a != NULL { b } else { NULL };
    for arg in &args[1..] {
        let open = mask.iter().filter(|truth| **truth != decided).count();
        if open == 0 {
            break;
        }
        if open == mask.len() {
            let right = eval(arg, chunk, rows, ctx)?;
            mask.iter_mut().zip(right).for_each(|(a, b)| *a = combine(*a, b));
            continue;
        }
        let mut places = Vec::with_capacity(open);
        let mut rest = Vec::with_capacity(open);
        for (place, row) in rows.iter().enumerate() {
            if mask[place] != decided {
                places.push(place);
                rest.push(row as u32);
            }
        }
        let right = eval(arg, chunk, Rows::Some(&rest), ctx)?;
        for (place, b) in places.into_iter().zip(right) {
            mask[place] = combine(mask[place], b);
        }
    }
    Ok(mask)
}

/// The mask as a column of 0, 1 and NULL.
pub(crate) fn into_column(mask: &Mask) -> Column {
    let values = mask.iter().map(|truth| i64::from(*truth & 1)).collect();
    let validity = mask.iter().map(|truth| *truth != NULL).collect();
    Column::from_parts(ColumnData::Int(values), validity, 0)
        .expect("one validity bit per value was made")
}
