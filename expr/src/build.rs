//! From a function's name and arguments to a typed expression.
//!
//! Names are those of the parser: SQL function names, operators as symbols or by
//! TiDB's names, and the predicates that are written out here (`between`,
//! `isnotnull`, `notin`, …). What is only a spelling is expanded at once, so that
//! evaluation and the planner see few shapes: `a BETWEEN b AND c` is
//! `a >= b AND a <= c`, row comparisons become comparisons of their parts,
//! `NULLIF(a, b)` is `IF(a = b, NULL, a)`.

use cairn_types::{Charset, Collation, Datum, EvalKind, FieldType, TypeCode, errno};

use crate::context::EvalContext;
use crate::error::{ExprError, Result};
use crate::expr::{Expr, fold_node};
use crate::func::Func;
use crate::infer::compare::{self, CompareKind};
use crate::infer::{arithmetic, boolean_type, cast, collate, result, unify};

/// Longest row of a row comparison.
const ROW_COLUMNS_MAX: usize = 4096;

/// A call by name, typed, with casts inserted and constants folded.
pub fn build_function(name: &str, args: Vec<Expr>, ctx: &mut EvalContext) -> Result<Expr> {
    let lower = name.to_ascii_lowercase();
    let arity = |wanted: usize| {
        if args.len() == wanted { Ok(()) } else { Err(ExprError::argument_count(name)) }
    };
    let negated = |positive: &str, ctx: &mut EvalContext, args: Vec<Expr>| {
        let inner = build_function(positive, args, ctx)?;
        build(Func::Not, vec![inner], ctx)
    };
    match lower.as_str() {
        "between" | "notbetween" | "not between" => {
            arity(3)?;
            let between = build_between(args, ctx)?;
            if lower == "between" { Ok(between) } else { build(Func::Not, vec![between], ctx) }
        }
        "isnotnull" | "is not null" => negated("isnull", ctx, args),
        "isunknown" | "is null" => build_function("isnull", args, ctx),
        "isnotunknown" => negated("isnull", ctx, args),
        "isnottrue" => negated("istrue", ctx, args),
        "isnotfalse" => negated("isfalse", ctx, args),
        "notin" | "not in" => negated("in", ctx, args),
        "notlike" | "not like" => negated("like", ctx, args),
        "notregexp" | "not regexp" => negated("regexp", ctx, args),
        "unaryplus" => {
            arity(1)?;
            Ok(args.into_iter().next().expect("one argument"))
        }
        "->>" => {
            let inner = build(Func::JsonExtract, args, ctx)?;
            build(Func::JsonUnquote, vec![inner], ctx)
        }
        "adddate" | "subdate" | "date_add" | "date_sub" => {
            let mut args = args;
            if args.len() == 2 {
                args.push(Expr::string("DAY"));
            }
            let add = matches!(lower.as_str(), "adddate" | "date_add");
            build(if add { Func::DateAdd } else { Func::DateSub }, args, ctx)
        }
        "sounds like" | "soundslike" => {
            arity(2)?;
            let mut sounds = Vec::with_capacity(2);
            for arg in args {
                sounds.push(build(Func::Soundex, vec![arg], ctx)?);
            }
            build(Func::Eq, sounds, ctx)
        }
        _ => match Func::from_name(&lower) {
            Some(func) if func.accepts(args.len()) && func != Func::Cast => build(func, args, ctx),
            Some(_) => Err(ExprError::argument_count(name)),
            None => {
                let database = ctx.info.database.clone().unwrap_or_default();
                Err(ExprError::unknown_function(&database, name))
            }
        },
    }
}

/// `CAST(expr AS ty)`, or the cast of an assignment.
pub fn build_cast(expr: Expr, ty: FieldType, ctx: &mut EvalContext) -> Result<Expr> {
    if let Some((Func::Row, args)) = expr.as_function()
        && args.len() != 1
    {
        return Err(ExprError::mysql(errno::ER_OPERAND_COLUMNS, &[&1]));
    }
    Ok(fold_node(Expr::function(Func::Cast, vec![expr], ty), ctx, false))
}

/// A call of a known function.
pub fn build(func: Func, args: Vec<Expr>, ctx: &mut EvalContext) -> Result<Expr> {
    if !func.accepts(args.len()) {
        return Err(ExprError::argument_count(func.name()));
    }
    if let Some(expr) = build_rows(func, &args, ctx)? {
        return Ok(expr);
    }
    let nullable = args.iter().any(|arg| !arg.ty().not_null);
    let mut expr = build_typed(func, args, ctx)?;
    let propagates = func.is_comparison()
        || matches!(
            func,
            Func::Plus | Func::Minus | Func::Mul | Func::And | Func::Or | Func::Xor | Func::Not
        );
    if let Expr::Function { ty, .. } = &mut expr
        && (propagates && !nullable || func == Func::NullEq)
    {
        ty.not_null = true;
    }
    // A quotient keeps more digits inside an expression than by itself, and only
    // its parent knows: see `arithmetic`. `Expr::fold` folds it later.
    if func == Func::Div && expr.ty().is_decimal() {
        return Ok(expr);
    }
    Ok(fold_node(expr, ctx, false))
}

