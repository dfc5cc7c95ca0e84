//! Orders as people give them, against a driver without a network.

use std::sync::Arc;

use bytes::Bytes;
use cairn_engine::MemoryRaftLog;
use cairn_pd_client::PdError;
use cairn_pd_client::order::{Complaint, Measure, NewOperator, Order, StoreChange};
use cairn_proto::meta::{Peer, Region, RegionEpoch, Store, StoreState};
use cairn_proto::pd::region_heartbeat_response::Step;
use cairn_proto::pd::{RegionHeartbeatRequest, StoreStats};
use serde_json::Value;

use super::read_order;
use crate::clock::ManualClock;
use crate::replication::MemoryFiles;
use crate::{PdConfig, PdParts, PdServer};

/// Three stores, two regions: one on all of them, one on the first.
struct Bench {
    server: Arc<PdServer>,
    clock: Arc<ManualClock>,
    log: Arc<MemoryRaftLog>,
    files: Arc<MemoryFiles>,
}

fn peers(region: u64, stores: &[u64]) -> Vec<Peer> {
    stores.iter().map(|store| Peer { id: region * 10 + store, store_id: *store, role: 0 }).collect()
}

fn region(id: u64, range: (&'static str, &'static str), stores: &[u64]) -> Region {
    Region {
        id,
        start_key: Bytes::from(range.0),
        end_key: Bytes::from(range.1),
        epoch: Some(RegionEpoch { conf_ver: 1, version: 2 }),
        peers: peers(id, stores),
    }
}

impl Bench {
    async fn new() -> Bench {
        let (log, files) = (Arc::new(MemoryRaftLog::new()), Arc::new(MemoryFiles::new()));
        let clock = Arc::new(ManualClock::at(1 << 40));
        let server = Bench::open(&log, &files, &clock).await;
        let first = Region {
            end_key: Bytes::new(),
            epoch: Some(RegionEpoch { conf_ver: 1, version: 1 }),
            ..region(2, ("", ""), &[1])
        };
        let store = |id: u64| Store { id, address: format!("s{id}:1"), ..Store::default() };
        server.bootstrap(store(1), first).await.expect("first");
        for id in [4, 5] {
            server.put_store(store(id)).await.expect("new");
        }
        let bench = Bench { server, clock, log, files };
        bench.stores_report();
        bench.report(region(2, ("", "m"), &[1, 4, 5])).await;
        bench.report(region(3, ("m", ""), &[1, 4, 5])).await;
        bench
    }

    async fn open(
        log: &Arc<MemoryRaftLog>,
        files: &Arc<MemoryFiles>,
        clock: &Arc<ManualClock>,
    ) -> Arc<PdServer> {
        let parts =
            PdParts { log: log.clone(), files: files.clone(), ..PdParts::in_memory(clock.clone()) };
        PdServer::open_with(PdConfig::in_memory("pd"), parts).await.expect("opens")
    }

    fn stores_report(&self) {
        for id in [1, 4, 5] {
            let stats = StoreStats { store_id: id, used_bytes: 9, ..StoreStats::default() };
            self.server.store_heartbeat(stats).expect("known");
        }
    }

    async fn report(&self, region: Region) -> Option<Step> {
        let request = RegionHeartbeatRequest {
            leader: region.peers.first().copied(),
            region: Some(region),
            term: 6,
            approximate_size_bytes: 30 << 20,
            approximate_keys: 7,
            ..RegionHeartbeatRequest::default()
        };
        self.server.region_heartbeat(request).await.expect("valid").step
    }

    async fn ask(&self, order: Order) -> Vec<Value> {
        let rows = self.server.steer(order).await.expect("makes sense");
        serde_json::from_str(&rows).expect("JSON")
    }

