//! Which region holds a key and which store leads it, as far as this client knows.
//!
//! **Data.** Regions by start key, disjoint; an empty end key is +infinity. Store
//! connections by store id. Both fill from PD on demand and are corrected by the
//! errors of stores: entries may be stale at any time, and a stale route costs
//! one refused request, never a wrong answer (stores check epochs).
//!
//! **Invariants.** No two cached regions overlap. A newer epoch is never replaced
//! by an older one, unless the entry was invalidated before.
//!
//! **Concurrency.** One read-write lock, held for map operations only; lookups
//! share it. Cached regions are immutable and shared by `Arc`.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use bytes::Bytes;
use cairn_pd_client::{PdClient, PdError, RegionRoute};
use cairn_proto::kv::Context;
use cairn_proto::meta::{Peer, PeerRole, Region, RegionEpoch};
use dashmap::DashMap;
use parking_lot::RwLock;
use tokio::time::Instant;

use crate::replicas::Place;
use crate::transport::{KvStoreService, StoreConnector};

/// Regions fetched by one scan of PD.
const SCAN_REGIONS_MAX: u32 = 128;
/// Cached regions; above it the cache starts anew (10 k regions are 2.5 TiB).
const CACHED_REGIONS_MAX: usize = 100_000;

/// A half-open range of raw keys; an empty end is +infinity.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct KeyRange {
    /// First key.
    pub start: Bytes,
    /// First key behind the range; empty: no end.
    pub end: Bytes,
}

impl KeyRange {
    /// The range `[start, end)`.
    pub fn new(start: impl Into<Bytes>, end: impl Into<Bytes>) -> KeyRange {
        KeyRange { start: start.into(), end: end.into() }
    }

    /// Whether no key can be in it.
    pub fn is_empty(&self) -> bool {
        !self.end.is_empty() && self.start >= self.end
    }

    /// Whether the key is in it.
    pub fn contains(&self, key: &[u8]) -> bool {
        key >= &self.start[..] && (self.end.is_empty() || key < &self.end[..])
    }

    /// What both ranges cover; empty when they do not meet.
    #[must_use]
    pub fn intersect(&self, other: &KeyRange) -> KeyRange {
        let start = self.start.clone().max(other.start.clone());
        let end = match (self.end.is_empty(), other.end.is_empty()) {
            (true, _) => other.end.clone(),
            (_, true) => self.end.clone(),
            _ => self.end.clone().min(other.end.clone()),
        };
        KeyRange { start, end }
    }
}

/// One region as last heard of.
#[derive(Clone, Debug, PartialEq)]
pub struct CachedRegion {
    /// Range, epoch, peers.
    pub region: Region,
    /// Where requests go: the leader, or a guess.
    pub leader: Peer,
    /// Whether `leader` is known rather than guessed.
    pub leader_known: bool,
    /// `leader` stands for another replica, which is asked to answer without leading.
    pub replica_read: bool,
    /// The view is of the past: the replica should get to know up to when it holds everything.
    pub stale_read: bool,
    /// When its members were told. Those who ask the leader need not know of changes.
    pub(crate) told_at: Instant,
}

impl CachedRegion {
    fn new(region: Region, leader: Option<Peer>) -> Option<CachedRegion> {
        let known = leader.filter(|leader| leader.id != 0);
        let leader_known = known.is_some();
        let leader = known.or_else(|| first_voter(&region, 0))?;
        let (replica_read, stale_read) = (false, false);
        let told_at = Instant::now();
        Some(CachedRegion { region, leader, leader_known, replica_read, stale_read, told_at })
    }

    /// The region's id.
    pub fn id(&self) -> u64 {
        self.region.id
    }

    /// The region's epoch; zero when the message lacked it.
    pub fn epoch(&self) -> RegionEpoch {
        self.region.epoch.unwrap_or_default()
    }

    /// The region's range.
    pub fn range(&self) -> KeyRange {
        KeyRange { start: self.region.start_key.clone(), end: self.region.end_key.clone() }
    }

    /// Whether the region holds the key.
    pub fn contains(&self, key: &[u8]) -> bool {
        key >= &self.region.start_key[..] && self.ends_behind(key)
    }

    fn ends_behind(&self, key: &[u8]) -> bool {
        self.region.end_key.is_empty() || key < &self.region.end_key[..]
    }

    /// Where a request to this region is addressed to.
    pub fn context(&self) -> Context {
        Context {
            region_id: self.region.id,
            epoch: Some(self.epoch()),
            peer: Some(self.leader),
            replica_read: self.replica_read,
            stale_read: self.stale_read,
            ..Context::default()
        }
    }

