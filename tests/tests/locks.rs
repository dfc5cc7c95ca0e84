//! Transactions that meet over rows, as applications see it: real connections at once.

use std::sync::Arc;
use std::time::Duration;

use cairn_tests::client::code;
use cairn_tests::{HarnessError, Layout, Playground, eventually, playground};
use futures::future::join_all;
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Error};
use tokio::sync::Barrier;

/// How long a wait that should end may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// A cluster with a table of two rows.
async fn cluster(layout: Layout) -> Result<(Playground, Conn), HarnessError> {
    let playground = Playground::start(layout).await?;
    let mut conn = connect(&playground).await;
    for statement in [
        "CREATE DATABASE locks",
        "CREATE TABLE locks.t (id INT PRIMARY KEY, n INT, KEY (n))",
        "INSERT INTO locks.t VALUES (1, 0), (2, 0)",
    ] {
        conn.query_drop(statement).await.expect(statement);
    }
    Ok((playground, conn))
}

async fn connect(cluster: &Playground) -> Conn {
    playground::connect(cluster.port(), "").await.expect("the playground serves")
}

/// Until so many transactions wait for locks of rows.
async fn waits_for(conn: &mut Conn, waiters: u64) {
    let count = "SELECT COUNT(DISTINCT TRX_ID) FROM information_schema.data_lock_waits";
    let wait =
        async { while conn.query_first(count).await.expect("a system table") != Some(waiters) {} };
    tokio::time::timeout(PATIENCE, wait).await.expect("they wait");
}

/// Until some transaction waits for a lock.
async fn someone_waits(conn: &mut Conn, id: u32) {
    let info = "SELECT COUNT(*) FROM information_schema.processlist \
                WHERE ID = ? AND INFO LIKE 'UPDATE%'";
    let runs = async {
        while conn.exec_first(info, (id,)).await.expect("a system table") != Some(1u64) {}
    };
    tokio::time::timeout(PATIENCE, runs).await.expect("its statement runs");
}

async fn n_of(conn: &mut Conn, id: u32) -> i64 {
    let found = conn.exec_first("SELECT n FROM locks.t WHERE id = ?", (id,)).await;
    found.expect("a row can be read").expect("the row is there")
}

