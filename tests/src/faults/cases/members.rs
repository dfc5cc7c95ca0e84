//! Stores come and go.

use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use super::{ledger_check, ledger_start, updates};
use crate::HarnessError;
use crate::faults::bulk::Bulk;
use crate::faults::cluster::{Cluster, Layout};
use crate::faults::{Case, Report, Stage};

/// How long it may take until everything has its replicas on other stores.
const REPLACED_MAX: Duration = Duration::from_secs(60);

/// A fourth store joins, another one is taken away.
pub const STORE_REPLACED: Case = Case {
    name: "store-replaced",
    about: "a fourth store joins, the store that leads is taken offline: everything has three \
            replicas on the others, under transfers, which are checked in the end",
    quick: false,
    run: |stage| Box::pin(store_replaced(stage)),
};

async fn store_replaced(stage: Stage) -> Result<Report, HarnessError> {
    let mut report = Report::default();
    let mut cluster = Cluster::start(&stage.folder, Layout::default()).await?;
    let (told, writers) = ledger_start(&cluster, stage.settings.seed).await?;
    cluster.add_store().await?;
    let leaving = cluster.leader_store().await?;
    let id = cluster.store_id(&leaving);
    if let Err(error) = cluster.steer(&["store", &id.to_string(), "offline"]).await {
        return Ok(Report::skip(format!("`ctl store ID offline` is not there: {error}")));
    }
    let began = Instant::now();
    cluster.wait_for("region", "three replicas on the other stores", are_elsewhere(id)).await?;
    report.at_most("moved", began.elapsed(), REPLACED_MAX);
    cluster.node(&leaving).kill();
    let alive = told.await_writes(20, Duration::from_secs(10)).await;
    report.holds("writes go on without it", alive);
    writers.stop().await;
    ledger_check(&mut report, &cluster, &told).await?;
    Ok(report)
}

/// Whether every region has three replicas, none of them on a store.
fn are_elsewhere(store_id: u64) -> impl Fn(&[Value]) -> bool {
    let off = format!("@{store_id}");
    move |regions| {
        regions.iter().all(|region| {
            let peers = region["peers"].as_array().cloned().unwrap_or_default();
            let texts: Vec<&str> = peers.iter().filter_map(|peer| peer.as_str()).collect();
            texts.len() == 3 && !texts.iter().any(|peer| peer.ends_with(&off))
        })
    }
}

/// Many regions spread over stores that come and go.
pub const STORES_BALANCED: Case = Case {
    name: "stores-balanced",
    about: "a fourth store joins three with many regions, then one is taken offline: leaders and \
            regions are balanced within 10 % each time, the one that left is a tombstone",
    quick: false,
    run: |stage| Box::pin(stores_balanced(stage)),
};

async fn stores_balanced(stage: Stage) -> Result<Report, HarnessError> {
    /// Small, so that little data is many regions.
    const REGION_SPLIT_BYTES: u64 = 4 << 20;
    /// A few hundred regions.
    const BULK_BYTES: u64 = 512 << 20;
    /// How long moving replicas may take.
    const BALANCED_MAX: Duration = Duration::from_secs(300);
    /// How long writes may stand still meanwhile: a leader leaves without an election.
    const STALL_MAX: Duration = Duration::from_secs(1);
    /// The most that a store is off the mean, in percent.
    const OFF_MAX: f64 = 10.0;

    let mut report = Report::default();
    let kv_options = ["--region-split-bytes", &REGION_SPLIT_BYTES.to_string()].map(str::to_owned);
    let layout = Layout { kv_options: kv_options.to_vec(), ..Layout::default() };
    let mut cluster = Cluster::start(&stage.folder, layout).await?;
    let mut bulk = Bulk::start(&cluster.servers(), 4).await?;
    bulk.write(stage.settings.bytes(BULK_BYTES)).await;
    report.none("refused rows", bulk.failures().into_keys().collect());
    let updates = updates(&cluster).await?;
    report.tell("regions", cluster.ctl(&["region"]).await?.as_array().map_or(0, Vec::len));

    let at = updates.now();
    let began = Instant::now();
    cluster.add_store().await?;
    let balanced = |count: usize| {
        move |stores: &[Value]| {
            let up: Vec<&Value> = stores.iter().filter(|store| store["state"] == "UP").collect();
            let off = |what| off_the_mean_percent(&up, what);
            up.len() == count && off("regions") <= OFF_MAX && off("leaders") <= OFF_MAX
        }
    };
    let waited = cluster.wait_within(BALANCED_MAX, "store", "balance", balanced(4)).await;
    report.tell("four stores", cluster.spread().await?);
    waited?;
    report.at_most("balanced after joining", began.elapsed(), BALANCED_MAX);
    report.stall("joining", &updates.since(at), STALL_MAX);

    let leaving = cluster.leader_store().await?;
    let id = cluster.store_id(&leaving);
    let at = updates.now();
    let began = Instant::now();
    cluster.steer(&["store", &id.to_string(), "offline"]).await?;
    let what = "three replicas on the other stores";
    cluster.wait_within(BALANCED_MAX, "region", what, are_elsewhere(id)).await?;
    report.at_most("left", began.elapsed(), BALANCED_MAX);
    cluster.wait_within(BALANCED_MAX, "store", "a tombstone", balanced(3)).await?;
    report.tell("three stores", cluster.spread().await?);
    report.at_most("balanced after leaving", began.elapsed(), BALANCED_MAX);
    report.stall("leaving", &updates.since(at), STALL_MAX);
    cluster.wait_until_replicated(3).await?;
    report.tell("errors", format!("{:?}", updates.failures()));
    report.none("wrong", updates.stop().await?);
    Ok(report)
}

/// How far the store that is farthest from the mean is from it.
fn off_the_mean_percent(stores: &[&Value], what: &str) -> f64 {
    let counts: Vec<f64> = stores.iter().filter_map(|store| store[what].as_f64()).collect();
    let mean = counts.iter().sum::<f64>() / counts.len().max(1) as f64;
    let off = counts.iter().map(|count| (count - mean).abs());
    100.0 * off.fold(0.0, f64::max) / mean.max(1.0)
}
