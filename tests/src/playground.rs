//! A whole cluster on this machine, with its data in a temporary folder. `CAIRN_TEST_LOG` sets
//! how much it logs.

use std::net::SocketAddr;
use std::time::Duration;

use mysql_async::Conn;
use mysql_async::prelude::Queryable;

use crate::node::{Node, Served, cairn_binary, tail};
use crate::{HarnessError, client, eventually};

/// How long a fresh cluster may take until it answers its first statement.
const FIRST_ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a fresh cluster may take until everything has all of its replicas.
const REPLICATED_TIMEOUT: Duration = Duration::from_secs(30);

/// What runs where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Everything in one process.
    OneProcess,
    /// Everything in one process, with several members of the placement driver.
    OneProcessMembers {
        /// How many members.
        pd_members: usize,
    },
    /// Every node a process of its own; three or more stores keep three replicas.
    Processes {
        /// How many stores.
        stores: usize,
    },
    /// As [`Layout::Processes`], with several members of the placement driver.
    Cluster {
        /// How many stores.
        stores: usize,
        /// How many members.
        pd_members: usize,
    },
}

/// A running playground; dropping it kills all of its processes.
#[derive(Debug)]
pub struct Playground {
    layout: Layout,
    main: Option<Served>,
    /// The nodes of [`Layout::Processes`], in the order placement driver, stores, SQL.
    pub nodes: Vec<Node>,
    /// One more SQL node than the playground starts.
    second_sql: Option<Served>,
    port: u16,
    generation: u32,
    /// Further options of `cairn playground`.
    options: Vec<String>,
    dir: tempfile::TempDir,
}

impl Playground {
    /// Starts a cluster on free ports and waits until it answers.
    pub async fn start(layout: Layout) -> Result<Self, HarnessError> {
        Self::start_with(layout, &[]).await
    }

    /// As [`Playground::start`], with further options of `cairn playground`.
    pub async fn start_with(layout: Layout, options: &[&str]) -> Result<Self, HarnessError> {
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        let dir = tempfile::Builder::new()
            .prefix("cairn-test-")
            .tempdir()
            .map_err(|error| HarnessError::io("create a temporary folder", error))?;
        let mut playground = Self {
            layout,
            main: None,
            nodes: Vec::new(),
            second_sql: None,
            port: 0,
            generation: 0,
            options,
            dir,
        };
        playground.run().await?;
        Ok(playground)
    }

    /// Starts the processes on the folder as it is.
    async fn run(&mut self) -> Result<(), HarnessError> {
        let data_dir = self.dir.path().join("data").display().to_string();
        let log_level = std::env::var("CAIRN_TEST_LOG").unwrap_or_else(|_| "warn".to_owned());
        let mut args = vec!["--log-level".to_owned(), log_level];
        args.extend(["playground", "--port", "0", "--status-port", "0"].map(str::to_owned));
        args.extend(["--data-dir".to_owned(), data_dir]);
        args.extend(self.options.iter().cloned());
        let (stores, pd_members) = match self.layout {
            Layout::OneProcess => (None, 1),
            Layout::OneProcessMembers { pd_members } => (None, pd_members),
            Layout::Processes { stores } => (Some(stores), 1),
            Layout::Cluster { stores, pd_members } => (Some(stores), pd_members),
        };
        args.extend(["--pd".to_owned(), pd_members.to_string()]);
        if let Some(stores) = stores {
            args.extend(["--kv".to_owned(), stores.to_string()]);
            args.extend(["--processes", "--pd-port", "0", "--kv-port", "0"].map(str::to_owned));
        }
        self.generation += 1;
        let log = self.dir.path().join(format!("playground-{}", self.generation));
        let main = Served::start(&args, &log).await?;
        self.port = port_after_flag(&main.ready).ok_or_else(|| HarnessError::NotReady {
            what: "the playground".to_owned(),
            log: main.ready.join(" "),
        })?;
        self.nodes = match stores {
            None => Vec::new(),
            Some(_) => Node::children_of(main.pid()),
        };
        self.main = Some(main);
        self.wait_until_it_answers(FIRST_ANSWER_TIMEOUT).await
    }

    /// Waits until a connection is made and a statement answered.
    pub async fn wait_until_it_answers(&self, deadline: Duration) -> Result<(), HarnessError> {
        let answer = eventually(deadline, || async {
            let mut conn = self.connect("").await.ok()?;
            let one: Option<u8> = conn.query_first("SELECT 1").await.ok()?;
            one
        });
        answer.await.map(drop).ok_or_else(|| HarnessError::NotReady {
            what: "the playground".to_owned(),
            log: self.log(),
        })
    }

