//! `GROUP BY` through a hash table.
//!
//! For every chunk the group columns become keys, the keys dense group ids
//! ([`crate::table::groups`]), and each aggregate is updated once with all ids of
//! the chunk. Without group columns there is one group and no table.
//!
//! **Partial mode** (in stores) does not hold more than [`PARTIAL_GROUPS_MAX`]
//! groups: it hands out what it has and starts anew. The final aggregation merges
//! a group's states however often it appears.
//!
//! **Order:** groups come in order of their first row.
//!
//! **Cost** (planner): rows × (key + look-up + aggregates); memory: groups × (key +
//! states).
//!
//! **Left out:** spilling in complete and final mode (error 8175 over the quota).

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
use crate::table::groups::GroupTable;
use crate::table::keys::KeyEncoder;

/// Groups that a partial aggregation holds before it hands them out: their states
/// should stay in the cache.
const PARTIAL_GROUPS_MAX: usize = 32 << 10;

/// See [`AggregationDesc`].
pub struct HashAgg {
    input: Option<BoxOperator>,
    schema: Vec<FieldType>,
    mode: AggMode,
    group_by: Vec<Expr>,
    encoder: KeyEncoder,
    table: GroupTable,
    /// Values of the group columns, by group id.
    groups: RowStore,
    group_types: Vec<FieldType>,
    aggregates: Aggregates,
    ctx: ExecContext,
    eval: EvalContext,
    memory: OperatorMemory,
    sizes: ChunkRows,
    /// Whether some row was seen since the states were last handed out.
    dirty: bool,
    result: Option<(Chunk, usize)>,
    ids: Vec<u32>,
    fresh: Vec<u32>,
}

impl HashAgg {
    /// Aggregates `input`.
    pub fn new(input: BoxOperator, desc: &AggregationDesc, ctx: ExecContext) -> Result<HashAgg> {
        let schema = aggregation_types(desc, input.schema())?;
        let encoder = KeyEncoder::for_groups(&desc.group_by);
        let group_types: Vec<FieldType> =
            desc.group_by.iter().map(|expr| expr.ty().clone()).collect();
        Ok(HashAgg {
            aggregates: Aggregates::new(desc, &ctx.eval()),
            schema,
            mode: desc.mode,
            table: GroupTable::new(encoder.int_keys()),
            encoder,
            groups: RowStore::new(&group_types),
            group_types,
            group_by: desc.group_by.clone(),
            input: Some(input),
            eval: ctx.eval(),
            memory: ctx.account("HashAgg"),
            sizes: ctx.chunk_rows(),
            ctx,
            dirty: false,
            result: None,
            ids: Vec::new(),
            fresh: Vec::new(),
        })
    }

    fn add(&mut self, chunk: Chunk) -> Result<()> {
        let rows = chunk.num_selected();
        if rows == 0 {
            return Ok(());
        }
        self.dirty = true;
        let groups = if self.group_by.is_empty() {
            self.ids.clear();
            self.ids.resize(rows, 0);
            1
        } else {
            let mut columns: Vec<Cow<'_, Column>> = Vec::with_capacity(self.group_by.len());
            for expr in &self.group_by {
                columns.push(batch::eval(expr, &chunk, &mut self.eval)?);
            }
            let keys = self.encoder.encode_columns(&columns, rows)?;
            self.table.assign(&keys, &mut self.ids, &mut self.fresh);
            if !self.fresh.is_empty() {
                self.groups.append_gathered(&columns, &self.fresh)?;
            }
            self.table.len()
        };
        self.aggregates.update(&chunk, &self.ids, groups, &mut self.eval)?;
        self.ctx.flush_warnings(&mut self.eval);
        let bytes = self.table.bytes() + self.groups.bytes() + self.aggregates.bytes();
        self.memory.set(bytes as u64)
    }

    /// Hands out all groups and forgets them.
    fn finish(&mut self) -> Result<()> {
        let groups = if self.group_by.is_empty() { 1 } else { self.table.len() };
        let mut columns = self.aggregates.finish(groups, &mut self.eval)?;
        self.ctx.flush_warnings(&mut self.eval);
        let store = std::mem::replace(&mut self.groups, RowStore::new(&self.group_types));
        columns.extend(store.into_chunk().columns);
        self.table.clear();
        self.dirty = false;
        self.result = Some((batch::from_columns(columns, groups), 0));
        Ok(())
    }

    /// The next slice of the groups handed out.
    fn next_result(&mut self) -> Option<Chunk> {
        let (result, returned) = self.result.as_mut()?;
        let end = (*returned + self.sizes.advance()).min(result.num_rows());
        if *returned == end {
            self.result = None;
            self.memory.clear();
            return None;
        }
        let chunk = batch::slice(result, *returned, end);
        *returned = end;
        Some(chunk)
    }
}

#[async_trait]
impl Operator for HashAgg {
    fn schema(&self) -> &[FieldType] {
        &self.schema
    }

    async fn next(&mut self) -> Result<Option<Chunk>> {
        loop {
            self.ctx.check()?;
            if let Some(chunk) = self.next_result() {
                return Ok(Some(chunk));
            }
            let Some(input) = &mut self.input else { return Ok(None) };
            match input.next().await? {
                Some(chunk) => {
                    self.add(chunk)?;
                    if self.mode == AggMode::Partial && self.table.len() >= PARTIAL_GROUPS_MAX {
                        self.finish()?;
                    }
                }
                None => {
                    self.input = None;
                    // Without groups an empty input still has a count of 0.
                    let global = self.group_by.is_empty() && self.mode != AggMode::Partial;
                    if self.dirty || global {
                        self.finish()?;
                    }
                }
            }
        }
    }
}
