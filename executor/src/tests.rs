//! Properties that hold for any data, and what becomes of a tree that is dropped.

mod broadcast;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use cairn_expr::agg::build_aggregate;
use cairn_expr::{EvalContext, Expr, build_function};
use cairn_types::keys::{encode_row_key, row_range};
use cairn_types::row::encode_row;
use cairn_types::{Chunk, ColumnId, Datum, DatumRef, FieldType, Handle, IndexId, TableId};
use futures::stream::StreamExt;
use proptest::prelude::*;
use prost::Message;

use crate::build_fragment;
use crate::context::ExecContext;
use crate::error::{ExecError, Result};
use crate::memory::MemoryTracker;
use crate::operator::{BoxOperator, Operator};
use crate::operators::*;
use crate::plan::*;
use crate::source::{KeyRange, KvBatch, KvScan, KvSource, RowRead};
use crate::testing::{MemorySource, collect_rows};

/// (key, value) rows; `None` is NULL.
type Rows = Vec<(Option<i64>, Option<i64>)>;

/// Long enough for any machine; a test that waits so long has failed.
const DEADLINE: Duration = Duration::from_secs(20);

fn runtime() -> tokio::runtime::Runtime {
    let builder = &mut tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(2).enable_time().build().expect("a runtime")
}

fn context() -> ExecContext {
    let mut ctx = ExecContext::new(EvalContext::default());
    (ctx.chunk_rows_init, ctx.chunk_rows_max, ctx.concurrency) = (1, 4, 3);
    ctx
}

fn schema() -> Vec<FieldType> {
    vec![FieldType::bigint(), FieldType::bigint()]
}

fn source(rows: &Rows, ctx: &ExecContext) -> BoxOperator {
    let chunks = rows.chunks(4).map(|rows| {
        let mut chunk = Chunk::new(&schema(), rows.len());
        for (key, value) in rows {
            chunk.push_row(&[Datum::from(*key), Datum::from(*value)]);
        }
        chunk
    });
    Box::new(ChunkSource::from_chunks(schema(), chunks.collect(), ctx.clone()))
}

fn column(index: usize) -> Expr {
    Expr::column(index, FieldType::bigint())
}

fn call(name: &str, args: Vec<Expr>) -> Expr {
    build_function(name, args, &mut EvalContext::default()).expect("a known function")
}

/// Rows as integers, in any order.
fn sorted(rows: Vec<Vec<Datum>>) -> Vec<Vec<Option<i64>>> {
    let mut rows: Vec<Vec<Option<i64>>> =
        rows.iter().map(|row| row.iter().map(Datum::as_i64).collect()).collect();
    rows.sort();
    rows
}

/// A join as SQL defines it: every pair looked at.
fn nested_loop(left: &Rows, right: &Rows, desc: &HashJoinDesc) -> Vec<Vec<Option<i64>>> {
    let equal = |l: Option<i64>, r: Option<i64>| match (l, r) {
        (None, None) if desc.null_safe == [true] => Some(true),
        (Some(l), Some(r)) => Some(l == r),
        _ if desc.null_safe == [true] => Some(false),
        _ => None,
    };
    let other = |l: Option<i64>, r: Option<i64>| match desc.other_conditions.is_empty() {
        true => true,
        false => matches!((l, r), (Some(l), Some(r)) if l < r),
    };
    let keyed = !desc.left_keys.is_empty();
    let mut out = Vec::new();
    let mut right_matched = vec![false; right.len()];
    for l in left {
        let (mut yes, mut unknown) = (false, false);
        for (at, r) in right.iter().enumerate() {
            let same = if keyed { equal(l.0, r.0) } else { Some(true) };
            if !other(l.1, r.1) {
                continue;
            }
            unknown |= same.is_none();
            if same == Some(true) {
                yes = true;
                right_matched[at] = true;
                if desc.kind.keeps_right() {
                    out.push(vec![l.0, l.1, r.0, r.1]);
                }
            }
        }
        let unknown = unknown && !yes && desc.null_aware;
        let mark = if unknown { None } else { Some(i64::from(yes)) };
        match desc.kind {
            JoinKind::LeftOuter if !yes => out.push(vec![l.0, l.1, None, None]),
            JoinKind::Semi if yes => out.push(vec![l.0, l.1]),
            JoinKind::Anti if !yes && !unknown => out.push(vec![l.0, l.1]),
            JoinKind::LeftOuterSemi => out.push(vec![l.0, l.1, mark]),
            JoinKind::AntiLeftOuterSemi => out.push(vec![l.0, l.1, mark.map(|mark| 1 - mark)]),
            _ => {}
        }
    }
    if desc.kind == JoinKind::RightOuter {
        let alone = right.iter().zip(right_matched).filter(|(_, matched)| !matched);
        out.extend(alone.map(|(r, _)| vec![None, None, r.0, r.1]));
    }
    out.sort();
    out
}

