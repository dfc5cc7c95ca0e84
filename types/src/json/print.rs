//! Documents as text, the way MySQL prints them: `{"a": 1, "b": [1, 2]}`.

use std::fmt;

use super::{Json, JsonKind, JsonRef};
use crate::error::{Result, TypeError};

impl JsonRef<'_> {
    /// Appends the text of the document.
    pub fn write_to(self, out: &mut Vec<u8>) {
        match self.kind() {
            JsonKind::Null => out.extend_from_slice(b"null"),
            JsonKind::Bool => {
                let text: &[u8] = if self.as_bool() == Some(true) { b"true" } else { b"false" };
                out.extend_from_slice(text);
            }
            JsonKind::Int => write_display(out, self.as_i64().unwrap_or(0)),
            JsonKind::UInt => write_display(out, self.as_u64().unwrap_or(0)),
            JsonKind::Double => write_double(self.as_f64().unwrap_or(0.0), out),
            JsonKind::Decimal => write_display(out, self.as_decimal().unwrap_or_default()),
            JsonKind::String => write_quoted(self.as_str().unwrap_or(""), out),
            JsonKind::Date | JsonKind::DateTime | JsonKind::Timestamp => {
                out.push(b'"');
                if let Some(time) = self.as_time() {
                    // MySQL prints all six digits within documents.
                    time.with_fsp(6).with_kind(time.kind()).write_to(out);
                }
                out.push(b'"');
            }
            JsonKind::Time => {
                out.push(b'"');
                if let Some(duration) = self.as_duration() {
                    duration.with_fsp(6).write_to(out);
                }
                out.push(b'"');
            }
            JsonKind::Opaque => {
                let (mysql_type, bytes) = self.as_opaque().unwrap_or_default();
                out.extend_from_slice(format!("\"base64:type{mysql_type}:").as_bytes());
                write_base64(bytes, out);
                out.push(b'"');
            }
            JsonKind::Array => {
                out.push(b'[');
                for (i, element) in self.elements().enumerate() {
                    if i > 0 {
                        out.extend_from_slice(b", ");
                    }
                    element.write_to(out);
                }
                out.push(b']');
            }
            JsonKind::Object => {
                out.push(b'{');
                for (i, (key, value)) in self.members().enumerate() {
                    if i > 0 {
                        out.extend_from_slice(b", ");
                    }
                    write_quoted(key, out);
                    out.extend_from_slice(b": ");
                    value.write_to(out);
                }
                out.push(b'}');
            }
        }
    }

    /// JSON_UNQUOTE: a string's text, or the printed document.
    pub fn to_unquoted(self) -> String {
        match self.as_str() {
            Some(text) => text.to_owned(),
            None => {
                let text = self.to_string();
                let quoted = matches!(
                    self.kind(),
                    JsonKind::Date
                        | JsonKind::DateTime
                        | JsonKind::Timestamp
                        | JsonKind::Time
                        | JsonKind::Opaque
                );
                if quoted { text.trim_matches('"').to_owned() } else { text }
            }
        }
    }

    /// JSON_PRETTY: two blanks per level.
    pub fn to_pretty(self) -> String {
        let mut out = Vec::new();
        self.write_pretty(0, &mut out);
        String::from_utf8_lossy(&out).into_owned()
    }

    fn write_pretty(self, level: usize, out: &mut Vec<u8>) {
        let (open, close, count) = match self.kind() {
            JsonKind::Array => (b'[', b']', self.count()),
            JsonKind::Object => (b'{', b'}', self.count()),
            _ => return self.write_to(out),
        };
        out.push(open);
        for i in 0..count {
            out.extend_from_slice(if i > 0 { b",\n" } else { b"\n" });
            out.resize(out.len() + 2 * (level + 1), b' ');
            if let Some(key) = self.key_at(i) {
                write_quoted(key, out);
                out.extend_from_slice(b": ");
            }
            if let Some(value) = self.element(i).or_else(|| self.value_at(i)) {
                value.write_pretty(level + 1, out);
            }
        }
        if count > 0 {
            out.push(b'\n');
            out.resize(out.len() + 2 * level, b' ');
        }
        out.push(close);
    }
}

fn write_display(out: &mut Vec<u8>, value: impl fmt::Display) {
    use std::io::Write;
    write!(out, "{value}").expect("writing to a Vec does not fail");
}

/// Doubles always show that they are doubles: `1.0`.
fn write_double(value: f64, out: &mut Vec<u8>) {
    let start = out.len();
    crate::text::write_f64(value, out);
    if out[start..].iter().all(|byte| byte.is_ascii_digit() || *byte == b'-') {
        out.extend_from_slice(b".0");
    }
}

fn write_quoted(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    for byte in text.bytes() {
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            0x08 => out.extend_from_slice(b"\\b"),
            0x0C => out.extend_from_slice(b"\\f"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0..0x20 => out.extend_from_slice(format!("\\u{byte:04x}").as_bytes()),
            _ => out.push(byte),
        }
    }
    out.push(b'"');
}

/// JSON_QUOTE.
pub fn quote(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len() + 2);
    write_quoted(text, &mut out);
    String::from_utf8_lossy(&out).into_owned()
}

/// JSON_UNQUOTE of a text: a JSON string literal loses quotes and escapes, any
/// other text stays.
pub fn unquote(text: &str) -> Result<String> {
    if text.len() < 2 || !text.starts_with('"') || !text.ends_with('"') {
        return Ok(text.to_owned());
    }
    serde_json::from_str(text)
        .map_err(|_| TypeError::InvalidJson { reason: "Invalid value.".into(), position: 0 })
}

/// Standard alphabet with padding.
fn write_base64(bytes: &[u8], out: &mut Vec<u8>) {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for group in bytes.chunks(3) {
        let byte = |i: usize| u32::from(group.get(i).copied().unwrap_or(0));
        let bits = (byte(0) << 16) | (byte(1) << 8) | byte(2);
        for i in 0..4 {
            let symbol = ALPHABET[(bits >> (18 - 6 * i)) as usize & 63];
            out.push(if i <= group.len() { symbol } else { b'=' });
        }
    }
}

impl fmt::Display for JsonRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = Vec::new();
        self.write_to(&mut out);
        f.write_str(&String::from_utf8_lossy(&out))
    }
}

impl fmt::Debug for JsonRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_ref().fmt(f)
    }
}

impl fmt::Debug for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
