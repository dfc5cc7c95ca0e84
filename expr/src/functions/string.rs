//! String functions that cut, join, pad and search.
//!
//! Positions and lengths count characters of text and bytes of byte strings.
//! Results over `max_allowed_packet` are NULL with warning 1301.

use std::borrow::Cow;

use cairn_types::{Collation, Datum};

use super::cast::char_end;
use crate::context::EvalContext;
use crate::error::Result;
use crate::eval::call::Call;
use crate::eval::kernels::text::count_chars;
use crate::func::Func;

pub(crate) fn eval(call: &Call<'_>, ctx: &mut EvalContext) -> Result<Datum> {
    match call.func {
        Func::Concat => concat(call, ctx),
        Func::ConcatWs => concat_ws(call, ctx),
        Func::Length => Ok(Datum::Int(call.bytes(0).len() as i64)),
        Func::BitLength => Ok(Datum::Int(call.bytes(0).len() as i64 * 8)),
        Func::CharLength => Ok(Datum::Int(length(call, 0) as i64)),
        Func::Upper | Func::Lower => Ok(change_case(call)),
        Func::Left | Func::Right => left_right(call, ctx),
        Func::Substring => substring(call, ctx),
        Func::SubstringIndex => substring_index(call, ctx),
        Func::Trim | Func::Ltrim | Func::Rtrim => trim(call, ctx),
        Func::Lpad | Func::Rpad => pad(call, ctx),
        Func::Repeat | Func::Space => repeat(call, ctx),
        Func::Replace => replace(call, ctx),
        Func::Reverse => Ok(reverse(call)),
        Func::Instr | Func::Locate => locate(call, ctx),
        _ => insert(call, ctx),
    }
}

/// Length in characters, or bytes of a byte string.
fn length(call: &Call<'_>, at: usize) -> usize {
    let text = call.bytes(at);
    if call.is_binary(at) { text.len() } else { count_chars(&text) }
}

/// Byte offset after `chars` characters of argument `at`.
fn offset(call: &Call<'_>, at: usize, text: &[u8], chars: usize) -> usize {
    if call.is_binary(at) { chars.min(text.len()) } else { char_end(text, chars) }
}

fn concat(call: &Call<'_>, ctx: &mut EvalContext) -> Result<Datum> {
    let mut out = Vec::new();
    for at in 0..call.len() {
        out.extend_from_slice(&call.bytes(at));
    }
    Ok(if call.checked_len(out.len() as u64, ctx) { Datum::Bytes(out) } else { Datum::Null })
}

/// NULL arguments are left out; a NULL separator gives NULL.
fn concat_ws(call: &Call<'_>, ctx: &mut EvalContext) -> Result<Datum> {
    if call.is_null(0) {
        return Ok(Datum::Null);
    }
    let separator = call.bytes(0);
    let mut out = Vec::new();
    let mut first = true;
    for at in (1..call.len()).filter(|at| !call.is_null(*at)) {
        if !first {
            out.extend_from_slice(&separator);
        }
        first = false;
        out.extend_from_slice(&call.bytes(at));
    }
    Ok(if call.checked_len(out.len() as u64, ctx) { Datum::Bytes(out) } else { Datum::Null })
}

fn change_case(call: &Call<'_>) -> Datum {
    // Bytes have no case.
    if call.is_binary(0) {
        return Datum::Bytes(call.bytes(0).into_owned());
    }
    let bytes = call.bytes(0);
    let upper = call.func == Func::Upper;
    if bytes.is_ascii() {
        let bytes = bytes.into_owned();
        return Datum::Bytes(if upper {
            bytes.to_ascii_uppercase()
        } else {
            bytes.to_ascii_lowercase()
        });
    }
    // One character for one: MySQL leaves ß as it is.
    let text = String::from_utf8_lossy(&bytes);
    let map = |c: char| {
        let one = |mut mapped: Box<dyn Iterator<Item = char>>| {
            let first = mapped.next().unwrap_or(c);
            if mapped.next().is_some() { c } else { first }
        };
        if upper { one(Box::new(c.to_uppercase())) } else { one(Box::new(c.to_lowercase())) }
    };
    Datum::from(text.chars().map(map).collect::<String>())
}

