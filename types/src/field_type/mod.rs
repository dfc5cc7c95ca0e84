//! Column and expression types: MySQL's type codes with their attributes.
//!
//! A [`FieldType`] says how a value is stored (which [`crate::Datum`] variant,
//! see [`FieldType::physical`]), how it takes part in evaluation
//! ([`FieldType::eval_kind`]), and how the client is told about it (type byte,
//! flags, length, decimals). It is part of the stored schema, so its serde form
//! is a contract.

mod mysql;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::collation::{Charset, Collation};

pub use mysql::flag;

/// MySQL's column types.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[allow(missing_docs)] // The names are MySQL's own.
pub enum TypeCode {
    Null,
    TinyInt,
    SmallInt,
    MediumInt,
    Int,
    BigInt,
    Float,
    Double,
    Decimal,
    Date,
    DateTime,
    Timestamp,
    Time,
    Year,
    Char,
    VarChar,
    Binary,
    VarBinary,
    TinyText,
    Text,
    MediumText,
    LongText,
    TinyBlob,
    Blob,
    MediumBlob,
    LongBlob,
    Bit,
    Enum,
    Set,
    Json,
}

/// How a value takes part in evaluation.
///
/// ENUM and SET evaluate as `String` although they are stored as integers; BIT
/// and YEAR evaluate as integers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum EvalKind {
    /// Signed 64-bit integer.
    Int,
    /// Unsigned 64-bit integer.
    UInt,
    /// FLOAT and DOUBLE.
    Real,
    /// Exact decimal.
    Decimal,
    /// Text or bytes.
    String,
    /// DATE, DATETIME, TIMESTAMP.
    Time,
    /// TIME.
    Duration,
    /// JSON.
    Json,
}

/// Which vector of a chunk, and which [`crate::Datum`] variant, holds a type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PhysicalKind {
    /// `i64`: signed integers, and the type of NULL.
    Int,
    /// `u64`: unsigned integers, YEAR, BIT, ENUM (index from 1), SET (bit mask).
    UInt,
    /// `f32`.
    Float,
    /// `f64`.
    Double,
    /// Decimal of up to 18 digits, scaled `i64` in chunks.
    Decimal64,
    /// Decimal of up to 38 digits, scaled `i128` in chunks.
    Decimal128,
    /// Wider decimals.
    DecimalWide,
    /// Packed time, `u64`.
    Time,
    /// Microseconds, `i64`.
    Duration,
    /// Text and bytes.
    Bytes,
    /// Binary JSON.
    Json,
}

/// Precision a DECIMAL has if none is named.
pub const DECIMAL_PRECISION_DEFAULT: u32 = 10;
/// Largest precision of a DECIMAL.
pub const DECIMAL_PRECISION_MAX: u32 = 65;
/// Largest scale of a DECIMAL.
pub const DECIMAL_SCALE_MAX: u8 = 30;
/// Largest number of fractional second digits.
pub const FSP_MAX: u8 = 6;
/// "Decimals" of a float without a fixed scale, in the protocol.
pub const NOT_FIXED_DECIMALS: u8 = 31;

/// A type with its attributes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FieldType {
    /// The type.
    pub code: TypeCode,
    /// UNSIGNED.
    #[serde(default)]
    pub unsigned: bool,
    /// ZEROFILL.
    #[serde(default)]
    pub zerofill: bool,
    /// NOT NULL.
    #[serde(default)]
    pub not_null: bool,
    /// Characters (CHAR, VARCHAR), bytes (BINARY, VARBINARY), precision
    /// (DECIMAL), bits (BIT), display width (integers). `None`: not limited, or
    /// the type's default.
    #[serde(default)]
    pub flen: Option<u32>,
    /// Scale (DECIMAL, FLOAT(M,D)) or fractional second digits. `None`: default.
    #[serde(default)]
    pub decimals: Option<u8>,
    /// Collation of text; `binary` for everything else.
    pub collation: Collation,
    /// Members of ENUM and SET.
    #[serde(default)]
    pub elements: Arc<[Box<str>]>,
}

impl FieldType {
    /// A type with default attributes.
    pub fn new(code: TypeCode) -> FieldType {
        let collation = if code_is_text(code) { Collation::default() } else { Collation::BINARY };
        FieldType {
            code,
            unsigned: matches!(code, TypeCode::Year | TypeCode::Bit),
            zerofill: false,
            not_null: false,
            flen: None,
            decimals: None,
            collation,
            elements: Arc::default(),
        }
    }

