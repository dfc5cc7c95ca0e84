//! Everything goes wrong in turn under transactions whose histories are judged: isolation levels
//! must hold, whatever becomes of processes, networks, clocks, regions and tables.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, SeedableRng};
use serde_json::Value;
use tokio::time::Instant;

use super::{WARM_UP_DEADLINE, ledger_check, ledger_start};
use crate::client::Client;
use crate::faults::cluster::{Cluster, Layout, Role};
use crate::faults::{Case, Report, Stage};
use crate::histories::{Histories, Settings};
use crate::{HarnessError, eventually, pass};

/// From one fault to the next.
const FAULT_EVERY: Duration = Duration::from_secs(10);
/// How long one goes on.
const FAULT_SPAN: Duration = Duration::from_secs(4);
/// Transactions without which nothing is being tested, in the time of one fault and the next.
const COMMITS_MIN: u64 = 20;
/// Old versions go this soon, so that garbage collection meets transactions at work.
const GC_SECONDS: &str = "20";

/// Faults of every kind under transactions that are judged.
pub const HISTORIES: Case = Case {
    name: "histories",
    about: "a fault every 10 s (kills, partitions, pauses, clocks, splits, merges, transfers, \
            schema changes; garbage collection after 20 s) under transactions at all levels, \
            whose histories must fit them",
    quick: false,
    run: |stage| Box::pin(histories(stage)),
};

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// kill -9 of one node of this kind.
    Kill(Role),
    /// kill -9 of everything.
    KillAll,
    /// A store is cut off from everybody.
    Isolate,
    /// A store hears nobody, but is heard.
    Deaf,
    /// Stores do not hear one of them, clients do.
    CutStores,
    /// SIGSTOP of one node of this kind.
    Stop(Role),
    /// The wall clocks jump.
    Clocks,
    /// The table's regions are cut.
    Split,
    /// A region joins its neighbour.
    Merge,
    /// Regions get other leaders.
    Transfer,
    /// An index comes or goes.
    SchemaChange,
}

const FAULTS: [Fault; 14] = [
    Fault::Kill(Role::Kv),
    Fault::Kill(Role::Pd),
    Fault::Kill(Role::Sql),
    Fault::KillAll,
    Fault::Isolate,
    Fault::Deaf,
    Fault::CutStores,
    Fault::Stop(Role::Kv),
    Fault::Stop(Role::Pd),
    Fault::Clocks,
    Fault::Split,
    Fault::Merge,
    Fault::Transfer,
    Fault::SchemaChange,
];

async fn histories(stage: Stage) -> Result<Report, HarnessError> {
    /// Without a fixed time: each fault once.
    const SPAN: Duration = FAULT_EVERY.saturating_mul(FAULTS.len() as u32);
    let mut report = Report::default();
    let mut rng = StdRng::seed_from_u64(stage.settings.seed);
    let gc = ["--gc-life-time-s", GC_SECONDS, "--gc-run-interval-s", GC_SECONDS];
    let sql_options = gc.map(str::to_owned).to_vec();
    let layout = Layout { sql_options, ..Layout::with_pd_members() };
    let mut cluster = Cluster::start(&stage.folder, layout).await?;
    let settings = Settings::new(&stage.folder, stage.settings.seed);
    let histories = Histories::start(&cluster.servers(), settings).await?;
    let (told, writers) = ledger_start(&cluster, stage.settings.seed).await?;
    let began = Instant::now();
    let (mut faults, mut quiet) = (0, Vec::new());
    let mut bag: Vec<Fault> = Vec::new();
    while began.elapsed() < stage.settings.span(SPAN) {
        let at = Instant::now();
        if bag.is_empty() {
            bag = FAULTS.to_vec();
            bag.shuffle(&mut rng);
        }
        let fault = bag.pop().unwrap_or(Fault::Split);
        inflict(&mut cluster, fault, &mut rng).await?;
        faults += 1;
        if !histories.await_commits(COMMITS_MIN, WARM_UP_DEADLINE).await {
            quiet.push(format!("nothing was committed for {WARM_UP_DEADLINE:?} after {fault:?}"));
        }
        pass(FAULT_EVERY.saturating_sub(at.elapsed())).await;
    }
    report.tell("faults", faults);
    report.none("standstills", quiet);
    cluster.wait_until_replicated(3).await?;
    let findings = histories.stop().await;
    let outcomes = (findings.committed, findings.aborted, findings.unknown);
    report.tell("transactions committed, aborted, unknown", format!("{outcomes:?}"));
    report.tell("histories", findings.rounds);
    report.tell("errors", format!("{:?}", findings.failures));
    report.none("errors that do not pass", findings.unexpected);
    report.none("anomalies", findings.violations);
    writers.stop().await;
    ledger_check(&mut report, &cluster, &told).await?;
    report.none("rows and entries that disagree", check_table(&cluster).await?);
    Ok(report)
}

