//! Chunks that come from elsewhere: a list, or an asynchronous stream.

use async_trait::async_trait;
use cairn_types::{Chunk, FieldType};
use futures::stream::{BoxStream, StreamExt};

use crate::context::ExecContext;
use crate::error::{ExecError, Result};
use crate::operator::Operator;

/// Returns the chunks of a stream, for example those a distributed reader
/// receives. Stops waiting when the statement is cancelled; dropping it drops the
/// stream.
pub struct ChunkSource {
    schema: Vec<FieldType>,
    stream: BoxStream<'static, Result<Chunk>>,
    ctx: ExecContext,
    done: bool,
}

impl ChunkSource {
    /// A source over `stream`, whose chunks have columns of types `schema`.
    pub fn new(
        schema: Vec<FieldType>,
        stream: BoxStream<'static, Result<Chunk>>,
        ctx: ExecContext,
    ) -> ChunkSource {
        ChunkSource { schema, stream, ctx, done: false }
    }

    /// A source over chunks at hand.
    pub fn from_chunks(
        schema: Vec<FieldType>,
        chunks: Vec<Chunk>,
        ctx: ExecContext,
    ) -> ChunkSource {
        let stream = futures::stream::iter(chunks.into_iter().map(Ok)).boxed();
        ChunkSource::new(schema, stream, ctx)
    }
}

#[async_trait]
impl Operator for ChunkSource {
    fn schema(&self) -> &[FieldType] {
        &self.schema
    }

    async fn next(&mut self) -> Result<Option<Chunk>> {
        if self.done {
            return Ok(None);
        }
        self.ctx.check()?;
        let item = tokio::select! {
            biased;
            () = self.ctx.cancel.cancelled() => Some(Err(ExecError::Cancelled)),
            item = self.stream.next() => item,
        };
        let Some(item) = item else {
            self.done = true;
            return Ok(None);
        };
        let chunk = item?;
        if chunk.columns.len() != self.schema.len() {
            return Err(ExecError::Corrupted("a chunk has the wrong number of columns"));
        }
        Ok(Some(chunk))
    }
}
