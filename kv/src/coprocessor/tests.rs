//! Fragments over a region of one: rows, pages, resuming behind locks, lookups,
//! back-pressure and cancellation.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cairn_engine::KvEngine;
use cairn_executor::KeyRange;
use cairn_executor::broadcast::TableDigest;
use cairn_executor::plan::{
    BroadcastJoinDesc, EvalSettings, Fragment, HashJoinDesc, IndexLookupDesc, IndexScanDesc,
    JoinKind, JoinSide, LimitDesc, OpDesc, ScanColumn, SelectionDesc, TableScanDesc,
};
use cairn_expr::{EvalContext, Expr, build_function};
use cairn_kv_client::CoprocessorStream;
use cairn_proto::kv;
use cairn_types::keys::{encode_index_key, encode_row_key, index_range, row_range};
use cairn_types::row::RowEncoder;
use cairn_types::{
    Chunk, ColumnId, Datum, DatumRef, FieldType, Handle, IndexId, TableId, TimeStamp,
};
use futures::StreamExt;

use super::Endpoint;
use crate::mvcc::{Lock, LockKind, MvccTxn, Write, WriteKind, keys};
use crate::raftstore::{ManualClock, RaftKv};
use crate::service::ReadPool;
use crate::service::testing::MemoryKv;
use crate::txn::MaxTs;

const TABLE: TableId = TableId(7);
const INDEX: IndexId = IndexId(1);
const VALUE: ColumnId = ColumnId(2);
const COMMIT_TS: TimeStamp = TimeStamp(20);

fn bigint() -> FieldType {
    FieldType::bigint()
}

/// A table `(id BIGINT, v BIGINT, INDEX (v))` with rows `(n, n * 2)`.
struct Table {
    kv: Arc<MemoryKv>,
    endpoint: Endpoint,
    max_ts: Arc<MaxTs>,
}

impl Table {
    fn new(rows: i64) -> Table {
        let kv = MemoryKv::new();
        let mut txn = MvccTxn::new();
        for row in 0..rows {
            let handle = Handle::Int(row);
            let mut encoder = RowEncoder::new();
            encoder.push(VALUE, DatumRef::Int(row * 2)).unwrap();
            let value = encoder.finish();
            put(&mut txn, &encode_row_key(TABLE, &handle), &value);
            let columns = [(DatumRef::Int(row * 2), &bigint())];
            let entry = encode_index_key(TABLE, INDEX, columns, Some(&handle));
            put(&mut txn, &entry, &cairn_types::keys::encode_index_value(None, None));
        }
        kv.engine.write(txn.into_batch(), false).unwrap();
        let max_ts = Arc::new(MaxTs::default());
        let clock = Arc::new(ManualClock::new());
        let endpoint = Endpoint::new(
            Arc::clone(&kv) as Arc<dyn RaftKv>,
            clock.clone(),
            Arc::clone(&max_ts),
            Arc::new(ReadPool::new(1, clock).unwrap()),
        );
        Table { kv, endpoint, max_ts }
    }

    fn lock_row(&self, row: i64, start_ts: u64) {
        let mut txn = MvccTxn::new();
        let lock = Lock {
            kind: LockKind::Put,
            primary: "p".into(),
            start_ts: start_ts.into(),
            ttl_ms: 0,
            txn_size: 1,
            for_update_ts: TimeStamp::ZERO,
            min_commit_ts: TimeStamp(start_ts + 1),
            use_async_commit: false,
            secondaries: vec![],
            short_value: None,
            last_change: None,
            generation: 0,
            is_shared: false,
            others: vec![],
        };
        txn.put_lock(&keys::user_key(&encode_row_key(TABLE, &Handle::Int(row))), &lock);
        self.kv.engine.write(txn.into_batch(), false).unwrap();
    }

    fn run(&self, operators: Vec<OpDesc>, range: KeyRange, page_rows: u32) -> CoprocessorStream {
        self.run_with(operators, range, page_rows, Vec::new())
    }

    fn run_with(
        &self,
        operators: Vec<OpDesc>,
        range: KeyRange,
        page_rows: u32,
        tables: Vec<kv::BroadcastTable>,
    ) -> CoprocessorStream {
        let fragment = Fragment { operators, settings: EvalSettings::default() };
        self.endpoint.run(kv::CoprocessorRequest {
            context: Some(self.kv.context()),
            start_ts: 100,
            fragment: Some(fragment.to_proto().unwrap()),
            ranges: vec![range.into()],
            page_rows,
            tables,
        })
    }
}

fn put(txn: &mut MvccTxn, raw_key: &[u8], value: &[u8]) {
    let mut write = Write::new(WriteKind::Put, TimeStamp(10));
    write.short_value = Some(value);
    txn.put_write(&keys::user_key(raw_key), COMMIT_TS, &write);
}

