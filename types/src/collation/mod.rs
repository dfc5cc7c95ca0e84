//! Collations and character sets.
//!
//! A [`Collation`] is MySQL's collation id. All text in Cairn is kept as UTF-8,
//! whatever its declared character set; the character set only limits which
//! characters may be stored and tells the length of a character to the client.
//!
//! **Data.** A collation turns a text into a sequence of 16-bit weights
//! (`weights`); [`Collation::compare`], [`Collation::sort_key`] and
//! [`Collation::hash`] all see the same sequence, so equal texts have equal keys
//! and equal hashes. PAD SPACE collations drop trailing spaces first.
//!
//! **Invariants.** `compare(a, b) == sort_key(a).cmp(sort_key(b))` (tested).
//!
//! **Left out.** Contractions of DUCET (a few sequences of Indic, Tibetan and
//! Cyrillic letters). `unicode_ci` uses the same, newer table as `0900_ai_ci`.
//! `gbk_chinese_ci` orders by GBK code, not by pinyin, and `latin1_swedish_ci` as
//! `general_ci`. Characters below the space
//! compare as longer than padding in PAD SPACE collations (`'a' < 'a\t'`).

mod accents;
mod uca;
mod weights;

use std::cmp::Ordering;
use std::fmt;
use std::hash::Hasher;

use serde::{Deserialize, Serialize};

pub use uca::hangul_letters;

/// A MySQL collation, by its id.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Collation(u16);

/// How a collation derives its weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    /// The bytes themselves.
    Bytes,
    /// Code order of GBK, case kept.
    Gbk,
    /// Code order of GBK after ASCII upper-casing.
    GbkCi,
    /// One weight per character: simple upper case without accents.
    General,
    /// ASCII upper case only.
    AsciiCi,
    /// UCA primary weights.
    Uca,
    /// UCA primary weights of the BMP; all other characters are alike.
    UcaBmp,
}

/// One row of the collation table.
#[derive(Debug)]
pub struct CollationInfo {
    /// The collation.
    pub collation: Collation,
    /// Its name, lower case.
    pub name: &'static str,
    /// Its character set.
    pub charset: Charset,
    /// Whether it is the default of its character set.
    pub is_default: bool,
    /// PAD SPACE (trailing spaces do not count) or NO PAD.
    pub pad_space: bool,
    pub(crate) method: Method,
}

/// A character set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Charset {
    /// Bytes.
    Binary,
    /// UTF-8, up to 4 bytes.
    Utf8mb4,
    /// UTF-8 of the BMP, up to 3 bytes.
    Utf8mb3,
    /// 7-bit ASCII.
    Ascii,
    /// Windows-1252, which MySQL calls latin1.
    Latin1,
    /// GBK.
    Gbk,
}

impl Charset {
    /// All character sets, by name.
    pub const ALL: [Charset; 6] = [
        Charset::Ascii,
        Charset::Binary,
        Charset::Gbk,
        Charset::Latin1,
        Charset::Utf8mb3,
        Charset::Utf8mb4,
    ];

