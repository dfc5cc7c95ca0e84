//! Joins by looking up: only those inner rows are read that some outer row can match.
//!
//! ```text
//! first outer rows   ─► distinct keys ─► one read of their inner rows ─► hash table ─► probe
//! 64 more outer rows ─► …                (fetched while that read is under way)
//! ```
//!
//! A batch of outer rows is one request to whoever holds the inner rows. The first is what the outer input
//! gives at once, a small chunk at most; batches double up to [`BATCH_CHUNKS_MAX`] full chunks: a LIMIT
//! ends the join after few look-ups, and a long outer input pays for few requests. The next batch
//! is fetched ahead only once the first one was not enough.
//!
//! Which inner rows a key names is the factory's business. It may give more rows than match: all
//! conditions are tested again when the batch probes them. It must not leave out any that does, but
//! it may take the first of the keys only, if they are much to read: the batch is cut there. So it is
//! where the inner rows of its keys go over the statement's quota, down to those of one key.
//!
//! The kinds of join and their rules for NULL are those of [`super::HashJoin`], except that only
//! outer rows can be preserved and NOT IN cannot be null-aware: both need all inner rows.
//!
//! **Cost** (planner): outer rows × (key + look-up + inner rows per key); memory: two batches of
//! outer rows and the inner rows of one.
//!
//! **Order.** That of the outer input.
//!
//! **Left out:** several batches looked up at once.
//!
//! Source: Goetz Graefe, "Query Evaluation Techniques for Large Databases", ACM Computing
//! Surveys 25(2), 1993, section 5.1 (index nested loops), and TiDB's IndexLookUpJoin.

use std::collections::HashSet;

use async_trait::async_trait;
use cairn_expr::{EvalContext, Expr};
use cairn_types::codec::encode_datum_key;
use cairn_types::{Chunk, Collation, Datum, FieldType};

use super::Values;
use super::hash_join::probe::ProbeCursor;
use super::hash_join::{self, JoinCore};
use crate::batch::{self, RowStore};
use crate::context::{ChunkRows, ExecContext};
use crate::error::{ExecError, Result};
use crate::memory::OperatorMemory;
use crate::operator::{BoxOperator, Operator};
use crate::plan::fragment::check_exprs;
use crate::plan::{IndexJoinDesc, JoinKind, JoinSide};
use crate::runtime_stats::Detail;

/// Rows of the largest batch, in full chunks: with the usual 1,024 rows each, 2,048 keys are
/// looked up at once, which hides the round trip and keeps a request far below a megabyte.
const BATCH_CHUNKS_MAX: usize = 2;
/// Wide rows make smaller batches.
const BATCH_BYTES_MAX: usize = 8 << 20;

/// Builds the operator that reads the inner rows of keys, each with the values of
/// [`IndexJoinDesc::lookup_keys`] for some outer row.
pub type InnerFactory = Box<dyn FnMut(&[Vec<Datum>]) -> Result<InnerRows> + Send>;

/// What a look-up gives.
pub struct InnerRows {
    /// The operator; `None`: there can be no rows.
    pub operator: Option<BoxOperator>,
    /// It is for so many of the keys, from the first one on; at least one.
    pub keys: usize,
}

/// See the module documentation and [`IndexJoinDesc`].
pub struct IndexJoin {
    schema: Vec<FieldType>,
    ctx: ExecContext,
    eval: EvalContext,
    desc: IndexJoinDesc,
    outer: Batches,
    outer_types: Vec<FieldType>,
    inner_types: Vec<FieldType>,
    factory: InnerFactory,
    /// What a batch was cut off, which comes before the next one.
    rest: Option<Chunk>,
    /// The batch that was fetched ahead.
    next: Option<Chunk>,
    /// Whether one batch was not enough.
    reads_ahead: bool,
    /// Keys that are looked up at once: fewer after their inner rows did not fit into memory.
    keys_max: usize,
    probing: Option<(JoinCore, ProbeCursor)>,
    /// Of the inner rows.
    memory: OperatorMemory,
}

