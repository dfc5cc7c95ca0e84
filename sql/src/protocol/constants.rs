//! Numbers of the protocol: capabilities, commands, status flags.

/// Capability bits a server offers and a client picks from.
pub mod capability {
    /// New password hashing.
    pub const LONG_PASSWORD: u32 = 1;
    /// `affected_rows` counts rows found, not rows changed.
    pub const FOUND_ROWS: u32 = 1 << 1;
    /// Longer column flags.
    pub const LONG_FLAG: u32 = 1 << 2;
    /// The handshake may name a database.
    pub const CONNECT_WITH_DB: u32 = 1 << 3;
    /// The 4.1 protocol; required.
    pub const PROTOCOL_41: u32 = 1 << 9;
    /// The client is a person at a terminal (`interactive_timeout`).
    pub const INTERACTIVE: u32 = 1 << 10;
    /// TLS upgrade before the login.
    pub const SSL: u32 = 1 << 11;
    /// Status flags know about transactions.
    pub const TRANSACTIONS: u32 = 1 << 13;
    /// 4.1 authentication.
    pub const SECURE_CONNECTION: u32 = 1 << 15;
    /// Several statements in one `COM_QUERY`.
    pub const MULTI_STATEMENTS: u32 = 1 << 16;
    /// Several result sets for one `COM_QUERY`.
    pub const MULTI_RESULTS: u32 = 1 << 17;
    /// Several result sets for one `COM_STMT_EXECUTE`.
    pub const PS_MULTI_RESULTS: u32 = 1 << 18;
    /// Authentication plug-ins by name.
    pub const PLUGIN_AUTH: u32 = 1 << 19;
    /// Connection attributes in the handshake.
    pub const CONNECT_ATTRS: u32 = 1 << 20;
    /// The authentication response has a length-encoded length.
    pub const PLUGIN_AUTH_LENENC_DATA: u32 = 1 << 21;
    /// OK packets end result sets instead of EOF packets.
    pub const DEPRECATE_EOF: u32 = 1 << 24;

    /// What Cairn offers.
    pub const OFFERED: u32 = LONG_PASSWORD
        | FOUND_ROWS
        | LONG_FLAG
        | CONNECT_WITH_DB
        | PROTOCOL_41
        | INTERACTIVE
        | TRANSACTIONS
        | SECURE_CONNECTION
        | MULTI_STATEMENTS
        | MULTI_RESULTS
        | PS_MULTI_RESULTS
        | PLUGIN_AUTH
        | CONNECT_ATTRS
        | PLUGIN_AUTH_LENENC_DATA
        | DEPRECATE_EOF;
}

/// Status bits of OK and EOF packets.
pub mod status {
    /// A transaction is open.
    pub const IN_TRANS: u16 = 1;
    /// Autocommit is on.
    pub const AUTOCOMMIT: u16 = 1 << 1;
    /// Another result follows.
    pub const MORE_RESULTS: u16 = 1 << 3;
    /// `NO_BACKSLASH_ESCAPES` is in `sql_mode`.
    pub const NO_BACKSLASH_ESCAPES: u16 = 1 << 9;
    /// The open transaction is read only.
    pub const IN_TRANS_READONLY: u16 = 1 << 13;
}

/// First bytes of command packets.
pub mod com {
    /// End of the connection.
    pub const QUIT: u8 = 0x01;
    /// `USE`.
    pub const INIT_DB: u8 = 0x02;
    /// Statements as text.
    pub const QUERY: u8 = 0x03;
    /// Columns of a table.
    pub const FIELD_LIST: u8 = 0x04;
    /// `FLUSH` of old clients.
    pub const REFRESH: u8 = 0x07;
    /// One line about the server.
    pub const STATISTICS: u8 = 0x09;
    /// `SHOW PROCESSLIST`.
    pub const PROCESS_INFO: u8 = 0x0a;
    /// `KILL`.
    pub const PROCESS_KILL: u8 = 0x0c;
    /// Dump debug information.
    pub const DEBUG: u8 = 0x0d;
    /// Are you there?
    pub const PING: u8 = 0x0e;
    /// Log in again as somebody else.
    pub const CHANGE_USER: u8 = 0x11;
    /// Prepare a statement.
    pub const STMT_PREPARE: u8 = 0x16;
    /// Run a prepared statement.
    pub const STMT_EXECUTE: u8 = 0x17;
    /// A piece of a parameter.
    pub const STMT_SEND_LONG_DATA: u8 = 0x18;
    /// Forget a prepared statement.
    pub const STMT_CLOSE: u8 = 0x19;
    /// Drop long data and cursor of a statement.
    pub const STMT_RESET: u8 = 0x1a;
    /// Switch multi statements on or off.
    pub const SET_OPTION: u8 = 0x1b;
    /// Rows of a cursor.
    pub const STMT_FETCH: u8 = 0x1c;
    /// A fresh session on the same connection.
    pub const RESET_CONNECTION: u8 = 0x1f;
}

/// The authentication plug-ins Cairn knows.
pub mod plugin {
    /// SHA-1 challenge and response of MySQL 4.1 to 5.7.
    pub const NATIVE: &str = "mysql_native_password";
    /// MySQL 8's default.
    pub const CACHING_SHA2: &str = "caching_sha2_password";
}