    /// Name as MySQL prints it.
    pub fn name(self) -> &'static str {
        match self {
            Charset::Binary => "binary",
            Charset::Utf8mb4 => "utf8mb4",
            Charset::Utf8mb3 => "utf8mb3",
            Charset::Ascii => "ascii",
            Charset::Latin1 => "latin1",
            Charset::Gbk => "gbk",
        }
    }

    /// Looks a name up; case does not matter, `utf8` is `utf8mb3`.
    pub fn from_name(name: &str) -> Option<Charset> {
        if name.eq_ignore_ascii_case("utf8") {
            return Some(Charset::Utf8mb3);
        }
        Charset::ALL.into_iter().find(|charset| charset.name().eq_ignore_ascii_case(name))
    }

    /// Description in SHOW CHARACTER SET.
    pub fn description(self) -> &'static str {
        match self {
            Charset::Binary => "Binary pseudo charset",
            Charset::Utf8mb4 => "UTF-8 Unicode",
            Charset::Utf8mb3 => "UTF-8 Unicode",
            Charset::Ascii => "US ASCII",
            Charset::Latin1 => "cp1252 West European",
            Charset::Gbk => "GBK Simplified Chinese",
        }
    }

    /// Longest character in bytes, in the character set's own encoding.
    pub fn max_len(self) -> u32 {
        match self {
            Charset::Binary | Charset::Ascii | Charset::Latin1 => 1,
            Charset::Gbk => 2,
            Charset::Utf8mb3 => 3,
            Charset::Utf8mb4 => 4,
        }
    }

    /// The collation a column of this character set has if none is named.
    pub fn default_collation(self) -> Collation {
        match self {
            Charset::Binary => Collation::BINARY,
            Charset::Utf8mb4 => Collation::UTF8MB4_0900_AI_CI,
            Charset::Utf8mb3 => Collation::UTF8_GENERAL_CI,
            Charset::Ascii => Collation::ASCII_GENERAL_CI,
            Charset::Latin1 => Collation::LATIN1_SWEDISH_CI,
            Charset::Gbk => Collation::GBK_CHINESE_CI,
        }
    }

    /// The `_bin` collation of this character set.
    pub fn binary_collation(self) -> Collation {
        match self {
            Charset::Binary => Collation::BINARY,
            Charset::Utf8mb4 => Collation::UTF8MB4_BIN,
            Charset::Utf8mb3 => Collation::UTF8_BIN,
            Charset::Ascii => Collation::ASCII_BIN,
            Charset::Latin1 => Collation::LATIN1_BIN,
            Charset::Gbk => Collation::GBK_BIN,
        }
    }

    /// Byte offset of the first character this set cannot hold, if any.
    /// `bytes` are UTF-8 (or anything, for `binary`).
    pub fn find_invalid(self, bytes: &[u8]) -> Option<usize> {
        if self == Charset::Binary || bytes.is_ascii() {
            return None;
        }
        let text = match simdutf8::compat::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => return Some(error.valid_up_to()),
        };
        let fits: fn(char) -> bool = match self {
            Charset::Utf8mb4 | Charset::Binary => return None,
            Charset::Utf8mb3 => |c| u32::from(c) <= 0xFFFF,
            Charset::Ascii => |c| c.is_ascii(),
            Charset::Latin1 => |c| encodes(encoding_rs::WINDOWS_1252, c),
            Charset::Gbk => |c| encodes(encoding_rs::GBK, c),
        };
        text.char_indices().find(|(_, c)| !fits(*c)).map(|(at, _)| at)
    }
}

impl Charset {
    /// Bytes of this character set as UTF-8; `None` if they are none of it.
    pub fn decode(self, bytes: &[u8]) -> Option<String> {
        let encoding = match self {
            Charset::Latin1 => encoding_rs::WINDOWS_1252,
            Charset::Gbk => encoding_rs::GBK,
            _ if self.find_invalid(bytes).is_some() => return None,
            _ => return String::from_utf8(bytes.to_vec()).ok(),
        };
        let text = encoding.decode_without_bom_handling_and_without_replacement(bytes);
        text.map(std::borrow::Cow::into_owned)
    }

    /// UTF-8 text in this character set's own encoding; characters it lacks
    /// become `?`.
    pub fn encode(self, text: &str) -> Vec<u8> {
        let encoding = match self {
            Charset::Latin1 => encoding_rs::WINDOWS_1252,
            Charset::Gbk => encoding_rs::GBK,
            _ => return self.replace_invalid(text).into_bytes(),
        };
        // The encoder writes `&#…;` for what it lacks, so that is replaced first.
        let text = self.replace_invalid(text);
        let (bytes, _, _) = encoding.encode(&text);
        bytes.into_owned()
    }

    /// The text with `?` for every character the set lacks.
    pub fn replace_invalid(self, text: &str) -> String {
        if self.find_invalid(text.as_bytes()).is_none() {
            return text.to_owned();
        }
        let mut buffer = [0; 4];
        let fits = |c: char, buffer: &mut [u8; 4]| {
            self.find_invalid(c.encode_utf8(buffer).as_bytes()).is_none()
        };
        text.chars().map(|c| if fits(c, &mut buffer) { c } else { '?' }).collect()
    }
}

fn encodes(encoding: &'static encoding_rs::Encoding, c: char) -> bool {
    let mut buffer = [0; 4];
    let (_, _, replaced) = encoding.encode(c.encode_utf8(&mut buffer));
    !replaced
}

impl fmt::Display for Charset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

