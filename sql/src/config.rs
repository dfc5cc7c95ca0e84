//! Settings of a SQL node.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// How a SQL node is set up. Every field has a default that suits a playground.
#[derive(Clone, Debug)]
pub struct SqlConfig {
    /// Where MySQL clients connect.
    pub addr: SocketAddr,
    /// Where `/metrics`, `/status` and `/health` are served; none when absent.
    pub status_addr: Option<SocketAddr>,
    /// What `SELECT VERSION()` says.
    pub server_version: String,
    /// Most connections at a time.
    pub connections_max: usize,
    /// Largest packet of a client that has logged in.
    pub max_allowed_packet_bytes: usize,
    /// Default of `tidb_server_memory_limit`; 0: the built-in one.
    pub memory_limit_bytes: u64,
    /// Where temporary files are; the system's folder for them when absent.
    pub tmp_storage_path: Option<PathBuf>,
    /// Temporary files of all statements together; 0: no limit.
    pub tmp_storage_quota_bytes: u64,
    /// The file of the slow log; one in the folder of temporary files when absent.
    pub slow_log_path: Option<PathBuf>,
    /// Plans kept in the shared cache.
    pub plan_cache_entries: usize,
    /// Let accounts without a password in from beyond loopback.
    pub insecure: bool,
    /// How often the node looks for statistics that others gathered and for tables to analyze; it tells
    /// how many rows its commits changed every seven times.
    pub statistics_lease: Duration,
    /// Default of `tidb_gc_life_time`, also below what SET takes: for tests.
    pub gc_life_time: Duration,
    /// Default of `tidb_gc_run_interval`, also below what SET takes: for tests.
    pub gc_run_interval: Duration,
}

/// The version Cairn calls itself: clients look at the leading numbers to choose syntax.
pub const SERVER_VERSION: &str = concat!("8.0.36-Cairn-v", env!("CARGO_PKG_VERSION"));

impl Default for SqlConfig {
    fn default() -> Self {
        Self {
            addr: SocketAddr::from(([127, 0, 0, 1], 4000)),
            status_addr: None,
            server_version: SERVER_VERSION.to_owned(),
            connections_max: 1_000,
            max_allowed_packet_bytes: 64 << 20,
            memory_limit_bytes: 0,
            tmp_storage_path: None,
            tmp_storage_quota_bytes: 0,
            slow_log_path: None,
            plan_cache_entries: 10_000,
            insecure: false,
            statistics_lease: Duration::from_secs(3),
            gc_life_time: Duration::from_secs(600),
            gc_run_interval: Duration::from_secs(600),
        }
    }
}

impl SqlConfig {
    /// Where temporary files are.
    pub fn tmp_folder(&self) -> PathBuf {
        self.tmp_storage_path.clone().unwrap_or_else(std::env::temp_dir)
    }

    /// The file of the slow log.
    pub fn slow_log_file(&self) -> PathBuf {
        let in_folder = || {
            // Of nodes that take any free port each has a file of its own.
            let port = self.addr.port();
            let number = if port == 0 { std::process::id() } else { u32::from(port) };
            self.tmp_folder().join(format!("cairn-slow-{number}.log"))
        };
        self.slow_log_path.clone().unwrap_or_else(in_folder)
    }
}
