//! Nothing acknowledged is lost and nothing is torn, whatever is killed (SIGKILL) in the midst of
//! writes: the whole playground of one process, one store of three, the SQL node.
//!
//! Writers move money between accounts, each transfer in one transaction with its two entries in
//! a journal, and append single rows to a log. They remember what was acknowledged. Afterwards
//! the money is all there, each transfer has both of its entries or none, every acknowledged
//! write is found, and every secondary index tells the same as the rows.
//!
//! `CAIRN_CRASH_ROUNDS` sets how often each is killed, `CAIRN_SEED` the choices.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cairn_tests::{HarnessError, Layout, Playground, eventually, playground};
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Error};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Rounds of a usual run, for each kind of crash.
const ROUNDS: u64 = 3;
/// Writers at the same time.
const WRITERS: u64 = 4;
/// Accounts, few enough that writers meet.
const ACCOUNTS: u64 = 8;
/// What each account holds at first.
const START_BALANCE: i64 = 1_000;
/// Rounds after which the tables are made anew, so that checks stay fast.
const ROUNDS_PER_TABLES: u64 = 10;
/// Writes that must be acknowledged before something is killed: any number below this.
const WRITES_BEFORE_KILL_MAX: u64 = 120;
/// Writes that show that the cluster goes on.
const WRITES_THAT_SHOW_LIFE: u64 = 20;
/// How long writers may stand still after one store of three has died.
const FAILOVER_DEADLINE: Duration = Duration::from_secs(10);
/// How long they may take to write in quiet times.
const QUIET_DEADLINE: Duration = Duration::from_secs(30);
/// How long a statement may take before its writer gives it up and connects anew.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the check may be refused while the cluster comes back.
const CHECK_DEADLINE: Duration = Duration::from_secs(30);
/// Ids of one writer lie apart from the next one's.
const IDS_PER_WRITER: u64 = 1_000_000_000;

/// A number from the environment.
fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// What the writers were told.
#[derive(Default)]
struct Told {
    transfers: Mutex<BTreeSet<u64>>,
    appended: Mutex<BTreeSet<u64>>,
    writes: AtomicU64,
    port: AtomicU16,
    stop: AtomicBool,
}

impl Told {
    /// Waits for `more` acknowledged writes.
    async fn await_writes(&self, more: u64, deadline: Duration) -> bool {
        let aim = self.writes.load(Ordering::Relaxed) + more;
        let reached = || async { (self.writes.load(Ordering::Relaxed) >= aim).then_some(()) };
        eventually(deadline, reached).await.is_some()
    }
}

/// Makes the tables with their first rows.
async fn prepare(conn: &mut Conn) -> Result<(), Error> {
    for statement in [
        "CREATE DATABASE IF NOT EXISTS crash",
        "DROP TABLE IF EXISTS crash.accounts, crash.journal, crash.log",
        "CREATE TABLE crash.accounts (id INT PRIMARY KEY, balance BIGINT, KEY by_balance (balance))",
        "CREATE TABLE crash.journal (id BIGINT, account INT, amount BIGINT, \
         PRIMARY KEY (id, account), KEY by_account (account))",
        "CREATE TABLE crash.log (id BIGINT PRIMARY KEY, writer INT, UNIQUE KEY by_writer (writer, id))",
    ] {
        conn.query_drop(statement).await?;
    }
    let rows: Vec<String> = (0..ACCOUNTS).map(|id| format!("({id}, {START_BALANCE})")).collect();
    conn.query_drop(format!("INSERT INTO crash.accounts VALUES {}", rows.join(", "))).await
}

/// One transfer with its two entries; `Ok` is the acknowledgement.
async fn transfer(conn: &mut Conn, id: u64, rng: &mut StdRng) -> Result<(), Error> {
    let from = rng.random_range(0..ACCOUNTS);
    let to = (from + rng.random_range(1..ACCOUNTS)) % ACCOUNTS;
    let amount: i64 = rng.random_range(1..10);
    conn.query_drop("BEGIN").await?;
    for statement in [
        format!("UPDATE crash.accounts SET balance = balance - {amount} WHERE id = {from}"),
        format!("UPDATE crash.accounts SET balance = balance + {amount} WHERE id = {to}"),
        format!(
            "INSERT INTO crash.journal VALUES ({id}, {from}, -{amount}), ({id}, {to}, {amount})"
        ),
        "COMMIT".to_owned(),
    ] {
        conn.query_drop(statement).await?;
    }
    Ok(())
}

