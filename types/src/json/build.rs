//! Building documents: from text, and from parts of other documents.

use std::borrow::Cow;

use super::{ARRAY_ENTRY, CONTAINER_HEADER, DEPTH_MAX, Json, JsonRef, OBJECT_ENTRY, compare, tag};
use crate::decimal::Decimal;
use crate::error::{Result, TypeError};
use crate::time::{Duration, Time, TimeKind};

/// A document under construction; parts of existing documents are borrowed.
#[derive(Clone, Debug)]
#[allow(missing_docs)] // JSON's own names.
pub enum JsonValue<'a> {
    Null,
    Bool(bool),
    Int(i64),
    UInt(u64),
    Double(f64),
    Decimal(Decimal),
    String(Cow<'a, str>),
    Time(Time),
    Duration(Duration),
    /// MySQL type byte and bytes.
    Opaque(u8, Cow<'a, [u8]>),
    Array(Vec<JsonValue<'a>>),
    /// Members in any order; of equal keys the last one stays.
    Object(Vec<(Cow<'a, str>, JsonValue<'a>)>),
    /// A part of another document.
    Ref(JsonRef<'a>),
}

impl<'a> JsonValue<'a> {
    /// Appends the binary form.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            JsonValue::Null => out.push(tag::NULL),
            JsonValue::Bool(value) => out.push(if *value { tag::TRUE } else { tag::FALSE }),
            JsonValue::Int(value) => word(tag::INT, *value as u64, out),
            JsonValue::UInt(value) => word(tag::UINT, *value, out),
            JsonValue::Double(value) => word(tag::DOUBLE, value.to_bits(), out),
            JsonValue::Decimal(value) => sized(tag::DECIMAL, value.to_string().as_bytes(), out),
            JsonValue::String(value) => sized(tag::STRING, value.as_bytes(), out),
            JsonValue::Time(value) => {
                let tag = match value.kind() {
                    TimeKind::Date => tag::DATE,
                    TimeKind::DateTime => tag::DATETIME,
                    TimeKind::Timestamp => tag::TIMESTAMP,
                };
                word(tag, value.packed(), out);
            }
            JsonValue::Duration(value) => {
                word(tag::DURATION, value.micros() as u64, out);
                out.push(value.fsp());
            }
            JsonValue::Opaque(mysql_type, bytes) => {
                out.extend_from_slice(&[tag::OPAQUE, *mysql_type]);
                out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
                out.extend_from_slice(bytes);
            }
            JsonValue::Array(elements) => array(elements, out),
            JsonValue::Object(members) => object(members, out),
            JsonValue::Ref(json) if json.as_bytes().is_empty() => out.push(tag::NULL),
            JsonValue::Ref(json) => out.extend_from_slice(json.as_bytes()),
        }
    }

    /// Opens a borrowed array into its elements; other values stay.
    pub(super) fn open(self) -> JsonValue<'a> {
        match self {
            JsonValue::Ref(json) if json.tag() == tag::ARRAY => {
                JsonValue::Array(json.elements().map(JsonValue::Ref).collect())
            }
            JsonValue::Ref(json) if json.tag() == tag::OBJECT => JsonValue::Object(
                json.members()
                    .map(|(key, value)| (Cow::Borrowed(key), JsonValue::Ref(value)))
                    .collect(),
            ),
            other => other,
        }
    }
}

fn word(tag: u8, word: u64, out: &mut Vec<u8>) {
    out.push(tag);
    out.extend_from_slice(&word.to_le_bytes());
}

fn sized(tag: u8, bytes: &[u8], out: &mut Vec<u8>) {
    out.push(tag);
    out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    out.extend_from_slice(bytes);
}

/// Writes the header of a container and room for its entries.
fn header(tag: u8, count: usize, entry: usize, out: &mut Vec<u8>) {
    out.push(tag);
    out.extend_from_slice(&(count as u32).to_le_bytes());
    out.resize(out.len() + CONTAINER_HEADER - 5 + count * entry, 0);
}

fn patch_u32(out: &mut [u8], at: usize, value: usize) {
    out[at..at + 4].copy_from_slice(&(value as u32).to_le_bytes());
}

