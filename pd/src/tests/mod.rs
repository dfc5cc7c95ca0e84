//! The driver as its clients see it: directly, over gRPC, and after restarts.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cairn_engine::MemoryRaftLog;
use cairn_pd_client::{ClusterRecovery, GrpcPdClient, Order, PdClient, PdError};
use cairn_proto::meta::{Peer, PeerRole, Region, RegionEpoch, Store, StoreState};
use cairn_proto::pd::region_heartbeat_response::Step;
use cairn_proto::pd::{
    ChangePeer, ChangePeerKind, ConfigEntry, RegionHeartbeatRequest, RegionHeartbeatResponse,
    StoreStats,
};
use cairn_types::TimeStamp;
use futures::StreamExt;
use tokio::net::TcpListener;

use crate::clock::ManualClock;
use crate::config::ScheduleConfig;
use crate::operator::history::Ending;
use crate::replication::MemoryFiles;
use crate::state::{Command, Kind};
use crate::{PdConfig, PdParts, PdServer};

mod failover;
mod over_grpc;

fn store(id: u64) -> Store {
    Store { id, address: format!("127.0.0.1:{id}"), ..Store::default() }
}

fn peer(id: u64, store_id: u64) -> Peer {
    Peer { id, store_id, role: 0 }
}

fn first_region() -> Region {
    Region {
        id: 2,
        epoch: Some(RegionEpoch { conf_ver: 1, version: 1 }),
        peers: vec![peer(3, 1)],
        ..Region::default()
    }
}

/// A server on parts that outlive it.
struct Bench {
    log: Arc<MemoryRaftLog>,
    files: Arc<MemoryFiles>,
    clock: Arc<ManualClock>,
}

impl Bench {
    fn new() -> Bench {
        let clock = Arc::new(ManualClock::at(1_700_000_000_000));
        let (log, files) = (Arc::new(MemoryRaftLog::new()), Arc::new(MemoryFiles::new()));
        Bench { log, files, clock }
    }

    async fn open(&self) -> Arc<PdServer> {
        let parts = PdParts {
            log: self.log.clone(),
            files: self.files.clone(),
            ..PdParts::in_memory(self.clock.clone())
        };
        PdServer::open_with(PdConfig::in_memory("pd"), parts).await.expect("opens")
    }
}

#[tokio::test]
async fn timestamps_and_ids_grow_across_restarts() {
    let bench = Bench::new();
    let mut last_ts = TimeStamp::ZERO;
    let mut last_id = 0;
    for life in 0..5u64 {
        let server = bench.open().await;
        for _ in 0..3 {
            let ts = server.get_ts(7).await.expect("serves");
            assert!(ts.0 - 6 > last_ts.0);
            last_ts = ts;
            let id = server.alloc_ids(400).await.expect("serves");
            assert!(id > last_id);
            last_id = id + 399;
        }
        server.stop().await;
        // The clock jumps back while nobody looks.
        bench.clock.set_unix_ms(1_600_000_000_000 - life * 86_400_000);
    }
}

#[tokio::test]
async fn opens_quickly_on_disk_and_remembers() {
    let dir = tempfile::tempdir().expect("a folder");
    let open = || PdServer::open(PdConfig::new("pd", dir.path().join("pd"), "127.0.0.1:0"));
    let server = open().await.expect("opens");
    let cluster_id = server.cluster_id();
    let client = server.local_client();
    client.bootstrap(store(1), first_region()).await.expect("first");
    client.notify_schema(9).await.expect("announced");
    let entries = vec![ConfigEntry { key: "sql/1".into(), value: "addr".into() }];
    client.put_config(entries.clone()).await.expect("written");
    let ts = client.get_ts().await.expect("serves");
    server.stop().await;
    let server = open().await.expect("opens again");
    let client = server.local_client();
    assert_eq!(client.cluster_id(), cluster_id);
    assert!(client.get_ts().await.expect("serves") > ts);
    assert!(client.is_bootstrapped().await.expect("knows"));
    assert_eq!(client.get_config("sql/").await.expect("knows"), entries);
    assert_eq!(client.get_config("x").await.expect("knows"), []);
    let route = client.get_region(b"any key").await.expect("the route survives");
    assert_eq!((route.region, route.leader), (first_region(), None));
    let mut versions = client.watch_schema().await.expect("watches");
    assert_eq!(versions.next().await, Some(9));
    server.stop().await;
}

