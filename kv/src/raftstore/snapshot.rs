//! Raft snapshots: a region's data as a checked stream, sent, spooled and installed.
//!
//! **Flow.** Sender: an engine snapshot → [`SnapshotReader`] → chunks with a CRC each.
//! Receiver: chunks → [`SnapshotSpool`] (a file, or memory for in-process clusters) →
//! [`install`], which replaces the region's data.
//!
//! **Data.** A chunk is a run of records; the last chunk is a trailer.
//! ```text
//! record:  cf (0..=2), key length u32 LE, value length u32 LE, key, value
//! trailer: 0xff, number of records u64 LE
//! file:    (chunk length u32 LE, chunk CRC u32 LE, chunk)…
//! ```
//!
//! **Invariants.** Nothing is installed before the whole stream arrived and was checked.
//! A crash while installing is finished at the next start: the spool file outlives it.
//!
//! **Left out.** Resuming a broken transfer: it starts anew.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use cairn_engine::{Cf, EngineIterator, EngineSnapshot, IterOptions, KvEngine, WriteBatch};
use cairn_proto::meta;
use cairn_types::sabotage::{Bug, planted};
use prost::Message;

use super::error::RaftStoreError;
use super::state::{self, ApplyState, PeerState, PendingSnapshot, RegionLocalState};
use crate::keys::{self, RegionLocal};

