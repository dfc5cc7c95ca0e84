//! Type inference: which type a call has and which casts its arguments need.
//!
//! | module | what it decides |
//! |---|---|
//! | [`mod@arithmetic`] | integer, decimal or double arithmetic; precision and scale |
//! | [`compare`] | the common type of a comparison; constants refined for index ranges |
//! | [`unify`] | the common type of IF, CASE, COALESCE, UNION branches |
//! | [`collate`] | collation and coercibility of text (error 1267) |
//! | [`result`] | result types of all other functions |
//!
//! **Sources.** MySQL manual 14.3 "Type Conversion in Expression Evaluation",
//! 14.24 "Precision Math", 12.8 "Collation Coercibility in Expressions".

pub mod arithmetic;
pub mod collate;
pub mod compare;
pub mod result;
pub mod unify;

use cairn_types::{Datum, EvalKind, FieldType, TypeCode};

use crate::context::EvalContext;
use crate::expr::{Expr, fold_node};
use crate::func::Func;

/// Largest precision of a DECIMAL.
pub(crate) const PRECISION_MAX: u32 = 65;
/// Largest scale of a DECIMAL.
pub(crate) const SCALE_MAX: u32 = 30;

/// Type of a truth value: BIGINT(1). Its explicit 0 decimals tell it from the type
/// of a literal 1, for JSON_ARRAY(1 = 1) is `[true]`.
pub fn boolean_type() -> FieldType {
    FieldType::bigint().with_flen(1).with_decimals(0)
}

/// Whether a type is that of truth values.
pub fn is_boolean_type(ty: &FieldType) -> bool {
    ty.code == TypeCode::BigInt && ty.flen == Some(1) && ty.decimals == Some(0)
}

/// Whether the value is 0, 1 or NULL.
pub fn is_boolean(expr: &Expr) -> bool {
    match expr {
        Expr::Constant { value, .. } => {
            matches!(value, Datum::Null | Datum::Int(0 | 1) | Datum::UInt(0 | 1))
        }
        Expr::Function { func, .. } => {
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
                        | Func::Regexp
                        | Func::RegexpLike
                )
        }
        _ => false,
    }
}

/// Type of a literal.
pub fn type_of_literal(value: &Datum) -> FieldType {
    let ty = match value {
        Datum::Null => return FieldType::null(),
        Datum::Int(value) => {
            FieldType::bigint().with_flen(digits(value.unsigned_abs()) + u32::from(*value < 0))
        }
        Datum::UInt(value) => FieldType::bigint_unsigned().with_flen(digits(*value)),
        Datum::Float(_) => FieldType::float(),
        Datum::Double(_) => FieldType::double(),
        Datum::Decimal(value) => {
            FieldType::decimal(value.precision().clamp(1, PRECISION_MAX), value.scale())
        }
        Datum::Bytes(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => FieldType::varchar(text.chars().count() as u32),
            Err(_) => FieldType::varbinary(bytes.len() as u32),
        },
        Datum::Time(time) => match time.kind() {
            cairn_types::TimeKind::Date => FieldType::date(),
            cairn_types::TimeKind::DateTime => FieldType::datetime(time.fsp()),
            cairn_types::TimeKind::Timestamp => FieldType::timestamp(time.fsp()),
        },
        Datum::Duration(duration) => FieldType::time(duration.fsp()),
        Datum::Json(_) => FieldType::json(),
    };
    ty.with_not_null()
}

fn digits(value: u64) -> u32 {
    value.checked_ilog10().unwrap_or(0) + 1
}

/// How an argument takes part in arithmetic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum NumericKind {
    Int,
    UInt,
    Decimal,
    Real,
}

/// How `expr` takes part in arithmetic: text as a double, times as the number
/// their digits make.
pub(crate) fn numeric_kind(expr: &Expr) -> NumericKind {
    let ty = expr.ty();
    if ty.code == TypeCode::Null {
        return NumericKind::Int;
    }
    match ty.eval_kind() {
        EvalKind::Int => NumericKind::Int,
        EvalKind::UInt => NumericKind::UInt,
        EvalKind::Decimal => NumericKind::Decimal,
        EvalKind::Real | EvalKind::String | EvalKind::Json => NumericKind::Real,
        EvalKind::Time | EvalKind::Duration if ty.fsp() > 0 => NumericKind::Decimal,
        EvalKind::Time | EvalKind::Duration => NumericKind::Int,
    }
}

