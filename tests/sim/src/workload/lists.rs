//! Transactions that read and append to lists at several isolation levels; what they saw must fit
//! the levels (see [`cairn_history::lists`]).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cairn_history::lists::workload::{Ask, Draft, Generator};
use cairn_history::lists::{Element, Key, Level, Outcome, Statement, Transaction, View, check};
use cairn_kv_client::{KeyRange, KvClient, KvError, LockOptions, LockWait, Snapshot};
use parking_lot::Mutex;
use rand::Rng;

use super::{fresh_view, scan_all};
use crate::world::{Dice, World};

/// How long a statement waits for the lock of another one: longer than that of a dead client stands.
const LOCK_WAIT: Duration = Duration::from_secs(20);
/// What the KV client offers.
const LEVELS: [Level; 4] =
    [Level::ReadCommitted, Level::RepeatableRead, Level::Snapshot, Level::Serializable];
/// Lists that the probe of a healed cluster reads.
const PROBED: u64 = 4;

/// What clients saw of the lists.
#[derive(Default)]
pub struct Lists {
    generator: Generator,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    history: Vec<Transaction>,
    done: u64,
}

/// A list's raw key.
fn key_of(key: Key) -> Bytes {
    Bytes::from(format!("l{:02}", key.0))
}

impl Lists {
    /// Transactions that were committed.
    pub fn done(&self) -> u64 {
        self.inner.lock().done
    }

    /// One transaction.
    pub async fn act(&self, world: &World, client: &Arc<KvClient>) {
        let draft = world.roll(Dice::Workload, |rng| self.generator.draw(rng, &LEVELS));
        // What failed was noted.
        let _ = self.play(world, client, draft).await;
    }

    /// Locks and reads a few lists.
    pub async fn probe(&self, world: &World, client: &Arc<KvClient>) -> Result<(), KvError> {
        let read = |key| Ask::Read { view: View::Locking, keys: vec![Key(key)] };
        let asks = (0..PROBED).map(read).collect();
        self.play(world, client, Draft { level: Level::RepeatableRead, asks }).await
    }

    async fn play(
        &self,
        world: &World,
        client: &Arc<KvClient>,
        draft: Draft,
    ) -> Result<(), KvError> {
        let at = {
            let mut inner = self.inner.lock();
            // Its client may die: then nobody knows.
            inner.history.push(Transaction {
                client: 0,
                level: draft.level,
                began: world.moment(),
                ended: u64::MAX,
                outcome: Outcome::Unknown,
                statements: Vec::new(),
            });
            inner.history.len() - 1
        };
        let result = self.try_all(world, client, &draft, at).await;
        let outcome = match &result {
            Ok(()) => Outcome::Committed,
            Err(KvError::UndeterminedCommit { .. }) => Outcome::Unknown,
            Err(_) => Outcome::Aborted,
        };
        let mut inner = self.inner.lock();
        inner.done += u64::from(outcome == Outcome::Committed);
        let transaction = &mut inner.history[at];
        (transaction.outcome, transaction.ended) = (outcome, world.moment());
        world.note(format_args!("T{at} {transaction}"));
        result
    }

    fn note(&self, at: usize, statement: Statement) {
        self.inner.lock().history[at].statements.push(statement);
    }

    async fn try_all(
        &self,
        world: &World,
        client: &Arc<KvClient>,
        draft: &Draft,
        at: usize,
    ) -> Result<(), KvError> {
        // A read that stands alone needs no transaction.
        if let [Ask::Read { view: View::Plain, keys }] = &draft.asks[..] {
            // Not at "the newest": that is right for one key, but in no order with others.
            let view = fresh_view(client).await?;
            let lists = read(world, &view, keys).await?;
            self.note(at, Statement::Read { view: View::Plain, lists });
            return Ok(());
        }
        let start_ts = client.current_ts().await?;
        let txn = match draft.level {
            Level::Snapshot => client.begin(start_ts),
            Level::Serializable => client.begin_pessimistic(start_ts).serializable(),
            Level::ReadCommitted | Level::RepeatableRead => client.begin_pessimistic(start_ts),
        };
        for ask in &draft.asks {
            if let Ask::Append { key, element } = ask {
                // Whatever becomes of it.
                self.note(at, Statement::Append { key: *key, element: *element });
            }
            let running = Running { world, client, txn: &txn, level: draft.level };
            match running.ask(ask).await {
                Ok(None) => {}
                Ok(Some(statement)) => self.note(at, statement),
                Err(error) => {
                    txn.rollback().await?;
                    return Err(error);
                }
            }
        }
        txn.commit().await.map(drop)
    }

    /// Reads every list once more and judges the history.
    pub async fn judge(&self, world: &World, client: &Arc<KvClient>) -> Result<(), KvError> {
        let keys = self.generator.all();
        let asks = vec![Ask::Read { view: View::Plain, keys }];
        self.play(world, client, Draft { level: Level::RepeatableRead, asks }).await?;
        let history = self.inner.lock().history.clone();
        for violation in check(&history) {
            world.fail(format!("lists: {violation}"));
        }
        Ok(())
    }
}

