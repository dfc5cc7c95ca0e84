//! What becomes of rows whose groups memory does not hold.
//!
//! ```text
//!  rows ─┬─ group in memory: update            ─► handed out first
//!        └─ other group ─► part by hash (disk) ─► aggregated alone, part by part, at depth + 1
//! ```
//!
//! Every part hands out groups worth at least the floor of [`crate::spill::SpillSizes`] before it is divided again, and at
//! [`crate::spill::partition::DEPTH_MAX`] the quota is a limit.

use std::borrow::Cow;

use cairn_types::{Chunk, Column};

use super::HashAgg;
use super::distinct::DistinctOverflow;
use crate::batch;
use crate::error::{ExecError, Result};
use crate::runtime_stats::Detail;
use crate::spill::partition::Partitions;
use crate::spill::{Area, SpillSource, SpillStream};

/// Rows on disk while the input is read.
pub(super) struct Overflow {
    area: Area,
    /// Rows of groups that are not in memory; absent without group columns.
    parts: Option<Partitions>,
    distinct: DistinctOverflow,
    /// What the buffers need.
    buffer_bytes: usize,
    /// What the groups in memory and the buffers may take without asking.
    granted_bytes: usize,
}

/// A part of the input that is still to be aggregated.
pub(super) struct Part {
    stream: SpillStream,
    depth: u32,
}

impl HashAgg {
    /// From now on no more groups are taken in.
    pub(super) async fn start_overflow(&mut self, refused_bytes: usize) -> Result<()> {
        let Some(space) = &self.ctx.spill else {
            return Err(ExecError::invalid_plan("an aggregation has no place to spill to"));
        };
        let area = Area::open(space, "HashAgg").await?;
        self.ctx.count(Detail::SpillRounds, 1);
        let count = space.sizes().partitions;
        let parts = (!self.group_by.is_empty())
            .then(|| Partitions::new(&area, count, &self.input_types, self.depth));
        let distinct = DistinctOverflow::new(&self.aggregates, &area);
        let buffers = parts.as_ref().map_or(0, |parts| parts.buffer_bytes() as usize);
        let buffer_bytes = buffers + distinct.buffer_bytes(space.sizes().block_bytes);
        // States of the groups in memory may still grow a little: a longer MAX.
        let slack_bytes = space.sizes().floor_bytes.max(refused_bytes / 4);
        self.memory.force_set((refused_bytes + buffer_bytes) as u64);
        let granted_bytes = refused_bytes + buffer_bytes + slack_bytes;
        self.overflow = Some(Overflow { area, parts, distinct, buffer_bytes, granted_bytes });
        Ok(())
    }

    /// Adds rows to the groups in memory, and writes those of other groups.
    pub(super) async fn add_to_known(&mut self, mut chunk: Chunk) -> Result<()> {
        let Some(overflow) = &mut self.overflow else { return Ok(()) };
        let rows = chunk.num_rows();
        let mut groups = 1;
        self.ids.clear();
        match &mut overflow.parts {
            None => self.ids.resize(rows, 0),
            Some(parts) => {
                let mut columns: Vec<Cow<'_, Column>> = Vec::with_capacity(self.group_by.len());
                for expr in &self.group_by {
                    columns.push(batch::eval(expr, &chunk, &mut self.eval)?);
                }
                let keys = self.encoder.encode_columns(&columns, rows)?;
                drop(columns);
                groups = self.table.len();
                self.fresh.clear();
                let mut known = Vec::with_capacity(rows);
                for row in 0..rows {
                    match self.table.find(&keys, row) {
                        Some(id) => {
                            self.ids.push(id);
                            known.push(row as u32);
                        }
                        None => self.fresh.push(row as u32),
                    }
                }
                if !self.fresh.is_empty() {
                    let fresh = self.fresh.iter().map(|row| *row as usize);
                    parts.push(&chunk, &keys, fresh).await?;
                    chunk.sel = Some(known);
                }
            }
        }
        if !self.ids.is_empty() {
            let distinct = &mut overflow.distinct;
            self.aggregates.update_frozen(&chunk, &self.ids, groups, &mut self.eval, distinct)?;
            distinct.write().await?;
        }
        self.ctx.flush_warnings(&mut self.eval);
        let Some(overflow) = &self.overflow else { return Ok(()) };
        let (buffers, granted) = (overflow.buffer_bytes, overflow.granted_bytes);
        let bytes = self.bytes() + buffers;
        if bytes > granted {
            self.memory.set(bytes as u64)?;
        }
        Ok(())
    }

    /// The input has ended: completes the groups in memory, and leaves the parts for later.
    pub(super) async fn end_overflow(&mut self, overflow: Overflow) -> Result<()> {
        let Overflow { area, parts, distinct, .. } = overflow;
        if let Some(parts) = parts {
            let depth = self.depth + 1;
            let streams = parts.finish().await?.into_iter().filter(|stream| stream.rows() > 0);
            // The first part comes next.
            let streams: Vec<_> = streams.collect();
            self.ctx.count(Detail::SpillPartitions, streams.len() as u64);
            self.parts.extend(streams.into_iter().rev().map(|stream| Part { stream, depth }));
        }
        self.aggregates.forget_seen();
        self.memory.force_set(self.bytes() as u64);
        self.add_distinct(distinct).await?;
        drop(area);
        Ok(())
    }

    /// Goes on with the next part of the input; false: there is none.
    pub(super) fn next_part(&mut self) -> bool {
        let Some(Part { stream, depth }) = self.parts.pop() else { return false };
        self.depth = depth;
        let source = SpillSource::new(self.input_types.clone(), [stream], self.ctx.clone());
        self.input = Some(Box::new(source));
        true
    }
}
