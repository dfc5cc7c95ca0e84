//! The one type of several alternatives: IF, CASE, COALESCE, IFNULL, GREATEST,
//! and the columns of UNION.

use cairn_types::{EvalKind, FieldType, TypeCode};

use super::{SCALE_MAX, Shape, cast, collate, shape, shape_of_type, text_width};
use crate::context::EvalContext;
use crate::error::Result;
use crate::expr::Expr;

/// Longest VARCHAR; what may be longer is a LONGTEXT.
const VARCHAR_CHARS_MAX: u32 = 16_383;

/// The type all of `args` are brought to by `name`.
pub fn common_type(name: &str, args: &[&Expr], ctx: &EvalContext) -> Result<FieldType> {
    let typed: Vec<&Expr> =
        args.iter().copied().filter(|arg| arg.ty().code != TypeCode::Null).collect();
    let Some((first, rest)) = typed.split_first() else { return Ok(FieldType::null()) };
    let mut ty = first.ty().clone();
    let mut exact = exact_shape(first);
    for arg in rest {
        ty = merge(&ty, arg.ty());
        exact = exact.zip(exact_shape(arg)).map(|(a, b)| a.union(b));
    }
    if let (TypeCode::Decimal, Some(shape)) = (ty.code, exact) {
        ty = shape.decimal();
    }
    if ty.eval_kind() == EvalKind::String {
        ty.collation = collate::derive(name, &typed, ctx.collation)?.collation;
        if ty.is_string() {
            ty = string_of(&ty, &typed);
        }
    }
    ty.not_null = args.len() == typed.len() && args.iter().all(|arg| arg.ty().not_null);
    ty.zerofill = false;
    Ok(ty)
}

fn exact_shape(expr: &Expr) -> Option<Shape> {
    let exact = matches!(expr.eval_kind(), EvalKind::Int | EvalKind::UInt | EvalKind::Decimal);
    exact.then(|| shape(expr))
}

/// The width of the widest, in a type that holds it.
fn string_of(ty: &FieldType, args: &[&Expr]) -> FieldType {
    let widest = args.iter().map(|arg| text_width(arg.ty()));
    let widest = widest.reduce(|a, b| a.zip(b).map(|(a, b)| a.max(b))).flatten();
    let binary = ty.collation.is_binary();
    let mut result = match widest {
        Some(chars) if chars <= VARCHAR_CHARS_MAX && !ty.is_blob() => {
            let code = if binary { TypeCode::VarBinary } else { TypeCode::VarChar };
            FieldType::new(code).with_flen(chars)
        }
        _ => FieldType::new(if binary { TypeCode::LongBlob } else { TypeCode::LongText }),
    };
    result.collation = ty.collation;
    result
}

/// The type of two alternatives; text widths and collations are the caller's.
pub fn merge(a: &FieldType, b: &FieldType) -> FieldType {
    use EvalKind as E;
    if a.code == TypeCode::Null {
        return b.clone();
    }
    if b.code == TypeCode::Null || a == b {
        return a.clone();
    }
    if a.is_enum_or_set() || b.is_enum_or_set() {
        return FieldType::string();
    }
    match (a.eval_kind(), b.eval_kind()) {
        (E::Int, E::Int) | (E::UInt, E::UInt) => {
            let mut wider = if integer_rank(a) >= integer_rank(b) { a.clone() } else { b.clone() };
            wider.flen = a.flen.zip(b.flen).map(|(a, b)| a.max(b));
            wider
        }
        (E::Int | E::UInt, E::Int | E::UInt) => {
            let (signed, unsigned) = if a.eval_kind() == E::Int { (a, b) } else { (b, a) };
            // A signed type that holds all of the unsigned one, or a decimal.
            if integer_rank(unsigned) < 4 {
                let rank = integer_rank(signed).max(integer_rank(unsigned) + 1);
                return FieldType::new(INTEGERS[rank]);
            }
            shape_of_type(signed).union(shape_of_type(unsigned)).decimal()
        }
        (E::Int | E::UInt | E::Decimal, E::Int | E::UInt | E::Decimal) => {
            shape_of_type(a).union(shape_of_type(b)).decimal()
        }
        (E::Real, E::Real) if a.code == b.code => FieldType::new(a.code),
        (E::Real | E::Int | E::UInt | E::Decimal, E::Real | E::Int | E::UInt | E::Decimal) => {
            FieldType::double()
        }
        (E::Time, E::Time) => {
            let fsp = a.fsp().max(b.fsp());
            match (a.code, b.code) {
                (TypeCode::Timestamp, TypeCode::Timestamp) => FieldType::timestamp(fsp),
                (TypeCode::Date, TypeCode::Date) => FieldType::date(),
                _ => FieldType::datetime(fsp),
            }
        }
        (E::Duration, E::Duration) => FieldType::time(a.fsp().max(b.fsp())),
        (E::Time, E::Duration) | (E::Duration, E::Time) => {
            FieldType::datetime(a.fsp().max(b.fsp()))
        }
        (E::Json, E::Json) => FieldType::json(),
        _ => {
            let long =
                a.is_blob() || b.is_blob() || a.code == TypeCode::Json || b.code == TypeCode::Json;
            if long { FieldType::longtext() } else { FieldType::string() }
        }
    }
}

const INTEGERS: [TypeCode; 5] =
    [TypeCode::TinyInt, TypeCode::SmallInt, TypeCode::MediumInt, TypeCode::Int, TypeCode::BigInt];

fn integer_rank(ty: &FieldType) -> usize {
    INTEGERS.iter().position(|code| *code == ty.code).unwrap_or(match ty.code {
        TypeCode::Year => 1,
        _ => 4,
    })
}

/// The argument as a value of the common type. Text widths do not cut.
pub fn cast_to_common(arg: Expr, ty: &FieldType, ctx: &mut EvalContext) -> Expr {
    let mut target = ty.clone();
    if target.eval_kind() == EvalKind::String && !target.is_enum_or_set() {
        target.flen = None;
    }
    // Room for whatever the exact value needs: a rounding here would be MySQL's
    // result rounded once too often.
    debug_assert!(u32::from(target.scale()) <= SCALE_MAX || !target.is_decimal());
    if arg.ty() == ty {
        return arg;
    }
    if ty.is_enum_or_set() && arg.ty().is_enum_or_set() {
        return arg;
    }
    cast(arg, target, ctx)
}
