//! What scans cost point gets: waits of gets alone, and beside scans that fill the machine.
//!
//! `cargo run --release -p cairn-kv --example overload_bench [scans] [seconds] [threads]`: one
//! store on RocksDB in this process, with as many threads for reads as cores unless told. A client sends gets one after the other, each through the
//! runtime that serves requests; every scan reads the whole table, again and again. The
//! goal is a ratio of the 99th percentiles of at most 2.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use cairn_engine::{KvEngine, MemoryRaftLog, RocksEngine, RocksOptions};
use cairn_executor::KeyRange;
use cairn_executor::plan::{
    EvalSettings, Fragment, OpDesc, ScanColumn, SelectionDesc, TableScanDesc,
};
use cairn_expr::{EvalContext, Expr, build_function};
use cairn_kv::gc::VersionFilter;
use cairn_kv::mvcc::{MvccTxn, Write, WriteKind, keys};
use cairn_kv::raftstore::state::bootstrap_region;
use cairn_kv::raftstore::{
    Clock, NoTransport, RaftStore, RaftStoreConfig, RaftStoreParts, StoreId, SystemClock,
};
use cairn_kv::service::{ReadPool, StoreService};
use cairn_kv_client::KvStoreService;
use cairn_proto::kv::kv_request::Cmd;
use cairn_proto::{kv, meta};
use cairn_types::keys::{encode_row_key, row_range};
use cairn_types::row::RowEncoder;
use cairn_types::{ColumnId, Datum, DatumRef, FieldType, Handle, TableId, TimeStamp};
use futures::StreamExt;
use tokio_util::sync::CancellationToken;

const TABLE: TableId = TableId(42);
const VALUE: ColumnId = ColumnId(2);
const ROWS: i64 = 50_000;
const SCANS_DEFAULT: u64 = 16;
const SECONDS_DEFAULT: u64 = 20;
/// Stretches of gets alone and beside scans.
const ROUNDS: u32 = 5;
/// A client's think time: the machine is not filled by gets alone.
const THINK_TIME: Duration = Duration::from_micros(500);

#[allow(clippy::disallowed_methods, reason = "a benchmark measures time")]
fn now() -> Instant {
    Instant::now()
}

fn fill(engine: &RocksEngine) {
    let mut txn = MvccTxn::new();
    for row in 0..ROWS {
        let mut encoder = RowEncoder::new();
        encoder.push(VALUE, DatumRef::Int(row * 2)).expect("a row");
        let value = encoder.finish();
        let mut write = Write::new(WriteKind::Put, TimeStamp(10));
        write.short_value = Some(&value);
        let key = keys::user_key(&encode_row_key(TABLE, &Handle::Int(row)));
        txn.put_write(&key, TimeStamp(11), &write);
        if row % 1000 == 999 {
            engine
                .write(std::mem::replace(&mut txn, MvccTxn::new()).into_batch(), false)
                .expect("a write");
        }
    }
    engine.flush().expect("flush");
}

/// A filter that no row passes.
fn fragment() -> Fragment {
    let bigint = FieldType::bigint;
    let columns = vec![ScanColumn::handle(ColumnId(1), bigint()), ScanColumn::new(VALUE, bigint())];
    let scan = TableScanDesc { table_id: TABLE, columns, desc: false, handle_types: vec![] };
    let column = Expr::Column { index: 1, ty: bigint() };
    let bound = Expr::Constant { value: Datum::Int(0), ty: bigint() };
    let condition = build_function("<", vec![column, bound], &mut EvalContext::default());
    let conditions = vec![condition.expect("a condition")];
    let operators = vec![OpDesc::TableScan(scan), OpDesc::Selection(SelectionDesc { conditions })];
    Fragment { operators, settings: EvalSettings::default() }
}

struct Bench {
    service: Arc<StoreService>,
    context: kv::Context,
    runtime: tokio::runtime::Runtime,
    read_ts: AtomicU64,
}

impl Bench {
    /// Gets of random rows, one after the other: how long each took.
    fn gets(&self, duration: Duration) -> Vec<Duration> {
        let mut waits = Vec::new();
        let mut state = 7u64;
        let end = now() + duration;
        while now() < end {
            std::thread::park_timeout(THINK_TIME);
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let row = (state >> 33) as i64 % ROWS;
            let key = Bytes::from(encode_row_key(TABLE, &Handle::Int(row)));
            let request = kv::KvRequest {
                context: Some(self.context.clone()),
                cmd: Some(Cmd::Get(kv::GetRequest { key, version: 100 })),
            };
            let (service, begun) = (self.service.clone(), now());
            let (answer, answered) = std::sync::mpsc::channel();
            self.runtime.spawn(async move {
                // The client waits as long as this takes.
                let _ = answer.send(service.call(request).await);
            });
            let response = answered.recv().expect("an answer").expect("an answer");
            // The first ones may come before the region has a leader.
            assert!(response.region_error.is_none() || waits.is_empty(), "{response:?}");
            if response.region_error.is_none() {
                waits.push(begun.elapsed());
            }
        }
        waits
    }

