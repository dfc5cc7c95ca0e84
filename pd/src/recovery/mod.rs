//! Recovery after stores were lost for good with a majority of some regions' voters.
//!
//! **Flow.** An order names the stores (`steer/recovery.rs`); they are tombstones at
//! once. Then rounds begin: every living store tells all of its peers, the steps that follow
//! ([`plan`]) go out with the answers to store heartbeats, and the next round shows what came of
//! them. It ends when a round leaves nothing to do, or when nothing moves for too long.
//!
//! **Data.** What was decided is in the replicated state before a store hears of it
//! ([`crate::state::recovery`]): the report survives a change of PD's leader, and an empty
//! region is never made twice. Rounds are in memory; the next leader begins one.
//!
//! **Invariants.** Schedulers and checkers rest meanwhile, so that what is reported stays
//! true. Locks are taken in the order state → cluster → run.

pub mod plan;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use cairn_pd_client::PdError;
use cairn_proto::meta::{Peer, Region, RegionEpoch, Store, StoreState};
use cairn_proto::pd::{PeerReport, RecoveryOrders, ReportPeersRequest};

use crate::server::PdServer;
use crate::state::recovery::{ForcedRegion, Recovery, RecoveryStage, RemovedPeer};
use crate::state::{Kind, State};
use plan::{Hole, Plan, Situation};

/// Steps of each kind that one answer to a heartbeat carries.
const STEPS_PER_ANSWER_MAX: usize = 512;
/// Steps of one kind that a round decides: what was decided is one entry of PD's log.
const STEPS_PER_ROUND_MAX: usize = 512;
/// Peers of one store's report: more than a store can drive.
const PEERS_PER_STORE_MAX: usize = 1_000_000;
/// A recovery of which nothing moves for so long has failed.
const STAGE_TIMEOUT_MS: u64 = 120_000;
/// A voter that its store does not report is waited for: a split may be about to make it.
const UNBORN_MS: u64 = 30_000;
/// A range must be in no region for so long before it counts as lost: reports of one round
/// are not of one moment.
const HOLE_MS: u64 = 5_000;

/// What one store has told in this round.
#[derive(Debug, Default)]
struct StoreReport {
    pages: u32,
    peers: Vec<PeerReport>,
    is_whole: bool,
}

/// The part of a recovery that is not durable.
#[derive(Debug)]
pub struct Run {
    recovery_id: u64,
    round: u64,
    reports: BTreeMap<u64, StoreReport>,
    orders: BTreeMap<u64, RecoveryOrders>,
    began_ms: u64,
    /// When something moved last, and what was left then.
    moved_ms: u64,
    left: usize,
    /// The ranges in no region, and since when it has been these.
    holes: Vec<Hole>,
    holes_since_ms: u64,
    /// What the last plan waits for.
    waits: Vec<(u64, &'static str)>,
}

impl Run {
    fn new(recovery_id: u64, now_ms: u64, unix_ms: u64) -> Run {
        Run {
            recovery_id,
            // Above those of an earlier leader: late pages of its rounds fit none of ours.
            round: unix_ms.max(1),
            reports: BTreeMap::new(),
            orders: BTreeMap::new(),
            began_ms: now_ms,
            moved_ms: now_ms,
            left: usize::MAX,
            holes: Vec::new(),
            holes_since_ms: now_ms,
            waits: Vec::new(),
        }
    }

    /// Stores whose report of this round is not there yet.
    fn silent(&self, living: &[u64]) -> Vec<u64> {
        let is_silent = |id: &u64| !self.reports.get(id).is_some_and(|report| report.is_whole);
        living.iter().copied().filter(is_silent).collect()
    }

    fn take_page(&mut self, page: ReportPeersRequest, now_ms: u64) -> Result<(), PdError> {
        if page.page == 0 {
            self.reports.insert(page.store_id, StoreReport::default());
        }
        let report = self.reports.entry(page.store_id).or_default();
        if page.page != report.pages || report.is_whole {
            return Err(PdError::InvalidArgument("a page out of turn".into()));
        }
        if report.peers.len() + page.peers.len() > PEERS_PER_STORE_MAX {
            return Err(PdError::InvalidArgument("more peers than a store can have".into()));
        }
        report.pages += 1;
        report.peers.extend(page.peers);
        report.is_whole = page.ends;
        if page.ends && self.left == usize::MAX {
            self.moved_ms = now_ms;
        }
        Ok(())
    }

