//! Remembers which files turned out to be damaged, whoever came upon them.
//!
//! RocksDB names the file in the text of its error only. The file's range of keys tells
//! whose data is gone: see [`crate::KvEngine::take_damage`].

use bytes::Bytes;
use parking_lot::Mutex;

use super::Db;
use crate::{Cf, DamagedFile, EngineError};

/// Files remembered at one time; more are found again by their next readers.
const FILES_MAX: usize = 64;
const SUFFIX: &str = ".sst";

/// Names of damaged files that nobody has asked for yet.
#[derive(Default)]
pub(super) struct DamageLog {
    files: Mutex<Vec<(String, String)>>,
}

impl DamageLog {
    /// Passes an error on, and remembers the file if it tells of damage.
    pub(super) fn note(&self, error: rocksdb::Error) -> EngineError {
        let error = EngineError::from(error);
        if let EngineError::Damaged(text) = &error
            && let Some(name) = file_in(text)
        {
            let mut files = self.files.lock();
            if files.len() < FILES_MAX && files.iter().all(|(known, _)| known != name) {
                files.push((name.to_owned(), text.clone()));
            }
        }
        error
    }

    /// What was found since the last call. A file that is no longer there has been
    /// compacted away, damaged block and all.
    pub(super) fn take(&self, db: &Db) -> Vec<DamagedFile> {
        let named = std::mem::take(&mut *self.files.lock());
        if named.is_empty() {
            return Vec::new();
        }
        let live = match db.live_files() {
            Ok(live) => live,
            Err(error) => {
                tracing::error!(%error, "files of the engine cannot be listed");
                return Vec::new();
            }
        };
        let find = |(name, text): (String, String)| {
            let file = live.iter().find(|file| file.name.ends_with(&name))?;
            let cf = Cf::ALL.into_iter().find(|cf| cf.name() == file.column_family_name)?;
            let key = |key: &Option<Vec<u8>>| Bytes::from(key.clone().unwrap_or_default());
            Some(DamagedFile {
                cf,
                first_key: key(&file.start_key),
                last_key: key(&file.end_key),
                reason: text,
            })
        };
        named.into_iter().filter_map(find).collect()
    }
}

/// `000012.sst` in "Corruption: block checksum mismatch: … in /path/000012.sst offset …".
fn file_in(text: &str) -> Option<&str> {
    let end = text.find(SUFFIX)?;
    let digits = text[..end].bytes().rev().take_while(u8::is_ascii_digit).count();
    (digits > 0).then(|| &text[end - digits..end + SUFFIX.len()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_file_in_the_text() {
        let text = "Corruption: block checksum mismatch: stored = 1, computed = 2, type = 4  \
                    in /data/db/000012.sst offset 17 size 100";
        assert_eq!(file_in(text), Some("000012.sst"));
        assert_eq!(file_in("Corruption: bad entry in block"), None);
        assert_eq!(file_in("a.sst"), None);
    }
}
