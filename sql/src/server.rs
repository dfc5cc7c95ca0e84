//! A SQL node: listeners, connections, clean stop.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use cairn_kv_client::KvClient;
use cairn_pd_client::PdClient;
use cairn_types::errno;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::SqlConfig;
use crate::connection;
use crate::domain::Domain;
use crate::error::{Result, SqlError};
use crate::status;

/// How long a stop waits for statements to end before their connections are dropped.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a node that stops waits until PD knows.
const SIGN_OFF_TIMEOUT: Duration = Duration::from_secs(1);
/// Pause after a failed `accept` (no file descriptors left).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A running SQL node.
#[derive(Debug)]
pub struct SqlServer {
    /// Where MySQL clients connect.
    pub local_addr: SocketAddr,
    /// Where the status is served.
    pub status_addr: Option<SocketAddr>,
    domain: Arc<Domain>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

fn listen_error(what: &str, addr: SocketAddr, error: &std::io::Error) -> SqlError {
    SqlError::new(errno::ER_UNKNOWN_ERROR, format!("cannot listen on {addr} for {what}: {error}"))
}

impl SqlServer {
    /// Loads the schema and begins to accept clients.
    pub async fn start(
        config: SqlConfig,
        kv: Arc<KvClient>,
        pd: Arc<dyn PdClient>,
    ) -> Result<Self> {
        let listener = TcpListener::bind(config.addr)
            .await
            .map_err(|error| listen_error("MySQL clients", config.addr, &error))?;
        let local_addr = listener
            .local_addr()
            .map_err(|error| listen_error("MySQL clients", config.addr, &error))?;
        let status_listener = match config.status_addr {
            None => None,
            Some(addr) => Some(
                TcpListener::bind(addr)
                    .await
                    .map_err(|error| listen_error("the status port", addr, &error))?,
            ),
        };
        let status_addr = status_listener.as_ref().and_then(|listener| listener.local_addr().ok());
        let config = SqlConfig { addr: local_addr, status_addr, ..config };
        let stop = CancellationToken::new();
        let domain = Domain::open(config, kv, pd, stop.clone()).await?;
        refuse_open_root(&domain)?;
        let tasks = TaskTracker::new();
        tasks.spawn(accept(Arc::clone(&domain), listener, tasks.clone()));
        if let Some(listener) = status_listener {
            tasks.spawn(status::serve(Arc::clone(&domain), listener));
        }
        Ok(Self { local_addr, status_addr, domain, stop, tasks })
    }

    /// Shared state of the node.
    pub fn domain(&self) -> &Arc<Domain> {
        &self.domain
    }

    /// Stops accepting, ends connections between statements, and waits for them.
    pub async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        if tokio::time::timeout(STOP_TIMEOUT, self.tasks.wait()).await.is_err() {
            tracing::warn!("connections did not end in time");
        }
        let signed_off = self.domain.signed_off.cancelled();
        if tokio::time::timeout(SIGN_OFF_TIMEOUT, signed_off).await.is_err() {
            tracing::warn!("PD was not told that this node stops");
        }
    }
}

/// An account without a password must not be reachable from beyond this machine.
fn refuse_open_root(domain: &Domain) -> Result<()> {
    if domain.config.addr.ip().is_loopback() || domain.config.insecure {
        return Ok(());
    }
    let open = domain
        .accounts
        .all()
        .into_iter()
        .find(|account| account.secret.is_empty() && !account.locked);
    match open {
        None => Ok(()),
        Some(account) => Err(SqlError::new(
            errno::ER_ACCESS_DENIED_ERROR,
            format!(
                "account '{}'@'{}' has no password: refusing to listen on {}; set one first \
                 (ALTER USER), listen on 127.0.0.1, or pass --insecure",
                account.user, account.host, domain.config.addr
            ),
        )),
    }
}

async fn accept(domain: Arc<Domain>, listener: TcpListener, tasks: TaskTracker) {
    let stop = domain.stop.clone();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        match accepted {
            Ok((socket, address)) => {
                tasks.spawn(connection::serve(Arc::clone(&domain), socket, address));
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}
