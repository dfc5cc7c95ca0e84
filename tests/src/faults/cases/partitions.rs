//! The network loses packets, silently.

use std::time::Duration;

use super::updates;
use crate::HarnessError;
use crate::faults::cluster::{Cluster, Layout, Role};
use crate::faults::{Case, Report, Stage};
use crate::pass;
use crate::registers::{Registers, Visitor};

/// How long the majority may stand still.
const MAJORITY_STALL_MAX: Duration = Duration::from_secs(5);
/// How long clients may stand still when the network is whole again.
const HEAL_STALL_MAX: Duration = Duration::from_secs(5);
/// How long a leader may go on answering reads after it was cut off: its lease, and the
/// operations under way.
const MINORITY_READS_MAX: Duration = Duration::from_secs(2);
/// How long a cut lasts.
const CUT: Duration = Duration::from_secs(8);
/// How long clients are watched afterwards.
const WATCH: Duration = Duration::from_secs(6);

/// The leader loses everybody.
pub const LEADER_ISOLATED: Case = Case {
    name: "leader-isolated",
    about: "the store that leads and everybody else lose all packets to each other",
    quick: true,
    run: |stage| Box::pin(cut_off(stage, true, true)),
};

/// Nobody hears the leader.
pub const LEADER_UNHEARD: Case = Case {
    name: "one-way-unheard",
    about: "everybody loses what the store that leads sends, and it hears all",
    quick: false,
    run: |stage| Box::pin(cut_off(stage, true, false)),
};

/// The leader hears nobody.
pub const LEADER_DEAF: Case = Case {
    name: "one-way-deaf",
    about: "the store that leads loses what everybody sends, and all hear it",
    quick: false,
    run: |stage| Box::pin(cut_off(stage, false, true)),
};

/// The leader loses the other stores, and nobody else loses anything.
pub const STORES_CUT: Case = Case {
    name: "stores-cut",
    about: "the store that leads and the other stores lose all packets to each other; SQL nodes \
            and the placement driver reach all of them",
    quick: false,
    run: |stage| Box::pin(stores_cut(stage)),
};

/// The placement driver is gone for a while.
pub const PD_CUT: Case = Case {
    name: "pd-cut",
    about: "everybody loses the placement driver: reads by key go on, writes wait and come back",
    quick: false,
    run: |stage| Box::pin(pd_cut(stage)),
};

/// The leader of the placement driver loses everybody.
pub const PD_LEADER_ISOLATED: Case = Case {
    name: "pd-leader-isolated",
    about: "the leader of three placement drivers and everybody else lose all packets to each other",
    quick: false,
    run: |stage| Box::pin(pd_leader_isolated(stage)),
};

/// The leader keeps a SQL node and loses the rest.
pub const MINORITY_READS: Case = Case {
    name: "minority-reads",
    about: "the store that leads and a SQL node are cut off together: clients on both sides read \
            and write registers, whose histories must be linearizable",
    quick: false,
    run: |stage| Box::pin(minority_reads(stage)),
};

/// Cuts the leader off from all other nodes: what it sends, what it hears, or both is lost.
async fn cut_off(stage: Stage, unheard: bool, deaf: bool) -> Result<Report, HarnessError> {
    let mut report = Report::default();
    let mut cluster = Cluster::start(&stage.folder, Layout::default()).await?;
    let updates = updates(&cluster).await?;
    let leader = vec![cluster.leader_store().await?];
    let others = cluster.others(&leader);
    let at = updates.now();
    if unheard {
        cluster.cut_one_way(&leader, &others)?;
    }
    if deaf {
        cluster.cut_one_way(&others, &leader)?;
    }
    pass(stage.settings.span(CUT)).await;
    let cut = updates.since(at);
    report.stall("cut", &cut, MAJORITY_STALL_MAX);
    report.at_most("slowest client", cut.worst_client, MAJORITY_STALL_MAX);
    let healed = updates.now();
    cluster.heal()?;
    pass(WATCH).await;
    report.stall("heal", &updates.since(healed), HEAL_STALL_MAX);
    cluster.wait_until_replicated(3).await?;
    report.tell("errors", format!("{:?}", updates.failures()));
    report.none("wrong", updates.stop().await?);
    Ok(report)
}

