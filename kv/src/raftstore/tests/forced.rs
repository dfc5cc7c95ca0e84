//! Regions that lost most of their voters for good go on with those that are left.

use cairn_proto::meta::{self, PeerRole};
use cairn_proto::pd;

use super::cluster::{Cluster, region_of};
use crate::raftstore::apply::is_joint;
use crate::raftstore::command::{ConfChangeKind, PeerChange};
use crate::raftstore::epoch_of;
use crate::raftstore::store::{PdEvent, StoreMessage};

use ConfChangeKind::{AddLearner, AddVoter};

/// Longer than a store that is gone must have been silent.
const SILENCE_TICKS: usize = 60;
const THREE: &[(u64, u64)] = &[(11, 1), (12, 2), (13, 3)];

fn peer(store_id: u64) -> meta::Peer {
    meta::Peer { id: 10 + store_id, store_id, role: 0 }
}

/// Stores are destroyed, and enough time passes for everybody to notice.
fn lose(cluster: &mut Cluster, stores: &[u64]) {
    for store_id in stores {
        cluster.crash(*store_id);
    }
    cluster.run_ticks(SILENCE_TICKS);
}

fn orders(
    failed_stores: &[u64],
    region_id: u64,
    peer_id: u64,
    voters: &[u64],
) -> pd::RecoveryOrders {
    let force = pd::ForceLeader { region_id, peer_id, voters: voters.to_vec(), term: 0 };
    pd::RecoveryOrders {
        failed_stores: failed_stores.to_vec(),
        force: vec![force],
        ..pd::RecoveryOrders::default()
    }
}

/// PD orders that the peer leads its region with these votes.
fn force(cluster: &mut Cluster, store_id: u64, order: pd::RecoveryOrders) {
    cluster.tell(store_id, StoreMessage::Recover(order));
}

/// The region on the store is led there, by voters that live, with a greater epoch.
fn expect_forced(cluster: &mut Cluster, store_id: u64, region_id: u64, voters: &[u64]) {
    let before = epoch_of(&cluster.region(store_id, region_id));
    cluster.run_until("the region is led by what is left", |cluster| {
        let region = cluster.region(store_id, region_id);
        let mut ids: Vec<u64> = region
            .peers
            .iter()
            .filter(|peer| peer.role() == PeerRole::Voter)
            .map(|peer| peer.id)
            .collect();
        ids.sort_unstable();
        cluster.leader(region_id) == Some(store_id) && !is_joint(&region) && ids == voters
    });
    assert!(epoch_of(&cluster.region(store_id, region_id)).conf_ver >= before.conf_ver);
}

#[test]
fn one_of_three_goes_on_and_gets_new_replicas() {
    for survivor in 1..=3 {
        let region = region_of(1, THREE);
        let mut cluster = Cluster::new(4, &region);
        let leader = cluster.elect(1);
        cluster.put(leader, &region, "a", "1");
        cluster.run_ticks(5);
        let lost: Vec<u64> = (1..=3).filter(|id| *id != survivor).collect();
        lose(&mut cluster, &lost);
        assert_eq!(cluster.leader(1), None, "nobody leads without a majority");
        force(&mut cluster, survivor, orders(&lost, 1, 10 + survivor, &[10 + survivor]));
        expect_forced(&mut cluster, survivor, 1, &[10 + survivor]);
        let region = cluster.region(survivor, 1);
        assert_eq!(epoch_of(&region).conf_ver, 3, "two peers went");
        assert_eq!(cluster.stored(survivor, "a").as_deref(), Some("1"));
        cluster.put(survivor, &region, "b", "2");
        // An ordinary region: it takes new members.
        cluster.change_peer(survivor, 1, AddLearner, peer(4)).unwrap();
        cluster.run_ticks(10);
        cluster.change_peer(survivor, 1, AddVoter, peer(4)).unwrap();
        cluster.run_ticks(5);
        assert_eq!(cluster.stored(4, "b").as_deref(), Some("2"));
    }
}

