//! Merges: the happy way, given up, with peers that missed it, over restarts.

use cairn_proto::{meta, pd};

use super::cluster::{Cluster, context_of, region_of};
use crate::raftstore::command::{ConfChangeKind, PeerChange};
use crate::raftstore::peer::PendingReplicaRead;
use crate::raftstore::state::{self, PeerState};
use crate::raftstore::store::StoreMessage;
use crate::raftstore::{RegionContext, RegionError, RegionId, ReplicaRead, epoch_of};

const THREE: &[(u64, u64)] = &[(11, 1), (12, 2), (13, 3)];
/// Region on the left; and the one on the right, with the id of the first region.
const LEFT: u64 = 2;
const RIGHT: u64 = 1;

/// Two regions on three stores that meet at "m", each with some keys; both led by one
/// store.
fn two_regions() -> (Cluster, u64) {
    two_regions_with(|_| {})
}

fn two_regions_with(configure: impl FnOnce(&mut Cluster)) -> (Cluster, u64) {
    let region = region_of(RIGHT, THREE);
    let mut cluster = Cluster::new(3, &region);
    configure(&mut cluster);
    for store_id in 1..=3 {
        cluster.crash(store_id);
        cluster.start(store_id);
    }
    let leader = cluster.elect(RIGHT);
    cluster.run_ticks(2);
    for key in ["a", "b", "m", "x"] {
        cluster.put(leader, &region, key, "1");
    }
    cluster.split(leader, &region, "m", LEFT);
    cluster.run_ticks(3);
    assert_eq!(cluster.leader(LEFT), Some(leader));
    (cluster, leader)
}

/// PD asks the source's leader to merge it.
fn order_merge(cluster: &mut Cluster, source: u64, target: u64) {
    let leader = cluster.elect(source);
    let (source, target) = (cluster.region(leader, source), cluster.region(leader, target));
    let step = pd::region_heartbeat_response::Step::Merge(pd::Merge { target: Some(target) });
    cluster.tell(
        leader,
        StoreMessage::PdStep(pd::RegionHeartbeatResponse {
            region_id: source.id,
            epoch: source.epoch,
            step: Some(step),
            ..pd::RegionHeartbeatResponse::default()
        }),
    );
}

fn transfer(cluster: &mut Cluster, region_id: u64, to_store: u64) {
    let leader = cluster.elect(region_id);
    let region = cluster.region(leader, region_id);
    let peer_id = region.peers.iter().find(|peer| peer.store_id == to_store).unwrap().id;
    cluster.tell(leader, StoreMessage::TransferLeader { region_id, peer_id });
    cluster.run_until("the transfer", |cluster| cluster.leader(region_id) == Some(to_store));
    cluster.run_ticks(2);
}

fn is_whole(region: &meta::Region) -> bool {
    region.start_key.is_empty() && region.end_key.is_empty()
}

/// One region is left on all stores, with all keys; it takes writes on both sides.
fn expect_merged(cluster: &mut Cluster, source: u64, target: u64) {
    cluster.run_until("merged everywhere", |cluster| {
        (1..=3).all(|store_id| {
            cluster.info(store_id, source).is_none()
                && cluster
                    .info(store_id, target)
                    .is_some_and(|info| is_whole(info.region.as_ref().unwrap()))
        })
    });
    let leader = cluster.elect(target);
    let region = cluster.region(leader, target);
    cluster.put(leader, &region, "c", "2");
    cluster.put(leader, &region, "y", "2");
    cluster.run_ticks(5);
    for store_id in 1..=3 {
        for (key, value) in [("a", "1"), ("b", "1"), ("m", "1"), ("x", "1"), ("c", "2"), ("y", "2")]
        {
            let stored = cluster.stored(store_id, key);
            assert_eq!(stored.as_deref(), Some(value), "{key} on store {store_id}");
        }
        let view = cairn_engine::KvEngine::snapshot(&cluster.stores[&store_id].kv);
        let buried = state::load_region_state(view.as_ref(), source).unwrap().unwrap();
        assert_eq!(buried.state(), PeerState::Tombstone);
        assert_eq!(buried.merged_into.unwrap().target_id(), target);
    }
}

