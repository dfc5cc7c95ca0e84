//! Expressions, aggregates, types and settings between tiers.
//!
//! Functions travel by name: a store that does not know one answers an error and
//! the SQL node does the work itself, so tiers of different versions get along.
//!
//! **Data.** A constant is one byte (0: NULL, 1: a value) and the value in the row
//! format of its type. Statement slots never travel: [`Expr::bind`] first.
//!
//! **Invariants.** Decoding checks everything (depth, node count, argument counts,
//! names, kinds of constants) and never panics.

use cairn_proto::cop;
use cairn_types::row::{decode_value, encode_value};
use cairn_types::{Collation, Datum, FieldType, Time, TimeKind, TimeZone, TypeCode};

use crate::agg::{AggDesc, AggFunc, AggMode};
use crate::context::{EvalContext, SqlMode};
use crate::error::{ExprError, Result};
use crate::expr::Expr;
use crate::func::Func;

/// Deepest expression taken from another tier: evaluation recurses.
pub const DEPTH_MAX: usize = 256;
/// Most nodes of one expression, IN lists included.
pub const NODES_MAX: usize = 1 << 20;

/// Type codes by their number on the wire; only ever appended to.
const CODES: &[TypeCode] = &[
    TypeCode::Null,
    TypeCode::TinyInt,
    TypeCode::SmallInt,
    TypeCode::MediumInt,
    TypeCode::Int,
    TypeCode::BigInt,
    TypeCode::Float,
    TypeCode::Double,
    TypeCode::Decimal,
    TypeCode::Date,
    TypeCode::DateTime,
    TypeCode::Timestamp,
    TypeCode::Time,
    TypeCode::Year,
    TypeCode::Char,
    TypeCode::VarChar,
    TypeCode::Binary,
    TypeCode::VarBinary,
    TypeCode::TinyText,
    TypeCode::Text,
    TypeCode::MediumText,
    TypeCode::LongText,
    TypeCode::TinyBlob,
    TypeCode::Blob,
    TypeCode::MediumBlob,
    TypeCode::LongBlob,
    TypeCode::Bit,
    TypeCode::Enum,
    TypeCode::Set,
    TypeCode::Json,
];

fn wire(message: impl Into<String>) -> ExprError {
    ExprError::Wire(message.into())
}

/// A type for the wire.
pub fn field_type_to_proto(ty: &FieldType) -> cop::FieldType {
    let code = CODES.iter().position(|code| *code == ty.code);
    cop::FieldType {
        code: code.expect("the table has every type code") as u32,
        unsigned: ty.unsigned,
        not_null: ty.not_null,
        has_flen: ty.flen.is_some(),
        flen: ty.flen.unwrap_or(0),
        has_decimals: ty.decimals.is_some(),
        decimals: u32::from(ty.decimals.unwrap_or(0)),
        collation: u32::from(ty.collation.id()),
        elements: ty.elements.iter().map(|name| name.to_string()).collect(),
        zerofill: ty.zerofill,
    }
}

/// A type from the wire.
pub fn field_type_from_proto(proto: &cop::FieldType) -> Result<FieldType> {
    let code = CODES.get(proto.code as usize);
    let code = *code.ok_or_else(|| wire(format!("unknown type code {}", proto.code)))?;
    let collation = u16::try_from(proto.collation).ok().and_then(Collation::from_id);
    let collation =
        collation.ok_or_else(|| wire(format!("unknown collation {}", proto.collation)))?;
    let decimals = u8::try_from(proto.decimals).map_err(|_| wire("too many decimals"))?;
    let decimal_ok = proto.flen <= crate::infer::PRECISION_MAX
        && proto.decimals <= crate::infer::SCALE_MAX
        && (!proto.has_flen || proto.decimals <= proto.flen);
    if code == TypeCode::Decimal && !decimal_ok {
        return Err(wire(format!("no such type: DECIMAL({},{})", proto.flen, proto.decimals)));
    }
    let mut ty = FieldType::new(code);
    ty.unsigned = proto.unsigned;
    ty.zerofill = proto.zerofill;
    ty.not_null = proto.not_null;
    ty.flen = proto.has_flen.then_some(proto.flen);
    ty.decimals = proto.has_decimals.then_some(decimals);
    ty.collation = collation;
    ty.elements = proto.elements.iter().map(|name| name.as_str().into()).collect();
    Ok(ty)
}

