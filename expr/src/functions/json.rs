//! JSON functions that look into documents.

use cairn_types::json::{JsonKind, JsonPath, JsonValue, quote, unquote};
use cairn_types::{Datum, Json, JsonRef, TypeError, errno};

use super::like::{Pattern, escape_of};
use crate::context::EvalContext;
use crate::error::{ExprError, Result};
use crate::eval::call::Call;
use crate::func::Func;

pub(crate) fn eval(call: &Call<'_>, _ctx: &mut EvalContext) -> Result<Datum> {
    match call.func {
        Func::JsonExtract => {
            let document = call.json_document(0)?;
            let paths = paths(call, 1)?;
            Ok(document.as_ref().extract(&paths).into())
        }
        Func::JsonValue => {
            let document = call.json_document(0)?;
            let found = document.as_ref().extract(&paths(call, 1)?);
            Ok(found
                .filter(|json| !json.as_ref().is_null())
                .map(|json| json.as_ref().to_unquoted())
                .into())
        }
        Func::JsonUnquote => json_unquote(call),
        Func::JsonQuote => Ok(Datum::from(quote(&call.text(0)))),
        Func::JsonScalar => Ok(Datum::Json(call.json_value(0)?)),
        Func::JsonObject => json_object(call),
        Func::JsonArray => {
            let elements: Result<Vec<Json>> =
                (0..call.len()).map(|at| call.json_value(at)).collect();
            let elements = elements?;
            let array = elements.iter().map(|json| JsonValue::Ref(json.as_ref())).collect();
            Ok(Datum::Json(Json::from_value(&JsonValue::Array(array))))
        }
        Func::JsonContains => {
            let (document, candidate) = (call.json_document(0)?, call.json_document(1)?);
            Ok(at_path(call, &document, 2)?
                .map(|target| i64::from(target.contains(candidate.as_ref())))
                .into())
        }
        Func::JsonContainsPath => contains_path(call),
        Func::JsonLength => {
            let document = call.json_document(0)?;
            Ok(at_path(call, &document, 1)?.map(|target| target.length() as i64).into())
        }
        Func::JsonType => Ok(Datum::from(call.json_document(0)?.as_ref().type_name())),
        Func::JsonValid => Ok(Datum::bool(match call.value(0) {
            Datum::Json(_) => true,
            Datum::Bytes(bytes) => Json::parse_text(bytes).is_ok(),
            _ => false,
        })),
        Func::JsonKeys => {
            let document = call.json_document(0)?;
            Ok(at_path(call, &document, 1)?.and_then(JsonRef::keys).into())
        }
        Func::JsonDepth => Ok(Datum::Int(call.json_document(0)?.as_ref().depth() as i64)),
        Func::JsonSearch => search(call),
        Func::JsonPretty => Ok(Datum::from(call.json_document(0)?.as_ref().to_pretty())),
        // value MEMBER OF(array)
        Func::JsonMemberOf => {
            let (value, document) = (call.json_value(0)?, call.json_document(1)?);
            Ok(Datum::bool(document.as_ref().has_member(value.as_ref())))
        }
        Func::JsonOverlaps => {
            let (a, b) = (call.json_document(0)?, call.json_document(1)?);
            Ok(Datum::bool(a.as_ref().overlaps(b.as_ref())))
        }
        _ => Ok(Datum::Int(call.json_document(0)?.as_bytes().len() as i64)),
    }
}

/// A path argument.
pub(crate) fn path(call: &Call<'_>, at: usize) -> Result<JsonPath> {
    Ok(JsonPath::parse(&call.text(at))?)
}

/// All arguments from `from` on as paths.
fn paths(call: &Call<'_>, from: usize) -> Result<Vec<JsonPath>> {
    (from..call.len()).map(|at| path(call, at)).collect()
}

/// The document, or what an optional path without wildcards names in it.
fn at_path<'a>(call: &Call<'_>, document: &'a Json, at: usize) -> Result<Option<JsonRef<'a>>> {
    if at >= call.len() {
        return Ok(Some(document.as_ref()));
    }
    let path = path(call, at)?;
    if path.has_wildcard() {
        return Err(TypeError::JsonPathWildcard.into());
    }
    Ok(document.as_ref().find(&path).first().copied())
}

