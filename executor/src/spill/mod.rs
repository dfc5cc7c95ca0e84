//! Where operators put what memory does not hold.
//!
//! ```text
//!  operator ── Area (one temporary file) ──┬─ stream: blocks 0, 3, 4 ─► chunks
//!                                          ├─ stream: blocks 1, 2    ─► chunks
//!                                          └─ free blocks 5, 6
//! ```
//!
//! An operator that is refused memory opens an [`Area`] and writes chunks, in the form they have on the wire,
//! into [`SpillWriter`]s; each becomes a [`SpillStream`] that is read from the start. All streams of an operator
//! share one file, cut into blocks of one size, so that a join with hundreds of partitions needs one
//! descriptor; blocks of streams that are gone are used again. Places, lengths and checksums (CRC-32) of the blocks are in
//! memory: the file means nothing without its operator.
//!
//! | who | spills how |
//! |---|---|
//! | [`crate::operators::Sort`] | sorted runs that are merged |
//! | [`crate::operators::TopN`] | becomes a sort |
//! | [`crate::operators::HashAgg`] | rows of groups that are not in memory, by the hash of their group |
//! | [`crate::operators::HashJoin`] | both inputs, by the hash of their keys |
//!
//! **Invariants.** A file has no name, or none that outlives its making ([`folder::TempFolder`]): whatever ends the
//! operator, an error, a cancelled statement or the process, frees the space. Bytes on disk are counted
//! in a tree of trackers like memory: statement → node (`tmp-storage-quota`).
//!
//! **Concurrency.** Files are read and written on the blocking threads of the runtime, a few blocks at a time.
//!
//! **Left out:** compression; writing ahead of the operator.

mod area;
pub mod folder;
pub(crate) mod partition;
mod stream;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;

use crate::error::Result;
use crate::memory::{MemoryTracker, OperatorMemory};

pub(crate) use area::Area;
pub(crate) use stream::{SpillReader, SpillSource, SpillStream, SpillWriter};

/// Makes temporary files.
pub trait TempStorage: Send + Sync {
    /// An empty file, gone when it is dropped.
    fn create(&self) -> io::Result<Arc<dyn TempFile>>;
}

/// A temporary file. Calls block.
pub trait TempFile: Send + Sync {
    /// Writes all of `bytes` from byte `offset` on.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Fills all of `bytes` from byte `offset` on; an error if the file is shorter.
    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()>;
}

/// Sizes of what is spilled. The defaults suit quotas from a few MiB on; tests take smaller ones.
#[derive(Clone, Copy, Debug)]
pub struct SpillSizes {
    /// What an operator may use whatever the quota says: below it spilling would make tiny runs.
    pub floor_bytes: usize,
    /// Bytes of a block.
    pub block_bytes: usize,
    /// Partitions of rows that do not fit.
    pub partitions: usize,
    /// Fewest runs that are merged at once, if memory is short; and most.
    pub merge_runs: (usize, usize),
}

impl Default for SpillSizes {
    fn default() -> SpillSizes {
        SpillSizes {
            floor_bytes: 512 << 10,
            block_bytes: 32 << 10,
            partitions: 16,
            merge_runs: (4, 64),
        }
    }
}

/// A statement's share of the temporary storage.
#[derive(Clone)]
pub struct SpillSpace {
    storage: Arc<dyn TempStorage>,
    disk: Arc<MemoryTracker>,
    sizes: SpillSizes,
}

impl SpillSpace {
    /// Files of `storage`, counted by `disk` (the statement's).
    pub fn new(storage: Arc<dyn TempStorage>, disk: Arc<MemoryTracker>) -> SpillSpace {
        SpillSpace { storage, disk, sizes: SpillSizes::default() }
    }

    /// With other sizes.
    #[must_use]
    pub fn with_sizes(mut self, sizes: SpillSizes) -> SpillSpace {
        self.sizes = sizes;
        self
    }

    /// What the statement has on disk.
    pub fn disk(&self) -> &Arc<MemoryTracker> {
        &self.disk
    }

    /// The same place, with what is written counted by `disk`, a tracker below the statement's.
    #[must_use]
    pub(crate) fn counted_by(mut self, disk: Arc<MemoryTracker>) -> SpillSpace {
        self.disk = disk;
        self
    }

    /// See [`SpillSizes`].
    pub(crate) fn sizes(&self) -> &SpillSizes {
        &self.sizes
    }
}

/// Tells what an operator uses now, whose input was divided `depth` times; true: it must spill before
/// it takes more. Without a place to spill to (`space`) the quota is a limit, and so it is, beyond the
/// floor, at [`partition::DEPTH_MAX`].
#[inline]
pub(crate) fn must_spill(
    memory: &mut OperatorMemory,
    space: Option<&SpillSpace>,
    depth: u32,
    bytes: usize,
) -> Result<bool> {
    let Some(space) = space else { return memory.set(bytes as u64).map(|()| false) };
    if memory.try_set(bytes as u64) {
        return Ok(false);
    }
    let is_little = bytes < space.sizes.floor_bytes;
    if depth >= partition::DEPTH_MAX && !is_little {
        return memory.set(bytes as u64).map(|()| false);
    }
    memory.force_set(bytes as u64);
    Ok(!is_little)
}
