//! Statements whose string literals hold bytes that are no text.
//!
//! Drivers that build statements themselves put blobs into quotes as they are
//! (`INSERT INTO t VALUES (_binary'…')`). Text is UTF-8 in Cairn, so such literals are
//! written as hexadecimal ones before the statement is parsed: the same bytes, spelt so
//! that they are text.

use std::fmt::Write;

/// The statement as text; `None` when bytes that are no UTF-8 stand outside of string
/// literals, where MySQL has no use for them either.
pub fn rewrite(statement: &[u8], ansi_quotes: bool, backslash_escapes: bool) -> Option<String> {
    let mut out = String::with_capacity(statement.len() * 2);
    let mut at = 0;
    let mut copied = 0;
    while at < statement.len() {
        match statement[at] {
            quote @ (b'\'' | b'"') if quote == b'\'' || !ansi_quotes => {
                let (end, value) = literal(statement, at, quote, backslash_escapes)?;
                if std::str::from_utf8(&statement[at..end]).is_err() {
                    out.push_str(std::str::from_utf8(&statement[copied..at]).ok()?);
                    // An introducer (`_binary`) may stand right before it.
                    out.push_str(" x'");
                    for byte in value {
                        write!(out, "{byte:02x}").ok()?;
                    }
                    out.push('\'');
                    copied = end;
                }
                at = end;
            }
            quote @ (b'`' | b'"') => at = skip_to(statement, at + 1, &[quote])?,
            b'#' => at = skip_to(statement, at, b"\n").unwrap_or(statement.len()),
            b'-' if statement[at..].starts_with(b"-- ") => {
                at = skip_to(statement, at, b"\n").unwrap_or(statement.len());
            }
            // What `/*! … */` holds is code: only its opening is passed over.
            b'/' if statement[at..].starts_with(b"/*") && statement.get(at + 2) != Some(&b'!') => {
                at = skip_to(statement, at + 2, b"*/")?;
            }
            _ => at += 1,
        }
    }
    out.push_str(std::str::from_utf8(&statement[copied..]).ok()?);
    Some(out)
}

/// The place behind the next `what`.
fn skip_to(statement: &[u8], from: usize, what: &[u8]) -> Option<usize> {
    memchr::memmem::find(&statement[from..], what).map(|found| from + found + what.len())
}

/// A literal that begins with a quote at `start`: the place behind it, and its bytes.
fn literal(
    statement: &[u8],
    start: usize,
    quote: u8,
    backslash_escapes: bool,
) -> Option<(usize, Vec<u8>)> {
    let mut value = Vec::new();
    let mut at = start + 1;
    loop {
        let byte = *statement.get(at)?;
        if byte == quote {
            if statement.get(at + 1) != Some(&quote) {
                return Some((at + 1, value));
            }
            value.push(quote);
            at += 2;
        } else if byte == b'\\' && backslash_escapes {
            let escaped = *statement.get(at + 1)?;
            value.push(match escaped {
                b'0' => 0,
                b'n' => b'\n',
                b'r' => b'\r',
                b't' => b'\t',
                b'b' => 8,
                b'Z' => 0x1a,
                other => other,
            });
            at += 2;
        } else {
            value.push(byte);
            at += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::rewrite;

    #[test]
    fn bytes_in_literals_become_hexadecimal() {
        let statement = b"INSERT INTO t VALUES (_binary'\xff\\0''\\\\', 'text', \"\x80\")";
        let wanted = "INSERT INTO t VALUES (_binary x'ff00275c', 'text',  x'80')";
        assert_eq!(rewrite(statement, false, true).as_deref(), Some(wanted));
        assert_eq!(rewrite(b"SELECT \xff", false, true), None);
        assert_eq!(rewrite(b"SELECT '\xff", false, true), None);
        assert_eq!(
            rewrite(b"SELECT 1 -- it's\n, 'a\xfe'", false, true).as_deref(),
            Some("SELECT 1 -- it's\n,  x'61fe'")
        );
    }
}
