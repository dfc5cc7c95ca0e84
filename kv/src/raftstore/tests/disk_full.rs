//! A disk that fills up and is freed again, under a store that keeps running.
//!
//! Needs a small file system of its own. Where none may be mounted the test says so and
//! passes; the states themselves are tested in `disk.rs`.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use cairn_engine::{Cf, RaftEngineLog, RaftEngineOptions, RocksEngine, RocksOptions, WriteBatch};

use super::cluster::{context_of, region_of};
use crate::keys;
use crate::raftstore::space::SpaceLevel;
use crate::raftstore::state::bootstrap_region;
use crate::raftstore::transport::NoTransport;
use crate::raftstore::{
    RaftStore, RaftStoreConfig, RaftStoreParts, RegionError, StoreId, SystemClock,
};

const MIB: u64 = 1 << 20;
/// Size of the disk; RocksDB and the log preallocate some of it.
const DISK_MIB: u64 = 320;

/// A mounted file system that goes with the test.
struct Mount<'a>(&'a Path);

impl Mount<'_> {
    fn new(path: &Path) -> Option<Mount<'_>> {
        std::fs::create_dir_all(path).unwrap();
        let size = format!("size={DISK_MIB}m");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &size, "none"]).arg(path);
        let mounted = mount.output().is_ok_and(|output| output.status.success());
        mounted.then_some(Mount(path))
    }
}

impl Drop for Mount<'_> {
    fn drop(&mut self) {
        // Lazily: the engine may still close its files.
        let _ = Command::new("umount").arg("-l").arg(self.0).output();
    }
}

fn start(folder: &Path, config: RaftStoreConfig) -> Arc<RaftStore> {
    let options = RocksOptions { wal_total_bytes: 16 * MIB, ..RocksOptions::small() };
    let kv = Arc::new(RocksEngine::open(&folder.join("kv"), &options).unwrap());
    let log_options = RaftEngineOptions { file_bytes: 4 * MIB, ..RaftEngineOptions::default() };
    let log = RaftEngineLog::open(&folder.join("raft"), &log_options).unwrap();
    bootstrap_region(kv.as_ref(), 1, &region_of(1, &[(2, 1)])).unwrap();
    RaftStore::start(RaftStoreParts {
        config,
        store_id: StoreId(1),
        kv,
        log: Arc::new(log),
        transport: Arc::new(NoTransport),
        pd: None,
        clock: Arc::new(SystemClock::new()),
    })
    .unwrap()
}

/// As the transaction layer does it for new data.
async fn put(store: &RaftStore, key: &str) -> Result<(), RegionError> {
    let mut batch = WriteBatch::new();
    batch.put(Cf::Write, keys::data_key(key.as_bytes()), vec![7; 100]);
    store.kv().admit_data(batch.size_bytes() as u64)?;
    store.kv().write(&context_of(&region_of(1, &[(2, 1)])), batch, None).await
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while !holds().await {
        assert!(tokio::time::Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn writes_stop_and_go_on_with_the_room() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk");
    let Some(mount) = Mount::new(&path) else {
        eprintln!("SKIPPED: no file system may be mounted here");
        return;
    };
    let config = RaftStoreConfig { data_dir: Some(path.clone()), ..RaftStoreConfig::default() };
    let disk = config.space.clone();
    let store = start(&path, config);
    let region = region_of(1, &[(2, 1)]);
    until("a leader that takes writes", async || put(&store, "a").await.is_ok()).await;
    until("the disk is known", async || disk.space().capacity_bytes > 0).await;
    assert_eq!(disk.level(), SpaceLevel::Normal);
    assert_eq!(disk.space().capacity_bytes, DISK_MIB * MIB);

    // Somebody else fills the disk.
    let available = disk.space().available_bytes;
    let ballast = path.join("ballast");
    std::fs::write(&ballast, vec![1; (available - 4 * MIB) as usize]).unwrap();
    until("the disk is full", async || disk.level() >= SpaceLevel::Full).await;
    assert_eq!(put(&store, "b").await, Err(RegionError::DiskFull(StoreId(1))));
    until("the reserve is given up", async || disk.space().available_bytes > 8 * MIB).await;

    // Reads and deletions go on.
    let view = store.kv().snapshot(&context_of(&region)).await.unwrap();
    assert!(view.engine.get(Cf::Write, &keys::data_key(b"a")).unwrap().is_some());
    let mut batch = WriteBatch::new();
    batch.delete(Cf::Write, keys::data_key(b"a"));
    store.kv().write(&context_of(&region), batch, None).await.unwrap();

    // Room comes back, and writes with it; no restart.
    std::fs::remove_file(&ballast).unwrap();
    until("writes are taken again", async || put(&store, "c").await.is_ok()).await;
    until("the reserve is back", async || path.join("space-reserve").exists()).await;
    store.stop();
    drop(store);
    drop(mount);
}