fn left_right(call: &Call<'_>, ctx: &mut EvalContext) -> Result<Datum> {
    let text = call.bytes(0);
    let count = usize::try_from(call.int(1, ctx)?.max(0)).unwrap_or(usize::MAX);
    if call.func == Func::Left {
        let end = offset(call, 0, &text, count);
        return Ok(Datum::from(&text[..end]));
    }
    let skip = length(call, 0).saturating_sub(count);
    let start = offset(call, 0, &text, skip);
    Ok(Datum::from(&text[start..]))
}

fn substring(call: &Call<'_>, ctx: &mut EvalContext) -> Result<Datum> {
    let text = call.bytes(0);
    let position = call.int(1, ctx)?;
    let count = if call.len() > 2 { call.int(2, ctx)? } else { i64::MAX };
    if count <= 0 || position == 0 {
        return Ok(Datum::Bytes(Vec::new()));
    }
    let skip = if position > 0 {
        usize::try_from(position - 1).unwrap_or(usize::MAX)
    } else {
        // From the end; before the front there is nothing.
        let back = usize::try_from(position.unsigned_abs()).unwrap_or(usize::MAX);
        match length(call, 0).checked_sub(back) {
            Some(skip) => skip,
            None => return Ok(Datum::Bytes(Vec::new())),
        }
    };
    let rest = &text[offset(call, 0, &text, skip)..];
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    Ok(Datum::from(&rest[..offset(call, 0, rest, count)]))
}

/// Everything before the n-th delimiter, or after the n-th from the end.
fn substring_index(call: &Call<'_>, ctx: &mut EvalContext) -> Result<Datum> {
    let (text, delimiter) = (call.bytes(0), call.bytes(1));
    let count = call.int(2, ctx)?;
    if count == 0 || delimiter.is_empty() || text.is_empty() {
        return Ok(Datum::Bytes(Vec::new()));
    }
    let places: Vec<usize> = memchr::memmem::find_iter(&text, delimiter.as_ref()).collect();
    let wanted = usize::try_from(count.unsigned_abs()).unwrap_or(usize::MAX);
    if wanted > places.len() {
        return Ok(Datum::Bytes(text.into_owned()));
    }
    if count > 0 {
        return Ok(Datum::from(&text[..places[wanted - 1]]));
    }
    let place = places[places.len() - wanted];
    Ok(Datum::from(&text[place + delimiter.len()..]))
}

/// `TRIM(str [, remove [, 'both' | 'leading' | 'trailing']])`.
fn trim(call: &Call<'_>, _ctx: &mut EvalContext) -> Result<Datum> {
    let text = call.bytes(0);
    let remove = if call.len() > 1 { call.bytes(1) } else { Cow::Borrowed(b" ".as_slice()) };
    let direction = if call.len() > 2 { call.text(2).to_ascii_lowercase() } else { String::new() };
    let leading = call.func != Func::Rtrim && direction != "trailing";
    let trailing = call.func != Func::Ltrim && direction != "leading";
    let mut rest: &[u8] = &text;
    if remove.is_empty() {
        return Ok(Datum::from(rest));
    }
    if leading {
        while let Some(shorter) = rest.strip_prefix(remove.as_ref()) {
            rest = shorter;
        }
    }
    if trailing {
        while let Some(shorter) = rest.strip_suffix(remove.as_ref()) {
            rest = shorter;
        }
    }
    Ok(Datum::from(rest))
}

fn pad(call: &Call<'_>, ctx: &mut EvalContext) -> Result<Datum> {
    let (text, fill) = (call.bytes(0), call.bytes(2));
    let Ok(target) = usize::try_from(call.int(1, ctx)?) else { return Ok(Datum::Null) };
    let own = length(call, 0);
    if own >= target {
        return Ok(Datum::from(&text[..offset(call, 0, &text, target)]));
    }
    let fill_len = length(call, 2);
    if fill_len == 0 {
        return Ok(Datum::Bytes(Vec::new()));
    }
    let missing = target - own;
    let whole = missing / fill_len;
    let bytes = (whole as u64 + 1).saturating_mul(fill.len() as u64) + text.len() as u64;
    if !call.checked_len(bytes, ctx) {
        return Ok(Datum::Null);
    }
    let mut padding = fill.repeat(whole);
    padding.extend_from_slice(&fill[..offset(call, 2, &fill, missing % fill_len)]);
    Ok(Datum::Bytes(if call.func == Func::Lpad {
        padding.extend_from_slice(&text);
        padding
    } else {
        let mut out = text.into_owned();
        out.append(&mut padding);
        out
    }))
}

