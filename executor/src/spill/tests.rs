//! What is spilled gives the same answers, and leaves nothing behind.

use std::sync::Arc;
use std::time::Duration;

use cairn_expr::agg::build_aggregate;
use cairn_expr::{AggDesc, EvalContext, Expr, build_function};
use cairn_types::{Chunk, Datum, FieldType};
use proptest::prelude::*;

use super::folder::TempFolder;
use super::{SpillSizes, SpillSpace, TempStorage};
use crate::context::ExecContext;
use crate::error::Result;
use crate::memory::MemoryTracker;
use crate::operator::{BoxOperator, Operator};
use crate::operators::*;
use crate::plan::*;
use crate::testing::{DiskFault, MemoryStorage, collect_rows};

/// (key, text key, value) rows; `None` is NULL.
type Rows = Vec<(Option<i64>, Option<u8>, Option<i64>)>;

/// Long enough for any machine; a test that waits so long has failed.
const DEADLINE: Duration = Duration::from_secs(20);

/// Some rows are refused already, and what is spilled makes many blocks, runs and parts.
const SIZES: SpillSizes =
    SpillSizes { floor_bytes: 1_500, block_bytes: 64, partitions: 4, merge_runs: (2, 3) };

fn runtime() -> tokio::runtime::Runtime {
    let builder = &mut tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(2).enable_time().build().expect("a runtime")
}

/// Storage, its trackers, and a context.
struct Bench {
    storage: Arc<MemoryStorage>,
    disk: Arc<MemoryTracker>,
    node: Arc<MemoryTracker>,
    ctx: ExecContext,
}

/// A statement with this quota; 0: none.
fn bench(quota_bytes: u64, fault: DiskFault) -> Bench {
    let storage = Arc::new(MemoryStorage::with_fault(fault));
    let node = MemoryTracker::root("node", 0);
    let disk = MemoryTracker::root("node", 0);
    let space = SpillSpace::new(Arc::clone(&storage) as Arc<dyn TempStorage>, disk.clone());
    let mut ctx = ExecContext::new(EvalContext::default())
        .with_memory(node.child("statement", quota_bytes))
        .with_spill(Some(space.with_sizes(SIZES)));
    (ctx.chunk_rows_init, ctx.chunk_rows_max, ctx.concurrency) = (1, 4, 3);
    Bench { storage, disk, node, ctx }
}

impl Bench {
    /// Everything was given back. Blocking threads may still hold a file for a moment.
    fn assert_clean(&self) {
        assert_eq!((self.disk.used_bytes(), self.node.used_bytes()), (0, 0));
        assert_eq!(self.storage.open_files(), 0);
    }
}

fn schema() -> Vec<FieldType> {
    vec![FieldType::bigint(), FieldType::varchar(9), FieldType::bigint()]
}

fn source(rows: &Rows, ctx: &ExecContext) -> BoxOperator {
    let chunks = rows.chunks(5).map(|rows| {
        let mut chunk = Chunk::new(&schema(), rows.len());
        for (key, text, value) in rows {
            // Equal by the collation, not by their bytes.
            let text = text.map(|t| ["a", "A", "b", "cc", "Cc", "ddd"][usize::from(t) % 6]);
            let text = text.map_or(Datum::Null, Datum::from);
            chunk.push_row(&[Datum::from(*key), text, Datum::from(*value)]);
        }
        chunk
    });
    Box::new(ChunkSource::from_chunks(schema(), chunks.collect(), ctx.clone()))
}

fn column(index: usize) -> Expr {
    let types = [schema(), schema()].concat();
    Expr::column(index, types[index].clone())
}

fn printed(rows: Vec<Vec<Datum>>) -> Vec<String> {
    rows.iter().map(|row| format!("{row:?}")).collect()
}

fn printed_sorted(rows: Vec<Vec<Datum>>) -> Vec<String> {
    let mut rows = printed(rows);
    rows.sort();
    rows
}

