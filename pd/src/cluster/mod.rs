//! What heartbeats tell, and the operators under way.
//!
//! | module | what it holds |
//! |---|---|
//! | here | reports of stores and regions, the view of them |
//! | [`settings`] | from PD's configuration to limits, rules, schedulers |
//! | [`running`] | operators: begun, led step by step, ended |
//! | [`decide`] | when checkers and schedulers look |
//!
//! **Data.** Nothing here is durable: a restarted PD learns it from the next
//! heartbeats. Stores that have not reported since the start count from the start.
//!
//! **Cost.** A heartbeat that brings no news costs a few look-ups, whatever the number
//! of regions: counts are kept by difference, the view is kept and not built, and a
//! region that was found well is not checked again before something changes that may
//! matter to it ([`Cluster::generation`]).
//!
//! **Invariants.** A region has at most one operator. Times are the monotonic
//! clock's and come in as arguments.
//!
//! **Concurrency.** Owned by the server under one mutex, always taken after the
//! state's lock.

pub mod decide;
pub mod running;
pub mod settings;

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use cairn_pd_client::{RegionFlow, RegionRoute};
use cairn_proto::meta::{Region, Store, StoreLabel, StoreState};
use cairn_proto::pd::{RegionHeartbeatRequest, StoreStats};

use crate::hot::{HotStats, Now};
use crate::index::StoreIndex;
use crate::operator::LimitGroup;
use crate::operator::history::History;
use crate::operator::limits::{Direction, StoreLimits};
use crate::schedulers::registry::{Registry, SchedulerKind};
use crate::schedulers::scatter::Group;
use crate::schedulers::slow_store::SlowStore;
use crate::state::State;
use crate::view::{ClusterView, RegionReport, RegionView, StoreView};
use running::Running;
use settings::Settings;

/// States that depend on time are looked at again after so long.
const REFRESH_MS: u64 = 200;

/// What a store reported last.
#[derive(Clone, Debug, Default)]
struct StoreReport {
    stats: StoreStats,
    heartbeat_ms: u64,
    heartbeat_unix_ms: i64,
}

/// How far the emptying of a store has come.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Leaving {
    /// Peers it had when it began.
    pub peers_at_start: usize,
    /// Peers it has now.
    pub peers_left: usize,
    /// Time left, going by what was done so far; `None`: nothing was done yet.
    pub eta_s: Option<u64>,
}

#[derive(Clone, Copy, Debug)]
struct LeavingSince {
    began_ms: u64,
    peers_at_start: usize,
}

/// Regions asked of one store at one time.
const WANTED_REGIONS_MAX: usize = 2048;

/// The living part of PD's knowledge.
#[derive(Debug, Default)]
pub struct Cluster {
    start_ms: u64,
    settings: Settings,
    stores: HashMap<u64, StoreReport>,
    reports: HashMap<u64, RegionReport>,
    index: StoreIndex,
    hot: HotStats,
    view: ClusterView,
    /// Grows when something changes that may make a well region ill.
    generation: u64,
    /// Regions found well, and in which generation.
    well: HashMap<u64, u64>,
    refreshed_ms: Option<u64>,
    operators: BTreeMap<u64, Running>,
    operators_by_group: BTreeMap<LimitGroup, usize>,
    resting_until_ms: HashMap<u64, u64>,
    history: History,
    limits: StoreLimits,
    registry: Registry,
    slow: SlowStore,
    leaving: BTreeMap<u64, LeavingSince>,
    scattered: BTreeMap<String, (Group, u64)>,
    turn: usize,
    patrol_from: Bytes,
}

impl Cluster {
    /// Nothing has reported yet.
    pub fn new(replicas_max: usize, now_ms: u64) -> Cluster {
        let settings = Settings::new(replicas_max);
        let mut cluster = Cluster { start_ms: now_ms, settings, ..Cluster::default() };
        cluster.apply_settings();
        cluster
    }

    /// A store reported.
    pub fn store_heartbeat(&mut self, stats: StoreStats, now_ms: u64, unix_ms: u64) {
        let heartbeat_unix_ms = i64::try_from(unix_ms).unwrap_or(i64::MAX);
        let report = StoreReport { stats, heartbeat_ms: now_ms, heartbeat_unix_ms };
        self.stores.insert(report.stats.store_id, report);
        self.refreshed_ms = None;
    }

