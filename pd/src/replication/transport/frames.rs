//! Messages in frames: many small ones together, a large one (a snapshot) in pieces.

use bytes::{Bytes, BytesMut};
use cairn_proto::pd::RaftFrame;
use protobuf::Message as _;
use raft::eraftpb::Message;

/// A frame is closed once it holds so much; a larger message goes in pieces of that size.
pub(super) const FRAME_BYTES: usize = 1 << 20;
/// Largest message put together from pieces: the state of millions of regions.
const MESSAGE_BYTES_MAX: usize = 2 << 30;

/// The frames of a batch, made one by one: pieces of a snapshot share its bytes.
pub(super) fn frames(messages: Vec<Message>) -> impl Iterator<Item = RaftFrame> + Send {
    let encoded = messages.into_iter().filter_map(|message| message.write_to_bytes().ok());
    let mut waiting = encoded.map(Bytes::from).peekable();
    let mut large: Option<(Bytes, u32)> = None;
    std::iter::from_fn(move || {
        if let Some((rest, checksum)) = &mut large {
            let piece = rest.split_to(rest.len().min(FRAME_BYTES));
            let (ends, checksum) = (rest.is_empty(), *checksum);
            if ends {
                large = None;
            }
            return Some(RaftFrame { piece, ends, checksum, ..RaftFrame::default() });
        }
        let first = waiting.next()?;
        if first.len() > FRAME_BYTES {
            let checksum = crc32fast::hash(&first);
            let mut rest = first;
            let piece = rest.split_to(FRAME_BYTES);
            large = Some((rest, checksum));
            return Some(RaftFrame { piece, checksum, ..RaftFrame::default() });
        }
        let mut bytes = first.len();
        let mut together = vec![first];
        while let Some(next) = waiting.next_if(|next| bytes + next.len() <= FRAME_BYTES) {
            bytes += next.len();
            together.push(next);
        }
        Some(RaftFrame { messages: together, ..RaftFrame::default() })
    })
}

/// Puts messages together again.
#[derive(Default)]
pub(super) struct Assembler {
    pieces: BytesMut,
}

impl Assembler {
    /// The messages that are whole after the frame.
    pub fn push(&mut self, frame: RaftFrame) -> Result<Vec<Message>, &'static str> {
        let mut whole = Vec::with_capacity(frame.messages.len() + 1);
        if !frame.piece.is_empty() {
            if self.pieces.len() + frame.piece.len() > MESSAGE_BYTES_MAX {
                return Err("a message is too large");
            }
            self.pieces.extend_from_slice(&frame.piece);
            if frame.ends {
                let bytes = std::mem::take(&mut self.pieces).freeze();
                if crc32fast::hash(&bytes) != frame.checksum {
                    return Err("checksum of a message");
                }
                whole.push(parse(&bytes)?);
            }
        }
        for bytes in &frame.messages {
            whole.push(parse(bytes)?);
        }
        Ok(whole)
    }
}

fn parse(bytes: &Bytes) -> Result<Message, &'static str> {
    let mut message = Message::default();
    message.merge_from_bytes(bytes).map_err(|_| "not a Raft message")?;
    Ok(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(index: u64, bytes: usize) -> Message {
        let mut message = Message { index, ..Message::default() };
        message.mut_snapshot().data = vec![index as u8; bytes].into();
        message
    }

    #[test]
    fn small_ones_together_large_ones_in_pieces() {
        let sizes = [10, 20, FRAME_BYTES / 2, FRAME_BYTES / 2, 3 * FRAME_BYTES, 5];
        let messages: Vec<Message> =
            sizes.iter().enumerate().map(|(at, size)| message(at as u64, *size)).collect();
        let frames: Vec<RaftFrame> = frames(messages.clone()).collect();
        assert_eq!(frames.len(), 2 + 4 + 1);
        let mut assembler = Assembler::default();
        let mut whole = Vec::new();
        for frame in frames.clone() {
            assert!(frame.piece.len() <= FRAME_BYTES);
            whole.extend(assembler.push(frame).expect("own frames"));
        }
        assert_eq!(whole, messages);
        // A piece that was lost or changed is noticed.
        let mut damaged = Assembler::default();
        let outcome: Result<Vec<_>, _> =
            frames.into_iter().skip(3).map(|frame| damaged.push(frame)).collect();
        assert!(outcome.is_err());
        let junk =
            RaftFrame { messages: vec![Bytes::from_static(b"\xff\xff")], ..RaftFrame::default() };
        assert!(Assembler::default().push(junk).is_err());
    }
}
