//! What heartbeats tell: which stores live, who leads, how big regions are; and
//! the operators under way.
//!
//! **Data.** Nothing here is durable: a restarted PD learns it from the next
//! heartbeats. Stores that have not reported since the start count from the start.
//!
//! **Invariants.** A region has at most one operator. Times are the monotonic
//! clock's and come in as arguments.
//!
//! **Concurrency.** Owned by the server under one mutex, always taken after the
//! state's lock.

use std::collections::{BTreeMap, HashMap};

use cairn_pd_client::RegionRoute;
use cairn_proto::meta::{Peer, Region, Store, StoreState};
use cairn_proto::pd::{PeerStats, RegionHeartbeatRequest, RegionHeartbeatResponse, StoreStats};

use crate::checkers::replica;
use crate::operator::{OpStep, Operator, OperatorKind, Progress};
use crate::schedulers::{balance_leader, balance_region};
use crate::state::State;
use crate::view::{ClusterView, RegionView, StoreView};

/// A store without a heartbeat for so long gets no new replicas.
pub const DISCONNECTED_AFTER_MS: u64 = 20_000;
/// A store without a heartbeat for so long is replaced.
pub const DOWN_AFTER_MS: u64 = 30 * 60_000;
/// Operators of schedulers at once, by kind.
const BALANCE_OPERATORS_MAX: usize = 4;
/// Operators of checkers at once.
const REPAIR_OPERATORS_MAX: usize = 64;
/// After a region's operator failed, it rests for so long.
const REST_AFTER_FAILURE_MS: u64 = 5_000;

/// What a store reported last.
#[derive(Clone, Debug, Default)]
struct StoreReport {
    stats: StoreStats,
    heartbeat_ms: u64,
    heartbeat_unix_ms: i64,
}

/// What a region's leader reported last.
#[derive(Clone, Debug, Default)]
struct RegionReport {
    leader: Option<Peer>,
    term: u64,
    size_bytes: u64,
    keys: u64,
    down: Vec<PeerStats>,
    down_ids: Vec<u64>,
    pending: Vec<Peer>,
    pending_ids: Vec<u64>,
}

/// An operator under way.
#[derive(Clone, Debug)]
pub struct Running {
    /// What is to be done.
    pub operator: Operator,
    /// The step that is due.
    pub step: usize,
    /// When it was admitted.
    pub admitted_ms: u64,
}

/// Operators that ended, by outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OperatorCounts {
    /// Every step was done.
    pub finished: u64,
    /// A step became impossible.
    pub cancelled: u64,
    /// They took too long.
    pub timed_out: u64,
}

/// The living part of PD's knowledge.
#[derive(Debug, Default)]
pub struct Cluster {
    start_ms: u64,
    replicas_max: usize,
    stores: HashMap<u64, StoreReport>,
    regions: HashMap<u64, RegionReport>,
    leaders_by_store: HashMap<u64, usize>,
    operators: BTreeMap<u64, Running>,
    resting_until_ms: HashMap<u64, u64>,
    counts: OperatorCounts,
}

impl Cluster {
    /// Nothing has reported yet.
    pub fn new(replicas_max: usize, now_ms: u64) -> Cluster {
        Cluster { start_ms: now_ms, replicas_max, ..Cluster::default() }
    }

    /// A store reported.
    pub fn store_heartbeat(&mut self, stats: StoreStats, now_ms: u64, unix_ms: u64) {
        let heartbeat_unix_ms = i64::try_from(unix_ms).unwrap_or(i64::MAX);
        let report = StoreReport { stats, heartbeat_ms: now_ms, heartbeat_unix_ms };
        self.stores.insert(report.stats.store_id, report);
    }

    /// The store's report with the time it came.
    pub fn store_stats(&self, store_id: u64) -> StoreStats {
        match self.stores.get(&store_id) {
            Some(report) => {
                StoreStats { last_heartbeat_ms: report.heartbeat_unix_ms, ..report.stats }
            }
            None => StoreStats { store_id, ..StoreStats::default() },
        }
    }

    /// The store's state with its silence taken into account.
    pub fn store_state(&self, store: &Store, now_ms: u64) -> StoreState {
        if store.state() != StoreState::Up {
            return store.state();
        }
        let heard_ms =
            self.stores.get(&store.id).map_or(self.start_ms, |report| report.heartbeat_ms);
        match now_ms.saturating_sub(heard_ms) {
            silence if silence >= DOWN_AFTER_MS => StoreState::Down,
            silence if silence >= DISCONNECTED_AFTER_MS => StoreState::Disconnected,
            _ => StoreState::Up,
        }
    }

    /// The store with its state as of now, and its last report.
    pub fn shown(&self, store: &Store, now_ms: u64) -> (Store, StoreStats) {
        let mut shown = store.clone();
        shown.set_state(self.store_state(store, now_ms));
        (shown, self.store_stats(store.id))
    }

