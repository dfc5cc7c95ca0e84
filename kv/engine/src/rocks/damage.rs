//! Remembers which files turned out to be damaged, whoever came upon them.
//!
//! RocksDB names the file in the text of its error only. The file's range of keys tells
//! whose data is gone: see [`crate::KvEngine::take_damage`]. Files of long values it does not
//! name at all: there the key that was read is what is known to be damaged.

use bytes::Bytes;
use parking_lot::Mutex;

use super::Db;
use crate::{Cf, DamagedFile, EngineError};

/// Places remembered at one time; more are found again by their next readers.
const PLACES_MAX: usize = 64;
const SUFFIX: &str = ".sst";

/// Where damage was come upon.
#[derive(PartialEq)]
enum Place {
    /// In the file of that name.
    File(String),
    /// In the value of that key, which lies in a file apart from the keys that RocksDB does
    /// not name.
    Value(Cf, Bytes),
}

/// Damage that nobody has asked for yet, with what RocksDB said.
#[derive(Default)]
pub(super) struct DamageLog {
    places: Mutex<Vec<(Place, String)>>,
}

impl DamageLog {
    /// Passes an error on, and remembers the file if it tells of damage.
    pub(super) fn note(&self, error: rocksdb::Error) -> EngineError {
        self.note_place(error, || None)
    }

    /// As [`DamageLog::note`], of a read of one key.
    pub(super) fn note_read(&self, error: rocksdb::Error, cf: Cf, key: &[u8]) -> EngineError {
        self.note_place(error, || Some(Place::Value(cf, Bytes::copy_from_slice(key))))
    }

    fn note_place(
        &self,
        error: rocksdb::Error,
        unnamed: impl FnOnce() -> Option<Place>,
    ) -> EngineError {
        let error = EngineError::from(error);
        if let EngineError::Damaged(text) = &error {
            let named = file_in(text).map(|name| Place::File(name.to_owned()));
            let mut places = self.places.lock();
            if let Some(place) = named.or_else(unnamed)
                && places.len() < PLACES_MAX
                && places.iter().all(|(known, _)| *known != place)
            {
                places.push((place, text.clone()));
            }
        }
        error
    }

    /// What was found since the last call. A file that is no longer there has been
    /// compacted away, damaged block and all.
    pub(super) fn take(&self, db: &Db) -> Vec<DamagedFile> {
        let places = std::mem::take(&mut *self.places.lock());
        if places.is_empty() {
            return Vec::new();
        }
        let live = match db.live_files() {
            Ok(live) => live,
            Err(error) => {
                tracing::error!(%error, "files of the engine cannot be listed");
                return Vec::new();
            }
        };
        let find = |(place, reason): (Place, String)| match place {
            Place::Value(cf, key) => {
                Some(DamagedFile { cf, first_key: key.clone(), last_key: key, reason })
            }
            Place::File(name) => {
                let file = live.iter().find(|file| file.name.ends_with(&name))?;
                let cf = Cf::ALL.into_iter().find(|cf| cf.name() == file.column_family_name)?;
                let key = |key: &Option<Vec<u8>>| Bytes::from(key.clone().unwrap_or_default());
                let (first_key, last_key) = (key(&file.start_key), key(&file.end_key));
                Some(DamagedFile { cf, first_key, last_key, reason })
            }
        };
        places.into_iter().filter_map(find).collect()
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
