//! What is collected, and that no reader at or above the safe point can tell.

use bytes::Bytes;
use cairn_engine::{Cf, GarbageFilter, KvEngine, MemoryEngine, RocksEngine, RocksOptions};
use cairn_types::TimeStamp;
use proptest::prelude::*;

use super::collect::collect;
use super::filter::VersionFilter;
use super::*;
use crate::mvcc::{MvccReader, MvccTxn, SHORT_VALUE_BYTES_MAX, Write, WriteKind, keys};

const KEYS: [&str; 3] = ["a", "b", "c"];

fn arbitrary_kind() -> impl Strategy<Value = WriteKind> {
    prop_oneof![
        3 => Just(WriteKind::Put),
        1 => Just(WriteKind::Delete),
        1 => Just(WriteKind::Lock),
        1 => Just(WriteKind::Rollback),
    ]
}

proptest! {
    #[test]
    fn readers_above_the_safe_point_see_no_difference(
        histories in proptest::collection::vec(
            proptest::collection::btree_map(1u64..40, arbitrary_kind(), 0..8), 3),
        safe_point in 0u64..45,
        limit in 1usize..4,
    ) {
        let engine = MemoryEngine::new();
        let mut txn = MvccTxn::new();
        for (key, history) in KEYS.iter().zip(&histories) {
            let user_key = keys::user_key(key.as_bytes());
            for (&commit_ts, &kind) in history {
                let mut write = Write::new(kind, TimeStamp(commit_ts));
                let value = vec![commit_ts as u8; if commit_ts % 3 == 0 { SHORT_VALUE_BYTES_MAX + 1 } else { 1 }];
                if kind == WriteKind::Put && value.len() == 1 {
                    write.short_value = Some(&value);
                } else if kind == WriteKind::Put {
                    txn.put_value(&user_key, TimeStamp(commit_ts), &Bytes::from(value.clone()));
                }
                txn.put_write(&user_key, TimeStamp(commit_ts), &write);
            }
        }
        engine.write(txn.into_batch(), false).unwrap();
        let read_all = || -> Vec<Option<Bytes>> {
            let mut reader = MvccReader::new(engine.snapshot());
            (safe_point..50)
                .flat_map(|ts| KEYS.map(|key| (key, ts)))
                .map(|(key, ts)| reader.get(key.as_bytes(), ts.into(), &[]).unwrap())
                .collect()
        };
        let before = read_all();
        let mut walk = whole_walk(safe_point.into());
        while collect(&engine, &mut walk, limit).unwrap().has_more {
            // Not even half-way can a reader tell.
            prop_assert_eq!(read_all(), &before[..]);
        }
        prop_assert_eq!(read_all(), &before[..]);
        // A round that sees all of a key together leaves nothing to collect.
        collect(&engine, &mut whole_walk(safe_point.into()), usize::MAX).unwrap();
        prop_assert_eq!(read_all(), before);
        let again = collect(&engine, &mut whole_walk(safe_point.into()), usize::MAX).unwrap();
        prop_assert_eq!(again, Round::default());
        for (key, history) in KEYS.iter().zip(&histories) {
            let user_key = keys::user_key(key.as_bytes());
            for &ts in history.keys() {
                let place = keys::versioned_key(&user_key, TimeStamp(ts));
                let snapshot = engine.snapshot();
                let has_record = snapshot.get(Cf::Write, &place).unwrap().is_some();
                let has_value = snapshot.get(Cf::Default, &place).unwrap().is_some();
                prop_assert!(has_record || !has_value);
            }
        }
    }
}

/// A transaction that began at the safe point may still prewrite: what keeps it from that stays.
#[test]
fn records_at_the_safe_point_itself_stay() {
    for (kind, place_ts) in
        [(WriteKind::Rollback, 10), (WriteKind::Lock, 10), (WriteKind::Delete, 10)]
    {
        let engine = MemoryEngine::new();
        let user_key = keys::user_key(b"a");
        let mut txn = MvccTxn::new();
        txn.put_write(&user_key, TimeStamp(place_ts), &Write::new(kind, TimeStamp(place_ts)));
        engine.write(txn.into_batch(), false).unwrap();
        let place = keys::versioned_key(&user_key, TimeStamp(place_ts));
        for (safe_point, stays) in [(9, true), (10, true), (11, false)] {
            while collect(&engine, &mut whole_walk(safe_point.into()), 10).unwrap().has_more {}
            let found = engine.snapshot().get(Cf::Write, &place).unwrap();
            assert_eq!(found.is_some(), stays, "{kind:?} at {safe_point}");
        }
    }
}

