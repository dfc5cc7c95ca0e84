//! Packets: three bytes of length, one of sequence, then the payload; payloads of
//! 2^24 - 1 bytes continue in the next packet.
//!
//! Reader and writer are separate so that a session can watch the reading half for the
//! client's departure while the writing half streams rows.

use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::ProtocolError;

/// Longest payload of one packet.
const CHUNK_BYTES_MAX: usize = 0xff_ffff;
/// Length of a packet's head.
const HEADER_BYTES: usize = 4;
/// Payload limit before the client has logged in: nothing longer is ever needed there.
pub const PRE_AUTH_PACKET_BYTES_MAX: usize = 64 << 10;
/// Rows are handed to the socket when this much has gathered.
pub const FLUSH_THRESHOLD_BYTES: usize = 32 << 10;
/// How much a client may send ahead while its statement runs, before we stop reading.
const READ_AHEAD_BYTES_MAX: usize = 64 << 10;
/// How long a client may leave its answer unread (`net_write_timeout`): its statement holds
/// the schema, and its transaction more.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);
/// A buffer that grew beyond this is given back after its command.
const BUFFER_KEEP_BYTES: usize = 256 << 10;

/// The reading half of a connection.
#[derive(Debug)]
pub struct PacketReader<R> {
    stream: R,
    buffer: BytesMut,
    next_sequence: u8,
    packet_bytes_max: usize,
}

impl<R: AsyncRead + Unpin> PacketReader<R> {
    /// A reader with the limit for strangers.
    pub fn new(stream: R) -> Self {
        Self {
            stream,
            buffer: BytesMut::with_capacity(4 << 10),
            next_sequence: 0,
            packet_bytes_max: PRE_AUTH_PACKET_BYTES_MAX,
        }
    }

    /// Sets the largest payload accepted from now on.
    pub fn set_packet_bytes_max(&mut self, packet_bytes_max: usize) {
        self.packet_bytes_max = packet_bytes_max;
    }

    /// The next packet must begin a command: sequence 0.
    pub fn begin_command(&mut self) {
        self.next_sequence = 0;
    }

    /// The next packet must have this number: it answers one of ours.
    pub fn expect_sequence(&mut self, sequence: u8) {
        self.next_sequence = sequence;
    }

    /// Sequence number that the answer continues with.
    pub fn next_sequence(&self) -> u8 {
        self.next_sequence
    }

    /// Reads one payload, joined from its parts. `None`: the client left between packets.
    pub async fn read(&mut self) -> Result<Option<Bytes>, ProtocolError> {
        let Some(first) = self.read_part(0).await? else { return Ok(None) };
        if first.len() < CHUNK_BYTES_MAX {
            return Ok(Some(first));
        }
        let mut whole = BytesMut::from(first);
        loop {
            let part = self.read_part(whole.len()).await?.ok_or_else(closed_inside_packet)?;
            whole.extend_from_slice(&part);
            if part.len() < CHUNK_BYTES_MAX {
                return Ok(Some(whole.freeze()));
            }
        }
    }

    async fn read_part(&mut self, already_bytes: usize) -> Result<Option<Bytes>, ProtocolError> {
        while self.buffer.len() < HEADER_BYTES {
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                if self.buffer.is_empty() && already_bytes == 0 {
                    return Ok(None);
                }
                return Err(closed_inside_packet());
            }
        }
        let length = usize::from(self.buffer[0])
            | usize::from(self.buffer[1]) << 8
            | usize::from(self.buffer[2]) << 16;
        let size_bytes = already_bytes + length;
        if size_bytes > self.packet_bytes_max {
            return Err(ProtocolError::TooLarge { size_bytes, limit_bytes: self.packet_bytes_max });
        }
        if self.buffer[3] != self.next_sequence {
            return Err(ProtocolError::OutOfOrder);
        }
        self.next_sequence = self.next_sequence.wrapping_add(1);
        self.buffer.advance(HEADER_BYTES);
        self.buffer.reserve(length.saturating_sub(self.buffer.len()));
        while self.buffer.len() < length {
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(closed_inside_packet());
            }
        }
        Ok(Some(self.buffer.split_to(length).freeze()))
    }

    /// Resolves when the client is gone; used beside a running statement. What the client
    /// sends meanwhile is kept, up to a bound. Cancel safe.
    pub async fn closed(&mut self) {
        loop {
            if self.buffer.len() >= READ_AHEAD_BYTES_MAX {
                return std::future::pending().await;
            }
            match self.stream.read_buf(&mut self.buffer).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
    }
}

fn closed_inside_packet() -> ProtocolError {
    ProtocolError::Io(std::io::ErrorKind::UnexpectedEof.into())
}

/// The writing half of a connection: packets gather in one buffer.
#[derive(Debug)]
pub struct PacketWriter<W> {
    stream: W,
    buffer: Vec<u8>,
    /// How much of the buffer was sent already by a flush that was given up.
    sent_bytes: usize,
    next_sequence: u8,
}

