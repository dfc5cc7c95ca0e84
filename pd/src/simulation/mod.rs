//! A cluster in miniature: PD's real decisions, and stores that only pretend.
//!
//! **Flow.** One tick is a second. Stores report, leaders report their regions and do
//! what they are told, schedulers and the patrol run; just as [`crate::server`] lets
//! them, without its log and its network. Copying a replica takes time by its size,
//! a dead leader is replaced after two seconds if a majority is left.
//!
//! Everything is a function of the commands: the same scenario gives the same
//! operators.

mod scenarios;
mod scripts;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use cairn_proto::meta::{Peer, PeerRole, Region, RegionEpoch, Store, StoreLabel, StoreState};
use cairn_proto::pd::region_heartbeat_response::Step;
use cairn_proto::pd::{
    ChangePeer, ChangePeerKind, ConfigEntry, PeerStats, RegionHeartbeatRequest, StoreStats,
};

use crate::cluster::Cluster;
use crate::hot::Now;
use crate::operator::Operator;
use crate::state::region_tree::Freshness;
use crate::state::{Command, State};

const MIB: u64 = 1 << 20;
/// A replica is copied so fast.
const COPY_BYTES_PER_S: u64 = 64 * MIB;
/// Seconds until a dead leader is replaced.
const ELECTION_S: u64 = 2;
/// Idle regions report every so many seconds, unless a scenario says otherwise.
const REPORT_S: u64 = 10;
/// Operators that schedulers may begin per tick, as in the server.
const PER_TICK_MAX: usize = 64;

#[derive(Clone, Debug)]
struct FakeStore {
    alive: bool,
    capacity_bytes: u64,
    slow_score: u32,
    is_stopping: bool,
    silent_since_s: u64,
}

#[derive(Clone, Debug)]
struct FakeRegion {
    region: Region,
    leader: Peer,
    term: u64,
    size_bytes: u64,
    keys: u64,
    /// Keys written and queries answered per second.
    writes: u64,
    reads: u64,
    /// Peers that are being copied, with the second they will be there.
    copying: BTreeMap<u64, u64>,
    /// Its leader has news.
    dirty: bool,
}

/// The cluster.
pub struct World {
    state: State,
    cluster: Cluster,
    second: u64,
    stores: BTreeMap<u64, FakeStore>,
    regions: BTreeMap<u64, FakeRegion>,
    next_id: u64,
    report_s: u64,
    /// Operators as they began: second and words.
    log: Vec<String>,
}

impl World {
    /// Nothing yet; three replicas per region.
    fn new() -> World {
        let mut world = World {
            state: State::default(),
            cluster: Cluster::new(3, 0),
            second: 0,
            stores: BTreeMap::new(),
            regions: BTreeMap::new(),
            next_id: 100_000,
            report_s: REPORT_S,
            log: Vec::new(),
        };
        world.set("enable-joint-consensus", "true");
        world
    }

    fn now(&self) -> Now {
        Now { ms: self.second * 1_000, unix_ms: 1_700_000_000_000 + self.second * 1_000 }
    }

    fn set(&mut self, name: &str, value: &str) {
        self.put_config(&format!("schedule/{name}"), value);
    }

    fn put_config(&mut self, key: &str, value: &str) {
        let entry = ConfigEntry { key: key.to_owned(), value: Bytes::from(value.to_owned()) };
        self.state.apply(Command::put_config(vec![entry])).expect("room for settings");
        self.cluster.settings_changed();
    }

    fn add_store(&mut self, id: u64, labels: &[(&str, &str)]) {
        let labels = labels
            .iter()
            .map(|(key, value)| StoreLabel { key: (*key).to_owned(), value: (*value).to_owned() });
        let store = Store {
            id,
            address: format!("store-{id}"),
            labels: labels.collect(),
            ..Store::default()
        };
        self.state.apply(Command::put_store(store)).expect("a new store");
        self.stores.insert(
            id,
            FakeStore {
                alive: true,
                capacity_bytes: 0,
                slow_score: 1,
                is_stopping: false,
                silent_since_s: 0,
            },
        );
        self.cluster.settings_changed();
    }

