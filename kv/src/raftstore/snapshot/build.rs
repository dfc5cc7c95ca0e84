//! Builds a region's data as files, once for all receivers that want the same snapshot.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use cairn_engine::{
    Cf, EngineError, EngineIterator, EngineSnapshot, FilePlan, IterOptions, KvEngine,
};
use cairn_proto::{kv, meta};
use parking_lot::Mutex;

use super::{Pace, file_name, receive, remove_folder};
use crate::keys;
use crate::raftstore::error::RaftStoreError;

/// A file of a snapshot holds so much of keys and values: the receiver's engine takes
/// several files at once, and none is unwieldy.
const FILE_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// Files of a snapshot that receivers share; the folder goes with the last of them.
pub struct SnapshotFiles {
    folder: PathBuf,
    manifest: kv::SnapshotManifest,
}

impl SnapshotFiles {
    /// What the folder holds.
    pub fn manifest(&self) -> &kv::SnapshotManifest {
        &self.manifest
    }

    /// Path of a file by its position in the manifest.
    pub fn path(&self, position: usize) -> PathBuf {
        self.folder.join(file_name(position))
    }
}

impl Drop for SnapshotFiles {
    fn drop(&mut self) {
        remove_folder(&self.folder);
    }
}

/// The place where whoever comes first leaves the files for the others.
#[derive(Default)]
pub struct SharedFiles {
    files: Mutex<Option<Arc<SnapshotFiles>>>,
}

impl SharedFiles {
    /// The files, built now if nobody did before; others wait meanwhile.
    pub(super) fn get_or_build(
        &self,
        build: impl FnOnce() -> Result<SnapshotFiles, RaftStoreError>,
    ) -> Result<Arc<SnapshotFiles>, RaftStoreError> {
        let mut files = self.files.lock();
        if let Some(files) = files.as_ref() {
            return Ok(files.clone());
        }
        let built = Arc::new(build()?);
        *files = Some(built.clone());
        Ok(built)
    }
}

/// Writes the region's data as of the view into a new folder.
pub(super) fn build(
    engine: &dyn KvEngine,
    view: &dyn EngineSnapshot,
    region: &meta::Region,
    folder: &Path,
    pace: &Pace,
) -> Result<SnapshotFiles, RaftStoreError> {
    std::fs::create_dir_all(folder)?;
    // From here on the folder is removed whatever happens.
    let mut files =
        SnapshotFiles { folder: folder.to_owned(), manifest: kv::SnapshotManifest::default() };
    let (lower, upper) = keys::region_data_range(region);
    for cf in Cf::ALL {
        let mut options = IterOptions::range(lower.clone(), upper.clone());
        options.skip_cache = true;
        let mut entries = view.iter(cf, options);
        entries.seek_to_first()?;
        while let Some(file) = build_file(engine, cf, entries.as_mut(), &files, pace)? {
            files.manifest.files.push(file);
        }
    }
    Ok(files)
}

fn build_file(
    engine: &dyn KvEngine,
    cf: Cf,
    entries: &mut dyn EngineIterator,
    files: &SnapshotFiles,
    pace: &Pace,
) -> Result<Option<kv::SnapshotFile>, RaftStoreError> {
    let path = files.path(files.manifest.files.len());
    let mut wait = |bytes: u64| -> Result<(), EngineError> {
        pace.wait(bytes);
        Ok(())
    };
    let mut plan = FilePlan { path: &path, bytes_max: FILE_BYTES_MAX, pace: &mut wait };
    let Some(written) = engine.write_file(cf, &mut plan, entries)? else { return Ok(None) };
    Ok(Some(kv::SnapshotFile {
        cf: u32::from(cf.to_u8()),
        size_bytes: written.size_bytes,
        checksum: receive::checksum_of(&path)?,
        entries: written.entries,
        first_key: written.first_key,
        last_key: written.last_key,
    }))
}