#[test]
fn a_region_is_absorbed_from_either_side() {
    for (source, target) in [(RIGHT, LEFT), (LEFT, RIGHT)] {
        let (mut cluster, leader) = two_regions();
        let before = cluster.region(leader, source);
        let target_before = cluster.region(leader, target);
        order_merge(&mut cluster, source, target);
        cluster.settle();
        let after = cluster.region(leader, target);
        assert!(is_whole(&after), "it needs no tick");
        assert!(epoch_of(&after).version > epoch_of(&before).version);
        assert!(epoch_of(&after).version > epoch_of(&target_before).version);
        // Old contexts are refused, and say what to do.
        let mut late = cluster.propose(leader, &before, "x", "late");
        let mut late_target = cluster.propose(leader, &target_before, "a", "late");
        cluster.settle();
        assert!(matches!(late.try_recv().unwrap(), Err(RegionError::RegionNotFound(_))));
        assert!(matches!(late_target.try_recv().unwrap(), Err(RegionError::EpochNotMatch { .. })));
        expect_merged(&mut cluster, source, target);
        for store_id in 1..=3 {
            cluster.crash(store_id);
            cluster.start(store_id);
        }
        expect_merged(&mut cluster, source, target);
    }
}

#[test]
fn leaders_on_different_stores() {
    let (mut cluster, leader) = two_regions();
    let other = (1..=3).find(|id| *id != leader).unwrap();
    transfer(&mut cluster, LEFT, other);
    order_merge(&mut cluster, RIGHT, LEFT);
    expect_merged(&mut cluster, RIGHT, LEFT);
    assert_eq!(cluster.leader(LEFT), Some(other));
}

#[test]
fn the_source_serves_nothing_while_it_merges() {
    let (mut cluster, leader) = two_regions();
    let other = (1..=3).find(|id| *id != leader).unwrap();
    transfer(&mut cluster, LEFT, other);
    let source = cluster.region(leader, RIGHT);
    // Keep the merge from being completed: the target's leader does not apply.
    cluster.stores.get_mut(&other).unwrap().apply_paused = true;
    assert!(cluster.local_view(leader, &source).unwrap().is_some());
    order_merge(&mut cluster, RIGHT, LEFT);
    cluster.round(leader);
    assert!(!matches!(cluster.local_view(leader, &source), Ok(Some(_))), "proposed is enough");
    cluster.run_ticks(2);
    let merging = cluster.region(leader, RIGHT);
    assert!(epoch_of(&merging).version > epoch_of(&source).version);
    assert!(!matches!(cluster.local_view(leader, &merging), Ok(Some(_))));
    let mut read = cluster.read_index(leader, &merging);
    let mut write = cluster.propose(leader, &merging, "x", "2");
    cluster.run_ticks(1);
    assert!(matches!(read.try_recv(), Ok(Err(RegionError::MergeInProgress(_)))));
    assert_eq!(write.try_recv().unwrap(), Err(RegionError::MergeInProgress(RegionId(RIGHT))));
    // Nor does a follower, whatever epoch its reader has heard of.
    let (answer, mut answered) = tokio::sync::oneshot::channel();
    let context = RegionContext { replica_read: true, ..context_of(&merging) };
    let read = PendingReplicaRead { context, read: ReplicaRead::default(), answer };
    let follower = (1..=3).find(|id| ![leader, other].contains(id)).unwrap();
    cluster.tell(follower, StoreMessage::ReplicaRead(read));
    cluster.run_ticks(2);
    assert!(matches!(answered.try_recv(), Ok(Err(_))), "the source serves nothing");
    cluster.stores.get_mut(&other).unwrap().apply_paused = false;
    expect_merged(&mut cluster, RIGHT, LEFT);
}

#[test]
fn a_target_that_changed_first_makes_the_source_serve_again() {
    let (mut cluster, leader) = two_regions();
    let other = (1..=3).find(|id| *id != leader).unwrap();
    transfer(&mut cluster, LEFT, other);
    // The target's leader does not hear of the merge before it is split.
    cluster.stores.get_mut(&other).unwrap().apply_paused = true;
    order_merge(&mut cluster, RIGHT, LEFT);
    cluster.run_ticks(1);
    let target = cluster.region(other, LEFT);
    cluster.split(other, &target, "f", 3);
    cluster.stores.get_mut(&other).unwrap().apply_paused = false;
    cluster.run_until("rolled back", |cluster| {
        (1..=3).all(|store_id| {
            let epoch = epoch_of(&cluster.region(store_id, RIGHT));
            epoch.version == 4 && epoch.conf_ver == 2
        })
    });
    let leader = cluster.elect(RIGHT);
    let source = cluster.region(leader, RIGHT);
    cluster.put(leader, &source, "z", "2");
    // The next attempt has a new epoch to hold on to.
    order_merge(&mut cluster, RIGHT, LEFT);
    cluster.run_until("merged into the neighbour", |cluster| {
        (1..=3).all(|store_id| {
            cluster.info(store_id, RIGHT).is_none()
                && cluster.region(store_id, LEFT).end_key.is_empty()
        })
    });
    for store_id in 1..=3 {
        assert_eq!(cluster.stored(store_id, "z").as_deref(), Some("2"));
    }
}

