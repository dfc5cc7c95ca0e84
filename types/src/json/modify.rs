//! JSON_SET and its family, and merging.

use std::borrow::Cow;

use super::path::{ArrayIndex, JsonPath, PathLeg};
use super::{DEPTH_MAX, Json, JsonKind, JsonRef, JsonValue};
use crate::error::{Result, TypeError};

/// What a modification does at the place its path names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Modify {
    /// JSON_SET: replaces or adds.
    Set,
    /// JSON_INSERT: only adds.
    Insert,
    /// JSON_REPLACE: only replaces.
    Replace,
    /// JSON_ARRAY_APPEND: adds at the end of the array there.
    ArrayAppend,
    /// JSON_ARRAY_INSERT: moves what is there to the right.
    ArrayInsert,
}

/// The step at the end of a path, as the recursion sees it.
#[derive(Clone, Copy)]
enum Action<'v, 'a> {
    Write(Modify, &'v JsonValue<'a>),
    Remove,
}

impl<'a> JsonRef<'a> {
    /// Applies one change. The path names one place: no wildcards.
    pub fn modify(self, path: &JsonPath, how: Modify, value: JsonRef<'a>) -> Result<Json> {
        if path.has_wildcard() {
            return Err(TypeError::JsonPathWildcard);
        }
        let cell = matches!(path.legs().last(), Some(PathLeg::Index(_)));
        if how == Modify::ArrayInsert && !cell {
            return Err(TypeError::InvalidJsonPath { position: 0 });
        }
        let new = JsonValue::Ref(value);
        let changed = apply(JsonValue::Ref(self), path.legs(), Action::Write(how, &new));
        finish(&changed)
    }

    /// JSON_REMOVE of one place.
    pub fn remove(self, path: &JsonPath) -> Result<Json> {
        if path.has_wildcard() {
            return Err(TypeError::JsonPathWildcard);
        }
        if path.legs().is_empty() {
            return Err(TypeError::JsonVacuousPath);
        }
        finish(&apply(JsonValue::Ref(self), path.legs(), Action::Remove))
    }
}

fn finish(value: &JsonValue<'_>) -> Result<Json> {
    let json = Json::from_value(value);
    if json.as_ref().depth() > DEPTH_MAX { Err(TypeError::JsonTooDeep) } else { Ok(json) }
}

fn apply<'a>(value: JsonValue<'a>, legs: &[PathLeg], action: Action<'_, 'a>) -> JsonValue<'a> {
    let Some((leg, rest)) = legs.split_first() else {
        return at_place(value, action);
    };
    match leg {
        PathLeg::Member(key) => apply_member(value.open(), key, rest, action),
        PathLeg::Index(index) => apply_index(value.open(), *index, rest, action),
        // Refused before the recursion starts.
        _ => value,
    }
}

/// The place exists.
fn at_place<'a>(value: JsonValue<'a>, action: Action<'_, 'a>) -> JsonValue<'a> {
    match action {
        Action::Write(Modify::Set | Modify::Replace, new) => new.clone(),
        Action::Write(Modify::ArrayAppend, new) => match value.open() {
            JsonValue::Array(mut elements) => {
                elements.push(new.clone());
                JsonValue::Array(elements)
            }
            single => JsonValue::Array(vec![single, new.clone()]),
        },
        _ => value,
    }
}

/// The value to add at a missing place, if the action adds and the path ends.
fn addition<'a>(rest: &[PathLeg], action: Action<'_, 'a>) -> Option<JsonValue<'a>> {
    match action {
        Action::Write(Modify::Set | Modify::Insert, new) if rest.is_empty() => Some(new.clone()),
        _ => None,
    }
}

fn apply_member<'a>(
    value: JsonValue<'a>,
    key: &str,
    rest: &[PathLeg],
    action: Action<'_, 'a>,
) -> JsonValue<'a> {
    let JsonValue::Object(mut members) = value else { return value };
    match members.iter().position(|(own, _)| own == key) {
        Some(at) if rest.is_empty() && matches!(action, Action::Remove) => {
            members.remove(at);
        }
        Some(at) => {
            let own = std::mem::replace(&mut members[at].1, JsonValue::Null);
            members[at].1 = apply(own, rest, action);
        }
        None => {
            if let Some(new) = addition(rest, action) {
                members.push((Cow::Owned(key.to_owned()), new));
            }
        }
    }
    JsonValue::Object(members)
}