macro_rules! collations {
    ($($(#[$doc:meta])* $konst:ident = $id:literal, $name:literal, $charset:ident, $default:literal, $pad:literal, $method:ident;)*) => {
        impl Collation {
            $($(#[$doc])* pub const $konst: Collation = Collation($id);)*
        }

        /// All collations Cairn knows, by id.
        pub static COLLATIONS: &[CollationInfo] = &[$(CollationInfo {
            collation: Collation($id),
            name: $name,
            charset: Charset::$charset,
            is_default: $default,
            pad_space: $pad,
            method: Method::$method,
        }),*];

        const IDS: &[u16] = &[$($id),*];
    };
}

collations! {
    /// Swedish order, case-insensitive (id 8).
    LATIN1_SWEDISH_CI = 8, "latin1_swedish_ci", Latin1, true, true, General;
    /// ASCII, case-insensitive (id 11).
    ASCII_GENERAL_CI = 11, "ascii_general_ci", Ascii, true, true, AsciiCi;
    /// GBK, case-insensitive (id 28).
    GBK_CHINESE_CI = 28, "gbk_chinese_ci", Gbk, true, true, GbkCi;
    /// utf8mb3, one weight per character (id 33).
    UTF8_GENERAL_CI = 33, "utf8mb3_general_ci", Utf8mb3, true, true, General;
    /// utf8mb4, one weight per character (id 45).
    UTF8MB4_GENERAL_CI = 45, "utf8mb4_general_ci", Utf8mb4, false, true, General;
    /// utf8mb4 by code point, trailing spaces ignored (id 46).
    UTF8MB4_BIN = 46, "utf8mb4_bin", Utf8mb4, false, true, Bytes;
    /// latin1 by code (id 47).
    LATIN1_BIN = 47, "latin1_bin", Latin1, false, true, Bytes;
    /// Bytes (id 63).
    BINARY = 63, "binary", Binary, true, false, Bytes;
    /// ASCII by code (id 65).
    ASCII_BIN = 65, "ascii_bin", Ascii, false, true, Bytes;
    /// utf8mb3 by code point (id 83).
    UTF8_BIN = 83, "utf8mb3_bin", Utf8mb3, false, true, Bytes;
    /// GBK by code (id 87).
    GBK_BIN = 87, "gbk_bin", Gbk, false, true, Gbk;
    /// utf8mb3, UCA 4.0 (id 192).
    UTF8_UNICODE_CI = 192, "utf8mb3_unicode_ci", Utf8mb3, false, true, UcaBmp;
    /// utf8mb4, UCA 4.0 (id 224).
    UTF8MB4_UNICODE_CI = 224, "utf8mb4_unicode_ci", Utf8mb4, false, true, UcaBmp;
    /// utf8mb4, UCA 9.0, Cairn's default (id 255).
    UTF8MB4_0900_AI_CI = 255, "utf8mb4_0900_ai_ci", Utf8mb4, true, false, Uca;
    /// utf8mb4 by code point, NO PAD (id 309).
    UTF8MB4_0900_BIN = 309, "utf8mb4_0900_bin", Utf8mb4, false, false, Bytes;
}

/// One more than the largest id.
const ID_END: usize = 310;
/// Row of [`COLLATIONS`] by id.
static ROW_OF_ID: [u8; ID_END] = {
    let mut rows = [u8::MAX; ID_END];
    let mut at = 0;
    while at < IDS.len() {
        rows[IDS[at] as usize] = at as u8;
        at += 1;
    }
    rows
};

#[inline]
fn info_of(id: u16) -> Option<&'static CollationInfo> {
    let row = ROW_OF_ID.get(usize::from(id))?;
    COLLATIONS.get(usize::from(*row))
}

impl Default for Collation {
    fn default() -> Collation {
        Collation::UTF8MB4_0900_AI_CI
    }
}

impl Collation {
    /// The collation with this id, if Cairn knows it.
    pub fn from_id(id: u16) -> Option<Collation> {
        info_of(id).map(|info| info.collation)
    }

    /// Looks a name up; case does not matter, `utf8_…` is `utf8mb3_…`.
    pub fn from_name(name: &str) -> Option<Collation> {
        let lower = name.to_ascii_lowercase();
        let name = match lower.strip_prefix("utf8_") {
            Some(rest) => format!("utf8mb3_{rest}"),
            None => lower,
        };
        COLLATIONS.iter().find(|info| info.name == name).map(|info| info.collation)
    }

    /// MySQL's id.
    pub fn id(self) -> u16 {
        self.0
    }

    /// The table row. An id that came from outside and is unknown reads as `binary`.
    #[inline]
    pub fn info(self) -> &'static CollationInfo {
        info_of(self.0).or_else(|| info_of(63)).expect("the collation table has a row for `binary`")
    }

    /// Name, lower case.
    pub fn name(self) -> &'static str {
        self.info().name
    }

    /// Character set.
    pub fn charset(self) -> Charset {
        self.info().charset
    }

    /// Whether this is the default of its character set.
    pub fn is_default(self) -> bool {
        self.info().is_default
    }

    /// Whether this is `binary`, whose values are bytes and not text.
    #[inline]
    pub fn is_binary(self) -> bool {
        self.0 == 63
    }

    /// Whether equal means byte-equal, up to padding.
    #[inline]
    pub fn is_bytewise(self) -> bool {
        self.info().method == Method::Bytes
    }

    /// Whether a character may have several weights, or none.
    #[inline]
    pub fn is_uca(self) -> bool {
        matches!(self.info().method, Method::Uca | Method::UcaBmp)
    }

    /// Whether trailing spaces do not count.
    #[inline]
    pub fn pad_space(self) -> bool {
        self.info().pad_space
    }

    /// Whether letters compare without regard to case.
    pub fn is_case_insensitive(self) -> bool {
        !matches!(self.info().method, Method::Bytes | Method::Gbk)
    }

    /// Orders two texts.
    #[inline]
    pub fn compare(self, a: &[u8], b: &[u8]) -> Ordering {
        let info = self.info();
        let (a, b) = (info.unpadded(a), info.unpadded(b));
        match info.method {
            Method::Bytes => a.cmp(b),
            method => weights::compare(method, a, b),
        }
    }

    /// Whether two texts are equal.
    #[inline]
    pub fn equals(self, a: &[u8], b: &[u8]) -> bool {
        self.compare(a, b) == Ordering::Equal
    }

    /// Appends bytes whose plain order is the order of this collation.
    #[inline]
    pub fn sort_key(self, text: &[u8], out: &mut Vec<u8>) {
        let info = self.info();
        let text = info.unpadded(text);
        match info.method {
            Method::Bytes => out.extend_from_slice(text),
            method => weights::sort_key(method, text, out),
        }
    }

    /// Feeds a hasher so that equal texts hash alike.
    #[inline]
    pub fn hash<H: Hasher>(self, text: &[u8], hasher: &mut H) {
        let info = self.info();
        let text = info.unpadded(text);
        match info.method {
            Method::Bytes => hasher.write(text),
            method => weights::for_each(method, text, |weight| hasher.write_u16(weight)),
        }
        hasher.write_u8(0xFF);
    }

    /// Weight sequence of one character: LIKE and LOCATE compare by it.
    pub fn char_equals(self, a: char, b: char) -> bool {
        if a == b {
            return true;
        }
        let (mut x, mut y) = ([0; 4], [0; 4]);
        let (x, y) = (a.encode_utf8(&mut x).as_bytes(), b.encode_utf8(&mut y).as_bytes());
        match self.info().method {
            Method::Bytes => false,
            method => weights::compare(method, x, y) == Ordering::Equal,
        }
    }
}

impl CollationInfo {
    /// Without the padding of PAD SPACE. Spaces before characters that have no weight are padding
    /// too: `' \u{200D}'` equals `''`.
    #[inline]
    fn unpadded<'t>(&self, text: &'t [u8]) -> &'t [u8] {
        if !self.pad_space {
            return text;
        }
        let text = trim(text);
        let has_weight = text.last().is_none_or(|byte| byte.is_ascii_graphic());
        match self.method {
            Method::Uca | Method::UcaBmp if !has_weight => self.without_weightless_end(text),
            _ => text,
        }
    }

    fn without_weightless_end<'t>(&self, mut text: &'t [u8]) -> &'t [u8] {
        while let Some(last) = last_char(text) {
            let mut has_weight = false;
            weights::for_each(self.method, last, |_| has_weight = true);
            if has_weight {
                break;
            }
            text = trim(&text[..text.len() - last.len()]);
        }
        text
    }
}

