//! `ORDER BY` over everything.
//!
//! Rows are collected into one chunk and their sort keys ([`crate::order`]) beside
//! it; what is sorted are 32-byte entries of key prefix and row id, so that most
//! comparisons touch neither keys nor rows. The sort is stable through the row id.
//!
//! **Spilling.** When memory is refused, what was collected is sorted and written as a *run*, rows with their
//! keys, and collecting goes on. At the end the runs are merged ([`merge`]); if they are more than can be read at
//! once, neighbours are merged into longer ones first, the shortest before others. Rows that are equal come from the earlier
//! run, so the sort stays stable.
//!
//! **Cost** (planner): rows × log(rows) × compare + rows × copy; memory: rows,
//! keys, 32 bytes per row, or the quota and what is spilled once or more to disk.
//!
//! Source: Goetz Graefe, "Query Evaluation Techniques for Large Databases", ACM Computing
//! Surveys 25(2), 1993, section 2.1.

mod loser_tree;
mod merge;

use std::ops::Range;

use async_trait::async_trait;
use cairn_expr::EvalContext;
use cairn_types::{Chunk, Column, ColumnData, FieldType};

use self::merge::Merge;
use crate::batch::{self, RowStore};
use crate::context::{ChunkRows, ExecContext};
use crate::error::{ExecError, Result};
use crate::memory::OperatorMemory;
use crate::operator::{BoxOperator, Operator};
use crate::order::{OrderEncoder, OrderKeys, PREFIX_BYTES};
use crate::plan::SortDesc;
use crate::plan::fragment::check_expr;
use crate::runtime_stats::Detail;
use crate::spill::{Area, SpillSizes, SpillStream, SpillWriter, must_spill};

/// Bytes of one entry.
const ENTRY_BYTES: usize = size_of::<(u128, u32)>();
/// Bytes of a chunk of a run, about: what a merge holds of each run.
const RUN_CHUNK_BYTES: usize = 32 << 10;

/// See [`SortDesc`].
pub struct Sort {
    input: Option<BoxOperator>,
    schema: Vec<FieldType>,
    encoder: OrderEncoder,
    ctx: ExecContext,
    eval: EvalContext,
    memory: OperatorMemory,
    sizes: ChunkRows,
    rows: RowStore,
    /// Row ids in the order asked for, and how many were returned.
    sorted: Vec<u32>,
    returned: usize,
    /// Merges what was spilled.
    merge: Option<Merge>,
}

/// Sorted rows on disk, in order of arrival.
struct Runs {
    area: Area,
    list: Vec<SpillStream>,
    /// Types of rows with their keys.
    types: Vec<FieldType>,
    /// Bytes that the sort had when it spilled: the most so far.
    bytes: usize,
    /// The largest chunk of a run.
    chunk_bytes_max: usize,
    sizes: SpillSizes,
}

impl Runs {
    /// Runs that memory has room for at once. Of each a merge holds a block, a chunk, and the
    /// chunk's bytes; rows may be wider than chunks shall be.
    fn merged_at_once(&self) -> usize {
        let sizes = &self.sizes;
        let run_bytes = 2 * RUN_CHUNK_BYTES + sizes.block_bytes;
        let (least, most) = sizes.merge_runs;
        (self.bytes / run_bytes.max(3 * self.chunk_bytes_max)).clamp(least, most)
    }
}

impl Sort {
    /// Sorts `input`.
    pub fn new(input: BoxOperator, desc: &SortDesc, ctx: ExecContext) -> Result<Sort> {
        let schema = input.schema().to_vec();
        desc.order_by.iter().try_for_each(|item| check_expr(&item.expr, &schema))?;
        Ok(Sort {
            rows: RowStore::new(&schema),
            input: Some(input),
            schema,
            encoder: OrderEncoder::new(&desc.order_by),
            eval: ctx.eval(),
            memory: ctx.account("Sort"),
            sizes: ctx.chunk_rows(),
            ctx,
            sorted: Vec::new(),
            returned: 0,
            merge: None,
        })
    }

    async fn collect(&mut self, mut input: BoxOperator) -> Result<()> {
        let mut keys = OrderKeys::default();
        let mut runs: Option<Runs> = None;
        while let Some(chunk) = input.next().await? {
            self.ctx.check()?;
            self.encoder.encode(&chunk, &mut self.eval, &mut keys)?;
            self.rows.append(&chunk)?;
            let entries = self.rows.len() * (ENTRY_BYTES + size_of::<u32>());
            let bytes = self.rows.bytes() + keys.bytes() + entries;
            if must_spill(&mut self.memory, self.ctx.spill.as_ref(), 0, bytes)? {
                self.spill(std::mem::take(&mut keys), &mut runs, bytes).await?;
            }
        }
        self.ctx.flush_warnings(&mut self.eval);
        drop(input);
        match runs {
            None => self.sorted = self.sort(&keys)?,
            Some(mut runs) => {
                let some_runs = &mut Some(runs);
                if self.rows.len() > 0 {
                    self.spill(keys, some_runs, 0).await?;
                }
                runs = some_runs.take().expect("it was put there");
                self.merge = Some(self.merge(runs).await?);
            }
        }
        Ok(())
    }

