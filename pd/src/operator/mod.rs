//! An operator: what shall be done to one region, step by step.
//!
//! A step is handed to the region's leader with every heartbeat until a heartbeat
//! shows that it is done. So a lost answer or a new leader costs nothing but time.
//!
//! | module | what it holds |
//! |---|---|
//! | [`step`] | one step, its progress, its message |
//! | [`builder`] | from the peers a region has to those it shall have |
//! | [`limits`] | how fast stores take and give replicas |
//! | [`history`] | what was done, and why |

pub mod builder;
pub mod history;
pub mod limits;
pub mod step;

use std::collections::BTreeMap;
use std::fmt;

pub use step::{At, OpStep, Progress};

use crate::view::{Influence, RegionView};

/// Why an operator exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OperatorKind {
    /// The region has too few replicas.
    AddReplica,
    /// A replica sits on a store that is leaving.
    ReplaceReplica,
    /// The region has a replica too many.
    RemoveReplica,
    /// A learner was left behind.
    PromoteLearner,
    /// A replica has another role than its rule says.
    FixRole,
    /// Replicas could stand further apart.
    Isolate,
    /// A membership change was left half done.
    LeaveJoint,
    /// A region lies across a border of rules.
    SplitAtBorder,
    /// A hot region cannot be spread without cutting it.
    SplitHot,
    /// A small region goes into its neighbour.
    Merge,
    /// A store leads too many regions.
    BalanceLeader,
    /// A store holds too many regions.
    BalanceRegion,
    /// A store has too many hot regions.
    BalanceHot,
    /// Regions made at once are spread.
    Scatter,
    /// A store shall lead nothing.
    EvictLeader,
    /// A store shall lead everything it can.
    GrantLeader,
    /// Somebody asked for it.
    Admin,
}

/// Operators that share a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LimitGroup {
    /// `replica-schedule-limit`.
    Replica,
    /// `region-schedule-limit`.
    Region,
    /// `leader-schedule-limit`.
    Leader,
    /// `merge-schedule-limit`.
    Merge,
    /// `hot-region-schedule-limit`.
    Hot,
    /// None.
    Unlimited,
}

/// Which of two operators goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// Balance.
    Low,
    /// Rules, merges, hot regions.
    Medium,
    /// Repair.
    High,
    /// The next failure would stop the region.
    Urgent,
}

impl Priority {
    /// Name in tools.
    pub fn name(self) -> &'static str {
        match self {
            Priority::Low => "low",
            Priority::Medium => "medium",
            Priority::High => "high",
            Priority::Urgent => "urgent",
        }
    }
}

impl OperatorKind {
    /// Name in tools and metrics.
    pub fn name(self) -> &'static str {
        match self {
            OperatorKind::AddReplica => "add-replica",
            OperatorKind::ReplaceReplica => "replace-replica",
            OperatorKind::RemoveReplica => "remove-replica",
            OperatorKind::PromoteLearner => "promote-learner",
            OperatorKind::FixRole => "fix-role",
            OperatorKind::Isolate => "isolate",
            OperatorKind::LeaveJoint => "leave-joint",
            OperatorKind::SplitAtBorder => "split-at-border",
            OperatorKind::SplitHot => "split-hot",
            OperatorKind::Merge => "merge",
            OperatorKind::BalanceLeader => "balance-leader",
            OperatorKind::BalanceRegion => "balance-region",
            OperatorKind::BalanceHot => "balance-hot",
            OperatorKind::Scatter => "scatter",
            OperatorKind::EvictLeader => "evict-leader",
            OperatorKind::GrantLeader => "grant-leader",
            OperatorKind::Admin => "admin",
        }
    }

    /// Whose limit counts.
    pub fn limit_group(self) -> LimitGroup {
        match self {
            OperatorKind::AddReplica
            | OperatorKind::ReplaceReplica
            | OperatorKind::RemoveReplica
            | OperatorKind::PromoteLearner
            | OperatorKind::FixRole
            | OperatorKind::Isolate => LimitGroup::Replica,
            OperatorKind::BalanceRegion | OperatorKind::Scatter => LimitGroup::Region,
            OperatorKind::BalanceLeader | OperatorKind::GrantLeader => LimitGroup::Leader,
            OperatorKind::Merge => LimitGroup::Merge,
            OperatorKind::BalanceHot | OperatorKind::SplitHot => LimitGroup::Hot,
            // A store that shall lead nothing is sick or goes: no limit may keep it.
            OperatorKind::EvictLeader
            | OperatorKind::LeaveJoint
            | OperatorKind::SplitAtBorder
            | OperatorKind::Admin => LimitGroup::Unlimited,
        }
    }

    fn priority(self) -> Priority {
        match self {
            OperatorKind::AddReplica
            | OperatorKind::ReplaceReplica
            | OperatorKind::RemoveReplica
            | OperatorKind::PromoteLearner
            | OperatorKind::LeaveJoint
            | OperatorKind::EvictLeader
            | OperatorKind::Admin => Priority::High,
            OperatorKind::FixRole
            | OperatorKind::Isolate
            | OperatorKind::SplitAtBorder
            | OperatorKind::SplitHot
            | OperatorKind::Merge
            | OperatorKind::BalanceHot
            | OperatorKind::GrantLeader
            | OperatorKind::Scatter => Priority::Medium,
            OperatorKind::BalanceLeader | OperatorKind::BalanceRegion => Priority::Low,
        }
    }
}

