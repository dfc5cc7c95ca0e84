//! JSON functions that change or merge documents.

use cairn_types::json::{Modify, merge_patch, merge_preserve};
use cairn_types::{Datum, Json};

use super::json::path;
use crate::context::EvalContext;
use crate::error::Result;
use crate::eval::call::Call;
use crate::func::Func;

pub(crate) fn eval(call: &Call<'_>, _ctx: &mut EvalContext) -> Result<Datum> {
    let how = match call.func {
        Func::JsonSet => Modify::Set,
        Func::JsonInsert => Modify::Insert,
        Func::JsonReplace => Modify::Replace,
        Func::JsonArrayAppend => Modify::ArrayAppend,
        Func::JsonArrayInsert => Modify::ArrayInsert,
        Func::JsonRemove => return remove(call),
        func => return merge(call, func),
    };
    // A NULL document or path gives NULL; a NULL value is JSON null.
    if call.is_null(0) {
        return Ok(Datum::Null);
    }
    let mut document = call.json_document(0)?;
    for at in (1..call.len()).step_by(2) {
        if call.is_null(at) {
            return Ok(Datum::Null);
        }
        let value = call.json_value(at + 1)?;
        document = document.as_ref().modify(&path(call, at)?, how, value.as_ref())?;
    }
    Ok(Datum::Json(document))
}

fn remove(call: &Call<'_>) -> Result<Datum> {
    let mut document = call.json_document(0)?;
    for at in 1..call.len() {
        document = document.as_ref().remove(&path(call, at)?)?;
    }
    Ok(Datum::Json(document))
}

/// JSON_MERGE_PATCH forgets what came before a NULL; JSON_MERGE_PRESERVE never
/// sees one.
fn merge(call: &Call<'_>, func: Func) -> Result<Datum> {
    let mut merged: Option<Json> = None;
    for at in 0..call.len() {
        if call.is_null(at) {
            merged = None;
            if at > 0 {
                continue;
            }
        } else {
            let next = call.json_document(at)?;
            merged = Some(match merged {
                Some(held) if func == Func::JsonMergePatch => {
                    merge_patch(held.as_ref(), next.as_ref())?
                }
                Some(held) => merge_preserve(held.as_ref(), next.as_ref())?,
                None if at == 0 => next,
                // A patch that is no object replaces even NULL; an object cannot
                // be applied to it.
                None if next.as_ref().kind() == cairn_types::json::JsonKind::Object => continue,
                None => next,
            });
        }
    }
    Ok(merged.into())
}
