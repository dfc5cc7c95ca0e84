//! LIKE.
//!
//! A pattern is compiled once (per node if it is constant): literal runs with `%`
//! and `_` between them, and the common shapes `abc`, `abc%`, `%abc`, `%abc%`
//! recognised. Characters are equal as the collation says; no padding takes part,
//! so `'a' LIKE 'a '` is false.

use cairn_types::{Collation, Datum};

use crate::context::EvalContext;
use crate::error::Result;
use crate::eval::Compiled;
use crate::eval::call::Call;
use crate::eval::kernels::compare::all_plain;
use crate::expr::Expr;

/// A compiled pattern.
#[derive(Debug)]
pub(crate) struct Pattern {
    collation: Collation,
    bytewise: bool,
    shape: Shape,
    elements: Vec<Element>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Element {
    /// A character (a byte, in byte strings).
    Char(char),
    /// `_`.
    One,
    /// `%`.
    Any,
}

/// Patterns decided by a search for their one literal.
#[derive(Debug)]
enum Shape {
    Exact(Vec<u8>),
    Prefix(Vec<u8>),
    Suffix(Vec<u8>),
    Contains(Vec<u8>),
    General,
}

impl Pattern {
    pub fn new(pattern: &[u8], escape: Option<char>, collation: Collation) -> Pattern {
        let mut elements = Vec::with_capacity(pattern.len());
        let mut chars = chars_of(pattern, collation).peekable();
        while let Some(c) = chars.next() {
            if Some(c) == escape {
                // An escape at the end stands for itself.
                elements.push(Element::Char(chars.next().unwrap_or(c)));
                continue;
            }
            match c {
                '%' if elements.last() == Some(&Element::Any) => {}
                '%' => elements.push(Element::Any),
                '_' => elements.push(Element::One),
                c => elements.push(Element::Char(c)),
            }
        }
        let shape = shape_of(&elements, collation);
        Pattern { collation, bytewise: collation.is_bytewise(), shape, elements }
    }

    /// Whether the whole text matches.
    pub fn matches(&self, text: &[u8]) -> bool {
        self.matches_known(text, all_plain(text))
    }

    /// [`Pattern::matches`] where the caller knows whether the text is printable
    /// ASCII.
    #[inline]
    pub fn matches_known(&self, text: &[u8], plain: bool) -> bool {
        if self.bytewise {
            return match &self.shape {
                Shape::Exact(literal) => text == literal,
                Shape::Prefix(literal) => text.starts_with(literal),
                Shape::Suffix(literal) => text.ends_with(literal),
                Shape::Contains(literal) => memchr::memmem::find(text, literal).is_some(),
                Shape::General => self.matches_slowly(text),
            };
        }
        // Plain ASCII letters fold alike in every case-insensitive collation.
        if !plain {
            return self.matches_slowly(text);
        }
        match &self.shape {
            Shape::Exact(literal) => text.eq_ignore_ascii_case(literal),
            Shape::Prefix(literal) => {
                text.get(..literal.len()).is_some_and(|head| head.eq_ignore_ascii_case(literal))
            }
            Shape::Suffix(literal) => {
                let start = text.len().checked_sub(literal.len());
                start.is_some_and(|start| text[start..].eq_ignore_ascii_case(literal))
            }
            Shape::Contains(literal) => {
                text.windows(literal.len()).any(|window| window.eq_ignore_ascii_case(literal))
            }
            Shape::General => self.matches_slowly(text),
        }
    }

    /// Greedy matching that returns to the last `%`.
    fn matches_slowly(&self, text: &[u8]) -> bool {
        let text: Vec<char> = chars_of(text, self.collation).collect();
        let (mut at, mut element) = (0, 0);
        let mut retry: Option<(usize, usize)> = None;
        while at < text.len() {
            let matched = match self.elements.get(element) {
                Some(Element::Any) => {
                    retry = Some((element + 1, at));
                    element += 1;
                    continue;
                }
                Some(Element::One) => true,
                Some(Element::Char(c)) => self.collation.char_equals(*c, text[at]),
                None => false,
            };
            if matched {
                at += 1;
                element += 1;
            } else if let Some((after_any, from)) = retry {
                element = after_any;
                at = from + 1;
                retry = Some((after_any, at));
            } else {
                return false;
            }
        }
        self.elements[element..].iter().all(|element| *element == Element::Any)
    }
}

/// Characters, or bytes of byte strings and of what is no UTF-8.
fn chars_of(text: &[u8], collation: Collation) -> impl Iterator<Item = char> + '_ {
    let decoded = if collation.is_binary() { None } else { std::str::from_utf8(text).ok() };
    let bytes = if decoded.is_some() { &[] } else { text };
    decoded.unwrap_or("").chars().chain(bytes.iter().map(|byte| char::from(*byte)))
}

