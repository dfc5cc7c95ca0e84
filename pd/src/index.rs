//! Which regions lie on which store: kept up to date with every heartbeat, in
//! constant time, so that no decision walks over all regions.

use std::collections::{BTreeMap, HashMap};

use smallvec::SmallVec;

use crate::hot::HotStats;
use crate::state::region_tree::RegionTree;
use crate::view::{RegionReport, RegionView, Tally};

/// Regions of a store looked at for one decision.
const SAMPLE_MAX: usize = 128;

/// A set of ids with places: whoever looks for one begins at another place each
/// time.
#[derive(Clone, Debug, Default)]
pub struct IdSet {
    ids: Vec<u64>,
    places: HashMap<u64, usize>,
}

impl IdSet {
    fn insert(&mut self, id: u64) {
        if let std::collections::hash_map::Entry::Vacant(place) = self.places.entry(id) {
            place.insert(self.ids.len());
            self.ids.push(id);
        }
    }

    fn remove(&mut self, id: u64) {
        let Some(place) = self.places.remove(&id) else { return };
        self.ids.swap_remove(place);
        if let Some(moved) = self.ids.get(place) {
            self.places.insert(*moved, place);
        }
    }

    /// A part of the ids, from the place `turn` on.
    fn sample(&self, turn: usize) -> impl Iterator<Item = u64> {
        let len = self.ids.len();
        (0..len.min(SAMPLE_MAX)).map(move |step| self.ids[(turn + step) % len])
    }
}

/// What one region adds to the tallies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Counted {
    stores: SmallVec<[u64; 4]>,
    leader: Option<u64>,
    pending: SmallVec<[u64; 2]>,
    weighed_bytes: u64,
}

impl Counted {
    fn of(region: &RegionView<'_>) -> Counted {
        Counted {
            stores: region.region.peers.iter().map(|peer| peer.store_id).collect(),
            leader: region.leader().map(|leader| leader.store_id),
            pending: region.report.pending.iter().map(|peer| peer.store_id).collect(),
            weighed_bytes: region.weighed_bytes(),
        }
    }
}

#[derive(Clone, Debug, Default)]
struct OnStore {
    peers: IdSet,
    leaders: IdSet,
    tally: Tally,
}

/// Regions by store.
#[derive(Debug, Default)]
pub struct StoreIndex {
    stores: BTreeMap<u64, OnStore>,
    counted: HashMap<u64, Counted>,
}

/// Stores whose tally a change has touched.
pub type Touched = SmallVec<[u64; 8]>;

impl StoreIndex {
    /// Counts the region as it is now; tells whose tallies changed.
    pub fn update(&mut self, region: &RegionView<'_>) -> Touched {
        let new = Counted::of(region);
        let id = region.id();
        if self.counted.get(&id) == Some(&new) {
            return Touched::new();
        }
        let mut touched = self.forget(id);
        for store_id in &new.stores {
            let store = self.stores.entry(*store_id).or_default();
            store.peers.insert(id);
            store.tally.regions += 1;
            store.tally.weighed_bytes += new.weighed_bytes;
        }
        if let Some(leader) = new.leader {
            let store = self.stores.entry(leader).or_default();
            store.leaders.insert(id);
            store.tally.leaders += 1;
        }
        for store_id in &new.pending {
            self.stores.entry(*store_id).or_default().tally.pending += 1;
        }
        touched.extend(new.stores.iter().chain(&new.pending).copied());
        self.counted.insert(id, new);
        touched
    }

    /// Counts the region no more; tells whose tallies changed.
    pub fn forget(&mut self, region_id: u64) -> Touched {
        let Some(old) = self.counted.remove(&region_id) else { return Touched::new() };
        for store_id in &old.stores {
            let store = self.stores.entry(*store_id).or_default();
            store.peers.remove(region_id);
            store.tally.regions -= 1;
            store.tally.weighed_bytes -= old.weighed_bytes;
        }
        if let Some(leader) = old.leader {
            let store = self.stores.entry(leader).or_default();
            store.leaders.remove(region_id);
            store.tally.leaders -= 1;
        }
        for store_id in &old.pending {
            self.stores.entry(*store_id).or_default().tally.pending -= 1;
        }
        old.stores.iter().chain(&old.pending).copied().collect()
    }

    /// What lies on a store.
    pub fn tally(&self, store_id: u64) -> Tally {
        self.stores.get(&store_id).map(|store| store.tally).unwrap_or_default()
    }

    /// Regions that have reported.
    pub fn len(&self) -> usize {
        self.counted.len()
    }

    /// Whether none has.
    pub fn is_empty(&self) -> bool {
        self.counted.is_empty()
    }
}

/// The regions as schedulers look for them: those nothing is being done to.
#[derive(Clone, Copy)]
pub struct Regions<'a> {
    /// Ranges and peers.
    pub tree: &'a RegionTree,
    /// What leaders said.
    pub reports: &'a HashMap<u64, RegionReport>,
    /// Who is where.
    pub index: &'a StoreIndex,
    /// Who is busy.
    pub hot: &'a HotStats,
    /// Whether nothing is being done to a region.
    pub is_free: &'a dyn Fn(u64) -> bool,
    /// Where the search begins; another number each time.
    pub turn: usize,
}

impl<'a> Regions<'a> {
    /// One region.
    pub fn get(&self, region_id: u64) -> Option<RegionView<'a>> {
        let region = self.tree.get(region_id)?;
        let report = self.reports.get(&region_id).unwrap_or(RegionReport::NONE);
        Some(RegionView { region, report })
    }

    fn sample(&self, ids: Option<&'a IdSet>) -> impl Iterator<Item = RegionView<'a>> + use<'a> {
        let (regions, turn) = (*self, self.turn);
        ids.into_iter()
            .flat_map(move |ids| ids.sample(turn))
            .filter(move |id| (regions.is_free)(*id))
            .filter_map(move |id| regions.get(id))
    }

    /// Some free regions that a store leads.
    pub fn led_by(&self, store_id: u64) -> impl Iterator<Item = RegionView<'a>> + use<'a> {
        self.sample(self.index.stores.get(&store_id).map(|store| &store.leaders))
    }

    /// Some free regions with a peer on a store.
    pub fn on(&self, store_id: u64) -> impl Iterator<Item = RegionView<'a>> + use<'a> {
        self.sample(self.index.stores.get(&store_id).map(|store| &store.peers))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Situation;

    #[test]
    fn tallies_follow_the_regions() {
        let mut situation = Situation::new();
        situation.add_region(1, "1*,2,3~").expect("well told");
        situation.add_region(2, "2*,3,4").expect("well told");
        let mut index = StoreIndex::default();
        assert_eq!(index.update(&situation.region(1)).as_slice(), [1, 2, 3, 3]);
        assert!(index.update(&situation.region(1)).is_empty());
        index.update(&situation.region(2));
        let tally = index.tally(2);
        assert_eq!((tally.regions, tally.leaders, tally.pending), (2, 1, 0));
        assert_eq!(index.tally(3).pending, 1);
        situation.add_region(1, "1,2*,4").expect("well told");
        index.update(&situation.region(1));
        assert_eq!(index.tally(2).leaders, 2);
        assert_eq!(index.tally(3).regions, 1);
        assert_eq!(index.tally(1).leaders, 0);
        index.forget(1);
        index.forget(1);
        assert_eq!(index.tally(1), Tally::default());
        assert_eq!(index.len(), 1);
    }
}
