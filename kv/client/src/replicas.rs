//! Which replica of a region a read asks.
//!
//! **Why it is safe to ask any.** A replica that does not lead asks its leader up to where it must
//! have applied, or knows up to which timestamp it holds everything; either way it answers what the
//! leader would. So the choice is about distance and load alone, and a replica that cannot answer
//! costs one refused request: the leader is asked next.
//!
//! **Flow.** [`RegionCache::choose`] names the replica of the first attempt; `None` is the leader, by
//! the route as it is known. What failed is noted in the request's [`Hops`], so that no replica is
//! asked twice, and a store that did not answer at all is passed over by everybody for a while.
//!
//! | `tidb_replica_read` | asks |
//! |---|---|
//! | `leader` | the leader |
//! | `follower` | other voters in turn |
//! | `leader-and-follower` | all voters in turn |
//! | `prefer-leader` | the leader; another voter while its store does not answer |
//! | `closest-replicas` | voters in the node's own zone in turn; the leader where there is none |
//! | `closest-adaptive` | as that if the answer is likely to be large, else the leader |
//! | `learner` | learners in turn |
//!
//! Reads of the past go to any voter, in the own zone if there is one. The newest version
//! ([`cairn_types::TimeStamp::MAX`]) is only known to the leader.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use cairn_proto::meta::{Peer, PeerRole, Store};
use tokio::time::Instant;

use crate::region_cache::{CachedRegion, RegionCache};

/// The label of stores and SQL nodes that tells what is close.
pub(crate) const ZONE_LABEL: &str = "zone";
/// A store that did not answer is not chosen for so long.
const PASSED_OVER: Duration = Duration::from_secs(5);
/// Labels may be changed while stores run: they are asked for again after this.
const ZONE_KNOWN: Duration = Duration::from_secs(60);
/// The members of a region are asked for again after this.
const MEMBERS_KNOWN: Duration = Duration::from_secs(5);
/// The same for a region of one member, which is likely to get more.
const NEW_MEMBERS: Duration = Duration::from_secs(1);
/// Time PD gets to tell anew what is known already.
const PD_PATIENCE: Duration = Duration::from_secs(1);
/// What a row is taken for where nobody estimates it.
pub(crate) const ROW_BYTES_GUESS: u64 = 128;

/// Who answers reads, as `tidb_replica_read` names it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReplicaRead {
    /// The leader.
    #[default]
    Leader,
    /// Voters that do not lead.
    Follower,
    /// All voters.
    LeaderAndFollower,
    /// The leader, and others while it does not answer.
    PreferLeader,
    /// Voters in the own zone.
    Closest,
    /// Those for answers from this size on, the leader for smaller ones.
    ClosestAdaptive {
        /// `tidb_adaptive_closest_read_threshold`.
        threshold_bytes: u64,
    },
    /// Learners.
    Learner,
}

/// Where a view is read from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadFrom {
    /// Whom the session asks.
    pub replicas: ReplicaRead,
    /// The view is of the past: a replica may well hold all of it.
    pub is_stale: bool,
}

impl ReadFrom {
    /// Any replica, for a view of the past.
    pub fn stale(replicas: ReplicaRead) -> ReadFrom {
        ReadFrom { replicas, is_stale: true }
    }

    /// Whether reads of one row ask leaders, as long as those are there.
    pub fn points_ask_leader(self) -> bool {
        let for_row = self.for_answer(ROW_BYTES_GUESS);
        for_row.is_leader() || (for_row.replicas == ReplicaRead::PreferLeader && !self.is_stale)
    }

    /// What that means for an answer of about so many bytes.
    #[must_use]
    pub(crate) fn for_answer(mut self, bytes: u64) -> ReadFrom {
        if let ReplicaRead::ClosestAdaptive { threshold_bytes } = self.replicas {
            let is_large = bytes >= threshold_bytes;
            self.replicas = if is_large { ReplicaRead::Closest } else { ReplicaRead::Leader };
        }
        self
    }

    /// Whether nobody but the leader is asked while it is there.
    pub(crate) fn is_leader(self) -> bool {
        self.replicas == ReplicaRead::Leader && !self.is_stale
    }
}

/// The way of one request among the replicas of a region.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hops {
    from: ReadFrom,
    /// Stores that failed.
    tried: Vec<u64>,
    /// The leader sent the request elsewhere because it has too much to do.
    pub leader_is_busy: bool,
}

impl Hops {
    pub fn new(from: ReadFrom) -> Hops {
        Hops { from, ..Hops::default() }
    }

    /// Whether some replica could not answer.
    pub fn has_failed(&self) -> bool {
        !self.tried.is_empty()
    }

    /// A replica that does not lead could not answer.
    pub fn note_refused(&mut self, store_id: u64) {
        self.tried.push(store_id);
    }

    fn may_ask(&self, peer: &Peer) -> bool {
        !self.tried.contains(&peer.store_id)
    }
}

/// What PD last told of a store's place.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    zone: String,
    told_at: Instant,
    passed_over_until: Option<Instant>,
}

impl Place {
    /// A place as told now; whether the store answers is another matter.
    pub fn of(store: &Store, known: Option<&Place>) -> Place {
        let passed_over_until = known.and_then(|known| known.passed_over_until);
        Place { zone: zone_of(store), told_at: Instant::now(), passed_over_until }
    }
}

fn zone_of(store: &Store) -> String {
    let label = store.labels.iter().find(|label| label.key == ZONE_LABEL);
    label.map(|label| label.value.clone()).unwrap_or_default()
}