fn shape_of(elements: &[Element], collation: Collation) -> Shape {
    let starts = elements.first() == Some(&Element::Any);
    let ends = elements.len() > usize::from(starts) && elements.last() == Some(&Element::Any);
    let inner = &elements[usize::from(starts)..elements.len() - usize::from(ends)];
    let mut literal = Vec::with_capacity(inner.len());
    for element in inner {
        match element {
            Element::Char(c) if collation.is_binary() => literal.push(*c as u32 as u8),
            Element::Char(c) => {
                literal.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            }
            _ => return Shape::General,
        }
    }
    let plain = literal.iter().all(|byte| (0x20..0x7F).contains(byte));
    if literal.is_empty() || !collation.is_bytewise() && !plain {
        return Shape::General;
    }
    match (starts, ends) {
        (false, false) => Shape::Exact(literal),
        (false, true) => Shape::Prefix(literal),
        (true, false) => Shape::Suffix(literal),
        (true, true) => Shape::Contains(literal),
    }
}

/// The escape character: the third argument, a backslash without one, none if it
/// is empty.
pub(crate) fn escape_of(value: Option<&Datum>) -> Option<char> {
    match value {
        None => Some('\\'),
        Some(Datum::Bytes(bytes)) => String::from_utf8_lossy(bytes).chars().next(),
        Some(Datum::Int(code)) => u32::try_from(*code).ok().and_then(char::from_u32),
        Some(_) => Some('\\'),
    }
}

/// Whether pattern and escape are constant, so that one compilation serves all.
pub(crate) fn is_constant_pattern(exprs: &[Expr]) -> bool {
    exprs[1..].iter().all(|expr| matches!(expr, Expr::Constant { .. }))
}

pub(crate) fn eval(call: &Call<'_>, _ctx: &mut EvalContext) -> Result<Datum> {
    let text = call.bytes(0);
    let make = || Pattern::new(&call.bytes(1), escape_of(call.values.get(2)), call.collation());
    if is_constant_pattern(call.exprs) {
        let compiled =
            call.cache.get_or_make(|| Ok::<_, crate::ExprError>(Compiled::Like(make())))?;
        if let Compiled::Like(pattern) = &*compiled {
            return Ok(Datum::bool(pattern.matches(&text)));
        }
    }
    Ok(Datum::bool(make().matches(&text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        let ci = Collation::UTF8MB4_0900_AI_CI;
        let bin = Collation::UTF8MB4_BIN;
        let like = |text: &str, pattern: &str, collation| {
            Pattern::new(pattern.as_bytes(), Some('\\'), collation).matches(text.as_bytes())
        };
        for (text, pattern, expected) in [
            ("abc", "abc", true),
            ("abc", "a%", true),
            ("abc", "%c", true),
            ("abc", "%b%", true),
            ("abc", "_b_", true),
            ("abc", "a%c%", true),
            ("abc", "", false),
            ("", "%", true),
            ("", "", true),
            ("a%c", "a\\%c", true),
            ("abc", "a\\%c", false),
            ("a", "a ", false),
            ("héllo", "h_llo", true),
            ("aXbXc", "a%X%c", true),
            ("aaab", "%aab", true),
        ] {
            assert_eq!(like(text, pattern, ci), expected, "{text} LIKE {pattern}");
            assert_eq!(like(text, pattern, bin), expected, "{text} LIKE {pattern} (bin)");
        }
        assert!(like("ABC", "a%", ci) && !like("ABC", "a%", bin));
        assert!(like("É", "e", ci));
        assert!(Pattern::new(b"a|%", Some('|'), bin).matches(b"a%"));
    }
}
