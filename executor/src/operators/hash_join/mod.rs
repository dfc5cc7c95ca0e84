//! Joins through a hash table.
//!
//! The build input is drained into one large chunk with a [`JoinTable`] over its
//! keys; then every probe chunk is joined on its own ([`probe::ProbeCursor`]), so
//! probing runs in parallel: after [`INLINE_CHUNKS`] chunks done in the caller's
//! own task, workers take over the probe input in turns. A join that turns out
//! small never pays for tasks.
//!
//! | kind | left columns | right columns | mark | who is preserved |
//! |---|---|---|---|---|
//! | inner | yes | yes | | nobody |
//! | left outer, right outer | yes | yes | | the named side |
//! | semi, anti | yes | | | |
//! | left outer semi, anti left outer semi | yes | | yes | left |
//!
//! Without keys all pairs are compared: a nested loop over chunks.
//!
//! **Cost** (planner): build rows × (hash + store) + probe rows × (hash + look up)
//! / concurrency + candidate pairs × (copy + conditions) / concurrency; memory:
//! the build side's columns and about 20 bytes per row.
//!
//! **Order.** None is promised: workers finish as they do.
//!
//! In fragments that stores run it is [`BroadcastJoin`] that probes, over rows that were put into a table before.
//!
//! **Spilling** ([`spilled`]). A build side that memory does not hold is divided by the hash of its keys and written
//! to disk, and so is the probe side; then the parts are joined one after the other, each as a join of its own.
//!
//! What cannot be divided, all pairs or one key's rows, is joined block by block of the build side ([`blocks`]), if that
//! is inner or preserved.
//!
//! **Left out:** the same for other kinds: error 8175 over the quota.

mod blocks;
mod broadcast;
mod build;
pub(super) mod probe;
mod spilled;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use cairn_expr::{EvalContext, Expr};
use cairn_types::{Chunk, FieldType};
use tokio::sync::{Mutex, mpsc};

use self::blocks::BlockJoin;
pub use self::broadcast::BroadcastJoin;
use self::build::BuildSide;
use self::probe::ProbeCursor;
use self::spilled::SpilledJoin;
use super::worker::Workers;
use crate::batch::{self, RowStore};
use crate::context::ExecContext;
use crate::error::{ExecError, Result};
use crate::memory::OperatorMemory;
use crate::operator::{BoxOperator, Operator};
use crate::plan::fragment::check_exprs;
use crate::plan::{ApplyDesc, HashJoinDesc, JoinKind, JoinSide};
use crate::runtime_stats::Detail;
use crate::spill::must_spill;
use crate::spill::partition::DEPTH_MAX;
use crate::table::join::JoinTable;
use crate::table::keys::KeyEncoder;

/// Probe chunks joined in the caller's task before workers are started.
const INLINE_CHUNKS: usize = 8;
/// Joined chunks that may wait for the reader, per worker.
const CHANNEL_CHUNKS: usize = 2;

/// See the module documentation and [`HashJoinDesc`].
pub struct HashJoin {
    schema: Vec<FieldType>,
    ctx: ExecContext,
    eval: EvalContext,
    state: State,
    memory: OperatorMemory,
    /// How often the inputs were divided.
    depth: u32,
}

enum State {
    /// Nothing read yet.
    Start { left: BoxOperator, right: BoxOperator, desc: HashJoinDesc },
    /// Probing in the caller's task.
    Inline { core: Arc<JoinCore>, probe: BoxOperator, cursor: Option<ProbeCursor>, chunks: usize },
    /// Probing in workers.
    Parallel { core: Arc<JoinCore>, receiver: mpsc::Receiver<Result<Chunk>>, workers: Workers },
    /// Build rows without a match, from `row` on.
    Rest { core: Arc<JoinCore>, row: usize },
    /// Part by part.
    Spilled(Box<SpilledJoin>),
    /// Block by block of the build side.
    Blocks(Box<BlockJoin>),
    /// Drained or failed.
    Done,
}

