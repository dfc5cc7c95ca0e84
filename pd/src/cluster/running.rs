//! Operators under way: begun within their limits, led step by step, ended, noted.

use std::collections::BTreeMap;

use cairn_proto::meta::Region;
use cairn_proto::pd::RegionHeartbeatResponse;

use super::Cluster;
use crate::hot::Now;
use crate::operator::history::{Ending, Entry};
use crate::operator::limits::Direction;
use crate::operator::{LimitGroup, OpStep, Operator, OperatorKind, Priority, Progress};
use crate::state::State;
use crate::view::{Influence, RegionView};

/// After a region's operator failed, it rests for so long.
const REST_AFTER_FAILURE_MS: u64 = 5_000;
/// Operators of all kinds at once.
const OPERATORS_MAX: usize = 10_000;

/// An operator under way.
#[derive(Clone, Debug)]
pub struct Running {
    /// What is to be done.
    pub operator: Operator,
    /// The step that is due.
    pub step: usize,
    /// When it was admitted.
    pub admitted_ms: u64,
    /// When, by the wall clock.
    pub admitted_unix_ms: u64,
    timeout_ms: u64,
    influence: BTreeMap<u64, Influence>,
}

/// How a heartbeat left an operator.
enum Outcome {
    Step(Box<RegionHeartbeatResponse>),
    Wait,
    Ended(Ending, &'static str),
}

impl Cluster {
    /// The operators under way.
    pub fn operators(&self) -> impl Iterator<Item = &Running> {
        self.operators.values()
    }

    /// The region's operator.
    pub fn operator_of(&self, region_id: u64) -> Option<&Running> {
        self.operators.get(&region_id)
    }

    /// Whether the region is on its way to where a request to scatter wants it.
    pub fn is_scattering(&self, region_id: u64) -> bool {
        self.operator_of(region_id).is_some_and(|one| one.operator.kind == OperatorKind::Scatter)
    }

    /// Operators of a group, pairs counted once.
    pub(super) fn running_in(&self, group: LimitGroup) -> usize {
        let count = self.operators_by_group.get(&group).copied().unwrap_or(0);
        if group == LimitGroup::Merge { count.div_ceil(2) } else { count }
    }

    /// Whether another operator of the kind may begin.
    pub fn has_room(&self, kind: OperatorKind, priority: Priority) -> bool {
        let group = kind.limit_group();
        let config = &self.view.config;
        let most = match group {
            LimitGroup::Replica if priority == Priority::Urgent => OPERATORS_MAX,
            LimitGroup::Replica => config.replica_schedule_limit,
            LimitGroup::Region => config.region_schedule_limit,
            LimitGroup::Leader => config.leader_schedule_limit,
            LimitGroup::Merge => config.merge_schedule_limit,
            LimitGroup::Hot => config.hot_region_schedule_limit,
            LimitGroup::Unlimited => OPERATORS_MAX,
        };
        self.running_in(group) < most && !self.is_full()
    }

    /// Whether there are as many operators as PD carries.
    pub fn is_full(&self) -> bool {
        self.operators.len() >= OPERATORS_MAX
    }

    /// Whether nothing is being done to the region, and nothing failed just now.
    pub fn is_free(&self, region_id: u64, now_ms: u64) -> bool {
        !self.operators.contains_key(&region_id)
            && self.resting_until_ms.get(&region_id).is_none_or(|until_ms| now_ms >= *until_ms)
    }

    /// Begins operators, all or none; their peer ids must be filled. A less urgent one
    /// of the same region gives way. Tells whether they began.
    pub fn admit(&mut self, operators: Vec<Operator>, state: &State, now: Now) -> bool {
        let may = |operator: &Operator| {
            state.regions.get(operator.region_id).is_some()
                && self.operators.get(&operator.region_id).is_none_or(|running| {
                    running.operator.priority < operator.priority
                        && running.operator.partner_id.is_none()
                })
        };
        if !operators.iter().all(may) {
            return false;
        }
        for operator in operators {
            let Some(region) = state.regions.get(operator.region_id) else { continue };
            if let Some(replaced) = self.take_out(region.id) {
                self.note(replaced, Ending::Replaced, "something more urgent came", now);
            }
            tracing::info!(%operator, reason = operator.reason, "operator begins");
            self.begin(operator, region, now);
        }
        true
    }

