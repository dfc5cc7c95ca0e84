//! Slow and failing syncs and a wrong wall clock, for one process at a time.
//!
//! A small library (`shim.c`) is put between the node and the system by `LD_PRELOAD`. Why not the
//! kernel: it has no device mapper here, a throttle of block IO delays what other processes wait
//! for too, and a file system in user space would slow everything else of the disk. The log engine
//! and RocksDB both call the C library's `fsync` and `fdatasync`, which is all that has to change.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::{HarnessError, tool};

/// The library's source.
const SOURCE: &str = include_str!("shim.c");
/// Where the control file holds what; 8 bytes each, in the machine's order.
const SYNC_DELAY_US_AT: u64 = 0;
const SYNC_FAILS_AT: u64 = 8;
const WALL_OFFSET_US_AT: u64 = 16;
const CONTROL_BYTES: u64 = 24;

/// Compiles the library into the folder.
pub fn compile(folder: &Path) -> Result<PathBuf, HarnessError> {
    let library = folder.join("shim.so");
    let arguments = ["-x", "c", "-", "-shared", "-fPIC", "-O2", "-ldl", "-o"];
    tool("cc", &[&arguments[..], &[&library.display().to_string()]].concat(), SOURCE)?;
    Ok(library)
}

/// What one process is told about the world.
#[derive(Debug)]
pub struct Knobs {
    path: PathBuf,
    file: File,
}

impl Knobs {
    /// Knobs that change nothing yet, in a file of this name.
    pub fn make(path: PathBuf) -> Result<Self, HarnessError> {
        let failed = |error| HarnessError::io(format!("make {}", path.display()), error);
        let file = File::create(&path).map_err(failed)?;
        file.set_len(CONTROL_BYTES).map_err(failed)?;
        Ok(Self { path, file })
    }

    /// Puts the library before the command.
    pub fn attach(&self, library: &Path, command: &mut Command) {
        command.env("LD_PRELOAD", library).env("CAIRN_SHIM_CONTROL", &self.path);
    }

    /// Every sync takes this much longer.
    pub fn delay_syncs(&self, by: Duration) -> Result<(), HarnessError> {
        self.turn(SYNC_DELAY_US_AT, i64::try_from(by.as_micros()).unwrap_or(i64::MAX))
    }

    /// Whether every sync fails with EIO.
    pub fn fail_syncs(&self, fail: bool) -> Result<(), HarnessError> {
        self.turn(SYNC_FAILS_AT, i64::from(fail))
    }

    /// The wall clock goes wrong by this many milliseconds.
    pub fn shift_wall_clock(&self, by_ms: i64) -> Result<(), HarnessError> {
        self.turn(WALL_OFFSET_US_AT, by_ms * 1_000)
    }

    fn turn(&self, at: u64, value: i64) -> Result<(), HarnessError> {
        self.file
            .write_all_at(&value.to_ne_bytes(), at)
            .map_err(|error| HarnessError::io(format!("write {}", self.path.display()), error))
    }
}