impl fmt::Debug for Collation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Collation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Without trailing spaces.
fn trim(text: &[u8]) -> &[u8] {
    let end = text.iter().rposition(|byte| *byte != b' ').map_or(0, |at| at + 1);
    &text[..end]
}

/// The last character, if it is one.
fn last_char(text: &[u8]) -> Option<&[u8]> {
    let start = text.iter().rposition(|byte| byte & 0xC0 != 0x80)?;
    std::str::from_utf8(&text[start..]).is_ok().then_some(&text[start..])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn spaces_before_weightless_characters_are_padding() {
        let ci = Collation::UTF8MB4_UNICODE_CI;
        for (a, b) in [(" \u{200D}", ""), ("a \u{301} ", "A"), ("a\u{1}", "a"), ("é \u{200D}", "e")]
        {
            assert!(ci.equals(a.as_bytes(), b.as_bytes()), "{a:?} {b:?}");
            let key = |text: &str| {
                let mut key = Vec::new();
                ci.sort_key(text.as_bytes(), &mut key);
                key
            };
            assert_eq!(key(a), key(b), "{a:?} {b:?}");
        }
        assert!(!ci.equals("a \u{200D}b".as_bytes(), b"ab"));
    }

    #[test]
    fn equalities_mysql_users_rely_on() {
        let ci = Collation::UTF8MB4_0900_AI_CI;
        assert!(ci.equals(b"abc", b"ABC"));
        assert!(ci.equals("é".as_bytes(), b"E"));
        assert!(ci.equals("ß".as_bytes(), b"ss"));
        assert!(!ci.equals(b"a", b"a "));
        assert!(Collation::UTF8MB4_GENERAL_CI.equals(b"a", b"A  "));
        assert!(Collation::UTF8MB4_GENERAL_CI.equals("ß".as_bytes(), b"s"));
        assert!(Collation::UTF8MB4_BIN.equals(b"a", b"a "));
        assert!(!Collation::UTF8MB4_BIN.equals(b"a", b"A"));
        assert!(!Collation::BINARY.equals(b"a", b"a "));
        assert!(ci.equals("Æ".as_bytes(), b"ae"));
        assert!(ci.equals("한".as_bytes(), "\u{1112}\u{1161}\u{11ab}".as_bytes()));
        let ordered = [
            "", " ", "_", "-", "!", "“", "€", "1", "a", "Z", "α", "Ω", "а", "й", "я", "한", "あ",
            "一", "丁",
        ];
        for pair in ordered.windows(2) {
            assert_eq!(
                ci.compare(pair[0].as_bytes(), pair[1].as_bytes()),
                Ordering::Less,
                "{pair:?}"
            );
        }
        assert!(!ci.equals("😀".as_bytes(), "😁".as_bytes()));
        assert!(Collation::UTF8MB4_UNICODE_CI.equals("😀".as_bytes(), "😁".as_bytes()));
        assert_eq!(ci.compare(b"_", b"1"), Ordering::Less);
        assert_eq!(ci.compare(b"1", b"a"), Ordering::Less);
        assert_eq!(ci.compare(b"a", b"B"), Ordering::Less);
    }

    #[test]
    fn names_and_charsets() {
        assert_eq!(Collation::from_name("UTF8_bin"), Some(Collation::UTF8_BIN));
        assert_eq!(Collation::from_id(309).unwrap().name(), "utf8mb4_0900_bin");
        assert_eq!(Charset::from_name("utf8"), Some(Charset::Utf8mb3));
        assert_eq!(Charset::Latin1.find_invalid("aé".as_bytes()), None);
        assert_eq!(Charset::Latin1.find_invalid("a漢".as_bytes()), Some(1));
        assert_eq!(Charset::Utf8mb3.find_invalid("ab😀".as_bytes()), Some(2));
        assert_eq!(Charset::Utf8mb4.find_invalid(b"ab\xff"), Some(2));
        assert_eq!(Charset::Gbk.encode("a漢😀"), b"a\x9dh?");
        assert_eq!(Charset::Gbk.decode(b"a\x9dh").as_deref(), Some("a漢"));
        assert_eq!(Charset::Latin1.encode("é"), b"\xe9");
        assert_eq!(Charset::Ascii.decode(b"\xe9"), None);
    }

    proptest! {
        #[test]
        fn sort_keys_order_as_compare(a in "[a-cA-C éÉß漢😀_]{0,6}", b in "[a-cA-C éÉß漢😀_]{0,6}") {
            for info in COLLATIONS {
                let (mut x, mut y) = (Vec::new(), Vec::new());
                info.collation.sort_key(a.as_bytes(), &mut x);
                info.collation.sort_key(b.as_bytes(), &mut y);
                prop_assert_eq!(x.cmp(&y), info.collation.compare(a.as_bytes(), b.as_bytes()), "{}", info.name);
            }
        }

        #[test]
        fn any_bytes_are_ordered(a: Vec<u8>, b: Vec<u8>) {
            for info in COLLATIONS {
                let (mut x, mut y) = (Vec::new(), Vec::new());
                info.collation.sort_key(&a, &mut x);
                info.collation.sort_key(&b, &mut y);
                prop_assert_eq!(x.cmp(&y), info.collation.compare(&a, &b), "{}", info.name);
            }
        }
    }
}
