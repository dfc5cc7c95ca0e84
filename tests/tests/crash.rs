//! Nothing acknowledged is lost and nothing is torn, whatever is killed (SIGKILL) in the midst of
//! writes: the whole playground of one process, one store of three, the SQL node. Writers keep a
//! [`ledger`], which is checked after each kill.
//!
//! `CAIRN_CRASH_ROUNDS` sets how often each is killed, `CAIRN_SEED` the choices.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use cairn_tests::ledger::{self, Told, Writers};
use cairn_tests::{HarnessError, Layout, Playground, Servers, eventually};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Rounds of a usual run, for each kind of crash.
const ROUNDS: u64 = 3;
/// Rounds after which the tables are made anew, so that checks stay fast.
const ROUNDS_PER_TABLES: u64 = 10;
/// Ids of one round lie apart from the next one's.
const IDS_PER_ROUND: u64 = 10_000_000;
/// Writes that must be acknowledged before something is killed: any number below this.
const WRITES_BEFORE_KILL_MAX: u64 = 120;
/// Writes that show that the cluster goes on.
const WRITES_THAT_SHOW_LIFE: u64 = 20;
/// How long writers may stand still after one store of three has died.
const FAILOVER_DEADLINE: Duration = Duration::from_secs(10);
/// How long they may take to write in quiet times.
const QUIET_DEADLINE: Duration = Duration::from_secs(30);
/// How long the check may be refused while the cluster comes back.
const CHECK_DEADLINE: Duration = Duration::from_secs(30);

/// A number from the environment.
fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Checks everything, as soon as the cluster lets itself be read.
async fn check(playground: &Playground, told: &Told, context: &str) {
    let last_error = Mutex::new(None);
    let answer = eventually(CHECK_DEADLINE, || async {
        let outcome = async {
            let mut conn = playground.connect("").await?;
            Ok::<_, HarnessError>(ledger::violations(&mut conn, told).await?)
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
    ledger::prepare(&mut conn).await?;
    told.forget();
    Ok(())
}

/// First id of a round, apart from all others of the same tables.
fn first_id(round: u64) -> u64 {
    (round % ROUNDS_PER_TABLES) * IDS_PER_ROUND
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
        let servers = Servers::on_port(playground.port());
        let writers = Writers::start(&told, &servers, first_id(round), seed);
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
        let servers = Servers::on_port(playground.port());
        let writers = Writers::start(&told, &servers, first_id(round), seed);
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
        servers.move_to_port(playground.port());
        let goes_on = quiet(WRITES_THAT_SHOW_LIFE).await;
        assert!(goes_on, "{context}: writes stand still with a new SQL node\n{}", playground.log());
        writers.stop().await;
        check(&playground, &told, &context).await;
    }
    Ok(())
}