impl<W: AsyncWrite + Unpin> PacketWriter<W> {
    /// A writer at sequence 0.
    pub fn new(stream: W) -> Self {
        Self { stream, buffer: Vec::with_capacity(16 << 10), sent_bytes: 0, next_sequence: 0 }
    }

    /// The answer continues the client's numbering.
    pub fn set_sequence(&mut self, sequence: u8) {
        self.next_sequence = sequence;
    }

    /// The sequence number of the next packet.
    pub fn next_sequence(&self) -> u8 {
        self.next_sequence
    }

    /// Appends one packet whose payload `write` appends to the buffer it is given.
    pub fn packet(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let at = self.buffer.len();
        self.buffer.extend_from_slice(&[0; HEADER_BYTES]);
        write(&mut self.buffer);
        let length = self.buffer.len() - at - HEADER_BYTES;
        if length < CHUNK_BYTES_MAX {
            self.put_header(at, length);
        } else {
            self.split_packet(at);
        }
    }

    /// Drops a packet begun but not wanted: everything after `mark`.
    pub fn truncate(&mut self, mark: usize, sequence: u8) {
        self.buffer.truncate(mark);
        self.next_sequence = sequence;
    }

    /// Bytes waiting in the buffer.
    pub fn buffered_bytes(&self) -> usize {
        self.buffer.len()
    }

    fn put_header(&mut self, at: usize, length: usize) {
        let bytes = (length as u32).to_le_bytes();
        self.buffer[at..at + 3].copy_from_slice(&bytes[..3]);
        self.buffer[at + 3] = self.next_sequence;
        self.next_sequence = self.next_sequence.wrapping_add(1);
    }

    /// A payload that is too long for one packet; an exact multiple ends with an empty one.
    fn split_packet(&mut self, at: usize) {
        let payload = self.buffer.split_off(at + HEADER_BYTES);
        self.buffer.truncate(at);
        let mut parts = payload.chunks(CHUNK_BYTES_MAX).peekable();
        while let Some(part) = parts.next() {
            let header_at = self.buffer.len();
            self.buffer.extend_from_slice(&[0; HEADER_BYTES]);
            self.buffer.extend_from_slice(part);
            self.put_header(header_at, part.len());
            if parts.peek().is_none() && part.len() == CHUNK_BYTES_MAX {
                let header_at = self.buffer.len();
                self.buffer.extend_from_slice(&[0; HEADER_BYTES]);
                self.put_header(header_at, 0);
            }
        }
    }

    /// Sends what has gathered when it is much; call between rows.
    pub async fn flush_if_large(&mut self) -> Result<(), ProtocolError> {
        if self.buffer.len() >= FLUSH_THRESHOLD_BYTES { self.flush().await } else { Ok(()) }
    }

    /// Sends everything.
    pub async fn flush(&mut self) -> Result<(), ProtocolError> {
        // A flush that is given up half-way (a statement that takes too long) goes on where
        // it stood: bytes are never sent twice.
        while self.sent_bytes < self.buffer.len() {
            let write = self.stream.write(&self.buffer[self.sent_bytes..]);
            let written = tokio::time::timeout(WRITE_TIMEOUT, write).await;
            match written.map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))?? {
                0 => return Err(std::io::Error::from(std::io::ErrorKind::WriteZero).into()),
                count => self.sent_bytes += count,
            }
        }
        self.stream.flush().await?;
        self.buffer.clear();
        self.sent_bytes = 0;
        if self.buffer.capacity() > BUFFER_KEEP_BYTES {
            self.buffer.shrink_to(BUFFER_KEEP_BYTES);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn round_trip(length: usize) {
        let mut sent = Vec::new();
        let mut writer = PacketWriter::new(&mut sent);
        writer.packet(|out| out.resize(out.len() + length, 7));
        writer.packet(|out| out.push(1));
        writer.flush().await.expect("a Vec takes everything");
        let mut reader = PacketReader::new(sent.as_slice());
        reader.set_packet_bytes_max(64 << 20);
        assert_eq!(reader.read().await.expect("whole").expect("packet").len(), length);
        assert_eq!(reader.read().await.expect("whole").expect("packet").as_ref(), [1]);
        assert!(reader.read().await.expect("clean end").is_none());
    }

    #[tokio::test]
    async fn payloads_survive_at_the_borders_of_a_packet() {
        for length in [0, 1, CHUNK_BYTES_MAX - 1, CHUNK_BYTES_MAX, CHUNK_BYTES_MAX + 1] {
            round_trip(length).await;
        }
    }

    #[tokio::test]
    async fn limits_and_order_are_enforced() {
        let large = [255, 255, 255, 0];
        let error = PacketReader::new(large.as_slice()).read().await.expect_err("too large");
        assert!(matches!(error, ProtocolError::TooLarge { .. }));
        let skipped = [1, 0, 0, 5, 9];
        let error = PacketReader::new(skipped.as_slice()).read().await.expect_err("sequence 5");
        assert!(matches!(error, ProtocolError::OutOfOrder));
        let cut = [9, 0, 0, 0, 1, 2];
        assert!(PacketReader::new(cut.as_slice()).read().await.is_err());
    }
}
