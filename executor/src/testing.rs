//! Helpers for tests, also those of other crates: a row source in memory, and
//! tables and indexes written the way the SQL tier writes them.
//!
//! Always compiled (no feature): it is small, and a feature would split every
//! test build.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use cairn_types::{Datum, FieldType};

use crate::error::Result;
use crate::operator::{BoxOperator, Operator};
use crate::source::{KeyRange, KvBatch, KvScan, KvSource, RowRead};

/// An ordered map as a row source.
#[derive(Clone, Debug, Default)]
pub struct MemorySource {
    pairs: Arc<BTreeMap<Bytes, Bytes>>,
    remote: Arc<BTreeSet<Bytes>>,
}

impl MemorySource {
    /// A source of these pairs.
    pub fn new(pairs: impl IntoIterator<Item = (Vec<u8>, Vec<u8>)>) -> MemorySource {
        let pairs = pairs.into_iter().map(|(key, value)| (key.into(), value.into())).collect();
        MemorySource { pairs: Arc::new(pairs), remote: Arc::default() }
    }

    /// With keys that point reads answer with [`RowRead::Remote`].
    #[must_use]
    pub fn with_remote(mut self, keys: impl IntoIterator<Item = Vec<u8>>) -> MemorySource {
        self.remote = Arc::new(keys.into_iter().map(Bytes::from).collect());
        self
    }

    /// The source as operators take it.
    pub fn shared(self) -> Arc<dyn KvSource> {
        Arc::new(self)
    }
}

#[async_trait]
impl KvSource for MemorySource {
    async fn scan(&self, range: KeyRange, desc: bool) -> Result<Box<dyn KvScan>> {
        Ok(Box::new(MemoryScan { pairs: self.pairs.clone(), range, desc, done: false }))
    }

    async fn batch_get(&self, keys: &[Bytes]) -> Result<Vec<RowRead>> {
        let read = |key: &Bytes| {
            if self.remote.contains(key) {
                return RowRead::Remote;
            }
            self.pairs.get(key).cloned().map_or(RowRead::Missing, RowRead::Found)
        };
        Ok(keys.iter().map(read).collect())
    }
}

/// A scan that narrows its range as it goes.
struct MemoryScan {
    pairs: Arc<BTreeMap<Bytes, Bytes>>,
    range: KeyRange,
    desc: bool,
    done: bool,
}

#[async_trait]
impl KvScan for MemoryScan {
    async fn next_batch(&mut self, out: &mut KvBatch, limit: usize) -> Result<bool> {
        use std::ops::Bound::{Excluded, Included, Unbounded};
        let empty = !self.range.end.is_empty() && self.range.start >= self.range.end;
        if self.done || empty {
            return Ok(false);
        }
        let end = match self.range.end.is_empty() {
            true => Unbounded,
            false => Excluded(self.range.end.clone()),
        };
        let pairs = self.pairs.range((Included(self.range.start.clone()), end));
        let before = out.len();
        let mut last = None;
        let mut copy = |(key, value): (&Bytes, &Bytes)| {
            out.push(key, value);
            last = Some(key.clone());
        };
        match self.desc {
            false => pairs.take(limit).for_each(&mut copy),
            true => pairs.rev().take(limit).for_each(&mut copy),
        }
        match last {
            Some(key) if self.desc => self.range.end = key,
            Some(key) => self.range.start = KeyRange::point(&key).end,
            None => {}
        }
        // An empty range end means infinity: the key "" cannot be scanned past.
        self.done = out.len() - before < limit;
        Ok(!self.done)
    }
}

/// Runs an operator to its end; every row as owned values.
pub async fn collect_rows(mut operator: BoxOperator) -> Result<Vec<Vec<Datum>>> {
    let mut rows = Vec::new();
    while let Some(chunk) = operator.next().await? {
        assert_eq!(chunk.columns.len(), operator.schema().len(), "columns as announced");
        rows.extend(chunk.selected().map(|row| chunk.row(row)));
    }
    assert!(operator.next().await?.is_none(), "drained stays drained");
    Ok(rows)
}

/// A value as the text protocol prints it; `NULL` for NULL.
pub fn format_value(value: &Datum, ty: &FieldType) -> String {
    if value.is_null() {
        return "NULL".to_string();
    }
    let mut text = Vec::new();
    cairn_types::write_text(&mut text, value.as_ref(), ty);
    String::from_utf8_lossy(&text).into_owned()
}

/// Rows as lines of values.
pub fn format_rows(rows: &[Vec<Datum>], types: &[FieldType]) -> String {
    let mut text = String::new();
    for row in rows {
        let values: Vec<String> =
            row.iter().zip(types).map(|(value, ty)| format_value(value, ty)).collect();
        text.push_str(&values.join(" | "));
        text.push('\n');
    }
    text
}
