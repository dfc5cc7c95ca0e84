//! What the placement driver must never forget: the state machine behind its log.
//!
//! **Data.** Cluster identity, members, id and timestamp bounds, stores, regions,
//! settings, GC safe point, schema version, the last recovery. Leaders, loads and heartbeats are not here: they
//! are learned anew from heartbeats ([`crate::cluster`]).
//!
//! **Invariants.** [`State::apply`] is a pure function of state and command: every
//! member that applies the same log holds the same state. A refused command
//! changes nothing. Bounds, the safe point and the schema version only grow.

mod command;
pub mod members;
pub mod recovery;
pub mod region_tree;

use std::collections::BTreeMap;

use bytes::Bytes;
use cairn_pd_client::PdError;
use cairn_proto::meta::{Region, Store, StoreState};
use cairn_proto::pd::ConfigEntry;
use prost::Message;

use command::StateImage;
pub use command::{Command, Kind, MemberInfo, Takeover};
use members::Members;
use recovery::Recovery;
use region_tree::RegionTree;

/// Keys and values of settings together.
const CONFIG_ENTRIES_MAX: usize = 10_000;

/// The replicated state.
#[derive(Debug, Default, PartialEq)]
pub struct State {
    /// Identity of the cluster; zero until the first command.
    pub cluster_id: u64,
    /// The identity it went by until its own was recovered from its stores; zero: it never
    /// was.
    pub provisional_cluster_id: u64,
    /// Members of the placement driver itself.
    pub members: Members,
    /// Whether the first region exists.
    pub bootstrapped: bool,
    /// Ids up to this one may have been handed out.
    pub id_bound: u64,
    /// Timestamps below this physical time may have been handed out.
    pub tso_bound_ms: u64,
    /// Stores by id. Of the states only Up, Offline and Tombstone are stored.
    pub stores: BTreeMap<u64, Store>,
    /// Regions by start key.
    pub regions: RegionTree,
    /// Cluster-wide settings.
    pub config: BTreeMap<String, Bytes>,
    /// Versions below it may be collected.
    pub gc_safe_point: u64,
    /// Newest announced schema version.
    pub schema_version: i64,
    /// The last recovery after stores were lost.
    pub recovery: Option<Recovery>,
}

impl State {
    /// Carries out one command. An error means that nothing was changed.
    pub fn apply(&mut self, command: Command) -> Result<(), PdError> {
        let Some(kind) = command.kind else {
            return Err(PdError::InvalidArgument("empty command".into()));
        };
        match kind {
            Kind::InitCluster(cluster_id) => {
                if self.cluster_id == 0 {
                    self.cluster_id = cluster_id;
                }
            }
            Kind::IdBound(bound) => self.id_bound = self.id_bound.max(bound),
            Kind::TsoBound(bound_ms) => self.tso_bound_ms = self.tso_bound_ms.max(bound_ms),
            Kind::Bootstrap(bootstrap) => {
                self.bootstrap(
                    bootstrap.store.unwrap_or_default(),
                    bootstrap.region.unwrap_or_default(),
                )?;
            }
            Kind::PutStore(store) => self.put_store(store)?,
            Kind::StoreState(change) => self.set_store_state(change.store_id, change.state())?,
            Kind::ForgetStore(id) => self.forget_store(id)?,
            Kind::PutRegions(regions) => {
                for region in regions.regions {
                    self.regions.insert(region);
                }
            }
            Kind::PutConfig(config) => self.put_config(config.entries)?,
            Kind::GcSafePoint(safe_point) => {
                self.gc_safe_point = self.gc_safe_point.max(safe_point);
            }
            Kind::SchemaVersion(version) => {
                self.schema_version = self.schema_version.max(version);
            }
            Kind::TakeOver(takeover) => self.take_over(takeover)?,
            Kind::PutMember(member) => self.members.put(member)?,
            Kind::AddLearner(member) => self.members.add(member)?,
            Kind::PromoteMember(id) => self.members.promote(id)?,
            Kind::RemoveMember(id) => self.members.remove(id)?,
            Kind::BeginRecovery(recovery) => self.begin_recovery(recovery)?,
            Kind::ExtendRecovery(step) => self.extend_recovery(step)?,
        }
        Ok(())
    }

