//! What is to be done after stores were lost: reports of all living peers in, steps out.
//!
//! In this order; what comes later waits until nothing comes before it:
//!
//! | situation | step |
//! |---|---|
//! | the voters that are left cannot decide | the peer with the most log leads with their votes |
//! | a region was forced, and others hold its range at a newer version | its peers go |
//! | a peer has no data, and no other peer of its region has | it goes |
//! | a range is in no region | an empty region takes it |
//!
//! The plan is made anew from every round of reports until nothing is left to do; so a step
//! that was lost, or that led to new trouble (a split that was in a forced region's log),
//! needs no memory.
//!
//! **Why the most log and not the newest epoch.** Epochs tell what is applied, and a peer with
//! more log may just have applied less: its log holds whatever the other one applied. It
//! also refuses its vote to a peer with less. The newest epoch tells members and range. A
//! learner with more log than every voter leads as well: what it knows to be committed must
//! not be missing in its leader's log.
//!
//! **Why an overrun region is forced first.** The entry that makes it smaller may be in its
//! log, and the part that is left may be nowhere else.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use cairn_proto::meta::{Peer, PeerRole, Region, RegionEpoch};
use cairn_proto::pd::{ForceLeader, PeerReport, RemovePeer};

use crate::state::region_tree::RegionTree;

/// The peer can neither vote nor lead until that is done.
const INSTALLING: &str = "a raft snapshot is being installed";

/// What is known.
pub struct Situation<'a> {
    /// Stores that are gone.
    pub failed: &'a BTreeSet<u64>,
    /// All peers of every living store.
    pub reports: &'a BTreeMap<u64, Vec<PeerReport>>,
    /// Regions that were forced before.
    pub forced: &'a BTreeSet<u64>,
    /// Empty regions that were made before.
    pub created: &'a [Region],
    /// A voter that its living store did not report is waited for: a split that is still to be
    /// applied may be about to make it.
    pub is_patient: bool,
}

/// A region shall be led by this peer.
#[derive(Clone, Debug, PartialEq)]
pub struct Force {
    /// Where the peer is.
    pub store_id: u64,
    /// As the newest of its peers knows it.
    pub region: Region,
    /// The order for the store.
    pub order: ForceLeader,
}

/// A peer goes.
#[derive(Clone, Debug, PartialEq)]
pub struct Remove {
    /// Where it is.
    pub store_id: u64,
    /// As it knows it.
    pub region: Region,
    /// The order for the store.
    pub order: RemovePeer,
}

/// A range that is in no region.
#[derive(Clone, Debug, PartialEq)]
pub struct Hole {
    /// First key.
    pub start_key: Bytes,
    /// Behind the last key; empty: no end.
    pub end_key: Bytes,
    /// Where an empty region would lie.
    pub store_id: u64,
}

/// What is to be done now.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// Leaders.
    pub force: Vec<Force>,
    /// Peers that go.
    pub remove: Vec<Remove>,
    /// Regions that are waited for, and why.
    pub waits: Vec<(u64, &'static str)>,
    /// Ranges in no region.
    pub holes: Vec<Hole>,
    /// Empty regions that were ordered and are not there yet.
    pub create: Vec<Region>,
}

impl Plan {
    /// Leaves the rest of each kind of step to later rounds.
    pub fn cut_to(&mut self, steps_max: usize) {
        self.force.truncate(steps_max);
        self.remove.truncate(steps_max);
        self.create.truncate(steps_max);
        self.holes.truncate(steps_max);
    }

    /// Things left to do.
    pub fn left(&self) -> usize {
        self.force.len()
            + self.remove.len()
            + self.waits.len()
            + self.holes.len()
            + self.create.len()
    }
}

/// The peers of one region.
struct Group<'a> {
    peers: Vec<(u64, &'a PeerReport)>,
    /// The region at the newest epoch that a peer with data has.
    region: &'a Region,
    has_data: bool,
}

impl Group<'_> {
    fn has(&self, peer: &Peer) -> bool {
        self.peers.iter().any(|(_, report)| report.peer_id == peer.id)
    }
}

fn epoch(region: &Region) -> RegionEpoch {
    region.epoch.unwrap_or_default()
}