fn columns() -> Vec<ScanColumn> {
    vec![ScanColumn::handle(ColumnId(1), bigint()), ScanColumn::new(VALUE, bigint())]
}

fn table_scan(desc: bool) -> OpDesc {
    let handle_types = vec![];
    OpDesc::TableScan(TableScanDesc { table_id: TABLE, columns: columns(), desc, handle_types })
}

fn all_rows() -> KeyRange {
    let (start, end) = row_range(TABLE);
    KeyRange::new(start, end)
}

/// Rows of a page's chunk: `(id, v)`.
fn rows(page: &kv::CoprocessorResponse) -> Vec<(i64, i64)> {
    if page.chunk.is_empty() {
        return Vec::new();
    }
    let chunk = Chunk::decode(&page.chunk, &[bigint(), bigint()]).unwrap();
    let int = |datum: &Datum| match datum {
        Datum::Int(value) => *value,
        other => panic!("{other:?}"),
    };
    chunk.selected().map(|row| chunk.row(row)).map(|row| (int(&row[0]), int(&row[1]))).collect()
}

async fn collect(stream: CoprocessorStream) -> Vec<kv::CoprocessorResponse> {
    stream.map(|page| page.unwrap()).collect().await
}

#[tokio::test]
async fn streams_growing_pages_and_summaries() {
    let table = Table::new(1000);
    let pages = collect(table.run(vec![table_scan(false)], all_rows(), 32)).await;
    let found: Vec<_> = pages.iter().flat_map(rows).collect();
    assert_eq!(found, (0..1000).map(|n| (n, n * 2)).collect::<Vec<_>>());
    let sizes: Vec<_> = pages.iter().map(|page| rows(page).len()).collect();
    assert!(sizes.len() > 2 && sizes.windows(2).take(3).all(|pair| pair[0] < pair[1]), "{sizes:?}");
    let last = pages.last().unwrap();
    assert_eq!(last.summaries.as_ref().unwrap().operators[0].rows, 1000);
    assert!(last.next_start.is_empty());
    // Every page but the last says where to go on.
    let mut seen = 0;
    for page in &pages[..pages.len() - 1] {
        seen += rows(page).len() as i64;
        let rest = KeyRange::new(page.next_start.clone(), all_rows().end);
        let resumed = collect(table.run(vec![table_scan(false)], rest, 0)).await;
        assert_eq!(resumed.iter().flat_map(rows).next(), Some((seen, seen * 2)));
    }
}

/// Rows with such a value pass.
fn at_least(bound: i64) -> OpDesc {
    let column = Expr::Column { index: 1, ty: bigint() };
    let bound = Expr::Constant { value: Datum::Int(bound), ty: bigint() };
    let mut eval = EvalContext::default();
    let condition = build_function(">=", vec![column, bound], &mut eval).unwrap();
    OpDesc::Selection(SelectionDesc { conditions: vec![condition] })
}

#[tokio::test]
async fn filters_and_limits() {
    let table = Table::new(300);
    let selection = at_least(590);
    let limit = OpDesc::Limit(LimitDesc { offset: 0, limit: 3 });
    let pages = collect(table.run(vec![table_scan(true), selection, limit], all_rows(), 0)).await;
    assert_eq!(pages.len(), 1, "{pages:?}");
    assert_eq!(rows(&pages[0]), [(299, 598), (298, 596), (297, 594)]);
}

#[tokio::test]
async fn locks_end_a_task_where_it_stands() {
    let table = Table::new(200);
    table.lock_row(150, 50);
    let pages = collect(table.run(vec![table_scan(false)], all_rows(), 0)).await;
    let (last, before) = pages.split_last().unwrap();
    assert_eq!(last.locked.as_ref().unwrap().start_ts, 50);
    let found: Vec<_> = before.iter().flat_map(rows).collect();
    assert!(!found.is_empty() && found.len() <= 150);
    let resume = before.last().unwrap().next_start.clone();
    let expected = encode_row_key(TABLE, &Handle::Int(found.len() as i64));
    assert_eq!(
        KeyRange::point(&encode_row_key(TABLE, &Handle::Int(found.len() as i64 - 1))).end,
        resume
    );
    assert!(resume <= expected);
}

#[tokio::test]
async fn pending_one_phase_commits_block() {
    let table = Table::new(10);
    let request = kv::PrewriteRequest {
        mutations: vec![kv::Mutation {
            key: encode_row_key(TABLE, &Handle::Int(5)).into(),
            ..Default::default()
        }],
        start_ts: 60,
        ..Default::default()
    };
    let pending = table.max_ts.begin(&request);
    let pages = collect(table.run(vec![table_scan(false)], all_rows(), 0)).await;
    assert_eq!(pages[0].locked.as_ref().unwrap().start_ts, 60);
    drop(pending);
    let pages = collect(table.run(vec![table_scan(false)], all_rows(), 0)).await;
    assert_eq!(rows(&pages[0]).len(), 10);
}

