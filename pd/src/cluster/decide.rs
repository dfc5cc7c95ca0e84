//! When checkers and schedulers look, and what they may begin.

use cairn_pd_client::PdError;
use cairn_proto::meta::Region;

use super::Cluster;
use crate::checkers::{self, Verdict, merge, split};
use crate::hot::Now;
use crate::index::Regions;
use crate::operator::{LimitGroup, Operator, OperatorKind, Priority};
use crate::schedulers::registry::SchedulerKind;
use crate::schedulers::scatter::scatter;
use crate::schedulers::{Decision, balance_leader, balance_region, hot_region, leaders};
use crate::state::State;
use crate::view::RegionView;

/// Regions one round of the patrol looks at.
const PATROL_MAX: usize = 1_024;
/// Merges one round of the patrol begins.
const PATROL_FOUND_MAX: usize = 8;
/// Part of the regions that must have reported before balance begins, in tenths: a PD
/// that has just become leader knows nobody's leaders.
const REPORTED_TENTHS: usize = 8;
/// After so long balance begins whoever is silent.
const REPORTS_AWAITED_MS: u64 = 5 * 60_000;
/// Where the search for regions goes on next time: a prime, so that no count of
/// regions makes it go round in a small circle.
const TURN_STEP: usize = 7_919;
/// A group of scattered regions is remembered for so long.
const GROUP_MS: u64 = 5 * 60_000;
/// Groups remembered.
const GROUPS_MAX: usize = 256;

impl Cluster {
    /// What a checker wants done to the region, if nothing as urgent is being done to
    /// it.
    pub fn check(&mut self, state: &State, region_id: u64, now: Now) -> Option<Operator> {
        self.refresh(state, now);
        if self.well.get(&region_id) == Some(&self.generation) {
            return None;
        }
        let region = self.region_view(state.regions.get(region_id)?);
        let running = self.operator_of(region_id).map(|running| running.operator.priority);
        if running.is_some_and(|priority| priority >= Priority::High) {
            return None;
        }
        match checkers::repair(&region, &self.view) {
            Verdict::Well => {
                if running.is_none() {
                    self.well.insert(region_id, self.generation);
                }
                None
            }
            Verdict::Waits(_) => None,
            Verdict::Needs(operator) => {
                let rests =
                    self.resting_until_ms.get(&region_id).is_some_and(|until| now.ms < *until);
                let goes_first = running.is_none_or(|priority| {
                    operator.priority == Priority::Urgent && priority < operator.priority
                });
                (goes_first && !rests && self.has_room(operator.kind, operator.priority))
                    .then_some(operator)
            }
        }
    }

    /// Whether enough leaders have reported for balance to make sense.
    pub fn knows_enough(&self, state: &State, now: Now) -> bool {
        self.index.len() * 10 >= state.regions.len() * REPORTED_TENTHS
            || now.ms.saturating_sub(self.start_ms) >= REPORTS_AWAITED_MS
    }

