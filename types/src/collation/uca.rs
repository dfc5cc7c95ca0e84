//! Primary weights of the Unicode Collation Algorithm.
//!
//! `ducet.bin` holds the single-character entries of the Default Unicode Collation
//! Element Table, reduced to their primary weights (all that an accent- and
//! case-insensitive collation looks at). Variable elements count, as in MySQL.
//! Records are in code point order:
//!
//! ```text
//! gap (varint, code points since the end of the last record) | kind u8 |
//!   0xFF: length (varint), weight u16     weights rise by one per code point
//!   0xFD: length (varint)                 no weights
//!   n:    n × u16                         the weights of one code point
//! ```
//!
//! Han, Tangut and unassigned characters have computed weights, Hangul syllables
//! those of their letters (UTS #10, 10.1).
//!
//! **Sources.** Unicode DUCET 13.0.0 (`allkeys.txt`, Unicode License). MySQL's
//! `0900` collations use 9.0.0: characters of both keep their order. The ignored
//! test `regenerate` writes the file anew.

use std::sync::LazyLock;

use smallvec::SmallVec;

static DUCET: &[u8] = include_bytes!("ducet.bin");

const PAGE: usize = 256;
const PAGES: usize = 0x11_0000 / PAGE;
/// Cell of a character that is not in the table.
const ABSENT: u32 = u32::MAX;
/// Bit of a cell that points to several weights: count in bits 24 to 30, offset
/// below. Other cells are the weight itself, 0 for none.
const SEVERAL: u32 = 1 << 31;

struct Table {
    ascii: [u16; 128],
    /// Number of a page in `cells`; page 0 is all absent.
    pages: Vec<u16>,
    cells: Vec<u32>,
    several: Vec<u16>,
}

static TABLE: LazyLock<Table> = LazyLock::new(|| Table::load(DUCET));

impl Table {
    fn load(mut data: &[u8]) -> Table {
        let mut table = Table {
            ascii: [0; 128],
            pages: vec![0; PAGES],
            cells: vec![ABSENT; PAGE],
            several: Vec::new(),
        };
        let mut code = 0;
        while !data.is_empty() {
            code += read_varint(&mut data);
            match read_byte(&mut data) {
                0xFF => {
                    let len = read_varint(&mut data);
                    let first = read_u16(&mut data);
                    for i in 0..len {
                        table.set(code + i, u32::from(first) + i as u32);
                    }
                    code += len;
                }
                0xFD => {
                    let len = read_varint(&mut data);
                    (0..len).for_each(|i| table.set(code + i, 0));
                    code += len;
                }
                count => {
                    let offset = table.several.len() as u32;
                    for _ in 0..count {
                        table.several.push(read_u16(&mut data));
                    }
                    let cell = match count {
                        0 => 0,
                        1 => u32::from(table.several.pop().unwrap_or(0)),
                        _ => SEVERAL | (u32::from(count) << 24) | offset,
                    };
                    table.set(code, cell);
                    code += 1;
                }
            }
        }
        for code in 0..128 {
            table.ascii[code] = u16::try_from(table.cell(code as u32)).unwrap_or(0);
        }
        table
    }

    fn set(&mut self, code: usize, cell: u32) {
        let page = &mut self.pages[code / PAGE];
        if *page == 0 {
            *page = (self.cells.len() / PAGE) as u16;
            self.cells.resize(self.cells.len() + PAGE, ABSENT);
        }
        self.cells[usize::from(*page) * PAGE + code % PAGE] = cell;
    }

    #[inline]
    fn cell(&self, code: u32) -> u32 {
        let page = usize::from(self.pages[code as usize / PAGE]);
        self.cells[page * PAGE + code as usize % PAGE]
    }
}

fn read_byte(data: &mut &[u8]) -> u8 {
    let (first, rest) = data.split_first().expect("ducet.bin ends with a whole record");
    *data = rest;
    *first
}

fn read_u16(data: &mut &[u8]) -> u16 {
    u16::from_le_bytes([read_byte(data), read_byte(data)])
}

fn read_varint(data: &mut &[u8]) -> usize {
    let (mut value, mut shift) = (0, 0);
    loop {
        let byte = read_byte(data);
        value |= usize::from(byte & 0x7F) << shift;
        shift += 7;
        if byte < 0x80 {
            return value;
        }
    }
}

/// Weights of ASCII characters; 0 for those that have none.
#[inline]
pub(super) fn ascii() -> &'static [u16; 128] {
    &TABLE.ascii
}

/// Emits the primary weights of a character.
pub(super) fn weights(c: char, emit: &mut impl FnMut(u16)) {
    let code = u32::from(c);
    let table = &*TABLE;
    match table.cell(code) {
        0 => {}
        ABSENT if (HANGUL_FIRST..=HANGUL_LAST).contains(&code) => {
            for letter in hangul_letters(c) {
                if let Ok(weight @ 1..) = u16::try_from(table.cell(u32::from(letter))) {
                    emit(weight);
                }
            }
        }
        ABSENT => implicit(code).iter().for_each(|weight| emit(*weight)),
        cell if cell & SEVERAL != 0 => {
            let (count, offset) = ((cell >> 24) & 0x7F, cell & 0xFF_FFFF);
            let weights = &table.several[offset as usize..(offset + count) as usize];
            weights.iter().for_each(|weight| emit(*weight));
        }
        weight => emit(weight as u16),
    }
}

