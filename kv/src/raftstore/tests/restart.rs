//! A crash in the middle of installing a Raft snapshot is finished at the next start.

use std::sync::Arc;

use cairn_engine::{Cf, FilePlan, IterOptions, KvEngine, MemoryEngine, MemoryRaftLog, WriteBatch};
use cairn_proto::kv;
use prost::Message;

use super::cluster::region_of;
use crate::keys::{self, RegionLocal};
use crate::raftstore::clock::MonotonicTime;
use crate::raftstore::metrics::RaftMetrics;
use crate::raftstore::peer::storage::Engines;
use crate::raftstore::read::Regions;
use crate::raftstore::state::{self, PeerState, PendingSnapshot};
use crate::raftstore::store::StoreCore;
use crate::raftstore::{RaftStoreConfig, RaftStoreError};

fn start(engine: &MemoryEngine, dir: &std::path::Path) -> Result<StoreCore, RaftStoreError> {
    let config =
        RaftStoreConfig { snapshot_dir: Some(dir.to_owned()), ..RaftStoreConfig::default() };
    let engines = Engines { kv: Arc::new(engine.clone()), log: Arc::new(MemoryRaftLog::new()) };
    let regions = Arc::new(Regions::default());
    let mut core = StoreCore::new(config, 2, engines, regions, Arc::new(RaftMetrics::default()));
    core.load(MonotonicTime(1))?;
    Ok(core)
}

/// An engine as a crash leaves it after the first step of an installation.
fn interrupted(dir: &std::path::Path) -> MemoryEngine {
    let source = MemoryEngine::new();
    let mut batch = WriteBatch::new();
    batch.put(Cf::Write, keys::data_key(b"new"), &b"1"[..]);
    source.write(batch, true).unwrap();
    let region = region_of(1, &[(11, 1), (12, 2)]);
    let view = source.snapshot();
    let mut entries = view.iter(Cf::Write, IterOptions::range(&b"z"[..], &b"{"[..]));
    entries.seek_to_first().unwrap();
    let folder = dir.join("in-1-0");
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("0.sst");
    let mut plan = FilePlan { path: &path, bytes_max: u64::MAX, pace: &mut |_| Ok(()) };
    let file = source.write_file(Cf::Write, &mut plan, entries.as_mut()).unwrap().unwrap();
    let manifest = kv::SnapshotManifest {
        files: vec![kv::SnapshotFile {
            cf: u32::from(Cf::Write.to_u8()),
            size_bytes: file.size_bytes,
            checksum: crc32fast::hash(&std::fs::read(&path).unwrap()),
            entries: file.entries,
            first_key: file.first_key,
            last_key: file.last_key,
        }],
    };
    // A transfer that never arrived whole.
    std::fs::create_dir_all(dir.join("in-9-9")).unwrap();
    std::fs::write(dir.join("in-9-9").join("0.sst"), b"half").unwrap();

    let engine = MemoryEngine::new();
    let mut batch = WriteBatch::new();
    batch.put(Cf::Write, keys::data_key(b"old"), &b"0"[..]);
    let pending = PendingSnapshot {
        index: 40,
        term: 7,
        folder: "in-1-0".to_owned(),
        region: Some(region.clone()),
        manifest: Some(manifest),
    };
    let pending_key = keys::region_local_key(1, RegionLocal::Snapshot);
    batch.put(Cf::Default, pending_key, pending.encode_to_vec());
    state::put_region_state(&mut batch, &region, PeerState::Applying, 12);
    engine.write(batch, true).unwrap();
    engine
}

#[test]
fn an_interrupted_installation_is_finished() {
    let dir = tempfile::tempdir().unwrap();
    let engine = interrupted(dir.path());
    start(&engine, dir.path()).unwrap();
    let get = |key: &[u8]| engine.get(Cf::Write, &keys::data_key(key)).unwrap();
    assert_eq!(get(b"new").as_deref(), Some(&b"1"[..]));
    assert_eq!(get(b"old"), None);
    let view = engine.snapshot();
    let applied = state::load_apply_state(view.as_ref(), 1).unwrap().unwrap();
    assert_eq!((applied.applied_index, applied.truncated_term), (40, 7));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "no spool file stays");
    // Its hard state was not written either: it starts with the snapshot's.
    start(&engine, dir.path()).unwrap();
}

#[test]
fn a_damaged_spool_file_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let engine = interrupted(dir.path());
    let path = dir.path().join("in-1-0").join("0.sst");
    let mut bytes = std::fs::read(&path).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let outcome = start(&engine, dir.path()).map(|_| ());
    assert_eq!(outcome, Err(RaftStoreError::Corrupted("snapshot file: checksum")));
}
