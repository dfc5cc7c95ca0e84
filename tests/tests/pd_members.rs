//! Three members of the placement driver as processes: the leader is killed (SIGKILL) under
//! writes, comes back, and members join, hand over and leave. The client of the SQL node gets
//! no error all the while.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use cairn_tests::node::{Served, cairn_binary};
use cairn_tests::{HarnessError, Layout, Playground, eventually};
use mysql_async::prelude::Queryable;
use serde_json::Value;

/// How long writes may stand still after the leader has died; three seconds on a quiet machine.
const FAILOVER_DEADLINE: Duration = Duration::from_secs(10);
/// How long everything else may take.
const DEADLINE: Duration = Duration::from_secs(30);
/// Writes that show that the cluster goes on.
const WRITES_THAT_SHOW_LIFE: u64 = 20;

/// A client that inserts row after row, and what it has reached.
struct Writer {
    written: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<Result<(), mysql_async::Error>>,
}

impl Writer {
    async fn start(playground: &Playground) -> Result<Self, HarnessError> {
        let mut conn = playground.connect("test").await?;
        conn.query_drop("CREATE TABLE steady (id BIGINT PRIMARY KEY, at BIGINT)").await?;
        let (written, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let task = tokio::spawn({
            let (written, stop) = (Arc::clone(&written), Arc::clone(&stop));
            async move {
                while !stop.load(Ordering::Relaxed) {
                    let id = written.load(Ordering::Relaxed) + 1;
                    conn.query_drop(format!("INSERT INTO steady VALUES ({id}, {id})")).await?;
                    written.store(id, Ordering::Relaxed);
                }
                Ok(())
            }
        });
        Ok(Self { written, stop, task })
    }

    /// Waits for more writes.
    async fn goes_on(&self, deadline: Duration, context: &str, playground: &Playground) {
        let aim = self.written.load(Ordering::Relaxed) + WRITES_THAT_SHOW_LIFE;
        let reached = eventually(deadline, || async {
            (self.written.load(Ordering::Relaxed) >= aim || self.task.is_finished()).then_some(())
        });
        assert!(reached.await.is_some(), "{context}: no writes\n{}", playground.log());
        assert!(!self.task.is_finished(), "{context}: the client got an error");
    }

    /// Stops; answers how many rows were acknowledged.
    async fn stop(self) -> Result<u64, HarnessError> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.expect("the writer does not panic")?;
        Ok(self.written.load(Ordering::Relaxed))
    }
}

/// Runs `cairn ctl --json`; answers what it printed, or its error.
fn ctl(pd: &str, args: &[&str]) -> Result<Value, String> {
    let output = Command::new(cairn_binary())
        .args(["ctl", "--json", "--pd", pd])
        .args(args)
        .output()
        .expect("the binary runs");
    serde_json::from_slice(&output.stdout)
        .map_err(|_| String::from_utf8_lossy(&output.stderr).into_owned())
}

/// Name of the member that leads, once the members are as many and all are well.
async fn leader_of(pd: &str, members: usize) -> String {
    let asked = eventually(DEADLINE, || async {
        let list = ctl(pd, &["member"]).ok()?;
        let list = list.as_array()?;
        let well = |member: &Value| member["healthy"] == true && member["role"] == "voter";
        if list.len() != members || !list.iter().all(well) {
            return None;
        }
        let leader = list.iter().find(|member| member["leader"] == true)?;
        leader["name"].as_str().map(str::to_owned)
    });
    asked.await.unwrap_or_else(|| panic!("{members} members: {:?}", ctl(pd, &["member"])))
}

/// The process of a member.
fn node_of(playground: &Playground, name: &str) -> usize {
    let named = playground.nodes.iter().position(|node| {
        node.role == "pd" && node.args.windows(2).any(|pair| pair == ["--name", name])
    });
    named.expect("every member is a process")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_do_not_notice_who_leads() -> Result<(), HarnessError> {
    let layout = Layout::Cluster { stores: 3, pd_members: 3 };
    let mut playground = Playground::start(layout).await?;
    playground.wait_until_replicated(3).await?;
    let pd = playground.pd().expect("the ready line names the members");
    assert_eq!(pd.split(',').count(), 3, "{pd}");
    let writer = Writer::start(&playground).await?;
    writer.goes_on(DEADLINE, "at first", &playground).await;

    // The leader dies, and comes back as one of the others.
    let leader = leader_of(&pd, 3).await;
    let at = node_of(&playground, &leader);
    playground.nodes[at].kill();
    writer.goes_on(FAILOVER_DEADLINE, "without the leader", &playground).await;
    playground.restart_node(at).await?;
    let next = leader_of(&pd, 3).await;
    assert_ne!(next, leader);

    // Every member alone is enough to steer by: who does not lead names the leader.
    for member in pd.split(',') {
        for words in ["store", "operator", "config set leader-schedule-limit 5", "tso"] {
            let words: Vec<&str> = words.split(' ').collect();
            ctl(member, &words).unwrap_or_else(|error| panic!("{words:?} at {member}: {error}"));
        }
    }

    // One joins, and takes over.
    let new = ["pd", "--name", "pd-4", "--addr", "127.0.0.1:0", "--join", &pd, "--data-dir"];
    let dir = playground.path("pd-4").display().to_string();
    let args: Vec<String> = new.iter().copied().chain([dir.as_str()]).map(str::to_owned).collect();
    let joined = Served::start(&args, &playground.path("pd-4-log")).await?;
    leader_of(&pd, 4).await;
    ctl(&pd, &["member", "transfer", "pd-4"]).expect("it is well");
    assert_eq!(leader_of(&pd, 4).await, "pd-4");
    writer.goes_on(FAILOVER_DEADLINE, "under a new member", &playground).await;

    // One leaves for good.
    let gone = node_of(&playground, &leader);
    ctl(&pd, &["member", "remove", &leader]).expect("three are left");
    assert_eq!(leader_of(&pd, 3).await, "pd-4");
    playground.nodes[gone].kill();
    let refused = playground.restart_node(gone).await;
    let stays_out = eventually(DEADLINE, || async {
        let list = ctl(&pd, &["member"]).ok()?;
        (list.as_array()?.len() == 3).then_some(())
    });
    assert!(stays_out.await.is_some());
    drop(refused);

    // The new one dies: its client list was learned, not given.
    drop(joined);
    writer.goes_on(FAILOVER_DEADLINE, "without the new member", &playground).await;
    let unknown = ctl(&pd, &["member", "remove", "nobody"]).expect_err("there is none");
    assert!(unknown.contains("no member is called nobody"), "{unknown}");

    let written = writer.stop().await?;
    let mut conn = playground.connect("test").await?;
    let found: Option<u64> = conn.query_first("SELECT COUNT(*) FROM steady").await?;
    assert_eq!(found, Some(written));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_playground_of_one_process_may_have_three_members() -> Result<(), HarnessError> {
    let mut playground = Playground::start(Layout::OneProcessMembers { pd_members: 3 }).await?;
    let mut conn = playground.connect("test").await?;
    conn.query_drop("CREATE TABLE t (a INT PRIMARY KEY)").await?;
    conn.query_drop("INSERT INTO t VALUES (1), (2)").await?;
    playground.restart().await?;
    let mut conn = playground.connect("test").await?;
    conn.query_drop("INSERT INTO t VALUES (3)").await?;
    let found: Option<u64> = conn.query_first("SELECT COUNT(*) FROM t").await?;
    assert_eq!(found, Some(3));
    Ok(())
}
