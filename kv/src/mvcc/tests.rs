//! The scanner and the reader against a reader too simple to be wrong, over
//! random histories: many versions of few keys, so that every way of leaving a
//! key (steps, seeks, hints) is taken.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use cairn_engine::{Cf, KvEngine, MemoryEngine, WriteBatch};
use cairn_types::TimeStamp;
use proptest::prelude::*;

use super::*;

/// What one key holds.
#[derive(Clone, Debug, Default)]
struct History {
    /// Commit timestamp to kind.
    versions: BTreeMap<u64, WriteKind>,
    lock: Option<(u64, LockKind)>,
}

fn arbitrary_history() -> impl Strategy<Value = History> {
    let kind = prop_oneof![
        4 => Just(WriteKind::Put),
        1 => Just(WriteKind::Delete),
        1 => Just(WriteKind::Lock),
        1 => Just(WriteKind::Rollback),
    ];
    let few = proptest::collection::btree_map(1u64..60, kind.clone(), 0..4);
    let many = proptest::collection::btree_map(1u64..60, kind, 10..40);
    let lock_kind = prop_oneof![
        Just(LockKind::Put),
        Just(LockKind::Delete),
        Just(LockKind::Lock),
        Just(LockKind::Pessimistic)
    ];
    let lock = proptest::option::weighted(0.2, (1u64..70, lock_kind));
    (prop_oneof![3 => few, 1 => many], lock).prop_map(|(versions, lock)| History { versions, lock })
}

type Store = BTreeMap<Vec<u8>, History>;

fn arbitrary_store() -> impl Strategy<Value = Store> {
    let key = prop_oneof![
        "[abc]{0,2}".prop_map(String::into_bytes),
        proptest::collection::vec(any::<u8>(), 7..10),
    ];
    proptest::collection::btree_map(key, arbitrary_history(), 0..8)
}

/// The value written at a commit timestamp; every fourth is long.
fn value_at(commit_ts: u64) -> Vec<u8> {
    vec![commit_ts as u8; if commit_ts.is_multiple_of(4) { SHORT_VALUE_BYTES_MAX + 1 } else { 3 }]
}

fn fill(store: &Store) -> MemoryEngine {
    let engine = MemoryEngine::new();
    let mut txn = MvccTxn::new();
    for (key, history) in store {
        let user_key = keys::user_key(key);
        for (&commit_ts, &kind) in &history.versions {
            let start_ts = match kind {
                WriteKind::Rollback => TimeStamp(commit_ts),
                _ => TimeStamp(commit_ts - 1),
            };
            let mut write = Write::new(kind, start_ts);
            let value = value_at(commit_ts);
            if kind == WriteKind::Put && MvccTxn::is_short(&value) {
                write.short_value = Some(&value);
            } else if kind == WriteKind::Put {
                txn.put_value(&user_key, start_ts, &Bytes::from(value.clone()));
            }
            if kind == WriteKind::Lock && commit_ts % 2 == 0 {
                let data = history.versions.range(..commit_ts).rev();
                let last = data.filter(|(_, kind)| kind.is_data()).map(|(ts, _)| *ts).next();
                write.last_change = Some(TimeStamp(last.unwrap_or_default()));
            }
            txn.put_write(&user_key, commit_ts.into(), &write);
        }
        if let Some((start_ts, kind)) = history.lock {
            txn.put_lock(&user_key, &lock(start_ts, kind));
        }
    }
    let mut batch = txn.into_batch();
    // What lies around the data must not be seen.
    batch.put(Cf::Default, &b"\x01local"[..], &b"x"[..]);
    batch.put(Cf::Write, &b"{behind"[..], &b"x"[..]);
    engine.write(batch, false).unwrap();
    engine
}

pub fn lock(start_ts: u64, kind: LockKind) -> Lock {
    Lock {
        kind,
        primary: "primary".into(),
        start_ts: start_ts.into(),
        ttl_ms: 0,
        txn_size: 1,
        for_update_ts: TimeStamp::ZERO,
        min_commit_ts: TimeStamp(start_ts + 1),
        use_async_commit: false,
        secondaries: Vec::new(),
        short_value: None,
        last_change: None,
        generation: 0,
        is_shared: false,
        others: Vec::new(),
    }
}

/// What a reader of one key must find.
#[derive(Debug, PartialEq)]
enum Found {
    Nothing,
    Value(Vec<u8>),
    Locked,
}

