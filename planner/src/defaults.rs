//! Default values of columns as typed values.

use cairn_expr::{EvalContext, Expr};
use cairn_types::{Datum, FieldType, TypeCode};

use crate::catalog::{ColumnDefault, ColumnInfo};
use crate::error::Result;

/// The value of a default that is a constant: `Some(NULL)` if there is none or it is
/// NULL, `None` if it has to be computed (`CURRENT_TIMESTAMP`, an expression).
pub fn constant_default(column: &ColumnInfo, ctx: &mut EvalContext) -> Result<Option<Datum>> {
    match &column.default {
        None => Ok(Some(Datum::Null)),
        Some(default) => constant_of(default, &column.ty, ctx),
    }
}

/// The value of rows that were written before the column existed.
pub fn origin_default(column: &ColumnInfo, ctx: &mut EvalContext) -> Datum {
    let value = match &column.origin_default {
        None => None,
        Some(default) => constant_of(default, &column.ty, ctx).ok().flatten(),
    };
    value.unwrap_or(Datum::Null)
}

fn constant_of(
    default: &ColumnDefault,
    ty: &FieldType,
    ctx: &mut EvalContext,
) -> Result<Option<Datum>> {
    let source = match default {
        ColumnDefault::Null => return Ok(Some(Datum::Null)),
        ColumnDefault::CurrentTimestamp { .. } | ColumnDefault::Expr(_) => return Ok(None),
        ColumnDefault::Literal(text) => Expr::string(text.as_str()),
        ColumnDefault::Bytes(bytes) => {
            let ty = FieldType::new(TypeCode::VarBinary);
            Expr::constant_of(Datum::Bytes(bytes.clone()), ty)
        }
    };
    let cast = cairn_expr::build_cast(source, ty.clone(), ctx)?;
    let value = cast.eval_row(&cairn_expr::NoRow, ctx)?;
    Ok(Some(value))
}
