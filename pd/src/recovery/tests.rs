//! Plans as golden scripts; recoveries from the order to the report.
//!
//! `failed 2 3` names stores; `peer 1 region=5 members="1,2,3" range=a-m` is a peer with data
//! on store 1 that knows its region so (members as in [`crate::testing`]); `version`, `conf`,
//! `log=term/index`, `term`, `applied`, and the words `leads`, `empty`, `installing` tell
//! more. `forced 5`, `created 9 store=1 range=a-m` and `impatient` tell what was before.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use cairn_engine::MemoryRaftLog;
use cairn_pd_client::{Order, PdError};
use cairn_proto::meta::{Peer, Region, RegionEpoch, Store};
use cairn_proto::pd::{
    PeerReport, RecoveryOrders, RegionHeartbeatRequest, ReportPeersRequest, StoreStats,
};
use goldenscript::{Command, Context, Runner};
use serde_json::Value;

use super::plan::{Situation, plan};
use super::{HOLE_MS, STAGE_TIMEOUT_MS};
use crate::clock::ManualClock;
use crate::replication::MemoryFiles;
use crate::testing::{parse, told_region};
use crate::{PdConfig, PdParts, PdServer};

#[derive(Default)]
struct Scripts {
    failed: BTreeSet<u64>,
    reports: BTreeMap<u64, Vec<PeerReport>>,
    forced: BTreeSet<u64>,
    created: Vec<Region>,
    is_impatient: bool,
}

fn range(text: &str) -> (Bytes, Bytes) {
    let (start, end) = text.split_once('-').unwrap_or(("", ""));
    (Bytes::copy_from_slice(start.as_bytes()), Bytes::copy_from_slice(end.as_bytes()))
}

fn range_text(start: &[u8], end: &[u8]) -> String {
    format!("[{}, {})", String::from_utf8_lossy(start), String::from_utf8_lossy(end))
}

impl Scripts {
    fn peer(&mut self, command: &Command) -> Result<(), String> {
        let mut args = command.consume_args();
        let store_id: u64 = parse(args.next_pos().ok_or("no store")?)?;
        let id: u64 = parse(args.take_key("region").ok_or("no region")?)?;
        let (mut region, _) = told_region(id, args.take_key("members").unwrap_or(""))?;
        (region.start_key, region.end_key) = range(args.take_key("range").unwrap_or("-"));
        let mut number = |name: &str, default: u64| -> Result<u64, String> {
            args.take_key(name).map_or(Ok(default), parse::<u64>)
        };
        region.epoch =
            Some(RegionEpoch { conf_ver: number("conf", 1)?, version: number("version", 1)? });
        let term = number("term", 0)?;
        let applied = number("applied", 0)?;
        let (last_term, last_index) =
            args.take_key("log").unwrap_or("6/10").split_once('/').ok_or("log")?;
        let (last_term, last_index) = (parse(last_term)?, parse(last_index)?);
        let mut report = PeerReport {
            peer_id: id * 10 + store_id,
            term: term.max(last_term),
            last_term,
            last_index,
            applied_index: if applied > 0 { applied } else { last_index },
            has_data: true,
            ..PeerReport::default()
        };
        while let Some(word) = args.next_pos() {
            match word {
                "leads" => report.is_leader = true,
                "installing" => report.is_installing = true,
                "empty" => {
                    report.has_data = false;
                    region = Region { id, ..Region::default() };
                }
                other => return Err(format!("unknown word {other}")),
            }
        }
        report.region = Some(region);
        self.reports.entry(store_id).or_default().push(report);
        args.reject_next().map_err(|error| error.to_string())
    }