    /// The region with a voter to read from that does not lead; `None` if there is none.
    pub fn at_follower(&self) -> Option<CachedRegion> {
        let follower = first_voter(&self.region, self.leader.id)?;
        let differs = follower.id != self.leader.id && !self.replica_read;
        differs.then(|| self.at_replica(follower, false))
    }

    /// The region with another replica to read from.
    pub(crate) fn at_replica(&self, peer: Peer, stale_read: bool) -> CachedRegion {
        CachedRegion { leader: peer, replica_read: true, stale_read, ..self.clone() }
    }

    /// Whether both are the same region with the same range and members.
    pub fn same_shape(&self, other: &CachedRegion) -> bool {
        self.region.id == other.region.id && self.epoch() == other.epoch()
    }
}

/// A voter of the region, starting the search behind `after_peer`.
fn first_voter(region: &Region, after_peer: u64) -> Option<Peer> {
    let voters: Vec<Peer> =
        region.peers.iter().copied().filter(|peer| peer.role() != PeerRole::Learner).collect();
    let next = voters.iter().position(|peer| peer.id == after_peer).map_or(0, |at| at + 1);
    voters.get(next).or_else(|| voters.first()).copied()
}

/// A key below `end` (empty: +infinity) and close to it: no boundary is likely to
/// lie between them.
fn key_below(end: &[u8]) -> Vec<u8> {
    /// Longer than what tells neighbouring keys apart.
    const FILL_BYTES: usize = 16;
    let Some((last, head)) = end.split_last() else { return vec![u8::MAX; FILL_BYTES] };
    let mut below = head.to_vec();
    if *last > 0 {
        below.push(last - 1);
        below.extend([u8::MAX; FILL_BYTES]);
    }
    below
}

/// A store has told of a split that PD has not heard of: PD's answer names a region whose
/// newer shape, known here, no longer holds the key. Asking again helps.
fn pd_is_behind(known: &CachedRegion) -> PdError {
    PdError::RegionNotFound(format!("region {} has split and PD does not know yet", known.id()))
}

fn is_newer(left: &RegionEpoch, right: &RegionEpoch) -> bool {
    left.version > right.version
        || (left.version == right.version && left.conf_ver > right.conf_ver)
}

#[derive(Default)]
struct Regions {
    by_start: BTreeMap<Bytes, Arc<CachedRegion>>,
    start_by_id: HashMap<u64, Bytes>,
}

impl Regions {
    fn get(&self, key: &[u8]) -> Option<&Arc<CachedRegion>> {
        let bounds = (Bound::Unbounded, Bound::Included(key));
        let (_, region) = self.by_start.range::<[u8], _>(bounds).next_back()?;
        region.ends_behind(key).then_some(region)
    }

    fn get_by_id(&self, id: u64) -> Option<&Arc<CachedRegion>> {
        self.by_start.get(self.start_by_id.get(&id)?).filter(|region| region.id() == id)
    }

    fn remove(&mut self, id: u64) {
        if let Some(start) = self.start_by_id.remove(&id) {
            self.by_start.remove(&start);
        }
    }

    /// Puts the region in place of everything it overlaps; refuses one that is
    /// older than what it would replace.
    fn insert(&mut self, new: CachedRegion) -> Arc<CachedRegion> {
        if let Some(known) = self.get_by_id(new.id())
            && is_newer(&known.epoch(), &new.epoch())
        {
            return known.clone();
        }
        if self.by_start.len() >= CACHED_REGIONS_MAX {
            self.by_start.clear();
            self.start_by_id.clear();
        }
        self.remove(new.id());
        let mut overlapped = Vec::new();
        let below_end = match &new.region.end_key {
            end if end.is_empty() => Bound::Unbounded,
            end => Bound::Excluded(end.clone()),
        };
        for (_, region) in self.by_start.range((Bound::Unbounded, below_end)).rev() {
            if !region.ends_behind(&new.region.start_key) {
                break;
            }
            overlapped.push(region.id());
        }
        for id in overlapped {
            self.remove(id);
        }
        let new = Arc::new(new);
        self.start_by_id.insert(new.id(), new.region.start_key.clone());
        self.by_start.insert(new.region.start_key.clone(), new.clone());
        new
    }
}

/// Time PD gets to tell where a store is that was somewhere before.
const RECHECK_TIMEOUT: Duration = Duration::from_secs(1);

