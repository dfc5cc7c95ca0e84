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

/// Ranges of one look-up, and bytes of them, after which it takes no more keys: an IN list of a
/// thousand values beside the key makes a thousand ranges of each.
const RANGES_MAX: usize = 16_384;
const BYTES_MAX: usize = 8 << 20;

/// The raw key ranges of a scan's runs, each with the values of one key in `slots`.
pub struct LookupRanges<'s> {
    spec: &'s RangeSpec,
    table: &'s TableInfo,
    index: Option<&'s IndexInfo>,
    slots: &'s [usize],
    equalities: Option<Equalities<'s>>,
    ranges: Vec<KeyRange>,
    bytes: usize,
}

impl<'s> LookupRanges<'s> {
    /// None yet.
    pub fn new(
        spec: &'s RangeSpec,
        table: &'s TableInfo,
        index: Option<&'s IndexInfo>,
        slots: &'s [usize],
    ) -> LookupRanges<'s> {
        let equalities = Equalities::of(spec, table, index);
        LookupRanges { spec, table, index, slots, equalities, ranges: Vec::new(), bytes: 0 }
    }

    /// Adds those of a key.
    pub fn add(&mut self, key: &[Datum], ctx: &mut EvalContext) {
        let params = Arc::make_mut(&mut ctx.params);
        for (slot, value) in self.slots.iter().zip(key) {
            params[*slot] = value.clone();
        }
        let known = self.ranges.len();
        match &self.equalities {
            Some(equalities) => self.ranges.extend(equalities.range(ctx)),
            None => self.ranges.extend(build_key_ranges(self.spec, self.table, self.index, ctx)),
        }
        let bytes = |range: &KeyRange| size_of::<KeyRange>() + range.start.len() + range.end.len();
        self.bytes += self.ranges[known..].iter().map(bytes).sum::<usize>();
    }

    /// Whether the rest of the keys are left to another look-up.
    pub fn is_full(&self) -> bool {
        self.ranges.len() >= RANGES_MAX || self.bytes >= BYTES_MAX
    }

    /// Memory that they take.
    pub fn memory_bytes(&self) -> usize {
        self.bytes
    }

    /// In key order, none overlapping another.
    pub fn finish(mut self) -> Vec<KeyRange> {
        merge(&mut self.ranges);
        self.ranges
    }
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

#[cfg(test)]
mod tests {
    use cairn_types::{FieldType, IndexId};

    use super::*;
    use crate::catalog::IndexColumn;

    #[test]
    fn a_look_up_takes_no_more_keys_when_it_is_full() {
        let int = FieldType::int;
        let column = RangeColumn { ty: int(), prefix_length: None };
        let equal = vec![Expr::column(0, int()), Expr::param(0, int())];
        let members = (0..1_000).map(|n| Expr::constant(Datum::Int(n * 2)));
        let one_of = [Expr::column(1, int())].into_iter().chain(members).collect();
        let conditions = vec![
            Expr::function(Func::Eq, equal, FieldType::bigint()),
            Expr::function(Func::In, one_of, FieldType::bigint()),
        ];
        let spec = RangeSpec::new(vec![column.clone(), column], conditions);
        let part = |offset| IndexColumn { offset, prefix_length: None };
        let index = IndexInfo {
            id: IndexId(1),
            name: "ab".to_owned(),
            columns: vec![part(0), part(1)],
            unique: false,
            primary: false,
            invisible: false,
            comment: String::new(),
            state: Default::default(),
        };
        let table = TableInfo::new(1, "t");
        let mut ctx = EvalContext::default();
        ctx.params = vec![Datum::Null].into();
        let mut lookup = LookupRanges::new(&spec, &table, Some(&index), &[0]);
        let mut keys = 0;
        while !lookup.is_full() {
            lookup.add(&[Datum::Int(keys)], &mut ctx);
            keys += 1;
        }
        assert_eq!(keys, 17);
        assert!(lookup.memory_bytes() > 17_000 * 2 * "the prefix of an index".len());
        assert_eq!(lookup.finish().len(), 17_000);
    }
}
