//! Helpers for tests, also those of other crates: a row source in memory, temporary files in
//! memory that fail on request.
//!
//! Always compiled (no feature): it is small, and a feature would split every
//! test build.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use cairn_types::{Datum, FieldType};
use parking_lot::Mutex;

use crate::error::Result;
use crate::operator::{BoxOperator, Operator};
use crate::source::{KeyRange, KvBatch, KvScan, KvSource, RowRead};
use crate::spill::{TempFile, TempStorage};

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

/// What is wrong with a disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DiskFault {
    /// Nothing.
    #[default]
    None,
    /// No file can be made.
    Create,
    /// It is full after so many writes.
    Full(usize),
    /// Files are shorter than what was written.
    ShortRead,
    /// A bit of what is read is wrong.
    Corrupt,
}

/// Temporary files in memory.
#[derive(Debug, Default)]
pub struct MemoryStorage {
    fault: DiskFault,
    counts: Arc<StorageCounts>,
}

#[derive(Debug, Default)]
struct StorageCounts {
    open: AtomicUsize,
    writes: AtomicUsize,
}

impl MemoryStorage {
    /// With a fault.
    pub fn with_fault(fault: DiskFault) -> MemoryStorage {
        MemoryStorage { fault, counts: Arc::default() }
    }

    /// Files that are there now.
    pub fn open_files(&self) -> usize {
        self.counts.open.load(Ordering::SeqCst)
    }

    /// Writes so far.
    pub fn writes(&self) -> usize {
        self.counts.writes.load(Ordering::SeqCst)
    }
}

impl TempStorage for MemoryStorage {
    fn create(&self) -> io::Result<Arc<dyn TempFile>> {
        if self.fault == DiskFault::Create {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        self.counts.open.fetch_add(1, Ordering::SeqCst);
        let counts = Arc::clone(&self.counts);
        Ok(Arc::new(StoredFile { bytes: Mutex::default(), fault: self.fault, counts }))
    }
}

struct StoredFile {
    bytes: Mutex<Vec<u8>>,
    fault: DiskFault,
    counts: Arc<StorageCounts>,
}

impl Drop for StoredFile {
    fn drop(&mut self) {
        self.counts.open.fetch_sub(1, Ordering::SeqCst);
    }
}

impl TempFile for StoredFile {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let writes = self.counts.writes.fetch_add(1, Ordering::SeqCst);
        if matches!(self.fault, DiskFault::Full(most) if writes >= most) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let (mut stored, start) = (self.bytes.lock(), offset as usize);
        let length = stored.len().max(start + bytes.len());
        stored.resize(length, 0);
        stored[start..start + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        let stored = self.bytes.lock();
        let end = offset as usize + bytes.len();
        let end = if self.fault == DiskFault::ShortRead { end + stored.len() } else { end };
        let read = stored.get(offset as usize..end).ok_or(io::ErrorKind::UnexpectedEof)?;
        bytes.copy_from_slice(read);
        if self.fault == DiskFault::Corrupt {
            bytes[0] ^= 1;
        }
        Ok(())
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