    fn bootstrap(&mut self, store: Store, region: Region) -> Result<(), PdError> {
        if self.bootstrapped {
            // The winner may ask again when the first answer was lost.
            let same = self.stores.contains_key(&store.id) && self.regions.get(region.id).is_some();
            return if same { Ok(()) } else { Err(PdError::AlreadyBootstrapped) };
        }
        let whole = region.start_key.is_empty() && region.end_key.is_empty();
        if store.id == 0 || region.id == 0 || region.peers.is_empty() || !whole {
            return Err(PdError::InvalidArgument(
                "the first region must cover all keys and have a peer on the first store".into(),
            ));
        }
        // Ids that the first store chose itself must not be handed out again.
        let peer_ids = region.peers.iter().map(|peer| peer.id);
        let used = peer_ids.chain([store.id, region.id]).max().unwrap_or(0);
        self.id_bound = self.id_bound.max(used);
        self.put_store(store)?;
        self.regions.insert(region);
        self.bootstrapped = true;
        Ok(())
    }

    /// Only a cluster that has never begun takes another's identity: it must not be a living
    /// one's.
    fn take_over(&mut self, takeover: Takeover) -> Result<(), PdError> {
        if self.bootstrapped {
            // The answer to the first order may have been lost.
            let same = self.provisional_cluster_id != 0 && self.cluster_id == takeover.cluster_id;
            return if same { Ok(()) } else { Err(PdError::AlreadyBootstrapped) };
        }
        if !self.stores.is_empty() || !self.regions.is_empty() {
            return Err(PdError::AlreadyBootstrapped);
        }
        let nameless = takeover.stores.iter().any(|store| store.id == 0);
        if takeover.cluster_id == 0 || takeover.stores.is_empty() || nameless {
            return Err(PdError::InvalidArgument(
                "a cluster to recover has an identity, and stores with ids".into(),
            ));
        }
        self.provisional_cluster_id = self.cluster_id;
        self.cluster_id = takeover.cluster_id;
        self.id_bound = self.id_bound.max(takeover.id_bound);
        self.tso_bound_ms = self.tso_bound_ms.max(takeover.tso_bound_ms);
        self.gc_safe_point = self.gc_safe_point.max(takeover.gc_safe_point);
        self.schema_version = self.schema_version.max(takeover.schema_version);
        self.stores = takeover.stores.into_iter().map(|store| (store.id, store)).collect();
        self.bootstrapped = true;
        Ok(())
    }

    fn put_store(&mut self, mut store: Store) -> Result<(), PdError> {
        let id = store.id;
        if id == 0 {
            return Err(PdError::InvalidArgument("store id 0".into()));
        }
        let known = self.stores.get(&id);
        let wanted = store.state();
        let state = match (known.map(Store::state), wanted) {
            (Some(StoreState::Tombstone), _) => {
                return Err(PdError::StoreTombstone(format!("store {id} was removed")));
            }
            (_, StoreState::Tombstone) => {
                let peers = self.regions.peer_count(id);
                if peers > 0 {
                    return Err(PdError::InvalidArgument(format!(
                        "store {id} still holds {peers} peers"
                    )));
                }
                StoreState::Tombstone
            }
            // A store that is being emptied stays so when it restarts.
            (Some(StoreState::Offline), _) | (_, StoreState::Offline) => StoreState::Offline,
            _ => StoreState::Up,
        };
        // Tools that only change the state need not know the rest.
        if let Some(known) = known
            && store.address.is_empty()
        {
            store = known.clone();
        }
        store.set_state(state);
        self.stores.insert(id, store);
        Ok(())
    }

    fn set_store_state(&mut self, id: u64, wanted: StoreState) -> Result<(), PdError> {
        let store = self.stores.get_mut(&id);
        let store = store.ok_or_else(|| PdError::StoreNotFound(format!("store {id}")))?;
        match (store.state(), wanted) {
            (StoreState::Tombstone, _) => {
                Err(PdError::StoreTombstone(format!("store {id} was removed")))
            }
            (_, StoreState::Up | StoreState::Offline) => {
                store.set_state(wanted);
                Ok(())
            }
            (_, other) => Err(PdError::InvalidArgument(format!(
                "a store cannot be made {}",
                other.as_str_name()
            ))),
        }
    }

