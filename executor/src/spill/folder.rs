//! Temporary files in a folder.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{TempFile, TempStorage};

/// Files without a name in one folder: the system frees them when they are closed, also when the
/// process is killed, so that there is nothing to clean up at the next start.
#[derive(Debug)]
pub struct TempFolder {
    path: PathBuf,
}

impl TempFolder {
    /// Files in `path`, which is made when first needed.
    pub fn new(path: impl Into<PathBuf>) -> TempFolder {
        TempFolder { path: path.into() }
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl TempStorage for TempFolder {
    fn create(&self) -> io::Result<Arc<dyn TempFile>> {
        let make = || tempfile::tempfile_in(&self.path);
        let file = match make() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                std::fs::create_dir_all(&self.path)?;
                make()?
            }
            made => made?,
        };
        Ok(Arc::new(DiskFile(file)))
    }
}

struct DiskFile(File);

impl TempFile for DiskFile {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(bytes, offset)
    }
}
