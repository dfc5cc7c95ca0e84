//! Several membership changes at once: through a joint state and out of it, whatever fails.

use cairn_proto::meta::{self, PeerRole};
use cairn_proto::pd;

use super::cluster::{Cluster, region_of};
use crate::raftstore::RegionError;
use crate::raftstore::apply::is_joint;
use crate::raftstore::command::{ConfChangeKind, PeerChange};
use crate::raftstore::epoch_of;
use crate::raftstore::store::StoreMessage;

use ConfChangeKind::{AddLearner, AddVoter, Remove};

fn peer(store_id: u64) -> meta::Peer {
    meta::Peer { id: 10 + store_id, store_id, role: 0 }
}

/// Three voters on stores 1-3 and a learner on store 4 that has caught up.
fn with_learner() -> (Cluster, u64) {
    let region = region_of(1, &[(11, 1), (12, 2), (13, 3)]);
    let mut cluster = Cluster::new(4, &region);
    let leader = cluster.elect(1);
    cluster.put(leader, &region, "a", "1");
    cluster.change_peer(leader, 1, AddLearner, peer(4)).unwrap();
    cluster.run_ticks(10);
    assert_eq!(cluster.stored(4, "a").as_deref(), Some("1"));
    (cluster, leader)
}

fn swap(added: u64, demoted: u64) -> Vec<PeerChange> {
    vec![PeerChange::new(AddVoter, peer(added)), PeerChange::new(AddLearner, peer(demoted))]
}

fn roles(region: &meta::Region) -> Vec<(u64, PeerRole)> {
    let mut roles: Vec<_> = region.peers.iter().map(|peer| (peer.store_id, peer.role())).collect();
    roles.sort_unstable();
    roles
}

/// Everybody has left the joint state, with the learner where `demoted` was.
fn expect_swapped(cluster: &mut Cluster, demoted: u64) {
    cluster.run_until("the joint state is left", |cluster| {
        let leader = cluster.leader(1);
        leader.is_some_and(|leader| {
            let region = cluster.region(leader, 1);
            !is_joint(&region) && epoch_of(&region).conf_ver == 6
        })
    });
    cluster.run_ticks(10);
    let expected: Vec<_> = (1..=4)
        .map(|id| (id, if id == demoted { PeerRole::Learner } else { PeerRole::Voter }))
        .collect();
    for store_id in 1..=4 {
        assert_eq!(roles(&cluster.region(store_id, 1)), expected, "store {store_id}");
    }
    let leader = cluster.elect(1);
    let region = cluster.region(leader, 1);
    cluster.put(leader, &region, "after", "1");
    cluster.run_ticks(5);
    for store_id in 1..=4 {
        assert_eq!(cluster.stored(store_id, "after").as_deref(), Some("1"));
    }
}

#[test]
fn a_voter_is_swapped_in_one_step() {
    let (mut cluster, leader) = with_learner();
    let demoted = (1..=3).find(|id| *id != leader).unwrap();
    let mut answer = cluster.propose_changes(leader, 1, swap(4, demoted));
    cluster.settle();
    let joint = answer.try_recv().unwrap().unwrap().remove(0);
    assert!(is_joint(&joint));
    assert_eq!(epoch_of(&joint).conf_ver, 4);
    expect_swapped(&mut cluster, demoted);
}

#[test]
fn a_leader_that_is_demoted_hands_over() {
    let (mut cluster, leader) = with_learner();
    let mut answer = cluster.propose_changes(leader, 1, swap(4, leader));
    cluster.settle();
    answer.try_recv().unwrap().unwrap();
    expect_swapped(&mut cluster, leader);
    assert_ne!(cluster.leader(1), Some(leader));
}

#[test]
fn a_joint_state_needs_both_majorities() {
    let (mut cluster, leader) = with_learner();
    let others: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
    let mut answer = cluster.propose_changes(leader, 1, swap(4, others[0]));
    cluster.settle();
    answer.try_recv().unwrap().unwrap();
    // The old majority is left without the leader's friends: (leader, others[1], 4) of the
    // new one is not enough when the old one lacks both others.
    cluster.isolate(others[0]);
    cluster.isolate(others[1]);
    let region = cluster.region(leader, 1);
    let mut write = cluster.propose(leader, &region, "b", "2");
    cluster.run_ticks(4);
    assert!(write.try_recv().is_err(), "leader and newcomer are no majority of the old voters");
    assert!(is_joint(&cluster.region(leader, 1)));
    cluster.heal();
    expect_swapped(&mut cluster, others[0]);
}

