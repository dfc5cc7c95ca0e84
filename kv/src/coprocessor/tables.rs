//! Tables that fragments join with, kept for the tasks to come.
//!
//! A statement sends the build side of a join to each store once, with the first of its tasks there; the others, and
//! later statements that join with the same rows, only name it by its digest. A store that does not
//! know it (any more) says so, and the caller sends the rows. So what is kept may be dropped at any time:
//! [`KEEP`] after its last use, or sooner if there is no room. Tasks that use a table hold it as long as they run.
//!
//! What a caller says of a table is checked: rows under a digest that is not theirs would be joined
//! by everybody who names it.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use cairn_executor::broadcast::{BROADCAST_BYTES_MAX, BroadcastTable, TableDigest};
use cairn_executor::{ExecError, Fragment, MemoryTracker, OpDesc, OperatorMemory};
use cairn_proto::kv;
use cairn_types::FieldType;
use parking_lot::Mutex;

use crate::raftstore::{Clock, MonotonicTime};

/// How long a table stays after its last use: longer than the pauses between the tasks of a statement, and between
/// statements of one page of a dashboard.
const KEEP: Duration = Duration::from_secs(10);
/// Bytes of the tables that are kept: an eighth of what all tasks of a store may use.
const KEPT_BYTES_MAX: u64 = 256 << 20;
/// How many they are: each reserves memory, however small it is.
const KEPT_TABLES_MAX: usize = 256;

/// See the module documentation.
pub(super) struct Tables {
    memory: Arc<MemoryTracker>,
    clock: Arc<dyn Clock>,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    tables: HashMap<TableDigest, Entry>,
    /// A task looks for those that nobody uses any more.
    is_swept: bool,
}

struct Entry {
    table: Arc<BroadcastTable>,
    used: MonotonicTime,
}

/// Why a request's tables are not to be had.
#[derive(Debug)]
pub(super) enum Refusal {
    /// One came without rows and is not here.
    Unknown,
    /// They are not what they should be, or too much.
    Invalid(ExecError),
}

impl From<ExecError> for Refusal {
    fn from(error: ExecError) -> Refusal {
        Refusal::Invalid(error)
    }
}

impl Tables {
    /// No tables; `memory` counts those to come.
    pub(super) fn new(memory: Arc<MemoryTracker>, clock: Arc<dyn Clock>) -> Arc<Tables> {
        Arc::new(Tables { memory, clock, kept: Mutex::default() })
    }

    /// The tables of a request, in its order.
    pub(super) fn of_request(
        self: &Arc<Self>,
        fragment: &Fragment,
        sent: &[kv::BroadcastTable],
    ) -> Result<Arc<[Arc<BroadcastTable>]>, Refusal> {
        let bytes: usize = sent.iter().map(|table| table.rows.len()).sum();
        if bytes > BROADCAST_BYTES_MAX {
            let limit = BROADCAST_BYTES_MAX;
            let text = format!("its tables have {bytes} bytes, more than the {limit} allowed");
            return Err(ExecError::invalid_plan(text).into());
        }
        let tables = sent.iter().enumerate().map(|(at, table)| self.find(fragment, at, table));
        tables.collect()
    }

    fn find(
        self: &Arc<Self>,
        fragment: &Fragment,
        at: usize,
        sent: &kv::BroadcastTable,
    ) -> Result<Arc<BroadcastTable>, Refusal> {
        let types = types_of(fragment, at)
            .ok_or_else(|| ExecError::invalid_plan("a table that nobody joins with"))?;
        if let Some(table) = self.known(sent, types) {
            return Ok(table);
        }
        if sent.rows.is_empty() {
            return Err(Refusal::Unknown);
        }
        let digest = TableDigest::of(types, &sent.rows);
        if *digest.bytes() != sent.digest {
            return Err(ExecError::invalid_plan("a table is not what its digest says").into());
        }
        let table = match self.decode(types, sent) {
            Err(ExecError::MemoryExceeded { .. }) if self.drop_all() => self.decode(types, sent),
            decoded => decoded,
        }?;
        let table = Arc::new(table);
        self.keep(digest, Arc::clone(&table));
        Ok(table)
    }