fn build_typed(func: Func, args: Vec<Expr>, ctx: &mut EvalContext) -> Result<Expr> {
    use Func as F;
    match func {
        F::Plus | F::Minus | F::Mul | F::Div | F::IntDiv | F::Mod => {
            let (left, right) = pair(args);
            Ok(arithmetic::build(func, left, right, ctx))
        }
        F::UnaryMinus => Ok(arithmetic::build_minus(one(args), ctx)),
        F::Eq | F::NullEq | F::Ne | F::Lt | F::Le | F::Gt | F::Ge => {
            let (left, right) = pair(args);
            compare::build(func, left, right, ctx)
        }
        F::In => compare::build_in(args, ctx),
        F::Not => Ok(build_not(one(args))),
        F::Row => {
            let ty = FieldType::string();
            Ok(Expr::function(F::Row, args, ty))
        }
        F::If => build_if(args, ctx),
        F::NullIf => {
            let first = args[0].clone();
            let condition = build(F::Eq, args, ctx)?;
            let mut ty = first.ty().clone();
            ty.not_null = false;
            let null = Expr::constant_of(Datum::Null, ty.clone());
            Ok(Expr::function(F::If, vec![condition, null, first], ty))
        }
        F::IfNull | F::Coalesce => {
            let refs: Vec<&Expr> = args.iter().collect();
            let mut ty = unify::common_type(func.name(), &refs, ctx)?;
            ty.not_null = args.iter().any(|arg| arg.ty().not_null);
            let args = cast_all(args, &ty, ctx);
            Ok(Expr::function(func, args, ty))
        }
        F::Case => build_case(args, ctx),
        F::Greatest | F::Least => {
            let refs: Vec<&Expr> = args.iter().collect();
            let mut ty = unify::common_type(func.name(), &refs, ctx)?;
            if ty.is_enum_or_set() {
                ty = FieldType::string().with_collation(ty.collation);
            }
            let args = cast_all(args, &ty, ctx);
            Ok(Expr::function(func, args, ty))
        }
        F::Interval => {
            let kind = match compare::kind_of_list(&args) {
                CompareKind::Int => CompareKind::Int,
                _ => CompareKind::Real,
            };
            let args =
                args.into_iter().map(|arg| compare::cast_for(kind, arg, None, ctx)).collect();
            Ok(Expr::function(func, args, result::result_type(func, &[], ctx)?))
        }
        F::AnyValue => {
            let ty = args[0].ty().clone();
            Ok(Expr::function(func, args, ty))
        }
        F::SetUserVar => {
            let ty = args[1].ty().clone();
            Ok(Expr::function(func, args, ty))
        }
        // Stores do not know `default_week_format`.
        F::Week if args.len() == 1 => {
            let mut args = args;
            args.push(Expr::int(ctx.default_week_format.into()));
            let ty = result::result_type(func, &args, ctx)?;
            Ok(Expr::function(func, args, ty))
        }
        F::Collate => build_collate(args),
        F::ConvertUsing => build_convert(args),
        F::Binary => {
            let width = crate::infer::text_width(args[0].ty());
            let ty = result::text_of(width.map(|w| w.saturating_mul(4)), Collation::BINARY);
            Ok(Expr::function(F::Cast, args, ty))
        }
        F::Strcmp
        | F::Like
        | F::Regexp
        | F::RegexpLike
        | F::RegexpInstr
        | F::RegexpSubstr
        | F::RegexpReplace
        | F::Instr
        | F::Locate
        | F::Field
        | F::FindInSet => build_text_search(func, args, ctx),
        F::Abs | F::Ceil | F::Floor | F::Round | F::Truncate => {
            let mut args = args;
            if crate::infer::numeric_kind(&args[0]) == crate::infer::NumericKind::Real {
                let first = std::mem::replace(&mut args[0], Expr::null());
                args[0] = cast(first, FieldType::double(), ctx);
            } else if !matches!(
                args[0].eval_kind(),
                EvalKind::Int | EvalKind::UInt | EvalKind::Decimal
            ) {
                let first = std::mem::replace(&mut args[0], Expr::null());
                let shape = crate::infer::shape(&first);
                args[0] = if shape.scale > 0 {
                    cast(first, shape.decimal(), ctx)
                } else {
                    cast(first, FieldType::bigint(), ctx)
                };
            }
            let ty = result::result_type(func, &args, ctx)?;
            Ok(Expr::function(func, args, ty))
        }
        _ => {
            let ty = result::result_type(func, &args, ctx)?;
            Ok(Expr::function(func, args, ty))
        }
    }
}

