//! Reads from replicas that do not lead: after a question to the leader, and without one.

use std::sync::Arc;

use bytes::Bytes;
use cairn_engine::{Cf, KvEngine};
use cairn_proto::{kv, meta};
use cairn_types::TimeStamp;
use tokio::sync::oneshot;

use super::cluster::{Cluster, context_of, region_of};
use crate::keys;
use crate::raftstore::clock::Clock;
use crate::raftstore::peer::PendingReplicaRead;
use crate::raftstore::store::StoreMessage;
use crate::raftstore::{RegionContext, RegionError, RegionSnapshot, ReplicaRead, ReplicaView};
use crate::txn::MaxTs;

const THREE: &[(u64, u64)] = &[(11, 1), (12, 2), (13, 3)];

type Answer = oneshot::Receiver<Result<ReplicaView, RegionError>>;

/// Three stores, each with its guard, by store id from 1.
struct Three {
    cluster: Cluster,
    region: meta::Region,
    leader: u64,
    guards: Vec<Arc<MaxTs>>,
}

fn three() -> Three {
    let region = region_of(1, THREE);
    let mut cluster = Cluster::new(3, &region);
    let guards: Vec<Arc<MaxTs>> = (1..=3).map(|_| Arc::default()).collect();
    for (store, guard) in cluster.stores.values().zip(&guards) {
        store.regions.set_guard(Arc::clone(guard) as _);
    }
    let leader = cluster.elect(1);
    cluster.run_ticks(2);
    Three { cluster, region, leader, guards }
}

impl Three {
    fn follower(&self) -> u64 {
        (1..=3).find(|id| *id != self.leader).unwrap()
    }

    /// The guard of the leader.
    fn guard(&self) -> &Arc<MaxTs> {
        &self.guards[self.leader as usize - 1]
    }

    fn read(&mut self, store_id: u64, read_ts: u64) -> Answer {
        let (answer, answered) = oneshot::channel();
        let context = RegionContext { replica_read: true, ..context_of(&self.region) };
        let read = ReplicaRead { read_ts, ..ReplicaRead::default() };
        let read = PendingReplicaRead { context, read, answer };
        self.cluster.tell(store_id, StoreMessage::ReplicaRead(read));
        answered
    }

    /// The view of a replica that holds everything up to there.
    fn closed_view(&self, store_id: u64, read_ts: u64) -> Option<RegionSnapshot> {
        let store = &self.cluster.stores[&store_id];
        let context = context_of(&self.region);
        store.regions.try_closed_view(&context, read_ts, || store.kv.snapshot()).unwrap()
    }

    fn subscribe(&mut self, store_id: u64) {
        self.cluster.tell(store_id, StoreMessage::Subscribe { region_id: 1 });
        self.cluster.settle();
    }

    /// PD gives the timestamp, and the leader's store hears of it.
    fn close(&mut self, ts: u64) {
        let fetched_by = self.cluster.clock.now();
        let message = StoreMessage::CloseTimestamp { ts: TimeStamp(ts), fetched_by };
        self.cluster.tell(self.leader, message);
        self.cluster.settle();
    }

    fn put(&mut self, key: &str, value: &str) {
        self.cluster.put(self.leader, &self.region, key, value);
    }
}

fn value(view: &RegionSnapshot, key: &str) -> Option<Bytes> {
    view.engine.get(Cf::Write, &keys::data_key(key.as_bytes())).unwrap()
}

fn one_pc(key: &str, start_ts: u64) -> kv::PrewriteRequest {
    let mutation =
        kv::Mutation { key: Bytes::copy_from_slice(key.as_bytes()), ..kv::Mutation::default() };
    kv::PrewriteRequest { mutations: vec![mutation], start_ts, ..kv::PrewriteRequest::default() }
}

#[test]
fn a_follower_shows_what_was_acknowledged_before() {
    let mut three = three();
    let follower = three.follower();
    three.cluster.stores.get_mut(&follower).unwrap().apply_paused = true;
    three.put("a", "1");
    let mut answer = three.read(follower, 50);
    three.cluster.run_ticks(3);
    assert!(answer.try_recv().is_err(), "it has not applied what the leader has");
    three.cluster.stores.get_mut(&follower).unwrap().apply_paused = false;
    three.cluster.settle();
    let view = answer.try_recv().unwrap().unwrap();
    assert_eq!(value(&view.snapshot, "a").as_deref(), Some(&b"1"[..]));
    // The leader knows that it was read, and commits above it.
    assert_eq!(three.guard().get(), TimeStamp(50));
    let (under_way, commit_ts) = three.guard().begin(&one_pc("k", 20));
    assert_eq!(commit_ts, TimeStamp(51));
    // A later reader must wait for that commit.
    let mut answer = three.read(follower, 60);
    three.cluster.settle();
    let view = answer.try_recv().unwrap().unwrap();
    assert_eq!(view.pending.iter().map(|lock| &lock.key[..]).collect::<Vec<_>>(), [b"k"]);
    drop(under_way);
}