fn apply_index<'a>(
    value: JsonValue<'a>,
    index: ArrayIndex,
    rest: &[PathLeg],
    action: Action<'_, 'a>,
) -> JsonValue<'a> {
    let JsonValue::Array(mut elements) = value else {
        return apply_single(value, index, rest, action);
    };
    let position = index.resolve(elements.len());
    if rest.is_empty()
        && let Action::Write(Modify::ArrayInsert, new) = action
    {
        let at = position.clamp(0, elements.len() as i64) as usize;
        elements.insert(at, new.clone());
        return JsonValue::Array(elements);
    }
    match usize::try_from(position) {
        Ok(at) if at < elements.len() => {
            if rest.is_empty() && matches!(action, Action::Remove) {
                elements.remove(at);
            } else {
                let own = std::mem::replace(&mut elements[at], JsonValue::Null);
                elements[at] = apply(own, rest, action);
            }
        }
        past => {
            if let Some(new) = addition(rest, action) {
                let at = if past.is_ok() { elements.len() } else { 0 };
                elements.insert(at, new);
            }
        }
    }
    JsonValue::Array(elements)
}

/// A value that is no array counts as an array of one.
fn apply_single<'a>(
    value: JsonValue<'a>,
    index: ArrayIndex,
    rest: &[PathLeg],
    action: Action<'_, 'a>,
) -> JsonValue<'a> {
    let position = index.resolve(1);
    if position == 0 {
        let inserts = matches!(action, Action::Write(Modify::ArrayInsert, _) | Action::Remove);
        return if inserts && rest.is_empty() { value } else { apply(value, rest, action) };
    }
    match addition(rest, action) {
        Some(new) if position > 0 => JsonValue::Array(vec![value, new]),
        Some(new) => JsonValue::Array(vec![new, value]),
        None => value,
    }
}

/// JSON_MERGE_PATCH (RFC 7396).
pub fn merge_patch(target: JsonRef<'_>, patch: JsonRef<'_>) -> Result<Json> {
    finish(&patched(Some(target), patch))
}

fn patched<'a>(target: Option<JsonRef<'a>>, patch: JsonRef<'a>) -> JsonValue<'a> {
    if patch.kind() != JsonKind::Object {
        return JsonValue::Ref(patch);
    }
    let target = target.filter(|target| target.kind() == JsonKind::Object);
    let mut members: Vec<(Cow<'a, str>, JsonValue<'a>)> = Vec::new();
    if let Some(target) = target {
        let kept = target.members().filter(|(key, _)| patch.member(key).is_none());
        members.extend(kept.map(|(key, value)| (Cow::Borrowed(key), JsonValue::Ref(value))));
    }
    for (key, value) in patch.members().filter(|(_, value)| !value.is_null()) {
        let own = target.and_then(|target| target.member(key));
        members.push((Cow::Borrowed(key), patched(own, value)));
    }
    JsonValue::Object(members)
}

/// JSON_MERGE_PRESERVE of two documents: arrays join, objects join member by
/// member, anything else becomes an array.
pub fn merge_preserve(a: JsonRef<'_>, b: JsonRef<'_>) -> Result<Json> {
    finish(&preserved(a, b))
}

fn preserved<'a>(a: JsonRef<'a>, b: JsonRef<'a>) -> JsonValue<'a> {
    if a.kind() == JsonKind::Object && b.kind() == JsonKind::Object {
        let mut members: Vec<(Cow<'a, str>, JsonValue<'a>)> = Vec::new();
        for (key, own) in a.members() {
            let merged = match b.member(key) {
                Some(other) => preserved(own, other),
                None => JsonValue::Ref(own),
            };
            members.push((Cow::Borrowed(key), merged));
        }
        let new = b.members().filter(|(key, _)| a.member(key).is_none());
        members.extend(new.map(|(key, value)| (Cow::Borrowed(key), JsonValue::Ref(value))));
        return JsonValue::Object(members);
    }
    let as_array = |json: JsonRef<'a>| match JsonValue::Ref(json).open() {
        JsonValue::Array(elements) => elements,
        _ => vec![JsonValue::Ref(json)],
    };
    let mut elements = as_array(a);
    elements.extend(as_array(b));
    JsonValue::Array(elements)
}