#[test]
fn the_term_that_pd_has_seen_is_passed() {
    let region = region_of(1, THREE);
    let mut cluster = Cluster::new(3, &region);
    cluster.elect(1);
    lose(&mut cluster, &[2, 3]);
    let mut order = orders(&[2, 3], 1, 11, &[11]);
    order.force[0].term = 40;
    force(&mut cluster, 1, order);
    expect_forced(&mut cluster, 1, 1, &[11]);
    assert!(cluster.info(1, 1).unwrap().term > 40);
}

#[test]
fn a_region_that_has_its_majority_is_left_alone() {
    let region = region_of(1, THREE);
    let mut cluster = Cluster::new(3, &region);
    let leader = cluster.elect(1);
    lose(&mut cluster, &[leader]);
    let next = cluster.elect(1);
    let other = (1..=3).find(|id| *id != leader && *id != next).unwrap();
    let before = (cluster.region(next, 1), cluster.info(next, 1).unwrap().term);
    for store_id in [next, other] {
        force(&mut cluster, store_id, orders(&[leader], 1, 10 + store_id, &[10 + store_id]));
    }
    cluster.run_ticks(20);
    assert_eq!((cluster.region(next, 1), cluster.info(next, 1).unwrap().term), before);
    // Neither does an order about stores that are heard.
    let lost: Vec<u64> = (1..=3).filter(|id| *id != other).collect();
    force(&mut cluster, other, orders(&lost, 1, 10 + other, &[10 + other]));
    cluster.run_ticks(20);
    assert_eq!((cluster.region(next, 1), cluster.info(next, 1).unwrap().term), before);
}

#[test]
fn two_of_five_lose_nothing_that_one_of_them_has() {
    let region = region_of(1, &[(11, 1), (12, 2), (13, 3), (14, 4), (15, 5)]);
    let mut cluster = Cluster::new(5, &region);
    let leader = cluster.elect(1);
    let others: Vec<u64> = (1..=5).filter(|id| *id != leader).collect();
    // One of those that will be left misses the last writes.
    let (behind, ahead) = (others[0], others[1]);
    cluster.isolate(behind);
    cluster.put(leader, &region, "a", "1");
    cluster.run_ticks(3);
    let lost: Vec<u64> = (1..=5).filter(|id| *id != behind && *id != ahead).collect();
    lose(&mut cluster, &lost);
    cluster.heal();
    let voters = {
        let mut voters = [10 + behind, 10 + ahead];
        voters.sort_unstable();
        voters
    };
    // Whoever has less log never wins.
    force(&mut cluster, behind, orders(&lost, 1, 10 + behind, &voters));
    cluster.run_ticks(30);
    assert_eq!(cluster.leader(1), None);
    force(&mut cluster, ahead, orders(&lost, 1, 10 + ahead, &voters));
    expect_forced(&mut cluster, ahead, 1, &voters);
    cluster.run_ticks(10);
    for store_id in [behind, ahead] {
        assert_eq!(cluster.stored(store_id, "a").as_deref(), Some("1"), "store {store_id}");
        assert_eq!(cluster.region(store_id, 1).peers.len(), 2);
    }
    let region = cluster.region(ahead, 1);
    cluster.put(ahead, &region, "b", "2");
}

