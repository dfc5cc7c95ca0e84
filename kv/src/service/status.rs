//! The status server: `/metrics`, `/status`, `/health`.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::get;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::metrics::Observed;
use super::{ReadPool, StoreService};
use crate::raftstore::{RaftKv, RaftStore};

/// What the status server shows.
pub struct StatusState {
    /// For the counters.
    pub service: Arc<StoreService>,
    /// For the regions.
    pub kv: Arc<dyn RaftKv>,
    /// For its queue.
    pub pool: Arc<ReadPool>,
    /// The Raft store, for its counters.
    pub raft: Arc<RaftStore>,
    /// The address clients use.
    pub address: String,
}

#[derive(Serialize)]
struct Status {
    version: &'static str,
    store_id: u64,
    address: String,
    regions: usize,
    leaders: usize,
}

impl StatusState {
    fn leaders(&self) -> (usize, usize) {
        let infos = self.kv.region_infos();
        (infos.len(), infos.iter().filter(|info| info.is_leader).count())
    }
}

/// Serves until `shutdown`.
pub async fn serve(
    listener: TcpListener,
    state: StatusState,
    shutdown: CancellationToken,
) -> std::io::Result<()> {
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/status", get(status))
        .route("/health", get(health))
        .with_state(Arc::new(state));
    axum::serve(listener, router).with_graceful_shutdown(shutdown.cancelled_owned()).await
}

async fn metrics(State(state): State<Arc<StatusState>>) -> impl IntoResponse {
    let (regions, leaders) = state.leaders();
    let observed = Observed {
        regions: regions as i64,
        leaders: leaders as i64,
        commands: state.service.running_commands() as i64,
        lock_waiters: state.service.lock_waiters() as i64,
        lock_bytes: state.service.lock_bytes() as i64,
        pipelined_locks: state.service.pipelined_locks() as i64,
        read_tasks: state.pool.running() as i64,
        read_tasks_refused: state.pool.refused() as i64,
    };
    match state.service.metrics().render(observed) {
        Ok(text) => (StatusCode::OK, store_counters(&state.raft) + &text),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

/// The Raft store counts in plain atomics; this is their text form. It precedes
/// the registry's, which ends with the end mark.
fn store_counters(raft: &RaftStore) -> String {
    let mut text = String::new();
    let parts = [("raft", raft.metrics().values()), ("engine", raft.storage_values())];
    for (part, values) in parts {
        for (name, value) in values {
            text.push_str(&format!(
                "# TYPE cairn_{part}_{name} gauge\ncairn_{part}_{name} {value}\n"
            ));
        }
    }
    text
}

async fn status(State(state): State<Arc<StatusState>>) -> impl IntoResponse {
    let (regions, leaders) = state.leaders();
    axum::Json(Status {
        version: env!("CARGO_PKG_VERSION"),
        store_id: state.kv.store_id().0,
        address: state.address.clone(),
        regions,
        leaders,
    })
}

async fn health(State(state): State<Arc<StatusState>>) -> impl IntoResponse {
    match state.kv.is_busy() {
        None => (StatusCode::OK, "ok".to_string()),
        Some(busy) => (StatusCode::SERVICE_UNAVAILABLE, busy.reason),
    }
}