impl IndexJoin {
    /// Joins `outer` with what `factory` builds, whose rows have `inner_types`.
    pub fn new(
        outer: BoxOperator,
        inner_types: Vec<FieldType>,
        factory: InnerFactory,
        mut desc: IndexJoinDesc,
        ctx: ExecContext,
    ) -> Result<IndexJoin> {
        let outer_types = outer.schema().to_vec();
        let schema = match desc.join.build_side {
            JoinSide::Right => hash_join::check(&mut desc.join, &outer_types, &inner_types)?,
            JoinSide::Left => hash_join::check(&mut desc.join, &inner_types, &outer_types)?,
        };
        let preserves_inner = match desc.join.kind {
            JoinKind::LeftOuter => desc.join.build_side == JoinSide::Left,
            JoinKind::RightOuter => desc.join.build_side == JoinSide::Right,
            _ => false,
        };
        if preserves_inner || desc.join.null_aware {
            return Err(ExecError::invalid_plan("this join needs all rows of its inner input"));
        }
        check_exprs(&desc.lookup_keys, &outer_types)?;
        Ok(IndexJoin {
            schema,
            eval: ctx.eval(),
            outer: Batches::new(outer, &ctx),
            memory: ctx.account("IndexJoin"),
            ctx,
            desc,
            outer_types,
            inner_types,
            factory,
            rest: None,
            next: None,
            reads_ahead: false,
            keys_max: usize::MAX,
            probing: None,
        })
    }

    /// Reads the inner rows of a batch and starts to probe them.
    async fn look_up(&mut self, batch: Chunk) -> Result<()> {
        let keys = distinct_keys(&self.desc.lookup_keys, &batch, &mut self.eval)?;
        // The probe evaluates the expressions again, and warns of them.
        self.eval.warnings.take();
        loop {
            let start_ns = self.ctx.detail_ns();
            let wanted = keys.values.len().min(self.keys_max);
            let rows = (self.factory)(&keys.values[..wanted])?;
            let taken = rows.keys;
            self.ctx.count(Detail::LookUpRounds, 1);
            self.ctx.count(Detail::LookUpKeys, taken as u64);
            let rest = keys.first_rows.get(taken).copied();
            let core = match self.read_inner(rows, rest.is_none()).await? {
                // With fewer keys it may do.
                Err(ExecError::MemoryExceeded { .. }) if taken > 1 => {
                    self.memory.clear();
                    self.keys_max = taken / 2;
                    continue;
                }
                core => core?,
            };
            // Not every key has so many rows.
            self.keys_max = self.keys_max.saturating_mul(2);
            self.ctx.count_time(Detail::LookUpTimeNs, start_ns);
            let batch = match rest {
                Some(row) => {
                    self.rest = Some(batch::slice(&batch, row, batch.num_rows()));
                    batch::slice(&batch, 0, row)
                }
                None => batch,
            };
            if !core.is_pointless() {
                let core = core.in_probe_order();
                let cursor = ProbeCursor::new(&core, batch, &mut self.eval)?;
                self.probing = Some((core, cursor));
            }
            return Ok(());
        }
    }

    /// Reads the inner rows of some keys, and the next batch meanwhile if these are the last keys
    /// of theirs. What goes wrong with that batch is the outer error: its rows cannot be had again.
    async fn read_inner(&mut self, rows: InnerRows, are_last: bool) -> Result<Result<JoinCore>> {
        let mut inner = match rows.operator {
            Some(inner) => inner,
            None => Box::new(Values::new(self.inner_types.clone(), Vec::new(), self.ctx.clone())?),
        };
        let (types, desc) = (self.outer_types.clone(), self.desc.join.clone());
        let read = JoinCore::with_keys(&mut inner, types, desc, &self.ctx, &mut self.memory);
        let reads_ahead = std::mem::replace(&mut self.reads_ahead, true);
        if !reads_ahead || !are_last || self.next.is_some() {
            return Ok(read.await);
        }
        // Both to their ends: a batch half read would be lost.
        let (core, next) = futures::future::join(read, self.outer.next()).await;
        self.next = next?;
        Ok(core)
    }
}

#[async_trait]
impl Operator for IndexJoin {
    fn schema(&self) -> &[FieldType] {
        &self.schema
    }

