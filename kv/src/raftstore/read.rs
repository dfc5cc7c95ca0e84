//! Local reads: what any thread may know of a region without asking the Raft thread.
//!
//! **Concurrency.** The Raft thread writes, any thread reads; each field is atomic and
//! the check is made twice, before and after the engine's snapshot is taken, each time with
//! the time of then. The first check alone would do: a view taken later holds every write
//! that was acknowledged before it, and the read may be ordered there. The second keeps a
//! thread that was stopped in between (SIGSTOP, a paused machine) from answering with what
//! was the present before: its view is of a moment when the lease was valid.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use arc_swap::{ArcSwap, ArcSwapOption};
use bytes::Bytes;
use cairn_engine::EngineSnapshot;
use cairn_proto::meta;
use dashmap::DashMap;
use parking_lot::RwLock;

use super::clock::{Clock, MonotonicTime};
use super::closed::ClosedTs;
use super::error::RegionError;
use super::ids::{PeerId, RegionId, epoch_of};
use super::leader_locks::LeaderLocks;
use super::liveness::RestLease;
use super::load::RegionLoad;
use super::{ReadGuard, RegionContext, RegionSnapshot};
use crate::keys;

/// What readers see of one region.
pub(super) struct ReadDelegate {
    pub(super) region: ArcSwap<meta::Region>,
    pub(super) peer_id: u64,
    /// Term in which this peer leads and has applied an entry; 0 = it does not lead.
    leader_term: AtomicU64,
    /// Term in which this peer leads, applied or not; 0 = it does not lead.
    raw_leader_term: AtomicU64,
    lease_valid_until: AtomicU64,
    /// The lease a resting leader shares with others.
    rest: ArcSwapOption<RestLease>,
    /// Peer id of the leader as far as known; 0 = unknown.
    leader_id: AtomicU64,
    /// What is read and written.
    pub(super) load: Arc<RegionLoad>,
    /// Locks that this peer alone knows, as leader.
    pub(super) locks: Arc<LeaderLocks>,
    /// Up to when this peer holds everything, whoever leads.
    pub(super) closed: ClosedTs,
    /// Somebody read, or wanted to, since the last renewal of the lease.
    wanted: AtomicBool,
}

impl ReadDelegate {
    pub(super) fn new(region: Arc<meta::Region>, peer_id: u64) -> ReadDelegate {
        ReadDelegate {
            region: ArcSwap::new(region),
            peer_id,
            leader_term: AtomicU64::new(0),
            raw_leader_term: AtomicU64::new(0),
            lease_valid_until: AtomicU64::new(0),
            rest: ArcSwapOption::empty(),
            leader_id: AtomicU64::new(0),
            load: Arc::default(),
            locks: Arc::default(),
            closed: ClosedTs::default(),
            wanted: AtomicBool::new(false),
        }
    }

    /// Publishes the role: the term led (0 = none) and whether reads see all of the past.
    pub(super) fn set_role(&self, leader_id: u64, term: u64, ready: bool) {
        self.leader_id.store(leader_id, Ordering::SeqCst);
        self.raw_leader_term.store(term, Ordering::SeqCst);
        self.leader_term.store(if ready { term } else { 0 }, Ordering::SeqCst);
    }

    pub(super) fn set_lease(&self, valid_until: MonotonicTime) {
        self.lease_valid_until.store(valid_until.0, Ordering::SeqCst);
    }

    /// The leader rests on this lease, or no longer.
    pub(super) fn set_rest(&self, lease: Option<Arc<RestLease>>) {
        self.rest.store(lease);
    }

    fn has_lease(&self, now: MonotonicTime) -> bool {
        now.0 < self.lease_valid_until.load(Ordering::SeqCst)
            || self.rest.load().as_ref().is_some_and(|lease| now < lease.valid_until())
    }

    /// Nobody may read here any more.
    pub(super) fn close(&self) {
        self.set_role(0, 0, false);
        self.set_lease(MonotonicTime(0));
        self.set_rest(None);
        self.closed.forget();
    }

    /// The lease is to be renewed.
    pub(super) fn want_lease(&self) {
        self.wanted.store(true, Ordering::Relaxed);
    }

