//! Regions at rest: who wakes them, who takes over, and that no lease outlives its quorum.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use cairn_proto::meta;

use super::cluster::{Cluster, context_of, region_of};
use crate::raftstore::apply::Callback;
use crate::raftstore::clock::Clock;
use crate::raftstore::command::{ConfChangeKind, SplitPiece};
use crate::raftstore::store::{PdEvent, StoreMessage};

const THREE: &[(u64, u64)] = &[(11, 1), (12, 2), (13, 3)];
/// A leader that begins an election now is there after so many ticks at the latest.
const ELECTION_TICKS: usize = 15;

/// Three stores and one region at rest, with `a` = 1.
fn at_rest() -> (Cluster, meta::Region, u64) {
    let region = region_of(1, THREE);
    let mut cluster = Cluster::new(3, &region);
    let leader = cluster.elect(1);
    cluster.put(leader, &region, "a", "1");
    cluster.run_until("rest", |cluster| rests(cluster, 1));
    (cluster, region, leader)
}

/// Whether every peer of the region that runs stands still.
fn rests(cluster: &mut Cluster, region_id: u64) -> bool {
    let ids: Vec<u64> = cluster.stores.keys().copied().collect();
    ids.into_iter().filter_map(|id| cluster.info(id, region_id)).all(|info| info.is_resting)
}

fn others(store_id: u64) -> [u64; 2] {
    match store_id {
        1 => [2, 3],
        2 => [1, 3],
        _ => [1, 2],
    }
}

fn reads_locally(cluster: &mut Cluster, store_id: u64, region: &meta::Region) -> bool {
    matches!(cluster.local_view(store_id, region), Ok(Some(_)))
}

/// Splits region 1 into `count` regions, all led by `leader`, and lets them rest.
fn many_regions(cluster: &mut Cluster, leader: u64, count: u64) -> Vec<u64> {
    let mut region = cluster.region(leader, 1);
    for number in 1..count {
        let new_id = 1000 + number * 10;
        let piece = SplitPiece {
            end_key: Bytes::from(format!("k{number:04}")),
            region_id: new_id,
            peer_ids: region.peers.iter().map(|peer| new_id + peer.store_id).collect(),
        };
        let context = context_of(&region);
        let callback = Callback::None;
        let message = StoreMessage::Split { context, pieces: vec![piece], callback };
        cluster.tell(leader, message);
        cluster.settle();
        region = cluster.region(leader, 1);
    }
    let ids: Vec<u64> =
        cluster.infos(leader).into_iter().map(|info| info.region.unwrap().id).collect();
    assert_eq!(ids.len() as u64, count);
    cluster.run_until("all rest", |cluster| ids.iter().all(|id| rests(cluster, *id)));
    ids
}

/// Peers that the last report of the region calls down.
fn reported_down(cluster: &Cluster, leader: u64, region_id: u64) -> usize {
    let reports = cluster.stores[&leader].pd.iter().filter_map(|event| match event {
        PdEvent::Regions(reports) => Some(reports),
        _ => None,
    });
    let of_region = |report: &&cairn_proto::pd::RegionHeartbeatRequest| {
        report.region.as_ref().is_some_and(|region| region.id == region_id)
    };
    reports.flatten().filter(of_region).last().map_or(0, |report| report.down_peers.len())
}

/// Otherwise PD would take a peer for down until the next report, a minute or more later.
#[test]
fn who_rests_tells_that_trouble_has_passed() {
    let (mut cluster, region, leader) = at_rest();
    let [silent, _] = others(leader);
    cluster.isolate(silent);
    for second in 0..12 {
        cluster.put(leader, &region, "b", &second.to_string());
        cluster.run_ticks(10);
    }
    assert_eq!(reported_down(&cluster, leader, 1), 1);
    cluster.heal();
    cluster.run_until("rest", |cluster| rests(cluster, 1));
    cluster.run_ticks(2);
    assert_eq!(reported_down(&cluster, leader, 1), 0);
}

