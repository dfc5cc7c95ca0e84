//! Gathers what statistics are made of, see [`crate::sample`].
//!
//! Of every chunk the keys of all sampled columns are made once: they are counted, hashed into the
//! sketches, and copied for the rows that the sample takes. The answer comes at the end, in parts
//! of a quarter of a mebibyte.
//!
//! **Cost**: rows × (keys of the columns + hashes of columns and groups); memory: the sample and the
//! sketches, both bounded.

use std::collections::VecDeque;

use async_trait::async_trait;
use bytes::Bytes;
use cairn_proto::cop;
use cairn_types::codec::encode_datum_key;
use cairn_types::{Chunk, Column, DatumRef, FieldType};
use prost::Message;

use crate::batch;
use crate::context::ExecContext;
use crate::error::Result;
use crate::memory::OperatorMemory;
use crate::operator::{BoxOperator, Operator};
use crate::plan::SampleDesc;
use crate::sample::sketch::{HASH_START, Weights, combine, hash_bytes, mix};
use crate::sample::{
    self, Counts, Reservoir, SAMPLE_BYTES_MAX, SampledRow, VALUE_BYTES_MAX, has_texts,
};

/// About how large a part is at most.
const PART_BYTES: usize = 256 << 10;
/// Stands for NULL in the hash of a group.
const NULL_HASH: u64 = 0x6e75_6c6c;

/// See [`SampleDesc`].
pub struct Sample {
    input: Option<BoxOperator>,
    schema: Vec<FieldType>,
    desc: SampleDesc,
    columns: Vec<SampledColumn>,
    groups: Vec<Counts>,
    start_key: Bytes,
    rows: u64,
    weights: Weights,
    reservoir: Reservoir,
    memory: OperatorMemory,
    ctx: ExecContext,
    parts: VecDeque<Vec<u8>>,
}

/// One column, and its values in the chunk at hand.
struct SampledColumn {
    ty: FieldType,
    prefix_chars: Option<usize>,
    has_texts: bool,
    counts: Counts,
    keys: Vec<u8>,
    /// Where each row's key ends in `keys`.
    ends: Vec<usize>,
    /// Per row; `None` is NULL.
    hashes: Vec<Option<u64>>,
}

impl Sample {
    /// Samples `input`, whose ranges begin at `start_key`.
    pub fn new(
        input: BoxOperator,
        desc: &SampleDesc,
        start_key: Bytes,
        ctx: ExecContext,
    ) -> Result<Sample> {
        sample::check(desc, input.schema())?;
        let columns = desc.columns.iter().map(|column| {
            let ty = input.schema()[column.input].clone();
            SampledColumn {
                has_texts: has_texts(&ty),
                ty,
                prefix_chars: column.prefix_chars.map(|chars| chars as usize),
                counts: Counts::default(),
                keys: Vec::new(),
                ends: Vec::new(),
                hashes: Vec::new(),
            }
        });
        Ok(Sample {
            columns: columns.collect(),
            groups: desc.groups.iter().map(|_| Counts::default()).collect(),
            // Tasks must not draw the same weights for their first rows.
            weights: Weights::new(desc.seed ^ hash_bytes(HASH_START, &start_key)),
            reservoir: Reservoir::new(desc.sample_rows, desc.weight_min, SAMPLE_BYTES_MAX),
            input: Some(input),
            schema: vec![sample::part_type()],
            desc: desc.clone(),
            start_key,
            rows: 0,
            memory: ctx.account("Sample"),
            ctx,
            parts: VecDeque::new(),
        })
    }

    fn add(&mut self, chunk: &Chunk) -> Result<()> {
        for (column, desc) in self.columns.iter_mut().zip(&self.desc.columns) {
            column.add(chunk, &chunk.columns[desc.input]);
        }
        let rows = chunk.num_selected();
        for (counts, group) in self.groups.iter_mut().zip(&self.desc.groups) {
            for at in 0..rows {
                let hashes = group.iter().map(|column| self.columns[*column].hashes[at]);
                if hashes.clone().all(|hash| hash.is_none()) {
                    counts.null_count += 1;
                    continue;
                }
                let hash =
                    hashes.fold(HASH_START, |hash, next| combine(hash, next.unwrap_or(NULL_HASH)));
                counts.distinct.insert(mix(hash));
            }
        }
        for (at, row) in chunk.selected().enumerate() {
            let weight = self.weights.draw();
            if self.reservoir.takes(weight) {
                self.reservoir.add(self.sampled(chunk, at, row, weight));
            }
            self.rows += 1;
        }
        let sketches = self.columns.iter().map(|column| &column.counts).chain(&self.groups);
        let sketches: usize = sketches.map(|counts| counts.distinct.bytes()).sum();
        self.memory.set((self.reservoir.bytes() + sketches) as u64)
    }

