//! A process stands still and goes on, as if no time had passed.

use std::time::Duration;

use super::updates;
use crate::HarnessError;
use crate::faults::cluster::{Cluster, Layout};
use crate::faults::{Case, Report, Stage};
use crate::pass;
use crate::registers::{Registers, Visitor};

/// How long writes may stand still when the leader stops.
const STOP_STALL_MAX: Duration = Duration::from_secs(3);
/// How long they may stand still when it goes on.
const RESUME_STALL_MAX: Duration = Duration::from_secs(1);
/// How long it stands still.
const PAUSE: Duration = Duration::from_secs(8);
/// How long clients are watched afterwards.
const WATCH: Duration = Duration::from_secs(4);

/// The leader is stopped for a while.
pub const LEADER_STOPPED: Case = Case {
    name: "leader-stopped",
    about: "SIGSTOP of the store that leads, then SIGCONT: it must not believe in its lease",
    quick: true,
    run: |stage| Box::pin(leader_stopped(stage)),
};

/// The leader of the placement driver is stopped for a while.
pub const PD_LEADER_STOPPED: Case = Case {
    name: "pd-leader-stopped",
    about: "SIGSTOP of the leader of three placement drivers, then SIGCONT: timestamps grow",
    quick: false,
    run: |stage| Box::pin(pd_leader_stopped(stage)),
};

async fn pd_leader_stopped(stage: Stage) -> Result<Report, HarnessError> {
    /// An election, and that clients find the new leader.
    const STALL_MAX: Duration = Duration::from_secs(5);
    let layout = Layout::with_pd_members();
    if layout.pds == 1 {
        return Ok(Report::skip("this build runs one placement driver"));
    }
    let mut report = Report::default();
    let mut cluster = Cluster::start(&stage.folder, layout).await?;
    let updates = updates(&cluster).await?;
    let leader = cluster.pd_leader().await?;
    let at = updates.now();
    cluster.node(&leader).signal("STOP")?;
    pass(stage.settings.span(PAUSE)).await;
    report.stall("stop", &updates.since(at), STALL_MAX);
    let resumed = updates.now();
    cluster.node(&leader).signal("CONT")?;
    pass(WATCH).await;
    report.stall("resume", &updates.since(resumed), RESUME_STALL_MAX);
    report.tell("errors", format!("{:?}", updates.failures()));
    // A timestamp that went back would lose updates.
    report.none("wrong", updates.stop().await?);
    Ok(report)
}

async fn leader_stopped(stage: Stage) -> Result<Report, HarnessError> {
    let mut report = Report::default();
    let mut cluster = Cluster::start(&stage.folder, Layout::default()).await?;
    let updates = updates(&cluster).await?;
    let both = ["sql-1", "sql-2"].map(|name| Visitor::new(&cluster.server(name)));
    let registers = Registers::start(&both, stage.settings.seed).await?;
    let leader = cluster.leader_store().await?;
    let at = updates.now();
    cluster.node(&leader).signal("STOP")?;
    pass(stage.settings.span(PAUSE)).await;
    report.stall("stop", &updates.since(at), STOP_STALL_MAX);
    let resumed = updates.now();
    cluster.node(&leader).signal("CONT")?;
    pass(WATCH).await;
    report.stall("resume", &updates.since(resumed), RESUME_STALL_MAX);
    report.tell("errors", format!("{:?}", updates.failures()));
    let findings = registers.stop().await;
    report.tell("operations", findings.operations);
    report.none("registers that are not linearizable", findings.broken);
    report.none("wrong", updates.stop().await?);
    Ok(report)
}
