//! DISTINCT before any aggregate: rows whose values a group has seen are left out.
//!
//! One set holds `(group, key)` for all groups; keys are equal where SQL's `=`
//! says the values are.

use cairn_types::{Collation, Column, ColumnData, DatumRef};
use hashbrown::HashSet;

use super::{DistinctAgg, GroupedAgg};
use crate::context::EvalContext;
use crate::error::{ExprError, Result};

/// What hashing a set entry costs beside its bytes.
const ENTRY_BYTES: usize = 40;

pub(super) struct Distinct {
    inner: Box<dyn GroupedAgg>,
    collations: Vec<Collation>,
    integers: HashSet<(u32, i64), foldhash::fast::RandomState>,
    keys: HashSet<Box<[u8]>, foldhash::fast::RandomState>,
    key_bytes: usize,
}

impl Distinct {
    /// `collations` are those of the values; arguments after them are carried
    /// along.
    pub fn new(inner: Box<dyn GroupedAgg>, collations: Vec<Collation>) -> Distinct {
        Distinct {
            inner,
            collations,
            integers: HashSet::default(),
            keys: HashSet::default(),
            key_bytes: 0,
        }
    }

    /// Rows that bring something new.
    fn new_rows(&mut self, groups: &[u32], args: &[Column]) -> Vec<u32> {
        let values = &args[..self.collations.len()];
        let mut rows = Vec::new();
        if let [column] = values
            && let ColumnData::Int(integers) = column.data()
        {
            for (row, group) in groups.iter().enumerate() {
                if !column.is_null(row) && self.integers.insert((*group, integers[row])) {
                    rows.push(row as u32);
                }
            }
            return rows;
        }
        let mut key = Vec::new();
        for (row, group) in groups.iter().enumerate() {
            if values.iter().any(|column| column.is_null(row)) {
                continue;
            }
            self.write_entry(*group, values, row, &mut key);
            if !self.keys.contains(key.as_slice()) {
                self.key_bytes += key.len() + ENTRY_BYTES;
                self.keys.insert(key.as_slice().into());
                rows.push(row as u32);
            }
        }
        rows
    }

    /// Makes the entry of a row.
    fn write_entry(&self, group: u32, values: &[Column], row: usize, entry: &mut Vec<u8>) {
        entry.clear();
        entry.extend_from_slice(&group.to_le_bytes());
        for (column, collation) in values.iter().zip(&self.collations) {
            write_key(column.get(row), *collation, entry);
        }
    }
}

impl DistinctAgg for Distinct {
    fn unseen(&self, groups: &[u32], args: &[Column]) -> Vec<u32> {
        let values = &args[..self.collations.len()];
        let mut entry = Vec::new();
        let mut is_unseen = |row: usize, group: u32| {
            if values.iter().any(|column| column.is_null(row)) {
                return false;
            }
            if let [column] = values
                && let ColumnData::Int(integers) = column.data()
            {
                return !self.integers.contains(&(group, integers[row]));
            }
            self.write_entry(group, values, row, &mut entry);
            !self.keys.contains(entry.as_slice())
        };
        let rows = groups.iter().enumerate();
        rows.filter(|(row, group)| is_unseen(*row, **group)).map(|(row, _)| row as u32).collect()
    }

    fn forget_seen(&mut self) {
        self.integers = HashSet::default();
        self.keys = HashSet::default();
        self.key_bytes = 0;
    }

    fn update_unique(
        &mut self,
        groups: &[u32],
        args: &[Column],
        ctx: &mut EvalContext,
    ) -> Result<()> {
        self.inner.update(groups, args, ctx)
    }
}

/// Appends bytes that are the same for equal values of one kind.
pub(crate) fn write_key(value: DatumRef<'_>, collation: Collation, out: &mut Vec<u8>) {
    match value {
        DatumRef::Null => out.push(0),
        DatumRef::Int(value) => out.extend_from_slice(&value.to_le_bytes()),
        DatumRef::UInt(value) => out.extend_from_slice(&value.to_le_bytes()),
        DatumRef::Float(value) => {
            out.extend_from_slice(&(f64::from(value) + 0.0).to_bits().to_le_bytes());
        }
        // Adding 0 makes -0 a 0.
        DatumRef::Double(value) => out.extend_from_slice(&(value + 0.0).to_bits().to_le_bytes()),
        DatumRef::Time(value) => out.extend_from_slice(&(value.packed() >> 4).to_le_bytes()),
        DatumRef::Duration(value) => out.extend_from_slice(&value.micros().to_le_bytes()),
        DatumRef::Decimal(value) => {
            let start = out.len();
            value.normalized().write_to(out);
            let length = (out.len() - start) as u32;
            out.extend_from_slice(&length.to_le_bytes());
        }
        DatumRef::Bytes(value) => {
            let start = out.len();
            collation.sort_key(value, out);
            let length = (out.len() - start) as u32;
            out.extend_from_slice(&length.to_le_bytes());
        }
        DatumRef::Json(value) => {
            let start = out.len();
            value.encode_key(out);
            let length = (out.len() - start) as u32;
            out.extend_from_slice(&length.to_le_bytes());
        }
    }
}

impl GroupedAgg for Distinct {
    fn ensure_groups(&mut self, groups: usize) {
        self.inner.ensure_groups(groups);
    }

    fn update(&mut self, groups: &[u32], args: &[Column], ctx: &mut EvalContext) -> Result<()> {
        let rows = self.new_rows(groups, args);
        if rows.len() == groups.len() {
            return self.inner.update(groups, args, ctx);
        }
        let kept: Vec<Column> = args
            .iter()
            .map(|column| {
                let mut kept = column.empty_like(rows.len());
                kept.append_sel(column, Some(&rows));
                kept
            })
            .collect();
        let groups: Vec<u32> = rows.iter().map(|row| groups[*row as usize]).collect();
        self.inner.update(&groups, &kept, ctx)
    }

    fn merge_partial(
        &mut self,
        _groups: &[u32],
        _partial: &[Column],
        _ctx: &mut EvalContext,
    ) -> Result<()> {
        Err(ExprError::Internal("a DISTINCT aggregate cannot be split".into()))
    }

    fn write_partial(&mut self, _group: usize, _out: &mut [Column]) -> Result<()> {
        Err(ExprError::Internal("a DISTINCT aggregate cannot be split".into()))
    }

    fn write_final(&mut self, group: usize, out: &mut Column, ctx: &mut EvalContext) -> Result<()> {
        self.inner.write_final(group, out, ctx)
    }

    fn as_distinct(&mut self) -> Option<&mut dyn DistinctAgg> {
        Some(self)
    }

    fn memory_bytes(&self) -> usize {
        self.inner.memory_bytes()
            + self.integers.capacity() * size_of::<(u32, i64)>()
            + self.key_bytes
    }
}
