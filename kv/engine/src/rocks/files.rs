//! SST files made outside of the database and taken in; manual compaction.

use std::path::{Path, PathBuf};

use rocksdb::{
    BottommostLevelCompaction, CompactOptions, IngestExternalFileOptions, Options, SstFileWriter,
};

use super::{Db, handle};
use crate::sorted_file::copy_entries;
use crate::{Cf, EngineIterator, FilePlan, Result, SortedFile};

/// Bytes of values stored apart from their keys.
pub(super) const BLOB_BYTES: &str = "rocksdb.total-blob-file-size";

/// See [`crate::KvEngine::write_file`].
pub(super) fn write(
    options: &Options,
    plan: &mut FilePlan<'_>,
    entries: &mut dyn EngineIterator,
) -> Result<Option<SortedFile>> {
    if !entries.valid() {
        return Ok(None);
    }
    let path = plan.path.to_owned();
    let mut writer = SstFileWriter::create(options);
    writer.open(&path)?;
    let mut file = copy_entries(plan, entries, |key, value| Ok(writer.put(key, value)?))?;
    writer.finish()?;
    file.size_bytes = std::fs::metadata(&path)?.len();
    Ok(Some(file))
}

/// See [`crate::KvEngine::ingest`].
///
/// RocksDB takes a file over by renaming it. What it is given is a second name of the
/// file, so that the first one stays for another attempt; only where the file system
/// has no hard links is the data copied.
pub(super) fn ingest(db: &Db, cf: Cf, files: &[PathBuf]) -> Result<()> {
    if files.is_empty() {
        return Ok(());
    }
    let mut options = IngestExternalFileOptions::default();
    options.set_move_files(true);
    let mut links = Vec::with_capacity(files.len());
    for file in files {
        let link = second_name(file);
        remove_if_there(&link)?;
        if std::fs::hard_link(file, &link).is_err() {
            options.set_move_files(false);
            links.clear();
            break;
        }
        links.push(link);
    }
    let given = if links.is_empty() { files } else { &links };
    db.ingest_external_file_cf_opts(handle(db, cf), &options, given.to_vec())?;
    links.iter().try_for_each(|link| remove_if_there(link))
}

fn second_name(file: &Path) -> PathBuf {
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(".ingest");
    file.with_file_name(name)
}

fn remove_if_there(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

/// See [`crate::KvEngine::compact_range`].
pub(super) fn compact(db: &Db, start: &[u8], end: &[u8]) {
    let mut options = CompactOptions::default();
    // Other compactions go on meanwhile.
    options.set_exclusive_manual_compaction(false);
    // Also what this very compaction has just written there: versions of one row may have
    // come down in files that do not overlap those of its older versions.
    options.set_bottommost_level_compaction(BottommostLevelCompaction::Force);
    for cf in Cf::ALL {
        db.compact_range_cf_opt(handle(db, cf), Some(start), Some(end), &options);
    }
}
