//! From a region's view to another engine, through files and through memory.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cairn_engine::{
    Cf, IterOptions, KvEngine, MemoryEngine, RocksEngine, RocksOptions, WriteBatch,
};
use cairn_proto::{kv, meta};

use super::*;
use crate::keys;
use crate::raftstore::clock::{Clock, ManualClock};
use crate::raftstore::error::RaftStoreError;
use crate::raftstore::space::{DiskSpace, SpaceLevel, SpaceWatch};
use crate::raftstore::store::OutgoingSnapshot;

fn region(start: &'static [u8], end: &'static [u8]) -> meta::Region {
    meta::Region {
        id: 1,
        start_key: Bytes::from_static(start),
        end_key: Bytes::from_static(end),
        ..meta::Region::default()
    }
}

fn fill(engine: &dyn KvEngine) {
    let mut batch = WriteBatch::new();
    for number in 0..3000u32 {
        let key = keys::data_key(format!("k{number:05}").as_bytes());
        batch.put(Cf::Write, key.clone(), vec![7; 400]);
        if number % 10 == 0 {
            batch.put(Cf::Lock, key, &b"lock"[..]);
        }
    }
    engine.write(batch, true).unwrap();
}

/// What was there before: a key that goes, and one of another region that stays.
fn fill_old(engine: &dyn KvEngine) {
    let mut batch = WriteBatch::new();
    batch.put(Cf::Write, keys::data_key(b"k00700x"), &b"old"[..]);
    batch.put(Cf::Write, keys::data_key(b"k9"), &b"of another region"[..]);
    engine.write(batch, true).unwrap();
}

fn room(engine: Arc<dyn KvEngine>, dir: &Path) -> SnapshotRoom {
    let limits = SnapshotLimits { dir: Some(dir.to_owned()), bytes_per_second: 0, receives_max: 2 };
    SnapshotRoom::new(engine, limits, Arc::default(), Arc::new(ManualClock::new()))
}

fn outgoing(engine: &dyn KvEngine, region: &meta::Region) -> OutgoingSnapshot {
    OutgoingSnapshot {
        head: kv::RaftMessage::default(),
        region: region.clone(),
        engine: engine.snapshot(),
        shared: Arc::default(),
        peer_id: 2,
    }
}

/// Chunks of a file as the wire carries them.
fn chunks(files: &SnapshotFiles) -> Vec<(Bytes, u32)> {
    let mut chunks = Vec::new();
    for position in 0..files.manifest().files.len() {
        let bytes = std::fs::read(files.path(position)).unwrap();
        for part in bytes.chunks(10_000) {
            chunks.push((Bytes::copy_from_slice(part), crc32fast::hash(part)));
        }
    }
    chunks
}

fn installation(region: &meta::Region, data: SnapshotData) -> Installation {
    let region = region.clone();
    Installation {
        region,
        old_region: None,
        peer_id: 2,
        index: 42,
        term: 6,
        is_damaged: false,
        data,
        absorbed: Vec::new(),
    }
}

fn count(engine: &dyn KvEngine, cf: Cf) -> usize {
    let view = engine.snapshot();
    let mut iterator = view.iter(cf, IterOptions::range(&b"z"[..], &b"{"[..]));
    let mut count = 0;
    let mut valid = iterator.seek_to_first().unwrap();
    while valid {
        count += 1;
        valid = iterator.next().unwrap();
    }
    count
}

fn entries(dir: &Path) -> usize {
    std::fs::read_dir(dir).map_or(0, Iterator::count)
}

fn carry_files(source: Arc<dyn KvEngine>, target: Arc<dyn KvEngine>) {
    let dir = tempfile::tempdir().unwrap();
    fill(source.as_ref());
    fill_old(target.as_ref());
    let range = region(b"k00500", b"k01500");
    let (out, inn) = (dir.path().join("out"), dir.path().join("in"));
    let sender = room(source.clone(), &out);
    let receiver = room(target.clone(), &inn);
    let snapshot = outgoing(source.as_ref(), &range);
    let files = sender.build(&snapshot).unwrap();
    assert!(Arc::ptr_eq(&files, &sender.build(&snapshot).unwrap()), "built once");
    let mut spool = receiver.receive(&range, files.manifest().clone()).unwrap();
    for (chunk, checksum) in chunks(&files) {
        spool.push(&chunk, checksum).unwrap();
    }
    let data = spool.finish().unwrap();
    // Somebody who reads the old state keeps it.
    let before = target.snapshot();
    let state = install(target.as_ref(), &installation(&range, data)).unwrap();
    assert_eq!((state.applied_index, state.truncated_term), (42, 6));
    assert_eq!((count(target.as_ref(), Cf::Write), count(target.as_ref(), Cf::Lock)), (1001, 100));
    let old = keys::data_key(b"k00700x");
    assert_eq!(before.get(Cf::Write, &old).unwrap().as_deref(), Some(&b"old"[..]));
    assert_eq!(target.get(Cf::Write, &old).unwrap(), None);
    assert_eq!(entries(&inn), 0, "received files are gone");
    drop((files, snapshot));
    assert_eq!(entries(&out), 0, "built files are gone with the last receiver");
}

#[test]
fn files_carry_exactly_the_region() {
    carry_files(Arc::new(MemoryEngine::new()), Arc::new(MemoryEngine::new()));
    let dir = tempfile::tempdir().unwrap();
    let open = |name: &str| {
        Arc::new(RocksEngine::open(&dir.path().join(name), &RocksOptions::small()).unwrap())
    };
    carry_files(open("one"), open("other"));
}

