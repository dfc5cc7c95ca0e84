//! Whom reads ask, and where they go when that one does not answer.

use std::collections::BTreeSet;

use cairn_proto::kv::NotLeader;
use cairn_proto::kv::region_error::Kind;
use cairn_types::TimeStamp;

use super::*;
use crate::testing::{Cluster, Fault};
use crate::{ClientConfig, KeyRange, KvClient, ScanOptions, Snapshot};

/// A cluster with one pair, led by store 1; store N is in zone zN.
fn cluster() -> Arc<Cluster> {
    let cluster = Cluster::new();
    cluster.put("a", "1");
    cluster
}

fn client_in(cluster: &Arc<Cluster>, zone: &str) -> Arc<KvClient> {
    cluster.client_with(ClientConfig { zone: zone.into(), ..ClientConfig::default() })
}

async fn read(view: &Snapshot) {
    assert_eq!(view.get(b"a").await.expect("reads").as_deref(), Some(&b"1"[..]));
}

/// Who was asked, in order.
async fn asked(cluster: &Arc<Cluster>, client: &Arc<KvClient>, from: ReadFrom) -> Vec<String> {
    read(&client.snapshot(cluster.ts()).reading(from)).await;
    cluster.calls()
}

fn of(replicas: ReplicaRead) -> ReadFrom {
    ReadFrom { replicas, is_stale: false }
}

async fn set_asked(from: ReadFrom) -> BTreeSet<String> {
    let cluster = cluster();
    let client = cluster.client();
    let mut all = BTreeSet::new();
    for _ in 0..6 {
        let calls = asked(&cluster, &client, from).await;
        assert_eq!(calls.len(), 1, "{from:?}");
        all.extend(calls);
    }
    all
}

#[tokio::test(start_paused = true)]
async fn whom_each_mode_asks() {
    let set = |stores: &[u64]| stores.iter().map(|id| format!("get@{id}")).collect::<BTreeSet<_>>();
    assert_eq!(set_asked(of(ReplicaRead::Leader)).await, set(&[1]));
    assert_eq!(set_asked(of(ReplicaRead::Follower)).await, set(&[2, 3]));
    assert_eq!(set_asked(of(ReplicaRead::LeaderAndFollower)).await, set(&[1, 2, 3]));
    assert_eq!(set_asked(of(ReplicaRead::PreferLeader)).await, set(&[1]));
    assert_eq!(set_asked(of(ReplicaRead::Closest)).await, set(&[1]), "nobody said where");
    assert_eq!(set_asked(of(ReplicaRead::Learner)).await, set(&[1]), "there is none");
    assert_eq!(set_asked(ReadFrom::stale(ReplicaRead::Leader)).await, set(&[1, 2, 3]));
    // The newest version is the leader's to tell.
    let cluster = cluster();
    let newest = cluster.client().snapshot(TimeStamp::MAX);
    read(&newest.reading(of(ReplicaRead::Follower))).await;
    assert_eq!(cluster.calls(), ["get@1"]);
}

#[tokio::test(start_paused = true)]
async fn the_closest_is_in_the_same_zone() {
    let cluster = cluster();
    let client = client_in(&cluster, "z3");
    for _ in 0..3 {
        assert_eq!(asked(&cluster, &client, of(ReplicaRead::Closest)).await, ["get@3"]);
        let stale = ReadFrom::stale(ReplicaRead::Leader);
        assert_eq!(asked(&cluster, &client, stale).await, ["get@3"]);
    }
    // A small answer is not worth it; many rows are.
    let adaptive = of(ReplicaRead::ClosestAdaptive { threshold_bytes: 4_096 });
    assert_eq!(asked(&cluster, &client, adaptive).await, ["get@1"]);
    let keys: Vec<bytes::Bytes> = (0..100).map(|key| format!("k{key}").into()).collect();
    let view = client.snapshot(cluster.ts()).reading(adaptive);
    view.batch_get(&keys).await.expect("reads");
    assert_eq!(cluster.calls(), ["batch_get@3"]);
    // Where no replica is near, the leader is asked; for the past anybody.
    let elsewhere = client_in(&cluster, "z9");
    assert_eq!(asked(&cluster, &elsewhere, of(ReplicaRead::Closest)).await, ["get@1"]);
}

