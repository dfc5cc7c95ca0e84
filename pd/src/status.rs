//! HTTP pages of the placement driver: health, metrics, stores and regions.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use axum::extract::State as Extract;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use cairn_proto::meta::{PeerRole, Region, Store};
use cairn_proto::pd::StoreStats;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::server::PdServer;

/// Regions one page lists.
const REGIONS_SHOWN_MAX: usize = 10_000;

/// The pages over a server.
pub fn router(server: Arc<PdServer>) -> Router {
    Router::new()
        .route("/health", get(|| async { Json(json!({ "health": true })) }))
        .route("/status", get(status))
        .route("/metrics", get(metrics))
        .route("/stores", get(stores))
        .route("/regions", get(regions))
        .route("/operators", get(operators))
        .with_state(server)
}

impl PdServer {
    /// Serves the pages on the listener until `shutdown` ends or the driver stops.
    pub async fn serve_status(
        self: &Arc<PdServer>,
        listener: TcpListener,
        shutdown: impl Future<Output = ()> + Send + 'static,
    ) -> std::io::Result<()> {
        let stopping = self.stopping().clone();
        let end = async move {
            tokio::select! {
                () = shutdown => {}
                () = stopping.cancelled() => {}
            }
        };
        axum::serve(listener, router(self.clone())).with_graceful_shutdown(end).await
    }
}

async fn status(Extract(server): Extract<Arc<PdServer>>) -> Json<Value> {
    let config = server.config();
    Json(server.inspect(|state, _, _| {
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "name": config.name,
            "cluster_id": state.cluster_id.to_string(),
            "bootstrapped": state.bootstrapped,
            "stores": state.stores.len(),
            "regions": state.regions.len(),
            "gc_safe_point": state.gc_safe_point,
            "schema_version": state.schema_version,
            "max_replicas": config.max_replicas,
        })
    }))
}

/// A store as pages and tools show it.
fn store_json(store: &Store, stats: &StoreStats) -> Value {
    let labels = store.labels.iter().map(|label| (label.key.clone(), json!(label.value)));
    json!({
        "id": store.id,
        "address": store.address,
        "status_address": store.status_address,
        "state": store.state().as_str_name(),
        "labels": labels.collect::<serde_json::Map<String, Value>>(),
        "version": store.version,
        "capacity_bytes": stats.capacity_bytes,
        "available_bytes": stats.available_bytes,
        "used_bytes": stats.used_bytes,
        "last_heartbeat_ms": stats.last_heartbeat_ms,
    })
}

async fn stores(Extract(server): Extract<Arc<PdServer>>) -> Json<Value> {
    Json(server.inspect(|state, cluster, now_ms| {
        let shown = state.stores.values().map(|store| {
            let (store, stats) = cluster.shown(store, now_ms);
            let mut value = store_json(&store, &stats);
            value["region_count"] = json!(state.regions.peer_count(store.id));
            value["leader_count"] = json!(cluster.leader_count(store.id));
            value
        });
        Value::Array(shown.collect())
    }))
}

fn hex(key: &[u8]) -> String {
    key.iter().map(|byte| format!("{byte:02X}")).collect()
}

fn region_json(region: &Region) -> Value {
    let epoch = region.epoch.unwrap_or_default();
    let peers = region.peers.iter().map(|peer| {
        json!({
            "id": peer.id,
            "store_id": peer.store_id,
            "learner": peer.role() == PeerRole::Learner,
        })
    });
    json!({
        "id": region.id,
        "start_key": hex(&region.start_key),
        "end_key": hex(&region.end_key),
        "epoch": { "conf_ver": epoch.conf_ver, "version": epoch.version },
        "peers": peers.collect::<Vec<_>>(),
    })
}

async fn regions(Extract(server): Extract<Arc<PdServer>>) -> Json<Value> {
    Json(server.inspect(|state, cluster, _| {
        let shown = state.regions.iter().take(REGIONS_SHOWN_MAX).map(|region| {
            let route = cluster.route(region);
            let mut value = region_json(region);
            value["leader_store_id"] = json!(route.leader.map(|leader| leader.store_id));
            value["approximate_size_bytes"] = json!(route.approximate_size_bytes);
            value["approximate_keys"] = json!(route.approximate_keys);
            value
        });
        Value::Array(shown.collect())
    }))
}

async fn operators(Extract(server): Extract<Arc<PdServer>>) -> Json<Value> {
    Json(Value::Array(server.operator_rows()))
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct StoreLabels {
    store: u64,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OutcomeLabels {
    kind: &'static str,
    outcome: &'static str,
}

type Gauges<L> = Family<L, Gauge<u64, AtomicU64>>;

async fn metrics(Extract(server): Extract<Arc<PdServer>>) -> impl IntoResponse {
    let mut registry = Registry::with_prefix("cairn_pd");
    let regions: Gauge<u64, AtomicU64> = Gauge::default();
    let running: Gauge<u64, AtomicU64> = Gauge::default();
    let ended: Gauges<OutcomeLabels> = Family::default();
    let peers: Gauges<StoreLabels> = Family::default();
    let leaders: Gauges<StoreLabels> = Family::default();
    let store_states: Gauges<StoreLabels> = Family::default();
    let region_scores: Family<StoreLabels, Gauge<f64, AtomicU64>> = Family::default();
    let leader_scores: Family<StoreLabels, Gauge<f64, AtomicU64>> = Family::default();
    registry.register("regions", "Regions of the cluster", regions.clone());
    registry.register("operators_running", "Operators under way", running.clone());
    registry.register("operators_ended", "Operators ended, by kind and outcome", ended.clone());
    registry.register("store_peers", "Peers on a store", peers.clone());
    registry.register("store_leaders", "Leaders on a store", leaders.clone());
    let help = "How full a store is for balance";
    registry.register("store_region_score", help, region_scores.clone());
    let help = "How much a store leads for balance";
    registry.register("store_leader_score", help, leader_scores.clone());
    registry.register("store_state", "State of a store, 0 is up", store_states.clone());
    server.inspect(|state, cluster, now_ms| {
        regions.set(state.regions.len() as u64);
        running.set(cluster.operators().count() as u64);
        for (kind, ending, count) in cluster.history().counts() {
            let labels = OutcomeLabels { kind: kind.name(), outcome: ending.name() };
            ended.get_or_create(&labels).set(count);
        }
        for store in state.stores.values() {
            let labels = StoreLabels { store: store.id };
            peers.get_or_create(&labels).set(state.regions.peer_count(store.id) as u64);
            leaders.get_or_create(&labels).set(cluster.leader_count(store.id) as u64);
            if let Some(view) = cluster.view().stores.get(&store.id) {
                region_scores.get_or_create(&labels).set(view.region_score());
                leader_scores.get_or_create(&labels).set(view.leader_score());
            }
            store_states.get_or_create(&labels).set(cluster.store_state(store, now_ms) as u64);
        }
    });
    let mut text = String::new();
    // Writing to a string cannot fail.
    if encode(&mut text, &registry).is_err() {
        text.clear();
    }
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(CONTENT_TYPE, content_type)], text)
}
