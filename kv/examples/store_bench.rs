//! Figures of one store's storage: copying a region, writing without end, reading a queue.
//!
//! `cargo run --release -p cairn-kv --example store_bench -- WHAT [size]`, where WHAT is
//! - `snapshot [MiB]`: a region copied by Raft snapshot, with point gets beside it;
//! - `ingest [MiB]`: rows written through Raft by many writers, and their longest waits;
//! - `queue [seconds]`: a table that rows pass through, and reads of its head.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use cairn_engine::{
    Cf, KvEngine, RaftEngineLog, RaftEngineOptions, RocksEngine, RocksOptions, WriteBatch,
};
use cairn_kv::mvcc::{MvccReader, MvccTxn, PairSink, ScanOptions, Scanner, Write, WriteKind, keys};
use cairn_kv::raftstore::snapshot::{Installation, SnapshotLimits, SnapshotRoom, install};
use cairn_kv::raftstore::state::bootstrap_region;
use cairn_kv::raftstore::{
    NoTransport, OutgoingSnapshot, RaftStore, RaftStoreConfig, RaftStoreParts, RegionContext,
    RegionEpoch, RegionError, RegionId, StoreId, SystemClock,
};
use cairn_proto::{kv, meta};
use cairn_types::TimeStamp;

const ROW_BYTES: usize = 1000;
const CHUNK_BYTES: usize = 512 * 1024;
const MIB: u64 = 1 << 20;

#[allow(clippy::disallowed_methods, reason = "a benchmark measures time")]
fn now() -> Instant {
    Instant::now()
}

fn row_key(number: u64) -> Vec<u8> {
    let mut key = vec![b't'];
    key.extend_from_slice(&(42u64 | 1 << 63).to_be_bytes());
    key.extend_from_slice(b"_r");
    key.extend_from_slice(&(number | 1 << 63).to_be_bytes());
    key
}

/// Bytes that do not compress away.
fn value(number: u64, length: usize) -> Vec<u8> {
    let mut state = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect()
}

fn put(batch: &mut MvccTxn, number: u64, ts: u64, value: &Bytes) {
    let mut write = Write::new(WriteKind::Put, TimeStamp(ts - 1));
    let key = keys::user_key(&row_key(number));
    if MvccTxn::is_short(value) {
        write.short_value = Some(value);
    } else {
        batch.put_value(&key, TimeStamp(ts - 1), value);
    }
    batch.put_write(&key, TimeStamp(ts), &write);
}

fn rss_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    kib.unwrap_or(0) / 1024
}

/// Percentiles of waits in milliseconds.
fn show(what: &str, waits: &mut [Duration]) {
    waits.sort_unstable();
    let at = |part: f64| {
        let position = ((waits.len() as f64 * part) as usize).min(waits.len().saturating_sub(1));
        waits.get(position).map_or(0.0, |wait| wait.as_secs_f64() * 1000.0)
    };
    let (median, high, worst) = (at(0.5), at(0.99), at(1.0));
    println!("{what:<38} p50 {median:>8.3} ms  p99 {high:>8.3} ms  max {worst:>9.3} ms");
}

/// Gets of random rows until told to stop.
fn reader(engine: &RocksEngine, rows: u64, stop: &AtomicBool) -> Vec<Duration> {
    let mut waits = Vec::new();
    let mut state = 7u64;
    while !stop.load(Ordering::Relaxed) {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let start = now();
        let mut reader = MvccReader::new(engine.live());
        let found = reader.get(&row_key((state >> 33) % rows), TimeStamp(100), &[]);
        assert!(found.expect("get").is_some());
        waits.push(start.elapsed());
        // A client's think time: the machine is not filled by this alone.
        std::thread::park_timeout(Duration::from_micros(500));
    }
    waits
}

