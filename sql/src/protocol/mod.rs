//! The MySQL client/server protocol: packets, handshake, commands, result sets.
//!
//! **Flow.** `server.rs` accepts a socket and makes a [`PacketReader`] and a
//! [`PacketWriter`] of it; `handshake` and `auth` let the client in; `command` turns
//! packets into [`command::Command`]s; `resultset` writes answers. Nothing here knows
//! about plans, sessions or storage: values arrive as datums with their field types.
//!
//! **Invariants.**
//! - Bytes from a client never panic: every read goes through [`wire::Cursor`], which
//!   answers `Malformed` when a packet is too short or a length does not fit.
//! - A packet is bounded before it is buffered: [`packet::PRE_AUTH_PACKET_BYTES_MAX`]
//!   until the client is known, `max_allowed_packet` afterwards.
//! - Rows are written into one reusable buffer and flushed at
//!   [`packet::FLUSH_THRESHOLD_BYTES`]: that flush is the back-pressure.
//!
//! **Left out.** TLS, compression, `LOCAL INFILE` and cursors are not offered in the
//! capabilities, so no conforming client asks for them.
//!
//! **Sources.** MySQL Internals, "Client/Server Protocol"; MySQL 8.0 source docs,
//! `page_protocol_connection_phase` and `page_protocol_command_phase`.

pub mod auth;
pub mod column;
pub mod command;
pub mod constants;
pub mod handshake;
pub mod packet;
pub mod resultset;
pub mod wire;

pub use packet::{PacketReader, PacketWriter};

/// What goes wrong between a client and this layer.
#[derive(Debug, thiserror::Error)]
pub enum ProtocolError {
    /// The socket failed or closed in the middle of a packet.
    #[error("connection lost: {0}")]
    Io(#[from] std::io::Error),
    /// A packet does not hold what its kind must hold.
    #[error("malformed packet: {0}")]
    Malformed(&'static str),
    /// A packet above the limit; the connection cannot go on in step.
    #[error("packet of {size_bytes} bytes is larger than the limit of {limit_bytes}")]
    TooLarge {
        /// What the client announced.
        size_bytes: usize,
        /// What is allowed now.
        limit_bytes: usize,
    },
    /// Sequence numbers of packets must follow each other.
    #[error("packets out of order")]
    OutOfOrder,
}
