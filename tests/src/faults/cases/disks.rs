//! A store's disk is slow, fails, or is full.

use std::time::Duration;

use super::updates;
use crate::client::{Client, Failure};
use crate::faults::bulk::Bulk;
use crate::faults::cluster::{Cluster, Layout, Role};
use crate::faults::{Case, Report, Stage};
use crate::{HarnessError, eventually, pass, tool};

/// How long a cluster gets to do something about a slow store before it is measured.
const ADJUST: Duration = Duration::from_secs(10);
/// How long the load is watched.
const WATCH: Duration = Duration::from_secs(8);
/// What is left of the throughput after that time, in percent.
const LEFT_MIN: f64 = 80.0;
/// How long writes may stand still when a store ends itself.
const STALL_MAX: Duration = Duration::from_secs(3);
/// How long writes may take to come back when there is room again.
const BACK_MAX: Duration = Duration::from_secs(10);
/// What is written to a full disk: more than logs and memory tables hold in advance.
const BULK_BYTES: u64 = 192 << 20;
/// A disk that a test can fill.
const SMALL_DISK_BYTES: u64 = 2 << 30;

/// The leader's disk becomes slow.
pub const SLOW_SYNC: Case = Case {
    name: "slow-sync-50ms",
    about: "every sync of the store that leads takes 50 ms longer",
    quick: false,
    run: |stage| Box::pin(slow_sync(stage, Duration::from_millis(50))),
};

/// The leader's disk becomes very slow.
pub const VERY_SLOW_SYNC: Case = Case {
    name: "slow-sync-1s",
    about: "every sync of the store that leads takes 1 s longer",
    quick: false,
    run: |stage| Box::pin(slow_sync(stage, Duration::from_secs(1))),
};

/// The leader's disk fails.
pub const SYNC_FAILS: Case = Case {
    name: "sync-fails",
    about: "syncs of the store that leads fail with EIO: it must not acknowledge anything after \
            that, and end itself",
    quick: false,
    run: |stage| Box::pin(sync_fails(stage)),
};

/// A disk is full.
pub const FULL_DISK: Case = Case {
    name: "full-disk",
    about: "the disk of a follower is full, then that of the store that leads: reads go on, \
            writes go on or tell why not, and come back when there is room",
    quick: false,
    run: |stage| Box::pin(full_disk(stage)),
};

async fn slow_sync(stage: Stage, delay: Duration) -> Result<Report, HarnessError> {
    let mut report = Report::default();
    let mut cluster = Cluster::start(&stage.folder, Layout::default()).await?;
    let updates = updates(&cluster).await?;
    let at = updates.now();
    pass(WATCH).await;
    let usual = updates.since(at).rate;
    let leader = cluster.leader_store().await?;
    cluster.node(&leader).knobs.delay_syncs(delay)?;
    let at = updates.now();
    pass(ADJUST).await;
    report.tell("updates/s before", usual.round());
    report.tell("in the first 10 s", updates.since(at).rate.round());
    let at = updates.now();
    pass(stage.settings.span(WATCH)).await;
    let adjusted = updates.since(at);
    report.tell("after that", adjusted.rate.round());
    report.at_least_percent("throughput left", 100.0 * adjusted.rate / usual, LEFT_MIN);
    report.stall("after that", &adjusted, STALL_MAX);
    cluster.node(&leader).knobs.delay_syncs(Duration::ZERO)?;
    report.tell("errors", format!("{:?}", updates.failures()));
    report.none("wrong", updates.stop().await?);
    Ok(report)
}

/// The placement driver's disk becomes slow.
pub const PD_SLOW_SYNC: Case = Case {
    name: "pd-slow-sync-500ms",
    about: "every sync of the leader of three placement drivers takes 500 ms longer",
    quick: false,
    run: |stage| Box::pin(pd_slow_sync(stage)),
};

async fn pd_slow_sync(stage: Stage) -> Result<Report, HarnessError> {
    const DELAY: Duration = Duration::from_millis(500);
    /// In percent: schema versions and timestamps are made durable ahead of need, other writes
    /// of the placement driver wait.
    const PD_LEFT_MIN: f64 = 50.0;
    let layout = Layout::with_pd_members();
    if layout.pds == 1 {
        return Ok(Report::skip("this build runs one placement driver"));
    }
    let mut report = Report::default();
    let mut cluster = Cluster::start(&stage.folder, layout).await?;
    let updates = updates(&cluster).await?;
    let at = updates.now();
    pass(WATCH).await;
    let usual = updates.since(at).rate;
    let leader = cluster.pd_leader().await?;
    cluster.node(&leader).knobs.delay_syncs(DELAY)?;
    let at = updates.now();
    pass(stage.settings.span(ADJUST)).await;
    let slow = updates.since(at);
    report.stall("slow", &slow, STALL_MAX);
    report.at_least_percent("throughput left", 100.0 * slow.rate / usual, PD_LEFT_MIN);
    report.tell("it leads still", cluster.pd_leader().await? == leader);
    report.tell("errors", format!("{:?}", updates.failures()));
    report.none("wrong", updates.stop().await?);
    Ok(report)
}

