//! Weight sequences of texts.
//!
//! Weights are 16 bits wide. Where a collation goes by code point, characters
//! beyond the BMP take two (their UTF-16 form), whose range no BMP character uses.

use std::cmp::Ordering;
use std::sync::LazyLock;

use super::Method;
use super::accents::ACCENTED;
use super::uca;

/// Upper case without accents for every character of the BMP.
static FOLD: LazyLock<Box<[u16]>> = LazyLock::new(|| {
    let mut table: Vec<u16> = (0..=u16::MAX).collect();
    for (code, slot) in table.iter_mut().enumerate() {
        let Some(c) = char::from_u32(code as u32) else { continue };
        let mut upper = c.to_uppercase();
        if let (Some(first), None) = (upper.next(), upper.next()) {
            *slot = u16::try_from(u32::from(first)).unwrap_or(*slot);
        }
    }
    for (base, letters) in ACCENTED {
        for letter in letters.chars() {
            if let Some(slot) = table.get_mut(letter as usize) {
                *slot = *base as u16;
            }
        }
    }
    table.into_boxed_slice()
});

/// Calls `emit` with each weight of `text`.
#[inline]
pub(super) fn for_each(method: Method, text: &[u8], mut emit: impl FnMut(u16)) {
    let mut at = 0;
    while at < text.len() {
        at += char_weights(method, &text[at..], &mut emit);
    }
}

/// Emits the weights of the first character and returns its length in bytes.
#[inline]
fn char_weights(method: Method, text: &[u8], emit: &mut impl FnMut(u16)) -> usize {
    let first = text[0];
    if first < 0x80 {
        match method {
            Method::Uca | Method::UcaBmp => {
                let weight = uca::ascii()[usize::from(first)];
                if weight != 0 {
                    emit(weight);
                }
            }
            Method::Bytes | Method::Gbk => emit(u16::from(first)),
            Method::General | Method::AsciiCi | Method::GbkCi => {
                emit(u16::from(first.to_ascii_uppercase()));
            }
        }
        return 1;
    }
    match decode(text) {
        Some((c, len)) => {
            wide_weights(method, c, emit);
            len
        }
        None => {
            // No UTF-8: the byte sorts after every character of the BMP in use.
            emit(0xFF00 | u16::from(first));
            1
        }
    }
}

fn wide_weights(method: Method, c: char, emit: &mut impl FnMut(u16)) {
    let fold = |c: char| FOLD.get(c as usize).copied();
    match method {
        Method::General => match c {
            'ß' => emit(u16::from(b'S')),
            _ => emit(fold(c).unwrap_or(0xFFFD)),
        },
        Method::UcaBmp if u32::from(c) > 0xFFFF => emit(0xFFFD),
        Method::Uca | Method::UcaBmp => uca::weights(c, emit),
        Method::Gbk | Method::GbkCi => {
            let mut buffer = [0; 4];
            let (code, _, replaced) = encoding_rs::GBK.encode(c.encode_utf8(&mut buffer));
            match (&*code, replaced) {
                ([high, low], false) => emit(u16::from_be_bytes([*high, *low])),
                _ => emit_utf16(c, emit),
            }
        }
        Method::Bytes | Method::AsciiCi => emit_utf16(c, emit),
    }
}

fn emit_utf16(c: char, emit: &mut impl FnMut(u16)) {
    c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| emit(*unit));
}

/// First character of a byte string, if it is UTF-8.
fn decode(text: &[u8]) -> Option<(char, usize)> {
    let len = match text[0] {
        0xC2..=0xDF => 2,
        0xE0..=0xEF => 3,
        0xF0..=0xF4 => 4,
        _ => return None,
    };
    let c = std::str::from_utf8(text.get(..len)?).ok()?.chars().next()?;
    Some((c, len))
}

/// Appends the weights, big endian.
pub(super) fn sort_key(method: Method, text: &[u8], out: &mut Vec<u8>) {
    let ascii_len = match method {
        Method::Uca | Method::UcaBmp => text.iter().take_while(|byte| byte.is_ascii()).count(),
        _ => 0,
    };
    let (ascii, rest) = text.split_at(ascii_len);
    ascii_sort_key(ascii, out);
    out.reserve(rest.len() * 2);
    for_each(method, rest, |weight| out.extend_from_slice(&weight.to_be_bytes()));
}

