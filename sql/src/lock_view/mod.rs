//! Who has which transaction open, who waits for whose locks, and which circles of waits there
//! were: for people who look for what blocks them.
//!
//! | module | what it holds |
//! |---|---|
//! | this one | what a connection's transaction shows of itself; digests of statements |
//! | [`deadlocks`] | the last circles that this node's transactions closed |
//! | [`key_info`] | a key as table, index and values |
//! | [`nodes`] | asking the other SQL nodes |
//! | [`tables`] | the rows of `TIDB_TRX`, `DATA_LOCK_WAITS`, `DEADLOCKS` and of their `CLUSTER_` twins |
//!
//! **Flow.** A lock request carries a *tag*, the digest of its statement. Stores keep it with the
//! waiter, and the detector of deadlocks with the wait, so that both can tell what a transaction of
//! any node was about. What a digest stands for is known to the node that ran the statement.
//!
//! **Source.** TiDB's documentation, "Lock View".

pub mod deadlocks;
pub mod key_info;
pub mod nodes;
pub mod tables;

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use bytes::Bytes;
use cairn_kv_client::Transaction;
use cairn_parser::SqlMode;
use cairn_types::keys;
use foldhash::fast::RandomState;
use parking_lot::Mutex;

/// Statements that a transaction remembers: its first ones, as in TiDB.
const STATEMENTS_MAX: usize = 50;
/// Bytes of their texts in all, so that thousands of open transactions fit in memory.
const STATEMENTS_BYTES_MAX: usize = 16 << 10;
/// Bytes of a text that are kept, and of which a digest is made: loads of rows are longer.
const TEXT_BYTES_MAX: usize = 4 << 10;
/// Digests whose text a node remembers.
const DIGESTS_MAX: usize = 2_048;

/// What a statement is without its literals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SqlDigest(u64);

impl SqlDigest {
    /// The digest as lock requests carry it.
    pub fn to_tag(self) -> Bytes {
        Bytes::copy_from_slice(&self.0.to_be_bytes())
    }

    /// The digest that a lock request carried.
    pub fn from_tag(tag: &[u8]) -> Option<SqlDigest> {
        Some(SqlDigest(u64::from_be_bytes(tag.try_into().ok()?)))
    }
}

impl fmt::Display for SqlDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// The beginning of a statement's text.
pub fn text_start(text: &str) -> &str {
    let is_end = |end: &usize| text.is_char_boundary(*end);
    let end = (0..=text.len().min(TEXT_BYTES_MAX)).rev().find(is_end);
    &text[..end.unwrap_or(0)]
}

/// Texts of the digests that this node showed or sent last.
#[derive(Debug, Default)]
pub struct DigestTexts(Mutex<Texts>);

#[derive(Debug, Default)]
struct Texts {
    by_digest: HashMap<SqlDigest, Arc<str>, RandomState>,
    order: VecDeque<SqlDigest>,
}

impl DigestTexts {
    /// The digest of a statement; its text without literals is remembered. `None` when the text
    /// is no row of tokens.
    pub fn digest(&self, text: &str) -> Option<SqlDigest> {
        let digest = cairn_parser::digest::digest(text_start(text), &SqlMode::default())?;
        let key = SqlDigest(digest.hash);
        let mut texts = self.0.lock();
        if !texts.by_digest.contains_key(&key) {
            if texts.order.len() == DIGESTS_MAX
                && let Some(oldest) = texts.order.pop_front()
            {
                texts.by_digest.remove(&oldest);
            }
            texts.by_digest.insert(key, digest.text.into());
            texts.order.push_back(key);
        }
        Some(key)
    }

    /// What a digest stands for.
    pub fn text(&self, digest: SqlDigest) -> Option<Arc<str>> {
        self.0.lock().by_digest.get(&digest).cloned()
    }

    /// All that are known, by their digests as people see them.
    pub fn all(&self) -> HashMap<String, String> {
        let texts = self.0.lock();
        let shown =
            |(digest, text): (&SqlDigest, &Arc<str>)| (digest.to_string(), text.to_string());
        texts.by_digest.iter().map(shown).collect()
    }
}

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

    #[test]
    fn digests_have_no_literals_and_are_bounded() {
        let texts = DigestTexts::default();
        let one = texts.digest("UPDATE t SET a = 1 WHERE id = 5").expect("tokens");
        assert_eq!(texts.digest("UPDATE  t SET a = 2 WHERE id = 6"), Some(one));
        assert_eq!(texts.text(one).as_deref(), Some("UPDATE t SET a = ? WHERE id = ?"));
        assert_eq!(SqlDigest::from_tag(&one.to_tag()), Some(one));
        assert_eq!(SqlDigest::from_tag(b"short"), None);
        for n in 0..2 * DIGESTS_MAX {
            texts.digest(&format!("SELECT c{n} FROM t")).expect("tokens");
        }
        assert_eq!((texts.all().len(), texts.text(one)), (DIGESTS_MAX, None));
    }

    #[test]
    fn of_a_long_text_the_beginning_is_kept() {
        let long = format!("INSERT INTO t VALUES ('{}')", "ü".repeat(TEXT_BYTES_MAX));
        let kept = text_start(&long);
        assert!(long.starts_with(kept) && kept.len() <= TEXT_BYTES_MAX);
        assert_eq!(text_start("SELECT 1"), "SELECT 1");
    }
}
