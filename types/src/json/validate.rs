//! Checks of the binary form before anything trusts it.

use super::compare::keys;
use super::{ARRAY_ENTRY, CONTAINER_HEADER, DEPTH_MAX, JsonRef, OBJECT_ENTRY, tag};
use crate::error::{Result, TypeError};

const CORRUPTED: TypeError = TypeError::Corrupted("json");

/// Checks that `bytes` are exactly one document.
pub(super) fn validate(bytes: &[u8]) -> Result<()> {
    if value(bytes, 1)? == bytes.len() { Ok(()) } else { Err(CORRUPTED) }
}

/// Length of the valid value at the front of `bytes`.
fn value(bytes: &[u8], depth: usize) -> Result<usize> {
    if depth > DEPTH_MAX {
        return Err(TypeError::JsonTooDeep);
    }
    let tag = *bytes.first().ok_or(CORRUPTED)?;
    let len = JsonRef::from_trusted(bytes).encoded_len();
    let bytes = bytes.get(..len).ok_or(CORRUPTED)?;
    let json = JsonRef::from_trusted(bytes);
    let ok = match tag {
        tag::NULL | tag::TRUE | tag::FALSE | tag::INT | tag::UINT | tag::OPAQUE => true,
        tag::DOUBLE => json.as_f64().is_some_and(f64::is_finite),
        tag::STRING => json.as_str().is_some(),
        tag::DECIMAL => json.as_decimal().is_some(),
        tag::DATE | tag::DATETIME | tag::TIMESTAMP => json.as_time().is_some(),
        tag::DURATION => json.as_duration().is_some(),
        tag::ARRAY => return array(json, depth).map(|()| len),
        tag::OBJECT => return object(json, depth).map(|()| len),
        _ => false,
    };
    if ok { Ok(len) } else { Err(CORRUPTED) }
}

/// End of the entry table of a container, if it lies within it.
fn table_end(json: JsonRef<'_>, entry: usize) -> Result<usize> {
    let end = json.count().checked_mul(entry).and_then(|size| size.checked_add(CONTAINER_HEADER));
    end.filter(|end| *end <= json.bytes.len()).ok_or(CORRUPTED)
}

fn array(json: JsonRef<'_>, depth: usize) -> Result<()> {
    let mut at = table_end(json, ARRAY_ENTRY)?;
    for i in 0..json.count() {
        at = element(json, json.u32_at(CONTAINER_HEADER + i * ARRAY_ENTRY), at, depth)?;
    }
    if at == json.bytes.len() { Ok(()) } else { Err(CORRUPTED) }
}

/// Checks the value at `offset`, which must be `expected`; returns its end.
fn element(json: JsonRef<'_>, offset: usize, expected: usize, depth: usize) -> Result<usize> {
    if offset != expected {
        return Err(CORRUPTED);
    }
    let rest = json.bytes.get(offset..).ok_or(CORRUPTED)?;
    Ok(offset + value(rest, depth + 1)?)
}

fn object(json: JsonRef<'_>, depth: usize) -> Result<()> {
    let mut at = table_end(json, OBJECT_ENTRY)?;
    let mut previous: Option<&str> = None;
    for i in 0..json.count() {
        let start = json.u32_at(CONTAINER_HEADER + i * OBJECT_ENTRY);
        let key = json.key_at(i).ok_or(CORRUPTED)?;
        let ascending = previous.is_none_or(|previous| keys(previous, key).is_lt());
        if start != at || !ascending {
            return Err(CORRUPTED);
        }
        at += key.len();
        previous = Some(key);
    }
    for i in 0..json.count() {
        let offset = json.u32_at(CONTAINER_HEADER + i * OBJECT_ENTRY + 6);
        at = element(json, offset, at, depth)?;
    }
    if at == json.bytes.len() { Ok(()) } else { Err(CORRUPTED) }
}
