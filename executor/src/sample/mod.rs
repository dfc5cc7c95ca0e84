//! What statistics are made of: gathered where rows are read, merged where they are asked for.
//!
//! ```text
//!  store:  TableScan ─► Sample ─► parts (bytes)     one set of parts per task
//!  SQL node:  SampleMerger.add(part)* ─► finish() ─► Sampled
//! ```
//!
//! **Counts** are of all rows: their number, NULLs and bytes of each column, different values of
//! each column and each group of columns ([`DistinctSketch`]).
//!
//! **Sample.** Every row draws a random weight of 64 bits; the sample is the rows of the largest
//! weights (A-Res of Efraimidis and Spirakis, with equal chances). So samples of parts merge: the
//! largest weights of all are among the largest of each. What a task leaves out to
//! save memory, or because only a fraction of rows is wanted, is a *floor*: rows of this weight or less
//! may be missing, and the merged sample has none below the highest floor.
//!
//! **Values** stand as memcomparable keys, text as its collation's sort key. Of a long value only the
//! first [`VALUE_BYTES_MAX`] bytes count, so that values with a longer common beginning are taken for
//! one. Where the key does not tell the text, the text comes along.

pub mod sketch;
#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use bytes::Bytes;
use cairn_proto::cop;
use cairn_types::codec::key_is_restorable;
use cairn_types::{FieldType, PhysicalKind};
use prost::Message;

use crate::error::{ExecError, Result};
use crate::plan::SampleDesc;
use crate::plan::fragment::FRAGMENT_COLUMNS_MAX;
pub use sketch::DistinctSketch;

/// Of a value, so many bytes count at most.
pub const VALUE_BYTES_MAX: usize = 256;
/// Rows of a sample at most, whatever is asked for.
pub const SAMPLE_ROWS_MAX: u32 = 1_000_000;
/// Bytes of one sample; beyond them its floor rises.
pub const SAMPLE_BYTES_MAX: usize = 64 << 20;
/// Bytes of a sampled row beside its keys.
const ROW_BYTES: usize = 96;
/// Bytes of one key beside itself.
const KEY_BYTES: usize = 40;

/// Type of the one column of the operator's output.
pub(crate) fn part_type() -> FieldType {
    FieldType::blob()
}

/// Whether the values of a column travel beside their keys, for people to read.
pub fn has_texts(ty: &FieldType) -> bool {
    ty.physical() == PhysicalKind::Bytes && !key_is_restorable(ty)
}

/// Checks a request over input of these types.
pub(crate) fn check(desc: &SampleDesc, input: &[FieldType]) -> Result<()> {
    let places = desc.groups.iter().map(Vec::len).sum::<usize>();
    if desc.columns.len() > FRAGMENT_COLUMNS_MAX || places > FRAGMENT_COLUMNS_MAX {
        return Err(ExecError::invalid_plan("too many columns to sample"));
    }
    for column in &desc.columns {
        match input.get(column.input).map(FieldType::physical) {
            None => return Err(ExecError::invalid_plan("a sample names a missing column")),
            Some(PhysicalKind::Json) => {
                return Err(ExecError::invalid_plan("JSON cannot be sampled"));
            }
            Some(_) => {}
        }
    }
    let known = |at: &usize| *at < desc.columns.len();
    if !desc.groups.iter().all(|group| group.iter().all(known)) {
        return Err(ExecError::invalid_plan("a group of a sample names a missing column"));
    }
    Ok(())
}

/// What was counted of a column or a group.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Rows in which it, or all of the group, is NULL.
    pub null_count: u64,
    /// Bytes of all values; of a group none are counted.
    pub total_bytes: u64,
    /// Different values besides NULL; of a group, combinations that are not all NULL.
    pub distinct: DistinctSketch,
}

/// A row of the sample.
#[derive(Clone, Debug)]
pub struct SampledRow {
    /// Its random weight.
    pub weight: u64,
    /// Where the ranges began in which it was found, and its place there: the order of handles.
    pub place: (Bytes, u64),
    /// Per column: the value's memcomparable key.
    pub keys: Vec<Bytes>,
    /// Per column: the value where [`has_texts`], else empty.
    pub texts: Vec<Bytes>,
}

impl SampledRow {
    fn bytes(&self) -> usize {
        let all = self.keys.iter().chain(&self.texts);
        ROW_BYTES + all.map(|value| value.len() + KEY_BYTES).sum::<usize>()
    }
}

impl PartialEq for SampledRow {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for SampledRow {}

impl PartialOrd for SampledRow {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for SampledRow {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.weight, &self.place).cmp(&(other.weight, &other.place))
    }
}

/// The rows of the largest weights.
#[derive(Debug)]
pub struct Reservoir {
    /// The smallest weight first.
    rows: BinaryHeap<Reverse<SampledRow>>,
    rows_max: usize,
    bytes_max: usize,
    bytes: usize,
    floor: u64,
}