    fn plan(&self) -> String {
        let plan = plan(&Situation {
            failed: &self.failed,
            reports: &self.reports,
            forced: &self.forced,
            created: &self.created,
            is_patient: !self.is_impatient,
        });
        let mut lines = Vec::new();
        for step in &plan.force {
            let voters: Vec<String> = step.order.voters.iter().map(u64::to_string).collect();
            lines.push(format!(
                "region {}: peer {} on store {} leads with the votes of {}, above term {}",
                step.order.region_id,
                step.order.peer_id,
                step.store_id,
                voters.join(" "),
                step.order.term
            ));
        }
        for (region_id, reason) in &plan.waits {
            lines.push(format!("region {region_id} waits: {reason}"));
        }
        for step in &plan.remove {
            let order = &step.order;
            lines.push(format!("region {}: peer {} goes", order.region_id, order.peer_id));
        }
        for region in &plan.create {
            let range = range_text(&region.start_key, &region.end_key);
            lines.push(format!("region {} is made for {range}", region.id));
        }
        for hole in &plan.holes {
            let range = range_text(&hole.start_key, &hole.end_key);
            lines.push(format!("{range} is lost, store {} takes it", hole.store_id));
        }
        if lines.is_empty() {
            lines.push("nothing to do".to_owned());
        }
        lines.join("\n") + "\n"
    }
}

impl Runner for Scripts {
    type Command = Command;

    fn run(
        &mut self,
        command: &Command,
        _context: &Context,
    ) -> Result<String, Box<dyn std::error::Error>> {
        let mut args = command.consume_args();
        match command.name.as_str() {
            "reset" => *self = Scripts::default(),
            "failed" => {
                while let Some(store_id) = args.next_pos() {
                    self.failed.insert(parse(store_id)?);
                }
            }
            "forced" => {
                self.forced.insert(parse(args.next_pos().ok_or("no region")?)?);
            }
            "created" => {
                let id: u64 = parse(args.next_pos().ok_or("no region")?)?;
                let (mut region, _) = told_region(id, args.take_key("members").unwrap_or("1"))?;
                (region.start_key, region.end_key) = range(args.take_key("range").unwrap_or("-"));
                self.created.push(region);
            }
            "impatient" => self.is_impatient = true,
            "peer" => self.peer(command)?,
            "plan" => return Ok(self.plan()),
            other => return Err(format!("unknown command {other}").into()),
        }
        Ok(String::new())
    }
}

#[test]
fn plans() {
    goldenscript::run(&mut Scripts::default(), "src/recovery/testscripts/plan")
        .expect("the script holds");
}

/// Three stores; one region on all of them, two on the lost ones alone. Time is the test's.
struct Bench {
    server: Arc<PdServer>,
    clock: Arc<ManualClock>,
    log: Arc<MemoryRaftLog>,
    files: Arc<MemoryFiles>,
}

fn region(id: u64, (start, end): (&'static str, &'static str), stores: &[u64]) -> Region {
    let peer = |store_id: &u64| Peer { id: id * 10 + store_id, store_id: *store_id, role: 0 };
    Region {
        id,
        start_key: Bytes::from(start),
        end_key: Bytes::from(end),
        epoch: Some(RegionEpoch { conf_ver: 3, version: 2 }),
        peers: stores.iter().map(peer).collect(),
    }
}

fn peer_report(region: Region, store_id: u64) -> PeerReport {
    PeerReport {
        peer_id: region.id * 10 + store_id,
        region: Some(region),
        term: 6,
        last_term: 6,
        last_index: 20,
        applied_index: 20,
        has_data: true,
        ..PeerReport::default()
    }
}

fn remove(stores: &[u64], accepts_data_loss: bool) -> Order {
    Order::RemoveFailedStores { stores: stores.to_vec(), accepts_data_loss }
}