    /// Row `row` of the chunk, the `at`th selected one.
    fn sampled(&self, chunk: &Chunk, at: usize, row: usize, weight: u64) -> SampledRow {
        let text = |(column, input): (&SampledColumn, usize)| match column.has_texts {
            true => Bytes::copy_from_slice(column.text(&chunk.columns[input], row)),
            false => Bytes::new(),
        };
        let inputs = self.desc.columns.iter().map(|desc| desc.input);
        SampledRow {
            weight,
            place: (self.start_key.clone(), self.rows),
            keys: self.columns.iter().map(|column| column.key(at)).collect(),
            texts: self.columns.iter().zip(inputs).map(text).collect(),
        }
    }

    /// Makes the parts.
    fn finish(&mut self) {
        if self.rows == 0 {
            return;
        }
        let empty = cop::SamplePart {
            start_key: self.start_key.clone(),
            weight_min: self.reservoir.floor(),
            ..Default::default()
        };
        let mut part = cop::SamplePart { rows: self.rows, ..empty.clone() };
        let mut part_bytes = 0;
        let mut parts = VecDeque::new();
        let mut make_room = |part: &mut cop::SamplePart, bytes: usize| {
            part_bytes += bytes;
            if part_bytes > PART_BYTES {
                parts.push_back(std::mem::replace(part, empty.clone()).encode_to_vec());
                part_bytes = bytes;
            }
        };
        let columns = self.columns.drain(..).map(|column| column.counts);
        for (of, counts) in (0..).zip(columns.chain(self.groups.drain(..))) {
            let counts = cop::SampleCounts {
                of,
                null_count: counts.null_count,
                total_bytes: counts.total_bytes,
                sketch_level: counts.distinct.level(),
                sketch_hashes: counts.distinct.hashes().collect(),
            };
            make_room(&mut part, counts.encoded_len());
            part.counts.push(counts);
        }
        let reservoir = std::mem::replace(&mut self.reservoir, Reservoir::new(0, 0, 0));
        for row in reservoir.into_rows() {
            let row = cop::SampledRow {
                weight: row.weight,
                position: row.place.1,
                keys: row.keys,
                texts: row.texts,
            };
            make_room(&mut part, row.encoded_len());
            part.sample.push(row);
        }
        parts.push_back(part.encode_to_vec());
        self.parts = parts;
    }
}

impl SampledColumn {
    /// Keys and hashes of a chunk's rows.
    fn add(&mut self, chunk: &Chunk, values: &Column) {
        self.keys.clear();
        self.ends.clear();
        self.hashes.clear();
        for row in chunk.selected() {
            let start = self.keys.len();
            let value = values.get(row);
            self.counts.total_bytes += stored_bytes(&value);
            let value = match value {
                DatumRef::Bytes(_) => DatumRef::Bytes(self.text(values, row)),
                other => other,
            };
            encode_datum_key(&mut self.keys, &value, &self.ty);
            self.ends.push(self.keys.len());
            if matches!(value, DatumRef::Null) {
                self.counts.null_count += 1;
                self.hashes.push(None);
                continue;
            }
            let hash = hash_bytes(HASH_START, &self.keys[start..]);
            self.counts.distinct.insert(hash);
            self.hashes.push(Some(hash));
        }
    }

    /// What counts of a text.
    fn text<'a>(&self, values: &'a Column, row: usize) -> &'a [u8] {
        let DatumRef::Bytes(text) = values.get(row) else { return &[] };
        let text = match self.prefix_chars {
            Some(chars) => cairn_types::text::prefix(text, chars, self.ty.is_binary_string()),
            None => text,
        };
        if text.len() <= VALUE_BYTES_MAX {
            return text;
        }
        // All text is UTF-8: half a character would not be.
        let is_end = |at: &usize| self.ty.is_binary_string() || text[*at] & 0xc0 != 0x80;
        let end = (VALUE_BYTES_MAX - 3..=VALUE_BYTES_MAX).rev().find(is_end);
        &text[..end.unwrap_or(VALUE_BYTES_MAX)]
    }

    /// The key of the chunk's `at`th selected row.
    fn key(&self, at: usize) -> Bytes {
        let start = if at == 0 { 0 } else { self.ends[at - 1] };
        Bytes::copy_from_slice(&self.keys[start..self.ends[at]])
    }
}

/// Bytes of a value in a row, about.
fn stored_bytes(value: &DatumRef<'_>) -> u64 {
    match value {
        DatumRef::Null => 0,
        DatumRef::Bytes(text) => text.len() as u64,
        DatumRef::Float(_) => 4,
        DatumRef::Decimal(decimal) => u64::from(decimal.precision()).div_ceil(2),
        _ => 8,
    }
}

#[async_trait]
impl Operator for Sample {
    fn schema(&self) -> &[FieldType] {
        &self.schema
    }

    async fn next(&mut self) -> Result<Option<Chunk>> {
        while let Some(input) = &mut self.input {
            self.ctx.check()?;
            match input.next().await? {
                Some(chunk) => self.add(&chunk)?,
                None => {
                    self.input = None;
                    self.finish();
                }
            }
        }
        self.ctx.check()?;
        let Some(part) = self.parts.pop_front() else {
            self.memory.clear();
            return Ok(None);
        };
        let mut column = Column::new(&self.schema[0], 1);
        column.push_bytes(&part);
        Ok(Some(batch::from_columns(vec![column], 1)))
    }
}
