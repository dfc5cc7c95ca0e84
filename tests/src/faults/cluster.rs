//! A cluster whose nodes run on hosts of their own.

mod watch;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::future::try_join_all;

use super::hosts::{Host, TESTS_ADDRESS};
use super::proxy::Proxy;
use super::shim::{self, Knobs};
use crate::node::{Served, cairn_binary, tail};
use crate::{HarnessError, Servers, tool};

/// The ports of the field.
const PD_PORT: u16 = 2379;
const KV_PORT: u16 = 20160;
const SQL_PORT: u16 = 4000;
const SQL_STATUS_PORT: u16 = 10080;
/// Numbers of the first host of each role in the network.
const PD_HOSTS: u8 = 10;
const KV_HOSTS: u8 = 20;
const SQL_HOSTS: u8 = 30;

/// What a node does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A placement driver.
    Pd,
    /// A store.
    Kv,
    /// A SQL node.
    Sql,
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Role::Pd => "pd",
            Role::Kv => "kv",
            Role::Sql => "sql",
        }
    }

    fn address(self, number: u8) -> SocketAddr {
        let (hosts, port) = match self {
            Role::Pd => (PD_HOSTS, PD_PORT),
            Role::Kv => (KV_HOSTS, KV_PORT),
            Role::Sql => (SQL_HOSTS, SQL_PORT),
        };
        SocketAddr::from(([10, 83, 0, hosts + number], port))
    }
}

/// What a cluster consists of.
#[derive(Clone, Debug)]
pub struct Layout {
    /// Placement drivers.
    pub pds: u8,
    /// Stores.
    pub stores: u8,
    /// SQL nodes.
    pub sqls: u8,
    /// Size of each store's disk, which then is one of its own.
    pub disk_bytes: Option<u64>,
    /// More options of each store.
    pub kv_options: Vec<String>,
    /// More options of each SQL node.
    pub sql_options: Vec<String>,
}

impl Default for Layout {
    /// One placement driver, three stores, two SQL nodes.
    fn default() -> Self {
        Self {
            pds: 1,
            stores: 3,
            sqls: 2,
            disk_bytes: None,
            kv_options: Vec::new(),
            sql_options: Vec::new(),
        }
    }
}

impl Layout {
    /// Three placement drivers where the binary can run several.
    pub fn with_pd_members() -> Self {
        let binary = cairn_binary().display().to_string();
        let help = tool(&binary, &["pd", "--help"], "").unwrap_or_default();
        let pds = if help.contains("--initial-cluster") { 3 } else { 1 };
        Self { pds, ..Self::default() }
    }
}

/// One node on its host.
#[derive(Debug)]
pub struct Node {
    /// What it does.
    pub role: Role,
    /// Its name, and its host's.
    pub host: Host,
    /// Where it listens.
    pub address: SocketAddr,
    /// Its data.
    pub data_dir: PathBuf,
    /// Its disk and its clock.
    pub knobs: Knobs,
    args: Vec<String>,
    served: Option<Served>,
    starts: u32,
    store_id: Option<u64>,
}

impl Node {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.host.name
    }

    /// Sends its process a signal by name.
    pub fn signal(&self, name: &str) -> Result<(), HarnessError> {
        self.served.as_ref().map_or(Ok(()), |served| served.signal(name))
    }

    /// Kills the process without letting it say goodbye.
    pub fn kill(&mut self) {
        self.served = None;
    }

    /// Whether it was started and has not ended.
    pub fn runs(&mut self) -> bool {
        self.served.as_mut().is_some_and(|served| !served.has_ended())
    }
}

/// The ways to and from a node, through proxies.
#[derive(Debug)]
pub struct Link(Vec<Proxy>);

impl Link {
    /// Everything arrives this much later.
    pub fn delay(&self, by: Duration) {
        self.0.iter().for_each(|proxy| proxy.delay(by));
    }

    /// At most so many bytes per second on each connection; 0: no limit.
    pub fn limit(&self, bytes_per_s: u64) {
        self.0.iter().for_each(|proxy| proxy.limit(bytes_per_s));
    }
}

/// The nodes, with their folder. Dropping it kills them.
#[derive(Debug)]
pub struct Cluster {
    /// Every node, in the order placement drivers, stores, SQL nodes.
    pub nodes: Vec<Node>,
    layout: Layout,
    folder: PathBuf,
    shim: PathBuf,
    pd_list: String,
}