    /// A region behind the last one, led from the first store.
    fn add_region(&mut self, id: u64, stores: &[u64], size_bytes: u64) {
        // All of one table.
        let key = |id: u64| Bytes::from(format!("t00000001_r{id:08}"));
        let peer = |store: &u64| Peer { id: id * 1_000 + store, store_id: *store, role: 0 };
        let region = Region {
            id,
            start_key: key(id),
            end_key: key(id + 1),
            epoch: Some(RegionEpoch { conf_ver: 1, version: 1 }),
            peers: stores.iter().map(peer).collect(),
        };
        let leader = region.peers[0];
        self.state.apply(Command::put_regions(vec![region.clone()])).expect("a new region");
        self.regions.insert(
            id,
            FakeRegion {
                region,
                leader,
                term: 6,
                size_bytes,
                keys: size_bytes / 100,
                writes: 0,
                reads: 0,
                copying: BTreeMap::new(),
                dirty: true,
            },
        );
    }

    fn kill(&mut self, store_id: u64) {
        let store = self.stores.get_mut(&store_id).expect("told");
        store.alive = false;
        store.silent_since_s = self.second;
    }

    fn revive(&mut self, store_id: u64) {
        self.stores.get_mut(&store_id).expect("told").alive = true;
    }

    fn set_state(&mut self, store_id: u64, state: StoreState) {
        self.state.apply(Command::store_state(store_id, state)).expect("it exists");
        self.cluster.settings_changed();
    }