#[test]
fn an_idle_region_sends_nothing_and_serves_from_the_stores_lease() {
    let (mut cluster, region, leader) = at_rest();
    let ids = many_regions(&mut cluster, leader, 20);
    let sent = |cluster: &Cluster| {
        let metrics = &cluster.stores[&leader].metrics;
        let counter = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        (counter(&metrics.messages_sent), counter(&metrics.wakes), counter(&metrics.log_syncs))
    };
    let left = cluster.region(leader, 1);
    let (messages, wakes, syncs) = sent(&cluster);
    for _ in 0..200 {
        cluster.run_ticks(1);
        assert!(reads_locally(&mut cluster, leader, &left), "reads need no traffic");
    }
    let (messages_after, wakes_after, syncs_after) = sent(&cluster);
    assert!(messages_after - messages <= 210, "one beat per store every other tick");
    assert_eq!((wakes_after, syncs_after), (wakes, syncs));
    assert!(ids.iter().all(|id| rests(&mut cluster, *id)));
    assert_ne!(region, left);
}

#[test]
fn whatever_changes_a_region_wakes_it_and_it_rests_again() {
    let (mut cluster, region, leader) = at_rest();
    cluster.put(leader, &region, "b", "2");
    assert!(!cluster.info(leader, 1).unwrap().is_resting);
    cluster.run_ticks(3);
    for store_id in 1..=3 {
        assert!(!cluster.info(store_id, 1).unwrap().is_resting, "store {store_id}");
        assert_eq!(cluster.stored(store_id, "b").as_deref(), Some("2"));
    }
    cluster.run_until("rest", |cluster| rests(cluster, 1));
    let target = others(leader)[0];
    let peer_id = 10 + target;
    cluster.tell(leader, StoreMessage::TransferLeader { region_id: 1, peer_id });
    cluster.settle();
    assert_eq!(cluster.leader(1), Some(target));
    assert!(!reads_locally(&mut cluster, leader, &region));
    cluster.run_until("rest", |cluster| rests(cluster, 1));
    assert!(reads_locally(&mut cluster, target, &region));
    let removed = meta::Peer { id: 10 + leader, store_id: leader, role: 0 };
    let region = cluster.change_peer(target, 1, ConfChangeKind::Remove, removed).unwrap();
    cluster.run_until("rest", |cluster| rests(cluster, 1));
    cluster.put(target, &region, "c", "3");
}

#[test]
fn every_region_of_a_dead_store_has_a_leader_in_time() {
    let (mut cluster, _, leader) = at_rest();
    let ids = many_regions(&mut cluster, leader, 60);
    cluster.crash(leader);
    cluster.run_ticks(ELECTION_TICKS + 1);
    let mut by_store = [0; 2];
    for id in ids {
        let next = cluster.leader(id).unwrap_or_else(|| panic!("nobody leads region {id}"));
        by_store[usize::from(next == others(leader)[1])] += 1;
        let region = cluster.region(next, id);
        assert!(!reads_locally(&mut cluster, next, &region) || next != leader);
    }
    assert!(by_store.iter().all(|count| *count > 15), "one store took all: {by_store:?}");
    // Few stood twice: ranks kept them apart.
    let elections: u64 = others(leader)
        .iter()
        .map(|id| cluster.stores[id].metrics.elections.load(Ordering::Relaxed))
        .sum();
    assert!(elections < 100, "{elections} elections for 60 regions");
}

