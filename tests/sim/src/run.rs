//! One run: a cluster comes to life, clients work, things go wrong, everything heals, and
//! what happened is judged.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cairn_kv_client::{KvClient, KvError};
use cairn_types::sabotage::Bug;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use tokio::sync::Notify;
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::{Instant, sleep, timeout};

use crate::check::replicas;
use crate::client;
use crate::cluster::Cluster;
use crate::faults::Faults;
use crate::gc;
use crate::plan::{Plan, Scale, WorkloadKind};
use crate::workload::{self, Workloads, session};
use crate::world::{Dice, Node, World};

/// A cluster must have all its replicas this long after its birth.
const BIRTH_MAX: Duration = Duration::from_secs(120);
/// Work must go on this long after the last fault.
const RECOVERY_MAX: Duration = Duration::from_secs(40);
/// Sessions end their last operation within this time.
const LAST_OPERATION_MAX: Duration = Duration::from_secs(60);
/// Sessions go on for so long when everything is whole again.
const HEALTHY_TIME: Duration = Duration::from_secs(3);
/// Nothing takes longer than this in all.
const RUN_MAX: Duration = Duration::from_secs(3_600);

/// How a run is made.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// What decides everything.
    pub seed: u64,
    /// How large it is.
    pub scale: Scale,
    /// Whether events are kept as text.
    pub keeps_lines: bool,
    /// A bug to plant; only builds with the feature `sabotage` have them.
    pub bug: Option<Bug>,
    /// What clients do; of everything something when absent.
    pub work: Option<WorkloadKind>,
}

impl Options {
    /// A run of the seed as it is, without a record in text.
    pub fn new(seed: u64, scale: Scale) -> Options {
        Options { seed, scale, keeps_lines: false, bug: None, work: None }
    }
}

/// What came of a run.
#[derive(Clone, Debug)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// Hash over every event.
    pub hash: u64,
    /// Number of events.
    pub events: u64,
    /// Virtual time that passed.
    pub elapsed: Duration,
    /// Operations that were done.
    pub operations: u64,
    /// What does not hold; empty is good.
    pub failures: Vec<String>,
    /// The events, if they were kept.
    pub lines: Vec<String>,
}

thread_local! {
    /// Panics of this thread's run.
    static PANICS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Notes panics instead of printing them: tokio catches those of tasks.
fn note_panics() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let default = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let simulates = tokio::runtime::Handle::try_current().is_ok();
            if simulates {
                PANICS.with_borrow_mut(|panics| panics.push(info.to_string()));
            } else {
                default(info);
            }
        }));
    });
}

/// Runs a seed.
pub fn run(options: Options) -> Report {
    #[cfg(feature = "sabotage")]
    cairn_types::sabotage::plant(options.bug);
    note_panics();
    PANICS.take();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without I/O needs nothing");
    let mut report = runtime.block_on(simulate(options));
    drop(runtime);
    report.failures.extend(PANICS.take().into_iter().map(|panic| format!("panic: {panic}")));
    report
}

async fn simulate(options: Options) -> Report {
    let mut rng = SmallRng::seed_from_u64(options.seed ^ 0x0ddb_a115_ca1b_0a7e);
    let mut plan = Plan::draw(&mut rng, options.scale);
    if let Some(work) = options.work {
        plan.workloads = vec![(work, 1)];
    }
    // The last SQL node is the admin's and the judge's.
    let admin = Node::Client(plan.clients + 1);
    let nodes = (1..=plan.members)
        .map(Node::Pd)
        .chain((1..=plan.stores).map(Node::Store))
        .chain((1..=plan.clients + 1).map(Node::Client));
    let world = World::new(options.seed, nodes, options.keeps_lines);
    world.note(format_args!("{plan:?}"));
    let cluster = Cluster::new(world.clone(), plan);
    let workloads = Workloads::new(&cluster);
    if timeout(RUN_MAX, live(&cluster, &workloads, admin)).await.is_err() {
        world.fail(format!("the run does not end within {RUN_MAX:?}"));
    }
    let (hash, events) = world.trace.digest();
    Report {
        seed: options.seed,
        hash,
        events,
        elapsed: world.elapsed(),
        operations: workloads.done(),
        failures: world.failures(),
        lines: world.trace.lines(),
    }
}

