//! Settings of scheduling, and placement rules.
//!
//! What would not hold together is refused before anything is written.

use cairn_pd_client::PdError;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{entry, refused};
use crate::config::{self, ScheduleConfig};
use crate::placement::{GROUP_PREFIX, RULE_PREFIX, Rule, RuleGroup};
use crate::server::PdServer;

impl PdServer {
    fn current_config(&self) -> ScheduleConfig {
        let state = self.shared().state().read();
        let mut cluster = self.cluster.lock();
        cluster.refresh(&state, self.now());
        cluster.view().config.clone()
    }

    pub(super) fn setting_rows(&self, prefix: &str) -> Vec<Value> {
        let shown = self.current_config().shown().into_iter();
        let rows = shown.filter(|setting| setting.name.starts_with(prefix)).map(|setting| {
            json!({
                "name": setting.name,
                "value": setting.value,
                "default": setting.default,
                "meaning": setting.meaning,
            })
        });
        rows.collect()
    }

    pub(super) async fn change_setting(
        &self,
        name: &str,
        value: Option<String>,
    ) -> Result<Vec<Value>, PdError> {
        let mut probe = self.current_config();
        let known = probe.shown().into_iter().find(|setting| setting.name == name);
        let known = known.ok_or_else(|| refused(format!("unknown setting '{name}'")))?;
        let text = value.as_deref().unwrap_or(&known.default);
        probe.set(name, text).map_err(refused)?;
        // An empty entry is an absent one: names that may be empty go back to it.
        let change = entry(format!("{}{name}", config::PREFIX), value.unwrap_or_default());
        self.put_checked(vec![change], &probe).await?;
        let mut rows = self.setting_rows(name);
        rows.retain(|row| row["name"] == name);
        Ok(rows)
    }

    pub(super) fn rule_rows(&self, group: Option<&str>) -> Vec<Value> {
        let state = self.shared().state().read();
        let mut cluster = self.cluster.lock();
        cluster.refresh(&state, self.now());
        let rules = cluster.view().rules.rules().iter();
        let shown = rules.filter(|rule| group.is_none_or(|group| group == rule.group_id));
        shown.map(|rule| rule_row(rule)).collect()
    }

    pub(super) async fn put_rules(&self, text: &str) -> Result<Vec<Value>, PdError> {
        let rules: Vec<Rule> = one_or_many(text)?;
        let mut entries = Vec::new();
        for rule in &rules {
            rule.validate().map_err(refused)?;
            entries.push(entry(format!("{RULE_PREFIX}{}", rule.name()), to_json(rule)?));
        }
        self.put_placement(entries).await?;
        Ok(rules.iter().map(rule_row).collect())
    }

    pub(super) async fn delete_rule(&self, group: &str, id: &str) -> Result<Vec<Value>, PdError> {
        let key = format!("{RULE_PREFIX}{group}/{id}");
        self.delete_placement(key, &format!("rule {group}/{id}")).await
    }

    pub(super) fn rule_group_rows(&self) -> Vec<Value> {
        let state = self.shared().state().read();
        let mut cluster = self.cluster.lock();
        cluster.refresh(&state, self.now());
        cluster.view().rules.groups().map(group_row).collect()
    }

    pub(super) async fn put_rule_group(&self, text: &str) -> Result<Vec<Value>, PdError> {
        let groups: Vec<RuleGroup> = one_or_many(text)?;
        let mut entries = Vec::new();
        for group in &groups {
            if group.id.is_empty() || group.id.contains('/') {
                return Err(refused(format!("'{}' is no name of a group", group.id)));
            }
            entries.push(entry(format!("{GROUP_PREFIX}{}", group.id), to_json(group)?));
        }
        self.put_placement(entries).await?;
        Ok(groups.iter().map(group_row).collect())
    }

    pub(super) async fn delete_rule_group(&self, id: &str) -> Result<Vec<Value>, PdError> {
        self.delete_placement(format!("{GROUP_PREFIX}{id}"), &format!("group {id}")).await
    }

    async fn put_placement(
        &self,
        entries: Vec<cairn_proto::pd::ConfigEntry>,
    ) -> Result<(), PdError> {
        let config = self.current_config();
        self.put_checked(entries, &config).await
    }

    async fn delete_placement(&self, key: String, what: &str) -> Result<Vec<Value>, PdError> {
        if !self.shared().state().read().config.contains_key(&key) {
            return Err(refused(format!("{what} is not set")));
        }
        self.put_placement(vec![entry(key, "")]).await?;
        Ok(vec![json!({ "removed": what })])
    }
}

fn to_json(value: &impl serde::Serialize) -> Result<String, PdError> {
    serde_json::to_string(value).map_err(|error| PdError::Internal(error.to_string()))
}

/// Reads one object or a list of them.
fn one_or_many<T: DeserializeOwned>(text: &str) -> Result<Vec<T>, PdError> {
    let read = match text.trim_start().starts_with('[') {
        true => serde_json::from_str(text),
        false => serde_json::from_str(text).map(|one| vec![one]),
    };
    read.map_err(|error| refused(error.to_string()))
}

fn rule_row(rule: &Rule) -> Value {
    let constraints = rule.label_constraints.iter();
    json!({
        "group_id": rule.group_id,
        "id": rule.id,
        "index": rule.index,
        "override": rule.overrides,
        "start_key": rule.start_key,
        "end_key": rule.end_key,
        "role": rule.role.to_string(),
        "count": rule.count,
        "label_constraints": constraints.map(|one| json!(one)).collect::<Vec<_>>(),
        "location_labels": rule.location_labels,
        "isolation_level": rule.isolation_level,
    })
}

fn group_row(group: &RuleGroup) -> Value {
    json!({ "id": group.id, "index": group.index, "override": group.overrides })
}