fn rows(count: usize, keys: i64) -> impl Strategy<Value = Rows> {
    let key = prop_oneof![1 => Just(None), 6 => (0..keys).prop_map(Some)];
    let text = prop_oneof![1 => Just(None), 6 => (0u8..6).prop_map(Some)];
    let value = prop_oneof![1 => Just(None), 6 => (0i64..9).prop_map(Some)];
    proptest::collection::vec((key, text, value), 0..count)
}

fn quota() -> impl Strategy<Value = u64> {
    prop_oneof![Just(1u64), 1u64..400_000]
}

fn join_kind() -> impl Strategy<Value = (JoinKind, bool)> {
    use JoinKind as K;
    proptest::sample::select(vec![
        (K::Inner, false),
        (K::LeftOuter, false),
        (K::RightOuter, false),
        (K::Semi, false),
        (K::Anti, false),
        (K::LeftOuterSemi, false),
        (K::AntiLeftOuterSemi, false),
        (K::Anti, true),
        (K::LeftOuterSemi, true),
        (K::AntiLeftOuterSemi, true),
    ])
}

fn join_desc((kind, null_aware): (JoinKind, bool), shape: u8, build_left: bool) -> HashJoinDesc {
    let keys = match shape % 4 {
        3 if !null_aware => Vec::new(),
        0 | 3 => vec![column(0)],
        1 => vec![column(1)],
        _ => vec![column(0), column(1)],
    };
    let mut eval = EvalContext::default();
    let less = build_function("lt", vec![column(2), column(5)], &mut eval).expect("known");
    HashJoinDesc {
        kind,
        null_aware,
        null_safe: vec![shape >= 6 && !null_aware; keys.len()],
        left_keys: keys.clone(),
        right_keys: keys,
        other_conditions: if shape % 2 == 1 { vec![less] } else { Vec::new() },
        build_side: if build_left { JoinSide::Left } else { JoinSide::Right },
    }
}

async fn join(
    left: &Rows,
    right: &Rows,
    desc: HashJoinDesc,
    ctx: &ExecContext,
) -> Result<Vec<Vec<Datum>>> {
    let join = HashJoin::new(source(left, ctx), source(right, ctx), desc, ctx.clone())?;
    collect_rows(Box::new(join)).await
}

fn aggregates(distinct: bool) -> Vec<AggDesc> {
    let mut eval = EvalContext::default();
    let mut call = |name: &str, at: usize, distinct| {
        build_aggregate(name, vec![column(at)], distinct, &mut eval).expect("known")
    };
    let mut list = vec![
        call("count", 2, false),
        call("sum", 2, false),
        call("max", 1, false),
        call("avg", 2, false),
    ];
    if distinct {
        list.push(call("count", 2, true));
        list.push(call("count", 1, true));
        list.push(call("sum", 0, true));
    }
    list
}

async fn aggregate(
    rows: &Rows,
    desc: &AggregationDesc,
    ctx: &ExecContext,
) -> Result<Vec<Vec<Datum>>> {
    let agg = HashAgg::new(source(rows, ctx), desc, ctx.clone())?;
    collect_rows(Box::new(agg)).await
}

fn order_by() -> Vec<SortItem> {
    let item = |at, desc| SortItem { expr: column(at), desc };
    vec![item(1, false), item(0, true)]
}