    fn run(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.tick();
        }
    }

    /// Runs until nothing is done for a while; tells how long it took. Panics when it
    /// does not come to rest: that would be moves back and forth.
    fn settle(&mut self, seconds_max: u64) -> u64 {
        let start = self.second;
        let mut quiet_since = self.second;
        while self.second - quiet_since < 4 * self.report_s {
            let begun = self.log.len();
            self.tick();
            if self.log.len() > begun || self.cluster.operators().next().is_some() {
                quiet_since = self.second;
            }
            assert!(
                self.second - start <= seconds_max,
                "no rest after {seconds_max} s: {:#?}",
                self.log.iter().rev().take(10).collect::<Vec<_>>()
            );
        }
        quiet_since - start
    }

    fn tick(&mut self) {
        self.second += 1;
        self.report_stores();
        self.elect();
        let due: Vec<u64> = self
            .regions
            .iter()
            .filter(|(id, one)| {
                one.dirty
                    || *id % self.report_s == self.second % self.report_s
                    || self.cluster.operator_of(**id).is_some()
            })
            .map(|(id, _)| *id)
            .collect();
        for id in due {
            self.report_region(id);
        }
        self.cluster.expire(self.now());
        for _ in 0..PER_TICK_MAX {
            let Some(operator) = self.cluster.schedule(&self.state, self.now()) else { break };
            if !self.admit(vec![operator]) {
                break;
            }
        }
        for operators in self.cluster.patrol(&self.state, self.now()) {
            self.admit(operators);
        }
        let empty: Vec<u64> = self
            .state
            .stores
            .values()
            .filter(|one| one.state() == StoreState::Offline)
            .map(|one| one.id)
            .filter(|id| self.state.regions.peer_count(*id) == 0)
            .collect();
        for id in empty {
            let mut store = Store { id, ..Store::default() };
            store.set_state(StoreState::Tombstone);
            self.state.apply(Command::put_store(store)).expect("it is empty");
            self.stores.remove(&id);
        }
    }

    fn report_stores(&mut self) {
        let mut used: BTreeMap<u64, u64> = BTreeMap::new();
        for one in self.regions.values() {
            for peer in &one.region.peers {
                *used.entry(peer.store_id).or_default() += one.size_bytes;
            }
        }
        let now = self.now();
        for (id, store) in self.stores.iter().filter(|(_, store)| store.alive) {
            let used_bytes = used.get(id).copied().unwrap_or(0);
            let stats = StoreStats {
                store_id: *id,
                capacity_bytes: store.capacity_bytes,
                available_bytes: store.capacity_bytes.saturating_sub(used_bytes),
                used_bytes,
                slow_score: store.slow_score,
                is_stopping: store.is_stopping,
                ..StoreStats::default()
            };
            self.cluster.store_heartbeat(stats, now.ms, now.unix_ms);
        }
    }

    fn lives(&self, store_id: u64) -> bool {
        self.stores.get(&store_id).is_some_and(|store| store.alive)
    }

    /// Regions whose leader is dead elect another, if a majority lives.
    fn elect(&mut self) {
        let stores = self.stores.clone();
        let lives = |id: u64| stores.get(&id).is_some_and(|store| store.alive);
        for one in self.regions.values_mut().filter(|one| !lives(one.leader.store_id)) {
            let dead_s = stores.get(&one.leader.store_id).map_or(0, |store| store.silent_since_s);
            let voters = one.region.peers.iter().filter(|peer| peer.role() != PeerRole::Learner);
            let living: Vec<&Peer> = voters.clone().filter(|peer| lives(peer.store_id)).collect();
            if self.second >= dead_s + ELECTION_S
                && living.len() * 2 > voters.count()
                && let Some(heir) = living.first()
            {
                one.leader = **heir;
                one.term += 1;
                one.dirty = true;
            }
        }
    }

    /// What the server does with a leader's report.
    fn report_region(&mut self, id: u64) {
        let Some(one) = self.regions.get_mut(&id) else { return };
        let lives: BTreeSet<u64> =
            self.stores.iter().filter(|(_, store)| store.alive).map(|(id, _)| *id).collect();
        if !lives.contains(&one.leader.store_id) {
            return;
        }
        one.dirty = false;
        let second = self.second;
        one.copying.retain(|_, until| *until > second);
        let down_s = |peer: &Peer| {
            let since = self.stores.get(&peer.store_id).map_or(0, |store| store.silent_since_s);
            second - since
        };
        let silent = one.region.peers.iter().filter(|peer| !lives.contains(&peer.store_id));
        let request = RegionHeartbeatRequest {
            region: Some(one.region.clone()),
            leader: Some(one.leader),
            term: one.term,
            approximate_size_bytes: one.size_bytes,
            approximate_keys: one.keys,
            down_peers: silent
                .map(|peer| PeerStats { peer: Some(*peer), down_s: down_s(peer) })
                .collect(),
            pending_peers: one
                .region
                .peers
                .iter()
                .filter(|peer| one.copying.contains_key(&peer.id))
                .copied()
                .collect(),
            written_keys: one.writes * self.report_s,
            written_bytes: one.writes * 100 * self.report_s,
            read_queries: (one.reads * self.report_s) as u32,
            read_bytes: one.reads * 100 * self.report_s,
            interval_ms: (self.report_s * 1_000) as u32,
            ..RegionHeartbeatRequest::default()
        };
        let region = one.region.clone();
        if self.state.regions.freshness(&region) == Freshness::New {
            let overlapped = self.state.regions.overlapping(&region.start_key, &region.end_key);
            let overrun: Vec<u64> = overlapped.map(|other| other.id).collect();
            self.state.apply(Command::put_regions(vec![region])).expect("valid");
            self.cluster.forget_gone(&overrun, &self.state, self.now());
        }
        let now = self.now();
        if !self.cluster.region_heartbeat(&request, now) {
            return;
        }
        if let Some(operator) = self.cluster.check(&self.state, id, now) {
            self.admit(vec![operator]);
        }
        let response = self.cluster.next_step(&self.state, id, now);
        if let Some(step) = response.and_then(|response| response.step) {
            self.take(id, step);
        }
    }

    fn admit(&mut self, mut operators: Vec<Operator>) -> bool {
        for operator in &mut operators {
            operator.fill_peer_ids(self.next_id);
            self.next_id += operator.added_peers() as u64;
        }
        let told: Vec<String> =
            operators.iter().map(|operator| format!("{operator} ({})", operator.reason)).collect();
        let begun = self.cluster.admit(operators, &self.state, self.now());
        if begun {
            self.log.extend(told.into_iter().map(|line| format!("{:>4} {line}", self.second)));
        }
        begun
    }

    /// What a store does with a step.
    fn take(&mut self, id: u64, step: Step) {
        let second = self.second;
        let one = self.regions.get_mut(&id).expect("it has just reported");
        one.dirty = true;
        match step {
            Step::ChangePeer(change) => {
                one.change(&change, second);
                one.bump(1, 0);
            }
            Step::ChangePeerV2(joint) => one.change_jointly(&joint.changes),
            Step::TransferLeader(transfer) => {
                let to = transfer.peer.expect("names a peer");
                if self.stores.get(&to.store_id).is_some_and(|store| store.alive) {
                    one.leader = to;
                    one.term += 1;
                }
            }
            Step::SplitRegion(split) => self.split(id, &split.keys),
            Step::Merge(merge) => self.merge(id, merge.target.expect("names a region").id),
        }
    }

    fn split(&mut self, id: u64, keys: &[Bytes]) {
        let one = self.regions.get_mut(&id).expect("it is there");
        let middle = [one.region.start_key.clone(), Bytes::from_static(b"m")].concat().into();
        let key: Bytes = keys.first().cloned().unwrap_or(middle);
        one.bump(0, 1);
        for load in [&mut one.size_bytes, &mut one.keys, &mut one.writes, &mut one.reads] {
            *load /= 2;
        }
        let mut new = one.clone();
        one.region.end_key = key.clone();
        new.region.id = self.next_id;
        new.region.start_key = key;
        for (peer, id) in new.region.peers.iter_mut().zip(self.next_id + 1..) {
            peer.id = id;
        }
        new.leader = *new
            .region
            .peers
            .iter()
            .find(|peer| peer.store_id == one.leader.store_id)
            .expect("the same stores");
        self.next_id += 1 + new.region.peers.len() as u64;
        let (left, right) = (one.region.clone(), new.region.clone());
        self.regions.insert(new.region.id, new);
        self.state.apply(Command::put_regions(vec![left, right])).expect("valid");
    }

    fn merge(&mut self, source: u64, target: u64) {
        let stores = |one: &FakeRegion| -> BTreeSet<u64> {
            one.region.peers.iter().map(|peer| peer.store_id).collect()
        };
        let gone = self.regions[&source].clone();
        let one = self.regions.get_mut(&target).expect("it is there");
        assert_eq!(stores(one), stores(&gone), "peers lie on the same stores");
        assert!(gone.copying.is_empty() && one.copying.is_empty());
        if one.region.end_key == gone.region.start_key {
            one.region.end_key = gone.region.end_key.clone();
        } else {
            assert_eq!(one.region.start_key, gone.region.end_key, "neighbours");
            one.region.start_key = gone.region.start_key.clone();
        }
        one.size_bytes += gone.size_bytes;
        one.keys += gone.keys;
        let version = gone.region.epoch.unwrap_or_default().version;
        let epoch = one.region.epoch.as_mut().expect("set");
        epoch.version = epoch.version.max(version) + 1;
        one.dirty = true;
        self.regions.remove(&source);
    }

    // ---- what a scenario asks ----

    /// Every region has its voters on stores that live and stay, and nothing else.
    fn assert_replicated(&self, voters: usize) {
        for one in self.regions.values() {
            let peers = &one.region.peers;
            let good = peers.iter().filter(|peer| {
                peer.role() == PeerRole::Voter
                    && self.lives(peer.store_id)
                    && self.state.stores[&peer.store_id].state() == StoreState::Up
            });
            assert_eq!((good.count(), peers.len()), (voters, voters), "{:?}", one.region);
            assert!(self.lives(one.leader.store_id) && one.copying.is_empty());
        }
    }

    /// No two replicas of a region share the label's value.
    fn assert_apart(&self, label: &str) {
        let value = |store_id: u64| {
            let labels = &self.state.stores[&store_id].labels;
            labels.iter().find(|one| one.key == label).map(|one| one.value.clone())
        };
        for one in self.regions.values() {
            let values: BTreeSet<_> =
                one.region.peers.iter().map(|peer| value(peer.store_id)).collect();
            assert_eq!(values.len(), one.region.peers.len(), "{:?}", one.region);
        }
    }

    fn peers_by_store(&self) -> BTreeMap<u64, usize> {
        self.count(|one| one.region.peers.iter().map(|peer| peer.store_id).collect())
    }

    fn leaders_by_store(&self) -> BTreeMap<u64, usize> {
        self.count(|one| vec![one.leader.store_id])
    }

    fn count(&self, of: impl Fn(&FakeRegion) -> Vec<u64>) -> BTreeMap<u64, usize> {
        let mut counts: BTreeMap<u64, usize> =
            self.stores.iter().filter(|(_, one)| one.alive).map(|(id, _)| (*id, 0)).collect();
        for store_id in self.regions.values().flat_map(of) {
            *counts.entry(store_id).or_default() += 1;
        }
        counts
    }
}