fn repeat(call: &Call<'_>, ctx: &mut EvalContext) -> Result<Datum> {
    let (text, count) = if call.func == Func::Space {
        (Cow::Borrowed(b" ".as_slice()), call.int(0, ctx)?)
    } else {
        (call.bytes(0), call.int(1, ctx)?)
    };
    let count = u64::try_from(count).unwrap_or(0);
    if !call.checked_len(count.saturating_mul(text.len() as u64), ctx) {
        return Ok(Datum::Null);
    }
    Ok(Datum::Bytes(text.repeat(count as usize)))
}

/// REPLACE looks for the bytes, case and all.
fn replace(call: &Call<'_>, ctx: &mut EvalContext) -> Result<Datum> {
    let (text, from, to) = (call.bytes(0), call.bytes(1), call.bytes(2));
    if from.is_empty() {
        return Ok(Datum::Bytes(text.into_owned()));
    }
    let mut out = Vec::with_capacity(text.len());
    let mut end = 0;
    for place in memchr::memmem::find_iter(&text, from.as_ref()) {
        out.extend_from_slice(&text[end..place]);
        out.extend_from_slice(&to);
        end = place + from.len();
        if !call.checked_len(out.len() as u64, ctx) {
            return Ok(Datum::Null);
        }
    }
    out.extend_from_slice(&text[end..]);
    Ok(Datum::Bytes(out))
}

fn reverse(call: &Call<'_>) -> Datum {
    if call.is_binary(0) {
        let mut bytes = call.bytes(0).into_owned();
        bytes.reverse();
        return Datum::Bytes(bytes);
    }
    Datum::from(call.text(0).chars().rev().collect::<String>())
}

/// INSTR(text, part), LOCATE(part, text [, from]).
fn locate(call: &Call<'_>, ctx: &mut EvalContext) -> Result<Datum> {
    let (text_at, part_at) = if call.func == Func::Instr { (0, 1) } else { (1, 0) };
    let (text, part) = (call.bytes(text_at), call.bytes(part_at));
    let from = if call.len() > 2 { call.int(2, ctx)? } else { 1 };
    let Ok(skip) = usize::try_from(from - 1) else { return Ok(Datum::Int(0)) };
    let binary = call.collation().is_binary();
    let total = if binary { text.len() } else { count_chars(&text) };
    if skip > total {
        return Ok(Datum::Int(0));
    }
    let start = if binary { skip } else { char_end(&text, skip) };
    let found = find(&text[start..], &part, call.collation());
    Ok(Datum::Int(found.map_or(0, |at| (skip + at + 1) as i64)))
}

/// Character offset of the first place where `part` is, by a collation.
pub(crate) fn find(text: &[u8], part: &[u8], collation: Collation) -> Option<usize> {
    if part.is_empty() {
        return Some(0);
    }
    if collation.is_bytewise() {
        let at = memchr::memmem::find(text, part)?;
        return Some(if collation.is_binary() { at } else { count_chars(&text[..at]) });
    }
    let text: Vec<char> = String::from_utf8_lossy(text).chars().collect();
    let part: Vec<char> = String::from_utf8_lossy(part).chars().collect();
    text.windows(part.len())
        .position(|window| window.iter().zip(&part).all(|(a, b)| collation.char_equals(*a, *b)))
}

/// INSERT(text, position, length, new).
fn insert(call: &Call<'_>, ctx: &mut EvalContext) -> Result<Datum> {
    let (text, new) = (call.bytes(0), call.bytes(3));
    let (position, count) = (call.int(1, ctx)?, call.int(2, ctx)?);
    let total = length(call, 0);
    let skip = usize::try_from(position - 1).ok().filter(|skip| *skip < total);
    let Some(skip) = skip else { return Ok(Datum::Bytes(text.into_owned())) };
    let rest = total - skip;
    let count = usize::try_from(count).map_or(rest, |count| count.min(rest));
    let start = offset(call, 0, &text, skip);
    let end = offset(call, 0, &text, skip + count);
    let mut out = Vec::with_capacity(text.len() + new.len());
    out.extend_from_slice(&text[..start]);
    out.extend_from_slice(&new);
    out.extend_from_slice(&text[end..]);
    Ok(if call.checked_len(out.len() as u64, ctx) { Datum::Bytes(out) } else { Datum::Null })
}
