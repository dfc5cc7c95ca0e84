//! Rules of `XA` statements.

use sqlparser::tokenizer::Token;

use crate::ast::*;
use crate::grammar::{Grammar, Parse};
use crate::lex::{bit_bytes, hex_bytes};

/// Bytes of each part of a name: X/Open's `MAXGTRIDSIZE` and `MAXBQUALSIZE`.
const PART_BYTES_MAX: usize = 64;

impl Grammar<'_, '_> {
    /// `XA verb ..`.
    pub(crate) fn xa(&mut self) -> Parse<Statement> {
        self.expect("XA")?;
        let verbs = ["START", "BEGIN", "END", "PREPARE", "COMMIT", "ROLLBACK", "RECOVER"];
        let xa = match self.eat_one(&verbs) {
            Some("START" | "BEGIN") => {
                let xid = self.xid()?;
                let option = match self.eat_one(&["JOIN", "RESUME"]) {
                    Some("JOIN") => Some(XaStart::Join),
                    Some(_) => Some(XaStart::Resume),
                    None => None,
                };
                Xa::Start { xid, option }
            }
            Some("END") => {
                let xid = self.xid()?;
                let suspend = self.eat("SUSPEND");
                if suspend {
                    let _ = self.eat_all("FOR MIGRATE");
                }
                Xa::End { xid, suspend }
            }
            Some("PREPARE") => Xa::Prepare(self.xid()?),
            Some("COMMIT") => {
                let xid = self.xid()?;
                Xa::Commit { xid, one_phase: self.eat_all("ONE PHASE") }
            }
            Some("ROLLBACK") => Xa::Rollback(self.xid()?),
            Some(_) => Xa::Recover { convert_xid: self.eat_all("CONVERT XID") },
            None => return self.fail("START"),
        };
        Ok(Statement::Xa(Box::new(xa)))
    }

    /// `gtrid [, bqual [, formatID]]`.
    fn xid(&mut self) -> Parse<Xid> {
        let gtrid = self.xid_part()?;
        let mut xid = Xid { gtrid, bqual: Vec::new(), format_id: 1 };
        if self.eat_sign(&Token::Comma) {
            xid.bqual = self.xid_part()?;
            if self.eat_sign(&Token::Comma) {
                xid.format_id = self.small_integer()?;
            }
        }
        Ok(xid)
    }

    /// A string, or bytes in hexadecimal or as bits.
    fn xid_part(&mut self) -> Parse<Vec<u8>> {
        let bytes = match self.peek() {
            Token::SingleQuotedString(text) => text.clone().into_bytes(),
            Token::HexStringLiteral(text) => hex_bytes(text),
            Token::SingleQuotedByteStringLiteral(text) => bit_bytes(text),
            _ => return self.fail("a string"),
        };
        if bytes.len() > PART_BYTES_MAX {
            return self.fail("a string of at most 64 bytes");
        }
        self.advance();
        Ok(bytes)
    }
}