/// What all workers share: the build side and how to join with it.
pub(crate) struct JoinCore {
    kind: JoinKind,
    null_aware: bool,
    probe_is_left: bool,
    keys: Option<JoinKeys>,
    /// Conditions over left columns followed by right columns.
    conditions: Vec<Expr>,
    /// Null-aware joins: the keys' equalities, over the same columns.
    na_equalities: Vec<Expr>,
    build: Arc<RowStore>,
    build_types: Vec<FieldType>,
    probe_types: Vec<FieldType>,
    table: Option<Arc<JoinTable>>,
    /// Which build rows were matched, if those are to be preserved.
    matched: Option<Vec<AtomicBool>>,
    /// Probe rows without a match stand among the others, where they came.
    keeps_order: bool,
}

struct JoinKeys {
    probe: Vec<Expr>,
    encoder: KeyEncoder,
}

impl JoinCore {
    /// For all pairs of left rows and `rows`.
    pub(super) fn without_keys(
        desc: &ApplyDesc,
        left_types: Vec<FieldType>,
        right_types: Vec<FieldType>,
        rows: RowStore,
    ) -> JoinCore {
        let (na_equalities, conditions) = match desc.null_aware {
            true => (desc.conditions.clone(), Vec::new()),
            false => (Vec::new(), desc.conditions.clone()),
        };
        JoinCore {
            kind: desc.kind,
            null_aware: desc.null_aware,
            probe_is_left: true,
            keys: None,
            conditions,
            na_equalities,
            build: Arc::new(rows),
            build_types: right_types,
            probe_types: left_types,
            table: None,
            matched: None,
            keeps_order: false,
        }
    }

    /// Puts the rows of `build` into a table. Fails if they need too much memory.
    pub(super) async fn with_keys(
        build: &mut BoxOperator,
        probe_types: Vec<FieldType>,
        desc: HashJoinDesc,
        ctx: &ExecContext,
        memory: &mut OperatorMemory,
    ) -> Result<JoinCore> {
        let mut side = BuildSide::new(desc, probe_types, build.schema().to_vec(), ctx)?;
        while let Some(chunk) = build.next().await? {
            ctx.check()?;
            side.add(chunk)?;
            memory.set(side.bytes() as u64)?;
        }
        Ok(side.finish(ctx))
    }

    /// The same, with output in the order of the probe rows.
    pub(super) fn in_probe_order(self) -> JoinCore {
        JoinCore { keeps_order: true, ..self }
    }

    /// Whether probe rows without a match appear in the output (outer joins).
    fn probe_is_preserved(&self) -> bool {
        match self.kind {
            JoinKind::LeftOuter => self.probe_is_left,
            JoinKind::RightOuter => !self.probe_is_left,
            _ => false,
        }
    }

    #[inline]
    fn mark_build_row(&self, row: u32) {
        if let Some(matched) = &self.matched {
            matched[row as usize].store(true, Ordering::Relaxed);
        }
    }

    /// Whether no probe row can give output.
    pub(super) fn is_pointless(&self) -> bool {
        let empty = self.build.len() == 0;
        match self.kind {
            JoinKind::Inner | JoinKind::Semi => empty,
            JoinKind::LeftOuter | JoinKind::RightOuter => empty && !self.probe_is_preserved(),
            _ => false,
        }
    }

    /// Up to `rows_max` build rows from `row` on that found no match.
    fn unmatched(&self, row: &mut usize, rows_max: usize) -> Result<Option<Chunk>> {
        let Some(matched) = &self.matched else { return Ok(None) };
        let mut rows = Vec::with_capacity(rows_max);
        while *row < matched.len() && rows.len() < rows_max {
            if !matched[*row].load(Ordering::Relaxed) {
                rows.push(*row as u32);
            }
            *row += 1;
        }
        if rows.is_empty() {
            return Ok(None);
        }
        let build = self.build.gather(&rows)?;
        let probe = batch::nulls(&self.probe_types, rows.len());
        Ok(Some(match self.probe_is_left {
            true => batch::glue(probe, build),
            false => batch::glue(build, probe),
        }))
    }
}