async fn sync_fails(stage: Stage) -> Result<Report, HarnessError> {
    let mut report = Report::default();
    let mut cluster = Cluster::start(&stage.folder, Layout::default()).await?;
    let updates = updates(&cluster).await?;
    let leader = cluster.leader_store().await?;
    let at = updates.now();
    cluster.node(&leader).knobs.fail_syncs(true)?;
    pass(WATCH).await;
    report.stall("failure", &updates.since(at), STALL_MAX);
    report.holds("it ended itself", !cluster.node(&leader).runs());
    cluster.node(&leader).knobs.fail_syncs(false)?;
    cluster.start_node(&leader).await?;
    cluster.wait_until_replicated(3).await?;
    report.tell("errors", format!("{:?}", updates.failures()));
    report.none("wrong", updates.stop().await?);
    Ok(report)
}

async fn full_disk(stage: Stage) -> Result<Report, HarnessError> {
    /// What reads and writes are answered by a store without room.
    const DISK_FULL: u16 = 1021;
    let mut report = Report::default();
    let layout = Layout { disk_bytes: Some(SMALL_DISK_BYTES), ..Layout::default() };
    let mut cluster = Cluster::start(&stage.folder, layout).await?;
    let updates = updates(&cluster).await?;
    let at = updates.now();
    pass(WATCH).await;
    let usual = updates.since(at).rate;

    let leader = cluster.leader_store().await?;
    let follower = cluster.followers_of(&leader).remove(0);
    let mut bulk = Bulk::start(&cluster.servers(), 1).await?;
    fill(&mut cluster, &follower)?;
    let at = updates.now();
    bulk.write(BULK_BYTES).await;
    pass(WATCH).await;
    let full = updates.since(at);
    report.stall("follower full", &full, STALL_MAX);
    report.tell("updates/s", format!("{:.0} of {usual:.0}", full.rate));
    free(&mut cluster, &follower)?;
    let runs = cluster.node(&follower).runs();
    report.holds("it goes on without a restart", runs);
    if !runs {
        cluster.start_node(&follower).await?;
    }
    cluster.wait_until_replicated(3).await?;

    let leader = cluster.leader_store().await?;
    fill(&mut cluster, &leader)?;
    bulk.write(BULK_BYTES).await;
    pass(WATCH).await;
    report.tell("bulk writes", format!("{} done, {:?}", bulk.done(), bulk.failures()));
    let mut client = Client::new(cluster.servers(), 0);
    let read = client.first::<u64>("SELECT n FROM faults.counters WHERE id = 0").await;
    report.holds("reads go on", matches!(read, Ok(Some(_))));
    let write = client.execute("UPDATE faults.counters SET n = n WHERE id = 0").await;
    let told = match &write {
        Ok(()) => true,
        Err(Failure::Refused { code, .. }) => *code == DISK_FULL,
        Err(_) => false,
    };
    report.holds("writes go on or tell why not", told);
    report.tell("a write", write.map_or_else(|failure| failure.label(), |()| "done".to_owned()));
    free(&mut cluster, &leader)?;
    report.holds("it goes on without a restart", cluster.node(&leader).runs());
    cluster.start_all().await?;
    let back = eventually(BACK_MAX, || async {
        updates.await_successes(1, Duration::from_secs(1)).await.then_some(())
    });
    report.holds("writes come back", back.await.is_some());
    for name in cluster.names(Role::Kv) {
        report.holds(&format!("{name} runs"), cluster.node(&name).runs());
    }
    report.tell("errors", format!("{:?}", updates.failures()));
    let mut wrong = updates.stop().await?;
    // That is what a full disk is told as.
    wrong.retain(|found| !found.contains("code: 1021"));
    report.none("wrong", wrong);
    Ok(report)
}

/// Takes all that is left of a store's disk.
fn fill(cluster: &mut Cluster, name: &str) -> Result<(), HarnessError> {
    let ballast = cluster.node(name).data_dir.join("ballast").display().to_string();
    // It ends with an error: there is no room left.
    let _ = tool("dd", &["if=/dev/zero", &format!("of={ballast}"), "bs=64k"], "");
    Ok(())
}

/// Gives it back.
fn free(cluster: &mut Cluster, name: &str) -> Result<(), HarnessError> {
    let ballast = cluster.node(name).data_dir.join("ballast");
    std::fs::remove_file(&ballast)
        .map_err(|error| HarnessError::io(format!("remove {}", ballast.display()), error))
}
