//! What goes wrong: faults by the plan's weights, each with its own end.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cairn_kv::raftstore::{ConfChangeKind, PeerChange, RaftRouter, RegionId};
use cairn_proto::meta::{self, PeerRole, StoreState};
use cairn_proto::pd;
use cairn_proto::pd::region_heartbeat_response::Step;
use rand::Rng;
use rand::seq::IndexedRandom;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::client;
use crate::cluster::Cluster;
use crate::plan::FaultKind;
use crate::world::{Dice, Node};

/// How long one fault lasts.
const FAULT_MS: (u64, u64) = (200, 6_000);
/// A change that operators want may take so long before it is given up.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(10);
/// Stores that must stay when one is emptied: as many as a region has replicas.
const STORES_MIN: usize = 3;

/// Makes faults happen until it is told to stop.
pub struct Faults {
    cluster: Arc<Cluster>,
    /// Told when SQL nodes are to die.
    client_deaths: Vec<Arc<Notify>>,
    /// The admin's client, on a SQL node that does not die.
    admin: Node,
}

impl Faults {
    /// Faults of the cluster's plan.
    pub fn new(cluster: Arc<Cluster>, client_deaths: Vec<Arc<Notify>>, admin: Node) -> Faults {
        Faults { cluster, client_deaths, admin }
    }

    /// Runs until the plan's time is over; every fault has ended then.
    pub async fn run(self) {
        let world = self.cluster.world.clone();
        let end = Instant::now() + self.cluster.plan.faulty_time;
        let faults = Arc::new(self);
        let mut offline_used = false;
        while Instant::now() < end {
            let pause_ms = faults.cluster.plan.fault_pause_ms_max;
            sleep(world.millis(Dice::Faults, 10, pause_ms)).await;
            let kind = world.roll(Dice::Faults, |rng| {
                let choice = faults.cluster.plan.faults.choose_weighted(rng, |(_, weight)| *weight);
                choice.map_or(FaultKind::CrashStore, |(kind, _)| *kind)
            });
            if kind == FaultKind::Offline && std::mem::replace(&mut offline_used, true) {
                continue;
            }
            let lasting = world.millis(Dice::Faults, FAULT_MS.0, FAULT_MS.1);
            let until = (Instant::now() + lasting).min(end);
            let faults = faults.clone();
            tokio::spawn(async move { faults.happen(kind, until).await });
        }
        faults.end_all();
    }

    /// Whatever still lasts ends now.
    fn end_all(&self) {
        let world = &self.cluster.world;
        world.note(format_args!("faults end"));
        world.network.heal();
        for node in world.nodes() {
            world.host(node).set_paused(false);
            // Timestamps stand still until a clock that jumped back has caught up, and
            // locks of the dead with them: somebody sets the clocks right.
            world.host(node).set_wall_offset_ms(0);
        }
        for process in self.cluster.stores() {
            process.disk.set_slow_ms(0);
            self.cluster.set_disk_full(process.node, false);
        }
        for member in self.cluster.members() {
            member.disk.set_slow_ms(0);
        }
    }

    fn any_store(&self) -> Node {
        let nodes: Vec<Node> = self.cluster.stores().map(|process| process.node).collect();
        self.any_of(&nodes)
    }

    fn any_server(&self) -> Node {
        let all = self.cluster.world.nodes();
        let nodes: Vec<Node> = all.filter(|node| !matches!(node, Node::Client(_))).collect();
        self.any_of(&nodes)
    }

    fn any_of(&self, nodes: &[Node]) -> Node {
        self.cluster.world.roll(Dice::Faults, |rng| *nodes.choose(rng).unwrap_or(&Node::Store(1)))
    }