impl HashJoin {
    /// Joins `left` and `right`.
    pub fn new(
        left: BoxOperator,
        right: BoxOperator,
        desc: HashJoinDesc,
        ctx: ExecContext,
    ) -> Result<HashJoin> {
        HashJoin::at_depth(left, right, desc, ctx, 0)
    }

    /// The same of inputs that were divided `depth` times.
    fn at_depth(
        left: BoxOperator,
        right: BoxOperator,
        mut desc: HashJoinDesc,
        ctx: ExecContext,
        depth: u32,
    ) -> Result<HashJoin> {
        let schema = check(&mut desc, left.schema(), right.schema())?;
        let memory = ctx.account("HashJoin");
        Ok(HashJoin {
            schema,
            eval: ctx.eval(),
            ctx,
            state: State::Start { left, right, desc },
            memory,
            depth,
        })
    }

    async fn start(&mut self) -> Result<()> {
        let State::Start { left, right, desc } = std::mem::replace(&mut self.state, State::Done)
        else {
            return Ok(());
        };
        let (mut build, probe) = match desc.build_side {
            JoinSide::Left => (left, right),
            JoinSide::Right => (right, left),
        };
        let start_ns = self.ctx.detail_ns();
        let types = (probe.schema().to_vec(), build.schema().to_vec());
        let mut side = BuildSide::new(desc, types.0, types.1, &self.ctx)?;
        let divides = side.has_stable_keys() && self.depth < DEPTH_MAX;
        let space = self.ctx.spill.as_ref().filter(|_| divides || side.takes_blocks());
        while let Some(chunk) = build.next().await? {
            self.ctx.check()?;
            side.add(chunk)?;
            if !must_spill(&mut self.memory, space, 0, side.bytes())? {
                continue;
            }
            let inputs = (side, build, probe);
            self.state = if divides {
                let join = SpilledJoin::start(inputs, &self.ctx, self.depth, &mut self.memory);
                State::Spilled(Box::new(join.await?))
            } else {
                let memory = std::mem::replace(&mut self.memory, self.ctx.account("HashJoin"));
                let join = BlockJoin::start(inputs, self.schema.clone(), &self.ctx, memory);
                State::Blocks(Box::new(join.await?))
            };
            return Ok(());
        }
        let core = Arc::new(side.finish(&self.ctx));
        self.ctx.count_time(Detail::BuildTimeNs, start_ns);
        self.state = match core.is_pointless() {
            true => State::Rest { core, row: 0 },
            false => State::Inline { core, probe, cursor: None, chunks: 0 },
        };
        Ok(())
    }

    /// Hands the probe input to workers.
    fn start_workers(&mut self) {
        let State::Inline { core, probe, .. } = std::mem::replace(&mut self.state, State::Done)
        else {
            return;
        };
        let count = self.ctx.concurrency;
        let (sender, receiver) = mpsc::channel(CHANNEL_CHUNKS * count);
        let probe = Arc::new(Mutex::new(Some(probe)));
        let mut workers = Workers::new(&self.ctx);
        for _ in 0..count {
            workers.spawn(probe_worker(
                self.ctx.clone(),
                core.clone(),
                probe.clone(),
                sender.clone(),
            ));
        }
        self.state = State::Parallel { core, receiver, workers };
    }

