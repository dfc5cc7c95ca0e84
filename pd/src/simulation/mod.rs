//! A cluster in miniature: PD's real decisions, and stores that only pretend.
//!
//! **Flow.** One tick is a second. Stores report, leaders report their regions and do
//! what they are told, schedulers and the patrol run; just as [`crate::server`] lets
//! them, without its log and its network. Copying a replica takes time by its size,
//! a dead leader is replaced after two seconds if a majority is left.
//!
//! Everything is a function of the commands: the same scenario gives the same
//! operators.
//!
//! | module | what it holds |
//! |---|---|
//! | here | the cluster, what a scenario does to it, its ticks |
//! | [`reports`] | heartbeats, elections, operators begun |
//! | [`steps`] | what stores do when they are told |
//! | [`asks`] | what a scenario asks |
//! | [`scenarios`], [`scripts`] | the tests |

mod asks;
mod reports;
mod scenarios;
mod scripts;
mod steps;

use std::collections::BTreeMap;

use bytes::Bytes;
use cairn_proto::meta::{Peer, Region, RegionEpoch, Store, StoreLabel, StoreState};
use cairn_proto::pd::ConfigEntry;

use crate::cluster::Cluster;
use crate::hot::Now;
use crate::state::{Command, State};

const MIB: u64 = 1 << 20;
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
}
