//! Wall clocks go wrong.

use std::time::Duration;

use super::updates;
use crate::HarnessError;
use crate::faults::cluster::{Cluster, Layout, Role};
use crate::faults::{Case, Report, Stage};
use crate::pass;
use crate::registers::{Registers, Visitor};

/// How long clients may notice it.
const STALL_MAX: Duration = Duration::from_secs(3);
/// How long each jump is watched.
const WATCH: Duration = Duration::from_secs(3);

/// Every node's clock jumps.
pub const CLOCK_JUMP: Case = Case {
    name: "clock-jump",
    about: "the wall clocks of the placement driver, the stores and the SQL nodes jump by 500 ms, \
            5 s, a minute and an hour, forth and back: reads stay right, timestamps grow",
    quick: false,
    run: |stage| Box::pin(clock_jump(stage)),
};

async fn clock_jump(stage: Stage) -> Result<Report, HarnessError> {
    let mut report = Report::default();
    let mut cluster = Cluster::start(&stage.folder, Layout::default()).await?;
    let updates = updates(&cluster).await?;
    let both = ["sql-1", "sql-2"].map(|name| Visitor::new(&cluster.server(name)));
    let registers = Registers::start(&both, stage.settings.seed).await?;
    let mut last = timestamp(&cluster).await?;
    let mut went_back = Vec::new();
    let mut worst = Duration::ZERO;
    for by_ms in [500, -500, 5_000, -60_000, 3_600_000, 0] {
        for role in [Role::Kv, Role::Sql, Role::Pd] {
            let at = updates.now();
            for (n, name) in cluster.names(role).iter().enumerate() {
                // Not all of a kind alike.
                let by_ms = if n % 2 == 0 { by_ms } else { -by_ms / 2 };
                cluster.node(name).knobs.shift_wall_clock(by_ms)?;
            }
            pass(WATCH / 3).await;
            let now = timestamp(&cluster).await?;
            if now <= last {
                went_back.push(format!("{now} after {last}, clocks of {role:?} off by {by_ms} ms"));
            }
            last = now;
            worst = worst.max(updates.since(at).stall);
        }
    }
    report.at_most("longest stall", worst, STALL_MAX);
    report.none("timestamps that went back", went_back);
    report.tell("errors", format!("{:?}", updates.failures()));
    let findings = registers.stop().await;
    report.tell("operations", findings.operations);
    report.none("registers that are not linearizable", findings.broken);
    report.none("wrong", updates.stop().await?);
    Ok(report)
}

async fn timestamp(cluster: &Cluster) -> Result<u64, HarnessError> {
    let told = cluster.ctl(&["tso"]).await?;
    told[0]["timestamp"].as_u64().ok_or_else(|| HarnessError::Tool {
        command: "cairn ctl tso".to_owned(),
        output: told.to_string(),
    })
}