    /// The plan that this round's reports lead to; the next round begins.
    fn end_round(&mut self, recovery: &Recovery, now_ms: u64) -> Plan {
        let reports: BTreeMap<u64, Vec<PeerReport>> = std::mem::take(&mut self.reports)
            .into_iter()
            .map(|(store_id, report)| (store_id, report.peers))
            .collect();
        let mut plan = plan::plan(&Situation {
            failed: &recovery.failed_stores.iter().copied().collect(),
            reports: &reports,
            forced: &recovery.forced_ids(),
            created: &recovery.created,
            is_patient: now_ms.saturating_sub(self.began_ms) < UNBORN_MS,
        });
        if plan.left() < self.left {
            self.moved_ms = now_ms;
        }
        self.left = plan.left();
        if plan.holes != self.holes {
            self.holes = plan.holes.clone();
            self.holes_since_ms = now_ms;
        }
        if now_ms.saturating_sub(self.holes_since_ms) < HOLE_MS {
            plan.holes.clear();
        }
        self.waits = plan.waits.clone();
        self.round += 1;
        self.orders.clear();
        plan
    }

    /// The steps that go out until the round that just began is told.
    fn order(&mut self, failed_stores: &[u64], plan: Plan, term_of: &dyn Fn(u64) -> u64) {
        let orders = &mut self.orders;
        for step in plan.force {
            let mut order = step.order;
            order.term = order.term.max(term_of(order.region_id));
            let steps = &mut orders.entry(step.store_id).or_default().force;
            push_bounded(steps, order);
        }
        for step in plan.remove {
            push_bounded(&mut orders.entry(step.store_id).or_default().remove, step.order);
        }
        for region in plan.create {
            let Some(peer) = region.peers.first() else { continue };
            push_bounded(&mut orders.entry(peer.store_id).or_default().create, region);
        }
        for order in orders.values_mut() {
            order.failed_stores = failed_stores.to_vec();
        }
    }
}

/// What does not fit comes with a later round.
fn push_bounded<T>(steps: &mut Vec<T>, step: T) {
    if steps.len() < STEPS_PER_ANSWER_MAX {
        steps.push(step);
    }
}

/// Stores that are expected to report.
fn living(state: &State) -> Vec<u64> {
    let stores = state.stores.values();
    stores.filter(|one| one.state() != StoreState::Tombstone).map(|one| one.id).collect()
}

/// What a plan adds to the durable part: `None` if nothing.
fn step_of(recovery: &Recovery, stage: RecoveryStage, plan: &Plan) -> Option<Recovery> {
    let known = recovery.forced_ids();
    let forced = plan.force.iter().filter(|step| !known.contains(&step.region.id));
    let removed_before = |step: &plan::Remove| {
        let same = |one: &RemovedPeer| {
            one.store_id == step.store_id
                && one.region.as_ref().is_some_and(|region| region.id == step.region.id)
        };
        recovery.removed.iter().any(same)
    };
    let step = Recovery {
        id: recovery.id,
        stage: stage.into(),
        forced: forced
            .map(|step| ForcedRegion { region: Some(step.region.clone()), store_id: step.store_id })
            .collect(),
        removed: plan
            .remove
            .iter()
            .filter(|step| !removed_before(step))
            .map(|step| RemovedPeer { store_id: step.store_id, region: Some(step.region.clone()) })
            .collect(),
        ..Recovery::default()
    };
    let is_news = stage != recovery.stage() || !step.forced.is_empty() || !step.removed.is_empty();
    is_news.then_some(step)
}

/// What became of a look at the reports.
enum Outcome {
    /// Some stores have not told everything yet.
    Waits {
        silent: Vec<u64>,
        waits: Vec<(u64, &'static str)>,
        still_ms: u64,
    },
    Planned(Plan),
}

impl PdServer {
    /// Whether a recovery is under way.
    pub(crate) fn is_recovering(&self) -> bool {
        self.shared().state().read().running_recovery().is_some()
    }

