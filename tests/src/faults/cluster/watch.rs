//! What a cluster tells of itself through `cairn ctl`, and waiting for it to tell something.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;

use super::Cluster;
use crate::node::cairn_binary;
use crate::{HarnessError, eventually, tool};

/// How long every region may take until it has all of its replicas.
const REPLICATED_TIMEOUT: Duration = Duration::from_secs(60);
/// How long the cluster may take until it tells who leads a region.
const LEADER_TIMEOUT: Duration = Duration::from_secs(20);

impl Cluster {
    /// What `cairn ctl` tells.
    pub async fn ctl(&self, args: &[&str]) -> Result<Value, HarnessError> {
        let text = self.steer(args).await?;
        serde_json::from_str(&text).map_err(|error| HarnessError::Tool {
            command: "cairn ctl".to_owned(),
            output: format!("{error}: {text}"),
        })
    }

    /// Lets `cairn ctl` do something; answers what it printed.
    pub async fn steer(&self, args: &[&str]) -> Result<String, HarnessError> {
        let binary = cairn_binary().display().to_string();
        let pd = self.pd_list.clone();
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        let asking = tokio::task::spawn_blocking(move || {
            let mut all = vec!["ctl", "--json", "--pd", &pd];
            all.extend(args.iter().map(String::as_str));
            tool(&binary, &all, "")
        });
        asking.await.expect("a tool does not panic")
    }

    /// Waits until every region has so many healthy peers.
    pub async fn wait_until_replicated(&self, replicas: usize) -> Result<(), HarnessError> {
        self.wait_for("region", &format!("{replicas} replicas of everything"), |regions| {
            let count = |region: &Value, key: &str| region[key].as_array().map(Vec::len);
            regions.iter().all(|region| {
                count(region, "peers") == Some(replicas)
                    && count(region, "pending") == Some(0)
                    && count(region, "down") == Some(0)
                    // A learner does not vote yet, so that losing another store stops writes.
                    && !region["peers"].to_string().contains("learner")
            })
        })
        .await
    }

    /// Waits until the regions or stores, as `ctl region` or `ctl store` tells them, fulfil something.
    pub async fn wait_for(
        &self,
        things: &str,
        what: &str,
        fulfil: impl Fn(&[Value]) -> bool,
    ) -> Result<(), HarnessError> {
        self.wait_within(REPLICATED_TIMEOUT, things, what, fulfil).await
    }

    /// As [`Cluster::wait_for`], for as long as `limit`.
    pub async fn wait_within(
        &self,
        limit: Duration,
        things: &str,
        what: &str,
        fulfil: impl Fn(&[Value]) -> bool,
    ) -> Result<(), HarnessError> {
        let fulfil = &fulfil;
        let done = eventually(limit, || async move {
            let rows = self.ctl(&[things]).await.ok()?;
            let rows = rows.as_array()?;
            (!rows.is_empty() && fulfil(rows)).then_some(())
        });
        done.await.ok_or_else(|| HarnessError::Overdue { what: what.to_owned(), limit })
    }

    /// Regions and leaders of each store, for people.
    pub async fn spread(&self) -> Result<String, HarnessError> {
        let stores = self.ctl(&["store"]).await?;
        let counts = stores.as_array().into_iter().flatten();
        let texts = counts.map(|store| format!("{}/{}", store["regions"], store["leaders"]));
        Ok(format!("regions/leaders {}", texts.collect::<Vec<_>>().join(" ")))
    }

    /// The store that leads most regions, as the cluster tells it.
    pub async fn leader_store(&self) -> Result<String, HarnessError> {
        let leader = eventually(LEADER_TIMEOUT, || async {
            let regions = self.ctl(&["region"]).await.ok()?;
            let leaders: Vec<u64> =
                regions.as_array()?.iter().filter_map(|r| r["leader_store"].as_u64()).collect();
            let count = |store: &u64| leaders.iter().filter(|other| *other == store).count();
            let distinct: BTreeSet<u64> = leaders.iter().copied().collect();
            let most = distinct.into_iter().max_by_key(count)?;
            let node = self.nodes.iter().find(|node| node.store_id == Some(most))?;
            Some(node.name().to_owned())
        });
        let what = "a leader of the regions".to_owned();
        leader.await.ok_or(HarnessError::Overdue { what, limit: LEADER_TIMEOUT })
    }

    /// The placement driver that leads, as its members tell.
    pub async fn pd_leader(&self) -> Result<String, HarnessError> {
        let leader = eventually(LEADER_TIMEOUT, || async {
            let members = self.ctl(&["member"]).await.ok()?;
            let leads = |member: &&Value| member["leader"] == Value::Bool(true);
            Some(members.as_array()?.iter().find(leads)?["name"].as_str()?.to_owned())
        });
        let what = "a leader of the placement driver".to_owned();
        leader.await.ok_or(HarnessError::Overdue { what, limit: LEADER_TIMEOUT })
    }
}
