//! LIKE and lengths of text over vectors.

use cairn_types::{Column, ColumnData};

use super::super::Compiled;
use super::super::mask::Mask;
use super::super::vector::Vector;
use super::compare::Texts;
use super::validity;
use crate::error::{ExprError, Result};
use crate::expr::Expr;
use crate::func::Func;
use crate::functions::like::{Pattern, escape_of, is_constant_pattern};

/// LIKE with a constant pattern; `None` if it is not constant.
pub(crate) fn like(
    expr: &Expr,
    args: &[Expr],
    vector: &Vector<'_>,
    len: usize,
) -> Result<Option<Mask>> {
    let Expr::Function { cache, .. } = expr else { return Ok(None) };
    if !is_constant_pattern(args) {
        return Ok(None);
    }
    let Some(pattern) = args[1].as_constant().and_then(|value| value.as_bytes()) else {
        return Ok(None);
    };
    let Some(texts) = Texts::of(vector) else { return Ok(None) };
    let escape = escape_of(args.get(2).and_then(Expr::as_constant));
    let compiled = cache.get_or_make(|| {
        Ok::<_, ExprError>(Compiled::Like(Pattern::new(pattern, escape, expr.ty().collation)))
    })?;
    let Compiled::Like(pattern) = &*compiled else { return Ok(None) };
    let plain = texts.is_plain();
    let matches = |at: usize| {
        let text = texts.at(at);
        if plain { pattern.matches_known(text, true) } else { pattern.matches(text) }
    };
    let mut mask: Mask = (0..len).map(|at| u8::from(matches(at))).collect();
    vector.mark_nulls(&mut mask);
    Ok(Some(mask))
}

/// LENGTH and CHAR_LENGTH of text.
pub(crate) fn length(func: Func, args: &[Expr], vector: &Vector<'_>, len: usize) -> Option<Column> {
    let texts = Texts::of(vector)?;
    let chars = func == Func::CharLength && !args[0].ty().is_binary_string();
    let values = (0..len)
        .map(|at| {
            let text = texts.at(at);
            if chars { count_chars(text) as i64 } else { text.len() as i64 }
        })
        .collect();
    Column::from_parts(ColumnData::Int(values), validity(&[vector], len), 0)
}

/// Characters of UTF-8 text: bytes that continue none.
pub(crate) fn count_chars(text: &[u8]) -> usize {
    text.iter().filter(|byte| **byte & 0xC0 != 0x80).count()
}