const HANGUL_FIRST: u32 = 0xAC00;
const HANGUL_LAST: u32 = 0xD7A3;

/// Letters of a Hangul syllable (Unicode 3.12); none of other characters.
pub fn hangul_letters(c: char) -> SmallVec<[char; 3]> {
    let code = u32::from(c);
    if !(HANGUL_FIRST..=HANGUL_LAST).contains(&code) {
        return SmallVec::new();
    }
    let index = code - HANGUL_FIRST;
    let last = (!index.is_multiple_of(28)).then_some(0x11A7 + index % 28);
    let letters = [0x1100 + index / (21 * 28), 0x1161 + index / 28 % 21].into_iter().chain(last);
    letters.filter_map(char::from_u32).collect()
}

/// Computed weights of characters that DUCET does not list.
fn implicit(code: u32) -> [u16; 2] {
    let base = match code {
        0x17000..=0x18AFF => return [0xFB00, ((code - 0x17000) | 0x8000) as u16],
        0x4E00..=0x9FFC | 0xFA0E | 0xFA0F | 0xFA11 | 0xFA13 | 0xFA14 | 0xFA1F | 0xFA21 => 0xFB40,
        0xFA23 | 0xFA24 | 0xFA27..=0xFA29 => 0xFB40,
        0x3400..=0x4DBF | 0x20000..=0x2FA1F | 0x30000..=0x3134A => 0xFB80,
        _ => 0xFBC0,
    };
    [(base + (code >> 15)) as u16, ((code & 0x7FFF) | 0x8000) as u16]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn weights_of(c: char) -> Vec<u16> {
        let mut out = Vec::new();
        weights(c, &mut |weight| out.push(weight));
        out
    }

    #[test]
    fn known_weights() {
        assert_eq!(weights_of('A'), [0x1FA2]);
        assert_eq!(weights_of('a'), [0x1FA2]);
        assert_eq!(weights_of('æ'), [0x1FA2, 0x2007]);
        assert_eq!(weights_of('ß'), [0x21D2, 0x21D2]);
        assert!(weights_of('\0').is_empty());
        assert_eq!(weights_of('一'), [0xFB40, 0xCE00]);
        assert_eq!(weights_of('😀'), [0x189E]);
        assert_eq!(weights_of('\u{FDFA}').len(), 18);
    }

    /// Writes `ducet.bin` from the `allkeys.txt` that `CAIRN_ALLKEYS` names.
    #[test]
    #[ignore = "a tool: needs CAIRN_ALLKEYS"]
    fn regenerate() {
        let source = std::env::var("CAIRN_ALLKEYS").expect("CAIRN_ALLKEYS names allkeys.txt");
        let text = std::fs::read_to_string(source).unwrap();
        let path = "src/collation/ducet.bin";
        std::fs::write(path, encode(&parse(&text))).unwrap();
    }

    /// Code points with their primary weights.
    fn parse(text: &str) -> BTreeMap<u32, Vec<u16>> {
        let mut entries = BTreeMap::new();
        for line in text.lines() {
            let line = line.split('#').next().unwrap_or("");
            let Some((key, elements)) = line.split_once(';') else { continue };
            let Ok(code) = u32::from_str_radix(key.trim(), 16) else { continue };
            let weights = elements
                .split('[')
                .skip(1)
                .map(|element| u16::from_str_radix(&element[1..5], 16).unwrap())
                .filter(|weight| *weight != 0);
            entries.insert(code, weights.collect());
        }
        entries
    }

    fn encode(entries: &BTreeMap<u32, Vec<u16>>) -> Vec<u8> {
        let list: Vec<(u32, &[u16])> = entries.iter().map(|(c, w)| (*c, w.as_slice())).collect();
        let mut out = Vec::new();
        let (mut at, mut next) = (0, 0);
        while at < list.len() {
            let (code, weights) = list[at];
            write_varint(&mut out, code - next);
            let run = run_length(&list[at..]);
            match weights {
                [] if run > 1 => {
                    out.push(0xFD);
                    write_varint(&mut out, run as u32);
                }
                [first] if run > 2 => {
                    out.push(0xFF);
                    write_varint(&mut out, run as u32);
                    out.extend_from_slice(&first.to_le_bytes());
                }
                _ => {
                    out.push(weights.len() as u8);
                    weights.iter().for_each(|weight| out.extend_from_slice(&weight.to_le_bytes()));
                    at += 1;
                    next = code + 1;
                    continue;
                }
            }
            at += run;
            next = code + run as u32;
        }
        out
    }

    /// Entries from the first on that one record can hold.
    fn run_length(list: &[(u32, &[u16])]) -> usize {
        let (code, weights) = list[0];
        let fits = |i: usize| {
            let (own, other) = list[i];
            own == code + i as u32
                && match (weights, other) {
                    ([], []) => true,
                    ([first], [own]) => u32::from(*own) == u32::from(*first) + i as u32,
                    _ => false,
                }
        };
        (0..list.len()).take_while(|i| fits(*i)).count()
    }

    fn write_varint(out: &mut Vec<u8>, mut value: u32) {
        while value >= 0x80 {
            out.push(value as u8 | 0x80);
            value >>= 7;
        }
        out.push(value as u8);
    }
}
