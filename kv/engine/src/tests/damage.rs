//! Damaged files of RocksDB: never passed off as data, and found by name.

use std::path::{Path, PathBuf};

use crate::{Cf, EngineError, IterOptions, KvEngine, RocksEngine, RocksOptions, WriteBatch};

const ROWS: u32 = 2000;

fn key(number: u32) -> Vec<u8> {
    let mut key = format!("zrow{number:06}").into_bytes();
    key.extend_from_slice(&u64::MAX.to_be_bytes());
    key
}

/// The only file of the folder with that ending.
fn only_file(dir: &Path, ending: &str) -> PathBuf {
    let files = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> =
        files.filter(|path| path.extension().is_some_and(|end| end == ending)).collect();
    assert_eq!(files.len(), 1);
    files.remove(0)
}

fn flip_a_bit(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let third = bytes.len() / 3;
    bytes[third] ^= 4;
    std::fs::write(path, bytes).unwrap();
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
    only_file(dir, "sst")
}

#[test]
fn a_flipped_bit_is_an_error_and_names_its_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = filled(dir.path());
    flip_a_bit(&path);

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

#[test]
fn a_damaged_long_value_is_known_by_its_key() {
    let dir = tempfile::tempdir().unwrap();
    let long = |number: u32| -> Vec<u8> {
        (0..64 * 1024u32).map(|at| (at.wrapping_mul(number + 7) >> 3) as u8).collect()
    };
    let engine = RocksEngine::open(dir.path(), &RocksOptions::small()).unwrap();
    let mut batch = WriteBatch::new();
    (0..10).for_each(|number| batch.put(Cf::Default, key(number), long(number)));
    engine.write(batch, true).unwrap();
    engine.flush().unwrap();
    drop(engine);
    flip_a_bit(&only_file(dir.path(), "blob"));

    let engine = RocksEngine::open(dir.path(), &RocksOptions::small()).unwrap();
    let read = |number: u32| engine.get(Cf::Default, &key(number));
    let damaged: Vec<u32> = (0..10).filter(|number| read(*number).is_err()).collect();
    assert_eq!(damaged.len(), 1, "one value of several");
    assert!(read(damaged[0]).is_err_and(|error| error.is_damage()));
    let files = engine.take_damage();
    assert_eq!(files.len(), 1, "once");
    assert_eq!((files[0].cf, &files[0].first_key[..]), (Cf::Default, &key(damaged[0])[..]));
    assert_eq!(files[0].last_key, key(damaged[0]));

    // As the replica is built anew: the value goes, and compaction does not come upon it.
    let mut batch = WriteBatch::new();
    batch.delete_range(Cf::Default, key(damaged[0]), key(damaged[0] + 1));
    engine.write(batch, true).unwrap();
    engine.flush().unwrap();
    engine.compact_range(b"", b"\xff").unwrap();
    for number in 0..10 {
        let expected = (number != damaged[0]).then(|| long(number).into());
        assert_eq!(read(number).unwrap(), expected);
    }
    assert_eq!(engine.take_damage(), []);
}
