//! One client: makes SQL of what it is to do, in ways that take different paths through the
//! server, and lists of the rows it is answered.

use std::collections::BTreeMap;

use cairn_history::lists::workload::{Ask, Draft};
use cairn_history::lists::{Element, Key, Level, Outcome, Statement, Transaction, View};
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Error, Row};
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use tokio::time::Instant;

use crate::client::{Client, Failure};

/// A row is a list. `slot` says the same as `id`, so that rows are also found by a unique index,
/// and `size` is the number of elements, so that an index changes with each append.
pub const TABLE: &str = "CREATE TABLE history.lists (id BIGINT PRIMARY KEY, slot BIGINT NOT NULL, \
                         size INT NOT NULL, v TEXT NOT NULL, UNIQUE KEY by_slot (slot), \
                         KEY by_size (slot, size))";

/// Ids of one round lie apart from the next one's.
const IDS_PER_ROUND: u64 = 1 << 32;
/// Stands in a list whose row says another number of elements than there are, and for rows that
/// nobody asked for: nobody appends it.
const TORN: Element = Element(u64::MAX);

/// A client in one round.
#[derive(Debug)]
pub struct Session {
    client: Client,
    number: u32,
    first_id: u64,
    /// When the clock of all clients began.
    began: Instant,
}

/// How far a transaction came.
#[derive(Debug, Default)]
struct Progress {
    statements: Vec<Statement>,
    /// Whether a statement was sent that may have committed it.
    may_be_committed: bool,
}

impl Session {
    /// The client of this number.
    pub fn new(client: Client, number: u32, round: u64, began: Instant) -> Self {
        Self { client, number, first_id: round * IDS_PER_ROUND, began }
    }

    fn now(&self) -> u64 {
        self.began.elapsed().as_nanos() as u64
    }

    /// Does what the draft says; tells what came of it, and why it failed if it did.
    pub async fn play(
        &mut self,
        draft: &Draft,
        rng: &mut StdRng,
    ) -> (Transaction, Option<Failure>) {
        // A statement that stands alone is a transaction, and takes other ways through the server.
        let is_alone = draft.asks.len() == 1 && rng.random_bool(0.5);
        let level = match draft.level {
            Level::Serializable => Level::Serializable,
            _ if is_alone => Level::ReadCommitted,
            level => level,
        };
        let ids = Ids { first: self.first_id };
        let mut progress = Progress::default();
        let began = self.now();
        let work = async |conn: &mut Conn| {
            if is_alone {
                conn.query_drop(alone(level)).await?;
            } else {
                for statement in begin(level) {
                    conn.query_drop(*statement).await?;
                }
            }
            for ask in &draft.asks {
                if is_alone {
                    progress.may_be_committed = true;
                }
                ids.ask(conn, ask, level, is_alone, rng, &mut progress.statements).await?;
            }
            if !is_alone {
                progress.may_be_committed = true;
                conn.query_drop("COMMIT").await?;
            }
            Ok(())
        };
        let result = self.client.run(work).await;
        let ended = self.now();
        let outcome = match &result {
            Ok(()) => Outcome::Committed,
            Err(failure) if progress.may_be_committed && failure.is_uncertain() => Outcome::Unknown,
            Err(_) => Outcome::Aborted,
        };
        if matches!(result, Err(Failure::Refused { .. })) && !is_alone {
            // A connection that is lost meanwhile is made anew by the next transaction.
            let _ = self.client.execute("ROLLBACK").await;
        }
        let (client, statements) = (self.number, progress.statements);
        let transaction = Transaction { client, level, began, ended, outcome, statements };
        (transaction, result.err())
    }

    /// Reads all lists of the round, which are these, in one statement; `None` when that fails.
    pub async fn read_all(&mut self, keys: &[Key], way: Way) -> Option<Transaction> {
        let ids = Ids { first: self.first_id };
        let (from, to) = (self.first_id, self.first_id + IDS_PER_ROUND - 1);
        let query = way.query(&format!("BETWEEN {from} AND {to}"), "");
        let began = self.now();
        let rows = self.client.run(async |conn: &mut Conn| conn.query::<Row, _>(query).await).await;
        let lists = ids.lists(keys, rows.ok()?);
        let (client, level, ended) = (self.number, Level::RepeatableRead, self.now());
        let statements = vec![Statement::Read { view: View::Plain, lists }];
        Some(Transaction { client, level, began, ended, outcome: Outcome::Committed, statements })
    }
}

/// What begins a transaction of a level.
fn begin(level: Level) -> &'static [&'static str] {
    match level {
        Level::ReadCommitted => {
            &["SET TRANSACTION ISOLATION LEVEL READ COMMITTED", "BEGIN PESSIMISTIC"]
        }
        Level::RepeatableRead => {
            &["SET TRANSACTION ISOLATION LEVEL REPEATABLE READ", "BEGIN PESSIMISTIC"]
        }
        Level::Snapshot => &["SET TRANSACTION ISOLATION LEVEL REPEATABLE READ", "BEGIN OPTIMISTIC"],
        Level::Serializable => {
            &["SET TRANSACTION ISOLATION LEVEL SERIALIZABLE", "BEGIN PESSIMISTIC"]
        }
    }
}

