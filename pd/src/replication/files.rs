//! What a member keeps beside its log: who it is, and its last snapshot.
//!
//! **Data.** `member.json` and `state.snapshot` in the member's folder. Each is written
//! under another name, synced, and renamed: a crash leaves the old one or the new one.

use std::fs::{File, rename};
use std::io::{ErrorKind, Write};
use std::path::PathBuf;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::snapshot::{self, Position};
use crate::error::OpenError;
use crate::state::State;

const SNAPSHOT_FILE: &str = "state.snapshot";
const IDENTITY_FILE: &str = "member.json";

/// Who a member is, fixed when its folder was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// Its id in the Raft group; zero until a cluster took it in.
    pub member_id: u64,
    /// Drawn once: a member that lost its folder is not the same any more, for it may
    /// have forgotten votes.
    pub token: u64,
}

/// A member's small files. Writes are durable on return.
pub trait MemberFiles: Send + Sync + 'static {
    /// Who the member is; `None`: nobody yet.
    fn identity(&self) -> Result<Option<Identity>, OpenError>;
    /// Remembers who the member is.
    fn save_identity(&self, identity: Identity) -> Result<(), OpenError>;
    /// The last snapshot.
    fn snapshot(&self) -> Result<Option<(State, Position)>, OpenError>;
    /// Replaces the snapshot.
    fn save_snapshot(&self, state: &State, at: Position) -> Result<(), OpenError>;
}

/// Files in a folder.
pub struct DirFiles {
    dir: PathBuf,
}

impl DirFiles {
    /// The files of that folder, which exists.
    pub fn new(dir: PathBuf) -> DirFiles {
        DirFiles { dir }
    }

    fn read(&self, name: &str) -> Result<Option<(PathBuf, Vec<u8>)>, OpenError> {
        let path = self.dir.join(name);
        match std::fs::read(&path) {
            Ok(bytes) => Ok(Some((path, bytes))),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(source) => Err(OpenError::Io { path, source }),
        }
    }

    fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), OpenError> {
        let new_path = self.dir.join(format!("{name}.new"));
        let write = || {
            let mut file = File::create(&new_path)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            rename(&new_path, self.dir.join(name))?;
            File::open(&self.dir)?.sync_all()
        };
        write().map_err(|source| OpenError::Io { path: new_path.clone(), source })
    }
}

impl MemberFiles for DirFiles {
    fn identity(&self) -> Result<Option<Identity>, OpenError> {
        let Some((path, bytes)) = self.read(IDENTITY_FILE)? else { return Ok(None) };
        let identity = serde_json::from_slice(&bytes);
        identity.map(Some).map_err(|_| OpenError::Corrupted { path, reason: "identity" })
    }

    fn save_identity(&self, identity: Identity) -> Result<(), OpenError> {
        // Two numbers: making JSON of them cannot fail.
        let bytes = serde_json::to_vec(&identity).unwrap_or_default();
        self.replace(IDENTITY_FILE, &bytes)
    }

    fn snapshot(&self) -> Result<Option<(State, Position)>, OpenError> {
        let Some((path, bytes)) = self.read(SNAPSHOT_FILE)? else { return Ok(None) };
        let decoded = snapshot::decode(&bytes);
        decoded.map(Some).map_err(|reason| OpenError::Corrupted { path, reason })
    }

    fn save_snapshot(&self, state: &State, at: Position) -> Result<(), OpenError> {
        self.replace(SNAPSHOT_FILE, &snapshot::encode(state, at))
    }
}

/// Files that live in memory, for tests and simulations.
#[derive(Default)]
pub struct MemoryFiles {
    identity: Mutex<Option<Identity>>,
    snapshot: Mutex<Option<Vec<u8>>>,
}

impl MemoryFiles {
    /// No files.
    pub fn new() -> MemoryFiles {
        MemoryFiles::default()
    }
}

impl MemberFiles for MemoryFiles {
    fn identity(&self) -> Result<Option<Identity>, OpenError> {
        Ok(*self.identity.lock())
    }

    fn save_identity(&self, identity: Identity) -> Result<(), OpenError> {
        *self.identity.lock() = Some(identity);
        Ok(())
    }

    fn snapshot(&self) -> Result<Option<(State, Position)>, OpenError> {
        let bytes = self.snapshot.lock();
        let decoded = bytes.as_deref().map(snapshot::decode).transpose();
        decoded.map_err(|reason| OpenError::Corrupted { path: SNAPSHOT_FILE.into(), reason })
    }

    fn save_snapshot(&self, state: &State, at: Position) -> Result<(), OpenError> {
        *self.snapshot.lock() = Some(snapshot::encode(state, at));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::Kind;

    #[test]
    fn files_stay_and_damage_is_named() {
        let dir = tempfile::tempdir().expect("a folder");
        let files = DirFiles::new(dir.path().to_owned());
        assert_eq!(files.identity().expect("readable"), None);
        assert!(files.snapshot().expect("readable").is_none());
        let identity = Identity { member_id: 3, token: 77 };
        let mut state = State::default();
        state.apply(Kind::IdBound(9).into()).expect("valid");
        let at = Position { index: 4, term: 2 };
        files.save_identity(identity).expect("written");
        files.save_snapshot(&state, at).expect("written");
        let files = DirFiles::new(dir.path().to_owned());
        assert_eq!(files.identity().expect("readable"), Some(identity));
        assert_eq!(files.snapshot().expect("readable"), Some((state, at)));
        std::fs::write(dir.path().join(IDENTITY_FILE), b"{}").expect("written");
        let error = files.identity().expect_err("damaged").to_string();
        assert!(error.contains("member.json"), "{error}");
    }
}
