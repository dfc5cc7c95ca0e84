//! Rows per second and core of the paths that stores and joins live on.
//!
//! `cargo bench -p cairn-executor` prints one line per path: the best of
//! [`RUNS`] runs on one thread, measured in time on the CPU where the system tells
//! it (Linux), so that a busy machine changes little. Budgets: scan with filter
//! and partial aggregate 5 million rows/s, hash join 5 million probe rows/s. What is spilled is written and
//! read on other threads, whose time does not count.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use cairn_executor::operators::{ChunkSource, HashAgg, HashJoin, Sort};
use cairn_executor::plan::{
    AggMode, AggregationDesc, HashJoinDesc, JoinKind, JoinSide, OpDesc, ScanColumn, SelectionDesc,
    SortDesc, SortItem, TableScanDesc,
};
use cairn_executor::spill::folder::TempFolder;
use cairn_executor::{
    BoxOperator, EvalSettings, ExecContext, Fragment, KeyRange, KvBatch, KvScan, KvSource,
    MemoryTracker, Operator, Result, RowRead, SpillSpace, build_fragment,
};
use cairn_expr::agg::build_aggregate;
use cairn_expr::{EvalContext, Expr, build_function};
use cairn_types::keys::encode_row_key;
use cairn_types::row::encode_row;
use cairn_types::{Chunk, Column, ColumnData, ColumnId, DatumRef, FieldType, Handle, TableId};

/// Runs per path; the best counts.
const RUNS: usize = 5;
/// Rows scanned, and rows on the probe side.
const ROWS: usize = 1 << 20;
/// Rows on the build side.
const BUILD_ROWS: usize = 100_000;
/// Quota of what is spilled: a tenth of the rows and less.
const QUOTA_BYTES: u64 = 3 << 20;
/// Rows per chunk.
const CHUNK: usize = 1024;

/// Time this thread has spent on a CPU, else time on the clock.
#[allow(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
fn now(start: Instant) -> Duration {
    let on_cpu = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let on_cpu = on_cpu.and_then(|text| text.split(' ').next()?.parse().ok());
    on_cpu.map_or_else(|| start.elapsed(), Duration::from_nanos)
}

/// Pairs in memory, handed out the way a store's reader does: copied into the
/// scan's buffers.
struct Flat(Arc<KvBatch>);

struct FlatScan {
    pairs: Arc<KvBatch>,
    at: usize,
}

#[async_trait]
impl KvSource for Flat {
    async fn scan(&self, _range: KeyRange, _desc: bool) -> Result<Box<dyn KvScan>> {
        Ok(Box::new(FlatScan { pairs: self.0.clone(), at: 0 }))
    }

    async fn batch_get(&self, keys: &[Bytes]) -> Result<Vec<RowRead>> {
        Ok(vec![RowRead::Missing; keys.len()])
    }
}

#[async_trait]
impl KvScan for FlatScan {
    async fn next_batch(&mut self, out: &mut KvBatch, limit: usize) -> Result<bool> {
        let end = (self.at + limit).min(self.pairs.len());
        for at in self.at..end {
            out.push(self.pairs.key(at), self.pairs.value(at));
        }
        self.at = end;
        Ok(end < self.pairs.len())
    }
}

fn bigint(index: usize) -> Expr {
    Expr::column(index, FieldType::bigint())
}