/// Routes and store connections of one client.
pub struct RegionCache {
    pd: Arc<dyn PdClient>,
    connector: Arc<dyn StoreConnector>,
    regions: RwLock<Regions>,
    pub(crate) stores: DashMap<u64, KnownStore>,
    /// Where this client is; empty: nobody said.
    zone: String,
    /// Counts reads that go to replicas in turn.
    pub(crate) turns: AtomicUsize,
}

/// The way to a store.
#[derive(Clone)]
pub(crate) struct KnownStore {
    address: String,
    service: Arc<dyn KvStoreService>,
    may_have_moved: bool,
    pub(crate) place: Place,
}

impl RegionCache {
    /// An empty cache of a client in a zone.
    pub fn new(
        pd: Arc<dyn PdClient>,
        connector: Arc<dyn StoreConnector>,
        zone: String,
    ) -> RegionCache {
        let (regions, stores, turns) = Default::default();
        RegionCache { pd, connector, regions, stores, zone, turns }
    }

    pub(crate) fn pd(&self) -> &Arc<dyn PdClient> {
        &self.pd
    }

    pub(crate) fn zone(&self) -> &str {
        &self.zone
    }

    /// The region of the key, if it is cached.
    pub fn cached(&self, key: &[u8]) -> Option<Arc<CachedRegion>> {
        self.regions.read().get(key).cloned()
    }

    /// The region of the key; asks PD when it is not cached.
    pub async fn locate(&self, key: &[u8]) -> Result<Arc<CachedRegion>, PdError> {
        if let Some(region) = self.cached(key) {
            return Ok(region);
        }
        let route = self.pd.get_region(key).await?;
        let region = self.insert_route(route)?;
        if region.contains(key) { Ok(region) } else { Err(pd_is_behind(&region)) }
    }

    /// The last region that holds keys below `end` (empty: of all keys), for
    /// descending scans.
    pub async fn locate_before(&self, end: &[u8]) -> Result<Arc<CachedRegion>, PdError> {
        if let Some(region) = self.cached_before(end) {
            return Ok(region);
        }
        let below_key = key_below(end);
        let below = self.pd.get_region(&below_key).await?;
        let mut last = self.insert_route(below)?;
        if !last.contains(&below_key) {
            return Err(pd_is_behind(&last));
        }
        // Boundaries between that key and `end` are rare: keys have no neighbour
        // below, so the guess can be too low.
        while !last.region.end_key.is_empty() && (end.is_empty() || last.region.end_key < end) {
            let start = last.region.end_key.clone();
            let routes = self.pd.scan_regions(&start, end, SCAN_REGIONS_MAX).await?;
            if routes.is_empty() {
                return Err(PdError::RegionNotFound("a hole below the key".into()));
            }
            for route in routes {
                last = self.insert_route(route)?;
            }
            if last.region.end_key <= start && !last.region.end_key.is_empty() {
                return Err(PdError::RegionNotFound("routes do not move on".into()));
            }
        }
        if !end.is_empty() && last.region.start_key >= end {
            return Err(pd_is_behind(&last));
        }
        Ok(last)
    }

    fn cached_before(&self, end: &[u8]) -> Option<Arc<CachedRegion>> {
        let regions = self.regions.read();
        let bounds = match end {
            [] => (Bound::Unbounded, Bound::Unbounded),
            end => (Bound::Unbounded, Bound::Excluded(end)),
        };
        let (_, region) = regions.by_start.range::<[u8], _>(bounds).next_back()?;
        let covers = match end {
            [] => region.region.end_key.is_empty(),
            end => region.region.end_key.is_empty() || &region.region.end_key[..] >= end,
        };
        covers.then(|| region.clone())
    }

    /// Regions that cover the range without a gap, in key order.
    pub async fn locate_range(&self, range: &KeyRange) -> Result<Vec<Arc<CachedRegion>>, PdError> {
        let mut regions = Vec::new();
        let mut start = range.start.clone();
        loop {
            let region = match self.cached(&start) {
                Some(region) => region,
                None => {
                    let routes = self.pd.scan_regions(&start, &range.end, SCAN_REGIONS_MAX).await?;
                    for route in routes {
                        self.insert_route(route)?;
                    }
                    // A hole in PD's answer, or a newer entry that does not hold
                    // the key: ask for the key itself.
                    self.locate(&start).await?
                }
            };
            let end = region.region.end_key.clone();
            regions.push(region);
            if end.is_empty() || (!range.end.is_empty() && end >= range.end) {
                return Ok(regions);
            }
            start = end;
        }
    }

