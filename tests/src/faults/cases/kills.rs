//! A process is killed without a chance to say goodbye.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::time::Instant;

use super::{BEFORE, ledger_check, ledger_start, updates, updates_on};
use crate::faults::cluster::{Cluster, Layout, Role};
use crate::faults::{Case, Report, Stage};
use crate::ledger::Writers;
use crate::{HarnessError, pass};

/// How long writes may stand still when a leader has died.
const LEADER_STALL_MAX: Duration = Duration::from_secs(3);
/// What others may notice of a dead SQL node.
const BYSTANDER_STALL_MAX: Duration = Duration::from_secs(1);
/// How long writes may stand still when the leader of the placement driver has died.
const PD_STALL_MAX: Duration = Duration::from_secs(5);
/// How long a cluster that was killed as a whole may take to serve again.
const BACK_MAX: Duration = Duration::from_secs(10);
/// How long clients are watched after a kill.
const WATCH: Duration = Duration::from_secs(6);

/// The store that leads dies, and comes back.
pub const LEADER_KILLED: Case = Case {
    name: "leader-killed",
    about: "kill -9 of the store that leads, under updates; it comes back, and the next one dies",
    quick: false,
    run: |stage| Box::pin(leader_killed(stage)),
};

/// A SQL node dies.
pub const SQL_KILLED: Case = Case {
    name: "sql-killed",
    about: "kill -9 of one of two SQL nodes: clients of the other one notice nothing",
    quick: false,
    run: |stage| Box::pin(sql_killed(stage)),
};

/// The placement driver's leader dies, and comes back.
pub const PD_LEADER_KILLED: Case = Case {
    name: "pd-leader-killed",
    about: "kill -9 of the leader of three placement drivers, under updates; it comes back",
    quick: false,
    run: |stage| Box::pin(pd_leader_killed(stage)),
};

/// One after another dies and comes back.
pub const ROLLING_KILLS: Case = Case {
    name: "rolling-kills",
    about: "kill -9 of one node of each kind after another, under updates and transfers, which \
            are checked in the end",
    quick: false,
    run: |stage| Box::pin(rolling_kills(stage)),
};

/// All die at once.
pub const ALL_KILLED: Case = Case {
    name: "all-killed",
    about: "kill -9 of every process at once, under transfers, which are checked each time",
    quick: false,
    run: |stage| Box::pin(all_killed(stage)),
};

async fn leader_killed(stage: Stage) -> Result<Report, HarnessError> {
    let mut report = Report::default();
    let mut cluster = Cluster::start(&stage.folder, Layout::default()).await?;
    let updates = updates(&cluster).await?;
    let before = updates.since(updates.now().saturating_sub(BEFORE));
    report.tell("updates/s before", before.rate.round());
    for round in 1..=stage.settings.rounds(2) {
        let leader = cluster.leader_store().await?;
        let at = updates.now();
        cluster.node(&leader).kill();
        pass(WATCH).await;
        report.stall(&format!("kill {round}"), &updates.since(at), LEADER_STALL_MAX);
        let back = updates.now();
        cluster.start_node(&leader).await?;
        cluster.wait_until_replicated(3).await?;
        report.at_most("return: stall", updates.since(back).stall, LEADER_STALL_MAX);
    }
    report.tell("errors", format!("{:?}", updates.failures()));
    report.none("wrong", updates.stop().await?);
    Ok(report)
}

async fn sql_killed(stage: Stage) -> Result<Report, HarnessError> {
    let mut report = Report::default();
    let mut cluster = Cluster::start(&stage.folder, Layout::default()).await?;
    let bystanders = updates_on(&cluster.server("sql-2")).await?;
    let at = bystanders.now();
    cluster.node("sql-1").kill();
    pass(WATCH).await;
    report.stall("clients of the other node", &bystanders.since(at), BYSTANDER_STALL_MAX);
    cluster.start_node("sql-1").await?;
    report.none("wrong", bystanders.stop().await?);
    Ok(report)
}