fn rows(count: usize) -> impl Strategy<Value = Rows> {
    let cell = || prop_oneof![1 => Just(None), 6 => (0i64..8).prop_map(Some)];
    proptest::collection::vec((cell(), cell()), 0..count)
}

fn join_kind() -> impl Strategy<Value = (JoinKind, bool)> {
    use JoinKind as K;
    let plain = [
        K::Inner,
        K::LeftOuter,
        K::RightOuter,
        K::Semi,
        K::Anti,
        K::LeftOuterSemi,
        K::AntiLeftOuterSemi,
    ];
    let aware = [K::Anti, K::LeftOuterSemi, K::AntiLeftOuterSemi];
    let plain = plain.map(|kind| (kind, false)).to_vec();
    let all = [plain, aware.map(|kind| (kind, true)).to_vec()].concat();
    proptest::sample::select(all)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn joins_agree_with_nested_loops(
        left in rows(70),
        right in rows(40),
        (kind, null_aware) in join_kind(),
        shape in 0..4u8,
        conditioned: bool,
        build_left: bool,
    ) {
        let null_safe = shape == 1 && !null_aware;
        let keyed = shape != 0 || null_aware;
        let desc = HashJoinDesc {
            kind,
            null_aware,
            left_keys: if keyed { vec![column(0)] } else { Vec::new() },
            right_keys: if keyed { vec![column(0)] } else { Vec::new() },
            null_safe: if keyed { vec![null_safe] } else { Vec::new() },
            other_conditions: match conditioned {
                true => vec![call("lt", vec![column(1), column(3)])],
                false => Vec::new(),
            },
            build_side: if build_left { JoinSide::Left } else { JoinSide::Right },
        };
        let expected = nested_loop(&left, &right, &desc);
        let found = runtime().block_on(async {
            let ctx = context();
            let (l, r) = (source(&left, &ctx), source(&right, &ctx));
            let join = HashJoin::new(l, r, desc, ctx).expect("a sound join");
            collect_rows(Box::new(join)).await
        });
        prop_assert_eq!(sorted(found.expect("the join runs")), expected);
    }

    #[test]
    fn partial_and_final_make_complete(first in rows(60), second in rows(60), grouped: bool) {
        let names = ["count", "sum", "avg", "min", "max", "bit_or", "bit_and"];
        let mut eval = EvalContext::default();
        let aggs: Vec<_> = names
            .iter()
            .map(|name| build_aggregate(name, vec![column(1)], false, &mut eval).expect("known"))
            .collect();
        let group_by = if grouped { vec![column(0)] } else { Vec::new() };
        let complete = AggregationDesc { group_by, aggs, mode: AggMode::Complete, stream: false };
        let partial = AggregationDesc { mode: AggMode::Partial, ..complete.clone() };
        let (hash, split, streamed) = runtime().block_on(async {
            let ctx = context();
            let all: Rows = first.iter().chain(&second).copied().collect();
            let hash = HashAgg::new(source(&all, &ctx), &complete, ctx.clone()).expect("sound");
            let hash = collect_rows(Box::new(hash)).await.expect("it runs");

            let order_by = vec![SortItem { expr: column(0), desc: false }];
            let input = Sort::new(source(&all, &ctx), &SortDesc { order_by }, ctx.clone());
            let input = Box::new(input.expect("sound"));
            let stream = AggregationDesc { stream: true, ..complete.clone() };
            let stream = StreamAgg::new(input, &stream, ctx.clone()).expect("sound");
            let streamed = collect_rows(Box::new(stream)).await.expect("it runs");

            let halves: Vec<BoxOperator> = [&first, &second]
                .map(|rows| {
                    let half = HashAgg::new(source(rows, &ctx), &partial, ctx.clone());
                    Box::new(half.expect("sound")) as BoxOperator
                })
                .into();
            let types = halves[0].schema().to_vec();
            let groups = types.len() - usize::from(grouped)..types.len();
            let group_by = groups.map(|at| Expr::column(at, types[at].clone())).collect();
            let merge = AggregationDesc { group_by, mode: AggMode::Final, ..complete.clone() };
            let input = Box::new(UnionAll::new(types, halves));
            let merge = HashAgg::new(input, &merge, ctx.clone()).expect("sound");
            (hash, collect_rows(Box::new(merge)).await.expect("it runs"), streamed)
        });
        let printed = |rows: Vec<Vec<Datum>>| {
            let mut rows: Vec<String> = rows.iter().map(|row| format!("{row:?}")).collect();
            rows.sort();
            rows
        };
        let hash = printed(hash);
        prop_assert_eq!(&printed(split), &hash);
        prop_assert_eq!(&printed(streamed), &hash);
    }

    #[test]
    fn top_n_is_a_sorted_prefix(rows in rows(80), limit in 0u64..12, offset in 0u64..5) {
        let order_by = || vec![
            SortItem { expr: column(0), desc: true },
            SortItem { expr: column(1), desc: false },
        ];
        let (top, cut) = runtime().block_on(async {
            let ctx = context();
            let top = TopNDesc { order_by: order_by(), offset, limit };
            let top = TopN::new(source(&rows, &ctx), &top, ctx.clone()).expect("sound");
            let sort = SortDesc { order_by: order_by() };
            let sort = Sort::new(source(&rows, &ctx), &sort, ctx.clone()).expect("sound");
            let cut = Limit::new(Box::new(sort), &LimitDesc { offset, limit });
            let top = collect_rows(Box::new(top)).await.expect("it runs");
            (top, collect_rows(Box::new(cut)).await.expect("it runs"))
        });
        prop_assert_eq!(top, cut);
    }

    /// Damaged fragments are refused, or run to an end or an error; no panic.
    #[test]
    fn damaged_fragments_do_no_harm(which in 0..5usize, damage in damage()) {
        let mut bytes = samples()[which].to_proto().expect("pushable").encode_to_vec();
        for (at, value) in damage {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        let Ok(proto) = cairn_proto::cop::Fragment::decode(bytes.as_slice()) else {
            return Ok(());
        };
        let Ok(fragment) = Fragment::from_proto(&proto) else { return Ok(()) };
        let (source, ranges) = stored_rows();
        let _ = runtime().block_on(async {
            collect_rows(build_fragment(&fragment, ranges, source, context())?).await
        });
    }

    #[test]
    fn random_bytes_are_no_fragment(bytes: Vec<u8>) {
        if let Ok(proto) = cairn_proto::cop::Fragment::decode(bytes.as_slice()) {
            let _ = Fragment::from_proto(&proto);
        }
    }
}

fn damage() -> impl Strategy<Value = Vec<(prop::sample::Index, u8)>> {
    proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)
}

