//! What is collected, and that no reader at or above the safe point can tell.

use bytes::Bytes;
use cairn_engine::{Cf, KvEngine, MemoryEngine};
use cairn_types::TimeStamp;
use proptest::prelude::*;

use super::*;

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
                let value = vec![commit_ts as u8; if commit_ts % 3 == 0 { 300 } else { 1 }];
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
        let found = find(&*engine.snapshot(), b"", b"", safe_point.into()).unwrap();
        prop_assert_eq!(&found.next, &None);
        for key in &found.keys {
            let mut rounds = 0;
            loop {
                let mut txn = MvccTxn::new();
                let mut reader = MvccReader::new(engine.snapshot());
                let removed =
                    collect(&mut reader, &mut txn, key, safe_point.into(), limit).unwrap();
                engine.write(txn.into_batch(), false).unwrap();
                // Not even half-way can a reader tell.
                prop_assert_eq!(read_all(), &before[..]);
                rounds += 1;
                if removed < limit {
                    break;
                }
            }
            prop_assert!(rounds > 0);
        }
        // Nothing is left to find, and no long value without its record.
        let again = find(&*engine.snapshot(), b"", b"", safe_point.into()).unwrap();
        prop_assert_eq!(again, Found::default());
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
