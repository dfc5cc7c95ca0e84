//! Result types of the functions that are neither operators nor alternatives.
//!
//! Lengths follow MySQL where clients look at them (result set metadata) and are
//! otherwise an upper bound. `None` as a width means LONGTEXT.

use cairn_types::{Collation, Datum, EvalKind, FieldType, TypeCode};

use super::{NumericKind, Shape, boolean_type, collate, numeric_kind, shape, text_width};
use crate::context::EvalContext;
use crate::error::Result;
use crate::expr::Expr;
use crate::func::Func;

/// Longest VARCHAR in characters.
const VARCHAR_CHARS_MAX: u32 = 16_383;

/// A text type of this width.
pub(crate) fn text_of(width: Option<u32>, collation: Collation) -> FieldType {
    let binary = collation.is_binary();
    let ty = match width {
        Some(width) if width <= VARCHAR_CHARS_MAX => {
            let code = if binary { TypeCode::VarBinary } else { TypeCode::VarChar };
            FieldType::new(code).with_flen(width)
        }
        _ => FieldType::new(if binary { TypeCode::LongBlob } else { TypeCode::LongText }),
    };
    ty.with_collation(collation)
}

/// The value of a constant integer argument.
fn constant_int(expr: Option<&Expr>) -> Option<i64> {
    match expr?.as_constant()? {
        Datum::Int(value) => Some(*value),
        Datum::UInt(value) => i64::try_from(*value).ok(),
        _ => None,
    }
}

