//! The common type of a comparison, and constants brought to a column's type.
//!
//! | left | right | compared as |
//! |---|---|---|
//! | text | text | text, by the derived collation |
//! | integer | integer | integers, signs told apart |
//! | exact number | exact number | decimals |
//! | date or datetime | text, date, datetime | datetimes |
//! | TIME | text, TIME | TIME |
//! | JSON | anything | JSON |
//! | all else | | doubles |
//!
//! A constant beside a column is converted to the column's type where that cannot
//! change the answer, so that the comparison can become an index range:
//! `c1 > '10'` → `c1 > 10`, `c1 < 10.5` → `c1 < 11`. `varchar_col = 5` stays a
//! comparison of doubles, as in MySQL, for no range of texts means it.

use std::cmp::Ordering;

use cairn_types::{Collation, Datum, Decimal, EvalKind, FieldType, TypeCode};

use super::{Shape, boolean_type, cast, collate, shape};
use crate::context::EvalContext;
use crate::error::Result;
use crate::expr::{Expr, fold_node};
use crate::func::Func;

/// What two values are compared as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompareKind {
    /// 64-bit integers of either sign.
    Int,
    /// Exact decimals.
    Decimal,
    /// Doubles.
    Real,
    /// Text or bytes.
    Text,
    /// Points in time.
    Time,
    /// Spans of time.
    Duration,
    /// JSON values.
    Json,
}

/// How two expressions are compared.
pub fn kind_of_pair(a: &Expr, b: &Expr) -> CompareKind {
    use EvalKind as E;
    // NULL takes the other's kind: the answer is NULL anyway.
    if a.ty().code == TypeCode::Null {
        return kind_alone(b);
    }
    if b.ty().code == TypeCode::Null {
        return kind_alone(a);
    }
    match (a.eval_kind(), b.eval_kind()) {
        (E::Json, _) | (_, E::Json) => CompareKind::Json,
        (E::Time, E::Time | E::String | E::Duration) | (E::String | E::Duration, E::Time) => {
            CompareKind::Time
        }
        (E::Duration, E::Duration | E::String) | (E::String, E::Duration) => CompareKind::Duration,
        // A number literal beside a date is a date if it can be one.
        (E::Time, E::Int | E::UInt) if is_date_number(b) => CompareKind::Time,
        (E::Int | E::UInt, E::Time) if is_date_number(a) => CompareKind::Time,
        (E::String, E::String) => CompareKind::Text,
        // ENUM and SET against numbers: their index.
        (E::String, E::Int | E::UInt) if a.ty().is_enum_or_set() => CompareKind::Int,
        (E::Int | E::UInt, E::String) if b.ty().is_enum_or_set() => CompareKind::Int,
        (E::Int | E::UInt, E::Int | E::UInt) => CompareKind::Int,
        (E::Int | E::UInt | E::Decimal, E::Int | E::UInt | E::Decimal) => CompareKind::Decimal,
        _ => CompareKind::Real,
    }
}

fn kind_alone(expr: &Expr) -> CompareKind {
    match expr.eval_kind() {
        EvalKind::Int | EvalKind::UInt => CompareKind::Int,
        EvalKind::Real => CompareKind::Real,
        EvalKind::Decimal => CompareKind::Decimal,
        EvalKind::String if expr.ty().code == TypeCode::Null => CompareKind::Int,
        EvalKind::String => CompareKind::Text,
        EvalKind::Time => CompareKind::Time,
        EvalKind::Duration => CompareKind::Duration,
        EvalKind::Json => CompareKind::Json,
    }
}

fn is_date_number(expr: &Expr) -> bool {
    let number = match expr.as_constant() {
        Some(Datum::Int(value)) => *value,
        Some(Datum::UInt(value)) => i64::try_from(*value).unwrap_or(i64::MAX),
        _ => return false,
    };
    let kind = cairn_types::TimeKind::DateTime;
    cairn_types::Time::from_number(number, kind, 0, cairn_types::time::DateMode::default()).is_ok()
}