    fn known(&self, sent: &kv::BroadcastTable, types: &[FieldType]) -> Option<Arc<BroadcastTable>> {
        let mut kept = self.kept.lock();
        let entry = kept.tables.get_mut(&sent.digest[..])?;
        entry.used = self.clock.now();
        Some(&entry.table).filter(|table| table.types() == types).cloned()
    }

    fn decode(
        &self,
        types: &[FieldType],
        sent: &kv::BroadcastTable,
    ) -> Result<BroadcastTable, ExecError> {
        let memory = OperatorMemory::new(Arc::clone(&self.memory), "broadcast table");
        BroadcastTable::decode(types.to_vec(), &sent.rows, memory)
    }

    fn keep(self: &Arc<Self>, digest: TableDigest, table: Arc<BroadcastTable>) {
        let used = self.clock.now();
        let mut kept = self.kept.lock();
        kept.tables.insert(digest, Entry { table, used });
        kept.shrink(KEPT_BYTES_MAX);
        if !std::mem::replace(&mut kept.is_swept, true) {
            tokio::spawn(sweep(Arc::downgrade(self)));
        }
    }

    /// Makes room for another table; false: there was none to drop.
    fn drop_all(&self) -> bool {
        let tables = std::mem::take(&mut self.kept.lock().tables);
        !tables.is_empty()
    }

    /// Drops what has not been used for long; false: nothing is left, and whoever swept may go.
    fn drop_unused(&self) -> bool {
        let now = self.clock.now();
        let mut kept = self.kept.lock();
        kept.tables.retain(|_, entry| now.since(entry.used) < KEEP);
        kept.is_swept = !kept.tables.is_empty();
        kept.is_swept
    }
}

impl Kept {
    /// Drops those whose last use is longest ago.
    fn shrink(&mut self, bytes_max: u64) {
        let mut bytes: u64 = self.tables.values().map(|entry| entry.table.bytes()).sum();
        while (bytes > bytes_max && self.tables.len() > 1) || self.tables.len() > KEPT_TABLES_MAX {
            let oldest = self.tables.iter().min_by_key(|(_, entry)| entry.used);
            let Some(digest) = oldest.map(|(digest, _)| digest.clone()) else { return };
            if let Some(entry) = self.tables.remove(&digest) {
                bytes = bytes.saturating_sub(entry.table.bytes());
            }
        }
    }
}

/// Types of a table, as the first join that names it says.
fn types_of(fragment: &Fragment, at: usize) -> Option<&[FieldType]> {
    fragment.operators.iter().find_map(|operator| match operator {
        OpDesc::HashJoin(join) if join.table == at => Some(&join.table_types[..]),
        _ => None,
    })
}