fn one(args: Vec<Expr>) -> Expr {
    args.into_iter().next().expect("the argument count was checked")
}

fn pair(args: Vec<Expr>) -> (Expr, Expr) {
    let mut args = args.into_iter();
    let left = args.next().expect("the argument count was checked");
    let right = args.next().expect("the argument count was checked");
    (left, right)
}

fn cast_all(args: Vec<Expr>, ty: &FieldType, ctx: &mut EvalContext) -> Vec<Expr> {
    args.into_iter().map(|arg| unify::cast_to_common(arg, ty, ctx)).collect()
}

/// NOT of a comparison is the opposite comparison, which ranges understand.
fn build_not(arg: Expr) -> Expr {
    match arg {
        Expr::Function { func, args, ty, cache } => match func.negated() {
            Some(opposite) => Expr::function(opposite, args, ty),
            None => {
                let inner = Expr::Function { func, args, ty, cache };
                Expr::function(Func::Not, vec![inner], boolean_type())
            }
        },
        other => Expr::function(Func::Not, vec![other], boolean_type()),
    }
}

fn build_between(args: Vec<Expr>, ctx: &mut EvalContext) -> Result<Expr> {
    let mut args = args.into_iter();
    let (Some(value), Some(low), Some(high)) = (args.next(), args.next(), args.next()) else {
        return Err(ExprError::argument_count("between"));
    };
    let above = build(Func::Ge, vec![value.clone(), low], ctx)?;
    let below = build(Func::Le, vec![value, high], ctx)?;
    build(Func::And, vec![above, below], ctx)
}

fn build_if(mut args: Vec<Expr>, ctx: &mut EvalContext) -> Result<Expr> {
    let mut ty = unify::common_type("if", &[&args[1], &args[2]], ctx)?;
    ty.not_null = args[1].ty().not_null && args[2].ty().not_null;
    let otherwise = args.pop().expect("three arguments");
    let then = args.pop().expect("three arguments");
    args.push(unify::cast_to_common(then, &ty, ctx));
    args.push(unify::cast_to_common(otherwise, &ty, ctx));
    Ok(Expr::function(Func::If, args, ty))
}

/// `[when, then]… [else]`.
fn build_case(args: Vec<Expr>, ctx: &mut EvalContext) -> Result<Expr> {
    let has_else = !args.len().is_multiple_of(2);
    let is_value = |at: usize, len: usize| at % 2 == 1 || (at + 1 == len && has_else);
    let len = args.len();
    let values: Vec<&Expr> =
        args.iter().enumerate().filter(|(at, _)| is_value(*at, len)).map(|(_, arg)| arg).collect();
    let mut ty = unify::common_type("case", &values, ctx)?;
    ty.not_null = ty.not_null && has_else;
    let mut typed = Vec::with_capacity(len);
    for (at, arg) in args.into_iter().enumerate() {
        typed.push(if is_value(at, len) { unify::cast_to_common(arg, &ty, ctx) } else { arg });
    }
    Ok(Expr::function(Func::Case, typed, ty))
}

fn constant_name(args: &[Expr]) -> String {
    match args.get(1).and_then(Expr::as_constant) {
        Some(Datum::Bytes(bytes)) => String::from_utf8_lossy(bytes).into_owned(),
        _ => String::new(),
    }
}

fn build_collate(mut args: Vec<Expr>) -> Result<Expr> {
    let name = constant_name(&args);
    let collation = Collation::from_name(&name)
        .ok_or_else(|| ExprError::mysql(errno::ER_UNKNOWN_COLLATION, &[&name]))?;
    let ty = args[0].ty();
    let charset = ty.collation.charset();
    let is_text = ty.is_string() || ty.is_enum_or_set();
    let literal = collate::coercibility(&args[0]) >= collate::COERCIBLE;
    if is_text && !literal && charset != collation.charset() {
        return Err(ExprError::mysql(
            errno::ER_COLLATION_CHARSET_MISMATCH,
            &[&collation.name(), &charset.name()],
        ));
    }
    let ty = if ty.is_string() {
        ty.clone().with_collation(collation)
    } else {
        result::text_of(crate::infer::text_width(ty), collation)
    };
    args[1] = Expr::string(collation.name());
    Ok(Expr::function(Func::Collate, args, ty))
}