async fn sort(rows: &Rows, ctx: &ExecContext) -> Result<Vec<Vec<Datum>>> {
    let sort = Sort::new(source(rows, ctx), &SortDesc { order_by: order_by() }, ctx.clone())?;
    collect_rows(Box::new(sort)).await
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn spilled_joins_give_the_same_rows(
        left in rows(90, 12),
        right in rows(70, 12),
        kind in join_kind(),
        shape in 0u8..12,
        build_left: bool,
        quota in quota(),
    ) {
        let desc = join_desc(kind, shape, build_left);
        let (free, tight) = (bench(0, DiskFault::None), bench(quota, DiskFault::None));
        let runtime = runtime();
        let expected = runtime.block_on(join(&left, &right, desc.clone(), &free.ctx));
        let found = runtime.block_on(join(&left, &right, desc, &tight.ctx));
        drop(runtime);
        match found {
            // One key's rows may be too many: what cannot be divided has the quota as its limit.
            Err(error) => prop_assert_eq!(error.to_mysql().code, 8175),
            Ok(found) => {
                prop_assert_eq!(printed_sorted(found), printed_sorted(expected.expect("it runs")));
            }
        }
        prop_assert_eq!(free.storage.writes(), 0);
        tight.assert_clean();
    }

    #[test]
    fn spilled_aggregations_give_the_same_groups(
        rows in rows(120, 40),
        shape in 0u8..4,
        distinct: bool,
        quota in quota(),
    ) {
        let group_by = match shape {
            0 => Vec::new(),
            1 => vec![column(0)],
            2 => vec![column(1)],
            _ => vec![column(0), column(1)],
        };
        let aggs = aggregates(distinct);
        let desc = AggregationDesc { group_by, aggs, mode: AggMode::Complete, stream: false };
        let (free, tight) = (bench(0, DiskFault::None), bench(quota, DiskFault::None));
        let runtime = runtime();
        let expected = runtime.block_on(aggregate(&rows, &desc, &free.ctx)).expect("it runs");
        let found = runtime.block_on(aggregate(&rows, &desc, &tight.ctx)).expect("it runs");
        drop(runtime);
        // A group's text is the first of those that are equal, whether it was spilled or not.
        prop_assert_eq!(printed_sorted(found), printed_sorted(expected));
        tight.assert_clean();
    }

    #[test]
    fn spilled_sorts_give_the_same_order(rows in rows(150, 5), quota in quota()) {
        let (free, tight) = (bench(0, DiskFault::None), bench(quota, DiskFault::None));
        let runtime = runtime();
        let expected = runtime.block_on(sort(&rows, &free.ctx)).expect("it runs");
        let found = runtime.block_on(sort(&rows, &tight.ctx)).expect("it runs");
        drop(runtime);
        prop_assert_eq!(printed(found), printed(expected));
        tight.assert_clean();
    }

    #[test]
    fn spilled_first_rows_are_the_same(rows in rows(90, 5), limit in 0u64..60, offset in 0u64..9) {
        let desc = TopNDesc { order_by: order_by(), offset, limit };
        let (free, tight) = (bench(0, DiskFault::None), bench(1, DiskFault::None));
        let runtime = runtime();
        let run = |ctx: &ExecContext| {
            let top = TopN::new(source(&rows, ctx), &desc, ctx.clone()).expect("sound");
            runtime.block_on(collect_rows(Box::new(top))).expect("it runs")
        };
        let (expected, found) = (run(&free.ctx), run(&tight.ctx));
        drop(runtime);
        prop_assert_eq!(printed(found), printed(expected));
        tight.assert_clean();
    }
}

/// Rows whose keys all differ, so that they can be divided.
fn many_rows(count: i64) -> Rows {
    (0..count).map(|at| (Some(at * 7919 % count), Some((at % 6) as u8), Some(at))).collect()
}

/// Every operator that spills, over rows that do not fit.
async fn run_all(ctx: &ExecContext) -> Vec<Result<usize>> {
    let rows = many_rows(200);
    let kind = (JoinKind::LeftOuter, false);
    let desc = AggregationDesc {
        group_by: vec![column(0)],
        aggs: aggregates(true),
        mode: AggMode::Complete,
        stream: false,
    };
    vec![
        join(&rows, &rows, join_desc(kind, 0, false), ctx).await.map(|rows| rows.len()),
        aggregate(&rows, &desc, ctx).await.map(|rows| rows.len()),
        sort(&rows, ctx).await.map(|rows| rows.len()),
    ]
}

#[test]
fn faults_of_the_disk_are_errors_and_leave_no_file() {
    for (fault, code) in [
        (DiskFault::Create, 1026),
        (DiskFault::Full(0), 1021),
        (DiskFault::Full(7), 1021),
        (DiskFault::ShortRead, 1024),
        (DiskFault::Corrupt, 1024),
    ] {
        let bench = bench(1, fault);
        let runtime = runtime();
        let results = runtime.block_on(run_all(&bench.ctx));
        drop(runtime);
        for (result, operator) in results.into_iter().zip(["HashJoin", "HashAgg", "Sort"]) {
            let error = result.expect_err("the disk is at fault").to_mysql();
            assert_eq!(error.code, code, "{fault:?} {operator}: {}", error.message);
            assert!(error.message.contains(operator), "{fault:?}: {}", error.message);
        }
        bench.assert_clean();
    }
}

