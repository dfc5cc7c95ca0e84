//! Replication, elections, restarts, membership, splits and leases.

use std::sync::atomic::Ordering;
use std::time::Duration;

use cairn_proto::meta;
use proptest::prelude::*;

use super::cluster::{Cluster, region_of};
use crate::raftstore::clock::Clock;
use crate::raftstore::command::ConfChangeKind;
use crate::raftstore::state::ApplyState;
use crate::raftstore::store::{PdEvent, StoreMessage};
use crate::raftstore::{RegionError, epoch_of};

const THREE: &[(u64, u64)] = &[(11, 1), (12, 2), (13, 3)];

fn three() -> (Cluster, meta::Region, u64) {
    let region = region_of(1, THREE);
    let mut cluster = Cluster::new(3, &region);
    let leader = cluster.elect(1);
    cluster.run_ticks(2);
    (cluster, region, leader)
}

fn others(leader: u64) -> Vec<u64> {
    (1..=3).filter(|id| *id != leader).collect()
}

#[test]
fn a_single_voter_serves_without_a_tick() {
    let region = region_of(1, &[(11, 1)]);
    let mut cluster = Cluster::new(1, &region);
    cluster.settle();
    assert_eq!(cluster.leader(1), Some(1));
    cluster.put(1, &region, "a", "1");
    assert!(cluster.local_view(1, &region).unwrap().is_some());
    assert_eq!(cluster.stored(1, "a").as_deref(), Some("1"));
}

#[test]
fn writes_reach_every_store() {
    let (mut cluster, region, leader) = three();
    for number in 0..20 {
        cluster.put(leader, &region, &format!("k{number}"), "v");
    }
    cluster.run_ticks(3);
    for store_id in 1..=3 {
        assert_eq!(cluster.stored(store_id, "k19").as_deref(), Some("v"));
    }
    let follower = others(leader)[0];
    let mut refused = cluster.propose(follower, &region, "x", "1");
    cluster.settle();
    match refused.try_recv().unwrap() {
        Err(RegionError::NotLeader { leader: Some(peer), .. }) => assert_eq!(peer.store_id, leader),
        other => panic!("{other:?}"),
    }
}

#[test]
fn while_leadership_moves_writers_are_sent_to_the_heir() {
    let (mut cluster, region, leader) = three();
    let heir = region.peers.iter().find(|peer| peer.store_id != leader).unwrap();
    cluster.isolate(heir.store_id);
    cluster.put(leader, &region, "a", "1");
    cluster.tell(leader, StoreMessage::TransferLeader { region_id: 1, peer_id: heir.id });
    let mut refused = cluster.propose(leader, &region, "b", "1");
    cluster.settle();
    match refused.try_recv().unwrap() {
        Err(RegionError::NotLeader { leader: Some(peer), .. }) => assert_eq!(peer.id, heir.id),
        other => panic!("{other:?}"),
    }
    // It does not come to pass: the leader goes on.
    cluster.run_until("writes", |cluster| {
        let mut answered = cluster.propose(leader, &region, "b", "1");
        cluster.settle();
        matches!(answered.try_recv(), Ok(Ok(())))
    });
}

#[test]
fn one_sync_for_many_proposals() {
    let (mut cluster, region, leader) = three();
    use cairn_engine::RaftLog;
    let before = cluster.stores[&leader].log.sync_count();
    let answers: Vec<_> = (0..100)
        .map(|number| cluster.propose(leader, &region, &format!("k{number}"), "v"))
        .collect();
    cluster.settle();
    for mut answer in answers {
        answer.try_recv().unwrap().unwrap();
    }
    assert_eq!(cluster.stores[&leader].log.sync_count() - before, 1);
}

#[test]
fn a_new_leader_takes_over_and_the_old_one_catches_up() {
    let (mut cluster, region, leader) = three();
    cluster.put(leader, &region, "a", "1");
    cluster.isolate(leader);
    let mut lost = cluster.propose(leader, &region, "lost", "x");
    cluster.run_until("another leader", |cluster| {
        cluster.leader(1).is_some_and(|store_id| store_id != leader)
    });
    let next = cluster.leader(1).unwrap();
    cluster.put(next, &region, "b", "2");
    // The old leader stepped down: its proposal's fate is unknown to its caller.
    cluster.run_ticks(20);
    assert_eq!(lost.try_recv().unwrap(), Err(RegionError::StaleCommand));
    cluster.heal();
    cluster.run_ticks(30);
    assert_eq!(cluster.stored(leader, "b").as_deref(), Some("2"));
    assert_eq!(cluster.stored(leader, "lost"), None);
}

