//! Accidents that need several things to go wrong in one order: each goes for a promise that
//! one process relies on and another one might forget.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cairn_engine::KvEngine;
use cairn_kv::raftstore::state::{RegionLocalState, load_regions};
use cairn_kv::raftstore::{ConfChangeKind, PeerChange, RaftRouter, RegionError, RegionId};
use cairn_proto::meta::{self, PeerRole};
use cairn_types::TimeStamp;
use rand::Rng;
use rand::seq::{IndexedRandom, SliceRandom};
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

use super::{CHANGE_TIMEOUT, Faults};
use crate::client;
use crate::workload::{Focus, register_key};
use crate::world::{Dice, Node};

/// Between two looks for what a scenario waits for.
const POLL: Duration = Duration::from_millis(2);

/// Processes that elect one of them.
struct Quorum {
    leader: Node,
    /// Without the leader.
    voters: Vec<Node>,
    /// What lies in their region; none in PD.
    register: Option<u32>,
}

impl Faults {
    /// A store applies late. Often it is given leaders then: they have in their logs what
    /// they cannot show yet.
    pub(super) async fn slow_apply(&self, until: Instant) {
        let world = &self.cluster.world;
        let node = self.any_store();
        let (slow_ms, leads) = world.roll(Dice::Faults, |rng| {
            (*[30, 200, 1_000].choose(rng).unwrap_or(&200), rng.random_bool(0.7))
        });
        let Some(process) = self.cluster.store(node) else { return };
        world.note(format_args!("{node} applies {slow_ms} ms late"));
        process.disk.set_slow_apply_ms(slow_ms);
        if leads {
            sleep(world.millis(Dice::Faults, 0, 500)).await;
            self.give_leaders_to(node);
        }
        sleep_until(until).await;
        process.disk.set_slow_apply_ms(0);
    }

    /// Every region that has a follower there is asked to let it lead.
    fn give_leaders_to(&self, node: Node) {
        let Some(server) = self.cluster.pd_server() else { return };
        for route in server.scan_regions(b"", b"", 0) {
            self.hand_over(&route.region, route.leader, node);
        }
    }

    /// Asks the leader of a region to let this process lead, if it has a replica.
    fn hand_over(&self, region: &meta::Region, leader: Option<meta::Peer>, node: Node) {
        let is_there = |peer: &&meta::Peer| self.cluster.node_of_store(peer.store_id) == Some(node);
        let Some(target) = region.peers.iter().find(is_there) else { return };
        if let Some(router) = leader.and_then(|leader| self.router_of(&leader)) {
            // A full mailbox refuses: nothing is moved then.
            let _ = router.transfer_leader(RegionId(region.id), target.id);
        }
    }

    fn router_of(&self, peer: &meta::Peer) -> Option<Arc<RaftRouter>> {
        self.cluster.store(self.cluster.node_of_store(peer.store_id)?)?.router()
    }

    /// A register that all sessions work on for the rest of the scenario.
    fn focus(&self, reads_only: bool, until: Instant) -> u32 {
        let registers = self.cluster.plan.keys;
        let register = self.cluster.world.roll(Dice::Faults, |rng| rng.random_range(0..registers));
        let registers = register..register + 1;
        self.workloads.focus(Focus { registers, reads_only, until });
        register
    }

    /// The leader of a region that everybody works on from now on, and its other voters;
    /// sometimes PD's.
    fn any_quorum(&self, reads_only: bool, until: Instant) -> Option<Quorum> {
        let members = self.cluster.members();
        if members.len() > 1 && self.cluster.world.roll(Dice::Faults, |rng| rng.random_bool(0.2)) {
            let leader = self.cluster.pd_leader()?;
            let others = members.iter().map(|member| member.node);
            let voters = others.filter(|node| *node != leader).collect();
            return Some(Quorum { leader, voters, register: None });
        }
        self.quorum_of(self.focus(reads_only, until))
    }