#[test]
fn a_quota_of_the_disk_is_kept() {
    let bench = bench(1, DiskFault::None);
    bench.disk.set_limit_bytes(256);
    let runtime = runtime();
    for result in runtime.block_on(run_all(&bench.ctx)) {
        let error = result.expect_err("the quota is small").to_mysql();
        assert_eq!(error.code, 1021);
        assert!(error.message.contains("tmp-storage-quota"), "{}", error.message);
    }
    drop(runtime);
    bench.assert_clean();
}

#[test]
fn files_of_a_folder_have_no_name() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("made/when/needed");
    let disk = MemoryTracker::root("node", 0);
    let space = SpillSpace::new(Arc::new(TempFolder::new(&path)), disk.clone());
    let bench = bench(1, DiskFault::None);
    let ctx = bench.ctx.clone().with_spill(Some(space.with_sizes(SIZES)));
    let runtime = runtime();
    for result in runtime.block_on(run_all(&ctx)) {
        assert_eq!(result.expect("it runs"), 200);
    }
    drop(runtime);
    assert!(disk.peak_bytes() > 0);
    assert_eq!(std::fs::read_dir(&path).expect("it was made").count(), 0);
}

/// What is dropped or cancelled amid its work leaves nothing.
#[test]
fn an_operator_that_is_dropped_takes_its_files_along() {
    let rows = many_rows(300);
    let desc = AggregationDesc {
        group_by: vec![column(0)],
        aggs: aggregates(true),
        mode: AggMode::Complete,
        stream: false,
    };
    for (pulls, cancelled) in [(1, false), (1, true), (5, false), (5, true)] {
        let bench = bench(1, DiskFault::None);
        let runtime = runtime();
        runtime.block_on(async {
            let ctx = &bench.ctx;
            let input = || source(&rows, ctx);
            let sort = SortDesc { order_by: order_by() };
            let join = join_desc((JoinKind::Inner, false), 0, false);
            let operators: Vec<BoxOperator> = vec![
                Box::new(Sort::new(input(), &sort, ctx.clone()).expect("sound")),
                Box::new(HashAgg::new(input(), &desc, ctx.clone()).expect("sound")),
                Box::new(HashJoin::new(input(), input(), join, ctx.clone()).expect("sound")),
            ];
            for mut operator in operators {
                for _ in 0..pulls {
                    operator.next().await.expect("it runs").expect("there are rows");
                }
                assert!(bench.storage.open_files() > 0);
                if cancelled {
                    ctx.cancel.cancel();
                    // What workers have joined before may still come.
                    let rest = tokio::time::timeout(DEADLINE, collect_rows(operator)).await;
                    let error = rest.expect("it ends").expect_err("it was cancelled");
                    assert_eq!(error.to_mysql().code, 1317);
                    return;
                }
            }
        });
        drop(runtime);
        bench.assert_clean();
    }
}

#[test]
fn a_statement_that_the_node_ends_says_why() {
    let node = MemoryTracker::root("node", 1 << 20);
    let mut ctx = bench(0, DiskFault::None).ctx;
    ctx.spill = None;
    ctx.memory = node.statement("statement", 0, ctx.cancel.clone());
    let other = node.statement("statement", 0, Default::default());
    let rows = many_rows(200);
    let runtime = runtime();
    runtime.block_on(async {
        let sort = SortDesc { order_by: order_by() };
        let mut sort = Sort::new(source(&rows, &ctx), &sort, ctx.clone()).expect("sound");
        sort.next().await.expect("it runs");
        ctx.memory.force_consume(900 << 10);
        other.consume(200 << 10, "Apply").expect("the larger one goes");
        let error = sort.next().await.expect_err("its memory was wanted").to_mysql();
        assert_eq!(error.code, 8175);
        assert!(error.message.contains("tidb_server_memory_limit"), "{}", error.message);
    });
    assert!(!other.is_cancelled());
}
