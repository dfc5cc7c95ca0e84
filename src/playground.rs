//! A whole cluster in one process: direct calls between the tiers instead of gRPC.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cairn_kv::{LocalNetwork, StoreConfig, StoreNode};
use cairn_kv_client::{ClientConfig, KvClient, LocalConnector};
use cairn_pd::replication::LocalNetwork as PdNetwork;
use cairn_pd::{LocalPdClient, PdConfig, PdParts, PdServer};
use cairn_pd_client::PdClient;
use cairn_sql::{SqlConfig, SqlServer};
use tempfile::TempDir;

use crate::error::StartError;
use crate::options::{Counts, PlaygroundArgs};
use crate::roles::{CLIENT_STOP_TIMEOUT, announce, wait_for_replicas};
use crate::signals::StopSignals;

/// Block cache of all stores together: a playground shares its machine.
const BLOCK_CACHE_BYTES: usize = 256 << 20;
/// Memtables of all stores together.
const MEMTABLE_BYTES: usize = 128 << 20;
/// Disk space that each store keeps free for deletions: little, where data is little.
pub const RESERVE_BYTES: u64 = 64 << 20;

/// The folder of a playground's data, removed at the end when it is temporary.
pub enum DataDir {
    /// Given by the user: stays.
    Kept(PathBuf),
    /// Made for this run.
    Temporary(TempDir),
}

impl DataDir {
    /// The folder the user named, or a temporary one.
    pub fn open(given: Option<PathBuf>) -> Result<Self, StartError> {
        match given {
            Some(path) => {
                std::fs::create_dir_all(&path).map_err(|error| {
                    StartError::io(format!("cannot make {}", path.display()), error)
                })?;
                Ok(DataDir::Kept(path))
            }
            None => {
                let folder = tempfile::Builder::new().prefix("cairn-").tempdir();
                folder
                    .map(DataDir::Temporary)
                    .map_err(|error| StartError::io("cannot make a temporary folder", error))
            }
        }
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        match self {
            DataDir::Kept(path) => path,
            DataDir::Temporary(folder) => folder.path(),
        }
    }

    /// Refuses another number of placement drivers than the data was made with: new ones
    /// would take themselves for a cluster of their own.
    pub fn check_pd_members(&self, count: usize) -> Result<(), StartError> {
        /// As many as anybody runs.
        const MEMBERS_MAX: usize = 7;
        let there = (0..MEMBERS_MAX).filter(|n| self.of(&pd_folder(*n)).exists()).count();
        if there == 0 || there == count {
            return Ok(());
        }
        Err(StartError::Config(format!(
            "--pd {count}: the data in {} is of {there}; start with --pd {there} --processes and \
             add members by cairn pd --join",
            self.path().display()
        )))
    }

    /// The folder of one node.
    pub fn of(&self, node: &str) -> PathBuf {
        self.path().join(node)
    }
}

/// Name of the n-th member of the placement driver.
pub fn pd_name(n: usize) -> String {
    format!("pd-{}", n + 1)
}

/// The slow log of the n-th SQL node.
pub fn slow_log_name(n: usize) -> String {
    format!("sql-{}-slow.log", n + 1)
}

/// Folder of the n-th member. The first one's is that of a time with one member.
pub fn pd_folder(n: usize) -> String {
    if n == 0 { "pd".to_owned() } else { pd_name(n) }
}