/// A scattered but repeatable number below `below`.
fn scatter(at: usize, below: usize) -> i64 {
    ((at as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20) as i64 % below as i64
}

fn context() -> ExecContext {
    let mut ctx = ExecContext::new(EvalContext::default());
    ctx.concurrency = 1;
    ctx
}

/// The same with little memory, and files in the system's folder.
fn spilling() -> ExecContext {
    let files = Arc::new(TempFolder::new(std::env::temp_dir()));
    let space = SpillSpace::new(files, MemoryTracker::root("statement", 0));
    context().with_memory(MemoryTracker::root("statement", QUOTA_BYTES)).with_spill(Some(space))
}

fn stored_rows() -> Arc<dyn KvSource> {
    let mut pairs = KvBatch::new();
    for at in 0..ROWS {
        let values = [
            (ColumnId(2), DatumRef::Int(scatter(at, 1000))),
            (ColumnId(3), DatumRef::Int(scatter(at, 100_000))),
            (ColumnId(4), DatumRef::Bytes(b"some text")),
        ];
        let row = encode_row(values).expect("small ids");
        pairs.push(&encode_row_key(TableId(1), &Handle::Int(at as i64)), &row);
    }
    Arc::new(Flat(Arc::new(pairs)))
}

/// `SELECT COUNT(*), SUM(b) FROM t WHERE a < 500 [GROUP BY a]`, the store's part.
fn scan_fragment(grouped: bool) -> Fragment {
    let mut eval = EvalContext::default();
    let mut call = |name: &str, args| build_function(name, args, &mut eval).expect("known");
    let filter = call("lt", vec![bigint(0), Expr::int(500)]);
    let count = build_aggregate("count", Vec::new(), false, &mut eval).expect("known");
    let sum = build_aggregate("sum", vec![bigint(1)], false, &mut eval).expect("known");
    let column = |id| ScanColumn::new(ColumnId(id), FieldType::bigint());
    let operators = vec![
        OpDesc::TableScan(TableScanDesc {
            table_id: TableId(1),
            columns: vec![column(2), column(3)],
            desc: false,
            handle_types: Vec::new(),
        }),
        OpDesc::Selection(SelectionDesc { conditions: vec![filter] }),
        OpDesc::Aggregation(AggregationDesc {
            group_by: if grouped { vec![bigint(0)] } else { Vec::new() },
            aggs: vec![count, sum],
            mode: AggMode::Partial,
            stream: false,
        }),
    ];
    Fragment { operators, settings: EvalSettings::default() }
}

/// Chunks of (key below `keys`, running number).
fn chunks(rows: usize, keys: usize) -> Vec<Chunk> {
    let chunk = |start: usize| {
        let range = start..(start + CHUNK).min(rows);
        Chunk::from_columns(vec![
            Column::from_data(ColumnData::Int(range.clone().map(|at| scatter(at, keys)).collect())),
            Column::from_data(ColumnData::Int(range.map(|at| at as i64).collect())),
        ])
    };
    (0..rows).step_by(CHUNK).map(chunk).collect()
}

fn source(chunks: Vec<Chunk>) -> BoxOperator {
    let schema = vec![FieldType::bigint(), FieldType::bigint()];
    Box::new(ChunkSource::from_chunks(schema, chunks, context()))
}

async fn drain(mut operator: BoxOperator) -> usize {
    let mut rows = 0;
    while let Some(chunk) = operator.next().await.expect("the plan runs") {
        rows += chunk.num_selected();
    }
    rows
}

/// Best time of a path, printed as rows per second.
fn measure(name: &str, rows: usize, mut make: impl FnMut() -> BoxOperator) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    #[allow(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
    let epoch = Instant::now();
    let mut best = Duration::MAX;
    let mut output = 0;
    for _ in 0..RUNS {
        let operator = make();
        let start = now(epoch);
        output = runtime.block_on(drain(operator));
        best = best.min(now(epoch) - start);
    }
    let rate = rows as f64 / best.as_secs_f64() / 1e6;
    println!("{name:44} {rate:8.1} M rows/s/core ({output} rows out, {best:?})");
}

fn main() {
    let rows = stored_rows();
    for (name, grouped) in [("scan + filter + partial agg", false), ("the same, 500 groups", true)]
    {
        let fragment = scan_fragment(grouped);
        measure(name, ROWS, || {
            let ranges = vec![KeyRange::default()];
            build_fragment(&fragment, ranges, rows.clone(), context()).expect("sound")
        });
    }

    let build = chunks(BUILD_ROWS, BUILD_ROWS);
    let probe = chunks(ROWS, BUILD_ROWS);
    for (name, kind, context) in [
        ("hash join, inner, 100k build rows", JoinKind::Inner, context as fn() -> ExecContext),
        ("the same, semi", JoinKind::Semi, context),
        ("the same, inner, spilled", JoinKind::Inner, spilling),
    ] {
        measure(name, ROWS, || {
            let desc = HashJoinDesc {
                kind,
                null_aware: false,
                left_keys: vec![bigint(0)],
                right_keys: vec![bigint(0)],
                null_safe: Vec::new(),
                other_conditions: Vec::new(),
                build_side: JoinSide::Right,
            };
            let (left, right) = (source(probe.clone()), source(build.clone()));
            Box::new(HashJoin::new(left, right, desc, context()).expect("sound"))
        });
    }

    for (name, context) in
        [("hash agg, 100k groups", context as fn() -> ExecContext), ("the same, spilled", spilling)]
    {
        measure(name, ROWS, || {
            let mut eval = EvalContext::default();
            let sum = build_aggregate("sum", vec![bigint(1)], false, &mut eval).expect("known");
            let desc = AggregationDesc {
                group_by: vec![bigint(0)],
                aggs: vec![sum],
                mode: AggMode::Complete,
                stream: false,
            };
            Box::new(HashAgg::new(source(probe.clone()), &desc, context()).expect("sound"))
        });
    }
    for (name, context) in
        [("sort by one integer", context as fn() -> ExecContext), ("the same, spilled", spilling)]
    {
        measure(name, ROWS, || {
            let desc = SortDesc { order_by: vec![SortItem { expr: bigint(0), desc: false }] };
            Box::new(Sort::new(source(probe.clone()), &desc, context()).expect("sound"))
        });
    }
}