    /// Regions whose leaders should report now although nothing about them changed: those
    /// with an operator whose leader is on that store, and those nobody is known to lead.
    /// Leaders of idle regions report once a minute otherwise.
    pub fn wanted_regions(&self, state: &State, store_id: u64) -> Vec<u64> {
        let leads = |region_id: &u64| {
            let leader = self.reports.get(region_id).and_then(|report| report.leader);
            leader.is_some_and(|leader| leader.store_id == store_id)
        };
        let mut wanted: Vec<u64> = self.operators.keys().copied().filter(leads).collect();
        if self.reports.len() < state.regions.len() {
            let unknown = state.regions.iter().filter(|region| {
                !self.reports.contains_key(&region.id)
                    && region.peers.iter().any(|peer| peer.store_id == store_id)
            });
            wanted.extend(unknown.map(|region| region.id));
        }
        wanted.truncate(WANTED_REGIONS_MAX);
        wanted
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

    /// For how long the store has been silent.
    pub fn silence_ms(&self, store_id: u64, now_ms: u64) -> u64 {
        let heard_ms =
            self.stores.get(&store_id).map_or(self.start_ms, |report| report.heartbeat_ms);
        now_ms.saturating_sub(heard_ms)
    }

    /// Whether the store may be among the living: a heartbeat came lately, or PD's leader is
    /// too new to know. What people made of the store does not count.
    pub fn is_heard(&self, store: &Store, now_ms: u64) -> bool {
        store.state() != StoreState::Tombstone
            && self.silence_ms(store.id, now_ms) < self.view.config.disconnected_ms()
    }

    /// The store's state with its silence taken into account.
    pub fn store_state(&self, store: &Store, now_ms: u64) -> StoreState {
        if store.state() != StoreState::Up {
            return store.state();
        }
        let config = &self.view.config;
        match self.silence_ms(store.id, now_ms) {
            silence if silence >= config.down_ms() => StoreState::Down,
            silence if silence >= config.disconnected_ms() => StoreState::Disconnected,
            _ => StoreState::Up,
        }
    }

    /// The store with its state and its labels as of now, and its last report.
    pub fn shown(&self, store: &Store, now_ms: u64) -> (Store, StoreStats) {
        let mut shown = store.clone();
        shown.set_state(self.store_state(store, now_ms));
        let label = |(key, value)| StoreLabel { key, value };
        shown.labels = self.labels_of(store).into_iter().map(label).collect();
        (shown, self.store_stats(store.id))
    }

    /// A leader reported. Reports of an older term than the last are ignored;
    /// `false` then.
    pub fn region_heartbeat(&mut self, request: &RegionHeartbeatRequest, now: Now) -> bool {
        let Some(region) = &request.region else { return false };
        let known = self.reports.get(&region.id).unwrap_or(RegionReport::NONE);
        if request.term != 0 && request.term < known.term {
            return false;
        }
        let epoch = region.epoch.unwrap_or_default();
        let same_leader = known.leader.map(|peer| peer.id) == request.leader.map(|peer| peer.id);
        let same_range = known.leader.is_some() && known.epoch.version == epoch.version;
        // A leader that has just begun knows less than the one before it told.
        let (size_bytes, keys, size_is_guess) = match request.size_is_guess {
            true if same_range && !known.size_is_guess => (known.size_bytes, known.keys, false),
            guess => (request.approximate_size_bytes, request.approximate_keys, guess),
        };
        let report = RegionReport {
            leader: request.leader,
            term: request.term,
            epoch,
            size_bytes,
            keys,
            size_is_guess,
            flow: RegionFlow {
                written_bytes: request.written_bytes,
                written_keys: request.written_keys,
                read_bytes: request.read_bytes,
                read_keys: request.read_keys,
            },
            down: request.down_peers.clone(),
            pending: request.pending_peers.clone(),
            range_since_ms: if same_range { known.range_since_ms } else { now.ms },
        };
        let news = !same_leader
            || known.epoch != report.epoch
            || known.pending != report.pending
            || known.down != report.down;
        if news {
            self.well.remove(&region.id);
        }
        let view = RegionView { region, report: &report };
        let touched = self.index.update(&view);
        self.hot.observe(&view, request, (&self.view.config, now));
        for store_id in touched {
            self.retally(store_id);
        }
        self.reports.insert(region.id, report);
        true
    }

    fn retally(&mut self, store_id: u64) {
        if let Some(store) = self.view.stores.get_mut(&store_id) {
            store.tally = self.index.tally(store_id);
        }
    }

    /// Drops what is known of regions that no longer exist, among those named.
    pub fn forget_gone(&mut self, candidates: &[u64], state: &State, now: Now) {
        for id in candidates.iter().copied().filter(|id| state.regions.get(*id).is_none()) {
            self.end_of_region(id, now);
            for store_id in self.index.forget(id) {
                self.retally(store_id);
            }
            self.hot.forget(id);
            self.reports.remove(&id);
            self.well.remove(&id);
            self.resting_until_ms.remove(&id);
        }
    }

    /// Regions of which something is known.
    pub fn known_regions(&self) -> Vec<u64> {
        self.reports.keys().copied().collect()
    }

    /// The region with all that is known of it.
    pub fn route(&self, region: &Region) -> RegionRoute {
        let view = self.region_view(region);
        RegionRoute {
            region: region.clone(),
            // A leader that is no member any more would only mislead.
            leader: view.leader().copied(),
            down_peers: view.report.down.clone(),
            pending_peers: view.report.pending.clone(),
            approximate_size_bytes: view.report.size_bytes,
            approximate_keys: view.report.keys,
            scattering: self.is_scattering(region.id),
            flow: view.report.flow,
        }
    }

    /// The region as decisions see it.
    pub fn region_view<'a>(&'a self, region: &'a Region) -> RegionView<'a> {
        let report = self.reports.get(&region.id).unwrap_or(RegionReport::NONE);
        RegionView { region, report }
    }

    /// The last term in which a leader of the region reported; 0: none has.
    pub fn term_of(&self, region_id: u64) -> u64 {
        self.reports.get(&region_id).map_or(0, |report| report.term)
    }

    /// Number of regions the store leads.
    pub fn leader_count(&self, store_id: u64) -> usize {
        self.index.tally(store_id).leaders
    }

    /// What checkers and schedulers see.
    pub fn view(&self) -> &ClusterView {
        &self.view
    }

    /// Loads of regions and stores.
    pub fn hot(&self) -> &HotStats {
        &self.hot
    }

    /// Schedulers.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Operators that ended.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// How fast stores take and give replicas.
    pub fn limits(&self) -> &StoreLimits {
        &self.limits
    }

    /// How far the emptying of a store has come; `None`: it is not being emptied.
    pub fn leaving(&self, store_id: u64, state: &State, now_ms: u64) -> Option<Leaving> {
        let since = self.leaving.get(&store_id)?;
        let peers_left = state.regions.peer_count(store_id);
        let done = since.peers_at_start.saturating_sub(peers_left);
        let took_ms = now_ms.saturating_sub(since.began_ms);
        let eta_s = match done {
            0 if peers_left > 0 => None,
            done => Some(took_ms * peers_left as u64 / done.max(1) as u64 / 1_000),
        };
        Some(Leaving { peers_at_start: since.peers_at_start, peers_left, eta_s })
    }

    /// Settings or stores have changed: the next decision looks at them first.
    pub fn settings_changed(&mut self) {
        self.refreshed_ms = None;
    }

    /// Brings what depends on time, settings and the durable state up to date.
    pub fn refresh(&mut self, state: &State, now: Now) {
        if self.refreshed_ms.is_some_and(|at_ms| now.ms.saturating_sub(at_ms) < REFRESH_MS) {
            return;
        }
        self.refreshed_ms = Some(now.ms);
        if self.settings.load(state) {
            self.apply_settings();
        }
        let stores: BTreeMap<u64, StoreView> = state
            .stores
            .values()
            .filter(|store| store.state() != StoreState::Tombstone)
            .map(|store| (store.id, self.store_view(store, now)))
            .collect();
        let alike = |a: &StoreView, b: &StoreView| {
            let config = &self.view.config;
            (a.state, &a.labels, a.refuses_replicas(config), a.leads_not)
                == (b.state, &b.labels, b.refuses_replicas(config), b.leads_not)
        };
        let old = &self.view.stores;
        let same = old.len() == stores.len()
            && stores.iter().all(|(id, new)| old.get(id).is_some_and(|old| alike(old, new)));
        if !same {
            self.generation += 1;
        }
        self.view.stores = stores;
        self.look_for_slow_store(now);
        self.follow_leaving(state, now.ms);
    }

    /// What people set wins over what the store was started with.
    fn labels_of(&self, store: &Store) -> BTreeMap<String, String> {
        let mut labels: BTreeMap<String, String> =
            store.labels.iter().map(|label| (label.key.clone(), label.value.clone())).collect();
        labels.extend(self.settings.of_store(store.id).labels.clone());
        labels
    }

    fn store_view(&self, store: &Store, now: Now) -> StoreView {
        let id = store.id;
        let report = self.stores.get(&id);
        let stats = report.map(|report| report.stats).unwrap_or_default();
        let own = self.settings.of_store(id);
        let spent = |way| self.limits.is_spent(id, way, &self.view.config, now.ms);
        let labels = self.labels_of(store);
        let mut view = StoreView {
            state: self.store_state(store, now.ms),
            leader_weight: own.leader_weight,
            region_weight: own.region_weight,
            capacity_bytes: stats.capacity_bytes,
            available_bytes: stats.available_bytes,
            disk_full: stats.disk_full,
            slow_score: stats.slow_score,
            add_spent: spent(Direction::Add),
            remove_spent: spent(Direction::Remove),
            tally: self.index.tally(id),
            influence: self.view.stores.get(&id).map(|known| known.influence).unwrap_or_default(),
            labels,
            ..StoreView::new(id)
        };
        if !self.view.stores.contains_key(&id) {
            view.influence = self.influence_on(id);
        }
        view.leads_not = self.leads_not(&view, stats.is_stopping, now);
        view.keeps_leaders = self.registry.runs(SchedulerKind::GrantLeader, now.unix_ms)
            && self.registry.settings(SchedulerKind::GrantLeader).stores.contains(&id);
        view
    }

    fn leads_not(&self, store: &StoreView, is_stopping: bool, now: Now) -> Option<&'static str> {
        let runs = |kind| self.registry.runs(kind, now.unix_ms);
        let evicted = || self.registry.settings(SchedulerKind::EvictLeader).stores;
        let rejected = || self.registry.settings(SchedulerKind::LabelRejectLeader).labels;
        let has_label = |label: &String| {
            let pair = label.split_once('=');
            pair.is_some_and(|(key, value)| {
                store.labels.get(key).is_some_and(|known| known == value)
            })
        };
        if store.disk_full {
            // Others may still take the writes that this one refuses.
            Some("has a full disk")
        } else if is_stopping && runs(SchedulerKind::EvictStoppingStore) {
            Some("is about to stop")
        } else if runs(SchedulerKind::EvictLeader) && evicted().contains(&store.id) {
            Some("shall lead nothing (evict-leader)")
        } else if self.slow.evicted == Some(store.id) && runs(SchedulerKind::EvictSlowStore) {
            Some("has a slow disk")
        } else if runs(SchedulerKind::LabelRejectLeader) && rejected().iter().any(has_label) {
            Some("has a label that rejects leaders")
        } else {
            None
        }
    }

