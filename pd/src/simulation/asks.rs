//! What a scenario asks of its cluster.

use std::collections::{BTreeMap, BTreeSet};

use cairn_proto::meta::{PeerRole, StoreState};

use super::{FakeRegion, World};

impl World {
    /// Every region has its voters on stores that live and stay, and nothing else.
    pub(super) fn assert_replicated(&self, voters: usize) {
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
    pub(super) fn assert_apart(&self, label: &str) {
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

    pub(super) fn peers_by_store(&self) -> BTreeMap<u64, usize> {
        self.count(|one| one.region.peers.iter().map(|peer| peer.store_id).collect())
    }

    pub(super) fn leaders_by_store(&self) -> BTreeMap<u64, usize> {
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
pub(super) fn assert_even(counts: &BTreeMap<u64, usize>) {
    let average = counts.values().sum::<usize>() as f64 / counts.len() as f64;
    for count in counts.values() {
        let off = (*count as f64 - average).abs();
        assert!(off <= (average * 0.1).max(1.0), "{counts:?}, average {average}");
    }
}
