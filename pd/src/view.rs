//! What checkers and schedulers see of the cluster: plain data, built for them.
//!
//! Decisions are pure functions of these views, so that a text file can tell a
//! situation and expect the step that follows.

use std::collections::BTreeMap;

use cairn_proto::meta::{Peer, PeerRole, Region, StoreState};

/// One store.
#[derive(Clone, Debug, PartialEq)]
pub struct StoreView {
    /// Its id.
    pub id: u64,
    /// Whether it lives and may take replicas.
    pub state: StoreState,
    /// Its label `host`, or its address: replicas prefer different ones.
    pub host: String,
    /// Peers on it, running operators included.
    pub region_count: usize,
    /// Leaders on it, running operators included.
    pub leader_count: usize,
    /// Learners that running operators are adding to it.
    pub incoming_count: usize,
}

impl StoreView {
    /// Whether new replicas and leaders may go to it.
    pub fn is_target(&self) -> bool {
        self.state == StoreState::Up
    }

    /// Whether replicas on it are to be replaced.
    pub fn is_leaving(&self) -> bool {
        matches!(self.state, StoreState::Down | StoreState::Offline | StoreState::Tombstone)
    }
}

/// All stores, and the rules.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClusterView {
    /// Stores by id.
    pub stores: BTreeMap<u64, StoreView>,
    /// Voters a region shall have.
    pub replicas_max: usize,
}

impl ClusterView {
    /// Whether replicas on the store are to be replaced; a store nobody knows is gone.
    pub fn is_leaving(&self, store_id: u64) -> bool {
        self.stores.get(&store_id).is_none_or(StoreView::is_leaving)
    }

    /// Whether new replicas and leaders may go to the store.
    pub fn is_target(&self, store_id: u64) -> bool {
        self.stores.get(&store_id).is_some_and(StoreView::is_target)
    }
}

/// One region.
#[derive(Clone, Copy, Debug)]
pub struct RegionView<'a> {
    /// Range, epoch and peers.
    pub region: &'a Region,
    /// The leader, if one reported.
    pub leader: Option<Peer>,
    /// Ids of peers that lack entries.
    pub pending: &'a [u64],
    /// Ids of peers their leader has not heard from.
    pub down: &'a [u64],
}

impl<'a> RegionView<'a> {
    /// Peers that vote.
    pub fn voters(&self) -> impl Iterator<Item = &'a Peer> + use<'a> {
        self.region.peers.iter().filter(|peer| peer.role() != PeerRole::Learner)
    }

    /// Peers that do not vote yet.
    pub fn learners(&self) -> impl Iterator<Item = &'a Peer> + use<'a> {
        self.region.peers.iter().filter(|peer| peer.role() == PeerRole::Learner)
    }

    /// The peer on a store.
    pub fn peer_on(&self, store_id: u64) -> Option<&'a Peer> {
        self.region.peers.iter().find(|peer| peer.store_id == store_id)
    }

    /// Whether the peer has everything its leader has.
    pub fn is_caught_up(&self, peer: &Peer) -> bool {
        !self.pending.contains(&peer.id) && !self.down.contains(&peer.id)
    }

    /// Whether the leader sits on the store.
    pub fn is_led_by(&self, store_id: u64) -> bool {
        self.leader.is_some_and(|leader| leader.store_id == store_id)
    }
}