fn naive_get(history: &History, read_ts: u64, resolved: u64) -> Found {
    if let Some((start_ts, kind)) = history.lock
        && matches!(kind, LockKind::Put | LockKind::Delete)
        // min_commit_ts is start_ts + 1: a read at start_ts itself may pass.
        && start_ts < read_ts
        && start_ts != resolved
    {
        return Found::Locked;
    }
    let mut versions = history.versions.range(..=read_ts).rev();
    match versions.find(|(_, kind)| kind.is_data()) {
        Some((&commit_ts, WriteKind::Put)) => Found::Value(value_at(commit_ts)),
        _ => Found::Nothing,
    }
}

#[derive(Default)]
struct Pairs(Vec<(Vec<u8>, Found)>);

impl PairSink for Pairs {
    fn push(&mut self, raw_key: &[u8], value: &[u8]) {
        self.0.push((raw_key.to_vec(), Found::Value(value.to_vec())));
    }
}

/// Drains a scan, going on behind locked keys.
fn drain(engine: &MemoryEngine, options: ScanOptions, limit: usize) -> Vec<(Vec<u8>, Found)> {
    let mut scanner = Scanner::new(engine.snapshot(), options);
    let mut pairs = Pairs::default();
    loop {
        match scanner.next_batch(&mut pairs, limit) {
            Ok(true) => {}
            Ok(false) => return pairs.0,
            Err(ReadError::Locked(info)) => pairs.0.push((info.key.to_vec(), Found::Locked)),
            Err(error) => panic!("{error}"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn scanner_agrees_with_a_naive_reader(
        store in arbitrary_store(),
        read_ts in 0u64..75,
        resolved in 0u64..70,
        limit in 1usize..5,
        (start, end) in ("[abc]{0,2}", "[abcd]{0,2}"),
        desc in any::<bool>(),
    ) {
        let engine = fill(&store);
        let mut expected: Vec<_> = store
            .iter()
            .filter(|(key, _)| key[..] >= *start.as_bytes())
            .filter(|(key, _)| end.is_empty() || key[..] < *end.as_bytes())
            .map(|(key, history)| (key.clone(), naive_get(history, read_ts, resolved)))
            .filter(|(_, found)| *found != Found::Nothing)
            .collect();
        if desc {
            expected.reverse();
        }
        let options = ScanOptions {
            start: start.into(),
            end: end.into(),
            read_ts: read_ts.into(),
            desc,
            key_only: false,
            resolved: Arc::new([resolved]),
        };
        prop_assert_eq!(&drain(&engine, options.clone(), limit), &expected);
        // Without values the same keys.
        let keys_only = drain(&engine, ScanOptions { key_only: true, ..options }, limit);
        let names = |pairs: &[(Vec<u8>, Found)]| -> Vec<Vec<u8>> {
            pairs.iter().map(|(key, _)| key.clone()).collect()
        };
        prop_assert_eq!(names(&keys_only), names(&expected));
    }

    #[test]
    fn reader_agrees_with_a_naive_reader(
        store in arbitrary_store(),
        read_ts in 0u64..75,
        resolved in 0u64..70,
    ) {
        let engine = fill(&store);
        let mut reader = MvccReader::new(engine.snapshot());
        for (key, history) in &store {
            let found = match reader.get(key, read_ts.into(), &[resolved]) {
                Ok(Some(value)) => Found::Value(value.to_vec()),
                Ok(None) => Found::Nothing,
                Err(ReadError::Locked(_)) => Found::Locked,
                Err(error) => panic!("{error}"),
            };
            prop_assert_eq!(found, naive_get(history, read_ts, resolved));
        }
    }
}

#[test]
fn a_missing_long_value_is_an_error_not_a_panic() {
    let engine = MemoryEngine::new();
    let mut batch = WriteBatch::new();
    let key = keys::versioned_key(&keys::user_key(b"k"), TimeStamp(5));
    let write = Write::new(WriteKind::Put, TimeStamp(4)).encode();
    batch.put(Cf::Write, Bytes::copy_from_slice(&key), write);
    engine.write(batch, false).unwrap();
    let error = MvccReader::new(engine.snapshot()).get(b"k", TimeStamp(9), &[]).unwrap_err();
    assert!(matches!(error, ReadError::Mvcc(MvccError::Corrupt(_))), "{error}");
    let options = ScanOptions {
        start: Bytes::new(),
        end: Bytes::new(),
        read_ts: TimeStamp(9),
        desc: false,
        key_only: false,
        resolved: Arc::new([]),
    };
    let mut scanner = Scanner::new(engine.snapshot(), options);
    assert!(scanner.next_batch(&mut Pairs::default(), 1).is_err());
}
