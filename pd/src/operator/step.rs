//! One step of an operator: how it stands, and how a leader is told to take it.

use std::fmt;

use bytes::Bytes;
use cairn_proto::meta::{Peer, PeerRole, Region};
use cairn_proto::pd::region_heartbeat_response::Step;
use cairn_proto::pd::{
    ChangePeer, ChangePeerKind, ChangePeerV2, Merge, RegionHeartbeatResponse, SplitRegion,
    TransferLeader,
};

use crate::placement::to_hex;
use crate::view::RegionView;

/// A peer by its place. An id of zero is filled in when the operator is admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct At {
    /// Its store.
    pub store_id: u64,
    /// The peer.
    pub peer_id: u64,
}

impl At {
    /// The peer's place.
    pub fn of(peer: &Peer) -> At {
        At { store_id: peer.store_id, peer_id: peer.id }
    }

    /// A peer that does not exist yet.
    pub fn new_on(store_id: u64) -> At {
        At { store_id, peer_id: 0 }
    }

    fn peer(self, role: PeerRole) -> Peer {
        Peer { id: self.peer_id, store_id: self.store_id, role: role.into() }
    }
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpStep {
    /// A replica that does not vote yet.
    AddLearner(At),
    /// The learner votes from now on; waits until it has caught up.
    Promote(At),
    /// The voter stops voting and stays as a learner.
    Demote(At),
    /// A replica goes.
    Remove(At),
    /// Several replicas change their votes in one membership change of two
    /// configurations (Raft dissertation, section 4.3); waits until those that are to
    /// vote have caught up. With empty lists: the half-done change is finished.
    Exchange {
        /// Learners that vote from now on.
        promoted: Vec<At>,
        /// Voters that become learners.
        demoted: Vec<At>,
    },
    /// Another voter leads.
    TransferLeader {
        /// Its store.
        store_id: u64,
    },
    /// The region is cut at keys, or where its store finds it best.
    Split {
        /// In order; may be empty.
        keys: Vec<Bytes>,
        /// The version of the region before.
        version: u64,
    },
    /// The region is absorbed by a neighbour whose peers lie on the same stores.
    MergeInto {
        /// The neighbour.
        target_id: u64,
    },
    /// The region waits to absorb a neighbour.
    Absorb {
        /// The neighbour.
        source_id: u64,
        /// The version of the region before.
        version: u64,
    },
}

fn stores(peers: &[At]) -> String {
    peers.iter().map(|at| at.store_id.to_string()).collect::<Vec<_>>().join(", ")
}

impl fmt::Display for OpStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpStep::AddLearner(at) => write!(f, "add learner on store {}", at.store_id),
            OpStep::Promote(at) => write!(f, "promote learner on store {}", at.store_id),
            OpStep::Demote(at) => write!(f, "demote voter on store {}", at.store_id),
            OpStep::Remove(at) => write!(f, "remove peer on store {}", at.store_id),
            OpStep::Exchange { promoted, demoted } if promoted.is_empty() && demoted.is_empty() => {
                f.write_str("leave joint state")
            }
            OpStep::Exchange { promoted, demoted } => {
                write!(f, "promote [{}] and demote [{}] at once", stores(promoted), stores(demoted))
            }
            OpStep::TransferLeader { store_id } => {
                write!(f, "transfer leader to store {store_id}")
            }
            OpStep::Split { keys, .. } if keys.is_empty() => f.write_str("split where it is best"),
            OpStep::Split { keys, .. } => {
                let keys: Vec<String> = keys.iter().map(|key| to_hex(key)).collect();
                write!(f, "split at {}", keys.join(", "))
            }
            OpStep::MergeInto { target_id } => write!(f, "merge into region {target_id}"),
            OpStep::Absorb { source_id, .. } => write!(f, "absorb region {source_id}"),
        }
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
    Moot(&'static str),
}

fn version(region: &RegionView<'_>) -> u64 {
    region.region.epoch.unwrap_or_default().version
}

