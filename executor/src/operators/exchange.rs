//! Runs an operator in a task of its own, ahead of its reader.
//!
//! The channel between is bounded, so the producer is at most
//! [`CHANNEL_CHUNKS`] chunks ahead. The task ends when the operator is drained or
//! fails, when the statement is cancelled, or when the exchange is dropped.

use async_trait::async_trait;
use cairn_types::{Chunk, FieldType};
use tokio::sync::mpsc;

use super::worker::{Workers, forward};
use crate::context::ExecContext;
use crate::error::Result;
use crate::operator::{BoxOperator, Operator};

/// Chunks a producer may be ahead of its consumer.
pub const CHANNEL_CHUNKS: usize = 4;

/// See the module documentation.
pub struct Exchange {
    schema: Vec<FieldType>,
    receiver: mpsc::Receiver<Result<Chunk>>,
    workers: Workers,
    done: bool,
}

impl Exchange {
    /// Starts `operator` in its own task of the current runtime.
    pub fn spawn(operator: BoxOperator, ctx: &ExecContext) -> Exchange {
        Exchange::spawn_all(operator.schema().to_vec(), vec![operator], ctx)
    }

    /// Starts each operator in its own task; their chunks come in any order.
    pub fn spawn_all(
        schema: Vec<FieldType>,
        operators: Vec<BoxOperator>,
        ctx: &ExecContext,
    ) -> Exchange {
        let (sender, receiver) = mpsc::channel(CHANNEL_CHUNKS * operators.len().max(1));
        let mut workers = Workers::new(ctx);
        for operator in operators {
            workers.spawn(forward(operator, sender.clone()));
        }
        Exchange { schema, receiver, workers, done: false }
    }
}

#[async_trait]
impl Operator for Exchange {
    fn schema(&self) -> &[FieldType] {
        &self.schema
    }

    async fn next(&mut self) -> Result<Option<Chunk>> {
        if self.done {
            return Ok(None);
        }
        match self.receiver.recv().await {
            Some(chunk) => chunk.map(Some),
            None => {
                self.done = true;
                // All senders are gone: either all is done, or a task died.
                self.workers.join("Exchange").await?;
                Ok(None)
            }
        }
    }
}