fn constant_text(expr: Option<&Expr>) -> Option<String> {
    match expr?.as_constant()? {
        Datum::Bytes(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
        _ => None,
    }
}

/// Result type of `func` over `args`, which have their casts already.
pub fn result_type(func: Func, args: &[Expr], ctx: &EvalContext) -> Result<FieldType> {
    use Func as F;
    let int = |width: u32| FieldType::bigint().with_flen(width);
    let ascii = |width: u32| text_of(Some(width), ctx.collation);
    let width = |at: usize| args.get(at).and_then(|arg| text_width(arg.ty()));
    Ok(match func {
        F::BitAnd | F::BitOr | F::BitXor | F::BitNeg | F::LeftShift | F::RightShift => {
            FieldType::bigint_unsigned()
        }
        F::BitCount | F::Sign | F::Strcmp | F::Interval => int(3),
        F::IsNull | F::IsTrue | F::IsFalse => boolean_type().with_not_null(),
        F::Not | F::And | F::Or | F::Xor | F::Like | F::Regexp | F::RegexpLike => boolean_type(),
        F::JsonValid
        | F::JsonContains
        | F::JsonContainsPath
        | F::JsonMemberOf
        | F::JsonOverlaps
        | F::IsUuid
        | F::IsIpv4
        | F::IsIpv6 => boolean_type(),
        F::Abs | F::Ceil | F::Floor | F::Round | F::Truncate => return Ok(rounded(func, args)),
        F::Pow
        | F::Sqrt
        | F::Exp
        | F::Ln
        | F::Log
        | F::Log2
        | F::Log10
        | F::Sin
        | F::Cos
        | F::Tan
        | F::Cot
        | F::Asin
        | F::Acos
        | F::Atan
        | F::Atan2
        | F::Rand
        | F::Radians
        | F::Degrees => FieldType::double(),
        F::Pi => FieldType::double().with_flen(8).with_decimals(6).with_not_null(),
        F::Crc32 => FieldType::bigint_unsigned().with_flen(10),
        F::Length
        | F::CharLength
        | F::BitLength
        | F::Instr
        | F::Locate
        | F::Field
        | F::FindInSet
        | F::RegexpInstr
        | F::JsonLength
        | F::JsonDepth
        | F::JsonStorageSize => int(10),
        F::Ascii => int(3),
        F::Ord => int(7),
        F::InetAton => FieldType::bigint_unsigned().with_flen(21),
        F::ConnectionId | F::LastInsertId | F::FoundRows | F::UuidShort => {
            FieldType::bigint_unsigned().with_not_null()
        }
        F::RowCount => FieldType::bigint().with_not_null(),
        F::Coercibility => int(10).with_not_null(),
        F::Sleep | F::Benchmark => int(1),
        F::Version | F::Database | F::User | F::CurrentUser | F::CurrentRole | F::TidbVersion => {
            text_of(Some(128), Collation::UTF8_GENERAL_CI)
        }
        F::Charset | F::Collation => text_of(Some(64), Collation::UTF8_GENERAL_CI),
        F::Uuid | F::BinToUuid => ascii(36),
        F::UuidToBin => FieldType::varbinary(16),
        F::Inet6Aton => FieldType::varbinary(16),
        F::RandomBytes => FieldType::varbinary(1024),
        F::InetNtoa => ascii(15),
        F::Inet6Ntoa => ascii(39),
        F::Md5 => ascii(32),
        F::Sha1 => ascii(40),
        F::Sha2 => ascii(128),
        F::Conv => ascii(64),
        F::Bin => ascii(64),
        F::Oct => ascii(64),
        F::Hex => text_of(width(0).map(|w| w.saturating_mul(8)), ctx.collation),
        F::Unhex | F::FromBase64 => text_of(width(0), Collation::BINARY),
        F::ToBase64 => text_of(width(0).map(|w| w.saturating_mul(6)), ctx.collation),
        F::Format => ascii(100),
        F::Soundex => text_of(width(0).map(|w| w.max(4)), text(func, &args[..1], ctx)?),
        F::Char => FieldType::varbinary(4 * args.len() as u32),
        F::Space => {
            text_of(constant_int(args.first()).map(|n| n.clamp(0, 1 << 24) as u32), ctx.collation)
        }
        F::WeightString => FieldType::new(TypeCode::LongBlob),
        F::ExportSet
        | F::MakeSet
        | F::Elt
        | F::Concat
        | F::ConcatWs
        | F::Replace
        | F::Insert
        | F::Repeat
        | F::Lpad
        | F::Rpad
        | F::Left
        | F::Right
        | F::Substring
        | F::SubstringIndex
        | F::Trim
        | F::Ltrim
        | F::Rtrim
        | F::Upper
        | F::Lower
        | F::Reverse
        | F::Quote
        | F::RegexpReplace
        | F::RegexpSubstr => return text_function(func, args, ctx),
        F::JsonExtract
        | F::JsonObject
        | F::JsonArray
        | F::JsonSet
        | F::JsonInsert
        | F::JsonReplace
        | F::JsonRemove
        | F::JsonKeys
        | F::JsonMergePatch
        | F::JsonMergePreserve
        | F::JsonSearch
        | F::JsonArrayAppend
        | F::JsonArrayInsert
        | F::JsonScalar => FieldType::json(),
        F::JsonUnquote | F::JsonPretty | F::JsonQuote => {
            FieldType::longtext().with_collation(Collation::UTF8MB4_BIN)
        }
        F::JsonValue => text_of(Some(512), ctx.collation),
        F::JsonType => text_of(Some(17), Collation::UTF8MB4_BIN),
        F::GetUserVar => user_variable(args, ctx),
        _ => return Ok(temporal(func, args, ctx)),
    })
}

/// The text arguments' common collation.
fn text(func: Func, args: &[Expr], ctx: &EvalContext) -> Result<Collation> {
    let refs: Vec<&Expr> = args.iter().collect();
    Ok(collate::derive(func.name(), &refs, ctx.collation)?.collation)
}

fn text_function(func: Func, args: &[Expr], ctx: &EvalContext) -> Result<FieldType> {
    use Func as F;
    let width = |at: usize| args.get(at).and_then(|arg| text_width(arg.ty()));
    let count = |at: usize| {
        constant_int(args.get(at)).map(|count| u32::try_from(count.max(0)).unwrap_or(u32::MAX))
    };
    let sum = |widths: &[Option<u32>]| {
        widths.iter().try_fold(0u32, |sum, width| width.map(|width| sum.saturating_add(width)))
    };
    let all = |from: usize| (from..args.len()).map(width).collect::<Vec<_>>();
    // Which arguments are text of the result, and how wide that can get.
    let (texts, width): (&[Expr], Option<u32>) = match func {
        F::Concat => (args, sum(&all(0))),
        F::ConcatWs => {
            let separators = width(0).map(|w| w.saturating_mul(args.len() as u32));
            (args, sum(&[all(1), vec![separators]].concat()))
        }
        F::Elt => (&args[1..], (1..args.len()).map(width).max().flatten()),
        F::MakeSet => {
            let commas = Some(args.len() as u32);
            (&args[1..], sum(&[all(1), vec![commas]].concat()))
        }

        F::ExportSet => {
            let one = width(1).max(width(2)).zip(Some(width(3).unwrap_or(1)));
            (&args[1..args.len().min(4)], one.map(|(a, b)| (a + b).saturating_mul(64)))
        }
        F::Replace => {
            let growth = width(2).map(|w| w.max(1));
            (args, width(0).zip(growth).map(|(a, b)| a.saturating_mul(b)))
        }
        F::Insert => (&args[..1], sum(&[width(0), width(3)])),
        F::Repeat => (&args[..1], width(0).zip(count(1)).map(|(a, b)| a.saturating_mul(b))),
        F::Lpad | F::Rpad => (&args[..1], count(1)),
        F::Left | F::Right => (&args[..1], width(0).map(|w| count(1).map_or(w, |n| n.min(w)))),
        F::Substring => (&args[..1], width(0).map(|w| count(2).map_or(w, |n| n.min(w)))),
        F::Quote => (&args[..1], width(0).map(|w| w.saturating_mul(2).saturating_add(2))),
        F::RegexpReplace => (args.get(..3).unwrap_or(args), None),
        _ => (&args[..1], width(0)),
    };
    let collation = text(func, texts, ctx)?;
    // Case folding of bytes is none.
    Ok(text_of(width, collation))
}

fn rounded(func: Func, args: &[Expr]) -> FieldType {
    let arg = &args[0];
    let Shape { precision, scale } = shape(arg);
    let digits = constant_int(args.get(1));
    match numeric_kind(arg) {
        NumericKind::Real => FieldType::double(),
        NumericKind::Int => FieldType::bigint(),
        NumericKind::UInt => FieldType::bigint_unsigned(),
        NumericKind::Decimal => match func {
            Func::Abs => FieldType::decimal(precision, scale as u8),
            Func::Ceil | Func::Floor if precision - scale < 18 => FieldType::bigint(),
            Func::Ceil | Func::Floor => {
                Shape { precision: precision - scale + 1, scale: 0 }.decimal()
            }
            _ => {
                let kept = match (args.len(), digits) {
                    (1, _) => 0,
                    (_, Some(digits)) => {
                        u32::try_from(digits.max(0)).unwrap_or(u32::MAX).min(scale)
                    }
                    (_, None) => scale,
                };
                let integer = precision - scale + u32::from(func == Func::Round);
                Shape { precision: integer + kept, scale: kept }.decimal()
            }
        },
    }
}

fn user_variable(args: &[Expr], ctx: &EvalContext) -> FieldType {
    let name = constant_text(args.first()).unwrap_or_default().to_lowercase();
    match ctx.session.user_var(&name) {
        Some((_, ty)) => match ty.eval_kind() {
            EvalKind::Int => FieldType::bigint(),
            EvalKind::UInt => FieldType::bigint_unsigned(),
            EvalKind::Real => FieldType::double(),
            EvalKind::Decimal => FieldType::decimal(65, ty.scale()),
            _ => FieldType::longtext().with_collation(ty.collation),
        },
        None => FieldType::longtext().with_collation(ctx.collation),
    }
}

/// Fractional digits an argument brings to a temporal result.
pub(crate) fn fsp_of(arg: &Expr) -> u8 {
    let ty = arg.ty();
    match ty.eval_kind() {
        EvalKind::Time | EvalKind::Duration => ty.fsp(),
        EvalKind::Int | EvalKind::UInt => 0,
        EvalKind::Decimal => ty.scale().min(6),
        EvalKind::String => match constant_text(Some(arg)) {
            Some(text) => text.rsplit_once('.').map_or(0, |(_, tail)| {
                tail.bytes().take_while(u8::is_ascii_digit).count().min(6) as u8
            }),
            None => 6,
        },
        _ => 6,
    }
}

fn temporal(func: Func, args: &[Expr], ctx: &EvalContext) -> FieldType {
    use Func as F;
    let fsp = |at: usize| args.get(at).map_or(0, fsp_of);
    let constant_fsp = |at: usize| constant_int(args.get(at)).unwrap_or(0).clamp(0, 6) as u8;
    let int = |width: u32| FieldType::bigint().with_flen(width);
    let text = |width: u32| text_of(Some(width), ctx.collation);
    match func {
        F::Now | F::Sysdate | F::UtcTimestamp => {
            FieldType::datetime(constant_fsp(0)).with_not_null()
        }
        F::TidbBoundedStaleness => FieldType::datetime(3),
        F::TidbParseTso => FieldType::datetime(6),
        F::Curdate | F::UtcDate => FieldType::date().with_not_null(),
        F::Curtime | F::UtcTime => FieldType::time(constant_fsp(0)).with_not_null(),
        F::UnixTimestamp => match args.first().map_or(0, fsp_of) {
            0 => int(11),
            fsp => FieldType::decimal(11 + u32::from(fsp), fsp),
        },
        F::FromUnixtime if args.len() == 2 => text(255),
        F::FromUnixtime => FieldType::datetime(fsp(0)),
        F::Date | F::LastDay | F::MakeDate | F::FromDays => FieldType::date(),
        F::Time => FieldType::time(fsp(0)),
        F::MakeTime => FieldType::time(fsp(2)),
        F::SecToTime => FieldType::time(fsp(0)),
        F::TimeDiff => FieldType::time(fsp(0).max(fsp(1))),
        F::AddTime | F::SubTime => {
            let both = fsp(0).max(fsp(1));
            match args[0].eval_kind() {
                EvalKind::Time => FieldType::datetime(both),
                EvalKind::Duration => FieldType::time(both),
                _ => text(29),
            }
        }
        F::Timestamp => FieldType::datetime(fsp(0).max(fsp(1))),
        F::ConvertTz => FieldType::datetime(fsp(0)),
        F::DateAdd | F::DateSub | F::TimestampAdd => date_arithmetic(func, args, ctx),
        F::DateFormat | F::TimeFormat => text(255),
        F::StrToDate => str_to_date(args),
        F::GetFormat => text(17),
        F::DayName | F::MonthName => text(10),
        F::Year
        | F::Hour
        | F::Month
        | F::Day
        | F::DayOfWeek
        | F::DayOfYear
        | F::Week
        | F::Weekday
        | F::WeekOfYear
        | F::Quarter
        | F::Minute
        | F::Second => int(4),
        F::YearWeek | F::Microsecond | F::ToDays | F::DateDiff | F::PeriodAdd | F::PeriodDiff => {
            int(8)
        }
        _ => FieldType::bigint(),
    }
}

fn date_arithmetic(func: Func, args: &[Expr], ctx: &EvalContext) -> FieldType {
    let (date, unit) = match func {
        Func::TimestampAdd => (&args[2], constant_text(args.first())),
        _ => (&args[0], constant_text(args.get(2))),
    };
    let unit = unit.unwrap_or_default().to_ascii_uppercase();
    let has_clock = ["HOUR", "MINUTE", "SECOND"].iter().any(|part| unit.contains(part));
    let micros = unit.contains("MICROSECOND");
    let amount_fsp = if unit == "SECOND" { args.get(1).map_or(0, fsp_of) } else { 0 };
    let fsp = if micros { 6 } else { fsp_of(date).max(amount_fsp) };
    match date.eval_kind() {
        EvalKind::Time if date.ty().code == TypeCode::Date => {
            if has_clock || micros {
                FieldType::datetime(fsp)
            } else {
                FieldType::date()
            }
        }
        EvalKind::Time => FieldType::datetime(fsp),
        EvalKind::Duration if has_clock || micros => FieldType::time(fsp),
        EvalKind::Duration => FieldType::datetime(fsp),
        _ => text_of(Some(29), ctx.collation),
    }
}

/// The format tells what the result is, if it is constant.
fn str_to_date(args: &[Expr]) -> FieldType {
    let Some(format) = constant_text(args.get(1)) else { return FieldType::datetime(6) };
    let mut letters = format.split('%').skip(1).filter_map(|part| part.chars().next());
    let is_clock = |c: char| "HhIiklprSsTf".contains(c);
    let clock = letters.clone().any(is_clock);
    let date = letters.clone().any(|c| "YyMmbcdejDUuVvWwXxa".contains(c));
    let fsp = if letters.any(|c| c == 'f') { 6 } else { 0 };
    match (date, clock) {
        (false, true) => FieldType::time(fsp),
        (_, false) => FieldType::date(),
        _ => FieldType::datetime(fsp),
    }
}
