//! A statement that ends leaves nothing running in the store, whichever way its requests went:
//! by direct calls or over gRPC; as a stream of pages or as a read that waits for its turn.

use std::sync::Arc;
use std::time::Duration;

use cairn_engine::KvEngine;
use cairn_executor::plan::{EvalSettings, Fragment, OpDesc, ScanColumn, TableScanDesc};
use cairn_kv_client::{
    ClientConfig, Deadline, DistScan, DistScanRequest, GrpcConnector, KeyRange, KvClient, KvError,
    LocalConnector, RequestScope, ScanOptions, StoreConnector,
};
use cairn_pd_client::PdClient;
use cairn_proto::meta;
use cairn_types::keys::{encode_row_key, row_range};
use cairn_types::row::RowEncoder;
use cairn_types::{ColumnId, DatumRef, FieldType, Handle, TableId, TimeStamp};
use tokio::net::TcpListener;
use tokio::runtime::Handle as Runtime;
use tokio_util::sync::CancellationToken;

use super::testing::{FakePd, MemoryKv};
use super::tests::NoRaft;
use super::*;
use crate::mvcc::{MvccTxn, Write, WriteKind, keys};
use crate::raftstore::SystemClock;

const TABLE: TableId = TableId(7);
const TEXT: ColumnId = ColumnId(2);
const READ_TS: TimeStamp = TimeStamp(100);
/// More bytes together than gRPC's windows and queues hold: a task cannot end while nobody reads.
const ROWS: i64 = 2_000;
const ROW_BYTES: usize = 32 << 10;
/// What the store may take to notice, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// A store of one region with one thread's turns, and a client of it.
struct Served {
    pool: Arc<ReadPool>,
    client: Arc<KvClient>,
    stop: CancellationToken,
}

impl Served {
    async fn start(over_grpc: bool) -> Served {
        let kv = MemoryKv::new();
        let mut txn = MvccTxn::new();
        let text = vec![b'x'; ROW_BYTES];
        for row in 0..ROWS {
            let mut encoder = RowEncoder::new();
            encoder.push(TEXT, DatumRef::Bytes(&text)).unwrap();
            let value = encoder.finish();
            let mut write = Write::new(WriteKind::Put, TimeStamp(10));
            write.short_value = Some(&value);
            let key = encode_row_key(TABLE, &Handle::Int(row));
            txn.put_write(&keys::user_key(&key), TimeStamp(20), &write);
        }
        kv.engine.write(txn.into_batch(), false).unwrap();
        let clock = Arc::new(SystemClock::new());
        let pool = Arc::new(ReadPool::on(Runtime::current(), 1, Arc::clone(&clock) as _));
        let service = Arc::new(StoreService::new(
            Arc::clone(&kv) as _,
            clock,
            None,
            Arc::clone(&pool),
            crate::gc::VersionFilter::default(),
        ));
        let stop = CancellationToken::new();
        let mut store = meta::Store { id: 1, ..Default::default() };
        let connector: Arc<dyn StoreConnector> = if over_grpc {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            store.address = listener.local_addr().unwrap().to_string();
            let server = GrpcService::new(service, Arc::new(NoRaft));
            tokio::spawn(server.serve(listener, stop.clone()));
            Arc::new(GrpcConnector)
        } else {
            let connector = LocalConnector::new();
            connector.register(1, service);
            Arc::new(connector)
        };
        let pd = FakePd::new(1);
        let region = (**kv.region.lock()).clone();
        pd.bootstrap(store, region).await.unwrap();
        let client = KvClient::new(pd, connector, ClientConfig::default());
        Served { pool, client, stop }
    }

    /// A scan of everything that has given its first page.
    async fn scanning(&self, scope: RequestScope) -> DistScan {
        let columns = vec![
            ScanColumn::handle(ColumnId(1), FieldType::bigint()),
            ScanColumn::new(TEXT, FieldType::longtext()),
        ];
        let scan =
            TableScanDesc { table_id: TABLE, columns, desc: false, handle_types: Vec::new() };
        let operators = vec![OpDesc::TableScan(scan)];
        let fragment = Fragment { operators, settings: EvalSettings::default() };
        let request = DistScanRequest {
            scope,
            ..DistScanRequest::new(
                READ_TS,
                Arc::new(fragment.to_proto().unwrap()),
                vec![whole_table()],
            )
        };
        let mut scan = self.client.dist_scan(request);
        scan.next().await.expect("a page").expect("reads");
        scan
    }