    async fn next(&mut self) -> Result<Option<Chunk>> {
        loop {
            self.ctx.check()?;
            if let Some((core, cursor)) = &mut self.probing {
                let joined = cursor.next(core, &mut self.eval)?;
                self.ctx.flush_warnings(&mut self.eval);
                match joined {
                    Some(joined) => return Ok(Some(joined)),
                    // The old rows go before the new ones come.
                    None => self.probing = None,
                }
                self.memory.clear();
            }
            let batch = match self.rest.take().or_else(|| self.next.take()) {
                Some(batch) => Some(batch),
                None => self.outer.next().await?,
            };
            let Some(batch) = batch else { return Ok(None) };
            self.look_up(batch).await?;
        }
    }
}

/// The outer input in batches.
struct Batches {
    input: BoxOperator,
    types: Vec<FieldType>,
    sizes: ChunkRows,
    is_first: bool,
    /// Rows that were read with the last batch and did not fit into it.
    rest: Option<Chunk>,
    done: bool,
    /// Of two batches: one that is joined and one that is fetched.
    memory: OperatorMemory,
    last_bytes: usize,
}

impl Batches {
    fn new(input: BoxOperator, ctx: &ExecContext) -> Batches {
        Batches {
            types: input.schema().to_vec(),
            input,
            sizes: ctx.doubling_rows(BATCH_CHUNKS_MAX),
            is_first: true,
            rest: None,
            done: false,
            memory: ctx.account("IndexJoin"),
            last_bytes: 0,
        }
    }

    /// The next batch; `None`: there are no more rows.
    async fn next(&mut self) -> Result<Option<Chunk>> {
        let rows_max = self.sizes.advance();
        let mut rows = RowStore::new(&self.types);
        while rows.len() < rows_max && rows.bytes() < BATCH_BYTES_MAX {
            let Some(chunk) = self.chunk().await? else { break };
            let wanted = rows_max - rows.len();
            if chunk.num_rows() > wanted {
                rows.append(&batch::slice(&chunk, 0, wanted))?;
                self.rest = Some(batch::slice(&chunk, wanted, chunk.num_rows()));
            } else {
                rows.append(&chunk)?;
            }
            let rest_bytes = self.rest.as_ref().map_or(0, Chunk::memory_bytes);
            self.memory.set((self.last_bytes + rows.bytes() + rest_bytes) as u64)?;
            if self.is_first && rows.len() > 0 {
                break;
            }
        }
        self.is_first = false;
        self.last_bytes = rows.bytes();
        Ok((rows.len() > 0).then(|| rows.into_chunk()))
    }

    async fn chunk(&mut self) -> Result<Option<Chunk>> {
        if let Some(rest) = self.rest.take() {
            return Ok(Some(rest));
        }
        if self.done {
            return Ok(None);
        }
        let chunk = self.input.next().await?;
        self.done = chunk.is_none();
        Ok(chunk.map(batch::dense))
    }
}

/// The keys of a batch, each once, in the order of the rows.
#[derive(Default)]
struct DistinctKeys {
    values: Vec<Vec<Datum>>,
    /// The first row with each.
    first_rows: Vec<usize>,
}

/// The values of the keys for all rows, each list once. Lists differ if any two values do, also
/// where a collation takes them for equal.
fn distinct_keys(exprs: &[Expr], chunk: &Chunk, eval: &mut EvalContext) -> Result<DistinctKeys> {
    let mut columns = Vec::with_capacity(exprs.len());
    for expr in exprs {
        let ty = expr.ty().clone().with_collation(Collation::BINARY);
        columns.push((batch::eval(expr, chunk, eval)?, ty));
    }
    let mut seen: HashSet<Vec<u8>> = HashSet::with_capacity(chunk.num_rows());
    let mut keys = DistinctKeys::default();
    let mut encoded = Vec::new();
    for row in 0..chunk.num_rows() {
        encoded.clear();
        for (column, ty) in &columns {
            encode_datum_key(&mut encoded, &column.get(row), ty);
        }
        if !seen.contains(&encoded) {
            seen.insert(encoded.clone());
            let values = columns.iter().map(|(column, _)| column.get(row).to_owned());
            keys.values.push(values.collect());
            keys.first_rows.push(row);
        }
    }
    Ok(keys)
}
