//! What goes wrong: faults by the plan's weights, each with its own end.
//!
//! [`regions`] has the changes that operators and PD make, [`scenarios`] the accidents that
//! need several things to go wrong in one order.

mod regions;
mod scenarios;

use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use rand::seq::IndexedRandom;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::cluster::Cluster;
use crate::plan::FaultKind;
use crate::workload::Workloads;
use crate::world::{Dice, Node};

/// How long one fault lasts.
const FAULT_MS: (u64, u64) = (200, 6_000);
/// How long one lasts that waits for elections.
const SCENARIO_MS: (u64, u64) = (3_000, 6_000);
/// A change that operators want may take so long before it is given up.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(10);
/// Makes faults happen until it is told to stop.
pub struct Faults {
    cluster: Arc<Cluster>,
    workloads: Arc<Workloads>,
    /// Told when SQL nodes are to die.
    client_deaths: Vec<Arc<Notify>>,
    /// The admin's client, on a SQL node that does not die.
    admin: Node,
}

impl Faults {
    /// Faults of the cluster's plan.
    pub fn new(
        cluster: Arc<Cluster>,
        workloads: Arc<Workloads>,
        client_deaths: Vec<Arc<Notify>>,
        admin: Node,
    ) -> Faults {
        Faults { cluster, workloads, client_deaths, admin }
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
            if Instant::now() >= end {
                // What begins when all faults end would stay.
                break;
            }
            let kind = world.roll(Dice::Faults, |rng| {
                let choice = faults.cluster.plan.faults.choose_weighted(rng, |(_, weight)| *weight);
                choice.map_or(FaultKind::CrashStore, |(kind, _)| *kind)
            });
            if kind == FaultKind::Offline && std::mem::replace(&mut offline_used, true) {
                continue;
            }
            let (low, high) = if kind.needs_elections() { SCENARIO_MS } else { FAULT_MS };
            let lasting = world.millis(Dice::Faults, low, high);
            let until = (Instant::now() + lasting).min(end);
            // What needs an order of its own is mostly left alone with it.
            let alone =
                kind.needs_elections() && world.roll(Dice::Faults, |rng| rng.random_bool(0.7));
            let faults = faults.clone();
            let fault = tokio::spawn(async move { faults.happen(kind, until).await });
            if alone {
                // A panic is noted elsewhere.
                let _ = fault.await;
            }
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
            process.disk.set_slow_apply_ms(0);
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

    fn any_process(&self) -> Node {
        // All but the admin, who is the judge as well.
        let nodes: Vec<Node> = self.cluster.world.nodes().filter(|n| *n != self.admin).collect();
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
                let node = self.any_process();
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
            FaultKind::SlowApply => self.slow_apply(until).await,
            FaultKind::CutOffLeader => self.cut_off_leader(until).await,
            FaultKind::StopLeader => self.stop_leader(until).await,
            FaultKind::RestartVoter => self.restart_voter(until).await,
            FaultKind::FreshLeader => self.fresh_leader().await,
            FaultKind::SplitCutOff => self.split_cut_off(until).await,
            FaultKind::SplitBehind => self.split_behind(until).await,
            FaultKind::PdClock => self.pd_clock(until).await,
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
}