/// A transaction at work.
struct Running<'a> {
    world: &'a World,
    client: &'a Arc<KvClient>,
    txn: &'a cairn_kv_client::Transaction,
    level: Level,
}

impl Running<'_> {
    /// Does one thing; answers what it read.
    async fn ask(&self, ask: &Ask) -> Result<Option<Statement>, KvError> {
        match ask {
            Ask::Append { key, element } => self.append(*key, *element).await.map(|()| None),
            Ask::Read { view: View::Plain, keys } => {
                let read_ts = match self.level {
                    Level::ReadCommitted => self.client.current_ts().await?,
                    _ => self.txn.start_ts(),
                };
                self.txn.read_at(read_ts);
                let lists = self.read(keys).await?;
                Ok(Some(Statement::Read { view: View::Plain, lists }))
            }
            Ask::Read { view: View::Locking, keys } => {
                self.begin_statement().await?;
                let mut before = self.txn.checkpoint();
                let lists = loop {
                    let is_shared = self.world.roll(Dice::Workload, |rng| rng.random_bool(0.5));
                    self.lock(keys, is_shared).await?;
                    let lists = self.read(keys).await?;
                    if !self.txn.take_conflict() {
                        break lists;
                    }
                    before = self.txn.start_over(before);
                    self.begin_statement().await?;
                };
                self.txn.release(before);
                Ok(Some(Statement::Read { view: View::Locking, lists }))
            }
        }
    }

    /// As a statement does: starts over when the list was changed before it was locked.
    async fn append(&self, key: Key, element: Element) -> Result<(), KvError> {
        self.begin_statement().await?;
        let mut before = self.txn.checkpoint();
        loop {
            let mut list = self.txn.get(&key_of(key)).await?.unwrap_or_default().to_vec();
            list.extend(format!(" {}", element.0).bytes());
            self.txn.set(key_of(key), list.into())?;
            if self.level != Level::Snapshot {
                self.lock(&[key], false).await?;
            }
            if !self.txn.take_conflict() {
                self.txn.release(before);
                return Ok(());
            }
            before = self.txn.start_over(before);
            self.begin_statement().await?;
        }
    }

    /// Optimistic transactions read and lock at their beginning.
    async fn begin_statement(&self) -> Result<(), KvError> {
        if self.level != Level::Snapshot {
            self.txn.begin_statement(self.client.current_ts().await?);
        }
        Ok(())
    }

    async fn lock(&self, keys: &[Key], is_shared: bool) -> Result<(), KvError> {
        let options = LockOptions { is_shared, ..LockOptions::new(LockWait::AtMost(LOCK_WAIT)) };
        let keys = keys.iter().map(|key| key_of(*key)).collect();
        self.txn.lock_now(keys, &options).await.map(drop)
    }

    /// Reads below and in the transaction's own writes.
    async fn read(&self, keys: &[Key]) -> Result<Vec<(Key, Vec<Element>)>, KvError> {
        if self.txn.is_empty() {
            return read(self.world, &self.txn.snapshot(), keys).await;
        }
        let raw: Vec<Bytes> = keys.iter().map(|key| key_of(*key)).collect();
        let found = self.txn.batch_get(&raw).await?;
        let list = |key: &Key| (*key, elements(self.world, found.get(&key_of(*key))));
        Ok(keys.iter().map(list).collect())
    }
}

/// Reads lists in a view: one by one, together, or by a scan over all between them.
async fn read(
    world: &World,
    view: &Snapshot,
    keys: &[Key],
) -> Result<Vec<(Key, Vec<Element>)>, KvError> {
    let way = world.roll(Dice::Workload, |rng| rng.random_range(0..3));
    let raw: Vec<Bytes> = keys.iter().map(|key| key_of(*key)).collect();
    let mut found: BTreeMap<Bytes, Bytes> = BTreeMap::new();
    match way {
        0 => {
            for key in &raw {
                if let Some(value) = view.get(key).await? {
                    found.insert(key.clone(), value);
                }
            }
        }
        1 => found.extend(view.batch_get(&raw).await?),
        _ => {
            let reverse = world.roll(Dice::Workload, |rng| rng.random_bool(0.3));
            found.extend(scan_all(view, KeyRange::new("l", "m"), reverse).await?);
        }
    }
    Ok(keys.iter().map(|key| (*key, elements(world, found.get(&key_of(*key))))).collect())
}

/// A list's elements.
fn elements(world: &World, value: Option<&Bytes>) -> Vec<Element> {
    let text = value.map(|value| String::from_utf8_lossy(value)).unwrap_or_default();
    let element = |word: &str| match word.parse() {
        Ok(number) => Element(number),
        Err(_) => {
            world.fail(format!("a list holds {text:?}"));
            Element(0)
        }
    };
    text.split_whitespace().map(element).collect()
}
