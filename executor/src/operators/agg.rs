//! The aggregates of one aggregation: states by group id, for both operators.

use std::ops::Range;

use cairn_expr::agg::partial_types;
use cairn_expr::{AggDesc, EvalContext, GroupedAgg};
use cairn_types::{Chunk, Column};

use super::hash_agg::DistinctOverflow;
use crate::batch;
use crate::error::{ExecError, Result};
use crate::plan::{AggMode, AggregationDesc};

/// States of all aggregates.
pub(super) struct Aggregates {
    mode: AggMode,
    list: Vec<Aggregate>,
    rows_seen: u64,
    ctx: EvalContext,
}

struct Aggregate {
    desc: AggDesc,
    state: Box<dyn GroupedAgg>,
    /// Input columns of the partial state, in final mode.
    partial: Range<usize>,
}

impl Aggregates {
    /// Empty states.
    pub(super) fn new(desc: &AggregationDesc, ctx: &EvalContext) -> Aggregates {
        let mut first = 0;
        let list = desc.aggs.iter().map(|desc| {
            let partial = first..first + partial_types(desc).len();
            first = partial.end;
            Aggregate { desc: desc.clone(), state: desc.new_state(ctx), partial }
        });
        Aggregates { mode: desc.mode, list: list.collect(), rows_seen: 0, ctx: ctx.clone() }
    }

    /// Adds the selected rows; row `i` belongs to group `ids[i]`, below `groups`.
    pub(super) fn update(
        &mut self,
        chunk: &Chunk,
        ids: &[u32],
        groups: usize,
        eval: &mut EvalContext,
    ) -> Result<()> {
        self.rows_seen += ids.len() as u64;
        for Aggregate { desc, state, partial } in &mut self.list {
            state.ensure_groups(groups);
            if self.mode != AggMode::Final {
                let mut args = Vec::with_capacity(desc.args.len());
                for arg in &desc.args {
                    args.push(batch::eval(arg, chunk, eval)?.into_owned());
                }
                state.update(ids, &args, eval)?;
                continue;
            }
            let columns = chunk.columns.get(partial.clone());
            let columns = columns.ok_or(ExecError::Corrupted("a partial aggregate is missing"))?;
            match &chunk.sel {
                None => state.merge_partial(ids, columns, eval)?,
                Some(sel) => {
                    let picked: Result<Vec<Column>> = columns
                        .iter()
                        .map(|column| batch::gather_column(column, sel, column.has_nulls()))
                        .collect();
                    state.merge_partial(ids, &picked?, eval)?;
                }
            }
        }
        Ok(())
    }

    /// The same of groups whose DISTINCT values may take no more memory: those that are new go
    /// to `overflow`.
    pub(super) fn update_frozen(
        &mut self,
        chunk: &Chunk,
        ids: &[u32],
        groups: usize,
        eval: &mut EvalContext,
        overflow: &mut DistinctOverflow,
    ) -> Result<()> {
        if !overflow.is_needed() {
            return self.update(chunk, ids, groups, eval);
        }
        self.rows_seen += ids.len() as u64;
        for (at, Aggregate { desc, state, .. }) in self.list.iter_mut().enumerate() {
            state.ensure_groups(groups);
            let mut args = Vec::with_capacity(desc.args.len());
            for arg in &desc.args {
                args.push(batch::eval(arg, chunk, eval)?.into_owned());
            }
            match state.as_distinct() {
                Some(distinct) => overflow.push(at, ids, &args, &distinct.unseen(ids, &args))?,
                None => state.update(ids, &args, eval)?,
            }
        }
        Ok(())
    }

    /// The DISTINCT aggregates, by their place.
    pub(super) fn distinct(&self) -> impl Iterator<Item = (usize, &AggDesc)> {
        self.list
            .iter()
            .map(|aggregate| &aggregate.desc)
            .enumerate()
            .filter(|(_, desc)| desc.distinct)
    }

    /// Frees the values that DISTINCT aggregates have seen.
    pub(super) fn forget_seen(&mut self) {
        for aggregate in &mut self.list {
            if let Some(distinct) = aggregate.state.as_distinct() {
                distinct.forget_seen();
            }
        }
    }

    /// Adds rows with values that are new to their groups to the aggregate at `at`.
    pub(super) fn update_unique(
        &mut self,
        at: usize,
        ids: &[u32],
        args: &[Column],
        eval: &mut EvalContext,
    ) -> Result<()> {
        match self.list.get_mut(at).and_then(|aggregate| aggregate.state.as_distinct()) {
            Some(distinct) => Ok(distinct.update_unique(ids, args, eval)?),
            None => Ok(()),
        }
    }

    /// Rows added so far.
    pub(super) fn rows_seen(&self) -> u64 {
        self.rows_seen
    }

    /// Writes the output columns of groups `0..groups` and forgets all states.
    pub(super) fn finish(&mut self, groups: usize, eval: &mut EvalContext) -> Result<Vec<Column>> {
        let mut out = Vec::new();
        for Aggregate { desc, state, .. } in &mut self.list {
            state.ensure_groups(groups);
            let types = desc.output_types(self.mode);
            let mut columns: Vec<Column> = types.iter().map(|ty| Column::new(ty, groups)).collect();
            for group in 0..groups {
                match self.mode {
                    AggMode::Partial => state.write_partial(group, &mut columns)?,
                    AggMode::Complete | AggMode::Final => {
                        state.write_final(group, &mut columns[0], eval)?;
                    }
                }
            }
            out.extend(columns);
            *state = desc.new_state(&self.ctx);
        }
        Ok(out)
    }

    /// Bytes held.
    pub(super) fn bytes(&self) -> usize {
        self.list.iter().map(|aggregate| aggregate.state.memory_bytes()).sum()
    }
}