#[test]
fn a_membership_change_of_the_target_comes_first() {
    let (mut cluster, leader) = two_regions();
    let target = cluster.region(leader, LEFT);
    let gone = target.peers.iter().find(|peer| peer.store_id != leader).copied().unwrap();
    // Both are proposed in one round; the membership change is first in the target's log.
    let change = vec![PeerChange::new(ConfChangeKind::Remove, gone)];
    drop(cluster.propose_changes(leader, LEFT, change));
    order_merge_now(&mut cluster, leader);
    cluster.run_until("rolled back", |cluster| {
        let leader = cluster.leader(RIGHT);
        leader.is_some_and(|leader| epoch_of(&cluster.region(leader, RIGHT)).version == 4)
    });
    cluster.run_ticks(5);
    assert!(cluster.info(gone.store_id, LEFT).is_none());
    assert!(cluster.info(gone.store_id, RIGHT).is_some());
    let leader = cluster.elect(RIGHT);
    let source = cluster.region(leader, RIGHT);
    cluster.put(leader, &source, "z", "2");
}

fn order_merge_now(cluster: &mut Cluster, leader: u64) {
    let (source, target) = (cluster.region(leader, RIGHT), cluster.region(leader, LEFT));
    let step = pd::region_heartbeat_response::Step::Merge(pd::Merge { target: Some(target) });
    let response = pd::RegionHeartbeatResponse {
        region_id: RIGHT,
        epoch: source.epoch,
        step: Some(step),
        ..pd::RegionHeartbeatResponse::default()
    };
    cluster.tell(leader, StoreMessage::PdStep(response));
}

#[test]
fn an_isolated_peer_catches_up_from_what_the_merge_carries() {
    let (mut cluster, leader) = two_regions();
    let away = (1..=3).find(|id| *id != leader).unwrap();
    let source = cluster.region(leader, RIGHT);
    cluster.isolate(away);
    for number in 0..20 {
        cluster.put(leader, &source, &format!("x{number:02}"), "1");
    }
    order_merge(&mut cluster, RIGHT, LEFT);
    cluster.run_until("merged without it", |cluster| cluster.info(leader, RIGHT).is_none());
    assert!(cluster.info(away, RIGHT).is_some());
    cluster.heal();
    expect_merged(&mut cluster, RIGHT, LEFT);
    for number in 0..20 {
        assert_eq!(cluster.stored(away, &format!("x{number:02}")).as_deref(), Some("1"));
    }
}

#[test]
fn an_isolated_peer_jumps_over_the_merge_by_a_snapshot() {
    for (source, target) in [(RIGHT, LEFT), (LEFT, RIGHT)] {
        for splits_again in [false, true] {
            let (mut cluster, leader) = two_regions_with(|cluster| {
                cluster.config.log_entries_max = 10;
                cluster.config.log_entries_force_max = 20;
            });
            let away = (1..=3).find(|id| *id != leader).unwrap();
            cluster.isolate(away);
            order_merge(&mut cluster, source, target);
            cluster
                .run_until("merged without it", |cluster| cluster.info(leader, source).is_none());
            let leader = cluster.elect(target);
            if splits_again {
                // The range goes to a third region, which the store does not know either.
                let region = cluster.region(leader, target);
                cluster.split(leader, &region, "m", 3);
            }
            for number in 0..60 {
                let region = cluster.region(leader, if splits_again { 3 } else { target });
                cluster.put(leader, &region, &format!("c{number:02}"), "1");
                if splits_again {
                    let region = cluster.region(leader, target);
                    cluster.put(leader, &region, &format!("p{number:02}"), "1");
                }
                if number % 10 == 0 {
                    cluster.run_ticks(10);
                }
            }
            cluster.run_ticks(30);
            cluster.heal();
            cluster.run_until("the dead region is gone", |cluster| {
                cluster.info(away, source).is_none() && cluster.stored(away, "c59").is_some()
            });
            if splits_again {
                cluster.run_until("the third region is there", |cluster| {
                    cluster.stored(away, "p59").is_some()
                });
            }
            cluster.crash(away);
            cluster.start(away);
            cluster.run_ticks(30);
            assert!(cluster.info(away, source).is_none());
            for key in ["a", "b", "m", "x", "c00", "c59"] {
                let held = cluster.stored(leader, key);
                assert_eq!(cluster.stored(away, key), held, "{key}");
            }
        }
    }
}

