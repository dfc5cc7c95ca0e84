//! Three members over gRPC in one process, and a client that survives them.

use std::net::SocketAddr;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::*;

/// What any of the following may take on a busy machine.
const DEADLINE: Duration = Duration::from_secs(20);

/// A member that serves.
struct Served {
    server: Arc<PdServer>,
    stop: CancellationToken,
    serving: JoinHandle<()>,
    dir: tempfile::TempDir,
    addr: SocketAddr,
    config: PdConfig,
}

impl Served {
    async fn start(dir: tempfile::TempDir, listener: TcpListener, config: PdConfig) -> Served {
        let addr = listener.local_addr().expect("bound");
        let server = PdServer::open(config.clone()).await.expect("opens");
        let stop = CancellationToken::new();
        let serving = tokio::spawn({
            let (server, stop) = (server.clone(), stop.clone());
            async move {
                server.serve_grpc(listener, stop.cancelled_owned()).await.expect("serves");
            }
        });
        Served { server, stop, serving, dir, addr, config }
    }

    /// Without a word to the others.
    async fn stop(self) -> (tempfile::TempDir, SocketAddr, PdConfig) {
        self.stop.cancel();
        self.serving.await.expect("ends well");
        self.server.stop().await;
        (self.dir, self.addr, self.config)
    }
}

