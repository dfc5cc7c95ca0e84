//! A store on real engines: born, written to, split, stopped and started again.

use std::sync::Arc;

use cairn_kv_client::KvStoreService;
use cairn_proto::kv::{self, kv_request::Cmd, kv_response};
use cairn_proto::meta;

use super::testing::FakePd;
use super::*;

async fn start(folder: &tempfile::TempDir, pd: &Arc<FakePd>) -> Result<Arc<StoreNode>, NodeError> {
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

async fn call(node: &StoreNode, key: &[u8], cmd: Cmd) -> kv_response::Cmd {
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
    let mutation =
        kv::Mutation { op: 0, key: key.to_string().into(), value: format!("v{key}").into() };
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