#[test]
fn a_crash_loses_nothing_acknowledged() {
    let (mut cluster, region, leader) = three();
    for number in 0..50 {
        cluster.put(leader, &region, &format!("k{number}"), "v");
    }
    for store_id in 1..=3 {
        cluster.crash(store_id);
    }
    // Data was never synced to the engine: it comes back from the log.
    assert_eq!(cluster.stored(leader, "k0"), None);
    for store_id in 1..=3 {
        cluster.start(store_id);
    }
    let leader = cluster.elect(1);
    cluster.put(leader, &region, "after", "1");
    cluster.run_ticks(3);
    for store_id in 1..=3 {
        for number in 0..50 {
            assert_eq!(cluster.stored(store_id, &format!("k{number}")).as_deref(), Some("v"));
        }
    }
}

#[test]
fn one_store_restarts_and_catches_up() {
    let (mut cluster, region, leader) = three();
    let follower = others(leader)[0];
    cluster.put(leader, &region, "a", "1");
    cluster.crash(follower);
    cluster.put(leader, &region, "b", "2");
    cluster.start(follower);
    cluster.run_ticks(10);
    assert_eq!(cluster.stored(follower, "a").as_deref(), Some("1"));
    assert_eq!(cluster.stored(follower, "b").as_deref(), Some("2"));
}

#[test]
fn the_lease_ends_before_another_leader_can_begin() {
    let (mut cluster, region, leader) = three();
    cluster.put(leader, &region, "a", "1");
    assert!(cluster.local_view(leader, &region).unwrap().is_some());
    cluster.isolate(leader);
    let mut expired_first = false;
    for _ in 0..40 {
        // Half ticks: the lease does not end on a tick.
        cluster.clock.advance(Duration::from_millis(50));
        let local = cluster.local_view(leader, &region);
        let another = cluster.leader(1).is_some_and(|store_id| store_id != leader);
        let reads_locally = matches!(local, Ok(Some(_)));
        assert!(!(reads_locally && another), "two leaders read");
        expired_first |= !reads_locally && !another;
        let now = cluster.clock.now();
        if now.0 % 100_000_000 == 0 {
            cluster.run_ticks(0);
            for store in cluster.stores.values_mut() {
                if let Some((core, _)) = store.running.as_mut() {
                    core.tick(now);
                }
            }
            cluster.settle();
        }
    }
    assert!(expired_first);
    assert_ne!(cluster.leader(1), Some(leader));
}

#[test]
fn readers_keep_the_lease_alive() {
    let (mut cluster, region, _) = three();
    // Regions at rest keep it without readers.
    cluster.config.rest_after_ticks = 0;
    for store_id in 1..=3 {
        cluster.crash(store_id);
        cluster.start(store_id);
    }
    let leader = cluster.elect(1);
    cluster.run_ticks(2);
    cluster.put(leader, &region, "a", "1");
    let mut misses = 0;
    for _ in 0..50 {
        cluster.run_ticks(1);
        misses += u32::from(cluster.local_view(leader, &region).unwrap().is_none());
    }
    assert_eq!(misses, 0);
    // Nobody reads: the lease ends, and the next reader asks the quorum.
    cluster.run_ticks(30);
    assert!(cluster.local_view(leader, &region).unwrap().is_none());
    let mut view = cluster.read_index(leader, &region);
    cluster.settle();
    assert!(view.try_recv().unwrap().is_ok());
    assert!(cluster.local_view(leader, &region).unwrap().is_some(), "asking renewed it");
}

#[test]
fn reads_of_an_isolated_leader_do_not_return() {
    let (mut cluster, region, leader) = three();
    cluster.put(leader, &region, "a", "1");
    cluster.isolate(leader);
    let mut view = cluster.read_index(leader, &region);
    cluster.run_ticks(5);
    assert!(view.try_recv().is_err(), "no quorum, no answer");
    cluster.run_ticks(30);
    assert!(matches!(view.try_recv(), Ok(Err(RegionError::NotLeader { .. }))));
}

