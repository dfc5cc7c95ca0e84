//! Raft snapshots: a region's data, built as files, carried in checked chunks, taken in.
//!
//! **Flow.** The Raft thread hands out a view of the engine ([`OutgoingSnapshot`]).
//! Sender: precheck at the receiver → [`SnapshotRoom::build`] writes the region as sorted
//! files per column family ([`build`]) → chunks with a CRC each, the whole file's CRC
//! announced before. Receiver: [`FileSpool`] checks and keeps them in a folder → the Raft
//! thread accepts → [`install`] clears the range and lets the engine take the files in.
//! Stores in memory pass records through memory instead ([`records`]).
//!
//! [`OutgoingSnapshot`]: super::store::OutgoingSnapshot
//!
//! **Bounds.** What is in memory is a chunk or two, whatever the region's size. Bytes per
//! second, transfers at one time in either direction, and room on the receiver's disk are
//! kept by [`SnapshotRoom`].
//!
//! **Invariants**
//! - Nothing is installed before all files arrived and were checked.
//! - A crash leaves the old data or the new: before the first change of the data a record
//!   of what is being installed is durable, the files outlive the installation, and doing
//!   it again gives the same. Whatever else lies in the folder at the start is removed.
//! - A view that somebody still reads from keeps seeing the old data: the range is
//!   cleared by a range deletion, not by removing files.
//!
//! **Left out.** Resuming a broken transfer: it starts anew.

mod build;
mod install;
mod receive;
mod records;
mod room;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use bytes::Bytes;
use cairn_proto::kv;

pub use build::{SharedFiles, SnapshotFiles};
pub use install::{Installation, delete_region_data, install};
pub use receive::FileSpool;
pub use records::{SnapshotReader, SnapshotSpool};
pub use room::{Pace, SnapshotLimits, SnapshotRoom};

/// A chunk on the wire.
pub(super) const CHUNK_BYTES: usize = 512 * 1024;
/// No honest chunk is longer: one record may exceed `CHUNK_BYTES`.
const CHUNK_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Data of a Raft snapshot that arrived whole.
#[derive(Debug)]
pub enum SnapshotData {
    /// Chunks of records, in memory.
    Memory(Vec<Bytes>),
    /// A folder with the files of the manifest, which is removed once they are installed.
    Files(PathBuf, kv::SnapshotManifest),
}

impl SnapshotData {
    /// Forgets the data.
    pub fn discard(&self) {
        if let SnapshotData::Files(folder, _) = self {
            remove_folder(folder);
        }
    }
}

/// Name of a file of a snapshot in its folder.
fn file_name(position: usize) -> String {
    format!("{position}.sst")
}

/// Removes a snapshot's folder. What cannot be removed goes at the next start.
fn remove_folder(folder: &Path) {
    if let Err(error) = std::fs::remove_dir_all(folder)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(folder = %folder.display(), %error, "snapshot files stay behind");
    }
}

/// Empties the folder of snapshots: transfers of before the start begin anew.
pub fn clear_folder(dir: &Path) {
    // No folder, nothing to remove.
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            remove_folder(&path);
        } else if let Err(error) = std::fs::remove_file(&path) {
            tracing::warn!(path = %path.display(), %error, "snapshot file stays behind");
        }
    }
}