impl RegionCache {
    /// The region at the replica to ask next; `None`: the leader.
    pub(crate) async fn choose(
        &self,
        region: &CachedRegion,
        hops: &Hops,
    ) -> Option<Arc<CachedRegion>> {
        if hops.from.is_leader() {
            return None;
        }
        // What failed to answer a request of the present goes to the leader at once.
        if hops.has_failed() && !hops.from.is_stale && hops.may_ask(&region.leader) {
            return None;
        }
        let fresh = self.with_members(region).await;
        let region = fresh.as_deref().unwrap_or(region);
        let peer = self.chosen_peer(region, hops).await?;
        // The past may be known to one that leads no longer.
        let is_stale = hops.from.is_stale;
        (is_stale || peer.id != region.leader.id)
            .then(|| Arc::new(region.at_replica(peer, is_stale)))
    }

    /// The region with its members as PD knows them, if what is known is old: members come and go
    /// without a word to those who ask the leader.
    async fn with_members(&self, region: &CachedRegion) -> Option<Arc<CachedRegion>> {
        let is_alone = region.region.peers.len() < 2;
        if region.told_at.elapsed() < if is_alone { NEW_MEMBERS } else { MEMBERS_KNOWN } {
            return None;
        }
        // Whatever comes of it, the next reads need not ask.
        self.note_told(region);
        let asking = self.pd().get_region(&region.region.start_key);
        let route = tokio::time::timeout(PD_PATIENCE, asking).await.ok()?.ok()?;
        let fresh = self.insert_members(route, region).ok()?;
        let is_same = fresh.id() == region.id() && fresh.epoch().version == region.epoch().version;
        is_same.then_some(fresh)
    }

    async fn chosen_peer(&self, region: &CachedRegion, hops: &Hops) -> Option<Peer> {
        let leader = region.leader;
        let is_learner = |peer: &Peer| peer.role() == PeerRole::Learner;
        let (replicas, is_stale) = (hops.from.replicas, hops.from.is_stale);
        let leader_fails = !hops.may_ask(&leader) || self.is_passed_over(leader.store_id);
        let mut peers = region.region.peers.clone();
        peers.retain(|peer| {
            let is_wanted = match replicas {
                _ if is_stale => !is_learner(peer),
                ReplicaRead::Learner => is_learner(peer),
                ReplicaRead::Follower => !is_learner(peer) && peer.id != leader.id,
                _ => !is_learner(peer),
            };
            is_wanted && hops.may_ask(peer) && !self.is_passed_over(peer.store_id)
        });
        let is_near = matches!(replicas, ReplicaRead::Closest) || is_stale;
        if is_near && !self.zone().is_empty() {
            let mut near = Vec::with_capacity(peers.len());
            for peer in &peers {
                if self.zone_of(peer.store_id).await == self.zone() {
                    near.push(*peer);
                }
            }
            if !near.is_empty() {
                return self.in_turn(&near);
            }
        }
        match replicas {
            ReplicaRead::PreferLeader
            | ReplicaRead::Closest
            | ReplicaRead::ClosestAdaptive { .. }
                if !is_stale && !leader_fails =>
            {
                None
            }
            _ => self.in_turn(&peers),
        }
    }

    fn in_turn(&self, peers: &[Peer]) -> Option<Peer> {
        let turn = self.turns.fetch_add(1, Ordering::Relaxed);
        peers.get(turn % peers.len().max(1)).copied()
    }

    /// A store did not answer at all. Whether the request has somewhere else to go than to its
    /// leader.
    pub(crate) async fn after_silence(
        &self,
        region: &CachedRegion,
        hops: &mut Hops,
    ) -> Option<Arc<CachedRegion>> {
        if hops.from.is_leader() || !hops.may_ask(&region.leader) {
            return None;
        }
        let store_id = region.leader.store_id;
        hops.tried.push(store_id);
        if let Some(mut store) = self.stores.get_mut(&store_id) {
            store.place.passed_over_until = Some(Instant::now() + PASSED_OVER);
        }
        self.recheck_store(store_id);
        let known = self.cached(&region.region.start_key)?;
        let known = known.same_shape(region).then_some(known)?;
        match self.choose(&known, hops).await {
            Some(replica) => Some(replica),
            // Its leader has not been asked yet.
            None => hops.may_ask(&known.leader).then_some(known),
        }
    }

    fn is_passed_over(&self, store_id: u64) -> bool {
        let until = self.stores.get(&store_id).and_then(|store| store.place.passed_over_until);
        until.is_some_and(|until| Instant::now() < until)
    }

    /// The zone of a store; empty where it has none or nobody can tell now.
    async fn zone_of(&self, store_id: u64) -> String {
        if !self.stores.contains_key(&store_id) && self.store(store_id).await.is_err() {
            return String::new();
        }
        let old = match self.stores.get_mut(&store_id) {
            None => return String::new(),
            Some(store) if store.place.told_at.elapsed() < ZONE_KNOWN => {
                return store.place.zone.clone();
            }
            Some(mut store) => {
                // Whatever comes of it, the next reads need not ask.
                store.place.told_at = Instant::now();
                store.place.zone.clone()
            }
        };
        match tokio::time::timeout(PD_PATIENCE, self.pd().get_store(store_id)).await {
            Ok(Ok(told)) => {
                let zone = zone_of(&told);
                if let Some(mut store) = self.stores.get_mut(&store_id) {
                    store.place.zone.clone_from(&zone);
                }
                zone
            }
            _ => old,
        }
    }
}

#[cfg(test)]
mod tests;