    /// The leader of the register's region, and its other voters.
    fn quorum_of(&self, register: u32) -> Option<Quorum> {
        let route = self.cluster.pd_server()?.get_region(&register_key(register)).ok()?;
        let (region, leader) = (route.region, route.leader?);
        let others = region
            .peers
            .iter()
            .filter(|peer| peer.id != leader.id && peer.role() == PeerRole::Voter)
            .filter_map(|peer| self.cluster.node_of_store(peer.store_id))
            .collect();
        let leader = self.cluster.node_of_store(leader.store_id)?;
        Some(Quorum { leader, voters: others, register: Some(register) })
    }

    /// The links of its like to this process.
    fn links_to_its_like(&self, node: Node) -> Vec<(Node, Node)> {
        let is_like = |other: &Node| {
            *other != node && std::mem::discriminant(other) == std::mem::discriminant(&node)
        };
        let others = self.cluster.world.nodes().filter(is_like);
        others.flat_map(|other| [(node, other), (other, node)]).collect()
    }

    /// The links of its like to this process, and those of some SQL nodes.
    fn links_around(&self, node: Node) -> Vec<(Node, Node)> {
        let links = self.links_to_its_like(node).into_iter();
        links.chain(self.links_of_some_clients(node)).collect()
    }

    /// Links of SQL nodes to this process: never of all of them, so that clients work on
    /// either side.
    fn links_of_some_clients(&self, node: Node) -> Vec<(Node, Node)> {
        let world = &self.cluster.world;
        let mut clients: Vec<Node> = world
            .nodes()
            .filter(|other| matches!(other, Node::Client(_)) && *other != self.admin)
            .collect();
        let cut = world.roll(Dice::Faults, |rng| {
            clients.shuffle(rng);
            rng.random_range(1..=clients.len().saturating_sub(1).max(1))
        });
        clients.truncate(cut);
        world.note(format_args!("{node} is cut off from {clients:?}"));
        clients.into_iter().flat_map(|client| [(node, client), (client, node)]).collect()
    }

    /// A leader that does not hear that there is another one, while clients ask both.
    pub(super) async fn cut_off_leader(&self, until: Instant) {
        let Some(Quorum { leader, .. }) = self.any_quorum(false, until) else { return };
        // Nothing else is elected earlier.
        let lasting = self.cluster.world.millis(Dice::Faults, 1_000, 3_000);
        let links = self.links_around(leader);
        self.cut(&links, until.min(Instant::now() + lasting)).await;
    }

    /// A leader that stands still while others elect one, and goes on with what it believes.
    /// Clients of its own wait for it; others have found the new one.
    pub(super) async fn stop_leader(&self, until: Instant) {
        let world = &self.cluster.world;
        let Some(Quorum { leader, .. }) = self.any_quorum(false, until) else { return };
        let host = world.host(leader).clone();
        let links = self.links_of_some_clients(leader);
        let stop = async {
            world.note(format_args!("{leader} stops, and leads"));
            host.set_paused(true);
            sleep(world.millis(Dice::Faults, 600, 3_000)).await;
            world.note(format_args!("{leader} goes on, and thinks it leads"));
            host.set_paused(false);
        };
        tokio::join!(stop, self.cut(&links, until));
    }

