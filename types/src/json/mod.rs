//! JSON documents in a binary form that is read in place.
//!
//! **Data.** A document is a type byte and a payload; all numbers little endian,
//! offsets count from the type byte of the container:
//!
//! ```text
//! null true false | nothing
//! int uint double | 8 bytes
//! string decimal  | length u32, bytes            (a decimal is kept as text)
//! opaque          | mysql type u8, length u32, bytes
//! date … time     | 8 bytes (packed), fsp u8 for TIME
//! array           | count u32, size u32, count × offset u32, elements
//! object          | count u32, size u32, count × (key offset u32, key length u16,
//!                 |  value offset u32), keys, values
//! ```
//!
//! Elements lie end to end in order, so [`JsonRef::parse`] validates in one pass.
//! Keys are sorted by length, then bytes, and unique, as in MySQL; lookups are
//! binary searches.
//!
//! **Invariants.** A [`Json`] or [`JsonRef`] obtained by `parse` is well-formed and
//! at most [`DEPTH_MAX`] deep. Accessors on a malformed one give JSON null; they
//! never panic.

mod build;
mod compare;
mod modify;
mod path;
mod print;
mod validate;

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::decimal::Decimal;
use crate::error::Result;
use crate::time::{Duration, Time};

pub use build::JsonValue;
pub use modify::{Modify, merge_patch, merge_preserve};
pub use path::{ArrayIndex, JsonPath, PathLeg};
pub use print::{quote, unquote};

/// Deepest nesting of a document.
pub const DEPTH_MAX: usize = 100;

pub(crate) mod tag {
    pub(crate) const NULL: u8 = 0x04;
    pub(crate) const TRUE: u8 = 0x05;
    pub(crate) const FALSE: u8 = 0x06;
    pub(crate) const OBJECT: u8 = 0x01;
    pub(crate) const ARRAY: u8 = 0x03;
    pub(crate) const INT: u8 = 0x09;
    pub(crate) const UINT: u8 = 0x0a;
    pub(crate) const DOUBLE: u8 = 0x0b;
    pub(crate) const STRING: u8 = 0x0c;
    pub(crate) const OPAQUE: u8 = 0x0d;
    pub(crate) const DATE: u8 = 0x0e;
    pub(crate) const DATETIME: u8 = 0x0f;
    pub(crate) const TIMESTAMP: u8 = 0x10;
    pub(crate) const DURATION: u8 = 0x11;
    pub(crate) const DECIMAL: u8 = 0x12;
}

/// Count and size at the head of a container.
pub(crate) const CONTAINER_HEADER: usize = 1 + 4 + 4;
/// Bytes of an array entry.
pub(crate) const ARRAY_ENTRY: usize = 4;
/// Bytes of an object entry.
pub(crate) const OBJECT_ENTRY: usize = 4 + 2 + 4;

/// What a document (or a part of one) is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // JSON's own names.
pub enum JsonKind {
    Null,
    Bool,
    Int,
    UInt,
    Double,
    Decimal,
    String,
    Object,
    Array,
    Date,
    DateTime,
    Timestamp,
    Time,
    Opaque,
}

/// An owned document.
#[derive(Clone, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Json {
    bytes: Vec<u8>,
}

/// A borrowed document, or part of one.
#[derive(Clone, Copy)]
pub struct JsonRef<'a> {
    bytes: &'a [u8],
}

impl Json {
    /// JSON null.
    pub fn null() -> Json {
        Json { bytes: vec![tag::NULL] }
    }

    /// Parses text.
    pub fn parse_text(text: &[u8]) -> Result<Json> {
        build::parse_text(text)
    }

    /// A document of a value.
    pub fn from_value(value: &JsonValue<'_>) -> Json {
        let mut bytes = Vec::new();
        value.encode(&mut bytes);
        Json { bytes }
    }

    /// A JSON string.
    pub fn string(text: &str) -> Json {
        Json::from_value(&JsonValue::String(Cow::Borrowed(text)))
    }

    /// Takes the binary form after validating it.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Json> {
        JsonRef::parse(&bytes)?;
        Ok(Json { bytes })
    }

    /// The document, borrowed.
    #[inline]
    pub fn as_ref(&self) -> JsonRef<'_> {
        JsonRef { bytes: &self.bytes }
    }

    /// The binary form.
    #[inline]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The binary form, owned.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

