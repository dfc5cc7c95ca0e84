//! The whole state in one file, so that the log can be cut.
//!
//! **Data.** `magic (8) | index (8) | term (8) | length (8) | crc32 (4) | state`,
//! little-endian; the checksum covers everything else. The file is written under
//! another name, synced, and renamed: a crash leaves the old one or the new one.

use std::fs::{File, rename};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use crate::error::OpenError;
use crate::state::State;

const MAGIC: [u8; 8] = *b"CAIRNPD1";
const HEAD_BYTES: usize = 36;
const FILE_NAME: &str = "state.snapshot";
const NEW_FILE_NAME: &str = "state.snapshot.new";

/// A place in the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Position {
    pub index: u64,
    pub term: u64,
}

/// The snapshot file of a folder.
pub(super) struct SnapshotFile {
    dir: PathBuf,
}

impl SnapshotFile {
    pub fn new(dir: PathBuf) -> SnapshotFile {
        SnapshotFile { dir }
    }

    /// The state and the last command it holds; an empty one when there is no file.
    pub fn load(&self) -> Result<(State, Position), OpenError> {
        let path = self.dir.join(FILE_NAME);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Ok((State::default(), Position::default()));
            }
            Err(source) => return Err(OpenError::Io { path, source }),
        };
        decode(&bytes).map_err(|reason| OpenError::Corrupted { path, reason })
    }

    /// Replaces the file.
    pub fn save(&self, state: &State, at: Position) -> Result<(), OpenError> {
        let new_path = self.dir.join(NEW_FILE_NAME);
        write_synced(&new_path, &encode(state, at))
            .and_then(|()| rename(&new_path, self.dir.join(FILE_NAME)))
            .and_then(|()| File::open(&self.dir)?.sync_all())
            .map_err(|source| OpenError::Io { path: new_path, source })
    }
}

fn write_synced(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn encode(state: &State, at: Position) -> Vec<u8> {
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

fn decode(bytes: &[u8]) -> Result<(State, Position), &'static str> {
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