impl OpStep {
    /// How the step stands.
    pub fn progress(&self, region: &RegionView<'_>) -> Progress {
        match self {
            OpStep::AddLearner(at) => match region.peer_on(at.store_id) {
                Some(peer) if peer.id == at.peer_id => Progress::Done,
                Some(_) => Progress::Moot("another peer came to the store"),
                None if region.is_joint() => Progress::NotYet,
                None => Progress::Due,
            },
            OpStep::Promote(at) => match region.peer_on(at.store_id) {
                Some(peer) if peer.id != at.peer_id => {
                    Progress::Moot("another peer came to the store")
                }
                Some(peer) if peer.role() == PeerRole::Voter => Progress::Done,
                Some(_) if region.is_joint() => Progress::NotYet,
                Some(peer) if region.is_caught_up(peer) => Progress::Due,
                Some(_) => Progress::NotYet,
                None => Progress::Moot("the learner is gone"),
            },
            OpStep::Demote(at) => match region.peer_on(at.store_id) {
                Some(peer) if peer.role() == PeerRole::Learner => Progress::Done,
                Some(_) if region.is_joint() => Progress::NotYet,
                Some(_) if region.is_led_by(at.store_id) => {
                    Progress::Moot("the peer has become the leader")
                }
                Some(_) => Progress::Due,
                None => Progress::Moot("the voter is gone"),
            },
            OpStep::Remove(at) => match region.peer_on(at.store_id) {
                Some(peer) if peer.id == at.peer_id => {
                    // A leader cannot remove itself.
                    if region.is_led_by(at.store_id) {
                        Progress::Moot("the peer has become the leader")
                    } else if region.is_joint() {
                        Progress::NotYet
                    } else {
                        Progress::Due
                    }
                }
                _ => Progress::Done,
            },
            OpStep::Exchange { promoted, demoted } => exchange_progress(promoted, demoted, region),
            OpStep::TransferLeader { store_id } => {
                if region.is_led_by(*store_id) {
                    return Progress::Done;
                }
                match region.peer_on(*store_id) {
                    Some(peer) if peer.role() == PeerRole::Learner => {
                        Progress::Moot("the peer does not vote")
                    }
                    Some(peer) if region.is_caught_up(peer) => Progress::Due,
                    Some(_) => Progress::NotYet,
                    None => Progress::Moot("the peer is gone"),
                }
            }
            OpStep::Split { version: before, .. } => {
                if version(region) > *before {
                    Progress::Done
                } else {
                    Progress::Due
                }
            }
            OpStep::MergeInto { .. } => Progress::Due,
            // The merge ends this step along with the source; any other change undoes it.
            OpStep::Absorb { version: before, .. } if version(region) > *before => {
                Progress::Moot("the region has changed without its neighbour")
            }
            OpStep::Absorb { .. } => Progress::NotYet,
        }
    }

    /// The step as the region's leader is told; `None`: it is nothing to be told.
    /// `target` is the region a merge goes into.
    pub fn response(
        &self,
        region: &RegionView<'_>,
        leader: Peer,
        target: Option<&Region>,
    ) -> Option<RegionHeartbeatResponse> {
        let change =
            |kind: ChangePeerKind, peer: Peer| ChangePeer { kind: kind.into(), peer: Some(peer) };
        let step = match self {
            OpStep::AddLearner(at) => {
                Step::ChangePeer(change(ChangePeerKind::AddLearner, at.peer(PeerRole::Learner)))
            }
            OpStep::Promote(at) => {
                Step::ChangePeer(change(ChangePeerKind::AddVoter, at.peer(PeerRole::Voter)))
            }
            OpStep::Demote(at) => {
                Step::ChangePeer(change(ChangePeerKind::AddLearner, at.peer(PeerRole::Learner)))
            }
            OpStep::Remove(at) => {
                let known = region.peer_on(at.store_id)?;
                Step::ChangePeer(change(ChangePeerKind::Remove, *known))
            }
            OpStep::Exchange { promoted, demoted } => {
                let to_voter = promoted
                    .iter()
                    .map(|at| change(ChangePeerKind::AddVoter, at.peer(PeerRole::Voter)));
                let to_learner = demoted
                    .iter()
                    .map(|at| change(ChangePeerKind::AddLearner, at.peer(PeerRole::Learner)));
                // Half done: what is left is to leave the joint state.
                let changes = match region.is_joint() {
                    true => Vec::new(),
                    false => to_voter.chain(to_learner).collect(),
                };
                Step::ChangePeerV2(ChangePeerV2 { changes })
            }
            OpStep::TransferLeader { store_id } => {
                let peer = region.peer_on(*store_id).copied();
                Step::TransferLeader(TransferLeader { peer })
            }
            OpStep::Split { keys, .. } => Step::SplitRegion(SplitRegion { keys: keys.clone() }),
            OpStep::MergeInto { .. } => Step::Merge(Merge { target: Some(target?.clone()) }),
            OpStep::Absorb { .. } => return None,
        };
        Some(RegionHeartbeatResponse {
            header: None,
            region_id: region.id(),
            epoch: region.region.epoch,
            target_peer: Some(leader),
            step: Some(step),
        })
    }
}

fn exchange_progress(promoted: &[At], demoted: &[At], region: &RegionView<'_>) -> Progress {
    let role = |at: &At| region.peer_on(at.store_id).filter(|peer| peer.id == at.peer_id);
    if promoted.iter().chain(demoted).any(|at| role(at).is_none()) {
        return Progress::Moot("a peer is gone");
    }
    if region.is_joint() {
        return Progress::Due;
    }
    let votes = |at: &At| role(at).is_some_and(|peer| peer.role() == PeerRole::Voter);
    if promoted.iter().all(votes) && !demoted.iter().any(votes) {
        return Progress::Done;
    }
    if demoted.iter().any(|at| region.is_led_by(at.store_id)) {
        return Progress::Moot("a peer to be demoted has become the leader");
    }
    let ready = |at: &At| role(at).is_some_and(|peer| region.is_caught_up(peer));
    if promoted.iter().all(ready) { Progress::Due } else { Progress::NotYet }
}