/// The life of a cluster, from its birth to its judgement.
async fn live(cluster: &Arc<Cluster>, workloads: &Arc<Workloads>, admin: Node) {
    let world = &cluster.world;
    cluster.start_all();
    if !is_born(cluster).await {
        return;
    }
    let judge = client::connect(cluster, admin);
    if let Err(error) = workloads.set_up(&judge).await {
        world.fail(format!("the bank does not open: {error}"));
        return;
    }
    if let Err(error) = split(cluster, &judge).await {
        world.fail(format!("regions are not split: {error}"));
        return;
    }
    world.note(format_args!("the cluster is whole"));

    let stop = Arc::new(AtomicBool::new(false));
    let mut nodes = Vec::new();
    let mut deaths = Vec::new();
    for number in 1..=cluster.plan.clients {
        let death = Arc::new(Notify::new());
        let node = SqlNode {
            cluster: cluster.clone(),
            workloads: workloads.clone(),
            node: Node::Client(number),
            stop: stop.clone(),
        };
        deaths.push(death.clone());
        nodes.push(tokio::spawn(node.live(death)));
    }
    let collection = tokio::spawn(gc::drive(cluster.clone(), workloads.clone(), admin));
    Faults::new(cluster.clone(), workloads.clone(), deaths, admin).run().await;

    let recovers = recovers(cluster, workloads).await;
    sleep(HEALTHY_TIME).await;
    stop.store(true, Ordering::Relaxed);
    for node in nodes {
        match timeout(LAST_OPERATION_MAX, node).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => world.fail(format!("a session ended: {error}")),
            Err(_) => world.fail("a session does not end its operation".into()),
        }
    }
    if !recovers {
        return;
    }
    // That work goes on in this weather was shown above, with repeats. A last read is judged by
    // what it says and has one request's time: loss again and again would only exhaust that. What
    // was done wrong in bad weather is on the disks and in the histories.
    world.network.calm();
    // Reads everything, which also clears the locks of the dead.
    if let Err(error) = workloads.judge(&judge).await {
        world.fail(format!("the healed cluster cannot be read: {error}"));
    }
    replicas::settle(cluster).await;
    collection.abort();
    if let Err(error) = workloads.judge(&judge).await {
        world.fail(format!("the settled cluster cannot be read: {error}"));
    }
}

/// Splits regions where the plan wants it, so that transactions span several.
async fn split(cluster: &Arc<Cluster>, client: &Arc<KvClient>) -> Result<(), KvError> {
    for _ in 0..cluster.plan.splits {
        let key = workload::any_key(&cluster.world, Dice::Plan);
        client.split_regions(vec![key], Duration::from_secs(20)).await?;
    }
    Ok(())
}

/// Whether every region has its replicas in time.
async fn is_born(cluster: &Arc<Cluster>) -> bool {
    let deadline = Instant::now() + BIRTH_MAX;
    loop {
        let complaints = replicas::look(cluster);
        if complaints.is_empty() {
            return true;
        }
        if Instant::now() >= deadline {
            cluster.world.fail(format!("no cluster after {BIRTH_MAX:?}: {complaints:?}"));
            return false;
        }
        sleep(Duration::from_millis(200)).await;
    }
}

/// Whether clients get on with their work soon after the last fault: on every key.
async fn recovers(cluster: &Arc<Cluster>, workloads: &Arc<Workloads>) -> bool {
    let world = &cluster.world;
    let healed = Instant::now();
    let probe = client::connect(cluster, Node::Client(cluster.plan.clients + 1));
    loop {
        match workloads.probe(&probe).await {
            Ok(()) => {
                world.note(format_args!("recovered in {:?}", healed.elapsed()));
                return true;
            }
            Err(error) if healed.elapsed() >= RECOVERY_MAX => {
                let taken = healed.elapsed();
                world.fail(format!("{taken:?} after the last fault: {error}"));
                return false;
            }
            Err(error) => {
                world.note(format_args!("probe: {error}"));
                sleep(Duration::from_millis(200)).await;
            }
        }
    }
}

/// A SQL node with its sessions.
struct SqlNode {
    cluster: Arc<Cluster>,
    workloads: Arc<Workloads>,
    node: Node,
    stop: Arc<AtomicBool>,
}

impl SqlNode {
    /// Lives, dies and comes back until it is told to stop.
    async fn live(self, death: Arc<Notify>) {
        let world = &self.cluster.world;
        while !self.stop.load(Ordering::Relaxed) {
            let dead = Arc::new(AtomicBool::new(false));
            let client = client::connect_mortal(&self.cluster, self.node, dead.clone());
            let sessions: Vec<JoinHandle<()>> = (0..self.cluster.plan.sessions)
                .map(|_| {
                    let think_ms_max = self.cluster.plan.think_ms_max;
                    let (workloads, stop) = (self.workloads.clone(), self.stop.clone());
                    tokio::spawn(session(workloads, client.clone(), think_ms_max, stop))
                })
                .collect();
            let handles: Vec<AbortHandle> = sessions.iter().map(JoinHandle::abort_handle).collect();
            tokio::select! {
                biased;
                () = death.notified() => {
                    world.note(format_args!("{} dies", self.node));
                    dead.store(true, Ordering::Relaxed);
                    handles.iter().for_each(AbortHandle::abort);
                }
                ended = futures::future::join_all(sessions) => {
                    if ended.iter().any(Result::is_err) {
                        world.fail(format!("a session of {} panicked", self.node));
                    }
                }
            }
            sleep(world.millis(Dice::Faults, 50, 1_000)).await;
        }
    }
}
