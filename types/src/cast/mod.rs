//! Conversions between types by MySQL's rules.
//!
//! [`cast_datum`] serves two purposes that differ in how they treat loss:
//!
//! - **Assign** (INSERT, UPDATE): in strict mode loss is an error; otherwise the
//!   value is clamped, cut or zeroed and a warning is kept.
//! - **Expression** (CAST and implicit conversion): loss is a warning (1292), an
//!   unusable date is NULL, a negative integer becomes unsigned bit for bit.
//!
//! Warnings are kept as [`TypeError`]s so that the statement, which knows column
//! and row, can complete their text ([`CastContext::take_warnings`]).
//!
//! **Time zones.** Within a statement a TIMESTAMP is in the session's zone. It is
//! converted to UTC where it is stored and back where it is read
//! ([`crate::Time::to_zone`]); the casts only check its range.
//!
//! **Sources.** MySQL `Field_*::store` and `Item_typecast_*` behaviour; manual 14.10
//! "Cast Functions" and 7.1.11 "Server SQL Modes".

mod number;
mod temporal;
mod text;

use crate::datum::Datum;
use crate::error::{Result, TypeError, Warning};
use crate::field_type::{FieldType, PhysicalKind, TypeCode};
use crate::json::{Json, JsonValue};
use crate::time::{DateMode, Time, TimeZone};

pub use number::{str_to_f64, str_to_i128};

/// Most warnings kept (`max_error_count`); more are only counted.
pub const WARNINGS_MAX: usize = 1024;

/// What a conversion is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CastPurpose {
    /// CAST, CONVERT and implicit conversion.
    #[default]
    Expression,
    /// Storing into a column.
    Assign,
}

/// Session settings a conversion needs, and the warnings it leaves.
#[derive(Clone, Debug, Default)]
pub struct CastContext {
    /// What the conversion is for.
    pub purpose: CastPurpose,
    /// STRICT_TRANS_TABLES or STRICT_ALL_TABLES.
    pub strict: bool,
    /// Which odd dates are accepted.
    pub date_mode: DateMode,
    /// Session time zone.
    pub time_zone: TimeZone,
    /// Start of the statement in the session's zone: TIME becomes DATETIME by it.
    pub now: Option<Time>,
    /// Losses so far.
    pub warnings: Vec<TypeError>,
    /// Warnings beyond [`WARNINGS_MAX`].
    pub warnings_dropped: u64,
}

impl CastContext {
    /// A context for CAST and implicit conversion.
    pub fn expression() -> CastContext {
        CastContext::default()
    }

    /// A context for storing under MySQL 8's default modes.
    pub fn assign_strict() -> CastContext {
        CastContext {
            purpose: CastPurpose::Assign,
            strict: true,
            date_mode: DateMode::STRICT,
            ..CastContext::default()
        }
    }

    /// A context for storing without strict mode.
    pub fn assign_lenient() -> CastContext {
        CastContext { purpose: CastPurpose::Assign, ..CastContext::default() }
    }

    /// Keeps a warning.
    pub fn warn(&mut self, warning: TypeError) {
        if self.warnings.len() < WARNINGS_MAX {
            self.warnings.push(warning);
        } else {
            self.warnings_dropped += 1;
        }
    }

    /// Loss of data: an error in a strict assignment, else a warning.
    pub fn loss(&mut self, loss: TypeError) -> Result<()> {
        if self.purpose == CastPurpose::Assign && self.strict {
            return Err(loss);
        }
        self.warn(loss);
        Ok(())
    }

    fn is_assign(&self) -> bool {
        self.purpose == CastPurpose::Assign
    }

    /// Takes the warnings, completed for a column of a row (from 1).
    pub fn take_warnings(&mut self, column: &str, row: u64) -> Vec<Warning> {
        let complete = |error: TypeError| Warning::warning(error.for_column(column, row));
        self.warnings.drain(..).map(complete).collect()
    }
}

/// Converts a value of type `from` into one of type `to`. NULL stays NULL.
pub fn cast_datum(
    value: &Datum,
    from: &FieldType,
    to: &FieldType,
    ctx: &mut CastContext,
) -> Result<Datum> {
    if value.is_null() || to.code == TypeCode::Null {
        return Ok(value.clone());
    }
    match to.code {
        TypeCode::Year => return temporal::to_year(value, from, ctx),
        TypeCode::Bit => return number::to_bit(value, from, to, ctx),
        TypeCode::Enum => return text::to_enum(value, from, to, ctx),
        TypeCode::Set => return text::to_set(value, from, to, ctx),
        _ => {}
    }
    match to.physical() {
        PhysicalKind::Int => number::to_signed(value, from, to, ctx),
        PhysicalKind::UInt => number::to_unsigned(value, from, to, ctx),
        PhysicalKind::Float | PhysicalKind::Double => number::to_real(value, from, to, ctx),
        PhysicalKind::Decimal64 | PhysicalKind::Decimal128 | PhysicalKind::DecimalWide => {
            number::to_decimal_type(value, from, to, ctx)
        }
        PhysicalKind::Time => temporal::to_time(value, from, to, ctx),
        PhysicalKind::Duration => temporal::to_duration(value, from, to, ctx),
        PhysicalKind::Bytes => text::to_bytes(value, from, to, ctx),
        PhysicalKind::Json => to_json(value, from),
    }
}

/// Converts for a column and completes errors and warnings with its name and row.
pub fn assign(
    value: &Datum,
    from: &FieldType,
    column: (&str, &FieldType),
    row: u64,
    ctx: &mut CastContext,
) -> Result<Datum, crate::MysqlError> {
    let (name, field_type) = column;
    if value.is_null() && field_type.not_null {
        return Err(TypeError::BadNull.for_column(name, row));
    }
    cast_datum(value, from, field_type, ctx).map_err(|error| error.for_column(name, row))
}

/// Text of a value, as it appears in messages and string contexts.
pub fn text_of(value: &Datum, from: &FieldType) -> Vec<u8> {
    let mut text = Vec::new();
    crate::text::write_text(&mut text, value.as_ref(), from);
    text
}

fn to_json(value: &Datum, from: &FieldType) -> Result<Datum> {
    let value = match value {
        Datum::Null => return Ok(Datum::Null),
        Datum::Json(json) => return Ok(Datum::Json(json.clone())),
        Datum::Bytes(text) => return Json::parse_text(text).map(Datum::Json),
        Datum::Int(value) => JsonValue::Int(*value),
        Datum::UInt(_) if from.is_enum_or_set() => {
            let text = String::from_utf8_lossy(&text_of(value, from)).into_owned();
            JsonValue::String(text.into())
        }
        Datum::UInt(_) if from.code == TypeCode::Bit => {
            JsonValue::Opaque(from.mysql_type_byte(), text_of(value, from).into())
        }
        Datum::UInt(value) => JsonValue::UInt(*value),
        Datum::Float(value) => JsonValue::Double(f64::from(*value)),
        Datum::Double(value) => JsonValue::Double(*value),
        Datum::Decimal(value) => JsonValue::Decimal(value.clone()),
        Datum::Time(value) => JsonValue::Time(*value),
        Datum::Duration(value) => JsonValue::Duration(*value),
    };
    Ok(Datum::Json(Json::from_value(&value)))
}

#[cfg(test)]
mod tests;
