//! Scans that jump over dead ranges see what plain scans see, whatever is written in
//! between and whichever of them told of the ranges.

use std::sync::Arc;

use bytes::Bytes;
use cairn_engine::{Cf, EngineSnapshot, KvEngine, MemoryEngine, WriteBatch};
use cairn_types::TimeStamp;
use proptest::prelude::*;

use super::dead_ranges::{DeadRanges, RUN_MIN};
use super::*;

/// Rows of the table: several runs long enough to be told of.
const ROWS: usize = RUN_MIN * 5;

#[derive(Clone, Debug)]
enum Step {
    /// Commits a change of a row.
    Put(usize),
    Delete(usize),
    /// Deletes rows from here on.
    DeleteRun(usize, usize),
    /// Locks a row, or takes its lock away.
    Lock(usize),
    Unlock(usize),
    /// Takes a view to be scanned later.
    TakeView,
    /// Scans a view: which, from which row, how far below the newest timestamp, rows asked.
    Scan(usize, usize, u64, usize),
}

fn step() -> impl Strategy<Value = Step> {
    let row = || 0..ROWS;
    prop_oneof![
        2 => row().prop_map(Step::Put),
        2 => row().prop_map(Step::Delete),
        2 => (row(), 0..ROWS).prop_map(|(from, count)| Step::DeleteRun(from, count)),
        1 => row().prop_map(Step::Lock),
        1 => row().prop_map(Step::Unlock),
        2 => Just(Step::TakeView),
        8 => (any::<usize>(), row(), 0u64..4, 1usize..20)
            .prop_map(|(view, from, back, limit)| Step::Scan(view, from, back, limit)),
    ]
}

fn raw_key(row: usize) -> Vec<u8> {
    format!("row{row:06}").into_bytes()
}

#[derive(Default, PartialEq, Debug)]
struct Pairs(Vec<(Vec<u8>, Vec<u8>)>);

impl PairSink for Pairs {
    fn push(&mut self, raw_key: &[u8], value: &[u8]) {
        self.0.push((raw_key.to_vec(), value.to_vec()));
    }
}

struct Table {
    engine: MemoryEngine,
    dead: Arc<DeadRanges>,
    now: u64,
    views: Vec<(Arc<dyn EngineSnapshot>, u64)>,
}

impl Table {
    fn new() -> Table {
        let engine = MemoryEngine::new();
        let dead = Arc::new(DeadRanges::new(Arc::new(engine.clone())));
        Table { engine, dead, now: 10, views: Vec::new() }
    }

    fn write(&self, batch: WriteBatch) {
        let begun = self.dead.begin_write(&batch);
        self.engine.write(batch, false).unwrap();
        drop(begun);
    }

    fn commit(&mut self, rows: impl Iterator<Item = usize>, kind: WriteKind) {
        self.now += 2;
        let mut txn = MvccTxn::new();
        let value = self.now.to_be_bytes();
        for row in rows {
            let mut write = Write::new(kind, TimeStamp(self.now - 1));
            write.short_value = (kind == WriteKind::Put).then_some(&value[..]);
            txn.put_write(&keys::user_key(&raw_key(row)), TimeStamp(self.now), &write);
        }
        self.write(txn.into_batch());
    }

    fn scan(
        &self,
        view: usize,
        from: usize,
        back: u64,
        limit: usize,
        jumps: bool,
    ) -> (Pairs, bool) {
        let (snapshot, taken) = &self.views[view];
        let options = ScanOptions {
            start: Bytes::from(raw_key(from)),
            end: Bytes::new(),
            read_ts: TimeStamp(taken - back),
            desc: false,
            key_only: false,
            resolved: Arc::new([]),
        };
        let dead = jumps.then(|| Arc::clone(&self.dead));
        let mut scanner = Scanner::new(Arc::clone(snapshot), options).with_dead_ranges(dead);
        let mut pairs = Pairs::default();
        let outcome = scanner.next_batch(&mut pairs, limit);
        assert!(matches!(outcome, Ok(_) | Err(ReadError::Locked(_))));
        let locked = outcome.is_err();
        if locked {
            // A caller may go on behind the lock.
            let _ = scanner.next_batch(&mut pairs, limit);
        }
        (pairs, locked)
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Put(row) => self.commit(std::iter::once(row), WriteKind::Put),
            Step::Delete(row) => self.commit(std::iter::once(row), WriteKind::Delete),
            Step::DeleteRun(from, count) => {
                self.commit(from..(from + count).min(ROWS), WriteKind::Delete);
            }
            Step::Lock(row) => {
                let key = keys::user_key(&raw_key(row));
                let lock = super::tests::lock(self.now, LockKind::Put);
                let mut txn = MvccTxn::new();
                txn.put_lock(&key, &lock);
                self.write(txn.into_batch());
            }
            Step::Unlock(row) => {
                let mut batch = WriteBatch::new();
                batch.delete(Cf::Lock, Bytes::copy_from_slice(&keys::user_key(&raw_key(row))));
                self.write(batch);
            }
            Step::TakeView => {
                self.views.push((self.engine.snapshot(), self.now));
                if self.views.len() > 4 {
                    self.views.remove(0);
                }
            }
            Step::Scan(view, from, back, limit) => {
                if self.views.is_empty() {
                    return;
                }
                let view = view % self.views.len();
                let plain = self.scan(view, from, back, limit, false);
                assert_eq!(self.scan(view, from, back, limit, true), plain);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn jumps_change_nothing(steps in proptest::collection::vec(step(), 1..60)) {
        let mut table = Table::new();
        table.commit(0..ROWS, WriteKind::Put);
        for step in &steps {
            table.step(step);
        }
    }
}

#[test]
fn the_head_of_a_queue_is_walked_over_once() {
    let mut table = Table::new();
    table.commit(0..ROWS, WriteKind::Put);
    table.commit(0..ROWS - 10, WriteKind::Delete);
    for _ in 0..4 {
        table.step(&Step::TakeView);
        let (pairs, _) = table.scan(table.views.len() - 1, 0, 0, 1, true);
        assert_eq!(pairs.0[0].0, raw_key(ROWS - 10));
    }
    assert!(table.dead.jumps() >= 2, "later scans jump");
    // The head moves on; the range grows with it.
    for next in ROWS - 10..ROWS - 5 {
        table.commit(std::iter::once(next), WriteKind::Delete);
        table.step(&Step::TakeView);
        let before = table.dead.jumps();
        let (pairs, _) = table.scan(table.views.len() - 1, 0, 0, 1, true);
        assert_eq!(pairs.0[0].0, raw_key(next + 1));
        assert!(table.dead.jumps() > before);
    }
}