/// Advances by half ticks and looks at each whether the old leader reads while another leads.
fn watch_the_lease(cluster: &mut Cluster, region: &meta::Region, old: u64, paused: bool) {
    let mut ended_first = false;
    for half in 0..60 {
        cluster.clock.advance(Duration::from_millis(50));
        let reads = reads_locally(cluster, old, region);
        let another = cluster.leader(1).is_some_and(|store_id| store_id != old);
        assert!(!(reads && another), "two leaders read after {half} half ticks");
        ended_first |= !reads && !another;
        if half % 2 == 1 {
            let now = cluster.clock.now();
            for (store_id, store) in &mut cluster.stores {
                if paused && *store_id == old {
                    continue;
                }
                if let Some((core, _)) = store.running.as_mut() {
                    core.tick(now);
                }
            }
            cluster.settle();
        }
    }
    assert!(ended_first);
    assert!(cluster.leader(1).is_some_and(|store_id| store_id != old));
}

#[test]
fn the_lease_of_a_cut_off_leader_ends_before_another_begins() {
    let (mut cluster, region, leader) = at_rest();
    cluster.isolate(leader);
    watch_the_lease(&mut cluster, &region, leader, false);
    // It stepped down, without a quorum of answers.
    assert!(!cluster.info(leader, 1).unwrap().is_leader);
    let next = cluster.leader(1).unwrap();
    cluster.put(next, &region, "a", "2");
    cluster.heal();
    cluster.run_until("rest", |cluster| rests(cluster, 1));
    assert_eq!(cluster.stored(leader, "a").as_deref(), Some("2"));
}

#[test]
fn a_leader_that_is_heard_by_nobody_loses_leadership() {
    let (mut cluster, region, leader) = at_rest();
    for other in others(leader) {
        cluster.cut.insert((leader, other));
    }
    watch_the_lease(&mut cluster, &region, leader, false);
}

#[test]
fn a_leader_that_hears_nobody_loses_leadership() {
    let (mut cluster, region, leader) = at_rest();
    for other in others(leader) {
        cluster.cut.insert((other, leader));
    }
    // Followers still hear it: they wait until it has stepped down and asks for votes.
    cluster.run_ticks(12);
    assert!(!reads_locally(&mut cluster, leader, &region));
    assert!(!cluster.info(leader, 1).unwrap().is_leader);
    cluster.run_until("another leader", |cluster| {
        cluster.leader(1).is_some_and(|store_id| store_id != leader)
    });
}

#[test]
fn elections_in_vain_let_every_region_have_its_turn() {
    let (mut cluster, _, _) = at_rest();
    // A candidate that hears nobody stands again within fifteen ticks: of forty regions the
    // lower ones would use this up for ever.
    cluster.config.elections_per_tick_max = 2;
    for store_id in 1..=3 {
        cluster.crash(store_id);
        cluster.start(store_id);
    }
    let leader = cluster.elect(1);
    let ids = many_regions(&mut cluster, leader, 40);
    for other in others(leader) {
        cluster.cut.insert((other, leader));
    }
    // Followers hear it, so that they wait for each region's own candidacy.
    cluster.run_until("all regions have other leaders", |cluster| {
        let elsewhere = |id: &u64| cluster.leader(*id).is_some_and(|next| next != leader);
        ids.iter().all(elsewhere)
    });
}

#[test]
fn one_way_cuts_to_one_follower_leave_the_leader() {
    for from_leader in [true, false] {
        let (mut cluster, region, leader) = at_rest();
        let term = cluster.info(leader, 1).unwrap().term;
        let [near, far] = others(leader);
        cluster.cut.insert(if from_leader { (leader, far) } else { (far, leader) });
        for _ in 0..60 {
            cluster.run_ticks(1);
            assert_eq!(cluster.leader(1), Some(leader));
        }
        cluster.put(leader, &region, "b", "2");
        assert_eq!(cluster.stored(near, "b").as_deref(), Some("2"));
        assert_eq!(cluster.info(leader, 1).unwrap().term, term, "nobody disturbed it");
        cluster.heal();
        cluster.run_until("rest", |cluster| rests(cluster, 1));
        assert_eq!(cluster.stored(far, "b").as_deref(), Some("2"));
    }
}

