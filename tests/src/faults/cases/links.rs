//! Packets arrive, but late.

use std::time::Duration;

use super::updates;
use crate::HarnessError;
use crate::faults::cluster::{Cluster, Layout};
use crate::faults::{Case, Report, Stage};
use crate::pass;

/// How late.
const DELAY: Duration = Duration::from_millis(100);
/// How long the load is watched at each speed.
const WATCH: Duration = Duration::from_secs(5);
/// What is left of the throughput when a follower is far away, in percent. The proxies take their
/// share of the machine.
const FOLLOWER_LEFT_MIN: f64 = 50.0;
/// How long writes may stand still when a link becomes slow.
const STALL_MAX: Duration = Duration::from_secs(3);

/// How often a leader is killed so that another store leads.
const TRIES_MAX: u32 = 8;

/// One store is far away.
pub const SLOW_LINK: Case = Case {
    name: "slow-link",
    about: "everything to and from one store takes 100 ms longer: first a follower, which the \
            majority does not wait for, then the store that leads",
    quick: false,
    run: |stage| Box::pin(slow_link(stage)),
};

async fn slow_link(stage: Stage) -> Result<Report, HarnessError> {
    let mut report = Report::default();
    let mut cluster = Cluster::start(&stage.folder, Layout::default()).await?;
    let leader = cluster.leader_store().await?;
    let far = cluster.followers_of(&leader).remove(0);
    let link = cluster.lead_through_proxies(&far).await?;
    let updates = updates(&cluster).await?;
    let at = updates.now();
    pass(WATCH).await;
    let usual = updates.since(at).rate;
    link.delay(DELAY);
    let at = updates.now();
    pass(WATCH).await;
    let far_follower = updates.since(at);
    report.stall("far follower", &far_follower, STALL_MAX);
    report.at_least_percent("throughput", 100.0 * far_follower.rate / usual, FOLLOWER_LEFT_MIN);

    // Whoever leads is killed until the far store does.
    link.delay(Duration::ZERO);
    let mut leader = leader;
    for _ in 0..TRIES_MAX {
        if leader == far {
            break;
        }
        cluster.node(&leader).kill();
        pass(STALL_MAX).await;
        cluster.start_node(&leader).await?;
        cluster.wait_until_replicated(3).await?;
        leader = cluster.leader_store().await?;
    }
    if leader != far {
        report.tell("far leader", "never elected");
        report.none("wrong", updates.stop().await?);
        return Ok(report);
    }
    let at = updates.now();
    link.delay(DELAY);
    pass(WATCH).await;
    let far_leader = updates.since(at);
    report.stall("far leader", &far_leader, STALL_MAX);
    report.tell("updates/s", format!("{:.0} of {usual:.0}", far_leader.rate));
    report.tell("errors", format!("{:?}", updates.failures()));
    report.none("wrong", updates.stop().await?);
    Ok(report)
}