/// Writes until told to stop, whatever happens to the server.
async fn write(told: Arc<Told>, writer: u64, first: u64, seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed ^ (writer << 32) ^ first);
    let mut id = writer * IDS_PER_WRITER + first;
    while !told.stop.load(Ordering::Relaxed) {
        let port = told.port.load(Ordering::Relaxed);
        let connecting = playground::connect(port, "");
        let Ok(Ok(mut conn)) = tokio::time::timeout(STATEMENT_TIMEOUT, connecting).await else {
            tokio::task::yield_now().await;
            continue;
        };
        while !told.stop.load(Ordering::Relaxed) {
            id += 1;
            let moved = transfer(&mut conn, id, &mut rng);
            match tokio::time::timeout(STATEMENT_TIMEOUT, moved).await {
                Ok(Ok(())) => {
                    told.transfers.lock().unwrap().insert(id);
                    told.writes.fetch_add(1, Ordering::Relaxed);
                }
                // A conflict: undone, and the connection is good.
                Ok(Err(Error::Server(_))) => {
                    let undo = conn.query_drop("ROLLBACK");
                    if !matches!(tokio::time::timeout(STATEMENT_TIMEOUT, undo).await, Ok(Ok(()))) {
                        break;
                    }
                }
                _ => break,
            }
            let append = format!("INSERT INTO crash.log VALUES ({id}, {writer})");
            match tokio::time::timeout(STATEMENT_TIMEOUT, conn.query_drop(append)).await {
                Ok(Ok(())) => {
                    told.appended.lock().unwrap().insert(id);
                    told.writes.fetch_add(1, Ordering::Relaxed);
                }
                Ok(Err(Error::Server(_))) => {}
                _ => break,
            }
        }
    }
}

/// A running set of writers.
struct Writers {
    told: Arc<Told>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Writers {
    /// Lets them write, each with ids above `first`.
    fn start(told: &Arc<Told>, port: u16, first: u64, seed: u64) -> Self {
        told.port.store(port, Ordering::Relaxed);
        told.stop.store(false, Ordering::Relaxed);
        let tasks = (0..WRITERS)
            .map(|writer| tokio::spawn(write(Arc::clone(told), writer, first, seed)))
            .collect();
        Self { told: Arc::clone(told), tasks }
    }

    /// Stops them after the statement they are in.
    async fn stop(self) {
        self.told.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.expect("a writer does not panic");
        }
    }
}

