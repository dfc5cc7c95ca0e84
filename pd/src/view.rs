//! What checkers and schedulers see of the cluster.
//!
//! Decisions are pure functions of these views, so that a text file can tell a
//! situation and expect the step that follows. [`crate::cluster`] keeps the views
//! up to date as heartbeats come; nothing is gathered anew for a decision.

use std::collections::BTreeMap;

use cairn_pd_client::RegionFlow;
use cairn_proto::meta::{Peer, PeerRole, Region, RegionEpoch, StoreState};
use cairn_proto::pd::PeerStats;

use crate::config::ScheduleConfig;
use crate::placement::RuleSet;

/// Less free space than this makes no difference any more.
const FREE_MIN: f64 = 0.001;

/// A region costs its store at least as much as so many bytes: it has a log, ticks
/// and reports even when it is empty.
pub const REGION_BYTES_MIN: u64 = 16 << 20;
/// From this free part of its disk on a store counts as fuller than it is.
const ROOMY_RATIO: f64 = 0.6;

/// What lies on a store, by the last heartbeats.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Peers on it.
    pub regions: usize,
    /// Leaders on it.
    pub leaders: usize,
    /// Bytes of its peers, each counted with at least [`REGION_BYTES_MIN`].
    pub weighed_bytes: u64,
    /// Peers that lack entries.
    pub pending: usize,
}

/// What operators under way will change on a store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Influence {
    /// Peers.
    pub regions: i64,
    /// Leaders.
    pub leaders: i64,
    /// As [`Tally::weighed_bytes`].
    pub weighed_bytes: i64,
    /// Learners on their way to it.
    pub incoming: usize,
}

impl Influence {
    /// Counts another operator's.
    pub fn add(&mut self, other: &Influence) {
        self.regions += other.regions;
        self.leaders += other.leaders;
        self.weighed_bytes += other.weighed_bytes;
        self.incoming += other.incoming;
    }

    /// Takes an operator's out again.
    pub fn remove(&mut self, other: &Influence) {
        self.regions -= other.regions;
        self.leaders -= other.leaders;
        self.weighed_bytes -= other.weighed_bytes;
        self.incoming = self.incoming.saturating_sub(other.incoming);
    }
}

/// With so much left no disk is low on space, whatever part of it is used: room for a
/// score of regions of the largest usual size.
const LOW_SPACE_BYTES: f64 = (5_u64 << 30) as f64;

/// One store.
#[derive(Clone, Debug, PartialEq)]
pub struct StoreView {
    /// Its id.
    pub id: u64,
    /// Whether it lives and may take replicas.
    pub state: StoreState,
    /// Where it stands.
    pub labels: BTreeMap<String, String>,
    /// Its share of leaders and of regions, beside the others'.
    pub leader_weight: f64,
    /// See `leader_weight`.
    pub region_weight: f64,
    /// Size of its disk; 0: unknown.
    pub capacity_bytes: u64,
    /// Free space of its disk.
    pub available_bytes: u64,
    /// It refuses writes.
    pub disk_full: bool,
    /// Why it shall lead nothing, if so.
    pub leads_not: Option<&'static str>,
    /// It is to lead whatever it can: balance takes nothing from it.
    pub keeps_leaders: bool,
    /// Slowness of its disk, 1 to 100.
    pub slow_score: u32,
    /// Its budget of replicas that come is spent.
    pub add_spent: bool,
    /// Its budget of replicas that go is spent.
    pub remove_spent: bool,
    /// What lies on it.
    pub tally: Tally,
    /// What is about to change.
    pub influence: Influence,
}

impl StoreView {
    /// A healthy store about which nothing else is known.
    pub fn new(id: u64) -> StoreView {
        StoreView {
            id,
            state: StoreState::Up,
            labels: BTreeMap::new(),
            leader_weight: 1.0,
            region_weight: 1.0,
            capacity_bytes: 0,
            available_bytes: 0,
            disk_full: false,
            leads_not: None,
            keeps_leaders: false,
            slow_score: 1,
            add_spent: false,
            remove_spent: false,
            tally: Tally::default(),
            influence: Influence::default(),
        }
    }

    /// Whether it is heard from and stays.
    pub fn is_up(&self) -> bool {
        self.state == StoreState::Up
    }

    /// Whether replicas on it are to be replaced.
    pub fn is_leaving(&self) -> bool {
        matches!(self.state, StoreState::Down | StoreState::Offline | StoreState::Tombstone)
    }

    /// Whether leaders may go to it.
    pub fn may_lead(&self) -> bool {
        self.is_up() && self.leads_not.is_none()
    }

    /// Bytes of its disk that will be free with so many bytes of regions on it.
    fn room_with(&self, weighed_bytes: u64) -> f64 {
        let room = self.available_bytes as f64 + self.tally.weighed_bytes as f64;
        (room - weighed_bytes as f64).max(0.0)
    }