/// Every store is within 10 % of the average, or within one.
fn assert_even(counts: &BTreeMap<u64, usize>) {
    let average = counts.values().sum::<usize>() as f64 / counts.len() as f64;
    for count in counts.values() {
        let off = (*count as f64 - average).abs();
        assert!(off <= (average * 0.1).max(1.0), "{counts:?}, average {average}");
    }
}

impl FakeRegion {
    fn bump(&mut self, conf: u64, version: u64) {
        let epoch = self.region.epoch.as_mut().expect("set");
        epoch.conf_ver += conf;
        epoch.version += version;
    }

    fn change(&mut self, change: &ChangePeer, second: u64) {
        let peer = change.peer.expect("names a peer");
        let known = self.region.peers.iter_mut().find(|known| known.id == peer.id);
        match (change.kind(), known) {
            (ChangePeerKind::AddLearner, None) => {
                self.region.peers.push(Peer { role: PeerRole::Learner.into(), ..peer });
                let takes_s = 1 + self.size_bytes / COPY_BYTES_PER_S;
                self.copying.insert(peer.id, second + takes_s);
            }
            (ChangePeerKind::AddLearner, Some(known)) => known.set_role(PeerRole::Learner),
            (ChangePeerKind::AddVoter, Some(known)) => {
                assert!(!self.copying.contains_key(&peer.id), "promoted while it lacks entries");
                known.set_role(PeerRole::Voter);
            }
            (ChangePeerKind::AddVoter, None) => panic!("a voter out of nothing"),
            (ChangePeerKind::Remove, _) => {
                assert_ne!(peer.id, self.leader.id, "the leader removes itself");
                self.region.peers.retain(|known| known.id != peer.id);
                self.copying.remove(&peer.id);
            }
        }
    }

