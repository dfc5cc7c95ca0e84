//! The twins against the engines they stand for: same operations, same answers.

mod damage;
mod raft_log;

use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;
use raft::eraftpb::{Entry, HardState};

use crate::{
    Cf, EngineError, EngineIterator, EngineSnapshot, FilePlan, IterOptions, KvEngine, LogBatch,
    LogOp, MemoryEngine, MemoryRaftLog, RaftEngineLog, RaftEngineOptions, RaftLocalState, RaftLog,
    RocksEngine, RocksOptions, WriteBatch, WriteOp, version_prefix,
};

/// One step of a random history.
#[derive(Clone, Debug)]
enum Step {
    Write(WriteBatch),
    TakeSnapshot,
    DropSnapshot(usize),
    Get(usize, Cf, Bytes),
    /// Bounds, start key, moves (true = forwards).
    Walk(usize, Cf, Option<Bytes>, Option<Bytes>, Seek, Vec<bool>),
    /// `seek` and `next` within the versions of one row.
    Versions(usize, Bytes),
    /// The same and a `get` in the newest state.
    Live(Cf, Bytes),
    /// The entries of a range of one view go into a file, the range is cleared, and the
    /// file is taken in.
    Carry(usize, Cf, Bytes, Bytes),
    Flush,
    Compact,
}

#[derive(Clone, Debug)]
enum Seek {
    First,
    Last,
    At(Bytes),
    Before(Bytes),
}

fn any_cf() -> impl Strategy<Value = Cf> {
    prop_oneof![Just(Cf::Default), Just(Cf::Lock), Just(Cf::Write)]
}

/// Few keys, so that histories collide: rows a..f with timestamps 0..5, and local keys.
fn any_key() -> impl Strategy<Value = Bytes> {
    prop_oneof![
        9 => (0u8..6, 0u64..6).prop_map(|(row, ts)| {
            let mut key = vec![b'z', b'a' + row];
            key.extend_from_slice(&ts.to_be_bytes());
            Bytes::from(key)
        }),
        1 => (0u8..3).prop_map(|number| Bytes::from(vec![1, number])),
    ]
}

fn any_op() -> impl Strategy<Value = WriteOp> {
    prop_oneof![
        6 => (any_cf(), any_key(), proptest::collection::vec(any::<u8>(), 0..5))
            .prop_map(|(cf, key, value)| WriteOp::Put { cf, key, value: value.into() }),
        3 => (any_cf(), any_key()).prop_map(|(cf, key)| WriteOp::Delete { cf, key }),
        1 => (any_cf(), any_key(), any_key())
            .prop_map(|(cf, start, end)| WriteOp::DeleteRange { cf, start, end }),
    ]
}

fn any_batch() -> impl Strategy<Value = WriteBatch> {
    proptest::collection::vec(any_op(), 1..8).prop_map(|ops| {
        let mut batch = WriteBatch::new();
        ops.into_iter().for_each(|op| batch.push(op));
        batch
    })
}

fn any_seek() -> impl Strategy<Value = Seek> {
    prop_oneof![
        Just(Seek::First),
        Just(Seek::Last),
        any_key().prop_map(Seek::At),
        any_key().prop_map(Seek::Before),
    ]
}

fn any_step() -> impl Strategy<Value = Step> {
    let bound = || proptest::option::of(any_key());
    prop_oneof![
        6 => any_batch().prop_map(Step::Write),
        2 => Just(Step::TakeSnapshot),
        1 => any::<usize>().prop_map(Step::DropSnapshot),
        2 => (any::<usize>(), any_cf(), any_key()).prop_map(|(at, cf, key)| Step::Get(at, cf, key)),
        4 => (
            any::<usize>(),
            any_cf(),
            bound(),
            bound(),
            any_seek(),
            proptest::collection::vec(any::<bool>(), 0..12),
        )
            .prop_map(|(at, cf, lower, upper, seek, moves)| {
                Step::Walk(at, cf, lower, upper, seek, moves)
            }),
        2 => (any::<usize>(), any_key()).prop_map(|(at, key)| Step::Versions(at, key)),
        3 => (any_cf(), any_key()).prop_map(|(cf, key)| Step::Live(cf, key)),
        1 => (any::<usize>(), any_cf(), any_key(), any_key())
            .prop_map(|(at, cf, start, end)| Step::Carry(at, cf, start, end)),
        1 => Just(Step::Flush),
        1 => Just(Step::Compact),
    ]
}

type Shown = Vec<Option<(Vec<u8>, Vec<u8>)>>;

