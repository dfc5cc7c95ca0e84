//! The Raft log's file form where it can go wrong: several logs in one process, torn and
//! damaged files.

use std::path::{Path, PathBuf};

use raft::eraftpb::Entry;

use crate::{EngineError, LogBatch, RaftEngineLog, RaftEngineOptions, RaftLog};

fn open(dir: &Path) -> Result<RaftEngineLog, EngineError> {
    RaftEngineLog::open(dir, &RaftEngineOptions::default())
}

fn entry(index: u64, term: u64, fill: u8) -> Entry {
    Entry { index, term, data: vec![fill; 100].into(), ..Entry::default() }
}

fn append(log: &RaftEngineLog, entries: Vec<Entry>) {
    let mut batch = LogBatch::new();
    batch.append(1, entries);
    log.write(batch, true).unwrap();
}

/// The library keeps the last block it read per thread, whatever log it was of.
#[test]
fn logs_of_one_process_do_not_show_each_others_entries() {
    let dir = tempfile::tempdir().unwrap();
    let logs: Vec<RaftEngineLog> =
        (0..3).map(|number| open(&dir.path().join(number.to_string())).unwrap()).collect();
    for (number, log) in logs.iter().enumerate() {
        append(log, (6..9).map(|index| entry(index, 5, number as u8)).collect());
    }
    for _ in 0..2 {
        for (number, log) in logs.iter().enumerate() {
            let entries = log.entries(1, 6, 9, u64::MAX).unwrap();
            assert!(entries.iter().all(|entry| entry.data == vec![number as u8; 100]));
        }
    }
}

/// The same for a log that is opened again after its first file began anew.
#[test]
fn a_log_in_place_of_another_shows_its_own_entries() {
    let dir = tempfile::tempdir().unwrap();
    for fill in 0..3 {
        let path = dir.path().join("log");
        let log = open(&path).unwrap();
        append(&log, vec![entry(6, 5, fill)]);
        assert_eq!(log.entries(1, 6, 7, u64::MAX).unwrap()[0].data, vec![fill; 100]);
        drop(log);
        std::fs::remove_dir_all(&path).unwrap();
    }
}

#[test]
fn one_batch_may_append_to_a_group_several_times() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path()).unwrap();
    let mut batch = LogBatch::new();
    batch.append(1, (6..12).map(|index| entry(index, 5, 1)).collect());
    batch.append(1, (8..10).map(|index| entry(index, 6, 2)).collect());
    batch.append(2, (6..8).map(|index| entry(index, 5, 3)).collect());
    batch.append(1, (10..13).map(|index| entry(index, 7, 4)).collect());
    log.write(batch, true).unwrap();
    let check = |log: &RaftEngineLog| {
        let terms = |region, low, high| -> Vec<u64> {
            let entries = log.entries(region, low, high, u64::MAX).unwrap();
            entries.iter().map(|entry| entry.term).collect()
        };
        assert_eq!(log.bounds(1), Some((6, 12)));
        assert_eq!(terms(1, 6, 13), [5, 5, 6, 6, 7, 7, 7]);
        assert_eq!(terms(2, 6, 8), [5, 5]);
    };
    check(&log);
    drop(log);
    check(&open(dir.path()).unwrap());
}

/// The one file of entries in the folder.
fn log_file(dir: &Path) -> PathBuf {
    let files = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut logs: Vec<PathBuf> =
        files.filter(|path| path.extension().is_some_and(|end| end == "raftlog")).collect();
    logs.sort();
    logs.remove(0)
}

/// Where the bytes of the fill lie in the file.
fn position_of(bytes: &[u8], fill: u8) -> usize {
    bytes.windows(50).position(|window| window.iter().all(|byte| *byte == fill)).unwrap()
}

/// A log with three writes; the file and its bytes.
fn three_writes(dir: &Path) -> (PathBuf, Vec<u8>) {
    let log = open(dir).unwrap();
    for (index, fill) in [(6, 11), (7, 22), (8, 33)] {
        append(&log, vec![entry(index, 5, fill)]);
    }
    drop(log);
    let path = log_file(dir);
    let bytes = std::fs::read(&path).unwrap();
    (path, bytes)
}

#[test]
fn a_torn_tail_is_cut_off() {
    let dir = tempfile::tempdir().unwrap();
    let (path, bytes) = three_writes(dir.path());
    let middle_of_last = position_of(&bytes, 33) + 20;
    std::fs::write(&path, &bytes[..middle_of_last]).unwrap();
    let log = open(dir.path()).unwrap();
    assert_eq!(log.bounds(1), Some((6, 7)));
    // And it goes on from there.
    append(&log, vec![entry(8, 6, 44)]);
    drop(log);
    let log = open(dir.path()).unwrap();
    assert_eq!(log.entries(1, 8, 9, u64::MAX).unwrap()[0].term, 6);
}

#[test]
fn damage_in_the_middle_is_never_read_over() {
    let dir = tempfile::tempdir().unwrap();
    let (path, mut bytes) = three_writes(dir.path());
    let at = position_of(&bytes, 22) + 20;
    bytes[at] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    match open(dir.path()) {
        Err(error) => assert!(error.is_damage(), "{error}"),
        // Found when the entry is read, at the latest.
        Ok(log) => {
            assert_eq!(log.bounds(1), Some((6, 8)), "acknowledged entries do not vanish");
            assert!(log.entries(1, 7, 8, u64::MAX).is_err());
            assert!(log.entries(1, 8, 9, u64::MAX).is_ok());
        }
    }
}
