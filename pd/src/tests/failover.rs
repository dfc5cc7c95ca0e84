//! Several members in one process on time that is paused: leaders die, clocks jump.

use std::sync::atomic::{AtomicI64, Ordering};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::LocalPdClient;
use crate::clock::Clock;
use crate::replication::{Driver, LocalNetwork};

/// Begin of the wall clocks.
const EPOCH_MS: u64 = 1_700_000_000_000;

/// The runtime's time, with a wall clock that somebody may set.
struct RuntimeClock {
    start: tokio::time::Instant,
    offset_ms: AtomicI64,
}

impl RuntimeClock {
    fn jump(&self, ms: i64) {
        self.offset_ms.fetch_add(ms, Ordering::SeqCst);
    }
}

impl Clock for RuntimeClock {
    fn unix_ms(&self) -> u64 {
        let offset_ms = self.offset_ms.load(Ordering::SeqCst);
        (EPOCH_MS + self.monotonic_ms()).saturating_add_signed(offset_ms)
    }

    fn monotonic_ms(&self) -> u64 {
        1_000 + self.start.elapsed().as_millis() as u64
    }
}

/// What outlives a member.
struct Machine {
    log: Arc<MemoryRaftLog>,
    files: Arc<MemoryFiles>,
    clock: Arc<RuntimeClock>,
    server: Option<Arc<PdServer>>,
}

/// Members of one cluster.
struct Members {
    network: Arc<LocalNetwork>,
    machines: Vec<Machine>,
}

impl Members {
    async fn start(count: usize) -> Members {
        let start = tokio::time::Instant::now();
        let machine = |_| Machine {
            log: Arc::default(),
            files: Arc::default(),
            clock: Arc::new(RuntimeClock { start, offset_ms: AtomicI64::new(0) }),
            server: None,
        };
        let machines = (0..count).map(machine).collect();
        let mut members = Members { network: LocalNetwork::new(), machines };
        for at in 0..count {
            members.open(at).await;
        }
        members
    }

    async fn open(&mut self, at: usize) {
        let names = (1..=self.machines.len()).map(|id| format!("pd-{id}"));
        let config = PdConfig {
            seed: Some(at as u64),
            initial_cluster: names.map(|name| (name.clone(), format!("{name}:1"))).collect(),
            addr: format!("pd-{}:1", at + 1),
            ..PdConfig::in_memory(format!("pd-{}", at + 1))
        };
        let machine = &mut self.machines[at];
        let parts = PdParts {
            log: machine.log.clone(),
            files: machine.files.clone(),
            clock: machine.clock.clone(),
            transport: self.network.clone(),
            driver: Driver::Task,
        };
        machine.server = Some(PdServer::open_with(config, parts).await.expect("opens"));
    }

    /// The power fails.
    async fn kill(&mut self, at: usize) {
        self.network.detach(at as u64 + 1);
        let machine = &mut self.machines[at];
        if let Some(server) = machine.server.take() {
            server.stop().await;
        }
        machine.log.crash();
    }

    fn living(&self) -> Vec<Arc<PdServer>> {
        self.machines.iter().filter_map(|machine| machine.server.clone()).collect()
    }

    fn client(&self) -> LocalPdClient {
        LocalPdClient::new(self.living())
    }

    /// Waits until somebody serves; answers who.
    async fn leader(&self) -> usize {
        self.client().get_ts().await.expect("somebody serves");
        let leads = |machine: &Machine| {
            machine.server.as_ref().is_some_and(|server| server.check_leads().is_ok())
        };
        self.machines.iter().position(leads).expect("it has just served")
    }