    /// Begins a recovery without these stores, which somebody has checked.
    pub(crate) async fn begin_recovery(&self, failed_stores: Vec<u64>) -> Result<(), PdError> {
        let recovery = Recovery {
            id: self.alloc_ids(1).await?,
            failed_stores,
            began_unix_ms: self.clock.unix_ms(),
            ..Recovery::default()
        };
        self.replication.propose(Kind::BeginRecovery(recovery)).await?;
        let now = self.now();
        let mut cluster = self.cluster.lock();
        cluster.settings_changed();
        let running: Vec<u64> = cluster.operators().map(|one| one.operator.region_id).collect();
        for region_id in running {
            cluster.cancel(region_id, now);
        }
        Ok(())
    }

    /// What a store is to do and to tell, as part of the answer to its heartbeat.
    pub(crate) fn recovery_orders(&self, state: &State, store_id: u64) -> Option<RecoveryOrders> {
        let recovery = state.running_recovery()?;
        let mut run = self.recovery.lock();
        let run = self.run_of(&mut run, recovery);
        let mut orders = run.orders.get(&store_id).cloned().unwrap_or_default();
        let is_told = run.reports.get(&store_id).is_some_and(|report| report.is_whole);
        orders.round = if is_told { 0 } else { run.round };
        Some(orders)
    }

    fn run_of<'a>(&self, run: &'a mut Option<Run>, recovery: &Recovery) -> &'a mut Run {
        if run.as_ref().is_none_or(|run| run.recovery_id != recovery.id) {
            *run = Some(Run::new(recovery.id, self.clock.monotonic_ms(), self.clock.unix_ms()));
        }
        run.as_mut().expect("made above")
    }

    /// A page of a store's report.
    pub fn report_peers(&self, page: ReportPeersRequest) -> Result<(), PdError> {
        let state = self.shared().state().read();
        match state.stores.get(&page.store_id).map(Store::state) {
            None => return Err(PdError::StoreNotFound(format!("store {}", page.store_id))),
            Some(StoreState::Tombstone) => {
                return Err(PdError::StoreTombstone(format!("store {}", page.store_id)));
            }
            Some(_) => {}
        }
        let mut run = self.recovery.lock();
        match run.as_mut().filter(|run| run.round == page.round) {
            Some(run) => run.take_page(page, self.clock.monotonic_ms()),
            // Of a round that is over: the store will be asked anew.
            None => Ok(()),
        }
    }

    /// Brings the recovery under way further, if there is one.
    pub(crate) async fn tend_recovery(&self) -> Result<(), PdError> {
        let now_ms = self.clock.monotonic_ms();
        let (recovery, outcome) = {
            let state = self.shared().state().read();
            let mut run = self.recovery.lock();
            let Some(recovery) = state.running_recovery().cloned() else {
                *run = None;
                return Ok(());
            };
            let run = self.run_of(&mut run, &recovery);
            let silent = run.silent(&living(&state));
            let outcome = match silent.is_empty() {
                true => Outcome::Planned(run.end_round(&recovery, now_ms)),
                false => Outcome::Waits {
                    silent,
                    waits: run.waits.clone(),
                    still_ms: now_ms.saturating_sub(run.moved_ms),
                },
            };
            (recovery, outcome)
        };
        match outcome {
            Outcome::Planned(plan) => self.carry_out(&recovery, plan).await,
            Outcome::Waits { silent, waits, still_ms } if still_ms >= STAGE_TIMEOUT_MS => {
                self.give_up(&recovery, &silent, &waits).await
            }
            Outcome::Waits { .. } => Ok(()),
        }
    }