#[tokio::test(start_paused = true)]
async fn the_leader_answers_what_a_follower_cannot() {
    let cluster = cluster();
    let client = cluster.client();
    let follower = of(ReplicaRead::Follower);
    cluster.fault("get", Fault::Region(Kind::NotLeader(NotLeader::default())));
    let calls = asked(&cluster, &client, follower).await;
    assert_eq!(calls.len(), 2);
    assert_ne!(calls[0], "get@1");
    assert_eq!(calls[1], "get@1");
    // One that does not answer at all is passed over for a while, by all requests.
    cluster.fault("get", Fault::LostBefore);
    let calls = asked(&cluster, &client, follower).await;
    assert_eq!(calls[1..], ["get@1"]);
    let silent = calls[0].clone();
    for _ in 0..4 {
        assert!(!asked(&cluster, &client, follower).await.contains(&silent));
    }
    tokio::time::advance(PASSED_OVER).await;
    let mut again = BTreeSet::new();
    for _ in 0..2 {
        again.extend(asked(&cluster, &client, follower).await);
    }
    assert!(again.contains(&silent));
}

#[tokio::test(start_paused = true)]
async fn an_operation_that_met_a_lock_asks_the_leader() {
    // The lock is gone there; a replica may not know of that for long.
    let cluster = cluster();
    let client = cluster.client();
    for kind in ["get", "batch_get", "scan"] {
        let dead = cluster.ts();
        cluster.leave_lock("a", "a", dead, 1_000);
        cluster.advance_ms(2_000);
        let view = client.snapshot(cluster.ts()).reading(of(ReplicaRead::Follower));
        let own_calls = || -> Vec<String> {
            let calls = cluster.calls().into_iter();
            calls.filter(|call| call.starts_with(&format!("{kind}@"))).collect()
        };
        operate(kind, &view).await;
        let calls = own_calls();
        let leader = format!("{kind}@1");
        assert_ne!(calls[0], leader);
        assert_eq!(calls[1..], [&leader[..]]);
        // The view's next operation has met none.
        operate(kind, &view).await;
        let calls = own_calls();
        assert_eq!(calls.len(), 1);
        assert_ne!(calls[0], leader);
    }
}

async fn operate(kind: &str, view: &Snapshot) {
    match kind {
        "get" => read(view).await,
        "batch_get" => {
            assert_eq!(view.batch_get(&["a".into()]).await.expect("reads").len(), 1);
        }
        _ => {
            let mut scan = view.scan(KeyRange::new("a", "b"), ScanOptions::default());
            assert_eq!(scan.next_batch().await.expect("reads").len(), 1);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_leader_is_gone_around() {
    let begin = Instant::now();
    for from in [of(ReplicaRead::PreferLeader), ReadFrom::stale(ReplicaRead::Leader)] {
        let cluster = cluster();
        let client = cluster.client();
        // Until it is the leader's turn.
        loop {
            cluster.fault("get", Fault::LostBefore);
            let calls = asked(&cluster, &client, from).await;
            assert_eq!(calls.len(), 2, "{from:?}");
            assert_ne!(calls[1], calls[0]);
            if calls[0] == "get@1" {
                break;
            }
            tokio::time::advance(PASSED_OVER).await;
        }
        let calls = asked(&cluster, &client, from).await;
        assert_eq!(calls.len(), 1);
        assert_ne!(calls, ["get@1"], "{from:?}");
    }
    assert!(begin.elapsed() < PASSED_OVER * 8, "nobody waited besides");
}
