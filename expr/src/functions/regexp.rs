//! REGEXP and its functions.
//!
//! **Left out.** MySQL uses ICU; this uses a linear-time engine without
//! look-around and back-references, which answers error 1139 for them.

use cairn_types::{Datum, errno};
use regex::{Regex, RegexBuilder};

use crate::context::EvalContext;
use crate::error::{ExprError, Result};
use crate::eval::Compiled;
use crate::eval::call::Call;
use crate::expr::Expr;
use crate::func::Func;

/// Bytes a compiled pattern may take.
const PROGRAM_BYTES_MAX: usize = 8 << 20;

pub(crate) fn eval(call: &Call<'_>, ctx: &mut EvalContext) -> Result<Datum> {
    let flags_at = match call.func {
        Func::RegexpLike => 2,
        Func::RegexpSubstr => 4,
        Func::RegexpInstr | Func::RegexpReplace => 5,
        _ => usize::MAX,
    };
    let constant =
        |at: usize| call.exprs.get(at).is_none_or(|expr| matches!(expr, Expr::Constant { .. }));
    if constant(1) && constant(flags_at) {
        let compiled = call.cache.get_or_make(|| compile(call, flags_at).map(Compiled::Regex))?;
        if let Compiled::Regex(regex) = &*compiled {
            return apply(call, regex, ctx);
        }
    }
    apply(call, &compile(call, flags_at)?, ctx)
}

fn compile(call: &Call<'_>, flags_at: usize) -> Result<Regex> {
    let pattern = call.text(1);
    if pattern.is_empty() {
        return Err(ExprError::mysql(errno::ER_REGEXP_ERROR, &[&"empty (sub)expression"]));
    }
    let mut builder = RegexBuilder::new(&pattern);
    builder.size_limit(PROGRAM_BYTES_MAX);
    builder.case_insensitive(call.collation().is_case_insensitive());
    if flags_at < call.len() {
        for flag in call.text(flags_at).chars() {
            match flag {
                'c' => builder.case_insensitive(false),
                'i' => builder.case_insensitive(true),
                'm' => builder.multi_line(true),
                'n' => builder.dot_matches_new_line(true),
                'u' => &mut builder,
                _ => return Err(ExprError::wrong_arguments(call.func.name())),
            };
        }
    }
    builder.build().map_err(|error| {
        let reason = match error {
            regex::Error::CompiledTooBig(_) => "pattern too big".to_owned(),
            other => other.to_string().lines().last().unwrap_or("syntax error").trim().to_owned(),
        };
        ExprError::mysql(errno::ER_REGEXP_ERROR, &[&reason])
    })
}

/// A place in the subject: where to start, in bytes, and in characters before.
struct Start {
    byte: usize,
    chars: usize,
}

/// Start of the search from the position argument (from 1).
fn start(call: &Call<'_>, at: usize, text: &str, ctx: &mut EvalContext) -> Result<Start> {
    let position = if at < call.len() { call.int(at, ctx)? } else { 1 };
    let invalid = || ExprError::wrong_arguments(call.func.name());
    let chars = usize::try_from(position - 1).map_err(|_| invalid())?;
    let mut offsets = text.char_indices().map(|(at, _)| at).chain([text.len()]);
    let byte = offsets.nth(chars).ok_or_else(invalid)?;
    Ok(Start { byte, chars })
}

fn apply(call: &Call<'_>, regex: &Regex, ctx: &mut EvalContext) -> Result<Datum> {
    let text = call.text(0);
    let occurrence = |at: usize, ctx: &mut EvalContext| -> Result<usize> {
        let wanted = if at < call.len() { call.int(at, ctx)? } else { 1 };
        Ok(usize::try_from(wanted.max(1)).unwrap_or(usize::MAX))
    };
    match call.func {
        Func::RegexpSubstr => {
            let from = start(call, 2, &text, ctx)?;
            let nth = occurrence(3, ctx)?;
            let found = regex.find_iter(&text[from.byte..]).nth(nth - 1);
            Ok(found.map(|found| found.as_str()).into())
        }
        Func::RegexpInstr => {
            let from = start(call, 2, &text, ctx)?;
            let nth = occurrence(3, ctx)?;
            let after = call.len() > 4 && call.int(4, ctx)? == 1;
            let rest = &text[from.byte..];
            let Some(found) = regex.find_iter(rest).nth(nth - 1) else { return Ok(Datum::Int(0)) };
            let at = if after { found.end() } else { found.start() };
            Ok(Datum::Int((from.chars + rest[..at].chars().count() + 1) as i64))
        }
        Func::RegexpReplace => {
            let from = start(call, 3, &text, ctx)?;
            let which = if call.len() > 4 { call.int(4, ctx)? } else { 0 };
            replace(call, regex, &text, from.byte, usize::try_from(which).unwrap_or(0), ctx)
        }
        _ => Ok(Datum::bool(regex.is_match(&text))),
    }
}

/// Replaces all matches (`which` 0) or one; `$1` or `\1` name groups.
fn replace(
    call: &Call<'_>,
    regex: &Regex,
    text: &str,
    from: usize,
    which: usize,
    ctx: &mut EvalContext,
) -> Result<Datum> {
    let template = call.text(2);
    let mut out = text[..from].to_owned();
    let rest = &text[from..];
    let mut end = 0;
    for (at, captures) in regex.captures_iter(rest).enumerate() {
        if which != 0 && at + 1 != which {
            continue;
        }
        let whole = captures.get(0).expect("group 0 is the match");
        out.push_str(&rest[end..whole.start()]);
        expand(&template, &captures, &mut out);
        end = whole.end();
        if !call.checked_len(out.len() as u64, ctx) {
            return Ok(Datum::Null);
        }
    }
    out.push_str(&rest[end..]);
    Ok(Datum::from(out))
}

fn expand(template: &str, captures: &regex::Captures<'_>, out: &mut String) {
    let mut chars = template.chars().peekable();
    while let Some(c) = chars.next() {
        let digit = chars.peek().and_then(|next| next.to_digit(10));
        match (c, digit) {
            ('$' | '\\', Some(group)) => {
                chars.next();
                out.push_str(captures.get(group as usize).map_or("", |group| group.as_str()));
            }
            ('\\', None) => out.extend(chars.next()),
            _ => out.push(c),
        }
    }
}