#[test]
fn memory_carries_exactly_the_region() {
    let source = MemoryEngine::new();
    fill(&source);
    let range = region(b"k00500", b"k01500");
    let mut reader = SnapshotReader::new(source.snapshot(), &range);
    let mut spool = SnapshotSpool::memory();
    while let Some(chunk) = reader.next_chunk().unwrap() {
        let checksum = crc32fast::hash(&chunk);
        spool.push(chunk, checksum).unwrap();
    }
    let target = MemoryEngine::new();
    fill_old(&target);
    install(&target, &installation(&range, spool.finish().unwrap())).unwrap();
    assert_eq!((count(&target, Cf::Write), count(&target, Cf::Lock)), (1001, 100));
}

#[test]
fn installing_again_gives_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let source = Arc::new(MemoryEngine::new());
    fill(source.as_ref());
    let target = RocksEngine::open(&dir.path().join("db"), &RocksOptions::small()).unwrap();
    fill_old(&target);
    let range = region(b"k00500", b"k01500");
    let helper = RocksEngine::open(&dir.path().join("helper"), &RocksOptions::small()).unwrap();
    let helper: Arc<dyn KvEngine> = Arc::new(helper);
    let sender = room(helper, &dir.path().join("out"));
    let files = sender.build(&outgoing(source.as_ref(), &range)).unwrap();
    // A crash after the files were taken in, before the state says so: the folder is
    // still there, and all is done again.
    for _ in 0..2 {
        let folder = dir.path().join("in");
        std::fs::create_dir_all(&folder).unwrap();
        for position in 0..files.manifest().files.len() {
            std::fs::copy(files.path(position), folder.join(file_name(position))).unwrap();
        }
        let data = SnapshotData::Files(folder, files.manifest().clone());
        install(&target, &installation(&range, data)).unwrap();
        assert_eq!((count(&target, Cf::Write), count(&target, Cf::Lock)), (1001, 100));
    }
}

#[test]
fn broken_streams_are_refused_and_leave_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let source: Arc<dyn KvEngine> = Arc::new(MemoryEngine::new());
    fill(source.as_ref());
    let range = region(b"", b"");
    let room = room(source.clone(), dir.path());
    let snapshot = outgoing(source.as_ref(), &range);
    let files = room.build(&snapshot).unwrap();
    let chunks = chunks(&files);
    let manifest = files.manifest();

    let mut spool = room.receive(&range, manifest.clone()).unwrap();
    assert!(spool.push(&chunks[0].0, chunks[0].1 ^ 1).is_err(), "a chunk's checksum");
    spool.push(&chunks[0].0, chunks[0].1).unwrap();
    assert!(spool.finish().is_err(), "the rest is missing");

    let mut other = manifest.clone();
    other.files[0].checksum ^= 1;
    let mut spool = room.receive(&range, other).unwrap();
    let pushed = chunks.iter().try_for_each(|(chunk, checksum)| spool.push(chunk, *checksum));
    assert_eq!(pushed, Err(RaftStoreError::Corrupted("snapshot file: checksum")));
    drop(spool);

    let narrow = region(b"k00100", b"");
    assert!(room.receive(&narrow, manifest.clone()).is_err(), "keys of another region");
    let mut doubled = manifest.clone();
    doubled.files.push(manifest.files[manifest.files.len() - 1].clone());
    assert!(room.receive(&range, doubled).is_err(), "files that overlap");
    drop((files, snapshot));
    assert_eq!(entries(dir.path()), 0);
}

#[test]
fn receivers_say_when_they_have_no_room() {
    let dir = tempfile::tempdir().unwrap();
    let engine: Arc<dyn KvEngine> = Arc::new(MemoryEngine::new());
    let disk = Arc::new(SpaceWatch::default());
    let limits =
        SnapshotLimits { dir: Some(dir.path().to_owned()), bytes_per_second: 0, receives_max: 1 };
    let room = SnapshotRoom::new(engine, limits, disk.clone(), Arc::new(ManualClock::new()));
    assert_eq!(room.refusal(1 << 40), None, "nothing is known of the disk");
    let space = DiskSpace { capacity_bytes: 1000, available_bytes: 100 };
    disk.set(SpaceLevel::Normal, space);
    assert_eq!(room.refusal(40), None);
    assert!(room.refusal(60).is_some(), "too little room");
    disk.set(SpaceLevel::AlmostFull, space);
    assert!(room.refusal(1).is_some());
    disk.set(SpaceLevel::Normal, space);
    let range = region(b"", b"");
    let first = room.receive(&range, kv::SnapshotManifest::default()).unwrap();
    assert!(room.receive(&range, kv::SnapshotManifest::default()).is_err(), "one at a time");
    drop(first);
    assert!(room.receive(&range, kv::SnapshotManifest::default()).is_ok());
}

#[test]
fn the_pace_keeps_to_its_rate() {
    let clock = Arc::new(ManualClock::new());
    let pace = Pace::new(clock.clone(), 1000);
    assert_eq!(pace.take(100), Duration::ZERO, "what was saved up");
    assert_eq!(pace.take(500), Duration::from_millis(500));
    clock.advance(Duration::from_millis(500));
    assert_eq!(pace.take(100), Duration::from_millis(100));
    clock.advance(Duration::from_secs(60));
    assert_eq!(pace.take(100), Duration::ZERO);
    assert_eq!(pace.take(100), Duration::from_millis(100), "a long pause is not a long burst");
    assert_eq!(Pace::new(clock.clone(), 0).take(1 << 40), Duration::ZERO);
    assert!(clock.now().0 > 0);
}
