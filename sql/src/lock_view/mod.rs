//! Who has which transaction open, who waits for whose locks, and which circles of waits there
//! were: for people who look for what blocks them.
//!
//! | module | what it holds |
//! |---|---|
//! | this one | what a connection's transaction shows of itself |
//! | [`deadlocks`] | the last circles that this node's transactions closed |
//! | [`key_info`] | a key as table, index and values |
//! | [`nodes`] | asking the other SQL nodes |
//! | [`tables`] | the rows of `TIDB_TRX`, `DATA_LOCK_WAITS`, `DEADLOCKS` and of their `CLUSTER_` twins |
//!
//! **Flow.** A lock request carries a *tag*, the digest of its statement ([`crate::observed::digest`]). Stores keep it with the
//! waiter, and the detector of deadlocks with the wait, so that both can tell what a transaction of
//! any node was about. What a digest stands for is known to the node that ran the statement.
//!
//! **Source.** TiDB's documentation, "Lock View".

pub mod deadlocks;
pub mod key_info;
pub mod nodes;
pub mod tables;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use bytes::Bytes;
use cairn_kv_client::Transaction;
use cairn_types::keys;
use parking_lot::Mutex;

/// Statements that a transaction remembers: its first ones, as in TiDB.
const STATEMENTS_MAX: usize = 50;
/// Bytes of their texts in all, so that thousands of open transactions fit in memory.
const STATEMENTS_BYTES_MAX: usize = 16 << 10;
/// What a transaction does besides running statements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Statements run, or the client thinks.
    Open,
    /// `COMMIT` is under way.
    Committing,
    /// `ROLLBACK` is under way.
    RollingBack,
}

/// A connection's transaction as others see it.
pub struct OpenTransaction {
    /// Where its buffer and its locks are.
    pub transaction: Arc<Transaction>,
    phase: AtomicU8,
    statements: Mutex<Statements>,
}

/// Beginnings of texts; digests are made of them when somebody asks.
#[derive(Default)]
struct Statements {
    all: Vec<Arc<str>>,
    bytes: usize,
    current: Option<Arc<str>>,
}

impl fmt::Debug for OpenTransaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenTransaction").field("start_ts", &self.transaction.start_ts()).finish()
    }
}

impl OpenTransaction {
    /// One that has run nothing yet.
    pub fn new(transaction: Arc<Transaction>) -> Self {
        Self { transaction, phase: AtomicU8::new(Phase::Open as u8), statements: Mutex::default() }
    }

    /// A statement begins.
    pub fn begin_statement(&self, text: &str) {
        let text: Arc<str> = text.into();
        let mut statements = self.statements.lock();
        let bytes = statements.bytes + text.len();
        if statements.all.len() < STATEMENTS_MAX && bytes <= STATEMENTS_BYTES_MAX {
            statements.bytes = bytes;
            statements.all.push(Arc::clone(&text));
        }
        statements.current = Some(text);
    }

    /// The statement has ended.
    pub fn end_statement(&self) {
        self.statements.lock().current = None;
    }

    /// The transaction ends, one way or the other.
    pub fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Relaxed);
    }

    fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Relaxed) {
            phase if phase == Phase::Committing as u8 => Phase::Committing,
            phase if phase == Phase::RollingBack as u8 => Phase::RollingBack,
            _ => Phase::Open,
        }
    }

    /// The running statement, and the first ones of the transaction.
    fn statements(&self) -> (Option<Arc<str>>, Vec<Arc<str>>) {
        let statements = self.statements.lock();
        (statements.current.clone(), statements.all.clone())
    }
}

/// Tables of which a transaction has keys, `limit` at most.
pub fn related_tables(transaction: &Transaction, limit: usize) -> Vec<i64> {
    tables_of(|from| transaction.first_key(from), limit)
}

/// By leaps from table to table.
fn tables_of(first_key: impl Fn(&[u8]) -> Option<Bytes>, limit: usize) -> Vec<i64> {
    let mut ids = Vec::new();
    let mut from = vec![keys::TABLE_PREFIX];
    while ids.len() < limit
        && let Some(key) = first_key(&from)
        && let Ok(id) = keys::decode_table_id(&key)
    {
        ids.push(id.0);
        from = keys::table_range(id).1;
    }
    ids
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::ops::Bound;

    use cairn_types::{Handle, TableId};

    use super::*;

    #[test]
    fn related_tables_are_found_by_leaps() {
        let row = |table, handle| keys::encode_row_key(TableId(table), &Handle::Int(handle)).into();
        let mut all: BTreeSet<Bytes> =
            (0..1_000).map(|n| row(3, n)).chain([row(7, 1), row(9, -1)]).collect();
        all.insert(Bytes::from_static(b"m"));
        all.insert(Bytes::from_static(b"u"));
        let asked = std::cell::Cell::new(0);
        let first_key = |from: &[u8]| {
            asked.set(asked.get() + 1);
            let from = (Bound::Included(from), Bound::Unbounded);
            all.range::<[u8], _>(from).next().cloned()
        };
        assert_eq!((tables_of(first_key, 9), asked.get()), (vec![3, 7, 9], 4));
        assert_eq!(tables_of(first_key, 2), [3, 7]);
    }
}
