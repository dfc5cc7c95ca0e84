//! An operator: what shall be done to one region, step by step.
//!
//! A step is handed to the region's leader with every heartbeat until a heartbeat
//! shows that it is done. So a lost answer or a new leader costs nothing but time.

use std::fmt;

use cairn_proto::meta::{Peer, PeerRole, Region};
use cairn_proto::pd::region_heartbeat_response::Step;
use cairn_proto::pd::{ChangePeer, ChangePeerKind, RegionHeartbeatResponse, TransferLeader};

use crate::view::RegionView;

/// One step. A peer id of zero is filled in when the operator is admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpStep {
    /// A replica that does not vote yet.
    AddLearner {
        /// Where.
        store_id: u64,
        /// The new peer.
        peer_id: u64,
    },
    /// The learner votes from now on; waits until it has caught up.
    Promote {
        /// Where.
        store_id: u64,
        /// The learner.
        peer_id: u64,
    },
    /// A replica goes.
    Remove {
        /// Where.
        store_id: u64,
        /// The peer.
        peer_id: u64,
    },
    /// Another voter leads.
    TransferLeader {
        /// Its store.
        store_id: u64,
    },
}

impl fmt::Display for OpStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpStep::AddLearner { store_id, .. } => write!(f, "add learner on store {store_id}"),
            OpStep::Promote { store_id, .. } => write!(f, "promote learner on store {store_id}"),
            OpStep::Remove { store_id, .. } => write!(f, "remove peer on store {store_id}"),
            OpStep::TransferLeader { store_id } => {
                write!(f, "transfer leader to store {store_id}")
            }
        }
    }
}

/// Why an operator exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OperatorKind {
    /// The region has too few replicas.
    AddReplica,
    /// A replica sits on a store that is leaving.
    ReplaceReplica,
    /// The region has a replica too many.
    RemoveReplica,
    /// A learner was left behind.
    PromoteLearner,
    /// A store leads too many regions.
    BalanceLeader,
    /// A store holds too many regions.
    BalanceRegion,
}

impl OperatorKind {
    /// Name in tools and metrics.
    pub fn name(self) -> &'static str {
        match self {
            OperatorKind::AddReplica => "add-replica",
            OperatorKind::ReplaceReplica => "replace-replica",
            OperatorKind::RemoveReplica => "remove-replica",
            OperatorKind::PromoteLearner => "promote-learner",
            OperatorKind::BalanceLeader => "balance-leader",
            OperatorKind::BalanceRegion => "balance-region",
        }
    }

    /// Time after which it is given up. Adding a replica moves a whole region.
    pub fn timeout_ms(self) -> u64 {
        match self {
            OperatorKind::AddReplica
            | OperatorKind::ReplaceReplica
            | OperatorKind::BalanceRegion => 10 * 60_000,
            OperatorKind::RemoveReplica | OperatorKind::PromoteLearner => 60_000,
            OperatorKind::BalanceLeader => 20_000,
        }
    }
}

/// What shall be done to one region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operator {
    /// The region.
    pub region_id: u64,
    /// Why.
    pub kind: OperatorKind,
    /// In order.
    pub steps: Vec<OpStep>,
}

impl fmt::Display for Operator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "region {}: {}", self.region_id, self.kind.name())?;
        self.steps.iter().try_for_each(|step| write!(f, ", {step}"))
    }
}

/// How a step stands, seen from a heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It is done.
    Done,
    /// It is to be (or being) done.
    Due,
    /// Something else must happen first.
    NotYet,
    /// It has become impossible.
    Moot,
}

impl Operator {
    /// Number of peers it adds.
    pub fn added_peers(&self) -> usize {
        self.steps.iter().filter(|step| matches!(step, OpStep::AddLearner { .. })).count()
    }

    /// Gives the peers it adds their ids.
    pub fn fill_peer_ids(&mut self, mut next_id: u64) {
        let mut new_peer = 0;
        for step in &mut self.steps {
            match step {
                OpStep::AddLearner { peer_id, .. } if *peer_id == 0 => {
                    *peer_id = next_id;
                    new_peer = next_id;
                    next_id += 1;
                }
                OpStep::Promote { peer_id, .. } if *peer_id == 0 => *peer_id = new_peer,
                _ => {}
            }
        }
    }
}

impl OpStep {
    /// How the step stands.
    pub fn progress(&self, region: &RegionView<'_>) -> Progress {
        match *self {
            OpStep::AddLearner { store_id, peer_id } => match region.peer_on(store_id) {
                Some(peer) if peer.id == peer_id => Progress::Done,
                Some(_) => Progress::Moot,
                None => Progress::Due,
            },
            OpStep::Promote { store_id, peer_id } => match region.peer_on(store_id) {
                Some(peer) if peer.id != peer_id => Progress::Moot,
                Some(peer) if peer.role() != PeerRole::Learner => Progress::Done,
                Some(peer) if region.is_caught_up(peer) => Progress::Due,
                Some(_) => Progress::NotYet,
                None => Progress::Moot,
            },
            OpStep::Remove { store_id, peer_id } => match region.peer_on(store_id) {
                Some(peer) if peer.id == peer_id => {
                    // A leader cannot remove itself.
                    if region.is_led_by(store_id) { Progress::Moot } else { Progress::Due }
                }
                _ => Progress::Done,
            },
            OpStep::TransferLeader { store_id } => {
                if region.is_led_by(store_id) {
                    return Progress::Done;
                }
                match region.peer_on(store_id) {
                    Some(peer) if peer.role() == PeerRole::Learner => Progress::Moot,
                    Some(peer) if region.is_caught_up(peer) => Progress::Due,
                    Some(_) => Progress::NotYet,
                    None => Progress::Moot,
                }
            }
        }
    }

    /// The step as the region's leader is told.
    pub fn response(&self, region: &Region, leader: Peer) -> RegionHeartbeatResponse {
        let peer =
            |store_id: u64, id: u64, role: PeerRole| Some(Peer { id, store_id, role: role.into() });
        let change = |kind: ChangePeerKind, peer: Option<Peer>| {
            Step::ChangePeer(ChangePeer { kind: kind.into(), peer })
        };
        let step = match *self {
            OpStep::AddLearner { store_id, peer_id } => {
                change(ChangePeerKind::AddLearner, peer(store_id, peer_id, PeerRole::Learner))
            }
            OpStep::Promote { store_id, peer_id } => {
                change(ChangePeerKind::AddVoter, peer(store_id, peer_id, PeerRole::Voter))
            }
            OpStep::Remove { store_id, .. } => {
                let known = region.peers.iter().find(|peer| peer.store_id == store_id).copied();
                change(ChangePeerKind::Remove, known)
            }
            OpStep::TransferLeader { store_id } => {
                let known = region.peers.iter().find(|peer| peer.store_id == store_id).copied();
                Step::TransferLeader(TransferLeader { peer: known })
            }
        };
        RegionHeartbeatResponse {
            header: None,
            region_id: region.id,
            epoch: region.epoch,
            target_peer: Some(leader),
            step: Some(step),
        }
    }
}