/// A step of a history on engines with a filter.
#[derive(Clone, Debug)]
enum Step {
    /// Commits to some of [`KEYS`], with long values or short ones.
    Commit(Vec<(usize, WriteKind)>, bool),
    Flush,
    /// Of the keys from one to the other; levels are forced down to the last one.
    Compact(usize, usize),
    /// The safe point follows, so many timestamps behind.
    Raise(u64),
    /// A walk of the collector, so many records a round.
    Collect(usize),
}

fn arbitrary_step() -> impl Strategy<Value = Step> {
    let commit = proptest::collection::vec((0..KEYS.len(), arbitrary_kind()), 1..4);
    prop_oneof![
        8 => (commit, any::<bool>()).prop_map(|(keys, is_long)| Step::Commit(keys, is_long)),
        4 => Just(Step::Flush),
        2 => (0..KEYS.len(), 0..KEYS.len()).prop_map(|(from, to)| Step::Compact(from, to)),
        2 => (0u64..6).prop_map(Step::Raise),
        2 => (1usize..6).prop_map(Step::Collect),
    ]
}

/// Everything that was ever committed: commit timestamp → value, if any.
type Model = [std::collections::BTreeMap<u64, (WriteKind, Bytes)>; KEYS.len()];

fn model_get(model: &Model, key: usize, read_ts: u64) -> Option<Bytes> {
    let mut data = model[key].range(..=read_ts).rev().map(|(_, version)| version);
    let (kind, value) = data.find(|(kind, _)| kind.is_data())?;
    (*kind == WriteKind::Put).then(|| value.clone())
}

fn commit(
    engine: &dyn KvEngine,
    model: &mut Model,
    ts: u64,
    key: usize,
    version: (WriteKind, Bytes),
) {
    let user_key = keys::user_key(KEYS[key].as_bytes());
    let (kind, value) = &version;
    let start_ts = match kind {
        WriteKind::Rollback => TimeStamp(ts),
        _ => TimeStamp(ts - 1),
    };
    let mut write = Write::new(*kind, start_ts);
    let mut txn = MvccTxn::new();
    if *kind == WriteKind::Put && MvccTxn::is_short(value) {
        write.short_value = Some(value);
    } else if *kind == WriteKind::Put {
        txn.put_value(&user_key, start_ts, value);
    }
    txn.put_write(&user_key, TimeStamp(ts), &write);
    engine.write(txn.into_batch(), false).unwrap();
    model[key].insert(ts, version);
}

fn whole_walk(safe_point: TimeStamp) -> Walk {
    Walk::new(Bytes::from_static(b"z"), Bytes::from_static(crate::keys::DATA_END), safe_point)
}

/// One walk of the collector over everything.
fn collect_all(engine: &dyn KvEngine, safe_point: TimeStamp) {
    let mut walk = whole_walk(safe_point);
    while collect(engine, &mut walk, RECORDS_PER_ROUND).unwrap().has_more {}
}

fn entries(engine: &dyn KvEngine, cf: Cf) -> Vec<(Bytes, TimeStamp)> {
    let mut iter = engine.snapshot().iter(cf, cairn_engine::IterOptions::default());
    let mut found = Vec::new();
    let mut valid = iter.seek_to_first().unwrap();
    while valid {
        let (user_key, ts) = keys::split_ts(iter.key()).unwrap();
        found.push((Bytes::copy_from_slice(user_key), ts));
        valid = iter.next().unwrap();
    }
    found
}