/// The same member again, on its folder and its address.
async fn restart((dir, addr, config): (tempfile::TempDir, SocketAddr, PdConfig)) -> Served {
    let bind = async {
        loop {
            match TcpListener::bind(addr).await {
                Ok(listener) => return listener,
                Err(_) => tokio::task::yield_now().await,
            }
        }
    };
    let listener = tokio::time::timeout(DEADLINE, bind).await.expect("the port is free again");
    Served::start(dir, listener, config).await
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

async fn three() -> Vec<Served> {
    let mut listeners = Vec::new();
    for _ in 0..3 {
        listeners.push(TcpListener::bind("127.0.0.1:0").await.expect("a port"));
    }
    let addrs: Vec<SocketAddr> =
        listeners.iter().map(|one| one.local_addr().expect("bound")).collect();
    let named = addrs.iter().enumerate();
    let initial: Vec<(String, String)> =
        named.map(|(at, addr)| (format!("pd-{}", at + 1), addr.to_string())).collect();
    let mut members = Vec::new();
    for (at, listener) in listeners.into_iter().enumerate() {
        let dir = folder();
        let config = PdConfig {
            initial_cluster: initial.clone(),
            ..PdConfig::new(initial[at].0.clone(), dir.path(), initial[at].1.clone())
        };
        members.push(Served::start(dir, listener, config).await);
    }
    members
}

/// The position of the member that leads.
async fn leader_of(members: &[Served]) -> usize {
    let found = async {
        loop {
            let leads = |one: &Served| one.server.check_leads().is_ok();
            if let Some(at) = members.iter().position(leads) {
                return at;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, found).await.expect("somebody leads in time")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_goes_on_when_the_leader_dies() {
    let mut members = three().await;
    // One address suffices: the members tell the others.
    let endpoint = members[0].addr.to_string();
    let connect = async {
        loop {
            if let Ok(client) = GrpcPdClient::connect(&[&endpoint]).await {
                return Arc::new(client);
            }
        }
    };
    let client = tokio::time::timeout(DEADLINE, connect).await.expect("a leader in time");
    client.bootstrap(store(1), first_region()).await.expect("first");
    let mut versions = client.watch_schema().await.expect("watches");
    assert_eq!(versions.next().await, Some(0));
    let (stop, mut last_ts, mut last_id) = (CancellationToken::new(), TimeStamp::ZERO, 0);
    let asking = tokio::spawn({
        let (client, stop) = (client.clone(), stop.clone());
        async move {
            let mut longest = Duration::ZERO;
            while !stop.is_cancelled() {
                let begun = tokio::time::Instant::now();
                let ts = client.get_ts().await.expect("no error to the caller");
                let id = client.alloc_ids(2).await.expect("no error to the caller");
                longest = longest.max(begun.elapsed());
                assert!(ts > last_ts && id > last_id);
                (last_ts, last_id) = (ts, id + 1);
            }
            longest
        }
    });
    for version in 1..=2 {
        let at = leader_of(&members).await;
        let dead = members.remove(at).stop().await;
        let next = leader_of(&members).await;
        assert_eq!(members[next].server.get_region(b"k").expect("known").region, first_region());
        client.notify_schema(version).await.expect("announced");
        let heard = tokio::time::timeout(DEADLINE, versions.next()).await;
        assert_eq!(heard, Ok(Some(version)));
        members.push(restart(dead).await);
    }
    stop.cancel();
    let longest = asking.await.expect("runs");
    assert!(longest < Duration::from_secs(5), "{longest:?} without a timestamp");
    for member in members {
        member.stop().await;
    }
}

/// A client that was told of one member which does not lead: it is led on, for every kind of call,
/// and knows the others from then on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_follower_is_address_enough() {
    let mut members = three().await;
    let at = leader_of(&members).await;
    let follower = &members[(at + 1) % 3];
    let client = GrpcPdClient::connect(&[follower.addr.to_string()]).await.expect("led on");
    let (known, leader) = client.members().await.expect("answered");
    assert_eq!(known.len(), 3);
    assert_eq!(leader.expect("somebody").client_url, members[at].addr.to_string());
    client.bootstrap(store(1), first_region()).await.expect("first");
    client.put_store(store(1)).await.expect("taken");
    let first = client.get_ts().await.expect("a timestamp");
    assert!(client.get_ts().await.expect("a timestamp") > first);
    assert!(client.alloc_ids(1).await.expect("an id") > 0);
    assert_eq!(client.get_region(b"k").await.expect("known").region, first_region());
    let mut versions = client.watch_schema().await.expect("watches");
    assert_eq!(versions.next().await, Some(0));
    // The only member it was told of goes; then so does the one that led.
    let gone = (at + 1) % 3;
    let back = members.remove(gone).stop().await;
    assert!(client.get_ts().await.expect("from the leader") > first);
    members.push(restart(back).await);
    let dead = members.remove(leader_of(&members).await).stop().await;
    assert!(client.get_ts().await.expect("from the next leader") > first);
    members.push(restart(dead).await);
    for member in members {
        member.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routes_are_answered_while_nobody_leads() {
    let mut members = three().await;
    let at = leader_of(&members).await;
    let endpoints: Vec<String> = members.iter().map(|one| one.addr.to_string()).collect();
    let client = GrpcPdClient::connect(&endpoints).await.expect("somebody leads");
    client.bootstrap(store(1), first_region()).await.expect("first");
    // The last one cannot lead alone, and holds what it has applied.
    let left = (at + 1) % 3;
    let applied = async {
        while !members[left].server.is_bootstrapped() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, applied).await.expect("followers apply too");
    let last = members.remove(left);
    for member in members {
        member.stop().await;
    }
    assert_eq!(client.get_region(b"k").await.expect("from a follower").region, first_region());
    assert_eq!(client.get_store(1).await.expect("from a follower").id, 1);
    last.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_join_lead_and_leave() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let (dir, addr) = (folder(), listener.local_addr().expect("bound").to_string());
    let config = PdConfig::new("pd-1", dir.path(), addr.clone());
    let first = Served::start(dir, listener, config).await;
    let client = GrpcPdClient::connect(&[&addr]).await.expect("it leads alone");
    client.bootstrap(store(1), first_region()).await.expect("first");
    let mut members = vec![first];
    let join = async |name: &str, dir: tempfile::TempDir| {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let own = listener.local_addr().expect("bound").to_string();
        let config = PdConfig { join: vec![addr.clone()], ..PdConfig::new(name, dir.path(), own) };
        Served::start(dir, listener, config).await
    };
    for name in ["pd-2", "pd-3"] {
        members.push(join(name, folder()).await);
        let votes = async {
            loop {
                let (known, _) = client.members().await.expect("somebody leads");
                let member = known.iter().find(|member| member.name == name);
                if member.is_some_and(|member| !member.learner && member.healthy) {
                    return;
                }
            }
        };
        tokio::time::timeout(DEADLINE, votes).await.expect("it catches up and votes");
    }
    // A name is one member's, whatever folder comes with it.
    let twice = PdConfig { join: vec![addr.clone()], ..PdConfig::new("pd-3", "", "127.0.0.1:9") };
    let twice = PdConfig { data_dir: Some(folder().path().to_owned()), ..twice };
    let refused = PdServer::open(twice).await.err().expect("the name is taken").to_string();
    assert!(refused.contains("pd-3 is taken"), "{refused}");
    client.transfer_member("pd-3").await.expect("it is well");
    assert_eq!(leader_of(&members).await, 2);
    // Removing the leader: another one takes over and does it.
    client.remove_member("pd-3").await.expect("two are left");
    let (known, leader) = client.members().await.expect("somebody leads");
    assert_eq!(known.len(), 2);
    assert_ne!(leader.expect("somebody").name, "pd-3");
    let removed = members.pop().expect("the third");
    let mut status = removed.server.shared().watch_status();
    let told = status.wait_for(|status| status.removed);
    tokio::time::timeout(DEADLINE, told).await.expect("it hears of it").expect("lives");
    removed.stop().await;
    assert_eq!(client.get_region(b"k").await.expect("known").region, first_region());
    for member in members {
        member.stop().await;
    }
}

#[tokio::test]
async fn strangers_are_told_why() {
    let mut members = three().await;
    let at = leader_of(&members).await;
    let other = &members[(at + 1) % 3];
    let head = cairn_proto::pd::RaftHead {
        cluster_id: members[at].server.cluster_id(),
        from: 9,
        to: other.server.shared().member_id(),
        founders: other.server.shared().state().read().members.founders_checksum(),
        ..Default::default()
    };
    let admit = |head: cairn_proto::pd::RaftHead| other.server.inbox().admit(&head);
    let reason = |outcome: Result<(), crate::replication::transport::Refusal>| {
        PdError::from(outcome.expect_err("refused")).to_string()
    };
    let learnt = async {
        while other.server.cluster_id() == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, learnt).await.expect("the leader says which cluster this is");
    // One that joined while this one was away.
    assert_eq!(admit(head.clone()), Ok(()));
    let elsewhere = cairn_proto::pd::RaftHead { to: 8, ..head.clone() };
    assert!(reason(admit(elsewhere)).contains("not 8"));
    let foreign = cairn_proto::pd::RaftHead { cluster_id: 1, ..head.clone() };
    assert!(reason(admit(foreign)).contains("cluster"));
    // One that knows already that the cluster's identity was recovered from its stores.
    let ahead = cairn_proto::pd::RaftHead {
        cluster_id: 1,
        provisional_cluster_id: head.cluster_id,
        ..head.clone()
    };
    assert_eq!(admit(ahead), Ok(()));
    let alien = cairn_proto::pd::RaftHead { cluster_id: 0, founders: 1, ..head.clone() };
    assert!(reason(admit(alien)).contains("began with"));
    // A member that lost its folder: it may have forgotten votes.
    let known = async {
        while other
            .server
            .shared()
            .state()
            .read()
            .members
            .get(at as u64 + 1)
            .is_none_or(|m| m.token == 0)
        {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, known).await.expect("tokens are written down");
    let emptied = cairn_proto::pd::RaftHead { from: at as u64 + 1, token: 1, ..head };
    assert!(reason(admit(emptied)).contains("another data folder"));
    while let Some(member) = members.pop() {
        member.stop().await;
    }
}