fn shown(iterator: &dyn EngineIterator) -> Option<(Vec<u8>, Vec<u8>)> {
    iterator.valid().then(|| (iterator.key().to_vec(), iterator.value().to_vec()))
}

fn walk(
    view: &dyn EngineSnapshot,
    cf: Cf,
    bounds: (&Option<Bytes>, &Option<Bytes>),
    seek: &Seek,
    moves: &[bool],
) -> Shown {
    let options =
        IterOptions { lower: bounds.0.clone(), upper: bounds.1.clone(), ..IterOptions::default() };
    let mut iterator = view.iter(cf, options);
    let found = match seek {
        Seek::First => iterator.seek_to_first(),
        Seek::Last => iterator.seek_to_last(),
        Seek::At(key) => iterator.seek(key),
        Seek::Before(key) => iterator.seek_for_prev(key),
    };
    assert_eq!(found.unwrap(), iterator.valid());
    let mut out = vec![shown(iterator.as_ref())];
    for forwards in moves {
        if !iterator.valid() {
            break;
        }
        if *forwards {
            iterator.next().unwrap()
        } else {
            iterator.prev().unwrap()
        };
        out.push(shown(iterator.as_ref()));
    }
    out
}

fn versions(view: &dyn EngineSnapshot, key: &[u8]) -> Shown {
    let options = IterOptions { prefix_same_as_start: true, ..IterOptions::default() };
    let mut iterator = view.iter(Cf::Write, options);
    let mut out = Vec::new();
    let mut valid = iterator.seek(key).unwrap();
    while valid {
        out.push(shown(iterator.as_ref()));
        valid = iterator.next().unwrap();
    }
    assert!(matches!(iterator.seek_to_last(), Err(EngineError::Unsupported(_))));
    out
}

type View = (Arc<dyn EngineSnapshot>, Arc<dyn EngineSnapshot>);

/// Replaces a range of an engine by what a view held in it, by way of a file.
fn carry(engine: &dyn KvEngine, view: &dyn EngineSnapshot, cf: Cf, start: &Bytes, end: &Bytes) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    let mut entries = view.iter(cf, IterOptions::range(start.clone(), end.clone()));
    entries.seek_to_first().unwrap();
    let mut plan = FilePlan { path: &path, bytes_max: u64::MAX, pace: &mut |_| Ok(()) };
    let file = engine.write_file(cf, &mut plan, entries.as_mut()).unwrap();
    assert!(!entries.valid());
    let mut batch = WriteBatch::new();
    batch.delete_range(cf, start.clone(), end.clone());
    engine.write(batch, false).unwrap();
    if let Some(file) = file {
        assert!(file.first_key >= start && file.last_key < end);
        for _ in 0..2 {
            engine.ingest(cf, std::slice::from_ref(&path)).unwrap();
        }
        assert!(path.exists(), "the file stays for another attempt");
    }
}