/// What a member wrote before there could be several: a log and nothing else.
#[tokio::test]
async fn a_folder_of_a_single_member_of_old_opens() {
    use cairn_engine::{LogBatch, RaftEngineLog, RaftEngineOptions, RaftLocalState, RaftLog};
    use prost::Message;

    let dir = tempfile::tempdir().expect("a folder");
    {
        let log = RaftEngineLog::open(&dir.path().join("log"), &RaftEngineOptions::default());
        let mut batch = LogBatch::new();
        let commands = [None, Some(Kind::InitCluster(77)), Some(Kind::IdBound(1_000))];
        let entries = commands.into_iter().enumerate().map(|(at, kind)| {
            let command = kind.map(Command::from);
            raft::eraftpb::Entry {
                index: at as u64 + 1,
                term: 2,
                data: command.map_or(Vec::new(), |command| command.encode_to_vec()).into(),
                ..Default::default()
            }
        });
        batch.append(1, entries.collect());
        let mut local = RaftLocalState { last_index: 3, ..RaftLocalState::default() };
        (local.hard_state.term, local.hard_state.vote, local.hard_state.commit) = (2, 1, 2);
        batch.put_state(1, local);
        log.expect("opens").write(batch, true).expect("written");
    }
    for _ in 0..2 {
        let config = PdConfig::new("pd-1", dir.path(), "127.0.0.1:1");
        let server = PdServer::open(config).await.expect("opens");
        assert_eq!(server.cluster_id(), 77);
        assert!(server.alloc_ids(1).await.expect("serves") > 1_000);
        let (members, leader) = server.members();
        assert_eq!((members.len(), members[0].name.as_str()), (1, "pd-1"));
        assert_eq!(leader.map(|leader| leader.member_id), Some(1));
        server.stop().await;
    }
}

#[tokio::test]
async fn stores_fall_silent() {
    let bench = Bench::new();
    let server = bench.open().await;
    server.bootstrap(store(1), first_region()).await.expect("first");
    let state = || server.get_store(1).expect("known").0.state();
    assert_eq!(state(), StoreState::Up);
    let config = ScheduleConfig::default();
    bench.clock.advance(config.disconnected_ms());
    assert_eq!(state(), StoreState::Disconnected);
    let stats = StoreStats { store_id: 1, capacity_bytes: 7, ..StoreStats::default() };
    server.store_heartbeat(stats).expect("known");
    assert_eq!(state(), StoreState::Up);
    bench.clock.advance(config.down_ms());
    assert_eq!(state(), StoreState::Down);
    assert_eq!(server.get_all_stores()[0].1.capacity_bytes, 7);
    let unknown = StoreStats { store_id: 4, ..StoreStats::default() };
    assert!(matches!(server.store_heartbeat(unknown), Err(PdError::StoreNotFound(_))));
    server.stop().await;
}

/// A leader that does what it is told.
struct Leader {
    region: Region,
    leader: Peer,
    pending: Vec<Peer>,
    steps: Vec<String>,
}

impl Leader {
    fn heartbeat(&self) -> RegionHeartbeatRequest {
        RegionHeartbeatRequest {
            region: Some(self.region.clone()),
            leader: Some(self.leader),
            term: 6,
            pending_peers: self.pending.clone(),
            ..RegionHeartbeatRequest::default()
        }
    }

    /// Enters a joint state; without changes leaves it.
    fn change_jointly(&mut self, changes: &[ChangePeer]) {
        for peer in &mut self.region.peers {
            match peer.role() {
                PeerRole::IncomingVoter => peer.set_role(PeerRole::Voter),
                PeerRole::DemotingVoter => peer.set_role(PeerRole::Learner),
                _ => {}
            }
        }
        let mut told = if changes.is_empty() { "Leave" } else { "Enter" }.to_owned();
        for change in changes {
            let id = change.peer.expect("names a peer").id;
            let known = self.region.peers.iter_mut().find(|known| known.id == id);
            let known = known.expect("it is a member");
            told += &format!(" {:?} {}", change.kind(), known.store_id);
            known.set_role(match change.kind() {
                ChangePeerKind::AddVoter => PeerRole::IncomingVoter,
                _ => PeerRole::DemotingVoter,
            });
        }
        self.steps.push(told);
        if let Some(epoch) = &mut self.region.epoch {
            epoch.conf_ver += 1;
        }
    }