fn index_lookup() -> Vec<OpDesc> {
    let columns_of_index =
        vec![ScanColumn::new(VALUE, bigint()), ScanColumn::handle(ColumnId(1), bigint())];
    vec![
        OpDesc::IndexScan(IndexScanDesc {
            table_id: TABLE,
            index_id: INDEX,
            columns: columns_of_index,
            desc: false,
            unique: false,
            handle_types: vec![],
        }),
        OpDesc::IndexLookup(IndexLookupDesc {
            table_id: TABLE,
            columns: columns(),
            handle_types: vec![],
        }),
    ]
}

#[tokio::test]
async fn looks_rows_up_where_this_store_leads() {
    let table = Table::new(50);
    let (start, end) = index_range(TABLE, INDEX);
    let range = KeyRange::new(start, end);
    let pages = collect(table.run(index_lookup(), range.clone(), 0)).await;
    assert_eq!(pages.iter().flat_map(rows).count(), 50);
    // The rows' region moves away: their keys go back to the caller.
    let mut region = (**table.kv.region.lock()).clone();
    region.end_key = row_range(TABLE).0.into();
    *table.kv.region.lock() = Arc::new(region);
    // So they do where no row passes what stands above the look-up.
    let mut filtered = index_lookup();
    filtered.push(at_least(0));
    for operators in [index_lookup(), filtered] {
        let pages = collect(table.run(operators, range.clone(), 0)).await;
        assert_eq!(pages.iter().flat_map(rows).count(), 0);
        let remote: Vec<Bytes> =
            pages.iter().flat_map(|page| page.remote_row_keys.clone()).collect();
        assert_eq!(remote.len(), 50);
        assert_eq!(remote[3], encode_row_key(TABLE, &Handle::Int(3)));
    }
}

#[tokio::test]
async fn refuses_ranges_outside_the_region() {
    let table = Table::new(5);
    let mut region = (**table.kv.region.lock()).clone();
    region.end_key = encode_row_key(TABLE, &Handle::Int(3)).into();
    *table.kv.region.lock() = Arc::new(region);
    let pages = collect(table.run(vec![table_scan(false)], all_rows(), 0)).await;
    assert!(pages[0].region_error.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropping_the_stream_ends_the_task() {
    let table = Table::new(5000);
    let mut stream = table.run(vec![table_scan(false)], all_rows(), 1);
    assert!(stream.next().await.is_some());
    // A slow caller holds the task; a gone one ends it.
    assert_eq!(table.endpoint.running(), 1);
    drop(stream);
    tokio::time::timeout(Duration::from_secs(10), async {
        while table.endpoint.running() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("the task ends");
}

/// A semi join of the column `id` with a table of numbers.
fn joined_with(numbers: &[i64]) -> (OpDesc, kv::BroadcastTable) {
    let types = vec![bigint()];
    let mut chunk = Chunk::new(&types, numbers.len());
    numbers.iter().for_each(|number| chunk.push_row(&[Datum::Int(*number)]));
    let mut rows = Vec::new();
    chunk.encode(&mut rows);
    let digest = TableDigest::of(&types, &rows).bytes().clone();
    let key = || vec![Expr::column(0, bigint())];
    let join = HashJoinDesc {
        kind: JoinKind::Semi,
        null_aware: false,
        left_keys: key(),
        right_keys: key(),
        null_safe: vec![],
        other_conditions: vec![],
        build_side: JoinSide::Right,
    };
    let join = OpDesc::HashJoin(BroadcastJoinDesc { join, table: 0, table_types: types });
    (join, kv::BroadcastTable { digest, rows: rows.into() })
}

#[tokio::test]
async fn rows_are_joined_with_a_table_that_came_along_or_is_known() {
    let table = Table::new(300);
    let (join, numbers) = joined_with(&[7, 250, 1000]);
    let named = kv::BroadcastTable { rows: Bytes::new(), ..numbers.clone() };
    let run = async |tables| {
        let operators = vec![table_scan(false), join.clone()];
        collect(table.run_with(operators, all_rows(), 0, tables)).await
    };
    let pages = run(vec![named.clone()]).await;
    assert_eq!(pages.len(), 1);
    assert!(pages[0].unknown_table && pages[0].other_error.is_none(), "{pages:?}");
    for tables in [vec![numbers], vec![named]] {
        let pages = run(tables).await;
        assert_eq!(pages.iter().flat_map(rows).collect::<Vec<_>>(), [(7, 14), (250, 500)]);
        assert_eq!(pages.last().unwrap().summaries.as_ref().unwrap().operators[1].rows, 2);
    }
    let pages = run(vec![]).await;
    assert!(pages[0].other_error.is_some(), "a join without its table: {pages:?}");
}
