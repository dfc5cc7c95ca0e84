//! Schedulers: which run, with what arguments, and why they do nothing.

use cairn_pd_client::PdError;
use serde_json::{Value, json};

use super::{entry, refused};
use crate::schedulers::registry::{Entry, PREFIX, SchedulerKind, SchedulerSettings};
use crate::server::PdServer;

/// A pause is never longer; who wants more removes the scheduler.
const PAUSE_S_MAX: u64 = 30 * 86_400;

impl PdServer {
    pub(super) fn scheduler_rows(&self, only: Option<&str>) -> Result<Vec<Value>, PdError> {
        let only = only.map(SchedulerKind::named).transpose().map_err(refused)?;
        let now = self.now();
        let state = self.shared().state().read();
        let mut cluster = self.cluster.lock();
        cluster.refresh(&state, now);
        let entries = cluster.registry().entries();
        let shown = entries.filter(|(kind, _)| only.is_none_or(|only| only == *kind));
        Ok(shown.map(|(kind, entry)| scheduler_row(kind, entry, now.unix_ms)).collect())
    }

    pub(super) async fn add_scheduler(
        &self,
        name: &str,
        (stores, labels): (Vec<u64>, Vec<String>),
    ) -> Result<Vec<Value>, PdError> {
        let kind = SchedulerKind::named(name).map_err(refused)?;
        {
            let state = self.shared().state().read();
            if let Some(unknown) = stores.iter().find(|id| !state.stores.contains_key(id)) {
                return Err(PdError::StoreNotFound(format!("store {unknown}")));
            }
        }
        let mut settings = self.settings_of(kind);
        settings.enabled = true;
        settings.stores.extend(stores);
        settings.labels.extend(labels);
        self.put_scheduler(kind, &settings).await
    }

    pub(super) async fn remove_scheduler(
        &self,
        name: &str,
        (stores, labels): (Vec<u64>, Vec<String>),
    ) -> Result<Vec<Value>, PdError> {
        let kind = SchedulerKind::named(name).map_err(refused)?;
        let mut settings = self.settings_of(kind);
        let whole = stores.is_empty() && labels.is_empty();
        let unknown = stores.iter().find(|id| !settings.stores.contains(id));
        if let Some(unknown) = unknown {
            return Err(refused(format!("{} is not about store {unknown}", kind.name())));
        }
        settings.stores.retain(|id| !whole && !stores.contains(id));
        settings.labels.retain(|label| !whole && !labels.contains(label));
        let wants_none = settings.stores.is_empty() && kind.wants_stores()
            || settings.labels.is_empty() && kind.wants_labels();
        if whole || wants_none {
            settings.enabled = false;
        }
        self.put_scheduler(kind, &settings).await
    }

    pub(super) async fn pause_scheduler(
        &self,
        name: &str,
        seconds: u64,
    ) -> Result<Vec<Value>, PdError> {
        let kind = SchedulerKind::named(name).map_err(refused)?;
        if seconds > PAUSE_S_MAX {
            return Err(refused(format!("a pause of {seconds} s; at most {PAUSE_S_MAX}")));
        }
        let mut settings = self.settings_of(kind);
        settings.paused_until_unix_ms = match seconds {
            0 => 0,
            seconds => self.clock.unix_ms() + seconds * 1_000,
        };
        self.put_scheduler(kind, &settings).await
    }

    fn settings_of(&self, kind: SchedulerKind) -> SchedulerSettings {
        let state = self.shared().state().read();
        let mut cluster = self.cluster.lock();
        cluster.refresh(&state, self.now());
        cluster.registry().settings(kind)
    }

    async fn put_scheduler(
        &self,
        kind: SchedulerKind,
        settings: &SchedulerSettings,
    ) -> Result<Vec<Value>, PdError> {
        settings.validate(kind).map_err(refused)?;
        let json = serde_json::to_string(settings)
            .map_err(|error| PdError::Internal(error.to_string()))?;
        self.put_config(vec![entry(format!("{PREFIX}{}", kind.name()), json)]).await?;
        self.scheduler_rows(Some(kind.name()))
    }
}

fn scheduler_row(kind: SchedulerKind, entry: &Entry, unix_ms: u64) -> Value {
    let until = entry.settings.paused_until_unix_ms;
    let status = match entry.settings.enabled {
        false => "off",
        true if until > unix_ms => "paused",
        true => "running",
    };
    let told = if status == "running" { entry.told.as_str() } else { "" };
    json!({
        "name": kind.name(),
        "status": status,
        "paused_s": until.saturating_sub(unix_ms).div_ceil(1_000),
        "stores": entry.settings.stores,
        "labels": entry.settings.labels,
        "operators": entry.begun,
        "decision": told,
    })
}