impl Bench {
    async fn new() -> Bench {
        let (log, files) = (Arc::new(MemoryRaftLog::new()), Arc::new(MemoryFiles::new()));
        let clock = Arc::new(ManualClock::at(1 << 40));
        let server = Bench::open(&log, &files, &clock).await;
        let first = Region {
            epoch: Some(RegionEpoch { conf_ver: 1, version: 1 }),
            ..region(2, ("", ""), &[1])
        };
        let store = |id: u64| Store { id, address: format!("s{id}:1"), ..Store::default() };
        server.bootstrap(store(1), first).await.expect("first");
        for id in [4, 5] {
            server.put_store(store(id)).await.expect("new");
        }
        let bench = Bench { server, clock, log, files };
        for id in [1, 4, 5] {
            bench.heartbeat(id).expect("known");
        }
        for (region, term) in
            [(region(2, ("", "m"), &[1, 4, 5]), 9), (region(3, ("m", ""), &[4, 5]), 6)]
        {
            let request = RegionHeartbeatRequest {
                leader: region.peers.last().copied(),
                region: Some(region),
                term,
                ..RegionHeartbeatRequest::default()
            };
            bench.server.region_heartbeat(request).await.expect("valid");
        }
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

    /// Another process on the same data.
    async fn restart(&mut self) {
        self.server.stop().await;
        self.server = Bench::open(&self.log, &self.files, &self.clock).await;
    }

    fn heartbeat(&self, store_id: u64) -> Result<Option<RecoveryOrders>, PdError> {
        let stats = StoreStats { store_id, ..StoreStats::default() };
        Ok(self.server.store_heartbeat(stats)?.recovery)
    }

    /// The silent stores are not heard of any more, the first one is.
    fn time_passes(&self) {
        self.clock.advance(30_000);
        self.heartbeat(1).expect("lives");
    }

    async fn ask(&self, order: Order) -> Vec<Value> {
        let rows = self.server.steer(order).await.expect("makes sense");
        serde_json::from_str(&rows).expect("JSON")
    }

    async fn refused(&self, order: Order) -> String {
        self.server.steer(order).await.expect_err("makes no sense").to_string()
    }

    /// One round: the first store is asked, tells these peers, and is given the steps.
    async fn round(&self, peers: Vec<PeerReport>) -> RecoveryOrders {
        let asked = self.heartbeat(1).expect("lives").expect("a recovery runs");
        assert!(asked.round > 0, "a report is wanted");
        let page = |page: u32, ends: bool, peers: Vec<PeerReport>| ReportPeersRequest {
            header: None,
            store_id: 1,
            round: asked.round,
            page,
            ends,
            peers,
        };
        let (one, rest) = (peers.iter().take(1).cloned(), peers.iter().skip(1).cloned());
        self.server.report_peers(page(0, false, one.collect())).expect("taken");
        self.server.report_peers(page(1, true, rest.collect())).expect("taken");
        self.server.tend_recovery().await.expect("planned");
        self.heartbeat(1).expect("lives").unwrap_or_default()
    }
}

#[tokio::test]
async fn what_makes_no_sense_is_refused() {
    let bench = Bench::new().await;
    let reason = bench.refused(remove(&[4, 5], true)).await;
    assert!(reason.contains("store 4 was heard 0 s ago"), "{reason}");
    bench.time_passes();
    let reason = bench.refused(remove(&[4, 5], false)).await;
    assert!(reason.contains("--accept-data-loss"), "{reason}");
    for (stores, named) in [
        (&[4, 9][..], "store 9"),
        (&[][..], "which stores?"),
        (&[1, 4, 5][..], "store 1 was heard"),
    ] {
        let reason = bench.refused(remove(stores, true)).await;
        assert!(reason.contains(named), "{reason}");
    }
    assert!(bench.ask(Order::Recovery).await.is_empty(), "nothing has begun");
    bench.ask(remove(&[4, 5], true)).await;
    let reason = bench.refused(remove(&[4, 5], true)).await;
    assert!(reason.contains("under way"), "{reason}");
    bench.server.stop().await;
}

#[tokio::test]
async fn regions_are_forced_and_lost_ranges_filled() {
    let mut bench = Bench::new().await;
    bench.time_passes();
    let rows = bench.ask(remove(&[5, 4], true)).await;
    assert_eq!((&rows[0]["state"], &rows[0]["stores"]), (&"collecting".into(), &[4, 5][..].into()));
    // Whoever was named is out for good.
    assert!(matches!(bench.heartbeat(4), Err(PdError::StoreTombstone(_))));
    let back = Store { id: 5, address: "s5:1".into(), ..Store::default() };
    assert!(matches!(bench.server.put_store(back).await, Err(PdError::StoreTombstone(_))));

    let before = region(2, ("", "m"), &[1, 4, 5]);
    let orders = bench.round(vec![peer_report(before.clone(), 1)]).await;
    assert_eq!(orders.failed_stores, [4, 5]);
    let order = &orders.force[0];
    assert_eq!((order.region_id, order.peer_id, &order.voters[..]), (2, 21, &[21][..]));
    // The leader that is gone was in term 9: reports of an older one would be ignored.
    assert_eq!(order.term, 9);
    let rows = bench.ask(Order::Recovery).await;
    assert_eq!((&rows[0]["state"], &rows[1]["what"]), (&"forcing".into(), &"suspect".into()));
    assert_eq!((&rows[1]["region"], &rows[1]["end_key"]), (&2.into(), &"6D".into()));

    // Another leader of PD goes on, with the report as it was.
    bench.restart().await;
    bench.clock.advance(1_000);
    let after = Region {
        epoch: Some(RegionEpoch { conf_ver: 5, version: 2 }),
        ..region(2, ("", "m"), &[1])
    };
    let forced = || vec![PeerReport { is_leader: true, ..peer_report(after.clone(), 1) }];
    let orders = bench.round(forced()).await;
    assert!(orders.force.is_empty() && orders.create.is_empty(), "{orders:?}");
    bench.clock.advance(HOLE_MS);
    let orders = bench.round(forced()).await;
    let made = orders.create[0].clone();
    assert_eq!((&made.start_key[..], &made.end_key[..]), (&b"m"[..], &b""[..]));
    assert!(made.epoch.expect("set").version > 2, "newer than what was there");
    // It is ordered until it is there, and never made twice.
    let orders = bench.round(forced()).await;
    assert_eq!(orders.create, std::slice::from_ref(&made));
    let mut peers = forced();
    let own = made.peers[0].id;
    peers.push(PeerReport { peer_id: own, is_leader: true, ..peer_report(made.clone(), 1) });
    assert_eq!(bench.round(peers).await, RecoveryOrders::default(), "it is over");
    let rows = bench.ask(Order::Recovery).await;
    let kinds: Vec<&Value> = rows.iter().map(|row| &row["what"]).collect();
    assert_eq!(kinds, ["recovery", "lost", "suspect"]);
    assert_eq!((&rows[0]["state"], &rows[1]["start_key"]), (&"finished".into(), &"6D".into()));
    bench.server.stop().await;
}

#[tokio::test]
async fn a_store_that_stays_silent_fails_the_recovery_and_the_next_names_it() {
    let bench = Bench::new().await;
    bench.time_passes();
    bench.ask(remove(&[5], true)).await;
    bench.server.tend_recovery().await.expect("waits");
    let rows = bench.ask(Order::Recovery).await;
    let detail = rows[0]["detail"].as_str().expect("text");
    assert!(detail.contains("waiting for the report of store 1, 4"), "{detail}");
    bench.clock.advance(STAGE_TIMEOUT_MS);
    bench.server.tend_recovery().await.expect("gives up");
    let rows = bench.ask(Order::Recovery).await;
    assert_eq!(rows[0]["state"], "failed");
    let detail = rows[0]["detail"].as_str().expect("text");
    assert!(detail.contains("no report of store 1, 4: bring it back"), "{detail}");
    bench.heartbeat(1).expect("lives");
    let rows = bench.ask(remove(&[4, 5], true)).await;
    assert_eq!(rows[0]["state"], "collecting");
    bench.server.stop().await;
}
