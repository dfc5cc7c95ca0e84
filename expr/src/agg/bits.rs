//! BIT_AND, BIT_OR, BIT_XOR: never NULL.

use cairn_types::{Column, DatumRef, FieldType};

use super::{AggFunc, GroupedAgg, bad_partial, missing_argument};
use crate::context::EvalContext;
use crate::error::Result;
use crate::eval::convert;

pub(super) struct Bits {
    func: AggFunc,
    arg_ty: FieldType,
    values: Vec<u64>,
}

impl Bits {
    pub fn new(func: AggFunc, arg_ty: Option<FieldType>) -> Bits {
        Bits { func, arg_ty: arg_ty.unwrap_or_else(FieldType::bigint), values: Vec::new() }
    }

    fn take(&mut self, groups: &[u32], column: &Column, ctx: &mut EvalContext) -> Result<()> {
        for (row, group) in groups.iter().enumerate() {
            let bits = match column.get(row) {
                DatumRef::Null => continue,
                DatumRef::Int(value) => value as u64,
                DatumRef::UInt(value) => value,
                other => convert::to_bits(&other.to_owned(), &self.arg_ty, ctx)?,
            };
            let held = &mut self.values[*group as usize];
            match self.func {
                AggFunc::BitAnd => *held &= bits,
                AggFunc::BitOr => *held |= bits,
                _ => *held ^= bits,
            }
        }
        Ok(())
    }
}

impl GroupedAgg for Bits {
    fn ensure_groups(&mut self, groups: usize) {
        let neutral = if self.func == AggFunc::BitAnd { u64::MAX } else { 0 };
        self.values.resize(groups.max(self.values.len()), neutral);
    }

    fn update(&mut self, groups: &[u32], args: &[Column], ctx: &mut EvalContext) -> Result<()> {
        let column = args.first().ok_or_else(|| missing_argument(self.func))?;
        self.take(groups, column, ctx)
    }

    fn merge_partial(
        &mut self,
        groups: &[u32],
        partial: &[Column],
        ctx: &mut EvalContext,
    ) -> Result<()> {
        let column = partial.first().ok_or_else(|| bad_partial(self.func))?;
        self.take(groups, column, ctx)
    }

    fn write_partial(&mut self, group: usize, out: &mut [Column]) -> Result<()> {
        let [column] = out else { return Err(bad_partial(self.func)) };
        column.push_uint(self.values[group]);
        Ok(())
    }

    fn write_final(
        &mut self,
        group: usize,
        out: &mut Column,
        _ctx: &mut EvalContext,
    ) -> Result<()> {
        out.push_uint(self.values[group]);
        Ok(())
    }

    fn memory_bytes(&self) -> usize {
        self.values.capacity() * size_of::<u64>()
    }
}