#[test]
fn a_stopped_leader_does_not_read_when_it_goes_on() {
    let (mut cluster, region, leader) = at_rest();
    cluster.paused.insert(leader);
    watch_the_lease(&mut cluster, &region, leader, true);
    let next = cluster.leader(1).unwrap();
    cluster.put(next, &region, "a", "2");
    cluster.paused.clear();
    // Everything that was sent to it meanwhile arrives now, old answers among it.
    assert!(!reads_locally(&mut cluster, leader, &region));
    cluster.round(leader);
    assert!(!reads_locally(&mut cluster, leader, &region));
    cluster.run_until("rest", |cluster| rests(cluster, 1));
    assert_eq!(cluster.leader(1), Some(next));
    assert_eq!(cluster.stored(leader, "a").as_deref(), Some("2"));
}

#[test]
fn stopped_followers_do_not_disturb_the_leader() {
    let (mut cluster, region, leader) = at_rest();
    let term = cluster.info(leader, 1).unwrap().term;
    let [first, _] = others(leader);
    cluster.paused.insert(first);
    cluster.run_ticks(50);
    cluster.paused.clear();
    cluster.run_until("rest", |cluster| rests(cluster, 1));
    assert_eq!(cluster.leader(1), Some(leader));
    assert_eq!(cluster.info(leader, 1).unwrap().term, term);
    assert!(reads_locally(&mut cluster, leader, &region));
}

#[test]
fn neither_lease_nor_rest_survive_a_restart_of_the_leader() {
    let (mut cluster, region, leader) = at_rest();
    cluster.crash(leader);
    cluster.start(leader);
    cluster.settle();
    assert!(!reads_locally(&mut cluster, leader, &region));
    // Within the silence that its followers had promised to wait.
    cluster.run_ticks(5);
    assert!(cluster.leader(1).is_none());
    cluster.run_ticks(ELECTION_TICKS);
    let next = cluster.leader(1).expect("a leader");
    cluster.put(next, &region, "b", "2");
    cluster.run_until("rest", |cluster| rests(cluster, 1));
}

#[test]
fn a_restarted_follower_is_taken_along() {
    let (mut cluster, region, leader) = at_rest();
    let [first, second] = others(leader);
    let term = cluster.info(leader, 1).unwrap().term;
    cluster.crash(first);
    cluster.start(first);
    cluster.run_ticks(10);
    assert_eq!(cluster.leader(1), Some(leader));
    cluster.run_until("rest", |cluster| rests(cluster, 1));
    assert!(reads_locally(&mut cluster, leader, &region));
    // Both at once: a quorum forgot what it promised, and votes for nobody so soon.
    for store_id in [first, second] {
        cluster.crash(store_id);
        cluster.start(store_id);
    }
    cluster.run_ticks(40);
    assert_eq!(cluster.leader(1), Some(leader));
    assert_eq!(cluster.info(leader, 1).unwrap().term, term);
    cluster.run_until("rest", |cluster| rests(cluster, 1));
}

#[test]
fn only_a_store_that_never_ran_votes_at_once() {
    // Store 3 may have lost a peer without data, which no trace on disk tells.
    let region = region_of(1, &[(11, 1), (12, 2)]);
    let candidacy = || {
        let mut vote = raft::eraftpb::Message { from: 12, to: 13, term: 9, ..Default::default() };
        vote.set_msg_type(raft::eraftpb::MessageType::MsgRequestVote);
        StoreMessage::Raft(vec![cairn_proto::kv::RaftMessage {
            region_id: 1,
            from_peer: Some(meta::Peer { id: 12, store_id: 2, role: 0 }),
            to_peer: Some(meta::Peer { id: 13, store_id: 3, role: 0 }),
            epoch: region.epoch,
            message: protobuf::Message::write_to_bytes(&vote).unwrap().into(),
            ..Default::default()
        }])
    };
    let mut cluster = Cluster::new(3, &region);
    cluster.tell(3, candidacy());
    cluster.round(3);
    assert!(cluster.info(3, 1).is_some(), "a peer was made, to vote");

    let mut cluster = Cluster::new(3, &region);
    cluster.crash(3);
    cluster.start(3);
    for heard_after_ms in [0, 990] {
        cluster.clock.advance(Duration::from_millis(heard_after_ms));
        cluster.tell(3, candidacy());
        cluster.round(3);
        assert!(cluster.info(3, 1).is_none(), "a leader may still hold a lease");
    }
    cluster.clock.advance(Duration::from_millis(10));
    cluster.tell(3, candidacy());
    cluster.round(3);
    assert!(cluster.info(3, 1).is_some());
}

