//! The key ranges of many runs of one scan, as index joins need them.
//!
//! Mostly the first columns of a key are set equal to one value each. Then a key's range is its
//! encoded values, and a whole unique key is a single key of the store, which is read without a
//! scan. All other conditions are analysed again for each key.

use std::sync::Arc;

use cairn_executor::source::KeyRange;
use cairn_expr::{EvalContext, Expr, Func};
use cairn_types::codec::{encode_datum_key, encode_i64};
use cairn_types::keys::{encode_row_key, index_prefix, prefix_next, row_prefix};
use cairn_types::{Datum, Handle};

use super::key::{build_key_ranges, stored_value};
use super::{RangeColumn, RangeSpec};
use crate::catalog::{IndexInfo, TableInfo};

/// The raw key ranges of a scan's runs, each with the values of one of `keys` in `slots`: in key
/// order, none overlapping another.
pub fn build_lookup_ranges(
    spec: &RangeSpec,
    table: &TableInfo,
    index: Option<&IndexInfo>,
    slots: &[usize],
    keys: &[Vec<Datum>],
    ctx: &mut EvalContext,
) -> Vec<KeyRange> {
    let equalities = Equalities::of(spec, table, index);
    let mut ranges = Vec::with_capacity(keys.len());
    for key in keys {
        let params = Arc::make_mut(&mut ctx.params);
        for (slot, value) in slots.iter().zip(key) {
            params[*slot] = value.clone();
        }
        match &equalities {
            Some(equalities) => ranges.extend(equalities.range(ctx)),
            None => ranges.extend(build_key_ranges(spec, table, index, ctx)),
        }
    }
    merge(&mut ranges);
    ranges
}

/// Sorts ranges and joins those that overlap or touch, except single keys.
fn merge(ranges: &mut Vec<KeyRange>) {
    ranges.sort_by(|a, b| a.start.cmp(&b.start));
    ranges.dedup_by(|range, before| {
        let apart = !before.end.is_empty() && before.end <= range.start;
        if !apart && !before.end.is_empty() && (range.end.is_empty() || before.end < range.end) {
            before.end = range.end.clone();
        }
        !apart
    });
}

/// Conditions that set each of the first columns of a key equal to one value.
struct Equalities<'s> {
    table: &'s TableInfo,
    columns: &'s [RangeColumn],
    /// Constants and parameters, by column.
    values: Vec<&'s Expr>,
    prefix: Vec<u8>,
    place: Place,
}

/// What equal values name.
enum Place {
    /// The row of an integer handle.
    IntHandle,
    /// The row of a clustered primary key.
    CommonHandle,
    /// The entry of a unique index.
    Entry,
    /// Whatever begins with them.
    Prefix,
}

impl<'s> Equalities<'s> {
    fn of(
        spec: &'s RangeSpec,
        table: &'s TableInfo,
        index: Option<&IndexInfo>,
    ) -> Option<Equalities<'s>> {
        let mut found: Vec<Option<&Expr>> = vec![None; spec.columns.len()];
        for condition in &spec.conditions {
            let Some((Func::Eq, [a, b])) = condition.as_function() else { return None };
            let (at, value) = match (a.as_column(), b.as_column()) {
                (Some(at), None) => (at, b),
                (None, Some(at)) => (at, a),
                _ => return None,
            };
            let is_plain = matches!(value, Expr::Constant { .. } | Expr::Param { .. });
            if !is_plain || spec.columns[at].prefix_length.is_some() {
                return None;
            }
            if found[at].replace(value).is_some() {
                return None;
            }
        }
        let values: Vec<&Expr> = found.iter().map_while(|value| *value).collect();
        if values.len() != spec.conditions.len() {
            return None;
        }
        let is_whole = values.len() == spec.columns.len();
        let place = match index {
            None if !table.common_handle => Place::IntHandle,
            None if is_whole => Place::CommonHandle,
            Some(index) if is_whole && index.unique => Place::Entry,
            _ => Place::Prefix,
        };
        let prefix = match index {
            Some(index) => index_prefix(table.id, index.id),
            None => row_prefix(table.id),
        };
        Some(Equalities { table, columns: &spec.columns, values, prefix, place })
    }

    /// The keys with this run's parameters; `None` if no row can have the values.
    fn range(&self, ctx: &EvalContext) -> Option<KeyRange> {
        let mut key = match self.place {
            Place::CommonHandle => Vec::new(),
            _ => self.prefix.clone(),
        };
        for (value, column) in self.values.iter().zip(self.columns) {
            let value = match value {
                Expr::Constant { value, .. } => value.clone(),
                Expr::Param { index, .. } => ctx.params.get(*index)?.clone(),
                _ => return None,
            };
            let value = stored_value(value, &column.ty, &ctx.time_zone)?;
            match (&self.place, &value) {
                (Place::IntHandle, Datum::Int(handle)) => encode_i64(&mut key, *handle),
                // An unsigned handle is kept bit for bit.
                (Place::IntHandle, Datum::UInt(handle)) => encode_i64(&mut key, *handle as i64),
                (Place::IntHandle, _) => return None,
                _ => encode_datum_key(&mut key, &value.as_ref(), &column.ty),
            }
        }
        Some(match self.place {
            Place::IntHandle | Place::Entry => KeyRange::point(&key),
            Place::CommonHandle => {
                KeyRange::point(&encode_row_key(self.table.id, &Handle::common(key)))
            }
            Place::Prefix => {
                let end = prefix_next(&key);
                KeyRange::new(key, end)
            }
        })
    }
}