/// Lets something go wrong for a while.
async fn inflict(
    cluster: &mut Cluster,
    fault: Fault,
    rng: &mut StdRng,
) -> Result<(), HarnessError> {
    let one_of = |cluster: &Cluster, role: Role, rng: &mut StdRng| -> String {
        cluster.names(role).choose(rng).cloned().unwrap_or_default()
    };
    match fault {
        Fault::Kill(role) => {
            let name = one_of(cluster, role, rng);
            cluster.node(&name).kill();
            pass(FAULT_SPAN).await;
            cluster.start_node(&name).await
        }
        Fault::KillAll => {
            cluster.kill_all();
            cluster.start_all().await
        }
        Fault::Isolate | Fault::Deaf | Fault::CutStores => {
            let store = vec![one_of(cluster, Role::Kv, rng)];
            match fault {
                Fault::Isolate => cluster.cut(&store, &cluster.others(&store))?,
                Fault::Deaf => cluster.cut_one_way(&cluster.others(&store), &store)?,
                _ => cluster.cut(&store, &cluster.followers_of(&store[0]))?,
            }
            pass(FAULT_SPAN).await;
            cluster.heal()
        }
        Fault::Stop(role) => {
            let name = one_of(cluster, role, rng);
            cluster.node(&name).signal("STOP")?;
            pass(FAULT_SPAN).await;
            cluster.node(&name).signal("CONT")
        }
        Fault::Clocks => {
            for role in [Role::Kv, Role::Sql, Role::Pd] {
                for name in cluster.names(role) {
                    let by_ms = rng.random_range(-60_000..=60_000);
                    cluster.node(&name).knobs.shift_wall_clock(by_ms)?;
                }
            }
            Ok(())
        }
        Fault::Split | Fault::Merge | Fault::Transfer => order(cluster, fault, rng).await,
        Fault::SchemaChange => change_schema(cluster, rng).await,
    }
}

/// Has PD do something to a few regions. What it refuses, since something else is under way
/// there, is no trouble: the next one will do.
async fn order(cluster: &Cluster, fault: Fault, rng: &mut StdRng) -> Result<(), HarnessError> {
    const REGIONS: usize = 3;
    let regions = cluster.ctl(&["region"]).await?;
    let regions = regions.as_array().cloned().unwrap_or_default();
    let stores = cluster.ctl(&["store"]).await?;
    let stores: Vec<u64> =
        stores.as_array().into_iter().flatten().filter_map(|store| store["id"].as_u64()).collect();
    let id = |region: &Value| region["id"].as_u64().unwrap_or_default().to_string();
    for _ in 0..REGIONS {
        let at = rng.random_range(0..regions.len().max(2) - 1);
        let Some(region) = regions.get(at) else { continue };
        let (one, next) = (id(region), regions.get(at + 1).map(id).unwrap_or_default());
        let store = stores.choose(rng).copied().unwrap_or_default().to_string();
        let order: &[&str] = match fault {
            Fault::Split => &["operator", "add", "split-region", &one],
            Fault::Merge => &["operator", "add", "merge-region", &one, &next],
            _ => &["operator", "add", "transfer-leader", &one, &store],
        };
        // Refused: see above.
        let _ = cluster.steer(order).await;
    }
    Ok(())
}

/// Adds an index, or drops it when it is there.
async fn change_schema(cluster: &Cluster, rng: &mut StdRng) -> Result<(), HarnessError> {
    const LIMIT: Duration = Duration::from_secs(120);
    let client = tokio::sync::Mutex::new(Client::new(cluster.servers(), rng.random_range(0..2)));
    let last = std::sync::Mutex::new(None);
    let changed = eventually(LIMIT, || async {
        let mut client = client.lock().await;
        let add = "ALTER TABLE history.lists ADD INDEX by_value (v(16))";
        match client.execute(add).await {
            Ok(()) => Some(()),
            // It is there, so that this time it goes.
            Err(_) => match client.execute("ALTER TABLE history.lists DROP INDEX by_value").await {
                Ok(()) => Some(()),
                Err(failure) => {
                    *last.lock().expect("no panic") = Some(failure);
                    None
                }
            },
        }
    });
    let what = || format!("a schema change: {:?}", last.lock().expect("no panic"));
    changed.await.ok_or_else(|| HarnessError::Overdue { what: what(), limit: LIMIT })
}

/// What `ADMIN CHECK TABLE` has to say of the lists.
async fn check_table(cluster: &Cluster) -> Result<Vec<String>, HarnessError> {
    use crate::client::Failure;
    let client = tokio::sync::Mutex::new(Client::new(cluster.servers(), 0));
    let limit = WARM_UP_DEADLINE;
    let checked = eventually(limit, || async {
        match client.lock().await.execute("ADMIN CHECK TABLE history.lists").await {
            Ok(()) => Some(Vec::new()),
            Err(Failure::Refused { code: 8223, message }) => Some(vec![message]),
            Err(_) => None,
        }
    });
    let what = "ADMIN CHECK TABLE".to_owned();
    checked.await.ok_or(HarnessError::Overdue { what, limit })
}
