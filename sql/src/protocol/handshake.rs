//! The packets of the connection phase: greeting, login, switch of the plug-in.
//!
//! Source: MySQL 8.0 source docs, `page_protocol_connection_phase_packets`.

use super::ProtocolError;
use super::constants::{capability, plugin};
use super::wire::{Cursor, put_lenenc_bytes};

/// Length of the challenge both plug-ins use.
pub const NONCE_BYTES: usize = 20;
/// Attributes a client may send; more is refused (MySQL keeps 64 KiB for them).
const ATTRIBUTES_MAX: usize = 64;

/// The server's greeting (`HandshakeV10`).
#[derive(Clone, Debug)]
pub struct Greeting<'a> {
    /// What `SELECT VERSION()` says.
    pub server_version: &'a str,
    /// The connection's number, for `KILL`.
    pub connection_id: u32,
    /// The challenge.
    pub nonce: &'a [u8; NONCE_BYTES],
    /// Offered capabilities.
    pub capabilities: u32,
    /// Default collation's number.
    pub collation: u8,
    /// Status flags.
    pub status: u16,
    /// The plug-in tried first.
    pub plugin: &'a str,
}

impl Greeting<'_> {
    /// Appends the payload.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.push(10);
        out.extend_from_slice(self.server_version.as_bytes());
        out.push(0);
        out.extend_from_slice(&self.connection_id.to_le_bytes());
        out.extend_from_slice(&self.nonce[..8]);
        out.push(0);
        out.extend_from_slice(&(self.capabilities as u16).to_le_bytes());
        out.push(self.collation);
        out.extend_from_slice(&self.status.to_le_bytes());
        out.extend_from_slice(&((self.capabilities >> 16) as u16).to_le_bytes());
        out.push(NONCE_BYTES as u8 + 1);
        out.extend_from_slice(&[0; 10]);
        out.extend_from_slice(&self.nonce[8..]);
        out.push(0);
        out.extend_from_slice(self.plugin.as_bytes());
        out.push(0);
    }
}

/// What a client says to log in (`HandshakeResponse41`, `COM_CHANGE_USER`).
#[derive(Clone, Debug, Default)]
pub struct Login {
    /// Capabilities the client wants, within those offered.
    pub capabilities: u32,
    /// Number of the collation it speaks; 0 when it did not say.
    pub collation: u16,
    /// User name.
    pub user: String,
    /// First answer to the challenge.
    pub auth_response: Vec<u8>,
    /// Database to use.
    pub database: Option<String>,
    /// The plug-in `auth_response` belongs to.
    pub plugin: String,
    /// Connection attributes (`program_name`, …).
    pub attributes: Vec<(String, String)>,
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

impl Login {
    /// Parses the first packet of a client.
    pub fn parse(payload: &[u8]) -> Result<Self, ProtocolError> {
        let mut cursor = Cursor::new(payload);
        let capabilities = cursor.u32()? & capability::OFFERED;
        if capabilities & capability::PROTOCOL_41 == 0 {
            return Err(ProtocolError::Malformed("client speaks a protocol older than 4.1"));
        }
        cursor.u32()?; // the client's packet limit, which our answers need not know
        let collation = u16::from(cursor.u8()?);
        cursor.take(23)?;
        let user = text(cursor.null_terminated()?);
        let auth_response = if capabilities & capability::PLUGIN_AUTH_LENENC_DATA != 0 {
            cursor.lenenc_bytes()?.to_vec()
        } else if capabilities & capability::SECURE_CONNECTION != 0 {
            let length = usize::from(cursor.u8()?);
            cursor.take(length)?.to_vec()
        } else {
            cursor.null_terminated()?.to_vec()
        };
        let mut login = Self { capabilities, collation, user, auth_response, ..Self::default() };
        if capabilities & capability::CONNECT_WITH_DB != 0 && cursor.remaining() > 0 {
            login.database = Some(text(cursor.null_terminated()?)).filter(|name| !name.is_empty());
        }
        login.parse_plugin_and_attributes(&mut cursor)?;
        Ok(login)
    }

    /// Parses `COM_CHANGE_USER` after its command byte; `capabilities` are the
    /// connection's own.
    pub fn parse_change_user(payload: &[u8], capabilities: u32) -> Result<Self, ProtocolError> {
        let mut cursor = Cursor::new(payload);
        let user = text(cursor.null_terminated()?);
        let length = usize::from(cursor.u8()?);
        let auth_response = cursor.take(length)?.to_vec();
        let database = Some(text(cursor.null_terminated()?)).filter(|name| !name.is_empty());
        let mut login = Self { capabilities, user, auth_response, database, ..Self::default() };
        if cursor.remaining() >= 2 {
            login.collation = cursor.u16()?;
        }
        login.parse_plugin_and_attributes(&mut cursor)?;
        Ok(login)
    }