    /// One follower wants to be elected and cannot, because the other one hears its leader.
    /// That one dies, is back within the leader's lease, and hears nobody but the candidate.
    ///
    /// The region is only read before: a candidate that misses a single entry is refused for
    /// its log, whatever else the voter forgot.
    pub(super) async fn restart_voter(&self, until: Instant) {
        let world = &self.cluster.world;
        let Some(quorum) = self.any_quorum(true, until) else { return };
        let Quorum { leader, mut voters, register } = quorum;
        world.roll(Dice::Faults, |rng| voters.shuffle(rng));
        let [candidate, voter, ..] = voters[..] else { return };
        // Writes under way come to their end.
        sleep(world.millis(Dice::Faults, 200, 600)).await;
        let links = self.links_to_its_like(leader);
        let (rest, first): (Vec<_>, Vec<_>) =
            links.into_iter().partition(|(a, b)| *a == voter || *b == voter);
        world.note(format_args!("{voter} is to forget {leader} and meet {candidate}"));
        let network = &world.network;
        first.iter().for_each(|(from, to)| network.cut(*from, *to));
        // A silence so long makes a candidate, which repeats its first candidacies soon: the
        // voter is to be back for one of them.
        sleep(world.millis(Dice::Faults, 900, 1_500)).await;
        let asked = world.network.asked_for_votes(candidate);
        let _ = timeout_at(until, asked).await;
        sleep(world.millis(Dice::Faults, 150, 350)).await;
        rest.iter().for_each(|(from, to)| network.cut(*from, *to));
        if Instant::now() < until {
            self.cluster.crash_for(voter, world.millis(Dice::Faults, 1, 30));
        }
        // Clients with a warm cache go on with reading at the leader they know.
        if let Some(register) = register {
            // One may be held up by a late message.
            let writers = [(); 3].map(|()| self.write_elsewhere(register, leader));
            // They go on until then.
            let _ = timeout_at(until, futures::future::join_all(writers)).await;
        }
        sleep_until(until).await;
        first.iter().chain(&rest).for_each(|(from, to)| network.mend(*from, *to));
    }

    /// Writes a register once its region is led elsewhere, as a SQL node that has just come
    /// up does it: its cache knows no older leader.
    async fn write_elsewhere(&self, register: u32, old: Node) {
        let world = &self.cluster.world;
        while self.quorum_of(register).is_none_or(|quorum| quorum.leader == old) {
            sleep(POLL).await;
        }
        let client = client::connect(&self.cluster, self.admin);
        loop {
            // What failed was noted.
            let _ = self.workloads.write(&client, register).await;
            sleep(world.millis(Dice::Faults, 1, 20)).await;
        }
    }

    /// A replica comes by a Raft snapshot while a SQL node stands still amid its
    /// transactions, and leads before that node goes on.
    pub(super) async fn fresh_leader(&self) {
        let world = &self.cluster.world;
        let clients: Vec<Node> = world
            .nodes()
            .filter(|node| matches!(node, Node::Client(_)) && *node != self.admin)
            .collect();
        let client = self.any_of(&clients);
        world.note(format_args!("{client} stops amid its transactions"));
        world.host(client).set_paused(true);
        let outcome = timeout(CHANGE_TIMEOUT, self.replace_replica()).await;
        world.note(format_args!("{client} goes on, new leader: {outcome:?}"));
        world.host(client).set_paused(false);
    }

    /// Removes a follower, has another one added and lets it lead; the region and the new
    /// peer.
    async fn replace_replica(&self) -> Option<(u64, u64)> {
        /// Locks of a SQL node that stands still are not respected for much longer.
        const PATIENCE: Duration = Duration::from_millis(2_500);
        let world = &self.cluster.world;
        let (region, leader, router) = self.any_region()?;
        let region_id = RegionId(region.id);
        let old = {
            let others: Vec<meta::Peer> =
                region.peers.iter().filter(|peer| peer.id != leader.id).copied().collect();
            world.roll(Dice::Faults, |rng| others.choose(rng).copied())?
        };
        let deadline = Instant::now() + PATIENCE;
        self.change(&router, region_id, ConfChangeKind::Remove, old).await?;
        while Instant::now() < deadline {
            sleep(world.millis(Dice::Faults, 20, 100)).await;
            let route = self.cluster.pd_server()?.get_region_by_id(region.id).ok()?;
            let is_new = |peer: &&meta::Peer| region.peers.iter().all(|known| known.id != peer.id);
            match route.region.peers.iter().find(is_new).copied() {
                // PD adds one by itself, mostly earlier than this.
                None => {
                    let id = self.cluster.pd_client(self.admin).alloc_ids(1).await.ok()?;
                    let role = PeerRole::Learner.into();
                    let new = meta::Peer { id, role, ..old };
                    self.change(&router, region_id, ConfChangeKind::AddLearner, new).await;
                }
                Some(new) if new.role() == PeerRole::Learner => {
                    let voter = meta::Peer { role: PeerRole::Voter.into(), ..new };
                    self.change(&router, region_id, ConfChangeKind::AddVoter, voter).await;
                }
                Some(new) if route.leader.is_some_and(|leader| leader.id == new.id) => {
                    return Some((region.id, new.id));
                }
                // A full mailbox refuses: the next attempt may not.
                Some(new) => drop(router.transfer_leader(region_id, new.id)),
            }
        }
        None
    }

