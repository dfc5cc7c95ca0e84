//! A ledger that writers keep whatever happens: they move money between accounts, each transfer in
//! one transaction with its two entries in a journal, and append single rows to a log. They
//! remember what was acknowledged.
//!
//! Afterwards ([`violations`]) the money is all there, each transfer has both of its entries or
//! none, every acknowledged write is found, and every secondary index tells the same as the rows.
//! Meanwhile a reader ([`Writers`]) sees the same sum in every snapshot.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Error};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::task::JoinHandle;

use crate::client::{Client, Failure, Servers};
use crate::{eventually, pass};

/// Writers at the same time.
const WRITERS: u64 = 4;
/// Accounts, few enough that writers meet.
const ACCOUNTS: u64 = 8;
/// What each account holds at first.
const START_BALANCE: i64 = 1_000;
/// Ids of one writer lie apart from the next one's.
const IDS_PER_WRITER: u64 = 1_000_000_000;
/// Between two looks at the sum.
const LOOK_PAUSE: Duration = Duration::from_millis(50);

/// Error of `ADMIN CHECK TABLE`.
const ROWS_AND_ENTRIES_DISAGREE: u16 = 8223;

/// The sum of all accounts, at any time.
fn total() -> i64 {
    START_BALANCE * i64::try_from(ACCOUNTS).expect("few accounts")
}

/// What the writers were told.
#[derive(Debug, Default)]
pub struct Told {
    /// Acknowledged transfers.
    transfers: Mutex<BTreeSet<u64>>,
    /// Acknowledged rows of the log.
    appended: Mutex<BTreeSet<u64>>,
    writes: AtomicU64,
    /// Snapshots whose sum was looked at, and those that were wrong.
    looks: AtomicU64,
    wrong_sums: Mutex<Vec<String>>,
    stop: AtomicBool,
}

impl Told {
    /// Waits for `more` acknowledged writes.
    pub async fn await_writes(&self, more: u64, deadline: Duration) -> bool {
        let aim = self.writes.load(Ordering::Relaxed) + more;
        let reached = || async { (self.writes.load(Ordering::Relaxed) >= aim).then_some(()) };
        eventually(deadline, reached).await.is_some()
    }

    /// Acknowledged writes so far.
    pub fn writes(&self) -> u64 {
        self.writes.load(Ordering::Relaxed)
    }

    /// Snapshots whose sum was looked at so far.
    pub fn looks(&self) -> u64 {
        self.looks.load(Ordering::Relaxed)
    }

    /// Forgets everything: the tables are made anew.
    pub fn forget(&self) {
        self.transfers.lock().expect("no panic").clear();
        self.appended.lock().expect("no panic").clear();
    }
}

/// Makes the tables with their first rows.
pub async fn prepare(conn: &mut Conn) -> Result<(), Error> {
    for statement in [
        "CREATE DATABASE IF NOT EXISTS ledger",
        "DROP TABLE IF EXISTS ledger.accounts, ledger.journal, ledger.log",
        "CREATE TABLE ledger.accounts (id INT PRIMARY KEY, balance BIGINT, KEY by_balance (balance))",
        "CREATE TABLE ledger.journal (id BIGINT, account INT, amount BIGINT, \
         PRIMARY KEY (id, account), KEY by_account (account))",
        "CREATE TABLE ledger.log (id BIGINT PRIMARY KEY, writer INT, UNIQUE KEY by_writer (writer, id))",
    ] {
        conn.query_drop(statement).await?;
    }
    let rows: Vec<String> = (0..ACCOUNTS).map(|id| format!("({id}, {START_BALANCE})")).collect();
    conn.query_drop(format!("INSERT INTO ledger.accounts VALUES {}", rows.join(", "))).await
}

/// One transfer with its two entries; `Ok` is the acknowledgement.
async fn transfer(conn: &mut Conn, id: u64, rng: &mut StdRng) -> Result<(), Error> {
    let from = rng.random_range(0..ACCOUNTS);
    let to = (from + rng.random_range(1..ACCOUNTS)) % ACCOUNTS;
    let amount: i64 = rng.random_range(1..10);
    conn.query_drop("BEGIN").await?;
    for statement in [
        format!("UPDATE ledger.accounts SET balance = balance - {amount} WHERE id = {from}"),
        format!("UPDATE ledger.accounts SET balance = balance + {amount} WHERE id = {to}"),
        format!(
            "INSERT INTO ledger.journal VALUES ({id}, {from}, -{amount}), ({id}, {to}, {amount})"
        ),
        "COMMIT".to_owned(),
    ] {
        conn.query_drop(statement).await?;
    }
    Ok(())
}