fn region_of(report: &PeerReport) -> Option<&Region> {
    report.region.as_ref().filter(|region| region.id != 0)
}

/// What is to be done.
pub fn plan(situation: &Situation<'_>) -> Plan {
    let groups = groups(situation.reports);
    let newest = newest(&groups);
    let mut plan = Plan::default();
    for (id, group) in &groups {
        if !group.has_data {
            if group.peers.iter().any(|(_, report)| report.is_installing) {
                plan.waits.push((*id, INSTALLING));
            }
        } else if !can_decide(group, |peer| group.has(peer)) {
            let may_come = |peer: &Peer| !situation.failed.contains(&peer.store_id);
            if situation.is_patient && can_decide(group, may_come) {
                plan.waits.push((*id, "a split is still to make its voters"));
                continue;
            }
            match force(group, situation) {
                Ok(step) => plan.force.push(step),
                Err(reason) => plan.waits.push((*id, reason)),
            }
        } else if newest.get(*id).is_none() && situation.forced.contains(id) {
            match is_settled(group) {
                true => plan.remove.extend(removals(group)),
                false => plan.waits.push((*id, "it applies its log")),
            }
        }
    }
    if plan.left() == 0 {
        fill(&mut plan, &groups, &newest, situation);
    }
    plan
}

fn groups(reports: &BTreeMap<u64, Vec<PeerReport>>) -> BTreeMap<u64, Group<'_>> {
    let mut groups: BTreeMap<u64, Group<'_>> = BTreeMap::new();
    for (store_id, report) in
        reports.iter().flat_map(|(store_id, peers)| peers.iter().map(move |peer| (*store_id, peer)))
    {
        let Some(region) = region_of(report) else { continue };
        let group = groups.entry(region.id).or_insert_with(|| Group {
            peers: Vec::new(),
            region,
            has_data: report.has_data,
        });
        let age = |region: &Region| (epoch(region).version, epoch(region).conf_ver);
        let is_newer = age(region) > age(group.region);
        if report.has_data && (!group.has_data || is_newer) {
            group.region = region;
            group.has_data = true;
        }
        group.peers.push((store_id, report));
    }
    groups
}

/// Regions as they cover the keys: of those that overlap, the newest version.
fn newest(groups: &BTreeMap<u64, Group<'_>>) -> RegionTree {
    let mut regions: Vec<&Region> =
        groups.values().filter(|group| group.has_data).map(|group| group.region).collect();
    regions.sort_by_key(|region| (epoch(region).version, region.id));
    let mut tree = RegionTree::default();
    for region in regions {
        tree.insert(region.clone());
    }
    tree
}

fn votes_before(peer: &Peer) -> bool {
    matches!(peer.role(), PeerRole::Voter | PeerRole::DemotingVoter)
}

fn votes_after(peer: &Peer) -> bool {
    matches!(peer.role(), PeerRole::Voter | PeerRole::IncomingVoter)
}

/// Whether the voters of whom this holds are a majority; in a joint state, both majorities.
fn can_decide(group: &Group<'_>, lives: impl Fn(&Peer) -> bool) -> bool {
    let is_majority = |votes: fn(&Peer) -> bool| {
        let voters = || group.region.peers.iter().filter(|peer| votes(peer));
        voters().filter(|peer| lives(peer)).count() > voters().count() / 2
    };
    is_majority(votes_before) && is_majority(votes_after)
}