    fn take(&mut self, response: &RegionHeartbeatResponse) -> bool {
        let Some(step) = &response.step else { return false };
        assert_eq!(response.region_id, self.region.id);
        match step {
            Step::ChangePeer(change) => {
                let peer = change.peer.expect("names a peer");
                self.steps.push(format!("{:?} {}", change.kind(), peer.store_id));
                self.region.peers.retain(|known| known.id != peer.id);
                match change.kind() {
                    ChangePeerKind::AddLearner => {
                        assert_eq!(peer.role(), PeerRole::Learner);
                        self.region.peers.push(peer);
                        self.pending = vec![peer];
                    }
                    ChangePeerKind::AddVoter => self.region.peers.push(peer),
                    ChangePeerKind::Remove => {}
                }
                if let Some(epoch) = &mut self.region.epoch {
                    epoch.conf_ver += 1;
                }
            }
            Step::TransferLeader(transfer) => {
                self.leader = transfer.peer.expect("names a peer");
                self.steps.push(format!("Transfer {}", self.leader.store_id));
            }
            Step::SplitRegion(_) => self.steps.push("Split".into()),
            Step::ChangePeerV2(joint) => self.change_jointly(&joint.changes),
            Step::Merge(_) => self.steps.push("Merge".into()),
        }
        true
    }
}

#[tokio::test]
async fn a_region_gets_its_replicas_and_moves_off_a_leaving_store() {
    let bench = Bench::new();
    let server = bench.open().await;
    server.bootstrap(store(1), first_region()).await.expect("first");
    for id in 2..=3 {
        server.put_store(store(id)).await.expect("new store");
    }
    let mut leader = Leader {
        region: first_region(),
        leader: peer(3, 1),
        pending: Vec::new(),
        steps: Vec::new(),
    };
    let run = async |leader: &mut Leader| {
        for _ in 0..20 {
            let response = server.region_heartbeat(leader.heartbeat()).await;
            let response = response.unwrap_or_else(|error| panic!("{error}: {:?}", leader.steps));
            if !leader.take(&response) {
                // Whoever lagged has caught up by the next heartbeat.
                leader.pending.clear();
            }
        }
        std::mem::take(&mut leader.steps)
    };
    assert_eq!(
        run(&mut leader).await,
        ["AddLearner 2", "AddVoter 2", "AddLearner 3", "AddVoter 3"]
    );
    let route = server.get_region(b"k").expect("known");
    assert_eq!((route.region.peers.len(), route.leader), (3, Some(peer(3, 1))));
    server.put_store(store(4)).await.expect("new store");
    let mut leaving = store(1);
    leaving.set_state(StoreState::Offline);
    server.put_store(leaving).await.expect("leaves");
    assert_eq!(
        run(&mut leader).await,
        ["AddLearner 4", "Transfer 2", "Enter AddVoter 4 AddLearner 1", "Leave", "Remove 1"]
    );
    // The empty store is removed for good, without being asked.
    let removed = async || {
        while server.get_store(1).expect("known").0.state() != StoreState::Tombstone {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), removed()).await.expect("becomes a tombstone");
    let ended = |ending| server.inspect(|_, cluster, _| cluster.history().count(ending));
    assert_eq!(Ending::ALL.map(ended), [3, 0, 0, 0]);
    // Late news of the time before.
    let mut old = leader.heartbeat();
    old.region = Some(first_region());
    old.leader = Some(peer(3, 1));
    let ignored = server.region_heartbeat(old).await.expect("ignored");
    assert!(ignored.step.is_none());
    assert_eq!(server.get_region(b"k").expect("known").region, leader.region);
    server.stop().await;
}

#[tokio::test]
async fn a_size_outlives_its_leader() {
    let bench = Bench::new();
    let server = bench.open().await;
    let members = vec![peer(3, 1), peer(4, 2)];
    let region = Region { peers: members.clone(), ..first_region() };
    server.bootstrap(store(1), region.clone()).await.expect("first");
    server.put_store(store(2)).await.expect("new store");
    let report = async |region: &Region, leader: Peer, term, bytes, size_is_guess| {
        let request = RegionHeartbeatRequest {
            region: Some(region.clone()),
            leader: Some(leader),
            term,
            approximate_size_bytes: bytes,
            approximate_keys: bytes / 10,
            size_is_guess,
            ..RegionHeartbeatRequest::default()
        };
        server.region_heartbeat(request).await.expect("taken");
        let route = server.get_region(b"k").expect("known");
        (route.approximate_size_bytes, route.approximate_keys)
    };
    assert_eq!(report(&region, members[0], 6, 5, true).await, (5, 0), "better than nothing");
    assert_eq!(report(&region, members[0], 6, 4_000, false).await, (4_000, 400));
    // The next leader has not measured yet.
    assert_eq!(report(&region, members[1], 7, 10, true).await, (4_000, 400));
    assert_eq!(report(&region, members[1], 7, 3_000, false).await, (3_000, 300));
    // Of another range nothing was known.
    let mut cut = Region { end_key: Bytes::from_static(b"q"), ..region };
    cut.epoch = Some(RegionEpoch { conf_ver: 1, version: 2 });
    assert_eq!(report(&cut, members[1], 7, 1_500, true).await, (1_500, 150));
    server.stop().await;
}