    fn parse_plugin_and_attributes(
        &mut self,
        cursor: &mut Cursor<'_>,
    ) -> Result<(), ProtocolError> {
        self.plugin = plugin::NATIVE.to_owned();
        if self.capabilities & capability::PLUGIN_AUTH != 0 && cursor.remaining() > 0 {
            // Some clients leave out the terminator when the name is the last field.
            self.plugin = match cursor.clone().null_terminated() {
                Ok(_) => text(cursor.null_terminated()?),
                Err(_) => text(cursor.rest()),
            };
        }
        if self.capabilities & capability::CONNECT_ATTRS == 0 || cursor.remaining() == 0 {
            return Ok(());
        }
        let mut attributes = Cursor::new(cursor.lenenc_bytes()?);
        while attributes.remaining() > 0 {
            if self.attributes.len() == ATTRIBUTES_MAX {
                return Err(ProtocolError::Malformed("too many connection attributes"));
            }
            let name = text(attributes.lenenc_bytes()?);
            let value = text(attributes.lenenc_bytes()?);
            self.attributes.push((name, value));
        }
        Ok(())
    }
}

/// Appends the request to answer with another plug-in.
pub fn write_auth_switch(out: &mut Vec<u8>, plugin: &str, nonce: &[u8; NONCE_BYTES]) {
    out.push(0xfe);
    out.extend_from_slice(plugin.as_bytes());
    out.push(0);
    out.extend_from_slice(nonce);
    out.push(0);
}

/// Appends data for the client's plug-in.
pub fn write_auth_more(out: &mut Vec<u8>, data: &[u8]) {
    out.push(0x01);
    out.extend_from_slice(data);
}

/// An OK packet.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ok<'a> {
    /// Rows changed (or found).
    pub affected_rows: u64,
    /// First generated value of the statement.
    pub last_insert_id: u64,
    /// Status flags.
    pub status: u16,
    /// Warnings of the statement.
    pub warnings: u16,
    /// Text for people (`Rows matched: …`).
    pub info: &'a str,
}

impl Ok<'_> {
    /// Appends the payload; `header` is 0x00, or 0xFE at the end of a result set.
    pub fn write(&self, out: &mut Vec<u8>, header: u8) {
        use super::wire::put_lenenc;
        out.push(header);
        put_lenenc(out, self.affected_rows);
        put_lenenc(out, self.last_insert_id);
        out.extend_from_slice(&self.status.to_le_bytes());
        out.extend_from_slice(&self.warnings.to_le_bytes());
        if !self.info.is_empty() {
            put_lenenc_bytes(out, self.info.as_bytes());
        }
    }
}

/// Longest message of an ERR packet (MySQL's `MYSQL_ERRMSG_SIZE`).
const ERROR_MESSAGE_BYTES_MAX: usize = 512;

/// Appends an ERR payload.
pub fn write_error(out: &mut Vec<u8>, code: u16, sqlstate: &str, message: &str) {
    out.push(0xff);
    out.extend_from_slice(&code.to_le_bytes());
    out.push(b'#');
    out.extend_from_slice(sqlstate.as_bytes());
    let mut end = message.len().min(ERROR_MESSAGE_BYTES_MAX);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    out.extend_from_slice(&message.as_bytes()[..end]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login_payload() -> Vec<u8> {
        let mut out = Vec::new();
        out.extend_from_slice(&capability::OFFERED.to_le_bytes());
        out.extend_from_slice(&(16_u32 << 20).to_le_bytes());
        out.push(255);
        out.extend_from_slice(&[0; 23]);
        out.extend_from_slice(b"root\0");
        put_lenenc_bytes(&mut out, &[1, 2, 3]);
        out.extend_from_slice(b"test\0caching_sha2_password\0");
        let mut attributes = Vec::new();
        put_lenenc_bytes(&mut attributes, b"program_name");
        put_lenenc_bytes(&mut attributes, b"mysql");
        put_lenenc_bytes(&mut out, &attributes);
        out
    }

    #[test]
    fn a_login_is_understood_whole() {
        let login = Login::parse(&login_payload()).expect("a correct packet");
        assert_eq!(login.user, "root");
        assert_eq!(login.auth_response, [1, 2, 3]);
        assert_eq!(login.database.as_deref(), Some("test"));
        assert_eq!(login.plugin, plugin::CACHING_SHA2);
        assert_eq!(login.attributes, [("program_name".to_owned(), "mysql".to_owned())]);
    }

    #[test]
    fn a_login_cut_anywhere_is_an_error_or_shorter_but_no_panic() {
        let whole = login_payload();
        for end in 0..whole.len() {
            let _ = Login::parse(&whole[..end]);
            let _ = Login::parse_change_user(&whole[..end], capability::OFFERED);
        }
    }
}
