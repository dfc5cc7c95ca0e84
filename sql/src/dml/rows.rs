//! The rows that a change works on, and what happens between two of them.
//!
//! Most statements gather their rows before they change the first one. Those of bulk transactions read on
//! while they write: from a view that shows none of their writes, so that it makes no difference, and
//! neither the rows nor the writes need fit into memory.

use std::sync::Arc;

use cairn_executor::{BoxOperator, OperatorMemory};
use cairn_kv_client::Transaction;
use cairn_planner::PhysicalPlan;
use cairn_planner::plan::PhysicalOp;
use cairn_types::{Chunk, Datum, Handle};

use super::gather_rows;
use crate::error::Result;
use crate::execution::BuildContext;
use crate::session::transaction::StatementTransaction;

/// Rows of a change without a wait, after which others have their turn: a statement that computes for
/// seconds must not keep the node from renewing its schema lease.
const ROWS_PER_TURN: u32 = 256;
/// What a handle costs that is remembered, beside its own bytes.
const SEEN_BYTES: usize = 64;

/// The source's rows one by one.
pub struct SourceRows {
    rows: Rows,
    pace: Pace,
    seen: OperatorMemory,
}

enum Rows {
    Gathered(std::vec::IntoIter<Vec<Datum>>),
    Streamed(Box<Stream>),
}

struct Stream {
    operator: BoxOperator,
    chunk: Chunk,
    /// Selected rows of the chunk that are to come, the next one last.
    rest: Vec<usize>,
}

impl SourceRows {
    /// The rows of `plan`.
    pub async fn of(
        plan: &PhysicalPlan,
        context: &BuildContext,
        statement: &StatementTransaction,
        operator_name: &str,
    ) -> Result<Self> {
        let is_point = matches!(plan.op, PhysicalOp::PointGet(_));
        let rows = if statement.transaction.is_bulk() && !is_point {
            let operator = crate::execution::builder::build(plan, context)?;
            let chunk = Chunk::new(&plan.types(), 0);
            Rows::Streamed(Box::new(Stream { operator, chunk, rest: Vec::new() }))
        } else {
            Rows::Gathered(gather_rows(plan, context, operator_name).await?.into_iter())
        };
        let pace = Pace::of(statement, context, operator_name);
        Ok(Self { rows, pace, seen: context.exec.account(operator_name) })
    }

    /// The next row; what was written for those before may leave memory.
    pub async fn next(&mut self, context: &BuildContext) -> Result<Option<Vec<Datum>>> {
        self.pace.begin_row(context).await?;
        match &mut self.rows {
            Rows::Gathered(rows) => Ok(rows.next()),
            Rows::Streamed(stream) => stream.next().await,
        }
    }

    /// The statement remembers that it has changed this row.
    pub fn note_seen(&mut self, handle: &Handle) -> Result<()> {
        let bytes = match handle {
            Handle::Int(_) => 0,
            Handle::Common(bytes) => bytes.len(),
        };
        Ok(self.seen.grow(SEEN_BYTES + bytes)?)
    }
}

impl Stream {
    async fn next(&mut self) -> Result<Option<Vec<Datum>>> {
        loop {
            if let Some(at) = self.rest.pop() {
                return Ok(Some(self.chunk.row(at)));
            }
            let Some(chunk) = self.operator.next().await? else { return Ok(None) };
            self.rest.extend(chunk.selected());
            self.rest.reverse();
            self.chunk = chunk;
        }
    }
}

/// Stands before every row of a change.
pub struct Pace {
    transaction: Arc<Transaction>,
    buffered: OperatorMemory,
    rows: u32,
}

impl Pace {
    /// Of a statement.
    pub fn of(
        statement: &StatementTransaction,
        context: &BuildContext,
        operator_name: &str,
    ) -> Self {
        let transaction = Arc::clone(&statement.transaction);
        Self { transaction, buffered: context.exec.account(operator_name), rows: 0 }
    }

    /// An error if the statement is over; a bulk one makes room for the row, and waits for it.
    pub async fn begin_row(&mut self, context: &BuildContext) -> Result<()> {
        context.exec.check()?;
        self.rows = (self.rows + 1) % ROWS_PER_TURN;
        if self.rows == 0 {
            tokio::task::yield_now().await;
        }
        if self.transaction.is_bulk() {
            self.transaction.flush_if_full().await?;
            self.buffered.set(self.transaction.size_bytes())?;
        }
        Ok(())
    }
}