/// Everything the tables must fulfil; answers what they do not.
async fn violations(conn: &mut Conn, told: &Told) -> Result<Vec<String>, Error> {
    let mut found = Vec::new();
    let total = START_BALANCE * i64::try_from(ACCOUNTS).expect("few accounts");
    for way in ["", "FORCE INDEX (by_balance)"] {
        let sum = format!("SELECT CAST(SUM(balance) AS SIGNED) FROM crash.accounts {way}");
        let sum: Option<i64> = conn.query_first(sum).await?;
        if sum != Some(total) {
            found.push(format!("sum of balances {way}: {sum:?}, not {total}"));
        }
    }
    let torn = "SELECT id FROM crash.journal GROUP BY id HAVING COUNT(*) <> 2 OR SUM(amount) <> 0";
    let torn: Vec<u64> = conn.query(torn).await?;
    if !torn.is_empty() {
        found.push(format!("torn transfers: {torn:?}"));
    }
    let balances = "SELECT a.id, a.balance, CAST(COALESCE(SUM(j.amount), 0) AS SIGNED) \
                    FROM crash.accounts a LEFT JOIN crash.journal j ON j.account = a.id \
                    GROUP BY a.id, a.balance";
    let balances: Vec<(u64, i64, i64)> = conn.query(balances).await?;
    for (id, balance, moved) in balances {
        if balance != START_BALANCE + moved {
            found.push(format!("account {id}: {balance}, but its journal says {moved:+}"));
        }
    }
    let journal = ids(conn, "SELECT id FROM crash.journal").await?;
    let indexed = "SELECT id FROM crash.journal FORCE INDEX (by_account) WHERE account >= 0";
    compare(&mut found, "journal and its index", &journal, &ids(conn, indexed).await?);
    let log = ids(conn, "SELECT id FROM crash.log").await?;
    let indexed = "SELECT id FROM crash.log FORCE INDEX (by_writer) WHERE writer >= 0";
    compare(&mut found, "log and its index", &log, &ids(conn, indexed).await?);
    for (what, told, there) in
        [("transfers", &told.transfers, &journal), ("appended rows", &told.appended, &log)]
    {
        let told = told.lock().unwrap();
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

/// Checks everything, as soon as the cluster lets itself be read.
async fn check(playground: &Playground, told: &Told, context: &str) {
    let last_error = Mutex::new(None);
    let answer = eventually(CHECK_DEADLINE, || async {
        let outcome = async {
            let mut conn = playground.connect("").await?;
            Ok::<_, HarnessError>(violations(&mut conn, told).await?)
        };
        match outcome.await {
            Ok(found) => Some(found),
            Err(error) => {
                *last_error.lock().unwrap() = Some(error.to_string());
                None
            }
        }
    });
    match answer.await {
        Some(found) => {
            assert!(found.is_empty(), "{context}:\n{}\n{}", found.join("\n"), playground.log());
        }
        None => {
            let error = last_error.lock().unwrap().take();
            panic!("{context}: cannot be read: {error:?}\n{}", playground.log());
        }
    }
}

/// New tables, and nothing told about them.
async fn anew(playground: &Playground, told: &Told) -> Result<(), HarnessError> {
    let mut conn = playground.connect("").await?;
    prepare(&mut conn).await?;
    told.transfers.lock().unwrap().clear();
    told.appended.lock().unwrap().clear();
    Ok(())
}

/// First id of a round, apart from all others of the same tables.
fn first_id(round: u64) -> u64 {
    (round % ROUNDS_PER_TABLES) * (IDS_PER_WRITER / ROUNDS_PER_TABLES)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killing_the_whole_process_loses_nothing() -> Result<(), HarnessError> {
    let (rounds, seed) = (setting("CAIRN_CRASH_ROUNDS", ROUNDS), setting("CAIRN_SEED", 1));
    let mut rng = StdRng::seed_from_u64(seed);
    let told = Arc::new(Told::default());
    let mut playground = Playground::start(Layout::OneProcess).await?;
    for round in 0..rounds {
        let context = format!("whole process, seed {seed}, round {round}");
        if round % ROUNDS_PER_TABLES == 0 {
            anew(&playground, &told).await?;
        }
        let writers = Writers::start(&told, playground.port(), first_id(round), seed);
        let more = rng.random_range(1..WRITES_BEFORE_KILL_MAX);
        assert!(told.await_writes(more, QUIET_DEADLINE).await, "{context}: nothing is written");
        playground.kill();
        writers.stop().await;
        playground.restart().await?;
        check(&playground, &told, &context).await;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killing_nodes_of_a_cluster_loses_nothing() -> Result<(), HarnessError> {
    let (rounds, seed) = (setting("CAIRN_CRASH_ROUNDS", ROUNDS), setting("CAIRN_SEED", 1));
    let mut rng = StdRng::seed_from_u64(seed);
    let told = Arc::new(Told::default());
    let mut playground = Playground::start(Layout::Processes { stores: 3 }).await?;
    let of_role = |playground: &Playground, role: &str| -> Vec<usize> {
        let nodes = playground.nodes.iter().enumerate();
        nodes.filter(|(_, node)| node.role == role).map(|(at, _)| at).collect()
    };
    let (stores, sql) = (of_role(&playground, "kv"), of_role(&playground, "sql"));
    assert_eq!((stores.len(), sql.len()), (3, 1), "{:?}", playground.nodes);
    // A region of fewer voters does not survive a store.
    playground.wait_until_replicated(stores.len()).await?;
    for round in 0..rounds {
        let context = format!("cluster, seed {seed}, round {round}");
        if round % ROUNDS_PER_TABLES == 0 {
            anew(&playground, &told).await?;
        }
        let writers = Writers::start(&told, playground.port(), first_id(round), seed);
        let quiet = |more| told.await_writes(more, QUIET_DEADLINE);

        // A store. That the others go on next round shows that it has caught up.
        let store = stores[rng.random_range(0..stores.len())];
        let more = rng.random_range(1..WRITES_BEFORE_KILL_MAX);
        assert!(quiet(more).await, "{context}: nothing is written\n{}", playground.log());
        playground.nodes[store].kill();
        let goes_on = told.await_writes(WRITES_THAT_SHOW_LIFE, FAILOVER_DEADLINE).await;
        assert!(
            goes_on,
            "{context}: writes stand still without node {store}\n{}",
            playground.log()
        );
        playground.restart_node(store).await?;

        // The SQL node, in the midst of its transactions.
        let more = rng.random_range(1..WRITES_BEFORE_KILL_MAX);
        assert!(quiet(more).await, "{context}: nothing is written\n{}", playground.log());
        playground.nodes[sql[0]].kill();
        playground.restart_node(sql[0]).await?;
        told.port.store(playground.port(), Ordering::Relaxed);
        let goes_on = quiet(WRITES_THAT_SHOW_LIFE).await;
        assert!(goes_on, "{context}: writes stand still with a new SQL node\n{}", playground.log());
        writers.stop().await;
        check(&playground, &told, &context).await;
    }
    Ok(())
}