    async fn advance(&mut self) -> Result<Option<Chunk>> {
        loop {
            self.ctx.check()?;
            match &mut self.state {
                State::Start { .. } => self.start().await?,
                State::Inline { core, probe, cursor, chunks } => {
                    if let Some(active) = cursor {
                        let start_ns = self.ctx.detail_ns();
                        let joined = active.next(core, &mut self.eval)?;
                        self.ctx.count_time(Detail::ProbeTimeNs, start_ns);
                        self.ctx.flush_warnings(&mut self.eval);
                        match joined {
                            Some(chunk) => return Ok(Some(chunk)),
                            None => *cursor = None,
                        }
                    } else if *chunks >= INLINE_CHUNKS && self.ctx.concurrency > 1 {
                        self.start_workers();
                    } else if let Some(chunk) = probe.next().await? {
                        *chunks += 1;
                        *cursor = Some(ProbeCursor::new(core, chunk, &mut self.eval)?);
                        self.ctx.flush_warnings(&mut self.eval);
                    } else {
                        self.state = State::Rest { core: core.clone(), row: 0 };
                    }
                }
                State::Parallel { core, receiver, workers } => match receiver.recv().await {
                    Some(chunk) => return chunk.map(Some),
                    None => {
                        workers.join("HashJoin").await?;
                        self.state = State::Rest { core: core.clone(), row: 0 };
                    }
                },
                State::Rest { core, row } => match core.unmatched(row, self.ctx.chunk_rows_max)? {
                    Some(chunk) => return Ok(Some(chunk)),
                    None => {
                        self.state = State::Done;
                        self.memory.clear();
                    }
                },
                State::Spilled(join) => match join.next(&mut self.memory).await? {
                    Some(chunk) => return Ok(Some(chunk)),
                    None => {
                        self.state = State::Done;
                        self.memory.clear();
                    }
                },
                State::Blocks(join) => match join.next().await? {
                    Some(chunk) => return Ok(Some(chunk)),
                    None => self.state = State::Done,
                },
                State::Done => return Ok(None),
            }
        }
    }
}

#[async_trait]
impl Operator for HashJoin {
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

/// Refuses an unsound join; returns the types of its output.
pub(crate) fn check(
    desc: &mut HashJoinDesc,
    left: &[FieldType],
    right: &[FieldType],
) -> Result<Vec<FieldType>> {
    if desc.left_keys.len() != desc.right_keys.len() {
        return Err(ExecError::invalid_plan("a join needs as many left as right keys"));
    }
    check_exprs(&desc.left_keys, left)?;
    check_exprs(&desc.right_keys, right)?;
    check_exprs(&desc.other_conditions, &[left, right].concat())?;
    if !desc.kind.keeps_right() {
        desc.build_side = JoinSide::Right;
    } else if desc.null_aware {
        return Err(ExecError::invalid_plan("only semi joins can be null-aware"));
    }
    desc.null_safe.resize(desc.left_keys.len(), false);
    Ok(desc.kind.output_types(left, right))
}

/// Takes probe chunks in turns with the other workers and joins them.
async fn probe_worker(
    ctx: ExecContext,
    core: Arc<JoinCore>,
    probe: Arc<Mutex<Option<BoxOperator>>>,
    sender: mpsc::Sender<Result<Chunk>>,
) -> Result<()> {
    let mut eval = ctx.eval();
    loop {
        let input = {
            let mut guard = probe.lock().await;
            let Some(operator) = guard.as_mut() else { return Ok(()) };
            let item = operator.next().await;
            if !matches!(item, Ok(Some(_))) {
                // The other workers stop, too.
                *guard = None;
            }
            item
        };
        let joined = match input {
            Ok(None) => return Ok(()),
            Ok(Some(chunk)) => join_chunk(&ctx, &core, chunk, &mut eval, &sender).await,
            Err(error) => Err(error),
        };
        match joined {
            Ok(true) => {}
            Ok(false) => return Ok(()),
            Err(error) => {
                // Nobody listening any more is as good as delivered.
                let _ = sender.send(Err(error)).await;
                return Ok(());
            }
        }
    }
}

/// Joins one chunk and sends the result; `false`: nobody listens.
async fn join_chunk(
    ctx: &ExecContext,
    core: &JoinCore,
    chunk: Chunk,
    eval: &mut EvalContext,
    sender: &mpsc::Sender<Result<Chunk>>,
) -> Result<bool> {
    let mut cursor = ProbeCursor::new(core, chunk, eval)?;
    loop {
        ctx.check()?;
        let start_ns = ctx.detail_ns();
        let joined = cursor.next(core, eval)?;
        ctx.count_time(Detail::ProbeTimeNs, start_ns);
        ctx.flush_warnings(eval);
        let Some(joined) = joined else { return Ok(true) };
        if sender.send(Ok(joined)).await.is_err() {
            return Ok(false);
        }
    }
}
