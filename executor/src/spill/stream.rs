//! Chunks written one after the other and read back in the same order.
//!
//! ```text
//!  chunk: length u32 | wire form         chunks lie end to end, across blocks
//! ```

use std::collections::VecDeque;
use std::sync::Arc;

use async_trait::async_trait;
use cairn_types::{Chunk, FieldType};

use super::area::{Area, Block};
use crate::context::ExecContext;
use crate::error::{ExecError, Result};
use crate::operator::Operator;

/// Bytes of a chunk's length.
const LENGTH_BYTES: usize = 4;

/// A stream that is being written.
pub(crate) struct SpillWriter {
    blocks: Blocks,
    /// What does not fill a block yet.
    buffer: Vec<u8>,
    rows: u64,
}

/// A stream that was written. Clones share what is on disk.
#[derive(Clone)]
pub(crate) struct SpillStream {
    blocks: Arc<Blocks>,
    rows: u64,
}

/// Blocks of one stream; free again when it is dropped.
struct Blocks {
    area: Area,
    list: Vec<Block>,
}

impl Drop for Blocks {
    fn drop(&mut self) {
        self.area.free(&self.list);
    }
}

impl SpillWriter {
    /// An empty stream.
    pub(crate) fn new(area: &Area) -> SpillWriter {
        let blocks = Blocks { area: area.clone(), list: Vec::new() };
        SpillWriter { blocks, buffer: Vec::new(), rows: 0 }
    }

    /// Appends a chunk.
    pub(crate) async fn push(&mut self, chunk: &Chunk) -> Result<()> {
        let start = self.buffer.len();
        self.buffer.extend_from_slice(&[0; LENGTH_BYTES]);
        chunk.encode(&mut self.buffer);
        let length = self.buffer.len() - start - LENGTH_BYTES;
        let length = u32::try_from(length).map_err(|_| ExecError::TooMuchText)?;
        self.buffer[start..start + LENGTH_BYTES].copy_from_slice(&length.to_le_bytes());
        self.rows += chunk.num_selected() as u64;
        let whole = self.buffer.len() - self.buffer.len() % self.blocks.area.block_bytes();
        self.write(whole).await
    }

    /// Rows so far.
    pub(crate) fn rows(&self) -> u64 {
        self.rows
    }

    async fn write(&mut self, length: usize) -> Result<()> {
        if length == 0 {
            return Ok(());
        }
        let buffer = std::mem::take(&mut self.buffer);
        let (buffer, blocks) = self.blocks.area.write(buffer, 0..length).await?;
        self.buffer = buffer;
        self.buffer.drain(..length);
        // One large chunk should not leave a large buffer behind.
        self.buffer.shrink_to(2 * self.blocks.area.block_bytes());
        self.blocks.list.extend(blocks);
        Ok(())
    }

    /// Writes what is left.
    pub(crate) async fn finish(mut self) -> Result<SpillStream> {
        self.write(self.buffer.len()).await?;
        Ok(SpillStream { blocks: Arc::new(self.blocks), rows: self.rows })
    }
}

impl SpillStream {
    /// Rows.
    pub(crate) fn rows(&self) -> u64 {
        self.rows
    }

    /// Bytes on disk.
    pub(crate) fn bytes(&self) -> u64 {
        (self.blocks.list.len() * self.blocks.area.block_bytes()) as u64
    }

    /// Reads it from the start.
    pub(crate) fn read(self) -> SpillReader {
        SpillReader { blocks: self.blocks, next_block: 0, buffer: Vec::new(), at: 0 }
    }
}

/// A stream that is being read.
pub(crate) struct SpillReader {
    blocks: Arc<Blocks>,
    next_block: usize,
    /// What was read; bytes before `at` were used.
    buffer: Vec<u8>,
    at: usize,
}

impl SpillReader {
    /// The next chunk, whose columns have these types.
    pub(crate) async fn next(&mut self, types: &[FieldType]) -> Result<Option<Chunk>> {
        if !self.fill(LENGTH_BYTES).await? {
            return Ok(None);
        }
        let (length, _) = self.buffer[self.at..].split_first_chunk::<LENGTH_BYTES>().expect("read");
        let length = u32::from_le_bytes(*length) as usize;
        if !self.fill(LENGTH_BYTES + length).await? {
            return Err(ExecError::Corrupted("a temporary file ends within a chunk"));
        }
        let start = self.at + LENGTH_BYTES;
        self.at = start + length;
        Ok(Some(Chunk::decode(&self.buffer[start..self.at], types)?))
    }

    /// Bytes held.
    pub(crate) fn bytes(&self) -> usize {
        self.buffer.capacity()
    }

    /// Reads until so many bytes are at hand; false: the stream ends before.
    async fn fill(&mut self, wanted: usize) -> Result<bool> {
        while self.buffer.len() - self.at < wanted {
            let Some(block) = self.blocks.list.get(self.next_block) else { return Ok(false) };
            self.next_block += 1;
            let mut buffer = std::mem::take(&mut self.buffer);
            buffer.drain(..self.at);
            self.at = 0;
            self.buffer = self.blocks.area.read(*block, buffer).await?;
        }
        Ok(true)
    }
}

/// Reads streams one after the other.
pub(crate) struct SpillSource {
    schema: Vec<FieldType>,
    streams: VecDeque<SpillStream>,
    reader: Option<SpillReader>,
    ctx: ExecContext,
}

impl SpillSource {
    /// Chunks with columns of types `schema`.
    pub(crate) fn new(
        schema: Vec<FieldType>,
        streams: impl IntoIterator<Item = SpillStream>,
        ctx: ExecContext,
    ) -> SpillSource {
        SpillSource { schema, streams: streams.into_iter().collect(), reader: None, ctx }
    }
}

#[async_trait]
impl Operator for SpillSource {
    fn schema(&self) -> &[FieldType] {
        &self.schema
    }

    async fn next(&mut self) -> Result<Option<Chunk>> {
        loop {
            self.ctx.check()?;
            if let Some(reader) = &mut self.reader {
                if let Some(chunk) = reader.next(&self.schema).await? {
                    return Ok(Some(chunk));
                }
                self.reader = None;
            }
            let Some(stream) = self.streams.pop_front() else { return Ok(None) };
            self.reader = Some(stream.read());
        }
    }
}