impl<'a> JsonRef<'a> {
    /// Reads and validates the binary form.
    pub fn parse(bytes: &'a [u8]) -> Result<JsonRef<'a>> {
        validate::validate(bytes)?;
        Ok(JsonRef { bytes })
    }

    /// Takes bytes that a chunk or document already holds.
    #[inline]
    pub(crate) fn from_trusted(bytes: &'a [u8]) -> JsonRef<'a> {
        JsonRef { bytes }
    }

    /// The binary form. For a part of a document, it ends where the part ends.
    #[inline]
    pub fn as_bytes(self) -> &'a [u8] {
        self.bytes
    }

    /// An owned copy.
    pub fn to_json(self) -> Json {
        if self.bytes.is_empty() { Json::null() } else { Json { bytes: self.bytes.to_vec() } }
    }

    pub(crate) fn tag(self) -> u8 {
        self.bytes.first().copied().unwrap_or(tag::NULL)
    }

    /// What this is.
    pub fn kind(self) -> JsonKind {
        match self.tag() {
            tag::TRUE | tag::FALSE => JsonKind::Bool,
            tag::OBJECT => JsonKind::Object,
            tag::ARRAY => JsonKind::Array,
            tag::INT => JsonKind::Int,
            tag::UINT => JsonKind::UInt,
            tag::DOUBLE => JsonKind::Double,
            tag::STRING => JsonKind::String,
            tag::OPAQUE => JsonKind::Opaque,
            tag::DATE => JsonKind::Date,
            tag::DATETIME => JsonKind::DateTime,
            tag::TIMESTAMP => JsonKind::Timestamp,
            tag::DURATION => JsonKind::Time,
            tag::DECIMAL => JsonKind::Decimal,
            _ => JsonKind::Null,
        }
    }

    /// JSON_TYPE.
    pub fn type_name(self) -> &'static str {
        match self.kind() {
            JsonKind::Null => "NULL",
            JsonKind::Bool => "BOOLEAN",
            JsonKind::Int => "INTEGER",
            JsonKind::UInt => "UNSIGNED INTEGER",
            JsonKind::Double => "DOUBLE",
            JsonKind::Decimal => "DECIMAL",
            JsonKind::String => "STRING",
            JsonKind::Object => "OBJECT",
            JsonKind::Array => "ARRAY",
            JsonKind::Date => "DATE",
            // A document keeps a TIMESTAMP as the DATETIME it shows.
            JsonKind::DateTime | JsonKind::Timestamp => "DATETIME",
            JsonKind::Time => "TIME",
            JsonKind::Opaque => "BLOB",
        }
    }

    /// Whether this is JSON null.
    pub fn is_null(self) -> bool {
        self.kind() == JsonKind::Null
    }

    /// true or false.
    pub fn as_bool(self) -> Option<bool> {
        match self.tag() {
            tag::TRUE => Some(true),
            tag::FALSE => Some(false),
            _ => None,
        }
    }

    fn word(self) -> u64 {
        let bytes = self.bytes.get(1..9).and_then(|bytes| bytes.try_into().ok());
        bytes.map_or(0, u64::from_le_bytes)
    }

    /// A signed integer.
    pub fn as_i64(self) -> Option<i64> {
        (self.tag() == tag::INT).then(|| self.word() as i64)
    }

    /// An unsigned integer.
    pub fn as_u64(self) -> Option<u64> {
        (self.tag() == tag::UINT).then(|| self.word())
    }

    /// Any number as a double.
    pub fn as_f64(self) -> Option<f64> {
        match self.tag() {
            tag::INT => Some(self.word() as i64 as f64),
            tag::UINT => Some(self.word() as f64),
            tag::DOUBLE => Some(f64::from_bits(self.word())),
            tag::DECIMAL => Some(self.as_decimal()?.to_f64()),
            _ => None,
        }
    }

    /// A decimal.
    pub fn as_decimal(self) -> Option<Decimal> {
        if self.tag() != tag::DECIMAL {
            return None;
        }
        std::str::from_utf8(self.sized(1)).ok()?.parse().ok()
    }

    fn u32_at(self, at: usize) -> usize {
        let bytes = self.bytes.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
        bytes.map_or(0, u32::from_le_bytes) as usize
    }