#[test]
fn leadership_is_handed_over_and_the_lease_with_it() {
    let (mut cluster, region, leader) = three();
    cluster.put(leader, &region, "a", "1");
    let target = others(leader)[0];
    let peer_id = 10 + target;
    cluster.tell(leader, StoreMessage::TransferLeader { region_id: 1, peer_id });
    cluster.round(leader);
    assert!(!matches!(cluster.local_view(leader, &region), Ok(Some(_))));
    cluster.settle();
    assert_eq!(cluster.leader(1), Some(target));
    cluster.put(target, &region, "b", "2");
}

#[test]
fn a_split_under_writes() {
    let (mut cluster, region, leader) = three();
    for key in ["a", "m", "z"] {
        cluster.put(leader, &region, key, "1");
    }
    let mut racing = cluster.propose(leader, &region, "q", "2");
    cluster.split(leader, &region, "m", 2);
    let mut late = cluster.propose(leader, &region, "r", "3");
    cluster.settle();
    assert_eq!(racing.try_recv().unwrap(), Ok(()), "proposed before the split");
    match late.try_recv().unwrap() {
        Err(RegionError::EpochNotMatch { current_regions }) => {
            assert_eq!(current_regions[0].start_key.as_ref(), b"m");
        }
        other => panic!("{other:?}"),
    }
    // The parent's leader leads the new region at once, before any tick.
    assert_eq!(cluster.leader(2), Some(leader));
    let (left, right) = (cluster.region(leader, 2), cluster.region(leader, 1));
    assert_eq!(epoch_of(&left).version, 2);
    assert_eq!(epoch_of(&right).version, 2);
    cluster.put(leader, &left, "b", "4");
    cluster.put(leader, &right, "n", "5");
    cluster.run_ticks(5);
    for store_id in 1..=3 {
        assert_eq!(cluster.stored(store_id, "q").as_deref(), Some("2"));
        assert_eq!(cluster.stored(store_id, "n").as_deref(), Some("5"));
        assert_eq!(cluster.region(store_id, 2).end_key.as_ref(), b"m");
    }
    let mut outside = cluster.propose(leader, &left, "n", "x");
    cluster.settle();
    assert!(matches!(outside.try_recv().unwrap(), Err(RegionError::KeyNotInRegion { .. })));
    let reported = cluster.stores[&leader]
        .pd
        .iter()
        .any(|event| matches!(event, PdEvent::ReportSplit(regions) if regions.len() == 2));
    assert!(reported);
    // Both regions survive a crash of everything.
    for store_id in 1..=3 {
        cluster.crash(store_id);
        cluster.start(store_id);
    }
    cluster.elect(2);
    let leader = cluster.elect(1);
    cluster.put(leader, &right, "o", "6");
    assert_eq!(cluster.stored(leader, "n").as_deref(), Some("5"));
}

#[test]
fn no_local_reads_while_a_split_is_under_way() {
    let (mut cluster, region, leader) = three();
    cluster.put(leader, &region, "a", "old");
    cluster.stores.get_mut(&leader).unwrap().apply_paused = true;
    cluster.split(leader, &region, "m", 2);
    assert!(cluster.local_view(leader, &region).unwrap().is_none());
    let mut view = cluster.read_index(leader, &region);
    // Followers have applied the split and may elect a leader of the new region.
    cluster.run_ticks(20);
    let child_leader = cluster.leader(2).expect("followers lead the new region");
    assert_ne!(child_leader, leader);
    let left = cluster.region(child_leader, 2);
    cluster.put(child_leader, &left, "a", "new");
    assert!(cluster.local_view(leader, &region).unwrap().is_none());
    assert!(view.try_recv().is_err(), "a read waits for apply");
    cluster.stores.get_mut(&leader).unwrap().apply_paused = false;
    cluster.run_ticks(3);
    assert!(matches!(view.try_recv(), Ok(Err(RegionError::EpochNotMatch { .. }))));
}

