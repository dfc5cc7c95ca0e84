//! What scheduling costs PD, by the number of regions: one heartbeat without news, one
//! whose leader changed, one look of the schedulers, one round of the patrol.
//!
//! `cargo run --release -p cairn-pd --example heartbeat_bench`

use std::hint::black_box;
use std::time::Instant;

use bytes::Bytes;
use cairn_pd::cluster::Cluster;
use cairn_pd::hot::Now;
use cairn_pd::state::{Command, State};
use cairn_proto::meta::{Peer, Region, RegionEpoch, Store};
use cairn_proto::pd::{RegionHeartbeatRequest, StoreStats};

const STORES: u64 = 50;
const ROUNDS: u64 = 200_000;

fn region(id: u64) -> Region {
    let key = |id: u64| Bytes::from(format!("t{id:010}"));
    let store = |n: u64| 1 + (id + n) % STORES;
    let peer = |n: u64| Peer { id: id * 10 + n, store_id: store(n), role: 0 };
    Region {
        id,
        start_key: key(id),
        end_key: key(id + 1),
        epoch: Some(RegionEpoch { conf_ver: 1, version: 1 }),
        peers: (0..3).map(peer).collect(),
    }
}

fn heartbeat(id: u64, leader: usize) -> RegionHeartbeatRequest {
    let region = region(id);
    RegionHeartbeatRequest {
        leader: Some(region.peers[leader]),
        region: Some(region),
        term: 6,
        approximate_size_bytes: 96 << 20,
        approximate_keys: 1_000_000,
        interval_ms: 10_000,
        written_keys: 50,
        written_bytes: 5_000,
        ..RegionHeartbeatRequest::default()
    }
}

/// Microseconds per round.
#[expect(clippy::disallowed_methods, reason = "a measurement")]
fn measure(rounds: u64, mut round: impl FnMut(u64)) -> f64 {
    let start = Instant::now();
    (0..rounds).for_each(&mut round);
    start.elapsed().as_secs_f64() * 1e6 / rounds as f64
}

fn main() {
    println!("regions   heartbeat  new leader  schedulers  patrol (1,024 regions)   [µs]");
    for regions in [1_000, 10_000, 100_000] {
        let mut state = State::default();
        let mut cluster = Cluster::new(3, 0);
        let now = |ms: u64| Now { ms, unix_ms: 1_700_000_000_000 + ms };
        for id in 1..=STORES {
            let store = Store { id, address: format!("store-{id}"), ..Store::default() };
            state.apply(Command::put_store(store)).expect("a new store");
            let stats = StoreStats { store_id: id, ..StoreStats::default() };
            cluster.store_heartbeat(stats, 0, 0);
        }
        state.apply(Command::put_regions((0..regions).map(region).collect())).expect("regions");
        let beat = |cluster: &mut Cluster, id: u64, leader: usize, ms: u64| {
            cluster.region_heartbeat(&heartbeat(id, leader), now(ms));
            black_box(cluster.check(&state, id, now(ms)));
            black_box(cluster.next_step(&state, id, now(ms)));
        };
        (0..regions).for_each(|id| beat(&mut cluster, id, 0, 0));
        let made = measure(ROUNDS, |n| drop(black_box(heartbeat(n % regions, 0))));
        // Time passes as it would: 100,000 heartbeats in ten seconds.
        let quiet = measure(ROUNDS, |n| beat(&mut cluster, n % regions, 0, n / 10)) - made;
        let moved = measure(ROUNDS, |n| {
            let turn = (n / regions + 1) % 3;
            beat(&mut cluster, n % regions, turn as usize, n / 10);
        }) - made;
        let looks = measure(200, |n| drop(black_box(cluster.schedule(&state, now(n)))));
        let patrol = measure(200, |n| drop(black_box(cluster.patrol(&state, now(n)))));
        println!("{regions:>7} {quiet:>11.2} {moved:>11.2} {looks:>11.1} {patrol:>11.1}");
    }
}