    /// The type of a bare NULL.
    pub fn null() -> FieldType {
        FieldType::new(TypeCode::Null)
    }

    /// TINYINT.
    pub fn tinyint() -> FieldType {
        FieldType::new(TypeCode::TinyInt)
    }

    /// TINYINT(1), as BOOL is stored.
    pub fn boolean() -> FieldType {
        FieldType::new(TypeCode::TinyInt).with_flen(1)
    }

    /// SMALLINT.
    pub fn smallint() -> FieldType {
        FieldType::new(TypeCode::SmallInt)
    }

    /// MEDIUMINT.
    pub fn mediumint() -> FieldType {
        FieldType::new(TypeCode::MediumInt)
    }

    /// INT.
    pub fn int() -> FieldType {
        FieldType::new(TypeCode::Int)
    }

    /// BIGINT.
    pub fn bigint() -> FieldType {
        FieldType::new(TypeCode::BigInt)
    }

    /// BIGINT UNSIGNED.
    pub fn bigint_unsigned() -> FieldType {
        FieldType::new(TypeCode::BigInt).with_unsigned()
    }

    /// FLOAT.
    pub fn float() -> FieldType {
        FieldType::new(TypeCode::Float)
    }

    /// DOUBLE.
    pub fn double() -> FieldType {
        FieldType::new(TypeCode::Double)
    }

    /// DECIMAL(precision, scale).
    pub fn decimal(precision: u32, scale: u8) -> FieldType {
        FieldType::new(TypeCode::Decimal).with_flen(precision).with_decimals(scale)
    }

    /// DATE.
    pub fn date() -> FieldType {
        FieldType::new(TypeCode::Date)
    }

    /// DATETIME(fsp).
    pub fn datetime(fsp: u8) -> FieldType {
        FieldType::new(TypeCode::DateTime).with_decimals(fsp)
    }

    /// TIMESTAMP(fsp).
    pub fn timestamp(fsp: u8) -> FieldType {
        FieldType::new(TypeCode::Timestamp).with_decimals(fsp)
    }

    /// TIME(fsp).
    pub fn time(fsp: u8) -> FieldType {
        FieldType::new(TypeCode::Time).with_decimals(fsp)
    }

    /// YEAR.
    pub fn year() -> FieldType {
        FieldType::new(TypeCode::Year)
    }

    /// CHAR(n).
    pub fn char(n: u32) -> FieldType {
        FieldType::new(TypeCode::Char).with_flen(n)
    }

    /// VARCHAR(n).
    pub fn varchar(n: u32) -> FieldType {
        FieldType::new(TypeCode::VarChar).with_flen(n)
    }

    /// Text of any length: the type of string expressions without a known one.
    pub fn string() -> FieldType {
        FieldType::new(TypeCode::VarChar)
    }

    /// BINARY(n).
    pub fn binary(n: u32) -> FieldType {
        FieldType::new(TypeCode::Binary).with_flen(n)
    }

    /// VARBINARY(n).
    pub fn varbinary(n: u32) -> FieldType {
        FieldType::new(TypeCode::VarBinary).with_flen(n)
    }

    /// TEXT.
    pub fn text() -> FieldType {
        FieldType::new(TypeCode::Text)
    }

    /// LONGTEXT.
    pub fn longtext() -> FieldType {
        FieldType::new(TypeCode::LongText)
    }

    /// BLOB.
    pub fn blob() -> FieldType {
        FieldType::new(TypeCode::Blob)
    }

    /// BIT(n).
    pub fn bit(n: u32) -> FieldType {
        FieldType::new(TypeCode::Bit).with_flen(n)
    }

    /// JSON.
    pub fn json() -> FieldType {
        FieldType::new(TypeCode::Json)
    }

    /// ENUM(members).
    pub fn enumeration<S: Into<Box<str>>>(members: impl IntoIterator<Item = S>) -> FieldType {
        let elements = members.into_iter().map(Into::into).collect();
        FieldType { elements, ..FieldType::new(TypeCode::Enum) }
    }

    /// SET(members).
    pub fn set<S: Into<Box<str>>>(members: impl IntoIterator<Item = S>) -> FieldType {
        let elements = members.into_iter().map(Into::into).collect();
        FieldType { elements, ..FieldType::new(TypeCode::Set) }
    }

