//! Ranges of columns of which a key holds the first characters only.
//!
//! **One weight per character.** The key of a value begins with the weights of the first characters of any
//! equal text: bounds are cut, and inclusive.
//!
//! **Any number of weights.** In the UCA's collations `ß` equals `ss`, and a combining accent has no
//! weight at all. Texts that are equal may be cut at different places then: of `ßx` and `ssx` two
//! characters are `ssx` and `ss`. What is certain: the key is a *prefix of the weights* of the value. So for
//! values equal to `v` it is one of the prefixes of the weights of `v`, and for greater ones it is one of
//! them or greater than all. The list of them is short, and only those that end where `v` itself is cut,
//! or behind, are found in keys of common text:
//!
//! ```text
//! s = 'hello', KEY (s(3)):   ['',''] ['h','h'] ['he','he'] ['hel','hello']
//!                             keys with weightless characters │ all others
//! ```
//!
//! A character of several weights gives a range from before it to behind it, since no text may end between
//! them; Hangul syllables are taken apart into their letters.

use cairn_expr::Func;
use cairn_types::collation::hangul_letters;
use cairn_types::{Collation, Datum, FieldType};

use super::interval::{Interval, not_null};
use super::{Bound, RangeColumn};

/// First of the primary weights that announce a second one: those of Han and of whatever else has
/// computed weights (UTS #10, 10.1). No character has the first without the second.
const IMPLICIT_FIRST: u8 = 0xFB;

/// Where a comparison with a value can be true.
pub(super) fn comparison(
    func: Func,
    bound: Bound,
    length: u32,
    column: &RangeColumn,
) -> Vec<Interval> {
    let collation = column.ty.collation;
    let Bound::Value(Datum::Bytes(value)) = &bound else {
        // Only a run knows; for estimates the prefix is as good as the value. It will be one key
        // only if each character has one weight.
        let one_unknown = matches!(func, Func::Eq | Func::NullEq) && !collation.is_uca();
        return vec![Interval { one_unknown, ..interval(func, bound.clone(), bound) }];
    };
    let cut = Bound::Value(Datum::Bytes(cut_prefix(value, length, &column.ty).to_vec()));
    if !collation.is_uca() {
        return vec![interval(func, cut.clone(), cut)];
    }
    let mut list = match func {
        Func::Eq | Func::NullEq | Func::Gt | Func::Ge => match std::str::from_utf8(value) {
            Ok(text) => shorter_prefixes(text, length as usize, collation),
            Err(_) => return vec![interval(func, Bound::Min, bound)],
        },
        _ => Vec::new(),
    };
    list.push(interval(func, cut, bound));
    list
}

/// From the one bound to the other, as far as the comparison bounds a side.
fn interval(func: Func, low: Bound, high: Bound) -> Interval {
    match func {
        Func::Eq | Func::NullEq => Interval { low, high, ..not_null() },
        Func::Lt | Func::Le => Interval { high, ..not_null() },
        Func::Gt | Func::Ge => Interval { low, ..not_null() },
        _ => not_null(),
    }
}

/// Keys shorter in weights than the first `length` characters of a text, of values that begin with
/// its weights.
fn shorter_prefixes(text: &str, length: usize, collation: Collation) -> Vec<Interval> {
    let bound = |text: &str| Bound::Value(Datum::Bytes(text.as_bytes().to_vec()));
    let mut list = Vec::new();
    let mut before = String::new();
    for c in text.chars().take(length) {
        let letters = hangul_letters(c);
        let letters =
            if letters.is_empty() { std::slice::from_ref(&c) } else { letters.as_slice() };
        for letter in letters {
            let low = bound(&before);
            before.push(*letter);
            let high = if is_one_unit(*letter, collation) { low.clone() } else { bound(&before) };
            list.push(Interval { low, high, ..not_null() });
        }
    }
    list
}

/// Whether no text's weights end within those of a character.
fn is_one_unit(c: char, collation: Collation) -> bool {
    let mut key = Vec::with_capacity(4);
    collation.sort_key(c.encode_utf8(&mut [0; 4]).as_bytes(), &mut key);
    match key[..] {
        [] | [_, _] => true,
        [first, _, _, _] => first >= IMPLICIT_FIRST,
        _ => false,
    }
}