fn build_convert(args: Vec<Expr>) -> Result<Expr> {
    let name = constant_name(&args);
    let charset = Charset::from_name(&name)
        .ok_or_else(|| ExprError::mysql(errno::ER_UNKNOWN_CHARACTER_SET, &[&name]))?;
    let ty = result::text_of(crate::infer::text_width(args[0].ty()), charset.default_collation());
    Ok(Expr::function(Func::ConvertUsing, args, ty))
}

/// Functions that look for text in text: the collation they compare by is the
/// result type's.
fn build_text_search(func: Func, args: Vec<Expr>, ctx: &mut EvalContext) -> Result<Expr> {
    let mut args = args;
    let texts = match func {
        Func::Field => {
            // FIELD compares numbers if all are numbers, text if all are text.
            match compare::kind_of_list(&args) {
                CompareKind::Text => args.len(),
                kind => {
                    let kind = match kind {
                        CompareKind::Int | CompareKind::Decimal => kind,
                        _ => CompareKind::Real,
                    };
                    let refs: Vec<&Expr> = args.iter().collect();
                    let numbers = compare::decimal_shape(kind, &refs);
                    args = args
                        .into_iter()
                        .map(|arg| compare::cast_for(kind, arg, numbers, ctx))
                        .collect();
                    0
                }
            }
        }
        Func::RegexpReplace => 3,
        _ => 2,
    };
    let rest = args.split_off(texts);
    let name = func.operator().unwrap_or(func.name());
    let (mut args, collation) = match texts {
        0 => (args, Collation::BINARY),
        _ => compare::align_text(name, args, ctx)?,
    };
    args.extend(rest);
    let mut ty = result::result_type(func, &args, ctx)?;
    ty.collation = collation;
    Ok(Expr::function(func, args, ty))
}

/// Comparisons of rows, taken apart.
fn build_rows(func: Func, args: &[Expr], ctx: &mut EvalContext) -> Result<Option<Expr>> {
    let row = |expr: &Expr| match expr.as_function() {
        Some((Func::Row, parts)) if parts.len() > 1 => Some(parts.to_vec()),
        _ => None,
    };
    if func == Func::Row || !args.iter().any(|arg| row(arg).is_some()) {
        return Ok(None);
    }
    let columns = args.first().and_then(row).map_or(1, |parts| parts.len());
    let mismatch = || ExprError::mysql(errno::ER_OPERAND_COLUMNS, &[&columns]);
    if !func.is_comparison() && func != Func::In {
        return Err(ExprError::mysql(errno::ER_OPERAND_COLUMNS, &[&1]));
    }
    let rows: Option<Vec<Vec<Expr>>> = args.iter().map(row).collect();
    let rows = rows.ok_or_else(mismatch)?;
    if rows.iter().any(|parts| parts.len() != columns || columns > ROW_COLUMNS_MAX) {
        return Err(mismatch());
    }
    if func == Func::In {
        let mut options = Vec::with_capacity(rows.len() - 1);
        for member in &rows[1..] {
            options.push(compare_rows(Func::Eq, &rows[0], member, ctx)?);
        }
        return Ok(Expr::join_dnf(options));
    }
    compare_rows(func, &rows[0], &rows[1], ctx).map(Some)
}

fn compare_rows(func: Func, left: &[Expr], right: &[Expr], ctx: &mut EvalContext) -> Result<Expr> {
    let mut each = |func: Func| -> Result<Vec<Expr>> {
        let pairs = left.iter().zip(right);
        pairs.map(|(a, b)| build(func, vec![a.clone(), b.clone()], ctx)).collect()
    };
    match func {
        Func::Eq | Func::NullEq => Ok(Expr::join_cnf(each(func)?).expect("rows have columns")),
        Func::Ne => Ok(Expr::join_dnf(each(func)?).expect("rows have columns")),
        // (a, b) < (c, d) is a < c OR (a = c AND b < d).
        _ => {
            let strict = match func {
                Func::Le => Func::Lt,
                Func::Ge => Func::Gt,
                other => other,
            };
            let last = left.len() - 1;
            let mut result = build(func, vec![left[last].clone(), right[last].clone()], ctx)?;
            for at in (0..last).rev() {
                let (a, b) = (left[at].clone(), right[at].clone());
                let equal = build(Func::Eq, vec![a.clone(), b.clone()], ctx)?;
                let before = build(strict, vec![a, b], ctx)?;
                let tail = build(Func::And, vec![equal, result], ctx)?;
                result = build(Func::Or, vec![before, tail], ctx)?;
            }
            Ok(result)
        }
    }
}

/// Whether a type is one CAST may name; the parser's business otherwise.
pub fn is_cast_target(ty: &FieldType) -> bool {
    !matches!(ty.code, TypeCode::Enum | TypeCode::Set | TypeCode::Bit | TypeCode::Null)
}