/// Runs the steps; after each, readers at and above the safe point see what they would
/// without collection.
fn run_history(engine: &dyn KvEngine, steps: &[Step]) -> Result<(), TestCaseError> {
    let filter = VersionFilter::default();
    engine.set_garbage_filter(Arc::new(filter.clone()));
    let mut model = Model::default();
    let mut now = 10;
    for step in steps {
        match step {
            Step::Commit(changes, is_long) => {
                for (key, kind) in changes {
                    now += 2;
                    let value =
                        Bytes::from(vec![
                            now as u8;
                            if *is_long { SHORT_VALUE_BYTES_MAX + 1 } else { 2 }
                        ]);
                    commit(engine, &mut model, now, *key, (*kind, value));
                }
            }
            Step::Flush => engine.flush().unwrap(),
            Step::Compact(from, to) => {
                let bound = |key: usize| keys::user_key(KEYS[key].as_bytes());
                engine.compact_range(&bound(*from), &bound(*to)).unwrap();
                delete_orphans(engine, filter.take_orphans()).unwrap();
            }
            Step::Raise(behind) => filter.raise(TimeStamp(now - behind)),
            Step::Collect(limit) => {
                let mut walk = whole_walk(filter.safe_point());
                while collect(engine, &mut walk, *limit).unwrap().has_more {}
            }
        }
        let mut reader = MvccReader::new(engine.snapshot());
        for read_ts in filter.safe_point().0..=now + 1 {
            for (at, key) in KEYS.iter().enumerate() {
                let seen = reader.get(key.as_bytes(), TimeStamp(read_ts), &[]).unwrap();
                prop_assert_eq!(seen, model_get(&model, at, read_ts), "{} at {}", key, read_ts);
            }
        }
    }
    // Nothing is left but what somebody sees, or what keeps a transaction that began at the safe point
    // from prewriting: no Delete of the past, no long value of it.
    filter.raise(TimeStamp(now - 4));
    let safe_point = filter.safe_point();
    engine.compact_range(b"z", crate::keys::DATA_END).unwrap();
    delete_orphans(engine, filter.take_orphans()).unwrap();
    collect_all(engine, safe_point);
    let (mut records, mut values) = (Vec::new(), Vec::new());
    for (key, versions) in KEYS.iter().zip(&model) {
        let user_key = Bytes::copy_from_slice(&keys::user_key(key.as_bytes()));
        let newest_old =
            versions.range(..=safe_point.0).rev().find(|(_, (kind, _))| kind.is_data());
        let seen_at_safe_point =
            newest_old.filter(|(_, (kind, _))| *kind == WriteKind::Put).map(|(ts, _)| *ts);
        for (ts, (kind, value)) in versions.iter().rev() {
            if *ts >= safe_point.0 || seen_at_safe_point == Some(*ts) {
                records.push((user_key.clone(), TimeStamp(*ts)));
                if *kind == WriteKind::Put && !MvccTxn::is_short(value) {
                    values.push((user_key.clone(), TimeStamp(*ts - 1)));
                }
            }
        }
    }
    prop_assert_eq!(entries(engine, Cf::Write), records);
    prop_assert_eq!(entries(engine, Cf::Default), values);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn compactions_leave_out_what_nobody_sees(
        steps in proptest::collection::vec(arbitrary_step(), 1..40),
    ) {
        run_history(&MemoryEngine::new(), &steps)?;
        let dir = tempfile::tempdir().unwrap();
        run_history(&RocksEngine::open(dir.path(), &RocksOptions::small()).unwrap(), &steps)?;
    }
}

#[test]
fn a_delete_stays_until_what_it_hides_is_gone() {
    // The Put lies in a file that takes no part in the compaction of the Delete.
    let dir = tempfile::tempdir().unwrap();
    let engine = RocksEngine::open(dir.path(), &RocksOptions::small()).unwrap();
    let mut model = Model::default();
    commit(&engine, &mut model, 12, 0, (WriteKind::Put, Bytes::from_static(b"old")));
    engine.flush().unwrap();
    commit(&engine, &mut model, 14, 0, (WriteKind::Delete, Bytes::new()));
    engine.flush().unwrap();
    let filter = VersionFilter::default();
    filter.raise(TimeStamp(20));
    let mut run = filter.begin().unwrap();
    let key = keys::versioned_key(&keys::user_key(KEYS[0].as_bytes()), TimeStamp(14));
    let value = engine.get(Cf::Write, &key).unwrap().unwrap();
    assert!(!run.is_garbage(&key, &value));
    engine.set_garbage_filter(Arc::new(filter));
    engine.compact_range(b"z", crate::keys::DATA_END).unwrap();
    let mut reader = MvccReader::new(engine.snapshot());
    assert_eq!(reader.get(KEYS[0].as_bytes(), TimeStamp(20), &[]).unwrap(), None);
    assert!(entries(&engine, Cf::Write).iter().any(|(_, ts)| *ts == TimeStamp(14)));
}

