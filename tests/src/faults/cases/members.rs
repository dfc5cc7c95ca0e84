//! Stores come and go.

use std::time::Duration;

use super::{ledger_check, ledger_start};
use crate::HarnessError;
use crate::faults::cluster::{Cluster, Layout};
use crate::faults::{Case, Report, Stage};
use tokio::time::Instant;

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
    let off = format!("@{id}");
    cluster
        .wait_for_regions("three replicas on the other stores", |regions| {
            regions.iter().all(|region| {
                let peers = region["peers"].as_array().cloned().unwrap_or_default();
                let texts: Vec<&str> = peers.iter().filter_map(|peer| peer.as_str()).collect();
                texts.len() == 3 && !texts.iter().any(|peer| peer.ends_with(&off))
            })
        })
        .await?;
    report.at_most("moved", began.elapsed(), REPLACED_MAX);
    cluster.node(&leaving).kill();
    let alive = told.await_writes(20, Duration::from_secs(10)).await;
    report.holds("writes go on without it", alive);
    writers.stop().await;
    ledger_check(&mut report, &cluster, &told).await?;
    Ok(report)
}
