//! A replica whose data is damaged leaves service and is built anew from another one.

use bytes::Bytes;
use cairn_engine::{Cf, DamagedFile, KvEngine, WriteBatch};

use super::cluster::{Cluster, region_of};
use crate::keys;
use crate::raftstore::store::StoreMessage;

fn damage(first: &[u8], last: &[u8]) -> StoreMessage {
    StoreMessage::Damaged(vec![DamagedFile {
        cf: Cf::Write,
        first_key: keys::data_key(first).into(),
        last_key: keys::data_key(last).into(),
        reason: "a test".to_owned(),
    }])
}

/// What damage does: the store's data is no longer what was written.
fn spoil(cluster: &Cluster, store_id: u64, key: &str) {
    let mut batch = WriteBatch::new();
    batch.put(Cf::Write, keys::data_key(key.as_bytes()), Bytes::from_static(b"rubbish"));
    cluster.stores[&store_id].kv.write(batch, true).unwrap();
}

#[test]
fn a_damaged_replica_is_rebuilt_whether_it_leads_or_not() {
    let region = region_of(1, &[(11, 1), (12, 2), (13, 3)]);
    let mut cluster = Cluster::new(3, &region);
    let leader = cluster.elect(1);
    cluster.put(leader, &region, "a", "1");
    cluster.run_ticks(5);
    let follower = if leader == 1 { 2 } else { 1 };
    for damaged in [follower, leader] {
        spoil(&cluster, damaged, "a");
        cluster.tell(damaged, damage(b"a", b"b"));
        cluster.run_until("the data is whole again", |cluster| {
            cluster.stored(damaged, "a").as_deref() == Some("1")
        });
        cluster.run_ticks(20);
        let leader = cluster.elect(1);
        cluster.put(leader, &region, "b", "2");
        cluster.run_until("it takes part again", |cluster| {
            cluster.stored(damaged, "b").as_deref() == Some("2")
        });
    }
}

#[test]
fn a_damaged_replica_does_not_serve_and_remembers_it() {
    let region = region_of(1, &[(11, 1), (12, 2), (13, 3)]);
    let mut cluster = Cluster::new(3, &region);
    let leader = cluster.elect(1);
    cluster.put(leader, &region, "a", "1");
    // Nobody can take over, nobody can help.
    cluster.isolate(leader);
    cluster.tell(leader, damage(b"a", b"a"));
    cluster.settle();
    let view = cluster.local_view(leader, &region);
    assert!(!matches!(view, Ok(Some(_))), "no read is answered");
    spoil(&cluster, leader, "a");
    cluster.crash(leader);
    cluster.start(leader);
    cluster.run_ticks(30);
    cluster.heal();
    cluster.run_until("the data is whole again", |cluster| {
        cluster.stored(leader, "a").as_deref() == Some("1")
    });
}

#[test]
fn the_only_replica_goes_on() {
    let region = region_of(1, &[(11, 1)]);
    let mut cluster = Cluster::new(1, &region);
    cluster.elect(1);
    cluster.put(1, &region, "a", "1");
    cluster.tell(1, damage(b"a", b"z"));
    cluster.run_ticks(20);
    cluster.put(1, &region, "b", "2");
    assert!(matches!(cluster.local_view(1, &region), Ok(Some(_))));
}