/// How a client reaches a node that listens on `addr`.
pub fn client_command(addr: SocketAddr) -> String {
    let ip = if addr.ip().is_unspecified() { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { addr.ip() };
    format!("mysql -h {ip} -P {} -u root", addr.port())
}

/// The address of the n-th node of a role; port 0 stays 0.
pub fn nth_addr(host: IpAddr, first_port: u16, n: usize) -> SocketAddr {
    let port = if first_port == 0 { 0 } else { first_port.saturating_add(n as u16) };
    SocketAddr::new(host, port)
}

/// `cairn playground` in one process.
pub async fn run(args: PlaygroundArgs) -> Result<(), StartError> {
    let mut signals = StopSignals::listen()?;
    let Counts { stores, sql_nodes, pd_members } = args.counts()?;
    let data = DataDir::open(args.data_dir.clone())?;
    let replicas = if stores >= 3 { 3 } else { 1 };
    let members = open_pd_members(&data, pd_members, replicas).await?;
    let pd_client: Arc<dyn PdClient> = Arc::new(LocalPdClient::new(members.clone()));
    let network = LocalNetwork::new();
    let connector = LocalConnector::new();
    let mut nodes = Vec::with_capacity(stores);
    for n in 0..stores {
        let mut config =
            StoreConfig::new(data.of(&format!("kv-{}", n + 1)), format!("local-{}", n + 1));
        config.block_cache_bytes = args.block_cache_bytes.unwrap_or(BLOCK_CACHE_BYTES / stores);
        config.memtable_bytes = MEMTABLE_BYTES / stores;
        config.reserve_bytes = Some(RESERVE_BYTES);
        if let Some(bytes) = args.region_split_bytes {
            config.region_split_bytes = bytes;
        }
        let node =
            StoreNode::start(config, Arc::clone(&pd_client), Some(Arc::clone(&network))).await?;
        connector.register(node.store_id(), node.service());
        nodes.push(node);
    }
    let kv = KvClient::new(Arc::clone(&pd_client), Arc::new(connector), ClientConfig::default());
    let host = args.host.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let mut servers = Vec::with_capacity(sql_nodes);
    let defaults = SqlConfig::default();
    for n in 0..sql_nodes {
        let config = SqlConfig {
            addr: nth_addr(host, args.port.unwrap_or(4000), n),
            status_addr: Some(nth_addr(host, args.status_port.unwrap_or(10080), n)),
            tmp_storage_path: args.tmp_storage_path.clone(),
            slow_log_path: Some(data.of(&slow_log_name(n))),
            tmp_storage_quota_bytes: args
                .tmp_storage_quota
                .unwrap_or(defaults.tmp_storage_quota_bytes),
            insecure: args.insecure.unwrap_or(false),
            gc_life_time: args.gc_life_time_s.map_or(defaults.gc_life_time, Duration::from_secs),
            gc_run_interval: args
                .gc_run_interval_s
                .map_or(defaults.gc_run_interval, Duration::from_secs),
            ..defaults.clone()
        };
        servers.push(SqlServer::start(config, Arc::clone(&kv), Arc::clone(&pd_client)).await?);
    }
    let first = servers[0].local_addr;
    wait_for_replicas(&*pd_client, replicas).await?;
    tracing::info!("root has no password and is let in from this machine only");
    announce(&format!("ready {}", client_command(first)));
    signals.wait().await;
    for server in servers {
        server.stop().await;
    }
    kv.shutdown(CLIENT_STOP_TIMEOUT).await;
    for node in nodes {
        node.stop().await;
    }
    for member in members {
        member.stop().await;
    }
    Ok(())
}

/// Opens the members of the placement driver; messages between them stay in the process.
async fn open_pd_members(
    data: &DataDir,
    count: usize,
    replicas: usize,
) -> Result<Vec<Arc<PdServer>>, StartError> {
    let failed = |error: cairn_pd::OpenError| StartError::Pd(error.to_string());
    data.check_pd_members(count)?;
    let names: Vec<String> = (0..count).map(pd_name).collect();
    let initial_cluster: Vec<(String, String)> = match count {
        // As it was before there were several.
        1 => Vec::new(),
        _ => names.iter().map(|name| (name.clone(), format!("local-{name}"))).collect(),
    };
    let network = PdNetwork::new();
    let mut members = Vec::with_capacity(count);
    for (n, name) in names.into_iter().enumerate() {
        let address = if count == 1 { "local".to_owned() } else { format!("local-{name}") };
        let config = PdConfig {
            max_replicas: replicas,
            initial_cluster: initial_cluster.clone(),
            ..PdConfig::new(name, data.of(&pd_folder(n)), address)
        };
        let parts = PdParts::on_disk(&config, network.clone()).map_err(failed)?;
        members.push(PdServer::open_with(config, parts).await.map_err(failed)?);
    }
    Ok(members)
}