    pub(super) fn take_wanted(&self) -> bool {
        self.wanted.load(Ordering::Relaxed) && self.wanted.swap(false, Ordering::Relaxed)
    }

    pub(super) fn leads(&self) -> bool {
        self.raw_leader_term.load(Ordering::SeqCst) != 0
    }

    fn not_leader(&self, region: &meta::Region) -> RegionError {
        let leader_id = self.leader_id.load(Ordering::SeqCst);
        let leader = region.peers.iter().find(|peer| peer.id == leader_id).cloned();
        RegionError::NotLeader { region_id: RegionId(region.id), leader }
    }
}

/// Refuses a context that does not fit the region.
pub(super) fn check_context(
    context: &RegionContext,
    region: &meta::Region,
    peer_id: u64,
) -> Result<(), RegionError> {
    let other_peer = context.peer.0 != 0 && context.peer.0 != peer_id;
    if other_peer || context.epoch.version != epoch_of(region).version {
        return Err(RegionError::EpochNotMatch { current_regions: vec![region.clone()] });
    }
    Ok(())
}

/// Every region of a store, for readers.
#[derive(Default)]
pub(super) struct Regions {
    delegates: DashMap<u64, Arc<ReadDelegate>, foldhash::fast::RandomState>,
    ranges: RwLock<Ranges>,
    /// What leaders ask before a follower reads; none in stores without transactions.
    guard: OnceLock<Arc<dyn ReadGuard>>,
    /// Regions led here whose followers want to know which timestamps are closed.
    pub(super) subscribed: AtomicUsize,
}

/// Regions that have a range, by it.
#[derive(Default)]
struct Ranges {
    /// Raw start key → (raw end key, region id). Ranges may overlap, and even start at one
    /// key, for a while: a Raft snapshot that is accepted reserves its range before what it
    /// replaces is gone.
    by_start: BTreeMap<Bytes, Vec<(Bytes, u64)>>,
    /// Region id → raw start key.
    starts: HashMap<u64, Bytes>,
}

impl Ranges {
    fn remove(&mut self, region_id: u64) {
        let Some(start) = self.starts.remove(&region_id) else { return };
        if let Some(regions) = self.by_start.get_mut(&start) {
            regions.retain(|(_, id)| *id != region_id);
            if regions.is_empty() {
                self.by_start.remove(&start);
            }
        }
    }
}

impl Regions {
    pub(super) fn set_guard(&self, guard: Arc<dyn ReadGuard>) {
        if self.guard.set(guard).is_err() {
            tracing::warn!("a store has one guard of its reads");
        }
    }

    pub(super) fn guard(&self) -> Option<&dyn ReadGuard> {
        self.guard.get().map(AsRef::as_ref)
    }

    pub(super) fn insert(&self, delegate: Arc<ReadDelegate>) {
        self.delegates.insert(delegate.region.load().id, delegate);
    }

    pub(super) fn remove(&self, region_id: u64) {
        if let Some((_, delegate)) = self.delegates.remove(&region_id) {
            delegate.close();
        }
    }

    pub(super) fn get(&self, region_id: u64) -> Option<Arc<ReadDelegate>> {
        self.delegates.get(&region_id).map(|entry| entry.value().clone())
    }

    /// Gives a region its range; an older range of the same region goes.
    pub(super) fn set_range(&self, region: &meta::Region) {
        let mut ranges = self.ranges.write();
        ranges.remove(region.id);
        ranges.starts.insert(region.id, region.start_key.clone());
        let of_start = ranges.by_start.entry(region.start_key.clone()).or_default();
        of_start.push((region.end_key.clone(), region.id));
    }

    pub(super) fn remove_range(&self, region_id: u64) {
        self.ranges.write().remove(region_id);
    }

    /// Regions other than `region_id` whose range shares keys with `[start, end)`.
    pub(super) fn overlapping(&self, region_id: u64, start: &[u8], end: &[u8]) -> Vec<u64> {
        let ranges = self.ranges.read();
        ranges
            .by_start
            .iter()
            .flat_map(|(start, regions)| regions.iter().map(move |region| (start, region)))
            .filter(|(other_start, (other_end, id))| {
                *id != region_id && keys::ranges_overlap((start, end), (other_start, other_end))
            })
            .map(|(_, (_, id))| *id)
            .collect()
    }