#[tokio::test]
async fn splits_are_reported() {
    let bench = Bench::new();
    let server = bench.open().await;
    server.bootstrap(store(1), first_region()).await.expect("first");
    let ids = server.ask_split(&first_region(), 2).await.expect("ids");
    assert_eq!(ids.len(), 2);
    assert_eq!(ids[0].new_peer_ids.len(), 1);
    let part = |id: u64, start: &'static str, end: &'static str| Region {
        id,
        start_key: Bytes::from_static(start.as_bytes()),
        end_key: Bytes::from_static(end.as_bytes()),
        epoch: Some(RegionEpoch { conf_ver: 1, version: 3 }),
        peers: vec![peer(id + 1, 1)],
    };
    let left = part(ids[0].new_region_id, "", "f");
    let middle = part(ids[1].new_region_id, "f", "p");
    let right = Region { peers: vec![peer(3, 1)], ..part(2, "p", "") };
    let regions = vec![left.clone(), middle.clone(), right.clone()];
    server.report_split(regions.clone()).await.expect("reported");
    let found: Vec<Region> =
        server.scan_regions(b"", b"", 0).into_iter().map(|route| route.region).collect();
    assert_eq!(found, regions);
    assert_eq!(server.scan_regions(b"g", b"q", 1)[0].region, middle);
    assert_eq!(server.get_region(b"a").expect("known").region, left);
    assert!(matches!(server.get_region_by_id(77), Err(PdError::RegionNotFound(_))));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_grpc() {
    let bench = Bench::new();
    let server = bench.open().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound").to_string();
    let (shut_down, shutdown) = tokio::sync::oneshot::channel::<()>();
    let serving = tokio::spawn({
        let server = server.clone();
        async move { server.serve_grpc(listener, async { drop(shutdown.await) }).await }
    });
    let dead = "127.0.0.1:1".to_owned();
    let client = Arc::new(GrpcPdClient::connect(&[dead, address]).await.expect("finds the leader"));
    assert_eq!(client.cluster_id(), server.cluster_id());
    assert!(matches!(client.get_region(b"k").await, Err(PdError::NotBootstrapped)));
    client.bootstrap(store(1), first_region()).await.expect("first");
    let again = client.bootstrap(store(5), Region { id: 9, ..first_region() }).await;
    assert_eq!(again, Err(PdError::AlreadyBootstrapped));
    assert_eq!(client.get_region(b"k").await.expect("known").region, first_region());
    let before = server.get_ts(1).await.expect("serves");
    let callers = (0..2000).map(|_| {
        let client = client.clone();
        tokio::spawn(async move { client.get_ts().await.expect("serves") })
    });
    let mut timestamps: Vec<TimeStamp> =
        futures::future::join_all(callers).await.into_iter().map(|ts| ts.expect("runs")).collect();
    timestamps.sort();
    timestamps.dedup();
    assert_eq!(timestamps.len(), 2000);
    assert!(timestamps[0] > before);
    let first = client.alloc_ids(5).await.expect("ids");
    assert!(client.alloc_ids(1).await.expect("ids") >= first + 5);
    let mut versions = client.watch_schema().await.expect("watches");
    assert_eq!(versions.next().await, Some(0));
    client.notify_schema(4).await.expect("announced");
    let next = tokio::time::timeout(Duration::from_secs(5), versions.next()).await;
    assert_eq!(next, Ok(Some(4)));
    // Open streams do not hold the service up.
    drop(shut_down);
    serving.await.expect("runs").expect("ends well");
    server.stop().await;
}

#[tokio::test]
async fn status_pages() {
    let bench = Bench::new();
    let server = bench.open().await;
    server.bootstrap(store(1), first_region()).await.expect("first");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let serving = tokio::spawn({
        let server = server.clone();
        async move { server.serve_status(listener, std::future::pending()).await }
    });
    for (path, expected) in [
        ("/health", "true"),
        ("/status", "\"bootstrapped\":true"),
        ("/stores", "127.0.0.1:1"),
        ("/regions", "\"start_key\":\"\""),
        ("/operators", "[]"),
        ("/metrics", "cairn_pd_regions 1"),
    ] {
        let page = fetch(address, path).await;
        assert!(page.contains(expected), "{path}: {page}");
    }
    server.stop().await;
    serving.await.expect("runs").expect("ends well");
}

async fn fetch(address: std::net::SocketAddr, path: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(address).await.expect("connects");
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("sends");
    let mut page = String::new();
    stream.read_to_string(&mut page).await.expect("reads");
    page
}
