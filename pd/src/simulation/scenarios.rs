//! What must become of larger clusters, whatever operators get them there.

use super::asks::assert_even;
use super::*;

/// Regions spread round robin over the stores.
fn spread(world: &mut World, regions: u64, stores: &[u64], size_bytes: u64) {
    let count = stores.len() as u64;
    for id in 1..=regions {
        let on = [0, 1, 2].map(|n| stores[((id + n) % count) as usize]);
        world.add_region(id, &on, size_bytes);
    }
}

fn assert_balanced(world: &World) {
    assert_even(&world.peers_by_store());
    assert_even(&world.leaders_by_store());
}

#[test]
fn one_store_becomes_three() {
    let mut world = World::new();
    world.add_store(1, &[]);
    for id in 1..=30 {
        world.add_region(id, &[1], 20 * MIB);
    }
    world.run(20);
    assert_eq!(world.log, [] as [String; 0]);
    world.add_store(2, &[]);
    world.add_store(3, &[]);
    world.settle(300);
    world.assert_replicated(3);
    assert_balanced(&world);
    // Two replicas each and the leaders of twenty: nothing was done twice.
    assert!(world.log.len() <= 30 * 2 + 20, "{}", world.log.len());
}

#[test]
fn a_fourth_store_takes_its_share() {
    let mut world = World::new();
    (1..=3).for_each(|id| world.add_store(id, &[]));
    spread(&mut world, 120, &[1, 2, 3], 40 * MIB);
    world.settle(200);
    let begun = world.log.len();
    world.add_store(4, &[]);
    world.settle(600);
    world.assert_replicated(3);
    assert_balanced(&world);
    // Ninety replicas and thirty leaders are due to it.
    let moves = world.log.len() - begun;
    assert!((90..=90 + 60).contains(&moves), "{moves}");
}

#[test]
fn a_store_is_taken_out_of_service() {
    let mut world = World::new();
    (1..=4).for_each(|id| world.add_store(id, &[]));
    spread(&mut world, 120, &[1, 2, 3, 4], 40 * MIB);
    world.settle(200);
    world.set_state(2, StoreState::Offline);
    world.run(20);
    let leaving = world.cluster.leaving(2, &world.state, world.now().ms).expect("under way");
    assert_eq!(leaving.peers_at_start, 90);
    assert!(leaving.peers_left < 90 && leaving.eta_s.is_some(), "{leaving:?}");
    // Somebody changes their mind, twice.
    world.set_state(2, StoreState::Up);
    world.settle(600);
    assert_eq!(world.cluster.leaving(2, &world.state, world.now().ms), None);
    assert_balanced(&world);
    world.set_state(2, StoreState::Offline);
    world.settle(600);
    assert_eq!(world.state.stores[&2].state(), StoreState::Tombstone);
    world.assert_replicated(3);
    assert_balanced(&world);
}

#[test]
fn a_dead_store_is_replaced_and_returns() {
    let mut world = World::new();
    world.set("max-store-down-time", "60s");
    (1..=4).for_each(|id| world.add_store(id, &[]));
    spread(&mut world, 80, &[1, 2, 3, 4], 20 * MIB);
    world.settle(200);
    world.kill(3);
    // Disconnected is not down: most come back.
    let begun = world.log.len();
    world.run(50);
    let replaced = world.log[begun..].iter().filter(|line| line.contains("replica")).count();
    assert_eq!(replaced, 0, "{:?}", world.log);
    world.settle(900);
    world.assert_replicated(3);
    world.revive(3);
    world.settle(900);
    world.assert_replicated(3);
    assert_balanced(&world);
}

#[test]
fn a_whole_zone_is_lost() {
    let mut world = World::new();
    world.set("max-store-down-time", "30s");
    world.set("location-labels", "zone,host");
    for id in 1..=9 {
        let zone = ["a", "b", "c"][(id as usize - 1) / 3];
        let host = id.to_string();
        world.add_store(id, &[("zone", zone), ("host", &host)]);
    }
    // All in the first zone at first.
    for id in 1..=90 {
        world.add_region(id, &[1, 2, 3], 10 * MIB);
    }
    world.settle(900);
    world.assert_replicated(3);
    world.assert_apart("zone");
    assert_balanced(&world);
    for id in 4..=6 {
        world.kill(id);
    }
    world.settle(1_200);
    // Two zones are left: three replicas again, on hosts of their own.
    world.assert_replicated(3);
    world.assert_apart("host");
    for id in 4..=6 {
        world.revive(id);
    }
    world.settle(1_200);
    world.assert_replicated(3);
    world.assert_apart("zone");
    assert_balanced(&world);
}

#[test]
fn isolation_that_is_insisted_on_is_waited_for() {
    let mut world = World::new();
    world.set("location-labels", "zone");
    world.set("isolation-level", "zone");
    world.set("max-store-down-time", "30s");
    for (id, zone) in [(1, "a"), (2, "b"), (3, "c"), (4, "c")] {
        world.add_store(id, &[("zone", zone)]);
    }
    spread(&mut world, 20, &[1, 2, 3], 10 * MIB);
    world.settle(300);
    world.kill(2);
    world.run(200);
    // Zone b has no other store: two replicas stay, none doubles up.
    assert!(world.log.iter().all(|line| !line.contains("replace-replica")), "{:?}", world.log);
    world.add_store(5, &[("zone", "b")]);
    world.settle(600);
    world.assert_replicated(3);
    world.assert_apart("zone");
}