    fn insert_route(&self, route: RegionRoute) -> Result<Arc<CachedRegion>, PdError> {
        let id = route.region.id;
        let region = CachedRegion::new(route.region, route.leader)
            .ok_or_else(|| PdError::Internal(format!("region {id} has no voter")))?;
        Ok(self.regions.write().insert(region))
    }

    /// Takes over regions that a store reported; a leader of the first peers on
    /// `store_id` is assumed, since that store led the region they came of.
    pub fn insert_reported(&self, reported: Vec<Region>, store_id: u64) {
        let mut regions = self.regions.write();
        for region in reported {
            let peer = region.peers.iter().find(|peer| peer.store_id == store_id).copied();
            if let Some(region) = CachedRegion::new(region, peer) {
                regions.insert(region);
            }
        }
    }

    /// Whoever looks from here on takes the members as told just now.
    pub(crate) fn note_told(&self, region: &CachedRegion) {
        let mut regions = self.regions.write();
        let Some(known) = regions.get_by_id(region.id()).cloned() else { return };
        let updated = CachedRegion { told_at: Instant::now(), ..(*known).clone() };
        regions.by_start.insert(known.region.start_key.clone(), Arc::new(updated));
    }

    /// Takes over the members of a region that was known; a leader that stores named stays.
    pub(crate) fn insert_members(
        &self,
        route: RegionRoute,
        known: &CachedRegion,
    ) -> Result<Arc<CachedRegion>, PdError> {
        let stays = route.region.peers.iter().find(|peer| peer.id == known.leader.id).copied();
        let leader = stays.filter(|_| known.leader_known).or(route.leader);
        self.insert_route(RegionRoute { leader, ..route })
    }

    /// Forgets the region, so that the next lookup asks PD.
    pub fn invalidate(&self, region_id: u64) {
        self.regions.write().remove(region_id);
    }

    /// A store named the leader. `false`: the peer is unknown, the region was
    /// forgotten.
    pub fn set_leader(&self, region_id: u64, leader: Peer) -> bool {
        let mut regions = self.regions.write();
        let Some(region) = regions.get_by_id(region_id).cloned() else { return false };
        let known = region
            .region
            .peers
            .iter()
            .find(|peer| peer.id == leader.id && peer.store_id == leader.store_id)
            .copied();
        let Some(leader) = known else {
            regions.remove(region_id);
            return false;
        };
        let updated = CachedRegion { leader, leader_known: true, ..(*region).clone() };
        regions.by_start.insert(region.region.start_key.clone(), Arc::new(updated));
        true
    }

    /// The peer failed us: try the next voter, unless somebody learned better since.
    pub fn try_next_peer(&self, failed: &CachedRegion) {
        let mut regions = self.regions.write();
        let Some(region) = regions.get_by_id(failed.id()).cloned() else { return };
        if region.leader.id != failed.leader.id {
            return;
        }
        if let Some(leader) = first_voter(&region.region, failed.leader.id) {
            let updated = CachedRegion { leader, leader_known: false, ..(*region).clone() };
            regions.by_start.insert(region.region.start_key.clone(), Arc::new(updated));
        }
    }

    /// The connection to a store, if there is one already.
    pub fn cached_store(&self, store_id: u64) -> Option<Arc<dyn KvStoreService>> {
        self.stores.get(&store_id).map(|store| store.service.clone())
    }

    /// The connection to a store; asks PD for its address when there is none, or when
    /// the store may have moved.
    pub async fn store(&self, store_id: u64) -> Result<Arc<dyn KvStoreService>, PdError> {
        let known = self.stores.get(&store_id).map(|store| store.clone());
        if let Some(known) = &known
            && !known.may_have_moved
        {
            return Ok(known.service.clone());
        }
        let asking = self.pd.get_store(store_id);
        let told = match &known {
            None => asking.await?,
            Some(known) => match tokio::time::timeout(RECHECK_TIMEOUT, asking).await {
                Ok(Ok(told)) => told,
                Ok(Err(error)) if error.denies_store() => return Err(error),
                // PD is in trouble too: what is known is the best there is.
                _ => return Ok(known.service.clone()),
            },
        };
        let place = Place::of(&told, known.as_ref().map(|known| &known.place));
        let service = match known {
            // It stays where it is, and so does what its connection knows of it.
            Some(known) if known.address == told.address => known.service,
            _ => self.connector.connect(&told),
        };
        let (address, may_have_moved) = (told.address, false);
        let known = KnownStore { address, service: service.clone(), may_have_moved, place };
        self.stores.insert(store_id, known);
        Ok(service)
    }

    /// The next request to the store asks PD where it is.
    pub fn recheck_store(&self, store_id: u64) {
        if let Some(mut store) = self.stores.get_mut(&store_id) {
            store.may_have_moved = true;
        }
    }