/// A JSON string without quotes; any other JSON value as its text.
fn json_unquote(call: &Call<'_>) -> Result<Datum> {
    match call.value(0) {
        Datum::Json(json) => Ok(Datum::from(json.as_ref().to_unquoted())),
        _ => Ok(Datum::from(unquote(&call.text(0))?)),
    }
}

fn json_object(call: &Call<'_>) -> Result<Datum> {
    let mut members = Vec::with_capacity(call.len() / 2);
    for at in (0..call.len()).step_by(2) {
        if call.is_null(at) {
            return Err(ExprError::mysql(errno::ER_JSON_DOCUMENT_NULL_KEY, &[]));
        }
        members.push((call.text(at), call.json_value(at + 1)?));
    }
    let members = members.iter().map(|(key, json)| (key.clone(), JsonValue::Ref(json.as_ref())));
    Ok(Datum::Json(Json::from_value(&JsonValue::Object(members.collect()))))
}

/// `'one'` or `'all'`.
fn is_one(call: &Call<'_>, at: usize) -> Result<bool> {
    match call.text(at).to_ascii_lowercase().as_str() {
        "one" => Ok(true),
        "all" => Ok(false),
        _ => Err(ExprError::mysql(errno::ER_JSON_BAD_ONE_OR_ALL_ARG, &[&call.func.name()])),
    }
}

fn contains_path(call: &Call<'_>) -> Result<Datum> {
    let document = call.json_document(0)?;
    let one = is_one(call, 1)?;
    let paths = paths(call, 2)?;
    let mut found = paths.iter().map(|path| !document.as_ref().find(path).is_empty());
    Ok(Datum::bool(if one { found.any(|found| found) } else { found.all(|found| found) }))
}

/// JSON_SEARCH(document, one or all, pattern [, escape [, path …]]).
fn search(call: &Call<'_>) -> Result<Datum> {
    let required_null = (0..3).chain(4..call.len()).any(|at| call.is_null(at));
    if required_null {
        return Ok(Datum::Null);
    }
    let document = call.json_document(0)?;
    let one = is_one(call, 1)?;
    let escape = match call.values.get(3) {
        None | Some(Datum::Null) => Some('\\'),
        value => escape_of(value).or(Some('\\')),
    };
    // Strings in JSON compare as utf8mb4_bin.
    let pattern = Pattern::new(&call.bytes(2), escape, cairn_types::Collation::UTF8MB4_BIN);
    let mut matches = |text: &str| pattern.matches(text.as_bytes());
    let within = paths(call, 4)?;
    let mut found = document.as_ref().search(one && within.is_empty(), &mut matches);
    if !within.is_empty() {
        let mut places = Vec::new();
        for path in &within {
            places
                .extend(document.as_ref().find(path).iter().map(|place| place.as_bytes().as_ptr()));
        }
        // A match counts if it lies in one of the places.
        let inside = |text: &String| {
            JsonPath::parse(text).is_ok_and(|path| {
                (0..=path.legs().len()).any(|len| {
                    let prefix = prefix_of(&document, &path, len);
                    prefix.is_some_and(|place| places.contains(&place.as_bytes().as_ptr()))
                })
            })
        };
        found.retain(inside);
        if one {
            found.truncate(1);
        }
    }
    Ok(match found.as_slice() {
        [] => Datum::Null,
        [only] => Datum::Json(Json::string(only)),
        all => {
            let all = all.iter().map(|text| JsonValue::String(text.as_str().into())).collect();
            Datum::Json(Json::from_value(&JsonValue::Array(all)))
        }
    })
}

/// The value the first `len` steps of a path lead to.
fn prefix_of<'a>(document: &'a Json, path: &JsonPath, len: usize) -> Option<JsonRef<'a>> {
    use cairn_types::json::{ArrayIndex, PathLeg};
    let mut place = document.as_ref();
    for leg in &path.legs()[..len] {
        place = match leg {
            PathLeg::Member(key) => place.member(key)?,
            PathLeg::Index(ArrayIndex::First(at)) => place.element(*at as usize)?,
            _ => return None,
        };
    }
    debug_assert!(place.kind() != JsonKind::Opaque || len > 0 || document.as_ref().count() == 0);
    Some(place)
}