#[test]
fn a_whole_cluster_starts_again_as_fast_as_one_store_is_replaced() {
    let (mut cluster, region, _) = at_rest();
    for store_id in 1..=3 {
        cluster.crash(store_id);
    }
    for store_id in 1..=3 {
        cluster.start(store_id);
    }
    cluster.run_ticks(ELECTION_TICKS + 1);
    let leader = cluster.leader(1).expect("a leader");
    cluster.put(leader, &region, "b", "2");
}

#[test]
fn regions_rest_without_a_dead_store_and_take_it_back() {
    let (mut cluster, region, leader) = at_rest();
    let [alive, dead] = others(leader);
    cluster.crash(dead);
    cluster.run_ticks(30);
    assert!(!cluster.info(leader, 1).unwrap().is_resting, "it may come back soon");
    cluster.run_until("rest", |cluster| rests(cluster, 1));
    assert!(reads_locally(&mut cluster, leader, &region));
    cluster.put(leader, &region, "b", "2");
    cluster.run_until("rest", |cluster| rests(cluster, 1));
    // PD hears that a peer is down although the region rests.
    cluster.stores.get_mut(&leader).unwrap().pd.clear();
    cluster.config.idle_report = Duration::from_secs(1);
    cluster.run_ticks(1000);
    let down = cluster.stores[&leader].pd.iter().any(|event| match event {
        PdEvent::Regions(reports) => reports.iter().any(|report| {
            report.down_peers.len() == 1
                && report.down_peers[0].peer.is_some_and(|peer| peer.store_id == dead)
        }),
        _ => false,
    });
    assert!(down);
    // The other follower dies too: no quorum, no lease, no leader.
    cluster.isolate(alive);
    cluster.run_ticks(25);
    assert!(!reads_locally(&mut cluster, leader, &region));
    assert!(!cluster.info(leader, 1).unwrap().is_leader);
    cluster.heal();
    cluster.elect(1);
    cluster.start(dead);
    cluster.run_until("rest", |cluster| {
        rests(cluster, 1) && cluster.stored(dead, "b").as_deref() == Some("2")
    });
}

#[test]
fn a_learner_rests_too_and_does_not_count() {
    let region = region_of(1, &[(11, 1), (12, 2)]);
    let mut cluster = Cluster::new(3, &region);
    let leader = cluster.elect(1);
    let peer = meta::Peer { id: 13, store_id: 3, role: 0 };
    let region = cluster.change_peer(leader, 1, ConfChangeKind::AddLearner, peer).unwrap();
    cluster.run_until("rest", |cluster| rests(cluster, 1));
    assert!(reads_locally(&mut cluster, leader, &region));
    let voter = 3 - leader;
    cluster.isolate(voter);
    cluster.run_ticks(12);
    assert!(!reads_locally(&mut cluster, leader, &region), "a learner is no quorum");
}

#[test]
fn a_region_alone_rests_by_itself() {
    let region = region_of(1, &[(11, 1)]);
    let mut cluster = Cluster::new(1, &region);
    cluster.settle();
    cluster.run_until("rest", |cluster| rests(cluster, 1));
    for _ in 0..30 {
        cluster.run_ticks(1);
        assert!(reads_locally(&mut cluster, 1, &region));
    }
    cluster.put(1, &region, "a", "1");
}