/// A value for the wire, read back with its type.
pub fn datum_to_bytes(value: &Datum) -> bytes::Bytes {
    let mut out = Vec::new();
    if value.is_null() {
        out.push(0);
    } else {
        out.push(1);
        encode_value(&mut out, &value.as_ref());
    }
    out.into()
}

/// A value from the wire; of no bytes, NULL.
pub fn datum_from_bytes(bytes: &[u8], ty: &FieldType) -> Result<Datum> {
    match bytes.split_first() {
        None | Some((0, [])) => Ok(Datum::Null),
        Some((1, value)) => Ok(decode_value(value, ty)?),
        _ => Err(wire("malformed constant")),
    }
}

/// An expression for the wire. Slots and functions only the session knows are
/// errors.
pub fn expr_to_proto(expr: &Expr) -> Result<cop::Expr> {
    let kind = match expr {
        Expr::Column { index, .. } => {
            let index = u32::try_from(*index).map_err(|_| wire("column offset too large"))?;
            cop::expr::Kind::Column(index)
        }
        Expr::Constant { value, .. } => cop::expr::Kind::Constant(datum_to_bytes(value)),
        Expr::Param { index, .. } => {
            return Err(wire(format!("statement slot {index} was not bound")));
        }
        Expr::Function { func, args, .. } => {
            if !func.is_pushable() {
                return Err(wire(format!("function {func} has no meaning in a store")));
            }
            let args: Result<Vec<_>> = args.iter().map(expr_to_proto).collect();
            cop::expr::Kind::Function(cop::Function { name: func.name().to_owned(), args: args? })
        }
    };
    Ok(cop::Expr { field_type: Some(field_type_to_proto(expr.ty())), kind: Some(kind) })
}

/// An expression from the wire over an input of `columns` columns.
pub fn expr_from_proto(proto: &cop::Expr) -> Result<Expr> {
    let mut nodes = 0;
    decode(proto, 0, &mut nodes)
}

fn decode(proto: &cop::Expr, depth: usize, nodes: &mut usize) -> Result<Expr> {
    *nodes += 1;
    if depth > DEPTH_MAX || *nodes > NODES_MAX {
        return Err(wire("expression too deep or too large"));
    }
    let ty = proto.field_type.as_ref().ok_or_else(|| wire("expression without a type"))?;
    let ty = field_type_from_proto(ty)?;
    match proto.kind.as_ref().ok_or_else(|| wire("expression of no kind"))? {
        cop::expr::Kind::Column(index) => Ok(Expr::Column { index: *index as usize, ty }),
        cop::expr::Kind::Constant(bytes) => {
            let value = datum_from_bytes(bytes, &ty)?;
            check_constant(&value, &ty)?;
            Ok(Expr::Constant { value, ty })
        }
        cop::expr::Kind::Function(function) => {
            let func = Func::from_wire_name(&function.name)
                .ok_or_else(|| wire(format!("unknown function '{}'", function.name)))?;
            if !func.is_pushable() || !func.accepts(function.args.len()) {
                return Err(wire(format!("bad call of function '{func}'")));
            }
            let args: Result<Vec<_>> =
                function.args.iter().map(|arg| decode(arg, depth + 1, nodes)).collect();
            Ok(Expr::function(func, args?, ty))
        }
    }
}

/// A constant must be pushable into a column of its type.
fn check_constant(value: &Datum, ty: &FieldType) -> Result<()> {
    let node = Expr::Constant { value: Datum::Null, ty: ty.clone() };
    crate::eval::normalize(value.clone(), ty, &node).map(drop)
}

