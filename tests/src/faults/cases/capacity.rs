//! Tables grow and shrink.

use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use super::updates;
use crate::client::Client;
use crate::faults::bulk::{Bulk, ROW_BYTES};
use crate::faults::cluster::{Cluster, Layout, Role};
use crate::faults::{Case, Report, Stage};
use crate::{HarnessError, eventually, tool};

/// Much data comes, most of it goes.
pub const GROW_AND_SHRINK: Case = Case {
    name: "grow-and-shrink",
    about: "rows are inserted as fast as they go in, then nine of ten are deleted: regions are cut \
            in step and merge again, no write stalls, the disk space returns after collection",
    quick: false,
    run: |stage| Box::pin(grow_and_shrink(stage)),
};

async fn grow_and_shrink(stage: Stage) -> Result<Report, HarnessError> {
    const BULK_BYTES: u64 = 512 << 20;
    /// So many regions come of it.
    const REGIONS: u64 = 32;
    /// How long any client may wait for a write.
    const STALL_MAX: Duration = Duration::from_secs(1);
    /// How long regions may take to be cut after the last row.
    const CUT_MAX: Duration = Duration::from_secs(30);
    /// How long collection and merges may take after the last deletion.
    const SHRUNK_MAX: Duration = Duration::from_secs(300);
    /// What may be left of the disk space, in percent: a tenth of the rows, and room for what
    /// the engines have not compacted yet.
    const LEFT_MAX: u64 = 40;
    /// Rows whose deletion is one transaction.
    const ROWS_PER_DELETE: u64 = 640;

    let mut report = Report::default();
    let bytes = stage.settings.bytes(BULK_BYTES);
    let split_bytes = bytes / REGIONS;
    let option = |name: &str, value: String| [name.to_owned(), value];
    let layout = Layout {
        kv_options: option("--region-split-bytes", split_bytes.to_string()).to_vec(),
        sql_options: [
            option("--gc-life-time-s", "10".to_owned()),
            option("--gc-run-interval-s", "10".to_owned()),
        ]
        .concat(),
        ..Layout::default()
    };
    let cluster = Cluster::start(&stage.folder, layout).await?;
    for (name, value) in [
        ("split-merge-interval", "1s".to_owned()),
        ("max-merge-region-size", (split_bytes / 2).to_string()),
    ] {
        cluster.steer(&["config", "set", name, &value]).await?;
    }
    let updates = updates(&cluster).await?;
    let mut bulk = Bulk::start(&cluster.servers(), 4).await?;
    let at = updates.now();
    let began = Instant::now();
    bulk.write(bytes).await;
    let took = began.elapsed();
    report.tell("MiB/s", (bytes >> 20) as f64 / took.as_secs_f64());
    report.none("refused rows", bulk.failures().into_keys().collect());
    report.at_most("longest 1 MiB insert", bulk.longest(), STALL_MAX);
    report.stall("inserting", &updates.since(at), STALL_MAX);
    let is_cut = |regions: &[Value]| regions.len() as u64 >= REGIONS / 2;
    report.tell("regions at the last row", regions(&cluster).await?);
    cluster.wait_within(CUT_MAX, "region", "regions are cut", is_cut).await?;
    let most_regions = regions(&cluster).await?;
    let most_bytes = data_bytes(&cluster)?;
    report.tell("regions", most_regions);
    report.tell("data MiB", most_bytes >> 20);

    let at = updates.now();
    let began = Instant::now();
    let mut client = Client::new(cluster.servers(), 0);
    let mut refused = Vec::new();
    for first in (0..bulk.rows()).step_by(ROWS_PER_DELETE as usize) {
        let last = first + ROWS_PER_DELETE - 1;
        let delete =
            format!("DELETE FROM faults.bulk WHERE id BETWEEN {first} AND {last} AND id % 10 <> 0");
        if let Err(failure) = client.execute(&delete).await {
            refused.push(format!("{failure:?}"));
        }
    }
    report.none("refused deletions", refused);
    report.tell("deleting s", began.elapsed().as_secs());
    report.stall("deleting", &updates.since(at), STALL_MAX);

    let at = updates.now();
    let began = Instant::now();
    let shrunk = eventually(SHRUNK_MAX, || async {
        let regions = regions(&cluster).await.ok()?;
        let bytes = data_bytes(&cluster).ok()?;
        (regions <= most_regions / 2 && bytes * 100 <= most_bytes * LEFT_MAX).then_some(())
    });
    report.holds("shrinks", shrunk.await.is_some());
    report.tell("shrunk after s", began.elapsed().as_secs());
    report.tell("regions left", regions(&cluster).await?);
    report.tell("data MiB left", data_bytes(&cluster)? >> 20);
    report.stall("shrinking", &updates.since(at), STALL_MAX);
    let count = format!("SELECT COUNT(*) FROM faults.bulk WHERE LENGTH(v) = {ROW_BYTES}");
    let left = client.first::<u64>(&count).await.ok().flatten();
    report.holds("every tenth row is there", left == Some(bulk.rows().div_ceil(10)));
    cluster.wait_until_replicated(3).await?;
    report.tell("errors", format!("{:?}", updates.failures()));
    report.none("wrong", updates.stop().await?);
    Ok(report)
}

async fn regions(cluster: &Cluster) -> Result<usize, HarnessError> {
    Ok(cluster.ctl(&["region"]).await?.as_array().map_or(0, Vec::len))
}

/// What the data engines of all stores take of the disk: logs are of a bounded size of their own.
fn data_bytes(cluster: &Cluster) -> Result<u64, HarnessError> {
    let stores = cluster.nodes.iter().filter(|node| node.role == Role::Kv);
    let bytes = stores.map(|node| {
        let folder = node.data_dir.join("db").display().to_string();
        let told = tool("du", &["--bytes", "--summarize", &folder], "")?;
        let first = told.split_whitespace().next();
        Ok(first.and_then(|word| word.parse::<u64>().ok()).unwrap_or_default())
    });
    bytes.sum()
}