#[test]
fn a_crash_in_the_middle_leaves_an_order_that_can_be_repeated() {
    for rounds in 0..8 {
        let region = region_of(1, &[(11, 1), (12, 2), (13, 3), (14, 4), (15, 5)]);
        let mut cluster = Cluster::new(5, &region);
        let leader = cluster.elect(1);
        cluster.put(leader, &region, "a", "1");
        cluster.run_ticks(5);
        let left: Vec<u64> = (1..=5).filter(|id| *id != leader).take(2).collect();
        let lost: Vec<u64> = (1..=5).filter(|id| !left.contains(id)).collect();
        lose(&mut cluster, &lost);
        let voters = [10 + left[0], 10 + left[1]];
        let order = orders(&lost, 1, voters[0], &voters);
        force(&mut cluster, left[0], order.clone());
        for _ in 0..rounds {
            for store_id in &left {
                cluster.round(*store_id);
            }
        }
        for store_id in &left {
            cluster.crash(*store_id);
            cluster.start(*store_id);
        }
        cluster.run_ticks(30);
        let is_done = cluster.region(left[0], 1).peers.len() == 2;
        if is_done {
            cluster.elect(1);
        } else {
            assert_eq!(cluster.leader(1), None, "after {rounds} rounds");
            force(&mut cluster, left[0], order);
            expect_forced(&mut cluster, left[0], 1, &voters);
        }
        let leads = cluster.leader(1).unwrap();
        let region = cluster.region(leads, 1);
        cluster.put(leads, &region, "b", "2");
        cluster.run_ticks(5);
        for store_id in &left {
            assert_eq!(cluster.stored(*store_id, "a").as_deref(), Some("1"));
            assert_eq!(cluster.stored(*store_id, "b").as_deref(), Some("2"));
        }
    }
}

/// Four stores and a region of voters 1 to 3 in a joint state: one of them makes room for 4.
/// Answers the leader and who makes room.
fn joint() -> (Cluster, u64, u64) {
    let region = region_of(1, THREE);
    let mut cluster = Cluster::new(4, &region);
    let leader = cluster.elect(1);
    cluster.put(leader, &region, "a", "1");
    cluster.change_peer(leader, 1, AddLearner, peer(4)).unwrap();
    cluster.run_ticks(10);
    let demoted = (1..=3).find(|id| *id != leader).unwrap();
    let swap = vec![PeerChange::new(AddVoter, peer(4)), PeerChange::new(AddLearner, peer(demoted))];
    let mut answer = cluster.propose_changes(leader, 1, swap);
    cluster.settle();
    answer.try_recv().unwrap().unwrap();
    (cluster, leader, demoted)
}

#[test]
fn a_joint_state_ends_whoever_is_left() {
    for survivor in 1..=4 {
        let (mut cluster, _, _) = joint();
        assert!(is_joint(&cluster.region(survivor, 1)), "store {survivor}");
        let lost: Vec<u64> = (1..=4).filter(|id| *id != survivor).collect();
        lose(&mut cluster, &lost);
        assert!(is_joint(&cluster.region(survivor, 1)), "nobody can lead it out");
        force(&mut cluster, survivor, orders(&lost, 1, 10 + survivor, &[10 + survivor]));
        expect_forced(&mut cluster, survivor, 1, &[10 + survivor]);
        let region = cluster.region(survivor, 1);
        cluster.put(survivor, &region, "b", "2");
        assert_eq!(cluster.stored(survivor, "a").as_deref(), Some("1"));
    }
}

/// As a leader that is being demoted it would hand over, to one that cannot win.
#[test]
fn a_demoted_voter_ends_the_joint_state_with_its_successor() {
    let (mut cluster, leader, demoted) = joint();
    let lost: Vec<u64> = (1..=3).filter(|id| *id != demoted).collect();
    assert!(lost.contains(&leader));
    lose(&mut cluster, &lost);
    let mut voters = [10 + demoted, 14];
    voters.sort_unstable();
    force(&mut cluster, demoted, orders(&lost, 1, 10 + demoted, &voters));
    expect_forced(&mut cluster, demoted, 1, &voters);
    let region = cluster.region(demoted, 1);
    cluster.put(demoted, &region, "b", "2");
    assert_eq!(cluster.stored(4, "a").as_deref(), Some("1"));
}

#[test]
fn a_learner_that_is_all_that_is_left_votes() {
    let region = region_of(1, THREE);
    let mut cluster = Cluster::new(4, &region);
    let leader = cluster.elect(1);
    cluster.put(leader, &region, "a", "1");
    cluster.change_peer(leader, 1, AddLearner, peer(4)).unwrap();
    cluster.run_ticks(10);
    lose(&mut cluster, &[1, 2, 3]);
    force(&mut cluster, 4, orders(&[1, 2, 3], 1, 14, &[14]));
    expect_forced(&mut cluster, 4, 1, &[14]);
    let region = cluster.region(4, 1);
    cluster.put(4, &region, "b", "2");
    assert_eq!(cluster.stored(4, "a").as_deref(), Some("1"));
}