/// The kind that suits all of a list (GREATEST, INTERVAL, BETWEEN).
pub fn kind_of_list(args: &[Expr]) -> CompareKind {
    let mut typed = args.iter().filter(|arg| arg.ty().code != TypeCode::Null);
    let Some(first) = typed.next() else { return CompareKind::Int };
    let mut kind = kind_alone(first);
    for arg in typed {
        let next = kind_alone(arg);
        kind = match (kind, next) {
            (a, b) if a == b => a,
            (CompareKind::Json, _) | (_, CompareKind::Json) => CompareKind::Json,
            (CompareKind::Int | CompareKind::Decimal, CompareKind::Int | CompareKind::Decimal) => {
                CompareKind::Decimal
            }
            (CompareKind::Time, CompareKind::Text | CompareKind::Duration)
            | (CompareKind::Text | CompareKind::Duration, CompareKind::Time) => CompareKind::Time,
            (CompareKind::Duration, CompareKind::Text)
            | (CompareKind::Text, CompareKind::Duration) => CompareKind::Duration,
            _ => CompareKind::Real,
        };
    }
    kind
}

/// A comparison with its casts.
pub fn build(func: Func, left: Expr, right: Expr, ctx: &mut EvalContext) -> Result<Expr> {
    let (left, right) = (left.fold(ctx), right.fold(ctx));
    let (func, left, right) = match refine(func, left, right, ctx) {
        Refined::Compare(func, left, right) => (func, left, right),
        Refined::Decided(expr) => return Ok(*expr),
    };
    let kind = kind_of_pair(&left, &right);
    let mut ty = boolean_type();
    let args = if kind == CompareKind::Text {
        let (args, collation) = align_text(func.operator().unwrap_or("="), vec![left, right], ctx)?;
        ty.collation = collation;
        args
    } else {
        let numbers = decimal_shape(kind, &[&left, &right]);
        vec![cast_for(kind, left, numbers, ctx), cast_for(kind, right, numbers, ctx)]
    };
    Ok(Expr::function(func, args, ty))
}

/// `expr IN (list)`: one kind for all where the members allow it, else a chain of
/// comparisons joined by OR.
pub fn build_in(mut args: Vec<Expr>, ctx: &mut EvalContext) -> Result<Expr> {
    let target = args.remove(0);
    let mut members = Vec::with_capacity(args.len());
    let mut impossible = false;
    let original = members_copy(&args);
    for member in args {
        match refine(Func::Eq, target.clone(), member, ctx) {
            Refined::Compare(_, _, member) => members.push(member),
            // `int_col IN (1.5)` holds for no row, but is NULL for NULL.
            Refined::Decided(_) => impossible = true,
        }
    }
    if impossible && members.is_empty() {
        members = original;
    }
    let kinds: Vec<CompareKind> = members.iter().map(|m| kind_of_pair(&target, m)).collect();
    let kind = kinds[0];
    if kinds.iter().any(|other| *other != kind) {
        let mut parts = Vec::with_capacity(members.len());
        for member in members {
            parts.push(build(Func::Eq, target.clone(), member, ctx)?);
        }
        return Ok(Expr::join_dnf(parts).expect("IN has a member"));
    }
    let mut all = vec![target];
    all.extend(members);
    let mut ty = boolean_type();
    if kind == CompareKind::Text {
        let (aligned, collation) = align_text("IN", all, ctx)?;
        ty.collation = collation;
        all = aligned;
    } else {
        let numbers = decimal_shape(kind, &all.iter().collect::<Vec<_>>());
        all = all.into_iter().map(|arg| cast_for(kind, arg, numbers, ctx)).collect();
    }
    Ok(Expr::function(Func::In, all, ty))
}

fn members_copy(args: &[Expr]) -> Vec<Expr> {
    args.iter().take(1).cloned().collect()
}

/// The decimal type that holds all, for [`CompareKind::Decimal`].
pub(crate) fn decimal_shape(kind: CompareKind, args: &[&Expr]) -> Option<Shape> {
    if kind != CompareKind::Decimal {
        return None;
    }
    args.iter().map(|arg| shape(arg)).reduce(Shape::union)
}