/// What sets the level of statements that stand alone.
fn alone(level: Level) -> &'static str {
    match level {
        Level::Serializable => "SET SESSION TRANSACTION ISOLATION LEVEL SERIALIZABLE",
        Level::ReadCommitted | Level::RepeatableRead | Level::Snapshot => {
            "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ"
        }
    }
}

/// A path to the rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// By the primary key.
    Id,
    /// By the unique index.
    Slot,
    /// By the index that changes with each append.
    Size,
}

impl Way {
    /// All of them.
    pub const ALL: [Way; 3] = [Way::Id, Way::Slot, Way::Size];

    /// `slot`, `size` and `v` of the rows whose number fulfils a condition.
    fn query(self, condition: &str, locking: &str) -> String {
        let (index, column) = match self {
            Way::Id => ("", "id"),
            Way::Slot => ("FORCE INDEX (by_slot)", "slot"),
            Way::Size => ("FORCE INDEX (by_size)", "slot"),
        };
        format!(
            "SELECT slot, size, v FROM history.lists {index} WHERE {column} {condition} {locking}"
        )
    }
}

/// Where the lists of a round are.
#[derive(Clone, Copy, Debug)]
struct Ids {
    first: u64,
}

impl Ids {
    fn of(self, key: Key) -> u64 {
        self.first + key.0
    }

    /// Sends one statement and writes down what it did. An append is written down before: it may
    /// have happened although the answer is an error.
    async fn ask(
        self,
        conn: &mut Conn,
        ask: &Ask,
        level: Level,
        is_alone: bool,
        rng: &mut StdRng,
        statements: &mut Vec<Statement>,
    ) -> Result<(), Error> {
        match ask {
            Ask::Append { key, element } => {
                statements.push(Statement::Append { key: *key, element: *element });
                self.append(conn, *key, *element, !is_alone && rng.random_bool(0.3)).await
            }
            Ask::Read { view, keys } => {
                // A point without a transaction reads the newest version, not at a timestamp: right
                // for one row (registers are tested so), but in no order with reads of others.
                let is_newest = is_alone && level != Level::Serializable;
                let rows = conn.query::<Row, _>(self.query(*view, keys, is_newest, rng)).await?;
                statements.push(Statement::Read { view: *view, lists: self.lists(keys, rows) });
                Ok(())
            }
        }
    }

    async fn append(
        self,
        conn: &mut Conn,
        key: Key,
        element: Element,
        updates_first: bool,
    ) -> Result<(), Error> {
        let (id, element) = (self.of(key), element.0);
        if updates_first {
            let update = "UPDATE history.lists SET v = CONCAT(v, ?), size = size + 1 WHERE id = ?";
            conn.exec_drop(update, (format!(" {element}"), id)).await?;
            if conn.affected_rows() > 0 {
                return Ok(());
            }
        }
        conn.query_drop(format!(
            "INSERT INTO history.lists VALUES ({id}, {id}, 1, '{element}') \
             ON DUPLICATE KEY UPDATE v = CONCAT(v, ' {element}'), size = size + 1"
        ))
        .await
    }

    /// One of the ways to read lists, as points or as a range.
    fn query(self, view: View, keys: &[Key], is_newest: bool, rng: &mut StdRng) -> String {
        let locking = match view {
            View::Plain => "",
            View::Locking => ["FOR UPDATE", "FOR SHARE"].choose(rng).copied().unwrap_or_default(),
        };
        let ids: Vec<u64> = keys.iter().map(|key| self.of(*key)).collect();
        let (first, last) = (ids[0], ids[ids.len() - 1]);
        let mut way = Way::ALL.choose(rng).copied().unwrap_or(Way::Id);
        if is_newest && ids.len() == 1 && way == Way::Id {
            way = Way::Slot;
        }
        let is_range = last - first + 1 == ids.len() as u64 && rng.random_bool(0.5);
        let condition = if is_range {
            format!("BETWEEN {first} AND {last}")
        } else {
            let ids: Vec<String> = ids.iter().map(u64::to_string).collect();
            format!("IN ({})", ids.join(", "))
        };
        way.query(&condition, locking)
    }

    /// The lists of these keys; those without a row are empty. What no right answer has stands as
    /// [`TORN`] in a list.
    fn lists(self, keys: &[Key], rows: Vec<Row>) -> Vec<(Key, Vec<Element>)> {
        let mut found: BTreeMap<Option<u64>, Vec<Element>> = BTreeMap::new();
        for row in rows {
            let slot: Option<u64> = row.get_opt(0).and_then(Result::ok);
            let size: Option<usize> = row.get_opt(1).and_then(Result::ok);
            let text: Option<String> = row.get_opt(2).and_then(Result::ok);
            let list = found.entry(slot).or_default();
            // A row that is answered twice is a list with elements twice.
            let text = text.unwrap_or_default();
            list.extend(text.split(' ').map(|element| element.parse().map_or(TORN, Element)));
            if Some(list.len()) != size {
                list.push(TORN);
            }
        }
        let mut take = |key: &Key| (*key, found.remove(&Some(self.of(*key))).unwrap_or_default());
        let mut lists: Vec<(Key, Vec<Element>)> = keys.iter().map(&mut take).collect();
        if let (false, Some((_, list))) = (found.is_empty(), lists.first_mut()) {
            // A row that nobody asked for.
            list.push(TORN);
        }
        lists
    }
}