    fn look_for_slow_store(&mut self, now: Now) {
        if !self.registry.runs(SchedulerKind::EvictSlowStore, now.unix_ms) {
            self.slow = SlowStore::default();
            return;
        }
        let before = self.slow.evicted;
        let told = self.slow.look(&self.view, now.ms);
        if self.slow.evicted != before {
            tracing::warn!(told, "a slow store");
            self.registry.began(SchedulerKind::EvictSlowStore, told);
            self.generation += 1;
            for store in self.view.stores.values_mut() {
                let sick = self.slow.evicted == Some(store.id);
                match store.leads_not {
                    None if sick => store.leads_not = Some("has a slow disk"),
                    Some("has a slow disk") if !sick => store.leads_not = None,
                    _ => {}
                }
            }
        } else {
            self.registry.tell(SchedulerKind::EvictSlowStore, told);
        }
    }

    fn follow_leaving(&mut self, state: &State, now_ms: u64) {
        let emptied = |store: &&Store| {
            let view = self.view.stores.get(&store.id);
            view.is_some_and(|view| matches!(view.state, StoreState::Offline | StoreState::Down))
        };
        let ids: Vec<u64> = state.stores.values().filter(emptied).map(|store| store.id).collect();
        self.leaving.retain(|id, _| ids.contains(id));
        for id in ids {
            let peers = state.regions.peer_count(id);
            let since = LeavingSince { began_ms: now_ms, peers_at_start: peers };
            let known = self.leaving.entry(id).or_insert(since);
            known.peers_at_start = known.peers_at_start.max(peers);
        }
    }

    fn apply_settings(&mut self) {
        self.view.config = self.settings.config.clone();
        self.view.rules = self.settings.rules.clone();
        self.limits.set_rates(self.settings.rates());
        self.registry.load(self.settings.entries());
        self.generation += 1;
    }
}
