//! Regions by start key, disjoint, with the newest epoch winning.
//!
//! **Invariants.** No two regions overlap. A region only replaces what is not
//! newer than itself: of the same id by either counter, of another id by the
//! version (the counter of splits and merges). Holes are allowed: right after a
//! split one half may be known before the other.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;

use bytes::Bytes;
use cairn_proto::meta::{Region, RegionEpoch};

/// What a reported region means to a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// Known exactly so.
    Known,
    /// News that the tree should take.
    New,
    /// Older than what is known.
    Stale,
}

/// Disjoint regions.
#[derive(Debug, Default, PartialEq)]
pub struct RegionTree {
    by_start: BTreeMap<Bytes, Region>,
    start_by_id: HashMap<u64, Bytes>,
    peers_by_store: HashMap<u64, usize>,
}

fn epoch(region: &Region) -> RegionEpoch {
    region.epoch.unwrap_or_default()
}

fn ends_behind(region: &Region, key: &[u8]) -> bool {
    region.end_key.is_empty() || &region.end_key[..] > key
}

impl RegionTree {
    /// The region of an id.
    pub fn get(&self, id: u64) -> Option<&Region> {
        self.by_start.get(self.start_by_id.get(&id)?)
    }

    /// The region that holds the key.
    pub fn find(&self, key: &[u8]) -> Option<&Region> {
        let bounds = (Bound::Unbounded, Bound::Included(key));
        let (_, region) = self.by_start.range::<[u8], _>(bounds).next_back()?;
        ends_behind(region, key).then_some(region)
    }