    /// Changes one member; an election or another change may be under way, so twice.
    async fn change(
        &self,
        router: &RaftRouter,
        region_id: RegionId,
        kind: ConfChangeKind,
        peer: meta::Peer,
    ) -> Option<meta::Region> {
        /// Then somebody else leads the region, or has changed it.
        const ATTEMPTS_MAX: u32 = 2;
        let world = &self.cluster.world;
        for _ in 0..ATTEMPTS_MAX {
            let outcome: Result<meta::Region, RegionError> =
                router.change_peers(region_id, vec![PeerChange::new(kind, peer)]).await;
            match outcome {
                Ok(region) => return Some(region),
                Err(error) => world.note(format_args!("{kind:?} {}: {error}", peer.id)),
            }
            sleep(world.millis(Dice::Faults, 20, 200)).await;
        }
        None
    }

    /// Writes come behind a split in its leader's log, and are committed by another leader
    /// when the new regions have long begun a life of their own.
    pub(super) async fn split_cut_off(&self, until: Instant) {
        let world = &self.cluster.world;
        let key = register_key(self.focus(false, until));
        let Some(server) = self.cluster.pd_server() else { return };
        let leader = server.get_region(&key).ok().and_then(|route| route.leader);
        let node = leader.and_then(|leader| self.cluster.node_of_store(leader.store_id));
        let Some(process) = node.and_then(|node| self.cluster.store(node)) else { return };
        let slow_ms = world.roll(Dice::Faults, |rng| rng.random_range(20..400));
        world.note(format_args!("split at {key:?}, then cut off {}", process.node));
        process.disk.set_slow_apply_ms(slow_ms);
        let admin = client::connect(&self.cluster, self.admin);
        let split =
            timeout(
                CHANGE_TIMEOUT,
                async move { admin.split_regions(vec![key], CHANGE_TIMEOUT).await },
            );
        tokio::spawn(split);
        sleep(world.millis(Dice::Faults, 5, 200)).await;
        let links = self.links_around(process.node);
        let lasting = world.millis(Dice::Faults, 1_500, 4_000);
        self.cut(&links, until.min(Instant::now() + lasting)).await;
        process.disk.set_slow_apply_ms(0);
    }