    fn begin(&mut self, operator: Operator, region: &Region, now: Now) {
        let view = self.region_view(region);
        let size_bytes = view.report.size_bytes;
        let influence = operator.influence(0, &view);
        let timeout_ms = operator.timeout_ms(size_bytes);
        let (to, from) = operator.moved();
        let pays = to.into_iter().map(|store| (store, Direction::Add));
        for (store, way) in pays.chain(from.into_iter().map(|store| (store, Direction::Remove))) {
            self.limits.take(store, way, size_bytes, (&self.view.config, now.ms));
            let spent = self.limits.is_spent(store, way, &self.view.config, now.ms);
            if let Some(view) = self.view.stores.get_mut(&store) {
                match way {
                    Direction::Add => view.add_spent = spent,
                    Direction::Remove => view.remove_spent = spent,
                }
            }
        }
        if matches!(operator.kind, OperatorKind::BalanceHot | OperatorKind::SplitHot) {
            let report = self.reports.get(&region.id).cloned();
            let report = report.as_ref().unwrap_or(crate::view::RegionReport::NONE);
            self.hot.acted(&RegionView { region, report }, now, &operator.to_string());
        }
        *self.operators_by_group.entry(operator.kind.limit_group()).or_default() += 1;
        self.add_influence(&influence);
        let running = Running {
            operator,
            step: 0,
            admitted_ms: now.ms,
            admitted_unix_ms: now.unix_ms,
            timeout_ms,
            influence,
        };
        self.operators.insert(region.id, running);
    }

    fn add_influence(&mut self, influence: &BTreeMap<u64, Influence>) {
        for (store_id, change) in influence {
            if let Some(store) = self.view.stores.get_mut(store_id) {
                store.influence.add(change);
            }
        }
    }

    fn remove_influence(&mut self, influence: &BTreeMap<u64, Influence>) {
        for (store_id, change) in influence {
            if let Some(store) = self.view.stores.get_mut(store_id) {
                store.influence.remove(change);
            }
        }
    }

    /// What all operators under way will change on a store.
    pub(super) fn influence_on(&self, store_id: u64) -> Influence {
        let mut sum = Influence::default();
        let changes = self.operators.values().filter_map(|one| one.influence.get(&store_id));
        changes.for_each(|change| sum.add(change));
        sum
    }

    fn take_out(&mut self, region_id: u64) -> Option<Running> {
        let running = self.operators.remove(&region_id)?;
        self.remove_influence(&running.influence);
        let group = running.operator.kind.limit_group();
        if let Some(count) = self.operators_by_group.get_mut(&group) {
            *count = count.saturating_sub(1);
        }
        Some(running)
    }

    fn note(&mut self, running: Running, ending: Ending, ending_reason: &str, now: Now) {
        let Running { operator, step, admitted_ms, admitted_unix_ms, .. } = running;
        tracing::info!(%operator, ending = ending.name(), ending_reason, "operator ends");
        if matches!(ending, Ending::Cancelled | Ending::TimedOut) {
            self.resting_until_ms.insert(operator.region_id, now.ms + REST_AFTER_FAILURE_MS);
        }
        self.history.push(Entry {
            number: 0,
            region_id: operator.region_id,
            kind: operator.kind,
            // A merge is known to be done by the region's being gone.
            steps_done: if ending == Ending::Finished { operator.steps.len() } else { step },
            steps: operator.steps.iter().map(ToString::to_string).collect(),
            reason: operator.reason,
            ending,
            ending_reason: ending_reason.to_owned(),
            began_unix_ms: admitted_unix_ms,
            took_ms: now.ms.saturating_sub(admitted_ms),
        });
    }

