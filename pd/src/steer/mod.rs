//! What people ask about scheduling, and the orders they give (`cairn ctl`).
//!
//! Answers are rows: JSON objects with the same fields in the same order. Their names
//! are what scripts rely on; fields may be added, never renamed.
//!
//! | module | orders about |
//! |---|---|
//! | [`stores`] | stores and their life |
//! | [`regions`] | finding regions |
//! | [`operators`] | operators, begun and cancelled by hand |
//! | [`schedulers`] | schedulers |
//! | [`rules`] | settings and placement rules |
//! | [`hot`] | hot regions |
//! | [`recovery`] | recovery after stores were lost |

mod hot;
mod operators;
mod recovery;
mod regions;
mod rules;
mod schedulers;
mod stores;
#[cfg(test)]
mod tests;

use bytes::Bytes;
use cairn_pd_client::{Order, PdError};
use cairn_proto::pd::ConfigEntry;
use serde_json::Value;

use crate::cluster::settings::rules_of;
use crate::config::ScheduleConfig;
use crate::server::PdServer;

/// Bytes of one order: a list of placement rules is the largest.
const ORDER_BYTES_MAX: usize = 1 << 20;
/// Rows of one answer.
const ROWS_MAX: usize = 10_000;

/// Reads an order as it came over the wire.
pub fn read_order(text: &str) -> Result<Order, PdError> {
    if text.len() > ORDER_BYTES_MAX {
        return Err(refused(format!("an order of {} bytes", text.len())));
    }
    serde_json::from_str(text).map_err(|error| refused(format!("order: {error}")))
}

/// The order makes no sense.
fn refused(reason: impl Into<String>) -> PdError {
    PdError::InvalidArgument(reason.into())
}

/// How many rows somebody gets who asks for `limit`.
fn rows_wanted(limit: u32) -> usize {
    ROWS_MAX.min(limit as usize)
}

impl PdServer {
    /// Answers a question or carries an order out.
    pub async fn steer(&self, order: Order) -> Result<String, PdError> {
        let rows = self.rows_of(order).await?;
        Ok(Value::Array(rows).to_string())
    }

    async fn rows_of(&self, order: Order) -> Result<Vec<Value>, PdError> {
        match order {
            Order::Stores { id } => self.store_rows(id),
            Order::ChangeStore { id, change } => self.change_store(id, change).await,
            Order::RemoveTombstones => self.remove_tombstones().await,
            Order::TopRegions { by, limit } => Ok(self.top_regions(by, rows_wanted(limit))),
            Order::CheckRegions { what, limit } => Ok(self.check_regions(what, rows_wanted(limit))),
            Order::RegionSizes => Ok(self.region_sizes()),
            Order::Operators => Ok(self.operator_rows()),
            Order::AddOperator(new) => self.add_operator(new).await,
            Order::CancelOperator { region_id } => self.cancel_operator(region_id),
            Order::OperatorHistory { region_id, limit } => {
                Ok(self.operator_history(region_id, rows_wanted(limit)))
            }
            Order::Schedulers { name } => self.scheduler_rows(name.as_deref()),
            Order::AddScheduler { name, stores, labels } => {
                self.add_scheduler(&name, (stores, labels)).await
            }
            Order::RemoveScheduler { name, stores, labels } => {
                self.remove_scheduler(&name, (stores, labels)).await
            }
            Order::PauseScheduler { name, seconds } => self.pause_scheduler(&name, seconds).await,
            Order::Settings { prefix } => Ok(self.setting_rows(&prefix)),
            Order::ChangeSetting { name, value } => self.change_setting(&name, value).await,
            Order::Rules { group } => Ok(self.rule_rows(group.as_deref())),
            Order::PutRules { rules } => self.put_rules(&rules).await,
            Order::DeleteRule { group, id } => self.delete_rule(&group, &id).await,
            Order::RuleGroups => Ok(self.rule_group_rows()),
            Order::PutRuleGroup { group } => self.put_rule_group(&group).await,
            Order::DeleteRuleGroup { id } => self.delete_rule_group(&id).await,
            Order::Hot { writes } => Ok(self.hot_rows(writes)),
            Order::HotHistory { limit } => Ok(self.hot_history(rows_wanted(limit))),
            Order::RecoverCluster(recovery) => self.recover_cluster(recovery).await,
            Order::Recovery => Ok(self.recovery_rows()),
            Order::RemoveFailedStores { stores, accepts_data_loss } => {
                self.remove_failed_stores(stores, accepts_data_loss).await
            }
        }
    }

    /// Writes entries after a look at the rules that would come of them.
    async fn put_checked(
        &self,
        entries: Vec<ConfigEntry>,
        config: &ScheduleConfig,
    ) -> Result<(), PdError> {
        {
            let state = self.shared().state().read();
            let mut after = state.config.clone();
            for ConfigEntry { key, value } in &entries {
                match value.is_empty() {
                    true => after.remove(key),
                    false => after.insert(key.clone(), value.clone()),
                };
            }
            let after = after.iter().map(|(key, value)| (key.as_str(), &value[..]));
            rules_of(config, after).map_err(refused)?;
        }
        self.put_config(entries).await
    }
}

/// An entry of the configuration; an empty value removes.
fn entry(key: impl Into<String>, value: impl Into<Bytes>) -> ConfigEntry {
    ConfigEntry { key: key.into(), value: value.into() }
}