#[test]
fn hot_regions_are_spread() {
    let mut world = World::new();
    (1..=3).for_each(|id| world.add_store(id, &[]));
    spread(&mut world, 30, &[1, 2, 3], 10 * MIB);
    world.settle(200);
    // The busiest nine are all led from one store.
    let busy: Vec<u64> = world
        .regions
        .iter()
        .filter(|(_, one)| one.leader.store_id == 1)
        .map(|(id, _)| *id)
        .take(9)
        .collect();
    for id in &busy {
        world.regions.get_mut(id).expect("it is there").reads = 2_000;
    }
    // Within a minute of being seen something moves; in the end it is even.
    world.run(60);
    assert!(world.log.iter().any(|line| line.contains("balance-hot")), "{:?}", world.log);
    world.run(600);
    let mut reads: BTreeMap<u64, u64> = BTreeMap::new();
    for one in world.regions.values() {
        *reads.entry(one.leader.store_id).or_default() += one.reads;
    }
    assert!(reads.values().all(|reads| (5_000..=7_000).contains(reads)), "{reads:?}");
    let moves = world.log.iter().filter(|line| line.contains("balance-hot")).count();
    assert!(moves <= 12, "{moves}: {:?}", world.log);
    assert!(world.cluster.hot().history().any(|event| !event.action.is_empty()));
}

#[test]
fn one_hot_region_is_cut_and_spread() {
    let mut world = World::new();
    (1..=3).for_each(|id| world.add_store(id, &[]));
    spread(&mut world, 3, &[1, 2, 3], 10 * MIB);
    world.settle(100);
    world.regions.get_mut(&1).expect("it is there").reads = 9_000;
    world.run(900);
    let mut reads: BTreeMap<u64, u64> = BTreeMap::new();
    for one in world.regions.values() {
        *reads.entry(one.leader.store_id).or_default() += one.reads;
    }
    assert!(reads.values().all(|reads| *reads <= 5_000), "{reads:?} {:?}", world.log);
}

#[test]
fn small_disks_fill_no_further() {
    let mut world = World::new();
    (1..=4).for_each(|id| world.add_store(id, &[]));
    for (id, gib) in [(1, 2), (2, 10), (3, 10), (4, 10)] {
        world.stores.get_mut(&id).expect("told").capacity_bytes = gib << 30;
    }
    spread(&mut world, 100, &[2, 3, 4], 64 * MIB);
    world.settle(1_500);
    world.assert_replicated(3);
    let peers = world.peers_by_store();
    // A fifth of the others' disk: it holds less, and stays below four fifths of it.
    assert!(peers[&1] * 64 < 2_048 * 8 / 10, "{peers:?}");
    assert!(peers[&1] > 5 && peers[&1] < peers[&2], "{peers:?}");
    let large: BTreeMap<u64, usize> = peers.into_iter().filter(|(id, _)| *id != 1).collect();
    assert_even(&large);
}

#[test]
fn small_regions_merge() {
    let mut world = World::new();
    world.set("split-merge-interval", "60s");
    (1..=4).for_each(|id| world.add_store(id, &[]));
    spread(&mut world, 64, &[1, 2, 3, 4], MIB);
    // Regions are young: nothing yet.
    world.settle(300);
    assert_eq!(world.regions.len(), 64);
    while world.regions.len() > 1 && world.second < 3_000 {
        world.run(60);
    }
    // All of one table, 64 MiB in all: one region's worth.
    assert_eq!(world.regions.len(), 1);
    world.assert_replicated(3);
    let bytes: u64 = world.regions.values().map(|one| one.size_bytes).sum();
    assert_eq!(bytes, 64 * MIB);
    let all: Vec<&Region> = world.state.regions.iter().collect();
    assert_eq!(all.len(), world.regions.len());
}

#[test]
fn rules_are_honoured_as_they_change() {
    let mut world = World::new();
    for (id, disk) in [(1, "ssd"), (2, "ssd"), (3, "ssd"), (4, "hdd"), (5, "hdd"), (6, "hdd")] {
        world.add_store(id, &[("disk", disk)]);
    }
    spread(&mut world, 30, &[1, 2, 3, 4, 5, 6], 10 * MIB);
    world.settle(300);
    // The second half of the keys moves to slow disks.
    let rule = r#"{"group_id":"pd","id":"cold","index":5,"override":true,"start_key":"7430303030303030315F723030303030303136","role":"voter","count":3,"label_constraints":[{"key":"disk","op":"in","values":["hdd"]}]}"#;
    world.put_config("placement/rule/pd/cold", rule);
    world.settle(900);
    world.assert_replicated(3);
    for one in world.regions.values().filter(|one| one.region.id >= 16) {
        assert!(one.region.peers.iter().all(|peer| peer.store_id >= 4), "{:?}", one.region);
    }
    assert_even(&world.peers_by_store());
}

#[test]
fn fifty_stores_and_five_thousand_regions() {
    let mut world = World::new();
    world.report_s = 30;
    for id in 1..=50 {
        let (zone, host) = (format!("z{}", id % 5), format!("h{id}"));
        world.add_store(id, &[("zone", &zone), ("host", &host)]);
    }
    // Five stores are new and empty.
    let old: Vec<u64> = (1..=45).collect();
    spread(&mut world, 5_000, &old, 32 * MIB);
    world.settle(1_800);
    world.assert_replicated(3);
    world.assert_apart("zone");
    assert_balanced(&world);
    // Fifteen hundred replicas are due to them; leaders follow.
    assert!(world.log.len() <= 1_500 + 1_500, "{}", world.log.len());
}