/// Time for steps that move no data.
const QUICK_TIMEOUT_MS: u64 = 60_000;
/// Time for a transfer of leadership alone.
const TRANSFER_TIMEOUT_MS: u64 = 20_000;
/// Time for a merge: logs catch up on every store.
const MERGE_TIMEOUT_MS: u64 = 5 * 60_000;
/// Time for one new replica besides its copying.
const COPY_TIMEOUT_MS: u64 = 10 * 60_000;
/// A replica is copied at least so fast.
const COPY_BYTES_PER_MS: u64 = 2 << 10;

/// What shall be done to one region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operator {
    /// The region.
    pub region_id: u64,
    /// Why.
    pub kind: OperatorKind,
    /// In order.
    pub steps: Vec<OpStep>,
    /// Which of two goes first.
    pub priority: Priority,
    /// The reason in words, with the figures it rests on.
    pub reason: String,
    /// The other region of a merge: both begin and end together.
    pub partner_id: Option<u64>,
}

impl Operator {
    /// An operator of its kind's priority.
    pub fn new(region_id: u64, kind: OperatorKind, steps: Vec<OpStep>) -> Operator {
        let (priority, reason) = (kind.priority(), String::new());
        Operator { region_id, kind, steps, priority, reason, partner_id: None }
    }

    /// Says why.
    pub fn because(mut self, reason: impl Into<String>) -> Operator {
        self.reason = reason.into();
        self
    }

    /// Number of peers it adds.
    pub fn added_peers(&self) -> usize {
        self.steps.iter().filter(|step| matches!(step, OpStep::AddLearner(_))).count()
    }

    /// Gives the peers it adds their ids.
    pub fn fill_peer_ids(&mut self, mut next_id: u64) {
        let mut new: BTreeMap<u64, u64> = BTreeMap::new();
        for step in &mut self.steps {
            let (added, known): (Option<&mut At>, Vec<&mut At>) = match step {
                OpStep::AddLearner(at) => (Some(at), Vec::new()),
                OpStep::Promote(at) | OpStep::Demote(at) | OpStep::Remove(at) => (None, vec![at]),
                OpStep::Exchange { promoted, demoted } => {
                    (None, promoted.iter_mut().chain(demoted).collect())
                }
                _ => continue,
            };
            if let Some(at) = added.filter(|at| at.peer_id == 0) {
                at.peer_id = next_id;
                new.insert(at.store_id, next_id);
                next_id += 1;
            }
            for at in known.into_iter().filter(|at| at.peer_id == 0) {
                at.peer_id = new.get(&at.store_id).copied().unwrap_or_default();
            }
        }
    }

    /// Time after which it is given up.
    pub fn timeout_ms(&self, size_bytes: u64) -> u64 {
        let copy_ms = COPY_TIMEOUT_MS + size_bytes / COPY_BYTES_PER_MS;
        let step_ms = |step: &OpStep| match step {
            OpStep::AddLearner(_) => copy_ms,
            OpStep::MergeInto { .. } | OpStep::Absorb { .. } => MERGE_TIMEOUT_MS,
            OpStep::TransferLeader { .. } => TRANSFER_TIMEOUT_MS,
            _ => QUICK_TIMEOUT_MS,
        };
        // The partner of a merge waits for the peers to be moved, too.
        let waits = if self.partner_id.is_some() { copy_ms } else { 0 };
        waits + self.steps.iter().map(step_ms).sum::<u64>()
    }

    /// What it will change, by store, from the step `from` on.
    pub fn influence(&self, from: usize, region: &RegionView<'_>) -> BTreeMap<u64, Influence> {
        let mut changes: BTreeMap<u64, Influence> = BTreeMap::new();
        let bytes = region.weighed_bytes() as i64;
        let mut leads = region.report.leader.map(|leader| leader.store_id);
        // A learner is on its way until it votes.
        for (at, step) in self.steps.iter().enumerate().take(from) {
            if let OpStep::AddLearner(learner) = step
                && self.votes_behind(at, learner.store_id) >= from
            {
                changes.entry(learner.store_id).or_default().incoming += 1;
            }
        }
        for step in self.steps.iter().skip(from) {
            match step {
                OpStep::AddLearner(at) => {
                    let change = changes.entry(at.store_id).or_default();
                    change.regions += 1;
                    change.weighed_bytes += bytes;
                    change.incoming += 1;
                }
                OpStep::Remove(at) => {
                    let change = changes.entry(at.store_id).or_default();
                    change.regions -= 1;
                    change.weighed_bytes -= bytes;
                }
                OpStep::TransferLeader { store_id } if leads != Some(*store_id) => {
                    if let Some(from) = leads {
                        changes.entry(from).or_default().leaders -= 1;
                    }
                    changes.entry(*store_id).or_default().leaders += 1;
                    leads = Some(*store_id);
                }
                _ => {}
            }
        }
        changes
    }

    /// The step in which the learner added in step `at` becomes a voter.
    fn votes_behind(&self, at: usize, store_id: u64) -> usize {
        let votes = |step: &OpStep| match step {
            OpStep::Promote(voter) => voter.store_id == store_id,
            OpStep::Exchange { promoted, .. } => {
                promoted.iter().any(|one| one.store_id == store_id)
            }
            _ => false,
        };
        self.steps.iter().skip(at).position(votes).map_or(at, |behind| at + behind)
    }

    /// Stores that get and that lose a replica.
    pub fn moved(&self) -> (Vec<u64>, Vec<u64>) {
        let mut moved = (Vec::new(), Vec::new());
        for step in &self.steps {
            match step {
                OpStep::AddLearner(at) => moved.0.push(at.store_id),
                OpStep::Remove(at) => moved.1.push(at.store_id),
                _ => {}
            }
        }
        moved
    }
}

impl fmt::Display for Operator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "region {}: {}", self.region_id, self.kind.name())?;
        self.steps.iter().try_for_each(|step| write!(f, ", {step}"))
    }
}
