//! The status port: `/metrics`, `/status`, `/health`, and what other SQL nodes ask for.

use std::collections::HashMap;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::response::Json;
use axum::routing::get;
use cairn_planner::Catalog;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::clock;
use crate::domain::Domain;
use crate::lock_view::deadlocks::Deadlock;
use crate::lock_view::tables::{self, ShownTransaction};
use crate::observed::slow_log::format::SlowQuery;
use crate::observed::summary::Shown;
use crate::observed::tables as observed;

/// Serves until the node stops.
pub async fn serve(domain: Arc<Domain>, listener: TcpListener) {
    let stop = domain.stop.clone();
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/status", get(status))
        .route("/health", get(health))
        .route(tables::TRANSACTIONS_PATH, get(transactions))
        .route(tables::DEADLOCKS_PATH, get(deadlocks))
        .route(tables::DIGESTS_PATH, get(digests))
        .route(observed::SUMMARY_PATH, get(summary))
        .route(observed::HISTORY_PATH, get(history))
        .route(observed::EVICTED_PATH, get(evicted))
        .route(observed::SLOW_PATH, get(slow))
        .with_state(domain);
    let serving = axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned());
    if let Err(error) = serving.await {
        tracing::warn!(%error, "the status port failed");
    }
}

async fn metrics(State(domain): State<Arc<Domain>>) -> String {
    domain.metrics.connections.set(domain.processes.open_count() as i64);
    let tasks = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    domain.metrics.tasks.set(i64::try_from(tasks).unwrap_or(i64::MAX));
    domain.metrics.statement_memory.set(domain.memory.memory().used_bytes() as i64);
    domain.metrics.tmp_storage.set(domain.memory.disk().used_bytes() as i64);
    let counted = domain.metrics.statements.get();
    domain.metrics.statements.inc_by(domain.statement_count().saturating_sub(counted));
    domain.metrics.text()
}

async fn status(State(domain): State<Arc<Domain>>) -> Json<Value> {
    Json(json!({
        "version": domain.config.server_version,
        "connections": domain.processes.open_count(),
        "schema_version": domain.schema.current().version(),
        "uptime_s": domain.uptime_s(),
    }))
}

async fn health() -> Json<Value> {
    Json(json!({ "health": true }))
}

async fn transactions(State(domain): State<Arc<Domain>>) -> Json<Vec<ShownTransaction>> {
    Json(tables::transactions(&domain))
}

async fn deadlocks(State(domain): State<Arc<Domain>>) -> Json<Vec<Deadlock>> {
    Json(domain.deadlocks.all())
}

async fn digests(State(domain): State<Arc<Domain>>) -> Json<HashMap<String, String>> {
    Json(domain.digests.all())
}

async fn summary(State(domain): State<Arc<Domain>>) -> Json<Vec<Shown>> {
    Json(domain.summaries.current(clock::unix_micros()))
}

async fn history(State(domain): State<Arc<Domain>>) -> Json<Vec<Shown>> {
    Json(domain.summaries.history(clock::unix_micros()))
}

async fn evicted(State(domain): State<Arc<Domain>>) -> Json<Vec<(i64, i64, u64)>> {
    Json(domain.summaries.evicted(clock::unix_micros()))
}

async fn slow(State(domain): State<Arc<Domain>>) -> Json<Vec<SlowQuery>> {
    Json(domain.slow_log.read().await)
}
