//! Rows that several operators of one statement read and that are made once: a common table
//! expression with several readers.
//!
//! Whoever is ahead pulls the next chunk and keeps it for the others; nobody who stops early makes more
//! rows than were asked for. The operator that makes them runs in a task of its own, so that a reader
//! that is dropped while it waits takes nothing along.
//!
//! **Order:** that of the input, for every reader.
//!
//! **Cost** (planner): the input once, and a copy of its rows for each reader; memory: all rows, until
//! the statement ends. What the quota does not hold ends with error 8175.

use std::sync::Arc;

use async_trait::async_trait;
use cairn_types::{Chunk, FieldType, MysqlError};
use tokio::sync::Mutex;

use super::exchange::Exchange;
use crate::batch;
use crate::context::ExecContext;
use crate::error::{ExecError, Result};
use crate::memory::OperatorMemory;
use crate::operator::{BoxOperator, Operator};

/// The rows, as far as they were made.
pub struct SharedRows {
    schema: Vec<FieldType>,
    state: Mutex<State>,
    ctx: ExecContext,
}

struct State {
    source: Source,
    chunks: Vec<Chunk>,
    bytes: usize,
    memory: OperatorMemory,
}

enum Source {
    /// Nobody has asked yet.
    Ready(BoxOperator),
    Running(Exchange),
    Drained,
    /// With the error that every reader gets.
    Failed(MysqlError),
}

impl SharedRows {
    /// The rows of `input`, none of which has been made.
    pub fn new(input: BoxOperator, ctx: ExecContext) -> Arc<SharedRows> {
        let schema = input.schema().to_vec();
        let memory = ctx.account("CTE");
        let source = Source::Ready(input);
        let state = Mutex::new(State { source, chunks: Vec::new(), bytes: 0, memory });
        Arc::new(SharedRows { schema, state, ctx })
    }

    /// The chunk at a place; `None`: there are fewer.
    async fn chunk(&self, at: usize) -> Result<Option<Chunk>> {
        let state = &mut *self.state.lock().await;
        let chunk = state.chunk(at, &self.ctx).await;
        if let Err(error) = &chunk {
            state.source = Source::Failed(error.to_mysql());
        }
        chunk
    }
}

impl State {
    async fn chunk(&mut self, at: usize, ctx: &ExecContext) -> Result<Option<Chunk>> {
        let state = self;
        loop {
            if let Some(chunk) = state.chunks.get(at) {
                return Ok(Some(chunk.clone()));
            }
            let next = match std::mem::replace(&mut state.source, Source::Drained) {
                Source::Drained => return Ok(None),
                Source::Failed(error) => return Err(ExecError::source(error.clone(), error)),
                Source::Ready(input) => {
                    state.source = Source::Running(Exchange::spawn(input, ctx));
                    continue;
                }
                Source::Running(running) => {
                    // Put back before it is waited for: the waiting may be given up.
                    state.source = Source::Running(running);
                    let Source::Running(running) = &mut state.source else { continue };
                    running.next().await?
                }
            };
            let Some(chunk) = next else {
                state.source = Source::Drained;
                return Ok(None);
            };
            let chunk = batch::dense(chunk);
            state.bytes += chunk.memory_bytes();
            state.memory.set(state.bytes as u64)?;
            state.chunks.push(chunk);
        }
    }
}

/// Reads [`SharedRows`] from the beginning.
pub struct SharedScan {
    rows: Arc<SharedRows>,
    returned: usize,
}

impl SharedScan {
    /// One of their readers.
    pub fn new(rows: Arc<SharedRows>) -> SharedScan {
        SharedScan { rows, returned: 0 }
    }
}

#[async_trait]
impl Operator for SharedScan {
    fn schema(&self) -> &[FieldType] {
        &self.rows.schema
    }

    async fn next(&mut self) -> Result<Option<Chunk>> {
        self.rows.ctx.check()?;
        let chunk = self.rows.chunk(self.returned).await?;
        self.returned += 1;
        Ok(chunk)
    }
}
