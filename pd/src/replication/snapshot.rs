//! The whole state as bytes, so that the log can be cut and a member far behind or new
//! gets everything at once.
//!
//! **Data.** `magic (8) | index (8) | term (8) | length (8) | crc32 (4) | state`,
//! little-endian; the checksum covers everything else.

use raft::eraftpb::Message;

use crate::state::State;

const MAGIC: [u8; 8] = *b"CAIRNPD1";
const HEAD_BYTES: usize = 36;

/// A place in the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// Index of the entry.
    pub index: u64,
    /// Its term.
    pub term: u64,
}

/// The state that holds everything up to the position.
pub fn encode(state: &State, at: Position) -> Vec<u8> {
    let body = state.encode();
    let mut bytes = Vec::with_capacity(HEAD_BYTES + body.len());
    bytes.extend_from_slice(&MAGIC);
    for number in [at.index, at.term, body.len() as u64] {
        bytes.extend_from_slice(&number.to_le_bytes());
    }
    let checksum = checksum(&bytes, &body);
    bytes.extend_from_slice(&checksum.to_le_bytes());
    bytes.extend_from_slice(&body);
    bytes
}

fn checksum(head: &[u8], body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(head);
    hasher.update(body);
    hasher.finalize()
}

/// Reads what [`encode`] wrote, or tells what is damaged.
pub fn decode(bytes: &[u8]) -> Result<(State, Position), &'static str> {
    let Some((head, body)) = bytes.split_at_checked(HEAD_BYTES) else {
        return Err("shorter than its head");
    };
    let (head, stored_checksum) = head.split_at(HEAD_BYTES - 4);
    if head[..8] != MAGIC {
        return Err("not a snapshot of this version");
    }
    let number = |at: usize| {
        let mut word = [0; 8];
        word.copy_from_slice(&head[at..at + 8]);
        u64::from_le_bytes(word)
    };
    if number(24) != body.len() as u64 {
        return Err("length");
    }
    if checksum(head, body).to_le_bytes() != stored_checksum {
        return Err("checksum");
    }
    let state = State::decode(body).map_err(|_| "state")?;
    Ok((state, Position { index: number(8), term: number(16) }))
}

/// What a member sends must hold a state whose members are those that Raft is told.
pub fn check_snapshot(message: &Message) -> Result<(), &'static str> {
    let snapshot = message.get_snapshot();
    let state = State::decode(&snapshot.data).map_err(|_| "snapshot's state")?;
    if &state.members.conf_state() != snapshot.get_metadata().get_conf_state() {
        return Err("snapshot's members");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::Kind;

    #[test]
    fn damage_is_noticed() {
        let mut state = State::default();
        state.apply(Kind::IdBound(4242).into()).expect("valid");
        let at = Position { index: 7, term: 3 };
        let bytes = encode(&state, at);
        assert_eq!(decode(&bytes), Ok((state, at)));
        for position in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[position] ^= 0x10;
            assert!(decode(&damaged).is_err(), "byte {position}");
            assert!(decode(&bytes[..position]).is_err(), "{position} bytes");
        }
    }
}