#[test]
fn what_was_in_the_leaders_log_alone_becomes_committed() {
    let region = region_of(1, THREE);
    let mut cluster = Cluster::new(3, &region);
    let leader = cluster.elect(1);
    cluster.put(leader, &region, "a", "1");
    cluster.put(leader, &region, "x", "1");
    cluster.run_ticks(5);
    let lost: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
    cluster.isolate(leader);
    let mut write = cluster.propose(leader, &region, "b", "2");
    cluster.split(leader, &region, "m", 2);
    assert!(write.try_recv().is_err(), "nobody else has it");
    lose(&mut cluster, &lost);
    force(&mut cluster, leader, orders(&lost, 1, 10 + leader, &[10 + leader]));
    expect_forced(&mut cluster, leader, 1, &[10 + leader]);
    assert_eq!(cluster.stored(leader, "b").as_deref(), Some("2"));
    // The split came to life with members that are gone: the new region needs the same.
    assert_eq!(cluster.region(leader, 2).peers.len(), 3);
    cluster.run_ticks(SILENCE_TICKS);
    assert_eq!(cluster.leader(2), None);
    force(&mut cluster, leader, orders(&lost, 2, 20 + leader, &[20 + leader]));
    expect_forced(&mut cluster, leader, 2, &[20 + leader]);
    let (left, right) = (cluster.region(leader, 2), cluster.region(leader, 1));
    cluster.put(leader, &left, "c", "3");
    cluster.put(leader, &right, "y", "3");
}

#[test]
fn a_merge_under_way_is_decided() {
    // The target is led elsewhere: the source is prepared, and cannot go further.
    let region = region_of(1, THREE);
    let mut cluster = Cluster::new(3, &region);
    let leader = cluster.elect(1);
    cluster.put(leader, &region, "a", "1");
    cluster.put(leader, &region, "x", "1");
    cluster.split(leader, &region, "m", 2);
    cluster.run_ticks(5);
    let (source, target) = (cluster.region(leader, 1), cluster.region(leader, 2));
    let others: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
    let survivor = others[0];
    let lost: Vec<u64> = (1..=3).filter(|id| *id != survivor).collect();
    let to = target.peers.iter().find(|peer| peer.store_id == others[1]).unwrap().id;
    cluster.tell(leader, StoreMessage::TransferLeader { region_id: 2, peer_id: to });
    cluster.run_until("moved", |cluster| cluster.leader(2) == Some(others[1]));
    // Whoever leads the target hears nothing of it.
    cluster.cut.insert((leader, others[1]));
    let step = pd::region_heartbeat_response::Step::Merge(pd::Merge { target: Some(target) });
    cluster.tell(
        leader,
        StoreMessage::PdStep(pd::RegionHeartbeatResponse {
            region_id: 1,
            epoch: source.epoch,
            step: Some(step),
            ..pd::RegionHeartbeatResponse::default()
        }),
    );
    cluster.run_until("prepared", |cluster| {
        epoch_of(&cluster.region(survivor, 1)).version > epoch_of(&source).version
    });
    cluster.heal();
    lose(&mut cluster, &lost);
    let voter = |region_id: u64| if region_id == 1 { 10 + survivor } else { 20 + survivor };
    for region_id in [1, 2] {
        let voter = voter(region_id);
        force(&mut cluster, survivor, orders(&lost, region_id, voter, &[voter]));
    }
    cluster.run_until("both can decide", |cluster| {
        [1, 2].into_iter().all(|region_id| {
            let info = cluster.info(survivor, region_id);
            info.is_none_or(|info| info.is_leader && info.region.unwrap().peers.len() == 1)
        })
    });
    cluster.run_ticks(10);
    let regions: Vec<meta::Region> =
        cluster.infos(survivor).into_iter().filter_map(|info| info.region).collect();
    for key in ["b", "y"] {
        let holds = |region: &&meta::Region| crate::keys::region_contains(region, key.as_bytes());
        let region = regions.iter().find(holds).unwrap().clone();
        cluster.put(survivor, &region, key, "2");
    }
    for key in ["a", "x"] {
        assert_eq!(cluster.stored(survivor, key).as_deref(), Some("1"), "{key}");
    }
}