#[test]
fn a_replica_is_added_through_a_snapshot_and_removed() {
    let region = region_of(1, &[(11, 1)]);
    let mut cluster = Cluster::new(2, &region);
    cluster.settle();
    for number in 0..30 {
        cluster.put(1, &region, &format!("k{number}"), "v");
    }
    let peer = meta::Peer { id: 12, store_id: 2, role: 0 };
    cluster.change_peer(1, 1, ConfChangeKind::AddLearner, peer).unwrap();
    cluster.run_ticks(10);
    assert_eq!(cluster.stored(2, "k29").as_deref(), Some("v"));
    let learner = cluster.info(2, 1).unwrap();
    assert!(learner.applied_index > 30);
    let region = cluster.change_peer(1, 1, ConfChangeKind::AddVoter, peer).unwrap();
    assert_eq!(epoch_of(&region).conf_ver, 3);
    cluster.put(1, &region, "both", "1");
    cluster.run_ticks(3);
    assert_eq!(cluster.stored(2, "both").as_deref(), Some("1"));
    // The new voter survives a crash.
    cluster.crash(2);
    cluster.start(2);
    cluster.run_ticks(5);
    assert_eq!(cluster.stored(2, "k3").as_deref(), Some("v"));

    cluster.change_peer(1, 1, ConfChangeKind::Remove, peer).unwrap();
    cluster.run_until("removed", |cluster| cluster.info(2, 1).is_none());
    assert_eq!(cluster.stored(2, "k3"), None, "its data is gone");
    let region = cluster.region(1, 1);
    cluster.put(1, &region, "alone", "1");
    // It does not come back by itself, and comes back as another peer.
    cluster.crash(2);
    cluster.start(2);
    cluster.run_ticks(30);
    assert!(cluster.info(2, 1).is_none());
    let peer = meta::Peer { id: 22, store_id: 2, role: 0 };
    cluster.change_peer(1, 1, ConfChangeKind::AddLearner, peer).unwrap();
    cluster.run_ticks(10);
    assert_eq!(cluster.stored(2, "alone").as_deref(), Some("1"));
}

#[test]
fn a_peer_removed_while_away_learns_of_it() {
    let (mut cluster, _, leader) = three();
    let away = others(leader)[0];
    cluster.isolate(away);
    let peer = meta::Peer { id: 10 + away, store_id: away, role: 0 };
    let region = cluster.change_peer(leader, 1, ConfChangeKind::Remove, peer).unwrap();
    cluster.put(leader, &region, "a", "1");
    cluster.heal();
    cluster.run_until("told", |cluster| cluster.info(away, 1).is_none());
    assert_eq!(cluster.leader(1), Some(leader), "it disturbed nobody");
}

/// A leader, and a store that is cut off and needs a snapshot: rows `k000` to `k199` were written
/// since, and the leader's log no longer has them all.
fn one_is_far_behind() -> (Cluster, meta::Region, u64, u64) {
    let region = region_of(1, THREE);
    let mut cluster = Cluster::new(3, &region);
    cluster.config.log_entries_max = 20;
    cluster.config.log_entries_force_max = 60;
    for store_id in 1..=3 {
        cluster.crash(store_id);
        cluster.start(store_id);
    }
    let leader = cluster.elect(1);
    let slow = others(leader)[0];
    cluster.isolate(slow);
    for number in 0..200 {
        cluster.put(leader, &region, &format!("k{number:03}"), "v");
        if number % 20 == 0 {
            cluster.run_ticks(10);
        }
    }
    cluster.run_ticks(40);
    use cairn_engine::RaftLog;
    let (first, _) = cluster.stores[&leader].log.bounds(1).unwrap();
    assert!(first > 100, "the log was compacted: {first}");
    (cluster, region, leader, slow)
}

#[test]
fn a_slow_follower_gets_a_snapshot_after_log_compaction() {
    let (mut cluster, region, _, slow) = one_is_far_behind();
    cluster.heal();
    cluster.run_ticks(30);
    assert_eq!(cluster.stored(slow, "k000").as_deref(), Some("v"));
    assert_eq!(cluster.stored(slow, "k199").as_deref(), Some("v"));
    // Logs below the durable applied index only: everything survives a crash.
    for store_id in 1..=3 {
        cluster.crash(store_id);
        cluster.start(store_id);
    }
    let leader = cluster.elect(1);
    cluster.put(leader, &region, "after", "1");
    cluster.run_ticks(10);
    for store_id in 1..=3 {
        assert_eq!(cluster.stored(store_id, "k000").as_deref(), Some("v"));
        assert_eq!(cluster.stored(store_id, "k199").as_deref(), Some("v"));
    }
}

