//! Joins in fragments: what they give, where they can go on, and what is refused.

use super::*;
use crate::broadcast::{BroadcastTable, TableDigest};
use crate::memory::{MemoryTracker, OperatorMemory};

/// Rows as they travel.
fn encoded(rows: &Rows) -> Vec<u8> {
    let mut chunk = Chunk::new(&schema(), rows.len());
    for (key, value) in rows {
        chunk.push_row(&[Datum::from(*key), Datum::from(*value)]);
    }
    let mut bytes = Vec::new();
    chunk.encode(&mut bytes);
    bytes
}

fn table(rows: &Rows) -> Arc<BroadcastTable> {
    let memory = OperatorMemory::new(MemoryTracker::root("store", 0), "broadcast table");
    Arc::new(BroadcastTable::decode(schema(), &encoded(rows), memory).expect("sound"))
}

fn with_table(ctx: ExecContext, rows: &Rows) -> ExecContext {
    ctx.with_tables(Arc::new([table(rows)]))
}

fn join_of(kind: JoinKind, build_side: JoinSide) -> BroadcastJoinDesc {
    let join = HashJoinDesc {
        kind,
        null_aware: false,
        left_keys: vec![column(0)],
        right_keys: vec![column(0)],
        null_safe: Vec::new(),
        other_conditions: Vec::new(),
        build_side,
    };
    BroadcastJoinDesc { join, table: 0, table_types: schema() }
}