fn array(elements: &[JsonValue<'_>], out: &mut Vec<u8>) {
    let start = out.len();
    header(tag::ARRAY, elements.len(), ARRAY_ENTRY, out);
    for (i, element) in elements.iter().enumerate() {
        let offset = out.len() - start;
        patch_u32(out, start + CONTAINER_HEADER + i * ARRAY_ENTRY, offset);
        element.encode(out);
    }
    let size = out.len() - start;
    patch_u32(out, start + 5, size);
}

/// Longest key; the entry has 16 bits for it. Longer ones are cut.
const KEY_LEN_MAX: usize = u16::MAX as usize;

fn object(members: &[(Cow<'_, str>, JsonValue<'_>)], out: &mut Vec<u8>) {
    let mut sorted: Vec<(&str, &JsonValue<'_>)> =
        members.iter().map(|(key, value)| (cut_key(key), value)).collect();
    // Stable: of equal keys the last in the text is the last here.
    sorted.sort_by(|(a, _), (b, _)| compare::keys(a, b));
    sorted.reverse();
    sorted.dedup_by(|later, first| later.0 == first.0);
    sorted.reverse();

    let start = out.len();
    header(tag::OBJECT, sorted.len(), OBJECT_ENTRY, out);
    for (i, (key, _)) in sorted.iter().enumerate() {
        let entry = start + CONTAINER_HEADER + i * OBJECT_ENTRY;
        let offset = out.len() - start;
        patch_u32(out, entry, offset);
        out[entry + 4..entry + 6].copy_from_slice(&(key.len() as u16).to_le_bytes());
        out.extend_from_slice(key.as_bytes());
    }
    for (i, (_, value)) in sorted.iter().enumerate() {
        let offset = out.len() - start;
        patch_u32(out, start + CONTAINER_HEADER + i * OBJECT_ENTRY + 6, offset);
        value.encode(out);
    }
    let size = out.len() - start;
    patch_u32(out, start + 5, size);
}

fn cut_key(key: &str) -> &str {
    let mut end = key.len().min(KEY_LEN_MAX);
    while !key.is_char_boundary(end) {
        end -= 1;
    }
    &key[..end]
}

/// Parses text into a document.
pub(super) fn parse_text(text: &[u8]) -> Result<Json> {
    if text.trim_ascii().is_empty() {
        return Err(TypeError::InvalidJson {
            reason: "The document is empty.".into(),
            position: 0,
        });
    }
    let value: serde_json::Value = serde_json::from_slice(text).map_err(|error| {
        if error.to_string().starts_with("recursion limit") {
            return TypeError::JsonTooDeep;
        }
        TypeError::InvalidJson { reason: reason(&error), position: position(text, &error) }
    })?;
    let value = convert(&value, 1)?;
    Ok(Json::from_value(&value))
}

/// serde_json's complaint in RapidJSON's words, which MySQL shows.
fn reason(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let known = [
        ("trailing characters", "The document root must not be followed by other values."),
        ("key must be a string", "Missing a name for object member."),
        ("expected `:`", "Missing a colon after a name of object member."),
        ("expected `,` or `}`", "Missing a comma or '}' after an object member."),
        ("expected `,` or `]`", "Missing a comma or ']' after an array element."),
        ("EOF while parsing a string", "Missing a closing quotation mark in string."),
        ("EOF while parsing an object", "Missing a comma or '}' after an object member."),
        ("EOF while parsing a list", "Missing a comma or ']' after an array element."),
        ("invalid escape", "Invalid escape character in string."),
        ("invalid number", "Invalid value."),
    ];
    let found = known.iter().find(|(own, _)| text.starts_with(own));
    found.map_or("Invalid value.", |(_, mysql)| mysql).to_owned()
}

/// Byte offset of an error that names line and column.
fn position(text: &[u8], error: &serde_json::Error) -> usize {
    let before: usize = text
        .split_inclusive(|byte| *byte == b'\n')
        .take(error.line().saturating_sub(1))
        .map(<[u8]>::len)
        .sum();
    (before + error.column().saturating_sub(1)).min(text.len())
}

fn convert(value: &serde_json::Value, depth: usize) -> Result<JsonValue<'_>> {
    if depth > DEPTH_MAX {
        return Err(TypeError::JsonTooDeep);
    }
    Ok(match value {
        serde_json::Value::Null => JsonValue::Null,
        serde_json::Value::Bool(value) => JsonValue::Bool(*value),
        serde_json::Value::Number(number) => convert_number(number)?,
        serde_json::Value::String(text) => JsonValue::String(Cow::Borrowed(text)),
        serde_json::Value::Array(elements) => JsonValue::Array(
            elements.iter().map(|element| convert(element, depth + 1)).collect::<Result<_>>()?,
        ),
        serde_json::Value::Object(members) => JsonValue::Object(
            members
                .iter()
                .map(|(key, value)| Ok((Cow::Borrowed(key.as_str()), convert(value, depth + 1)?)))
                .collect::<Result<_>>()?,
        ),
    })
}

fn convert_number(number: &serde_json::Number) -> Result<JsonValue<'static>> {
    if let Some(value) = number.as_i64() {
        return Ok(JsonValue::Int(value));
    }
    if let Some(value) = number.as_u64() {
        return Ok(JsonValue::UInt(value));
    }
    let value = number.as_f64().filter(|value| value.is_finite());
    value.map(JsonValue::Double).ok_or_else(|| TypeError::InvalidJson {
        reason: "Number too big to be stored in double.".into(),
        position: 0,
    })
}