fn run_history(rocks: &RocksEngine, memory: &MemoryEngine, steps: Vec<Step>) {
    let mut views: Vec<View> = vec![(rocks.snapshot(), memory.snapshot())];
    for step in steps {
        match step {
            Step::Write(batch) => {
                rocks.write(batch.clone(), false).unwrap();
                memory.write(batch, false).unwrap();
            }
            Step::TakeSnapshot => views.push((rocks.snapshot(), memory.snapshot())),
            Step::DropSnapshot(at) => {
                views.remove(at % views.len());
                views.push((rocks.snapshot(), memory.snapshot()));
            }
            Step::Get(at, cf, key) => {
                let (one, other) = &views[at % views.len()];
                assert_eq!(one.get(cf, &key).unwrap(), other.get(cf, &key).unwrap());
                assert_eq!(rocks.get(cf, &key).unwrap(), memory.get(cf, &key).unwrap());
            }
            Step::Walk(at, cf, lower, upper, seek, moves) => {
                let (one, other) = &views[at % views.len()];
                let bounds = (&lower, &upper);
                let expected = walk(one.as_ref(), cf, bounds, &seek, &moves);
                assert_eq!(expected, walk(other.as_ref(), cf, bounds, &seek, &moves));
            }
            Step::Versions(at, key) if version_prefix(&key).is_some() => {
                let (one, other) = &views[at % views.len()];
                assert_eq!(versions(one.as_ref(), &key), versions(other.as_ref(), &key));
            }
            Step::Versions(..) => {}
            Step::Live(cf, key) => {
                let (one, other) = (rocks.live(), memory.live());
                assert_eq!(one.get(cf, &key).unwrap(), other.get(cf, &key).unwrap());
                if version_prefix(&key).is_some() {
                    assert_eq!(versions(one.as_ref(), &key), versions(other.as_ref(), &key));
                }
            }
            Step::Carry(at, cf, start, end) if start < end => {
                let (one, other) = &views[at % views.len()];
                carry(rocks, one.as_ref(), cf, &start, &end);
                carry(memory, other.as_ref(), cf, &start, &end);
            }
            Step::Carry(..) => {}
            Step::Flush => {
                rocks.flush().unwrap();
                rocks.tidy();
            }
            Step::Compact => rocks.compact_range(b"", b"~").unwrap(),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn memory_engine_behaves_like_rocksdb(steps in proptest::collection::vec(any_step(), 1..80)) {
        let dir = tempfile::tempdir().unwrap();
        let rocks = RocksEngine::open(dir.path(), &RocksOptions::small()).unwrap();
        run_history(&rocks, &MemoryEngine::new(), steps);
    }
}

proptest! {
    #[test]
    fn batches_round_trip(batch in any_batch()) {
        let mut encoded = Vec::new();
        batch.encode(&mut encoded);
        prop_assert!(encoded.len() <= batch.size_bytes());
        prop_assert_eq!(WriteBatch::decode(encoded.into()).unwrap(), batch);
    }

    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
        let _ = WriteBatch::decode(bytes.clone().into());
        let _ = RaftLocalState::decode(&bytes);
    }
}

#[test]
fn snapshots_and_iterators_outlive_their_engine() {
    let dir = tempfile::tempdir().unwrap();
    let engine = RocksEngine::open(dir.path(), &RocksOptions::small()).unwrap();
    let mut batch = WriteBatch::new();
    batch.put(Cf::Write, &b"za"[..], &b"1"[..]);
    engine.write(batch, true).unwrap();
    let view = engine.snapshot();
    drop(engine);
    let mut iterator = view.iter(Cf::Write, IterOptions::default());
    drop(view);
    assert!(iterator.seek_to_first().unwrap());
    assert_eq!((iterator.key(), iterator.value()), (&b"za"[..], &b"1"[..]));
}

#[test]
fn a_crash_keeps_what_was_synced() {
    let engine = MemoryEngine::new();
    let put = |key: &'static [u8], value: &'static [u8], sync| {
        let mut batch = WriteBatch::new();
        batch.put(Cf::Default, key, value);
        engine.write(batch, sync).unwrap();
    };
    put(b"a", b"1", true);
    put(b"a", b"2", false);
    put(b"b", b"1", false);
    engine.crash();
    assert_eq!(engine.get(Cf::Default, b"a").unwrap().as_deref(), Some(&b"1"[..]));
    assert_eq!(engine.get(Cf::Default, b"b").unwrap(), None);
}

/// One step of a random history of Raft logs.
#[derive(Clone, Debug)]
enum LogStep {
    Write(Vec<(u64, LogChange)>),
    Read(u64, u64, u64, u64),
    Reopen,
}

/// Positions are relative to what the group holds, so that most changes are valid.
#[derive(Clone, Debug)]
enum LogChange {
    /// How far back from the end, how many, payload size.
    Append(u64, u64, usize),
    State(u64, u64, u64),
    Compact(u64),
    Clean,
}

fn any_log_step() -> impl Strategy<Value = LogStep> {
    let change = prop_oneof![
        6 => (0u64..6, 1u64..6, 0usize..40)
            .prop_map(|(back, count, size)| LogChange::Append(back, count, size)),
        2 => (1u64..9, 0u64..4, 0u64..9).prop_map(|(t, v, c)| LogChange::State(t, v, c)),
        2 => (0u64..8).prop_map(LogChange::Compact),
        1 => Just(LogChange::Clean),
    ];
    prop_oneof![
        6 => proptest::collection::vec((1u64..4, change), 1..5).prop_map(LogStep::Write),
        4 => (1u64..4, 0u64..30, 0u64..30, 1u64..200)
            .prop_map(|(region, low, high, bytes)| LogStep::Read(region, low, high, bytes)),
        1 => Just(LogStep::Reopen),
    ]
}

fn batch_of(log: &dyn RaftLog, changes: &[(u64, LogChange)], term: u64) -> LogBatch {
    let mut batch = LogBatch::new();
    for (region, change) in changes {
        match change {
            LogChange::Append(back, count, size) => {
                let next = log.bounds(*region).map_or(6, |(_, last)| last + 1);
                let first = next.saturating_sub(*back).max(1);
                let entries = (first..first + count).map(|index| Entry {
                    index,
                    term,
                    data: vec![index as u8; *size].into(),
                    ..Entry::default()
                });
                batch.append(*region, entries.collect());
            }
            LogChange::State(term, vote, commit) => {
                let hard_state =
                    HardState { term: *term, vote: *vote, commit: *commit, ..HardState::default() };
                batch.put_state(*region, RaftLocalState { hard_state, last_index: *commit });
            }
            LogChange::Compact(ahead) => {
                let first = log.bounds(*region).map_or(0, |(first, _)| first);
                batch.compact_to(*region, first + ahead);
            }
            LogChange::Clean => batch.clean(*region),
        }
    }
    batch
}

fn assert_same(one: &dyn RaftLog, other: &dyn RaftLog) {
    for region in 1..4 {
        assert_eq!(one.bounds(region), other.bounds(region), "bounds of {region}");
        assert_eq!(one.state(region).unwrap(), other.state(region).unwrap());
        if let Some((first, last)) = one.bounds(region) {
            assert_eq!(
                one.entries(region, first, last + 1, u64::MAX).unwrap(),
                other.entries(region, first, last + 1, u64::MAX).unwrap()
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn memory_log_behaves_like_raft_engine(
        steps in proptest::collection::vec(any_log_step(), 1..50),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let open = || RaftEngineLog::open(dir.path(), &RaftEngineOptions::default()).unwrap();
        let mut file = Some(open());
        let memory = MemoryRaftLog::new();
        for (position, step) in steps.into_iter().enumerate() {
            let log = file.as_ref().unwrap();
            match step {
                LogStep::Write(changes) => {
                    let batch = batch_of(log, &changes, position as u64 / 4 + 1);
                    let outcome = log.write(batch.clone(), false);
                    prop_assert_eq!(outcome, memory.write(batch, false));
                }
                LogStep::Read(region, low, high, bytes) => {
                    let (one, other) = (
                        log.entries(region, low, high, bytes),
                        memory.entries(region, low, high, bytes),
                    );
                    prop_assert_eq!(one, other);
                }
                LogStep::Reopen => {
                    drop(file.take());
                    file = Some(open());
                }
            }
            assert_same(file.as_ref().unwrap(), &memory);
        }
    }
}

#[test]
fn holes_and_compacted_indexes_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    let file = RaftEngineLog::open(dir.path(), &RaftEngineOptions::default()).unwrap();
    let memory = MemoryRaftLog::new();
    let entry = |index: u64| Entry { index, term: 1, ..Entry::default() };
    for log in [&file as &dyn RaftLog, &memory] {
        let mut batch = LogBatch::new();
        batch.append(1, (6..20).map(entry).collect());
        batch.compact_to(1, 10);
        log.write(batch, true).unwrap();
        assert_eq!(log.bounds(1), Some((10, 19)));
        for bad in [vec![entry(22)], vec![entry(8)], vec![entry(20), entry(22)]] {
            let mut batch = LogBatch::new();
            batch.append(1, bad);
            assert!(log.write(batch, true).is_err());
        }
        assert!(matches!(log.entries(1, 9, 12, 100), Err(EngineError::Compacted { .. })));
        assert!(matches!(log.entries(1, 18, 21, 100), Err(EngineError::Unavailable { .. })));
        assert!(matches!(log.entries(2, 1, 2, 100), Err(EngineError::Unavailable { .. })));
        // What a Raft snapshot does: the past goes, and a later index begins anew.
        let mut batch = LogBatch::new();
        batch.clean(1);
        batch.put_state(1, RaftLocalState::default());
        batch.append(1, vec![entry(100)]);
        log.write(batch, true).unwrap();
        assert_eq!(log.bounds(1), Some((100, 100)));
        assert_eq!(log.sync_count(), 2);
    }
}

#[test]
fn an_unsynced_batch_is_lost_with_power() {
    let log = MemoryRaftLog::new();
    let mut batch = LogBatch::new();
    batch.append(1, vec![Entry { index: 6, term: 1, ..Entry::default() }]);
    log.write(batch.clone(), true).unwrap();
    let mut more = LogBatch::new();
    more.append(1, vec![Entry { index: 7, term: 1, ..Entry::default() }]);
    assert!(matches!(more.ops()[0].1, LogOp::Append(_)));
    log.write(more, false).unwrap();
    assert_eq!(log.bounds(1), Some((6, 7)));
    log.crash();
    assert_eq!(log.bounds(1), Some((6, 6)));
}