    /// Lets time pass until that many members are well, as the leader sees them.
    async fn await_healthy(&self, count: usize) {
        let waiting = async {
            loop {
                for server in self.living() {
                    let healthy = server.members().0.iter().filter(|one| one.healthy).count();
                    if server.check_leads().is_ok() && healthy == count {
                        return;
                    }
                }
                tokio::time::advance(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), waiting).await.expect("within a minute");
    }

    async fn stop(self) {
        for server in self.living() {
            server.stop().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn timestamps_and_ids_grow_over_a_hundred_leader_kills() {
    const HOUR_MS: i64 = 3_600_000;
    let mut members = Members::start(3).await;
    let mut rng = StdRng::seed_from_u64(1);
    let (mut last_ts, mut last_id) = (TimeStamp::ZERO, 0);
    let mut longest = Duration::ZERO;
    for kill in 0..100 {
        let client = members.client();
        for _ in 0..rng.random_range(1..20) {
            let ts = client.get_ts().await.expect("serves");
            assert!(ts > last_ts, "{ts} after {last_ts}, before kill {kill}");
            last_ts = ts;
            let id = client.alloc_ids(3).await.expect("serves");
            assert!(id > last_id, "{id} after {last_id}, before kill {kill}");
            last_id = id + 2;
        }
        let leader = members.leader().await;
        members.kill(leader).await;
        // Whoever leads next may think that it is yesterday.
        let machine = rng.random_range(0..3);
        let hours = rng.random_range(-2..=1);
        members.machines[machine].clock.jump(hours * HOUR_MS);
        let begun = tokio::time::Instant::now();
        members.client().get_ts().await.expect("the others go on");
        longest = longest.max(begun.elapsed());
        members.open(leader).await;
    }
    // One election may be in vain.
    assert!(longest < Duration::from_secs(5), "{longest:?}");
    members.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_stopping_leader_hands_over_without_a_pause() {
    let mut members = Members::start(3).await;
    let leader = members.leader().await;
    members.await_healthy(3).await;
    let server = members.machines[leader].server.clone().expect("lives");
    let begun = tokio::time::Instant::now();
    server.resign().await;
    members.kill(leader).await;
    members.client().get_ts().await.expect("the others go on");
    assert!(begun.elapsed() < Duration::from_millis(500), "{:?}", begun.elapsed());
    members.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_new_leader_knows_what_is_durable_and_calls_no_store_down() {
    let mut members = Members::start(3).await;
    let client = members.client();
    client.bootstrap(store(1), first_region()).await.expect("first");
    client.notify_schema(4).await.expect("announced");
    let cluster_id = client.cluster_id();
    assert_ne!(cluster_id, 0);
    let old = members.leader().await;
    // Nobody has heard of the store for a long time, as far as the old leader knows.
    let down_ms = ScheduleConfig::default().down_ms();
    tokio::time::advance(Duration::from_millis(down_ms + 1_000)).await;
    let state = |store: Result<(Store, StoreStats), PdError>| store.expect("known").0.state();
    let server = members.machines[members.leader().await].server.clone().expect("lives");
    if server.shared().member_id() == old as u64 + 1 {
        assert_eq!(state(server.get_store(1)), StoreState::Down);
    }
    let leader = members.leader().await;
    members.kill(leader).await;
    let leader = members.leader().await;
    let server = members.machines[leader].server.clone().expect("lives");
    assert_eq!(state(server.get_store(1)), StoreState::Up);
    assert_eq!(server.cluster_id(), cluster_id);
    assert_eq!(server.get_region(b"k").expect("known").region, first_region());
    // Every member hears of schema versions, followers too.
    let client = members.client();
    client.notify_schema(5).await.expect("announced");
    for server in members.living() {
        let mut versions = server.watch_schema();
        let heard = versions.wait_for(|version| *version == 5);
        tokio::time::timeout(Duration::from_secs(5), heard).await.expect("in time").expect("lives");
    }
    members.stop().await;
}

#[tokio::test(start_paused = true)]
async fn followers_say_who_leads_and_a_minority_serves_nothing() {
    let mut members = Members::start(3).await;
    let leader = members.leader().await;
    let address = format!("pd-{}:1", leader + 1);
    for (at, machine) in members.machines.iter().enumerate().filter(|(at, _)| *at != leader) {
        let server = machine.server.as_ref().expect("lives");
        let known = server.shared().watch_status();
        let mut known = known;
        known.wait_for(|status| status.leader_id == leader as u64 + 1).await.expect("lives");
        assert_eq!(server.get_ts(1).await, Err(PdError::NotLeader(address.clone())), "member {at}");
        assert_eq!(server.try_get_ts(1), None);
        let (members, told) = server.members();
        assert_eq!(members.len(), 3);
        assert_eq!(told.map(|member| member.client_url), Some(address.clone()));
    }
    let others: Vec<usize> = (0..3).filter(|at| *at != leader).collect();
    for at in &others {
        members.kill(*at).await;
    }
    let alone = members.machines[leader].server.clone().expect("lives");
    // Its lease is over long before it notices that it is alone.
    tokio::time::advance(Duration::from_millis(crate::replication::lease::LEASE_MS + 1)).await;
    assert!(matches!(alone.get_ts(1).await, Err(PdError::NotLeader(_))));
    for at in others {
        members.open(at).await;
    }
    members.leader().await;
    members.stop().await;
}

#[tokio::test(start_paused = true)]
async fn members_go_one_at_a_time_and_never_the_majority() {
    let mut members = Members::start(3).await;
    let leader = members.leader().await;
    let server = members.machines[leader].server.clone().expect("lives");
    assert!(matches!(server.remove_member("pd-9").await, Err(PdError::InvalidArgument(_))));
    members.await_healthy(3).await;
    // One is dead: the other one that lives is needed.
    let dead = (leader + 1) % 3;
    let (gone, stays) = (format!("pd-{}", dead + 1), format!("pd-{}", (leader + 2) % 3 + 1));
    members.kill(dead).await;
    members.await_healthy(2).await;
    let refused = server.remove_member(&stays).await.expect_err("no majority would be left");
    assert!(refused.to_string().contains("no majority"), "{refused}");
    let warning = server.remove_member(&gone).await.expect("it is dead anyway");
    assert!(warning.contains("odd"), "{warning}");
    assert_eq!(server.members().0.len(), 2);
    // The removed one comes back, and hears that it is not wanted.
    members.open(dead).await;
    let back = members.machines[dead].server.clone().expect("lives");
    let mut status = back.shared().watch_status();
    let told = status.wait_for(|status| status.removed);
    tokio::time::timeout(Duration::from_secs(30), told).await.expect("in time").expect("lives");
    members.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_recovered_cluster_outlives_the_leader_that_took_it_over() {
    let mut members = Members::start(3).await;
    let client = members.client();
    let leader = members.leader().await;
    // One does not hear of it.
    let away = (leader + 1) % 3;
    members.kill(away).await;
    tokio::time::advance(Duration::from_secs(9)).await;
    let max_ts = TimeStamp::compose(EPOCH_MS + 3_600_000, 0);
    let recovery = ClusterRecovery {
        cluster_id: 42,
        max_id: 5_000,
        max_ts: max_ts.0,
        stores: vec![store(1).into(), store(2).into()],
        ..ClusterRecovery::default()
    };
    client.steer(Order::RecoverCluster(recovery)).await.expect("a fresh cluster");
    members.open(away).await;
    let leader = members.leader().await;
    members.kill(leader).await;
    members.leader().await;
    let client = members.client();
    assert!(client.get_ts().await.expect("serves") > max_ts);
    assert!(client.alloc_ids(1).await.expect("serves") > 5_000);
    assert!(client.is_bootstrapped().await.expect("knows"));
    for server in members.living() {
        let known = async {
            while server.cluster_id() != 42 {
                tokio::time::advance(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), known).await.expect("every member knows");
    }
    members.stop().await;
}
