//! `GROUP BY` over input in which the rows of a group follow one another.
//!
//! A chunk is cut into runs of equal keys. Groups are held until a chunk's worth of
//! them is complete; only the last one can go on with the next input chunk.
//!
//! **Cost** (planner): rows × (key comparison + aggregates).

use std::borrow::Cow;

use async_trait::async_trait;
use cairn_expr::{EvalContext, Expr};
use cairn_types::{Chunk, Column, FieldType};

use super::agg::Aggregates;
use crate::batch::{self, RowStore};
use crate::context::{ChunkRows, ExecContext};
use crate::error::Result;
use crate::memory::OperatorMemory;
use crate::operator::{BoxOperator, Operator};
use crate::plan::fragment::aggregation_types;
use crate::plan::{AggMode, AggregationDesc};
use crate::table::keys::{KeyBatch, KeyEncoder};

/// See [`AggregationDesc`].
pub struct StreamAgg {
    input: Option<BoxOperator>,
    schema: Vec<FieldType>,
    mode: AggMode,
    group_by: Vec<Expr>,
    group_types: Vec<FieldType>,
    encoder: KeyEncoder,
    /// States of the groups seen since the last hand-out; the last one is open.
    aggregates: Aggregates,
    groups: RowStore,
    last_key: Option<(bool, Vec<u8>)>,
    ctx: ExecContext,
    eval: EvalContext,
    memory: OperatorMemory,
    sizes: ChunkRows,
    rows_wanted: usize,
}

impl StreamAgg {
    /// Aggregates `input`.
    pub fn new(input: BoxOperator, desc: &AggregationDesc, ctx: ExecContext) -> Result<StreamAgg> {
        let schema = aggregation_types(desc, input.schema())?;
        let group_types: Vec<FieldType> =
            desc.group_by.iter().map(|expr| expr.ty().clone()).collect();
        let mut sizes = ctx.chunk_rows();
        Ok(StreamAgg {
            aggregates: Aggregates::new(desc, &ctx.eval()),
            schema,
            mode: desc.mode,
            encoder: KeyEncoder::for_groups(&desc.group_by),
            groups: RowStore::new(&group_types),
            group_types,
            group_by: desc.group_by.clone(),
            last_key: None,
            input: Some(input),
            eval: ctx.eval(),
            memory: ctx.account("StreamAgg"),
            rows_wanted: sizes.advance(),
            sizes,
            ctx,
        })
    }

    /// Number of groups begun since the last hand-out.
    fn begun(&self) -> usize {
        if self.group_by.is_empty() { 1 } else { self.groups.len() }
    }

    /// Adds a chunk; gives the groups that are complete if there are enough.
    fn add(&mut self, chunk: &Chunk) -> Result<Option<Chunk>> {
        let rows = chunk.num_rows();
        if self.group_by.is_empty() {
            self.aggregates.update(chunk, &vec![0; rows], 1, &mut self.eval)?;
            return Ok(None);
        }
        let mut columns: Vec<Cow<'_, Column>> = Vec::with_capacity(self.group_by.len());
        for expr in &self.group_by {
            columns.push(batch::eval(expr, chunk, &mut self.eval)?);
        }
        let keys = self.encoder.encode_columns(&columns, rows)?;
        // Rows at which a group begins. Row 0 may go on with the open group.
        let continues = self.last_key.as_ref().is_some_and(|last| *last == key_at(&keys, 0));
        let mut starts: Vec<u32> = if continues { Vec::new() } else { vec![0] };
        starts.extend((1..rows).filter(|&at| !same_key(&keys, at - 1, at)).map(|at| at as u32));
        self.last_key = Some(key_at(&keys, rows - 1));

        let head = match starts.first() {
            // Enough groups are held, and here the open one ends: all go out.
            Some(&first) if self.groups.len() >= self.rows_wanted => first as usize,
            _ => {
                self.update(chunk, &columns, &starts, rows)?;
                return Ok(None);
            }
        };
        if head > 0 {
            let first = batch::slice(chunk, 0, head);
            let last = self.groups.len() - 1;
            self.aggregates.update(&first, &vec![last as u32; head], last + 1, &mut self.eval)?;
        }
        let out = self.hand_out()?;
        let rest = batch::slice(chunk, head, rows);
        let columns: Vec<Cow<'_, Column>> = columns
            .iter()
            .map(|column| Cow::Owned(batch::slice_column(column, head, rows)))
            .collect();
        let starts: Vec<u32> = starts.iter().map(|start| start - head as u32).collect();
        self.update(&rest, &columns, &starts, rows - head)?;
        Ok(Some(out))
    }

    /// Adds rows whose groups begin at `starts`; rows before the first start belong
    /// to the open group.
    fn update(
        &mut self,
        chunk: &Chunk,
        columns: &[Cow<'_, Column>],
        starts: &[u32],
        rows: usize,
    ) -> Result<()> {
        let mut id = self.groups.len() as u32;
        let mut ids = Vec::with_capacity(rows);
        let mut next = starts.iter().copied().peekable();
        for row in 0..rows as u32 {
            if next.next_if_eq(&row).is_some() {
                id += 1;
            }
            ids.push(id - 1);
        }
        self.groups.append_gathered(columns, starts)?;
        self.aggregates.update(chunk, &ids, self.groups.len(), &mut self.eval)?;
        self.memory.set((self.groups.bytes() + self.aggregates.bytes()) as u64)
    }

    /// All groups begun, which are complete.
    fn hand_out(&mut self) -> Result<Chunk> {
        let count = self.begun();
        let mut columns = self.aggregates.finish(count, &mut self.eval)?;
        let store = std::mem::replace(&mut self.groups, RowStore::new(&self.group_types));
        columns.extend(store.into_chunk().columns);
        self.rows_wanted = self.sizes.advance();
        Ok(batch::from_columns(columns, count))
    }
}

fn key_at(keys: &KeyBatch, at: usize) -> (bool, Vec<u8>) {
    let bytes = match keys {
        KeyBatch::Ints { keys, .. } => keys[at].to_le_bytes().to_vec(),
        KeyBatch::Bytes { .. } => keys.bytes(at).to_vec(),
    };
    (keys.is_null(at), bytes)
}

fn same_key(keys: &KeyBatch, a: usize, b: usize) -> bool {
    match keys {
        KeyBatch::Ints { keys: words, .. } => {
            let (null_a, null_b) = (keys.is_null(a), keys.is_null(b));
            null_a == null_b && (null_a || words[a] == words[b])
        }
        KeyBatch::Bytes { .. } => keys.bytes(a) == keys.bytes(b),
    }
}

#[async_trait]
impl Operator for StreamAgg {
    fn schema(&self) -> &[FieldType] {
        &self.schema
    }

    async fn next(&mut self) -> Result<Option<Chunk>> {
        loop {
            self.ctx.check()?;
            let Some(input) = &mut self.input else { return Ok(None) };
            let Some(chunk) = input.next().await? else {
                self.input = None;
                let rows_seen = self.aggregates.rows_seen() > 0;
                let global =
                    self.group_by.is_empty() && (self.mode != AggMode::Partial || rows_seen);
                if global || self.groups.len() > 0 {
                    let out = self.hand_out()?;
                    self.ctx.flush_warnings(&mut self.eval);
                    return Ok(Some(out));
                }
                return Ok(None);
            };
            let chunk = batch::dense(chunk);
            if chunk.num_rows() == 0 {
                continue;
            }
            let out = self.add(&chunk)?;
            self.ctx.flush_warnings(&mut self.eval);
            if out.is_some() {
                return Ok(out);
            }
        }
    }
}
