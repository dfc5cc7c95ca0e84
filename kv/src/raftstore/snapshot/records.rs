//! A region's data as chunks of records: how stores in memory pass it on.
//!
//! **Data.** A chunk is a run of records; the last chunk is a trailer.
//! ```text
//! record:  cf (0..=2), key length u32 LE, value length u32 LE, key, value
//! trailer: 0xff, number of records u64 LE
//! ```

use std::sync::Arc;

use bytes::Bytes;
use cairn_engine::{Cf, EngineIterator, EngineSnapshot, IterOptions};
use cairn_proto::meta;
use cairn_types::sabotage::{Bug, planted};

use super::{CHUNK_BYTES, CHUNK_BYTES_MAX, SnapshotData};
use crate::keys;
use crate::raftstore::error::RaftStoreError;

/// Snapshots held in memory may not be larger.
const MEMORY_SPOOL_BYTES_MAX: usize = 512 * 1024 * 1024;
const TRAILER: u8 = 0xff;

/// Reads a region's data as chunks.
pub struct SnapshotReader {
    engine: Arc<dyn EngineSnapshot>,
    lower: Bytes,
    upper: Bytes,
    cf_position: usize,
    iterator: Option<Box<dyn EngineIterator + Send>>,
    records: u64,
    finished: bool,
}

impl SnapshotReader {
    /// Reads the region as of the engine snapshot.
    pub fn new(engine: Arc<dyn EngineSnapshot>, region: &meta::Region) -> SnapshotReader {
        let (lower, upper) = keys::region_data_range(region);
        SnapshotReader {
            engine,
            lower: lower.into(),
            upper: upper.into(),
            cf_position: 0,
            iterator: None,
            records: 0,
            finished: false,
        }
    }

    /// The next chunk; `None` after the trailer.
    pub fn next_chunk(&mut self) -> Result<Option<Bytes>, RaftStoreError> {
        if self.finished {
            return Ok(None);
        }
        let mut chunk = Vec::with_capacity(CHUNK_BYTES + CHUNK_BYTES / 4);
        while chunk.len() < CHUNK_BYTES && self.cf_position < Cf::ALL.len() {
            let cf = Cf::ALL[self.cf_position];
            if cf == Cf::Lock && planted(Bug::SnapshotWithoutLocks) {
                self.cf_position += 1;
                continue;
            }
            if self.iterator.is_none() {
                let mut options = IterOptions::range(self.lower.clone(), self.upper.clone());
                options.skip_cache = true;
                let mut iterator = self.engine.iter(cf, options);
                iterator.seek_to_first()?;
                self.iterator = Some(iterator);
            }
            let Some(iterator) = self.iterator.as_mut().filter(|iterator| iterator.valid()) else {
                self.iterator = None;
                self.cf_position += 1;
                continue;
            };
            push_record(&mut chunk, cf, iterator.key(), iterator.value())?;
            self.records += 1;
            iterator.next()?;
        }
        if chunk.is_empty() {
            chunk.push(TRAILER);
            chunk.extend_from_slice(&self.records.to_le_bytes());
            self.finished = true;
        }
        Ok(Some(Bytes::from(chunk)))
    }
}

fn push_record(
    chunk: &mut Vec<u8>,
    cf: Cf,
    key: &[u8],
    value: &[u8],
) -> Result<(), RaftStoreError> {
    let length = |bytes: &[u8]| {
        u32::try_from(bytes.len()).map_err(|_| RaftStoreError::Corrupted("record beyond 4 GiB"))
    };
    chunk.push(cf.to_u8());
    chunk.extend_from_slice(&length(key)?.to_le_bytes());
    chunk.extend_from_slice(&length(value)?.to_le_bytes());
    chunk.extend_from_slice(key);
    chunk.extend_from_slice(value);
    Ok(())
}

/// Hands every record of a chunk to `visit`; answers the trailer's count, if it is one.
pub(super) fn read_chunk(
    chunk: &Bytes,
    mut visit: impl FnMut(Cf, Bytes, Bytes) -> Result<(), RaftStoreError>,
) -> Result<Option<u64>, RaftStoreError> {
    const SHORT: RaftStoreError = RaftStoreError::Corrupted("snapshot: short record");
    let mut rest = chunk.clone();
    if rest.first() == Some(&TRAILER) {
        let count: [u8; 8] = rest[1..].try_into().map_err(|_| SHORT)?;
        return Ok(Some(u64::from_le_bytes(count)));
    }
    while !rest.is_empty() {
        if rest.len() < 9 {
            return Err(SHORT);
        }
        let head = rest.split_to(9);
        let cf = Cf::from_u8(head[0]).ok_or(RaftStoreError::Corrupted("snapshot: cf"))?;
        let length = |at: usize| {
            u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]) as usize
        };
        let (key_length, value_length) = (length(1), length(5));
        if rest.len() < key_length.saturating_add(value_length) {
            return Err(SHORT);
        }
        let key = rest.split_to(key_length);
        let value = rest.split_to(value_length);
        visit(cf, key, value)?;
    }
    Ok(None)
}

/// Collects the chunks of one Raft snapshot in memory and checks them.
#[derive(Default)]
pub struct SnapshotSpool {
    chunks: Vec<Bytes>,
    bytes: usize,
    records: u64,
    complete: bool,
}

impl SnapshotSpool {
    /// Nothing has come yet.
    pub fn memory() -> SnapshotSpool {
        SnapshotSpool::default()
    }

    /// Takes one chunk.
    pub fn push(&mut self, chunk: Bytes, checksum: u32) -> Result<(), RaftStoreError> {
        if self.complete || chunk.len() > CHUNK_BYTES_MAX {
            return Err(RaftStoreError::Corrupted("snapshot: unexpected chunk"));
        }
        if crc32fast::hash(&chunk) != checksum {
            return Err(RaftStoreError::Corrupted("snapshot: checksum"));
        }
        let mut records = 0;
        let trailer = read_chunk(&chunk, |_, _, _| {
            records += 1;
            Ok(())
        })?;
        if let Some(count) = trailer {
            if count != self.records {
                return Err(RaftStoreError::Corrupted("snapshot: records are missing"));
            }
            self.complete = true;
            return Ok(());
        }
        self.records += records;
        self.bytes += chunk.len();
        if self.bytes > MEMORY_SPOOL_BYTES_MAX {
            return Err(RaftStoreError::Corrupted("snapshot: too large for memory"));
        }
        self.chunks.push(chunk);
        Ok(())
    }

    /// The data; an error if the stream broke off.
    pub fn finish(self) -> Result<SnapshotData, RaftStoreError> {
        match self.complete {
            true => Ok(SnapshotData::Memory(self.chunks)),
            false => Err(RaftStoreError::Corrupted("snapshot: stream broke off")),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn random_chunks_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = read_chunk(&Bytes::from(bytes), |_, _, _| Ok(()));
        }
    }
}
