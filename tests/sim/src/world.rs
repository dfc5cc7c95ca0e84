//! What every part of a run shares: the seed's dice, virtual time, the record of events,
//! the hosts with their clocks, and the network.
//!
//! **Time** is tokio's, paused: it stands still while anything can run and then jumps to
//! the next timer. Everything runs on one thread, so a seed decides the whole run.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use cairn_kv::raftstore::MonotonicTime;
use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::network::Network;
use crate::trace::Trace;

/// Wall-clock time at which every run begins, in milliseconds.
const EPOCH_MS: u64 = 1_750_000_000_000;

/// A process of the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Node {
    /// A member of the placement driver.
    Pd(u8),
    /// A store.
    Store(u8),
    /// A SQL node's part that talks to the KV tier.
    Client(u8),
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Node::Pd(number) => write!(f, "pd{number}"),
            Node::Store(number) => write!(f, "kv{number}"),
            Node::Client(number) => write!(f, "sql{number}"),
        }
    }
}

/// Streams of randomness, apart so that one more draw here does not change all of there.
#[derive(Clone, Copy, Debug)]
pub enum Dice {
    /// The plan of the run.
    Plan,
    /// Faults.
    Faults,
    /// The network.
    Network,
    /// Disks and the order of threads.
    Machine,
    /// What clients do.
    Workload,
}

const DICE: usize = 5;

/// A process' host: its clocks, whether it is stopped, and what runs on it.
pub struct Host {
    start: Instant,
    /// How much faster than true time the monotonic clock runs, in millionths.
    drift_ppm: AtomicI64,
    /// How far the wall clock is off.
    wall_offset_ms: AtomicI64,
    paused: AtomicBool,
    resumed: Notify,
    tasks: Mutex<Vec<AbortHandle>>,
}

impl Host {
    fn new(start: Instant) -> Host {
        Host {
            start,
            drift_ppm: AtomicI64::new(0),
            wall_offset_ms: AtomicI64::new(0),
            paused: AtomicBool::new(false),
            resumed: Notify::new(),
            tasks: Mutex::new(Vec::new()),
        }
    }

    /// Sets how fast the monotonic clock runs; only before the process first starts, so
    /// that the clock never goes back.
    pub fn set_drift_ppm(&self, ppm: i64) {
        self.drift_ppm.store(ppm, Ordering::Relaxed);
    }

    /// The wall clock jumps.
    pub fn set_wall_offset_ms(&self, offset_ms: i64) {
        self.wall_offset_ms.store(offset_ms, Ordering::Relaxed);
    }

    /// The process stops where it is, or goes on.
    pub fn set_paused(&self, paused: bool) {
        self.paused.store(paused, Ordering::Relaxed);
        if !paused {
            self.resumed.notify_waiters();
        }
    }

    /// Whether the process stands still.
    pub fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Relaxed)
    }

    /// Waits while the process stands still.
    pub async fn runs(&self) {
        while self.is_paused() {
            let resumed = self.resumed.notified();
            if self.is_paused() {
                resumed.await;
            }
        }
    }

    fn monotonic_nanos(&self) -> u64 {
        let true_nanos = self.start.elapsed().as_nanos() as i128;
        let ppm = i128::from(self.drift_ppm.load(Ordering::Relaxed));
        (true_nanos + true_nanos * ppm / 1_000_000) as u64
    }

    /// Starts a task that ends with the process.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let handle = tokio::spawn(task).abort_handle();
        let mut tasks = self.tasks.lock();
        tasks.retain(|task| !task.is_finished());
        tasks.push(handle);
    }

    /// Ends every task of the process, at once and wherever it stands.
    pub fn kill(&self) {
        for task in std::mem::take(&mut *self.tasks.lock()) {
            task.abort();
        }
        self.set_paused(false);
    }
}

impl cairn_kv::raftstore::Clock for Host {
    fn now(&self) -> MonotonicTime {
        MonotonicTime(0).plus(Duration::from_secs(1) + Duration::from_nanos(self.monotonic_nanos()))
    }
}

impl cairn_pd::clock::Clock for Host {
    fn unix_ms(&self) -> u64 {
        let true_ms = EPOCH_MS + self.start.elapsed().as_millis() as u64;
        true_ms.saturating_add_signed(self.wall_offset_ms.load(Ordering::Relaxed))
    }

    fn monotonic_ms(&self) -> u64 {
        self.monotonic_nanos() / 1_000_000
    }
}

/// What the parts of a run share.
pub struct World {
    /// The seed of the run.
    pub seed: u64,
    /// Everything that happened.
    pub trace: Trace,
    /// Between the processes.
    pub network: Network,
    start: Instant,
    hosts: BTreeMap<Node, Arc<Host>>,
    dice: [Mutex<SmallRng>; DICE],
    /// Orders what clients did: one number per beginning and per end.
    moments: AtomicU64,
    failures: Mutex<Vec<String>>,
}

impl World {
    /// A world of these processes at the beginning of time.
    pub fn new(seed: u64, nodes: impl IntoIterator<Item = Node>, keeps_lines: bool) -> Arc<World> {
        let start = Instant::now();
        let hosts = nodes.into_iter().map(|node| (node, Arc::new(Host::new(start)))).collect();
        let dice = std::array::from_fn(|stream| {
            Mutex::new(SmallRng::seed_from_u64(seed.rotate_left(17) ^ (stream as u64 + 1) << 56))
        });
        Arc::new(World {
            seed,
            trace: Trace::new(keeps_lines),
            network: Network::default(),
            start,
            hosts,
            dice,
            moments: AtomicU64::new(0),
            failures: Mutex::new(Vec::new()),
        })
    }

    /// The host of a process of this world.
    pub fn host(&self, node: Node) -> &Arc<Host> {
        &self.hosts[&node]
    }

    /// Every process there can be.
    pub fn nodes(&self) -> impl Iterator<Item = Node> {
        self.hosts.keys().copied()
    }

    /// Time since the beginning.
    pub fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// Rolls one stream's dice.
    pub fn roll<R>(&self, dice: Dice, roll: impl FnOnce(&mut SmallRng) -> R) -> R {
        roll(&mut self.dice[dice as usize].lock())
    }

    /// A duration in whole milliseconds of `[low, high]`.
    pub fn millis(&self, dice: Dice, low: u64, high: u64) -> Duration {
        Duration::from_millis(self.roll(dice, |rng| rng.random_range(low..=high.max(low))))
    }

    /// Notes an event.
    pub fn note(&self, event: fmt::Arguments<'_>) {
        self.trace.note(self.elapsed(), event);
    }

    /// The next moment in the order of what clients did.
    pub fn moment(&self) -> u64 {
        self.moments.fetch_add(1, Ordering::Relaxed)
    }

    /// A check does not hold.
    pub fn fail(&self, reason: String) {
        self.note(format_args!("FAILED {reason}"));
        self.failures.lock().push(reason);
    }

    /// What does not hold.
    pub fn failures(&self) -> Vec<String> {
        self.failures.lock().clone()
    }
}