    async fn happen(&self, kind: FaultKind, until: Instant) {
        let world = self.cluster.world.clone();
        world.note(format_args!("fault {kind:?}"));
        match kind {
            FaultKind::CrashStore => self.cluster.crash(self.any_store()),
            FaultKind::CrashAllStores => {
                let nodes: Vec<Node> = self.cluster.stores().map(|process| process.node).collect();
                nodes.into_iter().for_each(|node| self.cluster.crash(node));
            }
            FaultKind::CrashPd => {
                let nodes: Vec<Node> = self.cluster.members().iter().map(|m| m.node).collect();
                self.cluster.crash(self.any_of(&nodes));
            }
            FaultKind::CrashClient => {
                let deaths = &self.client_deaths;
                let chosen = world.roll(Dice::Faults, |rng| deaths.choose(rng).cloned());
                if let Some(death) = chosen {
                    death.notify_waiters();
                }
            }
            FaultKind::Isolate => self.isolate(self.any_server(), until).await,
            FaultKind::OneWay => {
                let (from, to) = (self.any_server(), self.any_server());
                world.note(format_args!("cut {from} to {to}"));
                self.cut(&[(from, to)], until).await;
            }
            FaultKind::Partition => self.partition(until).await,
            FaultKind::SlowLinks => {
                let node = self.any_server();
                let by_ms = world.roll(Dice::Faults, |rng| rng.random_range(20..800));
                world.note(format_args!("{node} is {by_ms} ms away"));
                world.network.slow_down(node, by_ms);
                sleep_until(until).await;
                world.network.slow_down(node, 0);
            }
            FaultKind::Pause => {
                let node = self.any_server();
                world.note(format_args!("{node} stops"));
                world.host(node).set_paused(true);
                sleep_until(until).await;
                world.note(format_args!("{node} goes on"));
                world.host(node).set_paused(false);
            }
            FaultKind::SlowDisk => self.slow_disk(until).await,
            FaultKind::FullDisk => {
                let node = self.any_store();
                world.note(format_args!("{node} has a full disk"));
                self.cluster.set_disk_full(node, true);
                sleep_until(until).await;
                self.cluster.set_disk_full(node, false);
            }
            FaultKind::WallClock => {
                let node = self.any_server();
                let offset_ms = world.roll(Dice::Faults, |rng| {
                    let reach = *[100, 5_000, 60_000].choose(rng).unwrap_or(&100);
                    rng.random_range(-reach..=reach)
                });
                world.note(format_args!("{node} has its clock {offset_ms} ms off"));
                world.host(node).set_wall_offset_ms(offset_ms);
            }
            FaultKind::Split => drop(timeout(CHANGE_TIMEOUT, self.split()).await),
            FaultKind::Transfer => self.transfer(),
            FaultKind::Members => drop(timeout(CHANGE_TIMEOUT, self.change_members()).await),
            FaultKind::Merge => self.merge(),
            FaultKind::Offline => drop(timeout(CHANGE_TIMEOUT, self.empty_a_store()).await),
        }
    }

    async fn isolate(&self, node: Node, until: Instant) {
        let world = &self.cluster.world;
        world.note(format_args!("{node} is cut off"));
        let others = world.nodes().filter(|other| *other != node);
        let links: Vec<_> = others.flat_map(|other| [(node, other), (other, node)]).collect();
        self.cut(&links, until).await;
    }

    async fn partition(&self, until: Instant) {
        let world = &self.cluster.world;
        let sided: Vec<(Node, bool)> = world.roll(Dice::Faults, |rng| {
            world.nodes().map(|node| (node, rng.random_bool(0.5))).collect()
        });
        world.note(format_args!("partition {sided:?}"));
        let mut links = Vec::new();
        for (node, side) in &sided {
            let others = sided.iter().filter(|(_, other_side)| other_side != side);
            links.extend(others.map(|(other, _)| (*node, *other)));
        }
        self.cut(&links, until).await;
    }

    /// Cuts links for a while.
    async fn cut(&self, links: &[(Node, Node)], until: Instant) {
        let network = &self.cluster.world.network;
        links.iter().for_each(|(from, to)| network.cut(*from, *to));
        sleep_until(until).await;
        links.iter().for_each(|(from, to)| network.mend(*from, *to));
    }

    async fn slow_disk(&self, until: Instant) {
        let world = &self.cluster.world;
        let node = self.any_server();
        let slow_ms = world.roll(Dice::Faults, |rng| *[20, 100, 1_000].choose(rng).unwrap_or(&50));
        world.note(format_args!("{node} has a disk {slow_ms} ms slow"));
        let disk = match self.cluster.store(node) {
            Some(process) => &process.disk,
            None => match self.cluster.members().iter().find(|member| member.node == node) {
                Some(member) => &member.disk,
                None => return,
            },
        };
        disk.set_slow_ms(slow_ms);
        sleep_until(until).await;
        disk.set_slow_ms(0);
    }

    /// A raw key as workloads use them.
    fn any_key(&self) -> Bytes {
        self.cluster.world.roll(Dice::Faults, |rng| {
            let family = *["a", "c", "g", "r"].choose(rng).unwrap_or(&"r");
            Bytes::from(format!("{family}{:02}", rng.random_range(0..12)))
        })
    }

    async fn split(&self) {
        let world = &self.cluster.world;
        let key = self.any_key();
        let client = client::connect(&self.cluster, self.admin);
        let outcome = client.split_region(vec![key.clone()]).await;
        let outcome = outcome.map(|regions| regions.len()).map_err(|error| error.to_string());
        world.note(format_args!("split at {key:?}: {outcome:?}"));
    }

    /// A region, as PD knows it, and the way to its leader.
    fn any_region(&self) -> Option<(meta::Region, meta::Peer, Arc<RaftRouter>)> {
        let key = self.any_key();
        let route = self.cluster.pd_server()?.get_region(&key).ok()?;
        let leader = route.leader?;
        let node = self.cluster.node_of_store(leader.store_id)?;
        Some((route.region, leader, self.cluster.store(node)?.router()?))
    }