    /// A new leader waits for PD's time before its first one-phase commits, and proposes a
    /// split meanwhile: they come behind it in the log. A follower applies the split and hears
    /// no more of that leader; then it leads the new region, without what came behind.
    pub(super) async fn split_behind(&self, until: Instant) {
        let world = &self.cluster.world;
        let all = self.cluster.plan.keys;
        // The new region is the one on the left.
        let last = world.roll(Dice::Faults, |rng| rng.random_range(all / 2..all));
        let registers = 0..last + 1;
        // A later write of a register would hide that an earlier one is missing.
        let focus = Focus { registers: registers.clone(), reads_only: true, until };
        self.workloads.focus(focus);
        let Some(Quorum { leader: old, mut voters, .. }) = self.quorum_of(last) else { return };
        world.roll(Dice::Faults, |rng| voters.shuffle(rng));
        let [leader, behind, ..] = voters[..] else { return };
        self.lead(last, leader, until).await;
        let client = client::connect(&self.cluster, self.admin);
        // Its cache is warm then.
        let _ = client.snapshot(TimeStamp::MAX).get(&register_key(last)).await;

        let split_key = self.key_behind(last);
        let far_ms = world.roll(Dice::Faults, |rng| rng.random_range(10..100));
        world.note(format_args!("{leader}, {far_ms} ms away, splits at {split_key:?}"));
        world.network.slow_down(leader, far_ms);
        let (admin, keys) = (client.clone(), vec![split_key.clone()]);
        let split =
            timeout(CHANGE_TIMEOUT, async move { admin.split_regions(keys, CHANGE_TIMEOUT).await });
        tokio::spawn(split);
        let writes = futures::future::join_all(registers.map(|register| {
            let client = &client;
            async move {
                sleep(world.millis(Dice::Faults, 0, 2 * far_ms)).await;
                // What failed was noted.
                let _ = self.workloads.write(client, register).await;
            }
        }));
        let change = async {
            let is_split = self.holds_region_from(behind, &split_key, until).await;
            let cut = async {
                if is_split {
                    self.cut(&[(leader, behind), (behind, leader)], until).await;
                }
            };
            let lead = async {
                world.network.slow_down(leader, 0);
                for node in [old, behind] {
                    self.lead(last, node, until).await;
                }
            };
            tokio::join!(cut, lead);
        };
        // Some writes may wait for what was cut off.
        let _ = tokio::join!(timeout_at(until, writes), change);
    }

    /// A key right behind a register's: regions begin there seldom.
    fn key_behind(&self, register: u32) -> Bytes {
        let suffix = self.cluster.world.roll(Dice::Faults, |rng| rng.random_range(0..1_000));
        // '+' comes before every digit.
        Bytes::from([&register_key(register)[..], format!("+{suffix:03}").as_bytes()].concat())
    }

    /// Whether the store holds a region that begins at the key before the time is over.
    async fn holds_region_from(&self, node: Node, start_key: &Bytes, until: Instant) -> bool {
        let Some(process) = self.cluster.store(node) else { return false };
        while Instant::now() < until {
            let view = process.disk.engine().snapshot();
            let begins_there = |local: &RegionLocalState| {
                local.region.as_ref().is_some_and(|region| region.start_key == *start_key)
            };
            if load_regions(view.as_ref()).is_ok_and(|all| all.iter().any(begins_there)) {
                return true;
            }
            sleep(POLL).await;
        }
        false
    }

    /// Has a process lead the register's region, if it can be brought about in time.
    async fn lead(&self, register: u32, node: Node, until: Instant) {
        let world = &self.cluster.world;
        while Instant::now() < until {
            let server = self.cluster.pd_server();
            let route = server.and_then(|server| server.get_region(&register_key(register)).ok());
            if let Some(route) = route {
                let store_id = route.leader.map_or(0, |leader| leader.store_id);
                if self.cluster.node_of_store(store_id) == Some(node) {
                    return;
                }
                self.hand_over(&route.region, route.leader, node);
            }
            sleep(world.millis(Dice::Faults, 20, 100)).await;
        }
    }

    /// Timestamps of the near future are given out, and their giver dies: only what it made
    /// durable keeps its successor, who has the right time, from giving them out again.
    pub(super) async fn pd_clock(&self, until: Instant) {
        let world = &self.cluster.world;
        while Instant::now() < until {
            let Some(node) = self.cluster.pd_leader() else { return };
            let ahead_ms = world.roll(Dice::Faults, |rng| rng.random_range(500..8_000));
            world.note(format_args!("{node} is {ahead_ms} ms ahead and dies"));
            world.host(node).set_wall_offset_ms(ahead_ms);
            sleep(world.millis(Dice::Faults, 50, 1_000)).await;
            world.host(node).set_wall_offset_ms(0);
            self.cluster.crash_for(node, world.millis(Dice::Faults, 1, 2_000));
            sleep(world.millis(Dice::Faults, 500, 3_000)).await;
        }
    }
}
