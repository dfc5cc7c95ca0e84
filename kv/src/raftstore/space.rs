//! Watches the disk: how much room there is, and when writes must be refused.
//!
//! **States.** With `r` the reserve (see [`reserve_bytes_for`]), by what is available
//! beyond the reserve file:
//! ```text
//! normal        more than r      everything goes
//! almost full   more than r / 2  new data is refused; deletions, commits, rollbacks, GC,
//!                                Raft and compaction go on; no Raft snapshots come in
//! full          less             the same, and the reserve file is given up, which
//!                                leaves room for all that frees space
//! exhausted     the reserve is   followers take no more entries: their regions go on
//!               nearly used up   with the other replicas
//! ```
//! A state is left upwards only with a quarter of `r` to spare, so that it does not
//! flutter. When there is room again the reserve file comes back.
//!
//! **Concurrency.** The watch thread writes, anybody reads.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use super::error::RaftStoreError;

const MIB: u64 = 1024 * 1024;
/// Part of the disk that is reserved.
const RESERVE_PART: u64 = 20;
/// A large disk does not need more: it is meant for minutes of deletions.
const RESERVE_BYTES_MAX: u64 = 2 * 1024 * MIB;
/// Below this share of the reserve nothing may be written that can be refused.
const EXHAUSTED_PART: u64 = 4;
const RESERVE_FILE: &str = "space-reserve";

/// Room on a disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskSpace {
    /// All of it; 0 = unknown.
    pub capacity_bytes: u64,
    /// What may still be written.
    pub available_bytes: u64,
}

/// How full a disk is; see the module.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum SpaceLevel {
    /// Room enough.
    #[default]
    Normal = 0,
    /// New data is refused.
    AlmostFull = 1,
    /// The reserve is in use.
    Full = 2,
    /// Even the reserve is nearly used up.
    Exhausted = 3,
}

impl SpaceLevel {
    fn from_u8(number: u8) -> SpaceLevel {
        match number {
            0 => SpaceLevel::Normal,
            1 => SpaceLevel::AlmostFull,
            2 => SpaceLevel::Full,
            _ => SpaceLevel::Exhausted,
        }
    }
}

/// The reserve of a disk of this size: a twentieth, at most 2 GiB.
pub fn reserve_bytes_for(capacity_bytes: u64) -> u64 {
    (capacity_bytes / RESERVE_PART).min(RESERVE_BYTES_MAX)
}

/// The state that follows, by what is free beyond the reserve file.
///
/// `free_bytes` counts as if the file held all of the reserve: what is missing of it
/// was subtracted, so that it is negative once the reserve is in use.
fn judge(before: SpaceLevel, free_bytes: i64, reserve_bytes: u64) -> SpaceLevel {
    let reserve = i64::try_from(reserve_bytes).unwrap_or(i64::MAX / 4);
    let spare = reserve / 4;
    let below = |level: SpaceLevel, bound: i64| {
        // Already there: it takes more to leave.
        free_bytes < if before >= level { bound + spare } else { bound }
    };
    if below(SpaceLevel::Exhausted, -reserve + reserve / EXHAUSTED_PART as i64) {
        SpaceLevel::Exhausted
    } else if below(SpaceLevel::Full, reserve / 2) {
        SpaceLevel::Full
    } else if below(SpaceLevel::AlmostFull, reserve) {
        SpaceLevel::AlmostFull
    } else {
        SpaceLevel::Normal
    }
}

/// The state of a store's disk, for everybody.
#[derive(Debug, Default)]
pub struct SpaceWatch {
    level: AtomicU8,
    capacity_bytes: AtomicU64,
    available_bytes: AtomicU64,
}

impl SpaceWatch {
    /// How full it is.
    pub fn level(&self) -> SpaceLevel {
        SpaceLevel::from_u8(self.level.load(Ordering::Relaxed))
    }

    /// Its room as of the last look.
    pub fn space(&self) -> DiskSpace {
        DiskSpace {
            capacity_bytes: self.capacity_bytes.load(Ordering::Relaxed),
            available_bytes: self.available_bytes.load(Ordering::Relaxed),
        }
    }

    /// What a look found.
    pub fn set(&self, level: SpaceLevel, space: DiskSpace) {
        self.level.store(level as u8, Ordering::Relaxed);
        self.capacity_bytes.store(space.capacity_bytes, Ordering::Relaxed);
        self.available_bytes.store(space.available_bytes, Ordering::Relaxed);
    }
}

/// Looks at the disk under a folder and keeps its reserve file.
pub struct SpaceKeeper {
    folder: PathBuf,
    reserve_bytes: u64,
    level: SpaceLevel,
}

impl SpaceKeeper {
    /// `reserve_bytes` of `None`: as [`reserve_bytes_for`] says.
    pub fn open(folder: &Path, reserve_bytes: Option<u64>) -> Result<SpaceKeeper, RaftStoreError> {
        let capacity = read_space(folder)?.capacity_bytes;
        let reserve_bytes = reserve_bytes.unwrap_or_else(|| reserve_bytes_for(capacity));
        Ok(SpaceKeeper { folder: folder.to_owned(), reserve_bytes, level: SpaceLevel::Normal })
    }