    /// Ends the region's operator, and its partner's with it.
    fn end(&mut self, region_id: u64, ending: Ending, reason: &str, now: Now) {
        let Some(running) = self.take_out(region_id) else { return };
        let partner_id = running.operator.partner_id;
        self.note(running, ending, reason, now);
        if let Some(partner) = partner_id.and_then(|id| self.take_out(id)) {
            self.note(partner, ending, reason, now);
        }
    }

    /// Somebody cancels the region's operator.
    pub fn cancel(&mut self, region_id: u64, now: Now) -> bool {
        let runs = self.operators.contains_key(&region_id);
        self.end(region_id, Ending::Replaced, "cancelled by hand", now);
        runs
    }

    /// The region is no more: merged, or overtaken by others.
    pub(super) fn end_of_region(&mut self, region_id: u64, now: Now) {
        let merged = self.operators.get(&region_id).is_some_and(|running| {
            let last = running.operator.steps.last();
            matches!(last, Some(OpStep::MergeInto { .. }))
        });
        match merged {
            true => self.end(region_id, Ending::Finished, "", now),
            false => self.end(region_id, Ending::Cancelled, "the region is gone", now),
        }
    }

    /// The step of the region's operator that its leader is to take now.
    pub fn next_step(
        &mut self,
        state: &State,
        region_id: u64,
        now: Now,
    ) -> Option<RegionHeartbeatResponse> {
        let region = state.regions.get(region_id)?;
        let before = self.operators.get(&region_id)?.step;
        let (outcome, step) = self.look_at_step(state, region, now)?;
        if step != before {
            self.advance(region, step);
        }
        match outcome {
            Outcome::Step(response) => return Some(*response),
            Outcome::Wait => {}
            Outcome::Ended(ending, reason) => self.end(region_id, ending, reason, now),
        }
        None
    }

    fn advance(&mut self, region: &Region, step: usize) {
        let view = self.region_view(region);
        let Some(running) = self.operators.get(&region.id) else { return };
        let influence = running.operator.influence(step, &view);
        if let Some(running) = self.operators.get_mut(&region.id) {
            running.step = step;
            let old = std::mem::replace(&mut running.influence, influence.clone());
            self.remove_influence(&old);
            self.add_influence(&influence);
        }
    }

    fn look_at_step(&self, state: &State, region: &Region, now: Now) -> Option<(Outcome, usize)> {
        let running = self.operators.get(&region.id)?;
        let view = self.region_view(region);
        let leader = *view.leader()?;
        let mut at = running.step;
        let outcome = loop {
            let Some(step) = running.operator.steps.get(at) else {
                break Outcome::Ended(Ending::Finished, "");
            };
            if now.ms.saturating_sub(running.admitted_ms) > running.timeout_ms {
                break Outcome::Ended(Ending::TimedOut, "it took too long");
            }
            match step.progress(&view) {
                Progress::Done => at += 1,
                Progress::NotYet => break Outcome::Wait,
                Progress::Moot(reason) => break Outcome::Ended(Ending::Cancelled, reason),
                Progress::Due => {
                    let target = match step {
                        OpStep::MergeInto { target_id } => state.regions.get(*target_id),
                        _ => None,
                    };
                    break match step.response(&view, leader, target) {
                        Some(response) => Outcome::Step(Box::new(response)),
                        None => Outcome::Ended(Ending::Cancelled, "the neighbour is gone"),
                    };
                }
            }
        };
        Some((outcome, at))
    }

    /// Gives up operators whose region has stopped reporting, and forgets rests and
    /// groups that are over.
    pub fn expire(&mut self, now: Now) {
        let late: Vec<u64> = self
            .operators
            .iter()
            .filter(|(_, running)| now.ms.saturating_sub(running.admitted_ms) > running.timeout_ms)
            .map(|(region_id, _)| *region_id)
            .collect();
        for region_id in late {
            self.end(region_id, Ending::TimedOut, "it took too long", now);
        }
        self.resting_until_ms.retain(|_, until_ms| now.ms < *until_ms);
        self.hot.expire(now.ms);
        let stores = &self.view.stores;
        self.limits.retain(|store_id| stores.contains_key(&store_id));
        self.expire_groups(now.ms);
    }
}