/// Ten rows of table 1: handle, an integer, a text.
fn stored_rows() -> (Arc<dyn KvSource>, Vec<KeyRange>) {
    let table = TableId(1);
    let pairs = (0..10i64).map(|at| {
        let text = format!("text {at}");
        let values = [
            (ColumnId(2), DatumRef::Int(at * 7 % 5)),
            (ColumnId(3), DatumRef::Bytes(text.as_bytes())),
        ];
        let row = encode_row(values).expect("column ids are small");
        (encode_row_key(table, &Handle::Int(at)), row)
    });
    let (start, end) = row_range(table);
    (MemorySource::new(pairs).shared(), vec![KeyRange::new(start, end)])
}

fn scan() -> OpDesc {
    OpDesc::TableScan(TableScanDesc {
        table_id: TableId(1),
        columns: vec![
            ScanColumn::handle(ColumnId(1), FieldType::bigint()),
            ScanColumn::new(ColumnId(2), FieldType::bigint()).with_default(Datum::Int(9)),
            ScanColumn::new(ColumnId(3), FieldType::varchar(20)),
        ],
        desc: false,
        handle_types: Vec::new(),
    })
}

/// Fragments that have every operator among them.
fn samples() -> Vec<Fragment> {
    let mut eval = EvalContext::default();
    let text = Expr::column(2, FieldType::varchar(20));
    let filter = OpDesc::Selection(SelectionDesc {
        conditions: vec![call("gt", vec![column(1), Expr::int(1)])],
    });
    let aggs = ["count", "sum", "max"]
        .map(|name| build_aggregate(name, vec![column(1)], false, &mut eval).expect("known"));
    let aggregation = |stream, mode| {
        let group_by = vec![text.clone()];
        OpDesc::Aggregation(AggregationDesc { group_by, aggs: aggs.to_vec(), mode, stream })
    };
    let top = OpDesc::TopN(TopNDesc {
        order_by: vec![SortItem { expr: text.clone(), desc: true }],
        offset: 0,
        limit: 3,
    });
    let project = OpDesc::Projection(ProjectionDesc {
        exprs: vec![text.clone(), call("plus", vec![column(0), column(1)])],
    });
    let index_scan = OpDesc::IndexScan(IndexScanDesc {
        table_id: TableId(1),
        index_id: IndexId(1),
        columns: vec![
            ScanColumn::new(ColumnId(2), FieldType::bigint()),
            ScanColumn::handle(ColumnId(1), FieldType::bigint()),
        ],
        desc: true,
        unique: false,
        handle_types: Vec::new(),
    });
    let lookup = OpDesc::IndexLookup(IndexLookupDesc {
        table_id: TableId(1),
        columns: vec![ScanColumn::new(ColumnId(3), FieldType::varchar(20)).with_handle_part(0)],
        handle_types: vec![FieldType::bigint()],
    });
    let limit = OpDesc::Limit(LimitDesc { offset: 0, limit: 4 });
    let join = OpDesc::HashJoin(broadcast_join(JoinKind::LeftOuter));
    let settings = EvalSettings::from_context(&eval);
    let lists = vec![
        vec![scan(), filter, aggregation(false, AggMode::Partial)],
        vec![scan(), top, project],
        vec![scan(), aggregation(true, AggMode::Complete), limit.clone()],
        vec![index_scan, lookup, limit],
        vec![scan(), join],
    ];
    let fragment = |operators| Fragment { operators, settings: settings.clone() };
    lists.into_iter().map(fragment).collect()
}