#[test]
fn stores_that_were_only_away_are_told_that_they_are_out() {
    let region = region_of(1, THREE);
    let mut cluster = Cluster::new(3, &region);
    let leader = cluster.elect(1);
    cluster.put(leader, &region, "a", "1");
    cluster.run_ticks(5);
    let survivor = (1..=3).find(|id| *id != leader).unwrap();
    let lost: Vec<u64> = (1..=3).filter(|id| *id != survivor).collect();
    // They live and write on; only the rest of the world does not hear them.
    cluster.isolate(survivor);
    cluster.run_ticks(SILENCE_TICKS);
    force(&mut cluster, survivor, orders(&lost, 1, 10 + survivor, &[10 + survivor]));
    expect_forced(&mut cluster, survivor, 1, &[10 + survivor]);
    let region = cluster.region(survivor, 1);
    cluster.put(survivor, &region, "b", "2");
    cluster.heal();
    cluster.run_until("they have removed their peers", |cluster| {
        lost.iter().all(|store_id| cluster.info(*store_id, 1).is_none())
    });
    assert_eq!(cluster.leader(1), Some(survivor));
    assert_eq!(cluster.stored(survivor, "b").as_deref(), Some("2"));
}

#[test]
fn stale_peers_go_and_empty_regions_come() {
    let region = region_of(1, &[(11, 1)]);
    let mut cluster = Cluster::new(1, &region);
    cluster.elect(1);
    cluster.put(1, &region, "a", "1");
    cluster.run_ticks(2);
    let stale = |version: u64| pd::RemovePeer {
        region_id: 1,
        peer_id: 11,
        epoch: Some(meta::RegionEpoch { conf_ver: 1, version }),
    };
    let made = meta::Region {
        epoch: Some(meta::RegionEpoch { conf_ver: 1, version: 7 }),
        ..region_of(9, &[(91, 1)])
    };
    let order = |remove: pd::RemovePeer| {
        StoreMessage::Recover(pd::RecoveryOrders {
            round: 5,
            remove: vec![remove],
            create: vec![made.clone()],
            ..pd::RecoveryOrders::default()
        })
    };
    // It is another state of the region that PD saw; and nothing is made beside it.
    cluster.tell(1, order(stale(2)));
    cluster.run_ticks(2);
    assert_eq!(cluster.stored(1, "a").as_deref(), Some("1"));
    assert!(cluster.info(1, 9).is_none());
    cluster.tell(1, order(stale(1)));
    cluster.run_ticks(2);
    assert!(cluster.info(1, 1).is_none());
    assert_eq!(cluster.stored(1, "a"), None);
    cluster.tell(1, order(stale(1)));
    cluster.run_ticks(5);
    assert_eq!(cluster.leader(9), Some(1));
    cluster.put(1, &made, "a", "2");
    // What is reported is what is here.
    cluster.stores.get_mut(&1).unwrap().pd.clear();
    cluster.tell(1, order(stale(1)));
    cluster.run_ticks(1);
    let reports = cluster.stores[&1].pd.iter().filter_map(|event| match event {
        PdEvent::Peers { round: 5, peers } => Some(peers),
        _ => None,
    });
    let peers = reports.last().expect("a report");
    assert_eq!(peers.len(), 1);
    assert!(peers[0].is_leader && peers[0].has_data && peers[0].peer_id == 91);
    assert_eq!(peers[0].region.as_ref(), Some(&made));
    // It outlives a crash, and is not made twice.
    cluster.crash(1);
    cluster.start(1);
    cluster.elect(9);
    cluster.run_ticks(2);
    assert_eq!(cluster.stored(1, "a").as_deref(), Some("2"));
}