    fn region_of(&self, raw_key: &[u8]) -> Option<u64> {
        let ranges = self.ranges.read();
        let bounds = (Bound::Unbounded, Bound::Included(raw_key));
        let (_, regions) = ranges.by_start.range::<[u8], _>(bounds).next_back()?;
        let holds = |(end, _): &&(Bytes, u64)| end.is_empty() || raw_key < end.as_ref();
        regions.iter().find(holds).map(|(_, id)| *id)
    }

    pub(super) fn local_leader_region(&self, raw_key: &[u8]) -> Option<RegionContext> {
        let delegate = self.get(self.region_of(raw_key)?)?;
        let term = delegate.leader_term.load(Ordering::SeqCst);
        if term == 0 {
            return None;
        }
        let region = delegate.region.load();
        Some(RegionContext {
            region_id: RegionId(region.id),
            epoch: epoch_of(&region),
            peer: PeerId(delegate.peer_id),
            ..RegionContext::default()
        })
    }

    /// See [`super::RaftKv::try_local_snapshot`]; `engine` takes the engine's view.
    pub(super) fn try_local_view(
        &self,
        context: &RegionContext,
        clock: &dyn Clock,
        engine: impl FnOnce() -> Arc<dyn EngineSnapshot>,
    ) -> Result<Option<RegionSnapshot>, RegionError> {
        let Some(delegate) = self.get(context.region_id.0) else {
            return Err(RegionError::RegionNotFound(context.region_id));
        };
        if !delegate.wanted.load(Ordering::Relaxed) {
            delegate.want_lease();
        }
        let region = delegate.region.load_full();
        check_context(context, &region, delegate.peer_id)?;
        if delegate.raw_leader_term.load(Ordering::SeqCst) == 0 {
            return Err(delegate.not_leader(&region));
        }
        let term = delegate.leader_term.load(Ordering::SeqCst);
        if term == 0 || !delegate.has_lease(clock.now()) {
            return Ok(None);
        }
        if context.term != 0 && context.term != term {
            return Err(delegate.not_leader(&region));
        }
        let engine = engine();
        // Between the checks and the snapshot the peer may have been removed, its
        // data with it; then it no longer leads.
        let unchanged = delegate.leader_term.load(Ordering::SeqCst) == term
            && Arc::ptr_eq(&region, &delegate.region.load());
        let (load, locks) = (delegate.load.clone(), delegate.locks.clone());
        let current = unchanged && delegate.has_lease(clock.now());
        let is_live = false;
        Ok(current.then_some(RegionSnapshot { region, term, engine, load, locks, is_live }))
    }

    /// A view for a read that this store's peer may answer by itself, because it holds everything up
    /// to the read's timestamp; `None`: it may not. Nothing is done to a peer's data before it
    /// forgets that.
    pub(super) fn try_closed_view(
        &self,
        context: &RegionContext,
        read_ts: u64,
        engine: impl FnOnce() -> Arc<dyn EngineSnapshot>,
    ) -> Result<Option<RegionSnapshot>, RegionError> {
        let Some(delegate) = self.get(context.region_id.0) else {
            return Err(RegionError::RegionNotFound(context.region_id));
        };
        let region = delegate.region.load_full();
        check_context(context, &region, delegate.peer_id)?;
        if !delegate.closed.covers(read_ts) {
            return Ok(None);
        }
        let engine = engine();
        let unchanged =
            delegate.closed.covers(read_ts) && Arc::ptr_eq(&region, &delegate.region.load());
        let (load, locks) = (delegate.load.clone(), delegate.locks.clone());
        let (term, is_live) = (0, false);
        Ok(unchanged.then_some(RegionSnapshot { region, term, engine, load, locks, is_live }))
    }

    /// See [`super::RaftKv::is_current`]. A peer stops leading, and its region changes,
    /// before anything is done to its data.
    pub(super) fn is_current(&self, view: &RegionSnapshot, clock: &dyn Clock) -> bool {
        self.get(view.region.id).is_some_and(|delegate| {
            delegate.leader_term.load(Ordering::SeqCst) == view.term
                && delegate.has_lease(clock.now())
                && Arc::ptr_eq(&view.region, &delegate.region.load())
        })
    }
}