/// Joins column 1 of [`scan`] with column 0 of a table of integer and text.
fn broadcast_join(kind: JoinKind) -> BroadcastJoinDesc {
    BroadcastJoinDesc {
        join: HashJoinDesc {
            kind,
            null_aware: false,
            left_keys: vec![column(1)],
            right_keys: vec![column(0)],
            null_safe: vec![false],
            other_conditions: vec![call("le", vec![column(0), Expr::int(8)])],
            build_side: JoinSide::Right,
        },
        table: 0,
        table_types: vec![FieldType::bigint(), FieldType::varchar(10)],
    }
}

#[test]
fn fragments_come_back_from_the_wire() {
    for fragment in samples() {
        let bytes = fragment.to_proto().unwrap().encode_to_vec();
        let proto = cairn_proto::cop::Fragment::decode(bytes.as_slice()).unwrap();
        assert_eq!(Fragment::from_proto(&proto).unwrap(), fragment);
    }
}

#[test]
fn scans_tell_where_they_stand() {
    runtime().block_on(async {
        let (source, ranges) = stored_rows();
        let ctx = context();
        let fragment = Fragment { operators: vec![scan()], settings: EvalSettings::default() };
        let mut tree = build_fragment(&fragment, ranges, source, ctx.clone()).unwrap();
        assert!(ctx.scan_position.get().is_none());
        let mut seen = 0;
        while let Some(chunk) = tree.next().await.unwrap() {
            seen += chunk.num_selected() as i64;
            let next = encode_row_key(TableId(1), &Handle::Int(seen));
            let position = ctx.scan_position.get().unwrap();
            assert!(
                position <= next && position > encode_row_key(TableId(1), &Handle::Int(seen - 1))
            );
        }
        assert_eq!(seen, 10);
    });
}

