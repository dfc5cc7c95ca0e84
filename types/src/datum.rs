//! A single SQL value, owned ([`Datum`]) and borrowed ([`DatumRef`]).
//!
//! The variant follows from the type ([`crate::FieldType::physical`]): strings,
//! text and blobs are `Bytes` (UTF-8 for text); YEAR, BIT, ENUM (index from 1, 0
//! for the empty error value) and SET (bit mask) are `UInt`.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

use crate::collation::Collation;
use crate::decimal::Decimal;
use crate::error::{Result, TypeError};
use crate::json::{Json, JsonRef};
use crate::time::{Duration, Time};

/// An owned value.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub enum Datum {
    /// NULL.
    #[default]
    Null,
    /// Signed integer.
    Int(i64),
    /// Unsigned integer, YEAR, BIT, ENUM, SET.
    UInt(u64),
    /// FLOAT.
    Float(f32),
    /// DOUBLE.
    Double(f64),
    /// DECIMAL.
    Decimal(Decimal),
    /// Text or bytes.
    Bytes(Vec<u8>),
    /// DATE, DATETIME, TIMESTAMP.
    Time(Time),
    /// TIME.
    Duration(Duration),
    /// JSON.
    Json(Json),
}

/// A borrowed value.
#[derive(Clone, Debug, Default)]
pub enum DatumRef<'a> {
    /// NULL.
    #[default]
    Null,
    /// Signed integer.
    Int(i64),
    /// Unsigned integer, YEAR, BIT, ENUM, SET.
    UInt(u64),
    /// FLOAT.
    Float(f32),
    /// DOUBLE.
    Double(f64),
    /// DECIMAL: small ones are values themselves, so nothing is borrowed.
    Decimal(Decimal),
    /// Text or bytes.
    Bytes(&'a [u8]),
    /// DATE, DATETIME, TIMESTAMP.
    Time(Time),
    /// TIME.
    Duration(Duration),
    /// JSON.
    Json(JsonRef<'a>),
}

impl Datum {
    /// Text.
    pub fn text(text: impl Into<String>) -> Datum {
        Datum::Bytes(text.into().into_bytes())
    }

    /// 1 or 0.
    pub fn bool(value: bool) -> Datum {
        Datum::Int(i64::from(value))
    }

    /// Whether this is NULL.
    #[inline]
    pub fn is_null(&self) -> bool {
        matches!(self, Datum::Null)
    }

    /// The value, borrowed.
    #[inline]
    pub fn as_ref(&self) -> DatumRef<'_> {
        match self {
            Datum::Null => DatumRef::Null,
            Datum::Int(value) => DatumRef::Int(*value),
            Datum::UInt(value) => DatumRef::UInt(*value),
            Datum::Float(value) => DatumRef::Float(*value),
            Datum::Double(value) => DatumRef::Double(*value),
            Datum::Decimal(value) => DatumRef::Decimal(value.clone()),
            Datum::Bytes(value) => DatumRef::Bytes(value),
            Datum::Time(value) => DatumRef::Time(*value),
            Datum::Duration(value) => DatumRef::Duration(*value),
            Datum::Json(value) => DatumRef::Json(value.as_ref()),
        }
    }

    /// The bytes of a string.
    pub fn as_bytes(&self) -> Option<&[u8]> {
        match self {
            Datum::Bytes(value) => Some(value),
            _ => None,
        }
    }

    /// The value of an integer, signed or not, if it fits.
    pub fn as_i64(&self) -> Option<i64> {
        match self {
            Datum::Int(value) => Some(*value),
            Datum::UInt(value) => i64::try_from(*value).ok(),
            _ => None,
        }
    }

    /// Bytes this value occupies, for memory accounting.
    pub fn memory_bytes(&self) -> usize {
        let heap = match self {
            Datum::Bytes(value) => value.capacity(),
            Datum::Json(value) => value.as_bytes().len(),
            _ => 0,
        };
        size_of::<Datum>() + heap
    }

    /// Name of the variant, for messages.
    pub fn kind_name(&self) -> &'static str {
        self.as_ref().kind_name()
    }
}

impl<'a> DatumRef<'a> {
    /// Whether this is NULL.
    #[inline]
    pub fn is_null(&self) -> bool {
        matches!(self, DatumRef::Null)
    }

    /// An owned copy.
    pub fn to_owned(&self) -> Datum {
        match self {
            DatumRef::Null => Datum::Null,
            DatumRef::Int(value) => Datum::Int(*value),
            DatumRef::UInt(value) => Datum::UInt(*value),
            DatumRef::Float(value) => Datum::Float(*value),
            DatumRef::Double(value) => Datum::Double(*value),
            DatumRef::Decimal(value) => Datum::Decimal(value.clone()),
            DatumRef::Bytes(value) => Datum::Bytes(value.to_vec()),
            DatumRef::Time(value) => Datum::Time(*value),
            DatumRef::Duration(value) => Datum::Duration(*value),
            DatumRef::Json(value) => Datum::Json(value.to_json()),
        }
    }

    /// Name of the variant, for messages.
    pub fn kind_name(&self) -> &'static str {
        match self {
            DatumRef::Null => "NULL",
            DatumRef::Int(_) => "BIGINT",
            DatumRef::UInt(_) => "BIGINT UNSIGNED",
            DatumRef::Float(_) => "FLOAT",
            DatumRef::Double(_) => "DOUBLE",
            DatumRef::Decimal(_) => "DECIMAL",
            DatumRef::Bytes(_) => "CHAR",
            DatumRef::Time(_) => "DATETIME",
            DatumRef::Duration(_) => "TIME",
            DatumRef::Json(_) => "JSON",
        }
    }
}