    async fn carry_out(&self, recovery: &Recovery, mut plan: Plan) -> Result<(), PdError> {
        let (left, still_ms, waits) = {
            let run = self.recovery.lock();
            let Some(run) = run.as_ref() else { return Ok(()) };
            let still_ms = self.clock.monotonic_ms().saturating_sub(run.moved_ms);
            (run.left, still_ms, run.waits.clone())
        };
        if left > 0 && still_ms >= STAGE_TIMEOUT_MS {
            return self.give_up(recovery, &[], &waits).await;
        }
        let decides = plan.force.is_empty() && plan.remove.is_empty() && plan.waits.is_empty();
        let stage = match (left, decides) {
            (0, _) => RecoveryStage::Finished,
            (_, true) => RecoveryStage::Creating,
            (_, false) => RecoveryStage::Forcing,
        };
        plan.cut_to(STEPS_PER_ROUND_MAX);
        let created = self.regions_for(&plan.holes).await?;
        let mut step = step_of(recovery, stage, &plan);
        if !created.is_empty() {
            let step = step.get_or_insert_with(|| Recovery {
                id: recovery.id,
                stage: stage.into(),
                ..Recovery::default()
            });
            step.created = created.clone();
        }
        plan.create.extend(created);
        if let Some(mut step) = step {
            if stage == RecoveryStage::Finished {
                step.ended_unix_ms = self.clock.unix_ms();
                tracing::warn!(recovery = recovery.id, "recovery is finished");
            }
            self.replication.propose(Kind::ExtendRecovery(step)).await?;
        }
        let cluster = self.cluster.lock();
        let term_of = |region_id: u64| cluster.term_of(region_id);
        if let Some(run) = self.recovery.lock().as_mut() {
            run.order(&recovery.failed_stores, plan, &term_of);
        }
        Ok(())
    }

    /// Empty regions for ranges that are lost, newer than whatever was known there.
    async fn regions_for(&self, holes: &[Hole]) -> Result<Vec<Region>, PdError> {
        let mut regions = Vec::with_capacity(holes.len());
        for Hole { start_key, end_key, store_id } in holes {
            let first_id = self.alloc_ids(2).await?;
            let state = self.shared().state().read();
            let known = state.regions.overlapping(start_key, end_key);
            let version = known.filter_map(|region| Some(region.epoch?.version)).max().unwrap_or(0);
            regions.push(Region {
                id: first_id,
                start_key: start_key.clone(),
                end_key: end_key.clone(),
                epoch: Some(RegionEpoch { conf_ver: 1, version: version + 1 }),
                peers: vec![Peer { id: first_id + 1, store_id: *store_id, role: 0 }],
            });
        }
        Ok(regions)
    }

    async fn give_up(
        &self,
        recovery: &Recovery,
        silent: &[u64],
        waits: &[(u64, &'static str)],
    ) -> Result<(), PdError> {
        let reason = match (silent, waits) {
            ([], []) => "regions do not become what they should".to_owned(),
            ([], [(region_id, reason), ..]) => {
                format!("{} regions do not move; region {region_id}: {reason}", waits.len())
            }
            (stores, _) => {
                let ids: Vec<String> = stores.iter().map(u64::to_string).collect();
                format!(
                    "no report of store {}: bring it back, or name it among the failed ones",
                    ids.join(", ")
                )
            }
        };
        tracing::error!(recovery = recovery.id, reason, "recovery has failed");
        let step = Recovery {
            id: recovery.id,
            stage: RecoveryStage::Failed.into(),
            reason,
            ended_unix_ms: self.clock.unix_ms(),
            ..Recovery::default()
        };
        self.replication.propose(Kind::ExtendRecovery(step)).await
    }

    /// Stores whose reports a recovery still waits for; and regions it waits for.
    pub(crate) fn recovery_waits(&self, state: &State) -> (BTreeSet<u64>, Vec<String>) {
        let run = self.recovery.lock();
        let Some(run) = run.as_ref() else { return (BTreeSet::new(), Vec::new()) };
        let silent = run.silent(&living(state)).into_iter().collect();
        let told = |(region_id, reason): &(u64, &str)| format!("region {region_id}: {reason}");
        (silent, run.waits.iter().map(told).collect())
    }
}