/// A look-up that fails must not leave the rows behind that its scan had read.
#[test]
fn the_position_waits_for_the_answer() {
    runtime().block_on(async {
        struct NoLookups(Arc<dyn KvSource>);
        #[async_trait]
        impl KvSource for NoLookups {
            async fn scan(&self, range: KeyRange, desc: bool) -> Result<Box<dyn KvScan>> {
                self.0.scan(range, desc).await
            }
            async fn batch_get(&self, _keys: &[bytes::Bytes]) -> Result<Vec<RowRead>> {
                Err(ExecError::Corrupted("a lock, say"))
            }
        }
        let (rows, ranges) = stored_rows();
        let handles_first = OpDesc::Projection(ProjectionDesc { exprs: vec![column(0)] });
        let lookup = OpDesc::IndexLookup(IndexLookupDesc {
            table_id: TableId(1),
            columns: vec![ScanColumn::new(ColumnId(2), FieldType::bigint())],
            handle_types: Vec::new(),
        });
        let operators = vec![scan(), handles_first, lookup];
        let fragment = Fragment { operators, settings: EvalSettings::default() };
        let ctx = context();
        let source = Arc::new(NoLookups(rows));
        let mut tree = build_fragment(&fragment, ranges, source, ctx.clone()).unwrap();
        assert!(tree.next().await.is_err());
        assert!(ctx.scan_position.get().is_none());
    });
}

/// Pairs without an end; holds a token of which others keep a weak reference.
struct Endless(Arc<()>);

#[async_trait]
impl KvSource for Endless {
    async fn scan(&self, _range: KeyRange, _desc: bool) -> Result<Box<dyn KvScan>> {
        Ok(Box::new(Endless(self.0.clone())))
    }

    async fn batch_get(&self, _keys: &[bytes::Bytes]) -> Result<Vec<RowRead>> {
        Err(ExecError::Corrupted("not in this test"))
    }
}

#[async_trait]
impl KvScan for Endless {
    async fn next_batch(&mut self, out: &mut KvBatch, limit: usize) -> Result<bool> {
        let row = encode_row([(ColumnId(2), DatumRef::Int(3))])?;
        let key = encode_row_key(TableId(1), &Handle::Int(3));
        (0..limit).for_each(|_| out.push(&key, &row));
        tokio::task::yield_now().await;
        Ok(true)
    }
}

/// Exchange below a parallel join below an exchange, over endless input.
fn endless_tree(token: Arc<()>, ctx: &ExecContext) -> BoxOperator {
    let scan = Fragment { operators: vec![scan()], settings: EvalSettings::default() };
    let endless_source = Arc::new(Endless(token));
    let ranges = vec![KeyRange::default()];
    let endless = build_fragment(&scan, ranges, endless_source, ctx.clone()).expect("sound");
    let endless = Box::new(Exchange::spawn(endless, ctx));
    let build = source(&vec![(Some(3), Some(1))], ctx);
    let desc = HashJoinDesc {
        kind: JoinKind::Inner,
        null_aware: false,
        left_keys: vec![column(1)],
        right_keys: vec![column(0)],
        null_safe: Vec::new(),
        other_conditions: Vec::new(),
        build_side: JoinSide::Right,
    };
    let join = HashJoin::new(endless, build, desc, ctx.clone()).expect("sound");
    Box::new(Exchange::spawn(Box::new(join), ctx))
}

async fn until_gone(token: &std::sync::Weak<()>) {
    let gone = async {
        while token.strong_count() > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, gone).await.expect("all tasks end");
}

#[test]
fn dropping_a_tree_ends_its_tasks() {
    runtime().block_on(async {
        let ctx = context();
        let token = Arc::new(());
        let weak = Arc::downgrade(&token);
        let mut tree = endless_tree(token, &ctx);
        for _ in 0..100 {
            assert!(tree.next().await.unwrap().is_some());
        }
        drop(tree);
        until_gone(&weak).await;
        assert_eq!(ctx.memory.used_bytes(), 0);
    });
}