#[test]
fn the_birth_of_a_region_does_not_overtake_its_snapshot() {
    let (mut cluster, region, leader) = three();
    let slow = others(leader)[0];
    cluster.stores.get_mut(&slow).unwrap().apply_paused = true;
    cluster.split(leader, &region, "m", 2);
    cluster.run_ticks(3);
    // The parent's peer goes before its store has applied the split, and the new region's leader finds
    // nobody there: it sends a snapshot, which waits for apply.
    let parent = meta::Peer { id: 10 + slow, store_id: slow, role: 0 };
    cluster.change_peer(leader, 1, ConfChangeKind::Remove, parent).unwrap();
    cluster.run_until("told", |cluster| cluster.info(slow, 1).is_none());
    let child_leader = cluster.elect(2);
    let child = cluster.region(child_leader, 2);
    cluster.put(child_leader, &child, "a", "1");
    cluster.run_until("a snapshot", |cluster| cluster.info(slow, 2).is_some());
    cluster.run_ticks(20);
    assert_eq!((cluster.stored(slow, "a"), snapshots_applied(&cluster, slow)), (None, 0));
    cluster.stores.get_mut(&slow).unwrap().apply_paused = false;
    cluster.settle();
    assert_eq!(snapshots_applied(&cluster, slow), 1, "its peer has waited for it");
    cluster.put(child_leader, &child, "b", "2");
    cluster.run_ticks(3);
    assert_eq!(cluster.stored(slow, "a").as_deref(), Some("1"));
    assert_eq!(cluster.stored(slow, "b").as_deref(), Some("2"));
}

#[test]
fn a_snapshot_that_was_installed_for_another_peer_is_replaced() {
    let (mut cluster, region, leader) = three();
    cluster.put(leader, &region, "a", "1");
    let store_id = others(leader)[0];
    let peer_id = 10 + store_id;
    // Another peer's, and this one's at a time when it waited for none.
    for (snapshots, installed_id) in [(1, 99), (2, peer_id)] {
        let outcome = Ok(ApplyState { applied_index: 1_000, ..ApplyState::initial() });
        let message = StoreMessage::Installed { region_id: 1, peer_id: installed_id, outcome };
        cluster.tell(store_id, message);
        cluster.run_until("a snapshot of its own", |cluster| {
            snapshots_applied(cluster, store_id) == snapshots
        });
        cluster.put(leader, &region, "b", &snapshots.to_string());
        cluster.run_ticks(3);
        assert_eq!(cluster.stored(store_id, "a").as_deref(), Some("1"));
        assert_eq!(cluster.stored(store_id, "b"), Some(snapshots.to_string()));
    }
}

/// The store that is behind has a full disk when the snapshot comes.
fn behind_on_a_full_disk() -> (Cluster, u64, u64) {
    let (mut cluster, _, leader, behind) = one_is_far_behind();
    cluster.stores.get_mut(&behind).unwrap().disk_full = true;
    cluster.heal();
    cluster.run_until("a snapshot is installed in vain", |cluster| {
        cluster.stores[&behind].refused_installs > 0
    });
    (cluster, leader, behind)
}

#[test]
fn a_snapshot_that_met_a_full_disk_is_installed_once_there_is_room() {
    let (mut cluster, leader, behind) = behind_on_a_full_disk();
    cluster.run_until("it is tried again", |cluster| cluster.stores[&behind].refused_installs > 1);
    assert_eq!(cluster.stored(behind, "k199"), None);
    cluster.stores.get_mut(&behind).unwrap().disk_full = false;
    cluster.run_until("installed", |cluster| snapshots_applied(cluster, behind) == 1);
    let region = cluster.region(leader, 1);
    cluster.put(leader, &region, "b", "2");
    cluster.run_ticks(3);
    assert_eq!(cluster.stored(behind, "k199").as_deref(), Some("v"));
    assert_eq!(cluster.stored(behind, "b").as_deref(), Some("2"));
}

