//! A store on real engines: born, written to, split, stopped and started again.

use std::sync::Arc;
use std::time::Duration;

use cairn_kv_client::{ClientConfig, CommitKind, KeyRange, KvClient, LocalConnector, ScanOptions};
use cairn_proto::kv::{self, kv_request::Cmd, kv_response};
use cairn_proto::meta;

use cairn_pd_client::PdClient;
use cairn_proto::kv::recovery_client::RecoveryClient;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::testing::FakePd;
use super::*;

pub(super) async fn start(
    folder: &tempfile::TempDir,
    pd: &Arc<FakePd>,
) -> Result<Arc<StoreNode>, NodeError> {
    let config = StoreConfig::new(folder.path(), "127.0.0.1:20160");
    StoreNode::start(config, Arc::clone(pd) as _, None).await
}

/// A context for the region that holds `key`, once this store leads it.
async fn context_for(node: &StoreNode, key: &[u8]) -> kv::Context {
    for _ in 0..10_000 {
        let regions = node.service().store_info().await.unwrap().regions;
        let holds = |region: &meta::Region| crate::keys::region_contains(region, key);
        let found = regions
            .into_iter()
            .find(|info| info.is_leader && info.region.as_ref().is_some_and(holds));
        if let Some(region) = found.and_then(|info| info.region) {
            let peer = region.peers.first().cloned();
            return kv::Context {
                region_id: region.id,
                epoch: region.epoch,
                peer,
                ..Default::default()
            };
        }
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    panic!("no leader");
}

pub(super) async fn call(node: &StoreNode, key: &[u8], cmd: Cmd) -> kv_response::Cmd {
    // A fresh leader may have to commit in its term first.
    for _ in 0..1000 {
        let context = Some(context_for(node, key).await);
        let request = kv::KvRequest { context, cmd: Some(cmd.clone()) };
        let response = node.service().call(request).await.unwrap();
        if let Some(cmd) = response.cmd {
            return cmd;
        }
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    panic!("never answered");
}

async fn put(node: &StoreNode, key: &str, start_ts: u64) {
    let mutation = kv::Mutation {
        op: 0,
        key: key.to_string().into(),
        value: format!("v{key}").into(),
        ..Default::default()
    };
    let request = kv::PrewriteRequest {
        primary: mutation.key.clone(),
        mutations: vec![mutation],
        start_ts,
        try_one_pc: true,
        ..Default::default()
    };
    let response = call(node, key.as_bytes(), Cmd::Prewrite(request)).await;
    let kv_response::Cmd::Prewrite(response) = response else { panic!() };
    assert_eq!(response.errors, vec![]);
    assert!(response.one_pc_commit_ts > start_ts);
}

async fn get(node: &StoreNode, key: &str) -> Option<String> {
    let request = kv::GetRequest { key: key.to_string().into(), version: u64::MAX };
    match call(node, key.as_bytes(), Cmd::Get(request)).await {
        kv_response::Cmd::Get(response) => {
            (!response.not_found).then(|| String::from_utf8_lossy(&response.value).into_owned())
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_survives_a_restart_and_a_split() {
    let folder = tempfile::tempdir().unwrap();
    let pd = FakePd::new(9);
    let node = start(&folder, &pd).await.unwrap();
    let store_id = node.store_id();
    put(&node, "a", 10).await;
    put(&node, "m", 11).await;
    let split = kv::SplitRegionRequest { keys: vec!["k".into()] };
    let kv_response::Cmd::SplitRegion(split) = call(&node, b"a", Cmd::SplitRegion(split)).await
    else {
        panic!()
    };
    assert_eq!(split.regions.len(), 2);
    put(&node, "b", 12).await;
    put(&node, "n", 13).await;
    for key in ["a", "b", "m", "n"] {
        assert_eq!(get(&node, key).await, Some(format!("v{key}")));
    }
    node.stop().await;
    drop(node);

    let node = start(&folder, &pd).await.unwrap();
    assert_eq!(node.store_id(), store_id);
    for key in ["a", "b", "m", "n"] {
        assert_eq!(get(&node, key).await, Some(format!("v{key}")));
    }
    assert_eq!(get(&node, "x").await, None);
    node.stop().await;
    drop(node);

    let other = start(&folder, &FakePd::new(10)).await;
    assert!(matches!(other, Err(NodeError::WrongCluster { found: 9, expected: 10 })));
}

/// A client over direct calls to the node.
fn client(node: &StoreNode, pd: &Arc<FakePd>) -> Arc<KvClient> {
    let connector = LocalConnector::new();
    connector.register(node.store_id(), node.service());
    KvClient::new(Arc::clone(pd) as _, Arc::new(connector), ClientConfig::default())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transactions_of_the_client_run_end_to_end() {
    let folder = tempfile::tempdir().unwrap();
    let pd = FakePd::new(9);
    let node = start(&folder, &pd).await.unwrap();
    let client = client(&node, &pd);

    // One phase: all keys in one region.
    let txn = client.begin(client.current_ts().await.unwrap());
    for key in ["a", "m", "z"] {
        txn.set(key.into(), format!("1{key}").into()).unwrap();
    }
    assert_eq!(txn.commit().await.unwrap().kind, CommitKind::OnePhase);

    // Two phases: the keys' region is split.
    let born = client.split_regions(vec!["k".into()], Duration::from_secs(20)).await.unwrap();
    assert_eq!(born.len(), 1);
    let before = client.current_ts().await.unwrap();
    let txn = client.begin(before);
    let rival = client.begin(client.current_ts().await.unwrap());
    for key in ["a", "z"] {
        txn.set(key.into(), format!("2{key}").into()).unwrap();
    }
    txn.delete("m".into()).unwrap();
    assert_eq!(txn.commit().await.unwrap().kind, CommitKind::Async);
    rival.set("z".into(), "3z".into()).unwrap();
    assert!(rival.commit().await.is_err(), "the rival must meet a write conflict");

    let now = client.snapshot(client.current_ts().await.unwrap());
    assert_eq!(now.get(b"a").await.unwrap().as_deref(), Some(&b"2a"[..]));
    assert_eq!(now.get(b"m").await.unwrap(), None);
    assert_eq!(now.try_get_now(&"a".into()), Some(Some("2a".into())));
    let rows = |pairs: Vec<(bytes::Bytes, bytes::Bytes)>| -> Vec<String> {
        pairs.iter().map(|(_, value)| String::from_utf8_lossy(value).into_owned()).collect()
    };
    for (snapshot, expected) in
        [(now, vec!["2a", "2z"]), (client.snapshot(before), vec!["1a", "1m", "1z"])]
    {
        let mut scan = snapshot.scan(KeyRange::new("", ""), ScanOptions::default());
        let mut found = Vec::new();
        loop {
            let batch = scan.next_batch().await.unwrap();
            if batch.is_empty() {
                break;
            }
            found.extend(rows(batch));
        }
        assert_eq!(found, expected);
    }
    node.stop().await;
}

/// What the store on the port tells of its cluster, once somebody listens there.
async fn description(port: u16) -> kv::DescribeStoreResponse {
    for _ in 0..10_000 {
        if let Ok(mut client) = RecoveryClient::connect(format!("http://127.0.0.1:{port}")).await {
            return client.describe_store(kv::DescribeStoreRequest {}).await.unwrap().into_inner();
        }
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    panic!("nobody listens");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_outlives_its_placement_driver() {
    let folder = tempfile::tempdir().unwrap();
    let pd = FakePd::new(9);
    let node = start(&folder, &pd).await.unwrap();
    put(&node, "a", 10).await;
    let split = kv::SplitRegionRequest { keys: vec!["k".into()] };
    call(&node, b"a", Cmd::SplitRegion(split)).await;
    let read_ts = pd.get_ts().await.unwrap().0 + (7 << 18);
    let read = kv::GetRequest { key: "a".into(), version: read_ts };
    call(&node, b"a", Cmd::Get(read)).await;

    // While it runs it tells what it knows, a read's timestamp too.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (serving, stop) = (Arc::clone(&node), CancellationToken::new());
    let served = tokio::spawn({
        let stop = stop.clone();
        async move { serving.serve_grpc(listener, stop).await }
    });
    let told = description(port).await;
    assert_eq!((told.cluster_id, told.store.as_ref().unwrap().id), (9, node.store_id()));
    assert_eq!(told.regions.len(), 2);
    let ids = told.regions.iter().flat_map(|region| [region.id, region.peers[0].id]);
    assert!(told.max_id >= ids.max().unwrap());
    assert_eq!(told.max_ts, read_ts);
    // A driver that has forgotten it hears of it again.
    pd.forget_stores();
    for _ in 0..20_000 {
        if pd.get_store(node.store_id()).await.is_ok() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    assert_eq!(pd.get_store(node.store_id()).await.unwrap().address, "127.0.0.1:20160");
    stop.cancel();
    served.await.unwrap().unwrap();
    node.stop().await;
    drop(node);

    // It starts again and finds a driver that knows of nothing: it waits, and tells.
    let pd = FakePd::new(10);
    let config = StoreConfig::new(folder.path(), "127.0.0.1:20160");
    let opened = OpenStore::open(config).await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let recovering = async {
        let after = description(port).await;
        assert_eq!((after.cluster_id, &after.regions), (9, &told.regions));
        // Reads are forgotten, what the driver told is not.
        let noted_ms = cairn_types::TimeStamp(after.max_ts).physical_ms();
        assert!(after.max_id >= told.max_id && noted_ms >= 1);
        pd.recover(after);
    };
    let (waited, ()) = tokio::join!(opened.wait_for_cluster(&*pd, listener), recovering);
    waited.unwrap();
    let node = opened.join(Arc::clone(&pd) as _, None).await.unwrap();
    assert_eq!(get(&node, "a").await.as_deref(), Some("va"));
    put(&node, "b", pd.get_ts().await.unwrap().0).await;
    node.stop().await;
    drop(node);

    // A living cluster is not waited for.
    let other = FakePd::new(11);
    let foreign = tempfile::tempdir().unwrap();
    let inhabitant = start(&foreign, &other).await.unwrap();
    let config = StoreConfig::new(folder.path(), "127.0.0.1:20160");
    let opened = OpenStore::open(config).await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let refused = opened.wait_for_cluster(&*other, listener).await;
    assert!(matches!(refused, Err(NodeError::WrongCluster { found: 9, expected: 11 })));
    inhabitant.stop().await;
}
