//! Stores and their life: Up → Disconnected → Down, Offline → Tombstone.

use cairn_pd_client::PdError;
use cairn_pd_client::order::StoreChange;
use cairn_proto::meta::{Store, StoreState};
use serde_json::{Value, json};

use super::{entry, refused};
use crate::cluster::Cluster;
use crate::cluster::settings::{STORE_PREFIX, StoreSettings, parse_labels};
use crate::operator::limits::Direction;
use crate::server::PdServer;
use crate::state::{Command, Kind, State};

impl PdServer {
    pub(super) fn store_rows(&self, only: Option<u64>) -> Result<Vec<Value>, PdError> {
        let now = self.now();
        let state = self.shared().state().read();
        let mut cluster = self.cluster.lock();
        cluster.refresh(&state, now);
        if let Some(id) = only {
            let store = state.stores.get(&id);
            let store = store.ok_or_else(|| PdError::StoreNotFound(format!("store {id}")))?;
            return Ok(vec![store_row(store, &state, &cluster, now.ms)]);
        }
        let present = state.stores.values().filter(|store| store.state() != StoreState::Tombstone);
        Ok(present.map(|store| store_row(store, &state, &cluster, now.ms)).collect())
    }

    pub(super) async fn change_store(
        &self,
        id: u64,
        change: StoreChange,
    ) -> Result<Vec<Value>, PdError> {
        // An unknown store is refused before anything is written.
        self.store_rows(Some(id))?;
        match change {
            StoreChange::Offline { force } => {
                if !force {
                    self.check_enough_stores_without(id)?;
                }
                self.set_store_state(id, StoreState::Offline).await?;
            }
            StoreChange::Up => self.set_store_state(id, StoreState::Up).await?,
            StoreChange::Weight { leader, region } => {
                let weights = [("leader-weight", leader), ("region-weight", region)];
                self.set_of_store(id, &texts(weights)).await?;
            }
            StoreChange::Limit { add, remove } => {
                let limits = [("limit-add", add), ("limit-remove", remove)];
                self.set_of_store(id, &texts(limits)).await?;
            }
            StoreChange::Labels(labels) => {
                let text = labels.join(",");
                parse_labels(&text).map_err(refused)?;
                self.set_of_store(id, &[("labels", text)]).await?;
            }
        }
        self.store_rows(Some(id))
    }

    async fn set_store_state(&self, id: u64, wanted: StoreState) -> Result<(), PdError> {
        self.replication.propose(Command::store_state(id, wanted)).await?;
        self.cluster.lock().settings_changed();
        Ok(())
    }

    async fn set_of_store(&self, id: u64, values: &[(&str, String)]) -> Result<(), PdError> {
        let mut probe = StoreSettings::default();
        let mut entries = Vec::new();
        for (name, text) in values {
            if !text.is_empty() {
                probe.set(name, text).map_err(refused)?;
            }
            entries.push(entry(format!("{STORE_PREFIX}{id}/{name}"), text.clone()));
        }
        self.put_config(entries).await
    }

    /// Emptying a store when too few others are left would never end.
    fn check_enough_stores_without(&self, id: u64) -> Result<(), PdError> {
        let state = self.shared().state().read();
        let cluster = self.cluster.lock();
        let view = cluster.view();
        let others = view.stores.values().filter(|store| store.id != id && !store.is_leaving());
        let (others, wanted) = (others.count(), view.config.max_replicas);
        let holds = state.regions.peer_count(id);
        if holds > 0 && others < wanted {
            return Err(refused(format!(
                "without store {id} there are {others} stores for {wanted} replicas; \
                 add a store first, lower max-replicas, or insist with --force"
            )));
        }
        Ok(())
    }

    pub(super) async fn remove_tombstones(&self) -> Result<Vec<Value>, PdError> {
        let gone: Vec<Store> = {
            let state = self.shared().state().read();
            let gone = |store: &&Store| {
                // One that was lost is known as gone until its peers are replaced.
                store.state() == StoreState::Tombstone && state.regions.peer_count(store.id) == 0
            };
            state.stores.values().filter(gone).cloned().collect()
        };
        let mut rows = Vec::new();
        for store in gone {
            let own: Vec<_> = {
                let state = self.shared().state().read();
                let prefix = format!("{STORE_PREFIX}{}/", store.id);
                let keys = state.config.keys().filter(|key| key.starts_with(&prefix));
                keys.map(|key| entry(key.clone(), "")).collect()
            };
            if !own.is_empty() {
                self.put_config(own).await?;
            }
            self.replication.propose(Kind::ForgetStore(store.id)).await?;
            rows.push(json!({ "removed": store.id, "address": store.address }));
        }
        Ok(rows)
    }
}

fn texts<const N: usize>(values: [(&'static str, Option<f64>); N]) -> Vec<(&'static str, String)> {
    values.into_iter().filter_map(|(name, value)| Some((name, value?.to_string()))).collect()
}

/// A store as tools show it.
pub fn store_row(store: &Store, state: &State, cluster: &Cluster, now_ms: u64) -> Value {
    let (shown, stats) = cluster.shown(store, now_ms);
    let view = cluster.view().stores.get(&store.id);
    let labels: Vec<String> = match view {
        Some(view) => view.labels.iter().map(|(key, value)| format!("{key}={value}")).collect(),
        None => store.labels.iter().map(|label| format!("{}={}", label.key, label.value)).collect(),
    };
    let leaving = cluster.leaving(store.id, state, now_ms);
    let progress = leaving.map(|leaving| {
        let left = leaving.peers_left as f64 / leaving.peers_at_start.max(1) as f64;
        format!("{:.1}%", (1.0 - left) * 100.0)
    });
    let config = &cluster.view().config;
    let rate = |way| cluster.limits().rate(store.id, way, config);
    let score = |score: Option<f64>| score.map(|score| (score * 100.0).round() / 100.0);
    json!({
        "id": store.id,
        "address": store.address,
        "status_address": store.status_address,
        "state": shown.state().as_str_name(),
        "regions": state.regions.peer_count(store.id),
        "leaders": cluster.leader_count(store.id),
        "region_score": score(view.map(|view| view.region_score())),
        "leader_score": score(view.map(|view| view.leader_score())),
        "used_bytes": stats.used_bytes,
        "available_bytes": stats.available_bytes,
        "capacity_bytes": stats.capacity_bytes,
        "slow_score": stats.slow_score,
        "disk_full": stats.disk_full,
        "leads_not": view.and_then(|view| view.leads_not),
        "leader_weight": view.map(|view| view.leader_weight),
        "region_weight": view.map(|view| view.region_weight),
        "limit_add": rate(Direction::Add),
        "limit_remove": rate(Direction::Remove),
        "progress": progress,
        "eta_s": leaving.and_then(|leaving| leaving.eta_s),
        "labels": labels,
        "version": store.version,
        "started_unix_ms": store.start_timestamp_s.saturating_mul(1_000),
        "last_heartbeat_ms": stats.last_heartbeat_ms,
    })
}
