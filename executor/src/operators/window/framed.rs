//! Aggregates over frames that move at both ends.
//!
//! The partial states of [`FANOUT`] neighbours are merged into one, those of [`FANOUT`] such blocks
//! again, and so on: a tree. A frame is the blocks that lie within it and the rows at its two
//! ends, so that its aggregate costs the logarithm of its rows, whatever the aggregate. Frames of few
//! rows read just those.
//!
//! ```text
//! frame                ├───────────────────────┤
//! blocks of 4²   [               |               |               ]
//! blocks of 4    [   |   |   |###|###|###|   |   |   |   |   |   ]
//! rows           [          ##            #                      ]
//! ```
//!
//! The rows of a chunk are aggregated at once: each is a group of its own, and every level of the
//! tree is merged into all of them in one call.
//!
//! JSON_ARRAYAGG and JSON_OBJECTAGG keep the order of rows and their states are as large as all that
//! went in: they read every row of each frame.

use std::ops::Range;

use cairn_expr::agg::partial_types;
use cairn_expr::{AggDesc, AggFunc, EvalContext, GroupedAgg};
use cairn_types::{Column, FieldType};

use super::values::append;
use super::{Partition, Span, WindowState, Work};
use crate::batch::gather_column;
use crate::context::ExecContext;
use crate::error::Result;

/// Blocks that make a block of the next level.
const FANOUT: usize = 16;
/// Rows whose frames are aggregated at once.
const BATCH_ROWS: usize = 1024;
/// Rows and blocks that are read for them at once, unless one row's frame has more.
const BATCH_PARTS: usize = 64 << 10;

/// An aggregate.
pub(super) struct Framed {
    desc: AggDesc,
    /// Values of the open partition.
    args: Vec<Column>,
    rows: usize,
    /// Whether states can be merged.
    merges: bool,
    eval: EvalContext,
    partial: Vec<FieldType>,
}

/// The rows and blocks that a batch of frames is made of.
#[derive(Default)]
struct Parts {
    /// By level, from the rows upwards: whose frame it is, and the row or block.
    levels: Vec<(Vec<u32>, Vec<u32>)>,
    count: usize,
}

impl Framed {
    pub(super) fn new(desc: &AggDesc, ctx: &ExecContext) -> Framed {
        let merges = !matches!(
            desc.func,
            AggFunc::JsonArrayAgg | AggFunc::JsonObjectAgg | AggFunc::FirstRow
        );
        Framed {
            args: empty(desc),
            desc: desc.clone(),
            rows: 0,
            merges,
            eval: ctx.eval(),
            partial: partial_types(desc),
        }
    }

    /// The levels of the tree above the rows that some frame has use for.
    fn tree(&self, widest: usize, work: &mut Work<'_>, out: &Column) -> Result<Vec<Vec<Column>>> {
        let mut levels: Vec<Vec<Column>> = Vec::new();
        let (mut blocks, mut bytes) = (self.rows, self.bytes());
        let mut block_rows = 1;
        while self.merges && block_rows * FANOUT * 2 <= widest {
            block_rows *= FANOUT;
            let groups = blocks.div_ceil(FANOUT);
            let ids: Vec<u32> = (0..blocks).map(|at| (at / FANOUT) as u32).collect();
            let mut state = self.desc.new_state(&self.eval);
            state.ensure_groups(groups);
            match levels.last() {
                None => state.update(&ids, &self.args, work.eval)?,
                Some(below) => state.merge_partial(&ids, below, work.eval)?,
            }
            let new = |ty: &FieldType| Column::new(ty, groups);
            let mut level: Vec<Column> = self.partial.iter().map(new).collect();
            (0..groups).try_for_each(|group| state.write_partial(group, &mut level))?;
            bytes += level.iter().map(Column::memory_bytes).sum::<usize>();
            work.check(bytes, out)?;
            levels.push(level);
            blocks = groups;
        }
        Ok(levels)
    }

    /// Merges parts into the states of a batch.
    fn merge(
        &self,
        parts: &Parts,
        tree: &[Vec<Column>],
        state: &mut dyn GroupedAgg,
        work: &mut Work<'_>,
    ) -> Result<()> {
        let pick = |columns: &[Column], rows: &[u32]| -> Result<Vec<Column>> {
            columns.iter().map(|column| gather_column(column, rows, column.has_nulls())).collect()
        };
        for (level, (ids, rows)) in
            parts.levels.iter().enumerate().filter(|(_, (ids, _))| !ids.is_empty())
        {
            match level.checked_sub(1) {
                None => state.update(ids, &pick(&self.args, rows)?, work.eval)?,
                Some(at) => state.merge_partial(ids, &pick(&tree[at], rows)?, work.eval)?,
            }
        }
        Ok(())
    }
}

