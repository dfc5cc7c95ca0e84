//! GROUP_CONCAT.

use std::cmp::Ordering;

use cairn_types::{Collation, Column, Datum, DatumRef, FieldType, compare};

use super::{AggDesc, AggFunc, GroupedAgg, bad_partial, collation_of, text_of, warn_cut};
use crate::context::EvalContext;
use crate::error::Result;

/// One value to be joined, with what it is ordered by.
struct Item {
    order: Vec<Datum>,
    text: Vec<u8>,
}

pub(super) struct Concat {
    value_types: Vec<FieldType>,
    /// Descending flag and collation per ORDER BY item.
    order: Vec<(bool, Collation)>,
    separator: Vec<u8>,
    groups: Vec<Vec<Item>>,
    bytes: usize,
}

impl Concat {
    pub fn new(desc: &AggDesc) -> Concat {
        let values = desc.args.len() - desc.order_by.len();
        let types = |expr: &crate::Expr| expr.ty().clone();
        let order = desc.args[values..].iter().zip(&desc.order_by);
        Concat {
            value_types: desc.args[..values].iter().map(types).collect(),
            order: order.map(|(expr, desc)| (*desc, collation_of(expr.ty()))).collect(),
            separator: desc.separator.clone().into_bytes(),
            groups: Vec::new(),
            bytes: 0,
        }
    }

    fn compare(&self, a: &Item, b: &Item) -> Ordering {
        let keys = a.order.iter().zip(&b.order).zip(&self.order);
        for ((a, b), (descending, collation)) in keys {
            let order = compare(a, b, *collation);
            if order.is_ne() {
                return if *descending { order.reverse() } else { order };
            }
        }
        Ordering::Equal
    }

    /// The joined text, sorted and cut; `None` of no values.
    fn join(&mut self, group: usize, ctx: &mut EvalContext) -> Option<Vec<u8>> {
        let mut items = std::mem::take(&mut self.groups[group]);
        if items.is_empty() {
            return None;
        }
        items.sort_by(|a, b| self.compare(a, b));
        let max = usize::try_from(ctx.group_concat_max_len).unwrap_or(usize::MAX);
        let mut out = Vec::new();
        for (at, item) in items.iter().enumerate() {
            if at > 0 {
                out.extend_from_slice(&self.separator);
            }
            out.extend_from_slice(&item.text);
            if out.len() > max {
                let mut end = max;
                // No character is cut in two.
                while end > 0 && out[end] & 0xC0 == 0x80 {
                    end -= 1;
                }
                out.truncate(end);
                warn_cut(group, ctx);
                break;
            }
        }
        self.groups[group] = items;
        Some(out)
    }
}

impl GroupedAgg for Concat {
    fn ensure_groups(&mut self, groups: usize) {
        self.groups.resize_with(groups.max(self.groups.len()), Vec::new);
    }

    fn update(&mut self, groups: &[u32], args: &[Column], _ctx: &mut EvalContext) -> Result<()> {
        let values = self.value_types.len();
        for (row, group) in groups.iter().enumerate() {
            // A NULL among the values leaves the row out.
            if args[..values].iter().any(|column| column.is_null(row)) {
                continue;
            }
            let mut text = Vec::new();
            for (column, ty) in args.iter().zip(&self.value_types) {
                match column.get(row) {
                    DatumRef::Bytes(bytes) => text.extend_from_slice(bytes),
                    other => text_of(&other.to_owned(), ty, &mut text),
                }
            }
            let order: Vec<Datum> =
                args[values..].iter().map(|column| column.get(row).to_owned()).collect();
            self.bytes += text.len() + size_of::<Item>();
            self.bytes += order.iter().map(Datum::memory_bytes).sum::<usize>();
            self.groups[*group as usize].push(Item { order, text });
        }
        Ok(())
    }

    fn merge_partial(
        &mut self,
        groups: &[u32],
        partial: &[Column],
        _ctx: &mut EvalContext,
    ) -> Result<()> {
        let column = partial.first().ok_or_else(|| bad_partial(AggFunc::GroupConcat))?;
        for (row, group) in groups.iter().enumerate() {
            if let DatumRef::Bytes(text) = column.get(row) {
                self.bytes += text.len() + size_of::<Item>();
                let item = Item { order: Vec::new(), text: text.to_vec() };
                self.groups[*group as usize].push(item);
            }
        }
        Ok(())
    }

    fn write_partial(&mut self, group: usize, out: &mut [Column]) -> Result<()> {
        let [column] = out else { return Err(bad_partial(AggFunc::GroupConcat)) };
        // The final part cuts: the limit is the session's.
        let mut ctx = EvalContext { group_concat_max_len: u64::MAX, ..EvalContext::default() };
        match self.join(group, &mut ctx) {
            Some(text) => column.push_bytes(&text),
            None => column.push_null(),
        }
        Ok(())
    }

    fn write_final(&mut self, group: usize, out: &mut Column, ctx: &mut EvalContext) -> Result<()> {
        match self.join(group, ctx) {
            Some(text) => out.push_bytes(&text),
            None => out.push_null(),
        }
        Ok(())
    }

    fn memory_bytes(&self) -> usize {
        self.groups.capacity() * size_of::<Vec<Item>>() + self.bytes
    }
}
