//! What idle regions cost: CPU and memory of three stores in one process.
//!
//! `cargo run --release -p cairn-kv --example idle_regions [regions] [seconds]`; prints CPU of
//! each store's threads, resident memory per peer, and how long every region needs to get
//! a leader again after the store that leads most of them is stopped.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use cairn_engine::{KvEngine, MemoryEngine, MemoryRaftLog};
use cairn_kv::raftstore::state::bootstrap_region;
use cairn_kv::raftstore::{
    LocalNetwork, LocalTransport, RaftStore, RaftStoreConfig, RaftStoreParts, StoreId, SystemClock,
};
use cairn_proto::meta;

const REGIONS_DEFAULT: u64 = 10_000;
const SECONDS_DEFAULT: u64 = 20;
const STORES: u64 = 3;
/// Unit of times in `/proc/…/stat`, as every Linux has it.
const TICKS_PER_SECOND: f64 = 100.0;
const PAGE_KIB: f64 = 4.0;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

#[allow(clippy::disallowed_methods, reason = "a benchmark measures time")]
fn now() -> Instant {
    Instant::now()
}

#[allow(clippy::disallowed_methods, reason = "a benchmark lets time pass")]
fn pause(duration: Duration) {
    std::thread::sleep(duration);
}

/// Resident memory of this process.
fn resident_kib() -> f64 {
    let text = std::fs::read_to_string("/proc/self/statm").expect("proc");
    let pages: f64 = text.split(' ').nth(1).and_then(|pages| pages.parse().ok()).expect("statm");
    pages * PAGE_KIB
}

/// CPU seconds of each store's threads so far, by the order in which they were started.
fn cpu_seconds() -> Vec<f64> {
    let mut threads = BTreeMap::new();
    for entry in std::fs::read_dir("/proc/self/task").expect("proc").flatten() {
        // A thread may end while it is looked at.
        let Ok(text) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        let (head, rest) = text.rsplit_once(')').expect("stat");
        let (id, name) = head.split_once(" (").expect("stat");
        if !matches!(name, "raft" | "apply" | "raft-background") {
            continue;
        }
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let ticks: f64 = fields[11..13].iter().filter_map(|field| field.parse::<f64>().ok()).sum();
        threads.insert(id.parse::<u64>().expect("id"), ticks / TICKS_PER_SECOND);
    }
    let times: Vec<f64> = threads.into_values().collect();
    times.chunks(3).map(|store| store.iter().sum()).collect()
}

fn region(number: u64, count: u64) -> meta::Region {
    let key = |number: u64| Bytes::from(format!("k{number:08}"));
    let peer = |store_id| meta::Peer { id: number * 10 + store_id, store_id, role: 0 };
    meta::Region {
        id: number * 10,
        start_key: if number == 1 { Bytes::new() } else { key(number) },
        end_key: if number == count { Bytes::new() } else { key(number + 1) },
        epoch: Some(meta::RegionEpoch { conf_ver: 1, version: 1 }),
        peers: (1..=STORES).map(peer).collect(),
    }
}

fn counter(store: &RaftStore, name: &str) -> u64 {
    let values = store.metrics().values();
    values.iter().find(|(known, _)| *known == name).map_or(0, |(_, value)| *value)
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) -> Duration {
    let begun = now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(300), "{what} takes too long");
        pause(Duration::from_millis(20));
    }
    begun.elapsed()
}

fn main() {
    let mut arguments = std::env::args().skip(1).filter_map(|argument| argument.parse().ok());
    let count = arguments.next().unwrap_or(REGIONS_DEFAULT);
    let seconds = arguments.next().unwrap_or(SECONDS_DEFAULT);
    let network = LocalNetwork::new();
    let mut engines = Vec::new();
    for store_id in 1..=STORES {
        let kv: Arc<dyn KvEngine> = Arc::new(MemoryEngine::new());
        for number in 1..=count {
            bootstrap_region(kv.as_ref(), store_id, &region(number, count)).expect("bootstrap");
        }
        engines.push(kv);
    }
    let before_kib = resident_kib();
    let mut stores = Vec::new();
    for (kv, store_id) in engines.into_iter().zip(1..) {
        let store = RaftStore::start(RaftStoreParts {
            config: RaftStoreConfig { seed: store_id, ..RaftStoreConfig::default() },
            store_id: StoreId(store_id),
            kv,
            log: Arc::new(MemoryRaftLog::new()),
            transport: Arc::new(LocalTransport::new(network.clone(), None)),
            pd: None,
            clock: Arc::new(SystemClock::new()),
        })
        .expect("a store");
        network.join(store_id, store.inbox().clone());
        stores.push(store);
    }
    let resting = |stores: &[Arc<RaftStore>]| -> u64 {
        stores.iter().map(|store| counter(store, "resting_leaders")).sum()
    };
    let elected = wait_until("elections", || {
        stores.iter().map(|store| counter(store, "leaders")).sum::<u64>() >= count
    });
    println!("{count} regions on {STORES} stores have leaders after {elected:.1?}");
    let rested = wait_until("rest", || resting(&stores) >= count);
    println!("all rest after another {rested:.1?}");
    let kib = (resident_kib() - before_kib) / (count * STORES) as f64;
    println!("resident memory per peer: {kib:.1} KiB");

    let (before, begun) = (cpu_seconds(), now());
    let beats_before: u64 = stores.iter().map(|store| counter(store, "messages_sent")).sum();
    pause(Duration::from_secs(seconds));
    let elapsed = begun.elapsed().as_secs_f64();
    for (number, (after, before)) in cpu_seconds().iter().zip(&before).enumerate() {
        let percent = (after - before) / elapsed * 100.0;
        println!("store {}: {percent:.2} % of a core", number + 1);
    }
    let beats: u64 = stores.iter().map(|store| counter(store, "messages_sent")).sum();
    println!("messages between stores per second: {:.0}", (beats - beats_before) as f64 / elapsed);
    assert_eq!(resting(&stores), count, "some woke by themselves");

    let leaders = |store: &Arc<RaftStore>| counter(store, "leaders");
    stores.sort_by_key(leaders);
    let dead = stores.pop().expect("three stores");
    let lost = leaders(&dead);
    network.leave(dead.kv().store_id().0);
    let recovered = wait_until("new leaders", || stores.iter().map(leaders).sum::<u64>() >= count);
    println!("a store that led {lost} regions fell silent: all led again after {recovered:.1?}");
    let elections: u64 = stores.iter().map(|store| counter(store, "elections")).sum();
    println!("elections started since the start: {elections}");
    dead.stop();
    stores.iter().for_each(|store| store.stop());
}