    /// Scans of the whole table until told to stop; answers how many ended, and how many
    /// were refused.
    async fn scan(&self, stop: CancellationToken) -> (u64, u64) {
        let (mut done, mut refused) = (0, 0);
        let fragment = fragment().to_proto().expect("a fragment");
        let (start, end) = row_range(TABLE);
        loop {
            let request = kv::CoprocessorRequest {
                context: Some(self.context.clone()),
                start_ts: self.read_ts.fetch_add(1, Ordering::Relaxed),
                fragment: Some(fragment.clone()),
                ranges: vec![KeyRange::new(start.clone(), end.clone()).into()],
                page_rows: 0,
                tables: Vec::new(),
            };
            let mut pages = self.service.coprocessor(request).await.expect("a stream");
            loop {
                // Dropping the stream ends the task in the store.
                let page = tokio::select! {
                    page = pages.next() => page,
                    () = stop.cancelled() => return (done, refused),
                };
                let Some(page) = page else { break };
                let page = page.expect("a page");
                done += u64::from(page.summaries.is_some());
                if page.region_error.is_some() {
                    refused += 1;
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        }
    }
}

/// Median and 99th percentile.
fn show(what: &str, mut waits: Vec<Duration>) -> f64 {
    waits.sort_unstable();
    let micros = |part: f64| waits[(waits.len() as f64 * part) as usize].as_secs_f64() * 1e6;
    let (median, high) = (micros(0.5), micros(0.99));
    println!("{what:<14} {:>7} gets  p50 {median:>8.0} us  p99 {high:>8.0} us", waits.len());
    high
}

fn main() {
    let mut arguments = std::env::args().skip(1).filter_map(|argument| argument.parse().ok());
    let scans = arguments.next().unwrap_or(SCANS_DEFAULT);
    let duration = Duration::from_secs(arguments.next().unwrap_or(SECONDS_DEFAULT));
    let folder = tempfile::tempdir().expect("folder");
    let engine = RocksEngine::open(folder.path(), &RocksOptions::default()).expect("open");
    let engine = Arc::new(engine);
    fill(&engine);
    let peer = meta::Peer { id: 2, store_id: 1, role: 0 };
    let epoch = Some(meta::RegionEpoch { conf_ver: 1, version: 1 });
    let region = meta::Region { id: 1, epoch, peers: vec![peer], ..meta::Region::default() };
    bootstrap_region(engine.as_ref(), 1, &region).expect("bootstrap");
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let store = RaftStore::start(RaftStoreParts {
        config: RaftStoreConfig::default(),
        store_id: StoreId(1),
        kv: engine,
        log: Arc::new(MemoryRaftLog::new()),
        transport: Arc::new(NoTransport),
        pd: None,
        clock: clock.clone(),
    })
    .expect("a store");
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = arguments.next().map_or(cores, |threads| threads as usize);
    let pool = Arc::new(ReadPool::new(threads, clock.clone()).expect("a pool"));
    let service =
        Arc::new(StoreService::new(store.kv(), clock, None, pool, VersionFilter::default()));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let context = kv::Context { region_id: 1, epoch, peer: Some(peer), ..kv::Context::default() };
    let runtime = runtime.expect("a runtime");
    let bench = Arc::new(Bench { service, context, runtime, read_ts: AtomicU64::new(100) });

    // In turn, so that whatever else the machine does falls on both alike.
    let (mut alone, mut beside, mut outcomes) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        alone.extend(bench.gets(duration / ROUNDS));
        let stop = CancellationToken::new();
        let scanning: Vec<_> = (0..scans)
            .map(|_| {
                let (of_scan, stop) = (bench.clone(), stop.clone());
                bench.runtime.spawn(async move { of_scan.scan(stop).await })
            })
            .collect();
        beside.extend(bench.gets(duration / ROUNDS));
        stop.cancel();
        outcomes.extend(bench.runtime.block_on(futures::future::join_all(scanning)));
    }
    let (alone, beside) = (show("alone", alone), show("beside scans", beside));
    let sum = |part: fn((u64, u64)) -> u64| -> u64 {
        outcomes.iter().map(|outcome| part(*outcome.as_ref().expect("a scan"))).sum()
    };
    let (done, refused) = (sum(|(done, _)| done), sum(|(_, refused)| refused));
    println!("{scans} scans at one time: {done} tables read, {refused} tasks refused");
    println!("p99 beside scans / alone: {:.2}", beside / alone);
    store.stop();
}