/// Precision and scale of an exact number; of an integer, those of its digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    pub precision: u32,
    pub scale: u32,
}

impl Shape {
    pub fn integer_digits(self) -> u32 {
        self.precision - self.scale.min(self.precision)
    }

    /// The decimal type of this shape, brought into MySQL's bounds.
    pub fn decimal(self) -> FieldType {
        let scale = self.scale.min(SCALE_MAX);
        let precision = self.precision.max(scale).clamp(1, PRECISION_MAX);
        FieldType::decimal(precision, scale as u8)
    }

    /// The shape that holds both.
    pub fn union(self, other: Shape) -> Shape {
        let scale = self.scale.max(other.scale);
        Shape { precision: self.integer_digits().max(other.integer_digits()) + scale, scale }
    }
}

pub(crate) fn shape(expr: &Expr) -> Shape {
    let of = |precision| Shape { precision, scale: 0 };
    match expr {
        Expr::Constant { value: Datum::Int(value), .. } => of(digits(value.unsigned_abs())),
        Expr::Constant { value: Datum::UInt(value), .. } => of(digits(*value)),
        _ => shape_of_type(expr.ty()),
    }
}

/// Shape of a type's values. The display width of an integer says nothing about
/// its digits.
pub(crate) fn shape_of_type(ty: &FieldType) -> Shape {
    let of = |precision, scale| Shape { precision, scale };
    match ty.code {
        TypeCode::Null => of(1, 0),
        TypeCode::TinyInt => of(3, 0),
        TypeCode::SmallInt => of(5, 0),
        TypeCode::MediumInt => of(8, 0),
        TypeCode::Int => of(10, 0),
        TypeCode::BigInt if ty.unsigned => of(20, 0),
        TypeCode::BigInt => of(19, 0),
        TypeCode::Year => of(4, 0),
        TypeCode::Bit => of(20, 0),
        TypeCode::Decimal => of(ty.precision(), u32::from(ty.scale())),
        TypeCode::Date => of(8, 0),
        TypeCode::DateTime | TypeCode::Timestamp => {
            of(14 + u32::from(ty.fsp()), u32::from(ty.fsp()))
        }
        TypeCode::Time => of(7 + u32::from(ty.fsp()), u32::from(ty.fsp())),
        // Text and doubles have no shape of their own; wide enough for most.
        _ => of(PRECISION_MAX, SCALE_MAX),
    }
}

/// `expr` as a value of `ty`, the cast of a constant evaluated at once.
pub(crate) fn cast(expr: Expr, ty: FieldType, ctx: &mut EvalContext) -> Expr {
    let mut ty = ty;
    ty.not_null = false;
    if let Expr::Constant { value: Datum::Null, .. } = expr {
        return Expr::Constant { value: Datum::Null, ty };
    }
    if is_same_representation(expr.ty(), &ty) {
        return expr;
    }
    fold_node(Expr::function(Func::Cast, vec![expr], ty), ctx, false)
}

/// Whether values of `from` are values of `to` as they lie.
fn is_same_representation(from: &FieldType, to: &FieldType) -> bool {
    if from.physical() != to.physical() {
        return false;
    }
    match to.eval_kind() {
        EvalKind::Decimal => from.scale() == to.scale() && from.precision() <= to.precision(),
        EvalKind::String => {
            from.eval_kind() == EvalKind::String
                && !from.is_enum_or_set()
                && (from.collation.is_binary() == to.collation.is_binary())
        }
        EvalKind::Time => {
            (from.code == TypeCode::Date) == (to.code == TypeCode::Date) && from.fsp() <= to.fsp()
        }
        EvalKind::Duration => from.fsp() <= to.fsp(),
        EvalKind::UInt | EvalKind::Int | EvalKind::Real => {
            !from.is_enum_or_set() && !to.is_enum_or_set()
        }
        EvalKind::Json => true,
    }
}

/// Characters the longest value of `ty` has as text; `None`: not bounded.
pub(crate) fn text_width(ty: &FieldType) -> Option<u32> {
    if ty.is_string() && !ty.is_blob() {
        return ty.flen;
    }
    match ty.code {
        TypeCode::Json => None,
        TypeCode::Null => Some(0),
        TypeCode::Enum | TypeCode::Set => {
            Some(ty.display_length() / ty.collation.charset().max_len().max(1))
        }
        _ if ty.is_blob() => None,
        _ => Some(ty.display_length()),
    }
}
