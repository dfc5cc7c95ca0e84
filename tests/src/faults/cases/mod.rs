//! The cases, by what goes wrong.

mod capacity;
mod clocks;
mod corruption;
mod disks;
mod histories;
mod kills;
mod links;
mod members;
mod partitions;
mod pauses;

use std::sync::Arc;
use std::time::Duration;

use super::cluster::Cluster;
use super::{Case, Report};
use crate::client::Client;
use crate::ledger::{self, Told, Writers};
use crate::updates::Updates;
use crate::{HarnessError, Servers, eventually, pass};

/// Workers that increment.
const WORKERS: usize = 8;
/// Successes that show that the load runs as usual.
const WARM_UP: usize = 200;
/// How long that may take.
const WARM_UP_DEADLINE: Duration = Duration::from_secs(30);
/// How long the load is watched before something goes wrong.
const BEFORE: Duration = Duration::from_secs(2);

/// Every case, in the order they are run.
pub const CASES: &[Case] = &[
    kills::LEADER_KILLED,
    kills::PD_LEADER_KILLED,
    kills::SQL_KILLED,
    kills::ROLLING_KILLS,
    kills::ALL_KILLED,
    partitions::LEADER_ISOLATED,
    partitions::LEADER_UNHEARD,
    partitions::LEADER_DEAF,
    partitions::STORES_CUT,
    partitions::PD_CUT,
    partitions::PD_LEADER_ISOLATED,
    partitions::MINORITY_READS,
    pauses::LEADER_STOPPED,
    pauses::PD_LEADER_STOPPED,
    links::SLOW_LINK,
    disks::SLOW_SYNC,
    disks::VERY_SLOW_SYNC,
    disks::PD_SLOW_SYNC,
    disks::SYNC_FAILS,
    disks::FULL_DISK,
    clocks::CLOCK_JUMP,
    members::STORE_REPLACED,
    members::STORES_BALANCED,
    capacity::GROW_AND_SHRINK,
    corruption::LOG_TAIL_TORN,
    corruption::SST_BIT_FLIP,
    histories::HISTORIES,
];

/// Starts the load that measures stalls, and waits until it runs as usual.
async fn updates(cluster: &Cluster) -> Result<Updates, HarnessError> {
    updates_on(&cluster.servers()).await
}

/// As [`updates`], over these servers only.
async fn updates_on(servers: &Servers) -> Result<Updates, HarnessError> {
    let updates = Updates::start(servers, WORKERS).await?;
    if !updates.await_successes(WARM_UP, WARM_UP_DEADLINE).await {
        let what = format!("{WARM_UP} updates ({:?})", updates.failures());
        return Err(HarnessError::Overdue { what, limit: WARM_UP_DEADLINE });
    }
    pass(BEFORE).await;
    Ok(updates)
}

/// Starts writers that keep a ledger, and waits until they run as usual.
async fn ledger_start(cluster: &Cluster, seed: u64) -> Result<(Arc<Told>, Writers), HarnessError> {
    /// Writes that show that they run.
    const WRITES: u64 = 50;
    let told = Arc::new(Told::default());
    let client = tokio::sync::Mutex::new(Client::new(cluster.servers(), 0));
    let limit = WARM_UP_DEADLINE;
    let prepared = eventually(limit, || async {
        client.lock().await.run(async |conn| ledger::prepare(conn).await).await.ok()
    });
    let overdue = |what: &str| HarnessError::Overdue { what: what.to_owned(), limit };
    prepared.await.ok_or_else(|| overdue("making the ledger"))?;
    let writers = Writers::start(&told, &cluster.servers(), 0, seed);
    if !told.await_writes(WRITES, limit).await {
        return Err(overdue("the first entries of the ledger"));
    }
    Ok((told, writers))
}

/// Checks the ledger as soon as it can be read.
async fn ledger_check(
    report: &mut Report,
    cluster: &Cluster,
    told: &Told,
) -> Result<(), HarnessError> {
    let client = tokio::sync::Mutex::new(Client::new(cluster.servers(), 0));
    let limit = WARM_UP_DEADLINE;
    let checked = eventually(limit, || async {
        client.lock().await.run(async |conn| ledger::violations(conn, told).await).await.ok()
    });
    let overdue = || HarnessError::Overdue { what: "reading the ledger".to_owned(), limit };
    report.none("violations of the ledger", checked.await.ok_or_else(overdue)?);
    report.tell("writes", told.writes());
    Ok(())
}
