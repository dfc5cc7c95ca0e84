//! COUNT.

use cairn_types::{Column, ColumnData};

use super::{AggFunc, GroupedAgg, bad_partial};
use crate::context::EvalContext;
use crate::error::Result;

/// Rows per group whose arguments are all not NULL.
#[derive(Default)]
pub(super) struct Count {
    counts: Vec<i64>,
}

impl GroupedAgg for Count {
    fn ensure_groups(&mut self, groups: usize) {
        self.counts.resize(groups.max(self.counts.len()), 0);
    }

    fn update(&mut self, groups: &[u32], args: &[Column], _ctx: &mut EvalContext) -> Result<()> {
        if args.iter().all(|column| !column.has_nulls()) {
            // One group, the common case without GROUP BY, needs no loop.
            if let [group] = self.counts.as_mut_slice() {
                *group += groups.len() as i64;
                return Ok(());
            }
            groups.iter().for_each(|group| self.counts[*group as usize] += 1);
            return Ok(());
        }
        for (row, group) in groups.iter().enumerate() {
            let counted = args.iter().all(|column| !column.is_null(row));
            self.counts[*group as usize] += i64::from(counted);
        }
        Ok(())
    }

    fn merge_partial(
        &mut self,
        groups: &[u32],
        partial: &[Column],
        _ctx: &mut EvalContext,
    ) -> Result<()> {
        let [column] = partial else { return Err(bad_partial(AggFunc::Count)) };
        let ColumnData::Int(counts) = column.data() else {
            return Err(bad_partial(AggFunc::Count));
        };
        for (group, count) in groups.iter().zip(counts) {
            self.counts[*group as usize] += count;
        }
        Ok(())
    }

    fn write_partial(&mut self, group: usize, out: &mut [Column]) -> Result<()> {
        let [column] = out else { return Err(bad_partial(AggFunc::Count)) };
        column.push_int(self.counts[group]);
        Ok(())
    }

    fn write_final(
        &mut self,
        group: usize,
        out: &mut Column,
        _ctx: &mut EvalContext,
    ) -> Result<()> {
        out.push_int(self.counts[group]);
        Ok(())
    }

    fn memory_bytes(&self) -> usize {
        self.counts.capacity() * size_of::<i64>()
    }
}