/// [`sort_key`] of ASCII text by the UCA: most text is, and keys of strings are made for
/// every row that is sorted or grouped. Characters without a weight leave no room.
fn ascii_sort_key(text: &[u8], out: &mut Vec<u8>) {
    let weights = uca::ascii();
    let start = out.len();
    out.resize(start + text.len() * 2, 0);
    let mut end = start;
    for byte in text {
        let weight = weights[usize::from(byte & 0x7F)];
        out[end..end + 2].copy_from_slice(&weight.to_be_bytes());
        end += if weight == 0 { 0 } else { 2 };
    }
    out.truncate(end);
}

/// Orders two texts by their weights.
pub(super) fn compare(method: Method, a: &[u8], b: &[u8]) -> Ordering {
    // Equal characters have equal weights, and no weight depends on a neighbour:
    // what both texts begin with need not be weighed.
    let same = a.iter().zip(b).take_while(|(x, y)| x == y).count();
    if same == a.len() && same == b.len() {
        return Ordering::Equal;
    }
    let is_inside = |text: &[u8], at: usize| text.get(at).is_some_and(|byte| byte & 0xC0 == 0x80);
    let mut start = same;
    while start > 0 && (is_inside(a, start) || is_inside(b, start)) {
        start -= 1;
    }
    let (a, b) = (&a[start..], &b[start..]);
    // Most comparisons are decided by a common ASCII prefix: no buffers needed.
    let at = match method {
        Method::Uca | Method::UcaBmp => {
            let ascii = uca::ascii();
            ascii_prefix(a, b, |byte| ascii[usize::from(byte)])
        }
        Method::Bytes | Method::Gbk => ascii_prefix(a, b, |byte| u16::from(byte) + 1),
        Method::General | Method::AsciiCi | Method::GbkCi => {
            ascii_prefix(a, b, |byte| u16::from(byte.to_ascii_uppercase()) + 1)
        }
    };
    let at = match at {
        Ok(order) => return order,
        Err(at) => at,
    };
    let (a, b) = (&a[at..], &b[at..]);
    if a.is_empty() && b.is_empty() {
        return Ordering::Equal;
    }
    let mut x = Cursor::new(method, a);
    let mut y = Cursor::new(method, b);
    loop {
        match (x.next(), y.next()) {
            (None, None) => return Ordering::Equal,
            (None, Some(_)) => return Ordering::Less,
            (Some(_), None) => return Ordering::Greater,
            (Some(x), Some(y)) if x != y => return x.cmp(&y),
            (Some(_), Some(_)) => {}
        }
    }
}

/// Compares ASCII characters from the start. Gives the order once they differ, or
/// the position from which on both are equal so far but not plain ASCII with
/// exactly one weight (0: none) each.
#[inline]
fn ascii_prefix(a: &[u8], b: &[u8], weight: impl Fn(u8) -> u16) -> Result<Ordering, usize> {
    for (at, (x, y)) in a.iter().zip(b).enumerate() {
        if *x >= 0x80 || *y >= 0x80 {
            return Err(at);
        }
        let (x, y) = (weight(*x), weight(*y));
        if x == 0 || y == 0 {
            return Err(at);
        }
        if x != y {
            return Ok(x.cmp(&y));
        }
    }
    Err(a.len().min(b.len()))
}

/// Weights of a text one by one.
struct Cursor<'a> {
    method: Method,
    text: &'a [u8],
    pending: smallvec::SmallVec<[u16; 4]>,
    at: usize,
}

impl<'a> Cursor<'a> {
    fn new(method: Method, text: &'a [u8]) -> Cursor<'a> {
        Cursor { method, text, pending: smallvec::SmallVec::new(), at: 0 }
    }

    fn next(&mut self) -> Option<u16> {
        while self.at == self.pending.len() {
            if self.text.is_empty() {
                return None;
            }
            self.pending.clear();
            self.at = 0;
            let pending = &mut self.pending;
            let len = char_weights(self.method, self.text, &mut |weight| pending.push(weight));
            self.text = &self.text[len..];
        }
        self.at += 1;
        Some(self.pending[self.at - 1])
    }
}
