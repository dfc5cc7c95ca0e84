//! Damaged files of RocksDB: never passed off as data, and found by name.

use std::path::{Path, PathBuf};

use crate::{Cf, EngineError, IterOptions, KvEngine, RocksEngine, RocksOptions, WriteBatch};

const ROWS: u32 = 2000;

fn key(number: u32) -> Vec<u8> {
    let mut key = format!("zrow{number:06}").into_bytes();
    key.extend_from_slice(&u64::MAX.to_be_bytes());
    key
}

/// An engine whose rows lie in one file of CF write; the file.
fn filled(dir: &Path) -> PathBuf {
    let engine = RocksEngine::open(dir, &RocksOptions::small()).unwrap();
    let mut batch = WriteBatch::new();
    for number in 0..ROWS {
        // Numbers that do not compress to nothing.
        let value: Vec<u8> =
            (0..50u32).map(|at| (number.wrapping_mul(at + 7) >> 3) as u8).collect();
        batch.put(Cf::Write, key(number), value);
    }
    engine.write(batch, true).unwrap();
    engine.flush().unwrap();
    drop(engine);
    let files = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> =
        files.filter(|path| path.extension().is_some_and(|end| end == "sst")).collect();
    assert_eq!(files.len(), 1);
    files.remove(0)
}

#[test]
fn a_flipped_bit_is_an_error_and_names_its_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = filled(dir.path());
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 3;
    bytes[middle] ^= 4;
    std::fs::write(&path, bytes).unwrap();

    let engine = RocksEngine::open(dir.path(), &RocksOptions::small()).unwrap();
    assert_eq!(engine.take_damage(), []);
    let found: Vec<_> = (0..ROWS).map(|number| engine.get(Cf::Write, &key(number))).collect();
    let damaged = found.iter().filter(|found| found.is_err()).count();
    assert!(damaged > 0 && damaged < ROWS as usize, "one block of several: {damaged}");
    for found in found {
        match found {
            Ok(value) => assert_eq!(value.unwrap().len(), 50),
            Err(error) => assert!(matches!(error, EngineError::Damaged(_)), "{error}"),
        }
    }
    let view = engine.snapshot();
    let mut cursor = view.iter(Cf::Write, IterOptions::default());
    let mut outcome = cursor.seek_to_first();
    while outcome == Ok(true) {
        outcome = cursor.next();
    }
    assert!(outcome.is_err_and(|error| error.is_damage()), "a scan does not end early");
    drop((cursor, view));

    let files = engine.take_damage();
    assert_eq!(files.len(), 1, "each file once");
    assert_eq!((files[0].cf, &files[0].first_key[..]), (Cf::Write, &key(0)[..]));
    assert_eq!(files[0].last_key, key(ROWS - 1));
    assert_eq!(engine.take_damage(), []);
}