    /// Length-prefixed bytes whose length is at `at`.
    fn sized(self, at: usize) -> &'a [u8] {
        let len = self.u32_at(at);
        self.bytes.get(at + 4..at + 4 + len).unwrap_or(&[])
    }

    /// A string's text.
    pub fn as_str(self) -> Option<&'a str> {
        if self.tag() != tag::STRING {
            return None;
        }
        std::str::from_utf8(self.sized(1)).ok()
    }

    /// MySQL type byte and bytes of an opaque value.
    pub fn as_opaque(self) -> Option<(u8, &'a [u8])> {
        (self.tag() == tag::OPAQUE)
            .then(|| (self.bytes.get(1).copied().unwrap_or(0), self.sized(2)))
    }

    /// A date or datetime.
    pub fn as_time(self) -> Option<Time> {
        match self.tag() {
            tag::DATE | tag::DATETIME | tag::TIMESTAMP => Time::from_packed(self.word()).ok(),
            _ => None,
        }
    }

    /// A time of day.
    pub fn as_duration(self) -> Option<Duration> {
        let fsp = self.bytes.get(9).copied().unwrap_or(0);
        (self.tag() == tag::DURATION)
            .then(|| Duration::from_micros_clamped(self.word() as i64, fsp))
    }

    /// Elements of an array or members of an object; 0 for scalars.
    pub fn count(self) -> usize {
        match self.tag() {
            tag::ARRAY | tag::OBJECT => self.u32_at(1),
            _ => 0,
        }
    }

    /// JSON_LENGTH: 1 for scalars.
    pub fn length(self) -> usize {
        match self.tag() {
            tag::ARRAY | tag::OBJECT => self.u32_at(1),
            _ => 1,
        }
    }

    /// The part that starts at `offset`, cut where it ends.
    fn part(self, offset: usize) -> JsonRef<'a> {
        const NULL: &[u8] = &[tag::NULL];
        let rest = match self.bytes.get(offset..) {
            Some(rest) if offset > 0 && !rest.is_empty() => rest,
            _ => return JsonRef { bytes: NULL },
        };
        let len = JsonRef { bytes: rest }.encoded_len();
        JsonRef { bytes: rest.get(..len).unwrap_or(NULL) }
    }

    /// Bytes of the value at the front.
    pub(crate) fn encoded_len(self) -> usize {
        match self.tag() {
            tag::INT | tag::UINT | tag::DOUBLE | tag::DATE | tag::DATETIME | tag::TIMESTAMP => 9,
            tag::DURATION => 10,
            tag::STRING | tag::DECIMAL => 5 + self.u32_at(1),
            tag::OPAQUE => 6 + self.u32_at(2),
            tag::ARRAY | tag::OBJECT => self.u32_at(5),
            _ => 1,
        }
    }

    /// Element `i` of an array.
    pub fn element(self, i: usize) -> Option<JsonRef<'a>> {
        if self.tag() != tag::ARRAY || i >= self.count() {
            return None;
        }
        Some(self.part(self.u32_at(CONTAINER_HEADER + i * ARRAY_ENTRY)))
    }

    /// Elements of an array.
    pub fn elements(self) -> impl Iterator<Item = JsonRef<'a>> + 'a {
        let count = if self.tag() == tag::ARRAY { self.count() } else { 0 };
        (0..count).map_while(move |i| self.element(i))
    }

    /// Key of member `i`, in key order.
    pub fn key_at(self, i: usize) -> Option<&'a str> {
        if self.tag() != tag::OBJECT || i >= self.count() {
            return None;
        }
        let entry = CONTAINER_HEADER + i * OBJECT_ENTRY;
        let start = self.u32_at(entry);
        let len = self.bytes.get(entry + 4..entry + 6)?;
        let len = usize::from(u16::from_le_bytes(len.try_into().ok()?));
        std::str::from_utf8(self.bytes.get(start..start + len)?).ok()
    }

    /// Value of member `i`, in key order.
    pub fn value_at(self, i: usize) -> Option<JsonRef<'a>> {
        if self.tag() != tag::OBJECT || i >= self.count() {
            return None;
        }
        Some(self.part(self.u32_at(CONTAINER_HEADER + i * OBJECT_ENTRY + 6)))
    }

    /// Members of an object, in key order.
    pub fn members(self) -> impl Iterator<Item = (&'a str, JsonRef<'a>)> + 'a {
        let count = if self.tag() == tag::OBJECT { self.count() } else { 0 };
        (0..count).map_while(move |i| Some((self.key_at(i)?, self.value_at(i)?)))
    }

    /// The member named `key`.
    pub fn member(self, key: &str) -> Option<JsonRef<'a>> {
        let (mut low, mut high) = (0, if self.tag() == tag::OBJECT { self.count() } else { 0 });
        while low < high {
            let middle = low + (high - low) / 2;
            match compare::keys(self.key_at(middle)?, key) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => return self.value_at(middle),
            }
        }
        None
    }

    /// JSON_DEPTH.
    pub fn depth(self) -> usize {
        let inner = match self.kind() {
            JsonKind::Array => self.elements().map(JsonRef::depth).max(),
            JsonKind::Object => self.members().map(|(_, value)| value.depth()).max(),
            _ => None,
        };
        1 + inner.unwrap_or(0)
    }
}

impl From<Json> for String {
    fn from(json: Json) -> String {
        json.to_string()
    }
}

impl TryFrom<String> for Json {
    type Error = crate::TypeError;

    fn try_from(text: String) -> Result<Json> {
        Json::parse_text(text.as_bytes())
    }
}

#[cfg(test)]
pub(crate) mod tests;