    fn with_regions<R>(&self, state: &State, now: Now, look: impl FnOnce(&Regions<'_>) -> R) -> R {
        let is_free = |region_id: u64| self.is_free(region_id, now.ms);
        look(&Regions {
            tree: &state.regions,
            reports: &self.reports,
            index: &self.index,
            hot: &self.hot,
            is_free: &is_free,
            turn: self.turn,
        })
    }

    fn ask(&self, kind: SchedulerKind, state: &State, now: Now) -> Decision {
        self.with_regions(state, now, |regions| match kind {
            SchedulerKind::BalanceLeader => balance_leader::schedule(&self.view, regions),
            SchedulerKind::BalanceRegion => balance_region::schedule(&self.view, regions),
            SchedulerKind::GrantLeader => leaders::grant(&self.view, regions),
            SchedulerKind::HotRegion => {
                let leaving = self.hot_regions_leaving(state);
                hot_region::schedule(&self.view, regions, &leaving, now.ms)
            }
            SchedulerKind::EvictLeader
            | SchedulerKind::EvictSlowStore
            | SchedulerKind::EvictStoppingStore
            | SchedulerKind::LabelRejectLeader => leaders::evict(&self.view, regions),
        })
    }

    /// Stores from which a hot region is on its way already.
    fn hot_regions_leaving(&self, state: &State) -> Vec<u64> {
        let hot = |kind| matches!(kind, OperatorKind::BalanceHot | OperatorKind::SplitHot);
        self.operators()
            .filter(|running| hot(running.operator.kind))
            .filter_map(|running| state.regions.get(running.operator.region_id))
            .flat_map(|region| region.peers.iter().map(|peer| peer.store_id))
            .collect()
    }

    /// What a scheduler wants done, if it has room left. Stores that shall lead
    /// nothing come first.
    pub fn schedule(&mut self, state: &State, now: Now) -> Option<Operator> {
        self.refresh(state, now);
        self.turn = self.turn.wrapping_add(TURN_STEP);
        let knows_enough = self.knows_enough(state, now);
        let order = [
            (SchedulerKind::EvictLeader, OperatorKind::EvictLeader),
            (SchedulerKind::GrantLeader, OperatorKind::GrantLeader),
            (SchedulerKind::HotRegion, OperatorKind::BalanceHot),
            (SchedulerKind::BalanceRegion, OperatorKind::BalanceRegion),
            (SchedulerKind::BalanceLeader, OperatorKind::BalanceLeader),
        ];
        let mut found = None;
        for (kind, operators) in order {
            // Evictions go on whichever scheduler is behind them: each decides for
            // itself which store leads nothing.
            let evicts = kind == SchedulerKind::EvictLeader;
            if !evicts && !self.registry.runs(kind, now.unix_ms) {
                continue;
            }
            let decision = if !evicts && !knows_enough {
                Decision::Idle("waiting for the regions to report".to_owned())
            } else if !self.has_room(operators, Priority::Low) {
                Decision::Idle(format!("as many operators as {}", limit_name(operators)))
            } else {
                self.ask(kind, state, now)
            };
            match decision {
                Decision::Do(operator) => {
                    self.registry.began(kind, format!("{operator}: {}", operator.reason));
                    found = Some(*operator);
                    break;
                }
                Decision::Idle(reason) => self.tell_idle(kind, reason, now),
            }
        }
        found
    }

    fn tell_idle(&mut self, kind: SchedulerKind, reason: String, now: Now) {
        if kind != SchedulerKind::EvictLeader {
            return self.registry.tell(kind, reason);
        }
        let others = [SchedulerKind::EvictStoppingStore, SchedulerKind::LabelRejectLeader, kind];
        for evicting in others {
            if self.registry.runs(evicting, now.unix_ms) {
                self.registry.tell(evicting, reason.clone());
            }
        }
    }

    /// Walks on over the regions: repairs, cuts at borders of rules, merges of small neighbours.
    /// Each answer is one operator, or two that belong together. Leaders of regions that rest
    /// report once a minute: what became possible meanwhile (a store has joined) is found here.
    pub fn patrol(&mut self, state: &State, now: Now) -> Vec<Vec<Operator>> {
        self.refresh(state, now);
        let from = std::mem::take(&mut self.patrol_from);
        let mut found: Vec<Vec<Operator>> = Vec::new();
        let config = &self.view.config;
        let mut merges_left = match self.knows_enough(state, now) {
            true => config.merge_schedule_limit.saturating_sub(self.running_in(LimitGroup::Merge)),
            false => 0,
        };
        for region in state.regions.overlapping(&from, b"").take(PATROL_MAX) {
            if found.len() >= PATROL_FOUND_MAX {
                break;
            }
            self.patrol_from = region.end_key.clone();
            if !self.is_free(region.id, now.ms)
                || found.iter().flatten().any(|taken| taken.region_id == region.id)
            {
                continue;
            }
            if let Some(operator) = self.check(state, region.id, now) {
                found.push(vec![operator]);
                continue;
            }
            let view = self.region_view(region);
            if let Some(operator) = split::check(&view, &self.view) {
                found.push(vec![operator]);
            } else if merges_left > 0
                && let Some((gives, takes)) = self.merge_of(&view, state, now)
                && !found.iter().flatten().any(|taken| taken.region_id == takes.region_id)
            {
                merges_left -= 1;
                found.push(vec![gives, takes]);
            }
        }
        found
    }

    fn merge_of(
        &self,
        source: &RegionView<'_>,
        state: &State,
        now: Now,
    ) -> Option<(Operator, Operator)> {
        let [before, behind] = state.regions.neighbours(source.region);
        let free = |region: &&Region| self.is_free(region.id, now.ms);
        let candidates = merge::Candidates {
            source: *source,
            neighbours: [
                before.filter(free).map(|region| self.region_view(region)),
                behind.filter(free).map(|region| self.region_view(region)),
            ],
            split_bytes: self.split_bytes(),
            now_ms: now.ms,
        };
        merge::check(&candidates, |id| self.hot.is_hot(id), &self.view)
    }

    /// The smallest size from which a store cuts regions; 0: none has told.
    fn split_bytes(&self) -> u64 {
        let told = self.stores.values().map(|report| report.stats.region_split_bytes);
        told.filter(|bytes| *bytes > 0).min().unwrap_or(0)
    }

    /// The merge somebody asked for.
    pub fn merge_by_hand(
        &self,
        state: &State,
        (source_id, target_id): (u64, u64),
    ) -> Result<Vec<Operator>, PdError> {
        let (source, target) = (self.found(state, source_id)?, self.found(state, target_id)?);
        let adjacent = |left: &RegionView<'_>, right: &RegionView<'_>| {
            !left.region.end_key.is_empty() && left.region.end_key == right.region.start_key
        };
        if !adjacent(&source, &target) && !adjacent(&target, &source) {
            return Err(PdError::InvalidArgument(format!(
                "regions {source_id} and {target_id} are no neighbours"
            )));
        }
        let merged = merge::merge(&source, &target, &self.view);
        let (mut gives, mut takes) =
            merged.map_err(|reason| PdError::InvalidArgument(reason.to_owned()))?;
        for operator in [&mut gives, &mut takes] {
            operator.priority = Priority::High;
            operator.reason = "by hand".to_owned();
        }
        Ok(vec![gives, takes])
    }

    /// The region as decisions see it, or the error that there is none.
    pub fn found<'a>(
        &'a self,
        state: &'a State,
        region_id: u64,
    ) -> Result<RegionView<'a>, PdError> {
        let region = state.regions.get(region_id);
        let region =
            region.ok_or_else(|| PdError::RegionNotFound(format!("region {region_id}")))?;
        Ok(self.region_view(region))
    }

    /// Where a region of a group goes, if anywhere; counted in the group.
    pub fn scatter(
        &mut self,
        state: &State,
        (region_id, group): (u64, &str),
        now: Now,
    ) -> Result<Option<Operator>, PdError> {
        self.refresh(state, now);
        if !self.is_free(region_id, now.ms) {
            return Err(PdError::InvalidArgument(format!(
                "region {region_id} is being worked on already"
            )));
        }
        if self.is_full() {
            return Err(PdError::InvalidArgument("PD carries as many operators as it can".into()));
        }
        if self.scattered.len() >= GROUPS_MAX && !self.scattered.contains_key(group) {
            self.scattered.pop_first();
        }
        let (mut counts, _) = self.scattered.remove(group).unwrap_or_default();
        let result = self
            .found(state, region_id)
            .map(|region| scatter(&region, &mut counts, &self.view))?
            .map_err(|reason| PdError::InvalidArgument(format!("region {region_id}: {reason}")));
        self.scattered.insert(group.to_owned(), (counts, now.ms));
        result
    }

    pub(super) fn expire_groups(&mut self, now_ms: u64) {
        self.scattered.retain(|_, (_, used_ms)| now_ms.saturating_sub(*used_ms) < GROUP_MS);
    }
}

fn limit_name(kind: OperatorKind) -> &'static str {
    match kind.limit_group() {
        LimitGroup::Replica => "replica-schedule-limit allows",
        LimitGroup::Region => "region-schedule-limit allows",
        LimitGroup::Leader => "leader-schedule-limit allows",
        LimitGroup::Merge => "merge-schedule-limit allows",
        LimitGroup::Hot => "hot-region-schedule-limit allows",
        LimitGroup::Unlimited => "PD carries",
    }
}