    /// A leader reported. Reports of an older term than the last are ignored;
    /// `false` then.
    pub fn region_heartbeat(&mut self, request: &RegionHeartbeatRequest) -> bool {
        let Some(region) = &request.region else { return false };
        let known = self.regions.get(&region.id);
        if known.is_some_and(|known| request.term != 0 && request.term < known.term) {
            return false;
        }
        self.forget_leader(region.id);
        if let Some(leader) = &request.leader {
            *self.leaders_by_store.entry(leader.store_id).or_default() += 1;
        }
        let id_of = |stats: &PeerStats| stats.peer.as_ref().map(|peer| peer.id);
        let report = RegionReport {
            leader: request.leader,
            term: request.term,
            size_bytes: request.approximate_size_bytes,
            keys: request.approximate_keys,
            down_ids: request.down_peers.iter().filter_map(id_of).collect(),
            down: request.down_peers.clone(),
            pending_ids: request.pending_peers.iter().map(|peer| peer.id).collect(),
            pending: request.pending_peers.clone(),
        };
        self.regions.insert(region.id, report);
        true
    }

    fn forget_leader(&mut self, region_id: u64) {
        let leader = self.regions.get(&region_id).and_then(|report| report.leader);
        if let Some(leader) = leader
            && let Some(count) = self.leaders_by_store.get_mut(&leader.store_id)
        {
            *count = count.saturating_sub(1);
        }
    }

    /// Drops reports of regions that no longer exist.
    pub fn retain_regions(&mut self, state: &State) {
        let gone: Vec<u64> =
            self.regions.keys().copied().filter(|id| state.regions.get(*id).is_none()).collect();
        for id in gone {
            self.forget_leader(id);
            self.regions.remove(&id);
            self.operators.remove(&id);
        }
    }

    /// The region with all that is known of it.
    pub fn route(&self, region: &Region) -> RegionRoute {
        let report = self.regions.get(&region.id).cloned().unwrap_or_default();
        // A leader that is no member any more would only mislead.
        let leader =
            report.leader.filter(|leader| region.peers.iter().any(|peer| peer.id == leader.id));
        RegionRoute {
            region: region.clone(),
            leader,
            down_peers: report.down,
            pending_peers: report.pending,
            approximate_size_bytes: report.size_bytes,
            approximate_keys: report.keys,
        }
    }

    fn region_view<'a>(&'a self, region: &'a Region) -> RegionView<'a> {
        match self.regions.get(&region.id) {
            Some(report) => RegionView {
                region,
                leader: report.leader,
                pending: &report.pending_ids,
                down: &report.down_ids,
            },
            None => RegionView { region, leader: None, pending: &[], down: &[] },
        }
    }

    /// Number of regions the store leads.
    pub fn leader_count(&self, store_id: u64) -> usize {
        self.leaders_by_store.get(&store_id).copied().unwrap_or(0)
    }

    /// What checkers and schedulers see, running operators counted as done.
    pub fn view(&self, state: &State, now_ms: u64) -> ClusterView {
        let mut stores: BTreeMap<u64, StoreView> = BTreeMap::new();
        for store in state.stores.values() {
            let label = store.labels.iter().find(|label| label.key == "host");
            let host = match label {
                Some(label) => label.value.clone(),
                None if store.address.is_empty() => format!("store-{}", store.id),
                None => store.address.clone(),
            };
            let view = StoreView {
                id: store.id,
                state: self.store_state(store, now_ms),
                host,
                region_count: state.regions.peer_count(store.id),
                leader_count: self.leader_count(store.id),
                incoming_count: 0,
            };
            stores.insert(store.id, view);
        }
        for running in self.operators.values() {
            self.count_operator(running, &mut stores);
        }
        ClusterView { stores, replicas_max: self.replicas_max }
    }

    fn count_operator(&self, running: &Running, stores: &mut BTreeMap<u64, StoreView>) {
        for step in &running.operator.steps[running.step..] {
            match *step {
                OpStep::AddLearner { store_id, .. } => {
                    if let Some(store) = stores.get_mut(&store_id) {
                        store.region_count += 1;
                        store.incoming_count += 1;
                    }
                }
                OpStep::Promote { .. } => {}
                OpStep::Remove { store_id, .. } => {
                    if let Some(store) = stores.get_mut(&store_id) {
                        store.region_count = store.region_count.saturating_sub(1);
                    }
                }
                OpStep::TransferLeader { store_id } => {
                    let region_id = running.operator.region_id;
                    let from = self.regions.get(&region_id).and_then(|report| report.leader);
                    if let Some(store) = from.and_then(|leader| stores.get_mut(&leader.store_id)) {
                        store.leader_count = store.leader_count.saturating_sub(1);
                    }
                    if let Some(store) = stores.get_mut(&store_id) {
                        store.leader_count += 1;
                    }
                }
            }
        }
    }