/// Orders two values of one kind; NULL comes first.
///
/// Integers of either sign, and integers with decimals and doubles, compare by
/// value. Values of other different kinds compare by kind, so that the order is
/// total; the caller is expected to have cast them.
pub fn compare(a: &Datum, b: &Datum, collation: Collation) -> Ordering {
    compare_ref(&a.as_ref(), &b.as_ref(), collation)
}

/// [`compare`] for borrowed values.
pub fn compare_ref(a: &DatumRef<'_>, b: &DatumRef<'_>, collation: Collation) -> Ordering {
    use DatumRef as D;
    match (a, b) {
        (D::Null, D::Null) => Ordering::Equal,
        (D::Null, _) => Ordering::Less,
        (_, D::Null) => Ordering::Greater,
        (D::Int(a), D::Int(b)) => a.cmp(b),
        (D::UInt(a), D::UInt(b)) => a.cmp(b),
        (D::Int(a), D::UInt(b)) => i128::from(*a).cmp(&i128::from(*b)),
        (D::UInt(a), D::Int(b)) => i128::from(*a).cmp(&i128::from(*b)),
        (D::Bytes(a), D::Bytes(b)) => collation.compare(a, b),
        (D::Time(a), D::Time(b)) => a.cmp(b),
        (D::Duration(a), D::Duration(b)) => a.cmp(b),
        (D::Json(a), D::Json(b)) => a.compare(*b),
        (D::Decimal(a), D::Decimal(b)) => a.cmp(b),
        (D::Decimal(a), D::Int(_) | D::UInt(_)) => a.cmp(&integer_decimal(b)),
        (D::Int(_) | D::UInt(_), D::Decimal(b)) => integer_decimal(a).cmp(b),
        _ => match (as_real(a), as_real(b)) {
            (Some(a), Some(b)) => compare_f64(a, b),
            _ => rank(a).cmp(&rank(b)),
        },
    }
}

/// Total order of doubles with -0.0 equal to 0.0; NaN, which SQL never yields,
/// comes last.
#[inline]
pub fn compare_f64(a: f64, b: f64) -> Ordering {
    a.partial_cmp(&b).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
}

fn integer_decimal(datum: &DatumRef<'_>) -> Decimal {
    match datum {
        DatumRef::Int(value) => Decimal::from(*value),
        DatumRef::UInt(value) => Decimal::from(*value),
        _ => Decimal::ZERO,
    }
}

fn as_real(datum: &DatumRef<'_>) -> Option<f64> {
    match datum {
        DatumRef::Int(value) => Some(*value as f64),
        DatumRef::UInt(value) => Some(*value as f64),
        DatumRef::Float(value) => Some(f64::from(*value)),
        DatumRef::Double(value) => Some(*value),
        DatumRef::Decimal(value) => Some(value.to_f64()),
        _ => None,
    }
}

fn rank(datum: &DatumRef<'_>) -> u8 {
    match datum {
        DatumRef::Null => 0,
        DatumRef::Int(_) | DatumRef::UInt(_) => 1,
        DatumRef::Float(_) | DatumRef::Double(_) | DatumRef::Decimal(_) => 2,
        DatumRef::Bytes(_) => 3,
        DatumRef::Time(_) => 4,
        DatumRef::Duration(_) => 5,
        DatumRef::Json(_) => 6,
    }
}

/// Equality within one kind, bytes by bytes; for tests and plan comparison. SQL
/// equality is [`compare`] with a collation.
impl PartialEq for Datum {
    fn eq(&self, other: &Datum) -> bool {
        compare(self, other, Collation::BINARY) == Ordering::Equal
    }
}

impl PartialEq for DatumRef<'_> {
    fn eq(&self, other: &DatumRef<'_>) -> bool {
        compare_ref(self, other, Collation::BINARY) == Ordering::Equal
    }
}

macro_rules! from {
    ($($source:ty => $variant:ident;)*) => {$(
        impl From<$source> for Datum {
            fn from(value: $source) -> Datum {
                Datum::$variant(value.into())
            }
        }
    )*};
}

from! {
    i32 => Int;
    i64 => Int;
    u32 => UInt;
    u64 => UInt;
    f32 => Float;
    f64 => Double;
    Decimal => Decimal;
    Vec<u8> => Bytes;
    &[u8] => Bytes;
    &str => Bytes;
    Time => Time;
    Duration => Duration;
    Json => Json;
}

impl From<String> for Datum {
    fn from(value: String) -> Datum {
        Datum::Bytes(value.into_bytes())
    }
}

impl From<bool> for Datum {
    fn from(value: bool) -> Datum {
        Datum::bool(value)
    }
}

impl<T: Into<Datum>> From<Option<T>> for Datum {
    fn from(value: Option<T>) -> Datum {
        value.map_or(Datum::Null, Into::into)
    }
}

/// Smaller fallible conversions for callers that know what they expect.
impl Datum {
    /// The string as UTF-8 text.
    pub fn as_str(&self) -> Result<&str> {
        match self {
            Datum::Bytes(bytes) => {
                std::str::from_utf8(bytes).map_err(|_| TypeError::InvalidCharacterString {
                    charset: "utf8mb4",
                    value: crate::text::escape_bytes(bytes),
                })
            }
            other => Err(TypeError::Unsupported { from: other.kind_name(), to: "CHAR" }),
        }
    }
}