    /// One look; gives up or restores the reserve as needed.
    pub fn look(&mut self, watch: &SpaceWatch) -> Result<(), RaftStoreError> {
        let mut space = read_space(&self.folder)?;
        let held = self.held_bytes();
        let missing = self.reserve_bytes.saturating_sub(held);
        let signed = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX / 4);
        let free = signed(space.available_bytes) - signed(missing);
        let level = judge(self.level, free, self.reserve_bytes);
        if level != self.level {
            let available = space.available_bytes;
            tracing::warn!(from = ?self.level, to = ?level, available, "disk space");
        }
        self.level = level;
        if level >= SpaceLevel::Full && held > 0 {
            std::fs::remove_file(self.reserve_path())?;
            space = read_space(&self.folder)?;
        } else if level == SpaceLevel::Normal && held != self.reserve_bytes {
            self.fill_reserve()?;
            space = read_space(&self.folder)?;
        }
        watch.set(level, space);
        Ok(())
    }

    fn reserve_path(&self) -> PathBuf {
        self.folder.join(RESERVE_FILE)
    }

    fn held_bytes(&self) -> u64 {
        std::fs::metadata(self.reserve_path()).map_or(0, |file| file.len())
    }

    fn fill_reserve(&self) -> Result<(), RaftStoreError> {
        let file =
            File::options().create(true).truncate(false).write(true).open(self.reserve_path())?;
        // A reserve that was set smaller since goes down to it.
        if file.metadata()?.len() > self.reserve_bytes {
            file.set_len(self.reserve_bytes)?;
        }
        let flags = rustix::fs::FallocateFlags::empty();
        match rustix::fs::fallocate(&file, flags, 0, self.reserve_bytes) {
            Ok(()) => Ok(()),
            // File systems that cannot: the states still hold, by what is available.
            Err(rustix::io::Errno::OPNOTSUPP) => Ok(file.set_len(self.reserve_bytes)?),
            Err(error) => {
                drop(file);
                std::fs::remove_file(self.reserve_path())?;
                Err(std::io::Error::from(error).into())
            }
        }
    }
}

fn read_space(folder: &Path) -> Result<DiskSpace, RaftStoreError> {
    let found = rustix::fs::statvfs(folder).map_err(std::io::Error::from)?;
    Ok(DiskSpace {
        capacity_bytes: found.f_blocks.saturating_mul(found.f_frsize),
        available_bytes: found.f_bavail.saturating_mul(found.f_frsize),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserves_suit_small_and_large_disks() {
        assert_eq!(reserve_bytes_for(100 * MIB), 5 * MIB);
        assert_eq!(reserve_bytes_for(20 * 1024 * MIB), 1024 * MIB);
        assert_eq!(reserve_bytes_for(16 * 1024 * 1024 * MIB), 2 * 1024 * MIB);
    }

    #[test]
    fn states_follow_the_room_and_do_not_flutter() {
        use SpaceLevel::*;
        let mut level = Normal;
        let mut at = |free: i64| {
            level = judge(level, free, 100);
            level
        };
        let seen = [500, 101, 99, 110, 124, 126, 49, 60, 76, 40, -74, -76, -60, -49, 70, 80, 126]
            .map(&mut at);
        let expected = [
            Normal, Normal, AlmostFull, AlmostFull, AlmostFull, Normal, Full, Full, AlmostFull,
            Full, Full, Exhausted, Exhausted, Full, Full, AlmostFull, Normal,
        ];
        assert_eq!(seen, expected);
    }

    #[test]
    fn the_reserve_file_comes_and_goes() {
        let dir = tempfile::tempdir().unwrap();
        let watch = SpaceWatch::default();
        let mut keeper = SpaceKeeper::open(dir.path(), Some(MIB)).unwrap();
        keeper.look(&watch).unwrap();
        assert_eq!(watch.level(), SpaceLevel::Normal);
        assert!(watch.space().capacity_bytes > 0);
        assert_eq!(keeper.held_bytes(), MIB);
        // Configured smaller since.
        keeper.reserve_bytes = MIB / 2;
        keeper.look(&watch).unwrap();
        assert_eq!(keeper.held_bytes(), MIB / 2);
        // A disk that is too small for the reserve: full, and the file is given up.
        let available = watch.space().available_bytes;
        keeper.reserve_bytes = available.saturating_mul(4);
        keeper.look(&watch).unwrap();
        assert!(watch.level() >= SpaceLevel::Full);
        assert_eq!(keeper.held_bytes(), 0);
        // Room is back.
        keeper.reserve_bytes = MIB;
        keeper.look(&watch).unwrap();
        assert_eq!(watch.level(), SpaceLevel::Normal);
        assert_eq!(keeper.held_bytes(), MIB);
    }
}
