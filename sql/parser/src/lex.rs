//! The lexer: MySQL's tokens as byte ranges of the text.
//!
//! **Flow.** Three readers share it: the splitter of multi-statements, the parser (through
//! `token.rs`, which turns ranges into the parsing library's tokens) and the digest. It allocates
//! nothing and never fails: what is no token is [`Kind::Bad`] and the reader decides.
//!
//! **Comments.** `-- `, `#` and `/* */` are blanks. `/*!80000 x */` is read as `x` up to
//! [`SERVER_VERSION`] and as a blank beyond; `/*T! x */` and `/*T![feature] x */` (TiDB's) are
//! always read. `/*+ x */` is a [`Kind::Hint`].
//!
//! **Left out.** Character sets other than UTF-8: the session converts the text before it is
//! parsed.

/// The MySQL version that Cairn answers for in versioned comments.
pub const SERVER_VERSION: u32 = 80_036;

/// The parts of `sql_mode` that change how text is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SqlMode {
    /// `"x"` is an identifier, not a string.
    pub ansi_quotes: bool,
    /// `||` concatenates; otherwise it is `OR`.
    pub pipes_as_concat: bool,
    /// `\` is an ordinary character in strings.
    pub no_backslash_escapes: bool,
    /// `NOT` binds like `!`.
    pub high_not_precedence: bool,
    /// Blanks may stand between a function's name and its `(`. Cairn always allows them; the
    /// flag makes the names of built-in functions no weaker.
    pub ignore_space: bool,
}

impl SqlMode {
    /// The flags that a value of the variable `sql_mode` sets. Names the parser does not know
    /// are left to whoever checks the variable.
    pub fn from_variable(value: &str) -> SqlMode {
        let mut mode = SqlMode::default();
        for name in value.split(',').map(str::trim) {
            match name.to_ascii_uppercase().as_str() {
                "ANSI" => {
                    mode.ansi_quotes = true;
                    mode.pipes_as_concat = true;
                    mode.ignore_space = true;
                }
                "ANSI_QUOTES" => mode.ansi_quotes = true,
                "PIPES_AS_CONCAT" => mode.pipes_as_concat = true,
                "NO_BACKSLASH_ESCAPES" => mode.no_backslash_escapes = true,
                "HIGH_NOT_PRECEDENCE" => mode.high_not_precedence = true,
                "IGNORE_SPACE" => mode.ignore_space = true,
                _ => {}
            }
        }
        mode
    }
}

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A word: keyword or identifier.
    Word,
    /// `` `x` ``, or `"x"` under `ANSI_QUOTES`; the range includes the quotes.
    QuotedWord,
    /// `@x`, `` @`x` ``, `@'x'`; the range includes the sign.
    UserVariable,
    /// `@@x`, `@@global.x`.
    SystemVariable,
    /// `'x'` or `"x"`; the range includes the quotes.
    String,
    /// `N'x'`.
    National,
    /// `0x4D`, `x'4D'`.
    Hex,
    /// `0b1`, `b'1'`.
    Bit,
    /// Digits.
    Integer,
    /// Digits with a point.
    Decimal,
    /// Digits with an exponent.
    Float,
    /// `?`.
    Parameter,
    /// An operator or a sign of punctuation.
    Sign,
    /// `;`.
    Semicolon,
    /// `/*+ x */`; the range is the text between the signs.
    Hint,
    /// No token: a stray character, or a string, comment or quoted word without its end.
    Bad,
}

/// A token's kind and bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawToken {
    /// What it is.
    pub kind: Kind,
    /// Its first byte.
    pub start: usize,
    /// The byte after its last.
    pub end: usize,
}

/// Reads tokens one after another.
#[derive(Clone, Debug)]
pub struct Lexer<'a> {
    bytes: &'a [u8],
    pos: usize,
    mode: SqlMode,
    /// Inside a versioned comment that is read: its `*/` is a blank.
    in_versioned_comment: bool,
    /// The last token was a `.`: a word follows, whatever it starts with.
    after_period: bool,
    /// Where the last token ends if it is a word: a `.5` right after it is no number.
    name_end: usize,
}

/// One bit per property of a byte.
const BLANK: u8 = 1;
const WORD: u8 = 2;
const DIGIT: u8 = 4;

/// The properties of every byte.
static CLASSES: [u8; 256] = {
    let mut table = [0u8; 256];
    let mut byte = 0usize;
    while byte < 256 {
        let b = byte as u8;
        table[byte] = match b {
            b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c => BLANK,
            b'0'..=b'9' => WORD | DIGIT,
            b'a'..=b'z' | b'A'..=b'Z' | b'_' | b'$' | 0x80..=0xff => WORD,
            _ => 0,
        };
        byte += 1;
    }
    table
};