/// An aggregate for the wire; one that cannot be split is an error.
pub fn agg_to_proto(desc: &AggDesc) -> Result<cop::AggExpr> {
    if !desc.is_pushable() {
        return Err(wire(format!("aggregate {} cannot run in a store", desc.func.name())));
    }
    let args: Result<Vec<_>> = desc.args.iter().map(expr_to_proto).collect();
    Ok(cop::AggExpr {
        name: desc.func.name().to_owned(),
        args: args?,
        distinct: desc.distinct,
        field_type: Some(field_type_to_proto(&desc.ty)),
    })
}

/// An aggregate from the wire.
pub fn agg_from_proto(proto: &cop::AggExpr) -> Result<AggDesc> {
    let func = AggFunc::from_name(&proto.name).filter(|func| func.name() == proto.name);
    let func = func.ok_or_else(|| wire(format!("unknown aggregate '{}'", proto.name)))?;
    let args: Result<Vec<_>> = proto.args.iter().map(expr_from_proto).collect();
    let args = args?;
    let ty = proto.field_type.as_ref().ok_or_else(|| wire("aggregate without a type"))?;
    let desc = AggDesc {
        func,
        args,
        distinct: proto.distinct,
        order_by: Vec::new(),
        separator: ",".to_owned(),
        ty: field_type_from_proto(ty)?,
    };
    let counted = match func {
        AggFunc::Count => desc.args.len() <= 1,
        _ => desc.args.len() == 1,
    };
    if !counted || !desc.is_pushable() {
        return Err(wire(format!("bad call of aggregate '{}'", proto.name)));
    }
    desc.check_types()?;
    Ok(desc)
}

/// A mode for the wire.
pub fn mode_to_proto(mode: AggMode) -> cop::AggMode {
    match mode {
        AggMode::Complete => cop::AggMode::Complete,
        AggMode::Partial => cop::AggMode::Partial,
        AggMode::Final => cop::AggMode::Final,
    }
}

/// A mode from the wire.
pub fn mode_from_proto(mode: i32) -> Result<AggMode> {
    match cop::AggMode::try_from(mode) {
        Ok(cop::AggMode::Complete) => Ok(AggMode::Complete),
        Ok(cop::AggMode::Partial) => Ok(AggMode::Partial),
        Ok(cop::AggMode::Final) => Ok(AggMode::Final),
        Err(_) => Err(wire(format!("unknown aggregation mode {mode}"))),
    }
}

/// The settings a store needs to evaluate as the session does.
pub fn settings_to_proto(ctx: &EvalContext) -> cop::EvalSettings {
    // A machine's own zone means something else on another machine: its offset at
    // the statement's time stands for it. Times of the other half of the year are
    // off by an hour then; a session that cares names its zone.
    let own = ctx.time_zone.name() == "SYSTEM";
    let name = if own { String::new() } else { ctx.time_zone.name().to_owned() };
    let local = ctx.time_zone.from_unix_micros(ctx.now_micros, TimeKind::DateTime, 0);
    let utc = TimeZone::utc().from_unix_micros(ctx.now_micros, TimeKind::DateTime, 0);
    let micros = |time: Option<Time>| time.and_then(Time::total_micros).unwrap_or(0);
    cop::EvalSettings {
        time_zone_offset_s: (micros(local) - micros(utc)) / 1_000_000,
        time_zone_name: name,
        sql_mode: ctx.sql_mode.0,
        div_precision_increment: u32::from(ctx.div_precision_increment),
        now_micros: ctx.now_micros,
    }
}

/// A context with the settings of the session that sent the fragment. A zone the
/// store does not know is an error; without a name the offset counts.
pub fn context_from_proto(settings: &cop::EvalSettings) -> Result<EvalContext> {
    let time_zone = if settings.time_zone_name.is_empty() {
        let offset = i32::try_from(settings.time_zone_offset_s);
        TimeZone::fixed(offset.map_err(|_| wire("time zone offset out of range"))?)?
    } else {
        TimeZone::parse(&settings.time_zone_name)?
    };
    Ok(EvalContext {
        sql_mode: SqlMode(settings.sql_mode),
        time_zone,
        now_micros: settings.now_micros,
        div_precision_increment: u8::try_from(settings.div_precision_increment)
            .unwrap_or(4)
            .min(30),
        ..EvalContext::default()
    })
}