async fn pd_leader_killed(stage: Stage) -> Result<Report, HarnessError> {
    let layout = Layout::with_pd_members();
    if layout.pds == 1 {
        return Ok(Report::skip("this build runs one placement driver"));
    }
    let mut report = Report::default();
    let mut cluster = Cluster::start(&stage.folder, layout).await?;
    let updates = updates(&cluster).await?;
    for round in 1..=stage.settings.rounds(2) {
        let leader = cluster.pd_leader().await?;
        let at = updates.now();
        cluster.node(&leader).kill();
        pass(WATCH).await;
        report.stall(&format!("kill {round}"), &updates.since(at), PD_STALL_MAX);
        let back = updates.now();
        cluster.start_node(&leader).await?;
        pass(WATCH / 2).await;
        report.at_most("return: stall", updates.since(back).stall, PD_STALL_MAX);
    }
    report.tell("errors", format!("{:?}", updates.failures()));
    report.none("wrong", updates.stop().await?);
    Ok(report)
}

async fn rolling_kills(stage: Stage) -> Result<Report, HarnessError> {
    /// A dead node stays away this long.
    const AWAY: Duration = Duration::from_secs(3);
    /// Without a fixed time, every kind dies this often.
    const SPAN: Duration = Duration::from_secs(45);
    let mut report = Report::default();
    let mut rng = StdRng::seed_from_u64(stage.settings.seed);
    let layout = Layout::with_pd_members();
    let mut kinds = vec![Role::Kv, Role::Sql];
    if layout.pds > 1 {
        kinds.push(Role::Pd);
    } else {
        report.tell("placement drivers", "1, which is not killed");
    }
    let mut cluster = Cluster::start(&stage.folder, layout).await?;
    let updates = updates(&cluster).await?;
    let (told, writers) = ledger_start(&cluster, stage.settings.seed).await?;
    let began = Instant::now();
    let mut kills = 0;
    let mut worst = Duration::ZERO;
    while began.elapsed() < stage.settings.span(SPAN) {
        let names = cluster.names(kinds[kills % kinds.len()]);
        let name = &names[rng.random_range(0..names.len())];
        let at = updates.now();
        cluster.node(name).kill();
        pass(AWAY).await;
        cluster.start_node(name).await?;
        cluster.wait_until_replicated(3).await?;
        // The next one dies when this one has had time to be of use again.
        pass(AWAY / 3).await;
        worst = worst.max(updates.since(at).stall);
        kills += 1;
    }
    report.tell("kills", kills);
    report.at_most("longest stall", worst, PD_STALL_MAX);
    report.tell("errors", format!("{:?}", updates.failures()));
    writers.stop().await;
    report.none("wrong", updates.stop().await?);
    ledger_check(&mut report, &cluster, &told).await?;
    Ok(report)
}

async fn all_killed(stage: Stage) -> Result<Report, HarnessError> {
    /// Ids of one round lie apart from the next one's.
    const IDS_PER_ROUND: u64 = 1_000_000;
    /// Writes before everything is killed: any number below this.
    const WRITES_BEFORE_MAX: u64 = 200;
    let mut report = Report::default();
    let mut rng = StdRng::seed_from_u64(stage.settings.seed);
    let mut cluster = Cluster::start(&stage.folder, Layout::with_pd_members()).await?;
    let (told, writers) = ledger_start(&cluster, stage.settings.seed).await?;
    let mut writers = Some(writers);
    let mut longest = Duration::ZERO;
    let rounds = stage.settings.rounds(4);
    for round in 1..=rounds {
        let running = match writers.take() {
            Some(running) => running,
            None => {
                let first = round * IDS_PER_ROUND;
                Writers::start(&told, &cluster.servers(), first, stage.settings.seed)
            }
        };
        let more = rng.random_range(1..WRITES_BEFORE_MAX);
        if !told.await_writes(more, Duration::from_secs(30)).await {
            report.none("standstill", vec![format!("round {round}: nothing is written")]);
            break;
        }
        cluster.kill_all();
        let began = Instant::now();
        cluster.start_all().await?;
        if !told.await_writes(1, Duration::from_secs(60)).await {
            report.none("standstill", vec![format!("round {round}: not serving again")]);
            break;
        }
        longest = longest.max(began.elapsed());
        running.stop().await;
        ledger_check(&mut report, &cluster, &told).await?;
    }
    report.tell("rounds", rounds);
    report.at_most("longest time until serving", longest, BACK_MAX);
    Ok(report)
}
