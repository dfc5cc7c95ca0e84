//! `GROUP BY` through a hash table.
//!
//! For every chunk the group columns become keys, the keys dense group ids
//! ([`crate::table::groups`]), and each aggregate is updated once with all ids of
//! the chunk. Without group columns there is one group and no table.
//!
//! **Partial mode** (in stores) does not hold more than [`PARTIAL_GROUPS_MAX`]
//! groups: it hands out what it has and starts anew, also when memory is refused. The final aggregation merges
//! a group's states however often it appears.
//!
//! **Spilling** ([`overflow`]). When memory is refused, the groups in memory stay and take no others in. Rows of other groups
//! are divided by their group's hash and go to disk; each part is aggregated alone once the groups in memory
//! were handed out, and divided again if it needs to be. What grows within a group, the values of a DISTINCT, goes to disk,
//! too ([`distinct`]).
//!
//! **Order:** groups come in order of their first row; where they were spilled, part by part.
//!
//! **Cost** (planner): rows × (key + look-up + aggregates); memory: groups × (key +
//! states), or the quota, and the rows of groups beyond it once or more to disk.
//!
//! **Left out:** a state that outgrows the quota by itself (GROUP_CONCAT, JSON_ARRAYAGG): error 8175.
//!
//! **Sources.** G. Graefe, "Query Evaluation Techniques for Large Databases", ACM Computing Surveys 25(2), 1993,
//! section 4.2; PostgreSQL's `nodeAgg.c` keeps groups in memory and spills rows of others in this way.

mod distinct;
mod overflow;

use std::borrow::Cow;

use async_trait::async_trait;
use cairn_expr::{EvalContext, Expr};
use cairn_types::{Chunk, Column, FieldType};

pub(super) use self::distinct::DistinctOverflow;
use self::overflow::{Overflow, Part};
use super::agg::Aggregates;
use crate::batch::{self, RowStore};
use crate::context::{ChunkRows, ExecContext};
use crate::error::Result;
use crate::memory::OperatorMemory;
use crate::operator::{BoxOperator, Operator};
use crate::plan::fragment::aggregation_types;
use crate::plan::{AggMode, AggregationDesc};
use crate::spill::must_spill;
use crate::table::groups::GroupTable;
use crate::table::keys::KeyEncoder;

/// Groups that a partial aggregation holds before it hands them out: their states
/// should stay in the cache.
const PARTIAL_GROUPS_MAX: usize = 32 << 10;

/// See [`AggregationDesc`].
pub struct HashAgg {
    input: Option<BoxOperator>,
    input_types: Vec<FieldType>,
    schema: Vec<FieldType>,
    mode: AggMode,
    group_by: Vec<Expr>,
    /// Whether the groups of rows are the same whenever they are evaluated: a part of what was
    /// spilled evaluates them anew.
    is_stable: bool,
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
    /// How often the rows of the input were divided.
    depth: u32,
    /// Rows of groups that are not in memory; none are taken in while this is there.
    overflow: Option<Overflow>,
    /// Parts of the input that are still to be aggregated, the next one last.
    parts: Vec<Part>,
}

impl HashAgg {
    /// Aggregates `input`.
    pub fn new(input: BoxOperator, desc: &AggregationDesc, ctx: ExecContext) -> Result<HashAgg> {
        HashAgg::at_depth(input, desc, ctx, 0)
    }

    /// The same of rows that were divided `depth` times.
    fn at_depth(
        input: BoxOperator,
        desc: &AggregationDesc,
        ctx: ExecContext,
        depth: u32,
    ) -> Result<HashAgg> {
        let input_types = input.schema().to_vec();
        let schema = aggregation_types(desc, &input_types)?;
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
            is_stable: desc.group_by.iter().all(Expr::is_deterministic),
            group_by: desc.group_by.clone(),
            input: Some(input),
            input_types,
            eval: ctx.eval(),
            memory: ctx.account("HashAgg"),
            sizes: ctx.chunk_rows(),
            ctx,
            dirty: false,
            result: None,
            ids: Vec::new(),
            fresh: Vec::new(),
            depth,
            overflow: None,
            parts: Vec::new(),
        })
    }

    async fn add(&mut self, chunk: Chunk) -> Result<()> {
        let rows = chunk.num_selected();
        if rows == 0 {
            return Ok(());
        }
        self.dirty = true;
        if self.overflow.is_some() {
            return self.add_to_known(batch::dense(chunk)).await;
        }
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
        let bytes = self.bytes();
        if self.mode == AggMode::Partial {
            let fits = self.memory.try_set(bytes as u64);
            if !fits || self.table.len() >= PARTIAL_GROUPS_MAX {
                self.finish()?;
            }
            if !fits {
                self.table = GroupTable::new(self.encoder.int_keys());
            }
            return Ok(());
        }
        let space = self.ctx.spill.as_ref().filter(|_| self.is_stable);
        if must_spill(&mut self.memory, space, self.depth, bytes)? {
            self.start_overflow(bytes).await?;
        }
        Ok(())
    }

    /// Bytes of the groups in memory.
    fn bytes(&self) -> usize {
        self.table.bytes() + self.groups.bytes() + self.aggregates.bytes()
    }

    /// Hands out all groups and forgets them.
    fn finish(&mut self) -> Result<()> {
        let groups = if self.group_by.is_empty() { 1 } else { self.table.len() };
        let mut columns = self.aggregates.finish(groups, &mut self.eval)?;
        self.ctx.flush_warnings(&mut self.eval);
        let store = std::mem::replace(&mut self.groups, RowStore::new(&self.group_types));
        columns.extend(store.into_chunk().columns);
        match self.mode {
            AggMode::Partial => self.table.clear(),
            // The next part of what was spilled begins with all the memory there is.
            _ => self.table = GroupTable::new(self.encoder.int_keys()),
        }
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
            if self.input.is_none() && !self.next_part() {
                return Ok(None);
            }
            let Some(input) = &mut self.input else { return Ok(None) };
            match input.next().await? {
                Some(chunk) => self.add(chunk).await?,
                None => {
                    self.input = None;
                    if let Some(overflow) = self.overflow.take() {
                        self.end_overflow(overflow).await?;
                    }
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