    /// The part of its disk that will be free with so many bytes on it; 1 when its size
    /// is unknown.
    fn free_with(&self, weighed_bytes: u64) -> f64 {
        if self.capacity_bytes == 0 {
            return 1.0;
        }
        (self.room_with(weighed_bytes) / self.capacity_bytes as f64).min(1.0)
    }

    /// Whether its disk is nearly full, or will be when what is on its way is there: both
    /// a small part and few bytes are left. A large disk that others have filled for the
    /// most part still has room, and a cluster on it must get its replicas.
    pub fn is_low_on_space(&self, config: &ScheduleConfig) -> bool {
        let planned_bytes = self.weighed_bytes();
        let is_used = 1.0 - self.free_with(planned_bytes) > config.low_space_ratio;
        self.disk_full || (is_used && self.room_with(planned_bytes) < LOW_SPACE_BYTES)
    }

    /// Why new replicas may not go to it, for as long as it stays as it is.
    pub fn refuses_replicas(&self, config: &ScheduleConfig) -> Option<&'static str> {
        if !self.is_up() {
            Some("is not up")
        } else if self.disk_full {
            Some("has a full disk")
        } else if self.is_low_on_space(config) {
            Some("is low on space")
        } else {
            None
        }
    }

    /// Whether it has enough to do with the replicas that are coming.
    pub fn is_busy_receiving(&self, config: &ScheduleConfig) -> bool {
        self.add_spent || self.influence.incoming >= config.max_snapshot_count
    }

    /// Leaders it will have when everything under way is done.
    pub fn leader_count(&self) -> usize {
        self.tally.leaders.saturating_add_signed(self.influence.leaders as isize)
    }

    /// Peers it will have when everything under way is done.
    pub fn region_count(&self) -> usize {
        self.tally.regions.saturating_add_signed(self.influence.regions as isize)
    }

    /// How much it leads for its weight.
    pub fn leader_score(&self) -> f64 {
        self.leader_count() as f64 / self.leader_weight.max(WEIGHT_MIN)
    }

    /// By how much one leader raises the score.
    pub fn leader_step(&self) -> f64 {
        1.0 / self.leader_weight.max(WEIGHT_MIN)
    }

    /// How full it is for its weight, in regions of the least size.
    ///
    /// Below 60 % of free space the score grows by (0.6 / free)²: a small disk fills no
    /// further while others have room.
    pub fn region_score(&self) -> f64 {
        self.score_of(self.weighed_bytes())
    }

    /// By how much a replica raises the score; at least by that of an empty region.
    pub fn region_step(&self, weighed_bytes: u64) -> f64 {
        let now = self.weighed_bytes();
        self.score_of(now + weighed_bytes.max(REGION_BYTES_MIN)) - self.score_of(now)
    }

    /// Bytes it will hold when everything under way is done.
    pub fn weighed_bytes(&self) -> u64 {
        self.tally.weighed_bytes.saturating_add_signed(self.influence.weighed_bytes)
    }

    /// The score with other bytes on it; they take or leave room on its disk.
    pub fn score_of(&self, weighed_bytes: u64) -> f64 {
        let free = self.free_with(weighed_bytes);
        let pressure = if free >= ROOMY_RATIO { 1.0 } else { ROOMY_RATIO / free.max(FREE_MIN) };
        weighed_bytes as f64 / REGION_BYTES_MIN as f64 * pressure * pressure
            / self.region_weight.max(WEIGHT_MIN)
    }
}

/// A weight of zero would divide by it; such a store scores far above all others.
pub const WEIGHT_MIN: f64 = 0.001;

/// All stores, the rules and the settings.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClusterView {
    /// Stores by id, without tombstones.
    pub stores: BTreeMap<u64, StoreView>,
    /// Where replicas shall be.
    pub rules: RuleSet,
    /// Settings in force.
    pub config: ScheduleConfig,
}

impl ClusterView {
    /// Whether replicas on the store are to be replaced; a store nobody knows is gone.
    pub fn is_leaving(&self, store_id: u64) -> bool {
        self.stores.get(&store_id).is_none_or(StoreView::is_leaving)
    }

    /// Whether leaders may go to the store.
    pub fn may_lead(&self, store_id: u64) -> bool {
        self.stores.get(&store_id).is_some_and(StoreView::may_lead)
    }

    /// How full a store is; stores nobody knows are fullest.
    pub fn region_score(&self, store_id: u64) -> f64 {
        self.stores.get(&store_id).map_or(f64::MAX, StoreView::region_score)
    }
}