/// Kinds with the sides that may be a table.
fn broadcast_kind() -> impl Strategy<Value = (JoinKind, bool, JoinSide)> {
    let side = any::<bool>().prop_map(|left| if left { JoinSide::Left } else { JoinSide::Right });
    (join_kind(), side).prop_map(|((kind, null_aware), side)| match kind {
        JoinKind::Inner => (kind, null_aware, side),
        JoinKind::RightOuter => (kind, null_aware, JoinSide::Left),
        _ => (kind, null_aware, JoinSide::Right),
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn broadcast_joins_agree_with_nested_loops(
        left in rows(70),
        right in rows(40),
        (kind, null_aware, build_side) in broadcast_kind(),
        null_safe: bool,
        conditioned: bool,
    ) {
        let mut desc = join_of(kind, build_side);
        desc.join.null_aware = null_aware;
        desc.join.null_safe = vec![null_safe && !null_aware];
        if conditioned {
            desc.join.other_conditions = vec![call("lt", vec![column(1), column(3)])];
        }
        let expected = nested_loop(&left, &right, &desc.join);
        let (probe, build) = match build_side {
            JoinSide::Right => (&left, &right),
            JoinSide::Left => (&right, &left),
        };
        let found = runtime().block_on(async {
            let ctx = with_table(context(), build);
            let join = BroadcastJoin::new(source(probe, &ctx), &desc, ctx.clone());
            collect_rows(Box::new(join.expect("a sound join"))).await
        });
        prop_assert_eq!(sorted(found.expect("the join runs")), expected);
    }
}

/// A row of the scan has as many joined rows as make several chunks: a task that is broken off at any
/// chunk goes on behind the last mark, and gives each row once.
#[test]
fn a_broken_task_goes_on_between_two_probe_chunks() {
    runtime().block_on(async {
        let (source, ranges) = stored_rows();
        let many: Rows = (0..2_000).map(|at| (Some(at % 5), Some(at))).collect();
        let mut join = join_of(JoinKind::LeftOuter, JoinSide::Right);
        join.join.left_keys = vec![column(1)];
        let other = join_of(JoinKind::Semi, JoinSide::Right);
        let operators = vec![scan(), OpDesc::HashJoin(join), OpDesc::HashJoin(other)];
        let fragment = Fragment { operators, settings: EvalSettings::default() };
        // The rows that were marked, and what remains: all of it done, or so many chunks.
        let run = async |mut ranges: Vec<KeyRange>, chunks_max: usize| {
            let ctx = with_table(context(), &many);
            let tree = build_fragment(&fragment, ranges.clone(), source.clone(), ctx.clone());
            let mut tree = tree.expect("sound");
            let (mut given, mut marked) = (Vec::new(), 0);
            for _ in 0..chunks_max {
                let Some(chunk) = tree.next().await.expect("it runs") else {
                    return (given, None);
                };
                given.extend(chunk.selected().map(|row| chunk.row(row)));
                if let Some(next) = ctx.scan_position.get() {
                    marked = given.len();
                    ranges[0].start = next;
                }
            }
            given.truncate(marked);
            (given, Some(ranges))
        };
        let (all, _) = run(ranges.clone(), usize::MAX).await;
        assert_eq!(all.len(), 5 * 400);
        let mut in_between = 0;
        for chunks_max in 1.. {
            let (mut given, rest) = run(ranges.clone(), chunks_max).await;
            let Some(rest) = rest else { break };
            in_between += usize::from(!given.is_empty());
            given.extend(run(rest, usize::MAX).await.0);
            assert_eq!(given, all, "broken off behind {chunks_max} chunks");
        }
        assert!(in_between > 1);
    });
}

#[test]
fn tasks_share_a_tables_links() {
    runtime().block_on(async {
        let ctx = with_table(context(), &vec![(Some(1), Some(2)); 500]);
        let before = ctx.tables[0].bytes();
        let desc = join_of(JoinKind::Semi, JoinSide::Right);
        let mut bytes = Vec::new();
        for _ in 0..3 {
            let probe = source(&vec![(Some(1), None)], &ctx);
            let join = BroadcastJoin::new(probe, &desc, ctx.clone()).expect("sound");
            assert_eq!(collect_rows(Box::new(join)).await.expect("it runs").len(), 1);
            bytes.push(ctx.tables[0].bytes());
        }
        assert!(bytes[0] > before, "the link is counted");
        assert!(bytes.iter().all(|now| *now == bytes[0]), "and made once: {bytes:?}");
    });
}

#[test]
fn unsound_joins_are_refused() {
    let refused = |join: BroadcastJoinDesc| {
        let operators = vec![scan(), OpDesc::HashJoin(join)];
        Fragment { operators, settings: EvalSettings::default() }.validate().is_err()
    };
    let good = || join_of(JoinKind::Inner, JoinSide::Right);
    assert!(!refused(good()));
    assert!(refused(join_of(JoinKind::LeftOuter, JoinSide::Left)), "the table is preserved");
    assert!(refused(join_of(JoinKind::RightOuter, JoinSide::Right)));
    assert!(refused(join_of(JoinKind::Anti, JoinSide::Left)));
    let mut join = good();
    (join.join.left_keys, join.join.right_keys) = (Vec::new(), Vec::new());
    assert!(refused(join), "no keys");
    let mut join = good();
    join.join.right_keys = vec![call("plus", vec![column(0), column(1)])];
    assert!(refused(join), "a computed key of the table");
    let mut join = good();
    join.join.right_keys = vec![column(2)];
    assert!(refused(join), "a key that the table lacks");
    let mut join = good();
    join.table = usize::MAX;
    assert!(refused(join));
}

#[test]
fn a_join_wants_the_table_it_names() {
    let desc = join_of(JoinKind::Inner, JoinSide::Right);
    let ctx = context();
    assert!(BroadcastJoin::new(source(&Vec::new(), &ctx), &desc, ctx.clone()).is_err());
    let ctx = with_table(ctx, &Vec::new());
    let mut other_types = desc.clone();
    other_types.table_types.push(FieldType::bigint());
    assert!(BroadcastJoin::new(source(&Vec::new(), &ctx), &other_types, ctx.clone()).is_err());
    assert!(BroadcastJoin::new(source(&Vec::new(), &ctx), &desc, ctx.clone()).is_ok());
}

#[test]
fn a_digest_names_types_and_rows() {
    let rows = encoded(&vec![(Some(1), None)]);
    let digest = TableDigest::of(&schema(), &rows);
    assert_eq!(digest, TableDigest::of(&schema(), &rows.clone()));
    assert_ne!(digest, TableDigest::of(&schema(), &encoded(&vec![(Some(2), None)])));
    let unsigned = [FieldType::bigint(), FieldType::bigint().with_unsigned()];
    assert_ne!(digest, TableDigest::of(&unsigned, &rows));
}

#[test]
fn rows_that_do_not_decode_or_fit_are_refused() {
    let rows = encoded(&vec![(Some(1), None); 100]);
    let decode = |bytes: &[u8], limit: u64| {
        let memory = OperatorMemory::new(MemoryTracker::root("store", limit), "broadcast table");
        BroadcastTable::decode(schema(), bytes, memory)
    };
    assert!(decode(&rows, 0).is_ok());
    assert!(decode(&rows[..rows.len() - 1], 0).is_err());
    let error = decode(&rows, 100).err().expect("too much").to_string();
    assert!(error.contains("broadcast table"), "{error}");
}
