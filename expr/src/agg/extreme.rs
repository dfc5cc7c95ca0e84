//! MIN, MAX, and any value of a group.

use std::cmp::Ordering;

use cairn_types::datum::compare_ref;
use cairn_types::{Collation, Column, ColumnData, Datum, PhysicalKind};

use super::{AggDesc, AggFunc, GroupedAgg, bad_partial, collation_of, missing_argument};
use crate::context::EvalContext;
use crate::error::Result;

pub(super) fn new_state(desc: &AggDesc) -> Box<dyn GroupedAgg> {
    let wanted = if desc.func == AggFunc::Min { Ordering::Less } else { Ordering::Greater };
    match desc.ty.physical() {
        PhysicalKind::Int => Box::new(Integers { values: Vec::new(), seen: Vec::new(), wanted }),
        _ => Box::new(Values {
            values: Vec::new(),
            heap_bytes: 0,
            wanted,
            collation: collation_of(&desc.ty),
        }),
    }
}

/// MIN and MAX of signed integers.
struct Integers {
    values: Vec<i64>,
    seen: Vec<bool>,
    wanted: Ordering,
}

impl Integers {
    fn take(&mut self, groups: &[u32], column: &Column) -> Result<()> {
        let ColumnData::Int(values) = column.data() else { return Err(bad_partial(AggFunc::Min)) };
        let nulls = column.has_nulls();
        for (row, group) in groups.iter().enumerate() {
            if nulls && column.is_null(row) {
                continue;
            }
            let group = *group as usize;
            if !self.seen[group] || values[row].cmp(&self.values[group]) == self.wanted {
                self.seen[group] = true;
                self.values[group] = values[row];
            }
        }
        Ok(())
    }

    fn write(&self, group: usize, out: &mut Column) {
        if self.seen[group] { out.push_int(self.values[group]) } else { out.push_null() }
    }
}

impl GroupedAgg for Integers {
    fn ensure_groups(&mut self, groups: usize) {
        let groups = groups.max(self.values.len());
        self.values.resize(groups, 0);
        self.seen.resize(groups, false);
    }

    fn update(&mut self, groups: &[u32], args: &[Column], _ctx: &mut EvalContext) -> Result<()> {
        self.take(groups, args.first().ok_or_else(|| missing_argument(AggFunc::Min))?)
    }

    fn merge_partial(
        &mut self,
        groups: &[u32],
        partial: &[Column],
        _ctx: &mut EvalContext,
    ) -> Result<()> {
        self.take(groups, partial.first().ok_or_else(|| bad_partial(AggFunc::Min))?)
    }

    fn write_partial(&mut self, group: usize, out: &mut [Column]) -> Result<()> {
        let [column] = out else { return Err(bad_partial(AggFunc::Min)) };
        self.write(group, column);
        Ok(())
    }

    fn write_final(
        &mut self,
        group: usize,
        out: &mut Column,
        _ctx: &mut EvalContext,
    ) -> Result<()> {
        self.write(group, out);
        Ok(())
    }

    fn memory_bytes(&self) -> usize {
        self.values.capacity() * size_of::<i64>() + self.seen.capacity()
    }
}

/// MIN and MAX of everything else; NULL stands for "none yet".
struct Values {
    values: Vec<Datum>,
    heap_bytes: usize,
    wanted: Ordering,
    collation: Collation,
}

impl Values {
    fn take(&mut self, groups: &[u32], column: &Column) {
        for (row, group) in groups.iter().enumerate() {
            let value = column.get(row);
            if value.is_null() {
                continue;
            }
            let held = &mut self.values[*group as usize];
            if held.is_null() || compare_ref(&value, &held.as_ref(), self.collation) == self.wanted
            {
                let value = value.to_owned();
                self.heap_bytes += value.memory_bytes().saturating_sub(held.memory_bytes());
                *held = value;
            }
        }
    }
}

impl GroupedAgg for Values {
    fn ensure_groups(&mut self, groups: usize) {
        self.values.resize(groups.max(self.values.len()), Datum::Null);
    }

    fn update(&mut self, groups: &[u32], args: &[Column], _ctx: &mut EvalContext) -> Result<()> {
        self.take(groups, args.first().ok_or_else(|| missing_argument(AggFunc::Min))?);
        Ok(())
    }

    fn merge_partial(
        &mut self,
        groups: &[u32],
        partial: &[Column],
        _ctx: &mut EvalContext,
    ) -> Result<()> {
        self.take(groups, partial.first().ok_or_else(|| bad_partial(AggFunc::Min))?);
        Ok(())
    }

    fn write_partial(&mut self, group: usize, out: &mut [Column]) -> Result<()> {
        let [column] = out else { return Err(bad_partial(AggFunc::Min)) };
        column.push(self.values[group].as_ref());
        Ok(())
    }

    fn write_final(
        &mut self,
        group: usize,
        out: &mut Column,
        _ctx: &mut EvalContext,
    ) -> Result<()> {
        out.push(self.values[group].as_ref());
        Ok(())
    }

    fn memory_bytes(&self) -> usize {
        self.values.capacity() * size_of::<Datum>() + self.heap_bytes
    }
}

/// The first value of each group, NULL or not.
#[derive(Default)]
pub(super) struct FirstRow {
    values: Vec<Option<Datum>>,
    heap_bytes: usize,
}

impl FirstRow {
    fn take(&mut self, groups: &[u32], column: &Column) {
        for (row, group) in groups.iter().enumerate() {
            let held = &mut self.values[*group as usize];
            if held.is_none() {
                let value = column.get(row).to_owned();
                self.heap_bytes += value.memory_bytes();
                *held = Some(value);
            }
        }
    }

    fn write(&self, group: usize, out: &mut Column) {
        match &self.values[group] {
            Some(value) => out.push(value.as_ref()),
            None => out.push_null(),
        }
    }
}

impl GroupedAgg for FirstRow {
    fn ensure_groups(&mut self, groups: usize) {
        self.values.resize(groups.max(self.values.len()), None);
    }

    fn update(&mut self, groups: &[u32], args: &[Column], _ctx: &mut EvalContext) -> Result<()> {
        self.take(groups, args.first().ok_or_else(|| missing_argument(AggFunc::FirstRow))?);
        Ok(())
    }

    fn merge_partial(
        &mut self,
        groups: &[u32],
        partial: &[Column],
        _ctx: &mut EvalContext,
    ) -> Result<()> {
        self.take(groups, partial.first().ok_or_else(|| bad_partial(AggFunc::FirstRow))?);
        Ok(())
    }

    fn write_partial(&mut self, group: usize, out: &mut [Column]) -> Result<()> {
        let [column] = out else { return Err(bad_partial(AggFunc::FirstRow)) };
        self.write(group, column);
        Ok(())
    }

    fn write_final(
        &mut self,
        group: usize,
        out: &mut Column,
        _ctx: &mut EvalContext,
    ) -> Result<()> {
        self.write(group, out);
        Ok(())
    }

    fn memory_bytes(&self) -> usize {
        self.values.capacity() * size_of::<Option<Datum>>() + self.heap_bytes
    }
}
