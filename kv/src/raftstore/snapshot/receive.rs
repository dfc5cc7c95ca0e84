//! Collects the files of one Raft snapshot and checks them.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use cairn_proto::{kv, meta};

use super::room::ReceiveSlot;
use super::{CHUNK_BYTES_MAX, SnapshotData, file_name, install, remove_folder};
use crate::raftstore::error::RaftStoreError;

/// Files of one snapshot: three column families and some parts each, even for regions
/// that grew far beyond the size of a split.
const FILES_MAX: usize = 4096;
/// Read at one time when a whole file is checked.
const READ_BYTES: usize = 256 * 1024;

/// One snapshot that is coming in. Dropped before its end it leaves nothing behind.
pub struct FileSpool {
    /// `None` once the data was handed on.
    folder: Option<PathBuf>,
    manifest: kv::SnapshotManifest,
    /// Position of the file that grows.
    position: usize,
    file: Option<File>,
    written: u64,
    hasher: crc32fast::Hasher,
    _slot: ReceiveSlot,
}

impl FileSpool {
    /// Makes the folder for the files of the manifest.
    pub(super) fn new(
        folder: PathBuf,
        manifest: kv::SnapshotManifest,
        region: &meta::Region,
        slot: ReceiveSlot,
    ) -> Result<FileSpool, RaftStoreError> {
        if manifest.files.len() > FILES_MAX {
            return Err(RaftStoreError::Corrupted("snapshot: too many files"));
        }
        install::check_manifest(&manifest, region)?;
        std::fs::create_dir_all(&folder)?;
        Ok(FileSpool {
            folder: Some(folder),
            manifest,
            position: 0,
            file: None,
            written: 0,
            hasher: crc32fast::Hasher::new(),
            _slot: slot,
        })
    }

    /// Takes one chunk, which lies within one file.
    pub fn push(&mut self, chunk: &Bytes, checksum: u32) -> Result<(), RaftStoreError> {
        let unexpected = RaftStoreError::Corrupted("snapshot: unexpected chunk");
        let Some(expected) = self.manifest.files.get(self.position) else { return Err(unexpected) };
        let whole = expected.size_bytes;
        let too_long = self.written + chunk.len() as u64 > whole;
        if chunk.is_empty() || chunk.len() > CHUNK_BYTES_MAX || too_long {
            return Err(unexpected);
        }
        if crc32fast::hash(chunk) != checksum {
            return Err(RaftStoreError::Corrupted("snapshot: checksum"));
        }
        let file = match &mut self.file {
            Some(file) => file,
            None => {
                let folder = self.folder.as_ref().ok_or(unexpected)?;
                self.file.insert(File::create(folder.join(file_name(self.position)))?)
            }
        };
        file.write_all(chunk)?;
        self.hasher.update(chunk);
        self.written += chunk.len() as u64;
        if self.written == whole { self.close_file() } else { Ok(()) }
    }

    /// The file is whole: checked, durable, and on to the next.
    fn close_file(&mut self) -> Result<(), RaftStoreError> {
        let hasher = std::mem::take(&mut self.hasher);
        if hasher.finalize() != self.manifest.files[self.position].checksum {
            return Err(RaftStoreError::Corrupted("snapshot file: checksum"));
        }
        if let Some(file) = self.file.take() {
            file.sync_all()?;
        }
        self.position += 1;
        self.written = 0;
        Ok(())
    }

    /// The data, durable; an error if the stream broke off.
    pub fn finish(mut self) -> Result<SnapshotData, RaftStoreError> {
        if self.position < self.manifest.files.len() {
            return Err(RaftStoreError::Corrupted("snapshot: stream broke off"));
        }
        let folder = self.folder.take().ok_or(RaftStoreError::Corrupted("snapshot: finished"))?;
        File::open(&folder)?.sync_all()?;
        Ok(SnapshotData::Files(folder, std::mem::take(&mut self.manifest)))
    }
}

impl Drop for FileSpool {
    fn drop(&mut self) {
        if let Some(folder) = self.folder.take() {
            remove_folder(&folder);
        }
    }
}

/// CRC of a whole file.
pub(super) fn checksum_of(path: &Path) -> Result<u32, RaftStoreError> {
    let mut file = File::open(path)?;
    let mut hasher = crc32fast::Hasher::new();
    let mut buffer = vec![0; READ_BYTES];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finalize()),
            length => hasher.update(&buffer[..length]),
        }
    }
}