    // ---- operators ----

    /// The operators under way.
    pub fn operators(&self) -> impl Iterator<Item = &Running> {
        self.operators.values()
    }

    /// Operators that ended, by outcome.
    pub fn operator_counts(&self) -> OperatorCounts {
        self.counts
    }

    /// What a checker wants done to the region, if nothing is being done to it.
    pub fn check(&self, state: &State, region_id: u64, now_ms: u64) -> Option<Operator> {
        if self.operators.len() >= REPAIR_OPERATORS_MAX || !self.may_operate(region_id, now_ms) {
            return None;
        }
        let region = state.regions.get(region_id)?;
        replica::check(&self.region_view(region), &self.view(state, now_ms))
    }

    /// What a scheduler wants done, if it has room left.
    pub fn schedule(&self, state: &State, now_ms: u64) -> Option<Operator> {
        let view = self.view(state, now_ms);
        let idle = state
            .regions
            .iter()
            .filter(|region| self.may_operate(region.id, now_ms))
            .map(|region| self.region_view(region));
        let running =
            |kind| self.operators.values().filter(|running| running.operator.kind == kind).count();
        if running(OperatorKind::BalanceRegion) < BALANCE_OPERATORS_MAX
            && let Some(operator) = balance_region::schedule(&view, idle.clone())
        {
            return Some(operator);
        }
        if running(OperatorKind::BalanceLeader) < BALANCE_OPERATORS_MAX {
            return balance_leader::schedule(&view, idle);
        }
        None
    }

    fn may_operate(&self, region_id: u64, now_ms: u64) -> bool {
        !self.operators.contains_key(&region_id)
            && self.resting_until_ms.get(&region_id).is_none_or(|until_ms| now_ms >= *until_ms)
    }

    /// Begins an operator; its peer ids must be filled.
    pub fn admit(&mut self, operator: Operator, now_ms: u64) {
        tracing::info!(%operator, "operator begins");
        let region_id = operator.region_id;
        let running = Running { operator, step: 0, admitted_ms: now_ms };
        self.operators.entry(region_id).or_insert(running);
    }

    /// The step of the region's operator that its leader is to take now.
    pub fn next_step(&mut self, region: &Region, now_ms: u64) -> Option<RegionHeartbeatResponse> {
        let mut running = self.operators.remove(&region.id)?;
        let view = self.region_view(region);
        let leader = view.leader?;
        let age_ms = now_ms.saturating_sub(running.admitted_ms);
        let outcome = loop {
            let Some(step) = running.operator.steps.get(running.step) else {
                break Outcome::Finished;
            };
            if age_ms > running.operator.kind.timeout_ms() {
                break Outcome::TimedOut;
            }
            match step.progress(&view) {
                Progress::Done => running.step += 1,
                Progress::Due => break Outcome::Step(Box::new(step.response(region, leader))),
                Progress::NotYet => break Outcome::Wait,
                Progress::Moot => break Outcome::Cancelled,
            }
        };
        self.finish(running, outcome, now_ms)
    }

    fn finish(
        &mut self,
        running: Running,
        outcome: Outcome,
        now_ms: u64,
    ) -> Option<RegionHeartbeatResponse> {
        let region_id = running.operator.region_id;
        match outcome {
            Outcome::Step(response) => {
                self.operators.insert(region_id, running);
                return Some(*response);
            }
            Outcome::Wait => {
                self.operators.insert(region_id, running);
            }
            Outcome::Finished => {
                self.counts.finished += 1;
                tracing::info!(operator = %running.operator, "operator is done");
            }
            Outcome::Cancelled | Outcome::TimedOut => {
                if matches!(outcome, Outcome::TimedOut) {
                    self.counts.timed_out += 1;
                } else {
                    self.counts.cancelled += 1;
                }
                self.resting_until_ms.insert(region_id, now_ms + REST_AFTER_FAILURE_MS);
                tracing::info!(operator = %running.operator, "operator is given up");
            }
        }
        None
    }

    /// Gives up operators whose region has stopped reporting, and forgets rests
    /// that are over.
    pub fn expire(&mut self, now_ms: u64) {
        let late: Vec<u64> = self
            .operators
            .iter()
            .filter(|(_, running)| {
                now_ms.saturating_sub(running.admitted_ms) > running.operator.kind.timeout_ms()
            })
            .map(|(region_id, _)| *region_id)
            .collect();
        for region_id in late {
            if let Some(running) = self.operators.remove(&region_id) {
                self.finish(running, Outcome::TimedOut, now_ms);
            }
        }
        self.resting_until_ms.retain(|_, until_ms| now_ms < *until_ms);
    }
}

/// How a heartbeat left an operator.
enum Outcome {
    Step(Box<RegionHeartbeatResponse>),
    Wait,
    Finished,
    Cancelled,
    TimedOut,
}