    async fn refused(&self, order: Order) -> String {
        match self.server.steer(order).await {
            Err(PdError::InvalidArgument(reason)) => reason,
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn settings_are_checked_and_kept() {
    let bench = Bench::new().await;
    let set = |name: &str, value: &str| Order::ChangeSetting {
        name: name.into(),
        value: Some(value.into()),
    };
    assert_eq!(bench.refused(set("max-replica", "3")).await, "unknown setting 'max-replica'");
    let reason = bench.refused(set("max-replicas", "many")).await;
    assert_eq!(reason, "max-replicas: 'many' is not a whole number");
    let rows = bench.ask(set("max-store-down-time", "90s")).await;
    assert_eq!(rows[0]["value"], "90s");
    // A setting that the rules cannot bear is refused with the rule's name.
    let rule = r#"{"group_id":"pd","id":"default","role":"voter","count":3,
        "location_labels":["zone"],"isolation_level":"rack"}"#;
    let reason = bench.refused(Order::PutRules { rules: rule.into() }).await;
    assert_eq!(reason, "rule pd/default: isolation level 'rack' is no location label");
    bench.server.stop().await;
    let server = Bench::open(&bench.log, &bench.files, &bench.clock).await;
    let rows = server.steer(Order::Settings { prefix: "max-store".into() }).await.expect("shown");
    assert!(rows.contains("90s"), "{rows}");
    let order = Order::ChangeSetting { name: "max-store-down-time".into(), value: None };
    let rows = server.steer(order).await.expect("reset");
    assert!(rows.contains(r#""value":"30m""#), "{rows}");
    server.stop().await;
}

#[tokio::test]
async fn a_store_leaves_and_may_change_its_mind() {
    let bench = Bench::new().await;
    let change = |id, change| Order::ChangeStore { id, change };
    let reason = bench.refused(change(4, StoreChange::Offline { force: false })).await;
    assert!(reason.starts_with("without store 4 there are 2 stores for 3 replicas"), "{reason}");
    let rows = bench.ask(change(4, StoreChange::Offline { force: true })).await;
    assert_eq!((&rows[0]["state"], &rows[0]["progress"]), (&"OFFLINE".into(), &"0.0%".into()));
    let rows = bench.ask(change(4, StoreChange::Up)).await;
    assert_eq!((&rows[0]["state"], &rows[0]["progress"]), (&"UP".into(), &Value::Null));
    let unknown = bench.server.steer(change(9, StoreChange::Up)).await;
    assert!(matches!(unknown, Err(PdError::StoreNotFound(_))));
    let weight = StoreChange::Weight { leader: Some(2.0), region: None };
    assert_eq!(bench.ask(change(4, weight)).await[0]["leader_weight"], 2.0);
    let weight = StoreChange::Weight { leader: Some(-1.0), region: None };
    assert_eq!(
        bench.refused(change(4, weight)).await,
        "leader-weight: '-1' is no number from 0 to 1000"
    );
    let labels = StoreChange::Labels(vec!["zone=a".into(), "host=b".into()]);
    let rows = bench.ask(change(4, labels)).await;
    assert_eq!(rows[0]["labels"], serde_json::json!(["host=b", "zone=a"]));
    // Clients look for what is close.
    let (told, _) = bench.server.get_store(4).expect("it is there");
    assert!(told.labels.iter().any(|label| (&label.key[..], &label.value[..]) == ("zone", "a")));
    let labels = StoreChange::Labels(vec!["zone".into()]);
    assert!(bench.refused(change(4, labels)).await.contains("'zone'"));
    let limit = StoreChange::Limit { add: Some(7.0), remove: Some(0.0) };
    let rows = bench.ask(change(4, limit)).await;
    assert_eq!((&rows[0]["limit_add"], &rows[0]["limit_remove"]), (&7.0.into(), &Value::Null));
    // An empty store goes for good and is forgotten on demand.
    bench.ask(change(5, StoreChange::Offline { force: true })).await;
    bench
        .report(Region {
            epoch: Some(RegionEpoch { conf_ver: 2, version: 2 }),
            ..region(2, ("", "m"), &[1, 4])
        })
        .await;
    bench
        .report(Region {
            epoch: Some(RegionEpoch { conf_ver: 2, version: 2 }),
            ..region(3, ("m", ""), &[1, 4])
        })
        .await;
    bench.server.bury_empty_stores().await.expect("buried");
    let rows = bench.ask(Order::Stores { id: Some(5) }).await;
    assert_eq!(rows[0]["state"], "TOMBSTONE");
    assert_eq!(bench.ask(Order::Stores { id: None }).await.len(), 2);
    assert_eq!(bench.ask(Order::RemoveTombstones).await[0]["removed"], 5);
    assert!(bench.server.get_store(5).is_err());
    bench.server.stop().await;
}

#[tokio::test]
async fn operators_by_hand() {
    let bench = Bench::new().await;
    let transfer = || Order::AddOperator(NewOperator::TransferLeader { region_id: 2, store_id: 4 });
    let rows = bench.ask(transfer()).await;
    assert_eq!(rows[0]["steps"], serde_json::json!(["transfer leader to store 4"]));
    assert_eq!(bench.refused(transfer()).await, "an operator of region [2] is under way");
    assert_eq!(bench.ask(Order::Operators).await.len(), 1);
    let step = bench.report(region(2, ("", "m"), &[1, 4, 5])).await;
    assert!(matches!(step, Some(Step::TransferLeader(_))), "{step:?}");
    assert_eq!(bench.ask(Order::CancelOperator { region_id: 2 }).await[0]["cancelled"], 2);
    assert!(bench.report(region(2, ("", "m"), &[1, 4, 5])).await.is_none());
    let reason = bench.refused(Order::CancelOperator { region_id: 2 }).await;
    assert_eq!(reason, "region 2 has no operator");
    let history = bench.ask(Order::OperatorHistory { region_id: Some(2), limit: 9 }).await;
    let told = (&history[0]["ending"], &history[0]["ending_reason"], &history[0]["reason"]);
    assert_eq!(told, (&"replaced".into(), &"cancelled by hand".into(), &"by hand".into()));
    let nonsense = [
        (NewOperator::TransferLeader { region_id: 2, store_id: 1 }, "region 2 is so already"),
        (
            NewOperator::AddPeer { region_id: 2, store_id: 4 },
            "region 2 has a peer on store 4 already",
        ),
        (
            NewOperator::SplitRegion { region_id: 2, keys: vec!["7A".into()] },
            "key 7A does not lie inside region 2",
        ),
        (
            NewOperator::SplitRegion { region_id: 2, keys: vec!["zz".into()] },
            "'zz' is no key in hex",
        ),
        (
            NewOperator::MergeRegion { source_id: 2, target_id: 2 },
            "regions 2 and 2 are no neighbours",
        ),
        (
            NewOperator::TransferRegion { region_id: 2, stores: vec![] },
            "region 2: nobody would vote",
        ),
    ];
    for (operator, reason) in nonsense {
        assert_eq!(bench.refused(Order::AddOperator(operator)).await, reason);
    }
    let missing = Order::AddOperator(NewOperator::ScatterRegion { region_id: 77 });
    assert!(matches!(bench.server.steer(missing).await, Err(PdError::RegionNotFound(_))));
    // A merge ties both regions; it goes out with the neighbour as it is then.
    let merge = NewOperator::MergeRegion { source_id: 3, target_id: 2 };
    assert_eq!(bench.ask(Order::AddOperator(merge)).await.len(), 2);
    let step = bench.report(region(3, ("m", ""), &[1, 4, 5])).await;
    let Some(Step::Merge(merge)) = step else { panic!("{step:?}") };
    assert_eq!(merge.target, Some(region(2, ("", "m"), &[1, 4, 5])));
    assert!(bench.report(region(2, ("", "m"), &[1, 4, 5])).await.is_none());
    let merged = Region {
        epoch: Some(RegionEpoch { conf_ver: 1, version: 3 }),
        ..region(2, ("", ""), &[1, 4, 5])
    };
    bench.report(merged).await;
    let history = bench.ask(Order::OperatorHistory { region_id: None, limit: 2 }).await;
    assert!(history.iter().all(|row| row["ending"] == "finished"), "{history:?}");
    assert!(bench.server.get_region_by_id(3).is_err());
    bench.server.stop().await;
}

#[tokio::test]
async fn schedulers_by_hand() {
    let bench = Bench::new().await;
    let add = |name: &str, stores: &[u64]| Order::AddScheduler {
        name: name.into(),
        stores: stores.to_vec(),
        labels: Vec::new(),
    };
    assert!(bench.refused(add("shuffle", &[])).await.starts_with("unknown scheduler 'shuffle'"));
    assert_eq!(bench.refused(add("evict-leader", &[])).await, "evict-leader needs stores");
    let unknown = bench.server.steer(add("evict-leader", &[9])).await;
    assert!(matches!(unknown, Err(PdError::StoreNotFound(_))));
    let rows = bench.ask(add("evict-leader-scheduler", &[1])).await;
    assert_eq!((&rows[0]["status"], &rows[0]["stores"][0]), (&"running".into(), &1.into()));
    bench.server.run_schedulers().await.expect("looks");
    let evicted = bench.ask(Order::Operators).await;
    assert!(!evicted.is_empty());
    assert!(evicted.iter().all(|row| row["kind"] == "evict-leader"), "{evicted:?}");
    let pause = |seconds| Order::PauseScheduler { name: "evict-leader".into(), seconds };
    assert_eq!(bench.ask(pause(30)).await[0]["status"], "paused");
    assert_eq!(bench.ask(pause(0)).await[0]["status"], "running");
    let remove =
        Order::RemoveScheduler { name: "evict-leader".into(), stores: vec![1], labels: Vec::new() };
    assert_eq!(bench.ask(remove).await[0]["status"], "off");
    // Why the others do nothing.
    bench.clock.advance(30_000);
    bench.stores_report();
    bench.server.run_schedulers().await.expect("looks");
    let rows = bench.ask(Order::Schedulers { name: Some("balance-region".into()) }).await;
    let told = rows[0]["decision"].as_str().expect("text");
    assert!(told.starts_with("balanced: scores"), "{told}");
    bench.server.stop().await;
}

#[tokio::test]
async fn regions_are_found() {
    let bench = Bench::new().await;
    let top = bench.ask(Order::TopRegions { by: Measure::Size, limit: 1 }).await;
    assert_eq!((top.len(), &top[0]["id"]), (1, &2.into()));
    let check = |what| Order::CheckRegions { what, limit: 10 };
    assert!(bench.ask(check(Complaint::Miss)).await.is_empty());
    bench.clock.advance(60_000);
    let sizes = bench.ask(Order::RegionSizes).await;
    assert_eq!((&sizes[0]["regions"], &sizes[0]["from_bytes"]), (&2.into(), &(16 << 20).into()));
    let offline = StoreChange::Offline { force: true };
    bench.ask(Order::ChangeStore { id: 4, change: offline }).await;
    assert_eq!(bench.ask(check(Complaint::Offline)).await.len(), 2);
    assert!(bench.ask(Order::Hot { writes: true }).await.is_empty());
    assert!(bench.ask(Order::HotHistory { limit: 3 }).await.is_empty());
    let refused = read_order("{\"dance\":{}}").expect_err("unknown");
    assert!(refused.to_string().contains("dance"), "{refused}");
    let state = bench.server.get_store(4).expect("known").0.state();
    assert_eq!(state, StoreState::Offline);
    bench.server.stop().await;
}

#[tokio::test]
async fn rules_and_groups() {
    let bench = Bench::new().await;
    let rules = r#"[{"group_id":"g","id":"a","role":"learner","count":1,"start_key":"6D"},
        {"group_id":"g","id":"b","role":"follower","count":2}]"#;
    assert_eq!(bench.ask(Order::PutRules { rules: rules.into() }).await.len(), 2);
    assert_eq!(bench.ask(Order::Rules { group: None }).await.len(), 3);
    let group = r#"{"id":"g","index":5}"#;
    bench.ask(Order::PutRuleGroup { group: group.into() }).await;
    assert_eq!(bench.ask(Order::RuleGroups).await[0]["index"], 5);
    // A group that overrides must ask for voters itself.
    let group = r#"{"id":"g","index":5,"override":true}"#;
    let reason = bench.refused(Order::PutRuleGroup { group: group.into() }).await;
    assert_eq!(reason, "no rule asks for a voter or leader at the first key");
    let delete = |id: &str| Order::DeleteRule { group: "g".into(), id: id.into() };
    bench.ask(delete("a")).await;
    assert_eq!(bench.refused(delete("a")).await, "rule g/a is not set");
    bench.ask(Order::DeleteRuleGroup { id: "g".into() }).await;
    assert!(bench.ask(Order::RuleGroups).await.is_empty());
    bench.server.stop().await;
}

#[tokio::test]
async fn regions_are_scattered() {
    let bench = Bench::new().await;
    let client = bench.server.local_client();
    let left = client.scatter_regions(vec![2, 3, 77], "table 1").await.expect("tried");
    assert_eq!(left, [77]);
    // Two regions on the same three stores: the second one's leader goes elsewhere.
    let operators = bench.ask(Order::Operators).await;
    assert_eq!(operators.len(), 1, "{operators:?}");
    assert_eq!(operators[0]["steps"][0], "transfer leader to store 4");
    bench.server.stop().await;
}