#[cfg(test)]
mod tests {
    use cairn_types::Decimal;
    use proptest::prelude::*;

    use super::*;
    use crate::agg::build_aggregate;
    use crate::build_function;

    fn roundtrip(expr: &Expr) {
        let proto = expr_to_proto(expr).unwrap();
        let back = expr_from_proto(&proto).unwrap();
        assert_eq!(&back, expr);
        assert_eq!(back.ty(), expr.ty());
    }

    #[test]
    fn expressions_come_back() {
        let mut ctx = EvalContext::default();
        let column = Expr::column(1, FieldType::varchar(32));
        let equal = build_function("=", vec![column, Expr::string("x")], &mut ctx).unwrap();
        roundtrip(&equal);
        for value in [
            Datum::Null,
            Datum::Int(-5),
            Datum::UInt(u64::MAX),
            Datum::Double(1.5),
            Datum::Decimal("123.4500".parse::<Decimal>().unwrap()),
            Datum::from("text"),
            Datum::Time(cairn_types::Time::date(2024, 2, 29).unwrap()),
        ] {
            roundtrip(&Expr::constant(value));
        }
    }

    #[test]
    fn aggregates_and_settings_come_back() {
        let mut ctx = EvalContext::default();
        let arg = Expr::column(0, FieldType::int());
        let sum = build_aggregate("sum", vec![arg.clone()], false, &mut ctx).unwrap();
        assert_eq!(agg_from_proto(&agg_to_proto(&sum).unwrap()).unwrap(), sum);
        let distinct = build_aggregate("sum", vec![arg], true, &mut ctx).unwrap();
        assert!(agg_to_proto(&distinct).is_err());
        ctx.time_zone = TimeZone::parse("+08:00").unwrap();
        ctx.now_micros = 7;
        let back = context_from_proto(&settings_to_proto(&ctx)).unwrap();
        assert_eq!((back.time_zone.name(), back.now_micros), ("+08:00", 7));
    }

    #[test]
    fn what_a_store_must_not_take_is_refused() {
        let ty = FieldType::bigint();
        assert!(expr_to_proto(&Expr::param(0, ty.clone())).is_err());
        assert!(
            expr_to_proto(&Expr::function(Func::Sleep, vec![Expr::int(1)], ty.clone())).is_err()
        );
        let call = |name: &str, args: Vec<cop::Expr>| cop::Expr {
            field_type: Some(field_type_to_proto(&ty)),
            kind: Some(cop::expr::Kind::Function(cop::Function { name: name.into(), args })),
        };
        let message = expr_from_proto(&call("no_such", vec![])).unwrap_err().to_string();
        assert!(message.contains("no_such"), "{message}");
        assert!(expr_from_proto(&call("plus", vec![])).is_err());
        assert!(expr_from_proto(&call("sleep", vec![])).is_err());
        let mut deep = expr_to_proto(&Expr::int(1)).unwrap();
        for _ in 0..DEPTH_MAX + 2 {
            deep = call("not", vec![deep]);
        }
        assert!(expr_from_proto(&deep).is_err());
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes: Vec<u8>, code in 0u32..40, flen in 0u32..100, decimals in 0u32..40) {
            let field_type = cop::FieldType {
                code, flen, decimals, has_flen: flen > 0, has_decimals: decimals > 0,
                collation: 255, ..Default::default()
            };
            if let Ok(ty) = field_type_from_proto(&field_type) {
                let _ = datum_from_bytes(&bytes, &ty);
                let proto = cop::Expr {
                    field_type: Some(field_type),
                    kind: Some(cop::expr::Kind::Constant(bytes.into())),
                };
                if let Ok(Expr::Constant { value, ty }) = expr_from_proto(&proto) {
                    let mut column = cairn_types::Column::new(&ty, 1);
                    column.push(value.as_ref());
                }
            }
        }
    }
}
