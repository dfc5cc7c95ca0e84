//! One operator's temporary file, cut into blocks.

use std::ops::Range;
use std::sync::Arc;

use parking_lot::Mutex;

use super::{SpillSpace, TempFile};
use crate::error::{ExecError, Result, TempFileAction};

/// Where a block lies and what is in it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Block {
    slot: u32,
    len_bytes: u32,
    checksum: u32,
}

/// See the module documentation of [`crate::spill`].
#[derive(Clone)]
pub(crate) struct Area {
    shared: Arc<Shared>,
}

struct Shared {
    space: SpillSpace,
    file: Arc<dyn TempFile>,
    operator: &'static str,
    slots: Mutex<Slots>,
}

#[derive(Default)]
struct Slots {
    free: Vec<u32>,
    /// Slots the file has.
    count: u32,
}

impl Drop for Shared {
    fn drop(&mut self) {
        let bytes = u64::from(self.slots.get_mut().count) * self.space.sizes.block_bytes as u64;
        self.space.disk.release(bytes);
    }
}

impl Area {
    /// A new file of `operator`.
    pub(crate) async fn open(space: &SpillSpace, operator: &'static str) -> Result<Area> {
        let storage = Arc::clone(&space.storage);
        let file = blocking(operator, move || storage.create()).await?;
        let file = file.map_err(|error| failed(operator, TempFileAction::Create, error))?;
        tracing::debug!(operator, "an operator spills to disk");
        let slots = Mutex::default();
        Ok(Area { shared: Arc::new(Shared { space: space.clone(), file, operator, slots }) })
    }

    /// Bytes of a full block.
    pub(super) fn block_bytes(&self) -> usize {
        self.shared.space.sizes.block_bytes
    }

    pub(super) fn operator(&self) -> &'static str {
        self.shared.operator
    }

    /// Room for so many blocks.
    fn allocate(&self, count: usize) -> Result<Vec<u32>> {
        let Shared { space, operator, slots, .. } = &*self.shared;
        let mut slots = slots.lock();
        let reused = slots.free.len().min(count);
        let fresh = count - reused;
        let bytes = fresh as u64 * space.sizes.block_bytes as u64;
        space.disk.consume(bytes, operator).map_err(|error| match error {
            ExecError::MemoryExceeded { operator, scope, requested, used, limit, .. } => {
                ExecError::TempSpaceExceeded { operator, scope, requested, used, limit }
            }
            error => error,
        })?;
        let first = slots.count;
        slots.count += fresh as u32;
        let keep = slots.free.len() - reused;
        let mut taken = slots.free.split_off(keep);
        taken.extend(first..slots.count);
        Ok(taken)
    }

    /// Writes bytes, a block after the other; the last may be short. Gives the bytes back.
    pub(super) async fn write(
        &self,
        bytes: Vec<u8>,
        range: Range<usize>,
    ) -> Result<(Vec<u8>, Vec<Block>)> {
        let block_bytes = self.block_bytes();
        let slots = self.allocate(range.len().div_ceil(block_bytes))?;
        let file = Arc::clone(&self.shared.file);
        let written = blocking(self.operator(), move || {
            let mut blocks = Vec::with_capacity(slots.len());
            for (slot, block) in slots.into_iter().zip(bytes[range].chunks(block_bytes)) {
                file.write_at(u64::from(slot) * block_bytes as u64, block)?;
                let checksum = crc32fast::hash(block);
                blocks.push(Block { slot, len_bytes: block.len() as u32, checksum });
            }
            Ok((bytes, blocks))
        });
        written.await?.map_err(|error| failed(self.operator(), TempFileAction::Write, error))
    }

    /// Appends what a block holds.
    pub(super) async fn read(&self, block: Block, mut bytes: Vec<u8>) -> Result<Vec<u8>> {
        let file = Arc::clone(&self.shared.file);
        let offset = u64::from(block.slot) * self.block_bytes() as u64;
        let read = blocking(self.operator(), move || {
            let start = bytes.len();
            bytes.resize(start + block.len_bytes as usize, 0);
            file.read_at(offset, &mut bytes[start..])?;
            if crc32fast::hash(&bytes[start..]) != block.checksum {
                return Err(std::io::Error::new(
                    std::io::ErrorKind::InvalidData,
                    "its checksum is wrong",
                ));
            }
            Ok(bytes)
        });
        read.await?.map_err(|error| failed(self.operator(), TempFileAction::Read, error))
    }

    /// Blocks that nobody reads any more.
    pub(super) fn free(&self, blocks: &[Block]) {
        self.shared.slots.lock().free.extend(blocks.iter().map(|block| block.slot));
    }
}

fn failed(operator: &'static str, action: TempFileAction, error: std::io::Error) -> ExecError {
    ExecError::TempFile { operator, action, error: Arc::new(error) }
}

/// Runs what blocks. It ends by itself when nobody waits for it any more; the file then goes with it.
async fn blocking<T: Send + 'static>(
    operator: &'static str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|_| ExecError::WorkerLost(operator))
}