#[test]
fn cancelling_a_statement_ends_its_tasks() {
    runtime().block_on(async {
        let ctx = context();
        let token = Arc::new(());
        let weak = Arc::downgrade(&token);
        let mut tree = endless_tree(token, &ctx);
        assert!(tree.next().await.unwrap().is_some());
        ctx.cancel.cancel();
        let ended = async {
            loop {
                match tree.next().await {
                    Ok(Some(_)) => {}
                    other => return other.map(|_| ()),
                }
            }
        };
        let ended = tokio::time::timeout(DEADLINE, ended).await.expect("it ends");
        assert!(matches!(ended, Err(ExecError::Cancelled)), "{ended:?}");
        drop(tree);
        until_gone(&weak).await;
    });
}

#[test]
fn a_source_that_waits_can_be_cancelled() {
    runtime().block_on(async {
        let ctx = context();
        let waiting = futures::stream::pending::<Result<Chunk>>().boxed();
        let mut tree = ChunkSource::new(schema(), waiting, ctx.clone());
        ctx.cancel.cancel();
        assert!(matches!(tree.next().await, Err(ExecError::Cancelled)));
    });
}

/// An index join of a hundred numbers, each with `matches` inner rows, under a quota.
async fn looked_up(matches: i64, quota_bytes: u64) -> Result<Vec<Vec<Datum>>> {
    let mut ctx = context().with_memory(MemoryTracker::root("statement", quota_bytes));
    (ctx.chunk_rows_init, ctx.chunk_rows_max) = (1, 32);
    let outer: Rows = (0..100).map(|key| (Some(key), Some(-key))).collect();
    let inner_ctx = ctx.clone();
    let factory: InnerFactory = Box::new(move |keys: &[Vec<Datum>]| {
        let of =
            |key: &Vec<Datum>| (0..matches).map(|n| (key[0].as_i64(), Some(n))).collect::<Rows>();
        let rows: Rows = keys.iter().flat_map(of).collect();
        Ok(InnerRows { operator: Some(source(&rows, &inner_ctx)), keys: keys.len() })
    });
    let join = HashJoinDesc {
        kind: JoinKind::Inner,
        null_aware: false,
        left_keys: vec![column(0)],
        right_keys: vec![column(0)],
        null_safe: Vec::new(),
        other_conditions: Vec::new(),
        build_side: JoinSide::Right,
    };
    let desc = IndexJoinDesc { join, lookup_keys: vec![column(0)] };
    let join = IndexJoin::new(source(&outer, &ctx), schema(), factory, desc, ctx.clone())?;
    collect_rows(Box::new(join)).await
}

#[test]
fn an_index_join_short_of_memory_looks_fewer_keys_up() {
    runtime().block_on(async {
        // The largest batch has more than a third of the keys: 1.7 MiB of inner rows.
        let whole = looked_up(3_000, 0).await.unwrap();
        assert_eq!(whole.len(), 300_000);
        assert_eq!(looked_up(3_000, 1 << 20).await.unwrap(), whole);
        let error = looked_up(100_000, 1 << 20).await.unwrap_err();
        assert!(matches!(error, ExecError::MemoryExceeded { .. }), "one key is too much: {error}");
    });
}

#[test]
fn statistics_count_rows_and_calls() {
    runtime().block_on(async {
        let (source, ranges) = stored_rows();
        let stats = Arc::new(crate::RuntimeStats::default());
        let ticks = std::sync::atomic::AtomicU64::new(0);
        let clock = Arc::new(move || ticks.fetch_add(5, std::sync::atomic::Ordering::Relaxed));
        let ctx = context().with_stats(stats.clone(), clock);
        let tree = build_fragment(&samples()[0], ranges, source, ctx).unwrap();
        collect_rows(tree).await.unwrap();
        let summaries = stats.summaries();
        let names: Vec<_> = summaries.iter().map(|(id, op)| (*id, op.name.as_str())).collect();
        assert_eq!(names, [(0, "TableScan"), (1, "Selection"), (2, "HashAgg")]);
        assert_eq!((summaries[0].1.rows, summaries[1].1.rows), (10, 6));
        assert!(summaries.iter().all(|(_, op)| op.loops > 0 && op.time_ns > 0));
    });
}
