//! FIELD, ELT, FIND_IN_SET, MAKE_SET, EXPORT_SET.

use std::cmp::Ordering;

use cairn_types::{Datum, compare};

use crate::context::EvalContext;
use crate::error::Result;
use crate::eval::call::Call;
use crate::func::Func;

/// Bits of a set.
const BITS: usize = 64;

pub(crate) fn eval(call: &Call<'_>, ctx: &mut EvalContext) -> Result<Datum> {
    match call.func {
        Func::Field => Ok(field(call)),
        Func::Elt => elt(call, ctx),
        Func::FindInSet => Ok(find_in_set(call)),
        Func::MakeSet => make_set(call, ctx),
        _ => export_set(call, ctx),
    }
}

/// Place of the first argument among the others, from 1; 0 if there is none.
fn field(call: &Call<'_>) -> Datum {
    let wanted = call.value(0);
    if wanted.is_null() {
        return Datum::Int(0);
    }
    let same = |value: &Datum| compare(value, wanted, call.collation()) == Ordering::Equal;
    let found = call.values[1..].iter().position(same);
    Datum::Int(found.map_or(0, |at| at as i64 + 1))
}

fn elt(call: &Call<'_>, ctx: &mut EvalContext) -> Result<Datum> {
    if call.is_null(0) {
        return Ok(Datum::Null);
    }
    let at = usize::try_from(call.int(0, ctx)?).unwrap_or(0);
    if at == 0 || at >= call.len() || call.is_null(at) {
        return Ok(Datum::Null);
    }
    Ok(Datum::Bytes(call.bytes(at).into_owned()))
}

fn find_in_set(call: &Call<'_>) -> Datum {
    let (wanted, list) = (call.bytes(0), call.bytes(1));
    if list.is_empty() || wanted.contains(&b',') {
        return Datum::Int(0);
    }
    let mut members = list.split(|byte| *byte == b',');
    let found = members.position(|member| call.collation().equals(member, &wanted));
    Datum::Int(found.map_or(0, |at| at as i64 + 1))
}

fn make_set(call: &Call<'_>, ctx: &mut EvalContext) -> Result<Datum> {
    if call.is_null(0) {
        return Ok(Datum::Null);
    }
    let bits = call.bits(0, ctx)?;
    let mut out = Vec::new();
    let mut first = true;
    for at in 1..call.len().min(BITS + 1) {
        if bits >> (at - 1) & 1 == 1 && !call.is_null(at) {
            if !first {
                out.push(b',');
            }
            first = false;
            out.extend_from_slice(&call.bytes(at));
        }
    }
    Ok(Datum::Bytes(out))
}

/// EXPORT_SET(bits, on, off [, separator [, number of bits]]).
fn export_set(call: &Call<'_>, ctx: &mut EvalContext) -> Result<Datum> {
    let bits = call.bits(0, ctx)?;
    let (on, off) = (call.bytes(1), call.bytes(2));
    let separator = if call.len() > 3 { call.bytes(3) } else { b",".as_slice().into() };
    let count = if call.len() > 4 { call.int(4, ctx)? } else { BITS as i64 };
    let count = usize::try_from(count).unwrap_or(BITS).min(BITS);
    let bytes = (on.len().max(off.len()) + separator.len()) as u64 * count as u64;
    if !call.checked_len(bytes, ctx) {
        return Ok(Datum::Null);
    }
    let mut out = Vec::new();
    for at in 0..count {
        if at > 0 {
            out.extend_from_slice(&separator);
        }
        out.extend_from_slice(if bits >> at & 1 == 1 { &on } else { &off });
    }
    Ok(Datum::Bytes(out))
}