    /// Waits until every region has a healthy peer on as many stores as `replicas`.
    pub async fn wait_until_replicated(&self, replicas: usize) -> Result<(), HarnessError> {
        let pd = self.pd().unwrap_or_default();
        let replicated = eventually(REPLICATED_TIMEOUT, || async {
            let output = std::process::Command::new(cairn_binary())
                .args(["ctl", "--json", "--pd", &pd, "region"])
                .output()
                .ok()?;
            let regions: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
            let regions = regions.as_array()?;
            let count =
                |region: &serde_json::Value, key: &str| region[key].as_array().map(Vec::len);
            let healthy = |region: &serde_json::Value| {
                count(region, "peers") == Some(replicas)
                    && count(region, "pending") == Some(0)
                    && count(region, "down") == Some(0)
                    // A learner does not vote yet, so that losing another store stops writes.
                    && !region["peers"].to_string().contains("learner")
            };
            (!regions.is_empty() && regions.iter().all(healthy)).then_some(())
        });
        replicated.await.ok_or_else(|| HarnessError::NotReady {
            what: format!("the cluster with {replicas} replicas of everything"),
            log: self.log(),
        })
    }

    /// Addresses of the placement driver, as `cairn ctl --pd` takes them.
    pub fn pd(&self) -> Option<String> {
        self.main.as_ref()?.ready.last().cloned()
    }

    /// A file or folder beside the cluster's data, which goes with it.
    pub fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    /// The end of the log of the latest start.
    pub fn log(&self) -> String {
        tail(&self.dir.path().join(format!("playground-{}.err", self.generation)))
    }

    /// The first process, which holds everything in [`Layout::OneProcess`].
    pub fn pid(&self) -> Option<u32> {
        self.main.as_ref().map(Served::pid)
    }

    /// The port of the first SQL node.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Connects as root to `database`, or to none when that is empty.
    pub async fn connect(&self, database: &str) -> Result<Conn, HarnessError> {
        Ok(connect(self.port, database).await?)
    }

    /// Starts one more SQL node of a cluster of processes; answers its port.
    pub async fn start_sql_node(&mut self) -> Result<u16, HarnessError> {
        self.start_sql_node_with(&[]).await
    }

    /// As [`Playground::start_sql_node`], with further options of `cairn sql`.
    pub async fn start_sql_node_with(&mut self, options: &[&str]) -> Result<u16, HarnessError> {
        let pd = self.pd().unwrap_or_default();
        let slow_log = self.dir.path().join("sql-second-slow.log").display().to_string();
        let addresses = ["--addr", "127.0.0.1:0", "--status-addr", "127.0.0.1:0"];
        let args =
            [&["sql"], &addresses[..], &["--pd", &pd, "--slow-log-path", &slow_log]].concat();
        let args: Vec<String> = args.iter().chain(options).map(|arg| (*arg).to_owned()).collect();
        let served = Served::start(&args, &self.dir.path().join("sql-second")).await?;
        let address = served.ready.get(2).and_then(|address| address.parse::<SocketAddr>().ok());
        self.second_sql = Some(served);
        address.map(|address| address.port()).ok_or_else(|| HarnessError::NotReady {
            what: "a second SQL node".to_owned(),
            log: self.log(),
        })
    }

    /// Kills the node of [`Playground::start_sql_node`].
    pub fn kill_second_sql_node(&mut self) {
        self.second_sql = None;
    }

    /// Kills everything at once, as a power failure would.
    pub fn kill(&mut self) {
        self.second_sql = None;
        self.main = None;
        for node in &mut self.nodes {
            node.kill();
        }
    }

    /// Starts a killed playground of one process on the data it left.
    pub async fn restart(&mut self) -> Result<(), HarnessError> {
        self.kill();
        self.run().await
    }

    /// Starts one killed node again with the arguments it had; follows a SQL node to its port.
    pub async fn restart_node(&mut self, at: usize) -> Result<(), HarnessError> {
        self.generation += 1;
        let node = &mut self.nodes[at];
        let log = self.dir.path().join(format!("{}-{}", node.role, self.generation));
        node.restart(&log).await?;
        if node.role == "sql" {
            let address = node.ready().and_then(|words| words.get(2));
            let port = address.and_then(|address| address.rsplit_once(':')?.1.parse().ok());
            self.port = port.ok_or_else(|| HarnessError::NotReady {
                what: "the SQL node".to_owned(),
                log: format!("{:?}", node.ready()),
            })?;
        }
        Ok(())
    }
}

impl Drop for Playground {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            // Whoever looks for the cause wants the data and the logs.
            self.dir.disable_cleanup(true);
            eprintln!("the cluster's folder stays: {}", self.dir.path().display());
        }
    }
}

/// Connects as root to the server on `port` of this machine.
pub async fn connect(port: u16, database: &str) -> Result<Conn, mysql_async::Error> {
    client::connect(SocketAddr::from(([127, 0, 0, 1], port)), database).await
}

/// The number after `-P` in `ready mysql -h … -P … -u root`.
fn port_after_flag(words: &[String]) -> Option<u16> {
    let at = words.iter().position(|word| word == "-P")?;
    words.get(at + 1)?.parse().ok()
}
