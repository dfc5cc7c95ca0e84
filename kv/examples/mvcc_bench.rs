//! Figures of the multi-version layer on RocksDB: point gets and scans per core.
//!
//! `cargo run --release -p cairn-kv --example mvcc_bench [rows]`; one thread, data
//! in cache, measured in time on a core. Gets are shown for data
//! in memtables and in files, through a snapshot of the engine and through its live view.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cairn_engine::{KvEngine, RocksEngine, RocksOptions};
use cairn_kv::mvcc::{MvccReader, MvccTxn, PairSink, ScanOptions, Scanner, Write, WriteKind, keys};
use cairn_types::TimeStamp;

const ROWS_DEFAULT: u64 = 500_000;
/// So many fit into one memtable.
const MEMTABLE_ROWS: u64 = 100_000;
const ROWS_PER_BATCH: u64 = 1000;
const RUN: Duration = Duration::from_secs(2);
const READ_TS: TimeStamp = TimeStamp(100);

/// Time that this thread had a core: figures stay right on a busy machine.
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos = stat.split(' ').next().and_then(|text| text.parse().ok());
    Duration::from_nanos(nanos.unwrap_or(0))
}

/// A row key as tables have it.
fn row_key(handle: u64) -> [u8; 19] {
    let mut key = [0; 19];
    key[0] = b't';
    key[1..9].copy_from_slice(&(42u64 | 1 << 63).to_be_bytes());
    key[9..11].copy_from_slice(b"_r");
    key[11..].copy_from_slice(&(handle | 1 << 63).to_be_bytes());
    key
}

struct Sum {
    rows: u64,
    bytes: u64,
}

impl PairSink for Sum {
    fn push(&mut self, raw_key: &[u8], value: &[u8]) {
        self.rows += 1;
        self.bytes += (raw_key.len() + value.len()) as u64;
    }
}

/// How a get reaches the engine.
#[derive(Clone, Copy)]
enum Way {
    Snapshot,
    Live,
    /// One reader for many gets, as batches and look-ups have it.
    Batch,
}

fn load(engine: &RocksEngine, rows: u64, value: &[u8]) {
    for first in (0..rows).step_by(ROWS_PER_BATCH as usize) {
        let mut txn = MvccTxn::new();
        for handle in first..(first + ROWS_PER_BATCH).min(rows) {
            let mut write = Write::new(WriteKind::Put, TimeStamp(10));
            write.short_value = Some(value);
            txn.put_write(&keys::user_key(&row_key(handle)), TimeStamp(11), &write);
        }
        engine.write(txn.into_batch(), false).expect("write");
    }
}

fn report(what: &str, count: u64, time: Duration) {
    println!("{what:<34} {:>12.0} per core-second", count as f64 / time.as_secs_f64());
}

fn gets(engine: &RocksEngine, rows: u64, what: &str, way: Way, is_missing: bool) {
    let mut state = 1u64;
    let mut count = 0;
    let start = cpu_time();
    while cpu_time() - start < RUN {
        let mut shared = MvccReader::new(engine.snapshot());
        for _ in 0..100 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let handle = (state >> 33) % rows + if is_missing { rows } else { 0 };
            let key = row_key(handle);
            let value = match way {
                Way::Snapshot => MvccReader::new(engine.snapshot()).get(&key, READ_TS, &[]),
                Way::Live => MvccReader::new(engine.live()).get(&key, READ_TS, &[]),
                Way::Batch => shared.get(&key, READ_TS, &[]),
            };
            let value = value.expect("get");
            assert_eq!(value.is_none(), is_missing);
        }
        count += 100;
    }
    report(what, count, cpu_time() - start);
}

fn scans(engine: &RocksEngine, what: &str, desc: bool) {
    let mut sum = Sum { rows: 0, bytes: 0 };
    let start = cpu_time();
    while cpu_time() - start < RUN {
        let options = ScanOptions {
            start: Bytes::copy_from_slice(&row_key(0)),
            end: Bytes::new(),
            read_ts: READ_TS,
            desc,
            key_only: false,
            resolved: Arc::new([]),
        };
        let mut scanner = Scanner::new(engine.snapshot(), options);
        while scanner.next_batch(&mut sum, 1024).expect("scan") {}
    }
    report(what, sum.rows, cpu_time() - start);
    assert!(sum.bytes > 0);
}

fn main() {
    let rows = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(ROWS_DEFAULT);
    for value_bytes in [20, 190] {
        let folder = tempfile::tempdir().expect("folder");
        let engine =
            RocksEngine::open(folder.path(), &RocksOptions::default()).expect("open RocksDB");
        load(&engine, MEMTABLE_ROWS.min(rows), &vec![7; value_bytes]);
        println!("{rows} rows of {value_bytes} bytes");
        gets(&engine, MEMTABLE_ROWS.min(rows), "get, memtable, snapshot", Way::Snapshot, false);
        gets(&engine, MEMTABLE_ROWS.min(rows), "get, memtable, live", Way::Live, false);
        load(&engine, rows, &vec![7; value_bytes]);
        engine.flush().expect("flush");
        gets(&engine, rows, "get, files, snapshot", Way::Snapshot, false);
        gets(&engine, rows, "get, files, live", Way::Live, false);
        gets(&engine, rows, "get, files, batches of 100", Way::Batch, false);
        gets(&engine, rows, "get of a missing key, files, live", Way::Live, true);
        scans(&engine, "scan, rows", false);
        scans(&engine, "scan backwards, rows", true);
    }
}