/// Drops tables that nobody uses, until there are none.
async fn sweep(tables: Weak<Tables>) {
    loop {
        tokio::time::sleep(KEEP).await;
        let Some(tables) = tables.upgrade() else { return };
        if !tables.drop_unused() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raftstore::ManualClock;
    use cairn_executor::plan::{
        BroadcastJoinDesc, EvalSettings, HashJoinDesc, JoinKind, JoinSide, TableScanDesc,
    };
    use cairn_expr::Expr;
    use cairn_types::{Chunk, Datum, TableId};

    fn types() -> Vec<FieldType> {
        vec![FieldType::bigint()]
    }

    fn fragment() -> Fragment {
        let key = || vec![Expr::column(0, FieldType::bigint())];
        let scan = TableScanDesc {
            table_id: TableId(1),
            columns: Vec::new(),
            desc: false,
            handle_types: Vec::new(),
        };
        let join = HashJoinDesc {
            kind: JoinKind::Semi,
            null_aware: false,
            left_keys: key(),
            right_keys: key(),
            null_safe: Vec::new(),
            other_conditions: Vec::new(),
            build_side: JoinSide::Right,
        };
        let join = BroadcastJoinDesc { join, table: 0, table_types: types() };
        let operators = vec![OpDesc::TableScan(scan), OpDesc::HashJoin(join)];
        Fragment { operators, settings: EvalSettings::default() }
    }

    /// A table of so many rows that hold a number.
    fn table(number: i64, rows: usize) -> kv::BroadcastTable {
        let mut chunk = Chunk::new(&types(), rows);
        (0..rows).for_each(|_| chunk.push_row(&[Datum::Int(number)]));
        let mut bytes = Vec::new();
        chunk.encode(&mut bytes);
        let digest = TableDigest::of(&types(), &bytes).bytes().clone();
        kv::BroadcastTable { digest, rows: bytes.into() }
    }

    /// The same by its name alone.
    fn named(table: &kv::BroadcastTable) -> kv::BroadcastTable {
        kv::BroadcastTable { rows: Default::default(), ..table.clone() }
    }

    struct Store {
        tables: Arc<Tables>,
        memory: Arc<MemoryTracker>,
        clock: Arc<ManualClock>,
    }

    impl Store {
        fn new(memory_bytes: u64) -> Store {
            let memory = MemoryTracker::root("coprocessor", memory_bytes);
            let clock = Arc::new(ManualClock::new());
            let tables = Tables::new(Arc::clone(&memory), clock.clone());
            Store { tables, memory, clock }
        }

        fn ask(&self, table: kv::BroadcastTable) -> Result<Arc<BroadcastTable>, Refusal> {
            let found = self.tables.of_request(&fragment(), &[table])?;
            Ok(Arc::clone(&found[0]))
        }

        fn knows(&self, table: &kv::BroadcastTable) -> bool {
            match self.ask(named(table)) {
                Ok(_) => true,
                Err(Refusal::Unknown) => false,
                Err(Refusal::Invalid(error)) => panic!("{error}"),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_table_is_known_by_its_digest_until_it_is_not_used_for_long() {
        let store = Store::new(0);
        let one = table(1, 10);
        assert!(!store.knows(&one));
        let first = store.ask(one.clone()).expect("sound");
        let again = store.ask(named(&one)).expect("known");
        assert!(Arc::ptr_eq(&first, &again), "tasks share it");
        drop((first, again));
        for _ in 0..3 {
            store.clock.advance(KEEP / 2);
            tokio::time::advance(KEEP / 2).await;
            tokio::task::yield_now().await;
            assert!(store.knows(&one), "it is in use");
        }
        store.clock.advance(KEEP);
        while store.memory.used_bytes() > 0 {
            tokio::time::advance(KEEP).await;
            tokio::task::yield_now().await;
        }
        assert!(!store.knows(&one));
        assert!(store.ask(one).is_ok());
    }

    #[tokio::test]
    async fn what_a_table_is_said_to_be_is_checked() {
        let store = Store::new(0);
        let (one, two) = (table(1, 10), table(2, 10));
        let wrong = kv::BroadcastTable { rows: two.rows.clone(), ..one.clone() };
        assert!(matches!(store.ask(wrong), Err(Refusal::Invalid(_))));
        assert!(!store.knows(&one), "nobody else gets the wrong rows");
        let bytes = &b"no chunk"[..];
        let digest = TableDigest::of(&types(), bytes).bytes().clone();
        let damaged = kv::BroadcastTable { digest, rows: bytes.into() };
        assert!(matches!(store.ask(damaged), Err(Refusal::Invalid(_))));
        let unused = store.tables.of_request(&fragment(), &[one.clone(), two]);
        assert!(matches!(unused, Err(Refusal::Invalid(_))), "nobody joins with the second");
        let large = kv::BroadcastTable { rows: vec![0; BROADCAST_BYTES_MAX + 1].into(), ..one };
        assert!(matches!(store.ask(large), Err(Refusal::Invalid(_))));
        assert!(matches!(store.ask(kv::BroadcastTable::default()), Err(Refusal::Unknown)));
    }

    #[tokio::test]
    async fn tables_give_way_to_others() {
        let store = Store::new(1 << 20);
        let tables: Vec<_> = (0..3).map(|number| table(number, 50_000)).collect();
        for table in &tables {
            store.ask(table.clone()).expect("there is room for one at a time");
            assert!(store.knows(table));
        }
        assert!(!store.knows(&tables[0]));
        // What is in use cannot be dropped.
        let held = store.ask(named(&tables[2])).expect("known");
        match store.ask(table(4, 100_000)) {
            Err(Refusal::Invalid(ExecError::MemoryExceeded { .. })) => {}
            other => panic!("{:?}", other.map(|table| table.bytes())),
        }
        drop(held);
        assert!(store.ask(table(4, 100_000)).is_ok());
        let mut kept = store.tables.kept.lock();
        kept.shrink(0);
        assert_eq!(kept.tables.len(), 1, "the newest stays");
    }
}