impl Parts {
    fn clear(&mut self, levels: usize) {
        self.levels.resize_with(levels, Default::default);
        for (ids, rows) in &mut self.levels {
            ids.clear();
            rows.clear();
        }
        self.count = 0;
    }

    fn push(&mut self, level: usize, id: u32, rows: Range<usize>) {
        self.count += rows.len();
        let (ids, list) = &mut self.levels[level];
        for row in rows {
            ids.push(id);
            list.push(row as u32);
        }
    }

    /// Adds a frame: the rows at its ends and the largest blocks between.
    fn add(&mut self, id: u32, frame: Range<usize>) {
        let (mut start, mut end) = (frame.start, frame.end);
        let top = self.levels.len() - 1;
        for level in 0..=top {
            if level == top || end - start < FANOUT * 2 {
                self.push(level, id, start..end);
                return;
            }
            let (first, last) = (start.div_ceil(FANOUT), end / FANOUT);
            self.push(level, id, start..first * FANOUT);
            self.push(level, id, last * FANOUT..end);
            (start, end) = (first, last);
        }
    }
}

impl WindowState for Framed {
    fn add(
        &mut self,
        args: &[Column],
        spans: &[Span],
        _out: &mut Column,
        _work: &mut Work<'_>,
    ) -> Result<()> {
        self.rows += spans.iter().map(|span| span.rows.len()).sum::<usize>();
        for (at, values) in self.args.iter_mut().enumerate() {
            append(values, args.get(at), spans)?;
        }
        Ok(())
    }

    fn end(&mut self, partition: &Partition, out: &mut Column, work: &mut Work<'_>) -> Result<()> {
        let widest = (0..partition.rows).map(|row| partition.frames.of(row).len()).max();
        let tree = self.tree(widest.unwrap_or(0), work, out)?;
        let of_tree: usize = tree.iter().flatten().map(Column::memory_bytes).sum();
        let mut parts = Parts::default();
        let mut row = 0;
        while row < partition.rows {
            parts.clear(tree.len() + 1);
            let first = row;
            while row < partition.rows
                && row - first < BATCH_ROWS
                && (row == first || parts.count < BATCH_PARTS)
            {
                parts.add((row - first) as u32, partition.frames.of(row));
                row += 1;
            }
            let mut state = self.desc.new_state(&self.eval);
            state.ensure_groups(row - first);
            self.merge(&parts, &tree, &mut *state, work)?;
            let of_parts = parts.count * size_of::<(u32, u32)>();
            let bytes = self.bytes() + of_tree + of_parts + state.memory_bytes();
            for group in 0..row - first {
                work.check(bytes, out)?;
                state.write_final(group, out, work.eval)?;
            }
        }
        self.args = empty(&self.desc);
        self.rows = 0;
        Ok(())
    }

    fn bytes(&self) -> usize {
        self.args.iter().map(Column::memory_bytes).sum()
    }
}

/// Columns for the arguments of an aggregate.
fn empty(desc: &AggDesc) -> Vec<Column> {
    desc.args.iter().map(|arg| Column::new(arg.ty(), 0)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_and_blocks_are_those_of_the_frame() {
        let frames = [(0, 0), (0, 1), (5, 31), (1, 700), (15, 4096), (16, 4097), (255, 70_000)];
        for levels in 1..5 {
            for (start, end) in frames {
                let mut parts = Parts::default();
                parts.clear(levels);
                parts.add(7, start..end);
                let mut rows: Vec<usize> = Vec::new();
                let mut width = 1;
                for (ids, list) in &parts.levels {
                    assert!(ids.iter().all(|id| *id == 7));
                    let blocks = list.iter().map(|at| *at as usize * width);
                    rows.extend(blocks.flat_map(|first| first..first + width));
                    width *= FANOUT;
                }
                rows.sort_unstable();
                assert!(rows.into_iter().eq(start..end), "{levels} levels, {start}..{end}");
            }
        }
    }
}