/// A chunk is closed once it holds this much.
const CHUNK_BYTES: usize = 512 * 1024;
/// No honest chunk is longer: one record may exceed `CHUNK_BYTES`.
const CHUNK_BYTES_MAX: usize = 64 * 1024 * 1024;
/// A batch of installed records.
const INSTALL_BATCH_BYTES: usize = 1024 * 1024;
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
fn read_chunk(
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

/// Data of a Raft snapshot that arrived whole.
#[derive(Debug)]
pub enum SnapshotData {
    /// Chunks in memory.
    Memory(Vec<Bytes>),
    /// Chunks in a file, which is removed once they are installed.
    File(PathBuf),
}

impl SnapshotData {
    fn for_each_chunk(
        &self,
        mut visit: impl FnMut(Bytes) -> Result<(), RaftStoreError>,
    ) -> Result<(), RaftStoreError> {
        match self {
            SnapshotData::Memory(chunks) => chunks.iter().cloned().try_for_each(visit),
            SnapshotData::File(path) => {
                let file = File::open(path)?;
                let mut left = file.metadata()?.len();
                let mut reader = BufReader::new(file);
                while left > 0 {
                    let mut head = [0; 8];
                    reader.read_exact(&mut head)?;
                    let length = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
                    let checksum = u32::from_le_bytes([head[4], head[5], head[6], head[7]]);
                    if length > CHUNK_BYTES_MAX {
                        return Err(RaftStoreError::Corrupted("snapshot file: length"));
                    }
                    let mut chunk = vec![0; length];
                    reader.read_exact(&mut chunk)?;
                    if crc32fast::hash(&chunk) != checksum {
                        return Err(RaftStoreError::Corrupted("snapshot file: checksum"));
                    }
                    visit(Bytes::from(chunk))?;
                    left = left.saturating_sub(8 + length as u64);
                }
                Ok(())
            }
        }
    }

    /// Forgets the data.
    pub fn discard(self) {
        if let SnapshotData::File(path) = self
            && let Err(error) = std::fs::remove_file(&path)
        {
            tracing::warn!(path = %path.display(), %error, "spool file stays behind");
        }
    }
}

enum SpoolTarget {
    Memory(Vec<Bytes>, usize),
    File(BufWriter<File>, PathBuf),
}

/// Collects the chunks of one Raft snapshot and checks them.
pub struct SnapshotSpool {
    target: SpoolTarget,
    records: u64,
    complete: bool,
}

impl SnapshotSpool {
    /// Collects in memory.
    pub fn memory() -> SnapshotSpool {
        SnapshotSpool { target: SpoolTarget::Memory(Vec::new(), 0), records: 0, complete: false }
    }

    /// Collects in a new file of the folder.
    pub fn file(dir: &Path, name: &str) -> Result<SnapshotSpool, RaftStoreError> {
        std::fs::create_dir_all(dir)?;
        let path = dir.join(name);
        let file = BufWriter::new(File::create(&path)?);
        Ok(SnapshotSpool { target: SpoolTarget::File(file, path), records: 0, complete: false })
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
        match &mut self.target {
            SpoolTarget::Memory(chunks, bytes) => {
                *bytes += chunk.len();
                if *bytes > MEMORY_SPOOL_BYTES_MAX {
                    return Err(RaftStoreError::Corrupted("snapshot: too large for memory"));
                }
                chunks.push(chunk);
            }
            SpoolTarget::File(file, _) => {
                file.write_all(&(chunk.len() as u32).to_le_bytes())?;
                file.write_all(&checksum.to_le_bytes())?;
                file.write_all(&chunk)?;
            }
        }
        Ok(())
    }

    /// The data, durable if it is a file; an error if the stream broke off.
    pub fn finish(self) -> Result<SnapshotData, RaftStoreError> {
        if !self.complete {
            return Err(RaftStoreError::Corrupted("snapshot: stream broke off"));
        }
        match self.target {
            SpoolTarget::Memory(chunks, _) => Ok(SnapshotData::Memory(chunks)),
            SpoolTarget::File(mut file, path) => {
                file.flush()?;
                file.get_ref().sync_all()?;
                Ok(SnapshotData::File(path))
            }
        }
    }
}

/// What is installed, and over what.
#[derive(Debug)]
pub struct Installation {
    /// The region as of the snapshot.
    pub region: meta::Region,
    /// The region this store had under that id, if any: its data goes too.
    pub old_region: Option<meta::Region>,
    /// This store's peer.
    pub peer_id: u64,
    /// Index of the last entry the snapshot stands for.
    pub index: u64,
    /// Its term.
    pub term: u64,
    /// The data.
    pub data: SnapshotData,
    /// Tombstones of regions that this one absorbed, whose peers it replaces.
    pub absorbed: Vec<RegionLocalState>,
}

/// Replaces the region's data by the snapshot's and makes that durable.
pub fn install(
    engine: &dyn KvEngine,
    installation: Installation,
) -> Result<ApplyState, RaftStoreError> {
    let Installation { region, old_region, peer_id, index, term, data, absorbed } = installation;
    let pending_key = keys::region_local_key(region.id, RegionLocal::Snapshot);
    let mut batch = WriteBatch::new();
    bury(&mut batch, &absorbed);
    if let SnapshotData::File(path) = &data {
        let file = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        let pending = PendingSnapshot { index, term, file, region: Some(region.clone()) };
        batch.put(Cf::Default, pending_key.clone(), pending.encode_to_vec());
        let shown = old_region.as_ref().unwrap_or(&region);
        state::put_region_state(&mut batch, shown, PeerState::Applying, peer_id);
        // From here on a restart finishes the work: what it replaces is not needed again.
        engine.write(std::mem::take(&mut batch), true)?;
    }
    for region in [Some(&region), old_region.as_ref()].into_iter().flatten() {
        delete_region_data(&mut batch, region);
    }
    engine.write(std::mem::take(&mut batch), false)?;

    let (lower, upper) = keys::region_data_range(&region);
    data.for_each_chunk(|chunk| {
        read_chunk(&chunk, |cf, key, value| {
            if key.as_ref() < lower.as_slice() || key.as_ref() >= upper.as_slice() {
                return Err(RaftStoreError::Corrupted("snapshot: key outside of the region"));
            }
            batch.put(cf, key, value);
            if batch.size_bytes() >= INSTALL_BATCH_BYTES {
                engine.write(std::mem::take(&mut batch), false)?;
            }
            Ok(())
        })
        .map(|_| ())
    })?;

    let apply_state = ApplyState {
        applied_index: index,
        applied_term: term,
        truncated_index: index,
        truncated_term: term,
        installed_epoch: region.epoch,
    };
    batch.delete(Cf::Default, pending_key);
    state::put_region_state(&mut batch, &region, PeerState::Normal, peer_id);
    state::put_apply_state(&mut batch, region.id, &apply_state);
    engine.write(batch, true)?;
    data.discard();
    Ok(apply_state)
}

/// Removes the data of regions that were absorbed, and leaves their tombstones.
fn bury(batch: &mut WriteBatch, absorbed: &[RegionLocalState]) {
    for tombstone in absorbed {
        state::put_tombstone(batch, tombstone);
        if let Some(region) = &tombstone.region {
            delete_region_data(batch, region);
        }
    }
}

/// Removes every version of every key of the region.
pub(super) fn delete_region_data(batch: &mut WriteBatch, region: &meta::Region) {
    let (start, end) = keys::region_data_range(region);
    let (start, end) = (Bytes::from(start), Bytes::from(end));
    for cf in Cf::ALL {
        batch.delete_range(cf, start.clone(), end.clone());
    }
}

#[cfg(test)]
mod tests {
    use cairn_engine::MemoryEngine;
    use proptest::prelude::*;

    use super::*;

    fn region(start: &'static [u8], end: &'static [u8]) -> meta::Region {
        meta::Region {
            id: 1,
            start_key: Bytes::from_static(start),
            end_key: Bytes::from_static(end),
            ..meta::Region::default()
        }
    }

    fn filled() -> MemoryEngine {
        let engine = MemoryEngine::new();
        let mut batch = WriteBatch::new();
        for number in 0..3000u32 {
            let key = keys::data_key(format!("k{number:05}").as_bytes());
            batch.put(Cf::Write, key.clone(), vec![7; 400]);
            if number % 10 == 0 {
                batch.put(Cf::Lock, key, &b"lock"[..]);
            }
        }
        engine.write(batch, true).unwrap();
        engine
    }

    fn transfer(
        engine: &MemoryEngine,
        region: &meta::Region,
        mut spool: SnapshotSpool,
    ) -> SnapshotData {
        let mut reader = SnapshotReader::new(engine.snapshot(), region);
        while let Some(chunk) = reader.next_chunk().unwrap() {
            let checksum = crc32fast::hash(&chunk);
            spool.push(chunk, checksum).unwrap();
        }
        spool.finish().unwrap()
    }

    #[test]
    fn carries_exactly_the_region() {
        let source = filled();
        let dir = tempfile::tempdir().unwrap();
        let range = region(b"k00500", b"k01500");
        for spool in [SnapshotSpool::memory(), SnapshotSpool::file(dir.path(), "s").unwrap()] {
            let data = transfer(&source, &range, spool);
            let target = MemoryEngine::new();
            let mut batch = WriteBatch::new();
            batch.put(Cf::Write, keys::data_key(b"k00700x"), &b"old"[..]);
            batch.put(Cf::Write, keys::data_key(b"k9"), &b"of another region"[..]);
            target.write(batch, true).unwrap();
            let state = install(
                &target,
                Installation {
                    region: range.clone(),
                    old_region: None,
                    peer_id: 2,
                    index: 42,
                    term: 6,
                    data,
                    absorbed: Vec::new(),
                },
            )
            .unwrap();
            assert_eq!((state.applied_index, state.truncated_term), (42, 6));
            let count = |cf| {
                let snapshot = target.snapshot();
                let mut iterator = snapshot.iter(cf, IterOptions::range(&b"z"[..], &b"{"[..]));
                let mut count = 0;
                let mut valid = iterator.seek_to_first().unwrap();
                while valid {
                    count += 1;
                    valid = iterator.next().unwrap();
                }
                count
            };
            assert_eq!((count(Cf::Write), count(Cf::Lock)), (1001, 100));
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "the spool file is gone");
    }

    #[test]
    fn broken_streams_are_refused() {
        let source = filled();
        let mut reader = SnapshotReader::new(source.snapshot(), &region(b"", b""));
        let chunk = reader.next_chunk().unwrap().unwrap();
        let checksum = crc32fast::hash(&chunk);
        let mut spool = SnapshotSpool::memory();
        assert!(spool.push(chunk.clone(), checksum ^ 1).is_err());
        spool.push(chunk, checksum).unwrap();
        let mut trailer = None;
        while let Some(chunk) = reader.next_chunk().unwrap() {
            trailer = Some(chunk);
        }
        let trailer = trailer.unwrap();
        let checksum = crc32fast::hash(&trailer);
        assert!(spool.push(trailer, checksum).is_err(), "a chunk is missing");
        assert!(spool.finish().is_err());
    }

    proptest! {
        #[test]
        fn random_chunks_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = read_chunk(&Bytes::from(bytes), |_, _, _| Ok(()));
        }
    }
}
