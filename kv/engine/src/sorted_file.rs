//! Files of sorted entries of one column family, made in one engine and taken in whole by
//! another: how a region's data travels.
//!
//! RocksDB's are its own SST files. The in-memory twin writes a form of its own: an
//! encoded [`WriteBatch`] of puts, then the CRC of all that.

use std::path::Path;

use bytes::Bytes;

use crate::{Cf, EngineError, EngineIterator, Result, WriteBatch, WriteOp};

/// Bytes of entries between two calls of [`FilePlan::pace`].
pub(crate) const PACE_BYTES: u64 = 1024 * 1024;
const CHECKSUM_BYTES: usize = 4;

/// Where and how a file is written.
pub struct FilePlan<'a> {
    /// The file; it must not exist.
    pub path: &'a Path,
    /// A file that holds this much of keys and values is closed.
    pub bytes_max: u64,
    /// Told of bytes read now and then; may wait, or give up with an error.
    pub pace: &'a mut dyn FnMut(u64) -> Result<()>,
}

/// A file that was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SortedFile {
    /// Its entries.
    pub entries: u64,
    /// Its length.
    pub size_bytes: u64,
    /// Key of the first entry.
    pub first_key: Bytes,
    /// Key of the last entry.
    pub last_key: Bytes,
}

/// Hands entries to `put` until the cursor ends or the plan's size is reached.
pub(crate) fn copy_entries(
    plan: &mut FilePlan<'_>,
    entries: &mut dyn EngineIterator,
    mut put: impl FnMut(&[u8], &[u8]) -> Result<()>,
) -> Result<SortedFile> {
    let mut file = SortedFile {
        entries: 0,
        size_bytes: 0,
        first_key: Bytes::copy_from_slice(entries.key()),
        last_key: Bytes::new(),
    };
    let (mut total, mut unpaced) = (0, 0);
    let mut last_key = Vec::new();
    while entries.valid() && total < plan.bytes_max {
        let (key, value) = (entries.key(), entries.value());
        put(key, value)?;
        let bytes = (key.len() + value.len()) as u64;
        last_key.clear();
        last_key.extend_from_slice(key);
        file.entries += 1;
        total += bytes;
        unpaced += bytes;
        if unpaced >= PACE_BYTES {
            (plan.pace)(std::mem::take(&mut unpaced))?;
        }
        entries.next()?;
    }
    (plan.pace)(unpaced)?;
    file.last_key = last_key.into();
    Ok(file)
}

/// The twin's form of [`crate::KvEngine::write_file`].
pub(crate) fn write_plain(
    cf: Cf,
    plan: &mut FilePlan<'_>,
    entries: &mut dyn EngineIterator,
) -> Result<Option<SortedFile>> {
    if !entries.valid() {
        return Ok(None);
    }
    let mut batch = WriteBatch::new();
    let mut file = copy_entries(plan, entries, |key, value| {
        batch.put(cf, Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
        Ok(())
    })?;
    let mut bytes = Vec::new();
    batch.encode(&mut bytes);
    bytes.extend_from_slice(&crc32fast::hash(&bytes).to_le_bytes());
    std::fs::write(plan.path, &bytes)?;
    file.size_bytes = bytes.len() as u64;
    Ok(Some(file))
}

/// Reads what [`write_plain`] wrote.
pub(crate) fn read_plain(cf: Cf, path: &Path) -> Result<WriteBatch> {
    const DAMAGED: EngineError = EngineError::Corrupted("sorted file: checksum");
    let bytes = Bytes::from(std::fs::read(path)?);
    let Some(length) = bytes.len().checked_sub(CHECKSUM_BYTES) else { return Err(DAMAGED) };
    if crc32fast::hash(&bytes[..length]).to_le_bytes() != bytes[length..] {
        return Err(DAMAGED);
    }
    let batch = WriteBatch::decode(bytes.slice(..length))?;
    let fits = |op: &WriteOp| matches!(op, WriteOp::Put { cf: at, .. } if *at == cf);
    match batch.ops().iter().all(fits) {
        true => Ok(batch),
        false => Err(EngineError::Corrupted("sorted file: of another column family")),
    }
}
