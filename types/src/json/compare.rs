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
    pub fn hash<H: Hasher>(self, state: &mut H) {
        precedence(self.kind()).hash(state);
        match self.kind() {
            JsonKind::Int | JsonKind::UInt | JsonKind::Double | JsonKind::Decimal => {
                // Adding zero makes -0.0 and 0.0 one value.
                (self.as_f64().unwrap_or(0.0) + 0.0).to_bits().hash(state);
            }
            JsonKind::Array => self.elements().for_each(|element| element.hash(state)),
            JsonKind::Object => self.members().for_each(|(key, value)| {
                key.hash(state);
                value.hash(state);
            }),
            JsonKind::Date | JsonKind::DateTime | JsonKind::Timestamp => {
                self.as_time().hash(state);
            }
            JsonKind::Time => self.as_duration().hash(state),
            _ => self.as_bytes().hash(state),
        }
    }
}