fn snapshot(folder: &Path, mib: u64) {
    let open = |name: &str| {
        Arc::new(RocksEngine::open(&folder.join(name), &RocksOptions::default()).expect("open"))
    };
    let (source, target) = (open("source"), open("target"));
    let rows = mib * MIB / ROW_BYTES as u64;
    for first in (0..rows).step_by(1000) {
        let mut txn = MvccTxn::new();
        for number in first..(first + 1000).min(rows) {
            put(&mut txn, number, 11, &value(number, ROW_BYTES).into());
        }
        source.write(txn.into_batch(), false).expect("write");
    }
    source.flush().expect("flush");
    let region = meta::Region { id: 1, ..meta::Region::default() };
    let room = |engine: Arc<RocksEngine>, name: &str| {
        let limits = SnapshotLimits {
            dir: Some(folder.join(name)),
            bytes_per_second: RaftStoreConfig::default().snapshot_bytes_per_second,
            receives_max: 1,
        };
        SnapshotRoom::new(engine, limits, Arc::default(), Arc::new(SystemClock::new()))
    };
    let (sender, receiver) = (room(source.clone(), "out"), room(target.clone(), "in"));
    let stop = AtomicBool::new(false);
    let idle = std::thread::scope(|scope| {
        let gets = scope.spawn(|| reader(&source, rows, &stop));
        std::thread::park_timeout(Duration::from_secs(3));
        stop.store(true, Ordering::Relaxed);
        gets.join().expect("reader")
    });
    show("gets before", &mut { idle });
    stop.store(false, Ordering::Relaxed);
    let before = rss_mib();
    let mut peak = before;
    let busy = std::thread::scope(|scope| {
        let gets = scope.spawn(|| reader(&source, rows, &stop));
        let start = now();
        let outgoing = OutgoingSnapshot {
            head: kv::RaftMessage::default(),
            region: region.clone(),
            engine: source.snapshot(),
            shared: Arc::default(),
            peer_id: 2,
        };
        let files = sender.build(&outgoing).expect("build");
        let built = start.elapsed();
        peak = peak.max(rss_mib());
        let mut spool = receiver.receive(&region, files.manifest().clone()).expect("receive");
        for (position, file) in files.manifest().files.iter().enumerate() {
            let bytes = std::fs::read(files.path(position)).expect("read");
            assert_eq!(bytes.len() as u64, file.size_bytes);
            for chunk in bytes.chunks(CHUNK_BYTES) {
                let pause = sender.pace(chunk.len() as u64);
                if !pause.is_zero() {
                    std::thread::park_timeout(pause);
                }
                let checksum = crc32fast::hash(chunk);
                spool.push(&Bytes::copy_from_slice(chunk), checksum).expect("push");
            }
        }
        let sent = start.elapsed();
        let data = spool.finish().expect("finish");
        let installation = Installation {
            region: region.clone(),
            old_region: None,
            peer_id: 2,
            index: 42,
            term: 6,
            is_damaged: false,
            data,
            absorbed: Vec::new(),
        };
        install(target.as_ref(), &installation).expect("install");
        let done = start.elapsed();
        peak = peak.max(rss_mib());
        let wire: u64 = files.manifest().files.iter().map(|file| file.size_bytes).sum();
        println!(
            "{mib} MiB of rows, {} MiB of files: built {:.1} s, received {:.1} s, installed {:.2} s",
            wire / MIB,
            built.as_secs_f64(),
            (sent - built).as_secs_f64(),
            (done - sent).as_secs_f64(),
        );
        stop.store(true, Ordering::Relaxed);
        gets.join().expect("reader")
    });
    show("gets meanwhile", &mut { busy });
    println!("resident memory {before} MiB before, {peak} MiB at most at the steps' ends");
    let mut reader = MvccReader::new(target.live());
    for number in (0..rows).step_by(9973) {
        let found = reader.get(&row_key(number), TimeStamp(100), &[]).expect("get");
        assert_eq!(found.as_deref(), Some(&value(number, ROW_BYTES)[..]));
    }
}

fn start_store(folder: &Path) -> (Arc<RaftStore>, Arc<RocksEngine>, RegionContext) {
    let engine = RocksEngine::open(&folder.join("db"), &RocksOptions::default()).expect("open");
    let engine = Arc::new(engine);
    let log = RaftEngineLog::open(&folder.join("raft"), &RaftEngineOptions::default());
    let epoch = meta::RegionEpoch { conf_ver: 1, version: 1 };
    let region = meta::Region {
        id: 1,
        epoch: Some(epoch),
        peers: vec![meta::Peer { id: 2, store_id: 1, role: 0 }],
        ..meta::Region::default()
    };
    bootstrap_region(engine.as_ref(), 1, &region).expect("bootstrap");
    let store = RaftStore::start(RaftStoreParts {
        config: RaftStoreConfig { data_dir: Some(folder.to_owned()), ..RaftStoreConfig::default() },
        store_id: StoreId(1),
        kv: engine.clone(),
        log: Arc::new(log.expect("raft log")),
        transport: Arc::new(NoTransport),
        pd: None,
        clock: Arc::new(SystemClock::new()),
    });
    let context = RegionContext {
        region_id: RegionId(1),
        epoch: RegionEpoch::from(&epoch),
        ..RegionContext::default()
    };
    (store.expect("start"), engine, context)
}

/// As the transaction layer does: asks for admission, then writes; again when refused.
async fn write(store: &RaftStore, context: &RegionContext, batch: &WriteBatch) {
    loop {
        let outcome = match store.kv().admit_data(batch.size_bytes() as u64) {
            Ok(wait) => {
                tokio::time::sleep(wait).await;
                store.kv().write(context, batch.clone(), None).await
            }
            Err(error) => Err(error),
        };
        match outcome {
            Ok(()) => return,
            Err(RegionError::ServerIsBusy { backoff_ms, .. }) => {
                tokio::time::sleep(Duration::from_millis(backoff_ms.into())).await;
            }
            Err(RegionError::NotLeader { .. }) => {
                tokio::time::sleep(Duration::from_millis(10)).await
            }
            Err(error) => panic!("{error}"),
        }
    }
}