    /// With UNSIGNED.
    #[must_use]
    pub fn with_unsigned(mut self) -> FieldType {
        self.unsigned = true;
        self
    }

    /// With ZEROFILL, which implies UNSIGNED.
    #[must_use]
    pub fn with_zerofill(mut self) -> FieldType {
        self.zerofill = true;
        self.unsigned = true;
        self
    }

    /// With NOT NULL.
    #[must_use]
    pub fn with_not_null(mut self) -> FieldType {
        self.not_null = true;
        self
    }

    /// With a length, precision or width.
    #[must_use]
    pub fn with_flen(mut self, flen: u32) -> FieldType {
        self.flen = Some(flen);
        self
    }

    /// With a scale or fractional second digits.
    #[must_use]
    pub fn with_decimals(mut self, decimals: u8) -> FieldType {
        self.decimals = Some(decimals);
        self
    }

    /// With a collation.
    #[must_use]
    pub fn with_collation(mut self, collation: Collation) -> FieldType {
        self.collation = collation;
        self
    }

    /// Integers of all widths, without YEAR and BIT.
    #[inline]
    pub fn is_integer(&self) -> bool {
        matches!(
            self.code,
            TypeCode::TinyInt
                | TypeCode::SmallInt
                | TypeCode::MediumInt
                | TypeCode::Int
                | TypeCode::BigInt
        )
    }

    /// Types whose values are numbers to the client.
    pub fn is_numeric(&self) -> bool {
        self.is_integer() || self.is_real() || self.is_decimal() || self.code == TypeCode::Year
    }

    /// FLOAT or DOUBLE.
    #[inline]
    pub fn is_real(&self) -> bool {
        matches!(self.code, TypeCode::Float | TypeCode::Double)
    }

    /// DECIMAL.
    #[inline]
    pub fn is_decimal(&self) -> bool {
        self.code == TypeCode::Decimal
    }

    /// DATE, DATETIME, TIMESTAMP or TIME.
    pub fn is_temporal(&self) -> bool {
        self.is_time() || self.code == TypeCode::Time
    }

    /// DATE, DATETIME or TIMESTAMP: values of [`crate::Time`].
    #[inline]
    pub fn is_time(&self) -> bool {
        matches!(self.code, TypeCode::Date | TypeCode::DateTime | TypeCode::Timestamp)
    }

    /// Text and byte strings of every length (not ENUM, SET, JSON).
    #[inline]
    pub fn is_string(&self) -> bool {
        code_is_bytes(self.code)
    }

    /// Byte strings: BINARY, VARBINARY, BLOBs, and text of the `binary` set.
    pub fn is_binary_string(&self) -> bool {
        self.is_string() && self.collation.is_binary()
    }

    /// TEXT and BLOB of all sizes.
    pub fn is_blob(&self) -> bool {
        self.is_string()
            && !matches!(
                self.code,
                TypeCode::Char | TypeCode::VarChar | TypeCode::Binary | TypeCode::VarBinary
            )
    }

    /// ENUM or SET.
    pub fn is_enum_or_set(&self) -> bool {
        matches!(self.code, TypeCode::Enum | TypeCode::Set)
    }

    /// How values take part in evaluation.
    pub fn eval_kind(&self) -> EvalKind {
        match self.code {
            TypeCode::Null => EvalKind::String,
            TypeCode::TinyInt
            | TypeCode::SmallInt
            | TypeCode::MediumInt
            | TypeCode::Int
            | TypeCode::BigInt => {
                if self.unsigned {
                    EvalKind::UInt
                } else {
                    EvalKind::Int
                }
            }
            TypeCode::Year | TypeCode::Bit => EvalKind::UInt,
            TypeCode::Float | TypeCode::Double => EvalKind::Real,
            TypeCode::Decimal => EvalKind::Decimal,
            TypeCode::Date | TypeCode::DateTime | TypeCode::Timestamp => EvalKind::Time,
            TypeCode::Time => EvalKind::Duration,
            TypeCode::Json => EvalKind::Json,
            _ => EvalKind::String,
        }
    }