fn is(byte: u8, class: u8) -> bool {
    CLASSES[byte as usize] & class != 0
}

impl<'a> Lexer<'a> {
    /// A lexer over a text.
    pub fn new(text: &'a str, mode: SqlMode) -> Lexer<'a> {
        Lexer {
            bytes: text.as_bytes(),
            pos: 0,
            mode,
            in_versioned_comment: false,
            after_period: false,
            name_end: usize::MAX,
        }
    }

    /// A lexer that starts at a byte of the text.
    pub fn starting_at(text: &'a str, start: usize, mode: SqlMode) -> Lexer<'a> {
        Lexer { pos: start, ..Lexer::new(text, mode) }
    }

    /// The byte after the last token read.
    pub fn position(&self) -> usize {
        self.pos
    }

    fn peek(&self, ahead: usize) -> u8 {
        self.bytes.get(self.pos + ahead).copied().unwrap_or(0)
    }

    /// Skips blanks and comments. A hint or a comment without end is returned.
    fn skip_blanks(&mut self) -> Option<RawToken> {
        while let Some(&byte) = self.bytes.get(self.pos) {
            match byte {
                _ if is(byte, BLANK) => self.pos += 1,
                b'#' => self.skip_line(),
                b'-' if self.peek(1) == b'-' && (self.peek(2) <= b' ' || self.peek(2) == 0x7f) => {
                    self.skip_line();
                }
                b'/' if self.peek(1) == b'*' => {
                    if let Some(token) = self.comment() {
                        return Some(token);
                    }
                }
                b'*' if self.in_versioned_comment && self.peek(1) == b'/' => {
                    self.in_versioned_comment = false;
                    self.pos += 2;
                }
                _ => break,
            }
        }
        None
    }

    fn skip_line(&mut self) {
        self.pos = match memchr::memchr(b'\n', &self.bytes[self.pos..]) {
            Some(length) => self.pos + length + 1,
            None => self.bytes.len(),
        };
    }

    /// At `/*`: skips the comment, or only its head when its contents are to be read.
    fn comment(&mut self) -> Option<RawToken> {
        let start = self.pos;
        let head = &self.bytes[start + 2..];
        match head.first() {
            Some(b'+') => {
                let Some(end) = self.comment_end(start + 3) else { return Some(self.bad(start)) };
                self.pos = end;
                return Some(RawToken { kind: Kind::Hint, start: start + 3, end: end - 2 });
            }
            Some(b'!') => {
                let digits =
                    head[1..].iter().take(6).take_while(|byte| byte.is_ascii_digit()).count();
                let digits = if digits >= 5 { digits } else { 0 };
                let version = head[1..1 + digits]
                    .iter()
                    .fold(0u32, |version, byte| version * 10 + u32::from(byte - b'0'));
                if version <= SERVER_VERSION {
                    self.pos = start + 3 + digits;
                    self.in_versioned_comment = true;
                    return None;
                }
            }
            Some(b'T') if head.get(1) == Some(&b'!') => {
                let mut body = start + 4;
                if self.bytes.get(body) == Some(&b'[') {
                    match memchr::memchr(b']', &self.bytes[body..]) {
                        Some(length) => body += length + 1,
                        None => return Some(self.bad(start)),
                    }
                }
                self.pos = body;
                self.in_versioned_comment = true;
                return None;
            }
            _ => {}
        }
        match self.comment_end(start + 2) {
            Some(end) => {
                self.pos = end;
                None
            }
            None => Some(self.bad(start)),
        }
    }

    /// The byte after the `*/` that ends a comment.
    fn comment_end(&self, from: usize) -> Option<usize> {
        let rest = self.bytes.get(from..)?;
        memchr::memmem::find(rest, b"*/").map(|length| from + length + 2)
    }

    /// The rest of the text, which is no token.
    fn bad(&mut self, start: usize) -> RawToken {
        self.pos = self.bytes.len();
        RawToken { kind: Kind::Bad, start, end: self.bytes.len() }
    }

    /// Reads the next token.
    pub fn next_token(&mut self) -> Option<RawToken> {
        if let Some(token) = self.skip_blanks() {
            return Some(token);
        }
        let start = self.pos;
        let byte = *self.bytes.get(start)?;
        let kind = match byte {
            _ if is(byte, DIGIT) && !self.after_period => self.number_or_word(),
            b'x' | b'X' | b'b' | b'B' | b'n' | b'N'
                if self.peek(1) == b'\'' && !self.after_period =>
            {
                self.prefixed_string(byte)
            }
            _ if is(byte, WORD) => self.word(),
            b'\'' => self.quoted(byte, Kind::String),
            b'"' if self.mode.ansi_quotes => self.quoted(byte, Kind::QuotedWord),
            b'"' => self.quoted(byte, Kind::String),
            b'`' => self.quoted(byte, Kind::QuotedWord),
            b'@' => self.variable(),
            b'.' if is(self.peek(1), DIGIT) && self.name_end != start => self.fraction(),
            b'?' => self.sign(1, Kind::Parameter),
            b';' => self.sign(1, Kind::Semicolon),
            _ => self.operator(byte),
        };
        self.after_period = byte == b'.' && kind == Kind::Sign;
        let name = matches!(kind, Kind::Word | Kind::QuotedWord);
        self.name_end = if name { self.pos } else { usize::MAX };
        Some(RawToken { kind, start, end: self.pos })
    }

    fn sign(&mut self, length: usize, kind: Kind) -> Kind {
        self.pos += length;
        kind
    }

    fn operator(&mut self, byte: u8) -> Kind {
        let length = match (byte, self.peek(1), self.peek(2)) {
            (b'<', b'=', b'>') | (b'-', b'>', b'>') => 3,
            (b'<', b'=' | b'>' | b'<', _)
            | (b'>', b'=' | b'>', _)
            | (b'!', b'=', _)
            | (b':', b'=', _)
            | (b'|', b'|', _)
            | (b'&', b'&', _)
            | (b'-', b'>', _) => 2,
            (
                b'+' | b'-' | b'*' | b'/' | b'%' | b'^' | b'~' | b'!' | b'&' | b'|' | b'=' | b'<'
                | b'>' | b'(' | b')' | b',' | b'.',
                ..,
            ) => 1,
            _ => return self.sign(1, Kind::Bad),
        };
        self.sign(length, Kind::Sign)
    }

    fn skip_class(&mut self, class: u8) {
        while self.bytes.get(self.pos).is_some_and(|&byte| is(byte, class)) {
            self.pos += 1;
        }
    }

    fn word(&mut self) -> Kind {
        self.skip_class(WORD);
        Kind::Word
    }

    /// A token that starts with a digit: MySQL's identifiers may, too.
    fn number_or_word(&mut self) -> Kind {
        let start = self.pos;
        if self.peek(0) == b'0' && matches!(self.peek(1), b'x' | b'b') {
            let hex = self.peek(1) == b'x';
            let digits = self.bytes[start + 2..]
                .iter()
                .take_while(|byte| {
                    if hex { byte.is_ascii_hexdigit() } else { matches!(byte, b'0' | b'1') }
                })
                .count();
            let end = start + 2 + digits;
            if digits > 0 && !self.bytes.get(end).is_some_and(|&byte| is(byte, WORD)) {
                self.pos = end;
                return if hex { Kind::Hex } else { Kind::Bit };
            }
        }
        self.skip_class(DIGIT);
        if self.peek(0) == b'.' {
            return self.fraction();
        }
        if self.exponent() {
            return Kind::Float;
        }
        if is(self.peek(0), WORD) {
            return self.word();
        }
        Kind::Integer
    }

    /// At the point of a number.
    fn fraction(&mut self) -> Kind {
        self.pos += 1;
        self.skip_class(DIGIT);
        if self.exponent() { Kind::Float } else { Kind::Decimal }
    }

    /// Reads `e+10` if it is there.
    fn exponent(&mut self) -> bool {
        if !matches!(self.peek(0), b'e' | b'E') {
            return false;
        }
        let sign = usize::from(matches!(self.peek(1), b'+' | b'-'));
        if !is(self.peek(1 + sign), DIGIT) {
            return false;
        }
        let start = self.pos;
        self.pos += 1 + sign;
        self.skip_class(DIGIT);
        // `1e5x` is a word, unless a sign made it a number already.
        if sign == 0 && is(self.peek(0), WORD) {
            self.pos = start;
            return false;
        }
        true
    }

    /// `x'..'`, `b'..'`, `n'..'`.
    fn prefixed_string(&mut self, prefix: u8) -> Kind {
        self.pos += 1;
        let kind = match prefix.to_ascii_lowercase() {
            b'x' => Kind::Hex,
            b'b' => Kind::Bit,
            _ => Kind::National,
        };
        let start = self.pos + 1;
        let kind = self.quoted(b'\'', kind);
        let Some(body) = self.bytes.get(start..self.pos.saturating_sub(1)) else {
            return Kind::Bad;
        };
        let good = match kind {
            Kind::Hex => body.len() % 2 == 0 && body.iter().all(u8::is_ascii_hexdigit),
            Kind::Bit => body.iter().all(|byte| matches!(byte, b'0' | b'1')),
            _ => true,
        };
        if good { kind } else { Kind::Bad }
    }

    /// A quoted token; the quote doubled is the quote itself.
    fn quoted(&mut self, quote: u8, kind: Kind) -> Kind {
        let escapes = quote != b'`' && kind != Kind::QuotedWord && !self.mode.no_backslash_escapes;
        self.pos += 1;
        loop {
            let rest = &self.bytes[self.pos.min(self.bytes.len())..];
            let found = if escapes {
                memchr::memchr2(quote, b'\\', rest)
            } else {
                memchr::memchr(quote, rest)
            };
            let Some(length) = found else {
                self.pos = self.bytes.len();
                return Kind::Bad;
            };
            self.pos += length;
            let escape = self.peek(0) == b'\\' && escapes;
            if escape || self.peek(1) == quote {
                self.pos += 2;
            } else {
                self.pos += 1;
                return kind;
            }
        }
    }

    /// `@x` and `@@x`.
    fn variable(&mut self) -> Kind {
        if self.peek(1) == b'@' {
            self.pos += 2;
            loop {
                if self.peek(0) == b'`' {
                    if self.quoted(b'`', Kind::SystemVariable) == Kind::Bad {
                        return Kind::Bad;
                    }
                } else {
                    self.skip_class(WORD);
                }
                if self.peek(0) != b'.' {
                    return Kind::SystemVariable;
                }
                self.pos += 1;
            }
        }
        self.pos += 1;
        match self.peek(0) {
            quote @ (b'`' | b'\'' | b'"') => self.quoted(quote, Kind::UserVariable),
            _ => {
                while is(self.peek(0), WORD) || self.peek(0) == b'.' {
                    self.pos += 1;
                }
                Kind::UserVariable
            }
        }
    }
}

/// The contents of a quoted token, quotes and escapes resolved.
pub fn unquote(token: &str, mode: SqlMode) -> String {
    let Some(quote) = token.chars().next() else { return String::new() };
    let body = token.get(1..token.len().saturating_sub(1)).unwrap_or("");
    let escapes = quote != '`' && !mode.no_backslash_escapes && !(quote == '"' && mode.ansi_quotes);
    let escaped = escapes && body.contains('\\');
    if !escaped && !body.contains(quote) {
        return body.to_owned();
    }
    let mut out = String::with_capacity(body.len());
    let mut chars = body.chars();
    while let Some(c) = chars.next() {
        if c == quote {
            // Doubled: the lexer has seen that another one follows.
            chars.next();
            out.push(quote);
        } else if c == '\\' && escapes {
            match chars.next() {
                Some('0') => out.push('\0'),
                Some('b') => out.push('\u{8}'),
                Some('n') => out.push('\n'),
                Some('r') => out.push('\r'),
                Some('t') => out.push('\t'),
                Some('Z') => out.push('\u{1a}'),
                // Kept with the backslash: they mean something to LIKE only.
                Some(c @ ('%' | '_')) => out.extend(['\\', c]),
                Some(c) => out.push(c),
                None => out.push('\\'),
            }
        } else {
            out.push(c);
        }
    }
    out
}

/// The bytes of `x'..'` or `0x..`.
pub fn hex_bytes(token: &str) -> Vec<u8> {
    let digits: Vec<u8> = token
        .get(1..)
        .unwrap_or("")
        .bytes()
        .filter(u8::is_ascii_hexdigit)
        .map(|byte| (byte as char).to_digit(16).map_or(0, |digit| digit as u8))
        .collect();
    // `0xABC` is `0x0ABC`.
    let (head, rest) = digits.split_at(digits.len() % 2);
    head.iter().copied().chain(rest.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1])).collect()
}

/// The bytes of `b'..'` or `0b..`.
pub fn bit_bytes(token: &str) -> Vec<u8> {
    let digits: Vec<u8> = token
        .get(1..)
        .unwrap_or("")
        .bytes()
        .filter(|byte| matches!(byte, b'0' | b'1'))
        .map(|byte| byte - b'0')
        .collect();
    let (head, rest) = digits.split_at(digits.len() % 8);
    let byte = |bits: &[u8]| bits.iter().fold(0u8, |byte, bit| byte << 1 | bit);
    let head = if head.is_empty() { None } else { Some(byte(head)) };
    head.into_iter().chain(rest.chunks_exact(8).map(byte)).collect()
}