#[test]
fn the_joint_state_survives_crashes_at_any_moment() {
    // After so many rounds of the leader's store everything loses power.
    for rounds in 0..12 {
        for demotes_leader in [false, true] {
            let (mut cluster, leader) = with_learner();
            let other = (1..=3).find(|id| *id != leader).unwrap();
            let demoted = if demotes_leader { leader } else { other };
            drop(cluster.propose_changes(leader, 1, swap(4, demoted)));
            for round in 0..rounds {
                for store_id in 1..=4 {
                    cluster.round(store_id);
                }
                if round % 3 == 2 {
                    cluster.tick_stores();
                }
            }
            for store_id in 1..=4 {
                cluster.crash(store_id);
                cluster.start(store_id);
            }
            let next = cluster.elect(1);
            cluster.run_ticks(10);
            if epoch_of(&cluster.region(next, 1)).conf_ver == 2 {
                // It was lost before it was committed.
                let next = cluster.elect(1);
                drop(cluster.propose_changes(next, 1, swap(4, demoted)));
            }
            expect_swapped(&mut cluster, demoted);
        }
    }
}

#[test]
fn messages_lost_while_joint() {
    let (mut cluster, leader) = with_learner();
    cluster.loss_percent = 30;
    let other = (1..=3).find(|id| *id != leader).unwrap();
    drop(cluster.propose_changes(leader, 1, swap(4, other)));
    for _ in 0..60 {
        cluster.run_ticks(1);
    }
    cluster.heal();
    cluster.run_ticks(20);
    let leader = cluster.elect(1);
    if epoch_of(&cluster.region(leader, 1)).conf_ver == 2 {
        drop(cluster.propose_changes(leader, 1, swap(4, other)));
    }
    expect_swapped(&mut cluster, other);
}

#[test]
fn a_snapshot_carries_the_joint_state() {
    let (mut cluster, leader) = with_learner();
    let others: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
    // Cut off before anything, and the log is compacted behind its back.
    cluster.config.log_entries_max = 5;
    cluster.config.log_entries_force_max = 10;
    cluster.isolate(others[1]);
    cluster.crash(leader);
    cluster.start(leader);
    let leader = cluster.elect(1);
    let demoted = if leader == others[0] {
        (1..=3).find(|id| *id != leader && *id != others[1])
    } else {
        Some(others[0])
    };
    let demoted = demoted.unwrap();
    let mut answer = cluster.propose_changes(leader, 1, swap(4, demoted));
    cluster.settle();
    answer.try_recv().unwrap().unwrap();
    // Nobody leaves the joint state while the newcomer's acknowledgements are lost.
    cluster.cut.insert((4, leader));
    cluster.heal_store(others[1]);
    expect_after_heal(&mut cluster, demoted);
}

fn expect_after_heal(cluster: &mut Cluster, demoted: u64) {
    cluster.run_ticks(10);
    cluster.heal();
    expect_swapped(cluster, demoted);
}

#[test]
fn unsafe_changes_are_refused() {
    let (mut cluster, leader) = with_learner();
    let others: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
    let refused = |cluster: &mut Cluster, changes: Vec<PeerChange>| {
        let mut answer = cluster.propose_changes(leader, 1, changes);
        cluster.settle();
        matches!(answer.try_recv().unwrap(), Err(RegionError::ServerIsBusy { .. }))
    };
    assert!(refused(&mut cluster, vec![PeerChange::new(Remove, peer(leader))]));
    assert!(refused(&mut cluster, vec![PeerChange::new(AddLearner, peer(leader))]));
    // A learner that has nothing yet must not vote.
    cluster.isolate(4);
    cluster.run_ticks(120);
    assert!(refused(&mut cluster, vec![PeerChange::new(AddVoter, peer(4))]));
    cluster.heal();
    cluster.run_ticks(5);
    // One voter is gone: taking another one would leave no majority.
    cluster.isolate(others[0]);
    cluster.run_ticks(120);
    let leader_now = cluster.leader(1);
    assert_eq!(leader_now, Some(leader));
    assert!(refused(&mut cluster, vec![PeerChange::new(Remove, peer(others[1]))]));
    assert!(!refused(&mut cluster, vec![PeerChange::new(Remove, peer(others[0]))]));
}

#[test]
fn pd_orders_a_swap() {
    let (mut cluster, leader) = with_learner();
    let region = cluster.region(leader, 1);
    let change = |kind: pd::ChangePeerKind, store_id: u64| pd::ChangePeer {
        kind: kind.into(),
        peer: Some(peer(store_id)),
    };
    let changes = vec![
        change(pd::ChangePeerKind::AddVoter, 4),
        change(pd::ChangePeerKind::AddLearner, leader),
    ];
    let step = pd::region_heartbeat_response::Step::ChangePeerV2(pd::ChangePeerV2 { changes });
    cluster.tell(
        leader,
        StoreMessage::PdStep(pd::RegionHeartbeatResponse {
            region_id: 1,
            epoch: region.epoch,
            step: Some(step),
            ..pd::RegionHeartbeatResponse::default()
        }),
    );
    expect_swapped(&mut cluster, leader);
    // A learner that is removed leaves nothing behind.
    let next = cluster.elect(1);
    cluster.change_peer(next, 1, Remove, peer(leader)).unwrap();
    cluster.run_until("removed", |cluster| cluster.info(leader, 1).is_none());
    assert_eq!(cluster.stored(leader, "a"), None);
}