impl Cluster {
    /// Makes hosts, starts a node on each, and waits until everything has its replicas.
    pub async fn start(folder: &Path, layout: Layout) -> Result<Self, HarnessError> {
        let folder = folder.to_owned();
        let shim = shim::compile(&folder)?;
        let pd_addresses: Vec<String> =
            (1..=layout.pds).map(|number| Role::Pd.address(number).to_string()).collect();
        let mut cluster =
            Self { nodes: Vec::new(), layout, folder, shim, pd_list: pd_addresses.join(",") };
        let Layout { pds, stores, sqls, .. } = cluster.layout;
        for (role, count) in [(Role::Pd, pds), (Role::Kv, stores), (Role::Sql, sqls)] {
            let first = cluster.nodes.len();
            for number in 1..=count {
                cluster.add(role, number)?;
            }
            let (folder, shim) = (&cluster.folder, &cluster.shim);
            let starting = cluster.nodes[first..].iter_mut();
            try_join_all(starting.map(|node| start(node, folder, shim))).await?;
        }
        cluster.wait_until_replicated(3.min(usize::from(stores))).await?;
        Ok(cluster)
    }

    /// Makes one more host with the options of its node, which is not started.
    fn add(&mut self, role: Role, number: u8) -> Result<(), HarnessError> {
        let name = format!("{}-{number}", role.name());
        let address = role.address(number);
        let SocketAddr::V4(v4) = address else { unreachable!("made of four numbers") };
        let host = Host::make(&name, v4.ip().octets()[3])?;
        let data_dir = self.folder.join(&name);
        let made = std::fs::create_dir_all(&data_dir);
        made.map_err(|error| HarnessError::io(format!("make {}", data_dir.display()), error))?;
        if let (Role::Kv, Some(bytes)) = (role, self.layout.disk_bytes) {
            let size = format!("size={bytes}");
            let place = data_dir.display().to_string();
            tool("mount", &["-t", "tmpfs", "-o", &size, "tmpfs", &place], "")?;
        }
        let args = self.arguments(role, number, &data_dir);
        let knobs = Knobs::make(self.folder.join(format!("{name}.knobs")))?;
        let (served, store_id) = (None, None);
        self.nodes.push(Node {
            role,
            host,
            address,
            data_dir,
            knobs,
            args,
            served,
            starts: 0,
            store_id,
        });
        Ok(())
    }

    fn arguments(&self, role: Role, number: u8, data_dir: &Path) -> Vec<String> {
        let address = role.address(number);
        let level = std::env::var("CAIRN_TEST_LOG").unwrap_or_else(|_| "warn".to_owned());
        let mut args = vec!["--log-level".to_owned(), level, role.name().to_owned()];
        let mut option = |name: &str, value: String| args.extend([name.to_owned(), value]);
        option("--addr", address.to_string());
        match role {
            Role::Pd => {
                option("--name", format!("pd-{number}"));
                option("--data-dir", data_dir.display().to_string());
                if self.layout.pds > 1 {
                    let member = |number| format!("pd-{number}={}", Role::Pd.address(number));
                    let members: Vec<String> = (1..=self.layout.pds).map(member).collect();
                    option("--initial-cluster", members.join(","));
                }
            }
            Role::Kv => {
                option("--data-dir", data_dir.display().to_string());
                option("--pd", self.pd_list.clone());
                if self.layout.disk_bytes.is_none() {
                    // All share one disk.
                    option("--reserve-bytes", (64 << 20).to_string());
                }
                args.extend(self.layout.kv_options.iter().cloned());
            }
            Role::Sql => {
                let status = SocketAddr::new(address.ip(), SQL_STATUS_PORT);
                option("--status-addr", status.to_string());
                option("--pd", self.pd_list.clone());
                // The tests' accounts have no password, and come from another host.
                args.push("--insecure".to_owned());
                args.extend(self.layout.sql_options.iter().cloned());
            }
        }
        args
    }

    /// Adds a store and starts it.
    pub async fn add_store(&mut self) -> Result<String, HarnessError> {
        self.layout.stores += 1;
        self.add(Role::Kv, self.layout.stores)?;
        let name = format!("kv-{}", self.layout.stores);
        self.start_node(&name).await?;
        Ok(name)
    }

    /// The node of this name.
    pub fn node(&mut self, name: &str) -> &mut Node {
        let node = self.nodes.iter_mut().find(|node| node.host.name == name);
        node.unwrap_or_else(|| panic!("no node is called {name}"))
    }

    /// Names of the nodes of a role.
    pub fn names(&self, role: Role) -> Vec<String> {
        self.nodes
            .iter()
            .filter(|node| node.role == role)
            .map(|node| node.name().to_owned())
            .collect()
    }

    /// Stores other than the one that leads.
    pub fn followers_of(&self, leader: &str) -> Vec<String> {
        let mut names = self.names(Role::Kv);
        names.retain(|name| name != leader);
        names
    }