    fn forget_store(&mut self, id: u64) -> Result<(), PdError> {
        match self.stores.get(&id).map(Store::state) {
            None => Err(PdError::StoreNotFound(format!("store {id}"))),
            Some(StoreState::Tombstone) if self.regions.peer_count(id) > 0 => {
                // It was lost with its peers: until they are replaced it must be known as gone.
                Err(PdError::InvalidArgument(format!("regions still name store {id}")))
            }
            Some(StoreState::Tombstone) => {
                self.stores.remove(&id);
                Ok(())
            }
            Some(state) => Err(PdError::InvalidArgument(format!(
                "store {id} is {}, not TOMBSTONE",
                state.as_str_name()
            ))),
        }
    }

    fn put_config(&mut self, entries: Vec<ConfigEntry>) -> Result<(), PdError> {
        if self.config.len() + entries.len() > CONFIG_ENTRIES_MAX {
            return Err(PdError::InvalidArgument("too many configuration entries".into()));
        }
        for entry in entries {
            if entry.value.is_empty() {
                self.config.remove(&entry.key);
            } else {
                self.config.insert(entry.key, entry.value);
            }
        }
        Ok(())
    }

    /// The whole state as bytes.
    pub fn encode(&self) -> Vec<u8> {
        let entries = self.config.iter();
        let image = StateImage {
            cluster_id: self.cluster_id,
            bootstrapped: self.bootstrapped,
            id_bound: self.id_bound,
            tso_bound_ms: self.tso_bound_ms,
            stores: self.stores.values().cloned().collect(),
            regions: self.regions.iter().cloned().collect(),
            config: entries
                .map(|(key, value)| ConfigEntry { key: key.clone(), value: value.clone() })
                .collect(),
            gc_safe_point: self.gc_safe_point,
            schema_version: self.schema_version,
            provisional_cluster_id: self.provisional_cluster_id,
            founders: self.members.founders().to_vec(),
            members: self.members.iter().cloned().collect(),
            last_member_id: self.members.last_used_id(),
            recovery: self.recovery.clone(),
        };
        image.encode_to_vec()
    }

    /// Reads what [`State::encode`] wrote.
    pub fn decode(bytes: &[u8]) -> Result<State, prost::DecodeError> {
        let image = StateImage::decode(bytes)?;
        let mut regions = RegionTree::default();
        for region in image.regions {
            regions.insert(region);
        }
        Ok(State {
            cluster_id: image.cluster_id,
            provisional_cluster_id: image.provisional_cluster_id,
            bootstrapped: image.bootstrapped,
            id_bound: image.id_bound,
            tso_bound_ms: image.tso_bound_ms,
            stores: image.stores.into_iter().map(|store| (store.id, store)).collect(),
            regions,
            config: image.config.into_iter().map(|entry| (entry.key, entry.value)).collect(),
            gc_safe_point: image.gc_safe_point,
            schema_version: image.schema_version,
            members: Members::restore(image.founders, image.members, image.last_member_id),
            recovery: image.recovery,
        })
    }
}

#[cfg(test)]
mod tests {
    use cairn_proto::meta::{Peer, RegionEpoch};

    use super::*;

    fn store(id: u64) -> Store {
        Store { id, address: format!("127.0.0.1:{id}"), ..Store::default() }
    }

    fn first_region() -> Region {
        Region {
            id: 2,
            epoch: Some(RegionEpoch { conf_ver: 1, version: 1 }),
            peers: vec![Peer { id: 3, store_id: 1, role: 0 }],
            ..Region::default()
        }
    }

    #[test]
    fn one_bootstrap_wins() {
        let mut state = State::default();
        state.apply(Command::bootstrap(store(1), first_region())).expect("first");
        state.apply(Command::bootstrap(store(1), first_region())).expect("the winner again");
        let late = Region { id: 9, ..first_region() };
        let refused = state.apply(Command::bootstrap(store(8), late));
        assert_eq!(refused, Err(PdError::AlreadyBootstrapped));
        assert_eq!(state.stores.len(), 1);
    }