    /// Regions overlapping `[start, end)` in key order; an empty end is +infinity.
    pub fn overlapping<'a>(
        &'a self,
        start: &'a [u8],
        end: &'a [u8],
    ) -> impl Iterator<Item = &'a Region> {
        let first = self.find(start).map_or(start, |region| &region.start_key[..]);
        let bounds = (Bound::Included(first), Bound::Unbounded);
        self.by_start
            .range::<[u8], _>(bounds)
            .map(|(_, region)| region)
            .take_while(move |region| end.is_empty() || &region.start_key[..] < end)
    }

    /// The regions that end where this one begins and begin where it ends.
    pub fn neighbours(&self, region: &Region) -> [Option<&Region>; 2] {
        let below = (Bound::Unbounded, Bound::Excluded(&region.start_key[..]));
        let before = self.by_start.range::<[u8], _>(below).next_back().map(|(_, before)| before);
        let behind = self.by_start.get(&region.end_key);
        [
            before.filter(|before| before.end_key == region.start_key),
            behind.filter(|_| !region.end_key.is_empty()),
        ]
    }

    /// Every region in key order.
    pub fn iter(&self) -> impl Iterator<Item = &Region> + Clone {
        self.by_start.values()
    }

    /// Number of regions.
    pub fn len(&self) -> usize {
        self.by_start.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.by_start.is_empty()
    }

    /// Number of peers on a store.
    pub fn peer_count(&self, store_id: u64) -> usize {
        self.peers_by_store.get(&store_id).copied().unwrap_or(0)
    }

    /// What a report of the region would change.
    pub fn freshness(&self, region: &Region) -> Freshness {
        let new = epoch(region);
        if let Some(known) = self.get(region.id) {
            let old = epoch(known);
            if new.version < old.version || new.conf_ver < old.conf_ver {
                return Freshness::Stale;
            }
            if known == region {
                return Freshness::Known;
            }
        }
        let overrun = self
            .overlapping(&region.start_key, &region.end_key)
            .any(|other| other.id != region.id && epoch(other).version > new.version);
        if overrun { Freshness::Stale } else { Freshness::New }
    }

    /// Takes the region unless it is stale; what it overlaps goes.
    pub fn insert(&mut self, region: Region) -> Freshness {
        let freshness = self.freshness(&region);
        if freshness != Freshness::New {
            return freshness;
        }
        self.remove(region.id);
        let overlapped: Vec<u64> =
            self.overlapping(&region.start_key, &region.end_key).map(|other| other.id).collect();
        for id in overlapped {
            self.remove(id);
        }
        for peer in &region.peers {
            *self.peers_by_store.entry(peer.store_id).or_default() += 1;
        }
        self.start_by_id.insert(region.id, region.start_key.clone());
        self.by_start.insert(region.start_key.clone(), region);
        Freshness::New
    }

    fn remove(&mut self, id: u64) {
        let Some(start) = self.start_by_id.remove(&id) else { return };
        let Some(region) = self.by_start.remove(&start) else { return };
        for peer in &region.peers {
            if let Some(count) = self.peers_by_store.get_mut(&peer.store_id) {
                *count -= 1;
                if *count == 0 {
                    self.peers_by_store.remove(&peer.store_id);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use cairn_proto::meta::Peer;
    use proptest::prelude::*;

    use super::*;

    fn region(id: u64, start: &[u8], end: &[u8], version: u64, conf_ver: u64) -> Region {
        Region {
            id,
            start_key: Bytes::copy_from_slice(start),
            end_key: Bytes::copy_from_slice(end),
            epoch: Some(RegionEpoch { conf_ver, version }),
            peers: vec![Peer { id: id * 10, store_id: 1 + id % 3, role: 0 }],
        }
    }

    fn overlap(left: &Region, right: &Region) -> bool {
        ends_behind(left, &right.start_key) && ends_behind(right, &left.start_key)
    }

    proptest! {
        /// Whatever is reported in whatever order: no overlaps, no older epoch
        /// replaces a newer one, indexes agree.
        #[test]
        fn stays_disjoint(
            reports in proptest::collection::vec((1..6u64, 0..9u8, 0..9u8, 1..6u64, 1..4u64), 0..60)
        ) {
            let mut tree = RegionTree::default();
            for (id, start, end, version, conf_ver) in reports {
                let start = if start == 0 { vec![] } else { vec![start] };
                let end = if end == 0 || start >= vec![end] { vec![] } else { vec![end] };
                let new = region(id, &start, &end, version, conf_ver);
                let newer_known = tree.iter().any(|known| {
                    let (old, fresh) = (epoch(known), epoch(&new));
                    if known.id == id {
                        old.version > fresh.version || old.conf_ver > fresh.conf_ver
                    } else {
                        overlap(known, &new) && old.version > fresh.version
                    }
                });
                let freshness = tree.insert(new.clone());
                prop_assert_eq!(freshness == Freshness::Stale, newer_known);
                prop_assert_eq!(tree.get(id) == Some(&new), !newer_known);
                let all: Vec<&Region> = tree.iter().collect();
                for (at, left) in all.iter().enumerate() {
                    for right in &all[at + 1..] {
                        prop_assert!(!overlap(left, right), "{:?} {:?}", left, right);
                    }
                    prop_assert_eq!(tree.find(&left.start_key), Some(*left));
                    prop_assert_eq!(tree.get(left.id), Some(*left));
                }
                let peers: usize = (1..=3).map(|store| tree.peer_count(store)).sum();
                prop_assert_eq!(peers, all.len());
            }
        }
    }

    #[test]
    fn scans_begin_inside_a_region() {
        let mut tree = RegionTree::default();
        tree.insert(region(1, b"", b"f", 2, 1));
        tree.insert(region(2, b"f", b"m", 2, 1));
        tree.insert(region(3, b"p", b"", 2, 1));
        let ids = |start: &[u8], end: &[u8]| -> Vec<u64> {
            tree.overlapping(start, end).map(|region| region.id).collect()
        };
        assert_eq!(ids(b"c", b"g"), [1, 2]);
        assert_eq!(ids(b"n", b""), [3]);
        assert_eq!(ids(b"", b"f"), [1]);
        assert_eq!(ids(b"m", b"p"), [] as [u64; 0]);
        assert!(tree.find(b"n").is_none());
    }
}