/// Writes until told to stop, whatever happens to the servers.
async fn write(told: Arc<Told>, servers: Servers, writer: u64, first: u64, seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed ^ (writer << 32) ^ first);
    let mut id = writer * IDS_PER_WRITER + first;
    let mut client = Client::new(servers, writer as usize);
    while !told.stop.load(Ordering::Relaxed) {
        id += 1;
        let transferred =
            client.run(async |conn: &mut Conn| transfer(conn, id, &mut rng).await).await;
        match transferred {
            Ok(()) => {
                told.transfers.lock().expect("no panic").insert(id);
                told.writes.fetch_add(1, Ordering::Relaxed);
            }
            // A conflict: undone, and the connection is good.
            Err(Failure::Refused { .. }) => {
                if client.execute("ROLLBACK").await.is_err() {
                    continue;
                }
            }
            Err(_) => continue,
        }
        let append = format!("INSERT INTO ledger.log VALUES ({id}, {writer})");
        if client.execute(&append).await.is_ok() {
            told.appended.lock().expect("no panic").insert(id);
            told.writes.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Looks at the sum until told to stop.
async fn watch(told: Arc<Told>, servers: Servers) {
    let mut client = Client::new(servers, 0);
    while !told.stop.load(Ordering::Relaxed) {
        let query = "SELECT CAST(SUM(balance) AS SIGNED) FROM ledger.accounts";
        if let Ok(sum) = client.first::<i64>(query).await {
            told.looks.fetch_add(1, Ordering::Relaxed);
            if sum != Some(total()) {
                let wrong = format!("a snapshot's sum of balances: {sum:?}, not {}", total());
                told.wrong_sums.lock().expect("no panic").push(wrong);
            }
        }
        pass(LOOK_PAUSE).await;
    }
}

/// A running set of writers, and the reader of the sum.
#[derive(Debug)]
pub struct Writers {
    told: Arc<Told>,
    tasks: Vec<JoinHandle<()>>,
}

impl Writers {
    /// Lets them write, each with ids above `first`.
    pub fn start(told: &Arc<Told>, servers: &Servers, first: u64, seed: u64) -> Self {
        told.stop.store(false, Ordering::Relaxed);
        let mut tasks: Vec<JoinHandle<()>> = (0..WRITERS)
            .map(|writer| {
                tokio::spawn(write(Arc::clone(told), servers.clone(), writer, first, seed))
            })
            .collect();
        tasks.push(tokio::spawn(watch(Arc::clone(told), servers.clone())));
        Self { told: Arc::clone(told), tasks }
    }

    /// Stops them after the statement they are in.
    pub async fn stop(mut self) {
        self.told.stop.store(true, Ordering::Relaxed);
        for task in std::mem::take(&mut self.tasks) {
            task.await.expect("a writer does not panic");
        }
    }
}

impl Drop for Writers {
    fn drop(&mut self) {
        self.told.stop.store(true, Ordering::Relaxed);
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// Everything the tables must fulfil; answers what they do not.
pub async fn violations(conn: &mut Conn, told: &Told) -> Result<Vec<String>, Error> {
    let mut found = std::mem::take(&mut *told.wrong_sums.lock().expect("no panic"));
    for way in ["", "FORCE INDEX (by_balance)"] {
        let sum = format!("SELECT CAST(SUM(balance) AS SIGNED) FROM ledger.accounts {way}");
        let sum: Option<i64> = conn.query_first(sum).await?;
        if sum != Some(total()) {
            found.push(format!("sum of balances {way}: {sum:?}, not {}", total()));
        }
    }
    let torn = "SELECT id FROM ledger.journal GROUP BY id HAVING COUNT(*) <> 2 OR SUM(amount) <> 0";
    let torn: Vec<u64> = conn.query(torn).await?;
    if !torn.is_empty() {
        found.push(format!("torn transfers: {torn:?}"));
    }
    let balances = "SELECT a.id, a.balance, CAST(COALESCE(SUM(j.amount), 0) AS SIGNED) \
                    FROM ledger.accounts a LEFT JOIN ledger.journal j ON j.account = a.id \
                    GROUP BY a.id, a.balance";
    let balances: Vec<(u64, i64, i64)> = conn.query(balances).await?;
    for (id, balance, moved) in balances {
        if balance != START_BALANCE + moved {
            found.push(format!("account {id}: {balance}, but its journal says {moved:+}"));
        }
    }
    let journal = ids(conn, "SELECT id FROM ledger.journal").await?;
    let indexed = "SELECT id FROM ledger.journal FORCE INDEX (by_account) WHERE account >= 0";
    compare(&mut found, "journal and its index", &journal, &ids(conn, indexed).await?);
    let log = ids(conn, "SELECT id FROM ledger.log").await?;
    let indexed = "SELECT id FROM ledger.log FORCE INDEX (by_writer) WHERE writer >= 0";
    compare(&mut found, "log and its index", &log, &ids(conn, indexed).await?);
    let check = "ADMIN CHECK TABLE ledger.accounts, ledger.journal, ledger.log";
    match conn.query_drop(check).await {
        Ok(()) => {}
        Err(Error::Server(error)) if error.code == ROWS_AND_ENTRIES_DISAGREE => {
            found.push(error.message);
        }
        Err(error) => return Err(error),
    }
    for (what, told, there) in
        [("transfers", &told.transfers, &journal), ("appended rows", &told.appended, &log)]
    {
        let told = told.lock().expect("no panic");
        let lost: Vec<&u64> = told.difference(there).collect();
        if !lost.is_empty() {
            found.push(format!(
                "acknowledged {what} lost: {} of {}: {lost:?}",
                lost.len(),
                told.len()
            ));
        }
    }
    Ok(found)
}

/// A column of ids as a set.
async fn ids(conn: &mut Conn, query: &str) -> Result<BTreeSet<u64>, Error> {
    Ok(conn.query::<u64, _>(query).await?.into_iter().collect())
}

/// Notes what one set has and the other has not.
fn compare(found: &mut Vec<String>, what: &str, one: &BTreeSet<u64>, other: &BTreeSet<u64>) {
    let differ: Vec<&u64> = one.symmetric_difference(other).collect();
    if !differ.is_empty() {
        found.push(format!("{what} differ in {differ:?}"));
    }
}
