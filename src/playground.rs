//! A whole cluster in one process: direct calls between the tiers instead of gRPC.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cairn_kv::{LocalNetwork, StoreConfig, StoreNode};
use cairn_kv_client::{ClientConfig, KvClient, LocalConnector};
use cairn_pd::{PdConfig, PdServer};
use cairn_sql::{SqlConfig, SqlServer};
use tempfile::TempDir;

use crate::error::StartError;
use crate::options::PlaygroundArgs;
use crate::roles::{CLIENT_STOP_TIMEOUT, announce, wait_for_replicas};
use crate::signals::StopSignals;

/// Block cache of all stores together: a playground shares its machine.
const BLOCK_CACHE_BYTES: usize = 256 << 20;
/// Memtables of all stores together.
const MEMTABLE_BYTES: usize = 128 << 20;

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

    /// The folder of one node.
    pub fn of(&self, node: &str) -> PathBuf {
        self.path().join(node)
    }
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
    let (stores, sql_nodes) = args.counts()?;
    let data = DataDir::open(args.data_dir.clone())?;
    let replicas = if stores >= 3 { 3 } else { 1 };
    let pd_config =
        PdConfig { max_replicas: replicas, ..PdConfig::new("pd-1", data.of("pd"), "local") };
    let pd = PdServer::open(pd_config).await.map_err(|error| StartError::Pd(error.to_string()))?;
    let pd_client = pd.local_client();
    let network = LocalNetwork::new();
    let connector = LocalConnector::new();
    let mut nodes = Vec::with_capacity(stores);
    for n in 0..stores {
        let mut config =
            StoreConfig::new(data.of(&format!("kv-{}", n + 1)), format!("local-{}", n + 1));
        config.block_cache_bytes = args.block_cache_bytes.unwrap_or(BLOCK_CACHE_BYTES / stores);
        config.memtable_bytes = MEMTABLE_BYTES / stores;
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
    for n in 0..sql_nodes {
        let config = SqlConfig {
            addr: nth_addr(host, args.port.unwrap_or(4000), n),
            status_addr: Some(nth_addr(host, args.status_port.unwrap_or(10080), n)),
            insecure: args.insecure.unwrap_or(false),
            ..SqlConfig::default()
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
    pd.stop().await;
    Ok(())
}