/// A step of a history on two replicas.
#[derive(Clone, Debug)]
enum ReplicaStep {
    /// Applied on both.
    Commit(Vec<(usize, WriteKind)>),
    /// The safe point follows, so many timestamps behind.
    Raise(u64),
    /// Of keys from one to the other, on one of the replicas.
    Compact(usize, usize, usize),
    /// On one of them.
    Collect(usize),
    /// One is replaced by a Raft snapshot of the other.
    Install { from: usize },
}

fn arbitrary_replica_step() -> impl Strategy<Value = ReplicaStep> {
    let commit = proptest::collection::vec((0..KEYS.len(), arbitrary_kind()), 1..4);
    prop_oneof![
        6 => commit.prop_map(ReplicaStep::Commit),
        3 => (0u64..6).prop_map(ReplicaStep::Raise),
        3 => (0usize..2, 0..KEYS.len(), 0..=KEYS.len())
            .prop_map(|(at, from, to)| ReplicaStep::Compact(at, from, to)),
        3 => (0usize..2).prop_map(ReplicaStep::Collect),
        1 => (0usize..2).prop_map(|from| ReplicaStep::Install { from }),
    ]
}

/// All of one engine's data takes the place of the other's.
fn replace(from: &dyn KvEngine, to: &dyn KvEngine) {
    let mut batch = WriteBatch::new();
    for cf in [Cf::Write, Cf::Default] {
        batch.delete_range(cf, Bytes::from_static(b"z"), Bytes::from_static(crate::keys::DATA_END));
        let mut iter = from.snapshot().iter(cf, cairn_engine::IterOptions::default());
        let mut valid = iter.seek_to_first().unwrap();
        while valid {
            batch.put(cf, Bytes::copy_from_slice(iter.key()), iter.value().to_vec());
            valid = iter.next().unwrap();
        }
    }
    to.write(batch, false).unwrap();
}

proptest! {
    /// Replicas are compacted and collected each at its own time; none raises the dead.
    #[test]
    fn replicas_with_different_garbage_read_alike(
        steps in proptest::collection::vec(arbitrary_replica_step(), 1..40),
    ) {
        let filter = VersionFilter::default();
        let engines = [MemoryEngine::new(), MemoryEngine::new()];
        let mut models = [Model::default(), Model::default()];
        for engine in &engines {
            engine.set_garbage_filter(Arc::new(filter.clone()));
        }
        let mut now = 10;
        for step in &steps {
            match step {
                ReplicaStep::Commit(changes) => for (key, kind) in changes {
                    now += 2;
                    for (engine, model) in engines.iter().zip(&mut models) {
                        let value = Bytes::from(vec![now as u8; 2]);
                        commit(engine, model, now, *key, (*kind, value));
                    }
                },
                ReplicaStep::Raise(behind) => filter.raise(TimeStamp(now - behind)),
                ReplicaStep::Compact(at, from, to) => {
                    let bound = |key: usize| KEYS.get(key).map_or_else(
                        || crate::keys::DATA_END.to_vec(),
                        |key| keys::user_key(key.as_bytes()).to_vec(),
                    );
                    engines[*at].compact_range(&bound(*from), &bound(*to)).unwrap();
                }
                ReplicaStep::Collect(at) => collect_all(&engines[*at], filter.safe_point()),
                ReplicaStep::Install { from } => replace(&engines[*from], &engines[1 - *from]),
            }
            for engine in &engines {
                let mut reader = MvccReader::new(engine.snapshot());
                for read_ts in filter.safe_point().0..=now + 1 {
                    for (at, key) in KEYS.iter().enumerate() {
                        let seen = reader.get(key.as_bytes(), TimeStamp(read_ts), &[]).unwrap();
                        prop_assert_eq!(
                            seen, model_get(&models[0], at, read_ts), "{} at {}", key, read_ts);
                    }
                }
            }
        }
    }
}

#[test]
fn a_range_is_compacted_where_a_tenth_of_it_would_vanish() {
    let worth =
        |vanishing, records| Survey { records, ..Survey::default() }.is_worth_compacting(vanishing);
    assert!(!worth(100, 100), "too few for a compaction");
    assert!(worth(5_000, 40_000));
    assert!(!worth(5_000, 400_000));
}