#[test]
fn a_follower_on_its_own_answers_nothing() {
    let mut three = three();
    let follower = three.follower();
    three.put("a", "old");
    three.cluster.isolate(follower);
    three.put("a", "new");
    let mut answer = three.read(follower, 50);
    three.cluster.run_ticks(1);
    assert!(answer.try_recv().is_err());
    three.cluster.run_ticks(30);
    assert!(matches!(answer.try_recv().unwrap(), Err(RegionError::NotLeader { .. })));
    // It knows no leader by now, and says so at once.
    let mut answer = three.read(follower, 50);
    three.cluster.settle();
    assert!(matches!(answer.try_recv().unwrap(), Err(RegionError::NotLeader { .. })));
}

#[test]
fn a_follower_follows_the_leader_of_now() {
    let mut three = three();
    let old = three.leader;
    three.put("a", "old");
    three.cluster.isolate(old);
    three.cluster.run_until("another leader", |cluster| {
        cluster.leader(1).is_some_and(|leader| leader != old)
    });
    let leader = three.cluster.leader(1).unwrap();
    three.cluster.put(leader, &three.region, "a", "new");
    let follower = (1..=3).find(|id| ![old, leader].contains(id)).unwrap();
    let mut answer = three.read(follower, 50);
    three.cluster.run_ticks(1);
    let view = answer.try_recv().unwrap().unwrap();
    assert_eq!(value(&view.snapshot, "a").as_deref(), Some(&b"new"[..]));
    // The old one still believes that it leads, and can give no index.
    let mut answer = three.read(old, 50);
    three.cluster.run_ticks(20);
    assert!(matches!(answer.try_recv().unwrap(), Err(RegionError::NotLeader { .. })));
}

#[test]
fn the_past_is_read_without_the_leader() {
    let mut three = three();
    let follower = three.follower();
    three.put("a", "1");
    three.close(100);
    assert!(three.closed_view(follower, 90).is_none(), "nobody subscribed");
    three.subscribe(follower);
    three.close(110);
    assert!(three.closed_view(follower, 111).is_none());
    let view = three.closed_view(follower, 110).expect("closed");
    assert_eq!(value(&view, "a").as_deref(), Some(&b"1"[..]));
    assert_eq!(three.guard().begin(&one_pc("k", 20)).1, TimeStamp(111), "above what is closed");
    // What is closed stays so, whatever becomes of the leader.
    three.cluster.isolate(follower);
    three.cluster.run_ticks(50);
    assert!(three.closed_view(follower, 110).is_some());
    // A restart forgets it.
    three.cluster.crash(follower);
    three.cluster.start(follower);
    assert!(three.closed_view(follower, 1).is_none());
}

#[test]
fn nothing_is_closed_before_it_is_applied_or_over_what_is_under_way() {
    let mut three = three();
    let follower = three.follower();
    three.subscribe(follower);
    three.cluster.stores.get_mut(&follower).unwrap().apply_paused = true;
    three.put("a", "1");
    three.close(100);
    assert!(three.closed_view(follower, 1).is_none(), "the lock may be in what is not applied");
    three.cluster.stores.get_mut(&follower).unwrap().apply_paused = false;
    three.cluster.settle();
    assert!(three.closed_view(follower, 100).is_some());
    // An async commit, whose lock is on its way.
    let (under_way, min_commit_ts) = three.guard().begin(&one_pc("k", 105));
    assert_eq!(min_commit_ts, TimeStamp(106));
    three.close(120);
    assert!(three.closed_view(follower, 105).is_some());
    assert!(three.closed_view(follower, 106).is_none());
    drop(under_way);
    three.close(121);
    assert!(three.closed_view(follower, 121).is_some());
}

#[test]
fn only_a_leader_that_is_certain_closes() {
    let mut three = three();
    let (leader, follower) = (three.leader, three.follower());
    three.subscribe(follower);
    three.close(100);
    // Nothing arrives at the leader any more, but what it says arrives.
    for other in (1..=3).filter(|id| *id != leader) {
        three.cluster.cut.insert((other, leader));
    }
    // The lease runs out before anybody else can be elected.
    let lease = three.cluster.config.lease();
    three.cluster.clock.advance(lease);
    three.close(200);
    assert!(three.closed_view(follower, 100).is_some());
    assert!(three.closed_view(follower, 101).is_none());
}

#[test]
fn another_range_begins_anew() {
    let mut three = three();
    let follower = three.follower();
    three.subscribe(follower);
    three.close(100);
    let leader = three.leader;
    three.cluster.split(leader, &three.region.clone(), "m", 2);
    three.cluster.run_ticks(2);
    three.region = three.cluster.region(leader, 1);
    assert!(three.closed_view(follower, 100).is_none());
    three.close(110);
    assert!(three.closed_view(follower, 110).is_some());
    // The new region has no subscribers of its own.
    three.region = three.cluster.region(leader, 2);
    assert!(three.closed_view(follower, 1).is_none());
}