#[test]
fn a_replica_whose_snapshot_met_a_full_disk_is_removed_once_there_is_room() {
    let (mut cluster, leader, behind) = behind_on_a_full_disk();
    let peer = meta::Peer { id: 10 + behind, store_id: behind, role: 0 };
    cluster.change_peer(leader, 1, ConfChangeKind::Remove, peer).unwrap();
    cluster.run_ticks(150);
    assert!(cluster.info(behind, 1).is_some(), "half of its data is there");
    cluster.stores.get_mut(&behind).unwrap().disk_full = false;
    cluster.run_until("removed", |cluster| cluster.info(behind, 1).is_none());
    cluster.run_ticks(3);
    assert_eq!(cluster.stored(behind, "k199"), None);
}

fn snapshots_applied(cluster: &Cluster, store_id: u64) -> u64 {
    cluster.stores[&store_id].metrics.snapshots_applied.load(Ordering::Relaxed)
}

#[test]
fn messages_may_be_lost() {
    let (mut cluster, region, _) = three();
    cluster.loss_percent = 20;
    for number in 0..60 {
        let leader = cluster.elect(1);
        drop(cluster.propose(leader, &region, &format!("k{number}"), "v"));
        cluster.run_ticks(1);
    }
    cluster.heal();
    cluster.run_ticks(40);
    let leader = cluster.elect(1);
    cluster.put(leader, &region, "end", "1");
    cluster.run_ticks(5);
    for number in 0..60 {
        let key = format!("k{number}");
        let held: Vec<_> = (1..=3).map(|store_id| cluster.stored(store_id, &key)).collect();
        assert!(held.iter().all(|value| *value == held[0]), "{key}: {held:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever a peer sends, the store only drops it.
    #[test]
    fn hostile_messages_never_panic(
        messages in proptest::collection::vec(hostile_message(), 1..30),
        to_leader in any::<bool>(),
    ) {
        let (mut cluster, region, leader) = three();
        let target = if to_leader { leader } else { others(leader)[0] };
        for (from, kind, bytes) in messages {
            let mut message = raft::eraftpb::Message::default();
            protobuf::Message::merge_from_bytes(&mut message, &bytes).ok();
            message.from = 10 + from;
            message.to = 10 + target;
            message.set_msg_type(kind);
            let message = cairn_proto::kv::RaftMessage {
                region_id: 1,
                from_peer: Some(meta::Peer { id: 10 + from, store_id: from, role: 0 }),
                to_peer: Some(meta::Peer { id: 10 + target, store_id: target, role: 0 }),
                epoch: region.epoch,
                message: protobuf::Message::write_to_bytes(&message).unwrap().into(),
                ..Default::default()
            };
            cluster.tell(target, StoreMessage::Raft(vec![message]));
            cluster.round(target);
        }
        let now = cluster.clock.now();
        prop_assert!(now.0 > 0);
    }
}

/// A message with small random fields, so that many come close to being valid.
fn hostile_message() -> impl Strategy<Value = (u64, raft::eraftpb::MessageType, Vec<u8>)> {
    use raft::eraftpb::{Entry, Message, MessageType};
    let kinds = (0..19i32)
        .prop_map(|number| protobuf::ProtobufEnum::from_i32(number).unwrap_or(MessageType::MsgHup));
    let fields = (0u64..9, 0u64..12, 0u64..9, 0u64..12, any::<bool>(), 0u64..12, 0u64..12);
    let entries = proptest::collection::vec((0u64..12, 0u64..9), 0..4);
    (1u64..4, kinds, fields, entries).prop_map(|(from, kind, fields, entries)| {
        let (term, index, log_term, commit, reject, reject_hint, snapshot_index) = fields;
        let entries =
            entries.into_iter().map(|(index, term)| Entry { index, term, ..Entry::default() });
        let mut message = Message {
            term,
            index,
            log_term,
            commit,
            reject,
            reject_hint,
            entries: entries.collect::<Vec<_>>().into(),
            ..Message::default()
        };
        message.mut_snapshot().mut_metadata().index = snapshot_index;
        (from, kind, protobuf::Message::write_to_bytes(&message).unwrap())
    })
}