    fn transfer(&self) {
        let Some((region, _, router)) = self.any_region() else { return };
        let target = self
            .cluster
            .world
            .roll(Dice::Faults, |rng| region.peers.choose(rng).map_or(0, |peer| peer.id));
        // A full mailbox refuses: nothing is moved then.
        let _ = router.transfer_leader(RegionId(region.id), target);
    }

    /// Moves a region into one of its neighbours, if their replicas lie together.
    fn merge(&self) {
        let world = &self.cluster.world;
        let Some((source, _, router)) = self.any_region() else { return };
        let Some(server) = self.cluster.pd_server() else { return };
        let neighbours = server.scan_regions(b"", b"", 0).into_iter().filter(|route| {
            let (left, right) = (&route.region, &source);
            (left.end_key == right.start_key && !left.end_key.is_empty())
                || (right.end_key == left.start_key && !right.end_key.is_empty())
        });
        let neighbours: Vec<meta::Region> = neighbours.map(|route| route.region).collect();
        let target = world.roll(Dice::Faults, |rng| neighbours.choose(rng).cloned());
        let Some(target) = target else { return };
        world.note(format_args!("merge {} into {}", source.id, target.id));
        let step = pd::RegionHeartbeatResponse {
            region_id: source.id,
            epoch: source.epoch,
            step: Some(Step::Merge(pd::Merge { target: Some(target) })),
            ..pd::RegionHeartbeatResponse::default()
        };
        // A full mailbox refuses: nothing is merged then.
        let _ = router.take_step(step);
    }

    /// Removes a replica, adds one where there is none, or moves one in a single step.
    async fn change_members(&self) {
        let world = &self.cluster.world;
        let Some((region, leader, router)) = self.any_region() else { return };
        let empty: Vec<u64> = self
            .cluster
            .store_ids()
            .into_iter()
            .map(|(id, _)| id)
            .filter(|id| region.peers.iter().all(|peer| peer.store_id != *id))
            .collect();
        let others: Vec<meta::Peer> =
            region.peers.iter().filter(|peer| peer.id != leader.id).copied().collect();
        let region_id = RegionId(region.id);
        let (adds, moves, store_id, other) = world.roll(Dice::Faults, |rng| {
            let (store, other) = (empty.choose(rng).copied(), others.choose(rng).copied());
            (rng.random_bool(0.6), rng.random_bool(0.5), store, other)
        });
        if let Some(store_id) = store_id.filter(|_| adds) {
            let Ok(id) = self.cluster.pd_client(self.admin).alloc_ids(1).await else { return };
            let learner = meta::Peer { id, store_id, role: PeerRole::Learner.into() };
            let change = vec![PeerChange::new(ConfChangeKind::AddLearner, learner)];
            let outcome = router.change_peers(region_id, change).await;
            world.note(format_args!("learner {id} of {region_id}: {}", outcome.is_ok()));
            let Ok(region) = outcome else { return };
            sleep(world.millis(Dice::Faults, 50, 1_000)).await;
            // As PD does: only if the region is still as it was. Somebody may have removed
            // the learner, and the id of a removed peer is never used again.
            let change = |kind: pd::ChangePeerKind, peer| {
                let mut change = pd::ChangePeer { peer: Some(peer), ..Default::default() };
                change.set_kind(kind);
                change
            };
            let voter = meta::Peer { role: PeerRole::Voter.into(), ..learner };
            let mut changes = vec![change(pd::ChangePeerKind::AddVoter, voter)];
            if let Some(other) = other.filter(|_| moves) {
                changes.push(change(pd::ChangePeerKind::Remove, other));
            }
            world.note(format_args!("voter {id} of {region_id}: {} changes", changes.len()));
            // A full mailbox refuses: the learner is PD's to deal with.
            let _ = router.take_step(pd::RegionHeartbeatResponse {
                region_id: region.id,
                epoch: region.epoch,
                step: Some(Step::ChangePeerV2(pd::ChangePeerV2 { changes })),
                ..pd::RegionHeartbeatResponse::default()
            });
        } else if let Some(other) = other.filter(|_| region.peers.len() > 2) {
            let change = vec![PeerChange::new(ConfChangeKind::Remove, other)];
            let outcome = router.change_peers(region_id, change).await;
            world.note(format_args!("remove {} of {region_id}: {}", other.id, outcome.is_ok()));
        }
    }

    /// A store is told to give its regions away, as before it is switched off.
    async fn empty_a_store(&self) {
        if self.cluster.store_ids().len() <= STORES_MIN {
            return;
        }
        let pd = self.cluster.pd_client(self.admin);
        let node = self.any_store();
        let store = self.cluster.store_ids().into_iter().find(|(_, at)| *at == node);
        let Some((store_id, _)) = store else { return };
        let Ok(mut store) = pd.get_store(store_id).await else { return };
        store.set_state(StoreState::Offline);
        let outcome = pd.put_store(store).await;
        self.cluster.world.note(format_args!("{node} goes offline: {}", outcome.is_ok()));
    }
}