    /// How values are held in datums and chunks.
    #[inline]
    pub fn physical(&self) -> PhysicalKind {
        match self.code {
            TypeCode::Null => PhysicalKind::Int,
            TypeCode::TinyInt
            | TypeCode::SmallInt
            | TypeCode::MediumInt
            | TypeCode::Int
            | TypeCode::BigInt => {
                if self.unsigned {
                    PhysicalKind::UInt
                } else {
                    PhysicalKind::Int
                }
            }
            TypeCode::Year | TypeCode::Bit | TypeCode::Enum | TypeCode::Set => PhysicalKind::UInt,
            TypeCode::Float => PhysicalKind::Float,
            TypeCode::Double => PhysicalKind::Double,
            TypeCode::Decimal => match self.precision() {
                0..=18 => PhysicalKind::Decimal64,
                19..=38 => PhysicalKind::Decimal128,
                _ => PhysicalKind::DecimalWide,
            },
            TypeCode::Date | TypeCode::DateTime | TypeCode::Timestamp => PhysicalKind::Time,
            TypeCode::Time => PhysicalKind::Duration,
            TypeCode::Json => PhysicalKind::Json,
            _ => PhysicalKind::Bytes,
        }
    }

    /// Precision of a DECIMAL (digits in all).
    #[inline]
    pub fn precision(&self) -> u32 {
        self.flen.unwrap_or(DECIMAL_PRECISION_DEFAULT)
    }

    /// Scale of a DECIMAL; 0 if none is named.
    #[inline]
    pub fn scale(&self) -> u8 {
        self.decimals.unwrap_or(0)
    }

    /// Fractional second digits; 0 if none are named, never over 6.
    #[inline]
    pub fn fsp(&self) -> u8 {
        self.decimals.unwrap_or(0).min(FSP_MAX)
    }

    /// Smallest and largest value of a signed integer type.
    pub fn signed_range(&self) -> (i64, i64) {
        let bits = self.integer_bits();
        (i64::MIN >> (64 - bits), i64::MAX >> (64 - bits))
    }

    /// Largest value of an unsigned integer type (BIT: of its width).
    pub fn unsigned_max(&self) -> u64 {
        let bits = match self.code {
            TypeCode::Bit => self.flen.unwrap_or(1).clamp(1, 64),
            _ => self.integer_bits(),
        };
        u64::MAX >> (64 - bits)
    }

    fn integer_bits(&self) -> u32 {
        match self.code {
            TypeCode::TinyInt => 8,
            TypeCode::SmallInt => 16,
            TypeCode::MediumInt => 24,
            TypeCode::Int => 32,
            _ => 64,
        }
    }

    /// Most bytes a TEXT or BLOB may hold; `None` for other types.
    pub fn blob_max_bytes(&self) -> Option<u64> {
        match self.code {
            TypeCode::TinyText | TypeCode::TinyBlob => Some(255),
            TypeCode::Text | TypeCode::Blob => Some(65_535),
            TypeCode::MediumText | TypeCode::MediumBlob => Some(16_777_215),
            TypeCode::LongText | TypeCode::LongBlob => Some(4_294_967_295),
            _ => None,
        }
    }

    /// Character set of text types.
    pub fn charset(&self) -> Charset {
        self.collation.charset()
    }
}

/// Types whose values carry a character set: text, ENUM and SET.
fn code_is_text(code: TypeCode) -> bool {
    matches!(
        code,
        TypeCode::Char
            | TypeCode::VarChar
            | TypeCode::TinyText
            | TypeCode::Text
            | TypeCode::MediumText
            | TypeCode::LongText
            | TypeCode::Enum
            | TypeCode::Set
    )
}

fn code_is_bytes(code: TypeCode) -> bool {
    matches!(
        code,
        TypeCode::Char
            | TypeCode::VarChar
            | TypeCode::Binary
            | TypeCode::VarBinary
            | TypeCode::TinyText
            | TypeCode::Text
            | TypeCode::MediumText
            | TypeCode::LongText
            | TypeCode::TinyBlob
            | TypeCode::Blob
            | TypeCode::MediumBlob
            | TypeCode::LongBlob
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integer_ranges() {
        assert_eq!(FieldType::tinyint().signed_range(), (-128, 127));
        assert_eq!(FieldType::mediumint().signed_range(), (-8_388_608, 8_388_607));
        assert_eq!(FieldType::bigint().signed_range(), (i64::MIN, i64::MAX));
        assert_eq!(FieldType::int().unsigned_max(), 4_294_967_295);
        assert_eq!(FieldType::bit(3).unsigned_max(), 7);
    }
}