#[test]
fn every_moment_of_a_merge_survives_a_crash() {
    for rounds in 0..16 {
        for crashed in [vec![1, 2, 3], vec![1], vec![2, 3]] {
            let (mut cluster, _) = two_regions();
            order_merge(&mut cluster, RIGHT, LEFT);
            for _ in 0..rounds {
                for store_id in 1..=3 {
                    cluster.round(store_id);
                }
            }
            for store_id in &crashed {
                cluster.crash(*store_id);
            }
            if crashed.len() < 3 {
                cluster.run_ticks(3);
            }
            for store_id in &crashed {
                cluster.start(*store_id);
            }
            cluster.elect(LEFT);
            cluster.run_ticks(30);
            if (1..=3).all(|store_id| cluster.info(store_id, RIGHT).is_some()) {
                // It was lost before it was committed.
                order_merge(&mut cluster, RIGHT, LEFT);
            }
            expect_merged(&mut cluster, RIGHT, LEFT);
        }
    }
}

#[test]
fn a_source_behind_a_snapshot_holds_only_its_target() {
    // The source's peer on one store is being installed while the merge is applied there.
    let (mut cluster, leader) = two_regions_with(|cluster| {
        cluster.config.log_entries_max = 10;
        cluster.config.log_entries_force_max = 20;
    });
    let slow = (1..=3).find(|id| *id != leader).unwrap();
    cluster.isolate(slow);
    let source = cluster.region(leader, RIGHT);
    for number in 0..60 {
        cluster.put(leader, &source, &format!("x{number:02}"), "1");
        if number % 10 == 0 {
            cluster.run_ticks(10);
        }
    }
    cluster.run_ticks(30);
    // A peer that needs a snapshot is waited for.
    order_merge(&mut cluster, RIGHT, LEFT);
    cluster.run_ticks(3);
    assert_eq!(epoch_of(&cluster.region(leader, RIGHT)), epoch_of(&source), "not prepared");
    cluster.heal();
    cluster.run_ticks(20);
    order_merge(&mut cluster, RIGHT, LEFT);
    expect_merged(&mut cluster, RIGHT, LEFT);
}

#[test]
fn a_learner_removed_while_away_learns_of_it() {
    let (mut cluster, leader) = two_regions();
    let away = (1..=3).find(|id| *id != leader).unwrap();
    let peer = cluster.region(leader, LEFT).peers.iter().find(|p| p.store_id == away).copied();
    let peer = peer.unwrap();
    cluster.change_peer(leader, LEFT, ConfChangeKind::AddLearner, peer).unwrap();
    cluster.run_ticks(5);
    cluster.isolate(away);
    cluster.change_peer(leader, LEFT, ConfChangeKind::Remove, peer).unwrap();
    cluster.run_ticks(5);
    cluster.heal();
    // It would never stand for election: it asks.
    for _ in 0..800 {
        if cluster.info(away, LEFT).is_none() {
            break;
        }
        cluster.run_ticks(1);
    }
    assert!(cluster.info(away, LEFT).is_none());
    assert!(cluster.info(away, RIGHT).is_some());
}

#[test]
fn only_neighbours_on_the_same_stores_merge() {
    let (mut cluster, leader) = two_regions();
    let right = cluster.region(leader, RIGHT);
    cluster.split(leader, &right, "t", 3);
    cluster.run_ticks(3);
    order_merge(&mut cluster, LEFT, RIGHT);
    cluster.run_ticks(3);
    assert_eq!(epoch_of(&cluster.region(leader, LEFT)).version, 2, "no neighbours");
    let gone = cluster.region(leader, 3).peers.iter().find(|p| p.store_id != leader).copied();
    cluster.change_peer(leader, 3, ConfChangeKind::Remove, gone.unwrap()).unwrap();
    cluster.run_ticks(3);
    order_merge(&mut cluster, 3, RIGHT);
    cluster.run_ticks(3);
    assert!(cluster.info(leader, 3).is_some(), "other stores");
}