/// `expr` as a value that `kind` compares.
pub(crate) fn cast_for(
    kind: CompareKind,
    expr: Expr,
    numbers: Option<Shape>,
    ctx: &mut EvalContext,
) -> Expr {
    let is = expr.eval_kind();
    let is_null = expr.ty().code == TypeCode::Null;
    match kind {
        CompareKind::Int if matches!(is, EvalKind::Int | EvalKind::UInt) => expr,
        // Their values are their indexes.
        CompareKind::Int if expr.ty().is_enum_or_set() => expr,
        CompareKind::Int => cast(expr, FieldType::bigint(), ctx),
        // Decimals of different scale compare without a cast.
        CompareKind::Decimal if is == EvalKind::Decimal => expr,
        CompareKind::Decimal => {
            let own = if is_null {
                numbers.unwrap_or(Shape { precision: 1, scale: 0 })
            } else {
                shape(&expr)
            };
            cast(expr, own.decimal(), ctx)
        }
        CompareKind::Real if expr.ty().code == TypeCode::Double => expr,
        CompareKind::Real => cast(expr, FieldType::double(), ctx),
        CompareKind::Text => expr,
        CompareKind::Time if is == EvalKind::Time => expr,
        CompareKind::Time => cast(expr, FieldType::datetime(6), ctx),
        CompareKind::Duration if is == EvalKind::Duration => expr,
        CompareKind::Duration => cast(expr, FieldType::time(6), ctx),
        CompareKind::Json if is == EvalKind::Json => expr,
        // Text beside JSON is a JSON string, not a document.
        CompareKind::Json => {
            let scalar = Expr::function(Func::JsonScalar, vec![expr], FieldType::json());
            fold_node(scalar, ctx, false)
        }
    }
}

/// Text arguments brought to one collation. A column of another collation is
/// wrapped in `collate`, so that nobody takes it for an indexable column.
pub(crate) fn align_text(
    name: &str,
    args: Vec<Expr>,
    ctx: &mut EvalContext,
) -> Result<(Vec<Expr>, Collation)> {
    let refs: Vec<&Expr> = args.iter().collect();
    let collation = collate::derive(name, &refs, ctx.collation)?.collation;
    let mut aligned = Vec::with_capacity(args.len());
    for arg in args {
        let arg = if arg.ty().is_string() && !arg.ty().is_enum_or_set() {
            arg
        } else {
            cast(arg, FieldType::string().with_collation(collation), ctx)
        };
        aligned.push(with_collation(arg, collation));
    }
    Ok((aligned, collation))
}

fn with_collation(mut arg: Expr, collation: Collation) -> Expr {
    // COLLATE on a constant has done its work.
    if let Expr::Function { func: Func::Collate, args, .. } = &mut arg
        && matches!(args[0], Expr::Constant { .. })
        && args[0].ty().is_string()
    {
        arg = args.swap_remove(0);
    }
    if arg.ty().collation == collation {
        return arg;
    }
    match &mut arg {
        Expr::Column { ty, .. } => {
            let ty = ty.clone().with_collation(collation);
            let name = Expr::string(collation.name());
            Expr::function(Func::Collate, vec![arg, name], ty)
        }
        other => {
            other.ty_mut().collation = collation;
            arg
        }
    }
}

/// What became of a comparison of a column with a constant.
enum Refined {
    /// To be compared, perhaps with another operator and constant.
    Compare(Func, Expr, Expr),
    /// The answer is known for all non-NULL values.
    Decided(Box<Expr>),
}

fn refine(func: Func, left: Expr, right: Expr, ctx: &mut EvalContext) -> Refined {
    let is_const = |expr: &Expr| matches!(expr, Expr::Constant { value, .. } if !value.is_null());
    if is_const(&left) && !is_const(&right) {
        return match refine(func.mirrored(), right, left, ctx) {
            // The column goes back to its side.
            Refined::Compare(func, right, left) => Refined::Compare(func.mirrored(), left, right),
            decided => decided,
        };
    }
    if !is_const(&right) || is_const(&left) {
        return Refined::Compare(func, left, right);
    }
    match left.eval_kind() {
        EvalKind::Int | EvalKind::UInt if left.ty().code != TypeCode::Bit => {
            refine_integer(func, left, right)
        }
        EvalKind::Decimal => {
            if let Some(value) =
                exact_number(&right).filter(|_| right.eval_kind() == EvalKind::String)
            {
                return Refined::Compare(func, left, Expr::constant(Datum::Decimal(value)));
            }
            Refined::Compare(func, left, right)
        }
        EvalKind::Time | EvalKind::Duration => refine_time(func, left, right, ctx),
        EvalKind::String if left.ty().code == TypeCode::Enum => refine_enum(func, left, right),
        _ => Refined::Compare(func, left, right),
    }
}