    /// Leads every connection to a store, and every one it makes itself, through proxies, by
    /// starting it again. Answers the knob of both ways.
    pub async fn lead_through_proxies(&mut self, name: &str) -> Result<Link, HarnessError> {
        let store = self.node(name).address;
        let to_store = Proxy::start(TESTS_ADDRESS, store).await?;
        let mut proxies = vec![];
        for node in self.nodes.iter().filter(|node| node.name() != name) {
            node.host.detour(store, to_store.port)?;
        }
        proxies.push(to_store);
        let others: Vec<SocketAddr> = self
            .nodes
            .iter()
            .filter(|node| node.name() != name && node.role != Role::Sql)
            .map(|node| node.address)
            .collect();
        for other in others {
            let proxy = Proxy::start(TESTS_ADDRESS, other).await?;
            self.node(name).host.detour(other, proxy.port)?;
            proxies.push(proxy);
        }
        self.node(name).kill();
        self.start_node(name).await?;
        self.wait_until_replicated(3).await?;
        Ok(Link(proxies))
    }

    /// Starts a killed node on the data it left.
    pub async fn start_node(&mut self, name: &str) -> Result<(), HarnessError> {
        let at = self.nodes.iter().position(|node| node.name() == name).expect("a known name");
        start(&mut self.nodes[at], &self.folder, &self.shim).await
    }

    /// Starts every node that was killed: placement drivers, then stores, then SQL nodes.
    pub async fn start_all(&mut self) -> Result<(), HarnessError> {
        for role in [Role::Pd, Role::Kv, Role::Sql] {
            let (folder, shim) = (&self.folder, &self.shim);
            let dead = self.nodes.iter_mut().filter(|node| node.role == role);
            let dead = dead.filter(|node| node.served.is_none());
            try_join_all(dead.map(|node| start(node, folder, shim))).await?;
        }
        Ok(())
    }

    /// Kills every process at once.
    pub fn kill_all(&mut self) {
        for node in &self.nodes {
            // All of them first: reaping takes time.
            let _ = node.signal("KILL");
        }
        self.nodes.iter_mut().for_each(Node::kill);
    }

    /// All SQL nodes.
    pub fn servers(&self) -> Servers {
        let sqls = self.nodes.iter().filter(|node| node.role == Role::Sql);
        Servers::new(sqls.map(|node| node.address).collect())
    }

    /// One SQL node.
    pub fn server(&mut self, name: &str) -> Servers {
        Servers::new(vec![self.node(name).address])
    }

    fn addresses(&self, names: &[String]) -> Vec<Ipv4Addr> {
        let nodes = self.nodes.iter().filter(|node| names.iter().any(|name| name == node.name()));
        nodes.map(|node| node.host.address).collect()
    }

    /// Nodes that are not among these.
    pub fn others(&self, names: &[String]) -> Vec<String> {
        let nodes = self.nodes.iter().map(|node| node.name().to_owned());
        nodes.filter(|name| !names.contains(name)).collect()
    }

    /// Loses every packet from some nodes to others.
    pub fn cut_one_way(&mut self, from: &[String], to: &[String]) -> Result<(), HarnessError> {
        let addresses = self.addresses(from);
        to.iter().try_for_each(|name| self.node(name).host.be_deaf_to(&addresses))
    }

    /// Loses every packet between nodes on one side and those on the other.
    pub fn cut(&mut self, one: &[String], other: &[String]) -> Result<(), HarnessError> {
        self.cut_one_way(one, other)?;
        self.cut_one_way(other, one)
    }

    /// Carries every packet again.
    pub fn heal(&self) -> Result<(), HarnessError> {
        self.nodes.iter().try_for_each(|node| node.host.hear_all())
    }

    /// The store's id in the cluster.
    pub fn store_id(&mut self, name: &str) -> u64 {
        self.node(name).store_id.unwrap_or_default()
    }

    /// The end of a node's log.
    pub fn log(&mut self, name: &str) -> String {
        let starts = self.node(name).starts;
        tail(&self.folder.join(format!("{name}-{starts}.err")))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.kill_all();
        if self.layout.disk_bytes.is_some() {
            for node in self.nodes.iter().filter(|node| node.role == Role::Kv) {
                // What cannot be removed now goes with the namespace.
                let _ = tool("umount", &[&node.data_dir.display().to_string()], "");
            }
        }
    }
}

/// Starts the node's process and waits until it serves.
async fn start(node: &mut Node, folder: &Path, shim: &Path) -> Result<(), HarnessError> {
    node.kill();
    node.starts += 1;
    let mut command = node.host.command(&cairn_binary());
    command.args(&node.args);
    node.knobs.attach(shim, &mut command);
    let log = folder.join(format!("{}-{}", node.name(), node.starts));
    let served = Served::start_command(command, node.name().to_owned(), &log).await?;
    // `ready kv ADDRESS store ID`
    if node.role == Role::Kv {
        node.store_id = served.ready.get(4).and_then(|word| word.parse().ok());
    }
    node.served = Some(served);
    Ok(())
}