/// The first characters (bytes of binary columns) of a text.
pub(super) fn cut_prefix<'v>(bytes: &'v [u8], length: u32, ty: &FieldType) -> &'v [u8] {
    let length = length as usize;
    if ty.collation.is_binary() {
        return &bytes[..bytes.len().min(length)];
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => match text.char_indices().nth(length) {
            Some((end, _)) => &bytes[..end],
            None => bytes,
        },
        Err(_) => &bytes[..bytes.len().min(length)],
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn column(collation: Collation) -> RangeColumn {
        let ty = FieldType::varchar(20).with_collation(collation);
        RangeColumn { ty, prefix_length: Some(2) }
    }

    fn key(text: &[u8], collation: Collation) -> Vec<u8> {
        let mut key = Vec::new();
        collation.sort_key(text, &mut key);
        key
    }

    fn holds(interval: &Interval, key_of_row: &[u8], collation: Collation) -> bool {
        let of = |bound: &Bound| match bound {
            Bound::Value(Datum::Bytes(text)) => Some(key(text, collation)),
            _ => None,
        };
        of(&interval.low).is_none_or(|low| low.as_slice() <= key_of_row)
            && of(&interval.high).is_none_or(|high| key_of_row <= high.as_slice())
    }

    fn shown(list: &[Interval]) -> Vec<String> {
        let side = |bound: &Bound| match bound {
            Bound::Value(Datum::Bytes(text)) => String::from_utf8_lossy(text).into_owned(),
            other => format!("{other:?}"),
        };
        list.iter().map(|one| format!("{}..{}", side(&one.low), side(&one.high))).collect()
    }

    #[test]
    fn common_text_is_looked_up_in_few_places() {
        let of = |func, text: &str, length| {
            let bound = Bound::Value(Datum::Bytes(text.as_bytes().to_vec()));
            shown(&comparison(func, bound, length, &column(Collation::UTF8MB4_0900_AI_CI)))
        };
        assert_eq!(of(Func::Eq, "hello", 3), ["..", "h..h", "he..he", "hel..hello"]);
        assert_eq!(of(Func::Eq, "a", 3), ["..", "a..a"]);
        assert_eq!(of(Func::Eq, "漢字", 1), ["..", "漢..漢字"]);
        assert_eq!(of(Func::Eq, "ßx", 2), ["..ß", "ß..ß", "ßx..ßx"]);
        assert_eq!(of(Func::Ge, "ab", 1), ["..", "a..Max"]);
        assert_eq!(of(Func::Lt, "ßx", 1), ["Min..ßx"]);
        assert_eq!(of(Func::Eq, "가", 2), ["..", "\u{1100}..\u{1100}", "가..가"]);
        assert_eq!(comparison(Func::Eq, Bound::Unknown, 2, &column(Collation::BINARY)).len(), 1);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]
        #[test]
        fn no_row_is_left_out(
            row in "[asxzASeßÆæéﬁ \u{301}\u{200D}漢가각\u{1100}\u{1161}😀]{0,5}",
            value in "[asxzASeßÆæéﬁ \u{301}\u{200D}漢가각\u{1100}\u{1161}😀]{0,5}",
            length in 1u32..4,
        ) {
            for collation in [
                Collation::UTF8MB4_0900_AI_CI,
                Collation::UTF8MB4_UNICODE_CI,
                Collation::UTF8MB4_GENERAL_CI,
                Collation::UTF8MB4_BIN,
                Collation::UTF8MB4_0900_BIN,
            ] {
                let column = column(collation);
                let order = collation.compare(row.as_bytes(), value.as_bytes());
                let stored = key(cut_prefix(row.as_bytes(), length, &column.ty), collation);
                for (func, is_true) in [
                    (Func::Eq, order.is_eq()),
                    (Func::NullEq, order.is_eq()),
                    (Func::Lt, order.is_lt()),
                    (Func::Le, order.is_le()),
                    (Func::Gt, order.is_gt()),
                    (Func::Ge, order.is_ge()),
                    (Func::Ne, order.is_ne()),
                ] {
                    let bound = Bound::Value(Datum::Bytes(value.clone().into_bytes()));
                    let list = comparison(func, bound, length, &column);
                    let is_found = list.iter().any(|one| holds(one, &stored, collation));
                    prop_assert!(is_found || !is_true, "{func:?} {collation} {:?}", shown(&list));
                }
            }
        }
    }
}