/// The constant as an exact number, if its text or double is one without a rest.
fn exact_number(constant: &Expr) -> Option<Decimal> {
    match constant.as_constant()? {
        Datum::Int(value) => Some(Decimal::from(*value)),
        Datum::UInt(value) => Some(Decimal::from(*value)),
        Datum::Decimal(value) => Some(value.clone()),
        Datum::Double(value) if value.fract() == 0.0 && value.abs() < (1i64 << 53) as f64 => {
            Some(Decimal::from(*value as i64))
        }
        Datum::Bytes(bytes) if !constant.ty().collation.is_binary() || bytes.is_ascii() => {
            let text = std::str::from_utf8(bytes).ok()?.trim();
            let plain = text.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'+'));
            if !plain || text.len() > 60 {
                return None;
            }
            text.parse().ok()
        }
        _ => None,
    }
}

fn refine_integer(func: Func, left: Expr, right: Expr) -> Refined {
    if matches!(right.as_constant(), Some(Datum::Int(_) | Datum::UInt(_))) {
        return Refined::Compare(func, left, right);
    }
    let Some(number) = exact_number(&right) else { return Refined::Compare(func, left, right) };
    let (Ok(floor), Ok(ceil)) = (number.floor(), number.ceil()) else {
        return Refined::Compare(func, left, right);
    };
    let rounded = match func {
        Func::Gt | Func::Le => floor,
        Func::Ge | Func::Lt => ceil,
        Func::Eq | Func::NullEq | Func::Ne if floor == ceil => floor,
        // No integer equals a fraction: `left = 1.5` is `left <> left`, which is
        // NULL for NULL and false for all else.
        Func::Eq => {
            let never = Expr::function(Func::Ne, vec![left.clone(), left], boolean_type());
            return Refined::Decided(Box::new(never));
        }
        _ => return Refined::Compare(func, left, right),
    };
    let value = match (rounded.to_i64(), rounded.to_u64()) {
        (Ok(value), _) => Datum::Int(value),
        (_, Ok(value)) => Datum::UInt(value),
        _ => return Refined::Compare(func, left, right),
    };
    Refined::Compare(func, left, Expr::constant(value))
}

/// `date_col > '2024-01-01'`: the constant becomes a DATE if it has no time of
/// day, else a DATETIME; text that is no date stays for run time, where it warns.
fn refine_time(func: Func, left: Expr, right: Expr, ctx: &mut EvalContext) -> Refined {
    if !matches!(right.eval_kind(), EvalKind::String) && !is_date_number(&right) {
        return Refined::Compare(func, left, right);
    }
    let target = match left.ty().code {
        TypeCode::Time if right.eval_kind() == EvalKind::String => FieldType::time(6),
        TypeCode::Time => return Refined::Compare(func, left, right),
        _ => FieldType::datetime(6),
    };
    let value = cast(right.clone(), target, ctx);
    if !matches!(value.as_constant(), Some(Datum::Time(_) | Datum::Duration(_))) {
        return Refined::Compare(func, left, right);
    }
    let value = match (left.ty().code, value) {
        (TypeCode::Date, Expr::Constant { value: Datum::Time(time), .. })
            if time.micros_of_day() == 0 =>
        {
            Expr::constant_of(Datum::Time(time.date_part()), FieldType::date().with_not_null())
        }
        (_, value) => value,
    };
    Refined::Compare(func, left, value)
}

/// `enum_col = 'member'`: compared by the member's index.
fn refine_enum(func: Func, left: Expr, right: Expr) -> Refined {
    let Some(Datum::Bytes(text)) = right.as_constant() else {
        return Refined::Compare(func, left, right);
    };
    if !matches!(func, Func::Eq | Func::Ne)
        || left.ty().collation != right.ty().collation && !text.is_ascii()
    {
        return Refined::Compare(func, left, right);
    }
    let ty = left.ty();
    let same = |member: &str| ty.collation.compare(member.as_bytes(), text) == Ordering::Equal;
    match ty.elements.iter().position(|member| same(member)) {
        Some(at) => {
            let index = Expr::constant(Datum::UInt(at as u64 + 1));
            Refined::Compare(func, left, index)
        }
        None => Refined::Compare(func, left, right),
    }
}