impl Reservoir {
    /// An empty one, of rows above the floor.
    pub fn new(rows_max: u32, floor: u64, bytes_max: usize) -> Reservoir {
        let rows_max = rows_max.min(SAMPLE_ROWS_MAX) as usize;
        Reservoir { rows: BinaryHeap::new(), rows_max, bytes_max, bytes: 0, floor }
    }

    /// Whether a row of this weight is taken.
    #[inline]
    pub fn takes(&self, weight: u64) -> bool {
        weight > self.floor
            && (self.rows.len() < self.rows_max
                || self.rows.peek().is_some_and(|smallest| weight > smallest.0.weight))
    }

    /// Takes a row in.
    pub fn add(&mut self, row: SampledRow) {
        if !self.takes(row.weight) {
            return;
        }
        self.bytes += row.bytes();
        self.rows.push(Reverse(row));
        if self.rows.len() > self.rows_max {
            self.drop_smallest();
        }
        while self.bytes > self.bytes_max && self.rows.len() > 1 {
            if let Some(weight) = self.drop_smallest() {
                self.floor = self.floor.max(weight);
            }
        }
    }

    /// Rows of this weight or less are missing elsewhere.
    pub fn raise_floor(&mut self, floor: u64) {
        self.floor = self.floor.max(floor);
        while self.rows.peek().is_some_and(|smallest| smallest.0.weight <= self.floor) {
            self.drop_smallest();
        }
    }

    fn drop_smallest(&mut self) -> Option<u64> {
        let Reverse(row) = self.rows.pop()?;
        self.bytes -= row.bytes();
        Some(row.weight)
    }

    /// Rows of this weight or less may be missing.
    pub fn floor(&self) -> u64 {
        self.floor
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The rows in any order.
    pub fn into_rows(self) -> impl Iterator<Item = SampledRow> {
        self.rows.into_iter().map(|row| row.0)
    }
}

/// All that was gathered of a table.
#[derive(Debug)]
pub struct Sampled {
    /// Rows read.
    pub rows: u64,
    /// Of each column.
    pub columns: Vec<Counts>,
    /// Of each group.
    pub groups: Vec<Counts>,
    /// The sample, in the order of handles.
    pub sample: Vec<SampledRow>,
}

/// Merges parts.
#[derive(Debug)]
pub struct SampleMerger {
    columns: usize,
    counts: Vec<Counts>,
    rows: u64,
    reservoir: Reservoir,
}

impl SampleMerger {
    /// For the parts of this request.
    pub fn new(desc: &SampleDesc) -> SampleMerger {
        let counts = desc.columns.len() + desc.groups.len();
        SampleMerger {
            columns: desc.columns.len(),
            counts: (0..counts).map(|_| Counts::default()).collect(),
            rows: 0,
            reservoir: Reservoir::new(desc.sample_rows, desc.weight_min, SAMPLE_BYTES_MAX),
        }
    }

    /// Adds a part: a row of the operator's output.
    pub fn add(&mut self, part: &[u8]) -> Result<()> {
        let damaged = ExecError::Corrupted("a part of a sample does not decode");
        let Ok(part) = cop::SamplePart::decode(part) else { return Err(damaged) };
        self.rows += part.rows;
        for counts in &part.counts {
            let Some(to) = self.counts.get_mut(counts.of as usize) else { return Err(damaged) };
            to.null_count += counts.null_count;
            to.total_bytes += counts.total_bytes;
            let hashes = counts.sketch_hashes.iter().copied();
            to.distinct.merge(&DistinctSketch::from_parts(counts.sketch_level, hashes));
        }
        self.reservoir.raise_floor(part.weight_min);
        for row in part.sample {
            if row.keys.len() != self.columns || row.texts.len() != self.columns {
                return Err(damaged);
            }
            self.reservoir.add(SampledRow {
                weight: row.weight,
                place: (part.start_key.clone(), row.position),
                // Not slices of the part, which would keep all of it in memory.
                keys: row.keys.iter().map(|key| Bytes::copy_from_slice(key)).collect(),
                texts: row.texts.iter().map(|text| Bytes::copy_from_slice(text)).collect(),
            });
        }
        Ok(())
    }

    /// Rows read so far.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        let sketches = self.counts.iter().map(|counts| counts.distinct.bytes());
        self.reservoir.bytes() + sketches.sum::<usize>()
    }

    /// Everything that was added.
    pub fn finish(mut self) -> Sampled {
        let groups = self.counts.split_off(self.columns);
        let mut sample: Vec<SampledRow> = self.reservoir.into_rows().collect();
        sample.sort_unstable_by(|a, b| a.place.cmp(&b.place));
        Sampled { rows: self.rows, columns: self.counts, groups, sample }
    }
}