    /// Number of cached regions, for metrics.
    pub fn region_count(&self) -> usize {
        self.regions.read().by_start.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ScanOptions;
    use crate::testing::{Cluster, Fault};

    fn region(id: u64, start: &str, end: &str, version: u64) -> CachedRegion {
        let peers =
            (1..=3).map(|store| Peer { id: id * 10 + store, store_id: store, role: 0 }).collect();
        let region = Region {
            id,
            start_key: Bytes::copy_from_slice(start.as_bytes()),
            end_key: Bytes::copy_from_slice(end.as_bytes()),
            epoch: Some(RegionEpoch { conf_ver: 1, version }),
            peers,
        };
        CachedRegion::new(region, None).expect("has voters")
    }

    fn shown(regions: &Regions) -> String {
        regions
            .by_start
            .values()
            .map(|region| {
                let text = |key: &Bytes| String::from_utf8_lossy(key).into_owned();
                let (start, end) = (text(&region.region.start_key), text(&region.region.end_key));
                format!("{}[{start},{end})", region.id())
            })
            .collect::<Vec<_>>()
            .join(" ")
    }

    #[test]
    fn overlaps_are_replaced_and_old_epochs_refused() {
        let mut regions = Regions::default();
        regions.insert(region(1, "", "", 1));
        assert_eq!(regions.get(b"zzz").map(|region| region.id()), Some(1));
        regions.insert(region(1, "m", "", 2));
        assert!(regions.get(b"a").is_none());
        regions.insert(region(2, "", "m", 2));
        assert_eq!(shown(&regions), "2[,m) 1[m,)");
        // Late news of the time before the split.
        let kept = regions.insert(region(1, "", "", 1));
        assert_eq!(kept.epoch().version, 2);
        regions.insert(region(3, "f", "p", 3));
        assert_eq!(shown(&regions), "3[f,p)");
        assert!(regions.get_by_id(1).is_none() && regions.get(b"p").is_none());
    }

    #[test]
    fn voters_are_tried_in_turn() {
        let shape = region(1, "", "", 1).region;
        let ids: Vec<u64> = [0, 11, 12, 13, 99]
            .iter()
            .filter_map(|after| first_voter(&shape, *after))
            .map(|peer| peer.id)
            .collect();
        assert_eq!(ids, [11, 12, 13, 11, 11]);
    }

    #[test]
    fn keys_below() {
        assert_eq!(key_below(b"a\0"), b"a");
        for end in [&b"b"[..], b"b\0\0", b"t\xff", b"\x01"] {
            assert!(&key_below(end)[..] < end, "{end:?}");
        }
        assert!(key_below(b"") > b"t~~~~".to_vec());
    }

    #[test]
    fn ranges_intersect() {
        let all = KeyRange::default();
        let left = KeyRange::new("b", "m");
        let right = KeyRange::new("f", "");
        assert_eq!(left.intersect(&right), KeyRange::new("f", "m"));
        assert_eq!(all.intersect(&right), right);
        assert!(left.intersect(&KeyRange::new("m", "z")).is_empty());
        assert!(!all.is_empty() && right.contains(b"f") && !left.contains(b"m"));
    }

    /// A store tells of a split before PD has heard of it: PD's answers are then about
    /// keys that have moved. No key may be left out or shown twice.
    #[tokio::test(start_paused = true)]
    async fn scans_over_a_split_that_pd_does_not_know() {
        for reverse in [false, true] {
            let cluster = Cluster::new();
            let mut keys = ["a", "b", "c", "d", "e", "f", "g", "h"].map(Bytes::from).to_vec();
            keys.iter().for_each(|key| cluster.put(std::str::from_utf8(key).expect("text"), "v"));
            let client = cluster.client();
            let options = ScanOptions { reverse, batch_size: 3, ..ScanOptions::default() };
            let view = client.snapshot(cluster.ts());
            let mut scan = view.scan(KeyRange::new("a", "z"), options);
            let mut seen: Vec<Bytes> = Vec::new();
            loop {
                let batch = scan.next_batch().await.expect("PD hears of it in the end");
                if batch.is_empty() {
                    break;
                }
                if seen.is_empty() {
                    cluster.delay_pd(3);
                    cluster.fault("scan", Fault::Split("e"));
                }
                seen.extend(batch.into_iter().map(|(key, _)| key));
            }
            if reverse {
                keys.reverse();
            }
            assert_eq!(seen, keys, "reverse: {reverse}");
        }
    }
}
