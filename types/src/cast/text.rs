//! Conversions to text, bytes, ENUM and SET.

use super::{CastContext, str_to_i128, text_of};
use crate::collation::Charset;
use crate::datum::Datum;
use crate::decimal::PrefixStatus;
use crate::error::{Result, TypeError};
use crate::field_type::{FieldType, TypeCode};
use crate::text::escape_bytes;

pub(super) fn to_bytes(
    value: &Datum,
    from: &FieldType,
    to: &FieldType,
    ctx: &mut CastContext,
) -> Result<Datum> {
    let mut bytes = match value {
        Datum::Bytes(bytes) => bytes.clone(),
        _ => text_of(value, from),
    };
    let charset = to.charset();
    if let Some(at) = charset.find_invalid(&bytes)
        && !repair(&mut bytes, at, charset, ctx)?
    {
        return Ok(Datum::Null);
    }
    limit_length(&mut bytes, to, ctx)?;
    match to.code {
        TypeCode::Char if ctx.is_assign() => {
            let kept = bytes.iter().rposition(|byte| *byte != b' ').map_or(0, |at| at + 1);
            bytes.truncate(kept);
        }
        TypeCode::Binary => {
            if let Some(len) = to.flen {
                bytes.resize(bytes.len().max(len as usize), 0);
            }
        }
        _ => {}
    }
    Ok(Datum::Bytes(bytes))
}

/// Deals with bytes that are no text of the character set, the first at `at`.
/// `false`: the value is NULL.
fn repair(bytes: &mut Vec<u8>, at: usize, charset: Charset, ctx: &mut CastContext) -> Result<bool> {
    let value = escape_bytes(&bytes[at..]);
    let is_text = std::str::from_utf8(bytes).is_ok();
    if ctx.is_assign() {
        ctx.loss(TypeError::IncorrectValue { type_name: "string", value })?;
    } else {
        ctx.loss(TypeError::InvalidCharacterString { charset: charset.name(), value })?;
        if !is_text {
            return Ok(false);
        }
    }
    if !is_text {
        bytes.truncate(at);
        return Ok(true);
    }
    // Characters the set lacks become question marks.
    *bytes = charset.replace_invalid(&String::from_utf8_lossy(bytes)).into_bytes();
    Ok(true)
}

/// Cuts to the type's length: characters of text, bytes of everything else.
fn limit_length(bytes: &mut Vec<u8>, to: &FieldType, ctx: &mut CastContext) -> Result<()> {
    let keep = match (to.blob_max_bytes(), to.flen) {
        (Some(most), _) => match usize::try_from(most) {
            Ok(most) if bytes.len() > most => char_floor(bytes, most, to),
            _ => return Ok(()),
        },
        (None, Some(flen)) if to.collation.is_binary() => flen as usize,
        (None, Some(flen)) => match char_offset(bytes, flen as usize) {
            Some(at) => at,
            None => return Ok(()),
        },
        (None, None) => return Ok(()),
    };
    if bytes.len() <= keep {
        return Ok(());
    }
    let blanks = !to.collation.is_binary() && bytes[keep..].iter().all(|byte| *byte == b' ');
    if blanks && ctx.is_assign() {
        // Losing blanks is no loss.
        bytes.truncate(keep);
        return Ok(());
    }
    if ctx.is_assign() {
        let strict = ctx.strict;
        ctx.loss(if strict { TypeError::DataTooLong } else { TypeError::DataTruncated })?;
    } else {
        let type_name = if to.collation.is_binary() { "BINARY" } else { "CHAR" };
        let value = String::from_utf8_lossy(bytes).into_owned();
        ctx.loss(TypeError::Truncated { type_name, value })?;
    }
    bytes.truncate(keep);
    Ok(())
}

/// Byte offset after `count` characters; `None` if there are no more than that.
fn char_offset(bytes: &[u8], count: usize) -> Option<usize> {
    if bytes.len() <= count {
        return None;
    }
    let starts = bytes.iter().enumerate().filter(|(_, byte)| (**byte as i8) >= -0x40);
    starts.map(|(at, _)| at).nth(count)
}

/// Largest character boundary not above `most` bytes.
fn char_floor(bytes: &[u8], most: usize, to: &FieldType) -> usize {
    if to.collation.is_binary() {
        return most;
    }
    (0..=most).rev().find(|at| (bytes[*at] as i8) >= -0x40).unwrap_or(0)
}

pub(super) fn to_enum(
    value: &Datum,
    from: &FieldType,
    to: &FieldType,
    ctx: &mut CastContext,
) -> Result<Datum> {
    let same_members = from.code == TypeCode::Enum && from.elements == to.elements;
    let index = match value {
        Datum::UInt(index) if same_members => return Ok(Datum::UInt(*index)),
        Datum::Bytes(text) => find_member(text, to).or_else(|| number_of(text)),
        Datum::UInt(_) if from.is_enum_or_set() => find_member(&text_of(value, from), to),
        Datum::Json(json) => find_member(json.as_ref().to_unquoted().as_bytes(), to),
        _ => {
            let decimal = super::number::to_decimal(value, from, ctx)?;
            decimal.to_u64().ok()
        }
    };
    match index {
        Some(index) if index >= 1 && index <= to.elements.len() as u64 => Ok(Datum::UInt(index)),
        _ => {
            ctx.loss(TypeError::DataTruncated)?;
            Ok(Datum::UInt(0))
        }
    }
}

/// Index (from 1) of a member by name, trailing blanks aside.
fn find_member(text: &[u8], to: &FieldType) -> Option<u64> {
    let text = text.trim_ascii_end();
    let position = to.elements.iter().position(|name| to.collation.equals(name.as_bytes(), text));
    position.map(|at| at as u64 + 1)
}

/// A text that is wholly an unsigned integer.
fn number_of(text: &[u8]) -> Option<u64> {
    match str_to_i128(text) {
        (number, PrefixStatus::Whole) => u64::try_from(number).ok(),
        _ => None,
    }
}

pub(super) fn to_set(
    value: &Datum,
    from: &FieldType,
    to: &FieldType,
    ctx: &mut CastContext,
) -> Result<Datum> {
    let members = to.elements.len().min(64) as u32;
    let all = u64::MAX.checked_shr(64 - members).unwrap_or(0);
    let same_members = from.code == TypeCode::Set && from.elements == to.elements;
    let text = match value {
        Datum::UInt(bits) if same_members => return Ok(Datum::UInt(*bits)),
        Datum::Bytes(text) => text.clone(),
        Datum::UInt(_) if from.is_enum_or_set() => text_of(value, from),
        Datum::Json(json) => json.as_ref().to_unquoted().into_bytes(),
        _ => {
            let number = super::number::to_decimal(value, from, ctx)?.to_u64().unwrap_or(u64::MAX);
            if number & !all != 0 {
                ctx.loss(TypeError::DataTruncated)?;
            }
            return Ok(Datum::UInt(number & all));
        }
    };
    if text.is_empty() {
        return Ok(Datum::UInt(0));
    }
    let mut bits = 0;
    let mut unknown = false;
    for name in text.split(|byte| *byte == b',') {
        match find_member(name, to) {
            Some(index) if index <= 64 => bits |= 1 << (index - 1),
            _ => unknown = true,
        }
    }
    if unknown {
        // A number names the members by its bits.
        if let Some(number) = number_of(&text).filter(|number| number & !all == 0) {
            return Ok(Datum::UInt(number));
        }
        ctx.loss(TypeError::DataTruncated)?;
    }
    Ok(Datum::UInt(bits))
}