    /// Until the store has so many reading tasks.
    async fn tasks(&self, count: usize) {
        let changed = async {
            while self.pool.running() != count {
                tokio::task::yield_now().await;
            }
        };
        let waited = tokio::time::timeout(PATIENCE, changed).await;
        assert!(waited.is_ok(), "{} reading tasks, not {count}", self.pool.running());
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn whole_table() -> KeyRange {
    let (start, end) = row_range(TABLE);
    KeyRange::new(start, end)
}

fn killable() -> (CancellationToken, RequestScope) {
    let token = CancellationToken::new();
    let scope = RequestScope { cancel: Some(token.clone()), ..RequestScope::default() };
    (token, scope)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_killed_scan_ends_in_the_store() {
    for over_grpc in [false, true] {
        let served = Served::start(over_grpc).await;
        let (kill, scope) = killable();
        let mut scan = served.scanning(scope).await;
        served.tasks(1).await;
        kill.cancel();
        assert_eq!(scan.next().await, Some(Err(KvError::Cancelled)));
        served.tasks(0).await;
        // So does one that is simply dropped.
        let scan = served.scanning(RequestScope::default()).await;
        served.tasks(1).await;
        drop(scan);
        served.tasks(0).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_scan_out_of_time_ends_in_the_store_though_nobody_says_so() {
    for over_grpc in [false, true] {
        let served = Served::start(over_grpc).await;
        let deadline = Some(Deadline::after(Duration::from_secs(3)));
        let mut scan = served.scanning(RequestScope { deadline, ..Default::default() }).await;
        served.tasks(1).await;
        // The client neither reads nor hangs up: the store knows the statement's deadline.
        served.tasks(0).await;
        let ended = loop {
            match scan.next().await {
                Some(Ok(_)) => {}
                Some(Err(error)) => break error,
                None => panic!("the scan cannot be whole"),
            }
        };
        assert_eq!(ended, KvError::StatementTimeout);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_read_that_waits_for_its_turn_is_taken_back() {
    for over_grpc in [false, true] {
        let served = Served::start(over_grpc).await;
        // Somebody has the only turn.
        let (release, held) = std::sync::mpsc::channel::<()>();
        let (has_it, holds) = tokio::sync::oneshot::channel();
        let pool = Arc::clone(&served.pool);
        let holder = tokio::spawn(async move {
            let hold = move || has_it.send(()).is_ok() && held.recv().is_err();
            pool.run(ReadTask::default(), hold).await
        });
        holds.await.unwrap();
        served.tasks(1).await;
        let (kill, scope) = killable();
        let snapshot = served.client.snapshot(READ_TS);
        let options = ScanOptions { batch_size: 1_000, key_only: true, ..ScanOptions::default() };
        let mut killed = snapshot.clone().within(scope).scan(whole_table(), options);
        let killed = tokio::spawn(async move { killed.next_batch().await });
        served.tasks(2).await;
        kill.cancel();
        assert_eq!(killed.await.unwrap(), Err(KvError::Cancelled));
        served.tasks(1).await;
        let mut dropped = snapshot.clone().scan(whole_table(), options);
        let dropped = tokio::spawn(async move { dropped.next_batch().await });
        served.tasks(2).await;
        dropped.abort();
        served.tasks(1).await;
        // Those that come later are served as ever.
        let mut later = snapshot.scan(whole_table(), options);
        let later = tokio::spawn(async move { later.next_batch().await });
        served.tasks(2).await;
        drop(release);
        assert!(holder.await.unwrap().unwrap());
        assert_eq!(later.await.unwrap().expect("reads").len(), 1_000);
        served.tasks(0).await;
    }
}
