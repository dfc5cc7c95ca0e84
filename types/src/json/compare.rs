//! Order of documents, by MySQL's precedence of JSON types.

use std::cmp::Ordering;
use std::hash::{Hash, Hasher};

use super::{Json, JsonKind, JsonRef};
use crate::datum::compare_f64;
use crate::decimal::Decimal;

/// Order of object keys: shorter first, then by bytes.
pub(super) fn keys(a: &str, b: &str) -> Ordering {
    a.len().cmp(&b.len()).then_with(|| a.as_bytes().cmp(b.as_bytes()))
}

/// Precedence of types: a value of a higher one is greater, whatever it is.
fn precedence(kind: JsonKind) -> u8 {
    match kind {
        JsonKind::Null => 0,
        JsonKind::Int | JsonKind::UInt | JsonKind::Double | JsonKind::Decimal => 1,
        JsonKind::String => 2,
        JsonKind::Object => 3,
        JsonKind::Array => 4,
        JsonKind::Bool => 5,
        JsonKind::Date => 6,
        JsonKind::Time => 7,
        JsonKind::DateTime | JsonKind::Timestamp => 8,
        JsonKind::Opaque => 9,
    }
}

impl JsonRef<'_> {
    /// Orders two documents.
    pub fn compare(self, other: JsonRef<'_>) -> Ordering {
        let (a, b) = (self.kind(), other.kind());
        let order = precedence(a).cmp(&precedence(b));
        if order != Ordering::Equal {
            return order;
        }
        match a {
            JsonKind::Null => Ordering::Equal,
            JsonKind::Bool => self.as_bool().cmp(&other.as_bool()),
            JsonKind::String => self.as_str().cmp(&other.as_str()),
            JsonKind::Array => self.compare_arrays(other),
            JsonKind::Object => self.compare_objects(other),
            JsonKind::Date | JsonKind::DateTime | JsonKind::Timestamp => {
                self.as_time().cmp(&other.as_time())
            }
            JsonKind::Time => self.as_duration().cmp(&other.as_duration()),
            JsonKind::Opaque => self.as_opaque().cmp(&other.as_opaque()),
            JsonKind::Int | JsonKind::UInt | JsonKind::Double | JsonKind::Decimal => {
                self.compare_numbers(other)
            }
        }
    }

    fn compare_arrays(self, other: JsonRef<'_>) -> Ordering {
        for (a, b) in self.elements().zip(other.elements()) {
            let order = a.compare(b);
            if order != Ordering::Equal {
                return order;
            }
        }
        self.count().cmp(&other.count())
    }

    /// MySQL leaves the order of unequal objects open; it is total here.
    fn compare_objects(self, other: JsonRef<'_>) -> Ordering {
        let by_count = self.count().cmp(&other.count());
        if by_count != Ordering::Equal {
            return by_count;
        }
        for ((a_key, a), (b_key, b)) in self.members().zip(other.members()) {
            let order = keys(a_key, b_key).then_with(|| a.compare(b));
            if order != Ordering::Equal {
                return order;
            }
        }
        Ordering::Equal
    }

    fn compare_numbers(self, other: JsonRef<'_>) -> Ordering {
        match (self.exact(), other.exact()) {
            (Some(a), Some(b)) => a.cmp(&b),
            _ => compare_f64(self.as_f64().unwrap_or(0.0), other.as_f64().unwrap_or(0.0)),
        }
    }

    fn exact(self) -> Option<Decimal> {
        match self.kind() {
            JsonKind::Int => self.as_i64().map(Decimal::from),
            JsonKind::UInt => self.as_u64().map(Decimal::from),
            JsonKind::Decimal => self.as_decimal(),
            _ => None,
        }
    }
}

impl PartialEq for JsonRef<'_> {
    fn eq(&self, other: &JsonRef<'_>) -> bool {
        self.compare(*other) == Ordering::Equal
    }
}

impl PartialEq for Json {
    fn eq(&self, other: &Json) -> bool {
        self.as_ref() == other.as_ref()
    }
}

impl JsonRef<'_> {
    /// Feeds a hasher so that equal documents hash alike: numbers by their double.
    pub fn hash_to<H: Hasher>(self, state: &mut H) {
        precedence(self.kind()).hash(state);
        match self.kind() {
            JsonKind::Int | JsonKind::UInt | JsonKind::Double | JsonKind::Decimal => {
                // Adding zero makes -0.0 and 0.0 one value.
                (self.as_f64().unwrap_or(0.0) + 0.0).to_bits().hash(state);
            }
            JsonKind::Array => self.elements().for_each(|element| element.hash_to(state)),
            JsonKind::Object => self.members().for_each(|(key, value)| {
                key.hash(state);
                value.hash_to(state);
            }),
            JsonKind::Date | JsonKind::DateTime | JsonKind::Timestamp => {
                self.as_time().hash(state);
            }
            JsonKind::Time => self.as_duration().hash(state),
            _ => self.as_bytes().hash(state),
        }
    }
}

/// Marks before, at and after numbers that a decimal can hold.
const NUMBER_BELOW: u8 = 1;
const NUMBER_DECIMAL: u8 = 2;
const NUMBER_ABOVE: u8 = 3;

impl JsonRef<'_> {
    /// Appends bytes whose order is the order of documents, as one group-encoded
    /// string. Numbers go by decimal value, so `1` and `1.0` are one.
    pub fn encode_key(self, out: &mut Vec<u8>) {
        let mut body = Vec::new();
        self.write_key(&mut body);
        crate::codec::encode_bytes(out, &body);
    }

    fn write_key(self, out: &mut Vec<u8>) {
        use crate::codec::{encode_bytes, encode_decimal, encode_f64, encode_i64, encode_u64};
        out.push(precedence(self.kind()) + 1);
        match self.kind() {
            JsonKind::Null => {}
            JsonKind::Bool => out.push(u8::from(self.as_bool() == Some(true))),
            JsonKind::String => encode_bytes(out, self.as_str().unwrap_or("").as_bytes()),
            JsonKind::Array => {
                self.elements().for_each(|element| element.write_key(out));
                out.push(0);
            }
            JsonKind::Object => {
                encode_u64(out, self.count() as u64);
                for (key, value) in self.members() {
                    encode_u64(out, key.len() as u64);
                    encode_bytes(out, key.as_bytes());
                    value.write_key(out);
                }
            }
            JsonKind::Date | JsonKind::DateTime | JsonKind::Timestamp => {
                encode_u64(out, self.as_time().map_or(0, |time| time.packed() >> 4));
            }
            JsonKind::Time => {
                encode_i64(out, self.as_duration().map_or(0, |duration| duration.micros()));
            }
            JsonKind::Opaque => {
                let (mysql_type, bytes) = self.as_opaque().unwrap_or_default();
                out.push(mysql_type);
                encode_bytes(out, bytes);
            }
            JsonKind::Int | JsonKind::UInt | JsonKind::Double | JsonKind::Decimal => {
                let double = self.as_f64().unwrap_or(0.0);
                let exact = self.exact().or_else(|| Decimal::from_f64(double).ok());
                match exact {
                    Some(value) => {
                        out.push(NUMBER_DECIMAL);
                        encode_decimal(out, &value);
                    }
                    None => {
                        out.push(if double < 0.0 { NUMBER_BELOW } else { NUMBER_ABOVE });
                        encode_f64(out, double);
                    }
                }
            }
        }
    }
}