/// Who shall lead; `Err`: what is waited for.
fn force(group: &Group<'_>, situation: &Situation<'_>) -> Result<Force, &'static str> {
    let member =
        |report: &PeerReport| {
            group.region.peers.iter().find(|peer| {
                peer.id == report.peer_id && !situation.failed.contains(&peer.store_id)
            })
        };
    let left = group.peers.iter().filter(|(_, report)| report.has_data);
    let left: Vec<(u64, &PeerReport, &Peer)> =
        left.filter_map(|(store_id, report)| Some((*store_id, *report, member(report)?))).collect();
    if left.iter().any(|(_, report, _)| report.is_installing) {
        return Err(INSTALLING);
    }
    let votes = |peer: &Peer| peer.role() != PeerRole::Learner;
    let best = left.iter().max_by_key(|(store_id, report, peer)| {
        let log = (report.last_term, report.last_index);
        (log, votes(peer), report.is_leader, Reverse(*store_id))
    });
    let Some((store_id, best, _)) = best else {
        return Err("its peers were removed from it at an epoch that is lost");
    };
    let voters = left.iter().filter(|(_, one, peer)| votes(peer) || one.peer_id == best.peer_id);
    let order = ForceLeader {
        region_id: group.region.id,
        peer_id: best.peer_id,
        voters: voters.map(|(_, report, _)| report.peer_id).collect(),
        term: group.peers.iter().map(|(_, report)| report.term).max().unwrap_or(0),
    };
    Ok(Force { store_id: *store_id, region: group.region.clone(), order })
}

/// Whether a forced region knows all that is in its log.
fn is_settled(group: &Group<'_>) -> bool {
    group.peers.iter().any(|(_, one)| one.is_leader && one.applied_index == one.last_index)
}

fn removals(group: &Group<'_>) -> Vec<Remove> {
    let remove = |(store_id, report): &(u64, &PeerReport)| {
        let region = region_of(report)?.clone();
        let order =
            RemovePeer { region_id: region.id, peer_id: report.peer_id, epoch: region.epoch };
        Some(Remove { store_id: *store_id, region, order })
    };
    group.peers.iter().filter_map(remove).collect()
}

/// What is done once every region that is left can decide.
fn fill(
    plan: &mut Plan,
    groups: &BTreeMap<u64, Group<'_>>,
    newest: &RegionTree,
    situation: &Situation<'_>,
) {
    for group in groups.values().filter(|group| !group.has_data) {
        plan.remove.extend(removals(group));
    }
    let is_there = |region: &&Region| groups.contains_key(&region.id);
    // One that was to be made on a store that is gone by now is made elsewhere.
    let can_be_made = |region: &&Region| {
        region.peers.iter().any(|peer| {
            situation.reports.contains_key(&peer.store_id)
                && !situation.failed.contains(&peer.store_id)
        })
    };
    let mut covered: Vec<&Region> = newest.iter().collect();
    let missing = situation.created.iter().filter(|region| !is_there(region));
    for region in missing.filter(can_be_made) {
        // It may have been merged away since.
        if newest.overlapping(&region.start_key, &region.end_key).next().is_none() {
            plan.create.push(region.clone());
            covered.push(region);
        }
    }
    covered.sort_by(|one, other| one.start_key.cmp(&other.start_key));
    let Some(store_id) = roomiest(situation.reports) else { return };
    for (start_key, end_key) in gaps(&covered) {
        let overrun = groups.values().find(|group| {
            group.has_data
                && newest.get(group.region.id).is_none()
                && overlaps(group.region, &start_key, &end_key)
        });
        match overrun {
            // It is about to take the range, or to go.
            Some(group) => plan.waits.push((group.region.id, "it lacks a split or a merge")),
            None => plan.holes.push(Hole { start_key, end_key, store_id }),
        }
    }
}

fn overlaps(region: &Region, start: &Bytes, end: &Bytes) -> bool {
    (region.end_key.is_empty() || *start < region.end_key)
        && (end.is_empty() || region.start_key < *end)
}

/// The store with the fewest peers.
fn roomiest(reports: &BTreeMap<u64, Vec<PeerReport>>) -> Option<u64> {
    reports.iter().min_by_key(|(store_id, peers)| (peers.len(), **store_id)).map(|(id, _)| *id)
}

/// Ranges between regions that are in key order and do not overlap.
fn gaps(covered: &[&Region]) -> Vec<(Bytes, Bytes)> {
    let mut gaps = Vec::new();
    let mut next = Some(Bytes::new());
    for region in covered {
        let Some(start) = next else { break };
        if start < region.start_key {
            gaps.push((start, region.start_key.clone()));
        }
        next = (!region.end_key.is_empty()).then(|| region.end_key.clone());
    }
    if let Some(start) = next {
        gaps.push((start, Bytes::new()));
    }
    gaps
}
