//! Literals and cast targets: from text to typed values.

use cairn_expr::{EvalContext, Expr};
use cairn_parser::ast::{CastType, Literal};
use cairn_types::{Charset, Collation, Datum, Decimal, FieldType, MysqlError, TypeCode, errno};

use crate::error::{PlanError, Result};

/// `Incorrect %s value: '%s'`; not in the shared table.
const ER_WRONG_VALUE: u16 = 1525;

/// A literal as a constant.
pub(crate) fn bind_literal(literal: &Literal, ctx: &EvalContext) -> Result<Expr> {
    Ok(match literal {
        Literal::Null => Expr::null(),
        Literal::Boolean(value) => Expr::int(i64::from(*value)),
        Literal::Integer(text) => integer(text)?,
        Literal::Decimal(text) => Expr::constant(Datum::Decimal(decimal(text)?)),
        Literal::Float(text) => {
            let value: f64 = text.parse().map_err(|_| illegal("DOUBLE", text))?;
            if !value.is_finite() {
                return Err(illegal("double", text));
            }
            Expr::constant(Datum::Double(value))
        }
        Literal::String { value, charset } => {
            let collation = match charset {
                Some(charset) => introducer(charset)?,
                None => ctx.collation,
            };
            string(value.clone().into_bytes(), collation)
        }
        Literal::Hex { bytes, charset } | Literal::Bit { bytes, charset } => {
            let collation = match charset {
                Some(charset) => introducer(charset)?,
                None => Collation::BINARY,
            };
            string(bytes.clone(), collation)
        }
        Literal::Date(text) => temporal(text, FieldType::date(), "DATE", ctx)?,
        Literal::Time(text) => {
            let fsp = fraction_digits(text);
            temporal(text, FieldType::time(fsp), "TIME", ctx)?
        }
        Literal::Timestamp(text) => {
            let fsp = fraction_digits(text);
            temporal(text, FieldType::datetime(fsp), "DATETIME", ctx)?
        }
    })
}

fn introducer(charset: &str) -> Result<Collation> {
    let found = Charset::from_name(charset)
        .ok_or_else(|| PlanError::mysql(errno::ER_UNKNOWN_CHARACTER_SET, &[&charset]))?;
    Ok(found.default_collation())
}

fn illegal(type_name: &str, text: &str) -> PlanError {
    PlanError::Mysql(MysqlError::new(
        errno::ER_ILLEGAL_VALUE_FOR_TYPE,
        format!("Illegal {type_name} '{text}' value found during parsing"),
    ))
}

fn integer(text: &str) -> Result<Expr> {
    if let Ok(value) = text.parse::<i64>() {
        return Ok(Expr::int(value));
    }
    if let Ok(value) = text.parse::<u64>() {
        return Ok(Expr::constant(Datum::UInt(value)));
    }
    Ok(Expr::constant(Datum::Decimal(decimal(text)?)))
}

fn decimal(text: &str) -> Result<Decimal> {
    Ok(Decimal::parse_prefix(text.as_bytes()).value)
}

fn string(bytes: Vec<u8>, collation: Collation) -> Expr {
    let chars = if collation.is_binary() {
        bytes.len()
    } else {
        String::from_utf8_lossy(&bytes).chars().count()
    };
    let code = if collation.is_binary() { TypeCode::VarBinary } else { TypeCode::VarChar };
    let width = u32::try_from(chars).unwrap_or(u32::MAX);
    let ty = FieldType::new(code).with_flen(width).with_collation(collation).with_not_null();
    Expr::constant_of(Datum::Bytes(bytes), ty)
}

fn fraction_digits(text: &str) -> u8 {
    let digits = text.rsplit_once('.').map_or(0, |(_, fraction)| fraction.len());
    digits.min(6) as u8
}

/// `DATE '2020-01-01'`: must be one, whatever the SQL mode.
fn temporal(text: &str, ty: FieldType, name: &str, ctx: &EvalContext) -> Result<Expr> {
    let wrong = || {
        PlanError::Mysql(MysqlError::new(
            ER_WRONG_VALUE,
            format!("Incorrect {name} value: '{text}'"),
        ))
    };
    let mut eval = ctx.clone();
    eval.strict = true;
    let source = Expr::string(text);
    let cast = cairn_expr::build_cast(source, ty.clone(), &mut eval).map_err(|_| wrong())?;
    match cast.as_constant() {
        Some(Datum::Null) | None => Err(wrong()),
        Some(value) => Ok(Expr::constant_of(value.clone(), ty.with_not_null())),
    }
}

/// The type a CAST names.
pub(crate) fn cast_type(to: &CastType, ctx: &EvalContext) -> Result<FieldType> {
    Ok(match to {
        CastType::Binary(Some(length)) => FieldType::binary(*length),
        CastType::Binary(None) => FieldType::new(TypeCode::VarBinary),
        CastType::Char { length, charset } => {
            let collation = match charset {
                Some(charset) => introducer(charset)?,
                None => ctx.collation,
            };
            let mut ty = FieldType::string().with_collation(collation);
            if collation.is_binary() {
                ty = FieldType::new(TypeCode::VarBinary);
            }
            ty.flen = *length;
            ty
        }
        CastType::Date => FieldType::date(),
        CastType::DateTime(fsp) => FieldType::datetime(*fsp),
        CastType::Time(fsp) => FieldType::time(*fsp),
        CastType::Year => FieldType::year(),
        CastType::Signed => FieldType::bigint(),
        CastType::Unsigned => FieldType::bigint_unsigned(),
        CastType::Decimal { precision, scale } => {
            let scale = u8::try_from(*scale).unwrap_or(u8::MAX);
            FieldType::decimal((*precision).max(1), scale)
        }
        CastType::Float => FieldType::float(),
        CastType::Double => FieldType::double(),
        CastType::Json => FieldType::json(),
    })
}