    /// Ids of the collected rows in the order asked for.
    fn sort(&self, keys: &OrderKeys) -> Result<Vec<u32>> {
        if self.rows.len() > u32::MAX as usize {
            return Err(ExecError::invalid_plan("a sort has too many rows"));
        }
        let mut entries: Vec<(u128, u32)> =
            (0..keys.len()).map(|row| (keys.prefix(row), row as u32)).collect();
        if keys.longest() <= PREFIX_BYTES {
            entries.sort_unstable();
        } else {
            entries.sort_unstable_by(|a, b| {
                let by_prefix = a.0.cmp(&b.0);
                by_prefix
                    .then_with(|| keys.get(a.1 as usize).cmp(keys.get(b.1 as usize)))
                    .then_with(|| a.1.cmp(&b.1))
            });
        }
        Ok(entries.into_iter().map(|(_, row)| row).collect())
    }

    /// Writes the collected rows, which take `bytes`, as a run.
    async fn spill(
        &mut self,
        keys: OrderKeys,
        runs: &mut Option<Runs>,
        bytes: usize,
    ) -> Result<()> {
        let Some(space) = &self.ctx.spill else {
            return Err(ExecError::invalid_plan("a sort has no place to spill to"));
        };
        if runs.is_none() {
            let mut types = self.schema.clone();
            types.push(FieldType::blob());
            let area = Area::open(space, "Sort").await?;
            let sizes = *space.sizes();
            let (list, bytes, chunk_bytes_max) = (Vec::new(), 0, 0);
            *runs = Some(Runs { area, list, types, bytes, chunk_bytes_max, sizes });
        }
        let runs = runs.as_mut().expect("made above");
        runs.bytes = runs.bytes.max(bytes);
        let sorted = self.sort(&keys)?;
        let mut writer = SpillWriter::new(&runs.area);
        let row_bytes = self.rows.row_bytes() + keys.bytes() / keys.len().max(1);
        let chunk_rows = run_chunk_rows(row_bytes, &self.ctx);
        for ids in sorted.chunks(chunk_rows) {
            self.ctx.check()?;
            let rows = self.rows.gather(ids)?;
            let chunk = batch::with_column(rows, keys.column(ids)?);
            runs.chunk_bytes_max = runs.chunk_bytes_max.max(chunk.memory_bytes());
            writer.push(&chunk).await?;
        }
        runs.list.push(writer.finish().await?);
        self.ctx.count(Detail::SpillRounds, 1);
        self.rows = RowStore::new(&self.schema);
        self.memory.force_set(0);
        Ok(())
    }

    /// Merges runs until those that are left can be read at once.
    async fn merge(&mut self, mut runs: Runs) -> Result<Merge> {
        let merged_at_once = runs.merged_at_once();
        while runs.list.len() > merged_at_once {
            let count = merged_at_once.min(runs.list.len() - merged_at_once + 1);
            let range = cheapest(&runs.list, count);
            let at = range.start;
            let parts: Vec<SpillStream> = runs.list.drain(range).collect();
            let rows: u64 = parts.iter().map(SpillStream::rows).sum();
            let bytes: u64 = parts.iter().map(SpillStream::bytes).sum();
            let chunk_rows = run_chunk_rows((bytes / rows.max(1)) as usize, &self.ctx);
            let mut merge = Merge::start(parts, runs.types.clone()).await?;
            let mut writer = SpillWriter::new(&runs.area);
            while let Some(chunk) = merge.next(chunk_rows).await? {
                self.ctx.check()?;
                self.memory.force_set(merge.bytes() as u64);
                writer.push(&chunk).await?;
            }
            runs.list.insert(at, writer.finish().await?);
        }
        Merge::start(runs.list, runs.types).await
    }
}

/// Rows of a chunk of a run.
fn run_chunk_rows(row_bytes: usize, ctx: &ExecContext) -> usize {
    (RUN_CHUNK_BYTES / row_bytes.max(1)).clamp(1, ctx.chunk_rows_max.max(1))
}

/// `count` neighbours that have the fewest bytes.
fn cheapest(runs: &[SpillStream], count: usize) -> Range<usize> {
    let bytes = |at: &usize| -> u64 { runs[*at..*at + count].iter().map(SpillStream::bytes).sum() };
    let at = (0..=runs.len() - count).min_by_key(bytes).unwrap_or(0);
    at..at + count
}

impl OrderKeys {
    /// Keys of some rows as a column.
    fn column(&self, rows: &[u32]) -> Result<Column> {
        let mut offsets = Vec::with_capacity(rows.len() + 1);
        let mut data = Vec::new();
        offsets.push(0);
        for row in rows {
            data.extend_from_slice(self.get(*row as usize));
            offsets.push(u32::try_from(data.len()).map_err(|_| ExecError::TooMuchText)?);
        }
        Ok(Column::from_data(ColumnData::Bytes { offsets, data }))
    }
}

#[async_trait]
impl Operator for Sort {
    fn schema(&self) -> &[FieldType] {
        &self.schema
    }

    async fn next(&mut self) -> Result<Option<Chunk>> {
        if let Some(input) = self.input.take() {
            self.collect(input).await?;
        }
        self.ctx.check()?;
        let wanted = self.sizes.advance();
        if let Some(merge) = &mut self.merge {
            if let Some(mut chunk) = merge.next(wanted).await? {
                self.memory.force_set(merge.bytes() as u64);
                chunk.columns.pop();
                let rows = chunk.num_rows();
                return Ok(Some(batch::from_columns(chunk.columns, rows)));
            }
            self.merge = None;
        }
        let end = (self.returned + wanted).min(self.sorted.len());
        if self.returned == end {
            self.memory.clear();
            self.rows = RowStore::new(&self.schema);
            return Ok(None);
        }
        let chunk = self.rows.gather(&self.sorted[self.returned..end])?;
        self.returned = end;
        Ok(Some(chunk))
    }
}