async fn stores_cut(stage: Stage) -> Result<Report, HarnessError> {
    let mut report = Report::default();
    let mut cluster = Cluster::start(&stage.folder, Layout::default()).await?;
    let updates = updates(&cluster).await?;
    let leader = vec![cluster.leader_store().await?];
    let mut others = cluster.names(Role::Kv);
    others.retain(|name| !leader.contains(name));
    let at = updates.now();
    cluster.cut(&leader, &others)?;
    pass(stage.settings.span(CUT)).await;
    report.stall("cut", &updates.since(at), MAJORITY_STALL_MAX);
    let healed = updates.now();
    cluster.heal()?;
    pass(WATCH).await;
    report.stall("heal", &updates.since(healed), HEAL_STALL_MAX);
    report.tell("errors", format!("{:?}", updates.failures()));
    report.none("wrong", updates.stop().await?);
    Ok(report)
}

async fn pd_cut(stage: Stage) -> Result<Report, HarnessError> {
    /// Reads by key need no timestamp.
    const READ_STALL_MAX: Duration = Duration::from_secs(1);
    let mut report = Report::default();
    let mut cluster = Cluster::start(&stage.folder, Layout::default()).await?;
    let updates = updates(&cluster).await?;
    let writer = Visitor::new(&cluster.servers());
    let reader = Visitor { writes: false, ..writer.clone() };
    let reads = Registers::start(&[writer, reader], stage.settings.seed).await?;
    let pd = cluster.names(Role::Pd);
    let others = cluster.others(&pd);
    let at = reads.now();
    cluster.cut(&pd, &others)?;
    pass(stage.settings.span(CUT)).await;
    report.at_most("reads by key: stall", reads.read_stall(1, at), READ_STALL_MAX);
    let healed = updates.now();
    cluster.heal()?;
    pass(WATCH).await;
    report.stall("heal", &updates.since(healed), HEAL_STALL_MAX);
    report.tell("errors", format!("{:?}", updates.failures()));
    let findings = reads.stop().await;
    report.none("registers that are not linearizable", findings.broken);
    report.none("wrong", updates.stop().await?);
    Ok(report)
}

async fn pd_leader_isolated(stage: Stage) -> Result<Report, HarnessError> {
    let layout = Layout::with_pd_members();
    if layout.pds == 1 {
        return Ok(Report::skip("this build runs one placement driver"));
    }
    let mut report = Report::default();
    let mut cluster = Cluster::start(&stage.folder, layout).await?;
    let updates = updates(&cluster).await?;
    let leader = vec![cluster.pd_leader().await?];
    let others = cluster.others(&leader);
    let at = updates.now();
    cluster.cut(&leader, &others)?;
    pass(stage.settings.span(CUT)).await;
    let cut = updates.since(at);
    report.stall("cut", &cut, MAJORITY_STALL_MAX);
    report.at_most("slowest client", cut.worst_client, MAJORITY_STALL_MAX);
    let healed = updates.now();
    cluster.heal()?;
    pass(WATCH).await;
    report.stall("heal", &updates.since(healed), HEAL_STALL_MAX);
    report.tell("errors", format!("{:?}", updates.failures()));
    report.none("wrong", updates.stop().await?);
    Ok(report)
}

async fn minority_reads(stage: Stage) -> Result<Report, HarnessError> {
    /// Clients on each side. Only one of them writes: it waits for its writes, and the others
    /// must go on reading for as long as they are answered.
    const CLIENTS: usize = 3;
    let mut report = Report::default();
    let mut cluster = Cluster::start(&stage.folder, Layout::default()).await?;
    let sides = [cluster.server("sql-1"), cluster.server("sql-2")];
    let visitor = |n: usize| Visitor {
        servers: sides[n / CLIENTS].clone(),
        writes: n.is_multiple_of(CLIENTS),
    };
    let visitors: Vec<Visitor> = (0..2 * CLIENTS).map(visitor).collect();
    let registers = Registers::start(&visitors, stage.settings.seed).await?;
    pass(WATCH / 2).await;
    let minority = vec![cluster.leader_store().await?, "sql-2".to_owned()];
    let others = cluster.others(&minority);
    let at = registers.now();
    cluster.cut(&minority, &others)?;
    pass(stage.settings.span(CUT)).await;
    let minority_read = registers.last_read(CLIENTS..2 * CLIENTS).saturating_sub(at);
    report.at_most("minority answered reads for", minority_read, MINORITY_READS_MAX);
    let silence = registers.now().saturating_sub(registers.last_read(0..CLIENTS));
    report.at_most("majority's last read was ago", silence, MAJORITY_STALL_MAX / 2);
    cluster.heal()?;
    pass(WATCH).await;
    let findings = registers.stop().await;
    report.tell("operations", findings.operations);
    report.none("registers that are not linearizable", findings.broken);
    Ok(report)
}