    /// Enters a joint state; without changes leaves it.
    fn change_jointly(&mut self, changes: &[ChangePeer]) {
        let joint =
            |peer: &Peer| matches!(peer.role(), PeerRole::IncomingVoter | PeerRole::DemotingVoter);
        assert_eq!(changes.is_empty(), self.region.peers.iter().any(joint));
        for peer in &mut self.region.peers {
            match peer.role() {
                PeerRole::IncomingVoter => peer.set_role(PeerRole::Voter),
                PeerRole::DemotingVoter => peer.set_role(PeerRole::Learner),
                _ => {}
            }
        }
        for change in changes {
            let id = change.peer.expect("names a peer").id;
            assert!(!self.copying.contains_key(&id), "a voter that lacks entries");
            let known = self.region.peers.iter_mut().find(|known| known.id == id);
            let known = known.expect("it is a member");
            match change.kind() {
                ChangePeerKind::AddVoter => known.set_role(PeerRole::IncomingVoter),
                ChangePeerKind::AddLearner => {
                    assert_ne!(id, self.leader.id, "the leader is demoted");
                    known.set_role(PeerRole::DemotingVoter);
                }
                ChangePeerKind::Remove => panic!("a voter is demoted first"),
            }
        }
        self.bump(changes.len().max(1) as u64, 0);
    }
}
