//! The join of a fragment: probe rows come from below, the build side came along with the request.
//!
//! ```text
//! scan ─► filter ─► BroadcastJoin ─► partial aggregate ─► page
//!                        ▲
//!             BroadcastTable, shared by all tasks of the store
//! ```
//!
//! Nothing is preserved of the table, so that each probe row's fate is decided here, wherever the other
//! probe rows are. It probes in the caller's task: a store runs many tasks at once.
//!
//! **Order.** Rows come in the order of the scan's chunks, and all rows of a probe chunk before those of the next. So
//! a task can go on where it was broken off: between two probe chunks. While more of one is to come the scan's
//! position is held ([`crate::context::ScanPosition`]).
//!
//! **Turns.** After some pairs it gives way to other tasks of its thread, as scans do: pairs can be many more than
//! rows.

use std::sync::Arc;

use async_trait::async_trait;
use cairn_expr::EvalContext;
use cairn_types::{Chunk, FieldType};

use super::JoinCore;
use super::build::BuildSide;
use super::probe::{ProbeCursor, Step};
use crate::broadcast::BroadcastTable;
use crate::context::ExecContext;
use crate::error::{ExecError, Result};
use crate::operator::{BoxOperator, Operator};
use crate::plan::BroadcastJoinDesc;
use crate::plan::fragment::broadcast_join_types;

/// Steps before others get their turn: each joins about a thousand pairs at most, most of them fewer.
const STEPS_PER_TURN: usize = 16;

/// See the module documentation.
pub struct BroadcastJoin {
    schema: Vec<FieldType>,
    ctx: ExecContext,
    eval: EvalContext,
    probe: BoxOperator,
    table: Arc<BroadcastTable>,
    /// Columns of the table that are its keys.
    key_columns: Vec<usize>,
    state: State,
    /// Joined rows of the chunk under way that were not handed out yet.
    ahead: Option<Chunk>,
    holds: bool,
    steps: usize,
}

enum State {
    Start(Option<Box<BuildSide>>),
    Probing(Box<JoinCore>, Option<Box<ProbeCursor>>),
    Done,
}

impl BroadcastJoin {
    /// Joins `probe` with the table that the description names in the context.
    pub fn new(
        probe: BoxOperator,
        desc: &BroadcastJoinDesc,
        ctx: ExecContext,
    ) -> Result<BroadcastJoin> {
        let schema = broadcast_join_types(desc, probe.schema())?;
        let table = ctx.tables.get(desc.table).cloned();
        let table = table.filter(|table| table.types() == desc.table_types);
        let table = table.ok_or_else(|| ExecError::invalid_plan("a join lacks its table"))?;
        let key_columns = desc.keys().1.iter().filter_map(|key| key.as_column()).collect();
        let mut join = desc.join.clone();
        join.null_safe.resize(join.left_keys.len(), false);
        let types = (probe.schema().to_vec(), desc.table_types.clone());
        let side = BuildSide::new(join, types.0, types.1, &ctx)?;
        Ok(BroadcastJoin {
            schema,
            eval: ctx.eval(),
            ctx,
            probe,
            table,
            key_columns,
            state: State::Start(Some(Box::new(side))),
            ahead: None,
            holds: false,
            steps: 0,
        })
    }

    async fn start(&mut self) -> Result<()> {
        let State::Start(side) = &mut self.state else { return Ok(()) };
        let side =
            side.take().ok_or_else(|| ExecError::invalid_plan("a join was started twice"))?;
        let link = self.table.link(&self.key_columns, side.encoder(), &self.ctx).await?;
        let core = side.over(Arc::clone(self.table.rows()), Some(link));
        self.state = match core.is_pointless() {
            true => State::Done,
            false => State::Probing(Box::new(core), None),
        };
        Ok(())
    }

    /// More joined rows of the probe chunk under way; `None`: there are no more.
    async fn more(&mut self) -> Result<Option<Chunk>> {
        loop {
            let State::Probing(core, cursor) = &mut self.state else { return Ok(None) };
            let Some(active) = cursor else { return Ok(None) };
            let step = active.step(core, &mut self.eval)?;
            self.ctx.flush_warnings(&mut self.eval);
            self.steps += 1;
            match step {
                Step::Joined(chunk) => return Ok(Some(chunk)),
                Step::Done => *cursor = None,
                Step::Nothing => {}
            }
            if self.steps.is_multiple_of(STEPS_PER_TURN) {
                self.ctx.check()?;
                tokio::task::yield_now().await;
            }
        }
    }

    fn hold(&mut self, holds: bool) {
        if self.holds != holds {
            self.holds = holds;
            self.ctx.scan_position.hold(holds);
        }
    }

    async fn advance(&mut self) -> Result<Option<Chunk>> {
        self.start().await?;
        loop {
            self.ctx.check()?;
            let joined = match self.ahead.take() {
                Some(joined) => Some(joined),
                None => self.more().await?,
            };
            if let Some(joined) = joined {
                self.ahead = self.more().await?;
                self.hold(self.ahead.is_some());
                return Ok(Some(joined));
            }
            let State::Probing(core, cursor) = &mut self.state else { return Ok(None) };
            match self.probe.next().await? {
                Some(chunk) => {
                    *cursor = Some(Box::new(ProbeCursor::new(core, chunk, &mut self.eval)?));
                }
                None => self.state = State::Done,
            }
            self.ctx.flush_warnings(&mut self.eval);
        }
    }
}

#[async_trait]
impl Operator for BroadcastJoin {
    fn schema(&self) -> &[FieldType] {
        &self.schema
    }

    async fn next(&mut self) -> Result<Option<Chunk>> {
        let result = self.advance().await;
        if result.is_err() {
            self.state = State::Done;
        }
        result
    }
}