/// What a region's leader reported last.
#[derive(Clone, Debug, PartialEq)]
pub struct RegionReport {
    /// The leader; none before the first report.
    pub leader: Option<Peer>,
    /// Its term.
    pub term: u64,
    /// The region's epoch then.
    pub epoch: RegionEpoch,
    /// Size as the leader estimates it.
    pub size_bytes: u64,
    /// Number of keys as the leader estimates it.
    pub keys: u64,
    /// No leader of this range has looked at its data yet: both may be far too small.
    pub size_is_guess: bool,
    /// Load since the report before.
    pub flow: RegionFlow,
    /// Peers their leader has not heard from.
    pub down: Vec<PeerStats>,
    /// Peers that lack entries.
    pub pending: Vec<Peer>,
    /// Since when the region has this range.
    pub range_since_ms: u64,
}

impl RegionReport {
    /// Before the first report.
    pub const NONE: &'static RegionReport = &RegionReport::none();

    /// Before the first report.
    pub const fn none() -> RegionReport {
        RegionReport {
            leader: None,
            term: 0,
            epoch: RegionEpoch { conf_ver: 0, version: 0 },
            size_bytes: 0,
            keys: 0,
            size_is_guess: true,
            flow: RegionFlow { written_bytes: 0, written_keys: 0, read_bytes: 0, read_keys: 0 },
            down: Vec::new(),
            pending: Vec::new(),
            range_since_ms: 0,
        }
    }
}

/// One region.
#[derive(Clone, Copy, Debug)]
pub struct RegionView<'a> {
    /// Range, epoch and peers.
    pub region: &'a Region,
    /// What its leader says.
    pub report: &'a RegionReport,
}

impl<'a> RegionView<'a> {
    /// Its id.
    pub fn id(&self) -> u64 {
        self.region.id
    }

    /// The leader, if one reported and is a member still.
    pub fn leader(&self) -> Option<&'a Peer> {
        let leader = self.report.leader?;
        self.region.peers.iter().find(|peer| peer.id == leader.id)
    }

    /// Peers that vote.
    pub fn voters(&self) -> impl Iterator<Item = &'a Peer> + use<'a> {
        self.region.peers.iter().filter(|peer| peer.role() != PeerRole::Learner)
    }

    /// Peers that do not vote yet.
    pub fn learners(&self) -> impl Iterator<Item = &'a Peer> + use<'a> {
        self.region.peers.iter().filter(|peer| peer.role() == PeerRole::Learner)
    }

    /// Whether a membership change of two configurations is half done.
    pub fn is_joint(&self) -> bool {
        let half =
            |peer: &Peer| matches!(peer.role(), PeerRole::IncomingVoter | PeerRole::DemotingVoter);
        self.region.peers.iter().any(half)
    }

    /// The peer on a store.
    pub fn peer_on(&self, store_id: u64) -> Option<&'a Peer> {
        self.region.peers.iter().find(|peer| peer.store_id == store_id)
    }

    /// Whether the peer has everything its leader has.
    pub fn is_caught_up(&self, peer: &Peer) -> bool {
        !self.report.pending.iter().any(|one| one.id == peer.id) && self.silence_s(peer).is_none()
    }

    /// For how long its leader has not heard from the peer.
    pub fn silence_s(&self, peer: &Peer) -> Option<u64> {
        let of = |down: &&PeerStats| down.peer.is_some_and(|one| one.id == peer.id);
        self.report.down.iter().find(of).map(|down| down.down_s)
    }

    /// Whether the leader sits on the store.
    pub fn is_led_by(&self, store_id: u64) -> bool {
        self.report.leader.is_some_and(|leader| leader.store_id == store_id)
    }

    /// Whether it has a leader, only voters, and all of them are up to date.
    pub fn is_healthy(&self) -> bool {
        self.leader().is_some()
            && self.report.pending.is_empty()
            && self.report.down.is_empty()
            && !self.is_joint()
    }

    /// What it costs a store.
    pub fn weighed_bytes(&self) -> u64 {
        self.report.size_bytes.max(REGION_BYTES_MIN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_disk_scores_higher_as_it_fills() {
        let with = |available_bytes: u64| StoreView {
            capacity_bytes: 100,
            available_bytes,
            tally: Tally { weighed_bytes: 10 * REGION_BYTES_MIN, ..Tally::default() },
            ..StoreView::new(1)
        };
        let scores: Vec<u64> =
            [100, 60, 30, 6, 0].into_iter().map(|free| with(free).region_score() as u64).collect();
        assert_eq!(scores, [10, 10, 40, 1_000, 3_600_000]);
        let config = ScheduleConfig::default();
        assert!(!with(20).is_low_on_space(&config));
        assert!(with(19).is_low_on_space(&config));
    }

    #[test]
    fn weights_divide() {
        let mut store = StoreView::new(1);
        store.tally.leaders = 8;
        store.leader_weight = 2.0;
        assert_eq!(store.leader_score(), 4.0);
        store.influence.leaders = -4;
        assert_eq!(store.leader_score(), 2.0);
    }
}