fn ingest(folder: &Path, mib: u64) {
    const WRITERS: u64 = 32;
    const ROWS_PER_WRITE: u64 = 16;
    let (store, engine, context) = start_store(folder);
    let runtime = tokio::runtime::Runtime::new().expect("runtime");
    let writes = mib * MIB / (ROWS_PER_WRITE * ROW_BYTES as u64);
    let next = Arc::new(AtomicU64::new(0));
    let start = now();
    let mut waits: Vec<Duration> = runtime.block_on(async {
        let writer = |_| {
            let (store, context, next) = (store.clone(), context.clone(), next.clone());
            async move {
                let mut waits = Vec::new();
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= writes {
                        return waits;
                    }
                    let mut txn = MvccTxn::new();
                    for row in 0..ROWS_PER_WRITE {
                        // Keys all over the table: compaction has to merge.
                        let id =
                            (number * ROWS_PER_WRITE + row).wrapping_mul(0x9E37_79B9_7F4A_7C15);
                        put(&mut txn, id >> 20, 11, &value(id, ROW_BYTES).into());
                    }
                    let begun = now();
                    write(&store, &context, &txn.into_batch()).await;
                    waits.push(begun.elapsed());
                }
            }
        };
        let tasks: Vec<_> = (0..WRITERS).map(|task| tokio::spawn(writer(task))).collect();
        let mut all = Vec::new();
        for task in tasks {
            all.extend(task.await.expect("writer"));
        }
        all
    });
    let seconds = start.elapsed().as_secs_f64();
    println!("{mib} MiB in {seconds:.1} s: {:.1} MiB/s", mib as f64 / seconds);
    show("writes of 16 rows of 1 KB", &mut waits);
    println!("{:?}", engine.pressure());
    for (name, value) in store.storage_values() {
        println!("  {name} {value}");
    }
    store.stop();
}

struct First(Option<Vec<u8>>);

impl PairSink for First {
    fn push(&mut self, raw_key: &[u8], _: &[u8]) {
        self.0.get_or_insert_with(|| raw_key.to_vec());
    }
}

fn queue(folder: &Path, seconds: u64) {
    const LENGTH: u64 = 100;
    const PER_SECOND: u64 = 1000;
    let (store, engine, context) = start_store(folder);
    let runtime = tokio::runtime::Runtime::new().expect("runtime");
    let (mut plain, mut jumping) = (Vec::new(), Vec::new());
    runtime.block_on(async {
        let mut ts = 100;
        let start = now();
        for number in 0..seconds * PER_SECOND {
            ts += 2;
            let mut txn = MvccTxn::new();
            put(&mut txn, number, ts, &Bytes::from_static(b"a job of the queue"));
            if number >= LENGTH {
                let gone = Write::new(WriteKind::Delete, TimeStamp(ts - 1));
                let key = keys::user_key(&row_key(number - LENGTH));
                txn.put_write(&key, TimeStamp(ts), &gone);
            }
            write(&store, &context, &txn.into_batch()).await;
            if number % 100 == 99 {
                for (waits, dead) in [(&mut jumping, store.kv().dead_ranges()), (&mut plain, None)]
                {
                    // Once the plain way takes seconds it is tried less often.
                    if dead.is_none() && number % 5000 != 4999 {
                        continue;
                    }
                    let begun = now();
                    let options = ScanOptions {
                        start: Bytes::from(row_key(0)),
                        end: Bytes::new(),
                        read_ts: TimeStamp(ts),
                        desc: false,
                        key_only: false,
                        resolved: Arc::new([]),
                    };
                    let view = engine.snapshot();
                    let mut scanner = Scanner::new(view, options).with_dead_ranges(dead);
                    let mut first = First(None);
                    scanner.next_batch(&mut first, 1).expect("scan");
                    let expected = row_key((number + 1).saturating_sub(LENGTH));
                    assert_eq!(first.0, Some(expected));
                    waits.push(begun.elapsed());
                }
            }
            let due = start + Duration::from_millis(number);
            tokio::time::sleep_until(due.into()).await;
        }
    });
    show("head of the queue, dead ranges known", &mut jumping);
    show("head of the queue, walked over", &mut plain);
    store.stop();
    assert!(engine.get(Cf::Default, b"nothing").expect("get").is_none());
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let what = arguments.next().unwrap_or_default();
    let size = arguments.next().and_then(|size| size.parse::<u64>().ok());
    let folder = tempfile::tempdir().expect("folder");
    match what.as_str() {
        "snapshot" => snapshot(folder.path(), size.unwrap_or(1024)),
        "ingest" => ingest(folder.path(), size.unwrap_or(5 * 1024)),
        "queue" => queue(folder.path(), size.unwrap_or(60)),
        _ => println!("snapshot [MiB] | ingest [MiB] | queue [seconds]"),
    }
}
