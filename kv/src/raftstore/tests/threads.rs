//! Stores with their threads: what a playground runs.

use std::sync::Arc;
use std::time::Duration;

use cairn_engine::{
    Cf, KvEngine, MemoryEngine, MemoryRaftLog, RaftEngineLog, RaftEngineOptions, RaftLog,
    RocksEngine, RocksOptions, WriteBatch,
};
use cairn_proto::meta;

use super::cluster::{context_of, region_of};
use crate::keys;
use crate::raftstore::command::{ConfChangeKind, PeerChange};
use crate::raftstore::state::bootstrap_region;
use crate::raftstore::transport::{LocalNetwork, LocalTransport, NoTransport, Transport};
use crate::raftstore::{
    RaftKv, RaftStore, RaftStoreConfig, RaftStoreParts, RegionError, RegionId, StoreId, SystemClock,
};

fn start(
    store_id: u64,
    kv: Arc<dyn KvEngine>,
    log: Arc<dyn RaftLog>,
    transport: Arc<dyn Transport>,
) -> Arc<RaftStore> {
    RaftStore::start(RaftStoreParts {
        config: RaftStoreConfig::default(),
        store_id: StoreId(store_id),
        kv,
        log,
        transport,
        pd: None,
        clock: Arc::new(SystemClock::new()),
    })
    .unwrap()
}

fn put(key: &str, value: &str) -> WriteBatch {
    let mut batch = WriteBatch::new();
    batch.put(Cf::Write, keys::data_key(key.as_bytes()), value.as_bytes().to_vec());
    batch
}

async fn read(store: &RaftStore, region: &meta::Region, key: &str) -> Option<String> {
    let view = store.kv().snapshot(&context_of(region)).await.unwrap();
    let value = view.engine.get(Cf::Write, &keys::data_key(key.as_bytes())).unwrap();
    value.map(|value| String::from_utf8(value.to_vec()).unwrap())
}

/// Repeats until the region has a leader that takes the write.
async fn write_until_taken(stores: &[&RaftStore], region: &meta::Region, key: &str, value: &str) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    loop {
        for store in stores {
            let router = store.router();
            if router.write(&context_of(region), put(key, value), None).await.is_ok() {
                return;
            }
        }
        assert!(tokio::time::Instant::now() < deadline, "no leader takes the write");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn one_store_writes_reads_and_restarts_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    let region = region_of(1, &[(2, 1)]);
    for round in 0..2 {
        let kv: Arc<dyn KvEngine> =
            Arc::new(RocksEngine::open(&dir.path().join("kv"), &RocksOptions::small()).unwrap());
        let log = RaftEngineLog::open(&dir.path().join("raft"), &RaftEngineOptions::default());
        bootstrap_region(kv.as_ref(), 1, &region).unwrap();
        let store = start(1, kv, Arc::new(log.unwrap()), Arc::new(NoTransport));
        if round == 0 {
            write_until_taken(&[&store], &region, "a", "1").await;
            let writers = (0..50).map(|number| {
                let store = store.clone();
                let region = region.clone();
                async move {
                    let key = format!("k{number}");
                    store.kv().write(&context_of(&region), put(&key, "v"), None).await.unwrap();
                }
            });
            futures::future::join_all(writers).await;
            let view = store.kv().try_local_snapshot(&context_of(&region)).unwrap();
            assert!(view.is_some(), "the commit renewed the lease");
            let metrics = store.metrics().values().into_iter().collect::<Vec<_>>();
            let syncs = metrics.iter().find(|(name, _)| *name == "log_syncs").unwrap().1;
            assert!(syncs < 40, "51 writes need fewer syncs: {syncs}");
        }
        write_until_taken(&[&store], &region, "b", "2").await;
        assert_eq!(read(&store, &region, "a").await.as_deref(), Some("1"));
        assert_eq!(read(&store, &region, "k49").await.as_deref(), Some("v"));
        let infos = store.kv().region_infos();
        assert!(infos[0].is_leader);
        store.stop();
        let refused = store.kv().write(&context_of(&region), put("c", "3"), None).await;
        assert!(refused.is_err());
    }
}

#[tokio::test]
async fn three_stores_replicate_and_survive_the_leader() {
    let network = LocalNetwork::new();
    let region = region_of(1, &[(11, 1)]);
    let mut stores = Vec::new();
    for store_id in 1..=3 {
        let kv = Arc::new(MemoryEngine::new());
        if store_id == 1 {
            bootstrap_region(kv.as_ref(), store_id, &region).unwrap();
        }
        let transport = Arc::new(LocalTransport::new(network.clone(), None));
        let store = start(store_id, kv, Arc::new(MemoryRaftLog::new()), transport);
        network.join(store_id, store.inbox().clone());
        stores.push(store);
    }
    write_until_taken(&[&stores[0]], &region, "a", "1").await;
    let mut region = region;
    for (store_id, peer_id) in [(2, 12), (3, 13)] {
        for kind in [ConfChangeKind::AddLearner, ConfChangeKind::AddVoter] {
            let peer = meta::Peer { id: peer_id, store_id, role: 0 };
            let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
            region = loop {
                let changes = vec![PeerChange::new(kind, peer)];
                match stores[0].router().change_peers(RegionId(1), changes).await {
                    Ok(region) => break region,
                    Err(RegionError::ServerIsBusy { .. }) => {
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                    Err(error) => panic!("{error}"),
                }
                assert!(tokio::time::Instant::now() < deadline, "membership does not change");
            };
        }
    }
    assert_eq!(region.peers.len(), 3);
    write_until_taken(&[&stores[0]], &region, "b", "2").await;
    // The leader dies: another takes over, and nothing acknowledged is lost.
    network.leave(1);
    stores[0].stop();
    write_until_taken(&[&stores[1], &stores[2]], &region, "c", "3").await;
    let infos = [stores[1].kv().region_infos(), stores[2].kv().region_infos()];
    let leader = if infos[0][0].is_leader { &stores[1] } else { &stores[2] };
    for (key, value) in [("a", "1"), ("b", "2"), ("c", "3")] {
        assert_eq!(read(leader, &region, key).await.as_deref(), Some(value));
    }
}