    #[test]
    fn removed_stores_stay_removed() {
        let mut state = State::default();
        state.apply(Command::bootstrap(store(1), first_region())).expect("first");
        state.apply(Command::put_store(store(4))).expect("new store");
        let with = |id, wanted: StoreState| {
            let mut store = Store { id, ..Store::default() };
            store.set_state(wanted);
            Command::put_store(store)
        };
        state.apply(with(4, StoreState::Offline)).expect("leaves");
        state.apply(Command::put_store(store(4))).expect("restarts");
        assert_eq!(state.stores[&4].state(), StoreState::Offline);
        assert_eq!(state.stores[&4].address, "127.0.0.1:4");
        state.apply(with(4, StoreState::Tombstone)).expect("is empty");
        assert!(matches!(
            state.apply(Command::put_store(store(4))),
            Err(PdError::StoreTombstone(_))
        ));
        state.apply(Command::store_state(1, StoreState::Offline)).expect("leaves");
        state.apply(Command::store_state(1, StoreState::Up)).expect("stays after all");
        assert_eq!(state.stores[&1].state(), StoreState::Up);
        for (id, wanted) in [(4, StoreState::Up), (9, StoreState::Up), (1, StoreState::Down)] {
            state.apply(Command::store_state(id, wanted)).expect_err("refused");
        }
        state.apply(Kind::ForgetStore(1).into()).expect_err("it lives");
        state.apply(Kind::ForgetStore(4).into()).expect("it is gone");
        assert!(!state.stores.contains_key(&4));
        // A store with data cannot become one.
        assert!(matches!(
            state.apply(with(1, StoreState::Tombstone)),
            Err(PdError::InvalidArgument(_))
        ));
    }

    #[test]
    fn only_a_cluster_that_never_began_becomes_another() {
        let takeover = Takeover {
            cluster_id: 42,
            id_bound: 1_000,
            tso_bound_ms: 5_000,
            gc_safe_point: 9,
            schema_version: 3,
            stores: vec![store(1), store(4)],
        };
        let order = || Command::from(Kind::TakeOver(takeover.clone()));
        let mut state = State::default();
        for command in [Kind::InitCluster(7), Kind::IdBound(10), Kind::TsoBound(6_000)] {
            state.apply(command.into()).expect("valid");
        }
        let fresh = state.encode();
        for bad in [
            Takeover { cluster_id: 0, ..takeover.clone() },
            Takeover { stores: Vec::new(), ..takeover.clone() },
            Takeover { stores: vec![store(0)], ..takeover.clone() },
        ] {
            state.apply(Kind::TakeOver(bad).into()).expect_err("nobody's cluster");
            assert_eq!(state.encode(), fresh);
        }
        // One that has begun stays what it is, whatever it has heard of.
        for begun in [Command::bootstrap(store(1), first_region()), Command::put_store(store(8))] {
            let mut living = State::decode(&fresh).expect("own bytes");
            living.apply(begun).expect("valid");
            let before = living.encode();
            assert_eq!(living.apply(order()), Err(PdError::AlreadyBootstrapped));
            assert_eq!(living.encode(), before);
        }
        state.apply(order()).expect("a fresh one");
        assert_eq!((state.cluster_id, state.provisional_cluster_id), (42, 7));
        // Bounds never go back.
        assert_eq!((state.id_bound, state.tso_bound_ms), (1_000, 6_000));
        assert_eq!((state.gc_safe_point, state.schema_version), (9, 3));
        assert!(state.bootstrapped && state.stores.len() == 2);
        assert_eq!(State::decode(&state.encode()).expect("own bytes"), state);
        state.apply(order()).expect("the same once more");
        let other = Takeover { cluster_id: 43, ..takeover.clone() };
        let refused = state.apply(Kind::TakeOver(other).into());
        assert_eq!(refused, Err(PdError::AlreadyBootstrapped));
        // No store begins a cluster here any more.
        let late = state.apply(Command::bootstrap(store(9), first_region()));
        assert_eq!(late, Err(PdError::AlreadyBootstrapped));
    }

    #[test]
    fn bytes_and_back() {
        let mut state = State::default();
        let config = ConfigEntry { key: "a/b".into(), value: "c".into() };
        for command in [
            Command::from(Kind::InitCluster(77)),
            Command::from(Kind::InitCluster(78)),
            Command::bootstrap(store(1), first_region()),
            Command::from(Kind::IdBound(1000)),
            Command::from(Kind::TsoBound(5000)),
            Command::put_config(vec![config]),
            Command::from(Kind::GcSafePoint(9)),
            Command::from(Kind::GcSafePoint(8)),
            Command::from(Kind::SchemaVersion(3)),
        ] {
            let bytes = command.encode_to_vec();
            let command = Command::decode(bytes.as_slice()).expect("own bytes");
            state.apply(command).expect("valid");
        }
        assert_eq!((state.cluster_id, state.gc_safe_point), (77, 9));
        assert_eq!(State::decode(&state.encode()).expect("own bytes"), state);
        assert!(State::decode(b"\xff\xff").is_err());
    }
}