/// The second writer waits for the first, then goes on with what it left.
async fn second_writer_waits(layout: Layout) -> Result<(), HarnessError> {
    let (cluster, mut first) = cluster(layout).await?;
    let mut second = connect(&cluster).await;
    let mut third = connect(&cluster).await;
    first.query_drop("BEGIN").await.expect("begins");
    first.query_drop("UPDATE locks.t SET n = n + 1 WHERE id = 1").await.expect("free");
    let id = second.id();
    let waiting = tokio::spawn(async move {
        second.query_drop("BEGIN").await?;
        second.query_drop("UPDATE locks.t SET n = n + 10 WHERE id = 1").await?;
        second.query_drop("COMMIT").await
    });
    someone_waits(&mut third, id).await;
    assert!(!waiting.is_finished());
    assert_eq!(n_of(&mut third, 1).await, 0);
    first.query_drop("COMMIT").await.expect("commits");
    assert_eq!(code(waiting.await.expect("no panic")), 0);
    assert_eq!(n_of(&mut third, 1).await, 11);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn second_writer_waits_on_one_process() -> Result<(), HarnessError> {
    second_writer_waits(Layout::OneProcess).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn second_writer_waits_on_three_stores() -> Result<(), HarnessError> {
    second_writer_waits(Layout::Processes { stores: 3 }).await
}

/// Locks the rows in the given order, each after everybody has locked the one before; tells
/// how it ended.
async fn lock_in_order(mut conn: Conn, ids: [u32; 2], meeting: Arc<Barrier>) -> u16 {
    conn.query_drop("BEGIN").await.expect("begins");
    for (at, id) in ids.into_iter().enumerate() {
        if at > 0 {
            meeting.wait().await;
        }
        let update = "UPDATE locks.t SET n = n + 1 WHERE id = ?";
        let outcome = conn.exec_drop(update, (id,)).await;
        if outcome.is_err() {
            return code(outcome);
        }
    }
    code(conn.query_drop("COMMIT").await)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deadlock_has_exactly_one_victim() -> Result<(), HarnessError> {
    let (cluster, mut conn) = cluster(Layout::OneProcess).await?;
    for round in 1..=5 {
        let meeting = Arc::new(Barrier::new(2));
        let (first, second) = (connect(&cluster).await, connect(&cluster).await);
        let mut codes = join_all([
            lock_in_order(first, [1, 2], Arc::clone(&meeting)),
            lock_in_order(second, [2, 1], meeting),
        ])
        .await;
        codes.sort_unstable();
        assert_eq!(codes, [0, 1213], "round {round}");
        assert_eq!((n_of(&mut conn, 1).await, n_of(&mut conn, 2).await), (1, 1));
        conn.query_drop("UPDATE locks.t SET n = 0").await.expect("free");
    }
    Ok(())
}

/// Raises by many at once, in explicit transactions: none is lost, none is refused.
async fn raise_by_many(layout: Layout, clients: usize, rounds: usize) -> Result<(), HarnessError> {
    let (cluster, mut conn) = cluster(layout).await?;
    let raises = (0..clients).map(|client| {
        let port = cluster.port();
        tokio::spawn(async move {
            let mut conn = playground::connect(port, "locks").await?;
            for _ in 0..rounds {
                conn.query_drop("BEGIN").await?;
                conn.query_drop("UPDATE t SET n = n + 1 WHERE id = 1").await?;
                // By an index that moves under everybody, too.
                conn.exec_drop(
                    "INSERT INTO t VALUES (?, 1) ON DUPLICATE KEY UPDATE n = n + 1",
                    (100 + client % 2,),
                )
                .await?;
                conn.query_drop("COMMIT").await?;
            }
            Ok::<(), Error>(())
        })
    });
    for raised in join_all(raises).await {
        assert_eq!(code(raised.expect("no panic")), 0);
    }
    let total = (clients * rounds) as i64;
    assert_eq!(n_of(&mut conn, 1).await, total);
    assert_eq!(n_of(&mut conn, 100).await + n_of(&mut conn, 101).await, total);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn raises_of_many_are_neither_lost_nor_refused() -> Result<(), HarnessError> {
    raise_by_many(Layout::OneProcess, 16, 10).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn raises_of_many_on_three_stores() -> Result<(), HarnessError> {
    raise_by_many(Layout::Processes { stores: 3 }, 8, 5).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hot_row_under_autocommit_gives_no_error() -> Result<(), HarnessError> {
    let (cluster, mut conn) = cluster(Layout::OneProcess).await?;
    let raises = (0..16).map(|_| {
        let port = cluster.port();
        tokio::spawn(async move {
            let mut conn = playground::connect(port, "locks").await?;
            for _ in 0..5 {
                conn.query_drop("UPDATE t SET n = n + 1 WHERE id = 1").await?;
            }
            Ok::<(), Error>(())
        })
    });
    for raised in join_all(raises).await {
        assert_eq!(code(raised.expect("no panic")), 0);
    }
    assert_eq!(n_of(&mut conn, 1).await, 80);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_and_departed_waiters_leave_nothing() -> Result<(), HarnessError> {
    let (cluster, mut first) = cluster(Layout::OneProcess).await?;
    let mut third = connect(&cluster).await;
    first.query_drop("BEGIN").await.expect("begins");
    first.query_drop("UPDATE locks.t SET n = 5 WHERE id = 1").await.expect("free");
    let mut second = connect(&cluster).await;
    let id = second.id();
    let waiting = tokio::spawn(async move {
        second.query_drop("BEGIN").await.expect("begins");
        let outcome = second.query_drop("UPDATE locks.t SET n = 6 WHERE id = 1").await;
        (second, code(outcome))
    });
    someone_waits(&mut third, id).await;
    third.query_drop(format!("KILL QUERY {id}")).await.expect("kills");
    let (second, killed) = waiting.await.expect("no panic");
    assert_eq!(killed, 1317);
    // The holder's client goes away without a word: its locks go with its session.
    drop(first);
    let free = eventually(PATIENCE, || async {
        let mut conn = playground::connect(cluster.port(), "locks").await.ok()?;
        conn.query_drop("BEGIN").await.ok()?;
        let locked = conn.query_drop("SELECT * FROM t WHERE id = 1 FOR UPDATE NOWAIT").await;
        locked.ok()
    });
    assert!(free.await.is_some());
    drop(second);
    assert_eq!(n_of(&mut third, 1).await, 0);
    Ok(())
}

/// Moves one from a row to another, both locked first; tells whether it was the victim of a
/// deadlock. Any other error is a failure.
async fn transfer(conn: &mut Conn, from: u32, to: u32) -> Result<bool, Error> {
    let moves = async {
        conn.query_drop("BEGIN").await?;
        let lock = "SELECT n FROM t WHERE id = ? FOR UPDATE";
        let first: Option<i64> = conn.exec_first(lock, (from,)).await?;
        let second: Option<i64> = conn.exec_first(lock, (to,)).await?;
        let set = "UPDATE t SET n = ? WHERE id = ?";
        conn.exec_drop(set, (first.map(|n| n - 1), from)).await?;
        conn.exec_drop(set, (second.map(|n| n + 1), to)).await?;
        conn.query_drop("COMMIT").await
    };
    match moves.await {
        Ok(()) => Ok(false),
        Err(Error::Server(error)) if error.code == 1213 => Ok(true),
        Err(error) => Err(error),
    }
}

/// Transfers in all directions between few rows: whoever is no victim has moved its share.
async fn transfers_keep_the_sum(
    layout: Layout,
    clients: u32,
    rounds: u32,
) -> Result<(), HarnessError> {
    const ROWS: u32 = 5;
    let (cluster, mut conn) = cluster(layout).await?;
    conn.query_drop("INSERT INTO locks.t VALUES (3, 0), (4, 0), (5, 0)").await.expect("inserts");
    let workers = (0..clients).map(|client| {
        let port = cluster.port();
        tokio::spawn(async move {
            let mut conn = playground::connect(port, "locks").await?;
            let mut moved = vec![0i64; ROWS as usize];
            for round in 0..rounds {
                let from = (client + round) % ROWS;
                let to = (from + 1 + (client * 3 + round * 7) % (ROWS - 1)) % ROWS;
                if !transfer(&mut conn, from + 1, to + 1).await? {
                    moved[from as usize] -= 1;
                    moved[to as usize] += 1;
                }
            }
            Ok::<_, Error>(moved)
        })
    });
    let mut expected = vec![0i64; ROWS as usize];
    for worked in join_all(workers).await {
        let moved = worked.expect("no panic").expect("no error but deadlocks");
        expected.iter_mut().zip(moved).for_each(|(sum, moved)| *sum += moved);
    }
    let mut found = Vec::new();
    for id in 1..=ROWS {
        found.push(n_of(&mut conn, id).await);
    }
    assert_eq!(found, expected);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transfers_keep_the_sum_on_one_process() -> Result<(), HarnessError> {
    transfers_keep_the_sum(Layout::OneProcess, 8, 25).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transfers_keep_the_sum_on_three_stores() -> Result<(), HarnessError> {
    transfers_keep_the_sum(Layout::Processes { stores: 3 }, 6, 10).await
}

/// Jobs of the queue that workers drain: what takes seconds without optimisation.
/// `CAIRN_QUEUE_JOBS=10000` drains a long one.
const QUEUE_JOBS: u32 = 2_000;

/// Until the queue is empty; answers the jobs taken.
async fn drain(port: u16) -> Result<Vec<u32>, Error> {
    let mut conn = playground::connect(port, "locks").await?;
    // A wait would show as error 1205.
    conn.query_drop("SET innodb_lock_wait_timeout = 1").await?;
    let mut done = Vec::new();
    loop {
        conn.query_drop("BEGIN").await?;
        let next = "SELECT id FROM jobs ORDER BY id LIMIT 25 FOR UPDATE SKIP LOCKED";
        let jobs: Vec<u32> = conn.query(next).await?;
        if !jobs.is_empty() {
            let list: Vec<String> = jobs.iter().map(u32::to_string).collect();
            let delete = format!("DELETE FROM jobs WHERE id IN ({})", list.join(", "));
            conn.query_drop(delete).await?;
        }
        conn.query_drop("COMMIT").await?;
        let left = match jobs.is_empty() {
            true => conn.query_first("SELECT COUNT(*) FROM jobs").await?,
            false => Some(1),
        };
        done.extend(jobs);
        if left == Some(0_u32) {
            return Ok(done);
        }
    }
}

/// Workers drain a queue: every job is taken once, and nobody waits for a lock.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_is_drained_without_waiting() -> Result<(), HarnessError> {
    let set = std::env::var("CAIRN_QUEUE_JOBS").ok().and_then(|jobs| jobs.parse().ok());
    let job_count: u32 = set.unwrap_or(QUEUE_JOBS);
    let (cluster, mut conn) = cluster(Layout::OneProcess).await?;
    let create = "CREATE TABLE locks.jobs (id INT PRIMARY KEY, what VARCHAR(20))";
    conn.query_drop(create).await.expect("created");
    let ids: Vec<u32> = (0..job_count).collect();
    for some in ids.chunks(1_000) {
        let rows: Vec<String> = some.iter().map(|id| format!("({id}, 'job {id}')")).collect();
        let fill = format!("INSERT INTO locks.jobs VALUES {}", rows.join(", "));
        conn.query_drop(fill).await.expect("filled");
    }
    let workers = join_all((0..8).map(|_| tokio::spawn(drain(cluster.port()))));
    let mut workers = tokio::spawn(workers);
    let waits = "SELECT COUNT(*) FROM information_schema.data_lock_waits";
    let worked = loop {
        // Looks as fast as they are answered, until the queue is empty.
        let seen = conn.query_first(waits).await.expect("a system table");
        assert_eq!(seen, Some(0_u32), "somebody waits for a lock");
        let pause = tokio::time::timeout(Duration::from_millis(20), &mut workers);
        if let Ok(worked) = pause.await {
            break worked.expect("no panic");
        }
    };
    let mut done = Vec::new();
    for one in worked {
        done.extend(one.expect("no panic").expect("no error"));
    }
    done.sort_unstable();
    assert_eq!(done, ids, "each job is taken once");
    Ok(())
}

/// Two doctors are on call; each sees both, and goes home. Answers how the two commits, or what
/// came before them, ended, and how many doctors are left.
async fn two_doctors_go_home(
    cluster: &Playground,
    isolation: &str,
) -> Result<(Vec<u16>, u32), Error> {
    let mut doctors = [connect(cluster).await, connect(cluster).await];
    let all_on_call = "REPLACE INTO locks.doctors VALUES (1, 1), (2, 1)";
    doctors[0].query_drop(all_on_call).await?;
    let on_call = "SELECT COUNT(*) FROM locks.doctors WHERE on_call = 1";
    for conn in &mut doctors {
        let level = format!("SET SESSION TRANSACTION ISOLATION LEVEL {isolation}");
        conn.query_drop(level).await?;
        conn.query_drop("BEGIN").await?;
        assert_eq!(conn.query_first(on_call).await?, Some(2_u32));
    }
    let leaves = doctors.iter_mut().zip(1..).map(|(conn, id)| async move {
        let leave = format!("UPDATE locks.doctors SET on_call = 0 WHERE id = {id}");
        match conn.query_drop(leave).await {
            Ok(()) => code(conn.query_drop("COMMIT").await),
            outcome => code(outcome),
        }
    });
    let mut codes = join_all(leaves).await;
    codes.sort_unstable();
    let left = connect(cluster).await.query_first(on_call).await?;
    Ok((codes, left.unwrap_or(0)))
}

/// Write skew: allowed at REPEATABLE READ, found at SERIALIZABLE.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_doctors_on_call() -> Result<(), HarnessError> {
    let (cluster, mut conn) = cluster(Layout::OneProcess).await?;
    let create = "CREATE TABLE locks.doctors (id INT PRIMARY KEY, on_call INT)";
    conn.query_drop(create).await.expect("created");
    for _ in 0..5 {
        let (codes, left) = two_doctors_go_home(&cluster, "REPEATABLE READ").await?;
        assert_eq!((codes, left), (vec![0, 0], 0), "REPEATABLE READ");
        let (codes, left) = two_doctors_go_home(&cluster, "SERIALIZABLE").await?;
        let has_a_victim = codes == [0, 1213] && left == 1;
        // Each may have seen the other on its way out.
        let has_two = codes == [1213, 1213] && left == 2;
        assert!(has_a_victim || has_two, "SERIALIZABLE: {codes:?}, {left} left");
    }
    Ok(())
}

/// `GET_LOCK` by the session; its answer, or the error's code.
async fn get_lock(conn: &mut Conn, name: &str) -> Result<Option<u8>, u16> {
    let answer = conn.exec_first("SELECT GET_LOCK(?, 30)", (name,)).await;
    answer.map(Option::flatten).map_err(|error| code::<()>(Err(error)))
}

/// Of two sessions that hold a named lock each and want the other's, one is refused; the other
/// has it once the first one's connection is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn named_locks_in_a_circle() -> Result<(), HarnessError> {
    let (cluster, mut conn) = cluster(Layout::OneProcess).await?;
    let meeting = Arc::new(Barrier::new(2));
    let sessions = [["left", "right"], ["right", "left"]].map(|[own, wanted]| {
        let (port, meeting) = (cluster.port(), Arc::clone(&meeting));
        tokio::spawn(async move {
            let mut conn = playground::connect(port, "").await.expect("the playground serves");
            assert_eq!(get_lock(&mut conn, own).await, Ok(Some(1)));
            meeting.wait().await;
            // Who is refused leaves, which releases what it has.
            get_lock(&mut conn, wanted).await
        })
    });
    let both = tokio::time::timeout(PATIENCE, join_all(sessions)).await.expect("nobody waits on");
    let mut outcomes: Vec<_> = both.into_iter().map(|one| one.expect("no panic")).collect();
    outcomes.sort_unstable();
    assert_eq!(outcomes, [Ok(Some(1)), Err(3058)]);
    let free = "SELECT IS_FREE_LOCK('left') + IS_FREE_LOCK('right')";
    let all_free =
        async { while conn.query_first(free).await.expect("it answers") != Some(2i64) {} };
    tokio::time::timeout(PATIENCE, all_free).await.expect("who is gone holds nothing");
    Ok(())
}

async fn begin(cluster: &Playground) -> Conn {
    let mut conn = connect(cluster).await;
    conn.query_drop("BEGIN").await.expect("begins");
    conn
}

/// Runs a statement and ends the transaction; tells how that went.
fn running(mut conn: Conn, statement: &'static str) -> tokio::task::JoinHandle<u16> {
    tokio::spawn(async move {
        let outcome = conn.query_drop(statement).await;
        if outcome.is_err() {
            return code(outcome);
        }
        code(conn.query_drop("COMMIT").await)
    })
}

/// Those who share a row do not wait for each other, readers for nobody, a writer for all of them.
async fn a_writer_waits_for_all_who_share(layout: Layout) -> Result<(), HarnessError> {
    const SHARE: &str = "SELECT n FROM locks.t WHERE id = 1 FOR SHARE NOWAIT";
    let (cluster, mut conn) = cluster(layout).await?;
    let (mut first, mut second) = (begin(&cluster).await, begin(&cluster).await);
    let shared: Option<i64> = first.query_first(SHARE).await.expect("nobody is there");
    assert_eq!(shared, Some(0));
    // By a prepared statement, and by the older syntax.
    let by_id = "SELECT n FROM locks.t WHERE id = ? LOCK IN SHARE MODE";
    let shared: Option<i64> = second.exec_first(by_id, (1,)).await.expect("it is shared");
    assert_eq!(shared, Some(0));
    for refused in ["FOR UPDATE NOWAIT", "FOR UPDATE WAIT 0"] {
        let mut third = begin(&cluster).await;
        let query = format!("SELECT n FROM locks.t WHERE id = 1 {refused}");
        let code = code(third.query_drop(query).await);
        assert!(matches!(code, 3572 | 1205), "{refused}: {code}");
    }
    let skipping = "SELECT id FROM locks.t ORDER BY id FOR UPDATE SKIP LOCKED";
    let mut third = begin(&cluster).await;
    assert_eq!(third.query::<u32, _>(skipping).await.expect("skips"), [2]);
    third.query_drop("ROLLBACK").await.expect("ends");
    third.query_drop("SET innodb_lock_wait_timeout = 1").await.expect("a variable");
    let update = "UPDATE locks.t SET n = n + 1 WHERE id = 1";
    assert_eq!(code(third.query_drop(update).await), 1205);

    let writer = running(begin(&cluster).await, update);
    waits_for(&mut conn, 1).await;
    assert_eq!(n_of(&mut conn, 1).await, 0, "readers do not wait");
    first.query_drop("INSERT INTO locks.t VALUES (10, 0)").await.expect("free");
    first.query_drop("COMMIT").await.expect("commits");
    waits_for(&mut conn, 1).await;
    assert!(!writer.is_finished());
    second.query_drop("COMMIT").await.expect("commits");
    assert_eq!(writer.await.expect("no panic"), 0);
    assert_eq!(n_of(&mut conn, 1).await, 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_waits_for_all_who_share_on_one_process() -> Result<(), HarnessError> {
    a_writer_waits_for_all_who_share(Layout::OneProcess).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_waits_for_all_who_share_on_three_stores() -> Result<(), HarnessError> {
    a_writer_waits_for_all_who_share(Layout::Processes { stores: 3 }).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_who_share_and_write_one_is_the_victim() -> Result<(), HarnessError> {
    let (cluster, mut conn) = cluster(Layout::OneProcess).await?;
    let share = "SELECT n FROM locks.t WHERE n = 0 AND id = 1 FOR SHARE";
    let update = "UPDATE locks.t SET n = n + 1 WHERE id = 1";
    let (mut first, mut second) = (begin(&cluster).await, begin(&cluster).await);
    first.query_drop(share).await.expect("free");
    second.query_drop(share).await.expect("shared");
    let first = running(first, update);
    waits_for(&mut conn, 1).await;
    let mut codes = [running(second, update).await, first.await].map(|end| end.expect("no panic"));
    codes.sort_unstable();
    assert_eq!(codes, [0, 1213]);
    assert_eq!(n_of(&mut conn, 1).await, 1);
    // The last one that shares has the row at once, before another that waits for it.
    let mut sharer = begin(&cluster).await;
    sharer.query_drop("SELECT n FROM locks.t WHERE id = 1 FOR SHARE").await.expect("free");
    let waiting = running(begin(&cluster).await, update);
    waits_for(&mut conn, 1).await;
    sharer.query_drop("UPDATE locks.t SET n = n * 10 WHERE id = 1").await.expect("at once");
    sharer.query_drop("COMMIT").await.expect("commits");
    assert_eq!(waiting.await.expect("no panic"), 0);
    assert_eq!(n_of(&mut conn, 1).await, 11);
    Ok(())
}

/// Children are added to parents that others remove: none is left without one.
async fn families_stay_whole(
    layout: Layout,
    clients: u32,
    rounds: u32,
) -> Result<(), HarnessError> {
    const PARENTS: u32 = 3;
    let (cluster, mut conn) = cluster(layout).await?;
    for statement in [
        "CREATE TABLE locks.parents (id INT PRIMARY KEY)",
        "CREATE TABLE locks.children (id INT AUTO_INCREMENT PRIMARY KEY, parent INT, KEY (parent))",
        "INSERT INTO locks.parents VALUES (1), (2), (3)",
    ] {
        conn.query_drop(statement).await.expect(statement);
    }
    let workers = (0..clients).map(|client| {
        let port = cluster.port();
        tokio::spawn(async move {
            let mut conn = playground::connect(port, "locks").await?;
            for round in 0..rounds {
                let parent = 1 + (client + round) % PARENTS;
                let work = async {
                    conn.query_drop("BEGIN").await?;
                    if (client + round) % 4 == 0 {
                        let lock = "SELECT id FROM parents WHERE id = ? FOR UPDATE";
                        let found: Option<u32> = conn.exec_first(lock, (parent,)).await?;
                        let count = "SELECT COUNT(*) FROM children WHERE parent = ? FOR SHARE";
                        let children: Option<u32> = conn.exec_first(count, (parent,)).await?;
                        if found.is_some() && children == Some(0) {
                            let delete = "DELETE FROM parents WHERE id = ?";
                            conn.exec_drop(delete, (parent,)).await?;
                        }
                    } else {
                        let share = "SELECT id FROM parents WHERE id = ? FOR SHARE";
                        let found: Option<u32> = conn.exec_first(share, (parent,)).await?;
                        if found.is_some() {
                            let insert = "INSERT INTO children (parent) VALUES (?)";
                            conn.exec_drop(insert, (parent,)).await?;
                        }
                    }
                    conn.query_drop("COMMIT").await
                };
                match work.await {
                    Ok(()) => {}
                    Err(Error::Server(error)) if error.code == 1213 => {}
                    Err(error) => return Err(error),
                }
            }
            Ok::<_, Error>(())
        })
    });
    for worked in join_all(workers).await {
        worked.expect("no panic").expect("no error but deadlocks");
    }
    let orphans = "SELECT COUNT(*) FROM locks.children \
                   WHERE parent NOT IN (SELECT id FROM locks.parents)";
    assert_eq!(conn.query_first(orphans).await.expect("reads"), Some(0u64));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn families_stay_whole_on_one_process() -> Result<(), HarnessError> {
    families_stay_whole(Layout::OneProcess, 8, 20).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn families_stay_whole_on_three_stores() -> Result<(), HarnessError> {
    families_stay_whole(Layout::Processes { stores: 3 }, 6, 8).await
}
