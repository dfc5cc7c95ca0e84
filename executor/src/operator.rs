//! What an operator is.

use async_trait::async_trait;
use cairn_types::{Chunk, FieldType};

use crate::error::Result;

/// A running operator: a stream of chunks, pulled by the operator above.
///
/// The contract, the same for all:
///
/// - `next` gives the next chunk, or `None` once drained; after `None` it gives
///   `None` again. An **empty chunk is not the end**: a filter that let nothing
///   through may return one.
/// - A chunk may carry a selection (`sel`): only the selected rows count. Whoever
///   reads columns directly must go through it.
/// - The columns of every chunk have the types of [`Operator::schema`].
/// - Chunks grow from 32 rows to 1,024 ([`crate::ExecContext::chunk_rows`]), so
///   that a LIMIT 1 reads little and a scan pays little per row. Chunks may be
///   larger where rows multiply (joins) or come from the network.
/// - After an error the operator is not called again.
/// - Dropping an operator, at any point, ends it and all it started: tasks, scans,
///   channels, reserved memory.
/// - Warnings go to the sink of the evaluation context; errors end the statement.
/// - Order is part of the contract only of operators that say so.
#[async_trait]
pub trait Operator: Send {
    /// Types of the columns.
    fn schema(&self) -> &[FieldType];

    /// The next chunk, `None` when drained.
    async fn next(&mut self) -> Result<Option<Chunk>>;
}

/// An owned operator of any kind.
pub type BoxOperator = Box<dyn Operator>;

#[async_trait]
impl Operator for BoxOperator {
    fn schema(&self) -> &[FieldType] {
        (**self).schema()
    }

    async fn next(&mut self) -> Result<Option<Chunk>> {
        (**self).next().await
    }
}
