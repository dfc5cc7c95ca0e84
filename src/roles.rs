//! Starting one role and keeping it until it is told to stop.

use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cairn_kv::{OpenStore, StoreConfig};
use cairn_kv_client::{ClientConfig, GrpcConnector, KvClient};
use cairn_pd::{PdConfig, PdServer};
use cairn_pd_client::{GrpcPdClient, PdClient, PdError};
use cairn_sql::{SqlConfig, SqlServer};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::error::StartError;
use crate::options::{KvArgs, PdArgs, SqlArgs, endpoints, pairs};
use crate::signals::StopSignals;

/// How long a starting role waits for the placement driver and the first region.
const CLUSTER_TIMEOUT: Duration = Duration::from_secs(60);
/// Pause between tries.
const CLUSTER_RETRY: Duration = Duration::from_millis(100);
/// How long background commits may take when a node stops.
pub const CLIENT_STOP_TIMEOUT: Duration = Duration::from_secs(5);

fn default_addr(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn required(data_dir: Option<PathBuf>) -> Result<PathBuf, StartError> {
    data_dir.ok_or_else(|| StartError::Config("--data-dir is required".to_owned()))
}

/// Listens on an address.
pub async fn listen(addr: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(addr)
        .await
        .map_err(|error| StartError::io(format!("cannot listen on {addr}"), error))
}

fn local_addr(listener: &TcpListener) -> Result<SocketAddr, StartError> {
    listener.local_addr().map_err(|error| StartError::io("no local address", error))
}

/// The same socket once more, for whoever serves it first.
fn another_handle(listener: &TcpListener) -> Result<TcpListener, StartError> {
    let again = || {
        let owned = listener.as_fd().try_clone_to_owned()?;
        TcpListener::from_std(std::net::TcpListener::from(owned))
    };
    again().map_err(|error| StartError::io("cannot share the socket", error))
}

/// The placement driver, waiting until it answers.
pub async fn connect_pd(list: &str) -> Result<GrpcPdClient, StartError> {
    connect_pd_within(list, CLUSTER_TIMEOUT).await
}

/// As [`connect_pd`], with a patience of the caller's.
pub async fn connect_pd_within(list: &str, patience: Duration) -> Result<GrpcPdClient, StartError> {
    let endpoints = endpoints(list);
    let last = parking_lot::Mutex::new(String::new());
    let connect = async {
        loop {
            match GrpcPdClient::connect(&endpoints).await {
                Ok(client) => return Ok(client),
                Err(error @ (PdError::InvalidArgument(_) | PdError::ClusterMismatch(_))) => {
                    return Err(error.into());
                }
                Err(error) => {
                    tracing::debug!(%error, "the placement driver does not answer yet");
                    *last.lock() = error.to_string();
                }
            }
            tokio::time::sleep(CLUSTER_RETRY).await;
        }
    };
    let connected = tokio::time::timeout(patience, connect).await;
    connected.unwrap_or_else(|_| {
        let last = last.into_inner();
        Err(StartError::Config(format!("no placement driver at {list} leads ({last})")))
    })
}

/// Waits until some store has created the first region.
pub async fn wait_for_first_store(pd: &dyn PdClient) -> Result<(), StartError> {
    let wait = async {
        loop {
            match pd.is_bootstrapped().await {
                Ok(true) => return,
                // It had no cluster before, and has recovered one since.
                Err(PdError::ClusterMismatch(_)) => pd.forget_cluster(),
                Ok(false) | Err(_) => {}
            }
            tokio::time::sleep(CLUSTER_RETRY).await;
        }
    };
    tokio::time::timeout(CLUSTER_TIMEOUT, wait)
        .await
        .map_err(|_| StartError::Config("no store has joined the cluster".to_owned()))
}

/// Waits until every region has its replicas, so that a cluster that calls itself ready
/// survives the loss of a store from the first moment.
pub async fn wait_for_replicas(pd: &dyn PdClient, replicas: usize) -> Result<(), StartError> {
    /// A new cluster has one region; an old one is looked at from its start.
    const REGIONS_LOOKED_AT: u32 = 1_000;
    let is_voter = |peer: &&cairn_proto::meta::Peer| peer.role == 0;
    let wait = async {
        loop {
            if let Ok(routes) = pd.scan_regions(b"", b"", REGIONS_LOOKED_AT).await
                && !routes.is_empty()
                && routes.iter().all(|route| {
                    route.region.peers.iter().filter(is_voter).count() >= replicas
                        && route.pending_peers.is_empty()
                })
            {
                return;
            }
            tokio::time::sleep(CLUSTER_RETRY).await;
        }
    };
    if tokio::time::timeout(CLUSTER_TIMEOUT, wait).await.is_err() {
        tracing::warn!(replicas, "some region still lacks replicas");
    }
    Ok(())
}

/// Tells whoever started us that requests are served.
pub fn announce(line: &str) {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    // Nobody may be reading; that is no reason to stop.
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// `cairn pd`.
pub async fn run_pd(args: PdArgs) -> Result<(), StartError> {
    let mut signals = StopSignals::listen()?;
    let data_dir = required(args.data_dir)?;
    let listener = listen(args.addr.unwrap_or(default_addr(2379))).await?;
    let addr = local_addr(&listener)?;
    let name = args.name.unwrap_or_else(|| "pd-1".to_owned());
    let initial = args.initial_cluster.as_deref().unwrap_or_default();
    let initial_cluster = pairs("--initial-cluster", initial)?;
    // Behind an address like 0.0.0.0 a member is reached as the list says.
    let told = initial_cluster.iter().find(|(listed, _)| *listed == name);
    let reached_at = told.map_or_else(|| addr.to_string(), |(_, address)| address.clone());
    let config = PdConfig {
        max_replicas: args.max_replicas.unwrap_or(3),
        join: endpoints(args.join.as_deref().unwrap_or_default()),
        initial_cluster,
        ..PdConfig::new(name, data_dir, reached_at)
    };
    if !config.join.is_empty() && !config.initial_cluster.is_empty() {
        return Err(StartError::Config("--join and --initial-cluster exclude each other".into()));
    }
    if config.initial_cluster.len() > 1 && config.initial_cluster.len().is_multiple_of(2) {
        tracing::warn!(
            members = config.initial_cluster.len(),
            "an even number of members survives the loss of no more than one fewer would"
        );
    }
    let server = PdServer::open(config).await.map_err(|error| StartError::Pd(error.to_string()))?;
    let stop = CancellationToken::new();
    if let Some(status_addr) = args.status_addr {
        let listener = listen(status_addr).await?;
        let (server, stop) = (Arc::clone(&server), stop.clone());
        tokio::spawn(async move {
            if let Err(error) = server.serve_status(listener, stop.cancelled_owned()).await {
                tracing::warn!(%error, "the status port failed");
            }
        });
    }
    announce(&format!("ready pd {addr}"));
    let serving = server.serve_grpc(listener, stop.clone().cancelled_owned());
    tokio::pin!(serving);
    let outcome = tokio::select! {
        outcome = &mut serving => outcome,
        () = signals.wait() => {
            // While the others can still be heard.
            let resign = async {
                server.resign().await;
                stop.cancel();
            };
            let (outcome, ()) = tokio::join!(&mut serving, resign);
            outcome
        }
    };
    server.stop().await;
    if server.shared().status().removed {
        return Err(StartError::Pd(cairn_pd::OpenError::Removed.to_string()));
    }
    outcome.map_err(|error| StartError::Pd(error.to_string()))
}

/// `cairn kv`.
pub async fn run_kv(args: KvArgs) -> Result<(), StartError> {
    let mut signals = StopSignals::listen()?;
    let data_dir = required(args.data_dir)?;
    let listener = listen(args.addr.unwrap_or(default_addr(20160))).await?;
    let addr = local_addr(&listener)?;
    let mut config = StoreConfig::new(data_dir, addr.to_string());
    config.labels = pairs("--labels", args.labels.as_deref().unwrap_or_default())?;
    if let Some(keys) = args.region_split_keys {
        config.region_split_keys = keys;
    }
    if let Some(queries) = args.split_qps_threshold {
        config.load_split.queries_per_second = queries;
    }
    if let Some(bytes) = args.split_byte_threshold {
        config.load_split.bytes_per_second = bytes;
    }
    if let Some(bytes) = args.region_split_bytes {
        config.region_split_bytes = bytes;
    }
    if let Some(bytes) = args.block_cache_bytes {
        config.block_cache_bytes = bytes;
    }
    config.reserve_bytes = args.reserve_bytes;
    let status_listener = match args.status_addr {
        Some(addr) => Some(listen(addr).await?),
        None => None,
    };
    if let Some(listener) = &status_listener {
        config.status_addr = local_addr(listener)?.to_string();
    }
    let pd: Arc<dyn PdClient> =
        Arc::new(connect_pd(args.pd.as_deref().unwrap_or("127.0.0.1:2379")).await?);
    let opened = OpenStore::open(config).await?;
    let while_waiting = another_handle(&listener)?;
    tokio::select! {
        waited = opened.wait_for_cluster(&*pd, while_waiting) => waited?,
        () = signals.wait() => return Ok(()),
    }
    let node = opened.join(pd, None).await?;
    let stop = CancellationToken::new();
    if let Some(listener) = status_listener {
        let (node, stop) = (Arc::clone(&node), stop.clone());
        tokio::spawn(async move {
            if let Err(error) = node.serve_status(listener, stop).await {
                tracing::warn!(%error, "the status port failed");
            }
        });
    }
    announce(&format!("ready kv {addr} store {}", node.store_id()));
    let serving = node.serve_grpc(listener, stop.clone());
    tokio::pin!(serving);
    let leave = async {
        signals.wait().await;
        node.hand_over().await;
    };
    let outcome = tokio::select! {
        outcome = &mut serving => outcome,
        () = leave => {
            stop.cancel();
            serving.await
        }
    };
    node.stop().await;
    Ok(outcome?)
}

/// `cairn sql`.
pub async fn run_sql(args: SqlArgs) -> Result<(), StartError> {
    let mut signals = StopSignals::listen()?;
    let pd: Arc<dyn PdClient> =
        Arc::new(connect_pd(args.pd.as_deref().unwrap_or("127.0.0.1:2379")).await?);
    wait_for_first_store(&*pd).await?;
    let defaults = SqlConfig::default();
    let config = SqlConfig {
        addr: args.addr.unwrap_or(default_addr(4000)),
        status_addr: Some(args.status_addr.unwrap_or(default_addr(10080))),
        connections_max: args.max_connections.unwrap_or(defaults.connections_max),
        memory_limit_bytes: args.memory_limit_bytes.unwrap_or(defaults.memory_limit_bytes),
        tmp_storage_path: args.tmp_storage_path,
        slow_log_path: args.slow_log_path,
        tmp_storage_quota_bytes: args.tmp_storage_quota.unwrap_or(defaults.tmp_storage_quota_bytes),
        insecure: args.insecure.unwrap_or(false),
        gc_life_time: args.gc_life_time_s.map_or(defaults.gc_life_time, Duration::from_secs),
        gc_run_interval: args
            .gc_run_interval_s
            .map_or(defaults.gc_run_interval, Duration::from_secs),
        ..defaults
    };
    let labels = pairs("--labels", args.labels.as_deref().unwrap_or_default())?;
    let zone = labels.into_iter().find(|(key, _)| key == "zone").map(|(_, zone)| zone);
    let client = ClientConfig { zone: zone.unwrap_or_default(), ..ClientConfig::default() };
    let kv = KvClient::new(Arc::clone(&pd), Arc::new(GrpcConnector), client);
    let server = SqlServer::start(config, Arc::clone(&kv), pd).await?;
    announce(&format!("ready sql {}", server.local_addr));
    signals.wait().await;
    server.stop().await;
    kv.shutdown(CLIENT_STOP_TIMEOUT).await;
    Ok(())
}
