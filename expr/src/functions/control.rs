//! Logic and control: the functions that evaluate an argument only if they need
//! it, and NOT and XOR.

use cairn_types::Datum;

use crate::context::EvalContext;
use crate::error::{ExprError, Result};
use crate::eval::call::Call;
use crate::eval::{RowAccess, convert};
use crate::expr::Expr;
use crate::func::Func;

/// Evaluates a lazy function for one row; `None` if `func` is not lazy.
pub(crate) fn eval_lazy(
    func: Func,
    args: &[Expr],
    row: &dyn RowAccess,
    ctx: &mut EvalContext,
) -> Result<Option<Datum>> {
    Ok(Some(match func {
        Func::And => connective(args, row, ctx, false)?,
        Func::Or => connective(args, row, ctx, true)?,
        Func::If => {
            let chosen = if truth(&args[0], row, ctx)? == Some(true) { &args[1] } else { &args[2] };
            chosen.eval_row(row, ctx)?
        }
        Func::IfNull | Func::Coalesce => {
            let mut value = Datum::Null;
            for arg in args {
                value = arg.eval_row(row, ctx)?;
                if !value.is_null() {
                    break;
                }
            }
            value
        }
        Func::Case => case(args, row, ctx)?,
        _ => return Ok(None),
    }))
}

fn truth(expr: &Expr, row: &dyn RowAccess, ctx: &mut EvalContext) -> Result<Option<bool>> {
    let value = expr.eval_row(row, ctx)?;
    convert::truth(&value, expr.ty(), ctx)
}

/// AND (absorbed by false) and OR (absorbed by true).
fn connective(
    args: &[Expr],
    row: &dyn RowAccess,
    ctx: &mut EvalContext,
    absorbing: bool,
) -> Result<Datum> {
    let mut unknown = false;
    for arg in args {
        match truth(arg, row, ctx)? {
            Some(value) if value == absorbing => return Ok(Datum::bool(absorbing)),
            Some(_) => {}
            None => unknown = true,
        }
    }
    Ok(if unknown { Datum::Null } else { Datum::bool(!absorbing) })
}

fn case(args: &[Expr], row: &dyn RowAccess, ctx: &mut EvalContext) -> Result<Datum> {
    let mut pairs = args.chunks_exact(2);
    for pair in pairs.by_ref() {
        if truth(&pair[0], row, ctx)? == Some(true) {
            return pair[1].eval_row(row, ctx);
        }
    }
    match pairs.remainder() {
        [otherwise] => otherwise.eval_row(row, ctx),
        _ => Ok(Datum::Null),
    }
}

pub(crate) fn eval(call: &Call<'_>, ctx: &mut EvalContext) -> Result<Datum> {
    match call.func {
        Func::Not => Ok(match call.truth(0, ctx)? {
            Some(value) => Datum::bool(!value),
            None => Datum::Null,
        }),
        Func::Xor => Ok(match (call.truth(0, ctx)?, call.truth(1, ctx)?) {
            (Some(a), Some(b)) => Datum::bool(a != b),
            _ => Datum::Null,
        }),
        Func::AnyValue => Ok(call.value(0).clone()),
        // Rows are taken apart when a call is built; what remains is misuse.
        Func::Row => Err(ExprError::mysql(cairn_types::errno::ER_OPERAND_COLUMNS, &[&1])),
        func => Err(ExprError::Internal(format!("{func} is lazy"))),
    }
}
